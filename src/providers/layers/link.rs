//! A simulated wire: delay, rate, and a switch. For demos of a slow site without one, and tests of a link that dies.
//!
//! Owns: when things pass. Refuses to know: what they are. Invariant: while the link is down nothing passes in either
//! direction and nothing is said about it, as in a black hole; who waits longer than the idle time-out gets `TimedOut`.
//! An operation whose answer can't come back has happened all the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use super::{Bucket, Call, Layer};
use crate::providers::{Arrivals, ErrorKind, Listed, ProviderError};

/// Content crosses the wire in pieces of this many bytes, so that a slow one drips rather than gushes.
const PIECE: usize = 64 << 10;

/// The wire's settings and its switch; all can be changed while things pass. Shared: the layer obeys it.
#[derive(Debug)]
pub struct LinkControl {
    down: watch::Sender<bool>,
    delay_us: AtomicU64,
    idle_timeout: Duration,
    /// Bytes per second from the site, all streams together.
    pub download: Bucket,
    /// Bytes per second to the site, all parts together.
    pub upload: Bucket,
}

impl LinkControl {
    /// Makes a wire with this round-trip time and this many bytes per second each way (`None`: no limit).
    #[must_use]
    pub fn new(delay: Duration, rate: Option<u64>, idle_timeout: Duration) -> Self {
        let control = Self {
            down: watch::Sender::new(false),
            delay_us: AtomicU64::new(0),
            idle_timeout,
            download: Bucket::new(rate),
            upload: Bucket::new(rate),
        };
        control.set_delay(delay);
        control
    }

    /// Cuts the wire, or mends it.
    pub fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Says whether the wire is cut.
    #[must_use]
    pub fn is_down(&self) -> bool {
        *self.down.borrow()
    }

    /// Changes the round-trip time for operations that begin from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_us
            .store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Changes the rate of both directions, in bytes per second.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.download.set_rate(rate);
        self.upload.set_rate(rate);
    }

    async fn round_trip(&self) {
        let delay = Duration::from_micros(self.delay_us.load(Relaxed));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Waits while the wire is cut, as long as the idle time-out allows.
    async fn cross(&self, call: &Call<'_>) -> Result<(), ProviderError> {
        let mut down = self.down.subscribe();
        let up = down.wait_for(|down| !down);
        match tokio::time::timeout(self.idle_timeout, up).await {
            Ok(_) => Ok(()),
            Err(_) => Err(call.error(ErrorKind::TimedOut).because("the simulated link is down")),
        }
    }
}

/// The layer that obeys a [`LinkControl`].
#[derive(Debug)]
pub struct LinkLayer {
    control: Arc<LinkControl>,
}

impl LinkLayer {
    /// Makes a layer that obeys `control`.
    #[must_use]
    pub fn new(control: Arc<LinkControl>) -> Self {
        Self { control }
    }
}

impl Layer for LinkLayer {
    async fn around<T, F, Fut>(&self, call: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        self.control.cross(&call).await?;
        self.control.round_trip().await;
        self.control.upload.take(call.bytes_out).await;
        self.control.cross(&call).await?;
        let out = run().await?;
        self.control.cross(&call).await?;
        Ok(out)
    }

    fn around_list<'a, F>(&'a self, call: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a,
    {
        stream::unfold(Some((run(), false)), move |state| async move {
            let (mut rows, begun) = state?;
            if !begun {
                self.control.round_trip().await;
            }
            let row = match self.control.cross(&call).await {
                Ok(()) => rows.next().await?,
                Err(error) => return Some((Err(error), None)),
            };
            Some((row, Some((rows, true))))
        })
        .boxed()
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
        // The chunk that is crossing, and what the site gives after it; the first of it comes a round trip late.
        let state = Some((Bytes::new(), run(range, Arrivals::nobody()), false));
        let pieces = stream::unfold(state, move |state| async move {
            let (mut chunk, mut chunks, begun) = state?;
            if !begun {
                self.control.round_trip().await;
            }
            if let Err(error) = self.control.cross(&call).await {
                return Some((Err(error), None));
            }
            if chunk.is_empty() {
                chunk = match chunks.next().await? {
                    Ok(chunk) => chunk,
                    Err(error) => return Some((Err(error), None)),
                };
            }
            let piece = chunk.split_to(chunk.len().min(PIECE));
            self.control.download.take(piece.len()).await;
            // It may have been cut while this piece was crossing.
            if let Err(error) = self.control.cross(&call).await {
                return Some((Err(error), None));
            }
            Some((Ok(piece), Some((chunk, chunks, true))))
        })
        .boxed();
        // What has not crossed the simulated wire has not come.
        arrivals.note_each(pieces)
    }
}
