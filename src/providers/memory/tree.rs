//! The tree of a site in memory.
//!
//! Owns: nodes and what may replace what. Refuses to know: uploads, chunks. Invariant: revisions only grow.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::model::{EntryKind, Name, RelPath, Version};
use crate::providers::{Entry, ErrorKind, Listed, Op, ProviderError};

/// As on Linux: what another provider would refuse is refused here too.
const PATH_MAX: usize = 4096;
/// When the site's clock starts (2023-11-14), in nanoseconds since 1970; each change is a second later.
const EPOCH_NS: i64 = 1_700_000_000_000_000_000;

#[derive(Debug)]
pub(super) struct Tree {
    root: Node,
    revision: u64,
    denied: BTreeSet<RelPath>,
}

#[derive(Debug)]
struct Node {
    mtime_ns: i64,
    perm: u16,
    version: Version,
    body: Body,
}

#[derive(Debug)]
enum Body {
    File(Bytes),
    Dir(BTreeMap<Name, Node>),
    Link(Vec<u8>),
}

/// A file, seen from outside.
pub(super) struct FileView<'a> {
    pub(super) bytes: &'a Bytes,
    pub(super) version: Version,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Node::new(0, 0o755, Body::Dir(BTreeMap::new())),
            revision: 0,
            denied: BTreeSet::new(),
        }
    }
}

fn error(kind: ErrorKind, op: Op, path: &RelPath) -> ProviderError {
    ProviderError::new(kind, op).at(path)
}

/// Refuses a path that no Linux file system would take.
pub(super) fn checked(path: &RelPath, op: Op) -> Result<(), ProviderError> {
    if path.as_bytes().len() < PATH_MAX {
        return Ok(());
    }
    Err(error(ErrorKind::Invalid, op, path).because(format!("a path of {PATH_MAX} bytes or more")))
}

impl Node {
    fn new(revision: u64, perm: u16, body: Body) -> Self {
        let ticks = i64::try_from(revision).unwrap_or(i64::MAX);
        let mtime_ns = EPOCH_NS.saturating_add(ticks.saturating_mul(1_000_000_000));
        Self {
            mtime_ns,
            perm,
            version: Version::new(format!("r{revision}")),
            body,
        }
    }

    fn dir(&self) -> Option<&BTreeMap<Name, Self>> {
        match &self.body {
            Body::Dir(children) => Some(children),
            Body::File(_) | Body::Link(_) => None,
        }
    }

    fn dir_mut(&mut self) -> Option<&mut BTreeMap<Name, Self>> {
        match &mut self.body {
            Body::Dir(children) => Some(children),
            Body::File(_) | Body::Link(_) => None,
        }
    }

    fn is_file_or_link(&self) -> bool {
        self.dir().is_none()
    }

    fn entry(&self) -> Entry {
        let (kind, size, target) = match &self.body {
            Body::File(bytes) => (EntryKind::File, bytes.len() as u64, None),
            Body::Dir(_) => (EntryKind::Dir, 0, None),
            Body::Link(target) => (EntryKind::Symlink, target.len() as u64, Some(target.clone())),
        };
        let perm = Some(self.perm);
        Entry {
            kind,
            size,
            mtime_ns: self.mtime_ns,
            perm,
            version: self.version.clone(),
            target,
        }
    }
}

impl Tree {
    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Returns the node at a path, which the site must not refuse.
    fn node(&self, path: &RelPath, op: Op) -> Result<&Node, ProviderError> {
        checked(path, op)?;
        let mut at = RelPath::root();
        let mut node = &self.root;
        for part in path.components() {
            let children = node.dir().ok_or_else(|| error(ErrorKind::WrongKind, op, path))?;
            let (name, child) = children
                .get_key_value(part)
                .ok_or_else(|| error(ErrorKind::NotFound, op, path))?;
            at = at.join(name);
            if self.denied.contains(&at) {
                return Err(error(ErrorKind::Denied, op, path));
            }
            node = child;
        }
        Ok(node)
    }

    /// Returns the children of the folder at a path.
    fn children(&mut self, dir: &RelPath, op: Op) -> Result<&mut BTreeMap<Name, Node>, ProviderError> {
        self.node(dir, op)?;
        let mut node = &mut self.root;
        for part in dir.components() {
            let children = node.dir_mut().ok_or_else(|| error(ErrorKind::WrongKind, op, dir))?;
            node = children
                .get_mut(part)
                .ok_or_else(|| error(ErrorKind::NotFound, op, dir))?;
        }
        node.dir_mut().ok_or_else(|| error(ErrorKind::WrongKind, op, dir))
    }

    fn split(path: &RelPath, op: Op) -> Result<(RelPath, Name), ProviderError> {
        path.split_last()
            .ok_or_else(|| error(ErrorKind::Invalid, op, path).because("the root stays"))
    }

    pub(super) fn entry(&self, path: &RelPath, op: Op) -> Result<Entry, ProviderError> {
        self.node(path, op).map(Node::entry)
    }

