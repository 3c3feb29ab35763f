//! Who holds a mount: the processes that keep `umount` from succeeding.
//!
//! Owns: reading /proc. Invariant: only links of /proc are read, never followed, so a mount that does not answer cannot
//! hold us; and the whole search has a deadline, because a process stuck in that mount can hold its own /proc entry.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::mountinfo::MountTable;

/// How long the search may take altogether.
const DEADLINE: Duration = Duration::from_secs(3);

/// Findings that may wait to be collected: the search goes on meanwhile.
const QUEUE: usize = 64;

/// A process that holds a mount, and by what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Process id; 0 for the kernel itself (another mount inside of this one).
    pub pid: u32,
    /// The program's short name.
    pub command: String,
    /// What it holds.
    pub what: Held,
}

/// What a process can hold of a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// Its working folder.
    WorkingFolder(PathBuf),
    /// Its root folder.
    Root(PathBuf),
    /// The program that it runs.
    Program(PathBuf),
    /// A file that it has open.
    OpenFile(PathBuf),
    /// A file mapped into its memory, which may be closed already.
    Mapping(PathBuf),
    /// Another mount inside of this one.
    Mount(PathBuf),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkingFolder(path) => write!(f, "working in {}", path.display()),
            Self::Root(path) => write!(f, "rooted in {}", path.display()),
            Self::Program(path) => write!(f, "running {}", path.display()),
            Self::OpenFile(path) => write!(f, "has {} open", path.display()),
            Self::Mapping(path) => write!(f, "has {} mapped", path.display()),
            Self::Mount(path) => write!(f, "mounted on {}", path.display()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {}, {})", self.command, self.pid, self.what)
    }
}

/// Returns who holds `point` (absolute, free of links), one line per process and thing held, as far as this user may see.
#[must_use]
pub(super) fn holders(point: &Path) -> Vec<Holder> {
    let mut found: Vec<Holder> = MountTable::read()
        .map(|table| {
            let inner = table.below(point);
            inner
                .map(|m| Holder {
                    pid: 0,
                    command: m.fs_type.clone(),
                    what: Held::Mount(m.point.clone()),
                })
                .collect()
        })
        .unwrap_or_default();
    let (send, receive) = sync_channel(QUEUE);
    let point = point.to_owned();
    let search = thread::Builder::new()
        .name("backlot-holders".into())
        .spawn(move || search(&point, &send));
    if let Err(error) = search {
        tracing::warn!(%error, "cannot search for the processes that use the mount");
        return found;
    }
    let end = Instant::now() + DEADLINE;
    loop {
        match receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(holder) => found.push(holder),
            Err(RecvTimeoutError::Disconnected) => return found,
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    "the search for the processes that use the mount took too long; the list is not complete"
                );
                return found;
            }
        }
    }
}

/// Sends what is found until all is seen or nobody listens any more.
fn search(point: &Path, found: &SyncSender<Holder>) {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let dir = process.path();
        let mut held = Vec::new();
        for (link, make) in [
            ("cwd", Held::WorkingFolder as fn(PathBuf) -> Held),
            ("root", Held::Root),
            ("exe", Held::Program),
        ] {
            held.extend(link_into(&dir.join(link), point).map(make));
        }
        // A process that ended meanwhile, or is another user's, has nothing to show.
        if let Ok(fds) = std::fs::read_dir(dir.join("fd")) {
            held.extend(
                fds.flatten()
                    .filter_map(|fd| link_into(&fd.path(), point))
                    .map(Held::OpenFile),
            );
        }
        if let Ok(maps) = std::fs::read(dir.join("maps")) {
            held.extend(mapped_into(&maps, point).into_iter().map(Held::Mapping));
        }
        held.dedup();
        if held.is_empty() {
            continue;
        }
        let command = std::fs::read_to_string(dir.join("comm"))
            .unwrap_or_default()
            .trim_end()
            .to_owned();
        for what in held {
            if found
                .send(Holder {
                    pid,
                    command: command.clone(),
                    what,
                })
                .is_err()
            {
                return;
            }
        }
    }
}

fn link_into(link: &Path, point: &Path) -> Option<PathBuf> {
    std::fs::read_link(link).ok().filter(|target| target.starts_with(point))
}

/// Lines of /proc/PID/maps: `from-to perms offset dev inode    path`, the path to the end of the line with line feeds
/// escaped.
fn mapped_into(maps: &[u8], point: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = maps
        .split(|b| *b == b'\n')
        .filter_map(|line| line.iter().position(|b| *b == b'/').and_then(|at| line.get(at..)))
        .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
        .filter(|path| path.starts_with(point))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_open_file_is_found_and_a_neighbour_of_the_same_prefix_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let base = dir.path().canonicalize().expect("exists");
        let (inside, beside) = (base.join("p"), base.join("p2"));
        std::fs::create_dir(&inside).expect("made");
        let file = std::fs::File::create(inside.join("held")).expect("made");
        let other = std::fs::File::create(&beside).expect("made");
        // A neighbouring test may be between fork and exec, with our files in its child's table.
        let mine = || -> Vec<Holder> {
            holders(&inside)
                .into_iter()
                .filter(|holder| holder.pid == std::process::id())
                .collect()
        };
        let found = mine();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].what, Held::OpenFile(inside.join("held")));
        assert!(!found[0].command.is_empty());
        drop((file, other));
        assert_eq!(mine(), []);
    }

    #[test]
    fn maps_lines_give_their_path_once() {
        let maps = b"\
7f00-7f01 r--p 00000000 00:32 12                         /mnt/d/my file.exr
7f01-7f02 r--p 00001000 00:32 12                         /mnt/d/my file.exr
7f02-7f03 r--p 00000000 fe:00 13                         /usr/lib/libc.so
7f03-7f04 rw-p 00000000 00:00 0                          [stack]
";
        assert_eq!(
            mapped_into(maps, Path::new("/mnt/d")),
            [PathBuf::from("/mnt/d/my file.exr")]
        );
    }
}
