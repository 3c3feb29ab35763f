//! `backlot queue`, `wait` and `unmount`, and what `status`, `ls` and `doctor` tell of what is published.

use std::fs;
use std::path::Path;

use rustix::io::Errno;
use serde_json::Value;

use crate::common::drive::{Builder, Drive, SOON, drive_test, eventually, run_within};
use crate::home::Said;

/// A site with an empty publish folder, and a drive of it.
pub(crate) fn drive() -> (tempfile::TempDir, Drive) {
    let site = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(site.path().join("publish")).expect("made");
    fs::create_dir_all(site.path().join("work")).expect("made");
    let drive = Builder::local(site.path()).build().mounted();
    (site, drive)
}

pub(crate) fn run(drive: &Drive, args: &[&str]) -> Said {
    drive.run(args).into()
}

pub(crate) fn json(drive: &Drive, args: &[&str]) -> Value {
    let said = run(drive, &[args, &["--json"]].concat());
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:#?}"))
}

/// The word for a file, as `ls` tells it.
pub(crate) fn state(drive: &Drive, path: &str) -> String {
    let rows = drive.ls(path);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0]["state"].as_str().expect("a word").to_owned()
}

pub(crate) fn xattr(path: &Path, name: &str) -> Result<String, Errno> {
    let mut buffer = [0; 1024];
    let length = rustix::fs::getxattr(path, name, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn tasks(drive: &Drive) -> Vec<Value> {
    json(drive, &["queue", "ls"]).as_array().expect("rows").clone()
}

fn task(drive: &Drive, path: &str) -> Value {
    let tasks = tasks(drive);
    let found = tasks.iter().find(|task| task["path"] == path);
    found
        .unwrap_or_else(|| panic!("no task of {path} in {tasks:#?}"))
        .clone()
}

#[test]
fn what_is_saved_in_a_publish_folder_is_at_the_site_when_wait_returns() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let file = drive.path("publish/shot/a.1001.exr");
        fs::create_dir(drive.path("publish/shot")).expect("made");
        fs::write(&file, b"pixels").expect("written");
        assert_eq!(xattr(&file, "user.backlot.zone").as_deref(), Ok("publish"));
        let said = run(&drive, &["wait", "show/publish/shot/a.1001.exr"]).ok();
        assert_eq!(said, "all of it is at its site\n");
        assert_eq!(
            fs::read(site.path().join("publish/shot/a.1001.exr")).expect("there"),
            b"pixels"
        );
        assert_eq!(state(&drive, "show/publish/shot/a.1001.exr"), "cached");
        assert_eq!(xattr(&file, "user.backlot.error"), Err(Errno::NODATA));

        for n in 0..20 {
            fs::write(drive.path(format!("publish/shot/b.{n:04}.exr")), vec![n; 1000]).expect("written");
        }
        let report = json(&drive, &["wait", drive.path("publish").to_str().expect("UTF-8")]);
        assert_eq!(
            (&report["done"], &report["going"]["tasks"]),
            (&Value::from(true), &Value::from(0))
        );
        assert_eq!(
            fs::read_dir(site.path().join("publish/shot")).expect("there").count(),
            21
        );
        let publishing = &drive.status()["publishing"];
        assert_eq!(
            (&publishing["sent_files"], &publishing["pending"]["files"]),
            (&Value::from(21), &Value::from(0))
        );
        let text = drive.tell(["status"]);
        assert!(
            text.contains("everything made here is at its site; 21 files with"),
            "{text}"
        );
        drive.tell(["wait", "--all"]);
        drive.unmount();
    });
}

