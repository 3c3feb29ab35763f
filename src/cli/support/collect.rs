//! What goes into a support bundle.
//!
//! Owns: which facts, and how long each may take. Refuses to know: what must not be seen (its callers take that out).
//! Invariant: a part that can't be had is told of, and holds up no other.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use backlot_config::{Config, Loaded};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::client::{Client, Listener};
use super::super::config::rows;
use super::super::error::CliError;
use super::super::{Settings, doctor};
use crate::engine::report::TaskQuery;

/// How long one answer may take: the daemon's, a disk's, another program's.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long everything that `doctor` looks at may take: it has limits of its own.
const DOCTOR: Duration = Duration::from_secs(30);
/// Tasks of the queue that are told.
const TASKS: usize = 500;
/// Bytes of the log's end.
const LOG: u64 = 256 << 10;
/// Lines of the system's log.
const JOURNAL: &str = "400";

/// What a part holds.
#[derive(Debug)]
pub(super) enum Content {
    /// A value.
    Json(Value),
    /// Lines for people.
    Text(String),
    /// Lines of fields, as the kernel writes them.
    Fields(String),
    /// What has no names of anybody's in it.
    Plain(String),
}

/// A part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) content: Content,
}

/// Gathers all parts, and says what could not be had.
pub(super) async fn all(settings: &Settings, loaded: &Result<Loaded, CliError>) -> (Vec<Part>, Vec<String>) {
    let mut parts = Vec::new();
    let mut lacks = Vec::new();
    let mut version = json!({ "program": env!("CARGO_PKG_VERSION"), "daemon": null });
    match loaded {
        Ok(loaded) => {
            parts.push(value("settings.json", &rows(loaded)));
            of_daemon(&loaded.config, &mut version, &mut parts, &mut lacks).await;
            let dir = loaded.config.drive.data_dir.clone();
            match aside(move || log_end(&dir)).await {
                Ok(Some(text)) => parts.push(text_part("backlot.log", text)),
                Ok(None) => {}
                Err(why) => lacks.push(format!("the log of the data folder: {why}")),
            }
            let of = [
                loaded.config.drive.data_dir.clone(),
                loaded.config.drive.cache_dir.clone(),
            ];
            match aside(move || of.iter().map(|dir| space(dir)).collect()).await {
                Ok(text) => parts.push(text_part("space.txt", text)),
                Err(why) => lacks.push(format!("the space of the disks: {why}")),
            }
        }
        Err(e) => {
            lacks.push("the settings, and what they lead to: they can't be used (settings.txt says why)".to_owned());
            parts.push(text_part("settings.txt", e.shown()));
        }
    }
    parts.push(value("version.json", &version));
    match tokio::time::timeout(DOCTOR, doctor::findings(settings)).await {
        Ok(Ok(findings)) => parts.push(value("doctor.json", &findings)),
        Ok(Err(e)) => lacks.push(format!("what `backlot doctor` finds: {}", e.said())),
        Err(_) => lacks.push(format!("what `backlot doctor` finds: it took longer than {DOCTOR:?}")),
    }
    match journal().await {
        Ok(Some(text)) => parts.push(text_part("journal.txt", text)),
        Ok(None) => {}
        Err(why) => lacks.push(format!("the system's log: {why}")),
    }
    match aside(|| std::fs::read_to_string("/proc/self/mountinfo")).await {
        Ok(Ok(text)) => parts.push(Part {
            name: "mountinfo.txt",
            content: Content::Fields(text),
        }),
        Ok(Err(e)) => lacks.push(format!("the mounts: {e}")),
        Err(why) => lacks.push(format!("the mounts: {why}")),
    }
    match aside(system).await {
        Ok(text) => parts.push(Part {
            name: "system.txt",
            content: Content::Plain(text),
        }),
        Err(why) => lacks.push(format!("the kernel: {why}")),
    }
    (parts, lacks)
}

fn value(name: &'static str, value: &impl Serialize) -> Part {
    let value = serde_json::to_value(value).unwrap_or_else(|e| json!({ "can't be written": e.to_string() }));
    Part {
        name,
        content: Content::Json(value),
    }
}

