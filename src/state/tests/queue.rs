//! The transfer queue, one promise each.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::*;
use crate::state::queue::{COPIES, PUBLISHES};
use crate::state::{
    Claim, JobId, NewDelete, NewSend, QueueCounts, QueueRow, Standing, Tally, Task, TaskFilter, TaskId, TaskState,
};

const LEASE: i64 = 60_000;

fn site(text: &str) -> SiteName {
    SiteName(text.to_owned())
}

fn all() -> TaskFilter {
    TaskFilter::default()
}

impl Fixture {
    fn send(&self, of: &str) -> NewSend {
        NewSend {
            root: self.root,
            parent: self.root,
            name: name(of),
            ino: Ino(100 + u64::from(of.as_bytes()[0])),
            generation: 1,
            size: 10,
            due_ms: NOW,
            source: site("here"),
            target: site("studio"),
        }
    }

    fn put(&self, of: &str) -> TaskId {
        self.put_as(self.send(of))
    }

    fn put_as(&self, send: NewSend) -> TaskId {
        write(&self.store, move |txn| txn.queue_send(&send, NOW)).unwrap()
    }

    fn delete(&self, of: &str) -> NewDelete {
        NewDelete {
            root: self.root,
            path: path(of),
            version: Some(Version::new("v")),
            folder: false,
            due_ms: NOW,
            source: site("here"),
            target: site("studio"),
        }
    }

    fn asking(&self, limit: usize) -> Claim {
        Claim {
            root: self.root,
            job: None,
            now_ms: NOW,
            lease_ms: NOW + LEASE,
            limit,
            horizon_ms: 3_600_000,
            max_size: None,
            under_way: Vec::new(),
        }
    }

    fn claim(&self, limit: usize) -> Vec<Task> {
        self.claim_as(self.asking(limit))
    }

    fn claim_as(&self, claim: Claim) -> Vec<Task> {
        write(&self.store, move |txn| txn.claim(&claim)).unwrap()
    }

    fn claim_one(&self) -> Task {
        self.claim(1).pop().expect("a task that is due")
    }

    fn task(&self, id: TaskId) -> Option<Task> {
        self.store.read(|txn| txn.task(id)).unwrap()
    }

    fn counts(&self) -> QueueCounts {
        self.store.read(|txn| txn.queue_counts(self.root)).unwrap()
    }

    fn run<T: Send + 'static>(&self, f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static) -> T {
        write(&self.store, f).unwrap()
    }
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

#[test]
fn a_name_has_one_task_and_asking_again_renews_it() {
    let t = Fixture::new();
    let id = t.put("a");
    let first = t.claim_one();
    assert_eq!((first.id, first.generation, first.size), (id, 1, 10));
    assert_eq!((first.parent, first.name.clone()), (Some(t.root), Some(name("a"))));
    assert_eq!((first.state, first.lease_ms), (TaskState::Running, NOW + LEASE));
    assert!(t.run({
        let first = first.clone();
        move |txn| txn.note_upload(&first, "note", 4)
    }));
    assert!(t.run({
        let first = first.clone();
        move |txn| txn.retry_task(&first, NOW + 9, "busy", "asked less")
    }));
    let failed = t.task(id).unwrap();
    assert_eq!(
        (failed.state, failed.tries, failed.due_ms),
        (TaskState::Waiting, 1, NOW + 9)
    );
    assert_eq!(
        (failed.kind.as_deref(), failed.error.as_deref()),
        (Some("busy"), Some("asked less"))
    );

    let newer = NewSend {
        generation: 2,
        size: 20,
        due_ms: NOW + 5,
        ..t.send("a")
    };
    assert_eq!(t.put_as(newer), id);
    let renewed = t.task(id).unwrap();
    assert_eq!((renewed.generation, renewed.size, renewed.due_ms), (2, 20, NOW + 5));
    assert_eq!((renewed.tries, renewed.kind, renewed.error), (0, None, None));
    assert_eq!(
        (renewed.upload.as_deref(), renewed.done_bytes),
        (Some("note"), 4),
        "it tells what was sent"
    );
    assert_eq!(t.store.read(|txn| txn.task_of(t.root, b"a")).unwrap().unwrap().id, id);
    let of_ino = t.store.read(|txn| txn.tasks_of_ino(first.ino.unwrap())).unwrap();
    assert_eq!(ids(&of_ino), [id]);
    t.check();
}

