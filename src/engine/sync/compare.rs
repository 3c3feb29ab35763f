//! What a site lacks of a folder of a project: its listing, held against the tree and against what is known.
//!
//! Owns: that comparison, and writing down what it found. Refuses to know: when to compare, how files are copied.
//! Invariants: absence is taken only from a listing that ended whole; what lies at the site and did not come from the project
//! is never marked to be replaced; what a site lacks is put into the queue in the write that says so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;

use super::enqueue;
use crate::engine::drive::{Inner, Project, now_ms};
use crate::engine::site::Site;
use crate::model::{EntryKind, Ino, Name, RelPath, SiteName, Version};
use crate::providers::{Capabilities, Entry, ErrorKind, ProviderError};
use crate::state::{Child, Node, SiteRow, SiteStatus, StateError};

/// Rows of a folder read at a time.
const PAGE: usize = 2048;
/// Files written down in one write: the writer is held up for a few milliseconds at most.
const BATCH: usize = 500;
/// Times closer than this are one, on sites that cut them: FAT and many servers keep whole seconds.
const TIME_STEP_NS: u64 = 1_000_000_000;

/// Why a folder was not compared.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum Trouble {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "the site shows the project's folder empty, and files are known to be there; that is not believed, as a share that \
         is not mounted looks the same. If it is meant, put any file there"
    )]
    Empty,
}

/// What a comparison found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Files of the project.
    pub(super) files: u64,
    /// Those of them that are there.
    pub(super) there: u64,
    /// Those that are there as somebody else's.
    pub(super) foreign: u64,
    /// Those that were put into the queue.
    pub(super) enqueued: u64,
    /// The folders in the folder.
    pub(super) folders: Vec<(Ino, RelPath)>,
    /// Folders that could not be looked at, though the site answers.
    pub(super) failed: u64,
    /// Why the first of them could not.
    pub(super) why: Option<String>,
}

/// A file that a site lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Want {
    /// Below the project's folder.
    pub(super) path: RelPath,
    /// Its length in bytes.
    pub(super) size: u64,
    /// Its version at the project's remote site.
    pub(super) version: Version,
    /// What of ours it replaces; `None`: nothing may be there but the same bytes.
    pub(super) replaces: Option<Version>,
}

/// How a file of the project stands at the site.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is there, as this version.
    There(Version),
    /// It is not; what of ours may be replaced.
    Lacking { replaces: Option<Version> },
    /// Something else is there, as this version, where it is a file.
    Foreign(Option<Version>),
    /// The site can't hold its name, for this reason.
    Refused(String),
}

/// How well times of two sites can be compared.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Nanoseconds within which times are one; `None`: the site dates files itself, and times tell nothing.
    step_ns: Option<u64>,
}

impl Times {
    fn of(source: &Capabilities, there: &Capabilities) -> Self {
        let step = source.mtime_step_ns.max(there.mtime_step_ns).max(TIME_STEP_NS);
        Self {
            step_ns: there.keeps_mtime.then_some(step),
        }
    }

    fn are_one(self, a: i64, b: i64) -> bool {
        self.step_ns.is_some_and(|step| a.abs_diff(b) < step)
    }
}

/// Decides about one file. `known` is the row of the site for it.
fn verdict(
    (node, source): (&Node, &SiteName),
    known: Option<&SiteRow>,
    there: Option<&Entry>,
    times: Times,
) -> Verdict {
    let Some(there) = there else {
        return Verdict::Lacking { replaces: None };
    };
    if there.kind != EntryKind::File {
        return Verdict::Foreign(None);
    }
    // What lies there is what was noted: then it is ours, and of which version is known.
    if let Some(row) = known.filter(|row| row.version.as_ref() == Some(&there.version))
        && row.source.as_ref().is_some_and(|(site, _)| site == source)
    {
        return if node
            .version
            .as_ref()
            .is_some_and(|version| row.is_copy_of(source, version))
        {
            Verdict::There(there.version.clone())
        } else {
            Verdict::Lacking {
                replaces: Some(there.version.clone()),
            }
        };
    }
    if there.size == node.size {
        if times.are_one(there.mtime_ns, node.mtime_ns) {
            return Verdict::There(there.version.clone());
        }
        // As long, and nothing more can be told from here: whoever copies looks at the hashes, and replaces nothing else.
        return Verdict::Lacking { replaces: None };
    }
    Verdict::Foreign(Some(there.version.clone()))
}

