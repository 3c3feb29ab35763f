//! `[copies]`: files that are copied from one site to another.

use serde::{Deserialize, Serialize};

/// `[copies]`: copying from site to site (`backlot push` and `pull`). How many files at once, parts and tries are those of
/// `[publish]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Copies {
    /// Jobs of one queue that are worked on at once between the same two sites, 1 to 16; the others wait for their turn.
    pub jobs_per_pair: u32,
}

impl Default for Copies {
    fn default() -> Self {
        Self { jobs_per_pair: 1 }
    }
}
