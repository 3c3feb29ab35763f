//! Where the log goes, and how it looks there.

use std::fs::{self, File};
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::drive::{is_root, run_within, say};
use crate::home::Home;

/// Puts a folder in place of the journal's, for nobody but the program that follows.
const WITH_JOURNAL: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                            mount --bind \"$0\" /run/systemd/journal && exec \"$@\" 2>\"$LOG\"";

#[test]
fn under_systemd_the_log_goes_into_the_journal() {
    if !is_root() {
        say("SKIPPED: root (a journal of the test's own needs mounts)");
        return;
    }
    let home = Home::new();
    let settings = home.local_settings("");
    let dir = home.join("journal");
    fs::create_dir(&dir).expect("made");
    let journal = UnixDatagram::bind(dir.join("socket")).expect("a socket");
    journal
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a socket");
    let log = home.join("log");
    let stream = File::create(&log).expect("made").metadata().expect("there");
    let run = |told: String| {
        let inside = home.command();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", WITH_JOURNAL])
            .arg(&dir)
            .arg(inside.get_program())
            .arg("--config")
            .arg(&settings)
            .arg("scan")
            .env("HOME", home.path())
            .env("LOG", &log)
            .env("BACKLOT_LOG", "info")
            .env("JOURNAL_STREAM", told);
        let out = run_within(Duration::from_secs(60), &mut command);
        assert!(out.status.success(), "{out:?}");
        fs::read_to_string(&log).expect("read")
    };
    let said = run(format!("{}:{}", stream.st_dev(), stream.st_ino()));
    assert!(!said.contains("stopped"), "it is said twice: {said}");
    let mut all = String::new();
    let mut piece = vec![0; 64 << 10];
    while !all.contains("stopped") {
        let length = journal
            .recv(&mut piece)
            .unwrap_or_else(|e| panic!("{e}: nothing but {all}"));
        all += &String::from_utf8_lossy(&piece[..length]);
    }
    assert!(all.contains("SYSLOG_IDENTIFIER") && all.contains("PRIORITY"), "{all}");

    // Another stream than the journal's: what is said there is what somebody wants to read there.
    let said = run("1:1".to_owned());
    assert!(said.contains("stopped"), "{said}");
}

#[test]
fn a_log_in_json_is_a_value_a_line() {
    let home = Home::new();
    let settings = home.local_settings("");
    let text = fs::read_to_string(&settings).expect("read");
    fs::write(&settings, format!("{text}[log]\nformat = \"json\"\n")).expect("written");
    let mut command = home.command();
    command
        .env("BACKLOT_LOG", "info")
        .arg("--config")
        .arg(&settings)
        .arg("scan");
    let out = run_within(Duration::from_secs(60), &mut command);
    assert!(out.status.success(), "{out:?}");
    let said = String::from_utf8(out.stderr).expect("UTF-8");
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let values: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(
        values.iter().any(|line| line["fields"]["message"] == "stopped"),
        "{said}"
    );
}
