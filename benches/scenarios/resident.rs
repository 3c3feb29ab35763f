//! Files that are here, read through Backlot and beside that from the disk: what it costs that they are in a drive.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Bench;
use crate::daemon::DriveSetup;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::process::{interrupted, output};
use crate::sftp::{Noise, write_noise};

const READ: usize = 1 << 20;
const PAGE: usize = 4096;
/// Reads at random places, in each round and thread.
const RANDOM_READS: u64 = 50_000;
const SMALL: u64 = 8 << 10;
const SMALL_FILES: usize = 1_000;
const STATS: usize = 10_000;

/// A disk folder as site, all of it fetched, and the drive that shows it.
struct Resident {
    root: PathBuf,
    setup: DriveSetup,
}

impl Resident {
    fn new(bench: &Bench, name: &str, more: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let dir = bench.dir.join(name);
        let root = dir.join("site");
        std::fs::create_dir_all(&root)?;
        fill(&root)?;
        let site = format!("provider = \"local\"\nroot = {}", Value::from(root.to_string_lossy()));
        let setup = DriveSetup::new(bench, &dir, &site, more)?;
        Ok(Self { root, setup })
    }
}

/// What one look at a file gives: seconds.
#[derive(Default)]
struct Rates {
    first: f64,
    again: f64,
    random: f64,
    random_4: f64,
    mapped: f64,
}

