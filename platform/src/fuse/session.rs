//! The life of one mount: from its start to the end that we, its users or the kernel give it.
//!
//! Owns: the threads that serve and notify. Invariant: however a session ends, nothing dead stays behind in the tree, the
//! engine gets every handle back, and whoever waits for the end is told last.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::device::{self, Shown};
use super::error::{MountError, UnmountError};
use super::host::{Deadlines, FuseHost, Ttls};
use super::mountinfo::{MountEntry, MountTable};
use super::notify::{self, ChangeQueue, FuseKernel, Kernel};
use super::shared::Shared;
use super::unmount::{self, Unmount};
use super::{MountOptions, abort, point};
use crate::bridge::{Bridge, BridgeCounters};
use crate::tally::Operation;
use crate::types::NativeReads;
use crate::vfs::{ChangeSink, VirtualFs};

/// How the kernel side of a mount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountEnd {
    /// It was unmounted, by us or by anybody.
    Unmounted,
    /// It was cut off with its mount in the tree: aborted, ended by the kernel over a request that took too long, or failed.
    Cut,
}

/// A drive that is mounted. Dropping it unmounts lazily.
#[derive(Debug)]
pub struct Mount {
    entry: MountEntry,
    queue: Arc<ChangeQueue>,
    bridge: Arc<Bridge>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<MountEnd>>,
}

impl Mount {
    /// Returns where changes are to be reported.
    #[must_use]
    pub fn change_sink(&self) -> Arc<dyn ChangeSink> {
        Arc::clone(&self.queue) as Arc<dyn ChangeSink>
    }

    /// Returns the folder that it is mounted on, absolute and free of links.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.entry.point
    }

    /// Returns the name of its connection under /sys/fs/fuse/connections.
    #[must_use]
    pub fn connection_id(&self) -> u32 {
        self.entry.minor
    }

    /// Returns how many requests panicked or ran into the deadline.
    #[must_use]
    pub fn counters(&self) -> BridgeCounters {
        self.bridge.counters()
    }

    /// Returns how the kernel's requests went that were answered so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.bridge.operations()
    }

    /// Returns whether the kernel reads files by itself, and how often it did.
    #[must_use]
    pub fn native_reads(&self) -> NativeReads {
        self.shared.native.report()
    }

    /// Unmounts; nothing to do is success. In use, [`Unmount::Normal`] changes nothing and says by whom. Blocks until the
    /// kernel is done, which may take requests of this very mount: not to be called from an async task.
    pub fn unmount(&self, how: Unmount) -> Result<(), UnmountError> {
        if !self.is_in_tree() {
            return Ok(());
        }
        unmount::unmount_entry(&self.entry, how)
    }

    /// Ends the mount at once, failing every request in flight; see [`abort::abort_path`].
    pub fn abort(&self) -> Result<(), UnmountError> {
        if self.has_ended() {
            return Ok(());
        }
        abort::abort_entry(&self.entry).map(drop)
    }

    /// Returns whether the kernel side has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Returns a future that resolves when the kernel side has ended, and says how. After a lazy unmount that is when the last
    /// user is gone.
    pub fn ended(&self) -> impl Future<Output = MountEnd> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            let end = ended.wait_for(Option::is_some).await.map(|end| *end);
            // A thread that is gone without a word served nobody any more.
            end.ok().flatten().unwrap_or(MountEnd::Cut)
        }
    }

    fn is_in_tree(&self) -> bool {
        // Without a table the kernel itself decides.
        !self.has_ended() && MountTable::read().map_or(true, |table| table.contains(&self.entry))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(Unmount::Lazy) {
            tracing::warn!(%error, cause = %error.source, "a mount stays behind");
        }
    }
}

