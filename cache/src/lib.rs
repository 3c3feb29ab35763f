//! Content cache: bytes on disk, keyed by content id, blind to paths and providers.
//!
//! Owns: a folder with one sparse data file per content (`objects/ab/<hex>.data`), a private SQLite index of which
//! granules of 64 KiB are in it with their checksums, and a limit on all of it. Refuses to know: file names, sites, what
//! a content means, async. Invariant: **a byte is served only if it is right**; what is lost, torn, rotted or deleted,
//! the folder included, counts as missing and is fetched again. Nothing in the folder is the only copy of anything.
//!
//! | module | holds |
//! |---|---|
//! | `content` | one content: missing, read, fill, drop |
//! | `segments` | bitmaps and checksums, a bounded number in memory |
//! | `files` | sparse files and their descriptors |
//! | `index` | the SQLite file |
//! | `evict` | accounting, reservations, eviction |
//! | `flush` | writing behind |
//! | `folder` | taking the folder, noticing its loss, sweeping |
//!
//! Lock order: `attaching` → `live` → a content's `ground` → a segment → `attached` → `books`; the descriptor list, the
//! segment list, what is proven and the index's connections are innermost and held for one call. `flushing` is outermost and meets only
//! `attached`, `books`, segments and the index. No lock is held while another content's `ground` is waited for, but `attaching`.

mod content;
mod error;
mod evict;
mod files;
mod flush;
mod folder;
#[cfg(test)]
mod growth;
mod index;
mod segments;
mod sync;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use content::Inner;
use evict::Books;
use files::{Files, Stamp};
use flush::Bell;
use folder::Attached;
use segments::{Layout, Segments};
use sync::{lock, read, write};

pub use content::{Content, Hit, Verified};
pub use error::CacheError;
pub use evict::Reservation;

/// Unit of presence and of checksums, in bytes. Small enough for a header probe, large enough that a row of the index
/// covers 64 MiB.
pub const GRANULE: u64 = 64 * 1024;

/// Segments kept loaded beyond those in use: 17 MB at most, much less when contents are small.
const LOADED_SEGMENTS: usize = 2048;

/// Identity of some bytes, given by the caller: equal ids promise equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ContentId(pub [u8; 16]);

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl ContentId {
    fn from_hex(hex: &str) -> Option<Self> {
        let id = Self(u128::from_str_radix(hex, 16).ok()?.to_be_bytes());
        (id.to_string() == hex).then_some(id)
    }
}

/// How to open a cache.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Folder of the cache, created if absent. One process at a time.
    pub dir: PathBuf,
    /// Limit on resident bytes.
    pub max_bytes: u64,
    /// Bytes that reservations leave free on the disk.
    pub min_free_bytes: u64,
    /// Bound of the list of open descriptors; those in use at the moment come on top.
    pub max_open_files: usize,
    /// Longest time that a change is unknown to the index, and that a deleted folder goes unnoticed while nothing is
    /// filled. 500 ms is a good value.
    pub flush_interval: Duration,
}

/// How much of a content is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residency {
    None,
    /// Bytes that are here.
    Partial(u64),
    Full,
}

/// Figures of the whole cache. Counters start at zero with each opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Resident bytes, and their limit.
    pub bytes: u64,
    pub max_bytes: u64,
    /// Bytes promised by reservations.
    pub reserved_bytes: u64,
    /// Resident bytes of pinned contents, and the number of those, resident or not.
    pub pinned_bytes: u64,
    pub pinned_contents: u64,
    pub granules: u64,
    /// Contents with anything here, and contents with a live handle.
    pub contents: u64,
    pub live_contents: u64,
    /// Granules whose bytes were found wrong or gone, and dropped.
    pub bad_granules: u64,
    pub evicted_bytes: u64,
    /// Fills and reservations refused for want of space or of a writable disk.
    pub refused_fills: u64,
    /// Times that the folder was found deleted, moved or damaged, and started anew.
    pub folders_lost: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    bad_granules: AtomicU64,
    evicted_bytes: AtomicU64,
    refused_fills: AtomicU64,
    folders_lost: AtomicU64,
}

