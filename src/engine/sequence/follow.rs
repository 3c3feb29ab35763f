//! Which sequences are read, and which of their frames are worth having. Pure: what happens is told, what to do is returned.
//!
//! Owns: the sequences ("layers") of a drive that are being read, who reads in the same rhythm as whom, what is asked for
//! ahead, and the folders that are read file by file. Refuses to know: how bytes come. Invariants: layers, opens and
//! frames held in memory are bounded; what is asked for ahead is within the byte bound, the nearest frame first, across
//! layers; a jump or silence takes all of it back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::folder::{Files, Folders};
use super::names::{self, Digits, Numbered, Pattern};
use super::play::{Confidence, Frames, Noted, Play};
use super::uses::{Use, Uses};
use super::window::Window;
use crate::model::{Ino, Name};

/// Sequences that are followed at most: those read longest ago are forgotten.
const MAX_LAYERS: usize = 64;
/// Frames that are known at most, over all sequences: 4 MiB.
const MAX_KNOWN: usize = 1 << 18;
/// Frames known of one sequence at most, around the one that was opened.
pub(crate) const MAX_FRAMES: usize = 1 << 16;
/// Names remembered to tell which of their digits change.
const MAX_NAMES: usize = 64;
/// Opens of one sequence that wait for its list.
const MAX_WAITING: usize = 32;
/// A frame that was passed over is kept for so many more opens: readers with several threads come back to it.
const PASSED: u64 = 4;
/// Nobody changes his mind faster than this.
pub(super) const SILENCE: Duration = Duration::from_millis(500);
/// A list is not made again sooner than this.
pub(super) const RELIST: Duration = Duration::from_secs(1);

/// A followed sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct LayerId(u64);

/// What the settings allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The longest window, in time of play.
    pub(crate) window: Duration,
    /// Bytes ahead of all readers together.
    pub(crate) bytes: u64,
    /// Files up to this length are small ones.
    pub(crate) small: u64,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// The project that it belongs to.
    pub(crate) project: Ino,
    /// Its folder.
    pub(crate) folder: Ino,
    /// Its name.
    pub(crate) name: Name,
}

/// An open of a file for reading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// The file.
    pub(crate) ino: Ino,
    /// Its length.
    pub(crate) size: u64,
    /// The process that opened it.
    pub(crate) reader: u32,
    /// All of it was here.
    pub(crate) resident: bool,
    /// When.
    pub(crate) at: Instant,
}

/// What is to be listed.
#[derive(Clone, Debug)]
pub(crate) enum Sought {
    /// The frames of a sequence: its folder, its pattern, and the number that was opened.
    Frames(Ino, Pattern, Digits),
    /// The small files of a folder.
    Files(Ino),
}

/// What was listed.
#[derive(Debug)]
pub(crate) enum Found {
    Frames(Frames),
    Files(Files),
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Find what [`Follower::describe`] says and tell [`Follower::listed`].
    List(LayerId),
    /// Fetch the rest of a frame that was opened.
    Whole(LayerId, Ino),
    /// Fetch a frame before it is opened.
    Ahead(LayerId, Ino),
    /// Lose interest in a frame.
    Drop(LayerId, Ino),
}

#[derive(Debug)]
struct Ahead {
    value: u64,
    ino: Ino,
    bytes: u64,
    /// The turn at which the reader was past it.
    passed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Listing {
    None,
    Asked,
    Known(Instant),
}

#[derive(Debug)]
struct Layer {
    id: LayerId,
    project: Ino,
    folder: Ino,
    pattern: Pattern,
    anchor: Digits,
    /// The process that opened a frame last.
    reader: u32,
    listing: Listing,
    /// The folder changed since it was listed.
    stale: bool,
    frames: Arc<Frames>,
    waiting: Vec<(u64, Instant)>,
    /// Was read in the same rhythm as this one when it began.
    beside: Option<LayerId>,
    play: Play,
    window: Window,
    uses: Uses,
    ahead: Vec<Ahead>,
    /// Interest was taken back; the next open that fits wakes it.
    paused: bool,
    size: u64,
    turn: u64,
    used_at: Instant,
}

impl Layer {
    fn drop_all(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(self.ahead.drain(..).map(|ahead| Effect::Drop(self.id, ahead.ino)));
    }

    /// How long nothing may be opened before it counts as a change of mind.
    fn patience(&self) -> Duration {
        SILENCE.max(self.play.interval().unwrap_or_default() * 2)
    }

    fn is_active(&self) -> bool {
        !self.paused && self.play.confidence() > Confidence::None
    }

