//! What programs do with files: look-ups, reads, writes, links, attributes.

use std::ffi::OsString;
use std::fs;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::io::Errno;

use crate::memfs::{LONG_NAME, RAW_NAME, SLOW};
use crate::rig::{errno, eventually, list, with_mount};

#[test]
fn files_folders_and_links_are_what_they_are() {
    with_mount("", |rig| {
        let meta = fs::metadata(rig.path("hello")).expect("found");
        assert!(meta.is_file());
        assert_eq!(
            (meta.len(), meta.mode() & 0o7777, meta.nlink(), meta.blocks()),
            (12, 0o644, 1, 8)
        );
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
        assert!(fs::metadata(rig.path("names")).expect("found").is_dir());
        assert_eq!(fs::read(rig.path("hello")).expect("read"), b"hello world\n");
        assert_eq!(fs::read_link(rig.path("link")).expect("a link"), Path::new("hello"));
        assert_eq!(fs::read_to_string(rig.path("link")).expect("followed"), "hello world\n");
        assert_eq!(errno(fs::metadata(rig.path("missing"))), Errno::NOENT.raw_os_error());
    });
}

#[test]
fn any_name_of_up_to_255_bytes_works() {
    with_mount("", |rig| {
        let dir = rig.path("names");
        let mut expected = [
            OsString::from_vec(vec![b'n'; LONG_NAME]),
            OsString::from_vec(RAW_NAME.to_vec()),
        ];
        let mut names = list(&dir);
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        for name in &expected {
            assert_eq!(
                fs::read(dir.join(name)).expect("read"),
                name.as_encoded_bytes(),
                "each holds its name"
            );
        }
        let too_long = OsString::from_vec(vec![b'n'; LONG_NAME + 1]);
        assert_eq!(
            errno(fs::metadata(dir.join(&too_long))),
            Errno::NAMETOOLONG.raw_os_error()
        );
        let rw = rig.path("rw");
        assert_eq!(
            errno(fs::File::create(rw.join(&too_long))),
            Errno::NAMETOOLONG.raw_os_error()
        );
        let (file, folder) = (rw.join("file"), rw.join("folder"));
        fs::write(&file, "").expect("made");
        fs::create_dir(&folder).expect("made");
        let long = rw.join(&too_long);
        let refused = [
            fs::create_dir(&long),
            std::os::unix::fs::symlink("target", &long),
            mknodat(CWD, &long, FileType::Fifo, Mode::RUSR, 0).map_err(Into::into),
            fs::hard_link(&file, &long),
            fs::rename(&file, &long),
            fs::rename(&long, &file),
            fs::remove_file(&long),
            fs::remove_dir(&long),
        ];
        for (i, out) in refused.into_iter().enumerate() {
            assert_eq!(errno(out), Errno::NAMETOOLONG.raw_os_error(), "case {i}");
        }
        let raw = rw.join(OsString::from_vec(vec![0xff; LONG_NAME]));
        fs::write(&raw, b"x").expect("made");
        assert_eq!(fs::read(&raw).expect("read"), b"x");
    });
}

#[test]
fn writing_renaming_and_removing() {
    with_mount("", |rig| {
        let (a, b) = (rig.path("rw/a"), rig.path("rw/b"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&a)
            .expect("made");
        let big = vec![3; 3 << 20];
        file.write_all(&big).expect("written");
        file.sync_all().expect("synced");
        file.rewind().expect("sought");
        let mut back = Vec::new();
        file.read_to_end(&mut back).expect("read");
        assert!(back == big, "what was written comes back");
        fs::rename(&a, &b).expect("renamed");
        assert_eq!(fs::metadata(&b).expect("found").len(), 3 << 20);
        fs::remove_file(&b).expect("removed");
        assert_eq!(file.metadata().expect("still open").len(), 3 << 20);
        assert_eq!(
            file.read_at_start(),
            3,
            "a removed file stays readable while it is open"
        );

        fs::create_dir(&a).expect("made");
        fs::write(a.join("inner"), b"1").expect("made");
        assert_eq!(errno(fs::remove_dir(&a)), Errno::NOTEMPTY.raw_os_error());
        fs::hard_link(a.join("inner"), &b).expect("linked");
        assert_eq!(fs::metadata(&b).expect("found").nlink(), 2);
        std::os::unix::fs::symlink("a/inner", rig.path("rw/l")).expect("linked");
        assert_eq!(fs::read(rig.path("rw/l")).expect("followed"), b"1");

        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&b)
            .expect("truncated");
        assert_eq!(fs::metadata(&b).expect("found").len(), 0);
        let flushes = rig.calls("flush");
        drop(file);
        assert!(
            rig.calls("flush") > flushes,
            "an engine that has no use for flush must still be asked at each close"
        );
    });
}

