//! Asks the system to give a moment before it sleeps or shuts down, while something made here is not at its site.
//!
//! Owns: `systemd-inhibit` as a child process, which holds the lock for as long as it lives. Refuses to know: why files are
//! not there. Invariant: the lock goes with this process, whatever ends it: the child reads from a pipe that we hold.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::engine::drive::Drive;

/// Is there where systemd runs the machine.
const BOOTED: &str = "/run/systemd/system";
const PROGRAM: &str = "systemd-inhibit";
/// Between two looks whether something is not at its site.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What can take locks.
#[derive(Debug)]
pub(super) struct Inhibitor {
    program: PathBuf,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
struct Lock(Child);

impl Inhibitor {
    /// Finds it, where there is one.
    pub(super) fn find() -> Option<Self> {
        Self::find_in(std::env::var_os("PATH")?.as_os_str(), Path::new(BOOTED))
    }

    fn find_in(path: &OsStr, booted: &Path) -> Option<Self> {
        if !booted.is_dir() {
            return None;
        }
        let program = std::env::split_paths(path)
            .map(|dir| dir.join(PROGRAM))
            .find(|program| program.is_file())?;
        Some(Self { program })
    }

    fn lock(&self) -> std::io::Result<Lock> {
        let child = Command::new(&self.program)
            .args(["--what=shutdown:sleep", "--mode=delay", "--who=backlot"])
            .args(["--why=files are not at their site yet", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Lock(child))
    }

    /// Holds a lock whenever something is not at its site, until told otherwise.
    pub(super) async fn keep(self, drive: Drive, until: CancellationToken) {
        let mut lock: Option<Lock> = None;
        loop {
            let asked = drive.clone();
            let pending = tokio::task::spawn_blocking(move || asked.has_pending()).await;
            let is_pending = matches!(pending, Ok(Ok(true)));
            match &mut lock {
                None if is_pending => match self.lock() {
                    Ok(taken) => lock = Some(taken),
                    Err(e) => return debug!(error = %e, "shutdown can't be delayed"),
                },
                Some(held) if is_pending => {
                    if let Ok(Some(status)) = held.0.try_wait() {
                        return info!(%status, "the system lets nobody delay its shutdown here");
                    }
                }
                Some(_) => lock = None,
                None => {}
            }
            tokio::select! {
                () = until.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A program that writes down how it was called, and does what it is told to run.
    fn fake(dir: &Path) -> PathBuf {
        let bin = dir.join("bin");
        fs::create_dir(&bin).unwrap();
        let program = bin.join(PROGRAM);
        let text = "#!/bin/sh\n\
                    printf '%s\\n' \"$$\" \"$@\" > \"$0.new\"; mv \"$0.new\" \"$0.called\"\n\
                    while [ \"${1#--}\" != \"$1\" ]; do shift; done\n\
                    exec \"$@\"\n";
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        bin
    }

    async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..1000 {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not happen");
    }

    #[tokio::test]
    async fn the_lock_is_held_by_a_process_that_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let bin = fake(dir.path());
        let inhibitor = Inhibitor::find_in(bin.as_os_str(), dir.path()).unwrap();
        let lock = inhibitor.lock().unwrap();
        let called = bin.join(format!("{PROGRAM}.called"));
        let said = eventually(|| fs::read_to_string(&called).ok()).await;
        let mut lines = said.lines();
        let pid = lines.next().unwrap().to_owned();
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "--what=shutdown:sleep",
                "--mode=delay",
                "--who=backlot",
                "--why=files are not at their site yet",
                "cat",
            ]
        );
        let is_alive = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        assert!(is_alive());
        drop(lock);
        eventually(|| (!is_alive()).then_some(())).await;
    }

    #[test]
    fn without_systemd_there_is_nothing_to_ask() {
        let dir = tempfile::tempdir().unwrap();
        let bin = fake(dir.path());
        assert!(Inhibitor::find_in(bin.as_os_str(), &dir.path().join("none")).is_none());
        assert!(Inhibitor::find_in(dir.path().as_os_str(), dir.path()).is_none());
    }
}
