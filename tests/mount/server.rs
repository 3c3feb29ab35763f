//! Bad days of a real SSH server and of the link to it: *changes at the site*, *read*, *mmap* and *unmount* of
//! `docs/semantics.md` where the other side vanishes, dies, refuses or says no.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use backlot_config::SftpSite;
use rustix::io::Errno;

use crate::child;
use crate::common::drive::{
    Builder, DEADLINE, Drive, SOON, drive_test, eventually, eventually_within, mounts_at, run_within, say, succeeds,
    wait_within, within,
};
use crate::common::relay::Relay;
use crate::common::sshd::{Mode, Sshd};
use crate::common::tree;
use crate::read::read_past_pages;

const MIB: u64 = 1 << 20;
/// What a read may take beyond the deadline on a loaded machine.
const MARGIN: Duration = Duration::from_secs(2);

/// A server and a relay in front of it.
struct Far {
    sshd: Sshd,
    relay: Relay,
}

impl Far {
    fn start(mode: Mode) -> Option<Self> {
        let sshd = Sshd::start_or_skip(mode)?;
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        let far = Self { sshd, relay };
        far.trust_host_key();
        Some(far)
    }

    /// Writes the server's key, as it is now, into the known hosts of the relay's port.
    fn trust_host_key(&self) {
        self.sshd.trust_by(self.relay.port());
    }

    fn settings(&self) -> SftpSite {
        self.sshd.settings_by(self.relay.port())
    }

    fn builder(&self) -> Builder {
        Builder::sftp(&self.settings()).site("keepalive", "5s")
    }

    fn write(&self, name: &str, seed: u64, len: u64) {
        tree::write(&self.sshd.root().join(name), seed, len);
    }
}

fn reads_right(drive: &Drive, name: &str, seed: u64, len: u64) {
    let path = drive.path(name);
    let read = within(SOON, "a read", move || read_past_pages(&path).unwrap());
    assert_eq!(
        (read.len() as u64, tree::first_wrong(seed, 0, &read)),
        (len, None),
        "{name}"
    );
}

/// Reads a file that can't be had; returns how long the error took.
fn fails(drive: &Drive, name: &str, with: Errno) -> Duration {
    let path = drive.path(name);
    let begun = Instant::now();
    let error = within(SOON, "failing to read", move || {
        fs::read(path).expect_err("nothing can serve it")
    });
    assert_eq!(error.raw_os_error(), Some(with.raw_os_error()), "{name}: {error}");
    begun.elapsed()
}

#[test]
fn a_server_that_vanishes_leaves_names_and_cached_bytes_and_hangs_nobody() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        for (name, seed) in [
            ("sq/cached", 1),
            ("sq/cold-a", 2),
            ("sq/cold-b", 3),
            ("sq/cold-c", 4),
            ("sq/cold-d", 5),
        ] {
            far.write(name, seed, 4 * MIB);
        }
        let mut drive = far.builder().build().mounted();
        reads_right(&drive, "sq/cached", 1, 4 * MIB);

        far.relay.swallow();
        // All at once, while nobody knows yet that the link is dead: a program that reads, one that maps, one that lists.
        let begun = Instant::now();
        let mut reading = child::reading(&drive.path("sq/cold-a"));
        let mut mapping = child::mapping(&drive.path("sq/cold-b"), 3 * MIB);
        let mut mapping = mapping.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let listed = succeeds(Command::new("ls").arg("-lR").arg(drive.mount_point()));
        let ls_took = begun.elapsed();
        assert!(listed.contains("cold-d"));
        assert!(
            ls_took < Duration::from_secs(1) + MARGIN,
            "listing waits for nobody: {ls_took:?}"
        );
        reads_right(&drive, "sq/cached", 1, 4 * MIB);
        let took = fails(&drive, "sq/cold-c", Errno::IO);
        assert!(took < DEADLINE + MARGIN, "{took:?}");
        let status = wait_within(&mut reading, DEADLINE + MARGIN).expect("the reader ends");
        assert_eq!(status.code(), Some(1), "cat was told of an error");
        let status = wait_within(&mut mapping, DEADLINE + MARGIN).expect("the one that maps ends");
        assert_eq!(status.signal(), Some(7), "SIGBUS: {status:?}");
        assert!(far.relay.held() > 0, "the fault fired: what was asked never arrived");
        assert_eq!(drive.link(), "down");

        // Now that it is known, nobody pays for finding out, however many ask.
        let took = fails(&drive, "sq/cold-d", Errno::IO);
        assert!(took < Duration::from_secs(1), "{took:?}");
        reads_right(&drive, "sq/cached", 1, 4 * MIB);
        let stuck = eventually_within(Duration::from_secs(15), "nothing is in state D", || {
            [std::process::id(), drive.pid()]
                .iter()
                .all(|pid| child::threads_in_state_d(*pid).is_empty())
        });
        say(&format!(
            "with the server vanished: ls -lR {ls_took:.1?}, an uncached read failed after {took:.1?}, nobody in state D after {stuck:.1?}"
        ));

        far.relay.mend();
        eventually("reads work again", || {
            fs::read(drive.path("sq/cold-a")).is_ok_and(|b| tree::first_wrong(2, 0, &b).is_none())
        });
        far.relay.swallow();
        let mut reading = child::reading(&drive.path("sq/cold-c"));
        let begun = Instant::now();
        // Busy at first, when the reader holds its file; never for longer than its read may take.
        eventually_within(DEADLINE + MARGIN * 2, "the unmount", || {
            drive.run(["unmount"]).status.success()
        });
        assert!(drive.wait_end().success());
        say(&format!(
            "unmounted with the server vanished and a read under way after {:.1?}",
            begun.elapsed()
        ));
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert!(wait_within(&mut reading, SOON).is_some());
    });
}

