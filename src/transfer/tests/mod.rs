//! Transfers against sites in memory and on disk, with a desk over a temporary folder and a process that can die anywhere.

mod copies;
mod crash;
mod faults;
mod plain;
mod steps;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::steps::{StepLayer, Steps};
use super::{DeleteOutcome, Desk, Frozen, Lane, LaneLink, Options, Prepared, Transfers, now_ms};
use crate::model::{Ino, Name, ProjectName, RelPath, SiteName, Version};
use crate::providers::layers::{Faults, FlakyLayer, Layer};
use crate::providers::local::LocalSite;
use crate::providers::memory::MemorySite;
use crate::providers::{Provider, ProviderError};
use crate::state::{
    NewDelete, NewProject, NewSend, QueueCounts, StateError, StateStore, Task, TaskFilter, TaskId, WriteTxn,
};

const PART: usize = 1000;
/// A test that is not done after this hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// Where a file of the project is at the site.
fn at_site(name: &Name) -> RelPath {
    path("p").join(name)
}

/// What the desk was told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Committed(RelPath, u64),
    Ours(RelPath, u64),
    Conflict(RelPath, Option<Version>),
    Deleted(RelPath, DeleteOutcome),
}

/// A drive in miniature: files in one folder, each in an object of its own.
#[derive(Debug)]
struct Studio {
    store: StateStore,
    root: Ino,
    home: PathBuf,
    steps: Arc<Steps>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<Name, Ino>,
    files: HashMap<Ino, Kept>,
    bases: BTreeMap<RelPath, Version>,
    told: Vec<Told>,
    next: u64,
    /// Not closed yet: asked for again soon.
    open: bool,
    /// What `prepare` says instead, once each.
    instead: Vec<Prepared>,
    /// How often it panics instead.
    panics: u32,
}

#[derive(Debug)]
struct Kept {
    generation: u64,
    size: u64,
    mtime_ns: i64,
    changed: CancellationToken,
}

impl Studio {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, ino: Ino) -> PathBuf {
        self.home.join(format!("object-{ino}"))
    }

    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> T {
        self.store.write(f).await.unwrap()
    }

    fn new_send(&self, of: &Name, ino: Ino) -> NewSend {
        let inner = self.lock();
        let kept = &inner.files[&ino];
        NewSend {
            root: self.root,
            parent: self.root,
            name: of.clone(),
            ino,
            generation: kept.generation,
            size: kept.size,
            due_ms: now_ms(),
            source: SiteName("here".to_owned()),
            target: SiteName("studio".to_owned()),
        }
    }

    fn mtime_ns(&self, of: &str) -> i64 {
        let inner = self.lock();
        inner.files[&inner.names[&name(of)]].mtime_ns
    }

    /// Writes a file in place, as a user would, and closes it.
    async fn save(&self, of: &str, bytes: &[u8]) -> TaskId {
        let of = name(of);
        let ino = {
            let mut inner = self.lock();
            inner.next += 1;
            let number = inner.next;
            let ino = *inner.names.entry(of.clone()).or_insert(Ino(1000 + number));
            let generation = inner.files.get(&ino).map_or(0, |kept| {
                kept.changed.cancel();
                kept.generation
            });
            fs::write(self.object(ino), bytes).unwrap();
            let kept = Kept {
                generation: generation + 1,
                size: bytes.len() as u64,
                mtime_ns: 1_700_000_000_000_000_000 + i64::try_from(number).unwrap() * 1_000_000_007,
                changed: CancellationToken::new(),
            };
            inner.files.insert(ino, kept);
            ino
        };
        let send = self.new_send(&of, ino);
        self.run(move |txn| txn.queue_send(&send, now_ms())).await
    }

    async fn rename(&self, from: &str, to: &str) {
        let (from, to) = (name(from), name(to));
        let ino = {
            let mut inner = self.lock();
            let ino = inner.names.remove(&from).unwrap();
            if let Some(over) = inner.names.insert(to.clone(), ino) {
                inner.files.remove(&over).unwrap().changed.cancel();
            }
            let kept = inner.files.get_mut(&ino).unwrap();
            kept.changed.cancel();
            kept.changed = CancellationToken::new();
            ino
        };
        let (root, send) = (self.root, self.new_send(&to, ino));
        self.run(move |txn| {
            if !txn.move_send((root, &from), (root, &to))? {
                txn.drop_send(root, &to)?;
                txn.queue_send(&send, now_ms())?;
            }
            Ok(())
        })
        .await;
    }

    async fn unlink(&self, of: &str) {
        let of = name(of);
        {
            let mut inner = self.lock();
            let ino = inner.names.remove(&of).unwrap();
            inner.files.remove(&ino).unwrap().changed.cancel();
        }
        let root = self.root;
        self.run(move |txn| txn.drop_send(root, &of)).await;
    }

    async fn delete(&self, of: &str, version: Option<Version>, folder: bool) -> TaskId {
        let delete = NewDelete {
            root: self.root,
            path: path(of),
            version,
            folder,
            due_ms: now_ms(),
            source: SiteName("here".to_owned()),
            target: SiteName("studio".to_owned()),
        };
        self.run(move |txn| txn.queue_delete(&delete, now_ms())).await
    }

    fn told(&self) -> Vec<Told> {
        self.lock().told.clone()
    }
}

