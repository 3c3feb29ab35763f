//! Every byte that moves for a reason other than a read: what the queue holds is sent to sites, removed there, or copied from
//! one to another (`between`).
//!
//! Owns: the order of sending, uploads from the first note to the last, when to try again. Refuses to know: the drive, its
//! cache, where a file's bytes lie; whoever owns them is asked through [`Desk`]. Invariants:
//!
//! - A byte that was read while its file changed is never committed.
//! - What is at the site is replaced only while it is the version ours started from, or one that we put there ourselves.
//! - An upload is noted in its task's row before the site hears of it, and the note stays until the upload was recorded or
//!   cleared away: whoever comes next, after whatever end, goes on with it, finds that it was done, or clears it away.
//! - Nothing is sent to a temporary name whose upload may have been begun by somebody else: an upload whose beginning was
//!   not answered is cleared away, and a new name is used.
//! - One path at a site is worked on by one worker at a time.
//!
//! A power cut (not a crash) may undo the note of a file of one part: then a hidden temporary file stays at the site.

mod between;
mod dispatch;
mod paths;
mod plan;
mod schedule;
mod send;
mod stats;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use between::{Copies, CopyListener, CopyProject, End, Origin, Planned, Preview, PreviewError, preview};
pub use dispatch::Transfers;
pub use send::begun_below;
pub use stats::{Stats, UnderWay};

use crate::model::{Ino, RelPath, SiteName, Version};
use crate::providers::{Provider, ProviderError};
use crate::state::{StateError, Task};

/// What transfers ask of whoever owns the files.
///
/// A task is handed over as it was claimed, but for its generation: that is the frozen file's, once there is one. Whoever
/// records an outcome ends the task with it ([`finish_task`](crate::state::WriteTxn::finish_task)) in the same write.
#[async_trait]
pub trait Desk: Send + Sync + Debug + 'static {
    /// Freezes a task's file so that it can be sent; see [`Prepared`]. May be asked again before anything is sent.
    async fn prepare(&self, task: &Task) -> Prepared;

    /// The file is at the site, as `version`: writes it down, which ends the task, and takes the object over into the
    /// cache. The name may have moved on meanwhile: then `sent.path` is where it is.
    async fn committed(&self, task: &Task, sent: &Frozen, version: Version) -> Result<(), StateError>;

    /// An earlier upload of ours turned out to be at the site, at a path (under the site's root) that need not be the
    /// task's any more, as `version`, with the bytes of `generation`: writes that down, so that it is never taken for
    /// somebody else's. `replaced` is what it took the place of, `None` where nothing was. Ends nothing. The task may be a
    /// [leftover](Task::is_leftover).
    async fn ours_is_there(
        &self,
        task: &Task,
        path: &RelPath,
        version: Version,
        generation: u64,
        replaced: Option<&Version>,
    ) -> Result<(), StateError>;

    /// The site has another version than the one ours started from (`None` if it could not be told). Nothing of ours is
    /// there. Keeps both, and ends the task or gives it another name.
    async fn conflict(&self, task: &Task, sent: &Frozen, theirs: Option<Version>) -> Result<(), StateError>;

    /// A removal was done, or there was nothing to do: writes it down, which ends the task.
    async fn deleted(&self, task: &Task, outcome: DeleteOutcome) -> Result<(), StateError>;
}

/// What there is to do for a task, now.
#[derive(Debug)]
pub enum Prepared {
    /// Send this.
    Send(Frozen),
    /// Remove what is at this path, under the site's root, if it is the task's version.
    Delete {
        /// The path.
        path: RelPath,
    },
    /// Still open, or just written: ask again after this long.
    NotYet(Duration),
    /// Nothing, any more: the task goes.
    Gone,
    /// Nothing: whoever was asked has ended the task.
    Ended,
    /// A site failed.
    SiteFailed {
        /// How.
        error: ProviderError,
        /// The site that a copy comes from; otherwise the one it goes to.
        source: bool,
    },
    /// It can't be done now.
    Failed {
        /// The kind, for programs.
        kind: String,
        /// Why, for people.
        why: String,
        /// It needs a person; otherwise it is tried again.
        blocked: bool,
    },
}

/// A file as it was when it was frozen.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Where it goes, under the site's root.
    pub path: RelPath,
    /// Its bytes; `None`: empty, or those of `from`.
    pub bytes: Option<Arc<File>>,
    /// Copies: where the bytes are.
    pub from: Option<Arc<Origin>>,
    /// Their number.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permission bits to give it at the site.
    pub perm: Option<u16>,
    /// Which generation of the file it is.
    pub generation: u64,
    /// What the site must still have; `None`: nothing.
    pub base: Option<Version>,
    /// Modification time of the file that holds the bytes: after a restart it tells whether they are the same.
    pub object_mtime_ns: i64,
    /// Fires before a byte of the file changes, or its name.
    pub changed: CancellationToken,
}

/// How a removal ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeleteOutcome {
    /// It was there, and is not any more.
    Done,
    /// Nothing was there.
    NothingThere,
    /// Something else is there, and stays.
    OtherVersion,
    /// The folder has something in it, and stays.
    NotEmpty,
}

/// The link to a site, as far as transfers care.
#[async_trait]
pub trait LaneLink: Send + Sync + Debug + 'static {
    /// Says whether requests are known to fail.
    fn is_down(&self) -> bool;

    /// Waits until requests are not known to fail.
    async fn up(&self);

    /// Takes note that the site answered.
    fn answered(&self);

    /// Takes note of a failed request: of one that speaks for the link, and of one that shows that the site answers.
    fn failed(&self, error: &ProviderError);
}

/// A project's way to its site.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The project's root folder.
    pub root: Ino,
    /// The site: lanes to one site share its uploads.
    pub site: SiteName,
    /// What speaks to it.
    pub provider: Arc<dyn Provider>,
    /// Whether it answers.
    pub link: Arc<dyn LaneLink>,
    /// The queue's priority in the settings, 0 to 1000. One set in the store goes before it.
    pub priority: u16,
}

/// How transfers are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Files under way at once, for each site. Where there are two or more, one is never given to a file of several parts,
    /// so that large files hold up no small ones.
    pub parallel: usize,
    /// Bytes a part.
    pub part_size: u64,
    /// The wait after the first failed try; it doubles from try to try.
    pub retry_first: Duration,
    /// The longest wait between two tries.
    pub retry_max: Duration,
    /// How long a claim holds: what a worker that died had is given to another after this long. A worker looks three times
    /// as often whether its task was held back or changed.
    pub lease: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 4,
            part_size: 8 << 20,
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(15 * 60),
            lease: Duration::from_secs(60),
        }
    }
}

/// Returns the time, in milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn as_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
