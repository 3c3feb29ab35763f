//! Cutting a connection by force, from any process: whoever waits for the mount gets an error at once.
//!
//! Owns: the ways to cut one, in order, and what came of it. Invariant: neither the mount nor its daemon is asked
//! anything, so that it works with a daemon that is stuck, stopped or dead.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::error::UnmountError;
use super::mountinfo::{MountEntry, MountTable};
use super::unmount::{CONNECTIONS, detach, error, find, or_gone};

/// Mounts stacked on one folder that are cut one after the other.
const MAX_STACKED: usize = 16;

/// How a connection was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// By its control file below /sys/fs/fuse/connections, which its owner and root may write.
    Control,
    /// By a forced unmount: where there is no control file.
    Force,
    /// Not at all: it was gone already.
    Gone,
}

/// What was done to one mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aborted {
    /// The number of its connection, as below /sys/fs/fuse/connections.
    pub connection: u32,
    /// Requests that waited for an answer when it was cut; `None` where this user may not know.
    pub waiting: Option<u64>,
    /// How it was cut.
    pub cut: Cut,
    /// It was taken out of the tree; `false` where it had left it before.
    pub detached: bool,
}

/// Cuts the connections of what this program mounted at `mount_point`: every request in flight fails, hung readers wake
/// up, whoever maps a file of it gets SIGBUS for what was not read yet; then takes the dead mounts out of the tree. Returns
/// what was done, the topmost mount first.
///
/// # Errors
/// When a mount could not be cut or taken away: only its owner and root may. Kind `NotFound` if nothing is mounted there,
/// `InvalidInput` if that is another program's.
pub fn abort_path(mount_point: &Path) -> Result<Vec<Aborted>, UnmountError> {
    let mut done = Vec::new();
    for _ in 0..MAX_STACKED {
        let mount = match find(mount_point) {
            Ok(mount) => mount,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !done.is_empty() => break,
            Err(e) => return Err(error(mount_point, e)),
        };
        if !mount.is_ours() {
            if done.is_empty() {
                let why = format!("what is mounted there is not ours ({})", mount.fs_type);
                return Err(error(mount_point, io::Error::new(io::ErrorKind::InvalidInput, why)));
            }
            break;
        }
        done.push(abort_entry(&mount)?);
    }
    Ok(done)
}

/// Cuts the connections that a process serves, whether their mounts are still in the tree or were detached: for a daemon
/// that hangs after a lazy unmount. A process of another user, or none at all, has none.
///
/// # Errors
/// When a connection may not be cut.
pub fn abort_served_by(pid: u32) -> io::Result<Vec<Aborted>> {
    let mut done = Vec::new();
    for connection in connections_of(Path::new("/proc").join(pid.to_string())) {
        let waiting = waiting(connection);
        let cut = cut_by_control(connection)?;
        done.push(Aborted {
            connection,
            waiting,
            cut,
            detached: false,
        });
    }
    Ok(done)
}

/// Reads off a process's open files which connections it serves (Linux 6.15 shows that).
fn connections_of(process: PathBuf) -> Vec<u32> {
    let mut found = Vec::new();
    for fd in std::fs::read_dir(process.join("fdinfo"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let is_device = std::fs::read_link(process.join("fd").join(fd.file_name()))
            .is_ok_and(|target| target == Path::new("/dev/fuse"));
        if is_device && let Ok(text) = std::fs::read_to_string(fd.path()) {
            found.extend(connection_in(&text));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn connection_in(fdinfo: &str) -> Option<u32> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("fuse_connection:"));
    line?.trim().parse().ok()
}

pub(super) fn abort_entry(mount: &MountEntry) -> Result<Aborted, UnmountError> {
    let waiting = waiting(mount.minor);
    let cut = cut_by_control(mount.minor).or_else(|why| {
        // A control file system that is missing or read-only, as in a container, is not the only way for root.
        match rustix::mount::unmount(&mount.point, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE) {
            // In use or not: what was in flight has failed by now.
            Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(Cut::Force),
            Err(_) => Err(why),
        }
    });
    // A mount whose connection could not be cut may still be taken away; its users then wait on, out of sight.
    let detached = or_gone(mount, detach(&mount.point));
    let cut = match (cut, detached) {
        (Ok(cut), Ok(())) => Ok(cut),
        (Err(why), Ok(())) => {
            let what =
                "was taken out of the tree, but whoever waits for it can't be freed: its connection may not be cut";
            Err(io::Error::new(why.kind(), format!("it {what} ({why})")))
        }
        (_, Err(why)) => Err(why),
    };
    let cut = cut.map_err(|source| error(&mount.point, source))?;
    Ok(Aborted {
        connection: mount.minor,
        waiting,
        cut,
        detached: true,
    })
}

/// Requests of a connection that wait for an answer; `None` where this user may not know.
pub(super) fn waiting(connection: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("{CONNECTIONS}/{connection}/waiting")).ok()?;
    text.trim().parse().ok()
}

/// Cuts a connection through fusectl, which is mounted first where root finds it missing.
fn cut_by_control(connection: u32) -> io::Result<Cut> {
    if MountTable::read()?.at(Path::new(CONNECTIONS)).is_none() {
        rustix::mount::mount(
            "fusectl",
            CONNECTIONS,
            "fusectl",
            MountFlags::NOSUID | MountFlags::NODEV,
            None,
        )?;
    }
    match std::fs::write(format!("{CONNECTIONS}/{connection}/abort"), b"1") {
        Ok(()) => Ok(Cut::Control),
        // Gone is as cut as it gets.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Cut::Gone),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_read_off_the_device_that_is_open() {
        let text = "pos:\t0\nflags:\t02100002\nmnt_id:\t24\nino:\t90\nfuse_connection:\t39\n";
        assert_eq!(connection_in(text), Some(39));
        assert_eq!(connection_in("pos:\t0\nflags:\t02100002\n"), None);
    }

    #[test]
    fn a_process_without_mounts_serves_none() {
        assert_eq!(connections_of("/proc/self".into()), [0_u32; 0]);
        assert!(abort_served_by(u32::MAX).unwrap().is_empty());
    }
}
