//! Uploads: a hidden file beside the target, then a rename.
//!
//! Owns: the order of requests. Refuses to know: where the bytes come from. Invariants: a part that was acknowledged is on
//! the server's disk, where the server can be asked for that; the target is replaced only by a file of the planned length,
//! which we have closed everywhere.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tracing::warn;

use super::connect::Connection;
use super::error::Fault;
use super::pool::SETTLES;
use super::session::{Handle, Pending, Session};
use super::wire::{open_flags, status};
use super::{SftpSite, attrs_kind, attrs_version};
use crate::model::{EntryKind, Name, RelPath, Version};
use crate::providers::upload::{already_committed, check_expect};
use crate::providers::{ErrorKind, Op, PartDone, ProviderError, UploadPlan, UploadToken};

/// Bytes of one part in flight: fills 1 Gb/s at 60 ms, and several parts go up at once.
const AHEAD: usize = 8 << 20;

/// Returns the path of an upload's temporary file.
fn temp_path(token: &UploadToken, op: Op) -> Result<RelPath, ProviderError> {
    let invalid = || ProviderError::new(ErrorKind::Invalid, op).at(&token.plan.path);
    let name = Name::new(token.state.as_bytes()).map_err(|e| invalid().because(e))?;
    let (dir, _) = token.plan.path.split_last().ok_or_else(invalid)?;
    Ok(dir.join(&name))
}

/// Returns what the site makes of the planned time: whole seconds, from 1970 to 2106.
fn seconds(plan: &UploadPlan) -> u32 {
    u32::try_from(plan.mtime_ns.div_euclid(1_000_000_000).max(0)).unwrap_or(u32::MAX)
}

pub(super) async fn begin(site: &SftpSite, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
    let (dir, temp) = plan.begin()?;
    site.full(&plan.path, Op::Upload)?;
    let full = site.full(&dir.join(&temp), Op::Upload)?;
    let connection = site.connection(Op::Upload, &plan.path).await?;
    let flags = open_flags::WRITE | open_flags::CREATE | open_flags::TRUNCATE;
    let opened = match connection.session.open(&full, flags).await {
        Err(fault) if fault.is_absent() => {
            site.make_dirs(&connection, &dir, Op::Upload).await?;
            connection.session.open(&full, flags).await
        }
        other => other,
    };
    let handle = opened.map_err(|f| f.on(Op::Upload, &plan.path))?;
    connection.files.put(&dir.join(&temp), None, Arc::new(handle));
    Ok(UploadToken {
        plan: plan.clone(),
        state: temp.to_string(),
    })
}

/// Returns the temporary file of an upload, opened for writing, and whether it was opened anew for that.
async fn open(
    site: &SftpSite,
    connection: &Connection,
    token: &UploadToken,
    op: Op,
) -> Result<(Arc<Handle>, bool), ProviderError> {
    let temp = temp_path(token, op)?;
    if let Some(handle) = connection.files.get(&temp, None) {
        return Ok((handle, false));
    }
    let handle = match connection.session.open(&site.full(&temp, op)?, open_flags::WRITE).await {
        Ok(handle) => Arc::new(handle),
        Err(fault) => return Err(site.absent_or(connection, fault, op, &token.plan.path).await),
    };
    connection.files.put(&temp, None, Arc::clone(&handle));
    Ok((handle, true))
}

