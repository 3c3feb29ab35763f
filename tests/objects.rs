//! Drives whose sites are buckets and WebDAV folders, end to end: a real mount, real servers, another client (rclone) on the
//! other side.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::drive::{Builder, Drive, eventually, eventually_within, run_within, say, succeeds};
use common::queue;
use common::relay::Relay;
use common::web::{SECRET, Service, USER, WebServer, find};

const MIB: usize = 1 << 20;
const SERVICES: [Service; 4] = [Service::RcloneS3, Service::Moto, Service::RcloneDav, Service::Wsgidav];
/// How long a queue may take to be worked off.
const DRAIN: Duration = Duration::from_secs(60);
const BUCKET: &str = "projects";

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 5 + i / 70_001 + seed * 37) % 251).unwrap())
        .collect()
}

/// The site as somebody else sees it: through rclone.
struct Other {
    server: WebServer,
    scratch: tempfile::TempDir,
}

impl Other {
    fn new(server: WebServer) -> Self {
        let other = Self {
            server,
            scratch: tempfile::tempdir().unwrap(),
        };
        other.make_root();
        other
    }

    /// Makes the bucket, or the folder.
    fn make_root(&self) {
        succeeds(self.rclone().args(["mkdir", &self.at("")]));
    }

    fn rclone(&self) -> Command {
        let mut command = Command::new(find("rclone").unwrap());
        let set = |command: &mut Command, name: &str, value: &str| {
            command.env(format!("RCLONE_CONFIG_SITE_{name}"), value);
        };
        command.env("RCLONE_CONFIG", "/dev/null");
        if self.server.service.is_s3() {
            for (name, value) in [
                ("TYPE", "s3"),
                ("PROVIDER", "Other"),
                ("ENDPOINT", &self.server.address()),
                ("ACCESS_KEY_ID", USER),
                ("SECRET_ACCESS_KEY", SECRET),
                ("REGION", "us-east-1"),
            ] {
                set(&mut command, name, value);
            }
        } else {
            let hidden = succeeds(Command::new(find("rclone").unwrap()).args(["obscure", SECRET]));
            for (name, value) in [
                ("TYPE", "webdav"),
                ("VENDOR", "other"),
                ("URL", &self.server.address()),
                ("USER", USER),
                ("PASS", hidden.trim()),
            ] {
                set(&mut command, name, value);
            }
        }
        command.args(["--retries", "1", "--low-level-retries", "2"]);
        command
    }

    fn at(&self, path: &str) -> String {
        format!("site:{BUCKET}/{path}")
    }

    fn put(&self, path: &str, bytes: &[u8], mtime: SystemTime) {
        let file = self.scratch.path().join("being put");
        fs::write(&file, bytes).unwrap();
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        succeeds(self.rclone().arg("copyto").arg(&file).arg(self.at(path)));
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        // `cat` succeeds with nothing where there is nothing.
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !self.names(dir).iter().any(|known| known == name) {
            return None;
        }
        let out = run_within(Duration::from_secs(60), self.rclone().args(["cat", &self.at(path)]));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Some(out.stdout)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let said = succeeds(self.rclone().args(["lsf", &self.at(dir)]));
        said.lines().map(str::to_owned).collect()
    }

    fn mtime(&self, path: &str) -> SystemTime {
        let copy = self.scratch.path().join("got");
        succeeds(self.rclone().arg("copyto").arg(self.at(path)).arg(&copy));
        fs::metadata(copy).unwrap().modified().unwrap()
    }

    fn builder(&self) -> Builder {
        let server = &self.server;
        let builder = if server.service.is_s3() {
            Builder::s3(&server.s3(BUCKET))
        } else {
            Builder::webdav(&server.webdav(BUCKET))
        };
        builder.set("publish.part-size", "5MiB")
    }
}

