//! A folder of a WebDAV server as a site.
//!
//! Owns: what each operation is in WebDAV. Refuses to know: what is asked for and why. The parts: `client` requests and
//! their failures, `read`, `upload`, `tree` (folders, renames, deletes), `xml` answers.
//!
//! Invariants: a version is the server's etag, or size and time where it gives none; bytes are given out only when a look
//! made after they came showed the version that was asked for, because servers write in place; "not there" is said only
//! while the site's root is there.

mod client;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod upload;
mod xml;

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use backlot_config::WebdavSite as Settings;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tracing::warn;

use self::client::Client;
use self::upload::{Manners, Sendings};
use self::xml::Found;
use super::upload::is_temp_name;
use super::web::{Fault, Web};
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, Listed, Op, PartDone, Provider, ProviderError, SiteSpace, UploadPlan,
    UploadToken,
};
use crate::model::{EntryKind, Name, RelPath, Version};

/// Steps of time at a WebDAV server, in nanoseconds: dates in HTTP have whole seconds.
const STEP_NS: i64 = 1_000_000_000;

/// A folder of a WebDAV server as a site.
#[derive(Debug)]
pub struct WebdavSite {
    client: Client,
    sendings: Mutex<Sendings>,
    manners: Manners,
}

impl WebdavSite {
    /// Makes a site from its settings; connects when it is first used.
    ///
    /// # Errors
    /// `Config` for settings that can't work; `Auth` when the secret that they refer to can't be had.
    pub fn new(settings: &Settings, requests: Option<usize>, idle_timeout: Duration) -> Result<Self, ProviderError> {
        let web = Web::new(
            &settings.url,
            settings.ca_file.as_deref(),
            settings.connect_timeout.as_duration(),
            requests,
            idle_timeout,
        )?;
        Ok(Self {
            client: Client::new(settings, web)?,
            sendings: Mutex::default(),
            manners: Manners::default(),
        })
    }

    /// Turns a failure into an error; "not there" is believed only while the root itself is there.
    async fn absent_or(&self, fault: Fault, op: Op, path: &RelPath) -> ProviderError {
        if fault.kind != ErrorKind::NotFound {
            return fault.on(op, path);
        }
        let root = match self.client.url(&RelPath::root(), op) {
            Ok(root) => root,
            Err(error) => return error,
        };
        match self.client.look(root).await {
            Ok(_) if !path.is_root() => fault.on(op, path),
            Ok(_) => Fault::new(ErrorKind::Protocol, "the site's root is there, and is not").on(op, path),
            Err(gone) if gone.kind == ErrorKind::NotFound => {
                Fault::new(ErrorKind::Unreachable, "the site's root is not there: see `url`").on(op, path)
            }
            Err(other) => other.on(op, path),
        }
    }

    /// Looks at an entry; `None`: the server confirms that nothing is there.
    async fn find(&self, path: &RelPath, op: Op) -> Result<Option<Found>, ProviderError> {
        match self.client.look(self.client.url(path, op)?).await {
            Ok(found) => Ok(Some(found)),
            Err(fault) => match self.absent_or(fault, op, path).await {
                error if error.kind == ErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }
}

fn version(found: &Found) -> Version {
    match &found.etag {
        Some(etag) => Version::new(etag.as_str()),
        None => Version::from_size_mtime(found.size.unwrap_or(0), mtime_ns(found)),
    }
}

fn mtime_ns(found: &Found) -> i64 {
    found.modified.unwrap_or(0).saturating_mul(STEP_NS)
}

fn entry(found: &Found) -> Entry {
    if found.is_dir {
        return Entry {
            kind: EntryKind::Dir,
            size: 0,
            mtime_ns: mtime_ns(found),
            perm: None,
            // What is in it changes a folder's etag at some servers, and a folder's version is its existence.
            version: Version::from_size_mtime(0, 0),
            target: None,
        };
    }
    Entry {
        kind: EntryKind::File,
        size: found.size.unwrap_or(0),
        mtime_ns: mtime_ns(found),
        perm: None,
        version: version(found),
        target: None,
    }
}

async fn listing(site: &WebdavSite, dir: &RelPath) -> Result<Vec<Listed>, ProviderError> {
    let (this, children) = match site.client.children(site.client.url(dir, Op::List)?).await {
        Ok(found) => found,
        // A file asked for as a folder is "not there" to some servers, or a question that makes no sense.
        Err(fault) => {
            return Err(match site.find(dir, Op::List).await {
                Ok(Some(found)) if !found.is_dir => ProviderError::new(ErrorKind::WrongKind, Op::List).at(dir),
                Ok(Some(_)) => fault.on(Op::List, dir),
                Ok(None) => ProviderError::new(ErrorKind::NotFound, Op::List).at(dir),
                Err(error) => error,
            });
        }
    };
    if !this.is_dir {
        return Err(ProviderError::new(ErrorKind::WrongKind, Op::List).at(dir));
    }
    let mut rows = Vec::with_capacity(children.len());
    for (name, found) in children {
        if is_temp_name(&name) || found.is_gone() {
            continue;
        }
        if !found.is_told() {
            // Left out, it would be taken for removed; shown, for an empty file.
            let shown = String::from_utf8_lossy(&name);
            let status = found.withheld.map(|status| format!(" (HTTP {status})"));
            let why = format!("the server does not say what {shown} is{}", status.unwrap_or_default());
            return Err(ProviderError::new(ErrorKind::Protocol, Op::List).at(dir).because(why));
        }
        match Name::new(name) {
            Ok(name) => rows.push(Listed {
                name,
                entry: entry(&found),
            }),
            Err(why) => warn!(folder = %dir, %why, "an entry is not shown"),
        }
    }
    Ok(rows)
}

#[async_trait]
impl Provider for WebdavSite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // RFC 4918: a MOVE over something deletes it first.
            atomic_replace: false,
            ranged_read: true,
            resume_upload: false,
            conditional_commit: self.manners.conditions_hold(),
            symlinks: false,
            byte_names: false,
            mtime_step_ns: STEP_NS.unsigned_abs(),
            keeps_mtime: self.manners.keeps_mtime(),
            min_part: 0,
            // A file goes up in one request.
            parts_in_order: true,
            hash: None,
            parallel_reads: self.client.web.requests,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        match self.find(&RelPath::root(), Op::Probe).await? {
            Some(found) if found.is_dir => Ok(()),
            _ => Err(ProviderError::new(ErrorKind::Config, Op::Probe).because("the site's `url` is no folder")),
        }
    }

    fn login_mark(&self) -> Option<u64> {
        self.client.login_mark()
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        let found = self.find(path, Op::Stat).await?;
        let found = found.ok_or_else(|| ProviderError::new(ErrorKind::NotFound, Op::Stat).at(path))?;
        Ok(entry(&found))
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        stream::once(listing(self, dir))
            .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
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

    async fn was_committed(
        &self,
        token: &UploadToken,
        parts: &[PartDone],
        replaced: Option<&Version>,
    ) -> Result<Option<Version>, ProviderError> {
        upload::was_committed(self, token, parts, replaced).await
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        upload::abort(self, &token).await
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        tree::make_dirs(self, path, Op::MakeDir).await
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        tree::rename(self, from, to).await
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        tree::delete(self, path).await
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        let found = self.client.look_at_space().await;
        let found = found.map_err(|fault| fault.on(Op::Space, &RelPath::root()))?;
        Ok(found.available.zip(found.used).map(|(available, used)| SiteSpace {
            total: available.saturating_add(used),
            available,
        }))
    }
}
