//! Copies between sites, end to end: the real program, real servers, and their folders looked at past them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use common::drive::{Builder, Drive, SITE, drive_test_within, eventually, eventually_within, say};
use common::queue;
use common::relay::Relay;
use common::sshd::{Mode, Sshd};
use common::tree::{assert_same, files_at};
use common::web::{Service, WebServer};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// A test here may take this long on a loaded machine.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a job may take.
const DRAIN: Duration = Duration::from_secs(120);
const BUCKET: &str = "projects";

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 7 + i / 60_013 + seed * 41) % 251).unwrap())
        .collect()
}

fn put(root: &Path, path: &str, bytes: &[u8], age: Duration) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, bytes).unwrap();
    dated(&file, age);
}

/// Gives a file a time, so long before now.
fn dated(file: &Path, age: Duration) {
    // Whole seconds, which all sites keep.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now) - age;
    fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

const HOUR: Duration = Duration::from_secs(3600);

/// A further site whose bytes are in a folder of this machine.
fn local(builder: Builder, name: &str, root: &Path) -> Builder {
    fs::create_dir_all(root).unwrap();
    builder
        .set(&format!("sites.{name}.provider"), "local")
        .set(&format!("sites.{name}.root"), root.to_str().unwrap())
}

fn s3(builder: Builder, name: &str, server: &WebServer, endpoint: &str) -> Builder {
    let settings = server.s3(BUCKET);
    let mut builder = builder
        .set(&format!("sites.{name}.provider"), "s3")
        .set(&format!("sites.{name}.bucket"), BUCKET)
        .set(&format!("sites.{name}.endpoint"), endpoint)
        .set(&format!("sites.{name}.address-style"), "path");
    for (key, secret) in [("access-key", settings.access_key), ("secret-key", settings.secret_key)] {
        builder = builder.set(&format!("sites.{name}.{key}"), secret.unwrap().to_string());
    }
    builder
}

fn webdav(builder: Builder, name: &str, server: &WebServer) -> Builder {
    let settings = server.webdav(BUCKET);
    builder
        .set(&format!("sites.{name}.provider"), "webdav")
        .set(&format!("sites.{name}.url"), settings.url.as_str())
        .set(&format!("sites.{name}.user"), settings.user.unwrap())
        .set(
            &format!("sites.{name}.password"),
            settings.password.unwrap().to_string(),
        )
}

/// Two sites that are folders of this machine, `site` (the project's) and `london`.
struct Two {
    drive: Drive,
    _dir: tempfile::TempDir,
    hq: PathBuf,
    london: PathBuf,
}

impl Two {
    fn with(more: impl FnOnce(Builder) -> Builder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hq, london) = (dir.path().join("hq"), dir.path().join("london"));
        fs::create_dir_all(&hq).unwrap();
        let builder = local(Builder::local(&hq), "london", &london);
        Self {
            drive: more(builder).build(),
            _dir: dir,
            hq,
            london: london.join("show"),
        }
    }
}

