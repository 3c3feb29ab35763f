//! Between fuser's types and ours, both ways.
//!
//! Owns: every conversion of a value; no I/O, no state. Invariant: fuser's types appear in this folder only.

use std::ffi::OsStr;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, OpenAccMode, RenameFlags, Request, TimeOrNow, WriteFlags};
use rustix::fs::FallocateFlags;

use crate::error::{FsError, FsErrorKind};
use crate::types::{
    Allocate, Attr, NewNode, NodeId, NodeKind, OpCx, OpenOptions, Opened, RenameOptions, SeekTo, Space,
};

/// Longest name that a folder may hold: NAME_MAX of Linux.
const NAME_MAX: usize = 255;

/// Longest target of a symbolic link: PATH_MAX of Linux without its NUL.
const TARGET_MAX: usize = 4095;

/// The block size reported by `stat` and `statfs`, in bytes. A page: what every Linux file system shows.
const BLOCK: u32 = 4096;

/// O_TRUNC, O_EXCL, O_DSYNC and O_DIRECT as the FUSE protocol carries them, which is as this machine's open(2) takes them.
const O_TRUNC: i32 = rustix::fs::OFlags::TRUNC.bits().cast_signed();
const O_EXCL: i32 = rustix::fs::OFlags::EXCL.bits().cast_signed();
const O_DSYNC: i32 = rustix::fs::OFlags::DSYNC.bits().cast_signed();
const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();

pub(super) fn op_cx(req: &Request) -> OpCx {
    OpCx {
        uid: req.uid(),
        gid: req.gid(),
        pid: req.pid(),
        // fuser keeps what the kernel says of it to itself, for all requests but one.
        kill_privileges: req.uid() != 0,
    }
}

/// The context of a write, of which the kernel says whether the writer may keep set-id bits. What it writes by itself, out
/// of a mapping, is no loss of privileges, whoever it comes from.
pub(super) fn write_cx(req: &Request, flags: WriteFlags) -> OpCx {
    OpCx {
        kill_privileges: flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        ..op_cx(req)
    }
}

pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.kind.errno())
}

pub(super) fn check_name(name: &OsStr) -> Result<(), FsError> {
    if name.len() > NAME_MAX {
        Err(FsErrorKind::NameTooLong.into())
    } else {
        Ok(())
    }
}

pub(super) fn check_new(new: &NewNode) -> Result<(), FsError> {
    match new {
        NewNode::Symlink(target) if target.len() > TARGET_MAX => Err(FsErrorKind::NameTooLong.into()),
        NewNode::Symlink(_) | NewNode::File | NewNode::Dir | NewNode::Special { .. } => Ok(()),
    }
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes as programs see them.
pub(super) fn shown_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.number),
        ..file_attr(attr)
    }
}

/// Attributes in an entry, where the number names the node.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.node.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.btime,
        kind: file_type(attr.kind),
        // All of them: the mount is nosuid.
        perm: attr.perm & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The attributes of a folder of which only the id matters: `.` and `..` in a listing.
pub(super) fn dir_stub(node: NodeId) -> FileAttr {
    stub(node, FileType::Directory)
}

/// The answer "there is no such name, and you may remember it": inode number 0.
pub(super) fn negative() -> FileAttr {
    stub(NodeId(0), FileType::RegularFile)
}

fn stub(node: NodeId, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

pub(super) fn open_options(flags: i32) -> OpenOptions {
    let (read, write) = match fuser::OpenFlags(flags).acc_mode() {
        OpenAccMode::O_RDONLY => (true, false),
        OpenAccMode::O_WRONLY => (false, true),
        OpenAccMode::O_RDWR => (true, true),
    };
    OpenOptions {
        read,
        write,
        truncate: flags & O_TRUNC != 0,
        direct: flags & O_DIRECT != 0,
        takes_backing: false,
    }
}

/// Says whether each write of an open has to be durable when it returns.
pub(super) fn is_synchronous(flags: i32) -> bool {
    // O_SYNC includes O_DSYNC.
    flags & O_DSYNC != 0
}

pub(super) fn is_exclusive(flags: i32) -> bool {
    flags & O_EXCL != 0
}

pub(super) fn fopen_flags(options: OpenOptions, opened: &Opened, may_keep: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache && may_keep);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, options.direct || opened.uncached);
    flags
}

