//! The first look at a folder: whoever asks what is in a folder that was never listed waits until it is.
//!
//! Owns: one listing for all who wait for it, and how long they do. Refuses to know: how a folder is listed (`scan`).
//! Invariants: nobody waits for a folder that was listed once, nor at a site that is known to be down; a look that ended
//! without a listing, or lasts for too long, is not waited for again before a new one is due (`scan.recheck-after`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::drive::Inner;
use super::link::LinkState;
use crate::model::{EntryKind, Ino};
use crate::state::StateError;

/// Looks that ended without a listing are remembered up to this many; beyond it they are forgotten and begun again.
const REMEMBERED: usize = 1_000;

/// The first looks that run, and those that came to nothing.
#[derive(Debug, Default)]
pub(super) struct FirstLooks(Mutex<HashMap<Ino, Look>>);

#[derive(Clone, Debug)]
struct Look {
    begun: Instant,
    ended: watch::Receiver<bool>,
}

impl Inner {
    /// Says whether a folder of a site was never listed.
    fn is_unlisted(&self, dir: Ino) -> Result<bool, StateError> {
        let node = self.tree.node(dir)?;
        Ok(node.is_some_and(|node| node.kind == EntryKind::Dir && !node.own && node.listed_at_ms.is_none()))
    }

    /// Lists a folder that was never listed, and returns once that is done, has failed, or lasts for longer than anybody
    /// waits for bytes (`hydration.read-deadline`). What is known of the folder counts then.
    pub(super) async fn first_look(self: &Arc<Self>, dir: Ino) -> Result<(), StateError> {
        if !self.is_unlisted(dir)? {
            return Ok(());
        }
        let Ok((project, _)) = self.locate(dir) else {
            return Ok(());
        };
        let link = project.site.link();
        if link.is_down() {
            return Ok(());
        }
        let Look { begun, mut ended } = self.look_first(dir);
        let mut state = link.watch();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => {}
            _ = state.wait_for(|state| matches!(state, LinkState::Down { .. })) => {}
            () = tokio::time::sleep_until((begun + self.limits.read_deadline).into()) => {}
        }
        Ok(())
    }

    /// Begins the first look at a folder, or returns the one that runs or has come to nothing of late.
    fn look_first(self: &Arc<Self>, dir: Ino) -> Look {
        let max_age = self.limits.recheck_after;
        let mut looks = self.scans.first.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |look: &Look| *look.ended.borrow() && look.begun.elapsed() >= max_age;
        if looks.len() >= REMEMBERED {
            looks.retain(|_, look| !*look.ended.borrow());
        }
        if let Some(look) = looks.get(&dir).filter(|look| !is_over(look)) {
            return look.clone();
        }
        let (tell, ended) = watch::channel(false);
        let look = Look {
            begun: Instant::now(),
            ended,
        };
        looks.insert(dir, look.clone());
        drop(looks);
        let drive = Arc::clone(self);
        tokio::spawn(async move {
            super::scan::look_now(&drive, dir).await;
            if !drive.is_unlisted(dir).unwrap_or(true) {
                let mut looks = drive.scans.first.0.lock().unwrap_or_else(PoisonError::into_inner);
                looks.remove(&dir);
            }
            tell.send_replace(true);
        });
        look
    }
}
