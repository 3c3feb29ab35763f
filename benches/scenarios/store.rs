//! A store of a million entries that is only a store: how soon it is mounted, what walking it takes of memory.
//!
//! The store is filled through the library, as a finished scan would leave it, since a million files take longer to make
//! than all figures to measure. Folders are not looked at again at the site (which has none of it).

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backlot::model::{EntryKind, Ino, Name, ProjectName, RelPath, SiteName, Version};
use backlot::state::{Claim, Moment, NewProject, NewSend, Remote, StateError, StateStore};

use crate::Bench;
use crate::daemon::{DriveSetup, PROJECT, SITE};
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::machine;
use crate::process::{interrupted, output};

const FILES_PER_FOLDER: usize = 99;
const FOLDERS_PER_SEQUENCE: usize = 100;
/// How often each question of `growth` is asked.
const QUESTIONS: usize = 20_000;
const LISTINGS: usize = 1_000;
const CLAIMS: usize = 200;
/// The fixed day of all entries: 1 November 2026.
const MTIME_NS: i64 = 1_793_491_200_000_000_000;

/// Mounts the store again and again.
pub(crate) fn ready(bench: &Bench, report: &mut Report) -> Result<()> {
    let (setup, entries) = filled(bench)?;
    let row = |what: &str, ours: Samples, target: Target| Row {
        scenario: "ready",
        what: format!("mount of {entries} entries, {what}"),
        unit: Unit::Seconds,
        ours,
        beside: None,
        target,
    };
    let mount = |prepare: &dyn Fn() -> Result<()>, crash: bool| -> Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..bench.scale.rounds {
            let (took, round) = bench.quiet.round(|| {
                prepare()?;
                let (drive, took) = setup.mount()?;
                ensure!(setup.project().join("sq000").is_dir(), "the tree is not there");
                if crash {
                    drive.kill()?
                } else {
                    drive.unmount()?
                }
                Ok(took)
            })?;
            samples.push(took.as_secs_f64(), round);
        }
        Ok(samples)
    };
    report.add(row("again", mount(&|| Ok(()), false)?, Target::Below(1.0)));
    match machine::drop_everything() {
        Ok(()) => report.add(row(
            "as after a restart",
            mount(&machine::drop_everything, false)?,
            Target::Below(1.0),
        )),
        Err(e) => report.not_run("ready as after a restart", &format!("{e:#}")),
    }
    // The first mount of these finds a store that was closed; each later one, what the crash before it left.
    let (drive, _) = setup.mount()?;
    drive.kill()?;
    report.add(row("after a crash", mount(&|| Ok(()), true)?, Target::None));
    Ok(())
}

/// Walks the whole store through the mount and looks at the daemon's memory.
pub(crate) fn memory(bench: &Bench, report: &mut Report) -> Result<()> {
    let (setup, entries) = filled(bench)?;
    let (mut after, mut peak) = (Samples::default(), Samples::default());
    let mut walk_time = Samples::default();
    for _ in 0..bench.scale.rounds.min(3) {
        let ((drive, took), round) = bench.quiet.round(|| {
            let (drive, _) = setup.mount()?;
            let begin = Instant::now();
            let found = output(
                Command::new("find")
                    .arg(setup.project())
                    .args(["-size", "+1", "-printf", "."]),
            )?;
            let took = begin.elapsed();
            let files = bench.scale.store_folders * FILES_PER_FOLDER;
            ensure!(found.len() >= files, "found {} of {files} files", found.len());
            Ok((drive, took))
        })?;
        after.push(drive.memory_mib("VmRSS:")?, round);
        peak.push(drive.memory_mib("VmHWM:")?, round);
        walk_time.push(took.as_secs_f64(), round);
        drive.unmount()?;
    }
    let row = |what: &str, unit: Unit, ours: Samples, target: Target| Row {
        scenario: "memory",
        what: what.to_owned(),
        unit,
        ours,
        beside: None,
        target,
    };
    report.add(row(
        &format!("after a walk over {entries} entries"),
        Unit::Mebibytes,
        after,
        Target::Below(150.0),
    ));
    report.add(row("most during it", Unit::Mebibytes, peak, Target::None));
    report.add(row("the walk itself", Unit::Seconds, walk_time, Target::None));
    Ok(())
}

