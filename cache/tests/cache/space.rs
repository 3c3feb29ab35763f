//! Limits, eviction, full and read-only disks.

use std::io::Write;
use std::path::Path;

use backlot_cache::{CacheError, CacheOptions, Content, ContentCache, GRANULE, Residency};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::common::*;

const G: u64 = GRANULE;
const LEN: u64 = 10 * G;

fn limited(dir: &Path, max_bytes: u64) -> ContentCache {
    ContentCache::open(CacheOptions {
        max_bytes,
        ..options(dir)
    })
    .unwrap()
}

fn full(cache: &ContentCache, n: u8) -> Content {
    let content = cache.content(id(n), LEN).unwrap();
    hydrate(&content);
    content
}

fn is_here(cache: &ContentCache, n: u8) -> bool {
    cache.residency(id(n), LEN).unwrap() == Residency::Full
}

#[test]
fn the_least_recently_used_go_first_and_the_live_never() {
    let dir = tempfile::tempdir().unwrap();
    let cache = limited(dir.path(), 10 * LEN);
    let live = full(&cache, 0);
    for n in 1..10 {
        drop(full(&cache, n));
    }
    drop(cache.content(id(1), LEN).unwrap()); // used again
    assert_eq!(cache.usage().bytes, 10 * LEN);
    let promise = cache.reserve(LEN).unwrap();
    let here: Vec<u8> = (0..10).filter(|&n| is_here(&cache, n)).collect();
    assert_eq!(
        here,
        vec![0, 1, 3, 4, 5, 6, 7, 8, 9],
        "the oldest that is not live, and only as many as needed"
    );
    assert!(!data_file(dir.path(), id(2)).exists());
    assert_eq!(cache.usage().evicted_bytes, LEN);
    assert_eq!(cache.usage().reserved_bytes, LEN);
    drop(promise);
    assert_eq!(cache.usage().reserved_bytes, 0);
    drop(live);
}

#[test]
fn what_cannot_fit_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = limited(dir.path(), 4 * LEN);
    let live = [full(&cache, 0), full(&cache, 1)];
    drop([full(&cache, 2), full(&cache, 3)]);
    let refused = cache.reserve(3 * LEN);
    let (asked, had) = (3 * LEN, 2 * LEN);
    assert!(
        matches!(refused, Err(CacheError::Full { needed, available }) if needed == asked && available == had),
        "{refused:?}"
    );
    assert!((0..4).all(|n| is_here(&cache, n)));
    assert_eq!(cache.usage().refused_fills, 1);
    let mut promise = cache.reserve(2 * LEN).unwrap();
    assert!(is_here(&cache, 0) && is_here(&cache, 1) && !is_here(&cache, 2) && !is_here(&cache, 3));
    assert!(cache.reserve(1).is_err(), "live contents and promises fill it");
    promise.release(LEN);
    assert_eq!(promise.bytes(), LEN);
    let more = cache.reserve(LEN).unwrap();
    drop((promise, more, live));
}

#[test]
fn the_reserve_of_free_space_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let huge = ContentCache::open(CacheOptions {
        min_free_bytes: 1 << 60,
        ..options(dir.path())
    })
    .unwrap();
    drop(full(&huge, 1));
    assert!(matches!(huge.reserve(1), Err(CacheError::Full { .. })));
    assert!(is_here(&huge, 1), "it would not have helped");
}

#[test]
fn fills_without_a_promise_are_trimmed_to_the_low_water_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_bytes = 100 * LEN;
    options.flush_interval = std::time::Duration::from_millis(2);
    let cache = ContentCache::open(options).unwrap();
    for n in 0..101 {
        drop(full(&cache, n));
    }
    until("the excess is evicted", || cache.usage().bytes <= 95 * LEN);
    assert_eq!(cache.usage().bytes, 95 * LEN);
    assert!((0..6).all(|n| !is_here(&cache, n)) && (6..101).all(|n| is_here(&cache, n)));
}

