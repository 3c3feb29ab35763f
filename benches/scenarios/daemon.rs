//! A Backlot drive for a scenario: its settings, its daemon, what it tells of itself.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::Bench;
use crate::process::{MountPoint, Running, output, wait_until};

/// A first scan of the largest tree takes well below this.
const SCAN: Duration = Duration::from_secs(300);

/// The name of the one site and the one project of a scenario's drive.
pub(crate) const SITE: &str = "remote";
pub(crate) const PROJECT: &str = "media";

/// The folders and settings of a drive, whether it is mounted or not. Its cache and store stay between mounts.
#[derive(Debug)]
pub(crate) struct DriveSetup {
    program: PathBuf,
    dir: PathBuf,
    settings: PathBuf,
    socket: PathBuf,
    mount_point: MountPoint,
}

impl DriveSetup {
    /// Writes the settings of a drive in `dir`, which is made. `site` are the lines of its site's section, `more` whole
    /// sections beside those that every drive has; all else is Backlot's default.
    pub(crate) fn new(bench: &Bench, dir: &Path, site: &str, more: &str) -> Result<Self> {
        let mount_point = MountPoint::new(dir.join("mnt"))?;
        // A socket's path is limited to 107 bytes, so not below what may be a deep checkout.
        let socket = std::env::temp_dir().join(format!("backlot-scenarios-{}.sock", std::process::id()));
        let mut settings = String::from("schema_version = 1\n");
        let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
        write!(
            settings,
            "[drive]\nname = \"scenarios\"\nmount-point = {}\ndata-dir = {}\ncache-dir = {}\nsocket = {}\n",
            quoted(mount_point.path()),
            quoted(&dir.join("data")),
            quoted(&dir.join("cache")),
            quoted(&socket),
        )?;
        // The interval keeps periodic scans out of what is measured; the default's quarter of an hour mostly would too.
        write!(
            settings,
            "[projects.{PROJECT}]\nremote-site = \"{SITE}\"\nremote-path = \".\"\nscan-interval = \"24h\"\n"
        )?;
        write!(settings, "[sites.{SITE}]\n{site}\n{more}\n")?;
        let path = dir.join("backlot.toml");
        std::fs::write(&path, settings)?;
        Ok(Self {
            program: bench.program.clone(),
            dir: dir.to_owned(),
            settings: path,
            socket,
            mount_point,
        })
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where its daemon's API listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The project's folder in the mount.
    pub(crate) fn project(&self) -> PathBuf {
        self.mount_point.path().join(PROJECT)
    }

    /// Mounts the drive; returns the daemon and the time from its start to its ready line.
    pub(crate) fn mount(&self) -> Result<(Drive<'_>, Duration)> {
        let log = self.dir.join("daemon.log");
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(&self.settings)
            .arg("mount")
            .env_remove("BACKLOT_LOG");
        let begin = Instant::now();
        let mut process = Running::start(&mut command, &log)?;
        let mut lines = BufReader::new(process.stdout.take().context("the daemon's output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let took = begin.elapsed();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(
            line.starts_with("ready"),
            "the daemon did not start: {}",
            said().trim_end()
        );
        Ok((Drive { setup: self, process }, took))
    }
}

/// A mounted drive; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Drive<'s> {
    setup: &'s DriveSetup,
    process: Running,
}

impl Drive<'_> {
    /// Returns what `backlot status --json` tells.
    pub(crate) fn status(&self) -> Result<Value> {
        let mut command = Command::new(&self.setup.program);
        let told = output(
            command
                .arg("--config")
                .arg(&self.setup.settings)
                .args(["status", "--json"]),
        )?;
        Ok(serde_json::from_str(&told)?)
    }

    /// Runs a verb and returns what it said.
    pub(crate) fn tell(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.setup.program);
        output(command.arg("--config").arg(&self.setup.settings).args(args))
    }

    /// Waits for the end of the first scan.
    pub(crate) fn scanned(&mut self) -> Result<()> {
        wait_until("the first scan", SCAN, || {
            self.process.check()?;
            let status = self.status()?;
            Ok(status["projects"][0]["scanned_at_ms"].is_i64() && status["projects"][0]["scanning"].is_null())
        })
    }

    /// Returns a line of `/proc/PID/status` that is in KiB, as MiB.
    pub(crate) fn memory_mib(&self, key: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .with_context(|| format!("no {key}"))?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Unmounts and waits for the daemon's end.
    pub(crate) fn unmount(mut self) -> Result<()> {
        self.process.end(Signal::TERM)
    }

    /// Ends the daemon as a crash would.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.end(Signal::KILL)?;
        self.setup.mount_point.clear();
        Ok(())
    }
}
