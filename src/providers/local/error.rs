//! What the operating system says, as errors of the one kind. The only place where this provider maps them.

use rustix::io::Errno;

use crate::model::RelPath;
use crate::providers::{ErrorKind, Op, ProviderError};

/// Turns an errno into an error of the operation.
pub(super) fn errno(op: Op, path: Option<&RelPath>, e: Errno) -> ProviderError {
    let kind = match e {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::Exists,
        // LOOP: a symbolic link where a folder or file was to be opened.
        Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::LOOP => ErrorKind::WrongKind,
        // XDEV: the path would have led out of the root.
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::XDEV => ErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::Full,
        Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => ErrorKind::Invalid,
        // What a mounted file server gives when it has gone. Not IO: one bad block is no reason to call the site down.
        Errno::STALE
        | Errno::NOTCONN
        | Errno::CONNREFUSED
        | Errno::CONNABORTED
        | Errno::CONNRESET
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::NODEV
        | Errno::SHUTDOWN => ErrorKind::Unreachable,
        Errno::TIMEDOUT => ErrorKind::TimedOut,
        Errno::AGAIN | Errno::BUSY | Errno::TXTBSY | Errno::MFILE | Errno::NFILE | Errno::NOMEM => ErrorKind::Busy,
        Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::Unsupported,
        _ => ErrorKind::Protocol,
    };
    let error = ProviderError::new(kind, op).because(std::io::Error::from(e));
    match path {
        Some(path) => error.at(path),
        None => error,
    }
}

/// Turns an error of the standard library into one of the operation.
pub(super) fn io_error(op: Op, path: &RelPath, e: std::io::Error) -> ProviderError {
    match Errno::from_io_error(&e) {
        Some(code) => errno(op, Some(path), code),
        None => ProviderError::new(ErrorKind::Protocol, op).at(path).because(e),
    }
}
