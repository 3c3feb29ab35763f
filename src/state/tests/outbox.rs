//! Rounds of jobs and the messages made of them.

use super::*;
use crate::state::{
    Claim, Handed, JobId, MessageState, NewDelete, NewMessage, NewSend, Round, Task, TaskFilter, TaskId,
};

/// Later than any round here ends.
const EVER: i64 = i64::MAX;

impl Fixture {
    fn queue(&self, of: &str, now_ms: i64) -> TaskId {
        let send = NewSend {
            root: self.root,
            parent: self.root,
            name: name(of),
            ino: Ino(100 + u64::from(of.as_bytes()[0])),
            generation: 1,
            size: 10,
            due_ms: NOW,
            source: SiteName("here".to_owned()),
            target: SiteName("studio".to_owned()),
        };
        write(&self.store, move |txn| txn.queue_send(&send, now_ms)).unwrap()
    }

    fn take(&self) -> Task {
        let claim = Claim {
            job: None,
            root: self.root,
            now_ms: NOW + 1_000_000,
            lease_ms: NOW + 2_000_000,
            limit: 1,
            horizon_ms: 3_600_000,
            max_size: None,
            under_way: Vec::new(),
        };
        write(&self.store, move |txn| txn.claim(&claim))
            .unwrap()
            .pop()
            .expect("a task that is due")
    }

    fn finish(&self) {
        let task = self.take();
        assert!(write(&self.store, move |txn| txn.finish_task(&task)).unwrap());
    }

    fn over(&self) -> Vec<JobId> {
        self.store.read(|txn| txn.rounds_over(EVER, 10)).unwrap()
    }

    fn round(&self) -> Round {
        let jobs = self.over();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        self.store.read(|txn| txn.round(jobs[0])).unwrap().expect("it is over")
    }

    fn told(&self, job: JobId) {
        write(&self.store, move |txn| txn.round_told(job)).unwrap();
    }
}

#[test]
fn a_round_ends_in_the_write_that_ends_its_last_task() {
    let f = Fixture::new();
    f.queue("a", NOW);
    f.queue("b", NOW);
    f.finish();
    assert_eq!(f.over(), []);
    f.finish();
    let round = f.round();
    assert_eq!(
        (round.files, round.bytes, round.removed, round.failed, round.number),
        (2, 20, 0, 0, 1)
    );
    assert_eq!(round.paths, [path("demo/a"), path("demo/b")]);
    assert_eq!(
        (round.project.0.as_str(), round.job.target.0.as_str()),
        ("demo", "studio")
    );
    assert!(round.began_ms <= round.ended_ms);

    // Before it is told, what comes is of the same round; after that, of another.
    f.queue("c", NOW);
    assert_eq!(f.over(), []);
    f.finish();
    assert_eq!((f.round().files, f.round().number), (3, 1));
    f.told(f.round().job.id);
    assert_eq!(f.over(), []);
    f.queue("d", NOW);
    f.finish();
    let round = f.round();
    assert_eq!((round.files, round.number, round.paths), (1, 2, vec![path("demo/d")]));
    f.check();
}

#[test]
fn what_failed_ends_a_round_and_is_told_once() {
    let f = Fixture::new();
    f.queue("a", NOW);
    f.queue("b", NOW);
    let task = f.take();
    write(&f.store, move |txn| txn.block_task(&task, None, "full", "no room left")).unwrap();
    assert_eq!(f.over(), []);
    f.finish();
    let round = f.round();
    assert_eq!((round.files, round.failed), (1, 1));
    let failure = &round.failures[0];
    assert_eq!(
        (
            failure.path.to_string().as_str(),
            failure.kind.as_str(),
            failure.why.as_str(),
            failure.again
        ),
        ("demo/a", "full", "no room left", false)
    );
    f.told(round.job.id);
    // Tried again by itself it fails as before: no news. A person's retry is another round, however it ends.
    let blocked = f
        .store
        .read(|txn| txn.tasks(TaskFilter::default(), TaskId(0), 10))
        .unwrap()
        .remove(0);
    let again = blocked.clone();
    write(&f.store, move |txn| {
        txn.block_task(&again, None, "full", "no room left")
    })
    .unwrap();
    assert_eq!(f.over(), []);
    write(&f.store, |txn| txn.retry_now(TaskFilter::default(), NOW)).unwrap();
    assert_eq!(f.over(), []);
    let task = f.take();
    write(&f.store, move |txn| txn.block_task(&task, None, "full", "no room left")).unwrap();
    assert_eq!((f.round().number, f.round().failed, f.round().files), (2, 1, 0));
}

#[test]
fn one_that_fails_again_and_again_keeps_no_round_open() {
    let f = Fixture::new();
    f.queue("a", NOW);
    for tries in 1..=3 {
        assert_eq!(f.over(), [], "after {tries} tries");
        let task = f.take();
        write(&f.store, move |txn| txn.retry_task(&task, NOW, "busy", "try later")).unwrap();
    }
    let round = f.round();
    assert_eq!((round.failed, round.failures[0].again), (1, true));
    f.told(round.job.id);
    f.finish();
    assert_eq!((f.round().number, f.round().files, f.round().failed), (2, 1, 0));
}

