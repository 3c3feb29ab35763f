//! `backlot scan`.

use std::io::IsTerminal;
use std::time::Duration;

use backlot_config::Loaded;
use indicatif::{ProgressBar, ProgressStyle};

use super::client::Client;
use super::error::{CliError, Exit};
use super::{ls, text};
use crate::api::types::{ScanRequest, ScanState};
use crate::daemon::{Daemon, Start};

/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(150);

/// Looks at the whole of a project at its site, or at a folder of it, and takes over what changed.
///
/// Works with the drive mounted or not. Interrupted, it goes on where it stopped when run again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// PROJECT or PROJECT/PATH; all projects if left out.
    #[arg(default_value = "", value_name = "PROJECT[/PATH]")]
    path: String,
    /// Print JSON when it has ended.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::new(&loaded.config)?;
    if client.is_running().await {
        return follow(&args, &client, loaded).await;
    }
    // Nobody owns the drive now, so this process does for as long as the scan takes.
    crate::telemetry::init(&loaded.config.log);
    let start = Start { config: loaded.config.clone(), providers: None, mount: false };
    let daemon = Daemon::start(start).await.map_err(|e| CliError::failed("open the drive", &e))?;
    let done = tokio::select! {
        done = follow(&args, &client, loaded) => done,
        _ = tokio::signal::ctrl_c() => {
            Err(CliError::new(Exit::Partial, "interrupted").hint("run it again; it goes on where it stopped"))
        }
    };
    daemon.stop().await;
    done
}

async fn follow(args: &Args, client: &Client, loaded: &Loaded) -> Result<Exit, CliError> {
    let request = ScanRequest { path: ls::drive_path(&args.path, loaded) };
    let mut scans: Vec<ScanState> = client.post("scans", &request).await?;
    if scans.is_empty() {
        return Err(CliError::usage("there is no project to scan").hint("add a [projects.NAME] section to the settings"));
    }
    let bar = if std::io::stderr().is_terminal() && !args.json { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
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
    if args.json {
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
    println!(
        "{}: {} folders, {} entries, {} changed",
        p.path,
        text::count(p.folders + p.resumed_folders),
        text::count(p.entries),
        text::count(p.changed)
    );
    if p.resumed_folders > 0 {
        println!("  {} folders had been listed before the interruption", text::count(p.resumed_folders));
    }
    for failure in &p.failures {
        eprintln!("  not listed: {failure}");
    }
    if let Some(error) = &p.error {
        eprintln!("error: {} was not scanned to its end\n  because {error}\n  run it again; it goes on from there", p.path);
    }
}
