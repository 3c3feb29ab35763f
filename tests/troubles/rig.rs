//! A drive with further sites, and what its queue says.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::drive::{Builder, Drive};
use crate::common::tree::{self, files_at};

/// A test here may take this long on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);
/// How long a job may take.
pub(crate) const DRAIN: Duration = Duration::from_secs(120);
/// The bucket, and the folder, that servers serve.
pub(crate) const BUCKET: &str = "projects";

pub(crate) fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 7 + i / 60_013 + seed * 41) % 251).unwrap())
        .collect()
}

/// Writes a file, whole under its name.
pub(crate) fn put(root: &Path, path: &str, bytes: &[u8]) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let aside = root.join("being put");
    fs::write(&aside, bytes).unwrap();
    fs::rename(aside, file).unwrap();
}

/// A further site whose bytes are in a folder of this machine.
pub(crate) fn local(builder: Builder, name: &str, root: &Path) -> Builder {
    fs::create_dir_all(root).unwrap();
    builder
        .set(&format!("sites.{name}.provider"), "local")
        .set(&format!("sites.{name}.root"), root.to_str().unwrap())
}

/// Fails, naming what differs, unless both have the same files. What an upload left that was broken off may still be cleared
/// away.
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let begun = Instant::now();
    while files_at(one).keys().ne(files_at(other).keys()) && begun.elapsed() < Duration::from_secs(60) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    tree::assert_same(one, other);
}

pub(crate) fn json(drive: &Drive, args: &[&str]) -> Value {
    let text = drive.tell(args.iter().copied().chain(["--json"]));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

/// The one job to a site.
pub(crate) fn job_to(drive: &Drive, site: &str) -> Value {
    let all = json(drive, &["queue", "jobs", "--all"]);
    let mut found = all.as_array().unwrap().iter().filter(|job| job["to"] == site);
    let job = found
        .next()
        .unwrap_or_else(|| panic!("no job to {site}: {all:#}"))
        .clone();
    assert!(found.next().is_none(), "more than a job to {site}: {all:#}");
    job
}

pub(crate) fn count(job: &Value, key: &str) -> u64 {
    match &job[key] {
        Value::Object(tally) => tally["tasks"].as_u64().unwrap(),
        other => other.as_u64().unwrap_or_else(|| panic!("no {key} in {job:#}")),
    }
}

pub(crate) fn tasks(drive: &Drive) -> Vec<Value> {
    json(drive, &["queue", "ls"]).as_array().unwrap().clone()
}

/// A task that needs a person for a reason of that kind, and says so in words.
pub(crate) fn blocked(drive: &Drive, kind: &str, says: &[&str]) -> bool {
    tasks(drive).iter().any(|task| {
        let error = task["error"].as_str().unwrap_or_default();
        task["state"] == "blocked" && task["kind"] == kind && says.iter().all(|part| error.contains(part))
    })
}

/// The memory of a process that is not files, in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}
