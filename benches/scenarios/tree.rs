//! A tree on a local disk, and the same tree through Backlot: `find -size`, which asks for every name and its attributes.

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
/// Every second file is of more than one block of 512 bytes, so that `-size +1` has something to tell apart.
const SIZES: [usize; 2] = [100, 700];

/// Compares `find` over Backlot and over the disk: cold, then again.
pub(crate) fn find(bench: &Bench, report: &mut Report) -> Result<()> {
    drop_names()?;
    let dir = bench.dir.join("tree");
    let root = dir.join("site");
    eprintln!("   making {} files", bench.scale.tree_folders * FILES_PER_FOLDER);
    make(&root, bench.scale.tree_folders)?;
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

    let expected = bench.scale.tree_folders * FILES_PER_FOLDER / SIZES.len();
    let [mut ours, mut disk]: [Pair; 2] = Default::default();
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
                    Ok((cold, warm))
                })?;
            } else {
                disk.take(&bench.quiet, || {
                    drop_names()?;
                    Ok((count(&root, expected)?, count(&root, expected)?))
                })?;
            }
        }
    }
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
    add("fresh mount / cold names", ours.cold, disk.cold, 2.5);
    add("again", ours.warm, disk.warm, 1.5);
    let what = "memory after both".to_owned();
    report.add(Row {
        scenario: "find",
        what,
        unit: Unit::Mebibytes,
        ours: memory,
        beside: None,
        target: Target::None,
    });
    Ok(())
}

#[derive(Debug, Default)]
struct Pair {
    cold: Samples,
    warm: Samples,
}

impl Pair {
    fn take(&mut self, quiet: &Quiet, take: impl FnMut() -> Result<(f64, f64)>) -> Result<()> {
        let ((cold, warm), round) = quiet.round(take)?;
        self.cold.push(cold, round);
        self.warm.push(warm, round);
        Ok(())
    }
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
