//! `backlot recover`: what was saved and not sent, out of the data folder, with the database and without.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::drive::{Drive, drive_test, say};
use crate::publishing::{drive, json, run};

/// A drive that was killed with files that exist nowhere else. `None` where the disk takes no labels.
fn killed() -> Option<(tempfile::TempDir, Drive)> {
    let (site, mut drive) = drive();
    let proof = drive.data_dir().join("proof");
    fs::write(&proof, b"").expect("written");
    let flags = rustix::fs::XattrFlags::CREATE;
    if rustix::fs::setxattr(&proof, "user.a", b"1", flags).is_err() {
        say("SKIPPED: xattrs (the temporary folder takes none)");
        return None;
    }
    drive.tell(["queue", "pause"]);
    fs::create_dir(drive.path("publish/shot")).expect("made");
    fs::write(drive.path("publish/shot/a.exr"), vec![5; 100_000]).expect("written");
    fs::write(drive.path("work/scene.blend"), b"scene").expect("written");
    fs::write(drive.path("work/gone"), b"deleted").expect("written");
    fs::remove_file(drive.path("work/gone")).expect("removed");
    fs::rename(drive.path("work/scene.blend"), drive.path("work/scene_v002.blend")).expect("moved");
    // The labels follow a rename in the background.
    drive.tell(["status"]);
    drive.kill9();
    Some((site, drive))
}

fn without_database(drive: &Drive) {
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        drop(fs::remove_file(drive.data_dir().join(name)));
    }
}

fn check(out: &Path) {
    assert_eq!(
        fs::read(out.join("show/publish/shot/a.exr")).expect("there"),
        vec![5; 100_000]
    );
    assert_eq!(
        fs::read(out.join("show/work/scene_v002.blend")).expect("there"),
        b"scene"
    );
}

#[test]
fn what_was_saved_comes_out_as_a_plain_tree() {
    drive_test(|| {
        let Some((_site, drive)) = killed() else { return };
        let out = drive.dir().join("out");
        let report = json(&drive, &["recover", out.to_str().expect("UTF-8")]);
        check(&out);
        assert_eq!(
            (&report["files"], &report["database"]),
            (&Value::from(2), &Value::from(true)),
            "{report}"
        );
        assert!(!out.join("show/work/gone").exists());
        let said = drive.tell(["recover", drive.dir().join("again").to_str().expect("UTF-8")]);
        assert!(said.starts_with("2 files with 97.66 KiB written to "), "{said}");
    });
}

#[test]
fn it_needs_no_database_and_no_settings() {
    drive_test(|| {
        let Some((_site, drive)) = killed() else { return };
        without_database(&drive);
        let (out, data) = (
            drive.dir().join("out"),
            drive.data_dir().to_str().expect("UTF-8").to_owned(),
        );
        fs::write(drive.dir().join("broken.toml"), "no settings").expect("written");
        let broken = drive.dir().join("broken.toml").to_str().expect("UTF-8").to_owned();
        let out_dir = out.to_str().expect("UTF-8");
        let said = crate::home::Home::new().run(["-c", &broken, "recover", out_dir, "--data-dir", &data]);
        assert!(said.err.contains("so that everything is written"), "{said:#?}");
        said.ok();
        check(&out);

        // The next start knows none of it, and puts it aside; it is found there too.
        let mut drive = drive;
        drive.mount();
        assert_eq!(drive.status()["publishing"]["put_aside"], 2);
        let status = drive.tell(["status"]);
        assert!(
            status.contains("2 objects of unknown files put aside: `backlot recover DIR`"),
            "{status}"
        );
        let doctor = run(&drive, &["doctor"]);
        assert!(
            doctor
                .out
                .contains("BAD  local      2 objects put aside that no file has"),
            "{doctor:#?}"
        );
        let again = drive.dir().join("again");
        run(&drive, &["recover", again.to_str().expect("UTF-8")]).ok();
        check(&again);
        drive.unmount();
    });
}

#[test]
fn it_writes_neither_into_the_drive_nor_into_what_it_reads() {
    drive_test(|| {
        let (_site, mut drive) = drive();
        let shown = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let data = shown(drive.data_dir());
        for (target, why) in [
            (shown(&drive.path("work/out")), "it is in a drive"),
            (shown(&drive.data_dir().join("out")), "it is in the data folder"),
            (
                shown(&drive.data_dir().join("local/../out")),
                "it is in the data folder",
            ),
        ] {
            run(&drive, &["recover", &target]).failed(2, &[why]);
            run(&drive, &["recover", &target, "--data-dir", &data]).failed(2, &[why]);
        }
        std::os::unix::fs::symlink(drive.data_dir(), drive.dir().join("link")).expect("linked");
        let target = shown(&drive.dir().join("link/out"));
        run(&drive, &["recover", &target]).failed(2, &["it is in the data folder"]);
        let target = shown(&drive.dir().join("out"));
        run(&drive, &["recover", &target, "--data-dir", "/nowhere"]).failed(1, &["could not read /nowhere/local"]);
        assert!(!drive.dir().join("out").exists());
        drive.unmount();
    });
}
