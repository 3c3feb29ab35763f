//! Bringing what sites hold into the store: whole scans, and a look at single folders that somebody looks at.
//!
//! Owns: the walk, its progress, when to walk again. Refuses to know: the kernel. Invariants: absence is taken only from
//! a listing that ended whole; an interrupted scan goes on where it stopped; nothing here is in the way of a `readdir`
//! of a folder that was listed once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use super::drive::{Inner, LookupError, OpenError, Project, now_ms, remote};
use super::first_look::FirstLooks;
use crate::model::{EntryKind, Ino, RelPath};
use crate::providers::{ErrorKind, ProviderError};
use crate::state::{ListingDiff, Remote, StateError};

/// Folders re-listed at once because somebody looks at them: few, so that browsing never crowds out reading.
const RECHECKS: usize = 4;
/// Re-lists begin at most this often. A person looks at a few folders a second; what looks at thousands is a walk over the
/// tree, which a scan serves better.
const RECHECK_PACE: Duration = Duration::from_millis(50);
/// Looks that wait for their re-list; the oldest make way, as the newest is where somebody is now.
const WAITING_LOOKS: usize = 64;
/// Remembered looks; beyond it the old ones are dropped and at worst a folder is listed once more.
const REMEMBERED_LOOKS: usize = 10_000;
/// Failed folders that a scan reports by name.
const NAMED_FAILURES: usize = 20;

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error("{0}")]
    Provider(#[from] ProviderError),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error(
        "the site shows the project's folder empty, and entries of it are known; that is not believed, as a share that is \
         not mounted looks the same. If it is meant, put any file there"
    )]
    Empty,
    #[error("the daemon is stopping")]
    Stopped,
}

/// How far a scan is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ScanProgress {
    /// The project.
    pub project: String,
    /// The folder it began at, in the drive.
    pub path: String,
    /// Folders listed.
    pub folders: u64,
    /// Folders that an earlier, interrupted scan had listed already.
    pub resumed_folders: u64,
    /// Entries seen.
    pub entries: u64,
    /// Entries that are new, gone or different.
    pub changed: u64,
    /// Folders waiting to be listed.
    pub waiting: u64,
    /// Folders that could not be listed; what was known of them stays.
    pub failures: Vec<String>,
    /// How many those are.
    pub failed: u64,
    /// It has ended.
    pub done: bool,
    /// Why it ended early; run again, it goes on from there.
    pub error: Option<String>,
}

/// A scan that runs or has ended.
#[derive(Debug)]
pub struct ScanJob {
    /// Its number, for asking again.
    pub id: u64,
    root: Ino,
    progress: watch::Sender<ScanProgress>,
}

impl ScanJob {
    /// Returns how far it is.
    pub fn progress(&self) -> ScanProgress {
        self.progress.borrow().clone()
    }

    /// Returns once it has ended.
    pub async fn ended(&self) -> ScanProgress {
        let mut progress = self.progress.subscribe();
        match progress.wait_for(|p| p.done).await {
            Ok(p) => p.clone(),
            Err(_gone) => self.progress(),
        }
    }
}

/// The scans of a drive and the looks at its folders.
#[derive(Debug)]
pub(super) struct Scans {
    next: AtomicU64,
    jobs: Mutex<Vec<Arc<ScanJob>>>,
    looks: Mutex<Looks>,
    rechecks: Semaphore,
    pub(super) first: FirstLooks,
}

/// Folders that somebody looked at.
#[derive(Debug, Default)]
struct Looks {
    /// When last.
    at: HashMap<Ino, Instant>,
    /// Those to be listed again, the newest last.
    waiting: VecDeque<Ino>,
    /// A task takes them from there.
    served: bool,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(1),
            jobs: Mutex::default(),
            looks: Mutex::default(),
            rechecks: Semaphore::new(RECHECKS),
            first: FirstLooks::default(),
        }
    }
}

impl Scans {
    /// Returns the scan that runs in a project.
    pub(super) fn of(&self, root: Ino) -> Option<ScanProgress> {
        self.jobs()
            .iter()
            .filter(|j| j.root == root)
            .map(|j| j.progress())
            .find(|p| !p.done)
    }

