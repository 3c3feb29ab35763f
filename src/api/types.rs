//! The JSON of the API that is not the drive's own report: requests, and answers about the daemon itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::report::{HydrationProgress, Keep, LsEntry, PendingReport, Selection, WaitReport};
use crate::engine::scan::ScanProgress;

/// `GET /v1/health`: answered without touching the store or the mount.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// It mounts the drive; otherwise it is there for a scan alone.
    pub mounted: bool,
    /// Where the API and the dashboard are on TCP.
    #[serde(default)]
    pub tcp: Option<std::net::SocketAddr>,
    /// The file of its program was replaced since it started, as by an upgrade: it runs on until it is mounted anew.
    #[serde(default)]
    pub replaced: bool,
}

/// `GET /v1/session`: what who asks may do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SessionReport {
    /// `viewer` or `admin`.
    pub role: String,
}

/// `POST /v1/login`, on TCP: for browsers, which get a cookie for their token.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The token.
    pub token: String,
}

/// `POST /v1/logout`: there is no session any more.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LoggedOut {}

/// A row of `GET /v1/settings`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SettingRow {
    /// Dotted key.
    pub key: String,
    /// The value in force, as TOML; of a secret, where it is to be found.
    pub value: String,
    /// Where the value comes from.
    pub origin: String,
}

/// Query of `GET /v1/ls`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LsQuery {
    /// A path of the drive; empty for its root.
    #[serde(default)]
    pub path: String,
    /// The rows that follow on the one with this cookie: `next` of the page before.
    #[serde(default)]
    pub cursor: u64,
    /// Rows wanted, at most 10,000.
    pub limit: Option<usize>,
}

/// `GET /v1/ls`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LsPage {
    /// The rows.
    pub entries: Vec<LsEntry>,
    /// Ask again with this as `cursor`; absent at the end.
    pub next: Option<u64>,
}

/// `POST /v1/scans`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanRequest {
    /// A path of the drive; empty for all projects.
    #[serde(default)]
    pub path: String,
}

/// A scan.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ScanState {
    /// Its number, for `GET /v1/scans/{id}`.
    pub id: u64,
    /// How far it is.
    pub progress: ScanProgress,
}

/// `POST /v1/unmount`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnmountRequest {
    /// Detach although it is in use.
    #[serde(default)]
    pub lazy: bool,
    /// Not before everything made here is at its site: waits for that for up to 25 seconds, then says how far it is.
    #[serde(default)]
    pub wait: bool,
    /// Whatever is not at its site yet stays here for the next start: the caller knows.
    #[serde(default)]
    pub leave: bool,
    /// How long to wait, at most 25,000.
    pub timeout_ms: Option<u64>,
}

/// `POST /v1/queues/pause` and `POST /v1/queues/resume`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// The project; all if left out.
    pub project: Option<String>,
}

/// `POST /v1/queues/priority`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueuePriorityRequest {
    /// The project.
    pub project: String,
    /// 0 to 1000; that of the settings if left out.
    pub priority: Option<u16>,
}

/// `POST /v1/tasks/priority`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskPriorityRequest {
    /// Which tasks.
    pub of: Selection,
    /// 0 to 1000; that of a new task if left out.
    pub priority: Option<u16>,
}

/// `POST /v1/pins/remove`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnpinRequest {
    /// Numbers, paths or patterns of pins.
    pub what: Vec<String>,
}

/// `POST /v1/hydrations`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HydrateRequest {
    /// Paths and patterns of the drive.
    pub paths: Vec<String>,
    /// Only the beginnings and ends of media files, to be kept apart.
    #[serde(default)]
    pub heads: bool,
}

/// `POST /v1/cache/evict`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathsRequest {
    /// Paths and patterns of the drive.
    pub paths: Vec<String>,
}

/// A hydration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HydrationState {
    /// Its number, for `GET /v1/hydrations/{id}`.
    pub id: u64,
    /// How far it is.
    pub progress: HydrationProgress,
}

/// Query of `GET /v1/cache/top`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopQuery {
    /// Put together what has the same first names, so many of them.
    pub depth: Option<usize>,
    /// Rows wanted, 20 if left out.
    pub limit: Option<usize>,
}

/// `POST /v1/conflicts/resolve`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// Paths of our files, or of the names that both sides want.
    pub paths: Vec<String>,
    /// Which side is kept.
    pub keep: Keep,
}

/// How an unmount went.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum StopOutcome {
    /// The drive is unmounted and the daemon ends.
    Stopped {
        /// What was not at its site yet; absent where that could not be told.
        left: Option<PendingReport>,
    },
    /// Not everything is at its site yet, and that was to be waited for; nothing changed.
    Waiting {
        /// How far it is.
        report: WaitReport,
    },
    /// Somebody uses it; nothing changed.
    Busy {
        /// Who.
        holders: Vec<Holder>,
    },
    /// It failed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A process that keeps the mount busy.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// What it holds.
    pub what: String,
}
