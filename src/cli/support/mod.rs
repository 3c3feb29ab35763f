//! `backlot support-bundle`: one file with everything that whoever helps wants to know, and nothing that is nobody's business.
//!
//! Owns: the file. Refuses to know: what is in its parts (`collect`), what a secret looks like (`redact`), what a path looks
//! like (`pseudonyms`). Invariants: no byte of a file of the drive is in it; every part goes through the redaction; it is
//! written within seconds, whatever hangs.

mod collect;
mod pseudonyms;
mod redact;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::error::{CliError, Exit};
use super::{Settings, text};
use collect::Part;
use pseudonyms::Pseudonyms;
use redact::Redactor;

/// The folder that everything in the archive lies in.
const FOLDER: &str = "backlot-support";

const ABOUT: &str = "\
What `backlot support-bundle` gathered on this machine: versions, the settings in force, what the daemon says of itself, what
`backlot doctor` finds, queues, the last lines of the log, mounts, kernel.

Nothing of any file's content is in it. Settings hold references to secrets, never secrets; what looks like a secret all the
same was replaced by [redacted].
";

/// Writes one file for whoever helps: versions, settings without secrets, status, doctor, queue, log, mounts, kernel.
///
/// Works with the daemon gone or hanging, and says so inside. Nothing of any file's content is in it. Look it through before
/// you send it: `tar -xzOf FILE | less`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write it, not on the drive; `backlot-support-TIME.tar.gz` in this folder if left out.
    file: Option<PathBuf>,
    /// Put other words in place of the names of files, folders and projects; the same name gets the same word.
    #[arg(long)]
    no_paths: bool,
    /// Print JSON when it is written.
    #[arg(long)]
    json: bool,
}

/// `support-bundle --json`: what was written.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    bytes: u64,
    /// The names of its parts.
    parts: Vec<String>,
    /// What could not be had, and why.
    lacks: Vec<String>,
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<Exit, CliError> {
    let loaded = settings.load();
    let file = target(
        args.file,
        loaded.as_ref().ok().map(|l| l.config.drive.mount_point.as_path()),
    )?;
    let redactor = Redactor::new(loaded.as_ref().ok());
    let pseudonyms = args.no_paths.then(|| Pseudonyms::new(loaded.as_ref().ok()));
    let (parts, lacks) = collect::all(settings, &loaded).await;
    let mut parts: Vec<(String, String)> = parts
        .into_iter()
        .map(|part| (part.name.to_owned(), shown(part, &redactor, pseudonyms.as_ref())))
        .collect();
    let lacks: Vec<String> = lacks
        .iter()
        .map(|lack| redactor.clean(&pseudonyms.as_ref().map_or_else(|| lack.clone(), |p| p.text(lack))))
        .collect();
    let mut about = ABOUT.to_owned();
    if args.no_paths {
        about += "\nNames of files, folders and projects were replaced by words that stand for them.\n";
    }
    if !lacks.is_empty() {
        about += &format!("\nWhat could not be had:\n- {}\n", lacks.join("\n- "));
    }
    parts.insert(0, ("README.txt".to_owned(), about));
    let bytes = write(&file, &parts).map_err(|e| {
        CliError::failed(&format!("write {}", file.display()), &e)
            .hint("name another file: `backlot support-bundle FILE`; one that is there is not replaced")
    })?;
    let report = Report {
        file,
        bytes,
        parts: parts.into_iter().map(|(name, _)| name).collect(),
        lacks,
    };
    if args.json {
        text::json(&report)?;
        return Ok(Exit::Ok);
    }
    outln!("wrote {} ({})", report.file.display(), text::bytes(report.bytes));
    for lack in &report.lacks {
        outln!("  without {}", text::printable(lack));
    }
    outln!(
        "look it through before you send it: tar -xzOf '{}' | less",
        report.file.display()
    );
    Ok(Exit::Ok)
}

/// A part as it goes into the file.
fn shown(part: Part, redactor: &Redactor, pseudonyms: Option<&Pseudonyms>) -> String {
    let text = match (part.content, pseudonyms) {
        (collect::Content::Json(mut value), pseudonyms) => {
            if let Some(pseudonyms) = pseudonyms {
                pseudonyms.json(&mut value);
            }
            serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
        }
        (collect::Content::Text(text), Some(pseudonyms)) => {
            text.lines().map(|line| pseudonyms.text(line) + "\n").collect()
        }
        (collect::Content::Fields(text), Some(pseudonyms)) => {
            text.lines().map(|line| pseudonyms.fields(line) + "\n").collect()
        }
        (collect::Content::Plain(text), _) | (collect::Content::Text(text) | collect::Content::Fields(text), None) => {
            text
        }
    };
    redactor.clean(&text)
}

/// Returns the file to write; refuses one on the drive, which may hang.
fn target(given: Option<PathBuf>, mount_point: Option<&Path>) -> Result<PathBuf, CliError> {
    let name = || {
        let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        PathBuf::from(format!("backlot-support-{now}.tar.gz"))
    };
    let file = std::path::absolute(given.unwrap_or_else(name))
        .map_err(|e| CliError::failed("make sense of the file's path", &e))?;
    if mount_point.is_some_and(|mount| file.starts_with(mount)) {
        return Err(CliError::usage(format!(
            "{} is on the drive, which may be what is wrong",
            file.display()
        ))
        .hint("name a file elsewhere: `backlot support-bundle /tmp/support.tar.gz`"));
    }
    Ok(file)
}

/// Writes the archive, for its owner alone; returns its size.
fn write(file: &Path, parts: &[(String, String)]) -> std::io::Result<u64> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let now = jiff::Timestamp::now().as_second();
    for (name, text) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now).unwrap_or(0));
        archive.append_data(&mut header, format!("{FOLDER}/{name}"), text.as_bytes())?;
    }
    let bytes = archive.into_inner()?.finish()?;
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_written_to_the_drive() {
        let mount = Path::new("/mnt/projects");
        assert!(target(Some("/mnt/projects/demo/x.tar.gz".into()), Some(mount)).is_err());
        let file = target(Some("/mnt/projects.tar.gz".into()), Some(mount)).expect("beside it");
        assert_eq!(file, Path::new("/mnt/projects.tar.gz"));
    }
}
