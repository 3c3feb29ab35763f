//! What the transfers are told about files, and what becomes of a file once it is at its site.
//!
//! Owns: freezing a file so that it can be sent, the way from an own file to a mirror, conflicts. Refuses to know: how
//! bytes travel, when to try again. Invariants: an object is given up only after its bytes are at the site and that is on
//! the disk; what the site would lose by a delete, and a file here still has its bytes in, is brought here first.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use backlot_config::{RemoteDelete, ZoneKind};
use backlot_platform::error::{FsError, FsErrorKind};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::drive::{Inner, Project, content_version, now_ms};
use super::link::{Link, LinkState};
use super::writing::{PublishName, blocking, object_mtime_ns};
use crate::failpoint;
use crate::model::{EntryKind, Ino, NAME_MAX, Name, RelPath, Version};
use crate::providers::{ErrorKind, ProviderError};
use crate::state::{Landed, Left, Node, Refusal, SentFile, StateError, Task, TaskId, TaskWhat};
use crate::transfer::{DeleteOutcome, Desk, Frozen, Lane, LaneLink, Options, Prepared, Transfers};

/// How long a running task is claimed for: what its worker leaves without a word is another's after this.
const LEASE: Duration = Duration::from_secs(60);
/// The wait after the first failed try.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The shortest wait for a file that is still open.
const STILL_OPEN: Duration = Duration::from_millis(200);
/// Bytes taken over into the cache at a time.
const ADOPT_STEP: usize = 1 << 20;

/// Files that are being sent, and how their senders learn of a change: one for each task, and a file with several names
/// has several.
#[derive(Debug, Default)]
pub(super) struct Sending(Mutex<HashMap<Ino, HashMap<TaskId, CancellationToken>>>);

impl Sending {
    fn map(&self) -> MutexGuard<'_, HashMap<Ino, HashMap<TaskId, CancellationToken>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, ino: Ino, task: TaskId) -> CancellationToken {
        let token = CancellationToken::new();
        // An earlier try of the task has ended.
        self.map().entry(ino).or_default().insert(task, token.clone());
        token
    }

    /// Tells whoever sends a file that a byte or a name of it is about to change.
    pub(super) fn changed(&self, ino: Ino) {
        for token in self.map().remove(&ino).unwrap_or_default().values() {
            token.cancel();
        }
    }

    /// Returns the files that are being sent.
    pub(super) fn files(&self) -> Vec<Ino> {
        self.map().keys().copied().collect()
    }

    fn ended(&self, ino: Ino, task: TaskId) {
        let mut map = self.map();
        if let Some(tokens) = map.get_mut(&ino) {
            tokens.remove(&task);
            if tokens.is_empty() {
                map.remove(&ino);
            }
        }
    }
}

/// The drive, as the transfers see it.
#[derive(Debug)]
struct PublishDesk(Weak<Inner>);

/// A site's link, as the transfers see it.
#[derive(Debug)]
pub(super) struct SiteLink(pub(super) Arc<Link>);

#[async_trait]
impl LaneLink for SiteLink {
    fn is_down(&self) -> bool {
        self.0.is_down()
    }

    async fn up(&self) {
        let mut state = self.0.watch();
        // The link outlives its watchers; an error would mean that it does not.
        drop(state.wait_for(|state| !matches!(state, LinkState::Down { .. })).await);
    }

    fn answered(&self) {
        self.0.answered();
    }

    fn failed(&self, error: &ProviderError) {
        self.0.failed(error);
    }
}

/// Begins working off the queues of a drive.
pub(super) async fn start_transfers(drive: Arc<Inner>) {
    let lanes = drive.projects.iter().map(|project| Lane {
        root: project.root,
        site: project.site.name().clone(),
        provider: Arc::clone(project.site.provider()),
        link: Arc::new(SiteLink(Arc::clone(project.site.link()))),
        priority: project.priority,
    });
    let options = Options {
        parallel: drive.publish.parallel as usize,
        part_size: drive.publish.part_size.bytes(),
        retry_first: RETRY_FIRST,
        retry_max: drive.publish.retry_max.into(),
        lease: LEASE,
    };
    let desk = Arc::new(PublishDesk(Arc::downgrade(&drive)));
    let (store, stop) = (drive.store.clone(), drive.stop.clone());
    let copies = drive.copies();
    match Transfers::start_with_copies(store, desk, lanes.collect(), copies, options, stop).await {
        Ok(transfers) => drive.set_transfers(transfers),
        Err(e) => error!(error = %e, "nothing is published until the drive is started again: its queue can't be read"),
    }
}

