//! Sparse data files: where they lie, a bounded number of open descriptors, holes, and getting rid of files.
//!
//! Owns: `objects/ab/<hex>.data` and `trash/`. Refuses to know: which granules are present, accounting, the index.
//! Invariant: every opened descriptor has an instance number that is never used again, and a content (key) has at most
//! one current descriptor.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lru::LruCache;
use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::ContentId;
use crate::sync::lock;

pub(crate) struct OpenFile {
    file: File,
    /// Names this descriptor among all that this process ever opened. Greater is younger.
    pub(crate) instance: u64,
    pub(crate) writable: bool,
}

impl OpenFile {
    /// False once the file was deleted under us. Its bytes can still be read, but what is written to it is lost.
    pub(crate) fn is_linked(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.nlink() > 0)
    }

    /// What would differ if somebody else had written to it since, or if another file lay there.
    pub(crate) fn stamp(&self) -> io::Result<Stamp> {
        let m = self.file.metadata()?;
        Ok(Stamp {
            file: (m.dev(), m.ino()),
            size: m.size(),
            written: (m.mtime(), m.mtime_nsec()),
        })
    }

    /// The same file opened once more, for reading only.
    pub(crate) fn for_reading(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    pub(crate) fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }

    /// Up to `len` bytes from `at`; fewer only where the file ends.
    pub(crate) fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buf = Vec::with_capacity(len);
        while buf.len() < len {
            // Into uninitialised capacity: zeroing first costs a tenth of a cached read.
            let offset = at + buf.len() as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut buf), offset) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        buf.truncate(len);
        Ok(buf)
    }

    /// Has the system forget what it holds of a range in memory, so that the next look is at the disk. A hint: what was
    /// written and is not on the disk yet stays.
    pub(crate) fn forget_pages(&self, at: u64, len: u64) {
        if let Some(len) = NonZeroU64::new(len)
            && let Err(error) = rustix::fs::fadvise(&self.file, at, Some(len), Advice::DontNeed)
        {
            tracing::debug!(%error, "the pages of a content stay in memory");
        }
    }

    /// Gives the blocks back to the disk, where the file system can; the caller has cleared the bits before.
    pub(crate) fn punch(&self, at: u64, len: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = rustix::fs::fallocate(&self.file, flags, at, len) {
            tracing::debug!(%error, "the cache's file system makes no holes; the space is freed with the whole content");
        }
    }
}

/// A data file and when it was last written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
}

pub(crate) struct Files {
    dir: PathBuf,
    open: Mutex<LruCache<u64, Arc<OpenFile>>>,
    instances: AtomicU64,
    trashed: AtomicU64,
}

impl Files {
    pub(crate) fn new(dir: &Path, max_open: usize) -> Self {
        let bound = NonZeroUsize::new(max_open).unwrap_or(NonZeroUsize::MIN);
        Self {
            dir: dir.to_owned(),
            open: Mutex::new(LruCache::new(bound)),
            instances: AtomicU64::new(1),
            trashed: AtomicU64::new(0),
        }
    }

    pub(crate) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.dir.join("trash")
    }

    pub(crate) fn path(&self, id: ContentId) -> PathBuf {
        let hex = id.to_string();
        let shard = hex.get(..2).unwrap_or_default();
        self.objects().join(shard).join(format!("{hex}.data"))
    }

    /// The content a data file belongs to, by its name.
    pub(crate) fn id_of(path: &Path) -> Option<ContentId> {
        ContentId::from_hex(path.file_name()?.to_str()?.strip_suffix(".data")?)
    }

    /// The current descriptor, opened if necessary; `None` if there is no file.
    pub(crate) fn get(&self, key: u64, id: ContentId) -> io::Result<Option<Arc<OpenFile>>> {
        if let Some(file) = lock(&self.open).get(&key) {
            return Ok(Some(Arc::clone(file)));
        }
        let path = self.path(id);
        let opened = match open(&path, true) {
            Ok(file) => (file, true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A disk that went read-only still has its bytes.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::ROFS | Errno::ACCESS)) => {
                (open(&path, false)?, false)
            }
            Err(e) => return Err(e),
        };
        Ok(Some(self.remember(key, opened)))
    }

    /// Creates the file with its final length, all hole. One that is there already goes: somebody may still read it through
    /// a descriptor that was handed out.
    pub(crate) fn create(&self, key: u64, id: ContentId, len: u64) -> io::Result<()> {
        let path = self.path(id);
        let file = match create_new(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // The shard only. If `objects` is gone too, the folder was deleted, and that is not for us to mend.
                if let Some(shard) = path.parent()
                    && let Err(e) = fs::create_dir(shard)
                    && e.kind() != io::ErrorKind::AlreadyExists
                {
                    return Err(e);
                }
                create_new(&path)?
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                create_new(&path)?
            }
            other => other?,
        };
        file.set_len(len)?;
        drop(self.remember(key, (file, true)));
        Ok(())
    }

    fn remember(&self, key: u64, (file, writable): (File, bool)) -> Arc<OpenFile> {
        let mut open = lock(&self.open);
        if let Some(first) = open.get(&key) {
            return Arc::clone(first);
        }
        let instance = self.instances.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(OpenFile {
            file,
            instance,
            writable,
        });
        let closing = open.push(key, Arc::clone(&file));
        drop(open);
        drop(closing); // close(2) outside the lock
        file
    }

    pub(crate) fn forget(&self, key: u64) {
        let closing = lock(&self.open).pop(&key);
        drop(closing);
    }

    pub(crate) fn forget_all(&self) {
        let closing: Vec<_> = {
            let mut open = lock(&self.open);
            std::iter::from_fn(|| open.pop_lru()).collect()
        };
        drop(closing);
    }

    /// Takes the file out of the way at once; deleting the returned path frees the space, which may take long for a big
    /// file and needs no lock. `None` if there was no file.
    pub(crate) fn discard(&self, id: ContentId) -> Option<PathBuf> {
        let path = self.path(id);
        let aside = self.aside(&id.to_string());
        match fs::rename(&path, &aside) {
            Ok(()) => Some(aside),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.exists() => None,
            Err(_) => Some(path), // no trash folder: the deletion itself has to do
        }
    }

    /// A free name in the trash.
    pub(crate) fn aside(&self, name: &str) -> PathBuf {
        let n = self.trashed.fetch_add(1, Ordering::Relaxed);
        self.trash().join(format!("{name}.{}.{n}", std::process::id()))
    }
}

/// Deletes what [`Files::discard`] gave back.
pub(crate) fn delete(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot delete an evicted content");
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags)
        .open(path)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Calls `each` for every file below `dir`, up to `depth` folders down, until it or `stop` says so.
pub(crate) fn walk(dir: &Path, depth: usize, stop: &dyn Fn() -> bool, each: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if stop() {
            return;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if depth > 0 {
                walk(&path, depth - 1, stop, each);
            }
        } else {
            each(&path);
        }
    }
}

/// Removes folders below `dir` that are empty by now.
pub(crate) fn remove_empty_dirs(dir: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if depth > 0 {
            remove_empty_dirs(&entry.path(), depth - 1);
        }
        // One that still has something, or is gone already, is the next sweep's.
        let _still_used = fs::remove_dir(entry.path());
    }
}
