//! The cache folder as a whole: taking it, noticing that it is gone, starting it anew, sweeping what belongs to nobody.
//!
//! Owns: the lock file, the identity of what was opened, the trash and orphans. Refuses to know: bits, granules.
//! Invariant: nothing is written below a folder whose lock this process does not hold. After a loss every content gets a
//! new key before a new index exists, so no bit of the lost folder can count in the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::files::{self, Files};
use crate::index::{self, Found, Index};
use crate::sync::{lock, read, write};
use crate::{CacheError, Shared};

/// A folder in our hands.
pub(crate) struct Attached {
    pub(crate) index: Arc<Index>,
    marks: Vec<(PathBuf, FileId)>,
    /// Last, so that the index is closed when another process may come.
    _lock: Lock,
}

/// The folder's lock, held until dropped.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to closing the file: a process being started holds a copy of every descriptor until its exec.
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock the cache folder; it is free when this process ends");
        }
    }
}

/// Device and inode. Sound as an identity only while the file is held open, or for noticing that something changed.
#[derive(PartialEq, Eq, Clone, Copy)]
struct FileId(u64, u64);

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|m| Self(m.dev(), m.ino()))
    }
}

impl Attached {
    /// True while lock, index and objects are still the ones that were opened.
    pub(crate) fn is_intact(&self) -> bool {
        self.marks
            .iter()
            .all(|(path, id)| FileId::of(path).is_ok_and(|now| now == *id))
    }
}

/// Takes the folder, creating what is missing. With `anew`, or if its index can't be used, all content in it is given up.
pub(crate) fn attach(files: &Files, dir: &Path, anew: bool) -> Result<(Attached, Found), CacheError> {
    let fail = |op, path: &Path| {
        let path = path.to_owned();
        move |e| CacheError::from_io(op, &path, 0, e)
    };
    let (objects, trash) = (files.objects(), files.trash());
    create_dir(dir).map_err(fail("create", dir))?;
    let (lock_path, lock) = take_lock(dir)?;
    create_dir(&trash).map_err(fail("create", &trash))?;
    if anew {
        index::remove(dir)?;
    }
    let (index, found) = match Index::open(dir) {
        Err(e) if e.damaged => {
            tracing::warn!(dir = %dir.display(), error = %e.error, cause = std::error::Error::source(&e.error), "cache index unusable; starting empty");
            index::remove(dir)?;
            Index::open(dir).map_err(|e| e.error)?
        }
        other => other.map_err(|e| e.error)?,
    };
    if found.is_new && objects.exists() {
        fs::rename(&objects, files.aside("objects")).map_err(fail("set aside", &objects))?;
    }
    create_dir(&objects).map_err(fail("create", &objects))?;
    let mark = |path: PathBuf| FileId::of(&path).map_err(fail("stat", &path)).map(|id| (path, id));
    let marks = vec![mark(lock_path)?, mark(index::index_path(dir))?, mark(objects)?];
    Ok((
        Attached {
            index: Arc::new(index),
            marks,
            _lock: lock,
        },
        found,
    ))
}

/// With its parents. For this user only: what lies in the cache is what the studio keeps on guarded shares.
fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes the exclusive lock and writes our pid into it.
fn take_lock(dir: &Path) -> Result<(PathBuf, Lock), CacheError> {
    let path = dir.join("lock");
    let fail = |op| {
        let path = &path;
        move |e| CacheError::from_io(op, path, 0, e)
    };
    // Again if the file was deleted between opening and locking: a lock nobody else can find protects nothing.
    for _ in 0..8 {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail("open"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(CacheError::InUse { pid });
            }
            Err(e) => return Err(fail("lock")(e.into())),
        }
        let locked = file
            .metadata()
            .map(|m| FileId(m.dev(), m.ino()))
            .map_err(fail("stat"))?;
        if FileId::of(&path).is_ok_and(|named| named == locked) {
            file.set_len(0).and_then(|()| file.rewind()).map_err(fail("write"))?;
            writeln!(file, "{}", std::process::id()).map_err(fail("write"))?;
            return Ok((path, Lock(file)));
        }
    }
    Err(fail("lock")(io::ErrorKind::NotFound.into()))
}

impl Shared {
    /// Makes sure that the folder is there and ours, starting it anew if it was deleted, moved or found damaged.
    /// The caller holds no lock of any content.
    pub(crate) fn ensure_attached(self: &Arc<Self>) -> Result<(), CacheError> {
        let _one = lock(&self.attaching);
        self.check_open()?;
        let damaged = self.index_damaged.load(Ordering::Acquire);
        if !damaged && read(&self.attached).as_ref().is_some_and(Attached::is_intact) {
            return Ok(());
        }
        // The first of several attempts: say so, and let go of everything. The old index must be closed before a new one
        // lies at its path.
        let lost = write(&self.attached).take();
        if lost.is_some() {
            tracing::warn!(dir = %self.options.dir.display(), damaged, "cache folder lost; starting empty");
            self.counters.folders_lost.fetch_add(1, Ordering::Relaxed);
        }
        drop(lost);
        lock(&self.books).clear();
        lock(&self.proven).clear();
        self.files.forget_all();
        let live: Vec<_> = lock(&self.live).values().filter_map(std::sync::Weak::upgrade).collect();
        for content in live {
            content.start_over();
        }
        let (attached, found) = attach(&self.files, &self.options.dir, true)?;
        debug_assert!(found.contents.is_empty(), "a new index knows nothing");
        *write(&self.attached) = Some(attached);
        self.index_damaged.store(false, Ordering::Release);
        self.sweep(false);
        Ok(())
    }

    /// Deletes, in the background, what lies in the trash and, with `orphans`, data files that no content claims.
    pub(crate) fn sweep(self: &Arc<Self>, orphans: bool) {
        let shared = Arc::clone(self);
        let spawned = thread::Builder::new().name("cache-sweep".to_owned()).spawn(move || {
            let stop = || shared.is_closed();
            files::walk(&shared.files.trash(), 3, &stop, &mut files::delete);
            files::remove_empty_dirs(&shared.files.trash(), 3);
            if orphans {
                files::walk(&shared.files.objects(), 1, &stop, &mut |path| {
                    shared.delete_orphan(path)
                });
            }
        });
        match spawned {
            Ok(sweeper) => {
                let mut threads = lock(&self.threads);
                threads.retain(|t| !t.is_finished());
                threads.push(sweeper);
            }
            Err(error) => {
                tracing::warn!(%error, "no thread to sweep the cache folder; its trash stays until the next start")
            }
        }
    }

    fn delete_orphan(&self, path: &Path) {
        let id = Files::id_of(path);
        // Held during the deletion: a content opened now could be filling this very file.
        let live = lock(&self.live);
        let claimed = id.is_some_and(|id| live.contains_key(&id) || lock(&self.books).get(id).is_some());
        if !claimed {
            tracing::debug!(path = %path.display(), "data file of no known content deleted");
            files::delete(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (_, lock) = take_lock(dir.path()).unwrap();
        assert!(matches!(take_lock(dir.path()), Err(CacheError::InUse { .. })));
        // What a fork holds until its exec.
        let copy = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(take_lock(dir.path()).is_ok());
        drop(copy);
    }
}
