//! The open files of a drive and what is known of each.
//!
//! Owns: handle ids, the pattern of reads per handle, which version a handle reads. Refuses to know: the store, sites.
//! Invariant: a handle never gives out bytes of two versions that the site has; one whose file changed there is *stale* and
//! says so. What is written here is seen by every handle of the file at once, but by those of a node that is read natively:
//! they keep what they had, and the file has another node by then.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::time::Instant;

use backlot_platform::types::{Backing, HandleId, NodeId};

use super::firewall::{Payer, Process};
use super::hydrate::{Interest, OpenContent};
use super::local::LocalFile;
use super::native::{Native, REST, has_another, node_of};
use super::readahead::Pattern;
use super::schedule::Priority;
use crate::model::Ino;
use crate::state::Node;

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
    /// Who opened it.
    opener: Option<Arc<Process>>,
    /// Not all of it was here when it was opened.
    was_cold: bool,
    /// The host reads its bytes by itself, or may.
    native: AtomicBool,
    /// The host writes them by itself, and the own file was told.
    writes_natively: AtomicBool,
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
            opener: None,
            was_cold: false,
            native: AtomicBool::new(false),
            writes_natively: AtomicBool::new(false),
            ahead: Mutex::new(AheadState {
                pattern: Pattern::new(max_window),
                wanted: Vec::new(),
            }),
        }
    }

    /// Says who opened it, and whether all of it was here then.
    pub(super) fn opened_by(self, opener: &Arc<Process>, was_cold: bool) -> Self {
        Self {
            opener: Some(Arc::clone(opener)),
            was_cold,
            ..self
        }
    }

    pub(super) fn opener(&self) -> Option<&Arc<Process>> {
        self.opener.as_ref()
    }

    /// Says whether bytes of it were to come when it was opened.
    pub(super) fn was_cold(&self) -> bool {
        self.was_cold
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

    /// Returns the bytes asked for through it.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Says whether a good part of a file of this length was asked for.
    pub(super) fn was_read(&self, len: u64) -> bool {
        self.asked.load(Ordering::Relaxed) >= good_part(len)
    }

    /// Says whether it keeps its bytes whatever becomes of the file.
    pub(super) fn is_native(&self) -> bool {
        self.native.load(Ordering::Acquire)
    }

    /// The host writes its bytes by itself from now on.
    pub(super) fn begin_native(&self, own: &LocalFile) {
        own.begin_native();
        self.writes_natively.store(true, Ordering::Release);
    }

    /// The host does so no more, if it did. Says whether something was written that no row announces.
    pub(super) fn end_native(&self) -> bool {
        self.writes_natively.swap(false, Ordering::AcqRel) && self.own().is_some_and(|own| own.end_native())
    }

    /// Starts or keeps fetching what this reader will want next.
    pub(super) fn note_read(&self, content: &Arc<OpenContent>, range: std::ops::Range<u64>, payer: &Payer) {
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
            let more = content.fetch_ahead(range, Priority::ReadAhead, payer);
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
    files: HashMap<u64, (NodeId, Arc<OpenFile>)>,
    /// The handles of each open file.
    counts: HashMap<Ino, Counts>,
    /// Nodes that are open.
    nodes: HashMap<NodeId, OpenNode>,
    /// Files whose names have left a node since the start.
    epochs: HashMap<Ino, Epoch>,
}

/// How many handles a file has.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    all: usize,
    /// That may write.
    writers: usize,
    /// Whose bytes the host writes by itself.
    native_writers: usize,
}

/// A node that is open: the first open decides how it is read until the last handle is gone.
#[derive(Debug)]
struct OpenNode {
    handles: usize,
    native: Option<Native>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    number: u32,
    since: Instant,
}

impl Open {
    fn node(&self, ino: Ino) -> NodeId {
        node_of(ino, self.epochs.get(&ino).map_or(0, |epoch| epoch.number))
    }

    fn native(&self, node: NodeId) -> Option<&Native> {
        self.nodes.get(&node)?.native.as_ref()
    }

    /// Lets a file's names leave its node.
    fn leave(&mut self, ino: Ino) {
        let number = self.epochs.get(&ino).map_or(0, |epoch| epoch.number) + 1;
        let since = Instant::now();
        self.epochs.insert(ino, Epoch { number, since });
    }
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

