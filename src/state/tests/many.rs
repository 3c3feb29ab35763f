//! What is done for each task of a job, and what is asked all the time, costs the same with 2,000 tasks and with 200,000.

use super::copies::{new, site};
use super::*;
use crate::state::{
    Arrival, Claim, JobId, JobKey, JobKind, NewCopy, Task, TaskFilter, TaskId, TaskState, WriteTxn, steps,
};

const FEW: u64 = 2_000;
const MANY: u64 = 200_000;
/// An index of a hundred times the rows is a page or two deeper, which is no instruction more; what is read of a row that is
/// passed over is several.
const SLACK: u64 = 40;

/// A store with a job of so many copies, all of them due.
fn filled(tasks: u64) -> (Fixture, JobId) {
    let t = Fixture::new();
    let (root, key) = (t.root, key(t.root, 1));
    let job = write(&t.store, move |txn| {
        let job = txn.ensure_job(&key, NOW)?;
        txn.round_began(job)?;
        let fill = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?3) \
                    INSERT INTO task (root, job, what, path, version, size, state, due_ms, target) \
                    SELECT ?1, ?2, 3, CAST(printf('shot/%03d/plate.%06d.exr', n / 1000, n) AS BLOB), 's', 10, 0, ?4, 'london' \
                    FROM n";
        let number = |n: u64| i64::try_from(n).unwrap();
        assert_eq!(
            txn.run(fill, (number(root.0), number(job.0), number(tasks), NOW))?,
            usize::try_from(tasks).unwrap()
        );
        Ok(job)
    });
    (t, job.unwrap())
}

fn key(root: Ino, day: i64) -> JobKey {
    JobKey {
        root,
        source: site("hq"),
        target: site("london"),
        kind: JobKind::Push,
        day,
    }
}

