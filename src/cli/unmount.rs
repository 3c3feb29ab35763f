//! `backlot unmount`.
//!
//! Asks the daemon, which knows what it still has to do; takes the mount away without it where it is gone or hangs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backlot_config::{Loaded, Period};
use backlot_platform::fuse::{self, MountHealth, Unmount, UnmountError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::client::{Client, Listener};
use super::error::{CliError, Exit};
use super::{text, wait};
use crate::api::types::{Health, Holder, StopOutcome, UnmountRequest};
use crate::engine::report::PendingReport;

/// A daemon that does not say that it lives within this time hangs.
const LIFE_SIGN: Duration = Duration::from_secs(3);
/// How long a daemon may take to end once the drive is unmounted: it makes durable what it holds.
const ENDING: Duration = Duration::from_secs(20);

/// Unmounts the drive and ends its daemon; says who still uses it.
///
/// Returns once the daemon has ended, so that the drive can be mounted again. What is not at its site yet stays on this
/// machine, nothing is lost, and the queue goes on at the next `backlot mount`: it says so, unless --leave says that you
/// know, or --wait has it sent first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait until everything made here is at its site, then unmount. Files can be written until then. Exits with 4 if something
    /// that was closed last could not be sent any more.
    #[arg(long, conflicts_with = "leave")]
    wait: bool,
    /// Give up waiting after this long, as in 10min; the drive stays mounted then.
    #[arg(long, requires = "wait", value_name = "TIME")]
    timeout: Option<Period>,
    /// Leave what is not at its site yet for the next start, without a word about it.
    #[arg(long)]
    leave: bool,
    /// Take the drive away at once although it is in use, or its daemon hangs. Programs that hold files of it get errors.
    #[arg(long)]
    lazy: bool,
    /// Only clear a mount whose daemon is gone, and do nothing where one runs: for units, which run this also after a start that
    /// failed because another daemon has the drive.
    #[arg(long, hide = true, conflicts_with_all = ["wait", "leave", "lazy"])]
    if_dead: bool,
    /// Print JSON when it is unmounted.
    #[arg(long)]
    json: bool,
    /// The mount point, when it is not the one of the settings.
    mount_point: Option<PathBuf>,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let ours = &loaded.config.drive.mount_point;
    let asked = match &args.mount_point {
        Some(given) => std::path::absolute(given).map_err(|e| CliError::failed("make sense of the mount point", &e))?,
        None => ours.clone(),
    };
    // Whoever asks from within the drive does not keep it busy by asking.
    drop(std::env::set_current_dir("/"));
    let client = Client::new(&loaded.config)?;
    if args.if_dead {
        return if_dead(&client, &asked).await;
    }
    if fuse::is_same_place(&asked, ours) {
        match client.listener().await {
            Listener::Daemon(pid) => return by_daemon(&client, loaded, &asked, pid, &args).await,
            Listener::Nobody | Listener::Foreign => {}
        }
    }
    if args.wait {
        return Err(CliError::new(
            Exit::NoDaemon,
            "there is no daemon that could send what is not at its site yet",
        )
        .hint("without --wait it is unmounted as it is; the queue goes on at the next `backlot mount`"));
    }
    without_daemon(&asked, &args)
}

/// Clears what a daemon that is gone left behind.
async fn if_dead(client: &Client, asked: &Path) -> Result<Exit, CliError> {
    // One that is just starting clears it by itself, and is not to lose what it mounts then.
    if client.is_running().await {
        return Ok(Exit::Ok);
    }
    if fuse::clear_dead(asked).map_err(|e| failed(asked, &e))? > 0 {
        outln!("unmounted {}: its daemon was gone", asked.display());
    }
    Ok(Exit::Ok)
}

