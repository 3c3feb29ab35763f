//! Making bytes local: at most one fetch per granule, whoever asks; streamed, so that a reader goes on with the first
//! granules while the rest is under way.
//!
//! Owns: the fetches in flight of each open content, their interest and priority. Refuses to know: paths of the drive,
//! handles, the kernel. Invariants: the spans in flight of one content never overlap (but for one that nobody
//! wants any more and that is being stopped); a granule is in the cache before
//! anyone is told that it landed; nobody left interested in a fetch means that it stops.
//!
//! Lock order: `OpenContent::fetches` alone; no lock is held over an await.

mod fetch;
mod proof;
mod stats;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use backlot_cache::{CacheError, Content, ContentCache, GRANULE, Hit};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use self::fetch::{Fetch, Progress};
use self::proof::Prefix;
use self::stats::Demand;
use super::firewall::Payer;
use super::heads::Head;
use super::link::LinkState;
use super::native::Checking;
use super::schedule::Priority;
use super::site::Site;
use crate::model::{Ino, RelPath, Version};
use crate::providers::{Arrivals, ErrorKind, FileHash, Op, ProviderError};

pub use self::fetch::Interest;
pub use self::proof::Mismatch;
pub(super) use self::proof::Mismatches;
pub use self::stats::{Failures, HydrateStats};

/// The longest request of background work. A demand asks for exactly its granules; what is fetched ahead is cut into
/// pieces of this size, so that several connections share a window and a change of mind costs little.
const MAX_FETCH: u64 = 4 << 20;
/// A read that finds its bytes missing again, after they were fetched this often, goes past the cache.
const MAX_ROUNDS: u32 = 3;
/// A granule in memory.
const GRANULE_LEN: usize = 64 << 10;
const _: () = assert!(GRANULE_LEN as u64 == GRANULE);
/// Bytes gathered before they are handed to the cache in one call.
const FILL_BATCH: usize = 1 << 20;

/// Why bytes did not become local.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HydrateError {
    /// The site is known to be out of reach.
    #[error("the site {site} is offline: {reason}")]
    Offline {
        /// Which site.
        site: String,
        /// Why, as last seen.
        reason: String,
    },
    /// No byte came for the whole deadline.
    #[error("no byte arrived for {0:?}")]
    Deadline(Duration),
    /// The site said no, or something else than was expected.
    #[error("{0}")]
    Provider(Arc<ProviderError>),
    /// The bytes are not what the site says they are.
    #[error("{0}")]
    Mismatch(Arc<Mismatch>),
    /// The cache can't take the bytes (full, read-only, failing).
    #[error("the cache can't hold the bytes: {0}")]
    Cache(Arc<CacheError>),
}

impl HydrateError {
    /// Returns the kind of error as a fixed word.
    fn word(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "offline",
            Self::Deadline(_) => "deadline",
            Self::Provider(e) => e.kind.word(),
            Self::Mismatch(_) => "mismatch",
            Self::Cache(_) => "cache",
        }
    }
}

/// Whose bytes, and where they come from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) ino: Ino,
    pub(super) site: Arc<Site>,
    /// Where they are at the site.
    pub(super) path: RelPath,
    pub(super) version: Version,
}

/// Where the bytes of a version of a file are kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) cache: Arc<ContentCache>,
    pub(super) content: Content,
    /// Its beginning and its end, apart.
    pub(super) head: Option<Head>,
}

/// One version of one file while somebody wants its bytes.
#[derive(Debug)]
pub struct OpenContent {
    ino: Ino,
    site: Arc<Site>,
    path: RelPath,
    version: Version,
    cache: Arc<ContentCache>,
    content: Content,
    head: Option<Head>,
    deadline: Duration,
    stats: Arc<HydrateStats>,
    fetches: Mutex<Vec<Arc<Fetch>>>,
    checking: Arc<AtomicBool>,
    /// What the site says the hash of all bytes is, once it was asked.
    told: tokio::sync::OnceCell<Option<FileHash>>,
    proof: Arc<tokio::sync::Mutex<Prefix>>,
    /// The bytes are not that.
    failed: OnceLock<Arc<Mismatch>>,
    mismatches: Arc<Mismatches>,
}

