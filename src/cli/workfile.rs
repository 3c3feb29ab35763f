//! `backlot workfile`.

use std::ffi::OsString;
use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{paths, text};
use crate::daemon::EndSignals;
use crate::engine::report::{FetchLastProgress, FetchLastRequest, FetchLastState, FetchedWorkfile};

/// Some folders of the site are listed for the answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Helps with the work files of tasks.
///
/// Where work files are, where they are published and what they are called is said by [workfiles] in the settings: AYON's
/// layout, unless that is changed. docs/workfiles.md describes it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Brings the last published work file of a task into its work folder, as the next version, with its resources.
    ///
    /// The new file's version is one higher than all that are published or there. Nothing is overwritten: a resource whose
    /// name is there stays as it is, and is told. The file's name appears once all of its bytes are there.
    FetchLast(FetchLast),
}

#[derive(Debug, clap::Args)]
struct FetchLast {
    /// The task's work folder, on the drive; it is made if it is not there.
    #[arg(value_name = "WORKDIR")]
    workdir: OsString,
    /// Only files with this extension, as in `nk`: that of the program that is to open it.
    #[arg(long, value_name = "EXT")]
    ext: Option<String>,
    /// Give up after so many seconds; then nothing half done stays.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let Verb::FetchLast(args) = args.verb;
    let request = FetchLastRequest {
        workdir: paths::in_drive(&args.workdir, loaded)?,
        ext: args.ext,
        timeout_ms: args.timeout.map(|seconds| seconds.saturating_mul(1000)),
    };
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let mut signals = EndSignals::new().map_err(|e| CliError::failed("listen for signals", &e))?;
    let begun: FetchLastState = client.post("workfiles/fetch-last", &request).await?;
    let ended = tokio::select! {
        ended = follow(&client, begun, args.json) => ended?,
        () = signals.recv() => return Err(CliError::new(Exit::Partial, "stopped waiting for the work file")
            .hint("the daemon goes on with it")),
    };
    if args.json {
        text::json(&ended)?;
    }
    match (ended.progress.fetched, ended.progress.error) {
        (Some(fetched), _) => {
            if !args.json {
                show(&fetched);
            }
            Ok(Exit::Ok)
        }
        (None, why) => {
            let why = why.unwrap_or_else(|| "it ended without a word".to_owned());
            Err(
                CliError::failed_because("fetch the last work file", text::printable(&why))
                    .hint("`backlot doctor` sees whether the site answers"),
            )
        }
    }
}

async fn follow(client: &Client, mut state: FetchLastState, json: bool) -> Result<FetchLastState, CliError> {
    let bar = text::bar(!json);
    while !state.progress.done {
        bar.set_length(state.progress.bytes);
        bar.set_position(state.progress.copied_bytes);
        bar.set_message(copied(&state.progress));
        tokio::time::sleep(ASK_EVERY).await;
        state = client.get(&format!("workfiles/fetches/{}", state.id), &()).await?;
    }
    bar.finish_and_clear();
    Ok(state)
}

fn copied(p: &FetchLastProgress) -> String {
    format!(
        "{} of {}, {} of {}",
        text::count(p.copied_files),
        text::counted_u64(p.files, "file"),
        text::bytes(p.copied_bytes),
        text::bytes(p.bytes)
    )
}

fn show(fetched: &FetchedWorkfile) {
    outln!("{}", text::printable(&fetched.workfile));
    outln!("  is a copy of {}", text::printable(&fetched.published));
    for version in &fetched.passed_over {
        outln!("  {} is newer and holds no such file", text::printable(version));
    }
    if fetched.resources > 0 {
        outln!("  {} came along", text::counted_u64(fetched.resources, "resource"));
    }
    for left in &fetched.left {
        outln!("  {} stays as it is: {}", text::printable(&left.path), left.why);
    }
    if fetched.offline {
        errln!("warning: the site can't be reached; there may be a newer version than is known here");
    }
}