#[async_trait]
impl Desk for Studio {
    async fn prepare(&self, task: &Task) -> Prepared {
        self.steps.pass().await;
        let mut inner = self.lock();
        if let Some(instead) = inner.instead.pop() {
            return instead;
        }
        if inner.panics > 0 {
            inner.panics -= 1;
            panic!("on purpose");
        }
        if let Some(below) = &task.path {
            return Prepared::Delete {
                path: path("p").concat(below),
            };
        }
        if inner.open {
            return Prepared::NotYet(Duration::from_millis(5));
        }
        let of = task.name.clone().unwrap();
        let Some(ino) = inner.names.get(&of).copied().filter(|ino| Some(*ino) == task.ino) else {
            return Prepared::Gone;
        };
        let kept = &inner.files[&ino];
        let file = File::open(self.object(ino)).unwrap();
        let meta = file.metadata().unwrap();
        let path = at_site(&of);
        Prepared::Send(Frozen {
            bytes: (kept.size > 0).then(|| Arc::new(file)),
            from: None,
            size: kept.size,
            mtime_ns: kept.mtime_ns,
            perm: Some(0o640),
            generation: kept.generation,
            base: inner.bases.get(&path).cloned(),
            path,
            object_mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            changed: kept.changed.clone(),
        })
    }

    async fn committed(&self, task: &Task, sent: &Frozen, version: Version) -> Result<(), StateError> {
        self.steps.pass().await;
        let task = task.clone();
        {
            let mut inner = self.lock();
            inner.bases.insert(sent.path.clone(), version);
            inner.told.push(Told::Committed(sent.path.clone(), sent.generation));
        }
        self.store.write(move |txn| txn.finish_task(&task)).await?;
        self.steps.pass().await;
        Ok(())
    }

    async fn ours_is_there(
        &self,
        _: &Task,
        path: &RelPath,
        version: Version,
        generation: u64,
        _: Option<&Version>,
    ) -> Result<(), StateError> {
        self.steps.pass().await;
        {
            let mut inner = self.lock();
            inner.bases.insert(path.clone(), version);
            inner.told.push(Told::Ours(path.clone(), generation));
        }
        self.steps.pass().await;
        Ok(())
    }

