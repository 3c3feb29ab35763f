//! Reading a range: many requests in flight, and a proof of the version behind each few of them.
//!
//! Owns: what is asked for ahead, and when bytes may be given out. Refuses to know: who reads. Invariant: bytes are given
//! out only when a look at the open file, made after they were read, showed the version that was asked for. (The server
//! answers requests on one file in their order: the draft demands it.)

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::error::Fault;
use super::pool::Lease;
use super::session::{Handle, Pending};
use super::wire::{Attrs, open_flags};
use super::{SftpSite, attrs_kind, attrs_version};
use crate::model::{EntryKind, RelPath, Version};
use crate::providers::{Arrivals, ErrorKind, Op, ProviderError};

/// Bytes that share one proof. The first few come with a proof of their own, so that a reader needs not wait for more.
const GROUP: u64 = 256 << 10;
const FIRST_GROUP: u64 = 64 << 10;
/// Groups that one stream has in flight or waiting to be taken: bounds its memory to 16 MiB.
const MOST_GROUPS: usize = 64;

pub(super) fn read<'a>(
    site: &'a SftpSite,
    path: &'a RelPath,
    at: &'a Version,
    range: Range<u64>,
    arrivals: Arrivals,
) -> BoxStream<'a, Result<Bytes, ProviderError>> {
    stream::once(Reading::open(site, path, at, range, arrivals))
        .map_ok(|reading| {
            let step = |state: Option<Reading>| async move {
                let mut reading = state?;
                match reading.next().await {
                    Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), None)),
                }
            };
            stream::unfold(Some(reading), step)
        })
        .try_flatten()
        .boxed()
}

/// A range being read.
struct Reading {
    connection: Lease,
    handle: Option<Arc<Handle>>,
    path: RelPath,
    at: Version,
    arrivals: Arrivals,
    /// What is not asked for yet.
    left: Range<u64>,
    groups: VecDeque<Group>,
    ready: VecDeque<Bytes>,
    first: bool,
}

/// Reads that were asked for together, and the look that proves them.
struct Group {
    reads: Vec<(u64, u32, Pending<Option<Bytes>>)>,
    look: Pending<Attrs>,
}

impl Reading {
    async fn open(
        site: &SftpSite,
        path: &RelPath,
        at: &Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> Result<Self, ProviderError> {
        let full = site.full(path, Op::Read)?;
        let empty = range.is_empty();
        let connection = site
            .connection_for(range.end.saturating_sub(range.start), Op::Read, path)
            .await?;
        let mut reading = Self {
            handle: connection.files.get(path, Some(at)).filter(|_| !empty),
            connection,
            path: path.clone(),
            at: at.clone(),
            arrivals,
            left: range.clone(),
            groups: VecDeque::new(),
            ready: VecDeque::new(),
            first: true,
        };
        if reading.handle.is_some() {
            return Ok(reading);
        }
        // In one go: the look keeps us from reading through a link, which OPEN would follow.
        let session = &reading.connection.session;
        let look = session.lstat(&full);
        let open = (!empty).then(|| session.open(&full, open_flags::READ));
        let attrs = match look.await {
            Ok(attrs) => attrs,
            Err(fault) => return Err(site.absent_or(&reading.connection, fault, Op::Read, path).await),
        };
        if attrs_kind(&attrs).is_some_and(|kind| kind != EntryKind::File) {
            return Err(ProviderError::new(ErrorKind::WrongKind, Op::Read).at(path));
        }
        reading.check(&attrs)?;
        if attrs.size.is_some_and(|size| size < range.end.max(range.start)) {
            return Err(reading.mismatch("the file is shorter than the range"));
        }
        if let Some(open) = open {
            let handle = match open.await {
                Ok(handle) => Arc::new(handle),
                Err(fault) => return Err(site.absent_or(&reading.connection, fault, Op::Read, path).await),
            };
            reading.connection.files.put(path, Some(at), Arc::clone(&handle));
            reading.handle = Some(handle);
        }
        Ok(reading)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ProviderError> {
        loop {
            self.ask();
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            let Some(group) = self.groups.pop_front() else {
                return Ok(None);
            };
            if let Err(error) = self.take(group).await {
                self.connection.files.forget(&self.path, Some(&self.at));
                return Err(error);
            }
        }
    }

    /// Asks for more, as long as the link deserves it; for something, in any case.
    fn ask(&mut self) {
        let Some(handle) = &self.handle else { return };
        let session = &self.connection.session;
        let step = session.features().read_len;
        while !self.left.is_empty() && self.groups.len() < MOST_GROUPS && (self.groups.is_empty() || session.has_room())
        {
            let len = if std::mem::take(&mut self.first) {
                FIRST_GROUP
            } else {
                GROUP
            };
            let end = self.left.end.min(self.left.start + len);
            let mut reads = Vec::new();
            while self.left.start < end {
                let len = step.min(u32::try_from(end - self.left.start).unwrap_or(step));
                let read = session.read(handle, self.left.start, len, &self.arrivals);
                reads.push((self.left.start, len, read));
                self.left.start += u64::from(len);
            }
            self.groups.push_back(Group {
                reads,
                look: session.fstat(handle),
            });
        }
    }

    /// Takes in a group's answers; nothing is ready to be given out unless all of it is proven.
    async fn take(&mut self, group: Group) -> Result<(), ProviderError> {
        let Some(handle) = &self.handle else { return Ok(()) };
        let session = &self.connection.session;
        let failed = |fault: Fault| fault.on_open(Op::Read, &self.path);
        let mut look = group.look;
        let mut chunks = Vec::with_capacity(group.reads.len());
        for (mut offset, mut len, mut read) in group.reads {
            while let Some(bytes) = read.await.map_err(failed)?.filter(|b| !b.is_empty()) {
                let got = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let Some(missing) = len.checked_sub(got) else {
                    return Err(failed(Fault::Protocol("more bytes than were asked for")));
                };
                chunks.push(bytes);
                (offset, len) = (offset + u64::from(got), missing);
                if len == 0 {
                    break;
                }
                // Servers may give fewer bytes than they were asked for. The proof must come after the last of them.
                read = session.read(handle, offset, len, &self.arrivals);
                look = session.fstat(handle);
            }
            if len > 0 {
                return Err(self.mismatch("the file was cut short while it was read"));
            }
        }
        self.check(&look.await.map_err(failed)?)?;
        self.ready.extend(chunks);
        Ok(())
    }

    fn check(&self, attrs: &Attrs) -> Result<(), ProviderError> {
        let found = attrs_version(attrs);
        if found == self.at {
            return Ok(());
        }
        Err(self.mismatch(format!("expected version {}, found {found}", self.at)))
    }

    fn mismatch(&self, why: impl Into<String>) -> ProviderError {
        ProviderError::new(ErrorKind::VersionMismatch, Op::Read)
            .at(&self.path)
            .because(why.into())
    }
}
