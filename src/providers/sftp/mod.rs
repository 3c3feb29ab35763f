//! A folder of an SSH server as a site, over SFTP version 3.
//!
//! Owns: what each operation is in SFTP. Refuses to know: what is asked for and why. The parts: `wire` packets, `session`
//! requests in flight, `connect` SSH, `pool` connections, `read`, `list`, `upload`. Invariant: names and paths are bytes
//! from end to end; "not there" is said only when the server says so and the site's root is there.

mod auth;
mod connect;
mod error;
mod files;
mod known_hosts;
mod list;
mod pool;
mod read;
mod session;
#[cfg(test)]
mod tests;
mod upload;
mod window;
mod wire;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use backlot_config::{HostKey, SftpAuth, SftpSite as Settings};
use bytes::Bytes;
use futures::stream::BoxStream;

use self::auth::Credentials;
use self::connect::{Connection, Server};
use self::error::Fault;
use self::pool::{Lease, Pool};
use self::wire::Attrs;
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, Listed, Op, PartDone, Provider, ProviderError, SiteSpace, UploadPlan,
    UploadToken,
};
use crate::model::{EntryKind, RelPath, Version};

/// Linux's PATH_MAX. A longer path fails at the server in a way that can't be told from other failures.
const PATH_MAX: usize = 4096;
/// Reads under way at once that one connection makes good use of.
const READS_PER_CONNECTION: usize = 4;

/// A folder of an SSH server as a site.
#[derive(Debug)]
pub struct SftpSite {
    pool: Pool,
    /// Absolute path at the server, without a slash at its end; empty for `/`.
    root: Vec<u8>,
    parallel: usize,
}

impl SftpSite {
    /// Makes a site from its settings; connects when it is first used.
    ///
    /// # Errors
    /// `Config` for settings that can't work; `Auth` when the secret that they refer to can't be had.
    pub fn new(settings: &Settings, requests: Option<usize>, idle_timeout: Duration) -> Result<Self, ProviderError> {
        let config = |why: &str| ProviderError::new(ErrorKind::Config, Op::Connect).because(why.to_owned());
        let root = settings.root.as_bytes();
        if root.first() != Some(&b'/') {
            return Err(config("`root` must be an absolute path at the server"));
        }
        if settings.host.is_empty() || settings.user.is_empty() {
            return Err(config("`host` and `user` must be given"));
        }
        let server = Server {
            host: settings.host.clone(),
            port: settings.port,
            user: settings.user.clone(),
            credentials: credentials(settings)?,
            known_hosts: settings.known_hosts.clone(),
            accept_new: settings.host_key == HostKey::AcceptNew,
            keepalive: settings.keepalive.as_duration(),
            connect_timeout: settings.connect_timeout.as_duration(),
            idle_timeout,
        };
        let pool = Pool::new(server, settings.connections as usize);
        let parallel = requests.unwrap_or(pool.most() * READS_PER_CONNECTION).max(1);
        let end = root.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
        Ok(Self {
            pool,
            root: root[..end].to_vec(),
            parallel,
        })
    }

    fn root(&self) -> &[u8] {
        if self.root.is_empty() { b"/" } else { &self.root }
    }

    /// Returns the path at the server.
    fn full(&self, path: &RelPath, op: Op) -> Result<Vec<u8>, ProviderError> {
        if path.is_root() {
            return Ok(self.root().to_vec());
        }
        let full = [&self.root[..], b"/", path.as_bytes()].concat();
        if full.len() < PATH_MAX {
            return Ok(full);
        }
        let why = format!(
            "with the site's root, a path of {} bytes; {} fit",
            full.len(),
            PATH_MAX - 1
        );
        Err(ProviderError::new(ErrorKind::Invalid, op).at(path).because(why))
    }

    async fn connection(&self, op: Op, path: &RelPath) -> Result<Lease, ProviderError> {
        self.connection_for(0, op, path).await
    }

