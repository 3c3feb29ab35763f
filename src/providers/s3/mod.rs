//! A bucket of Amazon S3, or of a store that speaks its language, as a site.
//!
//! Owns: what each operation is in S3. Refuses to know: what is asked for and why. The parts: `client` requests and their
//! failures, `manners` what stores differ in, `list`, `read`, `upload`, `tree` (folders, renames, deletes), `xml` answers.
//!
//! Invariants: a version is the object's etag, and bytes are asked for by it; an object appears under its name whole or
//! not at all, because stores do it so; "not there" is said only when the store denies the object *and* anything below it,
//! and has the bucket.
//!
//! Folders are what keys have in common up to a `/`. An empty one is kept by an empty object whose key ends in `/`; with
//! stores that have no such keys, by one in it that is not shown. Where a key is an object's and the beginning of others'
//! as well, the object is shown and the others are not.

mod client;
mod list;
mod manners;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod upload;
mod xml;

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use backlot_config::{Mtimes, S3Site as Settings};
use bytes::Bytes;
use futures::stream::BoxStream;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, ETAG, LAST_MODIFIED};

use self::client::{Ask, Client};
use self::manners::Manners;
use self::upload::Held;
use self::xml::{Page, plain_etag};
use super::web::{Fault, Reply, Web, http_date};
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, Listed, Op, PartDone, Provider, ProviderError, SiteSpace, UploadPlan,
    UploadToken,
};
use crate::model::{EntryKind, RelPath, Version};

/// Longest key, in bytes: Amazon's limit, which others keep to.
const KEY_MAX: usize = 1024;
/// Fewest bytes of a part that is not the last: Amazon's limit.
const PART_MIN: u64 = 5 << 20;
/// Where rclone keeps the modification time of a file: seconds since 1970, with a fraction.
const MTIME: &str = "x-amz-meta-mtime";
/// Where an object says which upload made it.
const UPLOAD: &str = "x-amz-meta-backlot-upload";
/// Modification times that are remembered: each is a fact about one state of one object, and holds for ever.
const MTIMES_MAX: u64 = 200_000;

/// A head that makes no sense is asked for again, so often and after so long: rclone leaves the etag out of one that it answers
/// in the moment in which the object is replaced.
const HEADS_MAX: u32 = 3;
const HEAD_AGAIN: Duration = Duration::from_millis(50);

/// A bucket as a site.
#[derive(Debug)]
pub struct S3Site {
    client: Client,
    /// Empty, or the site's root with a `/` at its end.
    prefix: String,
    mtimes: Mtimes,
    /// Modification times by a hash of key, etag and the store's date.
    known_mtimes: moka::sync::Cache<u64, i64>,
    hasher: RandomState,
    held: Mutex<Held>,
    manners: Manners,
}

/// What the head of an object says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Head {
    etag: String,
    size: u64,
    mtime_ns: i64,
    /// The upload that made it, where it was one of ours.
    upload: Option<String>,
}

impl Head {
    fn version(&self) -> Version {
        Version::new(self.etag.as_str())
    }
}

