//! The word that people are shown for a file, derived from facts that are stored apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much of a file is in the local cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    /// Nothing.
    None,
    /// This many bytes.
    Partial(u64),
    /// Everything.
    Full,
}

/// The word shown for a file: derived, never stored (design: three facts, one word).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Nothing of it is here.
    Online,
    /// Some of it is here.
    Hydrating,
    /// All of it is here.
    Cached,
    /// Exists on this machine alone.
    Local,
}

impl FileState {
    /// Derives the word for a file that is the same at its site as we know it.
    #[must_use]
    pub fn of_clean(residency: Residency, size: u64) -> Self {
        match residency {
            Residency::Full => Self::Cached,
            Residency::None if size == 0 => Self::Cached,
            Residency::None => Self::Online,
            Residency::Partial(_) => Self::Hydrating,
        }
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::Hydrating => "hydrating",
            Self::Cached => "cached",
            Self::Local => "local",
        })
    }
}
