//! The settings model: every section, every key, every default.
//!
//! Owns the shape and the defaults, and nothing about where values come from. The `///` text of a field is its entry in
//! the reference documentation; its key is its name in kebab-case.
//! Invariant: each section refuses keys it does not know, and none is flattened into another.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::copies::Copies;
use crate::fuse::Fuse;
use crate::notify::{Notify, Receiver};
use crate::secret_ref::SecretRef;
use crate::sites::Site;
use crate::sync::Sync;
use crate::units::{ByteSize, Period, Umask};
use crate::workfiles::Workfiles;

/// The only `schema_version` this build reads.
pub const SCHEMA_VERSION: i64 = 1;

/// All settings of one daemon. Take it from [`Loader`](crate::Loader): the bare default holds paths that begin with `~/`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// `[drive]`
    pub drive: Drive,
    /// `[machine]`
    pub machine: Machine,
    /// `[cache]`
    pub cache: Cache,
    /// `[sites.NAME]`, by name
    pub sites: BTreeMap<String, Site>,
    /// `[projects.NAME]`, by name
    pub projects: BTreeMap<String, Project>,
    /// `[volumes.NAME]`, by name
    pub volumes: BTreeMap<String, Volume>,
    /// `[receivers.NAME]`, by name
    pub receivers: BTreeMap<String, Receiver>,
    /// `[hydration]`
    pub hydration: Hydration,
    /// `[firewall]`
    pub firewall: Firewall,
    /// `[scan]`
    pub scan: Scan,
    /// `[publish]`
    pub publish: Publish,
    /// `[sync]`
    pub sync: Sync,
    /// `[copies]`
    pub copies: Copies,
    /// `[notify]`
    pub notify: Notify,
    /// `[workfiles]`
    pub workfiles: Workfiles,
    /// `[fuse]`
    pub fuse: Fuse,
    /// `[api]`
    pub api: Api,
    /// `[log]`
    pub log: Log,
}

/// `[drive]`: the mount and the folders behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Drive {
    /// Name of the drive, shown in `status` and as the mount's source. Letters, digits, `-` and `_`.
    pub name: String,
    /// Folder the drive appears at.
    #[serde(serialize_with = "lossy")]
    pub mount_point: PathBuf,
    /// Folder of the state store, and of bytes that exist nowhere else yet (`local/`). Must outlive the cache: back it up,
    /// never clean it. Default: `$XDG_DATA_HOME/backlot`, else `~/.local/share/backlot`.
    #[serde(serialize_with = "lossy")]
    pub data_dir: PathBuf,
    /// Folder of cached bytes; it may be deleted at any time. Default: `$XDG_CACHE_HOME/backlot`, else `~/.cache/backlot`.
    #[serde(serialize_with = "lossy")]
    pub cache_dir: PathBuf,
    /// Whether other users of this machine may enter the drive (needs `user_allow_other` in /etc/fuse.conf).
    pub allow_other: bool,
    /// User to whom belongs what has no owner of its own here: what sites hold, the drive's root, the projects' folders. A name or a
    /// number. What somebody makes in the drive belongs to who made it. Default: the user the daemon runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Group of the same, by name or number: of the artists, where the daemon is root. Default: the daemon's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits that the same does not have, in octal digits: `"002"` lets the group write, `"022"` the owner alone. In place of
    /// the site's bits, but for whether a file can be run. Default: the site's bits, else those of `"022"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<Umask>,
    /// Unix socket of the daemon's API, at most 107 bytes long. Default: `backlot.sock` in `data-dir`.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

impl Default for Drive {
    fn default() -> Self {
        Self {
            name: "projects".to_owned(),
            mount_point: PathBuf::from("~/backlot"),
            data_dir: PathBuf::from("~/.local/share/backlot"),
            cache_dir: PathBuf::from("~/.cache/backlot"),
            allow_other: false,
            owner: None,
            group: None,
            umask: None,
            socket: None,
        }
    }
}

impl Drive {
    /// Returns the path of the API socket: the one configured, or `backlot.sock` in the data folder.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| self.data_dir.join("backlot.sock"))
    }
}

/// Writes a path for people: a home folder need not be UTF-8, and TOML is.
pub(crate) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

pub(crate) fn lossy_option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(Path::to_string_lossy).serialize(serializer)
}

/// `[machine]`: who this machine is to the other sites.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// This machine's site id at the production tracker; the variable `AYON_SITE_ID` stands above what a file says. Default: the
    /// id that AYON has on this machine, else one made by the daemon, had once and kept in `site-id` in `data-dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_id: Option<String>,
    /// Name people know this machine by. Default: its host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `[cache]`: how much disk the cache may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cache {
    /// Most bytes the cache may hold. Pinned files and bytes not uploaded yet are never evicted to keep to it.
    pub max_size: ByteSize,
    /// Free space to leave on the cache's disk, whatever `max-size` says.
    pub min_free: ByteSize,
    /// How often all of it is held against its checksums in the background, 1 second to 365 days, or `"off"`.
    pub scrub: Scrub,
    /// Bytes that the beginnings and ends of media files may take beside `max-size`, so that asking what a file is costs
    /// nothing when it had to go; never more than a sixteenth of `max-size`. 0 keeps none.
    pub heads: ByteSize,
    /// Extensions of the files whose beginnings and ends are kept, in any case.
    pub head_extensions: Vec<String>,
}

