//! Copies from one server to another, beside `rclone copy` between the same two, with the same number of connections.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Bench;
use crate::daemon::DriveSetup;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::process::{Running, output, wait_until};
use crate::server::Server;
use crate::sftp::write_noise;

/// Files and connections at once, of all.
const AT_ONCE: usize = 8;
/// Bytes of a small file.
const SMALL: u64 = 20 << 10;
const PER_FOLDER: usize = 100;
const SECRET: &str = "correct-horse-battery";
const BUCKET: &str = "projects";

/// Where files go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Sftp,
    S3,
}

struct Servers {
    hq: Server,
    from: PathBuf,
    london: Server,
    london_root: PathBuf,
    vault: Running,
    vault_port: u16,
    vault_root: PathBuf,
    secrets: PathBuf,
}

impl Servers {
    fn start(bench: &Bench) -> Result<Self> {
        let dir = bench.dir.join("between");
        let (from, london_root, vault_root) = (dir.join("hq"), dir.join("london"), dir.join("vault"));
        for made in [&from, &london_root, &vault_root.join(BUCKET)] {
            std::fs::create_dir_all(made)?;
        }
        for (name, text) in [("user", "ada"), ("secret", SECRET)] {
            // Secrets that others can read are refused.
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.join(name))?;
            file.write_all(text.as_bytes())?;
        }
        let vault_port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = Command::new("rclone");
        command
            .env("RCLONE_CONFIG", "/dev/null")
            .args(["serve", "s3", "--auth-key", &format!("ada,{SECRET}")])
            // What was copied is removed behind its back between two turns.
            .args(["--dir-cache-time", "1s"])
            .args(["--addr", &format!("127.0.0.1:{vault_port}")])
            .arg(&vault_root);
        let mut vault = Running::start(&mut command, &dir.join("vault.log")).context("rclone is missing")?;
        wait_until("the S3 server", Duration::from_secs(20), || {
            vault.check()?;
            Ok(TcpStream::connect(("127.0.0.1", vault_port)).is_ok())
        })?;
        Ok(Self {
            hq: Server::start(&dir.join("sshd-hq"))?,
            from,
            london: Server::start(&dir.join("sshd-london"))?,
            london_root,
            vault,
            vault_port,
            vault_root,
            secrets: dir,
        })
    }

    fn sftp(server: &Server, root: &Path) -> Result<String> {
        let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
        let port = server.address.port();
        Ok(format!(
            "provider = \"sftp\"\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{}\"\nroot = {}\nauth = \"key\"\n\
             key-file = {}\nknown-hosts = {}\nconnections = {AT_ONCE}\n",
            server.user,
            quoted(root),
            quoted(&server.key),
            quoted(&server.known_hosts(port)?),
        ))
    }

    fn setup(&self, bench: &Bench, dir: &Path) -> Result<DriveSetup> {
        let file = |name: &str| format!("\"file:{}\"", self.secrets.join(name).display());
        let more = format!(
            "[sites.london]\n{}\n[sites.vault]\nprovider = \"s3\"\nbucket = \"{BUCKET}\"\n\
             endpoint = \"http://127.0.0.1:{}\"\naddress-style = \"path\"\naccess-key = {}\nsecret-key = {}\n\
             [publish]\nparallel = {AT_ONCE}\n",
            Self::sftp(&self.london, &self.london_root)?,
            self.vault_port,
            file("user"),
            file("secret"),
        );
        std::fs::create_dir_all(dir)?;
        DriveSetup::new(bench, dir, &Self::sftp(&self.hq, &self.from)?, &more)
    }

    /// Runs `rclone copy` from hq.
    fn rclone(&self, what: &str, to: To, at: &str) -> Result<()> {
        let mut command = Command::new("rclone");
        command.env("RCLONE_CONFIG", "/dev/null");
        let mut remote = |name: &str, server: &Server| -> Result<()> {
            let port = server.address.port();
            for (key, value) in [
                ("TYPE", "sftp".to_owned()),
                ("HOST", "127.0.0.1".to_owned()),
                ("PORT", port.to_string()),
                ("USER", server.user.clone()),
                ("KEY_FILE", server.key.display().to_string()),
                ("KNOWN_HOSTS_FILE", server.known_hosts(port)?.display().to_string()),
                ("SHELL_TYPE", "none".to_owned()),
            ] {
                command.env(format!("RCLONE_CONFIG_{name}_{key}"), value);
            }
            Ok(())
        };
        remote("HQ", &self.hq)?;
        remote("LONDON", &self.london)?;
        for (key, value) in [
            ("TYPE", "s3".to_owned()),
            ("PROVIDER", "Other".to_owned()),
            ("ENDPOINT", format!("http://127.0.0.1:{}", self.vault_port)),
            ("ACCESS_KEY_ID", "ada".to_owned()),
            ("SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("REGION", "us-east-1".to_owned()),
        ] {
            command.env(format!("RCLONE_CONFIG_VAULT_{key}"), value);
        }
        let target = match to {
            To::Sftp => format!("london:{}", self.london_root.join(at).display()),
            To::S3 => format!("vault:{BUCKET}/{at}"),
        };
        let at_once = AT_ONCE.to_string();
        command
            .args(["copy", "--transfers", &at_once, "--checkers", &at_once])
            .arg(format!("hq:{}", self.from.join(what).display()))
            .arg(target);
        output(&mut command).map(drop)
    }

    fn at(&self, to: To, at: &str) -> PathBuf {
        match to {
            To::Sftp => self.london_root.join(at),
            To::S3 => self.vault_root.join(BUCKET).join(at),
        }
    }
}

