//! `/v1/events`: what changes is told at once, and who listens holds nothing up.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::drive::{SOON, drive_test, say};
use crate::face::{ADMIN, Face, VIEWER};

/// Changes that are timed.
const CHANGES: usize = 21;
/// How soon a change is to be told.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How soon one is told that nobody had to look for.
const PUSHED: Duration = Duration::from_millis(20);

struct Event {
    kind: String,
    data: Value,
    at: Instant,
}

/// Listens on a connection of its own.
fn listen(face: &Face) -> Receiver<Event> {
    let mut stream = TcpStream::connect(face.at).expect("it listens");
    write!(
        stream,
        "GET /v1/events HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {VIEWER}\r\n\r\n",
        face.at
    )
    .expect("asked");
    let (send, events) = sync_channel(1000);
    thread::spawn(move || {
        let mut kind = String::new();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(word) = line.strip_prefix("event: ") {
                word.clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let (kind, at) = (kind.clone(), Instant::now());
                let data = serde_json::from_str(data).expect("JSON");
                if send.send(Event { kind, data, at }).is_err() {
                    return;
                }
            }
        }
    });
    events
}

fn next(events: &Receiver<Event>, kind: &str, is: impl Fn(&Value) -> bool) -> Event {
    let until = Instant::now() + SOON;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let event = events.recv_timeout(left).unwrap_or_else(|e| panic!("no {kind}: {e}"));
        if event.kind == kind && is(&event.data) {
            return event;
        }
    }
}

fn says(word: &'static str) -> impl Fn(&Value) -> bool {
    move |data| data["what"].as_array().expect("words").iter().any(|w| w == word)
}

/// Makes names in the drive, past the API, and returns how long after that each was told, the shortest time first.
fn timed(face: &Face, events: &Receiver<Event>) -> Vec<Duration> {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let mut took = Vec::new();
    for _ in 0..CHANGES {
        while events.try_recv().is_ok() {}
        let name = format!("folder-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(face.drive.path(name)).expect("made");
        let made = Instant::now();
        // It may be told before we know that it is made.
        took.push(next(events, "change", says("tree")).at.saturating_duration_since(made));
    }
    took.sort_unstable();
    took
}

#[test]
fn a_change_is_told_at_once_while_much_else_goes_on() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        for number in 0..8 {
            std::fs::write(site.path().join(format!("{number}.bin")), vec![7; 8 << 20]).expect("written");
        }
        let face = Face::of_folder(site.path());
        let events = listen(&face);
        next(&events, "status", |_| true);
        // Bytes arrive, files are written and published, others listen as well.
        let _others: Vec<_> = (0..8).map(|_| listen(&face)).collect();
        let publish = face.drive.path("publish");
        std::fs::create_dir(&publish).expect("made");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, root) = (Arc::clone(&stop), face.drive.path(""));
        let load = thread::spawn(move || {
            let mut rounds = 0;
            while !stopped.load(Ordering::Relaxed) {
                let from = root.join(format!("{}.bin", rounds % 8));
                assert_eq!(std::fs::read(from).expect("read").len(), 8 << 20);
                std::fs::write(publish.join(format!("new-{rounds}.bin")), vec![1; 100_000]).expect("written");
                rounds += 1;
            }
            rounds
        });
        let took = timed(&face, &events);
        stop.store(true, Ordering::Relaxed);
        let rounds = load.join().expect("it went well");
        let [median, longest] = [took[CHANGES / 2], took[CHANGES - 1]];
        say(&format!(
            "under load ({rounds} rounds) a change is told after {median:?} (median), {longest:?} at most"
        ));
        assert!(rounds > 0 && median < AT_ONCE, "{took:?}");
    });
}

#[test]
fn a_change_is_told_at_once() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        std::fs::write(site.path().join("a.bin"), vec![7; 1 << 20]).expect("written");
        let face = Face::of_folder(site.path());
        let events = listen(&face);
        let first = next(&events, "status", |_| true);
        assert_eq!(first.data["name"], "test");

        let took = timed(&face, &events);
        let [median, longest] = [took[CHANGES / 2], took[CHANGES - 1]];
        say(&format!(
            "a change is told after {median:?} (median), {longest:?} at most"
        ));
        // That it is pushed and not found: looks are 40 ms apart. The longest waits for a processor as well.
        assert!(median < PUSHED && longest < AT_ONCE * 5, "{took:?}");

        std::fs::read(face.drive.path("a.bin")).expect("read");
        next(&events, "change", says("hydration"));
        let status = next(&events, "status", |status| {
            status["hydration"]["fetched_bytes"].as_u64() >= Some(1 << 20)
        });
        assert_eq!(status.data["cache"]["contents"], 1);
        face.post(ADMIN, "/v1/queues/pause", &json!({}));
        next(&events, "status", |status| {
            status["publishing"]["queues"][0]["paused"] == true
        });
        face.post(ADMIN, "/v1/hydrations", &json!({ "paths": ["show/a.bin"] }));
        let line = next(&events, "log", |line| {
            line["text"].as_str().expect("text").starts_with("hydrated")
        });
        assert_eq!(line.data["level"], "info");
        let log = face.get(VIEWER, "/v1/log").json();
        assert!(log.as_array().expect("lines").contains(&line.data));
    });
}

#[test]
fn listeners_are_bounded_and_hold_up_no_stop() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let mut face = Face::of_folder(site.path());
        let listeners: Vec<_> = (0..32).map(|_| listen(&face)).collect();
        for events in &listeners {
            next(events, "status", |_| true);
        }
        let one_more = face.get(VIEWER, "/v1/events");
        assert_eq!((one_more.status, one_more.kind().as_str()), (503, "too-many"));
        drop(listeners);
        let begun = Instant::now();
        face.drive.unmount();
        assert!(begun.elapsed() < SOON);
        assert!(!face.drive.log().contains("cut off"), "the streams ended by themselves");
    });
}
