//! How fast bytes may move to and from each site: by the settings' timetable, or by what somebody said since.
//!
//! Owns: which limit is in force now, and when that changes. Refuses to know: what moves, how a limit is kept to (the
//! throttle layer does). Invariant: what somebody said counts until it is taken back or the daemon ends; the settings are
//! never written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use backlot_config::{ByteSize, MinuteOfWeek, SiteLimits, Timetable, TimetableError};
use tracing::info;

use super::drive::{Drive, Inner};
use super::report::{LimitReport, LimitRequest, SiteLimitReport};
use crate::model::SiteName;
use crate::providers::layers::{Bucket, Limits};

/// The longest sleep between two looks at the clock: it may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(30);
/// The word that gives a direction back to the settings.
const AUTO: &str = "auto";

/// Why limits are not changed.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// No site of this name is in the settings, or it has no limits.
    #[error("there is no site `{0}` whose limits could be changed")]
    NoSite(String),
    /// No rate and no timetable.
    #[error(transparent)]
    Timetable(#[from] TimetableError),
    /// A rate that lets nothing through.
    #[error("0 would let nothing through")]
    NoRate,
}

/// The limits of a drive's sites.
#[derive(Debug, Default)]
pub(super) struct Bandwidth(BTreeMap<SiteName, SiteBandwidth>);

#[derive(Debug)]
struct SiteBandwidth {
    limits: Arc<Limits>,
    download: Mutex<Direction>,
    upload: Mutex<Direction>,
}

/// One direction of one site.
#[derive(Debug, Default)]
struct Direction {
    settings: Option<Timetable>,
    /// What somebody said since the start.
    by_hand: Option<Timetable>,
}

impl Direction {
    fn of(settings: Option<&Timetable>) -> Mutex<Self> {
        Mutex::new(Self {
            settings: settings.cloned(),
            by_hand: None,
        })
    }

    fn table(&self) -> Option<&Timetable> {
        self.by_hand.as_ref().or(self.settings.as_ref())
    }

    fn keep_to(&self, bucket: &Bucket, now: MinuteOfWeek) {
        let rate = self.table().and_then(|table| table.at(now)).map(ByteSize::bytes);
        if bucket.rate() != rate {
            bucket.set_rate(rate);
        }
    }

    fn report(&self, bucket: &Bucket, now: MinuteOfWeek) -> LimitReport {
        LimitReport {
            bytes_per_second: bucket.rate(),
            by_hand: self.by_hand.is_some(),
            timetable: self.table().map(ToString::to_string),
            changes_in_minutes: self.table().and_then(|table| table.changes_in(now)),
        }
    }
}

fn locked(direction: &Mutex<Direction>) -> MutexGuard<'_, Direction> {
    direction.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SiteBandwidth {
    fn keep_to(&self, now: MinuteOfWeek) {
        locked(&self.download).keep_to(&self.limits.download, now);
        locked(&self.upload).keep_to(&self.limits.upload, now);
    }

    fn report(&self, name: &SiteName, now: MinuteOfWeek) -> SiteLimitReport {
        SiteLimitReport {
            site: name.0.clone(),
            download: locked(&self.download).report(&self.limits.download, now),
            upload: locked(&self.upload).report(&self.limits.upload, now),
        }
    }
}

impl Bandwidth {
    /// Takes in a site, and has its limits kept to from now on.
    pub(super) fn add(&mut self, name: SiteName, settings: &SiteLimits, limits: Arc<Limits>) {
        let site = SiteBandwidth {
            limits,
            download: Direction::of(settings.download_limit.as_ref()),
            upload: Direction::of(settings.upload_limit.as_ref()),
        };
        site.keep_to(now());
        self.0.insert(name, site);
    }

    fn keep_to(&self, now: MinuteOfWeek) {
        self.0.values().for_each(|site| site.keep_to(now));
    }
}

