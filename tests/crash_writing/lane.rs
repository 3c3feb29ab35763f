//! A drive that is killed again and again, at a moment or at a named place, and what was found of it afterwards.
//!
//! Refuses to know: what is saved. Invariant: a kill is counted for a place only where the process died there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use backlot::state::{TaskFilter, TaskId, TaskState};

use crate::common::content;
use crate::common::drive::{Drive, say};
use crate::common::queue::{self, Found, ask, drained};
use crate::common::tree::Random;
use crate::worker::{May, Worker, is_kill, seen, take_stock, watcher};

/// Threads that save files.
pub(crate) const WORKERS: u64 = 3;
/// Kills between two looks at the whole.
const KILLS_A_CHAPTER: u64 = 8;
/// The longest that files are saved before a kill.
const LATEST: u64 = 350;
/// How long a named place may take to be passed.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long the queue may take to be worked off.
pub(crate) const DRAIN: Duration = Duration::from_secs(60);
/// How often the long form wants each state found.
pub(crate) const EACH_STATE: u64 = 20;
/// From how many kills on that is wanted.
pub(crate) const LONG_FORM: u64 = 2000;

/// The named places, and the latest of their passings that kills.
pub(crate) const PLACES: &[(&str, u64)] = &[
    ("write.begun", 8),
    ("create.row", 8),
    ("copy.made", 3),
    ("copy.done", 3),
    ("close.synced", 8),
    ("close.queued", 8),
    ("rename.synced", 3),
    ("rename.done", 6),
    ("remove.done", 3),
    ("link.done", 1),
    ("home.copied", 1),
    ("home.done", 1),
    ("copy.named", 1),
    ("task.claimed", 6),
    ("upload.noted", 6),
    ("upload.begun", 6),
    ("upload.part", 8),
    ("upload.parts", 6),
    ("upload.committed", 6),
    ("adopt.part", 6),
    ("publish.adopted", 6),
    ("publish.recorded", 6),
    ("trash.emptied", 6),
    ("upload.recorded", 6),
    ("upload.aborted", 2),
    ("upload.cleared", 2),
    ("delete.looked", 2),
    ("delete.done", 2),
    ("delete.recorded", 2),
    ("recover.closed", 1),
    ("recover.trash", 1),
];

/// What a run found, by how often.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) states: BTreeMap<Found, u64>,
    pub(crate) places: BTreeMap<&'static str, u64>,
    pub(crate) kills: u64,
    pub(crate) acknowledged: u64,
    pub(crate) watched: u64,
    pub(crate) chapters: u64,
    pub(crate) drained: Duration,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        for (state, n) in other.states {
            *self.states.entry(state).or_default() += n;
        }
        for (place, n) in other.places {
            *self.places.entry(place).or_default() += n;
        }
        self.kills += other.kills;
        self.acknowledged += other.acknowledged;
        self.watched += other.watched;
        self.chapters += other.chapters;
        self.drained = self.drained.max(other.drained);
    }

    pub(crate) fn print(&self, took: Duration) {
        say(&format!(
            "crash: {} kills in {took:.0?}, {} operations acknowledged, {} times worked off and compared with what a second \
             drive reads (the longest took {:.1?}), {} reads at the site meanwhile",
            self.kills, self.acknowledged, self.chapters, self.drained, self.watched
        ));
        for state in Found::ALL {
            let n = self.states.get(&state).unwrap_or(&0);
            say(&format!("crash: {n:6} kills found {state:?}"));
        }
        for (place, _) in PLACES {
            let n = self.places.get(place).unwrap_or(&0);
            say(&format!("crash: {n:6} kills at {place}"));
        }
    }
}

/// One drive that is killed again and again.
pub(crate) struct Lane {
    pub(crate) drive: Drive,
    pub(crate) site: PathBuf,
    pub(crate) second: Box<dyn Fn() -> Drive + Send>,
    pub(crate) random: Random,
    pub(crate) workers: Vec<Worker>,
    pub(crate) tally: Tally,
}

/// How a round ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// At a moment.
    After(u64),
    /// At a moment, and before that reading a file for its upload failed.
    Failing(u64),
    /// At a named place.
    At(&'static str, u64),
}

