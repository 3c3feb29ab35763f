//! Where settings come from, and which one counts: default < system < user < project < environment < flag.
//!
//! Owns finding and reading the files, and the order of the layers:
//! - system: `/etc/backlot/config.toml`; user: `$XDG_CONFIG_HOME/backlot/config.toml`, else `~/.config/backlot/config.toml`.
//!   Each may be absent. A file given with `--config` stands for both, and must exist.
//! - project: every `projects.d/*.toml` beside those, in the order of their names, the user's folder after the system's.
//!   They hold `[projects.NAME]` and `[sites.NAME]`, nothing else.
//! - environment and flags: see the module `env_layer`.
//!
//! Tables are merged key by key; a list in a higher layer replaces the whole list below it.
//! Refuses to know what a setting means. Invariant: reads files only; home folder and environment are given to it.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dirs::Dirs;
use crate::env_layer;
use crate::error::{ConfigError, ConfigErrors, did_you_mean};
use crate::origin::{Layer, Origins, Place};
use crate::schema::{Config, SCHEMA_VERSION};
use crate::sections;
use crate::sites::ProviderSettings;
use crate::tree::{self, Table, Value};
use crate::validate;

/// Name of the settings file in its folder.
const FILE_NAME: &str = "config.toml";
/// Name of the folder of project files beside a settings file.
const PROJECTS_DIR: &str = "projects.d";
/// What a project file may hold.
const PROJECT_SECTIONS: [&str; 3] = ["projects", "sites", "schema_version"];

/// Settings, and where each comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings in effect: paths are absolute, and everything was checked.
    pub config: Config,
    /// Where each value that is not a default comes from.
    pub origins: Origins,
    /// The files that were read, weakest first.
    pub files: Vec<PathBuf>,
}

/// Gathers what [`load`](Self::load) reads from. By itself it sees the system's files only: give it a home or an environment.
#[derive(Debug, Clone)]
pub struct Loader {
    system_dir: PathBuf,
    config_file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    flags: Vec<(String, String)>,
    home: Option<PathBuf>,
}

impl Default for Loader {
    fn default() -> Self {
        Self {
            system_dir: PathBuf::from("/etc/backlot"),
            config_file: None,
            variables: Vec::new(),
            flags: Vec::new(),
            home: None,
        }
    }
}

impl Loader {
    /// A loader that reads the system's files only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for the system's files in another folder than `/etc/backlot`.
    #[must_use]
    pub fn system_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.system_dir = dir.into();
        self
    }

    /// Reads this file in place of the system's and the user's.
    #[must_use]
    pub fn config_file(mut self, file: Option<PathBuf>) -> Self {
        self.config_file = file;
        self
    }

    /// Uses these variables, usually `std::env::vars_os()`: `BACKLOT_…`, `HOME`, `XDG_…`, and `USER` for logging in.
    #[must_use]
    pub fn env<K: Into<OsString>, V: Into<OsString>>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self {
        self.variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        self
    }

    /// Uses these values, by dotted key, above all else.
    #[must_use]
    pub fn overrides(mut self, flags: Vec<(String, String)>) -> Self {
        self.flags = flags;
        self
    }

    /// Uses this home folder rather than the variable `HOME`.
    #[must_use]
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// Returns the path of the user's settings file, which `backlot config init` writes; none without a home folder.
    #[must_use]
    pub fn user_file(&self) -> Option<PathBuf> {
        self.dirs().config.map(|dir| dir.join(FILE_NAME))
    }

    /// Reads all layers, checks the result, and returns it.
    ///
    /// # Errors
    /// Everything that is wrong, at once: files that cannot be read or are no TOML (then nothing else is looked at),
    /// unknown keys, values that do not fit, settings that do not go together.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let dirs = self.dirs();
        let mut files = Files::default();
        for (layer, path, must_exist) in self.main_files(&dirs) {
            files.read(layer, path, must_exist);
        }
        for dir in self.project_dirs(&dirs) {
            files.read_projects(&dir);
        }
        ConfigErrors::check(files.fatal)?;
        let (mut tree, mut errors) = (files.tree, files.errors);

        let variables = self
            .variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        env_layer::apply_variables(&mut tree, variables, &mut errors);
        env_layer::apply_flags(&mut tree, &self.flags, &mut errors);
        let mut config = sections::build(&mut tree, &mut errors);
        self.complete(&mut config, &tree, &dirs);
        validate::check(&config, &tree, &mut errors);
        ConfigErrors::check(errors)?;

        let mut origins = Origins::default();
        tree::record_origins(&tree, "", &mut origins);
        Ok(Loaded {
            config,
            origins,
            files: files.read,
        })
    }

    fn dirs(&self) -> Dirs {
        Dirs::new(self.home.clone(), |name| self.variable(name))
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.variables.iter().find(|(variable, _)| variable == name);
        found
            .map(|(_, value)| value.as_os_str())
            .filter(|value| !value.is_empty())
    }

    /// The settings files, weakest first, and whether each must exist.
    fn main_files(&self, dirs: &Dirs) -> Vec<(Layer, PathBuf, bool)> {
        if let Some(file) = &self.config_file {
            return vec![(Layer::Given, file.clone(), true)];
        }
        let user = dirs
            .config
            .as_ref()
            .map(|dir| (Layer::User, dir.join(FILE_NAME), false));
        [(Layer::System, self.system_dir.join(FILE_NAME), false)]
            .into_iter()
            .chain(user)
            .collect()
    }

    fn project_dirs(&self, dirs: &Dirs) -> Vec<PathBuf> {
        let files = self.main_files(dirs);
        files
            .iter()
            .filter_map(|(_, file, _)| file.parent())
            .map(|dir| dir.join(PROJECTS_DIR))
            .collect()
    }

    /// Fills in the defaults that depend on the user, and on other settings.
    fn complete(&self, config: &mut Config, tree: &Table, dirs: &Dirs) {
        let given = |key: &str| tree.get("drive").and_then(|drive| drive.as_table()?.get(key)).is_some();
        if let Some(dir) = dirs.data.as_ref().filter(|_| !given("data-dir")) {
            config.drive.data_dir.clone_from(dir);
        }
        if let Some(dir) = dirs.cache.as_ref().filter(|_| !given("cache-dir")) {
            config.drive.cache_dir.clone_from(dir);
        }
        let login = self
            .variable("USER")
            .or_else(|| self.variable("LOGNAME"))
            .and_then(OsStr::to_str);
        for site in config.sites.values_mut() {
            if let (ProviderSettings::Sftp(sftp), Some(login)) = (&mut site.provider, login)
                && sftp.user.is_empty()
            {
                login.clone_into(&mut sftp.user);
            }
        }
        for (name, project) in &mut config.projects {
            if project.folder.is_empty() {
                project.folder.clone_from(name);
            }
            if project.remote_path.is_empty() {
                project.remote_path.clone_from(&project.folder);
            }
        }
        for (name, volume) in &mut config.volumes {
            let code = name.to_ascii_uppercase().replace('-', "_");
            let variables = [format!("BACKLOT_{code}_PATH"), format!("ACCSYN_{code}_PATH")];
            if let Some(path) = variables.iter().find_map(|v| self.variable(v)?.to_str()) {
                volume.here = Some(path.to_owned());
            }
        }
        dirs.expand_all(config);
    }
}

