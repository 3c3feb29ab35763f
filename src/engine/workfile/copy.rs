//! Copies within the drive, made by the daemon itself: never through its own mount.
//!
//! Refuses to know which files are wanted. Invariants: a copy gets its name when it is whole and on the disk, and only if
//! nothing has that name; what is half done is remembered, to be cleared away.

use std::sync::Arc;

use backlot_platform::error::{FsError, FsErrorKind};
use backlot_platform::types::{HandleId, NewNode, OpCx, OpenOptions, RenameOptions};
use backlot_platform::vfs::VirtualFs;
use tokio::sync::watch;
use tracing::warn;

use super::layout::Version;
use super::{Plan, RESOURCES, WorkfileError, fetched};
use crate::engine::drive::Inner;
use crate::engine::filesystem::DriveFs;
use crate::engine::report::{FetchLastProgress, FetchedWorkfile, LeftResource};
use crate::model::{EntryKind, Ino, NAME_MAX, Name, RelPath};
use crate::state::Node;

/// Bytes copied at a time.
const STEP: u64 = 1 << 20;
/// Names that somebody else takes meanwhile before it is given up.
const NAMES: u32 = 100;
/// Resources whose fate is told one by one.
const LEFT_TOLD: usize = 100;
/// Files of a `resources` folder at most: more are no resources of a work file.
const RESOURCES_MAX: usize = 100_000;

/// A file to be copied.
#[derive(Debug)]
struct Source {
    node: Node,
    path: RelPath,
    /// Where it goes, below the work folder's `resources`.
    below: RelPath,
}

/// A copy under way.
#[derive(Debug)]
pub(super) struct Copying<'p> {
    drive: Arc<Inner>,
    fs: DriveFs,
    cx: OpCx,
    progress: &'p watch::Sender<FetchLastProgress>,
    open: Vec<HandleId>,
    /// A file that is not whole yet: its folder and its name.
    half: Option<(Ino, Name)>,
}

impl<'p> Copying<'p> {
    pub(super) fn new(drive: Arc<Inner>, progress: &'p watch::Sender<FetchLastProgress>) -> Self {
        let (uid, gid) = drive.owner;
        Self {
            fs: DriveFs {
                drive: Arc::clone(&drive),
            },
            drive,
            cx: OpCx {
                uid,
                gid,
                pid: std::process::id(),
                kill_privileges: false,
            },
            progress,
            open: Vec::new(),
            half: None,
        }
    }

    /// Carries a plan out.
    pub(super) async fn bring(&mut self, plan: &Plan) -> Result<FetchedWorkfile, WorkfileError> {
        let resources = self.resources(plan).await?;
        let bytes = resources.iter().map(|source| source.node.size).sum::<u64>() + plan.last.file.size;
        self.progress.send_modify(|progress| {
            (progress.files, progress.bytes) = (resources.len() as u64 + 1, bytes);
        });
        let workdir = self.folder(plan, &plan.workdir).await?;
        // Resources first: whoever sees the work file finds all that it needs.
        let (mut came, mut left) = (0, Vec::new());
        for source in resources {
            match self.resource(plan, &source).await? {
                None => came += 1,
                Some(why) if left.len() < LEFT_TOLD => left.push(why),
                Some(_) => {}
            }
        }
        let (workfile, version) = self.workfile(plan, workdir).await?;
        Ok(FetchedWorkfile {
            resources: came,
            left,
            ..fetched(plan, &workfile, version)
        })
    }

    /// Clears away what is not whole.
    pub(super) async fn clear(&mut self) {
        for handle in self.open.drain(..) {
            self.fs.release(handle);
        }
        if let Some((dir, name)) = self.half.take() {
            self.remove(dir, &name).await;
        }
    }

    async fn remove(&self, dir: Ino, name: &Name) {
        let Ok(Some(node)) = self.drive.tree.node(dir) else {
            return;
        };
        let dir_node = self.drive.node_for(&node);
        match self.fs.remove(&self.cx, dir_node, name.as_os_str(), false).await {
            Ok(()) => self.drive.tell_names(dir, &[name]),
            Err(e) if e.kind == FsErrorKind::NotFound => {}
            Err(e) => warn!(%name, error = %e, "half a copy of a work file stays behind"),
        }
    }

