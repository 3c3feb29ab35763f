//! What is done to names and attributes here: the file system's own operations, as rows.
//!
//! Refuses to know: where bytes are kept, zones, the kernel. Invariants: an entry that the site has, and that is removed,
//! moved or replaced here, leaves a shadow with its version, so that a listing does not bring it back and a publish knows
//! what it replaces; what has no name any more keeps its row until nobody has it open.

use super::StateError;
use super::error::{Db, Refusal};
use super::listing::{OWN_MTIME, OWN_PERM};
use super::node::{ChangeKind, Node, as_i64, count_at, ino_at, kind_at, kind_code, name_at, version_at};
use super::read::ReadTxn;
use super::write::{Delta, WriteTxn};
use crate::model::{EntryKind, Ino, Name, RelPath, Version};

/// Names that a file may have: ext4's limit.
const LINK_MAX: u32 = 65_000;
/// `listed_epoch` of folders that no scan visits.
const NEVER_SCANNED: i64 = i64::MAX;

/// An entry to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of a device node.
    pub rdev: u32,
    /// Target, of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// The object that will hold a file's bytes. The file is being written from the start then.
    pub object: Option<u64>,
}

/// A name that was taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removed {
    /// What it led to.
    pub ino: Ino,
    /// What that is.
    pub kind: EntryKind,
    /// Names that still lead there. A file without one keeps its row until [`WriteTxn::drop_nameless`].
    pub nlink: u32,
    /// What the site has under the name: the version of a file or link; folders have none.
    pub remote: Option<Left>,
}

/// Something that the site has where the drive shows it no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Left {
    /// Where, under the project's remote path.
    pub path: RelPath,
    /// Its version; `None`: a folder.
    pub version: Option<Version>,
}

/// How `rename` treats a target, as `renameat2` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameHow {
    /// It is replaced.
    Replace,
    /// It is an error.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// A name that was moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renamed {
    /// What it leads to.
    pub ino: Ino,
    /// What that is.
    pub kind: EntryKind,
    /// What was replaced, or now has the old name.
    pub other: Option<(Ino, EntryKind)>,
    /// Names that are left of what was replaced.
    pub other_nlink: u32,
    /// What the site still has where the drive shows it no more, the deepest first.
    pub left: Vec<Left>,
    /// Both names led to one file already: nothing was done.
    pub nothing: bool,
}

/// A dirent with what matters of its inode.
pub(super) struct Found {
    pub(super) cookie: u64,
    pub(super) ino: Ino,
    pub(super) kind: EntryKind,
    pub(super) own: bool,
    pub(super) version: Option<Version>,
    pub(super) nlink: u32,
    pub(super) listed: bool,
}

impl ReadTxn<'_> {
    pub(super) fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Found>, StateError> {
        let sql = "SELECT d.cookie, i.ino, i.kind, i.own, i.version, i.nlink, i.listed_at_ms \
                   FROM dirent AS d INDEXED BY dirent_name JOIN inode AS i ON i.ino = d.ino \
                   WHERE d.parent = ?1 AND d.name = ?2";
        self.one(sql, (as_i64(parent.0), name), |row| {
            Ok(Found {
                cookie: count_at(row, 0)?,
                ino: ino_at(row, 1)?,
                kind: kind_at(row, 2)?,
                own: row.get(3).db()?,
                version: version_at(row, 4)?,
                nlink: row.get(5).db()?,
                listed: row.get::<_, Option<i64>>(6).db()?.is_some(),
            })
        })
    }
}

