//! Opening: who may, what is refused, and that what is refused is left alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::state::{Tree, schema};

/// Names the folder for a test run again in a child of its own.
const CHILD: &str = "BACKLOT_STATE_TEST_DIR";

#[test]
fn a_store_keeps_its_name_and_content() {
    let home = TempDir::new().unwrap();
    let data = home.path().join("a/b");
    let store = StateStore::open(&data).unwrap();
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    let uuid = store.uuid();
    assert_eq!(uuid.get_version_num(), 4);
    store.close();
    assert!(matches!(store.read(|txn| txn.counts()), Err(StateError::Closed)));
    assert!(matches!(write(&store, |_| Ok(())), Err(StateError::Closed)));
    store.close();
    assert_eq!(StateStore::open(&data).unwrap().uuid(), uuid);
    assert_ne!(Fixture::new().store.uuid(), uuid);
}

#[test]
fn a_second_owner_is_refused_and_told_who_the_first_is() {
    let t = Fixture::new();
    let refused = StateStore::open(t.home.path()).unwrap_err();
    let StateError::InUse { pid, path } = &refused else {
        panic!("{refused}")
    };
    assert_eq!((*pid, path.as_path()), (Some(std::process::id()), t.home.path()));
    assert!(
        refused.to_string().contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    let clone = t.store.clone();
    drop(t.store);
    assert!(StateStore::open(t.home.path()).is_err(), "a clone still has it");
    drop(clone);
    StateStore::open(t.home.path()).unwrap();
}

#[test]
fn a_reader_looks_on_while_the_owner_writes() {
    let t = Fixture::new();
    let reader = StateStore::open_read_only(t.home.path()).unwrap();
    let tree = Tree::new(reader.clone());
    assert_eq!(reader.uuid(), t.store.uuid());
    assert_eq!(tree.lookup(t.root, b"a").unwrap(), None);
    let a = t.list(t.root, &[file("a", 1)]).added[0].1;
    assert_eq!(tree.lookup(t.root, b"a").unwrap().unwrap().size, 1);
    assert_eq!(tree.node(a).unwrap().unwrap().size, 1);
    t.list(t.root, &[file("a", 2)]);
    assert_eq!(
        tree.lookup(t.root, b"a").unwrap().unwrap().size,
        2,
        "nothing is held of what others write"
    );
    assert_eq!(tree.node(a).unwrap().unwrap().size, 2);
    assert!(matches!(write(&reader, |_| Ok(())), Err(StateError::ReadOnly)));
    assert_eq!(reader.check().unwrap(), []);
    let nothing = TempDir::new().unwrap();
    assert!(matches!(
        StateStore::open_read_only(nothing.path()),
        Err(StateError::Io { .. })
    ));
    assert_eq!(fs::read_dir(nothing.path()).unwrap().count(), 0);
}

/// Makes a store with something in it, closes it, and returns its database.
fn closed() -> (TempDir, PathBuf) {
    let t = Fixture::new();
    let entries: Vec<_> = (0..2000).map(|i| file(&format!("f{i:05}"), 1)).collect();
    t.list(t.root, &entries);
    t.store.close();
    let database = t.database();
    assert!(
        !database.with_extension("sqlite-wal").exists(),
        "a clean stop leaves one file"
    );
    (t.home, database)
}

/// Opens and expects a refusal that leaves the database as it is.
fn refused(home: &TempDir, database: &Path) -> StateError {
    let before = fs::read(database).unwrap();
    for _ in 0..2 {
        StateStore::open(home.path()).unwrap_err();
        StateStore::open_read_only(home.path()).unwrap_err();
        assert!(fs::read(database).unwrap() == before, "the file was touched");
    }
    StateStore::open(home.path()).unwrap_err()
}

#[test]
fn a_newer_database_is_refused_with_both_versions_named() {
    let (home, database) = closed();
    let (ours, newer) = (schema::known_version(), schema::known_version() + 4);
    rusqlite::Connection::open(&database)
        .unwrap()
        .pragma_update(None, "user_version", newer)
        .unwrap();
    let error = refused(&home, &database);
    assert!(
        matches!(error, StateError::TooNew { found, known, .. } if (found, known) == (newer, ours)),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains(&format!("version {newer}"))
            && text.contains(&format!("up to {ours}"))
            && text.contains("state.sqlite"),
        "{text}"
    );
}

#[test]
fn another_programs_file_is_refused() {
    let (home, database) = closed();
    fs::write(&database, "my shopping list\n".repeat(500)).unwrap();
    assert!(matches!(refused(&home, &database), StateError::NotADatabase(path) if path == database));
    fs::remove_file(&database).unwrap();
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute_batch("CREATE TABLE bookmarks (url)")
        .unwrap();
    assert!(matches!(refused(&home, &database), StateError::NotADatabase(path) if path == database));
}

#[test]
fn a_damaged_database_is_refused_after_an_unclean_stop_and_left_alone() {
    let (home, database) = closed();
    let mut bytes = fs::read(&database).unwrap();
    bytes[4096 * 8..4096 * 12].fill(0xa5);
    fs::write(&database, bytes).unwrap();
    StateStore::open(home.path()).unwrap().close();
    // The last owner's number is still there: it was killed.
    fs::write(home.path().join("lock"), "4711\n").unwrap();
    let before = fs::read(&database).unwrap();
    let error = StateStore::open(home.path()).unwrap_err();
    let StateError::Damaged { path, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*path, database);
    assert!(error.to_string().contains("move the file aside"), "{error}");
    assert!(fs::read(&database).unwrap() == before, "the file was touched");
    assert!(
        matches!(StateStore::open(home.path()), Err(StateError::Damaged { .. })),
        "still, the next time"
    );
    assert!(
        StateStore::open_read_only(home.path())
            .unwrap()
            .check()
            .is_ok_and(|found| !found.is_empty())
    );
}

#[test]
fn damage_met_while_running_is_told_as_such() {
    let (home, database) = closed();
    let length = fs::metadata(&database).unwrap().len();
    let mut bytes = fs::read(&database).unwrap();
    bytes[4096 * 2..].fill(0xa5);
    assert_eq!(bytes.len() as u64, length);
    fs::write(&database, bytes).unwrap();
    let met = StateStore::open(home.path()).and_then(|store| store.read(|txn| txn.children(Ino(3), 0, 9000)).map(drop));
    assert!(
        matches!(&met, Err(StateError::Damaged { path, .. }) if *path == database),
        "{met:?}"
    );
}

/// Runs a test of this file again in a child that may mount, with a small disk of its own at [`CHILD`].
fn on_a_small_disk(test: &str) {
    let home = TempDir::new().unwrap();
    let script = "mount -t tmpfs -o size=3m none \"$0\" && exec \"$@\"";
    let child = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(home.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("state::tests::opening::{test}"), "--nocapture"])
        .env(CHILD, home.path())
        .stdin(Stdio::null())
        .output();
    let child = match child {
        Ok(child) => child,
        Err(e) => return println!("SKIPPED {test}: no unshare here: {e}"),
    };
    let (out, err) = (
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr),
    );
    if !child.status.success() && !out.contains("running 1 test") {
        return println!("SKIPPED {test}: no mounts here: {err}");
    }
    assert!(
        child.status.success() && out.contains("the fault fired"),
        "{out}\n{err}"
    );
}

