//! A drive of its own in a temporary folder, served by the real program in a child process, and everything bounded.
//!
//! Owns: the settings, the daemon's process and its mount. Refuses to know: how the daemon does what it does. Invariants:
//! nothing here waits for ever; when a drive is dropped, its daemon is gone and its mount as well.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use backlot_config::{HostKey, S3Site, SftpAuth, SftpSite, WebdavSite};
use backlot_platform::fuse::{Unmount, abort_path, unmount_path};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The variable that turns missing FUSE from a skip into a failure.
pub const REQUIRE_FUSE: &str = "BACKLOT_TEST_REQUIRE_FUSE";
/// The variable that sets `fuse.passthrough` for all drives: `off` runs everything without.
pub const PASSTHROUGH: &str = "BACKLOT_TEST_PASSTHROUGH";
/// The variable that turns missing passthrough from a skip into a failure.
pub const REQUIRE_PASSTHROUGH: &str = "BACKLOT_TEST_REQUIRE_PASSTHROUGH";
/// The variable that names a folder to which a failed test's drive is copied.
pub const KEEP: &str = "BACKLOT_TEST_KEEP";
/// The read deadline of every drive here unless a test sets another.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// Longer than anything that should happen soon takes on a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);
/// The name of the one project, and of its folder.
pub const PROJECT: &str = "show";
/// The name of the one site.
pub const SITE: &str = "site";

/// A test with a drive may take this long; then its daemons are killed, which frees whoever hangs in their mounts.
const TEST_LIMIT: Duration = Duration::from_secs(100);
/// How long the daemon may take to be ready, and to end.
const START: Duration = Duration::from_secs(20);
/// How long a verb of the program may take.
const VERB: Duration = Duration::from_secs(90);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(5);
/// How much of a daemon's log a failed test shows.
const LOG_SHOWN: usize = 8000;

/// Daemons by the thread of the test that started them.
static DAEMONS: Mutex<Vec<(ThreadId, Pid)>> = Mutex::new(Vec::new());

fn daemons() -> MutexGuard<'static, Vec<(ThreadId, Pid)>> {
    DAEMONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under test: this build's, or another one (an installed one, say) that `BACKLOT_TEST_PROGRAM` names.
fn program() -> PathBuf {
    std::env::var_os("BACKLOT_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_backlot").into(), PathBuf::from)
}

/// Says something past the test harness, which swallows what a passed test prints.
pub fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Says why a test can't run here, or fails where it was promised.
pub fn fuse_is_missing() -> bool {
    let reason = if !Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else if !is_root() && find_program("fusermount3").is_none() {
        "neither root nor fusermount3"
    } else {
        return false;
    };
    assert!(
        std::env::var_os(REQUIRE_FUSE).is_none_or(|v| v != "1"),
        "{REQUIRE_FUSE}=1, and {reason}"
    );
    say(&format!("SKIPPED: fuse ({reason})"));
    true
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Finds a program on the path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// Runs a test that uses drives, on a thread, with a time limit; skips it where there is no FUSE.
pub fn drive_test(body: impl FnOnce() + Send + 'static) {
    drive_test_within(TEST_LIMIT, body);
}

/// As [`drive_test`], for tests that are long.
pub fn drive_test_within(limit: Duration, body: impl FnOnce() + Send + 'static) {
    if fuse_is_missing() {
        return;
    }
    let (done, is_done) = sync_channel(1);
    let running = thread::spawn(move || {
        body();
        // Nobody listens any more when the time was up.
        let _ = done.send(());
    });
    if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        let test = running.thread().id();
        for (_, pid) in daemons().iter().filter(|(t, _)| *t == test) {
            let _ = kill_process(*pid, Signal::KILL);
        }
        // Freed, it fails for a reason of its own; what counts is that it hung.
        let _ = is_done.recv_timeout(SOON);
        panic!("the test took longer than {limit:?}");
    }
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Does something that may hang, on a thread, and fails when it takes longer than `limit`.
pub fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = sync_channel(1);
    let running = thread::spawn(move || drop(done.send(work())));
    match is_done.recv_timeout(limit) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("{what} took longer than {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => match running.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it sends before it ends"),
        },
    }
}

/// Asks again and again until something is so, and fails after [`SOON`].
pub fn eventually(what: &str, met: impl FnMut() -> bool) {
    eventually_within(SOON, what, met);
}

