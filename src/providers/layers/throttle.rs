//! Bandwidth limits, each direction apart, changeable while bytes move.
//!
//! Owns: when bytes may pass. Refuses to know: timetables; whoever has one calls [`Limits`]. Invariant: no error, byte or
//! order changes within a read. A part is paid for before it is sent, a chunk after it came: a limit holds on average over
//! parts. What somebody waits for passes before what is fetched ahead, and in pieces, so that it comes steadily.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::{Bucket, Call, Layer};
use crate::providers::{Arrivals, Listed, ProviderError};

/// What came is let through in pieces of this many bytes: as much as the cache keeps at least.
const PIECE: usize = 64 << 10;

/// The limits of one site, in bytes per second. Shared: the layer keeps to them, others change them.
#[derive(Debug)]
pub struct Limits {
    /// What is read from the site.
    pub download: Bucket,
    /// What is sent to the site.
    pub upload: Bucket,
}

impl Limits {
    /// Makes limits in bytes per second; `None` is no limit.
    #[must_use]
    pub fn new(download: Option<u64>, upload: Option<u64>) -> Self {
        Self {
            download: Bucket::new(download),
            upload: Bucket::new(upload),
        }
    }
}

/// No limits.
impl Default for Limits {
    fn default() -> Self {
        Self::new(None, None)
    }
}

/// The layer that keeps to [`Limits`].
#[derive(Debug)]
pub struct ThrottleLayer {
    limits: Arc<Limits>,
}

impl ThrottleLayer {
    /// Makes a layer that keeps to `limits`.
    #[must_use]
    pub fn new(limits: Arc<Limits>) -> Self {
        Self { limits }
    }
}

impl Layer for ThrottleLayer {
    async fn around<T, F, Fut>(&self, call: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        self.limits.upload.take(call.bytes_out).await;
        run().await
    }

    fn around_list<'a, F>(&'a self, _: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a,
    {
        run()
    }

    fn around_read<'a, F>(
        &'a self,
        _: Call<'a>,
        range: Range<u64>,
        arrivals: Arrivals,
        run: F,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>>
    where
        F: Fn(Range<u64>, Arrivals) -> BoxStream<'a, Result<Bytes, ProviderError>> + Send + 'a,
    {
        let download = &self.limits.download;
        let urgency = arrivals.urgency();
        run(range, arrivals)
            .map_ok(|chunk| futures::stream::iter(pieces(chunk, download.rate().is_some()).map(Ok)))
            .try_flatten()
            .and_then(move |piece| {
                let urgency = urgency.clone();
                async move {
                    match urgency {
                        Some(mut urgent) => download.take_by_urgency(piece.len(), &mut urgent).await,
                        None => download.take(piece.len()).await,
                    }
                    Ok(piece)
                }
            })
            .boxed()
    }
}

/// Cuts a chunk, where that is asked for.
fn pieces(mut chunk: Bytes, cut: bool) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = if cut { chunk.len().min(PIECE) } else { chunk.len() };
        (len > 0).then(|| chunk.split_to(len))
    })
}
