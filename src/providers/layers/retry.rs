//! Trying again, where the error says that it may help.
//!
//! Owns: how often and how soon. Refuses to know: kinds of errors; `ProviderError::retry` alone decides. Invariants: a
//! read that broke goes on at the byte where it broke and repeats none; a listing repeats no name.
//!
//! Left alone: probes, because whoever probes has a rhythm of their own. An answer lost on the way makes the second try
//! of a rename or delete say `NotFound`, which is passed on; a commit recognises its own work (see the providers).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tracing::debug;

use super::{Call, Layer};
use crate::providers::{Arrivals, ErrorKind, Listed, Op, ProviderError, Retry};

/// How often, and how soon, to try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Tries in all, the first included; a stream that made progress starts counting anew.
    pub tries: u32,
    /// The wait before the second try; it doubles from try to try. The true wait is half of it to all of it, by chance.
    pub first: Duration,
    /// The longest wait. A site that asks for more than this gets no other try: the error is the caller's to keep.
    pub cap: Duration,
}

/// Four tries within about two seconds: what a lost connection needs, and well inside a reader's deadline.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 4,
            first: Duration::from_millis(200),
            cap: Duration::from_secs(5),
        }
    }
}

/// The layer that tries again.
#[derive(Debug)]
pub struct RetryLayer {
    policy: RetryPolicy,
    chance: AtomicU64,
}

impl RetryLayer {
    /// Makes a layer that tries by `policy`.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            chance: AtomicU64::new(RandomState::new().hash_one(0)),
        }
    }

    /// Returns how long to wait before trying again after `error`, `tried` tries having failed; `None` gives up.
    fn wait(&self, op: Op, error: &ProviderError, tried: u32) -> Option<Duration> {
        let Retry::After(asked) = error.retry else { return None };
        if tried >= self.policy.tries || op == Op::Probe || asked.is_some_and(|d| d > self.policy.cap) {
            return None;
        }
        let doubled = self
            .policy
            .first
            .saturating_mul(1 << (tried - 1).min(16))
            .min(self.policy.cap);
        let wait = doubled.mul_f64(0.5 + 0.5 * self.roll()).max(asked.unwrap_or_default());
        debug!(%op, tried, ?wait, %error, "trying again");
        Some(wait)
    }

    /// Returns a number from 0 to below 1 (splitmix64).
    fn roll(&self) -> f64 {
        let mut x = self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 32 bits fit an f64 exactly.
        f64::from((x >> 32) as u32) / f64::from(u32::MAX)
    }
}

impl Layer for RetryLayer {
    async fn around<T, F, Fut>(&self, call: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        let mut tried = 0;
        loop {
            let error = match run().await {
                Ok(out) => return Ok(out),
                Err(error) => error,
            };
            tried += 1;
            let Some(wait) = self.wait(call.op, &error, tried) else {
                return Err(error);
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn around_list<'a, F>(&'a self, _: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a,
    {
        let rows = run();
        let state = Listing {
            layer: self,
            run,
            rows,
            given: HashSet::new(),
            tried: 0,
            over: false,
        };
        stream::unfold(state, |mut s| async move { s.next().await.map(|row| (row, s)) }).boxed()
    }

    fn around_read<'a, F>(
        &'a self,
        call: Call<'a>,
        range: Range<u64>,
        arrivals: Arrivals,
        run: F,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>>
    where
        F: Fn(Range<u64>, Arrivals) -> BoxStream<'a, Result<Bytes, ProviderError>> + Send + 'a,
    {
        let chunks = run(range.clone(), arrivals.clone());
        let state = Reading {
            layer: self,
            call,
            run,
            arrivals,
            chunks,
            left: range,
            tried: 0,
            over: false,
        };
        stream::unfold(state, |mut s| async move { s.next().await.map(|chunk| (chunk, s)) }).boxed()
    }
}

struct Listing<'a, F> {
    layer: &'a RetryLayer,
    run: F,
    rows: BoxStream<'a, Result<Listed, ProviderError>>,
    given: HashSet<crate::model::Name>,
    tried: u32,
    over: bool,
}

impl<'a, F> Listing<'a, F>
where
    F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>>,
{
    async fn next(&mut self) -> Option<Result<Listed, ProviderError>> {
        while !self.over {
            match self.rows.next().await {
                None => self.over = true,
                Some(Ok(row)) => {
                    if self.given.insert(row.name.clone()) {
                        return Some(Ok(row));
                    }
                }
                Some(Err(error)) => {
                    self.tried += 1;
                    match self.layer.wait(Op::List, &error, self.tried) {
                        Some(wait) => {
                            tokio::time::sleep(wait).await;
                            self.rows = (self.run)();
                        }
                        None => {
                            self.over = true;
                            return Some(Err(error));
                        }
                    }
                }
            }
        }
        None
    }
}

struct Reading<'a, F> {
    layer: &'a RetryLayer,
    call: Call<'a>,
    run: F,
    arrivals: Arrivals,
    chunks: BoxStream<'a, Result<Bytes, ProviderError>>,
    left: Range<u64>,
    tried: u32,
    over: bool,
}

impl<'a, F> Reading<'a, F>
where
    F: Fn(Range<u64>, Arrivals) -> BoxStream<'a, Result<Bytes, ProviderError>>,
{
    async fn next(&mut self) -> Option<Result<Bytes, ProviderError>> {
        while !self.over {
            let error = match self.chunks.next().await {
                Some(Ok(chunk)) if chunk.len() as u64 <= self.left.end.saturating_sub(self.left.start) => {
                    self.left.start += chunk.len() as u64;
                    self.tried = 0;
                    return Some(Ok(chunk));
                }
                Some(Ok(_)) => self.lie("more bytes came than were asked for"),
                Some(Err(error)) => error,
                None if self.left.is_empty() => break,
                None => self.lie("the bytes ended before the range did"),
            };
            self.tried += 1;
            match self.layer.wait(Op::Read, &error, self.tried) {
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    self.chunks = (self.run)(self.left.clone(), self.arrivals.clone());
                }
                None => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        self.over = true;
        None
    }

    fn lie(&self, what: &'static str) -> ProviderError {
        self.call.error(ErrorKind::Protocol).because(what)
    }
}
