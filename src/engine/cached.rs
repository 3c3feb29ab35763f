//! What people ask of the cache: its figures, who fills it, giving space back, looking for damage.
//!
//! Owns: the answers, in paths of the drive. Refuses to know: how the cache chooses by itself. Invariants: what is pinned,
//! in use or this machine's own is kept, and it is said why; a verification runs once at a time and yields between contents.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backlot_cache::CacheError;
use tracing::{debug, info, warn};

use super::drive::{Drive, Inner, disk_space};
use super::pins::PinError;
use super::pins::walk::Walk;
use super::report::{CacheStat, CacheTop, EvictReport, Kept, KeptWhy, TopRow, VerifyProgress};
use crate::model::{Name, RelPath};
use crate::state::StateError;

/// Files that are named in an answer.
const NAMED: usize = 100;

/// The verification of a drive's cache, running or last.
#[derive(Debug, Default)]
pub(super) struct Verification {
    is_running: AtomicBool,
    progress: Mutex<VerifyProgress>,
}

impl Verification {
    fn progress(&self) -> MutexGuard<'_, VerifyProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EvictReport {
    fn keep(&mut self, path: impl FnOnce() -> String, bytes: u64, why: KeptWhy) {
        self.kept_files += 1;
        self.kept_bytes += bytes;
        let counter = match why {
            KeptWhy::Pinned => &mut self.kept_pinned,
            KeptWhy::InUse => &mut self.kept_in_use,
            KeptWhy::Own => &mut self.kept_own,
            KeptWhy::Failed => &mut self.kept_failed,
        };
        *counter += 1;
        if self.kept.len() < NAMED {
            self.kept.push(Kept { path: path(), why });
        }
    }
}

fn why_kept(e: &CacheError) -> KeptWhy {
    match e {
        CacheError::Pinned => KeptWhy::Pinned,
        CacheError::Busy => KeptWhy::InUse,
        _ => {
            warn!(error = %e, "a content could not be evicted");
            KeptWhy::Failed
        }
    }
}

impl Inner {
    /// Returns the cache's figures.
    #[must_use]
    pub fn cache_stat(&self) -> CacheStat {
        let (usage, heads) = (self.cache.usage(), self.heads.usage());
        CacheStat {
            dir: self.cache_dir.clone(),
            bytes: usage.bytes,
            max_bytes: usage.max_bytes,
            reserved_bytes: usage.reserved_bytes,
            pinned_bytes: usage.pinned_bytes,
            pinned_contents: usage.pinned_contents,
            contents: usage.contents,
            contents_in_use: usage.live_contents,
            granules: usage.granules,
            evicted_bytes: usage.evicted_bytes,
            bad_granules: usage.bad_granules,
            refused_fills: usage.refused_fills,
            folders_lost: usage.folders_lost,
            disk_free_bytes: disk_space(&self.cache_dir).1,
            min_free_bytes: self.limits.cache_min_free,
            pin_room_bytes: self.room().bytes(),
            scrub: self.scrub_now(),
            head_bytes: heads.bytes,
            max_head_bytes: heads.max_bytes,
            heads: heads.contents,
        }
    }

    /// Drops the resident bytes of what paths and patterns cover, but for what is pinned, in use, or nowhere else.
    ///
    /// # Errors
    /// See [`PinError`].
    pub fn evict(&self, paths: &[String]) -> Result<EvictReport, PinError> {
        let mut walk = Walk::new(self.scopes_of(paths)?);
        let (rules, mut report) = (self.pins.rules(), EvictReport::default());
        while let Some(page) = walk.next(self)? {
            for found in page {
                let path = || found.path_in_drive().to_string();
                let Some(look) = self.look_at(&found.node) else {
                    report.keep(path, self.as_written(found.node.clone()).size, KeptWhy::Own);
                    continue;
                };
                if look.resident == 0 {
                    continue;
                }
                // A rule that was just set has no marks yet.
                if rules.cover(&found.project, &found.path) {
                    report.keep(path, look.resident, KeptWhy::Pinned);
                    continue;
                }
                match self.cache.evict(look.id) {
                    Ok(freed) => {
                        report.evicted_files += 1;
                        report.evicted_bytes += freed;
                    }
                    Err(e) => report.keep(path, look.resident, why_kept(&e)),
                }
            }
        }
        info!(files = report.evicted_files, bytes = report.evicted_bytes, "evicted");
        Ok(report)
    }

