//! What a remote site shows, applied to the tree: whole listings, single entries, confirmed absences.
//!
//! Refuses to know: how it was learned; callers come here with a *whole* listing or a *confirmed* absence, never with a
//! guess. Invariants: an entry that stays keeps its number and cookie; an entry that is as it was costs no write; what this
//! machine made or changed is left alone, and so is whatever it changed after the look at the site began.

use rusqlite::CachedStatement;

use super::StateError;
use super::error::Db;
use super::node::{
    ChangeKind, ListingDiff, Moment, Remote, as_i64, bytes_at, count_at, ino_at, kind_at, kind_code, name_at, text_at,
};
use super::write::{Delta, WriteTxn};
use crate::model::{EntryKind, Ino, Name};

/// Rows taken at a time from a folder that is dropped.
const DROP_PAGE: usize = 512;

/// An entry as the store has it, borrowed from a row with the columns of [`known_columns`].
struct Known<'r> {
    ino: Ino,
    kind: EntryKind,
    size: u64,
    mtime_ns: i64,
    perm: Option<u16>,
    version: Option<&'r str>,
    target: Option<&'r [u8]>,
    own: bool,
    attrs_own: u8,
    changed: Moment,
}

/// Bits of `inode.attrs_own`: attributes of a mirror that were set here and stay when the site has others.
pub(super) const OWN_PERM: u8 = 1;
/// See [`OWN_PERM`]; a file's ends with its content, a folder's when the site shows that others changed it: what we put
/// there moves the site's time too.
pub(super) const OWN_MTIME: u8 = 2;

macro_rules! known_columns {
    () => {
        "i.ino, i.kind, i.size, i.mtime_ns, i.perm, i.version, i.target, i.own, i.attrs_own, i.changed_id"
    };
}
/// How many columns [`known_at`] takes, from the first.
const KNOWN_WIDTH: usize = 10;

fn known_at<'r>(row: &'r rusqlite::Row<'_>) -> Result<Known<'r>, StateError> {
    Ok(Known {
        ino: ino_at(row, 0)?,
        kind: kind_at(row, 1)?,
        size: count_at(row, 2)?,
        mtime_ns: row.get(3).db()?,
        perm: row.get(4).db()?,
        version: text_at(row, 5)?,
        target: bytes_at(row, 6)?,
        own: row.get(7).db()?,
        attrs_own: row.get(8).db()?,
        changed: Moment(count_at(row, 9)?),
    })
}

/// How an entry differs from what the site shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Difference {
    None,
    Attributes,
    Content,
    Kind,
}

impl Known<'_> {
    fn against(&self, remote: &Remote) -> Difference {
        let content = match self.kind {
            EntryKind::File => self.version != Some(remote.version.as_str()),
            // A site may show links without their targets; the version tells then.
            EntryKind::Symlink => match (&remote.target, self.target) {
                (Some(now), known) => Some(now.as_slice()) != known,
                (None, _) => self.version != Some(remote.version.as_str()),
            },
            EntryKind::Dir | EntryKind::Fifo | EntryKind::Socket | EntryKind::CharDevice | EntryKind::BlockDevice => {
                false
            }
        };
        let version_differs = self.kind != EntryKind::Dir && self.version != Some(remote.version.as_str());
        if self.kind != remote.kind {
            Difference::Kind
        } else if content {
            Difference::Content
        } else if version_differs
            || self.size != stored_size(remote)
            || self.mtime_differs(remote)
            || self.perm_differs(remote)
        {
            Difference::Attributes
        } else {
            Difference::None
        }
    }
}

impl Known<'_> {
    fn mtime_differs(&self, remote: &Remote) -> bool {
        self.attrs_own & OWN_MTIME == 0 && self.mtime_ns != remote.mtime_ns
    }

    fn perm_differs(&self, remote: &Remote) -> bool {
        self.attrs_own & OWN_PERM == 0 && self.perm != remote.perm
    }

    /// Says whether a look at the site that began at a moment has nothing to say about this entry.
    fn is_left_alone(&self, began: Moment) -> bool {
        self.own || self.changed >= began
    }
}

