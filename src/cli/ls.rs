//! `backlot ls`.

use std::ffi::{OsStr, OsString};

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{paths, text};
use crate::api::types::{LsPage, LsQuery};
use crate::engine::report::LsEntry;
use crate::model::EntryKind;

/// Lists a folder of the drive with the state of each file.
///
/// Each file's state, size, and share of bytes that are here. States: `online` nothing of it is here, `hydrating` some of
/// it is, `cached` all of it is; of what was made or changed here: `local` stays on this machine, `dirty` is being
/// written, `queued` waits to be sent, `uploading` is being sent, `failed` could not be sent, `conflict` the site has
/// another one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A path of the drive such as demo/sq010, or one below its mount point.
    ///
    /// In a folder of the mounted drive, relative to that, as usual. Left out: that folder; elsewhere the drive's root.
    path: Option<OsString>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let path = paths::in_drive(args.path.as_deref().unwrap_or(OsStr::new(".")), loaded)?;
    let client = Client::new(&loaded.config)?;
    let mut query = LsQuery {
        path,
        cursor: 0,
        limit: None,
    };
    let mut all = Vec::new();
    loop {
        let page: LsPage = client.get("ls", &query).await?;
        if args.json {
            all.extend(page.entries);
        } else {
            page.entries.iter().for_each(show);
        }
        let Some(next) = page.next else { break };
        query.cursor = next;
    }
    if args.json {
        text::json(&all)?;
    }
    Ok(Exit::Ok)
}

fn show(e: &LsEntry) {
    let name = text::printable(&e.name);
    let slash = if e.kind == EntryKind::Dir { "/" } else { "" };
    let Some(state) = e.state else {
        outln!("{:<10} {:>10} {:>5} {name}{slash}", "", "", "");
        return;
    };
    let share = match (e.cached_bytes.unwrap_or(0), e.size) {
        (_, 0) => 100,
        (cached, size) => cached.saturating_mul(100) / size,
    };
    outln!(
        "{:<10} {:>10} {share:>4}% {name}",
        state.to_string(),
        text::bytes(e.size)
    );
}
