//! The contestants over SFTP: Backlot, sshfs, rclone and JuiceFS, each mounted with its defaults, seen alike.
//!
//! Invariant: a mount begins with nothing of the files' bytes: new caches, nothing in the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::Bench;
use crate::daemon::{Drive, DriveSetup};
use crate::juicefs::Volume;
use crate::machine::has;
use crate::process::{MountPoint, Running, wait_until};
use crate::server::Server;

const MOUNTED: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    Backlot,
    Sshfs,
    Rclone,
    /// Which shows a copy of the files that was made through it.
    Juicefs,
    /// With a fast cipher and four connections.
    SshfsTuned,
    /// With requests as long as OpenSSH takes, and a larger buffer.
    RcloneTuned,
}

impl Who {
    /// Returns the peers that are to be had here, and says which are not.
    pub(crate) fn peers(bench: &Bench, mut missing: impl FnMut(&str)) -> Vec<Self> {
        let mut peers = Vec::new();
        for (program, plain, tuned) in [
            ("sshfs", Self::Sshfs, Some(Self::SshfsTuned)),
            ("rclone", Self::Rclone, Some(Self::RcloneTuned)),
            ("juicefs", Self::Juicefs, None),
        ] {
            if has(program) {
                peers.push(plain);
                peers.extend(tuned.filter(|_| bench.tuned_peers));
            } else {
                missing(program);
            }
        }
        peers
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backlot => "backlot",
            Self::Sshfs => "sshfs",
            Self::Rclone => "rclone",
            Self::Juicefs => "juicefs",
            Self::SshfsTuned => "sshfs tuned",
            Self::RcloneTuned => "rclone tuned",
        }
    }

    /// Whether a target names it.
    pub(crate) fn is_plain(self) -> bool {
        matches!(self, Self::Sshfs | Self::Rclone | Self::Juicefs)
    }

    /// Whether what it writes is found at the server as files of the same names. JuiceFS keeps blocks there, and has sent
    /// them when a file is closed.
    pub(crate) fn keeps_files(self) -> bool {
        self != Self::Juicefs
    }
}

/// Where the files are.
#[derive(Debug)]
pub(crate) struct Remote<'s> {
    pub(crate) server: &'s Server,
    /// The server's own port, or that of a relay to it.
    pub(crate) port: u16,
    /// The folder served.
    pub(crate) root: &'s Path,
}

