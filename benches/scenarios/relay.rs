//! A wire with a length and, where wanted, a width: passes bytes on after a delay and at a rate, and counts them. The rate
//! belongs to the wire, one for each direction, however many connections share it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::pause;

/// Pieces on the wire at most: with 64 KiB each, what 1 GB/s needs for 100 ms and more.
const ON_THE_WIRE: usize = 2048;
const PIECE: usize = 64 << 10;

/// Bytes that may wait for the wire before who sends them has to wait as well: a router's queue of 10 ms at 1 Gbit/s.
const QUEUE_TIME: Duration = Duration::from_millis(10);

/// One direction of a wire: when it is free again.
#[derive(Debug, Clone)]
struct Lane {
    delay: Duration,
    /// Bytes a second; `None`: as many as come.
    rate: Option<u64>,
    free_at: Arc<Mutex<Instant>>,
}

impl Lane {
    fn new(delay: Duration, rate: Option<u64>) -> Self {
        Self {
            delay,
            rate,
            free_at: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Puts bytes on the wire; returns when they arrive, and for how long their sender is to wait before it sends more.
    fn put(&self, len: usize) -> (Instant, Duration) {
        let now = Instant::now();
        let Some(rate) = self.rate else {
            return (now + self.delay, Duration::ZERO);
        };
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few KiB")]
        let takes = Duration::from_secs_f64(len as f64 / rate as f64);
        *free_at = (*free_at).max(now) + takes;
        let queued = free_at.saturating_duration_since(now).saturating_sub(QUEUE_TIME);
        (*free_at + self.delay, queued)
    }
}

/// A relay on a port of its own; it goes on until the process ends.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) port: u16,
    received: Arc<AtomicU64>,
}

impl Relay {
    /// Relays connections to `target`, each direction delayed by `delay`.
    pub(crate) fn start(target: SocketAddr, delay: Duration) -> Result<Self> {
        Self::with_rate(target, delay, None)
    }

    /// As [`Relay::start`], each direction limited to `rate` bytes a second.
    pub(crate) fn with_rate(target: SocketAddr, delay: Duration, rate: Option<u64>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (received, counted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&received);
        let (up, down) = (Lane::new(delay, rate), Lane::new(delay, rate));
        thread::spawn(move || {
            for client in listener.incoming() {
                // A connection that can't be made is closed, which is what its client needs to know.
                drop(client.and_then(|client| {
                    let server = TcpStream::connect(target)?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    pass(
                        client.try_clone()?,
                        server.try_clone()?,
                        up.clone(),
                        Arc::clone(&counted),
                    );
                    pass(server, client, down.clone(), Arc::clone(&counter));
                    Ok(())
                }));
            }
        });
        Ok(Self { port, received })
    }

    /// Returns the bytes that went from the server to its clients so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, lane: Lane, counter: Arc<AtomicU64>) {
    let (wire, far_end): (SyncSender<(Instant, Vec<u8>)>, Receiver<_>) = sync_channel(ON_THE_WIRE);
    thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(len @ 1..) = from.read(&mut piece) {
            counter.fetch_add(len as u64, Ordering::Relaxed);
            let (due, wait) = lane.put(len);
            if wire.send((due, piece[..len].to_vec())).is_err() {
                break;
            }
            if !wait.is_zero() {
                pause(wait);
            }
        }
        drop(from.shutdown(Shutdown::Read));
    });
    thread::spawn(move || {
        for (due, bytes) in far_end {
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                pause(left);
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    });
}

/// Returns the median round trip of a relay with this delay, as a program sees it.
pub(crate) fn round_trip(delay: Duration) -> Result<Duration> {
    let echo = TcpListener::bind(("127.0.0.1", 0))?;
    let relay = Relay::start(echo.local_addr()?, delay)?;
    thread::spawn(move || {
        let Ok((mut stream, _)) = echo.accept() else { return };
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let mut stream = TcpStream::connect(("127.0.0.1", relay.port))?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    for _ in 0..21 {
        let begin = Instant::now();
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
