//! The scrub: all that is resident is held against its checksums once in a while, so that what rots on the disk is found
//! before somebody needs it.
//!
//! Owns: what is looked at next, how fast, and what came of it. Refuses to know: how bytes are checked (the cache does it),
//! how they come back (who reads them fetches them, or the pins do). Invariants: it looks at a piece only when nobody has
//! read anything for a moment, or has kept it waiting for long; what it looks at counts as no use; where it was survives
//! a restart, since the cache keeps with each content when it was looked at last.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use backlot_cache::{ContentId, GRANULE, Verified};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::drive::Inner;
use super::report::ScrubReport;

/// Bytes looked at in one go: a reader that comes meanwhile has the disk back after this many.
const STEP: u64 = 64 * GRANULE;
/// Nobody has read anything for this long: it is quiet. With [`STEP`] this also bounds the rate: 40 MiB a second.
const QUIET: Duration = Duration::from_millis(100);
/// On a machine that is never quiet a piece is looked at this often all the same: 11 GiB a day.
const PATIENCE: Duration = Duration::from_secs(30);
/// Contents that are asked for at a time: the cache goes through all its books for an answer.
const BATCH: usize = 1000;
/// When nothing is due, it is looked again after this part of the period, but within these bounds.
const PARTS: u32 = 10;
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));
/// After a start the drive has better things to do for a while.
const AFTER_START: Duration = Duration::from_secs(60);

/// The scrub of a drive's cache.
#[derive(Debug)]
pub(super) struct Scrub {
    every: Option<Duration>,
    report: Mutex<ScrubReport>,
}

impl Scrub {
    pub(super) fn new(setting: backlot_config::Scrub) -> Self {
        let every = match setting {
            backlot_config::Scrub::Off => None,
            backlot_config::Scrub::Every(period) => Some(period.into()),
        };
        let every_ms = every.map(|every: Duration| u64::try_from(every.as_millis()).unwrap_or(u64::MAX));
        Self {
            every,
            report: Mutex::new(ScrubReport {
                every_ms,
                ..ScrubReport::default()
            }),
        }
    }

    fn report(&self) -> MutexGuard<'_, ScrubReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what came of it since the start.
    pub(super) fn told(&self) -> ScrubReport {
        self.report().clone()
    }
}

/// What ended a wait.
#[derive(PartialEq, Eq)]
enum Waited {
    Quiet,
    Stop,
}

impl Inner {
    /// Returns what came of the scrub since the start, and what is due now.
    pub(super) fn scrub_now(&self) -> ScrubReport {
        let mut report = self.scrub.told();
        let due = self.cache.due(self.scrubbed_before(), 0);
        report.due_contents = due.count;
        report.due_bytes = due.bytes;
        report.oldest_ms = due.oldest.map(|at| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
        report
    }

    /// What was looked at last before this is due.
    fn scrubbed_before(&self) -> SystemTime {
        let every = self.scrub.every.and_then(|every| SystemTime::now().checked_sub(every));
        every.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Holds a piece of a content against its checksums; `None` if it is not here any more. What is bad is dropped, and
    /// comes back by itself if it is pinned.
    pub(super) fn verify_piece(
        &self,
        id: ContentId,
        at: u64,
    ) -> Result<Option<(Verified, u64)>, backlot_cache::CacheError> {
        let Some(content) = self.cache.look(id)?.filter(|content| content.resident_bytes() > 0) else {
            return Ok(None);
        };
        let verified = content.verify(at..at.saturating_add(STEP))?;
        if verified.dropped_whole {
            // Those who read it natively keep the damaged file; nobody else is to come to it.
            for (ino, open) in self.handles.contents() {
                if open.content().id() == id {
                    self.leave(ino, |_| true);
                }
            }
        }
        if verified.bad_granules > 0 {
            self.pins.tree_changed();
        }
        let end = at.saturating_add(STEP);
        let is_over = verified.dropped_whole || end >= content.len();
        Ok(Some((verified, if is_over { u64::MAX } else { end })))
    }

    /// Waits until nobody reads, or has been reading for too long.
    async fn quiet(&self, stop: &CancellationToken) -> Waited {
        let begun = Instant::now();
        loop {
            let before = self.stats.demands.load(Ordering::Relaxed);
            tokio::select! {
                () = stop.cancelled() => return Waited::Stop,
                () = tokio::time::sleep(QUIET) => {}
            }
            let is_quiet = self.stats.demands.load(Ordering::Relaxed) == before
                && self.stats.demanding.load(Ordering::Relaxed) == 0;
            if is_quiet || begun.elapsed() >= PATIENCE {
                return Waited::Quiet;
            }
            self.scrub.report().pauses += 1;
        }
    }

    /// Looks at all of a content, from where it was left.
    async fn scrub_content(self: &Arc<Self>, id: ContentId, stop: &CancellationToken) -> Waited {
        let mut at = match self.cache.looking() {
            Some((known, at)) if known == id => at,
            _ => 0,
        };
        loop {
            if self.quiet(stop).await == Waited::Stop {
                return Waited::Stop;
            }
            let drive = Arc::clone(self);
            let looked = tokio::task::spawn_blocking(move || drive.verify_piece(id, at)).await;
            let Ok(looked) = looked else { return Waited::Stop };
            let (verified, next) = match looked {
                Ok(Some(looked)) => looked,
                Ok(None) => break,
                Err(e) => {
                    debug!(content = %id, error = %e, "not looked at");
                    self.scrub.report().unreadable += 1;
                    break;
                }
            };
            let mut report = self.scrub.report();
            report.bytes += verified.bytes;
            report.bad_granules += verified.bad_granules;
            drop(report);
            if next == u64::MAX {
                break;
            }
            at = next;
            self.cache.looked_at(id, Some(at));
        }
        self.cache.looked_at(id, None);
        self.scrub.report().contents += 1;
        Waited::Quiet
    }
}

/// Looks through the cache for as long as the drive is open.
pub(super) async fn keep_scrubbed(drive: Weak<Inner>, stop: CancellationToken) {
    let Some(every) = drive.upgrade().and_then(|drive| drive.scrub.every) else {
        return;
    };
    let mut wait = AFTER_START.min(every);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let Some(drive) = drive.upgrade() else { return };
        let asking = Arc::clone(&drive);
        let due = tokio::task::spawn_blocking(move || asking.cache.due(asking.scrubbed_before(), BATCH)).await;
        let Ok(due) = due else { return };
        if due.contents.is_empty() {
            wait = (every / PARTS).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1);
            continue;
        }
        let bad = drive.scrub.told().bad_granules;
        drive.scrub.report().running = true;
        for id in due.contents {
            if drive.scrub_content(id, &stop).await == Waited::Stop {
                return;
            }
        }
        drive.scrub.report().running = false;
        let found = drive.scrub.told().bad_granules - bad;
        if found > 0 {
            warn!(
                granules = found,
                "the scrub found damage in the cache; the disk may be failing"
            );
        } else {
            info!(contents = due.count, bytes = due.bytes, "the scrub found no damage");
        }
        wait = Duration::ZERO;
    }
}
