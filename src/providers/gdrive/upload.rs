//! Uploads: resumable sessions under a hidden name, and the commit.
//!
//! Owns: how far each session is, and the order of the commit's steps. Invariants: what is sent is a file of its own, in the
//! target's folder, under a temporary name and with an id that the token knows; it takes its final name only when its size
//! and MD5 are what was sent; what it replaces goes to the bin after that, so that there is a whole file at any moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use reqwest::Method;
use reqwest::header::{LOCATION, RANGE};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::Ask;
use super::files::{DriveFile, FIELDS, time_text};
use super::tree::{Tree, Trust, not_found, text, wrong_kind};
use crate::model::Version;
use crate::providers::upload::check_expect;
use crate::providers::web::Fault;
use crate::providers::{ErrorKind, Op, PartDone, ProviderError, UploadPlan, UploadToken};

/// Sessions take pieces that are multiples of this, but for the last.
pub(super) const STEP: u64 = 256 << 10;
/// Bytes a request at most: what was sent of one that breaks off is mostly kept, but it is one request all the same.
const REQUEST: usize = 64 << 20;
/// Sessions that are remembered; one that is forgotten is asked how far it is.
const SESSIONS: usize = 256;
/// The property that says of which revision a commit was.
const COMMITTED: &str = "backlotCommit";
/// The property that says which file a commit replaces.
const REPLACES: &str = "backlotReplaces";

/// What a token's state says.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    id: String,
    session: String,
}

/// How far a session is, as far as this process knows.
#[derive(Default)]
struct Session {
    /// What Drive has; `None`: to be asked.
    sent: Option<u64>,
    /// Bytes that follow `carry_at` and are too few to send.
    carry: BytesMut,
    carry_at: u64,
    /// Of all bytes up to `hashed`, if they all went through this process.
    md5: Option<Md5>,
    hashed: u64,
    begun_here: bool,
}

