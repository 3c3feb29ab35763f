//! git: clone, check, commit, pack again, push.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::tree::{Random, bytes};
use crate::manifest::Manifest;
use crate::stage::{Stage, TOOL, Zone, or_skip, program, runs, staged};

const FILES: u64 = 400;
const COMMITS: u64 = 12;

/// git as if nobody had ever configured it. Nothing runs on in the background: it would keep the drive in use.
fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    let config = [
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("init.defaultBranch", "main"),
        ("user.name", "Someone"),
        ("user.email", "someone@example.com"),
        ("protocol.file.allow", "always"),
        ("advice.detachedHead", "false"),
    ];
    for (i, (key, value)) in config.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{i}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{i}"), value);
    }
    command
        .env("GIT_CONFIG_COUNT", config.len().to_string())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("LC_ALL", "C")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .arg("-C")
        .arg(dir);
    command
}

fn told<const N: usize>(dir: &Path, args: [&str; N]) -> String {
    runs(TOOL, git(dir).args(args))
}

/// Some lines of text: what git can pack well.
fn text(random: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..random.below(200) {
        writeln!(text, "knob {} {}", random.below(40), random.next()).unwrap();
    }
    text
}

/// A repository with a history: files come, change and go.
fn repository(at: &Path) {
    fs::create_dir(at).unwrap();
    told(at, ["init", "--quiet"]);
    let mut random = Random::new(3);
    let path = |i: u64| at.join(format!("shots/sq{:02}/node_{i:04}.nk", i % 17));
    for commit in 0..COMMITS {
        for i in 0..FILES {
            if commit == 0 || random.below(8) == 0 {
                fs::create_dir_all(path(i).parent().unwrap()).unwrap();
                fs::write(path(i), text(&mut random)).unwrap();
            }
        }
        let gone = path(random.below(FILES));
        if gone.exists() {
            fs::remove_file(gone).unwrap();
        }
        fs::write(at.join("plate.exr"), bytes(commit, 0, 1_500_000)).unwrap();
        fs::write(at.join("render.sh"), format!("#!/bin/sh\necho {commit}\n")).unwrap();
        fs::set_permissions(at.join("render.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        if commit == 1 {
            symlink("plate.exr", at.join("latest.exr")).unwrap();
        }
        told(at, ["add", "--all"]);
        told(at, ["commit", "--quiet", "--message", &format!("commit {commit}")]);
    }
}

fn is_sound(repository: &Path) {
    let out = crate::common::drive::run_within(TOOL, git(repository).args(["fsck", "--full", "--strict"]));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "git fsck: {said}");
    for bad in ["error", "missing", "corrupt", "broken"] {
        assert!(!said.contains(bad), "git fsck: {said}");
    }
    assert_eq!(told(repository, ["status", "--porcelain"]), "", "nothing is modified");
}

fn check(stage: &mut Stage) {
    let origin = stage.scratch().join("origin");
    repository(&origin);
    let url = format!("file://{}", origin.display());
    told(stage.folder(), ["clone", "--quiet", &url, "clone"]);
    let clone = stage.folder().join("clone");
    is_sound(&clone);
    assert_eq!(
        told(&clone, ["rev-parse", "HEAD"]),
        told(&origin, ["rev-parse", "HEAD"])
    );
    let tree = |dir: &Path| Manifest::of(dir).without(".git").bytes();
    assert!(tree(&clone).len() > 300, "{} files", tree(&clone).len());
    assert_eq!(tree(&origin).differences(&tree(&clone)), None);
    assert_eq!(fs::read_link(clone.join("latest.exr")).unwrap(), Path::new("plate.exr"));

    // Back in time and forth again: many files are replaced and removed.
    told(&clone, ["checkout", "--quiet", "main~8"]);
    is_sound(&clone);
    told(&clone, ["checkout", "--quiet", "main"]);
    fs::write(clone.join("note.txt"), "one more\n").unwrap();
    told(&clone, ["mv", "render.sh", "farm.sh"]);
    told(&clone, ["add", "--all"]);
    told(&clone, ["commit", "--quiet", "--message", "ours"]);
    told(&clone, ["gc", "--quiet", "--aggressive", "--prune=now"]);
    is_sound(&clone);
    told(&clone, ["push", "--quiet", "origin", "main:ours"]);
    is_sound(&origin);
    assert_eq!(
        told(&clone, ["rev-parse", "HEAD"]),
        told(&origin, ["rev-parse", "ours"])
    );
    assert!(Manifest::of(&clone.join(".git/objects")).len() < 20, "it was packed");
}

fn git_in(zone: Zone) {
    if or_skip("git", program("BACKLOT_TEST_GIT", "git")).is_some() {
        staged(zone, TOOL, check);
    }
}

#[test]
fn git_in_a_work_folder() {
    git_in(Zone::Work);
}

#[test]
fn git_in_a_publish_folder() {
    git_in(Zone::Publish);
}
