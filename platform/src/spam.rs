//! How often one failure is worth a line of the log.
//!
//! Owns: what was said when of which node. Refuses to know: the log. Invariants: the first failure of a kind at a node is
//! always said; what is left unsaid is counted, and told with the next line; memory is bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::FsErrorKind;

/// The same failure of the same node is said at most this often. During an outage the kernel's read-ahead and a program's
/// retries fail dozens of times a second.
const QUIET: Duration = Duration::from_secs(10);

/// Failures remembered; beyond it those are forgotten that would be said again anyway, else all.
const REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Spam {
    said: Mutex<HashMap<(u64, FsErrorKind), Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl Spam {
    /// Returns whether to say a failure now, and then how many like it were left unsaid since the last time.
    pub(crate) fn worth_saying(&self, node: u64, kind: FsErrorKind, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = said.get_mut(&(node, kind)) {
            if now.saturating_duration_since(last.at) < QUIET {
                last.unsaid += 1;
                return None;
            }
            last.at = now;
            return Some(std::mem::take(&mut last.unsaid));
        }
        if said.len() >= REMEMBERED {
            said.retain(|_, last| now.saturating_duration_since(last.at) < QUIET);
            if said.len() >= REMEMBERED {
                said.clear();
            }
        }
        said.insert((node, kind), Said { at: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_in_a_while_and_the_rest_is_counted() {
        let (spam, begin) = (Spam::default(), Instant::now());
        let say = |node, kind, after| spam.worth_saying(node, kind, begin + after);
        assert_eq!(say(1, FsErrorKind::Offline, Duration::ZERO), Some(0));
        for ms in 1..=50 {
            assert_eq!(say(1, FsErrorKind::Offline, Duration::from_millis(ms)), None);
        }
        assert_eq!(
            say(1, FsErrorKind::Io, Duration::from_millis(51)),
            Some(0),
            "another kind is news"
        );
        assert_eq!(
            say(2, FsErrorKind::Offline, Duration::from_millis(52)),
            Some(0),
            "another node is news"
        );
        assert_eq!(say(1, FsErrorKind::Offline, QUIET), Some(50));
        assert_eq!(say(1, FsErrorKind::Offline, QUIET * 2), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (spam, begin) = (Spam::default(), Instant::now());
        for node in 0..10_000 {
            assert_eq!(spam.worth_saying(node, FsErrorKind::Offline, begin), Some(0));
        }
        assert!(spam.said.lock().unwrap().len() <= REMEMBERED);
    }
}
