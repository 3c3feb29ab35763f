//! `backlot limit`.

use std::time::Duration;

use backlot_config::{ByteSize, Loaded};

use super::client::Client;
use super::error::{CliError, Exit};
use super::text;
use crate::engine::report::{LimitReport, LimitRequest, SiteLimitReport};

const PATIENCE: Duration = Duration::from_secs(10);

/// Shows how fast bytes may move to and from each site, or changes it while they do.
///
/// Without arguments it shows what is in force, and until when. What is changed here counts at once and until the daemon
/// ends, or `auto` gives the direction back to the settings (`download-limit` and `upload-limit` of the site).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The site whose limits are to change.
    #[arg(value_name = "SITE", requires = "change")]
    site: Option<String>,
    /// What may be read from it: a rate (`10M/s`), a timetable (`08:00,10M 19:00,off`), `off` or `auto`.
    #[arg(long, value_name = "RATE", requires = "site", group = "change")]
    download: Option<String>,
    /// What may be sent to it, likewise.
    #[arg(long, value_name = "RATE", requires = "site", group = "change")]
    upload: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let sites: Vec<SiteLimitReport> = match args.site {
        Some(site) => {
            let request = LimitRequest {
                site,
                download: args.download,
                upload: args.upload,
            };
            vec![client.post("limits", &request).await?]
        }
        None => client.get("limits", &()).await?,
    };
    if args.json {
        text::json(&sites)?;
        return Ok(Exit::Ok);
    }
    for site in &sites {
        outln!("{}", site.site);
        outln!("  download  {}", shown(&site.download));
        outln!("  upload    {}", shown(&site.upload));
    }
    Ok(Exit::Ok)
}

fn shown(limit: &LimitReport) -> String {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "no limit".to_owned(), |rate| format!("{}/s", ByteSize(rate)));
    let mut shown = rate(limit.bytes_per_second);
    if let Some(minutes) = limit.changes_in_minutes {
        shown += &format!(" for {} h {:02} min more", minutes / 60, minutes % 60);
    }
    match (&limit.timetable, limit.by_hand) {
        (Some(table), true) => shown += &format!("  ({table}, by hand; `auto` gives it back to the settings)"),
        (Some(table), false) if limit.changes_in_minutes.is_some() => shown += &format!("  ({table})"),
        (Some(_) | None, _) => {}
    }
    shown
}
