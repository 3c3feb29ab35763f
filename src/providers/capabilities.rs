//! What a site can do, asked about before it is asked for.

use serde::{Deserialize, Serialize};

use super::HashKind;

/// Facts about a site. A capability claimed and not kept fails the conformance suite.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capabilities {
    /// A commit replaces an existing target in one step that no reader can see half of.
    pub atomic_replace: bool,
    /// Ranges can be read without what comes before them.
    pub ranged_read: bool,
    /// An upload can go on after a crash, with the parts that had arrived.
    pub resume_upload: bool,
    /// `commit` with an expected version is decided by the site itself, not by a look beforehand.
    pub conditional_commit: bool,
    /// Symbolic links are shown as links.
    pub symlinks: bool,
    /// Names are arbitrary bytes (false: UTF-8 only).
    pub byte_names: bool,
    /// Finest step of modification times, in nanoseconds.
    pub mtime_step_ns: u64,
    /// A file gets the modification time of its upload (false: the site dates files by itself, when they come).
    pub keeps_mtime: bool,
    /// Fewest bytes of a part that is not the last of its file; 0: a part may have any size.
    pub min_part: u64,
    /// The parts of an upload must come one after another, from the first on.
    pub parts_in_order: bool,
    /// The hash that the site gives for whole files, for some of them at least: see [`Provider::hash`](super::Provider::hash).
    pub hash: Option<HashKind>,
    /// Reads that are worth having under way at once.
    pub parallel_reads: usize,
}
