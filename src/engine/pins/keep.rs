//! Fetching what is pinned and not here: one task per drive, behind everything that somebody waits for.
//!
//! Owns: the rounds, what is being fetched, what failed and when it is tried again. Refuses to know: what rules mean, how
//! bytes come. Invariants: a mark is taken off a content only after a whole round without it; at most `FILES` files are
//! under way; nothing is asked of a site that is down; what does not fit is not begun, so it evicts nothing.
//!
//! A round is a look and then a fetch. The look goes through all that is pinned, marks it in the cache and counts; it
//! waits for no site. The fetch goes through it again and brings what is lacking. When the tree or the rules change it
//! ends early, for another look; fetches under way go on.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::walk::{Found, Walk};
use super::{FAILURES_TOLD, Look, Tally};
use crate::engine::drive::{Inner, OpenError, Project};
use crate::engine::firewall::{Cause, Payer};
use crate::engine::hydrate::HydrateError;
use crate::engine::link::LinkState;
use crate::engine::report::PinFailure;
use crate::engine::schedule::Priority;
use crate::model::{Ino, RelPath};
use crate::providers::ErrorKind;
use crate::state::{Node, StateError};

/// Files under way at once: enough to keep a site's background slots busy with small ones.
const FILES: usize = 8;
/// A file is fetched in windows of this size, so that a large one does not queue a request for each of its parts.
const WINDOW: u64 = 32 << 20;
/// Changes are looked at no sooner after the last look than this, nor than so many times as long as that took.
const LOOK_AFTER: Duration = Duration::from_millis(300);
const LOOK_FACTOR: u32 = 10;
/// A look is due after this long even if nobody tells of a change: for what was lost with the cache's folder, say.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// The first wait after a failure; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// Failures that are remembered; what fails beyond them is tried again in the next round.
const FAILURES: usize = 10_000;

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum FetchError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Hydrate(#[from] HydrateError),
}

impl FetchError {
    /// The site is out of reach: nothing is wrong with the file.
    pub(in crate::engine) fn is_offline(&self) -> bool {
        match self {
            Self::Hydrate(HydrateError::Offline { .. }) => true,
            Self::Hydrate(HydrateError::Provider(e)) => e.is_link_failure(),
            Self::Hydrate(_) | Self::Open(_) => false,
        }
    }

    /// The site has something else there by now.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Hydrate(HydrateError::Provider(e))
            if matches!(e.kind, ErrorKind::VersionMismatch | ErrorKind::NotFound))
    }
}

/// Makes all of a file resident, whenever there is a turn for it.
pub(in crate::engine) async fn fetch_file(drive: Arc<Inner>, node: Node, cause: Cause) -> Result<(), FetchError> {
    let ino = node.ino;
    let fetched = async {
        let content = drive.open_content(&node)?;
        let payer = Payer::of(drive.firewall.own(), cause);
        let mut at = 0;
        while at < node.size {
            let end = (at + WINDOW).min(node.size);
            content.bring(at..end, Priority::Pin, &payer).await?;
            at = end;
        }
        Ok(())
    };
    let fetched: Result<(), FetchError> = fetched.await;
    if fetched.as_ref().is_err_and(FetchError::is_stale) {
        drive.refresh(ino).await;
    }
    fetched
}

/// Has the pins looked at whenever a site answers again.
pub(super) async fn wake_when_up(drive: Weak<Inner>, mut link: watch::Receiver<LinkState>) {
    while link.changed().await.is_ok() {
        let is_up = *link.borrow_and_update() == LinkState::Up;
        let Some(drive) = drive.upgrade() else { return };
        if is_up {
            drive.pins.tree_changed();
        }
    }
}

/// A file that failed.
#[derive(Debug)]
struct Failure {
    tries: u32,
    due: Instant,
    /// Met in this round: still pinned, and still not here.
    is_met: bool,
}

/// A file under way.
#[derive(Debug)]
struct Running {
    task: AbortHandle,
    project: Arc<Project>,
    below: RelPath,
    look: Look,
}

type Outcome = (Ino, RelPath, Result<(), FetchError>);

