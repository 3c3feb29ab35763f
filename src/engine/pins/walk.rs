//! Going through the files that patterns cover, a page at a time.
//!
//! Owns: where a walk is. Refuses to know: what is done with the files. Invariants: memory does not grow with the tree (a
//! page of one folder for each of its levels); a file is met once for each of its names; what is added or removed
//! meanwhile may be met or not.

use std::sync::Arc;

use super::rules::{Covering, Patterns};
use crate::engine::drive::{Inner, Project};
use crate::model::{EntryKind, Ino, RelPath};
use crate::state::{Node, StateError};

/// Rows of a folder read at a time.
const PAGE: usize = 512;

/// What is covered in one project.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Scope {
    pub(in crate::engine) project: Arc<Project>,
    pub(in crate::engine) patterns: Arc<Patterns>,
}

/// A file that is covered.
#[derive(Debug)]
pub(in crate::engine) struct Found {
    pub(in crate::engine) project: Arc<Project>,
    pub(in crate::engine) node: Node,
    /// Below the project's folder.
    pub(in crate::engine) path: RelPath,
    /// What covers it.
    pub(in crate::engine) by: Covering,
}

impl Found {
    /// Returns its path in the drive.
    pub(in crate::engine) fn path_in_drive(&self) -> RelPath {
        self.project.folder_path().concat(&self.path)
    }
}

/// A folder to be gone through.
#[derive(Debug)]
struct Folder {
    scope: Scope,
    ino: Ino,
    path: RelPath,
    by: Covering,
    after: u64,
}

/// A walk over the files that scopes cover.
#[derive(Debug)]
pub(in crate::engine) struct Walk {
    scopes: Vec<Scope>,
    folders: Vec<Folder>,
}

impl Walk {
    pub(in crate::engine) fn new(mut scopes: Vec<Scope>) -> Self {
        scopes.reverse();
        Self {
            scopes,
            folders: Vec::new(),
        }
    }

    /// Returns the next files, none or a page of them; `None` at the end. May read a folder from the disk.
    ///
    /// # Errors
    /// When the store can't be read; the walk is over then.
    pub(in crate::engine) fn next(&mut self, drive: &Inner) -> Result<Option<Vec<Found>>, StateError> {
        let mut found = Vec::new();
        let Some(folder) = self.folders.pop() else {
            let Some(scope) = self.scopes.pop() else {
                return Ok(None);
            };
            self.enter(drive, &scope, &mut found)?;
            return Ok(Some(found));
        };
        let rows = drive.tree.children(folder.ino, folder.after, PAGE)?;
        let mut below = Vec::new();
        for row in &rows {
            let path = folder.path.join(&row.name);
            let by = folder.scope.patterns.covering_in(&folder.by, &path);
            match row.node.kind {
                EntryKind::Dir if !by.is_empty() || folder.scope.patterns.may_be_below(&path) => below.push(Folder {
                    scope: folder.scope.clone(),
                    ino: row.node.ino,
                    path,
                    by,
                    after: 0,
                }),
                EntryKind::File if !by.is_empty() => found.push(Found {
                    project: Arc::clone(&folder.scope.project),
                    node: row.node.clone(),
                    path,
                    by,
                }),
                _ => {}
            }
        }
        if let Some(last) = rows.last().filter(|_| rows.len() == PAGE) {
            self.folders.push(Folder {
                after: last.cookie,
                ..folder
            });
        }
        // In the order in which a listing shows them.
        self.folders.extend(below.into_iter().rev());
        Ok(Some(found))
    }

    fn enter(&mut self, drive: &Inner, scope: &Scope, found: &mut Vec<Found>) -> Result<(), StateError> {
        for path in scope.patterns.roots().iter().rev() {
            let node = drive.tree.resolve(&scope.project.folder_path().concat(path))?;
            let Some(node) = node else { continue };
            let by = scope.patterns.covering(path);
            match node.kind {
                EntryKind::Dir => self.folders.push(Folder {
                    scope: scope.clone(),
                    ino: node.ino,
                    path: path.clone(),
                    by,
                    after: 0,
                }),
                EntryKind::File if !by.is_empty() => found.push(Found {
                    project: Arc::clone(&scope.project),
                    node,
                    path: path.clone(),
                    by,
                }),
                _ => {}
            }
        }
        Ok(())
    }
}
