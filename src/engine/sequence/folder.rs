//! Folders whose small files are read one after another: a copy, a file browser, a scene that loads its textures. Pure, as
//! [`follow`](super::follow) is, and in its words.
//!
//! Owns: who reads which folder ("run"), in the order of names or of the listing, and what is asked for ahead. Refuses to
//! know: frame numbers, how bytes come. Invariants: runs, and files known of folders, are bounded; nothing is asked for
//! before three files were opened in an order, and then no more ahead than the run has read, but for what is next to
//! nothing; a jump or silence takes all of it back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::follow::{Effect, LayerId, Listing, Open, RELIST, SILENCE, Shown};
use super::play::Confidence;
use super::uses::{Use, Uses};
use crate::model::{Ino, Name};

/// Runs that are followed at most: those read longest ago are forgotten.
const MAX_RUNS: usize = 16;
/// Files known of a folder at most, the first ones of its listing, and of all folders: 4 MiB.
pub(crate) const MAX_FILES: usize = 1 << 17;
/// Files ahead of a reader that has just shown his order.
const FLOOR: usize = 4;
/// Files ahead at most.
const MOST: usize = 64;
/// Bytes ahead at most: more than a link of 1 Gbit/s and 50 ms holds.
const MOST_BYTES: u64 = 8 << 20;
/// Bytes ahead that a reader need not have read as many for.
const FEW_BYTES: u64 = 256 << 10;
/// Files opened in a row until the next ones are asked for.
const ORDERED: u32 = 3;
/// The most that orders which turned out to be none can cost: so many more files in a row.
const MAX_DOUBT: u32 = 3;
/// After so many files in a row the order is no supposition any more.
const PROVEN: u32 = 8;
/// Files that may be left out at once by who has shown his order, or come back to (readers with several threads), and by who
/// has not.
const REACH: usize = 16;
const FIRST_REACH: usize = 2;
/// Files of other kinds that are looked past to find the next ones.
const SCAN: usize = 4096;
/// The extensions of the last so many files are those that are read.
const KINDS: usize = 32;
/// Without a file fetched for so many opens, all of it is here and nothing needs to be asked for.
const WARM: u64 = 64;
/// A reader that was silent for so long begins anew.
const FORGET: Duration = Duration::from_secs(10);

/// The two orders in which a folder is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Named,
    Listed,
}

const ORDERS: [Order; 2] = [Order::Named, Order::Listed];

#[derive(Clone, Copy, Debug)]
struct File {
    ino: Ino,
    bytes: u64,
    /// Tells extensions apart.
    kind: u32,
}

/// The small files of a folder.
#[derive(Debug, Default)]
pub(crate) struct Files {
    listed: Vec<File>,
    /// Places in `listed`, in the order of names.
    named: Vec<u32>,
    /// The places of a file in both orders, by file.
    places: Vec<(Ino, [u32; 2])>,
}

impl Files {
    /// Takes the small files of a folder in the order of its listing.
    pub(crate) fn new(found: &[(Name, Ino, u64)]) -> Self {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let found = &found[..found.len().min(MAX_FILES)];
        let mut named: Vec<_> = (0..found.len()).collect();
        named.sort_by_key(|at| &found[*at].0);
        let mut places: Vec<_> = named
            .iter()
            .enumerate()
            .map(|(by_name, at)| (found[*at].1, [place(by_name), place(*at)]))
            .collect();
        places.sort_unstable();
        let file = |(name, ino, bytes): &(Name, Ino, u64)| File {
            ino: *ino,
            bytes: *bytes,
            kind: kind_of(name.as_bytes()),
        };
        Self {
            listed: found.iter().map(file).collect(),
            named: named.into_iter().map(place).collect(),
            places,
        }
    }

    fn len(&self) -> usize {
        self.listed.len()
    }

    fn place(&self, ino: Ino, order: Order) -> Option<usize> {
        let at = self.places.binary_search_by_key(&ino, |(ino, _)| *ino).ok()?;
        Some(self.places[at].1[order as usize] as usize)
    }