async fn by_daemon(
    client: &Client,
    loaded: &Loaded,
    asked: &Path,
    pid: Option<u32>,
    args: &Args,
) -> Result<Exit, CliError> {
    let quick = Client::at(loaded.config.drive.socket_path(), LIFE_SIGN)?;
    let Ok(Health { pid, mounted, .. }) = quick.get::<Health>("health", &()).await else {
        return hung(asked, pid, args);
    };
    if !mounted {
        return Err(
            CliError::new(Exit::Failed, format!("nothing is mounted at {}", asked.display()))
                .why(format!("process {pid} has the drive open for a scan alone"))
                .hint(format!(
                    "wait for it, or `kill {pid}`; the next scan goes on where it stopped"
                )),
        );
    }
    // Held from before the daemon ends, so that its number can't be another process's by then.
    let process = open_process(pid);
    let outcome = if args.wait {
        match when_sent(loaded, args).await? {
            Ok(outcome) => outcome,
            Err(exit) => return Ok(exit),
        }
    } else {
        let request = UnmountRequest {
            lazy: args.lazy,
            leave: args.leave,
            ..UnmountRequest::default()
        };
        client.post("unmount", &request).await?
    };
    match outcome {
        StopOutcome::Stopped { left } => {
            if let Some(left) = left
                .as_ref()
                .filter(|left| !left.is_nothing() && !args.leave && !args.json)
            {
                say_what_is_left(left);
            }
            if args.wait && left.is_none() {
                errln!("whether all of it is at its site is unknown; `backlot mount` and `backlot status` tell");
            }
            let is_all_sent = left.as_ref().is_some_and(PendingReport::is_nothing);
            if let Some(process) = process
                && !ended(process).await
            {
                return Err(CliError::new(
                    Exit::Partial,
                    format!(
                        "{} is unmounted, but the daemon (pid {pid}) has not ended",
                        asked.display()
                    ),
                )
                .hint("it may still be writing down what it knows; `backlot doctor` looks into it"));
            }
            let exit = unmounted(asked, left, args.json)?;
            // Something was closed while it was being unmounted, and could not be sent before the daemon ended.
            Ok(if args.wait && !is_all_sent { Exit::Partial } else { exit })
        }
        StopOutcome::Busy { holders } => Err(busy(&holders)),
        StopOutcome::Waiting { .. } => Err(CliError::new(
            Exit::Failed,
            "the daemon waits although nobody asked it to",
        )),
        StopOutcome::Failed { reason } => Err(CliError::failed_because(format!("unmount {}", asked.display()), reason)
            .hint("`backlot unmount --lazy` takes it away at once")),
    }
}

/// Waits until everything is at its site, and unmounts; or says what is in the way.
async fn when_sent(loaded: &Loaded, args: &Args) -> Result<Result<StopOutcome, Exit>, CliError> {
    let waiting = wait::Waiting::new(loaded, args.timeout)?;
    loop {
        let request = UnmountRequest {
            lazy: args.lazy,
            wait: true,
            timeout_ms: Some(waiting.next_ms()),
            ..UnmountRequest::default()
        };
        match waiting.client.post("unmount", &request).await? {
            StopOutcome::Waiting { report } => {
                if let Some(ended) = waiting.shown(&report) {
                    ended.say(&report);
                    errln!(
                        "  it stays mounted; `backlot unmount --leave` unmounts it all the same, nothing is lost by that"
                    );
                    return Ok(Err(ended.exit()));
                }
            }
            outcome => return Ok(Ok(outcome)),
        }
    }
}

/// `unmount --json`: it is unmounted.
#[derive(Debug, Serialize)]
struct Unmounted<'a> {
    mount_point: &'a Path,
    /// What is not at its site yet; absent where the daemon did not tell.
    left: Option<PendingReport>,
}

fn unmounted(asked: &Path, left: Option<PendingReport>, json: bool) -> Result<Exit, CliError> {
    if json {
        text::json(&Unmounted {
            mount_point: asked,
            left,
        })?;
    } else {
        outln!("unmounted {}", asked.display());
    }
    Ok(Exit::Ok)
}

