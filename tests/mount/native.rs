//! `docs/semantics.md`: *reads past the daemon*. Versions are made of one letter each, so that a mixture shows in any read;
//! the counters of `status` say who answered.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::common::drive::{Builder, Drive, PASSTHROUGH, REQUIRE_PASSTHROUGH, drive_test, eventually, say};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const LEN: usize = 4 * MIB;

/// Opens that the kernel answers, and reads that the daemon did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counters {
    pub(crate) opens: u64,
    pub(crate) reads: u64,
}

pub(crate) fn counters(drive: &Drive) -> Counters {
    let native = &drive.status_now()["native_reads"];
    let count = |name: &str| native[name].as_u64().unwrap_or_else(|| panic!("no {name} in {native}"));
    Counters {
        opens: count("opens"),
        reads: count("daemon_reads"),
    }
}

/// Says whether the kernel reads by itself; where it does not, says why not, or fails where it was promised.
pub(crate) fn is_native(drive: &Drive) -> bool {
    let native = &drive.status_now()["native_reads"];
    if native["state"] == "on" {
        return true;
    }
    if std::env::var_os(PASSTHROUGH).is_none() {
        assert!(
            std::env::var_os(REQUIRE_PASSTHROUGH).is_none_or(|v| v != "1"),
            "{native}"
        );
    }
    say(&format!("SKIPPED: passthrough ({})", native["reason"]));
    false
}

/// Writes a version and renames it over the last one.
pub(crate) fn put(path: &Path, letter: u8, len: usize) {
    let temp = path.with_extension("saving");
    fs::write(&temp, vec![letter; len]).unwrap();
    fs::rename(temp, path).unwrap();
}

pub(crate) fn all_are(bytes: &[u8], letter: u8) -> bool {
    bytes.iter().all(|b| *b == letter)
}

pub(crate) fn letter(bytes: &[u8]) -> Option<u8> {
    let first = *bytes.first()?;
    all_are(bytes, first).then_some(first)
}

/// A mapping of all of a file.
pub(crate) struct Mapped(*mut std::ffi::c_void, usize);

// SAFETY: it is memory that nobody writes to.
#[expect(unsafe_code, reason = "a mapping goes with its thread")]
unsafe impl Send for Mapped {}

impl Mapped {
    #[expect(unsafe_code, reason = "mapping a file")]
    pub(crate) fn of(file: &File) -> Self {
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        Self(at.unwrap(), len)
    }

    #[expect(unsafe_code, reason = "reading a mapping")]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: it is that long and lives as long as we do; what it maps is not changed in place.
        unsafe { std::slice::from_raw_parts(self.0.cast(), self.1) }
    }
}

impl Drop for Mapped {
    #[expect(unsafe_code, reason = "unmapping")]
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it.
        unsafe { munmap(self.0, self.1) }.unwrap();
    }
}

fn open_handles(drive: &Drive) -> u64 {
    drive.status_now()["hydration"]["open_handles"].as_u64().unwrap()
}

/// Waits until the daemon has heard of every close.
pub(crate) fn all_closed(drive: &Drive) {
    eventually("all handles are given back", || open_handles(drive) == 0);
}

/// Makes a file resident, and closes it.
pub(crate) fn bring(drive: &Drive, name: &str) {
    let handles = open_handles(drive);
    fs::read(drive.path(name)).unwrap();
    eventually("the handle is given back", || open_handles(drive) == handles);
}

/// Opens a file until the kernel reads it by itself.
fn opened_natively(drive: &Drive, path: &Path) -> File {
    let mut file = None;
    let handles = open_handles(drive);
    eventually("the kernel reads it by itself", || {
        let before = counters(drive).opens;
        let opened = File::open(path).unwrap();
        if counters(drive).opens > before {
            file = Some(opened);
            return true;
        }
        drop(opened);
        eventually("the handle is given back", || open_handles(drive) == handles);
        false
    });
    file.unwrap()
}

/// Somebody who has a file open and mapped.
pub(crate) struct Holder {
    pub(crate) file: File,
    pub(crate) mapped: Mapped,
    letter: u8,
}

impl Holder {
    pub(crate) fn of(drive: &Drive, name: &str, letter: u8) -> Self {
        let file = opened_natively(drive, &drive.path(name));
        let mapped = Mapped::of(&file);
        Self { file, mapped, letter }
    }

