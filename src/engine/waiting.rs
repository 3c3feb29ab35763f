//! Waiting until files are at their site, for scripts and farm submitters.
//!
//! Owns: what "at its site" means for a path, and what is in the way. Refuses to know: who waits. Invariants: a wait that
//! ends well was followed by nothing that is still on its way; however much there is to look at, looking takes a small
//! part of the time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::drive::{Drive, Inner, LookupError};
use super::lockouts::Lockouts;
use super::queues::{QueueError, each_task, is_below};
use super::report::{Obstacle, ObstacleKind, WaitReport, WaitRequest};
use super::words::Asker;
use crate::model::{EntryKind, Ino, RelPath};
use crate::state::{ReadTxn, StateError, Task, TaskId, TaskState};

/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks through the queues take at most this part of the time.
const LOOK_SHARE: u32 = 10;
/// The longest wait of one request.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// Obstacles that are told.
const OBSTACLES_MAX: usize = 1000;
/// A task that failed so often is no passing trouble.
const FAILED_TRIES: u32 = 3;

/// What is waited for.
#[derive(Clone, Debug)]
struct Targets {
    all: bool,
    /// Unsettled conflicts count as well.
    conflicts: bool,
    paths: Vec<RelPath>,
}

/// Something on its way that the next look begins with.
#[derive(Clone, Copy, Debug)]
enum Focus {
    Task(TaskId),
    Written(Ino),
}

/// A look at what is waited for.
#[derive(Debug, Default)]
struct Look {
    lockouts: Lockouts,
    report: WaitReport,
    focus: Option<Focus>,
}

impl Drive {
    /// Waits until everything asked for is at its site, or only what is in the way is left, or the time is up; says how
    /// far it is.
    ///
    /// # Errors
    /// When a path is not there, or is of a file that no publish zone has; or the store fails.
    pub async fn wait(&self, request: &WaitRequest) -> Result<WaitReport, QueueError> {
        let paths: Vec<RelPath> = request.paths.iter().map(RelPath::new).collect::<Result<_, _>>()?;
        if !request.all && paths.is_empty() {
            return Err(QueueError::Nothing);
        }
        let targets = Targets {
            all: request.all || paths.iter().any(RelPath::is_root),
            conflicts: true,
            paths,
        };
        let asked = request.timeout_ms.map_or(WAIT_MAX, Duration::from_millis);
        self.wait_for(targets, asked.min(WAIT_MAX)).await
    }

    /// As [`Drive::wait`] for all that is not at its site yet: files beside which the site has others are there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn drain(&self, timeout: Duration) -> Result<WaitReport, QueueError> {
        let targets = Targets {
            all: true,
            conflicts: false,
            paths: Vec::new(),
        };
        self.wait_for(targets, timeout.min(WAIT_MAX)).await
    }

    async fn wait_for(&self, targets: Targets, timeout: Duration) -> Result<WaitReport, QueueError> {
        let until = Instant::now() + timeout;
        let targets = Arc::new(targets);
        loop {
            let began = Instant::now();
            let (drive, wanted) = (Arc::clone(self.inner()), Arc::clone(&targets));
            let look = tokio::task::spawn_blocking(move || drive.look(&wanted)).await;
            let look = look.map_err(|_panicked| StateError::Closed)??;
            let Some(focus) = look.focus else {
                return Ok(look.report);
            };
            let again = Instant::now() + began.elapsed() * LOOK_SHARE;
            loop {
                let now = Instant::now();
                if now >= until || self.stop.is_cancelled() {
                    return Ok(look.report);
                }
                tokio::time::sleep(LOOK_EVERY.min(until - now)).await;
                let drive = Arc::clone(self.inner());
                let goes = tokio::task::spawn_blocking(move || drive.goes_on(focus)).await;
                if !goes.map_err(|_panicked| StateError::Closed)?? && Instant::now() >= again {
                    break;
                }
            }
        }
    }
}

impl Inner {
    /// Says whether something is still on its way.
    fn goes_on(&self, focus: Focus) -> Result<bool, StateError> {
        self.store.read(|txn| match focus {
            Focus::Task(id) => Ok(match txn.task(id)? {
                Some(task) => obstacle(&task, is_paused(txn, task.root)?, &self.lockouts()).is_none(),
                None => false,
            }),
            Focus::Written(ino) => Ok(txn.node(ino)?.is_some_and(|node| node.writing)),
        })
    }

    /// Looks at everything that is waited for.
    fn look(&self, targets: &Targets) -> Result<Look, QueueError> {
        let mut folders = Vec::new();
        let mut look = Look {
            lockouts: self.lockouts(),
            ..Look::default()
        };
        look.report.bytes_per_second = self.transfer_stats().bytes_per_second;
        if !targets.all {
            for path in &targets.paths {
                if self.is_folder(path)? {
                    folders.push(path.clone());
                } else {
                    self.store.read(|txn| self.look_at_file(txn, path, &mut look))?;
                }
            }
        }
        if targets.all || !folders.is_empty() {
            self.store
                .read(|txn| self.look_below(txn, targets.all, &folders, &mut look))?;
        }
        if targets.conflicts {
            self.store
                .read(|txn| self.look_for_conflicts(txn, targets, &mut look))?;
        }
        look.report.done = look.focus.is_none() && look.report.stuck == 0;
        Ok(look)
    }