/// Keeps to the timetables for as long as the drive lives.
pub(super) async fn keep_to_timetables(drive: Weak<Inner>) {
    loop {
        let Some(alive) = drive.upgrade() else { return };
        alive.bandwidth.keep_to(now());
        let stop = alive.stop.clone();
        drop(alive);
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

impl Drive {
    /// Returns the limits of all sites.
    #[must_use]
    pub fn limits(&self) -> Vec<SiteLimitReport> {
        let now = now();
        self.bandwidth
            .0
            .iter()
            .map(|(name, site)| site.report(name, now))
            .collect()
    }

    /// Changes the limits of a site at once, for what is under way too, until the daemon ends.
    ///
    /// # Errors
    /// When there is no such site, or a text is no rate and no timetable; nothing was changed.
    pub fn set_limits(&self, request: &LimitRequest) -> Result<SiteLimitReport, LimitError> {
        let name = SiteName(request.site.clone());
        let site = self
            .bandwidth
            .0
            .get(&name)
            .ok_or_else(|| LimitError::NoSite(request.site.clone()))?;
        let [download, upload] = [parsed(request.download.as_deref())?, parsed(request.upload.as_deref())?];
        for (said, direction) in [(download, &site.download), (upload, &site.upload)] {
            if let Some(said) = said {
                locked(direction).by_hand = said;
            }
        }
        site.keep_to(now());
        let report = site.report(&name, now());
        info!(
            site = %name,
            download = report.download.timetable.as_deref().unwrap_or("off"),
            upload = report.upload.timetable.as_deref().unwrap_or("off"),
            "limits were changed"
        );
        Ok(report)
    }
}

/// `None`: stays as it is; `Some(None)`: as the settings say.
fn parsed(text: Option<&str>) -> Result<Option<Option<Timetable>>, LimitError> {
    let Some(text) = text else { return Ok(None) };
    if text == AUTO {
        return Ok(Some(None));
    }
    let table: Timetable = text.parse().map_err(LimitError::from)?;
    if table.lets_nothing_through() {
        return Err(LimitError::NoRate);
    }
    Ok(Some(Some(table)))
}

/// The minute of the week on this machine's clock.
fn now() -> MinuteOfWeek {
    let now = jiff::Zoned::now();
    let part = |n: i8| u8::try_from(n).unwrap_or(0);
    MinuteOfWeek::new(
        part(now.weekday().to_monday_zero_offset()),
        part(now.hour()),
        part(now.minute()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_counts_before_the_settings_until_it_is_taken_back() {
        let limits = Arc::new(Limits::default());
        let mut all = Bandwidth::default();
        let settings = SiteLimits {
            download_limit: Some("08:00,10M 19:00,off".parse().expect("a timetable")),
            ..SiteLimits::default()
        };
        let name = SiteName("studio".into());
        all.add(name.clone(), &settings, Arc::clone(&limits));
        let noon = MinuteOfWeek::new(2, 12, 0);
        all.keep_to(noon);
        assert_eq!(limits.download.rate(), Some(10_000_000));
        assert_eq!(limits.upload.rate(), None);
        all.keep_to(MinuteOfWeek::new(2, 19, 0));
        assert_eq!(limits.download.rate(), None, "in the evening");
        locked(&all.0[&name].download).by_hand = parsed(Some("1M/s")).expect("a rate").expect("said");
        all.keep_to(noon);
        let report = all.0[&name].report(&name, noon);
        assert_eq!(
            (report.download.bytes_per_second, report.download.by_hand),
            (Some(1_000_000), true)
        );
        locked(&all.0[&name].download).by_hand = parsed(Some(AUTO)).expect("a word").expect("said");
        all.keep_to(noon);
        let report = all.0[&name].report(&name, noon);
        assert_eq!(report.download.bytes_per_second, Some(10_000_000));
        assert_eq!(report.download.changes_in_minutes, Some(7 * 60));
    }

    #[test]
    fn nothing_is_no_rate() {
        assert!(matches!(parsed(Some("0")), Err(LimitError::NoRate)));
        assert!(matches!(parsed(Some("08:00,0 19:00,off")), Err(LimitError::NoRate)));
        assert!(matches!(parsed(Some("fast")), Err(LimitError::Timetable(_))));
        assert!(matches!(parsed(None), Ok(None)));
    }
}
