//! HTTP as sites that speak it need it: one client a site, requests counted, each bounded by its own progress.
//!
//! Owns: connections, trust in servers, the bound of requests under way, what of a failure is HTTP's. Refuses to know:
//! what is asked for. Invariants: certificates are verified, always; a redirect is never followed, as credentials would
//! go with it; no error's text holds an address with what was signed into it.

use std::error::Error as _;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, RequestBuilder, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ErrorKind, Op, ProviderError, Retry};
use crate::model::RelPath;

/// Requests under way at once where the settings don't say.
pub(super) const DEFAULT_REQUESTS: usize = 16;
/// Bytes of a body that are handed to the connection at a time: each counts as progress.
const PIECE: usize = 128 << 10;
/// Most bytes of an answer that is read whole: a page of 1,000 names takes less than a tenth of this.
const ANSWER_MAX: usize = 32 << 20;
/// A server may work on what it was told for as many idle time-outs before it answers: putting parts together, moving a
/// file from one disk to another.
const WORK: u32 = 8;
/// How far clocks may be apart, in seconds: stores refuse signatures from 15 minutes on.
const SKEW: i64 = 5 * 60;

/// The way to one web server.
#[derive(Clone, Debug)]
pub(super) struct Web {
    client: Client,
    slots: Arc<Semaphore>,
    idle: Duration,
    pub(super) requests: usize,
}

/// What went wrong, without a path.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    pub(super) why: String,
    pub(super) wait: Option<Duration>,
    /// What was refused has been put right since.
    again: bool,
    /// A connection that stood was lost before the answer began.
    is_dropped: bool,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
            wait: None,
            again: false,
            is_dropped: false,
        }
    }

    /// With what the server asks to wait.
    pub(super) fn after(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }

    /// With whether the same request may be granted now, whatever follows from its kind.
    pub(super) fn again_if(mut self, again: bool) -> Self {
        self.again = again;
        self
    }

    pub(super) fn on(self, op: Op, path: &RelPath) -> ProviderError {
        let error = ProviderError::new(self.kind, op).at(path);
        let error = match (error.retry, self.wait) {
            (Retry::After(_), Some(wait)) => error.with_retry(Retry::After(Some(wait))),
            _ if self.again => error.with_retry(Retry::After(None)),
            _ => error,
        };
        error.because(self.why)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// The head of an answer; its body is still to come.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    response: reqwest::Response,
    idle: Duration,
    /// Held until the body is read.
    slot: Option<OwnedSemaphorePermit>,
}

