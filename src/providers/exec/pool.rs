//! The processes of a program: as many as there is work for, up to a bound.
//!
//! Owns: who gets which process, and that what a caller gave up on is still seen to its end. Refuses to know: what is asked.
//! Invariants: a process has one request at a time; one that did not answer as it should is never given out again; an
//! upload never takes the last process from those who read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::wire::{Can, DATA_MAX, Reply, Request};
use super::worker::{Failed, Program, Worker};
use crate::providers::{ErrorKind, Listed, Op, ProviderError};

/// Pages of a listing that may wait for their reader.
const PAGES: usize = 4;

#[derive(Debug)]
pub(super) struct Pool {
    program: Arc<Program>,
    idle: Mutex<Vec<Worker>>,
    slots: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    /// What the program said that it can do, once it has.
    can: Mutex<Option<Can>>,
    /// When a process last answered: as long as others make progress, waiting for one is no time-out.
    answered: Mutex<Instant>,
}

/// Rows of a listing, and whether more follow.
pub(super) type Page = (Vec<Listed>, bool);

/// The right to one process; dropping it lets the next in.
pub(super) struct Slot {
    _process: OwnedSemaphorePermit,
    _upload: Option<OwnedSemaphorePermit>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(program: Program, workers: usize) -> Self {
        Self {
            program: Arc::new(program),
            idle: Mutex::default(),
            slots: Arc::new(Semaphore::new(workers)),
            uploads: Arc::new(Semaphore::new(workers.saturating_sub(1).max(1))),
            can: Mutex::default(),
            answered: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn can(&self) -> Option<Can> {
        lock(&self.can).clone()
    }

    /// Waits for the right to a process.
    pub(super) async fn slot(&self, op: Op) -> Result<Slot, ProviderError> {
        let upload = match op {
            Op::Upload => Some(self.wait(&self.uploads, op).await?),
            _ => None,
        };
        Ok(Slot {
            _process: self.wait(&self.slots, op).await?,
            _upload: upload,
        })
    }

    async fn wait(&self, of: &Arc<Semaphore>, op: Op) -> Result<OwnedSemaphorePermit, ProviderError> {
        let patience = self.program.idle_timeout;
        loop {
            match tokio::time::timeout(patience, Arc::clone(of).acquire_owned()).await {
                Ok(Ok(permit)) => return Ok(permit),
                Ok(Err(e)) => return Err(ProviderError::new(ErrorKind::Protocol, op).because(e)),
                Err(_) if lock(&self.answered).elapsed() < patience => {}
                Err(_) => {
                    let why = format!("all processes of {} are busy for {patience:?}", self.program.name());
                    return Err(ProviderError::new(ErrorKind::TimedOut, op).because(why));
                }
            }
        }
    }

    async fn worker(&self) -> Result<Worker, Failed> {
        loop {
            let waiting = lock(&self.idle).pop();
            let Some(mut worker) = waiting else { break };
            if !worker.has_ended() {
                return Ok(worker);
            }
        }
        let (worker, hello) = Worker::start(Arc::clone(&self.program)).await?;
        *lock(&self.can) = Some(hello.capabilities);
        Ok(worker)
    }

    fn put_back(&self, worker: Worker) {
        *lock(&self.answered) = Instant::now();
        if worker.is_fit() {
            lock(&self.idle).push(worker);
        }
    }

    /// Asks for one answer. The caller may lose interest; the process is heard out all the same.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        slot: Slot,
        request: Request,
        take: impl FnOnce(Reply, Bytes) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Failed> {
        let this = Arc::clone(self);
        let job = tokio::spawn(async move {
            let _slot = slot;
            let mut worker = this.worker().await?;
            let out = match worker.ask(&request, &[]).await {
                Ok((reply, data)) => take(reply, data).map_err(|why| worker.nonsense(&why)),
                Err(e) => Err(e),
            };
            this.put_back(worker);
            out
        });
        job.await.unwrap_or_else(|e| Err(Failed::cut_off(&e)))
    }

    /// Sends the bytes of a part, piece by piece, all to one process; returns the last answer.
    pub(super) async fn send(
        self: &Arc<Self>,
        slot: Slot,
        offset: u64,
        part: Bytes,
        request: impl Fn(u64, bool) -> Request + Send + 'static,
        take: impl FnOnce(Reply) -> Result<String, String> + Send + 'static,
    ) -> Result<String, Failed> {
        let this = Arc::clone(self);
        let (interest, gone) = tokio::sync::oneshot::channel::<()>();
        let job = tokio::spawn(async move {
            let _slot = slot;
            let mut worker = this.worker().await?;
            let (mut at, mut rest) = (offset, part);
            let out = loop {
                let piece = rest.split_to(rest.len().min(DATA_MAX));
                match worker.ask(&request(at, rest.is_empty()), &piece).await {
                    Err(e) => break Err(e),
                    Ok((reply, _)) if rest.is_empty() => break take(reply).map_err(|why| worker.nonsense(&why)),
                    Ok(_) => *lock(&this.answered) = Instant::now(),
                }
                if interest.is_closed() {
                    break Err(Failed::given_up());
                }
                at += piece.len() as u64;
            };
            this.put_back(worker);
            out
        });
        let out = job.await.unwrap_or_else(|e| Err(Failed::cut_off(&e)));
        drop(gone);
        out
    }

    /// Asks for an answer of many pages; each says whether another one follows.
    pub(super) fn pages(self: &Arc<Self>, slot: Slot, request: Request) -> mpsc::Receiver<Result<Page, Failed>> {
        let this = Arc::clone(self);
        let (pages, receiver) = mpsc::channel(PAGES);
        tokio::spawn(async move {
            let _slot = slot;
            let mut worker = match this.worker().await {
                Ok(worker) => worker,
                Err(e) => return drop(pages.send(Err(e)).await),
            };
            let mut answer = worker.ask(&request, &[]).await;
            loop {
                let page = answer.and_then(|(reply, _)| {
                    let rows: Result<Vec<_>, _> = reply.entries.into_iter().map(super::wire::Row::listed).collect();
                    Ok((rows.map_err(|why| worker.nonsense(&why))?, reply.more))
                });
                *lock(&this.answered) = Instant::now();
                let more = page.as_ref().is_ok_and(|(_, more)| *more);
                // Nobody may listen any more; the process is heard out, so that it can be asked again.
                drop(pages.send(page).await);
                if !more {
                    break;
                }
                answer = worker.more().await;
            }
            this.put_back(worker);
        });
        receiver
    }
}
