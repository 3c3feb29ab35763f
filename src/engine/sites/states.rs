//! Where files stand at each site: AYON's six numbers, as a view of what is stored apart.
//!
//! Owns: what a row of the tree, its tasks, its bytes here and the rows of other sites mean together. Refuses to know: how
//! any of them came about. Invariants: nothing here is stored; a folder is gone through one folder at a time, so that memory
//! does not grow with it; the doors to one storage stand alike.

use std::collections::HashMap;
use std::sync::Arc;

use super::SiteError;
use crate::engine::drive::{Drive, Inner, LookupError, Project};
use crate::engine::report::{SiteCounts, SiteStateReport, SiteStatesReport, site_word};
use crate::engine::sync::compare;
use crate::engine::words::Asker;
use crate::model::{EntryKind, Ino, Name, RelPath, Residency, SiteName, Sync, Version};
use crate::state::{Child, Node, ReadTxn, SiteRow, SiteStatus, StateError, Task, TaskState, TaskWhat};

/// Rows of a folder read at a time.
const PAGE: usize = 2048;
/// After so many tries AYON calls a transfer failed (`retry_cnt`); ours goes on trying all the same.
const RETRIES: u32 = 3;

/// What a site is to the project that is asked about.
enum Seat {
    /// This machine.
    Here,
    /// The project's remote site, or another door to it: what the tree shows is there.
    Remote,
    /// Any other.
    Other {
        doors: Arc<[SiteName]>,
        wanted: bool,
        served: bool,
    },
}

/// Where one file stands at one site.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Standing {
    status: SiteStatus,
    done_bytes: u64,
    version: Option<Version>,
    retries: u32,
    error: Option<String>,
    at_ms: Option<i64>,
}

impl Standing {
    fn of(status: SiteStatus) -> Self {
        Self {
            status,
            done_bytes: 0,
            version: None,
            retries: 0,
            error: None,
            at_ms: None,
        }
    }

    fn there(size: u64, version: Option<Version>) -> Self {
        Self {
            done_bytes: size,
            version,
            ..Self::of(SiteStatus::Synced)
        }
    }

    fn of_task(task: &Task, paused: bool) -> Self {
        let status = match task.state {
            TaskState::Running => SiteStatus::InProgress,
            TaskState::Held | TaskState::Excluded => SiteStatus::Paused,
            TaskState::Blocked => SiteStatus::Failed,
            TaskState::Waiting if paused => SiteStatus::Paused,
            TaskState::Waiting if task.tries >= RETRIES => SiteStatus::Failed,
            TaskState::Waiting => SiteStatus::Queued,
        };
        Self {
            done_bytes: task.done_bytes,
            retries: task.tries,
            error: task.error.clone(),
            ..Self::of(status)
        }
    }
}

/// All that was found out about one site.
struct Column {
    site: SiteName,
    seat: Seat,
    files: SiteCounts,
    done_bytes: u64,
    retries: u64,
    error: Option<String>,
    /// Of the last file.
    last: Option<Standing>,
}

impl Column {
    fn add(&mut self, standing: Standing) {
        self.files.add(standing.status);
        self.done_bytes += standing.done_bytes;
        self.retries += u64::from(standing.retries);
        if self.error.is_none() {
            self.error.clone_from(&standing.error);
        }
        self.last = Some(standing);
    }

    fn report(self, is_file: bool) -> SiteStateReport {
        let state = self.files.together();
        let last = self.last.filter(|_| is_file);
        SiteStateReport {
            site: self.site.0,
            here: matches!(self.seat, Seat::Here),
            state: state.code(),
            word: site_word(state).to_owned(),
            files: self.files,
            done_bytes: self.done_bytes,
            version: last.as_ref().and_then(|last| Some(last.version.as_ref()?.to_string())),
            retries: self.retries,
            error: self.error,
            at_ms: last.and_then(|last| last.at_ms),
        }
    }
}