/// The sessions of a site.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Session>>>>);

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    fn of(&self, id: &str, new: impl FnOnce() -> Session) -> Arc<tokio::sync::Mutex<Session>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = all.get(id) {
            return Arc::clone(session);
        }
        if all.len() >= SESSIONS {
            // Those that nobody is using.
            all.retain(|_, session| Arc::strong_count(session) > 1);
        }
        let session = Arc::new(tokio::sync::Mutex::new(new()));
        all.insert(id.to_owned(), Arc::clone(&session));
        session
    }

    fn end(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn state(token: &UploadToken, op: Op) -> Result<State, ProviderError> {
    serde_json::from_str(&token.state).map_err(|_other| {
        ProviderError::new(ErrorKind::Invalid, op)
            .at(&token.plan.path)
            .because("the upload is not one of this site's")
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _infallible = write!(out, "{b:02x}");
        out
    })
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

pub(super) async fn begin(tree: &Tree, sessions: &Sessions, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
    let (dir, temp) = plan.begin()?;
    let path = &plan.path;
    let fail = |fault: Fault| fault.on(Op::Upload, path);
    if let Some((_, name)) = path.split_last() {
        text(name.as_bytes()).map_err(fail)?;
    }
    let (_, dir) = tree.make_dir(&dir).await.map_err(fail)?;
    let ask = Ask::new(Method::GET, "/drive/v3/files/generateIds").query("count", "1");
    let ids: Ids = tree.client.get(ask.query("space", "drive")).await.map_err(fail)?;
    let id = ids.ids.into_iter().next();
    let id = id.ok_or_else(|| fail(Fault::new(ErrorKind::Protocol, "Drive gave no id")))?;
    let body = json!({
        "id": id, "name": temp.to_string(), "parents": [dir], "mimeType": "application/octet-stream",
        "modifiedTime": time_text(plan.mtime_ns),
    });
    let ask = Ask::new(Method::POST, "/upload/drive/v3/files")
        .query("uploadType", "resumable")
        .query("supportsAllDrives", "true")
        .query("fields", FIELDS)
        .header("x-upload-content-type", "application/octet-stream")
        .header("x-upload-content-length", plan.size.to_string())
        .json(&body);
    let reply = tree.client.ask(ask, &[]).await.map_err(fail)?;
    let session = reply.header(&LOCATION).map(str::to_owned);
    let session = session.ok_or_else(|| fail(Fault::new(ErrorKind::Protocol, "Drive gave no session")))?;
    reply.finish().await.map_err(fail)?;
    sessions.of(&id, || Session {
        sent: Some(0),
        md5: Some(Md5::new()),
        begun_here: true,
        ..Session::default()
    });
    let state = serde_json::to_string(&State { id, session });
    let state = state.map_err(|e| fail(Fault::new(ErrorKind::Protocol, e.to_string())))?;
    Ok(UploadToken {
        plan: plan.clone(),
        state,
    })
}

/// Sends a piece of a session, or asks how far it is with an empty one; returns how much Drive has.
async fn put(tree: &Tree, session: &str, range: String, piece: Bytes, size: u64) -> Result<u64, Fault> {
    let ask = Ask::new(Method::PUT, session)
        .header("content-range", range)
        .body(piece);
    let reply = tree.client.ask(ask, &[308]).await?;
    if reply.status.as_u16() != 308 {
        reply.finish().await?;
        return Ok(size);
    }
    let had = match reply.header(&RANGE) {
        None => 0,
        Some(range) => range
            .rsplit_once('-')
            .and_then(|(_, last)| last.trim().parse::<u64>().ok())
            .and_then(|last| last.checked_add(1))
            .ok_or_else(|| Fault::new(ErrorKind::Protocol, "Drive says nonsense about what it has"))?,
    };
    reply.finish().await?;
    Ok(had)
}

/// Asks how much of an upload Drive has.
async fn had(tree: &Tree, state: &State, size: u64) -> Result<u64, Fault> {
    match put(tree, &state.session, format!("bytes */{size}"), Bytes::new(), size).await {
        // The session is over: because the file is there whole, or for good.
        Err(fault)
            if matches!(
                fault.kind,
                ErrorKind::NotFound | ErrorKind::VersionMismatch | ErrorKind::Protocol
            ) =>
        {
            let file = tree.by_id(&state.id).await;
            match file {
                Ok(file) if !file.trashed && file.size() == size => Ok(size),
                Ok(_) => Err(not_found("the upload's session is over")),
                Err(fault) => Err(fault),
            }
        }
        other => other,
    }
}

pub(super) async fn part(
    tree: &Tree,
    sessions: &Sessions,
    token: &UploadToken,
    index: u32,
    part: Bytes,
) -> Result<PartDone, ProviderError> {
    let plan = &token.plan;
    let range = plan.check_part(index, part.len())?;
    let fail = |fault: Fault| fault.on(Op::Upload, &plan.path);
    let state = state(token, Op::Upload)?;
    let session = sessions.of(&state.id, Session::default);
    let mut session = session.lock().await;
    let done = PartDone {
        index,
        size: part.len() as u64,
        receipt: hex(&Md5::digest(&part)),
    };
    let sent = match session.sent {
        Some(sent) => sent,
        None => had(tree, &state, plan.size).await.map_err(fail)?,
    };
    session.sent = Some(sent);
    let have = sent.max(session.carry_at + session.carry.len() as u64);
    if have < range.start {
        return Err(fail(match session.begun_here {
            true => Fault::new(
                ErrorKind::Invalid,
                format!("part {index} came before those that precede it"),
            ),
            false => not_found("bytes that came before the restart are gone"),
        }));
    }
    // What is new, and what of it the hash has not seen yet.
    if session.carry.is_empty() {
        session.carry_at = have;
    }
    let from = |at: u64| {
        usize::try_from(at.saturating_sub(range.start))
            .unwrap_or(usize::MAX)
            .min(part.len())
    };
    let hashed = session.hashed;
    if let Some(md5) = session.md5.as_mut().filter(|_| hashed >= range.start) {
        md5.update(&part[from(hashed)..]);
        session.hashed = range.end;
    }
    if have < range.end {
        let new = part.slice(from(have)..);
        session.carry.extend_from_slice(&new);
    }
    flush(tree, &state, plan.size, &mut session).await.map_err(fail)?;
    Ok(done)
}

/// Sends what is enough for a piece.
async fn flush(tree: &Tree, state: &State, size: u64, session: &mut Session) -> Result<(), Fault> {
    loop {
        let sent = session.sent.unwrap_or(session.carry_at);
        if sent < session.carry_at {
            return Err(not_found("Drive lost bytes of the upload"));
        }
        let skip = usize::try_from(sent - session.carry_at)
            .unwrap_or(usize::MAX)
            .min(session.carry.len());
        bytes::Buf::advance(&mut session.carry, skip);
        session.carry_at = sent;
        let there = session.carry.len();
        let last = sent + there as u64 == size;
        let mut length = there.min(REQUEST);
        if !(last && length == there) {
            length -= length % usize::try_from(STEP).unwrap_or(1);
        }
        if length == 0 {
            return Ok(());
        }
        let piece = Bytes::copy_from_slice(&session.carry[..length]);
        let range = format!("bytes {sent}-{}/{size}", sent + length as u64 - 1);
        // Until the answer is there nobody knows.
        session.sent = None;
        let now = put(tree, &state.session, range, piece, size).await?;
        if now <= sent {
            session.sent = Some(now);
            return Err(Fault::new(
                ErrorKind::Unreachable,
                "Drive took nothing of what was sent",
            ));
        }
        session.sent = Some(now);
    }
}

pub(super) async fn commit(
    tree: &Tree,
    sessions: &Sessions,
    token: UploadToken,
    parts: &[PartDone],
    expect: Option<Option<&Version>>,
) -> Result<Version, ProviderError> {
    let plan = &token.plan;
    plan.check_parts(parts)?;
    let state = state(&token, Op::Commit)?;
    let fail = |fault: Fault| fault.on(Op::Commit, &plan.path);
    let invalid = |why: String| fail(Fault::new(ErrorKind::Invalid, why));
    let Some((dir, name)) = plan.path.split_last() else {
        return Err(invalid("the root is no file".to_owned()));
    };
    let name = text(name.as_bytes()).map_err(fail)?;
    let file = match tree.by_id(&state.id).await {
        Err(fault) if fault.kind == ErrorKind::NotFound => {
            if plan.size == 0 {
                let made = put(tree, &state.session, "bytes */0".to_owned(), Bytes::new(), 0).await;
                made.map_err(fail)?;
            } else {
                let had = had(tree, &state, plan.size).await.map_err(fail)?;
                if had < plan.size {
                    return Err(invalid(format!("{had} bytes arrived of {}", plan.size)));
                }
            }
            tree.by_id(&state.id).await.map_err(fail)?
        }
        file => file.map_err(fail)?,
    };
    if file.trashed {
        return Err(fail(not_found("the upload is in the bin")));
    }
    let revision = file.version().as_str().to_owned();
    if let Some(committed) = file.properties.get(COMMITTED) {
        if file.name != name || *committed != revision {
            return Err(fail(not_found("it was put there before, and is another by now")));
        }
        if let Some(old) = file.properties.get(REPLACES) {
            tree.trash(old).await.map_err(fail)?;
        }
        return Ok(file.version());
    }
    if file.size() != plan.size {
        return Err(invalid(format!("{} bytes arrived of {}", file.size(), plan.size)));
    }
    verify(tree, sessions, &state, plan, parts, &file).await.map_err(fail)?;

    let top = tree.top(Trust::Nothing).await.map_err(fail)?;
    let dir = tree.dir_id(&top, &dir, Trust::Nothing).await.map_err(fail)?;
    let there = tree.child(&top, &dir, name).await.map_err(fail)?;
    if there.as_ref().is_some_and(DriveFile::is_dir) {
        return Err(fail(wrong_kind("a folder has the name")));
    }
    let found = there.as_ref().map(DriveFile::version);
    check_expect(&plan.path, expect, found.as_ref())?;
    if let Some(old) = &there
        && (old.is_native() || old.capabilities.can_trash == Some(false))
    {
        let why = "what is there may not be put in the bin by this account, or is a document of Google's";
        return Err(fail(Fault::new(ErrorKind::Denied, why)));
    }
    let body = json!({
        "name": name, "modifiedTime": time_text(plan.mtime_ns),
        "properties": { COMMITTED: revision, REPLACES: there.as_ref().map(|old| old.id.as_str()) },
    });
    let from = file.parents.first().map_or(dir.as_str(), String::as_str);
    let done = tree.patch(&state.id, &body, Some((from, &dir))).await.map_err(fail)?;
    if let Some(old) = there {
        tree.trash(&old.id).await.map_err(fail)?;
    }
    sessions.end(&state.id);
    Ok(done.version())
}

/// Holds what Drive has against what was sent.
async fn verify(
    tree: &Tree,
    sessions: &Sessions,
    state: &State,
    plan: &UploadPlan,
    parts: &[PartDone],
    file: &DriveFile,
) -> Result<(), Fault> {
    let differs = || {
        Fault::new(
            ErrorKind::Invalid,
            "the MD5 of what arrived is not that of what was sent",
        )
    };
    let theirs = file.md5_checksum.as_deref();
    let session = sessions.of(&state.id, Session::default);
    let session = session.lock().await;
    let ours = match (&session.md5, plan.part_count()) {
        (Some(md5), _) if session.hashed == plan.size => Some(hex(&md5.clone().finalize())),
        (_, 0) => Some(hex(&Md5::digest(b""))),
        (_, 1) => parts.first().map(|part| part.receipt.clone()),
        _ => None,
    };
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => return if ours == theirs { Ok(()) } else { Err(differs()) },
        (_, None) => {
            return Err(Fault::new(
                ErrorKind::Protocol,
                "Drive does not say the MD5 of what arrived",
            ));
        }
        (None, Some(_)) => {}
    }
    // Sent in part before a restart: it is read back, and each part is held against its receipt.
    let whole = tree.client.ask(tree.file(&state.id).query("alt", "media"), &[]).await?;
    let mut body = whole.body();
    let mut buffer = BytesMut::new();
    for index in 0..u32::try_from(plan.part_count()).unwrap_or(u32::MAX) {
        let Some(range) = plan.part_range(index) else { break };
        let mut left = range.end - range.start;
        let mut md5 = Md5::new();
        while left > 0 {
            if buffer.is_empty() {
                match futures::StreamExt::next(&mut body).await {
                    Some(chunk) => buffer.extend_from_slice(&chunk?),
                    None => return Err(Fault::new(ErrorKind::Unreachable, "reading it back broke off")),
                }
            }
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.split_to(take);
            md5.update(&piece);
            left -= piece.len() as u64;
        }
        let receipt = parts
            .iter()
            .find(|part| part.index == index)
            .map(|part| part.receipt.as_str());
        if receipt != Some(hex(&md5.finalize()).as_str()) {
            return Err(differs());
        }
    }
    Ok(())
}

pub(super) async fn abort(tree: &Tree, sessions: &Sessions, token: UploadToken) -> Result<(), ProviderError> {
    let state = state(&token, Op::Abort)?;
    let fail = |fault: Fault| fault.on(Op::Abort, &token.plan.path);
    sessions.end(&state.id);
    // Cancelling a session answers 499; one that is over 404 or 410, or the file.
    let ask = Ask::new(Method::DELETE, state.session.as_str());
    let reply = tree.client.ask(ask, &[499, 404, 410, 400]).await.map_err(fail)?;
    reply.finish().await.map_err(fail)?;
    match tree.by_id(&state.id).await {
        Err(fault) if fault.kind == ErrorKind::NotFound => Ok(()),
        Err(fault) => Err(fail(fault)),
        // It has its final name by now: that is no leftover.
        Ok(file) if file.properties.contains_key(COMMITTED) => Ok(()),
        Ok(file) => {
            // For good: a file of ours that nobody has seen.
            let ask = Ask::new(Method::DELETE, format!("/drive/v3/files/{}", file.id));
            match tree.client.ask(ask.query("supportsAllDrives", "true"), &[404]).await {
                Ok(reply) => reply.finish().await.map_err(fail),
                // In shared drives only organizers may; the bin will do.
                Err(fault) if fault.kind == ErrorKind::Denied => tree.trash(&file.id).await.map_err(fail),
                Err(fault) => Err(fail(fault)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_provider_is_refused() {
        let plan = UploadPlan {
            path: crate::model::RelPath::new("a").unwrap(),
            size: 1,
            mtime_ns: 0,
            perm: None,
            part_size: 1,
            nonce: "n".into(),
        };
        let token = UploadToken {
            plan,
            state: ".backlot-n.part".into(),
        };
        assert_eq!(state(&token, Op::Upload).unwrap_err().kind, ErrorKind::Invalid);
    }
}