    /// Returns a connection to move so many bytes over.
    async fn connection_for(&self, bytes: u64, op: Op, path: &RelPath) -> Result<Lease, ProviderError> {
        self.pool.get(bytes).await.map_err(|fault| fault.on_open(op, path))
    }

    /// Turns a failure into an error; "no such file" is believed only while the root itself is there, because below a
    /// volume that is not mounted, everything looks deleted.
    async fn absent_or(&self, connection: &Connection, fault: Fault, op: Op, path: &RelPath) -> ProviderError {
        if !fault.is_absent() {
            return fault.on(op, path);
        }
        match connection.session.stat(self.root()).await {
            Ok(_) => fault.on(op, path),
            Err(root) if root.is_absent() => {
                let why = format!("the site's root {} is not there", String::from_utf8_lossy(self.root()));
                ProviderError::new(ErrorKind::Unreachable, op).at(path).because(why)
            }
            Err(other) => other.on_open(op, path),
        }
    }

    /// Makes a folder and those above it that are missing.
    async fn make_dirs(&self, connection: &Connection, path: &RelPath, op: Op) -> Result<(), ProviderError> {
        let mut missing = Vec::new();
        let mut at = path.clone();
        while let Some((above, _)) = at.split_last() {
            match self.make_one(connection, &at, op).await {
                Ok(()) => break,
                Err(fault) if fault.is_absent() => missing.push(std::mem::replace(&mut at, above)),
                Err(fault) => return Err(folder_error(fault, op, &at)),
            }
        }
        if at.is_root()
            && let Err(fault) = connection.session.stat(self.root()).await
        {
            return Err(self.absent_or(connection, fault, op, path).await);
        }
        for dir in missing.iter().rev() {
            self.make_one(connection, dir, op)
                .await
                .map_err(|fault| folder_error(fault, op, dir))?;
        }
        Ok(())
    }

    /// Makes a folder; one that is there already is fine.
    async fn make_one(&self, connection: &Connection, path: &RelPath, op: Op) -> Result<(), Fault> {
        let full = self
            .full(path, op)
            .map_err(|_| Fault::Protocol("the path is too long"))?;
        let Err(fault) = connection.session.make_dir(&full).await else {
            return Ok(());
        };
        if fault.is_absent() {
            return Err(fault);
        }
        match connection.session.lstat(&full).await {
            Ok(attrs) if attrs_kind(&attrs) == Some(EntryKind::Dir) => Ok(()),
            _ => Err(fault),
        }
    }

    /// Says why a rename failed, which the server's answer alone doesn't.
    async fn rename_error(&self, connection: &Connection, fault: Fault, from: &RelPath, to: &RelPath) -> ProviderError {
        let (Ok(source), Ok(target)) = (self.full(from, Op::Rename), self.full(to, Op::Rename)) else {
            return fault.on(Op::Rename, from);
        };
        let (source, target) = (connection.session.lstat(&source), connection.session.lstat(&target));
        match (source.await, target.await) {
            (Err(gone), _) if gone.is_absent() => self.absent_or(connection, gone, Op::Rename, from).await,
            (Ok(source), Ok(target)) if is_dir(&source) || is_dir(&target) => {
                ProviderError::new(ErrorKind::WrongKind, Op::Rename)
                    .at(to)
                    .because(fault)
            }
            (Ok(_), Err(gone)) if gone.is_absent() => fault.on(Op::Rename, to),
            _ => fault.on(Op::Rename, from),
        }
    }
}

fn folder_error(fault: Fault, op: Op, path: &RelPath) -> ProviderError {
    if fault.is_plain_failure() || fault.is_absent() {
        return ProviderError::new(ErrorKind::WrongKind, op)
            .at(path)
            .because("no folder can be made there");
    }
    fault.on(op, path)
}

