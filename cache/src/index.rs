//! The index: one private SQLite file that says which granules of which content are in the data files.
//!
//! Owns: the schema, its version, the clean-stop mark. Refuses to know: data files, what is live, when to write.
//! Invariant: a batch is one transaction, and after it the row of each content in it holds the sum of its segments, so that
//! nothing has to be made good at an opening. Rows say what was true of bytes already written, never more; nothing here is
//! trusted beyond that, because each granule is checked against its checksum before it is served.
//!
//! Two connections: segments are looked up while a batch or a checkpoint is being written.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::error::free_bytes;
use crate::evict::{Looking, Summary};
use crate::segments::{BITMAP_BYTES, Bitmap, Bits, Layout, Segment, SegmentKey};
use crate::sync::lock;
use crate::{CacheError, ContentId};

/// "bklc": tells our file from any other SQLite file.
const APPLICATION_ID: i64 = 0x626b_6c63;
/// Any other number is another layout, but for those of [`UPGRADES`]: the cache starts empty rather than guess.
const SCHEMA_VERSION: i64 = 3;
/// What makes the next version of version 1, and so on.
const UPGRADES: &[&str] = &[
    "ALTER TABLE contents ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE contents ADD COLUMN verified INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE meta ADD COLUMN looking BLOB; ALTER TABLE meta ADD COLUMN looked INTEGER NOT NULL DEFAULT 0;
     DELETE FROM segments WHERE key NOT IN (SELECT key FROM contents);
     UPDATE contents SET resident_bytes =
         coalesce((SELECT sum(s.resident_bytes) FROM segments s WHERE s.key = contents.key), 0)",
];
const SCHEMA: &str = "
    CREATE TABLE meta (clean INTEGER NOT NULL, looking BLOB, looked INTEGER NOT NULL DEFAULT 0);
    INSERT INTO meta (clean) VALUES (1);
    CREATE TABLE contents (
        id BLOB PRIMARY KEY, key INTEGER NOT NULL, len INTEGER NOT NULL,
        resident_bytes INTEGER NOT NULL, last_use INTEGER NOT NULL, pinned INTEGER NOT NULL DEFAULT 0,
        verified INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE segments (
        key INTEGER NOT NULL, no INTEGER NOT NULL, resident_bytes INTEGER NOT NULL,
        bitmap BLOB NOT NULL, checksums BLOB NOT NULL, PRIMARY KEY (key, no)
    );";

pub(crate) struct Index {
    path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

/// What an index knew when it was opened.
pub(crate) struct Found {
    pub(crate) contents: Vec<(ContentId, Summary)>,
    /// A look at a content that had not come to its end.
    pub(crate) looking: Looking,
    /// Greater than any key in it.
    pub(crate) next_key: u64,
    /// It was just created: whatever data files lie around belong to nobody.
    pub(crate) is_new: bool,
    pub(crate) was_clean: bool,
}

/// Changes to be written in one transaction.
#[derive(Default)]
pub(crate) struct Batch {
    /// `None`: the content is gone.
    pub(crate) rows: Vec<(ContentId, Option<Summary>)>,
    /// Each with its content, whose row is among `rows`.
    pub(crate) segments: Vec<(ContentId, SegmentKey, Layout, Arc<Segment>)>,
    /// Keys whose segments are void.
    pub(crate) dead: Vec<u64>,
    /// Where the look at the contents is, if that changed.
    pub(crate) looking: Option<Looking>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.segments.is_empty() && self.dead.is_empty() && self.looking.is_none()
    }
}

/// An index error, sorted: `damaged` means that the file must be started anew.
pub(crate) struct IndexError {
    pub(crate) damaged: bool,
    pub(crate) error: CacheError,
}

impl IndexError {
    fn new(op: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let code = source.sqlite_error_code();
        let damaged = matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SchemaChanged))
            || matches!(code, Some(ErrorCode::Unknown)) // "no such table": ours always has them
            || matches!(
                source,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
                    | rusqlite::Error::QueryReturnedNoRows
            );
        let error = match code {
            Some(ErrorCode::DiskFull) => CacheError::Full {
                needed: 0,
                available: free_bytes(path).unwrap_or(0),
            },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => CacheError::ReadOnly { path: path.to_owned() },
            _ => CacheError::Index {
                op,
                source: Box::new(source),
            },
        };
        Self { damaged, error }
    }

    fn damaged(op: &'static str, why: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            damaged: true,
            error: CacheError::Index { op, source: why.into() },
        }
    }
}

