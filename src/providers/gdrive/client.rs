//! Requests to Drive's API (version 3), and what its refusals mean.
//!
//! Owns: addresses, tokens on requests, the kinds of Drive's errors. Refuses to know: paths. Invariant: a request is sent a
//! second time only if its token was refused, and then once.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, StatusCode, Url};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::auth::{Tokens, is_safe};
use crate::providers::web::{Fault, Reply, Web, status_kind};
use crate::providers::{ErrorKind, Op, ProviderError};

const ENDPOINT: &str = "https://www.googleapis.com";

/// The API of one account.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) web: Web,
    tokens: Tokens,
    endpoint: Url,
}

/// One request, to a path below the endpoint or to an address that Drive gave.
#[derive(Debug)]
pub(super) struct Ask {
    method: Method,
    to: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    json: bool,
}

impl Ask {
    pub(super) fn new(method: Method, to: impl Into<String>) -> Self {
        Self {
            method,
            to: to.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            json: false,
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(body.to_string().into());
        self.json = true;
        self
    }
}

#[derive(Deserialize)]
struct Envelope {
    error: Refusal,
}

#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Reason>,
}

#[derive(Deserialize, Default)]
struct Reason {
    #[serde(default)]
    reason: String,
}

impl Client {
    pub(super) fn new(web: Web, tokens: Tokens, endpoint: Option<&str>) -> Result<Self, ProviderError> {
        let config = |why: String| ProviderError::new(ErrorKind::Config, Op::Connect).because(why);
        let endpoint = endpoint.unwrap_or(ENDPOINT);
        let url = Url::parse(endpoint).map_err(|e| config(format!("`endpoint`: {e}")))?;
        if !is_safe(&url) {
            return Err(config(
                "`endpoint` would show the access token to the network".to_owned(),
            ));
        }
        Ok(Self {
            web,
            tokens,
            endpoint: url,
        })
    }

    /// The address that a client is made for.
    pub(super) fn address(settings: Option<&str>) -> &str {
        settings.unwrap_or(ENDPOINT)
    }

    fn url(&self, ask: &Ask) -> Result<Url, Fault> {
        let url = self.endpoint.join(&ask.to);
        let mut url = url.map_err(|e| Fault::new(ErrorKind::Protocol, format!("Drive gave no address: {e}")))?;
        // An address of Drive's own, as of an upload: the token goes to nobody else.
        if url.origin() != self.endpoint.origin() {
            return Err(Fault::new(
                ErrorKind::Protocol,
                "Drive gave an address of somebody else",
            ));
        }
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        Ok(url)
    }

    /// Sends a request; an answer that is a refusal is an error, but for those whose status is among `fine`.
    pub(super) async fn ask(&self, ask: Ask, fine: &[u16]) -> Result<Reply, Fault> {
        let url = self.url(&ask)?;
        let mut again = false;
        loop {
            let token = self.tokens.get(&self.web).await?;
            let mut request = self
                .web
                .request(ask.method.clone(), url.clone())
                .header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
            for (name, value) in &ask.headers {
                request = request.header(*name, value);
            }
            if ask.json {
                request = request.header(CONTENT_TYPE, "application/json; charset=UTF-8");
            }
            let body = match (&ask.body, ask.method == Method::GET) {
                (Some(body), _) => Some(body.clone()),
                (None, true) => None,
                (None, false) => Some(Bytes::new()),
            };
            let reply = self.web.send(request, body).await?;
            if reply.status == StatusCode::UNAUTHORIZED && !again {
                self.tokens.refused(&token).await;
                again = true;
                continue;
            }
            if reply.status.is_success() || fine.contains(&reply.status.as_u16()) {
                return Ok(reply);
            }
            return Err(refusal(reply).await);
        }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn get<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Fault> {
        parse(&self.ask(ask, &[]).await?.text().await?)
    }
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text)
        .map_err(|e| Fault::new(ErrorKind::Protocol, format!("Drive's answer makes no sense: {e}")))
}

async fn refusal(reply: Reply) -> Fault {
    let (status, wait) = (reply.status, reply.wait());
    let text = reply.text().await.unwrap_or_default();
    let said = serde_json::from_str::<Envelope>(&text)
        .map(|e| e.error)
        .unwrap_or_default();
    let reason = said.errors.first().map(|r| r.reason.as_str()).unwrap_or_default();
    let why = format!("Drive says {status} {reason}: {}", said.message);
    Fault::new(kind(status, reason), why).after(wait)
}

/// What a refusal means; its reason says more than its status.
fn kind(status: StatusCode, reason: &str) -> ErrorKind {
    match reason {
        "rateLimitExceeded" | "userRateLimitExceeded" | "sharingRateLimitExceeded" | "dailyLimitExceeded" => {
            ErrorKind::Busy
        }
        "storageQuotaExceeded"
        | "teamDriveFileLimitExceeded"
        | "numChildrenInNonRootLimitExceeded"
        | "activeItemCreationLimitExceeded"
        | "quotaExceeded" => ErrorKind::Full,
        "accessNotConfigured" => ErrorKind::Config,
        "backendError" | "internalError" => ErrorKind::Unreachable,
        "authError" => ErrorKind::Auth,
        _ if status.is_server_error() => ErrorKind::Unreachable,
        _ => status_kind(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refusals_mean() {
        for (status, reason, means) in [
            (403, "userRateLimitExceeded", ErrorKind::Busy),
            (403, "rateLimitExceeded", ErrorKind::Busy),
            (429, "rateLimitExceeded", ErrorKind::Busy),
            (429, "", ErrorKind::Busy),
            (403, "storageQuotaExceeded", ErrorKind::Full),
            (403, "insufficientFilePermissions", ErrorKind::Denied),
            (403, "accessNotConfigured", ErrorKind::Config),
            (404, "notFound", ErrorKind::NotFound),
            (401, "authError", ErrorKind::Auth),
            (500, "internalError", ErrorKind::Unreachable),
            (503, "", ErrorKind::Unreachable),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(kind(status, reason), means, "{status} {reason}");
        }
    }
}
