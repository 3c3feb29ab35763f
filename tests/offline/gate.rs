//! With all packets to the site dropped: everything that has to go on, and everything that has to fail soon, in one run.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::child;
use crate::common::drive::{
    Drive, SOON, drive_test_within, eventually, eventually_within, run_within, say, wait_within, within,
};
use crate::common::tree;
use crate::far::Far;

const MIB: u64 = 1 << 20;
/// Entries of the tree; more by `BACKLOT_TEST_OFFLINE_ENTRIES`.
const ENTRIES: usize = 6000;
const PER_FOLDER: usize = 1000;
/// Rounds of listing with and without the link, one after the other.
const ROUNDS: usize = 5;
const PINNED: u64 = 12;
/// The read deadline of this drive.
const DEADLINE: Duration = Duration::from_secs(4);
/// What the promise allows beyond it.
const LATE: Duration = Duration::from_millis(500);
/// No process may be in state D this long after the link was lost.
const D_LIMIT: Duration = Duration::from_secs(15);

fn entries() -> usize {
    let set = std::env::var("BACKLOT_TEST_OFFLINE_ENTRIES").ok();
    set.map_or(ENTRIES, |n| n.parse().expect("a number"))
}

/// What little takes is mostly noise on a loaded machine.
fn slack(entries: usize) -> Duration {
    Duration::from_millis(if entries < 50_000 { 300 } else { 0 })
}

/// Lists the whole drive, as a person would; returns how many lines that were and how long it took.
fn ls(drive: &Drive) -> (usize, Duration) {
    let begun = Instant::now();
    let out = run_within(SOON * 6, Command::new("ls").arg("-lR").arg(drive.mount_point()));
    let took = begun.elapsed();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (out.stdout.split(|b| *b == b'\n').count(), took)
}

fn mount(drive: &mut Drive) -> Duration {
    let begun = Instant::now();
    drive.mount();
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Fails to read a file; returns how long the error took.
fn fails(drive: &Drive, name: &str) -> Duration {
    let path = drive.path(name);
    let begun = Instant::now();
    let error = within(SOON, "failing to read", move || {
        fs::read(path).expect_err("nothing can serve it")
    });
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{name}: {error}");
    begun.elapsed()
}

#[test]
fn with_all_packets_dropped_the_drive_does_all_it_can_and_hangs_nobody() {
    drive_test_within(Duration::from_secs(600), || {
        let Some(far) = Far::start() else { return };
        let entries = entries();
        for folder in 0..entries.div_ceil(PER_FOLDER) {
            let dir = far.path(&format!("bulk/sh{folder:04}"));
            fs::create_dir_all(&dir).unwrap();
            for file in 0..PER_FOLDER.min(entries - folder * PER_FOLDER) {
                File::create(dir.join(format!("plate.{file:04}.exr"))).unwrap();
            }
        }
        for n in 0..PINNED {
            far.write(&format!("pinned/plate.{n:04}.exr"), 100 + n, MIB + n * 1000);
        }
        for (name, seed) in [("cold/a", 1), ("cold/b", 2), ("cold/c", 3), ("cold/d", 4)] {
            far.write(name, seed, 4 * MIB);
        }
        let builder = far.builder().set("hydration.read-deadline", "4s");
        // Nothing but the listing itself is measured.
        let mut drive = builder.set("scan.recheck-after", "1h").build();
        drive.scan();
        drive.mount();
        drive.tell(["pin", "show/pinned"]);
        eventually("all pinned files are here", || {
            drive.status()["pins"]["resident_files"] == PINNED
        });
        drive.unmount();

        // Mounted from cold each time, so that the kernel knows nothing; with and without the link in turn.
        let (mut online, mut offline, mut mounts) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            drive.mount();
            let (lines, took) = ls(&drive);
            assert!(lines > entries, "{lines} lines");
            online.push(took);
            drive.unmount();
            far.relay.swallow();
            mounts.push(mount(&mut drive));
            let (without, took) = ls(&drive);
            assert_eq!(without, lines, "nothing is missing without the link");
            offline.push(took);
            if round < ROUNDS - 1 {
                drive.unmount();
                far.relay.mend();
            }
        }
        // The last one stays, and nothing came over the link since it was mounted.
        let slowest = mounts.iter().max().unwrap();
        let (online, offline) = (median(online), median(offline));
        say(&format!(
            "with the link dead: mounted from cold after {slowest:.2?} at most; ls -lR of {entries} entries {offline:.2?}, \
             with the link {online:.2?} ({:.2} times)",
            offline.as_secs_f64() / online.as_secs_f64()
        ));
        assert!(*slowest < Duration::from_secs(2), "{mounts:?}");
        assert!(
            offline < online.mul_f64(1.2) + slack(entries),
            "{offline:?}, with the link {online:?}"
        );
        let passed = far.relay.passed().1;

        pinned_reads_are_whole(&drive);
        first_pays_the_deadline_and_the_next_nothing(&drive);
        pinned_reads_are_whole(&drive);
        let save = drive.path("publish/comp.0001.exr");
        fs::create_dir_all(save.parent().unwrap()).unwrap();
        let begun = Instant::now();
        tree::write(&save, 50, 3 * MIB);
        let saved = begun.elapsed();
        assert!(saved < DEADLINE, "a save waits for no site: {saved:?}");
        assert!(far.relay.held() > 0, "the fault fired: what was asked never arrived");
        assert_eq!(far.relay.passed().1, passed, "nothing came through");
        assert!(!far.path("publish/comp.0001.exr").exists());

        far.relay.mend();
        let arrived = eventually_within(SOON * 2, "the publish arrives", || {
            fs::read(far.path("publish/comp.0001.exr"))
                .is_ok_and(|b| b.len() as u64 == 3 * MIB && tree::first_wrong(50, 0, &b).is_none())
        });
        say(&format!("the publish arrived {arrived:.1?} after the link was back"));
        eventually("uncached files read again", || {
            fs::read(drive.path("cold/c")).is_ok_and(|b| tree::first_wrong(3, 0, &b).is_none())
        });
        drive.unmount();
    });
}

