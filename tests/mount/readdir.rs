//! `docs/semantics.md`: *readdir*.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::drive::{Builder, drive_test, run_within, say};
use crate::common::tree;

fn names(dir: &Path) -> Vec<OsString> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect()
}

#[test]
fn a_listing_holds_what_the_site_holds_in_a_stable_order_and_nothing_that_is_no_file() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        for i in 0..300 {
            tree::write(&site.path().join(format!("f{i}")), i, 1);
        }
        fs::create_dir(site.path().join("empty")).unwrap();
        mknodat(CWD, site.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        drop(std::os::unix::net::UnixListener::bind(site.path().join("socket")).unwrap());
        let mut drive = Builder::local(site.path()).build().mounted();
        let first = names(&drive.project());
        let mut sorted = first.clone();
        sorted.sort();
        let mut expected: Vec<OsString> = (0..300).map(|i| format!("f{i}").into()).collect();
        expected.push("empty".into());
        expected.sort();
        assert_eq!(sorted, expected);
        assert_eq!(names(&drive.path("empty")), Vec::<OsString>::new());
        drive.remount();
        assert_eq!(names(&drive.project()), first, "the order is stable");
    });
}

#[test]
fn a_listing_that_goes_on_while_the_folder_changes_sees_what_stayed_exactly_once() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        for i in 0..2000 {
            fs::write(site.path().join(format!("stays.{i}")), b"").unwrap();
            fs::write(site.path().join(format!("goes.{i}")), b"").unwrap();
        }
        let drive = Builder::local(site.path()).build().mounted();
        let mut listing = fs::read_dir(drive.project()).unwrap();
        let mut seen: BTreeMap<OsString, usize> = BTreeMap::new();
        for entry in listing.by_ref().take(10) {
            *seen.entry(entry.unwrap().file_name()).or_default() += 1;
        }
        for i in 0..2000 {
            fs::remove_file(site.path().join(format!("goes.{i}"))).unwrap();
            fs::write(site.path().join(format!("comes.{i}")), b"").unwrap();
        }
        drive.scan();
        assert!(
            fs::metadata(drive.path("comes.7")).is_ok() && fs::metadata(drive.path("goes.7")).is_err(),
            "the change is known"
        );
        for entry in listing {
            *seen.entry(entry.unwrap().file_name()).or_default() += 1;
        }
        let often: Vec<_> = seen.iter().filter(|(_, n)| **n != 1).collect();
        assert!(often.is_empty(), "seen more than once: {often:?}");
        let missed: Vec<_> = (0..2000)
            .map(|i| OsString::from(format!("stays.{i}")))
            .filter(|n| !seen.contains_key(n))
            .collect();
        assert!(missed.is_empty(), "not seen: {missed:?}");
        assert_eq!(
            names(&drive.project()).len(),
            4000,
            "a new listing shows what is there now"
        );
    });
}

/// A farm machine that has just mounted the drive is told a path and opens it.
#[test]
fn the_first_look_at_a_folder_waits_until_it_is_listed() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a/b/c/d.exr"), 1, 10);
        // Each answer of the site takes its time, so that the first look comes before it.
        let build = || Builder::local(site.path()).site("link-delay", "300ms").build();
        let mut drive = build();
        drive.mount();
        let begun = Instant::now();
        let read = fs::read(drive.path("a/b/c/d.exr"));
        let took = begun.elapsed();
        assert_eq!(read.unwrap(), tree::bytes(1, 0, 10));
        assert!(
            took > Duration::from_millis(300),
            "it was known already after {took:?}: that proves nothing"
        );
        assert!(drive.path("a/b/c/none").symlink_metadata().is_err());
        let mut drive = build();
        drive.mount();
        assert_eq!(names(&drive.project()), ["a"]);
        assert_eq!(names(&drive.path("a/b/c")), ["d.exr"]);
    });
}

#[test]
fn a_first_look_ends_by_itself_and_when_it_is_interrupted() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a/b/c/d.exr"), 1, 10);
        let builder = Builder::local(site.path()).site("link-delay", "1h");
        let mut drive = builder.set("hydration.read-deadline", "4s").build();
        drive.mount();
        let mut ls = Command::new("ls").arg(drive.project()).spawn().unwrap();
        std::thread::park_timeout(Duration::from_millis(500));
        assert!(ls.try_wait().unwrap().is_none(), "it waits");
        let pid = rustix::process::Pid::from_child(&ls);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begun = Instant::now();
        ls.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(names(&drive.project()), Vec::<OsString>::new());
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(6) && took > Duration::from_secs(2),
            "{took:?}"
        );
        // What did not come is not waited for again and again.
        let begun = Instant::now();
        for n in 0..50 {
            assert!(drive.path(format!("a{n}")).symlink_metadata().is_err());
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_folder_of_100_000_entries_lists_in_bounded_time() {
    const ENTRIES: usize = 100_000;
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let big = site.path().join("cache.bgeo");
        fs::create_dir(&big).unwrap();
        for i in 0..ENTRIES {
            fs::write(big.join(format!("particles.{i:06}.bgeo.sc")), b"").unwrap();
        }
        let drive = Builder::local(site.path()).build();
        let begun = Instant::now();
        let mut drive = drive.mounted();
        let scanned = begun.elapsed();
        let count = |limit| {
            let begun = Instant::now();
            let out = run_within(limit, Command::new("ls").arg("-f").arg(drive.path("cache.bgeo")));
            assert!(out.status.success(), "{out:?}");
            (out.stdout.split(|b| *b == b'\n').count() - 1, begun.elapsed())
        };
        let (entries, cold) = count(Duration::from_secs(20));
        // `.` and `..` are listed as well.
        assert_eq!(entries, ENTRIES + 2);
        let (again, warm) = count(Duration::from_secs(20));
        assert_eq!(again, ENTRIES + 2);
        let begun = Instant::now();
        assert!(fs::metadata(drive.path("cache.bgeo/particles.099999.bgeo.sc")).is_ok());
        let looked = begun.elapsed();
        say(&format!(
            "100,000 entries: scanned and mounted in {scanned:.1?}, listed in {cold:.2?}, again in {warm:.2?}, one looked up in {looked:.1?}"
        ));
        drive.unmount();
    });
}
