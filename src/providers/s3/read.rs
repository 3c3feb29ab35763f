//! Reading a range of one version of an object.
//!
//! Invariant: the store is asked for the bytes of the version that is meant and no other, and no byte is given out unless
//! its answer is of that version and of all the range. One answer is of one object: what is put under its key meanwhile
//! does not mix with it.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use reqwest::header::ETAG;

use super::S3Site;
use super::client::Ask;
use super::xml::plain_etag;
use crate::model::{RelPath, Version};
use crate::providers::web::{Fault, content_range, exactly};
use crate::providers::{ErrorKind, Op, ProviderError};

pub(super) fn read<'a>(
    site: &'a S3Site,
    path: &'a RelPath,
    at: &'a Version,
    range: Range<u64>,
) -> BoxStream<'a, Result<Bytes, ProviderError>> {
    stream::once(open(site, path, at, range)).try_flatten().boxed()
}

fn mismatch(path: &RelPath, why: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorKind::VersionMismatch, Op::Read)
        .at(path)
        .because(why.into())
}

async fn open<'a>(
    site: &'a S3Site,
    path: &'a RelPath,
    at: &'a Version,
    range: Range<u64>,
) -> Result<BoxStream<'a, Result<Bytes, ProviderError>>, ProviderError> {
    let key = site.key(path, Op::Read)?;
    if path.is_root() {
        return Err(ProviderError::new(ErrorKind::WrongKind, Op::Read).at(path));
    }
    if range.is_empty() {
        let head = site.head(&key).await.map_err(|fault| fault.on(Op::Read, path))?;
        let Some(head) = head else {
            return Err(site.absent(path, Op::Read).await);
        };
        if head.version() != *at || head.size < range.start {
            return Err(mismatch(path, format!("expected version {at}, found {}", head.etag)));
        }
        return Ok(stream::empty().boxed());
    }
    let length = range.end - range.start;
    let ask = Ask::new(Method::GET, &key)
        .header("range", format!("bytes={}-{}", range.start, range.end - 1))
        .header("if-match", format!("\"{at}\""));
    let reply = match site.client.ask(ask).await {
        Ok(reply) => reply,
        Err(fault) if fault.kind == ErrorKind::NotFound => return Err(site.absent(path, Op::Read).await),
        Err(fault) => return Err(fault.on(Op::Read, path)),
    };
    let found = reply.header(&ETAG).map(plain_etag).unwrap_or_default();
    if found != at.as_str() {
        return Err(mismatch(path, format!("expected version {at}, found {found}")));
    }
    match content_range(&reply) {
        Some(given) if given == range => {}
        Some(_) => return Err(mismatch(path, "the object is shorter than the range")),
        None => {
            let why = "the store gives whole objects where a range was asked for";
            return Err(Fault::new(ErrorKind::Unsupported, why).on(Op::Read, path));
        }
    }
    let chunks = exactly(reply.body(), length).then(move |chunk| {
        // Broken off by the network, or because the object went while it was sent: its head says which.
        async move {
            let fault = match chunk {
                Ok(chunk) => return Ok(chunk),
                Err(fault) => fault,
            };
            Err(match stat(site, path).await {
                Ok(there) if there.as_ref() != Some(at) => {
                    mismatch(path, format!("expected version {at}, and it went while it was read"))
                }
                _ => fault.on(Op::Read, path),
            })
        }
    });
    Ok(chunks.boxed())
}

async fn stat(site: &S3Site, path: &RelPath) -> Result<Option<Version>, ProviderError> {
    let key = site.key(path, Op::Read)?;
    let head = site.head(&key).await.map_err(|fault| fault.on(Op::Read, path))?;
    Ok(head.map(|head| head.version()))
}
