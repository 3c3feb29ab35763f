//! Copies between two sites in memory, on bad days.

use super::*;
use crate::providers::layers::{Fault, Rule};
use crate::providers::{ErrorKind, Op};
use crate::state::{Asked, JobKey, JobKind, NewCopy, OpenJob, Replaces, TaskState};
use crate::transfer::{Copies, CopyProject, End};

/// Two sites, `hq` and `london`, with a project that is in `p` at one and in `q` at the other.
struct Two {
    t: Fixture,
    hq: MemorySite,
    london: MemorySite,
    /// Strike at hq, and at london.
    faults: [Arc<Faults>; 2],
    links: [Arc<TestLink>; 2],
}

fn link() -> Arc<TestLink> {
    Arc::new(TestLink {
        down: watch::Sender::new(false),
        failures: watch::Sender::new(0),
        back_after: Duration::from_millis(10),
    })
}

impl Two {
    async fn new() -> Self {
        Self {
            t: Fixture::new().await,
            hq: MemorySite::new(),
            london: MemorySite::new(),
            faults: [Faults::new(3), Faults::new(4)],
            links: [link(), link()],
        }
    }

    async fn start(&self) -> Arc<Transfers> {
        let end = |name: &str, at: usize, site: &MemorySite| End {
            site: SiteName(name.to_owned()),
            provider: FlakyLayer::new(Arc::clone(&self.faults[at])).over(Arc::new(site.clone())),
            link: Arc::clone(&self.links[at]) as Arc<dyn LaneLink>,
        };
        let paths = [("hq", "p"), ("london", "q")].map(|(site, at)| (SiteName(site.to_owned()), path(at)));
        let copies = Copies {
            sites: vec![end("hq", 0, &self.hq), end("london", 1, &self.london)],
            projects: vec![CopyProject {
                root: self.t.studio.root,
                priority: 500,
                paths: paths.into_iter().collect(),
            }],
            ..Copies::default()
        };
        let desk = Arc::clone(&self.t.studio) as Arc<dyn Desk>;
        let (store, stop) = (self.t.studio.store.clone(), self.t.stop.clone());
        Transfers::start_with_copies(store, desk, Vec::new(), copies, self.t.options, stop)
            .await
            .unwrap()
    }

    fn key(&self) -> JobKey {
        JobKey {
            root: self.t.studio.root,
            source: SiteName("hq".to_owned()),
            target: SiteName("london".to_owned()),
            kind: JobKind::Push,
            day: 1,
        }
    }

    async fn push(&self, of: &str) {
        self.push_as(of, Replaces::Usual, Asked::Named).await;
    }

    async fn push_as(&self, of: &str, replaces: Replaces, asked: Asked) {
        let (key, of) = (self.key(), path(of));
        let copy = NewCopy {
            folder: true,
            path: of,
            size: 0,
            source_version: None,
            replaces,
            priority: 500,
            asked,
            seen: None,
        };
        self.t
            .studio
            .run(move |txn| txn.queue_copy(&copy, &key, now_ms()))
            .await;
    }

    fn job(&self) -> OpenJob {
        self.t
            .studio
            .store
            .read(|txn| {
                let job = txn.jobs(self.t.studio.root, 1)?[0].id;
                txn.open_job(job)
            })
            .unwrap()
            .unwrap()
    }

    /// Waits until nothing is left but what needs a person.
    async fn done(&self) {
        let goes_on = |task: &Task| matches!(task.state, TaskState::Waiting | TaskState::Running);
        self.t
            .until("the job is done", || !self.t.tasks().iter().any(goes_on))
            .await;
    }

    fn put(&self, of: &str, bytes: &[u8]) {
        drop(self.hq.put(&path("p").concat(&path(of)), bytes.to_vec()).unwrap());
    }

    fn got(&self, of: &str) -> Option<Vec<u8>> {
        self.london
            .get(&path("q").concat(&path(of)))
            .map(|bytes| bytes.to_vec())
    }

