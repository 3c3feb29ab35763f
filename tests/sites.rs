//! A studio in one machine: its store behind a real sshd, a vault in a bucket, a branch behind WebDAV, an artist's drive, and
//! the service that keeps the vault in step; servers, drive and service killed and started again.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::drive::{Builder, Drive, PROJECT, drive_test_within, eventually, eventually_within, say};
use common::mail::{Sink, mails};
use common::queue;
use common::sshd::{Mode, Sshd};
use common::web::{Service, WebServer};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// How long copying may take on a loaded machine.
const COPIED: Duration = Duration::from_secs(90);
const LIMIT: Duration = Duration::from_secs(400);
/// A lease short enough to wait for.
const LEASE: &str = "2s";

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 3 + i / 40_009 + seed * 41) % 251).unwrap())
        .collect()
}

/// Files by their paths, without those that uploads and leases write under.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let hidden = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b".backlot-"))
    };
    let mut files = queue::files(root);
    files.retain(|path, _| !hidden(path));
    files
}

/// The studio's servers, each with the folder that it keeps its bytes in.
struct Studio {
    hq: Sshd,
    vault: WebServer,
    london: WebServer,
}

impl Studio {
    fn start_or_skip() -> Option<Self> {
        let studio = Self {
            hq: Sshd::start_or_skip(Mode::Program)?,
            vault: WebServer::start_or_skip(Service::RcloneS3)?,
            london: WebServer::start_or_skip(Service::RcloneDav)?,
        };
        for folder in [
            studio.hq.root().join(PROJECT),
            studio.vault.root().join("projects"),
            studio.london.root().join("projects"),
        ] {
            fs::create_dir(folder).unwrap();
        }
        Some(studio)
    }

    /// The settings that everybody has.
    fn settings(&self) -> Builder {
        let door = self.hq.root();
        let key = |key: &str| format!("projects.{PROJECT}.{key}");
        Builder::bare()
            .sftp_site("hq", &self.hq.settings(&self.hq.root()))
            .set("sites.hq-door.provider", "local")
            .set("sites.hq-door.root", door.to_str().unwrap())
            .set("sites.hq-door.alternative-sites", vec!["hq"])
            .s3_site("vault", &self.vault.s3("projects"))
            .webdav_site("london", &self.london.webdav("projects"))
            .set(&key("remote-site"), "hq")
            .set(&key("remote-path"), PROJECT)
            .set(&key("always-accessible-on"), vec!["vault"])
            .set("publish.retry-max", "1s")
            .set("publish.part-size", "5MiB")
            .set("sync.lease", LEASE)
    }

    /// The drive of an artist.
    fn anna(&self) -> Drive {
        self.settings().set("machine.site-id", "anna").build().mounted()
    }

    /// The service, not started yet: it looks at the store every half second.
    fn service(&self, id: &str) -> Drive {
        self.service_builder(id).build()
    }

    fn service_builder(&self, id: &str) -> Builder {
        let interval = format!("projects.{PROJECT}.scan-interval");
        self.settings().set(&interval, "500ms").env("AYON_SITE_ID", id)
    }

    /// The service, which tells a coordinator by mail of what is sent to London.
    fn telling_service(&self, id: &str, post: Option<&Sink>) -> Drive {
        let builder = self.service_builder(id).set("notify.quiet", "1s");
        match post {
            Some(post) => mails(builder, post, &["kim@studio.example"]).set("receivers.people.sites", vec!["london"]),
            None => builder,
        }
        .build()
    }

    fn at_hq(&self) -> PathBuf {
        self.hq.root().join(PROJECT)
    }

    fn at_vault(&self) -> PathBuf {
        self.vault.root().join("projects").join(PROJECT)
    }

    fn at_london(&self) -> PathBuf {
        self.london.root().join("projects").join(PROJECT)
    }