/// As [`eventually`], with a limit; returns how long it took.
pub fn eventually_within(limit: Duration, what: &str, mut met: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < limit, "{what} did not happen within {limit:?}");
        thread::park_timeout(PAUSE);
    }
    begun.elapsed()
}

/// Starts a program. One that was just copied may be "busy" for a moment: another test's child has the copy open for
/// writing, between its fork and its exec.
fn spawned(command: &mut Command) -> std::io::Result<Child> {
    let give_up = Instant::now() + SOON;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && Instant::now() < give_up => {
                thread::park_timeout(Duration::from_millis(5));
            }
            started => return started,
        }
    }
}

/// Runs a program to its end and returns what it said; kills it and fails when it takes longer than `limit`.
pub fn run_within(limit: Duration, command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawned(command).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let out = drain(child.stdout.take().unwrap());
    let err = drain(child.stderr.take().unwrap());
    let Some(status) = wait_within(&mut child, limit) else {
        say(&format!("--- threads of {shown}\n{}---", threads(child.id())));
        drop(child.kill());
        panic!("{shown} took longer than {limit:?}");
    };
    let take = |from: std::sync::mpsc::Receiver<Vec<u8>>| from.recv_timeout(SOON).unwrap_or_default();
    Output {
        status,
        stdout: take(out),
        stderr: take(err),
    }
}

/// What each thread of a process waits for, as far as the kernel tells.
fn threads(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let about = |task: PathBuf| {
        let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
        let status = read("status");
        let state = status
            .lines()
            .find(|line| line.starts_with("State:"))
            .unwrap_or_default();
        format!("{} {state} in {}\n", read("comm").trim(), read("wchan"))
    };
    tasks.map(|task| about(task.path())).collect()
}

fn drain(mut from: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (send, receive) = sync_channel(1);
    thread::spawn(move || {
        let mut all = Vec::new();
        drop(from.read_to_end(&mut all));
        drop(send.send(all));
    });
    receive
}

/// Waits for a child's end, and returns `None` if it does not come in time.
pub fn wait_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return Some(status);
        }
        if begun.elapsed() >= limit {
            return None;
        }
        thread::park_timeout(PAUSE);
    }
}

/// Runs a program that must succeed and returns what it printed.
pub fn succeeds(command: &mut Command) -> String {
    let out = run_within(VERB, command);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command:?}: {}\n{said}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// How many mounts the kernel lists at a path.
pub fn mounts_at(point: &Path) -> usize {
    let table = fs::read("/proc/thread-self/mountinfo").expect("a table");
    let wanted = point.as_os_str().as_encoded_bytes();
    table
        .split(|b| *b == b'\n')
        .filter(|line| line.split(|b| *b == b' ').nth(4) == Some(wanted))
        .count()
}

/// Describes a drive before it is there.
#[derive(Debug)]
pub struct Builder {
    dir: TempDir,
    settings: BTreeMap<String, BTreeMap<String, Value>>,
    user: Option<u32>,
    env: Vec<(OsString, OsString)>,
}

