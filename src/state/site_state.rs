//! Where files stand at sites, as rows by path.
//!
//! Owns: those rows. Refuses to know: the project's remote site (that is the tree), which sites share a storage, the queue:
//! whoever asks joins them. Invariants: a row with a version says what lies at the site under that path, and of which version
//! of the source it is a copy; what is wanted next changes neither. A question about a folder reads the rows of that folder
//! alone.

use rusqlite::Row;

use super::StateError;
use super::error::Db;
use super::node::{as_i64, count_at, name_at, version_at};
use super::read::ReadTxn;
use super::write::WriteTxn;
use crate::model::{Ino, Name, RelPath, SiteName, Version};

/// Where a file stands at a site; the numbers are AYON's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i8)]
pub enum SiteStatus {
    /// Not there.
    NotAvailable = -1,
    /// On its way.
    InProgress = 0,
    /// Waiting for its turn.
    Queued = 1,
    /// Given up for now.
    Failed = 2,
    /// Held back.
    Paused = 3,
    /// There.
    Synced = 4,
}

impl SiteStatus {
    /// All of them, by their numbers.
    pub const ALL: [Self; 6] = [
        Self::NotAvailable,
        Self::InProgress,
        Self::Queued,
        Self::Failed,
        Self::Paused,
        Self::Synced,
    ];

    /// Returns AYON's number for it.
    #[must_use]
    pub fn code(self) -> i8 {
        self as i8
    }

    /// Returns what AYON's number means.
    #[must_use]
    pub fn from_code(code: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }
}

/// Where one file stands at one site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteRow {
    /// The site.
    pub site: SiteName,
    /// Where the file stands.
    pub status: SiteStatus,
    /// What lies there; `None`: nothing, as far as is known.
    pub version: Option<Version>,
    /// A site that has the same bytes, and their version there: mostly the project's remote one.
    pub source: Option<(SiteName, Version)>,
    /// Bytes of what lies there, or is wanted there.
    pub size: u64,
    /// Attempts that failed.
    pub retries: u32,
    /// Why it is not there.
    pub error: Option<String>,
    /// When the row was written, milliseconds since 1970.
    pub at_ms: i64,
}

impl SiteRow {
    /// Nothing is known of a file at a site.
    #[must_use]
    pub fn new(site: SiteName, at_ms: i64) -> Self {
        Self {
            site,
            status: SiteStatus::NotAvailable,
            version: None,
            source: None,
            size: 0,
            retries: 0,
            error: None,
            at_ms,
        }
    }

    /// Says whether what lies there is what a site has as a version.
    #[must_use]
    pub fn is_copy_of(&self, site: &SiteName, version: &Version) -> bool {
        let is = |(known, of): &(SiteName, Version)| known == site && of == version;
        self.version.is_some() && self.source.as_ref().is_some_and(is)
    }

    /// Says whether two rows say the same, whenever they were written.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let at = |row: &Self| Self {
            at_ms: 0,
            ..row.clone()
        };
        at(self) == at(other)
    }
}

/// The columns of [`row_at`], for `site_file AS f`.
macro_rules! columns {
    () => {
        "f.site, f.state, f.version, f.source, f.source_version, f.size, f.retries, f.error, f.at_ms"
    };
}

fn row_at(row: &Row<'_>, at: usize) -> Result<SiteRow, StateError> {
    let code: i8 = row.get(at + 1).db()?;
    Ok(SiteRow {
        site: SiteName(row.get(at).db()?),
        status: SiteStatus::from_code(code)
            .ok_or_else(|| StateError::damaged(format!("a file stands at {code} at a site")))?,
        version: version_at(row, at + 2)?,
        source: row
            .get::<_, Option<String>>(at + 3)
            .db()?
            .map(SiteName)
            .zip(version_at(row, at + 4)?),
        size: count_at(row, at + 5)?,
        retries: row.get(at + 6).db()?,
        error: row.get(at + 7).db()?,
        at_ms: row.get(at + 8).db()?,
    })
}

fn split(path: &RelPath) -> Result<(RelPath, Name), StateError> {
    path.split_last()
        .ok_or_else(|| StateError::Invalid("a project's folder stands at no site: its files do".to_owned()))
}

