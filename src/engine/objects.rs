//! The folder `local/`: bytes that exist nowhere else, one file an object, each saying whose it is.
//!
//! Owns: the objects' files and their labels (extended attributes), the space they may take. Refuses to know: what a file
//! of the drive is, when an object is needed no more. Invariant: no file here is deleted that the store has not given up;
//! one that nobody knows is put aside, never away.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, XattrFlags, fgetxattr, fremovexattr, fsetxattr, futimens};
use rustix::io::Errno;
use tracing::warn;
use uuid::Uuid;

use super::local::Facts;
use crate::model::{Ino, RelPath};

/// The folder in the data folder.
pub const DIR: &str = "local";
/// Where objects go that the store does not know.
pub const FOUND: &str = "found";
/// What follows an object's number in its file's name.
const SUFFIX: &str = ".obj";

/// The label that says where in the drive an object's file is, as raw bytes.
pub const PATH_LABEL: &str = "user.backlot.path";
/// The label that says which file of which drive's state it is: the number, a space, the store's uuid.
pub const OWNER_LABEL: &str = "user.backlot.owner";

/// The label of a copy that nobody has written to yet.
const COPY_LABEL: &str = "user.backlot.copy";

/// Folders that objects are spread over, by the last byte of their numbers.
const SHELVES: u64 = 256;
/// Objects in a row that share a shelf.
const TOGETHER: u64 = 64;

/// The objects of one drive.
#[derive(Debug)]
pub(super) struct Objects {
    dir: PathBuf,
    store: Uuid,
    min_free: u64,
    /// A sync of a new file covers its entry, as ext4, XFS, Btrfs and F2FS promise.
    entries_follow: bool,
    unlabelled: AtomicBool,
}

/// `statfs` magics of file systems whose sync of a new file covers the file's entry in its folder (statfs(2)).
const ENTRIES_FOLLOW: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

impl Objects {
    /// Makes the folder ready.
    pub(super) fn open(data_dir: &Path, store: Uuid, min_free: u64) -> io::Result<Self> {
        let dir = data_dir.join(DIR);
        let make = |dir: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        make(&dir)?;
        // Spread, so that no folder gets slow; all of them now, so that no write has to make one.
        for shelf in 0..SHELVES {
            let shelf = dir.join(format!("{shelf:02x}"));
            if !shelf.is_dir() {
                make(&shelf)?;
            }
        }
        let kind = rustix::fs::statfs(&dir).map_or(0, |s| s.f_type);
        Ok(Self {
            dir,
            store,
            min_free,
            entries_follow: ENTRIES_FOLLOW.contains(&kind),
            unlabelled: AtomicBool::new(false),
        })
    }

