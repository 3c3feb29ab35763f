//! The routes, each a few lines over the engine's facade.

use std::time::Duration;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::{Extension, Json, Router};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use super::access::{Admitted, Role};
use super::asked::{Answer, Asked, Path, Query, body};
use super::openapi::{Routes, openapi};
use super::problem::Problem;
use super::types::{
    Health, LsPage, LsQuery, ScanRequest, ScanState, SessionReport, SettingRow, StopOutcome, UnmountRequest,
};
use super::{
    Face, StopRequest, copy_routes, limit_routes, notify_routes, pin_routes, queue_routes, requests, site_routes,
    workfile_routes,
};
use crate::engine::report::Status;
use crate::failpoint;
use crate::model::RelPath;
use crate::telemetry::tail::{self, Line};

/// The most rows of one answer of `ls`.
const LS_MAX: usize = 10_000;
/// The longest that one request to unmount waits for what is to be sent: less than clients have patience.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// How long it may take at least, with what is closed between that wait and the unmount.
const THE_REST: Duration = Duration::from_secs(10);

/// All routes of both listeners. Each is told of in the document: see CONTRIBUTING.
pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .get("/v1/openapi.json", "This document.", openapi)
        .get(
            "/v1/health",
            "That the daemon runs, without a look at the store or the mount.",
            health,
        )
        .get("/v1/status", "How the drive is: sites, cache, queues, pins.", status)
        .get("/v1/session", "What who asks may do.", session)
        .get(
            "/v1/settings",
            "The settings in force, and where each comes from.",
            settings,
        )
        .get("/v1/log", "The last lines of the log, the oldest first.", log)
        .get(
            "/v1/events",
            "What changes, as it changes: server-sent events `change`, `status` and `log`.",
            super::events::events,
        )
        .get("/metrics", "Figures for Prometheus.", super::metrics::metrics)
        .get("/v1/ls", "A folder, page by page.", ls)
        .post(
            "/v1/scans",
            "Looks at sites again; answers at once, with the scans begun.",
            scan,
        )
        .get("/v1/scans/{id}", "How far a scan is.", scan_state)
        .post("/v1/unmount", "Unmounts the drive and ends the daemon.", unmount)
        .merge(queue_routes::routes())
        .merge(copy_routes::routes())
        .merge(pin_routes::routes())
        .merge(limit_routes::routes())
        .merge(site_routes::routes())
        .merge(notify_routes::routes())
        .merge(workfile_routes::routes())
}

/// What all listeners' routes have in common: answers to what is no route, a record of requests, problems as problems.
pub(super) fn finished(routes: Router, face: &Face) -> Router {
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(face.requests.clone(), requests::watched))
}

async fn no_such_route(uri: Uri) -> Problem {
    let title = format!("this daemon has no {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", title).hint("GET /v1/openapi.json says what there is")
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let title = format!("{method} is not possible at {}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-such-method", title).hint("the header `Allow` says what is")
}

async fn health(State(api): State<Face>) -> Json<Health> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Health {
        pid: std::process::id(),
        version,
        mounted: api.mounted,
        tcp: api.tcp,
        replaced: super::is_replaced(),
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

async fn status(State(api): State<Face>) -> Answer<Status> {
    // Counting long queues takes a while.
    let status = aside(move || api.drive.status()).await?;
    Ok(Json(status?))
}

async fn ls(State(api): State<Face>, Query(query): Query<LsQuery>) -> Answer<LsPage> {
    let path = RelPath::new(&query.path)?;
    let limit = query.limit.unwrap_or(LS_MAX).clamp(1, LS_MAX);
    let entries = aside(move || api.drive.ls(&path, query.cursor, limit)).await??;
    let next = (entries.len() == limit)
        .then(|| entries.last().map(|e| e.cookie))
        .flatten();
    Ok(Json(LsPage { entries, next }))
}

async fn scan(State(api): State<Face>, asked: Asked<ScanRequest>) -> Answer<Vec<ScanState>> {
    let request = body(asked)?;
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

async fn scan_state(State(api): State<Face>, Path(id): Path<u64>) -> Answer<ScanState> {
    let job = api.drive.scan_job(id);
    let none = || {
        let title = format!("there is no scan {id}, or not any more");
        Problem::new(StatusCode::NOT_FOUND, "not-found", title).hint("POST /v1/scans begins one, and says its number")
    };
    let job = job.ok_or_else(none)?;
    Ok(Json(ScanState {
        id,
        progress: job.progress(),
    }))
}

async fn unmount(State(api): State<Face>, asked: Asked<UnmountRequest>) -> Answer<StopOutcome> {
    let request = body(asked)?;
    let stopping = || {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the daemon is already stopping",
        )
        .hint("wait for its end; `backlot status` shows it")
    };
    if request.wait && request.leave {
        let title = "either everything is waited for, or it is left: not both";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-request", title).hint("leave out `wait` or `leave`"));
    }
    let mut send_until = None;
    if request.wait {
        let timeout = request.timeout_ms.map_or(WAIT_MAX, Duration::from_millis).min(WAIT_MAX);
        let begun = Instant::now();
        let report = api.drive.drain(timeout).await?;
        if !report.done {
            return Ok(Json(StopOutcome::Waiting { report }));
        }
        // Until it is unmounted, one more may be closed.
        send_until = Some(begun + timeout.max(THE_REST));
        failpoint::hit("unmount.drained");
    }
    let (reply, outcome) = oneshot::channel();
    api.stop
        .try_send(StopRequest {
            lazy: request.lazy,
            send_until,
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
        .hint("the log says more; `backlot doctor` looks at what may be wrong")
    };
    let span = Span::current();
    let work = move || span.in_scope(work);
    tokio::task::spawn_blocking(work).await.map_err(failed)
}
