//! Reads of resident bytes: a bare `pread`, the cache with checked granules, and the first read of each granule, which
//! checks it. Medians of nine rounds over 128 MiB in the page cache: `cargo bench -p backlot-cache`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people to run and read"
)]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use backlot_cache::{CacheOptions, ContentCache, ContentId, GRANULE, Hit};

const LEN: u64 = 128 * 1024 * 1024;
const ROUNDS: usize = 9;
const ID: ContentId = ContentId([7; 16]);

fn open(dir: &Path) -> ContentCache {
    let flush_interval = Duration::from_millis(500);
    let dir = dir.to_owned();
    ContentCache::open(CacheOptions {
        dir,
        max_bytes: u64::MAX,
        min_free_bytes: 0,
        max_open_files: 64,
        flush_interval,
    })
    .unwrap()
}

/// Microseconds per read of `size` bytes, over the whole file once.
fn pass(size: u64, read: impl Fn(u64)) -> f64 {
    let start = Instant::now();
    (0..LEN / size).for_each(|n| read(n * size));
    let reads = u32::try_from(LEN / size).unwrap();
    start.elapsed().as_secs_f64() * 1e6 / f64::from(reads)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(ROUNDS / 2).copied().unwrap()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let granule: Vec<u8> = (0..=250).cycle().take(usize::try_from(GRANULE).unwrap()).collect();
    let cache = open(dir.path());
    let content = cache.content(ID, LEN).unwrap();
    (0..LEN / GRANULE).for_each(|n| content.fill(n * GRANULE, &granule).unwrap());
    drop((content, cache));
    let hex = ID.to_string();
    let plain = File::open(dir.path().join(format!("objects/07/{hex}.data"))).unwrap();
    println!(
        "{:>9} {:>12} {:>12} {:>12}",
        "size", "pread µs", "checked µs", "checking µs"
    );
    for size in [4096, GRANULE, 1024 * 1024] {
        let (mut bare, mut checked, mut checking) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let cache = open(dir.path());
            let content = cache.content(ID, LEN).unwrap();
            let read = |at| match content.read(at..at + size).unwrap() {
                Hit::Full(bytes) => drop(black_box(bytes)),
                Hit::Missing(ranges) => panic!("{ranges:?} missing"),
            };
            checking.push(pass(size, read));
            checked.push(pass(size, read));
            bare.push(pass(size, |at| {
                let mut buf = vec![0; usize::try_from(size).unwrap()];
                plain.read_exact_at(&mut buf, at).unwrap();
                drop(black_box(buf));
            }));
        }
        println!(
            "{size:>9} {:>12.2} {:>12.2} {:>12.2}",
            median(bare),
            median(checked),
            median(checking)
        );
    }
}