    fn has(&self, ino: Ino) -> bool {
        self.place(ino, Order::Named).is_some()
    }

    fn at(&self, place: usize, order: Order) -> File {
        match order {
            Order::Named => self.listed[self.named[place] as usize],
            Order::Listed => self.listed[place],
        }
    }

    fn range(&self, places: std::ops::Range<usize>, order: Order) -> impl Iterator<Item = File> + '_ {
        (places.start..places.end.min(self.len())).map(move |place| self.at(place, order))
    }
}

/// Tells extensions apart, whatever their case: FNV-1a.
fn kind_of(name: &[u8]) -> u32 {
    let dot = name.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0);
    let extension = dot.map_or(&[][..], |dot| &name[dot..]);
    extension.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    })
}

#[derive(Debug)]
struct Ahead {
    ino: Ino,
    bytes: u64,
    /// The turn at which the reader was past it.
    passed: Option<u64>,
}

/// A reader of a folder.
#[derive(Debug)]
struct Run {
    id: LayerId,
    folder: Ino,
    /// The process that opened a file last.
    reader: u32,
    listing: Listing,
    /// The folder changed since it was listed.
    stale: bool,
    files: Arc<Files>,
    /// Opened before the list was there.
    waiting: VecDeque<Ino>,
    last: Option<Ino>,
    /// Files in a row, by order.
    in_a_row: [u32; 2],
    /// Bytes of those files.
    bytes_in_a_row: u64,
    /// Orders that turned out to be none.
    doubt: u32,
    kinds: VecDeque<u32>,
    uses: Uses,
    ahead: Vec<Ahead>,
    window: usize,
    paused: bool,
    turn: u64,
    /// The turn at which a file was opened last that was not here by itself.
    cold: u64,
    pace: Duration,
    used_at: Instant,
}

impl Run {
    fn order(&self) -> Order {
        ORDERS[usize::from(self.in_a_row[1] > self.in_a_row[0])]
    }

    /// Files read in this run.
    fn read(&self) -> u32 {
        self.in_a_row[self.order() as usize]
    }

    fn is_sure(&self) -> bool {
        self.read() >= ORDERED + self.doubt
    }

    /// Bytes that are asked for ahead.
    fn bytes(&self) -> u64 {
        self.ahead.iter().map(|ahead| ahead.bytes).sum()
    }

    /// How long nothing may be opened before it counts as a change of mind.
    fn patience(&self) -> Duration {
        SILENCE.max(self.pace * 2)
    }

    fn drop_all(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(self.ahead.drain(..).map(|ahead| Effect::Drop(self.id, ahead.ino)));
        self.window = FLOOR;
    }

    /// Says whether a file is one of those that are left out at most on the way from `last`.
    fn goes_on(&self, last: Ino, to: Ino, order: Order, reach: usize) -> bool {
        let (Some(last), Some(to)) = (self.files.place(last, order), self.files.place(to, order)) else {
            return false;
        };
        if to <= last || to - last > SCAN {
            return false;
        }
        let between = self.files.range(last + 1..to, order);
        between.filter(|file| self.kinds.contains(&file.kind)).count() <= reach
    }

    fn expects(&self, ino: Ino) -> bool {
        let order = self.order();
        self.last.is_some_and(|last| {
            last == ino || self.is_sure() && (self.goes_on(last, ino, order, REACH) || self.comes_back(last, ino))
        })
    }

    /// Says whether a file is one that was left out a moment ago.
    fn comes_back(&self, last: Ino, to: Ino) -> bool {
        let order = self.order();
        let (Some(last), Some(to)) = (self.files.place(last, order), self.files.place(to, order)) else {
            return false;
        };
        to < last && last - to <= REACH
    }

