//! How long things took, as counts under fixed bounds.
//!
//! Owns: the bounds and the counts. Refuses to know: what is measured. Invariant: counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds: from what a request costs that is answered out of memory to the longest read deadline that
/// makes sense.
pub const BOUNDS_US: [u64; 17] = [
    10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    20_000_000,
];

/// Counts of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Those up to each bound and above the one before it; the last: those above all.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    micros: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Distribution {
    /// As in [`Histogram`]: not cumulative.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.partition_point(|bound| *bound < micros);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
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
        for micros in [0, 10, 11, 3000, 20_000_000, 20_000_001] {
            times.note(Duration::from_micros(micros));
        }
        let now = times.now();
        let at = |bound: u64| now.counts[BOUNDS_US.partition_point(|b| *b < bound)];
        assert_eq!((at(10), at(25), at(5000), at(20_000_000)), (2, 1, 1, 1));
        assert_eq!(now.counts[BOUNDS_US.len()], 1);
        assert_eq!(now.counts.iter().sum::<u64>(), 6);
        assert_eq!(now.micros, 40_003_022);
    }
}