    fn jobs(&self) -> MutexGuard<'_, Vec<Arc<ScanJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns a scan by its number, while it is remembered.
    pub fn scan_job(&self, id: u64) -> Option<Arc<ScanJob>> {
        self.scans.jobs().iter().find(|j| j.id == id).cloned()
    }
}

/// Begins scanning what a path of the drive covers: all projects for the root, else one project or a folder of it.
pub(super) fn begin(drive: &Arc<Inner>, path: &RelPath) -> Result<Vec<Arc<ScanJob>>, LookupError> {
    if path.is_root() {
        let projects = drive.projects.clone();
        return Ok(projects.into_iter().map(|p| begin_project(drive, p)).collect());
    }
    if let Some(project) = drive.projects.iter().find(|p| p.folder.as_bytes() == path.as_bytes()) {
        return Ok(vec![begin_project(drive, Arc::clone(project))]);
    }
    let node = drive
        .tree
        .resolve(path)?
        .ok_or_else(|| LookupError::NotFound(path.clone()))?;
    if node.kind != EntryKind::Dir {
        return Err(LookupError::NotDir(path.clone()));
    }
    let shown = path.to_string();
    let Ok((project, path)) = drive.locate(node.ino) else {
        return Err(LookupError::NotFound(path.clone()));
    };
    let job = add_job(drive, &project, shown);
    let (drive, walked) = (Arc::clone(drive), Arc::clone(&job));
    tokio::spawn(async move {
        let result = walk(&drive, &project, (node.ino, path), &walked).await;
        finish(&walked, result);
    });
    Ok(vec![job])
}

/// Begins a whole scan of a project, or joins the one that runs.
fn begin_project(drive: &Arc<Inner>, project: Arc<Project>) -> Arc<ScanJob> {
    let running = drive
        .scans
        .jobs()
        .iter()
        .find(|j| j.root == project.root && is_whole(j, &project))
        .cloned();
    if let Some(job) = running {
        return job;
    }
    let job = add_job(drive, &project, project.folder.clone());
    let (drive, walked) = (Arc::clone(drive), Arc::clone(&job));
    tokio::spawn(async move {
        let result = scan_project(&drive, &project, &walked).await;
        if result.is_err() && !drive.stop.is_cancelled() {
            debug!(project = %project.name, "the scan stopped early");
        }
        finish(&walked, result);
    });
    job
}

fn is_whole(job: &ScanJob, project: &Project) -> bool {
    let p = job.progress.borrow();
    !p.done && p.path == project.folder
}

fn add_job(drive: &Inner, project: &Project, path: String) -> Arc<ScanJob> {
    let job = Arc::new(ScanJob {
        id: drive.scans.next.fetch_add(1, Ordering::Relaxed),
        root: project.root,
        progress: watch::Sender::new(ScanProgress::of(project, path)),
    });
    let mut jobs = drive.scans.jobs();
    // The last few ended ones can still be asked about.
    let ended = jobs.iter().filter(|j| j.progress.borrow().done).count();
    if ended > 32 {
        jobs.retain(|j| !j.progress.borrow().done);
    }
    jobs.push(Arc::clone(&job));
    job
}

fn finish(job: &ScanJob, result: Result<(), ScanError>) {
    job.progress.send_modify(|p| {
        p.done = true;
        p.error = result.err().map(|e| e.to_string());
        match &p.error {
            None => info!(project = %p.project, path = %p.path, folders = p.folders, entries = p.entries,
                changed = p.changed, failed = p.failed, "scanned"),
            Some(error) => warn!(project = %p.project, path = %p.path, folders = p.folders, %error,
                "the scan stopped early; the next one goes on from there"),
        }
    });
}

