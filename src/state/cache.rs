//! What is asked most (attributes by number, names in folders, names that are not there) kept in memory, bounded.
//!
//! Refuses to know: the database. Invariants: an answer from here is what the store held at some moment after the last
//! acknowledged write, and nobody who has seen a newer answer gets an older one; listings are not held here, so that a
//! walk over the whole drive drives out nothing.
//!
//! How the first is kept. Commits are numbered. A reader notes the number of the last, asks the database, and puts its
//! answer here with that number. An answer counts while its number is not below the stamp of its key's slot. The writer
//! stamps the slots of the keys that it touched with the number to come, commits, makes that number the last, and only
//! then acknowledges. So from before a commit is visible until after its acknowledgement no answer about its keys counts,
//! and afterwards only those do that were asked for when it was visible. Slots are shared by keys, which costs a fresh
//! question now and then and nothing else. A write that touched too many keys raises a floor under all slots instead.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::held;
use super::node::Node;
use crate::model::{Ino, NAME_MAX};

/// Memory for nodes and for names, in bytes each.
const CACHE_BYTES: u64 = 8 << 20;
/// What one entry costs beside its own bytes: hash table, recency lists, spare room (measured with full caches).
const ENTRY_OVERHEAD: usize = 350;
/// Slots for stamps, 8 bytes each: so many that a scan of 10 000 folders leaves most of what is held.
const SLOTS: usize = 1 << 16;
/// A write that touched more keys than this empties the cache instead of picking them out.
const TOUCHED_MAX: usize = 4096;

/// An answer and the number of the last commit before it was asked for.
#[derive(Clone, Debug)]
struct Held<T> {
    seq: u64,
    value: T,
}

/// A folder's number and a name, in one run of bytes so that a lookup needs no allocation.
type NameKey = Box<[u8]>;

#[derive(Debug)]
pub(super) struct TreeCache {
    /// The number of the last commit.
    seq: AtomicU64,
    /// The number of the commit that is being made; while none is, that of the last.
    next: AtomicU64,
    hook: Hook,
    floor: AtomicU64,
    stamps: Box<[AtomicU64]>,
    slots: RandomState,
    nodes: Cache<Ino, Held<Node>>,
    /// `None`: surely nothing has the name.
    names: Cache<NameKey, Held<Option<Node>>>,
    /// Our sides of conflicts that nobody has settled. What they are hangs on more than one key, so any commit counts.
    in_conflict: Mutex<Option<Held<Arc<HashSet<Ino>>>>>,
}

/// Who is told of commits.
#[derive(Default)]
struct Hook(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").finish_non_exhaustive()
    }
}

/// The keys that a write changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    nodes: Vec<Ino>,
    names: Vec<NameKey>,
    too_many: bool,
}

impl Touched {
    pub(super) fn node(&mut self, ino: Ino) {
        if self.has_room() {
            self.nodes.push(ino);
        }
    }

