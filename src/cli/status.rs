//! `backlot status`.

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::text;
use crate::engine::report::{ProjectReport, Status};

/// Shows the drive: its projects, sites, cache, and what is on its way.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let status: Status = Client::new(&loaded.config)?.get("status", &()).await?;
    if args.json {
        text::json(&status)?;
    } else {
        show(&status);
    }
    Ok(Exit::Ok)
}

fn show(s: &Status) {
    outln!(
        "{} at {} (pid {}, up for {})",
        s.name,
        s.mount_point.display(),
        s.pid,
        text::span(s.uptime_seconds)
    );
    outln!(
        "  {} entries, {} of them files with {}",
        text::count(s.entries),
        text::count(s.files),
        text::bytes(s.bytes)
    );
    outln!("  this machine is the site {}", s.site_id);
    outln!("sites");
    for site in &s.sites {
        let reason = site.reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
        outln!("  {:<16} {}{reason}", site.name, site.link);
    }
    outln!("projects");
    for p in &s.projects {
        outln!("  {:<16} from {}, {}", p.name, p.site, scanned(p));
    }
    let c = &s.cache;
    outln!("cache");
    outln!(
        "  {} of {} in {} files, {}",
        text::bytes(c.bytes),
        text::bytes(c.max_bytes),
        text::count(c.contents),
        c.dir.display()
    );
    if c.bad_granules > 0 {
        outln!(
            "  {} damaged pieces were found and fetched again",
            text::count(c.bad_granules)
        );
    }
    let h = &s.hydration;
    outln!("hydration");
    outln!(
        "  {} in {} requests since the start, {} failed",
        text::bytes(h.fetched_bytes),
        text::count(h.fetches),
        h.failed
    );
    for f in &h.in_flight {
        outln!(
            "  {} {} of {}",
            text::printable(&f.path),
            text::bytes(f.resident_bytes),
            text::bytes(f.size)
        );
    }
}

fn scanned(p: &ProjectReport) -> String {
    match (&p.scanning, p.scanned_at_ms) {
        (Some(scan), _) => format!("being scanned: {} folders, {} entries", scan.folders, scan.entries),
        (None, Some(at)) => format!("scanned {}", text::when(at)),
        (None, None) => "never scanned".to_owned(),
    }
}