/// Makes sure that all of a folder's files are in another, and removes that.
fn compare(from: &Path, to: &Path) -> Result<()> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(from.join(&folder))? {
            let entry = entry?;
            let below = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(below);
                continue;
            }
            let (ours, theirs) = (File::open(from.join(&below))?, File::open(to.join(&below)));
            let theirs = theirs.with_context(|| format!("{} did not arrive", below.display()))?;
            let len = ours.metadata()?.len();
            ensure!(
                theirs.metadata()?.len() == len,
                "{} has another length",
                below.display()
            );
            let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
            let mut at = 0;
            while at < len {
                let want = usize::try_from((len - at).min(1 << 20)).unwrap_or(0);
                ours.read_exact_at(&mut one[..want], at)?;
                theirs.read_exact_at(&mut other[..want], at)?;
                ensure!(one[..want] == other[..want], "{} has other bytes", below.display());
                at += want as u64;
            }
        }
    }
    std::fs::remove_dir_all(to)?;
    Ok(())
}

/// Copies many small files, and a large one, to an SFTP server and into a bucket.
pub(crate) fn between(bench: &Bench, report: &mut Report) -> Result<()> {
    let servers = Servers::start(bench)?;
    let small = bench.scale.small_files * 10;
    for n in 0..small {
        let folder = servers.from.join(format!("small/{:03}", n / PER_FOLDER));
        std::fs::create_dir_all(&folder)?;
        write_noise(&folder.join(format!("f{n:05}.bin")), SMALL)?;
    }
    std::fs::create_dir_all(servers.from.join("large"))?;
    write_noise(&servers.from.join("large/big.mov"), bench.scale.big_bytes)?;
    #[expect(clippy::cast_precision_loss, reason = "rates need no more")]
    let (files, megabytes) = (small as f64, bench.scale.big_bytes as f64 / 1e6);
    for (to, name, word) in [(To::Sftp, "london", "sftp"), (To::S3, "vault", "S3")] {
        for (what, unit, amount, least, target) in [
            ("small", Unit::PerSecond, files, Some(50.0), 1.0 / 1.3),
            ("large", Unit::MegabytesPerSecond, megabytes, None, 1.0 / 1.1),
        ] {
            let (mut ours, mut theirs) = (Samples::default(), Samples::default());
            for round in 0..bench.scale.rounds {
                for step in 0..2 {
                    let (took, seen) = bench.quiet.round(|| {
                        if (round + step) % 2 == 0 {
                            let dir = bench.dir.join(format!("between-{name}-{what}-{round}-{step}"));
                            let setup = servers.setup(bench, &dir)?;
                            let (mut drive, _) = setup.mount()?;
                            drive.scanned()?;
                            let begin = Instant::now();
                            drive.tell(&["push", &format!("media/{what}"), "--to", name, "--wait"])?;
                            let took = begin.elapsed();
                            drive.unmount()?;
                            // A second try of the round has another store.
                            drop(std::fs::remove_dir_all(&dir));
                            compare(&servers.from.join(what), &servers.at(to, &format!("media/{what}")))?;
                            Ok(took)
                        } else {
                            let begin = Instant::now();
                            servers.rclone(what, to, &format!("rclone/{what}"))?;
                            let took = begin.elapsed();
                            compare(&servers.from.join(what), &servers.at(to, &format!("rclone/{what}")))?;
                            Ok(took)
                        }
                    })?;
                    let samples = if (round + step) % 2 == 0 {
                        &mut ours
                    } else {
                        &mut theirs
                    };
                    samples.push(amount / took.as_secs_f64(), seen);
                }
            }
            let shown = match what {
                "small" => format!("{small} files of 20 KB, sftp to {word}, {AT_ONCE} at once"),
                _ => format!("a file of {} MiB, sftp to {word}", bench.scale.big_bytes >> 20),
            };
            if let Some(least) = least {
                report.add(Row {
                    scenario: "between",
                    what: shown.clone(),
                    unit,
                    ours: ours.clone(),
                    beside: None,
                    target: Target::AtLeast(least),
                });
            }
            report.add(Row {
                scenario: "between",
                what: shown,
                unit,
                ours,
                beside: Some(("rclone copy".to_owned(), theirs)),
                target: Target::RatioAtLeast(target),
            });
        }
    }
    drop(servers.vault);
    Ok(())
}
