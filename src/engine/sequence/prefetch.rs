//! Fetching the frames that are about to be opened.
//!
//! Owns: the interest in frames ahead, what came of it, the listing of their folders. Refuses to know: how frames are
//! predicted. Invariants: whoever opens, reads or closes a file only leaves a note here and never waits; folders are listed
//! aside; interest in a frame ends with the prediction that it came from, or with the last close of the file.
//!
//! Lock order: `Sequences::state` before the locks of contents and store; no lock is held over an await.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use backlot_cache::Residency;
use lru::LruCache;
use tokio::sync::mpsc;
use tracing::{debug, trace};

use super::folder::{Files, MAX_FILES};
use super::follow::{Bounds, Effect, Follower, Found, LayerId, MAX_FRAMES, Open, Sought, Spot};
use super::play::{Confidence, Frames};
use crate::engine::drive::{Inner, content_version};
use crate::engine::hydrate::{Interest, OpenContent};
use crate::engine::report::{SequenceReport, SequencesReport};
use crate::engine::schedule::Priority;
use crate::model::{EntryKind, Ino};
use crate::state::{Child, StateError, Tree};

/// Notes that wait to be looked at; what comes beyond them is not followed.
const NOTES: usize = 1024;
/// Rows of a folder read at a time.
const PAGE: usize = 2048;
/// A fetch that is given up may still land what it had in hand: so long after, its bytes are counted.
const SETTLE: Duration = Duration::from_millis(300);
/// Frames remembered that came and were not opened, should they be opened after all.
const LEFT: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Sequences whose counters are kept: more than are followed.
const COUNTED: usize = 256;
/// A sequence is shown for so long after its last open.
const SHOWN: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Debug)]
enum Note {
    Opened(Open),
    Read(Ino),
    Closed { ino: Ino, was_read: bool },
    Changed(Ino),
    Listed(LayerId, Found),
    Landed { layer: LayerId, ino: Ino, took: Duration },
}

/// A frame that somebody is expected to open, or has open.
#[derive(Debug)]
struct Held {
    layer: LayerId,
    content: Arc<OpenContent>,
    interests: Vec<Interest>,
    /// Bytes that were here before.
    before: u64,
    open: bool,
}

impl Held {
    fn gained(&self) -> u64 {
        self.content.content().resident_bytes().saturating_sub(self.before)
    }
}

/// What came of predictions.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    hits: u64,
    late: u64,
    used: u64,
    wasted: u64,
    given_up: u64,
}

#[derive(Debug)]
struct State {
    follower: Follower,
    held: HashMap<Ino, Held>,
    /// Given up a moment ago.
    ending: Vec<(Ino, Held, Instant)>,
    left: LruCache<Ino, (LayerId, u64)>,
    total: Counts,
    by_layer: BTreeMap<LayerId, Counts>,
}

impl State {
    fn count(&mut self, layer: LayerId, change: impl Fn(&mut Counts)) {
        change(&mut self.total);
        change(self.by_layer.entry(layer).or_default());
        if self.by_layer.len() > COUNTED {
            self.by_layer.pop_first();
        }
    }

    /// Takes back what was counted as wasted of a frame; returns its bytes.
    fn take_back(&mut self, ino: Ino) -> u64 {
        if let Some(at) = self.ending.iter().position(|(of, ..)| *of == ino) {
            return self.ending.swap_remove(at).1.gained();
        }
        let Some((layer, bytes)) = self.left.pop(&ino) else {
            return 0;
        };
        self.count(layer, |counts| counts.wasted = counts.wasted.saturating_sub(bytes));
        bytes
    }

    /// Counts what was given up and has come to rest.
    fn settle(&mut self, now: Instant) {
        let ending = std::mem::take(&mut self.ending);
        for (ino, held, since) in ending {
            if now.duration_since(since) < SETTLE {
                self.ending.push((ino, held, since));
                continue;
            }
            self.put_back(held.layer, ino, held.gained());
        }
    }

    /// Bytes that came in vain, until their frame is opened.
    fn put_back(&mut self, layer: LayerId, ino: Ino, bytes: u64) {
        if bytes > 0 {
            self.count(layer, |counts| counts.wasted += bytes);
            self.left.put(ino, (layer, bytes));
        }
    }
}

/// The sequences that are played in a drive, and the frames fetched ahead.
#[derive(Debug)]
pub(crate) struct Sequences {
    bounds: Bounds,
    /// `None`: switched off.
    notes: Option<mpsc::Sender<Note>>,
    state: Mutex<State>,
    /// Frames held.
    holds: AtomicUsize,
    missed: AtomicU64,
}

