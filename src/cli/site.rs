//! `backlot site`.

use std::ffi::OsString;
use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{paths, text};
use crate::engine::report::{
    SiteCheckReport, SiteCheckRequest, SiteCounts, SiteRowReport, SiteStateQuery, SiteStateReport, SiteStatesReport,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// A check is a dozen operations at most, each of which a site may take a while for; a folder may be a whole project.
const LONG: Duration = Duration::from_secs(600);

/// Shows the sites, tries one out, or tells where files stand at them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the sites: what each is, and what it is to which project.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tries a site out: connects, lists, writes a small file, reads it back and removes it, and looks at the site's clock.
    ///
    /// Exits with 0 when all of that went well, with 4 when some of it did, with 1 when the site does not answer.
    Check {
        /// The site; all of them if left out.
        #[arg(value_name = "SITE")]
        sites: Vec<String>,
        /// Write nothing there.
        #[arg(long)]
        read_only: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tells where a file, or all files of a folder, stand at each site.
    ///
    /// The states are AYON's: -1 n/a, 0 in progress, 1 queued, 2 failed, 3 paused, 4 synced.
    State {
        /// A path of the drive, or below its mount point.
        #[arg(value_name = "PATH")]
        path: OsString,
        /// Ask the sites first, in place of telling what is known here.
        #[arg(long)]
        look: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = |patience| Client::at(loaded.config.drive.socket_path(), patience);
    match args.verb {
        Verb::Ls { json } => list(&client(PATIENCE)?, json).await,
        Verb::Check { sites, read_only, json } => {
            let sites = if sites.is_empty() {
                loaded.config.sites.keys().cloned().collect()
            } else {
                sites
            };
            check(&client(LONG)?, &sites, read_only, json).await
        }
        Verb::State { path, look, json } => {
            let path = paths::in_drive(&path, loaded)?;
            state(&client(LONG)?, path, look, json).await
        }
    }
}

async fn list(client: &Client, json: bool) -> Result<Exit, CliError> {
    let sites: Vec<SiteRowReport> = client.get("sites", &()).await?;
    if json {
        text::json(&sites)?;
        return Ok(Exit::Ok);
    }
    for site in &sites {
        outln!(
            "{} ({}) {} {}",
            site.name,
            site.provider,
            text::printable(&site.root),
            site.link
        );
        if let Some(reason) = &site.reason {
            outln!("  {}", text::printable(reason));
        }
        if !site.alternative_sites.is_empty() {
            outln!("  the same storage as {}", site.alternative_sites.join(", "));
        }
        for role in &site.roles {
            let path = if role.path.is_empty() { "." } else { &role.path };
            outln!("  {}: {}, in {}", role.project, role.role, text::printable(path));
        }
    }
    Ok(Exit::Ok)
}

async fn check(client: &Client, sites: &[String], read_only: bool, json: bool) -> Result<Exit, CliError> {
    let mut reports: Vec<SiteCheckReport> = Vec::new();
    for site in sites {
        let report: SiteCheckReport = client
            .post(&format!("sites/{site}/check"), &SiteCheckRequest { read_only })
            .await?;
        if !json {
            show_check(&report);
        }
        reports.push(report);
    }
    if json {
        text::json(&reports)?;
    }
    let answers = |report: &SiteCheckReport| report.steps.first().is_some_and(|step| step.ok);
    Ok(if reports.iter().all(|report| report.ok) {
        Exit::Ok
    } else if reports.iter().all(answers) || reports.iter().any(|report| report.ok) {
        Exit::Partial
    } else {
        Exit::Failed
    })
}

fn show_check(report: &SiteCheckReport) {
    outln!("{}", report.site);
    for step in &report.steps {
        let word = if step.ok { "ok" } else { "FAILED" };
        outln!(
            "  {word:<6} {}: {} ({} ms)",
            step.step,
            text::printable(&step.said),
            step.ms
        );
        if let Some(hint) = &step.hint {
            outln!("         {hint}");
        }
    }
}

async fn state(client: &Client, path: String, look: bool, json: bool) -> Result<Exit, CliError> {
    let asked = SiteStateQuery { path };
    let report: SiteStatesReport = if look {
        client.post("site-states", &asked).await?
    } else {
        client.get("site-states", &asked).await?
    };
    if json {
        text::json(&report)?;
    } else {
        show_states(&report);
    }
    for site in &report.not_asked {
        errln!("error: not asked: {}", text::printable(site));
    }
    Ok(if report.not_asked.is_empty() {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

fn show_states(report: &SiteStatesReport) {
    let what = if report.folder {
        format!("{}, ", text::counted_u64(report.files, "file"))
    } else {
        String::new()
    };
    outln!(
        "{} ({what}{})",
        text::printable(&report.path),
        text::bytes(report.bytes)
    );
    let width = report.sites.iter().map(|site| site.site.len()).max().unwrap_or(0);
    for site in &report.sites {
        let here = if site.here { " (this machine)" } else { "" };
        outln!(
            "  {:<width$} {:>2} {}{here}",
            site.site,
            site.state,
            if report.folder {
                counts(&site.files)
            } else {
                of_file(site, report.bytes)
            }
        );
        if let Some(error) = &site.error {
            outln!("  {:<width$}    {}", "", text::printable(error));
        }
    }
}

fn of_file(site: &SiteStateReport, bytes: u64) -> String {
    let mut shown = site.word.clone();
    if site.state == 0 && bytes > 0 {
        shown += &format!(", {} of {}", text::bytes(site.done_bytes), text::bytes(bytes));
    }
    if site.retries > 0 {
        shown += &format!(", failed {}", text::counted_u64(site.retries, "time"));
    }
    shown
}

fn counts(files: &SiteCounts) -> String {
    let all = [
        (files.synced, "synced"),
        (files.in_progress, "in progress"),
        (files.queued, "queued"),
        (files.failed, "failed"),
        (files.paused, "paused"),
        (files.not_available, "n/a"),
    ];
    let shown: Vec<_> = all
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{} {word}", text::count(*n)))
        .collect();
    if shown.is_empty() {
        return "no files".to_owned();
    }
    shown.join(", ")
}
