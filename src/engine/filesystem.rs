//! The drive as an operating system sees it: [`VirtualFs`] over the store's tree, the hydrator and what is written here.
//!
//! Owns: the meaning of each file operation (docs/semantics.md says it in words). Refuses to know: which host calls.
//! Invariants: nothing waits for a site but `read`, and what has to copy a file from there before it can change it; what is
//! not resident is never reported as a hole or as zero blocks.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{
    Allocate, Attr, CaseMode, DirEntry, Entry, HandleId, NewNode, NodeId, NodeKind, OpCx, OpenOptions, Opened,
    RenameOptions, SeekTo, SetAttr, Space, without_set_id,
};
use backlot_platform::vfs::VirtualFs;
use bytes::Bytes;

use super::drive::{Inner, now_ns};
use super::handles::{OpenFile, Source};
use super::hydrate::HydrateError;
use super::local::{LocalFile, Sized};
use super::native::ino_of;
use super::opening::changed_at_site;
use super::writing::local_error;
use super::xattr;
use crate::failpoint;
use crate::model::{EntryKind, Ino};
use crate::providers::ErrorKind;
use crate::state::{NewAttrs, Node, Refusal, StateError};

/// Blocks are reported in steps of this many bytes, as local disks do.
const BLOCK: u64 = 4096;

/// The file operations of one drive.
#[derive(Clone, Debug)]
pub struct DriveFs {
    pub(super) drive: Arc<Inner>,
}

impl DriveFs {
    /// Returns what a node is of. One that is gone has been replaced or removed since its name was looked up.
    pub(super) fn node(&self, node: NodeId) -> Result<Node, FsError> {
        let node = self.drive.tree.node(ino_of(node)).map_err(state_error)?;
        node.map(|node| self.drive.as_written(node))
            .ok_or_else(|| FsErrorKind::Left.into())
    }

    fn attr(&self, node: &Node) -> Attr {
        self.attr_at(self.drive.node_for(node), node)
    }

    /// Returns the attributes of a row, as those of a node.
    pub(super) fn attr_at(&self, at: NodeId, node: &Node) -> Attr {
        let (kind, default_perm) = match node.kind {
            EntryKind::File => (NodeKind::File, 0o644),
            EntryKind::Dir => (NodeKind::Dir, 0o755),
            EntryKind::Symlink => (NodeKind::Symlink, 0o777),
            EntryKind::Fifo => (NodeKind::Fifo, 0o644),
            EntryKind::Socket => (NodeKind::Socket, 0o644),
            EntryKind::CharDevice => (NodeKind::CharDevice, 0o600),
            EntryKind::BlockDevice => (NodeKind::BlockDevice, 0o600),
        };
        let mtime = time(node.mtime_ns);
        Attr {
            node: at,
            number: node.ino.0,
            kind,
            size: node.size,
            allocated: node.size.next_multiple_of(BLOCK),
            atime: time(node.atime_ns.unwrap_or(node.mtime_ns)),
            mtime,
            ctime: time(node.ctime_ns),
            btime: time(node.btime_ns.unwrap_or(node.ctime_ns)),
            // The mount is nosuid; bits of the site's that mean nothing here are not shown.
            perm: match self.shared_perm(node) {
                Some(perm) => perm,
                None => node.perm.unwrap_or(default_perm) & if node.own { 0o7777 } else { 0o1777 },
            },
            nlink: if node.kind == EntryKind::Dir {
                2 + node.subfolders
            } else {
                node.nlink
            },
            uid: node.uid.unwrap_or(self.drive.owner.0),
            gid: node.gid.unwrap_or(self.drive.owner.1),
            rdev: node.rdev,
            // A handle of an earlier version must not end where this one does. The kernel asks on behalf of the handle
            // that reads past the length it knows, if it does not remember that length.
            volatile: node.kind == EntryKind::File
                && (self.drive.doubts.has(node.ino) || self.drive.handles.has_stale(node.ino)),
        }
    }

    /// Returns the permission bits that the settings give what has no owner of its own.
    fn shared_perm(&self, node: &Node) -> Option<u16> {
        let has_owner = node.uid.is_some();
        (!has_owner)
            .then(|| self.drive.ownership.perm(node.kind, node.perm))
            .flatten()
    }

