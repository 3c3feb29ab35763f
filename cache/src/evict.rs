//! The books: what every content takes, what is promised, what the index does not know yet; and who has to go when it is full.
//!
//! Owns: [`Books`] (all contents, about 80 bytes each), [`Reservation`], the choice of victims. Refuses to know: bits, file
//! descriptors. Invariants: `bytes` is the sum of `resident` over all contents, `pinned_bytes` that over the pinned ones; a
//! content that is pinned or has a live handle is never a victim.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::free_bytes;
use crate::files;
use crate::index::Batch;
use crate::segments::{Layout, Segment, SegmentKey};
use crate::sync::lock;
use crate::{CacheError, ContentId, GRANULE, Shared};

/// Over the limit, eviction goes on down to 95 % of it, so that not every fill has to evict.
const LOW_WATER_PERCENT: u64 = 95;
/// File systems report freed blocks late, some never (of what a snapshot holds). Until they do, and for no longer than this,
/// no more than what is lacking is evicted for the disk's sake: the cache would be emptied for nothing.
const REPORTED_WITHIN: Duration = Duration::from_secs(60);
/// What takes no more than this of the cache costs a round trip to fetch again, and hardly any time beyond that: the bytes
/// that a link of 1 Gbit/s carries in 8 ms.
const SMALL: u64 = 1 << 20;
/// The small contents that were used last go last of all, as long as they take no more than one part in so many of the limit.
const SMALL_SHARE: u64 = 8;
/// The books are kept in memory: this many contents take some 100 MB there. More than that evicts, whatever their size.
const MAX_CONTENTS: usize = 1_000_000;
/// Segments in one transaction of the index: 4 MiB at most.
const BATCH_SEGMENTS: usize = 512;

/// What is known of a content without opening it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    /// Names this incarnation of the content; see [`SegmentKey`].
    pub(crate) key: u64,
    pub(crate) len: u64,
    pub(crate) resident: u64,
    /// Microseconds since 1970, made strictly increasing.
    pub(crate) last_use: u64,
    /// It is among [`Books::pins`]. Kept with the content, so that a restart evicts none before the pins are told again.
    pub(crate) pinned: bool,
    /// When all of it was last looked at, or its first bytes came: microseconds since 1970.
    pub(crate) verified: u64,
}

#[derive(Default)]
pub(crate) struct Books {
    contents: HashMap<ContentId, Summary>,
    pub(crate) bytes: u64,
    pub(crate) granules: u64,
    pub(crate) reserved: u64,
    pub(crate) pinned_bytes: u64,
    /// Pinned contents, whether anything of them is here or not, with the round in which that was said last.
    pins: HashMap<ContentId, u64>,
    last_use: u64,
    dirty_rows: HashSet<ContentId>,
    dirty_segments: HashMap<SegmentKey, (ContentId, Layout, Arc<Segment>)>,
    dead: Vec<u64>,
    /// Where the look at a content is that has not come to its end, and whether the index lacks that.
    looking: (Looking, bool),
    /// More than was lacking was evicted for the disk's sake then, and the disk has not shown it since.
    spared: Option<Instant>,
}

/// A content that is being looked at, and up to where it was.
pub(crate) type Looking = Option<(ContentId, u64)>;

impl Books {
    pub(crate) fn new(contents: Vec<(ContentId, Summary)>, looking: Looking) -> Self {
        let mut books = Self {
            looking: (looking, false),
            ..Self::default()
        };
        for (id, summary) in contents {
            books.bytes += summary.resident;
            books.granules += summary.resident.div_ceil(GRANULE);
            books.last_use = books.last_use.max(summary.last_use);
            if summary.pinned {
                books.pinned_bytes += summary.resident;
                books.pins.insert(id, 0);
            }
            books.contents.insert(id, summary);
        }
        books
    }

