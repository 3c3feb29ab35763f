//! From a server's address to an SFTP session: TCP, SSH, the server's key, our credentials, the subsystem.
//!
//! Owns: everything of SSH; no type of russh leaves this module and its neighbours [`auth`] and
//! [`known_hosts`]. Invariant: nothing is sent to a server whose key was not accepted, and no error
//! holds a secret.

use std::borrow::Cow;
use std::net::Shutdown;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, ChannelReadHalf, Preferred, cipher, client};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::auth::{self, Credentials};
use super::error::{Closed, Fault};
use super::files::OpenFiles;
use super::known_hosts::{self, HostPort, Known, Verdict};
use super::session::Session;
use crate::providers::ErrorKind;

/// Bytes that the server may send before we take them: above any [`window`](super::window), so that SSH's own flow control
/// is never what slows a read.
const CHANNEL_WINDOW: u32 = 32 << 20;
/// The longest SSH packet that may be asked for (RFC 4253 lets a server refuse more).
const CHANNEL_PACKET: u32 = 65_535;
/// Packets that wait between russh and us; the session takes them off at once.
const CHANNEL_BUFFER: usize = 1024;
/// Bytes read from the socket at once: one system call for several packets.
const SOCKET_BUFFER: usize = 256 << 10;
/// Keep-alives without an answer after which the connection is given up.
const KEEPALIVES: usize = 3;

/// All that is needed to connect.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) credentials: Credentials,
    pub(super) known_hosts: PathBuf,
    pub(super) accept_new: bool,
    pub(super) keepalive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// A session and what keeps it alive.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) files: OpenFiles,
    /// Bytes that those who hold a [`Lease`](super::pool::Lease) mean to move.
    pub(super) promised: AtomicUsize,
    _ssh: Ssh,
}

/// The SSH connection below a session.
struct Ssh {
    handle: client::Handle<Gatekeeper>,
    socket: Socket,
}

/// The connection's socket once more: shutting it down is the one thing that ends a connection, or an attempt at one,
/// whose server has stopped.
#[derive(Debug)]
struct Socket(std::net::TcpStream);

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Fails when the other side has closed it already, which is as good.
        drop(self.0.shutdown(Shutdown::Both));
    }
}

impl Server {
    /// Connects, within the connect time-out.
    pub(super) async fn connect(&self) -> Result<Connection, Closed> {
        let whole = self.connect_now();
        match tokio::time::timeout(self.connect_timeout, Box::pin(whole)).await {
            Ok(out) => out,
            Err(_) => Err(Closed::new(
                ErrorKind::TimedOut,
                format!("{} did not answer within {:?}", self.name(), self.connect_timeout),
            )),
        }
    }

    pub(super) fn name(&self) -> HostPort {
        HostPort::new(&self.host, self.port)
    }

    async fn connect_now(&self) -> Result<Connection, Closed> {
        let unreachable = |e: std::io::Error| Closed::new(ErrorKind::Unreachable, format!("{}: {e}", self.name()));
        let known = self.read_known_hosts().await?;
        let algorithms = known.algorithms(&Preferred::DEFAULT.key);
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let stream = stream.into_std().map_err(unreachable)?;
        let socket = Socket(stream.try_clone().map_err(unreachable)?);
        let (read, write) = TcpStream::from_std(stream).map_err(unreachable)?.into_split();
        let stream = Buffered {
            read: BufReader::with_capacity(SOCKET_BUFFER, read),
            write,
        };

        let refused = Arc::new(Mutex::new(None));
        let gatekeeper = Gatekeeper {
            known,
            host: self.name(),
            file: self.known_hosts.clone(),
            accept_new: self.accept_new,
            refused: Arc::clone(&refused),
        };
        let handle = client::connect_stream(self.config(algorithms), stream, gatekeeper)
            .await
            .map_err(|e| {
                let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
                refused.unwrap_or_else(|| self.broken(&e))
            })?;
        let mut ssh = Ssh { handle, socket };
        auth::log_in(&mut ssh.handle, &self.user, &self.name(), &self.credentials).await?;
        let session = self.open_sftp(&ssh.handle).await?;
        Ok(Connection {
            session,
            files: OpenFiles::default(),
            promised: AtomicUsize::new(0),
            _ssh: ssh,
        })
    }

    async fn read_known_hosts(&self) -> Result<Known, Closed> {
        let (file, host) = (self.known_hosts.clone(), self.name());
        let read = tokio::task::spawn_blocking(move || Known::read(&file, &host)).await;
        read.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(|e| {
            let file = self.known_hosts.display();
            Closed::new(
                ErrorKind::Config,
                format!("can't read {file}: {e}; check `known-hosts` and its permissions"),
            )
        })
    }