    /// Says whether a path is a folder's. A path that nothing is at is one of a removal that is not done yet, or an error.
    fn is_folder(&self, path: &RelPath) -> Result<bool, QueueError> {
        let missing = || QueueError::Lookup(LookupError::NotFound(path.clone()));
        let Some(node) = self.tree.resolve(path)? else {
            let (project, below) = self.find_project(path).ok_or_else(missing)?;
            let delete = self.store.read(|txn| txn.delete_of(project.root, &below))?;
            return delete.map(|_| false).ok_or_else(missing);
        };
        let refuse = |why| Err(QueueError::NotPublished(path.clone(), why));
        match node.kind {
            EntryKind::Dir => Ok(true),
            _ if !node.own => Ok(false),
            EntryKind::File => {
                let publishes = self.store.read(|txn| match self.place_in(txn, path)? {
                    Some((parent, name)) => Asker::new(self, txn)?.publishes(parent, &name),
                    None => Ok(false),
                })?;
                if publishes {
                    return Ok(false);
                }
                refuse("it is in no publish zone, so that it stays on this machine")
            }
            EntryKind::Symlink
            | EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => refuse("only files are published, so that it stays on this machine"),
        }
    }

    fn place_in(&self, txn: &ReadTxn<'_>, path: &RelPath) -> Result<Option<(Ino, crate::model::Name)>, StateError> {
        match self.find_project(path) {
            Some((project, below)) => txn.place(project.root, &below),
            None => Ok(None),
        }
    }

    fn look_at_file(&self, txn: &ReadTxn<'_>, path: &RelPath, look: &mut Look) -> Result<(), StateError> {
        let Some((project, below)) = self.find_project(path) else {
            return Ok(());
        };
        if let Some(task) = txn.delete_of(project.root, &below)? {
            look.task(txn, path, &task)?;
        }
        let Some((parent, name)) = txn.place(project.root, &below)? else {
            return Ok(());
        };
        let task = txn.task_of(parent, &name)?;
        if let Some(task) = &task {
            look.task(txn, path, task)?;
        }
        let Some(node) = txn.lookup(parent, &name)? else {
            return Ok(());
        };
        if task.is_some() {
            return Ok(());
        }
        if node.writing {
            look.written(node.ino, self.as_written(node).size);
        } else if Asker::new(self, txn)?.is_out_of_the_queue(&node, parent, &name)? {
            look.cancelled(path);
        }
        Ok(())
    }

    fn look_below(&self, txn: &ReadTxn<'_>, all: bool, folders: &[RelPath], look: &mut Look) -> Result<(), StateError> {
        let mut asker = Asker::new(self, txn)?;
        let is_asked = |path: &RelPath| all || folders.iter().any(|folder| is_below(path, folder));
        let paused: Vec<Ino> = paused(txn)?;
        each_task(txn, None, |task| {
            // What is copied between sites is waited for by who pushes it.
            if task.is_leftover() || task.what.is_copy() {
                return Ok(());
            }
            let found = asker.path_of_task(&task)?;
            if let Some((_, path)) = found.filter(|(_, path)| is_asked(path)) {
                look.add(&path, &task, paused.contains(&task.root));
            }
            Ok(())
        })?;
        for (parent, name, node) in self.to_be_published(txn)? {
            if asker.path(parent, &name)?.is_some_and(|path| is_asked(&path)) {
                look.written(node.ino, self.as_written(node).size);
            }
        }
        if look.focus.is_some() {
            return Ok(());
        }
        // The last look, which goes through all own files: those that stay here have to be told.
        txn.each_own_name(|own| {
            let Some(path) = asker.path(own.parent, &own.name)?.filter(|path| is_asked(path)) else {
                return Ok(());
            };
            if !asker.publishes(own.parent, &own.name)? {
                look.report.local += 1;
            } else if let Some(node) = txn.node(own.ino)?.filter(|node| !node.writing)
                && asker.is_out_of_the_queue(&node, own.parent, &own.name)?
            {
                look.cancelled(&path);
            }
            Ok(())
        })
    }

    fn look_for_conflicts(&self, txn: &ReadTxn<'_>, targets: &Targets, look: &mut Look) -> Result<(), StateError> {
        let mut asker = Asker::new(self, txn)?;
        for conflict in asker.conflicts.clone() {
            let wanted = asker.path(conflict.parent, &conflict.name)?;
            let ours = match txn.names_of(conflict.ino)?.first() {
                Some((parent, name)) => asker.path(*parent, name)?,
                None => None,
            };
            let (Some(wanted), Some(ours)) = (wanted, ours) else {
                continue;
            };
            let is_asked = |path: &RelPath| targets.paths.iter().any(|asked| is_below(path, asked));
            if targets.all || is_asked(&wanted) || is_asked(&ours) {
                let why = format!("the site has another version as {wanted}");
                look.obstacle(&ours, ObstacleKind::Conflict, why, None);
            }
        }
        Ok(())
    }
}

