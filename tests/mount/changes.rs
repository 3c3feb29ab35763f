//! `docs/semantics.md`: *changes at the site*. What changed shows within a bounded time after somebody looks; what can't be
//! asked about stays.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::drive::{Builder, Drive, drive_test, eventually, eventually_within, say, within};
use crate::common::tree;

/// `scan.recheck-after` is 200 ms here. What shows later than this after a change shows too late.
const SHOWS: Duration = Duration::from_secs(5);

fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    tree::write(&site.path().join("sh010/plate.exr"), 1, 70_000);
    tree::write(&site.path().join("sh010/comp.nk"), 2, 300);
    tree::write(&site.path().join("sh020/plate.exr"), 3, 10);
    site
}

/// Replaces a file in one step, as programs that save do.
fn replace(path: &Path, seed: u64, len: u64) {
    let temp = path.with_extension("tmp-save");
    tree::write(&temp, seed, len);
    fs::rename(temp, path).unwrap();
}

fn holds(path: &Path, seed: u64, len: u64) -> bool {
    fs::read(path).is_ok_and(|read| read == tree::bytes(seed, 0, usize::try_from(len).unwrap()))
}

#[test]
fn a_new_file_shows_even_where_its_absence_was_looked_up() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        let new = drive.path("sh010/new.exr");
        assert!(
            fs::metadata(&new).is_err(),
            "now the kernel remembers that there is none"
        );
        tree::write(&site.path().join("sh010/new.exr"), 7, 5000);
        let took = eventually_within(SHOWS, "the new file", || holds(&new, 7, 5000));
        say(&format!("a new file showed after {took:.1?}"));
        assert!(
            fs::read_dir(drive.path("sh010"))
                .unwrap()
                .any(|e| e.unwrap().file_name() == "new.exr")
        );
    });
}

#[test]
fn a_removed_file_and_a_removed_folder_vanish() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        let listed = |dir: &str| fs::read_dir(drive.path(dir)).unwrap().count();
        assert_eq!((listed("sh010"), listed("sh020"), listed("")), (2, 1, 2));
        fs::remove_file(site.path().join("sh010/plate.exr")).unwrap();
        fs::remove_dir_all(site.path().join("sh020")).unwrap();
        eventually_within(SHOWS, "the file is gone", || {
            fs::metadata(drive.path("sh010/plate.exr")).is_err()
        });
        eventually_within(SHOWS, "the folder is gone", || {
            fs::metadata(drive.path("sh020")).is_err()
        });
        assert_eq!((listed("sh010"), listed("")), (1, 1));
    });
}

#[test]
fn a_changed_file_shows_its_new_size_time_and_bytes() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        let plate = drive.path("sh010/plate.exr");
        assert!(holds(&plate, 1, 70_000), "the old bytes are in both caches now");
        // Once in place and of the same size, once by a rename and of another.
        tree::write(&site.path().join("sh010/plate.exr"), 8, 70_000);
        eventually_within(SHOWS, "the bytes written over", || holds(&plate, 8, 70_000));
        replace(&site.path().join("sh010/plate.exr"), 9, 90_000);
        let took = eventually_within(SHOWS, "the bytes renamed over", || holds(&plate, 9, 90_000));
        say(&format!("a changed file showed after {took:.1?}"));
        let (here, there) = (
            fs::metadata(&plate).unwrap(),
            fs::metadata(site.path().join("sh010/plate.exr")).unwrap(),
        );
        assert_eq!(
            (here.len(), here.mtime(), here.mtime_nsec()),
            (there.len(), there.mtime(), there.mtime_nsec())
        );
    });
}

#[test]
fn what_becomes_of_another_kind_shows_as_that() {
    drive_test(|| {
        let site = site();
        symlink("comp.nk", site.path().join("sh010/link")).unwrap();
        let drive = Builder::local(site.path()).build().mounted();
        let at = |path: &str| site.path().join(path);
        assert!(holds(&drive.path("sh010/comp.nk"), 2, 300) && holds(&drive.path("sh010/link"), 2, 300));

        fs::remove_file(at("sh010/comp.nk")).unwrap();
        tree::write(&at("sh010/comp.nk/inner"), 4, 40);
        fs::remove_file(at("sh010/link")).unwrap();
        symlink("plate.exr", at("sh010/link")).unwrap();
        fs::remove_dir_all(at("sh020")).unwrap();
        tree::write(&at("sh020"), 5, 50);
        eventually_within(SHOWS, "a file that is a folder now", || {
            holds(&drive.path("sh010/comp.nk/inner"), 4, 40)
        });
        eventually_within(SHOWS, "a link that leads elsewhere now", || {
            holds(&drive.path("sh010/link"), 1, 70_000)
        });
        eventually_within(SHOWS, "a folder that is a file now", || {
            holds(&drive.path("sh020"), 5, 50)
        });
    });
}

