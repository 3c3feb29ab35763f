//! A real OpenSSH server on the loopback interface, for tests: everything it reads and writes lies in one temporary folder.
//!
//! Owns: the server's process and those below it. Refuses to know: what is tested with it. Invariant: it touches neither
//! `~/.ssh` nor `/etc/ssh`, and when it is dropped, its processes are gone.
#![allow(dead_code, reason = "shared by test binaries, none of which needs all of it")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backlot_config::{HostKey, Period, SftpAuth, SftpSite};
use rustix::process::{Pid, Signal, kill_process};

/// The variable that turns a missing server from a skip into a failure.
pub(crate) const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_SSHD";

/// How the server serves SFTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Inside sshd.
    Internal,
    /// By the `sftp-server` program; without root's power to pass over permissions, where it runs as root.
    Program,
    /// By the `sftp-server` program with every extension taken away that a plain version 3 server lacks.
    Bare,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

/// Finds a program where distributions put it.
fn find(names: &[&str]) -> Result<PathBuf, String> {
    let found = names.iter().map(PathBuf::from).find(|p| p.is_file());
    found.ok_or_else(|| format!("none of {} is installed", names.join(", ")))
}

fn run(command: &mut Command) -> Result<(), String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)))
    }
}

fn make_key(file: &Path, passphrase: &str) -> Result<(), String> {
    drop(fs::remove_file(file));
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-a", "4", "-N", passphrase, "-f"])
        .arg(file))
}

impl Sshd {
    /// The passphrase of [`locked_key`](Self::locked_key).
    pub(crate) const PASSPHRASE: &'static str = "correct horse battery staple";

