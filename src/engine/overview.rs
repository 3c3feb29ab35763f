//! What `status` shows of a drive: put together from whoever knows it.
//!
//! Owns: nothing but the gathering. Refuses to know: how it is shown. Invariant: asking waits for no site.

use std::sync::atomic::Ordering;

use super::drive::{HostReport, Inner, disk_space};
use super::report::{CacheReport, FlightReport, HydrationReport, ProgramsReport, ProjectReport, SiteReport, Status};
use crate::state::StateError;

impl Inner {
    /// Returns total and free bytes: of the first site that tells, else of the cache's disk.
    pub(super) fn space(&self) -> (u64, u64) {
        let told = self.projects.iter().find_map(|p| p.site.space());
        told.map_or_else(|| disk_space(&self.cache_dir), |s| (s.total, s.available))
    }

    /// Returns the drive's name and folders, its projects, sites, cache and counters.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn status(&self) -> Result<Status, StateError> {
        let counts = self.tree.counts()?;
        let usage = self.cache.usage();
        let projects = self.projects.iter().map(|p| {
            let scan = self.store.read(|txn| txn.finished_scan(p.root))?;
            Ok(ProjectReport::new(p, scan, self.scans.of(p.root)))
        });
        Ok(Status {
            name: self.name.clone(),
            site_id: self.site_id().to_owned(),
            mount_point: self.mount_point.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            entries: counts.entries,
            files: counts.files,
            bytes: counts.bytes,
            projects: projects.collect::<Result<_, StateError>>()?,
            sites: self.sites.values().map(|s| SiteReport::new(s)).collect(),
            cache: CacheReport::new(&usage, &self.cache_dir, self.scrub.told()),
            hydration: HydrationReport {
                fetched_bytes: self.stats.fetched_bytes.load(Ordering::Relaxed),
                fetches: self.stats.fetches.load(Ordering::Relaxed),
                failed: self.stats.failed.load(Ordering::Relaxed),
                cancelled: self.stats.cancelled.load(Ordering::Relaxed),
                uncached_bytes: self.stats.uncached_bytes.load(Ordering::Relaxed),
                head_bytes: self.heads.served(),
                open_handles: self.handles.len(),
                in_flight: self.in_flight(),
                mismatches: self.mismatch_reports(),
            },
            programs: self.programs(),
            sequences: self.sequences.report(self)?,
            native_reads: self.host_report().map(|host| host.native.into()),
            pins: self.pin_totals(),
            publishing: self.publishing()?,
        })
    }

    pub(super) fn host_report(&self) -> Option<HostReport> {
        self.host.get().and_then(|tells| tells())
    }

    /// Returns what was fetched for which program since the start, and what was refused to whom.
    #[must_use]
    pub fn programs(&self) -> ProgramsReport {
        self.firewall.report()
    }

    fn in_flight(&self) -> Vec<FlightReport> {
        let mut out = Vec::new();
        for (_, content) in self.handles.contents() {
            let flights = content.in_flight();
            if flights.is_empty() {
                continue;
            }
            out.push(FlightReport {
                path: content.path().to_string(),
                site: content.site().name().0.clone(),
                size: content.content().len(),
                resident_bytes: content.content().resident_bytes(),
                requests: flights.len(),
            });
        }
        out
    }
}