fn json(drive: &Drive, args: &[&str]) -> Value {
    let text = drive.tell(args.iter().copied().chain(["--json"]));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

fn jobs(drive: &Drive) -> Vec<Value> {
    json(drive, &["queue", "jobs", "--all"]).as_array().unwrap().clone()
}

fn count(job: &Value, key: &str) -> u64 {
    match &job[key] {
        Value::Object(tally) => tally["tasks"].as_u64().unwrap(),
        other => other.as_u64().unwrap(),
    }
}

fn tasks(drive: &Drive) -> Vec<Value> {
    json(drive, &["queue", "ls"]).as_array().unwrap().clone()
}

/// Bytes that have arrived of a file that is on its way, by the database: quicker than asking the daemon.
fn done_bytes(drive: &Drive, path: &str) -> Option<u64> {
    let tasks = queue::tasks(drive.data_dir()).into_iter();
    let mut of_path = tasks.filter(|task| task.path.as_ref().is_some_and(|at| at.as_bytes() == path.as_bytes()));
    of_path.next().map(|task| task.done_bytes)
}

fn long(body: impl FnOnce() + Send + 'static) {
    drive_test_within(LIMIT, body);
}

/// A shot of a few hundred files in nested folders.
fn shot(root: &Path, files: usize) {
    for n in 0..files {
        let path = format!("sq 010/sh{:03}/plates/plate.{:04}.exr", n / 50, 1001 + n);
        put(root, &path, &bytes(n, 500 + n * 37 % 20_000), HOUR * 24);
    }
    put(root, "sq 010/sh000/scène é.ma", b"#Maya", HOUR);
    put(root, "sq 010/sh000/empty.txt", b"", HOUR);
    put(root, "sq 010/sh001/movie.mov", &bytes(7, 12 * MIB + 5), HOUR);
}

#[test]
fn a_shot_goes_from_sftp_to_s3_to_webdav_and_nothing_is_sent_twice() {
    long(|| {
        for dav in [Service::RcloneDav, Service::Wsgidav] {
            let (Some(hq), Some(vault), Some(london)) = (
                Sshd::start_or_skip(Mode::Internal),
                WebServer::start_or_skip(Service::RcloneS3),
                WebServer::start_or_skip(dav),
            ) else {
                return;
            };
            say(&format!("-- {dav:?}"));
            fs::create_dir(vault.root().join(BUCKET)).unwrap();
            fs::create_dir(london.root().join(BUCKET)).unwrap();
            let root = hq.root().join("hq");
            shot(&root, 300);
            let builder = Builder::sftp(&hq.settings(&root));
            let builder = s3(builder, "vault", &vault, &vault.address());
            let drive = webdav(builder, "london", &london)
                .set("publish.part-size", "5MiB")
                .build()
                .mounted();
            let (at_vault, at_london) = (
                vault.root().join(BUCKET).join("show"),
                london.root().join(BUCKET).join("show"),
            );

            drive.tell(["push", "show/sq 010", "--to", "vault", "--wait"]);
            assert_same(&root, &at_vault);
            let job = jobs(&drive).remove(0);
            assert_eq!((count(&job, "done"), count(&job, "same")), (303, 0), "{job:#}");
            assert_eq!((job["from"].as_str(), job["to"].as_str()), (Some(SITE), Some("vault")));

            drive.tell(["push", "show/sq 010", "--from", "vault", "--to", "london", "--wait"]);
            assert_same(&root, &at_london);

            // Again: the same jobs, and nothing is sent.
            drive.tell(["push", "show/sq 010", "--to", "vault", "--wait"]);
            drive.tell([
                "push",
                "show/sq 010/sh001",
                "--from",
                "vault",
                "--to",
                "london",
                "--wait",
            ]);
            let all = jobs(&drive);
            assert_eq!(all.len(), 2, "{all:#?}");
            assert_eq!((count(&all[0], "done"), count(&all[0], "same")), (303, 303), "{all:#?}");
            assert_eq!((count(&all[1], "done"), count(&all[1], "same")), (303, 51), "{all:#?}");

            // One is changed at hq: it alone is sent, over ours.
            put(&root, "sq 010/sh000/scène é.ma", b"#Maya, changed", Duration::ZERO);
            drive.tell(["push", "show/sq 010", "--to", "vault", "--wait"]);
            drive.tell(["push", "show/sq 010", "--from", "vault", "--to", "london", "--wait"]);
            assert_same(&root, &at_london);
            let all = jobs(&drive);
            assert_eq!((count(&all[0], "done"), count(&all[1], "done")), (304, 304), "{all:#?}");
        }
    });
}

#[test]
fn a_target_that_dies_in_mid_job_gets_the_rest_when_it_is_back() {
    long(|| {
        let (Some(hq), Some(mut vault)) = (
            Sshd::start_or_skip(Mode::Internal),
            WebServer::start_or_skip(Service::RcloneS3),
        ) else {
            return;
        };
        fs::create_dir(vault.root().join(BUCKET)).unwrap();
        let root = hq.root().join("hq");
        shot(&root, 400);
        let relay = Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, vault.port()))).unwrap();
        relay.set_delay(Duration::from_millis(15));
        let endpoint = format!("http://127.0.0.1:{}", relay.port());
        let drive = s3(Builder::sftp(&hq.settings(&root)), "vault", &vault, &endpoint)
            .set("publish.retry-max", "1s")
            .set("publish.parallel", 4)
            .build()
            .mounted();
        let at_vault = vault.root().join(BUCKET).join("show");
        drive.tell(["push", "show/sq 010", "--to", "vault"]);
        eventually_within(DRAIN, "some files have arrived", || files_at(&at_vault).len() > 30);
        vault.kill();
        let before = files_at(&at_vault).len();
        assert!(before < 403, "all {before} files were there before the server died");
        let is_down = || {
            let status = drive.status_now();
            let sites = status["sites"].as_array().unwrap();
            sites
                .iter()
                .any(|site| site["name"] == "vault" && site["state"] != "up")
        };
        eventually("the server is known to be gone", is_down);
        // Nothing is blocked by it, and nothing lost.
        let job = jobs(&drive).remove(0);
        assert_eq!(count(&job, "blocked"), 0, "{job:#}");
        assert!(count(&job, "waiting") + count(&job, "running") > 0, "{job:#}");
        vault.restart();
        drive.tell(["push", "show/sq 010/sh000/empty.txt", "--to", "vault", "--wait"]);
        assert_same(&root, &at_vault);
        say(&format!("   {before} of 403 files were there when the server died"));
    });
}

