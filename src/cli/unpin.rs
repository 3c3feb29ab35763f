//! `backlot unpin`.

use std::ffi::OsString;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::pin::PATIENCE;
use super::{paths, text};
use crate::api::types::UnpinRequest;
use crate::engine::report::PinReport;

/// Takes pins off: what no other pin covers may be evicted again.
///
/// Nothing is removed by that; `backlot evict` gives the space back at once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Numbers of pins as `backlot pin ls` shows them, or the paths or patterns that were pinned.
    #[arg(required = true, value_name = "PATH|PATTERN|NUMBER")]
    what: Vec<OsString>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let number = |what: &OsString| {
        what.to_str()
            .filter(|text| text.parse::<u64>().is_ok())
            .map(str::to_owned)
    };
    let what = args.what.iter().map(|what| match number(what) {
        Some(number) => Ok(number),
        None => paths::in_drive(what, loaded),
    });
    let request = UnpinRequest {
        what: what.collect::<Result<_, _>>()?,
    };
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    let gone: Vec<PinReport> = client.post("pins/remove", &request).await?;
    if args.json {
        text::json(&gone)?;
    } else {
        for pin in &gone {
            outln!("unpinned {}", text::printable(&pin.what));
        }
    }
    Ok(Exit::Ok)
}
