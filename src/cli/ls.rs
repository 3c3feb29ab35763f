//! `backlot ls`.

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::text;
use crate::api::types::{LsPage, LsQuery};
use crate::engine::report::LsEntry;
use crate::model::EntryKind;

/// Lists a folder of the drive with the state of each file.
///
/// States: `online` nothing of it is here, `hydrating` some of it is, `cached` all of it is.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A path of the drive, relative to its mount point or below it; the drive's root if left out.
    #[arg(default_value = "")]
    path: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::new(&loaded.config)?;
    let mut query = LsQuery { path: drive_path(&args.path, loaded), after: 0, limit: None };
    let mut all = Vec::new();
    loop {
        let page: LsPage = client.get("ls", &query).await?;
        if args.json {
            all.extend(page.entries);
        } else {
            page.entries.iter().for_each(show);
        }
        let Some(next) = page.next else { break };
        query.after = next;
    }
    if args.json {
        text::json(&all)?;
    }
    Ok(Exit::Ok)
}

/// Takes the mount point off a path given as the file system shows it.
pub(super) fn drive_path(path: &str, loaded: &Loaded) -> String {
    let mount = loaded.config.drive.mount_point.to_string_lossy();
    match path.strip_prefix(&*mount) {
        Some(below) if below.is_empty() || below.starts_with('/') => below.trim_start_matches('/').to_owned(),
        _ => path.trim_start_matches("./").to_owned(),
    }
}

fn show(e: &LsEntry) {
    let slash = if e.kind == EntryKind::Dir { "/" } else { "" };
    let Some(state) = e.state else {
        println!("{:<10} {:>10} {:>5} {}{slash}", "", "", "", e.name);
        return;
    };
    let share = match (e.cached_bytes.unwrap_or(0), e.size) {
        (_, 0) => 100,
        (cached, size) => cached.saturating_mul(100) / size,
    };
    println!("{:<10} {:>10} {share:>4}% {}", state.to_string(), text::bytes(e.size), e.name);
}