impl WriteTxn<'_> {
    pub(super) fn change(&self, ino: Ino) -> Result<(), StateError> {
        let id = as_i64(self.new_id());
        self.run("UPDATE inode SET changed_id = ?2 WHERE ino = ?1", (as_i64(ino.0), id))?;
        self.touch_node(ino);
        Ok(())
    }

    /// Notes that a folder's entries changed.
    fn changed_folder(&self, dir: Ino, now_ns: i64) -> Result<(), StateError> {
        self.run(
            "UPDATE inode SET mtime_ns = ?2, ctime_ns = ?2, attrs_own = attrs_own | ?3 WHERE ino = ?1",
            (as_i64(dir.0), now_ns, OWN_MTIME),
        )?;
        self.touch_node(dir);
        Ok(())
    }

    fn add_dirent(&self, parent: Ino, name: &Name, ino: Ino) -> Result<(), StateError> {
        let cookie = self.new_id();
        self.run(
            "INSERT INTO dirent (parent, cookie, name, ino) VALUES (?1, ?2, ?3, ?4)",
            (as_i64(parent.0), as_i64(cookie), name.as_bytes(), as_i64(ino.0)),
        )?;
        self.touch_name(parent, name);
        Ok(())
    }

    fn drop_dirent(&self, parent: Ino, name: &Name, cookie: u64) -> Result<(), StateError> {
        self.run(
            "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2",
            (as_i64(parent.0), as_i64(cookie)),
        )?;
        self.touch_name(parent, name);
        Ok(())
    }

    /// Notes what the site has under a name where the drive shows something of its own, or nothing.
    pub(super) fn put_shadow(
        &self,
        parent: Ino,
        name: &Name,
        kind: EntryKind,
        version: Option<&Version>,
    ) -> Result<(), StateError> {
        let version = version.map_or("", |version| version.as_str());
        let id = as_i64(self.new_id());
        self.run(
            "INSERT OR REPLACE INTO shadow (parent, name, kind, version, changed_id) VALUES (?1, ?2, ?3, ?4, ?5)",
            (as_i64(parent.0), name.as_bytes(), kind_code(kind), version, id),
        )?;
        Ok(())
    }

    /// Notes whose bytes those are that the site has under a name.
    pub(super) fn note_sent(&self, at: (Ino, &Name), ino: Ino, generation: u64) -> Result<(), StateError> {
        self.run(
            "UPDATE shadow SET sent_ino = ?3, sent_gen = ?4 WHERE parent = ?1 AND name = ?2",
            (as_i64(at.0.0), at.1.as_bytes(), as_i64(ino.0), as_i64(generation)),
        )?;
        Ok(())
    }

    pub(super) fn drop_shadow(&self, parent: Ino, name: &Name) -> Result<(), StateError> {
        self.run(
            "DELETE FROM shadow WHERE parent = ?1 AND name = ?2",
            (as_i64(parent.0), name.as_bytes()),
        )?;
        Ok(())
    }

    fn live_folder(&self, dir: Ino) -> Result<super::listing::Folder, StateError> {
        let missing = |e: &StateError| matches!(e, StateError::NoSuchNode(_)).then_some(Refusal::NotFound);
        let no_folder = |e: &StateError| matches!(e, StateError::NotAFolder(_)).then_some(Refusal::NotDir);
        self.folder(dir)
            .map_err(|e| missing(&e).or(no_folder(&e)).map_or(e, StateError::from))
    }

    /// Makes an entry of this machine's own.
    pub fn create(&self, parent: Ino, name: &Name, new: &NewEntry, now_ns: i64) -> Result<Node, StateError> {
        let folder = self.live_folder(parent)?;
        if self.dirent(parent, name)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        let ino = Ino(self.new_id());
        let is_dir = new.kind == EntryKind::Dir;
        let size = new.target.as_ref().map_or(0, Vec::len) as u64;
        self.run(
            "INSERT INTO inode (ino, kind, size, mtime_ns, ctime_ns, atime_ns, btime_ns, perm, uid, gid, rdev, target, \
               project, listed_at_ms, listed_epoch, own, changed_id, object, gen, writing) \
             VALUES (?1, ?2, ?3, ?4, ?4, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 1, ?1, ?13, ?14, ?14)",
            rusqlite::params![
                as_i64(ino.0),
                kind_code(new.kind),
                as_i64(size),
                now_ns,
                new.perm,
                new.uid,
                new.gid,
                new.rdev,
                new.target.as_deref(),
                is_dir.then(|| as_i64(folder.project.0)),
                is_dir.then_some(now_ns / 1_000_000),
                if is_dir { NEVER_SCANNED } else { 0 },
                new.object.map(u64::cast_signed),
                i64::from(new.object.is_some()),
            ],
        )?;
        self.add_dirent(parent, name, ino)?;
        self.changed_folder(parent, now_ns)?;
        self.count(Delta::of(
            new.kind,
            1,
            as_i64(if new.kind == EntryKind::File { size } else { 0 }),
        ));
        self.log(now_ns / 1_000_000, ChangeKind::Added, ino, parent, name)?;
        self.node(ino)?.ok_or(StateError::NoSuchNode(ino))
    }

    /// Makes a mirror this machine's own, name by name in front of what the site has. A file's bytes stay at the site.
    pub(super) fn make_own(&self, ino: Ino) -> Result<(), StateError> {
        let node = self.node(ino)?.ok_or(Refusal::NotFound)?;
        if node.own {
            return Ok(());
        }
        for (parent, name) in self.names_of(ino)? {
            self.put_shadow(parent, &name, node.kind, node.version.as_ref())?;
            if node.kind == EntryKind::File {
                // Until somebody writes, the site has the bytes of this generation there.
                self.note_sent((parent, &name), ino, node.generation)?;
            }
        }
        if node.kind == EntryKind::Dir {
            return self.become_own_folder(ino);
        }
        let origin = match (&node.version, self.project_of(ino)?) {
            (Some(version), Some((_, path))) if node.kind == EntryKind::File && node.size > 0 => {
                Some((path, version.clone()))
            }
            _ => None,
        };
        self.run(
            "UPDATE inode SET own = 1, version = NULL, origin = ?2, origin_version = ?3 WHERE ino = ?1",
            (
                as_i64(ino.0),
                origin.as_ref().map(|(path, _)| path.as_bytes()),
                origin.as_ref().map(|(_, version)| version.as_str()),
            ),
        )?;
        self.change(ino)
    }

    /// Makes a folder this machine's own: no scan visits it.
    pub(super) fn become_own_folder(&self, ino: Ino) -> Result<(), StateError> {
        self.run(
            "UPDATE inode SET own = 1, listed_epoch = ?2, \
             listed_at_ms = ifnull(listed_at_ms, ctime_ns / 1000000) WHERE ino = ?1",
            (as_i64(ino.0), NEVER_SCANNED),
        )?;
        self.change(ino)
    }

    /// Makes a folder that was made here a mirror: the site has it by now. The next scan visits it.
    pub(super) fn become_mirror_folder(&self, ino: Ino) -> Result<(), StateError> {
        self.run(
            "UPDATE inode SET own = 0, listed_epoch = 0, attrs_own = ?2 WHERE ino = ?1 AND kind = 1",
            (as_i64(ino.0), OWN_PERM | OWN_MTIME),
        )?;
        self.change(ino)
    }

    /// Adds a name for a file.
    pub fn link(&self, ino: Ino, parent: Ino, name: &Name, now_ns: i64) -> Result<Node, StateError> {
        self.live_folder(parent)?;
        let node = self.node(ino)?.filter(|node| node.nlink > 0).ok_or(Refusal::NotFound)?;
        if node.kind == EntryKind::Dir {
            return Err(Refusal::IsDir.into());
        }
        if self.dirent(parent, name)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        if node.nlink >= LINK_MAX {
            return Err(Refusal::TooManyLinks.into());
        }
        self.make_own(ino)?;
        self.add_dirent(parent, name, ino)?;
        self.run(
            "UPDATE inode SET nlink = nlink + 1, ctime_ns = ?2 WHERE ino = ?1",
            (as_i64(ino.0), now_ns),
        )?;
        self.change(ino)?;
        self.changed_folder(parent, now_ns)?;
        self.log(now_ns / 1_000_000, ChangeKind::Added, ino, parent, name)?;
        self.node(ino)?.ok_or(StateError::NoSuchNode(ino))
    }

    /// Returns where, under the project's remote path, a name is.
    fn remote_path(&self, parent: Ino, name: &Name) -> Result<RelPath, StateError> {
        let (_, dir) = self.project_of(parent)?.ok_or(StateError::NotAFolder(parent))?;
        Ok(dir.join(name))
    }

    /// Puts a shadow where a mirror had a name, and returns what the site has there, if anything.
    fn leave(&self, parent: Ino, name: &Name, found: &Found) -> Result<Option<Left>, StateError> {
        let version = if found.own {
            match self.shadow_of(parent, name)? {
                Some((EntryKind::Dir, _)) => None,
                Some((_, version)) if !version.as_str().is_empty() => Some(version),
                _ => return Ok(None),
            }
        } else {
            self.put_shadow(parent, name, found.kind, found.version.as_ref())?;
            found.version.clone().filter(|_| found.kind != EntryKind::Dir)
        };
        let path = self.remote_path(parent, name)?;
        Ok(Some(Left { path, version }))
    }

    /// Notes that the site may have a folder, put there by this machine, where none is shown any more.
    pub fn leave_folder(&self, parent: Ino, name: &Name) -> Result<(), StateError> {
        self.put_shadow(parent, name, EntryKind::Dir, None)
    }

    /// Takes one name from a file; the last one leaves it nameless.
    fn unname(&self, ino: Ino, now_ns: i64) -> Result<(), StateError> {
        self.run(
            "UPDATE inode SET nlink = nlink - 1, ctime_ns = ?2 WHERE ino = ?1",
            (as_i64(ino.0), now_ns),
        )?;
        self.change(ino)?;
        self.mirror_if_sent(ino)
    }

    /// Removes a name of a file, link or node. With `keep_remote`, one that the site has is refused.
    pub fn unlink(&self, parent: Ino, name: &Name, keep_remote: bool, now_ns: i64) -> Result<Removed, StateError> {
        let found = self.dirent(parent, name)?.ok_or(Refusal::NotFound)?;
        if found.kind == EntryKind::Dir {
            return Err(Refusal::IsDir.into());
        }
        let at_site = !found.own || self.base_of(parent, name)?.is_some();
        if keep_remote && at_site {
            return Err(Refusal::AtRemote.into());
        }
        let remote = self.leave(parent, name, &found)?;
        self.drop_dirent(parent, name, found.cookie)?;
        self.unname(found.ino, now_ns)?;
        self.changed_folder(parent, now_ns)?;
        self.log(now_ns / 1_000_000, ChangeKind::Removed, found.ino, parent, name)?;
        Ok(Removed {
            ino: found.ino,
            kind: found.kind,
            nlink: found.nlink.saturating_sub(1),
            remote,
        })
    }

    /// Removes an empty folder. With `keep_remote`, one that the site has is refused.
    pub fn rmdir(&self, parent: Ino, name: &Name, keep_remote: bool, now_ns: i64) -> Result<Removed, StateError> {
        let found = self.dirent(parent, name)?.ok_or(Refusal::NotFound)?;
        if found.kind != EntryKind::Dir {
            return Err(Refusal::NotDir.into());
        }
        self.check_empty(&found)?;
        if keep_remote && !found.own {
            return Err(Refusal::AtRemote.into());
        }
        let remote = self.leave(parent, name, &found)?;
        self.drop_dirent(parent, name, found.cookie)?;
        self.drop_own_folder(found.ino)?;
        self.changed_folder(parent, now_ns)?;
        self.log(now_ns / 1_000_000, ChangeKind::Removed, found.ino, parent, name)?;
        Ok(Removed {
            ino: found.ino,
            kind: found.kind,
            nlink: 0,
            remote,
        })
    }

    fn check_empty(&self, found: &Found) -> Result<(), StateError> {
        if !found.own && !found.listed {
            return Err(Refusal::NotListed.into());
        }
        if !self.children(found.ino, 0, 1)?.is_empty() {
            return Err(Refusal::NotEmpty.into());
        }
        Ok(())
    }

    fn drop_own_folder(&self, ino: Ino) -> Result<(), StateError> {
        for sql in [
            "DELETE FROM inode WHERE ino = ?1",
            "DELETE FROM shadow WHERE parent = ?1",
            "DELETE FROM xattr WHERE ino = ?1",
        ] {
            self.run(sql, [as_i64(ino.0)])?;
        }
        self.touch_node(ino);
        self.count(Delta::of(EntryKind::Dir, -1, 0));
        Ok(())
    }

    /// Forgets a file that has no name and that nobody has open; its object becomes trash, and its number is returned.
    /// A file that has a name is left alone.
    pub fn drop_nameless(&self, ino: Ino) -> Result<Option<u64>, StateError> {
        let Some(node) = self.node(ino)?.filter(|node| node.nlink == 0) else {
            return Ok(None);
        };
        for sql in [
            "DELETE FROM inode WHERE ino = ?1",
            "DELETE FROM xattr WHERE ino = ?1",
            "DELETE FROM conflict WHERE ino = ?1",
        ] {
            self.run(sql, [as_i64(ino.0)])?;
        }
        self.touch_node(ino);
        let bytes = if node.kind == EntryKind::File { node.size } else { 0 };
        self.count(Delta::of(node.kind, -1, -as_i64(bytes)));
        self.discard(node.object)?;
        Ok(node.object)
    }

    /// Notes that an object is needed no more.
    pub(super) fn discard(&self, object: Option<u64>) -> Result<(), StateError> {
        if let Some(object) = object {
            self.run("INSERT OR IGNORE INTO trash VALUES (?1)", [object.cast_signed()])?;
        }
        Ok(())
    }

    /// Notes that the files of objects are gone.
    pub fn trash_emptied(&self, objects: &[u64]) -> Result<(), StateError> {
        for object in objects {
            self.run("DELETE FROM trash WHERE object = ?1", [object.cast_signed()])?;
        }
        Ok(())
    }

    /// Moves a name.
    pub fn rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        how: RenameHow,
        now_ns: i64,
    ) -> Result<Renamed, StateError> {
        let source = self.dirent(from.0, from.1)?.ok_or(Refusal::NotFound)?;
        let target_folder = self.live_folder(to.0)?;
        let target = self.dirent(to.0, to.1)?;
        let mut renamed = Renamed {
            ino: source.ino,
            kind: source.kind,
            other: target.as_ref().map(|target| (target.ino, target.kind)),
            other_nlink: 0,
            left: Vec::new(),
            nothing: false,
        };
        match (&target, how) {
            (Some(_), RenameHow::NoReplace) => return Err(Refusal::Exists.into()),
            (None, RenameHow::Exchange) => return Err(Refusal::NotFound.into()),
            _ => {}
        }
        if source.kind == EntryKind::Dir && self.lies_in(to.0, source.ino)? {
            return Err(Refusal::Loop.into());
        }
        let Some(target) = target else {
            self.take_away(from, &source, &mut renamed.left)?;
            self.put(from, to, &source, &target_folder, now_ns)?;
            return Ok(renamed);
        };
        if target.ino == source.ino {
            renamed.nothing = true;
            return Ok(renamed);
        }
        if how == RenameHow::Exchange {
            if target.kind == EntryKind::Dir && self.lies_in(from.0, target.ino)? {
                return Err(Refusal::Loop.into());
            }
            self.exchange(from, &source, to, &target, &mut renamed.left, now_ns)?;
            renamed.other_nlink = target.nlink;
            return Ok(renamed);
        }
        match (source.kind == EntryKind::Dir, target.kind == EntryKind::Dir) {
            (true, false) => return Err(Refusal::NotDir.into()),
            (false, true) => return Err(Refusal::IsDir.into()),
            (true, true) => self.check_empty(&target)?,
            (false, false) => {}
        }
        // What the site has under the target's name is replaced by a publish, not left.
        drop(self.leave(to.0, to.1, &target)?);
        self.drop_dirent(to.0, to.1, target.cookie)?;
        if target.kind == EntryKind::Dir {
            self.drop_own_folder(target.ino)?;
        } else {
            self.unname(target.ino, now_ns)?;
            renamed.other_nlink = target.nlink.saturating_sub(1);
        }
        self.log(now_ns / 1_000_000, ChangeKind::Removed, target.ino, to.0, to.1)?;
        self.take_away(from, &source, &mut renamed.left)?;
        self.put(from, to, &source, &target_folder, now_ns)?;
        Ok(renamed)
    }

    /// Makes what is about to leave its place this machine's own, and notes what the site has there.
    fn take_away(&self, from: (Ino, &Name), source: &Found, left: &mut Vec<Left>) -> Result<(), StateError> {
        if source.kind == EntryKind::Dir {
            let path = self.remote_path(from.0, from.1)?;
            self.make_tree_own(source.ino, &path, left)?;
            if source.own {
                return Ok(());
            }
            self.put_shadow(from.0, from.1, EntryKind::Dir, None)?;
            left.push(Left { path, version: None });
            return Ok(());
        }
        if !source.own {
            // First, while its path is still that of the site.
            self.make_own(source.ino)?;
        }
        if source.kind != EntryKind::Dir {
            let own = Found {
                own: true,
                version: None,
                ..*source
            };
            left.extend(self.leave(from.0, from.1, &own)?);
        }
        Ok(())
    }

    /// Makes all below a folder this machine's own; what is at the site is noted, the deepest first. What is known to lie
    /// behind names of the folder is true of the place that it leaves, not of where it goes.
    fn make_tree_own(&self, dir: Ino, path: &RelPath, left: &mut Vec<Left>) -> Result<(), StateError> {
        let node = self.node(dir)?.ok_or(Refusal::NotFound)?;
        if !node.own && node.listed_at_ms.is_none() {
            return Err(Refusal::NotListed.into());
        }
        let sql = "SELECT name, kind, version FROM shadow WHERE parent = ?1 AND version <> ''";
        let shadows = self.many(sql, [as_i64(dir.0)], |row| Ok((name_at(row, 0)?, version_at(row, 2)?)))?;
        left.extend(shadows.into_iter().map(|(name, version)| Left {
            path: path.join(&name),
            version,
        }));
        self.run("DELETE FROM shadow WHERE parent = ?1", [as_i64(dir.0)])?;
        for child in self.children(dir, 0, usize::MAX)? {
            let below = path.join(&child.name);
            if child.node.kind == EntryKind::Dir {
                self.make_tree_own(child.node.ino, &below, left)?;
                if !child.node.own {
                    left.push(Left {
                        path: below,
                        version: None,
                    });
                }
                continue;
            }
            if child.node.own {
                continue;
            }
            let has_bytes = child.node.kind == EntryKind::File && child.node.size > 0;
            let origin = child.node.version.as_ref().filter(|_| has_bytes);
            self.run(
                "UPDATE inode SET own = 1, version = NULL, origin = ?2, origin_version = ?3 WHERE ino = ?1",
                (
                    as_i64(child.node.ino.0),
                    origin.map(|_| below.as_bytes()),
                    origin.map(|version| version.as_str()),
                ),
            )?;
            self.change(child.node.ino)?;
            left.push(Left {
                path: below,
                version: child.node.version,
            });
        }
        if node.own {
            return Ok(());
        }
        self.become_own_folder(dir)
    }

    /// Gives a node that has left its place a new one.
    fn put(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        source: &Found,
        folder: &super::listing::Folder,
        now_ns: i64,
    ) -> Result<(), StateError> {
        self.drop_dirent(from.0, from.1, source.cookie)?;
        self.add_dirent(to.0, to.1, source.ino)?;
        self.run(
            "UPDATE inode SET ctime_ns = ?2 WHERE ino = ?1",
            (as_i64(source.ino.0), now_ns),
        )?;
        self.change(source.ino)?;
        self.changed_folder(from.0, now_ns)?;
        if folder.ino != from.0 {
            self.changed_folder(to.0, now_ns)?;
        }
        self.log(now_ns / 1_000_000, ChangeKind::Moved, source.ino, to.0, to.1)
    }

    fn exchange(
        &self,
        from: (Ino, &Name),
        source: &Found,
        to: (Ino, &Name),
        target: &Found,
        left: &mut Vec<Left>,
        now_ns: i64,
    ) -> Result<(), StateError> {
        // Both names stay in use: what the site has under them is replaced, not left, but for what lies in folders.
        let mut replaced = Vec::new();
        self.take_away(from, source, &mut replaced)?;
        self.take_away(to, target, &mut replaced)?;
        let folders = source.kind == EntryKind::Dir || target.kind == EntryKind::Dir;
        if folders {
            left.append(&mut replaced);
        }
        for (place, cookie, ino) in [(from, source.cookie, target.ino), (to, target.cookie, source.ino)] {
            self.run(
                "UPDATE dirent SET ino = ?3 WHERE parent = ?1 AND cookie = ?2",
                (as_i64(place.0.0), as_i64(cookie), as_i64(ino.0)),
            )?;
            self.touch_name(place.0, place.1);
            self.run("UPDATE inode SET ctime_ns = ?2 WHERE ino = ?1", (as_i64(ino.0), now_ns))?;
            self.change(ino)?;
            self.changed_folder(place.0, now_ns)?;
            self.log(now_ns / 1_000_000, ChangeKind::Moved, ino, place.0, place.1)?;
        }
        Ok(())
    }
}
