//! Where Backlot meets an operating system: the [`vfs::VirtualFs`] trait that a drive implements, and the hosts that
//! show it as a mount (FUSE here, WinFsp on Windows).
//!
//! Owns: the platform-neutral vocabulary of file operations, the one table from [`error::FsErrorKind`] to errno, mounting
//! and unmounting. Refuses to know: sites, caches, databases, configuration.

pub mod bridge;
pub mod error;
#[cfg(target_os = "linux")]
pub mod fuse;
pub mod histogram;
pub mod memory;
mod spam;
pub mod tally;
pub mod types;
pub mod vfs;
