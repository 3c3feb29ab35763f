//! What waits for a site that lets nobody in: such a site answers, so that waiting does not help, and a person has to do
//! something about the login, the permissions or the settings.
//!
//! Owns: which queues and copies that concerns. Refuses to know: links, tasks' rows: those wait, and go on by themselves once the
//! site lets us in.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tracing::{info, warn};

use super::drive::{Drive, Inner, now_ms};
use super::link::Lockout;
use super::site::Site;
use crate::model::{Ino, SiteName};
use crate::state::{JobKind, QueueCounts, Task, WaitingBetween};

/// The sites that let nobody in, and the projects that publish to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lockouts {
    sites: BTreeMap<SiteName, Lockout>,
    projects: BTreeMap<Ino, SiteName>,
}

impl Inner {
    /// Returns who lets nobody in now.
    pub(super) fn lockouts(&self) -> Lockouts {
        let locked_out = |(name, site): (&SiteName, &Arc<Site>)| {
            let lockout = site.link().state().lockout()?;
            Some((name.clone(), lockout))
        };
        let sites: BTreeMap<_, _> = self.sites.iter().filter_map(locked_out).collect();
        let to_those = self
            .projects
            .iter()
            .filter(|project| sites.contains_key(project.site.name()));
        Lockouts {
            projects: to_those
                .map(|project| (project.root, project.site.name().clone()))
                .collect(),
            sites,
        }
    }
}

impl Drive {
    /// Asks the sites that let nobody in once more, and waits for what they say: a person may have seen to it.
    pub(super) async fn ask_locked_out(&self) {
        let locked_out = self
            .sites
            .values()
            .filter(|site| site.link().state().lockout().is_some());
        let asked = locked_out.map(|site| site.link().ask_anew());
        futures::future::join_all(asked).await;
    }
}

/// Has what a site refused the login tried again as soon as it takes one.
pub(super) async fn go_on_when_let_in(drive: Weak<Inner>, mut let_in: watch::Receiver<u64>) {
    while let_in.changed().await.is_ok() {
        let Some(drive) = drive.upgrade() else { return };
        let now = now_ms();
        match drive
            .store
            .write_durable(move |txn| txn.retry_refused_logins(now))
            .await
        {
            Ok(0) => {}
            Ok(tasks) => {
                info!(
                    tasks,
                    "a site that refused the login takes it: what waited for that is tried again"
                );
                drive.reconsider_transfers();
            }
            Err(error) => warn!(%error, "what a site refused the login is tried again at its time only"),
        }
    }
}

impl Lockouts {
    /// Says whether all sites let us in, as far as is known.
    pub(super) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Returns why a project's site lets nobody in.
    pub(super) fn publishing(&self, root: Ino) -> Option<&Lockout> {
        self.sites.get(self.projects.get(&root)?)
    }

    /// Returns the kind of error and the reason, if a task that waits would have to be let in by such a site; `source` is where a
    /// copy comes from.
    pub(super) fn blocks(&self, task: &Task, source: Option<&SiteName>) -> Option<(String, String)> {
        let (lockout, site) = match &task.target {
            None => (self.publishing(task.root)?, None),
            Some(target) => self.copying(source, target)?,
        };
        // A copy has two sites, and one of them is meant.
        let why = match site {
            Some(site) => format!("{site}: {}", lockout.why),
            None => lockout.why.clone(),
        };
        Some((lockout.kind.word().to_owned(), why))
    }

    /// Counts tasks that wait as blocked, if they are.
    pub(super) fn count_as_blocked(&self, counts: &mut QueueCounts, root: Ino, waiting: &WaitingBetween) {
        let is_blocked = match waiting.kind {
            JobKind::Publish => self.publishing(root).is_some(),
            JobKind::Push | JobKind::Pull | JobKind::Sync => {
                self.copying(Some(&waiting.source), &waiting.target).is_some()
            }
        };
        if is_blocked {
            counts.waiting.take_off(waiting.tally);
            counts.blocked.add(waiting.tally);
            if waiting.failed_before {
                counts.retrying.take_off(waiting.tally);
            }
        }
    }

    fn copying<'a>(
        &self,
        source: Option<&'a SiteName>,
        target: &'a SiteName,
    ) -> Option<(&Lockout, Option<&'a SiteName>)> {
        let mut ends = [Some(target), source].into_iter().flatten();
        ends.find_map(|site| Some((self.sites.get(site)?, Some(site))))
    }
}
