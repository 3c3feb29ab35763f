//! What is done to bytes and attributes here: when writing begins and ends, as rows.
//!
//! Refuses to know: names, where bytes are kept. Invariant: a row says that its file is being written from before the first
//! byte changes until after the last.

use super::StateError;
use super::error::Refusal;
use super::listing::{OWN_MTIME, OWN_PERM};
use super::node::{ChangeKind, Node, as_i64};
use super::write::{Delta, WriteTxn};
use crate::model::{EntryKind, Ino, Version};

/// Attributes to be set; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewAttrs {
    /// Permission bits.
    pub perm: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time, nanoseconds since 1970.
    pub atime_ns: Option<i64>,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
}

impl WriteTxn<'_> {
    /// Sets attributes; those of a mirror stay when the site has others.
    pub fn set_attrs(&self, ino: Ino, attrs: &NewAttrs, now_ns: i64) -> Result<Node, StateError> {
        let bits =
            if attrs.perm.is_some() { OWN_PERM } else { 0 } | if attrs.mtime_ns.is_some() { OWN_MTIME } else { 0 };
        let done = self.run(
            "UPDATE inode SET perm = ifnull(?2, perm), uid = ifnull(?3, uid), gid = ifnull(?4, gid), \
             atime_ns = ifnull(?5, atime_ns), mtime_ns = ifnull(?6, mtime_ns), attrs_own = attrs_own | ?7, ctime_ns = ?8 \
             WHERE ino = ?1",
            (
                as_i64(ino.0),
                attrs.perm,
                attrs.uid,
                attrs.gid,
                attrs.atime_ns,
                attrs.mtime_ns,
                bits,
                now_ns,
            ),
        )?;
        if done == 0 {
            return Err(Refusal::NotFound.into());
        }
        self.touch_node(ino);
        self.node(ino)?.ok_or(StateError::NoSuchNode(ino))
    }

    /// Notes that writing into a file begins, before its first byte is written, and returns the generation.
    ///
    /// `object`: a new object with the bytes that the file begins with. `mirror`: the file is a mirror of this version, which
    /// becomes this machine's own; otherwise it is own already. `Changed` if the file is not that any more.
    pub fn begin_write(&self, ino: Ino, object: Option<u64>, mirror: Option<&Version>) -> Result<u64, StateError> {
        let node = self.node(ino)?.ok_or(Refusal::NotFound)?;
        let is_same = match mirror {
            Some(version) => !node.own && node.version.as_ref() == Some(version),
            None => node.own,
        };
        if !is_same || node.kind != EntryKind::File || (object.is_some() && node.object.is_some()) {
            return Err(Refusal::Changed.into());
        }
        self.make_own(ino)?;
        self.run(
            "UPDATE inode SET gen = gen + 1, writing = 1, object = ifnull(?2, object), \
             origin = iif(?2 IS NULL, origin, NULL), origin_version = iif(?2 IS NULL, origin_version, NULL) WHERE ino = ?1",
            (as_i64(ino.0), object.map(u64::cast_signed)),
        )?;
        self.change(ino)?;
        Ok(node.generation + 1)
    }

    /// Notes that the bytes of a file that was moved here are in an object now. `Changed` if it is not that file any more.
    pub fn brought_home(&self, ino: Ino, object: u64, version: &Version) -> Result<(), StateError> {
        let sql = "UPDATE inode SET object = ?2, origin = NULL, origin_version = NULL \
                   WHERE ino = ?1 AND own = 1 AND object IS NULL AND origin_version = ?3";
        if self.run(sql, (as_i64(ino.0), object.cast_signed(), version.as_str()))? == 0 {
            return Err(Refusal::Changed.into());
        }
        self.note_labelled(object)?;
        self.change(ino)
    }

    /// Notes that an object may still bear the label of a copy.
    pub fn note_labelled(&self, object: u64) -> Result<(), StateError> {
        self.run("INSERT OR IGNORE INTO labelled VALUES (?1)", [object.cast_signed()])
            .map(drop)
    }

    /// Notes that an object bears no label of a copy, on the disk too.
    pub fn unlabelled(&self, object: u64) -> Result<(), StateError> {
        self.run("DELETE FROM labelled WHERE object = ?1", [object.cast_signed()])
            .map(drop)
    }

    /// Notes what a file that was being written is now. It may go on being written after another
    /// [`WriteTxn::begin_write`].
    pub fn end_write(&self, ino: Ino, size: u64, mtime_ns: i64, ctime_ns: i64) -> Result<(), StateError> {
        let Some(node) = self.node(ino)? else {
            return Err(Refusal::NotFound.into());
        };
        self.run(
            "UPDATE inode SET size = ?2, mtime_ns = ?3, ctime_ns = max(ctime_ns, ?4), writing = 0 WHERE ino = ?1",
            (as_i64(ino.0), as_i64(size), mtime_ns, ctime_ns),
        )?;
        self.count(Delta::of(node.kind, 0, as_i64(size) - as_i64(node.size)));
        self.change(ino)?;
        let parent = self.parent_of(ino)?;
        if let Some((parent, name)) = parent {
            self.log(ctime_ns / 1_000_000, ChangeKind::Content, ino, parent, &name)?;
        }
        Ok(())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], now_ns: i64) -> Result<(), StateError> {
        self.run(
            "INSERT OR REPLACE INTO xattr (ino, name, value) VALUES (?1, ?2, ?3)",
            (as_i64(ino.0), name, value),
        )?;
        self.run("UPDATE inode SET ctime_ns = ?2 WHERE ino = ?1", (as_i64(ino.0), now_ns))?;
        self.touch_node(ino);
        Ok(())
    }

    /// Removes an extended attribute; says whether it was there.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8], now_ns: i64) -> Result<bool, StateError> {
        let removed = self.run("DELETE FROM xattr WHERE ino = ?1 AND name = ?2", (as_i64(ino.0), name))?;
        self.run("UPDATE inode SET ctime_ns = ?2 WHERE ino = ?1", (as_i64(ino.0), now_ns))?;
        self.touch_node(ino);
        Ok(removed == 1)
    }
}