fn text_part(name: &'static str, text: String) -> Part {
    Part {
        name,
        content: Content::Text(text),
    }
}

/// What the daemon says of itself.
async fn of_daemon(config: &Config, version: &mut Value, parts: &mut Vec<Part>, lacks: &mut Vec<String>) {
    let client = match Client::at(config.drive.socket_path(), PATIENCE) {
        Ok(client) => client,
        Err(e) => return lacks.push(format!("everything that the daemon knows: {}", e.said())),
    };
    let why = match client.listener().await {
        Listener::Daemon(_) => match client.get::<Value>("health", &()).await {
            Ok(health) => {
                version["daemon"] = health;
                None
            }
            Err(e) => Some(e.said()),
        },
        Listener::Nobody => Some("the daemon is not running".to_owned()),
        Listener::Foreign => Some("the daemon belongs to another user".to_owned()),
    };
    if let Some(why) = why {
        return lacks.push(format!("everything that the daemon knows (status, queue, log): {why}"));
    }
    for (name, route) in [
        ("status.json", "status"),
        ("queues.json", "queues"),
        ("conflicts.json", "conflicts"),
        ("pins.json", "pins"),
        ("cache.json", "cache"),
        ("limits.json", "limits"),
        ("log.json", "log"),
    ] {
        match client.get::<Value>(route, &()).await {
            Ok(answer) => parts.push(value(name, &answer)),
            Err(e) => lacks.push(format!("{name}: {}", e.said())),
        }
    }
    let query = TaskQuery {
        limit: Some(TASKS),
        ..TaskQuery::default()
    };
    match client.get::<Value>("tasks", &query).await {
        Ok(answer) => parts.push(value("tasks.json", &answer)),
        Err(e) => lacks.push(format!("tasks.json: {}", e.said())),
    }
}

/// Runs what may hang on a disk that is gone where it can't hold up anything else.
async fn aside<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// The last lines of the log of a daemon in the background.
fn log_end(data_dir: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(data_dir.join("backlot.log")).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // Not the half of a line: half a secret would not be known as one.
    let whole = if length > LOG {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    } else {
        &text
    };
    Some(whole.to_owned())
}

fn space(dir: &Path) -> String {
    match rustix::fs::statvfs(dir) {
        Ok(s) => format!(
            "{}: {} of {} bytes free, {} of {} inodes free\n",
            dir.display(),
            s.f_bavail.saturating_mul(s.f_frsize),
            s.f_blocks.saturating_mul(s.f_frsize),
            s.f_favail,
            s.f_files
        ),
        Err(e) => format!("{}: {e}\n", dir.display()),
    }
}

/// What the system's log has of our services; nothing where there is none.
async fn journal() -> Result<Option<String>, String> {
    let mut command = tokio::process::Command::new("journalctl");
    command
        .args(["--no-pager", "--quiet", "-n", JOURNAL, "_COMM=backlot"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(out)) if !out.stdout.is_empty() => Ok(Some(String::from_utf8_lossy(&out.stdout).into_owned())),
        // No such program, no such log, or nothing in it.
        Ok(Ok(_) | Err(_)) => Ok(None),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// The kernel and what it allows.
fn system() -> String {
    let mut text = String::new();
    for file in [
        "/proc/version",
        "/etc/os-release",
        "/proc/sys/fs/file-max",
        "/proc/sys/fs/fuse/max_user_bgreq",
        "/proc/sys/fs/fuse/default_request_timeout",
        "/proc/sys/fs/fuse/max_request_timeout",
        "/proc/sys/fs/fuse/max_pages_limit",
        "/sys/module/fuse/parameters/max_user_bgreq",
        "/sys/module/fuse/parameters/max_user_congthresh",
        "/etc/fuse.conf",
        "/proc/self/limits",
        "/proc/loadavg",
        "/proc/meminfo",
    ] {
        if let Ok(content) = std::fs::read_to_string(file) {
            // Writing into a String does not fail.
            let _written = writeln!(text, "== {file}\n{}", content.trim_end());
        }
    }
    text
}