    /// Returns all files of the published `resources`.
    async fn resources(&self, plan: &Plan) -> Result<Vec<Source>, WorkfileError> {
        let name = Name::new(RESOURCES)?;
        let found = self.drive.tree.lookup(plan.last.folder, &name)?;
        let Some(top) = found.filter(|node| node.kind == EntryKind::Dir) else {
            return Ok(Vec::new());
        };
        let at = plan.last.path.join(&name);
        let (mut folders, mut files) = (vec![(top.ino, RelPath::default())], Vec::new());
        while let Some((dir, below)) = folders.pop() {
            for child in self.drive.listed(dir).await? {
                let below = below.join(&child.name);
                match child.node.kind {
                    EntryKind::Dir => folders.push((child.node.ino, below)),
                    EntryKind::File => files.push(Source {
                        path: at.concat(&below),
                        node: child.node,
                        below,
                    }),
                    EntryKind::Symlink
                    | EntryKind::Fifo
                    | EntryKind::Socket
                    | EntryKind::CharDevice
                    | EntryKind::BlockDevice => {}
                }
                if files.len() > RESOURCES_MAX {
                    return Err(WorkfileError::File {
                        path: at,
                        why: format!("it holds more than {RESOURCES_MAX} files"),
                    });
                }
            }
        }
        files.sort_by(|a, b| a.below.cmp(&b.below));
        Ok(files)
    }

    /// Returns a folder of the drive, made with those above it where they are not there.
    async fn folder(&mut self, plan: &Plan, path: &RelPath) -> Result<Ino, WorkfileError> {
        let failed = |e: &FsError| WorkfileError::file(path, e);
        let below = path.as_bytes().get(plan.project.folder.len()..).unwrap_or_default();
        let mut dir = plan.project.root;
        for component in RelPath::new(below)?.components() {
            let name = Name::new(component)?;
            let node = match self.drive.known_or_asked(dir, &name).await? {
                Some(node) => node,
                None => {
                    let parent = self.row(dir, path)?;
                    // What is made in a folder belongs to whom the folder belongs to.
                    self.cx.uid = parent.uid.unwrap_or(self.cx.uid);
                    self.cx.gid = parent.gid.unwrap_or(self.cx.gid);
                    let at = self.drive.node_for(&parent);
                    let made = self
                        .fs
                        .create(
                            &self.cx,
                            at,
                            name.as_os_str(),
                            NewNode::Dir,
                            0o755,
                            OpenOptions::default(),
                        )
                        .await;
                    match made {
                        Ok(_) => self.drive.tell_names(dir, &[&name]),
                        Err(e) if e.kind == FsErrorKind::Exists => {}
                        Err(e) => return Err(failed(&e)),
                    }
                    let made = self.drive.tree.lookup(dir, &name)?;
                    made.ok_or_else(|| failed(&FsErrorKind::NotFound.into()))?
                }
            };
            if node.kind != EntryKind::Dir {
                return Err(failed(&FsErrorKind::NotDir.into()));
            }
            dir = node.ino;
        }
        let node = self.row(dir, path)?;
        self.cx.uid = node.uid.unwrap_or(self.drive.owner.0);
        self.cx.gid = node.gid.unwrap_or(self.drive.owner.1);
        Ok(dir)
    }

    fn row(&self, ino: Ino, path: &RelPath) -> Result<Node, WorkfileError> {
        self.drive.row(ino).map_err(|e| WorkfileError::file(path, &e))
    }

    /// Copies a resource; returns what is in its way, if something is.
    async fn resource(&mut self, plan: &Plan, source: &Source) -> Result<Option<LeftResource>, WorkfileError> {
        let path = plan.workdir.join(&Name::new(RESOURCES)?).concat(&source.below);
        let Some((above, name)) = path.split_last() else {
            return Ok(None);
        };
        let left = |why: &str| {
            Ok(Some(LeftResource {
                path: path.to_string(),
                why: why.to_owned(),
            }))
        };
        let dir = match self.folder(plan, &above).await {
            Ok(dir) => dir,
            Err(WorkfileError::File { why, .. }) => return left(&why),
            Err(e) => return Err(e),
        };
        if let Some(there) = self.drive.known_or_asked(dir, &name).await? {
            self.passed(source.node.size);
            let there = self.drive.as_written(there);
            let is_like = there.kind == EntryKind::File && there.size == source.node.size;
            return left(if is_like {
                "one of that name and size is there"
            } else {
                "another one of that name is there"
            });
        }
        let half = half_name(&name)?;
        self.copy(&source.node, &source.path, dir, &half).await?;
        match self.put(dir, &half, &name).await {
            Ok(()) => Ok(None),
            Err(e) if e.kind == FsErrorKind::Exists => {
                self.clear().await;
                left("one of that name came meanwhile")
            }
            Err(e) => Err(WorkfileError::file(&path, &e)),
        }
    }