    /// Changes the vault's disk while its server is away: rclone believes what it has seen for minutes.
    fn behind_the_vault(&mut self, change: impl FnOnce(&Path)) {
        self.vault.kill();
        change(&self.at_vault());
        self.vault.restart();
    }

    /// Puts a file into the store, as somebody else would.
    fn put(&self, path: &str, bytes: &[u8]) {
        let at = self.at_hq().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let aside = at.with_extension("being put");
        fs::write(&aside, bytes).unwrap();
        fs::rename(aside, at).unwrap();
    }
}

fn json(drive: &Drive, args: &[&str]) -> Value {
    let told = drive.tell(args);
    serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"))
}

/// What `backlot site state` tells of a path, by site: AYON's number.
fn states(drive: &Drive, path: &str) -> BTreeMap<String, i64> {
    let told = json(drive, &["site", "state", "--json", &format!("{PROJECT}/{path}")]);
    let rows = told["sites"].as_array().unwrap();
    let row = |row: &Value| (row["site"].as_str().unwrap().to_owned(), row["state"].as_i64().unwrap());
    rows.iter().map(row).collect()
}

fn state(drive: &Drive, path: &str, site: &str) -> i64 {
    states(drive, path)[site]
}

/// Says whether a path stands so at a site; `false` too while the drive has not heard of the path.
fn is_at(drive: &Drive, path: &str, site: &str, number: i64) -> bool {
    let is_known = drive.run(["ls", &format!("{PROJECT}/{path}")]).status.success();
    is_known && state(drive, path, site) == number
}

/// What the service says of its one lane.
fn lane(service: &Drive) -> Value {
    json(service, &["sync", "status", "--json"])[0].clone()
}

fn lane_is(service: &Drive, word: &str) -> bool {
    lane(service)["state"] == word
}

fn link(drive: &Drive, site: &str) -> String {
    let sites = json(drive, &["site", "ls", "--json"]);
    let mut rows = sites.as_array().unwrap().iter();
    let row = rows.find(|row| row["name"] == site).unwrap();
    row["link"].as_str().unwrap().to_owned()
}

fn table(rows: &[(&str, i64)]) -> BTreeMap<String, i64> {
    rows.iter().map(|(site, state)| ((*site).to_owned(), *state)).collect()
}

fn publish(drive: &Drive, path: &str, bytes: &[u8]) {
    let at = drive.path(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, bytes).unwrap();
}

/// The two shots' end is told in one mail, though nobody took it at first and the service died over it.
fn told_by_mail(post: &mut Sink, service: &mut Drive) {
    let message = |service: &Drive| {
        let told = json(service, &["notify", "ls", "--json"]);
        told["messages"].as_array().unwrap().clone()
    };
    eventually_within(COPIED, "the mail was tried in vain", || {
        let of = message(service);
        of.len() == 1 && of[0]["tries"].as_u64() > Some(0)
    });
    service.kill9();
    post.start(&[]);
    service.sync();
    let mails = post.exactly(1);
    assert_eq!(
        (mails[0].subject(), mails[0].to[0].as_str()),
        ("show: 12 files at london", "kim@studio.example")
    );
    for part in [
        "Project:  show\n",
        "From:     hq (",
        "To:       london\n",
        "Arrived:  12 files, ",
        "\n  show/sh010/publish/",
        "\n  and 2 more\n",
    ] {
        assert!(mails[0].body.contains(part), "{part:?} is not in\n{}", mails[0].body);
    }
    for part in ["Failed", "vault"] {
        assert!(!mails[0].body.contains(part), "{part:?} is in\n{}", mails[0].body);
    }
    let of = message(service);
    assert!(of.len() == 1 && of[0]["state"] == "told", "{of:#?}");
}

