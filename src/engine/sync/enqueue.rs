//! How what a site lacks gets into the queue.
//!
//! Owns: the one place where the service meets the queue of copies. Refuses to know: how copies are made.

use super::compare::Want;
use crate::engine::drive::Project;
use crate::engine::site::Site;
use crate::model::{Ino, SiteName};
use crate::state::{StateError, WriteTxn};

/// From where to where.
#[derive(Clone, Debug)]
pub(super) struct Route {
    root: Ino,
    source: SiteName,
    target: SiteName,
}

impl Route {
    pub(super) fn new(project: &Project, site: &Site) -> Self {
        Self {
            root: project.root,
            source: project.site.name().clone(),
            target: site.name().clone(),
        }
    }

    /// Puts a copy into the queue; says whether it is new there.
    pub(super) fn enqueue(&self, _txn: &WriteTxn<'_>, _want: &Want) -> Result<bool, StateError> {
        Ok(false)
    }
}