fn credentials(settings: &Settings) -> Result<Credentials, ProviderError> {
    let config = |why: &str| ProviderError::new(ErrorKind::Config, Op::Connect).because(why.to_owned());
    let credentials = match settings.auth {
        SftpAuth::Agent => Credentials::Agent,
        SftpAuth::Key => {
            let file = settings
                .key_file
                .clone()
                .ok_or_else(|| config("`auth = \"key\"` needs `key-file`"))?;
            let passphrase = settings.passphrase.clone();
            Credentials::Key { file, passphrase }
        }
        SftpAuth::Password => {
            let password = settings
                .password
                .clone()
                .ok_or_else(|| config("`auth = \"password\"` needs `password`"))?;
            Credentials::Password(password)
        }
    };
    let can_be_had = credentials.check();
    can_be_had.map_err(|e| ProviderError::new(ErrorKind::Auth, Op::Connect).because(e.why))?;
    Ok(credentials)
}

/// `st_mode`'s type bits.
const TYPE_MASK: u32 = 0o170_000;

/// Returns what an entry is; `None` when the server does not say, or it is nothing that we show.
fn attrs_kind(attrs: &Attrs) -> Option<EntryKind> {
    match attrs.mode? & TYPE_MASK {
        0o100_000 => Some(EntryKind::File),
        0o040_000 => Some(EntryKind::Dir),
        0o120_000 => Some(EntryKind::Symlink),
        _ => None,
    }
}

fn is_dir(attrs: &Attrs) -> bool {
    attrs_kind(attrs) == Some(EntryKind::Dir)
}

fn attrs_mtime_ns(attrs: &Attrs) -> i64 {
    i64::from(attrs.mtime.unwrap_or(0)) * 1_000_000_000
}

fn attrs_version(attrs: &Attrs) -> Version {
    let size = if is_dir(attrs) { 0 } else { attrs.size.unwrap_or(0) };
    Version::from_size_mtime(size, attrs_mtime_ns(attrs))
}

/// Returns the entry that the attributes speak of; `None` for what we don't show.
fn attrs_entry(attrs: &Attrs, target: Option<Vec<u8>>) -> Option<Entry> {
    let kind = attrs_kind(attrs)?;
    Some(Entry {
        kind,
        size: if kind == EntryKind::Dir {
            0
        } else {
            attrs.size.unwrap_or(0)
        },
        mtime_ns: attrs_mtime_ns(attrs),
        perm: attrs.mode.and_then(|mode| u16::try_from(mode & 0o7777).ok()),
        version: attrs_version(attrs),
        target,
    })
}

