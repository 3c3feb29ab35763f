//! Settings of sites: what each kind of storage needs to know, and the limits that every site has.
//!
//! Owns their shape and defaults, as `schema` does of the rest. Refuses to know where values come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::schema::{lossy, lossy_option};
use crate::secret_ref::SecretRef;
use crate::timetable::{self, Timetable};
use crate::units::{ByteSize, Period, optional_rate};

/// `[sites.NAME]`: a named place that holds bytes. `provider` says which settings it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The kind of storage, and what that kind needs to know.
    pub provider: ProviderSettings,
    /// Settings that every provider has.
    pub limits: SiteLimits,
}

impl Site {
    /// A site with no limits.
    #[must_use]
    pub fn new(provider: ProviderSettings) -> Self {
        Self {
            provider,
            limits: SiteLimits::default(),
        }
    }
}

/// Settings of a site, by the kind of storage named in its `provider` key.
#[derive(Debug, Clone, PartialEq)]
pub enum ProviderSettings {
    /// `provider = "local"`
    Local(LocalSite),
    /// `provider = "sftp"`
    Sftp(SftpSite),
    /// `provider = "exec"`
    Exec(ExecSite),
    /// `provider = "gdrive"`
    Gdrive(GdriveSite),
    /// `provider = "s3"`
    S3(S3Site),
    /// `provider = "webdav"`
    Webdav(WebdavSite),
}

impl ProviderSettings {
    /// The values `provider` may have.
    pub const NAMES: &'static [&'static str] = &["local", "sftp", "s3", "webdav", "exec", "gdrive"];

    /// The value of `provider` for these settings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Sftp(_) => "sftp",
            Self::Exec(_) => "exec",
            Self::Gdrive(_) => "gdrive",
            Self::S3(_) => "s3",
            Self::Webdav(_) => "webdav",
        }
    }
}

/// Settings that every site has, whatever its provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteLimits {
    /// Most bytes per second read from the site, as in `"10M/s"`, or a timetable, as in `"08:00,10M 19:00,off"`, in the
    /// machine's time zone. Default: no limit.
    #[serde(deserialize_with = "timetable::optional", skip_serializing_if = "Option::is_none")]
    pub download_limit: Option<Timetable>,
    /// Most bytes per second sent to the site, likewise. Default: no limit.
    #[serde(deserialize_with = "timetable::optional", skip_serializing_if = "Option::is_none")]
    pub upload_limit: Option<Timetable>,
    /// Most requests in flight at the site, 1 to 256. Default: what the provider thinks right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Other sites that are doors to the same storage: a file that is at one of them is at all. Said of one site, it counts
    /// for all that are named. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternative_sites: Vec<String>,
    /// The site's disk is one of Windows: publishing a name that it can't hold, or that differs from another in capitals alone,
    /// is told at once.
    pub windows_names: bool,
}

/// `[sites.NAME]` with `provider = "local"`: a folder of this machine, or of a file server mounted here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LocalSite {
    /// Folder that holds the site's bytes. Required.
    #[serde(serialize_with = "lossy")]
    pub root: PathBuf,
    /// For demos and tests: delay before each answer, as if the folder were behind a slow link. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_delay: Option<Period>,
    /// For demos and tests: bytes per second, all requests together, as if the folder were behind a slow link. Default: no limit.
    #[serde(deserialize_with = "optional_rate", skip_serializing_if = "Option::is_none")]
    pub link_rate: Option<ByteSize>,
}

/// `[sites.NAME]` with `provider = "sftp"`: a folder of an SSH server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SftpSite {
    /// Host name or address of the server. Required.
    pub host: String,
    /// TCP port of the server.
    pub port: u16,
    /// User to log in as. Default: the user running Backlot (`$USER`, else `$LOGNAME`).
    pub user: String,
    /// Absolute path, on the server, of the folder that holds the site's bytes. Required.
    pub root: String,
    /// How to log in: `agent` (a key of the running SSH agent), `key` (`key-file`) or `password`.
    pub auth: SftpAuth,
    /// Private key, for `auth = "key"`.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Passphrase of `key-file`, by reference: `env:NAME` or `file:/path`. Default: the key has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<SecretRef>,
    /// Password, for `auth = "password"`, by reference: `env:NAME` or `file:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// File of the server keys that are trusted, in OpenSSH's format.
    #[serde(serialize_with = "lossy")]
    pub known_hosts: PathBuf,
    /// What to do with a server whose key is not in `known-hosts`: `strict` refuses, `accept-new` adds it. A key that
    /// *changed* is always refused.
    pub host_key: HostKey,
    /// SSH connections to open at most, 1 to 16.
    pub connections: u32,
    /// How often to show a quiet connection that we are still here.
    pub keepalive: Period,
    /// How long to wait for the server when connecting.
    pub connect_timeout: Period,
}

impl Default for SftpSite {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 22,
            user: String::new(),
            root: String::new(),
            auth: SftpAuth::Agent,
            key_file: None,
            passphrase: None,
            password: None,
            known_hosts: PathBuf::from("~/.ssh/known_hosts"),
            host_key: HostKey::Strict,
            connections: 4,
            keepalive: Period::from_secs(15),
            connect_timeout: Period::from_secs(10),
        }
    }
}

/// `[sites.NAME]` with `provider = "exec"`: whatever a program of the studio's can reach (docs/exec-provider.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExecSite {
    /// The program and its arguments, as they are: no shell reads them. Required.
    pub command: Vec<String>,
    /// Processes of the program at most, each with one request at a time, 1 to 64.
    pub workers: u32,
    /// How long the program may take to start and say hello.
    pub start_timeout: Period,
    /// Secrets that the program finds in its environment, by reference: `environment = { TOKEN = "env:STORE_TOKEN" }`. It
    /// gets nothing else of the daemon's environment but PATH, HOME, USER, LOGNAME, SHELL, TMPDIR, TZ, LANG and LC_….
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, SecretRef>,
}

