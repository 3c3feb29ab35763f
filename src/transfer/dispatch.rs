//! Who is next: claims tasks while there is room for them and starts a worker for each.
//!
//! Owns: the slots of each site, and when to look into the queue again. Refuses to know: what a worker does. Invariants: a
//! site has no more workers than `parallel`; a task has one at most; nothing is asked of the store while all slots are
//! taken.
//!
//! Lanes are served by priority; those with the same one take turns, slot by slot. A file of several parts never gets a
//! site's last slot (where there are two or more): large files can take what they like of the time, and a small one that
//! comes in behind them starts at once.
//!
//! A job of copies is a lane of its own, and takes a slot at each of its two sites. Between the same two sites a queue works
//! on one job at a time, unless it is told otherwise; one of a higher priority makes those before it stop between two parts.

mod jobs;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, select_all};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::between::{Copies, Copying, MEMORY, permits};
use super::paths::Paths;
use super::schedule::Backoff;
use super::stats::{Gauge, Stats};
use super::worker::{self, Reception, Shared};
use super::{Desk, Lane, Options, as_ms, now_ms};
use crate::model::SiteName;
use crate::providers::ErrorKind;
use crate::state::{Claim, JobId, PRIORITY_NORMAL, QueueRow, StateError, StateStore, Task, TaskId};

/// The longest sleep: a clock that was set is noticed after this.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// The shortest time between two looks into a queue that gave less than was asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The same, where small files were looked for behind large ones.
const LOOK_PAST_AGAIN: Duration = Duration::from_secs(1);
/// How long the workers have to come to an end when transfers stop.
const GRACE: Duration = Duration::from_secs(10);

/// The transfers of a drive. Dropping the last handle ends them on the spot, as a crash would: what was under way is gone
/// on with at the next start.
#[derive(Debug)]
pub struct Transfers {
    pub(super) shared: Arc<Shared>,
    bell: Arc<Bell>,
    stopped: watch::Receiver<bool>,
    running: JoinHandle<()>,
}

/// What is rung when there may be something to do.
#[derive(Debug, Default)]
struct Bell {
    rung: Notify,
    woken: AtomicBool,
    reconsider: AtomicBool,
}

