//! One project, kept in step at one site.
//!
//! Owns: what has changed since it was looked at, what the lane is at, when it looks again. Refuses to know: how a folder is
//! compared, how copies are made. Invariants: a change that comes in while a folder is compared is looked at afterwards; what
//! is remembered of changes is bounded, and beyond that all is looked at.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::compare::{self, Folder, Found, Trouble};
use super::lease::{self, Lease, Note};
use crate::engine::drive::{Inner, Project, now_ms};
use crate::engine::link::LinkState;
use crate::engine::report::SyncReport;
use crate::engine::site::Site;
use crate::model::{Ino, RelPath, SiteName};
use crate::providers::{ErrorKind, ProviderError};

/// Changed folders that are remembered one by one.
const REMEMBERED: usize = 10_000;
/// The first wait after trouble that is not the link's; it doubles.
const TROUBLE_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const TROUBLE_MAX: Duration = Duration::from_secs(300);

/// A project that a site is to have all of.
#[derive(Debug)]
pub(super) struct Lane {
    project: Arc<Project>,
    site: Arc<Site>,
    dirty: Mutex<Dirty>,
    bell: Notify,
    told: Mutex<SyncReport>,
}

/// What changed since it was looked at.
#[derive(Debug, Default)]
struct Dirty {
    folders: HashSet<Ino>,
    all: bool,
}

/// How a term under one lease ended.
enum End {
    /// The daemon stops.
    Stopped,
    /// The lease may be another's.
    Lost,
    /// It can't go on for now.
    Trouble(Trouble),
}

impl Lane {
    pub(super) fn new(project: Arc<Project>, site: Arc<Site>) -> Self {
        let told = SyncReport {
            project: project.name.0.clone(),
            site: site.name().0.clone(),
            state: "starting".to_owned(),
            reason: None,
            checked_at_ms: None,
            files: 0,
            there: 0,
            enqueued: 0,
            foreign: 0,
            failed_folders: 0,
        };
        Self {
            project,
            site,
            dirty: Mutex::default(),
            bell: Notify::new(),
            told: Mutex::new(told),
        }
    }

    fn dirty(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, SyncReport> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self) -> SyncReport {
        self.told().clone()
    }

    pub(super) fn serves(&self, root: Ino, sites: &[SiteName]) -> bool {
        self.project.root == root && sites.contains(self.site.name())
    }

    pub(super) fn changed(&self, dir: Ino) {
        let mut dirty = self.dirty();
        if dirty.folders.len() < REMEMBERED {
            dirty.folders.insert(dir);
        } else {
            dirty.all = true;
        }
        drop(dirty);
        self.bell.notify_one();
    }

    /// Says what the lane is at; logs it where that is news.
    fn is_at(&self, state: &str, reason: Option<String>) {
        let mut told = self.told();
        if told.state == state && told.reason == reason {
            return;
        }
        state.clone_into(&mut told.state);
        told.reason.clone_from(&reason);
        drop(told);
        let (project, site) = (&self.project.name, self.site.name());
        match (state, reason) {
            ("trouble", Some(reason)) => warn!(%project, %site, %reason, "the site is not kept in step for now"),
            ("held", Some(by)) => info!(%project, %site, %by, "another service keeps the site in step; this one waits"),
            ("comparing", _) => debug!(%project, %site, "comparing"),
            (state, reason) => info!(%project, %site, reason = reason.as_deref(), "{state}"),
        }
    }

    fn count(&self, found: &Found) {
        self.told().enqueued += found.enqueued;
    }
}

/// Keeps a site in step until the drive stops.
pub(super) async fn serve(drive: Weak<Inner>, lane: Arc<Lane>) {
    let Some((stop, ttl, note)) = drive.upgrade().map(|drive| {
        let note = Note {
            service: drive.site_id().to_owned(),
            store: drive.store.uuid().to_string(),
            renewals: 0,
        };
        (drive.stop.clone(), drive.sync_settings.lease.as_duration(), note)
    }) else {
        return;
    };
    let mut wait = TROUBLE_FIRST;
    loop {
        if !link_up(&lane, &stop).await {
            return;
        }
        let dir = lane.project.path_at(lane.site.name());
        let told = |holder: &str| lane.is_at("held", Some(holder.to_owned()));
        let taken = lease::take(&lane.site, &dir, &lane.project.name, note.clone(), ttl, &stop, told).await;
        let end = match taken {
            Ok(None) => return,
            Ok(Some(lease)) => {
                let begun = Instant::now();
                let end = term(&drive, &lane, &lease, &stop).await;
                lease.release().await;
                if begun.elapsed() > TROUBLE_MAX {
                    wait = TROUBLE_FIRST;
                }
                end
            }
            Err(e) => End::Trouble(note_failure(&lane.site, e).into()),
        };
        match end {
            End::Stopped => return,
            End::Lost => {}
            End::Trouble(Trouble::Provider(e)) if e.is_link_failure() && lane.site.link().is_down() => {}
            End::Trouble(e) => {
                lane.is_at("trouble", Some(e.to_string()));
                if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                    return;
                }
                wait = (wait * 2).min(TROUBLE_MAX);
            }
        }
    }
}

