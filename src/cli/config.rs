//! `backlot config`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use backlot_config::Loaded;
use clap::Subcommand;
use serde::Serialize;

use super::Settings;
use super::error::{CliError, Exit};
use super::text;
use crate::api::types::SettingRow;

/// Shows, checks or begins the settings.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Checks the settings and says what is wrong with them, with file, line and column.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
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
        /// For a drive of the whole machine, as of fstab or a service: what is kept lies in /var, and all users may enter.
        #[arg(long)]
        system: bool,
        /// Print JSON when it is written.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &Args, settings: &Settings) -> Result<Exit, CliError> {
    match &args.what {
        What::Check { json } => check(settings, *json),
        What::Show { origin, json } => show(settings, *origin, *json),
        What::Init {
            file,
            force,
            system,
            json,
        } => {
            let sample = if *system {
                backlot_config::system_sample()
            } else {
                backlot_config::sample().to_owned()
            };
            init(settings, file.as_deref(), &sample, *force, *json)
        }
    }
}

/// `config check --json`: the settings are valid.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    files: &'a [PathBuf],
    sites: usize,
    projects: usize,
}

/// `config init --json`: the file is written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    file: &'a Path,
}

fn check(settings: &Settings, json: bool) -> Result<Exit, CliError> {
    let loaded = settings.load()?;
    super::paths::volumes(&loaded)?;
    super::mount::check_accounts(&loaded)?;
    let (sites, projects) = (loaded.config.sites.len(), loaded.config.projects.len());
    crate::notify::Notifier::new(&loaded.config).map_err(|e| {
        CliError::usage("nobody could be told what becomes of jobs")
            .because(&e)
            .hint("correct that: [notify] and [receivers.NAME], docs/notifications.md")
    })?;
    if json {
        text::json(&Checked {
            files: &loaded.files,
            sites,
            projects,
        })?;
        return Ok(Exit::Ok);
    }
    for file in &loaded.files {
        outln!("read {}", file.display());
    }
    outln!(
        "the settings are valid: {}, {}",
        text::counted(sites, "site"),
        text::counted(projects, "project")
    );
    if loaded.files.is_empty() {
        outln!(
            "there is no settings file ({}); `backlot config init` writes one",
            settings.looked_at()?
        );
    } else if projects == 0 {
        outln!("they name no project yet: add a section [projects.NAME]");
    } else {
        outln!("next: `backlot doctor` sees whether the sites answer, `backlot mount` mounts the drive");
    }
    Ok(Exit::Ok)
}

fn show(settings: &Settings, origin: bool, json: bool) -> Result<Exit, CliError> {
    let loaded = settings.load()?;
    let rows = rows(&loaded);
    if json {
        text::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let width = rows.iter().map(|r| r.key.len()).max().unwrap_or(0);
    for r in rows {
        if origin {
            outln!("{:<width$} = {}  # {}", r.key, r.value, r.origin);
        } else {
            outln!("{:<width$} = {}", r.key, r.value);
        }
    }
    Ok(Exit::Ok)
}

/// Returns the settings in force and where each comes from.
pub(super) fn rows(loaded: &Loaded) -> Vec<SettingRow> {
    let row = |row: backlot_config::Row| SettingRow {
        key: row.key,
        value: row.value,
        origin: row.origin.to_string(),
    };
    backlot_config::render_origin(loaded).into_iter().map(row).collect()
}

fn init(settings: &Settings, file: Option<&Path>, sample: &str, force: bool, json: bool) -> Result<Exit, CliError> {
    if file.is_some_and(|f| f.as_os_str() == "-") {
        out!("{sample}");
        return Ok(Exit::Ok);
    }
    let (file, named) = match file.or(settings.config.as_deref()) {
        Some(file) => (file.to_owned(), true),
        None => {
            let file = settings.loader(Vec::new())?.user_file();
            let none = || CliError::usage("there is no home folder to write settings to").hint("name a file");
            (file.ok_or_else(none)?, false)
        }
    };
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(|e| CliError::failed(&format!("make {}", dir.display()), &e))?;
    }
    let mut open = std::fs::OpenOptions::new();
    open.write(true);
    if force {
        open.create(true).truncate(true)
    } else {
        open.create_new(true)
    };
    let write = |mut f: std::fs::File| f.write_all(sample.as_bytes());
    open.open(&file).and_then(write).map_err(|e| {
        let failed = CliError::failed(&format!("write {}", file.display()), &e);
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            failed.hint("edit that one, or replace it with --force")
        } else {
            failed.hint("name another file: `backlot config init FILE`")
        }
    })?;
    if json {
        text::json(&Written { file: &file })?;
        return Ok(Exit::Ok);
    }
    let with = if named {
        format!(" --config {}", file.display())
    } else {
        String::new()
    };
    outln!("wrote {}", file.display());
    outln!("next: edit its two lines marked EDIT, make the folder of mount-point, then run");
    outln!("  backlot{with} config check");
    outln!("  backlot{with} doctor");
    outln!("  backlot{with} mount");
    Ok(Exit::Ok)
}
