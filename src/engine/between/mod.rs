//! What people ask to be copied between sites, and the jobs that come of it.
//!
//! Owns: what a path, a pattern or frames mean at a site, and which job they belong to. Refuses to know: how a file is
//! copied (`transfer::between`). Invariants: nothing is put into the queue where one of the things named is not at the site
//! it is to come from; what can't be looked at because its site is away is put in all the same, and looked at later.

mod here;
mod matching;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;
use jiff::civil::{Date, date};

use super::drive::{Drive, Inner, Project, now_ms};
use super::publish::SiteLink;
use super::queues::checked_priority;
use super::report::{CopyDirection, CopyReport, CopyRequest, JobQuery, JobReport, JobWord, PlannedCopy, TallyReport};
use super::site::Site;
use crate::model::frames::FrameError;
use crate::model::{EntryKind, PathError, RelPath, SiteName};
use crate::providers::{ErrorKind, ProviderError};
use crate::state::{
    Asked, Job, JobId, JobKey, JobKind, NewCopy, OpenJob, PRIORITY_NORMAL, ReadTxn, Replaces, StateError, TaskState,
};
use crate::transfer::{self, Copies, CopyProject, End, Preview};

use matching::Wanted;

use here::Arrivals;

/// Copies put in by one write: others come in between.
const BATCH: usize = 500;
/// How long a look at a named path may take before it is put in unseen.
const LOOK: Duration = Duration::from_secs(15);
/// Jobs told at most of each project.
const JOBS_MAX: usize = 200;
/// Paths of a preview that are named.
const PLANNED_MAX: usize = 1000;

