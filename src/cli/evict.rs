//! `backlot evict`.

use std::ffi::OsString;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::pin::PATIENCE;
use super::{paths, text};
use crate::api::types::PathsRequest;
use crate::engine::report::EvictReport;

/// Files that are named to people.
const NAMED: usize = 10;

/// Drops local bytes that are safe at the site; they come again when somebody reads them.
///
/// Keeps what is pinned, what is open or being fetched, and what was made or changed here, and says so: exits with 4 then.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Paths of the drive, or below its mount point, and patterns of such; a folder is everything below it.
    #[arg(required = true, value_name = "PATH|PATTERN")]
    paths: Vec<OsString>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = PathsRequest {
        paths: paths::all_in_drive(&args.paths, loaded)?,
    };
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let report: EvictReport = client.post("cache/evict", &request).await?;
    if args.json {
        text::json(&report)?;
    } else {
        show(&report);
    }
    Ok(if report.kept_files == 0 {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

/// Says what was dropped and what was kept.
pub(super) fn show(report: &EvictReport) {
    outln!(
        "dropped {} of {}",
        text::bytes(report.evicted_bytes),
        text::counted_u64(report.evicted_files, "file")
    );
    if report.kept_files == 0 {
        return;
    }
    let reasons = [
        (report.kept_pinned, "pinned"),
        (report.kept_in_use, "in use"),
        (report.kept_own, "made or changed here"),
        (report.kept_failed, "that could not be dropped"),
    ];
    let reasons = reasons.iter().filter(|(count, _)| *count > 0);
    let reasons: Vec<_> = reasons
        .map(|(count, why)| format!("{} {why}", text::count(*count)))
        .collect();
    outln!(
        "kept {} of {}: {}",
        text::bytes(report.kept_bytes),
        text::counted_u64(report.kept_files, "file"),
        reasons.join(", ")
    );
    for kept in report.kept.iter().take(NAMED) {
        outln!("  {}: {}", text::printable(&kept.path), kept.why);
    }
}
