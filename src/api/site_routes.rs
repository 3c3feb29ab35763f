//! The routes about sites and about what keeps them in step.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Face;
use super::queue_routes::{Answer, Asked, body};
use super::routes::bad_request;
use crate::engine::report::{
    SiteCheckReport, SiteCheckRequest, SiteRowReport, SiteStateQuery, SiteStatesReport, SyncReport,
};
use crate::model::RelPath;

pub(super) fn routes() -> Router<Face> {
    Router::new()
        .route("/v1/sites", get(sites))
        .route("/v1/sites/{name}/check", post(check))
        .route("/v1/site-states", get(states).post(look))
        .route("/v1/sync", get(sync))
}

async fn sites(State(api): State<Face>) -> Answer<Vec<SiteRowReport>> {
    Ok(Json(api.drive.site_list()))
}

async fn check(
    State(api): State<Face>,
    Path(name): Path<String>,
    asked: Asked<SiteCheckRequest>,
) -> Answer<SiteCheckReport> {
    let request = body(asked)?;
    Ok(Json(api.drive.check_site(&name, request.read_only).await?))
}

async fn states(
    State(api): State<Face>,
    query: Result<Query<SiteStateQuery>, QueryRejection>,
) -> Answer<SiteStatesReport> {
    let Query(query) = query.map_err(|e| bad_request(&e))?;
    let path = RelPath::new(&query.path)?;
    Ok(Json(api.drive.site_states(&path, false).await?))
}

async fn look(State(api): State<Face>, asked: Asked<SiteStateQuery>) -> Answer<SiteStatesReport> {
    let path = RelPath::new(&body(asked)?.path)?;
    Ok(Json(api.drive.site_states(&path, true).await?))
}

async fn sync(State(api): State<Face>) -> Answer<Vec<SyncReport>> {
    Ok(Json(api.drive.sync_report()))
}