#[test]
fn a_full_disk_loses_the_write_that_did_not_fit_and_nothing_else() {
    let Some(home) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return on_a_small_disk("a_full_disk_loses_the_write_that_did_not_fit_and_nothing_else");
    };
    let store = StateStore::open(&home).unwrap();
    let root = write(&store, |txn| txn.set_projects(&[project("demo", "demo")], NOW)).unwrap()[0];
    let mut kept = 0;
    let full = loop {
        let entry = file(&format!("f{kept:05}{}", "x".repeat(200)), 1);
        match write(&store, move |txn| txn.apply_entry(root, &entry, Moment::LAST, NOW)) {
            Ok(_) => kept += 1,
            Err(e) => break e,
        }
        assert!(kept < 100_000, "the disk never filled");
    };
    assert!(matches!(full, StateError::Full(_)), "{full:?}");
    println!("the fault fired after {kept} writes");
    assert_eq!(store.read(|txn| txn.counts()).unwrap().files, kept);
    assert_eq!(store.check().unwrap(), []);
    // Room is made elsewhere on the disk (a bigger disk, here), and writing goes on.
    assert!(
        Command::new("mount")
            .args(["-o", "remount,size=8m"])
            .arg(&home)
            .status()
            .unwrap()
            .success()
    );
    write(&store, move |txn| {
        txn.apply_entry(root, &file("fits", 1), Moment::LAST, NOW)
    })
    .unwrap();
    store.close();
    let store = StateStore::open(&home).unwrap();
    assert_eq!(store.read(|txn| txn.counts()).unwrap().files, kept + 1);
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn a_read_only_folder_is_refused_by_name() {
    let Some(home) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return on_a_small_disk("a_read_only_folder_is_refused_by_name");
    };
    let store = StateStore::open(&home).unwrap();
    let root = write(&store, |txn| txn.set_projects(&[project("demo", "demo")], NOW)).unwrap()[0];
    store.close();
    drop(store);
    let remount = |how: &str| {
        Command::new("mount")
            .args(["-o", how])
            .arg(&home)
            .status()
            .unwrap()
            .success()
    };
    assert!(remount("remount,ro"));
    let refused = StateStore::open(&home).unwrap_err();
    assert!(
        matches!(&refused, StateError::Io { path, .. } if path.starts_with(&home)),
        "{refused:?}"
    );
    println!("the fault fired: {refused}");
    assert!(remount("remount,rw"));
    let store = StateStore::open(&home).unwrap();
    write(&store, move |txn| {
        txn.apply_entry(root, &file("a", 1), Moment::LAST, NOW)
    })
    .unwrap();
}
