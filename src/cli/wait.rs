//! `backlot wait`.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use backlot_config::{Loaded, Period};
use indicatif::ProgressBar;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{paths, text};
use crate::engine::report::{WaitReport, WaitRequest};

/// How long one request waits.
const ASK_EVERY: Duration = Duration::from_secs(20);
/// The same where somebody watches.
const ASK_SOON: Duration = Duration::from_millis(500);
/// How much longer than that the daemon may take.
const MARGIN: Duration = Duration::from_secs(10);
/// Obstacles that are named to people.
const NAMED: usize = 20;

/// Waits until files are at their site: for scripts, and before a job goes to a render farm.
///
/// Exits with 0 when everything named is there; with 4 when something won't get there by itself (it needs a person, is
/// held back, paused, in conflict, was taken out of the queue, or failed three times), once all else is; with 1 when the
/// time is up. A file that is in no publish zone is an error at once.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["paths", "all"])))]
pub(super) struct Args {
    /// Files and folders of the drive, or below its mount point; a folder is all that is to be published below it.
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Everything that was made on this machine.
    #[arg(long)]
    all: bool,
    /// Give up after this long, as in 10min.
    #[arg(long, value_name = "TIME")]
    timeout: Option<Period>,
    /// Print JSON when it has ended.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let paths = paths::all_in_drive(&args.paths, loaded)?;
    let waiting = Waiting::new(loaded, args.timeout)?;
    if args.json {
        waiting.bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    loop {
        let request = WaitRequest {
            all: args.all,
            paths: paths.clone(),
            timeout_ms: Some(waiting.next_ms()),
        };
        let report: WaitReport = waiting.client.post("wait", &request).await?;
        let ended = if report.done {
            Some(Ended::There)
        } else {
            waiting.shown(&report)
        };
        let Some(ended) = ended else { continue };
        if args.json {
            text::json(&report)?;
        } else {
            ended.say(&report);
        }
        return Ok(ended.exit());
    }
}

/// A wait that is made of many requests.
pub(super) struct Waiting {
    pub(super) client: Client,
    bar: ProgressBar,
    until: Option<Instant>,
    each: Duration,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// All is there.
    There,
    /// What is left does not go by itself.
    Stuck,
    /// The time is up.
    TimeUp,
}

impl Waiting {
    pub(super) fn new(loaded: &Loaded, timeout: Option<Period>) -> Result<Self, CliError> {
        let is_watched = text::is_live(&std::io::stderr());
        let bar = text::spinner(true);
        Ok(Self {
            client: Client::at(loaded.config.drive.socket_path(), ASK_EVERY + MARGIN)?,
            bar,
            until: timeout.map(|timeout| Instant::now() + timeout.as_duration()),
            each: if is_watched { ASK_SOON } else { ASK_EVERY },
        })
    }

    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// How long the next request may wait, in milliseconds.
    pub(super) fn next_ms(&self) -> u64 {
        let next = self.left().map_or(self.each, |left| left.min(self.each));
        u64::try_from(next.as_millis()).unwrap_or(u64::MAX)
    }

    /// Shows how far it is; returns how it ended, if it did without all being there.
    pub(super) fn shown(&self, report: &WaitReport) -> Option<Ended> {
        let ended = if report.going.tasks == 0 {
            Some(Ended::Stuck)
        } else if self.left().is_some_and(|left| left.is_zero()) {
            Some(Ended::TimeUp)
        } else {
            None
        };
        match ended {
            Some(_) => self.bar.finish_and_clear(),
            None => self.bar.set_message(format!("{} to go", going(report))),
        }
        ended
    }
}

fn going(report: &WaitReport) -> String {
    let rate = match report.bytes_per_second {
        0 => String::new(),
        rate => format!(" at {}", text::rate(rate)),
    };
    let files = text::counted_u64(report.going.tasks, "file");
    format!("{files} with {}{rate}", text::bytes(report.going.bytes))
}

impl Ended {
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::There => Exit::Ok,
            Self::Stuck => Exit::Partial,
            Self::TimeUp => Exit::Failed,
        }
    }

    /// Says it to people.
    pub(super) fn say(self, report: &WaitReport) {
        match self {
            Self::There => outln!("all of it is at its site"),
            Self::Stuck => errln!(
                "error: stuck on the way to its site: {}",
                text::counted_u64(report.stuck, "path")
            ),
            Self::TimeUp => {
                errln!("error: the time is up; not at its site yet: {}", going(report));
                errln!("  it goes on all the same; `backlot status` shows how fast, and whether the site answers");
            }
        }
        for obstacle in report.obstacles.iter().take(NAMED) {
            let (path, why) = (text::printable(&obstacle.path), text::printable(&obstacle.why));
            errln!("  {path}: {}: {why}", obstacle.what);
        }
        let named = report.obstacles.len().min(NAMED) as u64;
        if report.stuck > named {
            errln!("  and {} more", text::count(report.stuck - named));
        }
        if report.stuck > 0 {
            errln!("  `backlot queue ls` and `backlot conflict ls` show more; `backlot queue retry` tries again");
        }
        if report.local > 0 {
            errln!(
                "note: in no publish zone, and so staying on this machine: {}",
                text::counted_u64(report.local, "file")
            );
        }
    }
}
