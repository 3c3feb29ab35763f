//! `docs/semantics.md`: *reads and writes past the daemon*. Files of work folders, written by the kernel itself; the counters
//! of `status` say that the daemon had no part in it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::common::drive::{Builder, Drive, drive_test, eventually};
use crate::common::queue;
use crate::common::room::assert_room_to_write_natively;
use crate::native::{LEN, MIB, all_are, all_closed, is_native, letter};

const DRAIN: Duration = Duration::from_secs(30);

/// A drive on a site folder with a work and a publish folder; `None` where the kernel does not write by itself.
fn working() -> Option<(tempfile::TempDir, Drive)> {
    let site = tempfile::tempdir().unwrap();
    let drive = Builder::local(site.path())
        .set("publish.settle", "0ms")
        .set("scan.recheck-after", "24h")
        .build()
        .mounted();
    if !is_native(&drive) {
        return None;
    }
    assert_room_to_write_natively();
    fs::create_dir_all(drive.path("work")).unwrap();
    fs::create_dir_all(drive.path("publish")).unwrap();
    Some((site, drive))
}

fn writes(drive: &Drive) -> u64 {
    drive.status_now()["native_reads"]["daemon_writes"].as_u64().unwrap()
}

fn is_being_written(drive: &Drive, path: &Path) -> bool {
    let name = path.file_name().unwrap();
    queue::ask(drive.data_dir(), |txn| txn.being_written())
        .iter()
        .any(|node| {
            queue::ask(drive.data_dir(), |txn| txn.names_of(node.ino))
                .iter()
                .any(|(_, of)| of.as_os_str() == name)
        })
}

fn reading_and_writing(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// A mapping that may be written.
struct Writable(*mut u8, usize);

impl Writable {
    #[expect(unsafe_code, reason = "mapping a file")]
    fn of(file: &File, len: usize) -> Self {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), len, flags, MapFlags::SHARED, file, 0) };
        Self(at.unwrap().cast(), len)
    }

    #[expect(unsafe_code, reason = "writing to a mapping")]
    fn set(&self, at: usize, byte: u8) {
        assert!(at < self.1);
        // SAFETY: it lies in the mapping, which lives as long as we do.
        unsafe { self.0.add(at).write_volatile(byte) }
    }
}

impl Drop for Writable {
    #[expect(unsafe_code, reason = "unmapping")]
    fn drop(&mut self) {
        // SAFETY: nobody has a pointer into it.
        unsafe { munmap(self.0.cast(), self.1) }.unwrap();
    }
}

#[test]
fn what_is_written_in_a_work_folder_does_not_pass_the_daemon() {
    drive_test(|| {
        let Some((_site, drive)) = working() else { return };
        let path = drive.path("work/cache.0001.vdb");
        let before = writes(&drive);
        let mut file = File::create(&path).unwrap();
        for step in 1..=4_u64 {
            file.write_all(&vec![b'A'; MIB]).unwrap();
            let (by_handle, by_name) = (file.metadata().unwrap(), fs::metadata(&path).unwrap());
            assert_eq!((by_handle.len(), by_name.len()), (step << 20, step << 20));
            let listed = fs::read_dir(path.parent().unwrap()).unwrap().next().unwrap().unwrap();
            assert_eq!(listed.metadata().unwrap().len(), step << 20);
            assert!(all_are(&fs::read(&path).unwrap(), b'A'), "whoever reads sees it");
        }
        assert!(is_being_written(&drive, &path), "its row says so");
        file.sync_all().unwrap();
        drop(file);
        all_closed(&drive);
        assert_eq!(writes(&drive), before, "no write reached the daemon");
        eventually("its row says what it is", || !is_being_written(&drive, &path));
        let size = fs::metadata(&path).unwrap().len();
        assert_eq!((size, letter(&fs::read(&path).unwrap())), (LEN as u64, Some(b'A')));

        let mut again = OpenOptions::new().append(true).open(&path).unwrap();
        again.write_all(b"BB").unwrap();
        assert_eq!(again.stream_position().unwrap(), LEN as u64 + 2);
        again.set_len(10).unwrap();
        again.write_all(b"CC").unwrap();
        drop(again);
        all_closed(&drive);
        assert_eq!(fs::read(&path).unwrap(), b"AAAAAAAAAACC");
        assert_eq!(writes(&drive), before);

        let published = drive.path("publish/plate.0001.exr");
        fs::write(&published, vec![b'P'; MIB]).unwrap();
        assert!(
            writes(&drive) > before,
            "what is published passes the daemon, which tells its sender"
        );
    });
}

