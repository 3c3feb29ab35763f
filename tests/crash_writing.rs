//! A daemon that is killed while files are saved and published through it, at random moments and at every named place
//! where a kill would hurt: whatever `close` or `fsync` had acknowledged is here afterwards, and at the site once the queue
//! is worked off, byte for byte, as a second drive with nothing in its cache reads it.
//!
//! `BACKLOT_TEST_WRITE_KILLS` sets how often (30; the long gate takes 2,000 and wants every state of the queue found 20
//! times), `BACKLOT_TEST_SEED` repeats a run's choices. `BACKLOT_TEST_INTERRUPTED` sets how many uploads are broken off
//! under a reader's eyes (20; the long gate takes 1,000).
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use backlot::state::{TaskFilter, TaskId, TaskState};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use common::content::{self, HEAD, Id, Seen, close};
use common::drive::{Builder, Drive, drive_test_within, fuse_is_missing, say};
use common::queue::{self, Found, ask, drained};
use common::relay::Relay;
use common::sshd::{Mode, Sshd};
use common::tree::Random;

/// Threads that save files.
const WORKERS: u64 = 3;
/// Kills between two looks at the whole.
const KILLS_A_CHAPTER: u64 = 8;
/// The longest that files are saved before a kill.
const LATEST: u64 = 350;
/// How long a named place may take to be passed.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long the queue may take to be worked off.
const DRAIN: Duration = Duration::from_secs(60);
/// How often the long form wants each state found.
const EACH_STATE: u64 = 20;
/// From how many kills on that is wanted.
const LONG_FORM: u64 = 2000;

/// The named places, and the latest of their passings that kills.
const PLACES: &[(&str, u64)] = &[
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

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |n| n.parse().expect("a number"))
}

/// Where nobody gives a seed, the clock does: each run kills at other moments.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    number("BACKLOT_TEST_SEED", since.as_secs())
}

/// What may be found under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum May {
    /// Nothing is.
    Absent,
    /// Just this.
    Be(Seen),
    /// This version or a beginning of it: nobody was told that it is there.
    UpTo(Id),
    /// A file that grows, no shorter.
    AtLeast(u64, u64),
}

impl May {
    fn is(self, found: Option<Seen>) -> bool {
        match (self, found) {
            (Self::Absent, found) => found.is_none(),
            (Self::Be(seen), found) => found == Some(seen),
            (Self::UpTo(id), Some(Seen::Whole(found) | Seen::Begun(found, _))) => id == found,
            (Self::AtLeast(file, len), Some(Seen::Grown(found, there))) => file == found && there >= len,
            (Self::UpTo(_), Some(Seen::Empty)) | (Self::AtLeast(_, 0), Some(Seen::Empty)) => true,
            (Self::UpTo(_) | Self::AtLeast(..), _) => false,
        }
    }

    fn of(found: Option<Seen>) -> Self {
        found.map_or(Self::Absent, Self::Be)
    }
}

/// What is known of each name, by its path in the project. The last entry is what is there when all that was asked for
/// was done.
type Known = BTreeMap<PathBuf, Vec<May>>;

/// Somebody who saves files, in folders of their own.
struct Worker {
    project: PathBuf,
    publish: PathBuf,
    work: PathBuf,
    number: u64,
    random: Random,
    known: Known,
    /// Names that something was begun for since the daemon was started.
    touched: BTreeSet<PathBuf>,
    /// Operations that were acknowledged.
    acknowledged: u64,
    version: u64,
    chapter: u64,
}

