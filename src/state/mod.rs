//! The sync state store: one SQLite database, the single truth for the names of the drive.
//!
//! Owns: the tree (inodes and names apart), projects and their scans, where files stand at sites, the change log. Refuses to
//! know: bytes, sites' protocols, the kernel. Invariants: a number or a cookie is never used twice; a write is acknowledged
//! after its commit; the database is not read through to open it, and memory does not grow with it.
//!
//! One thread writes; writes that wait together share a transaction. Reads run on the caller's thread, each in a snapshot of
//! its own, and neither wait for the writer nor hold it up. [`Tree`] answers what is asked most from memory.

#![warn(clippy::wildcard_enum_match_arm)]

mod ahead;
mod arrival;
mod cache;
mod check;
mod content;
mod copies;
mod counts;
mod edit;
mod error;
mod facts;
mod fold;
mod listing;
mod lock;
mod node;
mod outbox;
mod own;
mod pins;
mod projects;
mod publish;
mod queue;
mod read;
mod schema;
mod site_state;
#[cfg(test)]
mod steps;
mod task;
mod tree;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::mpsc;
use tracing::{error, warn};
use uuid::Uuid;

pub use arrival::{Arrival, Copied};
pub use check::Problem;
pub use content::NewAttrs;
pub use copies::{Asked, JobKey, NewCopy, OpenJob};
pub use edit::{Left, NewEntry, Removed, RenameHow, Renamed};
pub use error::{Refusal, StateError};
pub use node::{
    Change, ChangeKind, Changes, Child, Counts, ListingDiff, Moment, NewProject, Node, Origin, Project, Remote,
    ScanRecord,
};
pub use outbox::{FAILURES_TOLD, Handed, Message, MessageState, NewMessage, PATHS_KEPT, Round, RoundFailure};
pub use own::OwnFile;
pub use pins::{NewPin, Pin};
pub use publish::{Conflict, Landed, OwnName, SentFile};
pub use read::ReadTxn;
pub use site_state::{SiteRow, SiteStatus};
pub use task::{
    Claim, Job, JobId, JobKind, NewDelete, NewSend, PRIORITY_NORMAL, QueueCounts, QueueRow, Replaces, Standing, Tally,
    Task, TaskFilter, TaskId, TaskState, TaskWhat, WaitingBetween,
};
pub use tree::Tree;
pub use write::WriteTxn;

use cache::TreeCache;
use error::Db;
use fold::Folding;
use lock::Lock;
use writer::Writer;

/// Reading connections kept open while nobody reads: one for each thread that usually does.
const IDLE_READERS: usize = 4;

/// The sync state store of one drive. Clones share it.
#[derive(Clone, Debug)]
pub struct StateStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    uuid: Uuid,
    /// `None` where others write: what they change is not told here.
    cache: Option<Arc<TreeCache>>,
    /// `None` once the store is closed.
    readers: Mutex<Option<Vec<Connection>>>,
    writer: Mutex<Option<Running>>,
}

/// The writer while it runs.
#[derive(Debug)]
struct Running {
    jobs: mpsc::Sender<writer::Job>,
    shared: writer::Shared,
    thread: JoinHandle<()>,
}