/// Returns the row that says a verdict, unless the known one says the same.
fn row_of(
    verdict: &Verdict,
    (node, source): (&Node, &SiteName),
    known: Option<&SiteRow>,
    site: &SiteName,
    wanted: bool,
) -> Option<SiteRow> {
    let blank = SiteRow {
        size: node.size,
        ..SiteRow::new(site.clone(), now_ms())
    };
    let row = match verdict {
        Verdict::There(version) => SiteRow {
            status: SiteStatus::Synced,
            version: Some(version.clone()),
            source: node.version.clone().map(|version| (source.clone(), version)),
            ..blank
        },
        Verdict::Lacking { replaces } => SiteRow {
            status: if wanted {
                SiteStatus::Queued
            } else {
                SiteStatus::NotAvailable
            },
            version: replaces.clone(),
            source: known.filter(|_| replaces.is_some()).and_then(|row| row.source.clone()),
            ..blank
        },
        Verdict::Refused(why) => SiteRow {
            status: SiteStatus::Failed,
            error: Some(format!("{site} can't hold it: {why}")),
            ..blank
        },
        Verdict::Foreign(version) => SiteRow {
            status: SiteStatus::Failed,
            version: version.clone(),
            error: Some(format!(
                "{site} has something else under that name, which did not come from this project; it is not replaced"
            )),
            ..blank
        },
    };
    (!known.is_some_and(|known| known.says_the_same(&row))).then_some(row)
}

/// A folder, and what is to become of what is found there.
pub(super) struct Folder<'a> {
    pub(super) project: &'a Project,
    pub(super) site: &'a Site,
    pub(super) dir: Ino,
    /// Below the project's folder.
    pub(super) below: RelPath,
    /// What the site lacks is put into the queue.
    pub(super) wanted: bool,
    /// Only the file of this name.
    pub(super) only: Option<&'a Name>,
}

/// Holds a folder of a site against the tree.
pub(super) async fn folder(drive: &Arc<Inner>, at: Folder<'_>) -> Result<Found, Trouble> {
    let (project, site) = (at.project, at.site);
    let path = project.path_at(site.name()).concat(&at.below);
    let began_ms = now_ms();
    let listed = match at.only {
        Some(name) => one(site, &path, name).await,
        None => list(site, &path).await,
    };
    let listed = listed.inspect_err(|e| site.link().failed(e))?;
    site.link().answered();
    let root = project.root;
    if at.below.is_root()
        && at.only.is_none()
        && listed.is_empty()
        && drive.store.read(|txn| txn.has_any_at(root, site.name()))?
    {
        return Err(Trouble::Empty);
    }
    let (children, rows) = drive.store.read(|txn| {
        let mut children: Vec<Child> = Vec::new();
        if let Some(name) = at.only {
            let node = txn.lookup(at.dir, name)?;
            children.extend(node.map(|node| Child {
                cookie: 0,
                name: name.clone(),
                node,
            }));
        } else {
            loop {
                let page = txn.children(at.dir, children.last().map_or(0, |last| last.cookie), PAGE)?;
                let is_last = page.len() < PAGE;
                children.extend(page);
                if is_last {
                    break;
                }
            }
        }
        let rows = txn.site_rows_in(root, &at.below)?.into_iter();
        let rows: HashMap<Name, SiteRow> = rows.filter(|(_, row)| row.site == *site.name()).collect();
        Ok((children, rows))
    })?;
    let ended_ms = now_ms();
    let times = Times::of(&project.site.provider().capabilities(), &site.provider().capabilities());
    let (names, mut folded) = (drive.names_at(site.name()), HashMap::new());
    let source = project.site.name();
    let mut found = Found::default();
    let (mut notes, mut wants) = (Vec::new(), Vec::new());
    for Child { name, node, .. } in children {
        let path = at.below.join(&name);
        if node.kind == EntryKind::Dir {
            found.folders.push((node.ino, path));
            continue;
        }
        // What is this machine's own is nowhere yet; links are not copied.
        let Some(version) = node
            .version
            .clone()
            .filter(|_| node.kind == EntryKind::File && !node.own)
        else {
            continue;
        };
        found.files += 1;
        let known = rows.get(&name);
        // Written down since the listing began: that is the later word.
        if let Some(row) = known.filter(|row| (began_ms..=ended_ms).contains(&row.at_ms)) {
            found.there += u64::from(row.status == SiteStatus::Synced);
            continue;
        }
        let refused = names.refuse(&project.path_at(site.name()).concat(&path)).or_else(|| {
            let same = folded.insert(names.folded(&name)?, name.clone())?;
            Some(format!(
                "names that differ in capitals are one there, and {same} is beside it"
            ))
        });
        let verdict = match refused {
            Some(why) => Verdict::Refused(why),
            None => verdict((&node, source), known, listed.get(&name), times),
        };
        notes.extend(row_of(&verdict, (&node, source), known, site.name(), at.wanted).map(|row| (path.clone(), row)));
        match verdict {
            Verdict::There(_) => found.there += 1,
            Verdict::Foreign(_) | Verdict::Refused(_) => found.foreign += 1,
            Verdict::Lacking { replaces } if at.wanted => wants.push(Want {
                path,
                size: node.size,
                version,
                replaces,
            }),
            Verdict::Lacking { .. } => {}
        }
    }
    found.enqueued = write_down(drive, project, site, notes, wants).await?;
    Ok(found)
}