impl Lane {
    fn end(&mut self, quiet: bool) -> End {
        let after = End::After(5 + self.random.below(LATEST));
        match self.random.below(10) {
            0..=2 => after,
            3 => End::Failing(60 + self.random.below(LATEST)),
            _ if quiet => after,
            _ => {
                // One of the three that were met least, so that rare ones have their chance.
                let mut places: Vec<_> = PLACES.to_vec();
                places.sort_by_key(|(place, _)| self.tally.places.get(place).unwrap_or(&0));
                let among = if self.random.below(2) == 0 {
                    4
                } else {
                    places.len() as u64
                };
                let (place, latest) = places[usize::try_from(self.random.below(among)).unwrap()];
                End::At(place, 1 + self.random.below(latest))
            }
        }
    }

    /// Holds back, pauses, or lets go, while no daemon runs; says whether the queue stands still.
    fn meddle(&mut self) -> bool {
        let (paused, held) = (self.random.below(12) == 0, self.random.below(6) == 0);
        let every = 1 + self.random.below(3);
        queue::change(&self.drive, move |txn| {
            for root in txn.projects()?.into_iter().map(|project| project.root) {
                txn.pause_queue(root, paused)?;
            }
            for task in txn.tasks(TaskFilter::default(), TaskId(0), 100_000)? {
                if held && task.id.0 % every == 0 && !task.is_leftover() {
                    txn.hold_task(task.id, true)?;
                } else if task.state == TaskState::Held {
                    txn.hold_task(task.id, false)?;
                }
            }
            Ok(())
        });
        paused
    }

    /// A folder at the site where each worker's next file of one name wants to go, or none any more.
    fn bar(&mut self, bar: bool) {
        for worker in &mut self.workers {
            worker.chapter += u64::from(bar);
            let name = format!("blocked{}", worker.chapter);
            let path = self.site.join(&worker.publish).join(name);
            if bar && path.parent().is_some_and(Path::is_dir) {
                fs::create_dir(&path).unwrap();
            } else if !bar && path.is_dir() {
                fs::remove_dir(&path).unwrap();
            }
        }
    }

    fn round(&mut self) {
        let quiet = self.meddle();
        let end = self.end(quiet);
        let failpoint = match end {
            End::After(_) => None,
            End::Failing(_) => Some("upload.read:error:1".to_owned()),
            End::At(place, n) => Some(format!("{place}:kill:{n}")),
        };
        self.drive.set_env("BACKLOT_FAILPOINT", failpoint.as_deref());
        self.drive
            .set_env("BACKLOT_LOG", std::env::var("BACKLOT_TEST_LOG").ok().as_deref());
        if let Err(refused) = self.drive.try_mount() {
            // Killed before it was ready, as it was told to be.
            assert!(
                matches!(end, End::At(..)) && refused.code.is_none(),
                "{end:?}: {refused:?}"
            );
            return self.count(end, true);
        }
        let project = self.drive.project();
        let mut workers = Vec::new();
        for mut worker in std::mem::take(&mut self.workers) {
            let project = project.clone();
            workers.push(thread::spawn(move || {
                // The daemon may be killed while stock is taken: the rest of it is taken the next time.
                if try_stock(&project, &mut worker) {
                    worker.run()
                } else {
                    worker
                }
            }));
        }
        let begun = Instant::now();
        let hit = match end {
            End::After(ms) | End::Failing(ms) => {
                thread::park_timeout(Duration::from_millis(ms));
                false
            }
            End::At(..) => loop {
                if !self.drive.is_running() {
                    break true;
                }
                if begun.elapsed() > PATIENCE {
                    break false;
                }
                thread::park_timeout(Duration::from_millis(2));
            },
        };
        if self.drive.is_running() {
            self.drive.kill9();
        }
        for worker in workers {
            let worker = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.workers.push(worker);
        }
        self.count(end, hit);
    }

    fn count(&mut self, end: End, hit: bool) {
        self.tally.kills += 1;
        if let (End::At(place, _), true) = (end, hit) {
            *self.tally.places.entry(place).or_default() += 1;
        }
        for state in queue::found(self.drive.data_dir(), &self.site) {
            *self.tally.states.entry(state).or_default() += 1;
        }
    }

