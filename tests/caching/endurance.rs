//! Ten hours of work in little time, on a cache a tenth of what is worked on: reads, pins, saves, publishes, evictions and
//! looks for damage at random, all at once. `BACKLOT_TEST_ENDURANCE` sets for how many seconds (20; the long gate takes 1,200),
//! `BACKLOT_TEST_SEED` repeats the choices.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::common::content::{self, Id, Seen};
use crate::common::drive::{Builder, Drive, drive_test_within, say};
use crate::common::queue;
use crate::common::tree::{Planned, Random, Tree};

const MIB: u64 = 1 << 20;
/// The cache's limit; the tree is ten times that.
const LIMIT: u64 = 64 * MIB;
/// The largest request that is made of a site.
const REQUEST: u64 = 4 * MIB;
/// What pins may come to.
const PINNED: u64 = LIMIT * 2 / 5;
const READERS: u64 = 3;
const WRITERS: u64 = 2;
/// Names that a writer saves under.
const NAMES: u64 = 24;

/// What all threads share.
struct World {
    root: PathBuf,
    tree: Tree,
    over: AtomicBool,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    saves: AtomicU64,
    pins: AtomicU64,
    /// Files that are pinned just now, by their place in the tree, with whether they were seen to be here since.
    pinned: Mutex<Vec<(usize, bool)>>,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn pick(&self, random: &mut Random) -> &Planned {
        // Half of all reads are of a tenth of the tree, as people work.
        let all = self.tree.files.len() as u64;
        let of = if random.below(2) == 0 { all / 10 } else { all };
        &self.tree.files[usize::try_from(random.below(of)).unwrap()]
    }
}

fn reader(world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let mut buffer = vec![0; 256 << 10];
    while world.goes_on() {
        let file = world.pick(&mut random);
        let open = File::open(world.root.join(&file.path)).unwrap();
        let mut read = |at: u64, want: u64| {
            let want = usize::try_from(want.min(file.len - at)).unwrap();
            open.read_exact_at(&mut buffer[..want], at)
                .unwrap_or_else(|e| panic!("{}: {e}", file.path.display()));
            file.check(at, &buffer[..want]).unwrap();
            world.reads.fetch_add(1, Ordering::Relaxed);
            world.read_bytes.fetch_add(want as u64, Ordering::Relaxed);
        };
        match random.below(3) {
            // A header.
            0 => read(0, 64 << 10),
            // Here and there.
            1 => (0..4).for_each(|_| {
                let at = random.below(file.len);
                read(at, 1 + random.below(256 << 10));
            }),
            // From start to end.
            _ => (0..file.len).step_by(256 << 10).for_each(|at| read(at, 256 << 10)),
        }
    }
}

/// Saves as programs do, into work and publish folders, and looks at what was saved before.
fn writer(world: &World, number: u64, seed: u64) -> Vec<(PathBuf, Id)> {
    let mut random = Random::new(seed);
    let mut saved: Vec<Option<Id>> = vec![None; usize::try_from(NAMES).unwrap()];
    let path = |n: u64| {
        let folder = if n.is_multiple_of(3) { "work" } else { "publish" };
        PathBuf::from(format!("{folder}/w{number}-{n:02}.exr"))
    };
    let mut version = 0;
    while world.goes_on() {
        let n = random.below(NAMES);
        let at = world.root.join(path(n));
        let slot = usize::try_from(n).unwrap();
        if random.below(2) == 0 {
            version += 1;
            let id = Id {
                file: number * NAMES + n,
                version,
            };
            let bytes = content::whole(id, 1000 + random.below(3 * MIB));
            if random.below(2) == 0 {
                fs::write(&at, bytes).unwrap();
            } else {
                let temp = at.with_extension("saving");
                fs::write(&temp, bytes).unwrap();
                fs::rename(temp, &at).unwrap();
            }
            saved[slot] = Some(id);
            world.saves.fetch_add(1, Ordering::Relaxed);
        } else if let Some(id) = saved[slot] {
            let read = fs::read(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
            assert_eq!(content::look(&read), Ok(Seen::Whole(id)), "{}", at.display());
            world.read_bytes.fetch_add(read.len() as u64, Ordering::Relaxed);
        }
        thread::park_timeout(Duration::from_millis(random.below(60)));
    }
    let all = (0..NAMES).zip(saved);
    all.filter_map(|(n, id)| Some((path(n), id?))).collect()
}

fn word(path: &Path) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, "user.backlot.state", &mut value).unwrap();
    String::from_utf8_lossy(&value[..len]).into_owned()
}

