//! fsx, the File System eXerciser: random reads, writes, mappings, truncations, holes and copies of one file, each read
//! compared with what should be there. `BACKLOT_TEST_FSX_OPS` sets how many operations a seed makes (5,000; the long gate
//! takes 100,000).
//!
//! fsx maps what it reads and never unmaps it, so a file it closes stays in use until its process ends. A close that
//! nothing holds back comes between two processes: in a publish folder a seed is cut into rounds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::drive::say;
use crate::common::room::assert_room_to_write_natively;
use crate::common::tree::Random;
use crate::manifest::is_temporary;
use crate::stage::{Stage, Zone, number, or_skip, program, runs, staged_with};

const SEEDS: [u64; 3] = [1, 2, 3];
/// For one seed.
const LIMIT: Duration = Duration::from_secs(1800);
/// How often a seed's file is let go, so that it is uploaded, while the other seeds go on.
const ROUNDS: usize = 8;
/// A round follows the last after at most so many milliseconds: before, in and after the upload of what the last one left.
const LATEST: u64 = 2500;
/// Between two looks at the remote.
const LOOK: Duration = Duration::from_millis(5);

/// What fsx does how often. Every operation it knows; `min`, since allocating nothing is an error everywhere; at most a
/// sixth reads by a mapping, since those are never given back and a process may have 65,530.
fn config(len: usize, sync: bool) -> String {
    format!(
        "flen = {len}\n\
         nomsyncafterwrite = {}\n\
         [opsize]\nmin = 1\nmax = 65536\n\
         [weights]\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ntruncate = 5\ninvalidate = 1\nclose_open = 1\n\
         fsync = 1\nfdatasync = 1\nposix_fallocate = 3\npunch_hole = 3\nsendfile = 2\nposix_fadvise = 1\n\
         copy_file_range = 3\n",
        !sync
    )
}

/// fsx on one file.
struct Exercise<'s> {
    fsx: &'s Path,
    scratch: &'s Path,
    file: PathBuf,
    len: usize,
}

impl Exercise<'_> {
    /// Every other seed writes its mappings without asking for them to be on disk.
    fn run(&self, seed: u64, operations: usize) {
        let config_file = self.scratch.join(format!("fsx-{seed}.toml"));
        fs::write(&config_file, config(self.len, seed % 2 == 1)).unwrap();
        let mut command = Command::new(self.fsx);
        command
            .args(["-S", &seed.to_string(), "-N", &operations.to_string()])
            .arg("-f")
            .arg(config_file)
            // What should have been there goes here when something else was.
            .arg("-P")
            .arg(self.scratch)
            .arg(&self.file);
        let said = runs(LIMIT, &mut command);
        assert!(said.contains("All operations completed A-OK!"), "{said}");
    }
}

fn operations() -> usize {
    number("BACKLOT_TEST_FSX_OPS", 5000)
}

fn exercise<'s>(fsx: &'s Path, stage: &'s Stage, seed: u64, len: usize) -> Exercise<'s> {
    Exercise {
        fsx,
        scratch: stage.scratch(),
        file: stage.folder().join(format!("fsx-{seed}")),
        len,
    }
}

/// Of a file that is all in a mapping or two, and of a larger one, of which more is being read when it changes.
const LENGTHS: [usize; 2] = [256 << 10, 1 << 20];

fn at_work(fsx: &Path, stage: &Stage) {
    each_seed(fsx, stage, LENGTHS[0]);
}

fn each_seed(fsx: &Path, stage: &Stage, len: usize) {
    for seed in SEEDS {
        let begun = Instant::now();
        exercise(fsx, stage, seed, len).run(seed, operations());
        say(&format!("tools: fsx, seed {seed}: {:.1?}", begun.elapsed()));
    }
}

/// Somebody else opens and reads the files meanwhile, as whoever looks at a render does: that changes nothing.
fn while_it_is_read(fsx: &Path, stage: &Stage) {
    let done = AtomicBool::new(false);
    let read = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                for seed in SEEDS {
                    // A file that is not there yet, or is cut while it is read, is nobody's fault.
                    read += usize::from(fs::read(stage.folder().join(format!("fsx-{seed}"))).is_ok());
                }
            }
            read
        });
        let worked = std::panic::catch_unwind(|| each_seed(fsx, stage, LENGTHS[1]));
        done.store(true, Ordering::Relaxed);
        let read = reader.join().expect("it only reads");
        worked
            .map(|()| read)
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(read > SEEDS.len(), "it was read {read} times meanwhile");
}

