//! What SFTP sites do when servers die, stop, refuse us, or are not who they were; and how soon they answer.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backlot::model::{RelPath, SiteName};
use backlot::providers::layers::RetryPolicy;
use backlot::providers::sftp::SftpSite;
use backlot::providers::{Controls, ErrorKind, Op, Provider, ProviderError, Retry, build};
use backlot_config::{HostKey, Period, ProviderSettings, SecretRef, SftpAuth, SftpSite as Settings, Site};
use futures::StreamExt;
use futures::future::join_all;

use crate::relay;
use crate::rig::path;
use crate::runtime;
use crate::sshd::{Mode, Sshd};
use crate::suite::{content, plan, read, send, upload};
use crate::web::{Service, WebServer};

/// The idle time-out of sites that are to run into it.
const IDLE: Duration = Duration::from_secs(3);
/// What a machine that is busy with other things may add to any time.
const SLACK: Duration = Duration::from_secs(10);
/// The idle time-out of all others: longer than what is waited for in vain.
const PATIENCE: Duration = Duration::from_secs(30);

fn site(settings: &Settings) -> Arc<SftpSite> {
    Arc::new(SftpSite::new(settings, None, PATIENCE).unwrap())
}

/// Runs a test with a server, if there is one.
fn with_server<F: Future<Output = ()>>(mode: Mode, test: impl FnOnce(Sshd) -> F) {
    if let Some(server) = Sshd::start_or_skip(mode) {
        runtime().block_on(test(server));
    }
}

/// Puts a large file of zeroes; returns its path and length.
fn put_large(server: &Sshd) -> (RelPath, u64) {
    let len = 256 << 20;
    fs::File::create(server.root().join("large"))
        .unwrap()
        .set_len(len)
        .unwrap();
    (path("large"), len)
}

/// Reads on until the stream ends; returns how it ended, and how long that took.
async fn drain(
    mut stream: impl futures::Stream<Item = Result<bytes::Bytes, ProviderError>> + Unpin,
) -> (Option<ProviderError>, Duration) {
    let start = Instant::now();
    while let Some(chunk) = stream.next().await {
        if let Err(error) = chunk {
            assert!(stream.next().await.is_none(), "an error is the end");
            return (Some(error), start.elapsed());
        }
    }
    (None, start.elapsed())
}

#[test]
fn a_server_that_dies_in_mid_stream_is_unreachable_at_once_and_found_again() {
    with_server(Mode::Internal, async |mut server| {
        let (at, len) = put_large(&server);
        let p = site(&server.settings(&server.root()));
        let version = p.stat(&at).await.unwrap().version;
        let mut stream = p.read(&at, &version, 0..len);
        stream.next().await.unwrap().unwrap();
        server.kill();
        let (error, took) = drain(stream).await;
        let error = error.expect("the file is far larger than what can have been under way");
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        assert!(took < SLACK, "{took:?}");
        let error = p.stat(&at).await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (ErrorKind::Unreachable, Retry::After(None)),
            "{error}"
        );
        server.restart();
        assert_eq!(p.stat(&at).await.unwrap().version, version);
    });
}

#[test]
fn a_server_that_stops_answering_times_out_and_is_given_up() {
    with_server(Mode::Program, async |server| {
        let (at, len) = put_large(&server);
        let settings = Settings {
            connect_timeout: Period::from_secs(5),
            ..server.settings(&server.root())
        };
        let p = Arc::new(SftpSite::new(&settings, None, IDLE).unwrap());
        let version = p.stat(&at).await.unwrap().version;
        let mut stream = p.read(&at, &version, 0..len);
        stream.next().await.unwrap().unwrap();
        let waiting = tokio::spawn({
            let p = Arc::clone(&p);
            async move {
                let mut errors = Vec::new();
                for at in ["a", "b"] {
                    errors.push(p.stat(&path(at)).await.unwrap_err());
                }
                errors
            }
        });
        server.freeze();
        let (error, took) = drain(stream).await;
        let error = error.expect("the file is far larger than what can have been under way");
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        assert!(took > IDLE / 2 && took < IDLE + SLACK, "{took:?}");
        let start = Instant::now();
        // A connection was given up, or can't be made.
        assert_eq!(p.stat(&at).await.unwrap_err().kind, ErrorKind::TimedOut);
        assert!(start.elapsed() < IDLE + SLACK);
        for error in waiting.await.unwrap() {
            // The first of them may have been answered before the server stopped.
            assert!(
                matches!(error.kind, ErrorKind::TimedOut | ErrorKind::NotFound),
                "{error}"
            );
        }
        server.thaw();
        assert_eq!(p.stat(&at).await.unwrap().version, version);
    });
}

