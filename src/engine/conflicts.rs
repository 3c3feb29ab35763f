//! Files that this machine and their site have different successors of, and how a person settles it.
//!
//! Owns: which side is kept, and what that means here and at the site. Refuses to know: how a conflict came about.
//! Invariants: theirs is replaced only while it is what the drive shows here, and never removed; ours is removed only
//! while theirs is there. A copy of ours beside theirs is deleted at the site whatever the project's `remote-delete` says:
//! this machine put it there for as long as the conflict lasts.

use std::sync::Arc;

use backlot_config::ZoneKind;
use backlot_platform::error::FsError;
use tracing::info;

use super::drive::{Drive, Inner, now_ns};
use super::filesystem::state_error;
use super::names::Place;
use super::queues::QueueError;
use super::report::{ConflictPage, ConflictQuery, ConflictReport, Keep};
use super::words::Asker;
use super::writing::{PublishName, blocking, local_error};
use crate::model::{Ino, Name, RelPath};
use crate::state::{Conflict, Left, Node, RenameHow, StateError, WriteTxn};

/// A conflict that somebody wants to settle.
#[derive(Clone, Debug)]
struct Settling {
    conflict: Conflict,
    ours: Place,
    wanted: Place,
    our_path: RelPath,
    wanted_path: RelPath,
}

/// Conflicts of one answer at most.
const PAGE_MAX: usize = 1000;

/// Where a conflict is among all.
fn place(conflict: &Conflict) -> (i64, u64) {
    (conflict.at_ms, conflict.ino.0)
}

/// Reads where a page ended.
fn cursor(text: &str) -> Option<(i64, u64)> {
    let (at_ms, ino) = text.split_once('-')?;
    Some((at_ms.parse().ok()?, ino.parse().ok()?))
}

impl Inner {
    /// Returns the conflicts that nobody has settled, the oldest first, page by page.
    ///
    /// # Errors
    /// When the store can't be read, or the page's cursor is none.
    pub fn conflicts(&self, query: &ConflictQuery) -> Result<ConflictPage, QueueError> {
        let none = || QueueError::BadCursor(query.cursor.clone().unwrap_or_default());
        let after = query
            .cursor
            .as_deref()
            .map(|text| cursor(text).ok_or_else(none))
            .transpose()?;
        let limit = query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        Ok(self.conflicts_after(after, limit)?)
    }

    fn conflicts_after(&self, after: Option<(i64, u64)>, limit: usize) -> Result<ConflictPage, StateError> {
        self.store.read(|txn| {
            let mut asker = Asker::new(self, txn)?;
            let (mut out, mut last, mut next) = (Vec::new(), None, None);
            let all = asker.conflicts.clone();
            for conflict in all.into_iter().filter(|c| after.is_none_or(|after| place(c) > after)) {
                if out.len() == limit {
                    next = last.map(|(at_ms, ino)| format!("{at_ms}-{ino}"));
                    break;
                }
                last = Some(place(&conflict));
                let Some(node) = txn.node(conflict.ino)? else { continue };
                let Some((parent, name)) = txn.names_of(conflict.ino)?.into_iter().next() else {
                    continue;
                };
                let paths = (asker.path(parent, &name)?, asker.path(conflict.parent, &conflict.name)?);
                let (Some(ours), Some(wanted)) = paths else { continue };
                let theirs = txn.lookup(conflict.parent, &conflict.name)?;
                let ours_at_site = !node.own || txn.base_of(parent, &name)?.is_some();
                let node = self.as_written(node);
                out.push(ConflictReport {
                    ours: ours.to_string(),
                    wanted: wanted.to_string(),
                    their_version: conflict.theirs.to_string(),
                    since_ms: conflict.at_ms,
                    our_size: node.size,
                    our_mtime_ns: node.mtime_ns,
                    ours_at_site,
                    their_size: theirs.as_ref().map(|theirs| theirs.size),
                    their_mtime_ns: theirs.as_ref().map(|theirs| theirs.mtime_ns),
                });
            }
            Ok(ConflictPage { conflicts: out, next })
        })
    }

