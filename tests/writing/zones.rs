//! What a file's place means: a publish goes up, work stays, and what has gone up is deleted there only where the project
//! says so.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::common::content::{self, Id};
use crate::common::drive::{Builder, SOON, drive_test, eventually};
use crate::common::queue;
use crate::rig::{DRAIN, names, propagating, quick, same_on_all_sides};

fn bytes(version: u64) -> Vec<u8> {
    content::whole(Id { file: 1, version }, 10_000 + version)
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

/// A folder of a site with one published file, and whatever goes with it.
fn published(site: &Path) {
    fs::create_dir_all(site.join("publish/dir")).unwrap();
    fs::write(site.join("publish/old"), bytes(1)).unwrap();
    fs::write(site.join("publish/dir/in"), bytes(2)).unwrap();
}

#[test]
fn what_is_saved_in_a_work_folder_stays_here_and_what_is_moved_into_publish_goes_up() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path())).build().mounted();
        fs::create_dir_all(drive.path("work/sub")).unwrap();
        fs::create_dir(drive.path("publish")).unwrap();
        fs::write(drive.path("work/a"), bytes(1)).unwrap();
        fs::write(drive.path("work/sub/b"), bytes(2)).unwrap();
        fs::write(drive.path("work/stays"), bytes(3)).unwrap();
        queue::drained(&drive, DRAIN);
        assert!(names(site.path()).is_empty(), "work stays here");
        fs::rename(drive.path("work/a"), drive.path("publish/a")).unwrap();
        fs::rename(drive.path("work/sub"), drive.path("publish/sub")).unwrap();
        fs::hard_link(drive.path("work/stays"), drive.path("publish/linked")).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(names(site.path()), ["publish/a", "publish/linked", "publish/sub/b"]);
        assert_eq!(fs::read(site.path().join("publish/sub/b")).unwrap(), bytes(2));
        assert_eq!(fs::read(drive.path("work/stays")).unwrap(), bytes(3));
        same_on_all_sides(&drive, site.path(), quick(Builder::local(site.path())));
    });
}

#[test]
fn what_is_moved_out_of_publish_is_no_publish_any_more_and_stays_at_the_site() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        published(site.path());
        let drive = quick(Builder::local(site.path())).build().mounted();
        fs::create_dir(drive.path("work")).unwrap();
        fs::write(drive.path("publish/mine"), bytes(5)).unwrap();
        queue::drained(&drive, DRAIN);
        for name in ["mine", "old", "dir"] {
            fs::rename(drive.path("publish").join(name), drive.path("work").join(name)).unwrap();
        }
        assert_eq!(fs::read(drive.path("work/mine")).unwrap(), bytes(5));
        fs::write(drive.path("work/mine"), bytes(6)).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(names(site.path()), ["publish/dir/in", "publish/mine", "publish/old"]);
        assert_eq!(fs::read(site.path().join("publish/mine")).unwrap(), bytes(5));
        assert_eq!(fs::read(drive.path("work/old")).unwrap(), bytes(1));
        assert_eq!(fs::read(drive.path("work/dir/in")).unwrap(), bytes(2));
        // Moved back, it replaces what it was, and is no conflict with it.
        fs::rename(drive.path("work/mine"), drive.path("publish/mine")).unwrap();
        fs::rename(drive.path("work/old"), drive.path("publish/old")).unwrap();
        fs::rename(drive.path("work/dir"), drive.path("publish/dir")).unwrap();
        same_on_all_sides(&drive, site.path(), quick(Builder::local(site.path())));
        assert_eq!(fs::read(site.path().join("publish/mine")).unwrap(), bytes(6));
    });
}

#[test]
fn what_has_gone_up_is_not_deleted_where_deletes_are_refused_but_may_be_replaced() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        published(site.path());
        let drive = quick(Builder::local(site.path())).build().mounted();
        fs::write(drive.path("publish/mine"), bytes(5)).unwrap();
        queue::drained(&drive, DRAIN);
        let perm = Some(Errno::PERM.raw_os_error());
        for name in ["publish/mine", "publish/old", "publish/dir/in"] {
            assert_eq!(errno(fs::remove_file(drive.path(name))), perm, "{name}");
        }
        // Written again and not up yet, it is there all the same.
        fs::write(drive.path("publish/old"), bytes(7)).unwrap();
        assert_eq!(errno(fs::remove_file(drive.path("publish/old"))), perm);
        assert!(drive.log().contains("refused"), "the log says why");
        queue::drained(&drive, DRAIN);
        assert_eq!(fs::read(site.path().join("publish/old")).unwrap(), bytes(7));
        assert_eq!(names(site.path()), ["publish/dir/in", "publish/mine", "publish/old"]);
    });
}

#[test]
fn what_never_went_up_is_deleted_without_asking() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path()))
            .set("publish.settle", "10min")
            .build()
            .mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        fs::write(drive.path("publish/new"), bytes(1)).unwrap();
        fs::remove_file(drive.path("publish/new")).unwrap();
        fs::remove_dir(drive.path("publish")).unwrap();
        assert!(queue::tasks(drive.data_dir()).is_empty());
        let gone = || names(&drive.data_dir().join("local")).is_empty();
        eventually("its bytes go", gone);
    });
}

