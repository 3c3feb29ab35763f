//! How the queues stand: how many tasks there are of which kind, what failed, what has waited longest.
//!
//! Owns: counting. Refuses to know: who may take a task, what becomes of it (`queue`).

use super::StateError;
use super::error::Db;
use super::node::{as_i64, count_at, ino_at};
use super::queue::sql_limit;
use super::read::ReadTxn;
use super::task::{JobKind, QueueCounts, Tally, Task, TaskId, TaskState, WaitingBetween};
use crate::model::{Ino, SiteName};

impl ReadTxn<'_> {
    /// Counts the tasks of a project. Costs a look for each of its jobs, however many tasks they have.
    pub fn queue_counts(&self, root: Ino) -> Result<QueueCounts, StateError> {
        let sql = "SELECT state, tried, sum(tasks), CAST(total(bytes) AS INTEGER) FROM job CROSS JOIN tally \
                   ON tally.job = job.id WHERE root = ?1 AND tasks > 0 GROUP BY 1, 2";
        let rows = self.many(sql, [as_i64(root.0)], |row| {
            let state = TaskState::from_code(row.get(0).db()?)?;
            let (tasks, bytes) = (count_at(row, 2)?, count_at(row, 3)?);
            Ok((state, row.get::<_, bool>(1).db()?, Tally { tasks, bytes }))
        })?;
        let mut counts = QueueCounts::default();
        for (state, tried, tally) in rows {
            let of_state = match state {
                TaskState::Waiting => &mut counts.waiting,
                TaskState::Running => &mut counts.running,
                TaskState::Blocked => &mut counts.blocked,
                TaskState::Held => &mut counts.held,
                TaskState::Excluded => &mut counts.excluded,
            };
            of_state.add(tally);
            if tried && state == TaskState::Waiting {
                counts.retrying.add(tally);
            }
        }
        Ok(counts)
    }

    /// Counts the tasks of a project that wait, by the sites that they go between. Costs as [`queue_counts`](Self::queue_counts).
    pub fn waiting_between(&self, root: Ino) -> Result<Vec<WaitingBetween>, StateError> {
        let sql = "SELECT kind, source, target, tried, sum(tasks), CAST(total(bytes) AS INTEGER) FROM job CROSS JOIN tally \
                   ON tally.job = job.id WHERE root = ?1 AND state = 0 AND tasks > 0 GROUP BY 1, 2, 3, 4";
        self.many(sql, [as_i64(root.0)], |row| {
            Ok(WaitingBetween {
                kind: JobKind::from_code(row.get(0).db()?)?,
                source: SiteName(row.get(1).db()?),
                target: SiteName(row.get(2).db()?),
                failed_before: row.get(3).db()?,
                tally: Tally {
                    tasks: count_at(row, 4)?,
                    bytes: count_at(row, 5)?,
                },
            })
        })
    }

    /// Counts what is still to be sent and removed, by project, state and whether it is a send; leftovers are not among
    /// it, nor what is copied between sites. Reads all queues, but for copies.
    pub fn to_do(&self) -> Result<Vec<(Ino, TaskState, bool, Tally)>, StateError> {
        let sql = "SELECT root, state, what = 0, count(*), sum(size) FROM task INDEXED BY task_next \
                   WHERE what < 3 AND (what IN (1, 2) OR parent IS NOT NULL) GROUP BY 1, 2, 3";
        self.many(sql, [], |row| {
            let (tasks, bytes) = (count_at(row, 3)?, count_at(row, 4)?);
            let state = TaskState::from_code(row.get(1).db()?)?;
            Ok((ino_at(row, 0)?, state, row.get(2).db()?, Tally { tasks, bytes }))
        })
    }

    /// Returns the send that was put in first, of a project or of all that are in sight.
    pub fn oldest_send(&self, root: Option<Ino>) -> Result<Option<Task>, StateError> {
        // One look into the index for each project.
        let sql = "SELECT min((SELECT id FROM task INDEXED BY task_send WHERE task.root = project.root AND what = 0 \
                   AND parent IS NOT NULL ORDER BY id LIMIT 1)) FROM project \
                   WHERE hidden = 0 AND (?1 IS NULL OR root = ?1)";
        let first = self.one(sql, [root.map(|root| as_i64(root.0))], |row| {
            row.get::<_, Option<i64>>(0).db()
        })?;
        first
            .flatten()
            .map_or(Ok(None), |id| self.task(TaskId(id.unsigned_abs())))
    }

    /// Returns why tasks failed that wait or need a person: for the most frequent kinds of errors, how many there are and
    /// the first of them. Reads all tasks that failed.
    pub fn failures(&self, limit: usize) -> Result<Vec<(u64, Task)>, StateError> {
        let sql = "SELECT count(*), min(id) FROM task INDEXED BY task_failed \
                   WHERE (state = 2 OR state = 0 AND tries > 0) AND kind IS NOT NULL \
                   AND root IN (SELECT root FROM project WHERE hidden = 0) GROUP BY kind ORDER BY 1 DESC, 2 LIMIT ?1";
        let kinds = self.many(sql, [sql_limit(limit)], |row| {
            Ok((count_at(row, 0)?, count_at(row, 1)?))
        })?;
        let mut out = Vec::new();
        for (count, first) in kinds {
            out.extend(self.task(TaskId(first))?.map(|task| (count, task)));
        }
        Ok(out)
    }
}
