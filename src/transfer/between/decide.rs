//! Whether a file is at its target already, and whether what is there may be replaced. Pure.

use crate::model::SiteName;
use crate::providers::{Capabilities, Entry};
use crate::state::{Copied, Replaces};

/// What is to be done about a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Nothing: it is there. `proven`: by what was written down; otherwise size and time say so, and a hash may object.
    Same {
        /// Known, not inferred.
        proven: bool,
    },
    /// It is sent, in place of what is there.
    Send,
    /// What is there stays.
    Conflict(Why),
}

/// Why something stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// Nothing was to be there.
    NotEmpty,
    /// It is not the version that was to be replaced.
    OtherVersion,
    /// It is newer than the source's.
    Newer,
    /// It has the same time and differs.
    SameTime,
    /// One of the sites dates files by itself, so that nobody knows which is newer.
    NoTimes,
}

impl Why {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::NotEmpty => "nothing was to be there",
            Self::OtherVersion => "it is not the version that was to be replaced",
            Self::Newer => "it is newer",
            Self::SameTime => "it is as old and differs",
            Self::NoTimes => "the sites keep no times by which to tell which is newer",
        }
    }
}

/// Returns the step in which the times of two sites can be compared; `None` where they can't.
pub(super) fn step(source: &Capabilities, target: &Capabilities) -> Option<i64> {
    (source.keeps_mtime && target.keeps_mtime).then(|| {
        let step = source.mtime_step_ns.max(target.mtime_step_ns);
        i64::try_from(step).unwrap_or(i64::MAX).max(1)
    })
}

/// What is known besides the two entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) source: &'a SiteName,
    pub(super) replaces: &'a Replaces,
    pub(super) copied: Option<&'a Copied>,
    pub(super) step: Option<i64>,
}

/// Decides about a file that both sites have.
pub(super) fn decide(source: &Entry, target: &Entry, known: Known<'_>) -> Decision {
    let ours = known.copied.filter(|copied| copied.version == target.version);
    if ours.is_some_and(|copied| copied.source == *known.source && copied.source_version == source.version) {
        return Decision::Same { proven: true };
    }
    let age = known.step.map(|step| {
        let time = |entry: &Entry| entry.mtime_ns.div_euclid(step);
        time(target).cmp(&time(source))
    });
    if source.size == target.size && age == Some(std::cmp::Ordering::Equal) {
        return Decision::Same { proven: false };
    }
    differing(target, known, ours.is_some(), age)
}

/// Decides about a file that differs at the target. `ours`: a copy put it there.
pub(super) fn differing(target: &Entry, known: Known<'_>, ours: bool, age: Option<std::cmp::Ordering>) -> Decision {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match known.replaces {
        Replaces::Whatever => Decision::Send,
        Replaces::Nothing => Decision::Conflict(Why::NotEmpty),
        Replaces::Only(version) if *version == target.version => Decision::Send,
        Replaces::Only(_) => Decision::Conflict(Why::OtherVersion),
        Replaces::Usual if ours => Decision::Send,
        Replaces::Usual => match age {
            Some(Less) => Decision::Send,
            Some(Equal) => Decision::Conflict(Why::SameTime),
            Some(Greater) => Decision::Conflict(Why::Newer),
            None => Decision::Conflict(Why::NoTimes),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryKind, Version};

    fn entry(version: &str, size: u64, mtime_ns: i64) -> Entry {
        Entry {
            kind: EntryKind::File,
            size,
            mtime_ns,
            perm: None,
            version: Version::new(version),
            target: None,
        }
    }

    #[test]
    fn what_is_newer_stays_unless_somebody_asked() {
        let hq = SiteName("hq".to_owned());
        let copied = |source_version: &str, version: &str| Copied {
            source: hq.clone(),
            source_version: Version::new(source_version),
            version: Version::new(version),
        };
        let source = entry("s2", 10, 5_000_000_000);
        let second = Some(1_000_000_000);
        let same = Decision::Same { proven: false };
        let known_same = Decision::Same { proven: true };
        let stays = Decision::Conflict;
        let only = |version: &str| Replaces::Only(Version::new(version));
        for (target, copied, replaces, step, expected) in [
            // Times in the coarser step.
            (entry("t", 10, 5_900_000_000), None, Replaces::Usual, second, same),
            (
                entry("t", 10, 5_900_000_000),
                None,
                Replaces::Usual,
                Some(1),
                stays(Why::Newer),
            ),
            (
                entry("t", 11, 5_000_000_000),
                None,
                Replaces::Usual,
                second,
                stays(Why::SameTime),
            ),
            (
                entry("t", 11, 4_000_000_000),
                None,
                Replaces::Usual,
                second,
                Decision::Send,
            ),
            (
                entry("t", 11, 6_000_000_000),
                None,
                Replaces::Usual,
                second,
                stays(Why::Newer),
            ),
            (
                entry("t", 11, 6_000_000_000),
                None,
                Replaces::Whatever,
                second,
                Decision::Send,
            ),
            // Without times only what was written down counts.
            (
                entry("t", 10, 5_000_000_000),
                None,
                Replaces::Usual,
                None,
                stays(Why::NoTimes),
            ),
            (
                entry("t", 10, 9),
                Some(copied("s2", "t")),
                Replaces::Usual,
                None,
                known_same,
            ),
            (
                entry("t", 10, 9),
                Some(copied("s1", "t")),
                Replaces::Usual,
                None,
                Decision::Send,
            ),
            (
                entry("u", 10, 9),
                Some(copied("s2", "t")),
                Replaces::Usual,
                None,
                stays(Why::NoTimes),
            ),
            // Ours, and newer by the clock of the other site: it is still ours.
            (
                entry("t", 11, 9_000_000_000),
                Some(copied("s1", "t")),
                Replaces::Usual,
                second,
                Decision::Send,
            ),
            (
                entry("t", 11, 4_000_000_000),
                None,
                Replaces::Nothing,
                second,
                stays(Why::NotEmpty),
            ),
            (entry("t", 11, 4_000_000_000), None, only("t"), second, Decision::Send),
            (
                entry("t", 11, 4_000_000_000),
                None,
                only("u"),
                second,
                stays(Why::OtherVersion),
            ),
        ] {
            let known = Known {
                source: &hq,
                replaces: &replaces,
                copied: copied.as_ref(),
                step,
            };
            assert_eq!(
                decide(&source, &target, known),
                expected,
                "{target:?} {replaces:?} {step:?}"
            );
        }
    }
}
