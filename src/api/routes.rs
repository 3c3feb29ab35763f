//! The routes, each a few lines over the engine's facade.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use tokio::sync::oneshot;

use super::access::{Admitted, Role};
use super::problem::Problem;
use super::types::{
    Health, LsPage, LsQuery, ScanRequest, ScanState, SessionReport, SettingRow, StopOutcome, UnmountRequest,
};
use super::{Face, StopRequest, copy_routes, limit_routes, pin_routes, queue_routes, site_routes};
use crate::engine::report::Status;
use crate::model::RelPath;
use crate::telemetry::tail::{self, Line};

/// The most rows of one answer of `ls`.
const LS_MAX: usize = 10_000;

pub(super) fn router(state: Face) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/status", get(status))
        .route("/v1/session", get(session))
        .route("/v1/settings", get(settings))
        .route("/v1/log", get(log))
        .route("/v1/events", get(super::events::events))
        .route("/metrics", get(super::metrics::metrics))
        .route("/v1/ls", get(ls))
        .route("/v1/scans", post(scan))
        .route("/v1/scans/{id}", get(scan_state))
        .route("/v1/unmount", post(unmount))
        .merge(queue_routes::routes())
        .merge(copy_routes::routes())
        .merge(pin_routes::routes())
        .merge(limit_routes::routes())
        .merge(site_routes::routes())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no-such-route", "this daemon has no such route"))
        .with_state(state)
}

async fn health(State(api): State<Face>) -> Json<Health> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Health {
        pid: std::process::id(),
        version,
        mounted: api.mounted,
        tcp: api.tcp,
    })
}

/// Who comes by the Unix socket is the drive's owner.
async fn session(admitted: Option<Extension<Admitted>>) -> Json<SessionReport> {
    let role = admitted.map_or(Role::Admin, |Extension(Admitted(role))| role);
    Json(SessionReport { role: role.to_string() })
}

async fn settings(State(api): State<Face>) -> Json<Vec<SettingRow>> {
    Json(api.settings.to_vec())
}

async fn log() -> Json<Vec<Line>> {
    Json(tail::last())
}

async fn status(State(api): State<Face>) -> Result<Json<Status>, Problem> {
    // Counting long queues takes a while.
    let status = aside(move || api.drive.status()).await?;
    Ok(Json(status?))
}

async fn ls(State(api): State<Face>, query: Result<Query<LsQuery>, QueryRejection>) -> Result<Json<LsPage>, Problem> {
    let Query(query) = query.map_err(|e| bad_request(&e))?;
    let path = RelPath::new(&query.path)?;
    let limit = query.limit.unwrap_or(LS_MAX).clamp(1, LS_MAX);
    let entries = aside(move || api.drive.ls(&path, query.after, limit)).await??;
    let next = (entries.len() == limit)
        .then(|| entries.last().map(|e| e.cookie))
        .flatten();
    Ok(Json(LsPage { entries, next }))
}

async fn scan(
    State(api): State<Face>,
    body: Result<Json<ScanRequest>, JsonRejection>,
) -> Result<Json<Vec<ScanState>>, Problem> {
    let Json(request) = body.map_err(|e| bad_body(&e))?;
    let jobs = api.drive.scan(&RelPath::new(&request.path)?)?;
    Ok(Json(
        jobs.iter()
            .map(|j| ScanState {
                id: j.id,
                progress: j.progress(),
            })
            .collect(),
    ))
}

async fn scan_state(State(api): State<Face>, Path(id): Path<u64>) -> Result<Json<ScanState>, Problem> {
    let job = api.drive.scan_job(id);
    let job = job.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is no scan {id}")))?;
    Ok(Json(ScanState {
        id,
        progress: job.progress(),
    }))
}

async fn unmount(
    State(api): State<Face>,
    body: Result<Json<UnmountRequest>, JsonRejection>,
) -> Result<Json<StopOutcome>, Problem> {
    let Json(request) = body.map_err(|e| bad_body(&e))?;
    let stopping = || {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the daemon is already stopping",
        )
    };
    if request.wait && request.leave {
        let title = "either everything is waited for, or it is left: not both";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-request", title));
    }
    if request.wait {
        let timeout = request.timeout_ms.map_or(Duration::MAX, Duration::from_millis);
        let report = api.drive.drain(timeout).await?;
        if !report.done {
            return Ok(Json(StopOutcome::Waiting { report }));
        }
    }
    let (reply, outcome) = oneshot::channel();
    api.stop
        .try_send(StopRequest {
            lazy: request.lazy,
            reply,
        })
        .map_err(|_full_or_gone| stopping())?;
    Ok(Json(outcome.await.map_err(|_gone| stopping())?))
}

/// Runs what may take a while where it holds up no other answer.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let failed = |e: tokio::task::JoinError| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed",
            format!("the answer was cut off: {e}"),
        )
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

pub(super) fn bad_request(e: &dyn std::error::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-request", e.to_string())
}

pub(super) fn bad_body(e: &JsonRejection) -> Problem {
    if e.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the request is too large")
            .hint("ask in several requests, or for a folder or a pattern in place of many paths");
    }
    bad_request(e)
}
