//! Copies between sites in the queue: tasks of jobs that have a source and a target.
//!
//! Owns: which job a copy belongs to, what becomes of one that is asked for again. Refuses to know: how anything is copied.
//! Invariants: a path of a project has one unfinished copy to a site at most, however often and in whichever job it was
//! asked for; what a person held back or took out is not begun because a folder was asked for again.

use super::StateError;
use super::arrival::Arrival;
use super::error::Db;
use super::node::{as_i64, count_at};
use super::read::ReadTxn;
use super::task::{
    Job, JobId, JobKind, Replaces, Tally, Task, TaskId, TaskState, TaskWhat, job_at, job_columns, task_at, task_columns,
};
use super::write::WriteTxn;
use crate::model::{Ino, RelPath, SiteName, Version};

/// Tasks that were left out of a job are forgotten with the next one that is made this much later, in milliseconds.
const EXCLUDED_FOR_MS: i64 = 7 * 86_400_000;

/// What makes a job the same as another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JobKey {
    /// The project's root folder.
    pub root: Ino,
    /// Where files come from.
    pub source: SiteName,
    /// Where they go.
    pub target: SiteName,
    /// Why.
    pub kind: JobKind,
    /// Days since 1970, as whoever asks counts them.
    pub day: i64,
}

/// Who asks for a copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asked {
    /// A person named this path: whatever became of an earlier task, it is tried now, unless one holds it back.
    Named,
    /// It was found in a folder that is copied: one that was taken out of the same job stays out.
    Found,
    /// A service keeps sites alike: a task for the same version of the source is left as it is.
    Automatic,
}

/// A copy to be put into the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewCopy {
    /// The path below the project's folder, at both sites.
    pub path: RelPath,
    /// It is a folder, with all that is in it; or it is not known what it is.
    pub folder: bool,
    /// Length in bytes, where it is known.
    pub size: u64,
    /// The source's version, where it is known.
    pub source_version: Option<Version>,
    /// What it may take the place of.
    pub replaces: Replaces,
    /// 0 to 1000; higher goes first.
    pub priority: u16,
    /// Who asks.
    pub asked: Asked,
    /// The worker's note of what a listing showed.
    pub seen: Option<String>,
}

/// A job of copies, and what is left of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenJob {
    /// The job.
    pub job: Job,
    /// Its tasks, by state.
    pub left: Vec<(TaskState, Tally)>,
    /// Those of them that are folders.
    pub folders: u64,
}

/// Returns what lies between the paths below a folder.
fn below(dir: &RelPath) -> (Vec<u8>, Vec<u8>) {
    if dir.is_root() {
        // No byte of a path is above 0xff.
        return (Vec::new(), vec![0xff; 4096]);
    }
    // All that begins with `dir/`: `0` follows `/`.
    ([dir.as_bytes(), b"/"].concat(), [dir.as_bytes(), b"0"].concat())
}