#[test]
fn a_vanished_server_is_no_reason_not_to_mount() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        far.write("sq/cached", 1, MIB);
        far.write("sq/cold", 2, 4 * MIB);
        let mut drive = far.builder().build().mounted();
        reads_right(&drive, "sq/cached", 1, MIB);
        drive.unmount();
        far.relay.swallow();
        let begun = Instant::now();
        drive.mount();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        reads_right(&drive, "sq/cached", 1, MIB);
        let took = fails(&drive, "sq/cold", Errno::IO);
        assert!(took < DEADLINE + MARGIN, "{took:?}");
        far.relay.mend();
        eventually("reads work", || {
            fs::read(drive.path("sq/cold")).is_ok_and(|b| tree::first_wrong(2, 0, &b).is_none())
        });
    });
}

/// Reads a file from its start to its end or to an error, on a thread; what was read must be right.
fn reader(path: &Path, seed: u64) -> thread::JoinHandle<(u64, Option<std::io::Error>)> {
    let file = File::open(path).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 128 << 10];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at) {
                Ok(0) => return (at, None),
                Ok(n) => {
                    assert_eq!(tree::first_wrong(seed, at, &buffer[..n]), None);
                    at += n as u64;
                }
                Err(e) => return (at, Some(e)),
            }
        }
    })
}

#[test]
fn a_server_that_dies_in_mid_file_and_comes_back_is_used_again_without_a_remount() {
    drive_test(|| {
        let Some(mut far) = Far::start(Mode::Internal) else {
            return;
        };
        far.write("plate", 1, 48 * MIB);
        let drive = far.builder().build().mounted();
        far.relay.set_rate(Some(8_000_000));
        let reading = reader(&drive.path("plate"), 1);
        eventually("bytes arrive", || drive.fetched() > 2 * MIB);
        far.sshd.kill();
        let (at, error) = within(SOON, "the reader's end", move || reading.join().unwrap());
        let error = error.unwrap_or_else(|| panic!("it ended at {at} as if that were the end"));
        assert!(at < 48 * MIB);
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{error}");
        eventually("the link is known to be down", || drive.link() == "down");
        assert!(drive.counter("failed") > 0, "the fault fired");
        succeeds(Command::new("ls").arg("-l").arg(drive.project()));

        far.sshd.restart();
        far.relay.set_rate(None);
        eventually("the link is up", || drive.link() == "up");
        reads_right(&drive, "plate", 1, 48 * MIB);
        let fetched = drive.fetched();
        assert!(fetched < 80 * MIB, "what had arrived before was kept: {fetched}");
    });
}

#[test]
fn a_connection_that_is_cut_costs_the_reader_nothing_but_time() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        far.write("plate", 1, 24 * MIB);
        let drive = far.builder().set("hydration.read-deadline", "10s").build().mounted();
        far.relay.set_rate(Some(12_000_000));
        let reading = reader(&drive.path("plate"), 1);
        let mut cut = 0;
        for round in 1..4 {
            eventually("bytes arrive", || {
                far.relay.passed().1 > round * 4 * MIB || reading.is_finished()
            });
            cut += far.relay.reset();
        }
        let (at, error) = within(SOON * 2, "the reader's end", move || reading.join().unwrap());
        assert!(error.is_none(), "at {at}: {}", error.unwrap());
        assert_eq!(at, 24 * MIB);
        assert!(cut >= 3, "the fault fired {cut} times");
    });
}

