//! The routes about work files.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Face;
use super::asked::{Answer, Asked, Path, body};
use super::openapi::Routes;
use super::problem::Problem;
use crate::engine::report::{FetchLastRequest, FetchLastState};
use crate::engine::workfile::WorkfileError;

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .post(
            "/v1/workfiles/fetch-last",
            "Begins to bring a task's last published work file into its work folder; answers once it is known which.",
            fetch_last,
        )
        .get("/v1/workfiles/fetches/{id}", "How far that is.", fetch)
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
    let none = || {
        let title = format!("there is no fetch {id}, or not any more");
        Problem::new(StatusCode::NOT_FOUND, "not-found", title)
            .hint("POST /v1/workfiles/fetch-last begins one, and says its number")
    };
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
