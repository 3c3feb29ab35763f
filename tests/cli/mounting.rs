//! Mounting, unmounting, and asking about it, in good order and in bad.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::drive::{Builder, Drive, drive_test, find_program, is_root, mounts_at, run_within, say};
use crate::home::Said;

/// A drive on a local site with one file.
fn drive() -> (tempfile::TempDir, Drive) {
    let site = tempfile::tempdir().expect("a folder");
    fs::write(site.path().join("plate.exr"), vec![7; 200_000]).expect("written");
    let drive = Builder::local(site.path()).build();
    drive.scan();
    (site, drive)
}

/// Ends a daemon that nobody but the test knows of.
struct Background<'a>(&'a Drive);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        drop(self.0.run(["unmount", "--lazy"]));
    }
}

#[test]
fn status_without_a_daemon_says_so_at_once() {
    let (_site, drive) = drive();
    let begun = Instant::now();
    let refused = drive.refused(["status"]);
    assert_eq!(refused.code, Some(3));
    assert!(
        refused.said.contains("the daemon is not running") && refused.said.contains("`backlot mount`"),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(drive.refused(["ls"]).code, Some(3));
    let refused = drive.refused(["unmount"]);
    assert_eq!(refused.code, Some(3));
    assert!(refused.said.contains("nothing is mounted at"), "{refused:?}");
}

#[test]
fn a_mount_point_that_will_not_do_is_told_with_what_to_do() {
    drive_test(|| {
        let (_site, drive) = drive();
        fs::write(drive.mount_point().join("left.txt"), b"x").expect("written");
        let point = drive.mount_point().to_str().expect("UTF-8");
        let refuses = |at: &[&str], says: &[&str]| {
            for daemon in [&[] as &[&str], &["--daemon"]] {
                let refused = drive.refused([&["mount"], at, daemon].concat());
                assert_eq!(refused.code, Some(1), "{refused:?}");
                for wanted in says {
                    assert!(refused.said.contains(wanted), "not said: {wanted}\n{refused:?}");
                }
            }
            assert!(
                !drive.data_dir().join("backlot.sock").exists(),
                "a failed start leaves no socket"
            );
        };
        refuses(&[], &[point, "the folder is not empty", "choose an empty folder"]);
        refuses(&[&format!("{point}/left.txt")], &["it is not a folder"]);
        refuses(&[&format!("{point}/none")], &["there is no such folder", "mkdir -p"]);
        assert_eq!(mounts_at(drive.mount_point()), 0);
    });
}

#[test]
fn a_folder_that_another_drive_is_mounted_on_is_refused() {
    drive_test(|| {
        let (_site, mut one) = drive();
        let (_site, two) = drive();
        one.mount();
        let refused = two.refused(["mount".as_ref(), one.mount_point().as_os_str()]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.said.contains("is mounted there already") && refused.said.contains("umount"),
            "{refused:?}"
        );
        assert_eq!(mounts_at(one.mount_point()), 1);
        one.status();
        one.unmount();
    });
}

#[test]
fn a_drive_in_the_background_is_there_when_mount_returns_and_gone_when_unmount_does() {
    drive_test(|| {
        let (_site, drive) = drive();
        let _ends = Background(&drive);
        // Three times in a row: neither verb leaves anything behind that the other could stumble over.
        for _ in 0..3 {
            let said = drive.tell(["mount", "--daemon"]);
            assert!(
                said.starts_with(&format!("ready: {} (pid ", drive.mount_point().display())),
                "{said}"
            );
            assert_eq!(fs::read(drive.path("plate.exr")).expect("read").len(), 200_000);
            assert_eq!(
                drive.status()["mount_point"],
                drive.mount_point().to_str().expect("UTF-8")
            );
            drive.tell(["unmount"]);
            assert_eq!(mounts_at(drive.mount_point()), 0);
            assert_eq!(drive.refused(["status"]).code, Some(3));
        }
        let log = drive.data_dir().join("backlot.log");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log).expect("a log").permissions());
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn a_drive_in_use_says_who_uses_it_and_lazy_takes_it_away() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        drive.mount();
        let held = fs::File::open(drive.path("plate.exr")).expect("opened");
        let refused = drive.refused(["unmount"]);
        assert_eq!(refused.code, Some(1));
        let me = format!("(pid {}): ", std::process::id());
        assert!(
            refused.said.contains("the drive is in use") && refused.said.contains(&me),
            "{refused:?}"
        );
        assert!(
            refused.said.contains("plate.exr") && refused.said.contains("--lazy"),
            "{refused:?}"
        );
        assert_eq!(mounts_at(drive.mount_point()), 1, "a refusal changes nothing");

        drive.tell(["unmount", "--lazy"]);
        assert_eq!(mounts_at(drive.mount_point()), 0);
        assert!(drive.wait_end().success());
        drop(held);
        drive.mount();
        drive.unmount();
    });
}