pub(super) fn perm(mode: u32) -> u16 {
    // The mask leaves 12 bits, which fit.
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// What `mknod` is to make.
pub(super) fn new_node(mode: u32, rdev: u32) -> Result<NewNode, FsError> {
    use rustix::fs::FileType as T;
    let (kind, rdev) = match T::from_raw_mode(mode) {
        T::RegularFile => return Ok(NewNode::File),
        // mknod(2): a kind of 0 means a regular file.
        T::Unknown if mode & 0o170_000 == 0 => return Ok(NewNode::File),
        T::Fifo => (NodeKind::Fifo, 0),
        T::Socket => (NodeKind::Socket, 0),
        T::CharacterDevice => (NodeKind::CharDevice, rdev),
        T::BlockDevice => (NodeKind::BlockDevice, rdev),
        T::Directory | T::Symlink | T::Unknown => return Err(FsErrorKind::Invalid.into()),
    };
    Ok(NewNode::Special { kind, rdev })
}

/// What `fallocate` is to do, and to which bytes.
pub(super) fn allocation(mode: i32, offset: u64, length: u64) -> Result<(Allocate, Range<u64>), FsError> {
    const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;
    const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE;
    const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE;
    let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let how = if flags.is_empty() {
        Allocate::Extend
    } else if flags == KEEP {
        Allocate::KeepSize
    } else if flags == PUNCH | KEEP {
        Allocate::PunchHole
    } else if flags == ZERO {
        Allocate::Zero
    } else if flags == ZERO | KEEP {
        Allocate::ZeroKeepSize
    } else {
        return Err(FsErrorKind::Unsupported.into());
    };
    if length == 0 {
        return Err(FsErrorKind::Invalid.into());
    }
    let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
    Ok((how, offset..end.ok_or(FsErrorKind::FileTooLarge)?))
}

pub(super) fn time(at: TimeOrNow) -> SystemTime {
    match at {
        TimeOrNow::SpecificTime(at) => at,
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub(super) fn rename_options(flags: RenameFlags) -> Result<RenameOptions, FsError> {
    let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
    if !known.contains(flags) || flags == known {
        return Err(FsErrorKind::Invalid.into());
    }
    Ok(RenameOptions {
        no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
        exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
    })
}

/// SEEK_DATA is 3 and SEEK_HOLE is 4 on Linux; the kernel asks for nothing else.
pub(super) fn seek_to(whence: i32) -> Result<SeekTo, FsError> {
    match whence {
        3 => Ok(SeekTo::Data),
        4 => Ok(SeekTo::Hole),
        _ => Err(FsErrorKind::Invalid.into()),
    }
}

/// Sizes of `statfs`, in blocks of [`BLOCK`] bytes.
pub(super) struct Statfs {
    pub(super) blocks: u64,
    pub(super) free: u64,
    pub(super) available: u64,
    pub(super) block: u32,
}

pub(super) fn statfs(space: &Space) -> Statfs {
    let block = u64::from(BLOCK);
    Statfs {
        blocks: space.total_bytes / block,
        free: space.free_bytes / block,
        available: space.available_bytes / block,
        block: BLOCK,
    }
}

/// What the kernel asks so often, and we never have, that the engine is spared the question: file capabilities (asked
/// before every write where HANDLE_KILLPRIV_V2 is missing) and POSIX ACLs (asked by `ls -l` and `cp -p`).
pub(super) fn is_never_present(xattr: &OsStr) -> bool {
    [
        "security.capability",
        "system.posix_acl_access",
        "system.posix_acl_default",
    ]
    .iter()
    .any(|name| xattr == *name)
}

/// The offsets that the kernel hands back to continue a listing: 1 after `.`, 2 after `..`, else cookie + 2.
pub(super) const AFTER_DOT: u64 = 1;
pub(super) const AFTER_DOT_DOT: u64 = 2;

pub(super) fn dir_offset(cookie: u64) -> Result<u64, FsError> {
    // The kernel's loff_t is signed.
    cookie
        .checked_add(AFTER_DOT_DOT)
        .filter(|offset| i64::try_from(*offset).is_ok())
        .ok_or_else(|| FsError::new(FsErrorKind::Io, "a folder's cookie is beyond 2^63 - 3"))
}

pub(super) fn dir_cookie(offset: u64) -> u64 {
    offset.saturating_sub(AFTER_DOT_DOT)
}

/// How long the kernel may remember a name that is not there.
pub(super) fn negative_ttl(parent: NodeId, ttl: Duration, can_forget_all: bool) -> Duration {
    // Where the kernel cannot be told to forget every name at once, notify.rs drops the root's children instead, which
    // takes their subtrees along but not the names that are missing in the root itself: those get a short life.
    if parent == NodeId::ROOT && !can_forget_all {
        ttl.min(Duration::from_secs(1))
    } else {
        ttl
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn open_flags_are_understood() {
        let options = open_options(0o1 | O_TRUNC | O_DIRECT);
        assert_eq!(
            options,
            OpenOptions {
                read: false,
                write: true,
                truncate: true,
                direct: true,
                takes_backing: false,
            }
        );
        assert_eq!(
            open_options(0),
            OpenOptions {
                read: true,
                ..OpenOptions::default()
            }
        );
        assert_eq!(
            open_options(0o2),
            OpenOptions {
                read: true,
                write: true,
                ..OpenOptions::default()
            }
        );
        assert!(is_exclusive(0o300) && !is_exclusive(0o100));
    }

    #[test]
    fn offsets_and_cookies_are_each_others_inverse_and_never_meet_the_dots() {
        for cookie in [1, 2, 3, u64::from(u32::MAX), (1 << 63) - 3] {
            let offset = dir_offset(cookie).expect("fits");
            assert!(offset > AFTER_DOT_DOT);
            assert_eq!(dir_cookie(offset), cookie);
        }
        assert!(dir_offset((1 << 63) - 2).is_err() && dir_offset(u64::MAX).is_err());
        assert_eq!(
            [0, AFTER_DOT, AFTER_DOT_DOT].map(dir_cookie),
            [0; 3],
            "a listing begins after the dots"
        );
    }

    #[test]
    fn rename_flags_that_make_no_sense_are_invalid() {
        let kind = |flags| rename_options(flags).map_err(|e| e.kind);
        let (no, ex) = (RenameFlags::RENAME_NOREPLACE, RenameFlags::RENAME_EXCHANGE);
        assert_eq!(kind(RenameFlags::empty()), Ok(RenameOptions::default()));
        assert_eq!(
            kind(no),
            Ok(RenameOptions {
                no_replace: true,
                exchange: false
            })
        );
        assert_eq!(
            kind(ex),
            Ok(RenameOptions {
                no_replace: false,
                exchange: true
            })
        );
        assert_eq!(kind(no | ex), Err(FsErrorKind::Invalid));
        assert_eq!(kind(RenameFlags::RENAME_WHITEOUT), Err(FsErrorKind::Invalid));
        assert_eq!(kind(RenameFlags::from_bits_retain(1 << 9)), Err(FsErrorKind::Invalid));
    }

    #[test]
    fn mknod_makes_all_but_folders_and_links() {
        let made = |mode| new_node(mode, 0x103).map_err(|e| e.kind);
        let special = |kind, rdev| Ok(NewNode::Special { kind, rdev });
        assert_eq!((made(0o100_644), made(0o644)), (Ok(NewNode::File), Ok(NewNode::File)));
        assert_eq!(made(0o010_644), special(NodeKind::Fifo, 0));
        assert_eq!(made(0o140_644), special(NodeKind::Socket, 0));
        assert_eq!(made(0o020_644), special(NodeKind::CharDevice, 0x103));
        assert_eq!(made(0o060_644), special(NodeKind::BlockDevice, 0x103));
        for mode in [0o040_755, 0o120_777, 0o150_644] {
            assert_eq!(made(mode), Err(FsErrorKind::Invalid), "{mode:o}");
        }
        assert_eq!(perm(0o107_644), 0o7644);
    }

    #[test]
    fn allocations_are_one_of_five_and_within_the_longest_file() {
        let asked = |mode, offset, length| allocation(mode, offset, length).map_err(|e| e.kind);
        for (mode, how) in [
            (0, Allocate::Extend),
            (0b1, Allocate::KeepSize),
            (0b11, Allocate::PunchHole),
            (0x10, Allocate::Zero),
            (0x11, Allocate::ZeroKeepSize),
        ] {
            assert_eq!(asked(mode, 5, 7), Ok((how, 5..12)));
        }
        for mode in [0b10, 0b100, 0x8, 0x12, 0x13, 0x20, 0x40, -1] {
            assert_eq!(asked(mode, 5, 7), Err(FsErrorKind::Unsupported), "{mode:#x}");
        }
        let longest = i64::MAX.cast_unsigned();
        assert_eq!(asked(0, 5, 0), Err(FsErrorKind::Invalid));
        assert_eq!(asked(0, 5, longest - 5), Ok((Allocate::Extend, 5..longest)));
        assert_eq!(asked(0, 5, longest - 4), Err(FsErrorKind::FileTooLarge));
        assert_eq!(asked(0, u64::MAX, 1), Err(FsErrorKind::FileTooLarge));
    }

    #[test]
    fn names_and_targets_have_a_longest() {
        let kind = |out: Result<(), FsError>| out.map_err(|e| e.kind);
        let long = |len| OsString::from("n".repeat(len));
        assert_eq!(kind(check_name(&long(NAME_MAX))), Ok(()));
        assert_eq!(kind(check_name(&long(NAME_MAX + 1))), Err(FsErrorKind::NameTooLong));
        assert_eq!(kind(check_new(&NewNode::Symlink(long(TARGET_MAX)))), Ok(()));
        let too_long = NewNode::Symlink(long(TARGET_MAX + 1));
        assert_eq!(kind(check_new(&too_long)), Err(FsErrorKind::NameTooLong));
    }

    #[test]
    fn what_cannot_be_doubted_at_once_is_not_long_believed() {
        let day = Duration::from_secs(86_400);
        assert_eq!(negative_ttl(NodeId(7), day, false), day);
        assert_eq!(negative_ttl(NodeId::ROOT, day, true), day);
        assert_eq!(negative_ttl(NodeId::ROOT, day, false), Duration::from_secs(1));
        assert_eq!(negative_ttl(NodeId::ROOT, Duration::ZERO, false), Duration::ZERO);
    }

    #[test]
    fn sizes_are_in_blocks_and_an_odd_byte_takes_one() {
        let space = Space {
            total_bytes: 8191,
            free_bytes: 4096,
            available_bytes: 0,
            files: 0,
            free_files: 0,
            name_max: 255,
        };
        let s = statfs(&space);
        assert_eq!((s.blocks, s.free, s.available, s.block), (1, 1, 0, 4096));
        let mut attr = Attr {
            node: NodeId(2),
            number: 7,
            kind: NodeKind::File,
            size: 1,
            allocated: 1,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            btime: SystemTime::UNIX_EPOCH,
            perm: 0o7755,
            rdev: 0x103,
            nlink: 1,
            uid: 0,
            gid: 0,
            volatile: false,
        };
        let shown = file_attr(&attr);
        assert_eq!((shown.blocks, shown.perm, shown.rdev), (1, 0o7755, 0x103));
        assert_eq!((shown.ino, shown_attr(&attr).ino), (INodeNo(2), INodeNo(7)));
        attr.allocated = 513;
        assert_eq!(file_attr(&attr).blocks, 2);
    }
}