#[test]
fn what_was_asked_for_again_while_it_ran_is_not_taken_for_done() {
    let t = Fixture::new();
    let id = t.put("a");
    type End = fn(&WriteTxn<'_>, &Task) -> Result<bool, StateError>;
    let ends: [End; 5] = [
        |txn, task| txn.finish_task(task),
        |txn, task| txn.drop_task(task),
        |txn, task| txn.retry_task(task, NOW + 9, "busy", "x"),
        |txn, task| txn.postpone_task(task, NOW + 9, None),
        |txn, task| txn.block_task(task, None, "denied", "x"),
    ];
    for (round, end) in (2..).zip(ends) {
        let running = t.claim_one();
        t.put_as(NewSend {
            generation: round,
            ..t.send("a")
        });
        let renewed = t.task(id).unwrap();
        assert_eq!((renewed.state, renewed.lease_ms), (TaskState::Running, NOW + LEASE));
        assert_eq!(t.claim(9), [], "its worker is still at it");
        let (standing, noted) = t.run({
            let task = running.clone();
            move |txn| Ok((txn.extend_lease(&task, NOW + 1)?, txn.note_upload(&task, "old", 1)?))
        });
        assert_eq!((standing, noted), (Standing::Changed, false));
        assert!(!t.run(move |txn| end(txn, &running)));
        let waits = t.task(id).unwrap();
        assert_eq!((waits.state, waits.due_ms, waits.tries), (TaskState::Waiting, NOW, 0));
        assert_eq!((waits.generation, waits.kind), (round, None));
    }
    let last = t.claim_one();
    assert!(t.run(move |txn| txn.finish_task(&last)));
    assert_eq!(t.task(id), None);
}

#[test]
fn another_file_under_the_name_is_other_work_even_with_a_lower_generation() {
    let t = Fixture::new();
    let id = t.put_as(NewSend {
        generation: 7,
        ..t.send("a")
    });
    let running = t.claim_one();
    let other = NewSend {
        ino: Ino(999),
        ..t.send("a")
    };
    assert_eq!(t.put_as(other), id);
    assert!(!t.run(move |txn| txn.finish_task(&running)));
    assert_eq!(t.task(id).unwrap().ino, Some(Ino(999)));
}

#[test]
fn the_most_urgent_goes_first_and_claims_run_out() {
    let t = Fixture::new();
    let late = t.put_as(NewSend {
        due_ms: NOW + 1,
        ..t.send("a")
    });
    let (b, c) = (t.put("b"), t.put("c"));
    let early = t.put_as(NewSend {
        due_ms: NOW - 5,
        ..t.send("d")
    });
    assert!(t.run(move |txn| txn.set_task_priority(c, 900)));
    assert!(!t.run(|txn| txn.set_task_priority(TaskId(4711), 900)));
    assert_eq!(ids(&t.claim(3)), [c, early, b]);
    assert_eq!(t.claim(3), []);
    let due = |t: &Fixture| t.store.read(|txn| txn.next_due(t.root, None)).unwrap();
    assert_eq!(due(&t), Some(NOW + 1));
    let later = Claim {
        now_ms: NOW + LEASE,
        lease_ms: NOW + 2 * LEASE,
        ..t.asking(9)
    };
    let busy = Claim {
        under_way: vec![b, c],
        ..later.clone()
    };
    assert_eq!(ids(&t.claim_as(busy)), [early, late]);
    assert_eq!(due(&t), Some(NOW + LEASE));
    assert_eq!(ids(&t.claim_as(later)), [c, b]);
    t.run(|txn| txn.release_leases());
    assert_eq!(ids(&t.claim(9)), [c, early, b]);
    assert_eq!(
        t.claim(9),
        [],
        "the one that is due in a millisecond is not far off enough to be a mistake"
    );
}

#[test]
fn a_clock_that_steps_back_delays_nothing_beyond_the_horizon() {
    let t = Fixture::new();
    let far = t.put_as(NewSend {
        due_ms: NOW + 3_600_001,
        ..t.send("a")
    });
    t.put_as(NewSend {
        due_ms: NOW + 3_600_000,
        ..t.send("b")
    });
    assert_eq!(ids(&t.claim(9)), [far]);
}

#[test]
fn small_files_can_be_asked_for() {
    let t = Fixture::new();
    t.put_as(NewSend {
        size: 1000,
        ..t.send("a")
    });
    let small = t.put("b");
    let claim = Claim {
        max_size: Some(999),
        ..t.asking(9)
    };
    assert_eq!(ids(&t.claim_as(claim)), [small]);
}

#[test]
fn a_paused_queue_and_a_held_task_give_nothing_and_stop_what_runs() {
    let t = Fixture::new();
    let (a, b) = (t.put("a"), t.put("b"));
    let running = t.claim(2);
    let standing = |t: &Fixture, at: usize| {
        let task = running[at].clone();
        t.run(move |txn| txn.extend_lease(&task, NOW + 2 * LEASE))
    };
    let root = t.root;
    assert_eq!(standing(&t, 0), Standing::Claimed);
    assert_eq!(t.task(a).unwrap().lease_ms, NOW + 2 * LEASE);
    t.run(move |txn| txn.pause_queue(root, true));
    assert_eq!(standing(&t, 0), Standing::Stopped);
    t.run(|txn| txn.release_leases());
    assert_eq!(t.claim(9), []);
    t.run(move |txn| {
        txn.set_queue_priority(root, Some(800))?;
        txn.pause_queue(root, false)
    });
    let row = QueueRow {
        root,
        priority: Some(800),
        paused: false,
    };
    assert_eq!(t.store.read(|txn| txn.queue_rows()).unwrap(), [row]);

    assert!(t.run(move |txn| txn.hold_task(a, true)));
    assert_eq!(ids(&t.claim(9)), [b]);
    assert!(t.run(move |txn| txn.hold_task(b, true)));
    assert_eq!(standing(&t, 1), Standing::Stopped);
    let task = running[1].clone();
    assert!(t.run(move |txn| txn.postpone_task(&task, NOW, None)));
    assert_eq!(
        t.task(b).unwrap().state,
        TaskState::Held,
        "it stays held when its worker stops"
    );
    assert_eq!(t.put("b"), b);
    assert_eq!(
        t.task(b).unwrap().state,
        TaskState::Held,
        "and when it is asked for again"
    );
    assert!(t.run(move |txn| txn.hold_task(b, false)));
    assert!(!t.run(move |txn| txn.hold_task(b, false)));
    assert_eq!(ids(&t.claim(9)), [b]);
}

#[test]
fn what_is_blocked_waits_for_a_person_or_for_its_time() {
    let t = Fixture::new();
    let (a, b) = (t.put("a"), t.put("b"));
    let [first, second] = t.claim(2).try_into().unwrap();
    t.run(move |txn| {
        txn.block_task(&first, None, "invalid", "no such name")?;
        txn.block_task(&second, Some(NOW + 50), "full", "no room")
    });
    assert_eq!(t.claim(9), []);
    assert_eq!(t.store.read(|txn| txn.next_due(t.root, None)).unwrap(), Some(NOW + 50));
    let later = Claim {
        now_ms: NOW + 50,
        ..t.asking(9)
    };
    assert_eq!(ids(&t.claim_as(later)), [b]);
    let blocked = TaskFilter {
        state: Some(TaskState::Blocked),
        root: Some(t.root),
        ..all()
    };
    assert_eq!(ids(&t.store.read(|txn| txn.tasks(blocked, TaskId(0), 9)).unwrap()), [a]);
    assert_eq!(t.run(move |txn| txn.retry_now(blocked, NOW)), 1);
    let again = t.task(a).unwrap();
    assert_eq!((again.state, again.tries, again.due_ms), (TaskState::Waiting, 0, NOW));
    assert_eq!(ids(&t.claim(9)), [a]);

    let task = t.task(a).unwrap();
    t.run(move |txn| txn.block_task(&task, None, "invalid", "no such name"));
    t.run(|txn| txn.release_leases());
    assert_eq!(ids(&t.claim(9)), [a], "a start tries what is blocked once more");
}

#[test]
fn a_login_that_is_taken_again_makes_what_met_its_refusal_due() {
    let t = Fixture::new();
    let (a, b) = (t.put("a"), t.put("b"));
    for (id, kind) in [(a, "auth"), (b, "full")] {
        let task = t.task(id).unwrap();
        t.run(move |txn| txn.block_task(&task, Some(NOW + 9000), kind, "x"));
    }
    assert_eq!(t.claim(9), []);
    assert_eq!(t.run(|txn| txn.retry_refused_logins(NOW)), 1);
    assert_eq!(ids(&t.claim(9)), [a]);
}

#[test]
fn trying_again_now_is_for_what_failed_or_was_named() {
    let t = Fixture::new();
    let settling = |of: &str| NewSend {
        due_ms: NOW + 1000,
        ..t.send(of)
    };
    let (a, b) = (t.put_as(settling("a")), t.put("b"));
    let task = t.claim_one();
    t.run(move |txn| txn.retry_task(&task, NOW + 9000, "busy", "x"));
    assert_eq!(t.run(move |txn| txn.retry_now(all(), NOW)), 1);
    assert_eq!(ids(&t.claim(9)), [b]);
    let named = TaskFilter { id: Some(a), ..all() };
    assert_eq!(t.run(move |txn| txn.retry_now(named, NOW)), 1);
    assert_eq!(ids(&t.claim(9)), [a]);
}

#[test]
fn a_task_follows_its_file_and_takes_the_place_of_the_one_there() {
    let t = Fixture::new();
    let (a, b) = (t.put("a"), t.put("b"));
    let running = t.claim_one();
    assert_eq!(running.id, a);
    let root = t.root;
    let moved = move |from: &str, to: &str| {
        let (from, to) = (name(from), name(to));
        move |txn: &WriteTxn<'_>| txn.move_send((root, &from), (root, &to))
    };
    assert!(!t.run(moved("x", "b")), "nothing to follow");
    assert!(t.task(b).is_some());
    assert!(t.run(moved("a", "b")));
    assert_eq!(t.task(b), None);
    let task = t.task(a).unwrap();
    assert_eq!(
        (task.name, task.state, task.due_ms),
        (Some(name("b")), TaskState::Waiting, NOW)
    );
    assert!(
        !t.run(move |txn| txn.finish_task(&running)),
        "what was sent under the old name does not count for the new one"
    );
    assert!(t.run(moved("b", "b")));
    assert_eq!(t.store.read(|txn| txn.task_of(root, b"b")).unwrap().unwrap().id, a);
    t.check();
}

#[test]
fn a_name_that_goes_leaves_its_upload_to_be_cleared_away() {
    let t = Fixture::new();
    let root = t.root;
    let (a, b) = (t.put("a"), t.put("b"));
    let dropped = t.run(move |txn| txn.drop_send(root, b"b")).unwrap();
    assert_eq!((dropped.id, t.task(b)), (b, None), "nothing was under way");
    assert_eq!(t.run(move |txn| txn.drop_send(root, b"b")), None);

    let running = t.claim_one();
    assert!(t.run({
        let running = running.clone();
        move |txn| txn.note_upload(&running, "note", 4)
    }));
    let noted = t.store.read(|txn| txn.tasks_with_upload(root)).unwrap();
    assert_eq!(ids(&noted), [a]);
    let dropped = t.run(move |txn| txn.cancel_task(a)).unwrap();
    assert_eq!(dropped.name, Some(name("a")));
    let leftover = t.task(a).unwrap();
    assert!(leftover.is_leftover());
    assert_eq!(
        (leftover.upload.as_deref(), leftover.state),
        (Some("note"), TaskState::Running)
    );
    assert_eq!(t.run(move |txn| txn.cancel_task(a)), None);
    t.check();

    let again = t.put("a");
    assert_ne!(again, a);
    assert!(!t.run(move |txn| txn.finish_task(&running)));
    assert_eq!(
        t.task(a),
        None,
        "its upload is dealt with, and nothing else was left to do"
    );
    assert_eq!(ids(&t.claim(9)), [again]);

    let running = t.task(again).unwrap();
    t.run(move |txn| txn.note_upload(&running, "note", 0));
    t.run(move |txn| txn.drop_send(root, b"a"));
    t.run(|txn| txn.release_leases());
    let claimed = t.claim_one();
    assert!(claimed.is_leftover());
    t.run(move |txn| txn.clear_upload(claimed.id));
    assert_eq!(t.counts(), QueueCounts::default());
}

#[test]
fn removals_are_one_a_path_and_can_be_taken_back() {
    let t = Fixture::new();
    let id = t.run({
        let delete = t.delete("x/y");
        move |txn| txn.queue_delete(&delete, NOW)
    });
    let running = t.claim_one();
    assert_eq!((running.id, running.path.clone()), (id, Some(path("x/y"))));
    assert_eq!(running.version, Some(Version::new("v")));
    assert_eq!(running.what, crate::state::TaskWhat::DeleteFile);
    let again = t.run({
        let delete = NewDelete {
            folder: true,
            version: None,
            ..t.delete("x/y")
        };
        move |txn| txn.queue_delete(&delete, NOW)
    });
    assert_eq!(again, id);
    assert!(!t.run(move |txn| txn.finish_task(&running)), "it was asked for again");
    let found = t
        .store
        .read(|txn| txn.delete_of(t.root, &path("x/y")))
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.what, found.version),
        (crate::state::TaskWhat::DeleteFolder, None)
    );
    let root = t.root;
    assert!(t.run(move |txn| txn.cancel_delete(root, &path("x/y"))));
    assert!(!t.run(move |txn| txn.cancel_delete(root, &path("x/y"))));
    assert_eq!(t.claim(9), []);
}

