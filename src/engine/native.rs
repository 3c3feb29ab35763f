//! Files that the host reads, and writes, by itself: which may be given out, and what becomes of one that changes while it is.
//!
//! Owns: the numbers by which the host knows files (docs/design/0007-passthrough.md), the choice between a backing and our
//! own reads, the check that comes before a backing. Refuses to know: how a host uses a backing.
//!
//! Invariants: a content is given out only when every byte of it is here and was written or checked in this process; a node
//! that is read natively is read so by all who have it open, with one file, and shows that content for as long as one of
//! them lives. A file that becomes anything else gets another node first. What the host writes by itself is an object whose
//! row says that it is being written, of a file that is not to be published.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{Attr, Backing, HandleId, NodeId, OpenOptions, Opened, without_set_id};
use tracing::{debug, warn};

use super::drive::{Inner, content_version};
use super::filesystem::{DriveFs, state_error};
use super::handles::{OpenFile, Source};
use super::hydrate::OpenContent;
use super::local::LocalFile;
use super::writing::object_mtime_ns;
use crate::model::{EntryKind, Ino};
use crate::state::Node;

/// Smaller files are served through the kernel's page cache: opening costs the same, and they fit there whole.
pub(super) const SMALLEST: u64 = 128 << 10;
/// A file that has just got another node is not given out again for this long. Whoever met the change goes on to the new
/// node by a second try of the kernel's own, of which there is only one: it must not meet a change again.
pub(super) const REST: Duration = Duration::from_secs(5);
/// Bytes checked before others have their turn.
const CHECK_STEP: u64 = 16 << 20;

/// What the disk must have left beside its reserve for a file to be written past us: nobody asks before each write then.
/// Enough for the fastest disks to be filled no sooner than a person looks.
const NATIVE_ROOM: u64 = 4 << 30;

/// The lower bits of a node are the file's number, the upper ones count how often the file got another node.
const NUMBER_BITS: u32 = 40;
/// The most nodes that one file may have had.
const MAX_EPOCH: u32 = (1 << (u64::BITS - NUMBER_BITS)) - 1;

/// Returns the file that a node is, or was, of.
pub(super) fn ino_of(node: NodeId) -> Ino {
    Ino(node.0 & ((1 << NUMBER_BITS) - 1))
}

/// Returns a file's node of an epoch.
pub(super) fn node_of(ino: Ino, epoch: u32) -> NodeId {
    NodeId(ino.0 | u64::from(epoch) << NUMBER_BITS)
}

/// Says whether a file may get one more node.
pub(super) fn has_another(ino: Ino, epoch: u32) -> bool {
    ino.0 >> NUMBER_BITS == 0 && epoch < MAX_EPOCH
}

/// What is read of a node that the host reads by itself.
#[derive(Clone, Debug)]
pub(super) struct Native {
    /// The file as it was when it was given out.
    pub(super) row: Node,
    pub(super) backing: Backing,
}

impl Native {
    /// The object of a file of this machine's own.
    fn of_own(row: &Node, own: &LocalFile) -> Option<Self> {
        let mut row = row.clone();
        row.object = own.object();
        let backing = Backing(own.file()?);
        Some(Self { row, backing })
    }

    /// Says whether these are this machine's own bytes: whoever changes them, every handle sees it.
    pub(super) fn is_own(&self) -> bool {
        is_own(&self.row)
    }

    /// Says whether a row still has these bytes.
    pub(super) fn is_of(&self, row: &Node) -> bool {
        if self.is_own() {
            is_own(row) && self.row.object == row.object
        } else {
            !is_own(row) && content_version(&self.row) == content_version(row)
        }
    }

    /// Returns the row that it was given out with, with the size and times that its bytes have.
    fn row_now(&self) -> Node {
        let mut row = self.row.clone();
        let file = &self.backing.0;
        if let (true, Ok(metadata), Ok(mtime_ns)) = (self.is_own(), file.metadata(), object_mtime_ns(file)) {
            row.size = metadata.len();
            row.mtime_ns = mtime_ns;
            row.ctime_ns = row.ctime_ns.max(mtime_ns);
        }
        row
    }
}

fn is_own(row: &Node) -> bool {
    row.own && row.origin.is_none()
}

