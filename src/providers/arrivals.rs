//! Who is told that content has come from a site.
//!
//! Owns: passing a number of bytes on. Refuses to know: meters, accounts, what the bytes are. Invariant: of a read, each byte
//! of content that comes is told once, when it comes, whether or not anybody is still there to be given it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

/// Who is told of the content bytes of a read when they come ([`Provider::read_for`](super::Provider::read_for)).
#[derive(Clone, Default)]
pub struct Arrivals(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Arrivals").field(&self.0.is_some()).finish()
    }
}

impl Arrivals {
    /// Has `told` called with each number of bytes. It must not block, and may be called after the read was dropped.
    pub fn new(told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// Tells nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self(None)
    }

    /// So many bytes have come.
    pub fn note(&self, bytes: u64) {
        if let Some(told) = &self.0 {
            told(bytes);
        }
    }

    /// Notes each chunk of a stream as it comes out of it: for streams that hold nothing back.
    #[must_use]
    pub fn note_each<'a, E: Send + 'a>(
        self,
        chunks: BoxStream<'a, Result<Bytes, E>>,
    ) -> BoxStream<'a, Result<Bytes, E>> {
        chunks.inspect_ok(move |chunk| self.note(chunk.len() as u64)).boxed()
    }
}