#[test]
fn what_an_artist_publishes_reaches_the_vault_whatever_dies_on_the_way() {
    drive_test_within(LIMIT, || {
        let Some(mut studio) = Studio::start_or_skip() else {
            return;
        };
        studio.put("sh010/publish/old.ma", b"there before");
        let anna = studio.anna();
        // Not started yet: nobody takes mails until the shots are in London.
        let mut post = Sink::prepared();
        let mut service = studio.telling_service("hq-sync", post.as_ref());
        service.sync();
        eventually_within(COPIED, "what was there before is at the vault", || {
            is_at(&service, "sh010/publish/old.ma", "vault", 4)
        });

        // The vault is dead when she publishes: at the store, and wanted at the vault.
        studio.vault.kill();
        eventually_within(COPIED, "the service knows that the vault is down", || {
            link(&service, "vault") == "down"
        });
        for shot in ["sh010", "sh020"] {
            for frame in 1..=5 {
                let path = format!("{shot}/publish/plate.{frame:04}.exr");
                publish(&anna, &path, &bytes(frame, 40_000 + frame));
            }
        }
        publish(&anna, "sh010/publish/cache.abc", &bytes(7, 23 * MIB));
        queue::drained(&anna, COPIED);
        let published = table(&[("anna", 4), ("hq", 4), ("hq-door", 4), ("london", -1), ("vault", 1)]);
        assert_eq!(states(&anna, "sh010/publish/cache.abc"), published);
        assert_eq!(
            states(&anna, "sh020"),
            published,
            "a folder is as well off as its files"
        );
        eventually_within(COPIED, "the service has it in its queue", || {
            is_at(&service, "sh020/publish/plate.0005.exr", "vault", 1)
        });
        assert!(!studio.at_vault().join("sh020").exists());

        // The service is killed in the middle of the large file, and the store dies while it is down.
        service.kill9();
        studio.vault.restart();
        service.set_env("BACKLOT_FAILPOINT", Some("upload.part:kill:3"));
        service.sync();
        eventually_within(COPIED, "the service is killed while it copies", || {
            !service.is_running()
        });
        service.set_env("BACKLOT_FAILPOINT", None);
        studio.hq.kill();
        service.sync();
        eventually_within(COPIED, "the service knows that the store is down", || {
            link(&service, "hq") == "down"
        });
        let large = studio.at_vault().join("sh010/publish/cache.abc");
        assert!(!large.exists(), "nothing is half there under its name");
        studio.hq.restart();
        eventually_within(COPIED, "all of it is at the vault", || {
            is_at(&service, "", "vault", 4) && is_at(&service, "sh010/publish/cache.abc", "vault", 4)
        });
        assert_eq!(
            states(&service, "sh010/publish/cache.abc"),
            table(&[("hq-sync", -1), ("hq", 4), ("hq-door", 4), ("london", -1), ("vault", 4)])
        );
        assert!(
            files(&studio.at_vault()) == files(&studio.at_hq()),
            "all bytes are equal"
        );
        assert_eq!(files(&studio.at_hq()).len(), 12);
        assert!(fs::read(anna.path("sh010/publish/cache.abc")).unwrap() == bytes(7, 23 * MIB));

        // Her machine does not know yet: nobody told it. Asked to look, it does.
        assert_eq!(state(&anna, "sh010/publish", "vault"), 1);
        anna.tell(["site", "state", "--look", &format!("{PROJECT}/sh010")]);
        assert_eq!(state(&anna, "sh010/publish", "vault"), 4);

        // A newer version replaces the older copy.
        let newer = bytes(9, 50_000);
        publish(&anna, "sh020/publish/plate.0001.exr", &newer);
        queue::drained(&anna, COPIED);
        assert_eq!(state(&anna, "sh020/publish/plate.0001.exr", "hq"), 4);
        eventually_within(COPIED, "the newer version is at the vault", || {
            fs::read(studio.at_vault().join("sh020/publish/plate.0001.exr")).is_ok_and(|got| got == newer)
        });

        // A coordinator sends two shots to London, which is away just then.
        studio.london.kill();
        eventually_within(COPIED, "the service knows that london is down", || {
            link(&service, "london") == "down"
        });
        let shots = ["sh010", "sh020"].map(|shot| format!("{PROJECT}/{shot}"));
        service.tell(["push", &shots[0], &shots[1], "--to", "london"]);
        assert_eq!(
            state(&service, "sh010/publish/cache.abc", "london"),
            1,
            "asked for with its folder"
        );
        assert_eq!(files(&studio.london.root().join("projects")).len(), 0);
        studio.london.restart();
        eventually_within(COPIED, "both shots are in london", || {
            is_at(&service, "sh010", "london", 4) && is_at(&service, "sh020", "london", 4)
        });
        let everywhere = files(&studio.at_hq());
        assert!(files(&studio.at_london()) == everywhere && files(&studio.at_vault()) == everywhere);
        let done = table(&[("hq-sync", -1), ("hq", 4), ("hq-door", 4), ("london", 4), ("vault", 4)]);
        assert_eq!(states(&service, ""), done);
        if let Some(post) = &mut post {
            told_by_mail(post, &mut service);
        }
        assert!(service.terminate().success());
        assert_eq!(queue::tasks(service.data_dir()), []);
    });
}

