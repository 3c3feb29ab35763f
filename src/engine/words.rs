//! The word for a file: how it stands with its site, and how much of it is here.
//!
//! Owns: what a file's row, its tasks, its zones and its conflict mean together. Refuses to know: how any of them came about.
//! Invariant: a file that is a mirror costs no question about the queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backlot_config::ZoneKind;
use tracing::debug;

use super::drive::{Inner, LookupError, Project, content_version};
use super::hydrate::Mismatch;
use super::report::{LsEntry, PinFailure};
use crate::model::{EntryKind, FileState, Ino, Name, RelPath, Residency, SiteName, Sync};
use crate::state::{Child, Conflict, JobId, Node, ReadTxn, StateError, Task, TaskState};

/// Folders whose places are remembered.
const PLACES_MAX: usize = 10_000;

/// Asks about many files at one moment of the store.
#[derive(Debug)]
pub(super) struct Asker<'a, 'c> {
    drive: &'a Inner,
    txn: &'a ReadTxn<'c>,
    /// Conflicts that nobody has settled.
    pub(super) conflicts: Vec<Conflict>,
    in_conflict: HashSet<Ino>,
    places: HashMap<Ino, Option<(Arc<Project>, RelPath)>>,
    sources: HashMap<JobId, Option<SiteName>>,
}

impl<'a, 'c> Asker<'a, 'c> {
    pub(super) fn new(drive: &'a Inner, txn: &'a ReadTxn<'c>) -> Result<Self, StateError> {
        let conflicts = txn.unsettled()?;
        Ok(Self {
            drive,
            txn,
            in_conflict: conflicts.iter().map(|conflict| conflict.ino).collect(),
            conflicts,
            places: HashMap::new(),
            sources: HashMap::new(),
        })
    }

    /// Returns the project that a folder lies in, and its path inside that.
    pub(super) fn place(&mut self, dir: Ino) -> Result<Option<(Arc<Project>, RelPath)>, StateError> {
        if let Some(known) = self.places.get(&dir) {
            return Ok(known.clone());
        }
        let found = self.txn.project_of(dir)?.and_then(|(project, below)| {
            let project = self.drive.projects.iter().find(|p| p.root == project.root)?;
            Some((Arc::clone(project), below))
        });
        if self.places.len() >= PLACES_MAX {
            self.places.clear();
        }
        self.places.insert(dir, found.clone());
        Ok(found)
    }

    /// Returns the path in the drive of a name.
    pub(super) fn path(&mut self, parent: Ino, name: &Name) -> Result<Option<RelPath>, StateError> {
        let place = self.place(parent)?;
        Ok(place.map(|(project, dir)| project.folder_path().concat(&dir).join(name)))
    }

    /// Returns the zone of a name; `None` where no project is.
    pub(super) fn zone(&mut self, parent: Ino, name: &Name) -> Result<Option<ZoneKind>, StateError> {
        let place = self.place(parent)?;
        Ok(place.map(|(project, dir)| project.zones.of(&dir.join(name))))
    }

    /// Returns the path in the drive that a task is about; the project's folder for a leftover. `None` where that is out
    /// of sight.
    pub(super) fn path_of_task(&mut self, task: &Task) -> Result<Option<(Arc<Project>, RelPath)>, StateError> {
        let project = self.drive.projects.iter().find(|project| project.root == task.root);
        let Some(project) = project.cloned() else {
            return Ok(None);
        };
        let path = match (task.parent, &task.name, &task.path) {
            (Some(parent), Some(name), _) => self.path(parent, name)?,
            (_, _, Some(below)) => Some(project.folder_path().concat(below)),
            _ => Some(project.folder_path()),
        };
        Ok(path.map(|path| (project, path)))
    }

    /// Returns the site that a job's files come from.
    pub(super) fn source_of(&mut self, job: JobId) -> Result<Option<SiteName>, StateError> {
        if let Some(known) = self.sources.get(&job) {
            return Ok(known.clone());
        }
        let source = self.txn.job(job)?.map(|job| job.source);
        self.sources.insert(job, source.clone());
        Ok(source)
    }

    /// Says how a file stands with its site. Where the name is known under which somebody looks at it, that counts;
    /// otherwise all its names do.
    pub(super) fn sync_of(&mut self, node: &Node, at: Option<(Ino, &Name)>) -> Result<Sync, StateError> {
        if self.in_conflict.contains(&node.ino) {
            return Ok(Sync::Conflict);
        }
        if !node.own {
            return Ok(Sync::Clean);
        }
        let names = match at {
            Some((parent, name)) => vec![(parent, name.clone())],
            None => self.txn.names_of(node.ino)?,
        };
        let mut sync = Sync::LocalOnly;
        for (parent, name) in names {
            let of_name = self.sync_of_name(node, parent, &name)?;
            if urgency(of_name) > urgency(sync) {
                sync = of_name;
            }
        }
        Ok(sync)
    }

