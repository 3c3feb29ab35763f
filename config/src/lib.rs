//! Settings of Backlot: the model, where values come from, and what is wrong with them.
//!
//! Owns the settings file's format, the order of its layers and every message about it. Knows nothing of what settings are
//! used for, and reads files only: environment and home folder are given to the [`Loader`].
//! Invariant: whoever holds a [`Loaded`] holds settings that were checked as a whole.
//!
//! `schema` is the model, with `sites` and `fuse`; `layers` finds the files and lays them over one another as a `tree` of values with places, under
//! `env_layer`; `sections` and `de` make the typed model of it; `validate` checks it; `origin` and `error` are what people
//! are told.

mod copies;
mod de;
mod dirs;
mod env_layer;
mod error;
mod fuse;
mod layers;
mod notify;
mod origin;
mod schema;
mod secret_ref;
mod sections;
mod sites;
mod sync;
mod timetable;
mod tree;
mod units;
mod validate;
mod workfiles;

pub use copies::Copies;
pub use error::{ConfigError, ConfigErrors, did_you_mean};
pub use fuse::{Fuse, Passthrough, Threads};
pub use layers::{Loaded, Loader};
pub use notify::{Notify, Occasion, Receiver, SmtpSecurity};
pub use origin::{Layer, Origin, Origins, Place, Position, Row, render_origin};
pub use schema::{
    Api, Cache, Config, Drive, Firewall, Hydration, Log, LogFormat, LogLevel, Machine, Project, Publish, RemoteDelete,
    SCHEMA_VERSION, Scan, Scrub, Volume, VolumeRoots, ZoneKind, ZoneRule,
};
pub use secret_ref::{SecretError, SecretRef};
pub use sites::{
    AddressStyle, ExecSite, GdriveAuth, GdriveSite, HostKey, LocalSite, Mtimes, PerSystem, ProviderSettings, S3Site,
    SftpAuth, SftpSite, Site, SiteLimits, WebdavSite,
};
pub use sync::Sync;
pub use timetable::{MinuteOfWeek, Timetable, TimetableError};
pub use units::{ByteSize, Period, Umask, UnitError};
pub use validate::{compile_glob, compile_globs};
pub use workfiles::Workfiles;

/// Returns the commented file that `backlot config init` writes. It works once its two lines marked `EDIT` name the studio's
/// server and the folder to mount at; every other setting is there with its default, commented out.
#[must_use]
pub fn sample() -> &'static str {
    include_str!("sample.toml")
}

/// Returns the same file for a drive of the whole machine: state in /var/lib, the cache in /var/cache, open to all users.
#[must_use]
pub fn system_sample() -> String {
    SYSTEM.iter().fold(sample().to_owned(), |text, (of_user, of_system)| {
        text.replacen(of_user, of_system, 1)
    })
}

/// Lines of the sample, and what they are for a whole machine.
const SYSTEM: [(&str, &str); 4] = [
    ("\nmount-point = \"~/backlot\"", "\nmount-point = \"/mnt/projects\""),
    ("\n#allow-other = false", "\nallow-other = true"),
    (
        "\n#data-dir = \"~/.local/share/backlot\"",
        "\ndata-dir = \"/var/lib/backlot\"",
    ),
    (
        "\n#cache-dir = \"~/.cache/backlot\"",
        "\ncache-dir = \"/var/cache/backlot\"",
    ),
];
