//! What was fetched for which program, and who was held back: for `status`, `doctor` and `cache top`.
//!
//! Owns: the words, and what to do about a program that reads what nobody has asked for. Refuses to know: how programs are
//! told apart.

use std::path::Path;

use super::client::Client;
use super::doctor::{Finding, advised, bad, good};
use super::error::{CliError, Exit};
use super::text;
use crate::engine::report::{ProgramReport, ProgramsReport};

/// Programs that `status` shows.
const SHOWN: usize = 5;
/// Programs held back that `doctor` names, the worst first.
const TOLD: usize = 10;

/// `backlot cache top --by process`.
pub(super) async fn top(client: &Client, limit: usize, json: bool) -> Result<Exit, CliError> {
    let mut report: ProgramsReport = client.get("cache/programs", &()).await?;
    report.programs.truncate(limit);
    if json {
        text::json(&report)?;
        return Ok(Exit::Ok);
    }
    for program in &report.programs {
        outln!(
            "{:>12} {}",
            text::bytes(program.bytes),
            text::printable(&about(program))
        );
    }
    outln!(
        "{:>12} fetched since the daemon started, {} refused",
        text::bytes(report.fetched_bytes),
        text::counted_u64(report.refusals, "request")
    );
    Ok(Exit::Ok)
}

/// A program with what came for it, by cause, and what was refused to it.
fn about(p: &ProgramReport) -> String {
    let causes = [
        (p.demand_bytes, "read"),
        (p.readahead_bytes, "read ahead"),
        (p.sequence_bytes, "of files ahead"),
        (p.pin_bytes, "pinned"),
        (p.hydrate_bytes, "by `hydrate`"),
        (p.write_bytes, "of files written to"),
    ];
    let mut parts: Vec<String> = causes
        .iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, cause)| format!("{} {cause}", text::bytes(*bytes)))
        .collect();
    if p.refusals > 0 {
        parts.push(format!("{} refused", text::counted_u64(p.refusals, "request")));
    }
    parts.extend(standing(p));
    let at = p.exe.as_deref().map(|exe| format!(" {exe}")).unwrap_or_default();
    format!("{}{at} ({})", p.name, parts.join(", "))
}

fn standing(p: &ProgramReport) -> Option<String> {
    match (&p.listed, p.held_ms) {
        (Some(kind), _) => Some(kind.clone()),
        (None, Some(at)) => Some(format!("looks into many files, {}", text::when(at))),
        (None, None) => None,
    }
}

/// The section of `status`.
pub(super) fn show(report: &ProgramsReport) {
    outln!("programs");
    if !report.on {
        outln!("  none is held back: `enabled = false` in [firewall]");
    }
    for program in report.programs.iter().take(SHOWN).filter(|p| p.bytes > 0) {
        outln!(
            "  {} for {}",
            text::bytes(program.bytes),
            text::printable(&program.name)
        );
    }
    for program in refused(report).take(SHOWN) {
        outln!(
            "  {} refused to {} ({})",
            text::counted_u64(program.refusals, "request"),
            text::printable(&program.name),
            standing(program).unwrap_or_default()
        );
    }
    if report.fetched_bytes == 0 && report.refusals == 0 {
        outln!("  nothing was fetched yet, nor refused");
    }
}

fn refused(report: &ProgramsReport) -> impl Iterator<Item = &ProgramReport> {
    report.programs.iter().filter(|program| program.refusals > 0)
}

/// Who reads what nobody has asked for, and what to do about it.
pub(super) fn findings(report: &ProgramsReport, mount: &Path) -> Vec<Finding> {
    let what = "firewall";
    if !report.on {
        return vec![good(
            what,
            "off: thumbnailers and indexers may fetch whatever they read",
        )];
    }
    let found: Vec<Finding> = refused(report)
        .take(TOLD)
        .map(|p| {
            let such = p.refused_path.as_deref();
            let such = such.map(|path| format!(", such as {path}")).unwrap_or_default();
            let who = match p.last_pid {
                Some(pid) => format!("{} (pid {pid})", p.name),
                None => p.name.clone(),
            };
            let times = text::counted_u64(p.refusals, "request");
            match &p.listed {
                Some(kind) => advised(
                    what,
                    text::printable(&format!("{who}, {kind}: {times} for what is not here refused{such}")),
                    cure(p, mount),
                ),
                None => bad(
                    what,
                    text::printable(&format!(
                        "{who} looks into many files and has used up {} a minute: {times} refused{such}",
                        text::bytes(report.budget_bytes)
                    )),
                    format!(
                        "let it come to an end; if it is to read them, add \"{}\" to `allow` in [firewall], or raise `budget`",
                        p.name
                    ),
                ),
            }
        })
        .collect();
    if found.is_empty() {
        return vec![good(what, "nobody was held back")];
    }
    found
}

/// How a program is told to leave the drive alone.
fn cure(p: &ProgramReport, mount: &Path) -> String {
    let at = mount.display();
    let name = p.name.as_str();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    let how = match p.listed.as_deref() {
        Some("thumbnailer") => "switch previews of remote files off in the file manager".to_owned(),
        Some("indexer") if begins(&["tracker", "localsearch"]) => {
            format!(
                "`touch {at}/PROJECT/.trackerignore`: it stays on this machine, and the index leaves that folder out"
            )
        }
        Some("indexer") if begins(&["baloo"]) => format!("`balooctl config add excludeFolders {at}`"),
        Some("indexer") if begins(&["updatedb"]) => format!("add {at} to PRUNEPATHS in /etc/updatedb.conf"),
        Some("indexer") if begins(&["recoll"]) => format!("add {at} to skippedPaths in ~/.recoll/recoll.conf"),
        Some("indexer") => format!("leave {at} out of what it indexes"),
        Some("scanner") if begins(&["clam"]) => {
            format!("leave {at} out: `ExcludePath ^{at}` in clamd.conf, or `clamscan --exclude-dir={at}`")
        }
        Some("scanner") => format!("leave {at} out of what it scans; files are scanned at the site"),
        Some("backup") => format!(
            "leave {at} out of the backup, as with `--exclude={at}`; only what was made here is lost with this machine"
        ),
        Some(_) | None => format!("leave {at} out of what it reads"),
    };
    let name = name.split(" (").next().unwrap_or(name);
    format!("{how}; if it is to read the drive, add \"{name}\" to `allow` in [firewall]")
}
