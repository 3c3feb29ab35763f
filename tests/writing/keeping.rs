//! Bytes that the site has and that are changed, moved or replaced here: none is lost, none is mixed with another's.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::common::content::{self, Id, Seen};
use crate::common::drive::{Builder, Drive, SOON, drive_test, eventually};
use crate::common::queue;
use crate::common::sshd::{Mode, Sshd};
use crate::common::tree;
use crate::rig::{DRAIN, holds, names, propagating, quick, same_on_all_sides, seen};

fn bytes(version: u64) -> Vec<u8> {
    content::whole(Id { file: 1, version }, 10_000 + version)
}

fn tops(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

/// Drops what the kernel holds of a file, as far as it lets go.
fn read_past_pages(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    drop(file);
    fs::read(path).unwrap()
}

#[test]
fn a_write_into_a_file_that_the_site_has_keeps_the_rest_of_its_bytes() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let len = 3_000_000;
        for folder in ["publish", "work"] {
            tree::write(&site.path().join(folder).join("plate"), 7, len);
        }
        let drive = quick(Builder::local(site.path())).build().mounted();
        let mut right = tree::bytes(7, 0, usize::try_from(len).unwrap());
        right[1_000_000..1_000_011].copy_from_slice(b"hello there");
        right.extend_from_slice(b"and more");
        for folder in ["publish", "work"] {
            let path = drive.path(folder).join("plate");
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"hello there", 1_000_000).unwrap();
            file.write_all_at(b"and more", len).unwrap();
            drop(file);
            assert!(fs::read(&path).unwrap() == right, "{folder}");
        }
        queue::drained(&drive, DRAIN);
        assert!(fs::read(site.path().join("publish/plate")).unwrap() == right);
        assert!(fs::read(site.path().join("work/plate")).unwrap() == tree::bytes(7, 0, 3_000_000));
        assert!(read_past_pages(&drive.path("publish/plate")) == right);
        holds(&drive);
    });
}

#[test]
fn a_file_cut_short_keeps_what_is_left_of_it() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("publish/plate"), 7, 3_000_000);
        let drive = quick(Builder::local(site.path())).build().mounted();
        let path = drive.path("publish/plate");
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(100_000)
            .unwrap();
        assert!(fs::read(&path).unwrap() == tree::bytes(7, 0, 100_000));
        queue::drained(&drive, DRAIN);
        assert!(fs::read(site.path().join("publish/plate")).unwrap() == tree::bytes(7, 0, 100_000));
    });
}

#[test]
fn replacing_a_file_fetches_nothing_of_it() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        for n in 0..3 {
            tree::write(&site.path().join(format!("publish/plate{n}")), 7, 3_000_000);
        }
        let drive = quick(Builder::local(site.path())).build().mounted();
        let before = drive.fetched();
        fs::write(drive.path("publish/plate0"), bytes(1)).unwrap();
        drop(File::create(drive.path("publish/plate1")).unwrap());
        fs::write(drive.path("publish/new"), bytes(2)).unwrap();
        fs::rename(drive.path("publish/new"), drive.path("publish/plate2")).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(drive.fetched(), before, "nothing was fetched");
        assert_eq!(fs::read(site.path().join("publish/plate0")).unwrap(), bytes(1));
        assert_eq!(fs::read(site.path().join("publish/plate1")).unwrap(), b"");
        assert_eq!(fs::read(site.path().join("publish/plate2")).unwrap(), bytes(2));
        // What was published is in the cache: reading it back fetches nothing either.
        assert_eq!(read_past_pages(&drive.path("publish/plate0")), bytes(1));
        assert_eq!(drive.fetched(), before);
    });
}

