//! The disk that keeps what is written here runs full, at every step: the write that does not fit says so, nothing that was
//! acknowledged is lost, and all goes on once there is room.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::common::content::{self, Id, Seen, close};
use crate::common::drive::{Builder, Drive, drive_test, is_root, say, succeeds};
use crate::common::queue;
use crate::common::tree;
use crate::rig::{DRAIN, holds, names, propagating, same_on_all_sides, seen};

const MIB: usize = 1 << 20;

/// A small disk that a drive keeps its data on.
struct Rig {
    drive: Option<Drive>,
    site: tempfile::TempDir,
    disk: PathBuf,
    _above: tempfile::TempDir,
}

impl Rig {
    fn start(size: &str, min_free: &str, settle: &str) -> Option<Self> {
        if !is_root() {
            say("SKIPPED: small disk (not root)");
            return None;
        }
        let above = tempfile::tempdir().unwrap();
        let disk = above.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let options = format!("size={size},mode=755");
        succeeds(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(&disk),
        );
        let site = tempfile::tempdir().unwrap();
        let mut rig = Self {
            drive: None,
            site,
            disk,
            _above: above,
        };
        let data = rig.disk.join("data");
        fs::create_dir(&data).unwrap();
        let drive = rig
            .builder()
            .set("drive.data-dir", data.to_str().unwrap())
            .set("publish.min-free", min_free)
            .set("publish.settle", settle)
            .build()
            .mounted();
        for folder in ["publish", "work"] {
            fs::create_dir_all(drive.path(folder)).unwrap();
        }
        rig.drive = Some(drive);
        Some(rig)
    }

    fn builder(&self) -> Builder {
        propagating(Builder::local(self.site.path()))
    }

    fn drive(&self) -> &Drive {
        self.drive.as_ref().unwrap()
    }

    fn drive_mut(&mut self) -> &mut Drive {
        self.drive.as_mut().unwrap()
    }

    /// Takes all room that is left on the disk, to the last byte.
    fn fill(&self) {
        let mut file = File::create(self.disk.join("filler")).unwrap();
        for step in [1 << 20, 4096] {
            while file.write_all(&vec![1; step]).is_ok() {}
        }
        let room = rustix::fs::statvfs(&self.disk).unwrap();
        assert_eq!(room.f_bavail, 0, "the disk is full");
    }

    fn empty(&self) {
        fs::remove_file(self.disk.join("filler")).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drive = None;
        drop(Command::new("umount").arg("-l").arg(&self.disk).status());
    }
}

fn is_full<T>(result: &std::io::Result<T>) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(Errno::NOSPC.raw_os_error()))
}

/// Writes pieces until one is refused; returns how many were taken.
fn write_until_full(file: &mut File, piece: &[u8], most: usize) -> usize {
    for n in 0..most {
        let written = file.write_all(piece);
        if written.is_err() {
            assert!(is_full(&written), "{written:?}");
            return n;
        }
    }
    panic!("it took all of it");
}

#[test]
fn a_write_that_does_not_fit_says_so_and_what_was_taken_arrives() {
    drive_test(|| {
        let Some(rig) = Rig::start("48m", "8MiB", "0ms") else {
            return;
        };
        let drive = rig.drive();
        fs::write(
            drive.path("publish/before"),
            content::whole(Id { file: 1, version: 1 }, 100_000),
        )
        .unwrap();
        let mut file = File::create(drive.path("publish/large")).unwrap();
        let piece = tree::bytes(1, 0, MIB);
        let taken = write_until_full(&mut file, &piece, 60);
        assert!(taken >= 16, "only {taken} MiB were taken");
        let room = rustix::fs::statvfs(&rig.disk).unwrap();
        assert!(room.f_bavail * room.f_frsize >= 4 << 20, "the reserve is left");
        // Acknowledged bytes are there, and closing them is no news.
        file.sync_all().unwrap();
        file.set_len((taken * MIB) as u64).unwrap();
        close(file).unwrap();
        queue::drained(drive, DRAIN);
        let there = fs::read(rig.site.path().join("publish/large")).unwrap();
        assert!(there.len() == taken * MIB && there.chunks(MIB).all(|chunk| chunk == piece));
        // Once it is up its room is free again, and writing goes on.
        let again = content::whole(Id { file: 1, version: 2 }, 8 << 20);
        fs::write(drive.path("publish/more"), &again).unwrap();
        queue::drained(drive, DRAIN);
        assert!(fs::read(rig.site.path().join("publish/more")).unwrap() == again);
        holds(drive);
    });
}

#[test]
fn preallocating_and_copying_up_more_than_fits_say_so_at_once() {
    drive_test(|| {
        let Some(rig) = Rig::start("40m", "4MiB", "0ms") else {
            return;
        };
        let drive = rig.drive();
        let file = File::create(drive.path("work/pre")).unwrap();
        let asked = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100 << 20);
        assert_eq!(asked, Err(Errno::NOSPC));
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4 << 20).unwrap();
        drop(file);
        tree::write(&rig.site.path().join("publish/plate"), 3, 60 << 20);
        drive.scan();
        let open = OpenOptions::new()
            .write(true)
            .open(drive.path("publish/plate"))
            .unwrap();
        assert!(is_full(&open.write_at(b"x", 7)), "copying it up does not fit");
        drop(open);
        let read = fs::read(drive.path("publish/plate")).unwrap();
        assert!(
            read.len() == 60 << 20 && tree::first_wrong(3, 0, &read).is_none(),
            "it is as it was"
        );
        // Cutting it short, or replacing it, needs no copy.
        fs::write(
            drive.path("publish/plate"),
            content::whole(Id { file: 1, version: 1 }, 1000),
        )
        .unwrap();
        same_on_all_sides(drive, rig.site.path(), rig.builder());
    });
}

