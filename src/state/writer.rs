//! The one connection that writes: a thread with group commit, and the short way past it for a small write that finds
//! nobody else writing.
//!
//! Invariant: a write is acknowledged after the commit that holds it, or told why not; what fails in one write undoes
//! nothing of the others in its group. Folding the log into the database is left to `fold`: that syncs, and nobody who
//! writes a few rows waits for a disk.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use futures::channel::oneshot;
use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;
use tracing::error;

use super::StateError;
use super::cache::{Touched, TreeCache};
use super::error::Db;
use super::fold::Ask;
use super::node::{Counts, as_i64};
use super::read::ReadTxn;
use super::schema::BUSY;
use super::write::{Delta, WriteTxn};

/// Writes that wait for the writer; who comes later waits to get in.
pub(super) const QUEUE: usize = 256;
/// Writes in one transaction: as many as can wait.
const GROUP_MAX: usize = QUEUE;
/// Rows of the change log that are kept.
const LOG_KEEP: i64 = 100_000;
/// Load at which the log is to be folded into the database; see [`Writer::load`]. About 2,000 pages.
const FOLD_AT: u64 = 2000;
/// Pages that a commit of a few rows writes to the log, measured with the creation of a file.
const COMMIT_PAGES: u64 = 20;

type Run = Box<dyn FnOnce(Result<&WriteTxn<'_>, StateError>) -> Ran + Send>;
type Acknowledge = Box<dyn FnOnce(Result<(), StateError>) + Send>;

/// A write on its way to the writer.
pub(super) struct Job {
    run: Run,
    durable: bool,
}

/// A write that ran and waits for its commit.
struct Ran {
    failed: Option<StateError>,
    acknowledge: Acknowledge,
}

impl Job {
    pub(super) fn new<T: Send + 'static>(
        durable: bool,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, StateError>>) {
        let (answer, answered) = oneshot::channel();
        let run: Run = Box::new(move |txn| {
            let out = txn.and_then(|txn| {
                catch_unwind(AssertUnwindSafe(|| f(txn))).unwrap_or_else(|_| {
                    error!("a write to the state store panicked");
                    Err(StateError::Panicked)
                })
            });
            let failed = out.as_ref().err().cloned();
            let acknowledge: Acknowledge = Box::new(move |committed| {
                // Whoever gave up waiting gets no answer.
                drop(answer.send(out.and_then(|out| committed.map(|()| out))));
            });
            Ran { failed, acknowledge }
        });
        (Self { run, durable }, answered)
    }
}

/// The writer, for the thread and for who goes past it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Way>);

/// Both ways to the writer.
struct Way {
    /// `None` once it is closed.
    writer: Mutex<Option<Writer>>,
    /// Writes handed to the thread that are not committed. While there are some nobody goes past it: who comes first is
    /// written first.
    handed: AtomicUsize,
}

/// What became of a write that tried the short way.
pub(super) enum Short {
    /// Done and answered.
    Done,
    /// Somebody else writes: it is for the thread.
    Busy(Job),
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(writer: Writer) -> Self {
        Self(Arc::new(Way {
            writer: Mutex::new(Some(writer)),
            handed: AtomicUsize::new(0),
        }))
    }

    /// A write is about to be handed to the thread.
    pub(super) fn hand_over(&self) {
        self.0.handed.fetch_add(1, Ordering::SeqCst);
    }

    fn held(&self) -> MutexGuard<'_, Option<Writer>> {
        // A panic leaves an open transaction at worst, which the next one meets as a failure of its own and undoes.
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves writes until all senders are gone, then closes the connection.
    pub(super) fn serve(&self, mut jobs: Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = VecDeque::from([first]);
            while group.len() < GROUP_MAX {
                let Ok(next) = jobs.try_recv() else { break };
                group.push_back(next);
            }
            let writes = group.len();
            let mut held = self.held();
            let Some(writer) = held.as_mut() else { return };
            while !group.is_empty() {
                writer.commit(&mut group);
            }
            self.0.handed.fetch_sub(writes, Ordering::SeqCst);
        }
        drop(self.held().take());
    }

    /// Does something while nobody writes.
    pub(super) fn alone<T>(&self, f: impl FnOnce() -> T) -> T {
        let _held = self.held();
        f()
    }

    /// Runs a write on the caller's thread, if that waits for nobody.
    pub(super) fn run_here(&self, job: Job) -> Short {
        let mut held = match self.0.writer.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return Short::Busy(job),
        };
        match held.as_mut() {
            Some(writer) if !job.durable && self.0.handed.load(Ordering::SeqCst) == 0 => writer.commit_here(job),
            _ => Short::Busy(job),
        }
    }
}

pub(super) struct Writer {
    conn: Connection,
    path: PathBuf,
    cache: Arc<TreeCache>,
    next_id: Cell<u64>,
    counts: Counts,
    /// A commit now returns only when it survives a power cut.
    durable: bool,
    /// About how many pages the log has got since it was asked to be folded.
    load: u64,
    fold: Ask,
}

impl Writer {
    pub(super) fn new(conn: Connection, path: PathBuf, cache: Arc<TreeCache>, fold: Ask) -> Result<Self, StateError> {
        let read = ReadTxn { conn: &conn };
        let (next_id, counts) = (read.next_id()?, read.counts()?);
        Ok(Self {
            next_id: Cell::new(next_id),
            counts,
            durable: false,
            load: 0,
            fold,
            conn,
            path,
            cache,
        })
    }

