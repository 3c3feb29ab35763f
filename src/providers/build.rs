//! From a site's settings to its provider, wrapped in its layers.
//!
//! Owns: which provider and which layers, in which order: `Meter(Retry(Throttle(Link(provider))))`; why this order is said
//! in [`layers`](super::layers). Refuses to know: where settings come from. Invariant: no connection is made here, so that
//! a site that is out of reach does not keep the daemon from starting.

use std::sync::Arc;
use std::time::Duration;

use backlot_config::{ByteSize, LocalSite as LocalSettings, Period, ProviderSettings, Site};

use super::exec::ExecSite;
use super::gdrive::GdriveSite;
use super::layers::{Layer, Limits, LinkControl, LinkLayer, Meter, MeterLayer, RetryLayer, RetryPolicy, ThrottleLayer};
use super::local::LocalSite;
use super::s3::S3Site;
use super::sftp::SftpSite;
use super::webdav::WebdavSite;
use super::{ErrorKind, Op, Provider, ProviderError};
use crate::model::SiteName;

/// What the rest of the daemon holds of a site's layers, to look at and to change while it runs.
#[derive(Clone, Debug)]
pub struct Controls {
    /// Counters of what callers asked for.
    pub meter: Arc<Meter>,
    /// Bytes per second; none until somebody sets them.
    pub limits: Arc<Limits>,
    /// The simulated wire of a local site whose settings ask for one, or of any site in a demo. `None`: no such layer.
    pub link: Option<Arc<LinkControl>>,
    /// How long an operation may make no progress. Below the deadline of a reader (20 s), so that the site's own error is
    /// what the reader hears.
    pub idle_timeout: Duration,
    /// How often to try again.
    pub retry: RetryPolicy,
}

impl Default for Controls {
    fn default() -> Self {
        Self {
            meter: Arc::default(),
            limits: Arc::default(),
            link: None,
            idle_timeout: Duration::from_secs(15),
            retry: RetryPolicy::default(),
        }
    }
}

impl Controls {
    /// Returns controls for a site with these settings, with the simulated wire that they ask for.
    #[must_use]
    pub fn of(settings: &Site) -> Self {
        let controls = Self::default();
        let link = match &settings.provider {
            ProviderSettings::Local(local) => wire(local, controls.idle_timeout),
            _ => None,
        };
        Self { link, ..controls }
    }
}

fn wire(local: &LocalSettings, idle_timeout: Duration) -> Option<Arc<LinkControl>> {
    if local.link_delay.is_none() && local.link_rate.is_none() {
        return None;
    }
    let delay = local.link_delay.map_or(Duration::ZERO, Period::as_duration);
    Some(Arc::new(LinkControl::new(
        delay,
        local.link_rate.map(ByteSize::bytes),
        idle_timeout,
    )))
}

/// Makes the provider of a site, in its layers.
///
/// # Errors
/// `Config` when the settings can't work, with what to change; `Auth` when a secret they refer to can't be had. The text
/// names the site.
pub fn build(name: &SiteName, settings: &Site, controls: &Controls) -> Result<Arc<dyn Provider>, ProviderError> {
    let requests = settings.limits.max_requests.map(|n| n as usize);
    let named = |e: ProviderError| ProviderError::new(e.kind, e.op).because(format!("[sites.{name}]: {e}"));
    let mut provider: Arc<dyn Provider> = match &settings.provider {
        ProviderSettings::Local(local) => {
            if local.root.as_os_str().is_empty() {
                return Err(config(
                    name,
                    "`root` is missing; give the folder that holds the site's bytes",
                ));
            }
            Arc::new(LocalSite::new(&local.root, requests, controls.idle_timeout))
        }
        ProviderSettings::Sftp(sftp) => {
            let site = SftpSite::new(sftp, requests, controls.idle_timeout);
            Arc::new(site.map_err(named)?)
        }
        ProviderSettings::Exec(exec) => Arc::new(ExecSite::new(exec, requests, controls.idle_timeout).map_err(named)?),
        ProviderSettings::Gdrive(gdrive) => {
            Arc::new(GdriveSite::new(gdrive, requests, controls.idle_timeout).map_err(named)?)
        }
        ProviderSettings::S3(s3) => Arc::new(S3Site::new(s3, requests, controls.idle_timeout).map_err(named)?),
        ProviderSettings::Webdav(webdav) => {
            Arc::new(WebdavSite::new(webdav, requests, controls.idle_timeout).map_err(named)?)
        }
    };
    if let Some(link) = &controls.link {
        provider = LinkLayer::new(Arc::clone(link)).over(provider);
    }
    provider = ThrottleLayer::new(Arc::clone(&controls.limits)).over(provider);
    provider = RetryLayer::new(controls.retry).over(provider);
    Ok(MeterLayer::new(Arc::clone(&controls.meter)).over(provider))
}

fn config(name: &SiteName, why: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Config, Op::Connect).because(format!("[sites.{name}]: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelPath;

    #[tokio::test]
    async fn a_local_site_is_built_with_all_its_layers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let local = LocalSettings {
            root: dir.path().to_owned(),
            link_delay: Some(Period::from_millis(1)),
            link_rate: None,
        };
        let site = Site::new(ProviderSettings::Local(local));
        let controls = Controls::of(&site);
        let provider = build(&SiteName("nas".into()), &site, &controls).unwrap();
        assert_eq!(provider.stat(&RelPath::new("f").unwrap()).await.unwrap().size, 1);
        assert_eq!(controls.meter.snapshot().calls(Op::Stat), 1);
        assert!(controls.link.is_some());
    }

    #[test]
    fn settings_that_make_no_sense_name_their_site() {
        let site = Site::new(ProviderSettings::Local(LocalSettings::default()));
        let error = build(&SiteName("nas".into()), &site, &Controls::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config);
        assert!(error.to_string().contains("[sites.nas]"), "{error}");
    }
}
