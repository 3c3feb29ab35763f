//! What was made here and is not at its site yet, counted: for `status`, for who unmounts, for who shuts down.
//!
//! Owns: what counts as not there, and how long the rest takes. Refuses to know: what is done about it. Invariant: a name
//! counts once, however often its file was saved.

use super::drive::Inner;
use super::report::{FailureReport, PendingReport, PublishingReport};
use super::words::Asker;
use crate::model::{Ino, Name};
use crate::state::{Node, ReadTxn, StateError, TaskState};

/// Reasons for failures that are told.
const REASONS: usize = 10;

/// Returns when the file was changed last that has waited longest in a project's queue, or in all, milliseconds since 1970.
pub(super) fn oldest_ms(txn: &ReadTxn<'_>, root: Option<Ino>) -> Result<Option<i64>, StateError> {
    let ino = txn.oldest_send(root)?.and_then(|task| task.ino);
    let node = ino.map(|ino| txn.node(ino)).transpose()?.flatten();
    Ok(node.map(|node| node.ctime_ns / 1_000_000))
}

impl Inner {
    /// Returns what is not at its site yet.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn pending(&self) -> Result<PendingReport, StateError> {
        let stats = self.transfer_stats();
        self.store.read(|txn| {
            let rows = txn.queue_rows()?;
            let is_paused = |root: Ino| rows.iter().any(|row| row.root == root && row.paused);
            let lockouts = self.lockouts();
            let mut pending = PendingReport {
                bytes_per_second: stats.bytes_per_second,
                done_bytes: stats.under_way.iter().map(|file| file.done_bytes.min(file.size)).sum(),
                ..PendingReport::default()
            };
            for (root, state, is_send, tally) in txn.to_do()? {
                if !self.projects.iter().any(|project| project.root == root) {
                    continue;
                }
                if !is_send {
                    pending.deletes += tally.tasks;
                    continue;
                }
                pending.files += tally.tasks;
                pending.bytes = pending.bytes.saturating_add(tally.bytes);
                let is_locked_out = state == TaskState::Waiting && lockouts.publishing(root).is_some();
                if is_paused(root) || is_locked_out || matches!(state, TaskState::Blocked | TaskState::Held) {
                    pending.stuck.add(tally.into());
                }
            }
            pending.writing = self.to_be_published(txn)?.len() as u64;
            pending.oldest_ms = oldest_ms(txn, None)?;
            let left = pending
                .bytes
                .saturating_sub(pending.stuck.bytes)
                .saturating_sub(pending.done_bytes);
            pending.eta_seconds = (stats.bytes_per_second > 0).then(|| left.div_ceil(stats.bytes_per_second));
            Ok(pending)
        })
    }

    /// Returns the files that are being written and are to be published, by their names in publish zones that are not in
    /// the queue yet.
    pub(super) fn to_be_published(&self, txn: &ReadTxn<'_>) -> Result<Vec<(Ino, Name, Node)>, StateError> {
        let mut out = Vec::new();
        let mut asker = Asker::new(self, txn)?;
        for node in txn.being_written()? {
            for (parent, name) in txn.names_of(node.ino)? {
                if asker.publishes(parent, &name)? && txn.task_of(parent, &name)?.is_none() {
                    out.push((parent, name, node.clone()));
                }
            }
        }
        Ok(out)
    }

    /// Says whether anything made here is not at its site yet. Cheap.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn has_pending(&self) -> Result<bool, StateError> {
        self.store
            .read(|txn| Ok(txn.oldest_send(None)?.is_some() || !self.to_be_published(txn)?.is_empty()))
    }

    /// Returns what was made here, and what became of it.
    pub(super) fn publishing(&self) -> Result<PublishingReport, StateError> {
        let stats = self.transfer_stats();
        let (failures, conflicts, (own_files, own_bytes)) = self.store.read(|txn| {
            let mut asker = Asker::new(self, txn)?;
            let mut failures = Vec::new();
            for (tasks, first) in txn.failures(REASONS)? {
                let path = asker.path_of_task(&first)?.map(|(_, path)| path.to_string());
                failures.push(FailureReport {
                    kind: first.kind.unwrap_or_default(),
                    tasks,
                    error: first.error.unwrap_or_default(),
                    path: path.unwrap_or_default(),
                });
            }
            Ok((failures, asker.conflicts.len() as u64, txn.own_counts()?))
        })?;
        Ok(PublishingReport {
            pending: self.pending()?,
            sent_files: stats.sent_files,
            sent_bytes: stats.sent_bytes,
            queues: self.queues()?,
            failures,
            conflicts,
            refusals: self.refusals.last(),
            own_files,
            own_bytes,
            put_aside: self.objects.put_aside_count(),
        })
    }
}
