//! A process that dies at a chosen step: from then on nothing of it goes on.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use crate::providers::layers::{Call, Layer};
use crate::providers::{Arrivals, Listed, ProviderError};

#[derive(Debug, Default)]
pub(super) struct Steps {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    dies_at: Option<u64>,
    dead: CancellationToken,
}

impl Steps {
    /// Begins a life that ends at a step, or not at all.
    pub(super) fn live(&self, dies_at: Option<u64>) -> CancellationToken {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner {
            count: 0,
            dies_at,
            dead: CancellationToken::new(),
        };
        inner.dead.clone()
    }

    /// Returns how many steps this life has had.
    pub(super) fn count(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Takes a step; the dead never come back from it.
    pub(super) async fn pass(&self) {
        let is_dead = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.dies_at == Some(inner.count) {
                inner.dead.cancel();
            }
            inner.count += 1;
            inner.dead.is_cancelled()
        };
        if is_dead {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes a step before and after each operation.
#[derive(Debug)]
pub(super) struct StepLayer {
    steps: Arc<Steps>,
}

impl StepLayer {
    pub(super) fn new(steps: Arc<Steps>) -> Self {
        Self { steps }
    }
}

impl Layer for StepLayer {
    async fn around<T, F, Fut>(&self, _: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        self.steps.pass().await;
        let out = run().await;
        self.steps.pass().await;
        out
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
    }
}
