//! Counters of what passes through a provider, by operation.
//!
//! Owns: numbers since the start. Refuses to know: what they are compared with. Invariants: an operation given up by its
//! caller leaves `in_flight` as it was; bytes that come from the site count when they come, for whomever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Call, Layer};
use crate::providers::{Arrivals, Listed, Op, ProviderError};

/// Every operation, in the order of the counters.
const OPS: [Op; 12] = [
    Op::Connect,
    Op::Probe,
    Op::Stat,
    Op::List,
    Op::Read,
    Op::Upload,
    Op::Commit,
    Op::Abort,
    Op::MakeDir,
    Op::Rename,
    Op::Delete,
    Op::Space,
];

/// The counters of one site. Shared: the layer counts, others look.
#[derive(Debug, Default)]
pub struct Meter {
    ops: [Counts; OPS.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
}

/// The counters of one operation at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpCounts {
    /// Which operation.
    pub op: Op,
    /// Calls begun.
    pub calls: u64,
    /// Calls that ended with an error.
    pub errors: u64,
    /// Calls under way.
    pub in_flight: u64,
}

/// All counters at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeterSnapshot {
    /// By operation, all of them.
    pub ops: Vec<OpCounts>,
    /// Bytes of content that came from the site, those for readers who had left meanwhile too.
    pub bytes_in: u64,
    /// Bytes sent to the site, parts sent again included.
    pub bytes_out: u64,
}

impl MeterSnapshot {
    /// Returns the calls of one operation begun so far.
    #[must_use]
    pub fn calls(&self, op: Op) -> u64 {
        self.ops.iter().find(|c| c.op == op).map_or(0, |c| c.calls)
    }

    /// Returns the calls of all operations under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.ops.iter().map(|c| c.in_flight).sum()
    }
}

impl Meter {
    /// Returns the counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> MeterSnapshot {
        let ops = OPS.iter().zip(&self.ops).map(|(op, c)| OpCounts {
            op: *op,
            calls: c.calls.load(Relaxed),
            errors: c.errors.load(Relaxed),
            in_flight: c.in_flight.load(Relaxed),
        });
        MeterSnapshot {
            ops: ops.collect(),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }

    /// Counts a call; it is under way until the guard is dropped.
    pub(crate) fn begin(&self, op: Op) -> InFlight<'_> {
        let counts = &self.ops[OPS.iter().position(|o| *o == op).unwrap_or(0)];
        counts.calls.fetch_add(1, Relaxed);
        counts.in_flight.fetch_add(1, Relaxed);
        InFlight { meter: self, counts }
    }
}

/// A call under way.
pub(crate) struct InFlight<'a> {
    meter: &'a Meter,
    counts: &'a Counts,
}

impl InFlight<'_> {
    /// Counts the call's error, if that is what it came to, and passes the outcome on.
    pub(crate) fn note<T>(&self, outcome: Result<T, ProviderError>) -> Result<T, ProviderError> {
        if outcome.is_err() {
            self.counts.errors.fetch_add(1, Relaxed);
        }
        outcome
    }

    pub(crate) fn bytes_in(&self, n: usize) {
        self.meter.bytes_in.fetch_add(n as u64, Relaxed);
    }

    pub(crate) fn bytes_out(&self, n: usize) {
        self.meter.bytes_out.fetch_add(n as u64, Relaxed);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.counts.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The layer that counts into a [`Meter`].
#[derive(Debug)]
pub struct MeterLayer {
    meter: Arc<Meter>,
}

impl MeterLayer {
    /// Makes a layer that counts into `meter`.
    #[must_use]
    pub fn new(meter: Arc<Meter>) -> Self {
        Self { meter }
    }
}

impl Layer for MeterLayer {
    async fn around<T, F, Fut>(&self, call: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        let flight = self.meter.begin(call.op);
        let outcome = flight.note(run().await);
        if outcome.is_ok() {
            flight.bytes_out(call.bytes_out);
        }
        outcome
    }

    fn around_list<'a, F>(&'a self, _: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a,
    {
        let flight = self.meter.begin(Op::List);
        run().map(move |row| flight.note(row)).boxed()
    }

    fn around_read<'a, F>(
        &'a self,
        _: Call<'a>,
        range: std::ops::Range<u64>,
        arrivals: Arrivals,
        run: F,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>>
    where
        F: Fn(std::ops::Range<u64>, Arrivals) -> BoxStream<'a, Result<Bytes, ProviderError>> + Send + 'a,
    {
        let flight = self.meter.begin(Op::Read);
        let meter = Arc::clone(&self.meter);
        let counted = arrivals.and(move |bytes| {
            meter.bytes_in.fetch_add(bytes, Relaxed);
        });
        run(range, counted).map(move |chunk| flight.note(chunk)).boxed()
    }
}
