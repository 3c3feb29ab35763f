//! One task, from its claim to how it ended.
//!
//! Owns: what a task's row says when the worker leaves it. Refuses to know: how a file is sent (`send`), which task is next
//! (`dispatch`). Invariant: whatever happened, the row is ended, waits or is blocked, and an upload that is not gone on
//! with is cleared away or still noted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::between::{Copying, End};
use super::paths::Paths;
use super::plan::Note;
use super::schedule::{Backoff, LINK_WAIT_MAX, Verdict, verdict};
use super::send::begun_below;
use super::stats::Gauge;
use super::{DeleteOutcome, Desk, Lane, Options, Prepared, as_ms, now_ms};
use crate::failpoint;
use crate::model::{EntryKind, RelPath};
use crate::providers::{ErrorKind, ProviderError};
use crate::state::{JobKind, Standing, StateError, StateStore, Task, TaskId, TaskWhat, WriteTxn};

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: StateStore,
    pub(super) desk: Arc<dyn Desk>,
    pub(super) options: Options,
    pub(super) backoff: Backoff,
    pub(super) paths: Arc<Paths>,
    pub(super) gauge: Gauge,
    pub(super) stop: CancellationToken,
    /// Wakes workers that should look at their rows now.
    pub(super) pulse: watch::Sender<()>,
    /// What copies may hold in memory, in units: see [`permits`](super::between::permits).
    pub(super) memory: Arc<Semaphore>,
    /// How often in a row a task met a failed link. Forgotten at the end of the process, and when it grows too large.
    pub(super) stumbles: Mutex<HashMap<TaskId, u32>>,
}

/// How long a folder waits to be removed while something in it is.
const EMPTYING_WAIT: Duration = Duration::from_millis(200);
/// Tasks whose stumbles are counted.
const STUMBLES_MAX: usize = 10_000;

/// How the site took what was asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reception {
    /// It did as asked.
    Served,
    /// Nothing was learned about the site as a whole.
    Nothing,
    /// It refuses all of us: there is no room, or the login failed.
    Refused(ErrorKind),
    /// The site that a copy comes from does.
    RefusedBySource(ErrorKind),
}

/// Why a worker leaves its task without having ended it.
#[derive(Debug)]
pub(super) enum Halt {
    /// The site failed. The upload can be gone on with.
    Site(ProviderError),
    /// The site failed, and this upload leads nowhere.
    Spoilt(ProviderError),
    /// The site that a copy comes from failed.
    Source(ProviderError),
    /// The file's bytes can't be read.
    Local(String),
    /// The file has changed, or the row is other work by now.
    Changed,
    /// The task is held back, or transfers stop: to be gone on with.
    Stopped,
    /// The store or the desk failed.
    State(StateError),
}

impl From<ProviderError> for Halt {
    fn from(error: ProviderError) -> Self {
        Self::Site(error)
    }
}

impl From<StateError> for Halt {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// What the look at the row found, for the work that goes on meanwhile.
#[derive(Debug)]
struct Watch {
    /// The generation that is worked on.
    generation: AtomicU64,
    halt: CancellationToken,
    standing: OnceLock<Standing>,
}

/// A task that is being worked on.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: Arc<Lane>,
    /// What a copy has besides.
    copies: Option<Arc<Copying>>,
    /// Fires when somebody more urgent waits: what is under way stops at the end of a part.
    pub(super) yields: CancellationToken,
    pub(super) task: Task,
    /// The upload that the row has a note of.
    pub(super) note: Option<Note>,
    /// A commit of the noted upload may have been asked for, and it is not known what came of it.
    pub(super) in_doubt: bool,
    watch: Arc<Watch>,
}

/// Works on a claimed task until it has ended or waits again.
pub(super) async fn run(
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    copies: Option<Arc<Copying>>,
    task: Task,
    yields: CancellationToken,
) -> Reception {
    let note = task.upload.as_deref().and_then(|text| {
        let note = Note::parse(text);
        if note.is_none() {
            warn!(
                task = task.id.0,
                "the note of an upload can't be read; what it left at the site stays there"
            );
        }
        note
    });
    let watch = Arc::new(Watch {
        generation: AtomicU64::new(task.generation),
        halt: CancellationToken::new(),
        standing: OnceLock::new(),
    });
    let watching = keep_claim(Arc::clone(&shared), task.clone(), Arc::clone(&watch));
    let mut run = Run {
        shared,
        lane,
        copies,
        yields,
        task,
        in_doubt: note.is_some(),
        note,
        watch,
    };
    failpoint::hit("task.claimed");
    tokio::select! {
        reception = Box::pin(run.work_and_settle()) => reception,
        () = watching => Reception::Nothing,
    }
}

