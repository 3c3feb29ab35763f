//! `docs/semantics.md`: *open*, *read*.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::io::Errno;

use crate::common::drive::{Builder, DEADLINE, SOON, drive_test, eventually, say, within};
use crate::common::tree::{self, Random};

const GRANULE: u64 = 64 << 10;

/// Reads a whole file past the kernel's pages.
pub(crate) fn read_past_pages(path: &Path) -> std::io::Result<Vec<u8>> {
    rustix::fs::fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
    fs::read(path)
}

#[test]
fn any_range_reads_right_and_ends_at_the_end() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let len = 10 * GRANULE + 777;
        tree::write(&site.path().join("plate"), 1, len);
        tree::write(&site.path().join("empty"), 1, 0);
        let drive = Builder::local(site.path())
            .set("hydration.small-file", "0B")
            .build()
            .mounted();
        assert_eq!(fs::read(drive.path("empty")).unwrap(), b"");
        let file = File::open(drive.path("plate")).unwrap();
        let mut random = Random::new(5);
        let mut ranges = vec![
            (0, 1),
            (GRANULE - 1, 2),
            (GRANULE, GRANULE),
            (3 * GRANULE - 4096, 8192),
            (len - 1, 1),
            (len - 1, 100),
            (len, 10),
            (len + 5000, 10),
        ];
        ranges.extend((0..200).map(|_| (random.below(len + 1000), random.below(3 * GRANULE) + 1)));
        for (at, want) in ranges {
            let mut buffer = vec![0xaa; usize::try_from(want).unwrap()];
            let mut got = 0;
            loop {
                match file.read_at(&mut buffer[got..], at + got as u64).unwrap() {
                    0 => break,
                    n => got += n,
                }
            }
            let expected = len.saturating_sub(at).min(want);
            assert_eq!(got as u64, expected, "read of {want} at {at}");
            assert_eq!(tree::first_wrong(1, at, &buffer[..got]), None, "read of {want} at {at}");
        }
    });
}

#[test]
fn a_small_file_is_one_request() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("small"), 1, 900_000);
        let drive = Builder::local(site.path()).build().mounted();
        assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path("small")).unwrap()), None);
        assert_eq!((drive.counter("fetches"), drive.fetched()), (1, 900_000));
        assert_eq!(drive.ls("show/small")[0]["state"], "cached");
    });
}

#[test]
fn bytes_beyond_4_gib_are_where_they_belong() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let at = (5 << 30) + 12_345;
        let mut file = File::create(site.path().join("volume.vdb")).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&tree::bytes(4, at, 100_000)).unwrap();
        drop(file);
        let drive = Builder::local(site.path()).build().mounted();
        let mut read = vec![0; 100_000];
        File::open(drive.path("volume.vdb"))
            .unwrap()
            .read_exact_at(&mut read, at)
            .unwrap();
        assert_eq!(tree::first_wrong(4, at, &read), None);
    });
}

#[test]
fn readers_of_one_cold_file_share_its_fetches() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let len = 24 << 20;
        tree::write(&site.path().join("plate"), 1, len);
        // Slow enough that all of them wait for the same bytes.
        let drive = Builder::local(site.path())
            .site("link-delay", "5ms")
            .site("link-rate", "60MB")
            .build()
            .mounted();
        let readers: Vec<_> = (0..6)
            .map(|_| {
                let path = drive.path("plate");
                thread::spawn(move || tree::first_wrong(1, 0, &fs::read(path).unwrap()))
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), None);
        }
        let fetched = drive.fetched();
        assert!(
            fetched >= len && fetched <= len + len / 20,
            "{fetched} bytes were fetched for {len}"
        );
    });
}

#[test]
fn random_readers_fetch_little_more_than_they_ask_for() {
    const LEN: u64 = 1 << 30;
    const READ: u64 = 64 << 10;
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        File::create(site.path().join("big")).unwrap().set_len(LEN).unwrap();
        let drive = Builder::local(site.path()).build().mounted();
        let file = File::open(drive.path("big")).unwrap();
        let mut random = Random::new(11);
        let mut buffer = vec![1; usize::try_from(READ).unwrap()];
        for _ in 0..100 {
            file.read_exact_at(&mut buffer, random.below(LEN - READ)).unwrap();
            assert!(buffer.iter().all(|b| *b == 0));
        }
        let factor = drive.fetched() as f64 / (100 * READ) as f64;
        say(&format!(
            "100 random reads of 64 KiB of a cold file of 1 GiB fetched {factor:.2} times what was asked for"
        ));
        assert!((1.0..=8.0).contains(&factor), "{factor}");
    });
}

