//! The process that owns a drive: store, cache, mount and API, put together, and taken apart in the right order.
//!
//! Owns: start, readiness, stop. Refuses to know: what the parts do. Invariant: whatever ends the daemon, the kernel side
//! is let go first, then what is to be kept is made durable, then the lock is given up.

mod inhibit;
mod life;
mod signals;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backlot_config::{Config, LocalSite, Passthrough, Period, ProviderSettings, Site};
use backlot_platform::fuse::{self, Mount, MountEnd, MountError, MountOptions, Unmount};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::types::{Holder, SettingRow, StopOutcome};
use crate::api::{self, Access, AccessError, StopRequest};
use crate::engine::drive::{Drive, HostReport, OpenError};
use crate::engine::report::PendingReport;
use crate::engine::sync::SyncError;
use crate::model::SiteName;
use crate::notify::{Notifier, NotifyError, Running};
use crate::providers::{self, Controls, Provider, ProviderError};

pub use signals::EndSignals;

/// How long a stop by signal waits for the mount to be let go before it is detached: a restart takes less than 5 s in all.
const BUSY_GRACE: Duration = Duration::from_secs(2);
/// How long the API may take to finish answers when the daemon ends.
const API_GRACE: Duration = Duration::from_secs(2);
/// How long the demo's site waits for a dead link before it says so: less than the demo's read deadline.
const SLOW_FOLDER_PATIENCE: Duration = Duration::from_secs(2);
/// No request of the kernel outlives the read deadline by more than this.
const REPLY_MARGIN: Duration = Duration::from_secs(5);

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The drive did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The drive did not mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The API's socket.
    #[error("can't listen on {path}: {source}", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API's address on TCP.
    #[error("can't listen on {address}: {source}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The API's tokens.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The service that keeps sites in step.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// Templates or addresses of those who are told.
    #[error("nobody can be told what becomes of jobs: {0}")]
    Notify(#[from] NotifyError),
    /// The kernel's side of the mount was cut off while it was in use.
    #[error(
        "the mount was cut off: by `backlot abort`, by the connection's `abort` file, or by the kernel, over a request that took \
         longer than it allows"
    )]
    Cut,
    /// Signals or threads are not to be had.
    #[error("the operating system refuses what a daemon needs: {0}")]
    System(#[from] std::io::Error),
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    drive: Drive,
    mount: Option<Arc<Mount>>,
    notifier: Option<Arc<Running>>,
    socket: PathBuf,
    /// Heard from before there is a mount that could be left behind.
    signals: EndSignals,
    stop_requests: mpsc::Receiver<StopRequest>,
    until: CancellationToken,
    api: Vec<tokio::task::JoinHandle<std::io::Result<()>>>,
}

/// Providers by the names of their sites.
pub type Providers = BTreeMap<SiteName, Arc<dyn Provider>>;

/// What a daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The settings.
    pub config: Config,
    /// Providers in place of the settings' own: for the demo and for tests.
    pub providers: Option<Providers>,
    /// Whether to mount the drive.
    pub mount: bool,
    /// Without a mount: keeps sites in step, for the projects named, for all if none is.
    pub sync: Option<Vec<String>>,
    /// The settings with their origins, to be shown.
    pub shown: Vec<SettingRow>,
    /// What this mount is to be besides what the settings say.
    pub mounting: Mounting,
}

/// What one mount is to be besides what the settings say: options of `mount` and of fstab.
#[derive(Clone, Debug, Default)]
pub struct Mounting {
    /// The source that `mount`, `df` and /proc/mounts show; `backlot-` and the drive's name if left out.
    pub source: Option<String>,
    /// Nothing can be changed through it.
    pub read_only: bool,
    /// No program can be started from it.
    pub no_exec: bool,
}

impl Daemon {
    /// Opens the drive, mounts it if asked, and answers on the API's socket.
    ///
    /// # Errors
    /// See [`DaemonError`]; nothing stays behind.
    pub async fn start(start: Start) -> Result<Self, DaemonError> {
        let Start {
            mut config,
            providers,
            mount,
            sync,
            shown,
            mounting,
        } = start;
        let limit = fuse::kernel_timeout().filter(|_| mount);
        if let Some(limit) = limit {
            below_the_kernels(&mut config, limit);
        }
        // First: what is wrong with it is said before anything is touched.
        let works = mount || sync.is_some();
        let notifier = works.then(|| Notifier::new(&config)).transpose()?;
        let drive = match providers {
            Some(providers) => Drive::open_with(&config, providers).await?,
            None => Drive::open(&config).await?,
        };
        let faces = Self::start_faces(&config, &drive, notifier, (mount.then_some(mounting), sync), shown);
        match Box::pin(faces).await {
            Ok(daemon) => Ok(daemon),
            Err(e) => {
                drive.close().await;
                Err(e)
            }
        }
    }