#[async_trait]
impl Desk for PublishDesk {
    async fn prepare(&self, task: &Task) -> Prepared {
        let Some(drive) = self.0.upgrade() else {
            return Prepared::NotYet(STILL_OPEN);
        };
        match drive.prepare(task).await {
            Ok(prepared) => prepared,
            Err(e) => Prepared::Failed {
                kind: match e.kind {
                    FsErrorKind::Offline | FsErrorKind::TimedOut => "offline",
                    FsErrorKind::NoSpace => "no-space",
                    FsErrorKind::RemoteChanged => "source-changed",
                    _ => "local",
                }
                .to_owned(),
                why: std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string),
                blocked: e.kind == FsErrorKind::RemoteChanged,
            },
        }
    }

    async fn committed(&self, task: &Task, sent: &Frozen, version: Version) -> Result<(), StateError> {
        match self.0.upgrade() {
            Some(drive) => drive.committed(task, sent, version).await,
            None => Err(StateError::Closed),
        }
    }

    async fn ours_is_there(
        &self,
        task: &Task,
        path: &RelPath,
        version: Version,
        _generation: u64,
        replaced: Option<&Version>,
    ) -> Result<(), StateError> {
        let Some(drive) = self.0.upgrade() else {
            return Err(StateError::Closed);
        };
        let (Some((root, below)), Some(project)) = (drive.below(task, path), drive.project_at(task.root).cloned())
        else {
            return Ok(());
        };
        let goes = replaced.is_none() || project.remote_delete == RemoteDelete::Propagate;
        let queue = drive.queueing();
        drive
            .store
            .write(move |txn| {
                if txn.is_at_site(root, &below, &version)? && goes {
                    // Nobody was there before us, or what was there was to go with its name.
                    let left = Left {
                        path: below,
                        version: Some(version),
                    };
                    queue.delete(txn, &project, &left)?;
                }
                Ok(())
            })
            .await
    }

    async fn conflict(&self, task: &Task, sent: &Frozen, theirs: Option<Version>) -> Result<(), StateError> {
        match self.0.upgrade() {
            Some(drive) => drive.conflict(task, sent, theirs).await,
            None => Err(StateError::Closed),
        }
    }

    async fn deleted(&self, task: &Task, outcome: DeleteOutcome) -> Result<(), StateError> {
        match self.0.upgrade() {
            Some(drive) => drive.deleted(task, outcome).await,
            None => Err(StateError::Closed),
        }
    }
}

impl Inner {
    fn project_at(&self, root: Ino) -> Option<&Arc<Project>> {
        self.projects.iter().find(|project| project.root == root)
    }

    /// Returns a path under a site's root as one inside the task's project.
    fn below(&self, task: &Task, path: &RelPath) -> Option<(Ino, RelPath)> {
        let project = self.project_at(task.root)?;
        let below = path.as_bytes().strip_prefix(project.remote_path.as_bytes())?;
        Some((project.root, RelPath::new(below).ok()?))
    }

