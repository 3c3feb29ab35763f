//! Disks that fail under a drive: the cache's gives read errors, or is pulled out; the one of the database is full. And a
//! thousand programs that open files in the same moment. (A cache's disk that is full or turns read-only: `tests/mount`; saving
//! with a full disk: `tests/writing`.)

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::drive::{Builder, Drive, drive_test, eventually, find_program, is_root, mounts_at, say, succeeds};
use crate::common::tree;
use crate::rot::data_files;

const MIB: u64 = 1 << 20;

/// A file system mounted by a test, on a loop device or in memory; gone when it is dropped.
struct Disk {
    at: PathBuf,
    device: Option<String>,
}

impl Disk {
    fn in_memory(at: &Path, bytes: u64) -> Self {
        let options = std::ffi::CString::new(format!("size={bytes},mode=755")).unwrap();
        mount("none", at, "tmpfs", MountFlags::NODEV, Some(options.as_c_str())).unwrap();
        Self {
            at: at.to_owned(),
            device: None,
        }
    }

    /// Makes an ext4 in a file and mounts it.
    fn in_file(image: &Path, at: &Path, bytes: u64) -> Option<Self> {
        File::create(image).unwrap().set_len(bytes).unwrap();
        succeeds(
            Command::new("mkfs.ext4")
                .args(["-q", "-E", "lazy_itable_init=0", "-O", "^has_journal"])
                .arg(image),
        );
        let out = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(image)
            .output()
            .unwrap();
        if !out.status.success() {
            say(&format!(
                "SKIPPED: loop devices ({})",
                String::from_utf8_lossy(&out.stderr).trim()
            ));
            return None;
        }
        let device = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        let disk = Self {
            at: at.to_owned(),
            device: Some(device),
        };
        disk.attach();
        Some(disk)
    }

    fn attach(&self) {
        succeeds(Command::new("mount").arg(self.device.as_ref().unwrap()).arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
        if let Some(device) = &self.device {
            drop(Command::new("losetup").arg("-d").arg(device).status());
        }
    }
}

fn is_missing(programs: &[&str]) -> bool {
    if !is_root() {
        say("SKIPPED: root (mounting a disk below a drive)");
        return true;
    }
    let missing = programs.iter().find(|name| find_program(name).is_none());
    if let Some(name) = missing {
        say(&format!("SKIPPED: {name} (not installed)"));
    }
    missing.is_some()
}

fn site(files: &[(&str, u64)]) -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    for (seed, (name, len)) in files.iter().enumerate() {
        tree::write(&site.path().join(name), seed as u64, *len);
    }
    site
}

#[track_caller]
fn right(drive: &Drive, name: &str, seed: u64) {
    let read = fs::read(drive.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(tree::first_wrong(seed, 0, &read), None, "{name}");
    assert_eq!(read.len() as u64, fs::metadata(drive.path(name)).unwrap().len());
}

fn is_errno<T>(result: &std::io::Result<T>, errno: Errno) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(errno.raw_os_error()))
}

#[test]
fn read_errors_of_the_caches_disk_cost_a_fetch_and_no_reader_an_error() {
    drive_test(|| {
        if is_missing(&["mkfs.ext4", "losetup"]) {
            return;
        }
        let site = site(&[("a.mov", 12 * MIB), ("b.mov", 9 * MIB)]);
        let above = tempfile::tempdir().unwrap();
        let mut drive = Builder::local(site.path())
            .set("cache.min-free", "1MiB")
            .build()
            .mounted();
        drive.unmount();
        // The index stays on a good disk: what fails are the bytes.
        let (image, objects) = (above.path().join("image"), drive.cache_dir().join("objects"));
        let Some(disk) = Disk::in_file(&image, &objects, 96 * MIB) else {
            return;
        };
        drive.mount();
        drive.tell(["hydrate", "show"]);
        drive.unmount();
        assert_eq!(data_files(drive.cache_dir()).len(), 2);
        // Nothing of the files is in memory, but where they are is.
        unmount(&objects, UnmountFlags::empty()).unwrap();
        disk.attach();
        assert_eq!(data_files(&objects).len(), 2);
        for file in data_files(&objects) {
            fs::metadata(file).unwrap();
        }
        File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(8 * MIB)
            .unwrap();
        let failed = data_files(&objects)
            .iter()
            .filter(|file| is_errno(&fs::read(file), Errno::IO))
            .count();
        assert!(failed > 0, "the fault fired");

        drive.mount();
        right(&drive, "a.mov", 0);
        right(&drive, "b.mov", 1);
        let bad = drive.status()["cache"]["bad_granules"].as_u64().unwrap();
        say(&format!(
            "disks: {failed} of 2 files could not be read, {bad} granules were fetched again"
        ));
        assert!(bad > 0, "they were found");
        right(&drive, "a.mov", 0);
        right(&drive, "b.mov", 1);
        drive.unmount();
        drop(disk);
    });
}

