//! `backlot hydrate`.

use std::ffi::OsString;
use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::pin::PATIENCE;
use super::{paths, text};
use crate::api::types::{HydrateRequest, HydrationState};
use crate::daemon::EndSignals;
use crate::engine::report::HydrationProgress;

/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Makes files resident now, once: before a flight, or a render.
///
/// Returns when everything is here, with 0; with 4 if something could not be fetched. What is hydrated may be evicted again
/// when room is short; `backlot pin` keeps it. More than fits at once beside the pins is an error, and nothing is fetched.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Paths of the drive, or below its mount point, and patterns of such; a folder is everything below it.
    #[arg(required = true, value_name = "PATH|PATTERN")]
    paths: Vec<OsString>,
    /// Return at once; the daemon goes on with it.
    #[arg(long)]
    no_wait: bool,
    /// Only the beginnings and ends of media files, so that asking what they are costs nothing; kept apart, whatever happens
    /// to the rest.
    #[arg(long)]
    heads: bool,
    /// Print JSON when it has ended.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = HydrateRequest {
        paths: paths::all_in_drive(&args.paths, loaded)?,
        heads: args.heads,
    };
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let mut signals = EndSignals::new().map_err(|e| CliError::failed("listen for signals", &e))?;
    let begun: HydrationState = client.post("hydrations", &request).await?;
    let ended = if args.no_wait {
        begun
    } else {
        tokio::select! {
            ended = follow(&client, begun, args.json) => ended?,
            () = signals.recv() => return Err(CliError::new(Exit::Partial, "stopped waiting for the bytes")
                .hint("the daemon goes on with it")),
        }
    };
    if args.json {
        text::json(&ended)?;
    } else {
        show(&ended.progress);
    }
    Ok(if ended.progress.is_all_here() || args.no_wait {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

async fn follow(client: &Client, mut state: HydrationState, json: bool) -> Result<HydrationState, CliError> {
    let bar = text::bar(!json);
    while !state.progress.done {
        bar.set_length(state.progress.bytes);
        bar.set_position(state.progress.resident_bytes);
        bar.set_message(here(&state.progress));
        tokio::time::sleep(ASK_EVERY).await;
        state = client.get(&format!("hydrations/{}", state.id), &()).await?;
    }
    bar.finish_and_clear();
    Ok(state)
}

fn here(p: &HydrationProgress) -> String {
    format!(
        "{} of {} with {} of {} are here",
        text::count(p.resident_files),
        text::counted_u64(p.files, "file"),
        text::bytes(p.resident_bytes),
        text::bytes(p.bytes)
    )
}

fn show(p: &HydrationProgress) {
    outln!("{}", here(p));
    if p.failed > 0 {
        errln!("error: not fetched: {}", text::counted_u64(p.failed, "file"));
    }
    for failure in &p.failures {
        errln!(
            "  {}: {}",
            text::printable(&failure.path),
            text::printable(&failure.why)
        );
    }
    if let Some(error) = &p.error {
        errln!("error: it ended early: {}", text::printable(error));
    }
}
