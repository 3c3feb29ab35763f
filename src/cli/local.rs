//! What `backlot doctor` looks at of the things made on this machine: their objects, their tasks, their conflicts.
//!
//! Reads the database and the folder `local/`, with the daemon running or not; changes nothing.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::doctor::{Finding, bad, good};
use super::text;
use crate::engine::rescue;
use crate::state::{StateError, StateStore, TaskFilter, TaskId, TaskState};

/// A daemon that runs makes objects and rows one after the other: what is amiss is looked at again after this long.
const AGAIN: Duration = Duration::from_millis(300);

/// A look at one thing.
type Look = fn(&'static str, &Path) -> Finding;

/// What is looked at, each with its word.
pub(super) const LOOKS: [(&str, Look); 4] = [
    ("local", objects),
    ("queue", tasks),
    ("conflicts", conflicts),
    ("notify", messages),
];

/// What does not fit together in `local/`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Amiss {
    /// Objects that no row names.
    strange: Vec<u64>,
    /// Objects that rows name, with bytes, and that are not there.
    missing: Vec<u64>,
    /// Objects that were put aside.
    aside: usize,
    /// Objects that are as they should be.
    well: usize,
}

fn objects(what: &'static str, data_dir: &Path) -> Finding {
    let looked = amiss(data_dir).and_then(|first| {
        if first.strange.is_empty() && first.missing.is_empty() {
            return Ok(first);
        }
        std::thread::park_timeout(AGAIN);
        let mut again = amiss(data_dir)?;
        again.strange.retain(|object| first.strange.contains(object));
        again.missing.retain(|object| first.missing.contains(object));
        Ok(again)
    });
    let found = match looked {
        Ok(found) => found,
        Err(why) => return bad(what, why, "`backlot recover DIR` writes out what is there"),
    };
    let mut says = Vec::new();
    let first = |objects: &[u64]| {
        objects
            .first()
            .map(|object| format!("{object:016x}"))
            .unwrap_or_default()
    };
    if !found.missing.is_empty() {
        let (count, first) = (text::counted(found.missing.len(), "file"), first(&found.missing));
        says.push(format!("the bytes of {count} are gone, the first object: {first}"));
    }
    if !found.strange.is_empty() {
        let (count, first) = (text::counted(found.strange.len(), "object"), first(&found.strange));
        says.push(format!("{count} that no file has, the first: {first}"));
    }
    if found.aside > 0 {
        says.push(format!(
            "{} put aside that no file has",
            text::counted(found.aside, "object")
        ));
    }
    if says.is_empty() {
        let says = format!(
            "{} with bytes of their own, all there",
            text::counted(found.well, "file")
        );
        return good(what, says);
    }
    let hint = if found.missing.is_empty() {
        "`backlot recover DIR` writes them out under the names that they bear; the next start puts strange ones aside"
    } else {
        "was something in the data folder's local/ deleted or moved? put it back from a backup"
    };
    bad(what, says.join("\n"), hint)
}

fn amiss(data_dir: &Path) -> Result<Amiss, String> {
    let is_there = data_dir.join(crate::engine::objects::DIR).is_dir();
    let all = if is_there {
        rescue::find(data_dir).map_err(|e| format!("local/ in {}: {e}", data_dir.display()))?
    } else {
        Vec::new()
    };
    let (aside, mut there): (Vec<_>, Vec<_>) = all.into_iter().partition(rescue::Found::is_put_aside);
    let mut found = Amiss {
        aside: aside.len(),
        ..Amiss::default()
    };
    let Some(store) = open(data_dir)? else {
        found.strange = there.into_iter().map(|object| object.number).collect();
        return Ok(found);
    };
    let asked = store.read(|txn| {
        let mut rows = HashMap::new();
        txn.each_own_name(|own| {
            if let Some(object) = own.object {
                rows.insert(object, own.size > 0 && !own.writing);
            }
            Ok(())
        })?;
        Ok((rows, txn.objects()?, txn.trash()?))
    });
    let (mut rows, known, trash) = asked.map_err(|e| e.to_string())?;
    there.retain(|object| !trash.contains(&object.number));
    for object in there {
        rows.remove(&object.number);
        if known.contains(&object.number) {
            found.well += 1;
        } else {
            found.strange.push(object.number);
        }
    }
    found.missing = rows
        .into_iter()
        .filter(|(_, has_bytes)| *has_bytes)
        .map(|(object, _)| object)
        .collect();
    found.missing.sort_unstable();
    Ok(found)
}

/// What was made here and is not at its site yet, as the database tells it without the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Unsent {
    /// Files that wait or are being sent.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Files that are open for writing, or were when the daemon last wrote anything down.
    pub(super) writing: u64,
    /// Removals that wait.
    pub(super) deletes: u64,
}