impl Builder {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("backlot-drive-")
            .tempdir()
            .expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        for made in ["mnt", "data", "cache"] {
            fs::create_dir(at(made)).expect("made");
        }
        let (mount, data, cache) = (at("mnt"), at("data"), at("cache"));
        let built = Self {
            dir,
            settings: BTreeMap::new(),
            user: None,
            env: Vec::new(),
        };
        built
            .set("drive.name", "test")
            .set("drive.mount-point", mount)
            .set("drive.data-dir", data)
            .set("drive.cache-dir", cache)
            .set("cache.max-size", "20GiB")
            .set("cache.min-free", "16MiB")
            .set("hydration.read-deadline", "2s")
            .set("scan.recheck-after", "200ms")
            .set("publish.settle", "200ms")
            .set(&format!("projects.{PROJECT}.remote-site"), SITE)
            .set(&format!("projects.{PROJECT}.remote-path"), ".")
            .set(&format!("projects.{PROJECT}.scan-interval"), "24h")
    }

    /// A drive whose site is a folder of this machine.
    pub fn local(root: &Path) -> Self {
        let root = root.to_str().expect("UTF-8");
        Self::new().site("provider", "local").site("root", root)
    }

    /// A drive whose site is of another kind; its settings are given with [`site`](Self::site).
    pub fn of(provider: &str) -> Self {
        Self::new().site("provider", provider)
    }

    /// A drive without a site: each that is wanted is given by its name.
    pub fn bare() -> Self {
        Self::new()
    }

    /// A drive whose site is an SFTP server.
    pub fn sftp(settings: &SftpSite) -> Self {
        Self::new().sftp_site(SITE, settings)
    }

    /// A drive whose site is a bucket.
    pub fn s3(settings: &S3Site) -> Self {
        Self::new().s3_site(SITE, settings)
    }

    /// A drive whose site is a folder of a WebDAV server.
    pub fn webdav(settings: &WebdavSite) -> Self {
        Self::new().webdav_site(SITE, settings)
    }

    fn of_site(self, site: &str, key: &str, value: impl Into<Value>) -> Self {
        self.set(&format!("sites.{site}.{key}"), value)
    }

    /// Adds a site that is an SFTP server.
    pub fn sftp_site(self, name: &str, settings: &SftpSite) -> Self {
        let shown = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let auth = match settings.auth {
            SftpAuth::Agent => "agent",
            SftpAuth::Key => "key",
            SftpAuth::Password => "password",
        };
        let host_key = match settings.host_key {
            HostKey::Strict => "strict",
            HostKey::AcceptNew => "accept-new",
        };
        let built = self
            .of_site(name, "provider", "sftp")
            .of_site(name, "host", settings.host.as_str())
            .of_site(name, "port", settings.port)
            .of_site(name, "user", settings.user.as_str())
            .of_site(name, "root", settings.root.as_str())
            .of_site(name, "auth", auth)
            .of_site(name, "known-hosts", shown(&settings.known_hosts))
            .of_site(name, "host-key", host_key)
            .of_site(name, "connections", settings.connections)
            .of_site(name, "connect-timeout", settings.connect_timeout.to_string());
        let built = match &settings.key_file {
            Some(key) => built.of_site(name, "key-file", shown(key)),
            None => built,
        };
        match &settings.password {
            Some(password) => built.of_site(name, "password", password.to_string()),
            None => built,
        }
    }

    /// Adds a site that is a bucket.
    pub fn s3_site(self, name: &str, settings: &S3Site) -> Self {
        let mut built = self
            .of_site(name, "provider", "s3")
            .of_site(name, "bucket", settings.bucket.as_str())
            .of_site(name, "endpoint", settings.endpoint.as_str())
            .of_site(name, "address-style", "path");
        for (key, secret) in [
            ("access-key", &settings.access_key),
            ("secret-key", &settings.secret_key),
        ] {
            if let Some(secret) = secret {
                built = built.of_site(name, key, secret.to_string());
            }
        }
        if let Some(file) = &settings.ca_file {
            built = built.of_site(name, "ca-file", file.to_str().expect("UTF-8"));
        }
        built
    }

    /// Adds a site that is a folder of a WebDAV server.
    pub fn webdav_site(self, name: &str, settings: &WebdavSite) -> Self {
        let mut built = self
            .of_site(name, "provider", "webdav")
            .of_site(name, "url", settings.url.as_str());
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            built = built
                .of_site(name, "user", user.as_str())
                .of_site(name, "password", password.to_string());
        }
        if let Some(file) = &settings.ca_file {
            built = built.of_site(name, "ca-file", file.to_str().expect("UTF-8"));
        }
        built
    }

    /// Sets a value of the site's section.
    pub fn site(self, key: &str, value: impl Into<Value>) -> Self {
        self.set(&format!("sites.{SITE}.{key}"), value)
    }

    /// Sets a value, as in `.set("hydration.read-deadline", "5s")`.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (section, key) = key.rsplit_once('.').expect("section.key");
        self.settings
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned(), value.into());
        self
    }

    /// Sets the project's zones, the first match first, as in `.zones(&[("**", "readonly")])`.
    pub fn zones(self, rules: &[(&str, &str)]) -> Self {
        let rule = |(pattern, zone): &(&str, &str)| serde_json::json!({ "match": pattern, "zone": zone });
        let rules: Vec<Value> = rules.iter().map(rule).collect();
        self.set(&format!("projects.{PROJECT}.zones"), rules)
    }

    /// Runs everything as another user, to whom the folders are given; for tests that run as root.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Sets a variable for everything that is run.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Writes the settings. Nothing runs yet.
    pub fn build(mut self) -> Drive {
        if let Ok(passthrough) = std::env::var(PASSTHROUGH) {
            self = self.set("fuse.passthrough", passthrough);
        }
        let mut text = String::from("schema_version = 1\n");
        for (section, keys) in &self.settings {
            text += &format!("[{section}]\n");
            for (key, value) in keys {
                text += &format!("{key} = {}\n", toml(value));
            }
        }
        let file = self.dir.path().join("backlot.toml");
        fs::write(&file, text).expect("written");
        let mut program = program();
        if let Some(user) = self.user {
            // The build's folder may be closed to other users.
            let copy = self.dir.path().join("backlot");
            fs::copy(&program, &copy).expect("copied");
            program = copy;
            let owner = (
                Some(rustix::fs::Uid::from_raw(user)),
                Some(rustix::fs::Gid::from_raw(user)),
            );
            for given in ["", "mnt", "data", "cache", "backlot.toml"] {
                rustix::fs::chown(self.dir.path().join(given), owner.0, owner.1).expect("given away");
            }
        }
        let of = |key: &str| PathBuf::from(self.settings["drive"][key].as_str().expect("a path"));
        Drive {
            mount_point: of("mount-point"),
            data_dir: of("data-dir"),
            cache_dir: of("cache-dir"),
            dir: self.dir,
            program,
            settings: file,
            user: self.user,
            env: self.env,
            daemon: None,
        }
    }
}