    /// Forgets all contents and all that was to be written; promises and pins stay.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            reserved: self.reserved,
            pins: std::mem::take(&mut self.pins),
            last_use: self.last_use,
            ..Self::default()
        };
    }

    pub(crate) fn get(&self, id: ContentId) -> Option<&Summary> {
        self.contents.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.contents.len()
    }

    /// Returns all contents with anything here, the least recently used first.
    pub(crate) fn all(&self) -> Vec<(ContentId, u64)> {
        let mut all: Vec<_> = self.contents.iter().map(|(id, s)| (s.last_use, *id, s.len)).collect();
        all.sort_unstable_by_key(|(last_use, ..)| *last_use);
        all.into_iter().map(|(_, id, len)| (id, len)).collect()
    }

    /// Returns the contents that were last looked at before `before`, at most `most` of them, the least recently looked at
    /// first, and what all of them come to.
    pub(crate) fn due(&self, before: u64, most: usize) -> Due {
        let (mut due, mut all) = (Due::default(), Vec::new());
        for (id, s) in self.contents.iter().filter(|(_, s)| s.resident > 0) {
            due.oldest = Some(due.oldest.map_or(s.verified, |oldest| oldest.min(s.verified)));
            if s.verified < before {
                due.count += 1;
                due.bytes += s.resident;
                all.push((s.verified, *id));
            }
        }
        if all.len() > most {
            all.select_nth_unstable(most);
            all.truncate(most);
        }
        all.sort_unstable();
        due.contents = all.into_iter().map(|(_, id)| id).collect();
        due
    }

    /// Notes how far a content was looked at; `None` that all of it was.
    pub(crate) fn looked_at(&mut self, id: ContentId, up_to: Option<u64>) {
        let place = up_to.map(|at| (id, at));
        let is_of_another = place.is_none() && self.looking.0.is_some_and(|(known, _)| known != id);
        if self.looking.0 != place && !is_of_another {
            self.looking = (place, true);
        }
        if up_to.is_none()
            && let Some(summary) = self.contents.get_mut(&id)
        {
            summary.verified = clock();
            self.dirty_rows.insert(id);
        }
    }

    pub(crate) fn looking(&self) -> Looking {
        self.looking.0
    }

    pub(crate) fn is_pinned(&self, id: ContentId) -> bool {
        self.pins.contains_key(&id)
    }

    pub(crate) fn pins(&self) -> usize {
        self.pins.len()
    }

    pub(crate) fn pin(&mut self, id: ContentId, round: u64) {
        self.pins.insert(id, round);
        self.mark(id, true);
    }

    /// Unpins what was not pinned again in this round or later.
    pub(crate) fn unpin_before(&mut self, round: u64) {
        let stale: Vec<_> = self
            .pins
            .extract_if(|_, last| *last < round)
            .map(|(id, _)| id)
            .collect();
        for id in stale {
            self.mark(id, false);
        }
    }

    fn mark(&mut self, id: ContentId, pinned: bool) {
        let Some(summary) = self.contents.get_mut(&id).filter(|s| s.pinned != pinned) else {
            return;
        };
        summary.pinned = pinned;
        if pinned {
            self.pinned_bytes += summary.resident;
        } else {
            self.pinned_bytes = self.pinned_bytes.saturating_sub(summary.resident);
        }
        self.dirty_rows.insert(id);
    }

    fn now(&mut self) -> u64 {
        self.last_use = clock().max(self.last_use + 1);
        self.last_use
    }

    pub(crate) fn touch(&mut self, id: ContentId) {
        let now = self.now();
        if let Some(summary) = self.contents.get_mut(&id) {
            summary.last_use = now;
            self.dirty_rows.insert(id);
        }
    }

    /// Books granules that have become readable. Those of an incarnation that is over by now are not.
    pub(crate) fn add(&mut self, id: ContentId, key: u64, layout: Layout, granules: u64, bytes: u64) {
        let last_use = self.now();
        let new = Summary {
            key,
            len: layout.len,
            resident: 0,
            last_use,
            pinned: self.pins.contains_key(&id),
            verified: clock(),
        };
        let summary = self.contents.entry(id).or_insert(new);
        if summary.key != key {
            return;
        }
        summary.resident = (summary.resident + bytes).min(layout.len);
        summary.last_use = last_use;
        if summary.pinned {
            self.pinned_bytes += bytes;
        }
        self.bytes += bytes;
        self.granules += granules;
        self.dirty_rows.insert(id);
    }

    /// Books granules that are no longer readable.
    pub(crate) fn sub(&mut self, id: ContentId, key: u64, granules: u64, bytes: u64) {
        let Some(summary) = self.contents.get_mut(&id).filter(|s| s.key == key) else {
            return;
        };
        summary.resident = summary.resident.saturating_sub(bytes);
        if summary.pinned {
            self.pinned_bytes = self.pinned_bytes.saturating_sub(bytes);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.granules = self.granules.saturating_sub(granules);
        self.dirty_rows.insert(id);
    }

    pub(crate) fn remove(&mut self, id: ContentId) -> Option<Summary> {
        let summary = self.contents.remove(&id)?;
        if summary.pinned {
            self.pinned_bytes = self.pinned_bytes.saturating_sub(summary.resident);
        }
        self.bytes = self.bytes.saturating_sub(summary.resident);
        self.granules = self.granules.saturating_sub(summary.resident.div_ceil(GRANULE));
        self.dirty_rows.insert(id);
        self.dead.push(summary.key);
        Some(summary)
    }

    pub(crate) fn segment_changed(&mut self, id: ContentId, key: SegmentKey, layout: Layout, segment: &Arc<Segment>) {
        self.dirty_segments
            .entry(key)
            .or_insert_with(|| (id, layout, Arc::clone(segment)));
    }

    pub(crate) fn dirty_segments(&self) -> usize {
        self.dirty_segments.len()
    }

    /// Takes changes to be written, as many segments as fit one transaction, and with each the row of its content. Those of
    /// an incarnation that is over are void.
    pub(crate) fn take_batch(&mut self) -> Batch {
        let keys: Vec<_> = self.dirty_segments.keys().take(BATCH_SEGMENTS).copied().collect();
        let mut segments = Vec::with_capacity(keys.len());
        for key in keys {
            let Some((id, layout, segment)) = self.dirty_segments.remove(&key) else {
                continue;
            };
            if self.contents.get(&id).is_some_and(|s| s.key == key.content) {
                self.dirty_rows.insert(id);
                segments.push((id, key, layout, segment));
            }
        }
        Batch {
            segments,
            rows: self
                .dirty_rows
                .drain()
                .map(|id| (id, self.contents.get(&id).copied()))
                .collect(),
            dead: std::mem::take(&mut self.dead),
            looking: std::mem::take(&mut self.looking.1).then_some(self.looking.0),
        }
    }

    /// Gives back a batch that could not be written.
    pub(crate) fn put_back(&mut self, batch: Batch) {
        self.dirty_rows.extend(batch.rows.into_iter().map(|(id, _)| id));
        self.dead.extend(batch.dead);
        self.looking.1 |= batch.looking.is_some();
        for (id, key, layout, segment) in batch.segments {
            self.dirty_segments.entry(key).or_insert((id, layout, segment));
        }
    }

    /// Least recently used contents that `may_go`, until their sizes add up to `bytes` and they are `count` at least; the
    /// small ones that were used last, `share` bytes of them, after all others.
    fn victims(&self, bytes: u64, count: usize, share: u64, may_go: impl Fn(&ContentId) -> bool) -> Vec<ContentId> {
        let mut all: Vec<_> = self
            .contents
            .iter()
            .filter(|(id, s)| !s.pinned && may_go(id))
            .map(|(id, s)| (false, s.last_use, *id, s.resident))
            .collect();
        all.sort_unstable_by_key(|(_, last_use, ..)| *last_use);
        let mut left = share;
        for (goes_last, _, _, resident) in all.iter_mut().rev().filter(|(.., resident)| *resident <= SMALL) {
            let Some(rest) = left.checked_sub(*resident) else { break };
            (left, *goes_last) = (rest, true);
        }
        all.sort_by_key(|(goes_last, ..)| *goes_last);
        let mut sum = 0;
        let chosen = all.iter().enumerate().take_while(|(i, (.., resident))| {
            let more = sum < bytes || *i < count;
            sum += resident;
            more
        });
        chosen.map(|(_, (_, _, id, _))| *id).collect()
    }

    /// What all that may go add up to: what is neither pinned nor among those that are `held`. Asks those alone.
    fn evictable<'a>(&self, held: impl IntoIterator<Item = &'a ContentId>) -> u64 {
        let held = held.into_iter().filter_map(|id| self.contents.get(id));
        let held: u64 = held.filter(|s| !s.pinned).map(|s| s.resident).sum();
        self.bytes.saturating_sub(self.pinned_bytes).saturating_sub(held)
    }
}

