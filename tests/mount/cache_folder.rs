//! `docs/semantics.md`: *the cache folder*, and *read* where the cache can't hold what is read.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use crate::common::drive::{Builder, Drive, drive_test, eventually, is_root, say};
use crate::common::tree::{self, Tree};
use crate::read::read_past_pages;

/// A file system mounted by a test; gone when it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Puts a file system of that size in memory below the cache folder.
fn small_disk(at: &Path, bytes: u64) -> Mounted {
    let options = std::ffi::CString::new(format!("size={bytes},mode=755")).unwrap();
    mount("none", at, "tmpfs", MountFlags::NODEV, Some(options.as_c_str())).unwrap();
    Mounted(at.to_owned())
}

fn no_root() -> bool {
    if !is_root() {
        say("SKIPPED: root (mounting a small disk below the cache folder)");
    }
    !is_root()
}

fn reads_right(drive: &Drive, name: &str, seed: u64, len: u64) {
    let read = read_past_pages(&drive.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(
        (read.len() as u64, tree::first_wrong(seed, 0, &read)),
        (len, None),
        "{name}"
    );
}

#[test]
fn it_may_be_removed_while_the_drive_is_mounted() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let len = 3 << 20;
        for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
            tree::write(&site.path().join(name), seed, len);
        }
        let mut drive = Builder::local(site.path()).build().mounted();
        reads_right(&drive, "a", 1, len);
        let held = fs::File::open(drive.path("a")).unwrap();
        // Files may appear in there while it is being removed.
        eventually("the cache folder is removed", || {
            fs::remove_dir_all(drive.cache_dir()).is_ok()
        });
        reads_right(&drive, "b", 2, len);
        reads_right(&drive, "a", 1, len);
        let fetched = drive.fetched();
        // What arrived in the moment in which the folder was found gone is fetched once more, however much that is. The
        // kernel may still read the first one by itself, through the handle from before.
        assert!(
            (2 * len..=4 * len).contains(&fetched),
            "the second one was fetched, and the first again if need be: {fetched}"
        );
        let mut read = vec![0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&held, &mut read, 1 << 20).unwrap();
        assert_eq!(
            tree::first_wrong(1, 1 << 20, &read),
            None,
            "a handle from before reads right"
        );
        eventually("it is kept from now on", || {
            let fetched = drive.fetched();
            reads_right(&drive, "a", 1, len);
            drive.fetched() == fetched
        });
        drop(held);
        drive.unmount();
        fs::remove_dir_all(drive.cache_dir()).unwrap();
        drive.mount();
        reads_right(&drive, "c", 3, len);
    });
}

#[test]
fn one_that_turns_read_only_costs_speed_and_no_byte() {
    drive_test(|| {
        if no_root() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        let len = 3 << 20;
        for (name, seed) in [("a", 1), ("b", 2)] {
            tree::write(&site.path().join(name), seed, len);
        }
        let drive = Builder::local(site.path()).build().mounted();
        reads_right(&drive, "a", 1, len);
        // A view of the same folder that takes no writes, laid over it: what a remount of a failing disk does to all but
        // the files that are open.
        mount_bind(drive.cache_dir(), drive.cache_dir()).unwrap();
        let over = Mounted(drive.cache_dir().to_owned());
        mount_remount(drive.cache_dir(), MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        assert!(
            fs::write(drive.cache_dir().join("probe"), b"").is_err(),
            "the fault fired"
        );
        reads_right(&drive, "b", 2, len);
        assert!(drive.counter("uncached_bytes") >= len, "bytes came past the cache");
        reads_right(&drive, "b", 2, len);
        reads_right(&drive, "a", 1, len);
        drop(over);
        eventually("the cache is used again", || {
            reads_right(&drive, "b", 2, len);
            drive.ls("show/b")[0]["state"] == "cached"
        });
    });
}

#[test]
fn one_that_is_read_only_from_the_start_is_said_so() {
    drive_test(|| {
        if no_root() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a"), 1, 1000);
        let mut drive = Builder::local(site.path()).build();
        let _disk = small_disk(drive.cache_dir(), 1 << 20);
        mount_remount(drive.cache_dir(), MountFlags::RDONLY, "").unwrap();
        match drive.try_mount() {
            Ok(()) => reads_right(&drive, "a", 1, 1000),
            Err(refused) => {
                let cache = drive.cache_dir().to_str().unwrap();
                assert!(
                    refused.said.contains("read-only") && refused.said.contains(cache),
                    "{refused:?}"
                );
                assert_eq!(refused.code, Some(1));
            }
        }
    });
}

#[test]
fn one_that_is_full_costs_speed_and_no_byte() {
    drive_test(|| {
        if no_root() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        let len = 24 << 20;
        tree::write(&site.path().join("large"), 1, len);
        tree::write(&site.path().join("small"), 2, 100_000);
        let mut drive = Builder::local(site.path()).set("cache.min-free", "1MiB").build();
        let _disk = small_disk(drive.cache_dir(), 10 << 20);
        drive.scan();
        drive.mount();
        reads_right(&drive, "large", 1, len);
        assert!(
            drive.counter("uncached_bytes") > 0,
            "the disk was full: {}",
            drive.status()
        );
        reads_right(&drive, "small", 2, 100_000);
        reads_right(&drive, "large", 1, len);
        reads_right(&drive, "small", 2, 100_000);
    });
}

#[test]
fn it_keeps_to_its_size() {
    drive_test(|| {
        const LIMIT: u64 = 8 << 20;
        let site = tempfile::tempdir().unwrap();
        let tree = Tree::plan(5, 40, 10, &[900_000, 300_000, 10]);
        tree.write(site.path());
        let drive = Builder::local(site.path())
            .set("cache.max-size", "8MiB")
            .build()
            .mounted();
        for _ in 0..2 {
            for file in &tree.files {
                file.check_whole(&drive.project()).unwrap();
            }
            let status = drive.status();
            let bytes = status["cache"]["bytes"].as_u64().unwrap();
            assert!(bytes <= LIMIT, "{bytes}");
            assert!(
                status["cache"]["evicted_bytes"].as_u64().unwrap() > 0,
                "something had to go"
            );
        }
        let on_disk: u64 = walk(drive.cache_dir());
        assert!(on_disk < 2 * LIMIT, "{on_disk} bytes on disk");
    });
}

fn walk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let sizes = fs::read_dir(dir).unwrap().flatten().map(|e| match e.metadata() {
        Ok(m) if m.is_dir() => walk(&e.path()),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn bytes_that_rotted_in_it_are_fetched_again() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let len = 1_000_000;
        tree::write(&site.path().join("a"), 1, len);
        let mut drive = Builder::local(site.path()).build().mounted();
        reads_right(&drive, "a", 1, len);
        drive.unmount();
        let data = find_data(drive.cache_dir()).expect("a data file");
        let mut bytes = fs::read(&data).unwrap();
        bytes[500_000] ^= 1;
        fs::write(&data, bytes).unwrap();
        drive.mount();
        reads_right(&drive, "a", 1, len);
        assert!(
            drive.status()["cache"]["bad_granules"].as_u64().unwrap() > 0,
            "the fault fired"
        );
        assert!(
            drive.fetched() > 0 && drive.fetched() < len,
            "only what was bad: {}",
            drive.fetched()
        );
    });
}

fn find_data(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|e| {
        let path = e.path();
        if path.is_dir() {
            find_data(&path)
        } else {
            path.extension().is_some_and(|x| x == "data").then_some(path)
        }
    })
}