/// Runs a test over each server that this machine has.
fn over(services: &'static [Service], test: impl Fn(Other) + Send + 'static) {
    for service in services {
        if let Some(server) = WebServer::start_or_skip(*service) {
            say(&format!("-- {service:?}"));
            test(Other::new(server));
        }
    }
}

fn time(seconds: u64, nanoseconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|row| row.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read_at(file: &PathBuf, at: u64, len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    fs::File::open(file).unwrap().read_exact_at(&mut got, at).unwrap();
    got
}

fn wait(drive: &Drive) {
    queue::drained(drive, DRAIN);
}

#[test]
fn a_project_is_listed_read_published_changed_and_deleted() {
    drive_test_long(|| {
        over(&SERVICES, |other| {
            let (big, small) = (bytes(1, 12 * MIB + 7), bytes(2, 3000));
            let dated = time(1_234_567_890, 0);
            other.put("plates/sh 010/big é.exr", &big, dated);
            other.put("publish/old.ma", &small, dated);
            let drive = other
                .builder()
                .set("projects.show.remote-delete", "propagate")
                .build()
                .mounted();
            assert_eq!(names(&drive.project()), ["plates", "publish"]);
            let file = drive.path("plates/sh 010/big é.exr");
            let meta = fs::metadata(&file).unwrap();
            assert_eq!(meta.len(), big.len() as u64);
            if other.server.service.is_s3() {
                assert_eq!(meta.modified().unwrap(), dated, "rclone's time is ours");
            }
            assert!(read_at(&file, 7_000_001, 70_000) == big[7_000_001..7_070_001]);
            assert!(fs::read(&file).unwrap() == big);
            assert!(fs::read(drive.path("publish/old.ma")).unwrap() == small);

            // Up: one of one part, one of several, an empty one, in a new folder.
            fs::create_dir(drive.path("publish/v002")).unwrap();
            let parts = bytes(3, 17 * MIB + 11);
            let kept = time(1_600_000_000, 123_456_789);
            for (name, bytes) in [("one.ma", &small[..]), ("parts.abc", &parts), ("empty", b"")] {
                let at = drive.path("publish/v002").join(name);
                fs::write(&at, bytes).unwrap();
                fs::File::options()
                    .write(true)
                    .open(&at)
                    .unwrap()
                    .set_modified(kept)
                    .unwrap();
            }
            wait(&drive);
            assert_eq!(other.get("publish/v002/one.ma").as_deref(), Some(&small[..]));
            assert!(other.get("publish/v002/parts.abc").unwrap() == parts);
            assert_eq!(other.get("publish/v002/empty").as_deref(), Some(&b""[..]));
            if other.server.service.is_s3() {
                assert_eq!(
                    other.mtime("publish/v002/parts.abc"),
                    kept,
                    "our time is rclone's, to the nanosecond"
                );
            }

            // Changed at the site: the next look shows it, and no byte of the old one.
            // Of another length: rclone sends nothing to servers of this kind that looks the same to it.
            let newer = bytes(4, 12 * MIB + 9);
            other.put("plates/sh 010/big é.exr", &newer, time(1_700_000_000, 0));
            drive.scan();
            eventually_within(DRAIN, "the new bytes are read", || {
                fs::read(&file).is_ok_and(|got| got == newer)
            });

            fs::remove_file(drive.path("publish/v002/one.ma")).unwrap();
            fs::remove_file(drive.path("publish/old.ma")).unwrap();
            wait(&drive);
            assert_eq!(other.get("publish/old.ma"), None);
            assert_eq!(
                other
                    .names("publish/v002")
                    .iter()
                    .filter(|name| !name.starts_with('.'))
                    .count(),
                2
            );
        });
    });
}

#[test]
fn both_change_a_file_and_both_are_kept() {
    drive_test_long(|| {
        over(&SERVICES, |other| {
            other.put("publish/scene.ma", b"base", time(1_234_567_890, 0));
            let drive = other.builder().build().mounted();
            assert_eq!(fs::read(drive.path("publish/scene.ma")).unwrap(), b"base");
            drive.tell(["queue", "pause"]);
            fs::write(drive.path("publish/scene.ma"), b"ours, made here").unwrap();
            other.put("publish/scene.ma", b"theirs", time(1_300_000_000, 0));
            drive.tell(["queue", "resume"]);
            let ours = || {
                let is_ours = |name: &String| name.contains(".conflict-");
                names(&drive.path("publish")).into_iter().find(is_ours)
            };
            eventually_within(DRAIN, "a conflict", || ours().is_some());
            wait(&drive);
            let ours = ours().unwrap();
            assert_eq!(other.get("publish/scene.ma").as_deref(), Some(&b"theirs"[..]));
            assert_eq!(
                other.get(&format!("publish/{ours}")).as_deref(),
                Some(&b"ours, made here"[..])
            );
            assert_eq!(fs::read(drive.path("publish").join(ours)).unwrap(), b"ours, made here");
        });
    });
}

/// A drive that reaches its site through a relay, which counts what was sent.
fn relayed(other: &Other) -> (Relay, Builder) {
    let relay = Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, other.server.port()))).unwrap();
    let address = format!("http://127.0.0.1:{}", relay.port());
    let builder = other.builder();
    let builder = if other.server.service.is_s3() {
        builder.site("endpoint", address)
    } else {
        builder.site("url", format!("{address}/{BUCKET}"))
    };
    (relay, builder)
}

