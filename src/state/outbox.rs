//! What is to be told about jobs: their rounds, and the messages that are made of those.
//!
//! Refuses to know: who is told, how, in which words. Invariants: a round ends in the write in which its job's last task
//! ends or is set aside; a round is told to a receiver by one message; that a message is being handed over is in the
//! store before anybody else hears of it.

use rusqlite::Row;

use super::StateError;
use super::error::Db;
use super::node::{as_i64, bytes_at, count_at, name_at};
use super::queue::sql_limit;
use super::read::ReadTxn;
use super::task::{Job, JobId, Task, TaskFilter, TaskState, TaskWhat, job_at, job_columns, task_at, task_columns};
use super::write::WriteTxn;
use crate::model::{Ino, ProjectName, RelPath};

/// Paths that are kept of a round.
pub const PATHS_KEPT: u64 = 10;
/// Failures that are told of a round.
pub const FAILURES_TOLD: usize = 10;
/// A task that has failed as often as this in a row does not keep its round open: it is told as a failure, while it is
/// tried again.
const TRIES_TOLD: u32 = 3;

/// Whether a job has something left to do; what only clears up after a file that is gone does not count.
const LEFT_TO_DO: &str = "SELECT 1 FROM task INDEXED BY task_job \
                          WHERE job = ?1 AND state IN (0, 1) AND tries < ?2 AND what <> 5 \
                          AND (what <> 0 OR parent IS NOT NULL) LIMIT 1";

/// What a job did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    /// The job.
    pub job: Job,
    /// Its project.
    pub project: ProjectName,
    /// Which of the job's rounds it is, from 1.
    pub number: u64,
    /// When its first task was put in, milliseconds since 1970.
    pub began_ms: i64,
    /// When its last task ended, milliseconds since 1970.
    pub ended_ms: i64,
    /// Files that arrived.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Files and folders that were removed at the site.
    pub removed: u64,
    /// A few of the files, as paths of the drive.
    pub paths: Vec<RelPath>,
    /// Tasks that failed and are not done.
    pub failed: u64,
    /// A few of those.
    pub failures: Vec<RoundFailure>,
    /// Tasks that a person holds back.
    pub held: u64,
    /// Files of which the site had another version, so that both were kept: a few of them.
    pub conflicts: Vec<RelPath>,
}

impl Round {
    /// Says whether there is nothing to tell: all that was asked for was taken back.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.files == 0 && self.removed == 0 && self.failed == 0 && self.conflicts.is_empty()
    }
}

/// A task that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoundFailure {
    /// What it is about, as a path of the drive.
    pub path: RelPath,
    /// The error's kind, for programs.
    pub kind: String,
    /// The error.
    pub why: String,
    /// It is tried again by itself.
    pub again: bool,
}

/// A message to be put in the outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMessage {
    /// The job that it is about.
    pub job: JobId,
    /// Which of its rounds.
    pub round: u64,
    /// Who is told, by the name in the settings.
    pub receiver: String,
    /// Mail: the address; empty elsewhere.
    pub address: String,
    /// What is told, as JSON.
    pub facts: String,
}

/// How a message stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MessageState {
    /// It is to be handed over.
    Waiting,
    /// It is being handed over.
    Sending,
    /// It was.
    Told,
    /// It is not tried any more.
    GivenUp,
}

/// A message of the outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its number.
    pub id: u64,
    /// What it says, and to whom.
    pub of: NewMessage,
    /// When it was made, milliseconds since 1970.
    pub made_ms: i64,
    /// How it stands.
    pub state: MessageState,
    /// Waiting: not before this; else: since when it is so. Milliseconds since 1970.
    pub due_ms: i64,
    /// Tries begun.
    pub tries: u32,
    /// Tries of which no answer came: the receiver may have it.
    pub lost: u32,
    /// What went wrong last.
    pub error: Option<String>,
}

/// What became of a try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Handed {
    /// The receiver has it.
    Over,
    /// The receiver has not.
    Not {
        /// Why.
        why: String,
        /// When to try again, milliseconds since 1970; `None`: not any more.
        again_ms: Option<i64>,
        /// No answer came, so that it may have it all the same.
        lost: bool,
    },
}

