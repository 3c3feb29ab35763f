//! The open files of a drive and what is known of each.
//!
//! Owns: handle ids, the pattern of reads per handle, which version a handle reads. Refuses to know: the store, sites.
//! Invariant: a handle never gives out bytes of two versions; one whose file changed at the site is *stale* and says so.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use backlot_platform::types::HandleId;

use super::hydrate::{Interest, OpenContent};
use super::readahead::Pattern;
use super::schedule::Priority;
use crate::model::Ino;

/// One open of a file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) ino: Ino,
    content: RwLock<Arc<OpenContent>>,
    /// The kernel held no page of this file when it was opened, so nobody has seen bytes of another version.
    pub(super) fresh: bool,
    /// A byte was given out.
    served: AtomicBool,
    stale: AtomicBool,
    ahead: Mutex<AheadState>,
}

#[derive(Debug)]
struct AheadState {
    pattern: Pattern,
    wanted: Vec<Interest>,
}

impl OpenFile {
    pub(super) fn new(ino: Ino, content: Arc<OpenContent>, fresh: bool, max_window: u64) -> Self {
        Self {
            ino,
            content: RwLock::new(content),
            fresh,
            served: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            ahead: Mutex::new(AheadState {
                pattern: Pattern::new(max_window),
                wanted: Vec::new(),
            }),
        }
    }

    pub(super) fn content(&self) -> Arc<OpenContent> {
        Arc::clone(&self.content.read().unwrap_or_else(PoisonError::into_inner))
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

/// All open files of a drive.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<OpenFile>>>,
    /// Files that have a stale handle. Changed while `open` is locked.
    stale: Mutex<HashSet<Ino>>,
}

impl Handles {
    pub(super) fn insert(&self, file: Arc<OpenFile>) -> HandleId {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, file);
        HandleId(id)
    }

    pub(super) fn get(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id.0)
            .cloned()
    }

    pub(super) fn remove(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let file = open.remove(&id.0)?;
        if file.is_stale() && !open.values().any(|other| other.ino == file.ino && other.is_stale()) {
            self.lock_stale().remove(&file.ino);
        }
        Some(file)
    }

    /// Turns the only open of a file, that has not given out a byte, to the version that is at the site now.
    pub(super) fn switch(&self, file: &OpenFile, content: Arc<OpenContent>) {
        *file.content.write().unwrap_or_else(PoisonError::into_inner) = content;
        file.stale.store(false, Ordering::Release);
        self.lock_stale().remove(&file.ino);
    }

    /// Says whether a handle of the file reads a version that is not the file's any more.
    pub(super) fn has_stale(&self, ino: Ino) -> bool {
        self.lock_stale().contains(&ino)
    }

    fn lock_stale(&self) -> MutexGuard<'_, HashSet<Ino>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn of(&self, ino: Ino) -> Vec<Arc<OpenFile>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().filter(|f| f.ino == ino).cloned().collect()
    }

    /// Marks the open handles of a file whose bytes changed, and says whether there were any.
    pub(super) fn mark_stale(&self, ino: Ino) -> bool {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for file in open.values().filter(|file| file.ino == ino) {
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
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let mut seen: HashMap<Ino, Arc<OpenContent>> = HashMap::new();
        for file in open.values() {
            seen.entry(file.ino).or_insert_with(|| file.content());
        }
        seen.into_iter().collect()
    }
}
