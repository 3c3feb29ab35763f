//! [`Tree`]: the questions that a file system asks, each by itself, what is asked most answered from memory.
//!
//! Invariant: listings go to the database by key, or come from what was read ahead, past what is held in memory, so that a
//! walk over the whole drive drives out nothing.

use std::collections::HashSet;
use std::sync::Arc;

use super::ahead::Ahead;
use super::{Child, Counts, Node, StateError, StateStore};
use crate::model::{Ino, Name, RelPath};

/// The tree of one drive, for questions one at a time. Each sees the store as it is when asked.
#[derive(Clone, Debug)]
pub struct Tree {
    store: StateStore,
    ahead: Arc<Ahead>,
}

impl Tree {
    /// Returns the tree of a store; all trees of a store share what is held in memory.
    #[must_use]
    pub fn new(store: StateStore) -> Self {
        Self {
            store,
            ahead: Arc::default(),
        }
    }

    /// Returns a node by its number.
    pub fn node(&self, ino: Ino) -> Result<Option<Node>, StateError> {
        let Some(cache) = self.store.cache() else {
            return self.store.read(|txn| txn.node(ino));
        };
        if let Some(node) = cache.node(ino) {
            return Ok(Some(node));
        }
        let seq = cache.seq();
        let node = self.store.read(|txn| txn.node(ino))?;
        if let Some(node) = &node {
            cache.put_node(seq, node);
        }
        Ok(node)
    }

    /// Returns the entry `name` of a folder. That it is missing is held in memory too.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Node>, StateError> {
        let Some(cache) = self.store.cache() else {
            return self.store.read(|txn| txn.lookup(parent, name));
        };
        if let Some(known) = cache.name(parent, name) {
            return Ok(known);
        }
        let seq = cache.seq();
        let (node, sure) = self.store.read(|txn| {
            let node = txn.lookup(parent, name)?;
            // A folder that was never listed is about to get many names at once: that it lacks one is not held, so that
            // a first listing has nothing to take back.
            let sure = node.is_some() || txn.node(parent)?.is_some_and(|parent| parent.listed_at_ms.is_some());
            Ok((node, sure))
        })?;
        if sure {
            cache.put_name(seq, parent, name, node.as_ref());
        }
        Ok(node)
    }

    /// Says whether a file is our side of a conflict that nobody has settled.
    pub fn is_in_conflict(&self, ino: Ino) -> Result<bool, StateError> {
        let ask = || -> Result<HashSet<Ino>, StateError> {
            let conflicts = self.store.read(|txn| txn.unsettled())?;
            Ok(conflicts.iter().map(|conflict| conflict.ino).collect())
        };
        let Some(cache) = self.store.cache() else {
            return Ok(ask()?.contains(&ino));
        };
        if let Some(known) = cache.in_conflict() {
            return Ok(known.contains(&ino));
        }
        let seq = cache.seq();
        let found = Arc::new(ask()?);
        let is = found.contains(&ino);
        cache.put_in_conflict(seq, found);
        Ok(is)
    }

    /// Returns up to `limit` entries of a folder that come after a cookie (0: from the start), in the order of cookies.
    pub fn children(&self, parent: Ino, after_cookie: u64, limit: usize) -> Result<Vec<Child>, StateError> {
        self.store.read(|txn| txn.children(parent, after_cookie, limit))
    }

    /// As [`children`](Self::children), for who may be walking over the tree: what comes next is read before he asks. Fewer
    /// entries than asked for are not the end; none are.
    pub fn page(&self, parent: Ino, after_cookie: u64, limit: usize) -> Result<Vec<Child>, StateError> {
        if let (0, Some(cache)) = (after_cookie, self.store.cache()) {
            let ready = self.ahead.take(cache, parent);
            self.ahead.looked_at(&self.store, parent);
            if let Some(mut children) = ready {
                children.truncate(limit);
                return Ok(children);
            }
        }
        self.children(parent, after_cookie, limit)
    }

    /// Says whether a page lies ready.
    #[cfg(test)]
    pub(super) fn has_read_ahead(&self) -> bool {
        self.ahead.is_ready()
    }

    /// Returns the target of a symbolic link.
    pub fn link_target(&self, ino: Ino) -> Result<Option<Vec<u8>>, StateError> {
        self.store.read(|txn| txn.link_target(ino))
    }

    /// Returns the folder of a node and its name there; `None` for the root, and for what is gone.
    pub fn parent_of(&self, ino: Ino) -> Result<Option<(Ino, Name)>, StateError> {
        self.store.read(|txn| txn.parent_of(ino))
    }

    /// Returns the path of a node from the drive's root; `None` for what is gone or out of sight.
    pub fn path_of(&self, ino: Ino) -> Result<Option<RelPath>, StateError> {
        self.store.read(|txn| txn.path_of(ino))
    }

    /// Returns the node at a path from the drive's root.
    pub fn resolve(&self, path: &RelPath) -> Result<Option<Node>, StateError> {
        let mut node = self.node(Ino::ROOT)?;
        for name in path.components() {
            let Some(folder) = node else { return Ok(None) };
            node = self.lookup(folder.ino, name)?;
        }
        Ok(node)
    }

    /// Returns how much the store holds.
    pub fn counts(&self) -> Result<Counts, StateError> {
        self.store.read(|txn| txn.counts())
    }
}