pub(crate) fn sequential(path: &Path, len: u64) -> Result<f64> {
    let (file, mut buffer) = (File::open(path)?, vec![0; READ]);
    let begin = Instant::now();
    for piece in 0..len / READ as u64 {
        file.read_exact_at(&mut buffer, piece * READ as u64)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    Ok(len as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

fn random(path: &Path, len: u64, threads: u64) -> Result<f64> {
    let begin = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for thread in 0..threads {
            running.push(scope.spawn(move || -> Result<()> {
                let (file, mut page, mut noise) = (File::open(path)?, [0; PAGE], Noise(thread));
                for _ in 0..RANDOM_READS {
                    file.read_exact_at(&mut page, noise.next() % (len / PAGE as u64) * PAGE as u64)?;
                }
                Ok(())
            }));
        }
        for thread in running {
            thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok(())
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    Ok((RANDOM_READS * threads) as f64 / begin.elapsed().as_secs_f64())
}

/// Touches each page of a mapping, in a program of its own: this one has no unsafe code.
fn mapped(path: &Path) -> Result<f64> {
    const TOUCH: &str = "import mmap,sys,time\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\n\
                         t=time.perf_counter()\nn=0\nfor i in range(0,len(m),4096): n+=m[i]\nprint(time.perf_counter()-t)";
    let told = output(std::process::Command::new("python3").args(["-c", TOUCH]).arg(path))?;
    Ok(told.trim().parse()?)
}

fn look(path: &Path, len: u64) -> Result<Rates> {
    ensure!(!interrupted(), "interrupted");
    // The kernel's pages of this very file go; what lies below it may stay in memory, for all alike.
    let file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    drop(file);
    Ok(Rates {
        first: sequential(path, len)?,
        again: sequential(path, len)?,
        random: random(path, len, 1)?,
        random_4: random(path, len, 4)?,
        mapped: mapped(path)?,
    })
}

/// Reads a large resident file, natively where the kernel may and not, beside the same file on the disk.
pub(crate) fn reads(bench: &Bench, report: &mut Report) -> Result<()> {
    let len = bench.scale.big_bytes;
    for (mode, more, targets) in [
        (
            "kernel reads natively",
            "",
            [
                Target::None,
                Target::RatioAtLeast(0.9),
                Target::RatioAtLeast(0.85),
                Target::RatioAtLeast(0.85),
            ],
        ),
        (
            "through the daemon",
            "[fuse]\npassthrough = \"off\"\n",
            [
                Target::RatioAtLeast(0.3),
                Target::RatioAtLeast(0.85),
                Target::None,
                Target::None,
            ],
        ),
    ] {
        let at = Resident::new(bench, "resident", more, |root| write_noise(&root.join("big.mov"), len))?;
        let (mut drive, _) = at.setup.mount()?;
        drive.scanned()?;
        let (here, there) = (at.setup.project().join("big.mov"), at.root.join("big.mov"));
        // Fetched, and opened anew.
        sequential(&here, len)?;
        let reads = |status: &Value| {
            status["native_reads"]["daemon_reads"]
                .as_u64()
                .context("reads of the daemon")
        };
        if more.is_empty() {
            // All of it was checked some time after it came; from then on the kernel reads it.
            let limit = Instant::now() + Duration::from_secs(60);
            loop {
                let before = reads(&drive.status()?)?;
                sequential(&here, len)?;
                if reads(&drive.status()?)? == before {
                    break;
                }
                ensure!(
                    Instant::now() < limit,
                    "the daemon is still asked: is this the system service?"
                );
            }
        }
        let [mut ours, mut disk]: [[Samples; 5]; 2] = Default::default();
        let before = drive.status()?;
        for round in 0..bench.scale.rounds {
            for turn in [round, round + 1] {
                let (path, samples) = if turn % 2 == 0 {
                    (&here, &mut ours)
                } else {
                    (&there, &mut disk)
                };
                let (rates, seen) = bench.quiet.round(|| look(path, len))?;
                let values = [
                    rates.first,
                    rates.again,
                    rates.random,
                    rates.random_4,
                    1.0 / rates.mapped,
                ];
                for (samples, value) in samples.iter_mut().zip(values) {
                    samples.push(value, seen);
                }
            }
        }
        // The figure is of the way that its row names: seen by whose reads reached the daemon.
        let reached = reads(&drive.status()?)? - reads(&before)?;
        if more.is_empty() {
            ensure!(
                reached == 0,
                "{reached} reads reached the daemon: is this the system service?"
            );
        } else {
            ensure!(reached > 0, "no read reached the daemon");
        }
        drive.unmount()?;
        let [first, again, one, four] = targets;
        let rows = [
            ("first read", Unit::MegabytesPerSecond, first),
            ("read again", Unit::MegabytesPerSecond, again),
            ("random 4 KiB, 1 thread", Unit::PerSecond, one),
            ("random 4 KiB, 4 threads", Unit::PerSecond, four),
            (
                "a mapping touched, page by page",
                Unit::PerSecond,
                if more.is_empty() {
                    Target::RatioAtLeast(0.9)
                } else {
                    Target::None
                },
            ),
        ];
        for ((what, unit, target), (ours, disk)) in rows.into_iter().zip(ours.into_iter().zip(disk)) {
            report.add(Row {
                scenario: "resident",
                what: format!("{} MiB resident, {mode}: {what}", len >> 20),
                unit,
                ours,
                beside: Some(("ext4".to_owned(), disk)),
                target,
            });
        }
    }
    Ok(())
}

/// Opens, reads and closes small resident files, and asks for attributes of known paths.
pub(crate) fn metadata(bench: &Bench, report: &mut Report) -> Result<()> {
    let at = Resident::new(bench, "metadata", "", |root| {
        for n in 0..SMALL_FILES {
            write_noise(&root.join(format!("f{n:05}")), SMALL)?;
        }
        Ok(())
    })?;
    let (mut drive, _) = at.setup.mount()?;
    drive.scanned()?;
    let open = |root: &Path| -> Result<f64> {
        let begin = Instant::now();
        for n in 0..SMALL_FILES {
            let bytes = std::fs::read(root.join(format!("f{n:05}")))?;
            ensure!(bytes.len() as u64 == SMALL, "half a file");
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
        Ok(SMALL_FILES as f64 / begin.elapsed().as_secs_f64())
    };
    let stat = |root: &Path| -> Result<f64> {
        let begin = Instant::now();
        for n in 0..STATS {
            std::fs::symlink_metadata(root.join(format!("f{:05}", n % SMALL_FILES))).context("stat")?;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
        Ok(STATS as f64 / begin.elapsed().as_secs_f64())
    };
    let project = at.setup.project();
    open(&project)?;
    let [mut ours, mut disk]: [[Samples; 2]; 2] = Default::default();
    for round in 0..bench.scale.rounds {
        for turn in [round, round + 1] {
            let (root, samples) = if turn % 2 == 0 {
                (&project, &mut ours)
            } else {
                (&at.root, &mut disk)
            };
            let (values, seen) = bench.quiet.round(|| Ok([open(root)?, stat(root)?]))?;
            for (samples, value) in samples.iter_mut().zip(values) {
                samples.push(value, seen);
            }
        }
    }
    drive.unmount()?;
    let rows = [
        (
            "open, read, close of resident files of 8 KiB",
            Target::RatioAtLeast(0.2),
        ),
        ("attributes of known paths", Target::RatioAtLeast(0.75)),
    ];
    for ((what, target), (ours, disk)) in rows.into_iter().zip(ours.into_iter().zip(disk)) {
        report.add(Row {
            scenario: "metadata",
            what: what.to_owned(),
            unit: Unit::PerSecond,
            ours,
            beside: Some(("ext4".to_owned(), disk)),
            target,
        });
    }
    Ok(())
}
