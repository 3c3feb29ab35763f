//! Links that are worse than dead: half open, in somebody else's hands, without names, with clocks that lie, back with
//! something else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::common::drive::{
    Builder, DEADLINE, Drive, SOON, drive_test, eventually, eventually_within, is_root, say, succeeds, within,
};
use crate::common::tree;
use crate::far::Far;

const MIB: u64 = 1 << 20;
/// What an answer that needs no site may take on a loaded machine.
const SWIFT: Duration = Duration::from_secs(1);

fn reads(drive: &Drive, name: &str, seed: u64) -> bool {
    let path = drive.path(name);
    let read = within(SOON, "a read", move || fs::read(path));
    read.is_ok_and(|b| !b.is_empty() && tree::first_wrong(seed, 0, &b).is_none())
}

/// Fails to read a file; returns how long the error took.
fn fails(drive: &Drive, name: &str) -> Duration {
    let path = drive.path(name);
    let begun = Instant::now();
    let error = within(SOON * 2, "failing to read", move || {
        fs::read(path).expect_err("nothing can serve it")
    });
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{error}");
    begun.elapsed()
}

/// The next read of something that is not here fails at once, and what is here reads.
fn is_known_to_be_down(drive: &Drive) {
    eventually("the link is known to be down", || drive.link() == "down");
    let took = fails(drive, "cold-z");
    assert!(took < SWIFT, "{took:?}");
    assert!(reads(drive, "warm", 1));
    succeeds(Command::new("ls").arg("-lR").arg(drive.mount_point()));
}

/// A hotel's Wi-Fi: takes every connection, and answers all with a page to log in at.
fn portal(says_first: bool) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut stream = stream;
                let page = "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n";
                let mut heard = [0; 512];
                if !says_first {
                    drop(stream.read(&mut heard));
                }
                drop(stream.write_all(page.as_bytes()));
                if says_first {
                    // And stays, as some do.
                    while stream.read(&mut heard).is_ok_and(|n| n > 0) {}
                }
            });
        }
    });
    (port, asked)
}

#[test]
fn a_captive_portal_is_a_site_out_of_reach_and_named_so() {
    drive_test(|| {
        for says_first in [false, true] {
            let Some(far) = Far::start() else { return };
            for (name, seed) in [("warm", 1), ("cold", 2), ("cold-z", 3)] {
                far.write(name, seed, MIB);
            }
            let (portal, asked) = portal(says_first);
            let mut drive = far.builder().site("connect-timeout", "3s").build().mounted();
            assert!(reads(&drive, "warm", 1));
            drive.unmount();
            // The same address, and somebody else behind it.
            let settings = fs::read_to_string(drive.settings()).unwrap();
            let port = format!("port = {}\n", far.relay.port());
            assert!(settings.contains(&port));
            fs::write(drive.settings(), settings.replace(&port, &format!("port = {portal}\n"))).unwrap();
            drive.mount();
            let took = fails(&drive, "cold");
            assert!(took < DEADLINE + SWIFT, "{took:?}");
            is_known_to_be_down(&drive);
            assert!(asked.load(Ordering::Relaxed) > 0, "the fault fired");
            let said = drive.tell(["status"]);
            say(&format!(
                "a captive portal that {}: an uncached read failed after {took:.1?}; {}",
                if says_first {
                    "speaks first"
                } else {
                    "waits to be asked"
                },
                said.lines()
                    .find(|line| line.contains(" down "))
                    .unwrap_or_default()
                    .trim()
            ));
            fs::write(drive.settings(), settings).unwrap();
            drive.remount();
            eventually("all reads again", || reads(&drive, "cold", 2));
        }
    });
}