impl Worker {
    fn new(project: &Path, number: u64, random: Random) -> Self {
        Self {
            project: project.to_owned(),
            publish: format!("publish/w{number}").into(),
            work: format!("work/w{number}").into(),
            number,
            random,
            known: Known::new(),
            touched: BTreeSet::new(),
            acknowledged: 0,
            version: 0,
            chapter: 0,
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.project.join(path)
    }

    fn now(&self, path: &Path) -> May {
        self.known.get(path).map_or(May::Absent, |may| *may.last().unwrap())
    }

    /// Something begins that may leave this.
    fn may(&mut self, path: &Path, may: May) {
        self.touched.insert(path.to_owned());
        self.known
            .entry(path.to_owned())
            .or_insert_with(|| vec![May::Absent])
            .push(may);
    }

    /// It was acknowledged: nothing else is there.
    fn is(&mut self, path: &Path, is: May) {
        self.acknowledged += 1;
        self.known.insert(path.to_owned(), vec![is]);
    }

    fn id(&mut self, path: &Path) -> Id {
        self.version += 1;
        let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
        Id {
            file: u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()),
            version: self.number << 48 | self.version,
        }
    }

    fn length(&mut self) -> u64 {
        HEAD as u64
            + [100, 5_000, 60_000, 200_000][usize::try_from(self.random.below(4)).unwrap()]
            + self.random.below(1000)
    }

    /// Opens, writes, perhaps syncs, closes.
    fn write(&mut self, path: &Path, len: u64) -> io::Result<May> {
        let id = self.id(path);
        let bytes = content::whole(id, len);
        self.may(path, May::UpTo(id));
        let mut file = File::create(self.at(path))?;
        let pieces = 1 + self.random.below(3);
        let step = bytes.len().div_ceil(usize::try_from(pieces).unwrap()).max(HEAD);
        for piece in bytes.chunks(step) {
            file.write_all(piece)?;
        }
        let is = May::Be(Seen::Whole(id));
        if self.random.below(4) == 0 {
            file.sync_all()?;
            self.is(path, is);
        }
        close(file)?;
        self.is(path, is);
        Ok(is)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let is = self.now(from);
        self.may(from, May::Absent);
        self.may(to, is);
        fs::rename(self.at(from), self.at(to))?;
        self.is(from, May::Absent);
        self.is(to, is);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.may(path, May::Absent);
        fs::remove_file(self.at(path))?;
        self.is(path, May::Absent);
        Ok(())
    }

    fn is_there(&self, path: &Path) -> bool {
        self.now(path) != May::Absent
    }

    fn pick(&mut self, folder: &Path, stem: &str, of: u64) -> PathBuf {
        folder.join(format!("{stem}{}", self.random.below(of)))
    }

    /// Does one thing that programs do.
    fn step(&mut self) -> io::Result<()> {
        let (publish, work) = (self.publish.clone(), self.work.clone());
        match self.random.below(16) {
            // Write beside it, rename over it.
            0..=2 => {
                let to = self.pick(&publish, "f", 4);
                let suffix = ["@", ".tmp", "~"][usize::try_from(self.random.below(3)).unwrap()];
                let from = PathBuf::from(format!("{}{suffix}", to.display()));
                let len = self.length();
                self.write(&from, len)?;
                self.rename(&from, &to)
            }
            // The old one becomes a backup until the new one is there.
            3 => {
                let path = self.pick(&publish, "k", 2);
                let backup = path.with_extension("bak");
                if self.is_there(&path) {
                    self.rename(&path, &backup)?;
                }
                let len = self.length();
                self.write(&path, len)?;
                if self.is_there(&backup) {
                    self.remove(&backup)?;
                }
                Ok(())
            }
            // In place.
            4 | 5 => {
                let path = self.pick(&publish, "t", 3);
                let len = self.length();
                self.write(&path, len).map(drop)
            }
            6 => self.append(&publish.join("log")),
            // A file of several parts.
            7 => {
                let (from, to) = (publish.join("big.part"), publish.join("big"));
                let len = (1 << 20) + self.random.below(2 << 20);
                self.write(&from, len)?;
                self.rename(&from, &to)
            }
            8 => {
                let len = (1 << 20) + self.random.below(1 << 20);
                self.write(&publish.join("tbig"), len).map(drop)
            }
            // Work becomes a publish.
            9 => {
                let (from, to) = (self.pick(&work, "m", 3), self.pick(&publish, "m", 3));
                let len = self.length();
                self.write(&from, len)?;
                self.rename(&from, &to)
            }
            // A publish is none any more.
            10 => {
                let (from, to) = (self.pick(&publish, "m", 3), self.pick(&work, "b", 3));
                if self.is_there(&from) {
                    self.rename(&from, &to)?;
                }
                Ok(())
            }
            11 => {
                let path = self.pick(&publish, "m", 3);
                if self.is_there(&path) {
                    self.remove(&path)?;
                }
                Ok(())
            }
            12 => self.move_folder(),
            13 => self.links(),
            14 => {
                let (a, b) = (publish.join("f0"), publish.join("f1"));
                if !self.is_there(&a) || !self.is_there(&b) {
                    return Ok(());
                }
                let (was_a, was_b) = (self.now(&a), self.now(&b));
                self.may(&a, was_b);
                self.may(&b, was_a);
                renameat_with(CWD, self.at(&a), CWD, self.at(&b), RenameFlags::EXCHANGE)?;
                self.is(&a, was_b);
                self.is(&b, was_a);
                Ok(())
            }
            _ => {
                // The site has a folder by this name, until all is looked at.
                let len = self.length();
                let name = format!("blocked{}", self.chapter);
                self.write(&publish.join(name), len).map(drop)
            }
        }
    }