/// Extends a claim for as long as it is polled, and tells the work when it does not hold any more.
async fn keep_claim(shared: Arc<Shared>, mut task: Task, watch: Arc<Watch>) {
    let mut pulse = shared.pulse.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(shared.options.lease / 3) => {}
            Ok(()) = pulse.changed() => {}
        }
        task.generation = watch.generation.load(Relaxed);
        let lease_ms = now_ms().saturating_add(as_ms(shared.options.lease));
        let row = task.clone();
        match shared.store.write(move |txn| txn.extend_lease(&row, lease_ms)).await {
            Ok(Standing::Claimed) => {}
            Ok(standing) => {
                // Set once: this loop ends here.
                let _first: Result<(), Standing> = watch.standing.set(standing);
                watch.halt.cancel();
                return std::future::pending().await;
            }
            Err(error) => debug!(task = task.id.0, %error, "the claim can't be extended"),
        }
    }
}

impl Run {
    /// Whoever owns the files.
    pub(super) fn desk(&self) -> Arc<dyn Desk> {
        match &self.copies {
            Some(copies) => Arc::clone(&copies.desk) as Arc<dyn Desk>,
            None => Arc::clone(&self.shared.desk),
        }
    }

    async fn work_and_settle(&mut self) -> Reception {
        match self.work().await {
            Ok(reception) => {
                self.forget_stumbles();
                reception
            }
            Err(halt) => self.settle(halt).await,
        }
    }

    /// Runs what may be given up at any point, unless the work is to end.
    pub(super) async fn unless_halted<T>(
        &self,
        changed: Option<&CancellationToken>,
        work: impl Future<Output = T>,
    ) -> Result<T, Halt> {
        let never = CancellationToken::new();
        tokio::select! {
            biased;
            () = changed.unwrap_or(&never).cancelled() => Err(Halt::Changed),
            () = self.shared.stop.cancelled() => Err(Halt::Stopped),
            () = self.watch.halt.cancelled() => Err(match self.watch.standing.get() {
                Some(Standing::Changed) => Halt::Changed,
                Some(Standing::Claimed | Standing::Stopped) | None => Halt::Stopped,
            }),
            out = work => Ok(out),
        }
    }

    async fn work(&mut self) -> Result<Reception, Halt> {
        if self.task.is_leftover() {
            self.clear_noted().await?;
            self.clear_upload().await?;
            return Ok(Reception::Nothing);
        }
        loop {
            let desk = self.desk();
            let prepared = self.unless_halted(None, desk.prepare(&self.task)).await?;
            let frozen = match prepared {
                Prepared::Send(frozen) => frozen,
                Prepared::Delete { path } => return self.remove(&path).await,
                Prepared::NotYet(wait) => {
                    let due = now_ms().saturating_add(as_ms(wait));
                    self.write(move |txn, task| txn.postpone_task(task, due, None)).await?;
                    return Ok(Reception::Nothing);
                }
                Prepared::Gone => {
                    self.clear_noted().await?;
                    self.write(|txn, task| txn.drop_task(task)).await?;
                    return Ok(Reception::Nothing);
                }
                Prepared::Ended => return Ok(Reception::Served),
                Prepared::SiteFailed { error, source: true } => return Err(Halt::Source(error)),
                Prepared::SiteFailed { error, source: false } => return Err(Halt::Site(error)),
                Prepared::Failed { kind, why, blocked } => {
                    let due = now_ms().saturating_add(as_ms(self.shared.backoff.wait(self.task.tries + 1)));
                    self.write(move |txn, task| {
                        if blocked {
                            txn.block_task(task, None, &kind, &why)
                        } else {
                            txn.retry_task(task, due, &kind, &why)
                        }
                    })
                    .await?;
                    return Ok(Reception::Nothing);
                }
            };
            self.task.generation = frozen.generation;
            self.watch.generation.store(frozen.generation, Relaxed);
            if self.note.as_ref().is_some_and(|note| note.plan.path != frozen.path) {
                self.clear_noted().await?;
            }
            let (site, paths) = (&self.lane.site, &self.shared.paths);
            let Some(_taken) = paths.try_take(site, &frozen.path) else {
                let wait = paths.take(site, &frozen.path);
                drop(self.unless_halted(Some(&frozen.changed), wait).await?);
                // Whoever had the path may have changed what the site has there.
                continue;
            };
            self.send(&frozen).await?;
            return Ok(Reception::Served);
        }
    }

