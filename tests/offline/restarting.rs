//! A daemon that is killed or restarted under the feet of people who use the drive.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::drive::{Builder, Drive, drive_test, mounts_at, say, within};
use crate::common::tree;

const MIB: u64 = 1 << 20;
/// How soon the drive works again.
const BACK: Duration = Duration::from_secs(5);

/// A shell that works in the drive: its folder is there, and a file of it is open.
struct Session {
    shell: Child,
    said: BufReader<ChildStdout>,
}

impl Session {
    fn begin(drive: &Drive) -> Self {
        let mut shell = Command::new("sh")
            .current_dir(drive.path("sq"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(shell.stdout.take().unwrap());
        let mut session = Self { shell, said };
        assert_eq!(session.run("exec 3<plate; head -c 10 <&3 | wc -c"), "10");
        session
    }

    /// Runs a line of shell and returns the last line it prints.
    fn run(&mut self, line: &str) -> String {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{line}; echo; echo END").unwrap();
        let mut last = String::new();
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the shell has ended");
            match line.trim() {
                "END" => return last,
                "" => {}
                other => last = other.to_owned(),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

fn drive() -> (tempfile::TempDir, Drive) {
    let site = tempfile::tempdir().unwrap();
    tree::write(&site.path().join("sq/plate"), 1, 4 * MIB);
    tree::write(&site.path().join("sq/other"), 2, 4 * MIB);
    let drive = Builder::local(site.path()).build().mounted();
    (site, drive)
}

fn works(drive: &Drive) {
    let path = drive.path("sq/other");
    let read = within(BACK, "a read of the drive that is back", move || {
        fs::read(path).unwrap()
    });
    assert_eq!((read.len() as u64, tree::first_wrong(2, 0, &read)), (4 * MIB, None));
}

fn goes_on(end: impl Fn(&mut Drive), what: &str) {
    let (_site, mut drive) = drive();
    let mut session = Session::begin(&drive);
    let held = File::open(drive.path("sq/plate")).unwrap();
    let mut cold = [0; 100];
    let begun = Instant::now();
    end(&mut drive);
    let ended = begun.elapsed();
    drive.mount();
    works(&drive);
    let back = begun.elapsed();
    say(&format!(
        "{what} with people at work: it ended after {ended:.2?}, new opens worked after {back:.2?}"
    ));
    assert!(back < BACK, "{back:?}");
    assert_eq!(mounts_at(drive.mount_point()), 1, "the old one is out of the way");
    // What was held is an error, soon, and no hang.
    let error = within(BACK, "a read through an old handle", move || {
        held.read_at(&mut cold, 3 * MIB)
    });
    assert!(error.is_err() || error.is_ok_and(|n| n > 0));
    // The session finds its way back by itself.
    let point = drive.path("sq").display().to_string();
    let said = within(BACK, "a shell in the old folder", move || {
        let there = session.run("cat <&3 >/dev/null 2>&1; echo \"read $?\"");
        assert!(there.starts_with("read "), "{there}");
        let there = session.run("ls plate >/dev/null 2>&1; echo \"ls $?\"");
        assert!(there.starts_with("ls "), "{there}");
        session.run(&format!("cd '{point}' && exec 3<plate && wc -c <&3"))
    });
    assert_eq!(said, (4 * MIB).to_string());
    drive.unmount();
}

#[test]
fn killed_it_is_back_within_seconds_although_people_are_in_it() {
    drive_test(|| goes_on(Drive::kill9, "killed"));
}

#[test]
fn restarted_it_is_back_within_seconds_although_people_are_in_it() {
    drive_test(|| {
        goes_on(
            |drive| {
                assert!(drive.terminate().success());
            },
            "stopped by SIGTERM",
        );
    });
}

#[test]
fn killed_while_readers_wait_they_get_an_error_and_the_next_daemon_serves() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sq/plate"), 1, 16 * MIB);
        tree::write(&site.path().join("sq/other"), 2, 4 * MIB);
        let mut drive = Builder::local(site.path())
            .site("link-rate", "2MB")
            .set("hydration.read-deadline", "30s")
            .build()
            .mounted();
        let path = drive.path("sq/plate");
        let waits = std::thread::spawn(move || fs::read(path));
        crate::common::drive::eventually("bytes arrive", || drive.fetched() > 0);
        drive.signal(Signal::KILL);
        drive.wait_end();
        let error = within(BACK, "the reader's end", move || waits.join().unwrap()).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
        drive.mount();
        works(&drive);
    });
}
