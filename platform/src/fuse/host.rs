//! [`FuseHost`]: every FUSE request as a call of [`VirtualFs`], answered through the bridge.
//!
//! Owns: the shape of each reply, what is refused without asking the engine. Refuses to
//! know: mounting, unmounting, who is told about changes.
//!
//! Invariant: no handler blocks and no lock is held across a reply, so a notification (notify.rs) can wait for a handler
//! but never the reverse.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::caller::unless_given_up;
use super::capabilities;
use super::convert::{self, errno, file_attr, op_cx};
use super::listing::{self, PageHint};
use super::shared::Shared;
use crate::bridge::{Asked, Bridge};
use crate::error::{FsError, FsErrorKind};
use crate::types::{Attr, CaseMode, Entry, HandleId, NewNode, NodeId, NodeKind, OpCx, OpenOptions, Opened, SetAttr};
use crate::vfs::VirtualFs;

/// Node ids are never reused, so one generation does.
const GENERATION: Generation = Generation(0);

/// How a file is opened that the kernel reads by itself; of its closes we need not hear either. (Of a writer's we do: a
/// close is how a save is noticed.)
fn native_flags(options: OpenOptions) -> FopenFlags {
    if options.write {
        FopenFlags::empty()
    } else {
        FopenFlags::FOPEN_NOFLUSH
    }
}

/// How long the kernel may remember names and attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ttls {
    pub(super) entry: Duration,
    pub(super) dir: Duration,
    pub(super) negative: Duration,
}

impl Ttls {
    fn of(&self, attr: &Attr) -> &Duration {
        if attr.volatile {
            &Duration::ZERO
        } else if attr.kind == NodeKind::Dir {
            &self.dir
        } else {
            &self.entry
        }
    }

    /// How long the attributes in an entry may be remembered: not at all where they show the node's number as the file's.
    /// The kernel asks for them apart then, and is told the right one.
    fn of_attr_in_entry(&self, attr: &Attr) -> &Duration {
        if attr.number == attr.node.0 {
            self.of(attr)
        } else {
            &Duration::ZERO
        }
    }
}

/// When requests are given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub(super) request: Duration,
    pub(super) patient: Duration,
}

impl Deadlines {
    /// The deadline of a request, by the name under which its handler asks.
    fn of(&self, op: &str) -> Duration {
        match op {
            // What changes bytes, or waits for their being durable, may have to copy the file from a site first.
            "open" | "create" | "write" | "setattr" | "fallocate" | "flush" | "fsync" | "fsyncdir" | "release" => {
                self.patient
            }
            _ => self.request,
        }
    }
}

pub(super) struct FuseHost {
    fs: Arc<dyn VirtualFs>,
    bridge: Arc<Bridge>,
    shared: Arc<Shared>,
    ttls: Ttls,
    deadlines: Deadlines,
    native_wanted: bool,
    no_opendir: bool,
    plain_page: Arc<PageHint>,
    plus_page: Arc<PageHint>,
}

impl FuseHost {
    pub(super) fn new(
        fs: Arc<dyn VirtualFs>,
        bridge: Arc<Bridge>,
        shared: Arc<Shared>,
        ttls: Ttls,
        deadlines: Deadlines,
        native_wanted: bool,
    ) -> Self {
        Self {
            fs,
            bridge,
            shared,
            ttls,
            deadlines,
            native_wanted,
            no_opendir: false,
            plain_page: Arc::new(PageHint::plain()),
            plus_page: Arc::new(PageHint::plus()),
        }
    }