impl ReadTxn<'_> {
    /// Returns the jobs of copies that have tasks which may be begun some time, oldest first.
    pub fn copy_jobs(&self) -> Result<Vec<Job>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job WHERE kind > 0 AND EXISTS (SELECT 1 FROM task INDEXED BY task_copy_next ",
            "WHERE task.job = job.id AND what >= 3 AND state < 4) ORDER BY id"
        );
        self.many(SQL, [], job_at)
    }

    /// Returns a job of copies with what is left of it; `None` where there is none of that number. Costs the same however
    /// many there are.
    pub fn open_job(&self, id: JobId) -> Result<Option<OpenJob>, StateError> {
        let Some(job) = self.job(id)?.filter(|job| job.kind != JobKind::Publish) else {
            return Ok(None);
        };
        let sql = "SELECT state, sum(tasks), CAST(total(bytes) AS INTEGER), sum(iif(what = 4, tasks, 0)) \
                   FROM tally WHERE job = ?1 AND what IN (3, 4) AND tasks > 0 GROUP BY state";
        let mut folders = 0;
        let left = self.many(sql, [as_i64(id.0)], |row| {
            let (tasks, bytes) = (count_at(row, 1)?, count_at(row, 2)?);
            folders += count_at(row, 3)?;
            Ok((TaskState::from_code(row.get(0).db()?)?, Tally { tasks, bytes }))
        })?;
        Ok(Some(OpenJob { job, left, folders }))
    }

    /// Returns the copies of a path that are not finished, one a site.
    pub fn copies_of(&self, root: Ino, path: &RelPath) -> Result<Vec<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_copy WHERE root = ?1 AND path = ?2 AND what >= 3 ORDER BY target"
        );
        self.many(SQL, (as_i64(root.0), path.as_bytes()), task_at)
    }

    /// Returns up to `limit` copies of what is below a folder of a project (of all of it, for its root) that are not
    /// finished, in the order of their paths.
    pub fn copies_below(&self, root: Ino, dir: &RelPath, limit: usize) -> Result<Vec<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_copy WHERE root = ?1 AND path > ?2 AND path < ?3 AND what >= 3 ",
            "ORDER BY path, target LIMIT ?4"
        );
        let (from, to) = below(dir);
        self.many(SQL, (as_i64(root.0), from, to, as_i64(limit as u64)), task_at)
    }

    /// Returns the copies of what is in a folder of a project itself, not in folders below it, that are not finished.
    pub fn copies_in(&self, root: Ino, dir: &RelPath) -> Result<Vec<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_copy WHERE root = ?1 AND path > ?2 AND path < ?3 AND what >= 3",
            " AND instr(substr(path, ?4), x'2f') = 0 ORDER BY path, target"
        );
        let (from, to) = below(dir);
        let first = as_i64(from.len() as u64) + 1;
        self.many(SQL, (as_i64(root.0), from, to, first), task_at)
    }

    fn copy_to(&self, root: Ino, path: &RelPath, target: &SiteName) -> Result<Option<Task>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            task_columns!(),
            " FROM task INDEXED BY task_copy WHERE root = ?1 AND path = ?2 AND target = ?3 AND what >= 3"
        );
        self.one(SQL, (as_i64(root.0), path.as_bytes(), &target.0), task_at)
    }
}