#[test]
fn all_who_have_it_open_see_the_same_bytes() {
    drive_test(|| {
        let Some((_site, drive)) = working() else { return };
        let path = drive.path("work/shared");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(&vec![b'A'; LEN]).unwrap();
        let both = reading_and_writing(&path);
        let reader = File::open(&path).unwrap();
        let seen = |at: u64| {
            let mut byte = [0];
            reader.read_exact_at(&mut byte, at).unwrap();
            byte[0]
        };
        both.write_all_at(b"b", 5).unwrap();
        let mapped = Writable::of(&both, LEN);
        mapped.set(9000, b'm');
        writer.write_all_at(b"w", MIB as u64).unwrap();
        assert_eq!((seen(5), seen(9000), seen(MIB as u64)), (b'b', b'm', b'w'));
        // Neither of these can be handed over: they are answered by the daemon, from the same bytes.
        let sync = rustix::fs::OFlags::SYNC.bits().cast_signed();
        let sync = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(sync)
            .open(&path)
            .unwrap();
        let answered = writes(&drive);
        sync.write_all_at(b"s", 20).unwrap();
        assert_eq!(writes(&drive), answered + 1);
        both.write_all_at(b"B", 21).unwrap();
        let mut bytes = [0; 2];
        sync.read_exact_at(&mut bytes, 20).unwrap();
        assert_eq!((seen(20), &bytes), (b's', b"sB"));
        writer.set_len(3 * MIB as u64).unwrap();
        for file in [&writer, &both, &reader, &sync] {
            assert_eq!(file.metadata().unwrap().len(), 3 * MIB as u64);
        }
        drop((mapped, writer, both, reader, sync));
        all_closed(&drive);
        let bytes = fs::read(&path).unwrap();
        let found = (bytes.len(), bytes[5], bytes[9000], bytes[MIB], bytes[20], bytes[21]);
        assert_eq!(found, (3 * MIB, b'b', b'm', b'w', b's', b'B'));
    });
}

#[test]
fn locks_exclude_however_a_file_is_opened() {
    drive_test(|| {
        let Some((_site, drive)) = working() else { return };
        let path = drive.path("work/lock");
        let holder = File::create(&path).unwrap();
        flock(holder.as_fd(), FlockOperation::LockExclusive).unwrap();
        for other in [reading_and_writing(&path), File::open(&path).unwrap()] {
            let refused = flock(other.as_fd(), FlockOperation::NonBlockingLockExclusive);
            assert_eq!(refused, Err(rustix::io::Errno::AGAIN));
        }
        drop(holder);
        flock(
            reading_and_writing(&path).as_fd(),
            FlockOperation::NonBlockingLockExclusive,
        )
        .unwrap();
    });
}

#[test]
fn times_are_those_of_the_last_write_or_what_was_asked_for_after_it() {
    drive_test(|| {
        let Some((_site, drive)) = working() else { return };
        let (old, new) = (drive.path("work/old"), drive.path("work/new"));
        fs::write(&old, b"1").unwrap();
        let mut file = File::create(&new).unwrap();
        file.write_all(b"2").unwrap();
        let times = || {
            (
                fs::metadata(&old).unwrap().modified().unwrap(),
                fs::metadata(&new).unwrap().modified().unwrap(),
            )
        };
        assert!(times().1 >= times().0, "in the order of the writes: {:?}", times());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
        file.set_modified(long_ago).unwrap();
        assert_eq!(times().1, long_ago);
        let ctime = fs::metadata(&new).unwrap().ctime_nsec();
        file.write_all(b"3").unwrap();
        assert!(times().1 >= times().0 && fs::metadata(&new).unwrap().ctime_nsec() != ctime);
        file.set_modified(long_ago).unwrap();
        drop(file);
        assert_eq!(times().1, long_ago, "a close changes nothing");
        all_closed(&drive);
        eventually("its row says what it is", || !is_being_written(&drive, &new));
        assert_eq!(times().1, long_ago);
        drop(OpenOptions::new().write(true).open(&new).unwrap());
        all_closed(&drive);
        assert_eq!(times().1, long_ago, "nor does an open");
        assert_eq!(fs::read(&new).unwrap(), b"23");
    });
}

