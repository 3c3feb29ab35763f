//! One SFTP session: many requests in flight over one channel.
//!
//! Owns: which answer belongs to which request, open handles, and the end of it all. Refuses to know: SSH (it is given a
//! stream of bytes and somewhere to send them), paths of ours, retries. Invariants: each request is answered, or fails
//! when the session ends; nobody who stops waiting harms the others, and what still comes for him is told of; each handle
//! that the server gave out is closed again.
//!
//! Locks: `Shared::state` alone, never held while anything is dropped that takes it (a [`Handle`] does) nor over an await.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::{Closed, Fault};
use super::window::Window;
use super::wire::{self, Attrs, Framer, Packet, Reply, Request, extension};
use crate::providers::{Arrivals, ErrorKind};

/// Small requests that are waiting are sent as one message of up to this many bytes.
const BATCH: usize = 24 << 10;
/// A message of at least this many bytes that was taken off our hands counts as progress: the link is moving an upload.
/// Requests don't: the system takes those off our hands long after the link has died.
const BULK: usize = 8 << 10;
/// What a request without data counts for in the window, in bytes.
const LIGHT: usize = 4 << 10;
/// The length of a read or write that every server takes (the draft's recommendation).
const SAFE_LEN: u32 = 32 << 10;
/// The longest that we ask for: OpenSSH's own limit is just below.
const MAX_LEN: u32 = 256 << 10;

/// What a server offers beyond version 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Features {
    pub(super) posix_rename: bool,
    pub(super) fsync: bool,
    pub(super) statvfs: bool,
    /// Bytes a read may ask for.
    pub(super) read_len: u32,
    /// Bytes a write may carry.
    pub(super) write_len: u32,
}

/// A session. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    features: Features,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is to be sent.
    outgoing: Notify,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct State {
    closed: Option<Arc<Closed>>,
    hello: Option<oneshot::Sender<Vec<Bytes>>>,
    waiting: HashMap<u32, Waiting>,
    next_id: u32,
    outbox: VecDeque<Bytes>,
    /// Bytes asked for or sent, and not answered yet.
    in_flight: usize,
    /// When the link last showed that it moves, or the first request of a quiet session was made.
    moved: Instant,
    window: Window,
}

#[derive(Debug)]
struct Waiting {
    /// `None`: nobody wants to know.
    tell: Option<oneshot::Sender<Answer>>,
    weight: usize,
    /// Who is told of the bytes that come, if it is a read.
    arrivals: Option<Arrivals>,
    asked: Instant,
}

#[derive(Debug)]
enum Answer {
    Handle(Handle),
    Reply(Reply),
    Fault(Fault),
}

impl Answer {
    fn reply(self) -> Result<Reply, Fault> {
        match self {
            Self::Reply(reply) => Ok(reply),
            Self::Fault(fault) => Err(fault),
            Self::Handle(_) => Err(Fault::Protocol("a reply of another kind than the request")),
        }
    }

    fn handle(self) -> Result<Handle, Fault> {
        match self {
            Self::Handle(handle) => Ok(handle),
            other => match other.reply()?.handle() {
                Err(fault) => Err(fault),
                Ok(_) => Err(Fault::Protocol("a handle that is none")),
            },
        }
    }
}

/// Something open at the server; dropping it closes it, without waiting for that.
#[derive(Debug)]
pub(super) struct Handle {
    bytes: Bytes,
    session: Weak<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(session) = self.session.upgrade() {
            session.post(&Request::Close { handle: &self.bytes }, None, None);
        }
    }
}

/// A request that is on its way; waits for its answer. Dropping it loses interest, no more: the answer comes all the same.
#[derive(Debug)]
pub(super) struct Pending<T> {
    answer: oneshot::Receiver<Answer>,
    shared: Arc<Shared>,
    take: fn(Answer) -> Result<T, Fault>,
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| match answer {
            Ok(answer) => (self.take)(answer),
            Err(_) => Err(self.shared.fault()),
        })
    }
}

