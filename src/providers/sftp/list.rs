//! Listing a folder.
//!
//! Owns: names and their attributes as rows. Refuses to know: what was there before. Invariant: the rows are all there
//! only if the stream ends without an error.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tracing::{debug, warn};

use super::error::Fault;
use super::pool::Lease;
use super::session::{Handle, Pending};
use super::wire::Attrs;
use super::{SftpSite, attrs_entry, attrs_kind};
use crate::model::{EntryKind, Name, RelPath};
use crate::providers::upload::is_temp_name;
use crate::providers::{ErrorKind, Listed, Op, ProviderError};

/// Requests for names in flight: servers give about a hundred names each, and a round trip would pass between two.
const AHEAD: usize = 3;

type Names = Option<Vec<(Bytes, Attrs)>>;

pub(super) fn list<'a>(site: &'a SftpSite, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
    stream::once(Listing::open(site, dir))
        .map_ok(|listing| {
            stream::try_unfold(listing, |mut listing| async move {
                Ok(listing.next().await?.map(|rows| (rows, listing)))
            })
        })
        .try_flatten()
        .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}

struct Listing {
    connection: Lease,
    handle: Handle,
    dir: RelPath,
    full: Vec<u8>,
    asked: VecDeque<Pending<Names>>,
}

impl Listing {
    async fn open(site: &SftpSite, dir: &RelPath) -> Result<Self, ProviderError> {
        let full = site.full(dir, Op::List)?;
        let connection = site.connection(Op::List, dir).await?;
        let session = &connection.session;
        // Links are followed in the root's own path alone.
        let look = if dir.is_root() {
            session.stat(&full)
        } else {
            session.lstat(&full)
        };
        let open = session.open_dir(&full);
        let attrs = match look.await {
            Ok(attrs) => attrs,
            Err(fault) => return Err(site.absent_or(&connection, fault, Op::List, dir).await),
        };
        if attrs_kind(&attrs).is_some_and(|kind| kind != EntryKind::Dir) {
            return Err(ProviderError::new(ErrorKind::WrongKind, Op::List).at(dir));
        }
        let handle = match open.await {
            Ok(handle) => handle,
            Err(fault) => return Err(site.absent_or(&connection, fault, Op::List, dir).await),
        };
        Ok(Self {
            connection,
            handle,
            dir: dir.clone(),
            full,
            asked: VecDeque::new(),
        })
    }

    /// Returns the next rows; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<Listed>>, ProviderError> {
        let session = &self.connection.session;
        while self.asked.len() < AHEAD {
            self.asked.push_back(session.read_dir(&self.handle));
        }
        let Some(names) = self.asked.pop_front() else {
            return Ok(None);
        };
        let Some(names) = names.await.map_err(|f| f.on_open(Op::List, &self.dir))? else {
            return Ok(None);
        };
        let rows = try_join_all(names.into_iter().map(|(name, attrs)| self.row(name, attrs))).await?;
        Ok(Some(rows.into_iter().flatten().collect()))
    }

    /// Makes a row; `None` for what is not shown.
    async fn row(&self, name: Bytes, attrs: Attrs) -> Result<Option<Listed>, ProviderError> {
        if name[..] == *b"." || name[..] == *b".." || is_temp_name(&name) {
            return Ok(None);
        }
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(why) => {
                warn!(folder = %self.dir, %why, "an entry is not shown");
                return Ok(None);
            }
        };
        let full = [&self.full[..], b"/", &name].concat();
        match self.entry(&full, attrs).await {
            Ok(Some(entry)) => Ok(Some(Listed { name, entry })),
            Ok(None) => {
                debug!(folder = %self.dir, %name, "neither file, folder nor link: not shown");
                Ok(None)
            }
            // Removed since the folder was read.
            Err(fault) if fault.is_absent() => Ok(None),
            Err(fault) => Err(fault.on(Op::List, &self.dir.join(&name))),
        }
    }

    async fn entry(&self, full: &[u8], mut attrs: Attrs) -> Result<Option<crate::providers::Entry>, Fault> {
        let session = &self.connection.session;
        if attrs.mode.is_none() || attrs.size.is_none() || attrs.mtime.is_none() {
            attrs = session.lstat(full).await?;
        }
        let target = match attrs_kind(&attrs) {
            Some(EntryKind::Symlink) => Some(session.read_link(full).await?.to_vec()),
            _ => None,
        };
        Ok(attrs_entry(&attrs, target))
    }
}