#[test]
fn a_job_is_a_project_two_sites_and_a_day() {
    let t = Fixture::new();
    t.put("a");
    let b = t.send("b");
    t.run(move |txn| txn.queue_send(&b, NOW + 86_400_000));
    let jobs = t.store.read(|txn| txn.jobs(t.root, 9)).unwrap();
    assert_eq!(jobs.len(), 2);
    assert_eq!(jobs[0].day, jobs[1].day + 1);
    assert_eq!((&jobs[0].source, &jobs[0].target), (&site("here"), &site("studio")));
    let a = t.claim_one();
    assert_eq!(a.job, jobs[1].id);
    t.run(move |txn| txn.finish_task(&a));
    let job = t.store.read(|txn| txn.job(jobs[1].id)).unwrap().unwrap();
    assert_eq!((job.done_tasks, job.done_bytes), (1, 10));
    t.put("c");
    assert_eq!(t.store.read(|txn| txn.jobs(t.root, 9)).unwrap().len(), 2);
    assert_eq!(t.store.read(|txn| txn.job(JobId(77))).unwrap(), None);
    t.check();
}

#[test]
fn tasks_come_in_pages_and_are_counted() {
    let t = Fixture::new();
    let put: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|of| t.put(of)).collect();
    let page = |after, limit| t.store.read(|txn| txn.tasks(all(), after, limit)).unwrap();
    assert_eq!(ids(&page(TaskId(0), 3)), put[..3]);
    assert_eq!(ids(&page(put[2], 3)), put[3..]);
    let [a, b, c] = t.claim(3).try_into().unwrap();
    t.run(move |txn| {
        txn.block_task(&a, None, "denied", "x")?;
        txn.retry_task(&b, NOW + 5, "busy", "x")?;
        txn.hold_task(c.id, true)
    });
    assert_eq!(t.claim(1).len(), 1);
    let tally = |tasks| Tally {
        tasks,
        bytes: 10 * tasks,
    };
    let counts = QueueCounts {
        waiting: tally(2),
        running: tally(1),
        blocked: tally(1),
        held: tally(1),
        retrying: tally(1),
        excluded: Tally::default(),
    };
    assert_eq!(t.counts(), counts);
}

