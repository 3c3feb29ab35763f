//! `backlot sync`.

use backlot_config::Loaded;
use tokio::sync::watch;

use super::client::Client;
use super::error::{CliError, Exit};
use super::mount::start_error;
use super::text;
use crate::daemon::{Daemon, DaemonError, Mounting, Start};
use crate::engine::report::SyncReport;

/// Keeps sites in step, with no drive mounted: what a project has comes to every site of its `always-accessible-on`.
///
/// Runs until it is ended, prints a line that begins with `ready` once it works, and goes on where it stopped when it is
/// started again. Works as a systemd service of Type=notify. Needs settings, and a `drive.data-dir` of its own, on a machine
/// where nobody has to sit: one site streams to the other, and nothing of it stays here. A second service for the same site
/// waits until the first has ended. AYON_SITE_ID says which site the machine is, as for AYON's own service.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only this project, by the name of its section; may be given several times.
    #[arg(long = "project", value_name = "NAME")]
    projects: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Shows what the service is at, for each project and site.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: Args, loaded: Loaded) -> Result<Exit, CliError> {
    match args.verb {
        Some(Verb::Status { json }) => status(&loaded, json).await,
        None => serve(args.projects, loaded).await,
    }
}

async fn serve(projects: Vec<String>, loaded: Loaded) -> Result<Exit, CliError> {
    crate::telemetry::init(&loaded.config.log);
    let shown = super::config::rows(&loaded);
    let daemon = Daemon::start(Start {
        config: loaded.config,
        providers: None,
        mount: false,
        sync: Some(projects),
        shown,
        mounting: Mounting::default(),
    })
    .await
    .map_err(|e| match e {
        DaemonError::Sync(_) => start_error("keep sites in step", &e).hint(
            "give a project `always-accessible-on = [\"SITE\"]` in its section; `backlot site ls` shows the sites",
        ),
        e => start_error("start the service", &e),
    })?;
    for lane in daemon.drive().sync_report() {
        outln!("ready: {} at {} (pid {})", lane.project, lane.site, std::process::id());
    }
    // Without systemd there is nobody to tell.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    let (_never, stop) = watch::channel(false);
    daemon
        .run(stop)
        .await
        .map_err(|e| start_error("keep sites in step", &e))?;
    Ok(Exit::Ok)
}

async fn status(loaded: &Loaded, json: bool) -> Result<Exit, CliError> {
    let client = Client::new(&loaded.config)?;
    let lanes: Vec<SyncReport> = client.get("sync", &()).await?;
    if json {
        text::json(&lanes)?;
        return Ok(Exit::Ok);
    }
    if lanes.is_empty() {
        outln!("this daemon keeps no sites in step; `backlot sync` does");
    }
    for lane in &lanes {
        let reason = lane
            .reason
            .as_deref()
            .map(|reason| format!(": {}", text::printable(reason)));
        outln!(
            "{} at {}: {}{}",
            lane.project,
            lane.site,
            lane.state,
            reason.unwrap_or_default()
        );
        if let Some(at) = lane.checked_at_ms {
            outln!(
                "  looked at whole {}: {} of {} there",
                text::when(at),
                text::count(lane.there),
                text::counted_u64(lane.files, "file")
            );
        }
        if lane.failed_folders > 0 {
            outln!(
                "  {} could not be looked at",
                text::counted_u64(lane.failed_folders, "folder")
            );
        }
        if lane.foreign > 0 {
            outln!(
                "  {} not copied: there as something else, or with a name that can't be there; `backlot site state` says which",
                text::counted_u64(lane.foreign, "file")
            );
        }
    }
    Ok(Exit::Ok)
}