impl Default for ExecSite {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            workers: 4,
            start_timeout: Period::from_secs(10),
            environment: BTreeMap::new(),
        }
    }
}

/// `[sites.NAME]` with `provider = "gdrive"`: a folder of Google Drive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GdriveSite {
    /// Path of the folder that holds the site's bytes: `/My Drive/projects`, or `/NAME/projects` in the shared drive NAME.
    /// Required, unless `folder-id` is given.
    pub root: String,
    /// Id of that folder, as at the end of its address in a browser: for one that was shared with the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder_id: Option<String>,
    /// How to log in: `service-account` (`credentials`), or `user` (`client-id`, `client-secret`, `refresh-token`).
    pub auth: GdriveAuth,
    /// The service account's key, a .json file as Google's console gives it; per system, the first file that exists.
    pub credentials: PerSystem,
    /// For a service account that acts for a user of the domain: that user's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Client id of the OAuth client, for `auth = "user"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Client secret, by reference: `env:NAME` or `file:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// The user's refresh token, by reference: `env:NAME` or `file:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<SecretRef>,
    /// Where Drive's API is, for proxies and tests. Default: Google's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where access tokens are had for `auth = "user"`, for proxies and tests. Default: Google's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
}

impl Default for GdriveSite {
    fn default() -> Self {
        Self {
            root: String::new(),
            folder_id: None,
            auth: GdriveAuth::ServiceAccount,
            credentials: PerSystem::default(),
            subject: None,
            client_id: None,
            client_secret: None,
            refresh_token: None,
            endpoint: None,
            token_endpoint: None,
        }
    }
}

/// How to log in at Google.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GdriveAuth {
    /// As a service account, with its key.
    ServiceAccount,
    /// As a user who gave a refresh token.
    User,
}

/// Paths of a file by system, as AYON's settings have them: one that all machines share is mounted elsewhere on each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PerSystem {
    /// On Linux.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub linux: Vec<PathBuf>,
    /// On macOS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macos: Vec<PathBuf>,
    /// On Windows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<PathBuf>,
}

impl PerSystem {
    /// The paths for the system that this runs on.
    #[must_use]
    pub fn here(&self) -> &[PathBuf] {
        match std::env::consts::OS {
            "macos" => &self.macos,
            "windows" => &self.windows,
            _ => &self.linux,
        }
    }
}

/// How to log in at an SSH server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SftpAuth {
    /// With a key of the running SSH agent.
    Agent,
    /// With a private key from a file.
    Key,
    /// With a password.
    Password,
}

/// What to do with an SSH server that is not in the known hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKey {
    /// Refuse it.
    Strict,
    /// Trust it from now on.
    AcceptNew,
}

/// `[sites.NAME]` with `provider = "s3"`: a bucket of Amazon S3, or of a store that speaks its language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct S3Site {
    /// Bucket that holds the site's bytes. Required.
    pub bucket: String,
    /// Path inside the bucket, without a `/` at either end, of the site's root. Default: the bucket itself.
    pub prefix: String,
    /// Address of the store, as in `https://minio.studio.example:9000`. Default: Amazon's, for `region`.
    pub endpoint: String,
    /// Region of the bucket; most stores of other makers take any.
    pub region: String,
    /// Where the bucket's name goes: `host` (`https://BUCKET.store`), `path` (`https://store/BUCKET`), or `auto`: `host` at
    /// Amazon's, `path` with an `endpoint`.
    pub address_style: AddressStyle,
    /// Access key id, by reference: `env:NAME` or `file:/path`. Default: none, for buckets that are open to all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<SecretRef>,
    /// Secret access key, by reference. Needed with `access-key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<SecretRef>,
    /// Token of temporary credentials, by reference. Default: the credentials are lasting ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
    /// Where modification times come from: `kept` (what the uploader said, as rclone keeps it: one more request for each
    /// object that a listing shows for the first time) or `store` (when the object came: no request more).
    pub mtimes: Mtimes,
    /// File of certificates (PEM) to trust besides the system's, for a store with a certificate of its own making.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long to wait for the store when connecting.
    pub connect_timeout: Period,
}

impl Default for S3Site {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            address_style: AddressStyle::Auto,
            access_key: None,
            secret_key: None,
            session_token: None,
            mtimes: Mtimes::Kept,
            ca_file: None,
            connect_timeout: Period::from_secs(10),
        }
    }
}

/// Where the name of a bucket goes in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressStyle {
    /// In front of the host at Amazon's, into the path elsewhere.
    Auto,
    /// In front of the host.
    Host,
    /// Into the path.
    Path,
}

/// Where the modification times of objects come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mtimes {
    /// From what the uploader wrote beside the object.
    Kept,
    /// From the store's own date of the object.
    Store,
}

/// `[sites.NAME]` with `provider = "webdav"`: a folder of a WebDAV server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WebdavSite {
    /// Address of the folder that holds the site's bytes, as in `https://dav.studio.example/projects`. Required.
    pub url: String,
    /// User to log in as. Default: nobody, or the bearer of `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password of `user`, by reference: `env:NAME` or `file:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Bearer token, by reference, instead of a user and a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretRef>,
    /// File of certificates (PEM) to trust besides the system's, for a server with a certificate of its own making.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long to wait for the server when connecting.
    pub connect_timeout: Period,
}

impl Default for WebdavSite {
    fn default() -> Self {
        Self {
            url: String::new(),
            user: None,
            password: None,
            token: None,
            ca_file: None,
            connect_timeout: Period::from_secs(10),
        }
    }
}
