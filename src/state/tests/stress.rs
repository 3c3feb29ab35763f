//! Readers and a writer at once: what is acknowledged is what is answered from then on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::state::{Child, Tree};

const FILES: usize = 8;
const WRITES: u64 = 3_000;

/// Each file's size counts up. A reader notes what was acknowledged before it asks; an older answer is a stale one.
#[test]
fn no_answer_is_older_than_the_last_acknowledged_write() {
    let t = Fixture::new();
    let names: Vec<String> = (0..FILES).map(|i| format!("f{i}")).collect();
    t.list(t.root, &names.iter().map(|name| file(name, 1)).collect::<Vec<_>>());
    let acknowledged: Vec<AtomicU64> = (0..FILES).map(|_| AtomicU64::new(1)).collect();
    let done = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    let changed = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..3_usize {
            let tree = Tree::new(t.store.clone());
            let (names, acknowledged, done) = (&names, &acknowledged, &done);
            let (answers, changed, root) = (&answers, &changed, t.root);
            scope.spawn(move || {
                let mut last = [0; FILES];
                let mut at = reader;
                while !done.load(Ordering::SeqCst) {
                    at = (at * 5 + 3 + reader) % FILES;
                    let least = acknowledged[at].load(Ordering::SeqCst);
                    let found = tree.lookup(root, names[at].as_bytes()).unwrap();
                    // Sizes that leave a remainder of 0 stand for "not there".
                    let size = found.as_ref().map_or(0, |node| node.size);
                    let known = if size == 0 {
                        least.is_multiple_of(5) || acknowledged[at].load(Ordering::SeqCst) > least
                    } else {
                        size >= least
                    };
                    // An absence may also be that of a write that is not acknowledged yet.
                    let pending = size == 0 && (least + 1).is_multiple_of(5);
                    assert!(
                        known || pending,
                        "{} has size {size}, and {least} was acknowledged",
                        names[at]
                    );
                    if let Some(node) = found {
                        let again = tree.node(node.ino).unwrap().map_or(u64::MAX, |node| node.size);
                        assert!(again >= size, "number {} went from {size} back to {again}", node.ino);
                    }
                    changed.fetch_add(u64::from(last[at] != size), Ordering::Relaxed);
                    last[at] = size;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut sizes = [1_u64; FILES];
        for round in 0..WRITES {
            let at = usize::try_from(round * 7 % 8).unwrap();
            sizes[at] += 1;
            let (size, root, text) = (sizes[at], t.root, names[at].clone());
            write(&t.store, move |txn| {
                if size.is_multiple_of(5) {
                    txn.apply_absent(root, &name(&text), Moment::LAST, NOW).map(drop)
                } else {
                    txn.apply_entry(root, &file(&text, size), Moment::LAST, NOW).map(drop)
                }
            })
            .unwrap();
            acknowledged[at].store(size, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(changed.load(Ordering::Relaxed) > 100, "the readers saw changes");
    assert!(answers.load(Ordering::Relaxed) > WRITES, "and asked often");
    // Nothing stale survives.
    let tree = Tree::new(t.store.clone());
    for text in &names {
        let true_one = t.store.read(|txn| txn.lookup(t.root, text.as_bytes())).unwrap();
        assert_eq!(tree.lookup(t.root, text.as_bytes()).unwrap(), true_one);
    }
    t.check();
}

#[test]
fn what_is_held_is_answered_without_the_database() {
    let t = Fixture::new();
    let a = t.list(t.root, &[file("a", 1)]).added[0].1;
    let tree = Tree::new(t.store.clone());
    let known = tree.lookup(t.root, b"a").unwrap();
    assert_eq!(tree.lookup(t.root, b"b").unwrap(), None);
    assert_eq!(tree.node(a).unwrap(), known);
    assert!(!tree.is_in_conflict(a).unwrap());
    t.store.close();
    assert_eq!(tree.lookup(t.root, b"a").unwrap(), known);
    assert_eq!(tree.lookup(t.root, b"b").unwrap(), None);
    assert_eq!(tree.node(a).unwrap(), known);
    assert!(!tree.is_in_conflict(a).unwrap());
    assert!(matches!(tree.lookup(t.root, b"c"), Err(StateError::Closed)));
}

/// Waits until the thread that reads ahead has read a folder.
fn until_read_ahead(tree: &Tree) {
    let begun = std::time::Instant::now();
    while !tree.has_read_ahead() {
        assert!(begun.elapsed().as_secs() < 60, "nothing was read ahead");
        thread::yield_now();
    }
}

/// A walk gets each listing as it is, however often folders change just before they are asked for.
#[test]
fn a_walk_gets_what_was_read_ahead_only_while_it_is_true() {
    let t = Fixture::new();
    let folders: Vec<String> = (0..12).map(|n| format!("d{n:02}")).collect();
    let made = t.list(t.root, &folders.iter().map(|name| dir(name)).collect::<Vec<_>>());
    let inos: Vec<Ino> = made.added.iter().map(|(_, ino)| *ino).collect();
    // The sixth was never listed.
    for ino in inos.iter().filter(|ino| **ino != inos[5]) {
        t.list(*ino, &[file("a", 1), file("b", 1)]);
    }
    let tree = Tree::new(t.store.clone());
    let page = |at: usize| -> Vec<(String, u64)> {
        let children = tree.page(inos[at], 0, 100).unwrap();
        let shown = |child: &Child| (child.name.to_string(), child.node.size);
        children.iter().map(shown).collect()
    };
    let both = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    // One look is no walk.
    tree.page(t.root, 0, 100).unwrap();
    assert_eq!(page(0), both(1, 1));
    until_read_ahead(&tree);
    assert_eq!(page(1), both(1, 1));
    // A file of the next folder changes.
    until_read_ahead(&tree);
    let (second, third) = (inos[2], inos[3]);
    write(&t.store, move |txn| {
        txn.apply_entry(second, &file("a", 7), Moment::LAST, NOW).map(drop)
    })
    .unwrap();
    assert_eq!(page(2), both(7, 1));
    // It gets a name, and loses one.
    until_read_ahead(&tree);
    write(&t.store, move |txn| {
        txn.apply_absent(third, &name("b"), Moment::LAST, NOW)?;
        txn.apply_entry(third, &file("c", 3), Moment::LAST, NOW).map(drop)
    })
    .unwrap();
    assert_eq!(page(3), vec![("a".to_owned(), 1), ("c".to_owned(), 3)]);
    // What changes elsewhere costs nothing, and is in no answer.
    until_read_ahead(&tree);
    write(&t.store, move |txn| {
        txn.apply_entry(third, &file("d", 3), Moment::LAST, NOW).map(drop)
    })
    .unwrap();
    assert_eq!(page(4), both(1, 1));
    // It was empty, as nobody had looked yet.
    until_read_ahead(&tree);
    t.list(inos[5], &[file("a", 1), file("b", 9)]);
    assert_eq!(page(5), both(1, 9));
    // What was read ahead needs no store.
    until_read_ahead(&tree);
    t.store.close();
    assert_eq!(page(6), both(1, 1));
    assert!(matches!(tree.page(inos[7], 0, 100), Err(StateError::Closed)));
}
