//! What a user sees who saves and publishes files through a mounted drive, on good days and on bad ones: real mounts that
//! the real program serves in a child process. One file for what belongs together.
//!
//! `BACKLOT_TEST_SAVES` sets how many saves are interleaved with uploads (240; the long gate takes 10,000),
//! `BACKLOT_TEST_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod database;
mod keeping;
mod patterns;
mod promises;
mod rig;
mod server;
mod space;
mod zones;
