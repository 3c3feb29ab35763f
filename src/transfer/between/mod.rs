//! Copies from one site to another, through this machine and without landing on it.
//!
//! Owns: what a copy is: which file, whether it is there already, what it may replace, and the tasks that a folder becomes.
//! Refuses to know: how an upload is made safe (`send` does that for copies as for publishes), who is next (`dispatch`), the
//! drive. Invariants:
//!
//! - What is at the target is replaced only if a copy put it there and nobody changed it since, if it is older than the
//!   source's file, or if somebody asked for that; and only while it is still the version that this was said of.
//! - Every byte was read while the source's file was still the version that the copy began with.
//! - No more than [`MEMORY`] bytes of all copies together are held here.

mod decide;
mod desk;
mod expand;
mod preview;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

pub(super) use desk::CopyDesk;
pub use preview::{Planned, Preview, PreviewError, preview};

use super::LaneLink;
use crate::model::{EntryKind, Ino, RelPath, SiteName, Version};
use crate::providers::{Entry, ErrorKind, Op, Provider, ProviderError};
use crate::state::{JobId, JobKind};

/// Bytes of all copies together that are held in memory between their source and their target, at most: enough for four
/// large files with three parts of the default size each.
pub(super) const MEMORY: u64 = 192 << 20;
/// Permits of the memory are of this many bytes: their number fits 32 bits.
const UNIT: u64 = 4096;

/// A site at one end of copies.
#[derive(Clone, Debug)]
pub struct End {
    /// Its name.
    pub site: SiteName,
    /// What speaks to it.
    pub provider: Arc<dyn Provider>,
    /// Whether it answers.
    pub link: Arc<dyn LaneLink>,
}

/// A project whose files are copied.
#[derive(Clone, Debug)]
pub struct CopyProject {
    /// Its root folder.
    pub root: Ino,
    /// Its queue's priority in the settings, 0 to 1000. One set in the store goes before it.
    pub priority: u16,
    /// Where it is at each site, under the site's root. At others nothing of it is copied.
    pub paths: BTreeMap<SiteName, RelPath>,
}

/// Between what copies are made, and how many at once.
#[derive(Clone, Debug)]
pub struct Copies {
    /// All sites.
    pub sites: Vec<End>,
    /// All projects.
    pub projects: Vec<CopyProject>,
    /// Jobs of one queue that are worked on at once between the same two sites; the others wait.
    pub jobs_per_pair: usize,
    /// Who is told of each file that was copied.
    pub arrived: Option<Arc<dyn CopyListener>>,
}

/// Who wants to know of files that were copied.
pub trait CopyListener: Send + Sync + Debug + 'static {
    /// A file of a project (its path is below the project's folder) is at a site now.
    fn arrived(&self, root: Ino, path: &RelPath, target: &SiteName);
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            sites: Vec::new(),
            projects: Vec::new(),
            jobs_per_pair: 1,
            arrived: None,
        }
    }
}

/// A job of copies, as its workers need it.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) job: JobId,
    pub(super) kind: JobKind,
    pub(super) source: End,
    pub(super) desk: Arc<CopyDesk>,
}

/// Where the bytes of a copy come from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The site.
    pub end: End,
    /// The path, under the site's root.
    pub path: RelPath,
    /// The version whose bytes are copied.
    pub version: Version,
}

impl Origin {
    /// Reads a range, whole or not at all.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes, ProviderError> {
        let want = range.end - range.start;
        let mut chunks = self.end.provider.read(&self.path, &self.version, range);
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if first.is_empty() && all.is_empty() {
                first = chunk;
                continue;
            }
            if all.is_empty() {
                all.reserve(usize::try_from(want).unwrap_or(0));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&chunk);
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        if bytes.len() as u64 == want {
            return Ok(bytes);
        }
        let why = format!("{} bytes came of {want}", bytes.len());
        Err(ProviderError::new(ErrorKind::Protocol, Op::Read)
            .at(&self.path)
            .because(why))
    }
}

/// Returns how many permits a part needs, of how many there are.
pub(super) fn permits(bytes: u64) -> u32 {
    let most = MEMORY / UNIT;
    u32::try_from(bytes.div_ceil(UNIT).clamp(1, most)).unwrap_or(u32::MAX)
}

/// What a listing of a folder showed of a file that is to be copied: spares two looks at it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) perm: Option<u16>,
    /// The target had nothing of that name.
    pub(super) absent: bool,
    /// When, milliseconds since 1970.
    pub(super) at_ms: i64,
}

/// What a listing showed counts for this long, in milliseconds: a large folder takes its time.
const SEEN_FOR_MS: i64 = 3_600_000;

impl Seen {
    pub(super) fn of(entry: &Entry, absent: bool, now_ms: i64) -> Self {
        Self {
            size: entry.size,
            mtime_ns: entry.mtime_ns,
            perm: entry.perm,
            absent,
            at_ms: now_ms,
        }
    }

    pub(super) fn to_text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    pub(super) fn parse(text: &str, now_ms: i64) -> Option<Self> {
        let seen: Self = serde_json::from_str(text).ok()?;
        (0..SEEN_FOR_MS)
            .contains(&now_ms.saturating_sub(seen.at_ms))
            .then_some(seen)
    }

    /// Returns the source's entry as it was.
    pub(super) fn entry(&self, version: Version) -> Entry {
        Entry {
            kind: EntryKind::File,
            size: self.size,
            mtime_ns: self.mtime_ns,
            perm: self.perm,
            version,
            target: None,
        }
    }
}