/// What the site is known to have under a name where the drive shows something of its own, or nothing.
struct Shadow<'r> {
    kind: EntryKind,
    version: &'r str,
    changed: Moment,
}

impl Shadow<'_> {
    /// Says whether the site still shows what is shadowed.
    fn is(&self, remote: &Remote) -> bool {
        self.kind == remote.kind && (self.kind == EntryKind::Dir || self.version == remote.version.as_str())
    }
}

/// Sizes beyond 2^63 - 1 are kept as that.
fn stored_size(remote: &Remote) -> u64 {
    remote.size.min(as_i64(u64::MAX).cast_unsigned())
}

fn stored_version(remote: &Remote) -> Option<&str> {
    (remote.kind != EntryKind::Dir).then(|| remote.version.as_str())
}

fn ns(now_ms: i64) -> i64 {
    now_ms.saturating_mul(1_000_000)
}

/// A folder inside a project, as far as applying to it takes.
pub(super) struct Folder {
    pub(super) ino: Ino,
    pub(super) project: Ino,
    pub(super) own: bool,
    listed: bool,
    epoch: u64,
}

/// The statements that put entries into one folder, compiled once.
struct Inserter<'t> {
    txn: &'t WriteTxn<'t>,
    folder: &'t Folder,
    inode: CachedStatement<'t>,
    dirent: CachedStatement<'t>,
}

impl<'t> Inserter<'t> {
    fn new(txn: &'t WriteTxn<'_>, folder: &'t Folder) -> Result<Self, StateError> {
        let inode = "INSERT INTO inode (ino, kind, size, mtime_ns, ctime_ns, perm, version, target, project) \
                     VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8)";
        let dirent = "INSERT INTO dirent (parent, cookie, name, ino) VALUES (?1, ?2, ?3, ?4)";
        let (inode, dirent) = (
            txn.conn.prepare_cached(inode).db()?,
            txn.conn.prepare_cached(dirent).db()?,
        );
        Ok(Self {
            txn,
            folder,
            inode,
            dirent,
        })
    }

    fn insert(&mut self, remote: &Remote) -> Result<Ino, StateError> {
        let ino = Ino(self.txn.new_id());
        let size = as_i64(remote.size);
        let project = (remote.kind == EntryKind::Dir).then(|| as_i64(self.folder.project.0));
        self.inode
            .execute((
                as_i64(ino.0),
                kind_code(remote.kind),
                size,
                remote.mtime_ns,
                remote.perm,
                stored_version(remote),
                remote.target.as_deref(),
                project,
            ))
            .db()?;
        let cookie = self.txn.new_id();
        let name = remote.name.as_bytes();
        self.dirent
            .execute((as_i64(self.folder.ino.0), as_i64(cookie), name, as_i64(ino.0)))
            .db()?;
        self.txn.count(Delta::of(remote.kind, 1, size));
        // In a folder that was never listed no name can be held as known to be missing (see `StateStore::lookup`).
        if self.folder.listed {
            self.txn.touch_name(self.folder.ino, name);
        }
        Ok(ino)
    }
}

