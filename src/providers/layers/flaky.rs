//! Faults on purpose, by a seed, for tests of everything that must survive them.
//!
//! Owns: which operation is made to fail, and the count of those that were. Refuses to know: what the tests prove with
//! it. Invariant: the same seed, rules and order of calls give the same faults; a fault is counted when it strikes, not
//! when it is planned.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use super::{Call, Layer};
use crate::providers::{Arrivals, ErrorKind, Listed, Op, ProviderError};

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The operation fails before it begins.
    Fail(ErrorKind),
    /// The operation is done, and its answer is lost: it fails after all. A stream gives everything, then fails.
    LoseAnswer(ErrorKind),
    /// The operation begins late.
    Delay(Duration),
    /// The operation never ends.
    Stall,
    /// A stream breaks as `Unreachable` after this many bytes of content, or rows of a listing.
    Cut(u64),
    /// A stream ends as if it were complete after this many bytes, or rows: a lie.
    Truncate(u64),
}

/// When a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The operation; `None` is any.
    pub op: Option<Op>,
    /// What goes wrong.
    pub fault: Fault,
    /// One call in so many, by the seed's chance; 1 is every call.
    pub one_in: u32,
    /// Calls to pick at most; `None` is no limit.
    pub times: Option<u64>,
}

impl Rule {
    /// Returns the rule that strikes the next `times` calls of an operation.
    #[must_use]
    pub fn next(op: Op, fault: Fault, times: u64) -> Self {
        Self {
            op: Some(op),
            fault,
            one_in: 1,
            times: Some(times),
        }
    }

    /// Returns the rule that strikes one call in `one_in` of an operation, for ever.
    #[must_use]
    pub fn one_in(op: Op, fault: Fault, one_in: u32) -> Self {
        Self {
            op: Some(op),
            fault,
            one_in,
            times: None,
        }
    }
}

/// The rules and what they did. Shared: the layer obeys, the test holds the other end.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<State>,
    fired: AtomicU64,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    seed: u64,
}

impl Faults {
    /// Makes a set of no rules.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                rules: Vec::new(),
                seed,
            }),
            fired: AtomicU64::new(0),
        })
    }

    /// Adds a rule; the first that strikes wins.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// Removes all rules; what stalls goes on stalling.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Returns how many faults struck.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    fn strike(&self) {
        self.fired.fetch_add(1, Relaxed);
    }

    fn pick(&self, op: Op) -> Option<Fault> {
        let streams = matches!(op, Op::Read | Op::List);
        let mut state = self.lock();
        let State { rules, seed } = &mut *state;
        for rule in rules {
            let fits = rule.op.is_none_or(|o| o == op)
                && rule.times != Some(0)
                && (streams || !matches!(rule.fault, Fault::Cut(_) | Fault::Truncate(_)));
            if fits && roll(seed).is_multiple_of(u64::from(rule.one_in.max(1))) {
                rule.times = rule.times.map(|n| n - 1);
                return Some(rule.fault);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// splitmix64.
fn roll(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *seed;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The layer that makes things go wrong.
#[derive(Debug)]
pub struct FlakyLayer {
    faults: Arc<Faults>,
}

impl FlakyLayer {
    /// Makes a layer that obeys `faults`.
    #[must_use]
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { faults }
    }

    /// Breaks a stream as a fault says; `trim` shortens an item to what may still pass and returns its weight.
    fn break_stream<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        inner: BoxStream<'a, Result<T, ProviderError>>,
        trim: fn(T, u64) -> (T, u64),
    ) -> BoxStream<'a, Result<T, ProviderError>> {
        let Some(fault) = self.faults.pick(call.op) else {
            return inner;
        };
        let faults = &self.faults;
        let strike = move |kind: ErrorKind| {
            faults.strike();
            Err(call.error(kind).because("a fault on purpose"))
        };
        let after = match fault {
            Fault::Fail(kind) => return stream::once(async move { strike(kind) }).boxed(),
            Fault::LoseAnswer(kind) => return inner.chain(stream::once(async move { strike(kind) })).boxed(),
            Fault::Delay(time) => {
                let late = async move {
                    faults.strike();
                    tokio::time::sleep(time).await;
                    inner
                };
                return late.flatten_stream().boxed();
            }
            Fault::Stall => {
                faults.strike();
                return stream::pending().boxed();
            }
            Fault::Cut(after) | Fault::Truncate(after) => after,
        };
        stream::unfold((inner, after, false), move |(mut inner, left, over)| async move {
            if over {
                return None;
            }
            if left == 0 && matches!(fault, Fault::Cut(_)) {
                return Some((strike(ErrorKind::Unreachable), (inner, 0, true)));
            }
            let item = match inner.next().await? {
                Ok(item) => item,
                Err(error) => return Some((Err(error), (inner, 0, true))),
            };
            if left == 0 {
                // Something was left to withhold: now it is a lie.
                faults.strike();
                return None;
            }
            let (item, weight) = trim(item, left);
            Some((Ok(item), (inner, left - weight, false)))
        })
        .boxed()
    }
}

impl Layer for FlakyLayer {
    async fn around<T, F, Fut>(&self, call: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        let Some(fault) = self.faults.pick(call.op) else {
            return run().await;
        };
        let failed = |kind| call.error(kind).because("a fault on purpose");
        match fault {
            Fault::Fail(kind) => {
                self.faults.strike();
                Err(failed(kind))
            }
            Fault::LoseAnswer(kind) => {
                run().await?;
                self.faults.strike();
                Err(failed(kind))
            }
            Fault::Delay(time) => {
                self.faults.strike();
                tokio::time::sleep(time).await;
                run().await
            }
            Fault::Stall => {
                self.faults.strike();
                std::future::pending().await
            }
            Fault::Cut(_) | Fault::Truncate(_) => run().await,
        }
    }

    fn around_list<'a, F>(&'a self, call: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a,
    {
        self.break_stream(call, run(), |row, _| (row, 1))
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
        let broken = self.break_stream(call, run(range, Arrivals::nobody()), |mut chunk, left| {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let weight = chunk.len() as u64;
            (chunk, weight)
        });
        // What it cuts off has not come.
        arrivals.note_each(broken)
    }
}