    async fn start_faces(
        config: &Config,
        drive: &Drive,
        notifier: Option<Notifier>,
        (mounting, sync): (Option<Mounting>, Option<Vec<String>>),
        shown: Vec<SettingRow>,
    ) -> Result<Self, DaemonError> {
        let mount = mounting.is_some();
        let signals = EndSignals::new()?;
        // Before the mount: it is what fails most easily.
        let tcp = if mount || sync.is_some() {
            listen_tcp(config).await?
        } else {
            None
        };
        let socket = config.drive.socket_path();
        let listener = api::bind(&socket).map_err(|source| DaemonError::Socket {
            path: socket.clone(),
            source,
        })?;
        let mounted = match mount_if(mounting, config, drive).await {
            Ok(mounted) => mounted,
            Err(e) => {
                drop(std::fs::remove_file(&socket));
                return Err(e);
            }
        };
        if let Some(projects) = sync
            && let Err(e) = drive.start_sync(&projects)
        {
            drop(std::fs::remove_file(&socket));
            return Err(e.into());
        }
        let (stop, stop_requests) = api::stop_queue();
        let until = CancellationToken::new();
        let notifier = notifier.map(|notifier| notifier.start(drive.store()));
        let face = api::Face {
            drive: drive.clone(),
            mounted: mount,
            notifier: notifier.clone(),
            stop,
            until: until.clone(),
            tcp: tcp.as_ref().map(|(_, _, at)| *at),
            settings: shown.into(),
            watch: Arc::default(),
            requests: Arc::default(),
        };
        let mut api = vec![tokio::spawn(api::serve(listener, face.clone(), until.clone()))];
        if let Some((tcp, access, at)) = tcp {
            info!("the dashboard is at http://{at}/");
            api.push(tokio::spawn(api::serve_tcp(tcp, face, access, until.clone())));
        }
        if let Some(mount) = &mounted {
            drive.notify(mount.change_sink());
            let host = Arc::downgrade(mount);
            drive.hosted(Arc::new(move || {
                host.upgrade().map(|mount| HostReport {
                    native: mount.native_reads(),
                    operations: mount.operations(),
                })
            }));
            drive.start();
            tokio::spawn(life::keep(drive.clone(), until.clone()));
            if let Some(inhibitor) = inhibit::Inhibitor::find() {
                tokio::spawn(inhibitor.keep(drive.clone(), until.clone()));
            }
        }
        Ok(Self {
            drive: drive.clone(),
            mount: mounted,
            notifier,
            socket,
            signals,
            stop_requests,
            until,
            api,
        })
    }

    /// The drive.
    #[must_use]
    pub fn drive(&self) -> &Drive {
        &self.drive
    }

    /// Runs until a signal, a request over the API or an unmount from outside ends it, or `stop` turns true.
    ///
    /// # Errors
    /// When the mount was cut off; the drive is closed in order all the same.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), DaemonError> {
        let mut end = MountEnd::Unmounted;
        loop {
            let mount = self.mount.clone();
            let outside = async {
                match &mount {
                    Some(mount) => mount.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                how = outside => {
                    end = how;
                    if end == MountEnd::Unmounted {
                        info!("the drive was unmounted from outside");
                    }
                    break;
                }
                () = self.signals.recv() => break let_go(self.mount.clone(), &mut self.signals).await,
                () = told(&mut stop) => break let_go(self.mount.clone(), &mut self.signals).await,
                Some(request) = self.stop_requests.recv() => {
                    if self.stop_as_asked(request, &mut stop).await {
                        break;
                    }
                }
            }
        }
        self.end().await;
        match end {
            MountEnd::Unmounted => Ok(()),
            MountEnd::Cut => Err(DaemonError::Cut),
        }
    }

    /// Unmounts for who asks over the API, and says how that went; returns whether the daemon is to end.
    async fn stop_as_asked(&mut self, mut request: StopRequest, stop: &mut watch::Receiver<bool>) -> bool {
        let mut outcome = unmount(self.mount.clone(), request.lazy).await;
        let stopped = matches!(outcome, StopOutcome::Stopped { .. });
        if stopped {
            if let Some(until) = request.send_until {
                tokio::select! {
                    () = send_the_rest(&self.drive, self.mount.as_deref(), until) => {}
                    () = self.signals.recv() => {}
                    () = told(stop) => {}
                    () = request.reply.closed() => {}
                }
            }
            outcome = StopOutcome::Stopped {
                left: self.pending().await,
            };
        }
        drop(request.reply.send(outcome));
        stopped
    }

