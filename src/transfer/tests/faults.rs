//! Bad days: the site fails, lies, fills up, goes away; files change while they are sent.

use std::time::UNIX_EPOCH;

use super::*;
use crate::providers::layers::{Fault, Rule};
use crate::providers::{ErrorKind, Op};
use crate::state::TaskState;

fn slow(millis: u64) -> Rule {
    Rule::one_in(Op::Upload, Fault::Delay(Duration::from_millis(millis)), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_makes_nothing_happen_twice() {
    for (op, fault) in [
        (Op::Commit, Fault::LoseAnswer(ErrorKind::Unreachable)),
        (Op::Commit, Fault::LoseAnswer(ErrorKind::Protocol)),
        (Op::Upload, Fault::LoseAnswer(ErrorKind::TimedOut)),
        (Op::Commit, Fault::Fail(ErrorKind::Busy)),
        (Op::Upload, Fault::Fail(ErrorKind::Unreachable)),
    ] {
        for t in [Fixture::new().await, Fixture::on_disk().await] {
            for size in [1, 5 * PART] {
                for times in [1, 2, 5] {
                    let of = format!("f{size}-{times}");
                    let before = t.faults.fired();
                    t.faults.add(Rule::next(op, fault, times));
                    t.studio.save(&of, &vec![b'x'; size]).await;
                    let transfers = t.start().await;
                    t.drained().await;
                    // A commit whose answer was lost is found done, and not asked for again.
                    let fired = t.faults.fired() - before;
                    let once = op == Op::Commit && matches!(fault, Fault::LoseAnswer(_));
                    assert_eq!(fired, if once { 1 } else { times }, "{op} {fault:?}");
                    t.faults.clear();
                    assert_eq!(t.committed(&of), 1, "{op} {fault:?}");
                    drop(transfers);
                }
            }
            assert_eq!(t.conflicts(), []);
            let names = ["f1-1", "f1-2", "f1-5", "f5000-1", "f5000-2", "f5000-5"];
            assert_eq!(t.place.names(), names);
        }
    }
}

/// A commit that was given up goes on at some sites, and whoever asks again finds it in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_finds_its_own_work_is_no_conflict() {
    let dating = |knows| Fixture::at(move |_| Place::Memory(MemorySite::new().dating_files(knows)));
    for t in [
        Fixture::new().await,
        Fixture::on_disk().await,
        dating(true).await,
        dating(false).await,
    ] {
        t.studio.save("a", b"first").await;
        let transfers = t.start().await;
        t.drained().await;
        for (size, times) in [(1, 1), (1, 2), (5 * PART, 3)] {
            t.faults.add(Rule::next(
                Op::Commit,
                Fault::LoseAnswer(ErrorKind::VersionMismatch),
                times,
            ));
            t.studio.save("a", &vec![b'x'; size]).await;
            transfers.wake();
            t.drained().await;
            t.faults.clear();
            assert_eq!(t.conflicts(), []);
            t.assert_site(&[("a", &vec![b'x'; size])]);
        }
        assert_eq!(t.committed("a"), 4);
    }
}

/// Two machines render one frame within the same moment, uncompressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_put_there_at_the_same_time_with_the_same_size_is_a_conflict() {
    for (theirs, is_conflict) in [(b"them", true), (b"ours", false)] {
        let t = Fixture::on_disk().await;
        t.studio.save("a", b"ours").await;
        t.place.put("a", theirs);
        let Place::Disk(site, _) = &t.place else {
            unreachable!("it is on the disk")
        };
        let file = File::options().write(true).open(site.join("p/a")).unwrap();
        let saved = t.studio.mtime_ns("a");
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(saved.try_into().unwrap()))
            .unwrap();
        let transfers = t.start().await;
        t.drained().await;
        assert_eq!(t.conflicts().len(), usize::from(is_conflict));
        assert_eq!(t.place.get("a").unwrap(), theirs);
        drop(transfers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_of_a_file_that_changed_since_is_ours_and_no_conflict() {
    let dating = Fixture::at(|_| Place::Memory(MemorySite::new().dating_files(true))).await;
    for t in [Fixture::new().await, Fixture::on_disk().await, dating] {
        t.faults
            .add(Rule::next(Op::Commit, Fault::LoseAnswer(ErrorKind::Unreachable), 1));
        t.studio.save("a", b"first").await;
        let transfers = t.start().await;
        t.until("the answer is lost", || t.faults.fired() == 1).await;
        t.studio.save("a", b"second").await;
        transfers.wake();
        t.drained().await;
        t.assert_site(&[("a", b"second")]);
        let told = t.studio.told();
        // Whether the first one's fate was found out before or after it was replaced, it was ours.
        assert_eq!(t.conflicts(), [], "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_of_a_name_that_another_file_has_now_is_ours_too() {
    let t = Fixture::new().await;
    t.faults
        .add(Rule::next(Op::Commit, Fault::LoseAnswer(ErrorKind::Unreachable), 1));
    let mut t = t;
    // One at a time, and the moved one has to wait: the new file comes first.
    t.options.parallel = 1;
    t.studio.save("a", b"first").await;
    let transfers = t.start().await;
    t.until("the answer is lost", || {
        t.faults.fired() == 1 && t.counts().waiting.tasks == 1
    })
    .await;
    let task = t.tasks().remove(0);
    assert_eq!(
        (task.tries, task.kind.as_deref()),
        (0, Some("unreachable")),
        "held against the link alone"
    );
    let root = t.studio.root;
    t.studio.run(move |txn| txn.pause_queue(root, true)).await;
    t.studio.rename("a", "a.bak").await;
    t.studio.save("a", b"second").await;
    t.studio
        .run(move |txn| {
            let second = txn.task_of(root, b"a")?.unwrap();
            txn.set_task_priority(second.id, 900)?;
            txn.pause_queue(root, false)
        })
        .await;
    transfers.reconsider();
    t.drained().await;
    t.assert_site(&[("a", b"second"), ("a.bak", b"first")]);
    assert_eq!(t.conflicts(), []);
    assert!(
        t.studio.told().contains(&Told::Ours(path("p/a"), 1)),
        "{:?}",
        t.studio.told()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_moved_on_at_the_site_is_kept_beside_ours() {
    let dating = Fixture::at(|_| Place::Memory(MemorySite::new().dating_files(false))).await;
    for t in [Fixture::new().await, Fixture::on_disk().await, dating] {
        for size in [1, 5 * PART] {
            let of = format!("f{size}");
            t.studio.save(&of, &vec![b'x'; size]).await;
            let transfers = t.start().await;
            t.drained().await;
            t.place.put(&of, b"theirs, meanwhile");
            t.studio.save(&of, &vec![b'y'; size]).await;
            transfers.wake();
            t.drained().await;
            assert_eq!(t.place.get(&of).as_deref(), Some(&b"theirs, meanwhile"[..]));
            assert_eq!(t.place.get(&format!("{of}.conflict")), Some(vec![b'y'; size]));
        }
        assert_eq!(t.conflicts().len(), 2);
        assert_eq!(t.place.names(), ["f1", "f1.conflict", "f5000", "f5000.conflict"]);

        t.place.put("new", b"theirs, first");
        t.studio.save("new", b"ours").await;
        let _transfers = t.start().await;
        t.drained().await;
        assert_eq!(t.place.get("new").as_deref(), Some(&b"theirs, first"[..]));
        assert_eq!(t.place.get("new.conflict").as_deref(), Some(&b"ours"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_removed_at_the_site_is_sent_all_the_same() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        t.studio.save("a", b"first").await;
        let transfers = t.start().await;
        t.drained().await;
        t.place.remove("a");
        t.studio.save("a", b"second").await;
        transfers.wake();
        t.drained().await;
        t.assert_site(&[("a", b"second")]);
        assert_eq!(t.conflicts(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_site_blocks_the_task_and_is_tried_again_by_itself() {
    let t = Fixture::new().await;
    t.faults.add(Rule::next(Op::Upload, Fault::Fail(ErrorKind::Full), 3));
    t.studio.save("a", &vec![b'x'; 3 * PART]).await;
    let _transfers = t.start().await;
    t.until("it is blocked", || t.counts().blocked.tasks == 1).await;
    let task = t.tasks().remove(0);
    assert_eq!(task.kind.as_deref(), Some("full"));
    assert!(task.error.unwrap().contains("no room"));
    assert_eq!(task.upload, None, "its temporary file takes no room meanwhile");
    t.drained().await;
    assert_eq!(t.faults.fired(), 3);
    t.assert_site(&[("a", &vec![b'x'; 3 * PART])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_file_blocks_no_other() {
    let mut t = Fixture::new().await;
    // One at a time, in order: the first is refused.
    t.options.parallel = 1;
    t.options.retry_max = Duration::from_secs(2);
    t.faults.add(Rule::next(Op::Upload, Fault::Fail(ErrorKind::Denied), 1));
    for of in ["bad", "good", "better"] {
        t.studio.save(of, b"y").await;
    }
    let _transfers = t.start().await;
    // A file is at the site a moment before its task is gone.
    t.until("the others are there, the bad one waits for a person", || {
        t.committed("good") + t.committed("better") == 2
            && matches!(&t.tasks()[..], [bad] if (bad.state, bad.kind.as_deref()) == (TaskState::Blocked, Some("denied")))
    })
    .await;
    t.drained().await;
    assert_eq!(t.committed("bad"), 1, "it was tried again by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_the_site_can_not_hold_waits_for_a_person() {
    let t = Fixture::new().await;
    t.faults.add(Rule::next(Op::Upload, Fault::Fail(ErrorKind::Invalid), 1));
    t.studio.save("a", b"x").await;
    let transfers = t.start().await;
    t.until("it is blocked", || t.counts().blocked.tasks == 1).await;
    tokio::time::sleep(3 * t.options.retry_max).await;
    assert_eq!(t.counts().blocked.tasks, 1);
    t.studio.run(|txn| txn.retry_now(TaskFilter::default(), now_ms())).await;
    transfers.reconsider();
    t.drained().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_login_is_not_tried_with_every_task() {
    let mut t = Fixture::new().await;
    t.options.parallel = 1;
    t.options.retry_max = Duration::from_secs(60);
    t.faults.add(Rule::one_in(Op::Upload, Fault::Fail(ErrorKind::Auth), 1));
    for of in ["a", "b", "c"] {
        t.studio.save(of, b"x").await;
    }
    let transfers = t.start().await;
    t.until("one is blocked", || t.counts().blocked.tasks == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((t.faults.fired(), t.counts().waiting.tasks), (1, 2));
    t.faults.clear();
    t.studio.run(|txn| txn.retry_now(TaskFilter::default(), now_ms())).await;
    transfers.reconsider();
    t.drained().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_down_is_waited_for_and_held_against_nobody() {
    let t = Fixture::new().await;
    t.link.down.send_replace(true);
    for of in ["a", "b", "c"] {
        t.studio.save(of, b"x").await;
    }
    let transfers = t.start().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        (t.counts().waiting.tasks, t.studio.steps.count()),
        (3, 0),
        "nothing is asked of it"
    );
    t.link.down.send_replace(false);
    t.drained().await;

    t.faults
        .add(Rule::next(Op::Upload, Fault::Fail(ErrorKind::Unreachable), 4));
    t.studio.save("d", &vec![b'x'; 9 * PART]).await;
    transfers.wake();
    t.until("it failed", || t.faults.fired() == 4).await;
    t.drained().await;
    assert!(*t.link.failures.borrow() >= 2);
    let sent = transfers.stats().sent_bytes;
    assert!(sent <= 3 + 9 * PART as u64, "what had arrived was kept: {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_link_counts_no_try_and_other_failures_do() {
    let mut t = Fixture::new().await;
    t.options.retry_max = Duration::from_secs(60);
    t.options.retry_first = Duration::from_secs(60);
    t.faults
        .add(Rule::next(Op::Upload, Fault::Fail(ErrorKind::TimedOut), 1));
    let first = t.studio.save("a", b"x").await;
    let transfers = t.start().await;
    let task = |id| t.tasks().into_iter().find(|task| task.id == id).unwrap();
    t.until("it failed", || task(first).kind.is_some()).await;
    assert_eq!(
        (task(first).tries, task(first).state, task(first).kind.as_deref()),
        (0, TaskState::Waiting, Some("timed-out"))
    );
    t.faults.add(Rule::next(Op::Upload, Fault::Fail(ErrorKind::Busy), 1));
    let second = t.studio.save("b", b"x").await;
    transfers.wake();
    t.until("it failed too", || task(second).kind.is_some()).await;
    assert_eq!((task(second).tries, task(second).kind.as_deref()), (1, Some("busy")));
    assert_eq!(t.counts().retrying.tasks, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_sent_is_sent_again_and_never_mixed() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        t.faults.add(slow(3));
        t.studio.save("a", &vec![b'A'; 12 * PART]).await;
        let transfers = t.start().await;
        for letter in b'B'..=b'K' {
            let arrived = transfers.stats().sent_bytes;
            t.until("some more has arrived", || {
                transfers.stats().sent_bytes > arrived + 2 * PART as u64
            })
            .await;
            let seen = t.place.get("a").unwrap_or_default();
            assert!(seen.is_empty() || (seen.len() == 12 * PART && seen.iter().all(|b| *b == seen[0])));
            t.studio.save("a", &vec![letter; 12 * PART]).await;
            transfers.wake();
        }
        t.drained().await;
        t.assert_site(&[("a", &vec![b'K'; 12 * PART])]);
        assert_eq!(t.conflicts(), []);
        assert!(t.faults.fired() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_or_removal_in_mid_flight_is_followed() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        t.faults.add(slow(5));
        let transfers = t.start().await;
        let half = || t.until("half of it has arrived", || t.tasks()[0].done_bytes > 4 * PART as u64);
        t.studio.save("a", &vec![b'A'; 12 * PART]).await;
        transfers.wake();
        half().await;
        t.studio.rename("a", "b").await;
        transfers.wake();
        t.drained().await;
        t.assert_site(&[("b", &vec![b'A'; 12 * PART])]);

        t.studio.save("c", &vec![b'C'; 12 * PART]).await;
        transfers.wake();
        half().await;
        t.studio.unlink("c").await;
        t.drained().await;
        t.assert_site(&[("b", &vec![b'A'; 12 * PART])]);

        t.studio.save("b", &vec![b'B'; 12 * PART]).await;
        t.studio.save("d", &vec![b'D'; 11 * PART]).await;
        transfers.wake();
        half().await;
        t.studio.rename("d", "b").await;
        transfers.wake();
        t.drained().await;
        t.assert_site(&[("b", &vec![b'D'; 11 * PART])]);
        assert_eq!(t.conflicts(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_leaves_nothing_at_the_site() {
    let t = Fixture::new().await;
    t.faults.add(slow(5));
    let id = t.studio.save("a", &vec![b'A'; 30 * PART]).await;
    let transfers = t.start().await;
    t.until("some has arrived", || t.tasks()[0].done_bytes > 4 * PART as u64)
        .await;
    t.studio.run(move |txn| txn.cancel_task(id)).await;
    transfers.reconsider();
    t.drained().await;
    t.assert_site(&[]);
    assert_eq!(t.studio.told(), []);
}

/// A file `a` of which some parts have arrived.
async fn partly_sent() -> (Fixture, Arc<Transfers>) {
    let t = Fixture::new().await;
    t.faults.add(slow(5));
    t.studio.save("a", &vec![b'A'; 12 * PART]).await;
    let transfers = t.start().await;
    t.until("some has arrived", || t.tasks()[0].done_bytes > 4 * PART as u64)
        .await;
    t.faults.clear();
    (t, transfers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_can_not_be_cleared_away_is_cleared_away_later() {
    let (t, transfers) = partly_sent().await;
    t.faults
        .add(Rule::next(Op::Abort, Fault::Fail(ErrorKind::Unreachable), 3));
    let before = t.faults.fired();
    t.studio.unlink("a").await;
    transfers.reconsider();
    t.drained().await;
    assert_eq!(t.faults.fired() - before, 3);
    t.assert_site(&[]);
}

/// A secret that the server takes no more says nothing of what is there: it is cleared away once the secret is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_at_a_site_that_lets_nobody_in_is_cleared_away_once_it_does() {
    let (t, transfers) = partly_sent().await;
    t.faults.add(Rule::next(Op::Abort, Fault::Fail(ErrorKind::Auth), 1));
    let before = t.faults.fired();
    t.studio.unlink("a").await;
    transfers.reconsider();
    t.until("the site refused", || t.faults.fired() > before).await;
    t.until("it drained, or told", || {
        t.tasks().iter().all(|task| task.kind.as_deref() == Some("auth"))
    })
    .await;
    t.studio.run(|txn| txn.retry_now(TaskFilter::default(), now_ms())).await;
    transfers.reconsider();
    t.drained().await;
    t.assert_site(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrived_short_is_sent_again_under_another_name() {
    for kind in [ErrorKind::Invalid, ErrorKind::NotFound] {
        let t = Fixture::new().await;
        t.faults.add(Rule::next(Op::Commit, Fault::Fail(kind), 2));
        t.studio.save("a", &vec![b'A'; 3 * PART]).await;
        let transfers = t.start().await;
        t.drained().await;
        t.assert_site(&[("a", &vec![b'A'; 3 * PART])]);
        assert_eq!(t.faults.fired(), 2);
        assert_eq!(transfers.stats().sent_bytes, 9 * PART as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_fails_at_random_gets_everything_in_the_end() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        for op in [Op::Upload, Op::Commit, Op::Stat, Op::Abort] {
            for fault in [
                Fault::Fail(ErrorKind::Unreachable),
                Fault::Fail(ErrorKind::Busy),
                Fault::LoseAnswer(ErrorKind::TimedOut),
                Fault::LoseAnswer(ErrorKind::Protocol),
                Fault::Fail(ErrorKind::Full),
            ] {
                t.faults.add(Rule::one_in(op, fault, 12));
            }
        }
        let transfers = t.start().await;
        let mut wanted = BTreeMap::new();
        for round in 0..4_u8 {
            for i in 0..10 {
                let (of, bytes) = (format!("f{i}"), vec![b'a' + round; (usize::from(round) + i) * PART / 3]);
                t.studio.save(&of, &bytes).await;
                wanted.insert(of, bytes);
            }
            transfers.wake();
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        t.drained().await;
        let wanted: Vec<_> = wanted.iter().map(|(of, bytes)| (of.as_str(), &bytes[..])).collect();
        assert!(t.faults.fired() > 50, "{}", t.faults.fired());
        assert_eq!(t.conflicts(), []);
        for (of, bytes) in &wanted {
            assert!(t.place.get(of).as_deref() == Some(bytes), "{of}");
        }
        // An abort that the site refused leaves a temporary file, and nothing else is left.
        let names = t.place.names();
        assert!(names.iter().filter(|of| of.starts_with('f')).count() == 10, "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_can_not_be_read_are_tried_again_and_never_sent_in_part() {
    let t = Fixture::new().await;
    let bytes = vec![b'A'; 5 * PART];
    t.studio.save("a", &bytes).await;
    let object = t.studio.object(t.tasks()[0].ino.unwrap());
    fs::write(&object, &bytes[..3 * PART + 1]).unwrap();
    let _transfers = t.start().await;
    t.until("it failed", || t.tasks()[0].tries > 2).await;
    let task = t.tasks().remove(0);
    assert_eq!(task.kind.as_deref(), Some("local"));
    assert_eq!(t.place.get("a"), None);
    fs::write(&object, &bytes).unwrap();
    t.drained().await;
    t.assert_site(&[("a", &bytes)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_panics_holds_up_no_other() {
    let t = Fixture::new().await;
    t.studio.lock().panics = 1;
    for of in ["a", "b", "c"] {
        t.studio.save(of, b"x").await;
    }
    let _transfers = t.start().await;
    t.drained().await;
    assert_eq!(t.studio.lock().panics, 0);
    t.assert_site(&[("a", b"x"), ("b", b"x"), ("c", b"x")]);
}
