//! Sites as people ask about them: which there are, whether they work, where files stand.
//!
//! Owns: the words for what a site is to a project. Refuses to know: how files get to sites. Invariant: listing the sites and
//! telling what is known asks none of them anything.

mod check;
pub(in crate::engine) mod doors;
mod states;

use backlot_config::{ProviderSettings, Site as Settings};
use tracing::{debug, warn};

use super::drive::{Inner, LookupError, Project};
use super::link::LinkState;
use super::report::{SiteRoleReport, SiteRowReport};
use super::site::Site;
use crate::model::{Ino, Name, NameRules, PathError, RelPath, SiteName, Version};
use crate::state::{SiteRow, SiteStatus, StateError, WriteTxn};

/// Rows of a folder read at a time.
const PAGE: usize = 2048;
/// The word of a site that this machine plays for a project.
const ACTIVE: &str = "active";

/// Why a question about sites has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// No such site.
    #[error("there is no site `{0}`")]
    NoSite(String),
    /// What was asked for.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A path that can't be.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The drive's root.
    #[error("{0}: lies in no project, and only what does stands at sites")]
    NoProject(RelPath),
    /// The store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The work was cut off.
    #[error("the answer was cut off")]
    Cut,
}

/// What the settings say of a site.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    provider: &'static str,
    /// Where it is, for people.
    root: String,
    names: NameRules,
}

/// Most bytes of an object's key in S3.
const S3_KEY_MAX: usize = 1023;

impl Shape {
    pub(super) fn of(settings: &Settings) -> Self {
        let root = match &settings.provider {
            ProviderSettings::Local(local) => local.root.display().to_string(),
            ProviderSettings::Sftp(sftp) => format!("{}@{}:{}{}", sftp.user, sftp.host, sftp.port, sftp.root),
            ProviderSettings::Exec(exec) => exec.command.join(" "),
            ProviderSettings::Gdrive(drive) => drive.folder_id.clone().unwrap_or_else(|| drive.root.clone()),
            ProviderSettings::S3(s3) => {
                let below = [s3.bucket.as_str(), s3.prefix.as_str()].join("/");
                let at = if s3.endpoint.is_empty() {
                    &s3.region
                } else {
                    &s3.endpoint
                };
                format!("{} at {at}", below.trim_end_matches('/'))
            }
            ProviderSettings::Webdav(webdav) => webdav.url.clone(),
        };
        let names = NameRules {
            utf8: !matches!(
                settings.provider,
                ProviderSettings::Local(_) | ProviderSettings::Sftp(_)
            ),
            windows: settings.limits.windows_names,
            path_max: match &settings.provider {
                ProviderSettings::S3(s3) if s3.prefix.is_empty() => Some(S3_KEY_MAX),
                ProviderSettings::S3(s3) => Some(S3_KEY_MAX.saturating_sub(s3.prefix.len() + 1)),
                ProviderSettings::Local(_)
                | ProviderSettings::Sftp(_)
                | ProviderSettings::Exec(_)
                | ProviderSettings::Gdrive(_)
                | ProviderSettings::Webdav(_) => None,
            },
        };
        Self {
            provider: settings.provider.name(),
            root,
            names,
        }
    }
}

impl Inner {
    /// Returns the sites with what they are to projects: this machine first, then by name.
    #[must_use]
    pub fn site_list(&self) -> Vec<SiteRowReport> {
        let here = SiteName(self.site_id().to_owned());
        let mut rows = Vec::new();
        // A machine that plays one of the sites is that one.
        if !self.sites.contains_key(&here) {
            let plays = |project: &&std::sync::Arc<Project>| project.active.is_none();
            rows.push(SiteRowReport {
                name: here.0.clone(),
                provider: "drive".to_owned(),
                root: self.mount_point.display().to_string(),
                link: "up".to_owned(),
                reason: None,
                alternative_sites: Vec::new(),
                roles: self
                    .projects
                    .iter()
                    .filter(plays)
                    .map(|project| role(project, ACTIVE.to_owned(), project.folder_path()))
                    .collect(),
            });
        }
        rows.extend(self.sites.values().map(|site| self.site_row(site)));
        rows
    }

    fn site_row(&self, site: &Site) -> SiteRowReport {
        let (link, reason) = match site.link().state() {
            LinkState::Unknown => ("unknown", None),
            LinkState::Up => ("up", None),
            LinkState::Down { reason, .. } => ("down", Some(reason)),
        };
        let shape = self.shapes.get(site.name());
        let others = self.doors.of(site.name());
        let others = others.iter().filter(|door| *door != site.name());
        let roles = self.projects.iter().filter_map(|project| {
            let word = self.role_of(project, site.name())?;
            Some(role(project, word, project.path_at(site.name())))
        });
        SiteRowReport {
            name: site.name().0.clone(),
            provider: shape.map_or("given", |shape| shape.provider).to_owned(),
            root: shape.map(|shape| shape.root.clone()).unwrap_or_default(),
            link: link.to_owned(),
            reason,
            alternative_sites: others.map(|door| door.0.clone()).collect(),
            roles: roles.collect(),
        }
    }

