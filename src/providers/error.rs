//! The one error of all providers.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::model::RelPath;

/// What went wrong, as far as a caller acts on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The site confirms that nothing is there.
    NotFound,
    /// Something is there already.
    Exists,
    /// A folder was needed, or a file and it is a folder, or a folder with entries was to be removed.
    WrongKind,
    /// The site refuses this to us.
    Denied,
    /// The site did not accept who we are: wrong key, password or host key.
    Auth,
    /// The bytes at the path are not the version that was asked for.
    VersionMismatch,
    /// No room at the site.
    Full,
    /// The site can't be reached, or the connection broke.
    Unreachable,
    /// No progress for the time allowed.
    TimedOut,
    /// The site asks to be asked less.
    Busy,
    /// A name or argument that this kind of site can't hold.
    Invalid,
    /// The site doesn't offer this; its capabilities say so.
    Unsupported,
    /// The settings of the site make no sense.
    Config,
    /// What the site said can't be understood, or it failed in a way of its own.
    Protocol,
}

impl ErrorKind {
    /// Returns a fixed word for programs; stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::WrongKind => "wrong-kind",
            Self::Denied => "denied",
            Self::Auth => "auth",
            Self::VersionMismatch => "version-mismatch",
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::Busy => "busy",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Config => "config",
            Self::Protocol => "protocol",
        }
    }
}

/// Whether another try may help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// No.
    Never,
    /// Yes, at the earliest after this long where the site said so.
    After(Option<Duration>),
    /// Only after somebody renews the credentials.
    Reauth,
}

/// The operation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names are those of Provider's methods")]
pub enum Op {
    Connect,
    Probe,
    Stat,
    List,
    Read,
    Upload,
    Commit,
    Abort,
    MakeDir,
    Rename,
    Delete,
    Space,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Probe => "probe",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Read => "read",
            Self::Upload => "upload",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::MakeDir => "make folder",
            Self::Rename => "rename",
            Self::Delete => "delete",
            Self::Space => "space",
        })
    }
}

/// A failed operation at a site. Its text never holds a secret.
#[derive(Debug)]
pub struct ProviderError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Whether another try may help: the retry layer reads this alone.
    pub retry: Retry,
    /// Which operation.
    pub op: Op,
    /// On which path, where there is one.
    pub path: Option<RelPath>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl ProviderError {
    /// Makes an error whose `retry` follows from its kind.
    #[must_use]
    pub fn new(kind: ErrorKind, op: Op) -> Self {
        let retry = match kind {
            ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Busy | ErrorKind::Protocol => Retry::After(None),
            ErrorKind::Auth => Retry::Reauth,
            ErrorKind::NotFound
            | ErrorKind::Exists
            | ErrorKind::WrongKind
            | ErrorKind::Denied
            | ErrorKind::VersionMismatch
            | ErrorKind::Full
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Config => Retry::Never,
        };
        Self {
            kind,
            retry,
            op,
            path: None,
            source: None,
        }
    }

    /// Adds the path.
    #[must_use]
    pub fn at(mut self, path: &RelPath) -> Self {
        self.path = Some(path.clone());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says that it failed as a step of another operation.
    #[must_use]
    pub fn during(mut self, op: Op) -> Self {
        self.op = op;
        self
    }

    /// Overrides what follows from the kind.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Returns what to do about a site that fails like this.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.kind {
            ErrorKind::Auth => "see the user, the key or password, and known-hosts in the site's settings",
            ErrorKind::NotFound | ErrorKind::WrongKind => {
                "see the root in the site's settings: it is a folder at the site"
            }
            ErrorKind::Denied => "ask who runs the site to let this user in there",
            ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Busy => {
                "see the host and port in the site's settings, the network, the VPN; cached files stay readable meanwhile"
            }
            ErrorKind::Full => "make room at the site",
            ErrorKind::Exists
            | ErrorKind::VersionMismatch
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Config
            | ErrorKind::Protocol => "see the site's settings",
        }
    }

    /// Says whether the site as a whole is out of reach, as opposed to this one path failing.
    #[must_use]
    pub fn is_link_failure(&self) -> bool {
        matches!(self.kind, ErrorKind::Unreachable | ErrorKind::TimedOut)
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::NotFound => "nothing is there",
            ErrorKind::Exists => "something is there already",
            ErrorKind::WrongKind => "a file where a folder is needed, or the reverse",
            ErrorKind::Denied => "the site refuses access",
            ErrorKind::Auth => "logging in failed",
            ErrorKind::VersionMismatch => "the file changed at the site",
            ErrorKind::Full => "the site has no room",
            ErrorKind::Unreachable => "the site can't be reached",
            ErrorKind::TimedOut => "the site made no progress in time",
            ErrorKind::Busy => "the site asks to be asked less",
            ErrorKind::Invalid => "the site can't hold that name or argument",
            ErrorKind::Unsupported => "the site does not offer it",
            ErrorKind::Config => "the site's settings make no sense",
            ErrorKind::Protocol => "the site's answer makes no sense or says that it failed",
        };
        write!(f, "{}", self.op)?;
        if let Some(path) = self.path.as_ref().filter(|p| !p.is_root()) {
            write!(f, " {path}")?;
        }
        write!(f, ": {what}")?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl StdError for ProviderError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
