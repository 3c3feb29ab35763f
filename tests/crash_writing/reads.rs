//! Uploads that are broken off while somebody reads the site.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use backlot::state::TaskState;

use crate::common::content::{self, Id, Seen};
use crate::common::drive::{Builder, drive_test_within, say};
use crate::common::queue::{self, drained};
use crate::common::relay::Relay;
use crate::common::sshd::{Mode, Sshd};
use crate::common::tree::Random;
use crate::lane::DRAIN;
use crate::worker::seen;
use crate::{number, seed, settings};

/// How an upload is broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Break {
    Kill,
    CutLink,
}

/// Uploads of files of several parts over SFTP, broken off in the middle, while somebody reads the site: under its final
/// name a file is there whole, in the version before or in the new one.
#[test]
fn who_reads_at_the_site_sees_no_short_or_mixed_file_however_often_uploads_are_broken_off() {
    let wanted = number("BACKLOT_TEST_INTERRUPTED", 20);
    let seed = seed();
    say(&format!(
        "reader: {wanted} interrupted uploads, BACKLOT_TEST_SEED={seed}"
    ));
    drive_test_within(Duration::from_secs(120 + 10 * wanted), move || {
        let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let relay = Relay::start(([127, 0, 0, 1], server.port()).into()).unwrap();
        server.trust_by(relay.port());
        let site = server.settings_by(relay.port());
        let mut drive = settings(Builder::sftp(&site), "0ms").build();
        drive.scan();
        drive.mount();
        fs::create_dir(drive.path("publish")).unwrap();
        let target = server.root().join("publish/plate");

        let over = Arc::new(AtomicBool::new(false));
        let reading = {
            let (target, over) = (target.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let (mut read, mut seen) = (0_u64, BTreeSet::new());
                while !over.load(Relaxed) {
                    if let Ok(bytes) = fs::read(&target) {
                        match content::look(&bytes) {
                            Ok(Seen::Whole(id)) => seen.insert(id),
                            other => panic!("under its final name there is {other:?}"),
                        };
                        read += 1;
                    }
                    thread::park_timeout(Duration::from_micros(500));
                }
                (read, seen.len())
            })
        };
        let mut random = Random::new(seed);
        relay.set_rate(Some(40_000_000));
        let (mut broken, mut by_kill, mut resumed, mut version) = (0, 0, 0, 0);
        while broken < wanted {
            // A new version each time the last one arrived, and sometimes before.
            version += 1;
            let id = Id { file: 1, version };
            let len = (3 << 20) + random.below(2 << 20);
            fs::write(drive.path("publish/plate"), content::whole(id, len)).unwrap();
            let begun = Instant::now();
            let (mut breaks, mut last) = (random.below(3), 0);
            while begun.elapsed() < DRAIN {
                let tasks = queue::tasks(drive.data_dir());
                let Some(task) = tasks.first() else { break };
                let is_under_way = task.state == TaskState::Running && task.done_bytes > 0 && task.done_bytes < len;
                if breaks == 0 || !is_under_way || task.done_bytes == last {
                    thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                resumed += u64::from(last > 0 && task.done_bytes > last);
                last = task.done_bytes;
                thread::park_timeout(Duration::from_micros(random.below(20_000)));
                let how = if random.below(2) == 0 {
                    Break::Kill
                } else {
                    Break::CutLink
                };
                if how == Break::Kill {
                    drive.kill9();
                } else if relay.reset() == 0 {
                    continue;
                }
                // What the site has now tells whether it was in the middle of it.
                let is_there = seen(&target) == Some(Seen::Whole(id));
                if how == Break::Kill {
                    drive.mount();
                }
                if is_there {
                    continue;
                }
                (broken, breaks) = (broken + 1, breaks - 1);
                by_kill += u64::from(how == Break::Kill);
            }
            assert!(!reading.is_finished(), "nothing but whole files were read");
            if random.below(4) > 0 {
                drained(&drive, DRAIN);
                assert_eq!(seen(&target), Some(Seen::Whole(id)));
            }
        }
        drained(&drive, DRAIN);
        over.store(true, Relaxed);
        let (read, seen) = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        say(&format!(
            "reader: {broken} uploads of {version} versions broken off, {by_kill} by a kill, {resumed} gone on with; {read} reads \
             at the site, {seen} versions seen, all whole"
        ));
        let left: Vec<_> = fs::read_dir(server.root().join("publish"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["plate"], "nothing else is left there");
        assert!(read > 0 && by_kill > 0 && by_kill < broken, "both kinds of break fired");
    });
}