#[test]
fn evict_is_refused_while_a_handle_lives() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = full(&cache, 1);
    let clone = content.clone();
    drop(content);
    assert!(matches!(cache.evict(id(1)), Err(CacheError::Busy)));
    drop(clone);
    assert_eq!(cache.evict(id(1)).unwrap(), LEN);
    assert_eq!(cache.evict(id(1)).unwrap(), 0);
    assert!(!data_file(dir.path(), id(1)).exists());
    // The same content again, before the index was told: nothing of the former one may count.
    let content = cache.content(id(1), LEN).unwrap();
    fill(&content, 2..3);
    assert_eq!(content.missing(0..LEN).unwrap(), vec![0..2 * G, 3 * G..LEN]);
    cache.flush().unwrap();
    drop(content);
    cache.close().unwrap();
    assert_eq!(open(dir.path()).residency(id(1), LEN).unwrap(), Residency::Partial(G));
}

#[test]
fn eviction_and_use_race_without_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_bytes = 6 * LEN;
    options.max_open_files = 3;
    options.flush_interval = std::time::Duration::from_millis(2);
    let cache = ContentCache::open(options).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let mut random = Random(n);
                for _ in 0..150 {
                    let content = cache.content(id(random.below(12) as u8), LEN).unwrap();
                    if let Ok(promise) = cache.reserve(LEN) {
                        let before = content.resident_bytes();
                        for range in content.missing(0..LEN).unwrap() {
                            fill(&content, range.start / G..range.end / G);
                        }
                        assert!(
                            read(&content, 0..LEN).is_some(),
                            "a live content lost granules ({before} before)"
                        );
                        drop(promise);
                    }
                }
            });
        }
    });
    let usage = cache.usage();
    assert!(usage.evicted_bytes > 10 * LEN, "{usage:?}");
    assert_eq!(usage.bad_granules, 0);
    let sum: u64 = (0..12)
        .map(|n| cache.content(id(n), LEN).unwrap().resident_bytes())
        .sum();
    assert_eq!(cache.usage().bytes, sum);
}

/// A file system of its own, taken away at the end. `None`, said aloud, where the process may not mount.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(options: &str, test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        match mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        ) {
            Ok(()) => Some(Self(dir)),
            Err(e) => {
                println!("SKIPPED {test}: needs to mount a tmpfs ({e})");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // All that was stacked there.
        while unmount(self.0.path(), UnmountFlags::DETACH).is_ok() {}
    }
}

#[test]
fn a_full_disk_refuses_fills_and_records_nothing_wrong() {
    let Some(disk) = Mount::new("size=2m", "full disk") else {
        return;
    };
    let dir = disk.0.path().join("cache");
    let cache = open(&dir);
    let len = 64 * G;
    let content = cache.content(id(1), len).unwrap();
    let mut refused = 0;
    for granule in 0..64 {
        match try_fill(&content, granule..granule + 1) {
            Ok(()) => {}
            Err(CacheError::Full { needed, .. }) => {
                assert_eq!(needed, G);
                refused += 1;
            }
            Err(e) => panic!("{e:?}"),
        }
    }
    assert!(refused > 10, "4 MiB fit into 2");
    assert_eq!(cache.usage().refused_fills, refused);
    assert_eq!(cache.usage().bytes, (64 - refused) * G);
    let here = (0..64).filter(|g| read(&content, g * G..(g + 1) * G).is_some()).count() as u64;
    assert_eq!(here, 64 - refused);
    // A content of which nothing could be kept leaves nothing behind.
    let other = cache.content(id(2), len).unwrap();
    assert!(try_fill(&other, 0..1).is_err());
    drop(other);
    assert!(!data_file(&dir, id(2)).exists());
    // With the last page gone the index can't be written either. It is, once there is room.
    assert_eq!(content.drop_granules(0..20 * G).unwrap(), 20 * G);
    let filler = std::fs::File::create(disk.0.path().join("filler")).unwrap();
    while (&filler).write(&[1; 4096]).is_ok() {}
    let unwritten = cache.flush();
    assert!(matches!(unwritten, Err(CacheError::Full { .. })), "{unwritten:?}");
    assert!(read(&content, 20 * G..21 * G).is_some());
    filler.set_len(0).unwrap();
    cache.flush().unwrap();
    let (missing, resident) = (content.missing(0..len).unwrap(), content.resident_bytes());
    drop(content);
    cache.close().unwrap();
    let cache = open(&dir);
    assert_eq!(cache.residency(id(1), len).unwrap(), Residency::Partial(resident));
    let content = cache.content(id(1), len).unwrap();
    assert_eq!(
        content.missing(0..len).unwrap(),
        missing,
        "what could not be written at first was not written later"
    );
}