/// How many instructions each thing takes that is done or asked while a job of so many tasks is under way.
struct Costs {
    t: Fixture,
    found: Vec<(&'static str, u64)>,
}

impl Costs {
    fn asked<T>(
        &mut self,
        what: &'static str,
        ask: impl FnOnce(&crate::state::ReadTxn<'_>) -> Result<T, StateError>,
    ) -> T {
        let (steps, out) = steps::of(|| self.t.store.read(ask));
        self.found.push((what, steps));
        out.unwrap()
    }

    fn done<T: Send + 'static>(
        &mut self,
        what: &'static str,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> T {
        let (steps, out) = write(&self.t.store, move |txn| {
            let (steps, out) = steps::of(|| f(txn));
            Ok((steps, out?))
        })
        .unwrap();
        self.found.push((what, steps));
        out
    }
}

/// Does once what the transfers do all the time.
fn costs(tasks: u64) -> Vec<(&'static str, u64)> {
    let (t, job) = filled(tasks);
    let root = t.root;
    let mut c = Costs { t, found: Vec::new() };

    // The control: what reads all rows is seen to.
    let scan = "SELECT count(*) FROM task WHERE size < 0";
    let (all, _) = steps::of(|| c.t.store.read(|txn| txn.one(scan, [], |_| Ok(()))).unwrap());
    assert!(all > tasks, "{all} instructions for {tasks} rows: they are not counted");

    let claim = Claim {
        root,
        job: Some(job),
        now_ms: NOW,
        lease_ms: NOW + 60_000,
        limit: 8,
        horizon_ms: 3_600_000,
        max_size: None,
        under_way: Vec::new(),
    };
    c.asked("what was set for queues", |txn| txn.queue_rows());
    c.asked("which jobs there are", |txn| txn.copy_jobs());
    c.asked("when is next", |txn| txn.next_due(root, Some(job)));
    c.asked("how urgent it is", |txn| txn.due_priority(job, NOW));
    let claimed: Vec<Task> = c.done("a claim", move |txn| txn.claim(&claim));
    let mut claimed = claimed.into_iter();
    let mut next = || claimed.next().expect("enough were claimed");
    let task = next();
    let (noted, extended) = (task.clone(), task.clone());
    c.done("a note", move |txn| txn.note_upload(&noted, "note", 3));
    c.done("a claim that is made longer", move |txn| {
        txn.extend_lease(&extended, NOW + 120_000)
    });
    let arrival = Arrival {
        root,
        path: task.path.clone().unwrap(),
        source: site("hq"),
        source_version: Version::new("s"),
        target: site("london"),
        version: Version::new("t"),
        size: 10,
        mtime_ns: 7,
        skipped: false,
        now_ms: NOW,
    };
    c.done("a file that arrived", move |txn| txn.finish_copy(&task, &arrival));
    let task = next();
    c.done("a failure", move |txn| txn.retry_task(&task, NOW + 1, "busy", "later"));
    let task = next();
    c.done("a delay", move |txn| txn.postpone_task(&task, NOW + 1, None));
    let task = next();
    c.done("a refusal", move |txn| txn.block_task(&task, None, "denied", "no"));
    let task = next();
    c.done("a claim given back", move |txn| txn.give_back(task.id));
    let task = next();
    let held = task.id;
    c.done("one held", move |txn| txn.hold_task(held, true));
    let out = next().id;
    c.done("one left out", move |txn| txn.exclude_copy(out));
    let into = key(root, 1);
    c.done("one put in", move |txn| {
        txn.queue_copy(&new("shot/new.exr"), &into, NOW)
    });
    let into = key(root, 1);
    let again = NewCopy {
        priority: 700,
        ..new("shot/001/plate.001500.exr")
    };
    c.done("one asked for again", move |txn| txn.queue_copy(&again, &into, NOW));
    c.done("a job begun", move |txn| txn.ensure_job(&key(root, 2), NOW));
    c.done("a start", |txn| txn.release_leases());

    c.asked("how many there are", |txn| txn.queue_counts(root));
    c.asked("a job", |txn| txn.open_job(job));
    c.asked("what is to be sent", |txn| txn.to_do());
    c.asked("the oldest that is to be sent", |txn| txn.oldest_send(None));
    c.asked("the oldest of a project", |txn| txn.oldest_send(Some(root)));
    c.asked("what failed", |txn| txn.failures(10));
    for (what, state) in [
        ("those that need a person", TaskState::Blocked),
        ("those under way", TaskState::Running),
        ("those held", TaskState::Held),
    ] {
        let filter = TaskFilter {
            state: Some(state),
            ..TaskFilter::default()
        };
        c.asked(what, |txn| txn.tasks(filter, TaskId(0), 100));
    }
    c.asked("a path's copies", |txn| {
        txn.copies_of(root, &path("shot/001/plate.001501.exr"))
    });
    c.t.check();
    c.found
}

#[test]
fn a_job_of_very_many_tasks_costs_each_of_them_no_more() {
    let few = costs(FEW);
    let many = costs(MANY);
    let dear: Vec<_> = few
        .iter()
        .zip(&many)
        .filter(|((_, few), (_, many))| *many > few + few / 4 + SLACK)
        .collect();
    assert!(dear.is_empty(), "instructions of {FEW} tasks and of {MANY}: {dear:#?}");
}

#[test]
fn sizes_that_no_sum_holds_stop_nothing() {
    let t = Fixture::new();
    let key = key(t.root, 1);
    let into = key.clone();
    let job = write(&t.store, move |txn| {
        for of in ["a", "b", "c"] {
            let copy = NewCopy {
                size: u64::try_from(i64::MAX).unwrap(),
                ..new(of)
            };
            txn.queue_copy(&copy, &into, NOW)?;
        }
        txn.ensure_job(&into, NOW)
    })
    .unwrap();
    let counted = || t.store.read(|txn| txn.queue_counts(t.root)).unwrap().waiting;
    assert_eq!(counted().tasks, 3);
    assert!(counted().bytes > u64::MAX / 4, "{:?}", counted());
    write(&t.store, move |txn| {
        for task in txn.tasks(TaskFilter::default(), TaskId(0), 9)? {
            txn.cancel_task(task.id)?;
        }
        txn.queue_copy(&new("d"), &key, NOW)
    })
    .unwrap();
    assert_eq!((counted().tasks, counted().bytes), (1, 10));
    let open = t.store.read(|txn| txn.open_job(job)).unwrap().unwrap();
    assert_eq!(open.left.len(), 1, "{:?}", open.left);
    t.check();
}
