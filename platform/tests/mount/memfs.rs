//! A drive in memory: a complete, naive `VirtualFs`, with files that misbehave on purpose.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{
    Allocate, Attr, Backing, CaseMode, DirEntry, Entry, HandleId, NewNode, NodeId, NodeKind, OpCx, OpenOptions, Opened,
    RenameOptions, SeekTo, SetAttr, Space, without_set_id,
};
use backlot_platform::vfs::VirtualFs;
use bytes::Bytes;
use tokio::sync::Barrier;

pub(crate) const BIG_ENTRIES: u64 = 10_000;
pub(crate) const SLOW: Duration = Duration::from_millis(300);
pub(crate) const LONG_NAME: usize = 255;
/// Longer than any file here may be.
pub(crate) const TOO_LARGE: u64 = 1 << 40;
pub(crate) const RAW_NAME: &[u8] = b"caf\xe9-\xff\xfe.exr";

struct Node {
    attr: Attr,
    data: Vec<u8>,
    target: OsString,
    parent: NodeId,
    /// By cookie, which only grows.
    entries: BTreeMap<u64, (OsString, NodeId)>,
    xattrs: HashMap<OsString, Bytes>,
    readonly: bool,
    /// Whoever only reads gets this.
    backing: Option<Backing>,
    /// Its names lead to another node now.
    left: bool,
}

#[derive(Default)]
struct Tree {
    nodes: HashMap<NodeId, Node>,
    handles: HashMap<HandleId, NodeId>,
    last: u64,
    last_cookie: u64,
    calls: HashMap<&'static str, u64>,
}

pub(crate) struct MemFs {
    tree: Mutex<Tree>,
    pair: Arc<Barrier>,
}

impl Node {
    /// Notes that `cx` changed the bytes.
    fn changed(&mut self, cx: &OpCx) {
        self.attr.size = self.data.len() as u64;
        if cx.kill_privileges {
            self.attr.perm = without_set_id(self.attr.perm);
        }
    }

    fn resize(&mut self, size: u64) {
        self.data.resize(usize::try_from(size).expect("small"), 0);
    }
}

fn fail<T>(kind: FsErrorKind) -> Result<T, FsError> {
    Err(kind.into())
}

impl Tree {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Cookies follow each other without a gap, so that one too many or too few shows.
    fn next_cookie(&mut self) -> u64 {
        self.last_cookie += 1;
        self.last_cookie
    }

    fn node(&mut self, node: NodeId) -> Result<&mut Node, FsError> {
        self.nodes.get_mut(&node).ok_or(FsErrorKind::NotFound.into())
    }

    fn dir(&mut self, node: NodeId) -> Result<&mut Node, FsError> {
        let node = self.node(node)?;
        if node.attr.kind == NodeKind::Dir {
            Ok(node)
        } else {
            fail(FsErrorKind::NotDir)
        }
    }

    fn opened(&mut self, handle: HandleId) -> Result<&mut Node, FsError> {
        let node = *self.handles.get(&handle).ok_or(FsErrorKind::BadHandle)?;
        self.node(node)
    }

    fn find(&mut self, dir: NodeId, name: &OsStr) -> Result<(u64, NodeId), FsError> {
        let found = self.dir(dir)?.entries.iter().find(|(_, (n, _))| n == name);
        found
            .map(|(cookie, (_, node))| (*cookie, *node))
            .ok_or(FsErrorKind::NotFound.into())
    }

    /// Refuses what came by a name that leads elsewhere by now.
    fn named(&mut self, node: NodeId) -> Result<(), FsError> {
        if self.node(node)?.left {
            fail(FsErrorKind::Left)
        } else {
            Ok(())
        }
    }

