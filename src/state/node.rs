//! The plain values that go in and out of the store, and how rows become them.

use rusqlite::Row;

use super::StateError;
use super::error::Db;
use crate::model::{EntryKind, Ino, Name, ProjectName, RelPath, SiteName, Version};

/// A moment in the store's own order of things: what is looked at or written later has a greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(pub(super) u64);

impl Moment {
    /// After all that there is.
    pub const LAST: Self = Self(u64::MAX);
}

/// A file, folder or link of the drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of content or attributes, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Permission bits, where the site has them.
    pub perm: Option<u16>,
    /// Names that lead here (1 for folders).
    pub nlink: u32,
    /// Folders: how many folders are in it.
    pub subfolders: u32,
    /// Identity of the bytes at the project's remote site; `None` for folders, and where none is known.
    pub version: Option<Version>,
    /// Folders: when last listed whole, milliseconds since 1970.
    pub listed_at_ms: Option<i64>,
    /// Folders: the scan that has dealt with it last.
    pub listed_epoch: Option<u64>,
    /// Made or changed here: a listing of the site leaves it alone. Otherwise a mirror of what the site shows.
    pub own: bool,
    /// Owner and group, where set here.
    pub uid: Option<u32>,
    /// Group, where set here.
    pub gid: Option<u32>,
    /// Last access, nanoseconds since 1970, where set here.
    pub atime_ns: Option<i64>,
    /// Creation, nanoseconds since 1970, where made here.
    pub btime_ns: Option<i64>,
    /// Device number, of device nodes.
    pub rdev: u32,
    /// Own files: the number of the object in `local/` that holds the bytes; `None`: empty, or still at the site.
    pub object: Option<u64>,
    /// Own files: how many times writing began.
    pub generation: u64,
    /// Own files: being written; size and times are those of the object's file, not these.
    pub writing: bool,
    /// Own files whose bytes are still at the site: where.
    pub origin: Option<Box<Origin>>,
}

/// Where the bytes of a file that was moved here still are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Path under the project's remote path.
    pub path: RelPath,
    /// Their version there.
    pub version: Version,
}

/// One row of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    /// Its place in the folder: grows along the listing, survives changes around it, is never used again.
    pub cookie: u64,
    /// Its name.
    pub name: Name,
    /// What it is.
    pub node: Node,
}

/// An entry as a remote site shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The name in its folder.
    pub name: Name,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permission bits, where the site has them.
    pub perm: Option<u16>,
    /// Identity of the bytes (not kept for folders).
    pub version: Version,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// What a project is to the drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewProject {
    /// Its name in the configuration.
    pub name: ProjectName,
    /// Its folder in the drive.
    pub folder: Name,
    /// The site its bytes come from.
    pub remote_site: SiteName,
    /// Its path at that site.
    pub remote_path: RelPath,
}

/// A project that the store knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// Its root folder.
    pub root: Ino,
    /// Its name in the configuration.
    pub name: ProjectName,
    /// Its folder in the drive, now or when it was last in sight.
    pub folder: Name,
    /// The site its bytes come from.
    pub remote_site: SiteName,
    /// Its path at that site.
    pub remote_path: RelPath,
    /// No longer in the configuration: kept, out of sight.
    pub hidden: bool,
}

/// Entries of the whole drive, projects out of sight included, as of the last commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// All of them.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Folders, projects' roots included.
    pub folders: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of all regular files.
    pub bytes: u64,
}

/// One walk over a project's remote tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanRecord {
    /// Its number, unique in the store and growing.
    pub epoch: u64,
    /// When it began, milliseconds since 1970.
    pub started_ms: i64,
    /// When it was done; `None` while it runs or waits to be resumed.
    pub finished_ms: Option<i64>,
    /// Folders listed so far.
    pub folders: u64,
    /// Entries in them.
    pub entries: u64,
    /// Folders that could not be listed and were passed over.
    pub skipped: u64,
}

/// What a change did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// A folder was listed for the first time: all of its entries are new.
    Listed,
    /// An entry is new.
    Added,
    /// The bytes of a file changed, or the target of a link.
    Content,
    /// Attributes changed.
    Attributes,
    /// An entry is gone, with all that was in it.
    Removed,
    /// An entry has a new name or folder, which the row tells.
    Moved,
}

/// One row of the change log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its number; grows.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// What it did.
    pub what: ChangeKind,
    /// To whom.
    pub ino: Ino,
    /// In which folder.
    pub parent: Ino,
    /// Under which name.
    pub name: Name,
}

/// A page of the change log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// Rows after the one asked for have been trimmed: the reader has to start over from the tree itself.
    pub missed: bool,
    /// The rows, oldest first.
    pub rows: Vec<Change>,
}

/// What was applied to a folder changed this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListingDiff {
    /// The folder.
    pub dir: Ino,
    /// It had never been listed before.
    pub first: bool,
    /// Entries that are new.
    pub added: Vec<(Name, Ino)>,
    /// Entries that are not what they were, and whether their bytes changed (the target, of a link), not attributes alone.
    pub changed: Vec<(Ino, bool)>,
    /// Entries that are gone, with all that was in them.
    pub removed: Vec<(Name, Ino)>,
    /// All folders in the listing, new or not (of a single entry: that one, if it is a folder).
    pub subfolders: Vec<(Name, Ino)>,
}

impl ListingDiff {
    pub(super) fn new(dir: Ino, first: bool) -> Self {
        let (added, changed, removed, subfolders) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            dir,
            first,
            added,
            changed,
            removed,
            subfolders,
        }
    }

    /// Returns how many entries are new, different or gone.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.added.len() + self.changed.len() + self.removed.len()) as u64
    }
}

