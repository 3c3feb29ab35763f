//! A daemon that is killed while files are saved and published through it, at random moments and at every named place
//! where a kill would hurt: whatever `close` or `fsync` had acknowledged is here afterwards, and at the site once the queue
//! is worked off, byte for byte, as a second drive with nothing in its cache reads it.
//!
//! `BACKLOT_TEST_WRITE_KILLS` sets how often (30; the long gate takes 2,000 and wants every state of the queue found 20
//! times), `BACKLOT_TEST_SEED` repeats a run's choices. `BACKLOT_TEST_INTERRUPTED` sets how many uploads are broken off
//! under a reader's eyes (20; the long gate takes 1,000).
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod lane;
mod reads;
mod worker;

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::drive::{Builder, drive_test_within, fuse_is_missing, say};
use common::queue::Found;
use common::sshd::{Mode, Sshd};
use common::tree::Random;
use lane::{EACH_STATE, LONG_FORM, Lane, PLACES, Tally, WORKERS};
use worker::Worker;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |n| n.parse().expect("a number"))
}

/// Where nobody gives a seed, the clock does: each run kills at other moments.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    number("BACKLOT_TEST_SEED", since.as_secs())
}

fn settings(builder: Builder, settle: &str) -> Builder {
    builder
        .set("publish.settle", settle)
        .set("publish.part-size", "1MiB")
        .set("publish.retry-max", "1s")
        .set("publish.parallel", 4)
        .set("scan.recheck-after", "24h")
        .set("hydration.read-deadline", "10s")
        .set("projects.show.remote-delete", "propagate")
}

#[test]
fn what_was_acknowledged_is_at_the_site_however_often_the_daemon_is_killed() {
    if fuse_is_missing() {
        return;
    }
    let kills = number("BACKLOT_TEST_WRITE_KILLS", 30);
    let seed = seed();
    say(&format!("crash: {kills} kills, BACKLOT_TEST_SEED={seed}"));
    let lanes = ["local", "settling", "sftp"];
    let begun = Instant::now();
    let (send, tallies) = sync_channel(lanes.len());
    let mut running = Vec::new();
    for (number, name) in lanes.into_iter().enumerate() {
        let send = send.clone();
        let mine = kills / 3 + u64::from(kills % 3 > number as u64);
        if std::env::var("BACKLOT_TEST_LANE").is_ok_and(|lane| lane != name) {
            continue;
        }
        let body = move || {
            let limit = Duration::from_secs(120 + 10 * mine);
            drive_test_within(limit, move || {
                let mut random = Random::new(seed ^ (number as u64) << 32);
                let folder = tempfile::tempdir().unwrap();
                let server = (name == "sftp").then(|| Sshd::start_or_skip(Mode::Internal));
                let (site, make): (_, Box<dyn Fn() -> Builder + Send>) = match &server {
                    Some(None) => return drop(send.send(None)),
                    Some(Some(server)) => {
                        let settings = server.settings(&server.root());
                        (server.root(), Box::new(move || Builder::sftp(&settings)))
                    }
                    None => {
                        let site = folder.path().to_owned();
                        (
                            site.clone(),
                            Box::new(move || {
                                Builder::local(&site)
                                    .site("link-delay", "2ms")
                                    .site("link-rate", "60MB")
                            }),
                        )
                    }
                };
                let settle = if name == "settling" { "30ms" } else { "0ms" };
                let drive = settings(make(), settle).build();
                let project = drive.project();
                let workers = (0..WORKERS)
                    .map(|number| Worker::new(&project, number, Random::new(random.next())))
                    .collect();
                let lane = Lane {
                    drive,
                    site,
                    second: Box::new(move || settings(make(), "0ms").build()),
                    random,
                    workers,
                    tally: Tally::default(),
                };
                drop(send.send(Some(lane.run(mine))));
            });
        };
        running.push(thread::Builder::new().name(name.to_owned()).spawn(body).unwrap());
    }
    drop(send);
    let mut failed = None;
    for lane in running {
        if let Err(panic) = lane.join() {
            failed = Some(panic);
        }
    }
    if let Some(panic) = failed {
        std::panic::resume_unwind(panic);
    }
    let mut tally = Tally::default();
    tallies.iter().flatten().for_each(|lane| tally.add(lane));
    tally.print(begun.elapsed());
    assert!(tally.acknowledged > kills, "files were saved");
    if kills >= LONG_FORM {
        for state in Found::ALL {
            let n = tally.states.get(&state).copied().unwrap_or(0);
            assert!(n >= EACH_STATE, "{state:?} was found {n} times");
        }
        for (place, _) in PLACES {
            assert!(tally.places.contains_key(place), "no kill came at {place}");
        }
    } else {
        assert!(tally.states.len() >= 6, "kills found work in many states");
    }
}
