//! Where each value comes from: its layer, and the place in a file, the variable or the flag that gave it.
//!
//! Owns the words for places and the table `backlot config show --origin` prints. Refuses to know how layers are read.
//! Invariant: a key absent from [`Origins`] has its default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::layers::Loaded;
use crate::sites::{ProviderSettings, Site};

/// The layers of settings, weakest first: a later one overrides the ones before it, key by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Built in.
    Default,
    /// The machine's file, /etc/backlot/config.toml.
    System,
    /// The user's file, ~/.config/backlot/config.toml.
    User,
    /// The file given with `--config`, which stands for both of the above.
    Given,
    /// A file of `projects.d`.
    Project,
    /// A `BACKLOT_…` variable.
    Environment,
    /// `--set KEY=VALUE`.
    Flag,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::System => "system",
            Self::User => "user",
            Self::Given => "given",
            Self::Project => "project",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// A position in a text file; line and column count characters from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// What to point at when speaking of a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file, or a position in it.
    File(Arc<Path>, Option<Position>),
    /// An environment variable, by name.
    Variable(String),
    /// A `--set` flag, by key.
    Flag(String),
    /// Nothing a user wrote.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::File(path, Some(at)) => write!(f, "{}:{}:{}", path.display(), at.line, at.column),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(key) => write!(f, "--set {key}"),
            Self::Nowhere => Ok(()),
        }
    }
}

/// Where one value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The layer that had the last word.
    pub layer: Layer,
    /// The key's place in that layer.
    pub place: Place,
}

impl Origin {
    const DEFAULT: Self = Self {
        layer: Layer::Default,
        place: Place::Nowhere,
    };
}

/// Prints `system /etc/backlot/config.toml:12`, `environment BACKLOT_DRIVE_NAME`, `flag --set drive.name` or `default`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Nowhere => write!(f, "{}", self.layer),
            Place::File(path, Some(at)) => write!(f, "{} {}:{}", self.layer, path.display(), at.line),
            place => write!(f, "{} {place}", self.layer),
        }
    }
}

/// The origin of each value that is not a default, by dotted key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    by_key: BTreeMap<String, Origin>,
}

impl Origins {
    /// Returns where the value of a dotted key such as `drive.mount-point` comes from.
    #[must_use]
    pub fn get(&self, key: &str) -> &Origin {
        self.by_key.get(key).unwrap_or(&Origin::DEFAULT)
    }

    pub(crate) fn insert(&mut self, key: String, origin: Origin) {
        self.by_key.insert(key, origin);
    }
}

/// One line of `backlot config show --origin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Dotted key.
    pub key: String,
    /// The value in effect, as TOML; a secret shows as its reference.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Returns every setting in effect with its origin, section by section. Optional settings that are not set have no row.
#[must_use]
pub fn render_origin(loaded: &Loaded) -> Vec<Row> {
    let config = &loaded.config;
    let mut rows = Rows {
        origins: &loaded.origins,
        rows: Vec::new(),
    };
    rows.section("drive", table(&config.drive));
    rows.section("machine", table(&config.machine));
    rows.section("cache", table(&config.cache));
    for (name, site) in &config.sites {
        rows.section(&format!("sites.{name}"), site_table(site));
    }
    for (name, project) in &config.projects {
        rows.section(&format!("projects.{name}"), table(project));
    }
    for (name, volume) in &config.volumes {
        rows.section(&format!("volumes.{name}"), table(volume));
    }
    for (name, receiver) in &config.receivers {
        rows.section(&format!("receivers.{name}"), table(receiver));
    }
    rows.section("hydration", table(&config.hydration));
    rows.section("firewall", table(&config.firewall));
    rows.section("scan", table(&config.scan));
    rows.section("publish", table(&config.publish));
    rows.section("copies", table(&config.copies));
    rows.section("notify", table(&config.notify));
    rows.section("workfiles", table(&config.workfiles));
    rows.section("fuse", table(&config.fuse));
    rows.section("api", table(&config.api));
    rows.section("log", table(&config.log));
    rows.rows
}

struct Rows<'a> {
    origins: &'a Origins,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn section(&mut self, name: &str, table: toml::Table) {
        for (key, value) in table {
            let key = format!("{name}.{key}");
            if let toml::Value::Table(inner) = value {
                self.section(&key, inner);
                continue;
            }
            let origin = self.origins.get(&key).clone();
            self.rows.push(Row {
                key,
                value: value.to_string(),
                origin,
            });
        }
    }
}

fn table(section: &impl Serialize) -> toml::Table {
    toml::Table::try_from(section)
        .expect("sections hold strings, booleans, u32 and lists of them, all of which TOML has")
}

fn site_table(site: &Site) -> toml::Table {
    let mut all = match &site.provider {
        ProviderSettings::Local(local) => table(local),
        ProviderSettings::Sftp(sftp) => table(sftp),
        ProviderSettings::Exec(exec) => table(exec),
        ProviderSettings::Gdrive(gdrive) => table(gdrive),
        ProviderSettings::S3(s3) => table(s3),
        ProviderSettings::Webdav(webdav) => table(webdav),
    };
    all.insert("provider".to_owned(), site.provider.name().into());
    all.extend(table(&site.limits));
    all
}
