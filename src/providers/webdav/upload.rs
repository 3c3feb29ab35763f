//! Uploads: one request to a hidden name, fed part by part, then a move to the final name.
//!
//! Owns: requests that are being fed, and what the server makes of times and conditions. Invariants: parts are fed in their
//! order, each once; a request that broke is never fed on, and the upload begins anew; nothing has the final name before
//! the move.
//!
//! WebDAV has no way to send a file in pieces, so an upload does not survive a restart: it is sent from its beginning.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use reqwest::header::{CONTENT_TYPE, ETAG};
use reqwest::{Method, RequestBuilder, Url};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;
use tracing::{debug, info};
use uuid::Uuid;

use super::tree::{make_dirs, move_to, remove};
use super::{STEP_NS, WebdavSite, mtime_ns, version, xml};
use crate::model::{Name, RelPath, Version};
use crate::providers::upload::{already_committed, check_expect};
use crate::providers::web::Fault;
use crate::providers::{ErrorKind, Op, PartDone, ProviderError, UploadPlan, UploadToken};

/// Bytes handed to a request at a time, and how many of those wait in line: 1 MiB a file under way.
const PIECE: usize = 128 << 10;
const IN_LINE: usize = 8;
/// A request that waits for its next part says so to its own watch this often, and gives up after that many times.
const BEAT: Duration = Duration::from_secs(1);
const BEATS_MAX: u32 = 300;

/// Requests that are being fed, by the upload's name.
pub(super) type Sendings = HashMap<String, Sending>;

/// One of them. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct Sending {
    next: u32,
    pieces: mpsc::Sender<std::io::Result<Bytes>>,
    done: JoinHandle<Result<Option<String>, Fault>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.done.abort();
    }
}

/// What the server makes of times and conditions: tried out before the first upload, on files of our own.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// A file gets the time that its upload says.
    mtime: AtomicBool,
    /// A move's conditions on its target are the server's to decide.
    conditions: AtomicBool,
    is_known: AsyncMutex<bool>,
}

impl Manners {
    pub(super) fn keeps_mtime(&self) -> bool {
        self.mtime.load(Relaxed)
    }

    pub(super) fn conditions_hold(&self) -> bool {
        self.conditions.load(Relaxed)
    }

    async fn learn(&self, site: &WebdavSite, dir: &RelPath) -> Result<(), ProviderError> {
        let mut is_known = self.is_known.lock().await;
        if *is_known {
            return Ok(());
        }
        let name = || Name::new(format!(".backlot-{}.part", Uuid::new_v4().simple()));
        let invalid = |e| ProviderError::new(ErrorKind::Invalid, Op::Upload).at(dir).because(e);
        let (one, two) = (dir.join(&name().map_err(invalid)?), dir.join(&name().map_err(invalid)?));
        let (one, two) = (site.client.url(&one, Op::Upload)?, site.client.url(&two, Op::Upload)?);
        let found = try_out(site, &one, &two).await;
        for left in [one, two] {
            match remove(site, left).await {
                Err(fault) if fault.kind != ErrorKind::NotFound => debug!(%fault, "what was tried out stays there"),
                _ => {}
            }
        }
        let (mtime, conditions) = found.map_err(|fault| fault.on(Op::Upload, dir))?;
        info!(mtime, conditions, "the server's manners");
        self.mtime.store(mtime, Relaxed);
        self.conditions.store(conditions, Relaxed);
        *is_known = true;
        Ok(())
    }
}