/// Scans a whole project. Which folders are left is asked of the store, so an interrupted scan goes on by itself.
async fn scan_project(drive: &Arc<Inner>, project: &Arc<Project>, job: &ScanJob) -> Result<(), ScanError> {
    let root = project.root;
    let scan = drive.store.write(move |txn| txn.begin_scan(root, now_ms())).await?;
    let epoch = scan.epoch;
    job.progress.send_modify(|p| p.resumed_folders = scan.folders);
    let mut running = FuturesUnordered::new();
    let mut under_way = HashSet::new();
    loop {
        if running.len() < drive.limits.scan_parallel {
            let ask = drive.limits.scan_parallel + running.len();
            let left = drive.store.read(|txn| txn.next_to_scan(root, epoch, ask))?;
            for dir in left {
                if running.len() < drive.limits.scan_parallel && under_way.insert(dir) {
                    running.push(visit(drive, project, dir, None, Some(epoch)));
                }
            }
        }
        let Some(visited) = next(drive, &mut running).await? else {
            if drive
                .store
                .write(move |txn| txn.finish_scan(root, epoch, now_ms()))
                .await?
            {
                return Ok(());
            }
            continue;
        };
        under_way.remove(&visited.dir);
        let dir = visited.dir;
        if !take_in(visited, job, dir == root)?.listed {
            drive.store.write(move |txn| txn.skip_folder(dir, epoch)).await?;
        }
        job.progress.send_modify(|p| p.waiting = running.len() as u64);
    }
}

/// Lists a folder and those below it, several at a time.
async fn walk(
    drive: &Arc<Inner>,
    project: &Arc<Project>,
    start: (Ino, RelPath),
    job: &ScanJob,
) -> Result<(), ScanError> {
    let first = start.0;
    let mut todo = vec![start];
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < drive.limits.scan_parallel
            && let Some((dir, path)) = todo.pop()
        {
            running.push(visit(drive, project, dir, Some(path), None));
        }
        let Some(visited) = next(drive, &mut running).await? else {
            return Ok(());
        };
        let whole = visited.dir == first;
        todo.extend(take_in(visited, job, whole)?.folders);
        job.progress
            .send_modify(|p| p.waiting = (todo.len() + running.len()) as u64);
    }
}

/// Waits for the next folder, or for the daemon's end.
async fn next<F: Future<Output = Visited>>(
    drive: &Inner,
    running: &mut FuturesUnordered<F>,
) -> Result<Option<Visited>, ScanError> {
    tokio::select! {
        biased;
        () = drive.stop.cancelled() => Err(ScanError::Stopped),
        v = running.next() => Ok(v),
    }
}

/// Counts a folder. One that can't be listed alone is named and passed over; what speaks for the whole site, or for the
/// folder that the scan began at, ends the scan.
fn take_in(visited: Visited, job: &ScanJob, is_start: bool) -> Result<Taken, ScanError> {
    match visited.outcome {
        Ok(visit) => {
            job.progress.send_modify(|p| {
                p.folders += 1;
                p.entries += visit.entries;
                p.changed += visit.changed;
            });
            Ok(Taken {
                listed: true,
                folders: visit.folders,
            })
        }
        Err(e) if is_start => Err(e),
        // A folder that went away since its own folder was listed: that one's next listing tells.
        Err(ScanError::Provider(e)) if e.kind == ErrorKind::NotFound => Ok(Taken::default()),
        Err(ScanError::State(StateError::NoSuchNode(_))) | Err(ScanError::Open(OpenError::NoProject(_))) => {
            Ok(Taken::default())
        }
        Err(ScanError::Provider(e)) if !e.is_link_failure() && e.kind != ErrorKind::Auth => {
            warn!(path = %visited.path, error = %e, "not listed; what was known of this folder stays");
            job.progress.send_modify(|p| {
                p.failed += 1;
                if p.failures.len() < NAMED_FAILURES {
                    p.failures.push(e.to_string());
                }
            });
            Ok(Taken::default())
        }
        Err(e) => Err(e),
    }
}

#[derive(Default)]
struct Taken {
    listed: bool,
    folders: Vec<(Ino, RelPath)>,
}

struct Visited {
    dir: Ino,
    path: RelPath,
    outcome: Result<Visit, ScanError>,
}

struct Visit {
    entries: u64,
    changed: u64,
    folders: Vec<(Ino, RelPath)>,
}

