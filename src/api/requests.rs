//! What every request has, whatever it asks for: a span for what is logged meanwhile, a place in the figures, and a problem
//! as its answer where it failed.
//!
//! Owns: the numbers of requests, their counts. Refuses to know: what they ask for. Invariants: an answer of status 400 and
//! above is a [`Problem`], whoever made it; neither span nor figures hold what a request carries (queries, tokens, paths of
//! the drive), only the route that it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::to_bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument as _, debug, info_span};

use super::problem::{KIND, Problem};

/// The most that is read of an answer which is to become a problem, in bytes.
const SAID_MAX: usize = 4096;

/// Requests since the start, by how they were answered.
#[derive(Debug, Default)]
pub struct Requests {
    begun: AtomicU64,
    /// By the first digit of their status.
    answered: [AtomicU64; 6],
}

impl Requests {
    /// Returns the requests answered with statuses of each class, from 2xx on.
    pub(super) fn answered(&self) -> [(&'static str, u64); 4] {
        let classes = ["2xx", "3xx", "4xx", "5xx"];
        std::array::from_fn(|at| (classes[at], self.answered[at + 2].load(Ordering::Relaxed)))
    }
}

/// Follows a request to its answer.
pub(super) async fn watched(State(requests): State<Arc<Requests>>, request: Request, next: Next) -> Response {
    let id = requests.begun.fetch_add(1, Ordering::Relaxed) + 1;
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str);
    let span = info_span!("request", id, method = %request.method(), route);
    async move {
        let begun = Instant::now();
        let response = as_problem(next.run(request).await).await;
        let status = response.status().as_u16();
        if let Some(count) = requests.answered.get(usize::from(status / 100)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        debug!(status, took = ?begun.elapsed(), "answered");
        response
    }
    .instrument(span)
    .await
}

/// Makes what the framework says by itself (no such method, too large a body, …) a problem as well.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == KIND);
    if status.as_u16() < 400 || is_problem {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let said = to_bytes(body, SAID_MAX).await.unwrap_or_default();
    let title = match String::from_utf8_lossy(&said).trim() {
        "" => status.canonical_reason().unwrap_or("it failed").to_lowercase(),
        said => said.to_owned(),
    };
    let kind = match status {
        StatusCode::METHOD_NOT_ALLOWED => "no-such-method",
        StatusCode::PAYLOAD_TOO_LARGE => "too-large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "media-type",
        status if status.is_server_error() => "failed",
        _ => "bad-request",
    };
    let hint = if status.is_server_error() {
        "run `backlot doctor`"
    } else {
        "GET /v1/openapi.json says what each request may be"
    };
    let mut told = Problem::new(status, kind, title).hint(hint).into_response();
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.remove(header::CONTENT_LENGTH);
    told.headers_mut().extend(head.headers);
    told
}
