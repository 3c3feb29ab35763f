//! The one error type of the cache, and where an OS error is sorted into it.
//!
//! Owns: [`CacheError`]. Refuses to know: errno for the kernel, retry policy, paths of users' files. No type of the
//! index's database shows in it.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why the cache could not do what was asked. Nothing wrong is ever recorded when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another process (its pid, if it could be read) holds the folder.
    #[error("the cache folder is in use by {}", holder(*.pid))]
    InUse { pid: Option<u32> },
    /// The limit, the reserve of free space or the disk itself leaves no room, and nothing more can be evicted. Bytes.
    #[error("no room in the cache: {needed} bytes needed, {available} available")]
    Full { needed: u64, available: u64 },
    /// The folder or its disk takes no writes.
    #[error("the cache is read-only at {}", path.display())]
    ReadOnly { path: PathBuf },
    /// The content has a live handle.
    #[error("the content is in use")]
    Busy,
    /// The content is pinned.
    #[error("the content is pinned")]
    Pinned,
    /// A fill that does not consist of whole granules within the content.
    #[error("a fill of {len} bytes at {at} is not made of whole granules of this content")]
    Misaligned { at: u64, len: u64 },
    /// A live handle knows this content with another length.
    #[error("the content is open with a length of {known} bytes, asked for with {asked}")]
    LengthDiffers { known: u64, asked: u64 },
    /// The cache was closed; handles that outlived it can do nothing more.
    #[error("the cache is closed")]
    Closed,
    /// The OS refused an operation on a file of the cache.
    #[error("cannot {op} {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The index could not be read or written.
    #[error("cannot {op} the cache index")]
    Index {
        op: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl CacheError {
    /// Sorts an OS error: no space, no writing, or anything else. `needed` is what the operation wanted to add, in bytes.
    pub(crate) fn from_io(op: &'static str, path: &Path, needed: u64, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            // EFBIG: a limit on file size, of the process or of the file system, is a full disk to the caller.
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full {
                needed,
                available: free_bytes(path).unwrap_or(0),
            },
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Self::ReadOnly { path: path.to_owned() },
            _ => Self::Io {
                op,
                path: path.to_owned(),
                source,
            },
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Bytes this process could still write on the file system of `path`, or of the nearest ancestor that exists.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok())?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
