//! Writing behind: what fills changed reaches the index in batches, from one thread.
//!
//! Owns: the flusher thread and its bell. Refuses to know: what the changes mean.
//! Invariant: a batch is on the books' dirty list or in exactly one flush; one that could not be written goes back.
//!
//! After `kill -9` at most the changes since the last flush are unknown, and their granules are fetched again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::sync::{lock, read};
use crate::{CacheError, Shared};

/// Dirty segments that ring the bell before the interval is over: 2 MiB of rows.
const RING_AT: usize = 256;
/// Dirty segments that a fill may not add to: it writes them itself, and fails if that fails. Bounds memory (17 MB) while
/// the index can't be written.
const BOUND: usize = 2048;

/// Wakes the flusher before its interval is over.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *lock(&self.rung) = true;
        self.changed.notify_all();
    }
}

/// Starts the one flusher of this cache; it ends when the cache is closed.
pub(crate) fn spawn(shared: &Arc<Shared>) -> std::io::Result<thread::JoinHandle<()>> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("cache-flush".to_owned()).spawn(move || {
        let mut failing = false;
        while !shared.is_closed() {
            shared.wait_for_work();
            match shared.flush() {
                Ok(()) => failing = false,
                Err(CacheError::Closed) => break,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, cause = std::error::Error::source(&error), "cache index not written; trying on");
                }
                Err(_) => {}
            }
            shared.trim();
        }
    })
}

impl Shared {
    fn wait_for_work(&self) {
        let rung = lock(&self.bell.rung);
        let waited = self
            .bell
            .changed
            .wait_timeout_while(rung, self.options.flush_interval, |rung| !*rung);
        *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0 = false;
    }

    /// Writes all changes so far to the index. The caller holds no lock of any content.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), CacheError> {
        self.ensure_attached()?;
        self.write_changes()
    }

    /// Writes all changes so far to the index as it is.
    pub(crate) fn write_changes(&self) -> Result<(), CacheError> {
        let _one = lock(&self.flushing);
        loop {
            let Some(index) = read(&self.attached).as_ref().map(|a| Arc::clone(&a.index)) else {
                return Ok(());
            };
            let batch = lock(&self.books).take_batch();
            if batch.is_empty() {
                return Ok(());
            }
            if let Err(e) = index.commit(&batch) {
                lock(&self.books).put_back(batch);
                return Err(self.index_failed(e));
            }
        }
    }

    /// Keeps the list of changes short, before a fill makes it longer.
    pub(crate) fn bound_changes(self: &Arc<Self>) -> Result<(), CacheError> {
        let dirty = lock(&self.books).dirty_segments();
        if dirty >= BOUND {
            return self.flush();
        }
        if dirty >= RING_AT {
            self.bell.ring();
        }
        Ok(())
    }

    /// Notes whether the index must be started anew, which the next [`Shared::ensure_attached`] does.
    pub(crate) fn index_failed(&self, failure: crate::index::IndexError) -> CacheError {
        if failure.damaged {
            self.index_damaged.store(true, Ordering::Release);
        }
        failure.error
    }
}