/// What stays here for the next start, and how long it would have taken.
fn say_what_is_left(left: &PendingReport) {
    let mut what = Vec::new();
    if left.files > 0 {
        what.push(format!(
            "{} with {}",
            text::counted_u64(left.files, "file"),
            text::bytes(left.bytes)
        ));
    }
    if left.writing > 0 {
        what.push(format!(
            "{} that were being written",
            text::counted_u64(left.writing, "file")
        ));
    }
    if left.deletes > 0 {
        what.push(text::counted_u64(left.deletes, "removal"));
    }
    let time = match left.eta_seconds {
        Some(seconds) => format!("it would take about {}", text::span(seconds)),
        None => "how long it would take is unknown".to_owned(),
    };
    errln!("not at its site yet: {}; {time}", what.join(", "));
    errln!("  nothing is lost: it stays on this machine, and the queue goes on at the next `backlot mount`");
    if left.stuck.tasks > 0 {
        errln!(
            "  of those, {} will not go by itself: `backlot queue ls` says why",
            text::counted_u64(left.stuck.tasks, "file")
        );
    }
}

/// The daemon listens but does not answer: only force helps, and only who asked for it gets it.
fn hung(asked: &Path, pid: Option<u32>, args: &Args) -> Result<Exit, CliError> {
    let process = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    if !args.lazy {
        return Err(CliError::failed_because(
            format!("unmount {}", asked.display()),
            format!("the daemon{process} does not answer within {LIFE_SIGN:?}"),
        )
        .hint("`backlot unmount --lazy` takes the drive away without it; whoever waits for the drive gets an error"));
    }
    match fuse::abort_path(asked) {
        Ok(_) if args.json => {}
        Ok(_) => outln!("unmounted {}", asked.display()),
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(asked, &e)),
    }
    let kill = pid.map_or_else(
        || "end it".to_owned(),
        |pid| format!("`kill {pid}`, or `kill -9 {pid}`, ends it"),
    );
    Err(CliError::new(
        Exit::Partial,
        format!("the daemon{process} still hangs, and keeps the data folder to itself"),
    )
    .hint(format!("{kill}; what is in the data folder survives that")))
}

fn without_daemon(asked: &Path, args: &Args) -> Result<Exit, CliError> {
    if matches!(fuse::mount_health(asked), MountHealth::NotMounted) {
        return Err(CliError::new(Exit::NoDaemon, format!("nothing is mounted at {}", asked.display()))
            .why("the daemon of these settings is not running either")
            .hint("if the drive was mounted with --config or --set, give the same here; `findmnt -t fuse.backlot` shows all drives"));
    }
    let how = if args.lazy { Unmount::Lazy } else { Unmount::Normal };
    match fuse::unmount_path(asked, how) {
        Ok(()) => unmounted(asked, None, args.json),
        Err(e) if e.is_busy() => Err(busy(&crate::daemon::holders(&e))),
        Err(e) => Err(failed(asked, &e)),
    }
}

fn failed(asked: &Path, e: &UnmountError) -> CliError {
    CliError::failed_because(format!("unmount {}", asked.display()), e.source.to_string()).hint(e.hint())
}

fn busy(holders: &[Holder]) -> CliError {
    let shown = |h: &Holder| {
        format!(
            "\n  {} (pid {}): {}",
            text::printable(&h.command),
            h.pid,
            text::printable(&h.what)
        )
    };
    let who: String = holders.iter().map(shown).collect();
    let what = if who.is_empty() {
        "the drive is in use by processes that this user may not see".to_owned()
    } else {
        format!("the drive is in use:{who}")
    };
    CliError::new(Exit::Failed, what).hint("close those, or run `backlot unmount --lazy`")
}

/// A handle on a process that stays with that process. `None` where the kernel does not offer it or it has ended already.
pub(super) fn open_process(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Says whether a process has ended, or does within [`ENDING`].
pub(super) async fn ended(process: OwnedFd) -> bool {
    ended_within(process, ENDING).await
}

/// Says whether a process has ended, or does in time.
pub(super) async fn ended_within(process: OwnedFd, limit: Duration) -> bool {
    let limit = Timespec {
        tv_sec: limit.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let waited = tokio::task::spawn_blocking(move || {
        // A process's descriptor is readable once it has ended.
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))
    });
    // Where it can't be watched there is nothing to wait for.
    !matches!(waited.await, Ok(Ok(0)))
}