    /// Takes back what the reader is past, at once or, where it may come back, in a moment.
    fn pass(&mut self, at_once: bool, effects: &mut Vec<Effect>) {
        let targets = self.play.ahead(&self.frames, 2 * self.ahead.len() + 8);
        let (id, turn) = (self.id, self.turn);
        self.ahead.retain_mut(|ahead| {
            if targets.contains(&ahead.value) {
                ahead.passed = None;
                return true;
            }
            let since = *ahead.passed.get_or_insert(turn);
            let stays = !at_once && turn - since < PASSED;
            if !stays {
                effects.push(Effect::Drop(id, ahead.ino));
            }
            stays
        });
    }
}

/// A sequence as `status` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) id: LayerId,
    pub(crate) folder: Ino,
    pub(crate) pattern: String,
    pub(crate) frame: u64,
    pub(crate) step: isize,
    pub(crate) confidence: Confidence,
    pub(crate) paused: bool,
    pub(crate) interval: Duration,
    pub(crate) window: usize,
    pub(crate) ahead: usize,
    pub(crate) idle: Duration,
}

/// The sequences that are read in a drive.
#[derive(Debug)]
pub(crate) struct Follower {
    bounds: Bounds,
    next_id: u64,
    layers: Vec<Layer>,
    names: VecDeque<(Ino, Name, Instant)>,
    folders: Folders,
}