    fn append(&mut self, path: &Path) -> io::Result<()> {
        let (file_number, from) = match self.now(path) {
            May::Be(Seen::Grown(file, len)) | May::AtLeast(file, len) => (file, len),
            _ => (self.id(path).file, 0),
        };
        let len = HEAD as u64 + self.random.below(30_000);
        self.may(path, May::AtLeast(file_number, from));
        let mut file = OpenOptions::new().append(true).create(true).open(self.at(path))?;
        // What is there may be longer than what was acknowledged.
        let there = file.metadata()?.len();
        file.write_all(&content::grown(file_number, there..there + len))?;
        let is = May::Be(Seen::Grown(file_number, there + len));
        if self.random.below(2) == 0 {
            file.sync_all()?;
            self.is(path, is);
        }
        close(file)?;
        self.is(path, is);
        Ok(())
    }

    fn move_folder(&mut self) -> io::Result<()> {
        let folder = |n: u64| self.publish.join(format!("d{n}"));
        let (mut here, mut there) = (folder(0), folder(1));
        if self.at(&there).is_dir() {
            std::mem::swap(&mut here, &mut there);
        }
        fs::create_dir_all(self.at(&here))?;
        for n in 0..2 {
            let len = self.length();
            self.write(&here.join(format!("in{n}")), len)?;
        }
        if self.random.below(2) == 0 {
            return Ok(());
        }
        let inside: Vec<(PathBuf, PathBuf, May)> = self
            .known
            .keys()
            .filter_map(|path| Some((path.clone(), there.join(path.strip_prefix(&here).ok()?), self.now(path))))
            .collect();
        for (from, to, is) in &inside {
            self.may(from, May::Absent);
            self.may(to, *is);
        }
        fs::rename(self.at(&here), self.at(&there))?;
        for (from, to, is) in inside {
            self.is(&from, May::Absent);
            self.is(&to, is);
        }
        Ok(())
    }

    /// A file with two names, written through one of them.
    fn links(&mut self) -> io::Result<()> {
        let (a, b) = (self.publish.join("ha"), self.publish.join("hb"));
        for path in [&a, &b] {
            if self.at(path).exists() {
                self.remove(path)?;
            }
        }
        let len = self.length();
        let is = self.write(&a, len)?;
        self.may(&b, is);
        fs::hard_link(self.at(&a), self.at(&b))?;
        self.is(&b, is);
        if self.random.below(2) == 0 {
            return Ok(());
        }
        let id = self.id(&a);
        for path in [&a, &b] {
            self.may(path, May::UpTo(id));
        }
        let mut file = File::create(self.at(&a))?;
        file.write_all(&content::whole(id, len))?;
        close(file)?;
        for path in [&a, &b] {
            self.is(path, May::Be(Seen::Whole(id)));
        }
        Ok(())
    }