#[test]
fn a_program_that_runs_is_not_cut_by_an_open_that_is_refused() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path())).build().mounted();
        for folder in ["work", "publish"] {
            fs::create_dir_all(site.path().join(folder)).unwrap();
            let dir = drive.path(folder);
            fs::create_dir_all(&dir).unwrap();
            let program = dir.join("tool");
            fs::copy("/bin/sleep", &program).unwrap();
            let whole = fs::metadata(&program).unwrap().len();
            let mut running = std::process::Command::new(&program).arg("60").spawn().unwrap();
            for _ in 0..20 {
                let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC;
                let refused = rustix::fs::open(&program, flags, rustix::fs::Mode::empty());
                assert_eq!(refused.err(), Some(rustix::io::Errno::TXTBSY), "{folder}");
                assert_eq!(fs::metadata(&program).unwrap().len(), whole, "{folder}");
            }
            assert!(running.try_wait().unwrap().is_none(), "it still runs");
            running.kill().unwrap();
            running.wait().unwrap();
            assert!(read_past_pages(&program) == fs::read("/bin/sleep").unwrap(), "{folder}");
        }
    });
}

#[test]
fn an_open_that_cuts_and_reads_fetches_nothing() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("publish/plate"), 7, 300_000);
        let drive = quick(Builder::local(site.path())).build().mounted();
        let before = drive.fetched();
        let path = drive.path("publish/plate");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        file.write_all_at(b"anew", 0).unwrap();
        drop(file);
        queue::drained(&drive, DRAIN);
        assert_eq!(drive.fetched(), before, "nothing was fetched");
        assert_eq!(fs::read(site.path().join("publish/plate")).unwrap(), b"anew");
    });
}

/// A program that saves under a temporary name and renames it a little late.
#[test]
fn a_listing_that_is_faster_than_the_note_of_an_upload_brings_no_old_name_back() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("publish")).unwrap();
        let builder = propagating(Builder::local(site.path()));
        let drive = builder
            .env("BACKLOT_FAILPOINT", "publish.adopted:sleep:3000")
            .build()
            .mounted();
        fs::write(drive.path("publish/.plate.tmp"), bytes(1)).unwrap();
        eventually("it is at the site", || site.path().join("publish/.plate.tmp").exists());
        fs::rename(drive.path("publish/.plate.tmp"), drive.path("publish/plate")).unwrap();
        drive.scan();
        let listed = names(&drive.path("publish"));
        assert_eq!(
            listed,
            [".plate.tmp", "plate"],
            "the listing was faster: else this proves nothing"
        );
        queue::drained(&drive, DRAIN);
        eventually("the old name is gone", || {
            names(&drive.path("publish")) == ["plate"] && names(&site.path().join("publish")) == ["plate"]
        });
        assert!(fs::read(site.path().join("publish/plate")).unwrap() == bytes(1));
        holds(&drive);
    });
}

/// A folder is moved, back, and away again, while its removal at the site meets what is in it: that was true for the place
/// it had come back to, and does not show the old place again.
#[test]
fn a_removal_that_was_asked_for_anew_shows_nothing_of_what_it_met_before() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = propagating(Builder::local(site.path()))
            .set("publish.settle", "3s")
            .env("BACKLOT_FAILPOINT", "delete.done:sleep:5000")
            .env("BACKLOT_LOG", "backlot=debug")
            .build()
            .mounted();
        let (here, there) = (drive.path("publish/d0"), drive.path("publish/d1"));
        fs::create_dir_all(&here).unwrap();
        fs::write(here.join("plate"), bytes(1)).unwrap();
        queue::drained(&drive, DRAIN);
        fs::rename(&here, &there).unwrap();
        thread::park_timeout(Duration::from_millis(1500));
        // What was in it replaces itself; the folder's removal is due before that.
        fs::rename(&there, &here).unwrap();
        eventually("the folder's removal has met something", || {
            drive.log().contains("delete.done")
        });
        fs::rename(&here, &there).unwrap();
        queue::drained(&drive, DRAIN);
        let log = drive.log();
        assert!(log.contains("or other work by now"), "this proves nothing: {log}");
        assert!(!log.contains("shown again"), "{log}");
        drive.scan();
        for publish in [drive.path("publish"), site.path().join("publish")] {
            assert_eq!(tops(&publish), ["d1"]);
            assert!(fs::read(publish.join("d1/plate")).unwrap() == bytes(1));
        }
    });
}