#[test]
fn what_somebody_does_at_the_vault_is_noticed_and_nothing_of_theirs_is_replaced() {
    drive_test_within(LIMIT, || {
        let Some(mut studio) = Studio::start_or_skip() else {
            return;
        };
        for name in ["gone", "cut", "kept"] {
            studio.put(&format!("publish/{name}.ma"), &bytes(3, 5000));
        }
        studio.behind_the_vault(|vault| {
            fs::create_dir_all(vault.join("publish")).unwrap();
            fs::write(vault.join("publish/theirs.ma"), "somebody else's").unwrap();
        });
        let theirs = studio.at_vault().join("publish/theirs.ma");
        studio.put("publish/theirs.ma", b"ours, of the same name");
        let mut service = studio.service("hq-sync");
        service.sync();
        eventually_within(COPIED, "the files are at the vault", || {
            ["gone", "cut", "kept"]
                .iter()
                .all(|name| is_at(&service, &format!("publish/{name}.ma"), "vault", 4))
        });
        assert_eq!(state(&service, "publish/theirs.ma", "vault"), 2);
        assert_eq!(fs::read(&theirs).unwrap(), b"somebody else's");
        service.terminate();

        studio.behind_the_vault(|vault| {
            fs::remove_file(vault.join("publish/gone.ma")).unwrap();
            fs::write(vault.join("publish/cut.ma"), "cut").unwrap();
        });
        service.sync();
        eventually_within(COPIED, "what was deleted is there again", || {
            studio.at_vault().join("publish/gone.ma").exists() && is_at(&service, "publish/gone.ma", "vault", 4)
        });
        eventually_within(COPIED, "what was changed is told", || {
            is_at(&service, "publish/cut.ma", "vault", 2)
        });
        assert_eq!(fs::read(studio.at_vault().join("publish/cut.ma")).unwrap(), b"cut");
        let told = json(
            &service,
            &["site", "state", "--json", &format!("{PROJECT}/publish/cut.ma")],
        );
        let row = told["sites"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["site"] == "vault")
            .unwrap();
        assert!(row["error"].as_str().unwrap().contains("not replaced"), "{row}");
        service.terminate();

        // The vault's disk is not there: everything gone at once is not believed, and not copied into nowhere.
        let elsewhere = studio.vault.root().join("elsewhere");
        studio.behind_the_vault(|vault| fs::rename(vault, &elsewhere).unwrap());
        service.sync();
        eventually_within(COPIED, "the service says that it does not believe it", || {
            let lane = lane(&service);
            lane["state"] == "trouble" && lane["reason"].as_str().unwrap().contains("not mounted")
        });
        assert!(files(&studio.vault.root().join("projects")).is_empty());
        studio.behind_the_vault(|vault| {
            // A lease may be there, of the last try.
            drop(fs::remove_dir_all(vault));
            fs::rename(&elsewhere, vault).unwrap();
        });
        eventually_within(COPIED, "it goes on when the disk is back", || {
            lane_is(&service, "in step")
        });
    });
}