    /// Finds the conflict that a path is about: that of our file there, or that about the name.
    fn conflict_at(&self, path: &RelPath) -> Result<Settling, QueueError> {
        let none = || QueueError::NoConflict(path.clone());
        let at = path.split_last().ok_or_else(none)?;
        let dir = self.tree.resolve(&at.0)?.ok_or_else(none)?.ino;
        let node = self.tree.lookup(dir, &at.1)?;
        let found = self.store.read(|txn| {
            let conflicts = Asker::new(self, txn)?.conflicts;
            let ours = conflicts
                .iter()
                .find(|c| node.as_ref().is_some_and(|node| node.ino == c.ino));
            if let Some(ours) = ours {
                return Ok(vec![(ours.clone(), Some((dir, at.1.clone())))]);
            }
            let about = conflicts.into_iter().filter(|c| c.parent == dir && c.name == at.1);
            let named = about.map(|c| Ok((txn.names_of(c.ino)?.into_iter().next(), c)));
            let named: Vec<(Option<(Ino, Name)>, Conflict)> = named.collect::<Result<_, StateError>>()?;
            Ok(named.into_iter().map(|(name, conflict)| (conflict, name)).collect())
        })?;
        if found.len() > 1 {
            let why = "several files of ours want that name; name one of them (`backlot conflict ls`)";
            return Err(QueueError::Unsettled(path.clone(), why.to_owned()));
        }
        let (conflict, at) = found.into_iter().next().ok_or_else(none)?;
        let at = at.ok_or_else(none)?;
        let place = |parent: Ino, name: &Name| {
            self.place_of(parent, name.as_os_str())
                .map_err(|e| QueueError::Unsettled(path.clone(), e.to_string()))
        };
        let (ours, wanted) = (place(at.0, &at.1)?, place(conflict.parent, &conflict.name)?);
        if ours.project.root != wanted.project.root {
            let why = "ours was moved into another project; move it back first".to_owned();
            return Err(QueueError::Unsettled(path.clone(), why));
        }
        Ok(Settling {
            our_path: ours.project.folder_path().concat(&ours.below),
            wanted_path: wanted.project.folder_path().concat(&wanted.below),
            conflict,
            ours,
            wanted,
        })
    }

    /// Returns the site's file of a conflict. One that was changed here since is somebody's work and not the site's.
    fn theirs_of(&self, settling: &Settling) -> Result<Option<Node>, QueueError> {
        let wanted = &settling.wanted;
        let theirs = self.tree.lookup(wanted.parent, &wanted.name)?;
        if theirs.as_ref().is_some_and(|theirs| theirs.own) {
            let why = "it was changed here as well since; give one of the two another name, then settle it";
            return Err(QueueError::Unsettled(settling.wanted_path.clone(), why.to_owned()));
        }
        Ok(theirs)
    }
}

impl Drive {
    /// Settles conflicts; returns what was settled.
    ///
    /// # Errors
    /// See [`QueueError`]. Those of `paths` that come before the one at fault are settled.
    pub async fn resolve(&self, paths: &[String], keep: Keep) -> Result<Vec<ConflictReport>, QueueError> {
        let all = self.conflicts_after(None, usize::MAX)?.conflicts;
        let mut settled = Vec::new();
        for path in paths {
            let settling = self.conflict_at(&RelPath::new(path)?)?;
            let ours = settling.our_path.to_string();
            match keep {
                Keep::Mine => self.keep_mine(settling).await?,
                Keep::Theirs => self.keep_theirs(settling).await?,
            }
            settled.extend(all.iter().find(|conflict| conflict.ours == ours).cloned());
        }
        Ok(settled)
    }