const MESSAGE: &str = "id, job, round, receiver, address, facts, made_ms, state, due_ms, tries, lost, error";

fn message_at(row: &Row<'_>) -> Result<Message, StateError> {
    Ok(Message {
        id: count_at(row, 0)?,
        of: NewMessage {
            job: JobId(count_at(row, 1)?),
            round: count_at(row, 2)?,
            receiver: row.get(3).db()?,
            address: row.get(4).db()?,
            facts: row.get(5).db()?,
        },
        made_ms: row.get(6).db()?,
        state: MessageState::from_code(row.get(7).db()?)?,
        due_ms: row.get(8).db()?,
        tries: row.get(9).db()?,
        lost: row.get(10).db()?,
        error: row.get(11).db()?,
    })
}

impl MessageState {
    fn code(self) -> i64 {
        match self {
            Self::Waiting => 0,
            Self::Sending => 1,
            Self::Told => 2,
            Self::GivenUp => 3,
        }
    }

    fn from_code(code: i64) -> Result<Self, StateError> {
        [Self::Waiting, Self::Sending, Self::Told, Self::GivenUp]
            .into_iter()
            .find(|state| state.code() == code)
            .ok_or_else(|| StateError::damaged(format!("a message in state {code}")))
    }
}

impl ReadTxn<'_> {
    /// Returns the jobs whose round ended before a moment (milliseconds since 1970) and was not told yet, the earliest
    /// first.
    pub fn rounds_over(&self, before_ms: i64, limit: usize) -> Result<Vec<JobId>, StateError> {
        let sql = "SELECT job FROM round INDEXED BY round_ended WHERE state = 1 AND ended_ms <= ?1 \
                   ORDER BY ended_ms LIMIT ?2";
        self.many(sql, (before_ms, sql_limit(limit)), |row| count_at(row, 0).map(JobId))
    }

    /// Returns when the earliest round ended that was not told yet, milliseconds since 1970.
    pub fn first_round_over(&self) -> Result<Option<i64>, StateError> {
        let sql = "SELECT min(ended_ms) FROM round INDEXED BY round_ended WHERE state = 1";
        Ok(self.one(sql, [], |row| row.get(0).db())?.flatten())
    }

    /// Returns what a job did in its present round; `None` if that is not over, or was told.
    pub fn round(&self, job: JobId) -> Result<Option<Round>, StateError> {
        const JOB: &str = concat!("SELECT ", job_columns!(), " FROM job WHERE id = ?1");
        let sql = "SELECT number, began_ms, ended_ms, files, bytes, removed FROM round WHERE job = ?1 AND state = 1";
        let id = as_i64(job.0);
        let row = self.one(sql, [id], |row| {
            let times: (i64, i64) = (row.get(1).db()?, row.get(2).db()?);
            Ok((
                count_at(row, 0)?,
                times,
                count_at(row, 3)?,
                count_at(row, 4)?,
                count_at(row, 5)?,
            ))
        })?;
        let (Some((number, (began_ms, ended_ms), files, bytes, removed)), Some(of)) =
            (row, self.one(JOB, [id], job_at)?)
        else {
            return Ok(None);
        };
        let project = self.one("SELECT name FROM project WHERE root = ?1", [as_i64(of.root.0)], |row| {
            row.get(0).db().map(ProjectName)
        })?;
        let paths = self.many("SELECT path FROM round_path WHERE job = ?1 ORDER BY at", [id], |row| {
            let bytes = bytes_at(row, 0)?.unwrap_or_default();
            RelPath::new(bytes).map_err(|e| StateError::damaged(format!("a path of a round: {e}")))
        })?;
        let held = "SELECT count(*) FROM task INDEXED BY task_job WHERE job = ?1 AND state = 3";
        let held = self.one(held, [id], |row| count_at(row, 0))?.unwrap_or_default();
        let (failed, failures) = self.failures_of(&of)?;
        let conflicts = self.conflicts_since(of.root, began_ms)?;
        Ok(Some(Round {
            job: of,
            project: project.unwrap_or_else(|| ProjectName(String::new())),
            number,
            began_ms,
            ended_ms,
            files,
            bytes,
            removed,
            paths,
            failed,
            failures,
            held,
            conflicts,
        }))
    }

    /// Returns how many tasks of a job failed and are not done, and a few of them.
    fn failures_of(&self, job: &Job) -> Result<(u64, Vec<RoundFailure>), StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_job WHERE job = ?1 AND (state = 2 OR state IN (0, 1) AND tries >= ?2)",
            " ORDER BY id LIMIT ?3"
        );
        let count = "SELECT count(*) FROM task INDEXED BY task_job \
                     WHERE job = ?1 AND (state = 2 OR state IN (0, 1) AND tries >= ?2)";
        let id = as_i64(job.id.0);
        let failed = self
            .one(count, (id, TRIES_TOLD), |row| count_at(row, 0))?
            .unwrap_or_default();
        let tasks = self.many(SQL, (id, TRIES_TOLD, sql_limit(FAILURES_TOLD)), task_at)?;
        let mut failures = Vec::new();
        for task in tasks {
            failures.push(RoundFailure {
                path: self.path_of_task(&task)?.unwrap_or_default(),
                again: task.due_ms != i64::MAX,
                kind: task.kind.unwrap_or_else(|| "unknown".to_owned()),
                why: task.error.unwrap_or_else(|| "no reason was noted".to_owned()),
            });
        }
        Ok((failed, failures))
    }

    /// Returns the path of the drive that a task is about; `None` for a leftover, and where its project is out of sight.
    fn path_of_task(&self, task: &Task) -> Result<Option<RelPath>, StateError> {
        match (task.parent, &task.name, &task.path) {
            (Some(parent), Some(name), _) => Ok(self
                .project_of(parent)?
                .map(|(project, dir)| RelPath::default().join(&project.folder).concat(&dir).join(name))),
            (_, _, Some(below)) => self.one(
                "SELECT folder FROM project WHERE root = ?1",
                [as_i64(task.root.0)],
                |row| Ok(RelPath::default().join(&name_at(row, 0)?).concat(below)),
            ),
            _ => Ok(None),
        }
    }

    /// Returns a few files of a project of which both sides were kept since a moment.
    fn conflicts_since(&self, root: Ino, since_ms: i64) -> Result<Vec<RelPath>, StateError> {
        let mut paths = Vec::new();
        for conflict in self.conflicts()? {
            if conflict.at_ms < since_ms || paths.len() >= FAILURES_TOLD {
                continue;
            }
            if let Some((project, dir)) = self.project_of(conflict.parent)?
                && project.root == root
            {
                paths.push(
                    RelPath::default()
                        .join(&project.folder)
                        .concat(&dir)
                        .join(&conflict.name),
                );
            }
        }
        Ok(paths)
    }

    /// Returns a receiver's message that is due; the oldest first.
    pub fn message_due(&self, receiver: &str, now_ms: i64) -> Result<Option<Message>, StateError> {
        let sql = format!(
            "SELECT {MESSAGE} FROM outbox INDEXED BY outbox_next \
             WHERE state = 0 AND receiver = ?1 AND due_ms <= ?2 ORDER BY due_ms, id LIMIT 1"
        );
        self.one(&sql, (receiver, now_ms), message_at)
    }

    /// Returns when a receiver's next message is due, milliseconds since 1970.
    pub fn next_message(&self, receiver: &str) -> Result<Option<i64>, StateError> {
        let sql = "SELECT min(due_ms) FROM outbox INDEXED BY outbox_next WHERE state = 0 AND receiver = ?1";
        Ok(self.one(sql, [receiver], |row| row.get(0).db())?.flatten())
    }

    /// Returns messages, the newest first.
    pub fn messages(&self, limit: usize) -> Result<Vec<Message>, StateError> {
        let sql = format!("SELECT {MESSAGE} FROM outbox ORDER BY id DESC LIMIT ?1");
        self.many(&sql, [sql_limit(limit)], message_at)
    }

    /// Counts the messages that wait and those that were given up.
    pub fn message_counts(&self) -> Result<(u64, u64), StateError> {
        let sql = "SELECT count(*) FILTER (WHERE state IN (0, 1)), count(*) FILTER (WHERE state = 3) FROM outbox";
        let counts = self.one(sql, [], |row| Ok((count_at(row, 0)?, count_at(row, 1)?)))?;
        Ok(counts.unwrap_or_default())
    }
}

