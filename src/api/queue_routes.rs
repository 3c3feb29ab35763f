//! The routes about queues, tasks, conflicts and waiting, each a few lines over the engine's facade.

use axum::Json;
use axum::extract::State;

use super::Face;
use super::asked::{Answer, Asked, Query, body};
use super::openapi::Routes;
use super::routes::aside;
use super::types::{PauseRequest, QueuePriorityRequest, ResolveRequest, TaskPriorityRequest};
use crate::engine::report::{
    Changed, ConflictPage, ConflictQuery, ConflictReport, QueueReport, Selection, TaskPage, TaskQuery, WaitReport,
    WaitRequest,
};

pub(super) fn routes() -> Routes<Face> {
    Routes::new()
        .get("/v1/queues", "The queues, one a project.", queues)
        .post("/v1/queues/pause", "Begins nothing more of a queue, or of all.", pause)
        .post("/v1/queues/resume", "Lets a queue, or all, go on.", resume)
        .post("/v1/queues/priority", "Gives a queue a priority.", queue_priority)
        .get("/v1/tasks", "Tasks in the order of their numbers, page by page.", tasks)
        .post("/v1/tasks/retry", "Tries tasks again now.", retry)
        .post(
            "/v1/tasks/cancel",
            "Takes tasks out of the queue; files stay here.",
            cancel,
        )
        .post("/v1/tasks/hold", "Holds tasks back.", hold)
        .post("/v1/tasks/release", "Lets tasks go that were held back.", release)
        .post(
            "/v1/tasks/priority",
            "Gives tasks a priority within their queue.",
            task_priority,
        )
        .get(
            "/v1/conflicts",
            "Conflicts that nobody has settled, the oldest first, page by page.",
            conflicts,
        )
        .post("/v1/conflicts/resolve", "Settles conflicts.", resolve)
        .post(
            "/v1/wait",
            "Waits until all, or some, is at its site; tells how far it is.",
            wait,
        )
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

async fn tasks(State(api): State<Face>, Query(query): Query<TaskQuery>) -> Answer<TaskPage> {
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

async fn conflicts(State(api): State<Face>, Query(query): Query<ConflictQuery>) -> Answer<ConflictPage> {
    Ok(Json(aside(move || api.drive.conflicts(&query)).await??))
}

async fn resolve(State(api): State<Face>, asked: Asked<ResolveRequest>) -> Answer<Vec<ConflictReport>> {
    let ResolveRequest { paths, keep } = body(asked)?;
    Ok(Json(api.drive.resolve(&paths, keep).await?))
}

async fn wait(State(api): State<Face>, asked: Asked<WaitRequest>) -> Answer<WaitReport> {
    Ok(Json(api.drive.wait(&body(asked)?).await?))
}
