//! The store against a naive tree, and a reader that pages through a folder while it changes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::state::Tree;

/// Few names, so that they meet often; in an order that is not that of their bytes.
const NAMES: [&[u8]; 10] = [
    b"m",
    b"a",
    b"z",
    b"frame.0001.exr",
    b"frame.0002.exr",
    b"\xff\xfe",
    b"Z",
    b"0",
    b"b c",
    b"-",
];
const PAGE: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    /// A whole listing of one of the folders there are.
    List(usize, Vec<Remote>),
    Entry(usize, Remote),
    Absent(usize, usize),
    Reopen,
}

#[derive(Clone, PartialEq, Debug)]
struct ModelNode {
    remote: Remote,
    ino: Ino,
    cookie: u64,
}

type ModelFolder = BTreeMap<Name, ModelNode>;

#[derive(Default)]
struct Model {
    folders: BTreeMap<Ino, ModelFolder>,
    ever: BTreeSet<u64>,
}

impl Model {
    fn pick(&self, at: usize) -> Ino {
        *self.folders.keys().nth(at % self.folders.len()).unwrap()
    }

    fn drop_below(&mut self, ino: Ino) {
        for node in self.folders.remove(&ino).unwrap_or_default().into_values() {
            self.drop_below(node.ino);
        }
    }

    /// Does what the store should have done, taking the numbers of new entries from its answer.
    fn apply(&mut self, dir: Ino, wanted: &BTreeMap<Name, Remote>, diff: &ListingDiff) {
        let mut folder = self.folders.remove(&dir).unwrap();
        let (mut added, mut changed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        folder.retain(|name, node| {
            let stays = wanted.get(name).is_some_and(|remote| remote.kind == node.remote.kind);
            if !stays {
                removed.push((name.clone(), node.ino));
                self.drop_below(node.ino);
            }
            stays
        });
        for (name, remote) in wanted {
            if let Some(node) = folder.get_mut(name) {
                let before = std::mem::replace(&mut node.remote, remote.clone());
                let content = match remote.kind {
                    EntryKind::File => before.version != remote.version,
                    EntryKind::Symlink => before.target != remote.target,
                    EntryKind::Dir
                    | EntryKind::Fifo
                    | EntryKind::Socket
                    | EntryKind::CharDevice
                    | EntryKind::BlockDevice => false,
                };
                let same_version = remote.kind == EntryKind::Dir || before.version == remote.version;
                let shown = |r: &Remote| (r.size, r.mtime_ns, r.perm);
                if content || !same_version || shown(&before) != shown(remote) {
                    changed.push((node.ino, content));
                }
                continue;
            }
            let (_, ino) = diff
                .added
                .iter()
                .find(|(added, _)| added == name)
                .expect("an entry that is new");
            assert!(self.ever.insert(ino.0), "number {ino} is used again");
            if remote.kind == EntryKind::Dir {
                self.folders.insert(*ino, ModelFolder::new());
            }
            folder.insert(
                name.clone(),
                ModelNode {
                    remote: remote.clone(),
                    ino: *ino,
                    cookie: 0,
                },
            );
            added.push((name.clone(), *ino));
        }
        self.folders.insert(dir, folder);
        let sorted = |mut list: Vec<(Name, Ino)>| {
            list.sort();
            list
        };
        assert_eq!(sorted(diff.added.clone()), sorted(added));
        assert_eq!(sorted(diff.removed.clone()), sorted(removed));
        let mut told = diff.changed.clone();
        told.sort_unstable();
        changed.sort_unstable();
        assert_eq!(told, changed);
    }

    /// Compares everything, takes note of new cookies, and holds known ones against the store's.
    fn compare(&mut self, store: &StateStore, tree: &Tree) {
        let (mut files, mut folders, mut symlinks, mut bytes) = (0, 0, 0, 0);
        for (dir, folder) in &mut self.folders {
            folders += 1;
            let children = tree.children(*dir, 0, 1000).unwrap();
            assert!(children.is_sorted_by(|a, b| a.cookie < b.cookie));
            assert_eq!(children.len(), folder.len());
            for child in &children {
                let node = folder.get_mut(&child.name).expect("a name of the model");
                if node.cookie == 0 {
                    assert!(self.ever.insert(child.cookie), "cookie {} is used again", child.cookie);
                    node.cookie = child.cookie;
                }
                assert_eq!((child.cookie, child.node.ino), (node.cookie, node.ino));
                assert_eq!((child.node.kind, child.node.size), (node.remote.kind, node.remote.size));
                assert_eq!(
                    (child.node.mtime_ns, child.node.perm),
                    (node.remote.mtime_ns, node.remote.perm)
                );
                let version = (node.remote.kind != EntryKind::Dir).then(|| node.remote.version.clone());
                assert_eq!(child.node.version, version);
                match node.remote.kind {
                    EntryKind::File => (files, bytes) = (files + 1, bytes + node.remote.size),
                    EntryKind::Symlink => symlinks += 1,
                    EntryKind::Dir
                    | EntryKind::Fifo
                    | EntryKind::Socket
                    | EntryKind::CharDevice
                    | EntryKind::BlockDevice => {}
                }
                if node.remote.kind == EntryKind::Symlink {
                    assert_eq!(tree.link_target(node.ino).unwrap(), node.remote.target);
                }
            }
            for name in NAMES {
                let known = children
                    .iter()
                    .find(|child| child.name.as_bytes() == name)
                    .map(|child| &child.node);
                // Twice: from the database, then from memory.
                for _ in 0..2 {
                    assert_eq!(tree.lookup(*dir, name).unwrap().as_ref(), known);
                    if let Some(node) = known {
                        assert_eq!(tree.node(node.ino).unwrap().as_ref(), known);
                        assert_eq!(tree.parent_of(node.ino).unwrap().unwrap().0, *dir);
                    }
                }
            }
        }
        let counts = store.read(|txn| txn.counts()).unwrap();
        let entries = files + folders + symlinks;
        let found = (
            counts.entries,
            counts.files,
            counts.folders,
            counts.symlinks,
            counts.bytes,
        );
        assert_eq!(found, (entries, files, folders, symlinks, bytes));
    }
}

/// A `readdir` that takes one page between changes.
struct Reader {
    dir: Ino,
    after: u64,
    seen: Vec<(Name, Ino)>,
    /// What was there at the start and has not gone since.
    survivors: BTreeSet<(Name, Ino)>,
}

impl Reader {
    fn start(model: &Model, dir: Ino) -> Self {
        let survivors = entries_of(model, dir).collect();
        Self {
            dir,
            after: 0,
            seen: Vec::new(),
            survivors,
        }
    }