#[test]
fn a_daemon_killed_in_mid_file_sends_no_more_than_what_is_missing() {
    long(|| {
        let (Some(hq), Some(vault)) = (
            Sshd::start_or_skip(Mode::Internal),
            WebServer::start_or_skip(Service::RcloneS3),
        ) else {
            return;
        };
        fs::create_dir(vault.root().join(BUCKET)).unwrap();
        let (root, whole) = (hq.root().join("hq"), bytes(3, 60 * MIB));
        put(&root, "plates/large.mov", &whole, HOUR);
        let relay = Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, vault.port()))).unwrap();
        let endpoint = format!("http://127.0.0.1:{}", relay.port());
        let mut drive = s3(Builder::sftp(&hq.settings(&root)), "vault", &vault, &endpoint)
            .set("publish.part-size", "5MiB")
            .env("BACKLOT_FAILPOINT", "upload.part:kill:6")
            .build()
            .mounted();
        let target = vault.root().join(BUCKET).join("show/plates/large.mov");
        drive.tell(["push", "show/plates/large.mov", "--to", "vault"]);
        eventually_within(DRAIN, "the daemon is killed", || !drive.is_running());
        assert!(!target.exists(), "half a file is there under its name");
        let before = usize::try_from(relay.passed().0).unwrap();
        assert!(before > 25 * MIB, "{} MiB were sent when it was killed", before / MIB);
        drive.set_env("BACKLOT_FAILPOINT", None);
        drive.mount();
        eventually_within(DRAIN, "the file is there", || {
            fs::read(&target).is_ok_and(|got| got == whole)
        });
        let after = usize::try_from(relay.passed().0).unwrap() - before;
        // Of the parts that were under way, three at most were not noted.
        assert!(
            after < whole.len() - 25 * MIB + 3 * 5 * MIB + 2 * MIB,
            "{} MiB were sent again of {}",
            after / MIB,
            whole.len() / MIB
        );
        say(&format!(
            "   killed after {} MiB; {} MiB were sent then, of {}",
            before / MIB,
            after / MIB,
            whole.len() / MIB
        ));
    });
}

