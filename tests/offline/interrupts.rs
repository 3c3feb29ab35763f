//! Whoever waits for bytes that don't come can be interrupted, and nothing goes on being fetched for who is gone.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child;
use crate::common::drive::{Drive, drive_test, eventually, eventually_within, say, wait_within};
use crate::common::tree;
use crate::far::Far;

const MIB: u64 = 1 << 20;
/// How soon an interrupted process ends; the deadline of its read is far beyond.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What is hung in long enough that every try of it has reached the site.
const HUNG: Duration = Duration::from_millis(700);

/// Begins a process that waits for bytes of a file.
type Begin = fn(&Path) -> Child;

fn quiet(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Reads past the kernel's pages: the kernel waits for the answer itself, and no signal ends that.
fn direct(path: &Path) -> Child {
    let from = format!("if={}", path.display());
    quiet(child::interruptible(Path::new("dd")).args([&from, "of=/dev/null", "bs=64k", "iflag=direct"]))
}

/// Changes a byte in the middle, for which the whole file is copied first.
fn change(path: &Path) -> Child {
    let to = format!("of={}", path.display());
    quiet(child::interruptible(Path::new("dd")).args([
        &to,
        "if=/dev/zero",
        "bs=1",
        "count=1",
        "seek=1000",
        "conv=notrunc",
    ]))
}

fn map(path: &Path) -> Child {
    quiet(&mut child::mapping(path, 3 * MIB))
}

/// Files that hold what was written here, or was copied to be.
fn objects(drive: &Drive) -> usize {
    let shelves = fs::read_dir(drive.data_dir().join("local")).unwrap().flatten();
    shelves.map(|shelf| fs::read_dir(shelf.path()).unwrap().count()).sum()
}

fn in_flight(drive: &Drive) -> usize {
    drive.status()["hydration"]["in_flight"].as_array().unwrap().len()
}

#[test]
fn whoever_waits_for_a_dead_link_is_interrupted_at_once() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        let ways: [(&str, Begin); 4] = [
            ("cat", child::reading),
            ("mmap", map),
            ("O_DIRECT", direct),
            ("write", change),
        ];
        let signals = [Signal::INT, Signal::TERM, Signal::KILL];
        let name = |way: &str, signal: Signal| format!("cold/{way}-{}", signal.as_raw());
        for (way, _) in ways {
            for signal in signals {
                far.write(&name(way, signal), 1, 4 * MIB);
            }
        }
        far.write("warm", 2, MIB);
        let drive = far.builder().set("hydration.read-deadline", "60s").build().mounted();
        // Connected, so that each waits for its bytes.
        assert!(fs::read(drive.path("warm")).is_ok());
        far.relay.swallow();
        for (way, begin) in ways {
            for signal in signals {
                let mut waits = begin(&drive.path(name(way, signal)));
                std::thread::park_timeout(HUNG);
                assert!(waits.try_wait().unwrap().is_none(), "{way} does not wait");
                let begun = Instant::now();
                kill_process(Pid::from_child(&waits), signal).unwrap();
                let ended = wait_within(&mut waits, Duration::from_secs(20));
                let took = begun.elapsed();
                say(&format!(
                    "{way} that waited ended {took:.2?} after {signal:?}: {ended:?}"
                ));
                assert!(took < AT_ONCE, "{way} {signal:?}: {took:?}");
                eventually_within(AT_ONCE * 3, "what it waited for is not fetched any more", || {
                    in_flight(&drive) == 0
                });
            }
        }
        assert!(far.relay.held() > 0, "the fault fired");
        eventually("what was being copied for them is gone", || objects(&drive) == 0);
        far.relay.mend();
        let (way, signal) = ("cat", Signal::KILL);
        eventually("all reads again", || {
            fs::read(drive.path(name(way, signal))).is_ok_and(|b| tree::first_wrong(1, 0, &b).is_none())
        });
    });
}

#[test]
fn nothing_is_fetched_for_a_reader_that_is_gone_and_a_second_one_keeps_its_fetch() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        far.write("plate", 1, 48 * MIB);
        let drive = far.builder().set("hydration.read-deadline", "20s").build().mounted();
        far.relay.set_rate(Some(1_000_000));
        let mut first = child::reading(&drive.path("plate"));
        let mut second = child::reading(&drive.path("plate"));
        eventually("bytes arrive", || drive.fetched() > MIB);
        first.kill().unwrap();
        first.wait().unwrap();
        let before = drive.fetched();
        eventually("the other one goes on", || drive.fetched() > before + MIB);
        second.kill().unwrap();
        second.wait().unwrap();
        let stopped = eventually_within(Duration::from_secs(3), "nothing is under way", || {
            in_flight(&drive) == 0
        });
        // What was on its way counts when it comes, and nothing else is asked for.
        let fetched = drive.fetched();
        eventually("what was on its way has come", || {
            let before = drive.fetched();
            std::thread::park_timeout(Duration::from_secs(1));
            drive.fetched() == before
        });
        let late = drive.fetched() - fetched;
        assert!(late <= 16 * MIB, "nobody reads, and {late} bytes came");
        assert!(drive.counter("cancelled") > 0);
        say(&format!("fetching ended {stopped:.2?} after the last reader"));
    });
}
