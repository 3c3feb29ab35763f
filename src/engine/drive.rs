//! One drive: its store, cache, sites and projects, put together; and what the daemon's faces may ask of it.
//!
//! Owns: opening and closing a drive, finding the site of a node and the content of a file. Refuses to know: FUSE, HTTP,
//! the command line. Invariant: a change is in the store before the kernel is told of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use backlot_cache::{CacheError, CacheOptions, ContentCache, ContentId};
use backlot_config::{Config, RemoteDelete};
use backlot_platform::tally::Operation;
use backlot_platform::types::NativeReads;
use backlot_platform::vfs::ChangeSink;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::bandwidth::Bandwidth;
use super::cached::Verification;
use super::doubt::Doubts;
use super::filesystem::DriveFs;
use super::firewall::Firewall;
use super::handles::Handles;
use super::heads::Heads;
use super::hydrate::{HydrateStats, Kept, Mismatches, OpenContent, Origin};
use super::hydrations::Hydrations;
use super::local::Locals;
use super::native::Checks;
use super::native::Mapped;
use super::objects::Objects;
use super::ownership::{Ownership, UnknownAccount};
use super::pins::Pins;
use super::places::Places;
use super::publish::Sending;
use super::pulse::Bell;
use super::refusals::Refusals;
use super::scan::{ScanJob, Scans};
use super::scrub::Scrub;
use super::sequence::Sequences;
use super::site::Site;
use super::sites::Shape;
use super::sites::doors::Doors;
use super::sync::Syncing;
use super::workfile::Workfiles;
use super::writing::{Copies, Settling};
use super::zones::Zones;
use crate::model::{Ino, Name, PathError, ProjectName, RelPath, SiteName, Version};
use crate::providers::{Controls, Listed, Provider, ProviderError};
use crate::state::{NewProject, Node, Remote, StateError, StateStore, Tree};
use crate::transfer::Transfers;

/// Files that the cache keeps open at most.
const CACHE_OPEN_FILES: usize = 512;
/// What the cache may lose by a crash: granules that landed this recently are fetched again.
const CACHE_FLUSH: Duration = Duration::from_millis(500);

/// How long uploads may take to come to a stop when the drive is closed.
const TRANSFERS_GRACE: Duration = Duration::from_secs(5);
/// The word for the machine itself in `active-site`.
const LOCAL_SITE: &str = "local";
/// Bytes written between two looks at the disk's free space: little beside what is kept free.
const ROOM_STEP: i64 = 4 << 20;