impl StateStore {
    /// Opens the store in a folder, which is made if it is missing, and locks it against other processes.
    ///
    /// After an unclean stop the database is looked through for damage first: a third of a second for a million entries
    /// that the system has in memory, else as long as it takes to read them. Otherwise opening reads a few pages.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|e| StateError::io("make the folder", data_dir, e))?;
        let lock = Lock::take(data_dir)?;
        let path = data_dir.join(schema::FILE_NAME);
        let cache = Arc::new(TreeCache::new());
        let open = || {
            let conn = schema::open_writer(&path, lock.was_unclean)?;
            let uuid = schema::uuid_of(&conn)?;
            let (ask, folding) = Folding::new(&path)?;
            let writer = Writer::new(conn, path.clone(), Arc::clone(&cache), ask)?;
            Ok((writer, folding, uuid))
        };
        let (writer, folding, uuid) = open().map_err(|e: StateError| e.at(&path))?;
        let (jobs, queue) = mpsc::channel(writer::QUEUE);
        let shared = writer::Shared::new(writer);
        let serving = shared.clone();
        let beside = shared.clone();
        let folds = thread::Builder::new()
            .name("state-log".to_owned())
            .spawn(move || folding.serve(&beside))
            .map_err(|e| StateError::io("start the thread that folds the log of", &path, e))?;
        let thread = thread::Builder::new()
            .name("state-writer".to_owned())
            .spawn(move || {
                serving.serve(queue);
                // The last of the two to close its connection folds what is left.
                if folds.join().is_err() {
                    error!("the thread that folds the log of the state store panicked");
                }
                if let Err(e) = lock.release() {
                    warn!("the state store was closed, but its lock can't say so: {e}");
                }
            })
            .map_err(|e| StateError::io("start the writer of", &path, e))?;
        let writer = Mutex::new(Some(Running { jobs, shared, thread }));
        let readers = Mutex::new(Some(Vec::new()));
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                uuid,
                cache: Some(cache),
                readers,
                writer,
            }),
        })
    }

    /// Opens the store for questions alone, also while a daemon has it: takes no lock, changes nothing.
    pub fn open_read_only(data_dir: &Path) -> Result<Self, StateError> {
        let path = data_dir.join(schema::FILE_NAME);
        if let Err(e) = path.metadata() {
            return Err(StateError::io("open", &path, e));
        }
        let open = || {
            let conn = schema::open_reader(&path)?;
            let (found, known) = (schema::version_of(&conn, &path)?, schema::known_version());
            if found < known {
                let (path, start) = (path.display(), "start the drive once to bring it up to date");
                return Err(StateError::Invalid(format!(
                    "the state database {path} has version {found}: {start}"
                )));
            }
            Ok((schema::uuid_of(&conn)?, conn))
        };
        let (uuid, conn) = open().map_err(|e: StateError| e.at(&path))?;
        let (readers, writer) = (Mutex::new(Some(vec![conn])), Mutex::new(None));
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                uuid,
                cache: None,
                readers,
                writer,
            }),
        })
    }

    fn cache(&self) -> Option<&TreeCache> {
        self.inner.cache.as_deref()
    }

    /// Returns the store's own name, given once when it was made.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.inner.uuid
    }

    /// Asks questions of one moment of the store, on the caller's thread. `f` must be quick: while it runs, the log of
    /// writes can't be folded away.
    pub fn read<T>(&self, f: impl FnOnce(&ReadTxn<'_>) -> Result<T, StateError>) -> Result<T, StateError> {
        self.inner.read(f).map_err(|e| e.at(&self.inner.path))
    }

    /// Runs a write on the writer thread and returns once it is committed: it survives the end of this process, but a
    /// power cut may undo the last moments (in order, never in part). Fit for what a site can tell again.
    ///
    /// `f` may only use its transaction: it must not wait for anything, nor call the store. Dropping the future does not
    /// stop a write that has been handed over.
    pub async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.submit(false, false, f).await
    }

    /// Like [`StateStore::write`], for a write of a few rows: where nobody else is writing it runs on the caller's thread,
    /// in the first poll, which spares it the way to the writer and back.
    pub async fn write_here<T: Send + 'static>(
        &self,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.submit(false, true, f).await
    }

    /// Like [`StateStore::write`], and once it returns the write survives a power cut too. For what nobody else can tell
    /// again.
    pub async fn write_durable<T: Send + 'static>(
        &self,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.submit(true, false, f).await
    }

    async fn submit<T: Send + 'static>(
        &self,
        durable: bool,
        here: bool,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let (jobs, shared) = {
            let writer = held(&self.inner.writer);
            let none = || {
                if held(&self.inner.readers).is_some() {
                    StateError::ReadOnly
                } else {
                    StateError::Closed
                }
            };
            let running = writer.as_ref().ok_or_else(none)?;
            (running.jobs.clone(), running.shared.clone())
        };
        let (mut job, answer) = writer::Job::new(durable, f);
        if here {
            match shared.run_here(job) {
                writer::Short::Done => return answer.await.map_err(|_| StateError::Closed)?,
                writer::Short::Busy(given_back) => job = given_back,
            }
        }
        let place = jobs.reserve().await.map_err(|_| StateError::Closed)?;
        shared.hand_over();
        place.send(job);
        drop((jobs, shared));
        answer.await.map_err(|_| StateError::Closed)?
    }

    /// Returns the present moment: what is changed from now on has a later one, or the same.
    pub fn moment(&self) -> Result<Moment, StateError> {
        self.read(|txn| Ok(Moment(txn.next_id()?)))
    }

    /// Returns how many commits this process made: a number that grows with every change. Costs nothing.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.cache().map_or(0, TreeCache::seq)
    }

    /// Has `hook` called after every commit, before it is acknowledged, on the thread that made it: it must be quick. Only
    /// the first one counts.
    pub fn on_commit(&self, hook: impl Fn() + Send + Sync + 'static) {
        if let Some(cache) = self.cache() {
            cache.on_commit(Box::new(hook));
        }
    }

    /// Looks through the whole database and returns what is wrong. Takes seconds for a million entries.
    pub fn check(&self) -> Result<Vec<Problem>, StateError> {
        self.read(|txn| txn.check())
    }

    /// Finishes the writes that were handed over, folds the log into the database and gives the folder free. Further
    /// calls fail with [`StateError::Closed`]. The last clone's drop does the same.
    pub fn close(&self) {
        self.inner.close();
    }
}

/// A panic elsewhere leaves these locks' contents whole.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn read<T>(&self, f: impl FnOnce(&ReadTxn<'_>) -> Result<T, StateError>) -> Result<T, StateError> {
        let idle = held(&self.readers).as_mut().ok_or(StateError::Closed)?.pop();
        let conn = idle.map_or_else(|| schema::open_reader(&self.path), Ok)?;
        let sql = |sql| {
            conn.prepare_cached(sql)
                .and_then(|mut statement| statement.execute([]))
                .db()
        };
        sql("BEGIN")?;
        let out = f(&ReadTxn { conn: &conn });
        // A connection that can't end its transaction is not used again; nor is one whose reader panicked.
        if sql("COMMIT").is_ok()
            && let Some(idle) = held(&self.readers).as_mut()
            && idle.len() < IDLE_READERS
        {
            idle.push(conn);
        }
        out
    }

    fn close(&self) {
        let readers = held(&self.readers).take();
        drop(readers);
        let Some(Running { jobs, shared, thread }) = held(&self.writer).take() else {
            return;
        };
        drop((jobs, shared));
        if thread.thread().id() == thread::current().id() {
            // The last clone was dropped by a write: the writer ends by itself once it has committed that.
            return;
        }
        if thread.join().is_err() {
            error!("the writer of the state store panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
