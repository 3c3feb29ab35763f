//! A password, key or token, as a provider holds it.
//!
//! Owns: which one is in use, and that it is looked up again, where it is kept, once it was refused. Refuses to know: what it is
//! and how it is shown. Invariant: what can't be looked up leaves the one in use.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::ProviderError;

/// Requests that were under way with the one before may be refused for so long.
const OVERLAP: Duration = Duration::from_secs(10);

/// Something that is looked up, and shown to a site with each request.
pub(super) struct Login<T> {
    look_up: Box<dyn Fn() -> Result<T, ProviderError> + Send + Sync>,
    /// Everything of it that the site is shown.
    shown: fn(&T) -> Vec<&str>,
    held: RwLock<Arc<T>>,
    /// The site took it no more: it is looked up before the next request.
    refused: AtomicBool,
    /// The site has refused one, at any time.
    ever_refused: AtomicBool,
    renewed: Mutex<Option<Instant>>,
    marks: RandomState,
}

impl<T> fmt::Debug for Login<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is not shown.
        f.debug_struct("Login")
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl<T> Login<T> {
    /// Looks it up for the first time; `shown` returns all that the site is shown of it.
    ///
    /// # Errors
    /// Those of `look_up`.
    pub(super) fn new(
        look_up: impl Fn() -> Result<T, ProviderError> + Send + Sync + 'static,
        shown: fn(&T) -> Vec<&str>,
    ) -> Result<Self, ProviderError> {
        let held = RwLock::new(Arc::new(look_up()?));
        Ok(Self {
            look_up: Box::new(look_up),
            shown,
            held,
            refused: AtomicBool::new(false),
            ever_refused: AtomicBool::new(false),
            renewed: Mutex::new(None),
            marks: RandomState::new(),
        })
    }

    /// Returns what the next request is to show.
    pub(super) fn now(&self) -> Arc<T> {
        if self.refused.swap(false, Relaxed) {
            self.renew();
        }
        self.held()
    }

    /// Takes note that the site refused it. Returns whether another one has been put in place, so that the same request may be
    /// granted now.
    pub(super) fn refused(&self) -> bool {
        self.refused.store(true, Relaxed);
        self.ever_refused.store(true, Relaxed);
        self.renew();
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|at| at.elapsed() < OVERLAP)
    }

    /// Returns a number that is another once something else would be shown, hashed by a key of this process. `None`: none was
    /// refused, so that it is not to be spared.
    pub(super) fn mark(&self) -> Option<u64> {
        if !self.ever_refused.load(Relaxed) {
            return None;
        }
        let fresh = (self.look_up)().ok()?;
        let shown = (self.shown)(&fresh);
        (!shown.is_empty()).then(|| self.marks.hash_one(shown))
    }

    fn held(&self) -> Arc<T> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn renew(&self) {
        let Ok(fresh) = (self.look_up)() else { return };
        if (self.shown)(&fresh) == (self.shown)(&self.held()) {
            return;
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
