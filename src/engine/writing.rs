//! Bytes that are written here: copying a file up from its site, writing, closing, syncing.
//!
//! Owns: when a row says that a file is being written, and when a closed file is put in the queue. Refuses to know: names,
//! how a queue is worked off. Invariants: before a byte of a file changes its row says so; `close` in a publish zone, and
//! `fsync`, return after bytes and rows are on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use std::collections::HashMap;

use backlot_config::ZoneKind;
use backlot_platform::error::{FsError, FsErrorKind};
use tracing::{debug, warn};

use super::drive::{Inner, Project, now_ms, now_ns};
use super::filesystem::{hydrate_error, state_error};
use super::firewall::{Cause, Payer};
use super::hydrate::OpenContent;
use super::local::{Facts, LocalFile, Sized};
use super::objects::{Objects, is_full};
use super::schedule::Priority;
use crate::failpoint;
use crate::model::{Ino, Name};
use crate::state::{NewDelete, NewSend, Node, Refusal, StateError, TaskId, WriteTxn};

/// A file that turns into another again and again while somebody wants to write it is given up after this many looks.
const LOOKS: u32 = 16;
/// Bytes taken at a time when a file is copied up.
const COPY_STEP: u64 = 4 << 20;
/// How soon a file that was closed in a local zone is written down: long enough for many to share a transaction.
const SETTLE_SOON: Duration = Duration::from_millis(50);
/// How long after a close that failed it is tried again.
const CLOSE_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a file to be published that may gather before the disk is set to work on them: what is on the disk already
/// when the file is closed need not be waited for then.
const SYNC_AHEAD: u64 = 64 << 20;
/// How far ahead of the copy the site is asked.
const COPY_AHEAD: u64 = 32 << 20;
/// Why a file is not sent whose bytes the disk may have lost.
const TORN: &str = "the disk failed while this was brought to it: save it again, or look at it and release it";

/// One lock for each file that is being copied up.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<HashMap<Ino, Weak<tokio::sync::Mutex<()>>>>);

impl Copies {
    fn of(&self, ino: Ino) -> Arc<tokio::sync::Mutex<()>> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = map.get(&ino).and_then(Weak::upgrade) {
            return lock;
        }
        map.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        map.insert(ino, Arc::downgrade(&lock));
        lock
    }
}

/// Files that were closed in local zones and whose rows say that they are being written. A kill loses nothing by that: the
/// next start takes sizes and times from the objects.
#[derive(Debug, Default)]
pub(super) struct Settling(Mutex<Vec<Arc<LocalFile>>>);

impl Settling {
    /// Takes in a file; says whether it is the first.
    fn add(&self, local: &Arc<LocalFile>) -> bool {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(Arc::clone(local));
        files.len() == 1
    }

    fn take(&self) -> Vec<Arc<LocalFile>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A copy that is being made: it goes again if that fails, or if whoever waits for it is gone.
struct Unfinished<'a> {
    drive: &'a Inner,
    object: u64,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.drive.drop_object(self.object);
    }
}

/// A name in a publish zone.
#[derive(Clone, Debug)]
pub(super) struct PublishName {
    pub(super) project: Arc<Project>,
    pub(super) parent: Ino,
    pub(super) name: Name,
}

impl Inner {
    /// Returns a node as its row says.
    pub(super) fn row(&self, ino: Ino) -> Result<Node, FsError> {
        let node = self.tree.node(ino).map_err(state_error)?;
        node.ok_or_else(|| FsErrorKind::NotFound.into())
    }

