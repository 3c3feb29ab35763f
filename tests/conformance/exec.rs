//! What a site behind a program does when the program hangs, talks nonsense, dies, floods, or was never there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backlot::model::{RelPath, Version};
use backlot::providers::exec::ExecSite;
use backlot::providers::{ErrorKind, HashKind, Provider, ProviderError, Retry};
use backlot_config::{ExecSite as Settings, Period, SecretRef};
use futures::{StreamExt, TryStreamExt};

use crate::rig::path;
use crate::runtime;
use crate::suite::{content, read};

/// The idle time-out of sites that are to run into it.
const IDLE: Duration = Duration::from_secs(2);
/// What a machine that is busy with other things may add to any time.
const SLACK: Duration = Duration::from_secs(10);

/// The beginning of all programs: `say` sends a message, `requests` gives them one by one, and each start and what it does
/// is noted in the file `trace`.
const PRELUDE: &str = r#"
import json, os, subprocess, sys, time
trace = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "trace"), "a", buffering=1)
def note(text): trace.write(text + "\n")
note(f"start {os.getpid()}")
def say(m, data=b""):
    sys.stdout.buffer.write(json.dumps(m).encode() + b"\n" + data); sys.stdout.buffer.flush()
def requests():
    for line in sys.stdin.buffer:
        r = json.loads(line); r["bytes"] = sys.stdin.buffer.read(r.get("data", 0)); note(r["op"]); yield r
def hello():
    sys.stdin.buffer.readline(); say({"protocol": 1})
FILE = {"kind": "file", "size": 3145728, "mtime_ns": 1, "version": "v1"}
"#;

struct Program {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Program {
    fn new(body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program.py");
        fs::write(&file, format!("{PRELUDE}{body}")).unwrap();
        let settings = Settings {
            command: ["python3", file.to_str().unwrap()].map(str::to_owned).to_vec(),
            workers: 1,
            start_timeout: Period::from_secs(20),
            ..Settings::default()
        };
        Self { dir, settings }
    }

    fn site(&self) -> Arc<ExecSite> {
        Arc::new(ExecSite::new(&self.settings, None, IDLE).unwrap())
    }

