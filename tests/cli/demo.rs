//! `backlot demo`, as a newcomer meets it: it works, and it leaves nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::drive::{drive_test_within, eventually_within, run_within, wait_within};
use crate::home::{Home, Said};

/// The program is not optimised here, and paints pictures.
const LONG: Duration = Duration::from_secs(240);

fn left(home: &Home) -> Vec<std::ffi::OsString> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a table");
    assert!(
        !table.contains(home.path().to_str().expect("UTF-8")),
        "a mount is left: {table}"
    );
    fs::read_dir(home.path())
        .expect("read")
        .flatten()
        .map(|e| e.file_name())
        .collect()
}

#[test]
fn the_check_passes_also_beside_itself_and_leaves_nothing() {
    drive_test_within(LONG, || {
        let home = Home::new();
        let check = || {
            let said: Said = run_within(LONG, home.command().args(["demo", "--check"])).into();
            assert_eq!(said.err, "", "faults that are wanted are not complained about");
            let out = said.ok();
            let (last, steps) = out
                .lines()
                .collect::<Vec<_>>()
                .split_last()
                .map(|(l, s)| (*l, s.to_vec()))
                .expect("lines");
            assert!(steps.iter().all(|l| l.starts_with("ok    ")), "{out}");
            assert_eq!(last, format!("{} steps passed, 0 failed", steps.len()));
            for step in [
                "walk the tree",
                "read every file but one",
                "read one again",
                "list everything with the link cut",
                "read a cached file with the link cut",
                "read an uncached file with the link cut",
                "read that file now",
                "unmount",
            ] {
                assert!(steps.iter().any(|l| l[6..].starts_with(step)), "no step {step}: {out}");
            }
        };
        std::thread::scope(|both| {
            both.spawn(check);
            both.spawn(check);
        });
        assert_eq!(left(&home), Vec::<std::ffi::OsString>::new());
    });
}

fn start(home: &Home, args: &[&str]) -> Child {
    let mut command = home.command();
    command
        .arg("demo")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().expect("started")
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("ours");
}

#[test]
fn interrupted_while_it_paints_it_leaves_nothing() {
    drive_test_within(LONG, || {
        for args in [&[] as &[_], &["--check"]] {
            let home = Home::new();
            let mut demo = start(&home, args);
            eventually_within(LONG, "painting", || {
                let stage = fs::read_dir(home.path()).expect("read").flatten().next();
                stage.is_some_and(|s| s.path().join("remote/demo").exists())
            });
            signal(&demo, Signal::INT);
            let status = wait_within(&mut demo, LONG).expect("it ends");
            assert_eq!(status.code(), Some(4));
            assert_eq!(left(&home), Vec::<std::ffi::OsString>::new());
        }
    });
}

#[test]
fn interrupted_when_it_is_ready_it_unmounts_and_leaves_nothing() {
    drive_test_within(LONG, || {
        let home = Home::new();
        let mut demo = start(&home, &[]);
        let mut lines = BufReader::new(demo.stdout.take().expect("piped"))
            .lines()
            .map_while(Result::ok);
        let ready = lines
            .by_ref()
            .find(|l| l.starts_with("ready: "))
            .expect("it gets ready");
        let mount = ready.trim_start_matches("ready: ").to_owned();
        assert!(lines.any(|l| l.contains("Ctrl-C unmounts")), "it says how to end it");
        assert!(fs::read_dir(&mount).expect("mounted").count() > 0);
        // Somebody is in the drive and stays: it is taken away all the same, at the latest by a second signal.
        let held = fs::File::open(&mount).expect("opened");
        signal(&demo, Signal::INT);
        signal(&demo, Signal::INT);
        let status = wait_within(&mut demo, Duration::from_secs(60)).expect("it ends");
        assert_eq!(status.code(), Some(0));
        drop(held);
        assert_eq!(left(&home), Vec::<std::ffi::OsString>::new());
    });
}

#[test]
fn a_folder_that_will_not_do_is_told_with_what_to_do() {
    drive_test_within(LONG, || {
        let home = Home::new();
        home.run(["demo", "--check", "--dir", "none"])
            .failed(1, &["could not make a folder", "--dir DIR"]);
    });
}