fn pinned_reads_are_whole(drive: &Drive) {
    for n in 0..PINNED {
        let path = drive.path(format!("pinned/plate.{n:04}.exr"));
        let read = within(DEADLINE, "reading what is pinned", move || fs::read(path).unwrap());
        assert_eq!(
            (read.len() as u64, tree::first_wrong(100 + n, 0, &read)),
            (MIB + n * 1000, None)
        );
    }
}

fn first_pays_the_deadline_and_the_next_nothing(drive: &Drive) {
    let begun = Instant::now();
    let mut reading = child::reading(&drive.path("cold/a"));
    let mut mapping = child::mapping(&drive.path("cold/b"), 3 * MIB);
    let mut mapping = mapping.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = fails(drive, "cold/c");
    let next = fails(drive, "cold/d");
    let status = wait_within(&mut reading, DEADLINE).expect("the reader ends");
    assert_eq!(status.code(), Some(1), "cat was told of an error");
    let status = wait_within(&mut mapping, DEADLINE).expect("the one that maps ends");
    assert_eq!(status.signal(), Some(7), "SIGBUS: {status:?}");
    let all = begun.elapsed();
    let watched = [std::process::id(), drive.pid(), reading.id(), mapping.id()];
    let stuck = || watched.iter().flat_map(|pid| child::threads_in_state_d(*pid)).count();
    eventually_within(D_LIMIT.saturating_sub(begun.elapsed()), "nobody is in state D", || {
        stuck() == 0
    });
    say(&format!(
        "of a deadline of {DEADLINE:?}: the first uncached read failed after {first:.2?}, the next after {next:.2?}; \
         readers and mappings had ended after {all:.2?}, nobody in state D after {:.2?}",
        begun.elapsed()
    ));
    assert!(first < DEADLINE + LATE, "{first:?}");
    assert!(next < LATE, "{next:?}");
    assert_eq!(drive.link(), "down");
}