/// Pins and unpins files, as many as fit, and gives other people's bytes back.
fn pinner(world: &World, drive: &Drive, seed: u64) {
    let mut random = Random::new(seed);
    let shown = |n: usize| format!("show/{}", world.tree.files[n].path.display());
    while world.goes_on() {
        let (count, bytes) = {
            let pinned = world.pinned.lock().unwrap();
            let bytes: u64 = pinned.iter().map(|(n, _)| world.tree.files[*n].len).sum();
            (pinned.len(), bytes)
        };
        let n = usize::try_from(random.below(world.tree.files.len() as u64)).unwrap();
        match random.below(5) {
            0 if count > 4 => {
                // First taken off the list: from now on it may go.
                let at = usize::try_from(random.below(count as u64)).unwrap();
                let (n, _) = world.pinned.lock().unwrap().swap_remove(at);
                drive.tell(["unpin", &shown(n)]);
            }
            1 => {
                let folder = world.tree.files[n].path.parent().unwrap().display();
                drop(drive.run(["evict", &format!("show/{folder}")]));
            }
            2 if random.below(4) == 0 => drop(drive.run(["cache", "verify"])),
            _ if bytes + world.tree.files[n].len < PINNED => {
                let is_pinned = world.pinned.lock().unwrap().iter().any(|(known, _)| *known == n);
                if !is_pinned {
                    drive.tell(["pin", &shown(n)]);
                    world.pinned.lock().unwrap().push((n, false));
                    world.pins.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        thread::park_timeout(Duration::from_millis(random.below(500)));
    }
}

/// What was seen of the drive while all of that went on.
#[derive(Default)]
struct Samples {
    count: u64,
    most_bytes: u64,
    most_on_disk: u64,
    /// Seconds since the beginning, and the daemon's resident memory in bytes.
    memory: Vec<(f64, u64)>,
    pinned_looks: u64,
}

fn sampler(world: &World, drive: &Drive) -> Samples {
    let (mut samples, begun, mut last) = (Samples::default(), Instant::now(), None::<Instant>);
    while world.goes_on() {
        let cache = &drive.status_now()["cache"];
        let bytes = cache["bytes"].as_u64().unwrap();
        assert!(
            bytes <= LIMIT,
            "the daemon itself says that it is over the limit: {cache}"
        );
        samples.most_bytes = samples.most_bytes.max(bytes);
        samples.most_on_disk = samples.most_on_disk.max(on_disk(drive.cache_dir()));
        samples.count += 1;
        if last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
            last = Some(Instant::now());
            samples
                .memory
                .push((begun.elapsed().as_secs_f64(), resident(drive.pid())));
            // What was once here whole while it was pinned, and is pinned still, is here.
            let mut pinned = world.pinned.lock().unwrap();
            for (n, was_here) in pinned.iter_mut() {
                let file = &world.tree.files[*n];
                let word = word(&world.root.join(&file.path));
                assert!(
                    !*was_here || word == "pinned",
                    "{} was evicted: {word}",
                    file.path.display()
                );
                *was_here = word == "pinned";
                samples.pinned_looks += u64::from(*was_here);
            }
        }
        thread::park_timeout(Duration::from_millis(50));
    }
    samples
}

/// What the cache's data takes on its disk: files and what is about to be deleted, each once.
fn on_disk(dir: &Path) -> u64 {
    fn walk(dir: &Path, seen: &mut HashSet<u64>) -> u64 {
        let mut sum = 0;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(m) if m.is_dir() => sum += walk(&entry.path(), seen),
                Ok(m) if seen.insert(m.ino()) => sum += m.blocks() * 512,
                // Gone meanwhile, or met before it was moved.
                _ => {}
            }
        }
        sum
    }
    let mut seen = HashSet::new();
    walk(&dir.join("objects"), &mut seen) + walk(&dir.join("trash"), &mut seen)
}

/// The resident memory of a process, in bytes, without pages of files.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

fn mean(of: &[(f64, u64)]) -> u64 {
    of.iter().map(|(_, bytes)| bytes).sum::<u64>() / (of.len() as u64).max(1)
}