    /// Opens what a node is now; it may be dropped meanwhile.
    async fn open_node(&self, cx: &OpCx, node: NodeId, options: OpenOptions) -> Result<Opened, FsError> {
        let ino = ino_of(node);
        if options.write || options.truncate {
            self.drive.check_writable(ino)?;
            self.drive.check_changeable(node)?;
        }
        for _ in 0..LOOKS {
            let row = self.drive.tree.node(ino).map_err(state_error)?;
            let row = row.ok_or(FsErrorKind::Left)?;
            failpoint::hit("open.row");
            match row.kind {
                EntryKind::File => {}
                EntryKind::Dir => return Err(FsErrorKind::IsDir.into()),
                EntryKind::Symlink
                | EntryKind::Fifo
                | EntryKind::Socket
                | EntryKind::CharDevice
                | EntryKind::BlockDevice => return Err(FsErrorKind::Invalid.into()),
            }
            let opened = if row.own && row.origin.is_none() {
                let own = self.drive.own_file_if_same(&row)?;
                match own {
                    Some(own) => Some(self.open_own(node, &row, &own, options).await?),
                    None => None,
                }
            } else if options.truncate {
                // Nothing of what the site has is wanted.
                let own = self.drive.writable(ino, 0).await?;
                Some(self.open_own(node, &row, &own, options).await?)
            } else {
                self.open_site(cx, node, &row, options).await?
            };
            let Some(opened) = opened else { continue };
            if options.truncate {
                self.take_privileges(cx, ino).await?;
                if let Err(e) = self.drive.set_length(ino, 0).await {
                    self.drive.handles.remove(opened.handle);
                    return Err(e);
                }
            }
            return Ok(opened);
        }
        Err(FsErrorKind::Busy.into())
    }

    fn file(&self, handle: HandleId) -> Result<Arc<OpenFile>, FsError> {
        self.drive
            .handles
            .get(handle)
            .ok_or_else(|| FsErrorKind::BadHandle.into())
    }

    /// Returns a handle's file, ready to be written.
    async fn writable(&self, handle: HandleId, keep: u64) -> Result<Arc<LocalFile>, FsError> {
        let file = self.file(handle)?;
        if !file.may_write {
            return Err(FsErrorKind::BadHandle.into());
        }
        if file.is_stale() {
            return Err(FsErrorKind::RemoteChanged.into());
        }
        if let Some(own) = file.own().filter(|own| own.is_writing() && own.file().is_some()) {
            return Ok(own);
        }
        self.drive.writable(file.ino, keep).await
    }

    /// Takes the set-id bits of a file that is about to change, if its writer may not keep them.
    async fn take_privileges(&self, cx: &OpCx, ino: Ino) -> Result<(), FsError> {
        if !cx.kill_privileges {
            return Ok(());
        }
        let node = self.drive.row(ino)?;
        let Some(perm) = node.perm.filter(|perm| node.own && without_set_id(*perm) != *perm) else {
            return Ok(());
        };
        let attrs = NewAttrs {
            perm: Some(without_set_id(perm)),
            ..NewAttrs::default()
        };
        self.drive.set_attrs(ino, attrs).await.map(drop)
    }

    /// Changes the bytes of an open file.
    async fn change(
        &self,
        handle: HandleId,
        change: impl Fn(&std::fs::File, u64) -> std::io::Result<Sized> + Send,
    ) -> Result<(), FsError> {
        loop {
            let own = self.writable(handle, u64::MAX).await?;
            if let Some(done) = own.change(now_ns(), &change) {
                return done.map_err(local_error);
            }
            // It was closed by another handle in between, or published.
        }
    }
}

fn end_of_write(at: u64, length: u64) -> Result<u64, FsError> {
    let end = at.checked_add(length).filter(|end| *end <= i64::MAX.unsigned_abs());
    end.ok_or(FsErrorKind::FileTooLarge.into())
}

/// A file that turns into another again and again while it is opened is given up after this many looks.
const LOOKS: u32 = 16;