#[test]
fn what_is_deleted_here_is_deleted_at_the_site_where_the_project_lets_it() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        published(site.path());
        let drive = propagating(Builder::local(site.path())).build().mounted();
        fs::write(drive.path("publish/mine"), bytes(5)).unwrap();
        queue::drained(&drive, DRAIN);
        fs::remove_file(drive.path("publish/mine")).unwrap();
        fs::remove_dir_all(drive.path("publish/dir")).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(names(site.path()), ["publish/old"]);
        assert!(!site.path().join("publish/dir").exists());
        // Deleted and made again before the site heard of it.
        fs::remove_file(drive.path("publish/old")).unwrap();
        fs::write(drive.path("publish/old"), bytes(9)).unwrap();
        same_on_all_sides(&drive, site.path(), propagating(Builder::local(site.path())));
        assert_eq!(fs::read(site.path().join("publish/old")).unwrap(), bytes(9));
    });
}

#[test]
fn what_somebody_else_changed_at_the_site_is_not_deleted_there() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        published(site.path());
        let drive = propagating(Builder::local(site.path())).build().mounted();
        assert_eq!(fs::read(drive.path("publish/old")).unwrap(), bytes(1));
        fs::write(site.path().join("publish/old"), bytes(8)).unwrap();
        fs::remove_file(drive.path("publish/old")).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(fs::read(site.path().join("publish/old")).unwrap(), bytes(8));
        eventually("it is shown again", || {
            fs::read(drive.path("publish/old")).is_ok_and(|read| read == bytes(8))
        });
    });
}

#[test]
fn readonly_zones_change_nothing_and_the_first_zone_that_fits_counts() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir_all(site.path().join("ref/publish")).unwrap();
        fs::write(site.path().join("ref/publish/a"), bytes(1)).unwrap();
        let drive = quick(Builder::local(site.path()))
            .zones(&[
                ("ref/**", "readonly"),
                ("**/publish/**", "publish"),
                ("out/**", "publish"),
            ])
            .build()
            .mounted();
        let rofs = Some(Errno::ROFS.raw_os_error());
        assert_eq!(errno(File::create(drive.path("ref/publish/b"))), rofs);
        assert_eq!(errno(fs::write(drive.path("ref/publish/a"), b"x")), rofs);
        assert_eq!(errno(fs::remove_file(drive.path("ref/publish/a"))), rofs);
        fs::create_dir_all(drive.path("out/deep")).unwrap();
        fs::create_dir_all(drive.path("shot/publish")).unwrap();
        fs::write(drive.path("mine"), bytes(2)).unwrap();
        assert_eq!(errno(fs::rename(drive.path("mine"), drive.path("ref/mine"))), rofs);
        assert_eq!(errno(fs::hard_link(drive.path("mine"), drive.path("ref/mine"))), rofs);
        fs::write(drive.path("out/deep/a"), bytes(3)).unwrap();
        fs::write(drive.path("shot/publish/a"), bytes(4)).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(names(site.path()), ["out/deep/a", "ref/publish/a", "shot/publish/a"]);
    });
}

#[test]
fn pipes_sockets_and_devices_are_for_work_folders() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path())).build().mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        fs::create_dir(drive.path("work")).unwrap();
        let perm = Some(Errno::PERM.raw_os_error());
        let node = |path: &str, kind| mknodat(CWD, drive.path(path), kind, Mode::from_raw_mode(0o600), 0);
        for kind in [FileType::Fifo, FileType::Socket] {
            assert_eq!(errno(node("publish/node", kind).map_err(Into::into)), perm, "{kind:?}");
        }
        assert_eq!(errno(UnixListener::bind(drive.path("publish/socket"))), perm);
        node("work/pipe", FileType::Fifo).unwrap();
        let renamed = fs::rename(drive.path("work/pipe"), drive.path("publish/pipe"));
        queue::drained(&drive, DRAIN);
        assert!(
            names(site.path()).is_empty(),
            "a pipe that was moved ({renamed:?}) is no file at the site"
        );
        assert!(drive.path("publish").is_dir() && fs::read_dir(site.path()).unwrap().count() <= 1);
    });
}

#[test]
fn attributes_that_were_set_go_up_with_the_bytes() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path()))
            .set("publish.settle", "300ms")
            .build()
            .mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        let path = drive.path("publish/a");
        let mut file = File::create(&path).unwrap();
        file.write_all(&bytes(1)).unwrap();
        drop(file);
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        queue::drained(&drive, SOON);
        let there = fs::metadata(site.path().join("publish/a")).unwrap();
        assert_eq!((there.mtime(), there.mode() & 0o777), (1_000_000_000, 0o640));
        let here = fs::metadata(&path).unwrap();
        assert_eq!((here.mtime(), here.mode() & 0o777), (1_000_000_000, 0o640));
    });
}