impl OpenContent {
    pub(super) fn new(
        origin: Origin,
        kept: Kept,
        deadline: Duration,
        stats: Arc<HydrateStats>,
        mismatches: Arc<Mismatches>,
    ) -> Arc<Self> {
        let Origin {
            ino,
            site,
            path,
            version,
        } = origin;
        let Kept { cache, content, head } = kept;
        let opened = Self {
            ino,
            site,
            path,
            version,
            cache,
            content,
            head,
            deadline,
            stats,
            fetches: Mutex::default(),
            checking: Arc::default(),
            told: tokio::sync::OnceCell::new(),
            proof: Arc::default(),
            failed: OnceLock::new(),
            mismatches,
        };
        opened.recall();
        Arc::new(opened)
    }

    /// The version whose bytes these are.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The bytes that are here.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Where its beginning and end are kept apart.
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Begins a check of the bytes that are here, unless one is under way.
    pub(super) fn begin_check(&self) -> Option<Checking> {
        Checking::begin(&self.checking)
    }

    /// The site that they come from.
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// Where they are at the site.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Returns the spans being fetched now and how far each has come.
    pub fn in_flight(&self) -> Vec<(Range<u64>, u64)> {
        let fetches = self.lock();
        fetches
            .iter()
            .map(|f| {
                let at = match *f.progress.borrow() {
                    Progress::UpTo(at) | Progress::Queued(at) => at,
                    Progress::Failed(_) | Progress::Cancelled => f.span.start,
                };
                (f.span.clone(), at)
            })
            .collect()
    }

    /// Returns the bytes of a range, fetching what is missing and waiting for it. The range lies within the content.
    ///
    /// # Errors
    /// See [`HydrateError`]; without progress for the deadline the wait ends.
    pub async fn read(self: &Arc<Self>, range: Range<u64>, payer: &Payer) -> Result<Bytes, HydrateError> {
        let _demand = Demand::begin(&self.stats);
        self.trusted()?;
        match self.content.read(range.clone()) {
            Ok(Hit::Full(bytes)) => {
                self.stats.reads_here.fetch_add(1, Ordering::Relaxed);
                return Ok(bytes);
            }
            Ok(Hit::Missing(_)) | Err(_) => {}
        }
        let begun = Instant::now();
        let read = self.fetch_and_read(range, payer).await;
        self.stats.reads_waited.fetch_add(1, Ordering::Relaxed);
        self.stats.waits.note(begun.elapsed());
        read
    }

    async fn fetch_and_read(self: &Arc<Self>, range: Range<u64>, payer: &Payer) -> Result<Bytes, HydrateError> {
        for _ in 0..MAX_ROUNDS {
            self.trusted()?;
            match self.content.read(range.clone()) {
                Ok(Hit::Full(bytes)) => return Ok(bytes),
                Ok(Hit::Missing(_)) => {}
                Err(e) => {
                    warn!(path = %self.path, error = %e, "the cache can't be read; bytes come past it");
                    return self.read_past_cache(range, Priority::Demand, payer).await;
                }
            }
            match self.ensure(range.clone(), Priority::Demand, payer).await {
                Ok(()) => {}
                Err(HydrateError::Cache(e)) => {
                    warn!(path = %self.path, error = %e, "the cache can't hold bytes; they come past it");
                    return self.read_past_cache(range, Priority::Demand, payer).await;
                }
                Err(e) => return Err(e),
            }
        }
        self.trusted()?;
        warn!(path = %self.path, "the cache loses bytes as fast as they arrive; they come past it");
        self.read_past_cache(range, Priority::Demand, payer).await
    }