    fn config(&self, algorithms: Vec<russh::keys::Algorithm>) -> Arc<client::Config> {
        // Ciphers that the processor does by itself come first: they are several times as fast as the rest.
        let fast = [cipher::AES_128_GCM, cipher::AES_256_GCM];
        let others = Preferred::DEFAULT.cipher.iter().filter(|c| !fast.contains(c)).copied();
        let preferred = Preferred {
            key: Cow::Owned(algorithms),
            cipher: Cow::Owned(fast.into_iter().chain(others).collect()),
            ..Preferred::DEFAULT
        };
        Arc::new(client::Config {
            window_size: CHANNEL_WINDOW,
            maximum_packet_size: CHANNEL_PACKET,
            channel_buffer_size: CHANNEL_BUFFER,
            preferred,
            keepalive_interval: Some(self.keepalive).filter(|k| !k.is_zero()),
            keepalive_max: KEEPALIVES,
            nodelay: true,
            ..client::Config::default()
        })
    }

    async fn open_sftp(&self, handle: &client::Handle<Gatekeeper>) -> Result<Session, Closed> {
        let channel = handle.channel_open_session().await.map_err(|e| self.broken(&e))?;
        // Its answer is not waited for: the first SFTP packet rides along, a round trip less. A refusal ends the channel.
        channel
            .request_subsystem(true, "sftp")
            .await
            .map_err(|e| self.broken(&e))?;
        let (incoming, outgoing) = channel.split();
        let outgoing = Arc::new(outgoing);
        let send = move |message: Bytes| {
            let outgoing = Arc::clone(&outgoing);
            async move { outgoing.data_bytes(message).await.is_ok() }
        };
        let incoming = Box::pin(stream::unfold(incoming, next_data));
        Session::start(incoming, send, self.idle_timeout)
            .await
            .map_err(|fault| match fault {
                Fault::Closed(closed) if closed.kind == ErrorKind::Unreachable => Closed::new(
                    ErrorKind::Unreachable,
                    format!(
                        "{} ended the session before it began; does it offer the `sftp` subsystem?",
                        self.name()
                    ),
                ),
                Fault::Closed(closed) => Closed::clone(&closed),
                other => Closed::new(ErrorKind::Protocol, format!("{}: {other}", self.name())),
            })
    }

    fn broken(&self, e: &russh::Error) -> Closed {
        match e {
            // Somebody answers in the site's place, which is then as far away as ever.
            russh::Error::Version => Closed::new(
                ErrorKind::Unreachable,
                format!(
                    "what answers at {} is no SSH server; does this network want a login in the browser first, or is the \
                     port another service's?",
                    self.name()
                ),
            ),
            russh::Error::NoCommonAlgo { .. } | russh::Error::WrongServerSig => {
                Closed::new(ErrorKind::Protocol, format!("{}: {e}", self.name()))
            }
            _ => Closed::new(ErrorKind::Unreachable, format!("{}: {e}", self.name())),
        }
    }
}

/// Returns the channel's next bytes; `None` when it is over.
async fn next_data(mut channel: ChannelReadHalf) -> Option<(Bytes, ChannelReadHalf)> {
    loop {
        match channel.wait().await? {
            ChannelMsg::Data { data } => return Some((data, channel)),
            ChannelMsg::Eof | ChannelMsg::Close | ChannelMsg::Failure => return None,
            _ => {}
        }
    }
}

/// Decides about the server's key.
pub(super) struct Gatekeeper {
    known: Known,
    host: HostPort,
    file: PathBuf,
    accept_new: bool,
    /// Why the key was not accepted: russh itself only says that it was not.
    refused: Arc<Mutex<Option<Closed>>>,
}

impl client::Handler for Gatekeeper {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let refuse = |why: String| {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Closed::new(ErrorKind::Auth, why));
            Ok(false)
        };
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return refuse(format!("{} showed a certificate, which was not asked for", self.host));
        };
        match self.known.judge(key) {
            Verdict::Trusted => Ok(true),
            Verdict::Unknown if self.accept_new => {
                let (file, host, learnt) = (self.file.clone(), self.host.clone(), key.clone());
                let written = tokio::task::spawn_blocking(move || known_hosts::learn(&file, &host, &learnt)).await;
                match written.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                    Ok(()) => {
                        tracing::info!(host = %self.host, file = %self.file.display(), "a new server key is trusted");
                        Ok(true)
                    }
                    Err(e) => refuse(format!(
                        "can't add the key of {} to {}: {e}",
                        self.host,
                        self.file.display()
                    )),
                }
            }
            verdict => refuse(known_hosts::refusal(verdict, &self.file, &self.host, key)),
        }
    }
}

/// A TCP stream that is read in large pieces.
struct Buffered {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl AsyncRead for Buffered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, b)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, b)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
