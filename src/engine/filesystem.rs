//! The drive as an operating system sees it: [`VirtualFs`] over the store's tree and the hydrator.
//!
//! Owns: the meaning of each file operation (docs/semantics.md says it in words). Refuses to know: which host calls.
//! Invariants: nothing but `read` waits for a site; what is not resident is never reported as a hole or as zero blocks.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{
    Allocate, Attr, CaseMode, DirEntry, Entry, HandleId, NewNode, NodeId, NodeKind, OpCx, OpenOptions, Opened,
    RenameOptions, SeekTo, SetAttr, Space,
};
use backlot_platform::vfs::VirtualFs;
use bytes::Bytes;
use tracing::warn;

use super::drive::{Inner, version_of};
use super::handles::OpenFile;
use super::hydrate::{HydrateError, OpenContent};
use super::schedule::Priority;
use super::xattr;
use crate::model::{EntryKind, Ino};
use crate::providers::ErrorKind;
use crate::state::{Node, StateError};

/// Blocks are reported in steps of this many bytes, as local disks do.
const BLOCK: u64 = 4096;
/// What is fetched when a large file is opened, before its first read: two granules, where headers are.
const HEAD: u64 = 2 * backlot_cache::GRANULE;

/// The file operations of one drive.
#[derive(Clone, Debug)]
pub struct DriveFs {
    pub(super) drive: Arc<Inner>,
}

impl DriveFs {
    fn node(&self, node: NodeId) -> Result<Node, FsError> {
        self.drive
            .tree
            .node(Ino(node.0))
            .map_err(state_error)?
            .ok_or_else(|| FsErrorKind::NotFound.into())
    }

    fn attr(&self, node: &Node) -> Attr {
        let (kind, default_perm) = match node.kind {
            EntryKind::File => (NodeKind::File, 0o644),
            EntryKind::Dir => (NodeKind::Dir, 0o755),
            EntryKind::Symlink => (NodeKind::Symlink, 0o777),
        };
        let mtime = time(node.mtime_ns);
        Attr {
            node: NodeId(node.ino.0),
            kind,
            size: node.size,
            allocated: node.size.next_multiple_of(BLOCK),
            atime: mtime,
            mtime,
            ctime: time(node.ctime_ns),
            btime: time(node.ctime_ns),
            // The mount is nosuid; bits that mean nothing here are not shown.
            perm: node.perm.unwrap_or(default_perm) & 0o1777,
            rdev: 0,
            nlink: node.nlink,
            uid: self.drive.owner.0,
            gid: self.drive.owner.1,
            // A handle of an earlier version must not end where this one does. The kernel asks on behalf of the handle
            // that reads past the length it knows, if it does not remember that length.
            volatile: node.kind == EntryKind::File
                && (self.drive.doubts.has(node.ino) || self.drive.handles.has_stale(node.ino)),
        }
    }

    fn file(&self, handle: HandleId) -> Result<Arc<OpenFile>, FsError> {
        self.drive
            .handles
            .get(handle)
            .ok_or_else(|| FsErrorKind::BadHandle.into())
    }

    /// Says whether the version that a handle reads is not the file's any more.
    fn is_old(&self, file: &OpenFile, content: &OpenContent) -> bool {
        // The store changes first, and handles are marked after it: who looks between the two has the doubt to go by.
        file.is_stale()
            || self.drive.doubts.has(file.ino)
                && self
                    .node(NodeId(file.ino.0))
                    .is_ok_and(|node| version_of(&node) != *content.version())
    }

    /// Reads through a handle; on a version that is gone, takes up the new one if nobody saw a byte of the old.
    async fn read_open(&self, file: &Arc<OpenFile>, range: Range<u64>) -> Result<Bytes, FsError> {
        let mut switched = false;
        loop {
            let content = file.content();
            let len = content.content().len();
            let clipped = range.start.min(len)..range.end.min(len);
            let error = if self.is_old(file, &content) {
                None
            } else if clipped.is_empty() {
                return Ok(Bytes::new());
            } else {
                file.note_read(&content, clipped.clone());
                match content.read(clipped).await {
                    Ok(bytes) if !self.is_old(file, &content) => {
                        file.mark_served();
                        return Ok(bytes);
                    }
                    Ok(_bytes_of_a_version_that_went_meanwhile) => None,
                    Err(e) => Some(e),
                }
            };
            if let Some(e) = &error {
                let changed = matches!(e, HydrateError::Provider(p)
                    if matches!(p.kind, ErrorKind::VersionMismatch | ErrorKind::NotFound));
                if !changed {
                    return Err(hydrate_error(e.clone()));
                }
                self.drive.refresh(file.ino).await;
            }
            let alone = self.drive.handles.of(file.ino).len() == 1;
            // Old and not marked: those who noticed the change are about to mark whatever is open.
            let unmarked = error.is_none() && !file.is_stale();
            if switched || unmarked || file.has_served() || !file.fresh || !alone {
                return Err(changed_at_site(&content));
            }
            let node = self.node(NodeId(file.ino.0))?;
            if node.size != len {
                // The kernel, and whoever asked it, hold this open to the length that it began with: another version's
                // bytes cut to that would be half a file that looks whole.
                return Err(changed_at_site(&content));
            }
            let content = self.drive.open_content(&node).map_err(|e| log_fs(&node, e))?;
            self.drive.handles.switch(file, content);
            switched = true;
        }
    }
}

