//! The transfer queue: what has still to be sent to sites and removed there, as rows.
//!
//! Owns: queues, jobs, tasks, and who may take a task next. Refuses to know: how anything is sent. Invariants: a name has
//! one task at most, a path to be removed one; what was asked for again while it was under way is never taken for done;
//! the note of an upload under way is kept until somebody has cleared that upload away.
//!
//! Work is claimed for a time (a lease); a claim that runs out is given to the next who asks. Whoever worked says how it
//! ended with the [`Task`] that was claimed: if the row is no longer the same work (a newer generation, another name,
//! another file), it goes back to waiting instead, with all that is new about it.
//!
//! A send whose name went away while an upload of it was noted stays behind without a name, as a *leftover*: nothing is
//! sent for it, its upload is cleared away, and the row goes.

use std::cmp::Reverse;

use rusqlite::Row;

use super::StateError;
use super::copies::JobKey;
use super::error::Db;
use super::node::{as_i64, count_at, ino_at};
use super::read::ReadTxn;
use super::task::{
    Claim, Job, JobId, JobKind, NewDelete, NewSend, PRIORITY_NORMAL, QueueRow, Standing, Task, TaskFilter, TaskId,
    TaskState, TaskWhat, job_at, job_columns, task_at, task_columns,
};
use super::write::WriteTxn;
use crate::model::{Ino, Name, RelPath, SiteName, Version};

/// A blocked task that is not tried again by itself is due then.
const NEVER: i64 = i64::MAX;
const DAY_MS: i64 = 86_400_000;
/// How far a claim for small files looks past large ones, in each priority.
const LOOK_PAST: usize = 1000;

/// Whether the row `?1` is still the work of a task: of the same file, by the same name, and no newer.
macro_rules! same_work {
    () => {
        "id = ?1 AND parent IS ?2 AND name IS ?3 AND ino IS ?4 AND gen <= ?5"
    };
}

/// The questions about one line of tasks: of what a project publishes, or of the copies of a job.
#[derive(Debug)]
pub(super) struct LineSql {
    /// The priority below `?3` that tasks of a state have.
    pub(super) level: &'static str,
    /// When the first task of a priority is due.
    pub(super) soonest: &'static str,
    /// When the first claim runs out.
    pub(super) first_lease: &'static str,
    /// Claims that have run out.
    pub(super) run_out: &'static str,
    /// Tasks of a priority that are due.
    pub(super) due: &'static str,
    /// Tasks of a priority that are due later than can be, but for those that are never due.
    pub(super) far: &'static str,
}

macro_rules! line_sql {
    ($index:literal, $whose:literal) => {
        LineSql {
            level: concat!(
                "SELECT priority FROM task INDEXED BY ",
                $index,
                " WHERE ",
                $whose,
                " AND state = ?2 AND priority < ?3 ORDER BY priority DESC LIMIT 1"
            ),
            soonest: concat!(
                "SELECT due_ms FROM task INDEXED BY ",
                $index,
                " WHERE ",
                $whose,
                " AND state = ?2 AND priority = ?3 ORDER BY due_ms LIMIT 1"
            ),
            first_lease: concat!(
                "SELECT min(lease_ms) FROM task INDEXED BY ",
                $index,
                " WHERE ",
                $whose,
                " AND state = 1"
            ),
            run_out: concat!(
                "SELECT priority, due_ms, id, size FROM task INDEXED BY ",
                $index,
                " WHERE ",
                $whose,
                " AND state = 1 AND lease_ms <= ?2"
            ),
            due: concat!(
                "SELECT priority, due_ms, id, size FROM task INDEXED BY ",
                $index,
                " WHERE ",
                $whose,
                " AND state = ?2 AND priority = ?3 AND due_ms <= ?4 ORDER BY due_ms, id LIMIT ?5"
            ),
            far: concat!(
                "SELECT priority, due_ms, id, size FROM task INDEXED BY ",
                $index,
                " WHERE ",
                $whose,
                " AND state = ?2 AND priority = ?3 AND due_ms > ?4 AND due_ms < 9223372036854775807 \
                 ORDER BY due_ms, id LIMIT ?5"
            ),
        }
    };
}

pub(super) const PUBLISHES: LineSql = line_sql!("task_next", "root = ?1 AND what < 3");
pub(super) const COPIES: LineSql = line_sql!("task_copy_next", "job = ?1 AND what >= 3");