impl Web {
    /// Makes a client. `address`: of the site; `ca_file`: certificates to trust besides the system's.
    pub(super) fn new(
        address: &str,
        ca_file: Option<&Path>,
        connect_timeout: Duration,
        requests: Option<usize>,
        idle: Duration,
    ) -> Result<Self, ProviderError> {
        let config = |why: String| ProviderError::new(ErrorKind::Config, Op::Connect).because(why);
        // The first one stays; ours is the only one there is.
        drop(rustls::crypto::ring::default_provider().install_default());
        let requests = requests.unwrap_or(DEFAULT_REQUESTS).max(1);
        let mut client = Client::builder()
            .user_agent(concat!("backlot/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(requests)
            .tcp_nodelay(true)
            .redirect(Policy::none());
        if !address.starts_with("https:") {
            // Nothing is ciphered: a machine without certificates can do that too.
            client = client.tls_certs_only([]);
        } else if let Some(file) = ca_file {
            let shown = file.display();
            let text = std::fs::read(file).map_err(|e| config(format!("`ca-file` {shown} can't be read: {e}")))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&text)
                .map_err(|e| config(format!("`ca-file` {shown} holds no certificates: {}", chain(&e))))?;
            if certificates.is_empty() {
                return Err(config(format!("`ca-file` {shown} holds no certificates")));
            }
            client = client.tls_certs_merge(certificates);
        }
        let client = client
            .build()
            .map_err(|e| config(format!("no client can be made: {}", chain(&e))))?;
        Ok(Self {
            client,
            slots: Arc::new(Semaphore::new(requests)),
            idle,
            requests,
        })
    }

    pub(super) fn request(&self, method: reqwest::Method, url: reqwest::Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends a request and waits for the head of its answer. The time without progress is bounded, not the time in all.
    ///
    /// What only asks is asked once more when its connection is lost before the answer begins: servers close connections
    /// that wait for their next request, and may do so just when it comes.
    pub(super) async fn send(&self, request: RequestBuilder, body: Option<Bytes>) -> Result<Reply, Fault> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.map_err(|_| Fault::new(ErrorKind::Unreachable, "the site is closed"))?;
        let mut reply = self.insist(request, body).await?;
        reply.slot = Some(slot);
        Ok(reply)
    }

    /// As [`send`](Self::send), with a body of known length that comes as it likes. Not counted among the requests under
    /// way: it may last as long as an upload.
    pub(super) async fn send_stream(
        &self,
        request: RequestBuilder,
        length: u64,
        pieces: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<Reply, Fault> {
        self.exchange(request, Some((length, pieces))).await
    }

    /// As [`send`](Self::send), for what belongs to a request that is under way: it must not wait for a slot that only the
    /// end of others like it would free.
    pub(super) async fn send_beside(&self, request: RequestBuilder, body: Bytes) -> Result<Reply, Fault> {
        self.insist(request, Some(body)).await
    }

    async fn insist(&self, request: RequestBuilder, body: Option<Bytes>) -> Result<Reply, Fault> {
        let again = request.try_clone().filter(only_asks);
        let pieces = |body: Option<Bytes>| body.map(|body| (body.len() as u64, in_pieces(body)));
        match (self.exchange(request, pieces(body.clone())).await, again) {
            (Err(fault), Some(again)) if fault.is_dropped => self.exchange(again, pieces(body)).await,
            (sent, _) => sent,
        }
    }

    async fn exchange(
        &self,
        mut request: RequestBuilder,
        body: Option<(u64, BoxStream<'static, std::io::Result<Bytes>>)>,
    ) -> Result<Reply, Fault> {
        let progress = Arc::new(Progress::new());
        if let Some((length, pieces)) = body {
            request = request.header(CONTENT_LENGTH, length);
            if length > 0 {
                let seen = Arc::clone(&progress);
                let mut left = length;
                let pieces = pieces.inspect(move |piece| {
                    left = left.saturating_sub(piece.as_ref().map_or(0, |piece| piece.len() as u64));
                    seen.note(left == 0);
                });
                request = request.body(Body::wrap_stream(pieces));
            }
            if length == 0 {
                progress.note(true);
            }
        } else {
            progress.note(true);
        }
        progress.note(false);
        let mut sending = std::pin::pin!(request.send());
        loop {
            // Once all is sent, the server may have work to do.
            let patience = if progress.is_all_sent() {
                self.idle.saturating_mul(WORK)
            } else {
                self.idle
            };
            let left = patience.saturating_sub(progress.quiet());
            if left.is_zero() {
                return Err(Fault::new(
                    ErrorKind::TimedOut,
                    format!("nothing moved for {patience:?}"),
                ));
            }
            tokio::select! {
                sent = &mut sending => {
                    let response = sent.map_err(|e| fault(&e))?;
                    return Ok(Reply {
                        status: response.status(),
                        headers: response.headers().clone(),
                        response,
                        idle: self.idle,
                        slot: None,
                    });
                }
                () = tokio::time::sleep(left.min(self.idle)) => {}
            }
        }
    }
}

/// Tells requests that change nothing: they may be sent twice.
fn only_asks(request: &RequestBuilder) -> bool {
    let built = request.try_clone().and_then(|request| request.build().ok());
    built.is_some_and(|request| request.method().is_safe() || request.method() == "PROPFIND")
}

fn in_pieces(body: Bytes) -> BoxStream<'static, std::io::Result<Bytes>> {
    let pieces = stream::unfold(body, |mut left| async move {
        let piece = left.split_to(left.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok(piece), left))
    });
    pieces.boxed()
}

/// When something last moved.
#[derive(Debug)]
struct Progress {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
    all_sent: AtomicBool,
}

impl Progress {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            all_sent: AtomicBool::new(false),
        }
    }

    fn note(&self, all_sent: bool) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Relaxed);
        if all_sent {
            self.all_sent.store(true, Relaxed);
        }
    }

    fn is_all_sent(&self) -> bool {
        self.all_sent.load(Relaxed)
    }

    fn quiet(&self) -> Duration {
        self.begun
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
}

