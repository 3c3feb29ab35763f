//! What a close, an fsync, a rename and a crash promise, while something else happens in their midst. Each fault is made at a
//! named place, and what is seen tells whether it struck.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, getxattr, renameat_with};
use rustix::io::Errno;

use crate::common::content::{self, Id};
use crate::common::drive::{Builder, Drive, drive_test, eventually};
use crate::common::queue;
use crate::rig::{DRAIN, holds, propagating, quick};

/// How long the disk is at work on a file that is closed or synced.
const SLOW: Duration = Duration::from_millis(1500);

fn bytes(version: u64) -> Vec<u8> {
    content::whole(Id { file: 1, version }, 10_000 + version)
}

/// Begins a close that takes [`SLOW`], and returns when it is under way.
fn closing(path: &Path) -> (thread::JoinHandle<()>, Instant) {
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes(1)).unwrap();
    let begun = Instant::now();
    let closing = thread::spawn(move || drop(file));
    thread::park_timeout(SLOW / 3);
    (closing, begun)
}

fn took_long(closing: thread::JoinHandle<()>, begun: Instant) {
    closing.join().unwrap();
    assert!(begun.elapsed() >= SLOW, "the close was not held up");
}

#[test]
fn a_close_leaves_alone_who_took_its_name_meanwhile() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path()))
            // Nothing that happens meanwhile reaches the site before the close is done.
            .set("publish.settle", "3s")
            .env("BACKLOT_FAILPOINT", "close.synced:sleep:1500")
            .build()
            .mounted();
        for folder in ["publish", "work"] {
            fs::create_dir_all(drive.path(folder)).unwrap();
        }
        let (name, next) = (drive.path("publish/plate"), drive.path("work/next"));
        fs::write(&next, bytes(2)).unwrap();
        let (closing, begun) = closing(&name);
        fs::rename(&next, &name).unwrap();
        took_long(closing, begun);
        queue::drained(&drive, DRAIN);
        let at_site = site.path().join("publish/plate");
        assert!(
            fs::read(&at_site).is_ok_and(|there| there == bytes(2)),
            "it was never sent"
        );
        holds(&drive);
    });
}

#[test]
fn an_open_that_meets_a_replacement_finds_what_has_the_name_now() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path()))
            .env("BACKLOT_FAILPOINT", "open.row:sleep:1500")
            .build()
            .mounted();
        let (name, next) = (drive.path("plate"), drive.path("next"));
        fs::write(&name, bytes(1)).unwrap();
        fs::write(&next, bytes(2)).unwrap();
        let begun = Instant::now();
        let reading = thread::spawn({
            let name = name.clone();
            move || fs::read(name)
        });
        thread::park_timeout(SLOW / 3);
        fs::rename(&next, &name).unwrap();
        let read = reading.join().unwrap();
        assert!(begun.elapsed() >= SLOW, "the open was not held up");
        assert!(read.is_ok_and(|there| there == bytes(2)));
    });
}

#[test]
fn a_close_takes_back_no_removal_that_was_asked_for_meanwhile() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let at_site = site.path().join("publish/plate");
        fs::create_dir_all(at_site.parent().unwrap()).unwrap();
        fs::write(&at_site, bytes(0)).unwrap();
        let drive = propagating(Builder::local(site.path()))
            // Nothing that happens meanwhile reaches the site before the close is done.
            .set("publish.settle", "3s")
            .env("BACKLOT_FAILPOINT", "close.synced:sleep:1500")
            .build()
            .mounted();
        let name = drive.path("publish/plate");
        let (closing, begun) = closing(&name);
        fs::remove_file(&name).unwrap();
        took_long(closing, begun);
        queue::drained(&drive, DRAIN);
        assert!(!at_site.exists(), "it was never removed");
        holds(&drive);
    });
}

