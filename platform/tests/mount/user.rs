//! Mounts of ordinary users, through fusermount3.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Gid, Uid};

use crate::rig::{NOBODY, Rig, bounded, is_root, mount_folder, mounts_at, skip};

/// Runs `body` with a folder of `nobody`'s; only root can become somebody else.
fn as_nobody(body: impl FnOnce(&Path) + Send + 'static) {
    if skip() {
        return;
    }
    if !is_root() || !Path::new("/usr/bin/fusermount3").exists() {
        println!("SKIPPED: fuse (an ordinary user's mount is tested by root, with fusermount3)");
        return;
    }
    let (_dir, point) = mount_folder();
    rustix::fs::chown(&point, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).expect("given away");
    bounded(&point.clone(), move || body(&point));
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
        let root = std::fs::read(rig.path("hello")).expect_err("not for others");
        assert_eq!(root.kind(), std::io::ErrorKind::PermissionDenied);
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
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
