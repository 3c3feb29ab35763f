//! How far ahead of a reader to fetch, from the pattern of its reads. Pure: no I/O, no clock.
//!
//! A run of reads that follow each other earns a window as large as what it has read so far (so the window doubles), up
//! to a maximum. A read elsewhere begins a new run with no window: random readers pay for what they ask and no more.

use std::ops::Range;

/// A read may begin this far past the furthest byte asked so far and still belong to the run: the kernel's own
/// read-ahead arrives out of order on several threads.
const GAP_AHEAD: u64 = 1 << 20;
/// A read may begin this far before the furthest byte asked so far and still belong to the run (same reason; the
/// kernel's largest window here is 8 MiB).
const GAP_BEHIND: u64 = 8 << 20;
/// A window smaller than this isn't worth a request of its own.
const MIN_WINDOW: u64 = 256 << 10;

/// The reads of one handle so far.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    max_window: u64,
    run_start: u64,
    /// The furthest byte asked for in this run.
    high: u64,
    /// What has been asked ahead, up to here.
    ahead: u64,
}

impl Pattern {
    /// Starts a pattern whose window grows to `max_window` bytes. A reader that begins at 0 counts as sequential from its
    /// first read on.
    pub(super) fn new(max_window: u64) -> Self {
        Self {
            max_window,
            run_start: 0,
            high: 0,
            ahead: 0,
        }
    }

    /// Takes note of a read and returns the range worth having before it is asked for.
    ///
    /// `restarted` is set when the reader went elsewhere: what was asked ahead of the old run is of no interest now.
    pub(super) fn on_read(&mut self, read: Range<u64>, len: u64) -> Ahead {
        let follows = read.start <= self.high.saturating_add(GAP_AHEAD)
            && read.start.saturating_add(GAP_BEHIND) >= self.high
            && read.start >= self.run_start;
        if !follows {
            *self = Self {
                max_window: self.max_window,
                run_start: read.start,
                high: read.end,
                ahead: read.end,
            };
            return Ahead {
                restarted: true,
                range: None,
            };
        }
        self.high = self.high.max(read.end);
        self.ahead = self.ahead.max(self.high);
        let window = (self.high - self.run_start).min(self.max_window);
        // Ask again only when half the window is used up, so that requests stay long.
        if window < MIN_WINDOW.min(self.max_window) || self.ahead >= len || self.ahead - self.high > window / 2 {
            return Ahead {
                restarted: false,
                range: None,
            };
        }
        let range = self.ahead..(self.high + window).min(len);
        self.ahead = self.ahead.max(range.end);
        Ahead {
            restarted: false,
            range: (range.start < range.end).then_some(range),
        }
    }
}

/// The answer of [`Pattern::on_read`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ahead {
    /// The reader left the run that it was in.
    pub(super) restarted: bool,
    /// What to fetch before it is asked for.
    pub(super) range: Option<Range<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 1 << 30;
    const MAX: u64 = 16 << 20;

    #[test]
    fn a_sequential_reader_gets_a_window_that_doubles_to_its_maximum() {
        let mut p = Pattern::new(MAX);
        let mut furthest = Vec::new();
        for i in 0..512u64 {
            let at = i * (128 << 10);
            if let Some(r) = p.on_read(at..at + (128 << 10), LEN).range {
                furthest.push(r.end - (at + (128 << 10)));
            }
        }
        assert!(furthest.first().is_some_and(|w| *w <= 512 << 10), "{furthest:?}");
        assert_eq!(furthest.iter().max(), Some(&MAX));
    }

    #[test]
    fn a_random_reader_gets_nothing_extra() {
        let mut p = Pattern::new(MAX);
        let mut extra = 0;
        for i in 1..100u64 {
            let at = (i * 7_919_777_777) % (LEN - (64 << 10));
            if let Some(r) = p.on_read(at..at + (64 << 10), LEN).range {
                extra += r.end - r.start;
            }
        }
        assert!(extra < 1 << 20, "{extra} bytes fetched that nobody asked for");
    }

    proptest! {
        /// What is asked ahead never overlaps what was asked ahead before in the same run, and never passes the end.
        #[test]
        fn ahead_is_asked_once(reads in prop::collection::vec((0u64..64, 1u64..16), 1..60)) {
            let len = 40 << 20;
            let mut p = Pattern::new(MAX);
            let mut asked_to = 0;
            let mut at = 0;
            for (skip, size) in reads {
                at += skip * 4096;
                let a = p.on_read(at..(at + size * 65536).min(len), len);
                if a.restarted { asked_to = 0; }
                if let Some(r) = a.range {
                    prop_assert!(r.start >= asked_to && r.end <= len && r.start < r.end);
                    asked_to = r.end;
                }
                at = (at + size * 65536).min(len);
            }
        }
    }
}
