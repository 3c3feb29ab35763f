//! What can go wrong with mounting and unmounting, in words for the person at the keyboard.
//!
//! Invariant: every error says what failed and why; [`MountError::hint`] and [`UnmountError::hint`] say what to do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::holders::Holder;

/// Why a drive could not be mounted.
#[derive(thiserror::Error, Debug)]
pub enum MountError {
    /// The mount point does not exist.
    #[error("cannot mount on {}: there is no such folder", .0.display())]
    Missing(PathBuf),
    /// The mount point is something else than a folder.
    #[error("cannot mount on {}: it is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The mount point has entries, which the mount would hide.
    #[error("cannot mount on {}: the folder is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A FUSE file system is mounted there already.
    #[error(
        "cannot mount on {}: {source_name} ({fs_type}) is mounted there already{}",
        .point.display(), if *.answers { "" } else { ", and does not answer" }
    )]
    AlreadyMounted {
        /// The mount point.
        point: PathBuf,
        /// What the mount calls its source.
        source_name: String,
        /// Its file system type.
        fs_type: String,
        /// It answers requests; a foreign one is not asked and taken to.
        answers: bool,
    },
    /// A mount left by a crashed process is in the way and could not be cleared.
    #[error("cannot mount on {}: a dead mount is in the way and cannot be cleared", .point.display())]
    Dead {
        /// The mount point.
        point: PathBuf,
        /// Why clearing failed.
        source: io::Error,
    },
    /// The kernel offers no FUSE device.
    #[error("cannot mount: there is no /dev/fuse")]
    NoDevice(#[source] io::Error),
    /// The FUSE device may not be opened.
    #[error("cannot mount: /dev/fuse may not be opened")]
    DeviceDenied(#[source] io::Error),
    /// An ordinary user has no helper to mount with.
    #[error("cannot mount as an ordinary user: fusermount3 was not found")]
    HelperMissing,
    /// `allow_other` was asked for by an ordinary user, and this machine does not let them.
    #[error("cannot mount for other users: /etc/fuse.conf does not allow it to ordinary users")]
    AllowOtherDenied,
    /// The helper refused.
    #[error("cannot mount on {}: fusermount3 says: {said}", .point.display())]
    HelperFailed {
        /// The mount point.
        point: PathBuf,
        /// Its own words.
        said: String,
    },
    /// The kernel does not let this process mount, though it runs as root.
    #[error("cannot mount on {}: this process may not mount, although it runs as root", .0.display())]
    NotPermitted(PathBuf),
    /// An option has no place in a mount.
    #[error("cannot mount: the name {0:?} holds a character that a mount's source cannot have")]
    BadName(String),
    /// A step failed for another reason.
    #[error("cannot mount on {}: {step}", .point.display())]
    Failed {
        /// The mount point.
        point: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl MountError {
    /// Returns what to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Missing(point) => format!("make it first: mkdir -p {}", quoted(point)),
            Self::NotAFolder(_) => "choose a folder as the mount point".into(),
            Self::NotEmpty(_) => "choose an empty folder, or move its entries away: a mount would hide them".into(),
            Self::AlreadyMounted { point, .. } => format!("unmount it first: umount {}", quoted(point)),
            Self::Dead { point, .. } => {
                format!(
                    "clear it: fusermount3 -uz {0} or, as root: umount -l {0}",
                    quoted(point)
                )
            }
            Self::NoDevice(_) => "load FUSE with `modprobe fuse`; a container needs `--device /dev/fuse`".into(),
            Self::DeviceDenied(_) => {
                "let this user read and write it (`chmod 666 /dev/fuse`, which most distributions do), or run as root; a container needs `--device /dev/fuse --cap-add SYS_ADMIN`".into()
            }
            Self::HelperMissing => "install the package fuse3, or run as root".into(),
            Self::AllowOtherDenied => {
                "add a line `user_allow_other` to /etc/fuse.conf, or mount without allow_other".into()
            }
            Self::HelperFailed { .. } => {
                "see that you own the mount point and that /etc/fuse.conf allows the mount".into()
            }
            Self::NotPermitted(_) => "a container needs `--cap-add SYS_ADMIN --device /dev/fuse`".into(),
            Self::BadName(_) => "choose a name without line breaks and NUL".into(),
            Self::Failed { .. } => "see the cause; `dmesg` may say more".into(),
        }
    }
}

/// Why a mount could not be unmounted or aborted.
#[derive(Debug)]
pub struct UnmountError {
    /// The mount point.
    pub mount_point: PathBuf,
    /// Who uses it, as far as this user may see; empty unless that was the reason.
    pub busy: Vec<Holder>,
    /// The kernel's or the helper's answer.
    pub source: io::Error,
}

impl UnmountError {
    /// Returns whether the reason is that the mount is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.source.kind() == io::ErrorKind::ResourceBusy
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        if !self.is_busy() {
            "see the cause; only the mount's owner and root may unmount it"
        } else if self.busy.is_empty() {
            "it is used by processes that only root can see; close them, or unmount lazily"
        } else {
            "close them, or unmount lazily: the mount then vanishes now and ends when the last of them does"
        }
    }
}

impl fmt::Display for UnmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot unmount {}", self.mount_point.display())?;
        if self.is_busy() {
            f.write_str(": it is in use")?;
            for (i, holder) in self.busy.iter().enumerate() {
                write!(f, "{} {holder}", if i == 0 { " by" } else { "," })?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for UnmountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn quoted(path: &std::path::Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