    pub(super) fn name(&mut self, parent: Ino, name: &[u8]) {
        if self.has_room() {
            with_key(parent, name, |key| self.names.push(key.into()));
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.too_many |= other.too_many;
        if self.has_room() {
            self.nodes.extend(other.nodes);
            self.names.extend(other.names);
        }
    }

    fn has_room(&mut self) -> bool {
        self.too_many |= self.nodes.len() + self.names.len() >= TOUCHED_MAX;
        !self.too_many
    }
}

/// Builds a key on the stack. Names longer than any name are in no folder and in no key.
fn with_key<T>(parent: Ino, name: &[u8], f: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let mut buffer = [0; size_of::<u64>() + NAME_MAX];
    let (head, tail) = buffer.split_at_mut(size_of::<u64>());
    head.copy_from_slice(&parent.0.to_ne_bytes());
    tail.get_mut(..name.len())?.copy_from_slice(name);
    Some(f(&buffer[..size_of::<u64>() + name.len()]))
}

/// Returns the folder of a key.
fn parent_in(key: &NameKey) -> Ino {
    let head = key.first_chunk().copied().unwrap_or_default();
    Ino(u64::from_ne_bytes(head))
}

fn weight(bytes: usize, node: Option<&Node>) -> u32 {
    let version = node
        .and_then(|node| node.version.as_ref())
        .map_or(0, |version| version.as_str().len());
    u32::try_from(bytes + version + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
}

impl TreeCache {
    pub(super) fn new() -> Self {
        // Least recently used: what is looked at now is what is looked at next, and listings don't pass through here.
        let policy = EvictionPolicy::lru;
        Self {
            seq: AtomicU64::new(0),
            next: AtomicU64::new(0),
            hook: Hook::default(),
            floor: AtomicU64::new(0),
            stamps: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            slots: RandomState::new(),
            nodes: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .eviction_policy(policy())
                .weigher(|_, held: &Held<Node>| weight(size_of_val(held), Some(&held.value)))
                .build(),
            names: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .eviction_policy(policy())
                .weigher(|key: &NameKey, held: &Held<Option<Node>>| {
                    weight(key.len() + size_of_val(held), held.value.as_ref())
                })
                .build(),
            in_conflict: Mutex::new(None),
        }
    }

    /// Returns the number of the last commit, to be noted before the database is asked.
    pub(super) fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    fn stamp(&self, key: impl Hash) -> &AtomicU64 {
        let hash = self.slots.hash_one(key);
        &self.stamps[usize::try_from(hash % SLOTS as u64).unwrap_or(0)]
    }

    /// Returns the least number that an answer about a key must bear.
    fn least(&self, key: impl Hash) -> u64 {
        self.stamp(key)
            .load(Ordering::SeqCst)
            .max(self.floor.load(Ordering::SeqCst))
    }

    /// Returns a node, if it is held.
    pub(super) fn node(&self, ino: Ino) -> Option<Node> {
        self.nodes
            .get(&ino)
            .filter(|held| held.seq >= self.least(ino))
            .map(|held| held.value)
    }

    /// Returns what a name leads to (`Some(None)`: surely nothing), if that is held.
    pub(super) fn name(&self, parent: Ino, name: &[u8]) -> Option<Option<Node>> {
        let held = with_key(parent, name, |key| {
            self.names.get(key).filter(|held| held.seq >= self.least(key))
        })??;
        let same = held.value.as_ref().is_none_or(|node| held.seq >= self.least(node.ino));
        same.then_some(held.value)
    }

    /// Holds a node that was read after commit `seq`.
    pub(super) fn put_node(&self, seq: u64, node: &Node) {
        self.nodes.insert(
            node.ino,
            Held {
                seq,
                value: node.clone(),
            },
        );
    }

    /// Holds what a name was found to lead to after commit `seq`.
    pub(super) fn put_name(&self, seq: u64, parent: Ino, name: &[u8], node: Option<&Node>) {
        if let Some(key) = with_key(parent, name, |key| NameKey::from(key)) {
            self.names.insert(
                key,
                Held {
                    seq,
                    value: node.cloned(),
                },
            );
        }
    }

    /// Says whether a folder's listing, read after commit `seq`, is what it would be now: the same names, of nodes that have
    /// not changed.
    pub(super) fn holds_listing(&self, seq: u64, folder: Ino, nodes: impl IntoIterator<Item = Ino>) -> bool {
        seq >= self.least(folder) && nodes.into_iter().all(|node| seq >= self.least(node))
    }

    /// Returns our sides of unsettled conflicts, if nothing was committed since they were asked for and nothing is being.
    pub(super) fn in_conflict(&self) -> Option<Arc<HashSet<Ino>>> {
        let known = held(&self.in_conflict).clone()?;
        (known.seq == self.next.load(Ordering::SeqCst)).then_some(known.value)
    }

    /// Holds our sides of unsettled conflicts, read after commit `seq`.
    pub(super) fn put_in_conflict(&self, seq: u64, value: Arc<HashSet<Ino>>) {
        *held(&self.in_conflict) = Some(Held { seq, value });
    }

    /// Makes what a commit will change count no longer. Called by the writer alone, before the commit; if that fails,
    /// the keys are asked for afresh until the next one.
    pub(super) fn committing(&self, touched: &Touched) {
        let next = self.seq() + 1;
        self.next.store(next, Ordering::SeqCst);
        if touched.too_many {
            self.floor.store(next, Ordering::SeqCst);
            return;
        }
        for ino in &touched.nodes {
            self.stamp(ino).store(next, Ordering::SeqCst);
        }
        for key in &touched.names {
            self.stamp(key).store(next, Ordering::SeqCst);
            // For listings: a first one touches the folder alone, others perhaps only names.
            self.stamp(parent_in(key)).store(next, Ordering::SeqCst);
        }
    }

    /// Makes the commit the last. Called by the writer alone, between the commit and its acknowledgement.
    pub(super) fn committed(&self) {
        self.seq.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = self.hook.0.get() {
            hook();
        }
    }

    /// Has commits told.
    pub(super) fn on_commit(&self, hook: Box<dyn Fn() + Send + Sync>) {
        drop(self.hook.0.set(hook));
    }
}