/// Writes down what was found, and puts what is lacking into the queue, some at a time; returns how many tasks are new.
async fn write_down(
    drive: &Arc<Inner>,
    project: &Project,
    site: &Site,
    notes: Vec<(RelPath, SiteRow)>,
    wants: Vec<Want>,
) -> Result<u64, StateError> {
    let root = project.root;
    let route = enqueue::Route::new(project, site);
    let mut enqueued = 0;
    let lacking: HashSet<RelPath> = wants.iter().map(|want| want.path.clone()).collect();
    let (with_tasks, alone): (Vec<_>, Vec<_>) = notes.into_iter().partition(|(path, _)| lacking.contains(path));
    let mut with_tasks: HashMap<RelPath, SiteRow> = with_tasks.into_iter().collect();
    for batch in alone.chunks(BATCH) {
        let batch = batch.to_vec();
        let written = drive.store.write(move |txn| {
            let mut each = batch.iter();
            each.try_for_each(|(path, row)| txn.set_site_row(root, path, row))
        });
        written.await?;
    }
    for batch in wants.chunks(BATCH) {
        let batch: Vec<_> = batch
            .iter()
            .map(|want| (want.clone(), with_tasks.remove(&want.path)))
            .collect();
        let route = route.clone();
        let written = drive.store.write(move |txn| {
            let mut enqueued = 0;
            for (want, row) in &batch {
                if let Some(row) = row {
                    txn.set_site_row(root, &want.path, row)?;
                }
                enqueued += u64::from(route.enqueue(txn, want)?);
            }
            Ok(enqueued)
        });
        enqueued += written.await?;
    }
    Ok(enqueued)
}

/// Lists a folder of a site: empty where none is there.
async fn list(site: &Site, path: &RelPath) -> Result<HashMap<Name, Entry>, ProviderError> {
    let mut listed = HashMap::new();
    let mut rows = site.provider().list(path);
    while let Some(row) = rows.next().await {
        match row {
            Ok(row) => {
                listed.insert(row.name, row.entry);
            }
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(HashMap::new()),
            Err(e) => return Err(e),
        }
    }
    Ok(listed)
}

/// Looks at one name.
async fn one(site: &Site, dir: &RelPath, name: &Name) -> Result<HashMap<Name, Entry>, ProviderError> {
    match site.provider().stat(&dir.join(name)).await {
        Ok(entry) => Ok([(name.clone(), entry)].into()),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(HashMap::new()),
        Err(e) => Err(e),
    }
}

