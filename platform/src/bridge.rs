//! From an operating system's request to the drive's answer: polled once on the host's thread, else finished on tokio.
//!
//! Owns: the hand-over between the host's threads and the runtime, the catching of panics, the last-resort deadlines, and
//! the log of failed requests. Refuses to know: what a request is, and which host sent it.
//!
//! Invariant: whatever a future does (ready, slow, panicking, never ready), its `reply` is called exactly once or, where
//! `reply` itself panics or the runtime is gone, dropped; hosts answer a dropped reply with EIO.

use std::any::Any;
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{FsError, FsErrorKind};
use crate::spam::Spam;
use crate::tally::{Operation, Tally};

/// Which request is answered, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The operation, as the host calls it.
    pub op: &'static str,
    /// The node that it is about.
    pub node: u64,
}

/// How often answering went wrong since the host started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BridgeCounters {
    /// Requests whose future or reply panicked; each was answered with EIO.
    pub panics: u64,
    /// Requests given up at the deadline; each was answered with EIO.
    pub expired: u64,
}

/// Answers requests: inline when their future is ready at once (metadata, resident bytes), otherwise from the runtime.
#[derive(Debug)]
pub struct Bridge {
    rt: Handle,
    panics: AtomicU64,
    expired: AtomicU64,
    tally: Tally,
    spam: Spam,
}

impl Bridge {
    /// Makes a bridge that finishes slow requests on `rt`, whose timers must be enabled.
    #[must_use]
    pub fn new(rt: Handle) -> Arc<Self> {
        Arc::new(Self {
            rt,
            panics: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            tally: Tally::default(),
            spam: Spam::default(),
        })
    }

    /// Returns what went wrong so far.
    #[must_use]
    pub fn counters(&self) -> BridgeCounters {
        BridgeCounters {
            panics: self.panics.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
        }
    }

    /// Returns how the requests went that were answered so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.tally.now()
    }

    /// Polls `fut` once on this thread and replies; a future that is not ready is spawned and replied to from there, and
    /// given up after `deadline`: the kernel waits for an answer unkillably, so there must be one. Never panics and never
    /// blocks for longer than that one poll.
    pub fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        asked: Asked,
        deadline: Duration,
        fut: impl Future<Output = Result<T, FsError>> + Send + 'static,
        reply: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) {
        let begun = Instant::now();
        let _rt = self.rt.enter();
        let mut fut = Box::pin(fut);
        match guarded_poll(fut.as_mut(), &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(out) => {
                // Destructors of a half-run future are code of the engine too.
                self.run(asked, move || drop(fut));
                self.finish(asked, begun, out, reply);
            }
            Poll::Pending => {
                let bridge = Arc::clone(self);
                self.rt.spawn(async move {
                    let polled = poll_fn(|cx| guarded_poll(fut.as_mut(), cx));
                    let out = match tokio::time::timeout(deadline, polled).await {
                        Ok(out) => out,
                        Err(_elapsed) => {
                            bridge.expired.fetch_add(1, Ordering::Relaxed);
                            Ok(Err(FsError::new(
                                FsErrorKind::TimedOut,
                                "the request's last-resort deadline passed",
                            )))
                        }
                    };
                    bridge.run(asked, move || drop(fut));
                    bridge.finish(asked, begun, out, reply);
                });
            }
        }
    }

    /// Answers a request by a call that does not wait; `None` if that leaves it to another way, and nothing was answered.
    pub fn answer_now<T>(
        &self,
        asked: Asked,
        call: impl FnOnce() -> Option<Result<T, FsError>>,
    ) -> Option<Result<T, FsError>> {
        let begun = Instant::now();
        let _rt = self.rt.enter();
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(None) => None,
            Ok(Some(out)) => Some(self.told(asked, begun, Ok(out))),
            Err(panic) => Some(self.told(asked, begun, Err(panic))),
        }
    }

    /// Runs a call that has no reply (forget, release) and survives its panic.
    pub fn run(&self, asked: Asked, call: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            self.panicked(asked, &*panic);
        }
    }

    fn finish<T>(
        &self,
        asked: Asked,
        begun: Instant,
        out: Result<Result<T, FsError>, Box<dyn Any + Send>>,
        reply: impl FnOnce(Result<T, FsError>),
    ) {
        let out = self.told(asked, begun, out);
        self.run(asked, move || reply(out));
    }

    /// Counts how it went, logs what went wrong, and returns what is answered.
    fn told<T>(
        &self,
        asked: Asked,
        begun: Instant,
        out: Result<Result<T, FsError>, Box<dyn Any + Send>>,
    ) -> Result<T, FsError> {
        let out = out.unwrap_or_else(|panic| {
            self.panicked(asked, &*panic);
            Err(FsErrorKind::Io.into())
        });
        let failed = out.as_ref().err().map(|error| error.kind);
        self.tally.note(asked.op, begun.elapsed(), failed);
        if let Err(error) = &out {
            self.log_failure(asked, error);
        }
        out
    }

    fn panicked(&self, asked: Asked, panic: &(dyn Any + Send)) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        let said = panic
            .downcast_ref::<&'static str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        tracing::error!(
            op = asked.op,
            node = asked.node,
            panic = said,
            "a request panicked; its caller got EIO"
        );
    }

    /// Logs a failed request: loudly where a user lost something, in a whisper where the answer is everyday life (ENOENT).
    fn log_failure(&self, asked: Asked, error: &FsError) {
        use FsErrorKind as K;
        let Asked { op, node } = asked;
        let cause = error.source().map(tracing::field::display);
        match error.kind {
            K::Io
            | K::Offline
            | K::TimedOut
            | K::RemoteChanged
            | K::CacheFull
            | K::NoSpace
            | K::RemoteQuota
            | K::BadHandle => match self.spam.worth_saying(node, error.kind, Instant::now()) {
                Some(0) => tracing::warn!(op, node, error = %error, cause, "a file operation failed"),
                Some(unsaid) => {
                    tracing::warn!(op, node, error = %error, cause, unsaid, "a file operation failed, as others did before");
                }
                None => {}
            },
            K::NotFound
            | K::HeldBack
            | K::Exists
            | K::Left
            | K::NotDir
            | K::IsDir
            | K::NotEmpty
            | K::Denied
            | K::NotPermitted
            | K::ReadOnly
            | K::Busy
            | K::Interrupted
            | K::NameTooLong
            | K::Invalid
            | K::NoAttr
            | K::Range
            | K::Unsupported
            | K::CrossDevice
            | K::PastEnd
            | K::FileTooLarge
            | K::TooManyLinks => tracing::trace!(op, node, error = %error, cause, "a file operation was refused"),
        }
    }
}