    fn writable(&mut self, dir: NodeId) -> Result<(), FsError> {
        if self.node(dir)?.readonly {
            fail(FsErrorKind::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn add(&mut self, dir: NodeId, name: &OsStr, kind: NodeKind, data: &[u8], perm: u16) -> NodeId {
        let (node, cookie) = (NodeId(self.next()), self.next_cookie());
        let now = SystemTime::now();
        let readonly = self.nodes.get(&dir).is_some_and(|d| d.readonly);
        let attr = Attr {
            node,
            number: node.0,
            kind,
            size: data.len() as u64,
            allocated: (data.len() as u64).next_multiple_of(4096),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            perm,
            rdev: 0,
            nlink: if kind == NodeKind::Dir { 2 } else { 1 },
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            volatile: false,
        };
        let new = Node {
            attr,
            data: data.to_vec(),
            target: OsString::new(),
            parent: dir,
            entries: BTreeMap::new(),
            xattrs: HashMap::new(),
            readonly,
            backing: None,
            left: false,
        };
        self.nodes.insert(node, new);
        if let Some(dir) = self.nodes.get_mut(&dir) {
            dir.entries.insert(cookie, (name.to_owned(), node));
        }
        node
    }

    fn open(&mut self, cx: &OpCx, node: NodeId, options: OpenOptions) -> Result<Opened, FsError> {
        self.named(node)?;
        let handle = HandleId(self.next());
        let file = self.node(node)?;
        let lends = options.takes_backing && !options.write;
        let backing = file.backing.clone().filter(|_| lends);
        if file.attr.kind == NodeKind::Dir {
            return fail(FsErrorKind::IsDir);
        }
        if options.write && file.readonly {
            return fail(FsErrorKind::ReadOnly);
        }
        if options.truncate {
            file.data.clear();
            file.changed(cx);
        }
        self.handles.insert(handle, node);
        Ok(Opened {
            handle,
            keep_cache: true,
            uncached: false,
            forget_attributes: false,
            backing,
        })
    }

    fn add_link(&mut self, dir: NodeId, name: &OsStr, target: &OsStr, perm: u16) -> NodeId {
        let node = self.add(dir, name, NodeKind::Symlink, target.as_encoded_bytes(), perm);
        self.nodes.get_mut(&node).expect("just made").target = target.to_owned();
        node
    }

    fn touch(&mut self, node: NodeId) {
        if let Ok(node) = self.node(node) {
            node.attr.mtime = SystemTime::now();
        }
    }

    fn entry(&mut self, node: NodeId) -> Result<Entry, FsError> {
        Ok(Entry {
            attr: self.node(node)?.attr.clone(),
            stored_name: None,
        })
    }
}

impl MemFs {
    pub(crate) fn new() -> Self {
        let mut tree = Tree::default();
        let root = tree.add(NodeId(0), OsStr::new(""), NodeKind::Dir, b"", 0o755);
        assert_eq!(root, NodeId::ROOT);
        tree.nodes.get_mut(&root).expect("just made").parent = root;
        let mut file = |dir, name: &str, data: &[u8]| tree.add(dir, OsStr::new(name), NodeKind::File, data, 0o644);
        file(root, "hello", b"hello world\n");
        for name in [
            "slow-a",
            "slow-b",
            "pair-a",
            "pair-b",
            "stuck",
            "panic",
            "panic-late",
            "late",
        ] {
            file(root, name, &[7; 4096]);
        }
        file(root, "sparse", &[0; 1 << 20]);
        tree.add_link(root, OsStr::new("link"), OsStr::new("hello"), 0o777);
        let names = tree.add(root, OsStr::new("names"), NodeKind::Dir, b"", 0o755);
        for name in [vec![b'n'; LONG_NAME], RAW_NAME.to_vec()] {
            tree.add(names, &OsString::from_vec(name.clone()), NodeKind::File, &name, 0o644);
        }
        tree.add(root, OsStr::new("rw"), NodeKind::Dir, b"", 0o755);
        let ro = tree.add(root, OsStr::new("ro"), NodeKind::Dir, b"", 0o755);
        tree.nodes.get_mut(&ro).expect("just made").readonly = true;
        tree.add(ro, OsStr::new("file"), NodeKind::File, b"read me", 0o644);
        let big = tree.add(root, OsStr::new("big"), NodeKind::Dir, b"", 0o755);
        for i in 0..BIG_ENTRIES {
            tree.add(big, OsStr::new(&format!("f{i:05}")), NodeKind::File, b"", 0o644);
        }
        Self {
            tree: Mutex::new(tree),
            pair: Arc::new(Barrier::new(2)),
        }
    }

    fn tree(&self, call: &'static str) -> MutexGuard<'_, Tree> {
        let mut tree = self.tree.lock().expect("no panic under the lock");
        *tree.calls.entry(call).or_default() += 1;
        tree
    }

    // What happens behind the kernel's back.

    pub(crate) fn at(&self, path: &str) -> Option<NodeId> {
        let mut tree = self.tree("-");
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(NodeId::ROOT, |dir, name| {
            tree.find(dir, OsStr::new(name)).ok().map(|(_, n)| n)
        })
    }

    pub(crate) fn put(&self, dir: NodeId, name: &str, data: &[u8]) {
        let mut tree = self.tree("-");
        match tree.find(dir, OsStr::new(name)) {
            Ok((_, node)) => {
                let file = tree.node(node).expect("found");
                file.data = data.to_vec();
                file.attr.size = data.len() as u64;
                file.attr.mtime = SystemTime::now();
            }
            Err(_) => {
                tree.add(dir, OsStr::new(name), NodeKind::File, data, 0o644);
                tree.touch(dir);
            }
        }
    }

    pub(crate) fn put_link(&self, dir: NodeId, name: &str, target: &str) {
        self.tree("-")
            .add_link(dir, OsStr::new(name), OsStr::new(target), 0o777);
    }

    /// Adds a name without a trace in its folder's mtime, by which the kernel could notice by itself.
    pub(crate) fn sneak(&self, dir: NodeId, name: &str) {
        self.tree("-").add(dir, OsStr::new(name), NodeKind::File, b"", 0o644);
    }

    /// Gives a file bytes that the kernel may read by itself; ones that it refuses to, if `fits` is not set.
    pub(crate) fn lend(&self, dir: NodeId, name: &str, data: &[u8], fits: bool) {
        let mut file = tempfile::tempfile().expect("a temporary file");
        std::io::Write::write_all(&mut file, data).expect("written");
        if !fits {
            file = std::fs::File::open("/").expect("a folder");
        }
        self.put(dir, name, data);
        let mut tree = self.tree("-");
        let (_, node) = tree.find(dir, OsStr::new(name)).expect("just put");
        tree.node(node).expect("found").backing = Some(Backing(Arc::new(file)));
    }

    /// Makes a name lead to a new node with other bytes, which the kernel is not told of; the old node stays for those who
    /// have it open.
    pub(crate) fn move_on(&self, dir: NodeId, name: &str, data: &[u8]) {
        let mut tree = self.tree("-");
        let (cookie, old) = tree.find(dir, OsStr::new(name)).expect("it is there");
        let new = tree.add(dir, OsStr::new(name), NodeKind::File, data, 0o644);
        let number = tree.node(old).expect("found").attr.number;
        tree.node(new).expect("just made").attr.number = number;
        tree.node(old).expect("found").left = true;
        let dir = tree.dir(dir).expect("a folder");
        dir.entries.retain(|_, (_, node)| *node != new);
        dir.entries.insert(cookie, (name.into(), new));
    }

    pub(crate) fn del(&self, dir: NodeId, name: &str) {
        let mut tree = self.tree("-");
        let (cookie, _) = tree.find(dir, OsStr::new(name)).expect("it is there");
        tree.dir(dir).expect("a folder").entries.remove(&cookie);
    }

    pub(crate) fn calls(&self, op: &str) -> u64 {
        self.tree("-").calls.get(op).copied().unwrap_or_default()
    }

    pub(crate) fn open_handles(&self) -> usize {
        self.tree("-").handles.len()
    }

    fn name_of(&self, handle: HandleId) -> Result<String, FsError> {
        let mut tree = self.tree("-");
        let node = tree.opened(handle)?.attr.node;
        let names = tree.nodes.get(&NodeId::ROOT).expect("the root").entries.values();
        Ok(names
            .into_iter()
            .find(|(_, n)| *n == node)
            .map(|(s, _)| s.to_string_lossy().into_owned())
            .unwrap_or_default())
    }
}

#[async_trait]
impl VirtualFs for MemFs {
    async fn lookup(&self, _: &OpCx, parent: NodeId, name: &OsStr, _: CaseMode) -> Result<Entry, FsError> {
        let mut tree = self.tree("lookup");
        let (_, node) = tree.find(parent, name)?;
        tree.entry(node)
    }

    fn forget(&self, _: NodeId, _: u64) {
        drop(self.tree("forget"));
    }

    async fn getattr(&self, _: &OpCx, node: NodeId, _: Option<HandleId>) -> Result<Attr, FsError> {
        Ok(self.tree("getattr").node(node)?.attr.clone())
    }

    async fn setattr(&self, cx: &OpCx, node: NodeId, _: Option<HandleId>, set: SetAttr) -> Result<Attr, FsError> {
        let mut tree = self.tree("setattr");
        tree.named(node)?;
        tree.writable(node)?;
        let file = tree.node(node)?;
        if let Some(size) = set.size {
            file.resize(size);
            file.changed(cx);
        }
        if (set.uid.is_some() || set.gid.is_some()) && file.attr.kind != NodeKind::Dir {
            file.attr.perm = without_set_id(file.attr.perm);
        }
        file.attr.uid = set.uid.unwrap_or(file.attr.uid);
        file.attr.gid = set.gid.unwrap_or(file.attr.gid);
        file.attr.perm = set.perm.unwrap_or(file.attr.perm);
        file.attr.mtime = set.mtime.unwrap_or(file.attr.mtime);
        file.attr.atime = set.atime.unwrap_or(file.attr.atime);
        Ok(file.attr.clone())
    }

    async fn readlink(&self, _: &OpCx, node: NodeId) -> Result<OsString, FsError> {
        Ok(self.tree("readlink").node(node)?.target.clone())
    }

    async fn readdir(&self, _: &OpCx, dir: NodeId, after: u64, max: usize) -> Result<Vec<DirEntry>, FsError> {
        let mut tree = self.tree("readdir");
        let rows: Vec<_> = tree
            .dir(dir)?
            .entries
            .range(after + 1..)
            .take(max)
            .map(|(c, (n, id))| (*c, n.clone(), *id))
            .collect();
        *tree.calls.entry("entries").or_default() += rows.len() as u64;
        rows.into_iter()
            .map(|(cookie, name, id)| {
                Ok(DirEntry {
                    cookie,
                    name,
                    attr: tree.node(id)?.attr.clone(),
                })
            })
            .collect()
    }

    async fn parent(&self, _: &OpCx, dir: NodeId) -> Result<NodeId, FsError> {
        Ok(self.tree("parent").dir(dir)?.parent)
    }

    async fn open(&self, cx: &OpCx, node: NodeId, options: OpenOptions) -> Result<Opened, FsError> {
        self.tree("open").open(cx, node, options)
    }

    async fn read(&self, _: &OpCx, handle: HandleId, range: Range<u64>) -> Result<Bytes, FsError> {
        drop(self.tree("reading"));
        match self.name_of(handle)?.as_str() {
            "slow-a" | "slow-b" => tokio::time::sleep(SLOW).await,
            "late" => tokio::task::yield_now().await,
            "pair-a" | "pair-b" => {
                self.pair.wait().await;
            }
            "stuck" => std::future::pending().await,
            "panic" => panic!("asked to panic at once"),
            "panic-late" => {
                tokio::task::yield_now().await;
                panic!("asked to panic later");
            }
            _ => {}
        }
        let mut tree = self.tree("read");
        let data = &tree.opened(handle)?.data;
        let end = usize::try_from(range.end).expect("small").min(data.len());
        let start = usize::try_from(range.start).expect("small").min(end);
        Ok(Bytes::copy_from_slice(&data[start..end]))
    }

    async fn write(&self, cx: &OpCx, handle: HandleId, at: u64, data: Bytes) -> Result<u32, FsError> {
        match self.name_of(handle)?.as_str() {
            "slow-a" | "slow-b" => tokio::time::sleep(SLOW).await,
            "stuck" => std::future::pending().await,
            _ => {}
        }
        let mut tree = self.tree("write");
        let file = tree.opened(handle)?;
        let at = usize::try_from(at).expect("small");
        if file.data.len() < at + data.len() {
            file.data.resize(at + data.len(), 0);
        }
        file.data[at..at + data.len()].copy_from_slice(&data);
        file.changed(cx);
        Ok(u32::try_from(data.len()).expect("small"))
    }

    async fn fallocate(&self, cx: &OpCx, handle: HandleId, how: Allocate, range: Range<u64>) -> Result<(), FsError> {
        let mut tree = self.tree("fallocate");
        let file = tree.opened(handle)?;
        if range.end > TOO_LARGE {
            return fail(FsErrorKind::FileTooLarge);
        }
        if matches!(how, Allocate::Extend | Allocate::Zero) {
            file.resize(range.end.max(file.attr.size));
        }
        if matches!(how, Allocate::PunchHole | Allocate::Zero | Allocate::ZeroKeepSize) {
            let len = file.data.len();
            let clipped = |at| usize::try_from(at).expect("small").min(len);
            file.data[clipped(range.start)..clipped(range.end)].fill(0);
        }
        file.changed(cx);
        Ok(())
    }

    async fn flush(&self, _: &OpCx, _: HandleId) -> Result<(), FsError> {
        drop(self.tree("flush"));
        fail(FsErrorKind::Unsupported)
    }

    async fn fsync(&self, _: &OpCx, _: HandleId, _: bool) -> Result<(), FsError> {
        drop(self.tree("fsync"));
        Ok(())
    }

    async fn fsyncdir(&self, _: &OpCx, dir: NodeId) -> Result<(), FsError> {
        self.tree("fsyncdir").dir(dir).map(drop)
    }

    async fn cleanup(&self, _: &OpCx, _: HandleId) -> Result<(), FsError> {
        drop(self.tree("cleanup"));
        Ok(())
    }

    fn release(&self, handle: HandleId) {
        let known = self.tree("release").handles.remove(&handle).is_some();
        assert!(known, "a handle is released once");
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
        let mut tree = self.tree("create");
        if tree.find(parent, name).is_ok() {
            return fail(FsErrorKind::Exists);
        }
        tree.writable(parent)?;
        let node = match &new {
            NewNode::File => tree.add(parent, name, NodeKind::File, b"", perm),
            NewNode::Dir => tree.add(parent, name, NodeKind::Dir, b"", perm),
            NewNode::Symlink(target) => tree.add_link(parent, name, target, perm),
            NewNode::Special { kind, rdev } => {
                let node = tree.add(parent, name, *kind, b"", perm);
                tree.node(node)?.attr.rdev = *rdev;
                node
            }
        };
        tree.touch(parent);
        let opened = if new == NewNode::File {
            Some(tree.open(cx, node, options)?)
        } else {
            None
        };
        Ok((tree.entry(node)?, opened))
    }

    async fn link(&self, _: &OpCx, node: NodeId, parent: NodeId, name: &OsStr) -> Result<Entry, FsError> {
        let mut tree = self.tree("link");
        tree.named(node)?;
        let cookie = tree.next_cookie();
        tree.dir(parent)?.entries.insert(cookie, (name.to_owned(), node));
        tree.node(node)?.attr.nlink += 1;
        tree.entry(node)
    }

    async fn can_remove(&self, _: &OpCx, _: NodeId) -> Result<(), FsError> {
        Ok(())
    }

    async fn remove(&self, _: &OpCx, parent: NodeId, name: &OsStr, dir: bool) -> Result<(), FsError> {
        let mut tree = self.tree("remove");
        tree.writable(parent)?;
        let (cookie, node) = tree.find(parent, name)?;
        if dir && !tree.dir(node)?.entries.is_empty() {
            return fail(FsErrorKind::NotEmpty);
        }
        tree.dir(parent)?.entries.remove(&cookie);
        tree.node(node)?.attr.nlink -= 1;
        Ok(())
    }

    async fn rename(
        &self,
        _: &OpCx,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        options: RenameOptions,
    ) -> Result<(), FsError> {
        let mut tree = self.tree("rename");
        let (cookie, node) = tree.find(from.0, from.1)?;
        if let Ok((taken, other)) = tree.find(to.0, to.1) {
            if options.no_replace {
                return fail(FsErrorKind::Exists);
            }
            if options.exchange {
                tree.dir(from.0)?.entries.insert(cookie, (from.1.to_owned(), other));
                tree.dir(to.0)?.entries.insert(taken, (to.1.to_owned(), node));
                return Ok(());
            }
            tree.dir(to.0)?.entries.remove(&taken);
        }
        tree.dir(from.0)?.entries.remove(&cookie);
        let cookie = tree.next_cookie();
        tree.dir(to.0)?.entries.insert(cookie, (to.1.to_owned(), node));
        Ok(())
    }

    async fn statfs(&self, _: &OpCx) -> Result<Space, FsError> {
        Ok(Space {
            total_bytes: 100 << 30,
            free_bytes: 60 << 30,
            available_bytes: 50 << 30,
            files: 1000,
            free_files: 9000,
            name_max: 255,
        })
    }

    async fn seek(&self, _: &OpCx, handle: HandleId, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        let mut tree = self.tree("seek");
        let size = tree.opened(handle)?.attr.size;
        match to {
            _ if offset >= size => fail(FsErrorKind::PastEnd),
            SeekTo::Data => Ok(offset),
            SeekTo::Hole => Ok(size),
        }
    }

    async fn getxattr(&self, _: &OpCx, node: NodeId, name: &OsStr) -> Result<Bytes, FsError> {
        let mut tree = self.tree("getxattr");
        if name == "user.backlot.state" {
            return Ok(Bytes::from_static(b"online"));
        }
        tree.node(node)?
            .xattrs
            .get(name)
            .cloned()
            .ok_or(FsErrorKind::NoAttr.into())
    }

    async fn listxattr(&self, _: &OpCx, node: NodeId) -> Result<Vec<OsString>, FsError> {
        Ok(self.tree("listxattr").node(node)?.xattrs.keys().cloned().collect())
    }

    async fn setxattr(&self, _: &OpCx, node: NodeId, name: &OsStr, value: Bytes) -> Result<(), FsError> {
        let mut tree = self.tree("setxattr");
        tree.named(node)?;
        tree.node(node)?.xattrs.insert(name.to_owned(), value);
        Ok(())
    }

    async fn removexattr(&self, _: &OpCx, node: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.tree("removexattr")
            .node(node)?
            .xattrs
            .remove(name)
            .map(drop)
            .ok_or(FsErrorKind::NoAttr.into())
    }
}
