//! Whether anything has changed, and that it has, at the price of a few counters: for who shows the drive live.
//!
//! Owns: what counts as a change, and its word. Refuses to know: what changed exactly, who looks. Invariant: taking a pulse
//! reads no database and waits for nobody; whatever the store commits changes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backlot_platform::tally::Operation;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::drive::Inner;
use super::histogram::Distribution;
use super::link::LinkState;

/// The drive's counters at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulse {
    commits: u64,
    links: Vec<LinkState>,
    fetched: u64,
    cache: (u64, u64, u64),
    sent: (u64, u64),
    pins: (u64, u64, usize),
}

impl Pulse {
    /// Returns the words of what is otherwise than it was: `tree` (names, queues, pins: whatever the store holds), `links`,
    /// `hydration`, `cache`, `publishing`, `pins`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<&'static str> {
        let changes = [
            ("tree", self.commits != before.commits),
            ("links", self.links != before.links),
            ("hydration", self.fetched != before.fetched),
            ("cache", self.cache != before.cache),
            ("publishing", self.sent != before.sent),
            ("pins", self.pins != before.pins),
        ];
        changes
            .into_iter()
            .filter(|(_, is)| *is)
            .map(|(word, _)| word)
            .collect()
    }
}

/// Rings when something has changed, for who wants to know at once.
#[derive(Debug, Default)]
pub struct Bell(watch::Sender<()>);

impl Bell {
    /// Tells who listens that something has changed. Costs next to nothing while nobody does.
    pub(super) fn ring(&self) {
        if self.0.receiver_count() > 0 {
            self.0.send_replace(());
        }
    }
}

/// Rings whenever a site's link changes.
pub(super) async fn ring_on_link(mut link: watch::Receiver<LinkState>, bell: Arc<Bell>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = link.changed() => match changed {
                Ok(()) => bell.ring(),
                Err(_gone) => return,
            },
        }
    }
}

/// Counters for monitoring, beside those of the status, since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes that arrived from sites, by why they were fetched.
    pub fetched_by_cause: Vec<(&'static str, u64)>,
    /// Reads that the daemon answered with bytes that were here.
    pub reads_here: u64,
    /// Those that waited for bytes from a site.
    pub reads_waited: u64,
    /// How long those waited.
    pub waits: Distribution,
    /// Fetches that failed, by the kind of their error.
    pub failures: Vec<(&'static str, u64)>,
    /// File operations that came to the daemon.
    pub operations: Vec<OperationReport>,
}

/// A file operation, as it went since the mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperationReport {
    /// Its name.
    pub name: &'static str,
    /// How long the answers took.
    pub took: Distribution,
    /// How many were errors, by kind.
    pub failed: Vec<(&'static str, u64)>,
}

impl From<Operation> for OperationReport {
    fn from(operation: Operation) -> Self {
        Self {
            name: operation.name,
            took: operation.took,
            failed: operation
                .failed
                .into_iter()
                .map(|(kind, count)| (kind.word(), count))
                .collect(),
        }
    }
}

impl Inner {
    /// Returns the drive's counters as they are now.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        let usage = self.cache.usage();
        let sent = self.transfer_stats();
        let pins = self.pin_totals();
        Pulse {
            commits: self.store.commits(),
            links: self.sites.values().map(|site| site.link().state()).collect(),
            fetched: self.stats.fetched_bytes.load(Ordering::Relaxed),
            cache: (usage.bytes, usage.contents, usage.evicted_bytes),
            sent: (sent.sent_bytes, sent.sent_files),
            pins: (pins.resident_files, pins.failed, pins.fetching),
        }
    }

    /// Returns what hears the bell: names and queues, links and arriving bytes ring it when they change. What else is in a
    /// [`Pulse`] is found by taking one.
    #[must_use]
    pub fn hears_changes(&self) -> watch::Receiver<()> {
        self.bell.0.subscribe()
    }

    /// Returns counters for monitoring.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let operations = self.host_report().unwrap_or_default().operations;
        let causes = ["pin", "sequence", "readahead", "read"].into_iter();
        let bytes = self.stats.fetched_by.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        Counters {
            fetched_by_cause: causes.zip(bytes).collect(),
            reads_here: self.stats.reads_here.load(Ordering::Relaxed),
            reads_waited: self.stats.reads_waited.load(Ordering::Relaxed),
            waits: self.stats.waits.now(),
            failures: self.stats.failures.now(),
            operations: operations.into_iter().map(Into::into).collect(),
        }
    }
}
