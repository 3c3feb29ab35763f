//! Folders, renames and deletes: what a store has no word for.
//!
//! Invariants: a folder stays when its last entry goes; a rename copies before it removes, so that no moment has neither.
//! A rename is not one step: an object may be seen under both names, and a folder half here and half there.

use bytes::Bytes;
use reqwest::Method;

use super::S3Site;
use super::client::Ask;
use super::xml;
use crate::model::RelPath;
use crate::providers::web::Fault;
use crate::providers::{ErrorKind, Op, ProviderError};

/// Largest object that is copied in one request, in bytes: Amazon's limit.
const COPY_MAX: u64 = 5 << 30;

/// What keeps a folder where keys can't end in `/`. Named as what uploads write under: it is never listed.
const KEEP: &str = ".backlot-folder.part";

/// Says whether a key is there for the sake of its folder alone.
fn is_marker(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest == KEEP)
}

fn error(kind: ErrorKind, op: Op, path: &RelPath) -> ProviderError {
    ProviderError::new(kind, op).at(path)
}

async fn put_marker(site: &S3Site, prefix: &str) -> Result<(), Fault> {
    site.manners.learn(site).await?;
    let key = if site.manners.has_markers() {
        prefix.to_owned()
    } else {
        format!("{prefix}{KEEP}")
    };
    let ask = Ask::new(Method::PUT, &key)
        .header("content-type", "application/x-directory")
        .body(Bytes::new());
    site.client.ask(ask).await?.finish().await
}

async fn remove(site: &S3Site, key: &str) -> Result<(), Fault> {
    match site.client.ask(Ask::new(Method::DELETE, key)).await {
        Ok(reply) => reply.finish().await,
        Err(fault) if fault.kind == ErrorKind::NotFound => Ok(()),
        Err(fault) => Err(fault),
    }
}

pub(super) async fn make_dir(site: &S3Site, path: &RelPath) -> Result<(), ProviderError> {
    let failed = |fault: Fault| fault.on(Op::MakeDir, path);
    let prefix = site.below(path, Op::MakeDir)?;
    if site.has_keys(&prefix).await.map_err(failed)? || path.is_root() {
        return Ok(());
    }
    let mut at = path.clone();
    while !at.is_root() {
        let key = site.key(&at, Op::MakeDir)?;
        if site.head(&key).await.map_err(failed)?.is_some() {
            return Err(error(ErrorKind::WrongKind, Op::MakeDir, path).because(format!("{at} is a file")));
        }
        at = at.split_last().map_or_else(RelPath::root, |(above, _)| above);
    }
    put_marker(site, &prefix).await.map_err(failed)
}

/// Makes sure that the folder of an entry is still there when the entry is not.
async fn keep_folder_of(site: &S3Site, path: &RelPath, gone: &str, op: Op) -> Result<(), ProviderError> {
    let Some((dir, _)) = path.split_last().filter(|(dir, _)| !dir.is_root()) else {
        return Ok(());
    };
    let prefix = site.below(&dir, op)?;
    let failed = |fault: Fault| fault.on(op, path);
    // The entry's own keys may be two: an object, or what is in a folder.
    let page = site.page(&prefix, false, Some(3), None).await.map_err(failed)?;
    let below = format!("{gone}/");
    let stays = |key: &str| key != gone && !key.starts_with(&below);
    if page.objects.iter().any(|object| stays(&object.key)) {
        return Ok(());
    }
    // All that was seen goes; more may stay.
    if page.next.is_some() {
        let shallow = site.page(&prefix, true, None, None).await.map_err(failed)?;
        if shallow.next.is_some()
            || shallow.objects.iter().any(|object| stays(&object.key))
            || shallow.prefixes.iter().any(|prefix| *prefix != below)
        {
            return Ok(());
        }
    }
    put_marker(site, &prefix).await.map_err(failed)
}

