//! `docs/semantics.md`: *lseek*, *mmap*; and the programs that look for holes: what is not here yet is never taken for one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::child;
use crate::common::drive::{Builder, SOON, drive_test, run_within, succeeds};
use crate::common::tree::{self, Tree};

/// Bytes, then a hole at the site that is as large as what surrounds it, then bytes.
fn write_with_hole(path: &Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    let (head, tail, at) = (tree::bytes(1, 0, 200_000), tree::bytes(2, 0, 300_001), 1_500_000);
    file.write_all_at(&head, 0).unwrap();
    file.write_all_at(&tail, at).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn seeking_sees_one_run_of_data_whatever_is_here() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let truth = write_with_hole(&site.path().join("plate"));
        let drive = Builder::local(site.path())
            .set("hydration.small-file", "0B")
            .build()
            .mounted();
        let len = truth.len() as u64;
        let file = File::open(drive.path("plate")).unwrap();
        let check = || {
            for at in [0, 1, 250_000, 700_000, len - 1] {
                assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(at)), Ok(at));
                assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(at)), Ok(len));
            }
            for at in [len, len + 1] {
                assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(at)), Err(Errno::NXIO));
                assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(at)), Err(Errno::NXIO));
            }
        };
        check();
        file.read_exact_at(&mut [0; 10], 1_000_000).unwrap();
        check();
        assert!(fs::read(drive.path("plate")).unwrap() == truth);
        check();
    });
}

/// Copies the project with a program, no file of which was opened before, and compares.
fn copies_true(copy: impl FnOnce(&Path, &Path)) {
    let site = tempfile::tempdir().unwrap();
    let tree = Tree::plan(3, 12, 6, &[0, 1, 70_000, 2_500_000]).with_hard_names();
    tree.write(site.path());
    let truth = write_with_hole(&site.path().join("holed"));
    File::create(site.path().join("all-hole"))
        .unwrap()
        .set_len(3_000_000)
        .unwrap();
    let drive = Builder::local(site.path()).build().mounted();
    let to = tempfile::tempdir().unwrap();
    copy(&drive.project(), to.path());
    for file in &tree.files {
        file.check_whole(to.path()).unwrap();
    }
    assert!(fs::read(to.path().join("holed")).unwrap() == truth);
    assert!(fs::read(to.path().join("all-hole")).unwrap() == vec![0; 3_000_000]);
    let all = tree.len() + truth.len() as u64 + 3_000_000;
    assert_eq!(drive.fetched(), all, "the bytes were asked for, every one of them");
}

#[test]
fn tar_with_holes_archives_the_true_bytes() {
    drive_test(|| {
        copies_true(|from, to| {
            let script = "tar -S -C \"$0\" -cf - . | tar -S -C \"$1\" -xf -";
            succeeds(Command::new("sh").args(["-c", script]).arg(from).arg(to));
        });
    });
}

#[test]
fn rsync_with_holes_copies_the_true_bytes() {
    drive_test(|| {
        copies_true(|from, to| {
            succeeds(Command::new("rsync").args(["-a", "-S"]).arg(from.join(".")).arg(to));
        });
    });
}

#[test]
fn cp_with_holes_copies_the_true_bytes() {
    drive_test(|| {
        copies_true(|from, to| {
            succeeds(
                Command::new("cp")
                    .args(["-a", "--sparse=always"])
                    .arg(from.join("."))
                    .arg(to),
            );
        });
    });
}

#[test]
fn cp_that_trusts_the_file_system_copies_the_true_bytes() {
    drive_test(|| {
        copies_true(|from, to| {
            succeeds(
                Command::new("cp")
                    .args(["-a", "--sparse=auto", "--reflink=auto"])
                    .arg(from.join("."))
                    .arg(to),
            );
        });
    });
}

#[test]
fn a_mapping_of_a_cold_file_reads_right() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let len = 5_000_123;
        tree::write(&site.path().join("plate"), 4, len);
        let drive = Builder::local(site.path()).build().mounted();
        let out = run_within(SOON, &mut child::mapping(&drive.path("plate"), 0));
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let truth = tree::bytes(4, 0, usize::try_from(len).unwrap());
        assert!(
            said.contains(&child::printed_hash(&truth)),
            "{said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert_eq!(drive.fetched(), len);
    });
}
