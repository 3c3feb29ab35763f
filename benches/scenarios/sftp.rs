//! Files of an SFTP server on loopback, read through Backlot and through its peers: whole, their first bytes, in places.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::daemon::Drive;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::peers::{Remote, WARM_UP, Who, mounted};
use crate::process::{interrupted, pause};
use crate::relay::{Relay, round_trip};
use crate::server::Server;

/// One way of the long wire.
const DELAY: Duration = Duration::from_millis(10);
/// How much is read at once, as `dd bs=1M` and `cat` do about.
const READ: usize = 1 << 20;
const RANDOM_READS: u64 = 100;
const RANDOM_READ: usize = 64 << 10;
/// Too large to be fetched whole for its first bytes.
const OPENED_FILE: u64 = 8 << 20;

/// The files served, and the server.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) root: PathBuf,
    pub(crate) big: PathBuf,
    digest: blake3::Hash,
}

impl Site {
    pub(crate) fn start(bench: &Bench) -> Result<Self> {
        let root = bench.dir.join("served");
        let big = root.join("big.mov");
        if !big.exists() {
            std::fs::create_dir_all(&root)?;
            write_noise(&root.join(WARM_UP), 64 << 10)?;
            for open in 0..bench.scale.opens {
                write_noise(&root.join(opened_name(open)), OPENED_FILE)?;
            }
            write_noise(&big, bench.scale.big_bytes)?;
            rustix::fs::sync();
        }
        let digest = digest(&big)?;
        let dir = bench.dir.join(format!("sshd-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        Ok(Self {
            server: Server::start(&dir)?,
            root,
            big,
            digest,
        })
    }

    pub(crate) fn at(&self, port: u16) -> Remote<'_> {
        Remote {
            server: &self.server,
            port,
            root: &self.root,
        }
    }
}

fn opened_name(open: usize) -> String {
    format!("opened-{open:02}.exr")
}

/// What was measured for each contestant, Backlot first.
pub(crate) struct Table(Vec<(Who, Vec<Samples>)>);

impl Table {
    /// Takes rounds of all contestants in turns. A contestant that fails is reported and left out.
    pub(crate) fn take(
        bench: &Bench,
        report: &mut Report,
        scenario: &'static str,
        columns: usize,
        mut round: impl FnMut(Who) -> Result<Vec<Vec<f64>>>,
    ) -> Result<Self> {
        let mut who = vec![Who::Backlot];
        who.extend(Who::peers(bench, |missing| {
            report.not_run(&format!("{scenario} beside {missing}"), "it is missing")
        }));
        let mut table: Vec<_> = who
            .into_iter()
            .map(|who| (who, vec![Samples::default(); columns]))
            .collect();
        for turn in 0..bench.scale.rounds {
            let contestants = table.len();
            let mut failed = Vec::new();
            for step in 0..contestants {
                let (who, samples) = &mut table[(turn + step) % contestants];
                match bench.quiet.round(|| round(*who)) {
                    Ok((values, seen)) => {
                        for (samples, values) in samples.iter_mut().zip(values) {
                            values.into_iter().for_each(|value| samples.push(value, seen));
                        }
                    }
                    Err(e) if interrupted() => return Err(e),
                    Err(e) => {
                        report.not_run(&format!("{scenario} with {}", who.name()), &format!("{e:#}"));
                        failed.push(*who);
                    }
                }
            }
            table.retain(|(who, _)| !failed.contains(who));
        }
        Ok(Self(table))
    }

    /// Returns one contestant's column.
    pub(crate) fn of(&self, who: Who, column: usize) -> Option<Samples> {
        let found = self.0.iter().find(|(other, _)| *other == who);
        found.map(|(_, samples)| samples[column].clone())
    }

    /// Adds a row per peer; the target is about one of them.
    pub(crate) fn report_beside(
        &self,
        report: &mut Report,
        column: usize,
        beside: Who,
        row: impl Fn(Target) -> Row,
        target: Target,
    ) {
        let Some(ours) = self.of(Who::Backlot, column) else {
            return;
        };
        for (who, samples) in self.0.iter().filter(|(who, _)| *who != Who::Backlot) {
            report.add(Row {
                ours: ours.clone(),
                beside: Some((who.name().to_owned(), samples[column].clone())),
                ..row(if *who == beside { target } else { Target::None })
            });
        }
    }

    /// Adds a row per peer, or one for Backlot alone if the target is not about peers. Without Backlot, peers stand alone.
    pub(crate) fn report(&self, report: &mut Report, column: usize, row: impl Fn(Target) -> Row, target: Target) {
        let ours = self
            .0
            .iter()
            .find(|(who, _)| *who == Who::Backlot)
            .map(|(_, samples)| samples[column].clone());
        if let ([(Who::Backlot, samples)], Target::Below(_) | Target::AtMost(_)) = (self.0.as_slice(), target) {
            report.add(Row {
                ours: samples[column].clone(),
                ..row(target)
            });
        }
        for (who, samples) in self.0.iter().filter(|(who, _)| *who != Who::Backlot) {
            let target = if who.is_plain() && ours.is_some() {
                target
            } else {
                Target::None
            };
            let beside = Some((who.name().to_owned(), samples[column].clone()));
            report.add(Row {
                ours: ours.clone().unwrap_or_default(),
                beside,
                ..row(target)
            });
        }
    }
}

pub(crate) fn empty_row(scenario: &'static str, what: &str, unit: Unit) -> impl Fn(Target) -> Row {
    let what = what.to_owned();
    move |target| Row {
        scenario,
        what: what.clone(),
        unit,
        ours: Samples::default(),
        beside: None,
        target,
    }
}