    /// Returns the word for what a site is to a project, if it is anything.
    fn role_of(&self, project: &Project, site: &SiteName) -> Option<String> {
        let remote = project.site.name();
        if site == remote {
            return Some("remote".to_owned());
        }
        if project.active.as_ref() == Some(site) {
            return Some(ACTIVE.to_owned());
        }
        if project.always.iter().any(|always| always.name() == site) {
            return Some("always-accessible-on".to_owned());
        }
        let known = [remote]
            .into_iter()
            .chain(project.always.iter().map(|always| always.name()));
        let door = known.into_iter().find(|known| self.doors.are_one(known, site))?;
        Some(format!("door to {door}"))
    }

    /// Returns what a site asks of names.
    pub(super) fn names_at(&self, site: &SiteName) -> NameRules {
        self.shapes.get(site).map(|shape| shape.names).unwrap_or_default()
    }

    /// Says why a project's site can't hold a file, if it can't; `at` is its name in the drive, `below` its path in the
    /// project.
    pub(super) fn refused_at(
        &self,
        project: &Project,
        site: &SiteName,
        at: (Ino, &Name),
        below: &RelPath,
    ) -> Result<Option<String>, StateError> {
        let rules = self.names_at(site);
        if let Some(why) = rules.refuse(&project.path_at(site).concat(below)) {
            return Ok(Some(format!("{site} can't hold it: {why}")));
        }
        let Some(folded) = rules.folded(at.1) else {
            return Ok(None);
        };
        let mut after = 0;
        loop {
            let rows = self.tree.children(at.0, after, PAGE)?;
            let same = rows
                .iter()
                .find(|row| row.name != *at.1 && rules.folded(&row.name).as_ref() == Some(&folded));
            if let Some(same) = same {
                return Ok(Some(format!(
                    "{site} can't hold it beside {}: names that differ in capitals are one there",
                    same.name
                )));
            }
            match rows.last().filter(|_| rows.len() == PAGE) {
                Some(last) => after = last.cookie,
                None => return Ok(None),
            }
        }
    }

    /// Returns what a publish has to note about sites beside the project's remote one: those that are to have everything, and
    /// why one can't.
    pub(super) fn wanted_elsewhere(&self, project: &Project, at: (Ino, &Name), below: &RelPath) -> Vec<Elsewhere> {
        let sites = project.always.iter().map(|site| {
            let refused = self.refused_at(project, site.name(), at, below).unwrap_or_else(|e| {
                debug!(path = %below, error = %e, "whether a site can hold the name is not known");
                None
            });
            if let Some(why) = &refused {
                warn!(path = %below, %why, "a file was published that a site which is to have everything can't hold");
            }
            Elsewhere {
                site: site.name().clone(),
                refused,
            }
        });
        sites.collect()
    }

    fn known_site(&self, name: &str) -> Result<&std::sync::Arc<Site>, SiteError> {
        let site = self.sites.get(&SiteName(name.to_owned()));
        site.ok_or_else(|| SiteError::NoSite(name.to_owned()))
    }
}

fn role(project: &Project, role: String, path: RelPath) -> SiteRoleReport {
    SiteRoleReport {
        project: project.name.0.clone(),
        role,
        path: path.to_string(),
    }
}

/// A site beside the project's remote one that is to have what is published.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere {
    site: SiteName,
    /// Why it can't.
    refused: Option<String>,
}

/// Notes, in the write that records a publish, what follows from it at other sites: those that are to have everything lack
/// this. What lies at the project's remote site is the tree's to say.
pub(super) fn published(
    txn: &WriteTxn<'_>,
    (root, path): (Ino, &RelPath),
    (remote, elsewhere): (&SiteName, &[Elsewhere]),
    (version, size): (&Version, u64),
    now_ms: i64,
) -> Result<(), StateError> {
    for Elsewhere { site, refused } in elsewhere {
        if let Some(why) = refused {
            let row = SiteRow {
                status: SiteStatus::Failed,
                size,
                error: Some(why.clone()),
                ..SiteRow::new(site.clone(), now_ms)
            };
            txn.set_site_row(root, path, &row)?;
            continue;
        }
        let known = txn.site_rows(root, path)?;
        let is_there = |row: &SiteRow| row.site == *site && row.is_copy_of(remote, version);
        if !known.iter().any(is_there) {
            txn.want_at_site(root, path, site, size, now_ms)?;
        }
    }
    Ok(())
}
