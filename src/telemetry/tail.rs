//! The last lines of the log, for who looks at the daemon from elsewhere than its terminal.
//!
//! Owns: a bounded number of lines, and telling new ones. Refuses to know: who listens. Invariants: logging waits for no
//! listener, and one that is too slow misses lines; nothing finer than `info` is kept, whatever is logged.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that are kept.
const KEPT: usize = 200;
/// Lines that a listener may be behind.
const BEHIND: usize = 64;
/// Bytes of a line that are kept.
const LONGEST: usize = 2000;

static TAIL: OnceLock<Tail> = OnceLock::new();

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Line {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// `error`, `warn` or `info`.
    pub level: &'static str,
    /// What was said, with its values.
    pub text: String,
}

#[derive(Debug)]
struct Tail {
    last: Mutex<VecDeque<Line>>,
    new: broadcast::Sender<Line>,
}

fn tail() -> &'static Tail {
    TAIL.get_or_init(|| Tail {
        last: Mutex::default(),
        new: broadcast::Sender::new(BEHIND),
    })
}

/// Returns the last lines, the oldest first.
#[must_use]
pub fn last() -> Vec<Line> {
    let last = tail().last.lock().unwrap_or_else(PoisonError::into_inner);
    last.iter().cloned().collect()
}

/// Returns what hears of new lines.
#[must_use]
pub fn listen() -> broadcast::Receiver<Line> {
    tail().new.subscribe()
}

/// What keeps the lines.
#[derive(Debug)]
pub(super) struct Keeper;

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => return,
        };
        let mut text = Text(String::new());
        event.record(&mut text);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut text = text.0;
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        let line = Line {
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            level,
            text,
        };
        let tail = tail();
        let mut last = tail.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= KEPT {
            last.pop_front();
        }
        last.push_back(line.clone());
        drop(last);
        // Nobody may listen.
        drop(tail.new.send(line));
    }
}

/// The message, then the values as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String does not fail.
        let _written = if field.name() == "message" {
            let rest = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{rest}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_last_lines_are_kept_and_new_ones_told() {
        let mut new = listen();
        let log = tracing_subscriber::registry().with(Keeper);
        tracing::subscriber::with_default(log, || {
            tracing::warn!(site = %"nas", tries = 3, "the site is down");
            tracing::debug!("not of interest");
            for number in 0..=KEPT {
                tracing::info!(number, "one of many");
            }
        });
        let first = new.try_recv();
        // Too slow by far: it misses lines, and nobody waited for it.
        assert!(first.is_err(), "{first:?}");
        let last = last();
        assert_eq!(last.len(), KEPT);
        assert_eq!(last[KEPT - 1].text, format!("one of many number={KEPT}"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Keeper), || {
            tracing::warn!(site = %"nas", tries = 3, "the site is down");
        });
        let mut told = None;
        while let Ok(line) = new.try_recv().or_else(|e| match e {
            broadcast::error::TryRecvError::Lagged(_) => new.try_recv(),
            other => Err(other),
        }) {
            told = Some(line);
        }
        let told = told.expect("told");
        assert_eq!(
            (told.level, told.text.as_str()),
            ("warn", "the site is down site=nas tries=3")
        );
    }
}