#[async_trait]
impl VirtualFs for DriveFs {
    async fn lookup(&self, _cx: &OpCx, parent: NodeId, name: &OsStr, _case: CaseMode) -> Result<Entry, FsError> {
        if name.len() > crate::model::NAME_MAX {
            return Err(FsErrorKind::NameTooLong.into());
        }
        self.drive.looked_at(Ino(parent.0));
        let found = self
            .drive
            .tree
            .lookup(Ino(parent.0), name.as_bytes())
            .map_err(state_error)?;
        let node = found.ok_or(FsErrorKind::NotFound)?;
        if node.kind == EntryKind::Dir {
            self.drive.looked_at(node.ino);
        }
        Ok(Entry {
            attr: self.attr(&node),
            stored_name: None,
        })
    }

    fn forget(&self, _node: NodeId, _times: u64) {}

    async fn getattr(&self, _cx: &OpCx, node: NodeId, handle: Option<HandleId>) -> Result<Attr, FsError> {
        let node = self.node(node)?;
        if let Some(file) = handle.and_then(|handle| self.drive.handles.get(handle)) {
            let content = file.content();
            let may_switch = file.fresh && !file.has_served() && node.size == content.content().len();
            if !may_switch && self.is_old(&file, &content) {
                return Err(changed_at_site(&content));
            }
        }
        Ok(self.attr(&node))
    }

    async fn setattr(&self, _: &OpCx, _: NodeId, _: Option<HandleId>, _: SetAttr) -> Result<Attr, FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn readlink(&self, _cx: &OpCx, node: NodeId) -> Result<OsString, FsError> {
        let target = self.drive.tree.link_target(Ino(node.0)).map_err(state_error)?;
        target
            .map(OsString::from_vec)
            .ok_or_else(|| FsErrorKind::Invalid.into())
    }

    async fn readdir(&self, _cx: &OpCx, dir: NodeId, after: u64, max: usize) -> Result<Vec<DirEntry>, FsError> {
        if after == 0 {
            self.drive.looked_at(Ino(dir.0));
        }
        let children = self.drive.tree.children(Ino(dir.0), after, max).map_err(state_error)?;
        Ok(children
            .into_iter()
            .map(|c| DirEntry {
                cookie: c.cookie,
                attr: self.attr(&c.node),
                name: OsString::from_vec(c.name.as_bytes().to_vec()),
            })
            .collect())
    }

    async fn parent(&self, _cx: &OpCx, dir: NodeId) -> Result<NodeId, FsError> {
        if dir == NodeId::ROOT {
            return Ok(NodeId::ROOT);
        }
        let parent = self.drive.tree.parent_of(Ino(dir.0)).map_err(state_error)?;
        Ok(NodeId(parent.ok_or(FsErrorKind::NotFound)?.0.0))
    }

    async fn open(&self, cx: &OpCx, node: NodeId, options: OpenOptions) -> Result<Opened, FsError> {
        if options.write || options.truncate {
            return Err(FsErrorKind::ReadOnly.into());
        }
        let node = self.node(node)?;
        match node.kind {
            EntryKind::File => {}
            EntryKind::Dir => return Err(FsErrorKind::IsDir.into()),
            EntryKind::Symlink => return Err(FsErrorKind::Invalid.into()),
        }
        let content = self.drive.open_content(&node).map_err(|e| log_fs(&node, e))?;
        // Pages that the kernel may hold were read under this version or never: an earlier version's were dropped when
        // its change was noticed. Where nothing is resident there can be none, and the kernel is told so.
        let keep_cache = content.content().resident_bytes() > 0;
        let file = Arc::new(OpenFile::new(
            node.ino,
            Arc::clone(&content),
            !keep_cache,
            self.drive.limits.readahead_max,
        ));
        let handle = self.drive.handles.insert(Arc::clone(&file));
        // A change noticed between the look at the node and the insertion did not mark this handle: look again.
        if self.node(NodeId(node.ino.0)).ok().and_then(|n| n.version) != node.version {
            self.drive.handles.remove(handle);
            return Box::pin(self.open(cx, NodeId(node.ino.0), options)).await;
        }
        let len = content.content().len();
        if len > 0 && !content.content().is_full() {
            let whole = len <= self.drive.limits.small_file;
            file.keep(content.fetch_ahead(0..if whole { len } else { HEAD.min(len) }, Priority::ReadAhead));
        }
        // Pages belong to the file, not to an open of it: with this version's in there, a handle that reads an earlier
        // one would be given them without our being asked.
        let uncached = self.drive.handles.has_stale(node.ino);
        Ok(Opened {
            handle,
            keep_cache,
            uncached,
            forget_attributes: self.drive.doubts.has(node.ino),
        })
    }

    async fn read(&self, _cx: &OpCx, handle: HandleId, range: Range<u64>) -> Result<Bytes, FsError> {
        let file = self.file(handle)?;
        self.read_open(&file, range).await
    }

