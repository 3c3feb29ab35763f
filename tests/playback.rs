//! Playing image sequences through a mount: `docs/semantics.md`: *open*, where frames are fetched before they are opened.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use common::drive::{Builder, Drive, drive_test, drive_test_within, eventually, eventually_within, say};
use common::relay::Relay;
use common::sshd::{Mode, Sshd};
use common::tree;

/// Bytes of a frame.
const FRAME: u64 = 2_000_000;
/// Half of the round trip of the link.
const ONE_WAY: Duration = Duration::from_millis(10);
/// A pace that a build without optimisation keeps up with on a loaded machine.
const PACE: Duration = Duration::from_millis(100);
/// From this frame on none may be late.
const FROM: usize = 12;

/// A server behind a link of 20 ms with a sequence on it.
struct Far {
    sshd: Sshd,
    relay: Relay,
}

fn name(layer: &str, frame: u64) -> String {
    format!("{layer}/comp.{frame:04}.exr")
}

fn names(frames: impl IntoIterator<Item = u64>) -> Vec<String> {
    frames.into_iter().map(|frame| name("seq", frame)).collect()
}

/// Every frame has its own bytes.
fn seed(name: &str) -> u64 {
    u64::from_le_bytes(blake3::hash(name.as_bytes()).as_bytes()[..8].try_into().unwrap())
}

impl Far {
    fn with(names: &[String]) -> Option<Self> {
        let sshd = Sshd::start_or_skip(Mode::Internal)?;
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        sshd.trust_by(relay.port());
        for name in names {
            tree::write(&sshd.root().join(name), seed(name), FRAME);
        }
        Some(Self { sshd, relay })
    }

    fn drive(&self, sequences: bool) -> Drive {
        let mut settings = self.sshd.settings_by(self.relay.port());
        settings.connections = 4;
        let drive = Builder::sftp(&settings)
            .set("hydration.sequences", sequences)
            .set("hydration.read-deadline", "20s")
            .build()
            .mounted();
        self.relay.set_delay(ONE_WAY);
        drive
    }
}

fn count(drive: &Drive, name: &str) -> u64 {
    drive.status_now()["sequences"][name].as_u64().unwrap()
}

fn active(drive: &Drive, name: &str) -> u64 {
    drive.status_now()["sequences"]["active"][0][name]
        .as_u64()
        .unwrap_or_default()
}

/// Opens and reads a frame whole.
fn show(drive: &Drive, name: &str) {
    let read = fs::read(drive.path(name)).unwrap();
    assert_eq!(
        (read.len() as u64, tree::first_wrong(seed(name), 0, &read)),
        (FRAME, None),
        "{name}"
    );
}

/// Shows frames at a steady pace, each at its time or as soon after it as the one before is done; returns how many were done
/// after the next one's time.
fn play<'a>(drive: &Drive, names: impl IntoIterator<Item = &'a String>, pace: Duration) -> usize {
    let (mut due, mut late) = (Instant::now(), 0);
    for name in names {
        while let Some(left) = due
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            thread::park_timeout(left);
        }
        let read = fs::read(drive.path(name)).unwrap();
        assert_eq!(read.len() as u64, FRAME);
        due += pace;
        if Instant::now() > due {
            late += 1;
            // A player that shows every frame goes on from where it is.
            due = Instant::now();
        }
    }
    late
}

