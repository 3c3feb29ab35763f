//! A bucket as another of its users sees it: a client of its own, written for nothing but these tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backlot::model::RelPath;
use jiff::Timestamp;
use rusty_s3::{Bucket, Method, UrlStyle};
use tokio::runtime::Handle;

use crate::rig::Back;
use crate::web::{SECRET, Service, USER, WebServer};

static BUCKETS: AtomicU32 = AtomicU32::new(0);

/// A bucket of its own for each site.
pub(crate) struct BucketBack {
    bucket: Bucket,
    http: reqwest::Client,
    server: Arc<WebServer>,
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| Handle::current().block_on(work))
}

impl BucketBack {
    pub(crate) fn new(server: &Arc<WebServer>) -> Self {
        let name = format!("site-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        let url = server.address().parse().unwrap();
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let back = Self {
            bucket: Bucket::new(url, UrlStyle::Path, name, "us-east-1").unwrap(),
            http,
            server: Arc::clone(server),
        };
        back.must(Method::Put, "", &[], Vec::new());
        back
    }

    pub(crate) fn name(&self) -> &str {
        self.bucket.name()
    }

    /// A question whose answer breaks off is asked again: rclone ends one so whose object is replaced meanwhile, and whoever
    /// reads is told.
    fn ask(&self, method: Method, key: &str, query: &[(&str, &str)], body: Vec<u8>) -> (u16, Vec<u8>) {
        (0..20)
            .find_map(|_| self.try_ask(method, key, query, body.clone()))
            .expect("an answer breaks off only where its object is replaced")
    }

    fn try_ask(&self, method: Method, key: &str, query: &[(&str, &str)], body: Vec<u8>) -> Option<(u16, Vec<u8>)> {
        let url = if key.is_empty() {
            self.bucket.base_url().clone()
        } else {
            self.bucket.object_url(key)
        };
        let mut query = query.to_vec();
        query.sort_unstable();
        let url = rusty_s3::signing::sign(
            &Timestamp::now(),
            method,
            url,
            USER,
            SECRET,
            None,
            "us-east-1",
            600,
            query.iter().copied(),
            std::iter::empty(),
        );
        let method = match method {
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
            _ => reqwest::Method::GET,
        };
        wait(async {
            let length = body.len();
            let request = self
                .http
                .request(method, url)
                .body(body)
                .header("content-length", length)
                .timeout(Duration::from_secs(60));
            let reply = request.send().await.unwrap();
            let status = reply.status().as_u16();
            match reply.bytes().await {
                Ok(bytes) => Some((status, bytes.to_vec())),
                Err(e) => {
                    assert!(e.is_decode(), "{e:?}");
                    None
                }
            }
        })
    }

    fn must(&self, method: Method, key: &str, query: &[(&str, &str)], body: Vec<u8>) -> Vec<u8> {
        let (status, said) = self.ask(method, key, query, body);
        assert!(status < 300, "{key}: {status}: {}", String::from_utf8_lossy(&said));
        said
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let query = [("list-type", "2"), ("prefix", prefix)];
        texts(&self.must(Method::Get, "", &query, Vec::new()), "Key")
    }
}

/// The texts of all elements of a name.
fn texts(xml: &[u8], name: &str) -> Vec<String> {
    let text = std::str::from_utf8(xml).unwrap();
    let document = roxmltree::Document::parse(text).unwrap();
    let found = document.descendants().filter(|node| node.tag_name().name() == name);
    found.map(|node| node.text().unwrap_or_default().to_owned()).collect()
}

fn key(path: &RelPath) -> &str {
    std::str::from_utf8(path.as_bytes()).unwrap()
}

impl Back for BucketBack {
    fn put(&self, path: &RelPath, bytes: &[u8]) {
        self.must(Method::Put, key(path), &[], bytes.to_vec());
    }

    fn overwrite(&self, path: &RelPath, bytes: &[u8]) {
        self.put(path, bytes);
    }

    fn get(&self, path: &RelPath) -> Option<Vec<u8>> {
        let (status, bytes) = self.ask(Method::Get, key(path), &[], Vec::new());
        match status {
            404 => None,
            200 => Some(bytes),
            _ => panic!("{path}: {status}"),
        }
    }

    fn put_link(&self, _: &RelPath, _: &[u8]) {
        unreachable!("no links in buckets");
    }

    fn put_dir(&self, path: &RelPath) {
        // rclone makes a file of a key that ends in `/`: there, a folder is what has something in it.
        let keeper = if self.server.service == Service::RcloneS3 {
            ".backlot-folder.part"
        } else {
            ""
        };
        self.must(Method::Put, &format!("{}/{keeper}", key(path)), &[], Vec::new());
    }

    fn names(&self, dir: &RelPath) -> Vec<Vec<u8>> {
        let prefix = format!("{}/", key(dir));
        let mut names: Vec<Vec<u8>> = self
            .keys(&prefix)
            .into_iter()
            .filter(|key| *key != prefix && !key.ends_with("/.backlot-folder.part"))
            .map(|key| key.as_bytes()[prefix.len()..].to_vec())
            .collect();
        let uploads = self.must(Method::Get, "", &[("uploads", "")], Vec::new());
        names.extend(
            texts(&uploads, "Key")
                .into_iter()
                .filter(|key| key.starts_with(&prefix))
                .map(String::into_bytes),
        );
        names
    }

    fn deny(&self, _: &RelPath) -> bool {
        false
    }

    fn hide_root(&self) -> bool {
        for key in self.keys("") {
            self.must(Method::Delete, &key, &[], Vec::new());
        }
        self.must(Method::Delete, "", &[], Vec::new());
        true
    }
}
