//! Who may import whom. Reads the sources and holds them against one table; a new arrow fails with the rule's text.
#![expect(clippy::unwrap_used, reason = "a source that can't be read is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the root package: what each may use of ours, which crates it must never see, and why.
struct Rule {
    module: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
    why: &'static str,
}

const HOSTS: &[&str] = &["fuser", "winfsp", "axum", "clap", "ssh2", "russh", "reqwest"];

const RULES: &[Rule] = &[
    Rule {
        module: "model",
        may_use: &[],
        never: &[
            "tokio",
            "rusqlite",
            "futures",
            "backlot_cache",
            "backlot_platform",
            "backlot_config",
            "axum",
            "clap",
        ],
        why: "model is pure: values that everything else speaks in",
    },
    Rule {
        module: "state",
        may_use: &["model", "failpoint"],
        never: &[
            "backlot_config",
            "backlot_cache",
            "backlot_platform",
            "fuser",
            "axum",
            "clap",
            "russh",
            "reqwest",
        ],
        why: "the store knows rows and nothing of where they come from",
    },
    Rule {
        module: "providers",
        may_use: &["model", "failpoint"],
        never: &["backlot_cache", "backlot_platform", "rusqlite", "fuser", "axum", "clap"],
        why: "a provider has no memory: it knows neither store nor cache nor drive",
    },
    Rule {
        module: "transfer",
        may_use: &["model", "state", "providers", "failpoint"],
        never: &[
            "backlot_cache",
            "backlot_platform",
            "backlot_config",
            "rusqlite",
            "fuser",
            "axum",
            "clap",
            "russh",
            "reqwest",
        ],
        why: "transfers ask whoever owns the files through a trait; they know neither drive nor cache",
    },
    Rule {
        module: "engine",
        may_use: &["model", "state", "providers", "transfer", "failpoint"],
        never: HOSTS,
        why: "the engine implements VirtualFs and is driven by whatever hosts it; it never sees a host",
    },
    Rule {
        module: "notify",
        may_use: &["model", "state", "failpoint"],
        never: &[
            "backlot_cache",
            "backlot_platform",
            "rusqlite",
            "fuser",
            "axum",
            "clap",
            "russh",
        ],
        why: "whoever tells people reads the outbox; it knows neither drive nor transfers",
    },
    Rule {
        module: "api",
        may_use: &["model", "engine", "state", "notify", "telemetry", "web", "failpoint"],
        never: &[
            "backlot_cache",
            "backlot_platform",
            "rusqlite",
            "fuser",
            "clap",
            "russh",
            "reqwest",
        ],
        why: "the API is a view of the engine's facade",
    },
    Rule {
        module: "web",
        may_use: &[],
        never: &[
            "tokio",
            "axum",
            "backlot_cache",
            "backlot_platform",
            "backlot_config",
            "rusqlite",
            "fuser",
            "clap",
        ],
        why: "the page is files; what it shows it asks of the API like everybody",
    },
    Rule {
        module: "daemon",
        may_use: &["model", "engine", "api", "providers", "notify", "failpoint"],
        never: &["backlot_cache", "rusqlite", "fuser", "clap", "russh", "reqwest"],
        why: "the daemon puts the parts together and does nothing they do",
    },
    Rule {
        module: "cli",
        may_use: &[
            "model",
            "engine",
            "api",
            "daemon",
            "state",
            "notify",
            "telemetry",
            "failpoint",
        ],
        never: &["backlot_cache", "rusqlite", "fuser", "russh", "axum"],
        why: "a verb is a client of the API; it does not reach behind it",
    },
    Rule {
        module: "failpoint",
        may_use: &[],
        never: &[
            "backlot_cache",
            "backlot_platform",
            "backlot_config",
            "rusqlite",
            "tokio",
            "fuser",
            "axum",
            "clap",
        ],
        why: "a failpoint is passed anywhere, so it knows nothing",
    },
    Rule {
        module: "telemetry",
        may_use: &[],
        never: &["backlot_cache", "backlot_platform", "rusqlite", "fuser", "axum", "clap"],
        why: "the log is told things; it asks for nothing",
    },
];

const LEAVES: &[&str] = &["config", "cache", "platform"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out
}

/// The sources of a module of the root package: its folder, or its one file.
fn module_sources(root: &Path, module: &str) -> Vec<PathBuf> {
    let file = root.join(module).with_extension("rs");
    if file.exists() {
        vec![file]
    } else {
        sources(&root.join(module))
    }
}

/// The code of a file without its comments and strings' worth of trouble: whole-line comments are dropped.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// First path segments that follow `prefix` in the code, such as `crate::` or nothing.
fn segments_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(top_level(group).into_iter().map(|s| ident(s.trim())));
        } else {
            found.insert(ident(rest));
        }
    }
    found.remove("");
    found
}

/// The parts of a `use` group, split at its own commas and ended at its own brace.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

fn ident(s: &str) -> String {
    s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        !code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn the_arrows_of_the_root_package_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<_> = RULES.iter().map(|r| r.module.to_owned()).collect();
    let mut seen = BTreeSet::new();
    let mut broken = Vec::new();
    for rule in RULES {
        for file in module_sources(&root, rule.module) {
            seen.insert(rule.module);
            let code = code(&file);
            let shown = file.strip_prefix(&root).unwrap().display().to_string();
            for used in segments_after(&code, "crate::") {
                if modules.contains(&used) && used != rule.module && !rule.may_use.contains(&used.as_str()) {
                    broken.push(format!("src/{shown} uses crate::{used}; {}: {}", rule.module, rule.why));
                }
            }
            for never in rule.never {
                if names_crate(&code, never) {
                    broken.push(format!("src/{shown} uses {never}; {}: {}", rule.module, rule.why));
                }
            }
        }
    }
    assert_eq!(seen.len(), RULES.len(), "a module of the table is gone");
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            modules.contains(&name) || name == "lib" || name == "main",
            "src/{name} has no rule; add it to the table"
        );
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn leaf_crates_know_neither_each_other_nor_the_root() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for leaf in LEAVES {
        let manifest = fs::read_to_string(root.join(leaf).join("Cargo.toml")).unwrap();
        assert!(
            !manifest.contains("backlot-") || manifest.matches("backlot-").count() == 1,
            "{leaf} depends on ours"
        );
        for file in sources(&root.join(leaf).join("src")) {
            let code = code(&file);
            for other in LEAVES.iter().filter(|l| l != &leaf) {
                assert!(
                    !names_crate(&code, &format!("backlot_{other}")),
                    "{} uses {other}",
                    file.display()
                );
            }
            assert!(
                !names_crate(&code, "backlot"),
                "{} uses the root package",
                file.display()
            );
        }
    }
}

#[test]
fn every_module_says_what_it_owns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut silent = Vec::new();
    for dir in ["src", "config/src", "cache/src", "platform/src"] {
        for file in sources(&root.join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            let is_tests = file.file_stem().is_some_and(|s| s == "tests");
            if !is_tests && !text.trim_start().starts_with("//!") {
                silent.push(file.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    assert!(silent.is_empty(), "no //! at the top of: {silent:?}");
}

#[test]
fn the_table_catches_an_arrow_that_points_up() {
    let code = "use crate::{engine::{drive, link}, model::Ino};\nfn f() { crate::api::bind(); mycrate::x(); }";
    assert_eq!(
        segments_after(code, "crate::"),
        ["api", "engine", "model"].map(str::to_owned).into()
    );
    assert!(names_crate("let x = fuser::mount();", "fuser"));
    assert!(!names_crate("let x = my_fuser::mount();", "fuser"));
}
