//! Making files resident because somebody asked for it, once.
//!
//! Owns: the hydrations that run and those that have ended lately. Refuses to know: how bytes come. Invariants: what does
//! not fit beside the pins is refused before anything is fetched; at most `FILES` files of one are under way; what is told
//! at the end is what is here then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use super::drive::{Drive, Inner};
use super::firewall::{Cause, Payer};
use super::pins::walk::{Found, Scope, Walk};
use super::pins::{FetchError, Look, PinError, Tally, fetch_file};
use super::report::{HydrationProgress, PinFailure};
use crate::model::RelPath;
use crate::state::{Node, StateError};

/// Files under way at once.
const FILES: usize = 8;
/// Hydrations that are remembered.
const REMEMBERED: usize = 64;
/// Failures that are told.
const FAILURES_TOLD: usize = 20;

/// What is wanted of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// All bytes.
    All,
    /// The beginnings and ends of media files, kept apart from the rest.
    Heads,
}

/// A hydration.
#[derive(Debug)]
pub struct Hydration {
    /// Its number, for asking again.
    pub id: u64,
    progress: watch::Sender<HydrationProgress>,
}

impl Hydration {
    /// Returns how far it is.
    pub fn progress(&self) -> HydrationProgress {
        self.progress.borrow().clone()
    }
}

/// The hydrations of a drive.
#[derive(Debug, Default)]
pub(super) struct Hydrations {
    next: AtomicU64,
    all: Mutex<VecDeque<Arc<Hydration>>>,
}

impl Hydrations {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Hydration>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns a hydration by its number, while it is remembered.
    pub fn hydration(&self, id: u64) -> Option<Arc<Hydration>> {
        self.hydrations.all().iter().find(|job| job.id == id).cloned()
    }

    /// Says how far a file is that is wanted; `None` if there is nothing to bring of it.
    fn how_far(&self, found: &Found, what: Wanted) -> Option<Look> {
        let mut look = self.look_at(&found.node)?;
        if what == Wanted::Heads {
            if !self.heads.is_kept(&found.path, look.len) {
                return None;
            }
            (look.resident, look.len) = self.heads.residency(look.id, look.len);
        }
        Some(look)
    }

    /// Counts what scopes cover, and what of it is pinned.
    fn tally(&self, scopes: Vec<Scope>, what: Wanted) -> Result<(Tally, u64), StateError> {
        let (mut walk, mut tally, mut pinned) = (Walk::new(scopes), Tally::default(), 0);
        let rules = self.pins.rules();
        while let Some(page) = walk.next(self)? {
            for found in &page {
                if let Some(look) = self.how_far(found, what) {
                    tally.add(&look);
                    if rules.cover(&found.project, &found.path) {
                        pinned += look.len;
                    }
                }
            }
            if self.stop.is_cancelled() {
                return Err(StateError::Closed);
            }
        }
        Ok((tally, pinned))
    }
}

impl Drive {
    /// Begins to make resident what paths and patterns cover now.
    ///
    /// # Errors
    /// See [`PinError`]; what can't all be here at once is refused.
    pub async fn hydrate(&self, paths: &[String], what: Wanted) -> Result<Arc<Hydration>, PinError> {
        let scopes = self.scopes_of(paths)?;
        let (drive, counting) = (Arc::clone(self.inner()), scopes.clone());
        let counted = tokio::task::spawn_blocking(move || drive.tally(counting, what)).await;
        let (wanted, pinned) = counted.unwrap_or(Err(StateError::Closed))?;
        let (room, needed) = match what {
            Wanted::All => {
                // Pins are counted as promised, not as far as they are here.
                let totals = self.pin_totals();
                let room = totals.room_bytes.saturating_sub(totals.bytes);
                (room, wanted.bytes.saturating_sub(pinned))
            }
            Wanted::Heads => (self.heads.usage().max_bytes, wanted.bytes),
        };
        if needed > room && wanted.resident_bytes < wanted.bytes {
            return Err(PinError::NoRoom { needed, room });
        }
        let hydrations = &self.hydrations;
        let job = Arc::new(Hydration {
            id: hydrations.next.fetch_add(1, Ordering::Relaxed) + 1,
            progress: watch::Sender::new(HydrationProgress::of(wanted)),
        });
        {
            let mut all = hydrations.all();
            all.push_back(Arc::clone(&job));
            // The oldest that has ended goes; one that runs may still be asked about.
            if all.len() > REMEMBERED
                && let Some(at) = all.iter().position(|job| job.progress.borrow().done)
            {
                drop(all.remove(at));
            }
        }
        tokio::spawn(run(Arc::downgrade(self.inner()), Arc::clone(&job), scopes, what));
        Ok(job)
    }
}