/// Now, in microseconds since 1970.
fn clock() -> u64 {
    micros(SystemTime::now())
}

/// A time in microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Contents that are to be looked at.
#[derive(Default)]
pub(crate) struct Due {
    pub(crate) contents: Vec<ContentId>,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// When the content was looked at that waits longest, due or not.
    pub(crate) oldest: Option<u64>,
}

/// Room that was promised, in bytes; given back when dropped. Bytes that landed meanwhile are counted twice until
/// [`Reservation::release`] is told of them: the cache errs on the side of room.
#[must_use = "dropped, it reserves nothing"]
pub struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    /// Returns the bytes still reserved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back `bytes` of it, because they are in the cache now or will not come.
    pub fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut books = lock(&self.shared.books);
        books.reserved = books.reserved.saturating_sub(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// What is lacking for a reservation, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Lack {
    /// All in all.
    bytes: u64,
    /// On the disk, whatever the limit says.
    on_disk: u64,
}

pub(crate) fn reserve(shared: &Arc<Shared>, bytes: u64) -> Result<Reservation, CacheError> {
    reserve_on(shared, bytes, free_bytes(&shared.options.dir).unwrap_or(u64::MAX))
}

/// Reserves on a disk with `free` bytes left.
fn reserve_on(shared: &Arc<Shared>, bytes: u64, free: u64) -> Result<Reservation, CacheError> {
    shared.check_open()?;
    // Counted, not asked again: file systems report freed blocks late.
    let mut made = 0_u64;
    let mut available = 0;
    // First to find out what is lacking, then after eviction; once more in case somebody else took the room.
    for _ in 0..3 {
        let Err(lack) = shared.promise(bytes, free, made) else {
            return Ok(Reservation {
                shared: Arc::clone(shared),
                bytes,
            });
        };
        let (freed, evictable) = shared.make_room(lack, true);
        available = bytes.saturating_add(evictable).saturating_sub(lack.bytes);
        if freed < lack.bytes {
            break;
        }
        made = made.saturating_add(freed);
    }
    shared.counters.refused_fills.fetch_add(1, Ordering::Relaxed);
    Err(CacheError::Full {
        needed: bytes,
        available,
    })
}

