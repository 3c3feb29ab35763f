//! The log: where it goes and how it looks. Owns nothing else; what is said is said where it happens.

pub mod tail;

use std::io::{IsTerminal, stderr};

use backlot_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that overrides the level of the settings, in the syntax of `tracing`'s filters.
pub const ENV: &str = "BACKLOT_LOG";

/// Says whether a terminal is to show colours: not where the user or the terminal says otherwise (no-color.org).
fn wants_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Sends the log to standard error. Only the first call of a process counts.
pub fn init(log: &Log) {
    let filter = EnvFilter::try_from_env(ENV).unwrap_or_else(|_| EnvFilter::new(log.level.as_str()));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false)
        // A terminal that is closed under us must not be complained about on that terminal.
        .log_internal_errors(false);
    let set = match log.format {
        LogFormat::Json => base.json().finish().with(tail::Keeper).try_init(),
        LogFormat::Text => base
            .with_ansi(stderr().is_terminal() && wants_colours())
            .finish()
            .with(tail::Keeper)
            .try_init(),
    };
    // A second daemon in one process (tests, the demo) shares the first one's log.
    drop(set);
}
