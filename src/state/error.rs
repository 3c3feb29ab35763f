//! The one error of the state store. No type of the database crosses it.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::model::Ino;

/// The database's own account, shared by all writes that one failed commit took down.
type Cause = Arc<dyn StdError + Send + Sync>;

/// Why the state store could not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has the drive's state open.
    #[error("the drive's state in {} is in use{}", .path.display(), by(*.pid))]
    InUse {
        /// The other process, where it has told.
        pid: Option<u32>,
        /// The state folder.
        path: PathBuf,
    },
    /// The database is damaged. It was left as it is.
    #[error(
        "the state database {} is damaged ({detail}); it was left as it is: stop the drive, move the file aside (with \
         its -wal and -shm), and start again to list the projects anew; `backlot doctor` says more", .path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file is no database of ours.
    #[error("{} is not a state database of backlot; it was left as it is: move it aside", .0.display())]
    NotADatabase(PathBuf),
    /// A newer program made the database.
    #[error("the state database {} has version {found}, and this program knows versions up to {known}: update it", .path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
    /// A file operation failed.
    #[error("can't {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// The disk with the state folder is full; nothing of the write was kept.
    #[error("no room left on the disk of the state database")]
    Full(#[source] Cause),
    /// The store was opened for reading, or its disk is read-only.
    #[error("the state database can't be written: it is open for reading, or its disk is read-only")]
    ReadOnly,
    /// The store was closed.
    #[error("the state store is closed")]
    Closed,
    /// A write panicked; nothing of it was kept.
    #[error("a write to the state store panicked; nothing of it was kept")]
    Panicked,
    /// Nothing has this number, or no longer.
    #[error("nothing has the number {0}, or no longer")]
    NoSuchNode(Ino),
    /// The number is not that of a folder inside a project.
    #[error("the number {0} is not that of a folder inside a project")]
    NotAFolder(Ino),
    /// The tree is not so that it could be changed as asked; nothing was.
    #[error("{0}")]
    Refused(Refusal),
    /// A value makes no sense where it was given or found.
    #[error("{0}")]
    Invalid(String),
    /// The database failed in another way.
    #[error("the state database failed: {0}")]
    Database(#[source] Cause),
}

/// Why names or attributes can't be changed as asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing has the name.
    #[error("nothing has that name")]
    NotFound,
    /// Something has the name.
    #[error("something has that name already")]
    Exists,
    /// A folder was needed.
    #[error("it is not a folder")]
    NotDir,
    /// A folder has the name, and something else was needed.
    #[error("it is a folder")]
    IsDir,
    /// The folder has entries.
    #[error("the folder is not empty")]
    NotEmpty,
    /// A folder would lie in itself.
    #[error("a folder can't be moved into itself")]
    Loop,
    /// More names than a file may have.
    #[error("the file has as many names as it may")]
    TooManyLinks,
    /// It is at the project's remote site, and the project's rules keep it there.
    #[error("it is at the remote site, and the project does not let deletes through (remote-delete)")]
    AtRemote,
    /// The site's listing of the folder is not known yet.
    #[error("the folder was not listed at its site yet")]
    NotListed,
    /// The file is not what the caller takes it for any more.
    #[error("the file changed meanwhile")]
    Changed,
}

impl From<Refusal> for StateError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(|| " by another process".to_owned(), |pid| format!(" by process {pid}"))
}

impl StateError {
    pub(super) fn io(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source: Arc::new(source.into()),
        }
    }

    /// Names the database in errors made where only the connection was known.
    pub(super) fn at(self, database: &Path) -> Self {
        let mut named = self;
        if let Self::Damaged { path, .. } | Self::NotADatabase(path) = &mut named
            && path.as_os_str().is_empty()
        {
            database.clone_into(path);
        }
        named
    }

    pub(super) fn damaged(detail: impl Into<String>) -> Self {
        Self::Damaged {
            path: PathBuf::new(),
            detail: detail.into(),
        }
    }
}

/// Turns the database's errors into ours where they arise.
pub(super) trait Db<T> {
    fn db(self) -> Result<T, StateError>;
}

impl<T> Db<T> for rusqlite::Result<T> {
    fn db(self) -> Result<T, StateError> {
        self.map_err(|e| {
            let code = e.sqlite_error_code();
            if code == Some(ErrorCode::DatabaseCorrupt) {
                StateError::damaged(e.to_string())
            } else if code == Some(ErrorCode::NotADatabase) {
                StateError::NotADatabase(PathBuf::new())
            } else if code == Some(ErrorCode::DiskFull) {
                StateError::Full(Arc::new(e))
            } else if code == Some(ErrorCode::ReadOnly) {
                StateError::ReadOnly
            } else {
                StateError::Database(Arc::new(e))
            }
        })
    }
}
