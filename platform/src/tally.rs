//! How often each file operation was asked for, how long its answer took, and how it failed.
//!
//! Owns: the counts. Refuses to know: what the operations do. Invariant: counting takes no lock and allocates nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::FsErrorKind;
use crate::histogram::{Distribution, Histogram};

/// The operations that are told apart, as hosts call them; the last stands for all others.
const OPERATIONS: [&str; 28] = [
    "lookup",
    "getattr",
    "read",
    "open",
    "release",
    "flush",
    "readdir",
    "readdirplus",
    "getxattr",
    "write",
    "create",
    "setattr",
    "fsync",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "readlink",
    "symlink",
    "link",
    "mknod",
    "fsyncdir",
    "fallocate",
    "statfs",
    "setxattr",
    "listxattr",
    "lseek",
    "other",
];

/// What an operation came to since the host started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// How long its answers took, the failed ones too.
    pub took: Distribution,
    /// How many failed, by why.
    pub failed: Vec<(FsErrorKind, u64)>,
}

#[derive(Debug)]
struct Counts {
    took: Histogram,
    failed: [AtomicU64; FsErrorKind::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            took: Histogram::default(),
            failed: [const { AtomicU64::new(0) }; FsErrorKind::ALL.len()],
        }
    }
}

/// The counts of all operations.
#[derive(Debug)]
pub(crate) struct Tally(Box<[Counts; OPERATIONS.len()]>);

impl Default for Tally {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Counts::default())))
    }
}

impl Tally {
    /// Counts an answer.
    pub(crate) fn note(&self, operation: &str, took: Duration, failed: Option<FsErrorKind>) {
        let at = OPERATIONS.iter().position(|known| *known == operation);
        let counts = &self.0[at.unwrap_or(OPERATIONS.len() - 1)];
        counts.took.note(took);
        if let Some(kind) = failed {
            counts.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the operations that were asked for.
    pub(crate) fn now(&self) -> Vec<Operation> {
        let told = |(name, counts): (&&'static str, &Counts)| {
            let took = counts.took.now();
            let failed = FsErrorKind::ALL.into_iter().zip(&counts.failed);
            let failed = failed.map(|(kind, count)| (kind, count.load(Ordering::Relaxed)));
            took.counts.iter().any(|count| *count > 0).then(|| Operation {
                name,
                took,
                failed: failed.filter(|(_, count)| *count > 0).collect(),
            })
        };
        OPERATIONS.iter().zip(self.0.iter()).filter_map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_operation_and_failure() {
        let tally = Tally::default();
        tally.note("read", Duration::from_micros(30), None);
        tally.note("read", Duration::from_micros(70), Some(FsErrorKind::Offline));
        tally.note("no such operation", Duration::ZERO, Some(FsErrorKind::Io));
        let now = tally.now();
        let told: Vec<_> = now
            .iter()
            .map(|op| (op.name, op.took.micros, op.failed.clone()))
            .collect();
        assert_eq!(
            told,
            [
                ("read", 100, vec![(FsErrorKind::Offline, 1)]),
                ("other", 0, vec![(FsErrorKind::Io, 1)])
            ]
        );
    }

    #[test]
    fn every_kind_of_error_has_its_own_place() {
        for (at, kind) in FsErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{kind:?}");
        }
    }
}