#[test]
fn waiting_for_what_stays_here_is_an_error_at_once() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let file = drive.path("work/scene.blend");
        fs::write(&file, b"work").expect("written");
        assert_eq!(state(&drive, "show/work/scene.blend"), "local");
        assert_eq!(xattr(&file, "user.backlot.zone").as_deref(), Ok("local"));
        run(&drive, &["wait", "show/work/scene.blend"]).failed(1, &["is in no publish zone", "move it there"]);
        run(&drive, &["wait", "show/publish/none"]).failed(1, &["show/publish/none: no such file"]);
        run(&drive, &["wait"]).failed(2, &["--all"]);
        let said = run(&drive, &["wait", "show/work"]);
        assert_eq!(said.code, Some(0));
        assert!(
            said.err
                .contains("in no publish zone, and so staying on this machine: 1 file"),
            "{said:#?}"
        );
        // Moved into a publish folder it is a publish.
        fs::rename(&file, drive.path("publish/scene.blend")).expect("moved");
        drive.tell(["wait", "show/publish/scene.blend"]);
        drive.unmount();
    });
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    drive_test(|| {
        use std::io::Write;
        let (_site, mut drive) = drive();
        let mut file = fs::File::create(drive.path("publish/a")).expect("made");
        file.write_all(b"begun").expect("written");
        assert_eq!(state(&drive, "show/publish/a"), "dirty");
        let report = json(&drive, &["wait", "--all", "--timeout", "1s"]);
        assert_eq!(
            (&report["done"], &report["going"]["tasks"]),
            (&Value::from(false), &Value::from(1))
        );
        run(&drive, &["wait", "show/publish/a", "--timeout", "1s"])
            .failed(1, &["the time is up; not at its site yet", "1 file with 5 B"]);
        drop(file);
        drive.tell(["wait", "show/publish/a"]);
        drive.unmount();
    });
}

#[test]
fn a_paused_queue_waits_and_goes_on() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let said = drive.tell(["queue", "pause"]);
        assert_eq!(said, "show: PAUSED, priority 500, nothing waits\n");
        fs::write(drive.path("publish/a"), vec![7; 2048]).expect("written");
        assert_eq!(state(&drive, "show/publish/a"), "queued");
        let said = drive.tell(["queue"]);
        assert!(said.contains("PAUSED, priority 500, 1 waiting (2.00 KiB)"), "{said}");
        assert!(
            said.lines()
                .any(|l| l.contains("waiting") && l.ends_with("2.00 KiB  show/publish/a")),
            "{said}"
        );
        let row = task(&drive, "show/publish/a");
        assert_eq!(
            (&row["what"], &row["state"]),
            (&Value::from("publish"), &Value::from("waiting"))
        );
        run(&drive, &["wait", "show/publish/a"]).failed(4, &["show/publish/a: paused: its queue is paused"]);
        let status = drive.tell(["status"]);
        assert!(
            status.contains("1 file with 2.00 KiB not at their site yet, the oldest changed"),
            "{status}"
        );
        assert!(status.contains("show: PAUSED"), "{status}");
        run(&drive, &["queue", "pause", "other"]).failed(1, &["there is no project other"]);
        assert!(!site.path().join("publish/a").exists());

        drive.tell(["queue", "resume", "show"]);
        drive.tell(["wait", "show/publish/a"]);
        assert!(site.path().join("publish/a").exists());
        drive.unmount();
    });
}

#[test]
fn a_pause_outlives_a_restart() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        drive.tell(["queue", "pause", "show"]);
        drive.tell(["queue", "set", "show", "--priority", "900"]);
        drive.remount();
        let said = drive.tell(["queue"]);
        assert_eq!(said, "show: PAUSED, priority 900 (set here), nothing waits\n");
        drive.tell(["queue", "set", "show", "--priority", "default"]);
        drive.tell(["queue", "resume"]);
        assert_eq!(drive.tell(["queue"]), "show: priority 500, nothing waits\n");
        run(&drive, &["queue", "set", "show", "--priority", "1001"]).failed(2, &["from 0 to 1000"]);
        drive.unmount();
    });
}

#[test]
fn what_needs_a_person_says_so_everywhere_and_is_tried_again_when_told() {
    drive_test(|| {
        let (site, mut drive) = drive();
        fs::create_dir(drive.path("publish/shot")).expect("made");
        // Where a folder has to be, somebody puts a file.
        fs::write(site.path().join("publish/shot"), b"in the way").expect("written");
        let file = drive.path("publish/shot/a");
        fs::write(&file, b"pixels").expect("written");
        eventually("the failure", || state(&drive, "show/publish/shot/a") == "failed");
        fs::write(drive.path("publish/b"), b"fine").expect("written");
        drive.tell(["wait", "show/publish/b"]);

        let row = task(&drive, "show/publish/shot/a");
        assert_eq!(row["state"], "blocked", "{row}");
        let why = row["error"].as_str().expect("a reason").to_owned();
        assert_eq!(xattr(&file, "user.backlot.error").as_ref(), Ok(&why));
        let said = run(&drive, &["wait", "--all"]);
        said.failed(4, &["show/publish/shot/a: blocked: ", &why]);
        let only = json(&drive, &["queue", "ls", "--state", "blocked", "--project", "show"]);
        assert_eq!(only.as_array().expect("rows").len(), 1);
        let none = json(&drive, &["queue", "ls", "--state", "waiting"]);
        assert_eq!(none.as_array().expect("rows").len(), 0);
        let status = drive.tell(["status"]);
        assert!(
            status.contains("1 failed task because ") && status.contains("(show/publish/shot/a)"),
            "{status}"
        );
        let doctor = run(&drive, &["doctor"]);
        assert_eq!(doctor.code, Some(1));
        assert!(
            doctor
                .out
                .contains("BAD  queue      in need of a person: 1 task of 1, the first: "),
            "{doctor:#?}"
        );

        fs::remove_file(site.path().join("publish/shot")).expect("removed");
        let said = drive.tell(["queue", "retry", "show/publish/shot"]);
        assert_eq!(said, "1 task tried again now\n");
        drive.tell(["wait", "--all"]);
        assert_eq!(fs::read(site.path().join("publish/shot/a")).expect("there"), b"pixels");
        run(&drive, &["queue", "retry", "show/publish/shot/a"]).failed(1, &["nothing of it is in the queue"]);
        run(&drive, &["queue", "retry", "4711"]).failed(1, &["there is no task 4711"]);
        drive.unmount();
    });
}

