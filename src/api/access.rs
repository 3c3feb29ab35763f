//! Who may ask what over TCP: tokens and logins, and what keeps other web pages out.
//!
//! Owns: the roles, the sessions of browsers, how often a wrong token may be tried. Refuses to know: what the routes do.
//! Invariants: nothing but the page itself is answered without a token or a session; whoever may only look changes nothing;
//! a request that names another host, or comes from another page, is refused before anything else is looked at; no answer
//! lets another page read it. The Unix socket needs none of this: the file system guards it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use backlot_config::{Api, SecretError, SecretRef};
use secrecy::ExposeSecret;

use super::asked::{Asked, body};
use super::openapi::Routes;
use super::pages;
use super::problem::Problem;
use super::types::{LoggedOut, Login, SessionReport};

/// The least length of a token in bytes: 16 random letters can't be guessed at the rate that is allowed.
const TOKEN_MIN: usize = 16;
/// Wrong tokens in a row before each further one has to wait.
const TRIES: u32 = 10;
/// That long.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// How long a browser stays logged in.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Browsers logged in at once; the one that logged in first has to do it again.
const SESSIONS: usize = 64;
/// The header that a page of ours sends with every change. Another page can't without asking first, and is told no.
pub(super) const CHANGE: &str = "x-backlot";

const LOGIN: &str = "/v1/login";
const LOGOUT: &str = "/v1/logout";

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Role {
    /// Look.
    Viewer,
    /// Change things.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        })
    }
}

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A token can't be had.
    #[error("api.{0}: {1}")]
    Secret(&'static str, #[source] SecretError),
    /// A token that could be guessed.
    #[error("api.{0}: the token has fewer than {TOKEN_MIN} characters; make one with `openssl rand -hex 24`")]
    Short(&'static str),
    /// Both roles have one token.
    #[error("api.viewer-token and api.admin-token are the same; make one more with `openssl rand -hex 24`")]
    Same,
}

/// Who was let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted(pub(super) Role);

/// Returns who may at least; `None`: anybody. The document says the same of each route.
pub(super) fn needed(method: &Method, path: &str) -> Option<Role> {
    let is_look = is_look(method);
    if is_look && pages::is_page(path) || method == Method::POST && path == LOGIN {
        return None;
    }
    // A viewer may go as he came.
    let may_all = is_look || method == Method::POST && path == LOGOUT;
    Some(if may_all { Role::Viewer } else { Role::Admin })
}

fn is_look(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The doorkeeper of one listener.
#[derive(Debug)]
pub struct Access {
    hosts: Vec<String>,
    cookie: String,
    /// Hashes: they are compared in constant time, and no token stays in memory.
    tokens: Vec<(blake3::Hash, Role)>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// By the hash of what the browser holds.
    sessions: HashMap<blake3::Hash, Session>,
    tries: u32,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    role: Role,
    began: Instant,
}

impl Access {
    /// Fetches the tokens, once.
    ///
    /// # Errors
    /// When one can't be had, or is no good.
    pub fn new(settings: &Api, at: SocketAddr) -> Result<Self, AccessError> {
        let mut tokens = Vec::new();
        for (key, secret, role) in [
            ("viewer-token", &settings.viewer_token, Role::Viewer),
            ("admin-token", &settings.admin_token, Role::Admin),
        ] {
            if let Some(hash) = secret.as_ref().map(|secret| hash_of(key, secret)).transpose()? {
                tokens.push((hash, role));
            }
        }
        if let [(viewer, _), (admin, _)] = tokens.as_slice()
            && viewer == admin
        {
            return Err(AccessError::Same);
        }
        let port = at.port();
        let mut hosts = vec![at.to_string(), format!("localhost:{port}")];
        hosts.extend(settings.hosts.iter().map(|host| host.to_ascii_lowercase()));
        Ok(Self {
            hosts,
            // Cookies know no ports: each daemon of a machine has one of its own.
            cookie: format!("backlot-{port}"),
            tokens,
            book: Mutex::new(Book {
                sessions: HashMap::new(),
                tries: TRIES,
                since: Instant::now(),
            }),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, request: &Request) -> Result<Option<Admitted>, Problem> {
        self.check_host(request)?;
        self.check_origin(request.headers())?;
        let (method, path) = (request.method(), request.uri().path());
        let Some(needed) = needed(method, path) else {
            return Ok(None);
        };
        let (role, by_cookie) = self.identify(request.headers())?;
        if by_cookie && !is_look(method) {
            check_change(request.headers())?;
        }
        if role < needed {
            return Err(refused("role", "a viewer's token may look, and change nothing").hint("use the admin's token"));
        }
        Ok(Some(Admitted(role)))
    }

    /// Against pages of elsewhere that have their own name lead here (DNS rebinding).
    fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let is_ours = |host: &str| self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
        let mut named = request.headers().get_all(header::HOST).iter();
        let one = named
            .next()
            .and_then(|host| host.to_str().ok())
            .filter(|host| is_ours(host));
        let asked = request.uri().authority().is_none_or(|at| is_ours(at.as_str()));
        if one.is_some() && named.next().is_none() && asked {
            return Ok(());
        }
        let title = "this daemon is not known by that host name";
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", title)
            .hint("use the address that it listens on, or add the name to api.hosts"))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let is_ours = |origin: &HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            let host = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            host.is_some_and(|host| self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)))
        };
        let cross = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        // A link from elsewhere to the page is no harm; the page asks for everything by itself.
        let navigates = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
        if headers.get_all(header::ORIGIN).iter().all(is_ours) && (!cross || navigates) {
            return Ok(());
        }
        Err(refused("origin", "another web page may not use this daemon")
            .hint("use the daemon's own page, or add the name of a proxy to api.hosts"))
    }

    /// Returns the role, and whether a cookie told it.
    fn identify(&self, headers: &HeaderMap) -> Result<(Role, bool), Problem> {
        if let Some(given) = headers.get(header::AUTHORIZATION) {
            let token = given.to_str().ok().and_then(bearer);
            return Ok((self.try_token(token.unwrap_or_default())?, false));
        }
        if let Some(id) = self.cookie_of(headers) {
            let key = blake3::hash(id.as_bytes());
            let mut book = self.book();
            match book.sessions.get(&key) {
                Some(session) if session.began.elapsed() < SESSION => return Ok((session.role, true)),
                _ => drop(book.sessions.remove(&key)),
            }
        }
        Err(Problem::new(StatusCode::UNAUTHORIZED, "token", "a token is needed")
            .hint("send `Authorization: Bearer TOKEN`, or log in on the page"))
    }

    fn cookie_of<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let mut pairs = all
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, value)| value)
    }

    /// Returns a token's role. Wrong ones cost a try, and without a try left even the right one is not looked at.
    fn try_token(&self, token: &str) -> Result<Role, Problem> {
        let asked = blake3::hash(token.as_bytes());
        let mut book = self.book();
        let more = u32::try_from(book.since.elapsed().as_millis() / TRY_AGAIN.as_millis()).unwrap_or(TRIES);
        if more > 0 {
            book.tries = book.tries.saturating_add(more).min(TRIES);
            book.since = Instant::now();
        }
        if book.tries == 0 {
            return Err(
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "tries", "too many wrong tokens")
                    .hint("try again in a few seconds"),
            );
        }
        // All are compared, whatever the first says.
        let role = self.tokens.iter().fold(
            None,
            |found, (known, role)| {
                if *known == asked { Some(*role) } else { found }
            },
        );
        role.ok_or_else(|| {
            if book.tries == TRIES {
                book.since = Instant::now();
            }
            book.tries -= 1;
            Problem::new(StatusCode::UNAUTHORIZED, "token", "this token is not known")
                .hint("api.viewer-token and api.admin-token of the settings say where they are kept")
        })
    }

    fn begin_session(&self, role: Role) -> String {
        let id = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let mut book = self.book();
        book.sessions.retain(|_, session| session.began.elapsed() < SESSION);
        if book.sessions.len() >= SESSIONS {
            let oldest = book
                .sessions
                .iter()
                .min_by_key(|(_, session)| session.began)
                .map(|(key, _)| *key);
            oldest.map(|key| book.sessions.remove(&key));
        }
        let began = Instant::now();
        book.sessions
            .insert(blake3::hash(id.as_bytes()), Session { role, began });
        id
    }

    fn set_cookie(&self, id: &str, seconds: u64, headers: &HeaderMap) -> [(header::HeaderName, String); 1] {
        // Only a browser that came by a proxy with TLS sends such a cookie back.
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let secure = if origin.is_some_and(|origin| origin.starts_with("https:")) {
            "; Secure"
        } else {
            ""
        };
        let cookie = format!(
            "{}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}",
            self.cookie
        );
        [(header::SET_COOKIE, cookie)]
    }
}