    async fn conflict(&self, task: &Task, sent: &Frozen, theirs: Option<Version>) -> Result<(), StateError> {
        self.steps.pass().await;
        let of = task.name.clone().unwrap();
        let to = Name::new([of.as_bytes(), b".conflict"].concat()).unwrap();
        {
            let mut inner = self.lock();
            inner.told.push(Told::Conflict(sent.path.clone(), theirs.clone()));
            if let Some(theirs) = theirs {
                inner.bases.insert(sent.path.clone(), theirs);
            }
            if let Some(ino) = inner.names.remove(&of) {
                inner.names.insert(to.clone(), ino);
            }
        }
        let root = self.root;
        self.store
            .write(move |txn| txn.move_send((root, &of), (root, &to)))
            .await?;
        self.steps.pass().await;
        Ok(())
    }

    async fn deleted(&self, task: &Task, outcome: DeleteOutcome) -> Result<(), StateError> {
        self.steps.pass().await;
        let task = task.clone();
        {
            let mut inner = self.lock();
            inner.told.push(Told::Deleted(task.path.clone().unwrap(), outcome));
        }
        self.store.write(move |txn| txn.finish_task(&task)).await?;
        self.steps.pass().await;
        Ok(())
    }
}

/// A link that comes back by itself a moment after it failed.
#[derive(Debug)]
struct TestLink {
    down: watch::Sender<bool>,
    failures: watch::Sender<u64>,
    back_after: Duration,
}

#[async_trait]
impl LaneLink for TestLink {
    fn is_down(&self) -> bool {
        *self.down.borrow()
    }
    async fn up(&self) {
        drop(self.down.subscribe().wait_for(|down| !down).await);
    }
    fn answered(&self) {}
    fn failed(&self, error: &ProviderError) {
        if error.is_link_failure() {
            self.failures.send_modify(|count| *count += 1);
            self.down.send_replace(true);
            let (down, after) = (self.down.clone(), self.back_after);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                down.send_replace(false);
            });
        }
    }
}

/// Where files are sent.
#[derive(Clone, Debug)]
enum Place {
    Memory(MemorySite),
    Disk(PathBuf, Arc<LocalSite>),
}

impl Place {
    fn provider(&self) -> Arc<dyn Provider> {
        match self {
            Self::Memory(site) => Arc::new(site.clone()),
            Self::Disk(_, site) => Arc::clone(site) as Arc<dyn Provider>,
        }
    }

    fn get(&self, of: &str) -> Option<Vec<u8>> {
        match self {
            Self::Memory(site) => site.get(&path("p").join(&name(of))).map(|bytes| bytes.to_vec()),
            Self::Disk(root, _) => fs::read(root.join("p").join(of)).ok(),
        }
    }

    /// Puts a file as somebody else would.
    fn put(&self, of: &str, bytes: &[u8]) {
        match self {
            Self::Memory(site) => drop(site.put(&path("p").join(&name(of)), bytes.to_vec()).unwrap()),
            Self::Disk(root, _) => {
                fs::create_dir_all(root.join("p")).unwrap();
                fs::write(root.join("p").join(of), bytes).unwrap();
            }
        }
    }

    fn remove(&self, of: &str) {
        match self {
            Self::Memory(site) => site.remove(&path("p").join(&name(of))),
            Self::Disk(root, _) => fs::remove_file(root.join("p").join(of)).unwrap(),
        }
    }

    /// Everything in the project's folder, temporary files too.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = match self {
            Self::Memory(site) => {
                let names = site.names(&path("p")).into_iter().map(|name| name.to_string());
                names
                    .chain((0..site.uploads_under_way()).map(|i| format!("upload {i}")))
                    .collect()
            }
            Self::Disk(root, _) => {
                let rows = fs::read_dir(root.join("p")).into_iter().flatten();
                rows.map(|row| row.unwrap().file_name().into_string().unwrap())
                    .collect()
            }
        };
        names.sort();
        names
    }
}

