//! Bringing the last published work file of a task into its work folder, as AYON's prelaunch hook does.
//!
//! Owns: which file that is, and what it is called there. Refuses to know: which program will open it. Invariants: nothing
//! that is in the work folder is overwritten; a name appears there once all of its bytes do; one fetch for a folder at a
//! time.

mod copy;
mod layout;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backlot_platform::error::FsError;
use tokio::sync::watch;
use tracing::{info, warn};

use super::drive::{Drive, Inner, LookupError, Project};
use super::report::{FetchLastProgress, FetchLastRequest, FetchedWorkfile};
use crate::model::{EntryKind, Ino, Name, PathError, RelPath};
use crate::state::{Child, Node, StateError};
use copy::Copying;
use layout::{Layout, PublishedName, Version, WorkFolder};

/// Fetches that are remembered.
const REMEMBERED: usize = 64;
/// Names of one question to the store.
const PAGE: usize = 1000;
/// Names that an error shows.
const SHOWN: usize = 5;
/// The folder of what a work file needs, beside it.
const RESOURCES: &str = "resources";

/// Why no work file can be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WorkfileError {
    /// In no project.
    #[error("{0} lies in no project of this drive")]
    NoProject(RelPath),
    /// Not a task's work folder.
    #[error("{path} is no task's work folder: by the settings that is `{layout}` inside its project")]
    NotWork {
        /// What was given.
        path: RelPath,
        /// What a work folder looks like.
        layout: String,
    },
    /// Nothing was published.
    #[error("nothing is published for {workdir}: there is no version in {folder}")]
    NotPublished {
        /// The work folder.
        workdir: RelPath,
        /// Where it was looked for.
        folder: RelPath,
    },
    /// Versions, and no work file in any.
    #[error("no version in {folder} holds a file that is called `{layout}`{}{}", with_ext(.ext.as_deref()), listed(.names))]
    NoFile {
        /// Where it was looked for.
        folder: RelPath,
        /// What it would be called.
        layout: String,
        /// The extension that was asked for.
        ext: Option<String>,
        /// What is in the newest version.
        names: Vec<String>,
    },
    /// Several that it could be.
    #[error("{folder} holds several work files: {}", .names.join(", "))]
    Several {
        /// The version's folder.
        folder: RelPath,
        /// Their names.
        names: Vec<String>,
    },
    /// Somebody else is at it.
    #[error("a work file is being fetched into {0} already")]
    Busy(RelPath),
    /// A path that is not in the drive.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Not a path of the drive.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file operation failed.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: RelPath,
        /// What failed.
        why: String,
    },
    /// It took too long.
    #[error("it took longer than {0:?}; the work folder is as it was, but for resources that had come already")]
    TooLong(Duration),
    /// The daemon ends.
    #[error("the daemon ends")]
    Ends,
}

fn with_ext(ext: Option<&str>) -> String {
    ext.map(|ext| format!(" with the extension {ext}")).unwrap_or_default()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("; the newest holds {}", names.join(", "))
}

impl WorkfileError {
    fn file(path: &RelPath, error: &FsError) -> Self {
        let cause = std::error::Error::source(error);
        Self::File {
            path: path.clone(),
            why: cause.map_or_else(|| error.to_string(), ToString::to_string),
        }
    }
}

/// A fetch.
#[derive(Debug)]
pub struct Fetch {
    /// Its number, for asking again.
    pub id: u64,
    progress: watch::Sender<FetchLastProgress>,
}

impl Fetch {
    /// Returns how far it is.
    pub fn progress(&self) -> FetchLastProgress {
        self.progress.borrow().clone()
    }
}

/// The work files of a drive.
#[derive(Debug)]
pub(super) struct Workfiles {
    layout: Layout,
    next: AtomicU64,
    fetches: Mutex<VecDeque<Arc<Fetch>>>,
    busy: Mutex<HashSet<RelPath>>,
}

impl Workfiles {
    pub(super) fn new(settings: &backlot_config::Workfiles) -> Self {
        Self {
            layout: Layout::new(settings),
            next: AtomicU64::new(0),
            fetches: Mutex::default(),
            busy: Mutex::default(),
        }
    }