    async fn prepare(self: &Arc<Self>, task: &Task) -> Result<Prepared, FsError> {
        let Some(project) = self.project_at(task.root).cloned() else {
            return Ok(Prepared::Gone);
        };
        let (Some(parent), Some(name), Some(ino)) = (task.parent, &task.name, task.ino) else {
            let Some(path) = task.path.clone().filter(|_| task.what != TaskWhat::Send) else {
                return Ok(Prepared::Gone);
            };
            self.bring_what_lies_at(&project, &path).await?;
            return Ok(Prepared::Delete {
                path: project.remote_path.concat(&path),
            });
        };
        let still_open = Prepared::NotYet(self.limits.settle.max(STILL_OPEN));
        let Some(place) = self.place(parent).map_err(super::filesystem::state_error)? else {
            return Ok(Prepared::Gone);
        };
        let below = place.1.join(name);
        if place.0.root != project.root || project.zones.of(&below) != ZoneKind::Publish {
            return Ok(Prepared::Gone);
        }
        if self.handles.has_writer(ino) {
            return Ok(still_open);
        }
        let refused = self.refused_at(&project, project.site.name(), (parent, name), &below);
        if let Some(why) = refused.map_err(super::filesystem::state_error)? {
            return Ok(Prepared::Failed {
                kind: "name".to_owned(),
                why,
                blocked: true,
            });
        }
        let Some(node) = self.named(parent, name, ino)? else {
            return Ok(Prepared::Gone);
        };
        if node.writing {
            // Whoever wrote was cut off between two steps: what is there counts as closed.
            let local = self.own_file(&node)?;
            local.begun(node.generation);
            self.closed(&local).await?;
            return Ok(still_open);
        }
        if let Some(origin) = &node.origin {
            if origin.path == below {
                // Moved away and back: it replaces itself.
                let (name, version) = (name.clone(), origin.version.clone());
                let noted = self.store.write(move |txn| txn.lies_behind((parent, &name), &version));
                noted.await.map_err(super::filesystem::state_error)?;
            }
            self.bring_home(&node).await?;
        }
        // What is about to be replaced at the site may hold the bytes of a file that was moved away from there.
        self.bring_what_lies_at(&project, &below).await?;
        let changed = self.sending.begin(ino, task.id);
        // From here on a change is told; what was before it shows in the row.
        let frozen = self.frozen(&project, (parent, name), &below, ino, changed.clone());
        match frozen {
            Ok(Some(frozen)) => Ok(Prepared::Send(frozen)),
            Ok(None) => {
                self.sending.ended(ino, task.id);
                Ok(still_open)
            }
            Err(e) => {
                self.sending.ended(ino, task.id);
                Err(e)
            }
        }
    }

    /// Returns an own file that has a name, as the database says at this moment.
    fn named(&self, parent: Ino, name: &Name, ino: Ino) -> Result<Option<Node>, FsError> {
        let found = self.store.read(|txn| txn.lookup(parent, name));
        let found = found.map_err(super::filesystem::state_error)?;
        Ok(found.filter(|node| node.ino == ino && node.own && node.kind == EntryKind::File))
    }

    fn frozen(
        &self,
        project: &Project,
        at: (Ino, &Name),
        below: &RelPath,
        ino: Ino,
        changed: CancellationToken,
    ) -> Result<Option<Frozen>, FsError> {
        let Some(node) = self.named(at.0, at.1, ino)?.filter(|node| !node.writing) else {
            return Ok(None);
        };
        let bytes = if node.size == 0 {
            None
        } else {
            self.own_file(&node)?.file()
        };
        if bytes.is_none() && node.size > 0 {
            return Err(FsError::new(FsErrorKind::Io, "its bytes are not where they were kept"));
        }
        let object_mtime_ns = match &bytes {
            Some(file) => object_mtime_ns(file).map_err(|e| FsError::new(FsErrorKind::Io, e))?,
            None => 0,
        };
        let base = self.store.read(|txn| txn.base_of(at.0, at.1));
        Ok(Some(Frozen {
            path: project.remote_path.concat(below),
            bytes,
            from: None,
            size: node.size,
            mtime_ns: node.mtime_ns,
            perm: node.perm,
            generation: node.generation,
            base: base.map_err(super::filesystem::state_error)?,
            object_mtime_ns,
            changed,
        }))
    }

