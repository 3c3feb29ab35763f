//! From a folder to the two ends of a FUSE mount: the kernel's, visible, and ours, a file descriptor.
//!
//! Owns: the mount(2) of the privileged and the fusermount3 of everybody else. fuser could do both, but then unmounts by
//! itself at the end of a session, by path, whatever is mounted there by then, and cannot say `busy` (its `is_mounted`
//! takes a dead connection for a live one). So it gets the descriptor only.

use std::ffi::{CString, OsStr};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::SUBTYPE;
use super::error::MountError;

/// What a mount shows of itself.
pub(super) struct Shown<'a> {
    pub(super) fs_name: &'a str,
    pub(super) allow_other: bool,
    pub(super) read_only: bool,
    pub(super) no_exec: bool,
}

/// Mounts on `point`, which must be absolute and free of links, and returns the connection.
pub(super) fn mount(point: &Path, shown: &Shown<'_>) -> Result<OwnedFd, MountError> {
    if shown.fs_name.chars().any(char::is_control) {
        return Err(MountError::BadName(shown.fs_name.to_owned()));
    }
    match direct(point, shown) {
        // Whoever may not mount has a helper that may. For root it would fail for the same reason.
        Err(MountError::DeviceDenied(_) | MountError::NotPermitted(_)) if !rustix::process::geteuid().is_root() => {
            by_helper(point, shown)
        }
        result => result,
    }
}

fn direct(point: &Path, shown: &Shown<'_>) -> Result<OwnedFd, MountError> {
    let failed = |step, errno: Errno| MountError::Failed {
        point: point.into(),
        step,
        source: errno.into(),
    };
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice(e.into()),
        Errno::ACCESS | Errno::PERM => MountError::DeviceDenied(e.into()),
        _ => failed("/dev/fuse could not be opened", e),
    })?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if shown.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| MountError::BadName(shown.fs_name.to_owned()))?;
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, shown.read_only);
    flags.set(MountFlags::NOEXEC, shown.no_exec);
    rustix::mount::mount(shown.fs_name, point, format!("fuse.{SUBTYPE}"), flags, &*data).map_err(|e| match e {
        Errno::PERM => MountError::NotPermitted(point.into()),
        _ => failed("the kernel refused the mount", e),
    })?;
    Ok(device)
}

fn by_helper(point: &Path, shown: &Shown<'_>) -> Result<OwnedFd, MountError> {
    let failed = |step, source| MountError::Failed {
        point: point.into(),
        step,
        source,
    };
    let helper = helper().ok_or(MountError::HelperMissing)?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed("no socket for fusermount3", e))?;
    let mut options = format!(
        "fsname={},subtype={SUBTYPE},default_permissions,noatime",
        escaped(shown.fs_name)
    );
    if shown.allow_other {
        options.push_str(",allow_other");
    }
    if shown.read_only {
        options.push_str(",ro");
    }
    if shown.no_exec {
        options.push_str(",noexec");
    }
    // The helper sends the connection over the socket that this names: its standard input, so that nothing of ours must
    // be made inheritable between fork and exec.
    let output = Command::new(helper)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .args(["-o", &options, "--"])
        .arg(point)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .output()
        .map_err(|e| failed("fusermount3 could not be started", e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(if said.contains("user_allow_other") {
            MountError::AllowOtherDenied
        } else if said.contains("/dev/fuse") {
            if rustix::fs::stat("/dev/fuse").is_err() {
                MountError::NoDevice(io::Error::other(said))
            } else {
                MountError::DeviceDenied(io::Error::other(said))
            }
        } else {
            MountError::HelperFailed {
                point: point.into(),
                said,
            }
        });
    }
    received(&ours).map_err(|e| failed("fusermount3 handed no connection over", e))
}

/// Takes the descriptor that the helper sent before it ended; the message waits in the socket.
fn received(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Finds fusermount3, or its older name, where distributions put it.
pub(super) fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = || {
        std::env::split_paths(&path)
            .chain(["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"].map(PathBuf::from))
    };
    ["fusermount3", "fusermount"].iter().find_map(|name| {
        folders()
            .filter(|f| f.is_absolute())
            .map(|f| f.join(name))
            .find(|p| p.is_file())
    })
}

/// Unmounts through the helper; what the kernel said is only known by its words.
pub(super) fn unmount_by_helper(point: &Path, lazy: bool) -> io::Result<()> {
    let helper =
        helper().ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "fusermount3 was not found"))?;
    let output = Command::new(helper)
        .env("LC_ALL", "C")
        .args(if lazy {
            ["-u", "-z", "--"].as_slice()
        } else {
            &["-u", "--"]
        })
        .arg(OsStr::from_bytes(point.as_os_str().as_bytes()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("busy") {
        io::ErrorKind::ResourceBusy
    } else {
        io::ErrorKind::PermissionDenied
    };
    Err(io::Error::new(kind, said))
}

/// In the helper's option list a comma separates and a backslash escapes.
fn escaped(name: &str) -> String {
    name.replace('\\', r"\\").replace(',', r"\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_smuggle_options() {
        assert_eq!(escaped(r"studio,allow_other\"), r"studio\,allow_other\\");
    }

    #[test]
    fn control_characters_are_refused_before_anything_is_touched() {
        let shown = Shown {
            fs_name: "a\nb",
            allow_other: false,
            read_only: false,
            no_exec: false,
        };
        assert!(matches!(
            mount(Path::new("/nowhere"), &shown),
            Err(MountError::BadName(_))
        ));
    }
}
