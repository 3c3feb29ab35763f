//! cargo with its target folder on the drive: builds, sees a change, sees none where there is none, and what it built runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::drive::run_within;
use crate::stage::{Stage, TOOL, Zone, or_skip, program, runs, staged};

/// cargo as a person runs it: without what the cargo that runs this test tells its children.
fn cargo(cargo: &Path, source: &Path, target: &Path) -> Command {
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_ours = ["CARGO", "RUST"].iter().any(|p| name.starts_with(p));
        if is_ours && !["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command
        .args(["build", "--offline", "--verbose", "--target-dir"])
        .arg(target)
        .current_dir(source);
    command
}

/// A library and a program that prints what the library says.
fn write_crate(at: &Path) {
    fs::create_dir_all(at.join("src")).unwrap();
    let manifest = "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(at.join("Cargo.toml"), manifest).unwrap();
    fs::write(at.join("src/main.rs"), "fn main() { println!(\"{}\", tiny::says()) }\n").unwrap();
}

fn write_lib(at: &Path, says: &str) {
    let lib = format!("pub fn says() -> &'static str {{ \"{says}\" }}\n");
    fs::write(at.join("src/lib.rs"), lib).unwrap();
}

/// Builds, and returns what cargo said it did.
fn build(command: &mut Command) -> String {
    let out = run_within(TOOL, command);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command:?}: {said}");
    said
}

fn check(program: &Path, stage: &mut Stage) {
    let target = stage.folder().join("target");
    // The sources elsewhere, as on a farm; and then beside the target folder.
    for source in [stage.scratch().join("tiny"), stage.folder().join("tiny")] {
        write_crate(&source);
        write_lib(&source, "first");
        let tiny = target.join("debug/tiny");
        let said = build(&mut cargo(program, &source, &target));
        assert!(said.contains("Compiling tiny"), "{said}");
        assert_eq!(runs(TOOL, &mut Command::new(&tiny)), "first\n");
        let said = build(&mut cargo(program, &source, &target));
        assert!(
            said.contains("Fresh tiny") && !said.contains("Compiling"),
            "nothing changed: {said}"
        );
        write_lib(&source, "second");
        let said = build(&mut cargo(program, &source, &target));
        assert!(said.contains("Compiling tiny"), "{said}");
        assert_eq!(runs(TOOL, &mut Command::new(&tiny)), "second\n");
    }
}

fn tools() -> Result<PathBuf, String> {
    program("BACKLOT_TEST_CC", "cc")?;
    program("BACKLOT_TEST_CARGO", "cargo")
}

fn cargo_in(zone: Zone) {
    if let Some(program) = or_skip("cargo", tools()) {
        staged(zone, TOOL, move |stage| check(&program, stage));
    }
}

#[test]
fn cargo_in_a_work_folder() {
    cargo_in(Zone::Work);
}

#[test]
fn cargo_in_a_publish_folder() {
    cargo_in(Zone::Publish);
}