    fn sync_of_name(&mut self, node: &Node, parent: Ino, name: &Name) -> Result<Sync, StateError> {
        if !self.publishes(parent, name)? {
            return Ok(Sync::LocalOnly);
        }
        // A close by one of several who have it open says nothing about the others.
        if node.writing || self.drive.handles.has_writer(node.ino) {
            return Ok(Sync::Dirty);
        }
        Ok(match self.txn.task_of(parent, name)? {
            Some(task) => sync_of_task(&task),
            None if self.was_sent(node, parent, name)? => Sync::Clean,
            None => Sync::LocalOnly,
        })
    }

    /// Says whether a name is in a publish zone.
    pub(super) fn publishes(&mut self, parent: Ino, name: &Name) -> Result<bool, StateError> {
        Ok(self.zone(parent, name)? == Some(ZoneKind::Publish))
    }

    /// Says whether an own file of which nothing is in the queue is at its site under a name: one with several names stays
    /// this machine's own though it was sent.
    fn was_sent(&self, node: &Node, parent: Ino, name: &Name) -> Result<bool, StateError> {
        self.txn.is_sent(parent, name, node.ino, node.generation)
    }

    /// Says whether a name of an own file that is not being written is to be published, and was taken out of the queue.
    pub(super) fn is_out_of_the_queue(&mut self, node: &Node, parent: Ino, name: &Name) -> Result<bool, StateError> {
        Ok(node.own
            && self.publishes(parent, name)?
            && self.txn.task_of(parent, name)?.is_none()
            && !self.was_sent(node, parent, name)?)
    }
}

fn sync_of_task(task: &Task) -> Sync {
    match task.state {
        TaskState::Running => Sync::Uploading,
        TaskState::Blocked => Sync::Failed,
        TaskState::Waiting if task.tries > 0 => Sync::Failed,
        TaskState::Waiting | TaskState::Held | TaskState::Excluded => Sync::Queued,
    }
}

/// Which of several names' words is told.
fn urgency(sync: Sync) -> u8 {
    match sync {
        Sync::LocalOnly => 0,
        Sync::Clean => 1,
        Sync::Dirty => 2,
        Sync::Queued => 3,
        Sync::Uploading => 4,
        Sync::Failed => 5,
        Sync::Conflict => 6,
    }
}

impl Inner {
    /// Returns the word for a file and how many of its bytes are here.
    pub(super) fn file_state(&self, node: &Node) -> (FileState, u64) {
        let sync = match self.tree.is_in_conflict(node.ino) {
            Ok(true) => Ok(Sync::Conflict),
            Ok(false) if !node.own => Ok(Sync::Clean),
            _ => self.store.read(|txn| Asker::new(self, txn)?.sync_of(node, None)),
        };
        let sync = sync.unwrap_or_else(|e| {
            debug!(ino = %node.ino, error = %e, "how the file stands is not known");
            if node.own { Sync::LocalOnly } else { Sync::Clean }
        });
        let (state, bytes) = self.worded(node, sync);
        if state == FileState::Cached && self.is_pinned(node.ino) {
            return (state.pinned(), bytes);
        }
        (state, bytes)
    }

