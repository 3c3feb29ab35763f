//! Files whose bytes are this machine's own, while somebody uses them.
//!
//! Owns: the bytes of such a file and what is known of it between two rows of the store. Refuses to know: names, zones,
//! the queue. Invariants: before a byte changes, the store's row says that the file is being written; while the host
//! writes by itself, size and time are what the object's file says, looked at whenever somebody asks.
//!
//! Lock order: `LocalFile::turn` (async) → `LocalFile::live`. No lock is held over an await but `turn`, which waits for the
//! store and the disk only.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::drive::now_ns;
use super::objects::set_mtime;
use super::writing::object_mtime_ns;
use crate::model::Ino;

/// An own file in use.
#[derive(Debug)]
pub(super) struct LocalFile {
    pub(super) ino: Ino,
    live: Mutex<Live>,
    /// Held while rows about writing are on their way to the store, so that they get there in order.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Held while the disk is at work on its bytes for somebody who was promised them.
    pub(super) syncs: tokio::sync::Mutex<()>,
}

/// What is known of it now.
#[derive(Debug)]
struct Live {
    object: Option<u64>,
    file: Option<Arc<File>>,
    /// The row says that it is being written: what counts is here.
    writing: bool,
    facts: Facts,
    generation: u64,
    /// Bytes that no sync has covered.
    unsynced: bool,
    /// The object's entry in its folder is not known to survive a power cut.
    new_entry: bool,
    /// The file became a mirror: these bytes are what the site has, and writing begins with a copy.
    retired: bool,
    /// Bytes written since the disk was set to work on them.
    gathered: u64,
    /// The disk is at work on them.
    syncing: bool,
    /// The disk failed at a sync: it says so once, and may have let go of bytes that are wanted.
    torn: bool,
    /// Handles through which the host writes by itself.
    native: usize,
    /// What was found at the last look at what the host writes.
    seen: Seen,
}

/// A look at the object's file.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Its own modification time.
    mtime_ns: i64,
    /// When it was looked at, by our clock: what changed since then was written later. The disk's clock is coarser, and
    /// would date it before things that were done before it.
    at_ns: i64,
    /// Something was written by the host since the row last said what the file is.
    written: bool,
}

impl Live {
    /// Takes up what the host has written by itself.
    fn look(&mut self) {
        if self.native == 0 {
            return;
        }
        let Some(file) = &self.file else { return };
        let at_ns = now_ns();
        let (Ok(metadata), Ok(mtime_ns)) = (file.metadata(), object_mtime_ns(file)) else {
            return;
        };
        if metadata.len() != self.facts.size || mtime_ns != self.seen.mtime_ns {
            let written_ns = mtime_ns.max(self.seen.at_ns);
            self.facts = Facts {
                size: metadata.len(),
                mtime_ns: written_ns,
                ctime_ns: written_ns.max(self.facts.ctime_ns),
            };
            self.seen.mtime_ns = mtime_ns;
            self.seen.written = true;
            self.unsynced = true;
        }
        self.seen.at_ns = at_ns;
    }

    /// What was done to the object's file by us is no news.
    fn looked(&mut self) {
        if self.native > 0
            && let Some(Ok(mtime_ns)) = self.file.as_deref().map(object_mtime_ns)
        {
            self.seen.mtime_ns = mtime_ns;
        }
    }
}

/// Size and times of a file that is being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
}

/// What has to be brought to the disk before something is promised.
#[derive(Debug)]
pub(super) struct Unsynced {
    pub(super) file: Arc<File>,
    /// Its entry in its folder as well.
    pub(super) entry: Option<u64>,
}

impl LocalFile {
    pub(super) fn new(ino: Ino, object: Option<u64>, generation: u64, facts: Facts) -> Arc<Self> {
        Arc::new(Self {
            ino,
            live: Mutex::new(Live {
                object,
                file: None,
                writing: false,
                facts,
                generation,
                unsynced: false,
                new_entry: false,
                retired: false,
                gathered: 0,
                syncing: false,
                torn: false,
                native: 0,
                seen: Seen::default(),
            }),
            turn: tokio::sync::Mutex::new(()),
            syncs: tokio::sync::Mutex::new(()),
        })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With what the host has written by itself until now.
    fn live_now(&self) -> MutexGuard<'_, Live> {
        let mut live = self.live();
        live.look();
        live
    }