/// Holds a file, or a folder with all below it, against the tree, without asking for anything to be copied.
pub(in crate::engine) async fn look(
    drive: &Arc<Inner>,
    project: &Project,
    site: &Site,
    (dir, below): (Ino, RelPath),
    only: Option<&Name>,
) -> Result<(), Trouble> {
    let mut todo = vec![(dir, below)];
    while let Some((dir, below)) = todo.pop() {
        let at = Folder {
            project,
            site,
            dir,
            below,
            // What is to be there says that it is waited for.
            wanted: false,
            only,
        };
        let found = folder(drive, at).await?;
        if only.is_none() {
            todo.extend(found.folders);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn node(size: u64, mtime_ns: i64, version: &str) -> Node {
        Node {
            ino: Ino(9),
            kind: EntryKind::File,
            size,
            mtime_ns,
            ctime_ns: 0,
            perm: None,
            nlink: 1,
            subfolders: 0,
            version: Some(Version::new(version)),
            listed_at_ms: None,
            listed_epoch: None,
            own: false,
            uid: None,
            gid: None,
            atime_ns: None,
            btime_ns: None,
            rdev: 0,
            object: None,
            generation: 0,
            writing: false,
            origin: None,
        }
    }

    fn entry(size: u64, mtime_ns: i64, version: &str) -> Entry {
        Entry {
            kind: EntryKind::File,
            size,
            mtime_ns,
            perm: None,
            version: Version::new(version),
            target: None,
        }
    }

    fn hq() -> SiteName {
        SiteName("hq".to_owned())
    }

    fn judge(node: &Node, known: Option<&SiteRow>, there: Option<&Entry>, times: Times) -> Verdict {
        verdict((node, &hq()), known, there, times)
    }

    fn row(version: &str, source: &str) -> SiteRow {
        SiteRow {
            status: SiteStatus::Synced,
            version: Some(Version::new(version)),
            source: Some((hq(), Version::new(source))),
            ..SiteRow::new(SiteName("vault".to_owned()), 1)
        }
    }

    const KEPT: Times = Times {
        step_ns: Some(TIME_STEP_NS),
    };
    const DATED: Times = Times { step_ns: None };

    fn lacking(replaces: Option<&str>) -> Verdict {
        Verdict::Lacking {
            replaces: replaces.map(Version::new),
        }
    }

    #[test]
    fn what_is_not_there_is_lacking_whatever_was_known() {
        let node = node(5, SECOND, "s1");
        assert_eq!(judge(&node, None, None, KEPT), lacking(None));
        assert_eq!(
            judge(&node, Some(&row("v1", "s1")), None, KEPT),
            lacking(None),
            "deleted by hand"
        );
    }

    #[test]
    fn what_we_put_there_is_known_by_its_version_and_replaced_by_its_successor_alone() {
        let (old, new) = (node(5, SECOND, "s1"), node(6, 9 * SECOND, "s2"));
        let there = entry(5, 77 * SECOND, "v1");
        assert_eq!(
            judge(&old, Some(&row("v1", "s1")), Some(&there), DATED),
            Verdict::There(Version::new("v1"))
        );
        assert_eq!(
            judge(&new, Some(&row("v1", "s1")), Some(&there), DATED),
            lacking(Some("v1"))
        );
        // Somebody changed it since.
        let changed = entry(50, 78 * SECOND, "theirs");
        for node in [&old, &new] {
            let found = judge(node, Some(&row("v1", "s1")), Some(&changed), KEPT);
            assert_eq!(found, Verdict::Foreign(Some(Version::new("theirs"))));
        }
    }

    #[test]
    fn what_nobody_knows_of_is_taken_by_size_and_time_and_never_replaced() {
        let node = node(5, 3 * SECOND + 500, "s1");
        let same = entry(5, 3 * SECOND, "v");
        assert_eq!(judge(&node, None, Some(&same), KEPT), Verdict::There(Version::new("v")));
        let other_time = entry(5, 8 * SECOND, "v");
        assert_eq!(judge(&node, None, Some(&other_time), KEPT), lacking(None));
        assert_eq!(
            judge(&node, None, Some(&same), DATED),
            lacking(None),
            "its time tells nothing"
        );
        let other_size = entry(6, 3 * SECOND, "v");
        assert_eq!(
            judge(&node, None, Some(&other_size), KEPT),
            Verdict::Foreign(Some(Version::new("v")))
        );
        let folder = Entry {
            kind: EntryKind::Dir,
            ..entry(0, 0, "")
        };
        assert_eq!(judge(&node, None, Some(&folder), KEPT), Verdict::Foreign(None));
    }

    #[test]
    fn something_else_that_is_there_is_not_known_as_a_copy() {
        // A row of something foreign has a version and no source: it is not ours, however often it is seen.
        let node = node(5, SECOND, "s1");
        let foreign = SiteRow {
            source: None,
            ..row("theirs", "")
        };
        let found = judge(&node, Some(&foreign), Some(&entry(50, SECOND, "theirs")), KEPT);
        assert_eq!(found, Verdict::Foreign(Some(Version::new("theirs"))));
    }
}