impl Unsent {
    /// In words.
    pub(super) fn lines(&self, data_dir: &Path) -> Vec<String> {
        let mut what = Vec::new();
        if self.files > 0 {
            what.push(format!(
                "{} with {}",
                text::counted_u64(self.files, "file"),
                text::bytes(self.bytes)
            ));
        }
        if self.deletes > 0 {
            what.push(text::counted_u64(self.deletes, "removal"));
        }
        let mut lines = Vec::new();
        if !what.is_empty() {
            lines.push(format!("not at its site yet: {}", what.join(", ")));
        }
        if self.writing > 0 {
            lines.push(format!(
                "{} being written when it was aborted",
                text::counted_u64(self.writing, "file")
            ));
        }
        if lines.is_empty() {
            return vec!["everything made here is at its site".to_owned()];
        }
        lines.push(format!(
            "nothing of it is lost: it is in {}, and goes on at the next `backlot mount`",
            data_dir.join(crate::engine::objects::DIR).display()
        ));
        lines
    }
}

/// Reads off the database what is not at its site yet. Works beside a daemon that hangs.
pub(super) fn unsent(data_dir: &Path) -> Result<Unsent, String> {
    let Some(store) = open(data_dir)? else {
        return Ok(Unsent::default());
    };
    let read = store.read(|txn| {
        let mut unsent = Unsent {
            writing: txn.being_written()?.len() as u64,
            ..Unsent::default()
        };
        for (_, _, is_send, tally) in txn.to_do()? {
            if is_send {
                unsent.files += tally.tasks;
                unsent.bytes = unsent.bytes.saturating_add(tally.bytes);
            } else {
                unsent.deletes += tally.tasks;
            }
        }
        Ok(unsent)
    });
    read.map_err(|e| e.to_string())
}

/// Opens the database; `None` where there is none yet.
fn open(data_dir: &Path) -> Result<Option<StateStore>, String> {
    if !data_dir.join("state.sqlite").exists() {
        return Ok(None);
    }
    StateStore::open_read_only(data_dir)
        .map(Some)
        .map_err(|e| e.to_string())
}

fn ask<T>(
    what: &'static str,
    data_dir: &Path,
    nothing: &str,
    ask: impl FnOnce(&StateStore) -> Result<T, StateError>,
    tell: impl FnOnce(T) -> Finding,
) -> Finding {
    let store = match open(data_dir) {
        Ok(Some(store)) => store,
        Ok(None) => return good(what, nothing),
        Err(why) => return bad(what, why, "`backlot doctor --deep` looks the database through"),
    };
    match ask(&store) {
        Ok(answer) => tell(answer),
        Err(e) => bad(
            what,
            e.to_string(),
            "`backlot doctor --deep` looks the database through",
        ),
    }
}

fn tasks(what: &'static str, data_dir: &Path) -> Finding {
    let blocked = TaskFilter {
        state: Some(TaskState::Blocked),
        ..TaskFilter::default()
    };
    let nothing = "nothing waits";
    ask(
        what,
        data_dir,
        nothing,
        |store| store.read(|txn| Ok((txn.to_do()?, txn.tasks(blocked, TaskId(0), 1)?))),
        |(to_do, first)| {
            let sum = |wanted: Option<TaskState>| -> u64 {
                let counts = to_do
                    .iter()
                    .filter(|(_, state, ..)| wanted.is_none_or(|wanted| wanted == *state));
                counts.map(|(.., tally)| tally.tasks).sum()
            };
            let (all, stuck) = (sum(None), sum(Some(TaskState::Blocked)));
            let Some(first) = first.into_iter().next().filter(|_| stuck > 0) else {
                return good(
                    what,
                    if all == 0 {
                        nothing.to_owned()
                    } else {
                        text::counted_u64(all, "task")
                    },
                );
            };
            let why = first.error.unwrap_or_default();
            let says = format!(
                "in need of a person: {} of {all}, the first: {why}",
                text::counted_u64(stuck, "task")
            );
            bad(
                what,
                says,
                "`backlot queue ls --state blocked` shows them; mend it, then `backlot queue retry --all`",
            )
        },
    )
}

fn conflicts(what: &'static str, data_dir: &Path) -> Finding {
    ask(
        what,
        data_dir,
        "none",
        |store| store.read(|txn| txn.unsettled()),
        |conflicts| match conflicts.len() {
            0 => good(what, "none"),
            count => bad(
                what,
                format!("{} to settle", text::counted(count, "conflict")),
                "`backlot conflict ls` shows them; `keep-mine` and `keep-theirs` settle them",
            ),
        },
    )
}

/// Whether everybody was told what became of jobs.
fn messages(what: &'static str, data_dir: &Path) -> Finding {
    let nothing = "nothing waits to be told";
    ask(
        what,
        data_dir,
        nothing,
        |store| store.read(|txn| txn.message_counts()),
        |(waiting, given_up)| match (waiting, given_up) {
            (0, 0) => good(what, nothing),
            (waiting, 0) => good(what, format!("{} to be told", text::counted_u64(waiting, "message"))),
            (_, given_up) => bad(
                what,
                format!("not told, and given up: {}", text::counted_u64(given_up, "message")),
                "`backlot notify ls` says why; mend it, then `backlot notify retry`; they are forgotten after two weeks",
            ),
        },
    )
}
