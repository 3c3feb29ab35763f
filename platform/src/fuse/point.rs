//! What is checked, and cleared away, before a drive is mounted on a folder.
//!
//! Invariant: only a dead mount of this program's own type is ever cleared; anything else in the way is an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};

use super::error::{MountError, UnmountError};
use super::mountinfo::{MountEntry, MountTable, shown};
use super::unmount;

/// How long a mount may take to show that it lives.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Dead mounts stacked on one folder that are cleared: more than crashes in a row explain is not for us to judge.
const MAX_CLEARED: usize = 16;

/// Returns the absolute path, free of links, of a folder that can be mounted on.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |point: &Path, step| {
        let point = point.to_owned();
        move |source| MountError::Failed { point, step, source }
    };
    let table = || MountTable::read().map_err(failed(path, "the table of mounts cannot be read"));
    let point = table()?
        .resolve(path)
        .map_err(failed(path, "the path cannot be resolved"))?;
    for _ in 0..MAX_CLEARED {
        let table = table()?;
        let Some(there) = table.at(&point).filter(|m| m.is_fuse()) else {
            break;
        };
        let taken = |answers| MountError::AlreadyMounted {
            point: point.clone(),
            source_name: shown(&there.source),
            fs_type: there.fs_type.clone(),
            answers,
        };
        if !there.is_ours() {
            return Err(taken(true));
        }
        match probe(&point) {
            Life::Answers => return Err(taken(true)),
            Life::Silent => return Err(taken(false)),
            Life::Dead => {
                tracing::warn!(mount_point = %point.display(), "clearing a mount that its process left behind");
                unmount::detach(&point).map_err(|source| MountError::Dead {
                    point: point.clone(),
                    source,
                })?;
            }
        }
    }
    match std::fs::metadata(&point) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(point)),
        Err(e) => return Err(failed(&point, "the mount point cannot be examined")(e)),
        Ok(meta) if !meta.is_dir() => return Err(MountError::NotAFolder(point)),
        Ok(_) => {}
    }
    let mut entries = std::fs::read_dir(&point).map_err(failed(&point, "the mount point cannot be listed"))?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(point));
    }
    Ok(point)
}

/// Takes this program's dead mounts at a path out of the tree, and returns how many there were. One that answers, or that may
/// yet, is left alone, and so is whatever else is mounted there.
///
/// # Errors
/// When a dead mount could not be taken away: only its owner and root may.
pub fn clear_dead(mount_point: &Path) -> Result<usize, UnmountError> {
    let mut cleared = 0;
    for _ in 0..MAX_CLEARED {
        let mount = match unmount::find(mount_point) {
            Ok(mount) if mount.is_ours() => mount,
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(unmount::error(mount_point, e)),
        };
        if !matches!(probe_mount(&mount), Life::Dead) {
            break;
        }
        // Whoever mounts anew clears it as well, and puts a living one in its place.
        if MountTable::read().is_ok_and(|table| table.at(&mount.point) != Some(&mount)) {
            continue;
        }
        unmount::or_gone(&mount, unmount::detach(&mount.point)).map_err(|e| unmount::error(&mount.point, e))?;
        cleared += 1;
    }
    Ok(cleared)
}

pub(super) enum Life {
    Answers,
    Silent,
    Dead,
}

/// Asks a mount for its space, which no cache of the kernel answers, on a thread that may be left behind.
pub(super) fn probe(point: &Path) -> Life {
    probe_as(point, None)
}

/// As [`probe`]; root asks in the name of the one who is let in, since to all others the kernel answers by itself.
pub(super) fn probe_mount(mount: &MountEntry) -> Life {
    let is_root = rustix::process::geteuid().is_root();
    probe_as(&mount.point, mount.only_for.filter(|(uid, _)| is_root && *uid != 0))
}

fn probe_as(point: &Path, user: Option<(u32, u32)>) -> Life {
    let (send, receive) = sync_channel(1);
    let path = point.to_owned();
    let asked = thread::Builder::new().name("backlot-probe".into()).spawn(move || {
        let turned = user.map_or(Ok(()), |(uid, gid)| turn_into(Uid::from_raw(uid), Gid::from_raw(gid)));
        let answer = turned.and_then(|()| rustix::fs::statfs(&path).map(drop));
        // The one who asked may be gone.
        let _ = send.send(answer);
    });
    if asked.is_err() {
        return Life::Silent;
    }
    match receive.recv_timeout(PROBE_DEADLINE) {
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Life::Dead,
        Ok(_) => Life::Answers,
        Err(_) => Life::Silent,
    }
}

/// Makes this thread, and no other, one of another user's.
fn turn_into(uid: Uid, gid: Gid) -> rustix::io::Result<()> {
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