/// A line of tasks, each claimed in the order of priority and time.
#[derive(Clone, Copy)]
struct Line {
    sql: &'static LineSql,
    whose: i64,
}

impl Line {
    fn of(root: Ino, job: Option<JobId>) -> Self {
        match job {
            None => Self {
                sql: &PUBLISHES,
                whose: as_i64(root.0),
            },
            Some(job) => Self {
                sql: &COPIES,
                whose: as_i64(job.0),
            },
        }
    }
}

/// The states of tasks that are begun when they are due.
const STARTABLE: [TaskState; 2] = [TaskState::Waiting, TaskState::Blocked];

pub(super) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A task's place in the order of claims.
type Place = (Reverse<i64>, i64, u64);

impl ReadTxn<'_> {
    /// Returns a task by its number.
    pub fn task(&self, id: TaskId) -> Result<Option<Task>, StateError> {
        const SQL: &str = concat!("SELECT ", task_columns!(), " FROM task WHERE id = ?1");
        self.one(SQL, [as_i64(id.0)], task_at)
    }

    /// Returns the task that sends the file of a name.
    pub fn task_of(&self, parent: Ino, name: &[u8]) -> Result<Option<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_name WHERE parent = ?1 AND name = ?2 AND what = 0"
        );
        self.one(SQL, (as_i64(parent.0), name), task_at)
    }

    /// Returns the tasks that send a file, one for each of its names that is to be sent.
    pub fn tasks_of_ino(&self, ino: Ino) -> Result<Vec<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_ino WHERE ino = ?1 ORDER BY id"
        );
        self.many(SQL, [as_i64(ino.0)], task_at)
    }

    /// Returns the task that removes a path of a project at its site.
    pub fn delete_of(&self, root: Ino, path: &RelPath) -> Result<Option<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_path WHERE root = ?1 AND path = ?2 AND what IN (1, 2)"
        );
        self.one(SQL, (as_i64(root.0), path.as_bytes()), task_at)
    }

    /// Says whether something below a path of a project has still to be removed at its site.
    pub fn has_deletes_below(&self, root: Ino, path: &RelPath) -> Result<bool, StateError> {
        const SQL: &str = "SELECT 1 FROM task INDEXED BY task_path \
                           WHERE root = ?1 AND path > ?2 AND path < ?3 AND what IN (1, 2) LIMIT 1";
        // All that begins with `path/`: `0` follows `/`.
        let (from, to) = ([path.as_bytes(), b"/"].concat(), [path.as_bytes(), b"0"].concat());
        Ok(self.one(SQL, (as_i64(root.0), from, to), |_| Ok(()))?.is_some())
    }

    /// Returns the folders at a path and below it that are to be removed at the site, what is below others after those.
    pub fn folder_deletes_from(&self, root: Ino, path: &RelPath) -> Result<Vec<RelPath>, StateError> {
        // `what IN (1, 2)` lets the index be used. From `path` to all that begins with `path/`: `0` follows `/`.
        const SQL: &str = "SELECT path FROM task INDEXED BY task_path \
                           WHERE root = ?1 AND path >= ?2 AND path < ?3 AND what IN (1, 2) AND what = 2 ORDER BY path";
        let to = [path.as_bytes(), b"0"].concat();
        let paths = self.many(SQL, (as_i64(root.0), path.as_bytes(), to), |row| {
            RelPath::new(row.get::<_, Vec<u8>>(0).db()?).map_err(|e| StateError::damaged(e.to_string()))
        })?;
        let is_at_or_below = |found: &RelPath| {
            let rest = found.as_bytes().strip_prefix(path.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        Ok(paths.into_iter().filter(is_at_or_below).collect())
    }

    /// Returns up to `limit` tasks with numbers above `after`, in the order of their numbers.
    pub fn tasks(&self, filter: TaskFilter, after: TaskId, limit: usize) -> Result<Vec<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task WHERE id > ?1 AND (?2 IS NULL OR id = ?2) AND (?3 IS NULL OR root = ?3)",
            " AND (?4 IS NULL OR state = ?4) AND (?6 IS NULL OR job = ?6) ORDER BY id LIMIT ?5"
        );
        // Many wait; of those that do not there are few, and the index has them alone.
        const NOT_WAITING: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_state WHERE state = ?4 AND state > 0 AND id > ?1 AND (?2 IS NULL OR id = ?2)",
            " AND (?3 IS NULL OR root = ?3) AND (?6 IS NULL OR job = ?6) ORDER BY id LIMIT ?5"
        );
        let TaskFilter { root, state, id, job } = filter;
        let sql = match state {
            None | Some(TaskState::Waiting) => SQL,
            Some(TaskState::Running | TaskState::Blocked | TaskState::Held | TaskState::Excluded) => NOT_WAITING,
        };
        let (id, root) = (id.map(|id| as_i64(id.0)), root.map(|root| as_i64(root.0)));
        let (state, job) = (state.map(TaskState::code), job.map(|job| as_i64(job.0)));
        self.many(sql, (as_i64(after.0), id, root, state, sql_limit(limit), job), task_at)
    }

    /// Returns the tasks of a project with a note of an upload, copies apart. Reads the project's whole queue.
    pub fn tasks_with_upload(&self, root: Ino) -> Result<Vec<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task WHERE root = ?1 AND what < 3 AND upload IS NOT NULL ORDER BY id"
        );
        self.many(SQL, [as_i64(root.0)], task_at)
    }

    /// Returns what was set for queues; those without a row have the settings' priority and run.
    pub fn queue_rows(&self) -> Result<Vec<QueueRow>, StateError> {
        self.many("SELECT root, priority, paused FROM queue ORDER BY root", [], |row| {
            Ok(QueueRow {
                root: ino_at(row, 0)?,
                priority: row.get(1).db()?,
                paused: row.get(2).db()?,
            })
        })
    }

    fn is_paused(&self, root: Ino) -> Result<bool, StateError> {
        let paused = self.one("SELECT paused FROM queue WHERE root = ?1", [as_i64(root.0)], |row| {
            row.get(0).db()
        })?;
        Ok(paused.unwrap_or(false))
    }

    /// Returns the priorities that tasks of a state have, highest first. Costs a look into the index each.
    fn levels(&self, line: Line, state: TaskState) -> Result<Vec<i64>, StateError> {
        let mut levels = Vec::new();
        let mut below = i64::MAX;
        while let Some(level) = self.one(line.sql.level, (line.whose, state.code(), below), |row| row.get(0).db())? {
            levels.push(level);
            below = level;
        }
        Ok(levels)
    }

    /// Returns when there is something to claim next, milliseconds since 1970: when the first task is due or the first
    /// claim runs out. `None`: not by itself. Of the copies of a job, or of what a project publishes.
    pub fn next_due(&self, root: Ino, job: Option<JobId>) -> Result<Option<i64>, StateError> {
        let line = Line::of(root, job);
        let mut soonest = self
            .one(line.sql.first_lease, [line.whose], |row| row.get(0).db())?
            .flatten();
        for state in STARTABLE {
            for level in self.levels(line, state)? {
                let due = self.one(line.sql.soonest, (line.whose, state.code(), level), |row| {
                    row.get::<_, i64>(0).db()
                })?;
                soonest = [soonest, due].into_iter().flatten().min();
            }
        }
        Ok(soonest.filter(|due| *due != NEVER))
    }

    /// Returns the highest priority of a job's copies that are due.
    pub fn due_priority(&self, job: JobId, now_ms: i64) -> Result<Option<u16>, StateError> {
        let line = Line::of(Ino::ROOT, Some(job));
        let mut highest = None;
        for state in STARTABLE {
            for level in self.levels(line, state)? {
                let due = self.one(line.sql.soonest, (line.whose, state.code(), level), |row| {
                    row.get::<_, i64>(0).db()
                })?;
                if due.is_some_and(|due| due <= now_ms) {
                    highest = highest.max(u16::try_from(level).ok());
                    break;
                }
            }
        }
        Ok(highest)
    }

    /// Returns a job by its number.
    pub fn job(&self, id: JobId) -> Result<Option<Job>, StateError> {
        const SQL: &str = concat!("SELECT ", job_columns!(), " FROM job WHERE id = ?1");
        self.one(SQL, [as_i64(id.0)], job_at)
    }

    /// Returns up to `limit` jobs of a project, newest first.
    pub fn jobs(&self, root: Ino, limit: usize) -> Result<Vec<Job>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job WHERE root = ?1 ORDER BY id DESC LIMIT ?2"
        );
        self.many(SQL, (as_i64(root.0), sql_limit(limit)), job_at)
    }
}