impl Shared {
    /// Books a reservation, with `free` bytes left on the disk and room `made` since; or says what is lacking.
    fn promise(&self, bytes: u64, free: u64, made: u64) -> Result<(), Lack> {
        let mut books = lock(&self.books);
        let wanted = books.reserved.saturating_add(bytes);
        let over_limit = books
            .bytes
            .saturating_add(wanted)
            .saturating_sub(self.options.max_bytes);
        let over_disk = self
            .options
            .min_free_bytes
            .saturating_add(wanted)
            .saturating_sub(free.saturating_add(made));
        if over_disk == 0 && made == 0 {
            books.spared = None;
        }
        match over_limit.max(over_disk) {
            0 => books.reserved = wanted,
            bytes => {
                let on_disk = over_disk;
                return Err(Lack { bytes, on_disk });
            }
        }
        Ok(())
    }

    /// Evicts the least recently used contents until what is lacking is free, and on to the low-water mark; for the sake of a
    /// full disk, on by as large a part of what is here. With `or_nothing`, evicts none if all together would not do. Returns what was
    /// freed and what could have been.
    fn make_room(&self, lack: Lack, or_nothing: bool) -> (u64, u64) {
        let (victims, evictable) = {
            let live = lock(&self.live);
            let mut books = lock(&self.books);
            let held = live.iter().filter(|(_, c)| c.strong_count() > 0);
            let evictable = books.evictable(held.map(|(id, _)| id));
            // Before all contents are looked through: in a cache full of pins, every fetch comes here.
            if or_nothing && evictable < lack.bytes {
                return (0, evictable);
            }
            // Pins don't go; of what they leave, so much.
            let rest = self.options.max_bytes.saturating_sub(books.pinned_bytes);
            let low_water = books.pinned_bytes + rest / 100 * LOW_WATER_PERCENT;
            let to_low_water = (books.bytes + books.reserved).saturating_sub(low_water);
            let too_many = books.len().saturating_sub(MAX_CONTENTS);
            let count = if too_many > 0 { too_many + MAX_CONTENTS / 20 } else { 0 };
            // Too many are always small ones.
            let share = if count > 0 {
                0
            } else {
                self.options.max_bytes / SMALL_SHARE
            };
            let spare = self.spare(&mut books, lack);
            let wanted = lack.bytes.max(to_low_water).max(lack.on_disk.saturating_add(spare));
            let victims = books.victims(wanted, count, share, |id| {
                live.get(id).is_none_or(|c| c.strong_count() == 0)
            });
            (victims, evictable)
        };
        let mut freed = 0;
        for id in victims {
            freed += self.evict_one(id).unwrap_or(0);
        }
        tracing::debug!(freed, lacking = lack.bytes, "evicted the least recently used contents");
        (freed, evictable)
    }

