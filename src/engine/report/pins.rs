//! Pins, hydrations and the cache's content, as plain values that serialise.

use serde::{Deserialize, Serialize};

/// `POST /v1/pins`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Paths and patterns of the drive.
    pub paths: Vec<String>,
    /// Why, for people.
    pub note: Option<String>,
    /// On whose word.
    pub who: String,
}

/// A rule by which files are kept resident, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinReport {
    /// Its number; `None` for one of the settings.
    pub id: Option<u64>,
    /// The path or pattern, in the drive.
    pub what: String,
    /// It is a pattern.
    pub is_pattern: bool,
    /// The key of the project's section.
    pub project: String,
    /// Why.
    pub note: Option<String>,
    /// Who set it.
    pub who: Option<String>,
    /// When, milliseconds since 1970.
    pub at_ms: Option<i64>,
    /// Files that it covers, but for those whose bytes are this machine's own.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that are all here.
    pub resident_files: u64,
    /// Bytes that are here.
    pub resident_bytes: u64,
}

/// `GET /v1/pins`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PinsReport {
    /// The rules; those of a project together, the settings' first.
    pub rules: Vec<PinReport>,
    /// All of them together. What several cover counts once.
    pub total: PinTotals,
}

/// How far all pins are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PinTotals {
    /// Rules.
    pub rules: u64,
    /// Files that they cover.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are all here.
    pub resident_files: u64,
    /// Bytes that are here.
    pub resident_bytes: u64,
    /// What pins may take.
    pub room_bytes: u64,
    /// All of them fit.
    pub fits: bool,
    /// Files that are not fetched since there is no room.
    pub unfitting_files: u64,
    /// Bytes that they lack.
    pub unfitting_bytes: u64,
    /// Files that could not be fetched; they are tried again.
    pub failed: u64,
    /// Some of them, and why.
    pub failures: Vec<PinFailure>,
    /// Sites that something is to come from and that do not answer.
    pub waiting_for: Vec<String>,
    /// Files being fetched now.
    pub fetching: usize,
}

impl PinTotals {
    pub(in crate::engine) fn set(&mut self, files: u64, bytes: u64, resident_files: u64, resident_bytes: u64) {
        self.files = files;
        self.bytes = bytes;
        self.resident_files = resident_files;
        self.resident_bytes = resident_bytes;
        self.fits = bytes <= self.room_bytes && self.unfitting_files == 0;
    }
}

/// A file that could not be fetched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinFailure {
    /// Its path in the drive.
    pub path: String,
    /// Why.
    pub why: String,
}
