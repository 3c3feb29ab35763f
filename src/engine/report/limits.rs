//! How fast bytes may move, as told and as asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The limits of one site.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteLimitReport {
    /// The key of its section.
    pub site: String,
    /// What is read from it.
    pub download: LimitReport,
    /// What is sent to it.
    pub upload: LimitReport,
}

/// The limit of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LimitReport {
    /// In force now; `None`: no limit.
    pub bytes_per_second: Option<u64>,
    /// Somebody said so since the daemon started; else the settings do.
    pub by_hand: bool,
    /// The rate or the timetable that it comes from; `None`: nobody asked for a limit.
    pub timetable: Option<String>,
    /// When another rate is in force, in minutes; `None`: never.
    pub changes_in_minutes: Option<u16>,
}

/// `POST /v1/limits`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    /// The key of the site's section.
    pub site: String,
    /// A rate, a timetable, `off`, or `auto` for what the settings say; left out, it stays as it is.
    pub download: Option<String>,
    /// The same for what is sent.
    pub upload: Option<String>,
}