pub(crate) fn index_path(dir: &Path) -> PathBuf {
    dir.join("index.sqlite")
}

/// Deletes the index with its side files. The data files it spoke of are unknown from then on.
pub(crate) fn remove(dir: &Path) -> Result<(), CacheError> {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(CacheError::from_io("delete", &path, 0, e)),
            _ => {}
        }
    }
    Ok(())
}

impl Index {
    /// Opens or creates the index of `dir` and marks it as running.
    ///
    /// # Errors
    /// `damaged` for a file that is not an index of this version.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Found), IndexError> {
        let path = index_path(dir);
        let fail = |e| IndexError::new("open", &path, e);
        let mut writer = connect(&path, OpenFlags::SQLITE_OPEN_CREATE).map_err(fail)?;
        let is_new = prepare(&writer).map_err(fail)?;
        if is_new {
            let tx = writer
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(fail)?;
            tx.execute_batch(SCHEMA).map_err(fail)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(fail)?;
            tx.commit().map_err(fail)?;
        }
        let is_ours = pragma(&writer, "application_id").map_err(fail)? == APPLICATION_ID;
        let mut version = pragma(&writer, "user_version").map_err(fail)?;
        for (upgrade, next) in UPGRADES.iter().zip(2..).filter(|_| is_ours) {
            if version == next - 1 {
                let tx = writer
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .map_err(fail)?;
                tx.execute_batch(upgrade).map_err(fail)?;
                tx.pragma_update(None, "user_version", next).map_err(fail)?;
                tx.commit().map_err(fail)?;
                version = next;
            }
        }
        if version != SCHEMA_VERSION || !is_ours {
            return Err(IndexError::damaged(
                "open",
                format!("not an index of version {SCHEMA_VERSION} (it says {version})"),
            ));
        }
        let was_clean: bool = writer
            .query_row("SELECT clean FROM meta", [], |row| row.get(0))
            .map_err(fail)?;
        writer.execute("UPDATE meta SET clean = 0", []).map_err(fail)?;
        let contents = read_contents(&writer).map_err(fail)?;
        let looking = writer
            .query_row("SELECT looking, looked FROM meta", [], |row| {
                let id: Option<[u8; 16]> = row.get(0)?;
                let at = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                Ok(id.map(|id| (ContentId(id), at)))
            })
            .map_err(fail)?;
        let last_segment: Option<i64> = writer
            .query_row("SELECT max(key) FROM segments", [], |row| row.get(0))
            .map_err(fail)?;
        let last_segment = last_segment.and_then(|key| u64::try_from(key).ok()).unwrap_or(0);
        let next_key = contents.iter().map(|(_, s)| s.key).fold(last_segment, u64::max) + 1;
        let reader = connect(&path, OpenFlags::empty()).map_err(fail)?;
        let index = Self {
            path,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
        };
        Ok((
            index,
            Found {
                contents,
                looking,
                next_key,
                is_new,
                was_clean,
            },
        ))
    }

    /// The bits of a segment that really has `granules` granules; all empty if there is no row.
    pub(crate) fn segment(&self, key: SegmentKey, granules: usize) -> Result<Bits, IndexError> {
        let fail = |e| IndexError::new("read", &self.path, e);
        let reader = lock(&self.reader);
        let mut query = reader
            .prepare_cached("SELECT bitmap, checksums FROM segments WHERE key = ?1 AND no = ?2")
            .map_err(fail)?;
        let row = query
            .query_row(params![signed(key.content), signed(key.no)], |row| {
                Ok((row.get::<_, [u8; BITMAP_BYTES]>(0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .optional()
            .map_err(fail)?;
        let Some((bitmap, checksums)) = row else {
            return Ok(Bits::empty(granules));
        };
        let (words, rest) = checksums.as_chunks::<8>();
        let checksums: Box<[u64]> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
        if checksums.len() != granules || !rest.is_empty() {
            return Err(IndexError::damaged("read", "a segment's row has the wrong length"));
        }
        Bits::stored(Bitmap::from_bytes(&bitmap), checksums)
            .ok_or_else(|| IndexError::damaged("read", "a segment's row has granules beyond its end"))
    }

    /// Writes a batch in one transaction: all of it or nothing. Void keys win over segments of the same batch.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), IndexError> {
        let fail = |e| IndexError::new("write", &self.path, e);
        let mut writer = lock(&self.writer);
        let tx = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        write_batch(&tx, batch).map_err(fail)?;
        tx.commit().map_err(fail)
    }

    /// Notes that everything is written and the process stops in good order.
    pub(crate) fn mark_clean(&self) -> Result<(), IndexError> {
        let marked = lock(&self.writer).execute("UPDATE meta SET clean = 1", []);
        marked.map(drop).map_err(|e| IndexError::new("write", &self.path, e))
    }
}

fn connect(path: &Path, create: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // The flock on the folder keeps other processes out; NORMAL loses at most the last rows in a power cut, never order.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 16777216;
         PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;",
    )?;
    Ok(connection)
}

/// True for a file without any table: one that was just created.
fn prepare(connection: &Connection) -> rusqlite::Result<bool> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(tables == 0 && pragma(connection, "user_version")? == 0)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn read_contents(connection: &Connection) -> rusqlite::Result<Vec<(ContentId, Summary)>> {
    let mut query =
        connection.prepare("SELECT id, key, len, resident_bytes, last_use, pinned, verified FROM contents")?;
    let rows = query.query_map([], |row| {
        let number = |column| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
        let (key, len, last_use) = (number(1)?, number(2)?, number(4)?);
        let summary = Summary {
            key,
            len,
            resident: number(3)?.min(len),
            last_use,
            pinned: row.get(5)?,
            verified: number(6)?,
        };
        Ok((ContentId(row.get(0)?), summary))
    })?;
    rows.collect()
}

fn write_batch(tx: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached("INSERT OR REPLACE INTO segments VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut clear = tx.prepare_cached("DELETE FROM segments WHERE key = ?1 AND no = ?2")?;
    for (key, resident, segment) in snapshots(&batch.segments) {
        let (content, no) = (signed(key.content), signed(key.no));
        match segment {
            Some((bitmap, checksums)) => put.execute(params![content, no, signed(resident), bitmap, checksums])?,
            None => clear.execute(params![content, no])?,
        };
    }
    let mut void = tx.prepare_cached("DELETE FROM segments WHERE key = ?1")?;
    for &key in &batch.dead {
        void.execute([signed(key)])?;
    }
    let mut name = tx.prepare_cached(
        "INSERT OR REPLACE INTO contents VALUES (?1, ?2, ?3,
            coalesce((SELECT sum(resident_bytes) FROM segments WHERE key = ?2), 0), ?4, ?5, ?6)",
    )?;
    let mut forget = tx.prepare_cached("DELETE FROM contents WHERE id = ?1")?;
    for (id, summary) in &batch.rows {
        match summary {
            Some(s) => name.execute(params![
                id.0,
                signed(s.key),
                signed(s.len),
                signed(s.last_use),
                s.pinned,
                signed(s.verified)
            ])?,
            None => forget.execute([id.0])?,
        };
    }
    if let Some(looking) = batch.looking {
        let (id, at) = looking.unzip();
        tx.execute(
            "UPDATE meta SET looking = ?1, looked = ?2",
            params![id.map(|id| id.0), signed(at.unwrap_or(0))],
        )?;
    }
    Ok(())
}

type Blobs = Option<([u8; BITMAP_BYTES], Vec<u8>)>;

/// Each segment as it is now, with the bytes its bits stand for, computed from the same look: `None` if it has no granule.
fn snapshots(
    segments: &[(ContentId, SegmentKey, Layout, Arc<Segment>)],
) -> impl Iterator<Item = (SegmentKey, u64, Blobs)> + '_ {
    segments.iter().map(|(_, key, layout, segment)| {
        segment.read(|bits| {
            let blobs = (!bits.present().is_empty()).then(|| {
                let checksums = bits.checksums().iter().flat_map(|c| c.to_le_bytes()).collect();
                (bits.present().to_bytes(), checksums)
            });
            (*key, bits.resident_bytes(key.no, *layout), blobs)
        })
    })
}

/// SQLite's integers are signed. Lengths and counters beyond 2^63 do not exist.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = crate::GRANULE;

    fn open(dir: &Path) -> (Index, Found) {
        Index::open(dir).map_err(|e| e.error).unwrap()
    }

    /// A batch that names content 1 with key 10 and `claimed` bytes, and writes two granules of it and one of key 99.
    fn batch(claimed: u64) -> Batch {
        let layout = Layout { len: 5 * G };
        let segment = Arc::new(Segment::default());
        segment.load(|| Ok::<_, ()>(Bits::empty(5))).unwrap();
        segment.write(|bits| assert!(bits.insert(1, 11, 1) && bits.insert(4, 44, 1)));
        let at = |content| SegmentKey { content, no: 0 };
        Batch {
            rows: vec![(
                ContentId([1; 16]),
                Some(Summary {
                    key: 10,
                    len: 5 * G,
                    resident: claimed,
                    last_use: 3,
                    pinned: true,
                    verified: 5,
                }),
            )],
            segments: vec![
                (ContentId([1; 16]), at(10), layout, Arc::clone(&segment)),
                (ContentId([9; 16]), at(99), layout, segment),
            ],
            dead: Vec::new(),
            looking: Some(Some((ContentId([1; 16]), G))),
        }
    }

    fn resident(found: &Found) -> Vec<u64> {
        found.contents.iter().map(|(_, s)| s.resident).collect()
    }

    fn segments_in(index: &Index) -> i64 {
        lock(&index.reader)
            .query_row("SELECT count(*) FROM segments", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn rows_hold_the_sum_of_their_segments_whatever_is_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let (index, found) = open(dir.path());
        assert!(found.is_new && found.was_clean);
        index.commit(&batch(G)).map_err(|e| e.error).unwrap();
        drop(index);
        // As after a kill.
        let (index, found) = open(dir.path());
        assert!(!found.is_new && !found.was_clean);
        assert_eq!(resident(&found), vec![2 * G]);
        assert_eq!(
            (found.looking, found.contents[0].1.verified),
            (Some((ContentId([1; 16]), G)), 5)
        );
        assert_eq!(
            found.next_key, 100,
            "greater than any in it, though a segment be of no content"
        );
        index.mark_clean().map_err(|e| e.error).unwrap();
        drop(index);
        let (index, found) = open(dir.path());
        assert!(found.was_clean);
        assert_eq!(resident(&found), vec![2 * G]);
        assert_eq!(segments_in(&index), 2);
    }

    #[test]
    fn an_index_of_the_first_version_keeps_what_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = open(dir.path());
        index.commit(&batch(2 * G)).map_err(|e| e.error).unwrap();
        lock(&index.writer)
            .execute_batch(
                "ALTER TABLE contents DROP COLUMN pinned; ALTER TABLE contents DROP COLUMN verified;
                 ALTER TABLE meta DROP COLUMN looking; ALTER TABLE meta DROP COLUMN looked; PRAGMA user_version = 1",
            )
            .unwrap();
        lock(&index.writer)
            .execute("UPDATE contents SET resident_bytes = 1", [])
            .unwrap();
        drop(index);
        let (index, found) = open(dir.path());
        assert_eq!(
            (resident(&found), segments_in(&index)),
            (vec![2 * G], 1),
            "made good once"
        );
        assert!(!found.contents[0].1.pinned && found.contents[0].1.verified == 0);
        index.commit(&batch(2 * G)).map_err(|e| e.error).unwrap();
        drop(index);
        let (_index, found) = open(dir.path());
        assert!(found.contents[0].1.pinned, "the mark comes back");
    }

    #[test]
    fn a_segment_comes_back_as_it_was_and_void_keys_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = open(dir.path());
        index
            .commit(&Batch {
                dead: vec![99],
                ..batch(2 * G)
            })
            .map_err(|e| e.error)
            .unwrap();
        let at = |content| SegmentKey { content, no: 0 };
        let bits = index.segment(at(10), 5).map_err(|e| e.error).unwrap();
        assert_eq!(bits.present().iter().collect::<Vec<_>>(), vec![1, 4]);
        assert_eq!((bits.check_due(1, 1), bits.check_due(4, 1)), (Some(11), Some(44)));
        assert!(index.segment(at(99), 5).is_ok_and(|bits| bits.present().is_empty()));
        assert!(
            index.segment(at(10), 6).is_err_and(|e| e.damaged),
            "not the segment that was asked for"
        );
    }
}
