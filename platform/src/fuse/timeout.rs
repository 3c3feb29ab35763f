//! The kernel's own limit on how long a request may take, where this machine sets one (Linux 6.15).
//!
//! Owns: reading it. Invariant: none is made up; where it can't be read there is none.

use std::path::Path;
use std::time::Duration;

/// Where the two settings are, in seconds; 0 is none.
const SETTINGS: &str = "/proc/sys/fs/fuse";
/// The kernel looks this often, and takes no limit below it (FUSE_TIMEOUT_TIMER_FREQ).
const LEAST: Duration = Duration::from_secs(15);
/// Our own answers come this much before it.
const MARGIN: Duration = Duration::from_secs(5);

/// Returns how long a request may take at most before the kernel ends the whole mount: `fs.fuse.default_request_timeout`, or
/// `fs.fuse.max_request_timeout` where that is less. `None`: as long as we like.
#[must_use]
pub fn kernel_timeout() -> Option<Duration> {
    read(Path::new(SETTINGS))
}

/// Returns within which time a request has to be answered so that this limit never strikes.
#[must_use]
pub fn within_kernel_timeout(limit: Duration) -> Duration {
    limit.saturating_sub(MARGIN)
}

fn read(dir: &Path) -> Option<Duration> {
    let seconds = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse().ok().filter(|n| *n > 0)
    };
    let (default, most) = (seconds("default_request_timeout"), seconds("max_request_timeout"));
    let limit = [default, most].into_iter().flatten().min()?;
    Some(Duration::from_secs(limit).max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_of_the_two_counts_and_none_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None, "an older kernel");
        let set = |default: &str, most: &str| {
            std::fs::write(dir.path().join("default_request_timeout"), default).unwrap();
            std::fs::write(dir.path().join("max_request_timeout"), most).unwrap();
            read(dir.path()).map(|limit| limit.as_secs())
        };
        assert_eq!(set("0\n", "0\n"), None);
        assert_eq!(set("60\n", "0\n"), Some(60));
        assert_eq!(set("0\n", "300\n"), Some(300));
        assert_eq!(set("600\n", "300\n"), Some(300));
        assert_eq!(set("5\n", "0\n"), Some(15), "the kernel takes nothing below that");
        assert_eq!(set("words\n", "\n"), None);
        assert_eq!(within_kernel_timeout(LEAST), Duration::from_secs(10));
    }
}
