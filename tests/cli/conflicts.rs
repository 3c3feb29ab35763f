//! `backlot conflict`: a file that changed here and at its site.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::drive::{Drive, drive_test, eventually};
use crate::publishing::{drive, json, run, state, xattr};

const NAME: &str = "show/publish/plate.exr";

/// Publishes a file, changes it here and behind our back, and waits until both are at the site. Returns ours, as a path
/// of the drive.
fn in_conflict(site: &Path, drive: &Drive) -> String {
    fs::write(drive.path("publish/plate.exr"), b"first").expect("written");
    drive.tell(["wait", NAME]);
    drive.tell(["queue", "pause"]);
    fs::write(drive.path("publish/plate.exr"), b"ours!").expect("written");
    fs::write(site.join("publish/plate.exr"), b"theirs, longer").expect("written");
    drive.tell(["queue", "resume"]);
    run(drive, &["wait", NAME]).failed(4, &["conflict: the site has another version as show/publish/plate.exr"]);
    let all = json(drive, &["conflict", "ls"]);
    let all = all.as_array().expect("rows");
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0]["wanted"], NAME);
    all[0]["ours"].as_str().expect("a path").to_owned()
}

fn at_site(site: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(site.join("publish")).expect("there");
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("there").path();
            (path.clone(), fs::read(path).expect("a file"))
        })
        .collect();
    all.sort_unstable();
    all
}

fn in_drive(drive: &Drive, path: &str) -> PathBuf {
    drive.mount_point().join(path)
}

#[test]
fn both_are_kept_and_shown_until_it_is_settled() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let ours = in_conflict(site.path(), &drive);
        assert!(
            ours.starts_with("show/publish/plate.conflict-") && ours.ends_with("Z.exr"),
            "{ours}"
        );
        eventually("ours at the site", || at_site(site.path()).len() == 2);
        eventually("theirs in the drive", || {
            fs::read(drive.path("publish/plate.exr")).is_ok_and(|read| read == b"theirs, longer")
        });
        assert_eq!(fs::read(in_drive(&drive, &ours)).expect("here"), b"ours!");
        assert_eq!(state(&drive, &ours), "conflict");
        assert_eq!(
            xattr(&in_drive(&drive, &ours), "user.backlot.error").as_deref(),
            Ok("the site has another version as show/publish/plate.exr")
        );
        let text = drive.tell(["conflict", "ls"]);
        assert!(
            text.contains("  theirs: 14 B, written ") && text.contains("  yours:  5 B, written "),
            "{text}"
        );
        let status = drive.tell(["status"]);
        assert!(status.contains("1 conflict: `backlot conflict ls`"), "{status}");
        let doctor = run(&drive, &["doctor"]);
        assert!(
            doctor.out.contains("BAD  conflicts  1 conflict to settle"),
            "{doctor:#?}"
        );
        run(&drive, &["conflict", "keep-mine", "show/publish"]).failed(1, &["there is no conflict about it"]);
        drive.unmount();
    });
}

#[test]
fn keep_mine_replaces_theirs_and_removes_the_copy() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let ours = in_conflict(site.path(), &drive);
        eventually("ours at the site", || at_site(site.path()).len() == 2);
        let said = drive.tell(["conflict", "keep-mine", NAME]);
        assert_eq!(
            said,
            "show/publish/plate.exr: yours replaces the site's as soon as it is sent\n"
        );
        drive.tell(["wait", "--all"]);
        let wanted = (site.path().join("publish/plate.exr"), b"ours!".to_vec());
        assert_eq!(at_site(site.path()), [wanted]);
        assert_eq!(fs::read(drive.path("publish/plate.exr")).expect("here"), b"ours!");
        assert!(!in_drive(&drive, &ours).exists());
        assert_eq!(json(&drive, &["conflict", "ls"]), Value::Array(Vec::new()));
        assert_eq!(state(&drive, NAME), "cached");
        drive.unmount();
    });
}

#[test]
fn keep_mine_never_replaces_what_nobody_has_seen() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let ours = in_conflict(site.path(), &drive);
        eventually("ours at the site", || at_site(site.path()).len() == 2);
        eventually("theirs in the drive", || {
            fs::read(drive.path("publish/plate.exr")).is_ok()
        });
        drive.tell(["queue", "pause"]);
        drive.tell(["conflict", "keep-mine", &ours]);
        fs::write(site.path().join("publish/plate.exr"), b"theirs, once more").expect("written");
        drive.tell(["queue", "resume"]);
        run(&drive, &["wait", "--all"]).failed(4, &["conflict"]);
        let kept = fs::read(site.path().join("publish/plate.exr")).expect("there");
        assert_eq!(kept, b"theirs, once more");
        let again = json(&drive, &["conflict", "ls"]);
        let again = again[0]["ours"].as_str().expect("a path").to_owned();
        assert_eq!(fs::read(in_drive(&drive, &again)).expect("here"), b"ours!");
        drive.unmount();
    });
}

#[test]
fn keep_theirs_removes_ours_here_and_at_the_site() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let ours = in_conflict(site.path(), &drive);
        eventually("ours at the site", || at_site(site.path()).len() == 2);
        let said = drive.tell([
            "conflict",
            "keep-theirs",
            in_drive(&drive, &ours).to_str().expect("UTF-8"),
        ]);
        assert_eq!(said, "show/publish/plate.exr: the site's is kept, yours is removed\n");
        drive.tell(["wait", "--all"]);
        let wanted = (site.path().join("publish/plate.exr"), b"theirs, longer".to_vec());
        assert_eq!(at_site(site.path()), [wanted]);
        assert_eq!(
            fs::read(drive.path("publish/plate.exr")).expect("here"),
            b"theirs, longer"
        );
        assert!(!in_drive(&drive, &ours).exists());
        assert_eq!(json(&drive, &["conflict", "ls"]), Value::Array(Vec::new()));
        drive.remount();
        assert!(!in_drive(&drive, &ours).exists());
        drive.unmount();
    });
}

#[test]
fn theirs_that_is_gone_is_no_reason_to_remove_ours() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let ours = in_conflict(site.path(), &drive);
        eventually("ours at the site", || at_site(site.path()).len() == 2);
        fs::remove_file(site.path().join("publish/plate.exr")).expect("removed");
        run(&drive, &["conflict", "keep-theirs", &ours]).failed(1, &["theirs is not there any more"]);
        assert_eq!(fs::read(in_drive(&drive, &ours)).expect("here"), b"ours!");
        drive.tell(["conflict", "keep-mine", &ours]);
        drive.tell(["wait", "--all"]);
        let wanted = (site.path().join("publish/plate.exr"), b"ours!".to_vec());
        assert_eq!(at_site(site.path()), [wanted]);
        drive.unmount();
    });
}