/// What [`Sequences::start`] needs.
#[derive(Debug)]
pub(crate) struct Notes(mpsc::Receiver<Note>);

impl Sequences {
    /// Makes the place that notes go to. The cache gives a quarter of itself at most.
    pub(crate) fn new(settings: &backlot_config::Hydration, cache_bytes: u64) -> (Self, Option<Notes>) {
        let bounds = Bounds {
            window: settings.sequence_window.into(),
            bytes: settings.sequence_max.bytes().min(cache_bytes / 4),
            small: settings.small_file.bytes(),
        };
        let (sender, receiver) = mpsc::channel(NOTES);
        let state = State {
            follower: Follower::new(bounds),
            held: HashMap::new(),
            ending: Vec::new(),
            left: LruCache::new(LEFT),
            total: Counts::default(),
            by_layer: BTreeMap::new(),
        };
        let sequences = Self {
            bounds,
            notes: settings.sequences.then_some(sender),
            state: Mutex::new(state),
            holds: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
        };
        (sequences, settings.sequences.then_some(Notes(receiver)))
    }

    /// Looks at notes until the drive is closed.
    pub(crate) fn start(drive: &Arc<Inner>, notes: Notes) {
        tokio::spawn(follow(Arc::downgrade(drive), drive.stop.clone(), notes.0));
    }

