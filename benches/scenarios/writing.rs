//! Files written through Backlot and through its peers, beside a local disk, and how long until the server has them.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::peers::{Who, mounted};
use crate::process::{interrupted, pause};
use crate::sftp::{Site, Table, empty_row};

/// How much is written at once.
const WRITE: usize = 1 << 20;
/// A small file's length.
pub(crate) const SMALL: usize = 10 * 1024;
/// Longer than any of them takes to bring its files to the server.
const ARRIVED: Duration = Duration::from_secs(300);

/// Brings the machine to the same state before each measured part: what was written before is on the disk, and there is
/// memory that the machine has already. A virtual machine pays for memory that it touches for the first time, which would
/// be charged to whoever comes first.
fn even(bench: &Bench) -> Result<()> {
    let dir = bench.dir.join("even");
    std::fs::create_dir_all(&dir)?;
    let bytes = vec![1_u8; WRITE];
    // As much as a mount touches at most: its own pages and those of the disk below.
    for number in 0..3 {
        let mut file = File::create(dir.join(number.to_string()))?;
        for _ in 0..bench.scale.big_bytes / WRITE as u64 {
            file.write_all(&bytes)?;
        }
    }
    std::fs::remove_dir_all(&dir)?;
    rustix::fs::sync();
    Ok(())
}

/// Times of one contestant in one round, in seconds.
struct Times {
    big: f64,
    small: f64,
}

/// Writes one large file and many small ones into a folder; with `sync`, each is on the disk when it is closed.
fn write_all(bench: &Bench, dir: &Path, sync: bool) -> Result<Times> {
    std::fs::create_dir_all(dir)?;
    let mut bytes = vec![0_u8; WRITE];
    for (at, byte) in bytes.iter_mut().enumerate() {
        // No compression and no hole makes it cheaper.
        *byte = (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0];
    }
    even(bench)?;
    let begin = Instant::now();
    let mut file = File::create(dir.join("big"))?;
    for number in 0..bench.scale.big_bytes / WRITE as u64 {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&bytes)?;
    }
    if sync {
        file.sync_data()?;
    }
    drop(file);
    let big = begin.elapsed().as_secs_f64();
    rustix::fs::sync();
    let begin = Instant::now();
    for number in 0..bench.scale.small_files {
        let mut file = File::create(dir.join(small_name(number)))?;
        file.write_all(&bytes[..SMALL])?;
        if sync {
            file.sync_data()?;
        }
    }
    Ok(Times {
        big,
        small: begin.elapsed().as_secs_f64(),
    })
}

pub(crate) fn small_name(number: usize) -> String {
    format!("small.{number:04}.exr")
}

/// Waits until the server has all files whole, under their names.
pub(crate) fn arrived(bench: &Bench, who: Who, at: &Path, begin: Instant, wanted: &[(String, u64)]) -> Result<f64> {
    if !who.keeps_files() {
        return Ok(begin.elapsed().as_secs_f64());
    }
    loop {
        let missing = wanted
            .iter()
            .find(|(name, len)| !std::fs::metadata(at.join(name)).is_ok_and(|m| m.len() == *len));
        let Some((name, _)) = missing else {
            return Ok(begin.elapsed().as_secs_f64());
        };
        ensure!(!interrupted(), "interrupted");
        ensure!(begin.elapsed() < ARRIVED, "{name} did not arrive within {ARRIVED:?}");
        pause(Duration::from_millis(if bench.scale.small_files > 100 {
            20
        } else {
            5
        }));
    }
}