    pub(super) fn file(&self, path: &RelPath) -> Option<FileView<'_>> {
        let node = self.node(path, Op::Read).ok()?;
        match &node.body {
            Body::File(bytes) => Some(FileView {
                bytes,
                version: node.version.clone(),
            }),
            Body::Dir(_) | Body::Link(_) => None,
        }
    }

    pub(super) fn list(&self, dir: &RelPath) -> Result<Vec<Listed>, ProviderError> {
        let children = self.node(dir, Op::List)?.dir();
        let children = children.ok_or_else(|| error(ErrorKind::WrongKind, Op::List, dir))?;
        Ok(children
            .iter()
            .map(|(name, node)| Listed {
                name: name.clone(),
                entry: node.entry(),
            })
            .collect())
    }

    pub(super) fn make_dir(&mut self, path: &RelPath) -> Result<(), ProviderError> {
        checked(path, Op::MakeDir)?;
        let mut at = RelPath::root();
        for part in path.components() {
            let name = Name::new(part).map_err(|e| error(ErrorKind::Invalid, Op::MakeDir, path).because(e))?;
            let missing = !self.children(&at, Op::MakeDir)?.contains_key(&name);
            if missing {
                let node = Node::new(self.next_revision(), 0o755, Body::Dir(BTreeMap::new()));
                self.children(&at, Op::MakeDir)?.insert(name.clone(), node);
            }
            at = at.join(&name);
        }
        self.children(&at, Op::MakeDir).map(|_| ())
    }

    pub(super) fn put(
        &mut self,
        path: &RelPath,
        bytes: Bytes,
        mtime_ns: Option<i64>,
        perm: Option<u16>,
    ) -> Result<Version, ProviderError> {
        let mut node = Node::new(self.next_revision(), perm.unwrap_or(0o644), Body::File(bytes));
        node.mtime_ns = mtime_ns.unwrap_or(node.mtime_ns);
        let version = node.version.clone();
        self.insert(path, node).map(|()| version)
    }

    pub(super) fn put_link(&mut self, path: &RelPath, target: Vec<u8>) -> Result<(), ProviderError> {
        let node = Node::new(self.next_revision(), 0o777, Body::Link(target));
        self.insert(path, node)
    }

    fn insert(&mut self, path: &RelPath, node: Node) -> Result<(), ProviderError> {
        let (dir, name) = Self::split(path, Op::Upload)?;
        self.make_dir(&dir)?;
        let children = self.children(&dir, Op::Upload)?;
        if children.get(&name).is_some_and(|old| !old.is_file_or_link()) {
            return Err(error(ErrorKind::WrongKind, Op::Upload, path));
        }
        children.insert(name, node);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        let (from_dir, from_name) = Self::split(from, Op::Rename)?;
        let (to_dir, to_name) = Self::split(to, Op::Rename)?;
        let is_dir = self.node(from, Op::Rename)?.dir().is_some();
        checked(to, Op::Rename)?;
        if from == to {
            return Ok(());
        }
        let below = to
            .as_bytes()
            .strip_prefix(from.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"/"));
        if below {
            return Err(error(ErrorKind::Invalid, Op::Rename, to).because("a folder can't be moved into itself"));
        }
        if let Some(old) = self.children(&to_dir, Op::Rename)?.get(&to_name) {
            let fits = match old.dir() {
                Some(children) => is_dir && children.is_empty(),
                None => !is_dir,
            };
            if !fits {
                return Err(error(ErrorKind::WrongKind, Op::Rename, to));
            }
        }
        let moved = self.children(&from_dir, Op::Rename)?.remove(&from_name);
        let moved = moved.ok_or_else(|| error(ErrorKind::NotFound, Op::Rename, from))?;
        self.children(&to_dir, Op::Rename)?.insert(to_name, moved);
        Ok(())
    }

    pub(super) fn delete(&mut self, path: &RelPath) -> Result<(), ProviderError> {
        let (dir, name) = Self::split(path, Op::Delete)?;
        if self
            .node(path, Op::Delete)?
            .dir()
            .is_some_and(|children| !children.is_empty())
        {
            return Err(error(ErrorKind::WrongKind, Op::Delete, path).because("the folder has entries"));
        }
        self.children(&dir, Op::Delete)?.remove(&name);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &RelPath) {
        if let Some((dir, name)) = path.split_last()
            && let Ok(children) = self.children(&dir, Op::Delete)
        {
            children.remove(&name);
        }
    }

    pub(super) fn deny(&mut self, path: &RelPath, deny: bool) {
        if deny {
            self.denied.insert(path.clone());
        } else {
            self.denied.remove(path);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        fn sum(node: &Node) -> u64 {
            match &node.body {
                Body::File(bytes) => bytes.len() as u64,
                Body::Dir(children) => children.values().map(sum).sum(),
                Body::Link(_) => 0,
            }
        }
        sum(&self.root)
    }
}
