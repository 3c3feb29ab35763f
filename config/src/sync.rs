//! `[sync]`: the service that keeps sites in step.
//!
//! Owns its keys and their ranges. Refuses to know: which sites there are.

use serde::{Deserialize, Serialize};

use crate::units::Period;

/// `[sync]`: `backlot sync`, which keeps `always-accessible-on` true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sync {
    /// How often all of a site is held against the project, 1 second to 30 days: what somebody deleted or changed there is
    /// noticed then. What is new in the project is copied at once.
    pub check_interval: Period,
    /// A service that was not heard of for this long has ended, and another one may take over, 1 second to 1 hour.
    pub lease: Period,
}

impl Sync {
    /// The shortest and longest `check-interval`.
    pub(crate) const CHECK_INTERVAL: (Period, Period) = (Period::from_secs(1), Period::from_secs(30 * 86_400));
    /// The shortest and longest `lease`.
    pub(crate) const LEASE: (Period, Period) = (Period::from_secs(1), Period::from_secs(3600));
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            check_interval: Period::from_secs(3600),
            lease: Period::from_secs(60),
        }
    }
}