trait ReadAtStart {
    fn read_at_start(&self) -> u8;
}

impl ReadAtStart for fs::File {
    fn read_at_start(&self) -> u8 {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(self, &mut byte, 0).expect("read");
        byte[0]
    }
}

#[test]
fn rename_flags_reach_the_drive() {
    with_mount("", |rig| {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let (a, b) = (rig.path("rw/a"), rig.path("rw/b"));
        fs::write(&a, "a").expect("made");
        fs::write(&b, "b").expect("made");
        let rename = |flags| renameat_with(CWD, &a, CWD, &b, flags);
        assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
        rename(RenameFlags::EXCHANGE).expect("exchanged");
        assert_eq!(
            (fs::read(&a).expect("read"), fs::read(&b).expect("read")),
            (b"b".to_vec(), b"a".to_vec())
        );
        assert_eq!(rename(RenameFlags::WHITEOUT), Err(Errno::INVAL));
    });
}

#[test]
fn a_file_that_appeared_behind_the_kernels_back_is_opened_by_create_unless_exclusive() {
    with_mount("", |rig| {
        let new = rig.path("rw/new");
        assert!(!new.exists(), "now the kernel believes that there is none");
        rig.tell("put rw new remote");
        let exclusive = OpenOptions::new().write(true).create_new(true).open(&new);
        assert_eq!(errno(exclusive), Errno::EXIST.raw_os_error());
        let mut opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&new)
            .expect("opened");
        let mut text = String::new();
        opened.read_to_string(&mut text).expect("read");
        assert_eq!(text, "remote");

        let (cut, link) = (rig.path("rw/cut"), rig.path("rw/link"));
        assert!(!cut.exists() && !link.exists());
        rig.tell("put rw cut remote");
        let cut = fs::File::create(cut).expect("opened");
        assert_eq!(cut.metadata().expect("known").len(), 0, "it was truncated");
        rig.tell("link rw link new");
        let mut text = String::new();
        let mut followed = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(link)
            .expect("followed");
        followed.read_to_string(&mut text).expect("read");
        assert_eq!(text, "remote", "a link that appeared is followed");
        drop((opened, cut, followed));
        eventually("release", || rig.ask("handles") == "0");
    });
}

#[test]
fn a_readonly_folder_says_so() {
    with_mount("", |rig| {
        let rofs = Errno::ROFS.raw_os_error();
        assert_eq!(fs::read(rig.path("ro/file")).expect("read"), b"read me");
        assert_eq!(errno(fs::File::create(rig.path("ro/new"))), rofs);
        assert_eq!(errno(OpenOptions::new().write(true).open(rig.path("ro/file"))), rofs);
        assert_eq!(errno(fs::remove_file(rig.path("ro/file"))), rofs);
        assert_eq!(errno(fs::create_dir(rig.path("ro/dir"))), rofs);
    });
}

