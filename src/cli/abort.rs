//! `backlot abort`.
//!
//! The way out of a mount that hangs. Needs no answer of the daemon's: it reads the kernel's tables, the database and the
//! folder of what was made here, and writes to the kernel alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backlot_config::Loaded;
use backlot_platform::fuse::{self, Aborted, Cut};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use super::client::{Client, Listener};
use super::error::{CliError, Exit};
use super::unmount::{ended, ended_within, open_process};
use super::{local, text};
use crate::api::types::Health;

/// A daemon that answers within this time, with a mount that does, is not what this verb is for.
const LIFE_SIGN: Duration = Duration::from_secs(1);
/// How long the database may take to say what is not sent yet: its disk may be what hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Frees a drive that hangs: whoever waits for it gets an error at once, and it is taken out of the tree.
///
/// For when nothing else helps: it works with the daemon stuck, stopped or dead, and asks it nothing. Nothing that was
/// saved is lost by it: it says what is not at its site yet, which stays in the data folder and goes on at the next
/// `backlot mount`. A drive that answers is left alone, unless --force says otherwise: `backlot unmount` is for that.
/// Root may abort any drive, everybody else their own.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also kill the daemon (SIGKILL), so that the drive can be mounted again at once.
    #[arg(long)]
    kill: bool,
    /// Abort it although it answers.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The mount point, when it is not the one of the settings.
    mount_point: Option<PathBuf>,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    mount_point: PathBuf,
    connections: Vec<Connection>,
    daemon: Option<DaemonReport>,
    /// What is not at its site yet; absent where the database did not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsent: Option<local::Unsent>,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsent_unknown: Option<String>,
}

#[derive(Debug, Serialize)]
struct Connection {
    number: u32,
    /// Requests that waited for an answer; absent where this user may not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u64>,
    how: &'static str,
    /// Its mount was in the tree until now.
    was_mounted: bool,
}

#[derive(Debug, Serialize)]
struct DaemonReport {
    pid: u32,
    /// It is still there.
    runs: bool,
}

impl From<&Aborted> for Connection {
    fn from(a: &Aborted) -> Self {
        Self {
            number: a.connection,
            waiting: a.waiting,
            how: match a.cut {
                Cut::Control => "cut by its control file",
                Cut::Force => "cut by a forced unmount",
                Cut::Gone => "gone already",
            },
            was_mounted: a.detached,
        }
    }
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let config = &loaded.config;
    let ours = &config.drive.mount_point;
    let asked = match &args.mount_point {
        Some(given) => std::path::absolute(given).map_err(|e| CliError::failed("make sense of the mount point", &e))?,
        None => ours.clone(),
    };
    // Whoever asks from within the drive is not to wait for it.
    drop(std::env::set_current_dir("/"));
    let is_ours = fuse::is_same_place(&asked, ours);
    let client = Client::at(config.drive.socket_path(), LIFE_SIGN)?;
    let (daemon, pid) = match client.listener().await {
        Listener::Daemon(pid) if is_ours => (Some(&client), pid),
        // Another drive's daemon, or another's of this drive: the mount alone can tell.
        _ => (None, None),
    };
    if !args.force && answers(daemon, &asked).await {
        let who = if daemon.is_some() {
            "the daemon and the mount answer"
        } else {
            "the mount answers"
        };
        return Err(
            CliError::failed_because(format!("abort {}", asked.display()), format!("it does not hang: {who}")).hint(
                "`backlot unmount` ends it in order, `--lazy` although it is in use; --force aborts it all the same",
            ),
        );
    }
    // Held from before anything ends, so that its number can't be another process's by then.
    let process = pid.and_then(open_process);
    let at = asked.clone();
    let done = tokio::task::spawn_blocking(move || cut(&at, pid)).await;
    let done = done.map_err(|e| CliError::failed("abort the drive", &e))??;
    if args.kill
        && let Some(pid) = pid
    {
        kill(pid)?;
    }
    let runs = match process {
        Some(process) if args.kill => !ended(process).await,
        Some(process) => !ended_within(process, LIFE_SIGN).await,
        None => false,
    };
    // Only now: freeing people comes first, and what is written down does not change by it.
    let (unsent, unsent_unknown) = if is_ours {
        let dir = config.drive.data_dir.clone();
        let asked = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || local::unsent(&dir))).await;
        match asked {
            Ok(Ok(Ok(unsent))) => (Some(unsent), None),
            Ok(Ok(Err(why))) => (None, Some(why)),
            Ok(Err(e)) => (None, Some(e.to_string())),
            Err(_) => (None, Some(format!("the disk does not answer within {PATIENCE:?}"))),
        }
    } else {
        (None, Some("these settings are of another drive".to_owned()))
    };
    let report = Report {
        mount_point: asked,
        connections: done.iter().map(Connection::from).collect(),
        daemon: pid.map(|pid| DaemonReport { pid, runs }),
        unsent,
        unsent_unknown,
    };
    if args.json {
        text::json(&report)?;
    } else {
        show(&report, &config.drive.data_dir);
    }
    Ok(Exit::Ok)
}

