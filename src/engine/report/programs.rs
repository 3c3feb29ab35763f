//! What was fetched for which program.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Programs, what was fetched for them since the start, and what was refused to them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProgramsReport {
    /// Programs are held back.
    pub on: bool,
    /// Bytes that a program which only looks into files may have fetched a minute.
    pub budget_bytes: u64,
    /// Bytes that were fetched for all of them.
    pub fetched_bytes: u64,
    /// Opens and reads that were refused.
    pub refusals: u64,
    /// Those with anything of either, the largest first.
    pub programs: Vec<ProgramReport>,
}

/// A program.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProgramReport {
    /// Its name; `backlot` for what the daemon does by itself, `(unknown)` for the kernel and for processes of other
    /// namespaces, `(others)` for those that are not told apart any more.
    pub name: String,
    /// Its path.
    pub exe: Option<String>,
    /// What it is, if nothing is fetched for it: `thumbnailer`, `indexer`, `scanner`, `backup`, `named in the settings`.
    pub listed: Option<String>,
    /// It is never held back.
    pub allowed: bool,
    /// Bytes fetched for it.
    pub bytes: u64,
    /// Those that a read waited for.
    pub demand_bytes: u64,
    /// Those that were expected to be read next.
    pub readahead_bytes: u64,
    /// Those of files that were expected to be opened next.
    pub sequence_bytes: u64,
    /// Those that pins cover.
    pub pin_bytes: u64,
    /// Those that `hydrate` asked for.
    pub hydrate_bytes: u64,
    /// Those of files that were written to.
    pub write_bytes: u64,
    /// Opens and reads that were refused to it.
    pub refusals: u64,
    /// One of the files they were about, by its path at the site.
    pub refused_path: Option<String>,
    /// When it was last found to look into many files, milliseconds since 1970.
    pub held_ms: Option<i64>,
    /// The process that it was met as last.
    pub last_pid: Option<u32>,
    /// When that was, milliseconds since 1970.
    pub last_ms: Option<i64>,
}
