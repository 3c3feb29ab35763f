//! What people ask of the queues: to see them, to stop and go on, to try again, to give up.
//!
//! Owns: what a path, a project or a number means for tasks. Refuses to know: how a task is worked on. Invariants: nothing
//! is changed where one of the things named is not there; whatever is taken out of a queue, the file stays here.

use std::collections::HashMap;
use std::sync::Arc;

use super::drive::{Drive, Inner, LookupError, Project, now_ms};
use super::lockouts::Lockouts;
use super::pending::oldest_ms;
use super::report::{Changed, QueueReport, Selection, TaskKind, TaskPage, TaskQuery, TaskReport, TaskWord};
use super::words::Asker;
use super::writing::PublishName;
use crate::model::{EntryKind, Ino, Name, PathError, RelPath};
use crate::state::{
    JobId, PRIORITY_NORMAL, ReadTxn, StateError, Task, TaskFilter, TaskId, TaskState, TaskWhat, WriteTxn,
};
use crate::transfer::Stats;

/// Tasks of one answer at most.
const PAGE_MAX: usize = 1000;
/// Rows changed in one write: others come in between.
const BATCH: usize = 500;

/// Why something can't be done to a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No project of that name.
    #[error("there is no project {0}")]
    NoProject(String),
    /// No task of that number.
    #[error("there is no task {0}, or no longer")]
    NoTask(u64),
    /// No job of that number.
    #[error("there is no job {0}")]
    NoJob(u64),
    /// Nothing in the queue is about the path.
    #[error("{0}: nothing of it is in the queue")]
    NotQueued(RelPath),
    /// Nothing was named.
    #[error("nothing was named: give tasks, paths, a project or all")]
    Nothing,
    /// A priority beyond 1000.
    #[error("a priority is a number from 0 to 1000, not {0}")]
    BadPriority(u16),
    /// Not where a page ended.
    #[error("{0:?} is not what an answer said as `next`")]
    BadCursor(String),
    /// Not published by its rules.
    #[error("{0}: {1}")]
    NotPublished(RelPath, &'static str),
    /// No conflict about the path.
    #[error("{0}: there is no conflict about it")]
    NoConflict(RelPath),
    /// A conflict that can't be settled as asked.
    #[error("{0}: {1}")]
    Unsettled(RelPath, String),
    /// A path that is not in the drive.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Not a path of the drive.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What a selection names.
enum Chosen {
    All,
    Project(Ino),
    Job(JobId),
    Some(Vec<TaskId>),
}

/// What is done to tasks one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Retry,
    Cancel,
    Hold(bool),
    Exclude,
    Priority(u16),
}

impl Drive {
    /// Stops the queue of a project, or all, from being begun, or lets it go on.
    ///
    /// # Errors
    /// When there is no such project, or the store fails.
    pub async fn pause(&self, project: Option<&str>, paused: bool) -> Result<(), QueueError> {
        let roots: Vec<Ino> = match project {
            Some(name) => vec![self.project_named(name)?.root],
            None => self.projects.iter().map(|project| project.root).collect(),
        };
        let write = move |txn: &WriteTxn<'_>| roots.iter().try_for_each(|root| txn.pause_queue(*root, paused));
        self.store.write_durable(write).await?;
        self.reconsider_transfers();
        Ok(())
    }

    /// Gives a project's queue a priority; `None` is that of the settings.
    ///
    /// # Errors
    /// When there is no such project, or the store fails.
    pub async fn set_queue_priority(&self, project: &str, priority: Option<u16>) -> Result<(), QueueError> {
        let root = self.project_named(project)?.root;
        let priority = priority.map(checked_priority).transpose()?;
        let write = move |txn: &WriteTxn<'_>| txn.set_queue_priority(root, priority);
        self.store.write_durable(write).await?;
        self.reconsider_transfers();
        Ok(())
    }

