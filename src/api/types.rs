//! The JSON of the API that is not the drive's own report: requests, and answers about the daemon itself.

use serde::{Deserialize, Serialize};

use crate::engine::report::LsEntry;
use crate::engine::scan::ScanProgress;

/// `GET /v1/health`: answered without touching the store or the mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// It mounts the drive; otherwise it is there for a scan alone.
    pub mounted: bool,
}

/// Query of `GET /v1/ls`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LsQuery {
    /// A path of the drive; empty for its root.
    #[serde(default)]
    pub path: String,
    /// Continue after this cookie.
    #[serde(default)]
    pub after: u64,
    /// Rows wanted, at most 10,000.
    pub limit: Option<usize>,
}

/// `GET /v1/ls`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LsPage {
    /// The rows.
    pub entries: Vec<LsEntry>,
    /// Ask again with this as `after`; absent at the end.
    pub next: Option<u64>,
}

/// `POST /v1/scans`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScanRequest {
    /// A path of the drive; empty for all projects.
    #[serde(default)]
    pub path: String,
}

/// A scan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScanState {
    /// Its number, for `GET /v1/scans/{id}`.
    pub id: u64,
    /// How far it is.
    pub progress: ScanProgress,
}

/// `POST /v1/unmount`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct UnmountRequest {
    /// Detach although it is in use.
    #[serde(default)]
    pub lazy: bool,
}

/// How an unmount went.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum StopOutcome {
    /// The drive is unmounted and the daemon ends.
    Stopped,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// What it holds.
    pub what: String,
}