/// Says whether an open of what a site has can be content with a backing. One that asks for no caching can't: the kernel
/// would read the backing without, too, and only where the reader's memory and offsets suit that disk.
fn may_share(options: OpenOptions) -> bool {
    !options.write && !options.direct
}

/// The node is not what the file's names lead to any more.
pub(super) struct Left;

impl From<Left> for FsError {
    fn from(_: Left) -> Self {
        FsErrorKind::Left.into()
    }
}

/// Files that somebody may have mapped for writing past us. A mapping outlives its handle, so until the drive ends nobody
/// knows when it is gone, and the object is kept although its bytes are at a site.
#[derive(Debug, Default)]
pub(super) struct Mapped(Mutex<HashSet<Ino>>);

impl Mapped {
    fn add(&self, ino: Ino) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ino);
    }

    pub(super) fn has(&self, ino: Ino) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&ino)
    }
}

/// The check of contents found from earlier runs; one at a time.
#[derive(Debug)]
pub(super) struct Checks(tokio::sync::Semaphore);

impl Default for Checks {
    fn default() -> Self {
        Self(tokio::sync::Semaphore::new(1))
    }
}

impl Inner {
    /// Returns the node that a file's names lead to. A node that is read natively and is not of this row's bytes is left.
    pub(super) fn node_for(&self, row: &Node) -> NodeId {
        if row.kind != EntryKind::File {
            return NodeId(row.ino.0);
        }
        let (node, fits) = self.handles.current(row.ino, |native| native.is_of(row));
        if fits {
            return node;
        }
        self.leave(row.ino, |native| !native.is_of(row));
        self.names_lead_to(row.ino)
    }

    /// Returns the node that a file's names lead to.
    pub(super) fn names_lead_to(&self, ino: Ino) -> NodeId {
        self.handles.current(ino, |_| true).0
    }

    /// Gives a file another node if its node is read natively and `when` says so: from now on its names lead there. Says
    /// whether it did.
    pub(super) fn leave(&self, ino: Ino, when: impl FnOnce(&Native) -> bool) -> bool {
        let left = self.handles.leave(ino, when);
        if let Some(node) = left {
            self.tell_left(node);
        }
        left.is_some()
    }

    /// Tells the host that the names of a node's file lead to another.
    fn tell_left(&self, node: NodeId) {
        let ino = ino_of(node);
        // What the host remembers of it was the file's, which goes its own way now.
        self.tell_attrs(node);
        debug!(%ino, "it changes while it is read natively: whoever has it open keeps what it was");
        match self.store.read(|txn| txn.names_of(ino)) {
            Ok(names) => names.iter().for_each(|(dir, name)| self.tell_names(*dir, &[name])),
            Err(e) => {
                warn!(%ino, error = %e, "the kernel is not told of a file's new node; it asks before it uses the old")
            }
        }
    }

    /// Refuses a change of what a node holds if there can be none: somebody reads what a site has natively, or the names have
    /// left the node. The caller then comes back by the name.
    pub(super) fn check_changeable(&self, node: NodeId) -> Result<(), Left> {
        let ino = ino_of(node);
        if self.leave(ino, |native| !native.is_own()) || self.names_lead_to(ino) != node {
            return Err(Left);
        }
        Ok(())
    }

    /// The same for a change of length through an open file: one of our own is the same file by whichever node.
    pub(super) fn check_cuttable(&self, node: NodeId) -> Result<(), FsError> {
        if let Some(native) = self.handles.native(node)
            && native.is_own()
            && native.is_of(&self.row(ino_of(node))?)
        {
            return Ok(());
        }
        Ok(self.check_changeable(node)?)
    }

    /// Says whether an own file may be read and written past us: it is not to be published, its writers have no privileges
    /// to lose by a write, and the disk has room to spare.
    fn may_write_natively(&self, row: &Node, write: bool) -> bool {
        row.perm.is_none_or(|perm| without_set_id(perm) == perm)
            && self.publish_names(row.ino).is_ok_and(|names| names.is_empty())
            && (!write || self.objects.has_room(NATIVE_ROOM))
    }

    /// Tells the host that a file's attributes changed, if that happened through a node that its names have left.
    pub(super) fn tell_attrs_past(&self, node: NodeId) {
        let now = self.names_lead_to(ino_of(node));
        if now != node {
            self.tell_attrs(now);
        }
    }

