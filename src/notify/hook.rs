//! Telling a web server: JSON, posted and, where there is a secret, signed.
//!
//! Invariants: a redirect is not followed; no error holds the address, which may be a secret itself.

use std::error::Error as _;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::Try;
use super::facts::{Facts, printable};

/// Bytes of an answer that are read for an error's text.
const SAID_MAX: usize = 300;

/// A place that is posted to.
pub(super) struct Hook<'a> {
    pub(super) url: &'a str,
    pub(super) secret: Option<&'a SecretString>,
    pub(super) limit: Duration,
}

impl Hook<'_> {
    pub(super) async fn tell(&self, facts: &Facts, json: Vec<u8>, attempt: u32) -> Try {
        let url = match reqwest::Url::parse(self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            Ok(_) | Err(_) => return Try::failed_for_good("its address is none of the web"),
        };
        // The first one stays; ours is the only one there is.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut client = Client::builder()
            .user_agent(concat!("backlot/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            // Sooner than the time is up: what never was connected is not lost on the way.
            .connect_timeout(self.limit.mul_f64(0.75));
        if url.scheme() == "http" {
            // Nothing is ciphered: a machine without certificates can do that too.
            client = client.tls_certs_only([]);
        }
        let client = match client.build() {
            Ok(client) => client,
            Err(e) => return Try::failed(format!("no client can be made: {}", chain(&e.without_url()))),
        };
        let mut request = client
            .post(url)
            .header("content-type", "application/json")
            .header("backlot-delivery", &facts.id)
            .header("backlot-attempt", attempt);
        if let Some(secret) = self.secret {
            match signature(secret, jiff::Timestamp::now().as_second(), &json) {
                Some(signature) => request = request.header("backlot-signature", signature),
                None => return Try::failed_for_good("nothing can be signed with its secret"),
            }
        }
        match request.body(json).send().await {
            Ok(response) => answered(response).await,
            Err(e) => {
                let is_before = e.is_connect() || e.is_builder();
                let why = chain(&e.without_url());
                if is_before { Try::failed(why) } else { Try::lost(why) }
            }
        }
    }
}

/// Signs a body at a moment (seconds since 1970): `t=…,v1=…`, the HMAC-SHA-256 of `t`, a dot and the body, in hex.
fn signature(secret: &SecretString, now: i64, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).ok()?;
    mac.update(format!("{now}.").as_bytes());
    mac.update(body);
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(format!("t={now},v1={hex}"))
}

async fn answered(mut response: reqwest::Response) -> Try {
    let status = response.status();
    if status.is_success() {
        return Try::Told;
    }
    let wait = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let mut said = Vec::new();
    while said.len() < SAID_MAX
        && let Ok(Some(piece)) = response.chunk().await
    {
        said.extend_from_slice(&piece);
    }
    said.truncate(SAID_MAX);
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let said = if said.is_empty() {
        said
    } else {
        format!(": {}", printable(&said))
    };
    let why = format!("it answered {status}{said}");
    let again = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    if again {
        Try::Failed {
            why,
            again: true,
            lost: false,
            wait,
        }
    } else {
        Try::failed_for_good(why)
    }
}

fn chain(error: &reqwest::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = e.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = e.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `printf '1795000000.{}' | openssl dgst -sha256 -hmac secret` says it.
    #[test]
    fn a_signature_is_the_one_that_others_compute() {
        let signed = signature(&SecretString::from("secret"), 1_795_000_000, b"{}").unwrap();
        assert_eq!(
            signed,
            "t=1795000000,v1=6b4c7e66d3b69c810f27c4aa67ee370757d4dfdabf1fbb338ea7cf6aba9e0494"
        );
    }
}