fn hash_of(key: &'static str, secret: &SecretRef) -> Result<blake3::Hash, AccessError> {
    let token = secret.resolve().map_err(|e| AccessError::Secret(key, e))?;
    let token = token.expose_secret().trim();
    if token.len() < TOKEN_MIN {
        return Err(AccessError::Short(key));
    }
    Ok(blake3::hash(token.as_bytes()))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn check_change(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(CHANGE) {
        return Ok(());
    }
    Err(refused("csrf", "a change by a browser must say that it is meant").hint("send the header `X-Backlot: 1`"))
}

fn refused(kind: &str, title: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, kind, title)
}

/// Lets a request in or refuses it, and puts on every answer what keeps browsers from misusing it.
pub(super) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let mut response = match access.admit(&request) {
        Ok(admitted) => {
            if let Some(admitted) = admitted {
                request.extensions_mut().insert(admitted);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let status = response.status();
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, pages::POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(TRY_AGAIN.as_secs()));
    }
    response
}

/// The routes that only TCP has.
pub(super) fn routes() -> Routes<Arc<Access>> {
    Routes::new()
        .post(LOGIN, "On TCP: gives a browser a cookie for its token.", login)
        .post(LOGOUT, "On TCP: ends the session of a browser's cookie.", logout)
}

type WithCookie<T> = ([(header::HeaderName, String); 1], Json<T>);

async fn login(
    State(access): State<Arc<Access>>,
    headers: HeaderMap,
    asked: Asked<Login>,
) -> Result<WithCookie<SessionReport>, Problem> {
    check_change(&headers)?;
    let role = access.try_token(body(asked)?.token.trim())?;
    let cookie = access.set_cookie(&access.begin_session(role), SESSION.as_secs(), &headers);
    Ok((cookie, Json(SessionReport { role: role.to_string() })))
}

async fn logout(State(access): State<Arc<Access>>, headers: HeaderMap) -> Result<WithCookie<LoggedOut>, Problem> {
    if let Some(id) = access.cookie_of(&headers) {
        access.book().sessions.remove(&blake3::hash(id.as_bytes()));
    }
    Ok((access.set_cookie("", 0, &headers), Json(LoggedOut {})))
}