/// Says whether two looks at a row found the same bytes in the same place.
pub(super) fn is_same_content(a: &Node, b: &Node) -> bool {
    (a.own, &a.version, &a.origin, a.object) == (b.own, &b.version, &b.origin, b.object)
}

impl Inner {
    /// Returns a row with what is known of a file that is being written.
    pub(super) fn as_written(&self, mut node: Node) -> Node {
        // Its row may be written down while the host still writes.
        let may_differ = node.writing || (node.own && self.handles.has_native_writer(node.ino));
        if !may_differ {
            return node;
        }
        let facts = match (self.locals.get(node.ino), node.object) {
            (Some(own), _) => own.facts(),
            // Nobody has it in use, and it is not written down yet: its object is what there is.
            (None, Some(object)) if node.writing => match self.objects.facts(object) {
                Some(facts) => facts,
                None => return node,
            },
            (None, _) => return node,
        };
        node.size = facts.size;
        node.mtime_ns = facts.mtime_ns;
        node.ctime_ns = node.ctime_ns.max(facts.ctime_ns);
        node
    }
}

#[async_trait]
impl VirtualFs for DriveFs {
    async fn lookup(&self, _cx: &OpCx, parent: NodeId, name: &OsStr, _case: CaseMode) -> Result<Entry, FsError> {
        if name.len() > crate::model::NAME_MAX {
            return Err(FsErrorKind::NameTooLong.into());
        }
        let dir = ino_of(parent);
        self.drive.looked_at(dir);
        let look_up = || self.drive.tree.lookup(dir, name.as_bytes());
        let mut found = look_up().map_err(state_error)?;
        if found.is_none() {
            self.drive.first_look(dir).await.map_err(state_error)?;
            // Also where there was nothing to wait for: it may have been listed between the two questions.
            found = look_up().map_err(state_error)?;
        }
        let node = self.drive.as_written(found.ok_or(FsErrorKind::NotFound)?);
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
        if let Some(file) = handle.and_then(|handle| self.drive.handles.get(handle))
            && !file.is_native()
            && let Source::Site(content) = file.source()
        {
            let node = self.node(node)?;
            let may_switch = file.fresh && !file.has_served() && node.size == content.content().len();
            if !may_switch && self.is_old(&file, &content) {
                return Err(changed_at_site(&content));
            }
        }
        self.attr_of(node)
    }

    async fn setattr(&self, cx: &OpCx, node: NodeId, handle: Option<HandleId>, set: SetAttr) -> Result<Attr, FsError> {
        let ino = ino_of(node);
        let before = self.node(node)?;
        if ino == Ino::ROOT || self.drive.projects.iter().any(|project| project.root == ino) {
            return Err(FsErrorKind::ReadOnly.into());
        }
        if set == SetAttr::default() {
            return self.attr_of(node);
        }
        self.drive.check_writable(ino)?;
        if let Some(size) = set.size {
            if before.kind != EntryKind::File {
                return Err(FsErrorKind::Invalid.into());
            }
            if let Some(file) = handle.and_then(|handle| self.drive.handles.get(handle))
                && file.is_stale()
            {
                return Err(FsErrorKind::RemoteChanged.into());
            }
            self.drive.check_cuttable(node)?;
            self.take_privileges(cx, ino).await?;
            self.drive.set_length(ino, size).await?;
        }
        let mut attrs = NewAttrs {
            perm: set.perm,
            uid: set.uid,
            gid: set.gid,
            atime_ns: set.atime.map(ns),
            mtime_ns: set.mtime.map(ns),
        };
        let gives_away = set.uid.is_some() || set.gid.is_some();
        if gives_away && attrs.perm.is_none() && before.kind != EntryKind::Dir {
            let now = self.drive.row(ino)?.perm;
            attrs.perm = now.map(without_set_id).filter(|perm| Some(*perm) != now);
        }
        if attrs.perm.is_some() && before.uid.is_none() && self.drive.ownership.has_umask() {
            // It has bits of its own from now on, and so it has an owner.
            attrs.uid = attrs.uid.or(Some(self.drive.owner.0));
            attrs.gid = attrs.gid.or(before.gid).or(Some(self.drive.owner.1));
        }
        if attrs != NewAttrs::default() {
            self.drive.set_attrs(ino, attrs).await?;
            self.drive.tell_attrs_past(node);
        }
        self.attr_of(node)
    }