impl Drive {
    /// Returns where a file, or all files of a folder, stand at each site. With `look` the sites that are not the project's
    /// remote one are asked first; one that does not answer is named, and what was known of it is told.
    ///
    /// # Errors
    /// See [`SiteError`].
    pub async fn site_states(&self, path: &RelPath, look: bool) -> Result<SiteStatesReport, SiteError> {
        let node = self.tree.resolve(path).map_err(LookupError::from)?;
        let node = node.ok_or_else(|| LookupError::NotFound(path.clone()))?;
        let (dir, name) = match path.split_last() {
            Some((above, name)) if node.kind != EntryKind::Dir => {
                let dir = self.tree.resolve(&above).map_err(LookupError::from)?;
                (dir.map_or(Ino::ROOT, |dir| dir.ino), Some(name))
            }
            _ => (node.ino, None),
        };
        let place = self.place(dir)?;
        let (project, below) = place.ok_or_else(|| SiteError::NoProject(path.clone()))?;
        let not_asked = if look {
            self.inner()
                .look_at_sites(&project, (dir, &below), name.as_ref())
                .await?
        } else {
            Vec::new()
        };
        let (drive, path) = (Arc::clone(self.inner()), path.clone());
        let told = tokio::task::spawn_blocking(move || drive.states_of(&project, (dir, below), name.as_ref()));
        let (files, bytes, columns) = told.await.map_err(|_cut| SiteError::Cut)??;
        let is_file = node.kind != EntryKind::Dir;
        Ok(SiteStatesReport {
            path: path.to_string(),
            folder: !is_file,
            files,
            bytes,
            sites: columns.into_iter().map(|column| column.report(is_file)).collect(),
            not_asked,
        })
    }
}

impl Inner {
    /// Holds what other sites show against the tree; returns those that could not be asked.
    async fn look_at_sites(
        self: &Arc<Self>,
        project: &Project,
        (dir, below): (Ino, &RelPath),
        only: Option<&Name>,
    ) -> Result<Vec<String>, SiteError> {
        let mut not_asked = Vec::new();
        for site in self.sites.values() {
            if self.doors.are_one(site.name(), project.site.name()) {
                continue;
            }
            match compare::look(self, project, site, (dir, below.clone()), only).await {
                Ok(()) => {}
                Err(compare::Trouble::State(e)) => return Err(e.into()),
                Err(e) => not_asked.push(format!("{}: {e}", site.name())),
            }
        }
        Ok(not_asked)
    }

    fn columns(&self, project: &Project) -> Vec<Column> {
        let here = SiteName(self.site_id().to_owned());
        let column = |site: SiteName, seat: Seat| Column {
            site,
            seat,
            files: SiteCounts::default(),
            done_bytes: 0,
            retries: 0,
            error: None,
            last: None,
        };
        let mut columns = Vec::new();
        if !self.sites.contains_key(&here) {
            columns.push(column(here, Seat::Here));
        }
        for site in self.sites.keys() {
            let doors = self.doors.of(site);
            let seat = if doors.contains(project.site.name()) {
                Seat::Remote
            } else {
                let wanted = project.always.iter().any(|always| doors.contains(always.name()));
                let served = self.sync.serves(project.root, &doors);
                Seat::Other { doors, wanted, served }
            };
            columns.push(column(site.clone(), seat));
        }
        columns
    }

