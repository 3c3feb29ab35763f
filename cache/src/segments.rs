//! Which granules are here and what their checksums are: bitmaps in segments of 64 MiB, a bounded number of them in memory.
//!
//! Owns: granule arithmetic, the bits, the LRU of loaded segments. Refuses to know: files, SQLite, accounting.
//! Invariant: at any moment there is at most one [`Segment`] per key in the process, because one that somebody holds
//! (an operation, or the list of what must still be written to the index) is never unloaded.
//!
//! "Verified" belongs to an *opened file instance*, not to a content: a granule counts as verified only for the very
//! file descriptor through which it was written or checked. Whatever happens to the path in between (deleted, re-created,
//! replaced by another copy), bytes read through a newly opened descriptor are checked again.

use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock};

use lru::LruCache;

use crate::GRANULE;
use crate::sync::{lock, read, write};

/// 1,024 granules of 64 KiB = 64 MiB: one row of the index is then at most 8.3 KiB, and a 100 GB file has 1,500 of them.
pub(crate) const SEGMENT_GRANULES: u64 = 1024;
const WORDS: usize = 16;
pub(crate) const BITMAP_BYTES: usize = WORDS * 8;

/// Arithmetic on one content of known length.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) len: u64,
}

impl Layout {
    pub(crate) fn granules(self) -> u64 {
        self.len.div_ceil(GRANULE)
    }

    pub(crate) fn clip(self, range: &Range<u64>) -> Range<u64> {
        let start = range.start.min(self.len);
        start..range.end.clamp(start, self.len)
    }

    /// The granules that `bytes` (clipped) touches.
    pub(crate) fn granules_of(self, bytes: &Range<u64>) -> Range<u64> {
        if bytes.is_empty() {
            return 0..0;
        }
        bytes.start / GRANULE..bytes.end.div_ceil(GRANULE)
    }

    pub(crate) fn bytes_of(self, granules: &Range<u64>) -> Range<u64> {
        self.clip(&(granules.start.saturating_mul(GRANULE)..granules.end.saturating_mul(GRANULE)))
    }

    pub(crate) fn size_of(self, granules: &Range<u64>) -> u64 {
        let bytes = self.bytes_of(granules);
        bytes.end - bytes.start
    }

    /// Number of granules that segment `no` really has; only the last one may have fewer than 1,024.
    pub(crate) fn segment_len(self, no: u64) -> usize {
        let first = no.saturating_mul(SEGMENT_GRANULES);
        small(self.granules().saturating_sub(first).min(SEGMENT_GRANULES))
    }
}

/// Cuts a range of granules at segment borders: segment number, and the indices inside it.
pub(crate) fn by_segment(granules: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let segments = if granules.is_empty() {
        0..0
    } else {
        granules.start / SEGMENT_GRANULES..granules.end.div_ceil(SEGMENT_GRANULES)
    };
    segments.map(move |no| {
        let first = no * SEGMENT_GRANULES;
        let from = granules.start.saturating_sub(first);
        let to = (granules.end - first).min(SEGMENT_GRANULES);
        (no, small(from)..small(to))
    })
}

/// Merges ascending granule numbers into ranges.
pub(crate) fn runs(granules: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for granule in granules {
        match out.last_mut() {
            Some(last) if last.end == granule => last.end += 1,
            _ => out.push(granule..granule + 1),
        }
    }
    out
}

/// A count or offset that is known to be the size of something in memory.
pub(crate) fn small(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Bitmap([u64; WORDS]);

impl Bitmap {
    pub(crate) fn get(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }

    pub(crate) fn set(&mut self, i: usize, value: bool) {
        if let Some(word) = self.0.get_mut(i / 64) {
            let bit = 1 << (i % 64);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..WORDS * 64).filter(|&i| self.get(i))
    }

    pub(crate) fn to_bytes(self) -> [u8; BITMAP_BYTES] {
        let mut out = [0; BITMAP_BYTES];
        for (chunk, word) in out.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; BITMAP_BYTES]) -> Self {
        let mut out = Self::default();
        for (word, chunk) in out.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        out
    }
}