pub(super) fn start(fs: Arc<dyn VirtualFs>, rt: Handle, options: MountOptions) -> Result<Mount, MountError> {
    let point = point::prepare(&options.mount_point)?;
    let failed = |step| {
        let point = point.clone();
        move |source| MountError::Failed { point, step, source }
    };
    let shown = Shown {
        fs_name: &options.fs_name,
        read_only: options.read_only,
        no_exec: options.no_exec,
        allow_other: options.allow_other,
    };
    let device = device::mount(&point, &shown)?;
    let mut guard = Mounted(Some(point.clone()));
    let entry = mounted_at(&point).map_err(failed("the new mount cannot be found in the kernel's table"))?;
    let raw = device
        .as_fd()
        .try_clone_to_owned()
        .map_err(failed("the connection cannot be duplicated"))?;

    let shared = Arc::new(Shared::default());
    let bridge = Bridge::new(rt.clone());
    let ttls = Ttls {
        entry: options.entry_ttl,
        dir: options.dir_ttl,
        negative: options.negative_ttl,
    };
    let deadlines = Deadlines {
        request: options.request_deadline,
        patient: options.patient_deadline,
    };
    let host = FuseHost::new(
        Arc::clone(&fs),
        Arc::clone(&bridge),
        Arc::clone(&shared),
        ttls,
        deadlines,
        options.native_reads,
    );
    let session = serve(host, device, &options).map_err(failed("the kernel and we do not agree on a protocol"))?;

    let kernel = FuseKernel {
        notifier: session.notifier(),
        device: raw,
    };
    // Also the question whether the kernel knows it at all; nothing is cached yet.
    shared.set_can_forget_all(kernel.doubt_all_names().is_ok());
    shared.set_notifier(session.notifier());
    let queue = ChangeQueue::new(options.change_backlog.max(1));
    let (tell_ended, ended) = watch::channel(None);

    let (notifying, known) = (Arc::clone(&queue), Arc::clone(&shared));
    thread::Builder::new()
        .name("backlot-notify".into())
        .spawn(move || {
            let list_root = move || notify::list_root(&*fs, &rt);
            notify::run(&notifying, &kernel, &list_root, &known);
        })
        .map_err(failed("no thread for notifications"))?;
    let (serving, mounted) = (Arc::clone(&queue), entry.clone());
    thread::Builder::new()
        .name("backlot-fuse".into())
        .spawn(move || {
            let result = session.run();
            serving.close();
            let end = after_end(&mounted, result);
            tell_ended.send_replace(Some(end));
        })
        .map_err(failed("no thread to serve the mount"))
        .inspect_err(|_| queue.close())?;

    guard.0 = None;
    set_readahead(entry.minor, options.kernel_readahead);
    tracing::info!(mount_point = %point.display(), connection = entry.minor, "mounted");
    Ok(Mount {
        entry,
        queue,
        bridge,
        shared,
        ended,
    })
}

/// Takes a mount away again unless it came to live.
struct Mounted(Option<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(point) = &self.0
            && let Err(error) = unmount::detach(point)
        {
            tracing::warn!(%error, mount_point = %point.display(), "a failed mount stays behind");
        }
    }
}

fn mounted_at(point: &Path) -> io::Result<MountEntry> {
    let mount = MountTable::read()?.at(point).filter(|m| m.is_ours()).cloned();
    mount.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Shakes hands with the kernel. The device of a connection that failed is closed, and with it the mount is dead.
fn serve(host: FuseHost, device: OwnedFd, options: &MountOptions) -> io::Result<Session<FuseHost>> {
    let acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    config.acl = acl;
    Session::from_fd(host, device, acl, config)
}

/// Cleans up after a session, and says how it ended. One that was unmounted left nothing. One that was aborted, or that failed,
/// left its mount in the tree, where it would answer nobody.
fn after_end(mount: &MountEntry, result: io::Result<()>) -> MountEnd {
    let point = mount.point.display();
    // Who aborts it may take it out of the tree before we look: then the kernel's word is all there is (ABORT_ERROR).
    let mut end = if result.is_ok() {
        MountEnd::Unmounted
    } else {
        MountEnd::Cut
    };
    if MountTable::read().is_ok_and(|table| table.at(&mount.point) == Some(mount)) {
        end = MountEnd::Cut;
        if let Err(error) = abort::abort_entry(mount) {
            tracing::warn!(mount_point = %point, cause = %error.source, "a dead mount stays behind");
        }
    }
    match result {
        Ok(()) if end == MountEnd::Unmounted => tracing::info!(mount_point = %point, "the mount has ended"),
        Ok(()) => tracing::error!(mount_point = %point, "the mount was cut off"),
        Err(error) => tracing::error!(mount_point = %point, %error, "the mount was cut off"),
    }
    end
}

/// The kernel offers a connection 128 KiB of read-ahead at most; more is a matter of the system's settings.
fn set_readahead(minor: u32, bytes: u64) {
    let file = format!("/sys/class/bdi/0:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, (bytes / 1024).to_string()) {
        tracing::debug!(%file, %error, "the kernel's read-ahead stays as it is");
    }
}
