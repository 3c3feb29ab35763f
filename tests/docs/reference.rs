//! `docs/configuration.md` is made of the settings' schema: its structures, their comments, their defaults.
//!
//! After a wanted change: `BACKLOT_TEST_BLESS=1 cargo test --test docs reference`, then read the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use backlot_config::{Layer, Loader, render_origin};

const BLESS: &str = "BACKLOT_TEST_BLESS";
const HOME: &str = "/home-of-the-user";

const INTRO: &str = "\
# Settings, one by one

Made from the program's own schema by a test, which also keeps it so; do not edit it by hand.

Settings are TOML. They are read from `/etc/backlot/config.toml`, then `~/.config/backlot/config.toml`, then the files of
`projects.d/` beside those (projects and sites alone); then come variables such as `BACKLOT_CACHE_MAX_SIZE`, then
`--set cache.max-size=200GiB`. What comes later counts. `--config FILE` stands for the first two. `backlot config show --origin`
tells what is in force, and where it comes from; `backlot config init` writes a file to start from.

Sizes: `500MB`, `100GiB`; rates: `10M/s`; times: `250ms`, `20s`, `15min`, `24h`, `7d`. Secrets are references: `env:NAME`, or
`file:/path` to a file that only its owner may read.
";

/// A table of the settings, as the schema says it.
#[derive(Debug, Default)]
struct Section {
    name: String,
    doc: String,
    keys: Vec<(String, String, String)>,
}

/// The structures that are read from settings: those that refuse keys they do not know.
fn sections(source: &str) -> Vec<Section> {
    let mut sections = Vec::new();
    let (mut doc, mut is_read) = (String::new(), false);
    let mut rename = None;
    let mut open: Option<Section> = None;
    for line in source.lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            let _ = write!(doc, "{}{}", if doc.is_empty() { "" } else { " " }, text.trim());
        } else if line.starts_with("#[") {
            is_read |= line.contains("deny_unknown_fields");
            rename = line
                .split_once("rename = \"")
                .and_then(|(_, r)| r.split('"').next())
                .map(str::to_owned)
                .or(rename);
        } else if let Some(name) = line.strip_prefix("pub struct ").and_then(|l| l.strip_suffix(" {")) {
            if is_read {
                open = Some(Section {
                    name: name.to_owned(),
                    doc: std::mem::take(&mut doc),
                    keys: Vec::new(),
                });
            }
            (doc, is_read, rename) = (String::new(), false, None);
        } else if line == "}" {
            sections.extend(open.take());
            (doc, is_read, rename) = (String::new(), false, None);
        } else if let (Some(section), Some((name, kind))) = (
            &mut open,
            line.strip_prefix("pub ")
                .and_then(|l| l.strip_suffix(','))
                .and_then(|l| l.split_once(": ")),
        ) {
            let key = rename
                .take()
                .unwrap_or_else(|| name.trim_start_matches("r#").replace('_', "-"));
            section.keys.push((key, kind.to_owned(), std::mem::take(&mut doc)));
        } else {
            (doc, is_read) = (String::new(), false);
        }
    }
    sections
}

/// What people call a type of the schema.
fn kind(kind: &str) -> String {
    let inner = |of: &str| {
        kind.strip_prefix(of)
            .and_then(|k| k.strip_suffix('>'))
            .map(str::to_owned)
    };
    if let Some(inner) = inner("Option<") {
        return self::kind(&inner);
    }
    if let Some(inner) = inner("Vec<") {
        return format!("list of {}", self::kind(&inner));
    }
    if let Some(inner) = inner("BTreeMap<String, ") {
        return format!("table of {}", self::kind(&inner));
    }
    match kind {
        "PathBuf" => "path",
        "String" => "text",
        "bool" => "`true` or `false`",
        "ByteSize" => "size",
        "Period" => "time",
        "SecretRef" => "secret",
        "Timetable" => "rate or timetable",
        number if number.starts_with('u') && number[1..].parse::<u8>().is_ok() => "number",
        "i64" => "number",
        // What it may be is said in its text.
        _ => "text",
    }
    .to_owned()
}

