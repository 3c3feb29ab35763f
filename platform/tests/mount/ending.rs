//! How mounts end: in order, busy, lazily, by force, by others, by a crash.

use std::fs;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use backlot_platform::fuse::{Held, MountError, Unmount, abort_path, unmount_path};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::rig::{Rig, bounded, eventually, mount_folder, mounts_at, skip, with_mount};

#[test]
fn in_use_it_stays_and_names_who_uses_it() {
    with_mount("", |rig| {
        let held = fs::File::open(rig.path("hello")).expect("opened");
        let said = rig.ask("unmount");
        let expected = format!(
            "process {}, has {} open",
            std::process::id(),
            rig.path("hello").display()
        );
        assert!(said.contains(&expected), "{said}");
        assert!(said.starts_with("failed cannot unmount"), "{said}");
        assert_eq!(fs::read(rig.path("hello")).expect("still there"), b"hello world\n");

        let mut sleeper = Command::new("sleep")
            .arg("60")
            .current_dir(rig.path("rw"))
            .spawn()
            .expect("started");
        let error = unmount_path(rig.point(), Unmount::Normal).expect_err("busy");
        sleeper.kill().expect("ours");
        sleeper.wait().expect("ours");
        assert!(error.is_busy());
        let folder = error
            .busy
            .iter()
            .find(|holder| holder.pid == sleeper.id())
            .expect("the other process is named");
        assert_eq!(
            (folder.command.as_str(), &folder.what),
            ("sleep", &Held::WorkingFolder(rig.path("rw")))
        );

        drop(held);
        rig.tell("unmount");
        rig.wait_ended();
        assert_eq!(mounts_at(rig.point()), 0);
        rig.tell("unmount");
    });
}

/// A file that is on its way from one process to another is in nobody's table.
#[test]
fn what_keeps_it_busy_for_a_moment_and_is_nobodys_is_waited_for() {
    with_mount("", |rig| {
        let held = fs::File::open(rig.path("hello")).expect("opened");
        let (here, there) = UnixStream::pair().expect("sockets");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [held.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(&here, &[IoSlice::new(b"!")], &mut control, SendFlags::empty()).expect("sent");
        drop(held);
        let busy = rustix::mount::unmount(rig.point(), rustix::mount::UnmountFlags::empty());
        assert_eq!(busy, Err(Errno::BUSY), "else this proves nothing");
        let arrives = thread::spawn(move || {
            thread::park_timeout(Duration::from_millis(300));
            drop((here, there));
        });
        unmount_path(rig.point(), Unmount::Normal).expect("unmounted");
        arrives.join().expect("no panic");
        rig.wait_ended();
    });
}

#[test]
fn lazily_it_vanishes_at_once_and_ends_with_its_last_user() {
    with_mount("", |rig| {
        let mut held = fs::File::open(rig.path("hello")).expect("opened");
        rig.tell("lazy");
        assert_eq!(mounts_at(rig.point()), 0);
        assert!(!rig.path("hello").exists(), "out of sight");
        let mut text = String::new();
        held.read_to_string(&mut text).expect("still served");
        assert_eq!(text, "hello world\n");
        assert!(!rig.has_ended());
        drop(held);
        rig.wait_ended();
        assert_eq!(rig.ask("handles"), "0");
    });
}

#[test]
fn somebody_elses_unmount_is_noticed() {
    with_mount("", |rig| {
        unmount_path(rig.point(), Unmount::Normal).expect("unmounted");
        rig.wait_ended();
        let error = unmount_path(rig.point(), Unmount::Normal).expect_err("nothing there");
        assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
    });
}

/// Starts a process that hangs in the mount, aborts, and returns how the process ended.
fn aborted_under(rig: &Rig, mut user: Command, abort: impl FnOnce()) -> std::process::ExitStatus {
    let mut child = user
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    eventually("the hanging read", || rig.calls("reading") > 0);
    let busy = rig.ask("unmount");
    assert!(
        busy.contains(&format!("process {}, has {}", child.id(), rig.path("stuck").display())),
        "{busy}"
    );
    abort();
    rig.wait_ended();
    eventually("its end", || child.try_wait().expect("ours").is_some());
    assert_eq!(mounts_at(rig.point()), 0, "no dead mount stays behind");
    assert_eq!(rig.ask("handles"), "0", "the drive got its handles back");
    child.wait().expect("ours")
}

#[test]
fn an_abort_from_outside_frees_a_hung_reader() {
    with_mount("", |rig| {
        let mut cat = Command::new("cat");
        cat.arg(rig.path("stuck"));
        let status = aborted_under(rig, cat, || drop(abort_path(rig.point()).expect("aborted")));
        assert_eq!(status.code(), Some(1), "cat got an error: {status:?}");
    });
}

#[test]
fn an_abort_from_inside_frees_a_hung_reader_of_a_mapping() {
    with_mount("", |rig| {
        let mut reader = Command::new(std::env::current_exe().expect("a test binary"));
        reader
            .args(["ending::map_child", "--exact", "--ignored", "--nocapture"])
            .env(MAP, rig.path("stuck"));
        let status = aborted_under(rig, reader, || rig.tell("abort"));
        assert_eq!(status.signal(), Some(7), "SIGBUS: {status:?}");
    });
}

const MAP: &str = "BACKLOT_TEST_MAP";

#[test]
#[ignore = "a process that maps a file and reads it, started by the test above"]
#[expect(unsafe_code, reason = "mapping a file")]
fn map_child() {
    let Some(path) = std::env::var_os(MAP) else { return };
    let file = fs::File::open(path).expect("opened");
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    // SAFETY: a fresh mapping of 4096 bytes at an address of the kernel's choice; reading beyond the file would be a
    // signal, which is what the test is about.
    let byte = unsafe {
        let at = mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &file, 0).expect("mapped");
        at.cast::<u8>().read_volatile()
    };
    panic!("the mapping was read: {byte}");
}

