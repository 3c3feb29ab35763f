//! Whether settings make sense, alone and together.
//!
//! Owns the ranges, the names that are allowed, which folders may lie inside which, and references between sections.
//! Looks at values only: whether a folder exists is for those who use it to find out.
//! Invariant: everything wrong is reported, and nothing about a value that was reported before.

mod sites;

use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

use globset::{ErrorKind, Glob, GlobBuilder, GlobSet};

use crate::error::{ConfigError, did_you_mean};
use crate::fuse::Threads;
use crate::origin::Place;
use crate::schema::{Api, Config, Project, Scrub, Volume};
use crate::secret_ref::SecretRef;
use crate::sites::ProviderSettings;
use crate::sync::Sync;
use crate::tree::{Node, Table};
use crate::units::{ByteSize, Period};

/// `sun_path` of Linux holds 108 bytes, the last of which is NUL.
const MAX_SOCKET_PATH: usize = 107;
/// The word for the machine itself, as AYON has it.
const LOCAL: &str = "local";
/// Longest name of a folder in bytes, on Linux as on Windows.
const MAX_FOLDER_NAME: usize = 255;

/// Compiles a pattern of `zones` or `pins`, or of a program's name. Patterns match paths inside the project, bytes of any
/// encoding, as written:
/// `*` and `?`, which is one byte, stay within a name, `**` spans folders, `{a,b}` and `[a-z]` are alternatives.
///
/// # Errors
/// When the text is no pattern.
pub fn compile_glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

/// Compiles patterns of `zones` or `pins` into one set, which tells the indices of those that match.
///
/// # Errors
/// When a text is no pattern, or they are too large: never for those of a [`Loader`](crate::Loader), which compiled them.
pub fn compile_globs<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<GlobSet, globset::Error> {
    let globs: Vec<Glob> = patterns.into_iter().map(compile_glob).collect::<Result<_, _>>()?;
    GlobSet::new(globs)
}

/// Checks everything, adding what is wrong to `errors`.
pub(crate) fn check(config: &Config, tree: &Table, errors: &mut Vec<ConfigError>) {
    let mut checker = Checker { tree, errors };
    checker.drive(config);
    checker.machine(config);
    checker.numbers(config);
    checker.api(&config.api);
    for (name, site) in &config.sites {
        checker.site(config, name, site);
    }
    checker.folders_are_unique(config);
    for (name, project) in &config.projects {
        checker.project(config, name, project);
    }
    for (name, volume) in &config.volumes {
        checker.volume(name, volume);
    }
    crate::notify::check(&mut checker, config);
    crate::workfiles::check(&mut checker, config);
}

pub(crate) struct Checker<'a> {
    tree: &'a Table,
    errors: &'a mut Vec<ConfigError>,
}

