//! `backlot demo --check`: the demo as a test, one line a step. The drive is served by a child process; this one uses it
//! as any program would.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use backlot_config::Period;

use super::super::client::Client;
use super::super::error::{CliError, Exit};
use super::super::text;
use super::Place;
use super::save;
use super::studio::{PROJECT, Studio};
use crate::api::types::{ScanRequest, ScanState, StopOutcome, UnmountRequest};
use crate::engine::report::Status;

/// The read deadline of the demo's drive: short, so that a dead link is shown in seconds.
pub(super) const DEADLINE: Period = Period::from_secs(3);
/// A step that takes longer has failed: nothing may hang.
const STEP: Duration = Duration::from_secs(120);

type Outcome = Result<String, String>;

pub(super) async fn run(place: &Place, studio: &Studio) -> Result<Exit, CliError> {
    let mut steps = Steps::default();
    steps.note(
        "make a studio",
        &Ok(format!(
            "{} files, {}",
            studio.files.len(),
            text::bytes(studio.total_bytes)
        )),
    );
    let mut served = match Served::start(place) {
        Ok(served) => served,
        Err(e) => {
            steps.note("start the drive", &Err(e));
            return Ok(steps.done());
        }
    };
    steps.note("start the drive", &Ok(format!("mounted at {}", place.mount.display())));
    let client = Client::new(&place.config)?;
    all_steps(place, studio, &mut served, &client, &mut steps).await;
    let stopped = stop(place, &client, &mut served).await;
    steps.note("unmount", &stopped);
    Ok(steps.done())
}

async fn all_steps(place: &Place, studio: &Studio, served: &mut Served, client: &Client, steps: &mut Steps) {
    let outcome = scan(client).await;
    if !steps.note("scan the remote", &outcome) {
        return;
    }
    // The movie is kept for the steps with the link cut: nobody reads it before.
    let Some(movie) = studio.files.iter().max_by_key(|f| f.bytes).map(|f| f.path.clone()) else {
        return;
    };
    let (p, s) = (place.clone(), studio.clone());
    steps.run("walk the tree", move || walk(&p, &s)).await;
    let (p, s, m) = (place.clone(), studio.clone(), movie.clone());
    steps
        .run("read every file but one, compare with the remote", move || {
            compare_all(&p, &s, &m)
        })
        .await;
    let Some(small) = studio
        .files
        .iter()
        .find(|f| f.path != movie && f.bytes > 100_000)
        .map(|f| f.path.clone())
    else {
        return;
    };
    let before = fetched(client).await;
    let (p, f) = (place.clone(), small.clone());
    let again = bounded(move || compare(&p, &f)).await;
    let outcome = match (again, before, fetched(client).await) {
        (Ok(bytes), Ok(b), Ok(a)) if a == b => Ok(format!(
            "{} came from the cache, none from the remote",
            text::bytes(bytes)
        )),
        (Ok(_), Ok(b), Ok(a)) => Err(format!("{} bytes were fetched again", a - b)),
        (Err(e), _, _) | (_, Err(e), _) | (_, _, Err(e)) => Err(e),
    };
    steps.note("read one again", &outcome);
    steps.note(
        "cut the link",
        &served
            .say("link down")
            .map(|()| "everything to the remote vanishes".to_owned()),
    );
    let (p, s) = (place.clone(), studio.clone());
    steps
        .run("list everything with the link cut", move || walk(&p, &s))
        .await;
    let (p, f) = (place.clone(), small);
    steps
        .run("read a cached file with the link cut", move || {
            compare(&p, &f).map(|n| format!("{} are right", text::bytes(n)))
        })
        .await;
    let (p, m) = (place.clone(), movie.clone());
    steps
        .run("read an uncached file with the link cut", move || fails_in_time(&p, &m))
        .await;
    steps.note(
        "mend the link",
        &served
            .say("link up")
            .map(|()| "requests reach the remote again".to_owned()),
    );
    let (p, m) = (place.clone(), movie);
    steps.run("read that file now", move || comes_back(&p, &m)).await;
    saves(place, served, steps).await;
}

/// What artists do all day, with the worst in the middle of it.
async fn saves(place: &Place, served: &mut Served, steps: &mut Steps) {
    let p = place.clone();
    steps.run("save a work file", move || save::save_work(&p)).await;
    let p = place.clone();
    let outcome = bounded(move || save::publish_some(&p)).await;
    if !steps.note("publish a sequence", &outcome) {
        return;
    }
    steps.note("kill the daemon half way", &served.kill());
    match Served::start(place) {
        Ok(again) => *served = again,
        Err(e) => {
            steps.note("start it again", &Err(e));
            return;
        }
    }
    steps.note("start it again", &Ok("the queue goes on by itself".to_owned()));
    let p = place.clone();
    steps.run("look at the remote", move || save::all_arrive(&p)).await;
}

