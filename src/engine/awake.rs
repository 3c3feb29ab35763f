//! Whether this machine slept, and what to do about it: connections that were made before are dead or about to be, and nobody
//! is told.
//!
//! Owns: noticing. Refuses to know: connections. Invariant: a process that ran all the time is never taken for one that slept,
//! unless it was kept from running for that long (stopped, or a virtual machine that was paused): its connections are as old.

use std::sync::Weak;
use std::time::Duration;

use tracing::info;

use super::drive::Inner;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// A look that comes later than this was slept through. Less than any server's patience, more than a loaded machine is late.
const SLEPT: Duration = Duration::from_secs(10);
/// The kernel's clock that goes on while the machine sleeps; timers, and `Instant`, stand still meanwhile.
const UPTIME: &str = "/proc/uptime";

/// Watches until the drive is closed.
pub(super) async fn watch(drive: Weak<Inner>) {
    let Some(mut before) = since_boot() else { return };
    loop {
        tokio::time::sleep(TICK).await;
        let Some(drive) = drive.upgrade() else { return };
        if drive.stop.is_cancelled() {
            return;
        }
        let Some(now) = since_boot() else { return };
        let away = now.saturating_sub(before);
        before = now;
        if away < TICK + SLEPT {
            continue;
        }
        info!(
            seconds = away.as_secs(),
            "this machine or this process slept: its connections are made anew"
        );
        for site in drive.sites.values() {
            site.link().woke();
        }
    }
}

fn since_boot() -> Option<Duration> {
    parse(&std::fs::read_to_string(UPTIME).ok()?)
}

/// Two numbers of seconds: since the start, sleep included, and idle.
fn parse(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_clock_is_read() {
        assert_eq!(parse("350735.47 234388.90\n"), Some(Duration::from_millis(350_735_470)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("-1 0"), None);
        assert!(since_boot().unwrap() > Duration::ZERO);
    }
}
