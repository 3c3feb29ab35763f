//! Receivers that keep what they are told, and a drive that tells them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::drive::{Builder, Drive, eventually_within};
pub(crate) use crate::common::mail::{PATIENCE, Sink, free_port, mails};

pub(crate) const USER: &str = "backlot";
pub(crate) const PASSWORD: &str = "correct-horse-battery";

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Posted {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A web server that keeps what is posted to it.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) port: u16,
    posted: Arc<Mutex<Vec<Posted>>>,
    over: Arc<AtomicBool>,
}

/// How requests are answered: the first with the first, all further ones with the last.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Status(u16),
    /// Nothing for so long, then 200.
    After(Duration),
}

impl Hook {
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (posted, over) = (Arc::<Mutex<Vec<Posted>>>::default(), Arc::<AtomicBool>::default());
        let (keeps, is_over, count) = (Arc::clone(&posted), Arc::clone(&over), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(SeqCst) {
                    return;
                }
                let (keeps, count, answers) = (Arc::clone(&keeps), Arc::clone(&count), answers.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    keeps.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                    let at = count.fetch_add(1, SeqCst).min(answers.len() - 1);
                    let status = match answers[at] {
                        Answer::Status(status) => status,
                        Answer::After(wait) => {
                            std::thread::park_timeout(wait);
                            200
                        }
                    };
                    let said = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsaid");
                    drop((&stream).write_all(said.as_bytes()));
                });
            }
        });
        Self { port, posted, over }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/services/topsecret", self.port)
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for so many requests, and for a while longer that no more come.
    pub(crate) fn exactly(&self, count: usize) -> Vec<Posted> {
        eventually_within(PATIENCE, "the request", || self.posted().len() >= count);
        std::thread::park_timeout(Duration::from_secs(2));
        let posted = self.posted();
        assert_eq!(posted.len(), count, "{posted:#?}");
        posted
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn read(stream: &TcpStream) -> Option<Posted> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    assert!(line.starts_with("POST /services/topsecret "), "{line}");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length: usize = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Posted { headers, body })
}

/// A drive that tells people, on a site that is a folder with `publish` in it.
pub(crate) struct Studio {
    pub(crate) site: TempDir,
    pub(crate) drive: Drive,
}

impl Studio {
    /// Settings that all tests here share: rounds end a moment after their last file.
    pub(crate) fn builder(site: &TempDir) -> Builder {
        fs::create_dir_all(site.path().join("publish")).expect("made");
        Builder::local(site.path())
            .set("publish.settle", "0ms")
            .set("scan.recheck-after", "24h")
            .set("notify.quiet", "1s")
    }

    pub(crate) fn new(with: impl FnOnce(Builder) -> Builder) -> Self {
        let site = tempfile::tempdir().expect("a folder");
        let drive = with(Self::builder(&site)).build().mounted();
        Self { site, drive }
    }

    pub(crate) fn publish(&self, name: &str, bytes: &[u8]) {
        fs::write(self.drive.path("publish").join(name), bytes).expect("written");
    }

    pub(crate) fn notify(&self, args: &[&str]) -> Value {
        let out = self.drive.run([&["notify"], args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{}", String::from_utf8_lossy(&out.stderr)))
    }

    /// The messages, the oldest first.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let report = self.notify(&["ls"]);
        let mut messages = report["messages"].as_array().expect("rows").clone();
        messages.reverse();
        messages
    }

    /// Waits until a message stands so.
    pub(crate) fn message_that(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually_within(PATIENCE, what, || {
            found = self.messages().into_iter().find(&is);
            found.is_some()
        });
        found.expect("found")
    }
}
