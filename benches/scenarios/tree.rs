//! A tree on a local disk, and the same tree through Backlot: `find -size`, which asks for every name and its attributes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::daemon::DriveSetup;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::machine::{Quiet, disk_kind, drop_names};
use crate::process::{interrupted, output};

pub(crate) const FILES_PER_FOLDER: usize = 100;
const FOLDERS_PER_SEQUENCE: usize = 50;
/// Beside the tree, for the daemon's memory: as large as the other scenarios' large file.
const LARGE: &str = "large";
const LARGE_FILES: usize = 10;
/// Every second file is of more than one block of 512 bytes, so that `-size +1` has something to tell apart.
const SIZES: [usize; 2] = [100, 700];

/// Compares `find` over Backlot and over the disk: cold, then again.
pub(crate) fn find(bench: &Bench, report: &mut Report) -> Result<()> {
    drop_names()?;
    let dir = bench.dir.join("tree");
    let root = dir.join("site");
    eprintln!("   making {} files", bench.scale.tree_folders * FILES_PER_FOLDER);
    make(&root, bench.scale.tree_folders)?;
    std::fs::create_dir_all(root.join(LARGE))?;
    for number in 0..LARGE_FILES {
        // Holes at the site: what they cost is the reader's side.
        File::create(root.join(LARGE).join(number.to_string()))?.set_len(bench.scale.big_bytes)?;
    }
    let site = format!(
        "provider = \"local\"\nroot = {}",
        serde_json::Value::from(root.to_string_lossy())
    );
    let setup = DriveSetup::new(bench, &dir, &site, "")?;
    let (mut drive, _) = setup.mount()?;
    let begin = Instant::now();
    drive.scanned()?;
    eprintln!("   scanned in {:.1} s", begin.elapsed().as_secs_f64());
    drive.unmount()?;

    let expected = bench.scale.tree_folders * FILES_PER_FOLDER / SIZES.len() + LARGE_FILES;
    let [mut ours, mut disk]: [Walks; 2] = Default::default();
    let mut memory = Samples::default();
    for round in 0..bench.scale.rounds {
        // Whoever comes second may find something of the first's in the machine's caches: take turns.
        for turn in [round, round + 1] {
            if turn % 2 == 0 {
                ours.take(&bench.quiet, || {
                    let (drive, _) = setup.mount()?;
                    let (cold, warm) = (count(&setup.project(), expected)?, count(&setup.project(), expected)?);
                    memory.push(drive.memory_mib("VmRSS:")?, crate::figures::Round::default());
                    drive.unmount()?;
                    let (drive, _) = setup.mount()?;
                    let names = names(&setup.project())?;
                    drive.unmount()?;
                    Ok([cold, warm, names])
                })?;
            } else {
                disk.take(&bench.quiet, || {
                    drop_names()?;
                    let (cold, warm) = (count(&root, expected)?, count(&root, expected)?);
                    drop_names()?;
                    Ok([cold, warm, names(&root)?])
                })?;
            }
        }
    }
    let read_all = after_reading(&setup, expected)?;
    let disk_kind = disk_kind(&bench.dir);
    let mut add = |what: &str, ours: Samples, beside: Samples, target: f64| {
        report.add(Row {
            scenario: "find",
            what: format!(
                "find -size over {} files, {what}",
                bench.scale.tree_folders * FILES_PER_FOLDER
            ),
            unit: Unit::Seconds,
            ours,
            beside: Some((disk_kind.clone(), beside)),
            target: Target::RatioAtMost(target),
        });
    };
    let ([cold, warm, names], [disk_cold, disk_warm, disk_names]) = (ours.0, disk.0);
    add("fresh mount / cold names", cold, disk_cold, 1.5);
    add("again", warm, disk_warm, 1.2);
    add("names only, fresh mount / cold names", names, disk_names, 6.0);
    let gib = (LARGE_FILES as u64 * bench.scale.big_bytes) >> 30;
    for (what, ours, target) in [
        ("memory after both".to_owned(), memory, Target::None),
        (
            format!("memory after both and reading {gib} GiB"),
            read_all,
            Target::Below(95.4),
        ),
    ] {
        report.add(Row {
            scenario: "find",
            what,
            unit: Unit::Mebibytes,
            ours,
            beside: None,
            target,
        });
    }
    Ok(())
}

/// Walks all, reads the large files, never opened before, and looks at the daemon's memory.
fn after_reading(setup: &DriveSetup, expected: usize) -> Result<Samples> {
    let (drive, _) = setup.mount()?;
    count(&setup.project(), expected)?;
    let mut buffer = vec![1; 1 << 20];
    for number in 0..LARGE_FILES {
        let mut file = File::open(setup.project().join(LARGE).join(number.to_string()))?;
        while let len @ 1.. = file.read(&mut buffer)? {
            ensure!(!interrupted(), "interrupted");
            ensure!(
                buffer[..len].iter().all(|byte| *byte == 0),
                "other bytes than the site has"
            );
        }
    }
    let mut memory = Samples::default();
    memory.push(drive.memory_mib("VmRSS:")?, crate::figures::Round::default());
    drive.unmount()?;
    Ok(memory)
}

/// Cold, again, and names only.
#[derive(Debug, Default)]
pub(crate) struct Walks(pub(crate) [Samples; 3]);

impl Walks {
    pub(crate) fn take(&mut self, quiet: &Quiet, take: impl FnMut() -> Result<[f64; 3]>) -> Result<()> {
        let (values, round) = quiet.round(take)?;
        for (samples, value) in self.0.iter_mut().zip(values) {
            samples.push(value, round);
        }
        Ok(())
    }
}

/// Returns how long it takes to list all names.
pub(crate) fn names(dir: &Path) -> Result<f64> {
    let begin = Instant::now();
    output(Command::new("sh").args(["-c", "find \"$0\" -name none"]).arg(dir))?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Returns how long `find -size +1 | wc -l` takes, and fails if it finds something else than is there.
pub(crate) fn count(dir: &Path, expected: usize) -> Result<f64> {
    ensure!(!interrupted(), "interrupted");
    let begin = Instant::now();
    // Folders are 4096 bytes on the disk and 0 in the drive, so only files are counted.
    let found = output(
        Command::new("sh")
            .args(["-c", "find \"$0\" -type f -size +1 | wc -l"])
            .arg(dir),
    )?;
    let took = begin.elapsed().as_secs_f64();
    let found: usize = found.trim().parse()?;
    ensure!(
        found == expected,
        "find saw {found} of {expected} files in {}",
        dir.display()
    );
    Ok(took)
}

pub(crate) fn make(root: &Path, folders: usize) -> Result<()> {
    let text = vec![b'x'; SIZES.into_iter().max().unwrap_or(0)];
    for folder in 0..folders {
        ensure!(!interrupted(), "interrupted");
        let sequence = format!("sq{:03}", folder / FOLDERS_PER_SEQUENCE);
        let dir: PathBuf = [root, Path::new(&sequence), Path::new(&format!("sh{folder:04}"))]
            .iter()
            .collect();
        std::fs::create_dir_all(&dir)?;
        for file in 0..FILES_PER_FOLDER {
            let path = dir.join(format!("plate_v001.{}.exr", 1001 + file));
            std::fs::write(&path, &text[..SIZES[file % SIZES.len()]]).with_context(|| path.display().to_string())?;
        }
    }
    rustix::fs::sync();
    Ok(())
}