    /// Drops everything from the cache but what is pinned or in use, versions that no file has any more included.
    #[must_use]
    pub fn clear_cache(&self) -> EvictReport {
        let mut report = EvictReport::default();
        for (id, len) in self.cache.contents() {
            match self.cache.evict(id) {
                Ok(freed) => {
                    report.evicted_files += 1;
                    report.evicted_bytes += freed;
                }
                Err(e) => {
                    let resident = match self.cache.residency(id, len) {
                        Ok(backlot_cache::Residency::Full) => len,
                        Ok(backlot_cache::Residency::Partial(bytes)) => bytes,
                        Ok(backlot_cache::Residency::None) | Err(_) => 0,
                    };
                    report.keep(|| id.to_string(), resident, why_kept(&e));
                }
            }
        }
        self.heads.clear();
        // Numbers of contents say nothing to anybody.
        report.kept.clear();
        info!(
            contents = report.evicted_files,
            bytes = report.evicted_bytes,
            "the cache was cleared"
        );
        report
    }

    /// Returns the folders that hold most of the cache, by the folder that files lie in, or by its first `depth` names.
    /// Goes through the whole tree.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn cache_top(&self, depth: Option<usize>, limit: usize) -> Result<CacheTop, PinError> {
        let mut walk = Walk::new(self.scopes_of(&[String::new()])?);
        let (rules, mut folders) = (self.pins.rules(), HashMap::<RelPath, TopRow>::new());
        let mut bytes = 0;
        while let Some(page) = walk.next(self)? {
            for found in page {
                let Some(look) = self.look_at(&found.node).filter(|look| look.resident > 0) else {
                    continue;
                };
                let folder = found
                    .path_in_drive()
                    .split_last()
                    .map(|(folder, _)| folder)
                    .unwrap_or_default();
                let names = folder.components().filter_map(|name| Name::new(name).ok());
                let folder = names
                    .take(depth.unwrap_or(usize::MAX))
                    .fold(RelPath::root(), |path, name| path.join(&name));
                let row = folders.entry(folder).or_default();
                row.files += 1;
                row.bytes += look.resident;
                bytes += look.resident;
                if rules.cover(&found.project, &found.path) {
                    row.pinned_bytes += look.resident;
                }
            }
            if self.stop.is_cancelled() {
                return Err(StateError::Closed.into());
            }
        }
        let count = folders.len();
        let mut rows: Vec<TopRow> = folders
            .into_iter()
            .map(|(path, row)| TopRow {
                path: path.to_string(),
                ..row
            })
            .collect();
        rows.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        rows.truncate(limit);
        Ok(CacheTop {
            rows,
            folders: count as u64,
            bytes,
            other_bytes: self.cache.usage().bytes.saturating_sub(bytes),
        })
    }

    /// Returns how far the verification is that runs, or how the last one ended.
    #[must_use]
    pub fn verification(&self) -> VerifyProgress {
        self.verification.progress().clone()
    }

    fn verify_all(&self) {
        let contents = self.cache.contents();
        self.verification.progress().contents = contents.len() as u64;
        for (id, _) in contents {
            let mut at = 0;
            while at < u64::MAX && !self.stop.is_cancelled() {
                match self.verify_piece(id, at) {
                    Ok(Some((verified, next))) => {
                        let mut progress = self.verification.progress();
                        progress.bytes += verified.bytes;
                        progress.bad_granules += verified.bad_granules;
                        at = next;
                    }
                    // Evicted meanwhile.
                    Ok(None) => break,
                    Err(e) => {
                        debug!(content = %id, error = %e, "not verified");
                        self.verification.progress().unreadable += 1;
                        break;
                    }
                }
            }
            if self.stop.is_cancelled() {
                return;
            }
            if at == u64::MAX {
                self.cache.looked_at(id, None);
            }
            self.verification.progress().verified_contents += 1;
        }
        self.heads.verify(|looked| {
            let mut progress = self.verification.progress();
            match looked {
                Ok(verified) => {
                    progress.head_bytes += verified.bytes;
                    progress.bad_granules += verified.bad_granules;
                }
                Err(e) => {
                    debug!(error = %e, "a head is not verified");
                    progress.unreadable += 1;
                }
            }
            !self.stop.is_cancelled()
        });
    }
}

impl Drive {
    /// Begins to hold all of the cache, and the beginnings and ends kept apart, against their checksums, unless that is under way;
    /// returns how far it is. What is bad is dropped, and fetched again when it is wanted.
    #[must_use]
    pub fn verify_cache(&self) -> VerifyProgress {
        if self.verification.is_running.swap(true, Ordering::AcqRel) {
            return self.verification();
        }
        *self.verification.progress() = VerifyProgress {
            running: true,
            ..VerifyProgress::default()
        };
        let drive = Arc::clone(self.inner());
        tokio::task::spawn_blocking(move || {
            drive.verify_all();
            drive.verification.progress().running = false;
            drive.verification.is_running.store(false, Ordering::Release);
        });
        self.verification()
    }
}
