//! What it costs to look at a drive: the states of many files asked for at once, and figures fetched while files are read.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Bench;
use crate::daemon::DriveSetup;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::process::interrupted;
use crate::sftp::{Noise, write_noise};

/// Files whose state is asked for.
const FILES: usize = 10_000;
const STATE: &str = "user.backlot.state";
const READ: usize = 4096;
/// Reads whose time is taken, in each round.
const READS: usize = 40_000;
/// Between two scrapes: Prometheus comes every 15 seconds.
const EVERY: Duration = Duration::from_millis(100);
/// A file that fits into any cache.
const FILE_BYTES: u64 = 64 << 20;

fn setup(bench: &Bench, name: &str, more: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<DriveSetup> {
    let dir = bench.dir.join(name);
    let root = dir.join("site");
    std::fs::create_dir_all(&root)?;
    fill(&root)?;
    let site = format!("provider = \"local\"\nroot = {}", Value::from(root.to_string_lossy()));
    DriveSetup::new(bench, &dir, &site, more)
}

/// Asks for the states of 10,000 files with `getfattr`, on a fresh mount and again.
pub(crate) fn states(bench: &Bench, report: &mut Report) -> Result<()> {
    let setup = setup(bench, "states", "", |root| {
        for n in 0..FILES {
            std::fs::write(root.join(format!("plate.{n:05}.exr")), b"x")?;
        }
        Ok(())
    })?;
    let (mut drive, _) = setup.mount()?;
    drive.scanned()?;
    drive.unmount()?;
    let asked = || -> Result<f64> {
        ensure!(!interrupted(), "interrupted");
        let begin = Instant::now();
        let mut getfattr = Command::new("getfattr");
        // Its exit code says that the folder itself has no state; what counts is what it told.
        let out = getfattr
            .args(["-R", "-n", STATE])
            .arg(setup.project())
            .output()
            .context("start getfattr")?;
        let took = begin.elapsed().as_secs_f64();
        let told = String::from_utf8_lossy(&out.stdout).matches("state=\"online\"").count();
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(
            told == FILES,
            "{told} of {FILES} files told their state: {}",
            said.trim()
        );
        Ok(took)
    };
    let [mut fresh, mut again]: [Samples; 2] = Default::default();
    for _ in 0..bench.scale.rounds {
        let (drive, _) = setup.mount()?;
        let ((first, second), seen) = bench.quiet.round(|| Ok((asked()?, asked()?)))?;
        fresh.push(first, seen);
        again.push(second, seen);
        drive.unmount()?;
    }
    for (what, ours) in [("fresh mount", fresh), ("again", again)] {
        report.add(Row {
            scenario: "states",
            what: format!("getfattr of the state of {FILES} files, {what}"),
            unit: Unit::Seconds,
            ours,
            beside: None,
            target: Target::Below(1.0),
        });
    }
    Ok(())
}

/// Takes the time of reads at random places that all reach the daemon: the mean, and what one in a hundred exceeds, in
/// microseconds.
fn read_times(path: &Path) -> Result<[f64; 2]> {
    ensure!(!interrupted(), "interrupted");
    let file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let (mut noise, mut buffer) = (Noise(READS as u64), [0; READ]);
    let mut times = Vec::with_capacity(READS);
    for read in 0..READS {
        if read.is_multiple_of(1000) {
            // What was read is not to be read again by the kernel alone.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        let at = noise.next() % (FILE_BYTES / READ as u64) * READ as u64;
        let begin = Instant::now();
        file.read_exact_at(&mut buffer, at)?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "a mean needs no more")]
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    Ok([mean, times[times.len() * 99 / 100]])
}

/// Fetches `/metrics`, and fails if that is no page of figures.
fn scrape(socket: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: backlot\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(
        page.contains("backlot_fuse_operation_seconds_count{operation=\"read\"}"),
        "no figures: {page}"
    );
    Ok(())
}

/// Does something while figures are fetched again and again; returns how often they were.
fn while_scraped<T>(socket: &Path, work: impl FnOnce() -> Result<T>) -> Result<(T, usize)> {
    thread::scope(|scope| {
        let (stop, stopped) = sync_channel::<()>(1);
        let scraping = scope.spawn(move || -> Result<usize> {
            let mut scrapes = 0;
            loop {
                scrape(socket)?;
                scrapes += 1;
                match stopped.recv_timeout(EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(scrapes),
                }
            }
        });
        let done = work();
        drop(stop);
        let scrapes = scraping.join().map_err(|_| anyhow::anyhow!("who scrapes panicked"))??;
        Ok((done?, scrapes))
    })
}

/// Reads a resident file through the daemon, while its figures are fetched ten times a second and while nobody looks.
pub(crate) fn scraped(bench: &Bench, report: &mut Report) -> Result<()> {
    let setup = setup(bench, "scraped", "[fuse]\npassthrough = \"off\"\n", |root| {
        write_noise(&root.join("big.mov"), FILE_BYTES)
    })?;
    let (mut drive, _) = setup.mount()?;
    drive.scanned()?;
    let (path, socket) = (setup.project().join("big.mov"), setup.socket().to_owned());
    std::fs::read(&path)?;
    let reached = || -> Result<u64> {
        let status = drive.status()?;
        status["native_reads"]["daemon_reads"]
            .as_u64()
            .context("reads of the daemon")
    };
    let before = reached()?;
    let [mut watched, mut alone]: [[Samples; 2]; 2] = Default::default();
    let mut scrapes = 0;
    for round in 0..bench.scale.rounds {
        for turn in [round, round + 1] {
            let is_watched = turn % 2 == 0;
            let (times, seen) = bench.quiet.round(|| {
                if is_watched {
                    let (times, count) = while_scraped(&socket, || read_times(&path))?;
                    scrapes += count;
                    Ok(times)
                } else {
                    read_times(&path)
                }
            })?;
            let samples = if is_watched { &mut watched } else { &mut alone };
            for (samples, value) in samples.iter_mut().zip(times) {
                samples.push(value, seen);
            }
        }
    }
    let reads = reached()? - before;
    ensure!(
        reads >= READS as u64,
        "{reads} reads reached the daemon: the kernel answered the rest"
    );
    eprintln!("   {scrapes} scrapes, {reads} reads of the daemon");
    drive.unmount()?;
    let rows = [
        ("mean", Target::RatioAtMost(1.1)),
        ("99th percentile", Target::RatioAtMost(1.25)),
    ];
    for ((what, target), (watched, alone)) in rows.into_iter().zip(watched.into_iter().zip(alone)) {
        report.add(Row {
            scenario: "scraped",
            what: format!("reads of 4 KiB through the daemon, /metrics every 100 ms: {what}"),
            unit: Unit::Microseconds,
            ours: watched,
            beside: Some(("not scraped".to_owned(), alone)),
            target,
        });
    }
    Ok(())
}