/// A folder gets to the site with the first file in it: it may have moved on, or be gone, before that is known.
#[test]
fn a_listing_that_is_faster_than_the_note_of_an_upload_brings_no_old_folder_back() {
    drive_test(|| {
        for (mode, moves) in [("propagate", true), ("propagate", false), ("refuse", true)] {
            let site = tempfile::tempdir().unwrap();
            fs::create_dir(site.path().join("publish")).unwrap();
            let builder = propagating(Builder::local(site.path())).set("projects.show.remote-delete", mode);
            let drive = builder
                .env("BACKLOT_FAILPOINT", "publish.adopted:sleep:3000")
                .build()
                .mounted();
            let (here, there) = (drive.path("publish/d0"), drive.path("publish/d1"));
            fs::create_dir_all(here.join("in")).unwrap();
            fs::write(here.join("in/plate"), bytes(1)).unwrap();
            let arrived = site.path().join("publish/d0/in/plate");
            eventually("it is at the site", || arrived.exists());
            if moves {
                fs::rename(&here, &there).unwrap();
            } else {
                fs::remove_file(here.join("in/plate")).unwrap();
                fs::remove_dir(here.join("in")).unwrap();
                fs::remove_dir(&here).unwrap();
            }
            let left: &[&str] = if moves { &["d1"] } else { &[] };
            drive.scan();
            assert_eq!(tops(&drive.path("publish")), left, "{mode}");
            assert!(arrived.exists(), "the listing was faster: else this proves nothing");
            queue::drained(&drive, DRAIN);
            eventually("the old folder is gone", || tops(&site.path().join("publish")) == left);
            drive.scan();
            assert_eq!(tops(&drive.path("publish")), left, "{mode}");
            if moves {
                assert!(fs::read(site.path().join("publish/d1/in/plate")).unwrap() == bytes(1));
            }
            // The name can be used again, and stays.
            fs::create_dir(&here).unwrap();
            fs::write(here.join("again"), bytes(2)).unwrap();
            queue::drained(&drive, DRAIN);
            drive.scan();
            assert_eq!(names(&here), ["again"], "{mode}");
            assert_eq!(names(&site.path().join("publish/d0")), ["again"], "{mode}");
            holds(&drive);
        }
    });
}

/// A child that inherits an open file closes it as well: two closes of one file, at the same time.
#[test]
fn a_close_returns_only_when_another_close_of_the_file_has_put_it_in_the_queue() {
    drive_test(|| {
        let slow = Duration::from_millis(1500);
        let site = tempfile::tempdir().unwrap();
        let builder = quick(Builder::local(site.path())).set("publish.settle", "10min");
        let mut drive = builder
            .env("BACKLOT_FAILPOINT", "close.synced:sleep:1500")
            .build()
            .mounted();
        fs::create_dir_all(drive.path("publish")).unwrap();
        let mut file = File::create(drive.path("publish/plate")).unwrap();
        file.write_all(&bytes(1)).unwrap();
        let inherited = file.try_clone().unwrap();
        let begun = Instant::now();
        let other = thread::spawn(move || {
            drop(inherited);
            begun.elapsed()
        });
        thread::park_timeout(slow / 5);
        drop(file);
        let waited = begun.elapsed();
        drive.kill9();
        let tasks = queue::tasks(drive.data_dir());
        assert!(waited >= slow, "the second close returned after {waited:?}");
        assert!(other.join().unwrap() >= slow, "the first close was held up");
        assert_eq!(tasks.len(), 1, "what was closed is in the queue");
    });
}

