//! Days on which nothing fails.

use super::*;
use crate::state::TaskState;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_every_size_arrive_once_and_leave_nothing_behind() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        let sizes = [0, 1, PART - 1, PART, PART + 1, 10 * PART + 7];
        let files: Vec<_> = sizes
            .iter()
            .map(|size| (format!("f{size:05}"), vec![b'x'; *size]))
            .collect();
        for (of, bytes) in &files {
            t.studio.save(of, bytes).await;
        }
        let transfers = t.start().await;
        t.drained().await;
        let wanted: Vec<_> = files.iter().map(|(of, bytes)| (of.as_str(), &bytes[..])).collect();
        t.assert_site(&wanted);
        assert_eq!(t.studio.told().len(), files.len());
        let stats = transfers.stats();
        assert_eq!(stats.sent_files, files.len() as u64);
        assert_eq!(stats.sent_bytes, sizes.iter().sum::<usize>() as u64);
        t.until("nothing is under way", || transfers.stats().under_way.is_empty())
            .await;

        t.studio.save("f00001", b"another").await;
        transfers.wake();
        t.drained().await;
        assert_eq!(t.place.get("f00001").as_deref(), Some(&b"another"[..]));
        assert_eq!(t.committed("f00001"), 2);
        assert_eq!(t.conflicts(), []);
        let job = t.studio.store.read(|txn| txn.jobs(t.studio.root, 9)).unwrap();
        assert_eq!(
            job.iter().map(|job| job.done_tasks).sum::<u64>(),
            files.len() as u64 + 1
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ready_is_asked_for_again() {
    let t = Fixture::new().await;
    t.studio.lock().open = true;
    t.studio.save("a", b"x").await;
    let _transfers = t.start().await;
    t.until("it was asked for", || t.studio.steps.count() > 3).await;
    assert_eq!(t.place.names(), Vec::<String>::new());
    t.studio.lock().open = false;
    t.drained().await;
    t.assert_site(&[("a", b"x")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_desk_can_not_give_waits_or_is_blocked() {
    let t = Fixture::new().await;
    let failed = |blocked| Prepared::Failed {
        kind: "gone".to_owned(),
        why: "no object".to_owned(),
        blocked,
    };
    t.studio.lock().instead = vec![failed(true), failed(false)];
    t.studio.save("a", b"x").await;
    let transfers = t.start().await;
    t.until("it is blocked", || t.counts().blocked.tasks == 1).await;
    let task = &t.tasks()[0];
    assert_eq!(
        (task.tries, task.kind.as_deref(), task.error.as_deref()),
        (2, Some("gone"), Some("no object"))
    );
    t.studio.run(|txn| txn.retry_now(TaskFilter::default(), now_ms())).await;
    transfers.reconsider();
    t.drained().await;
    t.assert_site(&[("a", b"x")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_remove_what_they_name_and_nothing_else() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        for of in ["mine", "theirs", "unknown"] {
            t.studio.save(of, of.as_bytes()).await;
        }
        let transfers = t.start().await;
        t.drained().await;
        let version = |of: &str| t.studio.lock().bases.get(&at_site(&name(of))).cloned();
        let (mine, theirs) = (version("mine"), version("theirs"));
        t.place.put("theirs", b"another one");
        t.studio.lock().told.clear();
        t.studio.delete("mine", mine.clone(), false).await;
        t.studio.delete("theirs", theirs, false).await;
        t.studio.delete("unknown", None, false).await;
        t.studio.delete("nothing", mine.clone(), false).await;
        t.studio.delete("", None, true).await;
        transfers.wake();
        t.drained().await;
        t.assert_site(&[("theirs", b"another one"), ("unknown", b"unknown")]);
        let mut told: Vec<_> = t.studio.told();
        told.sort_by_key(|told| format!("{told:?}"));
        let deleted = |of: &str, outcome| Told::Deleted(path(of), outcome);
        assert_eq!(
            told,
            [
                deleted("", DeleteOutcome::NotEmpty),
                deleted("mine", DeleteOutcome::Done),
                deleted("nothing", DeleteOutcome::NothingThere),
                deleted("theirs", DeleteOutcome::OtherVersion),
                deleted("unknown", DeleteOutcome::OtherVersion),
            ]
        );
        t.place.remove("theirs");
        t.place.remove("unknown");
        t.studio.delete("", None, true).await;
        transfers.wake();
        t.drained().await;
        assert_eq!(t.studio.told().last(), Some(&deleted("", DeleteOutcome::Done)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_task_and_a_paused_queue_stop_and_go_on_where_they_were() {
    for pause in [false, true] {
        let t = Fixture::new().await;
        let id = t.studio.save("big", &vec![b'x'; 40 * PART]).await;
        let slow = crate::providers::layers::Rule::one_in(
            crate::providers::Op::Upload,
            crate::providers::layers::Fault::Delay(Duration::from_millis(10)),
            1,
        );
        t.faults.add(slow);
        let transfers = t.start().await;
        t.until("some has arrived", || t.tasks()[0].done_bytes > 5 * PART as u64)
            .await;
        let root = t.studio.root;
        let set = |on| {
            move |txn: &WriteTxn<'_>| {
                if pause {
                    txn.pause_queue(root, on)
                } else {
                    txn.hold_task(id, on).map(drop)
                }
            }
        };
        t.studio.run(set(true)).await;
        transfers.reconsider();
        let has_stopped = || transfers.stats().under_way.is_empty() && t.tasks()[0].state != TaskState::Running;
        t.until("it stopped", has_stopped).await;
        let stopped = t.tasks().remove(0);
        let state = if pause { TaskState::Waiting } else { TaskState::Held };
        assert_eq!(stopped.state, state);
        assert!(stopped.upload.is_some() && stopped.done_bytes < 40 * PART as u64);
        t.faults.clear();
        t.studio.run(set(false)).await;
        transfers.reconsider();
        t.drained().await;
        t.assert_site(&[("big", &vec![b'x'; 40 * PART])]);
        let sent = transfers.stats().sent_bytes;
        // Parts that were on their way when it stopped go again.
        assert!(sent <= 40 * PART as u64, "{sent}");
        assert_eq!(t.committed("big"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_does_not_wait_for_large_ones() {
    let t = Fixture::new().await;
    for i in 0..6 {
        t.studio.save(&format!("big{i}"), &vec![b'x'; 30 * PART]).await;
    }
    let slow = crate::providers::layers::Fault::Delay(Duration::from_millis(20));
    t.faults.add(crate::providers::layers::Rule::one_in(
        crate::providers::Op::Upload,
        slow,
        1,
    ));
    let transfers = t.start().await;
    t.until("large ones are under way", || transfers.stats().under_way.len() == 3)
        .await;
    t.studio.save("small", b"x").await;
    transfers.wake();
    t.until("the small one is there", || t.committed("small") == 1).await;
    t.until("it is counted", || transfers.stats().sent_files > 0).await;
    assert_eq!(transfers.stats().sent_files, 1, "before any large one");
    let large = transfers
        .stats()
        .under_way
        .into_iter()
        .filter(|file| file.size > PART as u64);
    assert!(large.count() <= 3);
    t.faults.clear();
    t.drained().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_at_a_point_where_it_can_be_gone_on_with() {
    let t = Fixture::new().await;
    t.studio.save("big", &vec![b'x'; 40 * PART]).await;
    let slow = crate::providers::layers::Fault::Delay(Duration::from_millis(10));
    t.faults.add(crate::providers::layers::Rule::one_in(
        crate::providers::Op::Upload,
        slow,
        1,
    ));
    let transfers = t.start().await;
    t.until("some has arrived", || t.tasks()[0].done_bytes > 5 * PART as u64)
        .await;
    t.stop.cancel();
    transfers.stopped().await;
    let task = t.tasks().remove(0);
    assert_eq!((task.state, task.tries), (TaskState::Waiting, 0));
    assert!(task.upload.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_projects_of_one_site_share_its_slots_by_priority() {
    let t = Fixture::new().await;
    let other = NewProject {
        name: ProjectName("other".to_owned()),
        folder: name("other"),
        remote_site: SiteName("studio".to_owned()),
        remote_path: path("p"),
    };
    let first = NewProject {
        name: ProjectName("demo".to_owned()),
        folder: name("demo"),
        ..other.clone()
    };
    let roots = t
        .studio
        .run(move |txn| txn.set_projects(&[first, other], now_ms()))
        .await;
    let mut t = t;
    t.options.parallel = 1;
    for i in 0..5 {
        t.studio.save(&format!("a{i}"), b"x").await;
    }
    for i in 0..5 {
        let of = format!("b{i}");
        t.studio.save(&of, b"x").await;
        let (demo, root) = (roots[0], roots[1]);
        // The same desk serves both: only the queue differs.
        t.studio
            .run(move |txn| {
                let task = txn.task_of(demo, of.as_bytes())?.unwrap();
                let send = NewSend {
                    root,
                    parent: task.parent.unwrap(),
                    name: task.name.unwrap(),
                    ino: task.ino.unwrap(),
                    generation: 1,
                    size: 1,
                    due_ms: now_ms(),
                    source: SiteName("here".to_owned()),
                    target: SiteName("studio".to_owned()),
                };
                txn.queue_send(&send, now_ms())
            })
            .await;
    }
    let lanes = vec![
        t.lane(),
        Lane {
            root: roots[1],
            priority: 600,
            ..t.lane()
        },
    ];
    let _transfers = t.start_with(lanes).await;
    t.until("all is there", || t.studio.told().len() == 10).await;
    let order: String = t
        .studio
        .told()
        .iter()
        .map(|told| match told {
            Told::Committed(path, _) => char::from(path.as_bytes()[2]),
            _ => '?',
        })
        .collect();
    assert_eq!(order, "bbbbbaaaaa");
}
