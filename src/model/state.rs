//! The word that people are shown for a file, derived from facts that are stored apart.

use std::fmt;

use schemars::JsonSchema;
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

/// How a file stands with its site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// It is what the site has, as far as is known.
    Clean,
    /// It stays on this machine.
    LocalOnly,
    /// It is being written, and goes up once it is closed.
    Dirty,
    /// It waits for its turn.
    Queued,
    /// It is on its way.
    Uploading,
    /// It did not get there; it is tried again, or needs a person.
    Failed,
    /// The site has another successor of what it began as.
    Conflict,
}

/// The word shown for a file: derived, never stored (design: three facts, one word).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Nothing of it is here.
    Online,
    /// Some of it is here.
    Hydrating,
    /// All of it is here.
    Cached,
    /// All of it is here, and stays.
    Pinned,
    /// Exists on this machine alone, and stays so.
    Local,
    /// Is being written.
    Dirty,
    /// Waits to be sent.
    Queued,
    /// Is being sent.
    Uploading,
    /// Could not be sent; or what came of it is not what the site says it is.
    Failed,
    /// The site has another one.
    Conflict,
}

impl FileState {
    /// Derives the word from how a file stands with its site, and how much of it is here.
    #[must_use]
    pub fn of(sync: Sync, residency: Residency, size: u64) -> Self {
        match sync {
            Sync::LocalOnly => Self::Local,
            Sync::Dirty => Self::Dirty,
            Sync::Queued => Self::Queued,
            Sync::Uploading => Self::Uploading,
            Sync::Failed => Self::Failed,
            Sync::Conflict => Self::Conflict,
            Sync::Clean => match residency {
                Residency::Full => Self::Cached,
                Residency::None if size == 0 => Self::Cached,
                Residency::None => Self::Online,
                Residency::Partial(_) => Self::Hydrating,
            },
        }
    }
}

impl FileState {
    /// Returns the word for a file that is pinned: one that is not all here yet says how far it is.
    #[must_use]
    pub fn pinned(self) -> Self {
        match self {
            Self::Cached => Self::Pinned,
            other => other,
        }
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::Hydrating => "hydrating",
            Self::Cached => "cached",
            Self::Pinned => "pinned",
            Self::Local => "local",
            Self::Dirty => "dirty",
            Self::Queued => "queued",
            Self::Uploading => "uploading",
            Self::Failed => "failed",
            Self::Conflict => "conflict",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_clean_file_tells_how_much_of_it_is_here() {
        for (residency, size, word) in [
            (Residency::None, 10, "online"),
            (Residency::None, 0, "cached"),
            (Residency::Partial(5), 10, "hydrating"),
            (Residency::Full, 10, "cached"),
        ] {
            assert_eq!(FileState::of(Sync::Clean, residency, size).to_string(), word);
        }
    }

    #[test]
    fn a_pin_shows_where_its_promise_is_kept_and_hides_nothing() {
        let of = |sync, residency| FileState::of(sync, residency, 10).pinned();
        assert_eq!(of(Sync::Clean, Residency::Full), FileState::Pinned);
        assert_eq!(of(Sync::Clean, Residency::Partial(5)), FileState::Hydrating);
        assert_eq!(of(Sync::Clean, Residency::None), FileState::Online);
        assert_eq!(of(Sync::Queued, Residency::Full), FileState::Queued);
    }

    #[test]
    fn what_is_not_at_its_site_says_so_wherever_its_bytes_are() {
        for residency in [Residency::None, Residency::Partial(1), Residency::Full] {
            assert_eq!(FileState::of(Sync::Queued, residency, 10), FileState::Queued);
            assert_eq!(FileState::of(Sync::LocalOnly, residency, 0), FileState::Local);
        }
    }
}
