//! The routes about how fast bytes may move.

use axum::Json;
use axum::extract::State;

use super::Face;
use super::asked::{Answer, Asked, body};
use super::openapi::Routes;
use crate::engine::report::{LimitRequest, SiteLimitReport};

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .get("/v1/limits", "How fast bytes may move, of each site.", limits)
        .post("/v1/limits", "Sets a site's limits until the daemon ends.", change)
}

async fn limits(State(api): State<Face>) -> Answer<Vec<SiteLimitReport>> {
    Ok(Json(api.drive.limits()))
}

async fn change(State(api): State<Face>, asked: Asked<LimitRequest>) -> Answer<SiteLimitReport> {
    Ok(Json(api.drive.set_limits(&body(asked)?)?))
}