#[test]
fn a_second_service_waits_and_takes_over() {
    drive_test_within(LIMIT, || {
        let Some(studio) = Studio::start_or_skip() else { return };
        studio.put("publish/one.ma", &bytes(1, 1000));
        let (mut first, mut second) = (studio.service("first"), studio.service("second"));
        first.sync();
        eventually_within(COPIED, "the first works", || lane_is(&first, "in step"));
        second.sync();
        eventually_within(COPIED, "the second is told who works", || {
            let lane = lane(&second);
            lane["state"] == "held" && lane["reason"] == "first"
        });
        // It is renewed: the second goes on waiting for longer than a lease.
        std::thread::park_timeout(Duration::from_secs(5));
        assert!(
            lane_is(&second, "held") && lane_is(&first, "in step"),
            "{}, {}",
            lane(&first),
            lane(&second)
        );
        assert_eq!(lane(&second)["enqueued"], 0);

        first.kill9();
        let took = eventually_within(COPIED, "the second takes over", || lane_is(&second, "in step"));
        say(&format!("   taken over after {took:?}, of a lease of {LEASE}"));
        studio.put("publish/two.ma", &bytes(2, 1000));
        eventually_within(COPIED, "the second copies", || {
            studio.at_vault().join("publish/two.ma").exists()
        });

        first.sync();
        eventually_within(COPIED, "the first waits now", || lane_is(&first, "held"));
        second.terminate();
        eventually("a lease that was given up is had at once", || {
            lane_is(&first, "in step")
        });
        first.terminate();
        let left: Vec<_> = fs::read_dir(studio.at_vault())
            .unwrap()
            .map(|row| row.unwrap().file_name())
            .collect();
        assert_eq!(left, ["publish"], "no lease stays");
    });
}

#[test]
fn sites_are_listed_and_tried_out() {
    drive_test_within(LIMIT, || {
        let Some(mut studio) = Studio::start_or_skip() else {
            return;
        };
        studio.put("publish/one.ma", b"one");
        let anna = studio.anna();
        let sites = json(&anna, &["site", "ls", "--json"]);
        let of = |name: &str| {
            sites
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["name"] == name)
                .unwrap()
        };
        let role = |name: &str| of(name)["roles"][0]["role"].as_str().map(str::to_owned);
        assert_eq!(
            (of("anna")["provider"].as_str(), role("anna").as_deref()),
            (Some("drive"), Some("active"))
        );
        assert_eq!(role("hq").as_deref(), Some("remote"));
        assert_eq!(role("vault").as_deref(), Some("always-accessible-on"));
        assert_eq!(role("hq-door").as_deref(), Some("door to hq"));
        assert_eq!(role("london"), None);
        assert_eq!(
            of("hq")["alternative_sites"],
            serde_json::json!(["hq-door"]),
            "both ways"
        );
        assert_eq!(of("vault")["roles"][0]["path"], PROJECT);

        let checked = json(&anna, &["site", "check", "--json"]);
        for report in checked.as_array().unwrap() {
            assert_eq!(report["ok"], true, "{report}");
            let steps: Vec<_> = report["steps"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s["step"].as_str().unwrap())
                .collect();
            assert!(steps.contains(&"write") && steps.contains(&"remove"), "{steps:?}");
        }
        let clock = |site: &str| {
            let mut reports = checked.as_array().unwrap().iter();
            reports.find(|report| report["site"] == site).unwrap()["clock_ahead_ms"].as_i64()
        };
        assert_eq!(
            (clock("hq"), clock("hq-door")),
            (Some(0), Some(0)),
            "it is this machine's own"
        );
        let everything = |studio: &Studio| {
            let roots = [studio.hq.root(), studio.vault.root(), studio.london.root()];
            roots.map(|root| queue::files(&root).into_keys().collect::<Vec<_>>())
        };
        assert_eq!(
            everything(&studio)[0],
            [PathBuf::from("show/publish/one.ma")],
            "nothing of a check stays"
        );
        assert!(everything(&studio)[1].is_empty() && everything(&studio)[2].is_empty());

        studio.london.kill();
        let out = anna.run(["site", "check", "london"]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("FAILED connect"), "{said}");
        let refused = anna.refused(["site", "check", "paris"]);
        assert!(refused.said.contains("no site `paris`"), "{}", refused.said);

        // A bucket that may be read alone.
        let read_only = json(&anna, &["site", "check", "vault", "--read-only", "--json"]);
        let steps: Vec<_> = read_only[0]["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["step"].as_str().unwrap())
            .collect();
        assert_eq!(steps, ["connect", "list", "project show"]);
        assert!(read_only[0]["clock_ahead_ms"].is_null());

        let refused = anna.refused(["sync"]);
        assert!(
            refused.said.contains("in use") || refused.said.contains("uses"),
            "{}",
            refused.said
        );
    });
}