/// Finds out whether times and conditions are kept to, with two files of these addresses.
async fn try_out(site: &WebdavSite, one: &Url, two: &Url) -> Result<(bool, bool), Fault> {
    // A date that nothing has by chance: September 2001.
    let dated = 1_000_000_000;
    for url in [one, two] {
        let put = put_request(site, url.clone(), dated * STEP_NS);
        site.client
            .ask(put, Some(Bytes::from_static(b"?")))
            .await?
            .finish()
            .await?;
    }
    let there = site.client.look(two.clone()).await?;
    let mtime = there.modified == Some(dated);
    let Some(etag) = there.etag.as_deref().filter(|etag| etag.starts_with('"')) else {
        return Ok((mtime, false));
    };
    let refused = |moved: Result<(), Fault>| match moved {
        Ok(()) => Ok(false),
        Err(fault) if fault.kind == ErrorKind::VersionMismatch => Ok(true),
        Err(fault) if matches!(fault.kind, ErrorKind::Unsupported | ErrorKind::Invalid) => Ok(false),
        Err(fault) => Err(fault),
    };
    let attempt = |overwrite, etag: Option<&str>| {
        let condition = etag.map(|etag| condition(two, etag));
        async move {
            move_to(site, one.clone(), two, overwrite, condition)
                .await?
                .finish()
                .await
        }
    };
    // Both have to be refused, and what is right must not be.
    let holds = refused(attempt(false, None).await)?
        && refused(attempt(true, Some("\"0123456789abcdef\"")).await)?
        && !refused(attempt(true, Some(etag)).await)?;
    Ok((mtime, holds))
}

/// Writes a condition on what is at an address: that it still has this etag.
fn condition(target: &Url, etag: &str) -> String {
    format!("<{target}> ([{etag}])")
}

fn put_request(site: &WebdavSite, url: Url, mtime_ns: i64) -> RequestBuilder {
    site.client
        .request(Method::PUT, url)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header("x-oc-mtime", mtime_ns.div_euclid(STEP_NS).to_string())
}

/// Returns the address that an upload writes to.
fn temp_url(site: &WebdavSite, token: &UploadToken, op: Op) -> Result<Url, ProviderError> {
    let path = &token.plan.path;
    let invalid = |why: &'static str| ProviderError::new(ErrorKind::Invalid, op).at(path).because(why);
    let (dir, _) = path.split_last().ok_or_else(|| invalid("the root is no file"))?;
    let name = Name::new(token.state.as_bytes()).map_err(|_| invalid("the upload's note makes no sense"))?;
    site.client.url(&dir.join(&name), op)
}

pub(super) async fn begin(site: &WebdavSite, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
    let (dir, temp) = plan.begin()?;
    site.client.url(&plan.path, Op::Upload)?;
    site.client.url(&dir.join(&temp), Op::Upload)?;
    make_dirs(site, &dir, Op::Upload).await?;
    site.manners.learn(site, &dir).await?;
    Ok(UploadToken {
        plan: plan.clone(),
        state: String::from_utf8_lossy(&temp).into_owned(),
    })
}

pub(super) async fn part(
    site: &WebdavSite,
    token: &UploadToken,
    index: u32,
    part: Bytes,
) -> Result<PartDone, ProviderError> {
    let plan = &token.plan;
    plan.check_part(index, part.len())?;
    let failed = |fault: Fault| fault.on(Op::Upload, &plan.path);
    let url = temp_url(site, token, Op::Upload)?;
    let size = part.len() as u64;
    let receipt = if plan.part_count() == 1 {
        let reply = site.client.ask(put_request(site, url, plan.mtime_ns), Some(part)).await;
        let reply = reply.map_err(failed)?;
        let etag = reply.header(&ETAG).and_then(xml::etag);
        reply.finish().await.map_err(failed)?;
        etag
    } else {
        feed(site, token, url, index, part).await.map_err(failed)?
    };
    Ok(PartDone {
        index,
        size,
        receipt: receipt.unwrap_or_default(),
    })
}

