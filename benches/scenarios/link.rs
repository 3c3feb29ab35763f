//! What artists do over a long wire of a studio's width: a large file from start to end, a folder of small files, a sequence
//! played for the first time.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::peers::{Remote, WARM_UP, Who, mounted};
use crate::process::{interrupted, pause};
use crate::relay::{Relay, round_trip};
use crate::sftp::{Site, Table, empty_row, quiesce, write_noise};
use crate::{tree, writing};

/// One way: a round trip of 20 ms.
const DELAY: Duration = Duration::from_millis(10);
/// 1 Gbit/s, in bytes a second.
const RATE: u64 = 125_000_000;
const READ: usize = 1 << 20;

/// A frame, as `exr` with 2K of colour is about.
const FRAME: u64 = 2 << 20;
const FRAMES: u64 = 100;
const FPS: f64 = 24.0;
/// Frames that a player may wait for at the start.
const START: u64 = 12;

const SMALL_FILES: u64 = 300;
const SMALL: u64 = 8 << 10;

/// Returns what the wire carries from server to client in one connection without encryption, in MB/s.
fn carried(bytes: u64) -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let relay = Relay::with_rate(listener.local_addr()?, DELAY, Some(RATE))?;
    thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0])?;
        let piece = vec![7; READ];
        for _ in 0..bytes / READ as u64 {
            stream.write_all(&piece)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(("127.0.0.1", relay.port))?;
    let begin = Instant::now();
    stream.write_all(&[1])?;
    let (mut piece, mut total) = (vec![0; READ], 0);
    while let len @ 1.. = stream.read(&mut piece)? {
        total += len as u64;
    }
    ensure!(total == bytes, "the wire lost bytes");
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    Ok(total as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

/// Reads the first quarter of the large file, and another file's 8 MiB, cold.
pub(crate) fn sequential(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::with_rate(site.server.address, DELAY, Some(RATE))?;
    let trip = round_trip(DELAY)?;
    let name = site.big.file_name().context("the file's name")?.to_owned();
    let truth = File::open(&site.big)?;
    let wanted = bench.scale.big_bytes / 4;
    let mut wire = Samples::default();
    let table = Table::take(bench, report, "link", 2, |who| {
        if who == Who::Backlot {
            wire.push(carried(wanted)?, crate::figures::Round::default());
        }
        mounted(who, bench, &site.at(relay.port), |dir, _| {
            quiesce(&relay);
            let begin = Instant::now();
            let mut file = File::open(dir.join("opened-00.exr"))?;
            let (mut head, mut buffer, mut expected) = (Vec::new(), vec![0; READ], vec![0; READ]);
            file.read_to_end(&mut head)?;
            let trips = begin.elapsed().as_secs_f64() / trip.as_secs_f64();
            ensure!(head == std::fs::read(site.root.join("opened-00.exr"))?, "other bytes");
            quiesce(&relay);
            let begin = Instant::now();
            let file = File::open(dir.join(&name))?;
            let mut spent_here = Duration::ZERO;
            for piece in 0..wanted / READ as u64 {
                ensure!(!interrupted(), "interrupted");
                file.read_exact_at(&mut buffer, piece * READ as u64)?;
                let compare = Instant::now();
                truth.read_exact_at(&mut expected, piece * READ as u64)?;
                ensure!(
                    buffer == expected,
                    "{} gave other bytes than the server has",
                    who.name()
                );
                spent_here += compare.elapsed();
            }
            let took = (begin.elapsed() - spent_here).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
            Ok(vec![vec![wanted as f64 / 1e6 / took], vec![trips]])
        })
    })?;
    let link = format!("{:.0} ms, 1 Gbit/s", trip.as_secs_f64() * 1e3);
    let what = format!("{} MiB from start to end, cold, {link}", wanted >> 20);
    if let Some(ours) = table.of(Who::Backlot, 0) {
        report.add(Row {
            scenario: "link",
            what: what.clone(),
            unit: Unit::MegabytesPerSecond,
            ours,
            beside: Some(("the bare wire".to_owned(), wire)),
            target: Target::RatioAtLeast(0.9),
        });
    }
    let rate = empty_row("link", &what, Unit::MegabytesPerSecond);
    table.report(report, 0, rate, Target::RatioAtLeast(1.2));
    let what = format!("8 MiB from start to end, cold, {link}");
    let trips = empty_row("link", &what, Unit::RoundTrips);
    table.report(report, 1, trips, Target::AtMost(8.0 * 1.048_576 / 125.0 / 0.020 + 5.0));
    Ok(())
}

/// Reads all small files of a folder, cold, one after another, as a file browser or a copy does.
pub(crate) fn small_files(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::with_rate(site.server.address, DELAY, Some(RATE))?;
    let folder = site.root.join("thumbs");
    std::fs::create_dir_all(&folder)?;
    for n in 0..SMALL_FILES {
        write_noise(&folder.join(small_name(n)), SMALL + 8 * n)?;
    }
    let table = Table::take(bench, report, "small", 1, |who| {
        mounted(who, bench, &site.at(relay.port), |dir, _| {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir.join("thumbs"))? {
                names.push(entry?.file_name());
            }
            names.sort();
            ensure!(names.len() as u64 == SMALL_FILES, "{} files are there", names.len());
            quiesce(&relay);
            let begin = Instant::now();
            let mut read = Vec::new();
            for name in &names {
                ensure!(!interrupted(), "interrupted");
                read.push(std::fs::read(dir.join("thumbs").join(name))?);
            }
            let took = begin.elapsed().as_secs_f64();
            for (name, bytes) in names.iter().zip(&read) {
                ensure!(
                    *bytes == std::fs::read(folder.join(name))?,
                    "{} gave other bytes",
                    who.name()
                );
            }
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
            Ok(vec![vec![names.len() as f64 / took]])
        })
    })?;
    let what = format!("{SMALL_FILES} files of 8 KiB of one folder, cold, 20 ms, 1 Gbit/s");
    report_alone(&table, report, "small", &what, Unit::PerSecond, Target::AtLeast(200.0));
    Ok(())
}

/// Names without a number that counts: what a folder of thumbnails, scripts or caches has.
fn small_name(n: u64) -> String {
    let word = ["arch", "bolt", "crane", "door", "eave", "flag", "gate"];
    format!(
        "{}-{:08x}.jpg",
        word[usize::try_from(n).unwrap_or(0) % word.len()],
        n.wrapping_mul(2_654_435_761) % (1 << 32)
    )
}

/// Plays a sequence that nobody opened before: each frame is due at its time, and late if it is not whole by then.
pub(crate) fn playback(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::with_rate(site.server.address, DELAY, Some(RATE))?;
    let folder = site.root.join("plates");
    std::fs::create_dir_all(&folder)?;
    for frame in 0..FRAMES {
        write_noise(&folder.join(frame_name(frame)), FRAME)?;
    }
    let table = Table::take(bench, report, "playback", 2, |who| {
        mounted(who, bench, &site.at(relay.port), |dir, _| {
            // A player lists its folder first.
            ensure!(
                std::fs::read_dir(dir.join("plates"))?.count() as u64 == FRAMES,
                "frames are missing"
            );
            quiesce(&relay);
            let (mut late, mut late_at_start) = (0.0, 0.0);
            let begin = Instant::now();
            for frame in 0..FRAMES {
                ensure!(!interrupted(), "interrupted");
                #[expect(clippy::cast_precision_loss, reason = "a small number")]
                let due = begin + Duration::from_secs_f64((frame + 1) as f64 / FPS);
                let bytes = std::fs::read(dir.join("plates").join(frame_name(frame)))?;
                ensure!(bytes.len() as u64 == FRAME, "half a frame");
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    if frame < START {
                        late_at_start += 1.0
                    } else {
                        late += 1.0
                    }
                } else {
                    pause(left);
                }
            }
            for frame in [0, FRAMES / 2, FRAMES - 1] {
                let (here, there) = (
                    dir.join("plates").join(frame_name(frame)),
                    folder.join(frame_name(frame)),
                );
                ensure!(
                    std::fs::read(here)? == std::fs::read(there)?,
                    "{} gave other bytes",
                    who.name()
                );
            }
            Ok(vec![vec![late], vec![late_at_start]])
        })
    })?;
    let what = format!("late of {FRAMES} frames of 2 MiB at 24 fps, cold, after the first {START}");
    report_alone(&table, report, "playback", &what, Unit::Count, Target::AtMost(0.0));
    let what = format!("late among the first {START}");
    let start = empty_row("playback", &what, Unit::Count);
    table.report(report, 1, start, Target::None);
    Ok(())
}

