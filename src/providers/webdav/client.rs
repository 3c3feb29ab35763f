//! Requests to a WebDAV server, and what its refusals are to the rest of the program.
//!
//! Owns: addresses, logging in. Refuses to know: what is asked for and why.

use std::fmt::Write as _;

use backlot_config::{SecretRef, WebdavSite as Settings};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

use super::xml::{self, Found};
use crate::model::RelPath;
use crate::providers::login::Login;
use crate::providers::web::{Fault, Reply, Web, status_kind};
use crate::providers::{ErrorKind, Op, ProviderError};

/// Longest path, in bytes: servers keep their files on systems with this limit.
const PATH_MAX: usize = 4096;

/// A server, and how to ask it for things.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) web: Web,
    /// Of the site's root, with a slash at its end.
    root: Url,
    user: Option<String>,
    login: Login<Option<SecretString>>,
}

/// Percent-encodes what an address's path can't hold as it is.
fn encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a string can't fail.
            let _: std::fmt::Result = write!(text, "%{byte:02X}");
        }
        text
    })
}

pub(super) fn method(name: &'static str) -> Method {
    // The names are ours, and are methods.
    Method::from_bytes(name.as_bytes()).unwrap_or(Method::OPTIONS)
}

impl Client {
    pub(super) fn new(settings: &Settings, web: Web) -> Result<Self, ProviderError> {
        let config = |why: String| ProviderError::new(ErrorKind::Config, Op::Connect).because(why);
        let mut root: Url = settings
            .url
            .parse()
            .map_err(|e| config(format!("`url` is no address: {e}")))?;
        if !matches!(root.scheme(), "http" | "https") || root.cannot_be_a_base() {
            return Err(config("`url` is no address of a web server".to_owned()));
        }
        let path = format!("{}/", root.path().trim_end_matches('/'));
        root.set_path(&path);
        let secret = settings.token.clone().or_else(|| settings.password.clone());
        let look_up = move || {
            let fresh = secret.as_ref().map(SecretRef::resolve).transpose();
            fresh.map_err(|e| ProviderError::new(ErrorKind::Auth, Op::Connect).because(e))
        };
        Ok(Self {
            web,
            root,
            user: settings.user.clone(),
            login: Login::new(look_up, |secret| {
                secret.iter().map(ExposeSecret::expose_secret).collect()
            })?,
        })
    }

    /// As [`Login::mark`].
    pub(super) fn login_mark(&self) -> Option<u64> {
        self.login.mark()
    }