/// Why nothing was put in.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// No path was given.
    #[error("no path was given")]
    Nothing,
    /// No site of that name.
    #[error("there is no site {0} in the settings")]
    NoSite(String),
    /// No other site was named.
    #[error("{0}: it comes from {1} and goes to {1}")]
    SameSite(RelPath, SiteName),
    /// A path in no project.
    #[error("{0} is in no project of the drive")]
    NoProject(String),
    /// Not at the source.
    #[error("{0} is not at {1}")]
    NotThere(RelPath, SiteName),
    /// A pattern that matches nothing.
    #[error("nothing at {1} matches {0}")]
    NoMatch(String, SiteName),
    /// A pattern that matches too much.
    #[error("{0} is too wide: {1}")]
    TooWide(String, &'static str),
    /// Not a pattern.
    #[error("{0} is no pattern: {1}")]
    Pattern(String, String),
    /// Not frames.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// Frames of a name that has no place for them.
    #[error("{0} has no place for a frame number: write one as ####, %04d or $F4")]
    NoFrames(String),
    /// A priority beyond 1000.
    #[error("a priority is a number from 0 to 1000, not {0}")]
    BadPriority(u16),
    /// No job of that number.
    #[error("there is no job {0}")]
    NoJob(u64),
    /// Not a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The source failed.
    #[error("{0}: {1}")]
    Site(SiteName, #[source] ProviderError),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Files or folders of one project that go from one site to another.
struct Batch {
    project: Arc<Project>,
    source: Arc<Site>,
    target: Arc<Site>,
    copies: Vec<NewCopy>,
}

impl Inner {
    /// Returns between what copies are made.
    pub(super) fn copies(self: &Arc<Self>) -> Copies {
        let sites: Vec<End> = self.sites.values().map(|site| end(site)).collect();
        let project = |project: &Arc<Project>| CopyProject {
            root: project.root,
            priority: project.priority,
            paths: self
                .sites
                .keys()
                .map(|site| (site.clone(), project.path_at(site)))
                .collect(),
        };
        Copies {
            sites,
            projects: self.projects.iter().map(project).collect(),
            jobs_per_pair: self.jobs_per_pair,
            arrived: Some(Arrivals::listener(self)),
        }
    }

    fn site_named(&self, name: &str) -> Result<&Arc<Site>, CopyError> {
        let site = self.sites.get(&SiteName(name.to_owned()));
        site.ok_or_else(|| CopyError::NoSite(name.to_owned()))
    }

    /// Returns the two ends of a request for a project.
    fn ends(&self, request: &CopyRequest, project: &Project) -> Result<(Arc<Site>, Arc<Site>), CopyError> {
        let named = |name: &Option<String>| match name {
            Some(name) => self.site_named(name).cloned(),
            None => Ok(Arc::clone(&project.site)),
        };
        let (source, target) = (named(&request.from)?, named(&request.to)?);
        if source.name() == target.name() {
            return Err(CopyError::SameSite(project.folder_path(), source.name().clone()));
        }
        Ok((source, target))
    }

    /// Looks at what is at a path of a site; `None` inside where that can't be told now.
    async fn kind_at(&self, site: &Site, path: &RelPath) -> Result<Option<Option<EntryKind>>, CopyError> {
        if site.link().is_down() {
            return Ok(None);
        }
        match tokio::time::timeout(LOOK, site.provider().stat(path)).await {
            Err(_elapsed) => Ok(None),
            Ok(Ok(entry)) => Ok(Some(Some(entry.kind))),
            Ok(Err(e)) if e.kind == ErrorKind::NotFound => Ok(Some(None)),
            Ok(Err(e)) if e.is_link_failure() => {
                site.link().failed(&e);
                Ok(None)
            }
            Ok(Err(e)) => Err(CopyError::Site(site.name().clone(), e)),
        }
    }

    /// Finds out what one path of a request means, and adds it to `copies`.
    async fn meant(
        &self,
        wanted: &Wanted,
        at: (&Project, &Site),
        copies: &mut Vec<NewCopy>,
        report: &mut CopyReport,
        new: &(dyn Fn(RelPath, bool) -> NewCopy + Sync),
    ) -> Result<(), CopyError> {
        let (project, source) = at;
        let base = project.path_at(source.name());
        if let Some(path) = wanted.plain() {
            let from = base.concat(&path);
            let kind = if from.is_root() {
                Some(Some(EntryKind::Dir))
            } else {
                self.kind_at(source, &from).await?
            };
            let folder = match kind {
                Some(None) if wanted.is_pattern() => return self.matches(wanted, at, copies, report, new).await,
                Some(None) => {
                    return Err(CopyError::NotThere(
                        project.folder_path().concat(&path),
                        source.name().clone(),
                    ));
                }
                Some(Some(kind)) => kind == EntryKind::Dir,
                None if wanted.is_pattern() => return self.matches(wanted, at, copies, report, new).await,
                None => {
                    report.unseen += 1;
                    true
                }
            };
            copies.push(new(path, folder));
            return Ok(());
        }
        self.matches(wanted, at, copies, report, new).await
    }

    async fn matches(
        &self,
        wanted: &Wanted,
        at: (&Project, &Site),
        copies: &mut Vec<NewCopy>,
        report: &mut CopyReport,
        new: &(dyn Fn(RelPath, bool) -> NewCopy + Sync),
    ) -> Result<(), CopyError> {
        let (project, source) = at;
        let found = wanted.find(source, &project.path_at(source.name())).await?;
        if found.entries.is_empty() {
            return Err(CopyError::NoMatch(wanted.text().to_owned(), source.name().clone()));
        }
        for path in found.missing {
            report.missing.push(project.folder_path().concat(&path).to_string());
        }
        copies.extend(found.entries.into_iter().map(|(path, folder)| new(path, folder)));
        Ok(())
    }
}

fn end(site: &Site) -> End {
    End {
        site: site.name().clone(),
        provider: Arc::clone(site.provider()),
        link: Arc::new(SiteLink(Arc::clone(site.link()))),
    }
}

/// Today, as the machine's time zone counts days, since 1970.
pub(super) fn today() -> i64 {
    let day: Date = Zoned::now().date();
    let since = date(1970, 1, 1).until(day).map(|span| span.get_days());
    since.map_or(0, i64::from)
}

/// A day as people write it.
fn day_text(day: i64) -> String {
    let span = i32::try_from(day)
        .ok()
        .and_then(|days| jiff::Span::new().try_days(days).ok());
    let shown = span.and_then(|span| date(1970, 1, 1).checked_add(span).ok());
    shown.map_or_else(|| day.to_string(), |day| day.to_string())
}

impl Drive {
    /// Puts what is asked for into the queue, or says what that would be.
    ///
    /// # Errors
    /// See [`CopyError`]; nothing was put in then.
    pub async fn copy(&self, request: &CopyRequest) -> Result<CopyReport, CopyError> {
        if request.paths.is_empty() {
            return Err(CopyError::Nothing);
        }
        let priority = request.priority.unwrap_or(PRIORITY_NORMAL);
        checked_priority(priority).map_err(|_too_high| CopyError::BadPriority(priority))?;
        let replaces = if request.overwrite {
            Replaces::Whatever
        } else {
            Replaces::Usual
        };
        let new = |path: RelPath, folder: bool| NewCopy {
            path,
            folder,
            size: 0,
            source_version: None,
            replaces: replaces.clone(),
            priority,
            asked: Asked::Named,
            seen: None,
        };
        let (mut report, mut batches) = (CopyReport::default(), Vec::<Batch>::new());
        for asked in &request.paths {
            let wanted = Wanted::parse(asked)?;
            let project = self.projects.iter().find(|project| project.folder == wanted.folder());
            let project = project.ok_or_else(|| CopyError::NoProject(wanted.text().to_owned()))?;
            let (source, target) = self.ends(request, project)?;
            let mut copies = Vec::new();
            self.meant(&wanted, (project, &source), &mut copies, &mut report, &new)
                .await?;
            match batches.iter_mut().find(|batch| batch.project.root == project.root) {
                Some(batch) => batch.copies.append(&mut copies),
                None => batches.push(Batch {
                    project: Arc::clone(project),
                    source,
                    target,
                    copies,
                }),
            }
        }
        let kind = match request.direction {
            CopyDirection::Push => JobKind::Push,
            CopyDirection::Pull => JobKind::Pull,
        };
        for batch in batches {
            if request.dry_run {
                self.preview(batch, &mut report).await?;
            } else {
                self.put_in(batch, kind, &mut report).await?;
            }
        }
        if let (false, Some(transfers)) = (request.dry_run, self.transfers()) {
            transfers.wake();
        }
        Ok(report)
    }

    async fn put_in(&self, batch: Batch, kind: JobKind, report: &mut CopyReport) -> Result<(), CopyError> {
        let key = JobKey {
            root: batch.project.root,
            source: batch.source.name().clone(),
            target: batch.target.name().clone(),
            kind,
            day: today(),
        };
        // One path may be meant twice, in two spellings.
        let mut seen = BTreeSet::new();
        let copies: Vec<NewCopy> = batch
            .copies
            .into_iter()
            .filter(|copy| seen.insert(copy.path.clone()))
            .collect();
        report.tasks += copies.len() as u64;
        for some in copies.chunks(BATCH) {
            let (some, key) = (some.to_vec(), key.clone());
            self.store
                .write_durable(move |txn| {
                    let now = now_ms();
                    some.iter()
                        .try_for_each(|copy| txn.queue_copy(copy, &key, now).map(drop))
                })
                .await?;
        }
        let job = self.store.write(move |txn| txn.ensure_job(&key, now_ms())).await?;
        report.jobs.push(self.job(job.0)?);
        Ok(())
    }

    /// Says what a batch would copy.
    async fn preview(&self, batch: Batch, report: &mut CopyReport) -> Result<(), CopyError> {
        let preview = Preview {
            store: self.store.clone(),
            root: batch.project.root,
            source: end(&batch.source),
            target: end(&batch.target),
            from: batch.project.path_at(batch.source.name()),
            to: batch.project.path_at(batch.target.name()),
        };
        for copy in batch.copies {
            report.tasks += 1;
            let mut tell = |path: &RelPath, planned: transfer::Planned| {
                let what = match planned {
                    transfer::Planned::Copied { size } => {
                        report.would_copy.add(TallyReport { tasks: 1, bytes: size });
                        "copied"
                    }
                    transfer::Planned::Same { size } => {
                        report.would_skip.add(TallyReport { tasks: 1, bytes: size });
                        return;
                    }
                    transfer::Planned::Conflict { size } => {
                        report.would_conflict.add(TallyReport { tasks: 1, bytes: size });
                        "conflict"
                    }
                };
                if report.planned.len() < PLANNED_MAX {
                    report.planned.push(PlannedCopy {
                        path: batch.project.folder_path().concat(path).to_string(),
                        what: what.to_owned(),
                    });
                }
            };
            transfer::preview(&preview, &copy, &mut tell)
                .await
                .map_err(|e| match e {
                    transfer::PreviewError::Site(site, e) => CopyError::Site(site, e),
                    transfer::PreviewError::State(e) => CopyError::State(e),
                })?;
        }
        Ok(())
    }

    /// Returns the jobs of copies: those that are not done, or the latest of all.
    ///
    /// # Errors
    /// When there is no such project, or the store can't be read.
    pub fn jobs(&self, query: &JobQuery) -> Result<Vec<JobReport>, CopyError> {
        let mut out = Vec::new();
        for project in &self.projects {
            if query.project.as_ref().is_some_and(|name| *name != project.name.0) {
                continue;
            }
            let jobs = self.store.read(|txn| {
                let open = txn.copy_jobs()?;
                let jobs = if query.all {
                    txn.jobs(project.root, JOBS_MAX)?
                } else {
                    open.into_iter().filter(|job| job.root == project.root).collect()
                };
                let copies = jobs.into_iter().filter(|job| job.kind != JobKind::Publish);
                copies
                    .map(|job| self.job_report(txn, project, job.id))
                    .collect::<Result<Vec<_>, _>>()
            })?;
            out.extend(jobs.into_iter().flatten());
        }
        out.sort_by_key(|job| job.id);
        Ok(out)
    }

    /// Returns one job of copies.
    ///
    /// # Errors
    /// When there is none of that number, or the store can't be read.
    pub fn job(&self, id: u64) -> Result<JobReport, CopyError> {
        let found = self.store.read(|txn| {
            let Some(job) = txn.job(JobId(id))? else {
                return Ok(None);
            };
            match self.projects.iter().find(|project| project.root == job.root) {
                Some(project) => self.job_report(txn, project, job.id),
                None => Ok(None),
            }
        })?;
        found.ok_or(CopyError::NoJob(id))
    }
}

impl Inner {
    fn job_report(&self, txn: &ReadTxn<'_>, project: &Project, id: JobId) -> Result<Option<JobReport>, StateError> {
        let Some(OpenJob { job, left, folders }) = txn.open_job(id)? else {
            return Ok(None);
        };
        let tally = |wanted: TaskState| -> TallyReport {
            let found = left.iter().find(|(state, _)| *state == wanted);
            found.map_or_else(TallyReport::default, |(_, tally)| (*tally).into())
        };
        let [waiting, running, blocked, held, excluded] = [
            TaskState::Waiting,
            TaskState::Running,
            TaskState::Blocked,
            TaskState::Held,
            TaskState::Excluded,
        ]
        .map(tally);
        let row = txn.queue_rows()?.into_iter().find(|row| row.root == project.root);
        let is_paused = row.is_some_and(|row| row.paused);
        let has_sites = [&job.source, &job.target]
            .iter()
            .all(|site| self.sites.contains_key(*site));
        let state = if !has_sites && waiting.tasks + running.tasks > 0 {
            JobWord::Blocked
        } else if waiting.tasks + running.tasks > 0 {
            match (is_paused, running.tasks) {
                (true, _) => JobWord::Paused,
                (false, 0) => JobWord::Waiting,
                (false, _) => JobWord::Running,
            }
        } else if blocked.tasks > 0 {
            JobWord::Blocked
        } else if held.tasks > 0 {
            JobWord::Held
        } else {
            JobWord::Done
        };
        let Job {
            source, target, kind, ..
        } = &job;
        let word = match kind {
            JobKind::Publish => "publish",
            JobKind::Push => "push",
            JobKind::Pull => "pull",
            JobKind::Sync => "sync",
        };
        let day = day_text(job.day);
        Ok(Some(JobReport {
            id: job.id.0,
            name: format!("{} {word} {source}>{target} {day}", project.name),
            project: project.name.0.clone(),
            kind: word.to_owned(),
            from: source.0.clone(),
            to: target.0.clone(),
            day,
            created_ms: job.created_ms,
            state,
            waiting,
            running,
            blocked,
            held,
            excluded,
            folders,
            done: TallyReport {
                tasks: job.done_tasks,
                bytes: job.done_bytes,
            },
            same: job.same_tasks,
            left_out: job.left_out,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_as_dates() {
        assert_eq!(day_text(0), "1970-01-01");
        assert_eq!(day_text(20_783), "2026-11-26");
        let today = today();
        assert!(today > 20_000, "{today}");
    }
}
