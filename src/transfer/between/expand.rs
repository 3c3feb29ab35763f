//! What a folder becomes: a task for each file that is not at the target yet, and one for each folder in it.
//!
//! Invariants: never more than a batch of entries is held, but for the target's own listing, which is given up where it is
//! long; a folder that was broken off is gone through again, and nothing is doubled by it.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use tracing::warn;

use super::super::{Prepared, now_ms};
use super::Seen;
use super::decide::Decision;
use super::desk::{CopyDesk, Failure, look};
use crate::model::{EntryKind, Name, RelPath};
use crate::providers::{Entry, ErrorKind};
use crate::state::{Arrival, Asked, JobId, NewCopy, Replaces, StateError, Task, WriteTxn};

/// Entries written down at a time.
const BATCH: usize = 500;
/// Entries of the target's folder that are kept to compare with; of a longer one each file is looked at by itself.
const COMPARED: usize = 50_000;

/// What has been found and not written down yet.
#[derive(Debug, Default)]
struct Found {
    copies: Vec<NewCopy>,
    same: Vec<Arrival>,
    /// The same, and written down as such before.
    known: u64,
    left_out: u64,
}

impl Found {
    fn len(&self) -> usize {
        self.copies.len() + self.same.len()
    }

    fn write(self, txn: &WriteTxn<'_>, desk: &Place) -> Result<(), StateError> {
        let now = now_ms();
        for copy in &self.copies {
            txn.queue_copy_in(copy, desk.job, desk.root, &desk.target, now)?;
        }
        for arrival in &self.same {
            txn.arrived(arrival)?;
        }
        txn.count_same(desk.job, self.known + self.same.len() as u64)?;
        txn.count_left_out(desk.job, self.left_out)
    }
}

/// Where tasks are put in.
#[derive(Clone, Debug)]
struct Place {
    job: JobId,
    root: crate::model::Ino,
    target: crate::model::SiteName,
}

impl CopyDesk {
    /// Goes through one folder and puts its entries into the queue.
    pub(super) async fn expand(&self, task: &Task, path: &RelPath) -> Result<Prepared, Failure> {
        let (from, to) = (self.from.concat(path), self.to.concat(path));
        if !from.is_root() {
            let entry = self.source.provider.stat(&from).await.map_err(Failure::Source)?;
            match entry.kind {
                EntryKind::Dir => {}
                EntryKind::File => {
                    let id = task.id;
                    self.store.write(move |txn| txn.is_one_file(id)).await?;
                    return Ok(Prepared::NotYet(Duration::ZERO));
                }
                _ => {
                    let why = format!("{from} at {} is neither a file nor a folder", self.source.site);
                    return Err(Failure::Blocked("not-a-file", why));
                }
            }
        }
        let there = self.there(&to).await?;
        let place = Place {
            job: task.job,
            root: self.root,
            target: self.target.site.clone(),
        };
        let (mut found, mut is_empty) = (Found::default(), true);
        let mut listing = self.source.provider.list(&from);
        while let Some(row) = listing.next().await {
            let row = row.map_err(Failure::Source)?;
            is_empty = false;
            let below = path.join(&row.name);
            match row.entry.kind {
                EntryKind::Dir => found.copies.push(self.copy(task, below, &row.entry, None)),
                EntryKind::File => {
                    let target = there.as_ref().map(|there| there.get(&row.name));
                    self.file(task, below, &row.entry, target, &mut found).await?;
                }
                _ => {
                    if found.left_out == 0 {
                        warn!(path = %below, site = %self.source.site, "not copied: it is neither a file nor a folder");
                    }
                    found.left_out += 1;
                }
            }
            if found.len() >= BATCH {
                let (full, place) = (std::mem::take(&mut found), place.clone());
                self.store.write(move |txn| full.write(txn, &place)).await?;
            }
        }
        self.source.link.answered();
        if is_empty && !to.is_root() {
            match self.target.provider.make_dir(&to).await {
                Err(e) if e.kind != ErrorKind::Unsupported => return Err(Failure::Target(e)),
                Ok(()) | Err(_) => {}
            }
        }
        let task = task.clone();
        self.store
            .write(move |txn| {
                found.write(txn, &place)?;
                txn.finish_task(&task)
            })
            .await?;
        Ok(Prepared::Ended)
    }

    /// Lists what the target has; `None` where that is too much to keep.
    pub(super) async fn there(&self, to: &RelPath) -> Result<Option<HashMap<Name, Entry>>, Failure> {
        if !to.is_root() {
            match look(&self.target, to).await.map_err(Failure::Target)? {
                None => return Ok(Some(HashMap::new())),
                Some(entry) if entry.kind != EntryKind::Dir => {
                    let why = format!("{} has a file of the folder's name", self.target.site);
                    return Err(Failure::Blocked("wrong-kind", why));
                }
                Some(_) => {}
            }
        }
        let mut there = HashMap::new();
        let mut listing = self.target.provider.list(to);
        while let Some(row) = listing.next().await {
            match row {
                Ok(row) => drop(there.insert(row.name, row.entry)),
                Err(e) if e.kind == ErrorKind::NotFound => return Ok(Some(HashMap::new())),
                Err(e) => return Err(Failure::Target(e)),
            }
            if there.len() > COMPARED {
                return Ok(None);
            }
        }
        Ok(Some(there))
    }

    /// Finds out about one file. `target`: what the other site has of that name, where that is known.
    async fn file(
        &self,
        task: &Task,
        path: RelPath,
        source: &Entry,
        target: Option<Option<&Entry>>,
        found: &mut Found,
    ) -> Result<(), Failure> {
        if let Some(Some(target)) = target
            && target.kind == EntryKind::File
            && let Decision::Same { proven } = self.decision(task, &path, source, target).await?
        {
            if proven {
                found.known += 1;
            } else {
                found.same.push(self.same(&path, source, target));
            }
            return Ok(());
        }
        let seen = Seen::of(source, target == Some(None), now_ms());
        let copy = self.copy(task, path, source, seen.to_text());
        found.copies.push(copy);
        Ok(())
    }

    fn copy(&self, task: &Task, path: RelPath, entry: &Entry, seen: Option<String>) -> NewCopy {
        let folder = entry.kind == EntryKind::Dir;
        NewCopy {
            path,
            folder,
            size: if folder { 0 } else { entry.size },
            source_version: (!folder).then(|| entry.version.clone()),
            replaces: match &task.replaces {
                // Said of one file.
                Replaces::Only(_) => Replaces::Usual,
                replaces => replaces.clone(),
            },
            priority: task.priority,
            asked: Asked::Found,
            seen,
        }
    }
}
