//! `backlot ls` and `backlot status`: what they show, to people and to programs.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test, eventually, run_within, wait_within};
use crate::home::Said;

const SIZE: usize = 300_000;

fn drive() -> (tempfile::TempDir, Drive) {
    let site = tempfile::tempdir().expect("a folder");
    fs::create_dir(site.path().join("sq010")).expect("made");
    fs::write(site.path().join("sq010/plate.exr"), vec![7; SIZE]).expect("written");
    fs::write(site.path().join("sq010/empty.txt"), b"").expect("written");
    fs::write(site.path().join("sq010/red\u{1b}[31m\nname"), b"x").expect("written");
    fs::write(
        site.path().join(std::ffi::OsStr::from_bytes(b"sq010/caf\xe9.txt")),
        b"x",
    )
    .expect("written");
    std::os::unix::fs::symlink("plate.exr", site.path().join("sq010/latest")).expect("linked");
    let drive = Builder::local(site.path()).build().mounted();
    (site, drive)
}

fn row(drive: &Drive, name: &str) -> Value {
    let rows = drive.ls("show/sq010");
    rows.into_iter()
        .find(|r| r["name"] == name)
        .unwrap_or_else(|| panic!("no row {name}"))
}

#[test]
fn the_rows_have_a_fixed_shape_and_follow_what_is_here() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let plate = row(&drive, "plate.exr");
        let keys: Vec<_> = plate
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                "cached_bytes",
                "cookie",
                "kind",
                "mtime_ns",
                "name",
                "pinned",
                "size",
                "state"
            ]
        );
        assert_eq!(
            (&plate["kind"], &plate["size"]),
            (&Value::from("file"), &Value::from(SIZE))
        );
        assert_eq!(
            (&plate["state"], &plate["cached_bytes"]),
            (&Value::from("online"), &Value::from(0))
        );
        assert_eq!(row(&drive, "latest")["kind"], "symlink");
        let folder = drive.ls("show").remove(0);
        assert_eq!((&folder["kind"], &folder["state"]), (&Value::from("dir"), &Value::Null));

        fs::read(drive.path("sq010/plate.exr")).expect("read");
        eventually("the cached file", || row(&drive, "plate.exr")["state"] == "cached");
        assert_eq!(row(&drive, "plate.exr")["cached_bytes"], SIZE);
        let text = drive.tell(["ls", "show/sq010"]);
        let line = text.lines().find(|l| l.ends_with(" plate.exr")).expect("a line");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["cached", "292.97", "KiB", "100%", "plate.exr"]
        );
        drive.unmount();
    });
}

#[test]
fn names_are_shown_without_driving_the_terminal() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let text = drive.tell(["ls", "show/sq010"]);
        assert!(
            !text.contains('\u{1b}') && text.contains("red\\u{1b}[31m\\nname"),
            "{text:?}"
        );
        assert_eq!(text.lines().count(), 5, "one line each: {text:?}");
        drive.unmount();
    });
}

#[test]
fn paths_mean_what_they_mean_in_a_shell() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let whole = drive.ls("show/sq010");
        let within = |dir: &std::path::Path, args: &[&str]| -> Said {
            let mut command = drive.command();
            command.args(["ls", "--json"]).args(args).current_dir(dir);
            run_within(Duration::from_secs(20), &mut command).into()
        };
        let same = |said: Said| assert_eq!(serde_json::from_str::<Vec<Value>>(&said.ok()).expect("JSON"), whole);
        same(within(&drive.path("sq010"), &[]));
        same(within(&drive.path("sq010"), &["."]));
        same(within(&drive.project(), &["sq010/"]));
        same(within(&drive.path("sq010"), &["../sq010"]));
        same(within("/".as_ref(), &[drive.path("sq010").to_str().expect("UTF-8")]));
        within(&drive.path("sq010"), &["../../.."]).failed(2, &["is not on the drive"]);
        within("/".as_ref(), &["/etc"]).failed(2, &["/etc is not on the drive, which is mounted at"]);
        within("/".as_ref(), &["show/none"]).failed(1, &["show/none: no such file or folder"]);

        let mut command = drive.command();
        command
            .arg("ls")
            .arg(std::ffi::OsStr::from_bytes(b"show/sq010/caf\xe9.txt"));
        let said: Said = run_within(Duration::from_secs(20), &mut command).into();
        said.failed(2, &["is not UTF-8"]);
        drive.unmount();
    });
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        for n in 0..3000 {
            fs::write(
                site.path()
                    .join(format!("a_rather_long_name_of_a_plate_v001.{n:04}.exr")),
                b"",
            )
            .expect("written");
        }
        let mut drive = Builder::local(site.path()).build().mounted();
        let mut command = drive.command();
        command
            .args(["ls", "show"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let mut out = child.stdout.take().expect("piped");
        out.read_exact(&mut [0; 10]).expect("it begins");
        drop(out);
        let status = wait_within(&mut child, Duration::from_secs(20)).expect("it ends");
        let mut said = String::new();
        child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut said)
            .expect("UTF-8");
        assert!(status.success() && said.is_empty(), "{status}: {said}");
        drive.unmount();
    });
}

#[test]
fn status_tells_people_and_programs_the_same() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        fs::read(drive.path("sq010/plate.exr")).expect("read");
        let status = drive.status();
        assert_eq!(
            (&status["files"], &status["pid"]),
            (&Value::from(4), &Value::from(drive.pid()))
        );
        assert_eq!(status["sites"][0]["link"], "up");
        assert!(drive.fetched() >= SIZE as u64);
        let text = drive.tell(["status"]);
        for wanted in [
            format!("(pid {}, up for", drive.pid()),
            "4 of them files".to_owned(),
            "from site, scanned ".to_owned(),
        ] {
            assert!(text.contains(&wanted), "not shown: {wanted}\n{text}");
        }
        drive.unmount();
    });
}
