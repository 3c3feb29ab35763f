//! A daemon that is killed in the middle of what it does: whatever is read afterwards is right. `BACKLOT_TEST_KILLS` sets
//! how often (8; the long gate takes 100), `BACKLOT_TEST_SEED` repeats a run.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use common::drive::{Builder, Drive, drive_test_within, say};
use common::tree::{Planned, Random, Tree};

const READERS: u64 = 3;
/// Kills come at most this long after the readers began.
const LATEST: u64 = 400;

/// Reads random ranges of random files until the daemon is gone; all that was read is right.
fn reader(root: PathBuf, tree: Arc<Tree>, seed: u64, reads: Arc<AtomicU64>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut random = Random::new(seed);
        let mut buffer = vec![0; 512 << 10];
        loop {
            let Some(file) = pick(&tree, &mut random) else { continue };
            let Ok(open) = File::open(root.join(&file.path)) else {
                return;
            };
            for _ in 0..4 {
                let at = random.below(file.len);
                let want = usize::try_from((file.len - at).min(random.below(512 << 10) + 1)).unwrap();
                let Ok(n) = open.read_at(&mut buffer[..want], at) else {
                    return;
                };
                file.check(at, &buffer[..n]).unwrap();
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

fn pick<'t>(tree: &'t Tree, random: &mut Random) -> Option<&'t Planned> {
    let file = &tree.files[usize::try_from(random.below(tree.files.len() as u64)).unwrap()];
    (file.len > 0).then_some(file)
}

/// Files of which some bytes are here and some are not, by their index in the tree.
fn partly_here(drive: &Drive, tree: &Tree) -> Vec<usize> {
    let mut folders: Vec<PathBuf> = tree.files.iter().map(|f| f.path.parent().unwrap().to_owned()).collect();
    folders.sort();
    folders.dedup();
    let mut found = Vec::new();
    for folder in folders {
        for row in drive.ls(&format!("show/{}", folder.display())) {
            if row["state"] == "hydrating" {
                let path = folder.join(row["name"].as_str().unwrap());
                found.push(tree.files.iter().position(|f| f.path == path).unwrap());
            }
        }
    }
    found
}

#[test]
fn whatever_is_read_after_a_kill_in_mid_hydration_is_right() {
    let kills: u64 = std::env::var("BACKLOT_TEST_KILLS").map_or(8, |n| n.parse().expect("a number"));
    drive_test_within(Duration::from_secs(60 + 20 * kills), move || {
        // Where nobody gives one, the clock does: each run kills at other moments.
        let clock = || {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        let seed = std::env::var("BACKLOT_TEST_SEED").map_or_else(|_| clock(), |s| s.parse().expect("a number"));
        say(&format!("crash: {kills} kills, BACKLOT_TEST_SEED={seed}"));
        let mut random = Random::new(seed);
        let site = tempfile::tempdir().unwrap();
        let tree = Arc::new(Tree::plan(
            7,
            48,
            12,
            &[64 << 10, 5_000_000, 700_001, 2_500_000, 100, 9_000_000],
        ));
        tree.write(site.path());
        // A cache that is too small for all of it, so that there is something to fetch and to evict in every round; a link
        // that takes its time, so that a kill finds fetches under way.
        let mut drive = Builder::local(site.path())
            .site("link-delay", "3ms")
            .site("link-rate", "80MB")
            .set("cache.max-size", "64MiB")
            .set("hydration.read-deadline", "10s")
            .build();
        drive.scan();
        let (mut in_flight, mut reads) = (0, 0);
        for _ in 0..kills {
            drive.mount();
            let done = Arc::new(AtomicU64::new(0));
            let readers: Vec<_> = (0..READERS)
                .map(|_| reader(drive.project(), Arc::clone(&tree), random.next(), Arc::clone(&done)))
                .collect();
            thread::park_timeout(Duration::from_millis(20 + random.below(LATEST)));
            let fetching = drive.status_now()["hydration"]["in_flight"]
                .as_array()
                .is_some_and(|f| !f.is_empty());
            drive.kill9();
            for reader in readers {
                reader.join().expect("nothing wrong was read");
            }
            in_flight += u64::from(fetching);
            reads += done.load(Ordering::Relaxed);

            drive.mount();
            let mut looked_at = partly_here(&drive, &tree);
            looked_at.extend((0..4).map(|_| usize::try_from(random.below(tree.files.len() as u64)).unwrap()));
            for file in looked_at {
                tree.files[file].check_whole(&drive.project()).unwrap();
            }
            drive.kill9();
        }
        say(&format!(
            "crash: {in_flight} of {kills} kills came in mid-hydration, after {reads} reads"
        ));
        assert!(in_flight * 2 >= kills, "the fault fired");
        // In the end all of it, from a cache that went through every kill, and the database says that it is whole.
        drive.mount();
        for file in &tree.files {
            file.check_whole(&drive.project()).unwrap();
        }
        let doctor = drive.run(["doctor", "--deep"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains("every invariant holds"), "{said}");
        drive.unmount();
    });
}
