//! Writes that share a transaction, and what they owe each other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Barrier};

use futures::future::join_all;

use super::*;
use crate::state::{SiteRow, SiteStatus, Tree};

/// Holds the writer up with one write while `queue` hands over others, then lets all run.
fn together<T: Send + 'static>(t: &Fixture, queue: Vec<Job<T>>) -> (Vec<Result<T, StateError>>, u64) {
    let (release, held) = sync_channel::<()>(1);
    let (began, begun) = sync_channel::<()>(1);
    let commits = || t.store.cache().unwrap().seq();
    let out = block_on(async {
        let first = t.store.write(move |_| {
            began.send(()).unwrap();
            held.recv().unwrap();
            Ok(())
        });
        let rest = async {
            let writes = queue.into_iter().map(|job| t.store.write(job));
            // All are handed over on the first poll, while the writer is busy.
            begun.recv().unwrap();
            let mut writes = Box::pin(join_all(writes));
            assert!(futures::poll!(&mut writes).is_pending());
            release.send(()).unwrap();
            writes.await
        };
        let before = commits();
        let (first, out) = futures::join!(first, rest);
        first.unwrap();
        (out, before)
    });
    (out.0, commits() - out.1)
}

type Job<T> = Box<dyn FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send>;

#[test]
fn writes_that_wait_share_a_commit_and_one_failure_undoes_itself_alone() {
    let t = Fixture::new();
    let root = t.root;
    let add = |text: &'static str, outcome: fn() -> Result<(), StateError>| -> Job<()> {
        Box::new(move |txn| {
            txn.apply_entry(root, &file(text, 10), Moment::LAST, NOW)?;
            outcome()
        })
    };
    let (out, commits) = together(
        &t,
        vec![
            add("a", || Ok(())),
            add("b", || Err(StateError::Invalid("changed my mind".to_owned()))),
            add("c", || panic!("a bug in a write")),
            add("d", || Ok(())),
        ],
    );
    assert_eq!(commits, 2, "the one that held the writer up, and the group");
    assert!(
        matches!(
            out[..],
            [Ok(()), Err(StateError::Invalid(_)), Err(StateError::Panicked), Ok(())]
        ),
        "{out:?}"
    );
    let names: Vec<_> = t.store.read(|txn| txn.children(root, 0, 10)).unwrap();
    let names: Vec<_> = names.iter().map(|child| child.name.to_string()).collect();
    assert_eq!(names, ["a", "d"]);
    let counts = t.store.read(|txn| txn.counts()).unwrap();
    assert_eq!((counts.files, counts.bytes), (2, 20));
    t.check();
}

#[test]
fn a_failure_of_the_disk_takes_down_its_transaction_and_no_other() {
    let t = Fixture::new();
    let root = t.root;
    let add = |text: &'static str| -> Job<()> {
        Box::new(move |txn| {
            if text == "too much" {
                // What a full disk does to the database, at exactly this write.
                let pages: i64 = txn
                    .conn
                    .pragma_query_value(None, "page_count", |row| row.get(0))
                    .unwrap();
                txn.conn
                    .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
                    .unwrap();
                let failed = (0..10_000)
                    .try_for_each(|i| {
                        txn.apply_entry(root, &file(&format!("{i}"), 1), Moment::LAST, NOW)
                            .map(drop)
                    })
                    .unwrap_err();
                txn.conn
                    .pragma_update_and_check(None, "max_page_count", 1 << 30, |_| Ok(()))
                    .unwrap();
                return Err(failed);
            }
            txn.apply_entry(root, &file(text, 10), Moment::LAST, NOW).map(drop)
        })
    };
    let (out, _) = together(&t, vec![add("before"), add("too much"), add("after")]);
    assert!(matches!(out[1], Err(StateError::Full(_))), "{:?}", out[1]);
    let there = |text: &str| t.store.read(|txn| txn.lookup(root, text.as_bytes())).unwrap().is_some();
    assert_eq!(out[0].is_ok(), there("before"), "acknowledged or undone, not both");
    assert!(out[2].is_ok() && there("after"));
    assert!(!there("0"));
    let tree = Tree::new(t.store.clone());
    write(&t.store, move |txn| {
        txn.apply_entry(root, &file("later", 1), Moment::LAST, NOW)
    })
    .unwrap();
    assert!(tree.lookup(root, b"later").unwrap().is_some());
    t.check();
}

#[test]
fn a_write_that_hides_what_the_disk_did_to_it_is_found_out() {
    let t = Fixture::new();
    let root = t.root;
    let hidden = write(&t.store, move |txn| {
        let pages: i64 = txn
            .conn
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .unwrap();
        txn.conn
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
        while txn
            .apply_entry(root, &file(&format!("{}", txn.new_id()), 1), Moment::LAST, NOW)
            .is_ok()
        {}
        txn.conn
            .pragma_update_and_check(None, "max_page_count", 1 << 30, |_| Ok(()))
            .unwrap();
        assert!(txn.conn.is_autocommit(), "the database undid the transaction");
        Ok(())
    });
    assert!(matches!(hidden, Err(StateError::Invalid(_))), "{hidden:?}");
    assert_eq!(t.store.read(|txn| txn.children(root, 0, 1)).unwrap(), []);
    t.check();
}

