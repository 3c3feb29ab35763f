//! Listening on TCP: who comes in is counted, and who says nothing is shown out.
//!
//! Owns: connections. Refuses to know: what is asked on them, and by whom. Invariants: there are never more than
//! `CONNECTIONS`; one on which nothing moved for `IDLE` is closed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::access::{self, Access};
use super::{Face, pages, routes};

/// Connections at once; who comes then waits until another one has gone.
const CONNECTIONS: usize = 256;
/// How long nothing may move on a connection: longer than the longest answer takes, and than an event stream is silent.
const IDLE: Duration = Duration::from_secs(60);
/// The largest request in bytes: some ten thousand paths.
const BODY_MAX: usize = 1 << 20;

/// Serves API, metrics and dashboard on TCP until `until` is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve_tcp(listener: TcpListener, face: Face, access: Access, until: CancellationToken) -> io::Result<()> {
    let access = Arc::new(access);
    let all = routes::routes()
        .with_state(face.clone())
        .merge(access::routes().with_state(Arc::clone(&access)))
        .merge(pages::routes());
    let app = routes::finished(all, &face)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(access, access::guard));
    let counted = Counted {
        tcp: listener,
        places: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    axum::serve(counted, app)
        .with_graceful_shutdown(until.cancelled_owned())
        .await
}

struct Counted {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Counted {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (io, from) = Listener::accept(&mut self.tcp).await;
        // An event is a few bytes, and must not wait until the other side has acknowledged those before it.
        drop(io.set_nodelay(true));
        let idle = Box::pin(sleep(IDLE));
        (
            Held {
                io,
                idle,
                _place: place,
            },
            from,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

struct Held {
    io: TcpStream,
    idle: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Passes on how it went: what moved starts the time anew, what does not may have run out of it.
    fn timed<T>(&mut self, cx: &mut Context<'_>, went: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if went.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return went;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let went = Pin::new(&mut self.io).poll_read(cx, buf);
        self.timed(cx, went)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let went = Pin::new(&mut self.io).poll_write(cx, buf);
        self.timed(cx, went)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