    /// Returns what the host may read of a file that is about to be opened, if it may.
    pub(super) fn offer(
        self: &Arc<Self>,
        node: NodeId,
        row: &Node,
        content: &Arc<OpenContent>,
        options: OpenOptions,
    ) -> Option<Native> {
        let len = content.content().len();
        if !options.takes_backing || !may_share(options) || len < SMALLEST || !self.handles.may_begin_native(node) {
            return None;
        }
        match content.content().whole_file() {
            Ok(Some(file)) => Some(Native {
                row: row.clone(),
                backing: Backing(Arc::new(file)),
            }),
            Ok(None) => {
                if content.content().is_full() {
                    self.check_soon(content);
                }
                None
            }
            Err(e) => {
                debug!(path = %content.path(), error = %e, "not given out");
                None
            }
        }
    }

    /// Checks the bytes of a content that an earlier run left here, for as long as somebody has it open.
    fn check_soon(self: &Arc<Self>, content: &Arc<OpenContent>) {
        let Some(checking) = content.begin_check() else { return };
        let (drive, content) = (Arc::clone(self), Arc::downgrade(content));
        tokio::spawn(async move {
            let mut at = 0;
            loop {
                let Ok(_turn) = drive.checks.0.acquire().await else {
                    return;
                };
                let step = (content.clone(), at..at + CHECK_STEP);
                match tokio::task::spawn_blocking(move || check_step(&step.0, step.1)).await {
                    Ok(true) if !drive.stop.is_cancelled() => at += CHECK_STEP,
                    Ok(_) | Err(_) => return drop(checking),
                }
            }
        });
    }
}

/// Checks a part; says whether there is more to check.
fn check_step(content: &Weak<OpenContent>, part: std::ops::Range<u64>) -> bool {
    let Some(content) = content.upgrade() else { return false };
    // Nobody but us: it may go.
    if Arc::strong_count(&content) == 1 || part.start >= content.content().len() {
        return false;
    }
    let path = content.path();
    content.content().check(part).unwrap_or_else(|e| {
        debug!(%path, error = %e, "not checked");
        false
    })
}

/// A check of a content that is under way; there is one at most.
#[derive(Debug)]
pub(super) struct Checking(Arc<AtomicBool>);

