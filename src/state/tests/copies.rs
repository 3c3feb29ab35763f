//! Copies between sites in the queue, one promise each.

use std::time::{Duration, Instant};

use super::*;
use crate::state::{
    Arrival, Asked, Claim, JobId, JobKey, JobKind, NewCopy, Replaces, Task, TaskId, TaskState, TaskWhat,
};

pub(super) fn site(text: &str) -> SiteName {
    SiteName(text.to_owned())
}

impl Fixture {
    fn key(&self, target: &str, day: i64) -> JobKey {
        JobKey {
            root: self.root,
            source: site("hq"),
            target: site(target),
            kind: JobKind::Push,
            day,
        }
    }

    fn copy_as(&self, copy: NewCopy, key: JobKey) -> TaskId {
        write(&self.store, move |txn| txn.queue_copy(&copy, &key, NOW)).unwrap()
    }

    fn copy(&self, of: &str) -> TaskId {
        self.copy_as(new(of), self.key("london", 1))
    }

    fn of(&self, id: TaskId) -> Task {
        self.store.read(|txn| txn.task(id)).unwrap().unwrap()
    }

    fn jobs(&self) -> Vec<JobId> {
        let jobs = self.store.read(|txn| txn.copy_jobs()).unwrap();
        jobs.into_iter().map(|job| job.id).collect()
    }

    fn claim_of(&self, job: JobId, limit: usize) -> Vec<Task> {
        let claim = Claim {
            root: self.root,
            job: Some(job),
            now_ms: NOW,
            lease_ms: NOW + 60_000,
            limit,
            horizon_ms: 3_600_000,
            max_size: None,
            under_way: Vec::new(),
        };
        write(&self.store, move |txn| txn.claim(&claim)).unwrap()
    }

    fn does<T: Send + 'static>(&self, f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static) -> T {
        write(&self.store, f).unwrap()
    }

    fn arrival(&self, task: &Task, skipped: bool) -> Arrival {
        Arrival {
            root: self.root,
            path: task.path.clone().unwrap(),
            source: site("hq"),
            source_version: Version::new("s"),
            target: task.target.clone().unwrap(),
            version: Version::new("t"),
            size: task.size,
            mtime_ns: 7,
            skipped,
            now_ms: NOW,
        }
    }
}

pub(super) fn new(of: &str) -> NewCopy {
    NewCopy {
        path: path(of),
        folder: false,
        size: 10,
        source_version: Some(Version::new("s")),
        replaces: Replaces::Usual,
        priority: 500,
        asked: Asked::Named,
        seen: None,
    }
}

#[test]
fn one_job_for_each_pair_kind_and_day_and_one_task_for_each_path_and_target() {
    let t = Fixture::new();
    let (a, b) = (t.copy("a"), t.copy("b"));
    assert_eq!(t.copy("a"), a);
    let elsewhere = t.copy_as(new("a"), t.key("vault", 1));
    let pulled = JobKey {
        kind: JobKind::Pull,
        ..t.key("paris", 1)
    };
    t.copy_as(new("a"), pulled);
    assert_eq!(t.of(a).job, t.of(b).job);
    assert_eq!(t.jobs().len(), 3);
    assert_ne!(t.of(a).job, t.of(elsewhere).job);
    // The next day it belongs to another job, and is not doubled.
    assert_eq!(t.copy_as(new("a"), t.key("london", 2)), a);
    assert_ne!(t.of(a).job, t.of(b).job);
    assert_eq!(t.jobs().len(), 4);
    let copies = t.store.read(|txn| txn.copies_of(t.root, &path("a"))).unwrap();
    let targets: Vec<_> = copies.into_iter().map(|task| task.target.unwrap().0).collect();
    assert_eq!(targets, ["london", "paris", "vault"]);
    t.check();
}