/// Feeds a part to the upload's request. While it does, the request is nobody else's; one that is not fed to its end is
/// dropped.
async fn feed(
    site: &WebdavSite,
    token: &UploadToken,
    url: Url,
    index: u32,
    mut part: Bytes,
) -> Result<Option<String>, Fault> {
    let plan = &token.plan;
    let known = site
        .sendings
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&plan.nonce);
    let mut sending = match known {
        _ if index == 0 => start(site, plan, url),
        Some(sending) if sending.next == index => sending,
        // What was sent is lost with the request: the caller begins anew.
        _ => {
            return Err(Fault::new(
                ErrorKind::NotFound,
                "the upload broke off, and has to begin anew",
            ));
        }
    };
    while !part.is_empty() {
        let piece = part.split_to(part.len().min(PIECE));
        tokio::select! {
            biased;
            ended = &mut sending.done => return Err(early(ended)),
            sent = sending.pieces.send(Ok(piece)) => if sent.is_err() {
                return Err(early((&mut sending.done).await));
            },
        }
    }
    sending.next += 1;
    if u64::from(sending.next) < plan.part_count() {
        let mut sendings = site.sendings.lock().unwrap_or_else(PoisonError::into_inner);
        sendings.insert(plan.nonce.clone(), sending);
        return Ok(None);
    }
    match (&mut sending.done).await {
        Ok(answer) => answer,
        Err(e) => Err(Fault::new(
            ErrorKind::Protocol,
            format!("the request was given up: {e}"),
        )),
    }
}

/// Says why a request ended before all was sent.
fn early(ended: Result<Result<Option<String>, Fault>, tokio::task::JoinError>) -> Fault {
    match ended {
        Ok(Err(fault)) => fault,
        Ok(Ok(_)) => Fault::new(ErrorKind::Protocol, "the server answered before all was sent"),
        Err(e) => Fault::new(ErrorKind::Protocol, format!("the request was given up: {e}")),
    }
}

fn start(site: &WebdavSite, plan: &UploadPlan, url: Url) -> Sending {
    let (pieces, line) = mpsc::channel(IN_LINE);
    let body = stream::unfold((line, 0), |(mut line, beats)| async move {
        match tokio::time::timeout(BEAT, line.recv()).await {
            Ok(Some(piece)) => Some((piece, (line, 0))),
            Ok(None) => None,
            Err(_) if beats >= BEATS_MAX => {
                let why = std::io::Error::other("no part came for too long");
                Some((Err(why), (line, 0)))
            }
            // Nothing, so that the watch sees that it is us who are slow.
            Err(_) => Some((Ok(Bytes::new()), (line, beats + 1))),
        }
    });
    let request = put_request(site, url, plan.mtime_ns);
    let web = site.client.web.clone();
    let size = plan.size;
    let done = tokio::spawn(async move {
        let reply = web.send_stream(request, size, body.boxed()).await?;
        if !reply.status.is_success() {
            let why = format!("the server says HTTP {}", reply.status);
            return Err(Fault::new(crate::providers::web::status_kind(reply.status), why).after(reply.wait()));
        }
        let etag = reply.header(&ETAG).and_then(xml::etag);
        reply.finish().await?;
        Ok(etag)
    });
    Sending { next: 0, pieces, done }
}

pub(super) async fn abort(site: &WebdavSite, token: &UploadToken) -> Result<(), ProviderError> {
    let path = &token.plan.path;
    drop(
        site.sendings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&token.plan.nonce),
    );
    match remove(site, temp_url(site, token, Op::Abort)?).await {
        Ok(()) => Ok(()),
        Err(fault) => match site.absent_or(fault, Op::Abort, path).await {
            error if error.kind == ErrorKind::NotFound => Ok(()),
            error => Err(error),
        },
    }
}

