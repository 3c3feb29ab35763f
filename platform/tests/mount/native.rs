//! Files that the kernel reads by itself, and nodes that their names have left.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::rig::{Rig, errno, eventually, with_mount};
use crate::served::LENT;

/// The variable that turns missing passthrough from a skip into a failure.
const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_PASSTHROUGH";

struct Told {
    opens: u64,
    answered: u64,
    off: String,
}

fn told(rig: &Rig) -> Told {
    let said = rig.ask("native");
    let mut words = said.splitn(3, ' ');
    let mut number = || words.next().and_then(|w| w.parse().ok()).expect("a number");
    Told {
        opens: number(),
        answered: number(),
        off: words.next().unwrap_or_default().to_owned(),
    }
}

/// Mounts, and runs `body` where the kernel reads by itself.
fn with_native(body: impl FnOnce(&Rig) + Send + 'static) {
    with_mount("", |rig| {
        let off = told(rig).off;
        if off.is_empty() {
            return body(rig);
        }
        assert!(
            std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
            "{REQUIRE}=1, and {off}"
        );
        println!("SKIPPED: passthrough ({off})");
    });
}

fn whole(letter: u8) -> Vec<u8> {
    vec![letter; LENT]
}

fn half(letter: u8) -> Vec<u8> {
    vec![letter; LENT / 2]
}

/// A mapping of a lent file.
struct Mapped(*mut std::ffi::c_void);

impl Mapped {
    #[expect(unsafe_code, reason = "mapping a file")]
    fn of(file: &File) -> Self {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), LENT, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        Self(at.expect("mapped"))
    }

    #[expect(unsafe_code, reason = "reading a mapping")]
    fn bytes(&self) -> &[u8] {
        // SAFETY: it is LENT bytes long and lives as long as we do.
        unsafe { std::slice::from_raw_parts(self.0.cast(), LENT) }
    }
}

impl Drop for Mapped {
    #[expect(unsafe_code, reason = "unmapping")]
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it.
        unsafe { munmap(self.0, LENT) }.expect("it was mapped");
    }
}

#[test]
fn what_is_lent_is_read_past_us_by_all_who_have_it_open() {
    with_native(|rig| {
        rig.tell("lend / plate A");
        let path = rig.path("plate");
        let reads = told(rig).answered;
        let one = File::open(&path).expect("opened");
        let mapped = Mapped::of(&one);
        let two = File::open(&path).expect("opened beside it");
        let mut bytes = Vec::new();
        (&two).read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, whole(b'A'));
        assert_eq!(mapped.bytes(), whole(b'A'));
        drop((one, two));
        assert_eq!(mapped.bytes(), whole(b'A'), "the mapping outlives the handles");
        assert_eq!(fs::read(&path).expect("read"), whole(b'A'));
        let now = told(rig);
        assert_eq!((now.opens, now.answered), (3, reads), "no read came to us");
        drop(mapped);
        assert_eq!(fs::read(rig.path("hello")).expect("read"), b"hello world\n");
        assert!(told(rig).answered > reads, "the counter does count");
        eventually("the handles are given back", || rig.ask("handles") == "0");
    });
}

#[test]
fn what_the_kernel_refuses_is_read_through_us() {
    with_native(|rig| {
        rig.tell("lend-misfit / plate A");
        let path = rig.path("plate");
        let held = File::open(&path).expect("opened");
        assert_eq!(fs::read(&path).expect("read"), whole(b'A'));
        drop(held);
        let now = told(rig);
        assert_eq!((now.opens, now.off.as_str()), (0, ""));
        assert!(now.answered > 0);
        rig.tell("lend / other B");
        assert_eq!(fs::read(rig.path("other")).expect("read"), whole(b'B'));
        assert_eq!(told(rig).opens, 1, "the fault was that file's");
    });
}

#[test]
fn nothing_is_lent_where_that_is_turned_off() {
    with_mount("native=false", |rig| {
        rig.tell("lend / plate A");
        assert_eq!(fs::read(rig.path("plate")).expect("read"), whole(b'A'));
        let now = told(rig);
        assert_eq!(now.opens, 0);
        assert!(now.answered > 0);
        assert!(now.off.contains("settings"), "{}", now.off);
    });
}