    /// Lists a folder, or shows one file, with states.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn ls(&self, path: &RelPath, after: u64, limit: usize) -> Result<Vec<LsEntry>, LookupError> {
        let node = self.tree.resolve(path)?;
        let node = node.ok_or_else(|| LookupError::NotFound(path.clone()))?;
        let at = match path.split_last() {
            Some((above, _)) if node.kind != EntryKind::Dir => above,
            _ => path.clone(),
        };
        let (dir, rows) = match path.split_last() {
            Some((dir, name)) if node.kind != EntryKind::Dir => {
                let dir = self.tree.resolve(&dir)?.map_or(Ino::ROOT, |dir| dir.ino);
                (dir, vec![Child { cookie: 0, name, node }])
            }
            _ => (node.ino, self.tree.children(node.ino, after, limit)?),
        };
        let syncs: Vec<Option<Sync>> = self.store.read(|txn| {
            let mut asker = Asker::new(self, txn)?;
            let is_file = |row: &Child| row.node.kind == EntryKind::File;
            let mut sync = |row: &Child| asker.sync_of(&row.node, Some((dir, &row.name)));
            rows.iter()
                .map(|row| is_file(row).then(|| sync(row)).transpose())
                .collect()
        })?;
        let rules = self.pins.rules();
        let entry = |(row, sync): (Child, Option<Sync>)| {
            let node = self.as_written(row.node);
            let pinned = !rules.is_empty() && rules.cover_in_drive(&at.join(&row.name));
            let state = sync.map(|sync| self.worded(&node, sync));
            let state = state.map(|(state, bytes)| (if pinned { state.pinned() } else { state }, bytes));
            LsEntry {
                cookie: row.cookie,
                name: row.name.to_string(),
                kind: node.kind,
                size: node.size,
                mtime_ns: node.mtime_ns,
                state: state.map(|s| s.0),
                cached_bytes: state.map(|s| s.1),
                pinned,
            }
        };
        Ok(rows.into_iter().zip(syncs).map(entry).collect())
    }

    fn worded(&self, node: &Node, sync: Sync) -> (FileState, u64) {
        let (residency, bytes) = self.residency(node);
        if sync == Sync::Clean && self.mismatch_of(node).is_some() {
            // What is still to be dropped of it is not given out either.
            return (FileState::Failed, 0);
        }
        (FileState::of(sync, residency, node.size), bytes)
    }

    /// Returns what is wrong with the bytes that came for a file.
    fn mismatch_of(&self, node: &Node) -> Option<Arc<Mismatch>> {
        if self.mismatches.is_empty() || node.own && node.origin.is_none() {
            return None;
        }
        self.mismatches.of(self.content_id(node.ino, &content_version(node)))
    }

    /// Returns the files whose bytes are not what their site says they are; those are forgotten that are gone or have
    /// another version by now.
    pub(super) fn mismatch_reports(&self) -> Vec<PinFailure> {
        let mut reports = Vec::new();
        for (id, mismatch) in self.mismatches.list() {
            let is_other = |node: Node| self.content_id(node.ino, &content_version(&node)) != id;
            // Where the store can't be read, nothing is known to have changed.
            if self.tree.node(mismatch.ino).is_ok_and(|node| node.is_none_or(is_other)) {
                self.mismatches.forget(id);
                continue;
            }
            let path = self.tree.path_of(mismatch.ino).ok().flatten();
            reports.push(PinFailure {
                path: path.map_or_else(|| mismatch.path.to_string(), |path| path.to_string()),
                why: mismatch.to_string(),
            });
        }
        reports
    }

    pub(super) fn residency(&self, node: &Node) -> (Residency, u64) {
        if node.own && node.origin.is_none() {
            return (Residency::Full, node.size);
        }
        let version = content_version(node);
        match self.cache.residency(self.content_id(node.ino, &version), node.size) {
            Ok(backlot_cache::Residency::Full) => (Residency::Full, node.size),
            Ok(backlot_cache::Residency::Partial(b)) => (Residency::Partial(b), b),
            Ok(backlot_cache::Residency::None) => (Residency::None, 0),
            Err(e) => {
                debug!(ino = %node.ino, error = %e, "residency is not known");
                (Residency::None, 0)
            }
        }
    }

    /// Returns why a file is not at its site, where something is in the way.
    pub(super) fn trouble_with(&self, node: &Node) -> Option<String> {
        let told = self.store.read(|txn| {
            let mut asker = Asker::new(self, txn)?;
            let conflict = asker
                .conflicts
                .iter()
                .find(|conflict| conflict.ino == node.ino)
                .cloned();
            if let Some(conflict) = conflict {
                let wanted = asker.path(conflict.parent, &conflict.name)?.unwrap_or_default();
                return Ok(Some(format!("the site has another version as {wanted}")));
            }
            if !node.own {
                return Ok(self.mismatch_of(node).map(|mismatch| mismatch.to_string()));
            }
            let tasks = txn.tasks_of_ino(node.ino)?;
            Ok(tasks.into_iter().find_map(|task| task.error))
        });
        told.unwrap_or_else(|e| {
            debug!(ino = %node.ino, error = %e, "what is in a file's way is not known");
            None
        })
    }

    /// Returns the zone of a file, by its first name.
    pub(super) fn zone_of(&self, ino: Ino) -> Option<ZoneKind> {
        let zone = self.store.read(|txn| match txn.parent_of(ino)? {
            Some((parent, name)) => Asker::new(self, txn)?.zone(parent, &name),
            None => Ok(None),
        });
        zone.ok().flatten()
    }
}