#[test]
fn a_name_that_can_not_be_resolved_any_more_is_a_site_out_of_reach() {
    drive_test(|| {
        if !is_root() {
            return say("SKIPPED: root (a table of hosts of one's own takes root)");
        }
        let Some(far) = Far::start() else { return };
        for (name, seed) in [("warm", 1), ("cold", 2), ("cold-z", 3)] {
            far.write(name, seed, MIB);
        }
        let own = tempfile::tempdir().unwrap();
        let (hosts, resolver) = (own.path().join("hosts"), own.path().join("resolv.conf"));
        fs::write(&hosts, "127.0.0.1 localhost studio.test\n").unwrap();
        // Nobody answers there.
        fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        leave_namespace();
        mount_bind(&hosts, "/etc/hosts").unwrap();
        mount_bind(&resolver, "/etc/resolv.conf").unwrap();
        let key = fs::read_to_string(far.sshd.file("host_key.pub")).unwrap();
        let known = format!("[studio.test]:{} {key}", far.relay.port());
        fs::write(far.sshd.file("relay_hosts"), known).unwrap();
        let mut settings = far.settings();
        settings.host = "studio.test".to_owned();
        let drive = Builder::sftp(&settings).build().mounted();
        assert!(reads(&drive, "warm", 1));
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        let found = Command::new("getent").args(["hosts", "studio.test"]).output().unwrap();
        assert!(!found.status.success(), "the fault fired: {found:?}");
        assert!(far.relay.reset() > 0);
        let took = fails(&drive, "cold");
        assert!(took < DEADLINE + SWIFT, "{took:?}");
        is_known_to_be_down(&drive);
        let said = drive.tell(["status"]);
        assert!(said.contains("studio.test"), "{said}");
        fs::write(&hosts, "127.0.0.1 localhost studio.test\n").unwrap();
        eventually("all reads again", || reads(&drive, "cold", 2));
    });
}

/// Gives this thread, and what it starts, a table of mounts of its own.
#[expect(unsafe_code, reason = "leaving the mount namespace")]
fn leave_namespace() {
    // SAFETY: only this thread leaves the shared namespace and the shared working folder; no file table is split.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
}

#[test]
fn a_peer_that_froze_is_given_up_and_another_connection_is_made() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        for (name, seed) in [("warm", 1), ("cold", 2)] {
            far.write(name, seed, MIB);
        }
        let drive = far.builder().build().mounted();
        assert!(reads(&drive, "warm", 1));
        // Open, and nobody will ever answer on it: a firewall that forgot it looks the same.
        let frozen = far.sshd.session_processes();
        assert!(!frozen.is_empty());
        for pid in &frozen {
            kill_process(*pid, Signal::STOP).unwrap();
        }
        let before = far.relay.accepted();
        let took = eventually_within(DEADLINE * 5, "it reads again", || reads(&drive, "cold", 2));
        assert!(far.relay.accepted() > before, "over another connection");
        say(&format!(
            "a half-open connection cost a reader {took:.1?} of a deadline of {DEADLINE:?}"
        ));
    });
}

#[test]
fn after_a_sleep_connections_are_made_anew_before_anybody_waits_for_the_old_ones() {
    /// Longer than the daemon takes for a sleep.
    const SLEEP: Duration = Duration::from_millis(12_500);
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        for (name, seed) in [("warm", 1), ("cold", 2)] {
            far.write(name, seed, MIB);
        }
        let drive = far
            .builder()
            .set("hydration.read-deadline", "60s")
            .site("keepalive", "5min")
            .build()
            .mounted();
        assert!(reads(&drive, "warm", 1));
        let before = far.relay.accepted();
        drive.signal(Signal::STOP);
        // The other side has forgotten the connections by the time that it wakes.
        for pid in far.sshd.session_processes() {
            kill_process(pid, Signal::STOP).unwrap();
        }
        std::thread::park_timeout(SLEEP);
        drive.signal(Signal::CONT);
        eventually("it is noticed", || drive.log().contains("slept"));
        let begun = Instant::now();
        assert!(reads(&drive, "cold", 2));
        let took = begun.elapsed();
        assert!(far.relay.accepted() > before, "over another connection");
        say(&format!(
            "after a sleep the first uncached read took {took:.1?}; its deadline is 60 s"
        ));
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn a_site_that_is_back_with_something_else_is_believed_and_never_mixed() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        for (name, seed) in [("cached", 1), ("half", 2), ("gone", 3), ("turns", 4)] {
            far.write(name, seed, 4 * MIB);
        }
        let drive = far.builder().build().mounted();
        assert!(reads(&drive, "cached", 1));
        let half = File::open(drive.path("half")).unwrap();
        let mut first = vec![0; 64 << 10];
        half.read_exact_at(&mut first, 0).unwrap();
        far.relay.swallow();
        for (name, seed) in [("cached", 11), ("half", 12)] {
            far.write(name, seed, 4 * MIB + 5);
        }
        far.write("new", 15, MIB);
        fs::remove_file(far.path("gone")).unwrap();
        fs::remove_file(far.path("turns")).unwrap();
        far.write("turns/into/a-folder", 16, 1000);
        assert!(reads(&drive, "cached", 1), "offline, it is what it was");
        fails(&drive, "turns");
        assert!(far.relay.held() > 0, "the fault fired");
        far.relay.mend();
        eventually("the new bytes are there", || {
            reads(&drive, "cached", 11) && reads(&drive, "half", 12)
        });
        eventually("the new file is there", || reads(&drive, "new", 15));
        eventually("what is gone is gone", || !drive.path("gone").exists());
        eventually("what turned into a folder is one", || {
            reads(&drive, "turns/into/a-folder", 16)
        });
        // The old handle gives what it began with, or an error; never the other's bytes.
        let mut buffer = vec![0; 64 << 10];
        for at in [0, MIB, 3 * MIB] {
            match half.read_at(&mut buffer, at) {
                Ok(n) => assert_eq!(tree::first_wrong(2, at, &buffer[..n]), None, "at {at}"),
                Err(e) => assert_eq!(e.raw_os_error(), Some(Errno::STALE.raw_os_error()), "{e}"),
            }
        }
    });
}

