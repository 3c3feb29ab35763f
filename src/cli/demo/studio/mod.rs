//! Owns the demo's film studio: a small, believable project tree, painted and written in seconds.
//! Refuses to know sites, drives and the command line: it is given a folder and fills `demo/` in it.
//! Invariant: same scale, same tree: every byte, name and mtime, whatever the machine or the number of threads.

mod assets;
mod images;
mod movie;
mod papers;
mod picture;
mod plan;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use plan::{Content, Plan, Task};

/// The name of the project's folder, just below the root given to [`build`].
pub(super) const PROJECT: &str = "demo";

/// 3 March 2025, 11:06:40 UTC: when the studio's first file was written; any day in the past would do.
const FIRST_DAY: Duration = Duration::from_secs(1_741_000_000);
/// From one task's first file to the next one's, so that a listing by date looks like two weeks of work.
const TASK_STEP: Duration = Duration::from_secs(4 * 3600);
/// From one frame to the next, as a render farm would deliver them.
const FRAME_STEP: Duration = Duration::from_secs(20);
/// Painting is bound by processors, but more writers than this only make the disk seek.
const MAX_WRITERS: usize = 8;

/// How much of a studio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    /// About 50 MB in 150 files, for a quick check.
    Small,
    /// About 300 MB in 400 files, to work with.
    Full,
}

/// One regular file that was written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Made {
    /// Where it is, relative to the root: begins with [`PROJECT`].
    pub(super) path: PathBuf,
    /// Its size in bytes.
    pub(super) bytes: u64,
}

/// One symbolic link that was made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Link {
    /// Where it is, relative to the root: begins with [`PROJECT`].
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) target: PathBuf,
}

/// What was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Studio {
    /// The project's folder below the root.
    pub(super) project: &'static str,
    /// Every regular file, ordered by path.
    pub(super) files: Vec<Made>,
    /// Every symbolic link, ordered by path. A site without links may leave them out.
    pub(super) links: Vec<Link>,
    /// Paths worth opening first, relative to the root, with the reason.
    pub(super) highlights: Vec<(PathBuf, &'static str)>,
    /// The sizes of `files` together.
    pub(super) total_bytes: u64,
}

/// Writes the studio's project below `root`, which is made if it is missing.
///
/// # Errors
/// `AlreadyExists` when `root` has a `demo` already: nothing of it is touched. Otherwise what the disk said, with the
/// path; what was written until then stays.
pub(super) fn build(root: &Path, scale: Scale) -> io::Result<Studio> {
    let plan = Plan::new(scale);
    let project = root.join(PROJECT);
    fs::create_dir_all(root).map_err(|e| naming(root, &e))?;
    fs::create_dir(&project).map_err(|e| naming(&project, &e))?;

    let folders = plan.folders();
    for folder in &folders {
        let path = project.join(folder);
        fs::create_dir_all(&path).map_err(|e| naming(&path, &e))?;
    }
    let mut files = write_all(&project, &plan)?;
    files.sort();

    let mut links = Vec::new();
    for (path, target) in &plan.links {
        let at = project.join(path);
        make_link(target, &at).map_err(|e| naming(&at, &e))?;
        links.push(Link {
            path: Path::new(PROJECT).join(path),
            target: PathBuf::from(target),
        });
    }
    links.sort();

    // Last, and the deepest first: each name made above has touched its folder.
    for folder in folders.iter().rev() {
        let path = project.join(folder);
        File::open(&path)
            .and_then(|f| f.set_modified(day(0)))
            .map_err(|e| naming(&path, &e))?;
    }
    Ok(Studio {
        project: PROJECT,
        total_bytes: files.iter().map(|f| f.bytes).sum(),
        files,
        links,
        highlights: plan
            .highlights()
            .into_iter()
            .map(|(path, why)| (Path::new(PROJECT).join(path), why))
            .collect(),
    })
}

/// Runs the plan's tasks on a few threads; the first failure stops the rest.
fn write_all(project: &Path, plan: &Plan) -> io::Result<Vec<Made>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(Ok(Vec::new()));
    let writers = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_WRITERS);
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = plan.tasks.get(index) else { return };
                    let made = run(project, plan, task, day(index));
                    failed.fetch_or(made.is_err(), Ordering::Relaxed);
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match (&mut *done, made) {
                        (Ok(all), Ok(made)) => all.extend(made),
                        (all @ Ok(_), Err(e)) => *all = Err(e),
                        (Err(_), _) => {}
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Writes the files of one task; `start` is the mtime of the first.
fn run(project: &Path, plan: &Plan, task: &Task, start: SystemTime) -> io::Result<Vec<Made>> {
    let one = |path: &str, bytes: &[u8]| put(project, path, start, |f| f.write_all(bytes)).map(|made| vec![made]);
    match &task.content {
        Content::Bytes(bytes) => one(&task.path, bytes),
        Content::Texture(texture) => one(&task.path, &texture.paint()?),
        Content::Reel => put(project, &task.path, start, |f| movie::write(f, plan)).map(|made| vec![made]),
        Content::Frames(sequence) => {
            let painter = sequence.painter();
            let mut made = Vec::new();
            let mut at = start;
            for index in 0..sequence.count {
                let bytes = sequence.encode(&painter, index)?;
                made.push(put(project, &sequence.path(&task.path, index), at, |f| {
                    f.write_all(&bytes)
                })?);
                at += FRAME_STEP;
            }
            Ok(made)
        }
    }
}

/// Makes one file that was not there before, and dates it.
fn put(project: &Path, path: &str, at: SystemTime, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Made> {
    let full = project.join(path);
    let bytes = File::create_new(&full)
        .and_then(|mut file| {
            fill(&mut file)?;
            file.set_modified(at)?;
            Ok(file.metadata()?.len())
        })
        .map_err(|e| naming(&full, &e))?;
    Ok(Made {
        path: Path::new(PROJECT).join(path),
        bytes,
    })
}

fn make_link(target: &str, at: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, symlink, utimensat};
    symlink(target, at)?;
    let seconds = i64::try_from(FIRST_DAY.as_secs()).map_err(io::Error::other)?;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    utimensat(
        CWD,
        at,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

/// When the task of this number was begun.
fn day(task: usize) -> SystemTime {
    SystemTime::UNIX_EPOCH + FIRST_DAY + TASK_STEP * u32::try_from(task).unwrap_or(0)
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