/// Why a drive did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// This machine's site id.
    #[error("this machine's site id: {0}")]
    SiteId(#[source] std::io::Error),
    /// The folder of what is written here.
    #[error("the folder for what is written here, in {}: {source}", .dir.display())]
    Local {
        /// The data folder.
        dir: PathBuf,
        /// What is in the way.
        source: std::io::Error,
    },
    /// The zones of a project.
    #[error("project {0}: its zones: {1}")]
    Zones(ProjectName, #[source] globset::Error),
    /// The names of programs in the settings.
    #[error("the names of programs in [firewall]: {0}")]
    Firewall(#[source] globset::Error),
    /// A site's settings.
    #[error("site {0}: {1}")]
    Site(SiteName, ProviderError),
    /// A user or a group in the settings.
    #[error(transparent)]
    Account(#[from] UnknownAccount),
    /// A path in the settings.
    #[error("project {0}: its {1} {2}")]
    Path(ProjectName, &'static str, PathError),
    /// A node that belongs to no project.
    #[error("entry {0} belongs to no project of this drive; is its [projects] section still there?")]
    NoProject(Ino),
}

/// What the settings say that reads depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) readahead_max: u64,
    pub(super) small_file: u64,
    pub(super) read_deadline: Duration,
    pub(super) recheck_after: Duration,
    pub(super) scan_parallel: usize,
    /// How long a closed file must stay unwritten before it is sent.
    pub(super) settle: Duration,
    /// Bytes that the cache leaves free on its disk.
    pub(super) cache_min_free: u64,
}

/// A project of the drive.
#[derive(Debug)]
pub struct Project {
    /// The key of its section.
    pub name: ProjectName,
    /// Its folder in the drive.
    pub folder: String,
    /// That folder's node.
    pub root: Ino,
    /// Where its bytes come from.
    pub site: Arc<Site>,
    /// Where it is at that site.
    pub remote_path: RelPath,
    /// The site that this machine plays for it; `None`: itself.
    pub(super) active: Option<SiteName>,
    /// Sites that are to have all of it too.
    pub(super) always: Vec<Arc<Site>>,
    /// Where it is at other sites, if not under its folder's name.
    paths: BTreeMap<SiteName, RelPath>,
    /// How often to look at the whole of it.
    pub scan_interval: Duration,
    /// What happens to a file by where it is.
    pub(super) zones: Zones,
    /// What deleting a published file does at the site.
    pub(super) remote_delete: RemoteDelete,
    /// Priority of its queue, unless one was set for it.
    pub(super) priority: u16,
    /// Patterns of what the settings keep resident.
    pub(super) pins: Vec<String>,
}

impl Project {
    /// Returns where it is at a site, under the site's root.
    pub(super) fn path_at(&self, site: &SiteName) -> RelPath {
        if site == self.site.name() {
            return self.remote_path.clone();
        }
        self.paths.get(site).cloned().unwrap_or_else(|| self.folder_path())
    }

    /// Returns its folder as a path of the drive.
    pub(super) fn folder_path(&self) -> RelPath {
        RelPath::new(&self.folder).unwrap_or_default()
    }
}

/// A site's provider, and what its layers share where that is known.
type Metered = (Arc<dyn Provider>, Option<Controls>);

/// What a host knows of how it serves the drive.
#[derive(Clone, Debug, Default)]
pub struct HostReport {
    /// What it reads by itself.
    pub native: NativeReads,
    /// How the operations went that it passed on.
    pub operations: Vec<Operation>,
}

/// That, told when asked; `None` once it has ended.
pub type HostTells = dyn Fn() -> Option<HostReport> + Send + Sync;

/// A drive. Cheap to clone; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Drive(Arc<Inner>);

/// What the engine's parts share.
pub struct Inner {
    pub(super) name: String,
    site_id: String,
    pub(super) mount_point: PathBuf,
    pub(super) store: StateStore,
    pub(super) tree: Tree,
    pub(super) cache: Arc<ContentCache>,
    pub(super) heads: Heads,
    pub(super) objects: Arc<Objects>,
    pub(super) locals: Locals,
    pub(super) bandwidth: Bandwidth,
    pub(super) copies: Copies,
    pub(super) mapped: Mapped,
    pub(super) refusals: Refusals,
    pub(super) sending: Sending,
    pub(super) settling: Settling,
    /// Files whose close failed and is tried again.
    pub(super) late: Mutex<HashSet<Ino>>,
    pub(super) places: Places,
    transfers: OnceLock<Arc<Transfers>>,
    /// The transfers are about to look.
    wakes: Arc<AtomicBool>,
    pub(super) publish: backlot_config::Publish,
    /// Jobs of one queue at once between the same two sites.
    pub(super) jobs_per_pair: usize,
    /// Bytes that may be written before the disk is asked again whether there is room.
    budget: AtomicI64,
    pub(super) cache_dir: PathBuf,
    pub(super) pins: Pins,
    pub(super) hydrations: Hydrations,
    pub(super) workfiles: Workfiles,
    pub(super) verification: Verification,
    pub(super) scrub: Scrub,
    pub(super) sites: BTreeMap<SiteName, Arc<Site>>,
    pub(super) projects: Vec<Arc<Project>>,
    /// What the settings say of the sites, for people.
    pub(super) shapes: BTreeMap<SiteName, Shape>,
    /// Which sites are one storage.
    pub(super) doors: Doors,
    pub(super) sync: Syncing,
    pub(super) sync_settings: backlot_config::Sync,
    pub(super) limits: Limits,
    /// Who files are shown as belonging to that have no owner of their own.
    pub(super) owner: (u32, u32),
    /// The same, with what may be done with them.
    pub(super) ownership: Ownership,
    pub(super) handles: Handles,
    pub(super) doubts: Arc<Doubts>,
    pub(super) checks: Checks,
    pub(super) scans: Scans,
    pub(super) stats: Arc<HydrateStats>,
    pub(super) bell: Arc<Bell>,
    pub(super) mismatches: Arc<Mismatches>,
    pub(super) firewall: Firewall,
    pub(super) sequences: Sequences,
    pub(super) stop: CancellationToken,
    contents: Mutex<HashMap<ContentId, Weak<OpenContent>>>,
    /// Folders whose entries the kernel may have cached.
    pub(super) shown: Mutex<HashSet<Ino>>,
    pub(super) sink: OnceLock<Arc<dyn ChangeSink>>,
    pub(super) host: OnceLock<Arc<HostTells>>,
    pub(super) started: Instant,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive")
            .field("name", &self.name)
            .field("mount_point", &self.mount_point)
            .finish_non_exhaustive()
    }
}

impl Deref for Drive {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Drive {
    /// Opens the store and the cache and makes ready the sites. Asks no site anything, so it works offline.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed but the folders made.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        let (mut sites, mut bandwidth) = (BTreeMap::new(), Bandwidth::default());
        for (name, settings) in &config.sites {
            let (name, controls) = (SiteName(name.clone()), controls(config, settings));
            let built = crate::providers::build(&name, settings, &controls);
            let provider = built.map_err(|e| OpenError::Site(name.clone(), e))?;
            bandwidth.add(name.clone(), &settings.limits, Arc::clone(&controls.limits));
            sites.insert(name, (provider, Some(controls)));
        }
        Self::open_metered(config, sites, bandwidth).await
    }

    /// Like [`Drive::open`], with the providers given: for the demo and for tests.
    ///
    /// # Errors
    /// As [`Drive::open`].
    pub async fn open_with(
        config: &Config,
        providers: BTreeMap<SiteName, Arc<dyn Provider>>,
    ) -> Result<Self, OpenError> {
        let unmetered = providers.into_iter().map(|(name, provider)| (name, (provider, None)));
        Self::open_metered(config, unmetered.collect(), Bandwidth::default()).await
    }

    async fn open_metered(
        config: &Config,
        providers: BTreeMap<SiteName, Metered>,
        bandwidth: Bandwidth,
    ) -> Result<Self, OpenError> {
        let of_settings = config.drive.clone();
        let ownership = tokio::task::spawn_blocking(move || Ownership::new(&of_settings)).await;
        let ownership = ownership.map_err(|_panicked| StateError::Closed)??;
        let store = StateStore::open(&config.drive.data_dir)?;
        let cache = ContentCache::open(CacheOptions {
            dir: config.drive.cache_dir.clone(),
            max_bytes: config.cache.max_size.bytes(),
            min_free_bytes: config.cache.min_free.bytes(),
            max_open_files: CACHE_OPEN_FILES,
            flush_interval: CACHE_FLUSH,
        })?;
        let data_dir = &config.drive.data_dir;
        let objects = Objects::open(data_dir, store.uuid(), config.publish.min_free.bytes()).map_err(|source| {
            OpenError::Local {
                dir: data_dir.clone(),
                source,
            }
        })?;
        let ayon = super::site_id::of_ayon();
        let site_id = super::site_id::of_machine(config.machine.site_id.as_deref(), data_dir, ayon.as_deref())
            .map_err(OpenError::SiteId)?;
        let slots = config.hydration.parallel_fetches as usize;
        let sites: BTreeMap<_, _> = providers
            .into_iter()
            .map(|(name, (p, controls))| (name.clone(), Site::new(name, p, controls, slots)))
            .collect();
        let projects = open_projects(config, &store, &sites).await?;
        let (sequences, notes) = Sequences::new(&config.hydration, config.cache.max_size.bytes());
        let bell = Arc::<Bell>::default();
        let ringing = Arc::clone(&bell);
        store.on_commit(move || ringing.ring());
        let inner = Inner {
            name: config.drive.name.clone(),
            site_id,
            mount_point: config.drive.mount_point.clone(),
            tree: Tree::new(store.clone()),
            store,
            cache: Arc::new(cache),
            heads: Heads::open(config, CACHE_FLUSH)?,
            objects: Arc::new(objects),
            locals: Locals::default(),
            copies: Copies::default(),
            mapped: Mapped::default(),
            refusals: Refusals::default(),
            sending: Sending::default(),
            settling: Settling::default(),
            late: Mutex::default(),
            places: Places::default(),
            transfers: OnceLock::new(),
            wakes: Arc::default(),
            publish: config.publish.clone(),
            jobs_per_pair: config.copies.jobs_per_pair as usize,
            budget: AtomicI64::new(0),
            cache_dir: config.drive.cache_dir.clone(),
            pins: Pins::default(),
            hydrations: Hydrations::default(),
            workfiles: Workfiles::new(&config.workfiles),
            verification: Verification::default(),
            scrub: Scrub::new(config.cache.scrub),
            sites,
            bandwidth,
            projects,
            shapes: config
                .sites
                .iter()
                .map(|(name, site)| (SiteName(name.clone()), Shape::of(site)))
                .collect(),
            doors: Doors::new(
                config
                    .sites
                    .iter()
                    .map(|(name, site)| (name, site.limits.alternative_sites.as_slice())),
            ),
            sync: Syncing::default(),
            sync_settings: config.sync.clone(),
            limits: Limits {
                readahead_max: config.hydration.readahead_max.bytes(),
                small_file: config.hydration.small_file.bytes(),
                read_deadline: config.hydration.read_deadline.into(),
                recheck_after: config.scan.recheck_after.into(),
                scan_parallel: config.scan.parallel as usize,
                settle: config.publish.settle.into(),
                cache_min_free: config.cache.min_free.bytes(),
            },
            owner: (ownership.uid, ownership.gid),
            ownership,
            handles: Handles::default(),
            doubts: Arc::default(),
            checks: Checks::default(),
            scans: Scans::default(),
            stats: Arc::new(HydrateStats {
                bell: Arc::clone(&bell),
                ..HydrateStats::default()
            }),
            bell,
            mismatches: Arc::default(),
            firewall: Firewall::new(&config.firewall).map_err(OpenError::Firewall)?,
            sequences,
            stop: CancellationToken::new(),
            contents: Mutex::default(),
            shown: Mutex::default(),
            sink: OnceLock::new(),
            host: OnceLock::new(),
            started: Instant::now(),
        };
        let drive = Self(Arc::new(inner));
        let weak = Arc::downgrade(drive.inner());
        drive.mismatches.tell(move |ino| {
            if let Some(drive) = weak.upgrade() {
                drive.tell_content(ino);
            }
        });
        drive.recover().await?;
        drive.load_pins()?;
        if let Some(notes) = notes {
            Sequences::start(drive.inner(), notes);
        }
        Ok(drive)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// Begins what goes on by itself: looking whether sites answer, the first scan of new projects, periodic re-scans.
    pub fn start(&self) {
        self.start_in_background(&self.projects);
        self.0.start_pins();
        tokio::spawn(super::scrub::keep_scrubbed(Arc::downgrade(&self.0), self.stop.clone()));
    }

    /// Begins what goes on by itself whether or not anything is mounted; `scanned` are looked at now and again.
    pub(super) fn start_in_background(&self, scanned: &[Arc<Project>]) {
        for site in self.sites.values() {
            site.link().keep_known();
            let let_in = site.link().watch_let_in();
            tokio::spawn(super::lockouts::go_on_when_let_in(Arc::downgrade(&self.0), let_in));
            tokio::spawn(super::pulse::ring_on_link(
                site.link().watch(),
                Arc::clone(&self.bell),
                self.stop.clone(),
            ));
        }
        tokio::spawn(super::publish::start_transfers(Arc::clone(&self.0)));
        tokio::spawn(super::awake::watch(Arc::downgrade(&self.0)));
        tokio::spawn(super::bandwidth::keep_to_timetables(Arc::downgrade(&self.0)));
        for project in scanned {
            tokio::spawn(super::scan::keep_scanned(Arc::downgrade(&self.0), Arc::clone(project)));
        }
    }

    /// Returns the state store, for who tells people of jobs.
    #[must_use]
    pub fn store(&self) -> StateStore {
        self.store.clone()
    }

    /// Returns the file operations, for a host to mount.
    #[must_use]
    pub fn filesystem(&self) -> DriveFs {
        DriveFs {
            drive: Arc::clone(&self.0),
        }
    }

    /// Tells the drive whom to tell of changes. Only the first call counts.
    pub fn notify(&self, sink: Arc<dyn ChangeSink>) {
        drop(self.sink.set(sink));
    }

    /// Tells the drive whom to ask how its host serves it. Only the first call counts.
    pub fn hosted(&self, tells: Arc<HostTells>) {
        drop(self.host.set(tells));
    }

    /// Scans a project, or a folder of it, in the background.
    ///
    /// # Errors
    /// `None` if no such project or folder is known.
    pub fn scan(&self, path: &RelPath) -> Result<Vec<Arc<ScanJob>>, LookupError> {
        super::scan::begin(&self.0, path)
    }

    /// Stops background work and makes durable what is to be kept.
    pub async fn close(self) {
        self.stop.cancel();
        self.sync.ended().await;
        if let Some(transfers) = self.transfers()
            && tokio::time::timeout(TRANSFERS_GRACE, transfers.stopped())
                .await
                .is_err()
        {
            warn!("an upload did not stop in time; the next start goes on with it");
        }
        self.0.settle_all().await;
        let drive = Arc::clone(&self.0);
        let closed = tokio::task::spawn_blocking(move || {
            if let Err(e) = drive.cache.close().and(drive.heads.close()) {
                warn!(error = %e, "the cache's index was not flushed; what it misses is fetched again");
            }
            drive.store.close();
        })
        .await;
        if closed.is_err() {
            warn!("closing the store was cut short; it recovers at the next start");
        }
    }
}

async fn open_projects(
    config: &Config,
    store: &StateStore,
    sites: &BTreeMap<SiteName, Arc<Site>>,
) -> Result<Vec<Arc<Project>>, OpenError> {
    let mut wanted = Vec::new();
    let mut handles = Vec::new();
    for (name, p) in &config.projects {
        let name = ProjectName(name.clone());
        let path = |text: &str| RelPath::new(if text == "." { "" } else { text });
        let remote_path = path(&p.remote_path).map_err(|e| OpenError::Path(name.clone(), "remote-path", e))?;
        let mut paths = BTreeMap::new();
        for (site, text) in &p.paths {
            let at = path(text).map_err(|e| OpenError::Path(name.clone(), "paths", e))?;
            paths.insert(SiteName(site.clone()), at);
        }
        let site_name = SiteName(p.remote_site.clone());
        let site = sites.get(&site_name).cloned();
        let Some(site) = site else {
            // The settings are validated: a project's site exists. Providers given by hand may lack one.
            continue;
        };
        let folder = Name::new(p.folder.as_bytes()).map_err(|e| OpenError::Path(name.clone(), "folder", e))?;
        wanted.push(NewProject {
            name: name.clone(),
            folder,
            remote_site: site_name,
            remote_path: remote_path.clone(),
        });
        let zones = Zones::new(&p.zones).map_err(|e| OpenError::Zones(name.clone(), e))?;
        handles.push((name, p, site, (remote_path, paths), zones));
    }
    let roots = store.write(move |txn| txn.set_projects(&wanted, now_ms())).await?;
    Ok(handles
        .into_iter()
        .zip(roots)
        .map(|((name, p, site, (remote_path, paths), zones), root)| {
            Arc::new(Project {
                name,
                folder: p.folder.clone(),
                root,
                active: p.active_site.clone().filter(|site| site != LOCAL_SITE).map(SiteName),
                always: p
                    .always_accessible_on
                    .iter()
                    .filter_map(|name| sites.get(&SiteName(name.clone())).cloned())
                    .collect(),
                site,
                remote_path,
                paths,
                scan_interval: p.scan_interval.into(),
                zones,
                remote_delete: p.remote_delete,
                priority: u16::try_from(p.priority).unwrap_or(u16::MAX),
                pins: p.pins.clone(),
            })
        })
        .collect())
}

/// Why a path of the drive was not found.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Not in the tree.
    #[error("{0}: no such file or folder in this drive")]
    NotFound(RelPath),
    /// A folder was needed.
    #[error("{0}: not a folder")]
    NotDir(RelPath),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Inner {
    /// Returns the project that a node belongs to, and its path inside that; `None` for the drive's root and for what has
    /// no name.
    pub(super) fn place(&self, ino: Ino) -> Result<Option<(Arc<Project>, RelPath)>, StateError> {
        let epoch = self.places.epoch();
        if let Some(known) = self.places.get(ino) {
            return Ok(Some(known));
        }
        let place = self.look_up_place(ino)?;
        if let Some(place) = &place {
            self.places.put(epoch, ino, place);
        }
        Ok(place)
    }

    fn look_up_place(&self, ino: Ino) -> Result<Option<(Arc<Project>, RelPath)>, StateError> {
        let Some(path) = self.tree.path_of(ino)? else {
            return Ok(None);
        };
        let folder = path.components().next().unwrap_or_default();
        let project = self.projects.iter().find(|p| p.folder.as_bytes() == folder);
        let below = RelPath::new(&path.as_bytes()[folder.len()..]).unwrap_or_default();
        Ok(project.map(|project| (Arc::clone(project), below)))
    }

    /// Returns the project that a node belongs to, and where the node is at the project's site.
    pub(super) fn locate(&self, ino: Ino) -> Result<(Arc<Project>, RelPath), OpenError> {
        let (project, below) = self.place(ino)?.ok_or(OpenError::NoProject(ino))?;
        let remote = project.remote_path.concat(&below);
        Ok((project, remote))
    }

    pub(super) fn site_id(&self) -> &str {
        &self.site_id
    }

    /// Takes note of bytes about to be written, and says whether it is time to ask the disk whether there is room.
    pub(super) fn spent(&self, bytes: u64) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.budget.fetch_sub(bytes, Ordering::Relaxed) >= bytes {
            return false;
        }
        self.budget.store(ROOM_STEP, Ordering::Relaxed);
        true
    }

    /// Something was put in a queue, or may be taken from it now: the transfers look once it is due. Cheap: many calls cost
    /// one look.
    pub(super) fn wake_transfers(&self) {
        let Some(transfers) = self.transfers.get() else { return };
        if self.wakes.swap(true, Ordering::SeqCst) {
            return;
        }
        let (transfers, wakes, settle) = (Arc::clone(transfers), Arc::clone(&self.wakes), self.limits.settle);
        tokio::spawn(async move {
            tokio::time::sleep(settle).await;
            // First, so that who comes after this look makes another.
            wakes.store(false, Ordering::SeqCst);
            transfers.wake();
        });
    }

    pub(super) fn set_transfers(&self, transfers: Arc<Transfers>) {
        // Started once.
        drop(self.transfers.set(transfers));
    }

    pub(super) fn transfers(&self) -> Option<&Arc<Transfers>> {
        self.transfers.get()
    }

    /// The name of a version of a file's bytes in the cache: it survives renames, and no two drives share one.
    pub(super) fn content_id(&self, ino: Ino, version: &Version) -> ContentId {
        let mut hash = blake3::Hasher::new();
        hash.update(self.store.uuid().as_bytes());
        hash.update(&ino.0.to_le_bytes());
        hash.update(version.as_str().as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        ContentId(id)
    }

    /// Returns the content of a file's current version, shared by all who have it open.
    pub(super) fn open_content(&self, node: &Node) -> Result<Arc<OpenContent>, OpenError> {
        let opened = self.open_content_quietly(node)?;
        opened.content().mark_used();
        if let Some(head) = opened.head() {
            head.mark_used();
        }
        Ok(opened)
    }

    /// Like [`open_content`](Self::open_content), without its counting as use of what is here.
    pub(super) fn open_content_quietly(&self, node: &Node) -> Result<Arc<OpenContent>, OpenError> {
        let version = content_version(node);
        let id = self.content_id(node.ino, &version);
        if let Some(open) = self.contents().get(&id).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let (project, path) = self.locate(node.ino)?;
        // A file that was moved here has its bytes where it was.
        let path = match &node.origin {
            Some(origin) => project.remote_path.concat(&origin.path),
            None => path,
        };
        let head = self.heads.of(&path, id, node.size);
        let origin = Origin {
            ino: node.ino,
            site: Arc::clone(&project.site),
            path,
            version,
        };
        let opened = OpenContent::new(
            origin,
            Kept {
                cache: Arc::clone(&self.cache),
                content: self.cache.content_quietly(id, node.size)?,
                head,
            },
            self.limits.read_deadline,
            Arc::clone(&self.stats),
            Arc::clone(&self.mismatches),
        );
        let mut contents = self.contents();
        // Somebody may have been faster; one content has one list of fetches.
        if let Some(open) = contents.get(&id).and_then(Weak::upgrade) {
            return Ok(open);
        }
        if contents.len() >= 64 && contents.len().is_power_of_two() {
            contents.retain(|_, open| open.strong_count() > 0);
        }
        contents.insert(id, Arc::downgrade(&opened));
        Ok(opened)
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<ContentId, Weak<OpenContent>>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn disk_space(dir: &Path) -> (u64, u64) {
    rustix::fs::statvfs(dir).map_or((0, 0), |s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize))
}

/// Asks one site whether it answers, with a connection of its own, and returns which of the paths under its root are not there: for
/// `doctor`, which needs no open drive.
///
/// # Errors
/// What is in the way.
pub async fn check_site(
    name: &str,
    settings: &backlot_config::Site,
    paths: &[RelPath],
) -> Result<Vec<RelPath>, ProviderError> {
    let provider = crate::providers::build(&SiteName(name.to_owned()), settings, &Controls::of(settings))?;
    provider.probe().await?;
    let mut missing = Vec::new();
    for path in paths {
        match provider.stat(path).await {
            Err(e) if e.kind == crate::providers::ErrorKind::NotFound => missing.push(path.clone()),
            found => drop(found?),
        }
    }
    Ok(missing)
}

/// The controls of a site whose errors come before a reader's patience ends, so that the reader hears the site's reason.
fn controls(config: &Config, settings: &backlot_config::Site) -> Controls {
    let mut controls = Controls::of(settings);
    let deadline: Duration = config.hydration.read_deadline.into();
    controls.idle_timeout = controls.idle_timeout.min(deadline * 3 / 4);
    controls
}

/// The identity of a file's bytes: what its site says, else what follows from size and time.
pub(super) fn content_version(node: &Node) -> Version {
    let moved = node.origin.as_ref().map(|origin| origin.version.clone());
    let version = moved.or_else(|| node.version.clone());
    version.unwrap_or_else(|| Version::from_size_mtime(node.size, node.mtime_ns))
}

/// What a provider lists, as the store takes it.
pub(super) fn remote(listed: Listed) -> Remote {
    let Listed { name, entry } = listed;
    Remote {
        name,
        kind: entry.kind,
        size: entry.size,
        mtime_ns: entry.mtime_ns,
        perm: entry.perm,
        version: entry.version,
        target: entry.target,
    }
}

/// Now, nanoseconds since 1970.
pub(super) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
