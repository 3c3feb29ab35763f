//! When to try again, and what a failure says. Pure.
//!
//! Invariants: one bad file holds up no other; what speaks for the link is not held against a file.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::providers::{ErrorKind, Op, ProviderError, Retry};

/// The longest wait after a failed link for a task that met it: when the link is back, nothing waits much longer.
pub(super) const LINK_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a failed operation means for its task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The site is out of reach. Not the task's fault: it counts no try and waits for the link.
    Link,
    /// Another try may help, after a while.
    Retry,
    /// It needs a person. `again`: somebody at the site may put it right without telling us, so that it is tried by itself
    /// too, as seldom as anything is.
    Block {
        /// Tried again by itself.
        again: bool,
    },
}

/// Says what to do about a failure.
///
/// Room at the site, its permissions and its accounts are put right at the site: `Full`, `Denied` and `Auth` are tried
/// again by themselves, every `retry_max`. A name that the site can't hold (`Invalid`), a folder in the way of a file
/// (`WrongKind`), what the site doesn't offer (`Unsupported`) and settings that make no sense (`Config`) stay as they are
/// until somebody acts here. A commit that the site finds `Invalid` is no such name: bytes got lost on the way.
pub(super) fn verdict(error: &ProviderError) -> Verdict {
    match error.kind {
        ErrorKind::Unreachable | ErrorKind::TimedOut => Verdict::Link,
        ErrorKind::Auth | ErrorKind::Denied | ErrorKind::Full => Verdict::Block { again: true },
        ErrorKind::Invalid if error.op == Op::Commit => Verdict::Retry,
        ErrorKind::Invalid | ErrorKind::WrongKind | ErrorKind::Unsupported | ErrorKind::Config => {
            Verdict::Block { again: false }
        }
        ErrorKind::NotFound
        | ErrorKind::Exists
        | ErrorKind::VersionMismatch
        | ErrorKind::Busy
        | ErrorKind::Protocol => Verdict::Retry,
    }
}

/// A site that asks for more peace than this is asked again all the same: one that is back is not to be left alone for hours
/// because it was careful.
const ASKED_MAX: Duration = Duration::from_secs(600);

/// How long to wait between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    chance: AtomicU64,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max: max.max(first),
            chance: AtomicU64::new(RandomState::new().hash_one(0)),
        }
    }

    /// Returns the longest wait.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// Returns the longest wait that a site gets when it asks for one: no task is due later than that.
    pub(super) fn longest(&self) -> Duration {
        self.max.max(ASKED_MAX)
    }

    /// Returns the wait after `tried` failed tries (from 1): it doubles, up to the longest; by chance half of that to all
    /// of it, so that what failed together does not come back together.
    pub(super) fn wait(&self, tried: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << tried.saturating_sub(1).min(30))
            .min(self.max);
        doubled.mul_f64(0.5 + 0.5 * self.roll())
    }

    /// Returns the wait after an error, no shorter than the site asked for within reason.
    pub(super) fn wait_after(&self, error: &ProviderError, tried: u32) -> Duration {
        let asked = match error.retry {
            Retry::After(asked) => asked.unwrap_or_default(),
            Retry::Never | Retry::Reauth => Duration::ZERO,
        };
        self.wait(tried).max(asked.min(self.longest()))
    }

    /// Returns a number from 0 to 1 (splitmix64).
    fn roll(&self) -> f64 {
        let mut x = self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 32 bits fit an f64 exactly.
        f64::from((x >> 32) as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_vary() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for (tried, most) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60)] {
            let most = Duration::from_secs(most);
            let waits: Vec<_> = (0..100).map(|_| backoff.wait(tried)).collect();
            assert!(
                waits.iter().all(|wait| (most / 2..=most).contains(wait)),
                "{tried}: {waits:?}"
            );
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
        let asked = ProviderError::new(ErrorKind::Busy, Op::Upload);
        let asked = asked.with_retry(Retry::After(Some(Duration::from_secs(90))));
        assert_eq!(backoff.wait_after(&asked, 1), Duration::from_secs(90));
        for beyond in [Duration::from_secs(3600), Duration::MAX] {
            let asked = ProviderError::new(ErrorKind::Busy, Op::Upload).with_retry(Retry::After(Some(beyond)));
            assert_eq!(backoff.wait_after(&asked, 1), backoff.longest());
        }
    }

    #[test]
    fn every_kind_of_error_has_a_verdict_and_a_word_of_its_own() {
        use ErrorKind::*;
        let kinds = [
            NotFound,
            Exists,
            WrongKind,
            Denied,
            Auth,
            VersionMismatch,
            Full,
            Unreachable,
            TimedOut,
            Busy,
            Invalid,
            Unsupported,
            Config,
            Protocol,
        ];
        let verdict = |kind, op| verdict(&ProviderError::new(kind, op));
        let of = |wanted| move |kind: &ErrorKind| verdict(*kind, Op::Upload) == wanted;
        let pick = |wanted| kinds.into_iter().filter(of(wanted)).collect::<Vec<_>>();
        assert_eq!(pick(Verdict::Link), [Unreachable, TimedOut]);
        assert_eq!(pick(Verdict::Block { again: true }), [Denied, Auth, Full]);
        assert_eq!(
            pick(Verdict::Block { again: false }),
            [WrongKind, Invalid, Unsupported, Config]
        );
        assert_eq!(verdict(Invalid, Op::Commit), Verdict::Retry);
        let mut words: Vec<_> = kinds.into_iter().map(ErrorKind::word).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), kinds.len());
    }
}