async fn scan(client: &Client) -> Outcome {
    let ask = |e: CliError| e.shown();
    let scans: Vec<ScanState> = client.post("scans", &ScanRequest::default()).await.map_err(ask)?;
    let (mut folders, mut entries) = (0, 0);
    for scan in scans {
        let mut state = scan;
        while !state.progress.done {
            tokio::time::sleep(Duration::from_millis(50)).await;
            state = client.get(&format!("scans/{}", state.id), &()).await.map_err(ask)?;
        }
        if let Some(error) = state.progress.error {
            return Err(error);
        }
        folders += state.progress.folders;
        entries += state.progress.entries;
    }
    Ok(format!("{folders} folders, {entries} entries"))
}

async fn fetched(client: &Client) -> Result<u64, String> {
    let status: Status = client.get("status", &()).await.map_err(|e| e.shown())?;
    Ok(status.hydration.fetched_bytes)
}

/// Names, kinds, sizes, times and link targets are the remote's.
fn walk(place: &Place, studio: &Studio) -> Outcome {
    let (mut files, mut folders) = (0, 0);
    let mut todo = vec![PathBuf::from(PROJECT)];
    let mut seen = Vec::new();
    while let Some(dir) = todo.pop() {
        folders += 1;
        for entry in fs::read_dir(place.mount.join(&dir)).map_err(|e| said(&dir, &e))? {
            let entry = entry.map_err(|e| said(&dir, &e))?;
            let path = dir.join(entry.file_name());
            let here = fs::symlink_metadata(place.mount.join(&path)).map_err(|e| said(&path, &e))?;
            let there = fs::symlink_metadata(place.remote.join(&path)).map_err(|e| said(&path, &e))?;
            if here.is_symlink() {
                let target = |root: &Path| fs::read_link(root.join(&path)).map_err(|e| said(&path, &e));
                if target(&place.mount)? != target(&place.remote)? {
                    return Err(format!("{} leads elsewhere", path.display()));
                }
            } else if here.is_dir() {
                todo.push(path);
            } else {
                if (here.len(), here.mtime()) != (there.len(), there.mtime()) {
                    return Err(format!(
                        "{} has another size or time than at the remote",
                        path.display()
                    ));
                }
                if here.len() > 0 && here.blocks() == 0 {
                    return Err(format!("{} looks like a hole", path.display()));
                }
                files += 1;
                seen.push(path);
            }
        }
    }
    seen.sort();
    let expected: Vec<_> = studio.files.iter().map(|f| f.path.clone()).collect();
    if seen != expected {
        return Err(format!(
            "{} files are there, {} are at the remote",
            seen.len(),
            expected.len()
        ));
    }
    Ok(format!("{files} files in {folders} folders, as at the remote"))
}

fn compare_all(place: &Place, studio: &Studio, but: &Path) -> Outcome {
    let (begun, mut files, mut bytes) = (Instant::now(), 0, 0);
    for f in studio.files.iter().filter(|f| f.path != but) {
        bytes += compare(place, &f.path)?;
        files += 1;
    }
    let rate = bytes as f64 / begun.elapsed().as_secs_f64() / 1e6;
    Ok(format!(
        "{files} files, {}, equal; {rate:.0} MB/s over a link of 25",
        text::bytes(bytes)
    ))
}

/// Compares one file with the remote's, byte for byte, and returns its length.
fn compare(place: &Place, path: &Path) -> Result<u64, String> {
    let mut here = File::open(place.mount.join(path)).map_err(|e| said(path, &e))?;
    let mut there = File::open(place.remote.join(path)).map_err(|e| said(path, &e))?;
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let (n, m) = (
            fill(&mut here, &mut a).map_err(|e| said(path, &e))?,
            fill(&mut there, &mut b).map_err(|e| said(path, &e))?,
        );
        if a[..n] != b[..m] {
            return Err(format!(
                "{} differs from the remote's within the megabyte at {at}",
                path.display()
            ));
        }
        if n == 0 {
            return Ok(at);
        }
        at += n as u64;
    }
}