    /// Gives our file the name that both want. It goes up in place of what the drive shows there now, and of nothing newer.
    async fn keep_mine(&self, settling: Settling) -> Result<(), QueueError> {
        if self.theirs_of(&settling)?.is_none() {
            // Nobody has seen yet what is there.
            self.look_at(&settling).await;
        }
        let theirs = self.theirs_of(&settling)?;
        self.promise_bytes(&settling).await?;
        self.about_to_change(&settling, theirs.as_ref());
        let (queue, now, ino) = (self.queueing(), now_ns(), settling.conflict.ino);
        let (ours, wanted) = (settling.ours.clone(), settling.wanted.clone());
        let write = move |txn: &WriteTxn<'_>| {
            let known = txn.lookup(wanted.parent, &wanted.name)?;
            if known.map(|node| (node.ino, node.version)) != theirs.map(|node| (node.ino, node.version)) {
                return Err(crate::state::Refusal::Changed.into());
            }
            let (from, to) = ((ours.parent, &ours.name), (wanted.parent, &wanted.name));
            let renamed = txn.rename(from, to, RenameHow::Replace, now)?;
            txn.move_send(from, to)?;
            let node = txn.node(ino)?.ok_or(StateError::NoSuchNode(ino))?;
            if wanted.zone == ZoneKind::Publish && !node.writing {
                queue.send(txn, &publish_name(&wanted), ino, node.generation, node.size)?;
            }
            for left in &renamed.left {
                queue.delete(txn, &ours.project, left)?;
            }
            txn.resolved(ino)?;
            Ok(renamed.other.filter(|_| renamed.other_nlink == 0))
        };
        let written = self.store.write_durable(write).await;
        let replaced = written.map_err(|e| unsettled(&settling, e))?;
        info!(path = %settling.wanted_path, "a conflict is settled: ours replaces the site's");
        self.settled(&settling);
        if let Some((other, _)) = replaced {
            self.inner().drop_if_unused(other);
        }
        if let Some(object) = self.tree.node(ino)?.and_then(|node| node.object) {
            let (objects, path) = (Arc::clone(&self.objects), settling.wanted_path);
            tokio::task::spawn_blocking(move || objects.relabel(object, &path));
        }
        Ok(())
    }

    /// Removes our file, here and where this machine put it at the site.
    async fn keep_theirs(&self, settling: Settling) -> Result<(), QueueError> {
        self.look_at(&settling).await;
        if self.theirs_of(&settling)?.is_none() {
            let why =
                "theirs is not there any more, so that ours is the only one: `backlot conflict keep-mine` keeps it";
            return Err(QueueError::Unsettled(settling.wanted_path.clone(), why.to_owned()));
        }
        self.about_to_change(&settling, None);
        let (queue, now, ino) = (self.queueing(), now_ns(), settling.conflict.ino);
        let ours = settling.ours.clone();
        let write = move |txn: &WriteTxn<'_>| {
            let removed = txn.unlink(ours.parent, &ours.name, false, now)?;
            txn.drop_send(ours.parent, &ours.name)?;
            let left: Option<&Left> = removed.remote.as_ref();
            if let Some(left) = left {
                queue.delete(txn, &ours.project, left)?;
            }
            txn.resolved(ino)?;
            Ok(removed.nlink == 0)
        };
        let written = self.store.write_durable(write).await;
        let is_nameless = written.map_err(|e| unsettled(&settling, e))?;
        info!(path = %settling.our_path, "a conflict is settled: the site's is kept, ours is removed");
        self.settled(&settling);
        if is_nameless {
            self.inner().drop_if_unused(ino);
        }
        Ok(())
    }

    /// Brings our bytes to the disk where they were closed without a promise: from now on they are a publish's.
    async fn promise_bytes(&self, settling: &Settling) -> Result<(), QueueError> {
        let failed = |e: FsError| QueueError::Unsettled(settling.our_path.clone(), e.to_string());
        let ino = settling.conflict.ino;
        if let Some(own) = self.locals.get(ino).filter(|own| own.is_writing())
            && !self.handles.has_writer(ino)
        {
            self.inner().closed(&own).await.map_err(failed)?;
        }
        if settling.ours.zone != ZoneKind::Publish {
            let objects = Arc::clone(&self.objects);
            let synced = blocking(move || objects.sync_all()).await;
            synced.and_then(|done| done.map_err(local_error)).map_err(failed)?;
        }
        Ok(())
    }

    /// Whoever sends one of the files learns of it before it changes.
    fn about_to_change(&self, settling: &Settling, theirs: Option<&Node>) {
        self.sending.changed(settling.conflict.ino);
        if let Some(theirs) = theirs {
            self.sending.changed(theirs.ino);
        }
    }

    async fn look_at(&self, settling: &Settling) {
        let wanted = &settling.wanted;
        if wanted.project.site.link().is_down() {
            return;
        }
        self.inner().refresh_name(wanted.parent, &wanted.name).await;
    }

    fn settled(&self, settling: &Settling) {
        let (ours, wanted) = (&settling.ours, &settling.wanted);
        self.sending.changed(settling.conflict.ino);
        self.tell_names(ours.parent, &[&ours.name]);
        self.tell_names(wanted.parent, &[&wanted.name]);
        self.reconsider_transfers();
    }
}

fn publish_name(place: &Place) -> PublishName {
    PublishName {
        project: Arc::clone(&place.project),
        parent: place.parent,
        name: place.name.clone(),
    }
}

fn unsettled(settling: &Settling, e: StateError) -> QueueError {
    match e {
        StateError::Refused(_) => QueueError::Unsettled(settling.our_path.clone(), state_error(e).to_string()),
        e => e.into(),
    }
}
