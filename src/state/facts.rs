//! Facts beside the tree: the change log, counters.

use super::StateError;
use super::error::Db;
use super::node::{Change, ChangeKind, Changes, Counts, as_i64, count_at, ino_at, name_at};
use super::read::ReadTxn;

impl ReadTxn<'_> {
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