#[test]
fn a_durable_write_is_synced_and_others_are_not() {
    let t = Fixture::new();
    let level = |txn: &WriteTxn<'_>| {
        Ok::<i64, StateError>(
            txn.conn
                .pragma_query_value(None, "synchronous", |row| row.get(0))
                .unwrap(),
        )
    };
    let (normal, full) = (1, 2);
    assert_eq!(block_on(t.store.write(level)).unwrap(), normal);
    assert_eq!(block_on(t.store.write_durable(level)).unwrap(), full);
    assert_eq!(block_on(t.store.write(level)).unwrap(), normal);
}

#[test]
fn a_write_sees_its_own_changes_and_readers_see_them_when_it_is_done() {
    let t = Fixture::new();
    let (root, store) = (t.root, t.store.clone());
    write(&t.store, move |txn| {
        txn.apply_entry(root, &file("a", 1), Moment::LAST, NOW)?;
        assert!(txn.lookup(root, b"a")?.is_some());
        assert!(store.read(|txn| txn.lookup(root, b"a"))?.is_none());
        Ok(())
    })
    .unwrap();
    assert!(t.store.read(|txn| txn.lookup(root, b"a")).unwrap().is_some());
}

#[test]
fn a_reader_that_panics_or_fails_harms_nobody() {
    let t = Fixture::new();
    for _ in 0..10 {
        let store = t.store.clone();
        let panics = AssertUnwindSafe(move || store.read(|_| -> Result<(), StateError> { panic!("a bug") }));
        assert!(catch_unwind(panics).is_err());
        let failed = t.store.read(|_| Err::<(), _>(StateError::Invalid("no".to_owned())));
        assert!(matches!(failed, Err(StateError::Invalid(_))));
    }
    let both = t
        .store
        .read(|txn| t.store.read(|inner| Ok((txn.last_seq()?, inner.last_seq()?))));
    let (outer, inner) = both.unwrap();
    assert_eq!(outer, inner);
    t.check();
}

#[test]
fn closing_finishes_what_was_handed_over() {
    let t = Fixture::new();
    let (root, store) = (t.root, t.store.clone());
    let (begun, held) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begin, hold) = (Arc::clone(&begun), Arc::clone(&held));
    let first = std::thread::spawn(move || {
        write(&store, move |txn| {
            begin.wait();
            hold.wait();
            txn.apply_entry(root, &file("a", 1), Moment::LAST, NOW).map(drop)
        })
    });
    begun.wait();
    let closing = {
        let store = t.store.clone();
        std::thread::spawn(move || store.close())
    };
    // The close has begun once a write is refused.
    while !matches!(write_now(&t.store), Some(Err(StateError::Closed))) {
        std::thread::yield_now();
    }
    held.wait();
    first.join().unwrap().unwrap();
    closing.join().unwrap();
    let t = t.reopen();
    assert!(t.store.read(|txn| txn.lookup(root, b"a")).unwrap().is_some());
}

/// Tries a write that can't wait for its turn.
fn write_now(store: &StateStore) -> Option<Result<(), StateError>> {
    store.write(|_| Ok(())).now_or_never()
}

#[test]
fn a_store_dropped_by_its_own_write_ends_quietly() {
    let t = Fixture::new();
    let (root, home) = (t.root, t.home);
    let (held, store) = (t.store.clone(), t.store.clone());
    drop(t.store);
    let last = block_on(async move {
        let mut write = Box::pin(async move {
            store
                .write(move |txn| {
                    // Whoever waited has gone by now.
                    while Arc::strong_count(&held.inner) > 1 {
                        std::thread::yield_now();
                    }
                    txn.apply_entry(root, &file("a", 1), Moment::LAST, NOW)
                        .map(|_| drop(held))
                })
                .await
        });
        futures::poll!(&mut write).is_pending()
    });
    assert!(last);
    // The writer ends when it has answered; the next owner can have the folder once the old one's lock is gone.
    let reopened = loop {
        match StateStore::open(home.path()) {
            Err(StateError::InUse { .. }) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    assert!(reopened.read(|txn| txn.lookup(root, b"a")).unwrap().is_some());
}

#[test]
fn states_of_one_file_are_replaced_and_told_in_order() {
    let t = Fixture::new();
    let root = t.root;
    let set = |size: u64| -> Job<()> {
        let row = SiteRow {
            status: SiteStatus::InProgress,
            size,
            ..SiteRow::new(SiteName("cloud".to_owned()), NOW)
        };
        Box::new(move |txn| txn.set_site_row(root, &path("a"), &row))
    };
    let (out, _) = together(&t, (1..=50).map(set).collect());
    assert!(out.iter().all(Result::is_ok));
    let rows = t.store.read(|txn| txn.site_rows(root, &path("a"))).unwrap();
    assert_eq!((rows.len(), rows[0].size), (1, 50));
}