    /// Brings the bytes of a file that was moved here, and still has them at its old place, into an object.
    async fn bring_home(self: &Arc<Self>, node: &Node) -> Result<(), FsError> {
        let (object, file) = self.copy(node, node.size).await?;
        let file = Arc::new(file);
        // What lies at the site may be removed as soon as this is done.
        if let Err(e) = self.bring_to_disk(object, &file).await {
            self.drop_object(object);
            return Err(e);
        }
        failpoint::hit("home.copied");
        let (ino, version) = (node.ino, content_version(node));
        let brought = self
            .store
            .write_durable(move |txn| txn.brought_home(ino, object, &version))
            .await;
        match brought {
            Ok(()) => {
                failpoint::hit("home.done");
                self.keep_for_good(object, &file).await?;
                if let Some(node) = self.tree.node(ino).map_err(super::filesystem::state_error)? {
                    let local = self.own_file(&node)?;
                    self.handles.switch_to_own(ino, &local);
                }
                Ok(())
            }
            Err(StateError::Refused(Refusal::Changed)) => {
                self.drop_object(object);
                Ok(())
            }
            Err(e) => {
                self.drop_object(object);
                Err(super::filesystem::state_error(e))
            }
        }
    }

    /// Brings home what would lose its bytes when a path at the site is deleted or replaced. Whose bytes are not there any
    /// more has nothing left to lose.
    async fn bring_what_lies_at(self: &Arc<Self>, project: &Project, path: &RelPath) -> Result<(), FsError> {
        let files = self.store.read(|txn| txn.with_origin(path));
        for node in files.map_err(super::filesystem::state_error)? {
            let place = self.place(node.ino).map_err(super::filesystem::state_error)?;
            if place.is_some_and(|(of, _)| of.root == project.root) {
                match self.bring_home(&node).await {
                    Err(e) if e.kind == FsErrorKind::RemoteChanged => {
                        warn!(ino = %node.ino, %path, "the bytes of a file that was moved are not at its old place any more");
                    }
                    brought => brought?,
                }
            }
        }
        Ok(())
    }

    async fn committed(self: &Arc<Self>, task: &Task, sent: &Frozen, version: Version) -> Result<(), StateError> {
        let (Some(parent), Some(name), Some(ino)) = (task.parent, task.name.clone(), task.ino) else {
            return Ok(());
        };
        let Some((root, below)) = self.below(task, &sent.path) else {
            return Ok(());
        };
        self.adopt(ino, sent, &version).await;
        failpoint::hit("publish.adopted");
        let before = self.locals.get(ino);
        let sent_file = SentFile {
            ino,
            generation: sent.generation,
            stays_own: self.mapped.has(ino),
        };
        let (project, queue) = (self.project_at(root).cloned(), self.queueing());
        let (id, task, is_new) = (task.id, task.clone(), sent.base.is_none());
        let size = sent.size;
        let remote = project.as_ref().map(|project| project.site.name().clone());
        let elsewhere = project
            .as_ref()
            .map(|project| self.wanted_elsewhere(project, (parent, &name), &below))
            .unwrap_or_default();
        let landed = self
            .store
            .write_durable(move |txn| {
                let landed = txn.landed(root, (parent, &name), &below, sent_file, &version)?;
                if let Some(remote) = remote.filter(|_| landed != Landed::NameGone) {
                    super::sites::published(txn, (root, &below), (&remote, &elsewhere), (&version, size), now_ms())?;
                }
                if let (Landed::NameGone, Some(project)) = (landed, &project)
                    && (is_new || project.remote_delete == RemoteDelete::Propagate)
                {
                    // Nobody was there before us, or what was there was to go with its name.
                    let left = Left {
                        path: below,
                        version: Some(version),
                    };
                    if !txn.is_covered(root, &left)? {
                        queue.delete(txn, project, &left)?;
                    }
                }
                txn.finish_task(&task)?;
                Ok(landed)
            })
            .await?;
        failpoint::hit("publish.recorded");
        self.sync.changed(parent);
        self.sending.ended(ino, id);
        if let Landed::Mirror { object } = landed {
            self.pins.tree_changed();
            if let Some(before) = before {
                before.retire();
            }
            debug!(path = %sent.path, "published");
            if let Some(object) = object {
                self.empty_trash(vec![object]).await;
            }
        }
        Ok(())
    }