    /// Makes tasks due now, as if they had never failed; files that were taken out of a queue are put in again where they
    /// are named. Sites that let nobody in are asked whether they do now.
    ///
    /// # Errors
    /// See [`QueueError`]; nothing was changed then.
    pub async fn retry(&self, selection: &Selection) -> Result<Changed, QueueError> {
        let queued = self.put_in_again(selection).await?;
        let filter = match self.chosen(selection, queued > 0)? {
            Chosen::All => TaskFilter::default(),
            Chosen::Project(root) => TaskFilter {
                root: Some(root),
                ..TaskFilter::default()
            },
            Chosen::Job(job) => TaskFilter {
                job: Some(job),
                ..TaskFilter::default()
            },
            Chosen::Some(ids) => {
                let tasks = self.each(ids, Deed::Retry).await?;
                self.ask_locked_out().await;
                return Ok(Changed { tasks, queued });
            }
        };
        let now = now_ms();
        let tasks = self.store.write_durable(move |txn| txn.retry_now(filter, now)).await? as u64;
        self.ask_locked_out().await;
        self.reconsider_transfers();
        Ok(Changed { tasks, queued })
    }

    /// Takes tasks out of the queue. Files stay here; what was to be removed at a site is shown again.
    ///
    /// # Errors
    /// See [`QueueError`]; nothing was changed then.
    pub async fn cancel(&self, selection: &Selection) -> Result<Changed, QueueError> {
        self.change(selection, Deed::Cancel).await
    }

    /// Holds tasks back, or lets held ones go.
    ///
    /// # Errors
    /// See [`QueueError`]; nothing was changed then.
    pub async fn hold(&self, selection: &Selection, hold: bool) -> Result<Changed, QueueError> {
        self.change(selection, Deed::Hold(hold)).await
    }

    /// Leaves copies out of what their jobs copy, until they are named again.
    ///
    /// # Errors
    /// See [`QueueError`]; nothing was changed then.
    pub async fn exclude(&self, selection: &Selection) -> Result<Changed, QueueError> {
        self.change(selection, Deed::Exclude).await
    }

    /// Gives tasks a priority within their queue; `None` is that of a task that nobody gave another.
    ///
    /// # Errors
    /// See [`QueueError`]; nothing was changed then.
    pub async fn set_task_priority(&self, selection: &Selection, priority: Option<u16>) -> Result<Changed, QueueError> {
        let priority = priority.map_or(Ok(PRIORITY_NORMAL), checked_priority)?;
        self.change(selection, Deed::Priority(priority)).await
    }

    async fn change(&self, selection: &Selection, deed: Deed) -> Result<Changed, QueueError> {
        let ids = match self.chosen(selection, false)? {
            Chosen::All => self.all_tasks(TaskFilter::default())?,
            Chosen::Project(root) => self.all_tasks(TaskFilter {
                root: Some(root),
                ..TaskFilter::default()
            })?,
            Chosen::Job(job) => self.all_tasks(TaskFilter {
                job: Some(job),
                ..TaskFilter::default()
            })?,
            Chosen::Some(ids) => ids,
        };
        let tasks = self.each(ids, deed).await?;
        Ok(Changed { tasks, queued: 0 })
    }

