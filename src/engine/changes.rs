//! What changed, told to whoever has to know: the kernel, open handles, what watches the tree.
//!
//! Owns: the way of a change from the store to the kernel, and a look at a single name at its site. Refuses to know: why
//! something changed, how the kernel is told. Invariant: a change is in the store before anybody is told of it.

use std::sync::{Arc, PoisonError};

use backlot_platform::types::NodeId;
use tracing::{debug, info, warn};

use super::drive::{Inner, now_ms, remote};
use crate::model::{Ino, Name};
use crate::providers::{ErrorKind, Listed};
use crate::state::ListingDiff;

impl Inner {
    /// The kernel asks about a folder: it may cache its entries from now on, and its listing should be fresh.
    pub(super) fn looked_at(self: &Arc<Self>, dir: Ino) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(dir);
        super::scan::recheck_if_old(self, dir);
    }

    /// Looks at one file at its site and takes over what it finds: the way out of a version mismatch.
    pub(super) async fn refresh(self: &Arc<Self>, ino: Ino) {
        let (dir, name) = match self.tree.parent_of(ino) {
            Ok(Some(parent)) => parent,
            Ok(None) => return,
            Err(e) => return warn!(%ino, error = %e, "can't look for the file's folder"),
        };
        self.refresh_name(dir, &name).await;
    }

    /// Looks at one name at its site and takes over what it finds.
    pub(super) async fn refresh_name(self: &Arc<Self>, dir: Ino, name: &Name) {
        let Ok((project, folder)) = self.locate(dir) else {
            return;
        };
        let (path, name) = (folder.join(name), name.clone());
        let began = match self.store.moment() {
            Ok(began) => began,
            Err(e) => return warn!(%path, error = %e, "can't look at the store"),
        };
        let looked = tokio::time::timeout(self.limits.read_deadline, project.site.provider().stat(&path)).await;
        let written = match looked {
            Ok(Ok(entry)) => {
                let (remote, doubts) = (remote(Listed { name, entry }), Arc::clone(&self.doubts));
                self.store
                    .write(move |txn| {
                        txn.apply_entry(dir, &remote, began, now_ms())
                            .inspect(|diff| doubts.note(diff))
                    })
                    .await
            }
            Ok(Err(e)) if e.kind == ErrorKind::NotFound => {
                self.store
                    .write(move |txn| txn.apply_absent(dir, &name, began, now_ms()))
                    .await
            }
            Ok(Err(e)) => {
                project.site.link().failed(&e);
                return debug!(%path, error = %e, "could not look at the file");
            }
            Err(_elapsed) => return,
        };
        match written {
            Ok(diff) => self.announce(&diff),
            Err(e) => warn!(%path, error = %e, "could not store what the site says"),
        }
    }

    /// Tells open handles and the kernel what changed. The change is in the store by now.
    pub(super) fn announce(&self, diff: &ListingDiff) {
        for (ino, content) in &diff.changed {
            if *content {
                // First: whoever comes by the name from now on gets the new bytes.
                self.leave(*ino, |_| true);
            }
            if *content && self.handles.mark_stale(*ino) {
                info!(%ino, "an open file changed at its site; its handles answer ESTALE from now on");
            }
        }
        for (_, ino) in &diff.removed {
            self.handles.mark_stale(*ino);
        }
        if !diff.first && diff.added.len() + diff.removed.len() > 0 {
            self.sequences.changed(diff.dir);
        }
        if diff.changed.iter().any(|(_, content)| *content) || diff.added.len() + diff.removed.len() > 0 {
            self.pins.tree_changed();
            self.sync.changed(diff.dir);
        }
        let Some(sink) = self.sink.get() else { return };
        if !self
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&diff.dir)
        {
            return;
        }
        for (ino, content) in &diff.changed {
            let node = self.names_lead_to(*ino);
            if *content {
                sink.content_changed(node);
            } else {
                sink.attr_changed(node);
            }
        }
        if diff.added.is_empty() && diff.removed.is_empty() {
            return;
        }
        for (name, _) in diff.added.iter().chain(&diff.removed) {
            sink.entry_changed(NodeId(diff.dir.0), name.as_os_str());
        }
        sink.content_changed(NodeId(diff.dir.0));
    }

    /// Tells the kernel that names of a folder lead elsewhere now.
    pub(super) fn tell_names(&self, dir: Ino, names: &[&Name]) {
        let Some(sink) = self.sink.get() else { return };
        for name in names {
            sink.entry_changed(NodeId(dir.0), name.as_os_str());
        }
        sink.content_changed(NodeId(dir.0));
    }

    /// Tells the kernel that nothing it holds of a file's bytes is to be used any more.
    pub(super) fn tell_content(&self, ino: Ino) {
        if let Some(sink) = self.sink.get() {
            sink.content_changed(self.names_lead_to(ino));
        }
    }

    /// Tells the kernel that the attributes of a node changed.
    pub(super) fn tell_attrs(&self, node: NodeId) {
        if let Some(sink) = self.sink.get() {
            sink.attr_changed(node);
        }
    }
}
