//! What verbs that change something print for programs (`--json`).

use std::fs;

use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test, eventually};
use crate::home::Home;

fn told(drive: &Drive, args: &[&str]) -> Value {
    let text = drive.tell([args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

#[test]
fn queues_tasks_and_mounts_are_steered_by_programs() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        fs::create_dir(site.path().join("publish")).expect("made");
        let drive = Builder::local(site.path()).set("publish.settle", "50ms").build();
        drive.scan();
        let mounted = told(&drive, &["mount", "--daemon"]);
        assert_eq!(mounted["mount_point"], drive.mount_point().to_str().expect("UTF-8"));
        assert_eq!(mounted["pid"], drive.status()["pid"]);
        assert_eq!(told(&drive, &["queue", "pause"])[0]["paused"], true);
        fs::write(drive.path("publish/comp.nk"), b"Root {}").expect("written");
        eventually("it is in the queue", || {
            told(&drive, &["queue", "ls"])[0]["state"] == "waiting"
        });
        assert_eq!(told(&drive, &["queue", "hold", "--all"])["tasks"], 1);
        assert_eq!(told(&drive, &["queue", "ls"])[0]["state"], "held");
        assert_eq!(told(&drive, &["queue", "release", "--all"])["tasks"], 1);
        assert_eq!(
            told(&drive, &["queue", "set", "show", "--priority", "900"])[0]["priority"],
            900
        );
        assert_eq!(told(&drive, &["queue", "cancel", "--all"])["tasks"], 1);
        assert_eq!(told(&drive, &["queue", "retry", "show/publish"])["queued"], 1);
        let left = told(&drive, &["unmount"]);
        assert_eq!(left["mount_point"], mounted["mount_point"]);
        assert_eq!(left["left"]["files"], 1, "{left}");
        assert_eq!(drive.refused(["unmount", "--json"]).code, Some(3));
    });
}

#[test]
fn settings_are_begun_and_checked_by_programs() {
    let home = Home::new();
    let file = home.join("new.toml");
    let file = file.to_str().expect("UTF-8");
    let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let written = parse(home.run(["config", "init", "--system", file, "--json"]).ok());
    assert_eq!(written["file"], file);
    let checked = parse(home.run(["-c", file, "config", "check", "--json"]).ok());
    assert_eq!(
        (&checked["sites"], &checked["projects"]),
        (&Value::from(1), &Value::from(1))
    );
    assert_eq!(checked["files"][0], file);
    let shown = home.run(["-c", file, "config", "show"]).ok();
    assert!(shown.contains("\"/var/lib/backlot\""), "{shown}");
}
