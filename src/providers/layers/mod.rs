//! Behaviour that any provider can be wrapped in: counting, trying again, limits, faults, a slow wire.
//!
//! Owns: what happens around an operation. Refuses to know: what kind of site is inside. Invariant: a layer changes no
//! byte and no meaning; [`flaky`](FlakyLayer) alone lies, on purpose.
//!
//! The order matters and is fixed in [`build`](super::build()): `Meter(Retry(Throttle(Link(provider))))`. The meter is
//! outermost, so that it counts what callers see; the throttle is inside the retry, so that bytes sent twice are paid
//! for twice; the simulated link is next to the provider, so that everything else meets it as it would a real one.

mod bucket;
mod flaky;
mod link;
pub(crate) mod meter;
mod retry;
mod throttle;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use bucket::Bucket;
pub use flaky::{Fault, Faults, FlakyLayer, Rule};
pub use link::{LinkControl, LinkLayer};
pub use meter::{Meter, MeterLayer, MeterSnapshot, OpCounts};
pub use retry::{RetryLayer, RetryPolicy};
pub use throttle::{Limits, ThrottleLayer};

use super::{
    Arrivals, Capabilities, Entry, FileHash, Listed, Op, PartDone, Provider, ProviderError, SiteSpace, UploadPlan,
    UploadToken,
};
use crate::model::{RelPath, Version};

/// An operation, as a layer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Which.
    pub op: Op,
    /// On which path.
    pub path: Option<&'a RelPath>,
    /// Content bytes that it sends.
    pub bytes_out: usize,
}

impl<'a> Call<'a> {
    fn on(op: Op, path: &'a RelPath) -> Self {
        Self {
            op,
            path: Some(path),
            bytes_out: 0,
        }
    }

    fn bare(op: Op) -> Self {
        Self {
            op,
            path: None,
            bytes_out: 0,
        }
    }

    /// Returns an error of this operation.
    fn error(&self, kind: super::ErrorKind) -> ProviderError {
        let error = ProviderError::new(kind, self.op);
        match self.path {
            Some(path) => error.at(path),
            None => error,
        }
    }
}

/// What one layer does around the operations of the provider inside: `run` calls it, as often as the layer likes.
pub trait Layer: Send + Sync + Debug + Sized + 'static {
    /// Runs an operation that answers once.
    fn around<T, F, Fut>(&self, call: Call<'_>, run: F) -> impl Future<Output = Result<T, ProviderError>> + Send
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send;

    /// Runs a listing.
    fn around_list<'a, F>(&'a self, call: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a;

    /// Runs a read; `run` may be asked for any part of the range. `arrivals` is for `run`, or for the layer itself, which then
    /// tells of what it lets through.
    fn around_read<'a, F>(
        &'a self,
        call: Call<'a>,
        range: Range<u64>,
        arrivals: Arrivals,
        run: F,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>>
    where
        F: Fn(Range<u64>, Arrivals) -> BoxStream<'a, Result<Bytes, ProviderError>> + Send + 'a;

    /// Wraps a provider.
    #[must_use]
    fn over(self, inner: Arc<dyn Provider>) -> Arc<dyn Provider> {
        Arc::new(Layered { layer: self, inner })
    }
}

/// A provider inside a layer.
#[derive(Debug)]
struct Layered<L> {
    layer: L,
    inner: Arc<dyn Provider>,
}

#[async_trait]
impl<L: Layer> Provider for Layered<L> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        self.layer.around(Call::bare(Op::Probe), || self.inner.probe()).await
    }

    fn forget_connections(&self) {
        self.inner.forget_connections();
    }

    fn login_mark(&self) -> Option<u64> {
        self.inner.login_mark()
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        self.layer
            .around(Call::on(Op::Stat, path), || self.inner.stat(path))
            .await
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        self.layer.around_list(Call::on(Op::List, dir), || self.inner.list(dir))
    }

    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        let run = move |range, arrivals| self.inner.read_for(path, at, range, arrivals);
        self.layer.around_read(Call::on(Op::Read, path), range, arrivals, run)
    }

    async fn hash(&self, path: &RelPath, at: &Version) -> Result<Option<FileHash>, ProviderError> {
        self.layer
            .around(Call::on(Op::Stat, path), || self.inner.hash(path, at))
            .await
    }

    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
        let call = Call::on(Op::Upload, &plan.path);
        self.layer.around(call, || self.inner.begin_upload(plan)).await
    }

    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError> {
        let call = Call {
            bytes_out: part.len(),
            ..Call::on(Op::Upload, &token.plan.path)
        };
        self.layer
            .around(call, || self.inner.upload_part(token, index, part.clone()))
            .await
    }

    async fn commit(
        &self,
        token: UploadToken,
        parts: &[PartDone],
        expect: Option<Option<&Version>>,
    ) -> Result<Version, ProviderError> {
        let call = Call::on(Op::Commit, &token.plan.path);
        self.layer
            .around(call, || self.inner.commit(token.clone(), parts, expect))
            .await
    }

    async fn was_committed(
        &self,
        token: &UploadToken,
        parts: &[PartDone],
        replaced: Option<&Version>,
    ) -> Result<Option<Version>, ProviderError> {
        let call = Call::on(Op::Stat, &token.plan.path);
        self.layer
            .around(call, || self.inner.was_committed(token, parts, replaced))
            .await
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        let call = Call::on(Op::Abort, &token.plan.path);
        self.layer.around(call, || self.inner.abort(token.clone())).await
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.layer
            .around(Call::on(Op::MakeDir, path), || self.inner.make_dir(path))
            .await
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        self.layer
            .around(Call::on(Op::Rename, from), || self.inner.rename(from, to))
            .await
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.layer
            .around(Call::on(Op::Delete, path), || self.inner.delete(path))
            .await
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        self.layer.around(Call::bare(Op::Space), || self.inner.space()).await
    }
}

#[cfg(test)]
mod tests;
