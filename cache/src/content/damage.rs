//! Damage: looking at what is here, and dropping what is wrong.
//!
//! Owns: which data files were found right as a whole, and what becomes of one that was not. Refuses to know: who asks, and
//! when. Invariants: a granule is dropped after a second look, while nobody reads, fills or lends; a file that may have been
//! handed out is never mended, it goes whole.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CHECK_GRANULES, Change, Hit, Inner, Verified, absent, checks_due, present};
use crate::CacheError;
use crate::files::{self, OpenFile};
use crate::segments::{Bits, SEGMENT_GRANULES, runs, small};
use crate::sync::{lock, read, write};

impl Inner {
    /// Returns the data file if all of it is here and right, and takes note of that; with `lend`, also that it is handed out.
    pub(super) fn proven(&self, lend: bool) -> Result<Option<Arc<OpenFile>>, CacheError> {
        let key = read(&self.ground);
        let full = |s: &crate::evict::Summary| s.key == *key && s.resident == self.layout.len;
        if !lock(&self.shared.books).get(self.id).is_some_and(full) {
            return Ok(None);
        }
        let io = |e| self.io("open", 0, e);
        let Some(file) = self.shared.files.get(*key, self.id).map_err(io)? else {
            return Ok(None);
        };
        let stamp = file.stamp().map_err(io)?;
        let known = lock(&self.shared.proven).get(&*key).copied().unwrap_or_default();
        if known.stamp.is_some_and(|known| known != stamp) {
            // Somebody else wrote to it. Through a new descriptor every granule is due for a check.
            tracing::warn!(content = %self.id, "a data file of the cache was changed by somebody else; it is checked again");
            self.shared.files.forget(*key);
            lock(&self.shared.proven).entry(*key).or_default().stamp = None;
            return Ok(None);
        }
        if known.stamp.is_none() {
            let all = 0..self.layout.granules();
            // Segment by segment: of a content that nobody has checked, the first tells.
            for first in all.clone().step_by(small(SEGMENT_GRANULES)) {
                let pieces = self.pieces(*key, first..(first + SEGMENT_GRANULES).min(all.end))?;
                if !absent(&pieces).is_empty() || !checks_due(&pieces, &file).is_empty() {
                    return Ok(None);
                }
            }
        }
        let mut proven = lock(&self.shared.proven);
        let proof = proven.entry(*key).or_default();
        proof.stamp = Some(stamp);
        proof.is_lent |= lend;
        Ok(Some(Arc::clone(&file)))
    }