    /// Lets the queue be worked off and compares everything.
    fn look_at_all(&mut self) {
        self.bar(false);
        queue::change(&self.drive, |txn| {
            for root in txn.projects()?.into_iter().map(|project| project.root) {
                txn.pause_queue(root, false)?;
            }
            for task in txn.tasks(TaskFilter::default(), TaskId(0), 100_000)? {
                if task.state == TaskState::Held {
                    txn.hold_task(task.id, false)?;
                }
            }
            Ok(())
        });
        self.drive.set_env("BACKLOT_FAILPOINT", None);
        self.drive.mount();
        // What nobody had finished is held back, and is sent as it is once somebody says so.
        self.drive.tell(["queue", "release", "--all"]);
        let project = self.drive.project();
        for worker in &mut self.workers {
            take_stock(&project, worker);
        }
        self.tally.drained = self.tally.drained.max(drained(&self.drive, DRAIN));
        self.tally.chapters += 1;

        let here = queue::files(&project.join("publish"));
        for worker in &self.workers {
            for (path, may) in &worker.known {
                let found = seen(&project.join(path));
                assert!(may[0].is(found), "{}: {found:?} in place of {may:?}", path.display());
            }
        }
        let same = |what: &str, there: &BTreeMap<PathBuf, Vec<u8>>| {
            let names = |of: &BTreeMap<PathBuf, Vec<u8>>| of.keys().cloned().collect::<BTreeSet<_>>();
            let (ours, theirs) = (names(&here), names(there));
            assert!(
                ours == theirs,
                "{what}: the drive alone has {:?}, there alone is {:?}",
                ours.difference(&theirs).collect::<Vec<_>>(),
                theirs.difference(&ours).collect::<Vec<_>>()
            );
            for (path, bytes) in &here {
                let shown = (content::look(bytes), content::look(&there[path]));
                assert!(*bytes == there[path], "{what}: {}: {shown:?}", path.display());
            }
        };
        same("at the site", &queue::files(&self.site.join("publish")));
        let beside: Vec<_> = fs::read_dir(&self.site)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(beside, ["publish"], "nothing else is at the site");

        let mut second = (self.second)();
        second.scan();
        second.mount();
        same("a second drive", &queue::files(&second.project().join("publish")));
        second.unmount();

        let doctor = self.drive.run(["doctor", "--deep"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains("every invariant holds"), "{said}");
        let local = self.drive.data_dir().join("local");
        let objects: BTreeSet<_> = queue::files(&local).into_keys().collect();
        let known = ask(self.drive.data_dir(), |txn| txn.objects());
        let named = |path: &PathBuf| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap();
            u64::from_str_radix(stem, 16).is_ok_and(|object| known.contains(&object))
        };
        let strangers: Vec<_> = objects.iter().filter(|path| !named(path)).collect();
        assert!(strangers.is_empty(), "objects that nobody knows: {strangers:?}");
        self.drive.unmount();
        self.bar(true);
    }

    pub(crate) fn run(mut self, kills: u64) -> Tally {
        let over = Arc::new(AtomicBool::new(false));
        let watching = watcher(self.site.clone(), Arc::clone(&over));
        self.drive.scan();
        while self.tally.kills < kills {
            for _ in 0..KILLS_A_CHAPTER.min(kills - self.tally.kills) {
                self.round();
                assert!(!watching.is_finished(), "nothing wrong was seen at the site");
            }
            self.look_at_all();
        }
        over.store(true, Relaxed);
        self.tally.watched = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.tally.acknowledged = self.workers.iter().map(|worker| worker.acknowledged).sum();
        self.tally
    }
}

/// As [`take_stock`], for as long as the daemon is there; says whether all of it was taken.
pub(crate) fn try_stock(project: &Path, worker: &mut Worker) -> bool {
    for path in worker.touched.clone() {
        let found = match fs::read(project.join(&path)) {
            Ok(bytes) => Some(content::look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) if is_kill(project, &e) => return false,
            Err(e) => panic!("{}: {e}", path.display()),
        };
        let may = &worker.known[&path];
        assert!(
            may.iter().any(|may| may.is(found)),
            "{}: {found:?} is there after a kill, and should be one of {may:?}",
            path.display()
        );
        worker.known.insert(path.clone(), vec![May::of(found)]);
        worker.touched.remove(&path);
    }
    true
}
