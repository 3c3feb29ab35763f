//! The routes about pins, hydrations and the cache, each a few lines over the engine's facade.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Face;
use super::asked::{Answer, Asked, Path, Query, body};
use super::openapi::Routes;
use super::problem::Problem;
use super::routes::aside;
use super::types::{HydrateRequest, HydrationState, PathsRequest, TopQuery, UnpinRequest};
use crate::engine::hydrations::Wanted;
use crate::engine::report::{
    CacheStat, CacheTop, EvictReport, PinReport, PinRequest, PinsReport, ProgramsReport, VerifyProgress,
};

/// Rows of `cache top` if nobody says how many.
const TOP: usize = 20;

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .get("/v1/pins", "What is kept here, and how far each rule is.", pins)
        .post(
            "/v1/pins",
            "Keeps what paths and patterns cover here, from now on.",
            pin,
        )
        .post(
            "/v1/pins/remove",
            "Lets go of pins; what is here stays until the room is needed.",
            unpin,
        )
        .post(
            "/v1/hydrations",
            "Brings what paths and patterns cover here, once; answers at once.",
            hydrate,
        )
        .get("/v1/hydrations/{id}", "How far a hydration is.", hydration)
        .get("/v1/cache", "What the cache holds.", cache)
        .get("/v1/cache/top", "The folders that hold most of the cache.", top)
        .get(
            "/v1/cache/programs",
            "What was fetched for which program, and what was refused to it.",
            programs,
        )
        .post("/v1/cache/evict", "Drops bytes that are safe elsewhere.", evict)
        .get(
            "/v1/cache/verify",
            "How far the look through the cache is that was asked for.",
            verification,
        )
        .post(
            "/v1/cache/verify",
            "Looks through the cache for bytes that have rotted.",
            verify,
        )
        .post(
            "/v1/cache/clear",
            "Drops all bytes that are safe elsewhere, not pinned and not in use.",
            clear,
        )
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
        let title = format!("there is no hydration {id}, or not any more");
        Problem::new(StatusCode::NOT_FOUND, "not-found", title)
            .hint("POST /v1/hydrations begins one, and says its number")
    };
    Ok(Json(HydrationState {
        id,
        progress: job.ok_or_else(none)?.progress(),
    }))
}

async fn cache(State(api): State<Face>) -> Answer<CacheStat> {
    Ok(Json(aside(move || api.drive.cache_stat()).await?))
}

async fn top(State(api): State<Face>, Query(query): Query<TopQuery>) -> Answer<CacheTop> {
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