    pub(super) fn check(&self, range: &Range<u64>) -> Result<bool, CacheError> {
        let range = self.layout.clip(range);
        for first in self.layout.granules_of(&range).step_by(CHECK_GRANULES) {
            let granules = first..first.saturating_add(CHECK_GRANULES as u64);
            let bytes = self.layout.bytes_of(&granules);
            let due = {
                let key = read(&self.ground);
                let pieces = self.pieces(*key, self.layout.granules_of(&bytes))?;
                let file = self.shared.files.get(*key, self.id);
                let file = file.map_err(|e| self.io("open", 0, e))?;
                let due = file.is_none_or(|file| !checks_due(&pieces, &file).is_empty());
                due || !absent(&pieces).is_empty()
            };
            if due && matches!(self.read(&bytes)?, Hit::Missing(_)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn verify(&self, range: &Range<u64>) -> Result<Verified, CacheError> {
        let range = self.layout.clip(range);
        let (mut verified, mut bad, first_key) = (Verified::default(), Vec::new(), *read(&self.ground));
        for first in self.layout.granules_of(&range).step_by(CHECK_GRANULES) {
            let all = self.layout.granules();
            let granules = first..first.saturating_add(CHECK_GRANULES as u64).min(all);
            let ground = read(&self.ground);
            if *ground != first_key {
                // It was dropped, or lost, meanwhile: what is here now has just come.
                break;
            }
            let pieces = self.pieces(first_key, granules.clone())?;
            let due = present(&pieces);
            if due.is_empty() {
                continue;
            }
            let file = self.shared.files.get(first_key, self.id);
            let Some(file) = file.map_err(|e| self.io("open", 0, e))? else {
                drop(ground);
                self.lost(first_key);
                verified.bad_granules += due.len() as u64;
                self.shared
                    .counters
                    .bad_granules
                    .fetch_add(due.len() as u64, Ordering::Relaxed);
                break;
            };
            let span = self.layout.bytes_of(&granules);
            let forget = || {
                if !self.is_used.load(Ordering::Acquire) {
                    file.forget_pages(span.start, span.end - span.start);
                }
            };
            forget();
            // What can't be read is as bad as what is wrong.
            let buf = file
                .read_at(span.start, small(span.end - span.start))
                .unwrap_or_default();
            forget();
            bad.extend(
                due.iter()
                    .filter(|(granule, checksum)| self.checksum_in(&buf, &span, *granule) != Some(*checksum))
                    .map(|(granule, _)| *granule),
            );
            verified.bytes += due
                .iter()
                .map(|(granule, _)| self.layout.size_of(&(*granule..granule + 1)))
                .sum::<u64>();
        }
        if !bad.is_empty() {
            let (granules, dropped_whole) = self.condemn(first_key, &bad)?;
            verified.bad_granules += granules;
            verified.dropped_whole = dropped_whole;
        }
        Ok(verified)
    }

    /// Says whether the data file of an incarnation may have been handed out.
    pub(super) fn is_lent(&self, key: u64) -> bool {
        lock(&self.shared.proven).get(&key).is_some_and(|proof| proof.is_lent)
    }

    /// Drops all of the content. Somebody may read its file past us: it is left to them, whole, and the next fill begins
    /// another. Returns the bytes dropped.
    pub(super) fn drop_whole(&self, key: &mut u64) -> u64 {
        let dropped = lock(&self.shared.books).get(self.id).map_or(0, |s| s.resident);
        let aside = self.shared.files.discard(self.id);
        self.new_key(key);
        aside.iter().for_each(|path| files::delete(path));
        dropped
    }

    /// Drops granules that were found wrong or gone, if they still are: somebody else may have found them, and right ones
    /// may have come. All of the content goes if its file may have been handed out. Counts and returns those that were bad,
    /// and says whether all went.
    pub(super) fn condemn(&self, key: u64, bad: &[u64]) -> Result<(u64, bool), CacheError> {
        // Nobody reads, fills, proves or lends meanwhile.
        let mut ground = write(&self.ground);
        if *ground != key {
            return Ok((0, false));
        }
        let file = self.shared.files.get(key, self.id).ok().flatten();
        let (mut granules, mut bytes) = (0, 0);
        for run in runs(bad.iter().copied()) {
            let pieces = self.pieces(key, run)?;
            let still_bad: Vec<u64> = present(&pieces)
                .into_iter()
                .filter(|(granule, checksum)| {
                    let span = self.layout.bytes_of(&(*granule..granule + 1));
                    let buf = file
                        .as_ref()
                        .map(|file| file.read_at(span.start, small(span.end - span.start)));
                    let found = buf
                        .and_then(Result::ok)
                        .and_then(|buf| self.checksum_in(&buf, &span, *granule));
                    found != Some(*checksum)
                })
                .map(|(granule, _)| granule)
                .collect();
            let drop_one = |bits: &mut Bits, i, granule| still_bad.binary_search(&granule).is_ok() && bits.remove(i);
            let (more, size) = self.change(key, &pieces, drop_one, Change::Removed);
            (granules, bytes) = (granules + more, bytes + size);
        }
        let whole = granules > 0 && self.is_lent(key);
        if granules > 0 {
            self.shared.counters.bad_granules.fetch_add(granules, Ordering::Relaxed);
            tracing::warn!(content = %self.id, granules, bytes, whole, "cached bytes were damaged; fetching them again");
            lock(&self.shared.proven).remove(&key);
        }
        if whole {
            self.drop_whole(&mut ground);
        }
        Ok((granules, whole))
    }
}
