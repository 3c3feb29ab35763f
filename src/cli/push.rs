//! `backlot push` and `backlot pull`.

use std::ffi::OsString;
use std::io::BufRead;
use std::time::Duration;

use backlot_config::{Loaded, Period};
use tokio::time::Instant;

use super::client::Client;
use super::error::{CliError, Exit};
use super::queue::show_job;
use super::{paths, text};
use crate::engine::report::{CopyDirection, CopyPath, CopyReport, CopyRequest, JobReport, JobWord, TallyReport};
use crate::model::frames::{FramePattern, FrameSet};

/// How long the daemon may take to look what paths mean.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the jobs that are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Files of a dry run that are named to people.
const NAMED: usize = 20;

/// Copies files from one site to another, without landing them here.
///
/// A file that is at the other site already is left alone; so is one that is newer there, unless --overwrite says
/// otherwise. What is pushed lands under its own name once it is whole. All that is pushed between the same two sites of a
/// project on one day is one job; what is pushed twice is tried again, not doubled.
#[derive(Debug, clap::Args)]
pub(super) struct PushArgs {
    /// The site to copy to.
    #[arg(long, value_name = "SITE")]
    to: String,
    /// The site to copy from. Default: the remote site of the path's project.
    #[arg(long, value_name = "SITE")]
    from: Option<String>,
    #[command(flatten)]
    what: What,
}

/// Copies files from another site, without landing them here.
///
/// As `push`, the other way round: where nothing else is said, to the remote site of the path's project, where the drive
/// shows them.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// The site to copy from.
    #[arg(long, value_name = "SITE")]
    from: String,
    /// The site to copy to. Default: the remote site of the path's project.
    #[arg(long, value_name = "SITE")]
    to: Option<String>,
    #[command(flatten)]
    what: What,
}

/// What to copy, and how.
#[derive(Debug, clap::Args)]
struct What {
    /// Files and folders, as any system spells them, and patterns of such: `*` and `?` stay within a name, `**` spans
    /// folders. A sequence is name.####.exr, name.%04d.exr or name.$F4.exr, and which frames may follow, as in
    /// 1001-1100x2. `-`: read them from standard input, one a line.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Wait until it is done.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Wait no longer than this, as in 10min.
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Period>,
    /// Only say what would be copied.
    #[arg(long)]
    dry_run: bool,
    /// Replace what is there, also where it is newer.
    #[arg(long)]
    overwrite: bool,
    /// 0 to 1000, higher goes first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    priority: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn push(args: PushArgs, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = CopyRequest {
        direction: CopyDirection::Push,
        from: args.from,
        to: Some(args.to),
        ..CopyRequest::default()
    };
    run(args.what, request, loaded).await
}

pub(super) async fn pull(args: PullArgs, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = CopyRequest {
        direction: CopyDirection::Pull,
        from: Some(args.from),
        to: args.to,
        ..CopyRequest::default()
    };
    run(args.what, request, loaded).await
}

async fn run(what: What, request: CopyRequest, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = CopyRequest {
        paths: what.asked(loaded, request.from.as_deref())?,
        priority: what.priority,
        overwrite: what.overwrite,
        dry_run: what.dry_run,
        ..request
    };
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let mut report: CopyReport = client.post("copies", &request).await?;
    let mut exit = if report.missing.is_empty() {
        Exit::Ok
    } else {
        Exit::Partial
    };
    if !what.json {
        told(&report, what.dry_run);
    }
    if what.wait {
        let ended = waited(&client, &mut report, what.timeout).await?;
        exit = if ended == Exit::Ok { exit } else { ended };
    }
    if what.json {
        text::json(&report)?;
    } else if what.wait {
        report.jobs.iter().for_each(show_job);
        if exit == Exit::Partial {
            errln!("  `backlot queue ls` shows what is left and why; `backlot queue retry` tries again");
        }
    }
    Ok(exit)
}

impl What {
    /// Returns what was asked for, in paths of the drive.
    fn asked(&self, loaded: &Loaded, site: Option<&str>) -> Result<Vec<CopyPath>, CliError> {
        let mut given: Vec<OsString> = Vec::new();
        for path in &self.paths {
            if path == "-" {
                for line in std::io::stdin().lock().lines() {
                    let line = line.map_err(|e| CliError::failed("read paths from standard input", &e))?;
                    if !line.trim().is_empty() {
                        given.push(line.into());
                    }
                }
            } else {
                given.push(path.clone());
            }
        }
        let volumes = paths::volumes(loaded)?;
        let mut asked: Vec<(OsString, Option<String>)> = Vec::new();
        for path in given {
            match (path.to_str(), asked.last_mut()) {
                // `name.####.exr 1001-1100`, as two arguments.
                (Some(text), Some((before, frames @ None)))
                    if FrameSet::looks_like(text) && before.to_str().is_some_and(has_frames) =>
                {
                    *frames = Some(text.to_owned());
                }
                (Some(text), _) => {
                    let (path, frames) = split_frames(text);
                    asked.push((path.into(), frames.map(str::to_owned)));
                }
                (None, _) => asked.push((path, None)),
            }
        }
        let meant = |(path, frames): (OsString, Option<String>)| -> Result<CopyPath, CliError> {
            let path = paths::meant(&path, loaded, &volumes, site)?.in_drive.to_string();
            Ok(CopyPath { path, frames })
        };
        let asked: Vec<CopyPath> = asked.into_iter().map(meant).collect::<Result<_, CliError>>()?;
        if asked.is_empty() {
            return Err(CliError::usage("no path was given").hint("each line of standard input is one"));
        }
        Ok(asked)
    }
}