    async fn write(&self, _: &OpCx, _: HandleId, _: u64, _: Bytes) -> Result<u32, FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn fallocate(&self, _: &OpCx, _: HandleId, _: Allocate, _: Range<u64>) -> Result<(), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn flush(&self, _cx: &OpCx, _handle: HandleId) -> Result<(), FsError> {
        Ok(())
    }

    async fn fsync(&self, _cx: &OpCx, _handle: HandleId, _data_only: bool) -> Result<(), FsError> {
        Ok(())
    }

    async fn fsyncdir(&self, _cx: &OpCx, _dir: NodeId) -> Result<(), FsError> {
        Ok(())
    }

    async fn cleanup(&self, _cx: &OpCx, _handle: HandleId) -> Result<(), FsError> {
        Ok(())
    }

    fn release(&self, handle: HandleId) {
        drop(self.drive.handles.remove(handle));
    }

    async fn create(
        &self,
        _: &OpCx,
        _: NodeId,
        _: &OsStr,
        _: NewNode,
        _: u16,
        _: OpenOptions,
    ) -> Result<(Entry, Option<Opened>), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn link(&self, _: &OpCx, _: NodeId, _: NodeId, _: &OsStr) -> Result<Entry, FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn can_remove(&self, _: &OpCx, _: NodeId) -> Result<(), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn remove(&self, _: &OpCx, _: NodeId, _: &OsStr, _: bool) -> Result<(), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn rename(
        &self,
        _: &OpCx,
        _: (NodeId, &OsStr),
        _: (NodeId, &OsStr),
        _: RenameOptions,
    ) -> Result<(), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn statfs(&self, _cx: &OpCx) -> Result<Space, FsError> {
        let (total_bytes, free_bytes) = self.drive.space();
        let files = self.drive.tree.counts().map_err(state_error)?.entries;
        Ok(Space {
            total_bytes,
            free_bytes,
            available_bytes: free_bytes,
            files,
            free_files: 0,
            name_max: 255,
        })
    }

    async fn seek(&self, _cx: &OpCx, handle: HandleId, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        // The whole file is data: a hole at the site is not known here, and one in the cache is only "not yet".
        let len = self.file(handle)?.content().content().len();
        match to {
            _ if offset >= len => Err(FsErrorKind::PastEnd.into()),
            SeekTo::Data => Ok(offset),
            SeekTo::Hole => Ok(len),
        }
    }

    async fn getxattr(&self, _cx: &OpCx, node: NodeId, name: &OsStr) -> Result<Bytes, FsError> {
        let Some(asked) = xattr::Virtual::from_name(name) else {
            return Err(FsErrorKind::NoAttr.into());
        };
        let node = self.node(node)?;
        xattr::value(&self.drive, &node, asked)
            .map(Bytes::from)
            .ok_or_else(|| FsErrorKind::NoAttr.into())
    }

    async fn listxattr(&self, _cx: &OpCx, _node: NodeId) -> Result<Vec<OsString>, FsError> {
        Ok(Vec::new())
    }

    async fn setxattr(&self, _: &OpCx, _: NodeId, _: &OsStr, _: Bytes) -> Result<(), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }

    async fn removexattr(&self, _: &OpCx, _: NodeId, _: &OsStr) -> Result<(), FsError> {
        Err(FsErrorKind::ReadOnly.into())
    }
}

fn time(ns: i64) -> SystemTime {
    let d = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 {
        SystemTime::UNIX_EPOCH + d
    } else {
        SystemTime::UNIX_EPOCH - d
    }
}

fn changed_at_site(content: &OpenContent) -> FsError {
    FsError::new(
        FsErrorKind::RemoteChanged,
        format!("{} changed at the site", content.path()),
    )
}

fn state_error(e: StateError) -> FsError {
    FsError::new(FsErrorKind::Io, e)
}

fn log_fs(node: &Node, e: super::drive::OpenError) -> FsError {
    warn!(ino = %node.ino, error = %e, "open failed");
    FsError::new(FsErrorKind::Io, e)
}

/// The one table from a failed hydration to what a reader is told.
fn hydrate_error(e: HydrateError) -> FsError {
    let kind = match &e {
        HydrateError::Offline { .. } => FsErrorKind::Offline,
        HydrateError::Deadline(_) => FsErrorKind::TimedOut,
        HydrateError::Cache(_) => FsErrorKind::CacheFull,
        HydrateError::Provider(p) => match p.kind {
            ErrorKind::VersionMismatch | ErrorKind::NotFound => FsErrorKind::RemoteChanged,
            ErrorKind::Denied | ErrorKind::Auth => FsErrorKind::Denied,
            ErrorKind::Unreachable => FsErrorKind::Offline,
            ErrorKind::TimedOut => FsErrorKind::TimedOut,
            ErrorKind::Exists
            | ErrorKind::WrongKind
            | ErrorKind::Full
            | ErrorKind::Busy
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Config
            | ErrorKind::Protocol => FsErrorKind::Io,
        },
    };
    FsError::new(kind, e)
}
