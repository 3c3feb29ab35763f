//! `backlot top`: what the drive does right now, as a live view on a terminal, and as figures everywhere else.
//!
//! Owns: when it asks, and the terminal while it is shown. Refuses to know: how it looks (`view`), what the figures mean.
//! Invariant: however it ends, the terminal is as it was.

mod screen;
mod view;

use std::time::{Duration, Instant};

use backlot_config::{Loaded, Period};
use serde::Serialize;

use super::client::Client;
use super::error::{CliError, Exit};
use super::text;
use crate::daemon::EndSignals;
use crate::engine::report::{ProgramReport, Status, TaskPage, TaskQuery, TaskReport, TaskWord};
use screen::{Key, Screen};

/// A daemon that does not answer within this time hangs: the view says so and asks again.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks for figures that are shown once.
const ONCE: Duration = Duration::from_secs(1);
/// Files under way that are asked for.
const TASKS: usize = 100;

/// Shows what the drive does right now: links, what comes and goes and how fast, the queue, who reads.
///
/// On a terminal a live view, until q or Ctrl-C. In a pipe, or with --once, it looks for a second, prints that and ends; with
/// --json, without --once, a line of JSON a second until it is ended.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print once and end.
    #[arg(long)]
    once: bool,
    /// Look this often, as in 500ms; at least 100ms.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    interval: Period,
    /// Print JSON: with --once one value, else one a line.
    #[arg(long)]
    json: bool,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Now {
    /// The drive's name.
    name: String,
    mount_point: std::path::PathBuf,
    uptime_seconds: u64,
    /// Between the two looks that rates are made of.
    seconds: f64,
    sites: Vec<SiteNow>,
    cache_bytes: u64,
    cache_max_bytes: u64,
    /// What comes from all sites, bytes per second.
    download_bytes_per_second: u64,
    /// What goes to all sites, bytes per second.
    upload_bytes_per_second: u64,
    open_files: usize,
    /// Files that bytes arrive for.
    hydrations: Vec<Moving>,
    /// Files under way to their site.
    uploads: Vec<Moving>,
    /// What is not at its site yet.
    pending_files: u64,
    pending_bytes: u64,
    eta_seconds: Option<u64>,
    /// Tasks that need a person.
    stuck: u64,
    /// Programs that anything was fetched for since the last look, and those before them.
    programs: Vec<ProgramNow>,
}

#[derive(Debug, Serialize)]
struct SiteNow {
    name: String,
    link: String,
    reason: Option<String>,
    download_bytes_per_second: u64,
    /// Fetches that run, and that wait.
    fetching: (usize, usize),
}

