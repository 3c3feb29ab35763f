//! What `backlot top` looks like: lines of text.

use super::{Moving, Now};
use crate::cli::text;

/// Lines of a list that are shown at least, where there is little room.
const LEAST: usize = 2;
/// Lines around the lists.
const AROUND: usize = 9;

/// Returns what is to be shown, in about so many lines.
pub(super) fn lines(now: &Now, height: usize) -> Vec<String> {
    let mut out = vec![
        format!(
            "{} at {}, up for {}, {} open",
            now.name,
            now.mount_point.display(),
            text::span(now.uptime_seconds),
            text::counted(now.open_files, "file")
        ),
        format!(
            "in {}  out {}  cache {} of {}",
            text::rate(now.download_bytes_per_second),
            text::rate(now.upload_bytes_per_second),
            text::bytes(now.cache_bytes),
            text::bytes(now.cache_max_bytes)
        ),
    ];
    let room = height.saturating_sub(AROUND + now.sites.len());
    // What comes, what goes and who reads share what there is.
    let each = (room / 3).max(LEAST);
    out.push(String::new());
    for site in &now.sites {
        let reason = site
            .reason
            .as_deref()
            .map(|r| format!("  {}", text::printable(r)))
            .unwrap_or_default();
        out.push(format!(
            "{:<16} {:<8} {:>14}  {} fetches, {} wait{reason}",
            text::printable(&site.name),
            site.link,
            text::rate(site.download_bytes_per_second),
            site.fetching.0,
            site.fetching.1
        ));
    }
    out.push(format!("coming: {}", text::counted(now.hydrations.len(), "file")));
    list(&mut out, &now.hydrations, each);
    let stuck = match now.stuck {
        0 => String::new(),
        stuck => format!(", {} of them stuck", text::count(stuck)),
    };
    let left = now
        .eta_seconds
        .map(|s| format!(", {} left", text::span(s)))
        .unwrap_or_default();
    out.push(format!(
        "going: {} of {} with {}{stuck}{left}",
        text::count(now.uploads.len() as u64),
        text::counted_u64(now.pending_files, "file"),
        text::bytes(now.pending_bytes)
    ));
    list(&mut out, &now.uploads, each);
    out.push("who reads".to_owned());
    for program in now.programs.iter().take(each) {
        let pid = program.pid.map(|pid| format!(" ({pid})")).unwrap_or_default();
        let refused = match program.refusals {
            0 => String::new(),
            refusals => format!(", refused {}", text::count(refusals)),
        };
        out.push(format!(
            "  {:>14} {:>12}  {}{pid}{refused}",
            text::rate(program.bytes_per_second),
            text::bytes(program.bytes),
            text::printable(&program.name)
        ));
    }
    out
}

fn list(out: &mut Vec<String>, moving: &[Moving], most: usize) {
    for file in moving.iter().take(most) {
        let share = file
            .done_bytes
            .saturating_mul(100)
            .checked_div(file.bytes)
            .unwrap_or(100);
        out.push(format!(
            "  {share:>3}% of {:>12}  {}",
            text::bytes(file.bytes),
            text::printable(&file.path)
        ));
    }
    if moving.len() > most {
        out.push(format!("  and {} more", text::count((moving.len() - most) as u64)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::{ProgramNow, SiteNow};

    fn now(files: usize) -> Now {
        let moving = |path: &str| Moving {
            path: path.to_owned(),
            done_bytes: 1 << 20,
            bytes: 4 << 20,
        };
        Now {
            name: "projects".to_owned(),
            mount_point: "/mnt/projects".into(),
            uptime_seconds: 61,
            seconds: 1.0,
            sites: vec![SiteNow {
                name: "studio".to_owned(),
                link: "down".to_owned(),
                reason: Some("no\u{1b}[2Jroute".to_owned()),
                download_bytes_per_second: 0,
                fetching: (0, 3),
            }],
            cache_bytes: 0,
            cache_max_bytes: 1 << 30,
            download_bytes_per_second: 5 << 20,
            upload_bytes_per_second: 0,
            open_files: 1,
            hydrations: (0..files).map(|n| moving(&format!("demo/{n}.exr"))).collect(),
            uploads: vec![moving("demo/a\u{1b}[31m.exr")],
            pending_files: 2,
            pending_bytes: 8 << 20,
            eta_seconds: None,
            stuck: 1,
            programs: vec![ProgramNow {
                name: "nuke".to_owned(),
                pid: Some(7),
                bytes_per_second: 5 << 20,
                bytes: 9 << 20,
                refusals: 0,
            }],
        }
    }

    #[test]
    fn everything_is_said_and_nothing_drives_the_terminal() {
        let shown = lines(&now(2), usize::MAX).join("\n");
        for said in [
            "projects at /mnt/projects",
            "in 5.00 MiB/s",
            "studio           down",
            "3 wait",
            "coming: 2 files",
            "25% of     4.00 MiB  demo/1.exr",
            "going: 1 of 2 files",
            "1 of them stuck",
            "nuke (7)",
        ] {
            assert!(shown.contains(said), "not said: {said}\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn long_lists_are_cut_to_the_room() {
        let shown = lines(&now(500), 24);
        assert!(shown.len() <= 24, "{}", shown.len());
        assert!(shown.iter().any(|line| line.starts_with("  and 4")), "{shown:?}");
    }
}