#[test]
fn what_is_cached_opens_and_reads_without_the_site_and_what_is_not_fails_soon() {
    drive_test(|| {
        let parent = tempfile::tempdir().unwrap();
        let (root, away) = (parent.path().join("root"), parent.path().join("away"));
        tree::write(&root.join("cached"), 1, 3 << 20);
        tree::write(&root.join("cold"), 2, 3 << 20);
        let mut drive = Builder::local(&root).build().mounted();
        assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path("cached")).unwrap()), None);
        drive.unmount();
        fs::rename(&root, &away).unwrap();
        // A kernel that has seen nothing of it, a daemon that never reached the site.
        drive.mount();
        let (cached, cold) = (drive.path("cached"), drive.path("cold"));
        let read = within(SOON, "reading what is cached", move || fs::read(cached).unwrap());
        assert_eq!((read.len(), tree::first_wrong(1, 0, &read)), (3 << 20, None));
        assert_eq!(drive.fetched(), 0, "all of it came from the cache");
        let begun = Instant::now();
        let path = cold.clone();
        let error = within(SOON, "failing to read", move || {
            fs::read(path).expect_err("nothing can serve it")
        });
        let took = begun.elapsed();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert!(took < DEADLINE + Duration::from_secs(1), "{took:?}");
        eventually("the link is known to be down", || drive.link() == "down");
        let begun = Instant::now();
        let path = cold.clone();
        within(SOON, "failing again", move || {
            fs::read(path).expect_err("nothing can serve it")
        });
        let again = begun.elapsed();
        assert!(
            again < Duration::from_millis(500),
            "the site is known to be down: {again:?}"
        );
        say(&format!(
            "with the site gone an uncached read failed after {took:.1?}, the next one after {again:.1?}"
        ));
        fs::rename(&away, &root).unwrap();
        eventually("reads work again", || {
            fs::read(&cold).is_ok_and(|b| tree::first_wrong(2, 0, &b).is_none())
        });
    });
}

#[test]
fn opening_for_writing_in_a_readonly_zone_is_erofs_and_a_folder_is_no_file() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a/b"), 1, 10);
        let drive = Builder::local(site.path())
            .zones(&[("**", "readonly")])
            .build()
            .mounted();
        let rofs = Some(Errno::ROFS.raw_os_error());
        let mut ways = [
            OpenOptions::new(),
            OpenOptions::new(),
            OpenOptions::new(),
            OpenOptions::new(),
        ];
        ways[0].write(true);
        ways[1].read(true).write(true);
        ways[2].append(true);
        ways[3].write(true).truncate(true);
        for how in ways {
            assert_eq!(how.open(drive.path("a/b")).unwrap_err().raw_os_error(), rofs, "{how:?}");
        }
        assert_eq!(
            fs::read(drive.path("a")).unwrap_err().raw_os_error(),
            Some(Errno::ISDIR.raw_os_error())
        );
    });
}

#[test]
fn many_open_files_at_once_read_right() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..600).map(|i| PathBuf::from(format!("f{i}"))).collect();
        for (i, path) in paths.iter().enumerate() {
            tree::write(&site.path().join(path), i as u64, 3000);
        }
        let drive = Builder::local(site.path()).build().mounted();
        let open: Vec<File> = paths.iter().map(|p| File::open(drive.path(p)).unwrap()).collect();
        assert_eq!(drive.counter("open_handles"), 600);
        for (i, file) in open.iter().enumerate() {
            let mut read = [0; 3000];
            file.read_exact_at(&mut read, 0).unwrap();
            assert_eq!(tree::first_wrong(i as u64, 0, &read), None);
        }
        drop(open);
        eventually("the handles are given back", || drive.counter("open_handles") == 0);
    });
}
