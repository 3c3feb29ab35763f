//! What is counted of hydration.
//!
//! Owns: the counters. Refuses to know: who shows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::histogram::Histogram;
use crate::engine::pulse::Bell;

/// Counters of one drive's hydration, since it started.
#[derive(Debug, Default)]
pub struct HydrateStats {
    /// Bytes that arrived from sites.
    pub fetched_bytes: AtomicU64,
    /// Requests made to sites.
    pub fetches: AtomicU64,
    /// Fetches that failed.
    pub failed: AtomicU64,
    /// Fetches that stopped since nobody wanted them any more.
    pub cancelled: AtomicU64,
    /// Bytes served past the cache, since it could not hold them.
    pub uncached_bytes: AtomicU64,
    /// Reads that came to the daemon.
    pub demands: AtomicU64,
    /// Those of them that are being answered.
    pub demanding: AtomicU64,
    /// The bytes that arrived, by the urgency that their fetch had then: the order is that of
    /// [`Priority`](crate::engine::schedule::Priority).
    pub fetched_by: [AtomicU64; 4],
    /// Reads whose bytes were here.
    pub reads_here: AtomicU64,
    /// Reads that waited for a site.
    pub reads_waited: AtomicU64,
    /// How long those waited, the failed ones too.
    pub waits: Histogram,
    /// Fetches that failed, by the kind of their error.
    pub failures: Failures,
    /// Rings when bytes have arrived.
    pub bell: Arc<Bell>,
}

/// Counts by words. Behind a lock: what fails has waited for a site.
#[derive(Debug, Default)]
pub struct Failures(Mutex<BTreeMap<&'static str, u64>>);

impl Failures {
    pub(super) fn note(&self, kind: &'static str) {
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default() += 1;
    }

    /// Returns the counts.
    #[must_use]
    pub fn now(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}

/// A read that is being answered.
pub(super) struct Demand<'a>(&'a HydrateStats);

impl<'a> Demand<'a> {
    pub(super) fn begin(stats: &'a HydrateStats) -> Self {
        stats.demands.fetch_add(1, Ordering::Relaxed);
        stats.demanding.fetch_add(1, Ordering::Relaxed);
        Self(stats)
    }
}

impl Drop for Demand<'_> {
    fn drop(&mut self) {
        self.0.demanding.fetch_sub(1, Ordering::Relaxed);
    }
}
