//! What is asked most (attributes by number, names in folders, names that are not there) kept in memory, bounded.
//!
//! Refuses to know: the database. Invariants: an answer from here is what the store held at some moment after the last
//! acknowledged write; listings don't pass through, so that a walk over the whole drive drives out nothing.
//!
//! How the first is kept. Commits are numbered. A reader notes the number, asks the database, and puts its answer here
//! only if the number is still the same. The writer commits, raises the number, takes out the keys it touched, and
//! acknowledges. Putting and taking out one key exclude each other, so either the reader saw the new number and put
//! nothing, or its answer was there to be taken out. A write that touched too many keys raises a floor instead, under
//! which answers don't count.

use std::sync::atomic::{AtomicU64, Ordering};

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::node::Node;
use crate::model::{Ino, NAME_MAX};

/// Memory for nodes and for names, in bytes each: together the 50 000 files or so that a session works with.
const CACHE_BYTES: u64 = 8 << 20;
/// What one entry costs beside its own bytes: key, hash table, recency lists (measured with a full cache).
const ENTRY_OVERHEAD: usize = 200;
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
    seq: AtomicU64,
    floor: AtomicU64,
    nodes: Cache<Ino, Held<Node>>,
    names: Cache<NameKey, Held<Option<Ino>>>,
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

impl TreeCache {
    pub(super) fn new() -> Self {
        let weight = |bytes: usize| u32::try_from(bytes + ENTRY_OVERHEAD).unwrap_or(u32::MAX);
        Self {
            seq: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            nodes: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .weigher(move |_, held: &Held<Node>| {
                    weight(size_of_val(held) + held.value.version.as_ref().map_or(0, |version| version.as_str().len()))
                })
                .build(),
            names: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .weigher(move |key: &NameKey, _| weight(key.len()))
                .build(),
        }
    }

    /// Returns the number of the last commit, to be noted before the database is asked.
    pub(super) fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    fn holds<T>(&self, held: Held<T>) -> Option<T> {
        (held.seq >= self.floor.load(Ordering::SeqCst)).then_some(held.value)
    }

    /// Returns a node, if it is held.
    pub(super) fn node(&self, ino: Ino) -> Option<Node> {
        self.nodes.get(&ino).and_then(|held| self.holds(held))
    }

    /// Returns what a name leads to (`Some(None)`: surely nothing), if that is held.
    pub(super) fn name(&self, parent: Ino, name: &[u8]) -> Option<Option<Ino>> {
        with_key(parent, name, |key| self.names.get(key))
            .flatten()
            .and_then(|held| self.holds(held))
    }

    /// Holds a node that was read after commit `seq`.
    pub(super) fn put_node(&self, seq: u64, node: &Node) {
        self.nodes
            .entry(node.ino)
            .and_compute_with(|_| self.put(seq, || node.clone()));
    }

    /// Holds what a name was found to lead to after commit `seq`.
    pub(super) fn put_name(&self, seq: u64, parent: Ino, name: &[u8], ino: Option<Ino>) {
        if let Some(key) = with_key(parent, name, |key| NameKey::from(key)) {
            self.names.entry(key).and_compute_with(|_| self.put(seq, || ino));
        }
    }

    fn put<T>(&self, seq: u64, value: impl FnOnce() -> T) -> Op<Held<T>> {
        if self.seq() == seq {
            Op::Put(Held { seq, value: value() })
        } else {
            Op::Nop
        }
    }

    /// Takes out what a commit changed. Called by the writer alone, after the commit and before it is acknowledged.
    pub(super) fn committed(&self, touched: Touched) {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        if touched.too_many {
            self.floor.store(seq, Ordering::SeqCst);
            return;
        }
        for ino in touched.nodes {
            self.nodes.entry(ino).and_compute_with(|_| Op::Remove);
        }
        for key in touched.names {
            self.names.entry(key).and_compute_with(|_| Op::Remove);
        }
    }
}