    fn trace(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("trace")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn pids(&self) -> Vec<u32> {
        let trace = self.trace();
        trace
            .iter()
            .filter_map(|l| l.strip_prefix("start ")?.parse().ok())
            .collect()
    }
}

/// Says whether a process runs; one that waits to be reaped does not.
fn runs(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn gone(pid: u32) {
    let start = Instant::now();
    while runs(pid) {
        assert!(start.elapsed() < SLACK, "process {pid} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn says(error: &ProviderError, kind: ErrorKind, texts: &[&str]) {
    assert_eq!(error.kind, kind, "{error}");
    for text in texts {
        assert!(error.to_string().contains(text), "not said: {text}: {error}");
    }
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children_and_started_again() {
    let program = Program::new(
        r#"
hello()
for r in requests():
    if r.get("path") == "hang":
        child = subprocess.Popen(["sleep", "600"]); note(f"child {child.pid}"); time.sleep(600)
    say({"id": r["id"], "entry": FILE})
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        p.stat(&path("file")).await.unwrap();
        let start = Instant::now();
        let error = p.stat(&path("hang")).await.unwrap_err();
        says(&error, ErrorKind::TimedOut, &["gave no answer for 2s and was killed"]);
        assert!(
            start.elapsed() >= IDLE && start.elapsed() < IDLE + SLACK,
            "{:?}",
            start.elapsed()
        );
        let trace = program.trace();
        let child = trace
            .iter()
            .find_map(|l| l.strip_prefix("child "))
            .expect("it did hang")
            .parse()
            .unwrap();
        gone(program.pids()[0]).await;
        gone(child).await;
        p.stat(&path("file")).await.unwrap();
        assert_eq!(program.pids().len(), 2, "another process serves");
    });
}

#[test]
fn what_is_no_message_names_program_and_line() {
    let program = Program::new(
        r#"
hello()
for r in requests():
    if r["path"] == "print": print("Traceback: DEBUG \x1b[31m connected"); sys.stdout.flush()
    elif r["path"] == "other": say({"id": r["id"] + 7, "entry": FILE})
    elif r["path"] == "long": sys.stdout.write("x" * (5 << 20)); sys.stdout.flush()
    elif r["path"] == "empty": say({"id": r["id"]})
    elif r["path"] == "odd": say({"id": r["id"], "error": "bad-hair-day"})
    elif r["path"] == "kind": say({"id": r["id"], "entry": dict(FILE, kind="door")})
    elif r["path"] == "huge": say({"id": r["id"], "data": 1 << 40})
    elif r["path"] == "bytes": sys.stdout.buffer.write(b"\xff\x00\xfe\n"); sys.stdout.flush()
    else: say({"id": r["id"], "entry": FILE})
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        let file = program.dir.path().join("program.py");
        for (at, why) in [
            (
                "print",
                &[
                    "python3 wrote what is no message (line 3",
                    r"Traceback: DEBUG \u{1b}[31m connected",
                    "standard error",
                ] as &[_],
            ),
            ("other", &["line 3: it answers request 9, and 2 was asked"]),
            ("long", &["line 3: a line has at most 4194304 bytes"]),
            ("empty", &["python3, line 3: the answer has no entry"]),
            ("odd", &["line 3: that is no kind of error", "bad-hair-day"]),
            ("kind", &["line 3", "door"]),
            ("huge", &["line 3: more than 1048576 bytes of data"]),
            ("bytes", &["line 3"]),
        ] {
            p.stat(&path("fine")).await.unwrap();
            let error = p.stat(&path(at)).await.unwrap_err();
            says(&error, ErrorKind::Protocol, why);
            assert!(error.to_string().len() < 700, "{error}");
        }
        assert!(file.exists());
        assert_eq!(program.pids().len(), 8, "each of them cost a process");
    });
}

#[test]
fn a_program_that_dies_in_mid_read_is_unreachable_and_says_its_last_words() {
    let program = Program::new(
        r#"
hello()
for r in requests():
    if r["op"] == "stat": say({"id": r["id"], "entry": FILE})
    elif r["offset"] == 0: say({"id": r["id"], "data": r["length"]}, b"a" * r["length"])
    else:
        print("the store closed the door", file=sys.stderr, flush=True); time.sleep(0.2)
        sys.stdout.buffer.write(json.dumps({"id": r["id"], "data": r["length"]}).encode() + b"\n" + b"b" * 1000)
        sys.stdout.flush(); note("died"); os._exit(3)
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        let at = path("file");
        let version = p.stat(&at).await.unwrap().version;
        let mut got = 0;
        let mut stream = p.read(&at, &version, 0..3 << 20);
        let error = loop {
            match stream.next().await.expect("it ends with an error") {
                Ok(bytes) => {
                    assert!(
                        bytes.iter().all(|b| *b == b'a'),
                        "bytes of a broken answer were given out"
                    );
                    got += bytes.len();
                }
                Err(e) => break e,
            }
        };
        assert_eq!(got, 1 << 20, "what had come whole");
        assert!(program.trace().contains(&"died".to_owned()));
        says(
            &error,
            ErrorKind::Unreachable,
            &["exited with 3", "its last words: the store closed the door"],
        );
        assert_eq!(error.retry, Retry::After(None));
        assert!(stream.next().await.is_none());
        p.stat(&at).await.unwrap();
    });
}

#[test]
fn a_listing_that_breaks_off_is_an_error() {
    let program = Program::new(
        r#"
hello()
for r in requests():
    row = {"kind": "file", "size": 1, "mtime_ns": 1, "version": "v", "name": "a"}
    say({"id": r["id"], "entries": [row], "more": True})
    if r["path"] == "dies": note("died"); os._exit(0)
    say({"id": r["id"], "entries": [dict(row, name="../b" if r["path"] == "up" else "b")]})
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        let list = async |at: &str| p.list(&path(at)).try_collect::<Vec<_>>().await;
        assert_eq!(list("fine").await.unwrap().len(), 2);
        says(&list("up").await.unwrap_err(), ErrorKind::Protocol, &["holds a slash"]);
        says(
            &list("dies").await.unwrap_err(),
            ErrorKind::Unreachable,
            &["exited with 0"],
        );
        assert!(program.trace().contains(&"died".to_owned()));
        assert_eq!(list("fine").await.unwrap().len(), 2);
    });
}

#[test]
fn a_flood_on_standard_error_stops_nobody() {
    let program = Program::new(
        r#"
hello()
for r in requests():
    for _ in range(64): os.write(2, (b"noise " * 20 + b"\n") * 1024)
    os.write(2, b"x" * (4 << 20)); note("flooded")
    say({"id": r["id"], "entry": FILE})
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        for _ in 0..3 {
            p.stat(&path("file")).await.unwrap();
        }
        assert_eq!(program.trace().iter().filter(|l| *l == "flooded").count(), 3);
        assert_eq!(program.pids().len(), 1);
    });
}

#[test]
fn a_program_that_stops_reading_is_given_up() {
    let program = Program::new(
        r#"
hello()
for line in sys.stdin.buffer:
    note("deaf"); time.sleep(600)
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        let plan = crate::suite::plan(&path("file"), 8 << 20, 8 << 20);
        let token = backlot::providers::UploadToken {
            plan,
            state: "s".into(),
        };
        let start = Instant::now();
        let error = p.upload_part(&token, 0, content(1, 8 << 20).into()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        assert!(start.elapsed() < IDLE * 2 + SLACK, "{:?}", start.elapsed());
        assert!(program.trace().contains(&"deaf".to_owned()));
        gone(program.pids()[0]).await;
    });
}

#[test]
fn programs_that_cannot_start_say_why() {
    let at = path("file");
    runtime().block_on(async {
        for (body, kind, why) in [
            (
                "sys.stderr.write('no bucket given\\n'); sys.exit(78)",
                ErrorKind::Config,
                &["exited with 78 (wrong settings)", "no bucket given"] as &[_],
            ),
            ("sys.exit(77)", ErrorKind::Auth, &["exited with 77 (not let in)"]),
            ("sys.exit(75)", ErrorKind::Busy, &["exited with 75"]),
            (
                "os.kill(os.getpid(), 9)",
                ErrorKind::Unreachable,
                &["killed by signal 9"],
            ),
            (
                "sys.stdin.readline(); say({'protocol': 2})",
                ErrorKind::Config,
                &["speaks version 2 of the protocol, and this backlot version 1"],
            ),
            (
                "print('usage: program [-h]', flush=True); time.sleep(5)",
                ErrorKind::Protocol,
                &["line 1", "usage: program [-h]"],
            ),
        ] {
            let program = Program::new(body);
            says(&program.site().stat(&at).await.unwrap_err(), kind, why);
            assert_eq!(program.pids().len(), 1, "{body}");
        }
        let mut slow = Program::new("time.sleep(600)");
        slow.settings.start_timeout = Period::from_secs(1);
        says(
            &slow.site().stat(&at).await.unwrap_err(),
            ErrorKind::TimedOut,
            &["did not say hello within 1s"],
        );
        let mut absent = Program::new("");
        absent.settings.command = vec!["/nonexistent/provider".into()];
        let error = absent.site().stat(&at).await.unwrap_err();
        says(
            &error,
            ErrorKind::Config,
            &["/nonexistent/provider can't be started: No such file"],
        );
        assert_eq!(error.retry, Retry::Never);
        absent.settings.command.clear();
        says(
            &ExecSite::new(&absent.settings, None, IDLE).unwrap_err(),
            ErrorKind::Config,
            &["`command` is missing"],
        );
    });
}

#[test]
fn a_program_gets_its_arguments_as_they_are_its_secrets_and_little_else() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "s3cr3t-t0ken\n").unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut program = Program::new(
        r#"
hello()
for r in requests():
    note(json.dumps(sys.argv[1:])); note(" ".join(sorted(os.environ)))
    print("token", os.environ["STORE_TOKEN"], file=sys.stderr, flush=True)
    say({"id": r["id"], "error": "denied", "message": "not with " + os.environ["STORE_TOKEN"]})
"#,
    );
    let args = ["$(touch pwned)", "a b", ";rm -rf *", "'\""].map(str::to_owned);
    program.settings.command.extend(args.clone());
    program.settings.environment = [("STORE_TOKEN".to_owned(), SecretRef::File(secret))].into();
    runtime().block_on(async {
        let error = program.site().stat(&path("x")).await.unwrap_err();
        says(&error, ErrorKind::Denied, &["not with <STORE_TOKEN>"]);
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    });
    let trace = program.trace();
    assert_eq!(serde_json::from_str::<Vec<String>>(&trace[2]).unwrap(), args);
    let known = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TMPDIR",
        "TZ",
        "LANG",
        "STORE_TOKEN",
        // What a shell between makes.
        "PWD",
        "SHLVL",
        "_",
    ];
    let stray: Vec<_> = trace[3]
        .split(' ')
        .filter(|v| !known.contains(v) && !v.starts_with("LC_") && !v.contains("PYENV"))
        .collect();
    assert!(stray.is_empty(), "{stray:?}");
    program.settings.environment = [("STORE_TOKEN".to_owned(), SecretRef::File(PathBuf::from("/nonexistent")))].into();
    let error = ExecSite::new(&program.settings, None, IDLE).unwrap_err();
    says(&error, ErrorKind::Auth, &["environment.STORE_TOKEN", "/nonexistent"]);
}

