//! The open files of a drive and what is known of each.
//!
//! Owns: handle ids, the pattern of reads per handle, which version a handle reads. Refuses to know: the store, sites.
//! Invariant: a handle never gives out bytes of two versions that the site has; one whose file changed there is *stale* and
//! says so. What is written here is seen by every handle of the file at once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use backlot_platform::types::HandleId;

use super::hydrate::{Interest, OpenContent};
use super::local::LocalFile;
use super::readahead::Pattern;
use super::schedule::Priority;
use crate::model::Ino;

/// One open of a file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) ino: Ino,
    /// It was opened for writing.
    pub(super) may_write: bool,
    source: RwLock<Source>,
    /// The kernel held no page of this file when it was opened, so nobody has seen bytes of another version.
    pub(super) fresh: bool,
    /// A byte was given out.
    served: AtomicBool,
    stale: AtomicBool,
    /// Whoever follows sequences wants to know what comes of it.
    followed: AtomicBool,
    /// Bytes asked for through it.
    asked: AtomicU64,
    ahead: Mutex<AheadState>,
}

/// Where a handle's bytes come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A version that the site has, through the cache.
    Site(Arc<OpenContent>),
    /// This machine's own bytes.
    Own(Arc<LocalFile>),
}

#[derive(Debug)]
struct AheadState {
    pattern: Pattern,
    wanted: Vec<Interest>,
}

impl OpenFile {
    pub(super) fn new(ino: Ino, source: Source, fresh: bool, may_write: bool, max_window: u64) -> Self {
        Self {
            ino,
            may_write,
            source: RwLock::new(source),
            fresh,
            served: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            followed: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            ahead: Mutex::new(AheadState {
                pattern: Pattern::new(max_window),
                wanted: Vec::new(),
            }),
        }
    }

    pub(super) fn source(&self) -> Source {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns this machine's own bytes, if it reads those.
    pub(super) fn own(&self) -> Option<Arc<LocalFile>> {
        match self.source() {
            Source::Own(file) => Some(file),
            Source::Site(_) => None,
        }
    }

    fn set_source(&self, source: Source) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = source;
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.wanted.clear();
    }

    pub(super) fn mark_served(&self) {
        self.served.store(true, Ordering::Release);
    }

    pub(super) fn has_served(&self) -> bool {
        self.served.load(Ordering::Acquire)
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    pub(super) fn set_followed(&self, followed: bool) {
        self.followed.store(followed, Ordering::Relaxed);
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    /// Takes note of bytes asked for, and says whether by them it has become one that reads its file rather than looks into
    /// it.
    pub(super) fn asks_for(&self, bytes: u64, len: u64) -> bool {
        let before = self.asked.fetch_add(bytes, Ordering::Relaxed);
        let enough = good_part(len);
        before < enough && before + bytes >= enough
    }

    /// Says whether a good part of a file of this length was asked for.
    pub(super) fn was_read(&self, len: u64) -> bool {
        self.asked.load(Ordering::Relaxed) >= good_part(len)
    }

    /// Starts or keeps fetching what this reader will want next.
    pub(super) fn note_read(&self, content: &Arc<OpenContent>, range: std::ops::Range<u64>) {
        if content.content().is_full() {
            return;
        }
        let mut state = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = state.pattern.on_read(range, content.content().len());
        if ahead.restarted {
            state.wanted.clear();
        } else {
            state.wanted.retain(|interest| !interest.is_over());
        }
        if let Some(range) = ahead.range {
            let more = content.fetch_ahead(range, Priority::ReadAhead);
            state.wanted.extend(more);
        }
    }

    /// Keeps fetches going for as long as the file is open.
    pub(super) fn keep(&self, interests: Vec<Interest>) {
        self.ahead
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wanted
            .extend(interests);
    }
}

/// Who asks for so much of a file reads it; less is a look at its header, a thumbnailer's or a file browser's. (The kernel
/// reads up to 128 KiB for a few bytes.)
fn good_part(len: u64) -> u64 {
    (len / 4).max(256 << 10).min(len)
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<u64, Arc<OpenFile>>,
    /// Handles of each open file, and how many of them may write.
    counts: HashMap<Ino, (usize, usize)>,
}

/// All open files of a drive.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: RwLock<Open>,
    /// Files that have a stale handle. Changed while `open` is locked.
    stale: Mutex<HashSet<Ino>>,
}

impl Handles {
    fn read(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, file: Arc<OpenFile>) -> HandleId {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.write();
        let counts = open.counts.entry(file.ino).or_default();
        counts.0 += 1;
        counts.1 += usize::from(file.may_write);
        open.files.insert(id, file);
        HandleId(id)
    }

