//! Reading a range, with a proof of the version behind each few bytes.
//!
//! Invariant: bytes are given out only when a look at the file, made after they came, showed the version that was asked
//! for. Servers that write in place would mix two versions in one answer otherwise, and not say so.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use reqwest::header::{IF_MATCH, RANGE};

use super::xml::Found;
use super::{WebdavSite, version};
use crate::model::{RelPath, Version};
use crate::providers::web::{Fault, content_range, exactly};
use crate::providers::{Arrivals, ErrorKind, Op, ProviderError};

/// Bytes that share one proof: this many at first, then twice as many each time, so that a reader needs not wait long and a
/// long read asks seldom.
const FIRST: usize = 256 << 10;
const MOST: usize = 4 << 20;

pub(super) fn read<'a>(
    site: &'a WebdavSite,
    path: &'a RelPath,
    at: &'a Version,
    range: Range<u64>,
    arrivals: Arrivals,
) -> BoxStream<'a, Result<Bytes, ProviderError>> {
    stream::once(open(site, path, at, range))
        .map_ok(move |body| {
            let state = Some(Reading {
                site,
                path,
                at,
                // Before the proof, which it may not come to.
                body: arrivals.clone().note_each(body),
                group: FIRST,
                ready: VecDeque::new(),
            });
            stream::unfold(state, |state| async move {
                let mut reading = state?;
                match reading.next().await {
                    Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), None)),
                }
            })
        })
        .try_flatten()
        .boxed()
}

struct Reading<'a> {
    site: &'a WebdavSite,
    path: &'a RelPath,
    at: &'a Version,
    body: BoxStream<'static, Result<Bytes, Fault>>,
    group: usize,
    ready: VecDeque<Bytes>,
}

impl Reading<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, ProviderError> {
        if self.ready.is_empty() {
            let mut chunks = VecDeque::new();
            let mut bytes = 0;
            while bytes < self.group {
                match self.body.next().await {
                    None => break,
                    Some(Ok(chunk)) => {
                        bytes += chunk.len();
                        chunks.push_back(chunk);
                    }
                    // A file that was cut may break an answer off: what it is by now says which.
                    Some(Err(fault)) => {
                        prove(self.site, self.path, self.at).await?;
                        return Err(fault.on(Op::Read, self.path));
                    }
                }
            }
            if bytes > 0 {
                prove(self.site, self.path, self.at).await?;
            }
            self.group = (self.group * 2).min(MOST);
            self.ready = chunks;
        }
        Ok(self.ready.pop_front())
    }
}

/// Makes sure that what came is of the version that is read. The request is still under way.
async fn prove(site: &WebdavSite, path: &RelPath, at: &Version) -> Result<(), ProviderError> {
    match site.client.look_beside(site.client.url(path, Op::Read)?).await {
        Ok(found) => compare(&found, path, at, 0),
        Err(fault) => Err(site.absent_or(fault, Op::Read, path).await),
    }
}

fn mismatch(path: &RelPath, why: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorKind::VersionMismatch, Op::Read)
        .at(path)
        .because(why.into())
}

/// Makes sure that a path is a file of that version, and at least that long.
async fn check(site: &WebdavSite, path: &RelPath, at: &Version, length: u64) -> Result<(), ProviderError> {
    let Some(found) = site.find(path, Op::Read).await? else {
        return Err(ProviderError::new(ErrorKind::NotFound, Op::Read).at(path));
    };
    compare(&found, path, at, length)
}

fn compare(found: &Found, path: &RelPath, at: &Version, length: u64) -> Result<(), ProviderError> {
    if found.is_dir {
        return Err(ProviderError::new(ErrorKind::WrongKind, Op::Read).at(path));
    }
    let there = version(found);
    if there != *at {
        return Err(mismatch(path, format!("expected version {at}, found {there}")));
    }
    if found.size.unwrap_or(0) < length {
        return Err(mismatch(path, "the file is shorter than the range"));
    }
    Ok(())
}

async fn open(
    site: &WebdavSite,
    path: &RelPath,
    at: &Version,
    range: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes, Fault>>, ProviderError> {
    let url = site.client.url(path, Op::Read)?;
    if range.is_empty() {
        check(site, path, at, range.end).await?;
        return Ok(stream::empty().boxed());
    }
    let length = range.end - range.start;
    let mut request = site
        .client
        .request(Method::GET, url)
        .header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
    // A weak one never matches, by definition.
    if at.as_str().starts_with('"') {
        request = request.header(IF_MATCH, at.as_str());
    }
    let reply = match site.client.ask(request, None).await {
        Ok(reply) => reply,
        // A folder, or a file that is not that long or not that version: the look says which.
        Err(fault) => {
            check(site, path, at, range.end).await?;
            return Err(site.absent_or(fault, Op::Read, path).await);
        }
    };
    match content_range(&reply) {
        Some(given) if given == range => Ok(exactly(reply.body(), length)),
        given => {
            drop(reply);
            check(site, path, at, range.end).await?;
            let why = match given {
                Some(_) => "the server gives another range than the one asked for",
                None => "the server gives whole files where a range was asked for",
            };
            Err(Fault::new(ErrorKind::Unsupported, why).on(Op::Read, path))
        }
    }
}
