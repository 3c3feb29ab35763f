//! What odd answers become that no server of the tests can be brought to give: a socket plays them.

use std::sync::Arc;
use std::time::Duration;

use backlot_config::WebdavSite as Settings;
use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::WebdavSite;
use crate::model::RelPath;
use crate::providers::{ErrorKind, Listed, Provider};

const FILE: &str = "<propstat><prop><resourcetype/><getcontentlength>3</getcontentlength></prop>\
                    <status>HTTP/1.1 200 OK</status></propstat>";
const FOLDER: &str = "<propstat><prop><resourcetype><collection/></resourcetype></prop>\
                      <status>HTTP/1.1 200 OK</status></propstat>";

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn response(href: &str, inside: &str) -> String {
    format!("<response><href>{href}</href>{inside}</response>")
}

/// A site whose server answers as `answer` says, which is given method, path, and whether it is asked for what is in there.
async fn site(answer: impl Fn(&str, &str, bool) -> (u16, String) + Send + Sync + 'static) -> WebdavSite {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let (mut asked, mut buffer) = (Vec::new(), [0; 8192]);
                let (head, length) = loop {
                    let n = stream.read(&mut buffer).await.unwrap();
                    asked.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&asked).into_owned();
                    if let Some((head, _)) = text.split_once("\r\n\r\n") {
                        let length = head.lines().find_map(|line| {
                            let (name, value) = line.split_once(':')?;
                            name.eq_ignore_ascii_case("content-length")
                                .then(|| value.trim().parse().ok())?
                        });
                        break (head.to_owned(), length.unwrap_or(0));
                    }
                    assert!(n > 0, "a request that ends early: {text}");
                };
                while asked.len() < head.len() + 4 + length {
                    let n = stream.read(&mut buffer).await.unwrap();
                    assert!(n > 0, "a request that ends early");
                    asked.extend_from_slice(&buffer[..n]);
                }
                let mut words = head.split_whitespace();
                let deep = head.to_lowercase().contains("\r\ndepth: 1");
                let (status, inside) = answer(words.next().unwrap(), words.next().unwrap(), deep);
                let body = format!("<multistatus xmlns=\"DAV:\">{inside}</multistatus>");
                let length = body.len();
                let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            });
        }
    });
    let settings = Settings {
        url: format!("http://127.0.0.1:{port}/dav"),
        ..Settings::default()
    };
    WebdavSite::new(&settings, None, Duration::from_secs(5)).unwrap()
}

/// Answers looks: a root, a file `file`, and `odd` as given.
fn looks(odd: &str, url: &str, deep: bool) -> (u16, String) {
    let odd = response("/dav/odd", odd);
    match url {
        "/dav/" if deep => {
            let rows = [response("/dav/", FOLDER), response("/dav/file", FILE), odd];
            (207, rows.concat())
        }
        "/dav/" => (207, response("/dav/", FOLDER)),
        "/dav/odd" => (207, odd),
        "/dav/file" => (207, response(url, FILE)),
        _ => (404, String::new()),
    }
}

#[tokio::test]
async fn a_listing_with_an_entry_that_is_withheld_is_not_whole() {
    for (odd, kind) in [
        ("<status>HTTP/1.1 403 Forbidden</status>", ErrorKind::Denied),
        ("<status>HTTP/1.1 423 Locked</status>", ErrorKind::Busy),
        ("<status>HTTP/1.1 500 Oops</status>", ErrorKind::Protocol),
        (
            "<propstat><prop><resourcetype/><getcontentlength/></prop><status>HTTP/1.1 403 Forbidden</status></propstat>",
            ErrorKind::Denied,
        ),
        (
            "<propstat><prop><resourcetype/></prop><status>HTTP/1.1 200 OK</status></propstat>",
            ErrorKind::Protocol,
        ),
    ] {
        let site = site(move |_, url, deep| looks(odd, url, deep)).await;
        let root = RelPath::root();
        let listed: Result<Vec<Listed>, _> = site.list(&root).try_collect().await;
        let error = listed.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Protocol, "{odd}: {error}");
        assert!(error.to_string().contains("does not say what odd is"), "{error}");
        assert_eq!(site.stat(&path("odd")).await.unwrap_err().kind, kind, "{odd}");
        assert_eq!(site.stat(&path("file")).await.unwrap().size, 3);
    }
}

#[tokio::test]
async fn an_entry_that_is_named_and_not_there_is_not_shown() {
    let site = site(|_, url, deep| looks("<status>HTTP/1.1 404 Not Found</status>", url, deep)).await;
    let root = RelPath::root();
    let listed: Vec<Listed> = site.list(&root).try_collect().await.unwrap();
    let names: Vec<_> = listed.iter().map(|row| row.name.to_string()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(site.stat(&path("odd")).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_change_that_is_answered_piece_by_piece_was_not_done() {
    for (status, kind) in [
        ("HTTP/1.1 423 Locked", ErrorKind::Busy),
        ("HTTP/1.1 412 Precondition Failed", ErrorKind::VersionMismatch),
        ("HTTP/1.1 200 OK", ErrorKind::Protocol),
    ] {
        let site = site(move |method, url, deep| match method {
            "PROPFIND" => looks(FILE, url, deep),
            _ => (207, response("/dav/new", &format!("<status>{status}</status>"))),
        })
        .await;
        let moved = site.rename(&path("file"), &path("new")).await.unwrap_err();
        assert_eq!(moved.kind, kind, "{moved}");
        let removed = site.delete(&path("file")).await.unwrap_err();
        assert_eq!(removed.kind, kind, "{removed}");
    }
}
