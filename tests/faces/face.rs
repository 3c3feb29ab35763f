//! A drive whose API listens on TCP, and a client of bytes.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::drive::{Builder, Drive, SOON};

pub(crate) const ADMIN: &str = "admin-token-0123456789abcdef";
pub(crate) const VIEWER: &str = "viewer-token-0123456789abcdef";

/// A drive that listens.
pub(crate) struct Face {
    pub(crate) drive: Drive,
    pub(crate) at: SocketAddr,
    _secrets: TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The `kind` of a problem, which must be one in form as well.
    pub(crate) fn kind(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        problem["kind"].as_str().expect("a word").to_owned()
    }
}

impl Face {
    /// Mounts a drive of a folder, listening.
    pub(crate) fn of(builder: Builder) -> Self {
        let secrets = tempfile::tempdir().expect("a folder");
        let write = |name: &str, token: &str| {
            let path = secrets.path().join(name);
            let mut options = fs::OpenOptions::new();
            let mut file = options
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)
                .expect("made");
            writeln!(file, "{token}").expect("written");
            format!("file:{}", path.display())
        };
        let drive = builder
            .set("api.listen", "127.0.0.1:0")
            .set("api.admin-token", write("admin", ADMIN))
            .set("api.viewer-token", write("viewer", VIEWER))
            .set("api.hosts", vec!["backlot.studio.example"])
            .build()
            .mounted();
        let health = over_socket(&drive, "/v1/health").json();
        let at = health["tcp"].as_str().expect("it listens").parse().expect("an address");
        Self {
            drive,
            at,
            _secrets: secrets,
        }
    }

    pub(crate) fn of_folder(root: &Path) -> Self {
        Self::of(Builder::local(root))
    }

    /// Sends bytes and returns what comes until the other side closes.
    pub(crate) fn raw(&self, request: &[u8]) -> Answer {
        raw(self.at, request)
    }

    /// Asks as a well-behaved client would, with these lines in the head.
    pub(crate) fn ask(&self, method: &str, path: &str, lines: &[&str], body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.at);
        for line in lines {
            head += line;
            head += "\r\n";
        }
        if !body.is_empty() {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        self.raw(format!("{head}\r\n{body}").as_bytes())
    }

    pub(crate) fn get(&self, token: &str, path: &str) -> Answer {
        self.ask("GET", path, &[&format!("Authorization: Bearer {token}")], "")
    }

    pub(crate) fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Authorization: Bearer {token}");
        self.ask("POST", path, &[&bearer], &body.to_string())
    }
}

pub(crate) fn raw(at: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    // It may answer, and close, before it has read all.
    let _cut_off = stream.write_all(request);
    read(&mut stream)
}

/// Asks over the Unix socket.
pub(crate) fn over_socket(drive: &Drive, path: &str) -> Answer {
    let socket = drive.data_dir().join("backlot.sock");
    let mode = fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the socket is for its owner");
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: backlot\r\n\r\n").expect("asked");
    read(&mut stream)
}

fn read(from: &mut impl Read) -> Answer {
    let (mut all, mut some) = (Vec::new(), [0; 16 << 10]);
    // Not every server closes when it is asked to; a reset after an early answer loses nothing that counts.
    while !is_whole(&all) {
        match from.read(&mut some) {
            Ok(0) | Err(_) => break,
            Ok(count) => all.extend_from_slice(&some[..count]),
        }
    }
    let all = String::from_utf8(all).expect("UTF-8");
    let (head, body) = all
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer but {all:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {head}")),
        head: head.to_owned(),
        body: if is_chunked { joined(body) } else { body.to_owned() },
    }
}

fn joined(mut chunks: &str) -> String {
    let mut all = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        all += &rest[..length];
        chunks = rest.get(length + 2..).unwrap_or_default();
    }
    all
}

/// Says whether as much of the body is here as the head announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}
