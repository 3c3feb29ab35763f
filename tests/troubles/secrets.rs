//! A secret that a server takes no more while a job runs: what has to wait says so, other jobs go on, and the new secret is
//! used once it is where the settings point.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::drive::{Builder, Drive, SITE, drive_test_within, eventually_within, say};
use crate::common::tree::files_at;
use crate::common::web::{Service, WebServer};
use crate::rig::{BUCKET, DRAIN, LIMIT, assert_same, blocked, bytes, count, job_to, local, put, tasks};

const FILES: usize = 60;
const NEW: &str = "battery-horse-correct";
/// Once the secret is right and somebody said so, nothing waits as long as after a refusal (five minutes).
const AT_ONCE: Duration = Duration::from_secs(60);

/// Which end of the copies is at the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Target,
    Source,
}

/// Who says that the new secret is in place.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Told {
    ByAPerson,
    ByNobody,
}

fn changed_in_mid_job(service: Service, role: Role, told: Told) {
    let Some(mut server) = WebServer::start_or_skip(service) else {
        return;
    };
    say(&format!("-- {service:?}, {role:?}, told {told:?}"));
    let served = server.root().join(BUCKET).join("show");
    fs::create_dir_all(&served).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (hq, here, london) = (
        dir.path().join("hq"),
        dir.path().join("here"),
        dir.path().join("london"),
    );
    fs::create_dir(&hq).unwrap();
    let builder = local(local(Builder::local(&hq), "london", &london), "here", &here);
    let builder = match service {
        Service::RcloneS3 | Service::Moto => builder.s3_site("vault", &server.s3(BUCKET)),
        Service::RcloneDav | Service::Wsgidav => builder.webdav_site("vault", &server.webdav(BUCKET)),
        Service::RcloneSftp => builder.sftp_site("vault", &server.sftp(BUCKET)),
    };
    let drive = builder
        .set("sites.vault.upload-limit", "200K/s")
        .set("sites.vault.download-limit", "200K/s")
        .set("publish.parallel", 3)
        .build()
        .mounted();
    let (from, to, args) = match role {
        Role::Target => (hq.clone(), served, ["--from", SITE, "--to", "vault"]),
        Role::Source => (served, here.join("show"), ["--from", "vault", "--to", "here"]),
    };
    for n in 0..FILES {
        put(&from, &format!("a/{n:02}.exr"), &bytes(n, 20_000));
    }
    put(&hq, "b/other.exr", &bytes(99, 20_000));
    let target = if role == Role::Target { "vault" } else { "here" };
    let push: Vec<&str> = ["push", "show/a"].into_iter().chain(args).collect();
    drive.tell(push);
    eventually_within(DRAIN, "some files have arrived", || files_at(&to).len() >= 5);
    server.restart_with(NEW);
    refused(&drive, target);
    let before = files_at(&to).len();
    assert!(before < FILES, "all of it was there before the secret changed");

    // Another job goes on.
    drive.tell(["push", "show/b", "--from", SITE, "--to", "london", "--wait"]);
    assert_same(&hq.join("b"), &london.join("show/b"));
    let job = job_to(&drive, target);
    assert!(count(&job, "done") < FILES as u64, "{job:#}");

    renewed(&server.file("secret"));
    let begun = Instant::now();
    if told == Told::ByAPerson {
        drive.tell(["queue", "retry", "--all"]);
    }
    eventually_within(AT_ONCE, "all of it is there", || tasks(&drive).is_empty());
    say(&format!(
        "   {before} of {FILES} before, the rest {:?} after the new secret",
        begun.elapsed()
    ));
    assert_same(&from.join("a"), &to.join("a"));
    assert_eq!(count(&job_to(&drive, target), "done"), FILES as u64);
}

/// The refusal is told: by the file that met it, and where the server was away before it refused, by the site, which is not
/// asked for more then.
fn refused(drive: &Drive, target: &str) {
    let says_site = || {
        let status = drive.status();
        let mut sites = status["sites"].as_array().unwrap().iter();
        let row = sites.find(|site| site["name"] == "vault").unwrap();
        row["link"] == "down"
            && row["reason"]
                .as_str()
                .is_some_and(|why| why.contains("logging in failed"))
    };
    eventually_within(DRAIN, "the refusal is told", || {
        blocked(drive, "auth", &["vault"]) || says_site()
    });
    // Servers lock out those who insist: not every file of the job has tried it.
    let job = job_to(drive, target);
    assert!(count(&job, "blocked") <= 6, "{job:#}");
}

/// The site is known to let nobody in before anything is sent, so that no file tries it: all of them need a person, and say so.
#[test]
fn what_waits_for_a_site_that_lets_nobody_in_is_blocked_and_goes_on_once_it_does() {
    drive_test_within(LIMIT, || {
        let Some(mut server) = WebServer::start_or_skip(Service::RcloneDav) else {
            return;
        };
        fs::create_dir(server.root().join(BUCKET)).unwrap();
        let mut drive = Builder::webdav(&server.webdav(BUCKET)).build();
        drive.scan();
        server.restart_with(NEW);
        drive.mount();
        eventually_within(DRAIN, "the site is known to let nobody in", || {
            drive.status()["sites"][0]["link"] == "down"
        });
        let publish = drive.path("publish");
        fs::create_dir(&publish).unwrap();
        for n in 0..5 {
            fs::write(publish.join(format!("{n}.exr")), bytes(n, 20_000)).unwrap();
        }
        let begun = Instant::now();
        let refused = drive.refused(["wait", "--all"]);
        assert!(refused.said.contains("logging in failed"), "{refused:?}");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        let listed = tasks(&drive);
        assert_eq!(listed.len(), 5, "{listed:#?}");
        for task in &listed {
            let why = task["error"].as_str().unwrap_or_default();
            assert!(task["state"] == "blocked" && task["kind"] == "auth", "{task:#}");
            assert!(why.contains("logging in failed"), "{task:#}");
        }
        let status = drive.status();
        let publishing = &status["publishing"];
        assert_eq!(publishing["queues"][0]["blocked"]["tasks"], 5, "{publishing:#}");
        assert_eq!(publishing["queues"][0]["waiting"]["tasks"], 0, "{publishing:#}");
        assert_eq!(publishing["pending"]["stuck"]["tasks"], 5, "{publishing:#}");

        // Nobody says a word: the new password is seen where it is kept.
        renewed(&server.file("secret"));
        eventually_within(AT_ONCE, "all of it is there", || tasks(&drive).is_empty());
        assert_same(&publish, &server.root().join(BUCKET).join("publish"));
    });
}

fn renewed(file: &Path) {
    fs::write(file, NEW).unwrap();
}

#[test]
fn a_key_that_a_store_takes_no_more_is_told_and_the_new_one_is_used() {
    drive_test_within(LIMIT, || {
        changed_in_mid_job(Service::RcloneS3, Role::Target, Told::ByNobody)
    });
}

#[test]
fn a_password_that_a_webdav_server_takes_no_more_is_told_and_the_new_one_is_used() {
    drive_test_within(LIMIT, || {
        changed_in_mid_job(Service::RcloneDav, Role::Target, Told::ByNobody);
        changed_in_mid_job(Service::RcloneDav, Role::Source, Told::ByAPerson);
    });
}

#[test]
fn a_password_that_an_sftp_server_takes_no_more_is_told_and_the_new_one_is_used() {
    drive_test_within(LIMIT, || {
        changed_in_mid_job(Service::RcloneSftp, Role::Target, Told::ByAPerson);
        changed_in_mid_job(Service::RcloneSftp, Role::Source, Told::ByNobody);
    });
}
