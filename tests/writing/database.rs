//! The state database can't be written for a while: held by another program, or on a disk that went read-only.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::common::content::{self, Id, Seen, close};
use crate::common::drive::{Builder, drive_test, is_root, say, succeeds};
use crate::common::queue;
use crate::rig::{DRAIN, propagating, same_on_all_sides, seen};

fn id(version: u64) -> Id {
    Id { file: 1, version }
}

#[test]
fn a_database_that_another_program_holds_for_seconds_delays_and_loses_nothing() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let builder = || propagating(Builder::local(site.path()));
        let drive = builder().build().mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        fs::write(drive.path("publish/before"), content::whole(id(1), 50_000)).unwrap();
        let file = drive.data_dir().join("state.sqlite");
        let saving = {
            let path = drive.path("publish");
            let held = Duration::from_secs(3);
            let connection = Connection::open(&file).unwrap();
            connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
            let saving = thread::spawn(move || {
                let begun = Instant::now();
                for n in 10..14 {
                    let mut file = File::create(path.join(format!("f{n}"))).unwrap();
                    file.write_all(&content::whole(id(n), 60_000)).unwrap();
                    file.sync_all().unwrap();
                    close(file).unwrap();
                }
                begun.elapsed()
            });
            thread::park_timeout(held);
            assert!(
                !saving.is_finished(),
                "the database is held: nothing is promised before it can be"
            );
            connection.execute_batch("COMMIT").unwrap();
            saving
        };
        let took = saving.join().unwrap();
        say(&format!(
            "database: saving took {took:.1?} with the database held for 3 s"
        ));
        queue::drained(&drive, DRAIN);
        for n in 10..14 {
            assert_eq!(
                seen(&site.path().join(format!("publish/f{n}"))),
                Some(Seen::Whole(id(n)))
            );
        }
        same_on_all_sides(&drive, site.path(), builder());
    });
}

#[test]
fn a_database_that_is_held_while_files_go_up_delays_and_repeats_nothing() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let builder = || propagating(Builder::local(site.path()));
        let drive = builder().set("publish.settle", "200ms").build().mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        let file = drive.data_dir().join("state.sqlite");
        for round in 0..3 {
            for n in 0..20 {
                let bytes = content::whole(id(round * 100 + n), 60_000);
                fs::write(drive.path(format!("publish/f{n}")), bytes).unwrap();
            }
            thread::park_timeout(Duration::from_millis(150 + 30 * round));
            let connection = Connection::open(&file).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
            thread::park_timeout(Duration::from_millis(1500));
            connection.execute_batch("COMMIT").unwrap();
        }
        same_on_all_sides(&drive, site.path(), builder());
    });
}

#[test]
fn a_disk_that_went_read_only_refuses_saves_loses_none_that_it_took_and_recovers() {
    drive_test(|| {
        if !is_root() {
            return say("SKIPPED: small disk (not root)");
        }
        let (disk, site) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mount = |options: &str| {
            succeeds(
                Command::new("mount")
                    .args(["-t", "tmpfs", "-o", options, "tmpfs"])
                    .arg(disk.path()),
            );
        };
        mount("size=64m,mode=755");
        let data = disk.path().join("data");
        fs::create_dir(&data).unwrap();
        let builder = || propagating(Builder::local(site.path()));
        let mut drive = builder()
            .set("drive.data-dir", data.to_str().unwrap())
            .set("publish.settle", "400ms")
            .set("publish.min-free", "1MiB")
            .build()
            .mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        for n in 0..5 {
            fs::write(drive.path(format!("publish/f{n}")), content::whole(id(n), 60_000)).unwrap();
        }
        // A disk with files open for writing does not go read-only by asking; an overlay of the same place does.
        let read_only = Command::new("mount")
            .args(["-o", "remount,ro,force"])
            .arg(disk.path())
            .output()
            .unwrap();
        if read_only.status.success() {
            let refused = fs::write(drive.path("publish/no"), b"no");
            assert!(refused.is_err(), "nothing can be saved");
            thread::park_timeout(Duration::from_millis(800));
            succeeds(Command::new("mount").args(["-o", "remount,rw"]).arg(disk.path()));
        } else {
            // Killed, it starts on a disk that can't be written, says so, and starts once it can.
            drive.kill9();
            succeeds(Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()));
            let refused = drive.try_mount().expect_err("it can't start");
            say(&format!("database: on a read-only disk: {}", refused.said.trim()));
            assert!(refused.said.to_lowercase().contains("read-only"), "{}", refused.said);
            succeeds(Command::new("mount").args(["-o", "remount,rw"]).arg(disk.path()));
            drive.mount();
        }
        queue::drained(&drive, DRAIN);
        for n in 0..5 {
            assert_eq!(
                seen(&site.path().join(format!("publish/f{n}"))),
                Some(Seen::Whole(id(n)))
            );
        }
        same_on_all_sides(&drive, site.path(), builder());
        drop(drive);
        drop(Command::new("umount").arg("-l").arg(disk.path()).status());
    });
}