#[test]
fn a_long_queue_costs_a_claim_nothing() {
    const TASKS: u64 = 200_000;
    let t = Fixture::new();
    let model = t.send("x");
    t.run(move |txn| {
        for i in 0..TASKS {
            let mut send = model.clone();
            send.name = name(&format!("f{i:06}"));
            send.ino = Ino(1000 + i);
            // One in a thousand is due; the rest is put off, as after a long outage.
            send.due_ms = if i % 1000 == 0 { NOW } else { NOW + 60_000 };
            let id = txn.queue_send(&send, NOW)?;
            txn.set_task_priority(id, u16::try_from(i % 10).unwrap())?;
        }
        Ok(())
    });
    // The log of so many rows is folded away before the next write gets its turn.
    t.run(|_| Ok(()));
    // The least of five tries: other work on the machine is not what is measured.
    let quick = |what: &str, step: &dyn Fn()| {
        let took = (0..5).map(|_| {
            let begun = Instant::now();
            step();
            begun.elapsed()
        });
        let least = took.min().unwrap();
        assert!(least < Duration::from_millis(50), "{what} took {least:?}");
    };
    quick("a claim", &|| assert_eq!(t.claim(16).len(), 16));
    quick("when is next", &|| {
        assert_eq!(t.store.read(|txn| txn.next_due(t.root, None)).unwrap(), Some(NOW));
    });
    assert_eq!(t.claim(9999).len(), 200 - 5 * 16);
    quick("a claim of nothing", &|| assert_eq!(t.claim(16), []));
    let put = Cell::new(0);
    quick("putting one in", &|| {
        put.set(put.get() + 1);
        t.put(&format!("y{}", put.get()));
    });
    quick("a start", &|| t.run(|txn| txn.release_leases()));
    assert_eq!(t.counts().waiting.tasks, TASKS + put.get());
    let begun = Instant::now();
    let t = t.reopen();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "opening took {:?}",
        begun.elapsed()
    );
    t.check();
}

