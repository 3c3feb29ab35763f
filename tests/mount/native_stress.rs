//! `docs/semantics.md`: *reads past the daemon*, by many at once.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::common::drive::{Builder, Drive, drive_test, eventually, say};
use crate::common::tree::Random;
use crate::native::{
    Holder, LEN, MIB, Mapped, all_are, all_closed, bring, counters, is_native, letter, put, truncate, with_plate,
};

/// The length that goes with a letter.
fn length_of(letter: u8) -> usize {
    MIB + usize::from(letter - b'A') * 50_001
}

/// Reads one way or the other.
fn read_somehow(path: &Path, how: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    if how == 0 {
        file.read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    bytes.resize(usize::try_from(file.metadata()?.len()).unwrap(), 0);
    for at in (0..bytes.len()).step_by(MIB / 4).rev() {
        let end = (at + MIB / 4).min(bytes.len());
        file.read_exact_at(&mut bytes[at..end], at as u64)?;
    }
    Ok(bytes)
}

#[test]
fn readers_of_files_that_are_replaced_here_and_there_see_whole_versions() {
    const FILES: u64 = 3;
    const LASTS: Duration = Duration::from_secs(15);
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        for n in 0..FILES {
            put(&site.path().join(format!("site-{n}")), b'A', length_of(b'A'));
            put(&site.path().join(format!("here-{n}")), b'A', length_of(b'A'));
        }
        let drive = Builder::local(site.path())
            .set("scan.recheck-after", "50ms")
            .zones(&[("**", "publish")])
            .build()
            .mounted();
        if !is_native(&drive) {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (whole, stale) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reader = |seed: u64| {
            let (drive, stop) = (drive.project(), Arc::clone(&stop));
            let (whole, stale) = (Arc::clone(&whole), Arc::clone(&stale));
            move || {
                let mut random = Random::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let kind = ["site", "here"][usize::try_from(random.below(2)).unwrap()];
                    let path = drive.join(format!("{kind}-{}", random.below(FILES)));
                    match read_somehow(&path, random.below(2)) {
                        Ok(bytes) => {
                            let shown = path.display();
                            let found = letter(&bytes).unwrap_or_else(|| panic!("{shown}: two versions"));
                            assert_eq!(bytes.len(), length_of(found), "{shown}, {}", char::from(found));
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        // A handle through the daemon, whose version went.
                        Err(e) if e.raw_os_error() == Some(Errno::STALE.raw_os_error()) => {
                            stale.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => panic!("{}: {e}", path.display()),
                    }
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|n| thread::spawn(reader(n))).collect();
        let mut random = Random::new(7);
        let (begun, mut changes) = (Instant::now(), 0);
        while begun.elapsed() < LASTS && threads.iter().all(|t| !t.is_finished()) {
            let letter = b'A' + u8::try_from(random.below(26)).unwrap();
            let n = random.below(FILES);
            if random.below(2) == 0 {
                put(&site.path().join(format!("site-{n}")), letter, length_of(letter));
            } else {
                put(&drive.path(format!("here-{n}")), letter, length_of(letter));
            }
            changes += 1;
            thread::park_timeout(Duration::from_millis(random.below(300)));
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let now = counters(&drive);
        let (whole, stale) = (whole.load(Ordering::Relaxed), stale.load(Ordering::Relaxed));
        say(&format!(
            "{changes} changes: {whole} whole reads, {stale} told to open again, {now:?}"
        ));
        assert!(whole > 20 && now.opens > 10 && changes > 20);
        all_closed(&drive);
    });
}

/// Changes `plate` one way or another; returns its new bytes.
fn change_somehow(random: &mut Random, drive: &Drive, site: &Path, was: u8) -> (usize, u8) {
    let (path, new) = (drive.path("plate"), b'A' + u8::try_from(random.below(26)).unwrap());
    let len = length_of(new);
    let bytes = vec![new; len];
    match random.below(5) {
        0 => fs::write(&path, bytes).unwrap(),
        1 => put(&path, new, len),
        2 => {
            let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut old = Vec::new();
            file.read_to_end(&mut old).unwrap();
            assert_eq!(letter(&old), Some(was));
            file.write_all_at(&bytes, 0).unwrap();
            file.set_len(len as u64).unwrap();
        }
        3 => {
            truncate(&path, i64::try_from(MIB / 2).unwrap());
            return (MIB / 2, was);
        }
        _ => {
            put(&site.join("plate"), new, len);
            drive.scan();
        }
    }
    (len, new)
}

#[test]
fn native_readers_of_many_pasts_of_one_file_each_keep_their_own() {
    const ROUNDS: usize = 8;
    drive_test(|| {
        let Some((site, drive)) = with_plate(|b| b.zones(&[("**", "publish")])) else {
            return;
        };
        let stop = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(AtomicUsize::new(0));
        let mut random = Random::new(11);
        let mut is = (LEN, b'A');
        let mut holders = Vec::new();
        for _ in 0..ROUNDS {
            let holder = Holder::of(&drive, "plate", is.1);
            assert_eq!(holder.mapped.bytes().len(), is.0);
            let (stop, looks) = (Arc::clone(&stop), Arc::clone(&looks));
            holders.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    holder.check();
                    looks.fetch_add(1, Ordering::Relaxed);
                    thread::park_timeout(Duration::from_millis(20));
                }
            }));
            is = change_somehow(&mut random, &drive, site.path(), is.1);
            let now = fs::read(drive.path("plate")).unwrap();
            assert_eq!((now.len(), letter(&now)), (is.0, Some(is.1)));
            eventually("it is at the site", || {
                fs::read(site.path().join("plate")).is_ok_and(|bytes| bytes == now)
            });
        }
        stop.store(true, Ordering::Relaxed);
        holders.into_iter().for_each(|t| t.join().unwrap());
        assert!(looks.load(Ordering::Relaxed) > ROUNDS);
        all_closed(&drive);
    });
}