pub(super) async fn commit(
    site: &WebdavSite,
    token: &UploadToken,
    parts: &[PartDone],
    expect: Option<Option<&Version>>,
) -> Result<Version, ProviderError> {
    let plan = &token.plan;
    let path = &plan.path;
    plan.check_parts(parts)?;
    let failed = |fault: Fault| fault.on(Op::Commit, path);
    let temp = temp_url(site, token, Op::Commit)?;
    let target = site.client.url(path, Op::Commit)?;
    if plan.size == 0 {
        put_empty(site, plan, &temp, expect).await?;
    }
    let arrived = match site.client.look(temp.clone()).await {
        Ok(found) => found,
        Err(fault) if fault.kind == ErrorKind::NotFound => {
            let fault = Fault::new(ErrorKind::NotFound, "what was sent is not there any more");
            let found = site.find(path, Op::Commit).await?;
            return match found {
                Some(found) if is_ours(site, plan, parts, expect, &found) => Ok(version(&found)),
                _ => Err(failed(fault)),
            };
        }
        Err(fault) => return Err(failed(fault)),
    };
    if arrived.size != Some(plan.size) {
        let why = format!("{} bytes arrived of {}", arrived.size.unwrap_or(0), plan.size);
        return Err(ProviderError::new(ErrorKind::Invalid, Op::Commit).at(path).because(why));
    }
    // What happens between this look and the move is not seen, where conditions are not the server's to decide.
    let there = site.find(path, Op::Commit).await?;
    if there.as_ref().is_some_and(|there| there.is_dir) {
        return Err(ProviderError::new(ErrorKind::WrongKind, Op::Commit)
            .at(path)
            .because("a folder has the name"));
    }
    check_expect(path, expect, there.as_ref().map(version).as_ref())?;
    let etag = there.as_ref().and_then(|there| there.etag.as_deref());
    let condition = match (expect, etag) {
        (Some(Some(_)), Some(etag)) if site.manners.conditions_hold() => Some(condition(&target, etag)),
        _ => None,
    };
    // With nothing there, nothing may be overwritten: whoever came meanwhile stays.
    let overwrite = there.is_some() || expect.is_none();
    let moved = move_to(site, temp, &target, overwrite, condition)
        .await
        .map_err(failed)?;
    moved.finish().await.map_err(failed)?;
    let now = site.client.look(target).await.map_err(failed)?;
    if now.size != Some(plan.size) {
        let why = format!(
            "{} bytes are there after the move, of {}",
            now.size.unwrap_or(0),
            plan.size
        );
        return Err(ProviderError::new(ErrorKind::VersionMismatch, Op::Commit)
            .at(path)
            .because(why));
    }
    Ok(version(&now))
}

pub(super) async fn was_committed(
    site: &WebdavSite,
    token: &UploadToken,
    parts: &[PartDone],
    replaced: Option<&Version>,
) -> Result<Option<Version>, ProviderError> {
    let found = site.find(&token.plan.path, Op::Stat).await?;
    let ours = found.filter(|found| is_ours(site, &token.plan, parts, Some(replaced), found));
    Ok(ours.as_ref().map(version))
}

/// Puts a file without parts under its temporary name, unless it has its final one already.
async fn put_empty(
    site: &WebdavSite,
    plan: &UploadPlan,
    temp: &Url,
    expect: Option<Option<&Version>>,
) -> Result<(), ProviderError> {
    let failed = |fault: Fault| fault.on(Op::Commit, &plan.path);
    let found = site.find(&plan.path, Op::Commit).await?;
    if found.is_some_and(|found| is_ours(site, plan, &[], expect, &found)) {
        return Ok(());
    }
    let put = put_request(site, temp.clone(), plan.mtime_ns);
    let reply = site.client.ask(put, Some(Bytes::new())).await.map_err(failed)?;
    reply.finish().await.map_err(failed)
}

/// Says whether what is at the target proves that this very upload was committed before: it has the etag that the upload
/// had under its other name, or the time and size that it was to have.
fn is_ours(
    site: &WebdavSite,
    plan: &UploadPlan,
    parts: &[PartDone],
    expect: Option<Option<&Version>>,
    found: &xml::Found,
) -> bool {
    if found.is_dir || found.size != Some(plan.size) {
        return false;
    }
    let there = version(found);
    let sent = parts
        .iter()
        .max_by_key(|part| part.index)
        .map(|part| part.receipt.as_str());
    let same_etag = sent.is_some_and(|etag| !etag.is_empty() && etag == there.as_str());
    let same_time = site.manners.keeps_mtime() && mtime_ns(found) == plan.mtime_ns.div_euclid(STEP_NS) * STEP_NS;
    (same_etag || same_time) && already_committed(expect, &there, &there)
}
