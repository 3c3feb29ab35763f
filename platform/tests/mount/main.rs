//! The FUSE host against the real kernel, with the drive served by a process of its own: a mount used by the process that
//! serves it can deadlock.
#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stdout,
    reason = "what is skipped, and what cannot be cleaned up, is said"
)]

mod caches;
mod checks;
mod ending;
mod faults;
mod files;
mod listing;
mod memfs;
mod native;
mod rig;
mod served;
mod user;
mod writing;
