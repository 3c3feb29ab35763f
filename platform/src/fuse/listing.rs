//! Filling one reply with one page of a folder.
//!
//! Owns: `.` and `..`, the mapping of cookies to offsets, the guess of how many entries a reply takes. Refuses to know:
//! reply types, so that `readdir` and `readdirplus` share it.
//!
//! Invariant: nothing is remembered between two calls but the guess: a listing continues by its offset alone, after any
//! change of the folder.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::FileAttr;

use super::caller::unless_given_up;
use super::convert;
use crate::error::FsError;
use crate::types::{Attr, DirEntry, NodeId, NodeKind, OpCx};
use crate::vfs::VirtualFs;

/// One line of a listing, the engine's or one of the two that we add.
pub(super) enum Row<'a> {
    Dot(NodeId),
    DotDot(NodeId),
    Entry(&'a DirEntry, u64),
}

impl Row<'_> {
    pub(super) fn node(&self) -> NodeId {
        match self {
            Self::Dot(node) | Self::DotDot(node) => *node,
            Self::Entry(entry, _) => entry.attr.node,
        }
    }

    pub(super) fn kind(&self) -> NodeKind {
        match self {
            Self::Dot(_) | Self::DotDot(_) => NodeKind::Dir,
            Self::Entry(entry, _) => entry.attr.kind,
        }
    }

    pub(super) fn name(&self) -> &OsStr {
        match self {
            Self::Dot(_) => OsStr::new("."),
            Self::DotDot(_) => OsStr::new(".."),
            Self::Entry(entry, _) => &entry.name,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        match self {
            Self::Dot(_) => convert::AFTER_DOT,
            Self::DotDot(_) => convert::AFTER_DOT_DOT,
            Self::Entry(_, offset) => *offset,
        }
    }

    /// The attributes that the engine gave, of all but `.` and `..`.
    pub(super) fn entry_attr(&self) -> Option<&Attr> {
        match self {
            Self::Entry(entry, _) => Some(&entry.attr),
            Self::Dot(_) | Self::DotDot(_) => None,
        }
    }

    /// The kernel takes no attributes of `.` and `..` from a listing, so the engine is not asked for them.
    pub(super) fn attr(&self) -> FileAttr {
        match self {
            Self::Dot(node) | Self::DotDot(node) => convert::dir_stub(*node),
            Self::Entry(entry, _) => convert::file_attr(&entry.attr),
        }
    }
}

/// How many entries the last full reply of a kind took. fuser does not say how large the kernel's buffer is (a page on
/// older kernels, up to 1 MiB on newer ones), so the guess learns from what fitted.
pub(super) struct PageHint(AtomicUsize);

/// Bounds of the guess: one page of long names, and what the largest buffer takes of short ones.
const PAGE_MIN: usize = 8;
const PAGE_MAX: usize = 8192;

impl PageHint {
    /// 4096 bytes of entries of 24 bytes and a name of about 16.
    pub(super) fn plain() -> Self {
        Self(AtomicUsize::new(100))
    }

    /// 4096 bytes of entries of 152 bytes and a name of about 16.
    pub(super) fn plus() -> Self {
        Self(AtomicUsize::new(24))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn learn(&self, fitted: usize) {
        // One more than fitted, so that the next reply is full after one page and says so.
        self.0.store((fitted + 1).clamp(PAGE_MIN, PAGE_MAX), Ordering::Relaxed);
    }
}

/// Adds rows after `offset` until `add` says that the reply is full (its row did not fit) or the folder ends. Returns an
/// error only if nothing was added: a page that has rows is worth more than the reason why it has not more, which the
/// next call meets again.
pub(super) async fn fill(
    fs: &dyn VirtualFs,
    cx: &OpCx,
    dir: NodeId,
    offset: u64,
    hint: &PageHint,
    mut add: impl FnMut(Row<'_>) -> bool + Send,
) -> Option<FsError> {
    let mut fitted = 0;
    match fill_rows(fs, cx, dir, offset, hint, &mut add, &mut fitted).await {
        Err(e) if fitted == 0 => Some(e),
        Ok(()) | Err(_) => None,
    }
}

async fn fill_rows(
    fs: &dyn VirtualFs,
    cx: &OpCx,
    dir: NodeId,
    offset: u64,
    hint: &PageHint,
    add: &mut (impl FnMut(Row<'_>) -> bool + Send),
    fitted: &mut usize,
) -> Result<(), FsError> {
    let mut after = convert::dir_cookie(offset);
    let mut want = hint.get();
    // The first look at a folder may have to wait for a site.
    let mut page = unless_given_up(cx.pid, fs.readdir(cx, dir, after, want)).await?;
    // Asked for first, so that a node that is no folder fails before it shows dots.
    if offset < convert::AFTER_DOT {
        if add(Row::Dot(dir)) {
            return Ok(());
        }
        *fitted += 1;
    }
    if offset < convert::AFTER_DOT_DOT {
        let parent = fs.parent(cx, dir).await?;
        if add(Row::DotDot(parent)) {
            return Ok(());
        }
        *fitted += 1;
    }
    loop {
        for entry in &page {
            if add(Row::Entry(entry, convert::dir_offset(entry.cookie)?)) {
                hint.learn(*fitted);
                return Ok(());
            }
            *fitted += 1;
            after = entry.cookie;
        }
        // An empty page is the only end: a short one may be what was at hand. But a caller who got something has his next
        // call to learn of the end, so a short page spares us one question.
        if page.is_empty() || page.len() < want {
            return Ok(());
        }
        want = (hint.get() / 4).max(PAGE_MIN);
        page = fs.readdir(cx, dir, after, want).await?;
    }
}