    /// Ends the faces, then closes the drive.
    async fn end(self) {
        life::ending();
        let left = self.pending().await.filter(|left| !left.is_nothing());
        self.until.cancel();
        let telling = async {
            if let Some(notifier) = &self.notifier {
                notifier.stop().await;
            }
        };
        let answering = tokio::time::timeout(API_GRACE, futures::future::join_all(self.api));
        let ((), answered) = tokio::join!(telling, answering);
        if answered.is_err() {
            warn!("an answer of the API took too long and was cut off");
        }
        if let Err(e) = std::fs::remove_file(&self.socket)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            warn!(error = %e, "the API's socket stays behind; the next start replaces it");
        }
        if let Some(left) = left {
            info!(
                files = left.files + left.writing,
                bytes = left.bytes,
                deletes = left.deletes,
                eta_seconds = left.eta_seconds,
                "not all is at its site yet: it stays on this machine, and the queue goes on at the next start"
            );
        }
        self.drive.close().await;
        info!("stopped");
    }

    /// Returns what is not at its site yet; `None` where that can't be told.
    async fn pending(&self) -> Option<PendingReport> {
        let drive = self.drive.clone();
        tokio::task::spawn_blocking(move || drive.pending()).await.ok()?.ok()
    }

    /// Stops a daemon that nobody runs: unmounts, detaching if need be, and closes.
    pub async fn stop(self) {
        if !matches!(unmount(self.mount.clone(), false).await, StopOutcome::Stopped { .. }) {
            drop(unmount(self.mount.clone(), true).await);
        }
        self.end().await;
    }
}

/// Unmounts because the process is to end: politely for a while, then by detaching. A second signal doesn't wait.
async fn let_go(mount: Option<Arc<Mount>>, signals: &mut EndSignals) {
    let polite = async {
        let give_up = Instant::now() + BUSY_GRACE;
        loop {
            match unmount(mount.clone(), false).await {
                StopOutcome::Stopped { .. } => return true,
                StopOutcome::Busy { holders } if Instant::now() >= give_up => {
                    for h in holders {
                        warn!(pid = h.pid, command = %h.command, what = %h.what, "still uses the drive; it is detached");
                    }
                    return false;
                }
                // Nobody waits for files here.
                StopOutcome::Waiting { .. } => return false,
                StopOutcome::Busy { .. } => tokio::time::sleep(Duration::from_millis(200)).await,
                StopOutcome::Failed { reason } => {
                    warn!(%reason, "could not unmount; the drive is detached");
                    return false;
                }
            }
        }
    };
    let done = tokio::select! {
        done = polite => done,
        () = signals.recv() => false,
    };
    if !done {
        drop(unmount(mount.clone(), true).await);
    }
}

/// Waits until it is said that the daemon is to end.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Has what was closed between a wait for all of it and the unmount sent as well.
async fn send_the_rest(drive: &Drive, mount: Option<&Mount>, until: Instant) {
    if let Some(mount) = mount {
        // What the kernel still has to tell is told by then; after a lazy unmount, others go on for as long as they like.
        drop(tokio::time::timeout_at(until, mount.ended()).await);
    }
    if let Err(error) = drive.drain(until.saturating_duration_since(Instant::now())).await {
        warn!(%error, "whether all is at its site can't be told");
    }
}

async fn unmount(mount: Option<Arc<Mount>>, lazy: bool) -> StopOutcome {
    let Some(mount) = mount else {
        return StopOutcome::Stopped { left: None };
    };
    let how = if lazy { Unmount::Lazy } else { Unmount::Normal };
    match tokio::task::spawn_blocking(move || mount.unmount(how)).await {
        Ok(Ok(())) => StopOutcome::Stopped { left: None },
        Ok(Err(e)) if e.is_busy() => StopOutcome::Busy { holders: holders(&e) },
        Ok(Err(e)) => StopOutcome::Failed { reason: e.to_string() },
        Err(e) => StopOutcome::Failed { reason: e.to_string() },
    }
}

