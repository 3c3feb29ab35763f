//! A real mail server on the loopback interface, for tests, and the mails that it was given.
//!
//! Owns: the server's process, its folder, how a mail is read. Refuses to know: who sends them. Invariant: a mail counts once
//! it is kept whole.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::certificate;
use super::drive::{Builder, eventually_within, say};

/// The variable that turns a missing mail server from a skip into a failure.
const REQUIRE_SMTP: &str = "BACKLOT_TEST_REQUIRE_SMTP";
/// How long a mail server may take to listen: it reads a good part of Python first.
const START: Duration = Duration::from_secs(30);
/// Longer than any message takes that is not put off.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

/// A mail server, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) port: u16,
    dir: TempDir,
    python: PathBuf,
    child: Option<Child>,
}

impl Sink {
    /// Makes ready a server that does not run yet; `None`, and a word, where there is none.
    pub(crate) fn prepared() -> Option<Self> {
        let tools =
            std::env::var_os("BACKLOT_TOOLS").map_or_else(|| PathBuf::from("/opt/backlot-tools"), PathBuf::from);
        let python = tools.join("smtp/bin/python");
        if !python.is_file() {
            let why = "aiosmtpd is not installed: see .ci/tools";
            assert!(
                std::env::var_os(REQUIRE_SMTP).is_none_or(|v| v != "1"),
                "{REQUIRE_SMTP}=1, and {why}"
            );
            say(&format!("SKIPPED: smtp ({why})"));
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("backlot-mail-")
            .tempdir()
            .expect("a folder");
        fs::create_dir(dir.path().join("kept")).expect("made");
        Some(Self {
            port: free_port(),
            dir,
            python,
            child: None,
        })
    }

    /// A certificate for it.
    pub(crate) fn certified(&self) -> PathBuf {
        certificate::make(self.dir.path()).unwrap();
        self.file("cert.pem")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(&mut self, args: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/smtp_sink.py");
        let log = fs::File::create(self.file("log")).expect("made");
        let child = Command::new(&self.python)
            .arg("-I")
            .arg(script)
            .arg(self.port.to_string())
            .arg(self.file("kept"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        self.child = Some(child);
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let said = fs::read_to_string(self.file("log")).unwrap_or_default();
            assert!(begun.elapsed() < START, "the mail server does not listen: {said}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// What it has kept, in the order of coming.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        let kept = fs::read_dir(self.file("kept")).expect("ours");
        let count = kept.filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().ends_with(".json")
        });
        (0..count.count())
            .map(|n| {
                let text = fs::read_to_string(self.file(&format!("kept/{n}.json"))).expect("kept");
                Mail::of(&serde_json::from_str(&text).expect("JSON"))
            })
            .collect()
    }

    /// Waits for so many mails, and for a while longer that no more come.
    pub(crate) fn exactly(&self, count: usize) -> Vec<Mail> {
        eventually_within(PATIENCE, "the mail", || self.mails().len() >= count);
        std::thread::park_timeout(Duration::from_secs(2));
        let mails = self.mails();
        assert_eq!(mails.len(), count, "{mails:#?}");
        mails
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A mail as it came.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) to: Vec<String>,
    pub(crate) tls: bool,
    pub(crate) user: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Mail {
    fn of(kept: &Value) -> Self {
        let raw = kept["mail"].as_str().expect("a mail");
        let (head, body) = raw.split_once("\r\n\r\n").expect("a head and a body");
        let mut headers = BTreeMap::new();
        for line in head.replace("\r\n ", " ").lines() {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no header"));
            headers.insert(name.to_owned(), decoded(value));
        }
        let encoding = headers.get("Content-Transfer-Encoding").map(String::as_str);
        let body = match encoding {
            Some("quoted-printable") => unquoted(body),
            Some("base64") => panic!("a text that people can't read: {raw}"),
            _ => body.to_owned(),
        };
        Self {
            to: kept["to"]
                .as_array()
                .expect("addresses")
                .iter()
                .map(|to| to.as_str().expect("an address").to_owned())
                .collect(),
            tls: kept["tls"].as_bool().expect("a boolean"),
            user: kept["user"].as_str().map(str::to_owned),
            headers,
            body: body.replace("\r\n", "\n"),
        }
    }

    pub(crate) fn subject(&self) -> &str {
        &self.headers["Subject"]
    }
}

/// A header's value, as it is meant: encoded words are base64 here.
fn decoded(value: &str) -> String {
    use base64::Engine as _;
    let mut out = String::new();
    for word in value.split(' ') {
        let encoded = word.strip_prefix("=?utf-8?b?").and_then(|word| word.strip_suffix("?="));
        match encoded {
            Some(encoded) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(encoded)
                    .expect("base64");
                out += &String::from_utf8(bytes).expect("UTF-8");
            }
            None => {
                if !out.is_empty() {
                    out.push(' ');
                }
                out += word;
            }
        }
    }
    out
}

fn unquoted(text: &str) -> String {
    let text = text.replace("=\r\n", "");
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'=' {
            let hex = std::str::from_utf8(&after[..2]).expect("hex");
            out.push(u8::from_str_radix(hex, 16).expect("hex"));
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    String::from_utf8(out).expect("UTF-8")
}

/// Settings of mails through a server without ciphers or login.
pub(crate) fn mails(builder: Builder, sink: &Sink, to: &[&str]) -> Builder {
    builder
        .set("notify.from", "Backlot <backlot@studio.example>")
        .set("notify.smtp-host", "127.0.0.1")
        .set("notify.smtp-port", sink.port)
        .set("notify.smtp-security", "none")
        .set("receivers.people.mail", to.to_vec())
}
