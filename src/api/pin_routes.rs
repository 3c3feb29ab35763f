//! The routes about pins, hydrations and the cache, each a few lines over the engine's facade.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Face;
use super::problem::Problem;
use super::queue_routes::{Answer, Asked, body};
use super::routes::{aside, bad_request};
use super::types::{HydrateRequest, HydrationState, PathsRequest, TopQuery, UnpinRequest};
use crate::engine::hydrations::Wanted;
use crate::engine::report::{
    CacheStat, CacheTop, EvictReport, PinReport, PinRequest, PinsReport, ProgramsReport, VerifyProgress,
};

/// Rows of `cache top` if nobody says how many.
const TOP: usize = 20;

pub(super) fn routes() -> Router<Face> {
    Router::new()
        .route("/v1/pins", get(pins).post(pin))
        .route("/v1/pins/remove", post(unpin))
        .route("/v1/hydrations", post(hydrate))
        .route("/v1/hydrations/{id}", get(hydration))
        .route("/v1/cache", get(cache))
        .route("/v1/cache/top", get(top))
        .route("/v1/cache/programs", get(programs))
        .route("/v1/cache/evict", post(evict))
        .route("/v1/cache/verify", get(verification).post(verify))
        .route("/v1/cache/clear", post(clear))
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

async fn hydrate(State(api): State<Face>, asked: Asked<HydrateRequest>) -> Answer<HydrationState> {
    let request = body(asked)?;
    let what = if request.heads { Wanted::Heads } else { Wanted::All };
    let job = api.drive.hydrate(&request.paths, what).await?;
    Ok(Json(HydrationState {
        id: job.id,
        progress: job.progress(),
    }))
}

async fn hydration(State(api): State<Face>, Path(id): Path<u64>) -> Answer<HydrationState> {
    let job = api.drive.hydration(id);
    let none = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no hydration {id}"),
        )
    };
    Ok(Json(HydrationState {
        id,
        progress: job.ok_or_else(none)?.progress(),
    }))
}

async fn cache(State(api): State<Face>) -> Answer<CacheStat> {
    Ok(Json(aside(move || api.drive.cache_stat()).await?))
}

async fn top(State(api): State<Face>, query: Result<Query<TopQuery>, QueryRejection>) -> Answer<CacheTop> {
    let Query(query) = query.map_err(|e| bad_request(&e))?;
    let limit = query.limit.unwrap_or(TOP);
    Ok(Json(aside(move || api.drive.cache_top(query.depth, limit)).await??))
}

async fn programs(State(api): State<Face>) -> Answer<ProgramsReport> {
    Ok(Json(api.drive.programs()))
}

async fn evict(State(api): State<Face>, asked: Asked<PathsRequest>) -> Answer<EvictReport> {
    let request = body(asked)?;
    Ok(Json(aside(move || api.drive.evict(&request.paths)).await??))
}

async fn verification(State(api): State<Face>) -> Answer<VerifyProgress> {
    Ok(Json(api.drive.verification()))
}

async fn verify(State(api): State<Face>) -> Answer<VerifyProgress> {
    Ok(Json(api.drive.verify_cache()))
}

async fn clear(State(api): State<Face>) -> Answer<EvictReport> {
    Ok(Json(aside(move || api.drive.clear_cache()).await?))
}