/// Writes small files where they are sent, over the wire; how long until the server has them all.
pub(crate) fn upload(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::with_rate(site.server.address, DELAY, Some(RATE))?;
    let mut round = 0;
    let small: Vec<_> = (0..bench.scale.small_files)
        .map(|number| (writing::small_name(number), writing::SMALL as u64))
        .collect();
    let table = Table::take(bench, report, "upload", 1, |who| {
        round += 1;
        let folder = format!("up-{round}/publish");
        mounted(who, bench, &site.at(relay.port), |dir, _| {
            std::fs::create_dir_all(dir.join(&folder))?;
            let bytes = vec![7_u8; writing::SMALL];
            let begin = Instant::now();
            for (name, _) in &small {
                File::create(dir.join(&folder).join(name))?.write_all(&bytes)?;
            }
            Ok(vec![vec![writing::arrived(
                bench,
                who,
                &site.root.join(&folder),
                begin,
                &small,
            )?]])
        })
    })?;
    let what = format!(
        "{} files of 10 KiB written, until the server has them, 20 ms, 1 Gbit/s",
        small.len()
    );
    report_alone(&table, report, "upload", &what, Unit::Seconds, Target::AtMost(8.0));
    Ok(())
}

/// Walks a tree with attributes over the wire, and for Backlot without it: names need no wire. Peers walk a tenth, since
/// some need a quarter of an hour for the whole.
pub(crate) fn walk(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::with_rate(site.server.address, DELAY, Some(RATE))?;
    let (all, few) = (bench.scale.tree_folders, bench.scale.tree_folders / 10);
    let whole = bench.dir.join("served-to-walk");
    std::fs::create_dir_all(&whole)?;
    std::fs::copy(site.root.join(WARM_UP), whole.join(WARM_UP))?;
    tree::make(&whole.join("tree"), all)?;
    tree::make(&site.root.join("tree"), few)?;
    let walked = |who: Who, port: u16| {
        let (root, folders) = if who == Who::Backlot {
            (&whole, all)
        } else {
            (&site.root, few)
        };
        let remote = Remote { root, ..site.at(port) };
        mounted(who, bench, &remote, |dir, _| {
            let begin = Instant::now();
            tree::count(&dir.join("tree"), folders * tree::FILES_PER_FOLDER / 2)?;
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
            Ok((folders * tree::FILES_PER_FOLDER) as f64 / begin.elapsed().as_secs_f64())
        })
    };
    let mut near = Samples::default();
    let table = Table::take(bench, report, "walk", 1, |who| {
        if who == Who::Backlot {
            near.push(
                walked(who, site.server.address.port())?,
                crate::figures::Round::default(),
            );
        }
        Ok(vec![vec![walked(who, relay.port)?]])
    })?;
    let what = format!(
        "`find -size` over {} files (peers: a tenth), first walk of a fresh mount, 20 ms",
        all * tree::FILES_PER_FOLDER
    );
    if let Some(ours) = table.of(Who::Backlot, 0) {
        report.add(Row {
            scenario: "walk",
            what: what.clone(),
            unit: Unit::PerSecond,
            ours,
            beside: Some(("without delay".to_owned(), near)),
            target: Target::RatioAtLeast(0.9),
        });
    }
    table.report_beside(
        report,
        0,
        Who::Rclone,
        empty_row("walk", &what, Unit::PerSecond),
        Target::RatioAtLeast(5.0),
    );
    Ok(())
}

fn frame_name(frame: u64) -> String {
    format!("plate_v003.{:04}.exr", 1001 + frame)
}

/// Holds our own figure against the target; peers stand beside it.
fn report_alone(table: &Table, report: &mut Report, scenario: &'static str, what: &str, unit: Unit, target: Target) {
    table.report(report, 0, empty_row(scenario, what, unit), target);
}