    /// Takes note of a file that was opened.
    fn note(&mut self, ino: Ino, effects: &mut Vec<Effect>) {
        let Some(place) = self.files.place(ino, Order::Listed) else {
            return;
        };
        let File { kind, bytes, .. } = self.files.at(place, Order::Listed);
        let (was_sure, order) = (self.is_sure(), self.order());
        match self.last {
            Some(last) if last == ino || was_sure && self.comes_back(last, ino) => return,
            Some(last) => {
                let reach = if was_sure { REACH } else { FIRST_REACH };
                let before = self.read();
                for order in ORDERS {
                    let row = self.in_a_row[order as usize];
                    let goes_on = self.goes_on(last, ino, order, reach);
                    self.in_a_row[order as usize] = if goes_on { row + 1 } else { 1 };
                }
                if self.read() >= PROVEN {
                    self.doubt = 0;
                }
                if was_sure && (!self.is_sure() || self.order() != order) {
                    if before < PROVEN {
                        self.doubt = (self.doubt + 1).min(MAX_DOUBT);
                    }
                    self.drop_all(effects);
                }
            }
            None => self.in_a_row = [1; 2],
        }
        self.last = Some(ino);
        self.bytes_in_a_row = bytes + if self.read() > 1 { self.bytes_in_a_row } else { 0 };
        if self.kinds.len() >= KINDS {
            self.kinds.pop_front();
        }
        self.kinds.push_back(kind);
    }

    /// Takes note of what was opened while the list was not there.
    fn catch_up(&mut self, effects: &mut Vec<Effect>) {
        while let Some(ino) = self.waiting.pop_front() {
            self.note(ino, effects);
        }
        // What the reader is past, and does not come back to.
        let (order, turn, id) = (self.order(), self.turn, self.id);
        let last = self.last.and_then(|last| self.files.place(last, order));
        let files = Arc::clone(&self.files);
        self.ahead.retain_mut(|ahead| {
            let is_next = files.place(ahead.ino, order).is_some_and(|at| Some(at) > last);
            let stays = is_next || turn - *ahead.passed.get_or_insert(turn) < REACH as u64;
            if !stays {
                effects.push(Effect::Drop(id, ahead.ino));
            }
            stays
        });
    }

    /// Asks for the next files that are not asked for yet, with as many bytes as there is room for.
    fn plan(&mut self, room: u64, taken: impl Fn(Ino) -> bool, effects: &mut Vec<Effect>) {
        let order = self.order();
        let warm = self.turn - self.cold >= WARM;
        let Some(last) = self.last.and_then(|last| self.files.place(last, order)) else {
            return;
        };
        if self.paused || warm || !self.is_sure() || !self.uses.are_reads() {
            return;
        }
        let mut bytes = self.bytes();
        let most = MOST_BYTES.min(self.bytes_in_a_row.max(FEW_BYTES)).min(bytes + room);
        let next = self.files.range(last + 1..last + 1 + SCAN, order);
        let next: Vec<_> = next
            .filter(|file| self.kinds.contains(&file.kind))
            .take(self.window)
            .collect();
        for file in next {
            if taken(file.ino) || self.ahead.iter().any(|ahead| ahead.ino == file.ino) {
                continue;
            }
            bytes += file.bytes;
            if bytes > most {
                return;
            }
            self.ahead.push(Ahead {
                ino: file.ino,
                bytes: file.bytes,
                passed: None,
            });
            effects.push(Effect::Ahead(self.id, file.ino));
        }
    }
}

/// The folders of a drive that are read file by file.
#[derive(Debug, Default)]
pub(super) struct Folders {
    runs: Vec<Run>,
}

impl Folders {
    /// The folder of a run whose files are to be listed.
    pub(super) fn describe(&self, id: LayerId) -> Option<Ino> {
        self.runs.iter().find(|run| run.id == id).map(|run| run.folder)
    }

