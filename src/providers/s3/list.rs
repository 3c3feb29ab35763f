//! Listing a folder, page by page.
//!
//! Owns: which keys are entries, and when a listing is whole. Invariant: a folder is "not there" only when no key begins
//! with it; a name is given out once.

use std::collections::HashSet;
use std::hash::BuildHasher;

use backlot_config::Mtimes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tracing::warn;

use super::xml::{Object, Page};
use super::{S3Site, file, folder};
use crate::model::{Name, RelPath};
use crate::providers::upload::is_temp_name;
use crate::providers::{ErrorKind, Listed, Op, ProviderError};

pub(super) fn list<'a>(site: &'a S3Site, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
    stream::try_unfold(Some(Listing::new(site, dir)), |state| async move {
        let Some(mut listing) = state else { return Ok(None) };
        let rows = listing.next().await?;
        Ok(Some((rows, listing.more.then_some(listing))))
    })
    .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
    .try_flatten()
    .boxed()
}

struct Listing<'a> {
    site: &'a S3Site,
    dir: &'a RelPath,
    token: Option<String>,
    first: bool,
    more: bool,
    /// Hashes of the names of objects: a folder of the same name is not shown.
    files: HashSet<u64>,
}

impl<'a> Listing<'a> {
    fn new(site: &'a S3Site, dir: &'a RelPath) -> Self {
        Self {
            site,
            dir,
            token: None,
            first: true,
            more: true,
            files: HashSet::new(),
        }
    }

    async fn next(&mut self) -> Result<Vec<Listed>, ProviderError> {
        let (site, dir) = (self.site, self.dir);
        let prefix = site.below(dir, Op::List)?;
        let page = site.page(&prefix, true, None, self.token.as_deref()).await;
        let mut page = page.map_err(|fault| fault.on(Op::List, dir))?;
        let is_empty = page.objects.is_empty() && page.prefixes.is_empty() && page.next.is_none();
        if std::mem::take(&mut self.first) && is_empty && !dir.is_root() {
            return Err(self.nothing().await);
        }
        self.token = page.next.take();
        self.more = self.token.is_some();
        self.rows(&prefix, page).await
    }

    /// Says why nothing is below the folder.
    async fn nothing(&self) -> ProviderError {
        let error = |kind| ProviderError::new(kind, Op::List).at(self.dir);
        let key = match self.site.key(self.dir, Op::List) {
            Ok(key) => key,
            Err(error) => return error,
        };
        match self.site.head(&key).await {
            Ok(Some(_)) => error(ErrorKind::WrongKind),
            Ok(None) => error(ErrorKind::NotFound),
            Err(fault) => fault.on(Op::List, self.dir),
        }
    }

    fn name(&self, prefix: &str, key: &str) -> Option<Name> {
        let name = key.strip_prefix(prefix)?;
        if is_temp_name(name.as_bytes()) {
            return None;
        }
        match Name::new(name) {
            Ok(name) => Some(name),
            Err(why) => {
                warn!(folder = %self.dir, key, %why, "an object is not shown");
                None
            }
        }
    }

    async fn rows(&mut self, prefix: &str, page: Page) -> Result<Vec<Listed>, ProviderError> {
        let mut files = Vec::with_capacity(page.objects.len());
        for object in page.objects {
            // The folder's own marker.
            if object.key == prefix {
                continue;
            }
            if let Some(name) = self.name(prefix, &object.key) {
                self.files.insert(self.site.hasher.hash_one(&name));
                files.push((name, object));
            }
        }
        let mut rows = Vec::with_capacity(files.len() + page.prefixes.len());
        for found in page.prefixes {
            let Some(name) = found.strip_suffix('/').and_then(|key| self.name(prefix, key)) else {
                continue;
            };
            if self.files.contains(&self.site.hasher.hash_one(&name)) {
                warn!(folder = %self.dir, %name, "an object and a folder have one name: the folder is not shown");
                continue;
            }
            rows.push(Listed { name, entry: folder() });
        }
        let (site, dir) = (self.site, self.dir);
        let dated = stream::iter(files).map(|(name, object)| row(site, dir, name, object));
        let mut dated = dated.buffered(site.client.web.requests);
        while let Some(row) = dated.next().await {
            rows.extend(row?);
        }
        Ok(rows)
    }
}

/// Makes a file's row; `None`: it was removed since.
async fn row(site: &S3Site, dir: &RelPath, name: Name, object: Object) -> Result<Option<Listed>, ProviderError> {
    let known = match site.mtimes {
        Mtimes::Store => Some(object.modified.saturating_mul(1_000_000_000)),
        Mtimes::Kept => {
            let key = site.mtime_key(&object.key, &object.etag, object.modified);
            site.known_mtimes.get(&key)
        }
    };
    let entry = match known {
        Some(mtime_ns) if !object.etag.is_empty() => file(object.size, mtime_ns, &object.etag),
        _ => match site.head(&object.key).await {
            Ok(Some(head)) => file(head.size, head.mtime_ns, &head.etag),
            Ok(None) => return Ok(None),
            Err(fault) => return Err(fault.on(Op::List, &dir.join(&name))),
        },
    };
    Ok(Some(Listed { name, entry }))
}