/// Reads the large file from start to end, cold.
pub(crate) fn stream(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let name = site.big.file_name().context("the file's name")?.to_owned();
    let table = Table::take(bench, report, "stream", 1, |who| {
        mounted(who, bench, &site.at(site.server.address.port()), |dir, _| {
            let path = dir.join(&name);
            let mut buffer = vec![0; READ];
            let begin = Instant::now();
            let mut file = File::open(&path)?;
            let mut total = 0;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    len => total += len as u64,
                }
            }
            let took = begin.elapsed().as_secs_f64();
            drop(file);
            ensure!(
                total == bench.scale.big_bytes,
                "read {total} of {} bytes",
                bench.scale.big_bytes
            );
            ensure!(
                digest(&path)? == site.digest,
                "{} gave other bytes than the server has",
                who.name()
            );
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
            Ok(vec![vec![total as f64 / 1e6 / took]])
        })
    })?;
    let what = format!("{} MiB over SFTP, cold", bench.scale.big_bytes >> 20);
    table.report(
        report,
        0,
        empty_row("stream", &what, Unit::MegabytesPerSecond),
        Target::RatioAtLeast(1.0),
    );
    Ok(())
}

/// Opens files that were never opened and reads their first 4 KiB, over a long wire.
pub(crate) fn first_byte(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::start(site.server.address, DELAY)?;
    let trip = round_trip(DELAY)?;
    let table = Table::take(bench, report, "first-byte", 1, |who| {
        mounted(who, bench, &site.at(relay.port), |dir, _| {
            let mut trips = Vec::new();
            for open in 0..bench.scale.opens {
                let (name, mut page, mut expected) = (opened_name(open), [0; 4096], [0; 4096]);
                let begin = Instant::now();
                File::open(dir.join(&name))?.read_exact(&mut page)?;
                trips.push(begin.elapsed().as_secs_f64() / trip.as_secs_f64());
                File::open(site.root.join(&name))?.read_exact(&mut expected)?;
                ensure!(page == expected, "{} gave other bytes than the server has", who.name());
                quiesce(&relay);
            }
            Ok(vec![trips])
        })
    })?;
    let what = format!("open + 4 KiB, round trip {:.1} ms", trip.as_secs_f64() * 1e3);
    table.report(
        report,
        0,
        empty_row("first-byte", &what, Unit::RoundTrips),
        Target::Below(3.0),
    );
    Ok(())
}

/// Reads a hundred places of the large file, cold, over a long wire; counts what came over it.
pub(crate) fn random(bench: &Bench, report: &mut Report) -> Result<()> {
    let site = Site::start(bench)?;
    let relay = Relay::start(site.server.address, DELAY)?;
    let name = site.big.file_name().context("the file's name")?.to_owned();
    let truth = File::open(&site.big)?;
    let mut seed = 0;
    let table = Table::take(bench, report, "random", 2, |who| {
        seed += 1;
        mounted(who, bench, &site.at(relay.port), |dir, drive| {
            quiesce(&relay);
            let before = fetched(&relay, drive, bench)?;
            let (mut random, begin) = (Noise(seed), Instant::now());
            let file = File::open(dir.join(&name))?;
            let (mut bytes, mut expected) = (vec![0; RANDOM_READ], vec![0; RANDOM_READ]);
            for _ in 0..RANDOM_READS {
                ensure!(!interrupted(), "interrupted");
                // On a page, as mapped files are read, but on no granule.
                let at = random.next() % ((bench.scale.big_bytes - RANDOM_READ as u64) / 4096) * 4096;
                file.read_exact_at(&mut bytes, at)?;
                truth.read_exact_at(&mut expected, at)?;
                ensure!(bytes == expected, "{} gave other bytes than the server has", who.name());
            }
            let took = begin.elapsed().as_secs_f64();
            drop(file);
            quiesce(&relay);
            let after = fetched(&relay, drive, bench)?;
            #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
            let times = (after - before) as f64 / (RANDOM_READS * RANDOM_READ as u64) as f64;
            Ok(vec![vec![times], vec![took]])
        })
    })?;
    let what = format!(
        "bytes fetched / asked, {RANDOM_READS} reads of {} KiB",
        RANDOM_READ >> 10
    );
    table.report(report, 0, empty_row("random", &what, Unit::Times), Target::AtMost(4.0));
    table.report(
        report,
        1,
        empty_row("random", "time of these reads", Unit::Seconds),
        Target::None,
    );
    Ok(())
}

/// Returns the bytes that came from the site: on the wire, or where there is none, as the daemon counts.
fn fetched(relay: &Relay, drive: Option<&Drive<'_>>, bench: &Bench) -> Result<u64> {
    match drive {
        Some(drive) if bench.local_site => drive.status()?["hydration"]["fetched_bytes"]
            .as_u64()
            .context("the daemon's count"),
        _ => Ok(relay.received()),
    }
}

/// Waits until the wire is silent: what was asked for ahead belongs to the figure, and not to the next one.
pub(crate) fn quiesce(relay: &Relay) {
    let give_up = Instant::now() + Duration::from_secs(60);
    let mut before = relay.received();
    loop {
        pause(Duration::from_millis(300));
        let now = relay.received();
        // A keepalive is no traffic.
        if now - before < 4096 || Instant::now() > give_up {
            return;
        }
        before = now;
    }
}

/// Bytes that no compression shortens, the same in each run.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(crate) fn write_noise(path: &Path, len: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(READ, File::create(path)?);
    let mut noise = Noise(len);
    for _ in 0..len / 8 {
        file.write_all(&noise.next().to_le_bytes())?;
    }
    Ok(file.flush()?)
}

fn digest(path: &Path) -> Result<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    let (mut file, mut buffer) = (File::open(path)?, vec![0; READ]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize()),
            len => hash.update(&buffer[..len]),
        };
    }
}