/// Contents that are due to be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// The first of them, the least recently looked at first.
    pub contents: Vec<ContentId>,
    /// All of them, and their resident bytes.
    pub count: u64,
    pub bytes: u64,
    /// When the content was looked at that waits longest, due or not; `None` in an empty cache. 1970 is never.
    pub oldest: Option<SystemTime>,
}

/// What is known of a data file as a whole.
#[derive(Clone, Copy, Default)]
pub(crate) struct Proof {
    /// Every byte was found right in this process while it was that file.
    stamp: Option<Stamp>,
    /// It may have been handed out: its bytes never change again.
    is_lent: bool,
}

/// What handles, reservations and threads share.
pub(crate) struct Shared {
    options: CacheOptions,
    files: Files,
    segments: Segments,
    books: Mutex<Books>,
    live: Mutex<HashMap<ContentId, Weak<Inner>>>,
    /// `None` while the folder is lost and could not be started anew, and after closing.
    attached: RwLock<Option<Attached>>,
    attaching: Mutex<()>,
    /// Data files that were found right in this process, or handed out, by their incarnation's key.
    proven: Mutex<HashMap<u64, Proof>>,
    flushing: Mutex<()>,
    index_damaged: AtomicBool,
    bell: Bell,
    threads: Mutex<Vec<JoinHandle<()>>>,
    counters: Counters,
    next_key: AtomicU64,
    closed: AtomicBool,
}

impl Shared {
    fn new_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), CacheError> {
        if self.is_closed() {
            Err(CacheError::Closed)
        } else {
            Ok(())
        }
    }
}

/// The cache. Share it by `Arc`; every method may be called from any thread and may block on the disk.
pub struct ContentCache {
    shared: Arc<Shared>,
}

impl ContentCache {
    /// Opens the folder, or creates it. An index that is damaged or of another version is removed and the cache starts
    /// empty, with a warning.
    ///
    /// # Errors
    /// [`CacheError::InUse`] if another process (or this one) has it open; [`CacheError::ReadOnly`],
    /// [`CacheError::Full`], [`CacheError::Io`] or [`CacheError::Index`] if the folder can't be used.
    pub fn open(options: CacheOptions) -> Result<Self, CacheError> {
        let files = Files::new(&options.dir, options.max_open_files);
        let (attached, found) = folder::attach(&files, &options.dir, false)?;
        let shared = Arc::new(Shared {
            files,
            segments: Segments::new(LOADED_SEGMENTS),
            books: Mutex::new(Books::new(found.contents, found.looking)),
            live: Mutex::default(),
            attached: RwLock::new(Some(attached)),
            attaching: Mutex::default(),
            proven: Mutex::default(),
            flushing: Mutex::default(),
            index_damaged: AtomicBool::new(false),
            bell: Bell::default(),
            threads: Mutex::default(),
            counters: Counters::default(),
            next_key: AtomicU64::new(found.next_key),
            closed: AtomicBool::new(false),
            options,
        });
        if !found.was_clean {
            tracing::info!(dir = %shared.options.dir.display(), "cache was not closed; what its index missed is fetched again");
        }
        shared.sweep(!found.was_clean);
        let flusher = flush::spawn(&shared).map_err(|source| CacheError::Io {
            op: "start a thread for",
            path: shared.options.dir.clone(),
            source,
        })?;
        lock(&shared.threads).push(flusher);
        Ok(Self { shared })
    }

    /// Returns a handle on a content of `len` bytes. Creates nothing on disk before the first fill. What is here under
    /// this id with another length is dropped.
    ///
    /// # Errors
    /// [`CacheError::LengthDiffers`] if a live handle has another length.
    pub fn content(&self, id: ContentId, len: u64) -> Result<Content, CacheError> {
        let content = self.content_quietly(id, len)?;
        content.mark_used();
        Ok(content)
    }

