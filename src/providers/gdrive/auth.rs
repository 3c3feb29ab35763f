//! Access tokens: from a service account's key, or from a user's refresh token.
//!
//! Owns: who we are to Google, and one token until shortly before it ends. Refuses to know: what a token is used for.
//! Invariants: keys and tokens are shown to the token endpoint and to Drive alone, and are in no text of ours; a token that
//! was refused is not used again.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use backlot_config::{GdriveAuth, GdriveSite as Settings, SecretRef};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::providers::web::{Fault, Web};
use crate::providers::{ErrorKind, Op, ProviderError};

/// What we ask to be allowed: all files, as a mount of a studio's folder has to.
const SCOPE: &str = "https://www.googleapis.com/auth/drive";
/// Where users' access tokens are had.
const TOKEN_ENDPOINT: &str = "https://oauth2.googleapis.com/token";
/// How long an assertion is good for, in seconds: the most that Google takes.
const ASSERTED_FOR: u64 = 3600;
/// A token is renewed this long before its end.
const EARLY: Duration = Duration::from_secs(60);
/// No token is believed to be good for longer, whatever comes with it.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);

/// Who we are.
#[derive(Debug)]
enum Identity {
    Service {
        files: Vec<PathBuf>,
        subject: Option<String>,
    },
    User {
        client: String,
        secret: SecretRef,
        refresh: SecretRef,
        endpoint: String,
    },
}

/// Gives access tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    identity: Identity,
    current: Mutex<Option<Token>>,
}

#[derive(Debug, Clone)]
struct Token {
    text: SecretString,
    until: Instant,
}

/// A service account's key, as Google's console gives it.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type", default)]
    kind: String,
    client_email: String,
    private_key: SecretString,
    #[serde(default)]
    private_key_id: String,
    token_uri: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    #[serde(default)]
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    /// Takes the identity out of the settings. Nothing is read yet.
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let missing =
            |what: &str| ProviderError::new(ErrorKind::Config, Op::Connect).because(format!("`{what}` is missing"));
        let identity = match settings.auth {
            GdriveAuth::ServiceAccount => {
                let files = settings.credentials.here().to_vec();
                if files.is_empty() {
                    return Err(missing("credentials"));
                }
                Identity::Service {
                    files,
                    subject: settings.subject.clone(),
                }
            }
            GdriveAuth::User => Identity::User {
                client: settings.client_id.clone().ok_or_else(|| missing("client-id"))?,
                secret: settings.client_secret.clone().ok_or_else(|| missing("client-secret"))?,
                refresh: settings.refresh_token.clone().ok_or_else(|| missing("refresh-token"))?,
                endpoint: settings
                    .token_endpoint
                    .clone()
                    .unwrap_or_else(|| TOKEN_ENDPOINT.to_owned()),
            },
        };
        Ok(Self {
            identity,
            current: Mutex::default(),
        })
    }

    /// Returns a token that is good now.
    pub(super) async fn get(&self, web: &Web) -> Result<SecretString, Fault> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| token.until > Instant::now()) {
            return Ok(token.text.clone());
        }
        let token = self.fetch(web).await?;
        let text = token.text.clone();
        *current = Some(token);
        Ok(text)
    }

    /// Forgets a token that was refused.
    pub(super) async fn refused(&self, token: &SecretString) {
        let mut current = self.current.lock().await;
        if current
            .as_ref()
            .is_some_and(|c| c.text.expose_secret() == token.expose_secret())
        {
            *current = None;
        }
    }

    async fn fetch(&self, web: &Web) -> Result<Token, Fault> {
        let (endpoint, form) = match &self.identity {
            Identity::Service { files, subject } => {
                let key = read_key(files)?;
                let assertion = assertion(&key, subject.as_deref())?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned();
                (key.token_uri, vec![("grant_type", grant), ("assertion", assertion)])
            }
            Identity::User {
                client,
                secret,
                refresh,
                endpoint,
            } => {
                let get = |secret: &SecretRef| secret.resolve().map_err(|e| Fault::new(ErrorKind::Auth, e.to_string()));
                let form = vec![
                    ("grant_type", "refresh_token".to_owned()),
                    ("client_id", client.clone()),
                    ("client_secret", get(secret)?.expose_secret().to_owned()),
                    ("refresh_token", get(refresh)?.expose_secret().to_owned()),
                ];
                (endpoint.clone(), form)
            }
        };
        let url = Url::parse(&endpoint).ok().filter(is_safe).ok_or_else(|| {
            Fault::new(
                ErrorKind::Config,
                format!("`{endpoint}` is no address to show a key to"),
            )
        })?;
        let mut body = Url::parse("form:").map_err(|e| Fault::new(ErrorKind::Config, e.to_string()))?;
        body.query_pairs_mut().extend_pairs(form);
        let body = body.query().unwrap_or_default().to_owned();
        let request = web
            .request(Method::POST, url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let reply = web.send(request, Some(body.into())).await?;
        let status = reply.status;
        let text = reply.text().await?;
        if status.is_success() {
            let granted: Granted = serde_json::from_str(&text)
                .map_err(|_not_shown| Fault::new(ErrorKind::Protocol, "the token endpoint's answer holds no token"))?;
            return Ok(Token {
                text: granted.access_token,
                until: Instant::now() + good_for(granted.expires_in),
            });
        }
        let refusal = serde_json::from_str(&text).unwrap_or(Refusal {
            error: status.to_string(),
            error_description: String::new(),
        });
        let kind = match status.as_u16() {
            400 | 401 | 403 => ErrorKind::Auth,
            429 => ErrorKind::Busy,
            500..=599 => ErrorKind::Unreachable,
            _ => ErrorKind::Protocol,
        };
        let why = format!(
            "Google gives no access token: {} {}",
            refusal.error, refusal.error_description
        );
        Err(Fault::new(kind, why.trim_end()))
    }
}