#[test]
fn it_keeps_its_promises_on_a_cache_a_tenth_of_what_is_worked_on() {
    let seconds: u64 = std::env::var("BACKLOT_TEST_ENDURANCE").map_or(20, |n| n.parse().expect("a number"));
    drive_test_within(Duration::from_secs(seconds + 240), move || {
        let clock = || {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        let seed = std::env::var("BACKLOT_TEST_SEED").map_or_else(|_| clock(), |s| s.parse().expect("a number"));
        let mut random = Random::new(seed);
        let lengths = [
            300, 9_000, 70_000, 400_000, 2_100_000, 2_100_000, 2_100_000, 700_001, 9_000_000,
        ];
        let mut tree = Tree::plan(seed, 9, 12, &lengths);
        while tree.len() < 10 * LIMIT {
            tree = Tree::plan(seed, tree.files.len() + 9, 12, &lengths);
        }
        let site = tempfile::tempdir().unwrap();
        tree.write(site.path());
        let mut drive = Builder::local(site.path())
            .site("link-delay", "2ms")
            .set("cache.max-size", LIMIT)
            .set("cache.scrub", "10s")
            .set("hydration.parallel-fetches", 4)
            // The machine may be busy with other things for a while: that is no dead site.
            .set("hydration.read-deadline", "60s")
            .build()
            .mounted();
        for folder in ["publish", "work"] {
            fs::create_dir_all(drive.path(folder)).unwrap();
        }
        let world = Arc::new(World {
            root: drive.project(),
            tree,
            over: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            saves: AtomicU64::new(0),
            pins: AtomicU64::new(0),
            pinned: Mutex::default(),
        });
        let begun = Instant::now();
        let (samples, saved) = thread::scope(|scope| {
            /// Ends the others when one fails.
            struct Over<'a>(&'a AtomicBool);
            impl Drop for Over<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let (world, drive) = (&world, &drive);
            let over = || Over(&world.over);
            for _ in 0..READERS {
                let seed = random.next();
                scope.spawn(move || {
                    let _over = over();
                    reader(world, seed);
                });
            }
            let writers: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let seed = random.next();
                    scope.spawn(move || {
                        let _over = over();
                        writer(world, number, seed)
                    })
                })
                .collect();
            let seed = random.next();
            scope.spawn(move || {
                let _over = over();
                pinner(world, drive, seed);
            });
            let sampler = scope.spawn(move || {
                let _over = over();
                sampler(world, drive)
            });
            // Now and then nothing is sent for a while: what is only here must stay.
            let mut is_paused = false;
            while world.goes_on() && begun.elapsed() < Duration::from_secs(seconds) {
                thread::park_timeout(Duration::from_millis(1500 + random.below(3000)));
                is_paused = !is_paused;
                drive.tell(["queue", if is_paused { "pause" } else { "resume" }]);
            }
            world.over.store(true, Ordering::Relaxed);
            drive.tell(["queue", "resume"]);
            let saved: Vec<_> = writers.into_iter().map(|w| w.join().expect("a writer")).collect();
            (sampler.join().expect("the sampler"), saved.concat())
        });
        queue::drained(&drive, Duration::from_secs(120));
        for (path, id) in &saved {
            let read = fs::read(drive.path(path)).unwrap();
            assert_eq!(content::look(&read), Ok(Seen::Whole(*id)), "{}", path.display());
            if path.starts_with("publish") {
                let there = fs::read(site.path().join(path)).unwrap();
                assert_eq!(
                    content::look(&there),
                    Ok(Seen::Whole(*id)),
                    "{} at the site",
                    path.display()
                );
            }
        }
        let status = drive.status();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let quarter = samples.memory.len() / 4;
        let (early, late) = (
            mean(&samples.memory[quarter..2 * quarter]),
            mean(&samples.memory[3 * quarter..]),
        );
        say(&format!(
            "endurance: {} s, seed {seed}: {} reads of {} MiB, {} saves, {} pins, {} MiB fetched, {} MiB evicted, scrub {}; \
             limit {} MiB: most {} KiB by the daemon, {} KiB on disk, in {} samples; {} looks at what is pinned; memory \
             {} KiB in the second quarter, {} KiB in the last",
            begun.elapsed().as_secs(),
            count(&world.reads),
            count(&world.read_bytes) >> 20,
            count(&world.saves),
            count(&world.pins),
            status["hydration"]["fetched_bytes"].as_u64().unwrap() >> 20,
            status["cache"]["evicted_bytes"].as_u64().unwrap() >> 20,
            status["cache"]["scrub"],
            LIMIT >> 20,
            samples.most_bytes >> 10,
            samples.most_on_disk >> 10,
            samples.count,
            samples.pinned_looks,
            early >> 10,
            late >> 10,
        ));
        assert!(
            status["cache"]["evicted_bytes"].as_u64().unwrap() > 2 * LIMIT,
            "there was pressure"
        );
        assert!(
            count(&world.pins) > 0 && samples.pinned_looks > 0,
            "pins were under pressure"
        );
        assert!(
            samples.most_on_disk <= LIMIT + (READERS + WRITERS) * REQUEST,
            "{} bytes on disk",
            samples.most_on_disk
        );
        assert_eq!(status["cache"]["bad_granules"], 0);
        // Short runs are all warm-up.
        let allowed = if seconds >= 300 {
            early + early / 20 + 4 * MIB
        } else {
            2 * early + 16 * MIB
        };
        assert!(late <= allowed, "memory grows: {:?}", samples.memory);
        drive.unmount();
    });
}
