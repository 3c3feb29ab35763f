//! The log: where it goes and how it looks. Owns nothing else; what is said is said where it happens.

pub mod tail;

use std::io::{IsTerminal, stderr};

use backlot_config::{Log, LogFormat};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// The variable that overrides the level of the settings, in the syntax of `tracing`'s filters.
pub const ENV: &str = "BACKLOT_LOG";
/// Where systemd says which stream it is whose lines it puts into its journal.
const JOURNAL: &str = "JOURNAL_STREAM";

/// Says whether a terminal is to show colours: not where the user or the terminal says otherwise (no-color.org).
fn wants_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Sends the log to standard error, or past it into systemd's journal, where values stay apart from what is said. Only the
/// first call of a process counts.
pub fn init(log: &Log) {
    let filter = EnvFilter::try_from_env(ENV).unwrap_or_else(|_| EnvFilter::new(log.level.as_str()));
    let base = registry().with(filter).with(tail::Keeper);
    let lines = fmt::layer()
        .with_writer(stderr)
        .with_target(false)
        // A terminal that is closed under us must not be complained about on that terminal.
        .log_internal_errors(false);
    let set = match (log.format, journal()) {
        (LogFormat::Json, _) => base.with(lines.json()).try_init(),
        (LogFormat::Text, Some(journal)) => base.with(journal).try_init(),
        (LogFormat::Text, None) => base
            .with(lines.with_ansi(stderr().is_terminal() && wants_colours()))
            .try_init(),
    };
    // A second daemon in one process (tests, the demo) shares the first one's log.
    drop(set);
}

/// Returns the way into the journal, if what we say on standard error goes there anyway and it can be had.
fn journal() -> Option<tracing_journald::Layer> {
    let told = std::env::var(JOURNAL).ok()?;
    let stream = rustix::fs::fstat(stderr()).ok()?;
    if told != format!("{}:{}", stream.st_dev, stream.st_ino) {
        return None;
    }
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_syslog_identifier("backlot".to_owned()))
}
