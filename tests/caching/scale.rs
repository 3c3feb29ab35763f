//! Very many pinned files: how long it takes, what it keeps in memory, and that nobody else notices. `BACKLOT_TEST_PINS` sets how
//! many (2,000; the long gate takes 100,000).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::drive::{Builder, Drive, drive_test_within, eventually_within, say};
use crate::common::tree::Tree;

/// Files of a folder.
const FOLDER: usize = 100;

/// The memory of a process that is not files, in bytes.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// The slowest of some listings with attributes, of folders that nobody has looked at.
fn slowest_listing(drive: &Drive, folders: &mut impl Iterator<Item = std::path::PathBuf>) -> Duration {
    let look = |folder: &Path| {
        let begun = Instant::now();
        let rows = fs::read_dir(drive.path(folder)).unwrap().flatten();
        assert!(rows.map(|row| row.metadata().unwrap().len()).sum::<u64>() > 0);
        begun.elapsed()
    };
    folders.take(5).map(|folder| look(&folder)).max().unwrap_or_default()
}

#[test]
fn many_thousand_pinned_files_come_and_nobody_else_notices() {
    let files: usize = std::env::var("BACKLOT_TEST_PINS").map_or(2_000, |n| n.parse().expect("a number"));
    drive_test_within(Duration::from_secs(100 + files as u64 / 50), move || {
        let tree = Tree::plan(11, files, FOLDER, &[1000, 3000, 2000, 5000]);
        let site = tempfile::tempdir().unwrap();
        tree.write(site.path());
        let mut drive = Builder::local(site.path())
            .set("scan.recheck-after", "1h")
            .set("hydration.read-deadline", "20s")
            .build();
        let (begun, many) = (Instant::now(), files as u64);
        drive.scan();
        let scanned = begun.elapsed();
        drive.mount();
        let mut folders: Vec<_> = tree.files.iter().map(|f| f.path.parent().unwrap().to_owned()).collect();
        folders.dedup();
        let mut folders = folders.into_iter();
        let listed_before = slowest_listing(&drive, &mut folders);
        let before = memory(drive.pid());
        let begun = Instant::now();
        drive.tell(["pin", "show"]);
        let answered = begun.elapsed();
        let marked = memory(drive.pid());
        let listed_while = slowest_listing(&drive, &mut folders);
        let mut opened = Duration::ZERO;
        let mut looks = 0;
        eventually_within(Duration::from_secs(60 + many / 50), "all are here", || {
            // Somebody else is at work meanwhile.
            let file = &tree.files[looks * 7919 % files];
            let begun = Instant::now();
            file.check_whole(&drive.project()).unwrap();
            opened = opened.max(begun.elapsed());
            looks += 1;
            std::thread::park_timeout(Duration::from_millis(200));
            drive.status_now()["pins"]["resident_files"] == many
        });
        let (came, held) = (begun.elapsed(), memory(drive.pid()));
        assert_eq!(drive.fetched(), tree.len(), "each byte once");
        let begun = Instant::now();
        let status = drive.status_now();
        let told = begun.elapsed();
        assert_eq!(
            (&status["pins"]["failed"], &status["cache"]["pinned_bytes"]),
            (&0.into(), &tree.len().into())
        );
        drive.unmount();
        let begun = Instant::now();
        drive.mount();
        let again = begun.elapsed();
        eventually_within(Duration::from_secs(60), "all are known again", || {
            drive.status_now()["pins"]["resident_files"] == many
        });
        assert_eq!(drive.fetched(), 0);
        say(&format!(
            "pins: {files} files: scanned in {scanned:?}; `pin` answered in {answered:?}; all here after {came:?}; memory {} \
             KiB before, {} KiB marked, {} KiB at the end; a folder listed in {listed_before:?} before, {listed_while:?} \
             meanwhile; slowest of {looks} reads meanwhile {opened:?}; status in {told:?}; mounted again in {again:?}",
            before >> 10,
            marked >> 10,
            held >> 10,
        ));
        // A mark, a row of the books, a row of what was looked up; all else is bounded.
        let allowed = before + many * 600 + (64 << 20);
        assert!(held <= allowed, "{held} bytes held, {before} before");
        assert!(again < Duration::from_secs(10), "mounted again in {again:?}");
        assert!(opened < Duration::from_secs(5), "a reader waited for {opened:?}");
        drive.unmount();
    });
}
