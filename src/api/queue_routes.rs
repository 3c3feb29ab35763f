//! The routes about queues, tasks, conflicts and waiting, each a few lines over the engine's facade.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Face;
use super::problem::Problem;
use super::routes::{aside, bad_body, bad_request};
use super::types::{PauseRequest, QueuePriorityRequest, ResolveRequest, TaskPriorityRequest};
use crate::engine::report::{
    Changed, ConflictReport, QueueReport, Selection, TaskPage, TaskQuery, WaitReport, WaitRequest,
};

pub(super) type Asked<T> = Result<Json<T>, JsonRejection>;
pub(super) type Answer<T> = Result<Json<T>, Problem>;

pub(super) fn routes() -> Router<Face> {
    Router::new()
        .route("/v1/queues", get(queues))
        .route("/v1/queues/pause", post(pause))
        .route("/v1/queues/resume", post(resume))
        .route("/v1/queues/priority", post(queue_priority))
        .route("/v1/tasks", get(tasks))
        .route("/v1/tasks/retry", post(retry))
        .route("/v1/tasks/cancel", post(cancel))
        .route("/v1/tasks/hold", post(hold))
        .route("/v1/tasks/release", post(release))
        .route("/v1/tasks/priority", post(task_priority))
        .route("/v1/conflicts", get(conflicts))
        .route("/v1/conflicts/resolve", post(resolve))
        .route("/v1/wait", post(wait))
}

pub(super) fn body<T>(asked: Asked<T>) -> Result<T, Problem> {
    let Json(request) = asked.map_err(|e| bad_body(&e))?;
    Ok(request)
}

async fn queues(State(api): State<Face>) -> Answer<Vec<QueueReport>> {
    Ok(Json(aside(move || api.drive.queues()).await??))
}

async fn pause(State(api): State<Face>, asked: Asked<PauseRequest>) -> Answer<Vec<QueueReport>> {
    set_paused(api, asked, true).await
}

async fn resume(State(api): State<Face>, asked: Asked<PauseRequest>) -> Answer<Vec<QueueReport>> {
    set_paused(api, asked, false).await
}

async fn set_paused(api: Face, asked: Asked<PauseRequest>, paused: bool) -> Answer<Vec<QueueReport>> {
    api.drive.pause(body(asked)?.project.as_deref(), paused).await?;
    queues(State(api)).await
}

async fn queue_priority(State(api): State<Face>, asked: Asked<QueuePriorityRequest>) -> Answer<Vec<QueueReport>> {
    let QueuePriorityRequest { project, priority } = body(asked)?;
    api.drive.set_queue_priority(&project, priority).await?;
    queues(State(api)).await
}

async fn tasks(State(api): State<Face>, query: Result<Query<TaskQuery>, QueryRejection>) -> Answer<TaskPage> {
    let Query(query) = query.map_err(|e| bad_request(&e))?;
    Ok(Json(aside(move || api.drive.tasks(&query)).await??))
}

async fn retry(State(api): State<Face>, asked: Asked<Selection>) -> Answer<Changed> {
    Ok(Json(api.drive.retry(&body(asked)?).await?))
}

async fn cancel(State(api): State<Face>, asked: Asked<Selection>) -> Answer<Changed> {
    Ok(Json(api.drive.cancel(&body(asked)?).await?))
}

async fn hold(State(api): State<Face>, asked: Asked<Selection>) -> Answer<Changed> {
    Ok(Json(api.drive.hold(&body(asked)?, true).await?))
}

async fn release(State(api): State<Face>, asked: Asked<Selection>) -> Answer<Changed> {
    Ok(Json(api.drive.hold(&body(asked)?, false).await?))
}

async fn task_priority(State(api): State<Face>, asked: Asked<TaskPriorityRequest>) -> Answer<Changed> {
    let TaskPriorityRequest { of, priority } = body(asked)?;
    Ok(Json(api.drive.set_task_priority(&of, priority).await?))
}

async fn conflicts(State(api): State<Face>) -> Answer<Vec<ConflictReport>> {
    Ok(Json(aside(move || api.drive.conflicts()).await??))
}

async fn resolve(State(api): State<Face>, asked: Asked<ResolveRequest>) -> Answer<Vec<ConflictReport>> {
    let ResolveRequest { paths, keep } = body(asked)?;
    Ok(Json(api.drive.resolve(&paths, keep).await?))
}

async fn wait(State(api): State<Face>, asked: Asked<WaitRequest>) -> Answer<WaitReport> {
    Ok(Json(api.drive.wait(&body(asked)?).await?))
}