#[test]
fn times_set_right_after_a_close_stay_as_they_were_set() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let drive = quick(Builder::local(site.path())).build().mounted();
        let at = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + n);
        for folder in ["work", "publish"] {
            let dir = drive.path(folder);
            fs::create_dir_all(&dir).unwrap();
            thread::scope(|threads| {
                for thread in 0..4 {
                    let dir = &dir;
                    threads.spawn(move || {
                        for n in (thread..600).step_by(4) {
                            let path = dir.join(format!("f{n}"));
                            fs::write(&path, bytes(n)).unwrap();
                            // What was closed is written down some 50 ms later: times are set before, in the middle, after.
                            thread::park_timeout(Duration::from_micros(n * 191 % 70_000));
                            File::open(&path).unwrap().set_modified(at(n)).unwrap();
                        }
                    });
                }
            });
            thread::park_timeout(Duration::from_millis(300));
            for n in 0..600 {
                let seen = fs::metadata(dir.join(format!("f{n}"))).unwrap().modified().unwrap();
                assert_eq!(seen, at(n), "{folder}/f{n}");
            }
        }
    });
}

/// A drive that knows a site which is gone now.
fn cut_off(settings: impl FnOnce(Builder) -> Builder, read: &[&str]) -> (tempfile::TempDir, Drive) {
    let site = tempfile::tempdir().unwrap();
    let root = site.path().join("root");
    for name in ["publish/a", "publish/dir/b", "publish/dir/deep/c", "work/d"] {
        tree::write(&root.join(name), name.len() as u64, 300_000);
    }
    let drive = settings(Builder::local(&root))
        .set("hydration.read-deadline", "1s")
        .build()
        .mounted();
    for name in read {
        fs::read(drive.path(name)).unwrap();
    }
    fs::rename(&root, site.path().join("away")).unwrap();
    (site, drive)
}

#[test]
fn replacing_a_file_works_while_the_site_is_gone_and_arrives_when_it_is_back() {
    drive_test(|| {
        let (site, drive) = cut_off(quick, &[]);
        fs::write(drive.path("publish/a"), bytes(1)).unwrap();
        assert_eq!(fs::read(drive.path("publish/a")).unwrap(), bytes(1));
        eventually("it is tried", || {
            let tasks = queue::tasks(drive.data_dir());
            drive.link() == "down" || tasks.iter().any(|task| task.tries > 0 || task.kind.is_some())
        });
        fs::rename(site.path().join("away"), site.path().join("root")).unwrap();
        let root = site.path().join("root");
        same_on_all_sides(&drive, &root, quick(Builder::local(&root)));
        assert_eq!(fs::read(root.join("publish/a")).unwrap(), bytes(1));
    });
}

#[test]
fn what_is_cached_is_read_under_its_new_name_while_the_site_is_gone() {
    drive_test(|| {
        let names = ["publish/a", "publish/dir/b", "publish/dir/deep/c", "work/d"];
        let (site, mut drive) = cut_off(propagating, &names);
        for (from, to) in [
            ("publish/a", "publish/a2"),
            ("publish/dir", "publish/dir2"),
            ("work/d", "publish/d2"),
        ] {
            fs::rename(drive.path(from), drive.path(to)).unwrap();
        }
        let moved = ["publish/a2", "publish/dir2/b", "publish/dir2/deep/c", "publish/d2"];
        let check = |drive: &Drive| {
            for (from, to) in names.iter().zip(moved) {
                let read = read_past_pages(&drive.path(to));
                assert_eq!(
                    (read.len(), tree::first_wrong(from.len() as u64, 0, &read)),
                    (300_000, None),
                    "{to}"
                );
            }
        };
        check(&drive);
        drive.remount();
        check(&drive);
        drive.kill9();
        drive.mount();
        check(&drive);
        fs::rename(site.path().join("away"), site.path().join("root")).unwrap();
        let root = site.path().join("root");
        queue::drained(&drive, DRAIN);
        check(&drive);
        same_on_all_sides(&drive, &root, propagating(Builder::local(&root)));
        let there = names_below(&root.join("publish"));
        assert_eq!(there, ["a2", "d2", "dir2/b", "dir2/deep/c"]);
    });
}

