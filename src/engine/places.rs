//! Where folders are in their projects, remembered: every file operation that changes something asks.
//!
//! Owns: the answers and when they are void. Refuses to know: how a path is found. Invariant: an answer that was asked for
//! before a folder moved is not given after.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::drive::Project;
use crate::model::{Ino, RelPath};

/// Folders remembered at most: then all are forgotten and asked for again.
const KEPT: usize = 16_384;

type Place = (Arc<Project>, RelPath);

/// Folders and their places.
#[derive(Debug, Default)]
pub(super) struct Places {
    epoch: AtomicU64,
    known: Mutex<HashMap<Ino, Place>>,
}

impl Places {
    fn known(&self) -> MutexGuard<'_, HashMap<Ino, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the moment, to be noted before a place is looked up.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Place> {
        self.known().get(&ino).cloned()
    }

    /// Remembers a place that was looked up after a moment, unless a folder moved since.
    pub(super) fn put(&self, epoch: u64, ino: Ino, place: &Place) {
        let mut known = self.known();
        if self.epoch() == epoch {
            if known.len() >= KEPT {
                known.clear();
            }
            known.insert(ino, place.clone());
        }
    }

    /// A name moved: what lies below it is elsewhere.
    pub(super) fn moved(&self) {
        let mut known = self.known();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        known.clear();
    }
}