#[test]
fn claims_search_the_index_and_sort_nothing() {
    let t = Fixture::new();
    for (line, whose, index) in [(&PUBLISHES, "root", "task_next"), (&COPIES, "job", "task_copy_next")] {
        for (sql, params, terms) in [
            (line.level, 3, "=? AND state=? AND priority<?)"),
            (line.soonest, 3, "=? AND state=? AND priority=?)"),
            (line.first_lease, 1, "=? AND state=?)"),
            (line.run_out, 2, "=? AND state=?)"),
            (line.due, 5, "=? AND state=? AND priority=? AND due_ms<?)"),
            (line.far, 5, "=? AND state=? AND priority=? AND due_ms>? AND due_ms<?)"),
        ] {
            let terms = format!("INDEX {index} ({whose}{terms}");
            let plan = plan(&t, sql, params);
            let [only] = &plan[..] else { panic!("{sql}: {plan:?}") };
            assert!(only.contains("SEARCH") && only.ends_with(&terms), "{sql}: {only}");
        }
    }
}

/// How a question is answered.
pub(super) fn plan(t: &Fixture, sql: &'static str, params: usize) -> Vec<String> {
    t.run(move |txn| {
        let params = rusqlite::params_from_iter(std::iter::repeat_n(1, params));
        txn.many(&format!("EXPLAIN QUERY PLAN {sql}"), params, |row| {
            use crate::state::error::Db;
            row.get::<_, String>(3).db()
        })
    })
}
