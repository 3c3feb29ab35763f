//! Whether a site answers, known before the next request pays for finding out.
//!
//! Owns: the up/down state of one site, moved by what requests met and by a probe that runs while the site is down.
//! Refuses to know: what is asked of the site. Invariant: a site that is down is probed, with back-off, until it answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::model::SiteName;
use crate::providers::{Provider, ProviderError};

/// The first probe comes this long after a failure; each further one waits twice as long.
const PROBE_FIRST: Duration = Duration::from_millis(500);
/// The longest wait between two probes: an artist should not wait longer than this for a link that is back.
const PROBE_MAX: Duration = Duration::from_secs(15);

/// What is known of a site's link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Nothing was asked yet.
    Unknown,
    /// The last request was answered.
    Up,
    /// Requests fail; the reason is the last one's.
    Down {
        /// Why, for people.
        reason: String,
    },
}

/// The link to one site.
#[derive(Debug)]
pub struct Link {
    site: SiteName,
    state: watch::Sender<LinkState>,
    provider: Arc<dyn Provider>,
}

impl Link {
    /// Makes the link of a site, in state [`LinkState::Unknown`].
    pub fn new(site: SiteName, provider: Arc<dyn Provider>) -> Arc<Self> {
        Arc::new(Self {
            site,
            state: watch::Sender::new(LinkState::Unknown),
            provider,
        })
    }

    /// Returns what is known now.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// Says whether requests are known to fail.
    pub fn is_down(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Down { .. })
    }

    /// Returns a view that wakes on every change.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Takes note that the site answered.
    pub fn answered(&self) {
        let changed = self.state.send_if_modified(|s| {
            let was_down = matches!(s, LinkState::Down { .. });
            if *s == LinkState::Up {
                return false;
            }
            *s = LinkState::Up;
            if was_down {
                info!(site = %self.site, "the site answers again");
            }
            true
        });
        let _: bool = changed;
    }

    /// Takes note of a failed request; one that speaks for the whole site takes the link down and starts probing.
    pub fn failed(self: &Arc<Self>, error: &ProviderError) {
        if error.is_link_failure() {
            self.take_down(error);
        } else {
            // The site refused this request, so it does answer.
            self.answered();
        }
    }

    /// Asks the site once, in the background, so that its state is known soon.
    pub fn probe_soon(self: &Arc<Self>) {
        let link = Arc::clone(self);
        tokio::spawn(async move {
            match link.provider.probe().await {
                Ok(()) => link.answered(),
                Err(e) => link.take_down(&e),
            }
        });
    }

    fn take_down(self: &Arc<Self>, error: &ProviderError) {
        let reason = error.to_string();
        let went_down = self.state.send_if_modified(|s| {
            let was_down = matches!(s, LinkState::Down { .. });
            *s = LinkState::Down { reason: reason.clone() };
            !was_down
        });
        if went_down {
            warn!(site = %self.site, %reason, "the site is down: what is not cached fails at once until it answers");
            tokio::spawn(probe_until_up(Arc::downgrade(self)));
        }
    }
}

/// Probes with back-off until the site answers or nobody holds the link any more.
async fn probe_until_up(link: Weak<Link>) {
    let mut wait = PROBE_FIRST;
    loop {
        tokio::time::sleep(wait).await;
        let Some(link) = link.upgrade() else { return };
        if !link.is_down() {
            return;
        }
        match link.provider.probe().await {
            Ok(()) => return link.answered(),
            Err(e) => {
                let reason = e.to_string();
                link.state.send_modify(|s| {
                    if let LinkState::Down { reason: r } = s {
                        *r = reason;
                    }
                });
            }
        }
        wait = (wait * 2).min(PROBE_MAX);
    }
}