    /// All is as it was when it was opened.
    pub(crate) fn check(&self) {
        let mut bytes = vec![0; self.mapped.1];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(all_are(&bytes, self.letter), "by read");
        assert_eq!(
            self.file.read_at(&mut bytes, self.mapped.1 as u64).unwrap(),
            0,
            "its end"
        );
        assert!(all_are(self.mapped.bytes(), self.letter), "by mapping");
        assert_eq!(self.file.metadata().unwrap().len(), self.mapped.1 as u64);
    }
}

/// A drive with `plate`, resident, at a site folder; `None` where the kernel does not read by itself.
pub(crate) fn with_plate(build: impl FnOnce(Builder) -> Builder) -> Option<(tempfile::TempDir, Drive)> {
    let site = tempfile::tempdir().unwrap();
    put(&site.path().join("plate"), b'A', LEN);
    let drive = build(Builder::local(site.path()).set("publish.settle", "100ms"))
        .build()
        .mounted();
    if !is_native(&drive) {
        return None;
    }
    bring(&drive, "plate");
    Some((site, drive))
}

#[test]
fn resident_files_are_read_without_the_daemon() {
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b) else { return };
        put(&site.path().join("small"), b'S', 100 << 10);
        drive.scan();
        let before = counters(&drive);
        let holder = Holder::of(&drive, "plate", b'A');
        holder.check();
        assert!(all_are(&fs::read(drive.path("plate")).unwrap(), b'A'));
        drop(holder);
        all_closed(&drive);
        assert!(all_are(&fs::read(drive.path("plate")).unwrap(), b'A'));
        let now = counters(&drive);
        assert_eq!((now.opens - before.opens, now.reads - before.reads), (3, 0));
        for _ in 0..3 {
            bring(&drive, "small");
        }
        assert_eq!(
            counters(&drive).opens,
            now.opens,
            "small files are left to the page cache"
        );
        assert!(counters(&drive).reads > now.reads);
        let told = drive.tell(["doctor"]);
        assert!(told.contains("passthrough"), "{told}");
    });
}

#[test]
fn it_can_be_turned_off() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        put(&site.path().join("plate"), b'A', LEN);
        let drive = Builder::local(site.path())
            .set("fuse.passthrough", "off")
            .build()
            .mounted();
        for _ in 0..3 {
            bring(&drive, "plate");
        }
        assert_eq!(counters(&drive).opens, 0);
        let native = drive.status()["native_reads"].clone();
        assert_eq!(native["state"], "off");
        assert!(native["reason"].as_str().unwrap().contains("settings"), "{native}");
    });
}

#[test]
fn what_is_not_whole_is_not_given_out() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        put(&site.path().join("plate"), b'A', 40 * MIB);
        let drive = Builder::local(site.path()).build().mounted();
        if !is_native(&drive) {
            return;
        }
        let opens = counters(&drive).opens;
        for at in [0, 20 * MIB as u64] {
            let file = File::open(drive.path("plate")).unwrap();
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert!(all_are(&bytes, b'A'));
            assert!(at == 0 || all_are(Mapped::of(&file).bytes(), b'A'));
            assert_eq!(counters(&drive).opens, opens, "it stays as it was opened");
            drop(file);
            all_closed(&drive);
            if at == 0 {
                continue;
            }
            drop(opened_natively(&drive, &drive.path("plate")));
        }
    });
}

#[test]
fn one_who_asks_for_no_caching_reads_beside_the_others() {
    drive_test(|| {
        let Some((_site, drive)) = with_plate(|b| b) else {
            return;
        };
        let holder = Holder::of(&drive, "plate", b'A');
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(direct)
            .open(drive.path("plate"))
            .unwrap();
        let mut bytes = vec![0; 777];
        file.read_exact(&mut bytes).unwrap();
        assert!(all_are(&bytes, b'A'), "into any memory, at any length");
        holder.check();
    });
}