#[test]
fn a_clock_that_was_ahead_keeps_no_folder_from_being_looked_at() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sq/a"), 1, 1000);
        let mut drive = Builder::local(site.path()).build().mounted();
        assert!(reads(&drive, "sq/a", 1));
        drive.unmount();
        // As it looks after a scan by a machine that took the year for 2100.
        let ahead = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        let ahead = i64::try_from(ahead.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let store = rusqlite::Connection::open(drive.data_dir().join("state.sqlite")).unwrap();
        let changed = store
            .execute(
                "UPDATE inode SET listed_at_ms = ?1 WHERE listed_at_ms IS NOT NULL",
                [ahead],
            )
            .unwrap();
        assert!(changed >= 2, "the fault fired: {changed}");
        drop(store);
        tree::write(&site.path().join("sq/b"), 2, 1000);
        drive.mount();
        eventually("looking at the folder shows what is new", || {
            fs::read_dir(drive.path("sq")).unwrap().count() == 2
        });
    });
}

/// What is refused by a relay is known at once, by all that wait.
#[test]
fn a_reset_of_every_connection_and_a_refusal_of_new_ones_is_known_at_once() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        for (name, seed) in [("warm", 1), ("cold", 2), ("cold-z", 3)] {
            far.write(name, seed, MIB);
        }
        let drive = far.builder().set("hydration.read-deadline", "30s").build().mounted();
        assert!(reads(&drive, "warm", 1));
        far.relay.refuse();
        let took = fails(&drive, "cold");
        assert!(took < Duration::from_secs(5), "{took:?}");
        is_known_to_be_down(&drive);
        say(&format!(
            "a refused connection was an error after {took:.1?} of a deadline of 30 s"
        ));
        far.relay.mend();
        eventually("all reads again", || reads(&drive, "cold", 2));
    });
}

#[test]
fn a_thousand_readers_of_a_dead_link_all_end_in_time_and_hold_up_no_listing() {
    const READERS: usize = 1000;
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        far.write("warm", 1, MIB);
        for n in 0..READERS {
            far.write(&format!("cold/{n:04}"), 2, 70_000);
        }
        let drive = far.builder().set("hydration.read-deadline", "4s").build().mounted();
        assert!(reads(&drive, "warm", 1));
        far.relay.swallow();
        let begun = Instant::now();
        let readers: Vec<_> = (0..READERS)
            .map(|n| {
                let path = drive.path(format!("cold/{n:04}"));
                std::thread::spawn(move || fs::read(path).expect_err("nothing can serve it"))
            })
            .collect();
        let listed = Instant::now();
        succeeds(Command::new("ls").arg("-lR").arg(drive.mount_point()));
        let listed = listed.elapsed();
        let ended = within(SOON, "the end of all", move || {
            for reader in readers {
                let error = reader.join().unwrap();
                assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{error}");
            }
            begun.elapsed()
        });
        say(&format!(
            "{READERS} readers of a dead link had an error after {ended:.1?} of a deadline of 4 s; ls -lR meanwhile {listed:.1?}"
        ));
        // Beginning so many threads takes a moment as well.
        assert!(ended < Duration::from_secs(7), "{ended:?}");
        assert!(listed < Duration::from_secs(3), "{listed:?}");
        assert!(far.relay.held() > 0, "the fault fired");
    });
}
