//! `backlot path`.
//!
//! Like `config` it asks the settings alone: no daemon has to run.

use std::collections::BTreeMap;
use std::ffi::OsString;

use backlot_config::Loaded;
use clap::ValueEnum;
use serde::Serialize;

use super::error::{CliError, Exit};
use super::{paths, text};
use crate::model::RelPath;
use crate::model::volumes::{InVolume, Spelling, locate_in_drive};

/// Translates a path from any system's spelling into all of them.
///
/// The settings' [volumes.NAME] say what the studio's storage is called on each system. Nothing is looked at: a path need
/// not exist.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A path as Linux, macOS or Windows spell it (`S:\demo\sq010`, `\\server\storage\demo`), one of the drive such as
    /// demo/sq010, or one below its mount point.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Print this spelling alone, one path a line.
    #[arg(long, value_name = "SPELLING")]
    os: Option<Os>,
    /// As seen from this site: where its machines have a volume elsewhere.
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Print JSON.
    #[arg(long, conflicts_with = "os")]
    json: bool,
}

/// What `--os` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Os {
    /// As Linux has it.
    Linux,
    /// As Macs have it.
    Macos,
    /// As Windows has it, with a drive letter.
    Windows,
    /// As Windows has it, with a server.
    Unc,
    /// Below the mount point of the drive.
    Drive,
    /// As this machine has the volume: `here` of the settings, or BACKLOT_<NAME>_PATH.
    Here,
}

/// A path in all spellings.
#[derive(Debug, Serialize)]
struct Translated {
    given: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<String>,
    /// Below the volume's root.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Below the drive's root.
    in_drive: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    drive: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<String>,
    #[serde(flatten)]
    spelt: BTreeMap<Spelling, String>,
    /// What machines of sites have elsewhere.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sites: BTreeMap<String, BTreeMap<Spelling, String>>,
    /// Why a spelling is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

pub(super) fn run(args: &Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let volumes = paths::volumes(loaded)?;
    let site = args.site.as_deref();
    if let Some(site) = site
        && !loaded.config.sites.contains_key(site)
        && !volumes.iter().any(|v| v.sites.contains_key(site))
    {
        return Err(CliError::usage(format!("there is no site {site} in the settings")));
    }
    let mut all = Vec::new();
    for given in &args.paths {
        let meant = paths::meant(given, loaded, &volumes, site)?;
        let found = match meant.volume {
            Some(found) => Some(found),
            None => locate_in_drive(&volumes, &meant.in_drive),
        };
        let given = given.to_string_lossy().into_owned();
        all.push(translate(given, &meant.in_drive, found.as_ref(), loaded, site));
    }
    match args.os {
        Some(os) => all.iter().try_for_each(|t| only(t, os))?,
        None if args.json => text::json(&all)?,
        None => all.iter().for_each(show),
    }
    Ok(Exit::Ok)
}

fn translate(
    given: String,
    in_drive: &RelPath,
    found: Option<&InVolume<'_>>,
    loaded: &Loaded,
    site: Option<&str>,
) -> Translated {
    let config = &loaded.config;
    let top = in_drive.components().next();
    let of_project = |(_, p): &(&String, &backlot_config::Project)| Some(p.folder.as_bytes()) == top;
    let mut out = Translated {
        given,
        volume: found.map(|f| f.volume.code.clone()),
        path: found.map(|f| f.path.to_string()),
        in_drive: in_drive.to_string(),
        project: config.projects.iter().find(of_project).map(|(name, _)| name.clone()),
        drive: config
            .drive
            .mount_point
            .join(in_drive.as_os_str())
            .display()
            .to_string(),
        here: None,
        spelt: BTreeMap::new(),
        sites: BTreeMap::new(),
        problems: Vec::new(),
    };
    let Some(found) = found else {
        out.problems
            .push("it is in none of the volumes of the settings, so only the drive has it".to_owned());
        return out;
    };
    let mut write = |root: &crate::model::volumes::Root| match root.write(&found.path) {
        Ok(text) => Some(text),
        Err(why) => {
            if !out.problems.contains(&why) {
                out.problems.push(why);
            }
            None
        }
    };
    out.here = found.volume.here.as_ref().and_then(&mut write);
    for spelling in Spelling::ALL {
        if let Some(text) = found.volume.root(spelling, site).and_then(&mut write) {
            out.spelt.insert(spelling, text);
        }
    }
    for (name, roots) in found.volume.sites.iter().filter(|_| site.is_none()) {
        let spelt: BTreeMap<_, _> = roots.iter().filter_map(|(s, root)| Some((*s, write(root)?))).collect();
        if !spelt.is_empty() {
            out.sites.insert(name.clone(), spelt);
        }
    }
    out
}

fn only(t: &Translated, os: Os) -> Result<(), CliError> {
    let (text, key) = match os {
        Os::Linux => (t.spelt.get(&Spelling::Linux), "linux"),
        Os::Macos => (t.spelt.get(&Spelling::Macos), "macos"),
        Os::Windows => (t.spelt.get(&Spelling::Windows), "windows"),
        Os::Unc => (t.spelt.get(&Spelling::Unc), "unc"),
        Os::Drive => (Some(&t.drive), "drive"),
        Os::Here => (t.here.as_ref(), "here"),
    };
    let Some(text) = text else {
        let mut error = CliError::failed_because(
            format_args!("spell {} as {key}", text::printable(&t.given)),
            match &t.volume {
                Some(volume) if t.problems.is_empty() => format!("volume {volume} has no `{key}` in the settings"),
                _ => t.problems.join("; "),
            },
        );
        if let Some(volume) = &t.volume {
            error = error.hint(format!("`backlot config show` lists what [volumes.{volume}] says"));
        }
        return Err(error);
    };
    // For programs: what is one line in is one line out, whatever is in it.
    outln!("{text}");
    Ok(())
}

fn show(t: &Translated) {
    let line = |key: &str, text: &str| outln!("{key:<16} {}", text::printable(text));
    if let (Some(volume), Some(path)) = (&t.volume, &t.path) {
        line("volume", volume);
        line("path", if path.is_empty() { "(its root)" } else { path });
    }
    if let Some(project) = &t.project {
        line("project", project);
    }
    line("drive", &t.drive);
    if let Some(here) = &t.here {
        line("here", here);
    }
    for (spelling, text) in &t.spelt {
        line(&spelling.to_string(), text);
    }
    for (site, spelt) in &t.sites {
        for (spelling, text) in spelt {
            line(&format!("{spelling} at {site}"), text);
        }
    }
    for problem in &t.problems {
        line("note", problem);
    }
}