    fn states_of(
        &self,
        project: &Project,
        (dir, below): (Ino, RelPath),
        only: Option<&Name>,
    ) -> Result<(u64, u64, Vec<Column>), StateError> {
        let mut columns = self.columns(project);
        let source_doors = self.doors.of(project.site.name());
        let (mut files, mut bytes) = (0, 0);
        let asked = self.store.read(|txn| asked_above(txn, project.root, &below))?;
        let mut todo = vec![(dir, below, Arc::new(asked))];
        while let Some((dir, below, asked)) = todo.pop() {
            self.store.read(|txn| {
                let mut asker = Asker::new(self, txn)?;
                let known = Known::of(txn, project.root, &below, only)?;
                let paused = txn
                    .queue_rows()?
                    .iter()
                    .any(|row| row.root == project.root && row.paused);
                let mut after = 0;
                loop {
                    let rows = match only {
                        Some(name) => one_child(txn, dir, name)?,
                        None => txn.children(dir, after, PAGE)?,
                    };
                    for child in &rows {
                        match child.node.kind {
                            EntryKind::Dir => {
                                let asked = known.asked_with(&child.name, &asked);
                                todo.push((child.node.ino, below.join(&child.name), asked));
                            }
                            EntryKind::File => {
                                let node = self.as_written(child.node.clone());
                                files += 1;
                                bytes += node.size;
                                for column in &mut columns {
                                    let at = (dir, &child.name);
                                    let standing = match &column.seat {
                                        Seat::Here => self.standing_here(&node),
                                        Seat::Remote => standing_at_remote(&mut asker, txn, &node, at, paused)?,
                                        Seat::Other { doors, wanted, served } => {
                                            let source = project.site.name();
                                            let at = At {
                                                source,
                                                source_doors: &source_doors,
                                                doors,
                                                wanted: *wanted || doors.iter().any(|door| asked.contains(door)),
                                                asked: *served || doors.iter().any(|door| asked.contains(door)),
                                            };
                                            known.standing(&node, &child.name, &at, paused)
                                        }
                                    };
                                    column.add(standing);
                                }
                            }
                            EntryKind::Symlink
                            | EntryKind::Fifo
                            | EntryKind::Socket
                            | EntryKind::CharDevice
                            | EntryKind::BlockDevice => {}
                        }
                    }
                    after = rows.last().map_or(0, |last| last.cookie);
                    if rows.len() < PAGE || only.is_some() {
                        return Ok(());
                    }
                }
            })?;
        }
        Ok((files, bytes, columns))
    }

    fn standing_here(&self, node: &Node) -> Standing {
        match self.residency(node) {
            (Residency::Full, bytes) => Standing::there(bytes, node.version.clone()),
            (Residency::None | Residency::Partial(_), bytes) => Standing {
                done_bytes: bytes,
                ..Standing::of(SiteStatus::NotAvailable)
            },
        }
    }
}

fn one_child(txn: &ReadTxn<'_>, dir: Ino, name: &Name) -> Result<Vec<Child>, StateError> {
    let node = txn.lookup(dir, name)?;
    let child = |node| Child {
        cookie: 0,
        name: name.clone(),
        node,
    };
    Ok(node.map(child).into_iter().collect())
}

/// Where a file stands at the project's remote site.
fn standing_at_remote(
    asker: &mut Asker<'_, '_>,
    txn: &ReadTxn<'_>,
    node: &Node,
    (parent, name): (Ino, &Name),
    paused: bool,
) -> Result<Standing, StateError> {
    let sync = asker.sync_of(node, Some((parent, name)))?;
    Ok(match sync {
        Sync::Clean => Standing::there(node.size, node.version.clone()),
        Sync::LocalOnly | Sync::Dirty => Standing::of(SiteStatus::NotAvailable),
        Sync::Conflict => Standing {
            error: Some("the site has another version of it; `backlot conflict` settles that".to_owned()),
            ..Standing::of(SiteStatus::Failed)
        },
        Sync::Queued | Sync::Uploading | Sync::Failed => match txn.task_of(parent, name)? {
            Some(task) => Standing::of_task(&task, paused),
            None => Standing::of(SiteStatus::NotAvailable),
        },
    })
}

/// A site beside the project's remote one, which is the source.
struct At<'a> {
    source: &'a SiteName,
    /// All doors to it.
    source_doors: &'a [SiteName],
    doors: &'a [SiteName],
    wanted: bool,
    /// Somebody asked for the whole folder there, or a service of this daemon sees to it that all is there.
    asked: bool,
}

/// What is known of the files of a folder at sites beside the remote one.
struct Known {
    rows: HashMap<Name, Vec<SiteRow>>,
    /// Copies that are not finished.
    copies: HashMap<Name, Vec<Task>>,
}