/// What programs ask for its size and format.
const MEDIA: &[&str] = &[
    "exr", "dpx", "cin", "tif", "tiff", "tx", "jpg", "jpeg", "png", "hdr", "psd", "psb", "webp", "heic", "cr2", "cr3",
    "nef", "arw", "dng", "mov", "mp4", "m4v", "mxf", "mkv", "webm", "avi", "braw", "r3d", "ari", "arx", "wav", "aif",
    "aiff", "flac", "mp3", "abc", "usd", "usda", "usdc", "usdz", "vdb", "bgeo", "sc", "fbx", "blend", "pdf",
];

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_size: ByteSize::gib(100),
            min_free: ByteSize::gib(10),
            scrub: Scrub::Every(Period::from_secs(7 * 24 * 3600)),
            heads: ByteSize::gib(2),
            head_extensions: MEDIA.iter().map(|&extension| extension.to_owned()).collect(),
        }
    }
}

/// How often the cache is held against its checksums in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    /// Never.
    Off,
    /// Each file once in that time.
    Every(Period),
}

impl Serialize for Scrub {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Every(period) => period.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Scrub {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ScrubVisitor)
    }
}

struct ScrubVisitor;

impl Visitor<'_> for ScrubVisitor {
    type Value = Scrub;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"off\" or a time such as \"7d\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scrub, E> {
        match (text, text.parse()) {
            ("off", _) => Ok(Scrub::Off),
            (_, Ok(period)) => Ok(Scrub::Every(period)),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

/// `[projects.NAME]`: a top-level folder of the drive, and where its bytes come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Project {
    /// Name of its folder in the drive. Default: the project's name.
    pub folder: String,
    /// Site this machine plays for the project. Default, and `local`: the machine itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_site: Option<String>,
    /// Site the project's bytes come from and publishes go to. Required.
    pub remote_site: String,
    /// Path of the project under that site's root. Default: its `folder`; `.` is the root itself.
    pub remote_path: String,
    /// Sites that are to have all of the project beside its remote site. `backlot sync` copies what they lack.
    pub always_accessible_on: Vec<String>,
    /// Paths of the project under the roots of other sites, for copies between sites: `paths = { london = "shows/demo" }`.
    /// Default: its `folder`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub paths: BTreeMap<String, String>,
    /// Rules by path inside the project, the first match wins; what none matches is `local`. `*` stays within a folder
    /// name, `**` spans folders.
    pub zones: Vec<ZoneRule>,
    /// Paths inside the project to keep resident, as patterns like those of `zones`.
    pub pins: Vec<String>,
    /// Deleting a published file in the drive: `refuse` it, or `propagate` it to the remote site.
    pub remote_delete: RemoteDelete,
    /// Priority of its queue, 0 to 1000; higher goes first.
    pub priority: u32,
    /// How often to look for changes at the remote site.
    pub scan_interval: Period,
}

impl Default for Project {
    fn default() -> Self {
        Self {
            folder: String::new(),
            active_site: None,
            remote_site: String::new(),
            remote_path: String::new(),
            always_accessible_on: Vec::new(),
            paths: BTreeMap::new(),
            zones: vec![ZoneRule {
                pattern: "**/publish/**".to_owned(),
                zone: ZoneKind::Publish,
            }],
            pins: Vec::new(),
            remote_delete: RemoteDelete::Refuse,
            priority: 500,
            scan_interval: Period::from_secs(15 * 60),
        }
    }
}

impl Project {
    /// A project as the loader leaves it when only its remote site is given: folder and remote path are its name.
    #[must_use]
    pub fn new(name: &str, remote_site: &str) -> Self {
        Self {
            folder: name.to_owned(),
            remote_path: name.to_owned(),
            remote_site: remote_site.to_owned(),
            ..Self::default()
        }
    }
}

/// One entry of a project's `zones`: `{ match = "**/publish/**", zone = "publish" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ZoneRule {
    /// Pattern of paths inside the project.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What happens to files there.
    pub zone: ZoneKind,
}

/// What happens to files of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneKind {
    /// They go up when finished.
    Publish,
    /// They stay on this machine.
    Local,
    /// They cannot be written.
    Readonly,
}

/// What deleting a published file does at the remote site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteDelete {
    /// The delete is refused.
    Refuse,
    /// The file is deleted there too.
    Propagate,
}

