//! Talking to the daemon over its socket.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use backlot_config::Config;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{CliError, Exit};
use crate::api::Problem;

/// How long the daemon may take for an answer: all of them come out of memory or its database.
const ANSWER: Duration = Duration::from_secs(20);

/// A client of one daemon.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that these settings describe, running or not.
    pub(super) fn new(config: &Config) -> Result<Self, CliError> {
        Self::at(config.drive.socket_path(), ANSWER)
    }

    pub(super) fn at(socket: PathBuf, answer: Duration) -> Result<Self, CliError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket.clone())
            .timeout(answer)
            .build()
            .map_err(|e| CliError::failed("make a client for the daemon", &e))?;
        Ok(Self { http, socket })
    }

    /// Says whether a daemon listens.
    pub(super) async fn is_running(&self) -> bool {
        tokio::net::UnixStream::connect(&self.socket).await.is_ok()
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, route: &str, query: &impl Serialize) -> Result<T, CliError> {
        self.send(self.http.get(format!("http://backlot/v1/{route}")).query(query)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> Result<T, CliError> {
        self.send(self.http.post(format!("http://backlot/v1/{route}")).json(body)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, CliError> {
        // Looked at apart, since the reason is what decides what to do next.
        if let Err(e) = tokio::net::UnixStream::connect(&self.socket).await {
            return Err(self.not_running(&e));
        }
        let response = request.send().await.map_err(|e| {
            let error = CliError::failed("get an answer from the daemon", &e);
            if e.is_timeout() { error.hint("it runs but does not answer; `backlot doctor` looks into it") } else { error }
        })?;
        if response.status().is_success() {
            return response.json().await.map_err(|e| {
                CliError::failed("understand the daemon's answer", &e)
                    .hint("is the daemon of another version than this program? restart it")
            });
        }
        let status = response.status();
        match response.json::<Problem>().await {
            Ok(problem) => Err(problem.into()),
            Err(_not_a_problem) => Err(CliError::new(Exit::Failed, format!("the daemon answered {status}"))),
        }
    }

    fn not_running(&self, e: &std::io::Error) -> CliError {
        let socket = self.socket.display();
        match e.kind() {
            ErrorKind::PermissionDenied => {
                CliError::new(Exit::Failed, format!("no access to the daemon's socket {socket}"))
                    .hint("the drive belongs to another user; run this as that user")
            }
            _ => CliError::new(Exit::NoDaemon, format!("no daemon listens on {socket}"))
                .hint("`backlot mount` starts one; with other settings than the default, give the same --config"),
        }
    }
}
