//! Projects, and the scans that walk them.
//!
//! Invariants: a project that leaves the configuration is put out of sight with all it has, never deleted; a scan that was
//! interrupted goes on where it stopped, since each folder bears the number of the last scan that dealt with it.

use rusqlite::Row;

use super::StateError;
use super::error::Db;
use super::node::{ChangeKind, NewProject, Project, ScanRecord, as_i64, count_at, ino_at};
use super::read::{ATTIC, ReadTxn};
use super::write::{Delta, WriteTxn};
use crate::model::{EntryKind, Ino};

macro_rules! scan_columns {
    () => {
        "epoch, started_ms, finished_ms, folders, entries, skipped"
    };
}

fn scan_at(row: &Row<'_>) -> Result<ScanRecord, StateError> {
    Ok(ScanRecord {
        epoch: count_at(row, 0)?,
        started_ms: row.get(1).db()?,
        finished_ms: row.get(2).db()?,
        folders: count_at(row, 3)?,
        entries: count_at(row, 4)?,
        skipped: count_at(row, 5)?,
    })
}

impl ReadTxn<'_> {
    /// Returns the newest scan of a project (given by its root folder), whether it is done or not.
    pub fn scan(&self, root: Ino) -> Result<Option<ScanRecord>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            scan_columns!(),
            " FROM scan WHERE root = ?1 ORDER BY epoch DESC LIMIT 1"
        );
        self.one(SQL, [as_i64(root.0)], scan_at)
    }

    /// Returns the newest scan of a project that is done.
    pub fn finished_scan(&self, root: Ino) -> Result<Option<ScanRecord>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            scan_columns!(),
            " FROM scan WHERE root = ?1 AND finished_ms IS NOT NULL ORDER BY epoch DESC LIMIT 1"
        );
        self.one(SQL, [as_i64(root.0)], scan_at)
    }

    /// Returns up to `limit` folders of a project that its scan has not dealt with yet: those found newly first, then
    /// those known, older scans first. Costs no more than its answer, wherever the scan stands.
    pub fn next_to_scan(&self, root: Ino, epoch: u64, limit: usize) -> Result<Vec<Ino>, StateError> {
        let sql = "SELECT ino FROM inode INDEXED BY inode_to_scan WHERE project = ?1 AND listed_epoch < ?2 \
                   ORDER BY listed_epoch, ino LIMIT ?3";
        self.many(sql, (as_i64(root.0), as_i64(epoch), as_i64(limit as u64)), |row| {
            ino_at(row, 0)
        })
    }
}

