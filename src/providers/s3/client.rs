//! Requests to a bucket: signed, sent, and their failures named.
//!
//! Owns: credentials, and what a store's error codes are to the rest of the program. Refuses to know: what is asked for and
//! why. Invariant: every request is signed for a few minutes and for exactly what it asks; credentials that were refused
//! are looked up again before the next one.

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::HeaderMap;
use rusty_s3::{Bucket, UrlStyle};
use secrecy::{ExposeSecret, SecretString};

use backlot_config::{AddressStyle, S3Site as Settings, SecretRef};

use super::xml;
use crate::providers::login::Login;
use crate::providers::web::{Fault, Reply, Web, status_kind};
use crate::providers::{ErrorKind, Op, ProviderError};

/// How long a signature is good for, in seconds. Stores check it when a request begins.
const SIGNED_FOR: u64 = 15 * 60;

/// A bucket, and how to ask it for things.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) web: Web,
    bucket: Bucket,
    login: Login<Option<Credentials>>,
}

#[derive(Debug)]
struct References {
    access: Option<SecretRef>,
    secret: Option<SecretRef>,
    token: Option<SecretRef>,
}

#[derive(Debug)]
struct Credentials {
    access: SecretString,
    secret: SecretString,
    token: Option<SecretString>,
}

impl References {
    fn resolve(&self) -> Result<Option<Credentials>, ProviderError> {
        let get = |secret: &SecretRef| {
            secret
                .resolve()
                .map_err(|e| ProviderError::new(ErrorKind::Auth, Op::Connect).because(e))
        };
        match (&self.access, &self.secret) {
            (Some(access), Some(secret)) => Ok(Some(Credentials {
                access: get(access)?,
                secret: get(secret)?,
                token: self.token.as_ref().map(get).transpose()?,
            })),
            (None, None) => Ok(None),
            _ => {
                Err(ProviderError::new(ErrorKind::Config, Op::Connect)
                    .because("`access-key` and `secret-key` go together"))
            }
        }
    }
}

