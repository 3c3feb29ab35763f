//! From the tree of values to the typed model, section by section.
//!
//! Owns the list of sections, which settings a site has by its provider, and reporting every value that does not fit.
//! Refuses to know where values come from, and whether they make sense together.
//! Invariant: a value that was reported is marked bad in the tree and counts as absent, so that nothing is reported twice.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use crate::copies::Copies;
use crate::de::{self, Kind, Step, keys_of};
use crate::error::{ConfigError, did_you_mean};
use crate::fuse::Fuse;
use crate::notify::{Notify, Receiver};
use crate::origin::Place;
use crate::schema::{Api, Cache, Config, Drive, Firewall, Hydration, Log, Machine, Project, Publish, Scan, Volume};
use crate::sites::{ExecSite, GdriveSite, LocalSite, ProviderSettings, S3Site, SftpSite, Site, SiteLimits, WebdavSite};
use crate::sync::Sync;
use crate::tree::{Node, Table, Value};
use crate::workfiles::Workfiles;

const PROVIDER: &str = "provider";

/// The sections that are one table each, with their keys.
pub(crate) fn plain_sections() -> [(&'static str, &'static [&'static str]); 14] {
    [
        ("drive", keys_of::<Drive>()),
        ("machine", keys_of::<Machine>()),
        ("cache", keys_of::<Cache>()),
        ("hydration", keys_of::<Hydration>()),
        ("firewall", keys_of::<Firewall>()),
        ("scan", keys_of::<Scan>()),
        ("publish", keys_of::<Publish>()),
        ("sync", keys_of::<Sync>()),
        ("copies", keys_of::<Copies>()),
        ("notify", keys_of::<Notify>()),
        ("workfiles", keys_of::<Workfiles>()),
        ("fuse", keys_of::<Fuse>()),
        ("api", keys_of::<Api>()),
        ("log", keys_of::<Log>()),
    ]
}

/// The sections that hold one table per name, with the keys of each such table.
pub(crate) fn named_sections() -> [(&'static str, Vec<&'static str>); 4] {
    let mut site_keys = vec![PROVIDER];
    for (_, keys) in provider_keys().into_iter().chain([("", keys_of::<SiteLimits>())]) {
        site_keys.extend(keys.iter().filter(|key| !site_keys.contains(key)).collect::<Vec<_>>());
    }
    [
        ("sites", site_keys),
        ("projects", keys_of::<Project>().to_vec()),
        ("volumes", keys_of::<Volume>().to_vec()),
        ("receivers", keys_of::<Receiver>().to_vec()),
    ]
}

/// The kinds of sites, with their keys.
fn provider_keys() -> [(&'static str, &'static [&'static str]); 6] {
    [
        ("local", keys_of::<LocalSite>()),
        ("sftp", keys_of::<SftpSite>()),
        ("s3", keys_of::<S3Site>()),
        ("webdav", keys_of::<WebdavSite>()),
        ("exec", keys_of::<ExecSite>()),
        ("gdrive", keys_of::<GdriveSite>()),
    ]
}

fn is_limit(key: &str) -> bool {
    keys_of::<SiteLimits>().contains(&key)
}

fn is_provider_setting(key: &str) -> bool {
    key != PROVIDER && !is_limit(key)
}

/// Reads all sections, adding what is wrong to `errors`.
pub(crate) fn build(tree: &mut Table, errors: &mut Vec<ConfigError>) -> Config {
    let mut builder = Builder { errors };
    builder.unknown_sections(tree);
    Config {
        drive: builder.section(tree, "drive"),
        machine: builder.section(tree, "machine"),
        cache: builder.section(tree, "cache"),
        sites: builder.named(tree, "sites", Builder::site),
        projects: builder.named(tree, "projects", |builder, node, section| {
            Some(builder.read(node, section))
        }),
        volumes: builder.named(tree, "volumes", |builder, node, section| {
            Some(builder.read(node, section))
        }),
        receivers: builder.named(tree, "receivers", |builder, node, section| {
            Some(builder.read(node, section))
        }),
        hydration: builder.section(tree, "hydration"),
        firewall: builder.section(tree, "firewall"),
        scan: builder.section(tree, "scan"),
        publish: builder.section(tree, "publish"),
        sync: builder.section(tree, "sync"),
        copies: builder.section(tree, "copies"),
        notify: builder.section(tree, "notify"),
        workfiles: builder.section(tree, "workfiles"),
        fuse: builder.section(tree, "fuse"),
        api: builder.section(tree, "api"),
        log: builder.section(tree, "log"),
    }
}

struct Builder<'a> {
    errors: &'a mut Vec<ConfigError>,
}

impl Builder<'_> {
    fn unknown_sections(&mut self, tree: &mut Table) {
        let mut known: Vec<&str> = plain_sections().iter().map(|(name, _)| *name).collect();
        known.extend(named_sections().iter().map(|(name, _)| *name));
        known.push("schema_version");
        for (key, node) in tree.iter_mut().filter(|(key, _)| !known.contains(&key.as_str())) {
            node.bad = true;
            self.errors.push(ConfigError {
                place: node.key_place.clone(),
                key: key.clone(),
                problem: match node.value {
                    Value::Table(_) => format!("unknown section [{key}]"),
                    _ => format!("unknown key `{key}`"),
                },
                hint: did_you_mean(key, known.iter().copied())
                    .or_else(|| Some(format!("known are {}", known.join(", ")))),
            });
        }
    }

    fn section<T: DeserializeOwned + Default>(&mut self, tree: &mut Table, name: &str) -> T {
        tree.get_mut(name).map(|node| self.read(node, name)).unwrap_or_default()
    }

    fn named<T>(
        &mut self,
        tree: &mut Table,
        name: &str,
        mut read: impl FnMut(&mut Self, &mut Node, &str) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(node) = tree.get_mut(name) else {
            return BTreeMap::new();
        };
        let Value::Table(members) = &mut node.value else {
            node.bad = true;
            let problem = format!("{name}: must hold one table per name, as in [{name}.NAME]");
            self.errors.push(ConfigError {
                place: node.place.clone(),
                key: name.to_owned(),
                problem,
                hint: None,
            });
            return BTreeMap::new();
        };
        let mut all = BTreeMap::new();
        for (member, node) in members {
            if let Some(value) = read(self, node, &format!("{name}.{member}")) {
                all.insert(member.clone(), value);
            }
        }
        all
    }

    /// The provider comes first, for it decides which other keys there are.
    fn site(&mut self, node: &mut Node, section: &str) -> Option<Site> {
        let Value::Table(table) = &mut node.value else {
            self.read::<SiteLimits>(node, section); // as any section would, says that it must be a table
            return None;
        };
        let names = ProviderSettings::NAMES;
        let Some(provider) = table.get_mut(PROVIDER) else {
            self.errors.push(ConfigError {
                place: node.key_place.clone(),
                key: format!("{section}.{PROVIDER}"),
                problem: format!("{section}: `{PROVIDER}` is missing"),
                hint: Some(format!("one of {}", names.join(", "))),
            });
            return None;
        };
        let name = match &provider.value {
            Value::Str(text) | Value::Text(text) => text.clone(),
            _ => String::new(),
        };
        let settings = match name.as_str() {
            "local" => ProviderSettings::Local(self.provider_settings(node, section, "local")),
            "sftp" => ProviderSettings::Sftp(self.provider_settings(node, section, "sftp")),
            "exec" => ProviderSettings::Exec(self.provider_settings(node, section, "exec")),
            "gdrive" => ProviderSettings::Gdrive(self.provider_settings(node, section, "gdrive")),
            "s3" => ProviderSettings::S3(self.provider_settings(node, section, "s3")),
            "webdav" => ProviderSettings::Webdav(self.provider_settings(node, section, "webdav")),
            _ => {
                provider.bad = true;
                let key = format!("{section}.{PROVIDER}");
                self.errors.push(ConfigError {
                    place: provider.place.clone(),
                    problem: format!("{key}: must be one of {}", names.join(", ")),
                    hint: did_you_mean(&name, names.iter().copied()),
                    key,
                });
                return None;
            }
        };
        let limits = self.read_keys(node, section, is_limit, &|_, _| None);
        Some(Site {
            provider: settings,
            limits,
        })
    }

    fn provider_settings<T: DeserializeOwned + Default>(
        &mut self,
        node: &mut Node,
        section: &str,
        provider: &str,
    ) -> T {
        let unknown = |key: &str, known: &[&'static str]| {
            let mut known = known.to_vec();
            known.push(PROVIDER);
            known.extend(keys_of::<SiteLimits>());
            let elsewhere = || {
                let others = provider_keys().into_iter().filter(|(_, keys)| keys.contains(&key));
                let others: Vec<_> = others.map(|(name, _)| name).collect();
                (!others.is_empty()).then(|| format!("it belongs to provider {}", others.join(", ")))
            };
            let hint = elsewhere().or_else(|| known_keys_hint(key, &known));
            Some((
                format!("unknown key `{key}` in [{section}] (provider {provider})"),
                hint,
            ))
        };
        self.read_keys(node, section, is_provider_setting, &unknown)
    }

    fn read<T: DeserializeOwned + Default>(&mut self, node: &mut Node, section: &str) -> T {
        self.read_keys(node, section, |_| true, &|_, _| None)
    }

    /// Reads a section; what is wrong is reported, marked bad, and then passed over, until the rest can be read.
    /// `unknown` words the report of an unknown key of the section itself, or leaves it to the usual words.
    fn read_keys<T: DeserializeOwned + Default>(
        &mut self,
        node: &mut Node,
        section: &str,
        keep: fn(&str) -> bool,
        unknown: &UnknownKey<'_>,
    ) -> T {
        loop {
            let error = match de::read(node, keep) {
                Ok(value) => return value,
                Err(error) => error,
            };
            let key = dotted(section, &error.path);
            let culprit = mark_bad(node, &error.path);
            let report = match error.kind {
                Kind::Value(problem, hint) => Some(ConfigError {
                    place: culprit.place,
                    problem: format!("{key}: {problem}"),
                    key,
                    hint,
                }),
                // What is missing may be there, misspelt or with a value that was passed over.
                Kind::Missing(_) if culprit.holds_bad => None,
                Kind::Missing(field) => {
                    let problem = format!("{key}: `{field}` is missing");
                    Some(ConfigError {
                        place: culprit.place,
                        problem,
                        key,
                        hint: None,
                    })
                }
                Kind::UnknownKey(known) => Some(unknown_key(culprit.key_place, section, &error.path, known, unknown)),
            };
            self.errors.extend(report);
            // The section is no table, or is misread for ever: nothing in it can be had.
            if error.path.is_empty() || culprit.already_bad {
                return T::default();
            }
        }
    }
}

/// Words for an unknown key of a section, given the key and those that are known: problem and hint.
type UnknownKey<'a> = dyn Fn(&str, &[&'static str]) -> Option<(String, Option<String>)> + 'a;