    pub(super) fn url(&self, path: &RelPath, op: Op) -> Result<Url, ProviderError> {
        let invalid = |why: &str| {
            ProviderError::new(ErrorKind::Invalid, op)
                .at(path)
                .because(why.to_owned())
        };
        if std::str::from_utf8(path.as_bytes()).is_err() {
            return Err(invalid("names are UTF-8 at a WebDAV server, and this one is not"));
        }
        if path.as_bytes().len() >= PATH_MAX {
            return Err(invalid("a path of 4096 bytes or more"));
        }
        let mut url = self.root.clone();
        url.set_path(&format!("{}{}", self.root.path(), encoded(path.as_bytes())));
        Ok(url)
    }

    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.web.request(method, url);
        match (&self.user, &*self.login.now()) {
            (Some(user), Some(secret)) => request.basic_auth(user, Some(secret.expose_secret())),
            (None, Some(secret)) => request.bearer_auth(secret.expose_secret()),
            _ => request,
        }
    }

    pub(super) async fn ask(&self, request: RequestBuilder, body: Option<Bytes>) -> Result<Reply, Fault> {
        let reply = self.web.send(request, body).await?;
        self.checked(reply).await
    }

    /// Passes an answer on that says yes. One of several (207) says to whoever asked for a change that not all of it was done.
    async fn checked(&self, reply: Reply) -> Result<Reply, Fault> {
        if reply.status == StatusCode::MULTI_STATUS {
            let status = xml::refusal(&reply.text().await?);
            return Err(refused(status, "the server did not do all of it"));
        }
        if reply.status.is_success() {
            return Ok(reply);
        }
        let (status, wait) = (reply.status, reply.wait());
        let kind = status_kind(status);
        let again = kind == ErrorKind::Auth && self.login.refused();
        let why = match reply.named("location") {
            Some(_) if status.is_redirection() => "the server sends us elsewhere: see `url`".to_owned(),
            _ => format!("the server says HTTP {status}"),
        };
        // So that the connection can be used again; what it says is for people with a browser.
        drop(reply.finish().await);
        Err(Fault::new(kind, why).after(wait).again_if(again))
    }

    fn propfind(&self, url: Url, depth: &'static str) -> RequestBuilder {
        let mut headers = HeaderMap::new();
        headers.insert("depth", HeaderValue::from_static(depth));
        headers.insert(
            "content-type",
            HeaderValue::from_static("application/xml; charset=utf-8"),
        );
        self.request(method("PROPFIND"), url).headers(headers)
    }

    async fn found(&self, request: RequestBuilder, ask: &'static str) -> Result<Vec<Found>, Fault> {
        let ask = Bytes::from_static(ask.as_bytes());
        self.entries(self.web.send(request, Some(ask)).await?).await
    }

    async fn entries(&self, reply: Reply) -> Result<Vec<Found>, Fault> {
        let reply = match reply.status {
            StatusCode::MULTI_STATUS => reply,
            _ => self.checked(reply).await?,
        };
        let text = reply.text().await?;
        xml::multistatus(&text).ok_or_else(|| Fault::new(ErrorKind::Protocol, "an answer that is none of WebDAV"))
    }

    /// Looks at one entry.
    pub(super) async fn look(&self, url: Url) -> Result<Found, Fault> {
        told(one(self.found(self.propfind(url, "0"), xml::ASK).await?)?)
    }

    /// As [`look`](Self::look), while another request of the caller's is under way.
    pub(super) async fn look_beside(&self, url: Url) -> Result<Found, Fault> {
        let ask = Bytes::from_static(xml::ASK.as_bytes());
        let reply = self.web.send_beside(self.propfind(url, "0"), ask).await?;
        told(one(self.entries(reply).await?)?)
    }

    pub(super) async fn look_at_space(&self) -> Result<Found, Fault> {
        one(self
            .found(self.propfind(self.root.clone(), "0"), xml::ASK_SPACE)
            .await?)
    }

    /// Lists a folder: itself, and its entries by name, also those of which the server does not tell what they are.
    pub(super) async fn children(&self, mut url: Url) -> Result<(Found, Vec<(Vec<u8>, Found)>), Fault> {
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let own = decoded_path(&url);
        let mut this = None;
        let mut children = Vec::new();
        for found in self.found(self.propfind(url, "1"), xml::ASK).await? {
            if found.path == own {
                this = Some(found);
                continue;
            }
            let name = found
                .path
                .strip_prefix(&own[..])
                .and_then(|rest| rest.strip_prefix(b"/"));
            let name = name.filter(|name| !name.contains(&b'/')).map(<[u8]>::to_vec);
            let name = name.ok_or_else(|| Fault::new(ErrorKind::Protocol, "an entry that is not in the folder"))?;
            children.push((name, found));
        }
        match this {
            Some(this) => Ok((told(this)?, children)),
            None => Err(Fault::new(ErrorKind::Protocol, "a folder that does not name itself")),
        }
    }
}

/// Passes an entry on of which is told what it is.
fn told(found: Found) -> Result<Found, Fault> {
    if found.is_told() {
        return Ok(found);
    }
    Err(refused(found.withheld, "the server does not say what it is"))
}

/// A refusal inside of an answer.
fn refused(status: Option<u16>, why: &str) -> Fault {
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    match status {
        Some(status) => Fault::new(status_kind(status), format!("{why}: HTTP {status}")),
        None => Fault::new(ErrorKind::Protocol, why),
    }
}

fn one(mut found: Vec<Found>) -> Result<Found, Fault> {
    found
        .pop()
        .ok_or_else(|| Fault::new(ErrorKind::Protocol, "an answer without an entry"))
}

fn decoded_path(url: &Url) -> Vec<u8> {
    let text = url.path().trim_end_matches('/');
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).unwrap_or(0);
        out.push(if byte == b'%' {
            u8::try_from(digit() * 16 + digit()).unwrap_or(b'?')
        } else {
            byte
        });
    }
    out
}
