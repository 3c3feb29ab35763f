//! Telling the kernel what changed behind its back.
//!
//! Owns: the bounded backlog of changes and the one thread that works it off. Refuses to know: what a change means to the
//! engine.
//!
//! Invariants: no change is lost, only made coarser (a backlog that overflows becomes "doubt everything"); a sender never
//! waits for more than the backlog's own short lock; only this thread notifies (but for attributes that an open must not
//! be answered with, see [`Shared::forget_attributes`]), and it holds no lock while it does, because a notification waits
//! for requests in flight on the same pages or folder, and those may want any lock of ours.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::runtime::Handle;

use super::shared::Shared;
use crate::error::{FsError, FsErrorKind};
use crate::types::{NodeId, OpCx};
use crate::vfs::{ChangeSink, VirtualFs};

/// How long the engine may take to list the root when everything is doubted on an older kernel.
const ROOT_LISTING_DEADLINE: Duration = Duration::from_secs(5);

/// Entries of the root per question while everything is doubted.
const ROOT_PAGE: usize = 1024;

/// FUSE_NOTIFY_INC_EPOCH of the kernel's `enum fuse_notify_code`; fuser has no call for it.
const NOTIFY_INC_EPOCH: i32 = 8;

/// What the kernel is to drop of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stale {
    Attributes,
    Content,
}