/// Says whether the last name of a path has a place for a frame number.
fn has_frames(path: &str) -> bool {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    FramePattern::parse(name).is_some()
}

/// Takes the frames off a path that was given with them: `name.%04d.exr 1001-1100` and `name.%04d.exr[1001-1100]`.
fn split_frames(text: &str) -> (&str, Option<&str>) {
    let in_brackets = text.strip_suffix(']').and_then(|text| text.rsplit_once('['));
    let after_blank = text.rsplit_once(' ').map(|(path, frames)| (path.trim_end(), frames));
    for (path, frames) in in_brackets.into_iter().chain(after_blank) {
        if FrameSet::looks_like(frames) && has_frames(path) {
            return (path, Some(frames));
        }
    }
    (text, None)
}

fn tally(tally: TallyReport) -> String {
    format!(
        "{} ({})",
        text::counted_u64(tally.tasks, "file"),
        text::bytes(tally.bytes)
    )
}

/// Says what came of a request.
fn told(report: &CopyReport, dry_run: bool) {
    for missing in report.missing.iter().take(NAMED) {
        errln!("not there: {}", text::printable(missing));
    }
    if report.missing.len() > NAMED {
        errln!(
            "not there: {} more frames",
            text::counted(report.missing.len() - NAMED, "frame")
        );
    }
    if dry_run {
        for file in report.planned.iter().take(NAMED) {
            outln!("{:<9} {}", file.what, text::printable(&file.path));
        }
        if report.planned.len() > NAMED {
            outln!("… and more; --json names up to a thousand");
        }
        outln!("would be copied: {}", tally(report.would_copy));
        outln!("there already: {}", tally(report.would_skip));
        if report.would_conflict.tasks > 0 {
            outln!(
                "in conflict, left alone without --overwrite: {}",
                tally(report.would_conflict)
            );
        }
        return;
    }
    for job in &report.jobs {
        outln!(
            "{} put into job {} ({})",
            text::counted_u64(report.tasks, "path"),
            job.id,
            text::printable(&job.name)
        );
    }
    if report.unseen > 0 {
        outln!(
            "  {} could not be looked at, as the site does not answer: that is done once it does",
            text::counted_u64(report.unseen, "path")
        );
    }
}

/// Waits until the jobs have nothing left that goes on by itself; returns what is to be exited with.
async fn waited(client: &Client, report: &mut CopyReport, timeout: Option<Period>) -> Result<Exit, CliError> {
    let bar = text::spinner(true);
    let until = timeout.map(|timeout| Instant::now() + timeout.as_duration());
    loop {
        let mut jobs: Vec<JobReport> = Vec::new();
        for job in &report.jobs {
            jobs.push(client.get(&format!("jobs/{}", job.id), &()).await?);
        }
        report.jobs = jobs;
        let goes_on = |job: &JobReport| matches!(job.state, JobWord::Waiting | JobWord::Running);
        if !report.jobs.iter().any(goes_on) {
            bar.finish_and_clear();
            let is_left = |job: &JobReport| job.state != JobWord::Done;
            return Ok(if report.jobs.iter().any(is_left) {
                Exit::Partial
            } else {
                Exit::Ok
            });
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            bar.finish_and_clear();
            errln!("error: the time is up; it goes on all the same");
            return Ok(Exit::Failed);
        }
        let left = report.jobs.iter().fold(TallyReport::default(), |mut sum, job| {
            sum.tasks += job.waiting.tasks + job.running.tasks;
            sum.bytes += job.waiting.bytes + job.running.bytes;
            sum
        });
        bar.set_message(format!("{} to go", tally(left)));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_from_names() {
        for (given, path, frames) in [
            ("a/b.####.exr 1001-1100", "a/b.####.exr", Some("1001-1100")),
            ("a/b.%04d.exr[1001-1100x2]", "a/b.%04d.exr", Some("1001-1100x2")),
            (r"S:\a\b.####.exr 7", r"S:\a\b.####.exr", Some("7")),
            ("a/sh010 1001", "a/sh010 1001", None),
            ("a/b[1-3].exr", "a/b[1-3].exr", None),
            ("a/b.####.exr", "a/b.####.exr", None),
        ] {
            assert_eq!(split_frames(given), (path, frames), "{given}");
        }
    }
}
