//! `backlot scan`: its report, an interruption, a folder that can't be listed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test, eventually, is_root, wait_within};
use crate::home::Said;

/// Folders of [`tree`], the root among them.
const FOLDERS: u64 = 61;

fn tree(root: &Path) {
    for shot in 0..FOLDERS - 1 {
        let dir = root.join(format!("sh{shot:04}"));
        fs::create_dir(&dir).expect("made");
        fs::write(dir.join("notes.txt"), b"x").expect("written");
    }
}

fn report(said: &str) -> Value {
    let mut all: Vec<Value> = serde_json::from_str(said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(all.len(), 1, "one project, one scan: {said}");
    all.remove(0)["progress"].take()
}

#[test]
fn the_report_counts_what_was_found_and_what_changed() {
    let site = tempfile::tempdir().expect("a folder");
    tree(site.path());
    let drive = Builder::local(site.path()).build();
    let p = report(&drive.tell(["scan", "--json"]));
    assert_eq!(
        (p["project"].as_str(), p["path"].as_str()),
        (Some("show"), Some("show"))
    );
    assert_eq!(p["folders"], FOLDERS);
    assert_eq!(p["entries"], (FOLDERS - 1) * 2);
    assert_eq!(
        (&p["done"], &p["error"], &p["failed"]),
        (&Value::Bool(true), &Value::Null, &Value::from(0))
    );

    fs::write(site.path().join("sh0007/new.txt"), b"x").expect("written");
    let p = report(&drive.tell(["scan", "--json", "show/sh0007"]));
    assert_eq!(
        (&p["folders"], &p["entries"], &p["changed"]),
        (&Value::from(1), &Value::from(2), &Value::from(1))
    );
    // The folder that got a file has a new time.
    assert_eq!(report(&drive.tell(["scan", "--json"]))["changed"], 1);
    let said: Said = drive.run(["scan"]).into();
    assert_eq!(
        said.err, "",
        "a scan that goes well has nothing to say on standard error"
    );
    assert_eq!(
        said.ok(),
        format!(
            "show: {FOLDERS} folders, {} entries, 0 changed\n",
            (FOLDERS - 1) * 2 + 1
        )
    );
}

#[test]
fn what_is_not_there_is_told_apart() {
    let site = tempfile::tempdir().expect("a folder");
    fs::write(site.path().join("notes.txt"), b"x").expect("written");
    let drive = Builder::local(site.path()).build();
    drive.scan();
    for (path, code, says) in [
        ("shwo", 2, "the projects of these settings: show"),
        ("show/sq999", 1, "no such file or folder"),
        ("show/notes.txt", 1, "not a folder"),
        ("../show", 2, "is not on the drive"),
    ] {
        let refused = drive.refused(["scan", path]);
        assert_eq!(refused.code, Some(code), "{refused:?}");
        assert!(refused.said.contains(says), "not said: {says}\n{refused:?}");
    }
    // The mount point's own spelling works too, mounted or not.
    drive.tell(["scan".as_ref(), drive.project().as_os_str()]);
}

#[test]
fn a_folder_that_cannot_be_listed_is_named_and_the_rest_is_taken() {
    let site = tempfile::tempdir().expect("a folder");
    tree(site.path());
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let shut = site.path().join("sh0003");
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).expect("ours");
    // As root nothing is shut, so another user looks.
    let builder = Builder::local(site.path());
    let drive = if is_root() {
        builder.user(65_534).build()
    } else {
        builder.build()
    };
    let said: Said = drive.run(["scan"]).into();
    said.failed(4, &["not listed: ", "sh0003"]);
    let said: Said = drive.run(["scan", "--json"]).into();
    assert_eq!(said.code, Some(4));
    let p = report(&said.out);
    assert_eq!(
        (&p["failed"], &p["folders"]),
        (&Value::from(1), &Value::from(FOLDERS - 1))
    );
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o755)).expect("ours");
    drive.scan();
}

/// A drive whose site answers slowly, so that a scan can be met in its midst.
fn slow(root: &Path) -> Drive {
    tree(root);
    Builder::local(root)
        .site("link-delay", "40ms")
        .set("scan.parallel", 1)
        .build()
}

/// Starts a scan and sends it a signal once it has listed a few folders.
fn interrupted(drive: &Drive, signal: Signal) -> Said {
    let mut command = drive.command();
    command
        .args(["scan", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut scan = command.spawn().expect("started");
    eventually("a scan in its midst", || {
        let status = drive.run(["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        status["projects"][0]["scanning"]["folders"]
            .as_u64()
            .is_some_and(|n| n >= 5)
    });
    kill_process(Pid::from_child(&scan), signal).expect("ours");
    assert!(
        wait_within(&mut scan, Duration::from_secs(10)).is_some(),
        "it does not end"
    );
    scan.wait_with_output().expect("ended").into()
}

#[test]
fn an_interrupted_scan_exits_with_4_and_the_next_one_goes_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let site = tempfile::tempdir().expect("a folder");
        let drive = slow(site.path());
        interrupted(&drive, signal).failed(4, &["interrupted", "it goes on where it stopped"]);
        let p = report(&drive.tell(["scan", "--json"]));
        let (resumed, folders) = (
            p["resumed_folders"].as_u64().expect("a count"),
            p["folders"].as_u64().expect("a count"),
        );
        assert!(resumed >= 5 && folders > 0, "{p}");
        assert_eq!(resumed + folders, FOLDERS, "no folder twice, none left out");
    }
}

#[test]
fn a_scan_that_the_daemon_does_goes_on_without_who_asked() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let mut drive = slow(site.path());
        drive.mount();
        interrupted(&drive, Signal::INT).failed(4, &["the daemon goes on with it"]);
        eventually("the end of the scan", || {
            let status = drive.status();
            status["projects"][0]["scanned_at_ms"].is_number() && status["entries"].as_u64() >= Some((FOLDERS - 1) * 2)
        });
        drive.unmount();
    });
}
