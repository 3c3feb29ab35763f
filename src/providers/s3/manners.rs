//! What stores that speak S3 differ in, tried out once.
//!
//! Owns: whether conditions of a write are the store's to decide, and whether keys may end in `/`. Tried out before the
//! first write of a site, on an object of our own: stores pass over what they don't know without a word. Invariant: nothing
//! is taken for granted that was not seen; who only reads never writes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use reqwest::Method;
use tokio::sync::Mutex;
use tracing::{debug, info};
use uuid::Uuid;

use super::S3Site;
use super::client::Ask;
use super::upload::{complete_ask, give_up, initiate, send_part};
use crate::providers::ErrorKind;
use crate::providers::web::Fault;

/// An etag that nothing has.
const NO_ETAG: &str = "\"0123456789abcdef0123456789abcdef\"";

#[derive(Debug, Default)]
pub(super) struct Manners {
    /// Conditions are kept to in one request.
    put: AtomicBool,
    /// Conditions are kept to when parts are put together.
    complete: AtomicBool,
    /// Keys may end in `/`.
    markers: AtomicBool,
    is_known: Mutex<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    put: bool,
    complete: bool,
    markers: bool,
}

impl Manners {
    pub(super) fn conditions_hold(&self) -> bool {
        self.put.load(Relaxed) && self.complete.load(Relaxed)
    }

    pub(super) fn put_conditions(&self) -> bool {
        self.put.load(Relaxed)
    }

    pub(super) fn has_markers(&self) -> bool {
        self.markers.load(Relaxed)
    }

    /// Tries things out, the first time.
    pub(super) async fn learn(&self, site: &S3Site) -> Result<(), Fault> {
        let mut is_known = self.is_known.lock().await;
        if *is_known {
            return Ok(());
        }
        match try_out(site).await {
            Ok(found) => {
                info!(bucket = site.client.bucket_name(), ?found, "the store's manners");
                self.put.store(found.put, Relaxed);
                self.complete.store(found.complete, Relaxed);
                self.markers.store(found.markers, Relaxed);
            }
            // An account that may write in some folders only, say: looking beforehand has to do.
            Err(fault) if fault.kind == ErrorKind::Denied => {
                debug!(%fault, "the store's manners can't be tried out");
                self.markers.store(true, Relaxed);
            }
            Err(fault) => return Err(fault),
        }
        *is_known = true;
        Ok(())
    }
}

async fn try_out(site: &S3Site) -> Result<Found, Fault> {
    let key = format!("{}.backlot-{}.part", site.prefix, Uuid::new_v4().simple());
    let marker = format!("{key}/");
    let found = look(site, &key, &marker).await;
    for left in [&key, &marker] {
        if let Err(fault) = site.client.ask(Ask::new(Method::DELETE, left)).await {
            debug!(left, %fault, "what was tried out stays there");
        }
    }
    found
}

async fn look(site: &S3Site, key: &str, marker: &str) -> Result<Found, Fault> {
    let put = |key| Ask::new(Method::PUT, key).body(Bytes::new());
    // Before the object: some stores make it one of that name.
    let markers = match site.client.ask(put(marker)).await {
        Ok(reply) => {
            reply.finish().await?;
            let page = site.page(marker, false, Some(1), None).await?;
            page.objects.iter().any(|object| object.key == marker)
        }
        Err(fault) if matches!(fault.kind, ErrorKind::Unsupported | ErrorKind::Invalid) => false,
        Err(fault) => return Err(fault),
    };
    if markers {
        site.client
            .ask(Ask::new(Method::DELETE, marker))
            .await?
            .finish()
            .await?;
    }
    site.client.ask(put(key)).await?.finish().await?;
    let mut found = Found {
        put: true,
        complete: true,
        markers,
    };
    for (name, value) in [("if-none-match", "*"), ("if-match", NO_ETAG)] {
        found.put &= refuses(site, put(key).header(name, value)).await?;
        let id = initiate(site, key, &[]).await?;
        let etag = send_part(site, key, &id, 1, Bytes::from_static(b"?")).await?;
        let complete = complete_ask(key, &id, &[(1, &etag)]).header(name, value);
        let refused = refuses(site, complete).await?;
        if refused {
            give_up(site, key, &id).await?;
        }
        found.complete &= refused;
    }
    Ok(found)
}

/// Says whether a write whose condition does not hold is refused.
async fn refuses(site: &S3Site, ask: Ask<'_>) -> Result<bool, Fault> {
    match site.client.ask(ask).await {
        Ok(reply) => {
            reply.finish().await?;
            Ok(false)
        }
        Err(fault) if fault.kind == ErrorKind::VersionMismatch => Ok(true),
        // Said, not passed over; but nothing that we could build on.
        Err(fault) if matches!(fault.kind, ErrorKind::Unsupported | ErrorKind::Invalid) => Ok(false),
        Err(fault) => Err(fault),
    }
}
