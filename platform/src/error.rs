//! The error of a file operation and the one table from its kind to what the kernel is told.
//!
//! Owns: [`FsErrorKind`] and its errno. Refuses to know: what went wrong inside; the cause travels as a source for the log.

use std::error::Error as StdError;
use std::fmt;

/// Why an operation failed, in the kernel's terms. Every kind has exactly one errno (and, on Windows, one NTSTATUS).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FsErrorKind {
    /// No such entry.
    NotFound,
    /// The entry exists already.
    Exists,
    /// A folder was needed.
    NotDir,
    /// A file was needed.
    IsDir,
    /// The folder still has entries.
    NotEmpty,
    /// Not permitted for this caller.
    Denied,
    /// Refused by a rule of the project, whoever asks.
    NotPermitted,
    /// The path is read-only.
    ReadOnly,
    /// The cache or the disk below it is full.
    CacheFull,
    /// The disk that keeps what is written is full.
    NoSpace,
    /// The file would be longer than a file can be.
    FileTooLarge,
    /// The node has as many names as it can have.
    TooManyLinks,
    /// The site's quota is used up.
    RemoteQuota,
    /// The remote file is not the one that was opened any more.
    RemoteChanged,
    /// The node's names lead to another node by now. Whoever came by a name finds that by looking it up again, as the kernel
    /// does by itself.
    Left,
    /// In use.
    Busy,
    /// The site can't be reached and the bytes are not here.
    Offline,
    /// No byte arrived within the deadline.
    TimedOut,
    /// The caller gave up waiting.
    Interrupted,
    /// The name is longer than 255 bytes, or a link's target than 4095.
    NameTooLong,
    /// An argument makes no sense.
    Invalid,
    /// No such extended attribute.
    NoAttr,
    /// The extended attribute does not fit the caller's buffer.
    Range,
    /// Not offered by this drive.
    Unsupported,
    /// The handle is not open.
    BadHandle,
    /// A link across two drives or two projects with other rules.
    CrossDevice,
    /// Beyond the end of the file, for a search for data or holes.
    PastEnd,
    /// The bytes are not here, and nothing is fetched for the program that asks.
    HeldBack,
    /// Anything else.
    Io,
}

impl FsErrorKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 29] = [
        Self::NotFound,
        Self::Exists,
        Self::NotDir,
        Self::IsDir,
        Self::NotEmpty,
        Self::Denied,
        Self::NotPermitted,
        Self::ReadOnly,
        Self::CacheFull,
        Self::NoSpace,
        Self::FileTooLarge,
        Self::TooManyLinks,
        Self::RemoteQuota,
        Self::RemoteChanged,
        Self::Left,
        Self::Busy,
        Self::Offline,
        Self::TimedOut,
        Self::Interrupted,
        Self::NameTooLong,
        Self::Invalid,
        Self::NoAttr,
        Self::Range,
        Self::Unsupported,
        Self::BadHandle,
        Self::CrossDevice,
        Self::PastEnd,
        Self::HeldBack,
        Self::Io,
    ];

    /// Returns a fixed word for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::NotDir => "not-dir",
            Self::IsDir => "is-dir",
            Self::NotEmpty => "not-empty",
            Self::Denied => "denied",
            Self::NotPermitted => "not-permitted",
            Self::ReadOnly => "read-only",
            Self::CacheFull => "cache-full",
            Self::NoSpace => "no-space",
            Self::FileTooLarge => "file-too-large",
            Self::TooManyLinks => "too-many-links",
            Self::RemoteQuota => "remote-quota",
            Self::RemoteChanged => "remote-changed",
            Self::Left => "left",
            Self::Busy => "busy",
            Self::Offline => "offline",
            Self::TimedOut => "timed-out",
            Self::Interrupted => "interrupted",
            Self::NameTooLong => "name-too-long",
            Self::Invalid => "invalid",
            Self::NoAttr => "no-attr",
            Self::Range => "range",
            Self::Unsupported => "unsupported",
            Self::BadHandle => "bad-handle",
            Self::CrossDevice => "cross-device",
            Self::PastEnd => "past-end",
            Self::HeldBack => "held-back",
            Self::Io => "io",
        }
    }

    /// Returns the errno that Linux programs see.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::NotFound => 2,                                             // ENOENT
            Self::Io | Self::Offline | Self::TimedOut | Self::HeldBack => 5, // EIO
            Self::PastEnd => 6,                                              // ENXIO
            Self::BadHandle => 9,                                            // EBADF
            Self::Denied => 13,                                              // EACCES
            Self::NotPermitted => 1,                                         // EPERM
            Self::Busy => 16,                                                // EBUSY
            Self::Exists => 17,                                              // EEXIST
            Self::CrossDevice => 18,                                         // EXDEV
            Self::NotDir => 20,                                              // ENOTDIR
            Self::IsDir => 21,                                               // EISDIR
            Self::Invalid => 22,                                             // EINVAL
            Self::FileTooLarge => 27,                                        // EFBIG
            Self::CacheFull | Self::NoSpace => 28,                           // ENOSPC
            Self::ReadOnly => 30,                                            // EROFS
            Self::TooManyLinks => 31,                                        // EMLINK
            Self::Range => 34,                                               // ERANGE
            Self::NameTooLong => 36,                                         // ENAMETOOLONG
            Self::NotEmpty => 39,                                            // ENOTEMPTY
            Self::NoAttr => 61,                                              // ENODATA
            Self::Unsupported => 95,                                         // EOPNOTSUPP
            Self::RemoteChanged | Self::Left => 116,                         // ESTALE
            Self::RemoteQuota => 122,                                        // EDQUOT
            Self::Interrupted => 4,                                          // EINTR
        }
    }
}

impl fmt::Display for FsErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such file or folder",
            Self::Exists => "it exists already",
            Self::NotDir => "not a folder",
            Self::IsDir => "it is a folder",
            Self::NotEmpty => "the folder is not empty",
            Self::Denied => "permission denied",
            Self::NotPermitted => "not allowed by the project's rules",
            Self::ReadOnly => "read-only",
            Self::CacheFull => "no space left for cached bytes",
            Self::NoSpace => "no space left on the disk that keeps what is written",
            Self::FileTooLarge => "the file would be too large",
            Self::TooManyLinks => "too many names for one file",
            Self::RemoteQuota => "the site's quota is used up",
            Self::RemoteChanged => "the file changed at the site since it was opened",
            Self::Left => "its name leads to another file by now",
            Self::Busy => "in use",
            Self::Offline => "the site is offline and the bytes are not cached",
            Self::TimedOut => "the site sent no bytes within the deadline",
            Self::Interrupted => "interrupted",
            Self::NameTooLong => "the name is longer than 255 bytes, or the target than 4095",
            Self::Invalid => "invalid argument",
            Self::NoAttr => "no such attribute",
            Self::Range => "the attribute does not fit the buffer",
            Self::Unsupported => "not supported",
            Self::BadHandle => "the handle is not open",
            Self::CrossDevice => "on another device",
            Self::PastEnd => "beyond the end of the file",
            Self::HeldBack => "the bytes are not here, and nothing is fetched for this program",
            Self::Io => "input/output error",
        })
    }
}

/// A failed file operation: the kind that the kernel is told, and the cause that the log is told.
#[derive(Debug)]
pub struct FsError {
    /// What the caller is told.
    pub kind: FsErrorKind,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl FsError {
    /// Makes an error with its cause.
    pub fn new(kind: FsErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }
}

impl From<FsErrorKind> for FsError {
    fn from(kind: FsErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl StdError for FsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
