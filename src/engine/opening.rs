//! Opening files and reading through what was opened: which version a handle reads, and until when.
//!
//! Owns: what an open does with a site's bytes, and what a read answers when they change. Refuses to know: names, writing,
//! which host asks. Invariant: one handle never gives bytes of two versions.

use std::ops::Range;
use std::sync::Arc;

use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{NodeId, OpCx, OpenOptions, Opened};
use bytes::Bytes;
use tracing::warn;

use super::drive::{OpenError, content_version};
use super::filesystem::{DriveFs, hydrate_error, is_same_content, state_error};
use super::firewall::{Grant, Payer};
use super::handles::{OpenFile, Source};
use super::hydrate::{HydrateError, OpenContent};
use super::local::LocalFile;
use super::schedule::Priority;
use crate::providers::ErrorKind;
use crate::state::Node;

/// What is fetched when a large file is opened, before its first read: two granules, where headers are.
const HEAD: u64 = 2 * backlot_cache::GRANULE;

impl DriveFs {
    /// Says whether the version that a handle reads is not the file's any more.
    pub(super) fn is_old(&self, file: &OpenFile, content: &OpenContent) -> bool {
        if file.is_native() {
            return false;
        }
        // The store changes first, and handles are marked after it: who looks between the two has the doubt to go by.
        file.is_stale()
            || self.drive.doubts.has(file.ino)
                && self
                    .node(NodeId(file.ino.0))
                    .is_ok_and(|node| content_version(&node) != *content.version())
    }

    /// Reads through a handle; on a version that is gone, takes up the new one if nobody saw a byte of the old.
    pub(super) async fn read_open(&self, cx: &OpCx, file: &Arc<OpenFile>, range: Range<u64>) -> Result<Bytes, FsError> {
        let mut switched = false;
        loop {
            let content = match file.source() {
                Source::Own(own) => return self.read_own(file, &own, range).await,
                Source::Site(content) => content,
            };
            let len = content.content().len();
            let clipped = range.start.min(len)..range.end.min(len);
            let error = if self.is_old(file, &content) {
                None
            } else if clipped.is_empty() {
                return Ok(Bytes::new());
            } else {
                let read = self.read_as(cx, file, &content, clipped).await?;
                match read {
                    Ok(bytes) if !self.is_old(file, &content) => {
                        file.mark_served();
                        return Ok(bytes);
                    }
                    Ok(_bytes_of_a_version_that_went_meanwhile) => None,
                    Err(e) => Some(e),
                }
            };
            if let Some(e) = &error {
                let changed = matches!(e, HydrateError::Provider(p)
                    if matches!(p.kind, ErrorKind::VersionMismatch | ErrorKind::NotFound));
                if !changed {
                    return Err(hydrate_error(e.clone()));
                }
                self.drive.refresh(file.ino).await;
            }
            if file.own().is_some() {
                // It was written to meanwhile: the same bytes, and what was written, are here.
                continue;
            }
            let alone = self.drive.handles.count(file.ino) == 1;
            // Old and not marked: those who noticed the change are about to mark whatever is open.
            let unmarked = error.is_none() && !file.is_stale();
            if switched || unmarked || file.has_served() || !file.fresh || !alone {
                return Err(changed_at_site(&content));
            }
            let node = self.node(NodeId(file.ino.0))?;
            if node.size != len {
                // The kernel, and whoever asked it, hold this open to the length that it began with: another version's
                // bytes cut to that would be half a file that looks whole.
                return Err(changed_at_site(&content));
            }
            let content = self.drive.open_content(&node).map_err(|e| log_fs(&node, e))?;
            self.drive.handles.switch(file, content);
            switched = true;
        }
    }

    /// Reads what a site has for whoever asks, as far as that is to be had. The outer error is the firewall's.
    async fn read_as(
        &self,
        cx: &OpCx,
        file: &OpenFile,
        content: &Arc<OpenContent>,
        range: Range<u64>,
    ) -> Result<Result<Bytes, HydrateError>, FsError> {
        let len = content.content().len();
        let firewall = &self.drive.firewall;
        // Who reads need not be who opened: descriptors are inherited, and processes become other programs.
        let reader = match file.opener().filter(|_| content.content().is_full() || cx.pid == 0) {
            Some(opener) => Arc::clone(opener),
            None => firewall.who(cx.pid).await,
        };
        let grant = if content.content().is_full() {
            Grant::Free(Payer::by_priority(reader.account()))
        } else {
            firewall.admit_read(&reader, file, content, &range)
        };
        let became_read = file.asks_for(range.end - range.start, len);
        let payer = match grant {
            Grant::Free(payer) => {
                file.note_read(content, range.clone(), &payer);
                payer
            }
            Grant::Curbed(payer) => payer,
            Grant::Here => {
                let here = content.read_here(range);
                return here.map(Ok).ok_or_else(|| firewall.refuse(&reader, content.path()));
            }
        };
        if file.is_followed() && became_read {
            self.drive.sequences.read(file.ino);
        }
        Ok(content.read(range, &payer).await)
    }