#[test]
fn who_asks_again_renews_what_nobody_holds_back() {
    let t = Fixture::new();
    let id = t.copy("a");
    let job = t.of(id).job;
    let task = t.claim_of(job, 9).remove(0);
    assert_eq!(t.copy("a"), id);
    assert_eq!(t.of(id).state, TaskState::Running, "who works on it goes on");
    t.does(move |txn| txn.block_task(&task, None, "conflict", "no"));
    let found = NewCopy {
        asked: Asked::Found,
        ..new("a")
    };
    let automatic = NewCopy {
        asked: Asked::Automatic,
        ..new("a")
    };
    t.copy_as(automatic.clone(), t.key("london", 1));
    assert_eq!(t.of(id).state, TaskState::Blocked, "a service leaves what is the same");
    let newer = NewCopy {
        source_version: Some(Version::new("s2")),
        ..automatic.clone()
    };
    t.copy_as(newer, t.key("london", 1));
    assert_eq!((t.of(id).state, t.of(id).tries), (TaskState::Waiting, 0));

    t.does(move |txn| txn.hold_task(id, true));
    t.copy("a");
    assert_eq!(t.of(id).state, TaskState::Held);
    t.does(move |txn| txn.hold_task(id, false));

    assert!(t.does(move |txn| txn.exclude_copy(id)));
    for copy in [found.clone(), automatic] {
        t.copy_as(copy, t.key("london", 1));
        assert_eq!(t.of(id).state, TaskState::Excluded);
    }
    assert_eq!(t.claim_of(job, 9), []);
    assert_eq!(t.jobs(), [], "nothing is left to be begun");
    t.copy_as(found, t.key("london", 2));
    assert_eq!(t.of(id).state, TaskState::Waiting, "another day's job has it again");
    t.does(move |txn| txn.exclude_copy(id));
    t.copy_as(new("a"), t.key("london", 2));
    assert_eq!(t.of(id).state, TaskState::Waiting, "so has who names it");
    t.check();
}

#[test]
fn what_is_left_out_while_it_is_worked_on_stays_out() {
    let t = Fixture::new();
    let id = t.copy("a");
    let task = t.claim_of(t.of(id).job, 9).remove(0);
    t.does(move |txn| txn.exclude_copy(id));
    let row = task.clone();
    t.does(move |txn| txn.postpone_task(&row, NOW, None));
    assert_eq!(t.of(id).state, TaskState::Excluded);
    t.does(move |txn| txn.retry_task(&task, NOW, "x", "y"));
    assert_eq!(t.of(id).state, TaskState::Excluded);
}

#[test]
fn what_arrived_is_remembered_and_counted_once() {
    let t = Fixture::new();
    for of in ["a", "b"] {
        t.copy(of);
    }
    let job = t.jobs()[0];
    let tasks = t.claim_of(job, 9);
    for (task, skipped) in tasks.iter().zip([false, true]) {
        let (arrival, task) = (t.arrival(task, skipped), task.clone());
        assert!(t.does(move |txn| txn.finish_copy(&task, &arrival)));
    }
    let left = t.store.read(|txn| txn.open_job(job)).unwrap().unwrap();
    assert_eq!(
        (left.job.done_tasks, left.job.done_bytes, left.job.same_tasks),
        (1, 10, 1)
    );
    assert_eq!(left.left, []);
    let copied = |target: &str| {
        t.store
            .read(|txn| txn.copied(t.root, &path("a"), &site(target)))
            .unwrap()
    };
    let row = copied("london").unwrap();
    assert_eq!((row.source_version.as_str(), row.version.as_str()), ("s", "t"));
    assert_eq!(copied("vault"), None);
    t.check();
}

#[test]
fn a_cancelled_copy_leaves_its_upload_to_be_cleared_away() {
    let t = Fixture::new();
    let id = t.copy("a");
    let task = t.claim_of(t.of(id).job, 9).remove(0);
    let row = task.clone();
    t.does(move |txn| txn.note_upload(&row, "note", 3));
    t.does(move |txn| txn.cancel_task(id));
    let left = t.of(id);
    assert!(
        left.is_leftover() && left.what == TaskWhat::CopyLeftover && left.upload.is_some(),
        "{left:?}"
    );
    t.check();
    // Asked for again before that, it goes on.
    t.does(move |txn| txn.give_back(id));
    t.copy("a");
    assert_eq!(
        (t.of(id).what, t.of(id).upload.as_deref()),
        (TaskWhat::Copy, Some("note"))
    );
    t.does(move |txn| txn.cancel_task(id));
    t.does(move |txn| txn.clear_upload(id));
    assert_eq!(t.store.read(|txn| txn.task(id)).unwrap(), None);
}

