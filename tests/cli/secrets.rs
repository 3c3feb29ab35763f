//! Secrets: what is said when one can't be had, and that none is ever said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::drive::{Builder, drive_test, say};
use crate::common::sshd::{Mode, Sshd};
use crate::home::{Home, Said};

/// Unlike anything else that could be printed.
const SECRET: &str = "zebra-Quartz-8812";

/// Every verb that needs the secret says what is missing and how to mend it, and the drive does not come up half.
fn all_say(home: &Home, reference: &str, says: &[&str]) {
    let settings = home.sftp_settings(1, &format!("auth = \"password\"\npassword = {reference:?}"));
    let settings = settings.to_str().expect("UTF-8");
    for verb in ["scan", "mount"] {
        let said = home.run(["-c", settings, verb]);
        said.failed(1, &[&["site far: "], says].concat());
        assert!(!said.all().contains(SECRET), "{said:#?}");
    }
    let said = home.run(["-c", settings, "doctor"]);
    assert_eq!(said.code, Some(1));
    for wanted in says {
        assert!(said.out.contains(wanted), "not said: {wanted}\n{said:#?}");
    }
    assert!(said.out.contains("BAD  site"), "{said:#?}");
    assert!(!said.all().contains(SECRET), "{said:#?}");
    let shown = home.run(["-c", settings, "config", "show"]).ok();
    assert!(shown.contains(reference), "what it refers to is shown: {shown}");
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    all_say(
        &Home::new(),
        "env:STUDIO_PASSWORD",
        &["environment variable STUDIO_PASSWORD is not set", "export it"],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let home = Home::new();
    let file = home.join("studio.secret");
    let file = file.to_str().expect("UTF-8");
    all_say(&home, &format!("file:{file}"), &[&format!("cannot read {file}")]);
}

#[test]
fn a_file_that_others_may_read_is_refused_without_a_word_of_it() {
    let home = Home::new();
    let file = home.write("studio.secret", SECRET);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let file = file.to_str().expect("UTF-8");
    all_say(&home, &format!("file:{file}"), &[&format!("chmod 600 {file}")]);
    // The fault was the mode alone: with it mended, the secret is taken and the server asked for.
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
    home.run(["-c", "backlot.toml", "scan"])
        .failed(1, &["Connection refused"]);
}

/// Fails where the secret is in a file below a folder. Files that hold it on purpose are `but`.
fn in_no_file(dir: &Path, but: &Path) {
    for entry in fs::read_dir(dir).expect("read").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("known");
        if kind.is_dir() {
            in_no_file(&path, but);
        } else if kind.is_file() && path != but {
            let bytes = fs::read(&path).expect("read");
            let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
            assert!(!found, "the secret is in {}", path.display());
        }
    }
}

#[test]
fn a_password_that_the_server_refuses_is_never_said() {
    let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
        return;
    };
    let home = Home::new();
    home.sftp_settings(server.port(), "auth = \"password\"\npassword = \"env:STUDIO_PASSWORD\"");
    fs::copy(server.file("known_hosts"), home.join("known_hosts")).expect("copied");
    for verb in [
        &["scan"] as &[_],
        &["scan", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["config", "show", "--origin"],
    ] {
        let mut command = home.command();
        command
            .args(["-c", "backlot.toml"])
            .args(verb)
            .env("STUDIO_PASSWORD", SECRET)
            .env("BACKLOT_LOG", "trace");
        let said: Said = crate::common::drive::run_within(std::time::Duration::from_secs(60), &mut command).into();
        if verb[0] != "config" {
            assert_eq!(said.code, Some(1), "{said:#?}");
            assert!(
                said.all().contains("logging in failed"),
                "the fault did not fire: {said:#?}"
            );
        }
        assert!(!said.all().contains(SECRET), "{verb:?}: {said:#?}");
    }
    in_no_file(home.path(), Path::new(""));
}

#[test]
fn a_passphrase_that_works_is_never_said() {
    drive_test(|| {
        let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        fs::write(server.root().join("plate.exr"), b"pixels").expect("written");
        let mut settings = server.settings(&server.root());
        settings.key_file = Some(server.file("locked_key"));
        let secret = server.file("passphrase");
        fs::write(&secret, Sshd::PASSPHRASE).expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("ours");
        let reference = format!("file:{}", secret.display());
        let builder = Builder::sftp(&settings)
            .site("passphrase", reference.as_str())
            .env("BACKLOT_LOG", "trace");
        let drive = builder.build().mounted();
        assert_eq!(
            fs::read(drive.path("plate.exr")).expect("read through the server"),
            b"pixels"
        );
        let verbs: [&[&str]; 6] = [
            &["status", "--json"],
            &["status"],
            &["ls", "--json"],
            &["doctor", "--json"],
            &["config", "show", "--origin"],
            &["scan", "--json"],
        ];
        let mut said: String = verbs.iter().map(|verb| drive.tell(*verb)).collect();
        said += &drive.log();
        assert!(said.contains(&reference), "{said}");
        assert!(drive.log().contains("connected host="), "the server was talked to");
        if said.contains(Sshd::PASSPHRASE) {
            say(&said);
            panic!("the passphrase was said");
        }
    });
}
