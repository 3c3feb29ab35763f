//! `mount.backlot`, as mount(8) calls it; the whole way from fstab is looked at by packaging/check.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backlot_platform::fuse::{Unmount, unmount_path};

use crate::common::drive::{Builder, Drive, drive_test, eventually, is_root, mounts_at, run_within, say};
use crate::home::Said;

/// The helper, and a drive that it may mount.
struct Rig {
    dir: tempfile::TempDir,
    _site: tempfile::TempDir,
    drive: Drive,
}

impl Rig {
    fn new() -> Option<Self> {
        if !is_root() {
            say("SKIPPED: root (umount(8) of another's mount)");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let site = tempfile::tempdir().expect("a folder");
        fs::write(site.path().join("plate.exr"), vec![7; 200_000]).expect("written");
        symlink(env!("CARGO_BIN_EXE_backlot"), dir.path().join("mount.backlot")).expect("linked");
        let drive = Builder::local(site.path()).build();
        drive.scan();
        Some(Self {
            dir,
            _site: site,
            drive,
        })
    }

    fn mount(&self, source: &Path, at: &Path, more: &[&str]) -> Said {
        let mut command = Command::new(self.dir.path().join("mount.backlot"));
        command.arg(source).arg(at).args(more).current_dir("/");
        // What mounts at boot has nothing else.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run_within(Duration::from_secs(60), &mut command).into()
    }

    fn mounted(&self, more: &[&str]) {
        let said = self.mount(self.drive.settings(), self.drive.mount_point(), more);
        assert_eq!((said.code, said.all().as_str()), (Some(0), ""), "{said:#?}");
    }

    fn unmounted(&self) {
        unmount_path(self.drive.mount_point(), Unmount::Normal).expect("unmounted");
        assert_eq!(mounts_at(self.drive.mount_point()), 0);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.drive.run(["unmount", "--lazy"]));
    }
}

#[test]
fn it_returns_once_files_can_be_read_and_umount_ends_the_daemon() {
    drive_test(|| {
        let Some(rig) = Rig::new() else { return };
        // Again and again at once: it waits for the daemon before it, which still makes durable what it holds.
        for _ in 0..3 {
            rig.mounted(&["-o", "rw,allow_other,_netdev,nofail,x-systemd.mount-timeout=2min"]);
            assert_eq!(fs::read(rig.drive.path("plate.exr")).expect("read").len(), 200_000);
            let mounts = fs::read_to_string("/proc/self/mounts").expect("read");
            let source = rig.drive.settings().to_str().expect("UTF-8");
            let ours = mounts
                .lines()
                .find(|line| line.starts_with(source))
                .expect("its source is what fstab says");
            assert!(
                ours.contains(" fuse.backlot ") && ours.contains("allow_other"),
                "{ours}"
            );
            rig.unmounted();
        }
        eventually("the daemon ends", || {
            !rig.drive.data_dir().join("backlot.sock").exists()
        });
        assert_eq!(rig.drive.refused(["status"]).code, Some(3));
    });
}

#[test]
fn its_options_have_their_effect() {
    drive_test(|| {
        let Some(rig) = Rig::new() else { return };
        rig.mounted(&["-n", "-o", "ro,noexec", "-o", "drive.name=fromfstab"]);
        let refused = fs::write(rig.drive.path("new.txt"), b"x").expect_err("read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read");
        let point = rig.drive.mount_point().to_str().expect("UTF-8");
        let ours = mounts.lines().find(|line| line.contains(point)).expect("mounted");
        assert!(ours.contains(" ro,") && ours.contains("noexec"), "{ours}");
        assert_eq!(rig.drive.status()["name"], "fromfstab");
        // A second one on top of it is refused.
        let said = rig.mount(rig.drive.settings(), rig.drive.mount_point(), &[]);
        assert_eq!(said.code, Some(32), "{said:#?}");
        assert_eq!(mounts_at(rig.drive.mount_point()), 1);
        rig.unmounted();
    });
}

#[test]
fn what_can_not_be_mounted_says_why_and_leaves_nothing() {
    drive_test(|| {
        let Some(rig) = Rig::new() else { return };
        let settings = rig.drive.settings();
        let point = rig.drive.mount_point();
        let none = rig.dir.path().join("none");
        let homely = rig.dir.path().join("homely.toml");
        let text = fs::read_to_string(settings).expect("read");
        let without: String = text
            .lines()
            .filter(|l| !l.starts_with("data-dir"))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(&homely, without).expect("written");
        for (source, at, options, code, says) in [
            (none.as_path(), point, "rw", 1, "there is no settings file"),
            (Path::new("nobodys"), point, "rw", 1, "nothing says what nobodys is"),
            (settings, point, "uid=1000", 1, "uid=1000 is not known"),
            (settings, point, "cache.max-sise=1GiB", 1, "max-size"),
            (settings, none.as_path(), "rw", 32, "there is no such folder"),
            (homely.as_path(), point, "rw", 1, "add data-dir = \"/var/lib/backlot\""),
        ] {
            let said = rig.mount(source, at, &["-o", options]);
            assert_eq!(said.code, Some(code), "{said:#?}");
            assert!(said.err.contains(says), "not said: {says}\n{said:#?}");
        }
        assert_eq!(
            rig.mount(settings, OsStr::new("x").as_ref(), &["-f"]).code,
            Some(0),
            "-f only looks"
        );
        assert_eq!(mounts_at(point), 0);
        assert_eq!(rig.drive.refused(["status"]).code, Some(3));
    });
}