impl Follower {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next_id: 0,
            layers: Vec::new(),
            names: VecDeque::new(),
            folders: Folders::default(),
        }
    }

    fn position(&self, id: LayerId) -> Option<usize> {
        self.layers.iter().position(|layer| layer.id == id)
    }

    /// Says what is to be listed.
    pub(crate) fn describe(&self, id: LayerId) -> Option<Sought> {
        let Some(at) = self.position(id) else {
            return self.folders.describe(id).map(Sought::Files);
        };
        let layer = &self.layers[at];
        Some(Sought::Frames(layer.folder, layer.pattern.clone(), layer.anchor))
    }

    /// A file was opened for reading that is the next frame of a sequence that is played: `None` if it is not. Spares
    /// looking up where the file is.
    pub(crate) fn opened_next(&mut self, open: Open) -> Option<Vec<Effect>> {
        let mut active = self.layers.iter().enumerate().filter(|(_, layer)| layer.is_active());
        let (at, value) = active.find_map(|(at, layer)| {
            let next = *layer.play.ahead(&layer.frames, 1).first()?;
            (layer.frames.file(next) == Some(open.ino)).then_some((at, next))
        })?;
        let mut effects = Vec::new();
        self.enter(at, value, open, &mut effects);
        self.in_folder(None, true, open, &mut effects);
        Some(effects)
    }

    /// A file was opened for reading.
    pub(crate) fn opened(&mut self, spot: &Spot, open: Open) -> Vec<Effect> {
        let mut effects = Vec::new();
        let found = self.layer_of(spot, open, &mut effects);
        self.remember(spot, open.at);
        let mut is_played = false;
        if let Some((at, value)) = found {
            let expected = self.layers[at].play.expects(&self.layers[at].frames, value);
            self.enter(at, value, open, &mut effects);
            let layer = &self.layers[at];
            is_played = expected && layer.is_active() && layer.play.confidence() == Confidence::Confident;
        }
        self.in_folder(Some(spot.folder), is_played, open, &mut effects);
        effects
    }

    /// A small file may be one of a folder that is read file by file. What is played comes as fast as it is played: nothing
    /// more is asked for then.
    fn in_folder(&mut self, folder: Option<Ino>, is_played: bool, open: Open, effects: &mut Vec<Effect>) {
        if open.size == 0 || open.size > self.bounds.small {
            return;
        }
        self.next_id += 1;
        let run = self.folders.opened(folder, open, LayerId(self.next_id), effects);
        if let Some(run) = run.filter(|_| !is_played) {
            self.plan_folder(run, effects);
        }
    }

    fn plan_folder(&mut self, run: LayerId, effects: &mut Vec<Effect>) {
        let room = self.bounds.bytes.saturating_sub(self.bytes_ahead());
        let layers = &self.layers;
        let taken = |ino| layers.iter().any(|l| l.ahead.iter().any(|ahead| ahead.ino == ino));
        self.folders.plan(run, room, taken, effects);
    }

    /// Bytes that are asked for ahead, for all readers.
    fn bytes_ahead(&self) -> u64 {
        let frames = self.layers.iter().flat_map(|layer| &layer.ahead);
        frames.map(|ahead| ahead.bytes).sum::<u64>() + self.folders.bytes()
    }

    fn enter(&mut self, at: usize, value: u64, open: Open, effects: &mut Vec<Effect>) {
        let beside = self.beside(at, value);
        let layer = &mut self.layers[at];
        layer.used_at = open.at;
        layer.reader = open.reader;
        layer.size = open.size;
        layer.turn += 1;
        let asked = layer.ahead.iter().position(|ahead| ahead.ino == open.ino);
        let asked = asked.map(|at| layer.ahead.remove(at)).filter(|ahead| ahead.bytes > 0);
        if asked.is_some() {
            layer.window.opened(layer.play.played(), open.resident);
        }
        // What came ahead has no pages in the kernel yet: its reads are seen.
        layer.uses.opened(open.ino, !open.resident || asked.is_some());

        if layer.waiting.len() < MAX_WAITING {
            layer.waiting.push((value, open.at));
        }
        if layer.listing == Listing::None {
            layer.beside = layer.beside.or(beside);
            let several = layer.waiting.iter().any(|(other, _)| *other != value);
            if several || layer.beside.is_some() {
                layer.listing = Listing::Asked;
                effects.push(Effect::List(layer.id));
            }
        } else if let Listing::Known(listed) = layer.listing
            && (layer.stale || !layer.frames.has(value))
            && open.at.duration_since(listed) >= RELIST
        {
            layer.listing = Listing::Asked;
            layer.stale = false;
            effects.push(Effect::List(layer.id));
        }
        if matches!(layer.listing, Listing::Known(_)) || layer.frames.has(value) {
            self.play_waiting(at, effects);
        }
        let layer = &self.layers[at];
        let known = layer.is_active() || layer.play.is_proven();
        if !open.resident && known && layer.uses.are_reads() {
            effects.push(Effect::Whole(layer.id, open.ino));
        }
        self.plan(effects);
    }

    /// A good part of an open file was asked for.
    pub(crate) fn read(&mut self, ino: Ino) -> Vec<Effect> {
        self.mark(ino, Use::Read)
    }

    /// An open file was closed before a good part of it was asked for.
    pub(crate) fn skimmed(&mut self, ino: Ino) -> Vec<Effect> {
        self.mark(ino, Use::Skimmed)
    }

    fn mark(&mut self, ino: Ino, what: Use) -> Vec<Effect> {
        let mut effects = Vec::new();
        for layer in &mut self.layers {
            layer.uses.mark(ino, what);
            if !layer.uses.are_reads() {
                layer.drop_all(&mut effects);
            }
        }
        self.folders.mark(ino, what, &mut effects);
        self.plan(&mut effects);
        effects
    }

    /// What was asked for was listed.
    pub(crate) fn listed(&mut self, id: LayerId, found: Found, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let frames = match found {
            Found::Frames(frames) => frames,
            Found::Files(files) => {
                self.folders.listed(id, files, now, &mut effects);
                self.plan_folder(id, &mut effects);
                return effects;
            }
        };
        let Some(at) = self.position(id) else { return effects };
        let layer = &mut self.layers[at];
        layer.frames = Arc::new(frames);
        layer.listing = Listing::Known(now);
        self.play_waiting(at, &mut effects);
        while self.layers.iter().map(|layer| layer.frames.len()).sum::<usize>() > MAX_KNOWN && self.layers.len() > 1 {
            self.forget_oldest(Some(id), &mut effects);
        }
        self.plan(&mut effects);
        effects
    }

    /// A frame that was asked for came.
    pub(crate) fn landed(&mut self, id: LayerId, took: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(at) = self.position(id) {
            self.layers[at].window.landed(took);
            self.plan(&mut effects);
        }
        effects
    }

    /// A frame that was asked for is here already, or can't be had: it takes nothing of the bound.
    pub(crate) fn costs_nothing(&mut self, id: LayerId, ino: Ino) {
        if let Some(at) = self.position(id)
            && let Some(ahead) = self.layers[at].ahead.iter_mut().find(|ahead| ahead.ino == ino)
        {
            ahead.bytes = 0;
        }
        self.folders.costs_nothing(id, ino);
    }

    /// Its site is out of reach: nothing is asked for until the next open.
    pub(crate) fn pause(&mut self, id: LayerId) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(at) = self.position(id) {
            self.layers[at].paused = true;
            self.layers[at].drop_all(&mut effects);
        }
        self.folders.pause(id, &mut effects);
        effects
    }

    /// The thread that opened a file of a sequence, or of a folder that is read, last.
    pub(crate) fn reader(&self, id: LayerId) -> Option<u32> {
        let layer = self.position(id).and_then(|at| self.layers.get(at));
        layer.map(|layer| layer.reader).or_else(|| self.folders.reader(id))
    }

    /// Names came into a folder, or went.
    pub(crate) fn changed(&mut self, folder: Ino) {
        for layer in self.layers.iter_mut().filter(|layer| layer.folder == folder) {
            layer.stale = true;
        }
        self.folders.changed(folder);
    }

    /// Takes back what is asked for ahead of readers that have fallen silent.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        for layer in &mut self.layers {
            if layer.is_active() && deadline(layer).is_some_and(|at| at <= now) {
                layer.paused = true;
                layer.drop_all(&mut effects);
            }
        }
        self.folders.tick(now, &mut effects);
        effects
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let active = self.layers.iter().filter(|layer| layer.is_active());
        active.filter_map(deadline).chain(self.folders.next_tick()).min()
    }

    /// Returns the sequences in which something is predicted.
    pub(crate) fn shown(&self, now: Instant) -> Vec<Shown> {
        let predicted = self.layers.iter().filter(|l| l.play.confidence() > Confidence::None);
        predicted
            .map(|layer| Shown {
                id: layer.id,
                folder: layer.folder,
                pattern: layer.pattern.shown(layer.anchor.width).to_string(),
                frame: layer.play.last().unwrap_or_default(),
                step: layer.play.stride(),
                confidence: layer.play.confidence(),
                paused: layer.paused,
                interval: layer.play.interval().unwrap_or_default(),
                window: layer.window.frames(&layer.play, self.bounds.window),
                ahead: layer.ahead.len(),
                idle: now.saturating_duration_since(layer.used_at),
            })
            .chain(self.folders.shown(now))
            .collect()
    }

    /// Finds the sequence of a file, by the sequences that are known, else by the run of digits in which it differs from a
    /// name that was opened, else by its last run.
    fn layer_of(&mut self, spot: &Spot, open: Open, effects: &mut Vec<Effect>) -> Option<(usize, u64)> {
        let readings = names::readings(&spot.name);
        let known = readings.iter().filter_map(|reading| {
            let at = self.known_layer(spot, open, reading)?;
            Some((self.layers[at].used_at, at, reading))
        });
        let mut like = None;
        let (reading, seed) = if let Some((_, at, reading)) = known.max_by_key(|(used, at, _)| (*used, *at)) {
            let layer = &self.layers[at];
            let value = reading.digits.value;
            let sure = layer.is_active() && layer.play.confidence() == Confidence::Confident;
            if !sure || layer.reader == open.reader || layer.play.expects(&layer.frames, value) {
                return Some((at, value));
            }
            // Somebody else, elsewhere in a sequence that is played: he disturbs nobody.
            like = Some((Arc::clone(&layer.frames), layer.listing, layer.anchor));
            (reading.clone(), None)
        } else {
            let others = self.names.iter().rev().filter(|(folder, ..)| *folder == spot.folder);
            let mut changed =
                others.filter_map(|(_, name, at)| names::changed(name, &spot.name).map(|(was, now)| (was, now, *at)));
            match changed.next() {
                Some((was, reading, at)) => (reading, Some((was.value, at))),
                None => (readings.into_iter().next()?, None),
            }
        };
        if self.layers.len() >= MAX_LAYERS {
            self.forget_oldest(None, effects);
        }
        let Numbered { pattern, digits } = reading;
        let value = digits.value;
        let (frames, listing, anchor) = match like {
            Some((frames, Listing::Known(at), anchor)) => (frames, Listing::Known(at), anchor),
            _ => (Arc::default(), Listing::None, digits),
        };
        self.next_id += 1;
        self.layers.push(Layer {
            id: LayerId(self.next_id),
            project: spot.project,
            folder: spot.folder,
            pattern,
            anchor,
            reader: open.reader,
            listing,
            stale: false,
            frames,
            waiting: seed.into_iter().collect(),
            beside: None,
            play: Play::default(),
            window: Window::default(),
            uses: Uses::default(),
            ahead: Vec::new(),
            paused: false,
            size: open.size,
            turn: 0,
            used_at: open.at,
        });
        Some((self.layers.len() - 1, value))
    }

    /// The reader of a sequence that an open belongs to: who is expected to open the frame, else who opened one before.
    fn known_layer(&self, spot: &Spot, open: Open, reading: &Numbered) -> Option<usize> {
        let of = |layer: &Layer| {
            layer.folder == spot.folder && layer.pattern == reading.pattern && layer.anchor.goes_with(reading.digits)
        };
        let readers = self.layers.iter().enumerate().filter(|(_, layer)| of(layer));
        let rank = |layer: &Layer| {
            let expects = layer.play.expects(&layer.frames, reading.digits.value);
            (expects, layer.reader == open.reader, layer.used_at)
        };
        readers.max_by_key(|(_, layer)| rank(layer)).map(|(at, _)| at)
    }

    fn remember(&mut self, spot: &Spot, at: Instant) {
        let again = |(folder, name, _): &(Ino, Name, Instant)| *folder == spot.folder && *name == spot.name;
        self.names.retain(|known| !again(known));
        if self.names.len() >= MAX_NAMES {
            self.names.pop_front();
        }
        self.names.push_back((spot.folder, spot.name.clone(), at));
    }

    fn forget_oldest(&mut self, but: Option<LayerId>, effects: &mut Vec<Effect>) {
        let others = self
            .layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| Some(layer.id) != but);
        if let Some((at, _)) = others.min_by_key(|(_, layer)| layer.used_at) {
            let mut layer = self.layers.swap_remove(at);
            layer.drop_all(effects);
        }
    }

    /// The sequence that a new one is read beside: sure of its way, of the same project, at the same frame just now.
    fn beside(&self, at: usize, value: u64) -> Option<LayerId> {
        let new = &self.layers[at];
        let same = self.layers.iter().find(|layer| {
            layer.id != new.id
                && layer.project == new.project
                && layer.play.last() == Some(value)
                && layer.is_active()
                && layer.play.confidence() == Confidence::Confident
        });
        same.map(|layer| layer.id)
    }

    /// Plays the opens that came while the list was not there.
    fn play_waiting(&mut self, at: usize, effects: &mut Vec<Effect>) {
        let waiting = std::mem::take(&mut self.layers[at].waiting);
        for (value, when) in waiting {
            let layer = &mut self.layers[at];
            let before = layer.play.last();
            match layer.play.opened(&layer.frames, value, when) {
                Noted::Behind => {}
                Noted::First | Noted::Learning | Noted::Repeat => layer.paused = false,
                Noted::Predicted(_) => {
                    layer.paused = false;
                    layer.pass(false, effects);
                }
                Noted::Wrapped | Noted::Reversed => {
                    layer.paused = false;
                    layer.pass(true, effects);
                }
                Noted::Jump => {
                    layer.paused = false;
                    layer.drop_all(effects);
                    self.pause_beside(at, before, effects);
                }
                // It waits for the next list; a file that is not in there predicts nothing.
                Noted::Unlisted if layer.listing == Listing::Asked => layer.waiting.push((value, when)),
                Noted::Unlisted => {}
            }
        }
        let beside = self.layers[at].beside.take().and_then(|id| self.position(id));
        if let Some(beside) = beside.filter(|beside| *beside != at) {
            let mut play = std::mem::take(&mut self.layers[at].play);
            play.join(&self.layers[beside].play);
            self.layers[at].play = play;
        }
    }

    /// Who reads several sequences in step jumps in all of them.
    fn pause_beside(&mut self, at: usize, before: Option<u64>, effects: &mut Vec<Effect>) {
        let project = self.layers[at].project;
        for (other, layer) in self.layers.iter_mut().enumerate() {
            if other != at && layer.project == project && before.is_some() && layer.play.last() == before {
                layer.paused = true;
                layer.drop_all(effects);
            }
        }
    }

    /// Asks for what is not asked for yet, the nearest frames first.
    fn plan(&mut self, effects: &mut Vec<Effect>) {
        let mut missing = Vec::new();
        let mut ahead = self.bytes_ahead();
        for (at, layer) in self.layers.iter().enumerate() {
            if !layer.is_active() || !layer.uses.are_reads() {
                continue;
            }
            let most = layer.window.frames(&layer.play, self.bounds.window);
            if layer.ahead.iter().filter(|ahead| ahead.passed.is_none()).count() >= most {
                continue;
            }
            for (steps, value) in layer.play.ahead(&layer.frames, most).into_iter().enumerate() {
                if !layer.ahead.iter().any(|ahead| ahead.value == value)
                    && let Some(ino) = layer.frames.file(value)
                {
                    missing.push((steps, at, value, ino));
                }
            }
        }
        missing.sort_unstable();
        for (_, at, value, ino) in missing {
            let layer = &mut self.layers[at];
            // As long as the frame that was opened last, until it is looked at.
            if ahead + layer.size > self.bounds.bytes {
                break;
            }
            ahead += layer.size;
            layer.ahead.push(Ahead {
                value,
                ino,
                bytes: layer.size,
                passed: None,
            });
            effects.push(Effect::Ahead(layer.id, ino));
        }
    }
}

fn deadline(layer: &Layer) -> Option<Instant> {
    Some(layer.play.seen_at()? + layer.patience())
}

#[cfg(test)]
mod tests;
