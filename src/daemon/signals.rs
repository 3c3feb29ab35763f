//! The signals by which people and the system ask this program to end.
//!
//! Owns: which signals those are. Invariant: from [`EndSignals::new`] on none of them kills the process or is lost; each
//! waits for the next [`EndSignals::recv`].

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, a service manager's stop, and a terminal that is closed.
#[derive(Debug)]
pub struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started us wants us to outlive the terminal (`nohup`).
    hangup: Option<Signal>,
}

impl EndSignals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses handlers.
    pub fn new() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = if ignores_hangup(&status) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Returns at the next one. Dropped before that, it loses none.
    pub async fn recv(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Reads from the text of `/proc/PID/status` whether SIGHUP is ignored: the first bit of a mask in hexadecimal digits.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_noticed() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
