//! `backlot status`.

use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{programs, queue, text};
use crate::api::types::Health;
use crate::engine::report::{
    NativeReport, PendingReport, PinTotals, ProjectReport, PublishingReport, SequencesReport, Status,
};

/// A daemon that does not say that it lives within this time hangs.
const LIFE_SIGN: Duration = Duration::from_secs(3);
/// Reasons for failures that are shown.
const REASONS: usize = 3;
/// Refusals that are shown.
const REFUSALS: usize = 3;

/// Shows the drive: its projects, sites, cache, what is on its way here, and what is not at its site yet.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    // What hangs says so soon; what only has much to count may take its time.
    let quick = Client::at(loaded.config.drive.socket_path(), LIFE_SIGN)?;
    let health: Health = quick.get("health", &()).await?;
    let status: Status = Client::new(&loaded.config)?.get("status", &()).await?;
    if args.json {
        text::json(&status)?;
    } else {
        show(&status);
        if health.replaced {
            outln!("the program was replaced since: unmount and mount again at a quiet moment, for the new one to run");
        }
    }
    Ok(Exit::Ok)
}

fn show(s: &Status) {
    outln!(
        "{} at {} (pid {}, up for {})",
        s.name,
        s.mount_point.display(),
        s.pid,
        text::span(s.uptime_seconds)
    );
    outln!(
        "  {} entries, {} of them files with {}",
        text::count(s.entries),
        text::count(s.files),
        text::bytes(s.bytes)
    );
    outln!("  this machine is the site {}", s.site_id);
    outln!("sites");
    for site in &s.sites {
        let reason = site.reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
        outln!("  {:<16} {}{reason}", site.name, site.link);
    }
    outln!("projects");
    for p in &s.projects {
        outln!("  {:<16} from {}, {}", p.name, p.site, scanned(p));
    }
    let c = &s.cache;
    outln!("cache");
    outln!(
        "  {} of {} in {} files, {}",
        text::bytes(c.bytes),
        text::bytes(c.max_bytes),
        text::count(c.contents),
        c.dir.display()
    );
    if c.bad_granules > 0 {
        outln!(
            "  {} damaged pieces were found and fetched again",
            text::count(c.bad_granules)
        );
    }
    if c.scrub.running {
        outln!(
            "  it is being looked through for damage: {} since the start",
            text::bytes(c.scrub.bytes)
        );
    }
    show_pins(&s.pins);
    let h = &s.hydration;
    outln!("hydration");
    outln!(
        "  {} in {} requests since the start, {} failed",
        text::bytes(h.fetched_bytes),
        text::count(h.fetches),
        h.failed
    );
    for wrong in h.mismatches.iter().take(REASONS) {
        outln!(
            "  not served: {}: {}",
            text::printable(&wrong.path),
            text::printable(&wrong.why)
        );
    }
    if h.mismatches.len() > REASONS {
        outln!("  and {} more of that kind", h.mismatches.len() - REASONS);
    }
    for f in &h.in_flight {
        outln!(
            "  {} {} of {}",
            text::printable(&f.path),
            text::bytes(f.resident_bytes),
            text::bytes(f.size)
        );
    }
    if let Some(native) = &s.native_reads {
        outln!("  {}", reads(native));
    }
    programs::show(&s.programs);
    show_sequences(&s.sequences);
    show_publishing(&s.publishing);
}

fn show_pins(p: &PinTotals) {
    if p.rules == 0 {
        return;
    }
    outln!("pins");
    outln!("  {}: {}", text::counted_u64(p.rules, "rule"), pinned(p));
    for line in pins_trouble(p) {
        outln!("  {line}");
    }
}

/// How far the pins are.
pub(super) fn pinned(p: &PinTotals) -> String {
    format!(
        "{} of {} with {} of {} are here",
        text::count(p.resident_files),
        text::counted_u64(p.files, "file"),
        text::bytes(p.resident_bytes),
        text::bytes(p.bytes)
    )
}

/// What is in the way of the pins.
pub(super) fn pins_trouble(p: &PinTotals) -> Vec<String> {
    let mut lines = Vec::new();
    if !p.fits {
        lines.push(format!(
            "they do not fit: {} are wanted, and there is room for {}; {} not fetched for that",
            text::bytes(p.bytes),
            text::bytes(p.room_bytes),
            text::counted_u64(p.unfitting_files, "file")
        ));
    }
    for site in &p.waiting_for {
        lines.push(format!("waiting for the site {} to answer", text::printable(site)));
    }
    if p.failed > 0 {
        let why = p.failures.first();
        let why = why.map(|f| format!(", such as {}: {}", text::printable(&f.path), text::printable(&f.why)));
        lines.push(format!(
            "{} could not be fetched and will be tried again{}",
            text::counted_u64(p.failed, "file"),
            why.unwrap_or_default()
        ));
    }
    if p.fetching > 0 {
        lines.push(format!("{} being fetched now", text::counted(p.fetching, "file")));
    }
    lines
}

