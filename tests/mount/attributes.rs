//! `docs/semantics.md`: *extended attributes*; *write, create, truncate, rename, unlink, mkdir, rmdir, link, symlink, chmod,
//! chown, utimens, setxattr*.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};
use rustix::io::Errno;

use crate::common::drive::{Builder, SITE, drive_test, find_program, say, succeeds};
use crate::common::tree;

fn get(path: &Path, name: &str) -> Result<String, Errno> {
    let mut buffer = [0; 8192];
    let len = rustix::fs::lgetxattr(path, name, &mut buffer)?;
    Ok(String::from_utf8(buffer[..len].to_vec()).unwrap())
}

fn listed(path: &Path) -> String {
    let mut buffer = [0; 8192];
    let len = rustix::fs::llistxattr(path, &mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn virtual_attributes_answer_when_asked_for_and_follow_the_file() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sq/plate.exr"), 1, 4 << 20);
        symlink("plate.exr", site.path().join("sq/link")).unwrap();
        let drive = Builder::local(site.path()).build().mounted();
        let plate = drive.path("sq/plate.exr");
        let ask = |name: &str| get(&plate, &format!("user.backlot.{name}"));
        assert_eq!(
            (ask("state").as_deref(), ask("cached_bytes").as_deref()),
            (Ok("online"), Ok("0"))
        );
        assert_eq!(
            (ask("site").as_deref(), ask("remote_path").as_deref()),
            (Ok(SITE), Ok("sq/plate.exr"))
        );
        let version = ask("version").unwrap();
        assert!(!version.is_empty());

        let mut head = [0; 10];
        std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(&plate).unwrap(), &mut head, 0).unwrap();
        assert_eq!(ask("state").as_deref(), Ok("hydrating"));
        let cached: u64 = ask("cached_bytes").unwrap().parse().unwrap();
        assert!((64 << 10..4 << 20).contains(&cached), "{cached}");
        fs::read(&plate).unwrap();
        assert_eq!(
            (ask("state").as_deref(), ask("cached_bytes").as_deref()),
            (Ok("cached"), Ok("4194304"))
        );
        assert_eq!(ask("version"), Ok(version), "hydration makes no new version");

        assert_eq!(ask("none"), Err(Errno::NODATA));
        assert_eq!(get(&plate, "user.other"), Err(Errno::NODATA));
        for other in [drive.project(), drive.path("sq"), drive.mount_point().to_owned()] {
            assert_eq!(
                get(&other, "user.backlot.state"),
                Err(Errno::NODATA),
                "{}",
                other.display()
            );
            assert_eq!(listed(&other), "");
        }
        assert_eq!(get(&drive.path("sq/link"), "user.backlot.state"), Err(Errno::NODATA));
        assert_eq!(listed(&plate), "", "and they are never listed");
        // A buffer that is too short, and the question how long it must be.
        assert_eq!(
            rustix::fs::getxattr(&plate, "user.backlot.state", &mut [0; 2]),
            Err(Errno::RANGE)
        );
        assert_eq!(
            rustix::fs::getxattr_query(&plate, "user.backlot.state"),
            Ok("cached".len())
        );
    });
}

/// As `vfsstat` of openvfs does.
#[test]
fn openvfs_reads_what_it_knows_of_a_file() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sq/plate.exr"), 1, 4 << 20);
        let drive = Builder::local(site.path()).build().mounted();
        let plate = drive.path("sq/plate.exr");
        let data = |path: &Path| {
            let mut buffer = [0; 8192];
            let len = rustix::fs::lgetxattr(path, "user.openvfs.data", &mut buffer)?;
            Ok::<_, Errno>(buffer[..len].to_vec())
        };
        let told = |state: u8, pin_state: u8| {
            let version = get(&plate, "user.backlot.version").unwrap();
            let number = fs::symlink_metadata(&plate).unwrap().ino().to_string();
            let mut value = b"\x85\xa4etag".to_vec();
            match u8::try_from(version.len()).unwrap() {
                short @ 0..32 => value.push(0xa0 | short),
                long => value.extend([0xd9, long]),
            }
            value.extend(version.as_bytes());
            value.extend(b"\xa6fileid");
            value.push(0xa0 | u8::try_from(number.len()).unwrap());
            value.extend(number.as_bytes());
            value.extend(b"\xa4size\xcf\0\0\0\0\0\x40\0\0\xa5state");
            value.push(state);
            value.extend(b"\xa8pinstate");
            value.push(pin_state);
            Ok(value)
        };
        let real_size = || get(&plate, "user.openvfs.realsize").unwrap();
        assert_eq!((data(&plate), real_size()), (told(1, 0), "0".to_owned()));
        fs::read(&plate).unwrap();
        assert_eq!((data(&plate), real_size()), (told(0, 0), "4194304".to_owned()));
        rustix::fs::setxattr(&plate, "user.backlot.pin", b"1", XattrFlags::empty()).unwrap();
        assert_eq!(data(&plate), told(0, 2));

        // Nobody may say otherwise, nobody may claim the drive by it, and it is not listed.
        for name in ["user.openvfs.data", "user.openvfs.realsize"] {
            let set = rustix::fs::setxattr(&plate, name, b"x", XattrFlags::empty());
            assert_eq!(set, Err(Errno::PERM), "{name}");
            assert_eq!(rustix::fs::removexattr(&plate, name), Err(Errno::PERM), "{name}");
        }
        assert_eq!(data(&drive.path("sq")), Err(Errno::NODATA));
        assert_eq!(
            get(drive.mount_point(), "user.openvfs.registration"),
            Err(Errno::NODATA)
        );
        assert_eq!(listed(&plate), "");
    });
}

