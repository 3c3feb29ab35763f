//! The connections to one server.
//!
//! Owns: how many there are and which one a request takes. Refuses to know: what is asked. Invariants: never more than
//! the settings allow; at most one is being opened at a time, and all who need it wait for the same; one that has ended
//! is never handed out.

use std::hash::RandomState;
use std::ops::Deref;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;
use tracing::{debug, info};

use super::connect::{Connection, Server};
use super::error::{Closed, Fault};
use super::files::KEPT_OPEN;
use super::session::{Features, Handle};
use crate::model::RelPath;
use crate::providers::ErrorKind;

/// With more than this to move for the least busy connection, another one is opened: a megabyte is where that starts to
/// pay.
const BUSY: usize = 1 << 20;
/// What an operation counts for that moves no content.
const LIGHT: usize = 4 << 10;
/// What an operation counts for during which the server writes a file to its disk: it answers nothing else on that connection
/// meanwhile (OpenSSH's), so that who comes then takes another.
pub(super) const SETTLES: u64 = BUSY as u64 + 1;
/// The most that one operation counts for: how long it goes on is nobody's business who chooses now.
const HEAVY: u64 = 16 << 20;
/// For so long after the server has refused our credentials, it isn't asked again with the same ones: servers lock out those
/// who insist.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// The same, where it was shown none.
const NOT_SHOWN_FOR: Duration = Duration::from_secs(2);

/// Returns what an operation counts for that moves so many bytes.
fn weight(bytes: u64) -> usize {
    usize::try_from(bytes.min(HEAVY)).unwrap_or(LIGHT).max(LIGHT)
}

type Outcome = Result<Arc<Connection>, Arc<Closed>>;
type Opening = Shared<BoxFuture<'static, Outcome>>;

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: Server,
    most: usize,
    state: Mutex<State>,
    /// By which credentials are told apart, without keeping them.
    marks: RandomState,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Connection>>,
    opening: Option<Opening>,
    refused: Option<Refused>,
    features: Option<Features>,
}

/// A login that the server refused.
struct Refused {
    at: Instant,
    why: Arc<Closed>,
    /// Of the credentials.
    mark: Option<u64>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(server: Server, most: usize) -> Self {
        Self {
            shared: Arc::new(Inner {
                server,
                most: most.max(1),
                state: Mutex::default(),
                marks: RandomState::new(),
            }),
        }
    }

    pub(super) fn most(&self) -> usize {
        self.shared.most
    }

    /// Returns the least busy connection, for somebody who means to move so many bytes; opens one where there is none.
    pub(super) async fn get(&self, bytes: u64) -> Result<Lease, Fault> {
        let bytes = weight(bytes);
        let opening = {
            let mut state = self.shared.lock();
            state.open.retain(|c| c.session.closed().is_none());
            let best = state
                .open
                .iter()
                .map(|c| (c.promised.load(Relaxed), c))
                .min_by_key(|(load, _)| *load);
            if let Some((load, best)) = best {
                let best = Arc::clone(best);
                if load > BUSY
                    && state.open.len() < self.shared.most
                    && state.opening.is_none()
                    && self.shared.refused(&state).is_none()
                {
                    // Not waited for: it serves those who come later.
                    drop(self.shared.open(&mut state));
                }
                return Ok(Lease::new(best, bytes));
            }
            if let Some(why) = self.shared.refused(&state) {
                return Err(Fault::Closed(why));
            }
            match &state.opening {
                Some(opening) => opening.clone(),
                None => self.shared.open(&mut state),
            }
        };
        opening.await.map(|c| Lease::new(c, bytes)).map_err(Fault::Closed)
    }

    /// Returns a connection that keeps an upload's temporary file open, for somebody who means to move so many bytes.
    pub(super) fn get_with_temp(&self, temp: &RelPath, bytes: u64) -> Option<Lease> {
        let connection = self.living().find(|c| c.files.get(temp, None).is_some())?;
        Some(Lease::new(connection, weight(bytes)))
    }

