//! The folder, or a part of it, deleted or moved while the cache is open.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backlot_cache::{CacheError, ContentCache, GRANULE, Residency};

use crate::common::*;

const G: u64 = GRANULE;
const LEN: u64 = 12 * G + 1;

/// Does `harm` under a cache with a full content, lets it notice by `flush`, and expects it to work on, from nothing.
fn survives(harm: impl Fn(&Path)) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("cache");
    let cache = open(&dir);
    let (content, closed) = (cache.content(id(1), LEN).unwrap(), cache.content(id(2), LEN).unwrap());
    hydrate(&content);
    hydrate(&closed);
    drop(closed);
    cache.flush().unwrap();
    harm(&dir);
    cache.flush().unwrap();
    assert_eq!(cache.usage().folders_lost, 1, "it was not noticed");
    assert_eq!((cache.usage().bytes, cache.usage().contents), (0, 0));
    assert_eq!(cache.residency(id(2), LEN).unwrap(), Residency::None);
    assert_eq!(content.missing(0..LEN).unwrap(), vec![0..LEN]);
    assert_eq!(read(&content, 0..1), None);
    hydrate(&content);
    assert!(data_file(&dir, id(1)).exists());
    drop(content);
    cache.close().unwrap();
    let cache = open(&dir);
    assert_eq!(cache.residency(id(1), LEN).unwrap(), Residency::Full);
    assert_eq!(cache.residency(id(2), LEN).unwrap(), Residency::None);
    hydrate(&cache.content(id(1), LEN).unwrap());
    assert_eq!(cache.usage().bad_granules, 0);
}

#[test]
fn a_folder_that_went_away_is_made_again() {
    survives(|dir| fs::remove_dir_all(dir).unwrap());
    survives(|dir| fs::remove_dir_all(dir.parent().unwrap()).unwrap());
    survives(|dir| fs::remove_dir_all(dir.join("objects")).unwrap());
    survives(|dir| fs::rename(dir, dir.with_extension("old")).unwrap());
    survives(|dir| fs::remove_file(dir.join("index.sqlite")).unwrap());
    survives(|dir| fs::remove_file(dir.join("lock")).unwrap());
    survives(|dir| {
        fs::write(dir.join("objects.new"), "")
            .and_then(|()| fs::remove_dir_all(dir.join("objects")))
            .unwrap()
    });
    survives(|dir| {
        fs::remove_dir_all(dir.join("objects")).unwrap();
        fs::write(dir.join("objects"), "a file").unwrap();
    });
}

#[test]
fn a_fill_into_a_deleted_folder_makes_it_again_at_once() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("cache");
    let cache = open(&dir);
    let content = cache.content(id(1), LEN).unwrap();
    hydrate(&content);
    fs::remove_dir_all(&dir).unwrap();
    assert!(read(&content, 0..LEN).is_some(), "what is still open is still right");
    fill(&content, 0..1); // there already: nothing to do
    assert_eq!(content.drop_granules(0..G).unwrap(), G);
    fill(&content, 0..1);
    assert_eq!(cache.usage().folders_lost, 1);
    assert!(data_file(&dir, id(1)).exists() && dir.join("index.sqlite").exists() && dir.join("lock").exists());
    assert_eq!(content.missing(0..LEN).unwrap(), vec![G..LEN]);
    hydrate(&content);
}

#[test]
fn a_single_data_file_that_went_away_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_open_files = 1;
    let cache = ContentCache::open(options).unwrap();
    let (content, other) = (cache.content(id(1), LEN).unwrap(), cache.content(id(2), LEN).unwrap());
    hydrate(&content);
    hydrate(&other); // pushes the other descriptor out
    fs::remove_file(data_file(dir.path(), id(1))).unwrap();
    assert_eq!(read(&content, 0..1), None);
    assert_eq!(content.missing(0..LEN).unwrap(), vec![0..LEN]);
    assert_eq!(cache.usage().bytes, LEN);
    hydrate(&content);
    // And with its descriptor open, found by the next fill.
    assert_eq!(content.drop_granules(0..G).unwrap(), G);
    fs::remove_file(data_file(dir.path(), id(1))).unwrap();
    fill(&content, 0..1);
    assert_eq!(content.missing(0..LEN).unwrap(), vec![G..LEN]);
    hydrate(&content);
    assert_eq!(
        (
            cache.usage().bytes,
            cache.usage().bad_granules,
            cache.usage().folders_lost
        ),
        (2 * LEN, 0, 0)
    );
}