/// A value as TOML writes it: a JSON string, number or boolean is one.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(key, value)| format!("{key} = {}", toml(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A drive, mounted or not.
#[derive(Debug)]
pub struct Drive {
    dir: TempDir,
    program: PathBuf,
    settings: PathBuf,
    mount_point: PathBuf,
    data_dir: PathBuf,
    cache_dir: PathBuf,
    user: Option<u32>,
    env: Vec<(OsString, OsString)>,
    daemon: Option<Child>,
}

/// A program that refused.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<i32>,
    pub said: String,
}

impl Drive {
    /// The drive's temporary folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file of its settings.
    pub fn settings(&self) -> &Path {
        &self.settings
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// The project's folder in the mount: what the site's root holds.
    pub fn project(&self) -> PathBuf {
        self.mount_point.join(PROJECT)
    }

    /// A path of the site, as seen through the mount.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.project().join(below)
    }

    /// The program with these settings, for any verb.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"BACKLOT_") {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(&self.settings).current_dir("/");
        if let Some(user) = self.user {
            command.uid(user).gid(user).env("HOME", self.dir.path());
        }
        command
    }

    /// Runs a verb to its end.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        run_within(VERB, self.command().args(args))
    }

    /// Runs a verb that must succeed and returns what it printed.
    pub fn tell<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        succeeds(self.command().args(args))
    }

    /// Runs a verb that must fail.
    pub fn refused<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Refused {
        let out = self.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success(),
            "it did not fail, and said {said}{}",
            String::from_utf8_lossy(&out.stdout)
        );
        Refused {
            code: out.status.code(),
            said,
        }
    }

    /// Scans everything.
    pub fn scan(&self) {
        self.tell(["scan"]);
    }

    /// Scans and mounts.
    pub fn mounted(mut self) -> Self {
        self.scan();
        self.mount();
        self
    }

    /// Mounts, and fails if that does.
    pub fn mount(&mut self) {
        if let Err(refused) = self.try_mount() {
            panic!("not mounted: {refused:?}");
        }
    }

    /// Mounts and waits until files can be opened.
    pub fn try_mount(&mut self) -> Result<(), Refused> {
        self.try_start(&["mount"])
    }

    /// Starts the service that keeps sites in step, in place of a mount.
    pub fn sync(&mut self) {
        if let Err(refused) = self.try_start(&["sync"]) {
            panic!("the service did not start: {refused:?}");
        }
    }

    /// Starts a verb that goes on until it is ended, and waits until it says that it is ready.
    pub fn try_start(&mut self, verb: &[&str]) -> Result<(), Refused> {
        assert!(self.daemon.is_none(), "the test has one running already");
        let log_before = fs::metadata(self.log_file()).map_or(0, |m| m.len());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("opened");
        let mut command = self.command();
        let mut child = command
            .args(verb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("started");
        daemons().push((thread::current().id(), Pid::from_child(&child)));
        let (send, lines) = sync_channel(16);
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Read on when nobody listens: a daemon must not hang in what it prints.
                drop(send.try_send(line));
            }
        });
        let ready = lines.recv_timeout(START);
        self.daemon = Some(child);
        match ready {
            Ok(line) if line.starts_with("ready") => Ok(()),
            Ok(line) => panic!("the daemon said {line}"),
            Err(RecvTimeoutError::Timeout) => panic!("the daemon was not ready within {START:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let code = self.wait_end().code();
                let mut said = String::new();
                let mut log = File::open(self.log_file()).expect("there");
                std::io::Seek::seek(&mut log, std::io::SeekFrom::Start(log_before)).expect("sought");
                log.read_to_string(&mut said).expect("UTF-8");
                Err(Refused { code, said })
            }
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    /// What the daemons of this drive logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("mounted").id()
    }

    /// What `backlot status --json` tells.
    pub fn status(&self) -> Value {
        let told = self.tell(["status", "--json"]);
        serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"))
    }

    /// Sets a variable for what is run from now on, or takes it back.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.env.retain(|(known, _)| known.to_str() != Some(name));
        if let Some(value) = value {
            self.env.push((name.into(), value.into()));
        }
    }

    /// Says whether the daemon runs; one that has ended by itself is taken note of.
    pub fn is_running(&mut self) -> bool {
        let Some(daemon) = self.daemon.as_mut() else {
            return false;
        };
        if daemon.try_wait().expect("our child").is_none() {
            return true;
        }
        self.wait_end();
        false
    }

    /// What [`status`](Self::status) tells, asked without starting a program: for what is over in a moment.
    pub fn status_now(&self) -> Value {
        let mut socket = UnixStream::connect(self.data_dir.join("backlot.sock")).expect("the daemon listens");
        socket.set_read_timeout(Some(SOON)).expect("a socket");
        socket
            .write_all(b"GET /v1/status HTTP/1.0\r\nHost: backlot\r\n\r\n")
            .expect("asked");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answered");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Bytes that arrived from the site since the daemon started.
    pub fn fetched(&self) -> u64 {
        self.counter("fetched_bytes")
    }

    /// One of the counters of hydration.
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["hydration"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// `up`, `down` or `unknown`.
    pub fn link(&self) -> String {
        self.status()["sites"][0]["link"].as_str().expect("a word").to_owned()
    }

    /// The rows of `backlot ls --json`.
    pub fn ls(&self, path: &str) -> Vec<Value> {
        let told = self.tell(["ls", "--json", path]);
        serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"))
    }

    /// Kills the daemon as a crash would. Its mount stays, dead.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.daemon.as_ref().expect("mounted")), signal).expect("ours");
    }

    /// Asks the daemon by SIGTERM to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Unmounts by `backlot unmount` and waits for the daemon's end.
    pub fn unmount(&mut self) {
        self.tell(["unmount"]);
        let status = self.wait_end();
        assert!(status.success(), "the daemon ended with {status}");
    }

    /// Takes the mount away though it is in use, by `backlot unmount --lazy`, and waits for the daemon's end.
    pub fn unmount_lazily(&mut self) {
        self.tell(["unmount", "--lazy"]);
        self.wait_end();
    }

    /// Unmounts and mounts again.
    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Waits for the daemon's end.
    pub fn wait_end(&mut self) -> ExitStatus {
        let daemon = self.daemon.as_mut().expect("started");
        let status = wait_within(daemon, START);
        let Some(status) = status else {
            panic!("the daemon did not end within {START:?}")
        };
        let pid = Pid::from_child(daemon);
        daemons().retain(|(_, p)| *p != pid);
        self.daemon = None;
        status
    }

    fn clear(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.kill());
            if wait_within(&mut daemon, SOON).is_none() {
                // It waits for its own mount: cut that.
                drop(abort_path(&self.mount_point));
                if wait_within(&mut daemon, SOON).is_none() {
                    say(&format!("a daemon stays behind: {}", daemon.id()));
                }
            }
            let pid = Pid::from_child(&daemon);
            daemons().retain(|(_, p)| *p != pid);
        }
        for _ in 0..8 {
            if mounts_at(&self.mount_point) == 0 {
                return;
            }
            drop(unmount_path(&self.mount_point, Unmount::Lazy));
        }
        say(&format!("a mount stays behind: {}", self.mount_point.display()));
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.clear();
        if thread::panicking() {
            let log = self.log();
            if let Some(keep) = std::env::var_os(KEEP) {
                drop(Command::new("cp").arg("-a").arg(self.dir.path()).arg(keep).status());
            }
            let from = log.len().saturating_sub(LOG_SHOWN);
            let tail = log.get(from..).unwrap_or(&log);
            say(&format!(
                "--- the daemon's log of {:?}\n{tail}---",
                thread::current().name()
            ));
        }
    }
}
