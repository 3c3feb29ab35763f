//! Names that are made, moved and removed here.
//!
//! Owns: what zones and a project's rules allow, and what a change of names means for the queue. Refuses to know: bytes,
//! which host asks. Invariants: a name and its place in the queue change together or not at all; what the site has is
//! deleted there only where the project lets deletes through.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use backlot_config::{RemoteDelete, ZoneKind};
use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{NewNode, NodeKind, OpCx, RenameOptions};
use tracing::{debug, info, warn};

use super::drive::{Inner, Project, now_ns};
use super::filesystem::state_error;
use super::local::{Facts, LocalFile};
use super::objects::Objects;
use super::writing::{PublishName, blocking};
use crate::failpoint;
use crate::model::{EntryKind, Ino, Name, RelPath};
use crate::state::{
    Left, NewAttrs, NewEntry, Node, OwnFile, Refusal, Removed, RenameHow, Renamed, StateError, WriteTxn,
};
use crate::transfer::begun_below;

/// The set-group-id bit: what is made in a folder that has it gets the folder's group.
const SET_GID: u16 = 0o2000;

/// A place in a project: where a name is, or would be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) project: Arc<Project>,
    pub(super) parent: Ino,
    pub(super) name: Name,
    /// The path inside the project.
    pub(super) below: RelPath,
    pub(super) zone: ZoneKind,
}

impl Place {
    fn at(&self) -> (Ino, &Name) {
        (self.parent, &self.name)
    }

    fn publishes(&self) -> bool {
        self.zone == ZoneKind::Publish
    }

    fn send(&self) -> PublishName {
        PublishName {
            project: Arc::clone(&self.project),
            parent: self.parent,
            name: self.name.clone(),
        }
    }

    /// What the site has here stays there.
    fn keeps_remote(&self) -> bool {
        self.publishes() && self.project.remote_delete == RemoteDelete::Refuse
    }

    fn lets_deletes_through(&self) -> bool {
        self.project.remote_delete == RemoteDelete::Propagate
    }
}

impl Inner {
    /// Returns the place of a name that is about to change.
    pub(super) fn place_of(&self, parent: Ino, name: &OsStr) -> Result<Place, FsError> {
        let name = Name::new(name.as_bytes()).map_err(|e| FsError::new(FsErrorKind::Invalid, e))?;
        // The drive's root holds the projects of the settings and nothing else.
        let found = self.place(parent).map_err(state_error)?;
        let (project, dir) = found.ok_or(if parent == Ino::ROOT {
            FsErrorKind::ReadOnly
        } else {
            FsErrorKind::NotFound
        })?;
        let below = dir.join(&name);
        let zone = project.zones.of(&below);
        if zone == ZoneKind::Readonly {
            return Err(FsErrorKind::ReadOnly.into());
        }
        Ok(Place {
            project,
            parent,
            name,
            below,
            zone,
        })
    }

    /// Says whether a file may be written, by all the names it has.
    pub(super) fn check_writable(&self, ino: Ino) -> Result<(), FsError> {
        for (parent, name) in self.store.read(|txn| txn.names_of(ino)).map_err(state_error)? {
            self.place_of(parent, name.as_os_str())?;
        }
        Ok(())
    }

    /// Changes the tree; a refusal is answered, not logged.
    pub(super) async fn edit<T: Send + 'static>(
        &self,
        durable: bool,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, FsError> {
        let done = if durable {
            self.store.write_durable(f).await
        } else {
            self.store.write_here(f).await
        };
        done.map_err(state_error)
    }