impl ReadTxn<'_> {
    /// Returns what is known of a file at sites, by site; `path` is below the folder of the project `root`.
    pub fn site_rows(&self, root: Ino, path: &RelPath) -> Result<Vec<SiteRow>, StateError> {
        const SQL: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM site_folder AS d CROSS JOIN site_file AS f ON f.folder = d.id",
            " WHERE d.root = ?1 AND d.path = ?2 AND f.name = ?3 ORDER BY f.site"
        );
        let Some((dir, name)) = path.split_last() else {
            return Ok(Vec::new());
        };
        self.many(SQL, (as_i64(root.0), dir.as_bytes(), name.as_bytes()), |row| {
            row_at(row, 0)
        })
    }

    /// Returns what is known of the files of a folder, by name and site.
    pub fn site_rows_in(&self, root: Ino, dir: &RelPath) -> Result<Vec<(Name, SiteRow)>, StateError> {
        const SQL: &str = concat!(
            "SELECT f.name, ",
            columns!(),
            " FROM site_folder AS d CROSS JOIN site_file AS f ON f.folder = d.id",
            " WHERE d.root = ?1 AND d.path = ?2 ORDER BY f.name, f.site"
        );
        self.many(SQL, (as_i64(root.0), dir.as_bytes()), |row| {
            Ok((name_at(row, 0)?, row_at(row, 1)?))
        })
    }

    /// Says whether any file of a project is known to lie at a site. Where none is, that takes as long as the project has
    /// rows.
    pub fn has_any_at(&self, root: Ino, site: &SiteName) -> Result<bool, StateError> {
        let sql = "SELECT 1 FROM site_folder AS d CROSS JOIN site_file AS f ON f.folder = d.id \
                   WHERE d.root = ?1 AND f.site = ?2 AND f.version IS NOT NULL LIMIT 1";
        Ok(self.one(sql, (as_i64(root.0), &site.0), |_| Ok(()))?.is_some())
    }
}

impl WriteTxn<'_> {
    /// Writes down where a file stands at a site; `path` is below the folder of the project `root`.
    pub fn set_site_row(&self, root: Ino, path: &RelPath, row: &SiteRow) -> Result<(), StateError> {
        let (dir, name) = split(path)?;
        let folder = self.site_folder(root, &dir)?;
        let sql = "INSERT OR REPLACE INTO site_file \
                   (folder, name, site, state, version, source, source_version, size, retries, error, at_ms) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let params = (
            folder,
            name.as_bytes(),
            &row.site.0,
            row.status.code(),
            row.version.as_ref().map(Version::as_str),
            row.source.as_ref().map(|(site, _)| &site.0),
            row.source.as_ref().map(|(_, version)| version.as_str()),
            as_i64(row.size),
            row.retries,
            &row.error,
            row.at_ms,
        );
        self.run(sql, params)?;
        Ok(())
    }

    /// Notes that a file is wanted at a site, and not there in this form: what is known of what lies there stays.
    pub fn want_at_site(
        &self,
        root: Ino,
        path: &RelPath,
        site: &SiteName,
        size: u64,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let known = self.site_rows(root, path)?.into_iter().find(|row| row.site == *site);
        let row = SiteRow {
            status: SiteStatus::Queued,
            size,
            retries: 0,
            error: None,
            at_ms: now_ms,
            ..known.unwrap_or_else(|| SiteRow::new(site.clone(), now_ms))
        };
        self.set_site_row(root, path, &row)
    }

    /// Forgets where a file stands at a site; says whether anything was known.
    pub fn clear_site_row(&self, root: Ino, path: &RelPath, site: &SiteName) -> Result<bool, StateError> {
        let (dir, name) = split(path)?;
        let sql = "DELETE FROM site_file WHERE name = ?3 AND site = ?4 \
                   AND folder = (SELECT id FROM site_folder WHERE root = ?1 AND path = ?2)";
        let params = (as_i64(root.0), dir.as_bytes(), name.as_bytes(), &site.0);
        Ok(self.run(sql, params)? == 1)
    }

    fn site_folder(&self, root: Ino, dir: &RelPath) -> Result<i64, StateError> {
        let find = "SELECT id FROM site_folder WHERE root = ?1 AND path = ?2";
        let key = (as_i64(root.0), dir.as_bytes());
        if let Some(id) = self.one(find, key, |row| row.get(0).db())? {
            return Ok(id);
        }
        self.run("INSERT INTO site_folder (root, path) VALUES (?1, ?2)", key)?;
        Ok(self.conn.last_insert_rowid())
    }
}
