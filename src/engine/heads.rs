//! The beginnings and ends of media files, kept apart from the cache's contents: what a program reads that asks what a file
//! is, which should cost nothing after the file itself had to go.
//!
//! Owns: a cache of its own, in `heads` in the cache's folder, with a limit of its own; which parts of which files are in
//! there. Refuses to know: how bytes come, who asks. Invariants: it holds bytes as they came from the site, each granule
//! with its checksum; it can be removed at any time; what it can't take is not kept, and nobody hears of it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backlot_cache::{CacheError, CacheOptions, Content, ContentCache, ContentId, GRANULE, Hit, Usage, Verified};
use backlot_config::Config;
use bytes::Bytes;
use tracing::debug;

use crate::model::RelPath;

/// What is kept of the beginning: what a file's first read makes the kernel ask for.
const FRONT: u64 = 2 * GRANULE;
/// What is kept of the end, at least: where MOV and MP4 may have their tables, MXF its index and ZIP (USDZ) its list.
const BACK: u64 = GRANULE;
/// Shorter files are all beginning: they are kept, and go, as a whole.
const SHORTEST: u64 = FRONT + 2 * GRANULE;
/// The cache gives no more to it than one byte for so many of its own, whatever the settings say.
const SHARE: u64 = 16;
/// Files that are kept open at most.
const OPEN_FILES: usize = 64;

/// The beginnings and ends that a drive keeps.
#[derive(Debug)]
pub(super) struct Heads {
    /// `None`: switched off.
    cache: Option<Arc<ContentCache>>,
    extensions: HashSet<Vec<u8>>,
    served: Arc<AtomicU64>,
}

impl Heads {
    /// Opens what an earlier run left.
    ///
    /// # Errors
    /// As [`ContentCache::open`].
    pub(super) fn open(config: &Config, flush: Duration) -> Result<Self, CacheError> {
        let max_bytes = config.cache.heads.bytes().min(config.cache.max_size.bytes() / SHARE);
        let wanted = max_bytes >= SHORTEST && !config.cache.head_extensions.is_empty();
        let cache = wanted.then(|| {
            ContentCache::open(CacheOptions {
                dir: config.drive.cache_dir.join("heads"),
                max_bytes,
                min_free_bytes: config.cache.min_free.bytes(),
                max_open_files: OPEN_FILES,
                flush_interval: flush,
            })
        });
        let extensions = config.cache.head_extensions.iter();
        Ok(Self {
            cache: cache.transpose()?.map(Arc::new),
            extensions: extensions.map(|e| e.to_ascii_lowercase().into_bytes()).collect(),
            served: Arc::default(),
        })
    }

    /// Returns where the beginning and the end of a version of a file are kept, if they are to be.
    pub(super) fn of(&self, path: &RelPath, id: ContentId, len: u64) -> Option<Head> {
        let cache = self.cache.as_ref().filter(|_| self.is_kept(path, len))?;
        let parts = Parts::of(len);
        match cache.content_quietly(id, parts.kept()) {
            Ok(content) => Some(Head {
                cache: Arc::clone(cache),
                content,
                parts,
                served: Arc::clone(&self.served),
            }),
            Err(e) => {
                debug!(%path, error = %e, "its head is not kept");
                None
            }
        }
    }

    /// Says whether the beginning and the end of a file are kept.
    pub(super) fn is_kept(&self, path: &RelPath, len: u64) -> bool {
        let name = path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let extension = name
            .iter()
            .rposition(|byte| *byte == b'.')
            .and_then(|at| name.get(at + 1..));
        self.cache.is_some()
            && len >= SHORTEST
            && extension.is_some_and(|extension| self.extensions.contains(&extension.to_ascii_lowercase()))
    }

