//! Talking to the daemon over its socket.
//!
//! Owns: requests, how long they may take, and what their failures mean. Refuses to know: what is asked. Invariant: every
//! call ends within its patience, whatever state the daemon is in.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use backlot_config::Config;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{CliError, Exit};
use crate::api::Problem;

/// How long the daemon may take for an answer: all of them come out of memory or its database, but for an unmount's, that
/// looks for who keeps the drive busy.
const ANSWER: Duration = Duration::from_secs(10);

/// A client of one daemon.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    socket: PathBuf,
    patience: Duration,
}

/// Who listens on a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Listener {
    /// Nobody.
    Nobody,
    /// A daemon, and its process where the kernel tells.
    Daemon(Option<u32>),
    /// Somebody else's: this user may not ask.
    Foreign,
}

impl Client {
    /// A client of the daemon that these settings describe, running or not.
    pub(super) fn new(config: &Config) -> Result<Self, CliError> {
        Self::at(config.drive.socket_path(), ANSWER)
    }

    pub(super) fn at(socket: PathBuf, patience: Duration) -> Result<Self, CliError> {
        // Nothing is ciphered on a socket of this machine, but a client wants to know what it would do.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .tls_certs_only([])
            .unix_socket(socket.clone())
            .timeout(patience)
            .build()
            .map_err(|e| CliError::failed("make a client for the daemon", &e))?;
        Ok(Self { http, socket, patience })
    }

    /// Says who listens, without asking them anything.
    pub(super) async fn listener(&self) -> Listener {
        match tokio::net::UnixStream::connect(&self.socket).await {
            Ok(stream) => {
                let peer = stream.peer_cred().ok().and_then(|c| c.pid());
                Listener::Daemon(peer.and_then(|pid| u32::try_from(pid).ok()))
            }
            Err(e) if e.kind() == ErrorKind::PermissionDenied => Listener::Foreign,
            // Its queue of callers is full: it listens, and does nothing.
            Err(e) if e.kind() == ErrorKind::WouldBlock => Listener::Daemon(None),
            Err(_) => Listener::Nobody,
        }
    }

    /// Says whether a daemon listens.
    pub(super) async fn is_running(&self) -> bool {
        matches!(self.listener().await, Listener::Daemon(_))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, route: &str, query: &impl Serialize) -> Result<T, CliError> {
        self.send(self.http.get(format!("http://backlot/v1/{route}")).query(query))
            .await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> Result<T, CliError> {
        self.send(self.http.post(format!("http://backlot/v1/{route}")).json(body))
            .await
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, CliError> {
        // Looked at apart, since the reason is what decides what to do next.
        let pid = match self.listener().await {
            Listener::Daemon(pid) => pid,
            Listener::Nobody => return Err(self.not_running()),
            Listener::Foreign => {
                return Err(CliError::failed_because(
                    format!("talk to the daemon on {}", self.socket.display()),
                    "it belongs to another user",
                )
                .hint("run this as that user"));
            }
        };
        let response = request.send().await.map_err(|e| {
            if e.is_timeout() {
                self.hangs(pid)
            } else {
                CliError::failed("get an answer from the daemon", &e.without_url())
                    .hint("it may just have ended; `backlot status` tells")
            }
        })?;
        if response.status().is_success() {
            return response.json().await.map_err(|e| {
                CliError::failed("understand the daemon's answer", &e.without_url())
                    .hint("is the daemon of another version than this program? unmount and mount again")
            });
        }
        let status = response.status();
        match response.json::<Problem>().await {
            Ok(problem) => Err(problem.into()),
            Err(_not_a_problem) => Err(CliError::new(Exit::Failed, format!("the daemon answered {status}"))),
        }
    }

    /// The daemon listens, and does not answer.
    fn hangs(&self, pid: Option<u32>) -> CliError {
        let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        CliError::new(
            Exit::Failed,
            format!("the daemon{pid} runs but did not answer within {:?}", self.patience),
        )
        .hint("`backlot doctor` looks into it; `backlot abort` frees whoever waits for the drive, without the daemon")
    }

    fn not_running(&self) -> CliError {
        CliError::new(Exit::NoDaemon, "the daemon is not running")
            .why(format!("nobody listens on {}", self.socket.display()))
            .hint("`backlot mount` starts it; if it was started with --config or --set, give the same here")
    }
}
