//! Which sites are doors to one storage.
//!
//! Owns: what follows from the settings' `alternative-sites`: said of one, it counts both ways, and from door to door.
//! Refuses to know: what is at a site. Invariant: each site is in one storage, and with no other sites in it is one by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::SiteName;

/// The storages of a drive's sites.
#[derive(Debug, Default)]
pub(in crate::engine) struct Doors(BTreeMap<SiteName, Arc<[SiteName]>>);

impl Doors {
    /// Makes the storages of sites that name others.
    pub(in crate::engine) fn new<'s>(sites: impl IntoIterator<Item = (&'s String, &'s [String])>) -> Self {
        let mut storages: Vec<Vec<SiteName>> = Vec::new();
        for (site, others) in sites {
            let mut joined: Vec<SiteName> = others.iter().chain([site]).cloned().map(SiteName).collect();
            // All that has a door in common is one.
            storages.retain_mut(|storage| {
                let apart = !storage.iter().any(|door| joined.contains(door));
                if !apart {
                    joined.append(storage);
                }
                apart
            });
            joined.sort();
            joined.dedup();
            storages.push(joined);
        }
        let mut doors = BTreeMap::new();
        for storage in storages {
            let storage: Arc<[SiteName]> = storage.into();
            doors.extend(storage.iter().map(|door| (door.clone(), Arc::clone(&storage))));
        }
        Self(doors)
    }

    /// Returns all doors to the storage behind a site, itself among them.
    pub(in crate::engine) fn of(&self, site: &SiteName) -> Arc<[SiteName]> {
        self.0.get(site).cloned().unwrap_or_else(|| [site.clone()].into())
    }

    /// Says whether two sites are one storage.
    pub(in crate::engine) fn are_one(&self, a: &SiteName, b: &SiteName) -> bool {
        a == b || self.of(a).contains(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(sites: &[(&str, &[&str])]) -> Doors {
        let owned: Vec<(String, Vec<String>)> = sites
            .iter()
            .map(|(site, others)| ((*site).to_owned(), others.iter().map(|o| (*o).to_owned()).collect()))
            .collect();
        Doors::new(owned.iter().map(|(site, others)| (site, others.as_slice())))
    }

    fn site(text: &str) -> SiteName {
        SiteName(text.to_owned())
    }

    #[test]
    fn a_door_named_by_one_side_counts_both_ways_and_from_door_to_door() {
        // sftp-ext names studio; the farm names sftp-ext: one storage with three names. The vault is by itself.
        let doors = doors(&[
            ("farm", &["sftp-ext"]),
            ("sftp-ext", &["studio"]),
            ("studio", &[]),
            ("vault", &[]),
        ]);
        for name in ["farm", "sftp-ext", "studio"] {
            let all = [site("farm"), site("sftp-ext"), site("studio")];
            assert_eq!(&*doors.of(&site(name)), all, "{name}");
        }
        assert_eq!(&*doors.of(&site("vault")), [site("vault")]);
        assert!(doors.are_one(&site("studio"), &site("farm")) && doors.are_one(&site("farm"), &site("studio")));
        assert!(!doors.are_one(&site("studio"), &site("vault")));
        assert!(doors.are_one(&site("unheard-of"), &site("unheard-of")));
    }

    #[test]
    fn two_storages_that_a_third_site_joins_are_one() {
        let doors = doors(&[("a", &["b"]), ("c", &["d"]), ("e", &["a", "d"])]);
        assert_eq!(doors.of(&site("b")).len(), 5);
    }
}