    /// Takes a page; says whether it was the last.
    fn step(&mut self, tree: &Tree, model: &Model) -> bool {
        let now: BTreeSet<_> = entries_of(model, self.dir).collect();
        self.survivors.retain(|entry| now.contains(entry));
        let page = tree.children(self.dir, self.after, PAGE).unwrap();
        self.after = page.last().map_or(self.after, |child| child.cookie);
        self.seen
            .extend(page.iter().map(|child| (child.name.clone(), child.node.ino)));
        page.is_empty()
    }

    fn finish(&self) {
        let once: BTreeSet<_> = self.seen.iter().cloned().collect();
        assert_eq!(once.len(), self.seen.len(), "an entry came twice");
        assert!(
            self.survivors.is_subset(&once),
            "an entry that was there all along was missed"
        );
    }
}

fn entries_of(model: &Model, dir: Ino) -> impl Iterator<Item = (Name, Ino)> {
    model
        .folders
        .get(&dir)
        .into_iter()
        .flatten()
        .map(|(name, node)| (name.clone(), node.ino))
}

fn remotes() -> impl Strategy<Value = Remote> {
    let kinds = prop_oneof![3 => Just(EntryKind::File), 2 => Just(EntryKind::Dir), 1 => Just(EntryKind::Symlink)];
    let perms = prop_oneof![Just(None), Just(Some(0o644)), Just(Some(0o600))];
    (0..NAMES.len(), kinds, 0..3_u64, 0..3_i64, perms).prop_map(|(at, kind, size, mtime_ns, perm)| Remote {
        name: Name::new(NAMES[at]).unwrap(),
        kind,
        size,
        mtime_ns,
        perm,
        version: Version::from_size_mtime(size, mtime_ns),
        target: (kind == EntryKind::Symlink).then(|| vec![b't', b'0' + u8::try_from(size).unwrap()]),
    })
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<usize>(), prop::collection::vec(remotes(), 0..12)).prop_map(|(at, entries)| Op::List(at, entries)),
        3 => (any::<usize>(), remotes()).prop_map(|(at, entry)| Op::Entry(at, entry)),
        2 => (any::<usize>(), 0..NAMES.len()).prop_map(|(at, name)| Op::Absent(at, name)),
        1 => Just(Op::Reopen),
    ]
}

fn play(ops: Vec<Op>) {
    let mut t = Fixture::new();
    let mut tree = Tree::new(t.store.clone());
    let mut model = Model::default();
    model.folders.insert(t.root, ModelFolder::new());
    let mut reader: Option<Reader> = None;
    for op in ops {
        let picked = match &op {
            Op::List(at, _) | Op::Entry(at, _) | Op::Absent(at, _) => model.pick(*at),
            Op::Reopen => t.root,
        };
        match op {
            Op::List(_, entries) => {
                let diff = t.list(picked, &entries);
                let wanted: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
                model.apply(picked, &wanted, &diff);
            }
            Op::Entry(_, entry) => {
                let mut wanted: BTreeMap<_, _> = model.folders[&picked]
                    .iter()
                    .map(|(name, node)| (name.clone(), node.remote.clone()))
                    .collect();
                wanted.insert(entry.name.clone(), entry.clone());
                let diff = write(&t.store, move |txn| txn.apply_entry(picked, &entry, Moment::LAST, NOW)).unwrap();
                model.apply(picked, &wanted, &diff);
            }
            Op::Absent(_, at) => {
                let name = Name::new(NAMES[at]).unwrap();
                let mut wanted: BTreeMap<_, _> = model.folders[&picked]
                    .iter()
                    .map(|(name, node)| (name.clone(), node.remote.clone()))
                    .collect();
                wanted.remove(&name);
                let diff = write(&t.store, move |txn| txn.apply_absent(picked, &name, Moment::LAST, NOW)).unwrap();
                model.apply(picked, &wanted, &diff);
            }
            Op::Reopen => {
                drop(tree);
                t = t.reopen();
                tree = Tree::new(t.store.clone());
            }
        }
        model.compare(&t.store, &tree);
        let reading = reader.get_or_insert_with(|| Reader::start(&model, picked));
        if reading.step(&tree, &model) {
            reading.finish();
            reader = None;
        }
    }
    t.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_the_naive_tree(ops in prop::collection::vec(ops(), 1..25)) {
        play(ops);
    }
}