impl Reply {
    /// Returns a header's text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns a header's text, by name.
    pub(super) fn named(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns how long the server asks to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.header(&RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
    }

    /// Returns how far this machine's clock is from the server's, where that is too far: an error's text.
    pub(super) fn skew(&self) -> Option<String> {
        let theirs = http_date(self.header(&DATE)?)?;
        let ours = Timestamp::now().as_second();
        let apart = ours - theirs;
        let word = if apart > 0 { "ahead of" } else { "behind" };
        (apart.abs() > SKEW).then(|| {
            format!(
                "this machine's clock is {} s {word} the server's, and signatures are only good for some minutes: set the \
                 clock",
                apart.abs()
            )
        })
    }

    /// Reads the whole body as text.
    pub(super) async fn text(self) -> Result<String, Fault> {
        let mut all = Vec::new();
        let mut body = self.body();
        while let Some(chunk) = body.next().await {
            all.extend_from_slice(&chunk?);
            if all.len() > ANSWER_MAX {
                let why = format!("an answer of more than {ANSWER_MAX} bytes");
                return Err(Fault::new(ErrorKind::Protocol, why));
            }
        }
        String::from_utf8(all).map_err(|_| Fault::new(ErrorKind::Protocol, "an answer that is not text"))
    }

    /// Reads the body to its end, so that the connection can be used again.
    pub(super) async fn finish(self) -> Result<(), Fault> {
        self.text().await.map(drop)
    }

    /// Streams the body.
    pub(super) fn body(self) -> BoxStream<'static, Result<Bytes, Fault>> {
        stream::unfold(Some(self), |reply| async move {
            let mut reply = reply?;
            match tokio::time::timeout(reply.idle, reply.response.chunk()).await {
                Err(_) => {
                    let why = format!("no byte came for {:?}", reply.idle);
                    Some((Err(Fault::new(ErrorKind::TimedOut, why)), None))
                }
                Ok(Err(e)) => Some((Err(fault(&e)), None)),
                Ok(Ok(None)) => None,
                Ok(Ok(Some(chunk))) => Some((Ok(chunk), Some(reply))),
            }
        })
        .boxed()
    }
}

/// Says what a failed exchange was. Certificates that are not trusted are a refusal, not an outage.
fn fault(error: &reqwest::Error) -> Fault {
    let mut kind = if error.is_timeout() {
        ErrorKind::TimedOut
    } else if error.is_decode() {
        ErrorKind::Protocol
    } else if error.is_builder() {
        ErrorKind::Config
    } else {
        ErrorKind::Unreachable
    };
    let mut why = chain(error);
    let mut at = error.source();
    while let Some(cause) = at {
        if is_distrust(cause) {
            kind = ErrorKind::Auth;
            why =
                format!("the server's certificate is not trusted ({cause}); if it is the right server, give `ca-file`");
            break;
        }
        at = cause.source();
    }
    let is_dropped = kind == ErrorKind::Unreachable && error.is_request() && !error.is_connect();
    Fault {
        is_dropped,
        ..Fault::new(kind, why)
    }
}

fn is_distrust(cause: &(dyn std::error::Error + 'static)) -> bool {
    let inner = |e: &rustls::Error| matches!(e, rustls::Error::InvalidCertificate(_));
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return inner(error);
    }
    // The connection's error holds the cipher's, perhaps more than once, and names what that one is caused by.
    let held = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    held.is_some_and(|held| is_distrust(held))
}

/// An error's causes, without the address: what signs a request may be part of it.
fn chain(error: &reqwest::Error) -> String {
    let kind = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else {
        "the exchange broke off"
    };
    let mut text = kind.to_owned();
    let mut at = error.source();
    let mut last = String::new();
    while let Some(cause) = at {
        last = cause.to_string();
        at = cause.source();
    }
    if !last.is_empty() {
        text = format!("{text}: {last}");
    }
    text
}

