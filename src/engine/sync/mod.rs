//! The service that keeps sites in step: what a project has at its remote site comes to every site that is to have all of it.
//!
//! Owns: one lane for each project and such site, what it is at, when it looks again. Refuses to know: the kernel, how copies
//! are made. Invariants: nothing sleeps for a fixed time while there is something to do; a lane works under a lease alone; a
//! site that does not answer holds up no other; nothing is ever deleted or taken for deleted.

pub(in crate::engine) mod compare;
mod enqueue;
mod lane;
mod lease;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::drive::{Drive, Inner};
use super::report::SyncReport;
use crate::model::{Ino, SiteName};
use lane::Lane;

/// How long lanes may take to give their leases up when the daemon ends.
const GRACE: Duration = Duration::from_secs(3);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A project that is not in the settings.
    #[error("there is no project `{0}`")]
    NoProject(String),
    /// Nothing to keep in step.
    #[error("none of the projects names a site in `always-accessible-on`, so there is nothing to keep in step")]
    Nothing,
}

/// The service of a drive; without lanes where it does not run.
#[derive(Debug, Default)]
pub(super) struct Syncing {
    lanes: OnceLock<Vec<Arc<Lane>>>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Syncing {
    fn lanes(&self) -> &[Arc<Lane>] {
        self.lanes.get().map_or(&[], Vec::as_slice)
    }

    fn running(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether a project is kept in step at one of some sites: then what they lack is on its way, looked at or not.
    pub(super) fn serves(&self, root: Ino, sites: &[SiteName]) -> bool {
        self.lanes().iter().any(|lane| lane.serves(root, sites))
    }

    /// Something changed in a folder. Cheap.
    pub(super) fn changed(&self, dir: Ino) {
        for lane in self.lanes() {
            lane.changed(dir);
        }
    }

    /// Waits until the lanes have given up their leases, after the drive's `stop`.
    pub(super) async fn ended(&self) {
        let running = std::mem::take(&mut *self.running());
        if tokio::time::timeout(GRACE, futures::future::join_all(running))
            .await
            .is_err()
        {
            warn!("a lease of the sync service was not given up in time; another service waits until it has run out");
        }
    }
}

impl Drive {
    /// Begins what goes on by itself where nothing is mounted: the queues are worked off, projects are scanned, and sites that
    /// are to have everything are kept in step, of the projects named, of all if none is.
    ///
    /// # Errors
    /// See [`SyncError`]; nothing has begun then.
    pub fn start_sync(&self, projects: &[String]) -> Result<(), SyncError> {
        if let Some(unknown) = projects
            .iter()
            .find(|name| !self.projects.iter().any(|project| project.name.0 == **name))
        {
            return Err(SyncError::NoProject(unknown.clone()));
        }
        let served = |name: &str| projects.is_empty() || projects.iter().any(|wanted| wanted == name);
        let mut lanes = Vec::new();
        let mut scanned = Vec::new();
        for project in self.projects.iter().filter(|project| served(&project.name.0)) {
            let before = lanes.len();
            for (index, site) in project.always.iter().enumerate() {
                let names = project.always[..index].iter().map(|earlier| earlier.name());
                let mut storages = names.chain([project.site.name()]);
                if let Some(same) = storages.find(|other| self.doors.are_one(other, site.name())) {
                    info!(project = %project.name, site = %site.name(), "has what {same} has: they are doors to one storage");
                    continue;
                }
                lanes.push(Arc::new(Lane::new(Arc::clone(project), Arc::clone(site))));
            }
            if lanes.len() > before {
                scanned.push(Arc::clone(project));
            }
        }
        if lanes.is_empty() {
            return Err(SyncError::Nothing);
        }
        self.start_in_background(&scanned);
        // Started once.
        drop(self.sync.lanes.set(lanes));
        let lanes = self.sync.lanes().iter();
        let started = lanes.map(|lane| tokio::spawn(lane::serve(Arc::downgrade(self.inner()), Arc::clone(lane))));
        self.sync.running().extend(started);
        Ok(())
    }
}

impl Inner {
    /// Returns what the service does, by project and site; empty where it does not run.
    #[must_use]
    pub fn sync_report(&self) -> Vec<SyncReport> {
        self.sync.lanes().iter().map(|lane| lane.report()).collect()
    }
}
