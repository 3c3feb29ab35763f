//! The transfer queue of a drive, looked at from outside while its daemon runs, or after that was killed.
//!
//! Refuses to know: how the queue is worked off. Invariant: nothing here changes it but what says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backlot::model::EntryKind;
use backlot::state::{ReadTxn, StateError, StateStore, Task, TaskFilter, TaskId, TaskState, TaskWhat};
use serde_json::Value;

use super::drive::{Drive, eventually_within};

/// More tasks than a test has.
const MANY: usize = 100_000;

/// A question to a drive's database.
pub fn ask<T>(data_dir: &Path, f: impl FnOnce(&ReadTxn<'_>) -> Result<T, StateError>) -> T {
    let store = StateStore::open_read_only(data_dir).expect("a database");
    let answer = store.read(f).expect("an answer");
    store.close();
    answer
}

/// All tasks of a drive.
pub fn tasks(data_dir: &Path) -> Vec<Task> {
    ask(data_dir, |txn| txn.tasks(TaskFilter::default(), TaskId(0), MANY))
}

/// Waits until nothing is in the queue or being written; returns how long it took. What holds it up is named.
pub fn drained(drive: &Drive, limit: Duration) -> Duration {
    drained_at(drive.data_dir(), limit)
}

pub fn drained_at(data_dir: &Path, limit: Duration) -> Duration {
    let store = StateStore::open_read_only(data_dir).expect("a database");
    let begun = Instant::now();
    loop {
        let (tasks, written) = store
            .read(|txn| Ok((txn.tasks(TaskFilter::default(), TaskId(0), MANY)?, txn.being_written()?)))
            .expect("an answer");
        if tasks.is_empty() && written.is_empty() {
            break;
        }
        assert!(
            begun.elapsed() < limit,
            "the queue was not worked off within {limit:?}: {tasks:#?}, being written: {written:#?}"
        );
        std::thread::park_timeout(Duration::from_millis(10));
    }
    store.close();
    begun.elapsed()
}

/// Waits until a task in such a state is there, and returns it.
pub fn task_that(drive: &Drive, what: &str, limit: Duration, is: impl Fn(&Task) -> bool) -> Task {
    let mut found = None;
    eventually_within(limit, what, || {
        found = tasks(drive.data_dir()).into_iter().find(&is);
        found.is_some()
    });
    found.unwrap()
}

/// Changes a drive's database while no daemon has it.
pub fn change(drive: &Drive, f: impl FnOnce(&backlot::state::WriteTxn<'_>) -> Result<(), StateError> + Send + 'static) {
    let store = StateStore::open(drive.data_dir()).expect("nobody has it");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(store.write(f)).expect("written");
    store.close();
}

/// A state that a kill can find work in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Found {
    DirtyFileOpen,
    WaitingSettling,
    WaitingDue,
    RunningBeforeNote,
    Noted,
    Begun,
    PartSent,
    AllPartsSent,
    CommittedNotRecorded,
    RecordedNotTrashed,
    Retrying,
    Blocked,
    Held,
    QueuePaused,
    Leftover,
    Delete,
}

impl Found {
    pub const ALL: [Self; 16] = [
        Self::DirtyFileOpen,
        Self::WaitingSettling,
        Self::WaitingDue,
        Self::RunningBeforeNote,
        Self::Noted,
        Self::Begun,
        Self::PartSent,
        Self::AllPartsSent,
        Self::CommittedNotRecorded,
        Self::RecordedNotTrashed,
        Self::Retrying,
        Self::Blocked,
        Self::Held,
        Self::QueuePaused,
        Self::Leftover,
        Self::Delete,
    ];
}

/// Says in which states a kill left a drive's work, by its database and what lies at its site (a folder).
pub fn found(data_dir: &Path, site: &Path) -> BTreeSet<Found> {
    let (tasks, written, trash, queues) = ask(data_dir, |txn| {
        let tasks = txn.tasks(TaskFilter::default(), TaskId(0), MANY)?;
        Ok((tasks, txn.being_written()?, txn.trash()?, txn.queue_rows()?))
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(since.as_millis()).unwrap();
    let mut found = BTreeSet::new();
    if written.iter().any(|node| node.kind == EntryKind::File) {
        found.insert(Found::DirtyFileOpen);
    }
    if !trash.is_empty() {
        found.insert(Found::RecordedNotTrashed);
    }
    if !tasks.is_empty() && queues.iter().any(|queue| queue.paused) {
        found.insert(Found::QueuePaused);
    }
    found.extend(tasks.iter().map(|task| of_task(task, now, site)));
    found
}

fn of_task(task: &Task, now: i64, site: &Path) -> Found {
    match task.state {
        TaskState::Blocked => return Found::Blocked,
        TaskState::Held | TaskState::Excluded => return Found::Held,
        _ if task.what != TaskWhat::Send => return Found::Delete,
        _ if task.is_leftover() => return Found::Leftover,
        TaskState::Waiting if task.tries > 0 => return Found::Retrying,
        TaskState::Waiting if task.due_ms > now => return Found::WaitingSettling,
        TaskState::Waiting => return Found::WaitingDue,
        TaskState::Running => {}
    }
    let Some(note) = &task.upload else {
        return Found::RunningBeforeNote;
    };
    let note: Value = serde_json::from_str(note).expect("a note");
    let plan = &note["plan"];
    let path = site.join(plan["path"].as_str().expect("a path"));
    let temp = path.with_file_name(format!(".backlot-{}.part", plan["nonce"].as_str().expect("a nonce")));
    let is_there = || {
        let there = fs::metadata(&path).ok()?;
        let since = there.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let planned = Duration::from_nanos(plan["mtime_ns"].as_u64()?);
        // Whole seconds are what SFTP keeps.
        let is_time = since == planned || since == Duration::from_secs(planned.as_secs());
        (there.len() == plan["size"].as_u64()? && is_time).then_some(())
    };
    if !temp.exists() && is_there().is_some() {
        return Found::CommittedNotRecorded;
    }
    if note["state"].is_null() {
        return Found::Noted;
    }
    let sent: u64 = note["parts"]
        .as_array()
        .expect("runs")
        .iter()
        .map(|run| run[1].as_u64().expect("a count"))
        .sum();
    let (size, part) = (plan["size"].as_u64().unwrap(), plan["part_size"].as_u64().unwrap());
    match sent {
        0 => Found::Begun,
        _ if sent < size.div_ceil(part) => Found::PartSent,
        _ => Found::AllPartsSent,
    }
}

/// The files below a folder with what they hold, by their paths below it. Links are not followed.
pub fn files(root: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                let path = entry.path();
                let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                out.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
    }
    out
}