impl Checking {
    pub(super) fn begin(running: &Arc<AtomicBool>) -> Option<Self> {
        (!running.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(running)))
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl DriveFs {
    /// Opens a file of this machine's own: natively if it stays here, unless its first open both reads and writes. Such a
    /// handle may write through a mapping that outlives it, of which nobody would tell us.
    pub(super) async fn open_own(
        &self,
        at: NodeId,
        row: &Node,
        own: &Arc<LocalFile>,
        options: OpenOptions,
    ) -> Result<Opened, FsError> {
        let wants = options.takes_backing && !options.direct;
        let first = wants && self.drive.handles.may_begin_native(at);
        let begins = first
            && if options.write {
                !options.read
            } else {
                row.size >= SMALLEST
            };
        let joins = wants && self.drive.handles.native(at).is_some_and(|native| native.is_own());
        if (begins || joins)
            && self.drive.may_write_natively(row, options.write)
            && let Some(opened) = self.open_natively(at, row, own, options, begins).await?
        {
            return Ok(opened);
        }
        self.insert_own(at, row, own, options, false, None)
            .map(|(_, opened)| opened)
    }

    /// Opens it natively; `None` if that is not to be after all.
    async fn open_natively(
        &self,
        at: NodeId,
        row: &Node,
        own: &Arc<LocalFile>,
        options: OpenOptions,
        begins: bool,
    ) -> Result<Option<Opened>, FsError> {
        let own = if options.write {
            self.drive.writable(row.ino, u64::MAX).await?
        } else {
            Arc::clone(own)
        };
        let Some(native) = Native::of_own(row, &own) else {
            return Ok(None);
        };
        let shared_row = native.row.clone();
        let (file, opened) = self.insert_own(at, &shared_row, &own, options, true, begins.then_some(native))?;
        if opened.backing.is_none() {
            return Ok(Some(opened));
        }
        // The file counts as open from here on: who moves it to where it is published, and sends it, sees that. Who did so
        // before is seen here.
        if !self.drive.may_write_natively(row, options.write) {
            self.drive.handles.remove(opened.handle);
            return Ok(None);
        }
        if options.write {
            file.begin_native(&own);
            if !own.is_writing() {
                // An earlier writer's end was written down just before: from now on it can't be.
                let begun = self.drive.writable(row.ino, u64::MAX).await;
                let same = begun.and_then(|begun| match Arc::ptr_eq(&begun, &own) {
                    true => Ok(()),
                    false => Err(FsErrorKind::Busy.into()),
                });
                if let Err(e) = same {
                    file.end_native();
                    self.drive.handles.remove(opened.handle);
                    return Err(e);
                }
            }
            if options.read {
                self.drive.mapped.add(row.ino);
            }
        }
        Ok(Some(opened))
    }

    fn insert_own(
        &self,
        at: NodeId,
        row: &Node,
        own: &Arc<LocalFile>,
        options: OpenOptions,
        share: bool,
        offer: Option<Native>,
    ) -> Result<(Arc<OpenFile>, Opened), FsError> {
        let source = Source::Own(Arc::clone(own));
        let file = OpenFile::new(row.ino, source, false, options.write, self.drive.limits.readahead_max);
        let file = Arc::new(file);
        let (handle, backing) = self.insert_shared(at, row, &file, share, offer)?;
        let handles = &self.drive.handles;
        let opened = Opened {
            handle,
            keep_cache: true,
            // What the host writes by itself through another node is not in this node's pages. And who only writes needs none:
            // they would cost a copy and as much memory again.
            uncached: handles.has_stale(row.ino)
                || (backing.is_none() && (handles.has_native_writer(row.ino) || (options.write && !options.read))),
            forget_attributes: self.drive.doubts.has(row.ino),
            backing,
        };
        Ok((file, opened))
    }

    /// Returns the attributes of what a node shows: the file, or what it was for those who have it open.
    pub(super) fn attr_of(&self, node: NodeId) -> Result<Attr, FsError> {
        let ino = ino_of(node);
        let row = self.drive.tree.node(ino).map_err(state_error)?;
        let row = row.map(|row| self.drive.as_written(row));
        if let Some(row) = &row
            && self.drive.node_for(row) == node
        {
            return Ok(self.attr_at(node, row));
        }
        let Some(native) = self.drive.handles.native(node) else {
            return Err(Left.into());
        };
        let (was, gone) = (native.row_now(), row.is_none());
        // Size and times are those of the bytes; all else is the file's.
        let mut now = row.unwrap_or_else(|| was.clone());
        now.size = was.size;
        now.mtime_ns = was.mtime_ns;
        now.ctime_ns = was.ctime_ns;
        let mut attr = self.attr_at(node, &now);
        attr.volatile = true;
        if gone {
            attr.nlink = 0;
        }
        Ok(attr)
    }

    /// Opens a site's content natively or not, as the node's other opens are. `Left`: by the name it is another node.
    pub(super) fn insert(
        &self,
        node: NodeId,
        row: &Node,
        file: &Arc<OpenFile>,
        options: OpenOptions,
        offer: Option<Native>,
    ) -> Result<(HandleId, Option<Backing>), Left> {
        self.insert_shared(node, row, file, may_share(options), offer)
    }

    fn insert_shared(
        &self,
        node: NodeId,
        row: &Node,
        file: &Arc<OpenFile>,
        share: bool,
        offer: Option<Native>,
    ) -> Result<(HandleId, Option<Backing>), Left> {
        let inserted = self.drive.handles.insert(node, row, file, share, offer);
        inserted.map_err(|left_now| {
            if left_now {
                self.drive.tell_left(node);
            }
            Left
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_file_in_every_epoch() {
        for ino in [Ino(1), Ino(77), Ino((1 << NUMBER_BITS) - 1)] {
            assert_eq!(node_of(ino, 0), NodeId(ino.0));
            for epoch in [1, 5, MAX_EPOCH] {
                assert_eq!(ino_of(node_of(ino, epoch)), ino);
                assert_ne!(node_of(ino, epoch), node_of(ino, epoch - 1));
            }
            assert!(has_another(ino, MAX_EPOCH - 1) && !has_another(ino, MAX_EPOCH));
        }
        assert!(!has_another(Ino(1 << NUMBER_BITS), 0));
    }
}