    async fn readlink(&self, _cx: &OpCx, node: NodeId) -> Result<OsString, FsError> {
        let target = self.drive.tree.link_target(ino_of(node)).map_err(state_error)?;
        target
            .map(OsString::from_vec)
            .ok_or_else(|| FsErrorKind::Invalid.into())
    }

    async fn readdir(&self, _cx: &OpCx, dir: NodeId, after: u64, max: usize) -> Result<Vec<DirEntry>, FsError> {
        if after == 0 {
            self.drive.looked_at(ino_of(dir));
            self.drive.first_look(ino_of(dir)).await.map_err(state_error)?;
        }
        let children = self.drive.tree.page(ino_of(dir), after, max).map_err(state_error)?;
        Ok(children
            .into_iter()
            .map(|c| DirEntry {
                cookie: c.cookie,
                attr: self.attr(&self.drive.as_written(c.node)),
                name: OsString::from_vec(c.name.as_bytes().to_vec()),
            })
            .collect())
    }

    async fn parent(&self, _cx: &OpCx, dir: NodeId) -> Result<NodeId, FsError> {
        if dir == NodeId::ROOT {
            return Ok(NodeId::ROOT);
        }
        let parent = self.drive.tree.parent_of(ino_of(dir)).map_err(state_error)?;
        Ok(NodeId(parent.ok_or(FsErrorKind::NotFound)?.0.0))
    }

    async fn open(&self, cx: &OpCx, node: NodeId, options: OpenOptions) -> Result<Opened, FsError> {
        let ino = ino_of(node);
        let opened = self.open_node(cx, node, options).await;
        match opened {
            // It lost its last name meanwhile: what came by that finds there what has it now.
            Err(e) if e.kind == FsErrorKind::NotFound && !self.drive.is_kept(ino).await? => {
                Err(FsErrorKind::Left.into())
            }
            Ok(opened) if !self.drive.is_kept(ino).await? => {
                self.release(opened.handle);
                Err(FsErrorKind::Left.into())
            }
            done => done,
        }
    }

    async fn read(&self, cx: &OpCx, handle: HandleId, range: Range<u64>) -> Result<Bytes, FsError> {
        let file = self.file(handle)?;
        self.read_open(cx, &file, range).await
    }

    async fn write(&self, cx: &OpCx, handle: HandleId, at: u64, data: Bytes) -> Result<u32, FsError> {
        let length = data.len() as u64;
        let end = end_of_write(at, length)?;
        if cx.kill_privileges {
            let ino = self.file(handle)?.ino;
            self.take_privileges(cx, ino).await?;
        }
        if !self.drive.objects.has_room(length) && !self.drive.make_room(length).await {
            return Err(FsErrorKind::NoSpace.into());
        }
        self.change(handle, |file, _| {
            file.write_all_at(&data, at)?;
            Ok(Sized::AtLeast(end))
        })
        .await?;
        Ok(u32::try_from(length).unwrap_or(u32::MAX))
    }

    fn write_now(&self, cx: &OpCx, handle: HandleId, at: u64, data: &[u8]) -> Option<Result<u32, FsError>> {
        let length = data.len() as u64;
        let end = end_of_write(at, length).ok()?;
        let file = self.drive.handles.get(handle)?;
        if !file.may_write || file.is_stale() {
            return None;
        }
        if cx.kill_privileges {
            let perm = self.drive.row(file.ino).ok()?.perm;
            if perm.is_none_or(|perm| without_set_id(perm) != perm) {
                return None;
            }
        }
        let own = file.own().filter(|own| own.is_writing())?;
        if self.drive.spent(length) && !self.drive.objects.has_room(length) {
            return None;
        }
        let done = own.change(now_ns(), |file, _| {
            file.write_all_at(data, at)?;
            Ok(Sized::AtLeast(end))
        })?;
        self.drive.sync_ahead(&own, length);
        Some(match done {
            Ok(()) => Ok(u32::try_from(length).unwrap_or(u32::MAX)),
            Err(e) => Err(local_error(e)),
        })
    }

