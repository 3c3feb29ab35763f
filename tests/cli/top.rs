//! `backlot top`: figures in a pipe, and a terminal that is as it was.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test, find_program, say, wait_within};

fn drive(site: &std::path::Path) -> Drive {
    fs::write(site.join("plate.exr"), vec![7; 3_000_000]).expect("written");
    Builder::local(site).build().mounted()
}

#[test]
fn in_a_pipe_it_says_once_what_goes_on() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let drive = drive(site.path());
        let said = drive.tell(["top"]);
        assert!(said.contains("who reads") && said.contains("site "), "{said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
        let reading = std::thread::spawn({
            let path = drive.path("plate.exr");
            move || {
                std::thread::park_timeout(Duration::from_millis(300));
                fs::read(path).expect("read").len()
            }
        });
        let told: Value = serde_json::from_str(&drive.tell(["top", "--once", "--json"])).expect("JSON");
        assert_eq!(reading.join().expect("read"), 3_000_000);
        assert_eq!(told["sites"][0]["name"], "site");
        assert!(
            told["download_bytes_per_second"].is_u64() && told["seconds"].as_f64().is_some_and(|s| s > 0.5),
            "{told}"
        );
        // Without --once: a line at a time, until nobody reads any more.
        let mut lines = drive.command();
        let mut child = lines
            .args(["top", "--json", "--interval", "100ms"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        for _ in 0..3 {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut out, &mut line).expect("read");
            let now: Value = serde_json::from_str(&line).expect("a line is a value");
            assert_eq!(now["pending_files"], 0);
        }
        drop(out);
        let ended = wait_within(&mut child, Duration::from_secs(20)).expect("it ends with its reader");
        assert!(ended.success(), "{ended}");
        let mut drive = drive;
        drive.unmount();
        assert_eq!(drive.refused(["top", "--once"]).code, Some(3));
    });
}

#[test]
fn on_a_terminal_it_ends_with_q_or_ctrl_c_and_leaves_the_terminal_as_it_was() {
    drive_test(|| {
        let Some(script) = find_program("script") else {
            say("SKIPPED: tools (no script)");
            return;
        };
        let site = tempfile::tempdir().expect("a folder");
        let drive = drive(site.path());
        for key in ["q", "\u{3}"] {
            let inner = format!(
                "stty -a > before; {} --config {} top --interval 100ms; echo ended $?; stty -a > after",
                env!("CARGO_BIN_EXE_backlot"),
                drive.settings().display()
            );
            let dir = tempfile::tempdir().expect("a folder");
            let mut child = Command::new(&script)
                .args(["-qfec", &inner, "/dev/null"])
                .current_dir(dir.path())
                .env("TERM", "xterm")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("started");
            let mut out = child.stdout.take().expect("piped");
            let mut said = Vec::new();
            let mut some = [0; 4096];
            // It shows something before it is told to end.
            while !String::from_utf8_lossy(&said).contains("who reads") {
                let length = out.read(&mut some).expect("read");
                assert!(length > 0, "it ended by itself: {}", String::from_utf8_lossy(&said));
                said.extend_from_slice(&some[..length]);
            }
            let mut keys = child.stdin.take().expect("piped");
            keys.write_all(key.as_bytes()).expect("pressed");
            keys.flush().expect("pressed");
            let mut rest = Vec::new();
            out.read_to_end(&mut rest).expect("read");
            said.extend(rest);
            assert!(
                wait_within(&mut child, Duration::from_secs(20))
                    .expect("ends")
                    .success()
            );
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("ended 0"), "{said}");
            let (in_at, out_at) = (said.find("\u{1b}[?1049h"), said.rfind("\u{1b}[?1049l"));
            assert!(
                in_at.is_some() && in_at < out_at,
                "the other screen is left again: {said:?}"
            );
            assert!(
                said.rfind("\u{1b}[?25h") > said.rfind("\u{1b}[?25l"),
                "the cursor is shown again: {said:?}"
            );
            let stty = |file: &str| fs::read_to_string(dir.path().join(file)).expect("written");
            assert_eq!(stty("before"), stty("after"));
        }
    });
}