    /// Takes an upload's temporary file from wherever it is kept open, for somebody who means to move so many bytes there.
    /// Whoever drops a handle closes it; who writes to it yet, closes it when that is done.
    pub(super) fn take_temp(&self, temp: &RelPath, bytes: u64) -> Vec<(Lease, Handle)> {
        let take = |connection: Arc<Connection>| {
            let handle = Arc::into_inner(connection.files.take(temp, None)?)?;
            Some((Lease::new(connection, weight(bytes)), handle))
        };
        self.living().filter_map(take).collect()
    }

    fn living(&self) -> impl Iterator<Item = Arc<Connection>> {
        let open = self.shared.lock().open.clone();
        open.into_iter().filter(|c| c.session.closed().is_none())
    }

    /// Ends every connection; what waits for one fails now. A refused login is forgotten too.
    pub(super) fn forget_connections(&self) {
        let open = {
            let mut state = self.shared.lock();
            state.refused = None;
            std::mem::take(&mut state.open)
        };
        for connection in open {
            connection
                .session
                .end("the machine slept, and the connection is not to be trusted");
        }
    }

    /// As [`Credentials::mark`](super::auth::Credentials::mark), where the server refused what it was shown: one that we refuse,
    /// since it has another key, saw nothing.
    pub(super) fn login_mark(&self) -> Option<u64> {
        let was_shown = self
            .shared
            .lock()
            .refused
            .as_ref()
            .is_some_and(|refused| refused.why.shown);
        was_shown.then(|| self.shared.server.credentials.mark(&self.shared.marks))?
    }

    /// Returns what the server offered at the last contact.
    pub(super) fn features(&self) -> Option<Features> {
        self.shared.lock().features
    }
}

/// A connection in use; dropping it takes back what its user meant to move.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Arc<Connection>,
    bytes: usize,
}

impl Lease {
    fn new(connection: Arc<Connection>, bytes: usize) -> Self {
        connection.promised.fetch_add(bytes, Relaxed);
        Self { connection, bytes }
    }
}

impl Deref for Lease {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.promised.fetch_sub(self.bytes, Relaxed);
    }
}

impl Inner {
    /// Returns why the server is not asked now. Reads a small file for that, while there was a refusal shortly before.
    fn refused(&self, state: &State) -> Option<Arc<Closed>> {
        let refused = state.refused.as_ref()?;
        let hold = if refused.why.shown { REFUSED_FOR } else { NOT_SHOWN_FOR };
        if refused.at.elapsed() >= hold {
            return None;
        }
        let mark = self.server.credentials.mark(&self.marks);
        (mark == refused.mark).then(|| Arc::clone(&refused.why))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to open a connection, in a task of its own: who waits for it may give up, the others still get it.
    fn open(self: &Arc<Self>, state: &mut State) -> Opening {
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move {
            // Before: what is put in place meanwhile has not been refused.
            let mark = inner.server.credentials.mark(&inner.marks);
            let outcome = inner.server.connect().await.map(Arc::new).map_err(Arc::new);
            let mut state = inner.lock();
            state.opening = None;
            match &outcome {
                Ok(connection) => {
                    state.open.push(Arc::clone(connection));
                    state.refused = None;
                    state.features = Some(connection.session.features());
                    tokio::spawn(tidy(Arc::downgrade(connection)));
                    info!(host = %inner.server.name(), connections = state.open.len(), "connected");
                }
                Err(why) => {
                    debug!(host = %inner.server.name(), why = %why.why, "not connected");
                    if why.kind == ErrorKind::Auth {
                        state.refused = Some(Refused {
                            at: Instant::now(),
                            why: Arc::clone(why),
                            mark,
                        });
                    }
                }
            }
            outcome
        });
        let opening = task
            .map(|out| out.unwrap_or_else(|e| Err(Arc::new(Closed::new(ErrorKind::Protocol, e.to_string())))))
            .boxed()
            .shared();
        state.opening = Some(opening.clone());
        opening
    }
}

/// Closes files that nobody reads any more, as long as the connection is there.
async fn tidy(connection: Weak<Connection>) {
    loop {
        tokio::time::sleep(KEPT_OPEN / 2).await;
        let Some(connection) = connection.upgrade() else { return };
        connection.files.expire();
    }
}
