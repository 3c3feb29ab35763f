//! A whole project from a real SSH server: everything is there, every byte is right, and all of it stays when the server
//! is gone. `BACKLOT_TEST_FILES` sets how many files (2,000; the long gate takes 20,000).
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::drive::{Builder, drive_test_within, run_within, say};
use common::sshd::{Mode, Sshd};
use common::tree::Tree;

const LIMIT: Duration = Duration::from_secs(1200);

/// Runs a shell script in a folder and returns what it printed.
fn sh(dir: &Path, script: &str) -> Vec<u8> {
    let out = run_within(LIMIT, Command::new("sh").args(["-c", script]).current_dir(dir));
    assert!(
        out.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

fn count(dir: &Path) -> Vec<u8> {
    sh(dir, "find . -printf x | wc -c")
}

fn hashes(dir: &Path) -> Vec<u8> {
    sh(dir, "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum")
}

#[test]
fn every_file_of_a_project_is_right_twice_the_second_time_without_the_server() {
    let files: usize = std::env::var("BACKLOT_TEST_FILES").map_or(2000, |n| n.parse().expect("a number"));
    drive_test_within(LIMIT, move || {
        let Some(mut sshd) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let tree = Tree::plan(42, files, 40, &[3_000, 12_000, 0, 40_000, 1_000, 70_000, 200_001]).with_hard_names();
        tree.write(&sshd.root());
        let mut drive = Builder::sftp(&sshd.settings(&sshd.root()))
            .set("hydration.read-deadline", "20s")
            .build();
        let timed = |what: &str, begun: Instant| say(&format!("studio: {what} took {:.1?}", begun.elapsed()));

        let begun = Instant::now();
        drive.scan();
        timed(&format!("the scan of {} files", tree.files.len()), begun);
        let begun = Instant::now();
        drive.mount();
        timed("the mount", begun);
        let begun = Instant::now();
        assert_eq!(count(&drive.project()), count(&sshd.root()));
        timed("find", begun);
        let truth = hashes(&sshd.root());
        assert_eq!(truth.split(|b| *b == b'\n').count() - 1, tree.files.len());
        let begun = Instant::now();
        assert!(hashes(&drive.project()) == truth, "a file differs from the server's");
        timed(&format!("hashing {} MB over SFTP", tree.len() / 1_000_000), begun);
        assert_eq!(drive.fetched(), tree.len(), "each byte was fetched once");

        sshd.kill();
        // A new daemon and a kernel that remembers nothing: what is served now comes from the cache's disk.
        drive.remount();
        let begun = Instant::now();
        assert_eq!(count(&drive.project()), count(&sshd.root()));
        assert!(hashes(&drive.project()) == truth, "a file differs from the server's");
        timed("hashing it again with the server stopped", begun);
        assert_eq!(drive.fetched(), 0);
        drive.unmount();
    });
}