async fn run(drive: Weak<Inner>, job: Arc<Hydration>, scopes: Vec<Scope>, what: Wanted) {
    let Some(drive) = drive.upgrade() else { return };
    let stop = drive.stop.clone();
    let brought = tokio::select! {
        () = stop.cancelled() => Err(StateError::Closed),
        brought = bring(&drive, &job, scopes, what) => brought,
    };
    job.progress.send_modify(|progress| {
        progress.done = true;
        match brought {
            Ok(here) => progress.count(here),
            Err(e) => progress.error = Some(e.to_string()),
        }
    });
    let progress = job.progress();
    info!(
        files = progress.files,
        here = progress.resident_files,
        failed = progress.failed,
        "hydrated"
    );
}

async fn bring(drive: &Arc<Inner>, job: &Hydration, scopes: Vec<Scope>, what: Wanted) -> Result<Tally, StateError> {
    let gone = |_| StateError::Closed;
    let mut walk = Walk::new(scopes.clone());
    let mut running: JoinSet<(RelPath, u64, Result<(), FetchError>)> = JoinSet::new();
    loop {
        let going = Arc::clone(drive);
        let page = tokio::task::spawn_blocking(move || {
            let page = walk.next(&going);
            (walk, page)
        });
        let (walked, page) = page.await.map_err(gone)?;
        walk = walked;
        let Some(page) = page? else { break };
        for found in page {
            let Some(look) = drive.how_far(&found, what).filter(|look| !look.is_here()) else {
                continue;
            };
            if running.len() >= FILES {
                ended(job, running.join_next().await);
            }
            let (path, missing) = (found.path_in_drive(), look.missing());
            let drive = Arc::clone(drive);
            running.spawn(async move {
                let fetched = match what {
                    Wanted::All => fetch_file(drive, found.node, Cause::Hydrate).await,
                    Wanted::Heads => fetch_head(&drive, &found.node).await,
                };
                (path, missing, fetched)
            });
        }
    }
    while !running.is_empty() {
        ended(job, running.join_next().await);
    }
    let counting = Arc::clone(drive);
    let counted = tokio::task::spawn_blocking(move || counting.tally(scopes, what)).await;
    Ok(counted.map_err(gone)??.0)
}

/// Has the beginning and the end of a file kept apart.
async fn fetch_head(drive: &Arc<Inner>, node: &Node) -> Result<(), FetchError> {
    let content = drive.open_content(node)?;
    let payer = Payer::of(drive.firewall.own(), Cause::Hydrate);
    Ok(content.bring_head(&payer).await?)
}

type Ended = Result<(RelPath, u64, Result<(), FetchError>), tokio::task::JoinError>;

fn ended(job: &Hydration, ended: Option<Ended>) {
    let Some(Ok((path, missing, fetched))) = ended else {
        return;
    };
    job.progress.send_modify(|progress| match fetched {
        Ok(()) => {
            progress.resident_files += 1;
            progress.resident_bytes += missing;
        }
        Err(e) => {
            progress.failed += 1;
            if progress.failures.len() < FAILURES_TOLD {
                progress.failures.push(PinFailure {
                    path: path.to_string(),
                    why: e.to_string(),
                });
            }
        }
    });
}
