//! Programs that are told: what they get, and what they can't do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::common::drive::{drive_test, eventually_within};
use crate::receivers::{Answer, Hook, PATIENCE, Studio};

fn program(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

#[test]
fn a_program_gets_json_and_no_secret_and_no_shell_reads_its_arguments() {
    drive_test(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("out");
        let told = program(
            dir.path(),
            "told",
            &format!(
                "cat > {0}/json.part && env > {0}/env && printf '%s' \"$1\" > {0}/arg && mv {0}/json.part {0}/json",
                dir.path().display()
            ),
        );
        let arg = "$(touch /tmp/never); `x` \"; rm";
        let studio = Studio::new(|builder| {
            builder
                .set("receivers.farm.command", [told.to_str().expect("UTF-8"), arg].to_vec())
                .env("STUDIO_TOKEN", "topsecret")
        });
        studio.publish("it's $HOME.exr", b"a");
        eventually_within(PATIENCE, "the program's end", || dir.path().join("json").exists());
        let facts: Value = serde_json::from_slice(&fs::read(dir.path().join("json")).expect("there")).expect("JSON");
        assert_eq!(facts["paths"][0], "show/publish/it's $HOME.exr");
        assert_eq!(fs::read_to_string(dir.path().join("arg")).expect("there"), arg);
        let env = fs::read_to_string(dir.path().join("env")).expect("there");
        assert!(
            env.contains("PATH=") && env.contains("BACKLOT_ATTEMPT=1") && !env.contains("topsecret"),
            "{env}"
        );
        studio.message_that("what was told", |m| m["state"] == "told");
        assert!(!out.exists());
    });
}

#[test]
fn a_program_that_fails_or_hangs_is_tried_again_and_leaves_nothing_running() {
    drive_test(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().display();
        let fails = program(
            dir.path(),
            "fails",
            "cat > /dev/null; echo first >&2; echo 'no such queue' >&2; exit 7",
        );
        let hangs = program(
            dir.path(),
            "hangs",
            &format!("sleep 300 & echo $! > {at}/child.part; mv {at}/child.part {at}/child; wait"),
        );
        let quick = Hook::start(vec![Answer::Status(200)]);
        let studio = Studio::new(|builder| {
            builder
                .set("receivers.fails.command", [fails.to_str().expect("UTF-8")].to_vec())
                .set("receivers.hangs.command", [hangs.to_str().expect("UTF-8")].to_vec())
                .set("receivers.hangs.timeout", "1s")
                .set("receivers.gone.command", ["/no/such/program"].to_vec())
                .set("receivers.quick.webhook", quick.url())
        });
        studio.publish("a.exr", b"a");
        quick.exactly(1);
        for (receiver, why) in [
            ("fails", "exit status: 7: no such queue"),
            ("hangs", "took longer than 1s and was ended"),
            ("gone", "can't be started"),
        ] {
            let message = studio.message_that(receiver, |m| m["receiver"] == receiver && m["error"].is_string());
            let said = message["error"].as_str().expect("a reason");
            assert!(said.contains(why), "{receiver}: {said}");
            assert_eq!(message["state"], "waiting", "{message}");
        }
        let child: i32 = fs::read_to_string(dir.path().join("child"))
            .expect("there")
            .trim()
            .parse()
            .expect("a number");
        eventually_within(Duration::from_secs(5), "the end of what the program started", || {
            !Path::new(&format!("/proc/{child}")).exists()
        });
    });
}