#[test]
fn one_slow_start_is_shared_and_connections_grow_only_with_work() {
    with_server(Mode::Program, async |server| {
        let (at, len) = put_large(&server);
        let settings = Settings {
            connections: 3,
            ..server.settings(&server.root())
        };
        let p = site(&settings);
        let looks = (0..30).map(|_| p.stat(&at));
        let version = join_all(looks).await.pop().unwrap().unwrap().version;
        assert_eq!(
            server.session_processes().len(),
            1,
            "thirty looks are no reason for a second connection"
        );
        // Wave after wave: each finds what the one before it had opened.
        for _ in 0..6 {
            let reads = (0..8).map(|i| {
                let (p, at, version) = (Arc::clone(&p), at.clone(), version.clone());
                let range = i * (8 << 20)..(i + 1) * (8 << 20);
                tokio::spawn(async move { read(&*p, &at, &version, range).await.unwrap().len() })
            });
            for got in join_all(reads).await {
                assert_eq!(got.unwrap(), 8 << 20);
            }
        }
        let open = server.session_processes().len();
        assert!((2..=3).contains(&open), "{open} connections");
        assert_eq!(p.stat(&at).await.unwrap().size, len);
    });
}

/// A server writes each file to its disk when it is committed, and answers nothing else on that connection meanwhile.
#[test]
fn many_small_files_go_up_over_several_connections() {
    with_server(Mode::Program, async |server| {
        let settings = Settings {
            connections: 3,
            ..server.settings(&server.root())
        };
        let p = site(&settings);
        // Wave after wave: the first ones may be through before another connection is there.
        let limit = Instant::now() + PATIENCE;
        for wave in 0.. {
            let uploads = (0..8).map(|i| {
                let p = Arc::clone(&p);
                tokio::spawn(async move {
                    upload(&*p, &path(&format!("f{wave}-{i}")), &content(i, 20_000)).await;
                })
            });
            for done in join_all(uploads).await {
                done.unwrap();
            }
            match server.session_processes().len() {
                2..=3 => break,
                open => assert!(Instant::now() < limit, "{open} connections after {wave} waves"),
            }
        }
    });
}