    /// Takes the bytes of a file that is at the site by now into the cache, so that nobody has to fetch them. Where that
    /// fails they are fetched when they are wanted.
    async fn adopt(self: &Arc<Self>, ino: Ino, sent: &Frozen, version: &Version) {
        let Some(bytes) = sent.bytes.clone() else { return };
        let (id, size) = (self.content_id(ino, version), sent.size);
        let (cache, changed) = (Arc::clone(&self.cache), sent.changed.clone());
        let adopted = blocking(move || {
            let content = cache.content(id, size)?;
            // An earlier save may have looked the same to the site: what is here under its version is not these bytes.
            if content.resident_bytes() > 0 {
                content.drop_granules(0..size)?;
            }
            let mut reserved = cache.reserve(size)?;
            let mut buffer = vec![0; ADOPT_STEP];
            let mut at = 0;
            while at < size {
                let step = usize::try_from(size - at).unwrap_or(ADOPT_STEP).min(ADOPT_STEP);
                if changed.is_cancelled() || bytes.read_exact_at(&mut buffer[..step], at).is_err() {
                    return Ok(false);
                }
                if changed.is_cancelled() {
                    return Ok(false);
                }
                content.fill(at, &buffer[..step])?;
                failpoint::hit("adopt.part");
                at += step as u64;
                reserved.release(step as u64);
            }
            // Takes note that they are right, for who gives them out.
            content.prove()?;
            Ok::<_, backlot_cache::CacheError>(true)
        });
        match adopted.await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => debug!(path = %sent.path, error = %e, "what was published is not kept in the cache"),
            Err(e) => debug!(path = %sent.path, error = %e, "what was published is not kept in the cache"),
        }
    }

    async fn conflict(self: &Arc<Self>, task: &Task, sent: &Frozen, theirs: Option<Version>) -> Result<(), StateError> {
        let (Some(parent), Some(name), Some(ino)) = (task.parent, task.name.clone(), task.ino) else {
            return Ok(());
        };
        let (Some((root, below)), Some(project)) = (self.below(task, &sent.path), self.project_at(task.root).cloned())
        else {
            return Ok(());
        };
        self.sending.ended(ino, task.id);
        let theirs = match theirs {
            Some(theirs) => theirs,
            None => match project.site.provider().stat(&sent.path).await {
                Ok(entry) => entry.version,
                Err(e) if e.kind == ErrorKind::NotFound => {
                    // It is gone there, so there is nothing to be in conflict with: ours goes up as a new file.
                    let (task, due) = (task.clone(), now_ms());
                    return self
                        .store
                        .write(move |txn| {
                            txn.is_gone_from_site(root, &below, EntryKind::File)?;
                            txn.postpone_task(&task, due, None).map(drop)
                        })
                        .await;
                }
                Err(_) => Version::new(""),
            },
        };
        let (queue, generation, size) = (self.queueing(), sent.generation, sent.size);
        let (site, at) = (self.site_id().to_owned(), jiff::Timestamp::now());
        let shown = name.clone();
        let aside = self
            .store
            .write_durable(move |txn| {
                let is_ours = txn.lookup(parent, &name)?.is_some_and(|node| node.ino == ino);
                if !is_ours {
                    return Ok(None);
                }
                for number in 0.. {
                    let aside = conflict_name(&name, &site, at, number);
                    if txn.lookup(parent, &aside)?.is_some() {
                        continue;
                    }
                    txn.put_aside((parent, &name), ino, &aside, &theirs, now_ms())?;
                    txn.move_send((parent, &name), (parent, &aside))?;
                    let at = PublishName {
                        project,
                        parent,
                        name: aside.clone(),
                    };
                    queue.send(txn, &at, ino, generation, size)?;
                    return Ok(Some(aside));
                }
                Ok(None)
            })
            .await?;
        failpoint::hit("conflict.aside");
        if let Some(aside) = aside {
            warn!(path = %sent.path, ours = %aside, "the file changed at the site since ours began: both are kept, ours \
                under another name; `backlot conflict` settles it");
            self.tell_names(parent, &[&shown, &aside]);
            self.refresh_name(parent, &shown).await;
        }
        Ok(())
    }

    async fn deleted(self: &Arc<Self>, task: &Task, outcome: DeleteOutcome) -> Result<(), StateError> {
        let Some(path) = task.path.clone() else { return Ok(()) };
        let (root, kind) = (
            task.root,
            if task.what == TaskWhat::DeleteFolder {
                EntryKind::Dir
            } else {
                EntryKind::File
            },
        );
        let (task, below) = (task.clone(), path.clone());
        let is_over = self
            .store
            .write(move |txn| {
                // Otherwise the removal was taken back meanwhile, or asked for anew: what was found then says nothing of what
                // is to be shown now.
                let is_over = txn.finish_task(&task)?;
                match outcome {
                    DeleteOutcome::Done | DeleteOutcome::NothingThere => txn.is_gone_from_site(root, &below, kind)?,
                    DeleteOutcome::OtherVersion | DeleteOutcome::NotEmpty if !is_over => {}
                    DeleteOutcome::OtherVersion => txn.unhide(root, &below)?,
                    DeleteOutcome::NotEmpty => {
                        if txn.folder_is_at_site(root, &below)? {
                            return Ok(false);
                        }
                        txn.unhide(root, &below)?;
                    }
                }
                Ok(is_over)
            })
            .await?;
        match outcome {
            DeleteOutcome::Done | DeleteOutcome::NothingThere => {
                debug!(%path, "deleted at the site");
                // A listing may have found it there.
                let shown = self.store.read(|txn| match txn.place(root, &path)? {
                    Some((parent, name)) => Ok(txn.lookup(parent, &name)?.map(|_| (parent, name))),
                    None => Ok(None),
                })?;
                if let Some((parent, name)) = shown {
                    self.refresh_name(parent, &name).await;
                }
            }
            DeleteOutcome::OtherVersion | DeleteOutcome::NotEmpty if !is_over => {
                debug!(%path, ?outcome, "not deleted at the site: it is in use again, or other work by now");
            }
            DeleteOutcome::OtherVersion | DeleteOutcome::NotEmpty => {
                info!(%path, ?outcome, "not deleted at the site: somebody has put something else there, which is shown again");
                let place = self.store.read(|txn| txn.place(root, &path))?;
                if let Some((parent, name)) = place {
                    self.refresh_name(parent, &name).await;
                }
            }
        }
        Ok(())
    }
}

