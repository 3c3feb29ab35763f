//! The routes about sites and about what keeps them in step.

use axum::Json;
use axum::extract::State;

use super::Face;
use super::asked::{Answer, Asked, Path, Query, body};
use super::openapi::Routes;
use crate::engine::report::{
    SiteCheckReport, SiteCheckRequest, SiteRowReport, SiteStateQuery, SiteStatesReport, SyncReport,
};
use crate::model::RelPath;

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .get("/v1/sites", "The sites, and what each is to which project.", sites)
        .post(
            "/v1/sites/{name}/check",
            "Tries a site out: connects, lists, writes a small file and removes it.",
            check,
        )
        .get(
            "/v1/site-states",
            "Where a file, or all files of a folder, stand at each site, as far as is known.",
            states,
        )
        .post("/v1/site-states", "The same, after the sites were asked.", look)
        .get("/v1/sync", "What the service that keeps sites in step is at.", sync)
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

async fn states(State(api): State<Face>, Query(query): Query<SiteStateQuery>) -> Answer<SiteStatesReport> {
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