#[test]
fn requests_that_nobody_waits_for_leave_nothing_open() {
    with_server(Mode::Program, async |server| {
        for i in 0..20 {
            fs::write(server.root().join(format!("f{i}")), content(1, 200_000)).unwrap();
        }
        let settings = Settings {
            connections: 1,
            ..server.settings(&server.root())
        };
        let p = site(&settings);
        let version = p.stat(&path("f0")).await.unwrap().version;
        let open_files = || {
            let pids = server.session_processes();
            let fds = fs::read_dir(format!("/proc/{}/fd", pids[0].as_raw_nonzero())).unwrap();
            fds.filter(|fd| {
                let target = fs::read_link(fd.as_ref().unwrap().path()).unwrap_or_default();
                target.starts_with(server.root())
            })
            .count()
        };
        for round in 0..300 {
            let at = path(&format!("f{}", round % 20));
            let (root, stale) = (RelPath::root(), version.clone());
            let mut reading = p.read(&at, &stale, 0..200_000);
            let mut listing = p.list(&root);
            let looking = p.stat(&at);
            tokio::pin!(looking);
            // Each is begun, and dropped before, or while, its answer is on its way.
            drop((
                futures::poll!(reading.next()),
                futures::poll!(listing.next()),
                futures::poll!(looking.as_mut()),
            ));
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(
            read(&*p, &path("f0"), &version, 0..200_000).await.unwrap(),
            content(1, 200_000)
        );
        // What was read lately is kept open for a few seconds; then nothing is.
        let deadline = Instant::now() + Duration::from_secs(60);
        while open_files() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(open_files(), 0);
        assert_eq!(
            server.session_processes().len(),
            1,
            "and it is still the same connection"
        );
    });
}

#[test]
fn the_first_byte_comes_in_two_round_trips_and_the_next_read_in_one() {
    with_server(Mode::Internal, async |server| {
        const ROUND_TRIP: Duration = Duration::from_millis(300);
        let bytes = content(1, 1_000_000);
        let files = ["a", "b", "c"];
        for file in files {
            fs::write(server.root().join(file), &bytes).unwrap();
        }
        let port = relay::start(server.port(), ROUND_TRIP / 2).await;
        let key = fs::read_to_string(server.file("host_key.pub")).unwrap();
        fs::write(server.file("known_hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let p = site(&Settings {
            port,
            ..server.settings(&server.root())
        });
        // A busy machine only ever adds to a time: the best of three is the truth.
        let mut best = [Duration::MAX; 3];
        for file in files {
            let at = path(file);
            let version = p.stat(&at).await.unwrap().version;
            let first_byte = async |range| {
                let start = Instant::now();
                let mut stream = p.read(&at, &version, range);
                stream.next().await.unwrap().unwrap();
                start.elapsed()
            };
            let times = [first_byte(0..65_536).await, first_byte(500_000..600_000).await, {
                let start = Instant::now();
                assert!(read(&*p, &at, &version, 0..1_000_000).await.unwrap() == bytes);
                start.elapsed()
            }];
            best = std::array::from_fn(|i| best[i].min(times[i]));
        }
        let [first, second, whole] = best;
        assert!(second >= ROUND_TRIP, "the relay does not delay: {second:?}");
        assert!(first < ROUND_TRIP * 29 / 10, "open, then read: {first:?}");
        assert!(second < ROUND_TRIP * 19 / 10, "it is open already: {second:?}");
        assert!(
            whole < ROUND_TRIP * 29 / 10,
            "a megabyte is asked for at once: {whole:?}"
        );
    });
}

/// What a refusal must say, and must not.
fn check(error: &ProviderError, kind: ErrorKind, words: &[&str]) {
    let text = format!("{error} {error:?}");
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    assert!(
        !text.contains(Sshd::PASSPHRASE) && !text.contains("hunter2"),
        "a secret in: {text}"
    );
}

async fn refused(settings: &Settings) -> ProviderError {
    let p = site(settings);
    let shown = format!("{p:?}");
    assert!(
        !shown.contains(Sshd::PASSPHRASE) && !shown.contains("hunter2"),
        "a secret in: {shown}"
    );
    let error = p.probe().await.unwrap_err();
    let again = p.stat(&path("x")).await.unwrap_err();
    assert_eq!(again.kind, error.kind, "and again");
    error
}

/// Writes a secret where only we can read it.
fn secret(server: &Sshd, name: &str, text: &str) -> SecretRef {
    use std::os::unix::fs::PermissionsExt;
    let file = server.file(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    SecretRef::File(file)
}

#[test]
fn keys_and_passwords_that_are_wrong_are_refused_with_a_hint() {
    with_server(Mode::Internal, async |server| {
        let good = server.settings(&server.root());
        let key = |file: &str| Settings {
            key_file: Some(server.file(file)),
            ..good.clone()
        };
        check(
            &refused(&key("other_key")).await,
            ErrorKind::Auth,
            &["other_key", "SHA256:", "authorized_keys"],
        );
        check(
            &refused(&key("no_such_key")).await,
            ErrorKind::Auth,
            &["no_such_key", "key-file"],
        );
        check(
            &refused(&key("locked_key")).await,
            ErrorKind::Auth,
            &["locked_key", "passphrase"],
        );
        check(
            &refused(&key("known_hosts")).await,
            ErrorKind::Auth,
            &["known_hosts", "chmod 600"],
        );

        let locked = |text: &str| Settings {
            passphrase: Some(secret(&server, "pass", text)),
            ..key("locked_key")
        };
        check(
            &refused(&locked("hunter2")).await,
            ErrorKind::Auth,
            &["locked_key", "can't be deciphered"],
        );
        site(&locked(Sshd::PASSPHRASE)).probe().await.unwrap();

        let password = Some(secret(&server, "word", "hunter2"));
        let by_password = Settings {
            auth: SftpAuth::Password,
            password,
            ..good.clone()
        };
        check(&refused(&by_password).await, ErrorKind::Auth, &["password", &good.user]);

        let nobody = Settings {
            user: "no-such-user".into(),
            ..good.clone()
        };
        check(&refused(&nobody).await, ErrorKind::Auth, &["no-such-user"]);

        // Settings that can't work are told before anything is sent.
        let unset = Settings {
            password: Some(SecretRef::Env("BACKLOT_TEST_UNSET".into())),
            ..by_password.clone()
        };
        check(
            &SftpSite::new(&unset, None, IDLE).unwrap_err(),
            ErrorKind::Auth,
            &["BACKLOT_TEST_UNSET"],
        );
        for wrong in [
            Settings {
                password: None,
                ..by_password
            },
            Settings {
                key_file: None,
                ..good.clone()
            },
            Settings {
                root: "relative".into(),
                ..good.clone()
            },
            Settings {
                host: String::new(),
                ..good.clone()
            },
        ] {
            check(&SftpSite::new(&wrong, None, IDLE).unwrap_err(), ErrorKind::Config, &[]);
        }
        site(&good).probe().await.unwrap();
    });
}

#[test]
fn servers_that_are_unknown_or_not_who_they_were_are_refused() {
    with_server(Mode::Internal, async |mut server| {
        let good = server.settings(&server.root());
        let empty = Settings {
            known_hosts: server.file("none_yet"),
            ..good.clone()
        };
        let file = server.file("none_yet");
        let file = file.to_str().unwrap();
        let hint = format!("ssh-keyscan -p {} 127.0.0.1 >> {file}", server.port());
        check(
            &refused(&empty).await,
            ErrorKind::Auth,
            &["SHA256:", "ssh-ed25519", &hint, "accept-new"],
        );
        assert!(!server.file("none_yet").exists(), "refusing writes nothing");

        let accepting = Settings {
            host_key: HostKey::AcceptNew,
            ..empty.clone()
        };
        site(&accepting).probe().await.unwrap();
        assert!(
            fs::read_to_string(file)
                .unwrap()
                .starts_with(&format!("[127.0.0.1]:{} ssh-ed25519 ", server.port()))
        );
        site(&empty).probe().await.unwrap();

        server.kill();
        server.change_host_key();
        server.restart();
        let before = fs::read_to_string(file).unwrap();
        for settings in [&empty, &accepting] {
            check(
                &refused(settings).await,
                ErrorKind::Auth,
                &["HAS CHANGED", "SHA256:", "ssh-keygen -f"],
            );
        }
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            before,
            "a key that changed is never written"
        );
    });
}

#[test]
fn nobody_at_the_door() {
    with_server(Mode::Internal, async |mut server| {
        let good = server.settings(&server.root());
        server.kill();
        check(&refused(&good).await, ErrorKind::Unreachable, &["127.0.0.1"]);
        let nowhere = Settings {
            host: "no-such-host.invalid".into(),
            ..good
        };
        check(
            &refused(&nowhere).await,
            ErrorKind::Unreachable,
            &["no-such-host.invalid"],
        );
    });
}

#[test]
fn a_server_without_sftp_is_told_from_one_that_is_away() {
    with_server(Mode::Internal, async |mut server| {
        let file = server.file("sshd_config");
        let config = fs::read_to_string(&file)
            .unwrap()
            .replace("Subsystem sftp internal-sftp\n", "");
        fs::write(&file, config).unwrap();
        server.kill();
        server.restart();
        check(
            &refused(&server.settings(&server.root())).await,
            ErrorKind::Unreachable,
            &["`sftp` subsystem"],
        );
    });
}

/// Ends the agent when the test is over.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_keys_of_an_agent_are_tried_in_turn() {
    with_server(Mode::Internal, async |server| {
        let socket = server.file("agent");
        let agent = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let _agent = Agent(agent);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !socket.exists() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(log_in_elsewhere(&server, &socket).contains("holds no key"));
        add_key(&socket, &server.file("other_key"));
        assert!(log_in_elsewhere(&server, &socket).contains("any of 1 keys"));
        add_key(&socket, &server.file("user_key"));
        assert!(log_in_elsewhere(&server, &socket).contains("LOGGED IN"));
        assert!(log_in_elsewhere(&server, Path::new("/nonexistent")).contains("no SSH agent"));
    });
}