#[test]
fn a_disk_that_turns_read_only_still_serves() {
    let Some(disk) = Mount::new("size=8m", "read-only disk") else {
        return;
    };
    let dir = disk.0.path().join("cache");
    let (content, cold);
    {
        let cache = open(&dir);
        content = cache.content(id(1), LEN).unwrap();
        cold = cache.content(id(2), LEN).unwrap();
        fill(&content, 0..3);
        fill(&cold, 0..3);
        drop((content, cold));
        cache.close().unwrap();
    }
    let mut options = options(&dir);
    options.max_open_files = 1;
    let cache = ContentCache::open(options).unwrap();
    let (content, cold) = (cache.content(id(1), LEN).unwrap(), cache.content(id(2), LEN).unwrap());
    assert!(read(&content, 0..G).is_some());
    // SQLite holds files open for writing, so only a forced, lazy turn works: as the kernel does after an I/O error.
    if let Err(e) = mount_remount(disk.0.path(), MountFlags::RDONLY, "") {
        // Files open for writing keep a tmpfs writable; a bind mount over it turns all the same.
        println!("plain remount refused ({e}); through a bind mount");
        rustix::mount::mount_bind(disk.0.path(), disk.0.path()).unwrap();
        mount_remount(disk.0.path(), MountFlags::RDONLY | MountFlags::BIND, "").unwrap();
    }
    assert!(
        std::fs::write(dir.join("probe"), "x").is_err(),
        "the fault did not fire"
    );
    assert!(read(&content, 0..3 * G).is_some());
    assert!(read(&cold, 0..3 * G).is_some(), "opened only now");
    let refused = try_fill(&cold, 3..4);
    assert!(matches!(refused, Err(CacheError::ReadOnly { .. })), "{refused:?}");
    let unknown = cache.content(id(3), LEN).unwrap();
    assert!(matches!(try_fill(&unknown, 0..1), Err(CacheError::ReadOnly { .. })));
    assert_eq!(cold.resident_bytes(), 3 * G);
    assert_eq!(cache.usage().refused_fills, 2);
    drop((content, cold, unknown));
    drop(cache);
}

#[test]
fn pins_outlast_pressure_and_a_restart_and_end_with_a_round_without_them() {
    let dir = tempfile::tempdir().unwrap();
    {
        let cache = limited(dir.path(), 5 * LEN);
        // Said before anything is here, and of what is here.
        cache.pin(id(0), 1);
        drop(full(&cache, 0));
        drop(full(&cache, 1));
        cache.pin(id(1), 1);
        for n in 2..5 {
            drop(full(&cache, n));
        }
        drop(cache.reserve(3 * LEN).unwrap());
        assert!(is_here(&cache, 0) && is_here(&cache, 1), "the oldest, and pinned");
        assert!((2..5).all(|n| !is_here(&cache, n)));
        assert_eq!(
            (cache.usage().pinned_bytes, cache.usage().pinned_contents),
            (2 * LEN, 2)
        );
        assert!(matches!(cache.evict(id(0)), Err(CacheError::Pinned)));
        let refused = cache.reserve(4 * LEN);
        assert!(
            matches!(refused, Err(CacheError::Full { available, .. }) if available == 3 * LEN),
            "{refused:?}"
        );
        cache.close().unwrap();
    }
    let cache = limited(dir.path(), 5 * LEN);
    assert_eq!(
        cache.usage().pinned_bytes,
        2 * LEN,
        "before anybody has told the pins again"
    );
    drop(cache.reserve(3 * LEN).unwrap());
    assert!(cache.reserve(4 * LEN).is_err());
    cache.pin(id(1), 1);
    cache.unpin_before(1);
    assert_eq!(cache.usage().pinned_bytes, LEN);
    drop(cache.reserve(4 * LEN).unwrap());
    assert!(!is_here(&cache, 0) && is_here(&cache, 1));
}