    /// Makes an entry. A file that is to be written at once comes with its bytes' place, being written.
    pub(super) async fn make(
        self: &Arc<Self>,
        cx: &OpCx,
        place: &Place,
        new: NewNode,
        perm: u16,
        write: bool,
    ) -> Result<(Node, Option<Arc<LocalFile>>), FsError> {
        let (kind, rdev, target) = match new {
            NewNode::File => (EntryKind::File, 0, None),
            NewNode::Dir => (EntryKind::Dir, 0, None),
            NewNode::Symlink(target) => (EntryKind::Symlink, 0, Some(target.as_bytes().to_vec())),
            NewNode::Special { kind, rdev } => (special(kind)?, rdev, None),
        };
        let is_special = !matches!(kind, EntryKind::File | EntryKind::Dir | EntryKind::Symlink);
        if is_special && place.publishes() {
            return Err(self.refuse(
                &place.below,
                &place.project,
                "pipes, sockets and devices can't be published",
            ));
        }
        let folder = self.row(place.parent)?;
        let inherits = folder.perm.unwrap_or(0) & SET_GID != 0;
        let gid = if inherits {
            folder.gid.unwrap_or(self.owner.1)
        } else {
            cx.gid
        };
        let perm = if inherits && kind == EntryKind::Dir {
            perm | SET_GID
        } else {
            perm
        };
        let object = (kind == EntryKind::File && write).then(Objects::new_number);
        if object.is_some() && !self.objects.has_room(1) && !self.make_room(1 << 20).await {
            return Err(FsErrorKind::NoSpace.into());
        }
        let entry = NewEntry {
            kind,
            perm,
            uid: cx.uid,
            gid,
            rdev,
            target,
            object,
        };
        let (parent, name, now) = (place.parent, place.name.clone(), now_ns());
        let node = self
            .edit(false, move |txn| txn.create(parent, &name, &entry, now))
            .await?;
        let Some(object) = object else { return Ok((node, None)) };
        let facts = Facts {
            size: 0,
            mtime_ns: node.mtime_ns,
            ctime_ns: node.ctime_ns,
        };
        let local = LocalFile::new(node.ino, Some(object), node.generation, facts);
        local.begun(node.generation);
        failpoint::hit("create.row");
        // A kill before this leaves a row whose bytes have no file yet: an empty file.
        let path = place.project.folder_path().concat(&place.below);
        match self.objects.create(object, node.ino, &path, false) {
            Ok(file) => local.set_file(object, Arc::new(file), true),
            // Whoever writes is told; the name is there all the same.
            Err(e) => debug!(ino = %node.ino, error = %e, "the file of a new object was not made yet"),
        }
        let local = self.locals.get_or(node.ino, || local);
        Ok((node, Some(local)))
    }

