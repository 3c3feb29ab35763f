//! What is under way and how fast, for people who wait.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::model::{Ino, RelPath};
use crate::state::TaskId;

/// The rate is that of the last so many seconds: a few parts, on a slow link.
const WINDOW_SECS: u64 = 15;
/// Those, and the one that is running.
const SLOTS: usize = 16;

/// What transfers have done since they were started, and do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes that arrived at sites, those that were sent again counted again.
    pub sent_bytes: u64,
    /// Files that were committed.
    pub sent_files: u64,
    /// Bytes that arrive per second now.
    pub bytes_per_second: u64,
    /// Files that are being sent, in the order of their tasks.
    pub under_way: Vec<UnderWay>,
}

/// A file that is being sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderWay {
    /// Its task.
    pub task: TaskId,
    /// The project's root folder.
    pub root: Ino,
    /// Where it goes, under the site's root.
    pub path: RelPath,
    /// Bytes of it that have arrived.
    pub done_bytes: u64,
    /// Its size in bytes.
    pub size: u64,
}

#[derive(Debug)]
pub(super) struct Gauge {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sent_bytes: u64,
    sent_files: u64,
    under_way: BTreeMap<TaskId, UnderWay>,
    /// Bytes in each of the last seconds, and which second that was.
    seconds: [(u64, u64); SLOTS],
}

/// A file's entry; dropping it takes it out.
#[derive(Debug)]
pub(super) struct Entry<'g> {
    of: &'g Gauge,
    task: TaskId,
}

impl Gauge {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a file as under way.
    pub(super) fn enter(&self, file: UnderWay) -> Entry<'_> {
        let task = file.task;
        self.lock().under_way.insert(task, file);
        Entry { of: self, task }
    }

    pub(super) fn stats(&self) -> Stats {
        let now = self.began.elapsed().as_secs();
        let inner = self.lock();
        // The second that is running has not all of its bytes yet.
        let counts = |second: u64| second < now && now - second <= WINDOW_SECS;
        let bytes: u64 = inner.seconds.iter().filter(|s| counts(s.0)).map(|s| s.1).sum();
        Stats {
            sent_bytes: inner.sent_bytes,
            sent_files: inner.sent_files,
            bytes_per_second: bytes / now.clamp(1, WINDOW_SECS),
            under_way: inner.under_way.values().cloned().collect(),
        }
    }
}

impl Entry<'_> {
    /// Counts bytes that have arrived.
    pub(super) fn sent(&self, bytes: u64, done_bytes: u64) {
        let now = self.of.began.elapsed().as_secs();
        let mut inner = self.of.lock();
        inner.sent_bytes += bytes;
        let slot = &mut inner.seconds[usize::try_from(now).unwrap_or(0) % SLOTS];
        if slot.0 != now {
            *slot = (now, 0);
        }
        slot.1 += bytes;
        if let Some(file) = inner.under_way.get_mut(&self.task) {
            file.done_bytes = done_bytes;
        }
    }

    /// Counts a file that was committed.
    pub(super) fn committed(&self) {
        self.of.lock().sent_files += 1;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.of.lock().under_way.remove(&self.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_seconds() {
        let gauge = Gauge::new();
        let file = UnderWay {
            task: TaskId(1),
            root: Ino(3),
            path: RelPath::new("a").unwrap(),
            done_bytes: 0,
            size: 1 << 20,
        };
        let entry = gauge.enter(file);
        for second in 1..=30 {
            entry.sent(1000, second * 1000);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let stats = gauge.stats();
        assert_eq!((stats.sent_bytes, stats.bytes_per_second), (30_000, 1000));
        assert_eq!(stats.under_way[0].done_bytes, 30_000);
        entry.committed();
        drop(entry);
        tokio::time::advance(Duration::from_secs(60)).await;
        let after = gauge.stats();
        assert_eq!((after.sent_files, after.bytes_per_second), (1, 0));
        assert_eq!(after.under_way, []);
    }
}