    /// Like [`ContentCache::content`], but does not count as a use: what is looked at so is evicted as if nobody had, unless
    /// [`Content::mark_used`] says otherwise.
    ///
    /// # Errors
    /// As [`ContentCache::content`].
    pub fn content_quietly(&self, id: ContentId, len: u64) -> Result<Content, CacheError> {
        self.shared.check_open()?;
        let mut live = lock(&self.shared.live);
        if let Some(inner) = live.get(&id).and_then(Weak::upgrade) {
            // First the lock: letting go of the last handle takes it too.
            drop(live);
            let known = inner.layout.len;
            return if known == len {
                Ok(Content(inner))
            } else {
                Err(CacheError::LengthDiffers { known, asked: len })
            };
        }
        let known = lock(&self.shared.books).get(id).copied();
        let (key, other) = match known {
            Some(s) if s.len == len => (s.key, None),
            Some(_) => (self.shared.new_key(), self.shared.drop_content(id).1),
            None => (self.shared.new_key(), None),
        };
        let inner = Inner::new(Arc::clone(&self.shared), id, Layout { len }, key, false);
        let inner = Arc::new(inner);
        live.insert(id, Arc::downgrade(&inner));
        drop(live);
        if let Some(path) = other {
            files::delete(&path);
        }
        Ok(Content(inner))
    }

    /// Returns a handle for looking at a content that is here, which counts as no use of it; `None` if nothing is.
    ///
    /// # Errors
    /// [`CacheError::Closed`].
    pub fn look(&self, id: ContentId) -> Result<Option<Content>, CacheError> {
        self.shared.check_open()?;
        let mut live = lock(&self.shared.live);
        if let Some(inner) = live.get(&id).and_then(Weak::upgrade) {
            return Ok(Some(Content(inner)));
        }
        let Some(known) = lock(&self.shared.books).get(id).copied() else {
            return Ok(None);
        };
        let layout = Layout { len: known.len };
        let inner = Arc::new(Inner::new(Arc::clone(&self.shared), id, layout, known.key, false));
        live.insert(id, Arc::downgrade(&inner));
        Ok(Some(Content(inner)))
    }

    /// Returns the contents that were last looked at before `before`, at most `most` of them, and what all of them come to.
    /// Goes through the books: 10 ms for a million contents.
    #[must_use]
    pub fn due(&self, before: SystemTime, most: usize) -> Due {
        let due = lock(&self.shared.books).due(evict::micros(before), most);
        Due {
            contents: due.contents,
            count: due.count,
            bytes: due.bytes,
            oldest: due.oldest.map(|at| SystemTime::UNIX_EPOCH + Duration::from_micros(at)),
        }
    }

    /// Notes that a content was looked at up to that offset, or, with `None`, that all of it was. Survives a restart.
    pub fn looked_at(&self, id: ContentId, up_to: Option<u64>) {
        lock(&self.shared.books).looked_at(id, up_to);
    }

    /// Returns the content that was being looked at when that was noted last, and up to where; also from before a restart.
    #[must_use]
    pub fn looking(&self) -> Option<(ContentId, u64)> {
        lock(&self.shared.books).looking()
    }

    /// Returns how much of a content is here, from memory. Another length than the known one is another content.
    ///
    /// # Errors
    /// [`CacheError::Closed`].
    pub fn residency(&self, id: ContentId, len: u64) -> Result<Residency, CacheError> {
        self.shared.check_open()?;
        let resident = lock(&self.shared.books)
            .get(id)
            .filter(|s| s.len == len)
            .map_or(0, |s| s.resident);
        Ok(match resident {
            _ if resident == len => Residency::Full,
            0 => Residency::None,
            _ => Residency::Partial(resident),
        })
    }