/// Writes a large file and small ones: into a work folder, beside the disk, then where they are sent.
pub(crate) fn write(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let disk: RefCell<[Samples; 4]> = RefCell::default();
    let mut round = 0;
    let table = Table::take(bench, report, "write", 6, |who| {
        round += 1;
        let mut on_disk = Vec::new();
        if who == Who::Backlot {
            // The same in the same minute, on the disk that Backlot's data is on.
            for sync in [false, true] {
                let dir = bench.dir.join("plain");
                let times = write_all(bench, &dir, sync)?;
                on_disk.extend([times.big, times.small]);
                std::fs::remove_dir_all(&dir)?;
            }
        }
        mounted(who, bench, &site.at(site.server.address.port()), |dir, drive| {
            let (work, publish) = (format!("work-{round}"), format!("{round}/publish"));
            let plain = write_all(bench, &dir.join(&work), false)?;
            // Peers have no folder that stays here: what they still send must not disturb the next figure.
            let served = |folder: &str| -> PathBuf { site.root.join(folder) };
            let small: Vec<_> = (0..bench.scale.small_files)
                .map(|number| (small_name(number), SMALL as u64))
                .collect();
            let big = [("big".to_owned(), bench.scale.big_bytes)];
            if drive.is_none() {
                arrived(bench, who, &served(&work), Instant::now(), &small)?;
                arrived(bench, who, &served(&work), Instant::now(), &big)?;
            }
            let target = dir.join(&publish);
            std::fs::create_dir_all(&target)?;
            let bytes = vec![7_u8; SMALL];
            even(bench)?;
            let begin = Instant::now();
            for (name, _) in &small {
                File::create(target.join(name))?.write_all(&bytes)?;
            }
            let closed = begin.elapsed().as_secs_f64();
            let small_there = arrived(bench, who, &served(&publish), begin, &small)?;
            even(bench)?;
            let begin = Instant::now();
            let mut file = File::create(target.join("big"))?;
            let bytes = vec![9_u8; WRITE];
            for _ in 0..bench.scale.big_bytes / WRITE as u64 {
                file.write_all(&bytes)?;
            }
            drop(file);
            let big_closed = begin.elapsed().as_secs_f64();
            let big_there = arrived(bench, who, &served(&publish), Instant::now(), &big)?;
            if let [a, b, c, d] = on_disk[..] {
                let mut disk = disk.borrow_mut();
                for (samples, value) in disk.iter_mut().zip([a, b, c, d]) {
                    samples.push(value, crate::figures::Round::default());
                }
            }
            for folder in [&work, &publish] {
                match std::fs::remove_dir_all(served(folder)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("remove what arrived"),
                    Ok(()) | Err(_) => {}
                }
            }
            Ok([plain.big, plain.small, big_closed, closed, small_there, big_there]
                .map(|value| vec![value])
                .to_vec())
        })
    })?;
    let mib = bench.scale.big_bytes >> 20;
    let files = bench.scale.small_files;
    let beside_disk = |report: &mut Report, column: usize, on_disk: usize, what: String, target: Target| {
        if let Some(ours) = table.of(Who::Backlot, column) {
            report.add(Row {
                scenario: "write",
                what,
                unit: Unit::Seconds,
                ours,
                beside: Some(("ext4".to_owned(), disk.borrow()[on_disk].clone())),
                target,
            });
        }
    };
    beside_disk(
        report,
        0,
        0,
        format!("{mib} MiB, work folder"),
        Target::RatioAtMost(2.0),
    );
    beside_disk(
        report,
        1,
        1,
        format!("{files} files of 10 KiB, work folder"),
        Target::RatioAtMost(4.0),
    );
    beside_disk(
        report,
        2,
        2,
        format!("{mib} MiB, publish folder, synced"),
        Target::RatioAtMost(2.0),
    );
    beside_disk(
        report,
        3,
        3,
        format!("{files} files, publish folder, each synced"),
        Target::RatioAtMost(4.0),
    );
    let rows = [
        (
            1,
            format!("{files} files of 10 KiB, work folder"),
            Target::RatioAtMost(1.0 / 1.5),
        ),
        (
            4,
            format!("{files} files, until the server has them"),
            Target::RatioAtMost(1.0),
        ),
        (
            5,
            format!("{mib} MiB, from close until the server has it"),
            Target::RatioAtMost(1.0),
        ),
    ];
    for (column, what, target) in rows {
        table.report_beside(
            report,
            column,
            Who::Rclone,
            empty_row("write", &what, Unit::Seconds),
            target,
        );
    }
    Ok(())
}
