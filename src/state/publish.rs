//! What reached the site, and what the site had instead: an own file becomes a mirror, or a conflict.
//!
//! Refuses to know: how bytes travel, the queue. Invariant: what was sent counts only for the generation that was sent, but
//! its version is from then on what the site has under that name: our own upload is never a stranger's.

use super::StateError;
use super::edit::Left;
use super::error::Db;
use super::listing::{OWN_MTIME, OWN_PERM};
use super::node::{ChangeKind, Node, as_i64, count_at, ino_at, name_at, version_at};
use super::read::ReadTxn;
use super::write::WriteTxn;
use crate::model::{EntryKind, Ino, Name, RelPath, Version};

/// A file of which a generation reached the site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentFile {
    /// The file.
    pub ino: Ino,
    /// The generation that was sent.
    pub generation: u64,
    /// It stays this machine's own all the same: somebody may still write to it unseen.
    pub stays_own: bool,
}

/// What became of a file whose bytes reached the site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landed {
    /// It is a mirror now, and its object is trash: take over what is wanted of it first.
    Mirror {
        /// The object that held its bytes.
        object: Option<u64>,
    },
    /// It was written again meanwhile, or has several names, or was to stay: it is still this machine's own.
    StaysOwn,
    /// The name leads elsewhere now, or nowhere: the site has what the drive does not show there.
    NameGone,
}

/// A file of which the site and this machine have different successors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Our file.
    pub ino: Ino,
    /// Its folder.
    pub parent: Ino,
    /// The name that both want; the site's file has it.
    pub name: Name,
    /// The site's version when it was noticed.
    pub theirs: Version,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
}

/// A name of a file of this machine's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnName {
    /// The file.
    pub ino: Ino,
    /// Its folder.
    pub parent: Ino,
    /// Its name there.
    pub name: Name,
    /// Length in bytes, as last closed.
    pub size: u64,
    /// It is being written.
    pub writing: bool,
    /// The object that holds its bytes.
    pub object: Option<u64>,
    /// Its names.
    pub nlink: u32,
}

impl ReadTxn<'_> {
    /// Shows all names of all files of this machine's own, one after the other: there may be many.
    pub fn each_own_name(&self, mut each: impl FnMut(OwnName) -> Result<(), StateError>) -> Result<(), StateError> {
        let sql = "SELECT i.ino, d.parent, d.name, i.size, i.writing, i.object, i.nlink \
                   FROM inode AS i INDEXED BY inode_own CROSS JOIN dirent AS d INDEXED BY dirent_ino ON d.ino = i.ino \
                   WHERE i.own = 1 AND i.kind = 0";
        let mut statement = self.conn.prepare_cached(sql).db()?;
        let mut rows = statement.query([]).db()?;
        while let Some(row) = rows.next().db()? {
            each(OwnName {
                ino: ino_at(row, 0)?,
                parent: ino_at(row, 1)?,
                name: name_at(row, 2)?,
                size: count_at(row, 3)?,
                writing: row.get(4).db()?,
                object: row.get::<_, Option<i64>>(5).db()?.map(i64::cast_unsigned),
                nlink: row.get(6).db()?,
            })?;
        }
        Ok(())
    }

    /// Returns all conflicts, the oldest first.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, StateError> {
        let sql = "SELECT ino, parent, name, theirs, at_ms FROM conflict ORDER BY at_ms, ino";
        self.many(sql, [], |row| {
            Ok(Conflict {
                ino: ino_at(row, 0)?,
                parent: ino_at(row, 1)?,
                name: name_at(row, 2)?,
                theirs: version_at(row, 3)?.unwrap_or_else(|| Version::new("")),
                at_ms: row.get(4).db()?,
            })
        })
    }

    /// Returns the conflicts that nobody has settled, the oldest first: ours is there, and under another name than the one
    /// that both want.
    pub fn unsettled(&self) -> Result<Vec<Conflict>, StateError> {
        let mut unsettled = Vec::new();
        for conflict in self.conflicts()? {
            let names = self.names_of(conflict.ino)?;
            let has_wanted = |(parent, name): &(Ino, Name)| *parent == conflict.parent && *name == conflict.name;
            if !names.is_empty() && !names.iter().any(has_wanted) {
                unsettled.push(conflict);
            }
        }
        Ok(unsettled)
    }

    /// Says whether a file is our side of a conflict.
    pub fn is_conflict(&self, ino: Ino) -> Result<bool, StateError> {
        let sql = "SELECT 1 FROM conflict WHERE ino = ?1";
        Ok(self.one(sql, [as_i64(ino.0)], |_| Ok(()))?.is_some())
    }
}

