//! What a writable drive is asked beyond bytes and names: special nodes, space, privileges, patience.

use std::fs;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, fallocate, makedev, mknodat};
use rustix::io::Errno;

use crate::memfs::{SLOW, TOO_LARGE};
use crate::rig::{NOBODY, errno, eventually, is_root, with_mount};

#[test]
fn pipes_and_sockets_work_and_plain_nodes_are_made() {
    with_mount("", |rig| {
        let make = |name: &str, kind| mknodat(CWD, rig.path(name), kind, Mode::RUSR | Mode::WUSR, 0);
        make("rw/plain", FileType::RegularFile).expect("made");
        assert_eq!(rig.ask("handles"), "0", "mknod leaves nothing open");
        assert!(fs::metadata(rig.path("rw/plain")).expect("found").is_file());

        let pipe = rig.path("rw/pipe");
        make("rw/pipe", FileType::Fifo).expect("made");
        let meta = fs::metadata(&pipe).expect("found");
        assert!(meta.file_type().is_fifo() && meta.rdev() == 0);
        std::thread::scope(|scope| {
            scope.spawn(|| fs::write(&pipe, "through").expect("written"));
            assert_eq!(fs::read(&pipe).expect("read"), b"through");
        });

        let listening = UnixListener::bind(rig.path("rw/socket")).expect("bound");
        let mut stream = UnixStream::connect(rig.path("rw/socket")).expect("connected");
        stream.write_all(b"hi").expect("sent");
        drop(stream);
        let mut said = String::new();
        let (mut accepted, _) = listening.accept().expect("accepted");
        accepted.read_to_string(&mut said).expect("received");
        assert_eq!(said, "hi");

        let mut kinds: Vec<_> = fs::read_dir(rig.path("rw"))
            .expect("listed")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name(), entry.file_type().expect("listed")))
            .collect();
        kinds.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(kinds[0].1.is_fifo() && kinds[1].1.is_file() && kinds[2].1.is_socket());
        assert_eq!(rig.calls("open"), 0, "pipes and sockets are the kernel's to open");
    });
}

#[test]
fn device_nodes_show_their_device_and_open_nothing() {
    if !is_root() {
        return;
    }
    with_mount("", |rig| {
        let null = makedev(1, 3);
        let large = makedev(259, 70_000);
        for (name, kind, device) in [
            ("rw/char", FileType::CharacterDevice, null),
            ("rw/block", FileType::BlockDevice, large),
        ] {
            let path = rig.path(name);
            mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, device).expect("made");
            let meta = fs::metadata(&path).expect("found");
            assert_eq!(FileType::from_raw_mode(meta.mode()), kind);
            assert_eq!(meta.rdev(), device);
            let refused = errno(fs::File::open(&path));
            assert_eq!(refused, Errno::ACCESS.raw_os_error(), "mounted without devices");
        }
    });
}

#[test]
fn space_is_set_aside_and_given_back() {
    with_mount("", |rig| {
        let path = rig.path("rw/file");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("made");
        file.write_all(&[7; 10]).expect("written");
        let len = || fs::metadata(&path).expect("found").len();
        let zeros = |file: &fs::File| {
            let mut data = vec![9; usize::try_from(len()).expect("small")];
            std::os::unix::fs::FileExt::read_exact_at(file, &mut data, 0).expect("read");
            data.iter().filter(|byte| **byte == 0).count()
        };
        let keep = FallocateFlags::KEEP_SIZE;
        fallocate(&file, keep, 0, 100).expect("set aside");
        assert_eq!((len(), zeros(&file)), (10, 0));
        fallocate(&file, FallocateFlags::empty(), 5, 15).expect("extended");
        assert_eq!((len(), zeros(&file)), (20, 10));
        fallocate(&file, keep | FallocateFlags::PUNCH_HOLE, 2, 3).expect("punched");
        assert_eq!((len(), zeros(&file)), (20, 13), "what the kernel cached of it is gone");
        fallocate(&file, keep | FallocateFlags::ZERO_RANGE, 8, 100).expect("zeroed");
        assert_eq!((len(), zeros(&file)), (20, 15));
        fallocate(&file, FallocateFlags::ZERO_RANGE, 9, 21).expect("zeroed and extended");
        assert_eq!((len(), zeros(&file)), (30, 25));

        let asked = rig.calls("fallocate");
        assert_eq!(asked, 5);
        let refused = |flags, at, len| fallocate(&file, flags, at, len);
        let collapse = FallocateFlags::COLLAPSE_RANGE;
        assert_eq!(refused(collapse, 0, 4096), Err(Errno::OPNOTSUPP));
        assert_eq!(refused(FallocateFlags::empty(), 0, 0), Err(Errno::INVAL));
        assert_eq!(refused(FallocateFlags::empty(), u64::MAX >> 1, 1), Err(Errno::FBIG));
        assert_eq!(rig.calls("fallocate"), asked, "the drive is not asked for nonsense");
        assert_eq!(refused(FallocateFlags::empty(), TOO_LARGE, 1), Err(Errno::FBIG));
        fallocate(&file, keep, 0, 1).expect("still asked for");
    });
}

