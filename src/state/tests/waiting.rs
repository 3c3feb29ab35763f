//! What is asked about all that waits, and about all that was made here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::state::{Conflict, NewDelete, NewEntry, NewSend, Tally, TaskId, TaskState, Tree};

fn send(t: &Fixture, of: &str, size: u64) -> TaskId {
    let send = NewSend {
        root: t.root,
        parent: t.root,
        name: name(of),
        ino: Ino(100 + size),
        generation: 1,
        size,
        due_ms: NOW,
        source: SiteName("here".to_owned()),
        target: SiteName("studio".to_owned()),
    };
    write(&t.store, move |txn| txn.queue_send(&send, NOW)).unwrap()
}

fn make(t: &Fixture, of: &str, object: u64) -> Ino {
    let entry = NewEntry {
        kind: EntryKind::File,
        perm: 0o644,
        uid: 1,
        gid: 1,
        rdev: 0,
        target: None,
        object: Some(object),
    };
    let (root, name) = (t.root, name(of));
    write(&t.store, move |txn| txn.create(root, &name, &entry, NOW))
        .unwrap()
        .ino
}

#[test]
fn what_is_to_do_is_counted_by_state_without_leftovers() {
    let t = Fixture::new();
    let (a, b) = (send(&t, "a", 10), send(&t, "b", 20));
    send(&t, "c", 30);
    let delete = NewDelete {
        root: t.root,
        path: path("d"),
        version: None,
        folder: false,
        due_ms: NOW,
        source: SiteName("here".to_owned()),
        target: SiteName("studio".to_owned()),
    };
    write(&t.store, move |txn| txn.queue_delete(&delete, NOW)).unwrap();
    write(&t.store, move |txn| txn.hold_task(b, true)).unwrap();
    write(&t.store, move |txn| {
        let task = txn.task(a)?.expect("there");
        txn.note_upload(&task, "note", 1)?;
        txn.cancel_task(a)
    })
    .unwrap();
    let mut to_do = t.store.read(|txn| txn.to_do()).unwrap();
    to_do.sort_by_key(|(_, _, is_send, tally)| (!is_send, tally.bytes));
    let tally = |tasks, bytes| Tally { tasks, bytes };
    assert_eq!(
        to_do,
        [
            (t.root, TaskState::Held, true, tally(1, 20)),
            (t.root, TaskState::Waiting, true, tally(1, 30)),
            (t.root, TaskState::Waiting, false, tally(1, 0)),
        ]
    );
    let oldest = t.store.read(|txn| txn.oldest_send(None)).unwrap().expect("one");
    assert_eq!(oldest.id, b);
}

#[test]
fn failures_are_told_by_kind_the_most_frequent_first() {
    let t = Fixture::new();
    for (of, kind) in [("a", "full"), ("b", "denied"), ("c", "denied"), ("d", "")] {
        let id = send(&t, of, 1);
        write(&t.store, move |txn| {
            let task = txn.task(id)?.expect("there");
            if !kind.is_empty() {
                txn.block_task(&task, None, kind, &format!("{kind} says the site"))?;
            }
            Ok(())
        })
        .unwrap();
    }
    let told = t.store.read(|txn| txn.failures(10)).unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|(count, first)| (*count, first.kind.as_deref().unwrap_or(""), first.name.clone()))
        .collect();
    assert_eq!(told, [(2, "denied", Some(name("b"))), (1, "full", Some(name("a")))]);
    assert_eq!(t.store.read(|txn| txn.failures(1)).unwrap().len(), 1);
}

#[test]
fn every_name_of_every_own_file_is_shown() {
    let t = Fixture::new();
    let (a, b) = (make(&t, "a", 1), make(&t, "b", 2));
    let root = t.root;
    write(&t.store, move |txn| txn.link(a, root, &name("a2"), NOW)).unwrap();
    let mut seen = Vec::new();
    let each = |own: crate::state::OwnName| {
        seen.push((own.name.to_string(), own.ino, own.object, own.nlink));
        Ok(())
    };
    t.store.read(|txn| txn.each_own_name(each)).unwrap();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("a".to_owned(), a, Some(1), 2),
            ("a2".to_owned(), a, Some(1), 2),
            ("b".to_owned(), b, Some(2), 1),
        ]
    );
}

#[test]
fn a_conflict_is_settled_when_ours_has_the_name_or_is_gone() {
    let t = Fixture::new();
    let ino = make(&t, "a", 1);
    let root = t.root;
    let theirs = Version::new("theirs");
    let tree = Tree::new(t.store.clone());
    // What is held in memory says the same as the database, twice in a row.
    let unsettled = || -> Vec<Conflict> {
        let unsettled = t.store.read(|txn| txn.unsettled()).unwrap();
        for _ in 0..2 {
            assert_eq!(tree.is_in_conflict(ino).unwrap(), !unsettled.is_empty());
            assert!(!tree.is_in_conflict(root).unwrap());
        }
        unsettled
    };
    assert!(unsettled().is_empty());
    write(&t.store, move |txn| {
        txn.put_aside((root, &name("a")), ino, &name("a.conflict"), &theirs, NOW)
    })
    .unwrap();
    assert_eq!(unsettled().len(), 1);
    let rename = |from: &'static str, to: &'static str| {
        let how = crate::state::RenameHow::Replace;
        write(&t.store, move |txn| {
            txn.rename((root, &name(from)), (root, &name(to)), how, NOW)
        })
        .unwrap()
    };
    rename("a.conflict", "a");
    assert!(unsettled().is_empty());
    rename("a", "elsewhere");
    assert_eq!(unsettled().len(), 1);
    write(&t.store, move |txn| txn.unlink(root, &name("elsewhere"), false, NOW)).unwrap();
    assert!(unsettled().is_empty());
}

/// A file is put aside and put right again and again. Who asks after an acknowledgement sees it, and nobody who saw the
/// later state sees the earlier one again.
#[test]
fn no_word_about_a_conflict_is_older_than_the_last_acknowledged_write() {
    let t = Fixture::new();
    let ino = make(&t, "a", 1);
    let root = t.root;
    // Writes; after an odd number of them the file is in conflict.
    let begun = AtomicU64::new(0);
    let acknowledged = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let sure = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            let tree = Tree::new(t.store.clone());
            let (begun, acknowledged, done, sure) = (&begun, &acknowledged, &done, &sure);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let is = tree.is_in_conflict(ino).unwrap();
                    if begun.load(Ordering::SeqCst) == before {
                        assert_eq!(is, !before.is_multiple_of(2), "after {before} writes");
                        sure.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 1..=1_000_u64 {
            begun.store(round, Ordering::SeqCst);
            write(&t.store, move |txn| {
                if round.is_multiple_of(2) {
                    let how = crate::state::RenameHow::Replace;
                    txn.rename((root, &name("b")), (root, &name("a")), how, NOW).map(drop)
                } else {
                    txn.put_aside((root, &name("a")), ino, &name("b"), &Version::new("theirs"), NOW)
                        .map(drop)
                }
            })
            .unwrap();
            acknowledged.store(round, Ordering::SeqCst);
            // Some answers fall into no write.
            if round % 10 < 2 {
                let (so_far, begun) = (sure.load(Ordering::Relaxed), Instant::now());
                while sure.load(Ordering::Relaxed) == so_far && begun.elapsed() < Duration::from_secs(10) {
                    thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(
        sure.load(Ordering::Relaxed) > 100,
        "the readers were answered between writes"
    );
}
