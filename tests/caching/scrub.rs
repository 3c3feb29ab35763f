//! `docs/semantics.md`: *the cache folder*: what rots while nobody reads it is found, and comes back where it is pinned.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test, eventually, say};
use crate::common::tree::{self, Random};
use crate::rot::{Spot, data_files, some_of, spots};

const MIB: u64 = 1 << 20;

fn stat(drive: &Drive) -> Value {
    serde_json::from_str(&drive.tell(["cache", "stat", "--json"])).unwrap()
}

fn scrub(drive: &Drive) -> Value {
    drive.status_now()["cache"]["scrub"].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn site(files: &[(&str, u64)]) -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    for (n, (name, len)) in files.iter().enumerate() {
        tree::write(&site.path().join(name), n as u64, *len);
    }
    site
}

#[track_caller]
fn reads(drive: &Drive, name: &str, seed: u64) {
    let read = fs::read(drive.path(name)).unwrap();
    assert_eq!(tree::first_wrong(seed, 0, &read), None, "{name}");
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn what_rots_under_a_running_daemon_is_found_and_comes_back_where_it_is_pinned() {
    drive_test(|| {
        let site = site(&[
            ("keep/a.mov", 9 * MIB),
            ("keep/b.exr", 2 * MIB + 7),
            ("other/c.mov", 5 * MIB),
        ]);
        let mut drive = Builder::local(site.path())
            .set("cache.heads", "0B")
            .set("cache.scrub", "2s")
            .build()
            .mounted();
        drive.tell(["pin", "show/keep"]);
        drive.tell(["hydrate", "show"]);
        eventually("all was looked at", || number(&scrub(&drive)["contents"]) >= 3);
        assert_eq!(scrub(&drive)["bad_granules"], 0);
        let (before, mut random) = (drive.fetched(), Random::new(5));
        let is_pinned = |spot: &Spot| fs::metadata(&spot.file).unwrap().len() != 5 * MIB;
        let (of_pins, others): (Vec<_>, Vec<_>) = spots(drive.cache_dir()).into_iter().partition(is_pinned);
        let mut bad = some_of(of_pins, 8, &mut random);
        let pinned: u64 = bad.iter().map(|spot| spot.len).sum();
        bad.extend(some_of(others, 4, &mut random));
        bad.iter().for_each(|spot| spot.flip(&mut random));
        // Nobody reads. Those of what is pinned come back, and nothing else.
        eventually("the damage is found", || scrub(&drive)["bad_granules"] == 12);
        eventually("what is pinned is back", || drive.fetched() == before + pinned);
        assert_eq!(drive.status()["cache"]["bad_granules"], 12);
        for (seed, name) in ["keep/a.mov", "keep/b.exr", "other/c.mov"].iter().enumerate() {
            reads(&drive, name, seed as u64);
        }
        assert_eq!(drive.fetched(), before + bad.iter().map(|spot| spot.len).sum::<u64>());
        let told = drive.tell(["cache", "stat"]);
        assert!(
            told.contains("looked through every 2 s") && told.contains("12 pieces damaged"),
            "{told}"
        );
        drive.unmount();
    });
}

#[test]
fn what_the_kernel_reads_by_itself_is_replaced_whole_and_never_mended_under_it() {
    drive_test(|| {
        let site = site(&[("a.mov", 8 * MIB)]);
        let mut drive = Builder::local(site.path())
            .set("cache.heads", "0B")
            .set("cache.scrub", "1s")
            .build()
            .mounted();
        drive.tell(["hydrate", "show"]);
        let status = drive.status_now();
        if status["native_reads"]["state"] != "on" {
            return say(&format!("SKIPPED: passthrough ({})", status["native_reads"]["reason"]));
        }
        let held = File::open(drive.path("a.mov")).unwrap();
        let mut byte = [0];
        held.read_exact_at(&mut byte, 3 * MIB).unwrap();
        assert_eq!(tree::first_wrong(0, 3 * MIB, &byte), None);
        assert_eq!(drive.status_now()["native_reads"]["opens"], 1, "the kernel has it");
        let data = data_files(drive.cache_dir()).remove(0);
        let old = File::open(&data).unwrap();
        flip(&data, 3 * MIB);
        eventually("the damage is found", || number(&scrub(&drive)["bad_granules"]) == 1);
        // Who comes now gets right bytes, while the damaged file is still open.
        eventually("it is fetched again", || {
            reads(&drive, "a.mov", 0);
            drive.fetched() == 16 * MIB
        });
        assert_ne!(
            fs::metadata(data_files(drive.cache_dir()).remove(0))
                .map(|m| std::os::unix::fs::MetadataExt::ino(&m))
                .ok(),
            old.metadata().map(|m| std::os::unix::fs::MetadataExt::ino(&m)).ok(),
            "another file was begun"
        );
        let mut was = [0];
        old.read_exact_at(&mut was, 3 * MIB).unwrap();
        assert_eq!(
            was[0], !byte[0],
            "and the one that was given out is as the disk left it"
        );
        drop(held);
        reads(&drive, "a.mov", 0);
        drive.unmount();
    });
}

#[test]
fn it_waits_for_readers_goes_on_where_it_was_and_can_be_switched_off() {
    drive_test(|| {
        let site = site(&[("a.mov", 48 * MIB), ("b.mov", MIB)]);
        let mut drive = Builder::local(site.path())
            .set("cache.heads", "0B")
            .set("cache.scrub", "3s")
            .set("fuse.passthrough", "off")
            .build()
            .mounted();
        drive.tell(["hydrate", "show/a.mov"]);
        // Each read is a question to the daemon.
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, direct);
        let mut buffer = vec![0; 4096 + 4096];
        let offset = buffer.as_ptr().align_offset(4096);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            let mut open = options.read(true).open(drive.path("a.mov")).unwrap();
            open.read_exact(&mut buffer[offset..offset + 4096]).unwrap();
            thread::park_timeout(Duration::from_millis(20));
        }
        let busy = scrub(&drive);
        assert!(number(&busy["pauses"]) > 20, "it was due, and waited: {busy}");
        assert_eq!(busy["bytes"], 0, "nothing was looked at beside the reader: {busy}");
        // Killed in the middle of a file, it goes on in the middle.
        let mut done = 0;
        eventually("it is in the middle", || {
            done = number(&scrub(&drive)["bytes"]);
            (12 * MIB..40 * MIB).contains(&done)
        });
        thread::park_timeout(Duration::from_millis(700));
        let done = done.max(number(&scrub(&drive)["bytes"])).min(48 * MIB);
        let was_done = number(&scrub(&drive)["contents"]) > 0;
        drive.kill9();
        drive.mount();
        eventually("it has come to the end", || number(&scrub(&drive)["contents"]) >= 1);
        let rest = number(&scrub(&drive)["bytes"]);
        say(&format!(
            "scrub: {} MiB before the kill, {} MiB after it",
            done >> 20,
            rest >> 20
        ));
        assert!(was_done || rest < 48 * MIB, "it went on where it was: {rest}");
        let told = stat(&drive);
        assert!(told["scrub"]["oldest_ms"].as_i64().is_some_and(|at| at > 0), "{told}");
        drive.unmount();

        let mut off = Builder::local(site.path())
            .set("cache.heads", "0B")
            .set("cache.scrub", "off")
            .build()
            .mounted();
        off.tell(["hydrate", "show"]);
        assert_eq!(scrub(&off)["every_ms"], Value::Null);
        assert!(off.tell(["cache", "stat"]).contains("never looked through"));
        off.unmount();
    });
}
