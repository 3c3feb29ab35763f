//! Rotten, torn, shortened, swapped and foreign files: none of it is served.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use backlot_cache::{Content, ContentCache, GRANULE, Residency};

use crate::common::*;

const G: u64 = GRANULE;
const LEN: u64 = 50 * G + 100;

fn hydrated(dir: &std::path::Path, ids: &[u8]) {
    let cache = open(dir);
    for &n in ids {
        hydrate(&cache.content(id(n), LEN).unwrap());
    }
    cache.close().unwrap();
}

fn served(content: &Content) -> u64 {
    (0..51).filter(|g| read(content, g * G..(g + 1) * G).is_some()).count() as u64
}

#[test]
fn no_flipped_byte_is_served() {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1]);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(data_file(dir.path(), id(1)))
        .unwrap();
    let mut random = Random(5);
    // The very last byte, and nine others in granules of their own.
    let offsets: Vec<u64> = (0..9).map(|n| n * 5 * G + random.below(G)).chain([LEN - 1]).collect();
    for &at in &offsets {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at).unwrap();
    }
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    // A small read elsewhere in a bad granule is refused too, and so is a large one across it.
    assert_eq!(read(&content, (offsets[3] / G) * G..(offsets[3] / G) * G + 1), None);
    assert_eq!(read(&content, 0..LEN), None);
    assert_eq!(served(&content), 51 - 10);
    assert_eq!(cache.usage().bad_granules, 10);
    assert_eq!(cache.usage().bytes, LEN - 9 * G - 100);
    hydrate(&content);
    assert_eq!(cache.usage().bytes, LEN);
}

#[test]
fn zeroed_pages_as_after_a_power_cut_are_not_served() {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1]);
    let file = OpenOptions::new()
        .write(true)
        .open(data_file(dir.path(), id(1)))
        .unwrap();
    file.write_all_at(&vec![0; 4096], 7 * G + 8192).unwrap();
    file.set_len(20 * G + 1).unwrap();
    file.set_len(LEN).unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    assert_eq!(served(&content), 19);
    hydrate(&content);
}

#[test]
fn beyond_the_end_of_a_short_file_everything_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1]);
    let cut = |len| {
        OpenOptions::new()
            .write(true)
            .open(data_file(dir.path(), id(1)))
            .unwrap()
            .set_len(len)
            .unwrap()
    };
    cut(30 * G + 1);
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    assert_eq!(read(&content, 0..LEN), None);
    assert_eq!(content.missing(0..LEN).unwrap(), vec![30 * G..LEN]);
    hydrate(&content);
    // Once more, under the open descriptor, with all granules checked before.
    cut(10 * G);
    assert_eq!(read(&content, 9 * G..11 * G), None);
    assert!(content.missing(0..LEN).unwrap().contains(&(10 * G..11 * G)));
    assert!(read(&content, 9 * G..10 * G).is_some());
    hydrate(&content);
}

#[test]
fn a_file_that_was_replaced_is_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_open_files = 1;
    let cache = ContentCache::open(options).unwrap();
    let (content, other) = (cache.content(id(1), LEN).unwrap(), cache.content(id(2), LEN).unwrap());
    hydrate(&content);
    assert_eq!(served(&content), 51);
    // Another file at its path, all holes; then the descriptor is pushed out by another content.
    fs::remove_file(data_file(dir.path(), id(1))).unwrap();
    fs::File::create(data_file(dir.path(), id(1)))
        .unwrap()
        .set_len(LEN)
        .unwrap();
    assert_eq!(served(&content), 51, "an open file is still the right one");
    fill(&other, 0..1);
    assert_eq!(served(&content), 0);
    assert_eq!(cache.usage().bad_granules, 51);
    hydrate(&content);
}

#[test]
fn a_swapped_file_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1, 2]);
    fs::copy(data_file(dir.path(), id(1)), data_file(dir.path(), id(2))).unwrap();
    let cache = open(dir.path());
    assert_eq!(served(&cache.content(id(1), LEN).unwrap()), 51);
    assert_eq!(served(&cache.content(id(2), LEN).unwrap()), 0);
}

