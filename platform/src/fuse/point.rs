//! What is checked, and cleared away, before a drive is mounted on a folder.
//!
//! Invariant: only a dead mount of this program's own type is ever cleared; anything else in the way is an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::error::MountError;
use super::mountinfo::{MountTable, shown};
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

pub(super) enum Life {
    Answers,
    Silent,
    Dead,
}

/// Asks a mount for its space, which no cache of the kernel answers, on a thread that may be left behind.
pub(super) fn probe(point: &Path) -> Life {
    let (send, receive) = sync_channel(1);
    let path = point.to_owned();
    let asked = thread::Builder::new().name("backlot-probe".into()).spawn(move || {
        let answer = rustix::fs::statfs(&path).map(drop);
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
