//! `docs/semantics.md`: *lookup and stat*: names are bytes, up to 255 of them, and paths are as long as the kernel lets them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::common::drive::{Builder, drive_test, say, succeeds};
use crate::common::tree::{self, Tree};

#[test]
fn any_bytes_are_a_name_for_every_operation() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let tree = Tree { files: Vec::new() }.with_hard_names();
        tree.write(site.path());
        let mut drive = Builder::local(site.path()).build().mounted();
        for _ in 0..2 {
            for file in &tree.files {
                let dir = drive.path(file.path.parent().unwrap());
                let name = file.path.file_name().unwrap();
                assert!(
                    fs::read_dir(dir).unwrap().any(|e| e.unwrap().file_name() == name),
                    "{name:?} is listed"
                );
                assert_eq!(
                    fs::metadata(drive.path(&file.path)).unwrap().len(),
                    file.len,
                    "{name:?}"
                );
                file.check_whole(&drive.project()).unwrap();
            }
            let found = succeeds(
                Command::new("find")
                    .arg(drive.project())
                    .args(["-type", "f", "-printf", "x"]),
            );
            assert_eq!(found.len(), tree.files.len());
            // What a terminal or a script sees of it must not break either.
            assert_eq!(drive.ls("show").len(), 1);
            drive.remount();
        }
    });
}

/// Opens a folder below another one by one name after the other: the whole path may be longer than one call takes.
fn down(from: &Path, names: &[OsString], make: bool) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, from, flags, Mode::empty())?;
    for name in names {
        if make {
            mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
        }
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

fn folder_names(count: usize) -> Vec<OsString> {
    (0..count)
        .map(|i| OsString::from_vec(vec![if i % 2 == 0 { 0xfd } else { b'p' }; 255]))
        .collect()
}

fn read_at(dir: &OwnedFd, name: &str) -> Vec<u8> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut read = Vec::new();
    File::from(file).read_to_end(&mut read).unwrap();
    read
}

#[test]
fn a_path_of_4096_bytes_works_and_a_longer_one_harms_nobody() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("beside"), 1, 100);
        let put = |dir: &OwnedFd, name: &str, bytes: &[u8]| {
            let file = openat(dir, name, OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR).unwrap();
            std::io::Write::write_all(&mut File::from(file), bytes).unwrap();
        };
        // 15 names with their slashes are 3,840 bytes; with this one the path has 4,095, and a NUL closes it.
        let names = folder_names(17);
        let last = "q".repeat(255);
        let deep = down(site.path(), &names[..15], true).unwrap();
        put(&deep, &last, b"deep");
        let path: PathBuf = names[..15]
            .iter()
            .map(PathBuf::from)
            .chain([PathBuf::from(&last)])
            .collect();
        assert_eq!(path.as_os_str().len(), 4095);
        // And two more folders, past what one call takes.
        mkdirat(&deep, &names[15], Mode::from_raw_mode(0o755)).unwrap();
        let deeper = openat(&deep, &names[15], OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        mkdirat(&deeper, &names[16], Mode::from_raw_mode(0o755)).unwrap();
        let deepest = openat(&deeper, &names[16], OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        put(&deepest, "too-deep", b"deepest");

        let mut drive = Builder::local(site.path()).build();
        let scan = drive.run(["scan"]);
        let said = String::from_utf8_lossy(&scan.stderr).into_owned();
        assert!(matches!(scan.status.code(), Some(0 | 4)), "{scan:?}");
        drive.mount();
        let here = down(&drive.project(), &names[..15], false).unwrap();
        assert_eq!(read_at(&here, &last), b"deep");
        let project = down(&drive.project(), &[], false).unwrap();
        let whole = openat(&project, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut read = Vec::new();
        File::from(whole).read_to_end(&mut read).unwrap();
        assert_eq!(read, b"deep", "in one call of 4,096 bytes");
        assert_eq!(tree::first_wrong(1, 0, &fs::read(drive.path("beside")).unwrap()), None);
        if scan.status.code() == Some(0) {
            let here = down(&drive.project(), &names, false).unwrap();
            assert_eq!(read_at(&here, "too-deep"), b"deepest");
        } else {
            assert!(said.contains("not listed"), "what could not be listed is named: {said}");
        }
        say(&format!(
            "a folder at a path of more than 4,096 bytes: scan ended with {}",
            scan.status
        ));
        drop((here, project));
        drive.unmount();
    });
}
