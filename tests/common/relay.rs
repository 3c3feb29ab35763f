//! A TCP relay on the loopback interface that behaves like a bad link: late, slow, swallowing everything, cutting, refusing.
//!
//! Owns: its connections and when bytes pass. Refuses to know: what they mean. Invariants: bytes are never lost, changed
//! or put out of order; a link that swallows holds what came in and passes it on when it is mended, as TCP would. Without
//! delay and limit it passes several Gbit/s.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Bytes read at once when the rate is limited, so that a slow link drips rather than gushes.
const SMALL_CHUNK: usize = 16 << 10;
/// Chunks under way in one direction of a connection at most: with a delay, a reader waits when that much is in flight.
const IN_FLIGHT: usize = 256;
/// How long the far side may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// A running relay. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// The direction of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// From the client to the server.
    Up = 0,
    /// From the server to the client.
    Down = 1,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    control: Mutex<Control>,
    changed: Condvar,
    /// Bytes passed on, by [`Way`].
    passed: [AtomicU64; 2],
    /// Bytes that came in and were not passed on yet, by [`Way`].
    held: [AtomicU64; 2],
    accepted: AtomicU64,
}

#[derive(Debug)]
struct Control {
    delay: Duration,
    bytes_per_second: Option<u64>,
    cut_after: Option<u64>,
    /// When the limited link is free again, by [`Way`].
    free_at: [Instant; 2],
    swallows: bool,
    /// It begins to swallow in place of passing more than so many bytes of the server's in all.
    swallows_at: Option<u64>,
    /// The listener ends at the next connection.
    refuses: bool,
    stopped: bool,
    next: u64,
    open: HashMap<u64, (TcpStream, TcpStream)>,
}