    /// Copies the work file; returns where it is, and its version.
    async fn workfile(&mut self, plan: &Plan, dir: Ino) -> Result<(RelPath, u32), WorkfileError> {
        let source = plan.last.path.join(&plan.last.name);
        let half = half_name(&plan.last.name)?;
        self.copy(&plan.last.file, &source, dir, &half).await?;
        for _ in 0..NAMES {
            let mut highest = plan.last.highest;
            for child in self.drive.listed(dir).await? {
                let version = Version::in_name(&child.name.to_string());
                if child.name != half {
                    highest = highest.max(version.map_or(0, |version| version.number));
                }
            }
            let number = highest.saturating_add(1);
            let layout = &self.drive.workfiles.layout;
            let name = layout.work_file(&plan.of, &plan.last.published, number);
            let name = name.ok_or_else(|| WorkfileError::File {
                path: plan.workdir.clone(),
                why: "workfiles.work-file names what neither the work folder nor the published file says".to_owned(),
            })?;
            let name = Name::new(name)?;
            match self.put(dir, &half, &name).await {
                Ok(()) => return Ok((plan.workdir.join(&name), number)),
                Err(e) if e.kind == FsErrorKind::Exists => {}
                Err(e) => return Err(WorkfileError::file(&plan.workdir.join(&name), &e)),
            }
        }
        Err(WorkfileError::File {
            path: plan.workdir.clone(),
            why: "somebody else makes work files there faster".to_owned(),
        })
    }

    /// Copies a file to a name that stands for half a file. What an earlier copy left there goes.
    async fn copy(&mut self, of: &Node, path: &RelPath, dir: Ino, half: &Name) -> Result<(), WorkfileError> {
        let failed = |e: FsError| WorkfileError::file(path, &e);
        self.remove(dir, half).await;
        let from = self.drive.node_for(of);
        let read = OpenOptions {
            read: true,
            ..OpenOptions::default()
        };
        let from = self.fs.open(&self.cx, from, read).await.map_err(failed)?.handle;
        self.open.push(from);
        let write = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let at = self.drive.node_for(&self.row(dir, path)?);
        self.half = Some((dir, half.clone()));
        let made = self
            .fs
            .create(&self.cx, at, half.as_os_str(), NewNode::File, 0o644, write)
            .await;
        let (_, opened) = made.map_err(failed)?;
        let to = opened.ok_or_else(|| failed(FsErrorKind::Io.into()))?.handle;
        self.open.push(to);
        let mut done = 0;
        while done < of.size {
            let step = done..(done + STEP).min(of.size);
            let bytes = self.fs.read(&self.cx, from, step).await.map_err(failed)?;
            if bytes.is_empty() {
                return Err(failed(FsErrorKind::RemoteChanged.into()));
            }
            let length = bytes.len() as u64;
            self.fs.write(&self.cx, to, done, bytes).await.map_err(failed)?;
            done += length;
            self.progress.send_modify(|progress| progress.copied_bytes += length);
        }
        self.fs.flush(&self.cx, to).await.map_err(failed)?;
        self.fs.fsync(&self.cx, to, false).await.map_err(failed)?;
        for handle in self.open.drain(..) {
            self.fs.release(handle);
        }
        self.progress.send_modify(|progress| progress.copied_files += 1);
        Ok(())
    }

    /// Gives a copy that is whole its name, if nothing has that.
    async fn put(&mut self, dir: Ino, half: &Name, name: &Name) -> Result<(), FsError> {
        let at = self.drive.node_for(&self.drive.row(dir)?);
        let options = RenameOptions {
            no_replace: true,
            exchange: false,
        };
        self.fs
            .rename(&self.cx, (at, half.as_os_str()), (at, name.as_os_str()), options)
            .await?;
        self.half = None;
        self.drive.tell_names(dir, &[half, name]);
        Ok(())
    }

    /// What need not be copied counts as copied.
    fn passed(&self, bytes: u64) {
        self.progress.send_modify(|progress| {
            progress.copied_files += 1;
            progress.copied_bytes += bytes;
        });
    }
}

/// The name of half a copy: hidden, and the same every time, so that what a crash left is cleared away by the next.
fn half_name(of: &Name) -> Result<Name, WorkfileError> {
    let bytes = of.as_bytes();
    let (before, after) = (b".backlot-", b".part");
    let room = NAME_MAX - before.len() - after.len();
    Ok(Name::new([before, &bytes[..bytes.len().min(room)], after].concat())?)
}
