//! Queues, tasks, conflicts and what is not at its site yet, as plain values that serialise.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::state::Tally;

/// A number of files and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TallyReport {
    /// Tasks.
    pub tasks: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

impl TallyReport {
    pub(in crate::engine) fn add(&mut self, other: Self) {
        self.tasks += other.tasks;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl From<Tally> for TallyReport {
    fn from(Tally { tasks, bytes }: Tally) -> Self {
        Self { tasks, bytes }
    }
}

/// The queue of a project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct QueueReport {
    /// The key of the project's section.
    pub project: String,
    /// 0 to 1000; higher goes first.
    pub priority: u16,
    /// The priority was set by `queue set`; otherwise it is that of the settings.
    pub priority_set: bool,
    /// Nothing of it is begun.
    pub paused: bool,
    /// For their turn or time.
    pub waiting: TallyReport,
    /// Under way.
    pub running: TallyReport,
    /// In need of a person.
    pub blocked: TallyReport,
    /// Held back by one.
    pub held: TallyReport,
    /// Copies that were left out by one.
    #[serde(default)]
    pub excluded: TallyReport,
    /// Those of `waiting` that failed before.
    pub retrying: TallyReport,
    /// When the file that has waited longest was changed last, milliseconds since 1970.
    #[serde(default)]
    pub oldest_ms: Option<i64>,
}

impl QueueReport {
    /// Says whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [self.waiting, self.running, self.blocked, self.held]
            .iter()
            .all(|tally| tally.tasks == 0)
    }
}

/// What a task is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A file goes up.
    Publish,
    /// Something is removed at the site.
    Delete,
    /// What an upload left at the site that is not wanted any more is cleared away.
    Clear,
    /// A file goes from one site to another.
    Copy,
    /// A folder goes from one site to another: a task is made for each of its entries.
    CopyFolder,
}

/// The word for how a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskWord {
    /// For its turn.
    Waiting,
    /// Bytes go up.
    Uploading,
    /// Something is being removed.
    Deleting,
    /// It failed, and is tried again by itself.
    Retrying,
    /// It needs a person.
    Blocked,
    /// A person holds it back.
    Held,
    /// Bytes go from one site to another, or a folder is listed for that.
    Copying,
    /// A copy that a person left out.
    Excluded,
}

impl fmt::Display for TaskWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Uploading => "uploading",
            Self::Deleting => "deleting",
            Self::Retrying => "retrying",
            Self::Blocked => "blocked",
            Self::Held => "held",
            Self::Copying => "copying",
            Self::Excluded => "excluded",
        })
    }
}

/// A task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskReport {
    /// Its number.
    pub id: u64,
    /// The key of the project's section.
    pub project: String,
    /// The path in the drive; bytes that are not UTF-8 are shown as U+FFFD.
    pub path: String,
    /// What it is about.
    pub what: TaskKind,
    /// How it stands.
    pub state: TaskWord,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes that have arrived, of an upload that was begun.
    pub done_bytes: u64,
    /// Tries that failed.
    pub tries: u32,
    /// The last error's kind, for programs.
    pub kind: Option<String>,
    /// The last error, for people.
    pub error: Option<String>,
    /// Not before this, milliseconds since 1970; absent: not by itself.
    pub due_ms: Option<i64>,
    /// 0 to 1000; higher goes first.
    pub priority: u16,
    /// Copies: the site they come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Copies: the site they go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The job it belongs to.
    #[serde(default)]
    pub job: u64,
}

/// Which tasks are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskQuery {
    /// Of this project.
    pub project: Option<String>,
    /// That stand so.
    pub state: Option<TaskWord>,
    /// Of this job.
    pub job: Option<u64>,
    /// Those that follow on this: `next` of the page before.
    #[serde(default)]
    pub cursor: u64,
    /// At most so many, and no more than 1,000.
    pub limit: Option<usize>,
}

/// Some tasks, in the order of their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskReport>,
    /// Ask again with this as `cursor`; absent at the end.
    pub next: Option<u64>,
}

/// Which tasks something is done to: all that any of these names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Every one.
    pub all: bool,
    /// Those of a project.
    pub project: Option<String>,
    /// Those with these numbers.
    pub tasks: Vec<u64>,
    /// Those of these paths of the drive; a folder's are those of all below it.
    pub paths: Vec<String>,
    /// Those of this job of copies.
    pub job: Option<u64>,
}

