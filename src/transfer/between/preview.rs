//! What a copy would do, without doing it.

use futures::StreamExt;

use super::End;
use super::decide::Decision;
use super::desk::{CopyDesk, Failure, look};
use crate::model::{EntryKind, Ino, RelPath, SiteName};
use crate::providers::{Entry, ErrorKind, Op, ProviderError};
use crate::state::{JobId, NewCopy, StateError, StateStore, Task, TaskId, TaskState, TaskWhat};

/// Between what something would be copied.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Where it is written down what was copied before.
    pub store: StateStore,
    /// The project's root folder.
    pub root: Ino,
    /// Where files come from.
    pub source: End,
    /// Where they go.
    pub target: End,
    /// Where the project is at the source.
    pub from: RelPath,
    /// Where it is at the target.
    pub to: RelPath,
}

/// What would become of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planned {
    /// It would be copied.
    Copied {
        /// Bytes.
        size: u64,
    },
    /// It is there.
    Same {
        /// Bytes.
        size: u64,
    },
    /// Another file is there, and would stay.
    Conflict {
        /// Bytes.
        size: u64,
    },
}

/// Why it can't be told.
#[derive(Debug)]
pub enum PreviewError {
    /// A site failed.
    Site(SiteName, ProviderError),
    /// The store failed.
    State(StateError),
}

/// Tells what would become of each file that a copy means.
///
/// # Errors
/// When a site or the store fails.
pub async fn preview(
    of: &Preview,
    copy: &NewCopy,
    each: &mut (dyn FnMut(&RelPath, Planned) + Send),
) -> Result<(), PreviewError> {
    let desk = CopyDesk {
        store: of.store.clone(),
        root: of.root,
        source: of.source.clone(),
        target: of.target.clone(),
        from: of.from.clone(),
        to: of.to.clone(),
        arrived: None,
    };
    let task = Task {
        id: TaskId(0),
        root: of.root,
        job: JobId(0),
        what: TaskWhat::Copy,
        parent: None,
        name: None,
        ino: None,
        path: Some(copy.path.clone()),
        version: None,
        generation: 0,
        size: 0,
        priority: copy.priority,
        state: TaskState::Waiting,
        due_ms: 0,
        tries: 0,
        kind: None,
        error: None,
        lease_ms: 0,
        done_bytes: 0,
        upload: None,
        target: Some(of.target.site.clone()),
        replaces: copy.replaces.clone(),
        seen: None,
    };
    told(&desk, &task, copy, each).await.map_err(|failure| match failure {
        Failure::Source(e) => PreviewError::Site(of.source.site.clone(), e),
        Failure::Target(e) => PreviewError::Site(of.target.site.clone(), e),
        Failure::State(e) => PreviewError::State(e),
        Failure::Blocked(_, why) => {
            let error = ProviderError::new(ErrorKind::WrongKind, Op::Stat).because(why);
            PreviewError::Site(of.target.site.clone(), error)
        }
    })
}

async fn told(
    desk: &CopyDesk,
    task: &Task,
    copy: &NewCopy,
    each: &mut (dyn FnMut(&RelPath, Planned) + Send),
) -> Result<(), Failure> {
    let mut folders = Vec::new();
    let from = desk.from.concat(&copy.path);
    let entry = if from.is_root() {
        None
    } else {
        Some(desk.source.provider.stat(&from).await.map_err(Failure::Source)?)
    };
    match entry {
        Some(entry) if entry.kind != EntryKind::Dir => {
            let target = look(&desk.target, &desk.to.concat(&copy.path)).await;
            let target = target.map_err(Failure::Target)?;
            file(desk, task, &copy.path, &entry, target.as_ref(), each).await?;
        }
        _ => folders.push(copy.path.clone()),
    }
    while let Some(folder) = folders.pop() {
        let there = desk.there(&desk.to.concat(&folder)).await?;
        let from = desk.from.concat(&folder);
        let mut listing = desk.source.provider.list(&from);
        while let Some(row) = listing.next().await {
            let row = row.map_err(Failure::Source)?;
            let path = folder.join(&row.name);
            if row.entry.kind == EntryKind::Dir {
                folders.push(path);
                continue;
            }
            let looked;
            let target = match &there {
                Some(there) => there.get(&row.name),
                None => {
                    looked = look(&desk.target, &desk.to.concat(&path))
                        .await
                        .map_err(Failure::Target)?;
                    looked.as_ref()
                }
            };
            file(desk, task, &path, &row.entry, target, each).await?;
        }
    }
    Ok(())
}

async fn file(
    desk: &CopyDesk,
    task: &Task,
    path: &RelPath,
    source: &Entry,
    target: Option<&Entry>,
    each: &mut (dyn FnMut(&RelPath, Planned) + Send),
) -> Result<(), Failure> {
    if source.kind != EntryKind::File {
        return Ok(());
    }
    let size = source.size;
    let planned = match target {
        None => Planned::Copied { size },
        Some(target) if target.kind != EntryKind::File => Planned::Conflict { size },
        Some(target) => match desk.decision(task, path, source, target).await? {
            Decision::Same { .. } => Planned::Same { size },
            Decision::Send => Planned::Copied { size },
            Decision::Conflict(_) => Planned::Conflict { size },
        },
    };
    each(path, planned);
    Ok(())
}
