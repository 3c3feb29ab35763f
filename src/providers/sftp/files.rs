//! Files that a connection keeps open for a moment, so that the next read of the same one begins a round trip earlier.
//!
//! Owns: the handles, by path and version. Refuses to know: bytes. Invariant: a handle is found only for the version it was
//! opened as; that it still is that version is proven by each read.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::session::Handle;
use crate::model::{RelPath, Version};

/// Files a connection keeps open: well below what servers allow (OpenSSH: nearly 20 000, others 100).
const MOST: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not 0");
/// How long a file that is not read stays open.
pub(super) const KEPT_OPEN: Duration = Duration::from_secs(4);

/// A file in one version; no version: an upload's temporary file.
type Key = (RelPath, Option<Version>);

#[derive(Debug)]
pub(super) struct OpenFiles {
    lru: Mutex<LruCache<Key, (Arc<Handle>, Instant)>>,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self {
            lru: Mutex::new(LruCache::new(MOST)),
        }
    }
}

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, LruCache<Key, (Arc<Handle>, Instant)>> {
        self.lru.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, path: &RelPath, version: Option<&Version>) -> Option<Arc<Handle>> {
        let key = (path.clone(), version.cloned());
        let mut lru = self.lock();
        let (handle, used) = lru.get_mut(&key)?;
        *used = Instant::now();
        Some(Arc::clone(handle))
    }

    pub(super) fn put(&self, path: &RelPath, version: Option<&Version>, handle: Arc<Handle>) {
        let key = (path.clone(), version.cloned());
        // What falls out is closed when its last reader is done.
        drop(self.lock().push(key, (handle, Instant::now())));
    }

    pub(super) fn forget(&self, path: &RelPath, version: Option<&Version>) {
        drop(self.take(path, version));
    }

    /// Returns what is kept of a file, to somebody who means to close it.
    pub(super) fn take(&self, path: &RelPath, version: Option<&Version>) -> Option<Arc<Handle>> {
        let kept = self.lock().pop(&(path.clone(), version.cloned()));
        kept.map(|(handle, _)| handle)
    }

    /// Closes what has not been used for [`KEPT_OPEN`].
    pub(super) fn expire(&self) {
        let mut lru = self.lock();
        while lru.peek_lru().is_some_and(|(_, (_, used))| used.elapsed() >= KEPT_OPEN) {
            drop(lru.pop_lru());
        }
    }
}