#[test]
fn a_source_that_is_cut_short_in_mid_copy_is_copied_again_as_it_is_then() {
    long(|| {
        let Some(hq) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let root = hq.root().join("hq");
        put(&root, "plates/large.mov", &bytes(5, 40 * MIB), HOUR);
        let short = bytes(6, 21 * MIB + 17);
        let dir = tempfile::tempdir().unwrap();
        let london = dir.path().join("london");
        let drive = local(Builder::sftp(&hq.settings(&root)), "london", &london)
            .set("publish.part-size", "1MiB")
            .set("sites.london.link-rate", "3MiB/s")
            .build()
            .mounted();
        let target = london.join("show/plates/large.mov");
        drive.tell(["push", "show/plates", "--to", "london"]);
        let is_in_the_middle = || done_bytes(&drive, "plates/large.mov").is_some_and(|done| done > 4 << 20);
        eventually_within(DRAIN, "some of it has arrived", is_in_the_middle);
        assert!(!target.exists(), "half a file is there under its name");
        put(&root, "plates/large.mov", &short, Duration::ZERO);
        let mut seen_whole = false;
        eventually_within(DRAIN, "what is there now has arrived", || {
            let got = fs::read(&target).ok();
            // Under its name it is never anything but whole.
            seen_whole |= got.is_some();
            got.is_none_or(|got| {
                assert!(got == short, "{} bytes are there, and not those of the file", got.len());
                true
            }) && seen_whole
        });
        assert!(
            drive.log().contains("source-changed"),
            "the change was not met in mid copy"
        );
        assert_eq!(files_at(&london.join("show")).len(), 1, "a temporary file was left");
    });
}

#[test]
fn what_is_newer_at_the_target_stays_and_holds_up_nothing_else() {
    long(|| {
        let two = Two::with(|builder| builder);
        for n in 0..40 {
            put(&two.hq, &format!("a/{n:02}.exr"), &bytes(n, 4000), HOUR);
        }
        put(&two.london, "a/07.exr", b"london's own, and newer", Duration::ZERO);
        put(&two.london, "a/08.exr", b"london's, and older", HOUR * 9);
        // A folder where a file is to go.
        put(&two.london, "a/09.exr/in the way", b"x", HOUR);
        let drive = two.drive.mounted();
        let out = drive.run(["push", "show/a", "--to", "london", "--wait"]);
        assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
        let job = jobs(&drive).remove(0);
        assert_eq!((count(&job, "done"), count(&job, "blocked")), (38, 2), "{job:#}");
        assert_eq!(
            fs::read(two.london.join("a/07.exr")).unwrap(),
            b"london's own, and newer"
        );
        assert_eq!(fs::read(two.london.join("a/08.exr")).unwrap(), bytes(8, 4000));
        let blocked = tasks(&drive);
        let of = |path: &str| blocked.iter().find(|task| task["path"] == path).unwrap();
        assert_eq!(of("show/a/07.exr")["kind"], "conflict", "{blocked:#?}");
        assert!(
            of("show/a/07.exr")["error"].as_str().unwrap().contains("it is newer"),
            "{blocked:#?}"
        );
        assert_eq!(of("show/a/09.exr")["kind"], "wrong-kind", "{blocked:#?}");

        fs::remove_dir_all(two.london.join("a/09.exr")).unwrap();
        drive.tell(["queue", "retry", "show/a/09.exr"]);
        drive.tell(["push", "show/a/07.exr", "--to", "london", "--overwrite", "--wait"]);
        assert_same(&two.hq, &two.london);
        assert_eq!(jobs(&drive).len(), 1);
    });
}

#[test]
fn a_target_that_changes_while_a_file_is_on_its_way_is_not_replaced() {
    long(|| {
        let two = Two::with(|builder| {
            builder
                .set("publish.part-size", "1MiB")
                .set("sites.london.link-rate", "3MiB/s")
        });
        put(&two.hq, "a/big.mov", &bytes(1, 24 * MIB), HOUR);
        put(&two.london, "a/big.mov", b"older", HOUR * 9);
        let drive = two.drive.mounted();
        drive.tell(["push", "show/a/big.mov", "--to", "london"]);
        let is_under_way = || done_bytes(&drive, "a/big.mov").is_some_and(|done| done > 3 << 20);
        eventually_within(DRAIN, "some of it has arrived", is_under_way);
        put(
            &two.london,
            "a/big.mov",
            b"somebody saved this meanwhile",
            Duration::ZERO,
        );
        let is_blocked = || tasks(&drive).iter().any(|task| task["kind"] == "conflict");
        eventually_within(DRAIN, "a conflict", is_blocked);
        let left = files_at(&two.london);
        assert_eq!(left.len(), 1, "{:?}", left.keys());
        assert_eq!(left[Path::new("a/big.mov")], b"somebody saved this meanwhile");
    });
}