#[test]
fn no_copy_carries_them() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sq/plate.exr"), 1, 100_000);
        let drive = Builder::local(site.path()).build().mounted();
        let to = tempfile::tempdir().unwrap();
        let proof = to.path().join("proof");
        fs::write(&proof, b"").unwrap();
        if rustix::fs::setxattr(&proof, "user.a", b"1", XattrFlags::CREATE).is_err() {
            return say("SKIPPED: xattrs (the temporary folder takes none, so no copy could)");
        }
        succeeds(
            Command::new("cp")
                .arg("-a")
                .arg(drive.path("sq"))
                .arg(to.path().join("cp")),
        );
        succeeds(
            Command::new("rsync")
                .arg("-aAX")
                .arg(drive.path("sq"))
                .arg(to.path().join("rsync")),
        );
        let mut tar = Command::new("sh");
        tar.args([
            "-c",
            "tar --xattrs --xattrs-include='*' -C \"$0\" -cf - sq | tar --xattrs --xattrs-include='*' -C \"$1\" -xf -",
        ]);
        fs::create_dir(to.path().join("tar")).unwrap();
        succeeds(tar.arg(drive.project()).arg(to.path().join("tar")));
        for copy in ["cp/plate.exr", "rsync/sq/plate.exr", "tar/sq/plate.exr"] {
            let copy = to.path().join(copy);
            assert_eq!(listed(&copy), "", "{}", copy.display());
            assert_eq!(tree::first_wrong(1, 0, &fs::read(&copy).unwrap()), None);
        }
        if find_program("getfattr").is_some() {
            let dumped = succeeds(
                Command::new("getfattr")
                    .args(["-d", "-m", "-"])
                    .arg(drive.path("sq/plate.exr")),
            );
            assert_eq!(dumped, "");
            let asked = succeeds(
                Command::new("getfattr")
                    .args(["--only-values", "-n", "user.backlot.state"])
                    .arg(drive.path("sq/plate.exr")),
            );
            assert_eq!(asked, "cached");
        }
    });
}

#[test]
fn whatever_would_change_something_in_a_readonly_zone_is_erofs_and_changes_nothing() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("dir/file"), 1, 1000);
        fs::create_dir(site.path().join("dir/empty")).unwrap();
        let drive = Builder::local(site.path())
            .zones(&[("**", "readonly")])
            .build()
            .mounted();
        let (dir, file, new) = (drive.path("dir"), drive.path("dir/file"), drive.path("dir/new"));
        let stamps = Timestamps {
            last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
        };
        let user = rustix::process::geteuid();
        let io = |r: std::io::Result<()>| r.map_err(|e| Errno::from_io_error(&e).unwrap());
        let tried: Vec<(&str, Result<(), Errno>)> = vec![
            ("create", io(fs::File::create(&new).map(drop))),
            ("write", io(OpenOptions::new().write(true).open(&file).map(drop))),
            (
                "truncate",
                io(OpenOptions::new().write(true).truncate(true).open(&file).map(drop)),
            ),
            ("rename", io(fs::rename(&file, &new))),
            ("unlink", io(fs::remove_file(&file))),
            ("mkdir", io(fs::create_dir(&new))),
            ("mkdir in the root", io(fs::create_dir(drive.mount_point().join("new")))),
            ("rmdir", io(fs::remove_dir(dir.join("empty")))),
            ("link", io(fs::hard_link(&file, &new))),
            ("symlink", io(symlink("file", &new))),
            (
                "chmod",
                io(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
            ),
            ("chown", rustix::fs::chown(&file, Some(user), None)),
            ("utimens", utimensat(CWD, &file, &stamps, AtFlags::empty())),
            (
                "setxattr",
                rustix::fs::setxattr(&file, "user.a", b"1", XattrFlags::empty()),
            ),
            (
                "setxattr of ours",
                rustix::fs::setxattr(&file, "user.backlot.state", b"x", XattrFlags::empty()),
            ),
            ("removexattr", rustix::fs::removexattr(&file, "user.backlot.state")),
            ("mknod", mknodat(CWD, &new, FileType::RegularFile, Mode::RUSR, 0)),
        ];
        let allowed: Vec<_> = tried.iter().filter(|(_, result)| *result != Err(Errno::ROFS)).collect();
        assert!(allowed.is_empty(), "not EROFS: {allowed:?}");
        assert!(
            SystemTime::now()
                .duration_since(fs::metadata(&file).unwrap().modified().unwrap())
                .is_ok()
        );
        assert_eq!(tree::first_wrong(1, 0, &fs::read(&file).unwrap()), None);
        for root in [site.path().to_owned(), drive.project()] {
            assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 2, "{}", root.display());
        }
    });
}