impl Known {
    fn of(txn: &ReadTxn<'_>, root: Ino, dir: &RelPath, only: Option<&Name>) -> Result<Self, StateError> {
        let mut rows: HashMap<Name, Vec<SiteRow>> = HashMap::new();
        let mut copies: HashMap<Name, Vec<Task>> = HashMap::new();
        match only {
            Some(name) => {
                let path = dir.join(name);
                rows.insert(name.clone(), txn.site_rows(root, &path)?);
                copies.insert(name.clone(), txn.copies_of(root, &path)?);
            }
            None => {
                for (name, row) in txn.site_rows_in(root, dir)? {
                    rows.entry(name).or_default().push(row);
                }
                for task in txn.copies_in(root, dir)? {
                    let name = task.path.as_ref().and_then(RelPath::split_last).map(|(_, name)| name);
                    if let Some(name) = name {
                        copies.entry(name).or_default().push(task);
                    }
                }
            }
        }
        Ok(Self { rows, copies })
    }

    fn standing(&self, node: &Node, name: &Name, at: &At<'_>, paused: bool) -> Standing {
        let At {
            source,
            source_doors,
            doors,
            wanted,
            asked,
        } = *at;
        let copies = self.copies.get(name).into_iter().flatten();
        let mut copies = copies.filter(|task| task.target.as_ref().is_some_and(|target| doors.contains(target)));
        let task = copies.next();
        let rows = self.rows.get(name).into_iter().flatten();
        // Of several doors, the one that something was last written for.
        let row = rows.filter(|row| doors.contains(&row.site)).max_by_key(|row| row.at_ms);
        if let Some(task) = task {
            return Standing {
                version: row.and_then(|row| row.version.clone()),
                ..Standing::of_task(task, paused)
            };
        }
        let Some(row) = row else {
            return Standing::of(if asked && !node.own {
                SiteStatus::Queued
            } else {
                SiteStatus::NotAvailable
            });
        };
        let told = Standing {
            version: row.version.clone(),
            retries: row.retries,
            error: row.error.clone(),
            at_ms: Some(row.at_ms),
            ..Standing::of(row.status)
        };
        // What came through another door to the remote site has a version of that door: its length has to do.
        let by_another_door = |(site, _): &(SiteName, Version)| site != source && source_doors.contains(site);
        let is_current = node
            .version
            .as_ref()
            .is_some_and(|version| row.is_copy_of(source, version))
            || row.size == node.size && row.source.as_ref().is_some_and(by_another_door);
        match row.status {
            SiteStatus::Synced if is_current => Standing {
                done_bytes: node.size,
                ..told
            },
            SiteStatus::Synced if wanted && !node.own => Standing {
                status: SiteStatus::Queued,
                ..told
            },
            SiteStatus::Synced => Standing {
                status: SiteStatus::NotAvailable,
                error: Some("an older version of it is there".to_owned()),
                ..told
            },
            SiteStatus::NotAvailable if asked && !node.own => Standing {
                status: SiteStatus::Queued,
                ..told
            },
            SiteStatus::NotAvailable
            | SiteStatus::InProgress
            | SiteStatus::Queued
            | SiteStatus::Failed
            | SiteStatus::Paused => told,
        }
    }

    /// Returns the sites that what is in a folder was asked for at: those of the folders above it, and its own.
    fn asked_with(&self, name: &Name, above: &Arc<Vec<SiteName>>) -> Arc<Vec<SiteName>> {
        let tasks = self.copies.get(name).into_iter().flatten();
        let more: Vec<_> = tasks.filter_map(folder_target).collect();
        if more.is_empty() {
            return Arc::clone(above);
        }
        Arc::new(above.iter().cloned().chain(more).collect())
    }
}

/// The site that a task brings a whole folder to, while it is not expanded yet.
fn folder_target(task: &Task) -> Option<SiteName> {
    let is_open = !matches!(task.state, TaskState::Excluded | TaskState::Held);
    task.target
        .clone()
        .filter(|_| task.what == TaskWhat::CopyFolder && is_open)
}

/// Returns the sites that a folder, or one above it, is being brought to whole.
fn asked_above(txn: &ReadTxn<'_>, root: Ino, dir: &RelPath) -> Result<Vec<SiteName>, StateError> {
    let mut asked = Vec::new();
    let mut at = dir.clone();
    loop {
        asked.extend(txn.copies_of(root, &at)?.iter().filter_map(folder_target));
        match at.split_last() {
            Some((above, _)) => at = above,
            None => return Ok(asked),
        }
    }
}
