//! The process dies at every step there is; the next one goes on with what it finds.

use super::*;

/// What happens between the crash and the restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meanwhile {
    Nothing,
    Saved,
    Moved,
    MovedAndReplaced,
    Removed,
}

const MEANWHILE: [Meanwhile; 5] = [
    Meanwhile::Nothing,
    Meanwhile::Saved,
    Meanwhile::Moved,
    Meanwhile::MovedAndReplaced,
    Meanwhile::Removed,
];

/// Runs one life to its end at a step; says whether it got there.
async fn die_at(t: &Fixture, step: u64) -> bool {
    let dead = t.studio.steps.live(Some(step));
    let transfers = t.start().await;
    let died = tokio::select! {
        () = dead.cancelled() => true,
        () = t.drained() => false,
    };
    let shared = Arc::clone(&transfers.shared);
    drop(transfers);
    t.until("its workers are gone", || Arc::strong_count(&shared) == 1)
        .await;
    // What the dead had handed to the store or to a disk is written, as it would be.
    t.studio.run(|_| Ok(())).await;
    if matches!(t.place, Place::Disk(..)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    t.studio.steps.live(None);
    died
}

async fn survive(t: &Fixture, size: usize, meanwhile: Meanwhile, step: u64) -> bool {
    let first = vec![b'A'; size];
    let second = vec![b'B'; size + 1];
    // What is replaced is of the same size.
    t.studio.save("a", &vec![b'0'; size]).await;
    let transfers = t.start().await;
    t.drained().await;
    drop(transfers);
    t.studio.lock().told.clear();
    t.studio.save("a", &first).await;
    let died = die_at(t, step).await;
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Saved => drop(t.studio.save("a", &second).await),
        Meanwhile::Moved => t.studio.rename("a", "b").await,
        Meanwhile::MovedAndReplaced => {
            t.studio.rename("a", "b").await;
            t.studio.save("a", &second).await;
        }
        Meanwhile::Removed => t.studio.unlink("a").await,
    }
    let transfers = t.start().await;
    t.drained().await;
    drop(transfers);
    let what = format!("{size} bytes, {meanwhile:?}, step {step}; told: {:?}", t.studio.told());
    assert_eq!(t.conflicts(), [], "{what}");
    let (a, b) = (t.place.get("a"), t.place.get("b"));
    let a = a.expect("it never goes away");
    match meanwhile {
        Meanwhile::Nothing => {
            assert!(a == first && b.is_none(), "{what}");
            // Told twice only if the first telling did not get as far as the store.
            assert!(t.committed("a") <= 2, "{what}");
        }
        Meanwhile::Saved => assert!(a == second && b.is_none(), "{what}"),
        Meanwhile::Moved => {
            assert!(b == Some(first.clone()), "{what}");
            assert!(a == first || a == vec![b'0'; size], "{what}");
        }
        Meanwhile::MovedAndReplaced => assert!(a == second && b == Some(first), "{what}"),
        Meanwhile::Removed => assert!((a == first || a == vec![b'0'; size]) && b.is_none(), "{what}"),
    }
    // What is at the site is what the desk believes to be there: otherwise the next save would be a conflict.
    let version = t.place.provider().stat(&path("p/a")).await.unwrap().version;
    let believed = t.studio.lock().bases.get(&path("p/a")).cloned();
    assert_eq!(believed, Some(version), "{what}");
    let names = t.place.names();
    assert!(names.iter().all(|of| of == "a" || of == "b"), "{what}: {names:?}");
    died
}

async fn every_step(size: usize, new: impl AsyncFn() -> Fixture) {
    for meanwhile in MEANWHILE {
        let mut steps = 0;
        for step in 0.. {
            if !survive(&new().await, size, meanwhile, step).await {
                break;
            }
            steps += 1;
        }
        // prepare, and begin, part, commit each before and after, and the recording.
        assert!(steps >= 8, "{meanwhile:?}: the process died at {steps} steps only");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_survives_a_crash_at_every_step() {
    every_step(10, Fixture::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_survives_a_crash_at_every_step() {
    every_step(4 * PART, Fixture::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file_survives_a_crash_at_every_step() {
    for step in 0..9 {
        survive(&Fixture::new().await, 0, Meanwhile::Saved, step).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_survive_a_crash_at_every_step_on_a_disk_too() {
    every_step(10, Fixture::on_disk).await;
    every_step(3 * PART, Fixture::on_disk).await;
}

/// Neither size and time nor anything else is known there of an upload but what the site says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_survive_a_crash_at_every_step_where_the_site_dates_them() {
    let new = || Fixture::at(|_| Place::Memory(MemorySite::new().dating_files(true)));
    every_step(10, new).await;
    every_step(4 * PART, new).await;
}

/// Where the site does not even know its uploads, what is there is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_there_already_is_no_conflict_with_itself() {
    for size in [0, 10, 4 * PART] {
        for step in 0.. {
            let t = Fixture::at(|_| Place::Memory(MemorySite::new().dating_files(false))).await;
            if !survive(&t, size, Meanwhile::Nothing, step).await {
                // One without bytes has no part.
                assert!(step >= 6, "the process died at {step} steps only");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_goes_on_where_it_was() {
    let t = Fixture::new().await;
    let bytes = vec![b'x'; 30 * PART];
    t.studio.save("a", &bytes).await;
    let mut sent = 0;
    let mut lives = 0;
    while !t.tasks().is_empty() {
        // prepare, begin (twice), then parts, three at a time.
        die_at(&t, 20).await;
        lives += 1;
        let Place::Memory(site) = &t.place else { unreachable!() };
        sent = site.counters().bytes_out;
        assert!(lives < 20);
    }
    t.assert_site(&[("a", &bytes)]);
    assert!(lives > 3, "{lives}");
    // In each life three parts at most were on their way.
    assert!(sent <= (30 + 3 * lives) * PART as u64, "{sent} bytes in {lives} lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_survives_a_crash_at_every_step() {
    for step in 0.. {
        let t = Fixture::new().await;
        t.studio.save("a", b"x").await;
        let transfers = t.start().await;
        t.drained().await;
        drop(transfers);
        let version = t.studio.lock().bases.get(&path("p/a")).cloned();
        t.studio.delete("a", version, false).await;
        let died = die_at(&t, step).await;
        let _transfers = t.start().await;
        t.drained().await;
        t.assert_site(&[]);
        if !died {
            assert!(step >= 6);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_survive_many_crashes() {
    for t in [Fixture::new().await, Fixture::on_disk().await] {
        let mut wanted = BTreeMap::new();
        for life in 0..40_u64 {
            for i in 0..4 {
                let of = format!("f{}", (life * 3 + i) % 11);
                let bytes = vec![b'A' + u8::try_from(life % 26).unwrap(); usize::try_from(life * 97 % 4000).unwrap()];
                t.studio.save(&of, &bytes).await;
                wanted.insert(of, bytes);
            }
            die_at(&t, 3 + life * 7 % 31).await;
        }
        let _transfers = t.start().await;
        t.drained().await;
        let wanted: Vec<_> = wanted.iter().map(|(of, bytes)| (of.as_str(), &bytes[..])).collect();
        t.assert_site(&wanted);
        assert_eq!(t.conflicts(), []);
    }
}