#[test]
fn a_mount_left_by_a_crash_is_cleared_by_the_next() {
    if skip() {
        return;
    }
    let (_dir, point) = mount_folder();
    bounded(&point.clone(), move || {
        let crashed = Rig::start(&point, "", None).expect("mounted");
        let held = fs::File::open(crashed.path("hello")).expect("opened");
        crashed.crash();
        assert_eq!(mounts_at(&point), 1, "the crash left its mount");
        let dead = rustix::fs::statfs(&point).map(drop);
        assert_eq!(dead, Err(Errno::NOTCONN), "and it is dead");
        let next = Rig::start(&point, "", None).expect("mounted");
        assert_eq!(mounts_at(&point), 1, "the dead one is gone");
        assert_eq!(fs::read(next.path("hello")).expect("served"), b"hello world\n");
        drop(held);
        next.tell("unmount");
    });
}

#[test]
fn a_daemon_that_does_not_answer_is_recognised_and_got_rid_of() {
    with_mount("", |rig| {
        fs::metadata(rig.path("hello")).expect("found");
        rig.stop();
        let reader = thread::spawn({
            let path = rig.path("hello");
            move || fs::read(path)
        });
        let error = crate::checks::refused(rig.point());
        assert!(
            matches!(&error, MountError::AlreadyMounted { answers: false, .. }),
            "{error}"
        );
        assert!(!reader.is_finished(), "the daemon is stuck");
        abort_path(rig.point()).expect("aborted");
        assert_eq!(mounts_at(rig.point()), 0);
        reader.join().expect("no panic").expect_err("freed by the abort");
        let error = abort_path(rig.point()).expect_err("nothing is left");
        assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn dropping_a_mount_unmounts_it() {
    with_mount("", |rig| {
        assert_eq!(mounts_at(rig.point()), 1);
        rig.say_exit();
        eventually("the end of the mount", || mounts_at(rig.point()) == 0);
    });
}
