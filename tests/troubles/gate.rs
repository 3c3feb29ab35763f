//! A gate in front of an S3 server that looks at clocks as Amazon's does: what is signed for a time too far from its own is
//! answered with `RequestTimeTooSkewed`. (rclone's and moto's servers don't look.)

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// How far apart clocks may be, in seconds: Amazon's figure.
const SKEW: i64 = 15 * 60;

/// A running gate.
pub(crate) struct Gate {
    port: u16,
    turned_away: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Gate {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            turned_away: Arc::default(),
            over: Arc::default(),
        };
        let (count, over) = (Arc::clone(&gate.turned_away), Arc::clone(&gate.over));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(SeqCst) {
                    return;
                }
                let count = Arc::clone(&count);
                // A client or a server that goes away ends its connection, and that is all.
                std::thread::spawn(move || drop(pass(&client, server, &count)));
            }
        });
        gate
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests that it has refused so far.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// Passes one request on, or refuses it, and closes the connection.
fn pass(client: &TcpStream, server: u16, turned_away: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let (mut head, mut length, mut first) = (Vec::new(), 0u64, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
        if line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
        if !name.eq_ignore_ascii_case("connection") {
            head.extend_from_slice(line.as_bytes());
        }
    }
    head.extend_from_slice(b"connection: close\r\n\r\n");
    let mut body = reader.take(length);
    let now = Timestamp::now();
    if signed_at(&first).is_some_and(|signed| (signed.as_second() - now.as_second()).abs() > SKEW) {
        turned_away.fetch_add(1, SeqCst);
        std::io::copy(&mut body, &mut std::io::sink())?;
        let said = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>RequestTimeTooSkewed</Code><Message>The difference \
                    between the request time and the current time is too large.</Message></Error>";
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\nDate: {}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: \
             close\r\n\r\n",
            now.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            said.len()
        );
        let mut to = client;
        to.write_all(answer.as_bytes())?;
        return if first.starts_with("HEAD ") {
            Ok(())
        } else {
            to.write_all(said.as_bytes())
        };
    }
    let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
    to.write_all(&head)?;
    std::io::copy(&mut body, &mut to)?;
    let mut back = client;
    std::io::copy(&mut to, &mut back)?;
    Ok(())
}

/// When a request says that it was signed.
fn signed_at(line: &str) -> Option<Timestamp> {
    let (_, after) = line.split_once("X-Amz-Date=")?;
    let text = after.get(..16)?;
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}