#[test]
fn a_daemon_killed_in_mid_upload_goes_on_with_the_parts_that_are_missing() {
    drive_test_long(|| {
        over(&SERVICES, |other| {
            other.put("publish/there", b"x", time(1_234_567_890, 0));
            let (relay, builder) = relayed(&other);
            let mut drive = builder.env("BACKLOT_FAILPOINT", "upload.part:kill:5").build().mounted();
            let whole = bytes(5, 50 * MIB);
            fs::write(drive.path("publish/large.abc"), &whole).unwrap();
            eventually("the daemon is killed", || !drive.is_running());
            drive.set_env("BACKLOT_FAILPOINT", None);
            drive.mount();
            wait(&drive);
            assert!(other.get("publish/large.abc").unwrap() == whole);
            let sent = usize::try_from(relay.passed().0).unwrap();
            let part = 5 * MIB;
            if other.server.service.is_s3() {
                // Three parts were under way when the daemon was killed.
                assert!(
                    sent < whole.len() + 3 * part + 2 * MIB,
                    "{} MiB were sent of 50",
                    sent / MIB
                );
            }
            say(&format!("   {} MiB sent for 50", sent / MIB));
            let left: Vec<_> = other
                .names("publish")
                .into_iter()
                .filter(|name| name.starts_with('.'))
                .collect();
            assert!(left.is_empty(), "{left:?}");
        });
    });
}

/// `docs/semantics.md`: *who may have bytes fetched*.
#[test]
fn what_came_for_who_left_is_on_the_accounts_but_for_what_the_system_holds() {
    drive_test_long(|| {
        over(&SERVICES, |other| {
            let names = ["p0", "p1", "p2", "p3"].map(|name| format!("plates/{name}.mov"));
            let whole = bytes(7, 24 * MIB);
            for name in &names {
                other.put(name, &whole, time(1_234_567_890, 0));
            }
            let (relay, builder) = relayed(&other);
            let drive = builder.set("scan.recheck-after", "24h").build().mounted();
            fs::metadata(drive.path(&names[0])).unwrap();
            relay.set_delay(Duration::from_millis(10));
            relay.set_rate(Some(20 << 20));
            let before = relay.passed().1;
            for name in &names {
                assert_eq!(read_at(&drive.path(name), 0, 1_000_000), whole[..1_000_000], "{name}");
            }
            relay.wait_until_quiet(DRAIN);
            let cancelled = drive.counter("cancelled");
            assert!(cancelled > 0, "nobody was left waiting for");
            let status = drive.status_now();
            let charged = status["programs"]["fetched_bytes"].as_u64().unwrap();
            assert_eq!(status["sites"][0]["read_bytes"], charged);
            let crossed = relay.passed().1 - before;
            say(&format!(
                "   {charged} bytes on accounts, {crossed} over the wire, {cancelled} requests given up"
            ));
            // What the system held unread of each connection that was ended; and headers.
            let most = cancelled * (1 << 20);
            assert!(
                charged <= crossed && crossed - charged <= most,
                "{charged} of {crossed}"
            );
        });
    });
}