    fn answer<T: Send + 'static>(
        &self,
        op: &'static str,
        node: INodeNo,
        fut: impl Future<Output = Result<T, FsError>> + Send + 'static,
        reply: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) {
        let asked = Asked { op, node: node.0 };
        self.bridge.answer(asked, self.deadlines.of(op), fut, reply);
    }

    fn answer_empty(
        &self,
        op: &'static str,
        node: INodeNo,
        fut: impl Future<Output = Result<(), FsError>> + Send + 'static,
        reply: ReplyEmpty,
    ) {
        self.answer(op, node, fut, move |out| match out {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        });
    }

    /// Answers a request whose result is an entry that exists.
    fn answer_entry(
        &self,
        op: &'static str,
        node: INodeNo,
        fut: impl Future<Output = Result<Entry, FsError>> + Send + 'static,
        reply: ReplyEntry,
    ) {
        let ttls = self.ttls;
        self.answer(op, node, fut, move |out| match out {
            Ok(entry) => reply_entry(reply, &ttls, &entry.attr),
            Err(e) => reply.error(errno(&e)),
        });
    }

    /// Makes a folder, a link or a special node, or a file that nobody opened.
    fn make(&self, op: &'static str, cx: OpCx, at: (INodeNo, &OsStr), new: NewNode, perm: u16, reply: ReplyEntry) {
        let (fs, parent, name) = (Arc::clone(&self.fs), at.0, at.1.to_owned());
        let fut = async move {
            convert::check_name(&name)?;
            convert::check_new(&new)?;
            let options = OpenOptions::default();
            let (entry, opened) = fs.create(&cx, NodeId(parent.0), &name, new, perm, options).await?;
            if let Some(opened) = opened {
                let _release = Undo(|| fs.release(opened.handle));
                fs.cleanup(&cx, opened.handle).await?;
            }
            Ok(entry)
        };
        self.answer_entry(op, parent, fut, reply);
    }

    fn remove(&self, op: &'static str, req: &Request, parent: INodeNo, name: &OsStr, dir: bool, reply: ReplyEmpty) {
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), name.to_owned());
        let fut = async move {
            convert::check_name(&name)?;
            fs.remove(&cx, NodeId(parent.0), &name, dir).await
        };
        self.answer_empty(op, parent, fut, reply);
    }

    /// Answers `getxattr` and `listxattr`: the kernel first asks for the size (0), then for the bytes.
    fn answer_xattr(
        &self,
        op: &'static str,
        node: INodeNo,
        size: u32,
        fut: impl Future<Output = Result<Bytes, FsError>> + Send + 'static,
        reply: ReplyXattr,
    ) {
        let sized = async move {
            let value = fut.await?;
            let len = u32::try_from(value.len()).map_err(|_| FsError::from(FsErrorKind::Range))?;
            if size != 0 && len > size {
                Err(FsErrorKind::Range.into())
            } else {
                Ok((len, value))
            }
        };
        self.answer(op, node, sized, move |out| match out {
            Ok((len, _)) if size == 0 => reply.size(len),
            Ok((_, value)) => reply.data(&value),
            Err(e) => reply.error(errno(&e)),
        });
    }
}

