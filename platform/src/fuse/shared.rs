//! What the request side and the notification side of one mount both know: open handles, and since when the kernel's
//! page cache may be trusted.
//!
//! Invariant: its lock is held for a few instructions, never across a reply, a notification or an engine call.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use fuser::{INodeNo, Notifier};

use super::native::Native;

use crate::types::{HandleId, NodeId};

/// Nodes opened since a distrust that are remembered as fresh again. Beyond it we start over, at the price of dropping
/// some page caches once more.
const FRESH_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The kernel can be told to doubt every name at once (FUSE_NOTIFY_INC_EPOCH, Linux 6.16).
    pub(super) can_forget_all: AtomicBool,
    pub(super) native: Native,
    opens: Mutex<Opens>,
    notifier: OnceLock<Notifier>,
}

#[derive(Debug, Default)]
struct Opens {
    handles: HashMap<HandleId, NodeId>,
    /// `None`: every page cache may be kept. `Some`: only those of nodes that were opened since the distrust.
    fresh: Option<HashSet<NodeId>>,
}

impl Shared {
    fn opens(&self) -> MutexGuard<'_, Opens> {
        // Nothing in here can be left half-done by a panic.
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an open and says whether the kernel may keep the bytes that it cached earlier.
    pub(super) fn opened(&self, node: NodeId, handle: HandleId) -> bool {
        let mut opens = self.opens();
        opens.handles.insert(handle, node);
        let Some(fresh) = opens.fresh.as_mut() else { return true };
        if fresh.len() >= FRESH_MAX {
            fresh.clear();
        }
        !fresh.insert(node)
    }

    pub(super) fn released(&self, handle: HandleId) {
        let node = self.opens().handles.remove(&handle);
        if let Some(node) = node {
            self.native.released(node);
        }
    }

    /// Ends all handles, for a session that is over.
    pub(super) fn take_handles(&self) -> Vec<HandleId> {
        self.native.end();
        std::mem::take(&mut self.opens().handles).into_keys().collect()
    }

    /// From now on the first open of each node drops what the kernel cached of it. Returns the nodes that are open, which
    /// need a notification each.
    pub(super) fn distrust_caches(&self) -> HashSet<NodeId> {
        let mut opens = self.opens();
        opens.fresh = Some(HashSet::new());
        opens.handles.values().copied().collect()
    }

    /// Sets whom to tell what can't wait for the thread that notifies.
    pub(super) fn set_notifier(&self, notifier: Notifier) {
        // There is one session, and this is its only notifier.
        drop(self.notifier.set(notifier));
    }

    /// Makes the kernel ask for the attributes of a node again. Other than the notifications of [`super::notify`] this one
    /// waits for no request, so that one that is being answered may do it.
    pub(super) fn forget_attributes(&self, node: NodeId) {
        let told = self.notifier.get().map(|n| n.inval_inode(INodeNo(node.0), -1, 0));
        if let Some(Err(error)) = told {
            tracing::debug!(node = node.0, %error, "the kernel did not take a notification");
        }
    }

    /// Says whether the kernel can forget all names at once.
    pub(super) fn set_can_forget_all(&self, can: bool) {
        self.can_forget_all.store(can, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distrusted_cache_is_dropped_at_the_next_open_and_only_then() {
        let shared = Shared::default();
        assert!(
            shared.opened(NodeId(5), HandleId(1)),
            "nothing is distrusted at the start"
        );
        assert_eq!(
            shared.distrust_caches(),
            HashSet::from([NodeId(5)]),
            "open nodes need telling"
        );
        assert!(!shared.opened(NodeId(5), HandleId(2)), "the first open drops the cache");
        assert!(
            shared.opened(NodeId(5), HandleId(3)),
            "the second keeps what the first read"
        );
        assert!(
            !shared.opened(NodeId(6), HandleId(4)),
            "each node has its own first open"
        );
        shared.distrust_caches();
        assert!(!shared.opened(NodeId(5), HandleId(5)), "a new distrust begins anew");
    }

    #[test]
    fn handles_end_with_the_session_unless_released() {
        let shared = Shared::default();
        shared.opened(NodeId(2), HandleId(1));
        shared.opened(NodeId(2), HandleId(2));
        shared.released(HandleId(1));
        assert_eq!(shared.take_handles(), vec![HandleId(2)]);
        assert!(shared.take_handles().is_empty());
    }
}
