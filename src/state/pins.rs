//! Pin rules: what is to be kept resident, who said so and why.
//!
//! Refuses to know: which files a rule means, what of them is here. Invariant: a project has one rule for one path or
//! pattern.

use rusqlite::Row;

use super::StateError;
use super::error::Db;
use super::node::{as_i64, bytes_at, count_at, ino_at};
use super::read::ReadTxn;
use super::write::WriteTxn;
use crate::model::Ino;

/// A rule to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPin {
    /// The project's folder.
    pub root: Ino,
    /// `what` is a pattern, not a path.
    pub is_glob: bool,
    /// A path below the project's folder, empty for all of it; or a pattern of such paths.
    pub what: Vec<u8>,
    /// Why, for people.
    pub note: Option<String>,
    /// Who said so.
    pub who: String,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// Its number.
    pub id: u64,
    /// What it says.
    pub rule: NewPin,
    /// Since when, milliseconds since 1970.
    pub at_ms: i64,
}

fn pin_at(row: &Row<'_>) -> Result<Pin, StateError> {
    Ok(Pin {
        id: count_at(row, 0)?,
        rule: NewPin {
            root: ino_at(row, 1)?,
            is_glob: row.get(2).db()?,
            what: bytes_at(row, 3)?.unwrap_or_default().to_vec(),
            note: row.get(4).db()?,
            who: row.get(5).db()?,
        },
        at_ms: row.get(6).db()?,
    })
}

impl ReadTxn<'_> {
    /// Returns all rules, also those of projects that are out of sight, the oldest first.
    pub fn pins(&self) -> Result<Vec<Pin>, StateError> {
        let sql = "SELECT id, root, is_glob, what, note, who, at_ms FROM pin ORDER BY id";
        self.many(sql, [], pin_at)
    }
}

impl WriteTxn<'_> {
    /// Stores a rule and returns its number. One that is there already keeps its number and its author; a note replaces the
    /// old one.
    pub fn add_pin(&self, pin: &NewPin, now_ms: i64) -> Result<u64, StateError> {
        let key = (as_i64(pin.root.0), pin.is_glob, pin.what.as_slice());
        self.run(
            "INSERT INTO pin (root, is_glob, what, note, who, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET note = ifnull(excluded.note, note)",
            (key.0, key.1, key.2, &pin.note, &pin.who, now_ms),
        )?;
        let sql = "SELECT id FROM pin WHERE root = ?1 AND is_glob = ?2 AND what = ?3";
        let id = self.one(sql, key, |row| count_at(row, 0))?;
        id.ok_or_else(|| StateError::damaged("a pin that was stored is not there".to_owned()))
    }

    /// Removes a rule; says whether it was there.
    pub fn remove_pin(&self, id: u64) -> Result<bool, StateError> {
        Ok(self.run("DELETE FROM pin WHERE id = ?1", [as_i64(id)])? == 1)
    }
}