fn names_below(folder: &Path) -> Vec<String> {
    names(folder)
}

#[test]
fn what_is_moved_and_not_cached_is_fetched_from_where_it_was_and_its_old_place_emptied_after_that() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        for n in 0..6 {
            tree::write(&site.path().join(format!("publish/dir/{n}")), n, 300_000);
        }
        let drive = propagating(Builder::local(site.path()))
            .site("link-delay", "5ms")
            .site("link-rate", "20MB")
            .build()
            .mounted();
        fs::create_dir(drive.path("work")).unwrap();
        fs::rename(drive.path("publish/dir/0"), drive.path("publish/zero")).unwrap();
        fs::rename(drive.path("publish/dir/1"), drive.path("work/one")).unwrap();
        fs::rename(drive.path("publish/dir"), drive.path("publish/moved")).unwrap();
        queue::drained(&drive, DRAIN);
        for (name, seed) in [
            ("publish/zero", 0),
            ("work/one", 1),
            ("publish/moved/2", 2),
            ("publish/moved/3", 3),
            ("publish/moved/5", 5),
        ] {
            let read = fs::read(drive.path(name)).unwrap();
            assert_eq!(
                (read.len(), tree::first_wrong(seed, 0, &read)),
                (300_000, None),
                "{name}"
            );
        }
        let wanted = ["moved/2", "moved/3", "moved/4", "moved/5", "zero"];
        assert_eq!(names(&site.path().join("publish")), wanted);
        same_on_all_sides(&drive, site.path(), propagating(Builder::local(site.path())));
    });
}

#[test]
fn a_conflict_keeps_both_and_says_so() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("publish")).unwrap();
        fs::write(site.path().join("publish/a.exr"), bytes(1)).unwrap();
        let drive = quick(Builder::local(site.path())).build().mounted();
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(drive.path("publish/a.exr"))
            .unwrap();
        file.write_all(&bytes(2)).unwrap();
        fs::write(site.path().join("publish/a.exr"), bytes(3)).unwrap();
        drop(file);
        eventually("both are at the site", || {
            queue::tasks(drive.data_dir()).is_empty() && names(site.path()).len() == 2
        });
        let both = names(site.path());
        let ours = both
            .iter()
            .find(|name| name.contains(".conflict-"))
            .expect("a name that says so");
        assert!(
            ours.starts_with("publish/a.conflict-") && ours.ends_with(".exr"),
            "{ours}"
        );
        assert_eq!(fs::read(site.path().join("publish/a.exr")).unwrap(), bytes(3));
        assert_eq!(fs::read(site.path().join(ours)).unwrap(), bytes(2));
        eventually("theirs is shown", || {
            fs::read(drive.path("publish/a.exr")).is_ok_and(|read| read == bytes(3))
        });
        assert_eq!(fs::read(drive.path(ours)).unwrap(), bytes(2));
        assert_eq!(queue::ask(drive.data_dir(), |txn| txn.conflicts()).len(), 1);
        // Ours goes on under its name.
        fs::write(drive.path(ours), bytes(4)).unwrap();
        queue::drained(&drive, DRAIN);
        assert_eq!(fs::read(site.path().join(ours)).unwrap(), bytes(4));
        assert_eq!(names(site.path()).len(), 2);
        holds(&drive);
    });
}

#[test]
fn a_new_file_does_not_replace_one_that_somebody_put_at_the_site_first() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("publish")).unwrap();
        let drive = quick(Builder::local(site.path())).build().mounted();
        fs::write(site.path().join("publish/a"), bytes(3)).unwrap();
        fs::write(drive.path("publish/a"), bytes(2)).unwrap();
        eventually("both are at the site", || {
            queue::tasks(drive.data_dir()).is_empty() && names(site.path()).len() == 2
        });
        assert_eq!(fs::read(site.path().join("publish/a")).unwrap(), bytes(3));
        holds(&drive);
    });
}