impl Relay {
    /// Starts a relay to `target` on a port of its own. It passes everything at once until told otherwise.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let now = Instant::now();
        let control = Control {
            delay: Duration::ZERO,
            bytes_per_second: None,
            cut_after: None,
            free_at: [now, now],
            swallows: false,
            swallows_at: None,
            refuses: false,
            stopped: false,
            next: 0,
            open: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            target,
            control: Mutex::new(control),
            changed: Condvar::new(),
            passed: Default::default(),
            held: Default::default(),
            accepted: AtomicU64::new(0),
        });
        let acceptor = spawn_acceptor(&shared, listener);
        Ok(Self {
            shared,
            address,
            acceptor: Mutex::new(Some(acceptor)),
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`address`](Self::address), at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Delays what is read from now on by this much in each direction: half a round trip.
    pub fn set_delay(&self, each_way: Duration) {
        self.shared.lock().delay = each_way;
    }

    /// Limits each direction, all connections together. `None` is no limit.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.shared.lock().bytes_per_second = bytes_per_second;
    }

    /// Closes each connection in place of passing more than this many bytes of the server's on it. `None` closes none.
    pub fn set_cut_after(&self, bytes: Option<u64>) {
        self.shared.lock().cut_after = bytes;
    }

    /// Keeps all connections, takes new ones, and passes nothing in either direction, until [`mend`](Self::mend).
    pub fn swallow(&self) {
        self.shared.lock().swallows = true;
    }

    /// Begins to swallow in place of passing more than this many bytes of the server's from now on, all connections together.
    pub fn swallow_after(&self, bytes: u64) {
        let passed = self.passed().1;
        self.shared.lock().swallows_at = Some(passed + bytes);
    }

    /// Passes everything again that was swallowed, and takes new connections again.
    pub fn mend(&self) {
        let mut control = self.shared.lock();
        control.swallows = false;
        control.swallows_at = None;
        let refused = std::mem::take(&mut control.refuses);
        drop(control);
        self.shared.changed.notify_all();
        if refused {
            // The port was ours and `SO_REUSEADDR` is set, so nothing but another program can be in the way.
            let listener = TcpListener::bind(self.address).expect("the relay's port is still free");
            *self.acceptor.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(spawn_acceptor(&self.shared, listener));
        }
    }

    /// Resets every connection, as a firewall does that lost its table; returns how many. New ones are taken.
    pub fn reset(&self) -> usize {
        let open: Vec<_> = self.shared.lock().open.drain().map(|(_, pair)| pair).collect();
        for (client, server) in &open {
            for stream in [client, server] {
                // Dissolving an association resets it at once. Some kernels refuse while a thread waits in it: then the
                // other side sees an end, and a reset after it.
                if rustix::net::connect_unspec(stream).is_err() {
                    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
                    drop(stream.shutdown(Shutdown::Both));
                }
            }
        }
        self.shared.changed.notify_all();
        open.len()
    }

    /// Closes the port, so that connecting is refused, and resets every connection, until [`mend`](Self::mend).
    pub fn refuse(&self) {
        self.shared.lock().refuses = true;
        self.end_acceptor();
        self.reset();
    }

    /// Bytes that reached the server, and bytes that reached the client.
    pub fn passed(&self) -> (u64, u64) {
        let [up, down] = &self.shared.passed;
        (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    }

    /// Bytes that came in from both sides and did not go out yet: more than 0 while it swallows proves that it does.
    pub fn held(&self) -> u64 {
        self.shared.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }

    /// Waits until nothing has passed for half a second and nothing is held; fails after `limit`.
    pub fn wait_until_quiet(&self, limit: Duration) {
        let begun = Instant::now();
        let (mut passed, mut since) = (self.passed(), begun);
        while since.elapsed() < Duration::from_millis(500) {
            assert!(begun.elapsed() < limit, "the relay was not quiet within {limit:?}");
            std::thread::park_timeout(Duration::from_millis(20));
            if self.held() > 0 || self.passed() != passed {
                (passed, since) = (self.passed(), Instant::now());
            }
        }
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    fn end_acceptor(&self) {
        let acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(acceptor) = acceptor else { return };
        // It looks at the flags after each connection, so one is made.
        drop(TcpStream::connect_timeout(&self.address, CONNECT));
        drop(acceptor.join());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.end_acceptor();
        self.reset();
    }
}

fn spawn_acceptor(shared: &Arc<Shared>, listener: TcpListener) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let control = shared.lock();
            if control.stopped || control.refuses {
                return;
            }
            drop(control);
            let Ok(client) = client else { continue };
            // A server that is gone refuses; the client sees its connection closed.
            let Ok(server) = TcpStream::connect_timeout(&shared.target, CONNECT) else {
                continue;
            };
            shared.accepted.fetch_add(1, Ordering::Relaxed);
            drop(shared.join(client, server));
        }
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ways = [
            (Way::Up, client.try_clone()?, server.try_clone()?),
            (Way::Down, server.try_clone()?, client.try_clone()?),
        ];
        let mut control = self.lock();
        let id = control.next;
        control.next += 1;
        control.open.insert(id, (client, server));
        drop(control);
        for (way, from, to) in ways {
            let (send, receive) = sync_channel(IN_FLIGHT);
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.take_in(way, from, &send));
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                if shared.pass_on(way, to, &receive).is_err() {
                    // One side is gone: so is the other.
                    if let Some((client, server)) = shared.lock().open.remove(&id) {
                        drop(client.shutdown(Shutdown::Both));
                        drop(server.shutdown(Shutdown::Both));
                    }
                }
                // What can't go out any more is not held either.
                for (_, bytes) in receive {
                    shared.held[way as usize].fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                }
            });
        }
        Ok(())
    }

    /// Reads until the end, at the pace of the link, and notes for each piece when it is due at the other side.
    fn take_in(&self, way: Way, mut from: TcpStream, into: &SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let limited = self.lock().bytes_per_second.is_some();
            let n = match from.read(&mut buffer[..if limited { SMALL_CHUNK } else { CHUNK }]) {
                Ok(n) if n > 0 => n,
                Ok(_) | Err(_) => return,
            };
            self.held[way as usize].fetch_add(n as u64, Ordering::Relaxed);
            let due = self.paced(way, n);
            if into.send((due, buffer[..n].to_vec())).is_err() {
                self.held[way as usize].fetch_sub(n as u64, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits until the limited link has room for `n` more bytes; returns when they are due at the other side.
    fn paced(&self, way: Way, n: usize) -> Instant {
        let mut control = self.lock();
        let now = Instant::now();
        let Some(rate) = control.bytes_per_second else {
            return now + control.delay;
        };
        let begin = control.free_at[way as usize].max(now);
        let end = begin + Duration::from_secs_f64(n as f64 / rate.max(1) as f64);
        control.free_at[way as usize] = end;
        let delay = control.delay;
        while Instant::now() < end && !control.stopped {
            let left = end.saturating_duration_since(Instant::now());
            control = self
                .changed
                .wait_timeout(control, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        end + delay
    }

    /// Writes what is due, unless the link swallows, until the end, which is passed on as well.
    fn pass_on(&self, way: Way, mut to: TcpStream, from: &Receiver<(Instant, Vec<u8>)>) -> io::Result<()> {
        let mut so_far = 0;
        for (due, mut bytes) in from {
            if way == Way::Down {
                let after = self.passed[way as usize].load(Ordering::Relaxed) + bytes.len() as u64;
                let mut control = self.lock();
                control.swallows |= control.swallows_at.is_some_and(|at| after > at);
            }
            self.wait_to_pass(due)?;
            let left = self
                .lock()
                .cut_after
                .filter(|_| way == Way::Down)
                .map(|limit| limit.saturating_sub(so_far));
            let whole = bytes.len();
            let is_cut = left.is_some_and(|left| whole as u64 > left);
            if let Some(left) = left.and_then(|left| usize::try_from(left).ok()) {
                bytes.truncate(left);
            }
            so_far += bytes.len() as u64;
            let written = to.write_all(&bytes);
            self.held[way as usize].fetch_sub(whole as u64, Ordering::Relaxed);
            written?;
            self.passed[way as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if is_cut {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        self.wait_to_pass(Instant::now())?;
        to.shutdown(Shutdown::Write)
    }

    fn wait_to_pass(&self, due: Instant) -> io::Result<()> {
        let mut control = self.lock();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if control.stopped {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if control.swallows {
                control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
            } else if left > Duration::ZERO {
                control = self
                    .changed
                    .wait_timeout(control, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            } else {
                return Ok(());
            }
        }
    }
}
