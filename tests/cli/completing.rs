//! Completions as the shells use them, manual pages as people read them, and colours where nobody wants them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::common::drive::{Builder, drive_test, find_program, run_within, say};
use crate::home::{Home, Said};

/// Another program, or a word about its absence.
fn other(name: &str) -> Option<std::path::PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        let is_required = std::env::var_os("BACKLOT_TEST_REQUIRE_TOOLS").is_some_and(|v| v == "1");
        assert!(
            !is_required,
            "{name} is not installed, and BACKLOT_TEST_REQUIRE_TOOLS=1"
        );
        say(&format!("SKIPPED: tools (no {name})"));
    }
    found
}

fn run(command: &mut Command) -> Said {
    run_within(Duration::from_secs(60), command).into()
}

#[test]
fn bash_completes_verbs_flags_and_their_values() {
    let Some(bash) = other("bash") else { return };
    let home = Home::new();
    let script = home.write("completions", &home.run(["completions", "bash"]).ok());
    let complete = |words: &str| {
        // What bash does when the Tab key is pressed behind the last word.
        let ask = format!(
            ". '{}'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _backlot backlot \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[*]}}\"",
            script.display()
        );
        run(Command::new(&bash).args(["--norc", "-c", &ask])).ok()
    };
    assert_eq!(complete("backlot unm").trim(), "unmount");
    assert_eq!(complete("backlot queue canc").trim(), "cancel");
    assert_eq!(complete("backlot status --js").trim(), "--json");
    let hidden = complete("backlot mount --d");
    assert_eq!(hidden.trim(), "--daemon", "what is hidden is not offered");
    assert!(complete("backlot completions ''").contains("fish"));
}

#[test]
fn zsh_and_fish_can_read_theirs() {
    let home = Home::new();
    for shell in ["zsh", "fish"] {
        let Some(program) = other(shell) else { continue };
        let script = home.write("completions", &home.run(["completions", shell]).ok());
        let said = run(Command::new(program).arg("-n").arg(script));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{shell}: {said:#?}");
    }
}

#[test]
fn manual_pages_are_well_made() {
    let home = Home::new();
    let dir = home.join("man");
    let said = home.run(["man", dir.to_str().expect("UTF-8")]).ok();
    let pages: Vec<_> = fs::read_dir(&dir).expect("made").flatten().map(|e| e.path()).collect();
    assert!(said.starts_with(&format!("wrote {} pages", pages.len())), "{said}");
    assert_eq!(
        home.run(["man"]).ok().into_bytes(),
        fs::read(dir.join("backlot.1")).expect("there")
    );
    let private = run(home
        .command()
        .args(["man", home.join("private").to_str().expect("UTF-8")])
        .env("BACKLOT_CONFIG", "/a/private/place"));
    private.ok();
    let page = fs::read_to_string(home.join("private/backlot-status.1")).expect("there");
    assert!(
        !page.contains("/a/private/place"),
        "a value of the environment is shown"
    );
    let Some(groff) = other("groff") else { return };
    for page in pages {
        let said = run(Command::new(&groff).args(["-man", "-Tutf8", "-wall", "-z"]).arg(&page));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", page.display());
    }
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man/mount.backlot.8");
    let said = run(Command::new(&groff).args(["-man", "-Tutf8", "-wall", "-z"]).arg(own));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

/// What a program prints on a terminal of its own, and into a pipe.
fn on_terminal(command: &str, home: &Home, vars: &[(&str, &str)]) -> Option<String> {
    let script = other("script")?;
    let mut run_it = Command::new(script);
    run_it
        .args(["-qec", command, "/dev/null"])
        .current_dir(home.path())
        .env("TERM", "xterm");
    run_it.env_remove("NO_COLOR").envs(vars.iter().copied());
    let said = run(run_it.stdin(std::process::Stdio::null()));
    Some(said.all())
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    drive_test(|| {
        let home = Home::new();
        let site = tempfile::tempdir().expect("a folder");
        let drive = Builder::local(site.path()).build();
        drive.scan();
        // A mount that fails logs and says why; here after a word of the log.
        let command = format!(
            "timeout --preserve-status -s INT 3 {} --config {} mount",
            env!("CARGO_BIN_EXE_backlot"),
            drive.settings().display()
        );
        let Some(coloured) = on_terminal(&command, &home, &[]) else {
            return;
        };
        assert!(
            coloured.contains("\u{1b}["),
            "the log of a terminal has colours: {coloured:?}"
        );
        let plain = on_terminal(&command, &home, &[("NO_COLOR", "1")]).expect("as before");
        assert!(plain.contains("ready: ") && !plain.contains("\u{1b}["), "{plain:?}");
        let dumb = on_terminal(&command, &home, &[("TERM", "dumb")]).expect("as before");
        assert!(dumb.contains("ready: ") && !dumb.contains("\u{1b}["), "{dumb:?}");
    });
}
