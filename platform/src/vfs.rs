//! [`VirtualFs`]: what a drive is to an operating system. The engine implements it; the FUSE and WinFsp hosts call it.
//!
//! Refuses to know: which host calls. Invariant: node ids and handles are the only identities; a path is resolved by the
//! host, so that renames don't touch open handles and removed files stay readable until their last release.

use std::ffi::{OsStr, OsString};
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::FsError;
use crate::types::{
    Allocate, Attr, CaseMode, DirEntry, Entry, HandleId, NewNode, NodeId, OpCx, OpenOptions, Opened, RenameOptions,
    SeekTo, SetAttr, Space,
};

/// Platform-neutral file operations with POSIX meaning.
///
/// A future that is ready on its first poll is answered on the host's own thread; one that is not is finished on the
/// tokio runtime. So a method must not block on a network or a lock held over one: it awaits, and it is bounded in time.
/// The host gives up what is asked for longer than its deadline, an hour for what may have to copy a file first, and drops
/// the future: it must be safe to drop wherever it awaits.
///
/// The host judges access by mode and owner. But the kernel leaves the loss of set-id bits to the implementation: who
/// changes a file without the right to keep them takes them, see [`OpCx::kill_privileges`] and
/// [`without_set_id`](crate::types::without_set_id).
#[async_trait]
pub trait VirtualFs: Send + Sync + 'static {
    /// Returns the entry `name` of a folder; `NotFound` may be remembered by the host until told otherwise.
    async fn lookup(&self, cx: &OpCx, parent: NodeId, name: &OsStr, case: CaseMode) -> Result<Entry, FsError>;

    /// Takes note that the host forgot `times` references to a node.
    fn forget(&self, node: NodeId, times: u64);

    /// Returns the attributes of a node.
    async fn getattr(&self, cx: &OpCx, node: NodeId, handle: Option<HandleId>) -> Result<Attr, FsError>;

    /// Changes attributes and returns what they are now. An empty `set` changes nothing and succeeds: the kernel announces
    /// a write to a file with set-id bits by one.
    ///
    /// A new length takes a file's privileges if [`OpCx::kill_privileges`]; a new owner or group takes those of all but a
    /// folder, whoever asks. Permission bits asked for in the same call win.
    async fn setattr(&self, cx: &OpCx, node: NodeId, handle: Option<HandleId>, set: SetAttr) -> Result<Attr, FsError>;

    /// Returns the target of a symbolic link.
    async fn readlink(&self, cx: &OpCx, node: NodeId) -> Result<OsString, FsError>;

    /// Returns up to `max` entries of a folder that come after `after` (a cookie; 0 from the start), in the order of their
    /// cookies and without `.` and `..`. An empty answer is the end.
    async fn readdir(&self, cx: &OpCx, dir: NodeId, after: u64, max: usize) -> Result<Vec<DirEntry>, FsError>;

    /// Returns the folder that holds a folder; the root's is the root.
    async fn parent(&self, cx: &OpCx, dir: NodeId) -> Result<NodeId, FsError>;

    /// Opens a file. Returns at once where it is only read: bytes are waited for by `read`.
    ///
    /// `Left` where the node is not what its name leads to any more; so does `setattr` answer for a new length.
    ///
    /// With [`OpenOptions::truncate`] it takes the file's privileges if [`OpCx::kill_privileges`].
    async fn open(&self, cx: &OpCx, node: NodeId, options: OpenOptions) -> Result<Opened, FsError>;

    /// Returns the bytes of a range, fewer only at the end of the file.
    async fn read(&self, cx: &OpCx, handle: HandleId, range: Range<u64>) -> Result<Bytes, FsError>;

    /// Writes bytes at an offset and returns how many were taken. Takes the file's privileges if
    /// [`OpCx::kill_privileges`].
    ///
    /// What a program wrote through a mapping comes from the kernel itself, through any handle that may write the file,
    /// and after the last [`VirtualFs::flush`] if the mapping outlived the close.
    async fn write(&self, cx: &OpCx, handle: HandleId, at: u64, data: Bytes) -> Result<u32, FsError>;

    /// Like [`VirtualFs::write`], of bytes that are only lent: does it at once if that takes nothing but this machine's disk.
    /// `None`, with nothing changed, leaves it to `write`.
    fn write_now(&self, _cx: &OpCx, _handle: HandleId, _at: u64, _data: &[u8]) -> Option<Result<u32, FsError>> {
        None
    }

    /// Sets space for a range aside, or empties the range, which holds a byte at least and ends within an `i64`. Beyond what
    /// a file can hold it is `FileTooLarge`. Takes the file's privileges if [`OpCx::kill_privileges`].
    async fn fallocate(&self, cx: &OpCx, handle: HandleId, how: Allocate, range: Range<u64>) -> Result<(), FsError>;

    /// Hands over what one `close` of a handle left to say; may come several times for one handle.
    async fn flush(&self, cx: &OpCx, handle: HandleId) -> Result<(), FsError>;

    /// Returns once the handle's bytes (and, unless `data_only`, its attributes) are durable.
    async fn fsync(&self, cx: &OpCx, handle: HandleId, data_only: bool) -> Result<(), FsError>;

    /// Returns once the names that a folder holds are durable.
    async fn fsyncdir(&self, cx: &OpCx, dir: NodeId) -> Result<(), FsError>;

    /// The last user of a handle closed it; paging I/O may still come until [`VirtualFs::release`].
    async fn cleanup(&self, cx: &OpCx, handle: HandleId) -> Result<(), FsError>;

    /// The handle is gone; nothing more comes through it.
    fn release(&self, handle: HandleId);

    /// Makes a node; a file is opened with `options`. `Exists` if the name is taken, whatever by.
    ///
    /// Waits for no site: the kernel keeps everybody out of the folder meanwhile.
    ///
    /// `perm` is what the caller asked for less its umask. A folder with the set-group-id bit gives what is made in it its
    /// group, and to folders the bit as well.
    async fn create(
        &self,
        cx: &OpCx,
        parent: NodeId,
        name: &OsStr,
        new: NewNode,
        perm: u16,
        options: OpenOptions,
    ) -> Result<(Entry, Option<Opened>), FsError>;

    /// Adds a name for an existing file.
    async fn link(&self, cx: &OpCx, node: NodeId, parent: NodeId, name: &OsStr) -> Result<Entry, FsError>;

    /// Says whether a node could be removed now, without removing it.
    async fn can_remove(&self, cx: &OpCx, node: NodeId) -> Result<(), FsError>;

    /// Removes a name; `dir` says whether the caller means a folder.
    async fn remove(&self, cx: &OpCx, parent: NodeId, name: &OsStr, dir: bool) -> Result<(), FsError>;

    /// Moves a name.
    async fn rename(
        &self,
        cx: &OpCx,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        options: RenameOptions,
    ) -> Result<(), FsError>;

    /// Returns the space of the drive.
    async fn statfs(&self, cx: &OpCx) -> Result<Space, FsError>;

    /// Returns the offset of the next data or hole at or after `offset`. What is not resident is data, never a hole.
    async fn seek(&self, cx: &OpCx, handle: HandleId, offset: u64, to: SeekTo) -> Result<u64, FsError>;

    /// Returns the value of an extended attribute, also of the virtual ones.
    async fn getxattr(&self, cx: &OpCx, node: NodeId, name: &OsStr) -> Result<Bytes, FsError>;

    /// Returns the names of the extended attributes; virtual ones are never listed, so that no copy carries them.
    async fn listxattr(&self, cx: &OpCx, node: NodeId) -> Result<Vec<OsString>, FsError>;

    /// Sets an extended attribute.
    async fn setxattr(&self, cx: &OpCx, node: NodeId, name: &OsStr, value: Bytes) -> Result<(), FsError>;

    /// Removes an extended attribute.
    async fn removexattr(&self, cx: &OpCx, node: NodeId, name: &OsStr) -> Result<(), FsError>;
}

/// What changed without the host's doing, so that it drops what it cached. Calls return at once and never fail: a host
/// that can't keep up forgets more than it must.
pub trait ChangeSink: Send + Sync + 'static {
    /// A name in a folder appeared, vanished or leads elsewhere; also drops a remembered "no such name".
    fn entry_changed(&self, parent: NodeId, name: &OsStr);
    /// The attributes of a node changed, not its bytes.
    fn attr_changed(&self, node: NodeId);
    /// The bytes of a file, or the listing of a folder, changed.
    fn content_changed(&self, node: NodeId);
}