    /// Runs one write, unless another program has the database.
    fn commit_here(&mut self, job: Job) -> Short {
        let begun = self.conn.busy_timeout(Duration::ZERO).db().and_then(|()| {
            let begun = self.begin(false);
            self.conn.busy_timeout(BUSY).db().and(begun)
        });
        if begun.is_err() {
            // The thread tries again, with patience, and tells what is in the way.
            self.undo();
            return Short::Busy(job);
        }
        self.finish(&mut VecDeque::from([job]), Ok(()));
        Short::Done
    }

    fn begin(&mut self, durable: bool) -> Result<(), StateError> {
        self.set_durable(durable)?;
        self.sql("BEGIN IMMEDIATE")
    }

    fn undo(&self) {
        if !self.conn.is_autocommit() {
            // Nothing can be done about a failure to undo: the next transaction will tell.
            drop(self.conn.execute_batch("ROLLBACK"));
        }
    }

    /// Runs a group in one transaction, as much of it as can be, and answers for what it took from the queue.
    fn commit(&mut self, group: &mut VecDeque<Job>) {
        let begun = self.begin(group.iter().any(|job| job.durable));
        self.finish(group, begun);
    }

    /// Goes on with a transaction that was begun, or was not.
    fn finish(&mut self, group: &mut VecDeque<Job>, begun: Result<(), StateError>) {
        let mut acks = Vec::with_capacity(group.len());
        let done = begun.and_then(|()| self.transact(group, &mut acks));
        let told = match done.map_err(|e| e.at(&self.path)) {
            Ok(counts) => {
                self.counts = counts;
                self.cache.committed();
                Ok(())
            }
            Err(e) => {
                self.undo();
                // No transaction could be had: one write is told so, the rest tries again.
                if acks.is_empty()
                    && let Some(job) = group.pop_front()
                {
                    acks.push((job.run)(Err(e.clone())).acknowledge);
                }
                Err(e)
            }
        };
        for acknowledge in acks {
            acknowledge(told.clone());
        }
    }

    fn transact(&mut self, group: &mut VecDeque<Job>, acks: &mut Vec<Acknowledge>) -> Result<Counts, StateError> {
        let before = self.conn.total_changes();
        let (mut touched, mut delta, mut logged) = (Touched::default(), Delta::default(), false);
        let (first_id, alone) = (self.next_id.get(), group.len() == 1);
        while let Some(job) = group.pop_front() {
            if !alone {
                self.sql("SAVEPOINT write")?;
            }
            let txn = WriteTxn::new(&self.conn, &self.next_id);
            let ran = (job.run)(Ok(&txn));
            acks.push(ran.acknowledge);
            if self.conn.is_autocommit() {
                // Some failures (a full disk) make the database undo the whole transaction.
                let undone = || StateError::Invalid("the database undid the transaction".to_owned());
                return Err(ran.failed.unwrap_or_else(undone));
            }
            match ran.failed {
                None => {
                    delta = delta.plus(txn.counts.get());
                    logged |= txn.logged.get();
                    touched.append(txn.touched.into_inner());
                }
                Some(e) if alone => return Err(e),
                Some(_) => self.sql("ROLLBACK TO write")?,
            }
            if !alone {
                self.sql("RELEASE write")?;
            }
        }
        let counts = delta.added_to(self.counts);
        self.keep(first_id, counts, logged)?;
        self.cache.committing(&touched);
        self.sql("COMMIT")?;
        self.load += COMMIT_PAGES + (self.conn.total_changes() - before);
        if self.load >= FOLD_AT {
            self.load = 0;
            self.fold.ask();
        }
        Ok(counts)
    }

    /// Writes what the group as a whole has to leave behind.
    fn keep(&self, first_id: u64, counts: Counts, logged: bool) -> Result<(), StateError> {
        let set = |key: &str, value: u64| -> Result<(), StateError> {
            let mut statement = self
                .conn
                .prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")
                .db()?;
            statement.execute((key, as_i64(value))).db()?;
            Ok(())
        };
        if self.next_id.get() != first_id {
            set("next_id", self.next_id.get())?;
        }
        for (key, now, before) in [
            ("files", counts.files, self.counts.files),
            ("folders", counts.folders, self.counts.folders),
            ("symlinks", counts.symlinks, self.counts.symlinks),
            ("bytes", counts.bytes, self.counts.bytes),
        ] {
            if now != before {
                set(key, now)?;
            }
        }
        if logged {
            const TRIM: &str = "DELETE FROM change_log WHERE seq <= (SELECT max(seq) FROM change_log) - ?1";
            self.conn.prepare_cached(TRIM).db()?.execute([LOG_KEEP]).db()?;
        }
        Ok(())
    }

    /// A commit that is synced takes ten times as long and more, so a scan's are not: its site can tell all again.
    fn set_durable(&mut self, durable: bool) -> Result<(), StateError> {
        if self.durable != durable {
            self.conn
                .pragma_update(None, "synchronous", if durable { "full" } else { "normal" })
                .db()?;
            self.durable = durable;
        }
        Ok(())
    }

    fn sql(&self, sql: &str) -> Result<(), StateError> {
        self.conn.prepare_cached(sql).db()?.execute([]).db()?;
        Ok(())
    }
}
