//! Secrets: given by reference only, fetched when asked for, shown by nothing.

mod common;

use std::path::PathBuf;

use backlot_config::{SecretError, SecretRef, render_origin};
use common::{Machine, complaint_about, loaded};
use secrecy::ExposeSecret as _;

const SECRET: &str = "hunter2-do-not-show";

fn site(password: &str) -> String {
    format!("[sites.s]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/r\"\nauth = \"password\"\npassword = {password}\n")
}

#[cfg(unix)]
fn secret_file(machine: &Machine, content: &[u8], mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = machine.path("secret");
    std::fs::write(&path, content).expect("the file can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
    path
}

#[test]
fn a_literal_secret_is_refused_and_not_repeated() {
    let advice = "a secret is given by reference, and this is not one; write `env:NAME` or `file:/path`";
    for literal in [format!("\"{SECRET}\""), "\"\"".to_owned(), "\"ENV:X\"".to_owned()] {
        assert_eq!(
            complaint_about(&site(&literal)),
            format!("user:6:12: sites.s.password: {advice}")
        );
        let passphrase = site("\"env:X\"") + &format!("passphrase = {literal}");
        assert_eq!(
            complaint_about(&passphrase),
            format!("user:7:14: sites.s.passphrase: {advice}")
        );
    }
    // A secret made of digits, or one that was not quoted.
    for literal in ["20242024", "-1", "true"] {
        assert_eq!(
            complaint_about(&site(literal)),
            format!("user:6:12: sites.s.password: {advice}")
        );
    }
    for (literal, found) in [
        ("1.25", "a number with a fraction"),
        ("2024-01-01", "a date"),
        ("[\"x\"]", "a list"),
        ("{}", "a table"),
    ] {
        assert_eq!(
            complaint_about(&site(literal)),
            format!("user:6:12: sites.s.password: must be `env:NAME` or `file:/path`, not {found}")
        );
    }
    let unquoted = complaint_about(&site(SECRET));
    assert!(!unquoted.is_empty() && !unquoted.contains("hunter2"), "{unquoted}");
}

#[test]
fn references_that_lead_nowhere_are_refused() {
    for (reference, complaint) in [
        (
            "env:",
            "`env:` needs the name of an environment variable; write it as in `env:STUDIO_PASSWORD`",
        ),
        (
            "env:A B",
            "`env:` needs the name of an environment variable; write it as in `env:STUDIO_PASSWORD`",
        ),
        (
            "file:",
            "`file:` needs an absolute path; write it as in `file:/etc/backlot/studio.secret` or `file:~/studio.secret`",
        ),
        (
            "file:here",
            "`file:` needs an absolute path; write it as in `file:/etc/backlot/studio.secret` or `file:~/studio.secret`",
        ),
    ] {
        assert_eq!(
            complaint_about(&site(&format!("\"{reference}\""))),
            format!("user:6:12: sites.s.password: {complaint}")
        );
    }
}

/// Wherever a secret is put by mistake, no message and no debug text repeats it.
#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let studio = "[sites.s]\nprovider = \"sftp\"\nhost = \"h\"\nroot = \"/r\"\n";
    for line in [
        "pasword",
        "passphrase",
        "password",
        "auth",
        "host-key",
        "secret",
        "port",
        "connections",
    ] {
        let complaint = complaint_about(&format!("{studio}{line} = \"{SECRET}\""));
        assert!(complaint.contains(line) && !complaint.contains(SECRET), "{complaint}");
    }
    let machine = Machine::new();
    machine.write_user(studio);
    let loader = machine.loader();
    let by_variable = loader
        .clone()
        .env([("BACKLOT_SITES_S_PASSWORD", SECRET), ("USER", "ada")]);
    let by_misspelt_variable = loader
        .clone()
        .env([("BACKLOT_SITES_S_PASSWROD", SECRET), ("USER", "ada")]);
    let by_flag = loader.overrides(vec![("sites.s.password".to_owned(), SECRET.to_owned())]);
    for loader in [by_variable, by_misspelt_variable, by_flag] {
        let errors = loader.load().unwrap_err();
        assert!(!errors.to_string().contains(SECRET), "{errors}");
        assert!(!format!("{errors:?}").contains(SECRET), "{errors:?}");
    }
}

#[test]
fn references_are_shown_and_secrets_never() {
    let loaded = loaded(&site("\"env:PATH\""));
    let secret = SecretRef::Env("PATH".to_owned()).resolve().unwrap();
    let shown = format!("{loaded:?} {:?} {secret:?}", render_origin(&loaded));
    assert!(shown.contains("env:PATH"));
    assert!(!shown.contains(secret.expose_secret()));
    assert_eq!(SecretRef::Env("X".to_owned()).to_string(), "env:X");
    assert_eq!(SecretRef::File("/s".into()).to_string(), "file:/s");
}

#[test]
fn a_variable_is_read_when_asked_for() {
    let path = std::env::var("PATH").unwrap();
    assert_eq!(
        SecretRef::Env("PATH".to_owned()).resolve().unwrap().expose_secret(),
        path
    );
    let unset = SecretRef::Env("BACKLOT_TEST_UNSET".to_owned()).resolve().unwrap_err();
    assert_eq!(
        unset.to_string(),
        "environment variable BACKLOT_TEST_UNSET is not set; export it, or point to a file with `file:/path`"
    );
}

#[cfg(unix)]
#[test]
fn a_private_file_is_read_without_its_last_newline() {
    let machine = Machine::new();
    for (content, secret) in [
        ("s3cret\n", "s3cret"),
        ("s3cret", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        ("a\n\n", "a\n"),
        (" a \n", " a "),
    ] {
        let reference = SecretRef::File(secret_file(&machine, content.as_bytes(), 0o600));
        assert_eq!(reference.resolve().unwrap().expose_secret(), secret);
    }
    let read_only = SecretRef::File(secret_file(&machine, b"x", 0o600));
    std::fs::set_permissions(
        machine.path("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o400),
    )
    .unwrap();
    assert_eq!(read_only.resolve().unwrap().expose_secret(), "x");
}

#[cfg(unix)]
#[test]
fn a_file_that_others_may_read_is_refused() {
    let machine = Machine::new();
    for mode in [0o640, 0o604, 0o620, 0o601, 0o644] {
        let path = secret_file(&machine, SECRET.as_bytes(), mode);
        let error = SecretRef::File(path.clone()).resolve().unwrap_err();
        assert!(matches!(error, SecretError::Exposed(_)));
        let path = path.display();
        assert_eq!(
            error.to_string(),
            format!("{path} can be read by others than its owner; run: chmod 600 {path}")
        );
        assert!(!format!("{error:?}").contains(SECRET));
    }
}

#[cfg(unix)]
#[test]
fn files_that_hold_no_secret_are_refused() {
    let machine = Machine::new();
    for content in [b"".as_slice(), b"\n", b"\xff\xfe", &[b'x'; 65 * 1024]] {
        let path = secret_file(&machine, content, 0o600);
        let error = SecretRef::File(path.clone()).resolve().unwrap_err();
        let path = path.display();
        assert_eq!(
            error.to_string(),
            format!("the secret at file:{path} is empty or not text; write the secret on a line of its own")
        );
    }
    let folder = SecretRef::File(machine.path("")).resolve().unwrap_err();
    assert!(matches!(folder, SecretError::Unusable(_)), "{folder}");
    let missing = SecretRef::File(machine.path("none")).resolve().unwrap_err();
    assert!(
        matches!(&missing, SecretError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
}
