//! One path at a site is worked on by one worker at a time.
//!
//! Two tasks can meet at a path: a removal and the file that takes its place, a file and the one that was renamed over it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::{RelPath, SiteName};

/// The paths that are worked on.
#[derive(Debug, Default)]
pub(super) struct Paths {
    busy: Mutex<HashSet<(SiteName, RelPath)>>,
    freed: Notify,
}

/// A path that is worked on; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Taken {
    of: Arc<Paths>,
    key: (SiteName, RelPath),
}

impl Paths {
    /// Takes a path, if nobody has it.
    pub(super) fn try_take(self: &Arc<Self>, site: &SiteName, path: &RelPath) -> Option<Taken> {
        let key = (site.clone(), path.clone());
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(key.clone()).then(|| Taken {
            of: Arc::clone(self),
            key,
        })
    }

    /// Waits for a path.
    pub(super) async fn take(self: &Arc<Self>, site: &SiteName, path: &RelPath) -> Taken {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before looking: a path freed between the look and the sleep is not missed.
            freed.as_mut().enable();
            if let Some(taken) = self.try_take(site, path) {
                return taken;
            }
            freed.await;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut busy = self.of.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.key);
        drop(busy);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_path_is_taken_once_at_each_site() {
        let paths = Arc::new(Paths::default());
        let (a, b) = (SiteName("a".to_owned()), SiteName("b".to_owned()));
        let path = RelPath::new("x").unwrap();
        let first = paths.try_take(&a, &path).unwrap();
        assert!(paths.try_take(&a, &path).is_none());
        assert!(paths.try_take(&b, &path).is_some());
        let mut waiting = Box::pin(paths.take(&a, &path));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
