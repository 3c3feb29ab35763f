//! Copies between sites and their jobs, as plain values that serialise.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TallyReport;

/// Which way somebody asked for a copy: jobs of the two are apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CopyDirection {
    /// To another site.
    #[default]
    Push,
    /// From another site.
    Pull,
}

/// A path to be copied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CopyPath {
    /// A path of the drive. `*`, `?`, `[ab]` and `{a,b}` stand for names, `**` for folders, and in the last name `####`,
    /// `%04d` or `$F4` for a frame number.
    pub path: String,
    /// Which frames, as in `1001-1100x2,1200`. Default: all.
    pub frames: Option<String>,
}

/// What is to be copied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CopyRequest {
    /// Which way.
    pub direction: CopyDirection,
    /// What.
    pub paths: Vec<CopyPath>,
    /// From where. Default: the project's remote site.
    pub from: Option<String>,
    /// To where. Default: the project's remote site.
    pub to: Option<String>,
    /// 0 to 1000. Default: 500.
    pub priority: Option<u16>,
    /// Replace what is there, also where it is newer.
    pub overwrite: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CopyReport {
    /// The jobs that the paths are part of now.
    pub jobs: Vec<JobReport>,
    /// Paths that were put in, or tried again. Folders become a task for each entry later.
    pub tasks: u64,
    /// Those of them that could not be looked at, as their site is away: they are looked at once it answers.
    pub unseen: u64,
    /// Frames that were asked for and are not there.
    pub missing: Vec<String>,
    /// What would be copied; of a dry run.
    pub would_copy: TallyReport,
    /// What is there already.
    pub would_skip: TallyReport,
    /// What would be in conflict.
    pub would_conflict: TallyReport,
    /// The first thousand of what would be copied or be in conflict.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub planned: Vec<PlannedCopy>,
}

/// A file of a dry run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PlannedCopy {
    /// Its path in the drive.
    pub path: String,
    /// `copied` or `conflict`.
    pub what: String,
}

/// How a job stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobWord {
    /// Tasks wait for their turn, their time or a site.
    Waiting,
    /// Bytes move.
    Running,
    /// Its queue is paused.
    Paused,
    /// All that is left needs a person; or one of its sites is not in the settings any more.
    Blocked,
    /// All that is left is held back by one.
    Held,
    /// Nothing is left.
    Done,
}

impl fmt::Display for JobWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Blocked => "blocked",
            Self::Held => "held",
            Self::Done => "done",
        })
    }
}

/// What was asked for, of one project, between two sites, one way, on one day.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobReport {
    /// Its number.
    pub id: u64,
    /// As people call it: `show push hq>london 2026-11-26`.
    pub name: String,
    /// The key of the project's section.
    pub project: String,
    /// `push`, `pull` or `sync`.
    pub kind: String,
    /// Where files come from.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// The day, by the machine's clock.
    pub day: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// How it stands.
    pub state: JobWord,
    /// For their turn or time.
    pub waiting: TallyReport,
    /// Under way.
    pub running: TallyReport,
    /// In need of a person.
    pub blocked: TallyReport,
    /// Held back by one.
    pub held: TallyReport,
    /// Left out by one.
    pub excluded: TallyReport,
    /// Those of all these that are folders, whose entries are not known yet.
    pub folders: u64,
    /// Files that were copied.
    pub done: TallyReport,
    /// Files that were there already.
    pub same: u64,
    /// Entries that were left out as they are neither files nor folders.
    pub left_out: u64,
}

/// Which jobs are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobQuery {
    /// Of this project.
    pub project: Option<String>,
    /// Those that are done too, the latest.
    pub all: bool,
}
