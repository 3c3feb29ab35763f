//! Drives whose site is a program of the studio's own, or Google Drive; and the double of Google Drive under Google's own
//! Python client.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/gdrive/mod.rs"]
mod gdrive;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::drive::{Builder, Drive, drive_test_within, eventually_within, say};
use gdrive::DriveDouble;

/// The variable that turns a missing client of Google's from a skip into a failure.
const REQUIRE_CLIENT: &str = "BACKLOT_TEST_REQUIRE_GDRIVE_CLIENT";
const SLOWLY: Duration = Duration::from_secs(60);
/// Both publish files of several parts twice, in a build without optimisation.
const ALL: Duration = Duration::from_secs(240);

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 3 + i / 65_536 + usize::from(seed)) % 251).unwrap())
        .collect()
}

/// Lists, reads, publishes, replaces; `at_site` is the site as another of its users sees it.
fn works(drive: &Drive, plate: &[u8], at_site: &dyn Fn(&str) -> Option<Vec<u8>>) {
    drive.scan();
    let names: Vec<_> = drive
        .ls("show/sq010")
        .iter()
        .map(|r| r["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["plate.exr"]);
    assert!(
        fs::read(drive.path("sq010/plate.exr")).unwrap() == plate,
        "what was read is what is there"
    );
    fs::create_dir_all(drive.path("sq010/publish")).unwrap();
    // A small file, and one of several parts.
    for (name, len) in [("small.txt", 10), ("big.exr", (17 << 20) + 17)] {
        for seed in [1, 2] {
            let whole = bytes(seed, len);
            fs::write(drive.path(format!("sq010/publish/{name}")), &whole).unwrap();
            eventually_within(SLOWLY, "the publish at the site", || {
                at_site(&format!("sq010/publish/{name}")).is_some_and(|b| b == whole)
            });
        }
    }
    let said = drive.tell(["wait", "show/sq010/publish"]);
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn a_drive_whose_site_is_a_program() {
    drive_test_within(ALL, || {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("sq010")).unwrap();
        let plate = bytes(9, 3_000_000);
        fs::write(site.path().join("sq010/plate.exr"), &plate).unwrap();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/folder_provider.py");
        let root = site.path().to_str().unwrap();
        let mut drive = Builder::of("exec")
            .site("command", vec!["python3", example, root])
            .set("hydration.read-deadline", "15s")
            .build()
            .mounted();
        works(&drive, &plate, &|at| fs::read(site.path().join(at)).ok());
        let left: Vec<_> = fs::read_dir(site.path().join("sq010/publish")).unwrap().collect();
        assert_eq!(left.len(), 2, "nothing is left beside what was published: {left:?}");
        drive.unmount();
    });
}

#[test]
fn a_drive_whose_site_is_google_drive() {
    drive_test_within(ALL, || {
        let double = DriveDouble::start();
        let plate = bytes(9, 3_000_000);
        let top = double.dir("0root", "projects");
        double.put(&top, "sq010/plate.exr", &plate);
        let credentials = serde_json::json!({ "linux": [double.credentials()] });
        let mut drive = Builder::of("gdrive")
            .site("root", "/My Drive/projects")
            .site("endpoint", double.url(""))
            .site("credentials", credentials)
            .set("hydration.read-deadline", "15s")
            .build()
            .mounted();
        works(&drive, &plate, &|at| double.get(&top, at));
        // A full drive is said, and waits for room.
        double.fault("PUT /upload/", 3, 403, "storageQuotaExceeded");
        fs::write(drive.path("sq010/publish/late.txt"), b"late").unwrap();
        eventually_within(SLOWLY, "the quota in the queue", || {
            drive.tell(["queue"]).contains("no room")
        });
        assert!(double.store().struck >= 1);
        double.store().faults.clear();
        drive.tell(["queue", "retry", "--all"]);
        eventually_within(SLOWLY, "the late publish", || {
            double.get(&top, "sq010/publish/late.txt").is_some()
        });
        drive.unmount();
    });
}

/// Finds the Python that `.ci/tools gdrive` installs Google's client for.
fn client() -> Option<PathBuf> {
    let tools = std::env::var_os("BACKLOT_TOOLS").map_or_else(|| PathBuf::from("/opt/backlot-tools"), PathBuf::from);
    let python = tools.join("gdrive/bin/python");
    let there = Command::new(&python)
        .args(["-c", "import googleapiclient, google.oauth2.service_account"])
        .output();
    if there.is_ok_and(|out| out.status.success()) {
        return Some(python);
    }
    assert!(
        std::env::var_os(REQUIRE_CLIENT).is_none_or(|v| v != "1"),
        "{REQUIRE_CLIENT}=1, and no client: see .ci/tools"
    );
    say("SKIPPED: gdrive-client (google-api-python-client is not installed: see .ci/tools)");
    None
}

#[test]
fn googles_own_client_takes_the_double_for_drive() {
    let Some(python) = client() else { return };
    let double = DriveDouble::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/drive_double.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .arg(double.url(""))
        .arg(double.credentials())
        .arg(gdrive::REFRESH);
    let out = common::drive::run_within(Duration::from_secs(120), &mut command);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success() && said.contains("ok"), "{said}");
}