/// Says whether a node is a mirror of just this version.
fn is_just(node: &Node, version: &Version) -> bool {
    !node.own && node.kind == EntryKind::File && node.version.as_ref() == Some(version)
}

impl ReadTxn<'_> {
    /// Returns the folder that a path below a project's folder ends in, and the last name; `None` where no folder is.
    pub fn place(&self, root: Ino, path: &RelPath) -> Result<Option<(Ino, Name)>, StateError> {
        let Some((dir, name)) = path.split_last() else {
            return Ok(None);
        };
        let mut parent = root;
        for component in dir.components() {
            match self.lookup(parent, component)? {
                Some(node) if node.kind == EntryKind::Dir => parent = node.ino,
                Some(_) | None => return Ok(None),
            }
        }
        Ok(Some((parent, name)))
    }
}

impl WriteTxn<'_> {
    /// Notes that a generation of a file is at the site under a name of the drive.
    ///
    /// `path` is where, under the project's remote path.
    pub fn landed(
        &self,
        root: Ino,
        at: (Ino, &Name),
        path: &RelPath,
        sent: SentFile,
        version: &Version,
    ) -> Result<Landed, StateError> {
        let (parent, name) = at;
        let (ino, generation) = (sent.ino, sent.generation);
        let here = self.lookup(parent, name)?.filter(|node| node.ino == ino && node.own);
        let same_place = match self.project_of(parent)? {
            Some((project, dir)) => project.root == root && dir.join(name) == *path,
            None => false,
        };
        let Some(node) = here.filter(|_| same_place) else {
            self.is_at_site(root, path, version)?;
            return Ok(Landed::NameGone);
        };
        self.folders_are_at_site(parent)?;
        if node.generation != generation || node.writing || node.nlink != 1 || sent.stays_own {
            self.put_shadow(parent, name, EntryKind::File, Some(version))?;
            self.note_sent(at, ino, generation)?;
            return Ok(Landed::StaysOwn);
        }
        self.become_mirror(ino, at, version)?;
        Ok(Landed::Mirror { object: node.object })
    }

    /// Makes an own file a mirror of what the site has under its only name. Its object becomes trash.
    fn become_mirror(&self, ino: Ino, at: (Ino, &Name), version: &Version) -> Result<(), StateError> {
        self.drop_shadow(at.0, at.1)?;
        let object = self.node(ino)?.and_then(|node| node.object);
        let id = as_i64(self.new_id());
        // The site may keep coarser times and other bits; ours stay for as long as the bytes do.
        self.run(
            "UPDATE inode SET own = 0, version = ?2, object = NULL, origin = NULL, origin_version = NULL, \
             attrs_own = ?3, changed_id = ?4 WHERE ino = ?1",
            (as_i64(ino.0), version.as_str(), OWN_PERM | OWN_MTIME, id),
        )?;
        self.touch_node(ino);
        self.discard(object)
    }

    /// Makes an own file that lost all names but one a mirror, if it is at the site under that.
    pub(super) fn mirror_if_sent(&self, ino: Ino) -> Result<(), StateError> {
        let node = self.node(ino)?;
        let Some(node) =
            node.filter(|node| node.own && node.nlink == 1 && node.kind == EntryKind::File && !node.writing)
        else {
            return Ok(());
        };
        let Some((parent, name)) = self.parent_of(ino)? else {
            return Ok(());
        };
        if !self.is_sent(parent, &name, ino, node.generation)? || self.task_of(parent, &name)?.is_some() {
            return Ok(());
        }
        match self.shadow_of(parent, &name)? {
            Some((EntryKind::File, version)) if !version.as_str().is_empty() => {
                self.become_mirror(ino, (parent, &name), &version)
            }
            _ => Ok(()),
        }
    }

    /// Notes what is at a path of a project's site, put there by this machine: whatever the drive shows there is in front
    /// of it. Says whether the drive shows nothing there, or just that: a listing may have been faster than the note.
    pub fn is_at_site(&self, root: Ino, path: &RelPath, version: &Version) -> Result<bool, StateError> {
        // A folder that is gone from the drive is shown again by a listing, with what is in it.
        let Some((parent, name)) = self.place(root, path)? else {
            return Ok(true);
        };
        let shown = self.lookup(parent, &name)?;
        // A listing may have been faster.
        if shown.as_ref().is_none_or(|node| node.own) {
            self.put_shadow(parent, &name, EntryKind::File, Some(version))?;
        }
        Ok(shown.is_none_or(|node| is_just(&node, version)))
    }

    /// Notes that the site has nothing of ours under a path any more: what is found there later is news.
    pub fn is_gone_from_site(&self, root: Ino, path: &RelPath, kind: EntryKind) -> Result<(), StateError> {
        let Some((parent, name)) = self.place(root, path)? else {
            return Ok(());
        };
        if self.shadow_of(parent, &name)?.is_none() {
            return Ok(());
        }
        // Not removed: a listing that began before would bring the name back.
        let kind = if kind == EntryKind::Dir {
            EntryKind::Symlink
        } else {
            kind
        };
        self.put_shadow(parent, &name, kind, None)
    }

    /// Takes back the removal of a path that a name of the drive leads to again: what was to be removed there is what the
    /// name's file replaces.
    pub fn replaces_left(&self, root: Ino, at: (Ino, &Name), path: &RelPath) -> Result<(), StateError> {
        let Some(task) = self.delete_of(root, path)? else {
            return Ok(());
        };
        self.cancel_delete(root, path)?;
        match &task.version {
            Some(version) => self.lies_behind(at, version),
            None => Ok(()),
        }
    }

    /// Notes what the site has behind an own file, unless that is known.
    pub fn lies_behind(&self, at: (Ino, &Name), version: &Version) -> Result<(), StateError> {
        let (parent, name) = at;
        let is_own = self.lookup(parent, name)?.is_some_and(|node| node.own);
        if is_own && self.shadow_of(parent, name)?.is_none() {
            self.put_shadow(parent, name, EntryKind::File, Some(version))?;
        }
        Ok(())
    }

    /// Says whether the drive shows something again where the site has what was left there; notes what then lies behind it.
    pub fn is_covered(&self, root: Ino, left: &Left) -> Result<bool, StateError> {
        let Some((parent, name)) = self.place(root, &left.path)? else {
            return Ok(false);
        };
        // What a listing found there before it was known to be ours is what is to go.
        let shown = self.lookup(parent, &name)?;
        let is_left = |node: &Node| left.version.as_ref().is_some_and(|version| is_just(node, version));
        let is_shown = shown.is_some_and(|node| !is_left(&node));
        if let (true, Some(version)) = (is_shown, &left.version) {
            self.lies_behind((parent, &name), version)?;
        }
        Ok(is_shown)
    }

    /// Shows again what the site has under a path, at its next listing.
    pub fn unhide(&self, root: Ino, path: &RelPath) -> Result<(), StateError> {
        let Some((parent, name)) = self.place(root, path)? else {
            return Ok(());
        };
        if self.lookup(parent, &name)?.is_none() {
            self.drop_shadow(parent, &name)?;
        }
        Ok(())
    }

    /// Notes that the site has the folder that the drive shows at a path; `false` if it shows none.
    pub fn folder_is_at_site(&self, root: Ino, path: &RelPath) -> Result<bool, StateError> {
        let Some((parent, name)) = self.place(root, path)? else {
            return Ok(false);
        };
        match self.lookup(parent, &name)? {
            Some(node) if node.kind == EntryKind::Dir => self.folders_are_at_site(node.ino).map(|()| true),
            Some(_) | None => Ok(false),
        }
    }

    fn folders_are_at_site(&self, dir: Ino) -> Result<(), StateError> {
        let mut at = dir;
        loop {
            let Some(node) = self.node(at)? else { return Ok(()) };
            if !node.own {
                return Ok(());
            }
            self.become_mirror_folder(at)?;
            // One by that name was to be removed: it is in use again.
            if let Some((project, path)) = self.project_of(at)? {
                self.cancel_delete(project.root, &path)?;
            }
            let Some((parent, name)) = self.parent_of(at)? else {
                return Ok(());
            };
            self.drop_shadow(parent, &name)?;
            at = parent;
        }
    }

    /// Gives our file another name beside that of the site's, which is shown again at the next look at it.
    pub fn put_aside(
        &self,
        at: (Ino, &Name),
        ino: Ino,
        aside: &Name,
        theirs: &Version,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (parent, name) = at;
        self.rename(
            at,
            (parent, aside),
            super::RenameHow::NoReplace,
            now_ms.saturating_mul(1_000_000),
        )?;
        self.drop_shadow(parent, name)?;
        self.run(
            "INSERT OR REPLACE INTO conflict (ino, parent, name, theirs, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            (
                as_i64(ino.0),
                as_i64(parent.0),
                name.as_bytes(),
                theirs.as_str(),
                now_ms,
            ),
        )?;
        self.log(now_ms, ChangeKind::Moved, ino, parent, aside)
    }

    /// Forgets a conflict; says whether there was one.
    pub fn resolved(&self, ino: Ino) -> Result<bool, StateError> {
        Ok(self.run("DELETE FROM conflict WHERE ino = ?1", [as_i64(ino.0)])? == 1)
    }
}