/// Names our file of a conflict: `name.conflict-SITE-TIME.ext`.
fn conflict_name(name: &Name, site: &str, at: jiff::Timestamp, number: u32) -> Name {
    let bytes = name.as_bytes();
    // A name that begins with its only dot has no extension.
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let site: String = site
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let again = if number == 0 {
        String::new()
    } else {
        format!("-{number}")
    };
    let mark = format!(".conflict-{site}-{}{again}", at.strftime("%Y%m%dT%H%M%SZ"));
    let room = NAME_MAX.saturating_sub(mark.len() + extension.len());
    let made = [&stem[..stem.len().min(room)], mark.as_bytes(), extension].concat();
    // A name with so long an extension goes without.
    Name::new(made)
        .or_else(|_| Name::new(mark.into_bytes()))
        .unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_side_of_a_conflict_keeps_its_extension_and_fits() {
        let at: jiff::Timestamp = "2026-11-25T10:15:00Z".parse().unwrap();
        let named = |text: &str, number| {
            let name = Name::new(text.as_bytes()).unwrap();
            conflict_name(&name, "ws 1", at, number).to_string()
        };
        assert_eq!(named("a.1001.exr", 0), "a.1001.conflict-ws-1-20261125T101500Z.exr");
        assert_eq!(named("shot", 2), "shot.conflict-ws-1-20261125T101500Z-2");
        assert_eq!(named(".hidden", 0), ".hidden.conflict-ws-1-20261125T101500Z");
        assert!(named(&"x".repeat(255), 0).len() <= NAME_MAX);
        assert!(named(&format!("a.{}", "x".repeat(250)), 0).len() <= NAME_MAX);
    }
}