    /// Saves files until the daemon is gone.
    fn run(mut self) -> Self {
        let folders = [self.publish.clone(), self.work.clone()];
        if folders
            .iter()
            .any(|folder| fs::create_dir_all(self.at(folder)).is_err())
        {
            return self;
        }
        loop {
            if let Err(e) = self.step() {
                // ENOTCONN, ECONNABORTED: what a mount says whose daemon is gone. Whatever else it says is no kill's doing.
                // EIO is what becomes of it where bytes were on their way; then the next question gets no answer.
                let is_gone = |e: &io::Error| matches!(e.raw_os_error(), Some(103 | 107));
                let is_io = e.raw_os_error() == Some(5);
                assert!(
                    is_gone(&e) || is_io && fs::read_dir(&self.project).is_err_and(|e| is_gone(&e)),
                    "worker {} was refused something: {e}",
                    self.number
                );
                return self;
            }
        }
    }
}

/// Compares all that a kill may have left half done with what may be there, and takes note of what is.
fn take_stock(project: &Path, worker: &mut Worker) {
    for path in std::mem::take(&mut worker.touched) {
        let found = seen(&project.join(&path));
        let may = &worker.known[&path];
        assert!(
            may.iter().any(|may| may.is(found)),
            "{}: {found:?} is there after a kill, and should be one of {may:?}",
            path.display()
        );
        worker.known.insert(path, vec![May::of(found)]);
    }
}

fn seen(path: &Path) -> Option<Seen> {
    match fs::read(path) {
        Ok(bytes) => Some(content::look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// Reads all that is at a site under final names, again and again; returns how many files it read.
fn watcher(site: PathBuf, over: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut read = 0;
        while !over.load(Relaxed) {
            let mut folders = vec![site.clone()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                    let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                    if path.is_dir() {
                        folders.push(path);
                    } else if !name.starts_with(".backlot-")
                        && let Ok(bytes) = fs::read(&path)
                    {
                        let seen = content::look(&bytes);
                        let seen = seen.unwrap_or_else(|e| panic!("at the site, {}: {e}", path.display()));
                        // These get their names once they were closed.
                        let is_whole = matches!(seen, Seen::Whole(_));
                        let must_be = ["f0", "f1", "f2", "f3", "big"].contains(&name.as_str());
                        assert!(is_whole || !must_be, "at the site, {}: {seen:?}", path.display());
                        read += 1;
                    }
                }
            }
            thread::park_timeout(Duration::from_millis(3));
        }
        read
    })
}

/// What a run found, by how often.
#[derive(Default)]
struct Tally {
    states: BTreeMap<Found, u64>,
    places: BTreeMap<&'static str, u64>,
    kills: u64,
    acknowledged: u64,
    watched: u64,
    chapters: u64,
    drained: Duration,
}