#[test]
fn a_server_killed_and_started_again_gets_what_was_published_meanwhile() {
    drive_test_long(|| {
        // moto keeps nothing over its end.
        over(
            &[Service::RcloneS3, Service::RcloneDav, Service::Wsgidav],
            |mut other| {
                other.put("publish/there", b"x", time(1_234_567_890, 0));
                let drive = other.builder().set("publish.retry-max", "1s").build().mounted();
                assert_eq!(fs::read(drive.path("publish/there")).unwrap(), b"x");
                other.server.kill();
                let whole = bytes(6, 11 * MIB);
                fs::write(drive.path("publish/meanwhile.abc"), &whole).unwrap();
                eventually("the link is known to be down", || drive.link() != "up");
                assert_eq!(names(&drive.path("publish")), ["meanwhile.abc", "there"]);
                assert!(fs::read(drive.path("publish/meanwhile.abc")).unwrap() == whole);
                other.server.restart();
                wait(&drive);
                assert!(other.get("publish/meanwhile.abc").unwrap() == whole);
            },
        );
    });
}

#[test]
fn wrong_credentials_are_said_and_nothing_is_taken_for_deleted() {
    drive_test_long(|| {
        // moto lets everybody in.
        over(&[Service::RcloneS3, Service::RcloneDav, Service::Wsgidav], |other| {
            other.put("publish/there", b"x", time(1_234_567_890, 0));
            let drive = other.builder().build();
            drive.scan();
            let secret = other.server.file("secret");
            fs::write(&secret, "something-else").unwrap();
            let refused = drive.refused(["scan"]);
            assert!(refused.said.contains("logging in failed"), "{}", refused.said);
            assert!(
                !refused.said.contains("something-else") && !refused.said.contains("Signature="),
                "{}",
                refused.said
            );
            fs::write(&secret, SECRET).unwrap();
            let drive = drive.mounted();
            assert_eq!(names(&drive.path("publish")), ["there"]);
        });
    });
}

#[test]
fn a_certificate_of_the_server_s_own_making_is_refused_unless_it_is_given() {
    drive_test_long(|| {
        for service in [Service::RcloneS3, Service::RcloneDav] {
            let Some(server) = WebServer::start_or_skip_with(service, true) else {
                continue;
            };
            fs::create_dir(server.root().join(BUCKET)).unwrap();
            fs::write(server.root().join(BUCKET).join("file"), "x").unwrap();
            let builder = |trusting: bool| {
                let (mut s3, mut webdav) = (server.s3(BUCKET), server.webdav(BUCKET));
                if !trusting {
                    (s3.ca_file, webdav.ca_file) = (None, None);
                }
                if service.is_s3() {
                    Builder::s3(&s3)
                } else {
                    Builder::webdav(&webdav)
                }
            };
            let refused = builder(false).build().refused(["scan"]);
            assert!(refused.said.contains("certificate is not trusted"), "{}", refused.said);
            let drive = builder(true).build().mounted();
            assert_eq!(fs::read(drive.path("file")).unwrap(), b"x");
        }
    });
}

fn drive_test_long(body: impl FnOnce() + Send + 'static) {
    common::drive::drive_test_within(Duration::from_secs(400), body);
}