#[test]
fn a_sequence_plays_from_a_far_server_without_a_late_frame() {
    drive_test(|| {
        let names = names(1001..=1060);
        let Some(far) = Far::with(&names) else { return };
        let drive = far.drive(true);
        let begun = play(&drive, &names[..FROM], PACE);
        let (hits, late) = (count(&drive, "hits"), count(&drive, "late"));
        let after = play(&drive, &names[FROM..], PACE);
        let rest = (names.len() - FROM) as u64;
        say(&format!(
            "playback of {FRAME} bytes each {PACE:?} over 20 ms: {begun} of the first {FROM} late, then {after} of {rest}"
        ));
        eventually("the last open is counted", || {
            count(&drive, "hits") + count(&drive, "late") >= hits + late + rest
        });
        assert_eq!((count(&drive, "hits") - hits, count(&drive, "late") - late), (rest, 0));
        // Nothing was fetched twice, and nothing in vain.
        assert_eq!(drive.fetched(), names.len() as u64 * FRAME);
        assert_eq!(count(&drive, "wasted_bytes"), 0);
        for name in &names {
            show(&drive, name);
        }
        let status = drive.tell(["status"]);
        assert!(status.contains("show/seq/comp.####.exr at 1060, step +1"), "{status}");
    });
}

#[test]
fn switched_off_nothing_is_fetched_ahead_and_frames_are_late() {
    drive_test(|| {
        let names = names(1001..=1100);
        let Some(far) = Far::with(&names) else { return };
        let played = &names[..30];
        let off = far.drive(false);
        play(&off, played, PACE);
        assert_eq!((count(&off, "hits"), count(&off, "late")), (0, 0));
        assert_eq!(off.fetched(), 30 * FRAME, "what was opened, no more");
        assert!(off.tell(["status"]).contains("no frames are fetched ahead"));
        drop(off);
        // The same with it: what is counted above would tell.
        let on = far.drive(true);
        play(&on, played, PACE);
        assert!(count(&on, "hits") >= 18, "{}", count(&on, "hits"));
        eventually("frames beyond the last one come", || on.fetched() > 30 * FRAME);
    });
}

#[test]
fn a_jump_takes_back_what_is_under_way_and_little_was_wasted() {
    drive_test(|| {
        let names = names(1001..=1400);
        let Some(far) = Far::with(&names[..320]) else {
            return;
        };
        let drive = far.drive(true);
        play(&drive, &names[..100], PACE);
        // The link becomes thin, so that the next frames are surely under way when the reader goes elsewhere.
        far.relay.set_rate(Some(400_000));
        let file = File::open(drive.path(&names[100])).unwrap();
        eventually("frames are under way", || active(&drive, "frames_ahead") >= 4);
        let cancelled = drive.status_now()["hydration"]["cancelled"].as_u64().unwrap();
        let jump = Instant::now();
        let other = File::open(drive.path(&names[300])).unwrap();
        let took = eventually_within(Duration::from_millis(500), "fetches stop", || {
            drive.status_now()["hydration"]["cancelled"].as_u64().unwrap() > cancelled
        });
        assert!(count(&drive, "given_up") >= 1);
        far.relay.set_rate(None);
        drop((file, other));
        thread::park_timeout(Duration::from_millis(600).saturating_sub(jump.elapsed()));
        let wasted = count(&drive, "wasted_bytes");
        let part = wasted as f64 / (101 * FRAME) as f64;
        say(&format!(
            "a jump after 101 frames: fetches stopped after {took:.1?}, {wasted} bytes in vain, {:.1} % of what was played",
            part * 100.0
        ));
        assert!(part < 0.05, "{wasted} bytes");
    });
}

#[test]
fn silence_takes_back_what_is_ahead_and_going_on_counts_it_as_used() {
    drive_test(|| {
        let names = names(1001..=1060);
        let Some(far) = Far::with(&names) else { return };
        let drive = far.drive(true);
        play(&drive, &names[..20], PACE);
        let paused = || drive.status_now()["sequences"]["active"][0]["state"] == "paused";
        let took = eventually_within(Duration::from_secs(2), "the pause is noticed", paused);
        say(&format!("a stop is noticed {took:.1?} after the last frame was shown"));
        assert_eq!(active(&drive, "frames_ahead"), 0);
        eventually("what came in vain is counted", || count(&drive, "wasted_bytes") > 0);
        assert!(count(&drive, "wasted_bytes") <= 6 * FRAME);
        play(&drive, &names[20..40], PACE);
        assert_eq!(count(&drive, "wasted_bytes"), 0, "it was not in vain after all");
    });
}

