//! What a service manager hears of a daemon (`Type=notify`, `WatchdogSec=`), and an upgrade under a daemon that runs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::drive::{Builder, SOON, drive_test, eventually, mounts_at};

/// What systemd would listen on.
struct Manager(UnixDatagram);

impl Manager {
    /// Says what came next.
    fn hear(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).expect("a socket");
        let mut text = [0; 4096];
        let length = self.0.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    fn wait_for(&self, word: &str) {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if self.hear(SOON).is_some_and(|said| said.contains(word)) {
                return;
            }
        }
        panic!("never heard {word}");
    }
}

#[test]
fn a_service_manager_hears_that_it_is_ready_lives_and_ends() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let manager = Manager(UnixDatagram::bind(&path).expect("a socket"));
        let mut drive = Builder::local(site.path())
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "600000")
            .build();
        drive.mount();
        manager.wait_for("READY=1");
        for _ in 0..4 {
            manager.wait_for("WATCHDOG=1");
        }
        // One that can't do anything gives no sign of life.
        drive.signal(Signal::STOP);
        while manager.hear(Duration::from_millis(50)).is_some() {}
        assert_eq!(manager.hear(Duration::from_millis(900)), None);
        drive.signal(Signal::CONT);
        manager.wait_for("WATCHDOG=1");
        drive.signal(Signal::TERM);
        manager.wait_for("STOPPING=1");
        assert!(drive.wait_end().success());
    });
}

#[test]
fn a_program_that_is_replaced_under_its_daemon_is_told() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        fs::write(site.path().join("plate.exr"), b"pixels").expect("written");
        let dir = tempfile::tempdir().expect("a folder");
        let program = dir.path().join("backlot");
        fs::copy(env!("CARGO_BIN_EXE_backlot"), &program).expect("copied");
        let drive = Builder::local(site.path()).build();
        drive.scan();
        let mut daemon = std::process::Command::new(&program);
        daemon.arg("--config").arg(drive.settings()).args(["mount", "--daemon"]);
        crate::common::drive::succeeds(&mut daemon);
        assert!(!drive.tell(["status"]).contains("replaced"));
        // As a package's tool does: the new one comes under the old one's name.
        let new = dir.path().join("backlot.new");
        fs::copy(env!("CARGO_BIN_EXE_backlot"), &new).expect("copied");
        fs::rename(&new, &program).expect("replaced");
        let said = drive.tell(["status"]);
        assert!(said.contains("the program was replaced since"), "{said}");
        let out = drive.run(["doctor"]);
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains("ok   program"), "{said}");
        eventually("the file is there all the same", || {
            fs::read(drive.path("plate.exr")).is_ok_and(|read| read == b"pixels")
        });
        drive.tell(["unmount"]);
    });
}

/// What the units run once their daemon has ended, or has not started, without the program and its settings.
fn after_the_end() -> Vec<String> {
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd");
    let mut found = Vec::new();
    for unit in [
        "system/backlot.service",
        "system/backlot@.service",
        "user/backlot.service",
    ] {
        let text = fs::read_to_string(format!("{units}/{unit}")).expect("a unit");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStopPost=-/usr/bin/backlot "));
        let mut words: Vec<_> = line.expect(unit).split(' ').map(str::to_owned).collect();
        if words[0] == "--config" {
            words.drain(..2);
        }
        found.push(words);
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    found.swap_remove(0)
}

#[test]
fn a_unit_that_fails_to_start_leaves_the_drive_to_who_has_it_and_clears_a_dead_one() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        fs::write(site.path().join("plate.exr"), b"pixels").expect("written");
        let mut drive = Builder::local(site.path()).build().mounted();
        let pid = drive.pid();
        let open = OpenOptions::new().append(true).create(true).open(drive.path("notes"));
        let mut open = open.expect("opened");
        open.write_all(b"one ").expect("written");
        // As the unit: its start fails, since the drive is somebody's, and then it cleans up.
        let refused = drive.refused(["mount"]);
        assert!(refused.said.contains("in use"), "{refused:?}");
        let said = drive.tell(after_the_end());
        assert_eq!(said, "");
        assert!(drive.is_running(), "{}", drive.log());
        assert_eq!((drive.pid(), mounts_at(drive.mount_point())), (pid, 1));
        open.write_all(b"two").expect("still written");
        drop(open);
        assert_eq!(fs::read(drive.path("notes")).expect("read"), b"one two");

        drive.kill9();
        assert_eq!(mounts_at(drive.mount_point()), 1, "the crash left its mount");
        let said = drive.tell(after_the_end());
        assert!(said.contains("its daemon was gone"), "{said}");
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert_eq!(
            drive.tell(after_the_end()),
            "",
            "nothing is mounted, and nothing is wrong with that"
        );
        drive.mount();
        assert_eq!(fs::read(drive.path("notes")).expect("read"), b"one two");
    });
}
