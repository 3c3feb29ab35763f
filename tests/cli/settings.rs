//! Settings: what is wrong with them, where values come from, and the file to start from.

use std::fs;

use crate::home::{Home, Said};

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_key() {
    let home = Home::new();
    let file = home.local_settings("moun-point = \"/x\"");
    let file = file.to_str().expect("UTF-8");
    let says = format!("{file}:4:1: unknown key `moun-point` in [drive]; did you mean `mount-point`?");
    for verb in [
        &["config", "check"] as &[_],
        &["config", "show"],
        &["mount"],
        &["unmount"],
        &["scan"],
        &["status"],
        &["ls"],
    ] {
        home.run(["-c", file].iter().chain(verb)).failed(2, &[&says]);
    }
    let doctor = home.run(["-c", file, "doctor"]);
    assert_eq!(doctor.code, Some(1));
    assert!(
        doctor.out.contains("BAD  settings") && doctor.out.contains(&says),
        "{doctor:#?}"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_place() {
    let home = Home::new();
    let file = home.local_settings("allow-other = \"maybe\"");
    let file = file.to_str().expect("UTF-8");
    let says = format!("{file}:4:15: drive.allow-other: must be true or false, not a string");
    home.run(["-c", file, "config", "check"]).failed(2, &[&says]);
}

#[test]
fn a_user_or_a_group_that_the_machine_does_not_know_is_named_with_its_place() {
    let home = Home::new();
    for (key, what) in [("owner", "user"), ("group", "group")] {
        let file = home.local_settings(&format!("{key} = \"no-such-name\""));
        let file = file.to_str().expect("UTF-8");
        let says = format!("{file}:4:1: drive.{key}: this machine knows no {what} `no-such-name`");
        for verb in [&["config", "check"] as &[_], &["mount"]] {
            home.run(["-c", file].iter().chain(verb)).failed(1, &[&says, "getent"]);
        }
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let home = Home::new();
    let file = home.write(
        "b.toml",
        "schema_version = 1\n[cache]\nmax-size = \"big\"\n[sites.nas]\nprovider = \"floppy\"\n[projects.demo]\nremote-site = \"nsa\"\n",
    );
    let said = home.run(["-c", file.to_str().expect("UTF-8"), "config", "check"]);
    said.failed(
        2,
        &[
            "b.toml:3:12: cache.max-size",
            "`big` is not a size",
            "b.toml:5:12: sites.nas.provider: must be one of local, sftp, s3, webdav, exec, gdrive",
            "b.toml:7:15",
            "did you mean `nas`?",
        ],
    );
}

#[test]
fn settings_that_are_no_toml_or_not_there_are_told_with_the_file() {
    let home = Home::new();
    for (name, bytes) in [
        ("open.toml", &b"[drive\n"[..]),
        ("bytes.toml", b"\xff\xfe\x00"),
        ("v.toml", b"schema_version = 7\n"),
    ] {
        fs::write(home.join(name), bytes).expect("written");
        home.run(["-c", name, "config", "check"]).failed(2, &[name]);
    }
    home.run(["-c", "none.toml", "status"])
        .failed(2, &["none.toml", "No such file", "`backlot config init none.toml`"]);
    home.run(["-c", "/", "status"]).failed(2, &["/: cannot be read"]);
}

#[test]
fn without_any_settings_the_way_to_begin_is_said() {
    if std::path::Path::new("/etc/backlot").exists() {
        crate::common::drive::say("SKIPPED: no-settings (this machine has /etc/backlot)");
        return;
    }
    let home = Home::new();
    let begin = [
        "there is no settings file",
        ".config/backlot/config.toml",
        "`backlot config init`",
    ];
    home.run(["mount"]).failed(2, &begin);
    home.run(["scan"]).failed(2, &begin);
    home.run(["status"]).failed(3, &["the daemon is not running"]);
    let checked = home.run(["config", "check"]).ok();
    assert!(
        checked.contains("there is no settings file") && checked.contains("0 sites, 0 projects"),
        "{checked}"
    );
    let doctor = home.run(["doctor"]);
    assert_eq!(doctor.code, Some(1));
    assert!(doctor.out.contains("`backlot config init`"), "{doctor:#?}");
    let left: Vec<_> = fs::read_dir(home.path())
        .expect("read")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.is_empty(), "asking left {left:?} behind");
}

#[test]
fn init_writes_a_file_that_works_after_two_edits_and_is_never_overwritten() {
    let home = Home::new();
    let said = home.run(["config", "init"]).ok();
    let file = home.join(".config/backlot/config.toml");
    assert!(said.contains(file.to_str().expect("UTF-8")), "{said}");
    let text = fs::read_to_string(&file).expect("written");

    let mut edits = 0;
    let mut edited = String::new();
    let mut edit_next = false;
    for line in text.lines() {
        let line = match line.split_once(" = ").map(|(key, _)| key) {
            Some("mount-point") if edit_next => format!("mount-point = {:?}", home.join("drive")),
            Some("host") if edit_next => "host = \"127.0.0.1\"".to_owned(),
            _ => line.to_owned(),
        };
        edits += usize::from(edit_next);
        edit_next = line.starts_with("# EDIT");
        edited += &format!("{line}\n");
    }
    assert_eq!(edits, 2);
    assert_ne!(edited, text);
    fs::write(&file, &edited).expect("written");
    let said = home.run(["config", "check"]).ok();
    assert!(said.contains("the settings are valid: 1 site, 1 project"), "{said}");

    home.run(["config", "init"]).failed(1, &["File exists", "--force"]);
    assert_eq!(
        fs::read_to_string(&file).expect("there"),
        edited,
        "a refusal changes nothing"
    );
    home.run(["config", "init", "--force"]).ok();
    assert_eq!(fs::read_to_string(&file).expect("there"), text);
    assert_eq!(home.run(["config", "init", "-"]).ok(), text);
    let named = home.run(["config", "init", "mine.toml"]).ok();
    assert!(named.contains("--config mine.toml mount"), "{named}");
    assert_eq!(fs::read_to_string(home.join("mine.toml")).expect("there"), text);
}

#[test]
fn each_value_tells_where_it_comes_from() {
    let home = Home::new();
    let file = home.local_settings("name = \"alpha\"");
    let show = |env: &[(&str, &str)], args: &[&str]| -> serde_json::Value {
        let mut command = home.command();
        command
            .arg("-c")
            .arg(&file)
            .args(args)
            .args(["config", "show", "--json"]);
        command.envs(env.iter().copied());
        let said: Said = crate::common::drive::run_within(std::time::Duration::from_secs(20), &mut command).into();
        let rows: Vec<serde_json::Value> = serde_json::from_str(&said.ok()).expect("JSON");
        rows.into_iter()
            .find(|r| r["key"] == "drive.name")
            .expect("a row for each key")
    };
    let from = |row: serde_json::Value, value: &str, origin: &str| {
        assert!(row["value"].as_str().expect("text").contains(value), "{row}");
        assert!(row["origin"].as_str().expect("text").contains(origin), "{row}");
    };
    from(show(&[], &[]), "alpha", "backlot.toml:4");
    from(
        show(&[("BACKLOT_DRIVE_NAME", "beta")], &[]),
        "beta",
        "BACKLOT_DRIVE_NAME",
    );
    from(
        show(&[("BACKLOT_DRIVE_NAME", "beta")], &["--set", "drive.name=gamma"]),
        "gamma",
        "--set",
    );

    let text = home.run(["-c", "backlot.toml", "config", "show", "--origin"]).ok();
    let line = text
        .lines()
        .find(|l| l.starts_with("drive.name "))
        .expect("a line for each key");
    assert!(line.contains("\"alpha\"  # given backlot.toml:4"), "{line}");
    assert!(
        text.lines()
            .any(|l| l.starts_with("cache.max-size ") && l.ends_with("# default")),
        "{text}"
    );
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let home = Home::new();
    home.local_settings("");
    let mut command = home.command();
    command
        .args(["-c", "backlot.toml", "config", "check"])
        .env("BACKLOT_DRIVE_NAM", "x");
    let said: Said = crate::common::drive::run_within(std::time::Duration::from_secs(20), &mut command).into();
    said.failed(2, &["BACKLOT_DRIVE_NAM", "did you mean `BACKLOT_DRIVE_NAME`?"]);
    home.run(["-c", "backlot.toml", "--set", "cache.max-size=big", "config", "check"])
        .failed(2, &["--set cache.max-size", "`big` is not a size"]);
    home.run(["-c", "backlot.toml", "--set", "cache.maxsize=1GiB", "config", "check"])
        .failed(2, &["--set cache.maxsize", "did you mean `max-size`?"]);
}

#[test]
fn a_socket_path_that_does_not_fit_is_told_before_anything_starts() {
    let home = Home::new();
    let long = home.join(&"d".repeat(110));
    let file = home.local_settings(&format!("data-dir = {long:?}"));
    for verb in ["mount", "scan", "status"] {
        home.run(["-c", file.to_str().expect("UTF-8"), verb])
            .failed(2, &["Unix socket", "drive.socket"]);
    }
    assert!(!long.exists());
}