    /// Removes a name.
    pub(super) async fn remove_name(self: &Arc<Self>, place: &Place, dir: bool) -> Result<(), FsError> {
        let (queue, here, now) = (self.queueing(), place.clone(), now_ns());
        let removing = move |txn: &WriteTxn<'_>| -> Result<Removed, StateError> {
            let (parent, name) = here.at();
            let removed = if dir {
                let removed = txn.rmdir(parent, name, here.keeps_remote(), now)?;
                leave_pending(txn, &queue, &here)?;
                leave_begun(txn, &queue, &here, removed.remote.is_some())?;
                removed
            } else {
                txn.unlink(parent, name, here.keeps_remote(), now)?
            };
            txn.drop_send(parent, name)?;
            if here.publishes()
                && here.lets_deletes_through()
                && let Some(left) = &removed.remote
            {
                queue.delete(txn, &here.project, left)?;
            }
            Ok(removed)
        };
        let removed = match self.store.write_here(removing).await {
            Err(StateError::Refused(refusal @ Refusal::AtRemote)) => {
                return Err(self.refuse(&place.below, &place.project, &refusal.to_string()));
            }
            other => other.map_err(state_error)?,
        };
        failpoint::hit("remove.done");
        self.name_changes(removed.ino);
        if removed.remote.is_some() {
            self.wake_transfers();
        }
        if removed.kind != EntryKind::Dir && removed.nlink == 0 {
            self.drop_if_unused(removed.ino);
        } else if removed.nlink == 1 {
            self.take_out_trash();
        }
        Ok(())
    }

    /// Whoever sends a file learns that its name changed.
    fn name_changes(&self, ino: Ino) {
        self.sending.changed(ino);
    }

    /// Whoever sends a file that lies in a folder learns that its path changed.
    fn paths_change(&self, folder: Ino) -> Result<(), StateError> {
        let Some(above) = self.tree.path_of(folder)? else {
            return Ok(());
        };
        for ino in self.sending.files() {
            for (parent, _) in self.store.read(|txn| txn.names_of(ino))? {
                let dir = self.tree.path_of(parent)?;
                if dir.is_some_and(|dir| dir.as_bytes().starts_with(above.as_bytes())) {
                    self.sending.changed(ino);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Forgets a file without a name, unless somebody has it open: the last close comes back here.
    pub(super) fn drop_if_unused(self: &Arc<Self>, ino: Ino) {
        if self.handles.count(ino) > 0 {
            return;
        }
        let drive = Arc::clone(self);
        tokio::spawn(async move {
            let looking = Arc::clone(&drive);
            let drop = move |txn: &WriteTxn<'_>| {
                // Somebody may have come by its name just before that went.
                if looking.handles.count(ino) > 0 {
                    return Ok(None);
                }
                txn.drop_nameless(ino)
            };
            match drive.store.write(drop).await {
                Ok(Some(object)) => drive.empty_trash(vec![object]).await,
                Ok(None) => {}
                Err(e) => warn!(%ino, error = %e, "a file without a name stays until the next start"),
            }
        });
    }

    /// Says whether a file that is open by now is kept for that: one without a name may have been dropped just before.
    pub(super) async fn is_kept(&self, ino: Ino) -> Result<bool, FsError> {
        match self.tree.node(ino).map_err(state_error)? {
            None => Ok(false),
            Some(node) if node.nlink > 0 => Ok(true),
            // After whatever drops it now.
            Some(_) => self
                .store
                .write(move |txn| Ok(txn.node(ino)?.is_some()))
                .await
                .map_err(state_error),
        }
    }

    /// A file lost all names but one, and may have become a mirror by that: its object is needed no more.
    fn take_out_trash(self: &Arc<Self>) {
        let drive = Arc::clone(self);
        tokio::spawn(async move {
            match drive.store.read(|txn| txn.trash()) {
                Ok(trash) if trash.is_empty() => {}
                Ok(trash) => drive.empty_trash(trash).await,
                Err(e) => debug!(error = %e, "trash is looked at again at the next start"),
            }
        });
    }

    /// Deletes the files of objects that the store has given up.
    pub(super) async fn empty_trash(self: &Arc<Self>, trash: Vec<u64>) {
        let objects = Arc::clone(&self.objects);
        let gone = blocking(move || {
            let mut gone = trash;
            gone.retain(|object| match objects.remove(*object) {
                Ok(()) => true,
                Err(e) => {
                    warn!(object = format!("{object:016x}"), error = %e, "an object that nothing needs stays behind");
                    false
                }
            });
            gone
        });
        let Ok(gone) = gone.await else { return };
        failpoint::hit("trash.emptied");
        if let Err(e) = self.store.write(move |txn| txn.trash_emptied(&gone)).await {
            debug!(error = %e, "emptied trash is looked at again at the next start");
        }
    }

    /// Moves a name.
    pub(super) async fn move_name(
        self: &Arc<Self>,
        from: &Place,
        to: &Place,
        options: RenameOptions,
    ) -> Result<(), FsError> {
        if from.project.root != to.project.root {
            return Err(FsErrorKind::CrossDevice.into());
        }
        let how = match (options.no_replace, options.exchange) {
            (_, true) => RenameHow::Exchange,
            (true, false) => RenameHow::NoReplace,
            (false, false) => RenameHow::Replace,
        };
        let publishes = to.publishes() || (how == RenameHow::Exchange && from.publishes());
        let moved = self.tree.lookup(from.parent, &from.name).map_err(state_error)?;
        let moved = moved.ok_or(FsErrorKind::NotFound)?;
        let with_folders = moved.kind == EntryKind::Dir || options.exchange;
        if publishes && with_folders {
            self.settle_all().await;
        } else if publishes
            && let Some(own) = self.locals.get(moved.ino).filter(|own| own.is_writing())
            && !self.handles.has_writer(moved.ino)
        {
            self.closed(&own).await?;
        }
        if publishes && !from.publishes() {
            // What was closed where no promise is made becomes a publish: its bytes are promised from now on.
            self.sync_moved(&moved).await?;
            failpoint::hit("rename.synced");
        }
        let exchanged = how == RenameHow::Exchange && from.publishes() && !to.publishes();
        if exchanged && let Some(other) = self.tree.lookup(to.parent, &to.name).map_err(state_error)? {
            self.sync_moved(&other).await?;
        }
        self.name_changes(moved.ino);
        let target = self.tree.lookup(to.parent, &to.name).map_err(state_error)?;
        if let Some(target) = &target {
            self.name_changes(target.ino);
        }
        for folder in [Some(&moved), target.as_ref()].into_iter().flatten() {
            if folder.kind == EntryKind::Dir {
                self.paths_change(folder.ino).map_err(state_error)?;
            }
        }
        if with_folders {
            // Asked again meanwhile, and once it is done.
            self.places.moved();
        }
        let (queue, source, target, now) = (self.queueing(), from.clone(), to.clone(), now_ns());
        let renamed = self
            .edit(publishes, move |txn| {
                let renamed = txn.rename(source.at(), target.at(), how, now)?;
                if renamed.nothing {
                    return Ok(renamed);
                }
                requeue(txn, &queue, &renamed, &source, &target, how)?;
                Ok(renamed)
            })
            .await?;
        if with_folders {
            self.places.moved();
        }
        if renamed.nothing {
            return Ok(());
        }
        failpoint::hit("rename.done");
        self.pins.tree_changed();
        self.wake_transfers();
        let mut moved = vec![(renamed.ino, renamed.kind)];
        if let Some((other, kind)) = renamed.other {
            self.name_changes(other);
            if how == RenameHow::Exchange {
                moved.push((other, kind));
            } else if kind != EntryKind::Dir && renamed.other_nlink == 0 {
                self.drop_if_unused(other);
            } else if renamed.other_nlink == 1 {
                self.take_out_trash();
            }
        }
        self.relabel(moved);
        Ok(())
    }

    /// Brings the bytes of what is moved into a publish zone to the disk.
    async fn sync_moved(self: &Arc<Self>, node: &Node) -> Result<(), FsError> {
        match node.kind {
            EntryKind::File if node.own && node.object.is_some() => {
                let local = self.own_file(node)?;
                // Closed earlier, perhaps by another run of the daemon: nobody knows whether a sync came after.
                local.not_synced();
                self.sync_bytes(&local).await
            }
            EntryKind::Dir => {
                let objects = Arc::clone(&self.objects);
                blocking(move || objects.sync_all())
                    .await?
                    .map_err(super::writing::local_error)
            }
            _ => Ok(()),
        }
    }

    /// Writes on objects where their files are now, in the background: only a recovery without the database reads it.
    fn relabel(self: &Arc<Self>, moved: Vec<(Ino, EntryKind)>) {
        let drive = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            for (ino, kind) in moved {
                let label = |ino: Ino, object: Option<u64>| {
                    if let (Some(object), Ok(Some(path))) = (object, drive.tree.path_of(ino)) {
                        drive.objects.relabel(object, &path);
                    }
                };
                if kind == EntryKind::Dir {
                    let below: Vec<OwnFile> = drive.store.read(|txn| txn.own_files_below(ino)).unwrap_or_default();
                    for file in below {
                        label(file.ino, file.object);
                    }
                } else if let Ok(Some(node)) = drive.tree.node(ino) {
                    label(ino, node.object);
                }
            }
        });
    }

    /// Adds a name.
    pub(super) async fn add_name(self: &Arc<Self>, ino: Ino, place: &Place) -> Result<Node, FsError> {
        let (queue, here, now) = (self.queueing(), place.clone(), now_ns());
        let node = self.row(ino)?;
        if place.publishes() {
            self.sync_moved(&node).await?;
        }
        self.name_changes(ino);
        let linked = self
            .edit(place.publishes(), move |txn| {
                let node = txn.link(ino, here.parent, &here.name, now)?;
                if here.publishes() && node.kind == EntryKind::File {
                    queue.send(txn, &here.send(), ino, node.generation, node.size)?;
                }
                Ok(node)
            })
            .await?;
        failpoint::hit("link.done");
        if place.publishes() {
            self.wake_transfers();
        }
        Ok(linked)
    }

    /// Sets attributes.
    pub(super) async fn set_attrs(&self, ino: Ino, attrs: NewAttrs) -> Result<Node, FsError> {
        let now = now_ns();
        if let Some(local) = self.locals.get(ino) {
            local.set_times(attrs.mtime_ns, now);
        }
        self.edit(false, move |txn| txn.set_attrs(ino, &attrs, now)).await
    }

    /// Refuses something by a rule of the project, and says so where people look.
    pub(super) fn refuse(&self, below: &RelPath, project: &Project, why: &str) -> FsError {
        let path = project.folder_path().concat(below);
        info!(%path, why, "refused");
        self.refusals.note(&path, why);
        FsError::new(FsErrorKind::NotPermitted, format!("{path}: {why}"))
    }
}

