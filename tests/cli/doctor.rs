//! `backlot doctor` where nothing else is wrong: its list, and its JSON.

use std::fs;

use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test};
use crate::home::Said;

fn findings(drive: &Drive, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let said: Said = drive.run([&["doctor", "--json"], more].concat()).into();
    (
        said.code,
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:#?}")),
    )
}

fn finding<'a>(all: &'a [Value], what: &str) -> &'a Value {
    all.iter()
        .find(|f| f["what"] == what)
        .unwrap_or_else(|| panic!("no {what} in {all:#?}"))
}

#[test]
fn all_is_well_before_and_while_a_drive_is_mounted() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        fs::write(site.path().join("plate.exr"), b"x").expect("written");
        // So that a nearly full disk of the tester is not what is found.
        let mut drive = Builder::local(site.path()).build();
        for mounted in [false, true] {
            if mounted {
                drive.scan();
                drive.mount();
            }
            let (_, all) = findings(&drive, &[]);
            for what in ["settings", "fuse", "daemon", "mount", "store", "clock", "site"] {
                let f = finding(&all, what);
                assert_eq!(f["ok"], true, "{f}");
            }
            let says = |what| finding(&all, what)["says"].as_str().expect("text").to_owned();
            let pid = mounted.then(|| format!("pid {} answers", drive.pid()));
            assert!(
                says("daemon").contains(pid.as_deref().unwrap_or("not running")),
                "{}",
                says("daemon")
            );
            assert!(
                says("mount").ends_with(if mounted {
                    "is mounted"
                } else {
                    "is there and not mounted"
                }),
                "{}",
                says("mount")
            );
        }
        let (_, all) = findings(&drive, &["--deep"]);
        assert_eq!(finding(&all, "store")["says"], "every page and every invariant holds");
        drive.unmount();
    });
}

#[test]
fn a_disk_short_of_space_is_told_with_what_is_to_stay_free() {
    let site = tempfile::tempdir().expect("a folder");
    let drive = Builder::local(site.path()).set("cache.min-free", "4000TiB").build();
    let (code, all) = findings(&drive, &[]);
    assert_eq!(code, Some(1));
    let cache = finding(&all, "cache");
    assert_eq!(cache["ok"], false);
    assert!(
        cache["hint"].as_str().expect("a hint").contains("are to stay free"),
        "{cache}"
    );
}

#[test]
fn a_drive_that_other_settings_mounted_is_told_apart() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let (mut one, two) = (Builder::local(site.path()).build(), Builder::local(site.path()).build());
        one.mount();
        let at = format!("drive.mount-point={}", one.mount_point().display());
        let (code, all) = findings(&two, &["--set", &at]);
        assert_eq!(code, Some(1));
        let mount = finding(&all, "mount");
        assert!(
            mount["says"]
                .as_str()
                .expect("text")
                .contains("not by a daemon of these settings"),
            "{mount}"
        );
        one.unmount();
    });
}

#[test]
fn a_mount_point_that_is_missing_is_told_with_the_command_that_makes_it() {
    let site = tempfile::tempdir().expect("a folder");
    let drive = Builder::local(site.path()).build();
    fs::remove_dir(drive.mount_point()).expect("removed");
    let (code, all) = findings(&drive, &[]);
    assert_eq!(code, Some(1));
    let hint = finding(&all, "mount")["hint"].as_str().expect("a hint").to_owned();
    assert_eq!(hint, format!("mkdir -p '{}'", drive.mount_point().display()));
}

/// The first thing that goes wrong: the project lies elsewhere, and the drive is empty.
#[test]
fn a_project_whose_folder_is_not_at_its_site_is_named() {
    let site = tempfile::tempdir().unwrap();
    let drive = Builder::local(site.path())
        .set("projects.show.remote-path", "shows/demo")
        .build();
    let said = || String::from_utf8_lossy(&drive.run(["doctor"]).stdout).into_owned();
    let before = said();
    assert!(
        before.contains("it has no `shows/demo` (yet)") && before.contains("remote-path"),
        "{before}"
    );
    fs::create_dir_all(site.path().join("shows/demo")).unwrap();
    let after = said();
    assert!(!after.contains("(yet)") && after.contains("answers"), "{after}");
}
