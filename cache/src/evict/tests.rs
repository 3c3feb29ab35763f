//! The books, and who goes.

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
    assert_eq!(books.victims(25, 0, 0, |_| true), vec![id(1), id(2)]);
    assert_eq!(books.victims(25, 0, 0, |i| *i != id(2)), vec![id(1), id(3)]);
    assert_eq!(books.victims(0, 0, 0, |_| true), vec![]);
    assert_eq!(books.victims(0, 3, 0, |_| true), vec![id(1), id(2), id(3)]);
    assert_eq!(books.victims(1000, 0, 0, |_| true).len(), 4);
    assert_eq!(books.evictable([]), 100);
    assert_eq!(books.evictable([&id(2), &id(9)]), 80);
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
    let order = |share| books.victims(u64::MAX, 0, share, |_| true);
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
            for victim in books.victims(lacking.max(LIMIT / 20), 0, share, |_| true) {
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
    assert_eq!(books.victims(1000, 0, 0, |_| true), vec![id(2), id(4)]);
    assert_eq!((books.evictable([]), books.evictable([&id(1), &id(2)])), (60, 40));
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
    assert_eq!(books.victims(1000, 0, 0, |_| true), vec![id(2), id(4), id(9)]);
    assert_eq!(books.evictable([]), 60);
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

const MIB: u64 = 1 << 20;

/// A cache whose books say that 10,000 contents of 1 MiB are here, on a disk that they leave no room.
struct FullDisk {
    _dir: tempfile::TempDir,
    cache: crate::ContentCache,
    room: u64,
    fetched: u128,
}

impl FullDisk {
    const MIN_FREE: u64 = 1 << 30;

    fn new(are_pinned: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = crate::ContentCache::open(crate::CacheOptions {
            dir: dir.path().to_owned(),
            max_bytes: 1 << 50,
            min_free_bytes: Self::MIN_FREE,
            max_open_files: 16,
            flush_interval: Duration::from_secs(3600),
        });
        let cache = cache.unwrap();
        let of = |n: u64| {
            let summary = Summary {
                key: cache.shared.new_key(),
                len: MIB,
                resident: MIB,
                last_use: n,
                pinned: are_pinned,
                verified: n,
            };
            (ContentId(u128::from(n).to_be_bytes()), summary)
        };
        let books = Books::new((0..10_000).map(of).collect(), None);
        let room = books.bytes + Self::MIN_FREE;
        *lock(&cache.shared.books) = books;
        Self {
            _dir: dir,
            cache,
            room,
            fetched: 1 << 64,
        }
    }

    fn free(&self) -> u64 {
        self.room - lock(&self.cache.shared.books).bytes
    }

    /// Fetches 4 MiB while the disk says that it has so much left; returns what was evicted for that.
    fn fetch(&mut self, free: u64) -> Result<u64, CacheError> {
        let shared = &self.cache.shared;
        let evicted = || shared.counters.evicted_bytes.load(Ordering::Relaxed);
        let before = evicted();
        let promise = reserve_on(shared, 4 * MIB, free)?;
        self.fetched += 1;
        let (id, layout) = (ContentId(self.fetched.to_be_bytes()), Layout { len: 4 * MIB });
        lock(&shared.books).add(id, shared.new_key(), layout, 64, layout.len);
        drop(promise);
        Ok(evicted() - before)
    }
}

#[test]
fn a_full_disk_makes_not_every_fetch_evict() {
    let mut disk = FullDisk::new(false);
    let mut rounds = 0;
    for _ in 0..300 {
        rounds += u32::from(disk.fetch(disk.free()).unwrap() > 0);
        assert!(disk.free() >= FullDisk::MIN_FREE, "the reserve of free space is kept");
    }
    assert!((1..=4).contains(&rounds), "{rounds} rounds");
}

#[test]
fn a_disk_that_shows_no_freed_room_costs_no_more_than_what_is_fetched() {
    let mut disk = FullDisk::new(false);
    let evicted: u64 = (0..100).map(|_| disk.fetch(FullDisk::MIN_FREE).unwrap()).sum();
    assert!(
        evicted <= 500 * MIB + 100 * 4 * MIB,
        "{} MiB evicted for 400",
        evicted / MIB
    );
}

#[test]
fn a_cache_full_of_pins_refuses_and_evicts_nothing() {
    let mut disk = FullDisk::new(true);
    let refused = disk.fetch(disk.free());
    assert!(
        matches!(refused, Err(CacheError::Full { available: 0, .. })),
        "{refused:?}"
    );
    assert_eq!(disk.cache.usage().contents, 10_000);
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
