//! `backlot support-bundle`: what is in it, what never is, and that nothing holds it up.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test};
use crate::home::Home;

/// Unlike anything else that could be there.
const SECRET: &str = "zebra-Quartz-8812";
const CONTENT: &str = "pixels-of-the-lead-dying";

/// The parts of an archive, by name.
fn parts(file: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(file).expect("written")));
    let mut parts = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("whole");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        parts.insert(
            path.strip_prefix("backlot-support/").expect("in its folder").to_owned(),
            text,
        );
    }
    parts
}

/// A drive with secrets in every place where somebody may have put one, names that are nobody's business, and a queue.
fn drive(site: &Path, home: &Path) -> Drive {
    let secret = home.join("studio.secret");
    fs::write(&secret, format!("{SECRET}\n")).expect("written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::create_dir_all(site.join("moonfall/publish")).expect("made");
    fs::write(site.join("moonfall/the lead dies.mov"), CONTENT).expect("written");
    let mut drive = Builder::local(site)
        .set("projects.moonfall.remote-site", "site")
        .set("projects.show.remote-path", "moonfall")
        .set("sites.dav.provider", "webdav")
        .set("sites.dav.url", "http://127.0.0.1:1/projects")
        .set("sites.dav.user", "ada")
        .set("sites.dav.password", format!("file:{}", secret.display()))
        .set("sites.vendor.provider", "exec")
        .set(
            "sites.vendor.command",
            vec![
                "/bin/false".to_owned(),
                "--password".to_owned(),
                format!("{SECRET}-given"),
            ],
        )
        .set(
            "sites.vendor.environment",
            serde_json::json!({ "TOKEN": "env:STORE_TOKEN" }),
        )
        .env("STORE_TOKEN", format!("{SECRET}-in-a-variable"))
        .build();
    drive.tell(["scan", "moonfall"]);
    drive.mount();
    drive.tell(["queue", "pause"]);
    fs::write(drive.mount_point().join("moonfall/publish/the take.mov"), CONTENT).expect("written");
    // A daemon in the background writes its log here; somebody had it say too much.
    fs::write(
        drive.data_dir().join("backlot.log"),
        format!("INFO logged in password={SECRET} path=/srv/moonfall/the lead dies.mov size=3\nwith {SECRET} in it\n"),
    )
    .expect("written");
    drive
}

fn bundle(drive: &Drive, file: &Path, more: &[&str]) -> (Value, BTreeMap<String, String>) {
    let file_name = file.to_str().expect("UTF-8");
    let told = drive.tell([&["support-bundle", file_name, "--json"], more].concat());
    let report: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(report["file"], file_name);
    assert_eq!(fs::metadata(file).expect("written").permissions().mode() & 0o777, 0o600);
    (report, parts(file))
}

#[test]
fn it_has_what_helps_and_no_secret_and_no_content() {
    drive_test(|| {
        let (site, home) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let drive = drive(site.path(), home.path());
        let (report, parts) = bundle(&drive, &home.path().join("support.tar.gz"), &[]);
        for name in [
            "README.txt",
            "version.json",
            "settings.json",
            "status.json",
            "doctor.json",
            "queues.json",
            "tasks.json",
            "log.json",
            "backlot.log",
            "mountinfo.txt",
            "system.txt",
            "space.txt",
            "conflicts.json",
            "pins.json",
            "cache.json",
        ] {
            assert!(
                parts.get(name).is_some_and(|text| !text.is_empty()),
                "no {name} in {:?}",
                parts.keys()
            );
        }
        for (name, wanted) in [
            ("settings.json", "env:STORE_TOKEN"),
            ("status.json", "site_id"),
            ("doctor.json", "\"daemon\""),
            ("tasks.json", "moonfall/publish/the take.mov"),
            ("backlot.log", "logged in password=[redacted]"),
            ("backlot.log", "with [redacted] in it"),
            ("mountinfo.txt", "fuse.backlot"),
            ("system.txt", "Linux version"),
        ] {
            assert!(parts[name].contains(wanted), "{name} has no {wanted}: {}", parts[name]);
        }
        let version: Value = serde_json::from_str(&parts["version.json"]).expect("JSON");
        assert_eq!(version["daemon"]["pid"], drive.pid());
        for (name, text) in &parts {
            assert!(!text.contains(SECRET), "the secret is in {name}: {text}");
            assert!(!text.contains(CONTENT), "a file's content is in {name}");
        }
        assert_eq!(report["lacks"], serde_json::json!([]));
        // It is not written over.
        let again = drive.refused([
            "support-bundle",
            home.path().join("support.tar.gz").to_str().expect("UTF-8"),
        ]);
        assert!(again.said.contains("File exists"), "{again:?}");
    });
}

#[test]
fn without_paths_no_name_of_anybodys_is_in_it() {
    drive_test(|| {
        let (site, home) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let drive = drive(site.path(), home.path());
        let (_, parts) = bundle(&drive, &home.path().join("support.tar.gz"), &["--no-paths"]);
        for (name, text) in &parts {
            for private in ["moonfall", "the lead", "the take", "dies.mov", SECRET] {
                assert!(!text.contains(private), "{private} is in {name}: {text}");
            }
        }
        // What is counted and how it stands is there all the same.
        let tasks: Value = serde_json::from_str(&parts["tasks.json"]).expect("JSON");
        assert_eq!(tasks["tasks"][0]["state"], "waiting");
        assert!(
            tasks["tasks"][0]["path"]
                .as_str()
                .is_some_and(|path| path.ends_with(".mov")),
            "{tasks}"
        );
        assert!(parts["backlot.log"].contains("size=3"), "{}", parts["backlot.log"]);
    });
}

#[test]
fn a_daemon_that_hangs_holds_it_up_for_seconds_and_is_told_of() {
    drive_test(|| {
        let (site, home) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let drive = drive(site.path(), home.path());
        drive.signal(Signal::STOP);
        let begun = Instant::now();
        let (report, parts) = bundle(&drive, &home.path().join("support.tar.gz"), &[]);
        drive.signal(Signal::CONT);
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        let lacks = report["lacks"][0].as_str().expect("something");
        assert!(lacks.contains("did not answer"), "{report}");
        assert!(
            parts["README.txt"].contains("did not answer"),
            "{}",
            parts["README.txt"]
        );
        assert!(
            !parts.contains_key("status.json")
                && parts.contains_key("doctor.json")
                && parts.contains_key("backlot.log")
        );
    });
}

#[test]
fn without_a_daemon_or_with_settings_that_are_wrong_it_is_written_too() {
    let home = Home::new();
    home.local_settings("");
    let said = home.run(["-c", "backlot.toml", "support-bundle", "one.tar.gz"]).ok();
    assert!(
        said.contains("wrote ") && said.contains("the daemon is not running"),
        "{said}"
    );
    let settings = fs::read_to_string(home.join("backlot.toml")).expect("read");
    fs::write(
        home.join("backlot.toml"),
        settings + &format!("[api]\nadmin-token = \"{SECRET}\"\n"),
    )
    .expect("written");
    let said = home.run(["-c", "backlot.toml", "support-bundle", "two.tar.gz"]).ok();
    assert!(said.contains("can't be used"), "{said}");
    let parts = parts(&home.join("two.tar.gz"));
    assert!(
        parts["settings.txt"].contains("admin-token"),
        "{}",
        parts["settings.txt"]
    );
    assert!(parts.values().all(|text| !text.contains(SECRET)));
    let refused = home.run(["-c", "one.toml", "support-bundle", "none/three.tar.gz"]);
    refused.failed(1, &["No such file or directory"]);
}
