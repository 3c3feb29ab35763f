//! The writer thread: the one connection that writes, and group commit.
//!
//! Invariant: a write is acknowledged after the commit that holds it, or told why not; what fails in one write undoes
//! nothing of the others in its group.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use futures::channel::oneshot;
use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;
use tracing::error;

use super::StateError;
use super::cache::{Touched, TreeCache};
use super::error::Db;
use super::node::{Counts, as_i64};
use super::read::ReadTxn;
use super::write::{Delta, WriteTxn};

/// Writes that wait for the writer; who comes later waits to get in.
pub(super) const QUEUE: usize = 256;
/// Writes in one transaction: as many as can wait.
const GROUP_MAX: usize = QUEUE;
/// Rows of the change log that are kept.
const LOG_KEEP: i64 = 100_000;

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

pub(super) struct Writer {
    conn: Connection,
    path: PathBuf,
    cache: Arc<TreeCache>,
    next_id: Cell<u64>,
    counts: Counts,
    /// A commit now returns only when it survives a power cut.
    durable: bool,
}

impl Writer {
    pub(super) fn new(conn: Connection, path: PathBuf, cache: Arc<TreeCache>) -> Result<Self, StateError> {
        let read = ReadTxn { conn: &conn };
        let (next_id, counts) = (read.next_id()?, read.counts()?);
        Ok(Self {
            next_id: Cell::new(next_id),
            counts,
            durable: false,
            conn,
            path,
            cache,
        })
    }

    /// Serves writes until all senders are gone.
    pub(super) fn serve(mut self, mut jobs: Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = VecDeque::from([first]);
            while group.len() < GROUP_MAX {
                let Ok(next) = jobs.try_recv() else { break };
                group.push_back(next);
            }
            while !group.is_empty() {
                self.commit(&mut group);
            }
        }
    }

    /// Runs a group in one transaction, as much of it as can be, and answers for what it took from the queue.
    fn commit(&mut self, group: &mut VecDeque<Job>) {
        let mut acks = Vec::with_capacity(group.len());
        let told = match self.transact(group, &mut acks).map_err(|e| e.at(&self.path)) {
            Ok(counts) => {
                self.counts = counts;
                self.cache.committed();
                Ok(())
            }
            Err(e) => {
                if !self.conn.is_autocommit() {
                    // Nothing can be done about a failure to undo: the next transaction will tell.
                    drop(self.conn.execute_batch("ROLLBACK"));
                }
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
        self.set_durable(group.iter().any(|job| job.durable))?;
        self.sql("BEGIN IMMEDIATE")?;
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