#[test]
fn with_no_byte_left_at_all_nothing_that_was_saved_is_lost_and_all_goes_on_with_room() {
    drive_test(|| {
        let Some(mut rig) = Rig::start("32m", "1MiB", "300ms") else {
            return;
        };
        let id = |version| Id { file: 1, version };
        let drive = rig.drive();
        for n in 0..20 {
            fs::write(drive.path(format!("publish/f{n}")), content::whole(id(n), 20_000)).unwrap();
        }
        fs::write(drive.path("work/w"), content::whole(id(50), 20_000)).unwrap();
        let mut open = File::create(drive.path("publish/open")).unwrap();
        let begun = content::whole(id(99), 200_000);
        open.write_all(&begun[..100_000]).unwrap();
        rig.fill();
        let mut refused = 0;
        // Each of these may work or be refused for want of room; none may do half of it.
        let mut tried = |what: &str, result: std::io::Result<()>| {
            if let Err(e) = &result {
                assert!(is_full(&result), "{what}: {e}");
                refused += 1;
            }
            result.is_ok()
        };
        let wrote = tried("write", open.write_all(&begun[100_000..]));
        let mut made = Vec::new();
        for n in 100..140 {
            let path = drive.path(format!("publish/n{n}"));
            if tried("save", fs::write(&path, content::whole(id(n), 100_000))) {
                made.push(n);
            }
        }
        let renamed = tried("rename", fs::rename(drive.path("work/w"), drive.path("publish/w")));
        let replaced = tried(
            "rename over",
            fs::rename(drive.path("publish/f0"), drive.path("publish/f1")),
        );
        let removed = tried("unlink", fs::remove_file(drive.path("publish/f2")));
        tried("mkdir", fs::create_dir(drive.path("publish/dir")));
        let synced = tried("fsync", open.sync_all());
        assert!(refused > 0, "the disk was full");
        say(&format!(
            "space: {refused} refused; write {wrote}, rename {renamed}, rename over {replaced}, unlink {removed}, fsync \
             {synced}, {} new files",
            made.len()
        ));
        // A while of that, with uploads trying.
        std::thread::park_timeout(std::time::Duration::from_millis(900));
        let check = |drive: &Drive| {
            for n in 3..20 {
                let path = drive.path(format!("publish/f{n}"));
                assert_eq!(seen(&path), Some(Seen::Whole(id(n))), "{n}");
            }
            let f1 = if replaced { 0 } else { 1 };
            assert_eq!(seen(&drive.path("publish/f1")), Some(Seen::Whole(id(f1))));
            assert_eq!(seen(&drive.path("publish/f0")).is_none(), replaced);
            assert_eq!(seen(&drive.path("publish/f2")).is_none(), removed);
            let w = if renamed { "publish/w" } else { "work/w" };
            assert_eq!(seen(&drive.path(w)), Some(Seen::Whole(id(50))));
            for n in &made {
                assert_eq!(seen(&drive.path(format!("publish/n{n}"))), Some(Seen::Whole(id(*n))));
            }
        };
        check(drive);
        rig.empty();
        if !wrote {
            open.write_all_at(&begun[100_000..], 100_000).unwrap();
        }
        open.sync_all().unwrap();
        close(open).unwrap();
        // Those that were refused are half there or not at all; they are written now.
        let drive = rig.drive();
        for n in (100..140).filter(|n| !made.contains(n)) {
            fs::write(drive.path(format!("publish/n{n}")), content::whole(id(n), 1000)).unwrap();
        }
        queue::drained(drive, DRAIN);
        check(drive);
        assert_eq!(seen(&rig.site.path().join("publish/open")), Some(Seen::Whole(id(99))));
        same_on_all_sides(drive, rig.site.path(), rig.builder());
        // Killed on a full disk, it starts again once there is room.
        fs::write(drive.path("publish/last"), content::whole(id(200), 1000)).unwrap();
        rig.fill();
        let drive = rig.drive_mut();
        drive.kill9();
        if drive.try_mount().is_err() {
            rig.empty();
            rig.drive_mut().mount();
        } else {
            rig.empty();
        }
        queue::drained(rig.drive(), DRAIN);
        assert_eq!(seen(&rig.site.path().join("publish/last")), Some(Seen::Whole(id(200))));
    });
}

#[test]
fn a_full_cache_disk_keeps_nothing_from_being_saved_and_published() {
    drive_test(|| {
        if !is_root() {
            return say("SKIPPED: small disk (not root)");
        }
        let above = tempfile::tempdir().unwrap();
        let site = tempfile::tempdir().unwrap();
        succeeds(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
                .arg(above.path()),
        );
        let umount = Umount(above.path().to_owned());
        let cache = above.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let builder = || propagating(Builder::local(site.path()));
        let drive = builder()
            .set("drive.cache-dir", cache.to_str().unwrap())
            .set("cache.min-free", "1MiB")
            .build()
            .mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        let mut filler = File::create(above.path().join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        for n in 0..4 {
            let bytes = content::whole(Id { file: n, version: 1 }, 3 << 20);
            fs::write(drive.path(format!("publish/{n}")), bytes).unwrap();
        }
        queue::drained(&drive, DRAIN);
        assert_eq!(names(site.path()).len(), 4);
        same_on_all_sides(&drive, site.path(), builder());
        drop(drive);
        drop(umount);
    });
}

struct Umount(PathBuf);

impl Drop for Umount {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        drop(Command::new("umount").arg("-l").arg(path).status());
    }
}