    /// Writes to the task's row.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&WriteTxn<'_>, &Task) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let task = self.task.clone();
        self.shared.store.write(move |txn| f(txn, &task)).await
    }

    /// Takes the note of an upload off the row.
    pub(super) async fn clear_upload(&mut self) -> Result<(), StateError> {
        self.write(|txn, task| txn.clear_upload(task.id)).await?;
        self.note = None;
        Ok(())
    }

    /// Removes what is at a path, if it is what the task says.
    async fn remove(&mut self, path: &RelPath) -> Result<Reception, Halt> {
        let taken = self.shared.paths.take(&self.lane.site, path);
        let _taken = self.unless_halted(None, taken).await?;
        // It may have been taken back while somebody else had the path.
        let row = self.shared.store.read(|txn| txn.task(self.task.id))?;
        if row.is_none_or(|row| row.generation != self.task.generation) {
            return Err(Halt::Changed);
        }
        if self.is_being_emptied(path)? {
            return self.wait_until_empty().await;
        }
        let found = match self.unless_halted(None, self.lane.provider.stat(path)).await? {
            Err(e) if e.kind == ErrorKind::NotFound => None,
            found => Some(found?),
        };
        failpoint::hit("delete.looked");
        let ours = |entry: &crate::providers::Entry| match self.task.what {
            TaskWhat::DeleteFile => entry.kind != EntryKind::Dir && self.task.version.as_ref() == Some(&entry.version),
            TaskWhat::DeleteFolder => entry.kind == EntryKind::Dir,
            TaskWhat::Send | TaskWhat::Copy | TaskWhat::CopyFolder | TaskWhat::CopyLeftover => false,
        };
        let outcome = match found {
            None => DeleteOutcome::NothingThere,
            Some(entry) if !ours(&entry) => DeleteOutcome::OtherVersion,
            // Not given up half way: who has the path next must find it done or not done.
            Some(_) => match self.lane.provider.delete(path).await {
                Ok(()) => DeleteOutcome::Done,
                Err(e) if e.kind == ErrorKind::NotFound => DeleteOutcome::NothingThere,
                Err(e) if e.kind == ErrorKind::WrongKind && self.task.what == TaskWhat::DeleteFolder => {
                    DeleteOutcome::NotEmpty
                }
                Err(e) => return Err(e.into()),
            },
        };
        failpoint::hit("delete.done");
        self.lane.link.answered();
        // What is to be removed from it may have become more meanwhile.
        if outcome == DeleteOutcome::NotEmpty && self.is_being_emptied(path)? {
            return self.wait_until_empty().await;
        }
        self.desk().deleted(&self.task, outcome).await?;
        failpoint::hit("delete.recorded");
        Ok(Reception::Served)
    }

    async fn wait_until_empty(&self) -> Result<Reception, Halt> {
        let due = now_ms().saturating_add(as_ms(EMPTYING_WAIT));
        self.write(move |txn, task| txn.postpone_task(task, due, None)).await?;
        Ok(Reception::Nothing)
    }

    /// Says whether something below a folder has still to be removed by us: files, or uploads that were given up.
    fn is_being_emptied(&self, path: &RelPath) -> Result<bool, Halt> {
        if self.task.what != TaskWhat::DeleteFolder {
            return Ok(false);
        }
        let (root, below) = (self.task.root, self.task.path.as_ref());
        let found = self.shared.store.read(|txn| {
            let removals = below.map_or(Ok(false), |below| txn.has_deletes_below(root, below))?;
            Ok(removals || !begun_below(txn, root, path)?.is_empty())
        })?;
        Ok(found)
    }

    fn stumble(&self) -> u32 {
        let mut stumbles = self.shared.stumbles.lock().unwrap_or_else(PoisonError::into_inner);
        if stumbles.len() >= STUMBLES_MAX {
            stumbles.clear();
        }
        let count = stumbles.entry(self.task.id).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn forget_stumbles(&self) {
        let mut stumbles = self.shared.stumbles.lock().unwrap_or_else(PoisonError::into_inner);
        stumbles.remove(&self.task.id);
    }

    /// Leaves the row as a halt demands.
    async fn settle(&mut self, halt: Halt) -> Reception {
        debug!(task = self.task.id.0, ?halt, "the task stops");
        let (settled, reception) = match halt {
            Halt::Stopped => (
                self.write(|txn, task| txn.give_back(task.id).map(|()| true)).await,
                Reception::Nothing,
            ),
            Halt::Changed => {
                self.drop_upload().await;
                // The row has its own time if it is other work; otherwise the file is still being written.
                let due = now_ms().saturating_add(as_ms(self.shared.options.retry_first));
                let put_off = self.write(move |txn, task| txn.postpone_task(task, due, None)).await;
                (put_off, Reception::Nothing)
            }
            Halt::Local(why) => {
                self.drop_upload().await;
                (self.retry(None, "local", &why).await, Reception::Nothing)
            }
            Halt::State(error) => {
                warn!(task = self.task.id.0, %error, "what became of a transfer can't be written down");
                (self.retry(None, "state", &error.to_string()).await, Reception::Nothing)
            }
            Halt::Spoilt(error) => {
                self.lane.link.failed(&error);
                self.drop_upload().await;
                let retried = self.retry(Some(&error), error.kind.word(), &error.to_string()).await;
                (retried, Reception::Nothing)
            }
            Halt::Site(error) => self.settle_failure(&error, None).await,
            Halt::Source(error) => self.settle_source(&error).await,
        };
        if let Err(error) = settled {
            warn!(task = self.task.id.0, %error, "a task's row can't be written; its claim runs out");
        }
        reception
    }

    /// Leaves a copy's row as a failure of its source demands.
    async fn settle_source(&mut self, error: &ProviderError) -> (Result<bool, StateError>, Reception) {
        let Some(copies) = self.copies.clone() else {
            return self.settle_failure(error, None).await;
        };
        let text = format!("{}: {error}", copies.source.site);
        match error.kind {
            ErrorKind::NotFound => {
                copies.source.link.failed(error);
                self.forget_stumbles();
                self.drop_upload().await;
                let ended = if copies.kind == JobKind::Sync {
                    self.write(|txn, task| txn.drop_task(task)).await
                } else {
                    self.write(move |txn, task| txn.block_task(task, None, "source-gone", &text))
                        .await
                };
                (ended, Reception::Nothing)
            }
            ErrorKind::VersionMismatch => {
                copies.source.link.failed(error);
                self.forget_stumbles();
                self.drop_upload().await;
                (
                    self.retry(Some(error), "source-changed", &text).await,
                    Reception::Nothing,
                )
            }
            _ => self.settle_failure(error, Some(&copies.source)).await,
        }
    }

    /// Leaves the row as a site's failure demands: of the one that a copy comes from, if that is given.
    async fn settle_failure(
        &mut self,
        error: &ProviderError,
        source: Option<&End>,
    ) -> (Result<bool, StateError>, Reception) {
        let kind = error.kind.word();
        // A copy has two sites, and one of them is meant.
        let text = match (source, &self.copies) {
            (Some(end), _) => format!("{}: {error}", end.site),
            (None, Some(_)) => format!("{}: {error}", self.lane.site),
            (None, None) => error.to_string(),
        };
        match source {
            Some(end) => end.link.failed(error),
            None => self.lane.link.failed(error),
        }
        match verdict(error) {
            Verdict::Link => {
                let wait = self.shared.backoff.wait(self.stumble()).min(LINK_WAIT_MAX);
                let due = now_ms().saturating_add(as_ms(wait));
                let put_off = self.write(move |txn, task| txn.postpone_task(task, due, Some((kind, &text))));
                (put_off.await, Reception::Nothing)
            }
            Verdict::Retry => {
                self.forget_stumbles();
                (self.retry(Some(error), kind, &text).await, Reception::Nothing)
            }
            Verdict::Block { again } => {
                self.forget_stumbles();
                self.drop_upload().await;
                warn!(task = self.task.id.0, %error, hint = error.hint(), "a transfer needs a person");
                let again = again.then(|| now_ms().saturating_add(as_ms(self.shared.backoff.max())));
                let blocked = self
                    .write(move |txn, task| txn.block_task(task, again, kind, &text))
                    .await;
                let reception = match error.kind {
                    kind @ (ErrorKind::Auth | ErrorKind::Full | ErrorKind::Config) if source.is_none() => {
                        Reception::Refused(kind)
                    }
                    kind @ (ErrorKind::Auth | ErrorKind::Config) => Reception::RefusedBySource(kind),
                    _ => Reception::Nothing,
                };
                (blocked, reception)
            }
        }
    }

    async fn retry(&self, error: Option<&ProviderError>, kind: &'static str, why: &str) -> Result<bool, StateError> {
        let tried = self.task.tries.saturating_add(1);
        let backoff = &self.shared.backoff;
        let wait = error.map_or_else(|| backoff.wait(tried), |error| backoff.wait_after(error, tried));
        let (due, why) = (now_ms().saturating_add(as_ms(wait)), why.to_owned());
        warn!(
            task = self.task.id.0,
            kind,
            why,
            ?wait,
            "a transfer failed and is tried again"
        );
        self.write(move |txn, task| txn.retry_task(task, due, kind, &why)).await
    }
}
