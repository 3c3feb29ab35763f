//! Who is told that content has come from a site, and whether they wait for it.
//!
//! Owns: passing a number of bytes on, and how urgent they are. Refuses to know: meters, accounts, what the bytes are.
//! Invariant: of a read, each byte of content that comes is told once, when it comes, whether or not anybody is still there
//! to be given it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;

/// Who is told of the content bytes of a read when they come ([`Provider::read_for`](super::Provider::read_for)).
#[derive(Clone, Default)]
pub struct Arrivals {
    told: Option<Arc<dyn Fn(u64) + Send + Sync>>,
    urgent: Option<watch::Receiver<bool>>,
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals")
            .field("told", &self.told.is_some())
            .field("urgent", &self.urgent)
            .finish()
    }
}

impl Arrivals {
    /// Has `told` called with each number of bytes. It must not block, and may be called after the read was dropped.
    pub fn new(told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            told: Some(Arc::new(told)),
            urgent: None,
        }
    }

    /// Says whether somebody waits for the bytes, also later on: where bytes wait for each other, these go first then.
    #[must_use]
    pub fn urgent_when(mut self, urgent: watch::Receiver<bool>) -> Self {
        self.urgent = Some(urgent);
        self
    }

    /// Has `also` called as well.
    #[must_use]
    pub fn and(self, also: impl Fn(u64) + Send + Sync + 'static) -> Self {
        let (told, urgent) = (self.told, self.urgent);
        let both = move |bytes| {
            also(bytes);
            if let Some(told) = &told {
                told(bytes);
            }
        };
        Self {
            told: Some(Arc::new(both)),
            urgent,
        }
    }

    /// Returns what says whether somebody waits for the bytes. `None`: nobody knows.
    #[must_use]
    pub fn urgency(&self) -> Option<watch::Receiver<bool>> {
        self.urgent.clone()
    }

    /// Tells nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// So many bytes have come.
    pub fn note(&self, bytes: u64) {
        if let Some(told) = &self.told {
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