impl S3Site {
    /// Makes a site from its settings; connects when it is first used.
    ///
    /// # Errors
    /// `Config` for settings that can't work; `Auth` when the secrets that they refer to can't be had.
    pub fn new(settings: &Settings, requests: Option<usize>, idle_timeout: Duration) -> Result<Self, ProviderError> {
        let amazon = "https:";
        let address = if settings.endpoint.is_empty() {
            amazon
        } else {
            &settings.endpoint
        };
        let web = Web::new(
            address,
            settings.ca_file.as_deref(),
            settings.connect_timeout.as_duration(),
            requests,
            idle_timeout,
        )?;
        let prefix = settings.prefix.trim_matches('/');
        Ok(Self {
            client: Client::new(settings, web)?,
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            },
            mtimes: settings.mtimes,
            known_mtimes: moka::sync::Cache::new(MTIMES_MAX),
            hasher: RandomState::new(),
            held: Mutex::default(),
            manners: Manners::default(),
        })
    }

    /// Returns the key of what is at a path; of the root, the prefix without its slash.
    fn key(&self, path: &RelPath, op: Op) -> Result<String, ProviderError> {
        let invalid = |why: String| ProviderError::new(ErrorKind::Invalid, op).at(path).because(why);
        let Ok(text) = std::str::from_utf8(path.as_bytes()) else {
            return Err(invalid("keys are UTF-8, and this name is not".to_owned()));
        };
        let key = format!("{}{text}", self.prefix);
        // A folder's marker is one longer.
        if key.len() < KEY_MAX {
            return Ok(key);
        }
        Err(invalid(format!("a key of {} bytes; {} fit", key.len(), KEY_MAX - 1)))
    }

    /// Returns what the keys of everything in a folder begin with.
    fn below(&self, path: &RelPath, op: Op) -> Result<String, ProviderError> {
        if path.is_root() {
            return Ok(self.prefix.clone());
        }
        Ok(format!("{}/", self.key(path, op)?))
    }

    /// Asks for a page of the keys that begin so.
    async fn page(&self, prefix: &str, delimiter: bool, most: Option<u32>, after: Option<&str>) -> Result<Page, Fault> {
        let mut ask = Ask::new(Method::GET, "")
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("prefix", prefix);
        if delimiter {
            ask = ask.query("delimiter", "/");
        }
        if let Some(most) = most {
            ask = ask.query("max-keys", most.to_string());
        }
        if let Some(token) = after {
            ask = ask.query("continuation-token", token);
        }
        let text = self.client.ask(ask).await?.text().await?;
        xml::page(&text).ok_or_else(|| Fault::new(ErrorKind::Protocol, "a listing that makes no sense"))
    }

    /// Says whether any key begins so.
    async fn has_keys(&self, prefix: &str) -> Result<bool, Fault> {
        let page = self.page(prefix, false, Some(1), None).await?;
        Ok(!page.objects.is_empty())
    }

    /// Looks at an object; `None`: the store has none with that key. (It may still have others below it.)
    async fn head(&self, key: &str) -> Result<Option<Head>, Fault> {
        for _ in 1..HEADS_MAX {
            match self.head_now(key).await {
                Err(fault) if fault.kind == ErrorKind::Protocol => tokio::time::sleep(HEAD_AGAIN).await,
                head => return head,
            }
        }
        self.head_now(key).await
    }

    async fn head_now(&self, key: &str) -> Result<Option<Head>, Fault> {
        let reply = match self.client.ask(Ask::new(Method::HEAD, key)).await {
            Ok(reply) => reply,
            Err(fault) if fault.kind == ErrorKind::NotFound => return Ok(None),
            // A head has no body to say why; a listing of the same key has.
            Err(fault) if matches!(fault.kind, ErrorKind::Denied | ErrorKind::Invalid | ErrorKind::Config) => {
                self.page(key, false, Some(1), None).await?;
                return Err(fault);
            }
            Err(fault) => return Err(fault),
        };
        let head = self.head_of(key, &reply)?;
        reply.finish().await?;
        Ok(Some(head))
    }

    fn head_of(&self, key: &str, reply: &Reply) -> Result<Head, Fault> {
        let odd = |what| Fault::new(ErrorKind::Protocol, format!("an object without {what}"));
        let etag = reply.header(&ETAG).map(plain_etag).filter(|etag| !etag.is_empty());
        let etag = etag.ok_or_else(|| odd("an etag"))?.to_owned();
        let size = reply.header(&CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let modified = reply.header(&LAST_MODIFIED).and_then(http_date);
        let modified = modified.ok_or_else(|| odd("a date"))?;
        let mtime_ns = match self.mtimes {
            Mtimes::Store => None,
            Mtimes::Kept => reply.named(MTIME).and_then(mtime_from),
        };
        let mtime_ns = mtime_ns.unwrap_or(modified.saturating_mul(1_000_000_000));
        self.known_mtimes.insert(self.mtime_key(key, &etag, modified), mtime_ns);
        Ok(Head {
            size: size.ok_or_else(|| odd("a length"))?,
            mtime_ns,
            upload: reply.named(UPLOAD).map(str::to_owned),
            etag,
        })
    }

    fn mtime_key(&self, key: &str, etag: &str, modified: i64) -> u64 {
        self.hasher.hash_one((key, etag, modified))
    }

    /// Says why an object is not there: perhaps a folder is.
    async fn absent(&self, path: &RelPath, op: Op) -> ProviderError {
        let looked = match self.below(path, op) {
            Ok(prefix) => self.has_keys(&prefix).await,
            Err(error) => return error,
        };
        match looked {
            Ok(true) => ProviderError::new(ErrorKind::WrongKind, op)
                .at(path)
                .because("a folder has the name"),
            Ok(false) => ProviderError::new(ErrorKind::NotFound, op).at(path),
            Err(fault) => fault.on(op, path),
        }
    }
}

