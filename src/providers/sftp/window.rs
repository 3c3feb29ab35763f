//! How many bytes of reads a session keeps in flight: as many as the link deserves, and no more than it needs.
//!
//! Owns: one number, moved by how long answers take. Refuses to know: requests. Invariant: between [`MIN`] and [`MAX`].
//!
//! Answers that take much longer than the quickest did are waiting in a queue: more requests would make that queue longer
//! and nothing faster, and a reader who wants one small thing would wait behind all of it. So the window grows while
//! answers are quick and shrinks when they are late (as LEDBAT does, RFC 6817, with a target that suits a file server).

use std::time::Duration;

use tokio::time::Instant;

/// What is always worth having in flight.
const MIN: usize = 256 << 10;
/// 16 MiB fill a link of 1 Gb/s up to 130 ms.
const MAX: usize = 16 << 20;
/// Covers 1 Gb/s at 16 ms from the first read on.
const START: usize = 2 << 20;
/// Waiting in the queue that is fine: a reader hardly notices it, and it keeps the link busy.
const TARGET: Duration = Duration::from_millis(100);
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    quickest: Duration,
    shrunk: Instant,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bytes: START,
            quickest: Duration::MAX,
            shrunk: now,
        }
    }

    /// Returns how many bytes may be in flight.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in that an answer of `len` bytes took `took`, `in_flight` bytes having been asked for at its arrival.
    pub(super) fn answered(&mut self, now: Instant, took: Duration, len: usize, in_flight: usize) {
        self.quickest = self.quickest.min(took);
        let queued = took.saturating_sub(self.quickest);
        if queued <= TARGET {
            // Only a window that was in use has shown that more would be fine.
            if in_flight + len >= self.bytes / 2 {
                self.bytes = (self.bytes + len).min(MAX);
            }
        } else if queued > 3 * TARGET && self.bytes == MIN {
            // So little of ours can't be the queue: the way has become longer.
            self.quickest = took;
        } else if queued > 3 * TARGET && now.duration_since(self.shrunk) > took {
            // At most once per queue's length: what is in flight was asked for before the last cut.
            self.bytes = (self.bytes / 4 * 3).max(MIN);
            self.shrunk = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Plays a link of `rate` bytes per second and `delay` against the window; returns it as it settles.
    fn settle(rate: u64, delay: Duration) -> usize {
        const REQUEST: usize = 255 << 10;
        let start = Instant::now();
        let mut now = start;
        let mut window = Window::new(now);
        let mut wire_free = now;
        let mut flying: VecDeque<(Instant, Instant)> = VecDeque::new();
        for _ in 0..20_000 {
            while flying.is_empty() || (flying.len() + 1) * REQUEST <= window.bytes() {
                let begins = wire_free.max(now + delay / 2);
                wire_free = begins + Duration::from_secs_f64(REQUEST as f64 / rate as f64);
                flying.push_back((now, wire_free + delay / 2));
            }
            let (sent, arrives) = flying.pop_front().unwrap();
            now = arrives;
            window.answered(now, now - sent, REQUEST, flying.len() * REQUEST);
        }
        window.bytes()
    }

    #[tokio::test]
    async fn a_fat_link_is_filled() {
        // 1 Gb/s at 100 ms holds 12.5 MB.
        assert!(settle(125_000_000, Duration::from_millis(100)) >= 12_500_000);
    }

    #[tokio::test]
    async fn a_way_that_became_longer_is_found_out() {
        let start = Instant::now();
        let mut window = Window::new(start);
        let mut now = start;
        for round in 0..2_000 {
            let took = Duration::from_millis(if round < 10 { 5 } else { 600 });
            now += took;
            window.answered(now, took, 255 << 10, window.bytes());
        }
        assert_eq!(window.bytes(), MAX);
    }

    #[tokio::test]
    async fn a_thin_link_is_not_swamped() {
        // 20 Mb/s at 20 ms: more than a second's worth in flight would only be a queue.
        let window = settle(2_500_000, Duration::from_millis(20));
        assert!((MIN..=2_500_000).contains(&window), "{window}");
    }
}
