//! Receivers that are gone and come back, and a daemon that dies between any two steps: told once, or said why not.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::common::drive::{drive_test, drive_test_within};
use crate::receivers::{Answer, Hook, Sink, Studio, mails};

#[test]
fn a_mail_server_that_is_down_gets_its_mail_when_it_is_up_also_after_a_restart() {
    drive_test_within(Duration::from_secs(180), || {
        let Some(mut sink) = Sink::prepared() else { return };
        let mut studio = Studio::new(|builder| mails(builder, &sink, &["kim@studio.example"]));
        studio.publish("a.exr", b"a");
        let waiting = studio.message_that("a refusal", |m| m["state"] == "waiting" && m["tries"] != 0);
        assert!(
            waiting["error"].as_str().expect("a reason").contains("refused"),
            "{waiting}"
        );
        assert_eq!(waiting["lost"], 0, "nobody had it: {waiting}");
        studio.drive.remount();
        sink.start(&["--answer", "451 come back later"]);
        let busy = studio.message_that("a busy server", |m| {
            m["error"].as_str().is_some_and(|why| why.contains("later"))
        });
        assert_eq!(
            (&busy["state"], &busy["lost"]),
            (&"waiting".into(), &0.into()),
            "{busy}"
        );
        assert!(sink.mails().is_empty());
        sink.stop();
        sink.start(&[]);
        // By itself, within its wait.
        let mail = &sink.exactly(1)[0];
        assert_eq!(mail.subject(), "show: 1 file at site");

        sink.stop();
        sink.start(&["--answer", "554 not from you"]);
        studio.publish("b.exr", b"b");
        let refused = studio.message_that("a refusal for good", |m| m["state"] == "given-up");
        assert!(
            refused["error"].as_str().expect("a reason").contains("not from you"),
            "{refused}"
        );
    });
}

#[test]
fn a_mail_whose_answer_was_lost_comes_again_by_the_same_name() {
    drive_test(|| {
        let Some(mut sink) = Sink::prepared() else { return };
        sink.start(&["--hang-up"]);
        let studio = Studio::new(|builder| mails(builder, &sink, &["kim@studio.example"]));
        studio.publish("a.exr", b"a");
        let message = studio.message_that("a lost answer", |m| m["lost"] == 1);
        assert_eq!(message["state"], "waiting", "{message}");
        assert_eq!(sink.mails().len(), 1, "it was kept");
        sink.stop();
        sink.start(&[]);
        let told = sink.exactly(2);
        assert_eq!(told[0].headers["Message-ID"], told[1].headers["Message-ID"]);
    });
}

/// Publishes while the daemon dies at a place, starts it again twice, and returns how many messages came.
fn killed_at(place: &str) -> (usize, u64, Vec<String>) {
    let hook = Hook::start(vec![Answer::Status(200)]);
    let mut studio = Studio::new(|builder| {
        builder
            .set("receivers.chat.webhook", hook.url())
            .env("BACKLOT_FAILPOINT", format!("{place}:kill"))
    });
    studio.publish("a.exr", b"a");
    let status = studio.drive.wait_end();
    assert_eq!(status.signal(), Some(9), "the fault at {place} fired");
    studio.drive.set_env("BACKLOT_FAILPOINT", None);
    studio.drive.mount();
    let told = studio.message_that("the message", |m| m["state"] == "told");
    studio.drive.remount();
    std::thread::park_timeout(Duration::from_secs(3));
    let posted = hook.posted();
    let ids = posted.iter().map(|p| p.headers["backlot-delivery"].clone()).collect();
    (posted.len(), told["lost"].as_u64().expect("a count"), ids)
}

#[test]
fn a_daemon_killed_before_its_round_is_told_tells_it_once() {
    drive_test(|| {
        // The round is over in the write that ends its last task; nothing else is needed to tell it.
        let (count, lost, _) = killed_at("publish.recorded");
        assert_eq!((count, lost), (1, 0));
    });
}

#[test]
fn a_daemon_killed_with_a_message_in_the_outbox_tells_it_once() {
    drive_test(|| {
        let (count, lost, _) = killed_at("notify.posted");
        assert_eq!((count, lost), (1, 0));
    });
}

#[test]
fn a_daemon_killed_before_it_sends_tells_once_and_says_that_it_may_have_been_twice() {
    drive_test(|| {
        let (count, lost, _) = killed_at("notify.begun");
        assert_eq!((count, lost), (1, 1));
    });
}

#[test]
fn a_daemon_killed_between_sending_and_writing_that_down_tells_again_by_the_same_name() {
    drive_test(|| {
        let (count, lost, ids) = killed_at("notify.sent");
        assert_eq!((count, lost), (2, 1));
        assert_eq!(ids[0], ids[1]);
    });
}
