//! `docs/semantics.md`: *the cache folder*: of bytes that were turned over while the daemon was down none is given out, all
//! are fetched again, and no others. `BACKLOT_TEST_FLIPS` sets in how many granules (96; the long gate takes 1,000).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::common::drive::{Builder, Drive, PASSTHROUGH, drive_test_within, eventually, say};
use crate::common::tree::{Planned, Random, Tree};
use crate::rot::{Spot, some_of, spots};

const READERS: usize = 3;

/// How the daemon ends before the bytes are turned over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Unmounted,
    Killed,
}

#[test]
fn none_is_given_out_read_by_the_kernel_itself() {
    flips("auto", End::Unmounted);
}

#[test]
fn none_is_given_out_read_by_the_kernel_itself_after_a_kill() {
    flips("auto", End::Killed);
}

#[test]
fn none_is_given_out_read_through_the_daemon() {
    flips("off", End::Unmounted);
}

#[test]
fn none_is_given_out_read_through_the_daemon_after_a_kill() {
    flips("off", End::Killed);
}

fn flips(passthrough: &'static str, end: End) {
    let flips: usize = std::env::var("BACKLOT_TEST_FLIPS").map_or(96, |n| n.parse().expect("a number"));
    drive_test_within(Duration::from_secs(100 + flips as u64 / 2), move || {
        let clock = || {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        let seed = std::env::var("BACKLOT_TEST_SEED").map_or_else(|_| clock(), |s| s.parse().expect("a number"));
        let mut random = Random::new(seed);
        let lengths = [100, 65_536, 700_001, 2_500_000, 9_000_000, 131_072, 5_000_000];
        // Twice as many granules as bad ones, so that there is something to be left alone.
        let mut tree = Tree::plan(seed, 7, 5, &lengths);
        while tree.len() < 2 * flips as u64 * crate::rot::GRANULE {
            tree = Tree::plan(seed, tree.files.len() + 7, 5, &lengths);
        }
        let site = tempfile::tempdir().unwrap();
        tree.write(site.path());
        let mut drive = Builder::local(site.path())
            .set("cache.heads", "0B")
            .set("fuse.passthrough", passthrough)
            .set("cache.scrub", "off")
            .build()
            .mounted();
        drive.tell(["hydrate", "show"]);
        assert_eq!(drive.fetched(), tree.len());
        match end {
            End::Unmounted => drive.unmount(),
            End::Killed => {
                // What is known of the cache is written twice a second.
                thread::park_timeout(Duration::from_millis(1200));
                drive.kill9();
            }
        }
        let bad = some_of(spots(drive.cache_dir()), flips, &mut random);
        bad.iter().for_each(|spot| spot.flip(&mut random));
        let lost: u64 = bad.iter().map(|spot: &Spot| spot.len).sum();

        drive.mount();
        assert_eq!(drive.fetched(), 0);
        let tree = Arc::new(tree);
        read_all(&drive, &tree, &mut random);
        let status = drive.status();
        let found = &status["cache"]["bad_granules"];
        say(&format!(
            "flips: {flips} granules of {} MiB turned over, {end:?}, passthrough {passthrough}: {found} found, {} bytes \
             fetched again; BACKLOT_TEST_SEED={seed}",
            tree.len() >> 20,
            status["hydration"]["fetched_bytes"],
        ));
        assert_eq!(*found, flips, "as many were found as were turned over");
        assert_eq!(
            status["hydration"]["fetched_bytes"], lost,
            "all of them were fetched again, and nothing else"
        );
        assert_eq!(status["cache"]["bytes"], tree.len());

        // What was found right, or came anew, is read by the kernel from now on: it is right as well.
        let is_native = status["native_reads"]["state"] == "on";
        if is_native {
            let opens = |drive: &Drive| drive.status_now()["native_reads"]["opens"].as_u64().unwrap();
            let large = tree.files.iter().find(|file| file.len > 1 << 20).unwrap();
            eventually("the kernel reads by itself", || {
                let before = opens(&drive);
                large.check_whole(&drive.project()).unwrap();
                opens(&drive) > before
            });
            read_all(&drive, &tree, &mut random);
        } else if passthrough == "auto" && std::env::var_os(PASSTHROUGH).is_none() {
            say(&format!("SKIPPED: passthrough ({})", status["native_reads"]["reason"]));
        }
        let (code, told) = {
            let out = drive.run(["cache", "verify", "--json"]);
            (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
        };
        assert_eq!(code, Some(0), "nothing bad is left: {told}");
        assert_eq!(drive.fetched(), lost);
        drive.unmount();
    });
}

/// Reads all of the tree, each file whole by one of several readers and at random by the others.
fn read_all(drive: &Drive, tree: &Arc<Tree>, random: &mut Random) {
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (root, tree, mut random) = (drive.project(), Arc::clone(tree), Random::new(random.next()));
            thread::spawn(move || {
                for (n, file) in tree.files.iter().enumerate() {
                    if n % READERS == reader {
                        file.check_whole(&root).unwrap();
                    } else {
                        read_some(&root.join(&file.path), file, &mut random);
                    }
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().expect("nothing wrong was read");
    }
}

fn read_some(path: &std::path::Path, file: &Planned, random: &mut Random) {
    let open = File::open(path).unwrap();
    let mut buffer = vec![0; 200_000];
    for _ in 0..4 {
        let at = random.below(file.len);
        let want = usize::try_from((file.len - at).min(1 + random.below(200_000))).unwrap();
        open.read_exact_at(&mut buffer[..want], at).unwrap();
        file.check(at, &buffer[..want]).unwrap();
    }
}
