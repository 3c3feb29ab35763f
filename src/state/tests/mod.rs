//! The store from outside, against real files.

mod basics;
mod copies;
mod crash;
mod edit;
mod group;
mod many;
mod model;
mod opening;
mod outbox;
mod pins;
mod queue;
mod sites;
mod stress;
mod waiting;

use std::path::Path;

use futures::FutureExt;
use tempfile::TempDir;

use super::{ListingDiff, Moment, NewProject, Remote, StateError, StateStore, WriteTxn};
use crate::model::{EntryKind, Ino, Name, ProjectName, RelPath, SiteName, Version};

/// A moment, milliseconds since 1970.
const NOW: i64 = 1_795_000_000_000;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn file(text: &str, size: u64) -> Remote {
    let (name, version) = (name(text), Version::from_size_mtime(size, 7));
    Remote {
        name,
        kind: EntryKind::File,
        size,
        mtime_ns: 7,
        perm: Some(0o644),
        version,
        target: None,
    }
}

fn dir(text: &str) -> Remote {
    Remote {
        kind: EntryKind::Dir,
        perm: Some(0o755),
        ..file(text, 0)
    }
}

fn link(text: &str, target: &str) -> Remote {
    Remote {
        kind: EntryKind::Symlink,
        target: Some(target.into()),
        ..file(text, target.len() as u64)
    }
}

fn project(name: &str, folder: &str) -> NewProject {
    NewProject {
        name: ProjectName(name.to_owned()),
        folder: Name::new(folder.as_bytes()).unwrap(),
        remote_site: SiteName("studio".to_owned()),
        remote_path: path(folder),
    }
}

/// A store in a folder of its own with one project.
struct Fixture {
    store: StateStore,
    root: Ino,
    home: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let store = StateStore::open(home.path()).unwrap();
        let root = write(&store, |txn| txn.set_projects(&[project("demo", "demo")], NOW)).unwrap()[0];
        Self { store, root, home }
    }

    fn list(&self, dir: Ino, entries: &[Remote]) -> ListingDiff {
        let entries = entries.to_vec();
        write(&self.store, move |txn| {
            txn.apply_listing(dir, &entries, None, Moment::LAST, NOW)
        })
        .unwrap()
    }

    fn reopen(self) -> Self {
        let Self { store, root, home } = self;
        store.close();
        Self {
            store: StateStore::open(home.path()).unwrap(),
            root,
            home,
        }
    }

    fn database(&self) -> std::path::PathBuf {
        database(self.home.path())
    }

    fn check(&self) {
        assert_eq!(self.store.check().unwrap(), []);
    }
}

fn database(home: &Path) -> std::path::PathBuf {
    home.join(super::schema::FILE_NAME)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn write<T: Send + 'static>(
    store: &StateStore,
    f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    block_on(store.write(f).boxed())
}

/// Makes the database of a version before this one, and returns a connection to it.
fn old_store(home: &TempDir, version: usize) -> rusqlite::Connection {
    let scripts = [
        include_str!("../migrations/001_init.sql"),
        include_str!("../migrations/002_writing.sql"),
        include_str!("../migrations/003_pins.sql"),
    ];
    let old = rusqlite::Connection::open(home.path().join("state.sqlite")).unwrap();
    old.pragma_update(None, "application_id", 0x426b_4c74).unwrap();
    old.pragma_update(None, "journal_mode", "wal").unwrap();
    for script in &scripts[..version] {
        old.execute_batch(script).unwrap();
    }
    let uuid = "INSERT INTO meta VALUES ('uuid', '6f9c1f0e-6a57-4f6b-9d8e-0a4f5f1f3a55')";
    old.execute_batch(uuid).unwrap();
    old.pragma_update(None, "user_version", i64::try_from(version).unwrap())
        .unwrap();
    old
}
