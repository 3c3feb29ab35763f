//! Ending a mount by its path, from any process: in order, or at once; by force in [`abort`](super::abort).
//!
//! Invariant: the mount itself is never asked anything; its identity comes from the kernel's table.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::device;
use super::error::UnmountError;
use super::holders;
use super::mountinfo::{MountEntry, MountTable};

pub(super) const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A mount that is busy, and that nobody who can be found uses, is tried again for so long: the kernel lets go of what a process
/// had open a moment after that has closed it, or has ended.
const PASSING: Duration = Duration::from_secs(1);

/// How to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Only if nobody uses it.
    Normal,
    /// Vanishes from the tree at once; ends when its last user does.
    Lazy,
}

/// Unmounts the FUSE mount at `mount_point` on behalf of a daemon that is gone or does not listen. Nothing mounted there
/// is an error of kind `NotFound`.
pub fn unmount_path(mount_point: &Path, how: Unmount) -> Result<(), UnmountError> {
    let mount = find(mount_point).map_err(|source| error(mount_point, source))?;
    unmount_entry(&mount, how)
}

pub(super) fn find(path: &Path) -> io::Result<MountEntry> {
    let table = MountTable::read()?;
    let point = table.resolve(path)?;
    let mount = table.at(&point).filter(|m| m.is_fuse()).cloned();
    mount.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no FUSE file system is mounted there"))
}

pub(super) fn error(point: &Path, source: io::Error) -> UnmountError {
    UnmountError {
        mount_point: point.to_owned(),
        busy: Vec::new(),
        source,
    }
}

pub(super) fn unmount_entry(mount: &MountEntry, how: Unmount) -> Result<(), UnmountError> {
    let flags = match how {
        Unmount::Normal => UnmountFlags::NOFOLLOW,
        Unmount::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    let give_up = Instant::now() + PASSING;
    loop {
        let Err(source) = or_gone(mount, unmount(&mount.point, flags)) else {
            return Ok(());
        };
        let is_busy = source.kind() == io::ErrorKind::ResourceBusy;
        let busy = match is_busy {
            true => holders::holders(&mount.point),
            false => Vec::new(),
        };
        if is_busy && busy.is_empty() && Instant::now() < give_up {
            thread::park_timeout(PASSING / 20);
            continue;
        }
        return Err(UnmountError {
            mount_point: mount.point.clone(),
            busy,
            source,
        });
    }
}

/// Forgives a failure to take away what somebody else just took away: a session that ends clears its own mount, too.
pub(super) fn or_gone(mount: &MountEntry, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(_) if MountTable::read().is_ok_and(|table| !table.contains(mount)) => Ok(()),
        result => result,
    }
}

/// Takes a mount out of the tree, whoever uses it.
pub(super) fn detach(point: &Path) -> io::Result<()> {
    unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

fn unmount(point: &Path, flags: UnmountFlags) -> io::Result<()> {
    match rustix::mount::unmount(point, flags) {
        Err(Errno::PERM) => device::unmount_by_helper(point, flags.contains(UnmountFlags::DETACH)),
        result => Ok(result?),
    }
}
