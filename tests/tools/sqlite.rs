//! SQLite with a write-ahead log: several processes write and read one database at once, one of them is killed.
//! `BACKLOT_TEST_SQLITE_TRANSACTIONS` sets how many transactions each writer makes (200).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::drive::run_within;
use crate::stage::{Stage, TOOL, Zone, number, or_skip, program, runs, staged};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/sqlite.py");

fn sqlite(python: &Path, verb: &str, database: &Path, more: &[String]) -> String {
    let mut command = Command::new(python);
    runs(TOOL, command.args(["-I", SCRIPT, verb]).arg(database).args(more))
}

fn check(python: &Path, stage: &mut Stage) {
    let database = stage.folder().join("assets.db");
    let transactions = number("BACKLOT_TEST_SQLITE_TRANSACTIONS", 200).to_string();
    let said = sqlite(python, "load", &database, &[transactions]);
    assert!(said.contains("killed: 1\n"), "the fault fired: {said}");
    let rows = said.lines().last().expect("how many rows").to_owned();
    assert_eq!(sqlite(python, "check", &database, &[]).trim(), rows);
    stage.drain();
    if let Some(remote) = stage.at_remote() {
        assert_eq!(sqlite(python, "check", &remote.join("assets.db"), &[]).trim(), rows);
    }
}

fn python() -> Result<PathBuf, String> {
    let python = program("BACKLOT_TEST_PYTHON", "python3")?;
    let tried = run_within(TOOL, Command::new(&python).args(["-I", "-c", "import sqlite3"]));
    let has = tried.status.success();
    has.then_some(python).ok_or_else(|| "python3 has no sqlite3".to_owned())
}

fn sqlite_in(zone: Zone) {
    if let Some(python) = or_skip("sqlite", python()) {
        staged(zone, TOOL, move |stage| check(&python, stage));
    }
}

#[test]
fn sqlite_in_a_work_folder() {
    sqlite_in(Zone::Work);
}

#[test]
fn sqlite_in_a_publish_folder() {
    sqlite_in(Zone::Publish);
}
