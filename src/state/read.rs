//! Questions to the tree: by number, by name, by path, by page.
//!
//! Invariant: one [`ReadTxn`] sees one moment of the store, whatever is written meanwhile.

use rusqlite::{Connection, Row};

use super::StateError;
use super::error::Db;
use super::node::{
    Child, NODE_WIDTH, Node, Project, bytes_at, count_at, ino_at, name_at, node_at, node_columns, path_at,
};
use crate::model::{Ino, Name, ProjectName, RelPath, SiteName};

/// The parent of hidden projects' folders: no path leads there.
pub(super) const ATTIC: Ino = Ino(2);

/// Deeper than any path the kernel takes (PATH_MAX is 4096 bytes, two a component): a longer chain is a circle.
const DEPTH_MAX: usize = 2048;

/// The columns of [`project_at`], for `project AS p`.
macro_rules! project_columns {
    () => {
        "p.root, p.name, p.folder, p.remote_site, p.remote_path, p.hidden"
    };
}

/// A view of one moment of the store. Each question fails when the database does; what else can fail is said there.
#[derive(Debug)]
pub struct ReadTxn<'c> {
    pub(super) conn: &'c Connection,
}

impl<'c> ReadTxn<'c> {
    /// Runs a question with at most one answer.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        let mut statement = self.conn.prepare_cached(sql).db()?;
        let mut rows = statement.query(params).db()?;
        let out = rows.next().db()?.map(read).transpose();
        drop(rows);
        #[cfg(test)]
        super::steps::add(&statement);
        out
    }

    /// Runs a question with any number of answers.
    pub(super) fn many<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, StateError>,
    ) -> Result<Vec<T>, StateError> {
        let mut statement = self.conn.prepare_cached(sql).db()?;
        let mut rows = statement.query(params).db()?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().db()? {
            out.push(read(row)?);
        }
        drop(rows);
        #[cfg(test)]
        super::steps::add(&statement);
        Ok(out)
    }

    /// Returns the entry `name` of a folder.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Node>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            node_columns!(),
            " FROM dirent AS d INDEXED BY dirent_name JOIN inode AS i ON i.ino = d.ino WHERE d.parent = ?1 AND d.name = ?2"
        );
        self.one(SQL, (parent.0.cast_signed(), name), |row| node_at(row, 0))
    }

    /// Returns a node by its number.
    pub fn node(&self, ino: Ino) -> Result<Option<Node>, StateError> {
        const SQL: &str = concat!("SELECT ", node_columns!(), " FROM inode AS i WHERE i.ino = ?1");
        self.one(SQL, [ino.0.cast_signed()], |row| node_at(row, 0))
    }

    /// Returns the target of a symbolic link.
    pub fn link_target(&self, ino: Ino) -> Result<Option<Vec<u8>>, StateError> {
        let target = self.one(
            "SELECT target FROM inode WHERE ino = ?1",
            [ino.0.cast_signed()],
            |row| Ok(bytes_at(row, 0)?.map(<[u8]>::to_vec)),
        )?;
        Ok(target.flatten())
    }

    /// Returns up to `limit` entries of a folder that come after a cookie (0: from the start), in the order of cookies.
    pub fn children(&self, parent: Ino, after_cookie: u64, limit: usize) -> Result<Vec<Child>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            node_columns!(),
            ", d.cookie, d.name FROM dirent AS d CROSS JOIN inode AS i ON i.ino = d.ino",
            " WHERE d.parent = ?1 AND d.cookie > ?2 ORDER BY d.cookie LIMIT ?3"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.many(
            SQL,
            (parent.0.cast_signed(), after_cookie.cast_signed(), limit),
            |row| {
                let node = node_at(row, 0)?;
                Ok(Child {
                    cookie: count_at(row, NODE_WIDTH)?,
                    name: name_at(row, NODE_WIDTH + 1)?,
                    node,
                })
            },
        )
    }

    /// Returns the folders in a folder, in the order of cookies.
    pub fn subfolders(&self, parent: Ino) -> Result<Vec<(Name, Ino)>, StateError> {
        let sql = "SELECT d.name, d.ino FROM dirent AS d CROSS JOIN inode AS i ON i.ino = d.ino \
                   WHERE d.parent = ?1 AND i.kind = 1 ORDER BY d.cookie";
        self.many(sql, [parent.0.cast_signed()], |row| {
            Ok((name_at(row, 0)?, ino_at(row, 1)?))
        })
    }

    /// Returns the folder that a walk comes to after it has listed this one: the first in it, else the one after it in its own
    /// folder, in the order of cookies.
    pub(super) fn next_folder(&self, folder: Ino) -> Result<Option<Ino>, StateError> {
        // Not past all the frames of a long folder.
        const BELOW: &str = "SELECT d.ino FROM \
                             (SELECT ino, cookie FROM dirent WHERE parent = ?1 AND cookie > ?2 ORDER BY cookie LIMIT 256) AS d \
                             CROSS JOIN inode AS i ON i.ino = d.ino WHERE i.kind = 1 ORDER BY d.cookie LIMIT 1";
        const PLACE: &str = "SELECT parent, cookie FROM dirent WHERE ino = ?1";
        let has_folders = self.node(folder)?.is_some_and(|node| node.subfolders > 0);
        if has_folders {
            return self.one(BELOW, (folder.0.cast_signed(), 0), |row| ino_at(row, 0));
        }
        let place = self.one(PLACE, [folder.0.cast_signed()], |row| {
            Ok((ino_at(row, 0)?, count_at(row, 1)?))
        })?;
        let Some((parent, cookie)) = place else {
            return Ok(None);
        };
        self.one(BELOW, (parent.0.cast_signed(), cookie.cast_signed()), |row| {
            ino_at(row, 0)
        })
    }

    /// Returns the folder of a node and its name there: the first, of a file with several. `None` for the root, and for
    /// what is gone.
    pub fn parent_of(&self, ino: Ino) -> Result<Option<(Ino, Name)>, StateError> {
        const SQL: &str = "SELECT parent, name FROM dirent WHERE ino = ?1 ORDER BY parent, cookie LIMIT 1";
        self.one(SQL, [ino.0.cast_signed()], |row| {
            Ok((ino_at(row, 0)?, name_at(row, 1)?))
        })
    }

    /// Returns the names that lead from `top` down to a node; `None` where no way leads there.
    fn names_below(&self, top: Ino, ino: Ino) -> Result<Option<RelPath>, StateError> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != top {
            let Some((parent, name)) = self.parent_of(at)? else {
                return Ok(None);
            };
            names.push(name);
            at = parent;
            if names.len() > DEPTH_MAX {
                return Err(StateError::damaged(format!(
                    "folders above number {ino} run in a circle"
                )));
            }
        }
        Ok(Some(
            names.iter().rev().fold(RelPath::root(), |path, name| path.join(name)),
        ))
    }

    /// Returns the path of a node from the drive's root; `None` for what is gone or out of sight.
    pub fn path_of(&self, ino: Ino) -> Result<Option<RelPath>, StateError> {
        self.names_below(Ino::ROOT, ino)
    }

    /// Returns the node at a path from the drive's root.
    pub fn resolve(&self, path: &RelPath) -> Result<Option<Node>, StateError> {
        let mut at = Ino::ROOT;
        let mut found = None;
        for name in path.components() {
            found = self.lookup(at, name)?;
            match &found {
                Some(node) => at = node.ino,
                None => return Ok(None),
            }
        }
        if path.is_root() {
            self.node(Ino::ROOT)
        } else {
            Ok(found)
        }
    }

    /// Returns all projects, hidden ones too, by name.
    pub fn projects(&self) -> Result<Vec<Project>, StateError> {
        self.many(
            concat!("SELECT ", project_columns!(), " FROM project AS p ORDER BY p.name"),
            [],
            project_at,
        )
    }

    /// Returns a project by its name.
    pub fn project(&self, name: &ProjectName) -> Result<Option<Project>, StateError> {
        self.one(
            concat!("SELECT ", project_columns!(), " FROM project AS p WHERE p.name = ?1"),
            [&name.0],
            project_at,
        )
    }

    /// Returns the project that a node lies in and the node's path below the project's folder (empty for the folder
    /// itself). `None` for the drive's root, and for what is gone.
    pub fn project_of(&self, ino: Ino) -> Result<Option<(Project, RelPath)>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            project_columns!(),
            " FROM inode AS i JOIN project AS p ON p.root = i.project WHERE i.ino = ?1"
        );
        // Folders know their project; all else asks the folder that it lies in.
        let project = match self.one(SQL, [ino.0.cast_signed()], project_at)? {
            Some(project) => project,
            None => {
                let Some((parent, _)) = self.parent_of(ino)? else {
                    return Ok(None);
                };
                let Some(project) = self.one(SQL, [parent.0.cast_signed()], project_at)? else {
                    return Ok(None);
                };
                project
            }
        };
        Ok(self.names_below(project.root, ino)?.map(|below| (project, below)))
    }
}

fn project_at(row: &Row<'_>) -> Result<Project, StateError> {
    Ok(Project {
        root: ino_at(row, 0)?,
        name: ProjectName(row.get(1).db()?),
        folder: name_at(row, 2)?,
        remote_site: SiteName(row.get(3).db()?),
        remote_path: path_at(row, 4)?,
        hidden: row.get(5).db()?,
    })
}
