//! Pins, hydrations and the cache's content, as plain values that serialise.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::pins::Tally;

/// `POST /v1/pins`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Paths and patterns of the drive.
    pub paths: Vec<String>,
    /// Why, for people.
    pub note: Option<String>,
    /// On whose word.
    pub who: String,
    /// The whole projects that those lie in.
    #[serde(default)]
    pub for_project: bool,
}

/// A rule by which files are kept resident, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PinsReport {
    /// The rules; those of a project together, the settings' first.
    pub rules: Vec<PinReport>,
    /// All of them together. What several cover counts once.
    pub total: PinTotals,
}

/// How far all pins are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PinFailure {
    /// Its path in the drive.
    pub path: String,
    /// Why.
    pub why: String,
}

/// How far a hydration is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct HydrationProgress {
    /// It has ended; the figures are what is here now.
    pub done: bool,
    /// Files that were asked for, but for those whose bytes are this machine's own.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are all here.
    pub resident_files: u64,
    /// Bytes that are here.
    pub resident_bytes: u64,
    /// Files that could not be fetched.
    pub failed: u64,
    /// Some of them, and why.
    pub failures: Vec<PinFailure>,
    /// Why it ended early.
    pub error: Option<String>,
}

impl HydrationProgress {
    pub(in crate::engine) fn of(tally: Tally) -> Self {
        let mut progress = Self::default();
        progress.count(tally);
        progress
    }

    pub(in crate::engine) fn count(&mut self, tally: Tally) {
        self.files = tally.files;
        self.bytes = tally.bytes;
        self.resident_files = tally.resident_files;
        self.resident_bytes = tally.resident_bytes;
    }

    /// Says whether all that was asked for is here.
    #[must_use]
    pub fn is_all_here(&self) -> bool {
        self.error.is_none() && self.resident_files == self.files
    }
}

/// `POST /v1/cache/evict` and `POST /v1/cache/clear`: what was dropped, and what was kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct EvictReport {
    /// Files of which bytes were dropped.
    pub evicted_files: u64,
    /// Those bytes.
    pub evicted_bytes: u64,
    /// Files with bytes here that were kept.
    pub kept_files: u64,
    /// Those bytes.
    pub kept_bytes: u64,
    /// Kept since they are pinned.
    pub kept_pinned: u64,
    /// Kept since somebody has them open, or they are being fetched.
    pub kept_in_use: u64,
    /// Kept since their bytes are this machine's own.
    pub kept_own: u64,
    /// Kept since dropping them failed.
    pub kept_failed: u64,
    /// Some of what was kept, and why.
    pub kept: Vec<Kept>,
}

/// A file that was kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// Its path in the drive.
    pub path: String,
    /// Why.
    pub why: KeptWhy,
}

/// Why a file was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeptWhy {
    /// A pin covers it.
    Pinned,
    /// Somebody has it open, or it is being fetched.
    InUse,
    /// It was made or changed here: its bytes are not the cache's.
    Own,
    /// It could not be dropped; the log says why.
    Failed,
}

impl fmt::Display for KeptWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::InUse => "in use",
            Self::Own => "made or changed here",
            Self::Failed => "could not be dropped",
        })
    }
}

/// `GET /v1/cache`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CacheStat {
    /// Its folder.
    pub dir: PathBuf,
    /// Resident bytes.
    pub bytes: u64,
    /// The most it may hold.
    pub max_bytes: u64,
    /// Bytes promised to fetches under way.
    pub reserved_bytes: u64,
    /// Resident bytes that are pinned.
    pub pinned_bytes: u64,
    /// Versions of files that are pinned, here or not.
    pub pinned_contents: u64,
    /// Versions of files with bytes here.
    pub contents: u64,
    /// Those that are open or being fetched.
    pub contents_in_use: u64,
    /// Granules of 64 KiB that are here.
    pub granules: u64,
    /// Bytes evicted since the start.
    pub evicted_bytes: u64,
    /// Granules found bad since the start, and dropped.
    pub bad_granules: u64,
    /// Times since the start that there was no room for bytes.
    pub refused_fills: u64,
    /// Times since the start that the folder was found gone.
    pub folders_lost: u64,
    /// Free on its disk.
    pub disk_free_bytes: u64,
    /// To be left free there.
    pub min_free_bytes: u64,
    /// What pins may take.
    pub pin_room_bytes: u64,
    /// Bytes of the beginnings and ends of media files, kept beside the rest.
    #[serde(default)]
    pub head_bytes: u64,
    /// The most that they may take.
    #[serde(default)]
    pub max_head_bytes: u64,
    /// Files that they are of.
    #[serde(default)]
    pub heads: u64,
    /// The look through it in the background.
    #[serde(default)]
    pub scrub: ScrubReport,
}

/// The look through the cache in the background, since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ScrubReport {
    /// Each content is looked at once in so many milliseconds; `None`: never.
    pub every_ms: Option<u64>,
    /// It is under way.
    pub running: bool,
    /// Contents that were looked at whole.
    pub contents: u64,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Granules that it found bad, and dropped.
    pub bad_granules: u64,
    /// Contents that could not be looked at.
    pub unreadable: u64,
    /// Times that it waited for readers.
    pub pauses: u64,
    /// Contents that are due. Counted for `cache stat` only.
    pub due_contents: u64,
    /// Their resident bytes. Counted for `cache stat` only.
    pub due_bytes: u64,
    /// When the content was looked at that waits longest, milliseconds since 1970 (0: never); `None` if nothing is here.
    /// Told by `cache stat` only.
    pub oldest_ms: Option<i64>,
}

/// `GET /v1/cache/top`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CacheTop {
    /// The folders that hold most.
    pub rows: Vec<TopRow>,
    /// Folders that hold anything.
    pub folders: u64,
    /// What all of them hold.
    pub bytes: u64,
    /// What is in the cache and of no file any more: versions that were replaced.
    pub other_bytes: u64,
}

/// A folder and what it holds of the cache.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TopRow {
    /// Its path in the drive.
    pub path: String,
    /// Files with bytes here.
    pub files: u64,
    /// Those bytes.
    pub bytes: u64,
    /// Those of them that are pinned.
    pub pinned_bytes: u64,
}

/// `GET` and `POST /v1/cache/verify`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct VerifyProgress {
    /// It is under way.
    pub running: bool,
    /// Versions of files with bytes here when it began.
    pub contents: u64,
    /// Those that were looked at.
    pub verified_contents: u64,
    /// Bytes that were.
    pub bytes: u64,
    /// Bytes of beginnings and ends kept apart that were, after the rest.
    pub head_bytes: u64,
    /// Granules of both that were bad, and are dropped.
    pub bad_granules: u64,
    /// Contents that could not be looked at.
    pub unreadable: u64,
}
