//! What copies put where: which version of a file came to which site, from which version of its source.
//!
//! Owns: the record by which a later copy knows that a file is there already, and that what is there is ours to replace.
//! Refuses to know: how it came there. Invariant: a row says what was true when the copy ended; whoever relies on it holds
//! both versions against what the sites have now.

use super::StateError;
use super::error::Db;
use super::node::{as_i64, version_at};
use super::read::ReadTxn;
use super::write::WriteTxn;
use crate::model::{Ino, RelPath, SiteName, Version};

/// A file that is at a site now, by a copy, or was found to be there already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The project's root folder.
    pub root: Ino,
    /// The path below the project's folder.
    pub path: RelPath,
    /// The site it came from, or is the same as at.
    pub source: SiteName,
    /// Its version there.
    pub source_version: Version,
    /// The site it is at.
    pub target: SiteName,
    /// Its version there.
    pub version: Version,
    /// Length in bytes.
    pub size: u64,
    /// Modification time at the source, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// It was there already: nothing was sent.
    pub skipped: bool,
    /// When, milliseconds since 1970.
    pub now_ms: i64,
}

/// The last copy of a file to a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The site it came from.
    pub source: SiteName,
    /// Its version there, at the time.
    pub source_version: Version,
    /// The version that came of it.
    pub version: Version,
}

impl ReadTxn<'_> {
    /// Returns what a copy put at a site under a path, the last time.
    pub fn copied(&self, root: Ino, path: &RelPath, target: &SiteName) -> Result<Option<Copied>, StateError> {
        let sql = "SELECT source, source_version, version FROM copied WHERE root = ?1 AND path = ?2 AND target = ?3";
        let read = |row: &rusqlite::Row<'_>| {
            let (source, version) = (version_at(row, 1)?, version_at(row, 2)?);
            Ok(Copied {
                source: SiteName(row.get(0).db()?),
                source_version: source.unwrap_or_else(|| Version::new("")),
                version: version.unwrap_or_else(|| Version::new("")),
            })
        };
        self.one(sql, (as_i64(root.0), path.as_bytes(), &target.0), read)
    }
}

impl WriteTxn<'_> {
    /// Takes note of a file that is at a site. Part of the write that ends its task.
    pub fn arrived(&self, arrival: &Arrival) -> Result<(), StateError> {
        let sql = "INSERT INTO copied (root, path, target, source, source_version, version, at_ms) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET source = excluded.source, \
                   source_version = excluded.source_version, version = excluded.version, at_ms = excluded.at_ms";
        let params = (
            as_i64(arrival.root.0),
            arrival.path.as_bytes(),
            &arrival.target.0,
            &arrival.source.0,
            arrival.source_version.as_str(),
            arrival.version.as_str(),
            arrival.now_ms,
        );
        self.run(sql, params)?;
        Ok(())
    }
}