pub(crate) type Key<'k> = &'k [&'k str];

impl Checker<'_> {
    /// The place of a value, or of the name of the nearest table around it: of nothing, if a user wrote neither. `None` when the
    /// value was reported before.
    fn place(&self, key: Key<'_>) -> Option<Place> {
        let mut table = Some(self.tree);
        let mut place = Place::Nowhere;
        for name in key {
            let Some(node) = table.and_then(|table| table.get(*name)) else {
                break;
            };
            if node.bad {
                return None;
            }
            table = node.as_table();
            place = if table.is_none() {
                node.place.clone()
            } else {
                node.key_place.clone()
            };
        }
        Some(place)
    }

    pub(crate) fn error(&mut self, key: Key<'_>, problem: impl Display, hint: impl Into<Option<String>>) {
        let Some(place) = self.place(key) else { return };
        let key = key.join(".");
        self.errors.push(ConfigError {
            place,
            problem: format!("{key}: {problem}"),
            key,
            hint: hint.into(),
        });
    }

    pub(crate) fn within<T: PartialOrd + Display>(&mut self, key: Key<'_>, value: T, least: T, most: T) {
        if value < least || value > most {
            self.error(key, format!("{value} is outside {least} to {most}"), None);
        }
    }

    pub(crate) fn name(&mut self, key: Key<'_>, name: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(allowed) {
            let problem = format!("`{name}` is not a name");
            self.error(key, problem, "use letters a to z, digits, `-` and `_`".to_owned());
        }
    }

    /// Whether a path of this machine is one; a path that still begins with `~` had no home to stand for.
    pub(crate) fn absolute(&mut self, key: Key<'_>, path: &Path) -> bool {
        if path.is_absolute() {
            return true;
        }
        if path.starts_with("~") {
            let hint = "set HOME, or write an absolute path".to_owned();
            self.error(key, "`~` stands for the home folder, which is not known", hint);
        } else if path.as_os_str().is_empty() {
            self.error(key, "is missing", "write an absolute path".to_owned());
        } else {
            let problem = format!("`{}` is not an absolute path", path.display());
            self.error(key, problem, "begin it with `/` or `~/`".to_owned());
        }
        false
    }

    /// Refuses a path that is, or lies inside, another.
    fn outside(&mut self, key: Key<'_>, path: &Path, what: &str, of: &Path, why: &str) {
        let (path, of) = (plain(path), plain(of));
        if path.starts_with(&of) {
            let relation = if path == of { "is" } else { "lies inside" };
            self.error(
                key,
                format!("{} {relation} {what}, {}", path.display(), of.display()),
                why.to_owned(),
            );
        }
    }

    /// Whether a text can be the name or the number of a user or a group; whether there is one, its system knows.
    fn account(&mut self, key: Key<'_>, text: Option<&str>, example: &str) {
        let Some(text) = text else { return };
        let is_number = text.bytes().all(|digit| digit.is_ascii_digit());
        let is_wrong = text.is_empty()
            || text.contains(|c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control())
            // All ones is no account, but stands for none.
            || is_number && text.parse::<u32>().unwrap_or(u32::MAX) == u32::MAX;
        if is_wrong {
            let problem = format!("`{text}` is neither a name nor a number");
            self.error(key, problem, format!("write one, as in \"{example}\" or \"1000\""));
        }
    }

    fn drive(&mut self, config: &Config) {
        let drive = &config.drive;
        self.name(&["drive", "name"], &drive.name);
        self.account(&["drive", "owner"], drive.owner.as_deref(), "ada");
        self.account(&["drive", "group"], drive.group.as_deref(), "artists");
        let (mount, data, cache) = (["drive", "mount-point"], ["drive", "data-dir"], ["drive", "cache-dir"]);
        let paths = [
            (mount, &drive.mount_point),
            (data, &drive.data_dir),
            (cache, &drive.cache_dir),
        ];
        let absolute = paths.map(|(key, path)| self.absolute(&key, path));
        let socket = drive.socket_path();
        let socket_key = if drive.socket.is_some() {
            ["drive", "socket"]
        } else {
            data
        };
        if drive
            .socket
            .as_ref()
            .is_none_or(|path| self.absolute(&socket_key, path))
        {
            self.socket(&socket_key, &socket);
        }
        if absolute.contains(&false) {
            return;
        }
        let mounted = "what lies there is hidden while the drive is mounted";
        for (key, path) in [
            (data, &drive.data_dir),
            (cache, &drive.cache_dir),
            (socket_key, &socket),
        ] {
            self.outside(&key, path, "the mount point", &drive.mount_point, mounted);
        }
        for (what, dir) in [
            ("the data folder", &drive.data_dir),
            ("the cache folder", &drive.cache_dir),
        ] {
            if plain(&drive.mount_point) != plain(dir) {
                self.outside(
                    &mount,
                    &drive.mount_point,
                    what,
                    dir,
                    "give the drive a folder of its own",
                );
            }
        }
        let cleaned = "the cache may be deleted at any time, the data must not be";
        self.outside(&data, &drive.data_dir, "the cache folder", &drive.cache_dir, cleaned);
        let local = drive.data_dir.join("local");
        self.outside(
            &cache,
            &drive.cache_dir,
            "the folder of bytes that exist nowhere else",
            &local,
            cleaned,
        );
    }

    fn socket(&mut self, key: Key<'_>, path: &Path) {
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let problem = format!(
                "the API socket's path, {}, has {length} bytes, and a Unix socket's has at most {MAX_SOCKET_PATH}",
                path.display()
            );
            self.error(
                key,
                problem,
                "set drive.socket to a shorter path, such as one in /run/user".to_owned(),
            );
        }
    }

    fn machine(&mut self, config: &Config) {
        if let Some(id) = &config.machine.site_id {
            self.name(&["machine", "site-id"], id);
        }
        if config.machine.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            self.error(
                &["machine", "name"],
                "is empty",
                "leave it out to use the host name".to_owned(),
            );
        }
    }

    fn api(&mut self, api: &Api) {
        let key = ["api", "listen"];
        if let Some(listen) = &api.listen {
            match api.address() {
                None => {
                    let problem = format!("`{listen}` is not an address with a port");
                    self.error(&key, problem, "write it as in `127.0.0.1:8787`".to_owned());
                }
                Some(address) if !address.ip().is_loopback() => {
                    let problem = format!("other machines can reach {address}, and tokens would go there in the clear");
                    let hint =
                        "listen on 127.0.0.1; for others, put a proxy with TLS before it (see `hosts`) or use `ssh -L`";
                    self.error(&key, problem, hint.to_owned());
                }
                Some(_) if api.viewer_token.is_none() && api.admin_token.is_none() => {
                    let hint = "set admin-token, viewer-token or both, as `file:/path` or `env:NAME`".to_owned();
                    self.error(&key, "there is no token, so nobody could log in", hint);
                }
                Some(_) => {}
            }
        }
        for (last, token) in [("viewer-token", &api.viewer_token), ("admin-token", &api.admin_token)] {
            if let Some(SecretRef::File(path)) = token {
                self.absolute(&["api", last], path);
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if let Some(host) = api
            .hosts
            .iter()
            .find(|host| host.is_empty() || !host.chars().all(plain))
        {
            let hint = "write names as a browser sends them, as in `backlot.studio.example`".to_owned();
            self.error(&["api", "hosts"], format!("`{host}` is not a host name"), hint);
        }
    }

    fn numbers(&mut self, config: &Config) {
        let no_size = ByteSize(0);
        let (size, least) = (config.cache.max_size, ByteSize::mib(1));
        if size < least {
            self.error(
                &["cache", "max-size"],
                format!("{size} is too little"),
                format!("the least is {least}"),
            );
        }
        if let Scrub::Every(period) = config.cache.scrub {
            let (shortest, longest) = (Period::from_secs(1), Period::from_secs(365 * 24 * 3600));
            self.within(&["cache", "scrub"], period, shortest, longest);
        }
        if let Some(bad) = config
            .cache
            .head_extensions
            .iter()
            .find(|e| e.is_empty() || e.contains(['.', '/']))
        {
            self.error(
                &["cache", "head-extensions"],
                format!("`{bad}` is not an extension"),
                "write what follows the last dot of a name, as in \"exr\"".to_owned(),
            );
        }
        let hydration = &config.hydration;
        let (shortest, longest) = (Period::from_millis(100), Period::from_secs(600));
        self.within(
            &["hydration", "read-deadline"],
            hydration.read_deadline,
            shortest,
            longest,
        );
        self.within(
            &["hydration", "readahead-max"],
            hydration.readahead_max,
            no_size,
            ByteSize::gib(1),
        );
        self.within(
            &["hydration", "small-file"],
            hydration.small_file,
            no_size,
            ByteSize::mib(64),
        );
        self.within(&["hydration", "parallel-fetches"], hydration.parallel_fetches, 1, 64);
        self.within(
            &["hydration", "sequence-window"],
            hydration.sequence_window,
            shortest,
            Period::from_secs(60),
        );
        self.within(
            &["hydration", "sequence-max"],
            hydration.sequence_max,
            ByteSize::mib(1),
            ByteSize::gib(64),
        );
        for (key, names) in [("deny", &config.firewall.deny), ("allow", &config.firewall.allow)] {
            self.programs(&["firewall", key], names);
        }
        self.within(&["scan", "parallel"], config.scan.parallel, 1, 64);
        let (check, lease) = (Sync::CHECK_INTERVAL, Sync::LEASE);
        self.within(
            &["sync", "check-interval"],
            config.sync.check_interval,
            check.0,
            check.1,
        );
        self.within(&["sync", "lease"], config.sync.lease, lease.0, lease.1);
        let publish = &config.publish;
        let longest = Period::from_secs(600);
        self.within(&["publish", "settle"], publish.settle, Period::default(), longest);
        self.within(&["publish", "parallel"], publish.parallel, 1, 64);
        let (least, most) = (ByteSize::mib(1), ByteSize::gib(1));
        self.within(&["publish", "part-size"], publish.part_size, least, most);
        let (shortest, longest) = (Period::from_secs(1), Period::from_secs(24 * 3600));
        self.within(&["publish", "retry-max"], publish.retry_max, shortest, longest);
        self.within(&["copies", "jobs-per-pair"], config.copies.jobs_per_pair, 1, 16);
        if let Threads::Fixed(threads) = config.fuse.threads {
            self.within(&["fuse", "threads"], threads, 1, 64);
        }
        self.within(
            &["fuse", "kernel-readahead"],
            config.fuse.kernel_readahead,
            no_size,
            ByteSize::gib(1),
        );
    }

    /// Two folders that differ in capitals only are one on a Windows drive.
    fn folders_are_unique(&mut self, config: &Config) {
        let mut seen: Vec<(String, &str)> = Vec::new();
        for (name, project) in &config.projects {
            let folder = project.folder.to_lowercase();
            match seen.iter().find(|(other, _)| *other == folder) {
                Some((_, first)) => {
                    let problem = format!("`{}` is the folder of project `{first}` already", project.folder);
                    self.error(
                        &["projects", name, "folder"],
                        problem,
                        "give each project a folder of its own".to_owned(),
                    );
                }
                None => seen.push((folder, name)),
            }
        }
    }

    fn project(&mut self, config: &Config, name: &str, project: &Project) {
        let key = |last| ["projects", name, last];
        self.name(&["projects", name], name);
        if !is_folder_name(&project.folder) {
            let hint = format!("write one name of at most {MAX_FOLDER_NAME} bytes, without `/`");
            self.error(&key("folder"), format!("`{}` cannot be a folder", project.folder), hint);
        }
        if project.remote_site.is_empty() {
            self.error(
                &key("remote-site"),
                "is missing",
                "name a site of [sites.NAME]".to_owned(),
            );
        } else {
            self.site_exists(&key("remote-site"), &project.remote_site);
        }
        if let Some(active) = project.active_site.as_ref().filter(|active| *active != LOCAL) {
            self.site_exists(&key("active-site"), active);
            if *active == project.remote_site {
                let hint = "leave it out when this machine works from its own disk".to_owned();
                self.error(&key("active-site"), format!("`{active}` is the remote site too"), hint);
            }
        }
        self.remote_path(config, name, project);
        self.always_accessible_on(name, project);
        for (site, path) in &project.paths {
            let key = ["projects", name, "paths", site];
            self.site_exists(&key, site);
            if *site == project.remote_site {
                let hint = "say it with `remote-path`".to_owned();
                self.error(&key, format!("`{site}` is the remote site"), hint);
            } else if !is_path_at_site(path) {
                self.error(
                    &key,
                    format!("`{path}` is not a path under the site's root"),
                    PATH_HINT.to_owned(),
                );
            }
        }
        let zones: Vec<&str> = project.zones.iter().map(|rule| rule.pattern.as_str()).collect();
        self.patterns(&key("zones"), &zones);
        let pins: Vec<&str> = project.pins.iter().map(String::as_str).collect();
        self.patterns(&key("pins"), &pins);
        self.within(&key("priority"), project.priority, 0, 1000);
        let (shortest, longest) = (Period::from_millis(100), Period::from_secs(7 * 86_400));
        self.within(&key("scan-interval"), project.scan_interval, shortest, longest);
    }

    /// The sites that are to have all of a project.
    fn always_accessible_on(&mut self, name: &str, project: &Project) {
        let key = ["projects", name, "always-accessible-on"];
        for (index, site) in project.always_accessible_on.iter().enumerate() {
            self.site_exists(&key, site);
            if *site == project.remote_site {
                let hint = "leave it out: the remote site has all of the project anyway".to_owned();
                self.error(&key, format!("`{site}` is the remote site"), hint);
            } else if project.always_accessible_on[..index].contains(site) {
                self.error(&key, format!("`{site}` is named twice"), None);
            }
        }
    }

    /// The doors to one storage.
    fn alternative_sites(&mut self, name: &str, alternatives: &[String]) {
        let key = ["sites", name, "alternative-sites"];
        for site in alternatives {
            if site == name {
                self.error(&key, format!("`{site}` is that site itself"), None);
            } else {
                self.site_exists(&key, site);
            }
        }
    }

    /// A site that is named but could not be read has been reported itself.
    fn site_exists(&mut self, key: Key<'_>, site: &str) {
        let named = self.tree.get("sites").and_then(Node::as_table);
        if named.is_some_and(|sites| sites.contains_key(site)) {
            return;
        }
        let names: Vec<&str> = named.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let hint = did_you_mean(site, names.iter().copied()).unwrap_or_else(|| format!("add [sites.{site}]"));
        self.error(key, format!("there is no site `{site}`"), hint);
    }

    fn remote_path(&mut self, config: &Config, name: &str, project: &Project) {
        let key = ["projects", name, "remote-path"];
        let path = project.remote_path.as_str();
        if !is_path_at_site(path) {
            let problem = format!("`{path}` is not a path under the site's root");
            return self.error(&key, problem, PATH_HINT.to_owned());
        }
        let Some(ProviderSettings::Local(local)) = config.sites.get(&project.remote_site).map(|site| &site.provider)
        else {
            return;
        };
        let folder = plain(&local.root.join(path));
        for (what, dir) in own_folders(config) {
            if plain(dir).starts_with(&folder) {
                let problem = format!(
                    "{what}, {}, lies inside the project at its site, {}",
                    dir.display(),
                    folder.display()
                );
                self.error(
                    &key,
                    problem,
                    "keep what Backlot works with out of the projects".to_owned(),
                );
            }
        }
    }

    /// Programs are told apart by their names.
    fn programs(&mut self, key: Key<'_>, names: &[String]) {
        if let Some(path) = names.iter().find(|name| name.contains('/')) {
            let hint = format!(
                "write the last part alone: `{}`",
                path.rsplit('/').next().unwrap_or_default()
            );
            self.error(key, format!("`{path}` is a path, not the name of a program"), hint);
            return;
        }
        self.patterns(key, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn volume(&mut self, name: &str, volume: &Volume) {
        self.name(&["volumes", name], name);
        let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
        if !volume.folder.is_empty() && volume.folder.split('/').any(odd) {
            let problem = format!("`{}` is not a path of the drive", volume.folder);
            let hint = "write it relative to the drive's root, as in `demo`, or leave it out for that root".to_owned();
            self.error(&["volumes", name, "folder"], problem, hint);
        }
        let own = [&volume.linux, &volume.macos, &volume.windows, &volume.unc, &volume.here];
        if own.into_iter().all(Option::is_none) && volume.sites.is_empty() {
            let hint = "write at least one of linux, macos, windows, unc".to_owned();
            self.error(&["volumes", name], "says nowhere where it is", hint);
        }
    }

    fn patterns(&mut self, key: Key<'_>, patterns: &[&str]) {
        let before = self.errors.len();
        for (index, pattern) in patterns.iter().enumerate() {
            self.pattern(key, index, pattern);
        }
        if self.errors.len() == before && compile_globs(patterns.iter().copied()).is_err() {
            self.error(key, "these patterns are too large together", None);
        }
    }

    fn pattern(&mut self, key: Key<'_>, index: usize, pattern: &str) {
        let problem = match compile_globs([pattern]) {
            _ if pattern.is_empty() => "is empty, and would match nothing".to_owned(),
            _ if pattern.starts_with('/') => format!("`{pattern}` begins with `/`, and paths inside a project do not"),
            Ok(_) => return,
            // Its text is right, and not repeated: it fills pages.
            Err(error) if matches!(error.kind(), ErrorKind::Regex(_)) => {
                "is too large or too deep a pattern".to_owned()
            }
            Err(error) => format!("`{pattern}` is not a pattern: {}", error.kind()),
        };
        let place = self.place(key);
        if let Some(place) = place {
            let key = format!("{}[{index}]", key.join("."));
            self.errors.push(ConfigError {
                place,
                problem: format!("{key}: {problem}"),
                key,
                hint: None,
            });
        }
    }
}

/// The folders that Backlot works with, which nothing else may share.
fn own_folders(config: &Config) -> [(&'static str, &Path); 3] {
    let drive = &config.drive;
    [
        ("the mount point", &drive.mount_point),
        ("the data folder", &drive.data_dir),
        ("the cache folder", &drive.cache_dir),
    ]
}

const PATH_HINT: &str = "write it relative to the site's root, as in `shows/demo`, or `.` for the root itself";

/// Says whether a text is a path under a site's root, or `.` for the root itself.
fn is_path_at_site(path: &str) -> bool {
    let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    path == "." || !path.split('/').any(odd)
}

fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && name.len() <= MAX_FOLDER_NAME && !name.contains(['/', '\0'])
}

/// The path without `.` and `..`, as far as its text tells: links are not looked up.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