#[derive(Debug, Serialize)]
struct Moving {
    path: String,
    done_bytes: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ProgramNow {
    name: String,
    pid: Option<u32>,
    bytes_per_second: u64,
    bytes: u64,
    refusals: u64,
}

/// One look at the daemon.
struct Look {
    at: Instant,
    status: Status,
    uploads: Vec<TaskReport>,
}

impl Look {
    async fn new(client: &Client) -> Result<Self, CliError> {
        let status: Status = client.get("status", &()).await?;
        let running = status.publishing.queues.iter().any(|queue| queue.running.tasks > 0);
        let uploads = if running {
            let query = TaskQuery {
                state: Some(TaskWord::Uploading),
                limit: Some(TASKS),
                ..TaskQuery::default()
            };
            let page: TaskPage = client.get("tasks", &query).await?;
            page.tasks
        } else {
            Vec::new()
        };
        Ok(Self {
            at: Instant::now(),
            status,
            uploads,
        })
    }
}

impl Now {
    fn new(before: &Look, look: &Look) -> Self {
        let (was, is) = (&before.status, &look.status);
        let seconds = look.at.duration_since(before.at).as_secs_f64();
        // Counters begin anew with a new daemon.
        let is_same = was.pid == is.pid;
        let rate = |was: u64, is: u64| {
            if is_same {
                per_second(is.saturating_sub(was), seconds)
            } else {
                0
            }
        };
        let sites: Vec<_> = is
            .sites
            .iter()
            .map(|site| {
                let before = was
                    .sites
                    .iter()
                    .find(|s| s.name == site.name)
                    .and_then(|s| s.read_bytes);
                SiteNow {
                    name: site.name.clone(),
                    link: site.link.clone(),
                    reason: site.reason.clone(),
                    download_bytes_per_second: rate(before.unwrap_or(0), site.read_bytes.unwrap_or(0)),
                    fetching: site.fetching,
                }
            })
            .collect();
        let program = |program: &ProgramReport| {
            let before = was
                .programs
                .programs
                .iter()
                .find(|p| p.name == program.name && p.exe == program.exe);
            ProgramNow {
                name: program.name.clone(),
                pid: program.last_pid,
                bytes_per_second: rate(before.map_or(0, |p| p.bytes), program.bytes),
                bytes: program.bytes,
                refusals: program.refusals,
            }
        };
        let mut programs: Vec<_> = is.programs.programs.iter().map(program).collect();
        programs.sort_by_key(|p| std::cmp::Reverse((p.bytes_per_second, p.bytes)));
        let pending = &is.publishing.pending;
        Self {
            name: is.name.clone(),
            mount_point: is.mount_point.clone(),
            uptime_seconds: is.uptime_seconds,
            seconds,
            sites,
            cache_bytes: is.cache.bytes,
            cache_max_bytes: is.cache.max_bytes,
            download_bytes_per_second: rate(was.hydration.fetched_bytes, is.hydration.fetched_bytes),
            upload_bytes_per_second: pending.bytes_per_second,
            open_files: is.hydration.open_handles,
            hydrations: is
                .hydration
                .in_flight
                .iter()
                .map(|f| Moving {
                    path: f.path.clone(),
                    done_bytes: f.resident_bytes,
                    bytes: f.size,
                })
                .collect(),
            uploads: look
                .uploads
                .iter()
                .map(|t| Moving {
                    path: t.path.clone(),
                    done_bytes: t.done_bytes,
                    bytes: t.size,
                })
                .collect(),
            pending_files: pending.files,
            pending_bytes: pending.bytes,
            eta_seconds: pending.eta_seconds,
            stuck: pending.stuck.tasks,
            programs,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people, of a count that is not negative; casts saturate"
)]
fn per_second(bytes: u64, seconds: f64) -> u64 {
    if seconds > 0.0 {
        (bytes as f64 / seconds) as u64
    } else {
        0
    }
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let interval = args.interval.as_duration().max(Duration::from_millis(100));
    let mut signals = EndSignals::new().map_err(|e| CliError::failed("listen for signals", &e))?;
    let first = Look::new(&client).await?;
    if args.json && !args.once {
        return lines(&client, first, interval, &mut signals).await;
    }
    if args.once || args.json || !(text::is_live(&std::io::stdout()) && text::is_live(&std::io::stdin())) {
        tokio::time::sleep(interval.min(ONCE)).await;
        let now = Now::new(&first, &Look::new(&client).await?);
        if args.json {
            text::json(&now)?;
        } else {
            for line in view::lines(&now, usize::MAX) {
                outln!("{line}");
            }
        }
        return Ok(Exit::Ok);
    }
    live(&client, first, interval, &mut signals).await
}

/// A line of JSON for each look, until somebody ends it.
async fn lines(
    client: &Client,
    mut before: Look,
    interval: Duration,
    signals: &mut EndSignals,
) -> Result<Exit, CliError> {
    use std::io::Write as _;
    loop {
        tokio::select! {
            () = signals.recv() => return Ok(Exit::Ok),
            () = tokio::time::sleep(interval) => {}
        }
        let look = Look::new(client).await?;
        let line = serde_json::to_string(&Now::new(&before, &look)).map_err(|e| CliError::failed("write JSON", &e))?;
        // Nobody reads any more.
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return Ok(Exit::Ok);
        }
        before = look;
    }
}

/// The live view, until q, Ctrl-C or a signal.
async fn live(
    client: &Client,
    mut before: Look,
    interval: Duration,
    signals: &mut EndSignals,
) -> Result<Exit, CliError> {
    let failed = |e: std::io::Error| CliError::failed("use the terminal", &e).hint("`backlot top --once` needs none");
    let mut screen = Screen::open().map_err(failed)?;
    let mut now = None;
    let mut trouble = None;
    loop {
        let (width, height) = screen.size();
        let mut shown = match &now {
            Some(now) => view::lines(now, height.saturating_sub(2)),
            None => vec![format!("{}: looking…", before.status.name)],
        };
        shown.extend(trouble.take());
        screen.show(&shown, width, height).map_err(failed)?;
        let wait = tokio::time::sleep(interval);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = signals.recv() => return Ok(Exit::Ok),
                key = screen.key() => match key {
                    Some(Key::Quit) | None => return Ok(Exit::Ok),
                    // Drawn anew at once, in its new size.
                    Some(Key::Resized) => break,
                },
                () = &mut wait => {
                    match Look::new(client).await {
                        Ok(look) => {
                            now = Some(Now::new(&before, &look));
                            before = look;
                        }
                        Err(e) => trouble = Some(format!("! {}", e.said().replace('\n', " "))),
                    }
                    break;
                }
            }
        }
    }
}
