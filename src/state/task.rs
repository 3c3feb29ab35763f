//! The rows of the transfer queue as plain values.

use rusqlite::Row;

use super::StateError;
use super::error::Db;
use super::node::{bytes_at, count_at, ino_at, name_at, path_at, version_at};
use crate::model::{Ino, Name, RelPath, SiteName, Version};

/// The priority of a task that nobody gave another.
pub const PRIORITY_NORMAL: u16 = 500;

/// The number of a task. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TaskId(pub u64);

/// The number of a job. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct JobId(pub u64);

/// What a task is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TaskWhat {
    /// Sending a file.
    Send,
    /// Removing a file at the site.
    DeleteFile,
    /// Removing an empty folder at the site.
    DeleteFolder,
    /// Copying a file from one site to another.
    Copy,
    /// Copying what is in a folder: becomes a task for each entry.
    CopyFolder,
    /// Clearing away what a copy that was taken out of the queue left at its target.
    CopyLeftover,
}

/// How a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TaskState {
    /// For its turn, or for its time.
    Waiting,
    /// Somebody has claimed it.
    Running,
    /// It needs a person. Some are tried again all the same, when they are due.
    Blocked,
    /// A person holds it back.
    Held,
    /// A person took this one file out of what is copied. The row stays, so that the folder's next look leaves it out too.
    Excluded,
}

/// What a copy may take the place of at its target.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Replaces {
    /// What a copy put there before and nobody changed since, and what is older than the source's file.
    #[default]
    Usual,
    /// Nothing: nothing may be there.
    Nothing,
    /// This version alone.
    Only(Version),
    /// Whatever is there: somebody asked for that.
    Whatever,
}

/// One file's transfer, or one removal at the site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// The project's root folder.
    pub root: Ino,
    /// The job it counts for.
    pub job: JobId,
    /// What it is about.
    pub what: TaskWhat,
    /// Sends: the folder of the name whose file is sent; `None` for a leftover.
    pub parent: Option<Ino>,
    /// Sends: the name.
    pub name: Option<Name>,
    /// Sends: the file.
    pub ino: Option<Ino>,
    /// Removals: the path under the project's remote path. Copies: the path below the project's folder, at every site.
    pub path: Option<RelPath>,
    /// Removals: what may be removed. Copies: the source's version when it was last looked at, if it was.
    pub version: Option<Version>,
    /// Sends: the generation that was closed last. Removals: counts how often it was asked for.
    pub generation: u64,
    /// Bytes of the file, as of that generation.
    pub size: u64,
    /// 0 to 1000; higher goes first.
    pub priority: u16,
    /// How it stands.
    pub state: TaskState,
    /// Not before this, milliseconds since 1970.
    pub due_ms: i64,
    /// Tries that failed since it was last put in.
    pub tries: u32,
    /// The last error's kind, for programs.
    pub kind: Option<String>,
    /// The last error, for people.
    pub error: Option<String>,
    /// Running: until when it is claimed, milliseconds since 1970.
    pub lease_ms: i64,
    /// Bytes that have arrived, of an upload under way.
    pub done_bytes: u64,
    /// The worker's note about an upload under way.
    pub upload: Option<String>,
    /// Copies: the site they go to.
    pub target: Option<SiteName>,
    /// Copies: what they may take the place of.
    pub replaces: Replaces,
    /// Copies: the worker's note of what a listing of the folder showed.
    pub seen: Option<String>,
}

impl Task {
    /// Says whether only an upload has still to be cleared away: the name that it was for is gone.
    #[must_use]
    pub fn is_leftover(&self) -> bool {
        self.what == TaskWhat::CopyLeftover || self.what == TaskWhat::Send && self.parent.is_none()
    }

    /// Says whether it is held back because nobody has finished its file.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.state == TaskState::Held && self.kind.as_deref() == Some("unfinished")
    }
}

/// A file to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewSend {
    /// The project's root folder.
    pub root: Ino,
    /// The folder of its name.
    pub parent: Ino,
    /// Its name.
    pub name: Name,
    /// The file.
    pub ino: Ino,
    /// The generation that was closed.
    pub generation: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Not before this, milliseconds since 1970.
    pub due_ms: i64,
    /// The site it comes from.
    pub source: SiteName,
    /// The site it goes to.
    pub target: SiteName,
}