    /// Does something to tasks, and returns to how many.
    async fn each(&self, mut ids: Vec<TaskId>, deed: Deed) -> Result<u64, QueueError> {
        let mut done = 0;
        while !ids.is_empty() {
            let batch = ids.split_off(ids.len().saturating_sub(BATCH));
            let now = now_ms();
            let changed: Vec<Task> = self
                .store
                .write_durable(move |txn| {
                    let changed = batch.into_iter().map(|id| deed.on(txn, id, now));
                    Ok(changed.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
                })
                .await?;
            done += changed.len() as u64;
            if deed == Deed::Cancel {
                for task in changed {
                    self.shown_again(&task).await?;
                }
            }
        }
        self.reconsider_transfers();
        Ok(done)
    }

    /// What was to be removed at the site stays there.
    async fn shown_again(&self, task: &Task) -> Result<(), StateError> {
        let is_removal = matches!(task.what, TaskWhat::DeleteFile | TaskWhat::DeleteFolder);
        let (Some(path), true) = (&task.path, is_removal) else {
            return Ok(());
        };
        let place = self.store.read(|txn| txn.place(task.root, path))?;
        if let Some((parent, name)) = place {
            self.inner().refresh_name(parent, &name).await;
        }
        Ok(())
    }

    /// Puts files into the queue again that are named by their paths and were taken out of it; returns how many.
    async fn put_in_again(&self, selection: &Selection) -> Result<u64, QueueError> {
        let mut queued = 0;
        for path in &selection.paths {
            let path = RelPath::new(path)?;
            let files = self.out_of_the_queue(&path)?;
            for batch in files.chunks(BATCH) {
                let (batch, queue) = (batch.to_vec(), self.queueing());
                queued += self
                    .store
                    .write_durable(move |txn| {
                        let mut queued = 0;
                        for (at, ino) in batch {
                            let node = txn.lookup(at.parent, &at.name)?;
                            // It may be another by now.
                            let Some(node) = node.filter(|node| node.ino == ino && node.own && !node.writing) else {
                                continue;
                            };
                            queue.send(txn, &at, ino, node.generation, node.size)?;
                            queued += 1;
                        }
                        Ok(queued)
                    })
                    .await?;
            }
        }
        Ok(queued)
    }
}

impl Deed {
    /// Does it to a task; returns the task as it was if that changed it.
    fn on(self, txn: &WriteTxn<'_>, id: TaskId, now_ms: i64) -> Result<Option<Task>, StateError> {
        let Some(task) = txn.task(id)? else { return Ok(None) };
        let changed = match self {
            Self::Retry => {
                let filter = TaskFilter {
                    id: Some(id),
                    ..TaskFilter::default()
                };
                txn.retry_now(filter, now_ms)? > 0
            }
            Self::Cancel => {
                let cancelled = txn.cancel_task(id)?.is_some();
                if cancelled
                    && matches!(task.what, TaskWhat::DeleteFile | TaskWhat::DeleteFolder)
                    && let Some(path) = &task.path
                {
                    txn.unhide(task.root, path)?;
                }
                cancelled
            }
            Self::Hold(true) => task.state != TaskState::Held && !task.is_leftover() && txn.hold_task(id, true)?,
            Self::Hold(false) => txn.hold_task(id, false)?,
            Self::Exclude => txn.exclude_copy(id)?,
            Self::Priority(priority) => txn.set_task_priority(id, priority)?,
        };
        Ok(changed.then_some(task))
    }
}

pub(super) fn checked_priority(priority: u16) -> Result<u16, QueueError> {
    if priority > 1000 {
        return Err(QueueError::BadPriority(priority));
    }
    Ok(priority)
}

impl Inner {
    /// Returns a project by the key of its section, or by its folder.
    fn project_named(&self, name: &str) -> Result<&Arc<Project>, QueueError> {
        let by_name = self.projects.iter().find(|project| project.name.0 == name);
        let found = by_name.or_else(|| self.projects.iter().find(|project| project.folder == name));
        found.ok_or_else(|| QueueError::NoProject(name.to_owned()))
    }

    pub(super) fn reconsider_transfers(&self) {
        if let Some(transfers) = self.transfers() {
            transfers.reconsider();
        }
    }

    pub(super) fn transfer_stats(&self) -> Stats {
        self.transfers().map(|transfers| transfers.stats()).unwrap_or_default()
    }