/// Changes not yet told.
#[derive(Default, Debug)]
struct Backlog {
    nodes: HashMap<NodeId, Stale>,
    names: HashMap<NodeId, HashSet<OsString>>,
    /// Entries of `nodes` plus names in `names`.
    len: usize,
    everything: bool,
    closed: bool,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.len == 0 && !self.everything
    }

    /// Makes room for one more by forgetting the details, if need be. Says whether details are still kept.
    fn admit(&mut self, max: usize) -> bool {
        if self.len >= max {
            self.nodes = HashMap::new();
            self.names = HashMap::new();
            self.len = 0;
            self.everything = true;
        }
        !self.everything
    }

    fn node(&mut self, node: NodeId, what: Stale, max: usize) {
        if self.admit(max) {
            let before = self.nodes.len();
            let slot = self.nodes.entry(node).or_insert(what);
            *slot = what.max(*slot);
            self.len += self.nodes.len() - before;
        }
    }

    fn name(&mut self, parent: NodeId, name: &OsStr, max: usize) {
        if self.admit(max) {
            let names = self.names.entry(parent).or_default();
            if !names.contains(name) {
                names.insert(name.to_owned());
                self.len += 1;
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct ChangeQueue {
    backlog: Mutex<Backlog>,
    changed: Condvar,
    max: usize,
}

impl ChangeQueue {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            backlog: Mutex::default(),
            changed: Condvar::new(),
            max,
        })
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // Every step of a change leaves the backlog whole, but for its count, which only makes it coarser sooner.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, change: impl FnOnce(&mut Backlog)) {
        let mut backlog = self.backlog();
        if !backlog.closed {
            change(&mut backlog);
            self.changed.notify_one();
        }
    }

    /// Ends the notifying thread: the session is over and its kernel caches with it.
    pub(super) fn close(&self) {
        let mut backlog = self.backlog();
        *backlog = Backlog {
            closed: true,
            ..Backlog::default()
        };
        self.changed.notify_one();
    }

    /// Waits for changes and takes them all; `None` once closed.
    fn take(&self) -> Option<Backlog> {
        let mut backlog = self.backlog();
        loop {
            if backlog.closed {
                return None;
            }
            if !backlog.is_empty() {
                return Some(std::mem::take(&mut *backlog));
            }
            backlog = self.changed.wait(backlog).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl ChangeSink for ChangeQueue {
    fn entry_changed(&self, parent: NodeId, name: &OsStr) {
        self.push(|backlog| backlog.name(parent, name, self.max));
    }

    fn attr_changed(&self, node: NodeId) {
        self.push(|backlog| backlog.node(node, Stale::Attributes, self.max));
    }

    fn content_changed(&self, node: NodeId) {
        self.push(|backlog| backlog.node(node, Stale::Content, self.max));
    }
}

/// The notifications that there are, so that the order and the choice of them is tested without a kernel.
pub(super) trait Kernel: Send {
    fn drop_name(&self, parent: NodeId, name: &OsStr) -> io::Result<()>;
    fn drop_attributes(&self, node: NodeId) -> io::Result<()>;
    fn drop_content(&self, node: NodeId) -> io::Result<()>;
    /// Makes the kernel ask again for every name that it remembers.
    fn doubt_all_names(&self) -> io::Result<()>;
}

/// The kernel's side of one mount.
pub(super) struct FuseKernel {
    pub(super) notifier: Notifier,
    /// A duplicate of the session's device, for what fuser has no call for.
    pub(super) device: OwnedFd,
}

impl Kernel for FuseKernel {
    fn drop_name(&self, parent: NodeId, name: &OsStr) -> io::Result<()> {
        self.notifier.inval_entry(INodeNo(parent.0), name)
    }

    fn drop_attributes(&self, node: NodeId) -> io::Result<()> {
        self.notifier.inval_inode(INodeNo(node.0), -1, 0)
    }

    fn drop_content(&self, node: NodeId) -> io::Result<()> {
        self.notifier.inval_inode(INodeNo(node.0), 0, 0)
    }

    fn doubt_all_names(&self) -> io::Result<()> {
        // struct fuse_out_header { u32 len; i32 error; u64 unique }: a notification has its code as error, and unique 0.
        let mut message = [0; 16];
        message[0..4].copy_from_slice(&16_u32.to_ne_bytes());
        message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
        rustix::io::write(&self.device, &message)?;
        Ok(())
    }
}

/// Returns the names in the root, or why they can't be known.
pub(super) type ListRoot = dyn Fn() -> Result<Vec<OsString>, FsError> + Send + Sync;

/// Works off `queue` until it is closed.
pub(super) fn run<K: Kernel>(queue: &ChangeQueue, kernel: &K, list_root: &ListRoot, shared: &Shared) {
    while let Some(mut backlog) = queue.take() {
        if backlog.everything {
            doubt_everything(kernel, list_root, shared);
        }
        for (parent, names) in backlog.names {
            for name in names {
                told("entry", parent, kernel.drop_name(parent, &name));
            }
            // The kernel drops its cached listing only where it knows the name, so a name that is new to it needs this.
            backlog.nodes.insert(parent, Stale::Content);
        }
        for (node, what) in backlog.nodes {
            match what {
                Stale::Attributes => told("attributes", node, kernel.drop_attributes(node)),
                Stale::Content => told("content", node, kernel.drop_content(node)),
            }
        }
    }
}

/// Makes the kernel's caches harmless without knowing what changed.
///
/// Bytes: of open nodes now, of all others at their next open. Names, and with them attributes and listings (a listing is
/// dropped when its folder's mtime is seen to differ): by doubting every name. An older kernel cannot do that; there the
/// children of the root are dropped, each with all below it but what is open or a working folder.
fn doubt_everything<K: Kernel>(kernel: &K, list_root: &ListRoot, shared: &Shared) {
    tracing::info!("more changed at once than the kernel can be told one by one; it is told to doubt everything");
    for node in shared.distrust_caches() {
        told("content", node, kernel.drop_content(node));
    }
    if let Err(error) = kernel.doubt_all_names() {
        tracing::debug!(%error, "the kernel cannot doubt all names at once; dropping the root's children");
        // The engine is asked here, and its panic must not end the only thread that tells.
        match catch_unwind(AssertUnwindSafe(list_root)) {
            Ok(Ok(names)) => {
                for name in names {
                    told("entry", NodeId::ROOT, kernel.drop_name(NodeId::ROOT, &name));
                }
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the root cannot be listed: cached names may be old until their time is up");
            }
            Err(_panic) => {
                tracing::error!("listing the root panicked: cached names may be old until their time is up");
            }
        }
    }
    told("content", NodeId::ROOT, kernel.drop_content(NodeId::ROOT));
}

/// Asks the drive for all names in its root, within [`ROOT_LISTING_DEADLINE`].
pub(super) fn list_root(fs: &dyn VirtualFs, rt: &Handle) -> Result<Vec<OsString>, FsError> {
    let list = async {
        let (cx, mut names, mut after) = (OpCx::default(), Vec::new(), 0);
        loop {
            let page = fs.readdir(&cx, NodeId::ROOT, after, ROOT_PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(names);
            };
            after = last.cookie;
            names.extend(page.into_iter().map(|entry| entry.name));
        }
    };
    rt.block_on(async { tokio::time::timeout(ROOT_LISTING_DEADLINE, list).await })
        .unwrap_or_else(|_elapsed| Err(FsErrorKind::TimedOut.into()))
}

/// The kernel refuses a notification for what it does not know (fuser hides that) or when the session is over.
fn told(what: &'static str, node: NodeId, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(what, node = node.0, %error, "the kernel did not take a notification");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::HandleId;

    fn taken(max: usize, change: impl FnOnce(&ChangeQueue)) -> Backlog {
        let queue = ChangeQueue::new(max);
        change(&queue);
        queue.take().expect("open and not empty")
    }

    #[test]
    fn changes_of_one_thing_are_told_once_and_the_larger_wins() {
        let backlog = taken(3, |queue| {
            for _ in 0..100 {
                queue.attr_changed(NodeId(1));
                queue.content_changed(NodeId(1));
                queue.attr_changed(NodeId(1));
                queue.entry_changed(NodeId(2), OsStr::new("a"));
            }
        });
        assert!(!backlog.everything, "repetitions take no room");
        assert_eq!(backlog.nodes, HashMap::from([(NodeId(1), Stale::Content)]));
        assert_eq!(backlog.names, HashMap::from([(NodeId(2), HashSet::from(["a".into()]))]));
    }

    #[test]
    fn one_too_many_makes_it_everything_and_keeps_memory_bounded() {
        let exactly = taken(4, |queue| (0..4).for_each(|i| queue.attr_changed(NodeId(i))));
        assert!(!exactly.everything);
        let over = taken(4, |queue| {
            (0..1000).for_each(|i| queue.entry_changed(NodeId(i), OsStr::new("x")))
        });
        assert!(over.everything);
        assert_eq!((over.nodes.len(), over.names.len()), (0, 0));
    }

    #[derive(Default)]
    struct FakeKernel {
        knows_epochs: bool,
        told: Mutex<Vec<String>>,
    }

    impl FakeKernel {
        fn note(&self, what: String) -> io::Result<()> {
            self.told.lock().expect("whole").push(what);
            Ok(())
        }
    }

    impl Kernel for FakeKernel {
        fn drop_name(&self, parent: NodeId, name: &OsStr) -> io::Result<()> {
            self.note(format!("name {} {}", parent.0, name.display()))
        }

        fn drop_attributes(&self, node: NodeId) -> io::Result<()> {
            self.note(format!("attributes {}", node.0))
        }

        fn drop_content(&self, node: NodeId) -> io::Result<()> {
            self.note(format!("content {}", node.0))
        }

        fn doubt_all_names(&self) -> io::Result<()> {
            if self.knows_epochs {
                self.note("all names".into())
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            }
        }
    }

    /// What a kernel is told of `changes`, which the queue has room for `max` of, while node 9 is open.
    fn told_of(
        knows_epochs: bool,
        max: usize,
        changes: impl FnOnce(&ChangeQueue),
        list_root: &ListRoot,
    ) -> Vec<String> {
        let (queue, kernel, shared) = (
            ChangeQueue::new(max),
            FakeKernel {
                knows_epochs,
                ..FakeKernel::default()
            },
            Shared::default(),
        );
        shared.opened(NodeId(9), HandleId(1));
        changes(&queue);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run(&queue, &kernel, list_root, &shared));
            // Everything is told in one go, the last of it for this node.
            let done = || kernel.told.lock().expect("whole").last().map(String::as_str) == Some("content 1");
            while !done() {
                std::thread::yield_now();
            }
            queue.close();
            running.join().expect("no panic");
        });
        kernel.told.into_inner().expect("whole")
    }

    fn flood(queue: &ChangeQueue) {
        (0..100).for_each(|i| queue.entry_changed(NodeId(50), OsStr::new(&i.to_string())));
    }

    #[test]
    fn a_new_name_also_drops_the_listing_of_its_folder() {
        let told = told_of(
            true,
            8,
            |queue| queue.entry_changed(NodeId::ROOT, OsStr::new("a")),
            &|| Ok(vec![]),
        );
        assert_eq!(told, ["name 1 a", "content 1"]);
    }

    #[test]
    fn doubting_everything_covers_open_nodes_and_all_names() {
        let told = told_of(true, 8, flood, &|| panic!("not asked on a new kernel"));
        assert_eq!(told, ["content 9", "all names", "content 1"]);
    }

    #[test]
    fn an_older_kernel_drops_the_roots_children_instead() {
        let told = told_of(false, 8, flood, &|| Ok(vec!["p".into(), "q".into()]));
        assert_eq!(told, ["content 9", "name 1 p", "name 1 q", "content 1"]);
    }

    #[test]
    fn a_root_that_cannot_be_listed_does_not_end_the_telling() {
        let expected = ["content 9", "content 1"];
        assert_eq!(told_of(false, 8, flood, &|| Err(FsErrorKind::Io.into())), expected);
        assert_eq!(told_of(false, 8, flood, &|| panic!("in the engine")), expected);
    }

    #[test]
    fn a_closed_queue_ends_its_thread_and_takes_no_more() {
        let queue = ChangeQueue::new(4);
        queue.attr_changed(NodeId(1));
        queue.close();
        queue.attr_changed(NodeId(1));
        assert!(queue.take().is_none());
    }
}
