//! How long things took, as counts under fixed bounds.
//!
//! Owns: the bounds and the counts. Refuses to know: what is measured. Invariant: counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in milliseconds: from a page of the kernel's cache to the longest read deadline that makes sense.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 20_000];

/// Counts of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Those up to each bound and above the one before it; the last: those above all.
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    micros: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Distribution {
    /// As in [`Histogram`]: not cumulative.
    pub counts: [u64; BOUNDS_MS.len() + 1],
    /// All durations together, in microseconds.
    pub micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_MS.iter().position(|bound| micros <= bound * 1000);
        self.counts[at.unwrap_or(BOUNDS_MS.len())].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Returns what was counted.
    #[must_use]
    pub fn now(&self) -> Distribution {
        let count = |at: usize| self.counts[at].load(Ordering::Relaxed);
        Distribution {
            counts: std::array::from_fn(count),
            micros: self.micros.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_under_its_own_bound_alone() {
        let times = Histogram::default();
        for millis in [1, 3, 20_000, 20_001] {
            times.note(Duration::from_millis(millis));
        }
        let now = times.now();
        assert_eq!(now.counts, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(now.micros, 40_005_000);
    }
}
