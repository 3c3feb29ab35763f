//! The data folder: taken, too new, damaged, not to be written. Whatever is refused is left as it was.

use std::fs;

use crate::common::drive::{Builder, Drive, drive_test, is_root};
use crate::home::Home;

/// Every verb that opens the store says why it can't, and `doctor` says so without being stopped by it.
fn store_is_bad(home: &Home, says: &[&str]) {
    for verb in ["scan", "mount"] {
        home.run(["-c", "backlot.toml", verb]).failed(1, says);
    }
    let doctor = home.run(["-c", "backlot.toml", "doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:#?}");
    let found = doctor
        .out
        .lines()
        .find(|l| l.starts_with("BAD  store"))
        .unwrap_or_else(|| panic!("{doctor:#?}"));
    for wanted in says {
        assert!(doctor.out.contains(wanted), "not said: {wanted}\n{found}");
    }
    assert!(
        doctor.out.contains("ok   site"),
        "the rest is looked at all the same: {doctor:#?}"
    );
}

fn scanned() -> Home {
    let home = Home::new();
    home.local_settings(&format!("data-dir = {:?}", home.join("data")));
    home.run(["-c", "backlot.toml", "scan"]).ok();
    home
}

#[test]
fn a_database_of_a_newer_program_is_left_alone() {
    let home = scanned();
    let database = home.join("data/state.sqlite");
    let version = || -> u32 {
        let opened = rusqlite::Connection::open(&database).expect("opened");
        opened
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .expect("a version")
    };
    let known = version();
    let opened = rusqlite::Connection::open(&database).expect("opened");
    opened.pragma_update(None, "user_version", 4711).expect("set");
    drop(opened);
    let says = format!("has version 4711, and this program knows versions up to {known}");
    store_is_bad(&home, &[&says, "update"]);
    assert_eq!(version(), 4711);
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let home = scanned();
    let database = home.join("data/state.sqlite");
    let garbage = b"these are the notes of a supervisor, not a database\n".repeat(200);
    fs::write(&database, &garbage).expect("written");
    for more in ["-wal", "-shm"] {
        drop(fs::remove_file(home.join(&format!("data/state.sqlite{more}"))));
    }
    store_is_bad(
        &home,
        &[
            "is not a state database of backlot",
            "the next scan lists the projects anew",
        ],
    );
    assert_eq!(fs::read(&database).expect("there"), garbage);

    // What the hint says does help.
    fs::rename(&database, home.join("data/state.sqlite.aside")).expect("moved");
    home.run(["-c", "backlot.toml", "scan"]).ok();
}

#[test]
fn a_data_folder_that_cannot_be_is_told_with_its_path() {
    let home = Home::new();
    let file = home.write("file", "in the way");
    let data = file.join("data");
    home.local_settings(&format!("data-dir = {data:?}"));
    let path = data.to_str().expect("UTF-8");
    for verb in [&["scan"] as &[_], &["mount"], &["mount", "--daemon"]] {
        home.run(["-c", "backlot.toml"].iter().chain(verb))
            .failed(1, &[path, "drive.data-dir"]);
    }
}

#[test]
fn a_data_folder_that_may_not_be_written_is_told_with_its_path() {
    let site = tempfile::tempdir().expect("a folder");
    // As root nothing is forbidden, so another user is.
    let other = if is_root() { Some(65_534) } else { None };
    let builder = Builder::local(site.path());
    let drive = match other {
        Some(user) => builder.user(user).build(),
        None => builder.build(),
    };
    let mode = |mode| fs::set_permissions(drive.data_dir(), std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o500).expect("ours");
    let path = drive.data_dir().to_str().expect("UTF-8");
    let refused = drive.refused(["scan"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.said.contains(path) && refused.said.contains("drive.data-dir"),
        "{refused:?}"
    );
    let doctor = drive.run(["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(
        said.contains(&format!("BAD  data       {path} can't be written")),
        "{said}"
    );
    mode(0o700).expect("ours");
}

#[test]
fn a_data_folder_in_use_names_the_process() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let mut drive: Drive = Builder::local(site.path()).build();
        drive.mount();
        let pid = format!("is in use by process {}", drive.pid());
        for verb in [&["mount"] as &[_], &["mount", "--daemon"]] {
            let refused = drive.refused(verb);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            assert!(
                refused.said.contains(&pid) && refused.said.contains("`backlot unmount`"),
                "{refused:?}"
            );
        }
        drive.tell(["status"]);
        drive.unmount();
    });
}
