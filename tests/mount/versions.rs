//! `docs/semantics.md`: *a file that changes while it is open*. Versions are made of one letter each, so that a mixture of
//! two shows in any read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::common::drive::{Builder, DEADLINE, SOON, drive_test, eventually, say, within};
use crate::common::tree::Random;

const MIB: usize = 1 << 20;
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Writes a version and renames it over the last one.
fn put(path: &Path, letter: u8, len: usize) {
    let temp = path.with_extension("saving");
    fs::write(&temp, vec![letter; len]).unwrap();
    fs::rename(temp, path).unwrap();
}

/// The letter that all bytes are, if they are.
fn letter(bytes: &[u8]) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.iter().all(|b| *b == first).then_some(first)
}

fn is_stale(e: &std::io::Error) -> bool {
    e.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

#[test]
fn a_handle_that_gave_out_bytes_never_gives_out_another_versions() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        put(&site.path().join("plate"), b'A', 40 * MIB);
        let drive = Builder::local(site.path()).build().mounted();
        let file = File::open(drive.path("plate")).unwrap();
        let mut buffer = vec![0; 64 << 10];
        file.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(letter(&buffer), Some(b'A'));
        put(&site.path().join("plate"), b'B', 40 * MIB);
        let mut stale = 0;
        for at in (0..40 * MIB as u64).step_by(MIB) {
            match file.read_exact_at(&mut buffer, at) {
                Ok(()) => assert_eq!(letter(&buffer), Some(b'A'), "at {at}"),
                Err(e) => {
                    assert!(is_stale(&e), "at {at}: {e}");
                    stale += 1;
                }
            }
        }
        assert!(stale > 0, "the change was met");
        let path = drive.path("plate");
        let again = within(SOON, "reading the new version", move || fs::read(path).unwrap());
        assert_eq!(
            (again.len(), letter(&again)),
            (40 * MIB, Some(b'B')),
            "opened again it is the new version, whole"
        );
        let error = file
            .read_exact_at(&mut buffer, 20 * MIB as u64)
            .expect_err("the old handle is stale for good");
        assert!(is_stale(&error), "{error}");
    });
}

#[test]
fn a_handle_that_gave_out_nothing_takes_up_the_new_version() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        put(&site.path().join("plate"), b'A', 40 * MIB);
        // With this much delay nothing of the old version arrives before the new one is there.
        let drive = Builder::local(site.path())
            .site("link-delay", "400ms")
            .set("hydration.read-deadline", "10s")
            .build()
            .mounted();
        let mut file = File::open(drive.path("plate")).unwrap();
        put(&site.path().join("plate"), b'B', 40 * MIB);
        let mut first = vec![0; 64 << 10];
        file.read_exact_at(&mut first, 20 * MIB as u64).unwrap();
        assert_eq!(letter(&first), Some(b'B'));
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        assert_eq!((all.len(), letter(&all)), (40 * MIB, Some(b'B')));
    });
}

#[test]
fn a_handle_never_takes_up_a_version_of_another_length() {
    drive_test(|| {
        for len in [39 * MIB, 41 * MIB] {
            let site = tempfile::tempdir().unwrap();
            put(&site.path().join("plate"), b'A', 40 * MIB);
            let drive = Builder::local(site.path())
                .site("link-delay", "400ms")
                .set("hydration.read-deadline", "10s")
                .build()
                .mounted();
            let file = File::open(drive.path("plate")).unwrap();
            // What programs do: they ask how long it is, and then read that much.
            assert_eq!(file.metadata().unwrap().len(), 40 * MIB as u64);
            put(&site.path().join("plate"), b'B', len);
            let mut buffer = vec![0; MIB];
            let error = file
                .read_exact_at(&mut buffer, 20 * MIB as u64)
                .expect_err("it was asked for by its length");
            assert!(is_stale(&error), "{error}");
            let path = drive.path("plate");
            eventually("opened again it is the new version", || {
                fs::read(&path).is_ok_and(|b| b.len() == len && letter(&b) == Some(b'B'))
            });
        }
    });
}

#[test]
fn an_old_handle_does_not_end_where_the_new_version_does() {
    drive_test(|| {
        for len in [10 * MIB, 50 * MIB] {
            let site = tempfile::tempdir().unwrap();
            put(&site.path().join("plate"), b'A', 40 * MIB);
            let drive = Builder::local(site.path()).build().mounted();
            let path = drive.path("plate");
            let old = File::open(&path).unwrap();
            let mut buffer = vec![0; MIB];
            old.read_exact_at(&mut buffer, 9 * MIB as u64).unwrap();
            put(&site.path().join("plate"), b'B', len);
            // Somebody else opens it and reads it whole: now the kernel knows the new length.
            eventually("the new version", || {
                fs::read(&path).is_ok_and(|b| b.len() == len && letter(&b) == Some(b'B'))
            });
            for at in [9, 15, 39, 40, 45] {
                match old.read_at(&mut buffer, at * MIB as u64) {
                    // Beyond both ends there is nothing to be had in any version.
                    Ok(0) => assert!(at >= 40, "an end at {at} MiB that is none, with {len} bytes now"),
                    Ok(n) => assert_eq!(letter(&buffer[..n]), Some(b'A'), "at {at} MiB"),
                    Err(e) => assert!(is_stale(&e), "at {at} MiB: {e}"),
                }
            }
        }
    });
}