impl WriteTxn<'_> {
    fn job_of(&self, root: Ino, source: &SiteName, target: &SiteName, now_ms: i64) -> Result<JobId, StateError> {
        let key = JobKey {
            root,
            source: source.clone(),
            target: target.clone(),
            kind: JobKind::Publish,
            day: now_ms.div_euclid(DAY_MS),
        };
        self.ensure_job(&key, now_ms)
    }

    /// Puts a file into the queue. A task that its name has already is renewed: it starts over with what is new, stays
    /// held if a person held it, and keeps its priority and the note of what was being sent. One that is running goes on: its
    /// worker learns from the generation that there is more to do.
    pub fn queue_send(&self, send: &NewSend, now_ms: i64) -> Result<TaskId, StateError> {
        const SQL: &str = "INSERT INTO task (root, job, what, parent, name, ino, gen, size, priority, state, due_ms) \
                           VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9) \
                           ON CONFLICT (parent, name) WHERE what = 0 DO UPDATE SET root = excluded.root, \
                           job = excluded.job, ino = excluded.ino, gen = excluded.gen, size = excluded.size, \
                           due_ms = excluded.due_ms, tries = 0, kind = NULL, error = NULL, \
                           state = iif(state = 1 OR state = 3 AND kind IS NOT 'unfinished', state, 0) RETURNING id";
        let job = self.job_of(send.root, &send.source, &send.target, now_ms)?;
        let params = (
            as_i64(send.root.0),
            as_i64(job.0),
            as_i64(send.parent.0),
            send.name.as_bytes(),
            as_i64(send.ino.0),
            as_i64(send.generation),
            as_i64(send.size),
            PRIORITY_NORMAL,
            send.due_ms,
        );
        let before = self.task_of(send.parent, &send.name)?;
        let id = self.put_in(SQL, params)?;
        self.put_in_for(job, before)?;
        Ok(id)
    }

    /// Puts a removal at the site into the queue; one of that path is renewed.
    pub fn queue_delete(&self, delete: &NewDelete, now_ms: i64) -> Result<TaskId, StateError> {
        const SQL: &str = "INSERT INTO task (root, job, what, path, version, gen, priority, state, due_ms) \
                           VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, 0, ?7) \
                           ON CONFLICT (root, path) WHERE what IN (1, 2) DO UPDATE SET job = excluded.job, \
                           what = excluded.what, version = excluded.version, gen = gen + 1, due_ms = excluded.due_ms, \
                           tries = 0, kind = NULL, error = NULL, state = iif(state IN (1, 3), state, 0) RETURNING id";
        let job = self.job_of(delete.root, &delete.source, &delete.target, now_ms)?;
        let what = if delete.folder {
            TaskWhat::DeleteFolder
        } else {
            TaskWhat::DeleteFile
        };
        let params = (
            as_i64(delete.root.0),
            as_i64(job.0),
            what.code(),
            delete.path.as_bytes(),
            delete.version.as_ref().map(Version::as_str),
            PRIORITY_NORMAL,
            delete.due_ms,
        );
        let before = self.delete_of(delete.root, &delete.path)?;
        let id = self.put_in(SQL, params)?;
        self.put_in_for(job, before)?;
        Ok(id)
    }

    /// A task was put in for a job, in place of one that may have been another day's.
    fn put_in_for(&self, job: JobId, before: Option<Task>) -> Result<(), StateError> {
        self.round_began(job)?;
        // One that a person holds stays held.
        self.round_over(job)?;
        match before {
            Some(before) if before.job != job => self.round_over(before.job),
            Some(_) | None => Ok(()),
        }
    }

    fn put_in(&self, sql: &str, params: impl rusqlite::Params) -> Result<TaskId, StateError> {
        let id = self.one(sql, params, |row| count_at(row, 0).map(TaskId))?;
        id.ok_or_else(|| StateError::damaged("a task that was put in has no number"))
    }

    /// Takes the removal of a path back; says whether there was one. One under way may have been done all the same.
    pub fn cancel_delete(&self, root: Ino, path: &RelPath) -> Result<bool, StateError> {
        let sql = "DELETE FROM task WHERE root = ?1 AND path = ?2 AND what IN (1, 2) RETURNING job";
        let job = self.one(sql, (as_i64(root.0), path.as_bytes()), |row| {
            count_at(row, 0).map(JobId)
        })?;
        job.map(|job| self.round_over(job)).transpose()?;
        Ok(job.is_some())
    }

    /// Lets the task of one name follow its file to another, in place of the task that the other name has; says whether
    /// there was one to follow. If not, nothing changes.
    ///
    /// The task keeps when it is due and the note of its upload; one that was running waits again.
    pub fn move_send(&self, from: (Ino, &Name), to: (Ino, &Name)) -> Result<bool, StateError> {
        let Some(task) = self.task_of(from.0, from.1)? else {
            return Ok(false);
        };
        if from == to {
            return Ok(true);
        }
        self.drop_send(to.0, to.1)?;
        let sql =
            "UPDATE task SET parent = ?2, name = ?3, state = iif(state = 1, 0, state), lease_ms = 0 WHERE id = ?1";
        self.run(sql, (as_i64(task.id.0), as_i64(to.0.0), to.1.as_bytes()))?;
        Ok(true)
    }

    /// Takes a name's task out of the queue and returns it as it was. An upload that it had under way is cleared away
    /// by a leftover.
    pub fn drop_send(&self, parent: Ino, name: &[u8]) -> Result<Option<Task>, StateError> {
        let Some(task) = self.task_of(parent, name)? else {
            return Ok(None);
        };
        self.take_out(&task)?;
        Ok(Some(task))
    }

    /// Gives the task of a name what a person had said about an earlier one, and that nobody has finished its file.
    pub fn inherit(&self, parent: Ino, name: &Name, before: &Task) -> Result<(), StateError> {
        let Some(task) = self.task_of(parent, name)? else {
            return Ok(());
        };
        self.set_task_priority(task.id, before.priority)?;
        if before.is_unfinished() {
            // Of what was written since, nobody says so.
            if before.generation == task.generation {
                self.hold_unfinished(task.id, before.error.as_deref().unwrap_or_default())?;
            }
        } else if before.state == TaskState::Held {
            self.hold_task(task.id, true)?;
        }
        Ok(())
    }

    /// Takes a task out of the queue because a person said so, and returns it as it was.
    pub fn cancel_task(&self, id: TaskId) -> Result<Option<Task>, StateError> {
        let Some(task) = self.task(id)?.filter(|task| !task.is_leftover()) else {
            return Ok(None);
        };
        self.take_out(&task)?;
        Ok(Some(task))
    }

    fn take_out(&self, task: &Task) -> Result<(), StateError> {
        const LEFTOVER: &str = "UPDATE task SET parent = NULL, name = NULL, ino = NULL, gen = gen + 1, size = 0, \
                                done_bytes = 0, tries = 0, kind = NULL, error = NULL, due_ms = 0, \
                                state = iif(state = 1, 1, 0) WHERE id = ?1";
        const COPY_LEFTOVER: &str = "UPDATE task SET what = 5, gen = gen + 1, size = 0, done_bytes = 0, tries = 0, \
                                     kind = NULL, error = NULL, due_ms = 0, state = iif(state = 1, 1, 0) WHERE id = ?1";
        let sql = if task.upload.is_some() {
            if task.what.is_copy() { COPY_LEFTOVER } else { LEFTOVER }
        } else {
            "DELETE FROM task WHERE id = ?1"
        };
        self.run(sql, [as_i64(task.id.0)])?;
        self.round_over(task.job)
    }

    /// Claims tasks of a project that are due, or whose claim ran out: by priority, then by when they were due, then in
    /// the order of their numbers. A paused queue gives none. Costs little more than its answer, however long the queue.
    pub fn claim(&self, claim: &Claim) -> Result<Vec<Task>, StateError> {
        const RUN: &str = concat!(
            "UPDATE task SET state = 1, lease_ms = ?2 WHERE id = ?1 RETURNING ",
            task_columns!()
        );
        if claim.limit == 0 || self.is_paused(claim.root)? {
            return Ok(Vec::new());
        }
        let line = Line::of(claim.root, claim.job);
        let mut places = self.run_out(claim, line)?;
        for state in STARTABLE {
            let mut found = 0;
            for level in self.levels(line, state)? {
                if found >= claim.limit {
                    break;
                }
                let due = self.due(claim, line, state, level)?;
                found += due.len();
                places.extend(due);
            }
        }
        places.sort_unstable();
        places.truncate(claim.limit);
        let claimed = places.into_iter().map(|(_, _, id)| {
            self.one(RUN, (as_i64(id), claim.lease_ms), task_at)?
                .ok_or_else(|| StateError::damaged(format!("the task {id} is in the index and not in the table")))
        });
        claimed.collect()
    }

    /// Returns running tasks whose claim ran out: as many as there are, since few run.
    fn run_out(&self, claim: &Claim, line: Line) -> Result<Vec<Place>, StateError> {
        let found = self.many(line.sql.run_out, (line.whose, claim.now_ms), |row| claim.place(row))?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Returns tasks of one priority that may be begun.
    fn due(&self, claim: &Claim, line: Line, state: TaskState, level: i64) -> Result<Vec<Place>, StateError> {
        let look = claim.limit + claim.under_way.len() + claim.max_size.map_or(0, |_| LOOK_PAST);
        let horizon = claim.now_ms.saturating_add(claim.horizon_ms);
        let mut places = Vec::new();
        for (sql, moment) in [(line.sql.due, claim.now_ms), (line.sql.far, horizon)] {
            let params = (line.whose, state.code(), level, moment, sql_limit(look));
            let found = self.many(sql, params, |row| claim.place(row))?;
            places.extend(found.into_iter().flatten());
        }
        places.truncate(claim.limit);
        Ok(places)
    }

    /// Makes a claim last longer, and says what became of it: if it does not hold, nothing is changed.
    pub fn extend_lease(&self, task: &Task, lease_ms: i64) -> Result<Standing, StateError> {
        const SQL: &str = concat!("UPDATE task SET lease_ms = ?6 WHERE ", same_work!(), " AND state = 1");
        let (id, parent, name, ino, generation) = task.key();
        if self.is_paused(task.root)? {
            return Ok(Standing::Stopped);
        }
        if self.run(SQL, (id, parent, name, ino, generation, lease_ms))? == 1 {
            return Ok(Standing::Claimed);
        }
        let is_held = self.same(task)? && self.task(task.id)?.is_some_and(|row| row.state == TaskState::Held);
        Ok(if is_held { Standing::Stopped } else { Standing::Changed })
    }

    /// Says whether a task's row is still the same work.
    fn same(&self, task: &Task) -> Result<bool, StateError> {
        const SQL: &str = concat!("SELECT 1 FROM task WHERE ", same_work!());
        Ok(self.one(SQL, task.key(), |_| Ok(()))?.is_some())
    }

    /// Writes down how far an upload is; `false`, and nothing is written, if the row is other work by now.
    pub fn note_upload(&self, task: &Task, upload: &str, done_bytes: u64) -> Result<bool, StateError> {
        const SQL: &str = concat!("UPDATE task SET upload = ?6, done_bytes = ?7 WHERE ", same_work!());
        let (id, parent, name, ino, generation) = task.key();
        let params = (id, parent, name, ino, generation, upload, as_i64(done_bytes));
        Ok(self.run(SQL, params)? == 1)
    }

    /// Takes the note of an upload off a row, whatever work the row is by now: the upload has been cleared away. A
    /// leftover is done with that, and goes.
    pub fn clear_upload(&self, id: TaskId) -> Result<(), StateError> {
        let id = as_i64(id.0);
        if self.run(
            "DELETE FROM task WHERE id = ?1 AND (what = 0 AND parent IS NULL OR what = 5)",
            [id],
        )? == 0
        {
            self.run("UPDATE task SET upload = NULL, done_bytes = 0 WHERE id = ?1", [id])?;
        }
        Ok(())
    }

    /// Ends a task that was done, and counts it for its job. `false` if there is more to do: the row is other work by
    /// now and waits, without the note of the upload that was done.
    pub fn finish_task(&self, task: &Task) -> Result<bool, StateError> {
        let sql = "UPDATE job SET done_tasks = done_tasks + 1, done_bytes = done_bytes + ?2 WHERE id = ?1";
        let ended = self.end_row(task)?;
        if ended {
            if task.what != TaskWhat::CopyFolder {
                self.run(sql, (as_i64(task.job.0), as_i64(task.size)))?;
            }
            self.round_did_task(task)?;
            self.round_over(task.job)?;
        } else {
            self.clear_upload(task.id)?;
        }
        Ok(ended)
    }

    /// Ends a task that there is nothing to do for. `false` if the row is other work by now, and waits.
    pub fn drop_task(&self, task: &Task) -> Result<bool, StateError> {
        let ended = self.end_row(task)?;
        if ended {
            self.round_over(task.job)?;
        }
        Ok(ended)
    }

    fn end_row(&self, task: &Task) -> Result<bool, StateError> {
        const SQL: &str = concat!("DELETE FROM task WHERE ", same_work!());
        if self.run(SQL, task.key())? == 1 {
            return Ok(true);
        }
        self.give_back(task.id)?;
        Ok(false)
    }

    /// Ends a claim without a word about the work: the task waits, and is due when it was.
    pub fn give_back(&self, id: TaskId) -> Result<(), StateError> {
        let sql = "UPDATE task SET state = 0, lease_ms = 0 WHERE id = ?1 AND state = 1";
        self.run(sql, [as_i64(id.0)])?;
        Ok(())
    }

    /// Ends a claim with a statement about the row, if it is still the same work.
    fn end_claim(&self, task: &Task, sql: &str, due_ms: i64, kind: &str, error: &str) -> Result<bool, StateError> {
        let (id, parent, name, ino, generation) = task.key();
        let params = (id, parent, name, ino, generation, due_ms, kind, error);
        if self.run(sql, params)? == 1 {
            self.round_over(task.job)?;
            return Ok(true);
        }
        self.give_back(task.id)?;
        Ok(false)
    }

    /// Puts a task off that failed: one more try has been had. `false` if the row is other work by now, and waits as
    /// that says.
    pub fn retry_task(&self, task: &Task, due_ms: i64, kind: &str, error: &str) -> Result<bool, StateError> {
        const SQL: &str = concat!(
            "UPDATE task SET state = iif(state >= 3, state, 0), lease_ms = 0, tries = tries + 1, due_ms = ?6, kind = ?7, \
             error = ?8 WHERE ",
            same_work!()
        );
        self.end_claim(task, SQL, due_ms, kind, error)
    }

    /// Puts a task off that could not be tried, or for no fault of its own; `why` is its kind and text, where there is
    /// something to say. `false` if the row is other work by now, and waits as that says.
    pub fn postpone_task(&self, task: &Task, due_ms: i64, why: Option<(&str, &str)>) -> Result<bool, StateError> {
        const SQL: &str = concat!(
            "UPDATE task SET state = iif(state >= 3, state, 0), lease_ms = 0, due_ms = ?6, kind = nullif(?7, ''), \
             error = nullif(?8, '') WHERE ",
            same_work!()
        );
        let (kind, error) = why.unwrap_or_default();
        self.end_claim(task, SQL, due_ms, kind, error)
    }

    /// Sets a task aside that needs a person; it is tried again by itself at `again_ms`, if at all. `false` if the row
    /// is other work by now, and waits.
    pub fn block_task(&self, task: &Task, again_ms: Option<i64>, kind: &str, error: &str) -> Result<bool, StateError> {
        const SQL: &str = concat!(
            "UPDATE task SET state = iif(state >= 3, state, 2), lease_ms = 0, tries = tries + 1, due_ms = ?6, kind = ?7, \
             error = ?8 WHERE ",
            same_work!()
        );
        self.end_claim(task, SQL, again_ms.unwrap_or(NEVER), kind, error)
    }

    /// Takes back all claims, at the start: who made them is gone. What needs a person is tried once more, since one may
    /// have seen to it.
    pub fn release_leases(&self) -> Result<(), StateError> {
        const CLAIMED: &str = "UPDATE task SET state = 0, lease_ms = 0 \
                               WHERE root IN (SELECT root FROM project) AND what < 3 AND state = 1";
        const BLOCKED: &str = "UPDATE task SET due_ms = 0 \
                               WHERE root IN (SELECT root FROM project) AND what < 3 AND state = 2";
        const COPIES_CLAIMED: &str = "UPDATE task SET state = 0, lease_ms = 0 \
                                      WHERE job IN (SELECT id FROM job WHERE kind > 0) AND what >= 3 AND state = 1";
        const COPIES_BLOCKED: &str = "UPDATE task SET due_ms = 0 \
                                      WHERE job IN (SELECT id FROM job WHERE kind > 0) AND what >= 3 AND state = 2";
        self.run(COPIES_CLAIMED, [])?;
        self.run(COPIES_BLOCKED, [])?;
        self.run(CLAIMED, [])?;
        self.run(BLOCKED, [])?;
        Ok(())
    }

    /// Stops a queue from being begun, or lets it go on. What is under way stops soon, to be gone on with.
    pub fn pause_queue(&self, root: Ino, paused: bool) -> Result<(), StateError> {
        let sql = "INSERT INTO queue (root, paused) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET paused = excluded.paused";
        self.run(sql, (as_i64(root.0), paused))?;
        Ok(())
    }

    /// Gives a queue a priority (0 to 1000); `None` is that of the settings.
    pub fn set_queue_priority(&self, root: Ino, priority: Option<u16>) -> Result<(), StateError> {
        let sql = "INSERT INTO queue (root, priority) VALUES (?1, ?2) \
                   ON CONFLICT DO UPDATE SET priority = excluded.priority";
        self.run(sql, (as_i64(root.0), priority))?;
        Ok(())
    }

    /// Gives a task a priority (0 to 1000); says whether there is such a task.
    pub fn set_task_priority(&self, id: TaskId, priority: u16) -> Result<bool, StateError> {
        let sql = "UPDATE task SET priority = ?2 WHERE id = ?1";
        Ok(self.run(sql, (as_i64(id.0), priority))? == 1)
    }

    /// Holds a send back whose file nobody has finished: the next close lets it go, as a person may.
    pub fn hold_unfinished(&self, id: TaskId, why: &str) -> Result<(), StateError> {
        let sql = "UPDATE task SET state = 3, lease_ms = 0, kind = 'unfinished', error = ?2 WHERE id = ?1 AND what = 0";
        self.run(sql, (as_i64(id.0), why))?;
        let task = self.task(id)?;
        task.map_or(Ok(()), |task| self.round_over(task.job))
    }

    /// Holds a task back, or lets a held one go; says whether there was one. One under way stops soon.
    pub fn hold_task(&self, id: TaskId, hold: bool) -> Result<bool, StateError> {
        let sql = if hold {
            "UPDATE task SET state = 3, lease_ms = 0 WHERE id = ?1 AND state <> 4"
        } else {
            "UPDATE task SET state = 0, due_ms = iif(due_ms = 9223372036854775807, 0, due_ms) \
             WHERE id = ?1 AND state = 3"
        };
        let changed = self.run(sql, [as_i64(id.0)])? == 1;
        if let Some(task) = self.task(id)?.filter(|_| changed) {
            if !hold {
                self.round_began(task.job)?;
            }
            self.round_over(task.job)?;
        }
        Ok(changed)
    }

    /// Makes tasks that failed or need a person due now, as if they had never failed; returns how many. One that is
    /// named is made due whether it failed or not.
    pub fn retry_now(&self, filter: TaskFilter, now_ms: i64) -> Result<usize, StateError> {
        const SQL: &str = "UPDATE task SET state = 0, due_ms = ?4, tries = 0 \
                           WHERE (?1 IS NULL OR id = ?1) AND (?2 IS NULL OR root = ?2) AND (?3 IS NULL OR state = ?3) \
                           AND (?5 IS NULL OR job = ?5) AND (state = 2 OR state = 0 AND (tries > 0 OR ?1 IS NOT NULL) OR state = 4 AND ?1 IS NOT NULL)";
        self.rounds_go_on(filter)?;
        let TaskFilter { root, state, id, job } = filter;
        let (id, root) = (id.map(|id| as_i64(id.0)), root.map(|root| as_i64(root.0)));
        let job = job.map(|job| as_i64(job.0));
        self.run(SQL, (id, root, state.map(TaskState::code), now_ms, job))
    }

    /// Makes tasks due now that a site refused the login; returns how many. Those of another site come to no harm: while it lets
    /// nobody in, they are not begun.
    pub fn retry_refused_logins(&self, now_ms: i64) -> Result<usize, StateError> {
        self.run(
            "UPDATE task SET due_ms = min(due_ms, ?1) WHERE kind = 'auth' AND state = 2",
            [now_ms],
        )
    }
}

impl Claim {
    /// Reads a task's place, if it may be had.
    fn place(&self, row: &Row<'_>) -> Result<Option<Place>, StateError> {
        let place = (Reverse(row.get(0).db()?), row.get(1).db()?, count_at(row, 2)?);
        let size = count_at(row, 3)?;
        let fits = self.max_size.is_none_or(|max| size <= max) && !self.under_way.contains(&TaskId(place.2));
        Ok(fits.then_some(place))
    }
}

impl Task {
    /// The parameters of `same_work`.
    fn key(&self) -> (i64, Option<i64>, Option<&[u8]>, Option<i64>, i64) {
        (
            as_i64(self.id.0),
            self.parent.map(|ino| as_i64(ino.0)),
            self.name.as_ref().map(Name::as_bytes),
            self.ino.map(|ino| as_i64(ino.0)),
            as_i64(self.generation),
        )
    }
}
