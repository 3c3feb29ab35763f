//! The FUSE host: shows a [`VirtualFs`] as a mount on Linux.
//!
//! Owns: mounting, the options and capabilities asked of the kernel, serving requests, telling the kernel of changes,
//! unmounting, and getting rid of mounts that died or hang. Refuses to know: what the drive is made of.
//!
//! Invariants: our own process never walks into our own mount (only /proc, /sys and paths outside of it are looked at);
//! whatever happens to a request, the kernel gets an answer (bridge.rs).
//!
//! | file | owns |
//! |---|---|
//! | `point` | what is checked and cleared before mounting |
//! | `device` | mount(2), fusermount3, the connection |
//! | `capabilities` | what is agreed with the kernel when a session begins |
//! | `native` | which open files the kernel reads by itself |
//! | `host`, `listing`, `convert` | each request as a call of the drive, and its reply |
//! | `caller` | whether whoever asked still waits |
//! | `shared`, `notify` | what the kernel must forget |
//! | `session`, `unmount`, `abort`, `holders` | the life and the end of a mount |
//! | `health` | what may be said of a mount, or of the chance of one, without being caught by it |
//! | `timeout` | the kernel's own limit on requests |
//! | `mountinfo` | what the kernel says of its mounts |

mod abort;
mod caller;
mod capabilities;
mod convert;
mod device;
mod error;
mod health;
mod holders;
mod host;
mod listing;
mod mountinfo;
mod native;
mod notify;
mod point;
mod session;
mod shared;
mod timeout;
mod unmount;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub use abort::{Aborted, Cut, abort_path, abort_served_by};
pub use error::{MountError, UnmountError};
pub use health::{MountHealth, is_same_place, mount_answers, mount_health, preflight};
pub use holders::{Held, Holder};
pub use point::clear_dead;
pub use session::{Mount, MountEnd};
pub use timeout::{kernel_timeout, within_kernel_timeout};
pub use unmount::{Unmount, unmount_path};

use crate::vfs::VirtualFs;

/// How this program's mounts are told from others: their type is `fuse.backlot`.
const SUBTYPE: &str = "backlot";

/// A day: names and attributes are remembered until the kernel is told otherwise, and a missed change heals by tomorrow.
const LONG_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How to mount a drive.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The folder to mount on: it exists and is empty.
    pub mount_point: PathBuf,
    /// The source that `mount` and `df` show. Without a colon, which desktops take for a network share.
    pub fs_name: String,
    /// Other users than the one who mounts may enter.
    pub allow_other: bool,
    /// Nothing can be changed through this mount: the kernel refuses it (EROFS).
    pub read_only: bool,
    /// No program can be started from it.
    pub no_exec: bool,
    /// Threads that take requests from the kernel; requests that wait cost none.
    pub threads: usize,
    /// How long the kernel may remember names and attributes that exist.
    pub entry_ttl: Duration,
    /// The same for folders. Shorter, it makes the kernel ask again while somebody walks through a folder, which is how a
    /// drive learns what is looked at.
    pub dir_ttl: Duration,
    /// How long it may remember that a name does not exist; zero: not at all.
    pub negative_ttl: Duration,
    /// How far the kernel reads ahead, in bytes; what raises it beyond 128 KiB works for root only.
    pub kernel_readahead: u64,
    /// When a request that has not been answered gets EIO, whatever it waits for. The last resort: longer than every
    /// deadline of the drive itself.
    pub request_deadline: Duration,
    /// The same for a request that changes a file's bytes or makes them durable, and may have to copy the file from a site
    /// first: as long as the drive might make progress with one.
    pub patient_deadline: Duration,
    /// Files that are here whole are read by the kernel itself, where it and the rights of this process allow.
    pub native_reads: bool,
    /// Changes that may wait to be told to the kernel, one by one; beyond it the kernel is told to doubt everything.
    pub change_backlog: usize,
}

impl MountOptions {
    /// Returns the options for a drive whose every change is announced: long memories, wide read-ahead.
    pub fn new(mount_point: impl Into<PathBuf>, fs_name: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            mount_point: mount_point.into(),
            fs_name: fs_name.into(),
            allow_other: false,
            read_only: false,
            no_exec: false,
            // More than four gain nothing: they only take requests in, and each wakes a core for it.
            threads: cores.clamp(2, 4),
            entry_ttl: LONG_TTL,
            dir_ttl: LONG_TTL,
            negative_ttl: LONG_TTL,
            // A window that hides 20 ms of latency at 100 MB/s, measured.
            kernel_readahead: 8 << 20,
            request_deadline: Duration::from_secs(60),
            // 180 GB at 50 MB/s, more than any one file that is changed in place.
            patient_deadline: Duration::from_secs(60 * 60),
            native_reads: true,
            // A few seconds of notifying, and about 10 MB of names.
            change_backlog: 1 << 16,
        }
    }
}

/// Mounts `fs` and serves it until it is unmounted; requests that must wait are finished on `rt`, whose timers must be
/// enabled. Blocks for a few milliseconds, longer where a dead mount is cleared; not to be called from an async task.
pub fn mount(fs: Arc<dyn VirtualFs>, rt: Handle, options: MountOptions) -> Result<Mount, MountError> {
    session::start(fs, rt, options)
}