fn fill(from: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < into.len() {
        match from.read(&mut into[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

fn fails_in_time(place: &Place, path: &Path) -> Outcome {
    let begun = Instant::now();
    // From its middle, so that nothing fetched at its opening can serve it.
    let size = fs::metadata(place.mount.join(path)).map_err(|e| said(path, &e))?.len();
    let read = File::open(place.mount.join(path))
        .and_then(|f| std::os::unix::fs::FileExt::read_at(&f, &mut [0; 4096], size / 2));
    let took = begun.elapsed();
    match read {
        Ok(n) => Err(format!("{n} bytes of {} came from nowhere", path.display())),
        Err(e) if took > Duration::from(DEADLINE) + Duration::from_secs(1) => {
            Err(format!("{e}, but only after {took:.1?}"))
        }
        Err(e) => Ok(format!("{e} after {:.1} s, as it should", took.as_secs_f64())),
    }
}

/// The link's return is noticed by probes, so the first try may come too early; it must not take long.
fn comes_back(place: &Place, path: &Path) -> Outcome {
    let begun = Instant::now();
    loop {
        match compare(place, path) {
            Ok(bytes) => {
                return Ok(format!(
                    "{}, equal, {:.1} s after the link came back",
                    text::bytes(bytes),
                    begun.elapsed().as_secs_f64()
                ));
            }
            Err(e) if begun.elapsed() > Duration::from_secs(30) => return Err(e),
            Err(_) => {
                let (_hold, wait) = sync_channel::<()>(1);
                let _always_elapses = wait.recv_timeout(Duration::from_millis(250));
            }
        }
    }
}

async fn stop(place: &Place, client: &Client, served: &mut Served) -> Outcome {
    let outcome = client
        .post("unmount", &UnmountRequest::default())
        .await
        .map_err(|e| e.shown())?;
    match outcome {
        StopOutcome::Stopped { .. } => {}
        StopOutcome::Waiting { report } => return Err(format!("it waits for {} files", report.going.tasks)),
        StopOutcome::Busy { holders } => return Err(format!("in use by {holders:?}")),
        StopOutcome::Failed { reason } => return Err(reason),
    }
    served.ended()?;
    let left = fs::read_dir(&place.mount).map_err(|e| e.to_string())?.count();
    if left > 0 {
        Err(format!("{left} entries are left at the mount point"))
    } else {
        Ok("the mount point is empty again".to_owned())
    }
}

fn said(path: &Path, e: &io::Error) -> String {
    format!("{}: {e}", path.display())
}

/// Runs what may block on the mount where it can't hold up anything else, and for a bounded time.
async fn bounded<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match tokio::time::timeout(STEP, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no end after {STEP:?}: it hangs")),
    }
}

#[derive(Debug, Default)]
struct Steps {
    good: u32,
    bad: u32,
}

impl Steps {
    fn note(&mut self, step: &str, outcome: &Outcome) -> bool {
        match outcome {
            Ok(says) => {
                self.good += 1;
                outln!("ok    {step}: {says}");
            }
            Err(why) => {
                self.bad += 1;
                outln!("FAIL  {step}: {why}");
            }
        }
        outcome.is_ok()
    }

    async fn run(&mut self, step: &str, work: impl FnOnce() -> Outcome + Send + 'static) {
        let outcome = bounded(work).await;
        self.note(step, &outcome);
    }

    fn done(&self) -> Exit {
        outln!("{} steps passed, {} failed", self.good, self.bad);
        if self.bad == 0 { Exit::Ok } else { Exit::Failed }
    }
}

/// The process that serves the drive.
struct Served {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Served {
    fn start(place: &Place) -> Result<Self, String> {
        let dir = place.mount.parent().unwrap_or(&place.mount);
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = Command::new(program)
            .args(["demo", "--serve"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the serving process has no pipes".to_owned());
        };
        let (tx, answers) = sync_channel(16);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    break;
                }
            }
        });
        let served = Self { child, orders, answers };
        match served.answers.recv_timeout(Duration::from_secs(20)) {
            Ok(line) if line == "ready" => Ok(served),
            Ok(line) => Err(line),
            Err(_) => Err("the serving process did not become ready; its error is above".to_owned()),
        }
    }

    /// Ends the process as a power cut would, but for the disk.
    fn kill(&mut self) -> Outcome {
        self.child.kill().map_err(|e| e.to_string())?;
        let status = self.child.wait().map_err(|e| e.to_string())?;
        Ok(format!("it ended with {status}"))
    }

    fn say(&mut self, order: &str) -> Result<(), String> {
        writeln!(self.orders, "{order}").map_err(|e| e.to_string())?;
        self.answers
            .recv_timeout(Duration::from_secs(5))
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    fn ended(&mut self) -> Result<(), String> {
        let give_up = Instant::now() + Duration::from_secs(15);
        while Instant::now() < give_up {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the serving process ended with {status}")),
                Ok(None) => drop(self.answers.recv_timeout(Duration::from_millis(50))),
                Err(e) => return Err(e.to_string()),
            }
        }
        Err("the serving process does not end".to_owned())
    }
}

impl Drop for Served {
    /// Whatever went wrong, no process and no mount stays behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(writeln!(self.orders, "stop"));
            if self.ended().is_err() {
                drop(self.child.kill());
                drop(self.child.wait());
            }
        }
    }
}