#[test]
fn an_aborted_mount_gives_back_what_it_lent() {
    with_native(|rig| {
        rig.tell("lend / plate A");
        let held = File::open(rig.path("plate")).expect("opened");
        let mapped = Mapped::of(&held);
        rig.tell("abort");
        rig.wait_ended();
        assert_eq!(rig.ask("handles"), "0");
        assert_eq!(mapped.bytes(), whole(b'A'), "what was mapped stays");
    });
}

/// Makes a name lead to another node while the kernel believes in the old one, and runs `body` with somebody who has the
/// old one open.
fn with_left_node(body: impl Fn(&Rig, &Path) + Send + 'static) {
    with_native(move |rig| {
        rig.tell("lend / plate A");
        let path = rig.path("plate");
        let held = File::open(&path).expect("opened");
        let mapped = Mapped::of(&held);
        let number = held.metadata().expect("known").ino();
        rig.tell("move-on / plate B");
        let reads = told(rig).answered;
        body(rig, &path);
        let mut bytes = whole(0);
        held.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes, whole(b'A'), "the old handle reads what it read");
        assert_eq!(mapped.bytes(), whole(b'A'));
        assert_eq!(held.metadata().expect("known").len(), LENT as u64);
        assert_eq!(held.metadata().expect("known").ino(), number);
        assert_eq!(
            fs::metadata(&path).expect("known").ino(),
            number,
            "to programs it is one file"
        );
        assert!(told(rig).answered - reads < 100);
    });
}

#[expect(unsafe_code, reason = "truncate(2) by a path, which std and rustix have not")]
fn truncate(path: &Path, length: i64) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let done = unsafe { libc::truncate(path.as_ptr(), length) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn an_open_by_an_old_name_finds_the_new_node_by_itself() {
    with_left_node(|_, path| assert_eq!(fs::read(path).expect("read"), half(b'B')));
    with_left_node(|_, path| {
        let file = OpenOptions::new().write(true).open(path).expect("opened for writing");
        file.write_all_at(b"CC", 0).expect("written");
        assert_eq!(fs::read(path).expect("read")[..3], *b"CCB");
    });
    with_left_node(|_, path| {
        fs::write(path, "new").expect("truncated and written");
        assert_eq!(fs::read(path).expect("read"), b"new");
    });
    with_left_node(|_, path| {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opened");
        file.write_all(b"C").expect("appended");
        drop(file);
        assert_eq!(fs::read(path).expect("read")[LENT / 2 - 1..], *b"BC");
    });
}

#[test]
fn whatever_comes_by_an_old_name_finds_the_new_node_by_itself() {
    with_left_node(|_, path| {
        truncate(path, 5);
        assert_eq!(fs::read(path).expect("read"), b"BBBBB");
    });
    with_left_node(|_, path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(fs::metadata(path).expect("known").mode() & 0o777, 0o600);
    });
    with_left_node(|_, path| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        let time = |at: SystemTime| rustix::fs::Timespec {
            tv_sec: at
                .duration_since(SystemTime::UNIX_EPOCH)
                .expect("after")
                .as_secs()
                .cast_signed(),
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: time(at),
            last_modification: time(at),
        };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).expect("set");
    });
    with_left_node(|rig, path| {
        let second = rig.path("second");
        fs::hard_link(path, &second).expect("linked");
        assert_eq!(fs::read(&second).expect("read"), half(b'B'));
    });
    with_left_node(|_, path| {
        rustix::fs::setxattr(path, "user.note", b"x", XattrFlags::empty()).expect("set");
    });
    with_left_node(|rig, path| {
        fs::rename(path, rig.path("renamed")).expect("renamed");
        assert_eq!(fs::read(rig.path("renamed")).expect("read"), half(b'B'));
        fs::rename(rig.path("renamed"), path).expect("renamed back");
    });
}

#[test]
fn a_name_that_is_told_of_leads_on_without_a_retry() {
    with_left_node(|rig, path| {
        rig.tell("entry / plate");
        eventually("the new length", || {
            fs::metadata(path).expect("known").len() == LENT as u64 / 2
        });
    });
}

#[test]
fn a_left_node_is_not_opened_again_by_its_handle() {
    with_native(|rig| {
        rig.tell("lend / plate A");
        let held = File::open(rig.path("plate")).expect("opened");
        rig.tell("move-on / plate B");
        let by_handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        let stale = rustix::io::Errno::STALE.raw_os_error();
        assert_eq!(errno(File::open(by_handle)), stale, "there is no name to look up again");
    });
}