#[expect(unsafe_code, reason = "truncate(2) by a path, which std and rustix have not")]
pub(crate) fn truncate(path: &Path, length: i64) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let done = unsafe { libc::truncate(path.as_ptr(), length) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Changes a file that somebody reads natively: nobody gets an error, the reader keeps what it read, all others get `new`.
fn changed(name: &str, change: impl Fn(&Path, &Drive), new: (usize, u8)) {
    let Some((site, drive)) = with_plate(|b| b) else { return };
    let path = drive.path("plate");
    let second = drive.path("second");
    fs::hard_link(&path, &second).unwrap();
    let holder = Holder::of(&drive, "plate", b'A');
    let number = holder.file.metadata().unwrap().ino();
    let began = Instant::now();
    change(&path, &drive);
    holder.check();
    for path in [&path, &second] {
        let bytes = fs::read(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            (bytes.len(), letter(&bytes)),
            (new.0, Some(new.1)),
            "{name}, {}",
            path.display()
        );
        eventually("the new attributes", || {
            let now = fs::metadata(path).unwrap();
            (now.len(), now.ino()) == (new.0 as u64, number)
        });
        let opened = File::open(path).unwrap();
        let now = opened.metadata().unwrap();
        assert_eq!((now.len(), now.ino()), (new.0 as u64, number), "{name}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{name}: nobody waits");
    holder.check();
    drop(holder);
    all_closed(&drive);
    let bytes = fs::read(&path).unwrap();
    assert_eq!((bytes.len(), letter(&bytes)), (new.0, Some(new.1)), "{name}, after all");
    drop((drive, site));
}

#[test]
fn a_write_beside_a_native_reader_is_seen_by_all_who_open_the_file_anew() {
    let over = |path: &Path| OpenOptions::new().write(true).open(path).unwrap();
    drive_test(move || {
        changed(
            "write",
            |path, _| over(path).write_all(&vec![b'B'; LEN]).unwrap(),
            (LEN, b'B'),
        );
    });
    drive_test(move || {
        changed(
            "read and write",
            |path, _| {
                let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
                let mut bytes = vec![0; LEN];
                file.read_exact(&mut bytes).unwrap();
                assert!(all_are(&bytes, b'A'));
                file.write_all_at(&vec![b'B'; LEN], 0).unwrap();
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert!(all_are(&bytes, b'B'));
            },
            (LEN, b'B'),
        );
    });
}

#[test]
fn a_truncation_beside_a_native_reader_cuts_the_file_and_not_what_is_read() {
    drive_test(|| {
        changed(
            "O_TRUNC",
            |path, _| fs::write(path, vec![b'B'; 5 * MIB]).unwrap(),
            (5 * MIB, b'B'),
        )
    });
    drive_test(|| changed("truncate", |path, _| truncate(path, 70_000), (70_000, b'A')));
    drive_test(|| {
        changed(
            "O_RDONLY with O_TRUNC",
            |path, _| {
                let flags = rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::RDONLY;
                let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
                assert_eq!(File::from(file).metadata().unwrap().len(), 0);
                fs::write(path, "BBB").unwrap();
            },
            (3, b'B'),
        );
    });
    drive_test(|| {
        changed(
            "fallocate",
            |path, _| {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, LEN as u64).unwrap();
                rustix::fs::ftruncate(&file, 3 * MIB as u64).unwrap();
            },
            (3 * MIB, b'A'),
        );
    });
}

#[test]
fn attributes_beside_a_native_reader_change_for_all() {
    drive_test(|| {
        let Some((_site, drive)) = with_plate(|b| b) else {
            return;
        };
        let path = drive.path("plate");
        let holder = Holder::of(&drive, "plate", b'A');
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(holder.file.metadata().unwrap().mode() & 0o777, 0o640);
        rustix::fs::setxattr(&path, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
        let before = counters(&drive);
        assert!(all_are(&fs::read(&path).unwrap(), b'A'));
        assert_eq!(counters(&drive).opens, before.opens + 1, "its bytes did not change");
        // Now it is left behind by a write.
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"A")
            .unwrap();
        holder.file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(holder.file.metadata().unwrap().mode() & 0o777, 0o600);
        eventually("the mode by the name", || {
            fs::metadata(&path).unwrap().mode() & 0o777 == 0o600
        });
        assert_eq!(fs::metadata(&path).unwrap().len(), LEN as u64 + 1);
        holder.check();
        fs::hard_link(&path, drive.path("second")).unwrap();
        assert_eq!(fs::read(drive.path("second")).unwrap().len(), LEN + 1);
    });
}

#[test]
fn names_beside_a_native_reader_come_and_go() {
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b) else { return };
        let path = drive.path("plate");
        let holder = Holder::of(&drive, "plate", b'A');
        fs::rename(&path, drive.path("moved")).unwrap();
        let before = counters(&drive);
        assert!(all_are(&fs::read(drive.path("moved")).unwrap(), b'A'));
        assert_eq!(
            counters(&drive),
            Counters {
                opens: before.opens + 1,
                ..before
            }
        );
        fs::write(drive.path("new"), vec![b'N'; LEN]).unwrap();
        fs::rename(drive.path("new"), drive.path("moved")).unwrap();
        assert!(all_are(&fs::read(drive.path("moved")).unwrap(), b'N'));
        holder.check();
        fs::remove_file(drive.path("moved")).unwrap();
        holder.check();
        assert!(!drive.path("moved").exists());
        drop(holder);
        all_closed(&drive);
        drop((drive, site));
    });
}

