//! The layers that are not files: `BACKLOT_…` variables and `--set` flags.
//!
//! Owns the spelling of keys in both. A variable is `BACKLOT_` and the key's names in capitals, every `.` and `-` become
//! `_`: `drive.mount-point` is `BACKLOT_DRIVE_MOUNT_POINT`, `sites.studio.host` is `BACKLOT_SITES_STUDIO_HOST`. A name that
//! no file has is taken in small letters with `-` for `_`. A variable that is set but empty counts as not set.
//! Invariant: a variable that begins with `BACKLOT_` is a setting, is reserved (see [`RESERVED`]), or is an error.

use std::ffi::OsStr;

use crate::error::{ConfigError, did_you_mean};
use crate::origin::{Layer, Place};
use crate::sections::{named_sections, plain_sections};
use crate::tree::{Node, Table, merge};

const PREFIX: &str = "BACKLOT_";
/// How AYON says which site a machine is, and the setting that it stands for. `BACKLOT_MACHINE_SITE_ID` stands above it.
const AYON_SITE_ID: &str = "AYON_SITE_ID";
const SITE_ID: [&str; 2] = ["machine", "site-id"];

/// Variables that are not settings: the log filter by module, the file given as `--config` and the API socket, which are
/// the command line's to read, and the places where a test makes the process die. Reserved too are `BACKLOT_<CODE>_PATH`, this machine's root of the volume CODE, unless it is
/// the name of a setting, and everything that begins with `BACKLOT_TEST_`.
const RESERVED: [&str; 4] = ["LOG", "CONFIG", "SOCKET", "FAILPOINT"];

/// Lays the variables over the tree.
pub(crate) fn apply_variables<'e>(
    tree: &mut Table,
    variables: impl Iterator<Item = (&'e OsStr, &'e OsStr)>,
    errors: &mut Vec<ConfigError>,
) {
    let keys = Keys::of(tree);
    let mut found = Vec::new();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str() else { continue };
        if let (AYON_SITE_ID, Some(id)) = (variable, value.to_str().filter(|id| !id.is_empty())) {
            let place = Place::Variable(variable.to_owned());
            // The first gives way to those that follow.
            found.insert(
                0,
                (
                    SITE_ID.map(str::to_owned).to_vec(),
                    Node::text(id, Layer::Environment, place),
                ),
            );
            continue;
        }
        let Some(name) = variable
            .strip_prefix(PREFIX)
            .filter(|name| !value.is_empty() && !is_reserved(name))
        else {
            continue;
        };
        let place = Place::Variable(variable.to_owned());
        let mut error = |key: &[String], problem: &str, hint| {
            errors.push(ConfigError {
                place: place.clone(),
                key: key.join("."),
                problem: problem.to_owned(),
                hint,
            });
        };
        match (keys.find(name), value.to_str()) {
            (Found::Key(key), Some(value)) => {
                found.push((key, Node::text(value, Layer::Environment, place.clone())));
            }
            (Found::Key(key), None) => error(&key, "the value is not UTF-8", None),
            (Found::Ambiguous(a, b), _) => {
                error(
                    &[],
                    &format!("stands for both `{a}` and `{b}`"),
                    Some("rename one of them".to_owned()),
                );
            }
            (Found::Nothing, _) if is_volume_path(name) => {}
            (Found::Nothing, _) => {
                let known = keys.all_variables();
                error(
                    &[],
                    "no setting has this name",
                    did_you_mean(variable, known.iter().map(String::as_str)),
                );
            }
        }
    }
    for (key, node) in found {
        merge(tree, node.under(&key));
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("TEST_")
}

/// `<CODE>_PATH` where CODE does not read as a section and something in it: there, a misspelt setting is more likely.
fn is_volume_path(name: &str) -> bool {
    let sections = plain_sections()
        .map(|(section, _)| section)
        .into_iter()
        .chain(["sites", "projects", "volumes"]);
    let inside_a_section = |code: &str| {
        sections.into_iter().any(|s| {
            code.strip_prefix(&variable_form(s))
                .is_some_and(|rest| rest.starts_with('_'))
        })
    };
    name.strip_suffix("_PATH")
        .is_some_and(|code| !code.is_empty() && !inside_a_section(code))
}

/// Lays the flags over the tree, the last of several for one key counts.
pub(crate) fn apply_flags(tree: &mut Table, flags: &[(String, String)], errors: &mut Vec<ConfigError>) {
    for (key, value) in flags {
        let place = Place::Flag(key.clone());
        let names: Vec<String> = key.split('.').map(str::to_owned).collect();
        match check_flag(&names) {
            Ok(()) => merge(tree, Node::text(value, Layer::Flag, place).under(&names)),
            Err((problem, hint)) => errors.push(ConfigError {
                place,
                key: key.clone(),
                problem,
                hint,
            }),
        }
    }
}