/// Returns a drive whose store holds the entries, and how many they are; fills it the first time.
fn filled(bench: &Bench) -> Result<(DriveSetup, u64)> {
    let dir = bench.dir.join("million");
    let root = dir.join("site");
    std::fs::create_dir_all(&root)?;
    let site = format!(
        "provider = \"local\"\nroot = {}",
        serde_json::Value::from(root.to_string_lossy())
    );
    let setup = DriveSetup::new(bench, &dir, &site, "[scan]\nrecheck-after = \"24h\"")?;
    let entries = fill(&setup.data_dir(), bench.scale.store_folders)?;
    Ok((setup, entries))
}

fn fill(data_dir: &Path, folders: usize) -> Result<u64> {
    let rt = tokio::runtime::Builder::new_current_thread().build()?;
    let store = StateStore::open(data_dir)?;
    let counts = store.read(|txn| txn.counts())?;
    if counts.entries > 1 {
        store.close();
        return Ok(counts.entries);
    }
    eprintln!("   filling a store of {} entries", folders * (FILES_PER_FOLDER + 1));
    let now_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_millis())?;
    let project = NewProject {
        name: ProjectName(PROJECT.to_owned()),
        folder: name(PROJECT)?,
        remote_site: SiteName(SITE.to_owned()),
        remote_path: RelPath::root(),
    };
    let (root, epoch) = rt.block_on(store.write(move |txn| {
        let roots = txn.set_projects(&[project], now_ms)?;
        let root = roots.first().copied().unwrap_or(Ino::ROOT);
        Ok((root, txn.begin_scan(root, now_ms)?.epoch))
    }))?;
    let apply = |dir: Ino, entries: Vec<Remote>| {
        rt.block_on(store.write(move |txn| txn.apply_listing(dir, &entries, Some(epoch), Moment::LAST, now_ms)))
    };
    let numbered = |prefix: &str, count: usize| {
        (0..count)
            .map(|i| folder(&format!("{prefix}{i:03}")))
            .collect::<Result<_>>()
    };
    let sequences = apply(root, numbered("sq", folders.div_ceil(FOLDERS_PER_SEQUENCE))?)?;
    let mut left = folders;
    for (_, sequence) in sequences.subfolders {
        let shots = apply(sequence, numbered("sh", left.min(FOLDERS_PER_SEQUENCE))?)?;
        left -= shots.subfolders.len();
        for (_, shot) in shots.subfolders {
            ensure!(!interrupted(), "interrupted");
            apply(
                shot,
                (0..FILES_PER_FOLDER).map(|i| file(1001 + i)).collect::<Result<_>>()?,
            )?;
        }
    }
    let done = rt.block_on(store.write(move |txn| txn.finish_scan(root, epoch, now_ms)))?;
    ensure!(done, "the store does not hold all folders");
    let entries = store.read(|txn| txn.counts())?.entries;
    store.close();
    Ok(entries)
}

