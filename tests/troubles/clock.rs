//! A machine whose clock is wrong, at a store that looks at the time of what is signed: `rclone serve s3` behind a gate. The
//! daemon's clock is set by libfaketime, and set right while it runs.

use std::fs;
use std::path::Path;

use crate::common::drive::{Builder, Drive, drive_test_within, eventually_within, say};
use crate::common::tree::files_at;
use crate::common::web::{Service, WebServer};
use crate::gate::Gate;
use crate::rig::{BUCKET, DRAIN, LIMIT, assert_same, blocked, bytes, json, local, put};

/// The variable that turns a missing libfaketime from a skip into a failure.
const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_FAKETIME";

/// libfaketime, where Debian puts it.
fn library() -> Option<String> {
    let found = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|entry| {
            let file = entry.path().join("faketime/libfaketimeMT.so.1");
            file.is_file().then_some(file)
        });
    if found.is_none() {
        let why = "libfaketime is not installed: see .ci/run";
        assert!(
            std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
            "{REQUIRE}=1, and {why}"
        );
        say(&format!("SKIPPED: faketime ({why})"));
    }
    found.map(|file| file.to_str().unwrap().to_owned())
}

/// Moves the clock of everything that reads it from the file.
fn set_clock(file: &Path, offset: &str) {
    let aside = file.with_extension("new");
    fs::write(&aside, offset).unwrap();
    fs::rename(aside, file).unwrap();
}

fn clock_is_named(drive: &Drive, word: &str) -> bool {
    blocked(
        drive,
        "auth",
        &["vault", "this machine's clock is", word, "set the clock"],
    )
}

#[test]
fn a_wrong_clock_is_named_holds_up_no_other_site_and_loses_nothing() {
    drive_test_within(LIMIT, || {
        let Some(library) = library() else { return };
        let Some(vault) = WebServer::start_or_skip(Service::RcloneS3) else {
            return;
        };
        fs::create_dir(vault.root().join(BUCKET)).unwrap();
        let gate = Gate::start(vault.port());
        let mut settings = vault.s3(BUCKET);
        settings.endpoint = gate.address();
        let dir = tempfile::tempdir().unwrap();
        let (hq, london, clock) = (
            dir.path().join("hq"),
            dir.path().join("london"),
            dir.path().join("clock"),
        );
        for n in 0..12 {
            put(&hq, &format!("a/{n:02}.exr"), &bytes(n, 20_000));
            put(&hq, &format!("b/{n:02}.exr"), &bytes(n + 50, 20_000));
        }
        set_clock(&clock, "+0");
        let drive = local(Builder::local(&hq), "london", &london)
            .s3_site("vault", &settings)
            .set("publish.retry-max", "1s")
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .build()
            .mounted();
        let at_vault = vault.root().join(BUCKET).join("show");
        drive.tell(["push", "show/a", "--to", "vault", "--wait"]);
        assert_eq!(files_at(&at_vault).len(), 12, "with a right clock it works");

        for (offset, word) in [("+1h", "ahead of"), ("-1h", "behind")] {
            for n in 0..12 {
                put(
                    &hq,
                    &format!("a/{n:02}.exr"),
                    &bytes(n + offset.len() + word.len(), 21_000),
                );
            }
            let (before, away) = (files_at(&at_vault), gate.turned_away());
            set_clock(&clock, offset);
            // Until the daemon has looked at the file that says what the clock is.
            std::thread::park_timeout(std::time::Duration::from_secs(2));
            drive.tell(["push", "show/a", "--to", "vault", "--overwrite"]);
            eventually_within(DRAIN, "the clock is named in the queue", || {
                clock_is_named(&drive, word)
            });
            let out = drive.run(["site", "check", "vault"]);
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(!out.status.success() && said.contains("clock is"), "{said}");

            // Another site is not concerned.
            drive.tell(["push", "show/b", "--to", "london", "--wait"]);
            assert_same(&hq.join("b"), &london.join("show/b"));
            assert!(files_at(&at_vault) == before, "something came to the vault, or went");

            assert!(gate.turned_away() > away, "the store did not look at the clock");

            // Set right, it goes on by itself.
            set_clock(&clock, "+0");
            eventually_within(DRAIN, "all of it is at the vault", || {
                json(&drive, &["queue", "ls"]) == serde_json::json!([])
            });
            assert_same(&hq.join("a"), &at_vault.join("a"));
            fs::remove_dir_all(london.join("show")).unwrap();
        }
    });
}