/// Returns how long a token is used of which the endpoint says for how many seconds it is good.
fn good_for(said: Option<u64>) -> Duration {
    let good = Duration::from_secs(said.unwrap_or(300));
    good.min(BELIEVED).saturating_sub(EARLY)
}

/// Says whether a secret may be shown to an address: over TLS, or on this machine.
pub(super) fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "localhost")))
}

fn read_key(files: &[PathBuf]) -> Result<KeyFile, Fault> {
    let auth = |why: String| Fault::new(ErrorKind::Auth, why);
    let listed = || {
        files
            .iter()
            .map(|f| f.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let Some(file) = files.iter().find(|file| file.exists()) else {
        return Err(auth(format!("none of the credentials is there: {}", listed())));
    };
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| auth(format!("{shown} can't be read: {e}")))?;
    // What serde says could quote the key.
    let key: KeyFile = serde_json::from_str(&text).map_err(|_quotes| {
        auth(format!(
            "{shown} is no service account's key: it has to have client_email, private_key and token_uri"
        ))
    })?;
    if key.kind != "service_account" {
        return Err(auth(format!(
            "{shown} is the key of a `{}`, not of a service_account",
            key.kind
        )));
    }
    Ok(key)
}

/// A statement that we are the account, signed with its key (RFC 7523, RS256).
fn assertion(key: &KeyFile, subject: Option<&str>) -> Result<String, Fault> {
    let auth = |why: &str| Fault::new(ErrorKind::Auth, format!("the service account's private key {why}"));
    let pem = key.private_key.expose_secret();
    let body: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let der = STANDARD.decode(body).map_err(|_quotes| auth("is not PEM"))?;
    let pair = RsaKeyPair::from_pkcs8(&der).map_err(|e| auth(&format!("is not usable: {e}")))?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |t| t.as_secs());
    let head = serde_json::json!({ "alg": "RS256", "typ": "JWT", "kid": key.private_key_id });
    let mut claims = serde_json::json!({
        "iss": key.client_email, "scope": SCOPE, "aud": key.token_uri, "iat": now, "exp": now + ASSERTED_FOR,
    });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .map_err(|_unspecified| auth("does not sign"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_claims_to_be_good_for_ever_is_renewed_all_the_same() {
        assert_eq!(good_for(Some(3600)), Duration::from_secs(3540));
        assert_eq!(good_for(Some(1)), Duration::ZERO);
        for said in [86_401, u64::MAX] {
            assert!(good_for(Some(said)) < BELIEVED && Instant::now().checked_add(good_for(Some(said))).is_some());
        }
    }
}