    /// How much is to be evicted beyond what the disk lacks, so that not every reservation has to.
    fn spare(&self, books: &mut Books, lack: Lack) -> u64 {
        if lack.on_disk == 0 || books.spared.is_some_and(|at| at.elapsed() < REPORTED_WITHIN) {
            return 0;
        }
        books.spared = Some(Instant::now());
        let unpinned = books.bytes.saturating_sub(books.pinned_bytes);
        unpinned.min(self.options.max_bytes) / 100 * (100 - LOW_WATER_PERCENT)
    }

    /// Evicts when fills went over the limit without a reservation.
    pub(crate) fn trim(&self) {
        let over = {
            let books = lock(&self.books);
            books.bytes > self.options.max_bytes || books.len() > MAX_CONTENTS
        };
        if over {
            let _freed = self.make_room(Lack::default(), false);
        }
    }

    /// Evicts one content. Returns the bytes freed; 0 if there was nothing.
    ///
    /// # Errors
    /// `Busy` while a handle is alive, `Pinned` while it is pinned.
    pub(crate) fn evict_one(&self, id: ContentId) -> Result<u64, CacheError> {
        let (freed, path) = {
            // Held to the end: nobody may open the content between the look and the renaming of its file.
            let live = lock(&self.live);
            if live.get(&id).is_some_and(|c| c.strong_count() > 0) {
                return Err(CacheError::Busy);
            }
            if lock(&self.books).is_pinned(id) {
                return Err(CacheError::Pinned);
            }
            self.drop_content(id)
        };
        if let Some(path) = path {
            files::delete(&path);
        }
        self.counters.evicted_bytes.fetch_add(freed, Ordering::Relaxed);
        Ok(freed)
    }

    /// Strikes a content off the books and puts its file aside. The caller holds `live` and has seen no handle there.
    /// The returned path is to be deleted after `live` is let go.
    pub(crate) fn drop_content(&self, id: ContentId) -> (u64, Option<PathBuf>) {
        let Some(summary) = lock(&self.books).remove(id) else {
            return (0, None);
        };
        self.files.forget(summary.key);
        lock(&self.proven).remove(&summary.key);
        (summary.resident, self.files.discard(id))
    }
}

#[cfg(test)]
mod tests;