impl Filesystem for FuseHost {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = capabilities::negotiate(config, self.native_wanted)?;
        self.no_opendir = agreed.no_opendir;
        self.shared.native.agreed(agreed.native);
        Ok(())
    }

    fn destroy(&mut self) {
        // After an abort the kernel sends no release: the engine must not wait for one.
        for handle in self.shared.take_handles() {
            self.bridge
                .run(Asked { op: "release", node: 0 }, || self.fs.release(handle));
        }
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), name.to_owned());
        let fut = async move {
            convert::check_name(&name)?;
            let found = fs.lookup(&cx, NodeId(parent.0), &name, CaseMode::Exact);
            match unless_given_up(cx.pid, found).await {
                Ok(entry) => Ok(Some(entry)),
                Err(e) if e.kind == FsErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        };
        let ttls = self.ttls;
        let can_forget_all = self.shared.can_forget_all.load(Ordering::Relaxed);
        let negative_ttl = convert::negative_ttl(NodeId(parent.0), self.ttls.negative, can_forget_all);
        self.answer("lookup", parent, fut, move |out| match out {
            Ok(Some(entry)) => reply_entry(reply, &ttls, &entry.attr),
            Ok(None) if negative_ttl.is_zero() => reply.error(Errno::ENOENT),
            Ok(None) => reply.entry(&negative_ttl, &convert::negative(), GENERATION),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.bridge.run(
            Asked {
                op: "forget",
                node: ino.0,
            },
            || self.fs.forget(NodeId(ino.0), nlookup),
        );
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let ttls = self.ttls;
        let fut = async move { fs.getattr(&cx, NodeId(ino.0), fh.map(handle_id)).await };
        self.answer("getattr", ino, fut, move |out| match out {
            Ok(attr) => reply.attr(ttls.of(&attr), &convert::shown_attr(&attr)),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let ttls = self.ttls;
        let set = SetAttr {
            size,
            perm: mode.map(convert::perm),
            uid,
            gid,
            atime: atime.map(convert::time),
            mtime: mtime.map(convert::time),
        };
        let fut = async move { unless_given_up(cx.pid, fs.setattr(&cx, NodeId(ino.0), fh.map(handle_id), set)).await };
        self.answer("setattr", ino, fut, move |out| match out {
            Ok(attr) => reply.attr(ttls.of(&attr), &convert::shown_attr(&attr)),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move { fs.readlink(&cx, NodeId(ino.0)).await };
        self.answer("readlink", ino, fut, move |out| match out {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match convert::new_node(mode, rdev) {
            Ok(new) => self.make("mknod", op_cx(req), (parent, name), new, convert::perm(mode), reply),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.make(
            "mkdir",
            op_cx(req),
            (parent, name),
            NewNode::Dir,
            convert::perm(mode),
            reply,
        );
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = NewNode::Symlink(target.as_os_str().to_owned());
        self.make("symlink", op_cx(req), (parent, link_name), new, 0o777, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove("unlink", req, parent, name, false, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove("rmdir", req, parent, name, true, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let (name, newname) = (name.to_owned(), newname.to_owned());
        let fut = async move {
            convert::check_name(&name)?;
            convert::check_name(&newname)?;
            let options = convert::rename_options(flags)?;
            fs.rename(&cx, (NodeId(parent.0), &name), (NodeId(newparent.0), &newname), options)
                .await
        };
        self.answer_empty("rename", parent, fut, reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), newname.to_owned());
        let fut = async move {
            convert::check_name(&name)?;
            fs.link(&cx, NodeId(ino.0), NodeId(newparent.0), &name).await
        };
        self.answer_entry("link", ino, fut, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, cx, shared) = (Arc::clone(&self.fs), op_cx(req), Arc::clone(&self.shared));
        let mut options = convert::open_options(flags.0);
        options.takes_backing = shared.native.is_on() && !convert::is_synchronous(flags.0);
        let fut = async move { fs.open(&cx, NodeId(ino.0), options).await };
        self.answer("open", ino, fut, move |out| match out {
            Ok(opened) => {
                let may_keep = shared.opened(NodeId(ino.0), opened.handle);
                if opened.forget_attributes {
                    shared.forget_attributes(NodeId(ino.0));
                }
                let native = &shared.native;
                let lent = native.opened(NodeId(ino.0), opened.backing.as_ref(), |file| reply.open_backing(file));
                let handle = FileHandle(opened.handle.0);
                match lent {
                    Some(lent) => reply.opened_passthrough(handle, native_flags(options), &lent),
                    None => reply.opened(handle, convert::fopen_flags(options, &opened, may_keep)),
                }
            }
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), name.to_owned());
        let shared = Arc::clone(&self.shared);
        let (mut options, perm, ttls) = (convert::open_options(flags), convert::perm(mode), self.ttls);
        options.takes_backing = shared.native.is_on() && !convert::is_synchronous(flags);
        let exclusive = convert::is_exclusive(flags);
        let fut = async move {
            convert::check_name(&name)?;
            create_or_open(&*fs, &cx, NodeId(parent.0), &name, perm, options, exclusive).await
        };
        self.answer("create", parent, fut, move |out| match out {
            Ok(Some((entry, opened))) => {
                let may_keep = shared.opened(entry.attr.node, opened.handle);
                let flags = convert::fopen_flags(options, &opened, may_keep);
                if opened.forget_attributes {
                    shared.forget_attributes(entry.attr.node);
                }
                let (native, handle) = (&shared.native, FileHandle(opened.handle.0));
                let (ttl, attr) = (ttls.of_attr_in_entry(&entry.attr), file_attr(&entry.attr));
                let node = entry.attr.node;
                match native.opened(node, opened.backing.as_ref(), |file| reply.open_backing(file)) {
                    Some(lent) => {
                        reply.created_passthrough(ttl, &attr, GENERATION, handle, native_flags(options), &lent);
                    }
                    None => reply.created(ttl, &attr, GENERATION, handle, flags),
                }
            }
            // The kernel then looks the path up again, past its caches, and follows or refuses what it finds.
            Ok(None) => reply.error(Errno::ESTALE),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.shared.native.answers();
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let range = offset..offset.saturating_add(u64::from(size));
        let fut = async move { unless_given_up(cx.pid, fs.read(&cx, handle_id(fh), range)).await };
        self.answer("read", ino, fut, move |out| match out {
            // The kernel fails a reply that is longer than asked.
            Ok(bytes) => reply.data(bytes.get(..size as usize).unwrap_or(&bytes)),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.shared.native.writes();
        let cx = convert::write_cx(req, write_flags);
        let asked = Asked {
            op: "write",
            node: ino.0,
        };
        let now = || self.fs.write_now(&cx, handle_id(fh), offset, data);
        match self.bridge.answer_now(asked, now) {
            Some(Ok(written)) => return reply.written(written),
            Some(Err(e)) => return reply.error(errno(&e)),
            None => {}
        }
        let fs = Arc::clone(&self.fs);
        // The event loop's buffer takes the next request as soon as we return.
        let data = Bytes::copy_from_slice(data);
        let fut = async move { unless_given_up(cx.pid, fs.write(&cx, handle_id(fh), offset, data)).await };
        self.answer("write", ino, fut, move |out| match out {
            Ok(written) => reply.written(written),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // Never ENOSYS: that would silence every close of this mount, and `close` is how a save is noticed.
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move {
            match fs.flush(&cx, handle_id(fh)).await {
                Err(e) if e.kind == FsErrorKind::Unsupported => Ok(()),
                out => out,
            }
        };
        self.answer_empty("flush", ino, fut, reply);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (fs, cx, shared) = (Arc::clone(&self.fs), op_cx(req), Arc::clone(&self.shared));
        let last = Arc::clone(&self.fs);
        let fut = async move { fs.cleanup(&cx, handle_id(fh)).await };
        // Whatever became of the cleanup, the handle is gone.
        self.answer("release", ino, fut, move |out| {
            shared.released(handle_id(fh));
            last.release(handle_id(fh));
            match out {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move { fs.fsync(&cx, handle_id(fh), datasync).await };
        self.answer_empty("fsync", ino, fut, reply);
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Never ENOSYS: that would make every later one of this mount a success unasked.
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move { fs.fsyncdir(&cx, NodeId(ino.0)).await };
        self.answer_empty("fsyncdir", ino, fut, reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move {
            let (how, range) = convert::allocation(mode, offset, length)?;
            unless_given_up(cx.pid, fs.fallocate(&cx, handle_id(fh), how, range)).await
        };
        self.answer_empty("fallocate", ino, fut, reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            // Latches: the kernel opens no folder here again, and caches listings by itself.
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            );
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (fs, cx, hint) = (Arc::clone(&self.fs), op_cx(req), Arc::clone(&self.plain_page));
        let fut = async move {
            let failed = listing::fill(&*fs, &cx, NodeId(ino.0), offset, &hint, |row| {
                reply.add(
                    INodeNo(row.entry_attr().map_or(row.node().0, |attr| attr.number)),
                    row.offset(),
                    convert::file_type(row.kind()),
                    row.name(),
                )
            })
            .await;
            Ok((reply, failed))
        };
        self.answer("readdir", ino, fut, |out| match out {
            Ok((reply, Some(e))) => reply.error(errno(&e)),
            Ok((reply, None)) => reply.ok(),
            // The reply went down with the future and answered EIO.
            Err(_) => {}
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let (fs, cx, hint) = (Arc::clone(&self.fs), op_cx(req), Arc::clone(&self.plus_page));
        let ttls = self.ttls;
        let fut = async move {
            let failed = listing::fill(&*fs, &cx, NodeId(ino.0), offset, &hint, |row| {
                let ttl = row.entry_attr().map_or(&ttls.dir, |attr| ttls.of_attr_in_entry(attr));
                reply.add(
                    INodeNo(row.node().0),
                    row.offset(),
                    row.name(),
                    ttl,
                    &row.attr(),
                    GENERATION,
                )
            })
            .await;
            Ok((reply, failed))
        };
        self.answer("readdirplus", ino, fut, |out| match out {
            Ok((reply, Some(e))) => reply.error(errno(&e)),
            Ok((reply, None)) => reply.ok(),
            Err(_) => {}
        });
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move { fs.statfs(&cx).await };
        self.answer("statfs", ino, fut, move |out| match out {
            Ok(space) => {
                let s = convert::statfs(&space);
                let (files, free) = (space.files.saturating_add(space.free_files), space.free_files);
                reply.statfs(
                    s.blocks,
                    s.free,
                    s.available,
                    files,
                    free,
                    s.block,
                    space.name_max,
                    s.block,
                );
            }
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if convert::is_never_present(name) {
            reply.error(Errno::EOPNOTSUPP);
            return;
        }
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), name.to_owned());
        let value = Bytes::copy_from_slice(value);
        let fut = async move {
            let node = NodeId(ino.0);
            // XATTR_CREATE is 1 and XATTR_REPLACE is 2; without either there is nothing to find out first.
            if flags != 0 {
                match fs.getxattr(&cx, node, &name).await {
                    Ok(_) if flags & 1 != 0 => return Err(FsErrorKind::Exists.into()),
                    Err(e) if flags & 2 != 0 || e.kind != FsErrorKind::NoAttr => return Err(e),
                    Ok(_) | Err(_) => {}
                }
            }
            fs.setxattr(&cx, node, &name, value).await
        };
        self.answer_empty("setxattr", ino, fut, reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if convert::is_never_present(name) {
            reply.error(Errno::ENODATA);
            return;
        }
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), name.to_owned());
        let fut = async move { fs.getxattr(&cx, NodeId(ino.0), &name).await };
        self.answer_xattr("getxattr", ino, size, fut, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move { Ok(join_names(fs.listxattr(&cx, NodeId(ino.0)).await?)) };
        self.answer_xattr("listxattr", ino, size, fut, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if convert::is_never_present(name) {
            reply.error(Errno::ENODATA);
            return;
        }
        let (fs, cx, name) = (Arc::clone(&self.fs), op_cx(req), name.to_owned());
        let fut = async move { fs.removexattr(&cx, NodeId(ino.0), &name).await };
        self.answer_empty("removexattr", ino, fut, reply);
    }

    fn lseek(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (fs, cx) = (Arc::clone(&self.fs), op_cx(req));
        let fut = async move {
            let to = convert::seek_to(whence)?;
            let from = u64::try_from(offset).map_err(|_| FsError::from(FsErrorKind::PastEnd))?;
            let at = fs.seek(&cx, handle_id(fh), from, to).await?;
            i64::try_from(at).map_err(|e| FsError::new(FsErrorKind::Io, e))
        };
        self.answer("lseek", ino, fut, move |out| match out {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(errno(&e)),
        });
    }

    // What is not here is answered ENOSYS by fuser, once: the kernel then stops asking and does the right thing by itself.
    // access: mounted with default_permissions, it judges by mode and owner. copy_file_range: copied through the page
    // cache. getlk, setlk: not asked for, locks are local. bmap, ioctl, poll: nothing to offer.
}

fn handle_id(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

fn reply_entry(reply: ReplyEntry, ttls: &Ttls, attr: &Attr) {
    let (attr_ttl, entry_ttl) = (ttls.of_attr_in_entry(attr), ttls.of(attr));
    reply.entry_with_ttls(attr_ttl, entry_ttl, &file_attr(attr), GENERATION);
}

/// Takes a half-done request back when dropped; the host drops a future wherever it waits at its deadline.
struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The kernel asks to create what its caches say is missing; where another site was faster and the caller did not insist
/// on being first (O_EXCL), its `open` must find the file that is there. `None`: what is there is not a file, or is gone
/// again. The kernel fails a reply about anything else, and would neither release its handle nor forget it.
async fn create_or_open(
    fs: &dyn VirtualFs,
    cx: &OpCx,
    parent: NodeId,
    name: &OsStr,
    perm: u16,
    options: OpenOptions,
    exclusive: bool,
) -> Result<Option<(Entry, Opened)>, FsError> {
    match fs.create(cx, parent, name, NewNode::File, perm, options).await {
        Ok((entry, Some(opened))) => Ok(Some((entry, opened))),
        Ok((_, None)) => Err(FsError::new(FsErrorKind::Io, "a new file came without a handle")),
        Err(e) if e.kind == FsErrorKind::Exists && !exclusive => {
            let entry = match fs.lookup(cx, parent, name, CaseMode::Exact).await {
                Err(e) if e.kind == FsErrorKind::NotFound => return Ok(None),
                found => found?,
            };
            let node = entry.attr.node;
            let forget = Undo(|| fs.forget(node, 1));
            if entry.attr.kind != NodeKind::File {
                return Ok(None);
            }
            let opened = fs.open(cx, node, options).await?;
            let release = Undo(|| fs.release(opened.handle));
            // The reply says how long the file is now, which an open that truncates changed.
            let attr = fs.getattr(cx, node, Some(opened.handle)).await?;
            std::mem::forget((forget, release));
            Ok(Some((Entry { attr, ..entry }, opened)))
        }
        Err(e) => Err(e),
    }
}

fn join_names(names: Vec<OsString>) -> Bytes {
    let mut joined = Vec::new();
    for name in names {
        joined.extend_from_slice(name.as_encoded_bytes());
        joined.push(0);
    }
    joined.into()
}