/// The files read so far, laid over one another.
#[derive(Default)]
struct Files {
    tree: Table,
    read: Vec<PathBuf>,
    /// What leaves too little to look for anything else.
    fatal: Vec<ConfigError>,
    errors: Vec<ConfigError>,
}

impl Files {
    fn read(&mut self, layer: Layer, path: PathBuf, must_exist: bool) {
        let Some(table) = self.parse(layer, &path, must_exist) else {
            return;
        };
        tree::merge(&mut self.tree, table);
        self.read.push(path);
    }

    fn read_projects(&mut self, dir: &Path) {
        let mut paths = match list_toml(dir) {
            Ok(paths) => paths,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.unreadable(dir.into(), &error),
        };
        paths.sort();
        for path in paths {
            let Some(mut table) = self.parse(Layer::Project, &path, true) else {
                continue;
            };
            for (key, node) in table.extract_if(.., |key, _| !PROJECT_SECTIONS.contains(&key.as_str())) {
                let belongs = "a file of projects.d holds [projects.NAME] and [sites.NAME]".to_owned();
                self.errors.push(ConfigError {
                    place: node.key_place,
                    problem: format!("`{key}` does not belong here"),
                    hint: did_you_mean(&key, PROJECT_SECTIONS).or(Some(belongs)),
                    key,
                });
            }
            tree::merge(&mut self.tree, table);
            self.read.push(path);
        }
    }

    fn parse(&mut self, layer: Layer, path: &Path, must_exist: bool) -> Option<Table> {
        let shared: Arc<Path> = path.into();
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return None,
            Err(error) => {
                self.unreadable(shared, &error);
                return None;
            }
        };
        let Ok(text) = String::from_utf8(bytes) else {
            self.fatal(shared, "the file is not UTF-8 text".to_owned(), "save it as UTF-8");
            return None;
        };
        match tree::parse(&text, layer, &shared) {
            Ok(mut table) => self.known_version(&mut table).then_some(table),
            Err(errors) => {
                self.fatal.extend(errors);
                None
            }
        }
    }

    /// Takes the version out of a file's table. A file without one is of version 1.
    fn known_version(&mut self, table: &mut Table) -> bool {
        let Some(node) = table.remove("schema_version") else {
            return true;
        };
        let problem = match node.value {
            Value::Int(SCHEMA_VERSION) => return true,
            Value::Int(other) => format!("schema_version {other} is not known; this backlot reads {SCHEMA_VERSION}"),
            _ => format!("schema_version: must be the number {SCHEMA_VERSION}"),
        };
        let key = "schema_version".to_owned();
        self.fatal.push(ConfigError {
            place: node.place,
            key,
            problem,
            hint: None,
        });
        false
    }

    fn unreadable(&mut self, path: Arc<Path>, error: &std::io::Error) {
        let hint = "check that it exists and that this user may read it";
        self.fatal(path, format!("cannot be read: {error}"), hint);
    }

    fn fatal(&mut self, path: Arc<Path>, problem: String, hint: &str) {
        let place = Place::File(path, None);
        self.fatal.push(ConfigError {
            place,
            key: String::new(),
            problem,
            hint: Some(hint.to_owned()),
        });
    }
}

fn list_toml(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    Ok(paths)
}