/// Opens after `harm` was done to the folder, expects an empty cache that works, and no file of before.
fn starts_empty(harm: impl Fn(&std::path::Path)) {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1, 2]);
    let old = fs::metadata(data_file(dir.path(), id(2))).unwrap();
    assert_eq!(old.len(), LEN);
    harm(dir.path());
    let cache = open(dir.path());
    assert_eq!(cache.usage().contents, 0);
    assert_eq!(cache.residency(id(1), LEN).unwrap(), Residency::None);
    assert!(!data_file(dir.path(), id(2)).exists());
    let content = cache.content(id(1), LEN).unwrap();
    assert_eq!(read(&content, 0..1), None);
    hydrate(&content);
    drop(content);
    cache.close().unwrap();
    let cache = open(dir.path());
    assert_eq!(cache.residency(id(1), LEN).unwrap(), Residency::Full);
    let trash = dir.path().join("trash");
    until("old data is deleted", || fs::read_dir(&trash).unwrap().next().is_none());
}

#[test]
fn an_unusable_index_means_an_empty_cache() {
    let index = "index.sqlite";
    starts_empty(|dir| fs::write(dir.join(index), b"this is not a database, however long it may go on").unwrap());
    starts_empty(|dir| fs::write(dir.join(index), b"").unwrap());
    starts_empty(|dir| fs::remove_file(dir.join(index)).unwrap());
    let pragma = |dir: &std::path::Path, offset, value: u32| {
        // user_version and application_id are big-endian words of SQLite's header.
        let file = OpenOptions::new().write(true).open(dir.join(index)).unwrap();
        file.write_all_at(&value.to_be_bytes(), offset).unwrap();
    };
    starts_empty(|dir| pragma(dir, 60, 4));
    // It says that it is older than it is.
    starts_empty(|dir| pragma(dir, 60, 1));
    starts_empty(|dir| pragma(dir, 68, 7));
}

#[test]
fn an_index_that_rots_while_open_is_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1, 2, 3]);
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    // Every page but the first, and no log to take them from: the next lookup of a segment meets garbage.
    cache.flush().unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(dir.path().join("index.sqlite"))
        .unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xee; len as usize - 4096], 4096).unwrap();
    assert_eq!(read(&content, 0..1), None);
    assert_eq!(cache.usage().folders_lost, 1);
    assert_eq!(cache.usage().contents, 0);
    hydrate(&content);
    cache.flush().unwrap();
    drop(content);
    cache.close().unwrap();
    assert_eq!(open(dir.path()).residency(id(1), LEN).unwrap(), Residency::Full);
}

#[test]
fn files_of_no_content_are_swept_after_an_unclean_stop() {
    let dir = tempfile::tempdir().unwrap();
    hydrated(dir.path(), &[1]);
    let (stray, nameless) = (data_file(dir.path(), id(0x33)), dir.path().join("objects/33/what"));
    fs::create_dir(stray.parent().unwrap()).unwrap();
    fs::write(&stray, b"x").unwrap();
    fs::write(&nameless, b"x").unwrap();
    drop(open(dir.path()));
    assert!(stray.exists(), "after a clean stop nothing is looked for");
    // A copy of the folder of an open cache is what a killed process leaves.
    let killed = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(dir.path().join("."))
        .arg(killed.path())
        .status()
        .unwrap();
    assert!(copied.success());
    drop(cache);
    let (stray, nameless) = (
        data_file(killed.path(), id(0x33)),
        killed.path().join("objects/33/what"),
    );
    assert!(stray.exists());
    let cache = open(killed.path());
    until("strays are swept", || !stray.exists() && !nameless.exists());
    assert_eq!(served(&cache.content(id(1), LEN).unwrap()), 51);
}

#[test]
fn verifying_finds_what_was_checked_before_and_rotted_since() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    hydrate(&content);
    let whole = content.verify(0..LEN).unwrap();
    assert_eq!((whole.bytes, whole.bad_granules), (LEN, 0));
    let file = OpenOptions::new()
        .write(true)
        .open(data_file(dir.path(), id(1)))
        .unwrap();
    for granule in [0, 17, 50] {
        let right = truth(id(1), granule * G..granule * G + 1);
        file.write_all_at(&[!right[0]], granule * G).unwrap();
    }
    // Written through this very descriptor, so a read does not check again.
    assert_eq!(cache.usage().bad_granules, 0);
    let found = content.verify(0..LEN).unwrap();
    assert_eq!((found.bytes, found.bad_granules), (LEN, 3));
    assert_eq!(cache.usage().bad_granules, 3);
    assert_eq!(served(&content), 51 - 3);
    assert_eq!(content.verify(0..LEN).unwrap().bad_granules, 0, "they are dropped");
    hydrate(&content);
    drop(content);
    cache.close().unwrap();
    drop(cache);
    fs::remove_file(data_file(dir.path(), id(1))).unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    assert_eq!(content.verify(0..LEN).unwrap().bad_granules, 16, "a file that is gone");
    assert_eq!(cache.residency(id(1), LEN).unwrap(), Residency::None);
}

