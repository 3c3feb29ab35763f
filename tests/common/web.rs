//! Real S3 and WebDAV servers on the loopback interface, for tests: `rclone serve` of both kinds, moto's S3, wsgidav; and
//! rclone's SFTP server, whose password can be changed.
//!
//! Owns: a server's process, its temporary folder and, where asked for, its certificate. Refuses to know: what is tested
//! with it. Invariant: it listens on loopback alone, and is gone when it is dropped.
#![allow(dead_code, reason = "shared by test binaries, none of which needs all of it")]

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backlot_config::{AddressStyle, HostKey, Period, S3Site, SecretRef, SftpAuth, SftpSite, WebdavSite};
use rustix::process::{Pid, Signal, kill_process};

use super::certificate;

/// The variables that turn missing servers from a skip into a failure.
pub(crate) const REQUIRE_S3: &str = "BACKLOT_TEST_REQUIRE_S3";
pub(crate) const REQUIRE_WEBDAV: &str = "BACKLOT_TEST_REQUIRE_WEBDAV";
/// How long a server may take to listen: moto reads a good part of Python first.
const START: Duration = Duration::from_secs(60);
/// Who is let in.
pub(crate) const USER: &str = "ada";
pub(crate) const SECRET: &str = "correct-horse-battery";

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Service {
    RcloneS3,
    Moto,
    RcloneDav,
    Wsgidav,
    RcloneSftp,
}