#[test]
fn xattrs_answer_when_asked_and_only_real_ones_are_listed() {
    with_mount("", |rig| {
        let file = rig.path("hello");
        let get = |name: &str| {
            let mut buffer = [0; 64];
            rustix::fs::getxattr(&file, name, &mut buffer).map(|len| buffer[..len].to_vec())
        };
        let names = || {
            let mut buffer = [0; 64];
            let len = rustix::fs::listxattr(&file, &mut buffer).expect("listed");
            String::from_utf8(buffer[..len].to_vec()).expect("UTF-8")
        };
        assert_eq!(get("user.backlot.state"), Ok(b"online".to_vec()));
        assert_eq!(names(), "", "virtual ones are not listed");
        assert_eq!(get("user.none"), Err(Errno::NODATA));
        rustix::fs::setxattr(&file, "user.a", b"1", XattrFlags::CREATE).expect("set");
        assert_eq!(
            rustix::fs::setxattr(&file, "user.a", b"2", XattrFlags::CREATE),
            Err(Errno::EXIST)
        );
        assert_eq!(
            rustix::fs::setxattr(&file, "user.b", b"2", XattrFlags::REPLACE),
            Err(Errno::NODATA)
        );
        rustix::fs::setxattr(&file, "user.a", b"22", XattrFlags::REPLACE).expect("set");
        assert_eq!((get("user.a"), names().as_str()), (Ok(b"22".to_vec()), "user.a\0"));
        assert_eq!(rustix::fs::getxattr(&file, "user.a", &mut [0; 1]), Err(Errno::RANGE));
        rustix::fs::removexattr(&file, "user.a").expect("removed");
        assert_eq!(get("user.a"), Err(Errno::NODATA));

        let asked = rig.calls("getxattr");
        for name in [
            "security.capability",
            "system.posix_acl_access",
            "system.posix_acl_default",
        ] {
            assert!(matches!(get(name), Err(Errno::NODATA | Errno::OPNOTSUPP)), "{name}");
        }
        assert_eq!(rig.calls("getxattr"), asked, "the drive is not bothered with these");
    });
}

#[test]
fn what_is_not_resident_is_never_a_hole() {
    with_mount("", |rig| {
        let file = fs::File::open(rig.path("sparse")).expect("opened");
        let len = file.metadata().expect("known").len();
        let seek = |to| rustix::fs::seek(&file, to);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(0));
        assert_eq!(
            seek(rustix::fs::SeekFrom::Hole(0)),
            Ok(len),
            "the only hole is the one behind the end"
        );
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(5000)), Ok(len));
        assert_eq!(seek(rustix::fs::SeekFrom::Data(len)), Err(Errno::NXIO));
        assert_eq!((&file).seek(SeekFrom::End(-1)).expect("sought"), len - 1);
        assert!(rig.calls("seek") >= 4, "the drive was asked");
    });
}

#[test]
fn statfs_shows_the_drives_space() {
    with_mount("", |rig| {
        let space = rustix::fs::statvfs(rig.point()).expect("asked");
        let gib = |blocks: u64| (blocks * space.f_frsize) >> 30;
        assert_eq!(
            (gib(space.f_blocks), gib(space.f_bfree), gib(space.f_bavail)),
            (100, 60, 50)
        );
        assert_eq!((space.f_files, space.f_ffree, space.f_namemax), (10_000, 9000, 255));
    });
}

#[test]
fn slow_reads_are_answered_side_by_side_whatever_the_number_of_threads() {
    with_mount("threads=1", |rig| {
        // Neither of the pair is answered before the other has been asked: one after the other would end in EIO.
        both(rig, ["pair-a", "pair-b"]);
        let started = Instant::now();
        both(rig, ["slow-a", "slow-b"]);
        let took = started.elapsed();
        assert!(took >= SLOW, "the reads were slow: {took:?}");
        println!("two reads of {SLOW:?} side by side took {took:?}");
        assert!(took < SLOW * 2, "side by side: {took:?}");
    });
}

fn both(rig: &crate::rig::Rig, names: [&str; 2]) {
    std::thread::scope(|scope| {
        for name in names {
            let path = rig.path(name);
            scope.spawn(move || assert_eq!(fs::read(path).expect("read"), [7; 4096]));
        }
    });
}

#[test]
fn direct_reads_bypass_the_page_cache() {
    with_mount("", |rig| {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let read = || {
            let mut file = OpenOptions::new()
                .read(true)
                .custom_flags(direct)
                .open(rig.path("late"))
                .expect("opened");
            let mut data = Vec::new();
            file.read_to_end(&mut data).expect("read");
            assert_eq!(data, [7; 4096]);
        };
        read();
        let reads = rig.calls("read");
        read();
        assert!(rig.calls("read") > reads, "the drive was asked again");
        fs::read(rig.path("late")).expect("read");
        let reads = rig.calls("read");
        fs::read(rig.path("late")).expect("read");
        assert_eq!(
            rig.calls("read"),
            reads,
            "without O_DIRECT the kernel keeps what it read"
        );
    });
}