#[test]
fn backwards_and_round_and_both_eyes() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let both = ["eye_l", "eye_r"];
        for frame in 1001..=1060 {
            for layer in both {
                let name = name(layer, frame);
                tree::write(&site.path().join(&name), seed(&name), FRAME);
            }
        }
        let drive = Builder::local(site.path()).site("link-delay", "20ms").build().mounted();
        let cached = |frame: u64| drive.ls(&format!("show/{}", name("eye_l", frame)))[0]["state"] == "cached";
        let backwards: Vec<_> = (1040..=1050).rev().map(|frame| name("eye_l", frame)).collect();
        play(&drive, &backwards, PACE);
        eventually("the frame before comes", || cached(1039));
        assert!(!cached(1051), "nothing on the other side");
        assert!(count(&drive, "hits") >= 5);

        // A jump predicts nothing by itself.
        show(&drive, &name("eye_l", 1020));
        thread::park_timeout(Duration::from_millis(300));
        assert!(!cached(1021) && !cached(1019));

        // From the last frame to the first: the next ones come though nothing but the first was opened.
        let to_the_end: Vec<_> = (1051..=1060).map(|frame| name("eye_l", frame)).collect();
        play(&drive, &to_the_end, PACE);
        show(&drive, &name("eye_l", 1001));
        eventually("the round goes on", || cached(1002) && cached(1003));

        let before = count(&drive, "hits");
        for frame in 1004..=1018 {
            thread::park_timeout(PACE);
            for layer in both {
                show(&drive, &name(layer, frame));
            }
        }
        let hits = count(&drive, "hits") - before;
        assert!(hits >= 20, "{hits} of 30 frames of both eyes");
    });
}

#[test]
fn whoever_reads_headers_gets_headers() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let names = names(1001..=1060);
        for name in &names {
            tree::write(&site.path().join(name), seed(name), FRAME);
        }
        let drive = Builder::local(site.path()).site("link-delay", "5ms").build().mounted();
        let mut header = [0; 4096];
        for name in &names {
            let file = File::open(drive.path(name)).unwrap();
            file.read_exact_at(&mut header, 0).unwrap();
            thread::park_timeout(Duration::from_millis(10));
        }
        let fetched = drive.fetched();
        say(&format!(
            "the headers of {} frames of {FRAME} bytes: {fetched} bytes fetched",
            names.len()
        ));
        assert!(fetched < names.len() as u64 * FRAME / 8, "{fetched}");
        assert_eq!(count(&drive, "hits"), 0);
    });
}

#[test]
fn a_small_cache_is_not_overrun_and_loses_no_frame_before_it_is_opened() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let names = names(1001..=1060);
        for name in &names {
            tree::write(&site.path().join(name), seed(name), FRAME);
        }
        let drive = Builder::local(site.path())
            .site("link-delay", "20ms")
            .set("cache.max-size", "24MiB")
            .build()
            .mounted();
        let bound = count(&drive, "max_bytes");
        assert_eq!(bound, 6 << 20, "a quarter");
        for name in &names {
            play(&drive, [name], PACE);
            thread::park_timeout(PACE / 2);
            let status = drive.status_now();
            assert!(status["cache"]["bytes"].as_u64().unwrap() <= 24 << 20);
            let ahead = status["sequences"]["active"][0]["bytes_ahead"].as_u64();
            assert!(ahead.unwrap_or_default() <= bound, "{status}");
        }
        assert_eq!(drive.fetched(), names.len() as u64 * FRAME, "each once");
        assert!(count(&drive, "hits") >= 50, "{}", count(&drive, "hits"));
    });
}