#[test]
fn a_name_that_a_site_cannot_hold_is_told_when_it_is_published() {
    drive_test_within(LIMIT, || {
        let Some(studio) = Studio::start_or_skip() else { return };
        let drive = |site: &str| {
            let builder = studio.settings().set(&format!("sites.{site}.windows-names"), true);
            builder.set("machine.site-id", "anna").build().mounted()
        };
        let error = |drive: &Drive, path: &str, site: &str| {
            let told = json(drive, &["site", "state", "--json", &format!("{PROJECT}/{path}")]);
            let mut rows = told["sites"].as_array().unwrap().iter();
            let row = rows.find(|row| row["site"] == site).unwrap();
            row["error"].as_str().unwrap_or_default().to_owned()
        };
        let anna = drive("vault");
        for name in ["what?.exr", "fine.exr", "FINE.exr"] {
            publish(&anna, &format!("publish/{name}"), b"bytes");
            queue::drained(&anna, COPIED);
        }
        assert_eq!(states(&anna, "publish/fine.exr")["vault"], 1);
        for (name, why) in [("what?.exr", "'?'"), ("FINE.exr", "capitals")] {
            let path = format!("publish/{name}");
            assert_eq!(
                (state(&anna, &path, "hq"), state(&anna, &path, "vault")),
                (4, 2),
                "{name}"
            );
            let said = error(&anna, &path, "vault");
            assert!(said.contains("vault can't hold it") && said.contains(why), "{said}");
        }
        drop(anna);

        // The remote site itself.
        let anna = drive("hq");
        publish(&anna, "publish/aux.exr", b"bytes");
        queue::task_that(&anna, "the publish is refused", COPIED, |task| {
            task.kind.as_deref() == Some("name")
        });
        assert_eq!(state(&anna, "publish/aux.exr", "hq"), 2);
        assert!(error(&anna, "publish/aux.exr", "hq").contains("a device on Windows"));
        fs::rename(anna.path("publish/aux.exr"), anna.path("publish/auxiliary.exr")).unwrap();
        queue::drained(&anna, COPIED);
        assert_eq!(
            fs::read(studio.at_hq().join("publish/auxiliary.exr")).unwrap(),
            b"bytes"
        );
    });
}

#[test]
fn a_service_with_nothing_to_do_says_so() {
    drive_test_within(LIMIT, || {
        let dir = tempfile::tempdir().unwrap();
        let service = Builder::local(dir.path()).build();
        let refused = service.refused(["sync"]);
        assert!(refused.said.contains("always-accessible-on"), "{}", refused.said);
        let refused = service.refused(["sync", "--project", "shwo"]);
        assert!(refused.said.contains("no project `shwo`"), "{}", refused.said);
        assert_eq!(refused.code, Some(1));
    });
}
