//! What file managers show and offer: their extension, run on a real drive; by Python alone with stand-ins for the file
//! manager's own modules, and inside a real Nautilus where there is one.
//!
//! Owns: the extension's facts and requests. Refuses to know: how a file manager looks.

#[path = "../common/mod.rs"]
mod common;

mod nautilus;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::drive::{Builder, drive_test, find_program, run_within, say};

/// Starts a program a dozen times, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(80);

#[test]
fn the_file_managers_extension_shows_states_and_does_what_it_offers() {
    drive_test(|| {
        let Some(python) = find_program("python3") else {
            let tools = std::env::var_os("BACKLOT_TEST_REQUIRE_TOOLS").is_some_and(|v| v == "1");
            assert!(!tools, "no python3");
            say("SKIPPED: tools (no python3)");
            return;
        };
        let site = tempfile::tempdir().expect("a folder");
        std::fs::write(site.path().join("the plate.exr"), vec![7; 200_000]).expect("written");
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("other.exr"), b"x").expect("written");
        let drive = Builder::local(site.path())
            .set("volumes.storage.linux", "/storage")
            .set("volumes.storage.windows", "S:\\")
            .build()
            .mounted();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(python);
        command
            .arg(root.join("tests/desktop/extension.py"))
            .arg(root.join("packaging/desktop/backlot_files.py"))
            .arg(drive.project())
            .arg(outside.path())
            .env("BACKLOT_PROGRAM", env!("CARGO_BIN_EXE_backlot"))
            .env("BACKLOT_CONFIG", drive.settings())
            .current_dir("/");
        let out = run_within(LIMIT, &mut command);
        let said = String::from_utf8_lossy(&out.stdout);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.trim() == "ok", "{said}{err}");
    });
}