    /// Returns the bytes of a range if all of them are here.
    pub(super) fn read_here(&self, range: Range<u64>) -> Option<Bytes> {
        if let Ok(Hit::Full(bytes)) = self.content.read(range.clone()) {
            return Some(bytes);
        }
        let head = self.head.as_ref()?;
        let mut out = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let piece = at..(at / GRANULE * GRANULE + GRANULE).min(range.end);
            match self.content.read(piece.clone()) {
                Ok(Hit::Full(bytes)) => out.extend_from_slice(&bytes),
                Ok(Hit::Missing(_)) | Err(_) => out.extend_from_slice(&head.read(&piece)?),
            }
            at = piece.end;
        }
        Some(out.freeze())
    }

    /// Says how far on from `at` its beginning or end is kept apart.
    fn kept_until(&self, at: u64, end: u64) -> u64 {
        self.head.as_ref().map_or(at, |head| head.run(at, end))
    }

    /// Makes a range local and waits for it.
    ///
    /// # Errors
    /// See [`HydrateError`].
    pub async fn ensure(
        self: &Arc<Self>,
        range: Range<u64>,
        priority: Priority,
        payer: &Payer,
    ) -> Result<(), HydrateError> {
        loop {
            let wanted = self.want(&range, priority, payer)?;
            if wanted.is_empty() {
                return Ok(());
            }
            for (interest, until) in &wanted {
                let Err(e) = self.wait_for(&interest.0, *until).await else {
                    continue;
                };
                // It may have failed further on, while this reader waited for the others.
                let part = interest.0.span.start.max(range.start)..*until;
                if !self.content.missing(part).is_ok_and(|missing| missing.is_empty()) {
                    return Err(e);
                }
            }
        }
    }

    /// Makes a range local, however long its turn takes to come: for background work, which waits behind readers, so that no
    /// progress says nothing about the site. A site that goes silent ends it by its own deadline.
    ///
    /// # Errors
    /// See [`HydrateError`].
    pub(super) async fn bring(
        self: &Arc<Self>,
        range: Range<u64>,
        priority: Priority,
        payer: &Payer,
    ) -> Result<(), HydrateError> {
        for _ in 0..MAX_ROUNDS {
            let wanted = self.want(&range, priority, payer)?;
            if wanted.is_empty() {
                return Ok(());
            }
            for (interest, _) in &wanted {
                interest.ended().await;
                if let Progress::Failed(e) = &*interest.0.progress.borrow() {
                    return Err(e.clone());
                }
            }
        }
        // A reader who shared the fetches has given them up, again and again.
        Err(HydrateError::Deadline(self.deadline))
    }

    /// Starts fetching what is missing of a range and returns the interest that keeps it going.
    pub fn fetch_ahead(self: &Arc<Self>, range: Range<u64>, priority: Priority, payer: &Payer) -> Vec<Interest> {
        match self.want(&range, priority, payer) {
            Ok(wanted) => wanted.into_iter().map(|(interest, _)| interest).collect(),
            Err(e) => {
                debug!(path = %self.path, error = %e, "not fetched ahead");
                Vec::new()
            }
        }
    }

    /// Joins the fetches that cover the missing parts of a range and starts those that nobody began. Returns each with
    /// the offset up to which this range needs it.
    fn want(
        self: &Arc<Self>,
        range: &Range<u64>,
        priority: Priority,
        payer: &Payer,
    ) -> Result<Vec<(Interest, u64)>, HydrateError> {
        self.trusted()?;
        let mut fetches = self.lock();
        // A fetch leaves the list only after its bytes are in the cache, so looking at the cache under this lock never
        // misses a granule between the two.
        let missing = self
            .content
            .missing(range.clone())
            .map_err(|e| HydrateError::Cache(Arc::new(e)))?;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        let mut gaps = missing;
        fetches.retain(|fetch| !fetch.cancel.is_cancelled());
        for fetch in fetches.iter() {
            let mut left = Vec::with_capacity(gaps.len());
            let mut until = None;
            for gap in gaps {
                let (start, end) = (gap.start.max(fetch.span.start), gap.end.min(fetch.span.end));
                if start >= end {
                    left.push(gap);
                    continue;
                }
                until = until.max(Some(end));
                if gap.start < start {
                    left.push(gap.start..start);
                }
                if end < gap.end {
                    left.push(end..gap.end);
                }
            }
            gaps = left;
            if let Some(until) = until {
                fetch.raise(priority);
                wanted.push((Self::interest(fetch), until));
            }
        }
        if gaps.iter().any(|gap| self.kept_until(gap.start, gap.end) < gap.end) {
            self.check_up()?;
        }
        for gap in gaps {
            let mut at = gap.start;
            while at < gap.end {
                let end = (at + MAX_FETCH).min(gap.end);
                let fetch = Fetch::new(at..end, priority, payer);
                let interest = Self::interest(&fetch);
                fetches.push(Arc::clone(&fetch));
                tokio::spawn(Arc::clone(self).run(fetch));
                wanted.push((interest, end));
                at = end;
            }
        }
        Ok(wanted)
    }

    fn interest(fetch: &Arc<Fetch>) -> Interest {
        fetch.wanted.fetch_add(1, Ordering::AcqRel);
        Interest(Arc::clone(fetch))
    }

    async fn wait_for(&self, fetch: &Fetch, until: u64) -> Result<(), HydrateError> {
        let mut progress = fetch.progress.subscribe();
        loop {
            let is_queued = match &*progress.borrow_and_update() {
                Progress::UpTo(at) | Progress::Queued(at) if *at >= until => return Ok(()),
                Progress::UpTo(_) => false,
                Progress::Queued(_) => true,
                Progress::Failed(e) => return Err(e.clone()),
                // It stopped between our joining and our wait; the caller looks again.
                Progress::Cancelled => return Ok(()),
            };
            match timeout(self.deadline, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_gone)) => return Ok(()),
                // Bytes come, as fast as the site's limit lets them.
                Err(_elapsed) if self.site.is_held_back() => {}
                // The site serves others first. What is before it in the queue comes, or is given up by this very deadline.
                Err(_elapsed) if is_queued && self.is_heard() => {}
                Err(_elapsed) => {
                    // Before its slot goes to the next one, which must not wait as long for a site that is down.
                    let error = self.timed_out();
                    // Given up for everyone: the kernel asks for the same bytes twice, and the second time must not wait
                    // for a fetch that is known to be stuck.
                    fetch.cancel.cancel();
                    return Err(error);
                }
            }
        }
    }

    /// Fails at once where the site is known not to answer.
    fn check_up(&self) -> Result<(), HydrateError> {
        match self.site.link().state() {
            LinkState::Down { reason, .. } => Err(HydrateError::Offline {
                site: self.site.name().to_string(),
                reason,
            }),
            LinkState::Up | LinkState::Unknown => Ok(()),
        }
    }

    /// Says whether the site answered anybody within the deadline and is not known to be down.
    fn is_heard(&self) -> bool {
        let link = self.site.link();
        !link.is_down() && link.quiet_for() < self.deadline
    }

    /// Nothing came for the whole deadline. A site that nobody heard of meanwhile is down: the next one must not pay for
    /// finding out.
    fn timed_out(&self) -> HydrateError {
        let link = self.site.link();
        if link.quiet_for() >= self.deadline {
            link.failed(&ProviderError::new(ErrorKind::TimedOut, Op::Read).at(&self.path));
        }
        HydrateError::Deadline(self.deadline)
    }

    /// Fetches one span from the site into the cache.
    async fn run(self: Arc<Self>, fetch: Arc<Fetch>) {
        let outcome = tokio::select! {
            biased;
            () = fetch.cancel.cancelled() => Err(None),
            r = self.stream(&fetch) => r.map_err(Some),
        };
        let mut fetches = self.lock();
        fetches.retain(|f| !Arc::ptr_eq(f, &fetch));
        drop(fetches);
        match outcome {
            Ok(()) => self.whole(),
            Err(None) => {
                self.stats.cancelled.fetch_add(1, Ordering::Relaxed);
                fetch.progress.send_replace(Progress::Cancelled);
            }
            Err(Some(e)) => {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                self.stats.failures.note(e.word());
                debug!(path = %self.path, span = ?fetch.span, error = %e, "fetch failed");
                fetch.progress.send_replace(Progress::Failed(e));
            }
        }
    }

    async fn stream(self: &Arc<Self>, fetch: &Fetch) -> Result<(), HydrateError> {
        let mut at = self.take_kept(fetch).await?;
        if at == fetch.span.end {
            return Ok(());
        }
        fetch.progress.send_replace(Progress::Queued(at));
        let _slot = self.slot(fetch).await;
        self.check_up()?;
        // From here on a silence is the site's: the deadline begins anew.
        fetch.progress.send_replace(Progress::UpTo(at));
        let (cache, length) = (Arc::clone(&self.cache), fetch.span.end - at);
        // Making room may delete files, which takes its time.
        let mut reserved = self.on_disk(move || cache.reserve(length)).await?;
        self.stats.fetches.fetch_add(1, Ordering::Relaxed);
        let (range, arrivals) = (at..fetch.span.end, self.arrivals(fetch));
        let mut stream = self
            .site
            .provider()
            .read_for(&self.path, &self.version, range, arrivals);
        let mut pending = BytesMut::new();
        loop {
            let chunk = match stream.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(e)) => {
                    self.site.link().failed(&e);
                    return Err(HydrateError::Provider(Arc::new(e)));
                }
                None => break,
            };
            self.site.link().answered();
            pending.extend_from_slice(&chunk);
            let end = at + pending.len() as u64;
            // Whole granules go to the cache; so does the tail when the span is complete.
            let ready = if end >= fetch.span.end {
                pending.len()
            } else {
                pending.len() - pending.len() % GRANULE_LEN
            };
            if ready > 0 {
                at = self.land(fetch, at, pending.split_to(ready).freeze()).await?;
                // What has landed counts as resident now, no longer as promised.
                reserved.release(ready as u64);
                self.stats.bell.ring();
            } else {
                // Less than a granule, but no silence.
                fetch.progress.send_modify(|_| ());
            }
        }
        if at < fetch.span.end {
            // The provider ended early without saying why: a file that shrank is its mismatch to report, so this is a
            // fault of the site or of ours. Either way no byte is made up.
            let e = ProviderError::new(ErrorKind::Protocol, Op::Read)
                .at(&self.path)
                .because("the stream ended early");
            return Err(HydrateError::Provider(Arc::new(e)));
        }
        Ok(())
    }

    /// Counts and charges what comes for a fetch, also after it was stopped.
    fn arrivals(&self, fetch: &Fetch) -> Arrivals {
        let (stats, payer) = (Arc::clone(&self.stats), fetch.payer.clone());
        let priority = fetch.priority.subscribe();
        Arrivals::new(move |bytes| {
            stats.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
            payer.charge(bytes);
            let cause = *priority.borrow() as usize;
            stats.fetched_by[cause].fetch_add(bytes, Ordering::Relaxed);
        })
        .urgent_when(fetch.urgent.subscribe())
    }

    /// Takes what is kept apart of the beginning of a span; returns how far that went.
    async fn take_kept(self: &Arc<Self>, fetch: &Fetch) -> Result<u64, HydrateError> {
        let mut at = fetch.span.start;
        let until = self.kept_until(at, fetch.span.end);
        // What ends within a granule ends where the file does.
        let until = if until == self.content.len() {
            until
        } else {
            until / GRANULE * GRANULE
        };
        if until <= at {
            return Ok(at);
        }
        let (cache, length) = (Arc::clone(&self.cache), until - at);
        let _reserved = self.on_disk(move || cache.reserve(length)).await?;
        let (this, range) = (Arc::clone(self), at..until);
        let read = self.on_disk(move || Ok(this.head.as_ref().and_then(|head| head.read(&range))));
        // Damaged, or evicted meanwhile: it comes from the site.
        if let Some(bytes) = read.await? {
            at = self.land(fetch, at, bytes).await?;
        }
        Ok(at)
    }

    /// Has the beginning and the end of it kept apart, fetching what is not here, without the rest.
    pub(super) async fn bring_head(self: &Arc<Self>, payer: &Payer) -> Result<(), HydrateError> {
        let Some(head) = &self.head else { return Ok(()) };
        for range in head.missing() {
            let bytes = match self.read_here(range.clone()) {
                Some(bytes) => bytes,
                None => {
                    let mut ticket = self.site.slots().queue(Priority::Pin, range.end - range.start);
                    let _slot = ticket.granted().await;
                    self.stats.fetches.fetch_add(1, Ordering::Relaxed);
                    self.read_past_cache(range.clone(), Priority::Pin, payer).await?
                }
            };
            let this = Arc::clone(self);
            let keep = move || {
                if let Some(head) = &this.head {
                    head.keep(range.start, &bytes);
                }
                Ok(())
            };
            self.on_disk(keep).await?;
        }
        Ok(())
    }

    /// Has the cache take note, while it still knows that all bytes came through it, that they are right.
    fn whole(&self) {
        if self.content.len() < super::native::SMALLEST || !self.content.is_full() {
            return;
        }
        let content = self.content.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(e) = content.prove() {
                debug!(content = %content.id(), error = %e, "it is checked once more before it is given out");
            }
        });
    }

    /// Puts whole granules into the cache and tells those who wait.
    async fn land(self: &Arc<Self>, fetch: &Fetch, at: u64, mut bytes: Bytes) -> Result<u64, HydrateError> {
        let mut at = at;
        while !bytes.is_empty() {
            let batch = bytes.split_to(bytes.len().min(FILL_BATCH));
            let len = batch.len() as u64;
            self.take_in(fetch, at, batch.clone()).await?;
            if self.head.as_ref().is_some_and(|head| head.wants(at, len)) {
                let (this, from) = (Arc::clone(self), at);
                let keep = move || {
                    if let Some(head) = &this.head {
                        head.keep(from, &batch);
                    }
                    Ok(())
                };
                self.on_disk(keep).await?;
            }
            at += len;
            fetch.progress.send_replace(Progress::UpTo(at));
        }
        Ok(at)
    }

    /// Runs what may block on the cache's disk where it holds up nobody else.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, HydrateError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|e| HydrateError::Cache(Arc::new(e))),
            Err(_panicked_or_shutdown) => {
                let e = ProviderError::new(ErrorKind::Protocol, Op::Read)
                    .at(&self.path)
                    .because("shutting down");
                Err(HydrateError::Provider(Arc::new(e)))
            }
        }
    }

    /// Waits for a slot, moving up when the fetch becomes more urgent.
    async fn slot(&self, fetch: &Fetch) -> Option<super::schedule::Slot> {
        let mut urgency = fetch.priority.subscribe();
        let now = *urgency.borrow_and_update();
        let mut ticket = self.site.slots().queue(now, fetch.span.end - fetch.span.start);
        loop {
            tokio::select! {
                slot = ticket.granted() => return slot,
                changed = urgency.changed() => {
                    if changed.is_err() {
                        return ticket.granted().await;
                    }
                    let now = *urgency.borrow_and_update();
                    self.site.slots().raise(&mut ticket, now);
                }
            }
        }
    }

    /// Serves a range without the cache: for when the cache's disk is full, read-only or failing. Costs a request each
    /// time, but a reader gets its bytes.
    async fn read_past_cache(
        &self,
        range: Range<u64>,
        priority: Priority,
        payer: &Payer,
    ) -> Result<Bytes, HydrateError> {
        if let Some(bytes) = self.read_here(range.clone()) {
            return Ok(bytes);
        }
        self.check_up()?;
        let want = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut out = BytesMut::new();
        let charged = payer.clone();
        let arrivals = Arrivals::new(move |bytes| charged.charge(bytes))
            .urgent_when(watch::channel(priority == Priority::Demand).1);
        let mut stream = self
            .site
            .provider()
            .read_for(&self.path, &self.version, range, arrivals);
        while out.len() < want {
            match timeout(self.deadline, stream.next()).await {
                Ok(Some(Ok(chunk))) => {
                    self.site.link().answered();
                    self.stats
                        .uncached_bytes
                        .fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    out.extend_from_slice(&chunk);
                }
                Ok(Some(Err(e))) => {
                    self.site.link().failed(&e);
                    return Err(HydrateError::Provider(Arc::new(e)));
                }
                Ok(None) => {
                    let e = ProviderError::new(ErrorKind::Protocol, Op::Read);
                    return Err(HydrateError::Provider(Arc::new(
                        e.at(&self.path).because("the stream ended early"),
                    )));
                }
                Err(_elapsed) if self.site.is_held_back() => {}
                Err(_elapsed) => return Err(self.timed_out()),
            }
        }
        Ok(out.freeze())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Fetch>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