impl WriteTxn<'_> {
    /// Makes the projects what the configuration says and returns their root folders, in the same order.
    ///
    /// A new one gets an empty folder; one with another folder name is renamed; one that is not named is put out of sight,
    /// and comes back when it is named again: each with all it has. With another remote site or path the tree stays in
    /// view until the next scan, which starts afresh.
    pub fn set_projects(&self, wanted: &[NewProject], now_ms: i64) -> Result<Vec<Ino>, StateError> {
        for known in self.projects()? {
            if !known.hidden && !wanted.iter().any(|project| project.name == known.name) {
                self.hide(&known, now_ms)?;
            }
        }
        wanted
            .iter()
            .map(|project| self.ensure_project(project, now_ms))
            .collect()
    }

    fn ensure_project(&self, wanted: &NewProject, now_ms: i64) -> Result<Ino, StateError> {
        self.make_way(wanted, now_ms)?;
        let Some(known) = self.project(&wanted.name)? else {
            return self.new_project(wanted, now_ms);
        };
        let root = known.root;
        if known.hidden || known.folder != wanted.folder {
            self.move_root(root, Ino::ROOT, wanted.folder.as_bytes(), now_ms)?;
        }
        let moved = known.remote_site != wanted.remote_site || known.remote_path != wanted.remote_path;
        if moved {
            self.run(
                "DELETE FROM scan WHERE root = ?1 AND finished_ms IS NULL",
                [as_i64(root.0)],
            )?;
        }
        if known.hidden || known.folder != wanted.folder || moved {
            self.run(
                "UPDATE project SET folder = ?2, remote_site = ?3, remote_path = ?4, hidden = 0 WHERE root = ?1",
                (
                    as_i64(root.0),
                    wanted.folder.as_bytes(),
                    &wanted.remote_site.0,
                    wanted.remote_path.as_bytes(),
                ),
            )?;
        }
        Ok(root)
    }

    /// Hides another project that has the folder's name: if it is still wanted, its own turn brings it back.
    fn make_way(&self, wanted: &NewProject, now_ms: i64) -> Result<(), StateError> {
        let Some(there) = self.lookup(Ino::ROOT, &wanted.folder)? else {
            return Ok(());
        };
        match self.projects()?.into_iter().find(|project| project.root == there.ino) {
            Some(other) if other.name == wanted.name => Ok(()),
            Some(other) => self.hide(&other, now_ms),
            None => Err(StateError::damaged(format!(
                "the root has an entry {} that is no project",
                wanted.folder
            ))),
        }
    }

    fn hide(&self, project: &Project, now_ms: i64) -> Result<(), StateError> {
        // Out of sight its folder is called by its number: that is free, and a name whatever the project's is.
        self.move_root(project.root, ATTIC, project.root.to_string().as_bytes(), now_ms)?;
        self.run(
            "UPDATE project SET hidden = 1 WHERE root = ?1",
            [as_i64(project.root.0)],
        )?;
        Ok(())
    }

    fn new_project(&self, wanted: &NewProject, now_ms: i64) -> Result<Ino, StateError> {
        let (root, cookie) = (Ino(self.new_id()), self.new_id());
        let id = as_i64(root.0);
        self.run(
            "INSERT INTO inode (ino, kind, size, mtime_ns, ctime_ns, project) VALUES (?1, 1, 0, ?2, ?2, ?1)",
            (id, now_ms.saturating_mul(1_000_000)),
        )?;
        let dirent = "INSERT INTO dirent (parent, cookie, name, ino) VALUES (?1, ?2, ?3, ?4)";
        self.run(
            dirent,
            (as_i64(Ino::ROOT.0), as_i64(cookie), wanted.folder.as_bytes(), id),
        )?;
        self.run(
            "INSERT INTO project (root, name, folder, remote_site, remote_path) VALUES (?1, ?2, ?3, ?4, ?5)",
            (
                id,
                &wanted.name.0,
                wanted.folder.as_bytes(),
                &wanted.remote_site.0,
                wanted.remote_path.as_bytes(),
            ),
        )?;
        self.count(Delta::of(EntryKind::Dir, 1, 0));
        self.touch_name(Ino::ROOT, &wanted.folder);
        self.touch_node(Ino::ROOT);
        self.log(now_ms, ChangeKind::Added, root, Ino::ROOT, &wanted.folder)?;
        Ok(root)
    }

    fn move_root(&self, root: Ino, to: Ino, name: &[u8], now_ms: i64) -> Result<(), StateError> {
        let (from, old) = self.parent_of(root)?.ok_or(StateError::NoSuchNode(root))?;
        self.touch_name(from, &old);
        self.touch_name(to, name);
        self.touch_node(from);
        self.touch_node(to);
        let sql = "UPDATE dirent SET parent = ?2, cookie = ?3, name = ?4 WHERE ino = ?1";
        let cookie = self.new_id();
        self.run(sql, (as_i64(root.0), as_i64(to.0), as_i64(cookie), name))?;
        self.log(now_ms, ChangeKind::Moved, root, to, name)
    }

    /// Begins a scan of a project (given by its root folder), or takes up the one that was interrupted.
    pub fn begin_scan(&self, root: Ino, now_ms: i64) -> Result<ScanRecord, StateError> {
        if let Some(scan) = self.scan(root)?.filter(|scan| scan.finished_ms.is_none()) {
            return Ok(scan);
        }
        self.run(
            "INSERT INTO scan (root, started_ms) SELECT root, ?2 FROM project WHERE root = ?1",
            (as_i64(root.0), now_ms),
        )?;
        let scan = self
            .scan(root)?
            .filter(|scan| scan.finished_ms.is_none())
            .ok_or(StateError::NotAFolder(root))?;
        // The last scan that was done stays, for whoever asks while this one runs.
        let keep = self.finished_scan(root)?.map_or(scan.epoch, |last| last.epoch);
        self.run(
            "DELETE FROM scan WHERE root = ?1 AND epoch < ?2",
            (as_i64(root.0), as_i64(keep)),
        )?;
        Ok(scan)
    }

    /// Passes over a folder that can't be listed now, so that the scan may finish without it.
    pub fn skip_folder(&self, dir: Ino, epoch: u64) -> Result<(), StateError> {
        let sql = "UPDATE inode SET listed_epoch = ?2 WHERE ino = ?1 AND project IS NOT NULL AND listed_epoch < ?2";
        if self.run(sql, (as_i64(dir.0), as_i64(epoch)))? == 1 {
            self.run(
                "UPDATE scan SET skipped = skipped + 1 WHERE epoch = ?1",
                [as_i64(epoch)],
            )?;
            self.touch_node(dir);
        }
        Ok(())
    }

    /// Ends a scan if no folder is left; otherwise returns false and changes nothing.
    pub fn finish_scan(&self, root: Ino, epoch: u64, now_ms: i64) -> Result<bool, StateError> {
        if !self.next_to_scan(root, epoch, 1)?.is_empty() {
            return Ok(false);
        }
        let sql = "UPDATE scan SET finished_ms = ?3 WHERE root = ?1 AND epoch = ?2 AND finished_ms IS NULL";
        Ok(self.run(sql, (as_i64(root.0), as_i64(epoch), now_ms))? == 1)
    }
}