/// A path to be removed at the site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewDelete {
    /// The project's root folder.
    pub root: Ino,
    /// The path under the project's remote path.
    pub path: RelPath,
    /// Files: what may be removed.
    pub version: Option<Version>,
    /// It is a folder.
    pub folder: bool,
    /// Not before this, milliseconds since 1970.
    pub due_ms: i64,
    /// The site that asks.
    pub source: SiteName,
    /// The site where it is removed.
    pub target: SiteName,
}

/// What a worker asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The project's root folder.
    pub root: Ino,
    /// Copies of this job; `None`: what the project publishes.
    pub job: Option<JobId>,
    /// The moment, milliseconds since 1970.
    pub now_ms: i64,
    /// Until when the claim holds, milliseconds since 1970.
    pub lease_ms: i64,
    /// Tasks at most.
    pub limit: usize,
    /// A task that is due later than this many milliseconds from now was put off by a clock that has since been set
    /// back: it is taken at once.
    pub horizon_ms: i64,
    /// No larger files than this, in bytes. Looks past a thousand larger ones in each priority, no further.
    pub max_size: Option<u64>,
    /// Tasks that the asker is at already: not given again, whatever their rows say.
    pub under_way: Vec<TaskId>,
}

/// What became of a claim while it was worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It holds.
    Claimed,
    /// It was held back, or its queue was paused: to be gone on with later, from where it is.
    Stopped,
    /// The row is gone or is other work by now.
    Changed,
}

/// Which tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TaskFilter {
    /// Of this project.
    pub root: Option<Ino>,
    /// That stand so.
    pub state: Option<TaskState>,
    /// This one.
    pub id: Option<TaskId>,
    /// Of this job.
    pub job: Option<JobId>,
}

/// What was set for a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueRow {
    /// The project's root folder.
    pub root: Ino,
    /// 0 to 1000; `None`: as in the settings.
    pub priority: Option<u16>,
    /// Nothing of it is begun.
    pub paused: bool,
}

/// Why a job was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobKind {
    /// Files that were written here go to the project's site.
    Publish,
    /// Somebody pushed files to a site.
    Push,
    /// Somebody pulled files from a site.
    Pull,
    /// Sites are kept alike.
    Sync,
}

/// What was asked for between two sites of a project on one day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The project's root folder.
    pub root: Ino,
    /// Where files come from.
    pub source: SiteName,
    /// Where they go.
    pub target: SiteName,
    /// Why.
    pub kind: JobKind,
    /// Days since 1970: of UTC for publishes, else of whoever asked.
    pub day: i64,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// Tasks that were finished.
    pub done_tasks: u64,
    /// Bytes in them.
    pub done_bytes: u64,
    /// Copies: files that were at the target already.
    pub same_tasks: u64,
    /// Copies: entries that were left out because they are neither files nor folders.
    pub left_out: u64,
}

/// A number of tasks and the bytes of their files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Tasks.
    pub tasks: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How a queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueCounts {
    /// For their turn or time.
    pub waiting: Tally,
    /// Claimed.
    pub running: Tally,
    /// In need of a person.
    pub blocked: Tally,
    /// Held back by one.
    pub held: Tally,
    /// Left out by one.
    pub excluded: Tally,
    /// Those of `waiting` that failed before.
    pub retrying: Tally,
}

/// Tasks of a project that wait, all of one kind of job between the same sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingBetween {
    /// Of their jobs.
    pub kind: JobKind,
    /// Where they come from.
    pub source: SiteName,
    /// Where they go.
    pub target: SiteName,
    /// Whether they failed before.
    pub failed_before: bool,
    /// How many.
    pub tally: Tally,
}

/// The columns of [`task_at`].
macro_rules! task_columns {
    () => {
        "id, root, job, what, parent, name, ino, path, version, gen, size, priority, state, due_ms, tries, kind, error, \
         lease_ms, done_bytes, upload, target, replaces, replaced, seen"
    };
}

pub(super) use task_columns;

/// The columns of [`job_at`].
macro_rules! job_columns {
    () => {
        "id, root, source, target, kind, day, created_ms, done_tasks, done_bytes, same_tasks, left_out"
    };
}
pub(super) use job_columns;