#[test]
fn a_server_that_refuses_connections_is_named_with_the_reason() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        far.write("a", 1, MIB);
        far.write("b", 2, MIB);
        let drive = far.builder().build().mounted();
        reads_right(&drive, "a", 1, MIB);
        far.relay.refuse();
        // As the known hosts write it.
        let address = format!("[127.0.0.1]:{}", far.relay.port());
        let refused = drive.refused(["scan"]);
        assert!(refused.said.contains("refused"), "{refused:?}");
        assert!(fails(&drive, "b", Errno::IO) < DEADLINE + MARGIN);
        eventually("the link is known to be down", || drive.link() == "down");
        let status = drive.tell(["status"]);
        assert!(status.contains("refused"), "{status}");
        let doctor = drive.run(["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(!doctor.status.success() && said.contains("refused"), "{said}");
        assert!(
            status.contains(&address) || said.contains(&address),
            "the server is named: {status}{said}"
        );
        reads_right(&drive, "a", 1, MIB);
        far.relay.mend();
        eventually("reads work again", || {
            fs::read(drive.path("b")).is_ok_and(|b| tree::first_wrong(2, 0, &b).is_none())
        });
    });
}

#[test]
fn a_server_with_another_key_is_not_spoken_to() {
    drive_test(|| {
        let Some(mut far) = Far::start(Mode::Internal) else {
            return;
        };
        far.write("a", 1, MIB);
        far.write("b", 2, MIB);
        let mut drive = far.builder().build().mounted();
        reads_right(&drive, "a", 1, MIB);
        far.sshd.kill();
        far.sshd.change_host_key();
        far.sshd.restart();
        let refused = drive.refused(["scan"]);
        let names_file = |said: &str| said.contains("relay_hosts");
        assert!(refused.said.contains("key") && names_file(&refused.said), "{refused:?}");
        let path = drive.path("b");
        within(SOON, "failing to read", move || {
            fs::read(path).expect_err("the server is not who we know")
        });
        reads_right(&drive, "a", 1, MIB);
        let doctor = drive.run(["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(
            !doctor.status.success() && said.contains("key") && names_file(&said),
            "{said}"
        );
        // It is the drive's owner who decides; then it works without a remount.
        far.trust_host_key();
        eventually("reads work again", || {
            fs::read(drive.path("b")).is_ok_and(|b| tree::first_wrong(2, 0, &b).is_none())
        });
        drive.unmount();
    });
}

#[test]
fn a_secret_that_is_missing_or_wrong_is_named_and_never_shown() {
    const SECRET: &str = "hunter2-is-no-password";
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        far.write("a", 1, 10);
        let by_password = || far.builder().site("auth", "password");
        let drive = by_password()
            .site("password", "env:BACKLOT_TEST_NO_SUCH_SECRET")
            .build();
        let refused = drive.refused(["scan"]);
        assert!(refused.said.contains("BACKLOT_TEST_NO_SUCH_SECRET"), "{refused:?}");

        let drive = by_password()
            .site("password", "file:/nonexistent/studio.secret")
            .build();
        let refused = drive.refused(["scan"]);
        assert!(refused.said.contains("/nonexistent/studio.secret"), "{refused:?}");

        let mut drive = by_password()
            .site("password", "env:BACKLOT_TEST_WRONG")
            .env("BACKLOT_TEST_WRONG", SECRET)
            .build();
        let refused = drive.refused(["scan"]);
        assert!(
            refused.said.contains("password") || refused.said.contains("credentials"),
            "{refused:?}"
        );
        drive.mount();
        let everything = [
            refused.said,
            drive.log(),
            drive.tell(["status"]),
            drive.tell(["status", "--json"]),
            drive.tell(["config", "show"]),
            String::from_utf8_lossy(&drive.run(["doctor"]).stdout).into_owned(),
        ];
        for said in everything {
            assert!(!said.contains(SECRET), "{said}");
        }

        let mut locked = far.settings();
        locked.key_file = Some(far.sshd.file("locked_key"));
        let drive = Builder::sftp(&locked).build();
        let refused = drive.refused(["scan"]);
        assert!(
            refused.said.contains("passphrase") && refused.said.contains("locked_key"),
            "{refused:?}"
        );
        let mut missing = far.settings();
        missing.key_file = Some("/nonexistent/id_ed25519".into());
        let refused = Builder::sftp(&missing).build().refused(["scan"]);
        assert!(refused.said.contains("/nonexistent/id_ed25519"), "{refused:?}");
    });
}

