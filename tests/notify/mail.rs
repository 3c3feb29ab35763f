//! Mails: what they say, to whom, over which way, and once.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::drive::{Builder, drive_test};
use crate::receivers::{PASSWORD, Sink, Studio, USER, mails};

#[test]
fn a_hundred_publishes_are_one_mail() {
    drive_test(|| {
        let Some(mut sink) = Sink::prepared() else { return };
        sink.start(&[]);
        let studio = Studio::new(|builder| mails(builder, &sink, &["kim@studio.example", "Ada <ada@studio.example>"]));
        for frame in 0..100 {
            studio.publish(&format!("sh010.{frame:04}.exr"), &[7; 1000]);
        }
        let told = sink.exactly(2);
        let mut to: Vec<_> = told.iter().flat_map(|mail| mail.to.clone()).collect();
        to.sort();
        assert_eq!(to, ["ada@studio.example", "kim@studio.example"]);
        let mail = &told[0];
        assert_eq!(mail.subject(), "show: 100 files at site");
        for part in [
            "Project:  show\n",
            "To:       site\n",
            "Arrived:  100 files, 97.66 KiB, in ",
            "\n  show/publish/sh010.0",
            "\n  and 90 more\n",
        ] {
            assert!(mail.body.contains(part), "{part:?} is not in\n{}", mail.body);
        }
        assert!(
            !mail.body.contains("Failed") && !mail.body.contains("{{"),
            "{}",
            mail.body
        );
        assert_ne!(told[0].headers["Message-ID"], told[1].headers["Message-ID"]);

        // The day's job is gone on with: another round, told by itself.
        studio.publish("sh020.mov", b"movie");
        let told = sink.exactly(4);
        assert_eq!(told[3].subject(), "show: 1 file at site");
        assert!(told[3].body.contains("round 2 of the drive test"), "{}", told[3].body);
        assert_eq!(studio.messages().iter().filter(|m| m["state"] == "told").count(), 4);
    });
}

#[test]
fn what_failed_is_told_with_its_reason_and_what_to_do() {
    drive_test(|| {
        let Some(mut sink) = Sink::prepared() else { return };
        sink.start(&[]);
        let studio = Studio::new(|builder| {
            mails(builder, &sink, &["kim@studio.example"])
                .set("receivers.happy.mail", ["happy@studio.example"].to_vec())
                .set("receivers.happy.on", "success")
        });
        studio.drive.tell(["queue", "pause"]);
        fs::create_dir(studio.drive.path("publish/shot")).expect("made");
        studio.publish("shot/a.exr", b"in the way");
        studio.publish("b.exr", b"fine");
        // A file where the folder has to be.
        fs::write(studio.site.path().join("publish/shot"), b"").expect("written");
        studio.drive.tell(["queue", "resume"]);
        let mail = &sink.exactly(1)[0];
        assert_eq!(
            (mail.subject(), mail.to[0].as_str()),
            ("show: 1 file at site, 1 FAILED", "kim@studio.example")
        );
        for part in [
            "Failed:   1\n",
            "\nNot there:\n  show/publish/shot/a.exr\n",
            "move away what is in its place at site; then `backlot queue retry PATH`\n",
        ] {
            assert!(mail.body.contains(part), "{part:?} is not in\n{}", mail.body);
        }
        // Put right, it is a round of its own: and both are told.
        fs::remove_file(studio.site.path().join("publish/shot")).expect("removed");
        studio.drive.tell(["queue", "retry", "--all"]);
        let told = sink.exactly(3);
        assert!(
            told[1..].iter().all(|mail| mail.subject() == "show: 1 file at site"),
            "{told:#?}"
        );
    });
}