    /// Takes in an open of a node for what `row` has, with what the host may read if this is its first. Returns what the host
    /// is to read. An error if the names have left the node; `true` if they do so now, since it is read natively and this
    /// open is about something else.
    pub(super) fn insert(
        &self,
        node: NodeId,
        row: &Node,
        file: &Arc<OpenFile>,
        may_share: bool,
        offer: Option<Native>,
    ) -> Result<(HandleId, Option<Backing>), bool> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.write();
        if open.node(row.ino) != node {
            return Err(false);
        }
        if let Some(native) = open.native(node)
            && (!may_share || !native.is_of(row))
        {
            open.leave(row.ino);
            return Err(true);
        }
        let known = open.nodes.entry(node).or_insert(OpenNode {
            handles: 0,
            native: offer,
        });
        known.handles += 1;
        let backing = known.native.as_ref().map(|native| native.backing.clone());
        file.native.store(backing.is_some(), Ordering::Release);
        let counts = open.counts.entry(file.ino).or_default();
        counts.all += 1;
        counts.writers += usize::from(file.may_write);
        counts.native_writers += usize::from(file.may_write && backing.is_some());
        open.files.insert(id, (node, Arc::clone(file)));
        Ok((HandleId(id), backing))
    }

    /// Returns the node that a file's names lead to, and whether what is read of it natively, if anything, `fits`.
    pub(super) fn current(&self, ino: Ino, fits: impl FnOnce(&Native) -> bool) -> (NodeId, bool) {
        let open = self.read();
        let node = open.node(ino);
        (node, open.native(node).is_none_or(fits))
    }

    /// Lets a file's names leave its node if that is read natively and `when` says so. Returns the node that they left.
    pub(super) fn leave(&self, ino: Ino, when: impl FnOnce(&Native) -> bool) -> Option<NodeId> {
        let mut open = self.write();
        let node = open.node(ino);
        open.native(node).filter(|native| when(native))?;
        open.leave(ino);
        Some(node)
    }

    /// Returns what is read of a node natively.
    pub(super) fn native(&self, node: NodeId) -> Option<Native> {
        self.read().native(node).cloned()
    }

    /// Says whether a node may be read natively from its next open on.
    pub(super) fn may_begin_native(&self, node: NodeId) -> bool {
        let (open, ino) = (self.read(), super::native::ino_of(node));
        let epoch = open.epochs.get(&ino);
        !open.nodes.contains_key(&node)
            && epoch.is_none_or(|epoch| epoch.since.elapsed() >= REST)
            && has_another(ino, epoch.map_or(0, |epoch| epoch.number))
            && !self.has_stale(ino)
    }

    pub(super) fn get(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        self.read().files.get(&id.0).map(|(_, file)| Arc::clone(file))
    }

    pub(super) fn remove(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        let mut open = self.write();
        let (node, file) = open.files.remove(&id.0)?;
        if let Some(known) = open.nodes.get_mut(&node) {
            known.handles = known.handles.saturating_sub(1);
            if known.handles == 0 {
                open.nodes.remove(&node);
            }
        }
        if let Some(counts) = open.counts.get_mut(&file.ino) {
            counts.all = counts.all.saturating_sub(1);
            counts.writers = counts.writers.saturating_sub(usize::from(file.may_write));
            counts.native_writers -= usize::from(file.may_write && file.is_native()).min(counts.native_writers);
            if counts.all == 0 {
                open.counts.remove(&file.ino);
            }
        }
        if file.is_stale()
            && !open
                .files
                .values()
                .any(|(_, other)| other.ino == file.ino && other.is_stale())
        {
            self.lock_stale().remove(&file.ino);
        }
        Some(file)
    }

    /// Says how many handles a file has.
    pub(super) fn count(&self, ino: Ino) -> usize {
        self.read().counts.get(&ino).map_or(0, |counts| counts.all)
    }

    /// Says whether a file is open for writing.
    pub(super) fn has_writer(&self, ino: Ino) -> bool {
        self.read().counts.get(&ino).is_some_and(|counts| counts.writers > 0)
    }

    /// Says whether the host writes a file by itself: nobody but the disk knows what is in it.
    pub(super) fn has_native_writer(&self, ino: Ino) -> bool {
        self.read()
            .counts
            .get(&ino)
            .is_some_and(|counts| counts.native_writers > 0)
    }

    /// Turns the only open of a file, that has not given out a byte, to the version that is at the site now.
    pub(super) fn switch(&self, file: &OpenFile, content: Arc<OpenContent>) {
        file.set_source(Source::Site(content));
        file.stale.store(false, Ordering::Release);
        self.lock_stale().remove(&file.ino);
    }

    /// Turns all opens of a file to this machine's own bytes: as long as nothing is written to them they are the same.
    /// Stale ones stay with the version they had, and so do those whose bytes the host reads.
    pub(super) fn switch_to_own(&self, ino: Ino, own: &Arc<LocalFile>) {
        for file in self.of(ino) {
            if !file.is_stale() && !file.is_native() {
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
        let files = open.files.values().map(|(_, file)| file);
        files.filter(|file| file.ino == ino).cloned().collect()
    }

    /// Marks the open handles of a file whose bytes changed, but for those whose bytes the host reads. Says whether there were
    /// any.
    pub(super) fn mark_stale(&self, ino: Ino) -> bool {
        let open = self.read();
        if !open.counts.contains_key(&ino) {
            return false;
        }
        let mut any = false;
        let files = open.files.values().map(|(_, file)| file);
        for file in files.filter(|file| file.ino == ino && !file.is_native()) {
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
        for (_, file) in open.files.values() {
            if let Source::Site(content) = file.source() {
                seen.entry(file.ino).or_insert(content);
            }
        }
        seen.into_iter().collect()
    }
}