fn note_failure(site: &Site, e: ProviderError) -> ProviderError {
    site.link().failed(&e);
    e
}

/// Waits until the site is not known to be down; `false` when the daemon stops.
async fn link_up(lane: &Lane, stop: &CancellationToken) -> bool {
    let mut state = lane.site.link().watch();
    loop {
        let reason = match &*state.borrow_and_update() {
            LinkState::Down { reason, .. } => reason.clone(),
            LinkState::Up | LinkState::Unknown => return !stop.is_cancelled(),
        };
        lane.is_at("site down", Some(reason));
        match stop.run_until_cancelled(state.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return false,
        }
    }
}

/// Works under a lease: all of it first, then what changes, and all of it again when it is time.
async fn term(drive: &Weak<Inner>, lane: &Lane, lease: &Lease, stop: &CancellationToken) -> End {
    loop {
        let next = {
            let Some(drive) = drive.upgrade() else {
                return End::Stopped;
            };
            // What changes from now on is looked at afterwards.
            *lane.dirty() = Dirty::default();
            lane.is_at("comparing", None);
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = lease.lost().cancelled() => return End::Lost,
                done = all(&drive, lane) => done,
            };
            match done {
                Ok(found) => {
                    let mut told = lane.told();
                    told.checked_at_ms = Some(now_ms());
                    (told.files, told.there, told.foreign) = (found.files, found.there, found.foreign);
                    told.failed_folders = found.failed;
                    drop(told);
                    lane.is_at("in step", found.why);
                    let next = drive.sync_settings.check_interval.as_duration();
                    Instant::now() + if found.failed > 0 { next.min(TROUBLE_MAX) } else { next }
                }
                Err(e) => return End::Trouble(e),
            }
        };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = lease.lost().cancelled() => return End::Lost,
                () = tokio::time::sleep_until(next) => break,
                () = lane.bell.notified() => {}
            }
            let Some(drive) = drive.upgrade() else {
                return End::Stopped;
            };
            let dirty = std::mem::take(&mut *lane.dirty());
            if dirty.all {
                break;
            }
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = lease.lost().cancelled() => return End::Lost,
                done = changed(&drive, lane, dirty.folders) => done,
            };
            if let Err(e) = done {
                // All of it is looked at in the next term, these folders among it.
                return End::Trouble(e);
            }
        }
    }
}

/// Compares all folders of the project, several at a time.
async fn all(drive: &Arc<Inner>, lane: &Lane) -> Result<Found, Trouble> {
    let mut sum = Found::default();
    let mut todo = vec![(lane.project.root, RelPath::root())];
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < drive.limits.scan_parallel
            && let Some((dir, below)) = todo.pop()
        {
            running.push(one(drive, lane, dir, below));
        }
        let Some(found) = running.next().await else {
            return Ok(sum);
        };
        let found = found?;
        sum.files += found.files;
        sum.there += found.there;
        sum.foreign += found.foreign;
        sum.enqueued += found.enqueued;
        sum.failed += found.failed;
        sum.why = sum.why.or(found.why);
        todo.extend(found.folders);
    }
}

/// Compares the folders that changed.
async fn changed(drive: &Arc<Inner>, lane: &Lane, folders: HashSet<Ino>) -> Result<(), Trouble> {
    let mut todo = folders.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < drive.limits.scan_parallel
            && let Some(dir) = todo.next()
        {
            // A folder of another project, or one that is gone by now.
            let Some((project, below)) = drive.place(dir)? else {
                continue;
            };
            if project.root == lane.project.root {
                running.push(one(drive, lane, dir, below));
            }
        }
        match running.next().await {
            Some(found) => drop(found?),
            None => return Ok(()),
        }
    }
}

async fn one(drive: &Arc<Inner>, lane: &Lane, dir: Ino, below: RelPath) -> Result<Found, Trouble> {
    let at = Folder {
        project: &lane.project,
        site: &lane.site,
        dir,
        below,
        wanted: true,
        only: None,
    };
    let shown = at.below.clone();
    let found = match compare::folder(drive, at).await {
        // A folder that can't be looked at holds up no other.
        Err(Trouble::Provider(e)) if !e.is_link_failure() && e.kind != ErrorKind::Auth => {
            warn!(project = %lane.project.name, site = %lane.site.name(), path = %shown, error = %e,
                "a folder could not be looked at; it is tried again with the next look at all of it");
            let folders = drive.store.read(|txn| txn.subfolders(dir))?.into_iter();
            Found {
                folders: folders.map(|(name, ino)| (ino, shown.join(&name))).collect(),
                failed: 1,
                why: Some(e.to_string()),
                ..Found::default()
            }
        }
        found => found?,
    };
    if found.enqueued > 0 {
        lane.count(&found);
        drive.wake_transfers();
    }
    Ok(found)
}