pub(super) fn task_at(row: &Row<'_>) -> Result<Task, StateError> {
    let optional_ino = |at| -> Result<Option<Ino>, StateError> {
        let present = row.get::<_, Option<i64>>(at).db()?.is_some();
        present.then(|| ino_at(row, at)).transpose()
    };
    let name = bytes_at(row, 5)?.is_some().then(|| name_at(row, 5)).transpose()?;
    let path = bytes_at(row, 7)?.is_some().then(|| path_at(row, 7)).transpose()?;
    Ok(Task {
        id: TaskId(count_at(row, 0)?),
        root: ino_at(row, 1)?,
        job: JobId(count_at(row, 2)?),
        what: TaskWhat::from_code(row.get(3).db()?)?,
        parent: optional_ino(4)?,
        name,
        ino: optional_ino(6)?,
        path,
        version: version_at(row, 8)?,
        generation: count_at(row, 9)?,
        size: count_at(row, 10)?,
        priority: row.get(11).db()?,
        state: TaskState::from_code(row.get(12).db()?)?,
        due_ms: row.get(13).db()?,
        tries: row.get(14).db()?,
        kind: row.get(15).db()?,
        error: row.get(16).db()?,
        lease_ms: row.get(17).db()?,
        done_bytes: count_at(row, 18)?,
        upload: row.get(19).db()?,
        target: row.get::<_, Option<String>>(20).db()?.map(SiteName),
        replaces: Replaces::from_columns(row.get(21).db()?, version_at(row, 22)?)?,
        seen: row.get(23).db()?,
    })
}

pub(super) fn job_at(row: &Row<'_>) -> Result<Job, StateError> {
    Ok(Job {
        id: JobId(count_at(row, 0)?),
        root: ino_at(row, 1)?,
        source: SiteName(row.get(2).db()?),
        target: SiteName(row.get(3).db()?),
        kind: JobKind::from_code(row.get(4).db()?)?,
        day: row.get(5).db()?,
        created_ms: row.get(6).db()?,
        done_tasks: count_at(row, 7)?,
        done_bytes: count_at(row, 8)?,
        same_tasks: count_at(row, 9)?,
        left_out: count_at(row, 10)?,
    })
}

impl TaskWhat {
    /// Says whether it is a copy from one site to another.
    #[must_use]
    pub fn is_copy(self) -> bool {
        matches!(self, Self::Copy | Self::CopyFolder | Self::CopyLeftover)
    }

    pub(super) fn code(self) -> i64 {
        match self {
            Self::Send => 0,
            Self::DeleteFile => 1,
            Self::DeleteFolder => 2,
            Self::Copy => 3,
            Self::CopyFolder => 4,
            Self::CopyLeftover => 5,
        }
    }

    pub(super) fn from_code(code: i64) -> Result<Self, StateError> {
        [
            Self::Send,
            Self::DeleteFile,
            Self::DeleteFolder,
            Self::Copy,
            Self::CopyFolder,
            Self::CopyLeftover,
        ]
        .into_iter()
        .find(|what| what.code() == code)
        .ok_or_else(|| StateError::damaged(format!("a task about {code}")))
    }
}

impl TaskState {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Waiting => 0,
            Self::Running => 1,
            Self::Blocked => 2,
            Self::Held => 3,
            Self::Excluded => 4,
        }
    }

    pub(super) fn from_code(code: i64) -> Result<Self, StateError> {
        [Self::Waiting, Self::Running, Self::Blocked, Self::Held, Self::Excluded]
            .into_iter()
            .find(|state| state.code() == code)
            .ok_or_else(|| StateError::damaged(format!("a task in state {code}")))
    }
}

impl JobKind {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Publish => 0,
            Self::Push => 1,
            Self::Pull => 2,
            Self::Sync => 3,
        }
    }

    pub(super) fn from_code(code: i64) -> Result<Self, StateError> {
        [Self::Publish, Self::Push, Self::Pull, Self::Sync]
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or_else(|| StateError::damaged(format!("a job of kind {code}")))
    }
}

impl Replaces {
    pub(super) fn columns(&self) -> (i64, Option<&str>) {
        match self {
            Self::Usual => (0, None),
            Self::Nothing => (1, None),
            Self::Only(version) => (2, Some(version.as_str())),
            Self::Whatever => (3, None),
        }
    }

    pub(super) fn from_columns(code: i64, version: Option<Version>) -> Result<Self, StateError> {
        match (code, version) {
            (0, _) => Ok(Self::Usual),
            (1, _) => Ok(Self::Nothing),
            (2, Some(version)) => Ok(Self::Only(version)),
            (3, _) => Ok(Self::Whatever),
            _ => Err(StateError::damaged(format!("a copy that replaces {code}"))),
        }
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.tasks += other.tasks;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    pub(crate) fn take_off(&mut self, other: Self) {
        self.tasks = self.tasks.saturating_sub(other.tasks);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}
