//! Uploads: in parts that the store puts together, or in one request for a file of one part.
//!
//! Owns: what is at the store between `begin` and `commit`, and whether conditions are the store's to decide. Invariants:
//! nothing has the final name before the commit; a commit that is asked for twice is recognised by the upload's name,
//! which the object carries, or by the etag that its bytes must have.
//!
//! A file of one part is held here and sent by its commit: a store has no place to put it before that, and a third of the
//! requests will do. After a restart it is gone, and sent anew.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::PoisonError;

use bytes::Bytes;
use md5::{Digest, Md5};
use reqwest::Method;
use reqwest::header::ETAG;

use super::client::Ask;
use super::xml::{self, plain_etag};
use super::{Head, MTIME, S3Site, UPLOAD, mtime_text};
use crate::model::{RelPath, Version};
use crate::providers::upload::check_expect;
use crate::providers::web::Fault;
use crate::providers::{ErrorKind, Op, PartDone, ProviderError, UploadPlan, UploadToken};

/// What a token of an upload in one request says; any other is the store's name for an upload in parts.
const ONE_REQUEST: &str = "put";
/// Bytes that are held at most for commits to come. What is dropped is sent again.
const HELD_MAX: usize = 512 << 20;

/// Files of one part that wait for their commits, by the upload's name.
#[derive(Debug, Default)]
pub(super) struct Held {
    files: HashMap<String, Bytes>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Held {
    fn put(&mut self, nonce: &str, bytes: Bytes) {
        self.remove(nonce);
        self.bytes += bytes.len();
        self.files.insert(nonce.to_owned(), bytes);
        self.order.push_back(nonce.to_owned());
        while self.bytes > HELD_MAX && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, nonce: &str) {
        if let Some(bytes) = self.files.remove(nonce) {
            self.bytes -= bytes.len();
            self.order.retain(|known| known != nonce);
        }
    }
}

pub(super) async fn initiate(site: &S3Site, key: &str, headers: &[(&'static str, String)]) -> Result<String, Fault> {
    let mut ask = Ask::new(Method::POST, key).query("uploads", "");
    for (name, value) in headers {
        ask = ask.header(name, value.as_str());
    }
    let text = site.client.ask(ask).await?.text().await?;
    let id = xml::value(&text, "UploadId").filter(|id| !id.is_empty() && id != ONE_REQUEST);
    id.ok_or_else(|| Fault::new(ErrorKind::Protocol, "an upload without an id"))
}

pub(super) async fn send_part(site: &S3Site, key: &str, id: &str, number: u32, bytes: Bytes) -> Result<String, Fault> {
    let ask = Ask::new(Method::PUT, key)
        .query("partNumber", number.to_string())
        .query("uploadId", id)
        .header("content-md5", base64(&Md5::digest(&bytes)))
        .body(bytes);
    let reply = site.client.ask(ask).await?;
    let etag = reply.header(&ETAG).map(|etag| plain_etag(etag).to_owned());
    reply.finish().await?;
    etag.ok_or_else(|| Fault::new(ErrorKind::Protocol, "a part without an etag"))
}

pub(super) fn complete_ask<'a>(key: &'a str, id: &'a str, parts: &[(u32, &str)]) -> Ask<'a> {
    Ask::new(Method::POST, key)
        .query("uploadId", id)
        .header("content-type", "application/xml")
        .body(xml::parts(parts.iter().copied()).into())
}

pub(super) async fn give_up(site: &S3Site, key: &str, id: &str) -> Result<(), Fault> {
    let ask = Ask::new(Method::DELETE, key).query("uploadId", id);
    match site.client.ask(ask).await {
        Ok(reply) => reply.finish().await,
        Err(fault) if fault.kind == ErrorKind::NotFound => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// What an object is to carry besides its bytes.
fn about(plan: &UploadPlan) -> [(&'static str, String); 3] {
    [
        ("content-type", "application/octet-stream".to_owned()),
        (MTIME, mtime_text(plan.mtime_ns)),
        (UPLOAD, plan.nonce.clone()),
    ]
}

pub(super) async fn begin(site: &S3Site, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
    plan.begin()?;
    let key = site.key(&plan.path, Op::Upload)?;
    let failed = |fault: Fault| fault.on(Op::Upload, &plan.path);
    site.manners.learn(site).await.map_err(failed)?;
    let state = if plan.part_count() > 1 {
        initiate(site, &key, &about(plan)).await.map_err(failed)?
    } else {
        ONE_REQUEST.to_owned()
    };
    Ok(UploadToken {
        plan: plan.clone(),
        state,
    })
}

pub(super) async fn part(
    site: &S3Site,
    token: &UploadToken,
    index: u32,
    part: Bytes,
) -> Result<PartDone, ProviderError> {
    let plan = &token.plan;
    plan.check_part(index, part.len())?;
    let key = site.key(&plan.path, Op::Upload)?;
    let size = part.len() as u64;
    let receipt = if token.state == ONE_REQUEST {
        let digest = hex(&Md5::digest(&part));
        site.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(&plan.nonce, part);
        digest
    } else {
        let sent = send_part(site, &key, &token.state, index.saturating_add(1), part).await;
        sent.map_err(|fault| fault.on(Op::Upload, &plan.path))?
    };
    Ok(PartDone { index, size, receipt })
}

pub(super) async fn abort(site: &S3Site, token: &UploadToken) -> Result<(), ProviderError> {
    let path = &token.plan.path;
    if token.state == ONE_REQUEST {
        site.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&token.plan.nonce);
        return Ok(());
    }
    let key = site.key(path, Op::Abort)?;
    give_up(site, &key, &token.state)
        .await
        .map_err(|fault| fault.on(Op::Abort, path))
}

pub(super) async fn commit(
    site: &S3Site,
    token: &UploadToken,
    parts: &[PartDone],
    expect: Option<Option<&Version>>,
) -> Result<Version, ProviderError> {
    token.plan.check_parts(parts)?;
    Commit::new(site, token, parts, expect, Op::Commit)?.run().await
}

pub(super) async fn was_committed(
    site: &S3Site,
    token: &UploadToken,
    parts: &[PartDone],
    replaced: Option<&Version>,
) -> Result<Option<Version>, ProviderError> {
    let commit = Commit::new(site, token, parts, Some(replaced), Op::Stat)?;
    let found = site.head(&commit.key).await;
    let found = found.map_err(|fault| fault.on(Op::Stat, commit.path()))?;
    Ok(commit.ours(found.as_ref()))
}

struct Commit<'a> {
    site: &'a S3Site,
    token: &'a UploadToken,
    key: String,
    /// By number, from 1.
    etags: Vec<(u32, &'a str)>,
    expect: Option<Option<&'a Version>>,
}

impl<'a> Commit<'a> {
    fn new(
        site: &'a S3Site,
        token: &'a UploadToken,
        parts: &'a [PartDone],
        expect: Option<Option<&'a Version>>,
        op: Op,
    ) -> Result<Self, ProviderError> {
        // The last receipt of a part counts.
        let latest: std::collections::BTreeMap<u32, &str> =
            parts.iter().map(|part| (part.index, part.receipt.as_str())).collect();
        Ok(Self {
            site,
            token,
            key: site.key(&token.plan.path, op)?,
            etags: latest
                .into_iter()
                .map(|(index, etag)| (index.saturating_add(1), etag))
                .collect(),
            expect,
        })
    }

    fn plan(&self) -> &UploadPlan {
        &self.token.plan
    }

    fn path(&self) -> &RelPath {
        &self.plan().path
    }

    fn failed(&self, fault: Fault) -> ProviderError {
        fault.on(Op::Commit, self.path())
    }

    fn is_one_request(&self) -> bool {
        self.token.state == ONE_REQUEST
    }

    async fn run(&self) -> Result<Version, ProviderError> {
        let site = self.site;
        let decides = if self.is_one_request() {
            site.manners.put_conditions()
        } else {
            site.manners.conditions_hold()
        };
        if !decides && self.expect.is_some() {
            // What happens between this look and the commit is not seen: the window of stores without conditions.
            let found = site.head(&self.key).await.map_err(|fault| self.failed(fault))?;
            if let Some(version) = self.ours(found.as_ref()) {
                return Ok(version);
            }
            if let Err(error) = check_expect(self.path(), self.expect, found.map(|head| head.version()).as_ref()) {
                return Err(if self.is_there().await? {
                    error
                } else {
                    self.failed(gone())
                });
            }
        }
        let below = format!("{}/", self.key);
        if site.has_keys(&below).await.map_err(|fault| self.failed(fault))? {
            return Err(ProviderError::new(ErrorKind::WrongKind, Op::Commit)
                .at(self.path())
                .because("a folder has the name"));
        }
        match self.send().await {
            Ok(etag) => {
                site.held
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&self.plan().nonce);
                Ok(Version::new(etag))
            }
            // Done before, perhaps, and the answer got lost; or somebody else was there. Some stores have no better word
            // for an upload that they don't know than that they failed.
            Err(mut fault)
                if fault.kind != ErrorKind::Unreachable && (refuses(fault.kind) || !self.is_there().await?) =>
            {
                if !refuses(fault.kind) {
                    fault = gone();
                }
                let found = site.head(&self.key).await.map_err(|fault| self.failed(fault))?;
                if let Some(version) = self.ours(found.as_ref()) {
                    return Ok(version);
                }
                // A condition on an object that is not there any more is "not found" to some stores.
                let lost = fault.kind == ErrorKind::NotFound;
                if lost && self.expect.is_some() && self.is_there().await? {
                    check_expect(self.path(), self.expect, found.map(|head| head.version()).as_ref())?;
                }
                Err(self.failed(fault))
            }
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Says whether what was sent is still at the store, or here.
    async fn is_there(&self) -> Result<bool, ProviderError> {
        if self.is_one_request() {
            let held = self.site.held.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(self.plan().size == 0 || held.files.contains_key(&self.plan().nonce));
        }
        let ask = Ask::new(Method::GET, &self.key)
            .query("uploadId", &self.token.state)
            .query("max-parts", "1");
        match self.site.client.ask(ask).await {
            Ok(reply) => reply.finish().await.map(|()| true).map_err(|fault| self.failed(fault)),
            Err(fault) if fault.kind == ErrorKind::NotFound => Ok(false),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Looks at what the parts became. Some stores give it another etag than the one they answered with.
    async fn verified(&self, answered: String) -> Result<String, Fault> {
        let plan = self.plan();
        match self.site.head(&self.key).await? {
            Some(head) if head.etag == answered || self.ours(Some(&head)).is_some() => {
                if head.size != plan.size {
                    let why = format!("{} bytes arrived of {}", head.size, plan.size);
                    return Err(Fault::new(ErrorKind::Invalid, why));
                }
                Ok(head.etag)
            }
            // Somebody else's already, or removed: what was put there had this one.
            _ => Ok(answered),
        }
    }

    /// Returns the version of what is there if this upload put it there.
    fn ours(&self, found: Option<&Head>) -> Option<Version> {
        let head = found?;
        if head.upload.as_deref() == Some(self.plan().nonce.as_str()) {
            return Some(head.version());
        }
        // Stores that forget what objects carry. What was to be replaced must not look the same: then nothing is proven.
        let planned = self.planned_etag()?;
        let is_new = self.expect.flatten().is_none_or(|base| base.as_str() != planned);
        (head.upload.is_none() && head.etag == planned && head.size == self.plan().size && is_new)
            .then(|| head.version())
    }

    /// Returns the etag that stores give to these bytes where they do as Amazon's does.
    fn planned_etag(&self) -> Option<String> {
        if self.is_one_request() {
            return self.etags.first().map(|(_, etag)| (*etag).to_owned());
        }
        let mut all = Md5::new();
        for (_, etag) in &self.etags {
            all.update(unhex(etag)?);
        }
        Some(format!("{}-{}", hex(&all.finalize()), self.etags.len()))
    }

    fn condition(&self) -> Option<(&'static str, String)> {
        match self.expect? {
            Some(version) => Some(("if-match", format!("\"{version}\""))),
            None => Some(("if-none-match", "*".to_owned())),
        }
    }

    async fn send(&self) -> Result<String, Fault> {
        let (site, plan) = (self.site, self.plan());
        if !self.is_one_request() {
            let condition = site.manners.conditions_hold().then(|| self.condition()).flatten();
            let ask = complete_ask(&self.key, &self.token.state, &self.etags).maybe(condition);
            let text = site.client.ask(ask).await?.text().await?;
            // Said after the head of the answer was sent.
            if let Some((code, message)) = xml::error(&text) {
                let kind = if code == "PreconditionFailed" {
                    ErrorKind::VersionMismatch
                } else {
                    ErrorKind::Protocol
                };
                return Err(Fault::new(kind, format!("the store says: {message} ({code})")));
            }
            let etag = xml::value(&text, "ETag").map(|etag| plain_etag(&etag).to_owned());
            let etag = etag.ok_or_else(|| Fault::new(ErrorKind::Protocol, "an object without an etag"))?;
            return self.verified(etag).await;
        }
        let held = {
            let held = site.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.files.get(&plan.nonce).cloned()
        };
        let bytes = match held {
            Some(bytes) => bytes,
            None if plan.size == 0 => Bytes::new(),
            None => return Err(gone()),
        };
        let condition = site.manners.put_conditions().then(|| self.condition()).flatten();
        let mut ask = Ask::new(Method::PUT, &self.key)
            .header("content-md5", base64(&Md5::digest(&bytes)))
            .maybe(condition);
        for (name, value) in about(plan) {
            ask = ask.header(name, value);
        }
        let reply = site.client.ask(ask.body(bytes)).await?;
        let etag = reply.header(&ETAG).map(|etag| plain_etag(etag).to_owned());
        reply.finish().await?;
        etag.ok_or_else(|| Fault::new(ErrorKind::Protocol, "an object without an etag"))
    }
}

fn refuses(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::VersionMismatch | ErrorKind::NotFound)
}

fn gone() -> Fault {
    Fault::new(ErrorKind::NotFound, "what was sent is not there any more")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _: std::fmt::Result = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    (0..16)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok())
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let at = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= three.len() {
                char::from(DIGITS[at])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_as_headers_have_them() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        let digest = Md5::digest(b"");
        assert_eq!(hex(&digest), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(unhex(&hex(&digest)).unwrap(), digest.to_vec());
        assert_eq!(unhex("abc-2"), None);
    }

    #[test]
    fn what_is_held_is_bounded_and_the_oldest_goes() {
        let mut held = Held::default();
        let half = Bytes::from(vec![0; HELD_MAX / 2]);
        for nonce in ["a", "b", "b", "c"] {
            held.put(nonce, half.clone());
        }
        assert!(!held.files.contains_key("a"));
        assert!(held.files.contains_key("b") && held.files.contains_key("c"));
        assert_eq!(held.bytes, 2 * half.len());
        held.remove("b");
        assert_eq!((held.bytes, held.order.len()), (half.len(), 1));
    }
}
