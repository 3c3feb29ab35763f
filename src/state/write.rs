//! One write: what it may do to rows, and what it has to remember for the commit that follows.
//!
//! Invariant: numbers handed out are never handed out again, not even when the write is undone.

use std::cell::{Cell, RefCell};
use std::ops::Deref;

use rusqlite::{Connection, Params};

use super::StateError;
use super::cache::Touched;
use super::error::Db;
use super::node::{ChangeKind, Counts, as_i64};
use super::read::ReadTxn;
use crate::model::{EntryKind, Ino};

/// A write in progress. Each change fails when the database does; what else can fail is said there. It also answers all questions of a [`ReadTxn`], with its own changes in view (but for
/// [`ReadTxn::counts`]).
#[derive(Debug)]
pub struct WriteTxn<'c> {
    read: ReadTxn<'c>,
    next_id: &'c Cell<u64>,
    pub(super) counts: Cell<Delta>,
    pub(super) touched: RefCell<Touched>,
    pub(super) logged: Cell<bool>,
}

/// What a write adds to [`Counts`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta {
    files: i64,
    folders: i64,
    symlinks: i64,
    bytes: i64,
}

impl Delta {
    pub(super) fn of(kind: EntryKind, entries: i64, bytes: i64) -> Self {
        match kind {
            EntryKind::File => Self {
                files: entries,
                bytes,
                ..Self::default()
            },
            EntryKind::Dir => Self {
                folders: entries,
                ..Self::default()
            },
            EntryKind::Symlink => Self {
                symlinks: entries,
                ..Self::default()
            },
            // Pipes, sockets and devices are too few to be told about.
            EntryKind::Fifo | EntryKind::Socket | EntryKind::CharDevice | EntryKind::BlockDevice => Self::default(),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            folders: self.folders + other.folders,
            symlinks: self.symlinks + other.symlinks,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(super) fn added_to(self, to: Counts) -> Counts {
        Counts {
            entries: to
                .entries
                .saturating_add_signed(self.files + self.folders + self.symlinks),
            files: to.files.saturating_add_signed(self.files),
            folders: to.folders.saturating_add_signed(self.folders),
            symlinks: to.symlinks.saturating_add_signed(self.symlinks),
            bytes: to.bytes.saturating_add_signed(self.bytes),
        }
    }
}

impl<'c> Deref for WriteTxn<'c> {
    type Target = ReadTxn<'c>;
    fn deref(&self) -> &ReadTxn<'c> {
        &self.read
    }
}

impl<'c> WriteTxn<'c> {
    pub(super) fn new(conn: &'c Connection, next_id: &'c Cell<u64>) -> Self {
        Self {
            read: ReadTxn { conn },
            next_id,
            counts: Cell::default(),
            touched: RefCell::default(),
            logged: Cell::default(),
        }
    }

    pub(super) fn run(&self, sql: &str, params: impl Params) -> Result<usize, StateError> {
        let mut statement = self.conn.prepare_cached(sql).db()?;
        let changed = statement.execute(params).db();
        #[cfg(test)]
        super::steps::add(&statement);
        changed
    }

    /// Returns a number for an inode or a cookie.
    pub(super) fn new_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Changes nothing that matters, so that there is something to commit: a durable write with it makes all that was
    /// committed before survive a power cut too.
    pub fn mark(&self) {
        self.new_id();
    }

    pub(super) fn count(&self, delta: Delta) {
        self.counts.set(self.counts.get().plus(delta));
    }

    pub(super) fn touch_node(&self, ino: Ino) {
        self.touched.borrow_mut().node(ino);
    }

    pub(super) fn touch_name(&self, parent: Ino, name: &[u8]) {
        self.touched.borrow_mut().name(parent, name);
    }

    /// Adds a row to the change log.
    pub(super) fn log(
        &self,
        now_ms: i64,
        what: ChangeKind,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> Result<(), StateError> {
        self.logged.set(true);
        let sql = "INSERT INTO change_log (at_ms, what, ino, parent, name) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.run(sql, (now_ms, what.code(), as_i64(ino.0), as_i64(parent.0), name))?;
        Ok(())
    }
}
