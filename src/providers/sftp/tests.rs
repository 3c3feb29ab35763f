//! Sessions against a server that is played by the test, packet by packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::error::Fault;
use super::session::Session;
use super::wire::{self, Framer};
use crate::providers::{Arrivals, ErrorKind};

const IDLE: Duration = Duration::from_secs(15);

/// The server's end.
struct Server {
    from_client: mpsc::Receiver<Bytes>,
    to_client: mpsc::Sender<Bytes>,
    framer: Framer,
    requests: Vec<Bytes>,
}

/// A request as the server sees it.
#[derive(Debug)]
struct Seen {
    kind: u8,
    id: u32,
    body: Bytes,
}

impl Server {
    async fn next(&mut self) -> Seen {
        while self.requests.is_empty() {
            let data = timeout(IDLE * 10, self.from_client.recv())
                .await
                .expect("a request comes")
                .unwrap();
            let requests = &mut self.requests;
            self.framer.push(data, |packet| requests.push(packet)).unwrap();
        }
        let mut packet = self.requests.remove(0);
        Seen {
            kind: packet.get_u8(),
            id: packet.get_u32(),
            body: packet,
        }
    }

    async fn send(&self, kind: u8, rest: &[u8]) {
        let mut packet = BytesMut::new();
        packet.put_u32(u32::try_from(rest.len() + 1).unwrap());
        packet.put_u8(kind);
        packet.put_slice(rest);
        self.to_client.send(packet.freeze()).await.unwrap();
    }

    async fn handle(&self, id: u32, handle: &[u8]) {
        self.send(102, &[&id.to_be_bytes()[..], &string(handle)].concat()).await;
    }

    async fn data(&self, id: u32, data: &[u8]) {
        self.send(103, &[&id.to_be_bytes()[..], &string(data)].concat()).await;
    }