impl WriteTxn<'_> {
    /// Something was put in for a job: a round of it begins, or goes on.
    pub fn round_began(&self, job: JobId) -> Result<(), StateError> {
        let again = "DELETE FROM round_path WHERE job = (SELECT job FROM round WHERE job = ?1 AND state = 2)";
        let begin = "INSERT INTO round (job, number, state, began_ms, ended_ms) SELECT ?1, 1, 0, now, now \
                     FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now) WHERE true ON CONFLICT (job) DO UPDATE SET number = number + (state = 2), \
                     began_ms = iif(state = 2, excluded.began_ms, began_ms), files = iif(state = 2, 0, files), \
                     bytes = iif(state = 2, 0, bytes), removed = iif(state = 2, 0, removed), \
                     shown = iif(state = 2, 0, shown), state = 0 WHERE state <> 0";
        let id = as_i64(job.0);
        self.run(again, [id])?;
        self.run(begin, [id])?;
        Ok(())
    }

    /// A task of a job was done: counts it for the round. `path` is a file that arrived, as a path of the drive; a few are
    /// kept.
    pub fn round_did(&self, job: JobId, path: Option<&RelPath>, bytes: u64, removed: bool) -> Result<(), StateError> {
        let id = as_i64(job.0);
        self.round_began(job)?;
        let count = "UPDATE round SET files = files + ?2, bytes = bytes + ?3, removed = removed + ?4 WHERE job = ?1";
        self.run(count, (id, i64::from(!removed), as_i64(bytes), i64::from(removed)))?;
        if let Some(path) = path {
            let keep =
                "INSERT OR IGNORE INTO round_path (job, at, path) SELECT job, shown, ?2 FROM round WHERE job = ?1";
            self.run(keep, (id, path.as_bytes()))?;
            self.run("UPDATE round SET shown = shown + 1 WHERE job = ?1", [id])?;
        }
        Ok(())
    }

    /// Counts a task that was done for its job's round. Before its row goes.
    pub(super) fn round_did_task(&self, task: &Task) -> Result<(), StateError> {
        let shown = self.one(
            "SELECT shown FROM round WHERE job = ?1 AND state < 2",
            [as_i64(task.job.0)],
            |row| count_at(row, 0),
        )?;
        let removed = match task.what {
            TaskWhat::Send | TaskWhat::Copy => false,
            TaskWhat::DeleteFile | TaskWhat::DeleteFolder => true,
            // What is in it counts.
            TaskWhat::CopyFolder | TaskWhat::CopyLeftover => return Ok(()),
        };
        let wants_path = !removed && shown.unwrap_or_default() < PATHS_KEPT;
        let path = if wants_path { self.path_of_task(task)? } else { None };
        self.round_did(task.job, path.as_ref(), task.size, removed)
    }

    /// The one place where a round ends: to be called in the write in which a task of a job ended, failed or was set
    /// aside. Nothing happens while the job has something left to do.
    pub fn round_over(&self, job: JobId) -> Result<(), StateError> {
        if self.one(LEFT_TO_DO, (as_i64(job.0), TRIES_TOLD), |_| Ok(()))?.is_some() {
            return Ok(());
        }
        let sql = "UPDATE round SET state = 1, ended_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) \
                   WHERE job = ?1 AND state = 0";
        self.run(sql, [as_i64(job.0)])?;
        Ok(())
    }

    /// A person wants tasks tried again: the rounds of their jobs go on.
    pub(super) fn rounds_go_on(&self, filter: TaskFilter) -> Result<(), StateError> {
        let sql = "SELECT DISTINCT job FROM task WHERE (?1 IS NULL OR id = ?1) AND (?2 IS NULL OR root = ?2) \
                   AND (?3 IS NULL OR state = ?3) AND (?4 IS NULL OR job = ?4) \
                   AND (state = 2 OR state = 0 AND tries > 0 OR state = 4 AND ?1 IS NOT NULL)";
        let (id, root) = (filter.id.map(|id| as_i64(id.0)), filter.root.map(|root| as_i64(root.0)));
        let state = filter.state.map(TaskState::code);
        let job = filter.job.map(|job| as_i64(job.0));
        for job in self.many(sql, (id, root, state, job), |row| count_at(row, 0).map(JobId))? {
            self.round_began(job)?;
        }
        Ok(())
    }

    /// A round that is over was told, as far as it was to be: the next task of its job begins another.
    pub fn round_told(&self, job: JobId) -> Result<(), StateError> {
        self.run(
            "UPDATE round SET state = 2 WHERE job = ?1 AND state = 1",
            [as_i64(job.0)],
        )?;
        self.run("DELETE FROM round_path WHERE job = ?1", [as_i64(job.0)])?;
        Ok(())
    }

    /// Puts a message in the outbox, to be handed over at once; `false` if that round was told to them already.
    pub fn post(&self, message: &NewMessage, now_ms: i64) -> Result<bool, StateError> {
        let sql = "INSERT OR IGNORE INTO outbox (job, round, receiver, address, facts, made_ms, due_ms) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)";
        let NewMessage {
            job,
            round,
            receiver,
            address,
            facts,
        } = message;
        Ok(self.run(sql, (as_i64(job.0), as_i64(*round), receiver, address, facts, now_ms))? == 1)
    }

    /// A waiting message is about to be handed over; `false` if it does not wait.
    pub fn message_begun(&self, id: u64, now_ms: i64) -> Result<bool, StateError> {
        let sql = "UPDATE outbox SET state = 1, tries = tries + 1, due_ms = ?2 WHERE id = ?1 AND state = 0";
        Ok(self.run(sql, (as_i64(id), now_ms))? == 1)
    }

    /// Writes down what became of a try.
    pub fn message_ended(&self, id: u64, handed: &Handed, now_ms: i64) -> Result<(), StateError> {
        let told = "UPDATE outbox SET state = 2, due_ms = ?2, error = NULL WHERE id = ?1";
        let not = "UPDATE outbox SET state = ?2, due_ms = ?3, error = ?4, lost = lost + ?5 WHERE id = ?1";
        match handed {
            Handed::Over => self.run(told, (as_i64(id), now_ms))?,
            Handed::Not { why, again_ms, lost } => {
                let state = again_ms.map_or(MessageState::GivenUp, |_| MessageState::Waiting);
                let due = again_ms.unwrap_or(now_ms);
                self.run(not, (as_i64(id), state.code(), due, why, *lost))?
            }
        };
        Ok(())
    }

    /// At the start: what was being handed over when the last run ended waits again, and may have arrived. What waits for
    /// receivers that the settings do not name any more is given up.
    pub fn messages_left(&self, receivers: &[String], now_ms: i64) -> Result<(), StateError> {
        let again = "UPDATE outbox SET state = 0, due_ms = ?1, lost = lost + 1, \
                     error = 'the daemon ended before the answer came' WHERE state = 1";
        self.run(again, [now_ms])?;
        let waiting = self.many("SELECT DISTINCT receiver FROM outbox WHERE state = 0", [], |row| {
            row.get::<_, String>(0).db()
        })?;
        let gone = "UPDATE outbox SET state = 3, due_ms = ?2, error = 'the settings name no such receiver any more' \
                    WHERE state = 0 AND receiver = ?1";
        for receiver in waiting.iter().filter(|name| !receivers.contains(name)) {
            self.run(gone, (receiver, now_ms))?;
        }
        Ok(())
    }

    /// Makes messages due now that wait or were given up: one, or all; returns how many.
    pub fn retry_messages(&self, id: Option<u64>, now_ms: i64) -> Result<usize, StateError> {
        let sql = "UPDATE outbox SET state = 0, due_ms = ?2, made_ms = iif(state = 3, ?2, made_ms), \
                   tries = iif(state = 3, 0, tries) WHERE state IN (0, 3) AND (?1 IS NULL OR id = ?1)";
        self.run(sql, (id.map(as_i64), now_ms))
    }

    /// Forgets messages that have been done with since before a moment.
    pub fn forget_messages(&self, before_ms: i64) -> Result<(), StateError> {
        self.run("DELETE FROM outbox WHERE state IN (2, 3) AND due_ms < ?1", [before_ms])?;
        Ok(())
    }
}
