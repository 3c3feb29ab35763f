//! Which open files the kernel reads and writes by itself (FUSE passthrough), and the files lent to it for that.
//!
//! Owns: one decision per open node, what is lent, the counters that show it. Refuses to know: which files the drive gives
//! out, and why.
//!
//! Invariant: a node that is open is read in one way by all who have it open, native with one file or through us: the
//! kernel fails an open that differs (EIO). What the first open got counts until the last handle is released, and the
//! kernel has let go of a handle before it tells us of the release, so this is never more permissive than the kernel.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::BackingId;
use rustix::io::Errno;

use crate::types::{Backing, NativeReads, NodeId};

/// A file lent to the kernel; given back when the last is dropped.
pub(super) type Lent = Arc<BackingId>;

#[derive(Debug, Default)]
pub(super) struct Native {
    state: Mutex<State>,
    opens: AtomicU64,
    answered: AtomicU64,
    written: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Why nothing is lent.
    off: Option<String>,
    nodes: HashMap<NodeId, OpenNode>,
}

#[derive(Debug)]
struct OpenNode {
    handles: usize,
    lent: Option<Lent>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            off: Some("nothing is agreed with the kernel yet".to_owned()),
            nodes: HashMap::new(),
        }
    }
}

impl Native {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every step leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn agreed(&self, native: Result<(), String>) {
        self.state().off = native.err();
    }

    /// Says whether files are lent.
    pub(super) fn is_on(&self) -> bool {
        self.state().off.is_none()
    }

    /// Takes note of an open and returns what the kernel is to read, if it is to; `lend` gives it a file.
    pub(super) fn opened(
        &self,
        node: NodeId,
        backing: Option<&Backing>,
        lend: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Option<Lent> {
        // Held over the one ioctl, which waits for nobody: two first opens must not lend two files.
        let mut state = self.state();
        let lent = match state.nodes.get_mut(&node) {
            Some(open) => {
                open.handles += 1;
                open.lent.clone()
            }
            None => {
                let lent = match backing.map(|Backing(file)| lend(file)) {
                    None => None,
                    Some(Ok(id)) => Some(Arc::new(id)),
                    Some(Err(error)) => {
                        tracing::warn!(node = node.0, %error, "the kernel does not take a file to read by itself");
                        if is_for_good(&error) {
                            state.off = Some(format!("the kernel refuses the files of the cache: {error}"));
                        }
                        None
                    }
                };
                let open = OpenNode {
                    handles: 1,
                    lent: lent.clone(),
                };
                state.nodes.insert(node, open);
                lent
            }
        };
        if lent.is_some() {
            self.opens.fetch_add(1, Ordering::Relaxed);
        }
        lent
    }

    /// A handle of the node is gone.
    pub(super) fn released(&self, node: NodeId) {
        let mut state = self.state();
        if let Some(open) = state.nodes.get_mut(&node) {
            open.handles -= 1;
            if open.handles == 0 {
                let gone = state.nodes.remove(&node);
                drop(state);
                drop(gone);
            }
        }
    }

    /// Gives back everything, for a session that is over.
    pub(super) fn end(&self) {
        let nodes = std::mem::take(&mut self.state().nodes);
        drop(nodes);
    }

    /// Counts a read that came to us.
    pub(super) fn answers(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a write that came to us.
    pub(super) fn writes(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn report(&self) -> NativeReads {
        NativeReads {
            off: self.state().off.clone(),
            opens: self.opens.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
    }
}

/// Says whether the next file would be refused as well: no right (EPERM: in a container, say), a stacked file system under
/// the cache (ELOOP), an unknown ioctl.
fn is_for_good(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::PERM | Errno::LOOP | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(5);

    fn backing() -> Backing {
        Backing(Arc::new(File::open("/proc/self/exe").expect("ours")))
    }

    fn refused(errno: Errno) -> impl FnOnce(&File) -> io::Result<BackingId> {
        move |_| Err(errno.into())
    }

    fn never(_: &File) -> io::Result<BackingId> {
        panic!("nothing is to be lent")
    }

    #[test]
    fn a_node_that_is_open_stays_as_its_first_open_was() {
        let native = Native::default();
        native.agreed(Ok(()));
        assert!(native.opened(NODE, Some(&backing()), refused(Errno::MFILE)).is_none());
        assert!(native.is_on(), "another time it may work");
        assert!(native.opened(NODE, Some(&backing()), never).is_none());
        native.released(NODE);
        assert!(native.opened(NODE, Some(&backing()), never).is_none(), "one is left");
        native.released(NODE);
        native.released(NODE);
        let asked = std::cell::Cell::new(false);
        let lent = native.opened(NODE, Some(&backing()), |_| {
            asked.set(true);
            Err(Errno::NFILE.into())
        });
        assert!(lent.is_none() && asked.get(), "the next first open decides anew");
    }

    #[test]
    fn a_kernel_that_refuses_for_good_is_not_asked_again() {
        let native = Native::default();
        assert!(!native.is_on());
        native.agreed(Ok(()));
        assert!(native.opened(NODE, Some(&backing()), refused(Errno::PERM)).is_none());
        assert!(!native.is_on());
        assert!(native.report().off.is_some_and(|why| why.contains("refuses")));
    }
}