/// What a drive's task knows from round to round.
#[derive(Debug, Default)]
struct Keeper {
    tasks: JoinSet<Outcome>,
    running: HashMap<Ino, Running>,
    failures: HashMap<Ino, Failure>,
    /// Files that came in this round.
    came: u64,
}

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waited {
    /// A fetch has ended.
    Ended,
    /// Another look is due.
    Look,
    /// Nothing is left to be done before then.
    Idle(Instant),
    /// The drive is being closed.
    Stop,
}

pub(super) async fn keep(drive: Weak<Inner>, stop: CancellationToken) {
    let mut keeper = Keeper::default();
    while let Some(drive) = drive.upgrade().filter(|_| !stop.is_cancelled()) {
        let began = Instant::now();
        if let Err(e) = keeper.look(&drive).await
            && !stop.is_cancelled()
        {
            warn!(error = %e, "pins can't be looked through; tried again");
        }
        let next = Instant::now() + LOOK_AFTER.max(began.elapsed() * LOOK_FACTOR);
        let until = match keeper.fetch(&drive, next).await {
            Waited::Stop => return,
            Waited::Idle(until) => until,
            Waited::Look | Waited::Ended => next,
        };
        // While nothing is to be done nobody keeps the drive from being dropped.
        let wake = Arc::clone(&drive.pins.wake);
        drop(drive);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(until) => {}
            () = wake.notified() => tokio::time::sleep_until(next).await,
        }
    }
}

impl Keeper {
    /// Marks and counts all that is pinned.
    async fn look(&mut self, drive: &Arc<Inner>) -> Result<(), StateError> {
        drive.mark_pins().await?;
        let rules = drive.pins.rules();
        self.running.retain(|_, running| {
            let is_wanted = rules.cover(&running.project, &running.below);
            if !is_wanted {
                running.task.abort();
            }
            is_wanted
        });
        if rules.is_empty() {
            self.failures.clear();
        }
        drive.pins.known().fetching = self.running.len();
        Ok(())
    }

    /// Brings what is lacking, until another look is due.
    async fn fetch(&mut self, drive: &Arc<Inner>, next: Instant) -> Waited {
        let mut walk = Walk::new(drive.pins.rules().scopes());
        let mut unfitting = Tally::default();
        let mut failing = Vec::new();
        let (mut failed, mut waiting, mut is_woken) = (0, Vec::new(), false);
        let mut here = 0;
        self.came = 0;
        let begun = Instant::now();
        loop {
            let going = Arc::clone(drive);
            let page = tokio::task::spawn_blocking(move || {
                let page = walk.next(&going);
                (walk, page)
            });
            let Ok((walked, page)) = page.await else {
                return Waited::Stop;
            };
            walk = walked;
            let page = match page {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(e) => {
                    debug!(error = %e, "pins can't be gone through");
                    break;
                }
            };
            let room = drive.room().bytes();
            for found in page {
                let Some(look) = drive.look_at(&found.node) else {
                    continue;
                };
                if look.is_here() {
                    here += 1;
                    continue;
                }
                if self.running.contains_key(&found.node.ino) {
                    continue;
                }
                if let Some(failure) = self.failures.get_mut(&found.node.ino) {
                    failure.is_met = true;
                    if failure.due > Instant::now() {
                        failed += 1;
                        continue;
                    }
                }
                let site = &found.project.site;
                if site.link().is_down() {
                    if !waiting.contains(&site.name().0) {
                        waiting.push(site.name().0.clone());
                    }
                    continue;
                }
                while self.running.len() >= FILES {
                    match self.wait(drive, &mut is_woken, next, &mut failing).await {
                        Waited::Ended => {}
                        over => return over,
                    }
                }
                if look.missing() > room.saturating_sub(self.spoken_for(drive)) {
                    unfitting.add(&look);
                    continue;
                }
                self.start(drive, found, look);
            }
            drive.pins.known().fetching = self.running.len();
            if is_woken && Instant::now() >= next {
                return Waited::Look;
            }
            tokio::task::yield_now().await;
        }
        self.failures
            .retain(|ino, failure| std::mem::take(&mut failure.is_met) || self.running.contains_key(ino));
        let had_any = !self.running.is_empty();
        loop {
            self.tell(drive, failed, &failing, unfitting, &waiting);
            if self.running.is_empty() {
                break;
            }
            match self.wait(drive, &mut is_woken, next, &mut failing).await {
                Waited::Ended => {}
                over => return over,
            }
        }
        // Those that somebody else brought since the look are among them.
        drive.pins.known().wanted.resident_files = here + self.came;
        // What was on its way may have taken less than it was thought to.
        if is_woken || had_any && unfitting.files > 0 {
            return Waited::Look;
        }
        // What was due when the round began waits for something else: a site, or room. What became due since was passed over.
        let due = self
            .failures
            .values()
            .map(|failure| failure.due)
            .filter(|due| *due > begun)
            .min();
        let again = Instant::now() + LOOK_AGAIN;
        Waited::Idle(due.map_or(again, |due| due.min(again)).max(next))
    }

