//! Bandwidth limits, each direction apart, changeable while bytes move.
//!
//! Owns: when bytes may pass. Refuses to know: timetables; whoever has one calls [`Limits`]. Invariant: no error, byte or
//! order changes. A part is paid for before it is sent, a chunk after it came: a limit holds on average over parts.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Bucket, Call, Layer};
use crate::providers::{Arrivals, Listed, ProviderError};

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
        run(range, arrivals)
            .then(|chunk| async {
                if let Ok(bytes) = &chunk {
                    self.limits.download.take(bytes.len()).await;
                }
                chunk
            })
            .boxed()
    }
}
