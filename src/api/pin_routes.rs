//! The routes about pins, each a few lines over the engine's facade.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Face;
use super::problem::Problem;
use super::queue_routes::{Answer, Asked, body};
use super::routes::aside;
use super::types::UnpinRequest;
use crate::engine::report::{PinReport, PinRequest, PinsReport};

pub(super) fn routes() -> Router<Face> {
    Router::new()
        .route("/v1/pins", get(pins).post(pin))
        .route("/v1/pins/remove", post(unpin))
}

async fn pins(State(api): State<Face>) -> Answer<PinsReport> {
    // All that is pinned is gone through.
    Ok(Json(aside(move || api.drive.pins()).await?.map_err(Problem::from)?))
}

async fn pin(State(api): State<Face>, asked: Asked<PinRequest>) -> Answer<Vec<PinReport>> {
    Ok(Json(api.drive.pin(&body(asked)?).await?))
}

async fn unpin(State(api): State<Face>, asked: Asked<UnpinRequest>) -> Answer<Vec<PinReport>> {
    Ok(Json(api.drive.unpin(&body(asked)?.what).await?))
}
