//! Contents whose bytes are known at every offset, and a folder to keep them in.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use backlot_cache::{CacheOptions, Content, ContentCache, ContentId, GRANULE, Hit};

pub(crate) fn id(n: u8) -> ContentId {
    let mut id = [n; 16];
    id[15] = 0xc0;
    ContentId(id)
}

/// No flush but those asked for.
pub(crate) fn options(dir: &Path) -> CacheOptions {
    CacheOptions {
        dir: dir.to_owned(),
        max_bytes: 1 << 40,
        min_free_bytes: 0,
        max_open_files: 16,
        flush_interval: Duration::from_secs(3600),
    }
}

pub(crate) fn open(dir: &Path) -> ContentCache {
    ContentCache::open(options(dir)).unwrap()
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A small generator; the seed is printed by who uses it.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }
}

/// The true bytes of a content: each granule is cut from one random pool at a place of its own (made once: generating
/// would take most of the time of a test built without optimisation).
pub(crate) fn truth(id: ContentId, range: Range<u64>) -> Vec<u8> {
    static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| (0..1 << 18).flat_map(|n| mix(n).to_le_bytes()).collect());
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut at = range.start;
    while at < range.end {
        let (granule, within) = (at / GRANULE, at % GRANULE);
        let cut = mix(u64::from(id.0[0]) << 40 | granule) % (POOL.len() as u64 - GRANULE);
        let count = (GRANULE - within).min(range.end - at);
        bytes.extend_from_slice(&POOL[(cut + within) as usize..(cut + within + count) as usize]);
        at += count;
    }
    bytes
}

/// Fills granules `from..to` with the truth.
pub(crate) fn fill(content: &Content, granules: Range<u64>) {
    try_fill(content, granules).unwrap();
}

pub(crate) fn try_fill(content: &Content, granules: Range<u64>) -> Result<(), backlot_cache::CacheError> {
    let bytes = granules.start * GRANULE..(granules.end * GRANULE).min(content.len());
    content.fill(bytes.start, &truth(content.id(), bytes))
}

/// Reads, and fails on any byte that is not the truth. The bytes that were there, if any.
pub(crate) fn read(content: &Content, range: Range<u64>) -> Option<usize> {
    match content.read(range.clone()).unwrap() {
        Hit::Full(bytes) => {
            let clipped = range.start.min(content.len())..range.end.min(content.len());
            assert!(
                bytes == truth(content.id(), clipped),
                "wrong bytes served in {range:?} of {}",
                content.id()
            );
            Some(bytes.len())
        }
        Hit::Missing(ranges) => {
            assert!(!ranges.is_empty());
            None
        }
    }
}

/// Fills what is missing until all of it can be read, as the engine does.
pub(crate) fn hydrate(content: &Content) {
    for _ in 0..100 {
        for range in content.missing(0..content.len()).unwrap() {
            fill(content, range.start / GRANULE..range.end.div_ceil(GRANULE));
        }
        if read(content, 0..content.len()).is_some() {
            return;
        }
    }
    panic!("never complete");
}

pub(crate) fn data_file(dir: &Path, id: ContentId) -> PathBuf {
    let hex = id.to_string();
    dir.join("objects").join(&hex[..2]).join(format!("{hex}.data"))
}

/// Waits for what a thread of the cache will do. Fails after a minute.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}
