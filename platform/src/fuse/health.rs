//! What may be said of a mount, or of the chance of one, without being caught by it: for a doctor.
//!
//! Invariant: only the kernel's tables, /dev and /sys are read. The one question that a mount itself is asked (is your
//! daemon alive?) is asked by a thread that can be left behind, so a mount that does not answer costs two seconds.

use std::path::Path;

use rustix::fs::{Access, access};

use super::abort;
use super::device;
use super::error::MountError;
use super::mountinfo::MountTable;
use super::point::{self, Life};

/// The state of a mount point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountHealth {
    /// Nothing is mounted there.
    NotMounted,
    /// A drive of ours is, and its daemon is alive as far as the kernel knows.
    Ours {
        /// Requests that wait for an answer; 0 too where this user may not know.
        waiting: u64,
    },
    /// A drive of ours whose daemon is gone.
    Dead,
    /// Something else is mounted there.
    Other {
        /// Its file system type.
        fs_type: String,
    },
}

/// Looks at a mount point.
#[must_use]
pub fn mount_health(mount_point: &Path) -> MountHealth {
    let Ok(table) = MountTable::read() else {
        return MountHealth::NotMounted;
    };
    let Ok(point) = table.resolve(mount_point) else {
        return MountHealth::NotMounted;
    };
    let Some(mount) = table.at(&point) else {
        return MountHealth::NotMounted;
    };
    if !mount.is_ours() {
        return MountHealth::Other {
            fs_type: mount.fs_type.clone(),
        };
    }
    if matches!(point::probe_mount(mount), Life::Dead) {
        return MountHealth::Dead;
    }
    MountHealth::Ours {
        waiting: abort::waiting(mount.minor).unwrap_or(0),
    }
}

/// Says whether a drive of ours is mounted there and answers; one that does not let this user in can't be asked, and does not.
/// Takes two seconds where it is silent.
#[must_use]
pub fn mount_answers(mount_point: &Path) -> bool {
    let Ok(table) = MountTable::read() else { return false };
    let Ok(point) = table.resolve(mount_point) else {
        return false;
    };
    let Some(mount) = table.at(&point).filter(|mount| mount.is_ours()) else {
        return false;
    };
    let us = rustix::process::geteuid();
    let is_admitted = us.is_root() || mount.only_for.is_none_or(|(uid, _)| uid == us.as_raw());
    is_admitted && matches!(point::probe_mount(mount), Life::Answers)
}

/// Says whether two paths lead to the same place, without a question to any mount. Where one can't be followed, they are
/// compared as written.
#[must_use]
pub fn is_same_place(a: &Path, b: &Path) -> bool {
    if a.components().eq(b.components()) {
        return true;
    }
    let resolved = |table: &MountTable| Some((table.resolve(a).ok()?, table.resolve(b).ok()?));
    let resolved = MountTable::read().ok().as_ref().and_then(resolved);
    resolved.is_some_and(|(a, b)| a == b)
}

/// Says whether this user could mount a drive on this machine.
///
/// # Errors
/// What is in the way.
pub fn preflight(allow_other: bool) -> Result<(), MountError> {
    let device = Path::new("/dev/fuse");
    if let Err(e) = rustix::fs::stat(device) {
        return Err(MountError::NoDevice(e.into()));
    }
    // fusermount3 opens the device with the rights of its caller, so everybody needs them.
    access(device, Access::READ_OK | Access::WRITE_OK).map_err(|e| MountError::DeviceDenied(e.into()))?;
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if device::helper().is_none() {
        return Err(MountError::HelperMissing);
    }
    let allowed = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if allow_other && !allowed.lines().any(|line| line.trim() == "user_allow_other") {
        return Err(MountError::AllowOtherDenied);
    }
    Ok(())
}
