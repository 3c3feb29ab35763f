//! `backlot pin`.

use std::ffi::OsString;
use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::status::{pinned, pins_trouble};
use super::{paths, text};
use crate::engine::report::{PinReport, PinRequest, PinsReport};

/// All that is pinned is gone through to see whether it fits.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps files and folders resident, now and what appears there later.
///
/// A pin of a folder covers everything below it; a pattern every path that it matches, and everything below those. What is
/// lacking is fetched in the background, behind all that somebody waits for; pinned bytes are never evicted. If all pins
/// together do not fit into the cache, that is an error at once and nothing changes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Paths of the drive, or below its mount point, and patterns of such: `*` and `?` stay within a name, `**` spans
    /// folders.
    #[arg(required = true, value_name = "PATH|PATTERN")]
    paths: Vec<OsString>,
    /// The whole projects that the paths lie in, with all that comes later.
    #[arg(long)]
    for_project: bool,
    /// Why, for whoever looks at the list.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the pins and how far each is.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    if let Some(Verb::Ls { json }) = args.verb {
        return list(&client, json).await;
    }
    let request = PinRequest {
        paths: paths::all_in_drive(&args.paths, loaded)?,
        note: args.note,
        who: who(),
        for_project: args.for_project,
    };
    let set: Vec<PinReport> = client.post("pins", &request).await?;
    if args.json {
        text::json(&set)?;
    } else {
        for pin in &set {
            let id = pin.id.unwrap_or_default();
            outln!("pinned {} (pin {id})", text::printable(&pin.what));
        }
    }
    Ok(Exit::Ok)
}

/// Who runs this, by name where it is known.
fn who() -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

async fn list(client: &Client, json: bool) -> Result<Exit, CliError> {
    let pins: PinsReport = client.get("pins", &()).await?;
    if json {
        text::json(&pins)?;
        return Ok(Exit::Ok);
    }
    for pin in &pins.rules {
        show(pin);
    }
    match pins.rules.len() {
        0 => outln!("no pins"),
        _ => outln!("all together: {}", pinned(&pins.total)),
    }
    for line in pins_trouble(&pins.total) {
        outln!("  {line}");
    }
    Ok(Exit::Ok)
}

fn show(pin: &PinReport) {
    let id = pin.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    outln!(
        "{id:>4} {}: {} of {}, {} of {}",
        text::printable(&pin.what),
        text::count(pin.resident_files),
        text::counted_u64(pin.files, "file"),
        text::bytes(pin.resident_bytes),
        text::bytes(pin.bytes)
    );
    let note = pin.note.as_deref().map(|note| format!(": {}", text::printable(note)));
    let note = note.unwrap_or_default();
    match (&pin.who, pin.at_ms) {
        (Some(who), Some(at)) => outln!("     by {}, {}{note}", text::printable(who), text::when(at)),
        _ => outln!("     of the settings"),
    }
}