/// Returns who keeps a mount busy.
pub(crate) fn holders(e: &fuse::UnmountError) -> Vec<Holder> {
    let shown = |h: &fuse::Holder| Holder {
        pid: h.pid,
        command: h.command.clone(),
        what: h.what.to_string(),
    };
    e.busy.iter().map(shown).collect()
}

/// Lets a read give up before the kernel does: what takes longer than its limit costs the whole mount.
fn below_the_kernels(config: &mut Config, limit: Duration) {
    let wanted: Duration = config.hydration.read_deadline.into();
    let most = longest_read(limit);
    if wanted > most {
        warn!(
            ?limit,
            ?wanted,
            ?most,
            "the kernel ends a mount whose request takes longer than its limit: `hydration.read-deadline` is cut to fit"
        );
        config.hydration.read_deadline = Period::from_millis(u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
    } else {
        info!(
            ?limit,
            "the kernel ends a mount whose request takes longer; ours end before that"
        );
    }
}

/// Returns the longest read deadline that fits below the kernel's limit, so that a read's own reason comes before the last
/// resort's.
pub(crate) fn longest_read(limit: Duration) -> Duration {
    fuse::within_kernel_timeout(limit).mul_f64(0.8)
}

/// Listens on TCP if the settings say so.
async fn listen_tcp(config: &Config) -> Result<Option<(TcpListener, Access, SocketAddr)>, DaemonError> {
    let Some(address) = config.api.address() else {
        return Ok(None);
    };
    let failed = |source| DaemonError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let access = Access::new(&config.api, at)?;
    Ok(Some((listener, access, at)))
}

async fn mount_if(
    mounting: Option<Mounting>,
    config: &Config,
    drive: &Drive,
) -> Result<Option<Arc<Mount>>, DaemonError> {
    match mounting {
        Some(mounting) => mount_drive(mounting, config, drive).await.map(Some),
        None => Ok(None),
    }
}

async fn mount_drive(mounting: Mounting, config: &Config, drive: &Drive) -> Result<Arc<Mount>, DaemonError> {
    let source = mounting
        .source
        .unwrap_or_else(|| format!("backlot-{}", config.drive.name));
    let mut options = MountOptions::new(&config.drive.mount_point, source);
    options.read_only = mounting.read_only;
    options.no_exec = mounting.no_exec;
    let deadline: Duration = config.hydration.read_deadline.into();
    let entry_ttl: Duration = config.fuse.entry_ttl.into();
    options.allow_other = config.drive.allow_other;
    options.threads = config
        .fuse
        .threads
        .count(std::thread::available_parallelism().map_or(2, usize::from));
    options.entry_ttl = entry_ttl;
    options.negative_ttl = entry_ttl;
    // Folders are asked about again this often, which is how the drive knows what somebody looks at.
    options.dir_ttl = entry_ttl.min(config.scan.recheck_after.into());
    options.kernel_readahead = config.fuse.kernel_readahead.bytes();
    options.native_reads = config.fuse.passthrough == Passthrough::Auto;
    options.request_deadline = deadline * 3 + REPLY_MARGIN;
    if let Some(limit) = fuse::kernel_timeout().map(fuse::within_kernel_timeout) {
        options.request_deadline = options.request_deadline.min(limit);
        options.patient_deadline = options.patient_deadline.min(limit);
    }
    let fs = Arc::new(drive.filesystem());
    let rt = tokio::runtime::Handle::current();
    let mounted = tokio::task::spawn_blocking(move || fuse::mount(fs, rt, options)).await;
    let mounted = mounted.map_err(std::io::Error::other)?;
    Ok(Arc::new(mounted?))
}

/// The switch of a simulated link.
pub use crate::providers::layers::LinkControl as SlowLink;

/// Makes a site out of a folder of this machine, as if it were behind a slow link that can be cut: for the demo.
///
/// # Errors
/// When the folder can't be a site.
pub fn slow_folder(
    site: &str,
    root: &std::path::Path,
    delay: Duration,
    bytes_per_second: Option<u64>,
) -> Result<(Providers, Arc<SlowLink>), ProviderError> {
    let link = Arc::new(SlowLink::new(delay, bytes_per_second, SLOW_FOLDER_PATIENCE));
    let controls = Controls {
        link: Some(Arc::clone(&link)),
        ..Controls::default()
    };
    let local = LocalSite {
        root: root.to_owned(),
        ..LocalSite::default()
    };
    let name = SiteName(site.to_owned());
    let provider = providers::build(&name, &Site::new(ProviderSettings::Local(local)), &controls)?;
    Ok((BTreeMap::from([(name, provider)]), link))
}
