//! Somebody who saves files, in folders of their own, and knows what may be there after a kill.
//!
//! Refuses to know: when and where a kill comes. Invariant: what was acknowledged is the last thing known of a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::content::{self, HEAD, Id, Seen, close};
use crate::common::tree::Random;

/// What may be found under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum May {
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
    pub(crate) fn is(self, found: Option<Seen>) -> bool {
        match (self, found) {
            (Self::Absent, found) => found.is_none(),
            (Self::Be(seen), found) => found == Some(seen),
            (Self::UpTo(id), Some(Seen::Whole(found) | Seen::Begun(found, _))) => id == found,
            (Self::AtLeast(file, len), Some(Seen::Grown(found, there))) => file == found && there >= len,
            (Self::UpTo(_), Some(Seen::Empty)) | (Self::AtLeast(_, 0), Some(Seen::Empty)) => true,
            (Self::UpTo(_) | Self::AtLeast(..), _) => false,
        }
    }

    pub(crate) fn of(found: Option<Seen>) -> Self {
        found.map_or(Self::Absent, Self::Be)
    }
}

/// What is known of each name, by its path in the project. The last entry is what is there when all that was asked for
/// was done.
pub(crate) type Known = BTreeMap<PathBuf, Vec<May>>;

/// Somebody who saves files, in folders of their own.
pub(crate) struct Worker {
    pub(crate) project: PathBuf,
    pub(crate) publish: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) number: u64,
    pub(crate) random: Random,
    pub(crate) known: Known,
    /// Names that something was begun for since the daemon was started.
    pub(crate) touched: BTreeSet<PathBuf>,
    /// Operations that were acknowledged.
    pub(crate) acknowledged: u64,
    pub(crate) version: u64,
    pub(crate) chapter: u64,
}

/// The worker that moves folders.
const FOLDERS: u64 = 2;

impl Worker {
    pub(crate) fn new(project: &Path, number: u64, random: Random) -> Self {
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

    pub(crate) fn at(&self, path: &Path) -> PathBuf {
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
    pub(crate) fn is(&mut self, path: &Path, is: May) {
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
        // One of them moves folders to and fro, faster than the site follows.
        let step = match self.random.below(16) {
            0..=11 if self.number == FOLDERS => 12,
            step => step,
        };
        match step {
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
    pub(crate) fn run(mut self) -> Self {
        let folders = [self.publish.clone(), self.work.clone()];
        if folders
            .iter()
            .any(|folder| fs::create_dir_all(self.at(folder)).is_err())
        {
            return self;
        }
        loop {
            if let Err(e) = self.step() {
                assert!(
                    is_kill(&self.project, &e),
                    "worker {} was refused something: {e}",
                    self.number
                );
                return self;
            }
        }
    }
}

/// Says whether an error is a kill's doing. ENOTCONN, ECONNABORTED: what a mount says whose daemon is gone. EIO is what becomes of it
/// where bytes were on their way; then the next question gets no answer. Whatever else it says is no kill's doing.
pub(crate) fn is_kill(project: &Path, error: &io::Error) -> bool {
    let is_gone = |e: &io::Error| matches!(e.raw_os_error(), Some(103 | 107));
    is_gone(error) || error.raw_os_error() == Some(5) && fs::read_dir(project).is_err_and(|e| is_gone(&e))
}

/// Compares all that a kill may have left half done with what may be there, and takes note of what is.
pub(crate) fn take_stock(project: &Path, worker: &mut Worker) {
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

pub(crate) fn seen(path: &Path) -> Option<Seen> {
    match fs::read(path) {
        Ok(bytes) => Some(content::look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// Reads all that is at a site under final names, again and again; returns how many files it read.
pub(crate) fn watcher(site: PathBuf, over: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
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