async fn visit(
    drive: &Arc<Inner>,
    project: &Arc<Project>,
    dir: Ino,
    path: Option<RelPath>,
    epoch: Option<u64>,
) -> Visited {
    let path = match path.map_or_else(|| drive.locate(dir).map(|(_, path)| path), Ok) {
        Ok(path) => path,
        Err(e) => {
            return Visited {
                dir,
                path: RelPath::root(),
                outcome: Err(e.into()),
            };
        }
    };
    let outcome = list_into_store(drive, project, dir, &path, epoch)
        .await
        .map(|(entries, diff)| Visit {
            entries,
            changed: diff.size(),
            folders: diff
                .subfolders
                .iter()
                .map(|(name, ino)| (*ino, path.join(name)))
                .collect(),
        });
    Visited { dir, path, outcome }
}

/// Lists one folder at its site and, if the listing ended whole, makes the store agree with it.
async fn list_into_store(
    drive: &Arc<Inner>,
    project: &Arc<Project>,
    dir: Ino,
    path: &RelPath,
    epoch: Option<u64>,
) -> Result<(u64, ListingDiff), ScanError> {
    // What is changed here from now on, the listing can't know.
    let began = drive.store.moment()?;
    let mut listed: Vec<Remote> = Vec::new();
    let mut stream = project.site.provider().list(path);
    while let Some(row) = stream.next().await {
        match row {
            Ok(row) => listed.push(remote(row)),
            Err(e) => {
                project.site.link().failed(&e);
                return Err(e.into());
            }
        }
    }
    drop(stream);
    project.site.link().answered();
    if dir == project.root && listed.is_empty() && !drive.tree.children(dir, 0, 1)?.is_empty() {
        return Err(ScanError::Empty);
    }
    let entries = listed.len() as u64;
    let doubts = Arc::clone(&drive.doubts);
    let diff = drive
        .store
        .write(move |txn| {
            txn.apply_listing(dir, &listed, epoch, began, now_ms())
                .inspect(|diff| doubts.note(diff))
        })
        .await?;
    drive.announce(&diff);
    Ok((entries, diff))
}

/// Lists a folder again in the background if its listing is older than the settings allow.
pub(super) fn recheck_if_old(drive: &Arc<Inner>, dir: Ino) {
    let max_age = drive.limits.recheck_after;
    let mut looks = drive.scans.looks.lock().unwrap_or_else(PoisonError::into_inner);
    if looks.at.get(&dir).is_some_and(|at| at.elapsed() < max_age) {
        return;
    }
    if looks.at.len() >= REMEMBERED_LOOKS {
        looks.at.retain(|_, at| at.elapsed() < max_age);
        if looks.at.len() >= REMEMBERED_LOOKS {
            return;
        }
    }
    looks.at.insert(dir, Instant::now());
    looks.waiting.push_back(dir);
    if looks.waiting.len() > WAITING_LOOKS {
        looks.waiting.pop_front();
    }
    if !looks.served {
        looks.served = true;
        tokio::spawn(serve_looks(Arc::clone(drive)));
    }
}

async fn serve_looks(drive: Arc<Inner>) {
    loop {
        let next = {
            let mut looks = drive.scans.looks.lock().unwrap_or_else(PoisonError::into_inner);
            let next = looks.waiting.pop_back();
            looks.served = next.is_some();
            next
        };
        let Some(dir) = next else { return };
        let drive = Arc::clone(&drive);
        tokio::spawn(async move {
            if let Err(e) = recheck(&drive, dir, drive.limits.recheck_after).await {
                debug!(%dir, error = %e, "the folder was not listed again");
            }
        });
        tokio::time::sleep(RECHECK_PACE).await;
    }
}

/// Lists a folder now, for somebody who waits for it. What can't be had is not: then what is known counts.
pub(super) async fn look_now(drive: &Arc<Inner>, dir: Ino) {
    let Ok((project, path)) = drive.locate(dir) else {
        return;
    };
    let is_own = drive.tree.node(dir).is_ok_and(|node| node.is_none_or(|node| node.own));
    if is_own || project.site.link().is_down() {
        return;
    }
    let _turn = drive.scans.rechecks.acquire().await;
    if let Err(e) = list_into_store(drive, &project, dir, &path, None).await {
        debug!(%path, error = %e, "the folder was not listed");
    }
}

