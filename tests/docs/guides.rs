//! Every command of the guides is run, in order, as the reader would; every settings example is one that loads.
//!
//! Blocks fenced as `console` are commands, each after `$ `; blocks fenced as `toml` are settings. Other blocks are not run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::drive::{Builder, drive_test, find_program, run_within, say};

/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts of the blocks of a kind.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once(&format!("\n```{kind}\n")) {
        let (block, after) = after.split_once("\n```").expect("a block has an end");
        blocks.push(block.to_owned());
        rest = after;
    }
    blocks
}

fn pages() -> Vec<(PathBuf, String)> {
    let guides = fs::read_dir(root().join("docs/guide")).expect("there");
    let mut pages: Vec<_> = guides.flatten().map(|entry| entry.path()).collect();
    pages.sort();
    assert_eq!(pages.len(), 4, "a guide for each role");
    pages
        .into_iter()
        .map(|page| (page.clone(), fs::read_to_string(page).expect("read")))
        .collect()
}

fn run_the_commands(name: &'static str) {
    drive_test(move || {
        let page = root().join("docs/guide").join(name);
        let page = fs::read_to_string(page).expect("read");
        let (site, home) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let project = site.path().join("sq010");
        fs::create_dir_all(project.join("plates")).expect("made");
        fs::create_dir_all(project.join("publish")).expect("made");
        for frame in 1001..1004 {
            fs::write(project.join(format!("plates/plate.{frame}.exr")), vec![7; 300_000]).expect("written");
        }
        fs::write(project.join("comp.nk"), "Root {}").expect("written");
        let drive = Builder::local(site.path())
            .set("publish.settle", "50ms")
            .set("volumes.storage.linux", "/storage")
            .set("volumes.storage.windows", "S:\\")
            .build()
            .mounted();
        symlink(drive.mount_point(), home.path().join("backlot")).expect("linked");
        fs::write(project.join("publish/earlier.nk"), "Root {}").expect("written");
        let programs = Path::new(env!("CARGO_BIN_EXE_backlot")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let commands: Vec<_> = blocks(&page, "console")
            .iter()
            .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert!(commands.len() > 5, "{name} has commands");
        for line in commands {
            let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}"));
            let needs = ["curl", "getfattr", "python3"]
                .into_iter()
                .find(|p| command.contains(p));
            if let Some(needs) = needs.filter(|needs| find_program(needs).is_none()) {
                assert!(std::env::var_os("BACKLOT_TEST_REQUIRE_TOOLS").is_none(), "no {needs}");
                say(&format!("SKIPPED: tools (no {needs})"));
                continue;
            }
            let mut shell = Command::new("bash");
            shell
                .args(["-euo", "pipefail", "-c", command])
                .env("HOME", home.path())
                .env("PATH", format!("{}:{path}", programs.display()))
                .env("BACKLOT_CONFIG", drive.settings())
                .env("BACKLOT_DATA", drive.data_dir())
                .current_dir(home.path());
            let out = run_within(COMMAND, &mut shell);
            assert!(
                out.status.success(),
                "{name}: {command}\n{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
        }
        // A guide may have mounted it by itself.
        drop(drive.run(["unmount", "--lazy"]));
    });
}

#[test]
fn the_commands_of_the_artists_guide_run() {
    run_the_commands("artist.md");
}

#[test]
fn the_commands_of_the_coordinators_guide_run() {
    run_the_commands("coordinator.md");
}

#[test]
fn the_commands_of_the_administrators_guide_run() {
    run_the_commands("admin.md");
}

#[test]
fn the_commands_of_the_developers_guide_run() {
    run_the_commands("developer.md");
}

#[test]
fn the_settings_of_the_guides_load() {
    let mut count = 0;
    for (page, text) in pages() {
        for block in blocks(&text, "toml") {
            let dir = tempfile::tempdir().expect("a folder");
            let file = dir.path().join("config.toml");
            fs::write(&file, format!("schema_version = 1\n{block}")).expect("written");
            let loaded = backlot_config::Loader::new()
                .config_file(Some(file))
                .home("/home/ada")
                .load();
            loaded.unwrap_or_else(|e| panic!("{}: {e}\n{block}", page.display()));
            count += 1;
        }
    }
    assert!(count > 1);
}

#[test]
fn what_the_documentation_points_to_is_there() {
    let docs = root().join("docs");
    let mut broken = Vec::new();
    for dir in [docs.clone(), docs.join("guide"), root().to_owned()] {
        for page in fs::read_dir(&dir).expect("there").flatten().map(|entry| entry.path()) {
            if page.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&page).expect("read");
            for (_, link) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
                let link = link.split(')').next().unwrap_or_default();
                let target = link.split('#').next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && !dir.join(target).exists() {
                    broken.push(format!("{}: {link}", page.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The verbs that a page speaks of, in backquotes, with their flags.
#[test]
fn the_verbs_that_the_pages_name_are_known() {
    let program = env!("CARGO_BIN_EXE_backlot");
    let known = |words: &[&str]| {
        let out = run_within(COMMAND, Command::new(program).args(words).arg("--help"));
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let mut pages = pages();
    for page in ["docs/troubleshooting.md", "README.md"] {
        let page = root().join(page);
        pages.push((page.clone(), fs::read_to_string(page).expect("read")));
    }
    let mut seen = 0;
    for (page, text) in pages {
        for quoted in text
            .split('`')
            .filter(|quoted| quoted.starts_with("backlot ") && !quoted.contains('\n'))
        {
            let mut words = quoted.split_whitespace().skip(1);
            let Some(verb) = words
                .next()
                .filter(|verb| verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            else {
                continue;
            };
            let help = known(&[verb]).unwrap_or_else(|| panic!("{}: `{quoted}`: no verb {verb}", page.display()));
            for flag in words.filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap_or(flag);
                assert!(help.contains(flag), "{}: `{quoted}`: no {flag}", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
