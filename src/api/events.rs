//! `GET /v1/events`: what changes, as it changes, as server-sent events.
//!
//! - `change`: `{"what": ["tree", …]}`, the words of what changed: ask again for what you show of it.
//! - `status`: the answer of `GET /v1/status`, at first, soon after changes, and now and then.
//! - `log`: a line of the log, `info` and graver.
//!
//! Owns: the pace. Refuses to know: what the counters mean. Invariants: a change is told within 100 ms of when it happened:
//! at once where the engine rings its bell for it, with the next look otherwise; the status is made at most four times a second, for all who listen to the same state together; who does not listen fast
//! enough misses lines of the log, and nothing of the state; nothing is looked at while nobody listens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::StreamExt as _;
use futures::stream::{self, Stream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use super::Face;
use super::problem::Problem;
use super::routes::aside;
use crate::engine::pulse::Pulse;
use crate::telemetry::tail::{self, Line};

/// Between two looks at the counters for what no bell rings for: well below the 100 ms that a change may take to be told.
const LOOK: Duration = Duration::from_millis(40);
/// The shortest time between two looks that the bell asks for: while much changes, it is told in pieces of this length.
const REST: Duration = Duration::from_millis(10);
/// The shortest time between two statuses.
const STATUS_MIN: Duration = Duration::from_millis(250);
/// The longest: rates and times in it change by themselves.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// Who may listen at once.
const LISTENERS: usize = 32;
/// Silence after which a comment shows that the daemon is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What all listeners share.
#[derive(Debug)]
pub struct Watch {
    places: Arc<Semaphore>,
    last: Mutex<Option<Made>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(LISTENERS)),
            last: Mutex::default(),
        }
    }
}

/// A status, and what it is a status of.
#[derive(Clone, Debug)]
struct Made {
    of: Pulse,
    at: Instant,
    json: Arc<str>,
}

impl Watch {
    async fn status(&self, api: &Face, of: &Pulse) -> Option<Arc<str>> {
        let mut last = self.last.lock().await;
        if let Some(made) = &*last
            && made.of == *of
            && made.at.elapsed() < STATUS_MAX
        {
            return Some(Arc::clone(&made.json));
        }
        let (drive, at) = (api.drive.clone(), Instant::now());
        let status = aside(move || drive.status()).await.ok()?.ok()?;
        let json: Arc<str> = serde_json::to_string(&status).ok()?.into();
        *last = Some(Made {
            of: of.clone(),
            at,
            json: Arc::clone(&json),
        });
        Some(json)
    }
}

struct Listener {
    api: Face,
    log: broadcast::Receiver<Line>,
    looks: Interval,
    bell: watch::Receiver<()>,
    rested: tokio::time::Instant,
    seen: Pulse,
    is_due: bool,
    told: Option<Instant>,
    making: Option<JoinHandle<Option<Arc<str>>>>,
    out: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(api): State<Face>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = Arc::clone(&api.watch.places).try_acquire_owned();
    let _place = place.map_err(|_all_taken| {
        let title = format!("{LISTENERS} listen to events already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many", title).hint("close a page of the dashboard")
    })?;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let until = api.until.clone();
    let listener = Listener {
        log: tail::listen(),
        looks,
        // Before the first look: what rings between the two is looked at again.
        bell: api.drive.hears_changes(),
        rested: tokio::time::Instant::now(),
        seen: api.drive.pulse(),
        is_due: true,
        told: None,
        making: None,
        out: VecDeque::new(),
        _place,
        api,
    };
    let events = stream::unfold(listener, async |mut listener| {
        let event = listener.next().await;
        Some((Ok(event), listener))
    });
    let events = Box::pin(events).take_until(until.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Listener {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.out.pop_front() {
                return event;
            }
            tokio::select! {
                _ = self.looks.tick() => self.look(),
                () = rung(&mut self.bell, self.rested) => {
                    self.rested = tokio::time::Instant::now() + REST;
                    self.look();
                }
                Ok(line) = self.log.recv() => self.tell("log", serde_json::to_string(&line).ok()),
                status = made(&mut self.making) => {
                    self.making = None;
                    self.tell("status", status);
                }
            }
        }
    }

    fn look(&mut self) {
        let now = self.api.drive.pulse();
        let what = now.since(&self.seen);
        if !what.is_empty() {
            self.seen = now.clone();
            self.is_due = true;
            self.tell(
                "change",
                serde_json::to_string(&serde_json::json!({ "what": what })).ok(),
            );
        }
        let age = self.told.map_or(Duration::MAX, |told| told.elapsed());
        if self.making.is_none() && (self.is_due && age >= STATUS_MIN || age >= STATUS_MAX) {
            self.is_due = false;
            self.told = Some(Instant::now());
            // Beside the changes: it may take its time.
            let api = self.api.clone();
            self.making = Some(tokio::spawn(async move { api.watch.status(&api, &now).await }));
        }
    }

    fn tell(&mut self, kind: &str, json: Option<impl AsRef<str>>) {
        // What can't be said now is said the next time.
        if let Some(json) = json {
            self.out.push_back(Event::default().event(kind).data(json));
        }
    }
}

/// Waits until the bell has rung, and not before `rested`. Given up half way it has heard nothing.
async fn rung(bell: &mut watch::Receiver<()>, rested: tokio::time::Instant) {
    tokio::time::sleep_until(rested).await;
    if bell.changed().await.is_err() {
        // The drive is gone, and with it what could change.
        std::future::pending::<()>().await;
    }
}

/// Waits for the status that is being made; for ever if none is.
async fn made(making: &mut Option<JoinHandle<Option<Arc<str>>>>) -> Option<Arc<str>> {
    match making {
        Some(making) => making.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
