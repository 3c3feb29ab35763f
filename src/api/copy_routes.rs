//! The routes about copies between sites and their jobs.

use axum::Json;
use axum::extract::State;

use super::Face;
use super::asked::{Answer, Asked, Path, Query, body};
use super::openapi::Routes;
use super::routes::aside;
use crate::engine::report::{Changed, CopyReport, CopyRequest, JobQuery, JobReport, Selection};

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .post("/v1/copies", "Copies files from one site to another.", copy)
        .get("/v1/jobs", "The jobs of copies.", jobs)
        .get("/v1/jobs/{id}", "A job of copies.", job)
        .post("/v1/tasks/exclude", "Leaves copies out of their jobs.", exclude)
}

async fn copy(State(api): State<Face>, asked: Asked<CopyRequest>) -> Answer<CopyReport> {
    Ok(Json(api.drive.copy(&body(asked)?).await?))
}

async fn jobs(State(api): State<Face>, Query(query): Query<JobQuery>) -> Answer<Vec<JobReport>> {
    Ok(Json(aside(move || api.drive.jobs(&query)).await??))
}

async fn job(State(api): State<Face>, Path(id): Path<u64>) -> Answer<JobReport> {
    Ok(Json(aside(move || api.drive.job(id)).await??))
}

async fn exclude(State(api): State<Face>, asked: Asked<Selection>) -> Answer<Changed> {
    Ok(Json(api.drive.exclude(&body(asked)?).await?))
}