    async fn flush(&self, _cx: &OpCx, handle: HandleId) -> Result<(), FsError> {
        let file = self.file(handle)?;
        match self.drive.locals.get(file.ino).filter(|_| file.may_write) {
            Some(own) => {
                let closed = self.drive.closed_by_user(&own).await;
                closed.inspect_err(|_| self.drive.close_later(&own))
            }
            None => Ok(()),
        }
    }

    async fn fsync(&self, _cx: &OpCx, handle: HandleId, _data_only: bool) -> Result<(), FsError> {
        let file = self.file(handle)?;
        if let Some(own) = self.drive.locals.get(file.ino) {
            let publishes = !self.drive.publish_names(file.ino).map_err(state_error)?.is_empty();
            if publishes {
                // As good as a close: what is promised now is to be sent, should the drive end before that.
                self.drive.closed(&own).await?;
            }
            self.drive.sync_bytes(&own).await?;
        }
        self.drive.sync_rows().await
    }

    async fn cleanup(&self, cx: &OpCx, handle: HandleId) -> Result<(), FsError> {
        let file = self.file(handle)?;
        if file.end_native() {
            // It was closed, counted as whole, and written on through a copy of the handle.
            self.drive.writable(file.ino, u64::MAX).await?;
        }
        // What came through a mapping that outlived the close.
        self.flush(cx, handle).await
    }

    fn release(&self, handle: HandleId) {
        let Some(file) = self.drive.handles.remove(handle) else {
            return;
        };
        let ino = file.ino;
        let may_write = file.may_write;
        // Of a host that ended without a word.
        file.end_native();
        if may_write
            && let Some(own) = file.own().filter(|own| own.is_writing())
            && !self.drive.handles.has_writer(ino)
        {
            // Whatever was asked to be written down while the handle was there did not count.
            self.drive.settle_soon(&own);
        }
        if file.is_followed()
            && let Source::Site(content) = file.source()
        {
            let was_read = file.is_native() || file.was_read(content.content().len());
            self.drive.sequences.closed(ino, was_read);
        }
        if file.was_cold()
            && let (Some(opener), Source::Site(content)) = (file.opener(), file.source())
        {
            self.drive.firewall.closed(opener, &file, content.content().len());
        }
        drop(file);
        self.drive.locals.forget(ino);
        if self
            .drive
            .tree
            .node(ino)
            .is_ok_and(|node| node.is_some_and(|node| node.nlink == 0))
        {
            self.drive.drop_if_unused(ino);
        } else if may_write {
            self.drive.wake_transfers();
        }
    }

    async fn create(
        &self,
        cx: &OpCx,
        parent: NodeId,
        name: &OsStr,
        new: NewNode,
        perm: u16,
        options: OpenOptions,
    ) -> Result<(Entry, Option<Opened>), FsError> {
        let is_file = new == NewNode::File;
        let place = self.drive.place_of(ino_of(parent), name)?;
        let (node, own) = self.drive.make(cx, &place, new, perm, options.write).await?;
        let opened = match own {
            _ if !is_file || !(options.read || options.write) => None,
            Some(own) => Some(self.open_own(self.drive.node_for(&node), &node, &own, options).await?),
            None => {
                let own = self.drive.own_file(&node)?;
                Some(self.open_own(self.drive.node_for(&node), &node, &own, options).await?)
            }
        };
        let entry = Entry {
            attr: self.attr(&self.drive.as_written(node)),
            stored_name: None,
        };
        Ok((entry, opened))
    }

    async fn link(&self, _cx: &OpCx, node: NodeId, parent: NodeId, name: &OsStr) -> Result<Entry, FsError> {
        let place = self.drive.place_of(ino_of(parent), name)?;
        let from = self.drive.place(ino_of(node)).map_err(state_error)?;
        if from.is_some_and(|(project, _)| project.root != place.project.root) {
            return Err(FsErrorKind::CrossDevice.into());
        }
        let node = self.drive.add_name(ino_of(node), &place).await?;
        Ok(Entry {
            attr: self.attr(&self.drive.as_written(node)),
            stored_name: None,
        })
    }

    async fn can_remove(&self, _cx: &OpCx, node: NodeId) -> Result<(), FsError> {
        self.drive.check_writable(ino_of(node))
    }

