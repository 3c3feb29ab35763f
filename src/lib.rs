//! Backlot mounts a studio's projects as a drive: the whole tree is there at once, bytes come when they are opened.
//!
//! The map, from the bottom up; each arrow points down only (`tests/architecture.rs` holds it):
//!
//! - [`model`]: ids, paths, versions, states. Pure.
//! - [`state`]: the sync state store, one SQLite database; the single truth for names.
//! - [`providers`]: speaking to sites: a disk, an SFTP server; and the layers around them.
//! - [`transfer`]: sending what the queue holds to sites, and removing things there.
//! - [`engine`]: the drive: hydration, scans, the file operations that a host mounts.
//! - [`notify`]: telling people what became of their jobs.
//! - [`api`]: the daemon's HTTP interface on a Unix socket.
//! - [`daemon`]: the process that owns a drive and puts the parts together.
//! - [`cli`]: one file per verb; a client of [`api`].
//!
//! For tests, [`failpoint`]: named places where the process can be made to die.
//!
//! Beside them three leaf crates that know neither each other nor this one: `backlot-config` (settings), `backlot-cache`
//! (bytes on disk), `backlot-platform` (the mount). A reader's way in: `platform/src/vfs.rs`, then
//! `src/engine/filesystem.rs`.

pub mod api;
pub mod cli;
pub mod daemon;
pub mod engine;
pub mod failpoint;
pub mod model;
pub mod notify;
pub mod providers;
pub mod state;
pub mod telemetry;
pub mod transfer;
mod web;
