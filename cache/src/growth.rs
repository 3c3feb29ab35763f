//! A cache of millions of granules: how long it takes to open, what it keeps in memory, what single questions cost.
//! `BACKLOT_TEST_GRANULES` sets how many (200,000; the long gate takes 10,000,000).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::evict::Summary;
use crate::index::{Batch, Index};
use crate::segments::{Bits, Layout, SEGMENT_GRANULES, Segment, SegmentKey};
use crate::{CacheOptions, ContentCache, ContentId, GRANULE};

/// Granules of a content: frames of 640 KiB, as many as the cache takes at ten million granules.
const EACH: u64 = 10;

fn id(n: u64) -> ContentId {
    ContentId((u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_0c0b_1d2e_4f63)).to_be_bytes())
}

/// Writes the index of a cache that holds so many whole contents of `each` granules, without their bytes.
fn written(dir: &Path, contents: u64, each: u64) {
    let (index, _) = Index::open(dir).map_err(|e| e.error).unwrap();
    let layout = Layout { len: each * GRANULE };
    let whole = |no: u64| {
        let granules = layout.segment_len(no);
        let segment = Arc::new(Segment::default());
        segment.load(|| Ok::<_, ()>(Bits::empty(granules))).unwrap();
        segment.write(|bits| (0..granules).for_each(|i| assert!(bits.insert(i, i as u64, 1))));
        segment
    };
    let segments: Vec<_> = (0..each.div_ceil(SEGMENT_GRANULES)).map(whole).collect();
    let all: Vec<u64> = (1..=contents).collect();
    for some in all.chunks(10_000) {
        let mut batch = Batch::default();
        for &n in some {
            let summary = Summary {
                key: n,
                len: layout.len,
                resident: layout.len,
                last_use: n,
                pinned: n.is_multiple_of(10),
                verified: n,
            };
            batch.rows.push((id(n), Some(summary)));
            let rows = segments.iter().zip(0..).map(|(segment, no)| {
                let key = SegmentKey { content: n, no };
                (id(n), key, layout, Arc::clone(segment))
            });
            batch.segments.extend(rows);
        }
        index.commit(&batch).map_err(|e| e.error).unwrap();
    }
    index.mark_clean().map_err(|e| e.error).unwrap();
}

/// Anonymous memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

fn took<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed(), done)
}

#[test]
fn millions_of_granules_cost_memory_by_contents_and_no_time_by_granules() {
    let granules: u64 = std::env::var("BACKLOT_TEST_GRANULES").map_or(200_000, |n| n.parse().expect("a number"));
    for (contents, each) in [(granules / EACH, EACH), (granules.div_ceil(65_536), 65_536)] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), contents, each);
        let size = std::fs::metadata(dir.path().join("index.sqlite")).unwrap().len();
        let before = memory();
        let options = CacheOptions {
            dir: dir.path().to_owned(),
            max_bytes: u64::MAX / 2,
            min_free_bytes: 0,
            max_open_files: 64,
            flush_interval: Duration::from_secs(3600),
        };
        let (opening, cache) = took(|| ContentCache::open(options.clone()).unwrap());
        let held = memory().saturating_sub(before);
        let usage = cache.usage();
        assert_eq!((usage.contents, usage.granules), (contents, contents * each));
        let (asking, _) = took(|| cache.residency(id(contents / 2), each * GRANULE).unwrap());
        let (looking, due) = took(|| cache.due(SystemTime::now(), 1000));
        assert_eq!(due.count, contents);
        let (first, missing) = took(|| {
            let content = cache.content(id(contents / 2 + 1), each * GRANULE).unwrap();
            content.check(0..GRANULE).unwrap();
            content.missing(0..each * GRANULE).unwrap()
        });
        // Its bytes were never written: noticed at the first look.
        assert_eq!(missing.len(), 1);
        let (evicting, freed) = took(|| cache.evict(id(contents / 2 + 3)));
        drop(freed);
        let (closing, ()) = took(|| cache.close().unwrap());
        println!(
            "growth: {} granules in {contents} contents, index {} MiB: opened in {opening:?}, holding {} MiB ({} bytes a content); \
             a question {asking:?}, what is due {looking:?}, first open {first:?}, eviction {evicting:?}, close {closing:?}",
            contents * each,
            size >> 20,
            held >> 20,
            held / contents,
        );
        // What is kept in memory is a row a content, never one a granule.
        assert!(
            held <= contents * 400 + (16 << 20),
            "{held} bytes for {contents} contents"
        );
        assert!(asking < Duration::from_millis(5) && first < Duration::from_millis(500));
        drop(cache);
        // As after a kill.
        let (index, _) = Index::open(dir.path()).map_err(|e| e.error).unwrap();
        drop(index);
        let (again, cache) = took(|| ContentCache::open(options).unwrap());
        println!("growth: opened after a kill in {again:?}");
        assert!(cache.usage().contents >= contents - 2);
    }
}