#[test]
fn a_file_cut_short_while_it_is_read_never_reads_as_if_it_were_whole() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let there = site.path().join("plate");
        put(&there, b'A', 32 * MIB);
        let drive = Builder::local(site.path()).site("link-rate", "20MB").build().mounted();
        let mut file = File::open(drive.path("plate")).unwrap();
        let mut head = vec![0; 4 * MIB];
        file.read_exact(&mut head).unwrap();
        assert_eq!(letter(&head), Some(b'A'));
        // In place: the same file of the site loses its tail while its middle is on its way.
        File::options()
            .write(true)
            .open(&there)
            .unwrap()
            .set_len(5 * MIB as u64)
            .unwrap();
        let (rest, error) = within(SOON, "reading on", move || {
            let mut rest = Vec::new();
            let error = file.read_to_end(&mut rest).err();
            (rest, error)
        });
        assert!(rest.is_empty() || letter(&rest) == Some(b'A'), "no byte is made up");
        let error = error.unwrap_or_else(|| panic!("{} bytes, and then an end that is none", head.len() + rest.len()));
        assert!(is_stale(&error), "{error}");
        let path = drive.path("plate");
        eventually("the short version shows", || {
            fs::read(&path).is_ok_and(|b| b.len() == 5 * MIB && letter(&b) == Some(b'A'))
        });
    });
}

#[test]
fn a_file_removed_at_the_site_while_it_is_open_answers_estale() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        put(&site.path().join("plate"), b'A', 40 * MIB);
        let drive = Builder::local(site.path()).build().mounted();
        let file = File::open(drive.path("plate")).unwrap();
        let mut buffer = vec![0; 4096];
        file.read_exact_at(&mut buffer, 0).unwrap();
        fs::remove_file(site.path().join("plate")).unwrap();
        let error = within(SOON, "reading on", move || {
            file.read_exact_at(&mut buffer, 30 * MIB as u64)
                .expect_err("it is gone")
        });
        assert!(is_stale(&error), "{error}");
        eventually("it is gone here too", || fs::metadata(drive.path("plate")).is_err());
    });
}

/// The length that goes with a letter, so that a version cut or padded to another one's length shows.
fn length_of(letter: u8) -> usize {
    2 * MIB + usize::from(letter - b'A') * 50_001
}

#[test]
fn readers_of_a_file_that_is_replaced_again_and_again_get_one_version_or_an_error() {
    const LASTS: Duration = Duration::from_secs(6);
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let there = site.path().join("plate");
        put(&there, b'A', length_of(b'A'));
        let drive = Builder::local(site.path())
            .set("scan.recheck-after", "50ms")
            .build()
            .mounted();
        let stop = Arc::new(AtomicBool::new(false));
        let (whole, stale) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (path, stop, whole, stale) = (drive.path("plate"), stop.clone(), whole.clone(), stale.clone());
                thread::spawn(move || {
                    let mut seen = std::collections::BTreeSet::new();
                    while !stop.load(Ordering::Relaxed) {
                        match fs::read(&path) {
                            Ok(bytes) => {
                                let letter =
                                    letter(&bytes).unwrap_or_else(|| panic!("two versions in {} bytes", bytes.len()));
                                assert_eq!(
                                    bytes.len(),
                                    length_of(letter),
                                    "version {} has another length",
                                    char::from(letter)
                                );
                                seen.insert(letter);
                                whole.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) if is_stale(&e) => {
                                stale.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => panic!("{e}"),
                        }
                    }
                    seen.len()
                })
            })
            .collect();
        let mut random = Random::new(17);
        let begun = Instant::now();
        let mut replaced = 0;
        while begun.elapsed() < LASTS && readers.iter().all(|r| !r.is_finished()) {
            thread::park_timeout(Duration::from_millis(random.below(200)));
            let letter = LETTERS[replaced % LETTERS.len()];
            put(&there, letter, length_of(letter));
            replaced += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let versions: Vec<usize> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        let (whole, stale) = (whole.load(Ordering::Relaxed), stale.load(Ordering::Relaxed));
        say(&format!(
            "{replaced} versions: {whole} whole reads, {stale} that were told to open again"
        ));
        assert!(versions.iter().any(|v| *v > 3), "the changes were seen: {versions:?}");
        assert!(whole > 10);
        let last = LETTERS[(replaced - 1) % LETTERS.len()];
        eventually("the last version shows", || {
            fs::read(drive.path("plate")).is_ok_and(|b| letter(&b) == Some(last))
        });
        assert!(DEADLINE < LASTS, "long enough for a hang to show");
    });
}