    fn note(&self, note: Note) {
        if let Some(notes) = &self.notes
            && notes.try_send(note).is_err()
        {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A file of a site was opened for reading; all of it was here, or not. Says whether it matters what comes of it: then
    /// [`read`](Self::read) and [`closed`](Self::closed) are to be called.
    pub(crate) fn opened(&self, ino: Ino, size: u64, reader: u32, resident: bool) -> bool {
        if self.notes.is_none() {
            return false;
        }
        let at = Instant::now();
        self.note(Note::Opened(Open {
            ino,
            size,
            reader,
            resident,
            at,
        }));
        !resident || self.holds.load(Ordering::Relaxed) > 0
    }

    /// A good part of an open file was asked for.
    pub(crate) fn read(&self, ino: Ino) {
        self.note(Note::Read(ino));
    }

    /// An open of a file ended; a good part of it was asked for, or was not. (A host that lets the kernel read resident
    /// files by itself does not see that, and has to say that it was.)
    pub(crate) fn closed(&self, ino: Ino, was_read: bool) {
        self.note(Note::Closed { ino, was_read });
    }

    /// Names came into a folder, or went.
    pub(crate) fn changed(&self, folder: Ino) {
        self.note(Note::Changed(folder));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `status` shows.
    pub(crate) fn report(&self, drive: &Inner) -> Result<SequencesReport, StateError> {
        let now = Instant::now();
        let mut state = self.lock();
        state.settle(now);
        let mut active = Vec::new();
        for shown in state.follower.shown(now).into_iter().filter(|s| s.idle < SHOWN) {
            let counts = state.by_layer.get(&shown.id).copied().unwrap_or_default();
            let ahead = state.held.values().filter(|held| held.layer == shown.id && !held.open);
            let bytes_ahead = ahead.map(Held::gained).sum();
            let folder = drive.tree.path_of(shown.folder)?.unwrap_or_default();
            active.push(SequenceReport {
                path: format!("{folder}/{}", shown.pattern),
                frame: shown.frame,
                step: i64::try_from(shown.step).unwrap_or_default(),
                state: match (shown.paused, shown.confidence) {
                    (true, _) => "paused",
                    (false, Confidence::Confident) if shown.pattern == "*" => "reading",
                    (false, Confidence::Confident) => "playing",
                    (false, Confidence::Tentative | Confidence::None) => "supposed",
                }
                .to_owned(),
                frame_ms: u64::try_from(shown.interval.as_millis()).unwrap_or(u64::MAX),
                window_frames: shown.window,
                frames_ahead: shown.ahead,
                bytes_ahead,
                hits: counts.hits,
                late: counts.late,
                wasted_bytes: counts.wasted,
            });
        }
        let ending: u64 = state.ending.iter().map(|(_, held, _)| held.gained()).sum();
        Ok(SequencesReport {
            on: self.notes.is_some(),
            max_bytes: self.bounds.bytes,
            window_ms: u64::try_from(self.bounds.window.as_millis()).unwrap_or(u64::MAX),
            hits: state.total.hits,
            late: state.total.late,
            used_bytes: state.total.used,
            wasted_bytes: state.total.wasted + ending,
            given_up: state.total.given_up,
            missed: self.missed.load(Ordering::Relaxed),
            active,
        })
    }

    fn on(&self, drive: &Arc<Inner>, note: Note) {
        let mut state = self.lock();
        let state = &mut *state;
        let effects = match note {
            Note::Opened(open) => {
                self.count_open(state, open.ino, open.resident);
                match state.follower.opened_next(open) {
                    Some(effects) => effects,
                    None => match spot(drive, open.ino) {
                        Ok(Some(spot)) => state.follower.opened(&spot, open),
                        Ok(None) => Vec::new(),
                        Err(e) => return debug!(ino = %open.ino, error = %e, "an open is not followed"),
                    },
                }
            }
            Note::Read(ino) => state.follower.read(ino),
            Note::Closed { ino, was_read } => {
                if state.held.get(&ino).is_some_and(|held| held.open) {
                    state.held.remove(&ino);
                }
                if was_read {
                    Vec::new()
                } else {
                    state.follower.skimmed(ino)
                }
            }
            Note::Changed(folder) => {
                state.follower.changed(folder);
                Vec::new()
            }
            Note::Listed(layer, found) => state.follower.listed(layer, found, Instant::now()),
            Note::Landed { layer, ino, took } => {
                let here = state
                    .held
                    .get(&ino)
                    .is_some_and(|held| held.content.content().is_full());
                if here {
                    state.follower.landed(layer, took)
                } else {
                    Vec::new()
                }
            }
        };
        self.apply(drive, state, effects);
    }

    fn count_open(&self, state: &mut State, ino: Ino, resident: bool) {
        let left = state.take_back(ino);
        if left > 0 {
            state.total.used += left;
        }
        let Some(held) = state.held.get_mut(&ino).filter(|held| !held.open) else {
            return;
        };
        held.open = true;
        let (layer, gained) = (held.layer, held.gained());
        state.count(layer, |counts| {
            counts.used += gained;
            counts.hits += u64::from(resident);
            counts.late += u64::from(!resident);
        });
    }

    fn apply(&self, drive: &Arc<Inner>, state: &mut State, effects: Vec<Effect>) {
        let mut todo: VecDeque<_> = effects.into();
        while let Some(effect) = todo.pop_front() {
            trace!(?effect, "sequence");
            match effect {
                Effect::List(layer) => self.list(drive, state, layer),
                Effect::Whole(layer, ino) => {
                    if !state.held.contains_key(&ino)
                        && let Some(held) = self.fetch(drive, reader_of(state, layer), ino, Priority::ReadAhead, true)
                    {
                        state.held.insert(ino, held);
                    }
                }
                Effect::Ahead(layer, ino) => {
                    let left = state.take_back(ino);
                    match self.fetch(drive, reader_of(state, layer), ino, Priority::Sequence, false) {
                        Some(held) if held.content.site().link().is_down() => {
                            state.put_back(layer, ino, left);
                            todo.extend(state.follower.pause(layer));
                        }
                        Some(mut held) => {
                            held.before = held.before.saturating_sub(left);
                            // Another reader of the sequence may be about to open it as well.
                            if let Some(other) = state.held.get(&ino) {
                                held.before = held.before.min(other.before);
                                held.open = other.open;
                            }
                            state.held.insert(ino, held);
                        }
                        None => {
                            state.put_back(layer, ino, left);
                            state.follower.costs_nothing(layer, ino);
                        }
                    }
                }
                Effect::Drop(layer, ino) => {
                    if state
                        .held
                        .get(&ino)
                        .is_some_and(|held| !held.open && held.layer == layer)
                        && let Some(mut held) = state.held.remove(&ino)
                    {
                        if held.interests.iter().any(|interest| !interest.is_over()) {
                            state.count(layer, |counts| counts.given_up += 1);
                        }
                        held.interests.clear();
                        state.ending.push((ino, held, Instant::now()));
                    }
                }
            }
        }
    }

    /// Starts to fetch a frame; `None` if there is nothing to fetch.
    fn fetch(
        &self,
        drive: &Inner,
        (layer, reader): (LayerId, u32),
        ino: Ino,
        priority: Priority,
        open: bool,
    ) -> Option<Held> {
        let node = drive.tree.node(ino).ok()??;
        if node.kind != EntryKind::File || node.own || node.size == 0 || node.size > self.bounds.bytes {
            return None;
        }
        let id = drive.content_id(ino, &content_version(&node));
        if matches!(drive.cache.residency(id, node.size), Ok(Residency::Full)) {
            return None;
        }
        let content = drive.open_content(&node).ok()?;
        let before = content.content().resident_bytes();
        let interests = content.fetch_ahead(0..node.size, priority, &drive.firewall.payer_of(reader));
        if let Some(notes) = self.notes.clone().filter(|_| !interests.is_empty()) {
            let ended: Vec<_> = interests.iter().map(Interest::ended).collect();
            let begun = Instant::now();
            tokio::spawn(async move {
                futures::future::join_all(ended).await;
                let took = begun.elapsed();
                // Nobody listens any more when the drive is closed.
                drop(notes.send(Note::Landed { layer, ino, took }).await);
            });
        }
        Some(Held {
            layer,
            content,
            interests,
            before,
            open,
        })
    }

    /// Finds the frames of a sequence that exist, or the small files of a folder, aside.
    fn list(&self, drive: &Arc<Inner>, state: &State, layer: LayerId) {
        let (Some(sought), Some(notes)) = (state.follower.describe(layer), self.notes.clone()) else {
            return;
        };
        let (tree, small) = (drive.tree.clone(), self.bounds.small);
        tokio::task::spawn_blocking(move || {
            let found = match sought {
                Sought::Frames(folder, pattern, anchor) => {
                    let mut found = Vec::new();
                    each_file(&tree, folder, |file| {
                        found.extend(pattern.frame_of(&file.name).map(|digits| (digits, file.node.ino)));
                        true
                    });
                    Found::Frames(Frames::new(found, anchor, MAX_FRAMES))
                }
                Sought::Files(folder) => {
                    let mut found = Vec::new();
                    each_file(&tree, folder, |file| {
                        // What was made here is here; what is empty needs no fetch.
                        if !file.node.own && (1..=small).contains(&file.node.size) {
                            found.push((file.name, file.node.ino, file.node.size));
                        }
                        found.len() < MAX_FILES
                    });
                    Found::Files(Files::new(&found))
                }
            };
            // Nobody listens any more when the drive is closed.
            drop(notes.blocking_send(Note::Listed(layer, found)));
        });
    }

    /// Takes back interest of those who fell silent, counts what came to rest; returns when to come again.
    fn tick(&self, drive: &Arc<Inner>) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        let effects = state.follower.tick(now);
        self.apply(drive, state, effects);
        state.settle(now);
        // A close whose note was lost.
        state
            .held
            .retain(|ino, held| !held.open || drive.handles.count(*ino) > 0);
        self.holds.store(state.held.len(), Ordering::Relaxed);
        let settles = state.ending.first().map(|(_, _, since)| *since + SETTLE);
        state.follower.next_tick().into_iter().chain(settles).min()
    }
}

/// A sequence, and the thread that opened a file of it last: that one pays.
fn reader_of(state: &State, layer: LayerId) -> (LayerId, u32) {
    (layer, state.follower.reader(layer).unwrap_or_default())
}

/// Shows the files of a folder in the order of its listing, until `show` has seen enough.
fn each_file(tree: &Tree, folder: Ino, mut show: impl FnMut(Child) -> bool) {
    let mut after = 0;
    loop {
        let page = tree.children(folder, after, PAGE);
        let page = page.unwrap_or_else(|e| {
            debug!(%folder, error = %e, "a folder that is read can't be listed");
            Vec::new()
        });
        let Some(last) = page.last() else { return };
        after = last.cookie;
        for child in page {
            if child.node.kind == EntryKind::File && !show(child) {
                return;
            }
        }
    }
}

/// Where a file is, if it has a name in a project.
fn spot(drive: &Inner, ino: Ino) -> Result<Option<Spot>, StateError> {
    let Some((folder, name)) = drive.tree.parent_of(ino)? else {
        return Ok(None);
    };
    let place = drive.place(folder)?;
    Ok(place.map(|(project, _)| Spot {
        project: project.root,
        folder,
        name,
    }))
}

async fn follow(drive: Weak<Inner>, stop: tokio_util::sync::CancellationToken, mut notes: mpsc::Receiver<Note>) {
    let mut wake: Option<Instant> = None;
    loop {
        let idle = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let note = tokio::select! {
            () = stop.cancelled() => break,
            note = notes.recv() => match note {
                Some(note) => Some(note),
                None => break,
            },
            () = idle => None,
        };
        let Some(drive) = drive.upgrade() else { return };
        if let Some(note) = note {
            drive.sequences.on(&drive, note);
        }
        wake = drive.sequences.tick(&drive);
    }
    if let Some(drive) = drive.upgrade() {
        let mut state = drive.sequences.lock();
        state.held.clear();
        state.ending.clear();
    }
}