#[test]
fn tasks_are_held_let_go_and_taken_out_one_by_one() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let at_site = |name: &str| site.path().join("publish").join(name).exists();
        drive.tell(["queue", "pause"]);
        for name in ["a", "b", "c"] {
            fs::write(drive.path(format!("publish/{name}")), name).expect("written");
        }
        let id = |path: &str| task(&drive, path)["id"].to_string();
        let (a, b) = (id("show/publish/a"), id("show/publish/b"));
        assert_eq!(drive.tell(["queue", "hold", &a]), "1 task held back\n");
        let said = drive.tell(["queue", "cancel", &b]);
        assert!(
            said.starts_with("1 task taken out of the queue\n  files stay on this machine, as `local`"),
            "{said}"
        );
        drive.tell(["queue", "set", &a, "--priority", "7"]);
        assert_eq!(task(&drive, "show/publish/a")["priority"], 7);
        drive.tell(["queue", "resume"]);
        eventually("the third", || at_site("c"));
        assert_eq!(state(&drive, "show/publish/a"), "queued");
        assert_eq!(state(&drive, "show/publish/b"), "local");
        assert_eq!(fs::read(drive.path("publish/b")).expect("here"), b"b");
        let said = run(&drive, &["wait", "show/publish"]);
        said.failed(
            4,
            &[
                "stuck on the way to its site: 2 paths",
                "show/publish/a: held: ",
                "show/publish/b: cancelled: it was taken out",
            ],
        );

        assert_eq!(drive.tell(["queue", "release", "--all"]), "1 task let go\n");
        let said = drive.tell(["queue", "retry", "show/publish/b"]);
        assert!(said.starts_with("1 file put into the queue again\n"), "{said}");
        drive.tell(["wait", "show/publish"]);
        assert!(at_site("a") && at_site("b"));
        drive.unmount();
    });
}

#[test]
fn follow_prints_lines_until_nothing_moves() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        drive.tell(["queue", "pause"]);
        fs::write(drive.path("publish/a"), b"x").expect("written");
        assert_eq!(
            drive.tell(["queue", "--follow"]),
            "nothing is under way; stuck: 1 task\n"
        );
        drive.tell(["queue", "resume"]);
        let said = drive.tell(["queue", "ls", "--follow", "--json"]);
        let last: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
        assert_eq!(
            (&last["going"]["tasks"], &last["stuck"]),
            (&Value::from(0), &Value::from(0))
        );
        drive.tell(["wait", "--all"]);
        drive.unmount();
    });
}

#[test]
fn what_is_closed_while_it_is_being_unmounted_is_sent_as_well_or_told() {
    drive_test(|| {
        for (settle, is_sent) in [("200ms", true), ("10min", false)] {
            let site = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(site.path().join("publish")).expect("made");
            let mut drive = Builder::local(site.path())
                .set("publish.settle", settle)
                .env("BACKLOT_FAILPOINT", "unmount.drained:sleep:2000")
                .build()
                .mounted();
            let mut command = drive.command();
            command.args(["unmount", "--wait", "--timeout", "5s"]);
            let unmounting = std::thread::spawn(move || Said::from(run_within(SOON, &mut command)));
            eventually("all is sent", || drive.log().contains("unmount.drained"));
            fs::write(drive.path("publish/late"), vec![1; 4096]).expect("written");
            let said = unmounting.join().expect("no panic");
            assert!(said.out.starts_with("unmounted "), "{said:#?}");
            drive.wait_end();
            let sent = fs::read(site.path().join("publish/late"));
            if is_sent {
                assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:#?}");
                assert_eq!(sent.expect("there").len(), 4096);
            } else {
                assert_eq!(said.code, Some(4), "{said:#?}");
                assert!(said.err.contains("not at its site yet: 1 file"), "{said:#?}");
                assert!(sent.is_err());
            }
        }
    });
}