fn add_key(socket: &Path, key: &Path) {
    let added = Command::new("ssh-add")
        .arg("-q")
        .arg(key)
        .env("SSH_AUTH_SOCK", socket)
        .status()
        .unwrap();
    assert!(added.success());
}

/// Logs in by agent in a process of its own, because the agent is found by an environment variable; returns what it said.
fn log_in_elsewhere(server: &Sshd, socket: &Path) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "servers::child_that_logs_in_by_agent",
        ])
        .env("SSH_AUTH_SOCK", socket)
        .env("BACKLOT_TEST_AGENT_PORT", server.port().to_string())
        .env("BACKLOT_TEST_AGENT_DIR", server.file(""))
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
#[ignore = "run by the_keys_of_an_agent_are_tried_in_turn, in a process of its own"]
fn child_that_logs_in_by_agent() {
    let (Ok(port), Some(dir)) = (
        std::env::var("BACKLOT_TEST_AGENT_PORT"),
        std::env::var_os("BACKLOT_TEST_AGENT_DIR"),
    ) else {
        return;
    };
    let dir = Path::new(&dir);
    let settings = Settings {
        host: "127.0.0.1".into(),
        port: port.parse().unwrap(),
        user: crate::sshd::user(),
        root: dir.join("root").to_str().unwrap().to_owned(),
        auth: SftpAuth::Agent,
        known_hosts: dir.join("known_hosts"),
        ..Settings::default()
    };
    match runtime().block_on(site(&settings).probe()) {
        Ok(()) => println!("LOGGED IN"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn an_upload_survives_the_death_of_the_server() {
    with_server(Mode::Internal, async |mut server| {
        let p = site(&server.settings(&server.root()));
        let (at, bytes) = (path("d/file"), content(1, 3_000_000));
        let plan = plan(&at, bytes.len(), 1 << 20);
        let part = |index| crate::suite::part(&plan, &bytes, index);
        let token = p.begin_upload(&plan).await.unwrap();
        let mut done = vec![p.upload_part(&token, 0, part(0)).await.unwrap()];
        server.kill();
        let error = p.upload_part(&token, 1, part(1)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        server.restart();
        for index in [1, 2] {
            done.push(p.upload_part(&token, index, part(index)).await.unwrap());
        }
        p.commit(token, &done, Some(None)).await.unwrap();
        assert!(fs::read(server.root().join("d/file")).unwrap() == bytes);
    });
}

#[test]
fn a_site_as_it_is_built_goes_on_reading_when_its_server_comes_back() {
    with_server(Mode::Internal, async |mut server| {
        // More than what may be on its way when the server dies, or nothing would be left to go on with.
        let bytes = content(1, 48 << 20);
        fs::write(server.root().join("file"), &bytes).unwrap();
        let settings = Site::new(ProviderSettings::Sftp(server.settings(&server.root())));
        let retry = RetryPolicy {
            tries: 20,
            ..RetryPolicy::default()
        };
        let controls = Controls {
            idle_timeout: PATIENCE,
            retry,
            ..Controls::of(&settings)
        };
        let p = build(&SiteName("studio".into()), &settings, &controls).unwrap();
        let at = path("file");
        let version = p.stat(&at).await.unwrap().version;
        let mut stream = p.read(&at, &version, 0..bytes.len() as u64);
        let mut got = stream.next().await.unwrap().unwrap().to_vec();
        server.kill();
        server.restart();
        while let Some(chunk) = stream.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == bytes);
        assert_eq!(
            controls.meter.snapshot().calls(Op::Read),
            1,
            "one read, as the caller sees it"
        );
        assert_eq!(controls.meter.snapshot().bytes_in, bytes.len() as u64);
    });
}

/// rclone's server says yes to a rename at once, and renames when the file is closed: a server that dies in between has lost
/// what it acknowledged. So nothing of ours is open by then.
#[test]
fn what_a_server_acknowledged_has_its_name() {
    let Some(server) = WebServer::start_or_skip(Service::RcloneSftp) else {
        return;
    };
    fs::create_dir(server.root().join("projects")).unwrap();
    runtime().block_on(async {
        let p = site(&server.sftp("projects"));
        for n in 0..=250_u8 {
            let (at, bytes) = (format!("{n}.exr"), content(n, 20_000));
            upload(&*p, &path(&at), &bytes).await;
            assert!(
                fs::read(server.root().join("projects").join(&at)).is_ok_and(|there| there == bytes),
                "{at} was acknowledged, and is not there"
            );
        }
    });
}

/// rclone's server takes bytes for a file only until it is closed: what was begun and can't be gone on with is begun anew, and is no
/// denial that a person has to look at.
#[test]
fn an_upload_that_a_server_does_not_go_on_with_begins_anew() {
    let Some(server) = WebServer::start_or_skip(Service::RcloneSftp) else {
        return;
    };
    fs::create_dir(server.root().join("projects")).unwrap();
    runtime().block_on(async {
        let (at, bytes) = (path("plate.exr"), content(1, 20_000));
        let plan = plan(&at, bytes.len(), 1 << 20);
        let before = site(&server.sftp("projects"));
        let (token, done) = send(&*before, &plan, &bytes).await;
        drop(before);
        let whole = crate::suite::part(&plan, &bytes, 0);
        let after = site(&server.sftp("projects"));
        eventually(async || server.root().join("projects").join(&token.state).exists()).await;
        let error = after.upload_part(&token, 0, whole).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        // Nothing is lost of what was whole.
        after.commit(token, &done, None).await.unwrap();
        assert!(fs::read(server.root().join("projects/plate.exr")).unwrap() == bytes);
    });
}

/// Waits until something holds.
async fn eventually(holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