impl Credentials {
    fn shown(&self) -> Vec<&str> {
        let parts = [Some(&self.access), Some(&self.secret), self.token.as_ref()];
        parts.into_iter().flatten().map(ExposeSecret::expose_secret).collect()
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    method: Method,
    key: &'a str,
    query: Vec<(&'a str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
}

impl<'a> Ask<'a> {
    /// Asks for the object with that key; the empty key is the bucket.
    pub(super) fn new(method: Method, key: &'a str) -> Self {
        Self {
            method,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub(super) fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a header; names in small letters.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn maybe(self, header: Option<(&'static str, String)>) -> Self {
        match header {
            Some((name, value)) => self.header(name, value),
            None => self,
        }
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self
    }
}

impl Client {
    pub(super) fn new(settings: &Settings, web: Web) -> Result<Self, ProviderError> {
        let config = |why: String| ProviderError::new(ErrorKind::Config, Op::Connect).because(why);
        let amazon = settings.endpoint.is_empty();
        let endpoint = if amazon {
            format!("https://s3.{}.amazonaws.com", settings.region)
        } else {
            settings.endpoint.clone()
        };
        let url = endpoint
            .parse()
            .map_err(|e| config(format!("`endpoint` is no address: {e}")))?;
        let style = match settings.address_style {
            AddressStyle::Host => UrlStyle::VirtualHost,
            AddressStyle::Auto if amazon => UrlStyle::VirtualHost,
            AddressStyle::Path | AddressStyle::Auto => UrlStyle::Path,
        };
        if settings.bucket.is_empty() {
            return Err(config("`bucket` is missing".to_owned()));
        }
        let bucket = Bucket::new(url, style, settings.bucket.clone(), settings.region.clone())
            .map_err(|e| config(format!("`endpoint` and `bucket` make no address: {e}")))?;
        let references = References {
            access: settings.access_key.clone(),
            secret: settings.secret_key.clone(),
            token: settings.session_token.clone(),
        };
        Ok(Self {
            web,
            bucket,
            login: Login::new(
                move || references.resolve(),
                |credentials| credentials.iter().flat_map(Credentials::shown).collect(),
            )?,
        })
    }

    pub(super) fn bucket_name(&self) -> &str {
        self.bucket.name()
    }

    /// Names an object as a copy's source: its bucket and its key, as an address has them.
    pub(super) fn source(&self, key: &str) -> String {
        let path = self.bucket.object_url(key).path().to_owned();
        let key = path.strip_prefix(self.bucket.base_url().path()).unwrap_or(&path);
        format!("/{}/{key}", self.bucket.name())
    }

    /// Sends a request; an answer that says no is a fault.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Reply, Fault> {
        let is_head = ask.method == Method::HEAD;
        let (request, body) = self.signed(ask)?;
        let reply = self.web.send(request, body).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(self.refusal(reply, is_head).await)
    }

    fn signed(&self, ask: Ask<'_>) -> Result<(reqwest::RequestBuilder, Option<Bytes>), Fault> {
        let url = if ask.key.is_empty() {
            self.bucket.base_url().clone()
        } else {
            self.bucket.object_url(ask.key)
        };
        let method = match ask.method {
            Method::HEAD => rusty_s3::Method::Head,
            Method::PUT => rusty_s3::Method::Put,
            Method::POST => rusty_s3::Method::Post,
            Method::DELETE => rusty_s3::Method::Delete,
            _ => rusty_s3::Method::Get,
        };
        let mut query = ask.query;
        query.sort();
        let mut headers = ask.headers;
        headers.sort();
        let pairs = || query.iter().map(|(name, value)| (*name, value.as_str()));
        let url = match &*self.login.now() {
            Some(credentials) => rusty_s3::signing::sign(
                &Timestamp::now(),
                method,
                url,
                credentials.access.expose_secret(),
                credentials.secret.expose_secret(),
                credentials.token.as_ref().map(ExposeSecret::expose_secret),
                self.bucket.region(),
                SIGNED_FOR,
                pairs(),
                headers.iter().map(|(name, value)| (*name, value.as_str())),
            ),
            None => {
                let mut url = url;
                if !query.is_empty() {
                    url.query_pairs_mut().extend_pairs(pairs());
                }
                url
            }
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = value
                .parse()
                .map_err(|_| Fault::new(ErrorKind::Invalid, format!("`{name}` can't hold what it is to")))?;
            map.insert(name, value);
        }
        // Stores want a length of whatever is put or posted.
        let empty = matches!(ask.method, Method::PUT | Method::POST).then(Bytes::new);
        Ok((self.web.request(ask.method, url).headers(map), ask.body.or(empty)))
    }

    /// Reads why the store says no.
    async fn refusal(&self, reply: Reply, is_head: bool) -> Fault {
        let (status, wait, skew) = (reply.status, reply.wait(), reply.skew());
        let region = reply.named("x-amz-bucket-region").map(str::to_owned);
        let said = match is_head {
            true => None,
            false => match reply.text().await {
                Ok(text) => xml::error(&text),
                Err(fault) => return fault,
            },
        };
        let mut kind = match &said {
            Some((code, _)) => code_kind(code).unwrap_or_else(|| status_kind(status)),
            None => status_kind(status),
        };
        let mut why = match said {
            Some((code, message)) => format!("the store says: {message} ({code}, HTTP {})", status.as_u16()),
            None => format!("the store says no more than HTTP {}", status.as_u16()),
        };
        if status.is_redirection() {
            kind = ErrorKind::Config;
            if let Some(region) = region.filter(|region| region != self.bucket.region()) {
                why = format!(
                    "the bucket is in region {region}, and `region` says {}",
                    self.bucket.region()
                );
            }
        }
        if let (ErrorKind::Auth | ErrorKind::Denied, Some(skew)) = (kind, skew) {
            (kind, why) = (ErrorKind::Auth, format!("{skew}; {why}"));
        }
        // The answer to a HEAD has no room for the reason: it may be that credentials have run out.
        let may_be_login = kind == ErrorKind::Auth || (is_head && kind == ErrorKind::Denied);
        let again = may_be_login && self.login.refused();
        Fault::new(kind, why).after(wait).again_if(again)
    }
}

/// What an error code means; `None`: what its status does. The codes are those of Amazon S3, and a few of MinIO and Ceph.
fn code_kind(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "NoSuchKey" | "NoSuchUpload" => ErrorKind::NotFound,
        // Without its bucket, everything would look deleted.
        "NoSuchBucket" => ErrorKind::Unreachable,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "InvalidObjectState" => ErrorKind::Denied,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed"
        | "RequestExpired"
        | "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError"
        | "CredentialsNotSupported"
        | "MissingSecurityHeader" => ErrorKind::Auth,
        "PreconditionFailed" | "ConditionalRequestConflict" | "InvalidRange" => ErrorKind::VersionMismatch,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "Throttling"
        | "ThrottlingException"
        | "XMinioServerNotInitialized"
        | "OperationAborted" => ErrorKind::Busy,
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "StorageFull"
        | "ServiceQuotaExceededException"
        | "InsufficientStorage" => ErrorKind::Full,
        "KeyTooLongError"
        | "EntityTooSmall"
        | "EntityTooLarge"
        | "InvalidArgument"
        | "InvalidPart"
        | "InvalidPartOrder"
        | "XMinioInvalidObjectName"
        | "MetadataTooLarge" => ErrorKind::Invalid,
        // Got lost or mangled on the way: worth another try.
        "BadDigest" | "InvalidDigest" | "IncompleteBody" | "InternalError" | "XAmzContentSHA256Mismatch" => {
            ErrorKind::Protocol
        }
        "RequestTimeout" => ErrorKind::TimedOut,
        "NotImplemented" | "MethodNotAllowed" => ErrorKind::Unsupported,
        "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" | "InvalidBucketName" => {
            ErrorKind::Config
        }
        _ => return None,
    })
}
