//! `backlot path`, and other verbs given paths as other systems spell them.

use std::fs;

use serde_json::Value;

use crate::common::drive::{Builder, drive_test};
use crate::home::Home;

const VOLUMES: &str = r#"
[volumes.storage]
linux = "/storage"
macos = "/Volumes/storage"
windows = 'S:\'
unc = '\\storage'
sites.nas = { linux = "/mnt/st" }
"#;

fn home() -> (Home, String) {
    let home = Home::new();
    let file = home.local_settings("");
    let text = fs::read_to_string(&file).expect("read") + VOLUMES;
    fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8").to_owned();
    (home, file)
}

#[test]
fn a_path_is_printed_in_every_spelling() {
    let (home, file) = home();
    for given in [
        r"S:\theproject\seq010",
        r"\\STORAGE\theproject\seq010\",
        "/storage/theproject/seq010/",
        "/mnt/st/theproject/seq010",
    ] {
        let said = home.run(["-c", &file, "path", given]).ok();
        for line in [
            "volume           storage",
            "path             theproject/seq010",
            "linux            /storage/theproject/seq010",
            "macos            /Volumes/storage/theproject/seq010",
            r"windows          S:\theproject\seq010",
            r"unc              \\storage\theproject\seq010",
            "linux at nas     /mnt/st/theproject/seq010",
        ] {
            assert!(said.lines().any(|l| l == line), "{given}: no line {line:?} in\n{said}");
        }
    }
    let only = |args: &[&str]| home.run(["-c", &file, "path"].iter().chain(args)).ok();
    assert_eq!(
        only(&["--os", "macos", r"s:/a/b", "/storage/c"]),
        "/Volumes/storage/a/b\n/Volumes/storage/c\n"
    );
    assert_eq!(only(&["--os", "linux", "--site", "nas", r"S:\a"]), "/mnt/st/a\n");
    assert_eq!(
        only(&["--os", "windows", "theproject"]),
        "S:\\theproject\n",
        "a path of the drive"
    );
    assert_eq!(only(&["--os", "windows", "."]), "S:\\\n");
    let json: Value = serde_json::from_str(&only(&["--json", r"S:\theproject\seq010"])).expect("JSON");
    assert_eq!(json[0]["linux"], "/storage/theproject/seq010");
    assert_eq!(json[0]["unc"], r"\\storage\theproject\seq010");
    assert_eq!(json[0]["in_drive"], "theproject/seq010");
    assert_eq!(json[0]["sites"]["nas"]["linux"], "/mnt/st/theproject/seq010");
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let (home, file) = home();
    for (args, why) in [
        (
            &["S:theproject"] as &[_],
            r"depends on the folder that drive S: is in; write S:\",
        ),
        (&[r"S:\a\..\b"], "has `..` in it"),
        (&[r"T:\a"], "is in none of the volumes (storage)"),
        (&["/other/a"], "is not on the drive"),
        (&[r"S:\nul"], "names a device"),
        (&["--site", "mars", r"S:\a"], "there is no site mars"),
    ] {
        home.run(["-c", &file, "path"].iter().chain(args)).failed(2, &[why]);
    }
    home.run(["-c", &file, "path", "--os", "windows", "/storage/a:b"])
        .failed(
            1,
            &[
                "could not spell /storage/a:b as windows",
                "Windows can't hold the name \"a:b\"",
            ],
        );
    home.run(["-c", &file, "path", "--os", "here", "/storage/a"])
        .failed(1, &["volume storage has no `here` in the settings"]);
    home.run([
        "-c",
        &file,
        "--set",
        "volumes.storage.windows=/storage",
        "config",
        "check",
    ])
    .failed(2, &["volumes.storage.windows: `/storage` is not spelt so"]);
}

#[test]
fn variables_say_where_this_machine_has_a_volume() {
    let (home, file) = home();
    let here = |variables: &[(&str, &str)]| {
        let mut command = home.command();
        command
            .args(["-c", &file, "path", "--os", "here", r"S:\a"])
            .envs(variables.iter().copied());
        let said: crate::home::Said = command.output().expect("run").into();
        said.ok()
    };
    assert_eq!(here(&[("ACCSYN_STORAGE_PATH", "/work/")]), "/work/a\n");
    assert_eq!(
        here(&[("ACCSYN_STORAGE_PATH", "/work"), ("BACKLOT_STORAGE_PATH", "/mine")]),
        "/mine/a\n"
    );
    assert_eq!(here(&[("BACKLOT_STORAGE_PATH", r"x:\st")]), "x:\\st\\a\n");
    let mut command = home.command();
    command
        .args(["-c", &file, "path", "--os", "unc", "/mine/a"])
        .env("BACKLOT_STORAGE_PATH", "/mine");
    let said: crate::home::Said = command.output().expect("run").into();
    assert_eq!(said.ok(), "\\\\storage\\a\n");
}

#[test]
fn verbs_take_any_spelling() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        fs::create_dir(site.path().join("sq010")).expect("made");
        fs::write(site.path().join("sq010/plate.exr"), b"bytes").expect("written");
        let mut drive = Builder::local(site.path())
            .set("volumes.st.windows", "S:")
            .set("volumes.st.linux", "/storage")
            .set("volumes.own.folder", "show")
            .set("volumes.own.unc", r"\\nas\show")
            .build()
            .mounted();
        let whole = drive.ls("show/sq010");
        for given in [
            r"S:\show\sq010",
            r"s:/show/sq010/",
            "/storage/show/sq010",
            r"\\NAS\Show\sq010",
        ] {
            let said = drive.tell(["ls", "--json", given]);
            assert_eq!(
                serde_json::from_str::<Vec<Value>>(&said).expect("JSON"),
                whole,
                "{given}"
            );
        }
        drive.tell(["pin", r"S:\show\sq010\**"]);
        assert!(drive.tell(["pin", "ls"]).contains("show/sq010/**"));
        drive.unmount();
    });
}
