//! A drive on a site that is a folder of this machine, somebody who reads at the site all the while, and the comparison of
//! all sides at the end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::content::{self, Seen};
use crate::common::drive::{Builder, Drive};
use crate::common::queue;

/// How long the queue may take to be worked off.
pub(crate) const DRAIN: Duration = Duration::from_secs(60);

/// Settings that tests of publishing share: no wait that is not asked for, no second look at folders.
pub(crate) fn quick(builder: Builder) -> Builder {
    builder
        .set("publish.settle", "0ms")
        .set("publish.part-size", "1MiB")
        .set("publish.retry-max", "1s")
        .set("scan.recheck-after", "24h")
        .set("hydration.read-deadline", "5s")
}

/// As [`quick`], for a project that deletes at the site what is deleted here.
pub(crate) fn propagating(builder: Builder) -> Builder {
    quick(builder).set("projects.show.remote-delete", "propagate")
}

/// Reads files at the site under their final names, all the time.
#[derive(Debug)]
pub(crate) struct Watcher {
    over: Arc<AtomicBool>,
    running: JoinHandle<u64>,
}

impl Watcher {
    /// Begins to read all files below `site`; all are of `content`.
    pub(crate) fn start(site: &Path) -> Self {
        let (site, over) = (site.to_owned(), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let running = thread::spawn(move || {
            let mut read = 0;
            while !is_over.load(Relaxed) {
                read += look(&site);
                thread::park_timeout(Duration::from_millis(2));
            }
            read
        });
        Self { over, running }
    }

    /// Ends it; returns how many files it read, none of which was short or mixed.
    pub(crate) fn stop(self) -> u64 {
        self.over.store(true, Relaxed);
        self.running
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn look(site: &Path) -> u64 {
    let mut read = 0;
    let mut folders = vec![site.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !entry.file_name().as_encoded_bytes().starts_with(b".backlot-")
                && let Ok(bytes) = fs::read(&path)
            {
                match content::look(&bytes) {
                    Ok(Seen::Whole(_) | Seen::Grown(..)) => read += 1,
                    other => panic!("at the site, {}: {other:?}", path.display()),
                }
            }
        }
    }
    read
}

/// What a file is; `None` if there is none.
pub(crate) fn seen(path: &Path) -> Option<Seen> {
    match fs::read(path) {
        Ok(bytes) => Some(content::look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// The names below a folder, sorted; none if it is not there.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    if !folder.is_dir() {
        return Vec::new();
    }
    let files = queue::files(folder);
    files.keys().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// Waits until the queue is worked off, then holds what the drive shows in its publish folder against the site and against
/// a second drive that has nothing in its cache. No name is there that the drive does not show: no temporary one, nothing
/// twice, no conflict.
pub(crate) fn same_on_all_sides(drive: &Drive, site: &Path, second: Builder) {
    queue::drained(drive, DRAIN);
    let here = queue::files(&drive.path("publish"));
    compare("at the site", &here, &queue::files(&site.join("publish")));
    let second = second.build().mounted();
    compare("a second drive", &here, &queue::files(&second.path("publish")));
    let conflicts: Vec<_> = here
        .keys()
        .filter(|path| path.to_string_lossy().contains(".conflict-"))
        .collect();
    assert!(conflicts.is_empty(), "our own uploads are no conflict: {conflicts:?}");
    holds(drive);
}

fn compare(what: &str, here: &BTreeMap<PathBuf, Vec<u8>>, there: &BTreeMap<PathBuf, Vec<u8>>) {
    let missing: Vec<_> = here.keys().filter(|path| !there.contains_key(*path)).collect();
    let more: Vec<_> = there.keys().filter(|path| !here.contains_key(*path)).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "{what}: {missing:?} are missing, and {more:?} are not the drive's"
    );
    for (path, bytes) in here {
        let shown = (content::look(bytes), content::look(&there[path]));
        assert!(*bytes == there[path], "{what}: {}: {shown:?}", path.display());
    }
}

/// Every invariant of a drive's database holds.
pub(crate) fn holds(drive: &Drive) {
    let doctor = drive.run(["doctor", "--deep"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("every invariant holds"), "{said}");
}
