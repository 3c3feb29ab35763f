//! Fetching the last published work file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/workfiles/fetch-last`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchLastRequest {
    /// The task's work folder, as a path of the drive. It need not be there yet.
    pub workdir: String,
    /// Only files with this extension, without its dot.
    pub ext: Option<String>,
    /// How long it may take in all, milliseconds; without an end if left out.
    pub timeout_ms: Option<u64>,
}

/// A fetch, under way or ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FetchLastState {
    /// Its number, for `GET /v1/workfiles/fetches/{id}`.
    pub id: u64,
    /// How far it is.
    pub progress: FetchLastProgress,
}

/// How far a fetch is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct FetchLastProgress {
    /// It has ended.
    pub done: bool,
    /// Files to be copied: the work file and its resources.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were copied.
    pub copied_files: u64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
    /// Why it failed. The work folder is then as it was, but for resources that had come already.
    pub error: Option<String>,
    /// What is there now.
    pub fetched: Option<FetchedWorkfile>,
}

/// A work file that was made of a published one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FetchedWorkfile {
    /// The new work file, as a path of the drive.
    pub workfile: String,
    /// Its version.
    pub version: u32,
    /// The published file that it is a copy of, as a path of the drive.
    pub published: String,
    /// That one's version.
    pub published_version: u32,
    /// Newer versions that hold no such file.
    pub passed_over: Vec<String>,
    /// Files that came along into `resources`.
    pub resources: u64,
    /// Resources that were not copied, as paths of the drive, and why: nothing is overwritten.
    pub left: Vec<LeftResource>,
    /// The site could not be asked: what was known here was gone by.
    pub offline: bool,
}

/// A resource that was not copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeftResource {
    /// Where it would have gone, as a path of the drive.
    pub path: String,
    /// Why not.
    pub why: String,
}