/// A file is written down some 50 ms after a close: who opens it again in just that moment, and writes, is not forgotten.
#[test]
fn what_is_written_down_late_hides_nothing_that_was_written_since() {
    drive_test(|| {
        let Some((_site, drive)) = working() else { return };
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let path = drive.path(format!("work/log-{thread}"));
                scope.spawn(move || {
                    let mut len = 0;
                    for round in 0..25_u64 {
                        let mut open = OpenOptions::new();
                        let mut file = open.append(true).create(true).open(&path).unwrap();
                        file.write_all(&[b'A'; 1000]).unwrap();
                        len += 1000;
                        std::thread::park_timeout(Duration::from_micros((thread * 997 + round * 613) % 9000));
                        assert_eq!(fs::metadata(&path).unwrap().len(), len, "while it is written");
                        assert_eq!(fs::read(&path).unwrap().len() as u64, len);
                        drop(file);
                        assert_eq!(fs::metadata(&path).unwrap().len(), len, "closed");
                        std::thread::park_timeout(Duration::from_millis(44 + (thread + round) % 12));
                        assert_eq!(fs::metadata(&path).unwrap().len(), len, "later");
                    }
                });
            }
        });
        all_closed(&drive);
        eventually("all rows say what the files are", || {
            queue::ask(drive.data_dir(), |txn| txn.being_written()).is_empty()
        });
        for thread in 0..8 {
            let bytes = fs::read(drive.path(format!("work/log-{thread}"))).unwrap();
            assert_eq!((bytes.len(), letter(&bytes)), (25_000, Some(b'A')));
        }
    });
}

#[test]
fn a_kill_while_it_is_written_loses_nothing_of_it() {
    drive_test(|| {
        let Some((_site, mut drive)) = working() else { return };
        let path = drive.path("work/sim.bgeo");
        let kept = drive.path("work/kept");
        fs::write(&kept, b"as it was").unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        OpenOptions::new()
            .write(true)
            .open(&kept)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        all_closed(&drive);
        let open = OpenOptions::new().write(true).open(&kept).unwrap();
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![b'A'; LEN]).unwrap();
        drive.kill9();
        drop((file, open));
        drive.mount();
        let size = fs::metadata(&path).unwrap().len();
        assert_eq!((size, letter(&fs::read(&path).unwrap())), (LEN as u64, Some(b'A')));
        assert_eq!(
            fs::metadata(&kept).unwrap().modified().unwrap(),
            long_ago,
            "it was not written"
        );
        assert_eq!(fs::read(&kept).unwrap(), b"as it was");
    });
}

#[test]
fn one_that_is_moved_into_a_publish_folder_while_it_is_written_is_sent_when_its_last_writer_is_gone() {
    drive_test(|| {
        let Some((site, drive)) = working() else { return };
        let (from, to) = (drive.path("work/shot.mov"), drive.path("publish/shot.mov"));
        let mut file = File::create(&from).unwrap();
        file.write_all(&vec![b'A'; MIB]).unwrap();
        fs::rename(&from, &to).unwrap();
        file.write_all(&vec![b'A'; MIB]).unwrap();
        // A close, as far as the drive can tell.
        drop(file.try_clone().unwrap());
        let at_site = site.path().join("publish/shot.mov");
        file.write_all(&vec![b'A'; 2 * MIB]).unwrap();
        std::thread::park_timeout(Duration::from_millis(500));
        assert!(!at_site.exists(), "its writer is still there");
        // Who comes now does not write past the daemon, and is seen by who does.
        let before = writes(&drive);
        let second = reading_and_writing(&to);
        second.write_all_at(b"A", LEN as u64).unwrap();
        assert!(writes(&drive) > before);
        assert_eq!(file.metadata().unwrap().len(), LEN as u64 + 1);
        drop(second);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"A").unwrap();
        let mut whole = Vec::new();
        File::open(&to).unwrap().read_to_end(&mut whole).unwrap();
        assert_eq!((whole.len(), letter(&whole)), (LEN + 2, Some(b'A')));
        drop(file);
        queue::drained(&drive, DRAIN);
        let sent = fs::read(&at_site).unwrap();
        assert_eq!((sent.len(), letter(&sent)), (LEN + 2, Some(b'A')));
        assert_eq!(fs::read(&to).unwrap(), sent);
    });
}

#[test]
fn what_is_written_through_a_mapping_after_it_was_published_is_kept() {
    drive_test(|| {
        let Some((site, drive)) = working() else { return };
        let (from, to) = (drive.path("work/grid"), drive.path("publish/grid"));
        let mut writer = File::create(&from).unwrap();
        writer.write_all(&vec![b'A'; LEN]).unwrap();
        let both = reading_and_writing(&from);
        let mapped = Writable::of(&both, LEN);
        drop((writer, both));
        all_closed(&drive);
        fs::rename(&from, &to).unwrap();
        queue::drained(&drive, DRAIN);
        assert!(all_are(&fs::read(site.path().join("publish/grid")).unwrap(), b'A'));
        mapped.set(7, b'm');
        drop(mapped);
        let mut bytes = fs::read(&to).unwrap();
        assert_eq!(bytes[7], b'm', "it is here");
        bytes[7] = b'A';
        assert!(bytes.len() == LEN && all_are(&bytes, b'A'));
    });
}