    /// Returns how much of a version of a file is kept, and how much there would be to keep.
    pub(super) fn residency(&self, id: ContentId, len: u64) -> (u64, u64) {
        let kept = Parts::of(len).kept();
        let here = self.cache.as_ref().map(|cache| cache.residency(id, kept));
        let here = match here {
            Some(Ok(backlot_cache::Residency::Full)) => kept,
            Some(Ok(backlot_cache::Residency::Partial(here))) => here,
            Some(Ok(backlot_cache::Residency::None) | Err(_)) | None => 0,
        };
        (here, kept)
    }

    /// Returns the figures of the cache that they are in.
    pub(super) fn usage(&self) -> Usage {
        self.cache.as_ref().map(|cache| cache.usage()).unwrap_or_default()
    }

    /// Bytes since the start that came out of here instead of from a site.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Holds each of them against its checksums, until `told` of what came of it says no; what is bad is dropped.
    pub(super) fn verify(&self, mut told: impl FnMut(Result<Verified, CacheError>) -> bool) {
        let Some(cache) = &self.cache else { return };
        for (id, _) in cache.contents() {
            let looked = match cache.look(id) {
                Ok(Some(content)) => content.verify(0..content.len()),
                // Evicted meanwhile.
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            if !told(looked) {
                return;
            }
        }
    }

    /// Drops all of them.
    pub(super) fn clear(&self) {
        let Some(cache) = &self.cache else { return };
        for (id, _) in cache.contents() {
            if let Err(e) = cache.evict(id) {
                debug!(content = %id, error = %e, "a head stays");
            }
        }
    }

    /// Ends it; see [`ContentCache::close`].
    pub(super) fn close(&self) -> Result<(), CacheError> {
        self.cache.as_ref().map_or(Ok(()), |cache| cache.close())
    }
}

/// What is kept of a file: its first `FRONT` bytes, and what follows from a granule's beginning on. In the place where it is
/// kept both follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parts {
    len: u64,
    back: u64,
}

impl Parts {
    fn of(len: u64) -> Self {
        let back = len.saturating_sub(BACK) / GRANULE * GRANULE;
        Self {
            len,
            back: back.max(FRONT.min(len)),
        }
    }

    /// Bytes that are kept.
    fn kept(self) -> u64 {
        FRONT.min(self.len) + (self.len - self.back)
    }

    /// The parts, as ranges of the file.
    fn ranges(self) -> [Range<u64>; 2] {
        [0..FRONT.min(self.len), self.back..self.len]
    }

    /// Where a range of the file is kept that lies within one part.
    fn place(self, range: &Range<u64>) -> Range<u64> {
        if range.start < FRONT {
            return range.clone();
        }
        let by = self.back - FRONT.min(self.len);
        range.start - by..range.end - by
    }
}

/// Where the beginning and the end of one version of a file are kept.
#[derive(Debug)]
pub(super) struct Head {
    cache: Arc<ContentCache>,
    content: Content,
    parts: Parts,
    served: Arc<AtomicU64>,
}

impl Head {
    /// Has them count as used.
    pub(super) fn mark_used(&self) {
        self.content.mark_used();
    }

    /// Returns the parts of the file that are to be kept and are not.
    pub(super) fn missing(&self) -> Vec<Range<u64>> {
        let parts = self.parts.ranges().into_iter();
        parts
            .flat_map(|part| {
                let place = self.parts.place(&part);
                let by = part.start - place.start;
                let missing = self.content.missing(place).unwrap_or_default();
                missing.into_iter().map(move |m| m.start + by..m.end + by)
            })
            .collect()
    }

    /// Returns how far on from `at` all is here, `at` if nothing is.
    pub(super) fn run(&self, at: u64, end: u64) -> u64 {
        let mut until = at;
        for part in self.parts.ranges() {
            if !part.contains(&until) || until >= end {
                continue;
            }
            let part = until..part.end.min(end);
            let place = self.parts.place(&part);
            let by = part.start - place.start;
            until = match self.content.missing(place.clone()) {
                Ok(missing) => missing
                    .first()
                    .map_or(part.end, |first| first.start.max(place.start) + by),
                Err(_) => until,
            };
        }
        until
    }