    /// Returns the own file of a row, in use from now on; `None` if the row is another by now.
    pub(super) fn own_file_if_same(&self, node: &Node) -> Result<Option<Arc<LocalFile>>, FsError> {
        match self.own_file(node) {
            Ok(file) => Ok(Some(file)),
            Err(_) if !super::filesystem::is_same_content(&self.row(node.ino)?, node) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the own file of a row, in use from now on.
    pub(super) fn own_file(&self, node: &Node) -> Result<Arc<LocalFile>, FsError> {
        let mut row = node.clone();
        for _ in 0..LOOKS {
            let file = self.take_in(&row)?;
            // Between the look at the row and taking it in, somebody may have opened, written and closed the file, and it
            // may have been published.
            row = self.row(node.ino)?;
            if !row.own || row.origin.is_some() {
                break;
            }
            let same = file.object().is_none() || row.object.is_none() || file.object() == row.object;
            if !same {
                file.retire();
            } else if file.catch_up(row.generation, facts_of(&row)) {
                return Ok(file);
            }
        }
        Err(FsErrorKind::Busy.into())
    }

    fn take_in(&self, node: &Node) -> Result<Arc<LocalFile>, FsError> {
        if let Some(file) = self.locals.get(node.ino) {
            return Ok(file);
        }
        let mut facts = facts_of(node);
        let opened = match node.object.map(|object| (object, self.objects.open_file(object))) {
            Some((object, Ok(file))) => Some((object, file)),
            // The file of an object is made when something is written.
            Some((_, Err(e))) if e.kind() == io::ErrorKind::NotFound && (node.size == 0 || node.writing) => None,
            Some((object, Err(e))) => {
                let why = format!("object {object:016x} of file {}: {e}", node.ino);
                return Err(FsError::new(FsErrorKind::Io, why));
            }
            None => None,
        };
        if node.writing {
            facts.size = match &opened {
                Some((_, file)) => file.metadata().map_err(|e| FsError::new(FsErrorKind::Io, e))?.len(),
                None => 0,
            };
        }
        Ok(self.locals.get_or(node.ino, || {
            let made = LocalFile::new(node.ino, node.object, node.generation, facts);
            if let Some((object, file)) = opened {
                made.set_file(object, Arc::new(file), false);
            }
            if node.writing {
                made.begun(node.generation);
            }
            made
        }))
    }

    /// Returns the file, ready to be written: its row says so. What the site has is copied first, of which only the first
    /// `keep` bytes are wanted.
    pub(super) async fn writable(self: &Arc<Self>, ino: Ino, keep: u64) -> Result<Arc<LocalFile>, FsError> {
        for _ in 0..LOOKS {
            if let Some(local) = self
                .locals
                .get(ino)
                .filter(|local| local.is_writing() && local.file().is_some())
            {
                return Ok(local);
            }
            let node = self.row(ino)?;
            if !node.own || node.origin.is_some() {
                match self.copy_up(&node, keep).await? {
                    Some(local) => return Ok(local),
                    None => continue,
                }
            }
            let Some(local) = self.own_file_if_same(&node)? else {
                continue;
            };
            let turn = local.turn.lock().await;
            if local.is_retired() {
                continue;
            }
            if !local.is_writing() {
                let object = local.object().is_none().then(Objects::new_number);
                let begin = move |txn: &WriteTxn<'_>| txn.begin_write(ino, object, None);
                // What is still to be sent would be sent half written, if a power cut left the bytes and not the row.
                let is_queued = !self
                    .store
                    .read(|txn| txn.tasks_of_ino(ino))
                    .map_err(state_error)?
                    .is_empty();
                let begun = if is_queued {
                    self.store.write_durable(begin).await
                } else {
                    self.store.write_here(begin).await
                };
                match begun {
                    Ok(generation) => {
                        failpoint::hit("write.begun");
                        // Before a byte changes.
                        if let Some(file) = local.file() {
                            self.objects.is_no_copy(&file);
                        }
                        self.sending.changed(ino);
                        local.begun(generation);
                    }
                    Err(StateError::Refused(Refusal::Changed)) => continue,
                    Err(e) => return Err(state_error(e)),
                }
            }
            if local.file().is_none() {
                // The row knows the number; a kill in between leaves an empty file.
                let Some(object) = self.row(ino)?.object else { continue };
                let file = self.new_object(object, ino, false)?;
                local.set_file(object, Arc::new(file), true);
            }
            drop(turn);
            return Ok(local);
        }
        Err(FsErrorKind::Busy.into())
    }

    /// Makes an object's file, labelled with where its file is now.
    pub(super) fn new_object(&self, object: u64, ino: Ino, is_copy: bool) -> Result<File, FsError> {
        let path = self.tree.path_of(ino).map_err(state_error)?.unwrap_or_default();
        self.objects.create(object, ino, &path, is_copy).map_err(local_error)
    }

    /// Copies the first `keep` bytes of a file that the site has, and makes it this machine's own, being written. `None` if
    /// it became another file meanwhile.
    async fn copy_up(self: &Arc<Self>, node: &Node, keep: u64) -> Result<Option<Arc<LocalFile>>, FsError> {
        let ino = node.ino;
        let alone = self.copies.of(ino).lock_owned().await;
        let now = self.row(ino)?;
        if now.own != node.own || now.version != node.version || now.origin != node.origin {
            return Ok(None);
        }
        let keep = keep.min(now.size);
        let (object, file) = self.copy(&now, keep).await?;
        failpoint::hit("copy.made");
        // Whoever waits may be interrupted; from here on it is done to its end.
        let drive = Arc::clone(self);
        let taken = tokio::spawn(async move {
            let _alone = alone;
            drive.take_copy(&now, keep, object, file).await
        });
        taken.await.map_err(|e| FsError::new(FsErrorKind::Io, e))?
    }

    /// Makes a file this machine's own, being written, with a copy of its bytes. `None` if it became another file meanwhile.
    async fn take_copy(
        self: &Arc<Self>,
        now: &Node,
        keep: u64,
        object: u64,
        file: File,
    ) -> Result<Option<Arc<LocalFile>>, FsError> {
        let (ino, file) = (now.ino, Arc::new(file));
        let version = now.version.clone().filter(|_| !now.own);
        let moved = now.origin.is_some();
        let begin = move |txn: &WriteTxn<'_>| {
            if moved {
                txn.note_labelled(object)?;
            }
            txn.begin_write(ino, Some(object), version.as_ref())
        };
        let begun = if moved {
            // From then on nobody keeps its bytes at its old place from being removed.
            match self.bring_to_disk(object, &file).await {
                Ok(()) => self.store.write_durable(begin).await,
                Err(e) => {
                    self.drop_object(object);
                    return Err(e);
                }
            }
        } else {
            self.store.write(begin).await
        };
        let generation = match begun {
            Ok(generation) => generation,
            Err(e) => {
                self.drop_object(object);
                return match e {
                    StateError::Refused(Refusal::Changed) => Ok(None),
                    e => Err(state_error(e)),
                };
            }
        };
        failpoint::hit("copy.done");
        let facts = Facts {
            size: keep,
            mtime_ns: now.mtime_ns,
            ctime_ns: now.ctime_ns,
        };
        let local = LocalFile::new(ino, Some(object), generation, facts);
        if moved {
            self.keep_for_good(object, &file).await?;
        } else {
            self.objects.is_no_copy(&file);
        }
        local.set_file(object, file, true);
        local.begun(generation);
        self.sending.changed(ino);
        self.locals.put(&local);
        self.handles.switch_to_own(ino, &local);
        Ok(Some(local))
    }

    /// Copies the first `keep` bytes of a file that the site has into a new object.
    pub(super) async fn copy(self: &Arc<Self>, node: &Node, keep: u64) -> Result<(u64, File), FsError> {
        if !self.objects.has_room(keep) && !self.make_room(keep).await {
            return Err(FsErrorKind::NoSpace.into());
        }
        let object = Objects::new_number();
        let file = self.new_object(object, node.ino, true)?;
        let unfinished = Unfinished { drive: self, object };
        if keep > 0 {
            let content = self.open_content(node).map_err(|e| FsError::new(FsErrorKind::Io, e))?;
            let payer = self.writer_of(node.ino);
            self.copy_into(&content, &file, keep, &payer).await?;
        }
        std::mem::forget(unfinished);
        Ok((object, file))
    }

    /// Returns who pays for what a file is copied for: whoever has it open for writing.
    fn writer_of(&self, ino: Ino) -> Payer {
        let open = self.handles.of(ino);
        let writer = open.iter().find(|file| file.may_write).and_then(|file| file.opener());
        let account = writer.map_or_else(|| self.firewall.unknown(), |writer| writer.account());
        Payer::of(account, Cause::Write)
    }

    async fn copy_into(
        &self,
        content: &Arc<OpenContent>,
        file: &File,
        keep: u64,
        payer: &Payer,
    ) -> Result<(), FsError> {
        let mut at = 0;
        let mut wanted = Vec::new();
        let mut asked = 0;
        while at < keep {
            if asked < keep && asked < at + COPY_AHEAD {
                let until = (asked + COPY_AHEAD).min(keep);
                wanted.extend(content.fetch_ahead(asked..until, Priority::ReadAhead, payer));
                asked = until;
            }
            let step = at..(at + COPY_STEP).min(keep);
            let bytes = content.read(step, payer).await.map_err(hydrate_error)?;
            if bytes.is_empty() {
                return Err(FsErrorKind::RemoteChanged.into());
            }
            let (to, from, length) = (file.try_clone().map_err(local_error)?, at, bytes.len() as u64);
            blocking(move || to.write_all_at(&bytes, from))
                .await?
                .map_err(local_error)?;
            at += length;
        }
        Ok(())
    }

    /// Deletes an object that no row ever named.
    pub(super) fn drop_object(&self, object: u64) {
        if let Err(e) = self.objects.remove(object) {
            warn!(object = format!("{object:016x}"), error = %e, "an object that nothing needs stays behind");
        }
    }

    /// Makes room on the disk of what is written, at the cache's cost where both are on one. Says whether it did.
    pub(super) async fn make_room(self: &Arc<Self>, bytes: u64) -> bool {
        let (cache, objects) = (Arc::clone(&self.cache), Arc::clone(&self.objects));
        let made = blocking(move || {
            // Reserving evicts; the promise itself is given back at once.
            drop(cache.reserve(bytes));
            objects.has_room(bytes)
        });
        made.await.unwrap_or(false)
    }

    /// Returns the names of a file that are in publish zones.
    pub(super) fn publish_names(&self, ino: Ino) -> Result<Vec<PublishName>, StateError> {
        let mut out = Vec::new();
        for (parent, name) in self.store.read(|txn| txn.names_of(ino))? {
            if let Some((project, dir)) = self.place(parent)?
                && project.zones.of(&dir.join(&name)) == ZoneKind::Publish
            {
                out.push(PublishName { project, parent, name });
            }
        }
        Ok(out)
    }

    /// Somebody closed a file. In a publish zone it is written down before they go on; elsewhere nothing was promised, and
    /// it is written down soon.
    pub(super) async fn closed_by_user(self: &Arc<Self>, local: &Arc<LocalFile>) -> Result<(), FsError> {
        if !is_left_to_write(local).await {
            return Ok(());
        }
        if !self.publish_names(local.ino).map_err(state_error)?.is_empty() {
            return self.closed(local).await;
        }
        self.settle_soon(local);
        Ok(())
    }

    /// Has a file written down soon that is being written, or was.
    pub(super) fn settle_soon(self: &Arc<Self>, local: &Arc<LocalFile>) {
        if self.settling.add(local) {
            let drive = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(SETTLE_SOON).await;
                drive.settle_all().await;
            });
        }
    }

    /// Writes down all that was closed where nothing was promised.
    pub(super) async fn settle_all(self: &Arc<Self>) {
        let closed = self.settling.take();
        // Whoever still writes closes it again, and comes back here when the handle is gone.
        let closed = closed.iter().filter(|local| !self.handles.has_writer(local.ino));
        let ended = closed.map(|local| async { self.closed(local).await.inspect_err(|_| self.close_later(local)) });
        let ended = futures::future::join_all(ended).await;
        if let Some(e) = ended.into_iter().find_map(Result::err) {
            warn!(error = %e, "what was closed is not written down yet; it is tried again");
        }
    }

    /// Tries again and again to write down what a file is whose close failed: its writer may never come back to it.
    pub(super) fn close_later(self: &Arc<Self>, local: &Arc<LocalFile>) {
        if !self
            .late
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(local.ino)
        {
            return;
        }
        let (drive, local) = (Arc::downgrade(self), Arc::clone(local));
        let stop = self.stop.clone();
        tokio::spawn(async move {
            while stop
                .run_until_cancelled(tokio::time::sleep(CLOSE_AGAIN))
                .await
                .is_some()
            {
                let Some(drive) = drive.upgrade() else { return };
                if drive.handles.has_writer(local.ino) {
                    continue;
                }
                match drive.closed(&local).await {
                    Err(e) if e.kind != FsErrorKind::NotFound => debug!(ino = %local.ino, error = %e, "not closed yet"),
                    Ok(()) | Err(_) => {
                        drive
                            .late
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&local.ino);
                        return;
                    }
                }
            }
        });
    }

    /// Writes down what a file is that was being written, and puts it in the queue if it is to be published. Goes on
    /// though the caller goes away.
    pub(super) async fn closed(self: &Arc<Self>, local: &Arc<LocalFile>) -> Result<(), FsError> {
        if !is_left_to_write(local).await {
            return Ok(());
        }
        let (drive, local) = (Arc::clone(self), Arc::clone(local));
        let ended = tokio::spawn(async move { drive.end_writing(&local).await });
        ended.await.map_err(|e| FsError::new(FsErrorKind::Io, e))?
    }

    async fn end_writing(self: &Arc<Self>, local: &Arc<LocalFile>) -> Result<(), FsError> {
        let _turn = local.turn.lock().await;
        let publishes = !self.publish_names(local.ino).map_err(state_error)?.is_empty();
        if !local.settle(publishes) {
            return Ok(());
        }
        let written = self.write_end(local).await;
        match written {
            // Removed, and closed by the last who had it open: nobody will read what is written down.
            Err(e) if e.kind == FsErrorKind::NotFound => Ok(()),
            Err(e) => {
                local.unsettle();
                Err(e)
            }
            Ok(publishes) => {
                if publishes {
                    self.wake_transfers();
                }
                Ok(())
            }
        }
    }

    /// Returns whether something was put in the queue.
    async fn write_end(self: &Arc<Self>, local: &Arc<LocalFile>) -> Result<bool, FsError> {
        let ino = local.ino;
        let sends = self.publish_names(ino).map_err(state_error)?;
        let publishes = !sends.is_empty();
        if publishes {
            self.sync_bytes(local).await?;
            failpoint::hit("close.synced");
        }
        let generation = local.generation();
        let queue = self.queueing();
        let now_local = Arc::clone(local);
        let write = move |txn: &WriteTxn<'_>| {
            // As it is now: times may have been set since it was settled, and rows that say so be written already.
            let facts = now_local.facts();
            txn.end_write(ino, facts.size, facts.mtime_ns, facts.ctime_ns)?;
            for at in &sends {
                // While the disk was at work the name may have come to lead elsewhere, and names that came have been queued.
                if txn.lookup(at.parent, &at.name)?.is_none_or(|node| node.ino != ino) {
                    continue;
                }
                let task = queue.send(txn, at, ino, generation, facts.size)?;
                if now_local.is_torn() {
                    txn.hold_unfinished(task, TORN)?;
                }
            }
            Ok(())
        };
        let done = if publishes {
            self.store.write_durable(write).await
        } else {
            self.store.write(write).await
        };
        done.map_err(state_error)?;
        failpoint::hit("close.queued");
        Ok(publishes)
    }

    /// Brings a copy to the disk, before a row may name it as the only one.
    pub(super) async fn bring_to_disk(&self, object: u64, file: &Arc<File>) -> Result<(), FsError> {
        let (objects, file) = (Arc::clone(&self.objects), Arc::clone(file));
        blocking(move || {
            file.sync_all()?;
            objects.sync_entry(object)
        })
        .await?
        .map_err(local_error)
    }

    /// Makes a copy that a row names an object like any other, on the disk too, before anything relies on it. A kill in between
    /// leaves that to the next start, as the row of its label says.
    pub(super) async fn keep_for_good(&self, object: u64, file: &Arc<File>) -> Result<(), FsError> {
        failpoint::hit("copy.named");
        let (objects, file) = (Arc::clone(&self.objects), Arc::clone(file));
        let kept = blocking(move || {
            objects.is_no_copy(&file);
            file.sync_all()
        });
        kept.await?.map_err(local_error)?;
        self.store
            .write(move |txn| txn.unlabelled(object))
            .await
            .map_err(state_error)
    }

    /// Brings a file's bytes to the disk.
    pub(super) async fn sync_bytes(&self, local: &Arc<LocalFile>) -> Result<(), FsError> {
        // What another sync has taken on is not on the disk before it is done.
        let _alone = local.syncs.lock().await;
        let Some(unsynced) = local.take_unsynced() else {
            return Ok(());
        };
        let objects = Arc::clone(&self.objects);
        let synced = blocking(move || {
            failpoint::hit("sync.bytes");
            if failpoint::fails("sync.fails") {
                return Err(io::Error::other("a failure on purpose"));
            }
            unsynced.file.sync_data()?;
            unsynced.entry.map_or(Ok(()), |object| objects.sync_entry(object))
        });
        let synced = synced.await.and_then(|done| done.map_err(local_error));
        synced.inspect_err(|e| {
            local.not_synced();
            if e.kind != FsErrorKind::NoSpace {
                local.torn();
            }
        })
    }

    /// Bytes were written: has the disk begin with those of a file that will have to be there when it is closed.
    pub(super) fn sync_ahead(&self, local: &Arc<LocalFile>, bytes: u64) {
        let Some(object) = local.wrote(bytes, SYNC_AHEAD) else {
            return;
        };
        if !self.publish_names(local.ino).is_ok_and(|names| !names.is_empty()) {
            return local.synced_ahead();
        }
        let (objects, local) = (Arc::clone(&self.objects), Arc::clone(local));
        tokio::task::spawn_blocking(move || {
            // Opened anew: the disk tells each open file once of a failure, and the one to be told is who closes.
            let begun = objects.open_file(object).and_then(|file| file.sync_data());
            local.synced_ahead();
            if let Err(e) = begun {
                debug!(ino = %local.ino, error = %e, "not synced ahead");
            }
        });
    }

    /// Makes what is in the store survive a power cut.
    pub(super) async fn sync_rows(&self) -> Result<(), FsError> {
        self.store
            .write_durable(|txn| {
                txn.mark();
                Ok(())
            })
            .await
            .map_err(state_error)
    }

    /// Sets a file's length; closes it at once if nobody has it open for writing.
    pub(super) async fn set_length(self: &Arc<Self>, ino: Ino, size: u64) -> Result<(), FsError> {
        if size > i64::MAX.unsigned_abs() {
            return Err(FsErrorKind::FileTooLarge.into());
        }
        loop {
            let local = self.writable(ino, size).await?;
            let cut = local.change(now_ns(), |file, _| file.set_len(size).map(|()| Sized::Exactly(size)));
            match cut {
                None => continue,
                Some(done) => done.map_err(local_error)?,
            }
            if !self.handles.has_writer(ino) {
                let closed = self.closed(&local).await;
                closed.inspect_err(|_| self.close_later(&local))?;
            }
            return Ok(());
        }
    }

    /// Puts things in the queue: what a write to the store needs to know for it.
    pub(super) fn queueing(&self) -> Queueing {
        Queueing {
            source: crate::model::SiteName(self.site_id().to_owned()),
            settle_ms: i64::try_from(self.limits.settle.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// Says whether a file is still to be written down. Another close of it may be at that just now: then only once it is done,
/// since its end is what this close promises.
async fn is_left_to_write(local: &LocalFile) -> bool {
    if !local.is_writing() {
        drop(local.turn.lock().await);
    }
    local.is_writing()
}

fn facts_of(node: &Node) -> Facts {
    Facts {
        size: node.size,
        mtime_ns: node.mtime_ns,
        ctime_ns: node.ctime_ns,
    }
}

/// How files are put in the queue.
#[derive(Clone, Debug)]
pub(super) struct Queueing {
    source: crate::model::SiteName,
    settle_ms: i64,
}

impl Queueing {
    pub(super) fn send(
        &self,
        txn: &WriteTxn<'_>,
        at: &PublishName,
        ino: Ino,
        generation: u64,
        size: u64,
    ) -> Result<TaskId, StateError> {
        let now = now_ms();
        // Half a save stays one, under whatever name, until it is written again.
        let of_ino = txn.tasks_of_ino(ino)?;
        let unfinished = of_ino
            .into_iter()
            .find(|task| task.is_unfinished() && task.generation == generation);
        let send = NewSend {
            root: at.project.root,
            parent: at.parent,
            name: at.name.clone(),
            ino,
            generation,
            size,
            due_ms: now.saturating_add(self.settle_ms),
            source: self.source.clone(),
            target: at.project.site.name().clone(),
        };
        // What is sent to a path is not to be deleted there any more.
        if let Some((_, dir)) = txn.project_of(at.parent)? {
            txn.replaces_left(at.project.root, (at.parent, &at.name), &dir.join(&at.name))?;
        }
        let task = txn.queue_send(&send, now)?;
        if let Some(before) = unfinished {
            txn.hold_unfinished(task, before.error.as_deref().unwrap_or_default())?;
        }
        Ok(task)
    }

    pub(super) fn delete(
        &self,
        txn: &WriteTxn<'_>,
        project: &Project,
        left: &crate::state::Left,
    ) -> Result<(), StateError> {
        let now = now_ms();
        let delete = NewDelete {
            root: project.root,
            path: left.path.clone(),
            version: left.version.clone(),
            folder: left.version.is_none(),
            due_ms: now.saturating_add(self.settle_ms),
            source: self.source.clone(),
            target: project.site.name().clone(),
        };
        txn.queue_delete(&delete, now).map(drop)
    }
}

/// The modification time of an object's file, to recognise it by.
pub(super) fn object_mtime_ns(file: &File) -> io::Result<i64> {
    let m = file.metadata()?;
    Ok(m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()))
}

/// Runs what may block on the disk where it holds up nobody else.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FsError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| FsError::new(FsErrorKind::Io, e))
}

/// What a failure of the disk that keeps what is written means to a caller.
pub(super) fn local_error(e: io::Error) -> FsError {
    let kind = if is_full(&e) {
        FsErrorKind::NoSpace
    } else if e.kind() == io::ErrorKind::FileTooLarge {
        FsErrorKind::FileTooLarge
    } else {
        FsErrorKind::Io
    };
    FsError::new(kind, e)
}
