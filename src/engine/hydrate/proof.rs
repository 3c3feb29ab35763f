//! The hash that a site names for a whole file, held against the bytes before the last of them is taken in.
//!
//! Owns: when a file is hashed, and which files are not what their site says they are. Refuses to know: how a site comes by
//! its hashes. Invariants: the granule that makes a content whole is filled only after the hash of all of it was found
//! right, so a content that is whole in the cache needs no other mark; what was found wrong is dropped, and nothing of it is
//! given out while anybody has it open, nor for a while after that.
//!
//! Lock order: `OpenContent::proof` is held over a fill and nothing else is taken inside but the cache's own locks.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use backlot_cache::{CacheError, Content, ContentId, Hit};
use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;
use tracing::{error, info};

use super::{Fetch, HydrateError, OpenContent, Progress};
use crate::model::{Ino, RelPath};
use crate::providers::{FileHash, Hasher};

/// Bytes hashed in one go; readers are told in between that it goes on.
const STEP: u64 = 8 << 20;
/// With each landing so many times its bytes are hashed of those that lie before, until all are.
const CATCH_UP: u64 = 4;
/// A file whose bytes were wrong is fetched again no sooner than this.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Files with wrong bytes that are remembered; the oldest is forgotten first.
const REMEMBERED: usize = 1000;

/// Bytes that are not what their site says they are.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Whose.
    pub(in crate::engine) ino: Ino,
    /// Where they are at the site.
    pub(in crate::engine) path: RelPath,
    site: String,
    told: FileHash,
    found: FileHash,
    since: Instant,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, told, found, .. } = self;
        write!(
            f,
            "its bytes are not what the site {site} says they are: {found}, where it says {told}"
        )
    }
}

/// The files of a drive whose bytes were found wrong.
#[derive(Default)]
pub(in crate::engine) struct Mismatches {
    all: Mutex<HashMap<ContentId, Arc<Mismatch>>>,
    count: AtomicUsize,
    tell: OnceLock<Box<dyn Fn(Ino) + Send + Sync>>,
}

impl fmt::Debug for Mismatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mismatches")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Mismatches {
    fn all(&self) -> MutexGuard<'_, HashMap<ContentId, Arc<Mismatch>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whom to tell that nothing of a file that was given out is to be used any more. Only the first call counts.
    pub(in crate::engine) fn tell(&self, tell: impl Fn(Ino) + Send + Sync + 'static) {
        drop(self.tell.set(Box::new(tell)));
    }

    /// Nothing is wrong with any. Costs nothing.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Returns what is wrong with a content.
    pub(in crate::engine) fn of(&self, id: ContentId) -> Option<Arc<Mismatch>> {
        if self.is_empty() {
            return None;
        }
        self.all().get(&id).cloned()
    }

    /// Returns all of them, the latest first.
    pub(in crate::engine) fn list(&self) -> Vec<(ContentId, Arc<Mismatch>)> {
        let mut all: Vec<_> = self.all().iter().map(|(id, m)| (*id, Arc::clone(m))).collect();
        all.sort_by_key(|(_, mismatch)| std::cmp::Reverse(mismatch.since));
        all
    }

    /// Forgets one: its file is gone, or another version by now, or right.
    pub(in crate::engine) fn forget(&self, id: ContentId) -> bool {
        let mut all = self.all();
        let was = all.remove(&id).is_some();
        self.count.store(all.len(), Ordering::Release);
        was
    }

    fn note(&self, id: ContentId, mismatch: &Arc<Mismatch>) {
        let mut all = self.all();
        if all.len() >= REMEMBERED
            && let Some(oldest) = all.iter().min_by_key(|(_, m)| m.since).map(|(id, _)| *id)
        {
            all.remove(&oldest);
        }
        all.insert(id, Arc::clone(mismatch));
        self.count.store(all.len(), Ordering::Release);
        drop(all);
        if let Some(tell) = self.tell.get() {
            tell(mismatch.ino);
        }
    }
}

/// The hash of the first bytes of a content.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    hasher: Option<Hasher>,
    len: u64,
}

impl Prefix {
    /// Takes in bytes that are here, from where it is up to `end`, in steps; `next` in their place where that is met. Says
    /// whether it came there: what is not here ends it.
    fn advance(
        &mut self,
        content: &Content,
        end: u64,
        next: Option<(u64, &[u8])>,
        kind: &FileHash,
    ) -> Result<bool, CacheError> {
        let hasher = self.hasher.get_or_insert_with(|| Hasher::new(kind.kind));
        while self.len < end {
            let mut until = end;
            if let Some((at, bytes)) = next {
                if self.len == at {
                    hasher.update(bytes);
                    self.len += bytes.len() as u64;
                    continue;
                }
                if self.len < at {
                    until = until.min(at);
                }
            }
            let until = until.min(self.len + STEP);
            match content.read(self.len..until)? {
                Hit::Full(bytes) => hasher.update(&bytes),
                Hit::Missing(missing) => {
                    // What lies before the gap can be taken in.
                    let gap = missing.first().map_or(self.len, |gap| gap.start);
                    if gap <= self.len {
                        return Ok(false);
                    }
                    match content.read(self.len..gap)? {
                        Hit::Full(bytes) => hasher.update(&bytes),
                        Hit::Missing(_) => return Ok(false),
                    }
                    self.len = gap;
                    return Ok(self.len >= end);
                }
            }
            self.len = until;
        }
        Ok(true)
    }
}

