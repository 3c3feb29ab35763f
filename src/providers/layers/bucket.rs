//! A token bucket in bytes per second whose rate can be changed while callers wait.
//!
//! Owns: how many bytes may have passed by now, and who passes next. Refuses to know: what passes. Invariants: those whom
//! somebody waits for pass before the others, and among equals they pass in the order they came; over any stretch of time no
//! more bytes pass than rate × time + burst.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long a bucket may save up: what may pass at once after a pause is this much time's worth.
const BURST: Duration = Duration::from_millis(50);

/// A limit in bytes per second, shared by all who hold it.
#[derive(Debug)]
pub struct Bucket {
    state: Mutex<State>,
    changed: Notify,
    /// How many wait, in either line.
    holding: watch::Sender<usize>,
    /// The lines; who has a lock is at its head. (These locks are fair.)
    urgent: tokio::sync::Mutex<()>,
    others: tokio::sync::Mutex<()>,
    /// How many stand in the urgent line.
    hurried: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    /// Bytes per second; `None` lets everything pass.
    rate: Option<u64>,
    /// Bytes that may pass now, at most the burst; below zero, what is still to be waited for.
    allowed: f64,
    seen: Instant,
}

impl Bucket {
    /// Makes a bucket of this many bytes per second; `None` or 0 is no limit.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        let state = State {
            rate: rate.filter(|r| *r > 0),
            allowed: 0.0,
            seen: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            holding: watch::Sender::new(0),
            urgent: tokio::sync::Mutex::default(),
            others: tokio::sync::Mutex::default(),
            hurried: watch::Sender::new(0),
        }
    }

    /// Returns the limit, in bytes per second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.lock().rate
    }

    /// Says whether somebody is kept waiting by the limit now.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        *self.holding.borrow() > 0
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
        if self.rate().is_none() {
            return;
        }
        let _held = Counted::among(&self.holding);
        let _head = self.turn().await;
        self.pay(bytes).await;
    }

    /// Waits until `bytes` may pass, before all others as soon as `urgent` says so.
    pub async fn take_by_urgency(&self, bytes: usize, urgent: &mut watch::Receiver<bool>) {
        if self.rate().is_none() {
            return;
        }
        let _held = Counted::among(&self.holding);
        tokio::select! {
            biased;
            () = becomes_true(urgent) => {}
            _head = self.turn() => return self.pay(bytes).await,
        }
        let _hurries = Counted::among(&self.hurried);
        let _head = self.urgent.lock().await;
        self.pay(bytes).await;
    }

    /// Waits for the turn of who is not urgent.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let head = self.others.lock().await;
        let mut hurried = self.hurried.subscribe();
        // (The sender lives as long as this does: it never fails.)
        drop(hurried.wait_for(|n| *n == 0).await);
        head
    }

    /// Takes the bytes off at once and waits until that is made up for.
    async fn pay(&self, bytes: usize) {
        {
            let mut state = self.lock();
            state.refill();
            // Byte counts are far below 2^53: exact in f64.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            let bytes = bytes as f64;
            state.allowed -= bytes;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking: a change between the look and the sleep is not missed.
            changed.as_mut().enable();
            let wait = {
                let mut state = self.lock();
                state.refill();
                state.wait()
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

/// Waits until it is true: for ever, where nobody is left who could say so.
async fn becomes_true(urgent: &mut watch::Receiver<bool>) {
    if urgent.wait_for(|urgent| *urgent).await.is_err() {
        std::future::pending().await
    }
}

/// One of those that are counted.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn among(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl State {
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    fn refill(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = now;
        match self.rate {
            None => self.allowed = 0.0,
            Some(rate) => {
                let most = rate as f64 * BURST.as_secs_f64();
                self.allowed = (self.allowed + rate as f64 * passed).min(most);
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    fn wait(&self) -> Option<Duration> {
        let rate = self.rate?;
        // Below one byte is rounding: sleeping for it could go on for ever.
        (self.allowed <= -1.0)
            .then(|| Duration::from_secs_f64(-self.allowed / rate as f64).max(Duration::from_millis(1)))
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

    #[tokio::test(start_paused = true)]
    async fn who_is_waited_for_passes_first_also_when_that_comes_late() {
        let bucket = Arc::new(Bucket::new(Some(1_000_000)));
        let start = Instant::now();
        let (late, urgent) = watch::channel(false);
        let take = |mut urgent: watch::Receiver<bool>| {
            let bucket = Arc::clone(&bucket);
            tokio::spawn(async move {
                bucket.take_by_urgency(100_000, &mut urgent).await;
                start.elapsed().as_secs_f64()
            })
        };
        let nobody = || watch::channel(false).1;
        let ahead: Vec<_> = (0..20).map(|_| take(nobody())).collect();
        let raised = take(urgent);
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(bucket.is_holding());
        let demand = take(watch::channel(true).1).await.unwrap();
        // The one whose turn it is (the third, and then the fourth) is not sent back.
        assert!((0.35..0.45).contains(&demand), "{demand}");
        late.send_replace(true);
        let raised = raised.await.unwrap();
        assert!((0.55..0.65).contains(&raised), "{raised}");
        let mut passed = Vec::new();
        for one in ahead {
            passed.push(one.await.unwrap());
        }
        assert!(passed.is_sorted(), "{passed:?}");
        assert!((2.1..2.3).contains(&passed[19]), "{passed:?}");
        assert!(!bucket.is_holding());
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_the_line() {
        let bucket = Arc::new(Bucket::new(Some(1_000_000)));
        let gone = |urgent: bool| {
            let bucket = Arc::clone(&bucket);
            tokio::spawn(async move {
                bucket.take_by_urgency(10_000_000, &mut watch::channel(urgent).1).await;
            })
        };
        let (first, second, third) = (gone(true), gone(true), gone(false));
        tokio::time::sleep(Duration::from_millis(1)).await;
        for one in [&second, &third, &first] {
            one.abort();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!bucket.is_holding());
        let start = Instant::now();
        bucket.take(1).await;
        // What had its turn is paid for: it may have passed.
        let took = start.elapsed().as_secs_f64();
        assert!((9.9..10.1).contains(&took), "{took}");
    }
}
