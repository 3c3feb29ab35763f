//! Programs that nobody here wrote, at work in a folder of a real mount: once in a work folder, whose files stay on this
//! machine, and once in a publish folder, whose files are at the remote in the end, byte for byte. `.ci/tools` installs
//! the programs; what is not there is SKIPPED, or fails with `BACKLOT_TEST_REQUIRE_TOOLS=1`.
//!
//! With `BACKLOT_TEST_TOOLS_BASELINE=FOLDER` the same programs do the same on that folder in place of a drive: what fails
//! there as well is not the drive's doing.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod blender;
mod cargo_build;
mod ffmpeg;
mod fsx;
mod git;
mod manifest;
mod pjdfstest;
mod rsync;
mod sqlite;
mod stage;
