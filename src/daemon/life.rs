//! Telling the service manager that the daemon lives, and noticing that its program was replaced.
//!
//! Owns: when a sign of life is given. Refuses to know: who listens. Invariant: no sign of life is given unless the threads
//! that finish requests have run something since the last one, and the store has answered.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::is_replaced;
use crate::engine::drive::Drive;

/// Between two looks at whether the program was replaced.
const LOOK: Duration = Duration::from_secs(30);

/// Gives signs of life until the end, where a service manager wants them (`WatchdogSec=`).
pub(super) async fn keep(drive: Drive, until: CancellationToken) {
    tokio::join!(signs(&drive, &until), replaced(&until));
}

async fn signs(drive: &Drive, until: &CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Three chances within the limit.
    let mut tick = tokio::time::interval(limit / 3);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = until.cancelled() => return,
            _ = tick.tick() => {}
        }
        let asked = drive.clone();
        // Not limited: whoever hangs here is silent, and that is what the watchdog is for. An error is an answer: what is
        // wrong with a disk is not mended by a restart.
        let answer = tokio::task::spawn_blocking(move || asked.pending().is_ok());
        tokio::select! {
            () = until.cancelled() => return,
            answer = answer => debug!(well = answer.unwrap_or(false), "the store answers"),
        }
        // Nobody may listen.
        drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog]));
    }
}

async fn replaced(until: &CancellationToken) {
    loop {
        tokio::select! {
            () = until.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if is_replaced() {
            warn!(
                version = env!("CARGO_PKG_VERSION"),
                "the program was replaced by another one while this one runs: unmount and mount at a quiet moment"
            );
            return;
        }
    }
}

/// Tells the service manager that the daemon comes to its end.
pub(super) fn ending() {
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
}