impl Tally {
    fn add(&mut self, other: Self) {
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

    fn print(&self, took: Duration) {
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
struct Lane {
    drive: Drive,
    site: PathBuf,
    second: Box<dyn Fn() -> Drive + Send>,
    random: Random,
    workers: Vec<Worker>,
    tally: Tally,
}

/// How a round ends.
#[derive(Clone, Copy, Debug)]
enum End {
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

    fn run(mut self, kills: u64) -> Tally {
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
fn try_stock(project: &Path, worker: &mut Worker) -> bool {
    for path in worker.touched.clone() {
        let found = match fs::read(project.join(&path)) {
            Ok(bytes) => Some(content::look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) if matches!(e.raw_os_error(), Some(103 | 107)) => return false,
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

fn settings(builder: Builder, settle: &str) -> Builder {
    builder
        .set("publish.settle", settle)
        .set("publish.part-size", "1MiB")
        .set("publish.retry-max", "1s")
        .set("publish.parallel", 4)
        .set("scan.recheck-after", "24h")
        .set("hydration.read-deadline", "10s")
        .set("projects.show.remote-delete", "propagate")
}

#[test]
fn what_was_acknowledged_is_at_the_site_however_often_the_daemon_is_killed() {
    if fuse_is_missing() {
        return;
    }
    let kills = number("BACKLOT_TEST_WRITE_KILLS", 30);
    let seed = seed();
    say(&format!("crash: {kills} kills, BACKLOT_TEST_SEED={seed}"));
    let lanes = ["local", "settling", "sftp"];
    let begun = Instant::now();
    let (send, tallies) = sync_channel(lanes.len());
    let mut running = Vec::new();
    for (number, name) in lanes.into_iter().enumerate() {
        let send = send.clone();
        let mine = kills / 3 + u64::from(kills % 3 > number as u64);
        if std::env::var("BACKLOT_TEST_LANE").is_ok_and(|lane| lane != name) {
            continue;
        }
        let body = move || {
            let limit = Duration::from_secs(120 + 10 * mine);
            drive_test_within(limit, move || {
                let mut random = Random::new(seed ^ (number as u64) << 32);
                let folder = tempfile::tempdir().unwrap();
                let server = (name == "sftp").then(|| Sshd::start_or_skip(Mode::Internal));
                let (site, make): (_, Box<dyn Fn() -> Builder + Send>) = match &server {
                    Some(None) => return drop(send.send(None)),
                    Some(Some(server)) => {
                        let settings = server.settings(&server.root());
                        (server.root(), Box::new(move || Builder::sftp(&settings)))
                    }
                    None => {
                        let site = folder.path().to_owned();
                        (
                            site.clone(),
                            Box::new(move || {
                                Builder::local(&site)
                                    .site("link-delay", "2ms")
                                    .site("link-rate", "60MB")
                            }),
                        )
                    }
                };
                let settle = if name == "settling" { "30ms" } else { "0ms" };
                let drive = settings(make(), settle).build();
                let project = drive.project();
                let workers = (0..WORKERS)
                    .map(|number| Worker::new(&project, number, Random::new(random.next())))
                    .collect();
                let lane = Lane {
                    drive,
                    site,
                    second: Box::new(move || settings(make(), "0ms").build()),
                    random,
                    workers,
                    tally: Tally::default(),
                };
                drop(send.send(Some(lane.run(mine))));
            });
        };
        running.push(thread::Builder::new().name(name.to_owned()).spawn(body).unwrap());
    }
    drop(send);
    let mut failed = None;
    for lane in running {
        if let Err(panic) = lane.join() {
            failed = Some(panic);
        }
    }
    if let Some(panic) = failed {
        std::panic::resume_unwind(panic);
    }
    let mut tally = Tally::default();
    tallies.iter().flatten().for_each(|lane| tally.add(lane));
    tally.print(begun.elapsed());
    assert!(tally.acknowledged > kills, "files were saved");
    if kills >= LONG_FORM {
        for state in Found::ALL {
            let n = tally.states.get(&state).copied().unwrap_or(0);
            assert!(n >= EACH_STATE, "{state:?} was found {n} times");
        }
        for (place, _) in PLACES {
            assert!(tally.places.contains_key(place), "no kill came at {place}");
        }
    } else {
        assert!(tally.states.len() >= 6, "kills found work in many states");
    }
}

/// How an upload is broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Break {
    Kill,
    CutLink,
}

/// Uploads of files of several parts over SFTP, broken off in the middle, while somebody reads the site: under its final
/// name a file is there whole, in the version before or in the new one.
#[test]
fn who_reads_at_the_site_sees_no_short_or_mixed_file_however_often_uploads_are_broken_off() {
    let wanted = number("BACKLOT_TEST_INTERRUPTED", 20);
    let seed = seed();
    say(&format!(
        "reader: {wanted} interrupted uploads, BACKLOT_TEST_SEED={seed}"
    ));
    drive_test_within(Duration::from_secs(120 + 10 * wanted), move || {
        let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let relay = Relay::start(([127, 0, 0, 1], server.port()).into()).unwrap();
        let key = fs::read_to_string(server.file("host_key.pub")).unwrap();
        let hosts = server.file("relay_hosts");
        fs::write(&hosts, format!("[127.0.0.1]:{} {key}", relay.port())).unwrap();
        let mut site = server.settings(&server.root());
        (site.port, site.known_hosts) = (relay.port(), hosts);
        let mut drive = settings(Builder::sftp(&site), "0ms").build();
        drive.scan();
        drive.mount();
        fs::create_dir(drive.path("publish")).unwrap();
        let target = server.root().join("publish/plate");

        let over = Arc::new(AtomicBool::new(false));
        let reading = {
            let (target, over) = (target.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let (mut read, mut seen) = (0_u64, BTreeSet::new());
                while !over.load(Relaxed) {
                    if let Ok(bytes) = fs::read(&target) {
                        match content::look(&bytes) {
                            Ok(Seen::Whole(id)) => seen.insert(id),
                            other => panic!("under its final name there is {other:?}"),
                        };
                        read += 1;
                    }
                    thread::park_timeout(Duration::from_micros(500));
                }
                (read, seen.len())
            })
        };
        let mut random = Random::new(seed);
        relay.set_rate(Some(40_000_000));
        let (mut broken, mut by_kill, mut resumed, mut version) = (0, 0, 0, 0);
        while broken < wanted {
            // A new version each time the last one arrived, and sometimes before.
            version += 1;
            let id = Id { file: 1, version };
            let len = (3 << 20) + random.below(2 << 20);
            fs::write(drive.path("publish/plate"), content::whole(id, len)).unwrap();
            let begun = Instant::now();
            let (mut breaks, mut last) = (random.below(3), 0);
            while begun.elapsed() < DRAIN {
                let tasks = queue::tasks(drive.data_dir());
                let Some(task) = tasks.first() else { break };
                let is_under_way = task.state == TaskState::Running && task.done_bytes > 0 && task.done_bytes < len;
                if breaks == 0 || !is_under_way || task.done_bytes == last {
                    thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                resumed += u64::from(last > 0 && task.done_bytes > last);
                last = task.done_bytes;
                thread::park_timeout(Duration::from_micros(random.below(20_000)));
                let how = if random.below(2) == 0 {
                    Break::Kill
                } else {
                    Break::CutLink
                };
                if how == Break::Kill {
                    drive.kill9();
                } else if relay.reset() == 0 {
                    continue;
                }
                // What the site has now tells whether it was in the middle of it.
                let is_there = seen(&target) == Some(Seen::Whole(id));
                if how == Break::Kill {
                    drive.mount();
                }
                if is_there {
                    continue;
                }
                (broken, breaks) = (broken + 1, breaks - 1);
                by_kill += u64::from(how == Break::Kill);
            }
            assert!(!reading.is_finished(), "nothing but whole files were read");
            if random.below(4) > 0 {
                drained(&drive, DRAIN);
                assert_eq!(seen(&target), Some(Seen::Whole(id)));
            }
        }
        drained(&drive, DRAIN);
        over.store(true, Relaxed);
        let (read, seen) = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        say(&format!(
            "reader: {broken} uploads of {version} versions broken off, {by_kill} by a kill, {resumed} gone on with; {read} reads \
             at the site, {seen} versions seen, all whole"
        ));
        let left: Vec<_> = fs::read_dir(server.root().join("publish"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["plate"], "nothing else is left there");
        assert!(read > 0 && by_kill > 0 && by_kill < broken, "both kinds of break fired");
    });
}