/// The bits of one segment. An index beyond its end is simply not present.
#[derive(Default, Debug)]
pub(crate) struct Bits {
    present: Bitmap,
    verified: Bitmap,
    /// The file instance that `verified` speaks of.
    verified_by: u64,
    checksums: Box<[u64]>,
    loaded: bool,
}

impl Bits {
    pub(crate) fn empty(granules: usize) -> Self {
        Self {
            checksums: vec![0; granules].into(),
            loaded: true,
            ..Self::default()
        }
    }

    /// From the index. `None` if the two do not belong together.
    pub(crate) fn stored(present: Bitmap, checksums: Box<[u64]>) -> Option<Self> {
        let fits = present.iter().all(|i| i < checksums.len());
        fits.then(|| Self {
            present,
            checksums,
            loaded: true,
            ..Self::default()
        })
    }

    pub(crate) fn present(&self) -> &Bitmap {
        &self.present
    }

    pub(crate) fn checksums(&self) -> &[u64] {
        &self.checksums
    }

    /// Bytes that the present granules stand for, in segment `no` of a content of `layout`.
    pub(crate) fn resident_bytes(&self, no: u64, layout: Layout) -> u64 {
        let first = no.saturating_mul(SEGMENT_GRANULES);
        self.present
            .iter()
            .map(|i| layout.size_of(&(first + i as u64..first + i as u64 + 1)))
            .sum()
    }

    pub(crate) fn has(&self, i: usize) -> bool {
        self.present.get(i)
    }

    /// The checksum that granule `i` must be held against before its bytes, read through `instance`, may be used.
    pub(crate) fn check_due(&self, i: usize, instance: u64) -> Option<u64> {
        if self.verified_by == instance && self.verified.get(i) {
            return None;
        }
        self.checksums.get(i).copied()
    }

    /// Notes that the granule was written or checked through `instance`. An older instance than the known one is not noted.
    pub(crate) fn set_verified(&mut self, i: usize, instance: u64) {
        if instance > self.verified_by {
            self.verified = Bitmap::default();
            self.verified_by = instance;
        }
        if instance == self.verified_by {
            self.verified.set(i, true);
        }
    }

    /// Records a granule whose bytes have been written through `instance`. False if it was there already.
    pub(crate) fn insert(&mut self, i: usize, checksum: u64, instance: u64) -> bool {
        let Some(slot) = self.checksums.get_mut(i) else {
            return false;
        };
        if self.present.get(i) {
            return false;
        }
        *slot = checksum;
        self.present.set(i, true);
        self.verified.set(i, false);
        self.set_verified(i, instance);
        true
    }

    /// True if it was present.
    pub(crate) fn remove(&mut self, i: usize) -> bool {
        let had = self.present.get(i);
        self.present.set(i, false);
        self.verified.set(i, false);
        had
    }
}

#[derive(Default)]
pub(crate) struct Segment {
    bits: RwLock<Bits>,
}

impl Segment {
    /// Loads the bits if this was not done yet; an error leaves the segment unloaded, so that the next caller tries again.
    pub(crate) fn load<E>(&self, load: impl FnOnce() -> Result<Bits, E>) -> Result<(), E> {
        if read(&self.bits).loaded {
            return Ok(());
        }
        let mut bits = write(&self.bits);
        if !bits.loaded {
            *bits = load()?;
        }
        Ok(())
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&Bits) -> T) -> T {
        f(&read(&self.bits))
    }

    pub(crate) fn write<T>(&self, f: impl FnOnce(&mut Bits) -> T) -> T {
        f(&mut write(&self.bits))
    }
}

/// `content` is the key of one incarnation of a content: after a loss or an eviction it gets a new one, so that no bit of
/// the former can be taken for one of the latter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SegmentKey {
    pub(crate) content: u64,
    pub(crate) no: u64,
}

