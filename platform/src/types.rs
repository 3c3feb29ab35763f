//! The plain values of file operations: node ids, attributes, entries, open options. POSIX meaning, no host's type.
//!
//! Invariant: nothing here depends on fuser or winfsp, so the drive's engine compiles and is tested without either.

use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

/// A file or folder of the drive, the same for as long as it exists and never reused: FUSE's inode number and
/// WinFsp's index number. 1 is the root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the drive.
    pub const ROOT: Self = Self(1);
}

/// One open of a file, given out by `open` and dead after `release`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandleId(pub u64);

/// Who asks: the calling process as the host reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpCx {
    /// The user the process runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its thread; of read-ahead, the one that reads. 0 where the kernel asks for itself, as for write-back, and for
    /// processes that the daemon can't see.
    pub pid: u32,
    /// What this request writes to a file, or cuts off it, takes the file's set-id bits, as [`without_set_id`] says: the
    /// caller may not keep them (CAP_FSETID). Where a host does not learn that of a request, it says so for all but root.
    pub kill_privileges: bool,
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe: a name that processes of one machine meet at.
    Fifo,
    /// A Unix socket, likewise.
    Socket,
    /// A character device; where hosts mount without devices, it can't be opened.
    CharDevice,
    /// A block device, likewise.
    BlockDevice,
}

/// How a name is compared in `lookup`: exactly (Linux) or folded, with the stored spelling kept (Windows).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaseMode {
    /// Byte for byte.
    Exact,
    /// Simple upper-case folding, as NTFS does.
    Insensitive,
}

/// All that both hosts ask of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The node described.
    pub node: NodeId,
    /// The number that programs are shown (`st_ino`): the node's own, unless the drive gave a file another node.
    pub number: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Length in bytes; of a link, the length of its target.
    pub size: u64,
    /// Bytes reported as allocated. Never 0 for a file with bytes, resident or not: archivers take 0 for "all hole"
    /// and silently drop the content.
    pub allocated: u64,
    /// Last access.
    pub atime: SystemTime,
    /// Last change of content.
    pub mtime: SystemTime,
    /// Last change of content or attributes.
    pub ctime: SystemTime,
    /// Creation, where known.
    pub btime: SystemTime,
    /// Permission bits (`0o7777`, without the kind).
    pub perm: u16,
    /// Which device a device node stands for, in Linux's 32-bit encoding; 0 for all but devices.
    pub rdev: u32,
    /// Names that lead to the node.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The host must not remember these, but ask again each time: somebody reads bytes that they are not about.
    pub volatile: bool,
}

/// The answer of `lookup`: the node, and the spelling under which the folder holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Attributes of the node found.
    pub attr: Attr,
    /// The stored spelling; differs from the asked one only under [`CaseMode::Insensitive`]. `None`: as asked.
    pub stored_name: Option<OsString>,
}

/// One row of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Position of this entry in its folder: grows with the order of the listing, survives changes of the folder, and
    /// continues a listing *after* this entry. Never 0.
    pub cookie: u64,
    /// The entry's name.
    pub name: OsString,
    /// Its attributes.
    pub attr: Attr,
}

/// What an `open` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Will read.
    pub read: bool,
    /// Will write.
    pub write: bool,
    /// Length becomes 0 as part of the open (O_TRUNC, CREATE_ALWAYS).
    pub truncate: bool,
    /// Asked for no caching in the kernel (O_DIRECT, FILE_NO_INTERMEDIATE_BUFFERING).
    pub direct: bool,
    /// The host can read and write a [`Backing`] by itself, and may here: no write has to be durable when it returns.
    pub takes_backing: bool,
}

/// All bytes of a file as a plain file of this machine, for a host to read by itself, and to write through a handle that may
/// write. Of a file that such a handle never had they do not change. The file ends where they end.
#[derive(Clone, Debug)]
pub struct Backing(pub Arc<File>);

impl PartialEq for Backing {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Backing {}

/// A successful `open`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The handle for the calls that follow.
    pub handle: HandleId,
    /// The host may keep what it cached of the node's bytes under earlier opens. Right for a file that was made or
    /// truncated by this very open, too: the host drops the bytes itself then, and what it writes later it caches right.
    pub keep_cache: bool,
    /// The host must neither serve this open from what it cached of the node's bytes nor cache what is read through it.
    pub uncached: bool,
    /// The attributes that the host remembers of the node may be those of earlier bytes: it must have dropped them when
    /// the open is answered, or else it would end these bytes where those ended.
    pub forget_attributes: bool,
    /// The bytes that the host may read without asking [`read`](crate::vfs::VirtualFs::read) and, of a handle that may write,
    /// write without telling [`write`](crate::vfs::VirtualFs::write); it may as well ask. It never writes after `cleanup`, but
    /// through a mapping. While a node has an open with a backing, every open of it has the same one.
    pub backing: Option<Backing>,
}

/// What became of reads past the drive, for those who ask whether it is as fast as it could be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NativeReads {
    /// Why there are none; `None` where there are.
    pub off: Option<String>,
    /// Opens whose bytes the operating system reads by itself.
    pub opens: u64,
    /// Reads that the drive answered.
    pub answered: u64,
    /// Writes that it did.
    pub written: u64,
}

/// Changes of attributes asked for; `None` leaves one as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// New length.
    pub size: Option<u64>,
    /// New permission bits.
    pub perm: Option<u16>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New access time.
    pub atime: Option<SystemTime>,
    /// New modification time.
    pub mtime: Option<SystemTime>,
}

/// How a node is made by `create`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewNode {
    /// A regular file, opened at once.
    File,
    /// A folder.
    Dir,
    /// A symbolic link to the target given.
    Symlink(OsString),
    /// A pipe, a socket or a device.
    Special {
        /// Which of them; never a file, a folder or a link.
        kind: NodeKind,
        /// The device; 0 for all but devices.
        rdev: u32,
    },
}

/// What `fallocate` does to a range of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Allocate {
    /// Sets space aside; a file that ends within the range ends at its end from now on.
    Extend,
    /// Sets space aside; the length stays.
    KeepSize,
    /// Makes the range a hole, which reads as zeros; the length stays.
    PunchHole,
    /// Makes the range read as zeros, with space set aside; a file that ends within it ends at its end from now on.
    Zero,
    /// Makes the range read as zeros, with space set aside; the length stays.
    ZeroKeepSize,
}

/// Flags of `rename`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RenameOptions {
    /// An existing target is an error.
    pub no_replace: bool,
    /// Source and target change places.
    pub exchange: bool,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTo {
    /// The next byte of data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

/// Space of the drive, in bytes and entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes not in use.
    pub free_bytes: u64,
    /// Bytes that the caller may still use.
    pub available_bytes: u64,
    /// Entries that exist.
    pub files: u64,
    /// Entries that may still be made.
    pub free_files: u64,
    /// Longest name, in bytes.
    pub name_max: u32,
}

/// Returns the permission bits of a file after a change that takes its privileges: without set-user-id, and without
/// set-group-id where the group may execute. Elsewhere that bit is no privilege.
#[must_use]
pub fn without_set_id(perm: u16) -> u16 {
    if perm & 0o010 != 0 {
        perm & !0o6000
    } else {
        perm & !0o4000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_the_set_id_bits_that_somebody_gains_by() {
        assert_eq!(without_set_id(0o7755), 0o1755);
        assert_eq!(without_set_id(0o6745), 0o2745);
        assert_eq!(without_set_id(0o644), 0o644);
    }
}