fn folder() -> Entry {
    Entry {
        kind: EntryKind::Dir,
        size: 0,
        mtime_ns: 0,
        perm: None,
        version: Version::from_size_mtime(0, 0),
        target: None,
    }
}

fn file(size: u64, mtime_ns: i64, etag: &str) -> Entry {
    Entry {
        kind: EntryKind::File,
        size,
        mtime_ns,
        perm: None,
        version: Version::new(etag),
        target: None,
    }
}

/// Writes a time as rclone does: seconds since 1970, with nine digits after the point.
fn mtime_text(mtime_ns: i64) -> String {
    let sign = if mtime_ns < 0 { "-" } else { "" };
    let ns = mtime_ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// Reads such a time; digits beyond nanoseconds are dropped.
fn mtime_from(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let ns: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(ns)?.checked_mul(sign)
}

#[async_trait]
impl Provider for S3Site {
    fn capabilities(&self) -> Capabilities {
        let keeps_mtime = self.mtimes == Mtimes::Kept;
        Capabilities {
            atomic_replace: true,
            ranged_read: true,
            resume_upload: true,
            conditional_commit: self.manners.conditions_hold(),
            symlinks: false,
            byte_names: false,
            mtime_step_ns: if keeps_mtime { 1 } else { 1_000_000_000 },
            keeps_mtime,
            min_part: PART_MIN,
            parts_in_order: false,
            // Etags are an MD5 only of objects that came in one piece and are not encrypted with a key of one's own.
            hash: None,
            parallel_reads: self.client.web.requests,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        let page = self.page(&self.prefix, false, Some(1), None).await;
        page.map(drop).map_err(|fault| fault.on(Op::Probe, &RelPath::root()))
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        let prefix = self.below(path, Op::Stat)?;
        if path.is_root() {
            let page = self.page(&prefix, false, Some(1), None).await;
            return page.map(|_| folder()).map_err(|fault| fault.on(Op::Stat, path));
        }
        let key = self.key(path, Op::Stat)?;
        match self.head(&key).await {
            Ok(Some(head)) => Ok(file(head.size, head.mtime_ns, &head.etag)),
            Ok(None) => match self.has_keys(&prefix).await {
                Ok(true) => Ok(folder()),
                Ok(false) => Err(ProviderError::new(ErrorKind::NotFound, Op::Stat).at(path)),
                Err(fault) => Err(fault.on(Op::Stat, path)),
            },
            Err(fault) => Err(fault.on(Op::Stat, path)),
        }
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
        arrivals.note_each(read::read(self, path, at, range))
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
        tree::make_dir(self, path).await
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        tree::rename(self, from, to).await
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        tree::delete(self, path).await
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        Ok(None)
    }
}