#[test]
fn a_version_from_the_site_leaves_native_readers_what_they_read() {
    drive_test(|| {
        for len in [LEN, LEN - MIB, LEN + MIB] {
            let Some((site, drive)) = with_plate(|b| b) else { return };
            let path = drive.path("plate");
            let holder = Holder::of(&drive, "plate", b'A');
            put(&site.path().join("plate"), b'B', len);
            drive.scan();
            holder.check();
            let bytes = fs::read(&path).unwrap();
            assert_eq!((bytes.len(), letter(&bytes)), (len, Some(b'B')), "opened anew");
            assert_eq!(fs::metadata(&path).unwrap().len(), len as u64);
            holder.check();
            let later = Holder::of(&drive, "plate", b'B');
            holder.check();
            later.check();
            put(&site.path().join("other"), b'O', 1);
            fs::remove_file(site.path().join("plate")).unwrap();
            drive.scan();
            eventually("it is gone", || !path.exists());
            holder.check();
            later.check();
            drop((holder, later));
            all_closed(&drive);
        }
    });
}

#[test]
fn what_is_published_is_read_natively_again() {
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b.zones(&[("**", "publish")])) else {
            return;
        };
        let path = drive.path("plate");
        let holder = Holder::of(&drive, "plate", b'A');
        fs::write(&path, vec![b'B'; LEN]).unwrap();
        eventually("it is at the site", || {
            fs::read(site.path().join("plate")).is_ok_and(|bytes| bytes.len() == LEN && all_are(&bytes, b'B'))
        });
        holder.check();
        let later = Holder::of(&drive, "plate", b'B');
        later.check();
        holder.check();
    });
}

#[test]
fn a_publish_that_looks_the_same_to_the_site_is_not_taken_for_what_was_there() {
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b.zones(&[("**", "publish")])) else {
            return;
        };
        let path = drive.path("plate");
        let holder = Holder::of(&drive, "plate", b'A');
        let version = || attribute(&path, "user.backlot.version");
        let (before, modified) = (version(), fs::metadata(&path).unwrap().modified().unwrap());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![b'B'; LEN], 0).unwrap();
        file.set_modified(modified).unwrap();
        drop(file);
        eventually("it is at the site", || {
            fs::read(site.path().join("plate")).is_ok_and(|bytes| bytes.len() == LEN && all_are(&bytes, b'B'))
        });
        eventually("it is a mirror again", || {
            attribute(&path, "user.backlot.state") == "cached"
        });
        assert_eq!(version(), before, "to the site it is the same");
        holder.check();
        assert!(all_are(&fs::read(&path).unwrap(), b'B'));
        let later = Holder::of(&drive, "plate", b'B');
        later.check();
        holder.check();
    });
}

fn attribute(path: &Path, name: &str) -> String {
    let mut value = vec![0; 256];
    let len = rustix::fs::getxattr(path, name, &mut value).unwrap();
    value.truncate(len);
    String::from_utf8(value).unwrap()
}

