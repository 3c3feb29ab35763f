//! `backlot abort`: the way out of a drive that hangs, whatever its daemon does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::child;
use crate::common::drive::{Builder, Drive, drive_test, eventually, is_root, mounts_at, say, wait_within};
use crate::common::tree;

const MIB: u64 = 1 << 20;
/// How long freeing everybody may take.
const FREED: Duration = Duration::from_secs(5);

/// A drive with cold files; what is published waits for ten minutes.
fn drive() -> (TempDir, Drive) {
    let site = tempfile::tempdir().unwrap();
    for (name, seed) in [("cold/a", 1), ("cold/b", 2), ("cold/c", 3)] {
        tree::write(&site.path().join(name), seed, 4 * MIB);
    }
    let drive = Builder::local(site.path())
        .set("publish.settle", "10min")
        .build()
        .mounted();
    (site, drive)
}

/// Requests of a connection that wait for an answer.
fn waiting(mount_point: &Path) -> u64 {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == mount_point.to_str());
    let Some(minor) = line.and_then(|line| line.split(' ').nth(2)?.split(':').nth(1)) else {
        return 0;
    };
    let text = fs::read_to_string(format!("/sys/fs/fuse/connections/{minor}/waiting"));
    text.map_or(0, |n| n.trim().parse().unwrap())
}

/// Aborts and returns what it says; it must be quick.
fn abort(drive: &Drive, more: &[&str]) -> (Option<i32>, Value) {
    let args = ["abort", "--json"].iter().chain(more);
    let begun = Instant::now();
    let out = drive.run(args);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let said = String::from_utf8_lossy(&out.stdout);
    let report =
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{}", String::from_utf8_lossy(&out.stderr)));
    (out.status.code(), report)
}

#[test]
fn a_stopped_daemons_readers_are_freed_and_nothing_that_was_saved_is_lost() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let saved = drive.path("publish/comp.exr");
        fs::create_dir_all(saved.parent().unwrap()).unwrap();
        tree::write(&saved, 9, MIB);
        // Known to the kernel before the daemon stops, so that each waits for itself.
        for name in ["cold/a", "cold/b"] {
            fs::metadata(drive.path(name)).unwrap();
        }
        drive.signal(Signal::STOP);
        let before = waiting(drive.mount_point());
        let mut reading = child::reading(&drive.path("cold/a"));
        let mut mapping = child::mapping(&drive.path("cold/b"), 3 * MIB);
        let mut mapping = mapping.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if is_root() {
            eventually("both hang", || waiting(drive.mount_point()) >= before + 2);
        }
        assert_eq!((reading.try_wait().unwrap(), mapping.try_wait().unwrap()), (None, None));

        let pid = drive.pid();
        let begun = Instant::now();
        let (code, report) = abort(&drive, &[]);
        assert_eq!(code, Some(0), "{report}");
        let status = wait_within(&mut reading, FREED).expect("the reader is free");
        assert_eq!(status.code(), Some(1), "{status:?}");
        wait_within(&mut mapping, FREED).expect("the one that maps is free");
        say(&format!(
            "abort freed a stopped daemon's readers after {:.2?}",
            begun.elapsed()
        ));
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert_eq!(
            report["daemon"],
            serde_json::json!({ "pid": pid, "runs": true }),
            "{report}"
        );
        assert_eq!(report["unsent"]["files"], 1, "{report}");
        assert_eq!(report["unsent"]["bytes"], MIB, "{report}");
        let connection = &report["connections"][0];
        assert_eq!(connection["was_mounted"], true, "{report}");
        assert!(!is_root() || connection["waiting"].as_u64().unwrap() >= 2, "{report}");

        drive.signal(Signal::KILL);
        drive.wait_end();
        drive.mount();
        assert_eq!(tree::first_wrong(9, 0, &fs::read(&saved).unwrap()), None);
        drive.tell(["queue", "ls"]);
        drop(site);
    });
}