#[test]
fn a_lost_data_file_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    fill(&content, 0..1);
    fs::remove_file(data_file(dir.path(), id(1))).unwrap();
    fill(&content, 1..2);
    let open = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let ours = data_file(dir.path(), id(1)).into_os_string().into_string().unwrap();
    let held = open.filter(|to| to.to_string_lossy().starts_with(&ours)).count();
    assert_eq!(held, 1, "the lost file is still held, with its space");
}

#[test]
fn a_folder_taken_over_by_another_is_left_to_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("cache");
    let (cache, content);
    {
        cache = open(&dir);
        content = cache.content(id(1), LEN).unwrap();
        hydrate(&content);
    }
    fs::remove_dir_all(&dir).unwrap();
    let second = open(&dir);
    let theirs = second.content(id(1), LEN).unwrap();
    fill(&theirs, 3..4);
    assert!(matches!(cache.flush(), Err(CacheError::InUse { .. })));
    assert_eq!(read(&content, 0..1), None);
    assert!(matches!(try_fill(&content, 0..1), Err(CacheError::InUse { .. })));
    assert_eq!(theirs.missing(0..LEN).unwrap(), vec![0..3 * G, 4 * G..LEN]);
    drop(theirs);
    second.close().unwrap();
    // Theirs again to have: ours from now on, and empty.
    hydrate(&content);
    assert_eq!(cache.usage().bytes, LEN);
}

#[test]
fn deleted_again_and_again_under_readers_and_fillers() {
    const DELETIONS: u64 = 40;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("cache");
    let mut options = options(&dir);
    options.flush_interval = Duration::from_millis(2);
    options.max_open_files = 4;
    let cache = ContentCache::open(options).unwrap();
    let (done, hits, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (cache, done, hits, refused) = (&cache, &done, &hits, &refused);
            scope.spawn(move || {
                let mut random = Random(n);
                while !done.load(Ordering::Relaxed) {
                    let content = cache.content(id(random.below(8) as u8), LEN).unwrap();
                    for _ in 0..6 {
                        let from = random.below(13);
                        let to = (from + 1 + random.below(4)).min(13);
                        if read(&content, from * G..to * G).is_some() {
                            hits.fetch_add(1, Ordering::Relaxed);
                        } else if let Err(e) = try_fill(&content, from..to) {
                            // Not kept, but not wrong either: the folder went away faster than it was made.
                            assert!(
                                matches!(
                                    e,
                                    CacheError::Io { .. } | CacheError::Index { .. } | CacheError::ReadOnly { .. }
                                ),
                                "{e:?}"
                            );
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if random.below(10) == 0 {
                        drop(content);
                        let _busy_or_not = cache.evict(id(random.below(8) as u8));
                    }
                }
            });
        }
        for round in 0..DELETIONS {
            let before = hits.load(Ordering::Relaxed);
            until(&format!("hits after {round} deletions"), || {
                hits.load(Ordering::Relaxed) >= before + 20
            });
            // May meet files that are just being made; what it leaves, it leaves.
            let _left_something = fs::remove_dir_all(&dir);
        }
        done.store(true, Ordering::Relaxed);
    });
    cache.flush().unwrap();
    let usage = cache.usage();
    assert!(
        usage.folders_lost >= DELETIONS / 4,
        "{usage:?}, {refused:?} fills refused"
    );
    for n in 0..8 {
        hydrate(&cache.content(id(n), LEN).unwrap());
    }
    cache.flush().unwrap();
    assert_eq!(cache.usage().bytes, 8 * LEN);
    cache.close().unwrap();
    let cache = open(&dir);
    for n in 0..8 {
        assert_eq!(cache.residency(id(n), LEN).unwrap(), Residency::Full);
        assert!(read(&cache.content(id(n), LEN).unwrap(), 0..LEN).is_some());
    }
}
