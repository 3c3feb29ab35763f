//! The daemon's HTTP interface on a Unix socket: what the command line, and later the dashboard, are clients of.
//!
//! Owns: routes, their JSON, problems as answers. Refuses to know: providers, the cache, how the drive is mounted.
//! Invariants: the socket is for its owner alone (0600); a path argument never leaves the drive; no answer holds a secret.

mod limit_routes;
mod pin_routes;
mod problem;
mod queue_routes;
mod routes;
pub mod types;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::engine::drive::Drive;
use types::StopOutcome;

pub use problem::Problem;

/// Requests to stop that may wait at once; one is enough, a second one is told to wait for it.
const STOP_QUEUE: usize = 4;

/// Somebody asks the daemon to unmount and end.
#[derive(Debug)]
pub struct StopRequest {
    /// Detach the mount at once although it is in use.
    pub lazy: bool,
    /// Where to say how it went.
    pub reply: oneshot::Sender<StopOutcome>,
}

/// What the routes work on.
#[derive(Clone, Debug)]
pub struct Face {
    /// The drive.
    pub drive: Drive,
    /// Whether it is to be mounted; a daemon that only scans has no mount.
    pub mounted: bool,
    /// Where requests to stop go.
    pub stop: mpsc::Sender<StopRequest>,
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
    let app = routes::router(face);
    axum::serve(listener, app)
        .with_graceful_shutdown(until.cancelled_owned())
        .await
}