#[test]
fn what_was_handed_out_and_rots_is_dropped_whole_and_never_mended_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let content = cache.content(id(1), LEN).unwrap();
    hydrate(&content);
    let lent = content.whole_file().unwrap().unwrap();
    rot(dir.path(), 1, 20);
    let found = content.verify(0..LEN).unwrap();
    assert_eq!(
        (found.bytes, found.bad_granules, found.dropped_whole),
        (LEN, 1, true),
        "{found:?}"
    );
    assert_eq!(content.missing(0..LEN).unwrap(), vec![0..LEN]);
    hydrate(&content);
    // Who has it still reads that file as it was given out, rot included; who comes now gets another.
    let first = |file: &fs::File| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 20 * G).unwrap();
        byte[0]
    };
    let right = truth(id(1), 20 * G..20 * G + 1)[0];
    assert_eq!(
        (first(&lent), first(&content.whole_file().unwrap().unwrap())),
        (!right, right)
    );
    // One that was not handed out is mended.
    let other = cache.content(id(2), LEN).unwrap();
    hydrate(&other);
    assert!(other.prove().unwrap());
    rot(dir.path(), 2, 20);
    let found = other.verify(0..LEN).unwrap();
    assert_eq!((found.bad_granules, found.dropped_whole), (1, false));
    assert_eq!(other.missing(0..LEN).unwrap(), vec![20 * G..21 * G]);
    assert!(!other.prove().unwrap());
    hydrate(&other);
    assert!(other.prove().unwrap());
}

/// Turns the first byte of a granule over.
fn rot(dir: &std::path::Path, content: u8, granule: u64) {
    let path = data_file(dir, id(content));
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let right = truth(id(content), granule * G..granule * G + 1);
    file.write_all_at(&[!right[0]], granule * G).unwrap();
}

#[test]
fn many_readers_of_one_bad_granule_find_it_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        hydrated(dir.path(), &[1]);
        rot(dir.path(), 1, 7);
        let cache = open(dir.path());
        let content = cache.content(id(1), LEN).unwrap();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    hydrate(&content);
                });
            }
        });
        assert_eq!(cache.usage().bad_granules, 1, "round {round}");
        drop(content);
        cache.close().unwrap();
    }
}

#[test]
fn a_look_is_no_use_and_its_place_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let soon = || std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    {
        let cache = open(dir.path());
        for n in [3, 1, 2] {
            hydrate(&cache.content(id(n), LEN).unwrap());
        }
        assert!(cache.look(id(9)).unwrap().is_none(), "nothing is here of it");
        assert_eq!(cache.due(std::time::UNIX_EPOCH, 9).count, 0);
        assert_eq!(cache.due(soon(), 9).contents, [id(3), id(1), id(2)]);
        assert_eq!(cache.due(soon(), 2).contents, [id(3), id(1)]);
        let looked = cache.look(id(3)).unwrap().unwrap();
        assert_eq!((looked.len(), looked.verify(0..LEN).unwrap().bytes), (LEN, LEN));
        drop(looked);
        cache.looked_at(id(3), None);
        cache.looked_at(id(1), Some(5 * G));
        assert_eq!(cache.due(soon(), 9).contents, [id(1), id(2), id(3)]);
        let order: Vec<_> = cache.contents().into_iter().map(|(id, _)| id).collect();
        assert_eq!(order, [id(3), id(1), id(2)], "the order of use is as it was");
        cache.close().unwrap();
    }
    let cache = open(dir.path());
    assert_eq!(cache.looking(), Some((id(1), 5 * G)));
    let due = cache.due(soon(), 9);
    assert_eq!((due.contents, due.bytes), (vec![id(1), id(2), id(3)], 3 * LEN));
    // Who comes for the bytes while it is looked at uses it.
    let looked = cache.look(id(3)).unwrap().unwrap();
    drop(cache.content(id(3), LEN).unwrap());
    drop(looked);
    assert_eq!(cache.contents().last().unwrap().0, id(3));
}