#[test]
fn an_fsync_returns_when_the_disk_has_what_another_fsync_is_bringing_there() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path()))
            .env("BACKLOT_FAILPOINT", "sync.bytes:sleep:1500")
            .build()
            .mounted();
        let mut file = File::create(drive.path("take")).unwrap();
        file.write_all(&bytes(1)).unwrap();
        let other = file.try_clone().unwrap();
        let begun = Instant::now();
        let first = thread::spawn(move || {
            other.sync_all().unwrap();
            begun.elapsed()
        });
        thread::park_timeout(SLOW / 3);
        file.sync_all().unwrap();
        let second = begun.elapsed();
        assert!(first.join().unwrap() >= SLOW, "the first fsync was not held up");
        assert!(second >= SLOW, "the second returned after {second:?}");
    });
}

/// The disk tells of a failure once; what it lost nobody knows.
#[test]
fn what_the_disk_failed_to_keep_is_not_sent_as_if_it_were_whole() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path()))
            .env("BACKLOT_FAILPOINT", "sync.fails:error")
            .build()
            .mounted();
        let publish = drive.path("publish");
        fs::create_dir(&publish).unwrap();
        let torn = publish.join("torn");
        // Its close fails, and is tried again by itself.
        fs::write(&torn, bytes(1)).unwrap();
        let task = queue::task_that(&drive, "it is held back", DRAIN, |task| task.kind.is_some());
        assert!(
            task.error.as_deref().is_some_and(|why| why.contains("disk failed")),
            "{task:?}"
        );
        assert!(!site.path().join("publish/torn").exists());
        // Saved again, it goes up.
        fs::write(&torn, bytes(2)).unwrap();
        queue::drained(&drive, DRAIN);
        assert!(fs::read(site.path().join("publish/torn")).unwrap() == bytes(2));
    });
}

#[test]
fn what_is_exchanged_into_a_publish_folder_is_on_the_disk_or_stays_where_it_was() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        // The first sync is that of the close of the published one.
        let drive = quick(Builder::local(site.path()))
            .env("BACKLOT_FAILPOINT", "sync.fails:error:2")
            .build()
            .mounted();
        for folder in ["publish", "work"] {
            fs::create_dir_all(drive.path(folder)).unwrap();
        }
        let (published, worked) = (drive.path("publish/plate"), drive.path("work/plate"));
        fs::write(&published, bytes(1)).unwrap();
        fs::write(&worked, bytes(2)).unwrap();
        let exchange = || renameat_with(CWD, &published, CWD, &worked, RenameFlags::EXCHANGE);
        assert_eq!(exchange(), Err(Errno::IO));
        assert!(fs::read(&published).unwrap() == bytes(1) && fs::read(&worked).unwrap() == bytes(2));
        queue::drained(&drive, DRAIN);
        assert!(fs::read(site.path().join("publish/plate")).unwrap() == bytes(1));
        assert_eq!(exchange(), Ok(()));
        assert!(fs::read(&published).unwrap() == bytes(2) && fs::read(&worked).unwrap() == bytes(1));
    });
}

