//! `backlot config`.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;

use super::Settings;
use super::error::{CliError, Exit};
use super::text;

/// Shows, checks or begins the settings.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Checks the settings and says what is wrong with them, with file, line and column.
    Check,
    /// Shows the settings in force. Secrets are shown as what they refer to.
    Show {
        /// Also show where each value comes from.
        #[arg(long)]
        origin: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes a commented settings file to start from.
    Init {
        /// Where to write it; the user's settings file if left out. `-` for standard output.
        file: Option<PathBuf>,
        /// Replace a file that is there.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(args: Args, settings: &Settings) -> Result<Exit, CliError> {
    match args.what {
        What::Check => {
            let loaded = settings.load()?;
            for file in &loaded.files {
                println!("read {}", file.display());
            }
            let (sites, projects) = (loaded.config.sites.len(), loaded.config.projects.len());
            println!("the settings are valid: {sites} sites, {projects} projects");
            Ok(Exit::Ok)
        }
        What::Show { origin, json } => show(settings, origin, json),
        What::Init { file, force } => init(settings, file, force),
    }
}

fn show(settings: &Settings, origin: bool, json: bool) -> Result<Exit, CliError> {
    let loaded = settings.load()?;
    let rows = backlot_config::render_origin(&loaded);
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| serde_json::json!({ "key": r.key, "value": r.value, "origin": r.origin.to_string() }))
            .collect();
        text::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let width = rows.iter().map(|r| r.key.len()).max().unwrap_or(0);
    for r in rows {
        if origin {
            println!("{:<width$} = {}  # {}", r.key, r.value, r.origin);
        } else {
            println!("{:<width$} = {}", r.key, r.value);
        }
    }
    Ok(Exit::Ok)
}

fn init(settings: &Settings, file: Option<PathBuf>, force: bool) -> Result<Exit, CliError> {
    if file.as_deref().is_some_and(|f| f.as_os_str() == "-") {
        print!("{}", backlot_config::sample());
        return Ok(Exit::Ok);
    }
    let file = match file.or_else(|| settings.config.clone()) {
        Some(file) => file,
        None => settings.loader(Vec::new())?.user_file()
            .ok_or_else(|| CliError::usage("there is no home folder to write settings to").hint("name a file"))?,
    };
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(|e| CliError::failed(&format!("make {}", dir.display()), &e))?;
    }
    let mut open = std::fs::OpenOptions::new();
    open.write(true);
    if force { open.create(true).truncate(true) } else { open.create_new(true) };
    let write = |mut f: std::fs::File| f.write_all(backlot_config::sample().as_bytes());
    open.open(&file).and_then(write).map_err(|e| {
        let failed = CliError::failed(&format!("write {}", file.display()), &e);
        if e.kind() == std::io::ErrorKind::AlreadyExists { failed.hint("--force replaces it") } else { failed }
    })?;
    println!("wrote {}", file.display());
    println!("next: edit the site and the mount point in it, then run `backlot config check` and `backlot mount`");
    Ok(Exit::Ok)
}