fn show_sequences(s: &SequencesReport) {
    outln!("sequences");
    if !s.on {
        outln!("  no frames are fetched ahead: `sequences = false` in [hydration]");
        return;
    }
    outln!(
        "  {} were here when they were opened, {} came late; {} fetched ahead in vain",
        text::counted_u64(s.hits, "frame"),
        text::count(s.late),
        text::bytes(s.wasted_bytes)
    );
    for sequence in &s.active {
        outln!(
            "  {} at {}, step {:+}, {}: {} of {} ahead with {}, {} hit, {} late",
            text::printable(&sequence.path),
            sequence.frame,
            sequence.step,
            sequence.state,
            sequence.frames_ahead,
            text::counted(sequence.window_frames, "frame"),
            text::bytes(sequence.bytes_ahead),
            text::count(sequence.hits),
            text::count(sequence.late)
        );
    }
}

/// How resident files are read.
pub(super) fn reads(native: &NativeReport) -> String {
    match &native.reason {
        None => format!(
            "the kernel reads resident files by itself (passthrough): {} opens; {} reads came to the daemon",
            text::count(native.opens),
            text::count(native.daemon_reads)
        ),
        Some(reason) => format!("resident files are read through the daemon (no passthrough): {reason}"),
    }
}

fn show_publishing(p: &PublishingReport) {
    outln!("publishing");
    let pending = &p.pending;
    if pending.is_nothing() {
        outln!(
            "  everything made here is at its site; {} sent since the start",
            sent(p)
        );
    } else {
        show_pending(pending);
        outln!("  {} sent since the start", sent(p));
    }
    for queue in p.queues.iter().filter(|queue| queue.paused || !queue.is_empty()) {
        out!("  ");
        queue::show_queue(queue);
    }
    for failure in p.failures.iter().take(REASONS) {
        outln!(
            "  {} because {} ({})",
            text::counted_u64(failure.tasks, "failed task"),
            text::printable(&failure.error),
            text::printable(&failure.path)
        );
    }
    if p.conflicts > 0 {
        outln!(
            "  {}: `backlot conflict ls`",
            text::counted_u64(p.conflicts, "conflict")
        );
    }
    for refused in p.refusals.iter().take(REFUSALS) {
        let times = if refused.times > 1 {
            format!(", {} times", text::count(refused.times))
        } else {
            String::new()
        };
        outln!(
            "  refused {}: {} ({}{times})",
            text::printable(&refused.path),
            refused.why,
            text::when(refused.at_ms)
        );
    }
    outln!(
        "  {} with {} exist on this machine alone",
        text::counted_u64(p.own_files, "file"),
        text::bytes(p.own_bytes)
    );
    if p.put_aside > 0 {
        outln!(
            "  {} of unknown files put aside: `backlot recover DIR` writes them out",
            text::counted_u64(p.put_aside, "object")
        );
    }
}

fn sent(p: &PublishingReport) -> String {
    format!(
        "{} with {}",
        text::counted_u64(p.sent_files, "file"),
        text::bytes(p.sent_bytes)
    )
}

fn show_pending(pending: &PendingReport) {
    let since = match pending.oldest_ms {
        Some(at) => format!(", the oldest changed {}", text::when(at)),
        None => String::new(),
    };
    outln!(
        "  {} with {} not at their site yet{since}",
        text::counted_u64(pending.files, "file"),
        text::bytes(pending.bytes)
    );
    if pending.writing > 0 {
        outln!(
            "  {} being written on top of that",
            text::counted_u64(pending.writing, "file")
        );
    }
    if pending.deletes > 0 {
        outln!("  {} to do at sites", text::counted_u64(pending.deletes, "removal"));
    }
    let left = match pending.eta_seconds {
        Some(seconds) => format!("{} left", text::span(seconds)),
        None => "nothing moves just now".to_owned(),
    };
    outln!("  {}, {left}", text::rate(pending.bytes_per_second));
}

fn scanned(p: &ProjectReport) -> String {
    match (&p.scanning, p.scanned_at_ms) {
        (Some(scan), _) => format!("being scanned: {} folders, {} entries", scan.folders, scan.entries),
        (None, Some(at)) => format!("scanned {}", text::when(at)),
        (None, None) => "never scanned".to_owned(),
    }
}
