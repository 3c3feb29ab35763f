//! The machine that figures are taken on: what it is, and whether others use it.
//!
//! Invariant: how much others used the machine during a round is measured, not guessed: all busy time less that of this
//! process, its descendants and the kernel's threads.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Bench;
use crate::figures::Round;
use crate::process::{interrupted, output, pause};

/// A round counts as disturbed if others used more than this share of the machine.
const DISTURBED: f64 = 0.10;
/// How long to look whether others use the machine.
const GLANCE: Duration = Duration::from_millis(500);

/// What figures depend on beside the code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    pub(crate) disk: String,
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) commit: String,
    pub(crate) load_at_start: String,
    pub(crate) scale: String,
}

pub(crate) fn facts(bench: &Bench) -> Result<Facts> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| path.to_owned());
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split([':', '=']).nth(1)?.trim().trim_matches('"').to_owned())
    };
    let unknown = || "unknown".to_owned();
    let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
    let memory_kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let scale = bench.scale;
    Ok(Facts {
        cpu: field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(unknown),
        cores: std::thread::available_parallelism()?.get(),
        memory_gib: memory_kib.div_ceil(1 << 20),
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        system: read("/etc/os-release")
            .ok()
            .and_then(|text| field(&text, "PRETTY_NAME"))
            .unwrap_or_else(unknown),
        disk: disk_kind(&bench.dir),
        versions: versions(&bench.program),
        commit: commit(),
        load_at_start: read("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
        scale: format!(
            "{} rounds; store of {} entries, tree of {} files, file of {} MiB",
            scale.rounds,
            scale.store_folders * 100,
            scale.tree_folders * 100,
            scale.big_bytes >> 20
        ),
    })
}

/// Returns the file system type of a folder.
pub(crate) fn disk_kind(dir: &Path) -> String {
    let told = output(Command::new("stat").args(["-f", "-c", "%T"]).arg(dir));
    told.map_or_else(
        |_| "unknown".to_owned(),
        |kind| kind.trim().replace("ext2/ext3", "ext4"),
    )
}

fn commit() -> String {
    let git = |args: &[&str]| output(Command::new("git").args(args)).map(|text| text.trim().to_owned());
    match (
        git(&["rev-parse", "--short", "HEAD"]),
        git(&["status", "--porcelain", "--untracked-files=no"]),
    ) {
        (Ok(head), Ok(changes)) if changes.is_empty() => head,
        (Ok(head), _) => format!("{head} with changes"),
        (Err(_), _) => "unknown".to_owned(),
    }
}

fn versions(backlot: &Path) -> Vec<(String, String)> {
    let program = &*backlot.to_string_lossy();
    let asked: [(&str, &str, &[&str]); 6] = [
        ("backlot", program, &["--version"]),
        ("sshfs", "sshfs", &["--version"]),
        ("rclone", "rclone", &["version"]),
        ("juicefs", "juicefs", &["--version"]),
        ("ssh", "ssh", &["-V"]),
        ("find", "find", &["--version"]),
    ];
    let said = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().ok()?;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        text.lines()
            .find(|line| line.chars().any(|c| c.is_ascii_digit()) && !line.contains("usermount"))
            .map(str::to_owned)
    };
    asked
        .into_iter()
        .map(|(name, program, args)| {
            (
                name.to_owned(),
                said(program, args).unwrap_or_else(|| "missing".to_owned()),
            )
        })
        .collect()
}

/// Says whether a program is to be had.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Drops the kernel's names and inodes, so that the next walk over a local disk is cold.
pub(crate) fn drop_names() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "2").context("drop the kernel's names (only root may)")
}

/// Drops names, inodes and pages: the machine as after a restart.
pub(crate) fn drop_everything() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop the kernel's caches (only root may)")
}

/// Takes rounds while nobody else uses the machine, as far as that can be had within the patience of one scenario.
#[derive(Debug)]
pub(crate) struct Quiet {
    left: Mutex<Duration>,
}

impl Quiet {
    /// Makes one that spends at most `patience` on waiting and on rounds taken in vain.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            left: Mutex::new(patience),
        }
    }

    /// Takes a round, again if others disturbed it and patience is left.
    pub(crate) fn round<T>(&self, mut take: impl FnMut() -> Result<T>) -> Result<(T, Round)> {
        loop {
            self.wait()?;
            let begin = Instant::now();
            let (value, others) = watched(&mut take)?;
            let disturbed = others > DISTURBED;
            if !disturbed || self.spend(begin.elapsed()) {
                return Ok((value, Round { others, disturbed }));
            }
        }
    }

    fn wait(&self) -> Result<()> {
        loop {
            anyhow::ensure!(!interrupted(), "interrupted");
            let begin = Instant::now();
            let ((), others) = watched(|| {
                pause(GLANCE);
                Ok(())
            })?;
            if others <= DISTURBED || self.spend(begin.elapsed()) {
                return Ok(());
            }
        }
    }

    /// Takes time off the patience; true if none is left.
    fn spend(&self, time: Duration) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(time);
        left.is_zero()
    }
}

/// Runs something and returns the share of the machine's processors that others used meanwhile.
fn watched<T>(mut run: impl FnMut() -> Result<T>) -> Result<(T, f64)> {
    let (all, idle, ours) = (Ticks::of_machine()?, Ticks::idle()?, Ticks::of_ours()?);
    let value = run()?;
    let (all, idle, ours) = (
        Ticks::of_machine()? - all,
        Ticks::idle()? - idle,
        Ticks::of_ours()?.saturating_sub(ours),
    );
    let others = all.saturating_sub(idle).saturating_sub(ours);
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
    let share = others as f64 / all.max(1) as f64;
    Ok((value, share))
}

/// The parent of the kernel's threads.
const KTHREADD: u32 = 2;

/// Processor time in clock ticks.
struct Ticks;

impl Ticks {
    fn of_cpu() -> Result<Vec<u64>> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        // Guest time (the last two) is counted in user time already.
        Ok(line
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|ticks| ticks.parse().ok())
            .collect())
    }

    fn of_machine() -> Result<u64> {
        Ok(Self::of_cpu()?.iter().sum())
    }

    /// Idle and waiting for the disk.
    fn idle() -> Result<u64> {
        Ok(Self::of_cpu()?.iter().skip(3).take(2).sum())
    }

    /// This process and what descends from it, ended children included, and the kernel's threads.
    fn of_ours() -> Result<u64> {
        let mut all = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            // The name in parentheses may hold anything; what counts comes after it: state, parent, …
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
            let parent = u32::try_from(number(1)).unwrap_or(0);
            all.insert(pid, (parent, (11..=14).map(number).sum::<u64>()));
        }
        let me = std::process::id();
        // The kernel's own threads (whose parent is 2) count as nobody's: what they do, they mostly do for us.
        let is_ours = |mut pid: u32| {
            while pid > KTHREADD && pid != me {
                pid = all.get(&pid).map_or(0, |(parent, _)| *parent);
            }
            pid == me || pid == KTHREADD
        };
        Ok(all
            .iter()
            .filter(|(pid, _)| is_ours(**pid))
            .map(|(_, (_, ticks))| ticks)
            .sum())
    }
}