    /// The host is about to write by itself, through one more handle. The row says that the file is being written.
    pub(super) fn begin_native(&self) {
        let mut live = self.live_now();
        if live.native == 0
            && let Some(file) = live.file.clone()
        {
            if object_mtime_ns(&file).is_ok_and(|mtime_ns| mtime_ns != live.facts.mtime_ns) {
                // Should the drive end before the row is written, the object's time counts.
                set_mtime(&file, live.facts.mtime_ns);
            }
            live.seen = Seen {
                mtime_ns: object_mtime_ns(&file).unwrap_or_default(),
                at_ns: now_ns(),
                written: false,
            };
        }
        live.native += 1;
    }

    /// A handle is gone through which the host wrote by itself. Says whether something was written that no row announces.
    pub(super) fn end_native(&self) -> bool {
        let mut live = self.live_now();
        live.native = live.native.saturating_sub(1);
        live.seen.written && !live.writing && !live.retired
    }

    /// Takes the file of the object, opened or made by whoever knows how.
    pub(super) fn set_file(&self, object: u64, file: Arc<File>, is_new: bool) {
        let mut live = self.live();
        live.object = Some(object);
        live.file = Some(file);
        live.new_entry |= is_new;
        live.unsynced |= is_new;
    }

    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.live().file.clone()
    }

    pub(super) fn object(&self) -> Option<u64> {
        self.live().object
    }

    pub(super) fn generation(&self) -> u64 {
        self.live().generation
    }

    pub(super) fn is_writing(&self) -> bool {
        self.live().writing
    }

    /// The file became a mirror: these bytes are the site's now, and writing begins with a copy.
    pub(super) fn retire(&self) {
        let mut live = self.live();
        live.retired = true;
        live.writing = false;
    }

    pub(super) fn is_retired(&self) -> bool {
        self.live().retired
    }

    /// The row says so: it is being written from now on.
    pub(super) fn begun(&self, generation: u64) {
        let mut live = self.live();
        live.writing = true;
        live.generation = generation;
    }

    /// Returns what the file is now: more recent than a row that says that it is being written.
    pub(super) fn facts(&self) -> Facts {
        self.live_now().facts
    }

    /// Takes over what a later row says. Says whether this is as recent as the row.
    pub(super) fn catch_up(&self, generation: u64, facts: Facts) -> bool {
        let mut live = self.live();
        if !live.writing && live.generation < generation {
            live.generation = generation;
            live.facts = facts;
        }
        live.generation >= generation
    }

    pub(super) fn size(&self) -> u64 {
        self.facts().size
    }

    /// Sets times that somebody asked for; the next write sets its own.
    pub(super) fn set_times(&self, mtime_ns: Option<i64>, ctime_ns: i64) {
        let mut live = self.live_now();
        live.facts.ctime_ns = ctime_ns;
        let Some(mtime_ns) = mtime_ns else { return };
        live.facts.mtime_ns = mtime_ns;
        if let Some(file) = &live.file {
            // Should the drive end before the row is written, the object's time counts.
            set_mtime(file, mtime_ns);
            live.looked();
        }
    }

    /// The row is about to say what the file is now: until writing begins again, no byte changes (times may). Says whether
    /// it is to: not if it did so already, and not while the host writes by itself, unless `even_then`. What the host writes
    /// after that is found when its handle is gone.
    pub(super) fn settle(&self, even_then: bool) -> bool {
        let mut live = self.live_now();
        if live.native > 0 && !even_then {
            return false;
        }
        live.seen.written = false;
        std::mem::take(&mut live.writing)
    }

    /// The row could not be written: it still says that the file is being written.
    pub(super) fn unsettle(&self) {
        self.live().writing = true;
    }

    /// Returns what no sync has covered yet, as covered from now on; [`LocalFile::not_synced`] takes that back.
    pub(super) fn take_unsynced(&self) -> Option<Unsynced> {
        let mut live = self.live();
        if !live.unsynced && !live.new_entry && live.native == 0 {
            return None;
        }
        let file = live.file.clone()?;
        live.unsynced = false;
        let entry = live.object.filter(|_| std::mem::take(&mut live.new_entry));
        Some(Unsynced { file, entry })
    }

    pub(super) fn not_synced(&self) {
        let mut live = self.live();
        live.unsynced = true;
        live.new_entry = true;
    }

    /// The disk failed at a sync.
    pub(super) fn torn(&self) {
        self.live().torn = true;
    }

    /// Says whether the disk failed at a sync since the file was last begun from nothing.
    pub(super) fn is_torn(&self) -> bool {
        self.live().torn
    }

    /// Takes note of bytes written. When `enough` have gathered and the disk is not at work on earlier ones, returns the
    /// object whose bytes it is to begin with; [`LocalFile::synced_ahead`] ends that.
    pub(super) fn wrote(&self, bytes: u64, enough: u64) -> Option<u64> {
        let mut live = self.live();
        live.gathered += bytes;
        if live.gathered < enough || live.syncing {
            return None;
        }
        live.gathered = 0;
        live.syncing = live.object.is_some();
        live.object
    }

    pub(super) fn synced_ahead(&self) {
        self.live().syncing = false;
    }

    /// Reads a range, as much as there is of it.
    pub(super) fn read_at(&self, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let (file, size) = {
            let live = self.live_now();
            (live.file.clone(), live.facts.size)
        };
        let end = range.end.min(size);
        let Some(file) = file.filter(|_| range.start < end) else {
            return Ok(Vec::new());
        };
        let len = usize::try_from(end - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let mut at = 0;
        while at < len {
            match file.read_at(&mut bytes[at..], range.start + at as u64) {
                Ok(0) => break,
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // It may have been cut meanwhile.
        bytes.truncate(at);
        Ok(bytes)
    }

    /// Changes the bytes by `change`, which is told the file. `None` if writing has not begun, or not with a file.
    ///
    /// `change` returns the size that follows from it, where it is larger, or exactly (`Sized`).
    pub(super) fn change(
        &self,
        now_ns: i64,
        change: impl FnOnce(&File, u64) -> io::Result<Sized>,
    ) -> Option<io::Result<()>> {
        // Under the lock, so that a row that says what the file is now is not written in between.
        let mut live = self.live_now();
        if !live.writing {
            return None;
        }
        let file = live.file.clone()?;
        live.unsynced = true;
        Some(change(&file, live.facts.size).map(|size| {
            live.facts.size = match size {
                Sized::AtLeast(size) => live.facts.size.max(size),
                Sized::Exactly(size) => size,
            };
            live.facts.mtime_ns = now_ns;
            live.facts.ctime_ns = now_ns;
            live.torn &= live.facts.size > 0;
            live.looked();
        }))
    }
}

/// The size of a file after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sized {
    /// This, or what it was if that is more.
    AtLeast(u64),
    /// Just this.
    Exactly(u64),
}

/// The own files in use of a drive.
#[derive(Debug, Default)]
pub(super) struct Locals(Mutex<HashMap<Ino, Weak<LocalFile>>>);

impl Locals {
    fn map(&self) -> MutexGuard<'_, HashMap<Ino, Weak<LocalFile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the file, if it is in use.
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<LocalFile>> {
        self.map()
            .get(&ino)
            .and_then(Weak::upgrade)
            .filter(|file| !file.is_retired())
    }

    /// Returns the file in use, or takes in the one given.
    pub(super) fn get_or(&self, ino: Ino, make: impl FnOnce() -> Arc<LocalFile>) -> Arc<LocalFile> {
        let mut map = self.map();
        if let Some(file) = map.get(&ino).and_then(Weak::upgrade).filter(|file| !file.is_retired()) {
            return file;
        }
        if map.len() >= 64 && map.len().is_power_of_two() {
            map.retain(|_, file| file.strong_count() > 0);
        }
        let made = make();
        map.insert(ino, Arc::downgrade(&made));
        made
    }

    /// Takes in a file in place of the one there.
    pub(super) fn put(&self, file: &Arc<LocalFile>) {
        self.map().insert(file.ino, Arc::downgrade(file));
    }

    /// Forgets a file that nobody uses any more.
    pub(super) fn forget(&self, ino: Ino) {
        let mut map = self.map();
        if map.get(&ino).is_some_and(|file| file.strong_count() == 0) {
            map.remove(&ino);
        }
    }
}
