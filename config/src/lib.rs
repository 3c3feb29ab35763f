//! Settings of Backlot: the model, where values come from, and what is wrong with them.

mod schema;
mod secret_ref;
mod units;

pub use schema::{
    Cache, Config, Drive, Fuse, HostKey, Hydration, LocalSite, Log, LogFormat, LogLevel, Machine, Project,
    ProviderSettings, RemoteDelete, SCHEMA_VERSION, Scan, SftpAuth, SftpSite, Site, SiteLimits, Threads, ZoneKind,
    ZoneRule,
};
pub use secret_ref::{SecretError, SecretRef};
pub use units::{ByteSize, Period, UnitError};
