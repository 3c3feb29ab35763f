//! Bringing what the log of writes has gathered into the database, beside whoever reads and writes.
//!
//! Owns: when that is done and on which thread. Refuses to know: what is written. Invariants: nobody who writes waits for a
//! disk because of it, unless the log has grown so long that it has to begin anew; the log is synced before the database is
//! touched, which SQLite sees to.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use rusqlite::Connection;
use tracing::debug;

use super::StateError;
use super::error::Db;
use super::schema;
use super::writer::Shared;

/// Pages of the log from which on writers are kept out until it is folded whole, so that it begins anew: 64 MiB, which a
/// start after a crash reads in a moment.
const LONG: i64 = 16 << 10;

/// Asks for the log to be folded.
#[derive(Debug)]
pub(super) struct Ask(SyncSender<()>);

impl Ask {
    /// Has the log folded soon.
    pub(super) fn ask(&self) {
        match self.0.try_send(()) {
            // Asked already, or it is being closed, which folds as well.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

/// Folds whenever it is asked.
#[derive(Debug)]
pub(super) struct Folding {
    conn: Connection,
    path: PathBuf,
    asked: Receiver<()>,
}

impl Folding {
    pub(super) fn new(path: &Path) -> Result<(Ask, Self), StateError> {
        let (ask, asked) = sync_channel(1);
        let (conn, path) = (schema::open_folding(path)?, path.to_owned());
        Ok((Ask(ask), Self { conn, path, asked }))
    }

    /// Serves until all who could ask are gone.
    pub(super) fn serve(self, writer: &Shared) {
        while self.asked.recv().is_ok() {
            // A reader in the middle of a question keeps its part of the log: that is for the next time.
            let folded = self.fold().and_then(|pages| {
                if pages < LONG {
                    return Ok(pages);
                }
                // What is left was written meanwhile, and is little.
                writer.alone(|| self.fold())
            });
            if let Err(e) = folded {
                debug!(path = %self.path.display(), error = %e, "the log of the state store is not folded yet");
            }
        }
    }

    /// Returns how many pages the log holds.
    fn fold(&self) -> Result<i64, StateError> {
        let fold = "PRAGMA wal_checkpoint(PASSIVE)";
        self.conn.query_row(fold, [], |row| row.get(1)).db()
    }
}
