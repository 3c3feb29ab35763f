//! An OpenSSH server of one's own, on loopback, for the current user, with a key made for it.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Running, output, wait_until};

const PROGRAM: &str = "/usr/sbin/sshd";

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    /// The key that it lets in.
    pub(crate) key: PathBuf,
    host_key: String,
    dir: PathBuf,
    _process: Running,
}

impl Server {
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        ensure!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing (Debian: openssh-server)"
        );
        std::fs::create_dir_all(dir)?;
        if rustix::process::geteuid().is_root() {
            // sshd wants it when started by root; systemd makes it when the service starts.
            std::fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
        }
        let (key, host_key) = (make_key(dir, "id")?, make_key(dir, "host")?);
        std::fs::copy(key.with_extension("pub"), dir.join("authorized"))?;
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let d = dir.display();
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {d}/host\nAuthorizedKeysFile {d}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nMaxSessions 64\n\
             MaxStartups 64\nSubsystem sftp internal-sftp\n",
            address.port()
        );
        std::fs::write(dir.join("config"), config)?;
        let mut command = Command::new(PROGRAM);
        command.args(["-D", "-e", "-f"]).arg(dir.join("config"));
        let mut process = Running::start(&mut command, &dir.join("log"))?;
        wait_until("the SSH server", Duration::from_secs(10), || {
            process.check().context("see its log")?;
            Ok(TcpStream::connect(address).is_ok())
        })?;
        let user = output(Command::new("id").arg("-un"))?.trim().to_owned();
        let host_key = std::fs::read_to_string(host_key.with_extension("pub"))?;
        Ok(Self {
            address,
            user,
            key,
            host_key,
            dir: dir.to_owned(),
            _process: process,
        })
    }

    /// Writes the file of known hosts under which the server may be reached at a port, its own or a relay's.
    pub(crate) fn known_hosts(&self, port: u16) -> Result<PathBuf> {
        let path = self.dir.join(format!("known-{port}"));
        let mut line = String::new();
        let kind_and_key: Vec<&str> = self.host_key.split_whitespace().take(2).collect();
        writeln!(line, "[127.0.0.1]:{port} {}", kind_and_key.join(" "))?;
        std::fs::write(&path, line)?;
        Ok(path)
    }
}

fn make_key(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path),
    )?;
    Ok(path)
}
