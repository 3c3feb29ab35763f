//! Facts beside the tree: where files stand at sites, the change log, counters.

use super::StateError;
use super::error::Db;
use super::node::{
    Change, ChangeKind, Changes, Counts, SiteState, SiteStatus, as_i64, count_at, ino_at, name_at, version_at,
};
use super::read::ReadTxn;
use super::write::WriteTxn;
use crate::model::{EntryKind, Ino, SiteName};

impl ReadTxn<'_> {
    /// Returns where a file stands at the sites that are known to have it or to be getting it, by site.
    ///
    /// Its project's remote site is among them without a row of its own: what the listing shows is there.
    pub fn site_states(&self, ino: Ino) -> Result<Vec<SiteState>, StateError> {
        let sql = "SELECT site, state, version, done_bytes, retries, error, at_ms FROM site_state WHERE ino = ?1 \
                   ORDER BY site";
        let mut states = self.many(sql, [as_i64(ino.0)], |row| {
            let code: i8 = row.get(1).db()?;
            Ok(SiteState {
                site: SiteName(row.get(0).db()?),
                status: SiteStatus::from_code(code)
                    .ok_or_else(|| StateError::damaged(format!("a file stands at {code} at a site")))?,
                version: version_at(row, 2)?,
                done_bytes: count_at(row, 3)?,
                retries: row.get(4).db()?,
                error: row.get(5).db()?,
                at_ms: row.get(6).db()?,
            })
        })?;
        let node = self
            .node(ino)?
            .filter(|node| node.kind != EntryKind::Dir && node.version.is_some());
        if let Some(node) = node
            && let Some((project, _)) = self.project_of(ino)?
            && let Err(at) = states.binary_search_by(|state| state.site.cmp(&project.remote_site))
        {
            let state = SiteState {
                site: project.remote_site,
                status: SiteStatus::Synced,
                version: node.version,
                done_bytes: node.size,
                retries: 0,
                error: None,
                at_ms: node.ctime_ns / 1_000_000,
            };
            states.insert(at, state);
        }
        Ok(states)
    }

    /// Returns how much the store holds; costs the same however much that is.
    pub fn counts(&self) -> Result<Counts, StateError> {
        let mut counts = Counts::default();
        let rows = self.many(
            "SELECT key, value FROM meta WHERE key IN ('files', 'folders', 'symlinks', 'bytes')",
            [],
            |row| Ok((row.get::<_, String>(0).db()?, count_at(row, 1)?)),
        )?;
        for (key, value) in rows {
            counts.entries += if key == "bytes" { 0 } else { value };
            match key.as_str() {
                "files" => counts.files = value,
                "folders" => counts.folders = value,
                "symlinks" => counts.symlinks = value,
                _ => counts.bytes = value,
            }
        }
        Ok(counts)
    }

    pub(super) fn next_id(&self) -> Result<u64, StateError> {
        self.one("SELECT value FROM meta WHERE key = 'next_id'", [], |row| {
            count_at(row, 0)
        })?
        .ok_or_else(|| StateError::damaged("the next number is missing"))
    }

    /// Returns the number of the newest row of the change log (0: none yet).
    pub fn last_seq(&self) -> Result<u64, StateError> {
        let seq = self.one("SELECT max(seq) FROM change_log", [], |row| {
            row.get::<_, Option<i64>>(0).db()
        })?;
        Ok(seq.flatten().map_or(0, i64::cast_unsigned))
    }

    /// Returns up to `limit` rows of the change log after a number (0: from the oldest that is kept).
    pub fn changes_since(&self, seq: u64, limit: usize) -> Result<Changes, StateError> {
        let first = self
            .one("SELECT min(seq) FROM change_log", [], |row| {
                row.get::<_, Option<i64>>(0).db()
            })?
            .flatten();
        let sql = "SELECT seq, at_ms, what, ino, parent, name FROM change_log WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let rows = self.many(sql, (as_i64(seq), as_i64(limit as u64)), |row| {
            Ok(Change {
                seq: count_at(row, 0)?,
                at_ms: row.get(1).db()?,
                what: ChangeKind::from_code(row.get(2).db()?)?,
                ino: ino_at(row, 3)?,
                parent: ino_at(row, 4)?,
                name: name_at(row, 5)?,
            })
        })?;
        Ok(Changes {
            missed: first.is_some_and(|first| as_i64(seq) + 1 < first),
            rows,
        })
    }
}

impl WriteTxn<'_> {
    /// Writes down where a file stands at a site.
    pub fn set_site_state(&self, ino: Ino, state: &SiteState) -> Result<(), StateError> {
        let node = self.node(ino)?.ok_or(StateError::NoSuchNode(ino))?;
        if node.kind == EntryKind::Dir {
            return Err(StateError::Invalid(format!(
                "the number {ino} is a folder's, and only files stand at sites"
            )));
        }
        self.run(
            "INSERT OR REPLACE INTO site_state (ino, site, state, version, done_bytes, retries, error, at_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                as_i64(ino.0),
                &state.site.0,
                state.status.code(),
                state.version.as_ref().map(|version| version.as_str()),
                as_i64(state.done_bytes),
                state.retries,
                &state.error,
                state.at_ms,
            ),
        )?;
        Ok(())
    }

    /// Forgets where a file stands at a site; says whether anything was written down.
    pub fn clear_site_state(&self, ino: Ino, site: &SiteName) -> Result<bool, StateError> {
        Ok(self.run(
            "DELETE FROM site_state WHERE ino = ?1 AND site = ?2",
            (as_i64(ino.0), &site.0),
        )? == 1)
    }
}