impl Look {
    fn task(&mut self, txn: &ReadTxn<'_>, path: &RelPath, task: &Task) -> Result<(), StateError> {
        self.add(path, task, is_paused(txn, task.root)?);
        Ok(())
    }

    fn add(&mut self, path: &RelPath, task: &Task, is_paused: bool) {
        match obstacle(task, is_paused, &self.lockouts) {
            Some((what, why)) => self.obstacle(path, what, why, Some(task.id.0)),
            None => self.goes(Focus::Task(task.id), task.size),
        }
    }

    fn written(&mut self, ino: Ino, size: u64) {
        self.goes(Focus::Written(ino), size);
    }

    fn goes(&mut self, focus: Focus, size: u64) {
        self.report.going.tasks += 1;
        self.report.going.bytes = self.report.going.bytes.saturating_add(size);
        self.focus = self.focus.or(Some(focus));
    }

    fn cancelled(&mut self, path: &RelPath) {
        let why = "it was taken out of the queue; `backlot queue retry` puts it in again".to_owned();
        self.obstacle(path, ObstacleKind::Cancelled, why, None);
    }

    fn obstacle(&mut self, path: &RelPath, what: ObstacleKind, why: String, task: Option<u64>) {
        self.report.stuck += 1;
        if self.report.obstacles.len() < OBSTACLES_MAX {
            let path = path.to_string();
            self.report.obstacles.push(Obstacle { path, what, why, task });
        }
    }
}

fn paused(txn: &ReadTxn<'_>) -> Result<Vec<Ino>, StateError> {
    let rows = txn.queue_rows()?;
    Ok(rows.into_iter().filter(|row| row.paused).map(|row| row.root).collect())
}

fn is_paused(txn: &ReadTxn<'_>, root: Ino) -> Result<bool, StateError> {
    Ok(paused(txn)?.contains(&root))
}

/// Says why a task does not get done by itself; `None` if it does.
fn obstacle(task: &Task, is_paused: bool, lockouts: &Lockouts) -> Option<(ObstacleKind, String)> {
    let error = || task.error.clone().unwrap_or_default();
    match task.state {
        TaskState::Held => {
            let why = task.error.clone().unwrap_or_else(|| "it is held back".to_owned());
            Some((ObstacleKind::Held, why))
        }
        TaskState::Blocked => Some((ObstacleKind::Blocked, error())),
        TaskState::Waiting | TaskState::Running if is_paused => Some((
            ObstacleKind::Paused,
            "its queue is paused; `backlot queue resume` lets it go on".to_owned(),
        )),
        TaskState::Waiting if let Some(lockout) = lockouts.publishing(task.root) => {
            Some((ObstacleKind::Blocked, lockout.why.clone()))
        }
        TaskState::Waiting if task.tries >= FAILED_TRIES => Some((ObstacleKind::Failed, error())),
        TaskState::Waiting | TaskState::Running | TaskState::Excluded => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{JobId, TaskWhat};

    fn task(state: TaskState, tries: u32) -> Task {
        Task {
            id: TaskId(1),
            root: Ino(3),
            job: JobId(1),
            what: TaskWhat::Send,
            parent: Some(Ino(3)),
            name: None,
            ino: Some(Ino(4)),
            path: None,
            version: None,
            generation: 1,
            size: 1,
            priority: 500,
            state,
            due_ms: 0,
            tries,
            kind: None,
            error: Some("no room".to_owned()),
            lease_ms: 0,
            done_bytes: 0,
            upload: None,
            target: None,
            replaces: crate::state::Replaces::Usual,
            seen: None,
        }
    }

    #[test]
    fn what_goes_on_by_itself_is_waited_for_and_nothing_else() {
        use ObstacleKind as O;
        use TaskState as S;
        for (state, tries, is_paused, expected) in [
            (S::Waiting, 0, false, None),
            (S::Waiting, 2, false, None),
            (S::Waiting, 3, false, Some(O::Failed)),
            (S::Running, 5, false, None),
            (S::Running, 0, true, Some(O::Paused)),
            (S::Waiting, 0, true, Some(O::Paused)),
            (S::Blocked, 1, true, Some(O::Blocked)),
            (S::Held, 0, false, Some(O::Held)),
        ] {
            let found = obstacle(&task(state, tries), is_paused, &Lockouts::default());
            assert_eq!(found.map(|(what, _)| what), expected, "{state:?} {tries} {is_paused}");
        }
        let told = obstacle(&task(TaskState::Blocked, 1), false, &Lockouts::default()).expect("in the way");
        assert_eq!(told.1, "no room");
    }
}