    pub(super) fn get(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        self.read().files.get(&id.0).cloned()
    }

    pub(super) fn remove(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        let mut open = self.write();
        let file = open.files.remove(&id.0)?;
        if let Some(counts) = open.counts.get_mut(&file.ino) {
            counts.0 = counts.0.saturating_sub(1);
            counts.1 = counts.1.saturating_sub(usize::from(file.may_write));
            if counts.0 == 0 {
                open.counts.remove(&file.ino);
            }
        }
        if file.is_stale()
            && !open
                .files
                .values()
                .any(|other| other.ino == file.ino && other.is_stale())
        {
            self.lock_stale().remove(&file.ino);
        }
        Some(file)
    }

    /// Says how many handles a file has.
    pub(super) fn count(&self, ino: Ino) -> usize {
        self.read().counts.get(&ino).map_or(0, |counts| counts.0)
    }

    /// Says whether a file is open for writing.
    pub(super) fn has_writer(&self, ino: Ino) -> bool {
        self.read().counts.get(&ino).is_some_and(|counts| counts.1 > 0)
    }

    /// Turns the only open of a file, that has not given out a byte, to the version that is at the site now.
    pub(super) fn switch(&self, file: &OpenFile, content: Arc<OpenContent>) {
        file.set_source(Source::Site(content));
        file.stale.store(false, Ordering::Release);
        self.lock_stale().remove(&file.ino);
    }

    /// Turns all opens of a file to this machine's own bytes: as long as nothing is written to them they are the same.
    /// Stale ones stay with the version they had.
    pub(super) fn switch_to_own(&self, ino: Ino, own: &Arc<LocalFile>) {
        for file in self.of(ino) {
            if !file.is_stale() {
                file.set_source(Source::Own(Arc::clone(own)));
            }
        }
    }

    /// Says whether a handle of the file reads a version that is not the file's any more.
    pub(super) fn has_stale(&self, ino: Ino) -> bool {
        self.lock_stale().contains(&ino)
    }

    fn lock_stale(&self) -> MutexGuard<'_, HashSet<Ino>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.read().files.len()
    }

    pub(super) fn of(&self, ino: Ino) -> Vec<Arc<OpenFile>> {
        let open = self.read();
        if !open.counts.contains_key(&ino) {
            return Vec::new();
        }
        open.files.values().filter(|f| f.ino == ino).cloned().collect()
    }

    /// Marks the open handles of a file whose bytes changed, and says whether there were any.
    pub(super) fn mark_stale(&self, ino: Ino) -> bool {
        let open = self.read();
        if !open.counts.contains_key(&ino) {
            return false;
        }
        let mut any = false;
        for file in open.files.values().filter(|file| file.ino == ino) {
            file.stale.store(true, Ordering::Release);
            any = true;
        }
        if any {
            self.lock_stale().insert(ino);
        }
        any
    }

    /// Returns the open files, each content once.
    pub(super) fn contents(&self) -> Vec<(Ino, Arc<OpenContent>)> {
        let open = self.read();
        let mut seen: HashMap<Ino, Arc<OpenContent>> = HashMap::new();
        for file in open.files.values() {
            if let Source::Site(content) = file.source() {
                seen.entry(file.ino).or_insert(content);
            }
        }
        seen.into_iter().collect()
    }
}