/// `[volumes.NAME]`: what one tree of files is called on each system, so that a path in anybody's spelling is understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Volume {
    /// Folder of the drive that is the volume's root. Default: the drive's root.
    pub folder: String,
    /// Where Linux machines have it, as in `/storage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<String>,
    /// Where Macs have it, as in `/Volumes/storage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macos: Option<String>,
    /// Where Windows has it, by drive letter, as in `S:\`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<String>,
    /// Where Windows has it, by server, as in `\\server\storage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unc: Option<String>,
    /// Where this machine has it, if elsewhere. The variables `BACKLOT_<NAME>_PATH` and `ACCSYN_<NAME>_PATH` stand above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
    /// Where the machines of a site have it, if elsewhere: `sites.london = { linux = "/mnt/storage" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, VolumeRoots>,
}

/// One entry of a volume's `sites`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VolumeRoots {
    /// As `linux` of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<String>,
    /// As `macos` of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macos: Option<String>,
    /// As `windows` of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<String>,
    /// As `unc` of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unc: Option<String>,
}

/// `[hydration]`: fetching bytes that are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hydration {
    /// How long a read may wait without a byte arriving before it fails.
    pub read_deadline: Period,
    /// How far ahead of a sequential reader to fetch at most.
    pub readahead_max: ByteSize,
    /// Files up to this size are fetched whole, in one request.
    pub small_file: ByteSize,
    /// Fetches under way at once, per site, 1 to 64; four of up to 128 KiB count as one.
    pub parallel_fetches: u32,
    /// Fetch the next frames of an image sequence that is played, and the next small files of a folder that is read in order.
    pub sequences: bool,
    /// How far ahead of a player to fetch at most, in time of play.
    pub sequence_window: Period,
    /// How many bytes ahead of all players together; never more than a quarter of the cache.
    pub sequence_max: ByteSize,
}

impl Default for Hydration {
    fn default() -> Self {
        Self {
            read_deadline: Period::from_secs(20),
            readahead_max: ByteSize::mib(16),
            small_file: ByteSize::mib(1),
            parallel_fetches: 8,
            sequences: true,
            sequence_window: Period::from_secs(2),
            sequence_max: ByteSize::mib(256),
        }
    }
}

/// `[firewall]`: which programs may have bytes fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Firewall {
    /// Keep thumbnailers, indexers, virus scanners and backups to what is here, and programs that only look into files to
    /// `budget`.
    pub enabled: bool,
    /// Further programs to keep to what is here, by the name of the program or script; `*` and `?` stand for any
    /// characters and for one.
    pub deny: Vec<String>,
    /// Programs that are never held back, though they or who starts them are on a list, by names like those of `deny`.
    pub allow: Vec<String>,
    /// Bytes that a program which opens many files and reads only their beginnings may have fetched a minute.
    pub budget: ByteSize,
}

impl Default for Firewall {
    fn default() -> Self {
        Self {
            enabled: true,
            deny: Vec::new(),
            allow: Vec::new(),
            budget: ByteSize::mib(64),
        }
    }
}

/// `[scan]`: listing what the remote sites hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scan {
    /// Folders listed at once per site, 1 to 64.
    pub parallel: u32,
    /// A folder that somebody looks at is listed again in the background when its listing is older than this.
    pub recheck_after: Period,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            parallel: 8,
            recheck_after: Period::from_secs(30),
        }
    }
}

/// `[publish]`: sending what was written to the remote sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Publish {
    /// How long a closed file must stay unwritten before it is sent, at most 10 minutes.
    pub settle: Period,
    /// Files sent at once to one site, 1 to 64.
    pub parallel: u32,
    /// Bytes a part of a large file, 1 MiB to 1 GiB; an interrupted upload goes on with the next part.
    pub part_size: ByteSize,
    /// Longest wait between two tries of a file that fails, 1 second to 24 hours.
    pub retry_max: Period,
    /// Free space to leave on the disk of `data-dir`: a write that would go below it is refused with "no space".
    pub min_free: ByteSize,
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            settle: Period::from_secs(2),
            parallel: 24,
            part_size: ByteSize::mib(16),
            retry_max: Period::from_secs(5 * 60),
            min_free: ByteSize::mib(256),
        }
    }
}

/// `[api]`: the API, the metrics and the dashboard on TCP, beside the Unix socket that is always there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Api {
    /// Address of this machine and port to listen on, as in `127.0.0.1:8787`; there is no TLS, so no other machine may reach
    /// it. Default: nothing listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Token of who may look, by reference: `env:NAME` or `file:/path`; at least 16 characters. Default: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewer_token: Option<SecretRef>,
    /// Token of who may change things too, by reference. Default: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<SecretRef>,
    /// Further names that browsers may know the page by: those of a proxy with TLS before it, with the port if that is
    /// another than 443.
    pub hosts: Vec<String>,
}

impl Api {
    /// Returns the address to listen on; `None` where nothing is to listen, or what is written is none.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.as_deref()?.parse().ok()
    }
}

/// `[log]`: what the daemon says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Log {
    /// Least grave level that is logged: `error`, `warn`, `info`, `debug` or `trace`. `BACKLOT_LOG` refines it by module.
    pub level: LogLevel,
    /// `text` for people, `json` for log collectors.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Text,
        }
    }
}

/// Level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// A user's operation failed or got worse.
    Warn,
    /// What starts, stops and finishes.
    Info,
    /// Each operation.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name, as in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}