pub(super) async fn part(
    site: &SftpSite,
    token: &UploadToken,
    index: u32,
    part: Bytes,
) -> Result<PartDone, ProviderError> {
    let plan = &token.plan;
    let range = plan.check_part(index, part.len())?;
    let size = part.len() as u64;
    // A small file stays where it was begun: that spares opening it again, which some servers don't let us. The parts of a large
    // one go over all connections.
    let is_small = plan.part_count() == 1;
    let begun = is_small.then(|| temp_path(token, Op::Upload)).transpose()?;
    let connection = match begun.and_then(|temp| site.pool.get_with_temp(&temp, size)) {
        Some(connection) => connection,
        None => site.connection_for(size, Op::Upload, &plan.path).await?,
    };
    let (handle, anew) = open(site, &connection, token, Op::Upload).await?;
    let session = &connection.session;
    let step = session.features().write_len as usize;
    let writes = (0..part.len()).step_by(step).map(|from| {
        let data = part.slice(from..part.len().min(from + step));
        (range.start + from as u64, data)
    });
    let sent = stream::iter(writes)
        .map(|(offset, data)| session.write(&handle, offset, data))
        .buffered((AHEAD / step).max(1));
    let mut sent = std::pin::pin!(sent);
    while let Some(outcome) = sent.next().await {
        if let Err(fault) = outcome {
            let error = full_or(site, &connection, fault, plan).await;
            // rclone's server takes no bytes for a file that was closed. What is there of a small one is no loss.
            let begin_anew = anew && is_small && matches!(error.kind, ErrorKind::Protocol | ErrorKind::Denied);
            return Err(if begin_anew {
                ProviderError::new(ErrorKind::NotFound, Op::Upload)
                    .at(&plan.path)
                    .because(format!("the server does not go on with what was begun: {error}"))
            } else {
                error
            });
        }
    }
    if plan.part_count() > 1
        && let Some(synced) = sync(&connection, &handle)
    {
        synced
            .await
            .or_else(unless_refused)
            .map_err(|f| f.on_open(Op::Upload, &plan.path))?;
    }
    Ok(PartDone {
        index,
        size,
        receipt: String::new(),
    })
}

fn sync(connection: &Connection, handle: &Handle) -> Option<Pending<()>> {
    connection
        .session
        .features()
        .fsync
        .then(|| connection.session.fsync(handle))
}

/// Lets pass that a server offers `fsync` and its file system does not.
fn unless_refused(fault: Fault) -> Result<(), Fault> {
    match fault {
        Fault::Status {
            code: status::UNSUPPORTED | status::BAD_MESSAGE,
            ..
        } => Ok(()),
        other => Err(other),
    }
}

/// Finds out whether a write failed because the site is full: version 3 has no word for it.
async fn full_or(site: &SftpSite, connection: &Connection, fault: Fault, plan: &UploadPlan) -> ProviderError {
    if fault.is_plain_failure()
        && connection.session.features().statvfs
        && let Ok((_, available)) = connection.session.space(site.root()).await
        && available < plan.size
    {
        return ProviderError::new(ErrorKind::Full, Op::Upload)
            .at(&plan.path)
            .because(fault);
    }
    fault.on_open(Op::Upload, &plan.path)
}

pub(super) async fn commit(
    site: &SftpSite,
    token: &UploadToken,
    parts: &[PartDone],
    expect: Option<Option<&Version>>,
) -> Result<Version, ProviderError> {
    let plan = &token.plan;
    plan.check_parts(parts)?;
    let temp = temp_path(token, Op::Commit)?;
    let target = site.full(&plan.path, Op::Commit)?;
    let failed = |fault: Fault| fault.on(Op::Commit, &plan.path);
    let gone = async |session: &Session, error: ProviderError| {
        let planned = Version::from_size_mtime(plan.size, i64::from(seconds(plan)) * 1_000_000_000);
        match session.lstat(&target).await {
            Ok(found) if already_committed(expect, &attrs_version(&found), &planned) => Ok(planned),
            _ => Err(error),
        }
    };
    // While the server writes it to the disk it answers nothing else on that connection (OpenSSH's).
    let settles = site.pool.features().is_some_and(|offered| offered.fsync);
    let weight = if settles { SETTLES } else { 0 };
    let mut kept = site.pool.take_temp(&temp, weight);
    let (connection, handle) = match kept.pop() {
        Some(kept) => kept,
        None => {
            let connection = site.connection_for(weight, Op::Commit, &plan.path).await?;
            match connection
                .session
                .open(&site.full(&temp, Op::Commit)?, open_flags::WRITE)
                .await
            {
                Ok(handle) => (connection, handle),
                Err(fault) => {
                    let is_absent = fault.is_absent();
                    let error = site.absent_or(&connection, fault, Op::Commit, &plan.path).await;
                    return if is_absent {
                        gone(&connection.session, error).await
                    } else {
                        Err(error)
                    };
                }
            }
        }
    };
    let session = &connection.session;
    // All in one go; the server answers in order.
    let perm = plan
        .perm
        .map(|perm| session.set_perm(&handle, u32::from(perm & 0o7777)));
    let times = session.set_times(&handle, seconds(plan));
    let synced = sync(&connection, &handle);
    // Closed for good before it is renamed: rclone's server says yes to a rename, and does it when nobody has the file open. A
    // server that dies in between would have lost what it acknowledged.
    let mut closing: Vec<_> = kept.into_iter().map(|(c, handle)| c.session.close(handle)).collect();
    closing.push(session.close(handle));
    // By its name: what was open says nothing about what is to be renamed.
    let look = session.lstat(&site.full(&temp, Op::Commit)?);
    let there = session.lstat(&target);
    if let Some(perm) = perm {
        tolerate(perm.await, plan, "permissions")?;
    }
    tolerate(times.await, plan, "times")?;
    if let Some(synced) = synced {
        synced.await.or_else(unless_refused).map_err(failed)?;
    }
    for closed in closing {
        closed.await.map_err(failed)?;
    }
    let arrived = match look.await {
        Ok(arrived) => arrived,
        Err(fault) if fault.is_absent() => {
            let error = site.absent_or(&connection, fault, Op::Commit, &plan.path).await;
            return gone(session, error).await;
        }
        Err(fault) => return Err(failed(fault)),
    };
    if arrived.size != Some(plan.size) {
        let why = format!("{} bytes arrived of {}", arrived.size.unwrap_or(0), plan.size);
        return Err(ProviderError::new(ErrorKind::Invalid, Op::Commit)
            .at(&plan.path)
            .because(why));
    }
    let found = match there.await {
        Ok(attrs) if attrs_kind(&attrs) == Some(EntryKind::Dir) => {
            return Err(ProviderError::new(ErrorKind::WrongKind, Op::Commit)
                .at(&plan.path)
                .because("a folder has the name"));
        }
        Ok(attrs) => Some(attrs_version(&attrs)),
        Err(fault) if fault.is_absent() => None,
        Err(fault) => return Err(failed(fault)),
    };
    check_expect(&plan.path, expect, found.as_ref())?;
    replace(site, &connection, &temp, plan, expect == Some(None)).await?;
    Ok(attrs_version(&arrived))
}

