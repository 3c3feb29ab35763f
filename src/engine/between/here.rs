//! What copies bring to the site that the drive shows: the drive looks at it once they have settled.
//!
//! Owns: which folders are to be looked at. Refuses to know: how a folder is listed. Invariant: many arrivals in one folder
//! cost one listing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tracing::debug;

use crate::engine::drive::{Inner, LookupError};
use crate::engine::scan;
use crate::model::{Ino, RelPath, SiteName};
use crate::transfer::CopyListener;

/// How long arrivals are gathered before their folders are listed.
const GATHER: Duration = Duration::from_secs(2);
/// Folders of one listing round; beyond it their projects are scanned.
const FOLDERS_MAX: usize = 500;

/// Folders of the drive in which something arrived.
pub(in crate::engine) struct Arrivals {
    drive: Weak<Inner>,
    folders: Mutex<BTreeSet<RelPath>>,
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

impl Arrivals {
    /// Makes what the transfers tell.
    pub(in crate::engine) fn listener(drive: &Arc<Inner>) -> Arc<dyn CopyListener> {
        Arc::new(ArrivalsHandle(Arc::new(Self {
            drive: Arc::downgrade(drive),
            folders: Mutex::default(),
        })))
    }

    fn take(&self) -> BTreeSet<RelPath> {
        std::mem::take(&mut *self.folders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lists the folders that are known, or the nearest above them that is.
    fn look(&self) {
        let folders = self.take();
        let Some(drive) = self.drive.upgrade() else { return };
        let many = folders.len() > FOLDERS_MAX;
        let mut known = BTreeSet::new();
        for mut folder in folders {
            if many {
                let top = folder.components().next().and_then(|top| RelPath::new(top).ok());
                folder = top.unwrap_or_default();
            }
            while !folder.is_root() && !matches!(drive.tree.resolve(&folder), Ok(Some(_))) {
                folder = folder.split_last().map_or_else(RelPath::root, |(above, _)| above);
            }
            known.insert(folder);
        }
        for folder in known.into_iter().filter(|folder| !folder.is_root()) {
            match scan::begin(&drive, &folder) {
                Ok(_) => {}
                Err(LookupError::NotFound(_) | LookupError::NotDir(_)) => {}
                Err(error) => debug!(path = %folder, %error, "what arrived is shown with the next scan"),
            }
        }
    }
}

#[derive(Debug)]
struct ArrivalsHandle(Arc<Arrivals>);

impl CopyListener for ArrivalsHandle {
    fn arrived(&self, root: Ino, path: &RelPath, target: &SiteName) {
        let arrivals = &self.0;
        let Some(drive) = arrivals.drive.upgrade() else { return };
        let project = drive.projects.iter().find(|project| project.root == root);
        let Some(project) = project.filter(|project| project.site.name() == target) else {
            return;
        };
        let at = project.folder_path().concat(path);
        let folder = at.split_last().map_or_else(RelPath::root, |(above, _)| above);
        let is_first = {
            let mut folders = arrivals.folders.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = folders.is_empty();
            folders.insert(folder);
            is_first
        };
        if is_first {
            let arrivals = Arc::clone(arrivals);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                arrivals.look();
            });
        }
    }
}
