//! The cache as a user meets it: bytes that rot in it, the look through it in the background, days of work on one that is
//! far too small, disks that fail under it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod disks;
mod endurance;
mod flips;
mod hashes;
mod rot;
mod scale;
mod scrub;