    fn fetches(&self) -> MutexGuard<'_, VecDeque<Arc<Fetch>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<RelPath>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A folder that is being fetched into, until this is dropped.
#[derive(Debug)]
struct Turn {
    drive: Arc<Inner>,
    workdir: RelPath,
}

impl Turn {
    fn take(drive: &Arc<Inner>, workdir: &RelPath) -> Result<Self, WorkfileError> {
        if !drive.workfiles.busy().insert(workdir.clone()) {
            return Err(WorkfileError::Busy(workdir.clone()));
        }
        Ok(Self {
            drive: Arc::clone(drive),
            workdir: workdir.clone(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.drive.workfiles.busy().remove(&self.workdir);
    }
}

/// The last published work file of a task.
#[derive(Debug)]
struct Last {
    /// The version's folder.
    folder: Ino,
    /// The same as a path of the drive.
    path: RelPath,
    file: Node,
    name: Name,
    published: PublishedName,
    /// Number of the newest version, whatever is in it.
    highest: u32,
    passed_over: Vec<String>,
}

/// What is to be done.
#[derive(Debug)]
struct Plan {
    project: Arc<Project>,
    workdir: RelPath,
    of: WorkFolder,
    last: Last,
    offline: bool,
}

impl Inner {
    /// Returns a fetch by its number, while it is remembered.
    pub fn workfile_fetch(&self, id: u64) -> Option<Arc<Fetch>> {
        self.workfiles.fetches().iter().find(|fetch| fetch.id == id).cloned()
    }

    /// Returns a name of a folder, asking the site for one that is not known.
    async fn known_or_asked(self: &Arc<Self>, dir: Ino, name: &Name) -> Result<Option<Node>, StateError> {
        if let Some(node) = self.tree.lookup(dir, name)? {
            return Ok(Some(node));
        }
        self.refresh_name(dir, name).await;
        self.tree.lookup(dir, name)
    }

    /// Returns all names in a folder, once the site was asked for them.
    async fn listed(self: &Arc<Self>, dir: Ino) -> Result<Vec<Child>, StateError> {
        let looked = super::scan::look_now(self, dir);
        drop(tokio::time::timeout(self.limits.read_deadline, looked).await);
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = self.tree.children(dir, after, PAGE)?;
            let Some(last) = page.last() else { return Ok(all) };
            after = last.cookie;
            all.extend(page);
        }
    }

    async fn planned(self: &Arc<Self>, request: &FetchLastRequest) -> Result<Plan, WorkfileError> {
        let workdir = RelPath::new(&request.workdir)?;
        let found = self.find_project(&workdir);
        let (project, below) = found.ok_or_else(|| WorkfileError::NoProject(workdir.clone()))?;
        let layout = &self.workfiles.layout;
        let not_work = || WorkfileError::NotWork {
            path: workdir.clone(),
            layout: layout.work_shown().to_owned(),
        };
        let of = layout.work_folder(&below.to_string()).ok_or_else(not_work)?;
        let publish = RelPath::new(layout.publish_folder(&of).ok_or_else(not_work)?)?;
        let folder = project.folder_path().concat(&publish);
        let mut dir = project.root;
        for component in publish.components() {
            let name = Name::new(component)?;
            match self.known_or_asked(dir, &name).await? {
                Some(node) if node.kind == EntryKind::Dir => dir = node.ino,
                Some(_) | None => return Err(WorkfileError::NotPublished { workdir, folder }),
            }
        }
        let wanted = self.wanted_ext(&workdir, request)?;
        let last = self.last_published(&of, dir, &folder, &workdir, &wanted).await?;
        // Said last: the look itself may have found that out.
        let offline = project.site.link().is_down();
        Ok(Plan {
            project,
            workdir,
            of,
            last,
            offline,
        })
    }

    /// Returns the extension that was asked for; else that of the work files that are there, if they have one.
    fn wanted_ext(&self, workdir: &RelPath, request: &FetchLastRequest) -> Result<Wanted, StateError> {
        if let Some(ext) = &request.ext {
            return Ok(Wanted::Only(ext.trim_start_matches('.').to_owned()));
        }
        let Some(dir) = self.tree.resolve(workdir)?.filter(|node| node.kind == EntryKind::Dir) else {
            return Ok(Wanted::Any);
        };
        let mut exts = HashSet::new();
        for child in self.tree.children(dir.ino, 0, PAGE)? {
            let name = child.name.to_string();
            if Version::in_name(&name).is_some()
                && let Some((_, ext)) = name.rsplit_once('.')
            {
                exts.insert(ext.to_owned());
            }
        }
        Ok(Wanted::Rather(exts))
    }

    async fn last_published(
        self: &Arc<Self>,
        of: &WorkFolder,
        dir: Ino,
        folder: &RelPath,
        workdir: &RelPath,
        wanted: &Wanted,
    ) -> Result<Last, WorkfileError> {
        let mut versions = Vec::new();
        for child in self.listed(dir).await? {
            if child.node.kind == EntryKind::Dir
                && let Some(version) = Version::of(&child.name.to_string())
            {
                versions.push((version.number, child));
            }
        }
        versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        if versions.is_empty() {
            let (workdir, folder) = (workdir.clone(), folder.clone());
            return Err(WorkfileError::NotPublished { workdir, folder });
        }
        let highest = versions[0].0;
        let (mut passed_over, mut newest) = (Vec::new(), None);
        for (number, version) in versions {
            let path = folder.join(&version.name);
            let mut found = Vec::new();
            let mut names = Vec::new();
            for child in self.listed(version.node.ino).await? {
                let name = child.name.to_string();
                let published = self.workfiles.layout.published_name(of, &name);
                if child.node.kind == EntryKind::File
                    && let Some(published) = published.filter(|name| name.version.number == number)
                    && wanted.lets(&published.ext)
                {
                    found.push((child, published));
                }
                names.push(name);
            }
            if found.len() > 1 {
                found = wanted.choose(found);
            }
            if found.len() > 1 {
                let mut names: Vec<_> = found.iter().map(|(child, _)| child.name.to_string()).collect();
                names.sort();
                return Err(WorkfileError::Several { folder: path, names });
            }
            if let Some((child, published)) = found.pop() {
                return Ok(Last {
                    folder: version.node.ino,
                    path,
                    file: child.node,
                    name: child.name,
                    published,
                    highest,
                    passed_over,
                });
            }
            names.sort();
            names.truncate(SHOWN);
            newest.get_or_insert(names);
            passed_over.push(version.name.to_string());
        }
        Err(WorkfileError::NoFile {
            folder: folder.clone(),
            layout: self.workfiles.layout.publish_file_shown().to_owned(),
            ext: wanted.only(),
            names: newest.unwrap_or_default(),
        })
    }
}

/// Which extensions are wanted.
#[derive(Debug)]
enum Wanted {
    Only(String),
    /// These, where there are several.
    Rather(HashSet<String>),
    Any,
}

impl Wanted {
    fn lets(&self, ext: &str) -> bool {
        match self {
            Self::Only(only) => only.eq_ignore_ascii_case(ext),
            Self::Rather(_) | Self::Any => true,
        }
    }

    fn choose(&self, mut found: Vec<(Child, PublishedName)>) -> Vec<(Child, PublishedName)> {
        if let Self::Rather(exts) = self
            && found.iter().any(|(_, published)| exts.contains(&published.ext))
        {
            found.retain(|(_, published)| exts.contains(&published.ext));
        }
        found
    }

    fn only(&self) -> Option<String> {
        match self {
            Self::Only(ext) => Some(ext.clone()),
            Self::Rather(_) | Self::Any => None,
        }
    }
}

impl Drive {
    /// Finds the last published work file of a task and begins to bring it, and its resources, into the work folder.
    ///
    /// # Errors
    /// See [`WorkfileError`]; nothing was changed.
    pub async fn fetch_last_workfile(&self, request: &FetchLastRequest) -> Result<Arc<Fetch>, WorkfileError> {
        let workdir = RelPath::new(&request.workdir)?;
        let turn = Turn::take(self.inner(), &workdir)?;
        let plan = self.inner().planned(request).await?;
        let all = &self.workfiles;
        let fetch = Arc::new(Fetch {
            id: all.next.fetch_add(1, Ordering::Relaxed) + 1,
            progress: watch::Sender::new(FetchLastProgress::default()),
        });
        {
            let mut fetches = all.fetches();
            fetches.push_back(Arc::clone(&fetch));
            if fetches.len() > REMEMBERED
                && let Some(at) = fetches.iter().position(|fetch| fetch.progress.borrow().done)
            {
                drop(fetches.remove(at));
            }
        }
        let limit = request.timeout_ms.map(Duration::from_millis);
        tokio::spawn(run(Arc::clone(self.inner()), Arc::clone(&fetch), plan, limit, turn));
        Ok(fetch)
    }
}

async fn run(drive: Arc<Inner>, fetch: Arc<Fetch>, plan: Plan, limit: Option<Duration>, turn: Turn) {
    let stop = drive.stop.clone();
    let too_long = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut copying = Copying::new(Arc::clone(&drive), &fetch.progress);
    let brought = tokio::select! {
        brought = Box::pin(copying.bring(&plan)) => brought,
        () = too_long => Err(WorkfileError::TooLong(limit.unwrap_or_default())),
        () = stop.cancelled() => Err(WorkfileError::Ends),
    };
    // What was half copied goes again, however it ended.
    copying.clear().await;
    drop(turn);
    match &brought {
        Ok(fetched) => info!(
            workfile = fetched.workfile,
            published = fetched.published,
            "the last work file was fetched"
        ),
        Err(e) => warn!(workdir = %plan.workdir, error = %e, "no work file was fetched"),
    }
    fetch.progress.send_modify(|progress| {
        progress.done = true;
        match brought {
            Ok(fetched) => progress.fetched = Some(fetched),
            Err(e) => progress.error = Some(e.to_string()),
        }
    });
}

/// What is told of a plan that was carried out.
fn fetched(plan: &Plan, workfile: &RelPath, version: u32) -> FetchedWorkfile {
    FetchedWorkfile {
        workfile: workfile.to_string(),
        version,
        published: plan.last.path.join(&plan.last.name).to_string(),
        published_version: plan.last.published.version.number,
        passed_over: plan.last.passed_over.clone(),
        resources: 0,
        left: Vec::new(),
        offline: plan.offline,
    }
}