/// One use of a file that changes none of its bytes.
fn use_somehow(random: &mut Random, path: &Path, second: &Path, was: u8) {
    match random.below(10) {
        0..3 => assert!(all_are(&fs::read(path).unwrap(), was), "read"),
        3 => {
            let file = File::open(path).unwrap();
            let mapped = Mapped::of(&file);
            drop(file);
            assert!(all_are(mapped.bytes(), was), "mapped");
        }
        4 => {
            let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut bytes = vec![0; 5000];
            file.read_exact(&mut bytes).unwrap();
            assert!(all_are(&bytes, was), "open for writing");
        }
        5 => {
            let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
            let mut file = OpenOptions::new().read(true).custom_flags(direct).open(path).unwrap();
            let mut bytes = vec![0; 777];
            file.read_exact(&mut bytes).unwrap();
            assert!(all_are(&bytes, was), "read past all caches");
        }
        6 => drop(OpenOptions::new().append(true).create(true).open(path).unwrap()),
        7 => fs::set_permissions(
            path,
            fs::Permissions::from_mode(0o600 + u32::try_from(random.below(64)).unwrap()),
        )
        .unwrap(),
        8 => match fs::hard_link(path, second) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => match fs::remove_file(second) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.unwrap(),
            },
            linked => linked.unwrap(),
        },
        _ => assert_eq!(fs::metadata(path).unwrap().len(), length_of(was) as u64),
    }
}

#[test]
fn uses_of_all_kinds_at_once_never_fail() {
    const FILES: u64 = 24;
    const LASTS: Duration = Duration::from_secs(15);
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let letter_of = |n: u64| b'A' + u8::try_from(n).unwrap();
        for n in 0..FILES {
            put(
                &site.path().join(format!("file-{n}")),
                letter_of(n),
                length_of(letter_of(n)),
            );
        }
        let drive = Builder::local(site.path()).build().mounted();
        if !is_native(&drive) {
            return;
        }
        for n in 0..FILES {
            bring(&drive, &format!("file-{n}"));
        }
        let numbers: Vec<_> = (0..FILES)
            .map(|n| fs::metadata(drive.path(format!("file-{n}"))).unwrap().ino())
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let uses = Arc::new(AtomicUsize::new(0));
        let user = |seed: u64| {
            let (project, stop, uses) = (drive.project(), Arc::clone(&stop), Arc::clone(&uses));
            thread::spawn(move || {
                let mut random = Random::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let n = random.below(FILES);
                    let (path, second) = (
                        project.join(format!("file-{n}")),
                        project.join(format!("second-{n}-{seed}")),
                    );
                    use_somehow(&mut random, &path, &second, b'A' + u8::try_from(n).unwrap());
                    uses.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let begun = Instant::now();
        let users: Vec<_> = (0..6).map(user).collect();
        while begun.elapsed() < LASTS && users.iter().all(|u| !u.is_finished()) {
            thread::park_timeout(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        users.into_iter().for_each(|u| u.join().unwrap());
        let now = counters(&drive);
        say(&format!("{} uses, {now:?}", uses.load(Ordering::Relaxed)));
        assert!(now.opens > 50, "many were native");
        for (n, number) in (0..FILES).zip(numbers) {
            assert_eq!(fs::metadata(drive.path(format!("file-{n}"))).unwrap().ino(), number);
        }
        all_closed(&drive);
    });
}