    /// Drops a content. Returns the bytes freed, 0 if nothing of it was here.
    ///
    /// # Errors
    /// [`CacheError::Busy`] while a handle is alive, [`CacheError::Pinned`] while it is pinned.
    pub fn evict(&self, id: ContentId) -> Result<u64, CacheError> {
        self.shared.check_open()?;
        self.shared.evict_one(id)
    }

    /// Pins a content, whether anything of it is here or not: it is not evicted until [`ContentCache::unpin_before`] is
    /// called with a later round than this. The mark is kept with the content, so it survives a restart.
    pub fn pin(&self, id: ContentId, round: u64) {
        lock(&self.shared.books).pin(id, round);
    }

    /// Unpins every content that was last pinned in an earlier round; those known from before a restart are of round 0.
    pub fn unpin_before(&self, round: u64) {
        lock(&self.shared.books).unpin_before(round);
    }

    /// Returns the contents with anything here and their lengths, the least recently used first.
    #[must_use]
    pub fn contents(&self) -> Vec<(ContentId, u64)> {
        lock(&self.shared.books).all()
    }

    /// Returns the figures of the cache.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let live_contents = lock(&self.shared.live).len() as u64;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        let books = lock(&self.shared.books);
        Usage {
            bytes: books.bytes,
            max_bytes: self.shared.options.max_bytes,
            reserved_bytes: books.reserved,
            pinned_bytes: books.pinned_bytes,
            pinned_contents: books.pins() as u64,
            granules: books.granules,
            contents: books.len() as u64,
            live_contents,
            bad_granules: count(&counters.bad_granules),
            evicted_bytes: count(&counters.evicted_bytes),
            refused_fills: count(&counters.refused_fills),
            folders_lost: count(&counters.folders_lost),
        }
    }

    /// Promises room for `bytes` that are about to be fetched, evicting whole contents, the least recently used first,
    /// never one that is pinned or has a live handle.
    ///
    /// # Errors
    /// [`CacheError::Full`] if that can't be had within the limit and the reserve of free space; nothing is evicted then.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, CacheError> {
        evict::reserve(&self.shared, bytes)
    }

    /// Writes what is known to the index, so that it survives the end of this process however it comes. Against a power
    /// cut nothing is promised but that no wrong byte is served after it.
    ///
    /// # Errors
    /// Whatever keeps the index from being written; the changes are kept and tried again.
    pub fn flush(&self) -> Result<(), CacheError> {
        self.shared.flush()
    }

    /// Ends the cache: waits for its threads and for fills in flight, writes the index, marks a clean stop, lets go of
    /// the folder. Handles that are still alive get [`CacheError::Closed`] from then on. A second call does nothing.
    ///
    /// # Errors
    /// Whatever keeps the index from being written: the next opening fetches what it misses.
    pub fn close(&self) -> Result<(), CacheError> {
        let shared = &self.shared;
        if shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        shared.bell.ring();
        let threads = std::mem::take(&mut *lock(&shared.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the cache panicked");
            }
        }
        let live: Vec<_> = lock(&shared.live).values().filter_map(Weak::upgrade).collect();
        for content in live {
            content.wait_for_fills();
        }
        let intact = read(&shared.attached)
            .as_ref()
            .filter(|a| a.is_intact())
            .map(|a| Arc::clone(&a.index));
        let written = match intact {
            Some(index) => shared
                .write_changes()
                .and_then(|()| index.mark_clean().map_err(|e| e.error)),
            None => Ok(()),
        };
        shared.files.forget_all();
        let detached = write(&shared.attached).take();
        drop(detached);
        written
    }
}

impl Drop for ContentCache {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "cache index not written at the end");
        }
    }
}

impl fmt::Debug for ContentCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentCache")
            .field("dir", &self.shared.options.dir)
            .finish_non_exhaustive()
    }
}
