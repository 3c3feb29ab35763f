//! Opening the database: what kind of file it is, its version, migrations, and how each connection is set up.
//!
//! Invariant: a file that is not ours, damaged or newer is left byte for byte as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use super::StateError;
use super::error::Db;

/// The database's name in the state folder.
pub(super) const FILE_NAME: &str = "state.sqlite";

/// "BkLt": what `file` and other tools see in bytes 68 to 71 of the database.
const APPLICATION_ID: i32 = 0x426b_4c74;

/// Numbered scripts; `PRAGMA user_version` counts those that have run.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/001_init.sql"),
    include_str!("migrations/002_writing.sql"),
    include_str!("migrations/003_pins.sql"),
    include_str!("migrations/004_notify.sql"),
    include_str!("migrations/005_between.sql"),
    include_str!("migrations/006_sites.sql"),
    include_str!("migrations/007_many_tasks.sql"),
    include_str!("migrations/008_labelled.sql"),
];

/// Page cache of the writing connection, in KiB.
const WRITER_CACHE_KIB: i64 = 8 << 10;
/// Page cache of each reading connection, in KiB: the inner pages of a million entries.
const READER_CACHE_KIB: i64 = 4 << 10;
/// Page cache of the connection that folds: it looks at none.
const FOLDING_CACHE_KIB: i64 = 64;
/// Statements kept compiled by each connection: more than the store has.
const STATEMENTS: usize = 192;
/// Readers and the writer don't block each other (WAL); this bounds what remains: recovery after a crash, a checkpoint.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Size to which the write-ahead log is cut after a large transaction, in bytes.
const WAL_KEEP_BYTES: i64 = 16 << 20;

pub(super) fn known_version() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Opens the connection that writes, after the file has been looked at; runs what migrations are missing.
pub(super) fn open_writer(path: &Path, quick_check: bool) -> Result<Connection, StateError> {
    let mut conn = Connection::open(path).db()?;
    // Closing the last connection folds the log into the database: not before we know that both are sound and ours.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .db()?;
    set_up(&conn, WRITER_CACHE_KIB)?;
    let version = version_of(&conn, path)?;
    if quick_check && version > 0 {
        let answer: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).db()?;
        if answer != "ok" {
            return Err(StateError::damaged(answer));
        }
    }
    if version == 0 {
        conn.pragma_update(None, "application_id", APPLICATION_ID).db()?;
        conn.pragma_update(None, "journal_mode", "wal").db()?;
    }
    migrate(&mut conn, version)?;
    // The writer says when, and another connection does it.
    conn.pragma_update(None, "wal_autocheckpoint", 0).db()?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES).db()?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .db()?;
    Ok(conn)
}

/// Opens the connection that folds the log into the database.
pub(super) fn open_folding(path: &Path) -> Result<Connection, StateError> {
    let conn = Connection::open(path).db()?;
    set_up(&conn, FOLDING_CACHE_KIB)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0).db()?;
    Ok(conn)
}

/// Opens a connection that reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StateError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).db()?;
    set_up(&conn, READER_CACHE_KIB)?;
    Ok(conn)
}

fn set_up(conn: &Connection, cache_kib: i64) -> Result<(), StateError> {
    conn.busy_timeout(BUSY).db()?;
    // Otherwise (the library is built with STAT4) a statement is compiled anew each time it gets new parameters, which
    // costs several times its run.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).db()?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.pragma_update(None, "cache_size", -cache_kib).db()?;
    conn.pragma_update(None, "foreign_keys", false).db()?;
    conn.pragma_update(None, "synchronous", "normal").db()?;
    Ok(())
}

/// Returns the version of the database behind a connection: 0 for one that is new and empty.
pub(super) fn version_of(conn: &Connection, path: &Path) -> Result<u32, StateError> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).db();
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .db()?;
    let (id, version) = (pragma("application_id")?, pragma("user_version")?);
    if id != i64::from(APPLICATION_ID) && (id != 0 || version != 0 || tables != 0) {
        return Err(StateError::NotADatabase(PathBuf::new()));
    }
    let found = u32::try_from(version).map_err(|_| StateError::damaged(format!("its version is {version}")))?;
    let known = known_version();
    if found > known {
        return Err(StateError::TooNew {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(found)
}

fn migrate(conn: &mut Connection, from: u32) -> Result<(), StateError> {
    for (script, number) in MIGRATIONS.iter().zip(1_u32..).filter(|(_, number)| *number > from) {
        let txn = conn.transaction().db()?;
        txn.execute_batch(script).db()?;
        txn.pragma_update(None, "user_version", number).db()?;
        if number == 1 {
            let uuid = Uuid::new_v4().to_string();
            txn.execute("INSERT INTO meta VALUES ('uuid', ?1)", [uuid]).db()?;
        }
        txn.commit().db()?;
    }
    Ok(())
}

pub(super) fn uuid_of(conn: &Connection) -> Result<Uuid, StateError> {
    let text: String = conn
        .query_row("SELECT value FROM meta WHERE key = 'uuid'", [], |row| row.get(0))
        .db()?;
    Uuid::parse_str(&text).map_err(|e| StateError::damaged(format!("its uuid is {text:?}: {e}")))
}
