//! Questions about what is this machine's own: bases, names, objects, extended attributes.
//!
//! Refuses to know: how it came about (edit, content), the queue.

use std::collections::HashSet;

use super::StateError;
use super::error::Db;
use super::node::{Node, as_i64, bytes_at, count_at, ino_at, kind_at, name_at, version_at};
use super::read::ReadTxn;
use crate::model::{EntryKind, Ino, Name, RelPath, Version};

/// An own file below a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnFile {
    /// Its folder.
    pub parent: Ino,
    /// Its name there.
    pub name: Name,
    /// The file.
    pub ino: Ino,
    /// Its path below the folder asked about.
    pub below: RelPath,
    /// Length in bytes, as last closed.
    pub size: u64,
    /// Times that writing began.
    pub generation: u64,
    /// The object that holds its bytes.
    pub object: Option<u64>,
}

impl ReadTxn<'_> {
    /// Returns what the site is known to have under a name where the drive shows something of its own, or nothing: its
    /// kind and version (empty: whatever is found there now is another).
    pub fn shadow_of(&self, parent: Ino, name: &[u8]) -> Result<Option<(EntryKind, Version)>, StateError> {
        let sql = "SELECT kind, version FROM shadow WHERE parent = ?1 AND name = ?2";
        self.one(sql, (as_i64(parent.0), name), |row| {
            Ok((
                kind_at(row, 0)?,
                version_at(row, 1)?.unwrap_or_else(|| Version::new("")),
            ))
        })
    }

    /// Returns what the site is known to have under a name, whatever the drive shows there: the version that a publish
    /// under this name replaces.
    pub fn base_of(&self, parent: Ino, name: &[u8]) -> Result<Option<Version>, StateError> {
        if let Some((_, version)) = self.shadow_of(parent, name)? {
            return Ok(Some(version).filter(|version| !version.as_str().is_empty()));
        }
        let found = self.dirent(parent, name)?;
        Ok(found.filter(|found| !found.own).and_then(|found| found.version))
    }

    /// Says whether the bytes of an own file, of this generation, are at the site under a name: one with several names stays
    /// own though it was sent.
    pub fn is_sent(&self, parent: Ino, name: &[u8], ino: Ino, generation: u64) -> Result<bool, StateError> {
        let sql = "SELECT 1 FROM shadow WHERE parent = ?1 AND name = ?2 AND sent_ino = ?3 AND sent_gen = ?4";
        let found = self.one(sql, (as_i64(parent.0), name, as_i64(ino.0), as_i64(generation)), |_| {
            Ok(())
        })?;
        Ok(found.is_some())
    }

    /// Returns all names of a node.
    pub fn names_of(&self, ino: Ino) -> Result<Vec<(Ino, Name)>, StateError> {
        self.many(
            "SELECT parent, name FROM dirent WHERE ino = ?1 ORDER BY parent, cookie",
            [as_i64(ino.0)],
            |row| Ok((ino_at(row, 0)?, name_at(row, 1)?)),
        )
    }

    /// Says whether `above` is `ino` or a folder that it lies in.
    pub(super) fn lies_in(&self, ino: Ino, above: Ino) -> Result<bool, StateError> {
        let mut at = ino;
        // A path has no more folders than this; a longer chain is damage that others report.
        for _ in 0..4096 {
            if at == above {
                return Ok(true);
            }
            let Some((parent, _)) = self.parent_of(at)? else {
                return Ok(false);
            };
            at = parent;
        }
        Ok(false)
    }

    /// Returns the own regular files below a folder.
    pub fn own_files_below(&self, dir: Ino) -> Result<Vec<OwnFile>, StateError> {
        let mut out = Vec::new();
        let mut folders = vec![(dir, RelPath::root())];
        let sql = "SELECT d.name, i.ino, i.kind, i.own, i.size, i.gen, i.object FROM dirent AS d \
                   CROSS JOIN inode AS i ON i.ino = d.ino WHERE d.parent = ?1";
        while let Some((parent, path)) = folders.pop() {
            let rows = self.many(sql, [as_i64(parent.0)], |row| {
                let object = row.get::<_, Option<i64>>(6).db()?.map(i64::cast_unsigned);
                Ok((
                    (name_at(row, 0)?, ino_at(row, 1)?, kind_at(row, 2)?),
                    (
                        row.get::<_, bool>(3).db()?,
                        count_at(row, 4)?,
                        count_at(row, 5)?,
                        object,
                    ),
                ))
            })?;
            for ((name, ino, kind), (own, size, generation, object)) in rows {
                let below = path.join(&name);
                match kind {
                    EntryKind::Dir => folders.push((ino, below)),
                    EntryKind::File if own => out.push(OwnFile {
                        parent,
                        name,
                        ino,
                        below,
                        size,
                        generation,
                        object,
                    }),
                    EntryKind::File
                    | EntryKind::Symlink
                    | EntryKind::Fifo
                    | EntryKind::Socket
                    | EntryKind::CharDevice
                    | EntryKind::BlockDevice => {}
                }
            }
        }
        Ok(out)
    }

    /// Returns files that were moved here and have their bytes still at a path of a project's site, whichever project's.
    pub fn with_origin(&self, path: &RelPath) -> Result<Vec<Node>, StateError> {
        let sql = "SELECT ino FROM inode INDEXED BY inode_origin WHERE origin = ?1 AND origin IS NOT NULL";
        let inos = self.many(sql, [path.as_bytes()], |row| ino_at(row, 0))?;
        inos.into_iter().filter_map(|ino| self.node(ino).transpose()).collect()
    }

    /// Returns files that were being written, and their objects.
    pub fn being_written(&self) -> Result<Vec<Node>, StateError> {
        let inos = self.many("SELECT ino FROM inode WHERE writing = 1", [], |row| ino_at(row, 0))?;
        inos.into_iter().filter_map(|ino| self.node(ino).transpose()).collect()
    }

    /// Returns files without a name.
    pub fn nameless(&self) -> Result<Vec<Ino>, StateError> {
        self.many("SELECT ino FROM inode WHERE nlink = 0", [], |row| ino_at(row, 0))
    }

    /// Returns objects that nothing needs any more.
    pub fn trash(&self) -> Result<Vec<u64>, StateError> {
        self.many("SELECT object FROM trash", [], |row| {
            Ok(row.get::<_, i64>(0).db()?.cast_unsigned())
        })
    }

    /// Returns objects that may still bear the label of a copy.
    pub fn labelled(&self) -> Result<Vec<u64>, StateError> {
        self.many("SELECT object FROM labelled", [], |row| {
            Ok(row.get::<_, i64>(0).db()?.cast_unsigned())
        })
    }

    /// Returns the objects that hold files' bytes.
    pub fn objects(&self) -> Result<HashSet<u64>, StateError> {
        let sql = "SELECT object FROM inode INDEXED BY inode_object WHERE object IS NOT NULL";
        let objects = self.many(sql, [], |row| Ok(row.get::<_, i64>(0).db()?.cast_unsigned()))?;
        Ok(objects.into_iter().collect())
    }

    /// Returns the value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.one(
            "SELECT value FROM xattr WHERE ino = ?1 AND name = ?2",
            (as_i64(ino.0), name),
            |row| Ok(bytes_at(row, 0)?.unwrap_or_default().to_vec()),
        )
    }

    /// Returns the names of the extended attributes, sorted.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>, StateError> {
        self.many(
            "SELECT name FROM xattr WHERE ino = ?1 ORDER BY name",
            [as_i64(ino.0)],
            |row| Ok(bytes_at(row, 0)?.unwrap_or_default().to_vec()),
        )
    }

    /// Counts own files and their bytes, and names at sites that are out of sight: for `status`.
    pub fn own_counts(&self) -> Result<(u64, u64), StateError> {
        let sql = "SELECT count(*), ifnull(sum(size), 0) FROM inode WHERE own = 1 AND kind = 0 AND nlink > 0";
        Ok(self
            .one(sql, [], |row| Ok((count_at(row, 0)?, count_at(row, 1)?)))?
            .unwrap_or_default())
    }
}