/// Returns the seconds since 1970 of a date as HTTP writes it.
pub(super) fn http_date(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(parsed.timestamp().as_second())
}

/// Returns the range that a partial answer says it holds.
pub(super) fn content_range(reply: &Reply) -> Option<Range<u64>> {
    let text = reply.header(&CONTENT_RANGE)?.trim().strip_prefix("bytes ")?;
    let (first, last) = text.split('/').next()?.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    Some(first..last.checked_add(1)?)
}

/// Passes on a body of that many bytes; more is cut off, and fewer end with an error.
pub(super) fn exactly(
    body: BoxStream<'static, Result<Bytes, Fault>>,
    length: u64,
) -> BoxStream<'static, Result<Bytes, Fault>> {
    stream::unfold((body, length), |(mut body, left)| async move {
        if left == 0 {
            return None;
        }
        match body.next().await {
            Some(Ok(mut chunk)) => {
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - chunk.len() as u64;
                Some((Ok(chunk), (body, left)))
            }
            Some(Err(fault)) => Some((Err(fault), (stream::empty().boxed(), 0))),
            None => {
                let why = format!("the answer broke off {left} bytes before its end");
                Some((
                    Err(Fault::new(ErrorKind::Unreachable, why)),
                    (stream::empty().boxed(), 0),
                ))
            }
        }
    })
    .fuse()
    .boxed()
}

/// What a status says where nothing more is known.
pub(super) fn status_kind(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 | 407 => ErrorKind::Auth,
        403 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::Unsupported,
        409 | 412 | 416 => ErrorKind::VersionMismatch,
        400 | 414 | 431 => ErrorKind::Invalid,
        413 | 507 => ErrorKind::Full,
        408 | 504 => ErrorKind::TimedOut,
        423 | 429 | 503 => ErrorKind::Busy,
        502 => ErrorKind::Unreachable,
        300..=399 => ErrorKind::Config,
        _ => ErrorKind::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn dates_as_http_writes_them() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("soon"), None);
    }

    #[test]
    fn an_answer_in_one_go_is_no_reason_to_wait() {
        let progress = Progress::new();
        progress.note(false);
        assert!(!progress.is_all_sent());
        progress.note(true);
        progress.note(false);
        assert!(progress.is_all_sent());
    }

    /// A server that answers the first request of a connection, and loses each connection when the second one comes.
    async fn forgetful(listener: tokio::net::TcpListener, asked: Arc<AtomicU64>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio::io::BufStream::new(stream);
            for nth in 0..2 {
                let mut line = String::new();
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    line.clear();
                }
                asked.fetch_add(1, Relaxed);
                if nth == 0 {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                    stream.flush().await.unwrap();
                }
            }
        }
    }

    #[tokio::test]
    async fn what_only_asks_outlives_a_connection_that_is_lost_when_it_comes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU64::new(0));
        let server = tokio::spawn(forgetful(listener, Arc::clone(&asked)));
        let second = Duration::from_secs(5);
        let web = Web::new(&address, None, second, None, second).unwrap();
        let url: reqwest::Url = address.parse().unwrap();
        let ask = |method: &str| web.request(method.parse().unwrap(), url.clone());
        for (method, body) in [("GET", None), ("GET", None), ("PROPFIND", Some("x")), ("HEAD", None)] {
            let sent = web.send(ask(method), body.map(Bytes::from)).await;
            drop(sent.unwrap_or_else(|e| panic!("{method}: {e}")).text().await);
        }
        let before = asked.load(Relaxed);
        assert!(before >= 6, "two connections at least were lost: {before}");
        // What changes something may have been done: its answer is not known.
        drop(web.send(ask("GET"), None).await.unwrap().text().await.unwrap());
        let before = asked.load(Relaxed);
        let fault = web.send(ask("DELETE"), None).await.unwrap_err();
        assert_eq!(fault.kind, ErrorKind::Unreachable);
        assert_eq!(asked.load(Relaxed), before + 1);
        server.abort();
    }
}