    fn tell(&self, drive: &Inner, failed: u64, failing: &[PinFailure], unfitting: Tally, waiting: &[String]) {
        let mut known = drive.pins.known();
        known.failed = failed + failing.len() as u64;
        if !failing.is_empty() || known.failed == 0 {
            known.failures = failing.iter().take(FAILURES_TOLD).cloned().collect();
        }
        known.unfitting = unfitting;
        waiting.clone_into(&mut known.waiting_for);
        known.fetching = self.running.len();
    }

    /// Bytes that pins have, or that are on their way for them.
    fn spoken_for(&self, drive: &Inner) -> u64 {
        let coming = self.running.values().map(|running| {
            let here = drive.cache.residency(running.look.id, running.look.len);
            match here {
                Ok(backlot_cache::Residency::Full) => 0,
                Ok(backlot_cache::Residency::Partial(here)) => running.look.len.saturating_sub(here),
                Ok(backlot_cache::Residency::None) | Err(_) => running.look.len,
            }
        });
        drive.cache.usage().pinned_bytes + coming.sum::<u64>()
    }

    fn start(&mut self, drive: &Arc<Inner>, found: Found, look: Look) {
        // A content that has come up since the look is marked before its first byte is here.
        drive.cache.pin(look.id, drive.pins.round.load(Ordering::Relaxed));
        let (ino, path) = (found.node.ino, found.path_in_drive());
        let fetching = fetch_file(Arc::clone(drive), found.node, Cause::Pin);
        let task = self.tasks.spawn(async move { (ino, path, fetching.await) });
        let running = Running {
            task,
            project: found.project,
            below: found.path,
            look,
        };
        self.running.insert(ino, running);
    }

    /// Waits until a fetch has ended or, once somebody asked for it, another look is due.
    async fn wait(
        &mut self,
        drive: &Arc<Inner>,
        is_woken: &mut bool,
        next: Instant,
        failing: &mut Vec<PinFailure>,
    ) -> Waited {
        loop {
            let look = async {
                if *is_woken {
                    tokio::time::sleep_until(next).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = drive.stop.cancelled() => return Waited::Stop,
                Some(ended) = self.tasks.join_next() => {
                    match ended {
                        Ok(ended) => self.ended(drive, ended, failing),
                        // Taken off, or panicked.
                        Err(e) => self.running.retain(|_, running| running.task.id() != e.id()),
                    }
                    return Waited::Ended;
                }
                () = look => return Waited::Look,
                () = drive.pins.wake.notified(), if !*is_woken => *is_woken = true,
            }
        }
    }

    fn ended(&mut self, drive: &Inner, (ino, path, fetched): Outcome, failing: &mut Vec<PinFailure>) {
        self.running.remove(&ino);
        drive.pins.known().fetching = self.running.len();
        let error = match fetched {
            Ok(()) => {
                self.failures.remove(&ino);
                self.came += 1;
                drive.pins.known().wanted.resident_files += 1;
                return;
            }
            Err(error) => error,
        };
        if error.is_offline() {
            info!(%path, error = %error, "a pinned file waits for its site");
            // It may have been up again before this was looked at.
            drive.pins.look_soon();
            return;
        }
        let tries = self.failures.get(&ino).map_or(0, |failure| failure.tries) + 1;
        let wait = RETRY_MAX.min(RETRY_FIRST * 2_u32.saturating_pow((tries - 1).min(16)));
        warn!(%path, error = %error, ?wait, "a pinned file could not be fetched; it is tried again");
        failing.push(PinFailure {
            path: path.to_string(),
            why: error.to_string(),
        });
        if self.failures.len() < FAILURES || self.failures.contains_key(&ino) {
            let due = Instant::now() + wait;
            let is_met = false;
            self.failures.insert(ino, Failure { tries, due, is_met });
        }
    }
}