/// Loaded segments, the least recently used unloaded first.
pub(crate) struct Segments {
    bound: usize,
    loaded: Mutex<LruCache<SegmentKey, Arc<Segment>>>,
}

impl Segments {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound,
            loaded: Mutex::new(LruCache::unbounded()),
        }
    }

    /// The one segment of this key, possibly still to be loaded.
    pub(crate) fn get(&self, key: SegmentKey) -> Arc<Segment> {
        let mut loaded = lock(&self.loaded);
        let segment = Arc::clone(loaded.get_or_insert(key, Arc::default));
        // A held segment must stay. Only as many as a few are looked at per call, so that a long list of held ones
        // (bounded by what may be dirty) costs each caller little; later calls go on.
        for _ in 0..4 {
            if loaded.len() <= self.bound {
                break;
            }
            if let Some((key, oldest)) = loaded.pop_lru()
                && Arc::strong_count(&oldest) > 1
            {
                loaded.put(key, oldest);
            }
        }
        segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_held_segment_is_never_doubled_and_others_are_unloaded() {
        let segments = Segments::new(3);
        let held = segments.get(SegmentKey { content: 1, no: 0 });
        for no in 1..100 {
            drop(segments.get(SegmentKey { content: 1, no }));
        }
        assert!(lock(&segments.loaded).len() <= 4);
        assert!(Arc::ptr_eq(&held, &segments.get(SegmentKey { content: 1, no: 0 })));
    }

    #[test]
    fn verified_counts_for_one_file_instance_only() {
        let mut bits = Bits::empty(4);
        assert!(bits.insert(2, 77, 5));
        assert_eq!(bits.check_due(2, 5), None);
        assert_eq!(bits.check_due(2, 6), Some(77));
        bits.set_verified(2, 6);
        assert_eq!(bits.check_due(2, 6), None);
        bits.set_verified(2, 5);
        assert_eq!(
            bits.check_due(2, 5),
            Some(77),
            "an older instance proves nothing any more"
        );
        assert!(!bits.insert(4, 1, 6), "beyond the end");
    }

    #[test]
    fn stored_bits_beyond_the_checksums_are_refused() {
        let mut present = Bitmap::default();
        present.set(3, true);
        assert!(Bits::stored(present, vec![0; 3].into()).is_none());
        assert!(Bits::stored(present, vec![0; 4].into()).is_some());
    }

    proptest! {
        #[test]
        fn bitmap_bytes_round_trip(set in proptest::collection::btree_set(0usize..1024, 0..200)) {
            let mut map = Bitmap::default();
            for &i in &set { map.set(i, true); }
            let back = Bitmap::from_bytes(&map.to_bytes());
            prop_assert_eq!(back, map);
            prop_assert!(back.iter().eq(set.iter().copied()));
        }

        #[test]
        fn segments_cover_the_granules_once_and_in_order(start in 0u64..5000, count in 0u64..5000) {
            let all: Vec<u64> = by_segment(start..start + count)
                .flat_map(|(no, within)| within.map(move |i| no * SEGMENT_GRANULES + i as u64))
                .collect();
            prop_assert!(all.iter().copied().eq(start..start + count));
            prop_assert_eq!(runs(all).len(), usize::from(count > 0));
        }

        #[test]
        fn granules_of_a_range_are_the_smallest_that_hold_it(len in 0u64..1 << 22, a in 0u64..1 << 22, b in 0u64..1 << 22) {
            let layout = Layout { len };
            let range = layout.clip(&(a.min(b)..a.max(b)));
            let bytes = layout.bytes_of(&layout.granules_of(&range));
            prop_assert!(range.is_empty() || bytes.start <= range.start && range.end <= bytes.end);
            prop_assert!(bytes.end <= len);
            prop_assert!(range.is_empty() || range.start - bytes.start < GRANULE && bytes.end - range.end < GRANULE);
        }
    }
}