#[test]
fn a_connection_that_breaks_while_it_is_made_is_no_word_about_us() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        far.write("a", 1, 10);
        let drive = far.builder().build();
        let looked = |cut_after| {
            far.relay.set_cut_after(cut_after);
            let out = drive.run(["doctor"]);
            (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let before = far.relay.passed().1;
        let (well, said) = looked(None);
        assert!(well, "{said}");
        let all = far.relay.passed().1 - before;
        // From the first word of the server to the last one of logging in.
        for cut_after in (10..all).step_by(usize::try_from(all / 40).unwrap()) {
            let (well, said) = looked(Some(cut_after));
            assert!(!well, "cut after {cut_after} of {all} bytes: {said}");
            let blames_us =
                said.contains("logging in failed") || said.contains("credentials") || said.contains("host key");
            assert!(!blames_us, "cut after {cut_after} of {all} bytes: {said}");
        }
    });
}

#[test]
fn a_listing_that_breaks_off_removes_nothing() {
    const FILES: usize = 20_000;
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        let big = far.sshd.root().join("big");
        fs::create_dir(&big).unwrap();
        for i in 0..FILES {
            fs::write(big.join(format!("particles.{i:05}.bgeo")), b"").unwrap();
        }
        // Nothing is listed but by the scans here: a look would see half of what is removed below, and rightly so.
        let drive = far.builder().set("scan.recheck-after", "1h").build().mounted();
        let count = || {
            let out = run_within(SOON, Command::new("ls").arg("-f").arg(drive.path("big")));
            out.stdout.split(|b| *b == b'\n').count() - 3
        };
        assert_eq!(count(), FILES);
        // Half of them go, so that a listing taken for whole would show in any case.
        for i in 0..FILES / 2 {
            fs::remove_file(big.join(format!("particles.{i:05}.bgeo"))).unwrap();
        }
        far.relay.set_rate(Some(400_000));
        let before = far.relay.passed().1;
        let mut scan = drive.command();
        let mut scan = scan
            .arg("scan")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the listing is under way", || far.relay.passed().1 > before + 300_000);
        far.relay.refuse();
        let status = wait_within(&mut scan, SOON).expect("the scan ends");
        assert!(!status.success(), "it was broken off");
        assert_eq!(count(), FILES, "nothing was removed");
        far.relay.set_rate(None);
        far.relay.mend();
        eventually("the link is up", || drive.link() == "up");
        drive.scan();
        assert_eq!(count(), FILES / 2, "a whole listing removes what is gone");
    });
}

#[test]
fn what_the_server_refuses_is_said_so_and_the_rest_goes_on() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Program) else { return };
        far.write("open/a", 1, 1000);
        far.write("open/shut-file", 2, 3 * MIB);
        far.write("shut/b", 3, 1000);
        let drive = far.builder().build().mounted();
        let mode = |path: &str, mode| {
            fs::set_permissions(far.sshd.root().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("open/shut-file", 0);
        mode("shut", 0);
        far.write("open/new", 4, 1000);
        let scan = drive.run(["scan"]);
        let said = String::from_utf8_lossy(&scan.stderr).into_owned();
        assert_eq!(scan.status.code(), Some(4), "done in part: {said}");
        assert!(said.contains("shut") && said.contains("refuses access"), "{said}");
        reads_right(&drive, "open/new", 4, 1000);
        assert_eq!(
            fs::metadata(drive.path("shut/b")).unwrap().len(),
            1000,
            "what was known of the folder stays"
        );
        fails(&drive, "open/shut-file", Errno::ACCESS);
        assert_eq!(drive.link(), "up", "a refusal is an answer");
        mode("open/shut-file", 0o644);
        mode("shut", 0o755);
        reads_right(&drive, "open/shut-file", 2, 3 * MIB);
        reads_right(&drive, "shut/b", 3, 1000);
    });
}

#[test]
fn a_scan_of_a_server_that_does_not_answer_ends() {
    drive_test(|| {
        let Some(far) = Far::start(Mode::Internal) else { return };
        far.write("a", 1, 10);
        // Silent from the first byte on, while keys are exchanged, and when it has let us in.
        for heard in [0, 1000, 2000, 2900] {
            let drive = far.builder().site("connect-timeout", "2s").build();
            far.relay.swallow_after(heard);
            let begun = Instant::now();
            let refused = drive.refused(["scan"]);
            let took = begun.elapsed();
            say(&format!(
                "a scan of a server that fell silent after {heard} bytes gave up after {took:.1?}"
            ));
            assert!(took < Duration::from_secs(30), "{took:?}: {refused:?}");
            assert!(far.relay.held() > 0, "the fault fired");
            far.relay.mend();
        }
    });
}