/// What became of what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// Tasks that are otherwise now.
    pub tasks: u64,
    /// Files that were put into a queue again.
    pub queued: u64,
}

/// A file that this machine and its site have different successors of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConflictReport {
    /// Where ours is now.
    pub ours: String,
    /// The name that both want; theirs has it.
    pub wanted: String,
    /// The site's version when it was noticed.
    pub their_version: String,
    /// When, milliseconds since 1970.
    pub since_ms: i64,
    /// Length of ours in bytes.
    pub our_size: u64,
    /// When ours was written last, nanoseconds since 1970.
    pub our_mtime_ns: i64,
    /// Ours is at the site too, under its own name.
    pub ours_at_site: bool,
    /// Length of theirs in bytes, where it is known.
    pub their_size: Option<u64>,
    /// When theirs was written last, nanoseconds since 1970, where it is known.
    pub their_mtime_ns: Option<i64>,
}

/// Which conflicts are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConflictQuery {
    /// Those that follow on this: `next` of the page before.
    pub cursor: Option<String>,
    /// At most so many, and no more than 1,000.
    pub limit: Option<usize>,
}

/// Some conflicts that nobody has settled, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ConflictPage {
    /// The conflicts.
    pub conflicts: Vec<ConflictReport>,
    /// Ask again with this as `cursor`; absent at the end.
    pub next: Option<String>,
}

/// Which side of a conflict is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Ours.
    Mine,
    /// The site's.
    Theirs,
}

/// What is not at its site yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PendingReport {
    /// Files to be sent.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of the bytes that have arrived, in parts of files.
    pub done_bytes: u64,
    /// Files of publish zones that are being written for the first time: they follow once they are closed.
    pub writing: u64,
    /// Removals at sites.
    pub deletes: u64,
    /// Those of the files that go nowhere by themselves: blocked, held, or of a paused queue.
    pub stuck: TallyReport,
    /// When the file that has waited longest was changed last, milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// Bytes that arrive per second now.
    pub bytes_per_second: u64,
    /// How long the rest takes at that rate; absent while nothing moves.
    pub eta_seconds: Option<u64>,
}

impl PendingReport {
    /// Says whether everything is where it belongs.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.files == 0 && self.writing == 0 && self.deletes == 0
    }
}

/// Why tasks fail.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FailureReport {
    /// The errors' kind, for programs.
    pub kind: String,
    /// Tasks with such an error.
    pub tasks: u64,
    /// The error of the first of them, for people.
    pub error: String,
    /// Its path in the drive.
    pub path: String,
}

/// What is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WaitRequest {
    /// Everything.
    pub all: bool,
    /// These paths of the drive; of a folder, all below it.
    pub paths: Vec<String>,
    /// How long to wait before the answer says how far it is, at most 25,000.
    pub timeout_ms: Option<u64>,
}

/// How far something is that is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct WaitReport {
    /// Everything asked for is at its site.
    pub done: bool,
    /// Files that are on their way there, or will be by themselves.
    pub going: TallyReport,
    /// Paths that are not, and why: the first of them.
    pub obstacles: Vec<Obstacle>,
    /// How many of those there are.
    pub stuck: u64,
    /// Files below the folders asked for that are in no publish zone, and stay here.
    pub local: u64,
    /// Bytes that arrive per second now.
    pub bytes_per_second: u64,
}

/// Something that does not get to its site by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Obstacle {
    /// The path in the drive.
    pub path: String,
    /// What is in the way.
    pub what: ObstacleKind,
    /// Why, for people.
    pub why: String,
    /// The task, where there is one.
    pub task: Option<u64>,
}

/// What is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObstacleKind {
    /// It needs a person.
    Blocked,
    /// It failed several times.
    Failed,
    /// A person holds it back.
    Held,
    /// Its queue is paused.
    Paused,
    /// The site has another one.
    Conflict,
    /// It was taken out of the queue.
    Cancelled,
}

impl fmt::Display for ObstacleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blocked => "blocked",
            Self::Failed => "failed",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Conflict => "conflict",
            Self::Cancelled => "cancelled",
        })
    }
}