fn unknown_key(
    place: Place,
    section: &str,
    path: &[Step],
    known: &[&'static str],
    words: &UnknownKey<'_>,
) -> ConfigError {
    let name = match path.first() {
        Some(Step::Key(name)) => name.as_str(),
        Some(Step::Index(_)) | None => "",
    };
    let usual = |parent: &str| {
        (
            format!("unknown key `{name}` in {parent}"),
            known_keys_hint(name, known),
        )
    };
    let (problem, hint) = match path {
        [] | [_] => words(name, known).unwrap_or_else(|| usual(&format!("[{section}]"))),
        [_, outside @ ..] => usual(&dotted(section, outside)),
    };
    ConfigError {
        place,
        key: dotted(section, path),
        problem,
        hint,
    }
}

fn known_keys_hint(key: &str, known: &[&'static str]) -> Option<String> {
    did_you_mean(key, known.iter().copied()).or_else(|| Some(format!("known are {}", known.join(", "))))
}

fn dotted(section: &str, path: &[Step]) -> String {
    path.iter().rev().fold(section.to_owned(), |key, step| match step {
        Step::Key(name) => format!("{key}.{name}"),
        Step::Index(index) => format!("{key}[{index}]"),
    })
}

/// The node that was marked.
struct Culprit {
    place: Place,
    key_place: Place,
    already_bad: bool,
    /// It is a table with a value that was reported before.
    holds_bad: bool,
}

/// Marks the node at the end of the path, innermost step first, or the last that is there on the way: a list written in a
/// variable or a flag is one text in the tree.
fn mark_bad(node: &mut Node, path: &[Step]) -> Culprit {
    if let Some((step, rest)) = path.split_last() {
        let inner = match (&mut node.value, step) {
            (Value::Table(table), Step::Key(name)) => table.get_mut(name),
            (Value::List(nodes), Step::Index(index)) => nodes.get_mut(*index),
            _ => None,
        };
        if let Some(inner) = inner {
            return mark_bad(inner, rest);
        }
    }
    let already_bad = std::mem::replace(&mut node.bad, true);
    Culprit {
        place: node.place.clone(),
        key_place: node.key_place.clone(),
        already_bad,
        holds_bad: node.as_table().is_some_and(|table| table.values().any(|node| node.bad)),
    }
}
