//! A drive with further sites, and what its queue says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::drive::{Builder, Drive};

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

/// What is at a site, hidden temporary files too, but those that rclone's server leaves when it is killed. It may change
/// meanwhile.
pub(crate) fn at(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if !entry.file_name().as_encoded_bytes().starts_with(b".rclone_temp_put_")
                && let Ok(bytes) = fs::read(&path)
            {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// Fails, naming what differs, unless both have the same files. What an upload left that was broken off may still be cleared
/// away.
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let begun = Instant::now();
    while at(one).keys().ne(at(other).keys()) && begun.elapsed() < Duration::from_secs(60) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let (one, other) = (at(one), at(other));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (path, bytes) in &one {
        assert!(other[path] == *bytes, "{} differs", path.display());
    }
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