#[test]
fn paths_of_any_system_patterns_frames_and_standard_input() {
    long(|| {
        let two = Two::with(|builder| {
            builder
                .set("volumes.storage.folder", "show")
                .set("volumes.storage.windows", "S:\\")
                .set("volumes.storage.linux", "/storage/show")
        });
        for frame in 1001..1011 {
            put(&two.hq, &format!("sq010/plate.{frame}.exr"), &bytes(frame, 300), HOUR);
            put(&two.hq, &format!("sq020/plate.{frame}.exr"), &bytes(frame, 300), HOUR);
        }
        put(&two.hq, "refs/a.jpg", b"a", HOUR);
        put(&two.hq, "refs/b.png", b"b", HOUR);
        let drive = two.drive.mounted();
        let names = || {
            files_at(&two.london)
                .into_keys()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };

        // What would be: nothing is done.
        let plan = json(&drive, &["push", "show/sq010", "--to", "london", "--dry-run"]);
        assert_eq!(count(&plan, "would_copy"), 10, "{plan:#}");
        assert!(names().is_empty() && tasks(&drive).is_empty());

        let out = drive.run([
            "push",
            r"S:\sq010\plate.####.exr",
            "1001-1003,1020",
            "--to",
            "london",
            "--wait",
            "--json",
        ]);
        assert_eq!(
            out.status.code(),
            Some(4),
            "a frame is missing: {}",
            String::from_utf8_lossy(&out.stdout)
        );
        let said: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(
            said["missing"],
            serde_json::json!(["show/sq010/plate.1020.exr"]),
            "{said:#}"
        );
        assert_eq!(
            names(),
            ["sq010/plate.1001.exr", "sq010/plate.1002.exr", "sq010/plate.1003.exr"]
        );

        drive.tell([
            "push",
            "/storage/show/refs/*.jpg",
            "show/sq020/plate.%04d.exr[1001-1009x4]",
            "--to",
            "london",
            "--wait",
        ]);
        assert_eq!(
            names()[..4],
            [
                "refs/a.jpg",
                "sq010/plate.1001.exr",
                "sq010/plate.1002.exr",
                "sq010/plate.1003.exr"
            ]
        );
        assert_eq!(
            names()[4..],
            ["sq020/plate.1001.exr", "sq020/plate.1005.exr", "sq020/plate.1009.exr"]
        );

        let mut child = drive
            .command()
            .args(["push", "-", "--to", "london", "--wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"show/refs\n\nshow/sq010/plate.####.exr 1004\n")
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert!(names().contains(&"refs/b.png".to_owned()) && names().contains(&"sq010/plate.1004.exr".to_owned()));
        assert_eq!(jobs(&drive).len(), 1, "one job a day");

        for (args, says) in [
            (
                vec!["push", "show/nowhere", "--to", "london"],
                "show/nowhere is not at site",
            ),
            (vec!["push", "show/sq010", "--to", "paris"], "there is no site paris"),
            (
                vec!["push", "show/sq010", "--to", SITE],
                "it comes from site and goes to site",
            ),
            (
                vec!["push", "show/nothing*", "--to", "london"],
                "nothing at site matches",
            ),
            (vec!["push", "other/x", "--to", "london"], "is in no project"),
        ] {
            let refused = drive.refused(args.clone());
            assert!(refused.said.contains(says), "{args:?}: {}", refused.said);
        }
    });
}

#[test]
fn what_is_held_or_left_out_waits_and_the_rest_goes() {
    long(|| {
        let two = Two::with(|builder| builder);
        for n in 0..10 {
            put(&two.hq, &format!("a/{n}.exr"), &bytes(n, 3000), HOUR);
        }
        let drive = two.drive.mounted();
        drive.tell(["queue", "pause"]);
        // In a paused queue folders stay folders: the files are named.
        drive.tell(["push", "show/a/*.exr", "--to", "london"]);
        drive.tell(["queue", "hold", "show/a/3.exr"]);
        drive.tell(["queue", "exclude", "show/a/4.exr"]);
        let before = drive.tell(["queue", "ls"]);
        assert!(
            before.contains("show push site>london") && before.contains("PAUSED"),
            "{before}"
        );
        assert!(files_at(&two.london).is_empty());
        drive.tell(["queue", "resume"]);
        eventually_within(DRAIN, "all others have arrived", || files_at(&two.london).len() == 8);
        let job = jobs(&drive).remove(0);
        assert_eq!((count(&job, "held"), count(&job, "excluded")), (1, 1), "{job:#}");
        // A folder that is pushed again leaves out what was left out.
        let out = drive.run(["push", "show/a", "--to", "london", "--wait"]);
        assert_eq!(out.status.code(), Some(4));
        assert_eq!(files_at(&two.london).len(), 8);
        drive.tell(["queue", "release", "show/a/3.exr"]);
        drive.tell(["push", "show/a/4.exr", "--to", "london", "--wait"]);
        assert_same(&two.hq, &two.london);
    });
}

#[test]
fn what_is_more_urgent_takes_over_between_two_parts_and_the_other_goes_on() {
    long(|| {
        let two = Two::with(|builder| {
            builder
                .set("publish.part-size", "1MiB")
                .set("publish.parallel", 1)
                .set("sites.london.link-rate", "3MiB/s")
        });
        put(&two.hq, "a/slow.mov", &bytes(1, 40 * MIB), HOUR);
        put(&two.hq, "a/urgent.mov", &bytes(2, 3 * MIB), HOUR);
        let drive = two.drive.mounted();
        drive.tell(["push", "show/a/slow.mov", "--to", "london", "--priority", "100"]);
        eventually_within(DRAIN, "some of it has arrived", || {
            done_bytes(&drive, "a/slow.mov").is_some_and(|done| done > 4 << 20)
        });
        drive.tell(["push", "show/a/urgent.mov", "--to", "london", "--priority", "900"]);
        eventually_within(DRAIN, "the urgent one has arrived", || {
            files_at(&two.london).contains_key(Path::new("a/urgent.mov"))
        });
        let so_far = done_bytes(&drive, "a/slow.mov").expect("the slow one is not there yet");
        assert!(
            so_far > 4 << 20,
            "what had arrived was given up: {so_far} bytes are left of it"
        );
        assert!(!two.london.join("a/slow.mov").exists());
        eventually_within(DRAIN, "the slow one as well", || two.london.join("a/slow.mov").exists());
        assert_same(&two.hq, &two.london);
    });
}

#[test]
fn what_is_pulled_is_shown_in_the_drive() {
    long(|| {
        let two = Two::with(|builder| builder);
        put(&two.hq, "a/there.txt", b"x", HOUR);
        put(&two.london, "from london/deep/a.txt", b"hello from london", HOUR);
        let drive = two.drive.mounted();
        assert!(drive.path("a/there.txt").exists());
        drive.tell(["pull", "show/from london", "--from", "london", "--wait"]);
        assert_eq!(
            fs::read(two.hq.join("from london/deep/a.txt")).unwrap(),
            b"hello from london"
        );
        eventually("the drive shows it", || {
            fs::read(drive.path("from london/deep/a.txt")).is_ok_and(|got| got == b"hello from london")
        });
        let job = jobs(&drive).remove(0);
        assert_eq!(
            (job["kind"].as_str(), job["from"].as_str()),
            (Some("pull"), Some("london"))
        );
    });
}