    /// Returns what a selection names. `may_be_none`: a path that nothing in the queue is about is no error.
    fn chosen(&self, selection: &Selection, may_be_none: bool) -> Result<Chosen, QueueError> {
        if selection.all {
            return Ok(Chosen::All);
        }
        if let Some(name) = &selection.project {
            return Ok(Chosen::Project(self.project_named(name)?.root));
        }
        if let Some(id) = selection.job {
            let job = self.store.read(|txn| txn.job(JobId(id)))?;
            return Ok(Chosen::Job(job.ok_or(QueueError::NoJob(id))?.id));
        }
        if selection.tasks.is_empty() && selection.paths.is_empty() {
            return Err(QueueError::Nothing);
        }
        let paths: Vec<RelPath> = selection.paths.iter().map(RelPath::new).collect::<Result<_, _>>()?;
        let mut ids = Vec::new();
        for id in &selection.tasks {
            let task = self.store.read(|txn| txn.task(TaskId(*id)))?;
            ids.push(task.ok_or(QueueError::NoTask(*id))?.id);
        }
        for path in paths {
            let found = self.tasks_below(&path)?;
            if found.is_empty() && !may_be_none {
                return Err(QueueError::NotQueued(path));
            }
            ids.extend(found);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(Chosen::Some(ids))
    }

    /// Returns all tasks of a kind but leftovers.
    fn all_tasks(&self, filter: TaskFilter) -> Result<Vec<TaskId>, StateError> {
        let mut ids = Vec::new();
        self.store.read(|txn| {
            each_task_of(txn, filter, |task| {
                if !task.is_leftover() {
                    ids.push(task.id);
                }
                Ok(())
            })
        })?;
        Ok(ids)
    }

    /// Returns the tasks that are about a path or something below it.
    fn tasks_below(&self, path: &RelPath) -> Result<Vec<TaskId>, StateError> {
        let project = self.find_project(path);
        self.store.read(|txn| {
            if let Some((project, below)) = &project
                && let Some((parent, name)) = txn.place(project.root, below)?
            {
                let node = txn.lookup(parent, &name)?;
                if node.is_none_or(|node| node.kind != EntryKind::Dir) {
                    let tasks = [txn.task_of(parent, &name)?, txn.delete_of(project.root, below)?];
                    let copies = txn.copies_of(project.root, below)?;
                    return Ok(tasks.into_iter().flatten().chain(copies).map(|task| task.id).collect());
                }
            }
            let mut asker = Asker::new(self, txn)?;
            let mut ids = Vec::new();
            each_task(txn, project.as_ref().map(|(project, _)| project.root), |task| {
                let found = asker.path_of_task(&task)?;
                if !task.is_leftover() && found.is_some_and(|(_, at)| is_below(&at, path)) {
                    ids.push(task.id);
                }
                Ok(())
            })?;
            Ok(ids)
        })
    }

    /// Returns the project of a path of the drive, and the path inside it; `None` for the drive's root, and where none is.
    pub(super) fn find_project(&self, path: &RelPath) -> Option<(Arc<Project>, RelPath)> {
        let folder = path.components().next()?;
        let project = self
            .projects
            .iter()
            .find(|project| project.folder.as_bytes() == folder)?;
        let below = RelPath::new(&path.as_bytes()[folder.len()..]).ok()?;
        Some((Arc::clone(project), below))
    }

    /// Returns the files at a path or below it that are to be published, and that nothing in the queue is about.
    fn out_of_the_queue(&self, path: &RelPath) -> Result<Vec<(PublishName, Ino)>, QueueError> {
        let node = self.tree.resolve(path)?;
        let Some(node) = node else { return Ok(Vec::new()) };
        let names: Vec<(Ino, Name, Ino)> = if node.kind == EntryKind::Dir {
            let files = self.store.read(|txn| txn.own_files_below(node.ino))?;
            files
                .into_iter()
                .map(|file| (file.parent, file.name, file.ino))
                .collect()
        } else {
            let parent = path
                .split_last()
                .map(|(dir, name)| Ok((self.tree.resolve(&dir)?, name)));
            match parent.transpose().map_err(QueueError::State)? {
                Some((Some(dir), name)) if node.own && node.kind == EntryKind::File => vec![(dir.ino, name, node.ino)],
                _ => Vec::new(),
            }
        };
        Ok(self.store.read(|txn| {
            let mut asker = Asker::new(self, txn)?;
            let mut out = Vec::new();
            for (parent, name, ino) in names {
                let Some(node) = txn.node(ino)? else { continue };
                let is_out = !node.writing && asker.is_out_of_the_queue(&node, parent, &name)?;
                if is_out && let Some((project, _)) = asker.place(parent)? {
                    out.push((PublishName { project, parent, name }, ino));
                }
            }
            Ok(out)
        })?)
    }

    /// Returns how the queues stand, one a project.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn queues(&self) -> Result<Vec<QueueReport>, StateError> {
        let lockouts = self.lockouts();
        self.store.read(|txn| {
            let rows: HashMap<_, _> = txn.queue_rows()?.into_iter().map(|row| (row.root, row)).collect();
            let queue = |project: &Arc<Project>| {
                let mut counts = txn.queue_counts(project.root)?;
                let row = rows.get(&project.root);
                let set = row.and_then(|row| row.priority);
                if !lockouts.is_empty() {
                    for waiting in txn.waiting_between(project.root)? {
                        lockouts.count_as_blocked(&mut counts, project.root, &waiting);
                    }
                }
                Ok(QueueReport {
                    project: project.name.0.clone(),
                    priority: set.unwrap_or(project.priority),
                    priority_set: set.is_some(),
                    paused: row.is_some_and(|row| row.paused),
                    waiting: counts.waiting.into(),
                    running: counts.running.into(),
                    blocked: counts.blocked.into(),
                    held: counts.held.into(),
                    excluded: counts.excluded.into(),
                    retrying: counts.retrying.into(),
                    oldest_ms: oldest_ms(txn, Some(project.root))?,
                })
            };
            self.projects.iter().map(queue).collect()
        })
    }