#[test]
fn what_is_held_or_taken_back_ends_a_round_too() {
    let f = Fixture::new();
    let (a, b) = (f.queue("a", NOW), f.queue("b", NOW));
    write(&f.store, move |txn| txn.hold_task(a, true)).unwrap();
    assert_eq!(f.over(), []);
    write(&f.store, move |txn| txn.cancel_task(b)).unwrap();
    let round = f.round();
    assert!(round.is_nothing() && round.held == 1, "{round:?}");
    write(&f.store, move |txn| txn.hold_task(a, false)).unwrap();
    assert_eq!(f.over(), []);
    f.finish();
    assert_eq!((f.round().files, f.round().held), (1, 0));

    let delete = NewDelete {
        root: f.root,
        path: path("old"),
        version: None,
        folder: true,
        due_ms: NOW,
        source: SiteName("here".to_owned()),
        target: SiteName("studio".to_owned()),
    };
    f.told(f.round().job.id);
    let again = delete.clone();
    write(&f.store, move |txn| txn.queue_delete(&delete, NOW)).unwrap();
    f.finish();
    assert_eq!((f.round().removed, f.round().files), (1, 0));
    f.told(f.round().job.id);
    write(&f.store, move |txn| txn.queue_delete(&again, NOW)).unwrap();
    let root = f.root;
    assert!(write(&f.store, move |txn| txn.cancel_delete(root, &path("old"))).unwrap());
    assert!(f.round().is_nothing());
}

#[test]
fn a_file_saved_again_the_next_day_leaves_no_round_open() {
    let f = Fixture::new();
    f.queue("a", NOW);
    f.queue("b", NOW);
    f.finish();
    assert_eq!(f.over(), []);
    // Both belong to the day's job from now on.
    f.queue("b", NOW + 86_400_000);
    let yesterday = f.round();
    assert_eq!((yesterday.files, yesterday.number), (1, 1));
    f.finish();
    assert_eq!(f.over().len(), 2);
}

fn message(receiver: &str, round: u64) -> NewMessage {
    NewMessage {
        job: JobId(1),
        round,
        receiver: receiver.to_owned(),
        address: String::new(),
        facts: "{}".to_owned(),
    }
}

#[test]
fn a_round_is_told_to_a_receiver_by_one_message() {
    let f = Fixture::new();
    let post = |m: NewMessage| write(&f.store, move |txn| txn.post(&m, NOW)).unwrap();
    assert!(post(message("chat", 1)) && !post(message("chat", 1)));
    assert!(post(message("chat", 2)) && post(message("people", 1)));
    let due = |receiver: &'static str, now| f.store.read(move |txn| txn.message_due(receiver, now)).unwrap();
    assert_eq!(due("chat", NOW - 1), None);
    let first = due("chat", NOW).unwrap();
    assert_eq!(
        (first.of.round, first.tries, first.state),
        (1, 0, MessageState::Waiting)
    );
    let id = first.id;
    assert!(write(&f.store, move |txn| txn.message_begun(id, NOW)).unwrap());
    assert!(
        !write(&f.store, move |txn| txn.message_begun(id, NOW)).unwrap(),
        "by one at a time"
    );
    assert_eq!(due("chat", NOW).unwrap().of.round, 2);

    // The process dies; it may have arrived. Whoever is not in the settings any more is not told.
    write(&f.store, |txn| txn.messages_left(&["chat".to_owned()], NOW + 5)).unwrap();
    let again = f
        .store
        .read(|txn| txn.messages(10))
        .unwrap()
        .into_iter()
        .find(|m| m.id == id)
        .unwrap();
    assert_eq!((again.state, again.lost, again.tries), (MessageState::Waiting, 1, 1));
    let gone = f.store.read(|txn| txn.messages(1)).unwrap().remove(0);
    assert_eq!(
        (gone.of.receiver.as_str(), gone.state),
        ("people", MessageState::GivenUp)
    );

    let not = Handed::Not {
        why: "busy".to_owned(),
        again_ms: Some(NOW + 50),
        lost: false,
    };
    write(&f.store, move |txn| txn.message_ended(id, &not, NOW)).unwrap();
    assert_eq!(f.store.read(|txn| txn.next_message("chat")).unwrap(), Some(NOW));
    write(&f.store, move |txn| txn.message_ended(id, &Handed::Over, NOW + 60)).unwrap();
    assert_eq!(f.store.read(|txn| txn.message_counts()).unwrap(), (1, 1));
    assert_eq!(write(&f.store, |txn| txn.retry_messages(None, NOW + 70)).unwrap(), 2);
    assert_eq!(f.store.read(|txn| txn.message_counts()).unwrap(), (2, 0));
    write(&f.store, |txn| txn.forget_messages(NOW + 61)).unwrap();
    assert!(f.store.read(|txn| txn.messages(10)).unwrap().iter().all(|m| m.id != id));
    f.check();
}
