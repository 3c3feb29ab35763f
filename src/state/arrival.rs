//! What copies put where: which version of a file came to which site, from which version of its source.
//!
//! Owns: the record by which a later copy knows that a file is there already, and that what is there is ours to replace.
//! Refuses to know: how it came there. Invariant: a row says what was true when the copy ended; whoever relies on it holds
//! both versions against what the sites have now.

use super::StateError;
use super::error::Db;
use super::node::as_i64;
use super::read::ReadTxn;
use super::site_state::{SiteRow, SiteStatus};
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
        let row = self.site_rows(root, path)?.into_iter().find(|row| row.site == *target);
        let copied = row.and_then(|row| {
            let (version, (source, source_version)) = (row.version?, row.source?);
            Some(Copied {
                source,
                source_version,
                version,
            })
        });
        Ok(copied)
    }

    fn remote_site(&self, root: Ino) -> Result<Option<SiteName>, StateError> {
        let sql = "SELECT remote_site FROM project WHERE root = ?1";
        self.one(sql, [as_i64(root.0)], |row| row.get(0).db().map(SiteName))
    }
}

impl WriteTxn<'_> {
    /// Takes note of a file that is at a site. Part of the write that ends its task.
    ///
    /// Where it came from a site that has it from the project's remote one, it is that one's too.
    pub fn arrived(&self, arrival: &Arrival) -> Result<(), StateError> {
        let Arrival {
            root,
            path,
            source,
            source_version,
            target,
            ..
        } = arrival;
        let mut of = (source.clone(), source_version.clone());
        let remote = self
            .remote_site(*root)?
            .filter(|remote| remote != source && remote != target);
        if let Some(remote) = remote {
            let known = self.copied(*root, path, source)?;
            if let Some(known) = known.filter(|known| known.version == *source_version && known.source == remote) {
                of = (remote, known.source_version);
            }
        }
        let row = SiteRow {
            status: SiteStatus::Synced,
            version: Some(arrival.version.clone()),
            source: Some(of),
            size: arrival.size,
            ..SiteRow::new(target.clone(), arrival.now_ms)
        };
        self.set_site_row(*root, path, &row)
    }
}