/// Lets pass that a server doesn't set an attribute: the bytes matter more, and the version tells what is there.
fn tolerate(outcome: Result<(), Fault>, plan: &UploadPlan, what: &str) -> Result<(), ProviderError> {
    match outcome {
        Err(fault @ Fault::Status { .. }) => {
            warn!(path = %plan.path, %fault, "the site did not take the file's {what}");
            Ok(())
        }
        other => other.map_err(|f| f.on_open(Op::Commit, &plan.path)),
    }
}

async fn replace(
    site: &SftpSite,
    connection: &Connection,
    temp: &RelPath,
    plan: &UploadPlan,
    must_be_new: bool,
) -> Result<(), ProviderError> {
    let session = &connection.session;
    let (from, to) = (site.full(temp, Op::Commit)?, site.full(&plan.path, Op::Commit)?);
    let failed = |fault: Fault| fault.on(Op::Commit, &plan.path);
    let has_posix = session.features().posix_rename;
    if must_be_new {
        // The plain rename of version 3 refuses to replace: just what is wanted.
        match session.rename(&from, &to).await {
            Ok(()) => return Ok(()),
            Err(fault) if fault.is_plain_failure() => {
                if session.lstat(&to).await.is_ok() {
                    return Err(ProviderError::new(ErrorKind::VersionMismatch, Op::Commit)
                        .at(&plan.path)
                        .because("expected nothing there"));
                }
                if !has_posix {
                    return Err(failed(fault));
                }
            }
            Err(fault) => return Err(failed(fault)),
        }
    }
    if has_posix {
        return session.posix_rename(&from, &to).await.map_err(failed);
    }
    // A moment without any file: that is why `atomic_replace` is false here.
    match session.remove(&to).await {
        Ok(()) => {}
        Err(fault) if fault.is_absent() => {}
        Err(fault) => return Err(failed(fault)),
    }
    session.rename(&from, &to).await.map_err(failed)
}

pub(super) async fn abort(site: &SftpSite, token: &UploadToken) -> Result<(), ProviderError> {
    let temp = temp_path(token, Op::Abort)?;
    let connection = site.connection(Op::Abort, &token.plan.path).await?;
    drop(site.pool.take_temp(&temp, 0));
    match connection.session.remove(&site.full(&temp, Op::Abort)?).await {
        Ok(()) => Ok(()),
        Err(fault) if fault.is_absent() => Ok(()),
        Err(fault) => Err(fault.on(Op::Abort, &token.plan.path)),
    }
}