impl Session {
    /// Begins a session over a channel: `incoming` gives the server's bytes and ends with the channel, `send` sends ours.
    ///
    /// The caller bounds the time this takes; from then on `idle_timeout` without a sign of life ends the session.
    pub(super) async fn start<R, S, F>(incoming: R, send: S, idle_timeout: Duration) -> Result<Self, Fault>
    where
        R: Stream<Item = Bytes> + Send + Unpin + 'static,
        S: Fn(Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        let (hello, greeted) = oneshot::channel();
        let now = Instant::now();
        let state = State {
            closed: None,
            hello: Some(hello),
            waiting: HashMap::new(),
            next_id: 0,
            outbox: VecDeque::from([wire::init()]),
            in_flight: 0,
            moved: now,
            window: Window::new(now),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            outgoing: Notify::new(),
            idle_timeout,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(receive(Arc::clone(&shared), incoming));
        tasks.spawn(transmit(Arc::clone(&shared), send));
        tasks.spawn(watch(Arc::clone(&shared)));
        let offered = greeted.await.map_err(|_| shared.fault())?;
        let offers = |name: &[u8]| offered.iter().any(|o| o == name);
        let mut session = Self {
            shared,
            features: Features {
                posix_rename: offers(extension::POSIX_RENAME),
                fsync: offers(extension::FSYNC),
                statvfs: offers(extension::STATVFS),
                read_len: SAFE_LEN,
                write_len: SAFE_LEN,
            },
            _tasks: tasks,
        };
        if offers(extension::LIMITS) {
            let (read, write) = session.ask(&Request::Limits, |a| a.reply()?.limits()).await?;
            let usable =
                |len: u64| u32::try_from(len).map_or(MAX_LEN, |len| if len == 0 { SAFE_LEN } else { len.min(MAX_LEN) });
            session.features.read_len = usable(read);
            session.features.write_len = usable(write);
        }
        Ok(session)
    }

    pub(super) fn features(&self) -> Features {
        self.features
    }

    /// Returns why the session has ended, if it has.
    pub(super) fn closed(&self) -> Option<Arc<Closed>> {
        self.shared.lock().closed.clone()
    }

    /// Says whether more reads should be in flight.
    pub(super) fn has_room(&self) -> bool {
        let state = self.shared.lock();
        state.in_flight < state.window.bytes()
    }

    fn ask<T>(&self, request: &Request<'_>, take: fn(Answer) -> Result<T, Fault>) -> Pending<T> {
        self.ask_for(request, None, take)
    }

    fn ask_for<T>(
        &self,
        request: &Request<'_>,
        arrivals: Option<Arrivals>,
        take: fn(Answer) -> Result<T, Fault>,
    ) -> Pending<T> {
        let (tell, answer) = oneshot::channel();
        self.shared.post(request, Some(tell), arrivals);
        Pending {
            answer,
            shared: Arc::clone(&self.shared),
            take,
        }
    }

    pub(super) fn open(&self, path: &[u8], flags: u32) -> Pending<Handle> {
        self.ask(&Request::Open { path, flags }, Answer::handle)
    }

    pub(super) fn open_dir(&self, path: &[u8]) -> Pending<Handle> {
        self.ask(&Request::OpenDir { path }, Answer::handle)
    }

    /// Asks for bytes; fewer may come. `None` is the end of the file. `arrivals` is told of them when they come, also if nobody
    /// waits for them any more.
    pub(super) fn read(&self, handle: &Handle, offset: u64, len: u32, arrivals: &Arrivals) -> Pending<Option<Bytes>> {
        self.ask_for(
            &Request::Read {
                handle: &handle.bytes,
                offset,
                len,
            },
            Some(arrivals.clone()),
            |a| a.reply()?.data(),
        )
    }

    pub(super) fn write(&self, handle: &Handle, offset: u64, data: Bytes) -> Pending<()> {
        self.ask(
            &Request::Write {
                handle: &handle.bytes,
                offset,
                data,
            },
            done,
        )
    }

    /// Closes what is open, for somebody who has to know when the server has done so.
    pub(super) fn close(&self, mut handle: Handle) -> Pending<()> {
        handle.session = Weak::new();
        self.ask(&Request::Close { handle: &handle.bytes }, done)
    }

    pub(super) fn fstat(&self, handle: &Handle) -> Pending<Attrs> {
        self.ask(&Request::FStat { handle: &handle.bytes }, |a| a.reply()?.attrs())
    }

    pub(super) fn lstat(&self, path: &[u8]) -> Pending<Attrs> {
        self.ask(&Request::LStat { path }, |a| a.reply()?.attrs())
    }

    /// As [`lstat`](Self::lstat), links followed.
    pub(super) fn stat(&self, path: &[u8]) -> Pending<Attrs> {
        self.ask(&Request::Stat { path }, |a| a.reply()?.attrs())
    }

    pub(super) fn set_times(&self, handle: &Handle, seconds: u32) -> Pending<()> {
        self.ask(
            &Request::SetTimes {
                handle: &handle.bytes,
                seconds,
            },
            done,
        )
    }

    pub(super) fn set_perm(&self, handle: &Handle, perm: u32) -> Pending<()> {
        self.ask(
            &Request::SetPerm {
                handle: &handle.bytes,
                perm,
            },
            done,
        )
    }

    pub(super) fn fsync(&self, handle: &Handle) -> Pending<()> {
        self.ask(&Request::FSync { handle: &handle.bytes }, done)
    }

    /// Asks for more names of an open folder; `None` is its end.
    pub(super) fn read_dir(&self, handle: &Handle) -> Pending<Option<Vec<(Bytes, Attrs)>>> {
        self.ask(&Request::ReadDir { handle: &handle.bytes }, |a| a.reply()?.names())
    }

    pub(super) fn read_link(&self, path: &[u8]) -> Pending<Bytes> {
        self.ask(&Request::ReadLink { path }, |a| {
            let mut names = a.reply()?.names()?.unwrap_or_default();
            names
                .pop()
                .map(|(target, _)| target)
                .ok_or(Fault::Protocol("a link without a target"))
        })
    }

    pub(super) fn make_dir(&self, path: &[u8]) -> Pending<()> {
        self.ask(&Request::MakeDir { path }, done)
    }

    pub(super) fn remove_dir(&self, path: &[u8]) -> Pending<()> {
        self.ask(&Request::RemoveDir { path }, done)
    }

    pub(super) fn remove(&self, path: &[u8]) -> Pending<()> {
        self.ask(&Request::Remove { path }, done)
    }

    /// Renames; refused where something has the new name.
    pub(super) fn rename(&self, from: &[u8], to: &[u8]) -> Pending<()> {
        self.ask(&Request::Rename { from, to }, done)
    }

    /// Renames, replacing what has the new name; only where [`Features::posix_rename`].
    pub(super) fn posix_rename(&self, from: &[u8], to: &[u8]) -> Pending<()> {
        self.ask(&Request::PosixRename { from, to }, done)
    }

    /// Asks for the space of the file system at a path, all and available; only where [`Features::statvfs`].
    pub(super) fn space(&self, path: &[u8]) -> Pending<(u64, u64)> {
        self.ask(&Request::StatVfs { path }, |a| a.reply()?.space())
    }
}

impl Session {
    /// Ends the session: everything that waits fails now, as if the connection had broken.
    pub(super) fn end(&self, why: &str) {
        self.shared.close(Closed::new(ErrorKind::Unreachable, why));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared
            .close(Closed::new(ErrorKind::Unreachable, "the session is over"));
    }
}

fn done(answer: Answer) -> Result<(), Fault> {
    answer.reply()?.done()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Fault {
        let closed = self.lock().closed.clone();
        Fault::Closed(closed.unwrap_or_else(|| Arc::new(Closed::new(ErrorKind::Unreachable, "the session is over"))))
    }

    /// Queues a request. In a session that is over, `tell` is dropped, which is what its owner is waiting for.
    fn post(&self, request: &Request<'_>, tell: Option<oneshot::Sender<Answer>>, arrivals: Option<Arrivals>) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        let mut id = state.next_id;
        while state.waiting.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        state.next_id = id.wrapping_add(1);
        let (data, weight) = match request {
            Request::Write { data, .. } => (Some(data.clone()), data.len()),
            Request::Read { len, .. } => (None, *len as usize),
            _ => (None, LIGHT),
        };
        if state.waiting.is_empty() {
            state.moved = now;
        }
        state.waiting.insert(
            id,
            Waiting {
                tell,
                weight,
                arrivals,
                asked: now,
            },
        );
        state.in_flight += weight;
        state.outbox.push_back(request.encode(id));
        state.outbox.extend(data.filter(|d| !d.is_empty()));
        drop(state);
        self.outgoing.notify_one();
    }

    /// Returns what is to be sent next: one long piece, or several short ones together.
    fn take_outgoing(&self) -> Option<Bytes> {
        let mut state = self.lock();
        let first = state.outbox.pop_front()?;
        if first.len() >= BATCH || state.outbox.is_empty() {
            return Some(first);
        }
        let mut batch = BytesMut::from(first);
        while let Some(next) = state.outbox.front() {
            if batch.len() + next.len() > BATCH {
                break;
            }
            batch.extend_from_slice(next);
            state.outbox.pop_front();
        }
        Some(batch.freeze())
    }

    /// Hands each packet to whoever waits for it.
    fn deliver(self: &Arc<Self>, packets: Vec<Bytes>) -> Result<(), Fault> {
        let now = Instant::now();
        let mut told = Vec::with_capacity(packets.len());
        let mut state = self.lock();
        state.moved = now;
        for packet in packets {
            let (id, reply) = match Packet::parse(packet)? {
                Packet::Reply(id, reply) => (id, reply),
                Packet::Hello(offered) => {
                    let hello = state.hello.take().ok_or(Fault::Protocol("the server greets twice"))?;
                    // Whoever began the session may have given up; then it is about to be dropped.
                    drop(hello.send(offered));
                    continue;
                }
            };
            let waiting = state
                .waiting
                .remove(&id)
                .ok_or(Fault::Protocol("an answer that nobody asked for"))?;
            state.in_flight -= waiting.weight;
            if waiting.arrivals.is_some() {
                let in_flight = state.in_flight;
                state
                    .window
                    .answered(now, now.duration_since(waiting.asked), waiting.weight, in_flight);
            }
            let arrived = waiting.arrivals.map(|arrivals| (arrivals, reply.data_len()));
            let answer = if reply.is_handle() {
                reply.handle().map_or_else(Answer::Fault, |bytes| {
                    Answer::Handle(Handle {
                        bytes,
                        session: Arc::downgrade(self),
                    })
                })
            } else {
                Answer::Reply(reply)
            };
            told.push((waiting.tell, answer, arrived));
        }
        drop(state);
        for (tell, answer, arrived) in told {
            if let Some((arrivals, bytes)) = arrived {
                arrivals.note(bytes as u64);
            }
            if let Some(tell) = tell {
                // Nobody waits any more: the answer, and a handle in it, is dropped.
                drop(tell.send(answer));
            }
        }
        Ok(())
    }

    /// Ends the session: everything that waits fails now.
    fn close(&self, why: Closed) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.closed = Some(Arc::new(why));
        }
        let waiting = std::mem::take(&mut state.waiting);
        let hello = state.hello.take();
        state.outbox.clear();
        state.in_flight = 0;
        drop(state);
        drop((waiting, hello));
    }
}

