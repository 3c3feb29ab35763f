//! Mounting as an ordinary user, and where FUSE is not to be had.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::fs::{CWD, Dev, FileType, Mode, chmod, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::common::drive::{
    Builder, Drive, SOON, drive_test, eventually, find_program, is_root, mounts_at, run_within, say,
};
use crate::common::tree;

/// An ordinary user: `nobody`.
const NOBODY: u32 = 65534;

/// Only root can become somebody else and show a process another /dev.
fn can_not_become_nobody() -> bool {
    let can = is_root() && find_program("fusermount3").is_some();
    if !can {
        say("SKIPPED: root (becoming an ordinary user takes root, and fusermount3)");
    }
    !can
}

/// A drive of `nobody`'s, and a copy of the program where `nobody` may run it.
fn drive_of_nobody(site: &Path) -> Drive {
    fs::set_permissions(site, fs::Permissions::from_mode(0o755)).unwrap();
    Builder::local(site).user(NOBODY).build()
}

/// Gives this thread, and what it starts, a table of mounts of its own.
#[expect(unsafe_code, reason = "leaving the mount namespace")]
fn leave_namespace() {
    // SAFETY: only this thread leaves the shared namespace and the shared working folder; no file table is split.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
}

fn make_device(at: &Path, device: Dev, mode: u32) {
    mknodat(CWD, at, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device).unwrap();
    chmod(at, Mode::from_raw_mode(mode)).unwrap();
}

/// Sees to it that everybody may open /dev/fuse: fusermount3 opens it as the user who asks, and most distributions let them.
fn device_for_nobody(drive: &Drive) {
    let device = rustix::fs::stat("/dev/fuse").unwrap();
    if device.st_mode & 0o006 != 0o006 {
        leave_namespace();
        make_device(&drive.dir().join("fuse"), device.st_rdev, 0o666);
        mount_bind(drive.dir().join("fuse"), "/dev/fuse").unwrap();
    }
}

fn as_nobody(command: &mut Command) -> Output {
    run_within(SOON, command.uid(NOBODY).gid(NOBODY).current_dir("/"))
}

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts_and_keeps_others_out() {
    drive_test(|| {
        if can_not_become_nobody() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("sh010/a"), 1, 3_000_000);
        let mut drive = drive_of_nobody(site.path());
        device_for_nobody(&drive);
        drive.scan();
        drive.mount();
        let read = as_nobody(Command::new("cat").arg(drive.path("sh010/a")));
        assert!(read.status.success(), "{read:?}");
        assert_eq!(
            (read.stdout.len(), tree::first_wrong(1, 0, &read.stdout)),
            (3_000_000, None)
        );
        let root = fs::read(drive.path("sh010/a")).unwrap_err();
        assert_eq!(
            root.kind(),
            std::io::ErrorKind::PermissionDenied,
            "the drive is its owner's"
        );
        assert_eq!(drive.fetched(), 3_000_000);
        drive.unmount();
        assert_eq!(mounts_at(drive.mount_point()), 0);
        drive.mount();
        drive.kill9();
        assert_eq!(mounts_at(drive.mount_point()), 1);
        drive.mount();
        assert_eq!(mounts_at(drive.mount_point()), 1, "the dead mount was cleared");
        assert!(drive.terminate().success());
        assert_eq!(mounts_at(drive.mount_point()), 0);
    });
}

#[test]
fn an_ordinary_user_aborts_a_drive_of_their_own_and_nobody_elses() {
    drive_test(|| {
        if can_not_become_nobody() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("cold"), 1, 4_000_000);
        let mut drive = drive_of_nobody(site.path());
        device_for_nobody(&drive);
        drive.scan();
        drive.mount();
        drive.signal(Signal::STOP);
        let path = drive.path("cold");
        let cat = std::thread::spawn(move || as_nobody(Command::new("cat").arg(path)));
        eventually("it hangs", || {
            drive.run(["doctor"]).stdout.windows(8).any(|w| w == b"requests")
        });
        drive.tell(["abort", "--kill"]);
        assert!(!cat.join().unwrap().status.success(), "the reader is free");
        assert_eq!(mounts_at(drive.mount_point()), 0);
        drive.wait_end();

        let mut other = Builder::local(site.path()).build().mounted();
        let out = run_within(SOON, drive.command().arg("abort").arg(other.mount_point()));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("could not abort"), "{said}");
        assert_eq!(mounts_at(other.mount_point()), 1);
        other.unmount();
    });
}

#[test]
fn root_aborts_a_users_drive_that_hangs_and_leaves_one_that_answers() {
    drive_test(|| {
        if can_not_become_nobody() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("cold"), 1, 4_000_000);
        let mut drive = drive_of_nobody(site.path());
        device_for_nobody(&drive);
        drive.scan();
        drive.mount();
        let roots = Builder::local(site.path()).build();
        let mount_point = drive.mount_point().to_owned();
        let abort = || run_within(SOON, roots.command().arg("abort").arg(&mount_point));
        // Root is not let in, and so the kernel would answer it for any daemon.
        let out = abort();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && said.contains("does not hang"), "{said}");
        assert_eq!(mounts_at(drive.mount_point()), 1);
        drive.signal(Signal::STOP);
        let path = drive.path("cold");
        let cat = std::thread::spawn(move || as_nobody(Command::new("cat").arg(path)));
        let out = abort();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(!cat.join().unwrap().status.success(), "the reader is free");
        assert_eq!(mounts_at(drive.mount_point()), 0);
        drive.kill9();

        drive.mount();
        drive.kill9();
        let out = abort();
        assert!(
            out.status.success(),
            "a dead one: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert_eq!(mounts_at(drive.mount_point()), 0);
    });
}

