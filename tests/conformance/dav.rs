//! A folder of `rclone serve webdav` as another of its users sees it: changed through the server, which remembers what its
//! folders held, and looked at behind it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use backlot::model::RelPath;
use reqwest::Method;
use tokio::runtime::Handle;

use crate::rig::{Back, Folder};
use crate::web::{SECRET, USER};

pub(crate) struct DavBack {
    pub(crate) folder: Folder,
    http: reqwest::Client,
    /// Without a slash at its end.
    url: String,
    /// Seconds since 1970 of the next change, so that versions differ.
    clock: AtomicI64,
}

impl DavBack {
    pub(crate) fn new(folder: Folder, url: &str) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let back = Self {
            folder,
            http: reqwest::Client::builder().tls_certs_only([]).build().unwrap(),
            url: url.to_owned(),
            clock: AtomicI64::new(1_600_000_000),
        };
        let (above, _) = url.rsplit_once('/').unwrap();
        back.must("MKCOL", above, Vec::new());
        back.must("MKCOL", url, Vec::new());
        back
    }

    fn ask(&self, method: &str, url: &str, body: Vec<u8>) -> u16 {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let work = async {
            let mut request = self
                .http
                .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
                .basic_auth(USER, Some(SECRET))
                .header("destination", format!("{}-away", self.url))
                .timeout(Duration::from_secs(60));
            if method == "PUT" {
                request = request.header("x-oc-mtime", now.to_string()).body(body);
            }
            request.send().await.unwrap().status().as_u16()
        };
        tokio::task::block_in_place(|| Handle::current().block_on(work))
    }

    fn must(&self, method: &str, url: &str, body: Vec<u8>) {
        let status = self.ask(method, url, body);
        assert!(status < 300, "{method} {url}: {status}");
    }

    fn url(&self, path: &RelPath) -> String {
        format!("{}/{}", self.url, std::str::from_utf8(path.as_bytes()).unwrap())
    }
}

impl Back for DavBack {
    fn put(&self, path: &RelPath, bytes: &[u8]) {
        if self.ask("PUT", &self.url(path), bytes.to_vec()) >= 300 {
            if let Some((dir, _)) = path.split_last() {
                self.put_dir(&dir);
            }
            self.must("PUT", &self.url(path), bytes.to_vec());
        }
    }

    fn overwrite(&self, path: &RelPath, bytes: &[u8]) {
        self.put(path, bytes);
    }

    fn get(&self, path: &RelPath) -> Option<Vec<u8>> {
        self.folder.get(path)
    }

    fn put_link(&self, _: &RelPath, _: &[u8]) {
        unreachable!("no links at WebDAV servers");
    }

    fn put_dir(&self, path: &RelPath) {
        let mut at = RelPath::root();
        for name in path.components() {
            at = at.join(&backlot::model::Name::new(name).unwrap());
            // One that is there is refused.
            self.ask("MKCOL", &self.url(&at), Vec::new());
        }
    }

    fn names(&self, dir: &RelPath) -> Vec<Vec<u8>> {
        self.folder.names(dir)
    }

    fn deny(&self, _: &RelPath) -> bool {
        false
    }

    fn hide_root(&self) -> bool {
        self.must("MOVE", &self.url, Vec::new());
        true
    }
}
