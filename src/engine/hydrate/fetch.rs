//! A fetch that runs, and who wants it.
//!
//! Owns: how far it is, how urgent, when it is given up. Refuses to know: how bytes come. Invariant: nobody left interested in it
//! means that it stops.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::HydrateError;
use crate::engine::firewall::Payer;
use crate::engine::schedule::Priority;

#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) span: Range<u64>,
    /// Who wanted it first.
    pub(super) payer: Payer,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) wanted: AtomicUsize,
    pub(super) priority: watch::Sender<Priority>,
    /// Somebody waits for it: its priority says so.
    pub(super) urgent: watch::Sender<bool>,
    pub(super) cancel: CancellationToken,
}

impl Fetch {
    pub(super) fn new(span: Range<u64>, priority: Priority, payer: &Payer) -> Arc<Self> {
        Arc::new(Self {
            progress: watch::Sender::new(Progress::UpTo(span.start)),
            span,
            payer: payer.at(priority),
            wanted: AtomicUsize::new(0),
            priority: watch::Sender::new(priority),
            urgent: watch::Sender::new(priority == Priority::Demand),
            cancel: CancellationToken::new(),
        })
    }

    /// Makes it at least as urgent as that.
    pub(super) fn raise(&self, priority: Priority) {
        let rises = |now: &mut Priority| {
            let rises = *now < priority;
            *now = (*now).max(priority);
            rises
        };
        if self.priority.send_if_modified(rises) && priority == Priority::Demand {
            self.urgent.send_replace(true);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// It waits for a slot; everything before this offset is in the cache.
    Queued(u64),
    /// Everything before this offset is in the cache.
    UpTo(u64),
    /// It stopped short.
    Failed(HydrateError),
    /// Nobody wanted it any more.
    Cancelled,
}

/// Interest in a fetch; when the last one is dropped, the fetch stops.
#[derive(Debug)]
pub struct Interest(pub(super) Arc<Fetch>);

impl Interest {
    /// Waits until the fetch has ended, one way or the other, without being interested in it.
    pub(in crate::engine) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut progress, end) = (self.0.progress.subscribe(), self.0.span.end);
        async move {
            let over = |progress: &Progress| match progress {
                Progress::UpTo(at) => *at >= end,
                Progress::Queued(_) => false,
                Progress::Failed(_) | Progress::Cancelled => true,
            };
            // Whoever reports progress is gone: that is an end as well.
            drop(progress.wait_for(over).await);
        }
    }

    /// Says whether the fetch has ended, one way or the other.
    pub fn is_over(&self) -> bool {
        match *self.0.progress.borrow() {
            Progress::UpTo(at) => at >= self.0.span.end,
            Progress::Queued(_) => false,
            Progress::Failed(_) | Progress::Cancelled => true,
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if self.0.wanted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.cancel.cancel();
        }
    }
}