/// Somebody holds the files open to write them, so that all that fsx does goes past the daemon where it can.
fn past_the_daemon(fsx: &Path, stage: &Stage) {
    assert_room_to_write_natively();
    for seed in SEEDS {
        let exercise = exercise(fsx, stage, seed, LENGTHS[1]);
        let holder = fs::File::create(&exercise.file).unwrap();
        let before = stage.written_through_daemon();
        exercise.run(seed, operations());
        drop(holder);
        // Lengths and holes are the daemon's all the same.
        if let (Some(before), Some(now)) = (before, stage.written_through_daemon()) {
            assert_eq!(before, now, "no write was the daemon's");
        }
    }
}

/// What was seen of uploads.
#[derive(Default)]
struct Seen {
    /// Versions of files at the remote, by what tells one from another.
    versions: BTreeSet<(PathBuf, u64, i64, i64)>,
    /// Looks that found an upload under way while fsx was at work.
    meanwhile: usize,
}

impl Seen {
    fn look(&mut self, remote: &Path, at_work: usize) {
        // The folder comes with the first upload.
        for entry in fs::read_dir(remote).into_iter().flatten().flatten() {
            if is_temporary(entry.file_name().as_bytes()) {
                self.meanwhile += usize::from(at_work > 0);
            } else if let Ok(about) = entry.metadata() {
                self.versions
                    .insert((entry.path(), about.ino(), about.mtime(), about.mtime_nsec()));
            }
        }
    }
}

/// All seeds at once, each on a file of its own, which is let go again and again.
fn while_uploads_run(fsx: &Path, stage: &Stage) {
    let (working, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let remote = stage.at_remote();
    let seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Seen::default();
            while !done.load(Ordering::Relaxed) {
                if let Some(remote) = &remote {
                    seen.look(remote, working.load(Ordering::Relaxed));
                }
                thread::park_timeout(LOOK);
            }
            seen
        });
        let working = &working;
        let seeds = SEEDS.map(|seed| {
            scope.spawn(move || {
                let exercise = exercise(fsx, stage, seed, LENGTHS[1]);
                let mut random = Random::new(seed);
                for round in 0..ROUNDS {
                    working.fetch_add(1, Ordering::Relaxed);
                    exercise.run(seed + 100 * round as u64, operations() / ROUNDS);
                    working.fetch_sub(1, Ordering::Relaxed);
                    thread::park_timeout(Duration::from_millis(random.below(LATEST)));
                }
            })
        });
        let ended = seeds.map(thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        for seed in ended {
            if let Err(panic) = seed {
                std::panic::resume_unwind(panic);
            }
        }
        watcher.join().expect("it only looks")
    });
    if remote.is_some() {
        let (versions, meanwhile) = (seen.versions.len(), seen.meanwhile);
        say(&format!(
            "tools: fsx: {versions} versions came to the remote, {meanwhile} looks found an upload while fsx was at work"
        ));
        assert!(versions > SEEDS.len() && meanwhile > 0, "uploads ran meanwhile");
    }
}

fn fsx_in(zone: Zone, work: fn(&Path, &Stage)) {
    let Some(fsx) = or_skip("fsx", program("BACKLOT_TEST_FSX", "fsx")) else {
        return;
    };
    let limit = LIMIT * u32::try_from(SEEDS.len()).unwrap();
    match zone {
        Zone::Work => staged_with(zone, limit, |drive| drive, move |stage| work(&fsx, stage)),
        // A link on which a file takes a second, so that uploads last.
        Zone::Publish => staged_with(
            zone,
            limit,
            |drive| drive.site("link-delay", "2ms").site("link-rate", "8MB"),
            move |stage| work(&fsx, stage),
        ),
    }
}

#[test]
fn fsx_in_a_work_folder() {
    fsx_in(Zone::Work, at_work);
}

#[test]
fn fsx_in_a_work_folder_while_somebody_reads() {
    fsx_in(Zone::Work, while_it_is_read);
}

#[test]
fn fsx_in_a_work_folder_past_the_daemon() {
    fsx_in(Zone::Work, past_the_daemon);
}

#[test]
fn fsx_in_a_publish_folder_while_uploads_run() {
    fsx_in(Zone::Publish, while_uploads_run);
}
