//! The plain behaviour of every call.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;

use backlot_cache::{CacheError, GRANULE, Hit, Residency};

use crate::common::*;

const G: u64 = GRANULE;

#[test]
fn fill_then_nothing_is_missing_and_the_tail_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), 3 * G + 5).unwrap();
    assert_eq!(content.missing(0..u64::MAX).unwrap(), vec![0..3 * G + 5]);
    assert_eq!(content.read(G..G + 1).unwrap(), Hit::Missing(vec![G..2 * G]));
    fill(&content, 3..4);
    fill(&content, 1..2);
    assert_eq!(content.missing(0..u64::MAX).unwrap(), vec![0..G, 2 * G..3 * G]);
    assert_eq!(content.read(0..3 * G).unwrap(), Hit::Missing(vec![0..G, 2 * G..3 * G]));
    assert_eq!(content.resident_bytes(), G + 5);
    assert_eq!(cache.residency(id(1), 3 * G + 5).unwrap(), Residency::Partial(G + 5));
    fill(&content, 0..4);
    assert!(content.missing(0..u64::MAX).unwrap().is_empty());
    assert!(content.is_full());
    assert_eq!(cache.residency(id(1), 3 * G + 5).unwrap(), Residency::Full);
    assert_eq!(
        cache.residency(id(1), 3 * G).unwrap(),
        Residency::None,
        "another length is another content"
    );
    assert_eq!(read(&content, 0..u64::MAX), Some((3 * G + 5) as usize));
    assert_eq!(read(&content, G - 1..G + 1), Some(2));
    assert_eq!(read(&content, 3 * G + 4..u64::MAX), Some(1));
    assert_eq!(read(&content, u64::MAX - 1..u64::MAX), Some(0));
    let usage = cache.usage();
    assert_eq!(
        (usage.bytes, usage.granules, usage.contents, usage.live_contents),
        (3 * G + 5, 4, 1, 1)
    );
}

#[test]
fn only_whole_granules_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), 2 * G + 5).unwrap();
    let (granule, zeros) = (G as usize, vec![0; 4 * G as usize]);
    for (at, len) in [
        (1, granule),
        (0, granule - 1),
        (2 * G, 4),
        (2 * G, 6),
        (G, granule + 4),
        (u64::MAX - 65535, granule),
        (4 * G, 0),
    ] {
        let refused = content.fill(at, &zeros[..len]);
        assert!(
            matches!(refused, Err(CacheError::Misaligned { .. })),
            "{at} {len}: {refused:?}"
        );
    }
    content.fill(G, &[]).unwrap();
    assert!(!data_file(dir.path(), id(1)).exists());
    content.fill(0, &zeros[..granule]).unwrap();
    content.fill(G, &zeros[..granule + 5]).unwrap();
    assert!(content.is_full());
}

#[test]
fn nothing_lies_on_disk_before_the_first_fill_and_holes_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let len = 100_000_000_000;
    let content = cache.content(id(7), len).unwrap();
    assert_eq!(content.missing(0..len).unwrap(), vec![0..len]);
    assert_eq!(read(&content, 0..10), None);
    assert!(fs::read_dir(dir.path().join("objects")).unwrap().next().is_none());
    fill(&content, 1_000_000..1_000_001);
    let meta = fs::metadata(data_file(dir.path(), id(7))).unwrap();
    assert_eq!(meta.len(), len);
    assert!(meta.blocks() * 512 <= 4 * G, "{} blocks", meta.blocks());
    cache.flush().unwrap();
    assert!(fs::metadata(dir.path().join("index.sqlite-wal")).unwrap().len() < 1 << 20);
}

#[test]
fn a_content_of_no_bytes_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), 0).unwrap();
    assert!(content.is_full() && content.is_empty());
    assert_eq!(content.read(0..10).unwrap(), Hit::Full(Vec::new().into()));
    assert_eq!(cache.residency(id(9), 0).unwrap(), Residency::Full);
    content.fill(0, &[]).unwrap();
}

#[test]
fn what_was_filled_is_there_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let len = 1500 * G + 1; // two segments
    {
        let cache = open(dir.path());
        let content = cache.content(id(1), len).unwrap();
        fill(&content, 0..3);
        fill(&content, 1022..1026);
        fill(&content, 1500..1501);
        cache.close().unwrap();
        assert!(matches!(content.read(0..1), Err(CacheError::Closed)));
        assert!(matches!(try_fill(&content, 5..6), Err(CacheError::Closed)));
        assert!(matches!(cache.reserve(1), Err(CacheError::Closed)));
    }
    let cache = open(dir.path());
    assert_eq!(cache.residency(id(1), len).unwrap(), Residency::Partial(7 * G + 1));
    let content = cache.content(id(1), len).unwrap();
    assert_eq!(
        content.missing(0..len).unwrap(),
        vec![3 * G..1022 * G, 1026 * G..1500 * G]
    );
    assert!(read(&content, 1022 * G..1026 * G).is_some());
    assert!(read(&content, 1500 * G..len).is_some());
    assert_eq!(cache.usage().bad_granules, 0);
}

#[test]
fn a_folder_belongs_to_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let second = backlot_cache::ContentCache::open(options(dir.path()));
    let me = std::process::id();
    assert!(
        matches!(second, Err(CacheError::InUse { pid: Some(pid) }) if pid == me),
        "{second:?}"
    );
    assert!(second.unwrap_err().to_string().contains(&me.to_string()));
    cache.close().unwrap();
    drop(open(dir.path()));
}