/// Says whether the daemon, if it is known, and its mount both answer: then nobody has to be freed.
async fn answers(daemon: Option<&Client>, at: &Path) -> bool {
    if let Some(client) = daemon
        && client.get::<Health>("health", &()).await.is_err()
    {
        return false;
    }
    let at = at.to_owned();
    let mount = tokio::task::spawn_blocking(move || fuse::mount_answers(&at));
    mount.await.unwrap_or(false)
}

fn cut(at: &Path, daemon: Option<u32>) -> Result<Vec<Aborted>, CliError> {
    let failed = |why: String, hint: &str| {
        let hint = hint.to_owned();
        CliError::failed_because(format!("abort {}", at.display()), why).hint(hint)
    };
    let as_root = "its owner may abort it, and root: `sudo backlot abort`";
    let mut done = match fuse::abort_path(at) {
        Ok(done) => done,
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) if e.source.kind() == std::io::ErrorKind::InvalidInput => {
            return Err(failed(
                e.source.to_string(),
                "give the mount point of a drive; `findmnt -t fuse.backlot` shows all",
            ));
        }
        Err(e) => return Err(failed(e.source.to_string(), as_root)),
    };
    if let Some(pid) = daemon {
        // What was detached before is out of the tree, and those who wait for it wait on.
        let more = fuse::abort_served_by(pid).map_err(|e| failed(e.to_string(), as_root))?;
        done.extend(more.into_iter().filter(|more| more.cut != Cut::Gone));
    }
    done.dedup_by_key(|done| done.connection);
    if done.is_empty() {
        return Err(CliError::new(Exit::NoDaemon, format!("nothing is mounted at {}", at.display()))
            .hint("if the drive was mounted with --config or --set, give the same here; `findmnt -t fuse.backlot` shows all drives"));
    }
    Ok(done)
}

fn kill(pid: u32) -> Result<(), CliError> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Gone already is as good.
    let Some(Ok(process)) = process.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return Ok(());
    };
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(CliError::failed(&format!("kill the daemon (pid {pid})"), &e)
            .hint("the drive is freed; end the daemon as root")),
    }
}

fn show(report: &Report, data_dir: &Path) {
    outln!("freed {}", report.mount_point.display());
    for c in &report.connections {
        let waited = match c.waiting {
            Some(0) => ": nobody waited for it".to_owned(),
            Some(n) => format!(": {} got an error", text::counted_u64(n, "waiting request")),
            None => String::new(),
        };
        let tree = if c.was_mounted {
            ""
        } else {
            " (it had left the tree before)"
        };
        outln!("  connection {} {}{waited}{tree}", c.number, c.how);
    }
    match &report.daemon {
        Some(daemon) if daemon.runs => {
            outln!(
                "  the daemon (pid {0}) is still there and keeps the data folder to itself: `kill -9 {0}` ends it",
                daemon.pid
            );
        }
        Some(daemon) => outln!("  the daemon (pid {}) has ended", daemon.pid),
        None => outln!("  there is no daemon"),
    }
    match (&report.unsent, &report.unsent_unknown) {
        (Some(unsent), _) => {
            for line in unsent.lines(data_dir) {
                outln!("  {line}");
            }
        }
        (None, Some(why)) => outln!("  what is not at its site yet is unknown: {why}"),
        (None, None) => {}
    }
    outln!("`backlot mount` mounts it again");
}