    async fn status(&self, id: u32, code: u32) {
        let text = string(b"because");
        self.send(
            101,
            &[&id.to_be_bytes()[..], &code.to_be_bytes(), &text, &string(b"")].concat(),
        )
        .await;
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Starts a session with a server that offers nothing beyond version 3.
async fn session() -> (Session, Server) {
    let (to_server, mut from_client) = mpsc::channel::<Bytes>(64);
    let (to_client, from_server) = mpsc::channel::<Bytes>(64);
    let incoming = Box::pin(stream::unfold(from_server, |mut rx| async move {
        rx.recv().await.map(|b| (b, rx))
    }));
    let send = move |message| {
        let to_server = to_server.clone();
        async move { to_server.send(message).await.is_ok() }
    };
    let starting = tokio::spawn(Session::start(incoming, send, IDLE));
    assert_eq!(from_client.recv().await.unwrap(), wire::init());
    let server = Server {
        from_client,
        to_client,
        framer: Framer::default(),
        requests: Vec::new(),
    };
    server.send(2, &3u32.to_be_bytes()).await;
    (starting.await.unwrap().unwrap(), server)
}

fn closed_as(fault: &Fault) -> Option<ErrorKind> {
    match fault {
        Fault::Closed(closed) => Some(closed.kind),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn answers_find_their_requests_in_any_order() {
    let (session, mut server) = session().await;
    let (a, b) = (session.open(b"/a", 1), session.open(b"/b", 1));
    let (first, second) = (server.next().await, server.next().await);
    server.handle(second.id, b"B").await;
    server.handle(first.id, b"A\xff\x00").await;
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    let (of_b, of_a) = (
        session.read(&b, 0, 10, &Arrivals::nobody()),
        session.read(&a, 5, 10, &Arrivals::nobody()),
    );
    let (first, second) = (server.next().await, server.next().await);
    assert_eq!(
        &first.body[..],
        [string(b"B"), vec![0; 8], 10u32.to_be_bytes().to_vec()].concat()
    );
    assert!(second.body.starts_with(&string(b"A\xff\x00")), "handles are bytes");
    server.status(second.id, 1).await;
    server.data(first.id, b"bytes").await;
    assert_eq!(of_a.await.unwrap(), None, "the end of the file");
    assert_eq!(of_b.await.unwrap().unwrap(), "bytes");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_too_late_are_told_of_all_the_same() {
    let (session, mut server) = session().await;
    let open = session.open(b"/a", 1);
    let asked = server.next().await;
    server.handle(asked.id, b"A").await;
    let handle = open.await.unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&told);
    let arrivals = Arrivals::new(move |bytes| {
        sum.fetch_add(bytes, Relaxed);
    });
    let wanted = session.read(&handle, 0, 10, &arrivals);
    let (kept, left) = (server.next().await, session.read(&handle, 10, 10, &arrivals));
    drop(left);
    let late = server.next().await;
    server.data(late.id, b"0123456").await;
    server.data(kept.id, b"abc").await;
    assert_eq!(wanted.await.unwrap().unwrap(), "abc");
    assert_eq!(told.load(Relaxed), 10);
    // The end of the file is none of its bytes.
    let end = session.read(&handle, 20, 10, &arrivals);
    let asked = server.next().await;
    server.status(asked.id, 1).await;
    assert_eq!(end.await.unwrap(), None);
    assert_eq!(told.load(Relaxed), 10);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_comes_too_late_is_closed() {
    let (session, mut server) = session().await;
    drop(session.open(b"/a", 1));
    let open = server.next().await;
    server.handle(open.id, b"H").await;
    let close = server.next().await;
    assert_eq!((close.kind, &close.body[..]), (4, &string(b"H")[..]));
    // Another that has arrived, and is dropped before anybody looks.
    let opening = session.open(b"/b", 1);
    let open = server.next().await;
    server.handle(open.id, b"I").await;
    let stat = session.stat(b"/c");
    let asked = server.next().await;
    server.status(asked.id, 2).await;
    assert!(stat.await.unwrap_err().is_absent(), "so the handle has arrived as well");
    drop(opening);
    let close = server.next().await;
    assert_eq!((close.kind, &close.body[..]), (4, &string(b"I")[..]));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_only_while_somebody_waits() {
    let (session, mut server) = session().await;
    tokio::time::sleep(IDLE * 20).await;
    assert!(session.closed().is_none(), "nobody was waiting");
    let start = Instant::now();
    let (a, b) = (session.stat(b"/a"), session.stat(b"/b"));
    let first = server.next().await;
    server.next().await;
    tokio::time::sleep(IDLE / 3 * 2).await;
    server.status(first.id, 4).await;
    assert!(a.await.unwrap_err().is_plain_failure());
    let fault = b.await.unwrap_err();
    assert_eq!(closed_as(&fault), Some(ErrorKind::TimedOut), "{fault}");
    // The answer to `a` was a sign of life.
    assert_eq!(start.elapsed(), IDLE / 3 * 2 + IDLE);
    assert_eq!(
        closed_as(&session.stat(b"/c").await.unwrap_err()),
        Some(ErrorKind::TimedOut),
        "and nothing more is asked"
    );
}

#[tokio::test(start_paused = true)]
async fn small_requests_into_a_dead_link_are_no_sign_of_life() {
    let (session, server) = session().await;
    let start = Instant::now();
    let first = session.stat(b"/a");
    tokio::pin!(first);
    let fault = loop {
        drop(session.stat(b"/b"));
        if let Ok(outcome) = timeout(Duration::from_secs(1), first.as_mut()).await {
            break outcome.unwrap_err();
        }
    };
    assert_eq!(closed_as(&fault), Some(ErrorKind::TimedOut));
    assert_eq!(start.elapsed(), IDLE);
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_channel_fails_all_at_once() {
    let (session, server) = session().await;
    let waiting: Vec<_> = (0..50).map(|i| session.stat(format!("/{i}").as_bytes())).collect();
    let start = Instant::now();
    drop(server);
    for one in waiting {
        assert_eq!(closed_as(&one.await.unwrap_err()), Some(ErrorKind::Unreachable));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_session_fails_who_waits_for_it() {
    let (session, _server) = session().await;
    let waiting = session.stat(b"/a");
    drop(session);
    assert_eq!(closed_as(&waiting.await.unwrap_err()), Some(ErrorKind::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_talks_nonsense_is_left() {
    for nonsense in [
        &b"\x00\x00\x00\x05\x65\x00\x00\xff\xff"[..],
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x01\x65",
    ] {
        let (session, mut server) = session().await;
        let waiting = session.stat(b"/a");
        server.next().await;
        server.to_client.send(Bytes::copy_from_slice(nonsense)).await.unwrap();
        assert_eq!(
            closed_as(&waiting.await.unwrap_err()),
            Some(ErrorKind::Protocol),
            "{nonsense:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_carries_its_bytes_behind_its_header() {
    let (session, mut server) = session().await;
    let opening = session.open(b"/a", 2);
    let open = server.next().await;
    server.handle(open.id, b"H").await;
    let handle = opening.await.unwrap();
    let data = Bytes::from(vec![7; 100_000]);
    let (large, small) = (
        session.write(&handle, 1 << 40, data.clone()),
        session.write(&handle, 3, Bytes::from_static(b"xyz")),
    );
    for (offset, data) in [(1u64 << 40, &data[..]), (3, b"xyz")] {
        let seen = server.next().await;
        assert_eq!(seen.kind, 6);
        assert_eq!(
            &seen.body[..],
            [&string(b"H")[..], &offset.to_be_bytes(), &string(data)].concat()
        );
        server.status(seen.id, 0).await;
    }
    large.await.unwrap();
    small.await.unwrap();
}
