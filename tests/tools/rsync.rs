//! rsync into the drive: everything arrives as it is, a second run finds nothing to do, a third what has changed.
//! `BACKLOT_TEST_RSYNC_FILES` sets how many files (500; the long gate takes 20,000).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::drive::say;
use crate::common::tree::{self, Planned, Tree};
use crate::stage::{Stage, Zone, number, or_skip, program, runs, staged};

/// For a run over all files.
const LIMIT: Duration = Duration::from_secs(1800);

fn rsync(from: &Path, to: &Path, more: &[&str]) -> String {
    // A folder's path with a slash at its end means what is in it.
    let mut command = Command::new("rsync");
    command.args(["-a", "--checksum"]).args(more);
    runs(LIMIT, command.arg(from.join("")).arg(to.join("")))
}

fn all_there(files: &[Planned], root: &Path) {
    for file in files {
        file.check_whole(root).unwrap();
    }
}

fn check(stage: &mut Stage) {
    let files = number("BACKLOT_TEST_RSYNC_FILES", 500);
    let mut tree = Tree::plan(11, files, 50, &[3_000, 12_000, 0, 40_000, 1_000, 70_001, 4096]).with_hard_names();
    let from = stage.scratch().join("from");
    tree.write(&from);
    let to = stage.folder().join("in");
    let begun = Instant::now();
    rsync(&from, &to, &[]);
    say(&format!(
        "tools: rsync of {} files with {} bytes took {:.1?}",
        tree.files.len(),
        tree.len(),
        begun.elapsed()
    ));
    all_there(&tree.files, &to);
    let nothing = ["--dry-run", "--itemize-changes", "--delete"];
    assert_eq!(rsync(&from, &to, &nothing), "", "a second run finds nothing to do");

    // Some change at the same length, some grow, some go; half of that in place, without a temporary name.
    for (way, seed) in [("--whole-file", 1000), ("--inplace", 2000)] {
        let changed: Vec<usize> = (0..tree.files.len()).filter(|i| i % 9 == seed / 1000).collect();
        for &i in &changed {
            let file = &mut tree.files[i];
            file.seed ^= seed as u64;
            file.len += (i as u64 % 2) * 5000;
            tree::write(&from.join(&file.path), file.seed, file.len);
        }
        let gone = tree.files.swap_remove(changed[0]);
        fs::remove_file(from.join(gone.path)).unwrap();
        rsync(&from, &to, &["--delete", way]);
        all_there(&tree.files, &to);
        assert_eq!(
            rsync(&from, &to, &nothing),
            "",
            "{way}: a second run finds nothing to do"
        );
    }
}

fn rsync_in(zone: Zone) {
    if or_skip("rsync", program("BACKLOT_TEST_RSYNC", "rsync")).is_some() {
        staged(zone, LIMIT, check);
    }
}

#[test]
fn rsync_in_a_work_folder() {
    rsync_in(Zone::Work);
}

#[test]
fn rsync_in_a_publish_folder() {
    rsync_in(Zone::Publish);
}
