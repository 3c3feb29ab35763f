//! Files whose attributes the kernel may remember wrong: their bytes changed a moment ago, and it is told behind us.
//!
//! Owns: which files those are. Refuses to know: how the kernel is told. Invariant: whoever can see a changed row in the
//! store can see the doubt as well, since it is noted inside the write that changes the row.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Ino;
use crate::state::ListingDiff;

/// Longer than the kernel's thread takes to be told of a change, by far: it may wait for a read that waits for a site.
const LASTS: Duration = Duration::from_secs(60);
/// Doubts beyond this many are looked through for old ones.
const PRUNE_AT: usize = 4096;

/// The files in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<HashMap<Ino, Instant>>);

impl Doubts {
    /// Takes note of a change that is about to be committed.
    pub(super) fn note(&self, diff: &ListingDiff) {
        let changed: Vec<_> = diff.changed.iter().filter(|(_, content)| *content).collect();
        if changed.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if doubts.len() + changed.len() > PRUNE_AT {
            doubts.retain(|_, since| now.duration_since(*since) < LASTS);
        }
        doubts.extend(changed.into_iter().map(|(ino, _)| (*ino, now)));
    }

    /// Says whether a file changed so recently that the kernel may not know.
    pub(super) fn has(&self, ino: Ino) -> bool {
        let doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.get(&ino).is_some_and(|since| since.elapsed() < LASTS)
    }
}
