//! The routes about copies between sites and their jobs.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Face;
use super::queue_routes::{Answer, Asked, body};
use super::routes::{aside, bad_request};
use crate::engine::report::{Changed, CopyReport, CopyRequest, JobQuery, JobReport, Selection};

pub(super) fn routes() -> Router<Face> {
    Router::new()
        .route("/v1/copies", post(copy))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/tasks/exclude", post(exclude))
}

async fn copy(State(api): State<Face>, asked: Asked<CopyRequest>) -> Answer<CopyReport> {
    Ok(Json(api.drive.copy(&body(asked)?).await?))
}

async fn jobs(State(api): State<Face>, query: Result<Query<JobQuery>, QueryRejection>) -> Answer<Vec<JobReport>> {
    let Query(query) = query.map_err(|e| bad_request(&e))?;
    Ok(Json(aside(move || api.drive.jobs(&query)).await??))
}

async fn job(State(api): State<Face>, Path(id): Path<u64>) -> Answer<JobReport> {
    Ok(Json(aside(move || api.drive.job(id)).await??))
}

async fn exclude(State(api): State<Face>, asked: Asked<Selection>) -> Answer<Changed> {
    Ok(Json(api.drive.exclude(&body(asked)?).await?))
}
