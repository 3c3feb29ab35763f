//! A target without room: what has to wait says so, nothing of it lies about, and all of it arrives when there is room.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::common::drive::{Builder, Drive, drive_test_within, eventually_within, is_root, say};
use crate::common::sshd::{Mode, Sshd};
use crate::common::tree::files_at;
use crate::rig::{DRAIN, LIMIT, assert_same, blocked, bytes, count, job_to, local, put, tasks};

const MIB: usize = 1 << 20;

/// A small disk in memory; gone when it is dropped.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

impl Disk {
    fn options(bytes: usize) -> std::ffi::CString {
        std::ffi::CString::new(format!("size={bytes},mode=755")).unwrap()
    }

    fn of(at: &Path, bytes: usize) -> Self {
        fs::create_dir_all(at).unwrap();
        mount(
            "none",
            at,
            "tmpfs",
            MountFlags::NODEV,
            Some(Self::options(bytes).as_c_str()),
        )
        .unwrap();
        Self(at.to_owned())
    }

    fn grow(&self, bytes: usize) {
        mount_remount(&self.0, MountFlags::NODEV, Self::options(bytes)).unwrap();
    }
}

/// Sends more than fits to London.
fn fills_up(drive: &Drive, hq: &Path, london: &Disk) {
    for n in 0..12 {
        put(hq, &format!("a/{n:02}.exr"), &bytes(n, 500_000));
    }
    put(hq, "a/movie.mov", &bytes(77, 9 * MIB));
    let site = london.0.join("show");
    drive.tell(["push", "show/a", "--to", "london"]);
    eventually_within(DRAIN, "what doesn't fit says so", || {
        // All have been tried: nothing is under way.
        let job = job_to(drive, "london");
        count(&job, "blocked") > 0 && count(&job, "done") + count(&job, "blocked") == 13
    });
    assert!(blocked(drive, "full", &["london", "no room"]), "{:#?}", tasks(drive));
    let arrived = files_at(&site);
    assert!(!arrived.is_empty() && arrived.len() < 13, "{} of 13 fit", arrived.len());
    for (path, got) in &arrived {
        assert!(
            *got == fs::read(hq.join(path)).unwrap(),
            "{} is not whole, or is left of an upload",
            path.display()
        );
    }

    london.grow(64 * MIB);
    drive.tell(["queue", "retry", "--all"]);
    eventually_within(DRAIN, "all of it is there", || tasks(drive).is_empty());
    assert_same(hq, &site);
}

fn no_root() -> bool {
    if !is_root() {
        say("SKIPPED: root (mounting a small disk)");
    }
    !is_root()
}

#[test]
fn a_folder_that_is_full_gets_the_rest_when_it_has_room() {
    drive_test_within(LIMIT, || {
        if no_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (hq, london) = (dir.path().join("hq"), dir.path().join("london"));
        fs::create_dir(&hq).unwrap();
        let disk = Disk::of(&london, 4 * MIB);
        let drive = local(Builder::local(&hq), "london", &london)
            .set("publish.part-size", "1MiB")
            .build()
            .mounted();
        fills_up(&drive, &hq, &disk);
    });
}

#[test]
fn an_sftp_server_whose_disk_is_full_gets_the_rest_when_it_has_room() {
    drive_test_within(LIMIT, || {
        if no_root() {
            return;
        }
        let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let (hq, london) = (dir.path().join("hq"), server.root().join("london"));
        fs::create_dir(&hq).unwrap();
        let disk = Disk::of(&london, 4 * MIB);
        let drive = Builder::local(&hq)
            .sftp_site("london", &server.settings(&london))
            .set("publish.part-size", "1MiB")
            .build()
            .mounted();
        fills_up(&drive, &hq, &disk);
    });
}
