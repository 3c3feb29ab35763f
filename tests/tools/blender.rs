//! Blender, as the Python module `bpy`: saves a scene twice, which keeps the first as a backup, and opens it again in a
//! process of its own. `BACKLOT_TEST_BPY_PYTHON` names a Python that has the module.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::drive::run_within;
use crate::manifest::Manifest;
use crate::stage::{INSTALLED, Stage, TOOL, Zone, or_skip, runs, staged};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/blender.py");

fn blender(python: &Path, verb: &str, file: &Path) -> String {
    let mut command = Command::new(python);
    // `-I`: nothing from the folder it is started in, nothing from the user's own Python.
    runs(TOOL, command.args(["-I", SCRIPT, verb]).arg(file))
}

fn check(python: &Path, stage: &mut Stage) {
    for name in ["plain", "packed"] {
        let scene = stage.folder().join(format!("{name}.blend"));
        let said = blender(python, &format!("save-{name}"), &scene);
        assert!(said.contains("saved 1\n") && said.contains("saved 2\n"), "{said}");
        let said = blender(python, "open", &scene);
        assert!(said.contains("objects: Cube Sphere\n"), "{said}");
        let said = blender(python, "open", &stage.folder().join(format!("{name}.blend1")));
        assert!(said.contains("objects: Cube\n"), "{said}");
    }
    assert_eq!(Manifest::of(stage.folder()).len(), 4, "no temporary file is left");
}

fn python() -> Result<PathBuf, String> {
    let installed = || Path::new(INSTALLED).join("bpy/bin/python");
    let python = std::env::var_os("BACKLOT_TEST_BPY_PYTHON").map_or_else(installed, PathBuf::from);
    if !python.exists() {
        return Err(format!("no {}; .ci/tools installs it", python.display()));
    }
    let tried = run_within(TOOL, Command::new(&python).args(["-I", "-c", "import bpy"]));
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        return Err(format!("no bpy: {}", said.lines().last().unwrap_or_default()));
    }
    Ok(python)
}

fn blender_in(zone: Zone) {
    if let Some(python) = or_skip("blender", python()) {
        staged(zone, TOOL, move |stage| check(&python, stage));
    }
}

#[test]
fn blender_in_a_work_folder() {
    blender_in(Zone::Work);
}

#[test]
fn blender_in_a_publish_folder() {
    blender_in(Zone::Publish);
}