/// Mounts a folder of the server for one of them, with empty caches, and hands over the folder where its files are.
/// Before that, the files' names are looked at and the connection is used once.
pub(crate) fn mounted<T>(
    who: Who,
    bench: &Bench,
    remote: &Remote<'_>,
    run: impl FnOnce(&Path, Option<&Drive<'_>>) -> Result<T>,
) -> Result<T> {
    let dir = bench.dir.join(format!("at-{}", who.name().replace(' ', "-")));
    std::fs::create_dir_all(&dir)?;
    let value = mounted_at(&dir, who, bench, remote, run);
    // The next round must not find it warm, nor have its disk busy with it.
    for used in ["data", "cache"] {
        match std::fs::remove_dir_all(dir.join(used)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("remove a cache"),
            Ok(()) | Err(_) => {}
        }
    }
    value
}

fn mounted_at<T>(
    dir: &Path,
    who: Who,
    bench: &Bench,
    remote: &Remote<'_>,
    run: impl FnOnce(&Path, Option<&Drive<'_>>) -> Result<T>,
) -> Result<T> {
    let known_hosts = remote.server.known_hosts(remote.port)?;
    if who == Who::Backlot {
        let setup = DriveSetup::new(bench, dir, &site(bench, remote, &known_hosts), "")?;
        let (mut drive, _) = setup.mount()?;
        drive.scanned()?;
        warm_up(&setup.project())?;
        let value = run(&setup.project(), Some(&drive));
        drive.unmount()?;
        return value;
    }
    if who == Who::Juicefs {
        let volume = Volume::holding(bench, dir, remote)?;
        let mounted = volume.mount(&dir.join("mnt"), &dir.join("cache"))?;
        warm_up(mounted.0.path())?;
        let value = run(mounted.0.path(), None);
        volume.end(mounted)?;
        return value;
    }
    let mount_point = MountPoint::new(dir.join("mnt"))?;
    let mut command = match who {
        Who::Sshfs | Who::SshfsTuned => sshfs(who, remote, &known_hosts, mount_point.path()),
        Who::Rclone | Who::RcloneTuned | Who::Juicefs | Who::Backlot => {
            rclone(who, remote, &known_hosts, mount_point.path(), &dir.join("cache"))
        }
    };
    let mut process = Running::start(&mut command, &dir.join("log"))?;
    wait_until("the mount", MOUNTED, || {
        process
            .check()
            .with_context(|| format!("see {}", dir.join("log").display()))?;
        mount_point.is_mounted()
    })?;
    warm_up(mount_point.path())?;
    let value = run(mount_point.path(), None);
    process.end(Signal::TERM)?;
    value
}

/// The file that is read to have a connection that has been used. It is small.
pub(crate) const WARM_UP: &str = "warm-up";

fn warm_up(dir: &Path) -> Result<()> {
    let names = std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .collect::<Result<Vec<_>>>()?;
    ensure!(!names.is_empty(), "nothing is there");
    let read = std::fs::read(dir.join(WARM_UP)).context("read the first file")?;
    ensure!(!read.is_empty(), "the first file is empty");
    Ok(())
}

fn quoted(path: &Path) -> String {
    Value::from(path.to_string_lossy()).to_string()
}

fn site(bench: &Bench, remote: &Remote<'_>, known_hosts: &Path) -> String {
    if bench.local_site {
        return format!("provider = \"local\"\nroot = {}", quoted(remote.root));
    }
    format!(
        "provider = \"sftp\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\nroot = {}\nauth = \"key\"\n\
         key-file = {}\nknown-hosts = {}",
        remote.port,
        remote.server.user,
        quoted(remote.root),
        quoted(&remote.server.key),
        quoted(known_hosts),
    )
}

fn sshfs(who: Who, remote: &Remote<'_>, known_hosts: &Path, mount_point: &Path) -> Command {
    let mut command = Command::new("sshfs");
    command
        .arg("-f")
        .arg(format!("{}@127.0.0.1:{}", remote.server.user, remote.root.display()))
        .arg(mount_point);
    command.args([
        "-p",
        &remote.port.to_string(),
        "-F",
        "/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
    ]);
    command.arg("-o").arg(option("IdentityFile", &remote.server.key));
    command.arg("-o").arg(option("UserKnownHostsFile", known_hosts));
    if who == Who::SshfsTuned {
        command.args(["-o", "Ciphers=aes128-gcm@openssh.com", "-o", "max_conns=4"]);
    }
    command
}

fn option(key: &str, path: &Path) -> String {
    format!("{key}={}", path.display())
}

fn rclone(who: Who, remote: &Remote<'_>, known_hosts: &Path, mount_point: &Path, cache: &PathBuf) -> Command {
    let mut command = Command::new("rclone");
    command
        .arg("mount")
        .arg(format!(":sftp:{}", remote.root.display()))
        .arg(mount_point);
    command
        .args([
            "--config",
            "/dev/null",
            "--log-level",
            "ERROR",
            "--vfs-cache-mode",
            "full",
            "--cache-dir",
        ])
        .arg(cache);
    command.args(["--sftp-host", "127.0.0.1", "--sftp-port", &remote.port.to_string()]);
    command.args(["--sftp-user", &remote.server.user, "--sftp-shell-type", "none"]);
    command
        .arg("--sftp-key-file")
        .arg(&remote.server.key)
        .arg("--sftp-known-hosts-file")
        .arg(known_hosts);
    if who == Who::RcloneTuned {
        command.args(["--sftp-chunk-size", "255k", "--buffer-size", "64M"]);
    }
    command
}