/// The columns of [`node_at`], for `inode AS i`.
macro_rules! node_columns {
    () => {
        "i.ino, i.kind, i.size, i.mtime_ns, i.ctime_ns, i.perm, i.nlink, i.version, i.listed_at_ms, i.listed_epoch, \
         i.own, i.uid, i.gid, i.atime_ns, i.btime_ns, i.rdev, i.object, i.gen, i.writing, i.origin, i.origin_version, i.subdirs"
    };
}
pub(super) use node_columns;

/// How many columns [`node_at`] takes.
pub(super) const NODE_WIDTH: usize = 22;

/// Reads the node whose columns begin at `at`.
pub(super) fn node_at(row: &Row<'_>, at: usize) -> Result<Node, StateError> {
    Ok(Node {
        ino: ino_at(row, at)?,
        kind: kind_at(row, at + 1)?,
        size: count_at(row, at + 2)?,
        mtime_ns: row.get(at + 3).db()?,
        ctime_ns: row.get(at + 4).db()?,
        perm: row.get(at + 5).db()?,
        nlink: row.get(at + 6).db()?,
        version: version_at(row, at + 7)?,
        listed_at_ms: row.get(at + 8).db()?,
        listed_epoch: Some(count_at(row, at + 9)?).filter(|epoch| *epoch > 0),
        own: row.get(at + 10).db()?,
        uid: row.get(at + 11).db()?,
        gid: row.get(at + 12).db()?,
        atime_ns: row.get(at + 13).db()?,
        btime_ns: row.get(at + 14).db()?,
        rdev: row.get(at + 15).db()?,
        object: row.get::<_, Option<i64>>(at + 16).db()?.map(i64::cast_unsigned),
        generation: count_at(row, at + 17)?,
        writing: row.get(at + 18).db()?,
        origin: origin_at(row, at + 19)?.map(Box::new),
        subfolders: row.get(at + 21).db()?,
    })
}

fn origin_at(row: &Row<'_>, at: usize) -> Result<Option<Origin>, StateError> {
    let Some(version) = version_at(row, at + 1)? else {
        return Ok(None);
    };
    let path = path_at(row, at)?;
    Ok(Some(Origin { path, version }))
}

pub(super) fn ino_at(row: &Row<'_>, at: usize) -> Result<Ino, StateError> {
    count_at(row, at).map(Ino)
}

/// Reads a number that is never negative.
pub(super) fn count_at(row: &Row<'_>, at: usize) -> Result<u64, StateError> {
    let value: i64 = row.get(at).db()?;
    u64::try_from(value).map_err(|_| StateError::damaged(format!("{value} where no number below 0 can be")))
}

pub(super) fn kind_at(row: &Row<'_>, at: usize) -> Result<EntryKind, StateError> {
    match row.get::<_, i64>(at).db()? {
        0 => Ok(EntryKind::File),
        1 => Ok(EntryKind::Dir),
        2 => Ok(EntryKind::Symlink),
        3 => Ok(EntryKind::Fifo),
        4 => Ok(EntryKind::Socket),
        5 => Ok(EntryKind::CharDevice),
        6 => Ok(EntryKind::BlockDevice),
        other => Err(StateError::damaged(format!("an entry of kind {other}"))),
    }
}

pub(super) fn kind_code(kind: EntryKind) -> i64 {
    match kind {
        EntryKind::File => 0,
        EntryKind::Dir => 1,
        EntryKind::Symlink => 2,
        EntryKind::Fifo => 3,
        EntryKind::Socket => 4,
        EntryKind::CharDevice => 5,
        EntryKind::BlockDevice => 6,
    }
}

pub(super) fn version_at(row: &Row<'_>, at: usize) -> Result<Option<Version>, StateError> {
    Ok(text_at(row, at)?.map(Version::new))
}

/// Reads text in place, without a copy.
pub(super) fn text_at<'r>(row: &'r Row<'_>, at: usize) -> Result<Option<&'r str>, StateError> {
    let value = row.get_ref(at).db()?;
    value.as_str_or_null().map_err(|e| StateError::damaged(e.to_string()))
}

/// Reads bytes in place, without a copy.
pub(super) fn bytes_at<'r>(row: &'r Row<'_>, at: usize) -> Result<Option<&'r [u8]>, StateError> {
    let value = row.get_ref(at).db()?;
    value.as_bytes_or_null().map_err(|e| StateError::damaged(e.to_string()))
}

pub(super) fn name_at(row: &Row<'_>, at: usize) -> Result<Name, StateError> {
    Name::new(bytes_at(row, at)?.unwrap_or_default()).map_err(|e| StateError::damaged(e.to_string()))
}

pub(super) fn path_at(row: &Row<'_>, at: usize) -> Result<RelPath, StateError> {
    RelPath::new(bytes_at(row, at)?.unwrap_or_default()).map_err(|e| StateError::damaged(e.to_string()))
}

/// A size, count or number as the database holds it; what exceeds 2^63 - 1 becomes that.
pub(super) fn as_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl ChangeKind {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Listed => 0,
            Self::Added => 1,
            Self::Content => 2,
            Self::Attributes => 3,
            Self::Removed => 4,
            Self::Moved => 5,
        }
    }

    pub(super) fn from_code(code: i64) -> Result<Self, StateError> {
        [
            Self::Listed,
            Self::Added,
            Self::Content,
            Self::Attributes,
            Self::Removed,
            Self::Moved,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
        .ok_or_else(|| StateError::damaged(format!("a change of kind {code}")))
    }
}
