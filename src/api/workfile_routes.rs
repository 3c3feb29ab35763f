//! The routes about work files.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Face;
use super::problem::Problem;
use super::queue_routes::{Answer, Asked, body};
use crate::engine::report::{FetchLastRequest, FetchLastState};
use crate::engine::workfile::WorkfileError;

pub(super) fn routes() -> Router<Face> {
    Router::new()
        .route("/v1/workfiles/fetch-last", post(fetch_last))
        .route("/v1/workfiles/fetches/{id}", get(fetch))
}

async fn fetch_last(State(api): State<Face>, asked: Asked<FetchLastRequest>) -> Answer<FetchLastState> {
    let fetch = api.drive.fetch_last_workfile(&body(asked)?).await?;
    Ok(Json(FetchLastState {
        id: fetch.id,
        progress: fetch.progress(),
    }))
}

async fn fetch(State(api): State<Face>, Path(id): Path<u64>) -> Answer<FetchLastState> {
    let fetch = api.drive.workfile_fetch(id);
    let none = || Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is no fetch {id}"));
    Ok(Json(FetchLastState {
        id,
        progress: fetch.ok_or_else(none)?.progress(),
    }))
}

impl From<WorkfileError> for Problem {
    fn from(e: WorkfileError) -> Self {
        let title = e.to_string();
        let not_found = |hint: &str| Self::new(StatusCode::NOT_FOUND, "not-found", title.clone()).hint(hint);
        let conflict = |kind: &str| Self::new(StatusCode::CONFLICT, kind, title.clone());
        match e {
            WorkfileError::NoProject(_) => not_found("`backlot status` shows the projects"),
            WorkfileError::NotWork { .. } => Self::new(StatusCode::BAD_REQUEST, "not-a-work-folder", title)
                .hint("give the work folder of a task, or set [workfiles] `work` to the studio's layout"),
            WorkfileError::NotPublished { .. } => {
                not_found("has it been published? if it is published elsewhere, set [workfiles] `publish`")
            }
            WorkfileError::NoFile { .. } => {
                not_found("is it called otherwise? then set [workfiles] `publish-file` to the studio's layout")
            }
            WorkfileError::Several { .. } => conflict("several").hint("choose one with --ext"),
            WorkfileError::Busy(_) => conflict("busy").hint("wait for that"),
            WorkfileError::Lookup(e) => e.into(),
            WorkfileError::Path(e) => e.into(),
            WorkfileError::State(e) => e.into(),
            WorkfileError::File { .. } | WorkfileError::TooLong(_) | WorkfileError::Ends => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", title)
            }
        }
    }
}
