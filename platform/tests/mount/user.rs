//! Mounts of ordinary users, through fusermount3.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Dev, FileType, Gid, Mode, Uid, chmod, mknodat};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::rig::{NOBODY, Rig, bounded, is_root, mount_folder, mounts_at, skip};

/// Runs `body` with a folder of `nobody`'s; only root can become somebody else.
///
/// Where the machine keeps /dev/fuse from ordinary users (fusermount3 opens it on their behalf, but as them), a private
/// mount namespace shows `body` one that is open to all.
fn as_nobody(body: impl FnOnce(&Path) + Send + 'static) {
    if skip() {
        return;
    }
    if !is_root() || !Path::new("/usr/bin/fusermount3").exists() {
        println!("SKIPPED: fuse (an ordinary user's mount is tested by root, with fusermount3)");
        return;
    }
    let (dir, point) = mount_folder();
    rustix::fs::chown(&point, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).expect("given away");
    let open_device = dir.path().join("fuse");
    bounded(&point.clone(), move || {
        let device = rustix::fs::stat("/dev/fuse").expect("checked above");
        if device.st_mode & 0o006 != 0o006 {
            show_device(&open_device, device.st_rdev).expect("root has a mount namespace of its own");
        }
        body(&point);
    });
}

#[expect(unsafe_code, reason = "leaving the mount namespace")]
fn show_device(node: &Path, device: Dev) -> rustix::io::Result<()> {
    // SAFETY: only this thread leaves the shared namespace and the shared working folder; no file table is split.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    mknodat(CWD, node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)?;
    chmod(node, Mode::from_raw_mode(0o666))?;
    mount_bind(node, "/dev/fuse")
}

fn nobody_reads(path: &Path) -> Vec<u8> {
    Command::new("cat")
        .arg(path)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("started")
        .stdout
}

#[test]
fn an_ordinary_user_mounts_and_unmounts_and_keeps_root_out() {
    as_nobody(|point| {
        let rig = Rig::start(point, "fs_name=a,b\\c", Some(NOBODY)).expect("mounted");
        assert_eq!(nobody_reads(&rig.path("hello")), b"hello world\n");
        rig.tell("lend / plate A");
        assert_eq!(nobody_reads(&rig.path("plate")), [b'A'; crate::served::LENT]);
        let native = rig.ask("native");
        assert!(
            native.starts_with("0 ") && native.contains("rights of root"),
            "{native}"
        );
        let root = std::fs::read(rig.path("hello")).expect_err("not for others");
        assert_eq!(root.kind(), std::io::ErrorKind::PermissionDenied);
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("a table");
        assert!(table.contains(" - fuse.backlot a,b\\134c "), "{table}");

        let busy = busy_while_worked_in(&rig);
        assert!(busy.contains("it is in use by sleep"), "{busy}");
        rig.tell("unmount");
        rig.wait_ended();
        assert_eq!(mounts_at(point), 0);
    });
}

/// Tries to unmount while a process of the same user works in the mount.
fn busy_while_worked_in(rig: &Rig) -> String {
    // The shell enters the folder as nobody: root could not.
    let mut sleeper = Command::new("sh")
        .args(["-c", "cd \"$0\" && echo in && exec sleep 60"])
        .arg(rig.path("rw"))
        .uid(NOBODY)
        .gid(NOBODY)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(sleeper.stdout.take().expect("piped")),
        &mut line,
    )
    .expect("it says so");
    assert_eq!(line, "in\n");
    // `exec` changes the program's name a moment after the line.
    crate::rig::eventually("sleep", || {
        std::fs::read_to_string(format!("/proc/{}/comm", sleeper.id())).is_ok_and(|comm| comm == "sleep\n")
    });
    let said = rig.ask("unmount");
    sleeper.kill().expect("ours");
    sleeper.wait().expect("ours");
    said
}

#[test]
fn an_ordinary_user_clears_the_mount_of_a_crash() {
    as_nobody(|point| {
        let crashed = Rig::start(point, "", Some(NOBODY)).expect("mounted");
        crashed.crash();
        assert_eq!(mounts_at(point), 1);
        let next = Rig::start(point, "", Some(NOBODY)).expect("mounted");
        assert_eq!(mounts_at(point), 1);
        assert_eq!(nobody_reads(&next.path("hello")), b"hello world\n");
        next.tell("lazy");
        next.wait_ended();
    });
}

#[test]
fn allow_other_needs_the_machines_leave() {
    let conf = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if conf.lines().any(|line| line.trim() == "user_allow_other") {
        println!("SKIPPED: fuse (this machine allows allow_other to everybody)");
        return;
    }
    as_nobody(|point| {
        let why = Rig::start(point, "allow_other=true", Some(NOBODY))
            .map(drop)
            .expect_err("not allowed");
        assert!(why.contains("cannot mount for other users"), "{why}");
        assert!(why.contains("HINT add a line `user_allow_other`"), "{why}");
        assert_eq!(mounts_at(point), 0);
    });
}

#[test]
fn with_allow_other_others_may_enter() {
    if skip() || !is_root() {
        return;
    }
    let (_dir, point) = mount_folder();
    bounded(&point.clone(), move || {
        let closed = Rig::start(&point, "", None).expect("mounted");
        assert_eq!(nobody_reads(&closed.path("hello")), b"");
        closed.tell("unmount");
        closed.wait_ended();
        let open = Rig::start(&point, "allow_other=true", None).expect("mounted");
        assert_eq!(nobody_reads(&open.path("hello")), b"hello world\n");
    });
}
