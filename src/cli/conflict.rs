//! `backlot conflict`.

use std::ffi::OsString;
use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{paths, text};
use crate::api::types::ResolveRequest;
use crate::engine::report::{ConflictPage, ConflictQuery, ConflictReport, Keep};

/// To settle a conflict the daemon looks at the site first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows files that changed here and at their site, and settles which is kept.
///
/// When somebody else has published a file that you changed too, yours goes up beside it as NAME.conflict-SITE-TIME.EXT,
/// so that both are kept until you settle it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the conflicts, the oldest first.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Publishes your file in place of the site's, and removes the copy beside it.
    ///
    /// If the site's changes once more meanwhile, that is a conflict again: nothing is replaced that the drive did not
    /// show.
    KeepMine(Named),
    /// Keeps the site's file, and removes yours, here and at the site.
    KeepTheirs(Named),
}

/// Which conflicts.
#[derive(Debug, clap::Args)]
struct Named {
    /// Your file, or the name that both want.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    match args.verb {
        Verb::Ls { json } => list(json, loaded).await,
        Verb::KeepMine(named) => settle(&named, Keep::Mine, loaded).await,
        Verb::KeepTheirs(named) => settle(&named, Keep::Theirs, loaded).await,
    }
}

async fn list(json: bool, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::new(&loaded.config)?;
    let (mut conflicts, mut query) = (Vec::new(), ConflictQuery::default());
    loop {
        let page: ConflictPage = client.get("conflicts", &query).await?;
        conflicts.extend(page.conflicts);
        if page.next.is_none() {
            break;
        }
        query.cursor = page.next;
    }
    if json {
        text::json(&conflicts)?;
        return Ok(Exit::Ok);
    }
    for conflict in &conflicts {
        show(conflict);
    }
    if conflicts.is_empty() {
        outln!("no conflicts");
    }
    Ok(Exit::Ok)
}

fn show(c: &ConflictReport) {
    outln!("{} (since {})", text::printable(&c.wanted), text::when(c.since_ms));
    let written = |ns: i64| text::when(ns / 1_000_000);
    match (c.their_size, c.their_mtime_ns) {
        (Some(size), Some(mtime_ns)) => {
            outln!("  theirs: {}, written {}", text::bytes(size), written(mtime_ns));
        }
        _ => outln!("  theirs: is not there any more, or was not seen yet"),
    }
    let place = if c.ours_at_site { ", at the site too" } else { "" };
    outln!(
        "  yours:  {}, written {}{place}: {}",
        text::bytes(c.our_size),
        written(c.our_mtime_ns),
        text::printable(&c.ours)
    );
}

async fn settle(named: &Named, keep: Keep, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = ResolveRequest {
        paths: paths::all_in_drive(&named.paths, loaded)?,
        keep,
    };
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let settled: Vec<ConflictReport> = client.post("conflicts/resolve", &request).await?;
    if named.json {
        text::json(&settled)?;
        return Ok(Exit::Ok);
    }
    for conflict in settled {
        let wanted = text::printable(&conflict.wanted);
        match keep {
            Keep::Mine => outln!("{wanted}: yours replaces the site's as soon as it is sent"),
            Keep::Theirs => outln!("{wanted}: the site's is kept, yours is removed"),
        }
    }
    Ok(Exit::Ok)
}
