//! The routes about how fast bytes may move.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::Face;
use super::queue_routes::{Answer, Asked, body};
use crate::engine::report::{LimitRequest, SiteLimitReport};

pub(super) fn routes() -> Router<Face> {
    Router::new().route("/v1/limits", get(limits).post(change))
}

async fn limits(State(api): State<Face>) -> Answer<Vec<SiteLimitReport>> {
    Ok(Json(api.drive.limits()))
}

async fn change(State(api): State<Face>, asked: Asked<LimitRequest>) -> Answer<SiteLimitReport> {
    Ok(Json(api.drive.set_limits(&body(asked)?)?))
}