#[test]
fn what_a_caller_gives_up_on_costs_no_process() {
    let program = Program::new(
        r#"
hello()
for r in requests():
    time.sleep(0.05); say({"id": r["id"], "entry": FILE})
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        p.stat(&path("file")).await.unwrap();
        for _ in 0..20 {
            drop(tokio::time::timeout(Duration::from_millis(10), p.stat(&path("file"))).await);
        }
        p.stat(&path("file")).await.unwrap();
        assert_eq!(program.pids().len(), 1);
        let pid = program.pids()[0];
        drop(p);
        gone(pid).await;
    });
}

#[test]
fn the_example_reads_as_fast_as_its_frames_allow() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(3, 256 << 20);
    fs::write(dir.path().join("big"), &bytes).unwrap();
    let (command, _) = crate::rig::example_program(Path::new(dir.path()));
    let settings = Settings {
        command,
        ..Settings::default()
    };
    runtime().block_on(async {
        let p = ExecSite::new(&settings, None, Duration::from_secs(30)).unwrap();
        let at: RelPath = path("big");
        let version: Version = p.stat(&at).await.unwrap().version;
        let start = Instant::now();
        assert!(read(&p, &at, &version, 0..256 << 20).await.unwrap() == bytes);
        crate::say(format_args!("exec: 256 MiB read in {:?}", start.elapsed()));
    });
}

#[test]
fn a_hash_is_what_the_programs_look_says() {
    let program = Program::new(
        r#"
sys.stdin.buffer.readline(); say({"protocol": 1, "capabilities": {"hash": "md5"}})
HASHES = {"right": "900150983cd24fb0d6963f7d28e17f72", "wrong": "900150983cd24fb0"}
for r in requests():
    more = {"hash": HASHES[r["path"]]} if r["path"] in HASHES else {}
    say({"id": r["id"], "entry": FILE | more})
"#,
    );
    runtime().block_on(async {
        let p = program.site();
        let v1 = Version::new("v1");
        p.stat(&path("right")).await.unwrap();
        assert_eq!(p.capabilities().hash, Some(HashKind::Md5));
        let named = p.hash(&path("right"), &v1).await.unwrap();
        assert_eq!(named.unwrap().to_string(), "md5:900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(p.hash(&path("none"), &v1).await.unwrap(), None);
        let error = p.hash(&path("right"), &Version::new("v0")).await.unwrap_err();
        says(&error, ErrorKind::VersionMismatch, &["expected version v0, found v1"]);
        let error = p.hash(&path("wrong"), &v1).await.unwrap_err();
        says(&error, ErrorKind::Protocol, &["a hash that is no md5"]);
    });
}