    /// Returns some tasks.
    ///
    /// # Errors
    /// When there is no such project, or the store can't be read.
    pub fn tasks(&self, query: &TaskQuery) -> Result<TaskPage, QueueError> {
        let root = match &query.project {
            Some(name) => Some(self.project_named(name)?.root),
            None => None,
        };
        let limit = query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let lockouts = self.lockouts();
        // What waits for a site that lets nobody in is shown as blocked.
        let row_state = query.state.map(row_state);
        let filter = TaskFilter {
            root,
            state: row_state.filter(|state| *state != TaskState::Blocked || lockouts.is_empty()),
            id: None,
            job: query.job.map(JobId),
        };
        let stats = self.transfer_stats();
        let page = self.store.read(|txn| {
            let mut asker = Asker::new(self, txn)?;
            let (mut tasks, mut after) = (Vec::new(), TaskId(query.cursor));
            loop {
                let rows = txn.tasks(filter, after, PAGE_MAX)?;
                let is_last = rows.len() < PAGE_MAX;
                for row in rows {
                    after = row.id;
                    let shown = report(&mut asker, row, &stats, &lockouts)?;
                    tasks.extend(shown.filter(|task| query.state.is_none_or(|state| state == task.state)));
                    if tasks.len() == limit {
                        let next = Some(after.0);
                        return Ok(TaskPage { tasks, next });
                    }
                }
                if is_last {
                    return Ok(TaskPage { tasks, next: None });
                }
            }
        })?;
        Ok(page)
    }
}

/// Shows all tasks, of one project or all, one after the other.
pub(super) fn each_task(
    txn: &ReadTxn<'_>,
    root: Option<Ino>,
    each: impl FnMut(Task) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let filter = TaskFilter {
        root,
        ..TaskFilter::default()
    };
    each_task_of(txn, filter, each)
}

fn each_task_of(
    txn: &ReadTxn<'_>,
    filter: TaskFilter,
    mut each: impl FnMut(Task) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let mut after = TaskId(0);
    loop {
        let page = txn.tasks(filter, after, PAGE_MAX)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        page.into_iter().try_for_each(&mut each)?;
    }
}

/// Says whether a path is another one, or lies below it.
pub(super) fn is_below(path: &RelPath, above: &RelPath) -> bool {
    let rest = path.as_bytes().strip_prefix(above.as_bytes());
    above.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The state of the row that a word is for.
fn row_state(word: TaskWord) -> TaskState {
    match word {
        TaskWord::Waiting | TaskWord::Retrying => TaskState::Waiting,
        TaskWord::Uploading | TaskWord::Deleting | TaskWord::Copying => TaskState::Running,
        TaskWord::Blocked => TaskState::Blocked,
        TaskWord::Held => TaskState::Held,
        TaskWord::Excluded => TaskState::Excluded,
    }
}

/// Returns a task as people are shown it; `None` where its project is out of sight.
fn report(
    asker: &mut Asker<'_, '_>,
    mut task: Task,
    stats: &Stats,
    lockouts: &Lockouts,
) -> Result<Option<TaskReport>, StateError> {
    let Some((project, path)) = asker.path_of_task(&task)? else {
        return Ok(None);
    };
    let what = match task.what {
        TaskWhat::Send if task.is_leftover() => TaskKind::Clear,
        TaskWhat::Send => TaskKind::Publish,
        TaskWhat::DeleteFile | TaskWhat::DeleteFolder => TaskKind::Delete,
        TaskWhat::Copy => TaskKind::Copy,
        TaskWhat::CopyFolder => TaskKind::CopyFolder,
        TaskWhat::CopyLeftover => TaskKind::Clear,
    };
    let from = match &task.target {
        Some(_) => asker.source_of(task.job)?,
        None => None,
    };
    if task.state == TaskState::Waiting
        && let Some((kind, why)) = lockouts.blocks(&task, from.as_ref())
    {
        // It has no time of its own: it goes on once the site lets us in.
        (task.state, task.due_ms) = (TaskState::Blocked, i64::MAX);
        (task.kind, task.error) = (Some(kind), Some(why));
    }
    let state = match task.state {
        TaskState::Waiting if task.tries > 0 => TaskWord::Retrying,
        TaskState::Waiting => TaskWord::Waiting,
        TaskState::Running if what == TaskKind::Publish => TaskWord::Uploading,
        TaskState::Running if matches!(what, TaskKind::Copy | TaskKind::CopyFolder) => TaskWord::Copying,
        TaskState::Running => TaskWord::Deleting,
        TaskState::Blocked => TaskWord::Blocked,
        TaskState::Held => TaskWord::Held,
        TaskState::Excluded => TaskWord::Excluded,
    };
    let under_way = stats.under_way.iter().find(|file| file.task == task.id);
    Ok(Some(TaskReport {
        id: task.id.0,
        project: project.name.0.clone(),
        path: path.to_string(),
        what,
        state,
        size: task.size,
        done_bytes: under_way.map_or(task.done_bytes, |file| file.done_bytes).min(task.size),
        tries: task.tries,
        kind: task.kind,
        error: task.error,
        due_ms: (task.due_ms != i64::MAX && !matches!(state, TaskWord::Held | TaskWord::Excluded))
            .then_some(task.due_ms),
        priority: task.priority,
        from: from.map(|site| site.0),
        to: task.target.map(|site| site.0),
        job: task.job.0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_means_whole_names() {
        let path = |text: &str| RelPath::new(text).unwrap();
        for (at, above, is) in [
            ("show/publish/a", "show/publish", true),
            ("show/publish", "show/publish", true),
            ("show/publish2/a", "show/publish", false),
            ("show", "show/publish", false),
            ("show/a", "", true),
        ] {
            assert_eq!(is_below(&path(at), &path(above)), is, "{at} below {above}");
        }
    }
}