#[test]
fn unmount_says_what_is_left_and_waits_when_told() {
    drive_test(|| {
        let (site, mut drive) = drive();
        let unmounted = |drive: &Drive| format!("unmounted {}\n", drive.mount_point().display());
        drive.tell(["queue", "pause"]);
        fs::write(drive.path("publish/a"), vec![1; 4096]).expect("written");
        let said = run(&drive, &["unmount", "--wait"]);
        said.failed(4, &["show/publish/a: paused", "it stays mounted"]);
        let said = run(&drive, &["unmount"]);
        assert_eq!((said.code, &said.out), (Some(0), &unmounted(&drive)), "{said:#?}");
        assert_eq!(
            said.err,
            "not at its site yet: 1 file with 4.00 KiB; how long it would take is unknown\n  \
             nothing is lost: it stays on this machine, and the queue goes on at the next `backlot mount`\n  \
             of those, 1 file will not go by itself: `backlot queue ls` says why\n"
        );
        drive.wait_end();
        assert!(
            drive.log().contains("the queue goes on at the next start"),
            "{}",
            drive.log()
        );

        drive.mount();
        let said = run(&drive, &["unmount", "--leave"]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:#?}");
        drive.wait_end();
        assert!(!site.path().join("publish/a").exists());

        drive.mount();
        drive.tell(["queue", "resume"]);
        let said = run(&drive, &["unmount", "--wait", "--timeout", "1min"]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:#?}");
        drive.wait_end();
        assert_eq!(fs::read(site.path().join("publish/a")).expect("there").len(), 4096);
        run(&drive, &["unmount", "--wait"]).failed(3, &["no daemon that could send"]);
        run(&drive, &["unmount", "--timeout", "1s"]).failed(2, &["--wait"]);
    });
}

#[test]
fn a_refusal_is_shown_by_status() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        fs::write(drive.path("publish/a"), b"x").expect("written");
        drive.tell(["wait", "--all"]);
        let refused = fs::remove_file(drive.path("publish/a")).expect_err("it is published");
        assert_eq!(refused.raw_os_error(), Some(Errno::PERM.raw_os_error()));
        let status = drive.tell(["status"]);
        assert!(
            status.contains("refused show/publish/a: it is at the remote site"),
            "{status}"
        );
        drive.unmount();
    });
}

#[test]
fn the_api_answers_what_it_can_not_do_with_a_problem() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let ask = |route: &str, body: &str| {
            let socket = drive.data_dir().join("backlot.sock");
            let mut command = std::process::Command::new("curl");
            command.args([
                "-s",
                "-H",
                "content-type: application/json",
                "-d",
                body,
                "--unix-socket",
            ]);
            command.arg(socket).arg(format!("http://backlot/v1/{route}"));
            let said: Said = run_within(SOON, &mut command).into();
            serde_json::from_str::<Value>(&said.ok()).expect("JSON")
        };
        if crate::common::drive::find_program("curl").is_none() {
            crate::common::drive::say("SKIPPED: curl (not found)");
        } else {
            for (route, body, kind) in [
                ("tasks/retry", r#"{"tasks":[99]}"#, "not-found"),
                ("tasks/retry", "{}", "bad-request"),
                ("tasks/hold", r#"{"paths":["show/.."]}"#, "bad-path"),
                ("tasks/hold", r#"{"path":["show"]}"#, "unknown-field"),
                (
                    "queues/priority",
                    r#"{"project":"show","priority":2000}"#,
                    "bad-request",
                ),
                ("queues/pause", r#"{"project":"none"}"#, "not-found"),
                (
                    "conflicts/resolve",
                    r#"{"paths":["show/publish"],"keep":"mine"}"#,
                    "not-found",
                ),
                ("wait", r#"{"paths":["show/none"]}"#, "not-found"),
                ("unmount", r#"{"wait":true,"leave":true}"#, "bad-request"),
            ] {
                assert_eq!(ask(route, body)["kind"], kind, "{route} {body}");
            }
        }
        drive.unmount();
    });
}
