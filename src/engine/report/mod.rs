//! What the drive tells of itself, as plain values that serialise: the answers of the API and of `--json`.
//!
//! Owns: shapes and words. Refuses to know: where the facts come from.

mod copies;
mod limits;
mod pins;
mod programs;
mod queues;
mod sites;
mod workfiles;

use std::path::{Path, PathBuf};

use backlot_cache::Usage;
use backlot_platform::types::NativeReads;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drive::Project;
use super::link::LinkState;
use super::refusals::Refused;
use super::scan::ScanProgress;
use super::site::Site;
use crate::model::{EntryKind, FileState};
use crate::state::ScanRecord;

pub use copies::{CopyDirection, CopyPath, CopyReport, CopyRequest, JobQuery, JobReport, JobWord, PlannedCopy};
pub use limits::{LimitReport, LimitRequest, SiteLimitReport};
pub use pins::{
    CacheStat, CacheTop, EvictReport, HydrationProgress, Kept, KeptWhy, PinFailure, PinReport, PinRequest, PinTotals,
    PinsReport, ScrubReport, TopRow, VerifyProgress,
};
pub use programs::{ProgramReport, ProgramsReport};
pub use queues::{
    Changed, ConflictPage, ConflictQuery, ConflictReport, FailureReport, Keep, Obstacle, ObstacleKind, PendingReport,
    QueueReport, Selection, TallyReport, TaskKind, TaskPage, TaskQuery, TaskReport, TaskWord, WaitReport, WaitRequest,
};

pub(in crate::engine) use sites::word as site_word;
pub use sites::{
    SiteCheckReport, SiteCheckRequest, SiteCheckStep, SiteCounts, SiteRoleReport, SiteRowReport, SiteStateQuery,
    SiteStateReport, SiteStatesReport, SyncReport,
};
pub use workfiles::{FetchLastProgress, FetchLastRequest, FetchLastState, FetchedWorkfile, LeftResource};

/// Everything `backlot status` shows.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The drive's name.
    pub name: String,
    /// This machine's site id.
    pub site_id: String,
    /// Where it is mounted, or would be.
    pub mount_point: PathBuf,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Entries in the tree, of all kinds.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The projects.
    pub projects: Vec<ProjectReport>,
    /// The sites.
    pub sites: Vec<SiteReport>,
    /// The cache.
    pub cache: CacheReport,
    /// Bytes on their way here.
    pub hydration: HydrationReport,
    /// What was fetched for which program.
    #[serde(default)]
    pub programs: ProgramsReport,
    /// Sequences that are played.
    pub sequences: SequencesReport,
    /// What the kernel reads by itself; `None` without a mount.
    #[serde(default)]
    pub native_reads: Option<NativeReport>,
    /// What is kept resident.
    #[serde(default)]
    pub pins: PinTotals,
    /// What was made or changed here.
    pub publishing: PublishingReport,
}

/// Reads of resident files that the kernel answers by itself (FUSE passthrough).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NativeReport {
    /// `on` or `off`.
    pub state: String,
    /// Why it is off.
    pub reason: Option<String>,
    /// Opens since the start whose reads the kernel answers.
    pub opens: u64,
    /// Reads since the start that the daemon answered.
    pub daemon_reads: u64,
    /// Writes since the start that the daemon answered.
    #[serde(default)]
    pub daemon_writes: u64,
}

impl From<NativeReads> for NativeReport {
    fn from(native: NativeReads) -> Self {
        Self {
            state: if native.off.is_none() { "on" } else { "off" }.to_owned(),
            reason: native.off,
            opens: native.opens,
            daemon_reads: native.answered,
            daemon_writes: native.written,
        }
    }
}

/// What was made or changed here, and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PublishingReport {
    /// What is not at its site yet.
    pub pending: PendingReport,
    /// Files that were sent since the start.
    pub sent_files: u64,
    /// Bytes that were.
    pub sent_bytes: u64,
    /// The queues, one a project.
    pub queues: Vec<QueueReport>,
    /// Why tasks fail, the most frequent reasons first.
    pub failures: Vec<FailureReport>,
    /// Conflicts that nobody has settled.
    pub conflicts: u64,
    /// What was refused lately by a rule of a project, the newest first.
    pub refusals: Vec<Refused>,
    /// Files whose bytes are this machine's own.
    pub own_files: u64,
    /// Their bytes.
    pub own_bytes: u64,
    /// Objects that the store does not know, put aside for `backlot recover`.
    pub put_aside: u64,
}

/// A project.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProjectReport {
    /// The key of its section.
    pub name: String,
    /// Its folder in the drive.
    pub folder: String,
    /// The site its bytes come from.
    pub site: String,
    /// Its path under that site's root.
    pub remote_path: String,
    /// When the last whole scan ended, milliseconds since 1970.
    pub scanned_at_ms: Option<i64>,
    /// The scan that is running.
    pub scanning: Option<ScanProgress>,
}

impl ProjectReport {
    pub(super) fn new(p: &Project, scan: Option<ScanRecord>, running: Option<ScanProgress>) -> Self {
        Self {
            name: p.name.0.clone(),
            folder: p.folder.clone(),
            site: p.site.name().0.clone(),
            remote_path: p.remote_path.to_string(),
            scanned_at_ms: scan.and_then(|s| s.finished_ms),
            scanning: running,
        }
    }
}