    async fn remove(&self, _cx: &OpCx, parent: NodeId, name: &OsStr, dir: bool) -> Result<(), FsError> {
        let place = self.drive.place_of(ino_of(parent), name)?;
        self.drive.remove_name(&place, dir).await
    }

    async fn rename(
        &self,
        _cx: &OpCx,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        options: RenameOptions,
    ) -> Result<(), FsError> {
        let from = self.drive.place_of(ino_of(from.0), from.1)?;
        let to = self.drive.place_of(ino_of(to.0), to.1)?;
        self.drive.move_name(&from, &to, options).await
    }

    async fn statfs(&self, _cx: &OpCx) -> Result<Space, FsError> {
        let (total_bytes, free_bytes) = self.drive.space();
        // What is written has to fit here first.
        let available_bytes = self.drive.objects.space().1.min(free_bytes);
        let files = self.drive.tree.counts().map_err(state_error)?.entries;
        Ok(Space {
            total_bytes,
            free_bytes,
            available_bytes,
            files,
            free_files: i64::MAX.unsigned_abs() - files,
            name_max: 255,
        })
    }

    async fn seek(&self, _cx: &OpCx, handle: HandleId, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        let file = self.file(handle)?;
        let len = match file.source() {
            Source::Own(own) => return seek_own(&own, offset, to),
            // The whole file is data: a hole at the site is not known here, and one in the cache is only "not yet".
            Source::Site(content) => content.content().len(),
        };
        match to {
            _ if offset >= len => Err(FsErrorKind::PastEnd.into()),
            SeekTo::Data => Ok(offset),
            SeekTo::Hole => Ok(len),
        }
    }

    async fn fallocate(&self, cx: &OpCx, handle: HandleId, how: Allocate, range: Range<u64>) -> Result<(), FsError> {
        if range.end > i64::MAX.unsigned_abs() {
            return Err(FsErrorKind::FileTooLarge.into());
        }
        let length = range.end - range.start;
        let takes = matches!(how, Allocate::Extend | Allocate::KeepSize);
        if takes && !self.drive.objects.has_room(length) && !self.drive.make_room(length).await {
            return Err(FsErrorKind::NoSpace.into());
        }
        self.take_privileges(cx, self.file(handle)?.ino).await?;
        use rustix::fs::FallocateFlags as F;
        let (flags, size) = match how {
            Allocate::Extend => (F::empty(), Sized::AtLeast(range.end)),
            Allocate::KeepSize => (F::KEEP_SIZE, Sized::AtLeast(0)),
            Allocate::PunchHole => (F::PUNCH_HOLE | F::KEEP_SIZE, Sized::AtLeast(0)),
            Allocate::Zero => (F::ZERO_RANGE, Sized::AtLeast(range.end)),
            Allocate::ZeroKeepSize => (F::ZERO_RANGE | F::KEEP_SIZE, Sized::AtLeast(0)),
        };
        self.change(handle, move |file, _| {
            rustix::fs::fallocate(file, flags, range.start, length)?;
            Ok(size)
        })
        .await
    }

    async fn fsyncdir(&self, _cx: &OpCx, _dir: NodeId) -> Result<(), FsError> {
        self.drive.sync_rows().await
    }

    async fn getxattr(&self, _cx: &OpCx, node: NodeId, name: &OsStr) -> Result<Bytes, FsError> {
        if let Some(asked) = xattr::Virtual::from_name(name) {
            let node = self.node(node)?;
            return xattr::value(&self.drive, &node, asked)
                .map(Bytes::from)
                .ok_or_else(|| FsErrorKind::NoAttr.into());
        }
        if xattr::is_reserved(name) {
            return Err(FsErrorKind::NoAttr.into());
        }
        let value = self.drive.store.read(|txn| txn.xattr(ino_of(node), name.as_bytes()));
        let value = value.map_err(state_error)?.ok_or(FsErrorKind::NoAttr)?;
        Ok(Bytes::from(value))
    }

    async fn listxattr(&self, _cx: &OpCx, node: NodeId) -> Result<Vec<OsString>, FsError> {
        let names = self
            .drive
            .store
            .read(|txn| txn.xattrs(ino_of(node)))
            .map_err(state_error)?;
        Ok(names.into_iter().map(OsString::from_vec).collect())
    }

