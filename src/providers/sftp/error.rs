//! What goes wrong in an SFTP session, and what that is to the rest of the program. The only place that maps it.

use std::fmt;
use std::sync::Arc;

use super::wire::status;
use crate::model::RelPath;
use crate::providers::{ErrorKind, Op, ProviderError};

/// A request that failed.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The server says so.
    Status { code: u32, message: String },
    /// The server's bytes make no sense.
    Protocol(&'static str),
    /// There is no session any more, or none could be had.
    Closed(Arc<Closed>),
}

/// Why there is no session.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    /// `Unreachable`, `TimedOut`, `Auth`, `Config` or `Protocol`.
    pub(super) kind: ErrorKind,
    /// For people: what happened and what to do. Holds no secret.
    pub(super) why: String,
    /// The server was shown a password or a key, and refused it.
    pub(super) shown: bool,
}

impl Closed {
    pub(super) fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
            shown: false,
        }
    }

    /// The server refused what it was shown.
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self {
            shown: true,
            ..Self::new(ErrorKind::Auth, why)
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, message } => write!(f, "the server says: {message} (SFTP status {code})"),
            Self::Protocol(what) => f.write_str(what),
            Self::Closed(closed) => f.write_str(&closed.why),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// Says whether the server denies that the path exists. A path through something that is no folder counts as well:
    /// that is how servers report it.
    pub(super) fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Status {
                code: status::NO_SUCH_FILE,
                ..
            }
        )
    }

    /// Says whether the server failed without saying why: version 3 has one code for most reasons.
    pub(super) fn is_plain_failure(&self) -> bool {
        matches!(
            self,
            Self::Status {
                code: status::FAILURE,
                ..
            }
        )
    }

    /// Turns it into the error of an operation that named a path.
    pub(super) fn on(self, op: Op, path: &RelPath) -> ProviderError {
        let kind = match &self {
            Self::Status {
                code: status::NO_SUCH_FILE,
                ..
            } => ErrorKind::NotFound,
            _ => self.kind(),
        };
        ProviderError::new(kind, op).at(path).because(self)
    }

    /// Turns it into the error of an operation on something open: "no such file" then speaks of the handle.
    pub(super) fn on_open(self, op: Op, path: &RelPath) -> ProviderError {
        ProviderError::new(self.kind(), op).at(path).because(self)
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Status { code, .. } => match *code {
                status::PERMISSION_DENIED => ErrorKind::Denied,
                // What OpenSSH makes of ENAMETOOLONG and EINVAL.
                status::BAD_MESSAGE => ErrorKind::Invalid,
                status::NO_CONNECTION | status::CONNECTION_LOST => ErrorKind::Unreachable,
                status::UNSUPPORTED => ErrorKind::Unsupported,
                _ => ErrorKind::Protocol,
            },
            Self::Protocol(_) => ErrorKind::Protocol,
            Self::Closed(closed) => closed.kind,
        }
    }
}