/// Shows this thread, and what it starts, a /dev with nothing but what programs can't do without.
fn bare_dev() {
    let device = |name: &str| rustix::fs::stat(name).unwrap().st_rdev;
    let kept = ["/dev/null", "/dev/zero", "/dev/urandom"].map(|name| (name, device(name)));
    leave_namespace();
    mount("none", "/dev", "tmpfs", MountFlags::NOSUID, Some(c"size=64k,mode=755")).unwrap();
    for (name, device) in kept {
        make_device(Path::new(name), device, 0o666);
    }
}

#[test]
fn without_a_fuse_device_it_says_so_and_what_to_do() {
    drive_test(|| {
        if can_not_become_nobody() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a"), 1, 10);
        let drive = Builder::local(site.path()).build();
        bare_dev();
        assert!(!Path::new("/dev/fuse").exists(), "the fault fired");
        let refused = drive.refused(["mount"]);
        assert!(
            refused.said.contains("no /dev/fuse") && refused.said.contains("modprobe fuse"),
            "{refused:?}"
        );
        assert_eq!(refused.code, Some(1));
        let doctor = drive.run(["doctor"]);
        assert!(
            !doctor.status.success() && String::from_utf8_lossy(&doctor.stdout).contains("/dev/fuse"),
            "{doctor:?}"
        );
        // What needs no mount works.
        drive.scan();
    });
}

#[test]
fn without_leave_to_use_fuse_it_says_so_and_what_to_do() {
    drive_test(|| {
        if can_not_become_nobody() {
            return;
        }
        let site = tempfile::tempdir().unwrap();
        tree::write(&site.path().join("a"), 1, 10);
        let drive = drive_of_nobody(site.path());
        let device = rustix::fs::stat("/dev/fuse").unwrap().st_rdev;
        bare_dev();
        make_device(Path::new("/dev/fuse"), device, 0o600);
        let refused = drive.refused(["mount"]);
        assert!(
            refused.said.contains("/dev/fuse may not be opened") && refused.said.contains("chmod"),
            "{refused:?}"
        );
        assert_eq!(refused.code, Some(1));
    });
}

/// What others do with a drive of root's in a shell, `$0` being the folder of its project.
fn nobody_does(drive: &Drive, script: &str) -> Result<String, String> {
    let out = as_nobody(Command::new("sh").args(["-ec", script]).arg(drive.project()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match out.status.success() {
        true => Ok(text(&out.stdout)),
        false => Err(text(&out.stderr)),
    }
}

#[test]
fn others_save_into_a_drive_of_roots_where_the_settings_let_them() {
    drive_test(|| {
        if !is_root() {
            say("SKIPPED: root (a drive of the whole machine is root's)");
            return;
        }
        let nobodys_group = NOBODY.to_string();
        let group: &[(&str, &str)] = &[("drive.group", &nobodys_group), ("drive.umask", "002")];
        let owner: &[(&str, &str)] = &[("drive.owner", "nobody")];
        for (settings, may_save) in [(&[] as &[_], false), (group, true), (owner, true)] {
            let site = tempfile::tempdir().unwrap();
            tree::write(&site.path().join("publish/plate"), 1, 100_000);
            fs::set_permissions(site.path().join("publish"), fs::Permissions::from_mode(0o755)).unwrap();
            let builder = Builder::local(site.path()).set("drive.allow-other", true);
            let set = |builder: Builder, (key, value): &(&str, &str)| builder.set(key, *value);
            let mut drive = settings.iter().fold(builder, set).build().mounted();
            for made in ["scene.ma", "publish/new", "publish/plate"] {
                let done = nobody_does(
                    &drive,
                    &format!("echo one >$0/{made}; echo two >>$0/{made}; cat $0/{made}"),
                );
                match done {
                    Ok(read) => assert!(may_save && read == "one\ntwo", "{made}: {read}"),
                    Err(why) => assert!(!may_save && why.contains("ermission denied"), "{made}: {why}"),
                }
            }
            if may_save {
                let made = fs::metadata(drive.path("publish/new")).unwrap();
                assert_eq!((made.uid(), made.gid()), (NOBODY, NOBODY), "it belongs to who made it");
                drive.tell(["wait", "--all"]);
                for sent in ["publish/new", "publish/plate"] {
                    assert_eq!(fs::read(site.path().join(sent)).unwrap(), b"one\ntwo\n");
                }
                // Also once it is the site's again.
                nobody_does(&drive, "echo three >$0/publish/plate").unwrap();
            }
            drive.unmount();
        }
    });
}

#[test]
fn bits_that_somebody_sets_stand_above_those_of_the_settings() {
    drive_test(|| {
        if !is_root() {
            say("SKIPPED: root (a drive of the whole machine is root's)");
            return;
        }
        let site = tempfile::tempdir().unwrap();
        for name in ["plate", "tool"] {
            tree::write(&site.path().join(name), 1, 1000);
        }
        fs::set_permissions(site.path().join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut drive = Builder::local(site.path())
            .set("drive.allow-other", true)
            .set("drive.owner", "nobody")
            .set("drive.umask", "027")
            .build()
            .mounted();
        let said = nobody_does(
            &drive,
            "stat -c %a $0 $0/.. $0/plate $0/tool; chmod 600 $0/plate; stat -c '%a %u' $0/plate",
        );
        assert_eq!(said.unwrap(), "750\n750\n640\n750\n600 65534");
        drive.remount();
        assert_eq!(nobody_does(&drive, "stat -c '%a %u' $0/plate").unwrap(), "600 65534");
        drive.unmount();
    });
}