#[test]
fn a_new_folder_shows_with_all_that_is_below_it() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        tree::write(&site.path().join("sh030/a/b/c.exr"), 6, 60);
        tree::write(&site.path().join("sh030/a/d.exr"), 7, 70);
        // Somebody looks at the project's folder, and at nothing below it.
        eventually_within(SHOWS, "the folder", || {
            fs::read_dir(drive.project())
                .unwrap()
                .any(|e| e.unwrap().file_name() == "sh030")
        });
        let known = |dir: &str| drive.run(["ls", "--json", dir]).status.success() && !drive.ls(dir).is_empty();
        eventually_within(SHOWS, "what is below it", || known("show/sh030/a/b"));
        assert!(holds(&drive.path("sh030/a/b/c.exr"), 6, 60) && holds(&drive.path("sh030/a/d.exr"), 7, 70));
    });
}

#[test]
fn a_folder_renamed_at_the_site_is_renamed_here_while_it_is_listed_and_read() {
    const FILES: usize = 500;
    drive_test(|| {
        let site = site();
        for n in 0..FILES {
            tree::write(&site.path().join(format!("sh010/cache.{n:04}.bgeo")), 4, 10);
        }
        let drive = Builder::local(site.path()).build().mounted();
        let held = fs::File::open(drive.path("sh010/plate.exr")).unwrap();
        let mut first = [0; 100];
        held.read_exact_at(&mut first, 0).unwrap();
        let mut listing = fs::read_dir(drive.path("sh010")).unwrap();
        listing.next().unwrap().unwrap();

        fs::rename(site.path().join("sh010"), site.path().join("sh015")).unwrap();
        eventually_within(SHOWS, "the new name", || {
            holds(&drive.path("sh015/plate.exr"), 1, 70_000)
        });
        eventually_within(SHOWS, "the old name is gone", || !drive.path("sh010").exists());
        eventually_within(SHOWS, "all that is below it", || {
            fs::read_dir(drive.path("sh015")).is_ok_and(|rows| rows.count() == FILES + 2)
        });
        // Who was listing it comes to an end, with what was there, or an error.
        let rest: Vec<_> = within(SHOWS, "the rest of the listing", move || listing.collect());
        assert!(rest.len() <= FILES + 2, "{}", rest.len());
        // Who was reading gets the rest of what was opened, or is told.
        let mut rest = vec![0; 60_000];
        match held.read_at(&mut rest, 100) {
            Ok(n) => assert_eq!(tree::first_wrong(1, 100, &rest[..n]), None),
            Err(e) => assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::STALE.raw_os_error()), "{e}"),
        }
    });
}

fn all_there(drive: &Drive) {
    for (path, len) in [
        ("sh010/plate.exr", 70_000),
        ("sh010/comp.nk", 300),
        ("sh020/plate.exr", 10),
    ] {
        assert_eq!(fs::metadata(drive.path(path)).unwrap().len(), len, "{path}");
    }
    assert_eq!(fs::read_dir(drive.path("sh010")).unwrap().count(), 2);
}

#[test]
fn an_unreachable_site_removes_nothing() {
    drive_test(|| {
        let parent = site();
        let (root, away) = (parent.path().join("root"), parent.path().join("away"));
        fs::create_dir(&root).unwrap();
        for shot in ["sh010", "sh020"] {
            fs::rename(parent.path().join(shot), root.join(shot)).unwrap();
        }
        let mut drive = Builder::local(&root).build().mounted();
        all_there(&drive);
        fs::rename(&root, &away).unwrap();
        let refused = drive.refused(["scan"]);
        assert!(
            refused.said.contains("can't be reached"),
            "the fault fired: {refused:?}"
        );
        eventually("the link is known to be down", || drive.link() == "down");
        all_there(&drive);
        drive.remount();
        all_there(&drive);
        fs::rename(&away, &root).unwrap();
        tree::write(&root.join("sh010/new"), 4, 4);
        eventually("the site is used again", || {
            drive.link() == "up" && holds(&drive.path("sh010/new"), 4, 4)
        });
    });
}

/// A share that is not mounted looks like an empty folder.
#[test]
fn a_project_that_is_suddenly_empty_is_not_believed() {
    drive_test(|| {
        let site = site();
        let drive = Builder::local(site.path()).build().mounted();
        let elsewhere = tempfile::tempdir().unwrap();
        for name in ["sh010", "sh020"] {
            fs::rename(site.path().join(name), elsewhere.path().join(name)).unwrap();
        }
        assert_eq!(fs::read_dir(site.path()).unwrap().count(), 0, "the site is empty now");
        let scan = drive.run(["scan"]);
        let said = String::from_utf8_lossy(&scan.stderr).into_owned();
        assert_eq!(scan.status.code(), Some(1), "{said}");
        assert!(said.contains("empty") && said.contains("mounted"), "{said}");
        assert!(
            fs::metadata(drive.path("sh010/plate.exr")).is_ok(),
            "what was known stays"
        );
        assert_eq!(fs::read_dir(drive.path("")).unwrap().count(), 2);
        // Whoever means it leaves a word.
        tree::write(&site.path().join("moved-to-archive.txt"), 9, 20);
        assert!(drive.run(["scan"]).status.success());
        eventually_within(SHOWS, "the removal", || {
            fs::metadata(drive.path("sh010/plate.exr")).is_err()
        });
    });
}
