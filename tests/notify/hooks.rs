//! Webhooks: what is posted, how it is signed, and what answers mean.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::common::drive::drive_test;
use crate::receivers::{Answer, Hook, PATIENCE, Studio};

const SECRET: &str = "a-secret-of-some-length";

#[test]
fn what_is_posted_is_signed_and_says_all_there_is_to_say() {
    drive_test(|| {
        let hook = Hook::start(vec![Answer::Status(200)]);
        let dir = tempfile::tempdir().expect("a folder");
        let secret = dir.path().join("secret");
        fs::write(&secret, SECRET).expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("ours");
        let studio = Studio::new(|builder| {
            builder
                .set("receivers.chat.webhook", hook.url())
                .set("receivers.chat.secret", format!("file:{}", secret.display()))
                .env("BACKLOT_LOG", "trace")
        });
        studio.publish("a.exr", b"1234");
        studio.publish("b.exr", b"567");
        let posted = &hook.exactly(1)[0];
        assert_eq!(posted.headers["content-type"], "application/json");
        let signature = &posted.headers["backlot-signature"];
        let (time, v1) = signature.split_once(",v1=").expect("t=…,v1=…");
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
        mac.update(time.strip_prefix("t=").expect("a time").as_bytes());
        mac.update(b".");
        mac.update(&posted.body);
        let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(v1, hex);
        let facts = posted.json();
        for (key, value) in [
            ("version", serde_json::json!(1)),
            ("test", false.into()),
            ("outcome", "done".into()),
            ("project", "show".into()),
            ("target", "site".into()),
            ("files", 2.into()),
            ("bytes", 7.into()),
            ("failed", 0.into()),
            ("round", 1.into()),
        ] {
            assert_eq!(facts[key], value, "{key} of {facts:#}");
        }
        let mut paths: Vec<_> = facts["paths"]
            .as_array()
            .expect("paths")
            .iter()
            .map(|p| p.as_str().expect("a path"))
            .collect();
        paths.sort_unstable();
        assert_eq!(paths, ["show/publish/a.exr", "show/publish/b.exr"]);
        assert_eq!(facts["id"].as_str(), Some(posted.headers["backlot-delivery"].as_str()));
        let everything = studio.drive.tell(["notify", "ls"]) + &studio.drive.log();
        assert!(
            !everything.contains(SECRET) && !everything.contains("topsecret"),
            "a secret was told"
        );
    });
}

#[test]
fn an_address_that_is_a_secret_is_told_nowhere() {
    drive_test(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let address = dir.path().join("url");
        // Nobody listens there.
        let url = format!("http://127.0.0.1:{}/services/topsecret", crate::receivers::free_port());
        fs::write(&address, &url).expect("written");
        fs::set_permissions(&address, fs::Permissions::from_mode(0o600)).expect("ours");
        let studio = Studio::new(|builder| {
            builder
                .set("receivers.chat.webhook-from", format!("file:{}", address.display()))
                .env("BACKLOT_LOG", "trace")
        });
        studio.publish("a.exr", b"a");
        let waiting = studio.message_that("a refusal", |m| m["tries"] == 1 && m["state"] == "waiting");
        assert!(
            waiting["error"].as_str().expect("a reason").contains("refused"),
            "{waiting}"
        );
        let test = studio.drive.run(["notify", "test"]);
        assert_eq!(test.status.code(), Some(4));
        let everything = studio.drive.tell(["notify", "ls"])
            + &studio.drive.tell(["config", "show"])
            + &studio.drive.log()
            + &String::from_utf8_lossy(&test.stdout);
        assert!(!everything.contains("topsecret"), "a secret was told: {everything}");

        // As soon as somebody does.
        let hook = Hook::start(vec![Answer::Status(204)]);
        fs::write(&address, hook.url()).expect("written");
        studio.drive.tell(["notify", "retry"]);
        hook.exactly(1);
    });
}

#[test]
fn a_server_in_trouble_is_asked_again_and_a_refusal_is_final() {
    drive_test(|| {
        let trouble = Hook::start(vec![Answer::Status(503), Answer::Status(200)]);
        let refuses = Hook::start(vec![Answer::Status(403), Answer::Status(200)]);
        let studio = Studio::new(|builder| {
            builder
                .set("receivers.trouble.webhook", trouble.url())
                .set("receivers.refuses.webhook", refuses.url())
        });
        studio.publish("a.exr", b"a");
        let posted = trouble.exactly(2);
        assert_eq!(posted[0].body, posted[1].body);
        let attempts: Vec<_> = posted.iter().map(|p| p.headers["backlot-attempt"].as_str()).collect();
        assert_eq!(attempts, ["1", "2"]);
        let told = studio.message_that("what was told", |m| m["receiver"] == "trouble" && m["state"] == "told");
        assert_eq!(
            (&told["lost"], &told["error"]),
            (&0.into(), &serde_json::Value::Null),
            "an answer came to both"
        );

        refuses.exactly(1);
        let given_up = studio.message_that("the refusal", |m| m["receiver"] == "refuses");
        assert_eq!(given_up["state"], "given-up");
        let why = given_up["error"].as_str().expect("a reason");
        assert!(why.contains("403") && why.contains("said"), "{why}");
        let id = given_up["id"].to_string();
        studio.drive.tell(["notify", "retry", &id]);
        refuses.exactly(2);
        let refused = studio.drive.refused(["notify", "retry", "4711"]);
        assert!(refused.said.contains("no message 4711"), "{refused:?}");
    });
}

#[test]
fn one_who_is_slow_holds_up_nobody() {
    drive_test(|| {
        let slow = Hook::start(vec![Answer::After(Duration::from_secs(20)), Answer::Status(200)]);
        let quick = Hook::start(vec![Answer::Status(200)]);
        let studio = Studio::new(|builder| {
            builder
                .set("receivers.slow.webhook", slow.url())
                .set("receivers.slow.timeout", "2s")
                .set("receivers.quick.webhook", quick.url())
        });
        let begun = Instant::now();
        studio.publish("a.exr", b"a");
        quick.exactly(1);
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        let message = studio.message_that("the time's end", |m| m["receiver"] == "slow" && m["lost"] == 1);
        assert!(
            message["error"].as_str().is_some_and(|why| why.contains("2s")),
            "{message}"
        );
        // It had the message, and is told again: by the same name.
        let posted = slow.exactly(2);
        assert_eq!(
            posted[0].headers["backlot-delivery"],
            posted[1].headers["backlot-delivery"]
        );
        let said = studio.drive.tell(["notify", "ls"]);
        assert!(
            said.contains("no answer came to 1 try: it may have arrived more than once"),
            "{said}"
        );
        assert!(begun.elapsed() < PATIENCE * 2);
    });
}
