//! The routes about who is told what became of jobs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Face;
use super::asked::{Answer, Asked, body};
use super::openapi::Routes;
use super::problem::Problem;
use super::routes::aside;
use super::types::{NotifyRetried, NotifyRetryRequest, NotifyTestRequest};
use crate::notify::report::{NotifyReport, TestReport};
use crate::notify::{NoReceiver, Running};

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .get(
            "/v1/notify",
            "Who is told what became of jobs, and how the newest messages stand.",
            report,
        )
        .post(
            "/v1/notify/test",
            "Sends a test message to each receiver at once, and says what came of it.",
            test,
        )
        .post(
            "/v1/notify/retry",
            "Tries messages again now that wait or were given up.",
            retry,
        )
}

fn notifier(api: &Face) -> Result<Arc<Running>, Problem> {
    api.notifier.clone().ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "not-mounted",
            "nobody is told anything while the drive is neither mounted nor served by `backlot sync`",
        )
        .hint("`backlot mount` mounts it")
    })
}

async fn report(State(api): State<Face>) -> Answer<NotifyReport> {
    let notifier = notifier(&api)?;
    Ok(Json(aside(move || notifier.report()).await??))
}

async fn test(State(api): State<Face>, asked: Asked<NotifyTestRequest>) -> Answer<Vec<TestReport>> {
    let request = body(asked)?;
    Ok(Json(notifier(&api)?.test(request.receiver.as_deref()).await?))
}

async fn retry(State(api): State<Face>, asked: Asked<NotifyRetryRequest>) -> Answer<NotifyRetried> {
    let request = body(asked)?;
    let messages = notifier(&api)?.retry(request.message).await?;
    if let (Some(id), 0) = (request.message, messages) {
        let none = format!("there is no message {id} that waits or was given up");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", none).hint("`backlot notify ls` shows them"));
    }
    Ok(Json(NotifyRetried { messages }))
}

impl From<NoReceiver> for Problem {
    fn from(e: NoReceiver) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", e.to_string())
            .hint("`backlot notify ls` shows those of the settings that the daemon was started with")
    }
}