impl WriteTxn<'_> {
    /// Makes a folder what its whole listing says, and notes when (`now_ms`) and for which scan.
    ///
    /// Same name and kind keeps the number; another kind is a removal and an addition; a folder that is gone takes all
    /// that was in it. Of two entries with one name the later counts. New entries get cookies in the order of names.
    ///
    /// What is this machine's own, or was changed by it after `began`, the moment when the listing was asked for, stays as
    /// it is; so do folders that hold such.
    pub fn apply_listing(
        &self,
        dir: Ino,
        entries: &[Remote],
        epoch: Option<u64>,
        began: Moment,
        now_ms: i64,
    ) -> Result<ListingDiff, StateError> {
        let folder = self.folder(dir)?;
        let mut sorted: Vec<&Remote> = entries.iter().rev().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.dedup_by(|later, kept| later.name == kept.name);

        let mut diff = ListingDiff::new(dir, !folder.listed);
        if folder.own {
            // What the site has under that name is another folder.
            return Ok(diff);
        }
        let Compared {
            mut kept,
            changed,
            gone,
            joined,
        } = self.compare(dir, &sorted, began, &mut diff)?;
        self.look_behind(dir, &sorted, &mut kept, true, began)?;
        for ino in joined {
            self.become_mirror_folder(ino)?;
        }
        for (remote, ino, difference) in changed {
            let changed = self.update(dir, ino, remote, difference, now_ms)?;
            diff.changed.push(changed);
        }
        for (cookie, name, ino) in gone {
            if self.remove(dir, cookie, &name, ino, began, now_ms)? {
                diff.removed.push((name, ino));
            }
        }
        let mut inserter = Inserter::new(self, &folder)?;
        for (remote, _) in sorted.iter().zip(&kept).filter(|(_, kept)| !**kept) {
            let ino = inserter.insert(remote)?;
            if !diff.first {
                self.log(now_ms, ChangeKind::Added, ino, dir, &remote.name)?;
            }
            if remote.kind == EntryKind::Dir {
                diff.subfolders.push((remote.name.clone(), ino));
            }
            diff.added.push((remote.name.clone(), ino));
        }
        if !diff.first && diff.added.len() + diff.removed.len() > 0 {
            self.run(
                "UPDATE inode SET attrs_own = attrs_own & ~?2 WHERE ino = ?1",
                (as_i64(dir.0), OWN_MTIME),
            )?;
        }
        if diff.first {
            let (parent, name) = self.parent_of(dir)?.ok_or(StateError::NoSuchNode(dir))?;
            self.log(now_ms, ChangeKind::Listed, dir, parent, &name)?;
        }
        self.listed(&folder, epoch, sorted.len(), now_ms)?;
        Ok(diff)
    }

    /// Makes one entry of a folder what the site shows, whether it was known or not.
    pub fn apply_entry(
        &self,
        dir: Ino,
        remote: &Remote,
        began: Moment,
        now_ms: i64,
    ) -> Result<ListingDiff, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            known_columns!(),
            ", d.cookie FROM dirent AS d INDEXED BY dirent_name JOIN inode AS i ON i.ino = d.ino",
            " WHERE d.parent = ?1 AND d.name = ?2"
        );
        let folder = self.folder(dir)?;
        let mut diff = ListingDiff::new(dir, false);
        let found = self.one(SQL, (as_i64(dir.0), remote.name.as_bytes()), |row| {
            let known = known_at(row)?;
            let difference = if known.is_left_alone(began) {
                Difference::None
            } else {
                known.against(remote)
            };
            Ok((known.ino, difference, count_at(row, KNOWN_WIDTH)?))
        })?;
        let mut kept = [found.is_some()];
        self.look_behind(dir, &[remote], &mut kept, false, began)?;
        if found.is_none() && kept[0] {
            return Ok(diff);
        }
        let ino = match found {
            Some((ino, Difference::None, _)) => ino,
            Some((ino, difference @ (Difference::Attributes | Difference::Content), _)) => {
                diff.changed.push(self.update(dir, ino, remote, difference, now_ms)?);
                ino
            }
            Some((old, Difference::Kind, cookie)) => {
                if !self.remove(dir, cookie, &remote.name, old, began, now_ms)? {
                    return Ok(diff);
                }
                diff.removed.push((remote.name.clone(), old));
                self.add(&folder, remote, &mut diff, now_ms)?
            }
            None => self.add(&folder, remote, &mut diff, now_ms)?,
        };
        if remote.kind == EntryKind::Dir {
            diff.subfolders.push((remote.name.clone(), ino));
        }
        Ok(diff)
    }

    /// Drops an entry whose absence the site has confirmed, with all that was in it.
    pub fn apply_absent(&self, dir: Ino, name: &Name, began: Moment, now_ms: i64) -> Result<ListingDiff, StateError> {
        self.folder(dir)?;
        let mut diff = ListingDiff::new(dir, false);
        self.run(
            "DELETE FROM shadow WHERE parent = ?1 AND name = ?2 AND changed_id < ?3",
            (as_i64(dir.0), name.as_bytes(), as_i64(began.0)),
        )?;
        let sql = "SELECT d.cookie, i.ino FROM dirent AS d JOIN inode AS i ON i.ino = d.ino \
                   WHERE d.parent = ?1 AND d.name = ?2 AND i.own = 0 AND i.changed_id < ?3";
        let found = self.one(sql, (as_i64(dir.0), name.as_bytes(), as_i64(began.0)), |row| {
            Ok((count_at(row, 0)?, ino_at(row, 1)?))
        })?;
        if let Some((cookie, ino)) = found
            && self.remove(dir, cookie, name, ino, began, now_ms)?
        {
            diff.removed.push((name.clone(), ino));
        }
        Ok(diff)
    }

    /// Compares what the site shows with what is known to lie behind the drive's own entries, and behind nothing.
    fn look_behind(
        &self,
        dir: Ino,
        sorted: &[&Remote],
        kept: &mut [bool],
        is_whole: bool,
        began: Moment,
    ) -> Result<(), StateError> {
        let sql = "SELECT name, kind, version, changed_id FROM shadow WHERE parent = ?1";
        let mut over = Vec::new();
        let mut statement = self.conn.prepare_cached(sql).db()?;
        let mut rows = statement.query([as_i64(dir.0)]).db()?;
        while let Some(row) = rows.next().db()? {
            let name = bytes_at(row, 0)?.unwrap_or_default();
            let shadow = Shadow {
                kind: kind_at(row, 1)?,
                version: text_at(row, 2)?.unwrap_or_default(),
                changed: Moment(count_at(row, 3)?),
            };
            let found = sorted.binary_search_by(|remote| remote.name.as_bytes().cmp(name)).ok();
            match found {
                Some(at) if shadow.changed >= began => kept[at] = true,
                // Ours is in front of it: what it started from stays written down.
                Some(at) if kept[at] => {}
                Some(at) if shadow.is(sorted[at]) => kept[at] = true,
                Some(_) => over.push(name.to_vec()),
                None if !is_whole || shadow.changed >= began => {}
                None => over.push(name.to_vec()),
            }
        }
        drop(rows);
        drop(statement);
        for name in over {
            self.run(
                "DELETE FROM shadow WHERE parent = ?1 AND name = ?2",
                (as_i64(dir.0), name),
            )?;
        }
        Ok(())
    }

    pub(super) fn folder(&self, ino: Ino) -> Result<Folder, StateError> {
        let sql = "SELECT project, listed_at_ms, listed_epoch, own FROM inode WHERE ino = ?1";
        let found = self.one(sql, [as_i64(ino.0)], |row| {
            let project: Option<i64> = row.get(0).db()?;
            let listed = row.get::<_, Option<i64>>(1).db()?.is_some();
            let epoch = count_at(row, 2)?;
            let own: bool = row.get(3).db()?;
            Ok(project.map(|root| Folder {
                own,
                ino,
                project: Ino(root.cast_unsigned()),
                listed,
                epoch,
            }))
        })?;
        found
            .ok_or(StateError::NoSuchNode(ino))?
            .ok_or(StateError::NotAFolder(ino))
    }

    fn add(&self, folder: &Folder, remote: &Remote, diff: &mut ListingDiff, now_ms: i64) -> Result<Ino, StateError> {
        let ino = Inserter::new(self, folder)?.insert(remote)?;
        diff.added.push((remote.name.clone(), ino));
        self.touch_node(folder.ino);
        self.log(now_ms, ChangeKind::Added, ino, folder.ino, &remote.name)?;
        Ok(ino)
    }

    /// Reads what the folder has, in its order, against a sorted listing.
    fn compare<'e>(
        &self,
        dir: Ino,
        sorted: &[&'e Remote],
        began: Moment,
        diff: &mut ListingDiff,
    ) -> Result<Compared<'e>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            known_columns!(),
            ", d.cookie, d.name FROM dirent AS d CROSS JOIN inode AS i ON i.ino = d.ino",
            " WHERE d.parent = ?1 ORDER BY d.cookie"
        );
        let mut out = Compared {
            kept: vec![false; sorted.len()],
            changed: Vec::new(),
            gone: Vec::new(),
            joined: Vec::new(),
        };
        let mut guess = 0;
        let mut statement = self.conn.prepare_cached(SQL).db()?;
        let mut rows = statement.query([as_i64(dir.0)]).db()?;
        while let Some(row) = rows.next().db()? {
            let known = known_at(row)?;
            let name = bytes_at(row, KNOWN_WIDTH + 1)?.unwrap_or_default();
            // Cookies mostly follow names, so the next row is mostly the next entry.
            let found = match sorted.get(guess) {
                Some(remote) if remote.name.as_bytes() == name => Some(guess),
                _ => sorted.binary_search_by(|remote| remote.name.as_bytes().cmp(name)).ok(),
            };
            guess = found.map_or(guess, |at| at + 1);
            if known.is_left_alone(began) {
                let Some(at) = found else { continue };
                out.kept[at] = true;
                let both_folders = known.kind == EntryKind::Dir && sorted[at].kind == EntryKind::Dir;
                if both_folders && (!known.own || self.shadow_of(dir, &sorted[at].name)?.is_none()) {
                    // A folder that was made here is at the site as well by now.
                    if known.own {
                        out.joined.push(known.ino);
                    }
                    diff.subfolders.push((sorted[at].name.clone(), known.ino));
                }
                continue;
            }
            let difference = found.map_or(Difference::Kind, |at| known.against(sorted[at]));
            match (found, difference) {
                (Some(at), Difference::None | Difference::Attributes | Difference::Content) => {
                    out.kept[at] = true;
                    if difference != Difference::None {
                        out.changed.push((sorted[at], known.ino, difference));
                    }
                    if known.kind == EntryKind::Dir {
                        diff.subfolders.push((sorted[at].name.clone(), known.ino));
                    }
                }
                (None, _) | (_, Difference::Kind) => {
                    out.gone
                        .push((count_at(row, KNOWN_WIDTH)?, name_at(row, KNOWN_WIDTH + 1)?, known.ino));
                }
            }
        }
        Ok(out)
    }

    fn update(
        &self,
        parent: Ino,
        ino: Ino,
        remote: &Remote,
        difference: Difference,
        now_ms: i64,
    ) -> Result<(Ino, bool), StateError> {
        let content = difference == Difference::Content;
        let before: u64 = self
            .one("SELECT size FROM inode WHERE ino = ?1", [as_i64(ino.0)], |row| {
                count_at(row, 0)
            })?
            .unwrap_or(0);
        // A file's times belong to its content; what was set here for the old one is over.
        self.run(
            "UPDATE inode SET size = ?2, mtime_ns = iif(NOT ?8 AND attrs_own & 2, mtime_ns, ?3), ctime_ns = ?4, \
             perm = iif(attrs_own & 1, perm, ?5), version = ?6, target = CASE WHEN ?8 THEN ?7 ELSE target END, \
             atime_ns = iif(?8, NULL, atime_ns), attrs_own = iif(?8, attrs_own & 1, attrs_own) WHERE ino = ?1",
            (
                as_i64(ino.0),
                as_i64(remote.size),
                remote.mtime_ns,
                ns(now_ms),
                remote.perm,
                stored_version(remote),
                remote.target.as_deref(),
                content,
            ),
        )?;
        self.count(Delta::of(remote.kind, 0, as_i64(remote.size) - as_i64(before)));
        self.touch_node(ino);
        let what = if content {
            ChangeKind::Content
        } else {
            ChangeKind::Attributes
        };
        self.log(now_ms, what, ino, parent, &remote.name)?;
        Ok((ino, content))
    }

    /// Notes that a folder was listed whole.
    fn listed(&self, folder: &Folder, epoch: Option<u64>, entries: usize, now_ms: i64) -> Result<(), StateError> {
        let epoch_now = epoch.unwrap_or(folder.epoch).max(folder.epoch);
        self.run(
            "UPDATE inode SET listed_at_ms = ?2, listed_epoch = ?3 WHERE ino = ?1",
            (as_i64(folder.ino.0), now_ms, as_i64(epoch_now)),
        )?;
        if let Some(epoch) = epoch.filter(|epoch| *epoch > folder.epoch) {
            self.run(
                "UPDATE scan SET folders = folders + 1, entries = entries + ?2 WHERE epoch = ?1",
                (as_i64(epoch), as_i64(entries as u64)),
            )?;
        }
        self.touch_node(folder.ino);
        Ok(())
    }

    /// Removes a name, and what it led to if that was its last. A folder with something in it that the site can't speak
    /// for stays, as this machine's own, with just that; then the answer is false.
    fn remove(
        &self,
        parent: Ino,
        cookie: u64,
        name: &Name,
        ino: Ino,
        began: Moment,
        now_ms: i64,
    ) -> Result<bool, StateError> {
        if self.has_own()? && self.prune(ino, began)? {
            return Ok(false);
        }
        self.log(now_ms, ChangeKind::Removed, ino, parent, name)?;
        self.run(
            "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2",
            (as_i64(parent.0), as_i64(cookie)),
        )?;
        self.touch_name(parent, name);
        self.touch_node(parent);
        let mut folders = Vec::new();
        self.unlink_mirror(ino, &mut folders)?;
        while let Some(dir) = folders.pop() {
            self.empty(dir, &mut folders)?;
            self.drop_folder(dir)?;
        }
        Ok(true)
    }

    fn has_own(&self) -> Result<bool, StateError> {
        Ok(self
            .one("SELECT 1 FROM inode WHERE own = 1 LIMIT 1", [], |_| Ok(()))?
            .is_some())
    }

    /// Takes out of a folder all that the site has spoken for. Says whether something is left; then the folder becomes
    /// this machine's own.
    fn prune(&self, ino: Ino, began: Moment) -> Result<bool, StateError> {
        let known = self.one(
            "SELECT kind, own, changed_id FROM inode WHERE ino = ?1",
            [as_i64(ino.0)],
            |row| {
                let changed = Moment(count_at(row, 2)?);
                Ok((kind_at(row, 0)?, row.get::<_, bool>(1).db()? || changed >= began))
            },
        )?;
        let Some((kind, left_alone)) = known else {
            return Ok(false);
        };
        if kind != EntryKind::Dir {
            return Ok(left_alone);
        }
        let children = self.many(
            "SELECT cookie, ino, name FROM dirent WHERE parent = ?1",
            [as_i64(ino.0)],
            |row| Ok((count_at(row, 0)?, ino_at(row, 1)?, name_at(row, 2)?)),
        )?;
        let mut left = left_alone;
        let mut gone = Vec::new();
        for (cookie, child, name) in children {
            if self.prune(child, began)? {
                left = true;
            } else {
                gone.push((cookie, child, name));
            }
        }
        if !left {
            // It goes as a whole.
            return Ok(false);
        }
        for (cookie, child, name) in gone {
            self.run(
                "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2",
                (as_i64(ino.0), as_i64(cookie)),
            )?;
            self.touch_name(ino, &name);
            let mut folders = Vec::new();
            self.unlink_mirror(child, &mut folders)?;
            while let Some(dir) = folders.pop() {
                self.empty(dir, &mut folders)?;
                self.drop_folder(dir)?;
            }
        }
        self.run("DELETE FROM shadow WHERE parent = ?1", [as_i64(ino.0)])?;
        self.become_own_folder(ino)?;
        Ok(true)
    }

    fn drop_folder(&self, dir: Ino) -> Result<(), StateError> {
        self.run("DELETE FROM inode WHERE ino = ?1", [as_i64(dir.0)])?;
        self.run("DELETE FROM shadow WHERE parent = ?1", [as_i64(dir.0)])?;
        self.run("DELETE FROM xattr WHERE ino = ?1", [as_i64(dir.0)])?;
        self.touch_node(dir);
        self.count(Delta::of(EntryKind::Dir, -1, 0));
        Ok(())
    }

    /// Removes all entries of a folder, page by page; folders among them are left for the caller.
    fn empty(&self, dir: Ino, folders: &mut Vec<Ino>) -> Result<(), StateError> {
        let page_sql = "SELECT cookie, ino, name FROM dirent WHERE parent = ?1 ORDER BY cookie LIMIT ?2";
        loop {
            let page = self.many(page_sql, (as_i64(dir.0), as_i64(DROP_PAGE as u64)), |row| {
                Ok((count_at(row, 0)?, ino_at(row, 1)?, name_at(row, 2)?))
            })?;
            let Some((last, ..)) = page.last() else { return Ok(()) };
            self.run(
                "DELETE FROM dirent WHERE parent = ?1 AND cookie <= ?2",
                (as_i64(dir.0), as_i64(*last)),
            )?;
            for (_, ino, name) in page {
                self.touch_name(dir, &name);
                self.unlink_mirror(ino, folders)?;
            }
        }
    }

    /// Takes one name from a node and drops it if that was the last; a folder goes to `folders` to be emptied first.
    fn unlink_mirror(&self, ino: Ino, folders: &mut Vec<Ino>) -> Result<(), StateError> {
        self.touch_node(ino);
        let found = self.one(
            "SELECT kind, size, nlink FROM inode WHERE ino = ?1",
            [as_i64(ino.0)],
            |row| Ok((kind_at(row, 0)?, count_at(row, 1)?, count_at(row, 2)?)),
        )?;
        let Some((kind, size, nlink)) = found else {
            return Err(StateError::damaged(format!(
                "a name leads to the number {ino}, which is not there"
            )));
        };
        if kind == EntryKind::Dir {
            folders.push(ino);
        } else if nlink > 1 {
            self.run("UPDATE inode SET nlink = nlink - 1 WHERE ino = ?1", [as_i64(ino.0)])?;
        } else {
            self.run("DELETE FROM inode WHERE ino = ?1", [as_i64(ino.0)])?;
            self.run("DELETE FROM conflict WHERE ino = ?1", [as_i64(ino.0)])?;
            self.run("DELETE FROM xattr WHERE ino = ?1", [as_i64(ino.0)])?;
            self.count(Delta::of(kind, -1, -as_i64(size)));
        }
        Ok(())
    }
}

/// A listing beside what the store has.
struct Compared<'e> {
    /// For each entry of the listing, whether the store's stays.
    kept: Vec<bool>,
    /// Entries that stay and change.
    changed: Vec<(&'e Remote, Ino, Difference)>,
    /// Cookies, names and numbers of entries that go.
    gone: Vec<(u64, Name, Ino)>,
    /// Folders that were made here and are at the site as well by now.
    joined: Vec<Ino>,
}