/// What single questions cost a store, and its queue, of 10,000, 100,000 and 1,000,000 entries.
pub(crate) fn growth(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut first: Option<Vec<Samples>> = None;
    for folders in [100, 10, 1].map(|part| bench.scale.store_folders / part) {
        let dir = bench.dir.join(format!("growth-{folders}"));
        let entries = fill(&dir, folders)?;
        let store = StateStore::open(&dir)?;
        let rt = tokio::runtime::Builder::new_current_thread().build()?;
        let root = store.read(|txn| txn.children(Ino::ROOT, 0, 1))?;
        let root = root.first().context("the project's folder")?.node.ino;
        let queued = queue(&rt, &store, root, entries)?;
        let shots = shots(&store, root)?;
        let mut samples = vec![Samples::default(); 3];
        for round in 0..bench.scale.rounds {
            let (values, seen) = bench.quiet.round(|| {
                let (mut noise, begin) = (crate::sftp::Noise(round as u64), Instant::now());
                for _ in 0..QUESTIONS {
                    let shot = shots[usize::try_from(noise.next())? % shots.len()];
                    let name = format!("plate_v001.{}.exr", 1001 + noise.next() % FILES_PER_FOLDER as u64);
                    ensure!(
                        store.read(|txn| txn.lookup(shot, name.as_bytes()))?.is_some(),
                        "no {name}"
                    );
                }
                let lookup = begin.elapsed();
                let begin = Instant::now();
                for n in 0..LISTINGS {
                    let found = store.read(|txn| txn.children(shots[n * 7919 % shots.len()], 0, 1000))?;
                    ensure!(found.len() == FILES_PER_FOLDER, "{} entries", found.len());
                }
                let listing = begin.elapsed();
                let begin = Instant::now();
                for _ in 0..CLAIMS {
                    let claim = Claim {
                        root,
                        job: None,
                        now_ms: 1,
                        lease_ms: 2,
                        limit: 16,
                        horizon_ms: i64::MAX / 4,
                        max_size: None,
                        under_way: Vec::new(),
                    };
                    let claimed = rt.block_on(store.write(move |txn| {
                        let claimed = txn.claim(&claim)?;
                        claimed.iter().try_for_each(|task| txn.give_back(task.id))?;
                        Ok(claimed.len())
                    }))?;
                    ensure!(claimed == 16, "{claimed} claimed");
                }
                let micros = |took: Duration, times: usize| {
                    took.as_secs_f64() * 1e6 / f64::from(u32::try_from(times).unwrap_or(1))
                };
                Ok([
                    micros(lookup, QUESTIONS),
                    micros(listing, LISTINGS),
                    micros(begin.elapsed(), CLAIMS),
                ])
            })?;
            samples
                .iter_mut()
                .zip(values)
                .for_each(|(samples, value)| samples.push(value, seen));
        }
        store.close();
        let what = [
            format!("a name looked up, past every cache of ours, among {entries}"),
            format!("a folder of {FILES_PER_FOLDER} listed, among {entries} entries"),
            format!("16 tasks claimed and given back, of {queued}"),
        ];
        for (column, what) in what.into_iter().enumerate() {
            report.add(Row {
                scenario: "growth",
                what,
                unit: Unit::Microseconds,
                ours: samples[column].clone(),
                beside: first
                    .as_ref()
                    .map(|first| ("the smallest".to_owned(), first[column].clone())),
                target: if first.is_some() {
                    Target::RatioAtMost(3.0)
                } else {
                    Target::None
                },
            });
        }
        first.get_or_insert(samples);
    }
    Ok(())
}

/// The folders that hold files.
fn shots(store: &StateStore, root: Ino) -> Result<Vec<Ino>> {
    let mut shots = Vec::new();
    for sequence in store.read(|txn| txn.children(root, 0, 10_000))? {
        let found = store.read(|txn| txn.children(sequence.node.ino, 0, 10_000))?;
        shots.extend(found.into_iter().map(|shot| shot.node.ino));
    }
    ensure!(!shots.is_empty(), "no folders");
    Ok(shots)
}

/// Fills the queue with a task for every entry.
fn queue(rt: &tokio::runtime::Runtime, store: &StateStore, root: Ino, tasks: u64) -> Result<u64> {
    let there = rt.block_on(store.write(move |txn| {
        for number in 0..tasks {
            let send = NewSend {
                root,
                parent: root,
                name: Name::new(format!("q{number:07}").as_bytes()).map_err(|e| StateError::Invalid(e.to_string()))?,
                ino: Ino((1 << 39) + number),
                generation: 1,
                size: 1000,
                due_ms: 0,
                source: SiteName("here".to_owned()),
                target: SiteName(SITE.to_owned()),
            };
            txn.queue_send(&send, 0)?;
        }
        Ok(tasks)
    }))?;
    Ok(there)
}

fn name(text: &str) -> Result<Name> {
    Name::new(text.as_bytes())
        .ok()
        .with_context(|| format!("{text} is no name"))
}

fn folder(text: &str) -> Result<Remote> {
    let version = Version::from_size_mtime(0, MTIME_NS);
    Ok(Remote {
        name: name(text)?,
        kind: EntryKind::Dir,
        size: 0,
        mtime_ns: MTIME_NS,
        perm: Some(0o755),
        version,
        target: None,
    })
}

/// A frame of a plate, as large as such frames are.
fn file(frame: usize) -> Result<Remote> {
    let (name, size) = (
        name(&format!("plate_v001.{frame}.exr"))?,
        12_000_000 + 4_096 * (frame as u64 % 50),
    );
    let mtime_ns = MTIME_NS + 1_000_000_000 * i64::try_from(frame)?;
    let version = Version::from_size_mtime(size, mtime_ns);
    Ok(Remote {
        name,
        kind: EntryKind::File,
        size,
        mtime_ns,
        perm: Some(0o644),
        version,
        target: None,
    })
}
