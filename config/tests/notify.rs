//! Who is told, and the layout of work files: what is wrong with them, in the exact words.

mod common;

use backlot_config::{Occasion, Period, SmtpSecurity};
use common::{complaint_about, config_of};

#[track_caller]
fn check(text: &str, complaint: &str) {
    assert_eq!(complaint_about(text), complaint, "of:\n{text}");
}

#[test]
fn receivers_that_are_right() {
    let config = config_of(
        "[notify]\nfrom = \"Backlot <b@s.example>\"\nsmtp-host = \"mail\"\nsmtp-password = \"file:~/p\"\nsmtp-user = \"b\"\n\
         [receivers.people]\nmail = [\"kim@s.example\"]\non = \"failure\"\n\
         [receivers.chat]\nwebhook-from = \"file:~/u\"\nsecret = \"env:S\"\ntimeout = \"5s\"\n\
         [receivers.farm]\ncommand = [\"~/bin/told\", \"~/x\"]\n",
    );
    let notify = &config.notify;
    assert_eq!((notify.port(), notify.smtp_security), (587, SmtpSecurity::Starttls));
    assert!(notify.smtp_password.as_ref().unwrap().to_string().ends_with("/home/p"));
    assert_eq!(config.receivers["people"].on, Occasion::Failure);
    assert_eq!(config.receivers["chat"].timeout, Period::from_secs(5));
    assert!(
        config.receivers["chat"]
            .webhook_from
            .as_ref()
            .unwrap()
            .to_string()
            .ends_with("/home/u")
    );
    let command = &config.receivers["farm"].command;
    assert!(command[0].ends_with("/home/bin/told"), "{command:?}");
    assert_eq!(command[1], "~/x");
}

#[test]
fn receivers_that_are_wrong() {
    check(
        "[receivers.a]\non = \"all\"",
        "user:1:12: receivers.a: says not how it is told; write one of mail, webhook, webhook-from and command",
    );
    check(
        "[receivers.a]\ncommand = [\"x\"]\nwebhook = \"https://x\"",
        "user:1:12: receivers.a: has more than one of mail, webhook, webhook-from and command; give each a section of its own",
    );
    check(
        "[notify]\nfrom = \"b@s.example\"\nsmtp-host = \"m\"\n[receivers.a]\nmail = [\"kim\"]",
        "user:5:8: receivers.a.mail: `kim` is no mail address",
    );
    check(
        "[notify]\nfrom = \"b@s.example\"\n[receivers.a]\nmail = [\"kim@s.example\"]",
        "user:1:2: notify.smtp-host: is missing, and receivers.a gets mail",
    );
    check(
        "[receivers.a]\nwebhook = \"ftp://x\"",
        "user:2:11: receivers.a.webhook: is no address of the web; begin it with `https://` and a host",
    );
    check(
        "[receivers.a]\nwebhook = \"https://u:topsecret@x/y\"",
        "user:2:11: receivers.a.webhook: holds a password; write the whole address to a file, and point to that with \
         webhook-from",
    );
    check(
        "[receivers.a]\ncommand = [\"x\"]\nsecret = \"env:S\"",
        "user:3:10: receivers.a.secret: signs what is posted to a webhook, and there is none",
    );
    check(
        "[receivers.a]\ncommand = [\"x\"]\nprojects = [\"nope\"]",
        "user:3:12: receivers.a.projects: there is no section [projects.nope]",
    );
    check(
        "[receivers.a]\ncommand = [\"x\"]\non = \"failures\"",
        "user:3:6: receivers.a.on: must be one of all, success, failure; did you mean `failure`?",
    );
    check(
        "[notify]\nsmtp-host = \"mail.s.example\"\nsmtp-user = \"b\"\nsmtp-password = \"env:P\"\nsmtp-security = \"none\"",
        "user:5:17: notify.smtp-security: would show the password to the network; use `starttls` or `tls`",
    );
    check(
        "[notify]\nquiet = \"2h\"",
        "user:2:9: notify.quiet: 2h is outside 0s to 1h",
    );
}

#[test]
fn layouts_of_work_files() {
    check(
        "[workfiles]\nwork = \"{folder}/{job}\"",
        "user:2:8: workfiles.work: there is no {job}; known are folder, name, task, Task",
    );
    check(
        "[workfiles]\nwork = \"{folder}/work\"",
        "user:2:8: workfiles.work: lacks {task}",
    );
    check(
        "[workfiles]\npublish = \"pub/{folder}\"",
        "user:2:11: workfiles.publish: begins with something else than {folder}/",
    );
    check(
        "[workfiles]\nwork-file = \"{name_{version}.{ext}\"",
        "user:2:13: workfiles.work-file: has a brace that is not closed, or was not opened",
    );
    check(
        "[workfiles]\npublish-file = \"{version}/{name}.{ext}\"",
        "user:2:16: workfiles.publish-file: is the name of a file, and holds a `/`",
    );
}
