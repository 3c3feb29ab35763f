//! `backlot scan`.

use std::ffi::OsString;
use std::time::Duration;

use backlot_config::{Loaded, Log, LogLevel};

use super::client::Client;
use super::error::{CliError, Exit};
use super::mount::start_error;
use super::{paths, text};
use crate::api::types::{ScanRequest, ScanState};
use crate::daemon::{Daemon, EndSignals, Mounting, Start};

/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(150);

/// Looks at the whole of a project at its site, or at a folder of it, and takes over what changed.
///
/// Works with the drive mounted or not. Interrupted, it goes on where it stopped when run again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// PROJECT or PROJECT/PATH, or a path below the mount point; all projects if left out.
    #[arg(value_name = "PROJECT[/PATH]")]
    path: Option<OsString>,
    /// Print JSON when it has ended.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let path = args
        .path
        .as_deref()
        .map_or_else(|| Ok(String::new()), |path| paths::in_drive(path, loaded))?;
    known_project(&path, loaded)?;
    let client = Client::new(&loaded.config)?;
    let mut signals = EndSignals::new().map_err(|e| CliError::failed("listen for signals", &e))?;
    if client.is_running().await {
        return tokio::select! {
            done = follow(&client, &path, args.json) => done,
            () = signals.recv() => Err(CliError::new(Exit::Partial, "stopped waiting for the scan")
                .hint("the daemon goes on with it; `backlot status` shows how far it is")),
        };
    }
    // Nobody owns the drive now, so this process does for as long as the scan takes. What went wrong is said below: the
    // log would only say it again.
    crate::telemetry::init(&Log {
        level: LogLevel::Error,
        ..loaded.config.log.clone()
    });
    let start = Start {
        config: loaded.config.clone(),
        providers: None,
        mount: false,
        sync: None,
        shown: Vec::new(),
        mounting: Mounting::default(),
    };
    let daemon = Daemon::start(start)
        .await
        .map_err(|e| start_error("open the drive", &e))?;
    let done = tokio::select! {
        done = follow(&client, &path, args.json) => done,
        () = signals.recv() => {
            Err(CliError::new(Exit::Partial, "interrupted").hint("run it again; it goes on where it stopped"))
        }
    };
    daemon.stop().await;
    done
}

/// Says which projects there are, where a path names none of them.
fn known_project(path: &str, loaded: &Loaded) -> Result<(), CliError> {
    let (first, _) = path.split_once('/').unwrap_or((path, ""));
    let folders: Vec<_> = loaded.config.projects.values().map(|p| p.folder.as_str()).collect();
    if first.is_empty() || folders.contains(&first) {
        return Ok(());
    }
    Err(
        CliError::usage(format!("there is no project {}", text::printable(first)))
            .hint(format!("the projects of these settings: {}", folders.join(", "))),
    )
}

async fn follow(client: &Client, path: &str, json: bool) -> Result<Exit, CliError> {
    let mut scans: Vec<ScanState> = client.post("scans", &ScanRequest { path: path.to_owned() }).await?;
    let bar = text::spinner(!json);
    while scans.iter().any(|s| !s.progress.done) {
        let (mut folders, mut entries, mut waiting) = (0, 0, 0);
        for s in &scans {
            folders += s.progress.folders + s.progress.resumed_folders;
            entries += s.progress.entries;
            waiting += s.progress.waiting;
        }
        bar.set_message(format!(
            "{} folders, {} entries, {} folders known to wait",
            text::count(folders),
            text::count(entries),
            text::count(waiting)
        ));
        tokio::time::sleep(ASK_EVERY).await;
        for s in scans.iter_mut().filter(|s| !s.progress.done) {
            *s = client.get(&format!("scans/{}", s.id), &()).await?;
        }
    }
    bar.finish_and_clear();
    if json {
        text::json(&scans)?;
    } else {
        scans.iter().for_each(show);
    }
    Ok(if scans.iter().any(|s| s.progress.error.is_some()) {
        Exit::Failed
    } else if scans.iter().any(|s| s.progress.failed > 0) {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

fn show(s: &ScanState) {
    let p = &s.progress;
    outln!(
        "{}: {} folders, {} entries, {} changed",
        text::printable(&p.path),
        text::count(p.folders + p.resumed_folders),
        text::count(p.entries),
        text::count(p.changed)
    );
    if p.resumed_folders > 0 {
        outln!(
            "  {} folders had been listed before the interruption",
            text::count(p.resumed_folders)
        );
    }
    for failure in &p.failures {
        errln!("  not listed: {}", text::printable(failure));
    }
    if let Some(error) = &p.error {
        let what = format!("scan {} to its end", p.path);
        err!(
            "{}",
            CliError::failed_because(what, error.as_str())
                .hint("run it again once that is settled, it goes on from there; `backlot doctor` looks into sites")
                .shown()
        );
    }
}