pub(super) async fn delete(site: &S3Site, path: &RelPath) -> Result<(), ProviderError> {
    if path.is_root() {
        return Err(error(ErrorKind::Invalid, Op::Delete, path).because("the root stays as it is"));
    }
    let failed = |fault: Fault| fault.on(Op::Delete, path);
    let key = site.key(path, Op::Delete)?;
    let below = site.below(path, Op::Delete)?;
    let doomed = if site.head(&key).await.map_err(failed)?.is_some() {
        vec![key.clone()]
    } else {
        let page = site.page(&below, false, Some(3), None).await.map_err(failed)?;
        if page.objects.iter().any(|object| !is_marker(&object.key, &below)) {
            return Err(error(ErrorKind::WrongKind, Op::Delete, path).because("the folder is not empty"));
        }
        page.objects.into_iter().map(|object| object.key).collect()
    };
    if doomed.is_empty() {
        return Err(error(ErrorKind::NotFound, Op::Delete, path));
    }
    keep_folder_of(site, path, &key, Op::Delete).await?;
    for key in &doomed {
        remove(site, key).await.map_err(failed)?;
    }
    Ok(())
}

async fn copy(site: &S3Site, from: &str, etag: &str, to: &str) -> Result<(), Fault> {
    let source = site.client.source(from);
    let ask = Ask::new(Method::PUT, to)
        .header("x-amz-copy-source", source)
        .header("x-amz-copy-source-if-match", format!("\"{etag}\""));
    let text = site.client.ask(ask).await?.text().await?;
    match xml::error(&text) {
        Some((code, message)) => Err(Fault::new(
            ErrorKind::Protocol,
            format!("the store says: {message} ({code})"),
        )),
        None => Ok(()),
    }
}

pub(super) async fn rename(site: &S3Site, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
    if from.is_root() || to.is_root() {
        return Err(error(ErrorKind::Invalid, Op::Rename, from).because("the root stays as it is"));
    }
    let failed = |fault: Fault| fault.on(Op::Rename, from);
    let (source, target) = (site.key(from, Op::Rename)?, site.key(to, Op::Rename)?);
    let (source_below, target_below) = (site.below(from, Op::Rename)?, site.below(to, Op::Rename)?);
    let head = site.head(&source).await.map_err(failed)?;
    if head.is_none() && !site.has_keys(&source_below).await.map_err(failed)? {
        return Err(error(ErrorKind::NotFound, Op::Rename, from));
    }
    if source == target {
        return Ok(());
    }
    if let Some((dir, _)) = to.split_last().filter(|(dir, _)| !dir.is_root()) {
        let prefix = site.below(&dir, Op::Rename)?;
        if !site.has_keys(&prefix).await.map_err(failed)? {
            return Err(error(ErrorKind::NotFound, Op::Rename, to).because("its folder is not there"));
        }
    }
    if site.has_keys(&target_below).await.map_err(failed)? {
        return Err(error(ErrorKind::WrongKind, Op::Rename, to).because("a folder has the name"));
    }
    if let Some(head) = head {
        if head.size > COPY_MAX {
            let why = "the store copies no more than 5 GiB in one go, and has no other way to rename";
            return Err(error(ErrorKind::Unsupported, Op::Rename, from).because(why));
        }
        copy(site, &source, &head.etag, &target).await.map_err(failed)?;
        keep_folder_of(site, from, &source, Op::Rename).await?;
        return remove(site, &source).await.map_err(failed);
    }
    if site.head(&target).await.map_err(failed)?.is_some() || target.starts_with(&source_below) {
        return Err(error(ErrorKind::WrongKind, Op::Rename, to));
    }
    let mut objects = Vec::new();
    let mut after = None;
    loop {
        let page = site
            .page(&source_below, false, None, after.as_deref())
            .await
            .map_err(failed)?;
        objects.extend(page.objects);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if objects.iter().any(|object| object.size > COPY_MAX) {
        let why = "the store copies no more than 5 GiB in one go, and has no other way to rename";
        return Err(error(ErrorKind::Unsupported, Op::Rename, from).because(why));
    }
    for object in &objects {
        let rest = object.key.strip_prefix(&source_below).unwrap_or_default();
        let new = format!("{target_below}{rest}");
        copy(site, &object.key, &object.etag, &new).await.map_err(failed)?;
    }
    keep_folder_of(site, from, &source, Op::Rename).await?;
    for object in &objects {
        remove(site, &object.key).await.map_err(failed)?;
    }
    Ok(())
}
