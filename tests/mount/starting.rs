//! Mounting: what is in the way is said, with what to do about it, and left as it is.

use std::fs;
use std::path::Path;

use crate::common::drive::{Builder, Drive, Refused, drive_test, mounts_at};
use crate::common::tree;

fn site() -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    tree::write(&site.path().join("a"), 1, 1000);
    site
}

fn reads(drive: &Drive) {
    assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path("a")).unwrap()), None);
}

/// The daemon must not start; returns what it said: what failed, why, and what to do next.
fn refusal(drive: &mut Drive) -> String {
    let Err(Refused { code, said }) = drive.try_mount() else {
        panic!("it mounted")
    };
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains("because "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(mounts_at(drive.mount_point()), 0);
    said
}

#[test]
fn a_mount_point_that_can_not_be_used_is_said_so_and_left_as_it_is() {
    drive_test(|| {
        let site = site();
        let mut drive = Builder::local(site.path()).build();
        let point = drive.mount_point().to_owned();

        fs::remove_dir(&point).unwrap();
        let said = refusal(&mut drive);
        assert!(said.contains("no such folder") && said.contains("mkdir -p"), "{said}");
        assert!(!point.exists());

        fs::write(&point, b"mine").unwrap();
        let said = refusal(&mut drive);
        assert!(said.contains("not a folder"), "{said}");
        assert_eq!(fs::read(&point).unwrap(), b"mine");

        fs::remove_file(&point).unwrap();
        fs::create_dir(&point).unwrap();
        fs::write(point.join("work.nk"), b"mine").unwrap();
        let said = refusal(&mut drive);
        assert!(said.contains("not empty") && said.contains("empty folder"), "{said}");
        assert_eq!(fs::read(point.join("work.nk")).unwrap(), b"mine");

        fs::remove_file(point.join("work.nk")).unwrap();
        drive.scan();
        drive.mount();
        reads(&drive);
    });
}

#[test]
fn a_second_daemon_of_the_same_drive_is_refused_and_told_who_the_first_is() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        let refused = drive.refused(["mount"]);
        assert!(
            refused.said.contains("in use") && refused.said.contains(&drive.pid().to_string()),
            "{refused:?}"
        );
        reads(&drive);
        assert_eq!(mounts_at(drive.mount_point()), 1);
        // A scan is not refused: it is done by the daemon that runs.
        drive.scan();
    });
}

#[test]
fn another_drive_on_the_same_mount_point_is_refused() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        let point = drive.mount_point().to_str().unwrap();
        let other = Builder::local(site.path()).set("drive.mount-point", point).build();
        let refused = other.refused(["mount"]);
        assert!(
            refused.said.contains("mounted there already") && refused.said.contains("backlot-test"),
            "{refused:?}"
        );
        assert_eq!(mounts_at(drive.mount_point()), 1);
        reads(&drive);
    });
}

fn database(drive: &Drive) -> std::path::PathBuf {
    drive.data_dir().join("state.sqlite")
}

/// Everything in the data folder that belongs to the database.
fn database_files(drive: &Drive) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(drive.data_dir())
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().as_encoded_bytes().starts_with(b"state.sqlite"))
        .map(|e| (e.file_name(), fs::read(e.path()).unwrap()))
        // An index of the log, and a log without a line, hold nothing.
        .filter(|(name, bytes)| !name.as_encoded_bytes().ends_with(b"-shm") && !bytes.is_empty())
        .collect();
    files.sort();
    files
}

fn assert_untouched(drive: &Drive, before: &[(std::ffi::OsString, Vec<u8>)]) {
    let after = database_files(drive);
    let names =
        |files: &[(std::ffi::OsString, Vec<u8>)]| files.iter().map(|(n, b)| (n.clone(), b.len())).collect::<Vec<_>>();
    assert_eq!(names(&after), names(before));
    for ((name, was), (_, is)) in before.iter().zip(&after) {
        assert_eq!(
            was.iter().zip(is).position(|(a, b)| a != b),
            None,
            "the first byte of {name:?} that changed"
        );
    }
}

fn overwrite(path: &Path, at: usize, with: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_database_of_a_newer_program_is_refused_and_left_as_it_is() {
    drive_test(|| {
        let site = site();
        let mut drive = Builder::local(site.path()).build();
        drive.scan();
        // Bytes 60 to 63 of an SQLite database are its user_version.
        overwrite(&database(&drive), 60, &99_u32.to_be_bytes());
        let before = database_files(&drive);
        let said = refusal(&mut drive);
        assert!(said.contains("version 99") && said.contains("update"), "{said}");
        assert_eq!(drive.run(["scan"]).status.code(), Some(1));
        assert_untouched(&drive, &before);
    });
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    drive_test(|| {
        let site = site();
        let mut drive = Builder::local(site.path()).build();
        fs::write(database(&drive), tree::bytes(1, 0, 100_000)).unwrap();
        let before = database_files(&drive);
        let said = refusal(&mut drive);
        assert!(
            said.contains("not a state database") && said.contains("aside"),
            "{said}"
        );
        assert_untouched(&drive, &before);
    });
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::Tree::plan(1, 2000, 10, &[1]).write(site.path());
        let mut drive = Builder::local(site.path()).build().mounted();
        drive.unmount();
        // A daemon that dies leaves word that the database is to be looked through at the next start.
        drive.mount();
        drive.kill9();
        crate::common::drive::eventually("the dead mount is gone", || {
            drive.run(["unmount", "--lazy"]).status.success() || mounts_at(drive.mount_point()) == 0
        });
        let len = fs::metadata(database(&drive)).unwrap().len();
        assert!(len > 100_000, "large enough to be damaged in its middle");
        let middle = usize::try_from(len / 2).unwrap();
        overwrite(&database(&drive), middle, &[0xab; 20_000]);
        let before = database_files(&drive);
        let said = refusal(&mut drive);
        assert!(said.contains("is damaged") && said.contains("aside"), "{said}");
        assert_untouched(&drive, &before);
        let doctor = drive.run(["doctor", "--deep"]);
        assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");

        // What it says helps.
        for (name, _) in before {
            fs::rename(drive.data_dir().join(&name), drive.dir().join(&name)).unwrap();
        }
        drop(fs::remove_file(drive.data_dir().join("state.sqlite-shm")));
        drive.scan();
        drive.mount();
        assert_eq!(drive.status()["files"], 2000);
    });
}

#[test]
fn settings_that_make_no_sense_are_told_at_their_place() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).set("hydration.read-dedline", "2s").build();
        let refused = drive.refused(["mount"]);
        assert_eq!(refused.code, Some(2));
        assert!(
            refused.said.contains("read-dedline") && refused.said.contains("read-deadline"),
            "{refused:?}"
        );
        assert!(refused.said.contains("backlot.toml"), "{refused:?}");
        let drive = Builder::local(site.path()).set("hydration.small-file", "many").build();
        let refused = drive.refused(["mount"]);
        assert_eq!(refused.code, Some(2));
        assert!(refused.said.contains("small-file"), "{refused:?}");
    });
}
