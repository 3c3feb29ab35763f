//! Storage kinds, one folder each, behind [`Provider`], and the layers that wrap any of them.
//!
//! Owns: speaking to a site. Refuses to know: the state store, the cache, the engine; a provider has no memory of what it
//! was asked, beyond its connections.

mod arrivals;
mod build;
mod capabilities;
mod error;
pub mod exec;
pub mod gdrive;
mod hash;
pub mod layers;
pub mod local;
mod login;
pub mod memory;
pub mod s3;
pub mod sftp;
mod upload;
mod web;
pub mod webdav;

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use arrivals::Arrivals;
pub use build::{Controls, build};
pub use capabilities::Capabilities;
pub use error::{ErrorKind, Op, ProviderError, Retry};
pub use hash::{FileHash, HashKind, Hasher};

use crate::model::{EntryKind, Name, RelPath, Version};

/// A file, folder or link as a site shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes (0 for folders).
    pub size: u64,
    /// Modification time, nanoseconds since 1970, as finely as the site keeps it.
    pub mtime_ns: i64,
    /// Permission bits (`0o7777`), where the site has them.
    pub perm: Option<u16>,
    /// Identity of the bytes.
    pub version: Version,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// One row of a folder's listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The name in the folder.
    pub name: Name,
    /// What it is.
    pub entry: Entry,
}

/// Space at a site, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteSpace {
    /// All of it.
    pub total: u64,
    /// What is free for us.
    pub available: u64,
}

/// What an upload is going to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadPlan {
    /// The final name.
    #[serde(with = "upload::exact_path")]
    pub path: RelPath,
    /// Length in bytes.
    pub size: u64,
    /// Modification time to give the file, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permission bits to give the file.
    pub perm: Option<u16>,
    /// Bytes a part; the last may be shorter.
    pub part_size: u64,
    /// Chosen by the caller and unique to this upload: two uploads of one path never share a temporary name.
    pub nonce: String,
}

/// An upload under way. Serialisable, so that it survives a crash of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadToken {
    /// What was planned.
    pub plan: UploadPlan,
    /// The provider's own note: a temporary name, an upload id.
    pub state: String,
}

/// A part that has arrived.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartDone {
    /// Which, from 0.
    pub index: u32,
    /// Its length in bytes.
    pub size: u64,
    /// The provider's own receipt, an etag for example.
    pub receipt: String,
}

/// Where bytes live. Safe to call from many tasks; never retries by itself (a layer does).
///
/// Dropping a future or stream gives up on the operation and leaks nothing. Each operation is bounded in time by the
/// provider's own idle time-out: no progress for that long is [`ErrorKind::TimedOut`].
#[async_trait]
pub trait Provider: Send + Sync + Debug + 'static {
    /// Returns what this site can do: facts, learned at the first contact.
    fn capabilities(&self) -> Capabilities;

    /// Makes sure that the site answers and its root is there, and learns its capabilities.
    async fn probe(&self) -> Result<(), ProviderError>;

    /// Connections that were made before are not to be trusted any more: the machine slept, say. What is under way on them
    /// fails as if they had broken, which may help to try again; the next operation makes a new one, also where a login was
    /// refused shortly before.
    fn forget_connections(&self) {}

    /// Once the site has refused a password or key: a number that is another as soon as it would be shown another one. `None`: it
    /// refused none (it was not shown one, say, since it is not who we know), that can't be told, or however often it is
    /// refused locks no account. Reads a small file at most.
    fn login_mark(&self) -> Option<u64> {
        None
    }

    /// Returns the entry at a path; `NotFound` only when the site confirms its absence. Links are not followed.
    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError>;

    /// Lists a folder, in any order, without `.` and `..`. The listing is whole only if the stream ends without an error.
    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>>;

    /// Streams the bytes of a range, in order and without gaps, in chunks of the provider's choosing.
    ///
    /// Each chunk was read while the file was still `at`, as well as the protocol can tell; otherwise the stream ends with
    /// `VersionMismatch` and no byte of another version is given out. A file that turns out shorter is a mismatch too.
    ///
    /// `arrivals` is told of each byte of content when it comes from the site, whether or not it is given out: one that comes
    /// after the stream was dropped is told too, as far as the protocol shows it to us.
    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>>;

    /// As [`read_for`](Self::read_for), on nobody's account.
    fn read<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        self.read_for(path, at, range, Arrivals::nobody())
    }

    /// Returns the hash that the site itself names for all bytes of the version `at`; `None` where it names none. Asked once
    /// for each file that is fetched, of sites whose [`Capabilities::hash`] is set; a site whose versions say it answers
    /// without asking anybody. Never computed here, from bytes that are read for it.
    async fn hash(&self, _path: &RelPath, _at: &Version) -> Result<Option<FileHash>, ProviderError> {
        Ok(None)
    }

    /// Begins an upload beside its final name; the folder is made if it is missing.
    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError>;

    /// Sends one part. Parts may come in any order and again.
    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError>;

    /// Verifies what arrived and puts it under its final name, atomically where [`Capabilities::atomic_replace`].
    ///
    /// With `expect`, the target must still be that version (`None` inside: must not exist), else `VersionMismatch` and
    /// the target is untouched. Returns the version that is there now.
    async fn commit(
        &self,
        token: UploadToken,
        parts: &[PartDone],
        expect: Option<Option<&Version>>,
    ) -> Result<Version, ProviderError>;

    /// Returns the version at an upload's path if that is proven to be what this very upload put there, in place of `replaced`.
    /// `None` proves nothing. Asked, perhaps after a restart, at sites that date files by themselves
    /// ([`Capabilities::keeps_mtime`]), where size and time don't tell.
    async fn was_committed(
        &self,
        _token: &UploadToken,
        _parts: &[PartDone],
        _replaced: Option<&Version>,
    ) -> Result<Option<Version>, ProviderError> {
        Ok(None)
    }

    /// Gives up an upload and removes what it left.
    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError>;

    /// Makes a folder, and those above it; one that exists is fine.
    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError>;

    /// Moves an entry, replacing a file that has the new name.
    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError>;

    /// Removes a file, a link or an empty folder.
    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError>;

    /// Returns the space at the site, where it can tell.
    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError>;
}