/// The defaults, by dotted key: of sections, and of one site of each kind, one project, one volume.
fn defaults() -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.toml");
    let text = "schema_version = 1\n\
        [sites.local]\nprovider = \"local\"\nroot = \"/x\"\n[sites.sftp]\nprovider = \"sftp\"\nhost = \"x\"\nroot = \"/x\"\n\
        [sites.exec]\nprovider = \"exec\"\ncommand = [\"/x\"]\n\
        [sites.gdrive]\nprovider = \"gdrive\"\nroot = \"/My Drive/x\"\ncredentials = { linux = [\"/x.json\"] }\n\
        [sites.s3]\nprovider = \"s3\"\nbucket = \"xxx\"\n[sites.webdav]\nprovider = \"webdav\"\nurl = \"https://x.example/x\"\n\
        [projects.NAME]\nremote-site = \"local\"\n[volumes.NAME]\nlinux = \"/x\"\n";
    fs::write(&file, text).expect("written");
    let loader = Loader::new().config_file(Some(file)).home(HOME).env([("USER", "ada")]);
    let loaded = loader.load().unwrap_or_else(|e| panic!("{e}"));
    render_origin(&loaded)
        .into_iter()
        .filter(|row| row.origin.layer == Layer::Default)
        .map(|row| (row.key, row.value.replace(HOME, "~")))
        .collect()
}

/// Where the values of a section are among the defaults: `[sites.NAME]` with `provider = "s3"` is `sites.s3`.
fn prefix(doc: &str) -> Option<String> {
    let name = doc.strip_prefix("`[")?.split("]`").next()?;
    let provider = doc.split_once("provider = \"").and_then(|(_, p)| p.split('"').next());
    Some(match provider {
        Some(provider) => name.replace("NAME", provider),
        None => name.to_owned(),
    })
}

fn made() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/src");
    let mut files: Vec<_> = fs::read_dir(dir).expect("there").flatten().map(|e| e.path()).collect();
    files.sort();
    // The model first, then what is in files of its own.
    let order = ["schema.rs", "sites.rs"];
    files.sort_by_key(|file| {
        order
            .iter()
            .position(|name| file.ends_with(name))
            .unwrap_or(order.len())
    });
    let defaults = defaults();
    let mut out = INTRO.to_owned();
    let mut count = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        for section in sections(&fs::read_to_string(file).expect("read")) {
            let prefix = prefix(&section.doc);
            let (title, doc) = match section.doc.split_once(": ").filter(|_| prefix.is_some()) {
                Some((title, doc)) => (title.to_owned(), doc.to_owned()),
                None => (words(&section.name), section.doc.clone()),
            };
            let _ = write!(out, "\n## {title}\n\n{}\n\n", sentence(&doc));
            for (key, of, doc) in &section.keys {
                let default = prefix
                    .as_ref()
                    .and_then(|prefix| defaults.get(&format!("{prefix}.{key}")));
                let default =
                    default.filter(|d| !doc.contains("Default:") && !doc.contains("Required") && *d != "\"\"");
                let default = default.map(|d| format!(" Default: `{d}`.")).unwrap_or_default();
                let _ = writeln!(out, "- **`{key}`** ({}): {doc}{default}", kind(of));
                count += 1;
            }
        }
    }
    assert!(count > 80, "the schema is read: {count}");
    out
}

/// `SiteLimits` as `Site limits`.
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push(' ');
            out.extend(c.to_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().collect::<String>() + chars.as_str())
        .unwrap_or_default()
}

#[test]
fn the_reference_is_the_schemas() {
    let made = made();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os(BLESS).is_some_and(|v| v == "1") {
        fs::write(&file, &made).expect("written");
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let differs = committed.lines().zip(made.lines()).find(|(a, b)| a != b);
    assert!(
        committed == made,
        "docs/configuration.md is not the schema's; if that is wanted: {BLESS}=1 cargo test --test docs reference\n{differs:#?}"
    );
}

#[test]
fn every_setting_that_has_a_default_is_in_it() {
    let made = made();
    for key in defaults().keys() {
        let last = key.rsplit('.').next().expect("a key");
        assert!(made.contains(&format!("- **`{last}`**")), "no {key}");
    }
}