/// Makes the queue follow names that changed, in the write that changed them.
fn requeue(
    txn: &WriteTxn<'_>,
    queue: &super::writing::Queueing,
    renamed: &Renamed,
    from: &Place,
    to: &Place,
    how: RenameHow,
) -> Result<(), StateError> {
    let mut before = Vec::new();
    if how == RenameHow::Exchange {
        before.extend(txn.drop_send(from.parent, &from.name)?);
        before.extend(txn.drop_send(to.parent, &to.name)?);
    } else if to.publishes() && renamed.kind == EntryKind::File {
        // Its place in the queue and the note of what was sent of it come along.
        if !txn.move_send(from.at(), to.at())? {
            txn.drop_send(to.parent, &to.name)?;
        }
    } else {
        txn.drop_send(to.parent, &to.name)?;
        txn.drop_send(from.parent, &from.name)?;
    }
    if renamed.kind == EntryKind::Dir {
        let known = Left {
            path: from.below.clone(),
            version: None,
        };
        if how != RenameHow::Exchange {
            leave_pending(txn, queue, from)?;
        }
        leave_begun(txn, queue, from, renamed.left.contains(&known))?;
    }
    queue_moved(txn, queue, renamed.ino, renamed.kind, to)?;
    if let (RenameHow::Exchange, Some((other, kind))) = (how, renamed.other) {
        queue_moved(txn, queue, other, kind, from)?;
    }
    // What a person said of a file, or a crash, goes with it.
    for task in before {
        let at = if task.ino == Some(renamed.ino) { to } else { from };
        txn.inherit(at.parent, &at.name, &task)?;
    }
    for left in &renamed.left {
        let deletes = from.lets_deletes_through() && from.project.zones.of(&left.path) == ZoneKind::Publish;
        if !txn.is_covered(from.project.root, left)? && deletes {
            queue.delete(txn, &from.project, left)?;
        }
    }
    Ok(())
}