#[test]
fn a_mapping_that_waits_for_its_bytes_gets_sigbus() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("cold"), 1, 16 * MIB);
        // Slow, so that it hangs in a page fault, with the daemon at work.
        let mut drive = Builder::local(site.path())
            .site("link-rate", "500KB")
            .set("hydration.read-deadline", "60s")
            .build()
            .mounted();
        let mut mapping = child::mapping(&drive.path("cold"), 0);
        let mut mapping = mapping.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("bytes arrive", || drive.fetched() > 0);
        drive.signal(Signal::STOP);
        let (code, report) = abort(&drive, &["--kill"]);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report["daemon"]["runs"], false, "{report}");
        let status = wait_within(&mut mapping, FREED).expect("it is free");
        assert_eq!(status.signal(), Some(7), "SIGBUS: {status:?}");
        drive.wait_end();
        drive.mount();
        drive.unmount();
    });
}

#[test]
fn what_was_detached_before_is_found_by_its_daemon() {
    drive_test(|| {
        if !is_root() {
            return;
        }
        let (_site, drive) = drive();
        // Opened by the child alone: whatever this process has open there, each program that it starts would flush first.
        let mut reading = Command::new("sh")
            .args(["-c", r#"exec 3<"$0"; echo in; read go; exec cat <&3"#])
            .arg(drive.path("cold/a"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(reading.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        drive.signal(Signal::STOP);
        let before = waiting(drive.mount_point());
        writeln!(reading.stdin.take().unwrap(), "go").unwrap();
        std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
        eventually("it hangs", || waiting(drive.mount_point()) > before);
        // umount(8) would ask the drive, and hang as well.
        rustix::mount::unmount(drive.mount_point(), UnmountFlags::DETACH).unwrap();
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert!(reading.try_wait().unwrap().is_none(), "out of sight, it hangs still");
        let (code, report) = abort(&drive, &["--kill"]);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report["connections"][0]["was_mounted"], false, "{report}");
        let status = wait_within(&mut reading, FREED).expect("it is free");
        assert!(!status.success());
    });
}

#[test]
fn a_drive_that_answers_is_left_alone_unless_forced() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let refused = drive.refused(["abort"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.said.contains("does not hang") && refused.said.contains("backlot unmount"),
            "{refused:?}"
        );
        assert!(fs::read(drive.path("cold/a")).is_ok());
        let (code, report) = abort(&drive, &["--force"]);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(mounts_at(drive.mount_point()), 0);
        // It ends by itself, and not as if somebody had unmounted it: under a service manager it is to come back.
        assert_eq!(drive.wait_end().code(), Some(1), "{}", drive.log());
        assert!(drive.log().contains("was cut off"), "{}", drive.log());
        let refused = drive.refused(["abort"]);
        assert_eq!(refused.code, Some(3), "nothing is mounted: {refused:?}");
    });
}

#[test]
fn a_killed_daemons_mount_is_cleared_and_what_is_not_sent_is_told() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let saved = drive.path("publish/comp.exr");
        fs::create_dir_all(saved.parent().unwrap()).unwrap();
        tree::write(&saved, 9, MIB);
        drive.kill9();
        assert_eq!(mounts_at(drive.mount_point()), 1, "the crash left its mount");
        let out = drive.tell(["abort"]);
        assert_eq!(mounts_at(drive.mount_point()), 0);
        for word in ["no daemon", "not at its site yet: 1 file", "nothing of it is lost"] {
            assert!(out.contains(word), "{word}: {out}");
        }
        drive.mount();
    });
}

#[test]
fn another_drive_that_answers_is_left_alone_as_well_however_it_is_named() {
    drive_test(|| {
        let (_site, ours) = drive();
        let (_other_site, mut other) = drive();
        let links = tempfile::tempdir().unwrap();
        let link = links.path().join("link");
        std::os::unix::fs::symlink(ours.mount_point(), &link).unwrap();
        for (named, drive) in [(other.mount_point(), &other), (&link, &ours)] {
            let refused = ours.refused(["abort".as_ref(), named.as_os_str()]);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            assert!(refused.said.contains("does not hang"), "{refused:?}");
            assert_eq!(mounts_at(drive.mount_point()), 1);
            assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path("cold/a")).unwrap()), None);
        }
        fs::metadata(other.path("cold/b")).unwrap();
        other.signal(Signal::STOP);
        let mut reading = child::reading(&other.path("cold/b"));
        let named = other.mount_point().to_str().unwrap().to_owned();
        let (code, report) = abort(&ours, &[&named]);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(mounts_at(other.mount_point()), 0);
        let status = wait_within(&mut reading, FREED).expect("the reader is free");
        assert!(!status.success(), "{status:?}");
        other.kill9();
    });
}
