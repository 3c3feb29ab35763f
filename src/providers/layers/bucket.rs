//! A token bucket in bytes per second whose rate can be changed while callers wait.
//!
//! Owns: how many bytes may have passed by now. Refuses to know: what passes. Invariant: callers pass in the order they
//! came, and over any stretch of time no more bytes pass than rate × time + burst.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a bucket may save up: what may pass at once after a pause is this much time's worth.
const BURST: Duration = Duration::from_millis(50);

/// A limit in bytes per second, shared by all who hold it.
#[derive(Debug)]
pub struct Bucket {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes per second; `None` lets everything pass.
    rate: Option<u64>,
    /// Bytes asked for, since ever.
    asked: f64,
    /// Bytes that may have passed, since ever; at most `asked` + burst.
    allowed: f64,
    seen: Instant,
}

impl Bucket {
    /// Makes a bucket of this many bytes per second; `None` or 0 is no limit.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        let state = State {
            rate: rate.filter(|r| *r > 0),
            asked: 0.0,
            allowed: 0.0,
            seen: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    /// Returns the limit, in bytes per second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.lock().rate
    }

    /// Changes the limit at once, for those who wait too; `None` or 0 is no limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        let mut state = self.lock();
        state.refill();
        state.rate = rate.filter(|r| *r > 0);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until `bytes` may pass.
    pub async fn take(&self, bytes: usize) {
        let ticket = {
            let mut state = self.lock();
            state.refill();
            // Byte counts are far below 2^53: exact in f64.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            let bytes = bytes as f64;
            state.asked += bytes;
            state.asked
        };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking: a change between the look and the sleep is not missed.
            changed.as_mut().enable();
            let wait = {
                let mut state = self.lock();
                state.refill();
                state.wait_for(ticket)
            };
            let Some(wait) = wait else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    fn refill(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = now;
        match self.rate {
            None => self.allowed = self.asked,
            Some(rate) => {
                let most = self.asked + rate as f64 * BURST.as_secs_f64();
                self.allowed = (self.allowed + rate as f64 * passed).min(most);
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    fn wait_for(&self, ticket: f64) -> Option<Duration> {
        let rate = self.rate?;
        let missing = ticket - self.allowed;
        // Below one byte is rounding: sleeping for it could go on for ever.
        (missing >= 1.0).then(|| Duration::from_secs_f64(missing / rate as f64).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_second_of_bytes_takes_a_second() {
        let bucket = Bucket::new(Some(1_000_000));
        let start = Instant::now();
        for _ in 0..20 {
            bucket.take(100_000).await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((1.9..2.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_up_no_more_than_the_burst() {
        let bucket = Bucket::new(Some(1_000_000));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let start = Instant::now();
        bucket.take(1_000_000).await;
        let took = start.elapsed().as_secs_f64();
        assert!((0.9..1.01).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_those_who_wait() {
        let bucket = Arc::new(Bucket::new(Some(1)));
        let start = Instant::now();
        let waiting = tokio::spawn({
            let bucket = Arc::clone(&bucket);
            async move { bucket.take(1_000_000).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        bucket.set_rate(Some(1_000_000));
        waiting.await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(2_100));
        bucket.set_rate(Some(1));
        let waiting = tokio::spawn({
            let bucket = Arc::clone(&bucket);
            async move { bucket.take(1_000_000).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        bucket.set_rate(None);
        waiting.await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(2_200));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_one_rate() {
        let bucket = Arc::new(Bucket::new(Some(1_000_000)));
        let start = Instant::now();
        let all: Vec<_> = (0..10)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                tokio::spawn(async move { bucket.take(200_000).await })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        assert!((1.9..2.1).contains(&took), "{took}");
    }
}