/// Whether the names lead to a value rather than to a section. Whether that value is known is said when it is read.
fn check_flag(names: &[String]) -> Result<(), (String, Option<String>)> {
    let section = names[0].as_str();
    let plain = plain_sections().map(|(name, _)| name);
    let named = named_sections().map(|(name, _)| name);
    let wanted = match () {
        () if plain.contains(&section) => format!("{section}.KEY"),
        () if named.contains(&section) => format!("{section}.NAME.KEY"),
        () => {
            let hint = did_you_mean(section, plain.into_iter().chain(named));
            return Err((format!("no section is called `{section}`"), hint));
        }
    };
    if names.len() == wanted.split('.').count() && names.iter().all(|name| !name.is_empty()) {
        return Ok(());
    }
    Err((
        "this is not the key of a value".to_owned(),
        Some(format!("write it as {wanted}")),
    ))
}

enum Found {
    Key(Vec<String>),
    Ambiguous(String, String),
    Nothing,
}

/// Every key there can be, and the names that the files give to sites and projects.
struct Keys {
    plain: Vec<(&'static str, &'static str)>,
    named: Vec<(&'static str, Vec<&'static str>, Vec<String>)>,
}

impl Keys {
    fn of(tree: &Table) -> Self {
        let plain = plain_sections().into_iter();
        let names = |section: &str| {
            let members = tree.get(section).and_then(Node::as_table);
            members
                .map(|members| members.keys().cloned().collect())
                .unwrap_or_default()
        };
        Self {
            plain: plain
                .flat_map(|(section, keys)| keys.iter().map(move |key| (section, *key)))
                .collect(),
            named: named_sections()
                .into_iter()
                .map(|(section, keys)| (section, keys, names(section)))
                .collect(),
        }
    }

    /// The key that a variable, less `BACKLOT_`, names.
    fn find(&self, variable: &str) -> Found {
        let plain = self
            .plain
            .iter()
            .find(|(section, key)| variable_form(&format!("{section}.{key}")) == variable);
        if let Some((section, key)) = plain {
            return Found::Key(vec![(*section).to_owned(), (*key).to_owned()]);
        }
        for (section, keys, names) in &self.named {
            let Some(rest) = variable.strip_prefix(&variable_form(&format!("{section}."))) else {
                continue;
            };
            let of_files = names.iter().flat_map(|name| keys.iter().map(move |key| (name, *key)));
            let mut matches = of_files.filter(|(name, key)| variable_form(&format!("{name}.{key}")) == rest);
            match (matches.next(), matches.next()) {
                (Some((name, key)), None) => {
                    return Found::Key(vec![(*section).to_owned(), name.clone(), key.to_owned()]);
                }
                (Some((a, a_key)), Some((b, b_key))) => {
                    return Found::Ambiguous(format!("{section}.{a}.{a_key}"), format!("{section}.{b}.{b_key}"));
                }
                (None, _) => {}
            }
            // The longest key that ends it, so that `A_KEY_FILE` is `key-file` of `a`; what is before it is a new name.
            let endings = keys.iter().filter_map(|key| {
                let name = rest.strip_suffix(&variable_form(key))?.strip_suffix('_')?;
                (!name.is_empty()).then_some((*key, name))
            });
            if let Some((key, name)) = endings.max_by_key(|(key, _)| key.len()) {
                let name = name.to_ascii_lowercase().replace('_', "-");
                return Found::Key(vec![(*section).to_owned(), name, key.to_owned()]);
            }
        }
        Found::Nothing
    }

    fn all_variables(&self) -> Vec<String> {
        let plain = self.plain.iter().map(|(section, key)| format!("{section}.{key}"));
        let named = self.named.iter().flat_map(|(section, keys, names)| {
            names
                .iter()
                .flat_map(move |name| keys.iter().map(move |key| format!("{section}.{name}.{key}")))
        });
        let settings = plain.chain(named).map(|key| format!("{PREFIX}{}", variable_form(&key)));
        settings
            .chain(RESERVED.iter().map(|name| format!("{PREFIX}{name}")))
            .collect()
    }
}

/// A dotted key as it is written in a variable's name.
fn variable_form(key: &str) -> String {
    key.to_ascii_uppercase().replace(['.', '-'], "_")
}