#[test]
fn copies_of_a_folder_are_a_range() {
    let t = Fixture::new();
    for of in ["a", "a/b", "a/c/d", "a0", "ab", "z"] {
        t.copy(of);
    }
    let below = |dir: &str, limit: usize| {
        let found = t.store.read(|txn| txn.copies_below(t.root, &path(dir), limit)).unwrap();
        found
            .into_iter()
            .map(|task| task.path.unwrap().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(below("a", 9), ["a/b", "a/c/d"]);
    assert_eq!(below("a", 1), ["a/b"]);
    assert_eq!(below("", 9).len(), 6);
}

#[test]
fn a_publish_does_not_pay_for_a_job_of_many_copies() {
    const COPIES: usize = 20_000;
    let t = Fixture::new();
    let key = t.key("london", 1);
    for from in (0..COPIES).step_by(1000) {
        let key = key.clone();
        t.does(move |txn| {
            for n in from..from + 1000 {
                let copy = NewCopy {
                    priority: 900,
                    ..new(&format!("shot/plate.{n}.exr"))
                };
                txn.queue_copy(&copy, &key, NOW)?;
            }
            Ok(())
        });
    }
    let job = t.jobs()[0];
    let quick = |what: &str, begun: Instant| {
        assert!(
            begun.elapsed() < Duration::from_millis(100),
            "{what} took {:?}",
            begun.elapsed()
        );
    };
    let begun = Instant::now();
    assert_eq!(t.store.read(|txn| txn.next_due(t.root, None)).unwrap(), None);
    quick("a look into the queue of publishes", begun);
    let begun = Instant::now();
    assert_eq!(t.store.read(|txn| txn.due_priority(job, NOW)).unwrap(), Some(900));
    assert_eq!(t.claim_of(job, 4).len(), 4);
    quick("a claim", begun);
    t.does(|txn| txn.release_leases());
    assert_eq!(t.claim_of(job, 4).len(), 4);
}

#[test]
fn a_store_of_the_version_before_keeps_its_jobs_and_tasks() {
    let home = TempDir::new().unwrap();
    let old = old_store(&home, 3);
    old.execute_batch(
        "INSERT INTO job (id, root, source, target, day, created_ms, done_tasks) VALUES (7, 3, 'here', 'studio', 9, 1, 4);
         INSERT INTO task (root, job, what, parent, name, ino, gen, state, due_ms) VALUES (3, 7, 0, 3, x'61', 5, 1, 0, 1);
         INSERT INTO task (root, job, what, path, version, state, due_ms) VALUES (3, 7, 1, x'62', 'v', 0, 1);",
    )
    .unwrap();
    drop(old);
    let store = StateStore::open(home.path()).unwrap();
    let (job, task) = store
        .read(|txn| Ok((txn.job(JobId(7))?, txn.task_of(Ino(3), b"a")?)))
        .unwrap();
    let (job, task) = (job.unwrap(), task.unwrap());
    assert_eq!((job.kind, job.day, job.done_tasks), (JobKind::Publish, 9, 4));
    assert_eq!((task.job, task.what, task.target), (JobId(7), TaskWhat::Send, None));
    let delete = store.read(|txn| txn.delete_of(Ino(3), &path("b"))).unwrap();
    assert_eq!(delete.unwrap().what, TaskWhat::DeleteFile);
    let key = JobKey {
        root: Ino(3),
        source: site("hq"),
        target: site("london"),
        kind: JobKind::Push,
        day: 1,
    };
    let made = write(&store, move |txn| txn.ensure_job(&key, NOW)).unwrap();
    assert!(made > JobId(7), "a number is never used again");
}

/// It changed at its source while the version before was on its way.
#[test]
fn a_newer_version_that_is_asked_for_during_a_copy_is_copied_afterwards() {
    for asked in [Asked::Automatic, Asked::Found, Asked::Named] {
        let t = Fixture::new();
        let id = t.copy("a");
        let task = t.claim_of(t.of(id).job, 9).remove(0);
        let newer = NewCopy {
            source_version: Some(Version::new("s2")),
            size: 20,
            asked,
            ..new("a")
        };
        assert_eq!(t.copy_as(newer.clone(), t.key("london", 1)), id);
        assert_eq!(t.of(id).state, TaskState::Running, "{asked:?}: one at a time");
        let arrival = t.arrival(&task, false);
        let ended = t.does(move |txn| txn.finish_copy(&task, &arrival));
        assert!(!ended, "{asked:?}");
        let next = t.claim_of(t.of(id).job, 9).remove(0);
        assert_eq!(
            (next.id, next.version.clone(), next.size),
            (id, Some(Version::new("s2")), 20)
        );
        // Asked for once more, it is what is on its way.
        t.copy_as(newer, t.key("london", 1));
        let arrival = t.arrival(&next, false);
        assert!(t.does(move |txn| txn.finish_copy(&next, &arrival)), "{asked:?}");
        t.check();
    }
}