    /// Returns a number for a new object: drawn, so that none is used twice, whatever became of the database. Some in a row
    /// share a shelf: files that are made one after the other lie side by side on the disk then.
    pub(super) fn new_number() -> u64 {
        static MADE: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(drawn()));
        let shelf = MADE.fetch_add(1, Ordering::Relaxed) / TOGETHER % SHELVES;
        // SQLite's integers are signed, and 0 is for nobody.
        ((drawn() >> 1) / SHELVES * SHELVES + shelf).max(1)
    }

    /// Returns the folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, object: u64) -> PathBuf {
        self.dir.join(format!("{:02x}/{object:016x}{SUFFIX}", object % SHELVES))
    }

    /// Makes the file of a new object, readable and writable. A *copy* of what is elsewhere may be thrown away for as long
    /// as no row names it.
    pub(super) fn create(&self, object: u64, ino: Ino, path: &RelPath, is_copy: bool) -> io::Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(object))?;
        // First: whoever finds it after a kill knows that it may be thrown away.
        if is_copy {
            self.set(&file, COPY_LABEL, b"1");
        }
        self.set(&file, OWNER_LABEL, format!("{ino} {}", self.store).as_bytes());
        self.label(&file, path);
        Ok(file)
    }

    /// Opens the file of an object, readable and writable.
    pub(super) fn open_file(&self, object: u64) -> io::Result<File> {
        File::options().read(true).write(true).open(self.path(object))
    }

    /// Returns length and time of an object's file, if it is there.
    pub(super) fn facts(&self, object: u64) -> Option<Facts> {
        let metadata = fs::metadata(self.path(object)).ok()?;
        let mtime_ns = metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec());
        Some(Facts {
            size: metadata.len(),
            mtime_ns,
            ctime_ns: mtime_ns,
        })
    }

    /// A copy is about to be written to: from now on it is the only one of its kind.
    pub(super) fn is_no_copy(&self, file: &File) {
        // One that was never labelled has nothing to lose.
        fremovexattr(file.as_fd(), COPY_LABEL).unwrap_or_default();
    }

    /// Says whether an object is a copy that nobody has written to.
    pub(super) fn is_copy(&self, object: u64) -> bool {
        let mut value = [0_u8; 1];
        self.open_file(object)
            .is_ok_and(|file| fgetxattr(file.as_fd(), COPY_LABEL, &mut value).is_ok())
    }

    /// Says whether an object's file was just being made: nothing is in it, and it does not say whose it is.
    pub(super) fn is_blank(&self, object: u64) -> bool {
        let mut value = [0_u8; 1];
        self.open_file(object).is_ok_and(|file| {
            file.metadata().is_ok_and(|m| m.len() == 0)
                && fgetxattr(file.as_fd(), PATH_LABEL, &mut value) == Err(Errno::NODATA)
        })
    }

    /// Says where in the drive an object's file is now.
    pub(super) fn label(&self, file: &File, path: &RelPath) {
        self.set(file, PATH_LABEL, path.as_bytes());
    }

    /// The same, for one that is not open.
    pub(super) fn relabel(&self, object: u64, path: &RelPath) {
        if let Ok(file) = self.open_file(object) {
            self.label(&file, path);
        }
    }

    fn set(&self, file: &File, label: &str, value: &[u8]) {
        if let Err(e) = fsetxattr(file.as_fd(), label, value, XattrFlags::empty())
            && !self.unlabelled.swap(true, Ordering::Relaxed)
        {
            let dir = self.dir.display();
            warn!(%dir, error = %e, "what is written here can't be labelled with its path: without the database, \
                `backlot recover` will not know the names. Put data-dir on a disk with extended attributes");
        }
    }

    /// Makes an object's entry in its folder survive a power cut, its bytes having been synced.
    pub(super) fn sync_entry(&self, object: u64) -> io::Result<()> {
        if self.entries_follow {
            return Ok(());
        }
        File::open(self.dir.join(format!("{:02x}", object % SHELVES)))?.sync_all()
    }

    /// Brings all that was written to the disk.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.dir)?)?)
    }

    /// Deletes the file of an object that the store has given up.
    pub(super) fn remove(&self, object: u64) -> io::Result<()> {
        match fs::remove_file(self.path(object)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            out => out,
        }
    }

    /// Returns the objects whose files are there.
    pub(super) fn all(&self) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        for shelf in 0..SHELVES {
            for entry in fs::read_dir(self.dir.join(format!("{shelf:02x}")))? {
                all.extend(number_of(&entry?.file_name()));
            }
        }
        Ok(all)
    }

    /// Puts an object aside that the store does not know, and returns where it is now.
    pub(super) fn put_aside(&self, object: u64) -> io::Result<PathBuf> {
        let found = self.dir.join(FOUND);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&found)?;
        let to = found.join(format!("{object:016x}{SUFFIX}"));
        fs::rename(self.path(object), &to)?;
        Ok(to)
    }

    /// Returns how many objects were put aside.
    pub(super) fn put_aside_count(&self) -> u64 {
        fs::read_dir(self.dir.join(FOUND)).map_or(0, |entries| entries.count() as u64)
    }

    /// Returns total and available bytes of the disk, the reserve taken off.
    pub(super) fn space(&self) -> (u64, u64) {
        rustix::fs::statvfs(&self.dir).map_or((0, 0), |s| {
            let available = s.f_bavail.saturating_mul(s.f_frsize);
            (
                s.f_blocks.saturating_mul(s.f_frsize),
                available.saturating_sub(self.min_free),
            )
        })
    }

    /// Says whether so many more bytes fit.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.space().1 >= bytes
    }
}

fn drawn() -> u64 {
    u64::from_le_bytes(Uuid::new_v4().as_bytes()[..8].try_into().unwrap_or([1; 8]))
}

/// Returns the number of the object that a file of this name holds; `None` for what is no object's.
#[must_use]
pub fn number_of(file_name: &OsStr) -> Option<u64> {
    let number = file_name.to_str()?.strip_suffix(SUFFIX)?;
    u64::from_str_radix(number, 16).ok()
}

/// Gives an object's file a modification time, nanoseconds since 1970. Where the disk can't, its own time stays.
pub(super) fn set_mtime(file: &File, mtime_ns: i64) {
    let last_modification = Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
    };
    let last_access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access,
        last_modification,
    };
    futimens(file, &times).unwrap_or_default();
}

/// Says whether a disk has no room, or this user may not take more of it.
pub(super) fn is_full(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    code == Some(Errno::NOSPC.raw_os_error()) || code == Some(Errno::DQUOT.raw_os_error())
}