#[test]
fn one_id_has_one_length_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), 2 * G).unwrap();
    fill(&content, 0..2);
    assert!(
        matches!(cache.content(id(1), G), Err(CacheError::LengthDiffers { known, asked }) if known == 2 * G && asked == G)
    );
    drop(content);
    let content = cache.content(id(1), G).unwrap();
    assert_eq!(content.resident_bytes(), 0);
    assert_eq!(cache.usage().bytes, 0);
    assert_eq!(read(&content, 0..G), None);
    hydrate(&content);
    assert_eq!(fs::metadata(data_file(dir.path(), id(1))).unwrap().len(), G);
}

#[test]
fn dropped_granules_give_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), 100 * G).unwrap();
    hydrate(&content);
    let blocks = || fs::metadata(data_file(dir.path(), id(1))).unwrap().blocks() * 512;
    let before = blocks();
    assert_eq!(content.drop_granules(10 * G + 1..89 * G + 1).unwrap(), 80 * G);
    assert_eq!(content.drop_granules(10 * G..90 * G).unwrap(), 0);
    assert!(blocks() + 80 * G <= before, "{before} then {}", blocks());
    assert_eq!(content.missing(0..100 * G).unwrap(), vec![10 * G..90 * G]);
    assert!(read(&content, 0..10 * G).is_some());
    hydrate(&content);
}

#[test]
fn the_whole_file_is_handed_out_only_when_all_of_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let len = 20 * G + 3;
    {
        let cache = open(dir.path());
        let content = cache.content(id(1), len).unwrap();
        assert!(content.whole_file().unwrap().is_none());
        hydrate(&content);
        let file = content.whole_file().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().len(), len);
        assert_eq!(
            content.drop_granules(0..G).unwrap(),
            len,
            "all of what was handed out goes"
        );
        hydrate(&content);
        assert!(content.whole_file().unwrap().is_some());
    }
    let path = data_file(dir.path(), id(1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[5 * G as usize + 9] ^= 1;
    fs::write(&path, bytes).unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), len).unwrap();
    assert!(content.is_full());
    assert!(content.whole_file().unwrap().is_none(), "nothing is checked yet");
    assert!(content.check(6 * G..len).unwrap());
    assert!(!content.check(0..len).unwrap());
    assert!(content.whole_file().unwrap().is_none());
    assert_eq!(content.missing(0..len).unwrap(), vec![5 * G..6 * G]);
    hydrate(&content);
    assert!(content.whole_file().unwrap().is_some());
}

#[test]
fn what_was_handed_out_keeps_its_bytes_whatever_becomes_of_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let len = 20 * G + 3;
    let all_are = |file: &fs::File, byte: u8| {
        let mut all = vec![0; len as usize];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut all, 0).unwrap();
        all.iter().all(|b| *b == byte)
    };
    let content = cache.content(id(1), len).unwrap();
    content.fill(0, &vec![1; len as usize]).unwrap();
    let file = content.whole_file().unwrap().unwrap();
    // Another save that looks the same to the site.
    content.drop_granules(0..len).unwrap();
    content.fill(0, &vec![2; len as usize]).unwrap();
    assert!(all_are(&file, 1));
    let other = content.whole_file().unwrap().unwrap();
    assert!(all_are(&other, 2));
    drop(content);
    assert_eq!(cache.evict(id(1)).unwrap(), len);
    assert!(all_are(&other, 2));
}

#[test]
fn what_is_proven_is_not_read_again_unless_it_was_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let len = 20 * G;
    let content = cache.content(id(1), len).unwrap();
    hydrate(&content);
    assert!(content.whole_file().unwrap().is_some());
    drop(content);
    // More contents than descriptors are kept: this one is opened anew, and known by what it was.
    for n in 2..40 {
        hydrate(&cache.content(id(n), G).unwrap());
    }
    let content = cache.content(id(1), len).unwrap();
    assert!(content.whole_file().unwrap().is_some());
    let path = data_file(dir.path(), id(1));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 7 * G).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    for n in 2..40 {
        assert!(read(&cache.content(id(n), G).unwrap(), 0..G).is_some());
    }
    assert!(content.whole_file().unwrap().is_none(), "it was written to");
    assert!(!content.check(0..len).unwrap());
    assert_eq!(
        content.missing(0..len).unwrap(),
        vec![0..len],
        "it was handed out: all of it goes"
    );
    assert_eq!(cache.usage().bad_granules, 1);
    hydrate(&content);
    // Written to through no descriptor of ours, while ours stays open.
    assert!(content.whole_file().unwrap().is_some());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 9 * G).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(content.whole_file().unwrap().is_none(), "it was written to");
    assert!(!content.check(0..len).unwrap());
    assert_eq!(cache.usage().bad_granules, 2);
}

#[test]
fn many_threads_fill_the_same_granules() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let len = 40 * G + 11;
    let content = cache.content(id(3), len).unwrap();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (content, start) = (&content, &start);
            scope.spawn(move || {
                let mut random = Random(n);
                start.wait();
                for _ in 0..60 {
                    let from = random.below(41);
                    let to = (from + 1 + random.below(6)).min(41);
                    fill(content, from..to);
                    assert!(read(content, from * G..to * G).is_some());
                }
            });
        }
    });
    hydrate(&content);
    let usage = cache.usage();
    assert_eq!((usage.bytes, usage.granules, usage.bad_granules), (len, 41, 0));
}

#[test]
fn the_flusher_writes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.flush_interval = std::time::Duration::from_millis(5);
    let cache = backlot_cache::ContentCache::open(options).unwrap();
    fill(&cache.content(id(1), G).unwrap(), 0..1);
    // The index's write-ahead log grows only when the flusher writes.
    let wal = dir.path().join("index.sqlite-wal");
    let before = fs::metadata(&wal).unwrap().len();
    let content = cache.content(id(2), 64 * G).unwrap();
    fill(&content, 0..64);
    until("changes are written", || fs::metadata(&wal).unwrap().len() > before);
}