/// Sees to a folder that leaves a place whose removal at the site was asked for before the folder came there: that is to be
/// looked at anew. What is met by a removal that is under way was true while the folder was here.
fn leave_pending(txn: &WriteTxn<'_>, queue: &super::writing::Queueing, from: &Place) -> Result<(), StateError> {
    let pending = txn.folder_deletes_from(from.project.root, &from.below)?;
    if pending.is_empty() {
        return Ok(());
    }
    txn.leave_folder(from.parent, &from.name)?;
    for path in pending.into_iter().rev() {
        queue.delete(txn, &from.project, &Left { path, version: None })?;
    }
    Ok(())
}

/// Sees to folders that left a place while something in them was on its way to the site, which may have them by now: that
/// is not shown, and goes once it is empty. `is_known`: the site is known to have the folder, so that the project's rule on
/// deletes holds.
fn leave_begun(
    txn: &WriteTxn<'_>,
    queue: &super::writing::Queueing,
    from: &Place,
    is_known: bool,
) -> Result<(), StateError> {
    let project = &from.project;
    let begun = begun_below(txn, project.root, &project.remote_path.concat(&from.below))?;
    if begun.is_empty() {
        return Ok(());
    }
    let mut folders = BTreeSet::from([from.below.clone()]);
    for path in begun {
        let below = path.as_bytes().strip_prefix(project.remote_path.as_bytes());
        let mut at = below
            .and_then(|below| RelPath::new(below).ok())
            .and_then(|below| below.split_last());
        while let Some((dir, _)) = at.filter(|(dir, _)| *dir != from.below) {
            at = dir.split_last();
            folders.insert(dir);
        }
    }
    if !is_known {
        txn.leave_folder(from.parent, &from.name)?;
    }
    if is_known && !from.lets_deletes_through() {
        return Ok(());
    }
    // What is below a folder comes after it.
    for path in folders.into_iter().rev() {
        queue.delete(txn, project, &Left { path, version: None })?;
    }
    Ok(())
}

