//! Sites, how a check of one went, and where files stand, as plain values that serialise.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::state::SiteStatus;

/// A row of `backlot site ls`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteRowReport {
    /// The key of its section; for this machine, its site id.
    pub name: String,
    /// The value of `provider`; `drive` for this machine.
    pub provider: String,
    /// Where it is: a folder, an address; never a secret.
    pub root: String,
    /// `unknown`, `up` or `down`.
    pub link: String,
    /// Why it is down.
    pub reason: Option<String>,
    /// Other doors to the same storage.
    pub alternative_sites: Vec<String>,
    /// What it is to the projects that it is anything to.
    pub roles: Vec<SiteRoleReport>,
}

/// What a site is to a project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteRoleReport {
    /// The key of the project's section.
    pub project: String,
    /// `active`, `remote`, `always-accessible-on`, or `door to` another of them.
    pub role: String,
    /// The project's path under the site's root.
    pub path: String,
}

/// `POST /v1/sites/{name}/check`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SiteCheckRequest {
    /// Writes nothing there.
    pub read_only: bool,
}

/// How a check of a site went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteCheckReport {
    /// The key of its section.
    pub site: String,
    /// Every step went well.
    pub ok: bool,
    /// The steps, in their order; none after one that shows that the site does not answer.
    pub steps: Vec<SiteCheckStep>,
    /// By how much the site's clock is ahead of this machine's, in milliseconds; 0 where they agree as well as can be told.
    /// `None` where the site does not show its clock, or nothing may be written.
    pub clock_ahead_ms: Option<i64>,
    /// How finely that can be told, in milliseconds.
    pub clock_step_ms: Option<u64>,
}

/// A step of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteCheckStep {
    /// `connect`, `list`, `project`, `write`, `read back`, `remove`, `clock`.
    pub step: String,
    /// It went well.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What was found, or what is wrong.
    pub said: String,
    /// What to do about that.
    pub hint: Option<String>,
}

/// Query of `GET /v1/site-states`, which tells what is known, and body of `POST /v1/site-states`, which asks the sites first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SiteStateQuery {
    /// A path of the drive.
    pub path: String,
}

/// Where a file, or all files of a folder, stand at the sites.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteStatesReport {
    /// The path in the drive.
    pub path: String,
    /// It is a folder.
    pub folder: bool,
    /// Its files; 1 for a file.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// One row a site, this machine first.
    pub sites: Vec<SiteStateReport>,
    /// Sites that were asked and did not answer, and why: their rows are what was known before.
    pub not_asked: Vec<String>,
}

/// Where a file, or all files of a folder, stand at one site.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SiteStateReport {
    /// The site; this machine by its site id.
    pub site: String,
    /// It is this machine.
    pub here: bool,
    /// AYON's number, −1 to 4: of a folder that of the file that is worst off, failed before in progress, queued, paused, n/a
    /// and synced.
    pub state: i8,
    /// The word for it: `n/a`, `in progress`, `queued`, `failed`, `paused`, `synced`.
    pub word: String,
    /// Files by state.
    pub files: SiteCounts,
    /// Bytes that are there, of `bytes` of all.
    pub done_bytes: u64,
    /// Of a file: the version there, where one is known.
    pub version: Option<String>,
    /// Tries that failed, all together.
    pub retries: u64,
    /// Why the first file that is not there is not.
    pub error: Option<String>,
    /// Of a file: when that was written down, milliseconds since 1970.
    pub at_ms: Option<i64>,
}

/// Numbers of files by their state at a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SiteCounts {
    /// −1: not there.
    pub not_available: u64,
    /// 0: on their way.
    pub in_progress: u64,
    /// 1: waiting for their turn.
    pub queued: u64,
    /// 2: in need of a person, or of another try.
    pub failed: u64,
    /// 3: held back.
    pub paused: u64,
    /// 4: there.
    pub synced: u64,
}

impl SiteCounts {
    pub(in crate::engine) fn add(&mut self, status: SiteStatus) {
        *self.of_mut(status) += 1;
    }

    fn of_mut(&mut self, status: SiteStatus) -> &mut u64 {
        match status {
            SiteStatus::NotAvailable => &mut self.not_available,
            SiteStatus::InProgress => &mut self.in_progress,
            SiteStatus::Queued => &mut self.queued,
            SiteStatus::Failed => &mut self.failed,
            SiteStatus::Paused => &mut self.paused,
            SiteStatus::Synced => &mut self.synced,
        }
    }

    /// Returns the state of all files together: that of the one that is worst off. Without files, `n/a`.
    #[must_use]
    pub fn together(mut self) -> SiteStatus {
        let order = [
            SiteStatus::Failed,
            SiteStatus::InProgress,
            SiteStatus::Queued,
            SiteStatus::Paused,
            SiteStatus::NotAvailable,
            SiteStatus::Synced,
        ];
        let first = order.into_iter().find(|status| *self.of_mut(*status) > 0);
        first.unwrap_or(SiteStatus::NotAvailable)
    }
}

/// Returns the word for a state.
pub(in crate::engine) fn word(status: SiteStatus) -> &'static str {
    match status {
        SiteStatus::NotAvailable => "n/a",
        SiteStatus::InProgress => "in progress",
        SiteStatus::Queued => "queued",
        SiteStatus::Failed => "failed",
        SiteStatus::Paused => "paused",
        SiteStatus::Synced => "synced",
    }
}

/// What the service that keeps sites in step does: one row for each project and site that is to have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SyncReport {
    /// The key of the project's section.
    pub project: String,
    /// The site that is to have all of it.
    pub site: String,
    /// `starting`, `site down`, `held` (by another service), `comparing`, `in step` (all that it lacks is in the queue or
    /// there), `trouble`.
    pub state: String,
    /// Who holds it, why it is in trouble.
    pub reason: Option<String>,
    /// When all of it was last held against the project, milliseconds since 1970.
    pub checked_at_ms: Option<i64>,
    /// Of that look: files of the project.
    pub files: u64,
    /// Those of them that were there.
    pub there: u64,
    /// Files that were put into the queue since the start.
    pub enqueued: u64,
    /// Of that look: files that are there as somebody else's, which nothing replaces, or whose names the site can't hold.
    pub foreign: u64,
    /// Of that look: folders that could not be looked at, though the site answers.
    pub failed_folders: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_well_off_as_its_worst_file() {
        let of = |statuses: &[SiteStatus]| {
            let mut counts = SiteCounts::default();
            statuses.iter().for_each(|status| counts.add(*status));
            counts.together()
        };
        assert_eq!(of(&[]), SiteStatus::NotAvailable);
        assert_eq!(of(&[SiteStatus::Synced, SiteStatus::Synced]), SiteStatus::Synced);
        assert_eq!(
            of(&[SiteStatus::Synced, SiteStatus::NotAvailable]),
            SiteStatus::NotAvailable
        );
        assert_eq!(of(&[SiteStatus::Synced, SiteStatus::Queued]), SiteStatus::Queued);
        assert_eq!(of(&SiteStatus::ALL), SiteStatus::Failed);
    }
}
