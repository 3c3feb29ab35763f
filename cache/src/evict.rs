//! The books: what every content takes, what is promised, what the index does not know yet; and who has to go when it is full.
//!
//! Owns: [`Books`] (all contents, about 80 bytes each), [`Reservation`], the choice of victims. Refuses to know: bits, file
//! descriptors. Invariants: `bytes` is the sum of `resident` over all contents, `pinned_bytes` that over the pinned ones; a
//! content that is pinned or has a live handle is never a victim.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::free_bytes;
use crate::files;
use crate::index::Batch;
use crate::segments::{Layout, Segment, SegmentKey};
use crate::sync::lock;
use crate::{CacheError, ContentId, GRANULE, Shared};

/// Over the limit, eviction goes on down to 95 % of it, so that not every fill has to evict.
const LOW_WATER_PERCENT: u64 = 95;
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
    /// small ones that were used last, `share` bytes of them, after all others. Also what all that may go add up to.
    fn victims(
        &self,
        bytes: u64,
        count: usize,
        share: u64,
        may_go: impl Fn(&ContentId) -> bool,
    ) -> (Vec<ContentId>, u64) {
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
        let evictable = all.iter().map(|(.., resident)| resident).sum();
        let mut sum = 0;
        let chosen = all.iter().enumerate().take_while(|(i, (.., resident))| {
            let more = sum < bytes || *i < count;
            sum += resident;
            more
        });
        (chosen.map(|(_, (_, _, id, _))| *id).collect(), evictable)
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

pub(crate) fn reserve(shared: &Arc<Shared>, bytes: u64) -> Result<Reservation, CacheError> {
    shared.check_open()?;
    let mut free = free_bytes(&shared.options.dir).unwrap_or(u64::MAX);
    let mut available = 0;
    // First to find out what is lacking, then after eviction; once more in case somebody else took the room.
    for _ in 0..3 {
        let Err(lacking) = shared.promise(bytes, free) else {
            return Ok(Reservation {
                shared: Arc::clone(shared),
                bytes,
            });
        };
        let (freed, evictable) = shared.make_room(lacking, true);
        available = bytes.saturating_add(evictable).saturating_sub(lacking);
        if freed < lacking {
            break;
        }
        // Counted, not asked again: file systems report freed blocks late.
        free = free.saturating_add(freed);
    }
    shared.counters.refused_fills.fetch_add(1, Ordering::Relaxed);
    Err(CacheError::Full {
        needed: bytes,
        available,
    })
}

impl Shared {
    /// Books a reservation, with `free` bytes left on the disk; or says how many bytes are lacking.
    fn promise(&self, bytes: u64, free: u64) -> Result<(), u64> {
        let mut books = lock(&self.books);
        let wanted = books.reserved.saturating_add(bytes);
        let over_limit = books
            .bytes
            .saturating_add(wanted)
            .saturating_sub(self.options.max_bytes);
        let over_disk = self.options.min_free_bytes.saturating_add(wanted).saturating_sub(free);
        match over_limit.max(over_disk) {
            0 => books.reserved = wanted,
            lacking => return Err(lacking),
        }
        Ok(())
    }

    /// Evicts the least recently used contents until `lacking` bytes are free, and on to the low-water mark. With
    /// `or_nothing`, evicts none if all together would not do. Returns what was freed and what could have been.
    pub(crate) fn make_room(&self, lacking: u64, or_nothing: bool) -> (u64, u64) {
        let (victims, evictable) = {
            let live = lock(&self.live);
            let books = lock(&self.books);
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
            books.victims(lacking.max(to_low_water), count, share, |id| {
                live.get(id).is_none_or(|c| c.strong_count() == 0)
            })
        };
        if or_nothing && evictable < lacking {
            return (0, evictable);
        }
        let mut freed = 0;
        for id in victims {
            freed += self.evict_one(id).unwrap_or(0);
        }
        tracing::debug!(freed, lacking, "evicted the least recently used contents");
        (freed, evictable)
    }

    /// Evicts when fills went over the limit without a reservation.
    pub(crate) fn trim(&self) {
        let over = {
            let books = lock(&self.books);
            books.bytes > self.options.max_bytes || books.len() > MAX_CONTENTS
        };
        if over {
            let _freed = self.make_room(0, false);
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
mod tests {
    use super::*;

    fn books() -> Books {
        let of = |n: u8, resident| {
            (
                ContentId([n; 16]),
                Summary {
                    key: u64::from(n),
                    len: 100,
                    resident,
                    last_use: u64::from(n),
                    pinned: false,
                    verified: 100 - u64::from(n),
                },
            )
        };
        Books::new(vec![of(3, 30), of(1, 10), of(2, 20), of(4, 40)], None)
    }

    #[test]
    fn victims_are_the_oldest_that_may_go_and_no_more_than_needed() {
        let books = books();
        let id = |n| ContentId([n; 16]);
        assert_eq!(books.victims(25, 0, 0, |_| true), (vec![id(1), id(2)], 100));
        assert_eq!(books.victims(25, 0, 0, |i| *i != id(2)), (vec![id(1), id(3)], 80));
        assert_eq!(books.victims(0, 0, 0, |_| true), (vec![], 100));
        assert_eq!(books.victims(0, 3, 0, |_| true).0, vec![id(1), id(2), id(3)]);
        assert_eq!(books.victims(1000, 0, 0, |_| true).0.len(), 4);
    }

    #[test]
    fn small_ones_that_were_used_last_go_last() {
        let mut books = Books::default();
        let id = |n| ContentId([n; 16]);
        let add = |books: &mut Books, n, len| {
            books.add(id(n), u64::from(n), Layout { len }, 1, len);
        };
        // Small, large, small, large, small.
        for (n, len) in [(1, SMALL), (2, 9 * SMALL), (3, SMALL), (4, SMALL + 1), (5, 10)] {
            add(&mut books, n, len);
        }
        let order = |share| books.victims(u64::MAX, 0, share, |_| true).0;
        assert_eq!(order(0), [id(1), id(2), id(3), id(4), id(5)]);
        assert_eq!(
            order(10),
            [id(1), id(2), id(3), id(4), id(5)],
            "the last one goes last anyway"
        );
        assert_eq!(order(SMALL + 10), [id(1), id(2), id(4), id(3), id(5)]);
        assert_eq!(order(5 * SMALL), [id(2), id(4), id(1), id(3), id(5)]);
    }

    /// Eight days' work: scripts, textures and proxies that are opened again and again, mostly in the morning, and more
    /// plates a day than the cache holds. Returns how many small ones had to be fetched, and how many bytes of all.
    fn work(share: u64) -> (u64, u64) {
        const LIMIT: u64 = 1 << 30;
        let mut state = 1_u64;
        let mut below = |end: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        let mut books = Books::default();
        let (mut small, mut fetched) = (0, 0);
        let mut open = |n: u64, len: u64| {
            let id = ContentId(u128::from(n).to_be_bytes());
            if books.get(id).is_some() {
                return books.touch(id);
            }
            (small, fetched) = (small + u64::from(len <= SMALL), fetched + len);
            let lacking = (books.bytes + len).saturating_sub(LIMIT);
            if lacking > 0 {
                for victim in books.victims(lacking.max(LIMIT / 20), 0, share, |_| true).0 {
                    let _gone = books.remove(victim);
                }
            }
            books.add(id, n, Layout { len }, 1, len);
        };
        for _ in 0..8 {
            let shots = [below(60), below(60), below(60)];
            for frame in 0..150 {
                // 2,400 small files of 4 to 200 KiB, some far more often than others.
                for _ in 0..if frame < 20 { 40 } else { 1 } {
                    let n = below(2400) * below(2400) / 2400;
                    open(n, 4096 + n * 7919 % 196 * 1024);
                }
                // 60 shots of 150 plates of 12 MiB; each day three of them are played.
                for shot in shots {
                    open(1_000_000 + shot * 150 + frame, 12 << 20);
                }
            }
        }
        (small, fetched)
    }

    #[test]
    fn keeping_small_ones_saves_round_trips_and_costs_no_more_bytes() {
        let ((plain, plain_bytes), (requests, bytes)) = (work(0), work((1 << 30) / SMALL_SHARE));
        println!(
            "by last use alone: {plain} small files fetched, {} MiB of all; small ones last: {requests}, {} MiB",
            plain_bytes >> 20,
            bytes >> 20
        );
        assert!(
            requests * 2 <= plain,
            "{requests} small files fetched in place of {plain}"
        );
        assert!(bytes <= plain_bytes, "{bytes} bytes in place of {plain_bytes}");
    }

    #[test]
    fn pinned_contents_are_no_victims_until_a_round_passes_without_them() {
        let mut books = books();
        let id = |n| ContentId([n; 16]);
        books.pin(id(1), 1);
        books.pin(id(3), 1);
        books.pin(id(9), 1);
        assert_eq!(books.victims(1000, 0, 0, |_| true), (vec![id(2), id(4)], 60));
        assert_eq!((books.pinned_bytes, books.pins()), (40, 3));
        // What arrives of a pinned content is pinned as it lands, and so is what comes after the books were cleared.
        books.add(id(9), 9, Layout { len: 100 }, 1, 7);
        assert_eq!(books.pinned_bytes, 47);
        books.sub(id(9), 9, 1, 7);
        assert!(books.remove(id(3)).is_some());
        assert_eq!(books.pinned_bytes, 10);
        books.pin(id(1), 2);
        books.unpin_before(2);
        assert_eq!((books.pinned_bytes, books.pins()), (10, 1));
        assert_eq!(books.victims(1000, 0, 0, |_| true), (vec![id(2), id(4), id(9)], 60));
        books.clear();
        assert!(books.is_pinned(id(1)) && books.pinned_bytes == 0);
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_the_last_look_and_a_look_makes_it_the_last() {
        let mut books = books();
        let id = |n| ContentId([n; 16]);
        let due = books.due(98, 2);
        assert_eq!(due.contents, vec![id(4), id(3)], "2 and 1 were looked at at 98 and 99");
        assert_eq!((due.count, due.bytes, due.oldest), (2, 70, Some(96)));
        assert_eq!(books.due(1000, 3).contents, vec![id(4), id(3), id(2)]);
        books.looked_at(id(4), Some(7));
        assert_eq!(books.looking(), Some((id(4), 7)));
        assert_eq!(books.due(98, 2).contents, vec![id(4), id(3)], "not all of it yet");
        books.looked_at(id(4), None);
        assert_eq!((books.looking(), books.due(98, 2).contents), (None, vec![id(3)]));
        assert_eq!(books.get(id(4)).map(|s| s.last_use), Some(4), "a look is no use");
        let batch = books.take_batch();
        assert_eq!(batch.looking, Some(None));
        books.put_back(batch);
        assert_eq!(books.take_batch().looking, Some(None));
        assert!(books.take_batch().is_empty());
    }

    #[test]
    fn an_incarnation_that_is_over_books_nothing() {
        let mut books = books();
        let (id, layout) = (ContentId([1; 16]), Layout { len: 100 });
        assert!(books.remove(id).is_some());
        books.add(id, 99, layout, 1, 50);
        books.add(id, 1, layout, 1, 50);
        books.sub(id, 1, 1, 50);
        assert_eq!(books.get(id).map(|s| (s.key, s.resident)), Some((99, 50)));
        assert_eq!(books.bytes, 140);
    }

    #[test]
    fn a_batch_given_back_is_taken_again() {
        let mut books = books();
        books.touch(ContentId([2; 16]));
        assert!(books.remove(ContentId([1; 16])).is_some());
        let batch = books.take_batch();
        assert_eq!((batch.rows.len(), batch.dead.as_slice()), (2, &[1][..]));
        assert!(books.take_batch().is_empty());
        books.put_back(batch);
        assert_eq!(books.take_batch().rows.len(), 2);
    }
}