    async fn read_own(&self, file: &OpenFile, own: &LocalFile, range: Range<u64>) -> Result<Bytes, FsError> {
        if file.is_stale() {
            return Err(FsErrorKind::RemoteChanged.into());
        }
        own.read_at(range)
            .map(Bytes::from)
            .map_err(|e| FsError::new(FsErrorKind::Io, e))
    }

    /// Opens what the site has, through the cache.
    pub(super) async fn open_site(
        &self,
        cx: &OpCx,
        at: NodeId,
        node: &Node,
        options: OpenOptions,
    ) -> Result<Option<Opened>, FsError> {
        let opener = self.drive.firewall.who(cx.pid).await;
        let is_listed = self.drive.firewall.is_listed(&opener) && !options.write;
        let opened = if is_listed {
            self.drive.open_content_quietly(node)
        } else {
            self.drive.open_content(node)
        };
        let content = match opened {
            Ok(content) => content,
            // It was replaced or removed since its name was looked up.
            Err(OpenError::NoProject(_)) => return Err(FsErrorKind::Left.into()),
            Err(e) => return Err(log_fs(node, e)),
        };
        // Pages that the kernel may hold were read under this version or never: an earlier version's were dropped when
        // its change was noticed. Where nothing is resident there can be none, and the kernel is told so.
        let keep_cache = content.content().resident_bytes() > 0;
        let is_here = content.content().is_full();
        if is_listed && !is_here && content.read_here(0..1).is_none() {
            // Not at its first read: through a mapping that would end the program.
            return Err(self.drive.firewall.refuse(&opener, content.path()));
        }
        let file = OpenFile::new(
            node.ino,
            Source::Site(Arc::clone(&content)),
            !keep_cache,
            options.write,
            self.drive.limits.readahead_max,
        );
        let file = Arc::new(file.opened_by(&opener, !is_here && !options.write));
        let offer = self.drive.offer(at, node, &content, options);
        let (handle, backing) = self.insert(at, node, &file, options, offer)?;
        // A change noticed between the look at the node and the insertion did not mark this handle: look again.
        let now = self.drive.tree.node(node.ino).map_err(state_error)?;
        if !now.is_some_and(|now| is_same_content(&now, node)) {
            self.drive.handles.remove(handle);
            return Ok(None);
        }
        let len = content.content().len();
        let grant = self.drive.firewall.admit_open(&opener);
        if !options.write && (matches!(grant, Grant::Free(_)) || is_here && !is_listed) {
            let resident = content.content().is_full();
            let followed = self.drive.sequences.opened(node.ino, len, cx.pid, resident);
            file.set_followed(followed);
            // What the kernel reads by itself is not seen here: it counts as read.
            if followed && file.is_native() {
                self.drive.sequences.read(node.ino);
            }
        }
        // Who writes wants none of it, if the next request cuts it, or has all of it copied at the first write.
        if let Grant::Free(payer) = grant
            && !options.write
            && len > 0
            && !content.content().is_full()
        {
            let whole = len <= self.drive.limits.small_file;
            let ahead = 0..if whole { len } else { HEAD.min(len) };
            file.keep(content.fetch_ahead(ahead, Priority::ReadAhead, &payer));
        }
        // Pages belong to the file, not to an open of it: with this version's in there, a handle that reads an earlier
        // one would be given them without our being asked.
        let uncached = self.drive.handles.has_stale(node.ino);
        Ok(Some(Opened {
            handle,
            keep_cache,
            uncached,
            forget_attributes: self.drive.doubts.has(node.ino),
            backing,
        }))
    }
}

pub(super) fn changed_at_site(content: &OpenContent) -> FsError {
    FsError::new(
        FsErrorKind::RemoteChanged,
        format!("{} changed at the site", content.path()),
    )
}

fn log_fs(node: &Node, e: OpenError) -> FsError {
    warn!(ino = %node.ino, error = %e, "open failed");
    FsError::new(FsErrorKind::Io, e)
}