    fn assert_clean(&self) {
        assert_eq!(self.london.uploads_under_way(), 0, "an upload was left at the target");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_goes_over_whole_whatever_fails_on_the_way() {
    let two = Two::new().await;
    let content = |n: usize| vec![u8::try_from(n % 251).unwrap(); (n * 97) % (5 * PART)];
    for n in 0..400 {
        two.put(&format!("shot/{}/f{n}", n % 3), &content(n));
    }
    two.hq.put_dir(&path("p/shot/nothing in it")).unwrap();
    two.hq.put_link(&path("p/shot/link"), "f1").unwrap();
    for faults in &two.faults {
        faults.add(Rule::one_in(Op::Read, Fault::Cut(300), 40));
        faults.add(Rule::one_in(Op::Upload, Fault::Fail(ErrorKind::Busy), 40));
        faults.add(Rule::one_in(Op::Commit, Fault::LoseAnswer(ErrorKind::Protocol), 40));
        faults.add(Rule::next(Op::List, Fault::Cut(100), 2));
    }
    two.push("shot").await;
    let transfers = two.start().await;
    two.done().await;
    assert!(two.faults[0].fired() > 10 && two.faults[1].fired() > 10);
    for n in 0..400 {
        assert_eq!(two.got(&format!("shot/{}/f{n}", n % 3)), Some(content(n)), "f{n}");
    }
    assert!(
        two.london
            .names(&path("q/shot"))
            .iter()
            .any(|name| **name == *b"nothing in it")
    );
    let job = two.job();
    assert_eq!((job.job.done_tasks, job.left.len()), (400, 0), "{job:?}");
    assert!(job.job.left_out >= 1, "the link is told");
    two.assert_clean();

    // Again: nothing is sent.
    for faults in &two.faults {
        faults.clear();
    }
    let before = two.london.counters().calls(Op::Upload);
    two.push("shot").await;
    transfers.wake();
    two.done().await;
    assert_eq!(two.london.counters().calls(Op::Upload), before);
    assert_eq!(two.job().job.same_tasks, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_changes_in_mid_copy_arrives_as_it_is_then() {
    let two = Two::new().await;
    two.put("a", &vec![1; 40 * PART]);
    two.faults[1].add(Rule::one_in(Op::Upload, Fault::Delay(Duration::from_millis(5)), 1));
    two.push("a").await;
    let _transfers = two.start().await;
    two.t
        .until("some of it has arrived", || {
            two.t.tasks().iter().any(|task| task.done_bytes > 5 * PART as u64)
        })
        .await;
    two.put("a", &vec![2; 17 * PART + 3]);
    let met = || {
        two.t
            .tasks()
            .iter()
            .any(|task| task.kind.as_deref() == Some("source-changed"))
    };
    two.t.until("the change is met", met).await;
    two.done().await;
    assert_eq!(two.got("a"), Some(vec![2; 17 * PART + 3]));
    two.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_mid_file_costs_no_part_twice() {
    let two = Two::new().await;
    two.put("a", &vec![7; 60 * PART]);
    two.faults[1].add(Rule::one_in(Op::Upload, Fault::Delay(Duration::from_millis(4)), 1));
    two.push("a").await;
    let transfers = two.start().await;
    two.t
        .until("some of it has arrived", || {
            two.t.tasks().iter().any(|task| task.done_bytes > 20 * PART as u64)
        })
        .await;
    two.t.stop.cancel();
    transfers.stopped().await;
    drop(transfers);
    let sent = two.london.counters().bytes_out;
    assert_eq!(two.got("a"), None);
    let again = Two {
        t: Fixture {
            stop: CancellationToken::new(),
            ..two.t
        },
        ..two
    };
    let _transfers = again.start().await;
    again.done().await;
    assert_eq!(again.got("a"), Some(vec![7; 60 * PART]));
    let all = again.london.counters().bytes_out;
    assert!(
        all < 60 * PART as u64 + 4 * PART as u64,
        "{sent} bytes, then {all} in all"
    );
    again.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_goes_away_costs_no_try_and_a_poisoned_file_holds_up_no_other() {
    let two = Two::new().await;
    for n in 0..60 {
        two.put(&format!("d/f{n}"), b"bytes");
    }
    two.put("d/poison/f", b"x");
    two.london.put_dir(&path("q/d/poison")).unwrap();
    two.london.deny(&path("q/d/poison"), true);
    two.faults[0].add(Rule::one_in(Op::Read, Fault::Fail(ErrorKind::Unreachable), 5));
    two.push("d").await;
    let transfers = two.start().await;
    two.done().await;
    assert!(two.faults[0].fired() > 0 && *two.links[0].failures.borrow() > 0);
    assert_eq!(*two.links[1].failures.borrow(), 0, "the other site is not blamed");
    let left = two.t.tasks();
    let [denied] = &left[..] else { panic!("{left:#?}") };
    assert_eq!(
        (denied.state, denied.kind.as_deref()),
        (TaskState::Blocked, Some("denied")),
        "{denied:#?}"
    );
    assert!(denied.error.as_deref().unwrap().starts_with("london: "), "{denied:#?}");
    assert_eq!(two.job().job.done_tasks, 60);

    two.london.deny(&path("q/d/poison"), false);
    two.push("d/poison").await;
    transfers.wake();
    two.done().await;
    assert_eq!(two.t.tasks(), []);
    assert_eq!(two.got("d/poison/f"), Some(b"x".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_put_at_the_target_stays_unless_it_was_to_go() {
    let two = Two::new().await;
    two.put("a", b"ours");
    // Memory sites date files by when they come: this one is newer.
    let at_london = path("q/a");
    let theirs = two.london.put(&at_london, b"theirs, and newer".to_vec()).unwrap();
    let other = Version::new("another");
    let transfers = two.start().await;
    for replaces in [Replaces::Usual, Replaces::Nothing, Replaces::Only(other)] {
        two.push_as("a", replaces.clone(), Asked::Named).await;
        transfers.wake();
        let blocked = || {
            two.t
                .tasks()
                .iter()
                .any(|task| task.state == TaskState::Blocked && task.tries > 0)
        };
        two.t.until("a conflict", blocked).await;
        assert_eq!(two.t.tasks()[0].kind.as_deref(), Some("conflict"), "{replaces:?}");
        assert_eq!(two.got("a"), Some(b"theirs, and newer".to_vec()));
    }
    two.push_as("a", Replaces::Only(theirs), Asked::Named).await;
    transfers.wake();
    two.done().await;
    assert_eq!(two.got("a"), Some(b"ours".to_vec()));
    // Ours by now, and replaced by the next.
    two.put("a", b"ours, second");
    two.push("a").await;
    transfers.wake();
    two.done().await;
    assert_eq!(two.got("a"), Some(b"ours, second".to_vec()));
    assert_eq!(two.t.tasks(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_gone_needs_a_person_and_a_sync_forgets_it() {
    let two = Two::new().await;
    let transfers = two.start().await;
    two.push("gone").await;
    transfers.wake();
    two.done().await;
    let left = two.t.tasks();
    assert_eq!(left[0].kind.as_deref(), Some("source-gone"), "{left:#?}");
    let key = JobKey {
        kind: JobKind::Sync,
        ..two.key()
    };
    let copy = NewCopy {
        path: path("gone too"),
        folder: false,
        size: 3,
        source_version: Some(Version::new("v")),
        replaces: Replaces::Nothing,
        priority: 500,
        asked: Asked::Automatic,
        seen: None,
    };
    two.t.studio.run(move |txn| txn.queue_copy(&copy, &key, now_ms())).await;
    transfers.wake();
    two.t.until("it is forgotten", || two.t.tasks().len() == 1).await;
}
