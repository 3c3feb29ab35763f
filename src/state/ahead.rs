//! Listings read before somebody asks for them: who walks over a tree (`find`, `du`, a backup) asks for the next folder next,
//! and waits for nothing while it is read here.
//!
//! Owns: the guess which folder that is, one page of it, and the thread that reads it. Refuses to know: who walks, and why.
//! Invariants: a page is handed out once, and only if nothing in it has changed since it was read; nothing is read before a
//! guess has come true, so that who looks at one folder pays for one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::{self, JoinHandle};

use tracing::{debug, warn};

use super::cache::TreeCache;
use super::{Child, StateStore, held};
use crate::model::Ino;

/// Entries of a page that is read ahead: what the kernel's largest buffer takes in several calls, and half a megabyte.
const PAGE: usize = 1024;
/// Folders that may have been looked at and not been thought about. Who is faster than that is not waited for.
const BEHIND: usize = 16;

/// The start of a folder's listing, as it was after commit `seq`.
#[derive(Debug)]
struct Page {
    folder: Ino,
    seq: u64,
    children: Vec<Child>,
}

/// What the thread and those who ask share.
#[derive(Debug, Default)]
struct Shared {
    /// The folder that is being read; 0: none is.
    reading: AtomicU64,
    page: Mutex<Option<Page>>,
}

#[derive(Debug)]
struct Reader {
    looked: SyncSender<Ino>,
    thread: JoinHandle<()>,
}

/// Reads ahead for one tree.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    /// Begun by the first listing; `None` if that failed.
    reader: OnceLock<Option<Reader>>,
}

impl Ahead {
    /// Returns the start of a folder's listing, if it was read ahead and is as it would be read now. What is being read in
    /// this moment is waited for.
    pub(super) fn take(&self, cache: &TreeCache, folder: Ino) -> Option<Vec<Child>> {
        let mut page = if self.shared.reading.load(Ordering::SeqCst) == folder.0 {
            held(&self.shared.page)
        } else {
            match self.shared.page.try_lock() {
                Ok(page) => page,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Another folder is being read.
                Err(TryLockError::WouldBlock) => return None,
            }
        };
        let page = page.take_if(|page| page.folder == folder)?;
        cache
            .holds_listing(page.seq, folder, page.children.iter().map(|child| child.node.ino))
            .then_some(page.children)
    }

    #[cfg(test)]
    pub(super) fn is_ready(&self) -> bool {
        held(&self.shared.page).is_some()
    }

    /// Notes that somebody began to list a folder.
    pub(super) fn looked_at(&self, store: &StateStore, folder: Ino) {
        let reader = self.reader.get_or_init(|| {
            let (looked, rx) = sync_channel(BEHIND);
            let (store, shared) = (store.clone(), Arc::clone(&self.shared));
            let thread = thread::Builder::new()
                .name("backlot-ahead".into())
                .spawn(move || read_ahead(&store, &shared, &rx));
            match thread {
                Ok(thread) => Some(Reader { looked, thread }),
                Err(error) => {
                    warn!(%error, "no thread to read listings ahead: walks over the drive are slower");
                    None
                }
            }
        });
        if let Some(reader) = reader {
            // Full, the thread is behind: its guesses would come too late.
            let _behind = reader.looked.try_send(folder);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // The thread keeps the store open: it has to be gone first.
        if let Some(Some(Reader { looked, thread })) = self.reader.take() {
            drop(looked);
            if thread.join().is_err() {
                warn!("the thread that reads listings ahead panicked");
            }
        }
    }
}

fn read_ahead(store: &StateStore, shared: &Shared, looked: &Receiver<Ino>) {
    let mut guess = None;
    let mut waiting = looked.recv();
    while let Ok(folder) = waiting {
        let came_true = guess == Some(folder);
        guess = next_folder(store, folder);
        waiting = match looked.try_recv() {
            Ok(next) => Ok(next),
            Err(TryRecvError::Empty) => {
                if let (true, Some(next)) = (came_true, guess) {
                    read(store, shared, next);
                }
                looked.recv()
            }
            Err(TryRecvError::Disconnected) => return,
        };
    }
}

/// Returns the folder that a walk comes to next: the first in this one, else the one after it.
fn next_folder(store: &StateStore, folder: Ino) -> Option<Ino> {
    store.read(|txn| txn.next_folder(folder)).unwrap_or_else(|error| {
        debug!(%error, "no guess which folder comes next");
        None
    })
}

fn read(store: &StateStore, shared: &Shared, folder: Ino) {
    let Some(cache) = store.cache() else { return };
    shared.reading.store(folder.0, Ordering::SeqCst);
    let mut page = held(&shared.page);
    let seq = cache.seq();
    *page = match store.read(|txn| txn.children(folder, 0, PAGE)) {
        Ok(children) => Some(Page { folder, seq, children }),
        // Whoever asks meets it.
        Err(_) => None,
    };
    drop(page);
    shared.reading.store(0, Ordering::SeqCst);
}
