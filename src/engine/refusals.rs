//! What was refused by a rule of a project lately: for `status`, where a person looks who wonders about an EPERM.
//!
//! Owns: the last few refusals, in memory. Refuses to know: rules.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drive::now_ms;
use crate::model::RelPath;

/// How many are remembered.
const KEPT: usize = 20;

/// Something that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// The path in the drive.
    pub path: String,
    /// Why.
    pub why: String,
    /// When last, milliseconds since 1970.
    pub at_ms: i64,
    /// How often.
    pub times: u64,
}

/// The last refusals of a drive.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<VecDeque<Refused>>);

impl Refusals {
    pub(super) fn note(&self, path: &RelPath, why: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, at_ms) = (path.to_string(), now_ms());
        let known = kept
            .iter()
            .position(|refused| refused.path == path && refused.why == why);
        let times = known.and_then(|at| kept.remove(at)).map_or(0, |refused| refused.times);
        kept.push_back(Refused {
            path,
            why: why.to_owned(),
            at_ms,
            times: times + 1,
        });
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// Returns them, the newest first.
    pub(super) fn last(&self) -> Vec<Refused> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().cloned().collect()
    }
}
