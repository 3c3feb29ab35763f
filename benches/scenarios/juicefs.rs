//! JuiceFS beside the others: it shows only what was written through it, so the served folder is copied into a volume of its
//! own first, past the long wire. Its blocks lie on the same server, read over the same wire; its metadata in a database on
//! this machine, so that names cost it no wire either.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::Bench;
use crate::peers::Remote;
use crate::process::{MountPoint, Running, output, wait_until};

const MOUNTED: Duration = Duration::from_secs(30);

/// A volume that holds what the server has.
#[derive(Debug)]
pub(crate) struct Volume {
    meta: String,
    key: PathBuf,
    dir: PathBuf,
}

impl Volume {
    /// Makes the volume, or brings it up to date, and has its blocks reached at the remote's port from now on.
    pub(crate) fn holding(bench: &Bench, dir: &Path, remote: &Remote<'_>) -> Result<Self> {
        let (volume, objects) = (bench.dir.join("juicefs"), bench.dir.join("juicefs/objects"));
        let is_new = !volume.exists();
        std::fs::create_dir_all(&objects)?;
        let made = Self {
            meta: format!("sqlite3://{}", volume.join("meta.db").display()),
            key: remote.server.key.clone(),
            dir: dir.to_owned(),
        };
        let own_port = remote.server.address.port();
        let bucket = |port: u16| format!("127.0.0.1:{port}:{}/", objects.display());
        if is_new {
            let mut format = made.command("format");
            format.args([&made.meta, "bench", "--storage", "sftp", "--bucket", &bucket(own_port)]);
            output(format.args(["--access-key", &remote.server.user, "--trash-days", "0"]))?;
        } else {
            made.reach(&bucket(own_port))?;
        }
        let filling = made.mount(&dir.join("filling"), &dir.join("filling-cache"))?;
        output(
            Command::new("cp")
                .arg("-au")
                .arg(remote.root.join("."))
                .arg(filling.0.path()),
        )?;
        made.end(filling)?;
        std::fs::remove_dir_all(dir.join("filling-cache")).context("remove a cache")?;
        made.reach(&bucket(remote.port))?;
        Ok(made)
    }

    fn reach(&self, bucket: &str) -> Result<()> {
        let mut config = self.command("config");
        output(config.args([&self.meta, "--yes", "--bucket", bucket])).map(drop)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("juicefs");
        command.arg(verb).env("SSH_PRIVATE_KEY_PATH", &self.key);
        command
    }

    /// Mounts it with its defaults.
    pub(crate) fn mount(&self, at: &Path, cache: &Path) -> Result<(MountPoint, Running)> {
        let mount_point = MountPoint::new(at.to_owned())?;
        let mut command = self.command("mount");
        command.arg(&self.meta).arg(at).arg("--cache-dir").arg(cache);
        command.arg("--no-usage-report");
        let log = self.dir.join("log");
        let mut process = Running::start(&mut command, &log)?;
        wait_until("the mount", MOUNTED, || {
            process.check().with_context(|| format!("see {}", log.display()))?;
            mount_point.is_mounted()
        })?;
        Ok((mount_point, process))
    }

    pub(crate) fn end(&self, (mount_point, mut process): (MountPoint, Running)) -> Result<()> {
        process.end(Signal::TERM)?;
        mount_point.clear();
        Ok(())
    }
}
