//! The last published work file, on a mount.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::drive::{Builder, Drive, drive_test, eventually_within};

const TASK: &str = "shots/sh010/work/compositing";
const PUBLISHED: &str = "shots/sh010/publish/workfile/workfileCompositing";

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// A site on which versions 1 to 3 are published, the last one with resources.
fn site() -> TempDir {
    let site = tempfile::tempdir().expect("a folder");
    for version in 1..=3 {
        let name = format!("{PUBLISHED}/v{version:03}/dmo_sh010_workfileCompositing_v{version:03}.nk");
        put(site.path(), &name, format!("script {version}").as_bytes());
    }
    put(site.path(), &format!("{PUBLISHED}/v003/thumbnail.jpg"), b"picture");
    put(
        site.path(),
        &format!("{PUBLISHED}/v003/resources/lut/show.cube"),
        &[3; 200_000],
    );
    put(
        site.path(),
        &format!("{PUBLISHED}/v003/resources/ref.mov"),
        b"reference",
    );
    site
}

fn builder(site: &TempDir) -> Builder {
    Builder::local(site.path())
}

fn fetch(drive: &Drive, args: &[&str]) -> Value {
    let told = drive.tell([&["workfile", "fetch-last", "--json"], args].concat());
    let state: Value = serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"));
    assert_eq!(state["progress"]["done"], true, "{state}");
    state["progress"]["fetched"].clone()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn the_last_published_work_file_becomes_the_next_version_with_its_resources() {
    drive_test(|| {
        let site = site();
        let drive = builder(&site).build().mounted();
        // Looked at before: what comes must be seen all the same.
        assert_eq!(names(&drive.path("shots/sh010")), ["publish"]);
        let workdir = drive.path(TASK);
        let fetched = fetch(&drive, &[workdir.to_str().expect("UTF-8")]);
        assert_eq!(
            fetched["workfile"],
            format!("show/{TASK}/dmo_sh010_compositing_v004.nk")
        );
        assert_eq!(
            (
                &fetched["version"],
                &fetched["published_version"],
                &fetched["resources"]
            ),
            (&4.into(), &3.into(), &2.into())
        );
        assert_eq!(names(&workdir), ["dmo_sh010_compositing_v004.nk", "resources"]);
        assert_eq!(
            fs::read(workdir.join("dmo_sh010_compositing_v004.nk")).expect("there"),
            b"script 3"
        );
        assert_eq!(
            fs::read(workdir.join("resources/lut/show.cube")).expect("there"),
            vec![3; 200_000]
        );
        assert_eq!(
            fs::read(workdir.join("resources/ref.mov")).expect("there"),
            b"reference"
        );
        // It is a file like any other: saved to, and this machine's own.
        fs::write(workdir.join("dmo_sh010_compositing_v004.nk"), b"changed").expect("written");
        let row = &drive.ls(&format!("show/{TASK}/dmo_sh010_compositing_v004.nk"))[0];
        assert_eq!(row["state"], "local", "{row}");

        // Again: the work folder is ahead now. Nothing there is touched.
        fs::write(workdir.join("resources/ref.mov"), b"my own one").expect("written");
        fs::write(workdir.join("dmo_sh010_compositing_v009_idea.nk"), b"idea").expect("written");
        let said = drive.tell(["workfile", "fetch-last", &format!("show/{TASK}")]);
        assert!(
            said.starts_with(&format!("show/{TASK}/dmo_sh010_compositing_v010.nk\n")),
            "{said}"
        );
        assert!(
            said.contains("resources/ref.mov stays as it is: another one of that name is there"),
            "{said}"
        );
        assert_eq!(
            fs::read(workdir.join("dmo_sh010_compositing_v004.nk")).expect("there"),
            b"changed"
        );
        assert_eq!(
            fs::read(workdir.join("resources/ref.mov")).expect("there"),
            b"my own one"
        );
        assert_eq!(names(&workdir).len(), 4);
    });
}

#[test]
fn a_version_that_was_published_a_moment_ago_is_seen() {
    drive_test(|| {
        let site = site();
        let drive = builder(&site).set("scan.recheck-after", "24h").build().mounted();
        assert_eq!(names(&drive.path(PUBLISHED)).len(), 3);
        put(
            site.path(),
            &format!("{PUBLISHED}/v012/dmo_sh010_workfileCompositing_v012.nk"),
            b"script 12",
        );
        let fetched = fetch(&drive, &[&format!("show/{TASK}")]);
        assert_eq!(
            fetched["workfile"],
            format!("show/{TASK}/dmo_sh010_compositing_v013.nk")
        );
        assert_eq!(
            fs::read(drive.path(TASK).join("dmo_sh010_compositing_v013.nk")).expect("there"),
            b"script 12"
        );
    });
}

#[test]
fn what_cannot_be_told_apart_is_asked_for() {
    drive_test(|| {
        let site = site();
        put(
            site.path(),
            &format!("{PUBLISHED}/v003/dmo_sh010_workfileCompositing_v003.ma"),
            b"maya",
        );
        put(site.path(), &format!("{PUBLISHED}/v004/thumbnail.jpg"), b"picture");
        let drive = builder(&site).build().mounted();
        let workdir = format!("show/{TASK}");
        let refused = drive.refused(["workfile", "fetch-last", &workdir]);
        assert!(
            refused.said.contains("holds several work files") && refused.said.contains("--ext"),
            "{refused:?}"
        );
        assert!(!drive.path(TASK).exists(), "nothing was made");
        let fetched = fetch(&drive, &["--ext", "ma", &workdir]);
        assert_eq!(fetched["workfile"], format!("{workdir}/dmo_sh010_compositing_v005.ma"));
        assert_eq!(fetched["passed_over"], serde_json::json!(["v004"]));
        // From now on the folder says which.
        let fetched = fetch(&drive, &[&workdir]);
        assert_eq!(fetched["workfile"], format!("{workdir}/dmo_sh010_compositing_v006.ma"));
        for (workdir, said) in [
            (
                "show/shots/sh010/publish",
                "is no task's work folder: by the settings that is `{folder}/work/{task}`",
            ),
            (
                "show/shots/sh010/work/anim",
                "nothing is published for show/shots/sh010/work/anim",
            ),
            ("nowhere/sh010/work/anim", "lies in no project"),
        ] {
            let refused = drive.refused(["workfile", "fetch-last", workdir]);
            assert!(refused.said.contains(said), "{workdir}: {refused:?}");
        }
        let refused = drive.refused(["workfile", "fetch-last", "--ext", "hip", &workdir]);
        assert!(
            refused.said.contains("with the extension hip") && refused.said.contains("thumbnail.jpg"),
            "{refused:?}"
        );
    });
}

#[test]
fn a_site_that_is_gone_half_way_leaves_no_half_file() {
    drive_test(|| {
        let site = site();
        let script = format!("{PUBLISHED}/v003/dmo_sh010_workfileCompositing_v003.nk");
        put(site.path(), &script, &vec![9; 40 << 20]);
        // A link on which it would take half a minute.
        let drive = builder(&site).site("link-rate", "1MiB").build().mounted();
        let workdir = format!("show/{TASK}");
        let refused = drive.refused(["workfile", "fetch-last", "--timeout", "3", &workdir]);
        assert!(refused.said.contains("it took longer than 3s"), "{refused:?}");
        assert_eq!(names(&drive.path(TASK)), ["resources"]);
        eventually_within(Duration::from_secs(5), "the end of what was being written", || {
            names(&drive.path(TASK)) == ["resources"]
        });
        // A kill leaves a hidden part; the next fetch clears it away.
        let mut drive = drive;
        let mut child = drive
            .command()
            .args(["workfile", "fetch-last", &workdir])
            .spawn()
            .expect("started");
        eventually_within(Duration::from_secs(10), "the beginning", || {
            names(&drive.path(TASK)).len() == 2
        });
        drive.kill9();
        child.wait().expect("ended");
        put(site.path(), &script, b"short");
        drive.mount();
        assert_eq!(names(&drive.path(TASK)).len(), 2, "the part is there");
        drive.scan();
        let fetched = fetch(&drive, &[&workdir]);
        assert_eq!(fetched["version"], 4);
        assert_eq!(names(&drive.path(TASK)), ["dmo_sh010_compositing_v004.nk", "resources"]);
        assert_eq!(
            fs::read(drive.path(TASK).join("dmo_sh010_compositing_v004.nk")).expect("there"),
            b"short"
        );
    });
}
