//! Folders, renames and deletes.
//!
//! Invariants: nothing but a file makes way for a rename; a folder is removed only when it was seen empty where nobody else
//! looks for it, because a DELETE takes a folder with all that is in it.

use reqwest::{Method, Url};
use tracing::warn;
use uuid::Uuid;

use super::WebdavSite;
use super::client::method;
use crate::model::{Name, RelPath};
use crate::providers::web::{Fault, Reply};
use crate::providers::{ErrorKind, Op, ProviderError};

fn error(kind: ErrorKind, op: Op, path: &RelPath) -> ProviderError {
    ProviderError::new(kind, op).at(path)
}

/// Makes a folder and those above it that are missing.
pub(super) async fn make_dirs(site: &WebdavSite, path: &RelPath, op: Op) -> Result<(), ProviderError> {
    match site.find(path, op).await? {
        Some(found) if found.is_dir => return Ok(()),
        Some(_) => return Err(error(ErrorKind::WrongKind, op, path).because("a file has the name")),
        None => {}
    }
    let mut missing = vec![path.clone()];
    let mut at = path.clone();
    while let Some((above, _)) = at.split_last().filter(|(above, _)| !above.is_root()) {
        match site.find(&above, op).await? {
            Some(found) if found.is_dir => break,
            Some(_) => return Err(error(ErrorKind::WrongKind, op, path).because(format!("{above} is a file"))),
            None => missing.push(above.clone()),
        }
        at = above;
    }
    for dir in missing.iter().rev() {
        let request = site.client.request(method("MKCOL"), site.client.url(dir, op)?);
        let fault = match site.client.ask(request, None).await {
            Ok(reply) => {
                reply.finish().await.map_err(|fault| fault.on(op, dir))?;
                continue;
            }
            Err(fault) => fault,
        };
        // Made by somebody else since.
        match site.find(dir, op).await? {
            Some(found) if found.is_dir => {}
            Some(_) => return Err(error(ErrorKind::WrongKind, op, dir).because("a file has the name")),
            None => return Err(fault.on(op, dir)),
        }
    }
    Ok(())
}

/// Gives an entry another address. `overwrite`: what has that address makes way. `condition`: on what is there.
pub(super) async fn move_to(
    site: &WebdavSite,
    from: Url,
    to: &Url,
    overwrite: bool,
    condition: Option<String>,
) -> Result<Reply, Fault> {
    let mut request = site
        .client
        .request(method("MOVE"), from)
        .header("destination", to.as_str())
        .header("overwrite", if overwrite { "T" } else { "F" });
    if let Some(condition) = condition {
        request = request.header("if", condition);
    }
    site.client.ask(request, None).await
}

pub(super) async fn rename(site: &WebdavSite, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
    let (source, target) = (site.client.url(from, Op::Rename)?, site.client.url(to, Op::Rename)?);
    if from.is_root() || to.is_root() {
        return Err(error(ErrorKind::Invalid, Op::Rename, from).because("the root stays as it is"));
    }
    let Some(what) = site.find(from, Op::Rename).await? else {
        return Err(error(ErrorKind::NotFound, Op::Rename, from));
    };
    if from == to {
        return Ok(());
    }
    if let Some((dir, _)) = to.split_last()
        && site.find(&dir, Op::Rename).await?.is_none()
    {
        return Err(error(ErrorKind::NotFound, Op::Rename, to).because("its folder is not there"));
    }
    let there = site.find(to, Op::Rename).await?;
    if there.as_ref().is_some_and(|there| there.is_dir || what.is_dir) {
        return Err(error(ErrorKind::WrongKind, Op::Rename, to));
    }
    let moved = move_to(site, source, &target, there.is_some(), None).await;
    let reply = moved.map_err(|fault| fault.on(Op::Rename, from))?;
    reply.finish().await.map_err(|fault| fault.on(Op::Rename, from))
}

pub(super) async fn remove(site: &WebdavSite, url: Url) -> Result<(), Fault> {
    let request = site.client.request(Method::DELETE, url);
    site.client.ask(request, None).await?.finish().await
}

pub(super) async fn delete(site: &WebdavSite, path: &RelPath) -> Result<(), ProviderError> {
    let url = site.client.url(path, Op::Delete)?;
    let Some((dir, _)) = path.split_last() else {
        return Err(error(ErrorKind::Invalid, Op::Delete, path).because("the root stays as it is"));
    };
    let failed = |fault: Fault| fault.on(Op::Delete, path);
    let Some(found) = site.find(path, Op::Delete).await? else {
        return Err(error(ErrorKind::NotFound, Op::Delete, path));
    };
    if !found.is_dir {
        return remove(site, url).await.map_err(failed);
    }
    let full = || error(ErrorKind::WrongKind, Op::Delete, path).because("the folder is not empty");
    if !site.client.children(url.clone()).await.map_err(failed)?.1.is_empty() {
        return Err(full());
    }
    // Put aside first: what somebody put into it meanwhile is seen there, and brought back.
    let aside = Name::new(format!(".backlot-{}.part", Uuid::new_v4().simple()));
    let aside = aside.map_err(|e| error(ErrorKind::Invalid, Op::Delete, path).because(e))?;
    let aside = site.client.url(&dir.join(&aside), Op::Delete)?;
    let reply = move_to(site, url.clone(), &aside, false, None).await.map_err(failed)?;
    reply.finish().await.map_err(failed)?;
    let children = site.client.children(aside.clone()).await;
    if children.as_ref().is_ok_and(|(_, children)| children.is_empty()) {
        return remove(site, aside).await.map_err(failed);
    }
    if let Err(fault) = move_to(site, aside.clone(), &url, false, None).await {
        warn!(%path, aside = aside.path(), %fault, "a folder that was to be removed, and is not empty, has this name now");
    }
    children.map_err(failed)?;
    Err(full())
}