#[test]
fn the_way_to_the_server_is_ciphered_and_the_password_stays_a_secret() {
    drive_test(|| {
        let Some(mut sink) = Sink::prepared() else { return };
        let cert = sink.certified();
        let (key, secret) = (sink.file("key.pem"), sink.file("secret"));
        fs::write(&secret, PASSWORD).expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("ours");
        let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
        let (cert, key) = (text(&cert), text(&key));
        sink.start(&["--cert", &cert, &key, "--user", USER, PASSWORD]);
        let ciphered = |builder: Builder| {
            mails(builder, &sink, &["kim@studio.example"])
                .set("notify.smtp-security", "starttls")
                .set("notify.smtp-user", USER)
                .set("notify.smtp-password", format!("file:{}", text(&secret)))
                .env("BACKLOT_LOG", "trace")
        };
        // Whom nobody vouches for is told nothing.
        let studio = Studio::new(ciphered);
        let refused = studio.drive.run(["notify", "test"]);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(said.contains("NOT told") && said.contains("certificate"), "{said}");
        assert!(sink.mails().is_empty());
        drop(studio);

        let studio = Studio::new(|builder| ciphered(builder).set("notify.smtp-ca-file", cert.as_str()));
        studio.publish("a.exr", b"a");
        let mail = &sink.exactly(1)[0];
        assert_eq!((mail.tls, mail.user.as_deref()), (true, Some(USER)));

        // A wrong password: told as a reason, never itself, and the message is kept for when it is right.
        fs::write(&secret, "wrong-password-entirely").expect("written");
        studio.publish("b.exr", b"b");
        let waiting = studio.message_that("a refusal", |m| m["state"] == "waiting" && m["tries"] == 1);
        assert!(
            waiting["error"].as_str().expect("a reason").contains("535"),
            "{waiting}"
        );
        let shown = studio.drive.tell(["notify", "ls"]) + &studio.drive.tell(["config", "show"]);
        let everything = shown + &studio.drive.log();
        for secret in [PASSWORD, "wrong-password-entirely"] {
            assert!(!everything.contains(secret), "a secret was told");
        }
        fs::write(&secret, PASSWORD).expect("written");
        studio.drive.tell(["notify", "retry"]);
        sink.exactly(2);
    });
}

#[test]
fn names_of_files_add_no_headers_and_no_lines() {
    drive_test(|| {
        let Some(mut sink) = Sink::prepared() else { return };
        sink.start(&[]);
        let studio = Studio::new(|builder| {
            let subject = sink.file("subject.txt");
            fs::write(&subject, "{{ project }} {{ paths[0] }}").expect("written");
            mails(builder, &sink, &["kim@studio.example"]).set("notify.subject", subject.to_str().expect("UTF-8"))
        });
        studio.publish("x\r\nBcc: all@studio.example\r\n\r\nHello\u{1b}[2J.exr", b"a");
        let mail = &sink.exactly(1)[0];
        assert_eq!(mail.to, ["kim@studio.example"]);
        assert!(!mail.headers.contains_key("Bcc"), "{:#?}", mail.headers);
        assert!(
            !mail.body.contains('\u{1b}') && mail.body.contains("x\\u{d}\\u{a}Bcc: all@"),
            "{}",
            mail.body
        );
        assert!(mail.subject().contains("x\\u{d}\\u{a}Bcc: all@"), "{}", mail.subject());
    });
}

#[test]
fn a_bad_template_stops_the_mount_with_file_and_line() {
    drive_test(|| {
        let Some(sink) = Sink::prepared() else { return };
        let site = tempfile::tempdir().expect("a folder");
        let body = sink.file("body.txt");
        fs::write(&body, "Hello,\n\n{{ projekt }} is done\n").expect("written");
        let shown = body.to_str().expect("UTF-8");
        let builder = mails(Studio::builder(&site), &sink, &["kim@studio.example"]).set("notify.body", shown);
        let mut drive = builder.build();
        let refused = drive.try_mount().expect_err("a template that can't be filled");
        let expected = format!("notify.body: {shown}:3: undefined value");
        assert!(refused.said.contains(&expected), "{}", refused.said);
        let refused = drive.refused(["config", "check"]);
        assert!(
            refused.said.contains(&expected) && refused.code == Some(2),
            "{refused:?}"
        );
        fs::write(&body, "{{ project }} is done\n").expect("written");
        drive.mount();
    });
}