/// A site.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteReport {
    /// The key of its section.
    pub name: String,
    /// `unknown`, `up` or `down`.
    pub link: String,
    /// Why it is down.
    pub reason: Option<String>,
    /// Fetches that run, and that wait.
    pub fetching: (usize, usize),
    /// Bytes of files read from it since the start, as counted where they come in.
    #[serde(default)]
    pub read_bytes: Option<u64>,
}

impl SiteReport {
    pub(super) fn new(site: &Site) -> Self {
        let (link, reason) = match site.link().state() {
            LinkState::Unknown => ("unknown", None),
            LinkState::Up => ("up", None),
            LinkState::Down { reason, .. } => ("down", Some(reason)),
        };
        Self {
            name: site.name().0.clone(),
            link: link.to_owned(),
            reason,
            fetching: site.slots().load(),
            read_bytes: site.read_bytes(),
        }
    }
}

/// The cache.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CacheReport {
    /// Its folder.
    pub dir: PathBuf,
    /// Resident bytes.
    pub bytes: u64,
    /// The most it may hold.
    pub max_bytes: u64,
    /// Those of the resident bytes that are pinned.
    #[serde(default)]
    pub pinned_bytes: u64,
    /// Contents with resident bytes.
    pub contents: u64,
    /// Granules whose checksum was wrong; each was fetched again.
    pub bad_granules: u64,
    /// Bytes evicted since the start.
    pub evicted_bytes: u64,
    /// The look through it in the background.
    #[serde(default)]
    pub scrub: ScrubReport,
}

impl CacheReport {
    pub(super) fn new(usage: &Usage, dir: &Path, scrub: ScrubReport) -> Self {
        Self {
            dir: dir.to_owned(),
            bytes: usage.bytes,
            max_bytes: usage.max_bytes,
            pinned_bytes: usage.pinned_bytes,
            contents: usage.contents,
            bad_granules: usage.bad_granules,
            evicted_bytes: usage.evicted_bytes,
            scrub,
        }
    }
}

/// Bytes on their way, and counters since the start.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HydrationReport {
    /// Bytes that arrived from sites.
    pub fetched_bytes: u64,
    /// Requests made.
    pub fetches: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests given up since nobody wanted them any more.
    pub cancelled: u64,
    /// Bytes served past the cache.
    pub uncached_bytes: u64,
    /// Bytes of beginnings and ends that were here, of files that were not.
    #[serde(default)]
    pub head_bytes: u64,
    /// Files open through the mount.
    pub open_handles: usize,
    /// Open files that bytes arrive for.
    pub in_flight: Vec<FlightReport>,
    /// Files whose bytes were not what their site says they are, the latest first.
    #[serde(default)]
    pub mismatches: Vec<PinFailure>,
}

/// An open file that bytes arrive for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlightReport {
    /// Its path at the site.
    pub path: String,
    /// The site.
    pub site: String,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that are here.
    pub resident_bytes: u64,
    /// Requests under way.
    pub requests: usize,
}

/// Sequences that are played, and what was fetched ahead of their readers since the start.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SequencesReport {
    /// Frames are fetched ahead.
    pub on: bool,
    /// Bytes ahead of all readers at most.
    pub max_bytes: u64,
    /// The longest window, in milliseconds of play.
    pub window_ms: u64,
    /// Frames fetched ahead that were whole when they were opened.
    pub hits: u64,
    /// Frames that were still on their way when they were opened.
    pub late: u64,
    /// Bytes fetched ahead of frames that were opened then.
    pub used_bytes: u64,
    /// Bytes fetched ahead of frames that nobody has opened and nobody is expected to open.
    pub wasted_bytes: u64,
    /// Frames whose fetch was given up half way.
    pub given_up: u64,
    /// Opens and closes that came too fast to be followed.
    pub missed: u64,
    /// The sequences.
    pub active: Vec<SequenceReport>,
}

/// A sequence that is played.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SequenceReport {
    /// Its folder in the drive and its name, as in `demo/plates/comp.####.exr`; `demo/thumbs/*` for a folder whose small files
    /// are read one after another.
    pub path: String,
    /// The frame opened last; of a folder, how many files were read in a row.
    pub frame: u64,
    /// Places to the next one among the frames there are; negative backwards.
    pub step: i64,
    /// `supposed`, `playing`, or `paused`; `reading` or `paused` for a folder.
    pub state: String,
    /// The usual time from one frame to the next, in milliseconds.
    pub frame_ms: u64,
    /// Frames that are worth having ahead.
    pub window_frames: usize,
    /// Frames ahead that are here or on their way.
    pub frames_ahead: usize,
    /// Bytes of them that were fetched.
    pub bytes_ahead: u64,
    /// As in the sum over all sequences.
    pub hits: u64,
    /// As in the sum.
    pub late: u64,
    /// As in the sum.
    pub wasted_bytes: u64,
}

/// A row of `backlot ls`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LsEntry {
    /// Continues a listing after this row.
    pub cookie: u64,
    /// The name; bytes that are not UTF-8 are shown as U+FFFD.
    pub name: String,
    /// File, folder or link.
    pub kind: EntryKind,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The word for a file.
    pub state: Option<FileState>,
    /// Bytes of a file that are here.
    pub cached_bytes: Option<u64>,
    /// A file or folder that is kept resident.
    #[serde(default)]
    pub pinned: bool,
}