#[test]
fn what_is_read_natively_survives_eviction() {
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b.set("cache.max-size", "16MiB")) else {
            return;
        };
        for n in 0..8 {
            put(&site.path().join(format!("other-{n}")), b'0' + n, LEN);
        }
        drive.scan();
        let holder = Holder::of(&drive, "plate", b'A');
        let pressure = || {
            for n in 0..8 {
                assert!(all_are(&fs::read(drive.path(format!("other-{n}"))).unwrap(), b'0' + n));
            }
        };
        pressure();
        holder.check();
        assert!(
            drive.status()["cache"]["evicted_bytes"].as_u64() > Some(0),
            "there was pressure"
        );
        // A mapping outlives its handle; the content may go then, and the mapping stays whole.
        let Holder { file, mapped, .. } = holder;
        drop(file);
        pressure();
        assert!(all_are(mapped.bytes(), b'A'));
        fs::remove_dir_all(drive.cache_dir()).ok();
        assert!(all_are(mapped.bytes(), b'A'));
        assert!(all_are(&fs::read(drive.path("plate")).unwrap(), b'A'));
    });
}

/// The one data file of that length below a cache folder.
fn data_file(cache: &Path, len: u64) -> PathBuf {
    let shards = fs::read_dir(cache.join("objects")).unwrap();
    let files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    paths
        .into_iter()
        .find(|p| fs::metadata(p).unwrap().len() == len)
        .unwrap()
}

#[test]
fn what_an_earlier_run_left_is_checked_before_it_is_given_out() {
    drive_test(|| {
        let Some((_site, mut drive)) = with_plate(|b| b) else {
            return;
        };
        drive.unmount();
        let file = data_file(drive.cache_dir(), LEN as u64);
        OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap()
            .write_all_at(b"rot", 3 * MIB as u64)
            .unwrap();
        drive.mount();
        let before = counters(&drive);
        let probing = File::open(drive.path("plate")).unwrap();
        let mut head = [0; 4096];
        probing.read_exact_at(&mut head, 0).unwrap();
        assert_eq!(counters(&drive).opens, before.opens, "nothing is checked yet");
        eventually("the check finds it", || {
            drive.status_now()["cache"]["bad_granules"] == 1
        });
        let bytes = fs::read(drive.path("plate")).unwrap();
        assert!(all_are(&bytes, b'A'), "it is fetched again");
        drop(probing);
        all_closed(&drive);
        Holder::of(&drive, "plate", b'A').check();
        // Left whole, it is given out after the check alone: nobody reads it.
        drive.unmount();
        drive.mount();
        let (fetched, reads) = (drive.fetched(), counters(&drive).reads);
        Holder::of(&drive, "plate", b'A').check();
        assert_eq!(counters(&drive).reads, reads);
        assert_eq!(drive.fetched(), fetched);
    });
}

#[test]
fn a_daemon_that_dies_takes_nothing_from_native_readers() {
    drive_test(|| {
        let Some((_site, mut drive)) = with_plate(|b| b) else {
            return;
        };
        let holder = Holder::of(&drive, "plate", b'A');
        drive.kill9();
        assert!(all_are(holder.mapped.bytes(), b'A'));
        let error = File::open(drive.path("plate")).expect_err("the daemon is gone");
        assert_eq!(error.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
        drive.mount();
        assert!(all_are(&fs::read(drive.path("plate")).unwrap(), b'A'));
        assert!(all_are(holder.mapped.bytes(), b'A'));
    });
}

#[test]
fn a_program_that_runs_natively_is_not_cut() {
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b) else { return };
        let bash = fs::read("/bin/bash").unwrap();
        assert!(bash.len() > 128 << 10, "large enough to be read natively");
        fs::write(site.path().join("program"), &bash).unwrap();
        fs::set_permissions(site.path().join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        drive.scan();
        bring(&drive, "program");
        let before = counters(&drive);
        let path = drive.path("program");
        let mut running = Command::new(&path)
            .args(["-c", "read line; echo done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(counters(&drive).opens > before.opens);
        let flags = rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::RDONLY;
        for refused in [
            OpenOptions::new().write(true).open(&path).map(drop),
            rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
                .map(drop)
                .map_err(Into::into),
        ] {
            let error = refused.expect_err("it runs");
            assert_eq!(error.raw_os_error(), Some(Errno::TXTBSY.raw_os_error()), "{error}");
        }
        running.stdin.take().unwrap().write_all(b"\n").unwrap();
        let out = running.wait_with_output().unwrap();
        assert!(out.status.success() && out.stdout == b"done\n", "{out:?}");
        assert_eq!(fs::read(&path).unwrap(), bash);
    });
}
