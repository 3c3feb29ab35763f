//! `backlot unmount`.

use std::path::PathBuf;

use backlot_config::Loaded;
use backlot_platform::fuse::{self, Unmount};

use super::client::Client;
use super::error::{CliError, Exit};
use crate::api::types::{Holder, StopOutcome, UnmountRequest};

/// Unmounts the drive and ends its daemon; says who still uses it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Detach the drive at once although it is in use; programs that hold files of it get errors.
    #[arg(long)]
    lazy: bool,
    /// The mount point, when it is not the one of the settings (a mount whose daemon is gone).
    mount_point: Option<PathBuf>,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let ours = &loaded.config.drive.mount_point;
    let asked = args.mount_point.as_ref().unwrap_or(ours);
    let client = Client::new(&loaded.config)?;
    if asked == ours && client.is_running().await {
        let outcome = client.post("unmount", &UnmountRequest { lazy: args.lazy }).await?;
        return match outcome {
            StopOutcome::Stopped => {
                println!("unmounted {}", asked.display());
                Ok(Exit::Ok)
            }
            StopOutcome::Busy { holders } => Err(busy(&holders)),
            StopOutcome::Failed { reason } => {
                Err(CliError::new(Exit::Failed, format!("could not unmount {}: {reason}", asked.display())))
            }
        };
    }
    let how = if args.lazy { Unmount::Lazy } else { Unmount::Normal };
    match fuse::unmount_path(asked, how) {
        Ok(()) => {
            println!("unmounted {} (its daemon was not running)", asked.display());
            Ok(Exit::Ok)
        }
        Err(e) if e.is_busy() => Err(busy(&crate::daemon::holders(&e))),
        Err(e) => Err(CliError::failed(&format!("unmount {}", asked.display()), &e).hint(e.hint())),
    }
}

fn busy(holders: &[Holder]) -> CliError {
    let who: Vec<_> = holders.iter().map(|h| format!("\n  {} (pid {}): {}", h.command, h.pid, h.what)).collect();
    CliError::new(Exit::Failed, format!("the drive is in use:{}", who.concat()))
        .hint("close those, or run `backlot unmount --lazy`")
}