    async fn setxattr(&self, cx: &OpCx, node: NodeId, name: &OsStr, value: Bytes) -> Result<(), FsError> {
        let ino = ino_of(node);
        self.node(node)?;
        // A pin changes nothing of the file, so no zone is in its way.
        if xattr::Virtual::from_name(name) == Some(xattr::Virtual::Pin) {
            return xattr::set_pin(&self.drive, ino, &value, cx.uid).await;
        }
        self.drive.check_writable(ino)?;
        xattr::check_settable(name, &value)?;
        let (name, now) = (name.as_bytes().to_vec(), now_ns());
        self.drive
            .edit(false, move |txn| txn.set_xattr(ino, &name, &value, now))
            .await
    }

    async fn removexattr(&self, _cx: &OpCx, node: NodeId, name: &OsStr) -> Result<(), FsError> {
        let ino = ino_of(node);
        if xattr::Virtual::from_name(name) == Some(xattr::Virtual::Pin) {
            return xattr::remove_pin(&self.drive, ino).await;
        }
        self.drive.check_writable(ino)?;
        if xattr::is_reserved(name) {
            return Err(FsErrorKind::NotPermitted.into());
        }
        let (name, now) = (name.as_bytes().to_vec(), now_ns());
        let was_there = self
            .drive
            .edit(false, move |txn| txn.remove_xattr(ino, &name, now))
            .await?;
        if was_there {
            Ok(())
        } else {
            Err(FsErrorKind::NoAttr.into())
        }
    }
}

/// Where data or a hole of a file that is here begins, as its own disk tells.
fn seek_own(own: &LocalFile, offset: u64, to: SeekTo) -> Result<u64, FsError> {
    let size = own.size();
    if offset >= size {
        return Err(FsErrorKind::PastEnd.into());
    }
    let Some(file) = own.file() else {
        return Err(FsErrorKind::PastEnd.into());
    };
    let from = match to {
        SeekTo::Data => rustix::fs::SeekFrom::Data(offset),
        SeekTo::Hole => rustix::fs::SeekFrom::Hole(offset),
    };
    match rustix::fs::seek(&file, from) {
        Ok(at) => Ok(at.min(size)),
        Err(rustix::io::Errno::NXIO) => Err(FsErrorKind::PastEnd.into()),
        Err(e) => Err(FsError::new(FsErrorKind::Io, std::io::Error::from(e))),
    }
}

/// Nanoseconds since 1970; what lies beyond the years 1677 to 2262 becomes the nearest of them.
fn ns(at: SystemTime) -> i64 {
    let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => ns(after),
        Err(before) => -ns(before.duration()),
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

/// The one table from what the store says to what a caller is told.
pub(super) fn state_error(e: StateError) -> FsError {
    let kind = match &e {
        StateError::Refused(refusal) => match refusal {
            Refusal::NotFound => FsErrorKind::NotFound,
            Refusal::Exists => FsErrorKind::Exists,
            Refusal::NotDir => FsErrorKind::NotDir,
            Refusal::IsDir => FsErrorKind::IsDir,
            Refusal::NotEmpty => FsErrorKind::NotEmpty,
            Refusal::Loop => FsErrorKind::Invalid,
            Refusal::TooManyLinks => FsErrorKind::TooManyLinks,
            Refusal::AtRemote => FsErrorKind::NotPermitted,
            Refusal::NotListed | Refusal::Changed => FsErrorKind::Busy,
        },
        StateError::Full(_) => FsErrorKind::NoSpace,
        StateError::NoSuchNode(_) => FsErrorKind::NotFound,
        _ => FsErrorKind::Io,
    };
    FsError::new(kind, e)
}

/// The one table from a failed hydration to what a reader is told.
pub(super) fn hydrate_error(e: HydrateError) -> FsError {
    let kind = match &e {
        HydrateError::Offline { .. } => FsErrorKind::Offline,
        HydrateError::Deadline(_) => FsErrorKind::TimedOut,
        HydrateError::Mismatch(_) => FsErrorKind::Io,
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