#[test]
fn a_folder_is_synced_each_time() {
    with_mount("", |rig| {
        let folder = fs::File::open(rig.path("rw")).expect("opened");
        for times in 1..=3 {
            folder.sync_all().expect("synced");
            assert_eq!(rig.calls("fsyncdir"), times);
        }
    });
}

#[test]
fn set_id_bits_last_until_somebody_else_changes_the_file() {
    if !is_root() {
        return;
    }
    with_mount("allow_other=true", |rig| {
        let path = rig.path("rw/tool");
        let mode = || fs::metadata(&path).expect("found").mode() & 0o7777;
        let reset = || {
            fs::write(&path, "before").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("changed");
            assert_eq!(mode(), 0o6777);
        };
        reset();
        fs::write(&path, "by root").expect("written");
        assert_eq!(mode(), 0o6777, "root may keep them");
        for change in [
            "printf x >> \"$0\"",
            ": > \"$0\"",
            "truncate -s 3 \"$0\"",
            "fallocate -l 100 \"$0\"",
        ] {
            reset();
            nobody_runs(change, &path);
            assert_eq!(mode(), 0o777, "{change}");
        }
        reset();
        std::os::unix::fs::chown(&path, Some(NOBODY), None).expect("given away");
        assert_eq!(mode(), 0o777, "they were given to another owner's program");
    });
}

fn nobody_runs(script: &str, path: &Path) {
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(path)
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .expect("started");
    assert!(status.success(), "{script}");
}

#[test]
fn what_is_written_through_a_mapping_arrives_before_the_release() {
    with_mount("", |rig| {
        let path = rig.path("rw/mapped");
        fs::write(&path, [1; 8192]).expect("written");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
        map_and_write(file, 5000, 2);
        eventually("release", || rig.ask("handles") == "0");
        let mut arrived = Vec::new();
        // Past the page cache.
        OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
            .open(&path)
            .and_then(|mut file| file.read_to_end(&mut arrived))
            .expect("read");
        assert_eq!((arrived.len(), arrived[4999], arrived[5000]), (8192, 1, 2));
    });
}

/// Writes a byte through a shared mapping that outlives its file's handle.
#[expect(unsafe_code, reason = "mapping a file")]
fn map_and_write(file: fs::File, at: usize, byte: u8) {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of 8192 bytes of a file that long, written to within them and gone before anybody looks.
    unsafe {
        let mapping = mmap(std::ptr::null_mut(), 8192, prot, MapFlags::SHARED, &file, 0).expect("mapped");
        drop(file);
        mapping.cast::<u8>().add(at).write_volatile(byte);
        munmap(mapping, 8192).expect("unmapped");
    }
}

#[test]
fn a_write_may_take_longer_than_a_look_but_not_forever() {
    let patient = Duration::from_secs(2);
    with_mount("deadline_ms=100\npatient_ms=2000", move |rig| {
        let write = |name: &str| {
            let mut file = OpenOptions::new().write(true).open(rig.path(name)).expect("opened");
            file.write_all(b"late")
        };
        let eio = Errno::IO.raw_os_error();
        let started = Instant::now();
        write("slow-a").expect("waited for");
        assert!(started.elapsed() >= SLOW);
        assert_eq!(rig.ask("counters"), "0 0");
        assert_eq!(errno(fs::read(rig.path("slow-b"))), eio, "a read is given up sooner");

        let started = Instant::now();
        assert_eq!(errno(write("stuck")), eio);
        assert!(started.elapsed() >= patient, "it was waited for");
        assert_eq!(fs::read(rig.path("hello")).expect("served on"), b"hello world\n");
    });
}
