//! What a user sees of a mounted drive: the headings of `docs/semantics.md`, held against real mounts that the real program
//! serves in a child process. One file for what belongs together; its first line names the headings.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod bandwidth;
mod cache_folder;
mod changes;
mod child;
mod ending;
mod holes;
mod lookup;
mod names;
mod native;
mod native_stress;
mod native_writes;
mod read;
mod readdir;
mod server;
mod starting;
mod user;
mod versions;