/// Puts what is at a place now in the queue, or takes it out.
fn queue_moved(
    txn: &WriteTxn<'_>,
    queue: &super::writing::Queueing,
    ino: Ino,
    kind: EntryKind,
    at: &Place,
) -> Result<(), StateError> {
    match kind {
        EntryKind::File if at.publishes() => {
            let node = txn.node(ino)?.ok_or(StateError::NoSuchNode(ino))?;
            queue.send(txn, &at.send(), ino, node.generation, node.size).map(drop)
        }
        // A new row for each: whoever works on the old one sends to a path that is none any more.
        EntryKind::Dir => {
            for file in txn.own_files_below(ino)? {
                let before = txn.drop_send(file.parent, &file.name)?;
                if at.project.zones.of(&at.below.concat(&file.below)) == ZoneKind::Publish {
                    let (parent, at_name) = (file.parent, file.name.clone());
                    let name = PublishName {
                        project: Arc::clone(&at.project),
                        parent: file.parent,
                        name: file.name,
                    };
                    queue.send(txn, &name, file.ino, file.generation, file.size)?;
                    if let Some(before) = before {
                        txn.inherit(parent, &at_name, &before)?;
                    }
                }
            }
            Ok(())
        }
        EntryKind::File
        | EntryKind::Symlink
        | EntryKind::Fifo
        | EntryKind::Socket
        | EntryKind::CharDevice
        | EntryKind::BlockDevice => Ok(()),
    }
}

fn special(kind: NodeKind) -> Result<EntryKind, FsError> {
    match kind {
        NodeKind::Fifo => Ok(EntryKind::Fifo),
        NodeKind::Socket => Ok(EntryKind::Socket),
        NodeKind::CharDevice => Ok(EntryKind::CharDevice),
        NodeKind::BlockDevice => Ok(EntryKind::BlockDevice),
        NodeKind::File | NodeKind::Dir | NodeKind::Symlink => Err(FsErrorKind::Invalid.into()),
    }
}