impl OpenContent {
    /// Returns what is wrong with these bytes, if anything is.
    pub(super) fn trusted(&self) -> Result<(), HydrateError> {
        match self.failed.get() {
            Some(mismatch) => Err(HydrateError::Mismatch(Arc::clone(mismatch))),
            None => Ok(()),
        }
    }

    /// What was found wrong a moment ago is not fetched again just because somebody opens it.
    pub(super) fn recall(&self) {
        if let Some(known) = self.mismatches.of(self.content.id())
            && known.since.elapsed() < RETRY_AFTER
        {
            drop(self.failed.set(known));
        }
    }

    /// Puts a batch of whole granules into the cache; if it is what lacks of the file, only after the hash that the site
    /// names was found right.
    pub(super) async fn take_in(self: &Arc<Self>, fetch: &Fetch, at: u64, batch: Bytes) -> Result<(), HydrateError> {
        let provider = self.site.provider();
        if provider.capabilities().hash.is_none() {
            let content = self.content.clone();
            return self.on_disk(move || content.fill(at, &batch)).await;
        }
        let mut proof = Arc::clone(&self.proof).lock_owned().await;
        self.trusted()?;
        let completes = self.completes(at, batch.len() as u64)?;
        let asked = self
            .told
            .get_or_try_init(async || provider.hash(&self.path, &self.version).await)
            .await;
        let told = match asked {
            Ok(told) => told.clone(),
            // Asked once more when it matters.
            Err(_) if !completes => None,
            Err(e) => {
                self.site.link().failed(&e);
                return Err(HydrateError::Provider(Arc::new(e)));
            }
        };
        let Some(told) = told else {
            let content = self.content.clone();
            // The lock goes along: a fill that nobody waits for any more still ends before the next one looks.
            return self.on_disk(move || filled(&proof, &content, at, &batch)).await;
        };
        if completes {
            let found;
            (proof, found) = self.hash_all(proof, fetch, at, &batch, &told).await?;
            if let Some(found) = found.filter(|found| *found != told) {
                return Err(self.condemn(proof, told, found).await);
            }
            if self.mismatches.forget(self.content.id()) {
                info!(path = %self.path, "its bytes are what the site says they are, now");
            }
        }
        let content = self.content.clone();
        let more = (batch.len() as u64).saturating_mul(CATCH_UP);
        self.on_disk(move || {
            filled(&proof, &content, at, &batch)?;
            let end = proof.len.saturating_add(more).min(content.len());
            proof.advance(&content, end, None, &told).map(drop)
        })
        .await
    }

    /// Says whether all that lacks of the content lies in these bytes.
    fn completes(&self, at: u64, len: u64) -> Result<bool, HydrateError> {
        let content = &self.content;
        if content.resident_bytes().saturating_add(len) < content.len() {
            return Ok(false);
        }
        let missing = content.missing(0..content.len());
        let missing = missing.map_err(|e| HydrateError::Cache(Arc::new(e)))?;
        Ok(!missing.is_empty() && missing.iter().all(|gap| at <= gap.start && gap.end <= at + len))
    }

    /// Hashes all of the content, with `batch` where it lacks; `None` if more turns out to be lacking.
    async fn hash_all(
        self: &Arc<Self>,
        mut proof: OwnedMutexGuard<Prefix>,
        fetch: &Fetch,
        at: u64,
        batch: &Bytes,
        told: &FileHash,
    ) -> Result<(OwnedMutexGuard<Prefix>, Option<FileHash>), HydrateError> {
        let all = self.content.len();
        loop {
            let (content, batch, told) = (self.content.clone(), batch.clone(), told.clone());
            let end = proof.len.saturating_add(STEP).min(all);
            let step = self.on_disk(move || {
                let came = proof.advance(&content, end, Some((at, &batch)), &told)?;
                Ok((proof, came))
            });
            let came;
            (proof, came) = step.await?;
            // Whoever waits is told that it goes on.
            fetch.progress.send_replace(Progress::UpTo(at));
            if !came {
                return Ok((proof, None));
            }
            if proof.len >= all {
                let done = std::mem::take(&mut *proof);
                let found = done.hasher.map(Hasher::finish);
                return Ok((proof, found));
            }
        }
    }

    async fn condemn(
        self: &Arc<Self>,
        proof: OwnedMutexGuard<Prefix>,
        told: FileHash,
        found: FileHash,
    ) -> HydrateError {
        let mismatch = Arc::new(Mismatch {
            ino: self.ino,
            path: self.path.clone(),
            site: self.site.name().to_string(),
            told,
            found,
            since: Instant::now(),
        });
        error!(path = %self.path, "{mismatch}; nothing of it is kept");
        // First: from now on nobody is given any of it.
        drop(self.failed.set(Arc::clone(&mismatch)));
        // Whoever is refused asks why.
        self.mismatches.note(self.content.id(), &mismatch);
        let (this, content) = (Arc::clone(self), self.content.clone());
        let dropped = self.on_disk(move || {
            if let Some(head) = &this.head {
                head.forget();
            }
            let dropped = content.drop_granules(0..content.len());
            drop(proof);
            dropped
        });
        if let Err(e) = dropped.await {
            error!(path = %self.path, error = %e, "wrong bytes stay in the cache, incomplete, and are not served");
        }
        HydrateError::Mismatch(mismatch)
    }
}

/// Fills while the proof's lock is held.
fn filled(_proof: &OwnedMutexGuard<Prefix>, content: &Content, at: u64, batch: &Bytes) -> Result<(), CacheError> {
    content.fill(at, batch)
}
