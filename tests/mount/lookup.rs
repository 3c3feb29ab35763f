//! `docs/semantics.md`: *lookup and stat*, *symbolic links*, *statfs*, *locks*.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::common::drive::{Builder, Drive, SOON, drive_test, eventually, run_within, succeeds};
use crate::common::tree::{self, Tree};

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.expect_err("must fail").raw_os_error()
}

#[test]
fn a_file_is_there_with_its_size_and_time_before_its_bytes_are() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let (path, len) = ("a/b.exr", 100_001);
        tree::write(&site.path().join(path), 1, len);
        fs::set_permissions(site.path().join(path), fs::Permissions::from_mode(0o4755)).unwrap();
        let drive = Builder::local(site.path()).build().mounted();
        let there = fs::metadata(site.path().join(path)).unwrap();
        let before = fs::metadata(drive.path(path)).unwrap();
        assert_eq!(
            (before.len(), before.mtime(), before.mtime_nsec()),
            (len, there.mtime(), there.mtime_nsec())
        );
        assert_eq!(
            before.blocks(),
            len.next_multiple_of(4096) / 512,
            "0 would make archivers drop the content"
        );
        assert_eq!(before.mode() & 0o7777, 0o755, "set-id bits are not shown");
        assert_eq!(
            (before.uid(), before.gid()),
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        );
        succeeds(Command::new("ls").arg("-lR").arg(drive.mount_point()));
        assert_eq!(drive.fetched(), 0, "looking fetches nothing");

        assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path(path)).unwrap()), None);
        assert_eq!(drive.fetched(), len, "reading does");
        let facts = |m: &fs::Metadata| {
            (
                m.len(),
                m.mtime(),
                m.mtime_nsec(),
                m.ctime(),
                m.ctime_nsec(),
                m.ino(),
                m.blocks(),
            )
        };
        let after = rustix::fs::statx(
            rustix::fs::CWD,
            drive.path(path),
            rustix::fs::AtFlags::STATX_FORCE_SYNC,
            rustix::fs::StatxFlags::ALL,
        )
        .unwrap();
        let now = fs::metadata(drive.path(path)).unwrap();
        assert_eq!(facts(&before), facts(&now), "hydration changes no attribute");
        assert_eq!(
            (after.stx_size, after.stx_blocks, after.stx_ino),
            (len, before.blocks(), before.ino()),
            "asked past the kernel's cache"
        );
    });
}

#[test]
fn what_is_not_there_is_enoent_and_names_are_compared_exactly() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("Shot.exr"), 1, 10);
        let drive = Builder::local(site.path()).build().mounted();
        assert!(fs::metadata(drive.path("Shot.exr")).is_ok());
        let noent = Some(Errno::NOENT.raw_os_error());
        assert_eq!(errno(fs::metadata(drive.path("shot.exr"))), noent);
        assert_eq!(errno(fs::metadata(drive.mount_point().join("other-project"))), noent);
        assert_eq!(
            errno(fs::metadata(drive.path("Shot.exr/x"))),
            Some(Errno::NOTDIR.raw_os_error())
        );
        assert_eq!(errno(fs::metadata(drive.path("n".repeat(255)))), noent);
        assert_eq!(
            errno(fs::metadata(drive.path("n".repeat(256)))),
            Some(Errno::NAMETOOLONG.raw_os_error())
        );
    });
}

fn numbers(drive: &Drive, tree: &Tree) -> BTreeMap<PathBuf, u64> {
    let number = |f: &tree::Planned| (f.path.clone(), fs::metadata(drive.path(&f.path)).unwrap().ino());
    tree.files.iter().map(number).collect()
}