fn guarded_poll<F: Future>(fut: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Result<F::Output, Box<dyn Any + Send>>> {
    match catch_unwind(AssertUnwindSafe(|| fut.poll(cx))) {
        Ok(Poll::Ready(out)) => Poll::Ready(Ok(out)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::thread::{self, ThreadId};

    use super::*;

    const ASKED: Asked = Asked { op: "test", node: 1 };
    const LONG: Duration = Duration::from_secs(60);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    }

    type Replied = (Result<u8, FsErrorKind>, ThreadId);

    /// Answers with `fut` and returns the reply, if any, and the thread that it came from.
    fn replied(
        bridge: &Arc<Bridge>,
        fut: impl Future<Output = Result<u8, FsError>> + Send + 'static,
    ) -> Receiver<Replied> {
        replied_by(bridge, LONG, fut)
    }

    fn replied_by(
        bridge: &Arc<Bridge>,
        deadline: Duration,
        fut: impl Future<Output = Result<u8, FsError>> + Send + 'static,
    ) -> Receiver<Replied> {
        let (send, receive) = sync_channel(1);
        bridge.answer(ASKED, deadline, fut, move |out| {
            send.send((out.map_err(|e| e.kind), thread::current().id()))
                .expect("the test waits");
        });
        receive
    }

    #[test]
    fn what_is_ready_is_answered_before_the_call_returns() {
        let rt = runtime();
        let bridge = Bridge::new(rt.handle().clone());
        let reply = replied(&bridge, async { Ok(7) }).try_recv().expect("there already");
        assert_eq!(reply, (Ok(7), thread::current().id()));
    }

    #[test]
    fn what_is_not_ready_is_answered_from_the_runtime() {
        let rt = runtime();
        let bridge = Bridge::new(rt.handle().clone());
        let (go, gone) = tokio::sync::oneshot::channel();
        let receive = replied(&bridge, async {
            gone.await.map_err(|e| FsError::new(FsErrorKind::Io, e))
        });
        assert!(receive.try_recv().is_err(), "not yet");
        go.send(9).expect("awaited");
        let (out, thread) = receive.recv_timeout(Duration::from_secs(10)).expect("answered");
        assert_eq!(out, Ok(9));
        assert_ne!(thread, thread::current().id());
    }

    struct PanicsWhenDropped;

    impl Future for PanicsWhenDropped {
        type Output = Result<u8, FsError>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(1))
        }
    }

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("a panic in a destructor");
        }
    }

    #[test]
    fn panics_become_io_errors_wherever_they_happen() {
        let rt = runtime();
        let bridge = Bridge::new(rt.handle().clone());
        let now = replied(&bridge, async { panic!("at once") })
            .try_recv()
            .expect("answered inline");
        assert_eq!(now.0, Err(FsErrorKind::Io));
        let late = replied(&bridge, async {
            tokio::task::yield_now().await;
            panic!("later, {}", 2)
        });
        assert_eq!(
            late.recv_timeout(Duration::from_secs(10)).expect("answered").0,
            Err(FsErrorKind::Io)
        );
        assert_eq!(bridge.counters(), BridgeCounters { panics: 2, expired: 0 });

        let dropped = replied(&bridge, PanicsWhenDropped);
        assert_eq!(dropped.try_recv().expect("answered inline").0, Ok(1));
        bridge.answer(ASKED, LONG, async { Ok(()) }, |_| panic!("in the reply"));
        bridge.run(ASKED, || panic!("in a call without reply"));
        let now = bridge.answer_now::<u8>(ASKED, || panic!("in a call that does not wait"));
        assert_eq!(now.map(|out| out.map_err(|e| e.kind)), Some(Err(FsErrorKind::Io)));
        assert_eq!(bridge.counters(), BridgeCounters { panics: 6, expired: 0 });
    }

    #[test]
    fn the_deadline_answers_and_drops_the_future() {
        let rt = runtime();
        let bridge = Bridge::new(rt.handle().clone());
        let (held, dropped) = sync_channel::<()>(0);
        let receive = replied_by(&bridge, Duration::from_millis(20), async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(0)
        });
        assert_eq!(
            receive.recv_timeout(Duration::from_secs(10)).expect("answered").0,
            Err(FsErrorKind::TimedOut)
        );
        assert!(
            dropped.recv_timeout(Duration::from_secs(10)).is_err(),
            "what the future held is free"
        );
        assert_eq!(bridge.counters(), BridgeCounters { panics: 0, expired: 1 });
    }

    #[test]
    fn a_runtime_that_is_gone_drops_the_reply() {
        let rt = runtime();
        let bridge = Bridge::new(rt.handle().clone());
        rt.shutdown_timeout(Duration::from_secs(10));
        let receive = replied(&bridge, std::future::pending());
        let gone = receive.recv_timeout(Duration::from_secs(10));
        assert_eq!(gone, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