async fn recheck(drive: &Arc<Inner>, dir: Ino, max_age: Duration) -> Result<(), ScanError> {
    let Ok((project, path)) = drive.locate(dir) else {
        return Ok(());
    };
    if project.site.link().is_down() {
        return Ok(());
    }
    let Some(node) = drive.tree.node(dir)? else {
        return Ok(());
    };
    if node.own {
        return Ok(());
    }
    // A scan that runs gets to every folder; only one that nothing is known of is worth a list of its own.
    let scanning = drive.scans.of(project.root).is_some();
    let mut new: Vec<(Ino, RelPath)> = Vec::new();
    if node.listed_at_ms.is_none() {
        // Whoever wants to see what is in it joins this.
        drive.first_look(dir).await?;
        if !scanning {
            let children = drive.tree.children(dir, 0, usize::MAX)?.into_iter();
            let folders = children.filter(|child| child.node.kind == EntryKind::Dir && !child.node.own);
            new.extend(folders.map(|child| (child.node.ino, path.join(&child.name))));
        }
    } else if scanning || node.listed_at_ms.is_some_and(|at| is_fresh(at, now_ms(), max_age)) {
        return Ok(());
    } else {
        let _turn = drive.scans.rechecks.acquire().await;
        let (_, diff) = list_into_store(drive, &project, dir, &path, None).await?;
        let added = |ino: &Ino| diff.added.iter().any(|(_, added)| added == ino);
        let folders = diff.subfolders.iter().filter(|(_, ino)| added(ino));
        new.extend(folders.map(|(name, ino)| (*ino, path.join(name))));
    }
    // A folder that is new here has never been listed: go on into it, so that nobody has to wait for it.
    for (ino, below) in new {
        let job = ScanJob {
            id: 0,
            root: project.root,
            progress: watch::Sender::new(ScanProgress::of(&project, below.to_string())),
        };
        walk(drive, &project, (ino, below), &job).await?;
    }
    Ok(())
}

/// Says whether what was listed then need not be listed again. A time to come is none: the clock was wrong then, or is now.
fn is_fresh(listed_at_ms: i64, now_ms: i64, max_age: Duration) -> bool {
    u64::try_from(now_ms.saturating_sub(listed_at_ms)).is_ok_and(|age| u128::from(age) < max_age.as_millis())
}

impl ScanProgress {
    fn of(project: &Project, path: String) -> Self {
        Self {
            project: project.name.0.clone(),
            path,
            folders: 0,
            resumed_folders: 0,
            entries: 0,
            changed: 0,
            waiting: 1,
            failures: Vec::new(),
            failed: 0,
            done: false,
            error: None,
        }
    }
}

/// Scans a project when it never was, then again and again at its interval, while its site answers.
pub(super) async fn keep_scanned(drive: Weak<Inner>, project: Arc<Project>) {
    loop {
        let wait = {
            let Some(drive) = drive.upgrade() else { return };
            if drive.stop.is_cancelled() {
                return;
            }
            match drive.store.read(|txn| txn.finished_scan(project.root)) {
                Ok(record) => match record.and_then(|r| r.finished_ms) {
                    Some(at) => {
                        let age = Duration::from_millis(u64::try_from(now_ms() - at).unwrap_or(0));
                        project.scan_interval.saturating_sub(age)
                    }
                    None => Duration::ZERO,
                },
                Err(e) => {
                    warn!(project = %project.name, error = %e, "can't tell when the project was last scanned");
                    project.scan_interval
                }
            }
        };
        let Some(stop) = drive.upgrade().map(|d| d.stop.clone()) else {
            return;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let Some(held) = drive.upgrade() else { return };
        if !project.site.link().is_down() {
            let ended = begin_project(&held, Arc::clone(&project)).ended().await;
            if ended.error.is_none() {
                continue;
            }
        }
        // The site does not answer: wait for it, or for a minute in case it was something else.
        let mut link = project.site.link().watch();
        drop(held);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = link.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_of_a_time_to_come_is_not_fresh() {
        let age = Duration::from_secs(30);
        assert!(is_fresh(1000, 1000, age) && is_fresh(1000, 30_999, age));
        assert!(!is_fresh(1000, 31_000, age));
        // Listed while the clock was a year ahead.
        assert!(!is_fresh(31_536_000_000, 1000, age));
        assert!(!is_fresh(i64::MAX, i64::MIN, age));
    }
}