    /// Starts a server. The error says what this machine lacks.
    pub(crate) fn start(mode: Mode) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("backlot-sshd-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        let at = |name: &str| dir.path().join(name);
        make_key(&at("host_key"), "")?;
        make_key(&at("user_key"), "")?;
        make_key(&at("locked_key"), Self::PASSPHRASE)?;
        make_key(&at("other_key"), "")?;
        let trusted = ["user_key.pub", "locked_key.pub"].map(|f| fs::read_to_string(at(f)).unwrap_or_default());
        fs::write(at("authorized_keys"), trusted.concat()).map_err(|e| e.to_string())?;
        fs::create_dir(at("root")).map_err(|e| e.to_string())?;
        if rustix::process::geteuid().is_root() {
            // sshd wants its empty folder there; it is part of no configuration.
            fs::create_dir_all("/run/sshd").map_err(|e| e.to_string())?;
        }
        let mut last = String::new();
        // The port is free when it is chosen, and may be taken when the server starts.
        for _ in 0..5 {
            let port = free_port()?;
            fs::write(at("sshd_config"), config(dir.path(), port, mode)?).map_err(|e| e.to_string())?;
            match launch(dir.path(), port) {
                Ok(child) => {
                    let server = Self { dir, port, child };
                    server.write_known_hosts();
                    return Ok(server);
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Starts a server, or says in one line that it can't and returns `None`; panics then if a server is required.
    pub(crate) fn start_or_skip(mode: Mode) -> Option<Self> {
        match Self::start(mode) {
            Ok(server) => Some(server),
            Err(why) => {
                assert!(
                    std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
                    "{REQUIRE}=1, and no sshd: {why}"
                );
                // Not `println!`: a test's output is swallowed when it passes, and this must be seen.
                drop(writeln!(std::io::stderr(), "SKIPPED: sshd ({why})"));
                None
            }
        }
    }

    /// The port it listens on, at 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A file in the server's temporary folder: `known_hosts`, `user_key`, `locked_key`, `other_key` (which is not let in).
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder that sites are made in.
    pub(crate) fn root(&self) -> PathBuf {
        self.file("root")
    }

    /// Settings of a site at `root`, logging in by key.
    pub(crate) fn settings(&self, root: &Path) -> SftpSite {
        SftpSite {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: user(),
            root: root.to_str().unwrap().to_owned(),
            auth: SftpAuth::Key,
            key_file: Some(self.file("user_key")),
            known_hosts: self.file("known_hosts"),
            host_key: HostKey::Strict,
            connections: 2,
            // A machine that runs many tests may be slow to shake hands.
            connect_timeout: Period::from_secs(60),
            ..SftpSite::default()
        }
    }

    /// Makes the server's key trusted in `known_hosts`, as it is now.
    pub(crate) fn write_known_hosts(&self) {
        let key = fs::read_to_string(self.file("host_key.pub")).unwrap();
        fs::write(self.file("known_hosts"), format!("[127.0.0.1]:{} {key}", self.port)).unwrap();
    }

    /// Makes the server's key, as it is now, trusted at a relay's port, for [`settings_by`](Self::settings_by).
    pub(crate) fn trust_by(&self, relay: u16) {
        let key = fs::read_to_string(self.file("host_key.pub")).unwrap();
        fs::write(self.file("relay_hosts"), format!("[127.0.0.1]:{relay} {key}")).unwrap();
    }

    /// Settings of a site in the server's folder, by way of a relay's port, at which the key is trusted.
    pub(crate) fn settings_by(&self, relay: u16) -> SftpSite {
        SftpSite {
            port: relay,
            known_hosts: self.file("relay_hosts"),
            ..self.settings(&self.root())
        }
    }

    /// Gives the server another host key; takes effect at the next start.
    pub(crate) fn change_host_key(&self) {
        make_key(&self.file("host_key"), "").unwrap();
    }

    /// Kills the server and every session, without a word to anyone.
    pub(crate) fn kill(&mut self) {
        // Stopped first, so that none of them makes another one meanwhile.
        for pid in self.freeze() {
            // Gone already is as good.
            let _: Result<(), _> = kill_process(pid, Signal::KILL);
        }
        self.child.wait().unwrap();
    }

    /// Starts the server again, on the same port.
    pub(crate) fn restart(&mut self) {
        self.child = launch(self.dir.path(), self.port).unwrap();
    }

    /// Stops every process of the server, and returns them: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) -> Vec<Pid> {
        let mut stopped = Vec::new();
        // Again, until no process is left that was made by one which was not stopped yet.
        loop {
            let running: Vec<_> = self.processes().into_iter().filter(|p| !stopped.contains(p)).collect();
            if running.is_empty() {
                return stopped;
            }
            for pid in running {
                let _: Result<(), _> = kill_process(pid, Signal::STOP);
                stopped.push(pid);
            }
        }
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        for pid in self.processes() {
            let _: Result<(), _> = kill_process(pid, Signal::CONT);
        }
    }

    /// The processes that serve SFTP sessions: those at the ends of the tree.
    pub(crate) fn session_processes(&self) -> Vec<Pid> {
        let tree = self.processes();
        let parents: BTreeSet<_> = tree.iter().filter_map(|p| parent(*p)).collect();
        tree.into_iter()
            .filter(|p| !parents.contains(&p.as_raw_nonzero().get()))
            .collect()
    }

    /// The server's process and all below it.
    fn processes(&self) -> Vec<Pid> {
        let Some(main) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return Vec::new();
        };
        let mut found = vec![main];
        let all: Vec<Pid> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .collect();
        let mut next = 0;
        while let Some(above) = found.get(next).copied() {
            next += 1;
            let above = above.as_raw_nonzero().get();
            found.extend(all.iter().filter(|p| parent(**p) == Some(above)));
        }
        found
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

/// The user that runs the tests: the only one whom an unprivileged sshd lets in.
pub(crate) fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn parent(pid: Pid) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses may hold anything; the state and the parent follow the last one.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}

fn config(dir: &Path, port: u16, mode: Mode) -> Result<String, String> {
    let program = || {
        find(&[
            "/usr/lib/openssh/sftp-server",
            "/usr/libexec/openssh/sftp-server",
            "/usr/lib/ssh/sftp-server",
        ])
    };
    let subsystem = match mode {
        Mode::Internal => "internal-sftp".to_owned(),
        Mode::Program if rustix::process::geteuid().is_root() => {
            let setpriv = find(&["/usr/bin/setpriv", "/bin/setpriv"])?;
            let drop = "--bounding-set=-dac_override,-dac_read_search --inh-caps=-all";
            format!("{} {drop} {}", setpriv.display(), program()?.display())
        }
        Mode::Program => program()?.display().to_string(),
        Mode::Bare => format!("{} -P posix-rename,fsync,statvfs,limits", program()?.display()),
    };
    let dir = dir.display();
    // A subsystem that is a program is started by the user's shell, and what that reads from the user's home folder is
    // none of a test's business: it may take a minute.
    Ok(format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host_key\nPidFile none\nAuthorizedKeysFile {dir}/authorized_keys\n\
         StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n\
         MaxStartups 100\nLogLevel ERROR\nSetEnv HOME={dir}\nSubsystem sftp {subsystem}\n"
    ))
}

fn launch(dir: &Path, port: u16) -> Result<Child, String> {
    let sshd = find(&["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"])?;
    let log = fs::File::create(dir.join("sshd.log")).map_err(|e| e.to_string())?;
    let mut child = Command::new(sshd)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| e.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if child.try_wait().map_err(|e| e.to_string())?.is_some() {
            return Err(fs::read_to_string(dir.join("sshd.log"))
                .unwrap_or_default()
                .trim()
                .to_owned());
        }
        if greets(port) {
            return Ok(child);
        }
        // Not a sleep in place of a condition: the condition is asked for again and again, and this is the pause.
        std::thread::park_timeout(Duration::from_millis(10));
    }
    drop(child.kill());
    drop(child.wait());
    Err("sshd did not begin to listen".to_owned())
}

/// Says whether an SSH server is at the port.
fn greets(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let mut first = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut first).is_ok()
        && first == *b"SSH-"
}