impl Service {
    fn program(self) -> &'static str {
        match self {
            Self::RcloneS3 | Self::RcloneDav | Self::RcloneSftp => "rclone",
            Self::Moto => "moto_server",
            Self::Wsgidav => "wsgidav",
        }
    }

    pub(crate) fn is_s3(self) -> bool {
        matches!(self, Self::RcloneS3 | Self::Moto)
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct WebServer {
    pub(crate) service: Service,
    dir: tempfile::TempDir,
    port: u16,
    tls: bool,
    /// What it wants to hear.
    secret: String,
    child: Child,
}

/// Finds a program where `.ci/tools` puts it, or on the path.
pub(crate) fn find(name: &str) -> Result<PathBuf, String> {
    let tools = std::env::var_os("BACKLOT_TOOLS").map_or_else(|| PathBuf::from("/opt/backlot-tools"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = vec![tools.join("sites/bin")];
    places.extend(std::env::split_paths(&path).filter(|dir| !dir.ends_with("shims")));
    let found = places.into_iter().map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| format!("{name} is not installed: see .ci/tools"))
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}

impl WebServer {
    /// Starts a server. The error says what this machine lacks.
    pub(crate) fn start(service: Service, tls: bool) -> Result<Self, String> {
        find(service.program())?;
        let dir = tempfile::Builder::new()
            .prefix("backlot-web-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        fs::create_dir(dir.path().join("root")).map_err(|e| e.to_string())?;
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::OpenOptionsExt;
            let file = fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(dir.path().join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|e| e.to_string())
        };
        write("user", USER)?;
        write("secret", SECRET)?;
        if tls {
            certificate::make(dir.path())?;
        }
        let mut last = String::new();
        // The port is free when it is chosen, and may be taken when the server starts.
        for _ in 0..5 {
            let port = free_port()?;
            match launch(service, dir.path(), port, tls, SECRET) {
                Ok(child) => {
                    return Ok(Self {
                        service,
                        dir,
                        port,
                        tls,
                        secret: SECRET.to_owned(),
                        child,
                    });
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Starts a server, or says in one line that it can't and returns `None`; panics then if it is required.
    pub(crate) fn start_or_skip(service: Service) -> Option<Self> {
        Self::start_or_skip_with(service, false)
    }

    /// As [`start_or_skip`](Self::start_or_skip), with TLS and a certificate of its own making.
    pub(crate) fn start_or_skip_with(service: Service, tls: bool) -> Option<Self> {
        let (require, kind) = if service.is_s3() {
            (REQUIRE_S3, "s3")
        } else {
            (REQUIRE_WEBDAV, "webdav")
        };
        match Self::start(service, tls) {
            Ok(server) => Some(server),
            Err(why) => {
                assert!(
                    std::env::var_os(require).is_none_or(|v| v != "1"),
                    "{require}=1, and no server: {why}"
                );
                drop(writeln!(std::io::stderr(), "SKIPPED: {kind} ({why})"));
                None
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder that is served; moto has none.
    pub(crate) fn root(&self) -> PathBuf {
        self.file("root")
    }

    pub(crate) fn s3(&self, bucket: &str) -> S3Site {
        S3Site {
            bucket: bucket.to_owned(),
            endpoint: self.address(),
            address_style: AddressStyle::Path,
            access_key: Some(SecretRef::File(self.file("user"))),
            secret_key: Some(SecretRef::File(self.file("secret"))),
            ca_file: self.tls.then(|| self.file("cert.pem")),
            connect_timeout: Period::from_secs(30),
            ..S3Site::default()
        }
    }

    pub(crate) fn webdav(&self, folder: &str) -> WebdavSite {
        WebdavSite {
            url: format!("{}/{folder}", self.address()),
            user: Some(USER.to_owned()),
            password: Some(SecretRef::File(self.file("secret"))),
            ca_file: self.tls.then(|| self.file("cert.pem")),
            connect_timeout: Period::from_secs(30),
            ..WebdavSite::default()
        }
    }

    pub(crate) fn sftp(&self, folder: &str) -> SftpSite {
        SftpSite {
            host: "127.0.0.1".into(),
            port: self.port,
            user: USER.to_owned(),
            root: format!("/{folder}"),
            auth: SftpAuth::Password,
            password: Some(SecretRef::File(self.file("secret"))),
            known_hosts: self.file("known_hosts"),
            host_key: HostKey::AcceptNew,
            connect_timeout: Period::from_secs(30),
            ..SftpSite::default()
        }
    }

    /// Kills the server, without a word to anyone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again, on the same port. What moto held is gone.
    pub(crate) fn restart(&mut self) {
        self.child = launch(self.service, self.dir.path(), self.port, self.tls, &self.secret).unwrap();
    }

    /// Starts the server anew, with another secret: what is in the file that settings point to is wrong from now on.
    pub(crate) fn restart_with(&mut self, secret: &str) {
        self.kill();
        secret.clone_into(&mut self.secret);
        self.restart();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops the server's process: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn launch(service: Service, dir: &Path, port: u16, tls: bool, secret: &str) -> Result<Child, String> {
    let mut command = Command::new(find(service.program())?);
    let at = |name: &str| dir.join(name);
    let address = format!("127.0.0.1:{port}");
    match service {
        Service::RcloneS3 | Service::RcloneDav | Service::RcloneSftp => {
            command
                .env("RCLONE_CONFIG", "/dev/null")
                .env("RCLONE_CACHE_DIR", at("cache"))
                .arg("serve");
            if service == Service::RcloneS3 {
                command.args(["s3", "--auth-key", &format!("{USER},{secret}")]);
            } else {
                let kind = if service == Service::RcloneSftp {
                    "sftp"
                } else {
                    "webdav"
                };
                command.args([kind, "--user", USER, "--pass", secret]);
            }
            command.args(["--addr", &address]);
            if tls {
                command
                    .arg("--cert")
                    .arg(at("cert.pem"))
                    .arg("--key")
                    .arg(at("key.pem"));
            }
            command.arg(at("root"));
        }
        Service::Moto => {
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        }
        Service::Wsgidav => {
            let text = format!(
                "host: 127.0.0.1\nport: {port}\nserver: cheroot\nverbose: 1\nprovider_mapping:\n  \"/\": \"{}\"\n\
                 simple_dc:\n  user_mapping:\n    \"*\":\n      {USER}:\n        password: {secret}\n\
                 http_authenticator:\n  accept_basic: true\n  accept_digest: false\n  default_to_digest: false\n\
                 property_manager: false\nlock_storage: false\n",
                at("root").display()
            );
            fs::write(at("wsgidav.yaml"), text).map_err(|e| e.to_string())?;
            command.arg("--config").arg(at("wsgidav.yaml"));
        }
    }
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(at("log"))
        .map_err(|e| e.to_string())?;
    let err = log.try_clone().map_err(|e| e.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(err)
        .spawn()
        .map_err(|e| format!("{command:?}: {e}"))?;
    let begun = Instant::now();
    while begun.elapsed() < START {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(child);
        }
        if child.try_wait().map_err(|e| e.to_string())?.is_some() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    drop(child.kill());
    drop(child.wait());
    let said = fs::read_to_string(at("log")).unwrap_or_default();
    Err(format!("{} did not start: {said}", service.program()))
}