#[test]
fn numbers_stay_across_mounts_and_crashes_and_are_never_used_again() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let tree = Tree::plan(2, 40, 10, &[10]);
        tree.write(site.path());
        let mut drive = Builder::local(site.path()).build().mounted();
        let first = numbers(&drive, &tree);
        assert_eq!(
            first.values().collect::<std::collections::BTreeSet<_>>().len(),
            40,
            "each file has its own"
        );
        drive.remount();
        assert_eq!(numbers(&drive, &tree), first, "after a remount");
        drive.kill9();
        drive.mount();
        assert_eq!(numbers(&drive, &tree), first, "after a crash");

        let (gone, stays) = (&tree.files[0].path, &tree.files[1].path);
        fs::remove_file(site.path().join(gone)).unwrap();
        drive.scan();
        tree::write(&site.path().join(gone), 9, 10);
        drive.scan();
        let number = |p: &Path| fs::metadata(drive.path(p)).unwrap().ino();
        assert!(
            !first.values().any(|n| *n == number(gone)),
            "a new file has a new number, even under an old name"
        );
        assert_eq!(number(stays), first[stays]);
    });
}

#[test]
fn symbolic_links_are_shown_unchanged_and_followed_here() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("plates/a.exr"), 3, 5000);
        let outside = site.path().parent().unwrap().join("nothing-is-here");
        let long = "x/".repeat(2047) + "y";
        let targets: [(&str, &[u8]); 6] = [
            ("relative", b"plates/a.exr"),
            ("folder", b"plates"),
            ("dangling", outside.as_os_str().as_bytes()),
            ("raw", b"\xff\xfe"),
            ("odd", b".././/plates/../plates/a.exr"),
            ("long", long.as_bytes()),
        ];
        for (name, target) in targets {
            symlink(OsStr::from_bytes(target), site.path().join(name)).unwrap();
        }
        let drive = Builder::local(site.path()).build().mounted();
        for (name, target) in targets {
            assert_eq!(
                fs::read_link(drive.path(name)).unwrap().as_os_str().as_bytes(),
                target,
                "{name}"
            );
            assert!(fs::symlink_metadata(drive.path(name)).unwrap().is_symlink());
            assert_eq!(
                fs::symlink_metadata(drive.path(name)).unwrap().len(),
                target.len() as u64,
                "{name}"
            );
        }
        assert_eq!(
            tree::first_wrong(3, 0, &fs::read(drive.path("relative")).unwrap()),
            None
        );
        assert_eq!(fs::read_dir(drive.path("folder")).unwrap().count(), 1);
        assert_eq!(
            errno(fs::metadata(drive.path("dangling"))),
            Some(Errno::NOENT.raw_os_error())
        );
        assert_eq!(
            errno(fs::read_link(drive.path("plates/a.exr"))),
            Some(Errno::INVAL.raw_os_error())
        );
    });
}

#[test]
fn statfs_tells_the_sites_space() {
    drive_test(|| {
        // A file system of another size than the cache's, where there is one, so that the two can't be mixed up.
        let site = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        tree::write(&site.path().join("a"), 1, 10);
        let drive = Builder::local(site.path()).build().mounted();
        let total = |path: &Path| {
            let space = rustix::fs::statvfs(path).unwrap();
            (space.f_blocks * space.f_frsize) >> 20
        };
        let there = total(site.path());
        // The first answer never waits for the site, so it is that of the cache's disk.
        eventually("the site's space", || total(drive.mount_point()) == there);
        let space = rustix::fs::statvfs(drive.mount_point()).unwrap();
        assert_eq!(space.f_namemax, 255);
        assert!(space.f_files >= 1 && space.f_bavail > 0);
        succeeds(Command::new("df").arg(drive.mount_point()));
    });
}

#[test]
fn locks_work_between_processes() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a.nk"), 1, 10);
        let drive = Builder::local(site.path()).build().mounted();
        let ours = File::open(drive.path("a.nk")).unwrap();
        let theirs = || {
            let mut flock = Command::new("flock");
            run_within(
                SOON,
                flock
                    .args(["--shared", "--nonblock"])
                    .arg(drive.path("a.nk"))
                    .arg("true"),
            )
            .status
            .success()
        };
        rustix::fs::flock(&ours, FlockOperation::LockExclusive).unwrap();
        assert!(!theirs(), "we hold it");
        rustix::fs::flock(&ours, FlockOperation::Unlock).unwrap();
        assert!(theirs());
    });
}