#[async_trait]
impl Provider for SftpSite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_replace: self.pool.features().is_some_and(|f| f.posix_rename),
            ranged_read: true,
            resume_upload: true,
            conditional_commit: false,
            symlinks: true,
            byte_names: true,
            mtime_step_ns: 1_000_000_000,
            keeps_mtime: true,
            min_part: 0,
            parts_in_order: false,
            hash: None,
            parallel_reads: self.parallel,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        let root = RelPath::root();
        let connection = self.connection(Op::Probe, &root).await?;
        match connection.session.stat(self.root()).await {
            Ok(attrs) if attrs_kind(&attrs).is_none_or(|kind| kind == EntryKind::Dir) => Ok(()),
            Ok(_) => Err(ProviderError::new(ErrorKind::Config, Op::Probe).because("the site's `root` is no folder")),
            Err(fault) => Err(self.absent_or(&connection, fault, Op::Probe, &root).await),
        }
    }

    fn forget_connections(&self) {
        self.pool.forget_connections();
    }

    fn login_mark(&self) -> Option<u64> {
        self.pool.login_mark()
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        let full = self.full(path, Op::Stat)?;
        let connection = self.connection(Op::Stat, path).await?;
        let session = &connection.session;
        let look = if path.is_root() {
            session.stat(&full)
        } else {
            session.lstat(&full)
        };
        let attrs = match look.await {
            Ok(attrs) => attrs,
            Err(fault) => return Err(self.absent_or(&connection, fault, Op::Stat, path).await),
        };
        let target = match attrs_kind(&attrs) {
            Some(EntryKind::Symlink) => Some(
                session
                    .read_link(&full)
                    .await
                    .map_err(|f| f.on(Op::Stat, path))?
                    .to_vec(),
            ),
            _ => None,
        };
        let odd = || {
            ProviderError::new(ErrorKind::WrongKind, Op::Stat)
                .at(path)
                .because("neither file, folder nor link")
        };
        attrs_entry(&attrs, target).ok_or_else(odd)
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        list::list(self, dir)
    }

    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        read::read(self, path, at, range, arrivals)
    }

    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
        upload::begin(self, plan).await
    }

    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError> {
        upload::part(self, token, index, part).await
    }

    async fn commit(
        &self,
        token: UploadToken,
        parts: &[PartDone],
        expect: Option<Option<&Version>>,
    ) -> Result<Version, ProviderError> {
        upload::commit(self, &token, parts, expect).await
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        upload::abort(self, &token).await
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.full(path, Op::MakeDir)?;
        let connection = self.connection(Op::MakeDir, path).await?;
        self.make_dirs(&connection, path, Op::MakeDir).await
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        let (source, target) = (self.full(from, Op::Rename)?, self.full(to, Op::Rename)?);
        if from.is_root() || to.is_root() {
            return Err(ProviderError::new(ErrorKind::Invalid, Op::Rename)
                .at(from)
                .because("the root stays as it is"));
        }
        let connection = self.connection(Op::Rename, from).await?;
        let session = &connection.session;
        let renamed = if from == to {
            // Plain version 3 refuses this, as the name is taken.
            session.lstat(&source).await.map(drop)
        } else if session.features().posix_rename {
            session.posix_rename(&source, &target).await
        } else {
            // Refused where something has the name; only a file makes way.
            match session.rename(&source, &target).await {
                Err(fault) if fault.is_plain_failure() => match session.lstat(&source).await {
                    Ok(attrs) if !is_dir(&attrs) && session.remove(&target).await.is_ok() => {
                        session.rename(&source, &target).await
                    }
                    _ => Err(fault),
                },
                other => other,
            }
        };
        match renamed {
            Ok(()) => Ok(()),
            Err(fault @ Fault::Status { .. }) => Err(self.rename_error(&connection, fault, from, to).await),
            Err(fault) => Err(fault.on(Op::Rename, from)),
        }
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        let full = self.full(path, Op::Delete)?;
        if path.is_root() {
            return Err(ProviderError::new(ErrorKind::Invalid, Op::Delete)
                .at(path)
                .because("the root stays as it is"));
        }
        let connection = self.connection(Op::Delete, path).await?;
        let session = &connection.session;
        let fault = match session.remove(&full).await {
            Ok(()) => return Ok(()),
            Err(fault @ Fault::Status { .. }) if !fault.is_absent() => fault,
            Err(fault) => return Err(self.absent_or(&connection, fault, Op::Delete, path).await),
        };
        // Servers differ in what they say of a folder that is to be removed like a file.
        if !session.lstat(&full).await.is_ok_and(|attrs| is_dir(&attrs)) {
            return Err(fault.on(Op::Delete, path));
        }
        match session.remove_dir(&full).await {
            Ok(()) => Ok(()),
            Err(fault) if fault.is_plain_failure() => Err(ProviderError::new(ErrorKind::WrongKind, Op::Delete)
                .at(path)
                .because("the folder has entries")),
            Err(fault) => Err(fault.on(Op::Delete, path)),
        }
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        let root = RelPath::root();
        let connection = self.connection(Op::Space, &root).await?;
        if !connection.session.features().statvfs {
            return Ok(None);
        }
        let space = connection.session.space(self.root()).await;
        let (total, available) = space.map_err(|f| f.on(Op::Space, &root))?;
        Ok(Some(SiteSpace { total, available }))
    }
}