#[test]
fn a_site_that_is_down_is_asked_for_nothing_ahead_until_it_is_back() {
    drive_test(|| {
        let names = names(1001..=1100);
        let Some(far) = Far::with(&names) else { return };
        let drive = far.drive(true);
        play(&drive, &names[..20], PACE);
        eventually("it is quiet", || active(&drive, "frames_ahead") == 0);
        far.relay.refuse();
        fs::read(drive.path(&names[60])).expect_err("nothing can serve it");
        eventually("the drive knows", || drive.link() == "down");
        let requests = || {
            let hydration = drive.status_now()["hydration"].clone();
            hydration["fetches"].as_u64().unwrap() + hydration["failed"].as_u64().unwrap()
        };
        // What was asked for before it was known fails one after the other.
        let mut before = requests();
        eventually("all of it has failed", || {
            thread::park_timeout(Duration::from_millis(500));
            std::mem::replace(&mut before, requests()) == requests()
        });
        play(&drive, &names[5..21], PACE);
        thread::park_timeout(PACE);
        assert_eq!(requests(), before, "what is here plays, and nothing is asked for");
        far.relay.mend();
        eventually_within(Duration::from_secs(40), "the drive knows that it is back", || {
            drive.link() == "up"
        });
        // From another frame, or it would be a loop.
        play(&drive, &names[..21], PACE);
        eventually("frames ahead come again", || requests() > before);
    });
}

/// Small files of a folder, as a copy, a file browser or a scene that loads reads them.
const SMALL: usize = 300;

/// Names without a number that counts, in their order; each file of another length.
fn small_names() -> Vec<String> {
    let words = ["arch", "bolt", "crane", "door", "eave", "flag", "gate"];
    let name = |n: usize| {
        let hash = blake3::hash(&n.to_le_bytes()).to_hex();
        format!("thumbs/{}-{}.jpg", words[n % words.len()], &hash[..8])
    };
    let mut names: Vec<_> = (0..SMALL).map(name).collect();
    names.sort();
    names
}

fn small_len(name: &str) -> u64 {
    (8 << 10) + seed(name) % 2048
}

impl Far {
    fn with_small(names: &[String]) -> Option<Self> {
        let far = Self::with(&[])?;
        for name in names {
            tree::write(&far.sshd.root().join(name), seed(name), small_len(name));
        }
        Some(far)
    }
}

/// Lists the folder as whoever copies it does, then reads files one after the other; returns how many came each second.
fn copy<'a>(drive: &Drive, names: impl IntoIterator<Item = &'a String>) -> f64 {
    assert_eq!(fs::read_dir(drive.path("thumbs")).unwrap().count(), SMALL);
    let (begun, mut read) = (Instant::now(), Vec::new());
    for name in names {
        read.push((name, fs::read(drive.path(name)).unwrap()));
    }
    let rate = read.len() as f64 / begun.elapsed().as_secs_f64();
    for (name, bytes) in read {
        let wrong = tree::first_wrong(seed(name), 0, &bytes);
        assert_eq!((bytes.len() as u64, wrong), (small_len(name), None), "{name}");
    }
    rate
}

#[test]
fn small_files_of_a_folder_that_are_read_in_order_come_before_they_are_opened() {
    drive_test(|| {
        let names = small_names();
        let Some(far) = Far::with_small(&names) else { return };
        let drive = far.drive(true);
        copy(&drive, &names[..20]);
        eventually("the last open is counted", || {
            count(&drive, "hits") + count(&drive, "late") >= 17
        });
        let (hits, late) = (count(&drive, "hits"), count(&drive, "late"));
        let rate = copy(&drive, &names[20..]);
        let rest = (names.len() - 20) as u64;
        eventually("the last open is counted", || {
            count(&drive, "hits") + count(&drive, "late") >= hits + late + rest * 8 / 10
        });
        let (hits, late) = (count(&drive, "hits") - hits, count(&drive, "late") - late);
        say(&format!(
            "{rest} small files over 20 ms: {hits} here when opened, {late} on their way, {rate:.0} a second"
        ));
        assert!(hits + late >= rest * 8 / 10, "{hits} and {late} of {rest}");
        let all: u64 = names.iter().map(|name| small_len(name)).sum();
        assert_eq!(drive.fetched(), all, "each once");
        assert_eq!(count(&drive, "wasted_bytes"), 0);
        let status = drive.tell(["status"]);
        assert!(status.contains("show/thumbs/* at 3"), "{status}");
    });
}