    /// Returns the bytes of a range if all of it is here. Reads this machine's disk.
    pub(super) fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        let mut out = Vec::new();
        let mut at = range.start;
        for part in self.parts.ranges() {
            let piece = at..range.end.min(part.end);
            if !part.contains(&at) || piece.is_empty() {
                continue;
            }
            match self.content.read(self.parts.place(&piece)) {
                Ok(Hit::Full(bytes)) => out.extend_from_slice(&bytes),
                Ok(Hit::Missing(_)) | Err(_) => return None,
            }
            at = piece.end;
        }
        (at >= range.end).then(|| {
            self.served.fetch_add(range.end - range.start, Ordering::Relaxed);
            Bytes::from(out)
        })
    }

    /// Says whether anything of some bytes of the file is to be kept.
    pub(super) fn wants(&self, at: u64, len: u64) -> bool {
        self.parts
            .ranges()
            .into_iter()
            .any(|part| part.start.max(at) < part.end.min(at + len))
    }

    /// Drops what is kept: it was found to be wrong.
    pub(super) fn forget(&self) {
        if let Err(e) = self.content.drop_granules(0..self.content.len()) {
            debug!(content = %self.content.id(), error = %e, "a head stays");
        }
    }

    /// Keeps what of some bytes of the file is to be kept: whole granules from `at` on, as far as the file goes. Writes to
    /// this machine's disk.
    pub(super) fn keep(&self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        for part in self.parts.ranges() {
            let piece = part.start.max(at)..part.end.min(end);
            let from = usize::try_from(piece.start.saturating_sub(at)).unwrap_or(usize::MAX);
            let to = usize::try_from(piece.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let Some(bytes) = bytes.get(from..to).filter(|bytes| !bytes.is_empty()) else {
                continue;
            };
            let place = self.parts.place(&piece);
            if self
                .content
                .missing(place.clone())
                .is_ok_and(|missing| missing.is_empty())
            {
                continue;
            }
            let kept = self.cache.reserve(bytes.len() as u64).and_then(|reserved| {
                let kept = self.content.fill(place.start, bytes);
                drop(reserved);
                kept
            });
            if let Err(e) = kept {
                debug!(content = %self.content.id(), error = %e, "a head is not kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path, heads: u64) -> Config {
        let mut config = Config::default();
        config.drive.cache_dir = dir.to_owned();
        config.cache.heads = backlot_config::ByteSize(heads);
        config.cache.min_free = backlot_config::ByteSize(0);
        config
    }

    fn bytes(len: u64) -> Vec<u8> {
        (0..len)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect()
    }

    fn at(n: u64) -> usize {
        usize::try_from(n).expect("in memory")
    }

    #[test]
    fn what_is_kept_is_the_first_128_and_the_last_64_kib_at_least_whatever_the_length() {
        for len in [
            SHORTEST,
            SHORTEST + 1,
            5 * GRANULE - 1,
            5 * GRANULE,
            40 * GRANULE + 17,
            (1 << 40) + 5,
        ] {
            let parts = Parts::of(len);
            let [front, back] = parts.ranges();
            assert_eq!(front, 0..FRONT);
            assert!(
                back.start >= FRONT && back.start.is_multiple_of(GRANULE) && back.end == len,
                "{len}"
            );
            assert!((BACK..BACK + GRANULE).contains(&(len - back.start)), "{len}");
            assert_eq!(parts.place(&back), FRONT..parts.kept());
        }
    }

    #[test]
    fn a_head_is_given_out_as_it_came_and_only_where_all_of_the_range_is_here() {
        let dir = tempfile::tempdir().expect("a folder");
        let heads = Heads::open(&config(dir.path(), 1 << 30), Duration::from_secs(60)).expect("open");
        let (len, path) = (20 * GRANULE + 1000, RelPath::new("show/a.EXR").expect("a path"));
        let truth = bytes(len);
        assert!(
            heads
                .of(&RelPath::new("a.txt").expect("a path"), ContentId([1; 16]), len)
                .is_none()
        );
        assert!(
            heads
                .of(&RelPath::new("exr").expect("a path"), ContentId([1; 16]), len)
                .is_none()
        );
        assert!(heads.of(&path, ContentId([1; 16]), SHORTEST - 1).is_none());
        let head = heads.of(&path, ContentId([1; 16]), len).expect("media");
        assert_eq!(head.missing(), vec![0..FRONT, 19 * GRANULE..len]);
        assert_eq!((head.run(0, len), head.read(&(0..1))), (0, None));
        // As they land: in batches that begin and end anywhere.
        for (from, to) in [(GRANULE, 3 * GRANULE), (3 * GRANULE, 20 * GRANULE), (20 * GRANULE, len)] {
            head.keep(from, &truth[at(from)..at(to)]);
        }
        assert_eq!(head.missing(), vec![0..GRANULE]);
        assert_eq!(
            (head.run(0, len), head.run(GRANULE, len), head.run(19 * GRANULE, len)),
            (0, FRONT, len)
        );
        head.keep(0, &truth[..at(GRANULE)]);
        assert!(head.missing().is_empty());
        for range in [
            0..FRONT,
            100..70_000,
            GRANULE..FRONT,
            19 * GRANULE..len,
            len - 10..len,
            20 * GRANULE - 5..len - 7,
        ] {
            let read = head.read(&range).expect("here");
            assert_eq!(read, truth[at(range.start)..at(range.end)], "{range:?}");
        }
        assert_eq!(head.read(&(FRONT - 1..FRONT + 1)), None, "not all of it");
        assert_eq!(head.read(&(5 * GRANULE..5 * GRANULE + 1)), None);
        assert_eq!(
            heads.residency(ContentId([1; 16]), len),
            (FRONT + GRANULE + 1000, FRONT + GRANULE + 1000)
        );
        assert!(heads.served() > FRONT);

        // And by the next run.
        drop(head);
        heads.close().expect("closed");
        let heads = Heads::open(&config(dir.path(), 1 << 30), Duration::from_secs(60)).expect("open");
        let head = heads.of(&path, ContentId([1; 16]), len).expect("media");
        assert_eq!(head.read(&(0..FRONT)).expect("here"), truth[..at(FRONT)]);
    }

    #[test]
    fn both_parts_of_a_short_file_meet() {
        let dir = tempfile::tempdir().expect("a folder");
        let heads = Heads::open(&config(dir.path(), 1 << 30), Duration::from_secs(60)).expect("open");
        let path = RelPath::new("a.mov").expect("a path");
        let truth = bytes(SHORTEST - 1 + 1);
        let head = heads.of(&path, ContentId([2; 16]), SHORTEST).expect("media");
        head.keep(0, &truth);
        assert_eq!(head.run(0, SHORTEST), FRONT, "a granule between them is not kept");
        assert_eq!(head.read(&(0..SHORTEST)), None);
        assert_eq!(head.run(SHORTEST - GRANULE, SHORTEST), SHORTEST);
    }

    #[test]
    fn the_limit_holds_and_the_least_recently_used_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let limit = 64 * GRANULE;
        let heads = Heads::open(&config(dir.path(), limit), Duration::from_secs(60)).expect("open");
        let truth = bytes(10 * GRANULE);
        for n in 0..100_u8 {
            let path = RelPath::new(format!("a.{n:04}.dpx")).expect("a path");
            let head = heads.of(&path, ContentId([n; 16]), 10 * GRANULE).expect("media");
            head.mark_used();
            head.keep(0, &truth);
            assert!(heads.usage().bytes <= limit);
        }
        assert_eq!(heads.residency(ContentId([99; 16]), 10 * GRANULE).0, 3 * GRANULE);
        assert_eq!(heads.residency(ContentId([0; 16]), 10 * GRANULE).0, 0);
        heads.clear();
        assert_eq!(heads.usage().bytes, 0);
        assert!(
            Heads::open(&config(dir.path(), 0), Duration::from_secs(60))
                .expect("off")
                .cache
                .is_none()
        );
    }
}
