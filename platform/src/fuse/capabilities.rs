//! What is agreed with the kernel when a session begins.
//!
//! Invariant: an older kernel that lacks something costs speed, never the mount.

use std::io;

use fuser::{InitFlags, KernelConfig};

/// Largest write request, in bytes: the kernel's own limit unless `fs.fuse.max_pages_limit` was raised.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel may have in flight on its own account (read-ahead): what a window of 8 MiB needs at 128 KiB
/// each.
const MAX_BACKGROUND: u16 = 64;

/// What we ask of the kernel, each with what is lost where an older one has it not. Not here:
/// - EXPLICIT_INVAL_DATA: a size that the kernel learns before our notification would leave the old bytes cached, padded
///   with zeros to the new size. Without it such a size drops them; a new mtime alone drops nothing either way.
/// - ATOMIC_O_TRUNC: the open itself would cut the file before the kernel looks whether it is a program that runs, and such
///   a program dies of it (measured: 150 of 150 opens with O_RDONLY and O_TRUNC cut what they were refused).
/// - AUTO_INVAL_DATA: a new mtime would drop the page cache.
/// - WRITEBACK_CACHE and NO_OPEN_SUPPORT: both exclude passthrough.
/// - POSIX_LOCKS and FLOCK_LOCKS: the kernel's local locks are right for one machine.
/// - SETXATTR_EXT: fuser parses it wrong.
///
/// PASSTHROUGH is asked for apart, since it takes a right as well.
const CAPABILITIES: [(InitFlags, &str); 8] = [
    (InitFlags::FUSE_DO_READDIRPLUS, "listings bring no attributes"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "look-ups in one folder go one by one"),
    (
        InitFlags::FUSE_ABORT_ERROR,
        "a mount that is aborted may look like one that was unmounted",
    ),
    (InitFlags::FUSE_CACHE_SYMLINKS, "links are read again at each use"),
    (InitFlags::FUSE_ASYNC_DIO, "direct I/O goes one request at a time"),
    (
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        "files that are open for direct I/O can't be mapped",
    ),
    (
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        "each write asks for file capabilities first",
    ),
    (
        InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        "each listing opens its folder first",
    ),
];

/// What was agreed.
pub(super) struct Agreed {
    /// Folders are listed without being opened.
    pub(super) no_opendir: bool,
    /// The kernel reads files by itself; or why it does not.
    pub(super) native: Result<(), String>,
}

/// Asks for all of [`CAPABILITIES`], one by one, and sets the limits; with `native`, for reading files past us as well.
pub(super) fn negotiate(config: &mut KernelConfig, native: bool) -> io::Result<Agreed> {
    let mut no_opendir = false;
    for (flag, loss) in CAPABILITIES {
        if config.add_capabilities(flag).is_err() {
            tracing::info!(capability = ?flag, loss, "this kernel's FUSE is older than we like");
        } else if flag == InitFlags::FUSE_NO_OPENDIR_SUPPORT {
            no_opendir = true;
        }
    }
    // The nearest value is taken where ours is refused.
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        config
            .set_max_write(nearest)
            .map_err(|_| io::Error::other("no write size suits this kernel"))?;
    }
    if config.set_max_background(MAX_BACKGROUND).is_err() || config.set_congestion_threshold(MAX_BACKGROUND).is_err() {
        tracing::debug!("the kernel's limit of background requests stays as it is");
    }
    Ok(Agreed {
        no_opendir,
        native: negotiate_native(config, native),
    })
}

fn negotiate_native(config: &mut KernelConfig, wanted: bool) -> Result<(), String> {
    if !wanted {
        return Err("it is turned off by the settings".to_owned());
    }
    if !may_lend_files() {
        return Err("it takes the rights of root (CAP_SYS_ADMIN)".to_owned());
    }
    if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() || config.set_max_stack_depth(1).is_err() {
        return Err("this kernel has no FUSE passthrough (Linux 6.9 brought it)".to_owned());
    }
    Ok(())
}

/// Bit of CAP_SYS_ADMIN, which the kernel wants of whoever gives it a file to read.
const CAP_SYS_ADMIN: u32 = 21;

fn may_lend_files() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.is_some_and(|hex| u64::from_str_radix(hex.trim(), 16).is_ok_and(|caps| caps >> CAP_SYS_ADMIN & 1 == 1))
}
