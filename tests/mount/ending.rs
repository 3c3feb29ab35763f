//! `docs/semantics.md`: *unmount*.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;

use crate::common::drive::{Builder, Drive, drive_test, eventually, mounts_at, succeeds};
use crate::common::tree;

fn drive() -> (tempfile::TempDir, Drive) {
    let site = tempfile::tempdir().unwrap();
    tree::write(&site.path().join("sh010/a"), 1, 100_000);
    let drive = Builder::local(site.path()).build().mounted();
    (site, drive)
}

fn reads(drive: &Drive) {
    assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path("sh010/a")).unwrap()), None);
}

/// A process that works in a folder, and is killed when the test ends, however it does.
struct Worker(Child);

impl Worker {
    fn in_folder(dir: &Path) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "echo in; exec sleep 300"])
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        // `exec` changes the name a moment after the line.
        eventually("sleep", || fs::read_to_string(&comm).is_ok_and(|c| c == "sleep\n"));
        Self(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_drive_in_use_stays_and_says_who_uses_it() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let worker = Worker::in_folder(&drive.path("sh010"));
        let refused = drive.refused(["unmount"]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.said.contains("sleep") && refused.said.contains(&worker.0.id().to_string()),
            "{refused:?}"
        );
        assert!(refused.said.contains("--lazy"), "{refused:?}");
        reads(&drive);
        drop(worker);

        let held = File::open(drive.path("sh010/a")).unwrap();
        let refused = drive.refused(["unmount"]);
        assert!(
            refused.said.contains(&std::process::id().to_string()),
            "we hold a file: {refused:?}"
        );
        drop(held);
        drive.unmount();
        assert_eq!(mounts_at(drive.mount_point()), 0);
        drive.mount();
        reads(&drive);
    });
}

#[test]
fn lazily_a_drive_in_use_vanishes_at_once() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let held = File::open(drive.path("sh010/a")).unwrap();
        let begun = Instant::now();
        drive.unmount_lazily();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert_eq!(fs::read_dir(drive.mount_point()).unwrap().count(), 0);
        // Whoever holds a file gets bytes or an error, and does not hang.
        let mut byte = [0];
        drop(held.read_at(&mut byte, 50_000));
        drop(held);
        drive.mount();
        reads(&drive);
    });
}

#[test]
fn sigterm_and_sigint_unmount() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        for signal in [Signal::TERM, Signal::INT] {
            reads(&drive);
            drive.signal(signal);
            let status = drive.wait_end();
            assert!(status.success(), "{signal:?}: {status}");
            assert_eq!(mounts_at(drive.mount_point()), 0);
            assert!(!drive.data_dir().join("backlot.sock").exists());
            assert_eq!(
                fs::read(drive.data_dir().join("lock")).unwrap(),
                b"",
                "it stopped cleanly"
            );
            drive.mount();
        }
        assert!(!drive.log().contains("not closed"), "{}", drive.log());
    });
}

#[test]
fn sigterm_ends_a_drive_that_is_in_use() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let worker = Worker::in_folder(&drive.path("sh010"));
        let status = drive.terminate();
        assert!(status.success(), "{status}");
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert!(
            drive.log().contains(&worker.0.id().to_string()),
            "the log says who used it: {}",
            drive.log()
        );
    });
}

#[test]
fn unmounted_from_outside_the_daemon_ends() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let helper = if crate::common::drive::is_root() {
            "umount"
        } else {
            "fusermount3"
        };
        let mut command = Command::new(helper);
        if helper == "fusermount3" {
            command.arg("-u");
        }
        succeeds(command.arg(drive.mount_point()));
        assert!(drive.wait_end().success());
        drive.mount();
        reads(&drive);
    });
}

#[test]
fn a_mount_that_is_cut_off_is_an_error_of_its_daemon() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let device = fs::metadata(drive.mount_point()).unwrap().dev();
        fs::write(
            format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device)),
            "1",
        )
        .unwrap();
        let status = drive.wait_end();
        assert_eq!(
            status.code(),
            Some(1),
            "a service manager starts it again: {}",
            drive.log()
        );
        let log = drive.log();
        assert!(
            log.contains("error: could not serve the drive") && log.contains("was cut off"),
            "{log}"
        );
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert_eq!(
            fs::read(drive.data_dir().join("lock")).unwrap(),
            b"",
            "it stopped cleanly"
        );
        drive.mount();
        reads(&drive);
    });
}

#[test]
fn a_mount_whose_daemon_was_killed_answers_enotconn_and_is_cleared_by_the_next() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let held = File::open(drive.path("sh010/a")).unwrap();
        drive.kill9();
        assert_eq!(mounts_at(drive.mount_point()), 1, "the crash left its mount");
        let dead = fs::metadata(drive.path("sh010/a")).unwrap_err();
        assert_eq!(dead.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
        let refused = drive.refused(["status"]);
        assert_eq!(refused.code, Some(3), "{refused:?}");
        let doctor = drive.run(["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(!doctor.status.success() && said.contains("daemon died"), "{said}");
        drive.mount();
        assert_eq!(mounts_at(drive.mount_point()), 1, "the dead one is gone");
        reads(&drive);
        drop(held);

        drive.kill9();
        drive.tell(["unmount", "--lazy"]);
        assert_eq!(mounts_at(drive.mount_point()), 0, "`unmount` clears a dead one too");
        drive.mount();
        reads(&drive);
    });
}

#[test]
fn in_the_background_it_is_ready_when_the_command_returns() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sh010/a"), 1, 100_000);
        let drive = Builder::local(site.path()).build();
        drive.scan();
        let said = drive.tell(["mount", "--daemon"]);
        assert!(said.starts_with("ready"), "{said}");
        reads(&drive);
        let pid = drive.status()["pid"].as_u64().unwrap();
        let refused = drive.refused(["mount", "--daemon"]);
        assert!(refused.said.contains("in use"), "{refused:?}");
        drive.tell(["unmount"]);
        assert_eq!(mounts_at(drive.mount_point()), 0);
        let running = || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "backlot\n");
        eventually("the daemon has ended", || !running());
    });
}