#[test]
fn whoever_unmounts_from_within_is_not_in_the_way() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        drive.mount();
        let said: Said = run_within(
            Duration::from_secs(20),
            drive.command().arg("unmount").current_dir(drive.project()),
        )
        .into();
        said.ok();
        assert!(drive.wait_end().success());
    });
}

#[test]
fn a_dead_mount_is_told_and_cleared_by_unmount_and_by_mount() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        for by_mount in [false, true] {
            drive.mount();
            drive.kill9();
            let found = fs::metadata(drive.mount_point()).expect_err("nobody answers");
            assert_eq!(
                found.raw_os_error(),
                Some(rustix::io::Errno::NOTCONN.raw_os_error()),
                "the fault did not fire"
            );
            assert_eq!(drive.refused(["status"]).code, Some(3));
            let doctor: Said = drive.run(["doctor"]).into();
            assert_eq!(doctor.code, Some(1));
            assert!(doctor.out.contains("is a mount whose daemon died"), "{doctor:#?}");
            if by_mount {
                drive.mount();
                drive.unmount();
            } else {
                drive.tell(["unmount"]);
                assert_eq!(mounts_at(drive.mount_point()), 0);
            }
        }
    });
}

#[test]
fn a_daemon_that_hangs_is_told_in_seconds_and_lazy_does_without_it() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        drive.mount();
        drive.signal(Signal::STOP);
        let timed = |args: &[&str]| -> Said {
            let begun = Instant::now();
            let said = drive.run(args).into();
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{args:?} took {:?}",
                begun.elapsed()
            );
            said
        };
        let pid = format!("(pid {})", drive.pid());
        let doctor = timed(&["doctor"]);
        assert_eq!(doctor.code, Some(1));
        assert!(
            doctor.out.contains("BAD  daemon") && doctor.out.contains(&pid),
            "{doctor:#?}"
        );
        assert!(
            doctor.out.contains("ok   store") && doctor.out.contains("ok   site"),
            "{doctor:#?}"
        );
        assert!(doctor.out.contains("`backlot abort --kill`"), "{doctor:#?}");
        timed(&["status"]).failed(
            1,
            &[&pid, "did not answer within", "`backlot doctor`", "`backlot abort`"],
        );
        timed(&["status", "--json"]).failed(1, &[&pid, "did not answer within"]);
        timed(&["unmount"]).failed(1, &[&pid, "does not answer", "--lazy"]);
        assert_eq!(mounts_at(drive.mount_point()), 1);

        let waits = {
            let file = drive.path("plate.exr");
            std::thread::spawn(move || fs::read(file))
        };
        timed(&["unmount", "--lazy"]).failed(4, &[&pid, "still hangs"]);
        assert_eq!(mounts_at(drive.mount_point()), 0);
        crate::common::drive::within(
            Duration::from_secs(20),
            "a reader of the drive that is gone",
            move || {
                assert!(waits.join().expect("no panic").is_err(), "nobody could have answered");
            },
        );
        drive.signal(Signal::CONT);
        drive.wait_end();
        drive.mount();
        drive.unmount();
    });
}

#[test]
fn without_the_fuse_device_the_reason_is_said() {
    drive_test(|| {
        if !is_root() || find_program("unshare").is_none() {
            say("SKIPPED: no-device (needs root and unshare)");
            return;
        }
        let (_site, drive) = drive();
        let program = drive.command();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" \"$@\""]);
        command.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("mount");
        let said: Said = run_within(Duration::from_secs(20), &mut command).into();
        said.failed(1, &["there is no /dev/fuse", "modprobe fuse"]);
    });
}

#[test]
fn a_user_who_may_not_open_the_fuse_device_is_told() {
    drive_test(|| {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata("/dev/fuse").expect("there").permissions());
        if !is_root() || mode & 0o006 == 0o006 {
            say("SKIPPED: no-permission (needs root, and a /dev/fuse that is not for everybody)");
            return;
        }
        let site = tempfile::tempdir().expect("a folder");
        let drive = Builder::local(site.path()).user(65_534).build();
        let refused = drive.refused(["mount"]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.said.contains("/dev/fuse may not be opened") && refused.said.contains("chmod 666"),
            "{refused:?}"
        );
        let doctor: Said = drive.run(["doctor"]).into();
        assert!(
            doctor
                .out
                .contains("BAD  fuse       cannot mount: /dev/fuse may not be opened"),
            "{doctor:#?}"
        );
    });
}
