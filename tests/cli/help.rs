//! The whole help, held against a committed text, and what wrong usage gets.
//!
//! After a wanted change: `BACKLOT_TEST_BLESS=1 cargo test --test cli help`, then read the difference before committing it.

use std::fs;
use std::path::Path;

use crate::home::Home;

/// Rewrites the committed text.
const BLESS: &str = "BACKLOT_TEST_BLESS";

/// Every verb, outermost first; held against the program's own list below.
const VERBS: &[&[&str]] = &[
    &[],
    &["demo"],
    &["mount"],
    &["unmount"],
    &["abort"],
    &["scan"],
    &["status"],
    &["top"],
    &["ls"],
    &["queue"],
    &["queue", "ls"],
    &["queue", "pause"],
    &["queue", "resume"],
    &["queue", "retry"],
    &["queue", "cancel"],
    &["queue", "hold"],
    &["queue", "release"],
    &["queue", "exclude"],
    &["queue", "jobs"],
    &["queue", "set"],
    &["wait"],
    &["push"],
    &["pull"],
    &["pin"],
    &["pin", "ls"],
    &["unpin"],
    &["hydrate"],
    &["evict"],
    &["cache"],
    &["cache", "stat"],
    &["cache", "top"],
    &["cache", "verify"],
    &["cache", "clear"],
    &["limit"],
    &["path"],
    &["conflict"],
    &["conflict", "ls"],
    &["conflict", "keep-mine"],
    &["conflict", "keep-theirs"],
    &["recover"],
    &["config"],
    &["config", "check"],
    &["config", "show"],
    &["config", "init"],
    &["doctor"],
    &["support-bundle"],
    &["completions"],
    &["man"],
];

fn help(home: &Home, verb: &[&str]) -> String {
    home.run(verb.iter().copied().chain(["--help"])).ok()
}

#[test]
fn the_help_is_the_committed_one() {
    let home = Home::new();
    let mut all = String::new();
    for verb in VERBS {
        let name = [&["backlot"], *verb].concat().join(" ");
        all += &format!("===== {name} --help\n{}\n", help(&home, verb));
    }
    // What the program prints ends its lines without blanks, as committed text does.
    let all: String = all.lines().map(|l| format!("{}\n", l.trim_end())).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/help.txt");
    if std::env::var_os(BLESS).is_some_and(|v| v == "1") {
        fs::write(&file, &all).expect("written");
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    if committed != all {
        let at = committed.lines().zip(all.lines()).position(|(a, b)| a != b);
        let at = at.unwrap_or(committed.lines().count().min(all.lines().count()));
        panic!(
            "the help differs from {} from line {} on; if that is wanted: {BLESS}=1 cargo test --test cli help\n-{}\n+{}",
            file.display(),
            at + 1,
            committed.lines().nth(at).unwrap_or("(its end)"),
            all.lines().nth(at).unwrap_or("(its end)"),
        );
    }
}

#[test]
fn the_help_names_every_verb() {
    let home = Home::new();
    for parent in [
        &[] as &[&str],
        &["config"],
        &["queue"],
        &["conflict"],
        &["pin"],
        &["cache"],
    ] {
        let text = help(&home, parent);
        let list = text
            .split_once("Commands:\n")
            .expect("a list")
            .1
            .split_once("\n\n")
            .expect("its end")
            .0;
        let mut listed: Vec<_> = list
            .lines()
            .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
            .filter_map(|l| l.split_whitespace().next())
            .filter(|verb| *verb != "help")
            .collect();
        let below = |verb: &&&[&str]| verb.len() == parent.len() + 1 && verb.starts_with(parent);
        let mut known: Vec<_> = VERBS
            .iter()
            .filter(below)
            .filter_map(|verb| verb.last().copied())
            .collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known, "a verb without its help in the committed text");
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let home = Home::new();
    let settings = home.local_settings("");
    let settings = settings.to_str().expect("UTF-8");
    for (args, says) in [
        (vec![], "Usage: backlot"),
        (vec!["statsu"], "'status'"),
        (vec!["mount", "--deamon"], "'--daemon'"),
        (vec!["ls", "--jsno"], "'--json'"),
        (vec!["config"], "check"),
        (vec!["config", "shwo"], "'show'"),
        (vec!["--set", "drive.name", "config", "check"], "expected KEY=VALUE"),
        (
            vec!["-c", settings, "scan", "dmeo"],
            "the projects of these settings: demo",
        ),
        (vec!["-c", settings, "scan", "/etc"], "is not on the drive"),
        (vec!["-c", settings, "ls", "demo/../.."], "is not on the drive"),
    ] {
        home.run(&args).failed(2, &[says]);
    }
}

#[test]
fn the_help_shows_no_value_of_the_environment() {
    let home = Home::new();
    let mut command = home.command();
    command
        .args(["status", "--help"])
        .env("BACKLOT_CONFIG", "/a/private/place");
    let said: crate::home::Said =
        crate::common::drive::run_within(std::time::Duration::from_secs(20), &mut command).into();
    assert!(!said.ok().contains("private"));
}