async fn receive<R: Stream<Item = Bytes> + Unpin>(shared: Arc<Shared>, mut incoming: R) {
    let mut framer = Framer::default();
    while let Some(data) = incoming.next().await {
        let mut packets = Vec::new();
        let cut = framer.push(data, |packet| packets.push(packet));
        // Part of a long packet is a sign of life too: `deliver` of nothing notes it.
        if let Err(fault) = cut.and_then(|()| shared.deliver(packets)) {
            return shared.close(Closed::new(
                ErrorKind::Protocol,
                format!("not an SFTP server's answer: {fault}"),
            ));
        }
    }
    shared.close(Closed::new(ErrorKind::Unreachable, "the connection broke"));
}

async fn transmit<S, F>(shared: Arc<Shared>, send: S)
where
    S: Fn(Bytes) -> F,
    F: Future<Output = bool>,
{
    loop {
        let Some(message) = shared.take_outgoing() else {
            // A permit is kept if something was queued meanwhile.
            shared.outgoing.notified().await;
            continue;
        };
        let bulk = message.len() >= BULK;
        if !send(message).await {
            return shared.close(Closed::new(ErrorKind::Unreachable, "the connection broke"));
        }
        if bulk {
            shared.lock().moved = Instant::now();
        }
    }
}

/// Ends the session when requests wait and nothing moves for the idle time-out.
async fn watch(shared: Arc<Shared>) {
    loop {
        let quiet_since = {
            let state = shared.lock();
            if state.waiting.is_empty() {
                Instant::now()
            } else {
                state.moved
            }
        };
        let deadline = quiet_since + shared.idle_timeout;
        if deadline <= Instant::now() {
            let why = format!("the server did not answer for {:?}", shared.idle_timeout);
            return shared.close(Closed::new(ErrorKind::TimedOut, why));
        }
        // A request made while asleep restarts the clock no earlier than now, so this never wakes too late.
        tokio::time::sleep_until(deadline).await;
    }
}