#[test]
fn a_copy_of_small_files_that_stops_wastes_little() {
    drive_test(|| {
        let names = small_names();
        let Some(far) = Far::with_small(&names) else { return };
        let drive = far.drive(true);
        copy(&drive, &names[..100]);
        eventually("the last open is counted", || {
            count(&drive, "hits") + count(&drive, "late") >= 80
        });
        eventually("silence ends it", || active(&drive, "frames_ahead") == 0);
        thread::park_timeout(Duration::from_millis(400));
        let wasted = count(&drive, "wasted_bytes");
        say(&format!(
            "a copy that stops after 100 small files: {wasted} bytes in vain"
        ));
        assert!(wasted <= 64 * 10240, "{wasted}");
        copy(&drive, &names[100..]);
        eventually("it was not in vain after all", || count(&drive, "wasted_bytes") == 0);
    });
}

#[test]
fn a_small_file_costs_two_round_trips() {
    drive_test(|| {
        let names = small_names();
        let Some(far) = Far::with_small(&names) else { return };
        let drive = far.drive(false);
        // The connection is made with the first one.
        copy(&drive, &names[..1]);
        let one_way = Duration::from_millis(100);
        far.relay.set_delay(one_way);
        let mut took: Vec<_> = names[1..6]
            .iter()
            .map(|name| {
                let begun = Instant::now();
                fs::read(drive.path(name)).unwrap();
                begun.elapsed()
            })
            .collect();
        took.sort();
        say(&format!("a small file over 200 ms: {:.0?}", took[2]));
        assert!(took[2] < one_way * 5, "{took:?}");
    });
}

#[test]
fn small_files_in_no_order_or_switched_off_come_when_they_are_opened() {
    drive_test(|| {
        let names = small_names();
        let Some(far) = Far::with_small(&names) else { return };
        let off = far.drive(false);
        let some: u64 = names[..30].iter().map(|name| small_len(name)).sum();
        copy(&off, &names[..30]);
        assert_eq!((count(&off, "hits"), count(&off, "late"), off.fetched()), (0, 0, some));
        drop(off);
        far.relay.set_delay(Duration::ZERO);
        let on = far.drive(true);
        let scattered: Vec<_> = (0..100).map(|n| names[n * 67 % SMALL].clone()).collect();
        copy(&on, &scattered);
        thread::park_timeout(PACE);
        let some: u64 = scattered.iter().map(|name| small_len(name)).sum();
        assert_eq!((count(&on, "hits"), count(&on, "late"), on.fetched()), (0, 0, some));
    });
}

/// Small files of a folder, as fast as they come: run by hand.
#[test]
#[ignore = "a measurement"]
fn small_files_pace() {
    drive_test(|| {
        let names = small_names();
        let Some(far) = Far::with_small(&names) else { return };
        for sequences in [false, true] {
            for _ in 0..3 {
                far.relay.set_delay(Duration::ZERO);
                let drive = far.drive(sequences);
                // Connected before, as a drive that is in use is; that alone takes nine round trips.
                far.relay.set_delay(Duration::ZERO);
                assert_eq!(fs::read_dir(drive.path("thumbs")).unwrap().count(), SMALL);
                thread::park_timeout(Duration::from_secs(1));
                far.relay.set_delay(ONE_WAY);
                far.relay.set_rate(Some(125_000_000));
                let rate = copy(&drive, &names);
                say(&format!(
                    "{SMALL} small files, 20 ms, 1 Gbit/s, sequences {sequences}: {rate:.0} a second; {}",
                    drive.status_now()["sequences"]
                ));
                far.relay.set_rate(None);
            }
        }
    });
}

