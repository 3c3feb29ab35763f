//! `backlot recover`.
//!
//! Needs neither the daemon nor the database: the folder `local/` of the data folder is all it reads.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use backlot_platform::fuse::{MountHealth, mount_health};
use serde::Serialize;

use super::error::{CliError, Exit};
use super::{Settings, text};
use crate::engine::objects;
use crate::engine::rescue::{self, Found};
use crate::state::StateStore;

/// Failures that are named.
const NAMED: usize = 20;

/// Writes out what was made on this machine and kept here as a plain folder tree: the way back when the database is gone.
///
/// Needs neither the daemon nor the database, and changes nothing in the data folder. Each file gets the path that it had
/// in the drive; where two had the same one, the older gets `.1` behind its name, and so on; what bears no path goes to
/// DIR/unnamed. Nothing that is in DIR is overwritten.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder to write to; it is made if it is missing. An empty one is best.
    dir: PathBuf,
    /// The data folder to read; that of the settings if left out.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Also write out what the database says is needed no more: what was deleted, and copies of what is at its site.
    #[arg(long)]
    all: bool,
    /// Print JSON when it has ended.
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Where it was written.
    dir: PathBuf,
    /// Files written.
    files: u64,
    /// Their bytes.
    bytes: u64,
    /// Those of them that bear no path.
    unnamed: u64,
    /// Objects that the database says nobody needs: not written.
    needless: usize,
    /// Whether the database could be asked for those.
    database: bool,
    /// What could not be written.
    failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Failed {
    /// The object's file.
    object: PathBuf,
    /// The path that it bears.
    path: Option<String>,
    /// Why.
    why: String,
}

pub(super) fn run(args: &Args, settings: &Settings) -> Result<Exit, CliError> {
    let (data_dir, mount_point) = match &args.data_dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let drive = settings
                .load()
                .map_err(|e| e.hint("`--data-dir DIR` does without settings"))?
                .config
                .drive;
            (drive.data_dir, Some(drive.mount_point))
        }
    };
    let local = data_dir.join(objects::DIR);
    let unreadable = |e: &std::io::Error| {
        CliError::failed(&format!("read {}", local.display()), e)
            .hint("is that the data folder? `backlot config show` tells drive.data-dir; --data-dir gives another")
    };
    let mut found = rescue::find(&data_dir).map_err(|e| unreadable(&e))?;
    let dir = target(&args.dir, &data_dir, mount_point.as_deref())?;
    let mut report = Report {
        dir,
        ..Report::default()
    };
    if !args.all {
        match trash(&data_dir) {
            Ok(trash) => {
                report.database = true;
                report.needless = rescue::leave_out(&mut found, &trash);
            }
            Err(why) => {
                if !args.json {
                    errln!(
                        "note: the database can't be asked what is needed no more, so that everything is written ({why})"
                    );
                }
            }
        }
    }
    for object in &found {
        write(object, &mut report);
    }
    say(&report, args.json)?;
    Ok(match (report.failed.is_empty(), report.files) {
        (true, _) => Exit::Ok,
        (false, 0) => Exit::Failed,
        (false, _) => Exit::Partial,
    })
}

/// Returns the folder to write to, made; refuses one that would be written into what is being read.
fn target(given: &Path, data_dir: &Path, mount_point: Option<&Path>) -> Result<PathBuf, CliError> {
    let refused = |why: String| {
        CliError::usage(format!("{} can't be written to: {why}", given.display()))
            .hint("name a folder on another disk, or anywhere else that has room")
    };
    let absolute = std::path::absolute(given).map_err(|e| CliError::failed("make sense of the folder", &e))?;
    // Before it is looked at: below a drive that may hang.
    let in_drive = |path: &Path| {
        let is_ours = |dir: &Path| {
            mount_point.is_some_and(|mount| mount == dir)
                || matches!(mount_health(dir), MountHealth::Ours { .. } | MountHealth::Dead)
        };
        path.ancestors().any(is_ours)
    };
    if in_drive(&absolute) {
        return Err(refused("it is in a drive".to_owned()));
    }
    // Links on the way to what is there already are followed; the rest is made.
    let there = absolute.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let rest = absolute.strip_prefix(there).unwrap_or(Path::new(""));
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let real = canonical(there).join(rest);
    if in_drive(&real) {
        return Err(refused("it is in a drive".to_owned()));
    }
    if real.starts_with(canonical(data_dir)) || absolute.starts_with(data_dir) {
        return Err(refused(format!("it is in the data folder {}", data_dir.display())));
    }
    fs::create_dir_all(&real).map_err(|e| CliError::failed(&format!("make {}", given.display()), &e))?;
    Ok(real)
}

/// Returns the objects that the database says nobody needs.
fn trash(data_dir: &Path) -> Result<HashSet<u64>, String> {
    let store = StateStore::open_read_only(data_dir).map_err(|e| e.to_string())?;
    let trash = store.read(|txn| txn.trash()).map_err(|e| e.to_string())?;
    Ok(trash.into_iter().collect())
}

fn write(object: &Found, report: &mut Report) {
    match rescue::write_out(object, &report.dir) {
        Ok(written) => {
            report.files += 1;
            report.bytes += written.size;
            report.unnamed += u64::from(written.unnamed);
        }
        // A daemon that runs has sent it meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !object.file.exists() => {}
        Err(e) => report.failed.push(Failed {
            object: object.file.clone(),
            path: object.path.as_ref().map(ToString::to_string),
            why: e.to_string(),
        }),
    }
}

fn say(report: &Report, json: bool) -> Result<(), CliError> {
    if json {
        return text::json(report);
    }
    for failed in report.failed.iter().take(NAMED) {
        let path = failed.path.as_deref().map(text::printable).unwrap_or_default();
        errln!("not written: {} {path}: {}", failed.object.display(), failed.why);
    }
    if report.failed.len() > NAMED {
        errln!("  and {} more", text::counted(report.failed.len() - NAMED, "file"));
    }
    outln!(
        "{} with {} written to {}",
        text::counted_u64(report.files, "file"),
        text::bytes(report.bytes),
        report.dir.display()
    );
    if report.unnamed > 0 {
        outln!(
            "  {} of them bear no path that can be used: see {}",
            text::count(report.unnamed),
            report.dir.join(rescue::UNNAMED).display()
        );
    }
    if report.needless > 0 {
        outln!(
            "  {} left out that the database says nobody needs (--all writes those too)",
            text::counted(report.needless, "file")
        );
    }
    Ok(())
}
