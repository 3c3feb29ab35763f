//! The daemon's HTTP interface: what the command line, the dashboard and monitoring are clients of. On a Unix socket
//! always; on TCP, with tokens, where the settings say so.
//!
//! Owns: routes, their JSON, problems as answers. Refuses to know: providers, the cache, how the drive is mounted.
//! Invariants: the socket is for its owner alone (0600), TCP for who has a token; a path argument never leaves the drive; no
//! answer holds a secret.

mod access;
mod asked;
mod copy_routes;
mod events;
mod limit_routes;
mod metrics;
mod notify_routes;
mod openapi;
mod pages;
mod pin_routes;
mod problem;
mod program;
mod queue_routes;
mod requests;
mod routes;
mod site_routes;
mod tcp;
pub mod types;
mod workfile_routes;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::drive::Drive;
use crate::notify::Running;
use types::{SettingRow, StopOutcome};

pub use access::{Access, AccessError};
pub use events::Watch;
pub use problem::Problem;
pub use program::is_replaced;
pub use requests::Requests;
pub use tcp::serve_tcp;

/// Requests to stop that may wait at once; one is enough, a second one is told to wait for it.
const STOP_QUEUE: usize = 4;

/// Somebody asks the daemon to unmount and end.
#[derive(Debug)]
pub struct StopRequest {
    /// Detach the mount at once although it is in use.
    pub lazy: bool,
    /// Send what is closed until then, before the daemon ends, but no longer than until this.
    pub send_until: Option<Instant>,
    /// Where to say how it went.
    pub reply: oneshot::Sender<StopOutcome>,
}

/// What the routes work on.
#[derive(Clone, Debug)]
pub struct Face {
    /// The drive.
    pub drive: Drive,
    /// Whether it is to be mounted; a daemon that only scans, or keeps sites in step, has no mount.
    pub mounted: bool,
    /// Who tells people of jobs; nobody, where the drive is not mounted.
    pub notifier: Option<Arc<Running>>,
    /// Where requests to stop go.
    pub stop: mpsc::Sender<StopRequest>,
    /// Cancelled when answers are to come to an end: event streams have none by themselves.
    pub until: CancellationToken,
    /// Where it listens on TCP.
    pub tcp: Option<SocketAddr>,
    /// The settings in force, for people.
    pub settings: Arc<[SettingRow]>,
    /// Who looks on.
    pub watch: Arc<Watch>,
    /// What was asked.
    pub requests: Arc<Requests>,
}

/// Binds the API's socket, replacing one that a dead daemon left. The caller holds the data folder's lock, so no other
/// daemon can be listening there.
///
/// # Errors
/// When the folder can't be written, or the path is longer than the 107 bytes that a socket's may be.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes the queue on which requests to stop arrive.
#[must_use]
pub fn stop_queue() -> (mpsc::Sender<StopRequest>, mpsc::Receiver<StopRequest>) {
    mpsc::channel(STOP_QUEUE)
}

/// Serves the API until `until` is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: UnixListener, face: Face, until: CancellationToken) -> io::Result<()> {
    let app = routes::finished(routes::routes().with_state(face.clone()), &face);
    axum::serve(listener, app)
        .with_graceful_shutdown(until.cancelled_owned())
        .await
}
