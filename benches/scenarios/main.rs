//! End-to-end figures: a real daemon on a real mount, beside what one would use instead, in one run on one machine.
//!
//! Owns: the list of scenarios, arguments, what is printed. Refuses to know: Backlot's insides, but for filling a store.
//! Invariant: a figure that could not be taken is printed as NOT RUN with the reason; nothing is left mounted or running.
//!
//! `cargo bench --bench scenarios -- --help`; benches/README.md says how to read the table.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people to run and read"
)]

mod between;
mod daemon;
mod figures;
mod floor;
mod hollow;
mod juicefs;
mod link;
mod machine;
mod peers;
mod process;
mod relay;
mod resident;
mod server;
mod sftp;
mod store;
mod tree;
mod watching;
mod writing;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use figures::Report;
use machine::Quiet;

/// Measures Backlot beside sshfs, rclone, JuiceFS and a local disk, and prints ratios.
///
/// Sets everything up on loopback in a temporary folder and cleans up. Takes about an hour; on a busy machine longer,
/// because rounds in which others used the machine are repeated.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench scenarios --")]
struct Args {
    /// Which to run: ready, memory, growth, find, stream, first-byte, random, link, small, playback, upload, walk,
    /// floor, resident, metadata, write, between, states, scraped. Default: all.
    scenarios: Vec<String>,
    /// Small data and few rounds: to see that everything works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Also write the figures here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of each scenario. Default: 5, or 2 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// Folder for the data, on the disk to compare with (it needs 10 GB). Default: cargo's target folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Let Backlot read the streamed files from a local folder in place of SFTP: what all but SFTP costs.
    #[arg(long)]
    local_site: bool,
    /// Also take the peers with options that make them faster than their defaults do.
    #[arg(long)]
    tuned_peers: bool,
    /// The program to measure. Default: the one built from this checkout.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_backlot"))]
    backlot: PathBuf,
    /// Seconds that each scenario may spend on waiting for others to leave the machine, and on rounds that they disturbed.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    check: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How large the data is and how often things are done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// Folders of the store that is only a store; 99 files each.
    pub(crate) store_folders: usize,
    /// Folders of the tree that is on the disk; 100 files each.
    pub(crate) tree_folders: usize,
    /// Length of the large file.
    pub(crate) big_bytes: u64,
    /// Files opened for the first byte, in each round.
    pub(crate) opens: usize,
    /// Small files written, in each round.
    pub(crate) small_files: usize,
}

/// What every scenario gets.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) dir: PathBuf,
    /// The program to measure.
    pub(crate) program: PathBuf,
    pub(crate) scale: Scale,
    pub(crate) quiet: Quiet,
    pub(crate) local_site: bool,
    pub(crate) tuned_peers: bool,
}

type Scenario = fn(&Bench, &mut Report) -> Result<()>;

const SCENARIOS: [(&str, Scenario); 19] = [
    ("ready", store::ready),
    ("memory", store::memory),
    ("growth", store::growth),
    ("find", tree::find),
    ("stream", sftp::stream),
    ("first-byte", sftp::first_byte),
    ("random", sftp::random),
    ("link", link::sequential),
    ("small", link::small_files),
    ("playback", link::playback),
    ("upload", link::upload),
    ("walk", link::walk),
    ("floor", floor::floor),
    ("resident", resident::reads),
    ("metadata", resident::metadata),
    ("write", writing::write),
    ("between", between::between),
    ("states", watching::states),
    ("scraped", watching::scraped),
];

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        // `cargo test --benches` runs this too; a figure taken there would be of an unoptimised build.
        eprintln!("run by `cargo bench --bench scenarios`");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; false if something went wrong, or if a missed target counts as that.
fn run(args: &Args) -> Result<bool> {
    process::survive_interrupts()?;
    let parent = args
        .dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&parent)?;
    let temp = tempfile::Builder::new()
        .prefix("scenarios-")
        .tempdir_in(&parent)
        .context("make a folder")?;
    let (rounds, scale) = if args.quick {
        (
            2,
            Scale {
                rounds: 0,
                store_folders: 1_000,
                tree_folders: 200,
                big_bytes: 128 << 20,
                opens: 4,
                small_files: 200,
            },
        )
    } else {
        (
            5,
            Scale {
                rounds: 0,
                store_folders: 10_000,
                tree_folders: 2_000,
                big_bytes: 1 << 30,
                opens: 10,
                small_files: 1_000,
            },
        )
    };
    let mut bench = Bench {
        dir: temp.path().to_owned(),
        program: args.backlot.clone(),
        scale: Scale {
            rounds: args.rounds.unwrap_or(rounds).max(1),
            ..scale
        },
        quiet: Quiet::new(Duration::ZERO),
        local_site: args.local_site,
        tuned_peers: args.tuned_peers,
    };
    for name in &args.scenarios {
        anyhow::ensure!(
            SCENARIOS.iter().any(|(known, _)| known == name),
            "no scenario is called {name}"
        );
    }
    let mut report = Report::new(machine::facts(&bench)?);
    println!("{}", report.head());
    let mut failed = false;
    for (name, scenario) in SCENARIOS {
        if !args.scenarios.is_empty() && !args.scenarios.iter().any(|asked| asked == name) {
            continue;
        }
        if process::interrupted() {
            report.not_run(name, "interrupted");
            failed = true;
            continue;
        }
        eprintln!("== {name}");
        let begin = Instant::now();
        bench.quiet = Quiet::new(Duration::from_secs(args.patience));
        if let Err(e) = scenario(&bench, &mut report) {
            failed = true;
            report.not_run(name, &format!("{e:#}"));
        }
        eprintln!("   took {:.0} s", begin.elapsed().as_secs_f64());
    }
    println!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()?).with_context(|| format!("write {}", path.display()))?;
    }
    temp.close().context("remove the data")?;
    let missed = args.check && report.missed();
    Ok(!failed && !missed)
}