/// Saves of one size within one second look the same at a site that keeps whole seconds.
fn same_size_and_time(builder: impl Fn() -> Builder, site: &Path) {
    let drive = builder().build().mounted();
    fs::create_dir_all(drive.path("publish")).unwrap();
    let path = drive.path("publish/a");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for version in 1..8 {
        let id = Id { file: 1, version };
        let made = content::whole(id, 200_000);
        let mut file = File::create(&path).unwrap();
        file.write_all(&made).unwrap();
        file.set_modified(time).unwrap();
        drop(file);
        queue::drained(&drive, SOON);
        assert_eq!(seen(&site.join("publish/a")), Some(Seen::Whole(id)), "at the site");
        let read = content::look(&read_past_pages(&path));
        assert_eq!(read, Ok(Seen::Whole(id)), "read back");
    }
    // What the kernel holds does not outlive the mount.
    let mut drive = drive;
    drive.remount();
    let last = Id { file: 1, version: 7 };
    assert_eq!(seen(&path), Some(Seen::Whole(last)), "after a restart");
    same_on_all_sides(&drive, site, builder());
}

#[test]
fn saves_that_look_the_same_to_the_site_are_not_taken_for_each_other() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        same_size_and_time(|| quick(Builder::local(site.path())), site.path());
    });
}

#[test]
fn saves_that_look_the_same_to_an_sftp_server_are_not_taken_for_each_other() {
    drive_test(|| {
        let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let settings = server.settings(&server.root());
        same_size_and_time(|| quick(Builder::sftp(&settings)), &server.root());
    });
}

#[test]
fn a_save_in_place_that_a_crash_cut_short_is_held_back_and_a_finished_one_is_sent() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("publish")).unwrap();
        fs::write(site.path().join("publish/half"), b"what the site has").unwrap();
        let mut drive = Builder::local(site.path())
            .set("publish.settle", "50ms")
            .build()
            .mounted();
        let (half, synced) = (drive.path("publish/half"), drive.path("publish/synced"));
        // In a process of its own: what other tests start inherits this one's open files and closes them, and a close is a
        // close, whoever it comes from.
        let mut writer = std::process::Command::new("dd")
            .arg(format!("of={}", half.display()))
            .args(["bs=4", "conv=notrunc", "status=none"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        writer.stdin.as_mut().unwrap().write_all(b"half").unwrap();
        eventually("half is written", || {
            fs::read(&half).is_ok_and(|bytes| bytes.starts_with(b"half"))
        });
        let mut durable = File::create(&synced).unwrap();
        durable.write_all(b"all of it").unwrap();
        durable.sync_all().unwrap();
        drive.kill9();
        drop((writer.stdin.take(), durable));
        writer.wait().unwrap();
        drive.mount();
        eventually("what was synced arrives", || {
            fs::read(site.path().join("publish/synced")).is_ok_and(|bytes| bytes == b"all of it")
        });
        let waited = drive.run(["wait", "--all"]);
        assert_eq!(waited.status.code(), Some(4), "{waited:?}");
        let said = String::from_utf8_lossy(&waited.stderr).into_owned() + &String::from_utf8_lossy(&waited.stdout);
        assert!(
            said.contains("show/publish/half") && said.contains("being written"),
            "{said}"
        );
        assert_eq!(
            fs::read(site.path().join("publish/half")).unwrap(),
            b"what the site has"
        );
        // Saved again, it goes up.
        fs::write(&half, b"a whole save").unwrap();
        drive.tell(["wait", "--all"]);
        assert_eq!(fs::read(site.path().join("publish/half")).unwrap(), b"a whole save");
    });
}
