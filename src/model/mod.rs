//! The words of the drive as plain values: ids, paths, versions, states. Pure: no I/O, no async, nothing of ours but itself.

pub mod frames;
mod path;
mod state;
mod version;
pub mod volumes;

pub use path::{NAME_MAX, Name, PathError, RelPath};
pub use state::{FileState, Residency, Sync};
pub use version::Version;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number of a file or folder in the sync state store; the drive's inode number. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root folder of the drive.
    pub const ROOT: Self = Self(1);
}

/// A project of the drive, by the key of its `[projects.…]` section.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ProjectName(pub String);

/// A site, by the key of its `[sites.…]` section.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SiteName(pub String);

macro_rules! shown_as_inner {
    ($($t:ty),+) => {$(
        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}
shown_as_inner!(Ino, ProjectName, SiteName);

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}