/// How a film plays, as far as an unoptimised build can say: run by hand, `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn film_pace() {
    drive_test(|| {
        let names = names(1001..=1100);
        let Some(far) = Far::with(&names) else { return };
        for sequences in [false, true] {
            far.relay.set_delay(Duration::ZERO);
            let drive = far.drive(sequences);
            far.relay.set_rate(Some(125_000_000));
            let pace = Duration::from_secs(1) / 24;
            let begun = play(&drive, &names[..FROM], pace);
            let counted = count(&drive, "late");
            let after = play(&drive, &names[FROM..], pace);
            let counted = count(&drive, "late") - counted;
            say(&format!(
                "24 fps of {FRAME} bytes, 20 ms, 1 Gbit/s, sequences {sequences}: {begun} late of {FROM}, {after} of {} ({counted} not here when opened); {}",
                names.len() - FROM,
                drive.status_now()["sequences"]
            ));
            far.relay.set_rate(None);
        }
    });
}

/// A reader as fast as it can, and a small file that somebody opens meanwhile: run by hand.
#[test]
#[ignore = "a measurement"]
fn copying_pace() {
    drive_test(|| {
        let mut names = names(1001..=1100);
        names.extend((0..20).map(|n| format!("notes/note-{}.txt", "x".repeat(n + 1))));
        let Some(far) = Far::with(&names) else { return };
        for sequences in [false, true] {
            far.relay.set_delay(Duration::ZERO);
            let drive = far.drive(sequences);
            far.relay.set_rate(Some(125_000_000));
            let begun = Instant::now();
            let notes = thread::scope(|scope| {
                let copying = scope.spawn(|| play(&drive, &names[..100], Duration::ZERO));
                let mut took: Vec<_> = names[100..]
                    .iter()
                    .map(|name| {
                        thread::park_timeout(PACE);
                        let begun = Instant::now();
                        let mut byte = [0; 4096];
                        File::open(drive.path(name))
                            .unwrap()
                            .read_exact_at(&mut byte, 0)
                            .unwrap();
                        begun.elapsed()
                    })
                    .collect();
                copying.join().unwrap();
                took.sort();
                (took[took.len() / 2], took[took.len() - 1])
            });
            let rate = 100.0 * FRAME as f64 / 1e6 / begun.elapsed().as_secs_f64();
            say(&format!(
                "copying at 20 ms, 1 Gbit/s, sequences {sequences}: {rate:.1} MB/s; the first bytes of a file meanwhile after {:.1?}, at most {:.1?}; {}",
                notes.0,
                notes.1,
                drive.status_now()["sequences"]
            ));
            far.relay.set_rate(None);
        }
    });
}

/// What an open costs in a folder of 100,000 frames: run by hand.
#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_frames() {
    drive_test_within(Duration::from_secs(400), || {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("seq")).unwrap();
        let names = names(1..=100_000);
        for name in &names {
            fs::write(site.path().join(name), "x").unwrap();
        }
        for sequences in [false, true] {
            let drive = Builder::local(site.path())
                .set("hydration.sequences", sequences)
                .build()
                .mounted();
            for round in ["cold", "resident"] {
                let mut took: Vec<_> = names[50_000..50_500]
                    .iter()
                    .map(|name| {
                        let path = drive.path(name);
                        let begun = Instant::now();
                        drop(File::open(&path).unwrap());
                        let open = begun.elapsed();
                        fs::read(&path).unwrap();
                        open
                    })
                    .collect();
                took.sort();
                say(&format!(
                    "an open among 100,000 frames, {round}, sequences {sequences}: median {:.1?}, at most {:.1?}",
                    took[250], took[499]
                ));
            }
        }
    });
}