struct Fixture {
    studio: Arc<Studio>,
    place: Place,
    faults: Arc<Faults>,
    link: Arc<TestLink>,
    options: Options,
    stop: CancellationToken,
    _home: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::at(|_| Place::Memory(MemorySite::new())).await
    }

    async fn on_disk() -> Self {
        Self::at(|home| {
            let root = home.join("site");
            fs::create_dir_all(&root).unwrap();
            let site = LocalSite::new(&root, None, Duration::from_secs(5));
            Place::Disk(root, Arc::new(site))
        })
        .await
    }

    async fn at(place: impl FnOnce(&std::path::Path) -> Place) -> Self {
        let home = TempDir::new().unwrap();
        let store = StateStore::open(&home.path().join("state")).unwrap();
        let project = NewProject {
            name: ProjectName("demo".to_owned()),
            folder: name("demo"),
            remote_site: SiteName("studio".to_owned()),
            remote_path: path("p"),
        };
        let root = store
            .write(move |txn| txn.set_projects(&[project], now_ms()))
            .await
            .unwrap()[0];
        let studio = Studio {
            store,
            root,
            home: home.path().to_owned(),
            steps: Arc::new(Steps::default()),
            inner: Mutex::default(),
        };
        Self {
            studio: Arc::new(studio),
            place: place(home.path()),
            faults: Faults::new(7),
            link: Arc::new(TestLink {
                down: watch::Sender::new(false),
                failures: watch::Sender::new(0),
                back_after: Duration::from_millis(10),
            }),
            options: Options {
                parallel: 4,
                part_size: PART as u64,
                retry_first: Duration::from_millis(4),
                retry_max: Duration::from_millis(40),
                lease: Duration::from_millis(300),
            },
            stop: CancellationToken::new(),
            _home: home,
        }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        let flaky = FlakyLayer::new(Arc::clone(&self.faults)).over(self.place.provider());
        StepLayer::new(Arc::clone(&self.studio.steps)).over(flaky)
    }

    fn lane(&self) -> Lane {
        Lane {
            root: self.studio.root,
            site: SiteName("studio".to_owned()),
            provider: self.provider(),
            link: Arc::clone(&self.link) as Arc<dyn LaneLink>,
            priority: 500,
        }
    }

    async fn start(&self) -> Arc<Transfers> {
        self.start_with(vec![self.lane()]).await
    }

    async fn start_with(&self, lanes: Vec<Lane>) -> Arc<Transfers> {
        let desk = Arc::clone(&self.studio) as Arc<dyn Desk>;
        let stop = self.stop.clone();
        Transfers::start(self.studio.store.clone(), desk, lanes, self.options, stop)
            .await
            .unwrap()
    }

    fn counts(&self) -> QueueCounts {
        let root = self.studio.root;
        self.studio.store.read(|txn| txn.queue_counts(root)).unwrap()
    }

    fn tasks(&self) -> Vec<Task> {
        let all = TaskFilter::default();
        self.studio.store.read(|txn| txn.tasks(all, TaskId(0), 99)).unwrap()
    }

    /// Waits until the queue is empty.
    async fn drained(&self) {
        self.until("the queue is empty", || self.counts() == QueueCounts::default())
            .await;
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed() < PATIENCE,
                "not so: {what}; told: {:?}; tasks: {:#?}",
                self.studio.told(),
                self.tasks()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn assert_site(&self, files: &[(&str, &[u8])]) {
        for (of, bytes) in files {
            let found = self.place.get(of);
            assert!(
                found.as_deref() == Some(bytes),
                "{of} is {:?}",
                found.map(|f| (f.len(), f.first().copied()))
            );
        }
        let wanted: Vec<_> = files.iter().map(|(of, _)| (*of).to_owned()).collect();
        assert_eq!(
            self.place.names(),
            wanted,
            "nothing else is at the site, no temporary file either"
        );
    }

    fn committed(&self, of: &str) -> usize {
        let path = at_site(&name(of));
        let is_it = |told: &&Told| matches!(told, Told::Committed(at, _) if *at == path);
        self.studio.told().iter().filter(is_it).count()
    }

    fn conflicts(&self) -> Vec<Told> {
        let told = self.studio.told().into_iter();
        told.filter(|told| matches!(told, Told::Conflict(..))).collect()
    }
}