    /// Bytes that are asked for ahead.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(Run::bytes).sum()
    }

    /// A small file was opened for reading; its folder, where it is known; the id that a new run would have.
    pub(super) fn opened(
        &mut self,
        folder: Option<Ino>,
        open: Open,
        new: LayerId,
        effects: &mut Vec<Effect>,
    ) -> Option<LayerId> {
        let at = self.run_of(folder, open, new, effects)?;
        let run = &mut self.runs[at];
        let gap = open.at.saturating_duration_since(run.used_at);
        if gap >= FORGET {
            run.waiting.clear();
            run.in_a_row = [0; 2];
            run.last = None;
            run.pace = Duration::ZERO;
        } else {
            run.pace = (run.pace * 3 + gap) / 4;
        }
        run.used_at = open.at;
        run.reader = open.reader;
        run.turn += 1;
        run.paused = false;
        let asked = run.ahead.iter().position(|ahead| ahead.ino == open.ino);
        let came = asked.is_some_and(|at| run.ahead.remove(at).bytes > 0);
        if came || !open.resident {
            run.cold = run.turn;
        }
        // What came ahead has no pages in the kernel yet: its reads are seen.
        run.uses.opened(open.ino, came || !open.resident);
        if run.waiting.back() != Some(&open.ino) {
            run.waiting.push_back(open.ino);
        }
        if run.waiting.len() > REACH {
            run.waiting.pop_front();
        }
        let known = match run.listing {
            Listing::None => run.waiting.len() < ORDERED as usize || !run.uses.are_reads(),
            Listing::Asked => true,
            Listing::Known(at) => {
                let has = run.files.has(open.ino) || run.files.len() >= MAX_FILES;
                has && !run.stale || open.at.duration_since(at) < RELIST
            }
        };
        if !known {
            run.listing = Listing::Asked;
            run.stale = false;
            effects.push(Effect::List(run.id));
        }
        if run.files.len() > 0 {
            run.catch_up(effects);
        }
        if came && !open.resident {
            // It came too late: twice as many would have been better, but no more than were read.
            let read = usize::try_from(run.read()).unwrap_or(MOST);
            run.window = (run.window * 2).min(read).clamp(FLOOR, MOST);
        }
        Some(run.id)
    }

    fn run_of(&mut self, folder: Option<Ino>, open: Open, new: LayerId, effects: &mut Vec<Effect>) -> Option<usize> {
        let of = |run: &Run| match folder {
            Some(folder) => run.folder == folder,
            None => run.files.has(open.ino),
        };
        let readers = self.runs.iter().enumerate().filter(|(_, run)| of(run));
        let rank = |run: &Run| (run.expects(open.ino), run.reader == open.reader, run.used_at);
        let best = readers.max_by_key(|(_, run)| rank(run)).map(|(at, _)| at);
        if let Some(at) = best {
            let run = &self.runs[at];
            if !run.is_sure() || run.reader == open.reader || run.expects(open.ino) {
                return Some(at);
            }
        }
        let folder = folder.filter(|_| !open.resident)?;
        // Somebody else, elsewhere in a folder that is read: he disturbs nobody.
        let like = best.map(|at| (self.runs[at].listing, Arc::clone(&self.runs[at].files)));
        let (listing, files) = match like {
            Some((Listing::Known(at), files)) => (Listing::Known(at), files),
            _ => (Listing::None, Arc::default()),
        };
        if self.runs.len() >= MAX_RUNS {
            self.forget_oldest(None, effects);
        }
        self.runs.push(Run {
            id: new,
            folder,
            reader: open.reader,
            listing,
            stale: false,
            files,
            waiting: VecDeque::new(),
            last: None,
            in_a_row: [0; 2],
            bytes_in_a_row: 0,
            doubt: 0,
            kinds: VecDeque::new(),
            uses: Uses::default(),
            ahead: Vec::new(),
            window: FLOOR,
            paused: false,
            turn: 0,
            cold: 0,
            pace: Duration::ZERO,
            used_at: open.at,
        });
        Some(self.runs.len() - 1)
    }

    fn forget_oldest(&mut self, but: Option<LayerId>, effects: &mut Vec<Effect>) {
        let others = self.runs.iter().enumerate().filter(|(_, run)| Some(run.id) != but);
        if let Some((at, _)) = others.min_by_key(|(_, run)| run.used_at) {
            self.runs.swap_remove(at).drop_all(effects);
        }
    }

    /// Asks for the next files of a run, but not for those that somebody else asks for.
    pub(super) fn plan(&mut self, id: LayerId, room: u64, taken: impl Fn(Ino) -> bool, effects: &mut Vec<Effect>) {
        let Some(at) = self.runs.iter().position(|run| run.id == id) else {
            return;
        };
        let mut run = self.runs.swap_remove(at);
        let others = self.runs.iter().flat_map(|run| &run.ahead);
        let taken = |ino| taken(ino) || others.clone().any(|ahead| ahead.ino == ino);
        run.plan(room, taken, effects);
        self.runs.push(run);
    }

    /// It is known what became of an open.
    pub(super) fn mark(&mut self, ino: Ino, what: Use, effects: &mut Vec<Effect>) {
        for run in &mut self.runs {
            run.uses.mark(ino, what);
            if !run.uses.are_reads() {
                run.drop_all(effects);
            }
        }
    }

    /// The small files of a run's folder.
    pub(super) fn listed(&mut self, id: LayerId, files: Files, now: Instant, effects: &mut Vec<Effect>) {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else {
            return;
        };
        run.files = Arc::new(files);
        run.listing = Listing::Known(now);
        run.catch_up(effects);
        while self.runs.iter().map(|run| run.files.len()).sum::<usize>() > MAX_FILES && self.runs.len() > 1 {
            self.forget_oldest(Some(id), effects);
        }
    }

    /// A file that was asked for is here already, or can't be had.
    pub(super) fn costs_nothing(&mut self, id: LayerId, ino: Ino) {
        let runs = self.runs.iter_mut().filter(|run| run.id == id);
        for ahead in runs.flat_map(|run| &mut run.ahead).filter(|ahead| ahead.ino == ino) {
            ahead.bytes = 0;
        }
    }

    /// Its site is out of reach: nothing is asked for until the next open.
    pub(super) fn pause(&mut self, id: LayerId, effects: &mut Vec<Effect>) {
        for run in self.runs.iter_mut().filter(|run| run.id == id) {
            run.paused = true;
            run.drop_all(effects);
        }
    }

    /// Names came into a folder, or went.
    pub(super) fn changed(&mut self, folder: Ino) {
        for run in self.runs.iter_mut().filter(|run| run.folder == folder) {
            run.stale = true;
        }
    }

    /// The thread that opened a file of a folder last.
    pub(super) fn reader(&self, id: LayerId) -> Option<u32> {
        self.runs.iter().find(|run| run.id == id).map(|run| run.reader)
    }

    /// Takes back what is asked for ahead of readers that have fallen silent.
    pub(super) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for run in &mut self.runs {
            if !run.paused && run.is_sure() && run.used_at + run.patience() <= now {
                run.paused = true;
                run.drop_all(effects);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let active = self.runs.iter().filter(|run| !run.paused && run.is_sure());
        active.map(|run| run.used_at + run.patience()).min()
    }

    /// Returns the runs in which something is predicted.
    pub(super) fn shown(&self, now: Instant) -> impl Iterator<Item = Shown> + '_ {
        self.runs.iter().filter(|run| run.is_sure()).map(move |run| Shown {
            id: run.id,
            folder: run.folder,
            pattern: "*".to_owned(),
            frame: u64::from(run.read()),
            step: 1,
            confidence: Confidence::Confident,
            paused: run.paused,
            interval: run.pace,
            window: run.window,
            ahead: run.ahead.len(),
            idle: now.saturating_duration_since(run.used_at),
        })
    }
}

#[cfg(test)]
mod tests;
