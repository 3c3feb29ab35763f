//! Programs started for a scenario: each ends with it, also when the scenario fails or is interrupted.

use std::fs::File;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a program may take to end by itself.
const END: Duration = Duration::from_secs(30);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C (and `kill`) end the scenario that runs, not this process, so that its programs and mounts are cleaned up.
pub(crate) fn survive_interrupts() -> Result<()> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let in_runtime = rt.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(in_runtime);
    std::thread::Builder::new()
        .name("interrupts".to_owned())
        .spawn(move || {
            rt.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    INTERRUPTED.store(true, Ordering::Relaxed);
                }
            });
        })?;
    Ok(())
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Lets time pass.
#[expect(
    clippy::disallowed_methods,
    reason = "programs of others are waited for by looking at them now and then"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, at_most: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + at_most;
    while !holds()? {
        ensure!(!interrupted(), "interrupted");
        ensure!(Instant::now() < give_up, "waited {at_most:?} for {what}");
        pause(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A program that runs until it is dropped or told to end.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    pub(crate) stdout: Option<ChildStdout>,
}

impl Running {
    /// Starts a program; what it says to standard error goes to the end of a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .context("open a log")?;
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stdout = child.stdout.take();
        Ok(Self { name, child, stdout })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the program has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended by itself: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Ends the program and waits for its end.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(signal)?;
        }
        let mut ended = false;
        let give_up = Instant::now() + END;
        while !ended && Instant::now() < give_up {
            pause(Duration::from_millis(2));
            ended = self.child.try_wait()?.is_some();
        }
        ensure!(ended, "{} did not end", self.name);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end(Signal::TERM).is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A mount that is gone when this is dropped, whatever became of the program behind it.
#[derive(Debug)]
pub(crate) struct MountPoint(std::path::PathBuf);

impl MountPoint {
    pub(crate) fn new(dir: std::path::PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Says whether something is mounted here, without asking it.
    pub(crate) fn is_mounted(&self) -> Result<bool> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let here = self.0.to_string_lossy();
        Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&here)))
    }

    /// Detaches what is mounted here.
    pub(crate) fn clear(&self) {
        if self.is_mounted().unwrap_or(true) {
            drop(Command::new("fusermount3").arg("-uzq").arg(&self.0).status());
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        self.clear();
    }
}