/// A drive that was killed while `publish/shot/half` was saved in place.
fn half_saved(site: &Path) -> Drive {
    let mut drive = quick(Builder::local(site)).build().mounted();
    let half = drive.path("publish/shot/half");
    fs::create_dir_all(half.parent().unwrap()).unwrap();
    // In a process of its own: a close is a close, whoever inherited the file.
    let mut writer = std::process::Command::new("dd")
        .arg(format!("of={}", half.display()))
        .args(["bs=4", "status=none"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    writer.stdin.as_mut().unwrap().write_all(b"half").unwrap();
    eventually("half is written", || {
        fs::read(&half).is_ok_and(|bytes| bytes == b"half")
    });
    drive.kill9();
    drop(writer.stdin.take());
    writer.wait().unwrap();
    drive.mount();
    drive
}

fn is_held(drive: &Drive, name: &str) {
    let tasks = queue::tasks(drive.data_dir());
    let of_name = |task: &&backlot::state::Task| task.name.as_ref().is_some_and(|of| of.as_bytes() == name.as_bytes());
    let task = tasks
        .iter()
        .find(of_name)
        .unwrap_or_else(|| panic!("no task of {name}: {tasks:?}"));
    assert!(task.is_unfinished(), "{name}: {task:?}");
}

#[test]
fn half_a_save_stays_held_back_under_whatever_name() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = half_saved(site.path());
        let shot = drive.path("publish/shot");
        is_held(&drive, "half");
        fs::rename(shot.join("half"), shot.join("moved")).unwrap();
        is_held(&drive, "moved");
        fs::hard_link(shot.join("moved"), shot.join("linked")).unwrap();
        is_held(&drive, "linked");
        fs::write(shot.join("whole"), bytes(3)).unwrap();
        renameat_with(CWD, shot.join("moved"), CWD, shot.join("whole"), RenameFlags::EXCHANGE).unwrap();
        is_held(&drive, "whole");
        fs::rename(&shot, drive.path("publish/shot2")).unwrap();
        let shot = drive.path("publish/shot2");
        is_held(&drive, "whole");
        is_held(&drive, "linked");
        let at_site = site.path().join("publish/shot2");
        eventually("what is whole is sent", || {
            fs::read(at_site.join("moved")).is_ok_and(|there| there == bytes(3))
        });
        assert!(!at_site.join("whole").exists() && !at_site.join("linked").exists());
        // Saved, it goes up, by all its names.
        fs::write(shot.join("whole"), bytes(4)).unwrap();
        queue::drained(&drive, DRAIN);
        for name in ["whole", "linked"] {
            assert!(fs::read(at_site.join(name)).unwrap() == bytes(4), "{name}");
        }
        holds(&drive);
    });
}

fn objects(data_dir: &Path) -> Vec<PathBuf> {
    let local = data_dir.join("local");
    queue::files(&local)
        .into_keys()
        .map(|below| local.join(below))
        .collect()
}

fn moved_away(fails: Option<&str>) {
    let site = tempfile::tempdir().unwrap();
    let at_site = site.path().join("publish/plate");
    fs::create_dir_all(at_site.parent().unwrap()).unwrap();
    fs::write(&at_site, bytes(1)).unwrap();
    let mut builder = propagating(Builder::local(site.path()));
    if let Some(point) = fails {
        builder = builder.env("BACKLOT_FAILPOINT", point);
    }
    let mut drive = builder.build().mounted();
    fs::create_dir_all(drive.path("work")).unwrap();
    fs::rename(drive.path("publish/plate"), drive.path("work/plate")).unwrap();
    if fails.is_some() {
        eventually("the kill strikes", || !drive.is_running());
        assert!(at_site.exists(), "it has not been removed yet");
        drive.set_env("BACKLOT_FAILPOINT", None);
        drive.mount();
    }
    queue::drained(&drive, DRAIN);
    assert!(!at_site.exists(), "its old place was to be removed");
    assert!(fs::read(drive.path("work/plate")).unwrap() == bytes(1));
    let kept = objects(drive.data_dir());
    assert_eq!(kept.len(), 1, "{kept:?}");
    let label = getxattr(&kept[0], "user.backlot.copy", &mut [0_u8; 8]);
    assert_eq!(
        label,
        Err(Errno::NODATA),
        "the only copy is labelled as one that may go"
    );
    drive.kill9();
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        drop(fs::remove_file(drive.data_dir().join(name)));
    }
    drive.mount();
    let found = queue::files(&drive.data_dir().join("local/found"));
    assert!(found.into_values().eq([bytes(1)]), "the only copy was not kept");
}

#[test]
fn what_was_moved_away_before_its_old_place_was_removed_outlives_the_database() {
    drive_test(|| {
        for fails in [None, Some("home.copied:kill"), Some("copy.named:kill")] {
            moved_away(fails);
        }
    });
}