impl WriteTxn<'_> {
    /// Returns the job of a key, which is made if there is none.
    pub fn ensure_job(&self, key: &JobKey, now_ms: i64) -> Result<JobId, StateError> {
        let JobKey {
            root,
            source,
            target,
            kind,
            day,
        } = key;
        let find = "SELECT id FROM job WHERE root = ?1 AND source = ?2 AND target = ?3 AND kind = ?4 AND day = ?5";
        let params = (as_i64(root.0), &source.0, &target.0, kind.code(), day);
        if let Some(job) = self.one(find, params, |row| count_at(row, 0).map(JobId))? {
            return Ok(job);
        }
        let insert = "INSERT INTO job (root, source, target, kind, day, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let params = (as_i64(root.0), &source.0, &target.0, kind.code(), day, now_ms);
        self.run(insert, params)?;
        let id = JobId(self.conn.last_insert_rowid().unsigned_abs());
        if *kind != JobKind::Publish {
            let forget = "DELETE FROM task WHERE what >= 3 AND state = 4 AND upload IS NULL \
                          AND job IN (SELECT id FROM job WHERE root = ?1 AND created_ms < ?2)";
            self.run(forget, (as_i64(root.0), now_ms.saturating_sub(EXCLUDED_FOR_MS)))?;
        }
        Ok(id)
    }

    /// Puts a copy into the queue, or renews the one of the same path and target that is there: see [`Asked`]. One that is
    /// running goes on, unless it is of another version, and one that a person holds back stays held. A renewed one belongs
    /// to the job that asked last.
    pub fn queue_copy(&self, copy: &NewCopy, key: &JobKey, now_ms: i64) -> Result<TaskId, StateError> {
        let job = self.ensure_job(key, now_ms)?;
        self.queue_copy_in(copy, job, key.root, &key.target, now_ms)
    }

    /// Like [`queue_copy`](Self::queue_copy), into a job that is known.
    pub fn queue_copy_in(
        &self,
        copy: &NewCopy,
        job: JobId,
        root: Ino,
        target: &SiteName,
        now_ms: i64,
    ) -> Result<TaskId, StateError> {
        const INSERT: &str = "INSERT INTO task (root, job, what, path, version, size, priority, state, due_ms, target, \
                              replaces, replaced, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12)";
        const RENEW: &str = "UPDATE task SET job = ?2, what = ?3, version = ?4, size = ?5, priority = ?6, state = ?7, \
                             due_ms = ?8, replaces = ?9, replaced = ?10, seen = ?11, tries = 0, kind = NULL, \
                             error = NULL, gen = gen + ?12 WHERE id = ?1";
        let what = if copy.folder {
            TaskWhat::CopyFolder
        } else {
            TaskWhat::Copy
        };
        let (replaces, replaced) = copy.replaces.columns();
        let version = copy.source_version.as_ref().map(Version::as_str);
        let Some(there) = self.copy_to(root, &copy.path, target)? else {
            let params = (
                as_i64(root.0),
                as_i64(job.0),
                what.code(),
                copy.path.as_bytes(),
                version,
                as_i64(copy.size),
                copy.priority,
                now_ms,
                &target.0,
                replaces,
                replaced,
                &copy.seen,
            );
            self.run(INSERT, params)?;
            let id = TaskId(self.conn.last_insert_rowid().unsigned_abs());
            self.round_began(job)?;
            return Ok(id);
        };
        let same_file = there.what == what && there.version.is_some() && there.version == copy.source_version;
        // The file changed while the version before is on its way: whoever copies that learns from the generation that
        // there is more to do.
        let is_newer = copy.source_version.is_some() && there.version.is_some() && !same_file;
        let is_overtaken = there.state == TaskState::Running && there.what == what && is_newer;
        let stays = match copy.asked {
            _ if there.state == TaskState::Running && there.what == what => !is_overtaken,
            Asked::Named => false,
            Asked::Found => there.state == TaskState::Excluded && there.job == job,
            Asked::Automatic => same_file && there.what != TaskWhat::CopyLeftover || there.state == TaskState::Excluded,
        };
        if stays {
            // Who names it may still be in more of a hurry.
            if copy.asked == Asked::Named && there.priority < copy.priority {
                self.set_task_priority(there.id, copy.priority)?;
            }
            return Ok(there.id);
        }
        let state = match there.state {
            TaskState::Held => TaskState::Held,
            TaskState::Running => TaskState::Running,
            TaskState::Waiting | TaskState::Blocked | TaskState::Excluded => TaskState::Waiting,
        };
        let params = (
            as_i64(there.id.0),
            as_i64(job.0),
            what.code(),
            version,
            as_i64(copy.size),
            copy.priority,
            state.code(),
            now_ms,
            replaces,
            replaced,
            &copy.seen,
            is_overtaken,
        );
        self.run(RENEW, params)?;
        self.round_began(job)?;
        if there.job != job {
            self.round_over(there.job)?;
        }
        Ok(there.id)
    }

    /// Ends a copy whose file is at its target.
    pub fn finish_copy(&self, task: &Task, arrival: &Arrival) -> Result<bool, StateError> {
        self.arrived(arrival)?;
        if !arrival.skipped {
            return self.finish_task(task);
        }
        let ended = self.drop_task(task)?;
        if ended {
            self.count_same(task.job, 1)?;
        }
        Ok(ended)
    }

    /// Counts files that were at the target already.
    pub fn count_same(&self, job: JobId, files: u64) -> Result<(), StateError> {
        let sql = "UPDATE job SET same_tasks = same_tasks + ?2 WHERE id = ?1";
        self.run(sql, (as_i64(job.0), as_i64(files)))?;
        Ok(())
    }

    /// Counts entries that are neither files nor folders.
    pub fn count_left_out(&self, job: JobId, entries: u64) -> Result<(), StateError> {
        let sql = "UPDATE job SET left_out = left_out + ?2 WHERE id = ?1";
        self.run(sql, (as_i64(job.0), as_i64(entries)))?;
        Ok(())
    }

    /// Says of a task about a path that turned out to be a file that it is one.
    pub fn is_one_file(&self, id: TaskId) -> Result<(), StateError> {
        self.run("UPDATE task SET what = 3 WHERE id = ?1 AND what = 4", [as_i64(id.0)])?;
        Ok(())
    }

    /// Says of a task about a path that turned out to be a folder that it is one.
    pub fn is_a_folder(&self, id: TaskId) -> Result<(), StateError> {
        self.run("UPDATE task SET what = 4 WHERE id = ?1 AND what = 3", [as_i64(id.0)])?;
        Ok(())
    }

    /// Takes one copy out of what its job copies; says whether there was one. One under way stops soon. What it left at
    /// its target is cleared away by the next try, or is gone on with.
    pub fn exclude_copy(&self, id: TaskId) -> Result<bool, StateError> {
        let sql = "UPDATE task SET state = 4, lease_ms = 0 WHERE id = ?1 AND what IN (3, 4) AND state <> 4";
        let excluded = self.run(sql, [as_i64(id.0)])? == 1;
        if let Some(task) = self.task(id)?.filter(|_| excluded) {
            self.round_over(task.job)?;
        }
        Ok(excluded)
    }
}
