//! How what a site lacks gets into the queue.
//!
//! Owns: the one place where the service meets the queue of copies. Refuses to know: how copies are made. Invariant: a copy
//! replaces what it was decided to replace, or nothing.

use super::compare::Want;
use crate::engine::between::today;
use crate::engine::drive::{Project, now_ms};
use crate::engine::site::Site;
use crate::state::{Asked, JobKey, JobKind, NewCopy, PRIORITY_NORMAL, Replaces, StateError, WriteTxn};

/// From where to where.
#[derive(Clone, Debug)]
pub(super) struct Route(JobKey);

impl Route {
    pub(super) fn new(project: &Project, site: &Site) -> Self {
        Self(JobKey {
            root: project.root,
            source: project.site.name().clone(),
            target: site.name().clone(),
            kind: JobKind::Sync,
            day: today(),
        })
    }

    /// Puts a copy into the queue; says whether it is new there. One for the same version is left as it is.
    pub(super) fn enqueue(&self, txn: &WriteTxn<'_>, want: &Want) -> Result<bool, StateError> {
        let known = txn.copies_of(self.0.root, &want.path)?;
        let copy = NewCopy {
            path: want.path.clone(),
            folder: false,
            size: want.size,
            source_version: Some(want.version.clone()),
            replaces: match &want.replaces {
                Some(version) => Replaces::Only(version.clone()),
                None => Replaces::Nothing,
            },
            priority: PRIORITY_NORMAL,
            asked: Asked::Automatic,
            seen: None,
        };
        txn.queue_copy(&copy, &self.0, now_ms())?;
        Ok(!known.iter().any(|task| task.target.as_ref() == Some(&self.0.target)))
    }
}