impl Transfers {
    /// Takes back all claims that an earlier process left, and starts sending. `stop` ends it: what is under way comes to
    /// a point where it can be gone on with.
    pub async fn start(
        store: StateStore,
        desk: Arc<dyn Desk>,
        lanes: Vec<Lane>,
        options: Options,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StateError> {
        Self::start_with_copies(store, desk, lanes, Copies::default(), options, stop).await
    }

    /// As [`start`](Self::start), and copies between sites as well.
    pub async fn start_with_copies(
        store: StateStore,
        desk: Arc<dyn Desk>,
        lanes: Vec<Lane>,
        copies: Copies,
        options: Options,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StateError> {
        store.write(|txn| txn.release_leases()).await?;
        let shared = Arc::new(Shared {
            store,
            desk,
            options,
            backoff: Backoff::new(options.retry_first, options.retry_max),
            paths: Arc::new(Paths::default()),
            gauge: Gauge::new(),
            stop,
            pulse: watch::Sender::new(()),
            memory: Arc::new(Semaphore::new(permits(MEMORY) as usize)),
            stumbles: Mutex::default(),
        });
        let bell = Arc::new(Bell::default());
        let (ended, stopped) = watch::channel(false);
        let dispatcher = Dispatcher {
            shared: Arc::clone(&shared),
            bell: Arc::clone(&bell),
            lanes: lanes.into_iter().map(|lane| LaneState::new(lane, None)).collect(),
            copies,
            stale: true,
            rests: HashMap::new(),
            workers: JoinSet::new(),
            under_way: HashMap::new(),
            turn: 0,
        };
        let running = tokio::spawn(async move {
            dispatcher.serve().await;
            ended.send_replace(true);
        });
        Ok(Arc::new(Self {
            shared,
            bell,
            stopped,
            running,
        }))
    }

    /// Says that something was put into a queue. Cheap: to be called after every write that did.
    pub fn wake(&self) {
        self.bell.woken.store(true, SeqCst);
        self.bell.rung.notify_one();
    }

    /// Says that a person changed something: a queue was paused or goes on, a task was held back or cancelled, priorities
    /// changed, something is to be tried now. Workers look at their tasks, and sites that rest are tried again.
    pub fn reconsider(&self) {
        self.bell.reconsider.store(true, SeqCst);
        self.shared.pulse.send_replace(());
        self.wake();
    }

    /// Returns what was done and what is under way.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.gauge.stats()
    }

    /// Waits until transfers have come to their end, after `stop`.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // An error says that the dispatcher is gone, which will do.
        drop(stopped.wait_for(|stopped| *stopped).await);
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[derive(Debug)]
struct Dispatcher {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    lanes: Vec<LaneState>,
    copies: Copies,
    /// There may be jobs that have no lane yet.
    stale: bool,
    rests: HashMap<SiteName, Rest>,
    workers: JoinSet<Reception>,
    under_way: HashMap<Id, Worked>,
    /// Counts what was handed out, so that lanes of one priority take turns.
    turn: u64,
}

/// A task with a worker.
#[derive(Debug)]
struct Worked {
    lane: usize,
    task: Task,
    large: bool,
    /// Makes it stop between two parts.
    yields: CancellationToken,
}

#[derive(Debug)]
struct LaneState {
    lane: Arc<Lane>,
    /// Of a job of copies.
    copies: Option<Arc<Copying>>,
    /// Nothing is to be had before this.
    idle_until: Option<Instant>,
    /// Copies: the highest priority of what is due.
    head: Option<u16>,
    /// When it last had its turn.
    served: u64,
}

/// A site that refuses all of us is left in peace for a while.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    strikes: u32,
}

/// Returns the time until a moment, if that is still to come.
fn time_until(moment: Option<Instant>) -> Option<Duration> {
    let left = moment?.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

impl Rest {
    fn left(&self) -> Option<Duration> {
        time_until(self.until)
    }

    /// A full site may have room for the next file: it is tried again ever more seldom. Accounts get locked by many failed
    /// logins: one try, then the longest wait.
    fn note(&mut self, reception: Reception, backoff: &Backoff) {
        match reception {
            Reception::Served => *self = Self::default(),
            Reception::Nothing => {}
            // Those who were refused together strike once.
            Reception::Refused(_) | Reception::RefusedBySource(_) if self.left().is_some() => {}
            Reception::Refused(kind) | Reception::RefusedBySource(kind) => {
                self.strikes = self.strikes.saturating_add(1);
                let wait = if kind == ErrorKind::Full {
                    backoff.wait(self.strikes)
                } else {
                    backoff.max()
                };
                self.until = Some(Instant::now() + wait);
            }
        }
    }
}

impl LaneState {
    fn idle_for(&mut self, time: Duration) {
        self.idle_until = Some(Instant::now() + time.min(SLEEP_MAX));
    }

    fn new(lane: Lane, copies: Option<Arc<Copying>>) -> Self {
        Self {
            lane: Arc::new(lane),
            copies,
            idle_until: None,
            head: None,
            served: 0,
        }
    }

    fn job(&self) -> Option<JobId> {
        self.copies.as_ref().map(|copies| copies.job)
    }

    /// Returns the sites at which its workers have slots.
    fn sites(&self) -> impl Iterator<Item = &SiteName> {
        let source = self.copies.as_ref().map(|copies| &copies.source.site);
        std::iter::once(&self.lane.site).chain(source)
    }

    fn is_down(&self) -> bool {
        self.lane.link.is_down() || self.copies.as_ref().is_some_and(|copies| copies.source.link.is_down())
    }

    /// Says whether it copies between the same sites as another, for the same queue.
    fn is_of_same_pair(&self, other: &Self) -> bool {
        let source = |state: &Self| state.copies.as_ref().map(|copies| copies.source.site.clone());
        self.copies.is_some()
            && self.lane.root == other.lane.root
            && self.lane.site == other.lane.site
            && source(self) == source(other)
    }
}

/// A lane that could take a task now.
#[derive(Clone, Copy, Debug)]
struct Opening {
    at: usize,
    /// Of the queue, then of the task.
    priority: (u16, u16),
    free: usize,
    /// Slots that files of several parts may have.
    free_for_large: usize,
}

/// Returns how many of a site's slots files of several parts may have: a third is for small files, however many large ones wait.
fn large_max(parallel: usize) -> usize {
    (parallel - parallel / 3).min(parallel.saturating_sub(1)).max(1)
}

impl Dispatcher {
    async fn serve(mut self) {
        loop {
            if self.shared.stop.is_cancelled() {
                break;
            }
            self.listen();
            while let Some(ended) = self.workers.try_join_next_with_id() {
                self.ended(ended);
            }
            let sleep = match self.fill().await {
                Ok(sleep) => sleep,
                Err(StateError::Closed) => break,
                Err(error) => {
                    warn!(%error, "the queue can't be read");
                    Duration::from_secs(1)
                }
            };
            self.sleep(sleep).await;
        }
        self.wind_up().await;
    }

    /// Takes note of what was called since the last time.
    fn listen(&mut self) {
        let reconsider = self.bell.reconsider.swap(false, SeqCst);
        let woken = self.bell.woken.swap(false, SeqCst);
        if woken || reconsider {
            self.stale = true;
            for lane in &mut self.lanes {
                lane.idle_until = None;
            }
        }
        if reconsider {
            self.rests.clear();
        }
    }

    /// Hands out tasks while there are slots; returns how long there will be nothing to do, by itself.
    async fn fill(&mut self) -> Result<Duration, StateError> {
        let rows = self.shared.store.read(|txn| txn.queue_rows())?;
        self.find_jobs()?;
        self.look_at_jobs()?;
        while let Some((opening, rivals)) = self.next_opening(&rows) {
            self.offer(opening, rivals).await?;
        }
        self.make_way(&rows);
        // A lane that is neither idle nor resting is paused or has no slot: there will be a call.
        let waits = self
            .lanes
            .iter()
            .filter(|state| !state.is_down())
            .filter_map(|state| time_until(state.idle_until).max(self.rest_of(state)));
        let sleep = waits.min().unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
        Ok(sleep)
    }

    /// Returns the lane whose turn it is, if one can take anything, and whether others of its priority wait for slots of
    /// the same site.
    fn next_opening(&self, rows: &[QueueRow]) -> Option<(Opening, bool)> {
        let openings: Vec<_> = (0..self.lanes.len()).filter_map(|at| self.opening(at, rows)).collect();
        let order = |opening: &&Opening| (Reverse(opening.priority), self.lanes[opening.at].served);
        let first = *openings.iter().min_by_key(order)?;
        let is_rival = |other: &&Opening| {
            other.at != first.at && other.priority == first.priority && self.share_a_site(other.at, first.at)
        };
        Some((first, openings.iter().any(|other| is_rival(&other))))
    }

    fn share_a_site(&self, one: usize, other: usize) -> bool {
        self.lanes[one]
            .sites()
            .any(|site| self.lanes[other].sites().any(|of_other| of_other == site))
    }

    /// Returns how long a lane's sites are left in peace.
    fn rest_of(&self, state: &LaneState) -> Option<Duration> {
        let left = state.sites().filter_map(|site| self.rests.get(site)?.left());
        left.max()
    }

    /// Returns the priority of what a lane has to do, of the queue and of the task, if it may do it now, slots apart.
    fn urgency(&self, at: usize, rows: &[QueueRow]) -> Option<(u16, u16)> {
        let state = &self.lanes[at];
        let row = rows.iter().find(|row| row.root == state.lane.root);
        if row.is_some_and(|row| row.paused) || self.rest_of(state).is_some() || state.is_down() {
            return None;
        }
        let of_task = match state.copies {
            Some(_) => state.head?,
            None => PRIORITY_NORMAL,
        };
        Some((row.and_then(|row| row.priority).unwrap_or(state.lane.priority), of_task))
    }

    fn opening(&self, at: usize, rows: &[QueueRow]) -> Option<Opening> {
        if time_until(self.lanes[at].idle_until).is_some() {
            return None;
        }
        let priority = self.urgency(at, rows)?;
        if !self.before(at)?.is_empty() {
            return None;
        }
        let parallel = self.shared.options.parallel.max(1);
        let large_max = large_max(parallel);
        let (mut free, mut free_for_large) = (parallel, large_max);
        for site in self.lanes[at].sites() {
            let (running, large) = self.load(site);
            free = free.min(parallel.saturating_sub(running));
            free_for_large = free_for_large.min(large_max.saturating_sub(large));
        }
        (free > 0).then_some(Opening {
            at,
            priority,
            free,
            free_for_large,
        })
    }

    /// Returns how many workers a site has, and how many of them for files of several parts.
    fn load(&self, site: &SiteName) -> (usize, usize) {
        let at_site = |worked: &&Worked| self.lanes[worked.lane].sites().any(|other| other == site);
        let running = self.under_way.values().filter(at_site);
        running.fold((0, 0), |(all, large), worked| {
            (all + 1, large + usize::from(worked.large))
        })
    }

    /// A task that is due later than this from now was put off by a clock that has been set back since. Twice the longest
    /// wait, and no less than what anybody asks to wait for a file to settle.
    fn horizon_ms(&self) -> i64 {
        as_ms(self.shared.backoff.longest()).saturating_mul(2)
    }

    /// Claims for a lane what it may have now, and starts workers.
    async fn offer(&mut self, opening: Opening, has_rivals: bool) -> Result<(), StateError> {
        let (root, job) = (self.lanes[opening.at].lane.root, self.lanes[opening.at].job());
        let now = now_ms();
        let due = self.shared.store.read(|txn| txn.next_due(root, job))?;
        match due {
            // What is due beyond the horizon is claimed now.
            Some(due) if due <= now || due > now.saturating_add(self.horizon_ms()) => {}
            due => {
                let wait = due.map_or(SLEEP_MAX, |due| {
                    Duration::from_millis(u64::try_from(due.saturating_sub(now)).unwrap_or(0))
                });
                self.lanes[opening.at].idle_for(wait);
                return Ok(());
            }
        }
        let max_size = (opening.free_for_large == 0).then_some(self.shared.options.part_size);
        let limit = match (has_rivals, max_size) {
            (true, _) => 1,
            (false, None) => opening.free.min(opening.free_for_large),
            (false, Some(_)) => opening.free,
        };
        let claim = Claim {
            root,
            job,
            now_ms: now,
            lease_ms: now.saturating_add(as_ms(self.shared.options.lease)),
            limit,
            horizon_ms: self.horizon_ms(),
            max_size,
            under_way: self.under_way.values().map(|worked| worked.task.id).collect(),
        };
        let tasks = self.shared.store.write(move |txn| txn.claim(&claim)).await?;
        self.turn += 1;
        let turn = self.turn;
        let state = &mut self.lanes[opening.at];
        state.served = turn;
        if tasks.len() < limit {
            // A worker's end and a call tell sooner.
            state.idle_for(if max_size.is_some() {
                LOOK_PAST_AGAIN
            } else {
                LOOK_AGAIN
            });
        }
        for task in tasks {
            self.spawn(opening.at, task);
        }
        self.look_at_job(opening.at)
    }

    fn spawn(&mut self, at: usize, task: Task) {
        let lane = Arc::clone(&self.lanes[at].lane);
        let large = task.size > self.shared.options.part_size;
        let (copies, yields) = (self.lanes[at].copies.clone(), CancellationToken::new());
        let worked = Worked {
            lane: at,
            task: task.clone(),
            large,
            yields: yields.clone(),
        };
        let worker = worker::run(Arc::clone(&self.shared), lane, copies, task, yields);
        let handle = self.workers.spawn(worker);
        self.under_way.insert(handle.id(), worked);
    }

    /// Takes note of a worker's end.
    fn ended(&mut self, ended: Result<(Id, Reception), JoinError>) {
        let (id, reception) = match ended {
            Ok((id, reception)) => (id, reception),
            Err(e) => (e.id(), self.panicked(&e)),
        };
        let Some(worked) = self.under_way.remove(&id) else {
            return;
        };
        let state = &self.lanes[worked.lane];
        let target = state.lane.site.clone();
        let sites: Vec<SiteName> = state.sites().cloned().collect();
        // Where the link knows that nobody is let in, it says when that is over.
        let is_told = matches!(
            reception,
            Reception::Refused(ErrorKind::Auth) | Reception::RefusedBySource(ErrorKind::Auth)
        ) && state.is_down();
        for site in sites.iter().filter(|_| !is_told) {
            let meant = match reception {
                Reception::Served | Reception::Nothing => true,
                Reception::Refused(_) => *site == target,
                Reception::RefusedBySource(_) => *site != target,
            };
            if meant {
                let rest = self.rests.entry(site.clone()).or_default();
                rest.note(reception, &self.shared.backoff);
            }
        }
        for state in &mut self.lanes {
            // The slot may be one that a file of several parts can have, and the task may wait again.
            if state.sites().any(|site| sites.contains(site)) {
                state.idle_until = None;
            }
        }
    }

    /// Puts the task of a worker that panicked off, so that it holds up no other.
    fn panicked(&self, e: &JoinError) -> Reception {
        if let Some(worked) = self.under_way.get(&e.id()).filter(|_| e.is_panic()) {
            error!(task = worked.task.id.0, "a transfer's worker panicked");
            let (store, task) = (self.shared.store.clone(), worked.task.clone());
            let due = now_ms().saturating_add(as_ms(self.shared.backoff.max()));
            tokio::spawn(async move {
                let put_off = store.write(move |txn| txn.retry_task(&task, due, "panic", "the worker panicked"));
                if let Err(error) = put_off.await {
                    warn!(%error, "the task of a worker that panicked waits for its claim to run out");
                }
            });
        }
        Reception::Nothing
    }

    /// Sleeps until something may have to be done.
    async fn sleep(&mut self, time: Duration) {
        let mut up: Vec<BoxFuture<'_, ()>> = self
            .lanes
            .iter()
            .flat_map(|state| {
                let source = state.copies.as_ref().map(|copies| &copies.source.link);
                std::iter::once(&state.lane.link).chain(source)
            })
            .filter(|link| link.is_down())
            .map(|link| link.up())
            .collect();
        // select_all wants one at least.
        up.push(std::future::pending().boxed());
        let bell = Arc::clone(&self.bell);
        let ended = tokio::select! {
            () = self.shared.stop.cancelled() => None,
            () = bell.rung.notified() => None,
            Some(ended) = self.workers.join_next_with_id() => Some(ended),
            _ = select_all(up) => None,
            () = tokio::time::sleep(time) => None,
        };
        if let Some(ended) = ended {
            self.ended(ended);
        }
    }

    /// Lets the workers come to their end, or ends them.
    async fn wind_up(mut self) {
        let all = async {
            while let Some(ended) = self.workers.join_next_with_id().await {
                let id = match ended {
                    Ok((id, _)) => id,
                    Err(e) => e.id(),
                };
                drop(self.under_way.remove(&id));
            }
        };
        if tokio::time::timeout(GRACE, all).await.is_ok() {
            return;
        }
        self.workers.shutdown().await;
        let left: Vec<TaskId> = self.under_way.values().map(|worked| worked.task.id).collect();
        warn!(
            tasks = left.len(),
            "transfers did not end in time; they are gone on with at the next start"
        );
        let given_back = self
            .shared
            .store
            .write(move |txn| left.iter().try_for_each(|id| txn.give_back(*id)));
        if let Err(error) = given_back.await {
            warn!(%error, "the tasks of transfers that did not end can't be given back");
        }
    }
}