#[test]
fn a_caches_disk_that_is_pulled_out_costs_speed_and_no_byte() {
    drive_test(|| {
        if is_missing(&[]) {
            return;
        }
        let site = site(&[
            ("a.mov", 6 * MIB),
            ("b.mov", 5 * MIB),
            ("c.exr", 300_000),
            ("keep/d.mov", 4 * MIB),
        ]);
        let mut drive = Builder::local(site.path()).set("cache.min-free", "1MiB").build();
        drive.scan();
        let disk = Disk::in_memory(drive.cache_dir(), 64 * MIB);
        drive.mount();
        drive.tell(["pin", "show/keep"]);
        right(&drive, "a.mov", 0);
        right(&drive, "c.exr", 2);
        let (held, fetched) = (File::open(drive.path("a.mov")).unwrap(), drive.fetched());
        assert!(fetched >= 6 * MIB);
        eventually("the pin is here", || drive.status()["pins"]["resident_files"] == 1);
        unmount(drive.cache_dir(), UnmountFlags::DETACH).unwrap();
        assert_eq!(mounts_at(drive.cache_dir()), 0, "the fault fired");
        right(&drive, "b.mov", 1);
        right(&drive, "a.mov", 0);
        right(&drive, "c.exr", 2);
        let mut byte = [0; 4096];
        held.read_exact_at(&mut byte, 3 * MIB).unwrap();
        assert_eq!(tree::first_wrong(0, 3 * MIB, &byte), None, "who had it open goes on");
        // It goes on in what is there now, and what is pinned comes back.
        let stat = || serde_json::from_str::<serde_json::Value>(&drive.tell(["cache", "stat", "--json"])).unwrap();
        eventually("it is noticed", || stat()["folders_lost"] == 1);
        eventually("it is used again", || {
            right(&drive, "b.mov", 1);
            drive.ls("show/b.mov")[0]["state"] == "cached"
        });
        drive.tell(["scan"]);
        eventually("the pin is back", || {
            drive.tell(["pin", "show/keep"]);
            drive.ls("show/keep/d.mov")[0]["state"] == "pinned"
        });
        drop(held);
        drive.unmount();
        drop(disk);
        drive.mount();
        for (seed, name) in ["a.mov", "b.mov", "c.exr", "keep/d.mov"].iter().enumerate() {
            right(&drive, name, seed as u64);
        }
        drive.unmount();
    });
}

#[test]
fn with_the_databases_disk_full_all_can_be_looked_at_and_read() {
    drive_test(|| {
        if is_missing(&[]) {
            return;
        }
        let site = site(&[
            ("a.mov", 6 * MIB),
            ("b.mov", 5 * MIB),
            ("c.exr", 300_000),
            ("d/e/f.exr", 200_000),
        ]);
        let above = tempfile::tempdir().unwrap();
        let data = above.path().join("data");
        fs::create_dir(&data).unwrap();
        let disk = Disk::in_memory(&data, 24 * MIB);
        let mut drive = Builder::local(site.path())
            .set("drive.data-dir", data.to_str().unwrap())
            .set("publish.min-free", "1MiB")
            .build()
            .mounted();
        right(&drive, "a.mov", 0);
        let filler = data.join("filler");
        let mut file = File::create(&filler).unwrap();
        for step in [MIB, 4096] {
            while file.write_all(&vec![1; usize::try_from(step).unwrap()]).is_ok() {}
        }
        assert_eq!(rustix::fs::statvfs(&data).unwrap().f_bavail, 0, "the fault fired");
        // What the site gets meanwhile can't be noted.
        tree::write(&site.path().join("new.exr"), 9, 1000);
        let names = |at: &Path| fs::read_dir(at).unwrap().count();
        for _ in 0..3 {
            assert!(names(&drive.project()) >= 4);
            for (seed, name) in ["a.mov", "b.mov", "c.exr", "d/e/f.exr"].iter().enumerate() {
                right(&drive, name, seed as u64);
            }
            thread::park_timeout(Duration::from_millis(300));
        }
        let refused = drive.run(["pin", "show/b.mov"]);
        if !refused.status.success() {
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                said.contains("no room left on the disk of the state database"),
                "{said}"
            );
        }
        assert!(drive.run(["status", "--json"]).status.success());
        drop(file);
        fs::remove_file(&filler).unwrap();
        eventually("all goes on with room", || {
            drive.run(["scan"]).status.success() && fs::read(drive.path("new.exr")).is_ok()
        });
        right(&drive, "new.exr", 9);
        drive.tell(["pin", "show/b.mov"]);
        drive.unmount();
        drop(disk);
    });
}

#[test]
fn a_thousand_opens_in_one_moment() {
    const OPENS: u64 = 1000;
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        // Half of them one and the same file.
        for n in 0..OPENS / 2 {
            tree::write(&site.path().join(format!("f{n}")), n, 300_000 + n);
        }
        let mut drive = Builder::local(site.path())
            .site("link-delay", "5ms")
            .set("hydration.read-deadline", "20s")
            .build()
            .mounted();
        let (start, begun) = (Arc::new(Barrier::new(usize::try_from(OPENS).unwrap())), Instant::now());
        let readers: Vec<_> = (0..OPENS)
            .map(|n| {
                let file = if n % 2 == 0 { 0 } else { n / 2 };
                let (path, start) = (drive.path(format!("f{file}")), Arc::clone(&start));
                let thread = thread::Builder::new().stack_size(256 << 10).spawn(move || {
                    start.wait();
                    let mut open = File::open(path).unwrap();
                    let mut head = vec![0; 70_000];
                    open.read_exact(&mut head).unwrap();
                    assert_eq!(tree::first_wrong(file, 0, &head), None);
                    open
                });
                thread.unwrap()
            })
            .collect();
        let open: Vec<File> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        assert_eq!(drive.counter("open_handles"), OPENS);
        let threads = fs::read_dir(format!("/proc/{}/task", drive.pid())).unwrap().count();
        say(&format!(
            "opens: {OPENS} in {:?}, {threads} threads in the daemon",
            begun.elapsed()
        ));
        drop(open);
        eventually("the handles are given back", || drive.counter("open_handles") == 0);
        for n in (0..OPENS / 2).step_by(50) {
            right(&drive, &format!("f{n}"), n);
        }
        drive.unmount();
    });
}
