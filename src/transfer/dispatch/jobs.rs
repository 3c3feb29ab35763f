//! Jobs of copies as lanes: which there are, whose turn it is between two sites, who makes way for whom.
//!
//! Owns: the order of jobs. Refuses to know: how a file is copied. Invariant: between two sites, one queue has no more jobs
//! with new work than it may.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::{Dispatcher, LaneState, SLEEP_MAX, Worked, large_max, time_until};
use crate::model::SiteName;
use crate::state::{Job, PRIORITY_NORMAL, QueueRow, StateError};
use crate::transfer::between::{CopyDesk, Copying, End};
use crate::transfer::{Lane, now_ms};

impl Dispatcher {
    /// Makes a lane for each job of copies that has none.
    pub(super) fn find_jobs(&mut self) -> Result<(), StateError> {
        if !std::mem::take(&mut self.stale) || self.copies.projects.is_empty() {
            return Ok(());
        }
        for job in self.shared.store.read(|txn| txn.copy_jobs())? {
            if self.lanes.iter().any(|state| state.job() == Some(job.id)) {
                continue;
            }
            match self.lane_of(&job) {
                Some(state) => self.lanes.push(state),
                None => debug!(job = job.id.0, source = %job.source, target = %job.target, "no way between its sites"),
            }
        }
        Ok(())
    }

    fn lane_of(&self, job: &Job) -> Option<LaneState> {
        let project = self.copies.projects.iter().find(|project| project.root == job.root)?;
        let end = |name: &SiteName| self.copies.sites.iter().find(|end| end.site == *name).cloned();
        let (source, target): (End, End) = (end(&job.source)?, end(&job.target)?);
        let (from, to) = (project.paths.get(&job.source)?, project.paths.get(&job.target)?);
        let desk = CopyDesk {
            store: self.shared.store.clone(),
            root: job.root,
            source: source.clone(),
            target: target.clone(),
            from: from.clone(),
            to: to.clone(),
            arrived: self.copies.arrived.clone(),
        };
        let copying = Copying {
            job: job.id,
            kind: job.kind,
            source,
            desk: Arc::new(desk),
        };
        let lane = Lane {
            root: job.root,
            site: target.site,
            provider: target.provider,
            link: target.link,
            priority: project.priority,
        };
        Some(LaneState::new(lane, Some(Arc::new(copying))))
    }

    /// Looks what the jobs of copies have to do.
    pub(super) fn look_at_jobs(&mut self) -> Result<(), StateError> {
        for at in 0..self.lanes.len() {
            if time_until(self.lanes[at].idle_until).is_none() {
                self.look_at_job(at)?;
            }
        }
        Ok(())
    }

    /// Looks what a lane of a job has to do.
    pub(super) fn look_at_job(&mut self, at: usize) -> Result<(), StateError> {
        let now = now_ms();
        let horizon = now.saturating_add(self.horizon_ms());
        let state = &mut self.lanes[at];
        let Some(job) = state.job() else { return Ok(()) };
        let root = state.lane.root;
        let (head, due) = self.shared.store.read(|txn| {
            let head = txn.due_priority(job, now)?;
            let due = if head.is_none() {
                txn.next_due(root, Some(job))?
            } else {
                None
            };
            Ok((head, due))
        })?;
        // A claim that has run out is due without a priority of its own; what is due too late was put off by another clock.
        let is_due = |due: &i64| *due <= now || *due > horizon;
        state.head = head.or(due.filter(is_due).map(|_| PRIORITY_NORMAL));
        if state.head.is_none() {
            state.idle_for(due.map_or(SLEEP_MAX, |due| {
                Duration::from_millis(u64::try_from(due.saturating_sub(now)).unwrap_or(0))
            }));
        }
        Ok(())
    }

    /// Returns the other jobs between a lane's sites that must come to an end before it may begin; `None` if it is their
    /// turn, not its own.
    pub(super) fn before(&self, at: usize) -> Option<Vec<usize>> {
        let state = &self.lanes[at];
        if state.copies.is_none() {
            return Some(Vec::new());
        }
        let running = |other: usize| self.under_way.values().any(|worked| worked.lane == other);
        let mut pair: Vec<usize> = (0..self.lanes.len())
            .filter(|other| self.lanes[*other].is_of_same_pair(state))
            .filter(|other| *other == at || self.lanes[*other].head.is_some() || running(*other))
            .collect();
        // One that runs and has nothing due goes before those of the same priority; the older before the newer.
        let rank = |other: &usize| {
            let is_running = running(*other);
            let head = self.lanes[*other].head.or(self.running_priority(*other)).unwrap_or(0);
            (Reverse(head), !is_running, self.lanes[*other].job())
        };
        pair.sort_by_key(rank);
        let place = pair.iter().position(|other| *other == at)?;
        if place >= self.copies.jobs_per_pair.max(1) {
            return None;
        }
        let others: Vec<usize> = pair
            .iter()
            .copied()
            .filter(|other| *other != at && running(*other))
            .collect();
        if running(at) || others.len() < self.copies.jobs_per_pair.max(1) {
            return Some(Vec::new());
        }
        Some(
            others
                .into_iter()
                .filter(|other| !pair[..=place].contains(other))
                .collect(),
        )
    }

    /// Returns the highest priority of the tasks that a lane is working on.
    fn running_priority(&self, at: usize) -> Option<u16> {
        let of_lane = self.under_way.values().filter(|worked| worked.lane == at);
        of_lane.map(|worked| worked.task.priority).max()
    }

    /// Makes copies of large files stop between two parts where a copy that is more urgent waits for their slot, or for the
    /// end of their job.
    pub(super) fn make_way(&self, rows: &[QueueRow]) {
        for at in 0..self.lanes.len() {
            let Some(urgency) = self.urgency(at, rows).filter(|_| self.lanes[at].copies.is_some()) else {
                continue;
            };
            let Some(before) = self.before(at) else { continue };
            let parallel = self.shared.options.parallel.max(1);
            let is_full = |site: &&SiteName| {
                let (all, large) = self.load(site);
                all >= parallel || large >= large_max(parallel)
            };
            let full: Vec<&SiteName> = self.lanes[at].sites().filter(is_full).collect();
            if before.is_empty() && full.is_empty() {
                continue;
            }
            let is_in_the_way = |worked: &&Worked| {
                let state = &self.lanes[worked.lane];
                let row = rows.iter().find(|row| row.root == state.lane.root);
                let of_queue = row.and_then(|row| row.priority).unwrap_or(state.lane.priority);
                let blocks = before.contains(&worked.lane)
                    || before.is_empty() && state.sites().any(|site| full.contains(&site));
                blocks && state.copies.is_some() && (of_queue, worked.task.priority) < urgency
            };
            let in_the_way: Vec<&Worked> = self.under_way.values().filter(is_in_the_way).collect();
            // A slot is on its way.
            if before.is_empty() && in_the_way.iter().any(|worked| worked.yields.is_cancelled()) {
                continue;
            }
            // What can't be gone on with would be sent again.
            let can_stop = |worked: &&&Worked| {
                // Of one that was named, not listed, nobody knows the size; one part goes to its end anyway.
                let may_be_large = worked.large || worked.task.size == 0;
                may_be_large && self.lanes[worked.lane].lane.provider.capabilities().resume_upload
            };
            let mut stopping: Vec<&&Worked> = in_the_way.iter().filter(can_stop).collect();
            stopping.sort_by_key(|worked| worked.task.priority);
            let many = if before.is_empty() { 1 } else { stopping.len() };
            for worked in stopping.into_iter().take(many) {
                worked.yields.cancel();
            }
        }
    }
}
