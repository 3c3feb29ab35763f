//! The identity of a file's bytes at a site.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Opaque identity of a file's bytes at one site: an etag, a revision id, or size and modification time. Two equal
/// versions of one path mean the same bytes, as well as the site can tell; versions have no order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(Arc<str>);

impl Version {
    /// Wraps a provider's own text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the version of a site that tells size (bytes) and modification time (nanoseconds since 1970, rounded by
    /// the site to what it keeps: whole seconds over SFTP).
    #[must_use]
    pub fn from_size_mtime(size: u64, mtime_ns: i64) -> Self {
        Self(format!("{size:x}-{mtime_ns:x}").into())
    }

    /// Returns the provider's own text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
