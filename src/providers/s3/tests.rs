//! What refusals of stores become: those that no server of the tests can be brought to give are played by a socket.

use std::sync::Arc;
use std::time::Duration;

use backlot_config::{S3Site as Settings, SecretRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{S3Site, mtime_from, mtime_text};
use crate::model::RelPath;
use crate::providers::{ErrorKind, Provider, ProviderError, Retry};

/// Answers every request alike.
async fn refusal(status: &'static str, headers: String, code: &str) -> ProviderError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut buffer = [0; 8192];
                let _asked = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "tiptop").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = Settings {
        bucket: "bucket".to_owned(),
        endpoint: format!("http://127.0.0.1:{port}"),
        access_key: Some(SecretRef::File(secret.clone())),
        secret_key: Some(SecretRef::File(secret)),
        ..Settings::default()
    };
    let site = S3Site::new(&settings, None, Duration::from_secs(5)).unwrap();
    let error = site.stat(&RelPath::root()).await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains("tiptop") && !text.contains("Signature"), "{text}");
    error
}

#[tokio::test]
async fn what_stores_refuse_with_is_told_apart() {
    for (status, code, kind) in [
        ("503 Slow Down", "SlowDown", ErrorKind::Busy),
        ("400 Bad Request", "ExpiredToken", ErrorKind::Auth),
        ("403 Forbidden", "InvalidAccessKeyId", ErrorKind::Auth),
        ("403 Forbidden", "AccessDenied", ErrorKind::Denied),
        ("403 Forbidden", "QuotaExceeded", ErrorKind::Full),
        ("507 Insufficient Storage", "XMinioStorageFull", ErrorKind::Full),
        ("404 Not Found", "NoSuchBucket", ErrorKind::Unreachable),
        ("500 Internal Server Error", "InternalError", ErrorKind::Protocol),
        ("418 I'm a teapot", "Unheard", ErrorKind::Protocol),
    ] {
        let error = refusal(status, String::new(), code).await;
        assert_eq!(error.kind, kind, "{code}: {error}");
    }
}

#[tokio::test]
async fn a_store_that_asks_to_be_left_alone_says_for_how_long() {
    let error = refusal("503 Slow Down", "Retry-After: 7\r\n".to_owned(), "SlowDown").await;
    assert_eq!(error.retry, Retry::After(Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() {
    let then = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(20);
    let date = jiff::fmt::rfc2822::to_string(&then.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
    for code in ["RequestTimeTooSkewed", "AccessDenied"] {
        let error = refusal("403 Forbidden", format!("Date: {date}\r\n"), code).await;
        assert_eq!(error.kind, ErrorKind::Auth);
        assert!(error.to_string().contains("clock is 1200 s ahead"), "{error}");
    }
}

#[tokio::test]
async fn the_region_of_a_bucket_elsewhere_is_named() {
    let headers = "x-amz-bucket-region: eu-west-3\r\n".to_owned();
    let error = refusal("301 Moved Permanently", headers, "PermanentRedirect").await;
    assert_eq!(error.kind, ErrorKind::Config);
    assert!(
        error.to_string().contains("the bucket is in region eu-west-3"),
        "{error}"
    );
}

#[test]
fn times_are_written_as_rclone_writes_them() {
    for (ns, text) in [
        (0, "0.000000000"),
        (1_234_567_890_123_456_789, "1234567890.123456789"),
        (-1_500_000_000, "-1.500000000"),
    ] {
        assert_eq!(mtime_text(ns), text);
        assert_eq!(mtime_from(text), Some(ns));
    }
    assert_eq!(mtime_from("1.5"), Some(1_500_000_000));
    assert_eq!(mtime_from("1"), Some(1_000_000_000));
    for odd in ["", "x", "1.x", ".5", "99999999999999"] {
        assert_eq!(mtime_from(odd), None, "{odd}");
    }
}
