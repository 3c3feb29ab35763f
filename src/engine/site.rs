//! A site as the engine uses it: its provider, its link, its slots.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::link::Link;
use super::schedule::Slots;
use crate::model::SiteName;
use crate::providers::{Controls, Provider, SiteSpace};

/// How long a site's answer about its space is good for.
const SPACE_TTL: Duration = Duration::from_secs(60);

/// One configured site.
#[derive(Debug)]
pub struct Site {
    name: SiteName,
    provider: Arc<dyn Provider>,
    link: Arc<Link>,
    slots: Arc<Slots>,
    space: Mutex<Space>,
    controls: Option<Controls>,
}

#[derive(Debug, Default)]
struct Space {
    known: Option<SiteSpace>,
    asked: Option<Instant>,
}

impl Site {
    /// Makes a site whose background fetches share `slots`, with what its provider's layers share where that is known.
    pub fn new(name: SiteName, provider: Arc<dyn Provider>, controls: Option<Controls>, slots: usize) -> Arc<Self> {
        let link = Link::new(name.clone(), Arc::clone(&provider));
        Arc::new(Self {
            name,
            provider,
            link,
            slots: Slots::new(slots),
            space: Mutex::default(),
            controls,
        })
    }

    /// The key of its section in the settings.
    pub fn name(&self) -> &SiteName {
        &self.name
    }

    /// What speaks to it.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    /// Bytes read from it since the start, as its meter counts them.
    pub fn read_bytes(&self) -> Option<u64> {
        let controls = self.controls.as_ref()?;
        Some(controls.meter.snapshot().bytes_in)
    }

    /// Says whether bytes that came from it are kept back by its limit now: that no byte is given out says nothing about the
    /// site then.
    pub fn is_held_back(&self) -> bool {
        let controls = self.controls.as_ref();
        controls.is_some_and(|controls| controls.limits.download.is_holding())
    }

    /// Whether it answers.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Who may fetch next.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Returns its space as last told and asks again in the background when that is old: `statfs` never waits.
    pub fn space(self: &Arc<Self>) -> Option<SiteSpace> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = space.asked.is_some_and(|at| at.elapsed() < SPACE_TTL);
        if !fresh && !self.link.is_down() {
            space.asked = Some(Instant::now());
            let site = Arc::clone(self);
            tokio::spawn(async move {
                if let Ok(known) = site.provider.space().await {
                    site.space.lock().unwrap_or_else(PoisonError::into_inner).known = known;
                }
            });
        }
        space.known
    }
}
