//! Where a reader of one sequence goes next. Pure: frames and moments are handed in.
//!
//! Owns: direction, step and rhythm of one sequence, and how sure they are. Refuses to know: bytes, files. Frames are
//! counted by their place among those that exist, so that holes, twos and rows of UDIM tiles are steps like any other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::names::Digits;
use crate::model::Ino;

/// Strides longer than this are jumps.
const MAX_STEP: usize = 16;
/// A reader with several threads opens this far out of order, and a player that drops frames leaves out so many at once; in a
/// short run no more than it is long.
const REACH: usize = 16;
/// After so many steps in a row a sequence is known to be played.
const PROVEN: u32 = 8;
/// The most that failed suppositions can cost: so many more steps until the next one.
const MAX_DOUBT: u32 = 3;
/// Steps that the rhythm is taken from.
const PACED: usize = 9;

/// The frames of a sequence that exist, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<(u64, Ino)>);

impl Frames {
    /// Takes the frames that a folder shows, in any order, at most `most` of them around the one numbered `anchor`.
    pub(crate) fn new(found: impl IntoIterator<Item = (Digits, Ino)>, anchor: Digits, most: usize) -> Self {
        let mut list: Vec<_> = found
            .into_iter()
            .filter(|(digits, _)| digits.goes_with(anchor))
            .map(|(digits, ino)| (digits.value, digits.width != anchor.width, ino))
            .collect();
        // One number written in two ways: the way that was opened.
        list.sort_unstable();
        list.dedup_by_key(|(value, _, _)| *value);
        let at = list.partition_point(|(value, _, _)| *value < anchor.value);
        let from = at.saturating_sub(most / 2).min(list.len().saturating_sub(most));
        let kept = list.into_iter().skip(from).take(most);
        Self(kept.map(|(value, _, ino)| (value, ino)).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn index(&self, value: u64) -> Option<usize> {
        self.0.binary_search_by_key(&value, |(value, _)| *value).ok()
    }

    /// Says whether there is such a frame.
    pub(crate) fn has(&self, value: u64) -> bool {
        self.index(value).is_some()
    }

    /// Returns the file of a frame.
    pub(crate) fn file(&self, value: u64) -> Option<Ino> {
        self.index(value).map(|at| self.0[at].1)
    }

    /// The frame `step` places on, within `bounds` of the list.
    fn step(&self, at: usize, step: isize) -> Option<usize> {
        at.checked_add_signed(step).filter(|to| *to < self.0.len())
    }
}

/// How sure the direction is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Confidence {
    /// Nothing is predicted.
    None,
    /// Seen once: a frame or two.
    Tentative,
    /// Seen again.
    Confident,
}

/// What an open was to what went before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Noted {
    /// The first one.
    First,
    /// The same frame again.
    Repeat,
    /// Nothing was predicted yet.
    Learning,
    /// So many steps on.
    Predicted(usize),
    /// A frame that was left out a moment ago.
    Behind,
    /// From the end of what is played to its beginning.
    Wrapped,
    /// Back the way it came.
    Reversed,
    /// Somewhere else.
    Jump,
    /// A frame that is not in the list.
    Unlisted,
}

/// How one sequence is read.
#[derive(Debug, Default)]
pub(crate) struct Play {
    last: Option<u64>,
    seen_at: Option<Instant>,
    step: isize,
    /// Opens in a row that went on this way.
    run: u32,
    /// Where the run began.
    start: u64,
    /// The last frame before it begins again, and the first.
    looped: Option<(u64, u64)>,
    /// Suppositions that failed lately.
    doubt: u32,
    proven: bool,
    recent: VecDeque<u64>,
    pace: VecDeque<(Instant, u32)>,
    usual: Option<Duration>,
}

impl Play {
    /// Takes note of an open.
    pub(crate) fn opened(&mut self, frames: &Frames, value: u64, at: Instant) -> Noted {
        let Some(to) = frames.index(value) else {
            return Noted::Unlisted;
        };
        let Some(last) = self.last.and_then(|last| frames.index(last)) else {
            self.begin(value, at);
            return Noted::First;
        };
        if to == last {
            self.seen_at = Some(at);
            return Noted::Repeat;
        }
        let confidence = self.confidence();
        if confidence == Confidence::None {
            self.learn(last, to, value, at);
            return Noted::Learning;
        }
        if let Some(steps) = self.steps_to(frames, last, to) {
            if self.next(frames, last) != self.follow(frames, last, to, steps) {
                self.looped = None;
            }
            self.advance(value, at, steps);
            return Noted::Predicted(steps);
        }
        let back = to.cast_signed() - last.cast_signed();
        if back == -self.step && self.recent.contains(&value) {
            self.turn(confidence, value, at);
            return Noted::Reversed;
        }
        if confidence == Confidence::Confident && self.is_wrap(frames, last, to, value) {
            self.looped = self.last.map(|last| (last, value));
            self.advance(value, at, 1);
            return Noted::Wrapped;
        }
        let near =
            back.signum() == -self.step.signum() && back.unsigned_abs() <= self.reach() * self.step.unsigned_abs();
        // Left out on the way, not from before it began.
        let on_the_way = if back < 0 {
            value > self.start
        } else {
            value < self.start
        };
        if near && on_the_way && !self.recent.contains(&value) {
            self.remember(value);
            self.seen_at = Some(at);
            return Noted::Behind;
        }
        self.jump(confidence, value, at);
        Noted::Jump
    }

    /// Says whether a frame is the one that is open or one of those that come next.
    pub(crate) fn expects(&self, frames: &Frames, value: u64) -> bool {
        let (Some(to), Some(last)) = (frames.index(value), self.last.and_then(|last| frames.index(last))) else {
            return false;
        };
        to == last || self.confidence() > Confidence::None && self.steps_to(frames, last, to).is_some()
    }

    /// Takes up the step of another sequence that is read in the same rhythm.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.confidence() == Confidence::None && other.confidence() == Confidence::Confident {
            self.step = other.step;
            self.run = self.needed();
            self.usual = other.interval();
        }
    }

    fn begin(&mut self, value: u64, at: Instant) {
        self.last = Some(value);
        self.start = value;
        self.seen_at = Some(at);
        self.step = 0;
        self.run = 0;
        self.looped = None;
        self.recent.clear();
        self.remember(value);
        self.pace.clear();
        self.pace.push_back((at, 0));
    }

    fn learn(&mut self, last: usize, to: usize, value: u64, at: Instant) {
        let delta = to.cast_signed() - last.cast_signed();
        if delta.unsigned_abs() > MAX_STEP {
            return self.begin(value, at);
        }
        if delta == self.step {
            return self.advance(value, at, 1);
        }
        self.start = self.last.unwrap_or(value);
        self.step = delta;
        self.run = 0;
        self.advance(value, at, 1);
    }

    fn advance(&mut self, value: u64, at: Instant, steps: usize) {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.run = self.run.saturating_add(1);
        if self.run >= PROVEN {
            self.doubt = 0;
            self.proven = true;
        }
        self.last = Some(value);
        self.seen_at = Some(at);
        self.remember(value);
        if self.pace.len() >= PACED {
            self.pace.pop_front();
        }
        self.pace.push_back((at, steps));
    }

    /// The way back. What was supposed only once is given up; a run that was sure is believed to go on this way.
    fn turn(&mut self, confidence: Confidence, value: u64, at: Instant) {
        self.start = self.last.unwrap_or(value);
        self.looped = None;
        self.step = -self.step;
        self.run = 0;
        self.recent.clear();
        if confidence == Confidence::Confident {
            self.run = self.needed() - 1;
        } else {
            self.doubt = (self.doubt + 1).min(MAX_DOUBT);
        }
        self.advance(value, at, 1);
    }

    fn jump(&mut self, confidence: Confidence, value: u64, at: Instant) {
        if confidence == Confidence::Tentative {
            self.doubt = (self.doubt + 1).min(MAX_DOUBT);
        }
        self.usual = self.interval();
        self.begin(value, at);
    }

    fn remember(&mut self, value: u64) {
        if self.recent.len() >= 2 * REACH {
            self.recent.pop_front();
        }
        self.recent.push_back(value);
    }

    /// Steps that it takes to suppose a direction.
    fn needed(&self) -> u32 {
        let strange = u32::from(self.step.unsigned_abs() != 1);
        1 + strange + self.doubt
    }

    /// Says how sure the direction is.
    pub(crate) fn confidence(&self) -> Confidence {
        match self.run {
            _ if self.step == 0 => Confidence::None,
            run if run > self.needed() => Confidence::Confident,
            run if run == self.needed() => Confidence::Tentative,
            _ => Confidence::None,
        }
    }

    /// Says whether this sequence was played at length, now or before.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    /// The frame opened last.
    pub(crate) fn last(&self) -> Option<u64> {
        self.last
    }

    /// When it was.
    pub(crate) fn seen_at(&self) -> Option<Instant> {
        self.seen_at
    }

    /// Places from one frame to the next, negative on the way back.
    pub(crate) fn stride(&self) -> isize {
        self.step
    }

    /// Frames opened in this run.
    pub(crate) fn played(&self) -> usize {
        self.run as usize + 1
    }

    /// The usual time from one frame to the next.
    pub(crate) fn interval(&self) -> Option<Duration> {
        let steps: u32 = self.pace.iter().skip(1).map(|(_, steps)| steps).sum();
        let (first, last) = (self.pace.front()?, self.pace.back()?);
        if steps == 0 {
            return self.usual;
        }
        Some(last.0.duration_since(first.0) / steps)
    }

    fn next(&self, frames: &Frames, at: usize) -> Option<usize> {
        let to = frames.step(at, self.step);
        let Some((from, first)) = self.looped else { return to };
        let (from, first) = (frames.index(from)?, frames.index(first));
        let passes = match to {
            None => true,
            Some(to) if self.step > 0 => at <= from && to > from,
            Some(to) => at >= from && to < from,
        };
        if passes { first } else { to }
    }

    /// Where the first of `steps` steps to a frame leads.
    fn follow(&self, frames: &Frames, at: usize, to: usize, steps: usize) -> Option<usize> {
        if steps == 1 { Some(to) } else { self.next(frames, at) }
    }

    fn reach(&self) -> usize {
        REACH.min(self.played())
    }

    /// In how many steps the reader gets to a frame.
    fn steps_to(&self, frames: &Frames, last: usize, to: usize) -> Option<usize> {
        let mut at = last;
        for steps in 1..=self.reach() {
            at = self.next(frames, at)?;
            if at == to {
                return Some(steps);
            }
            if steps == 1 && frames.step(last, self.step) == Some(to) {
                // Past the end of the loop that was.
                return Some(1);
            }
        }
        None
    }

    /// Says whether going to a frame is going to the beginning: of what was played, or of all there is at its end.
    fn is_wrap(&self, frames: &Frames, last: usize, to: usize, value: u64) -> bool {
        let forward = self.step > 0;
        let towards_start = if forward { to < last } else { to > last };
        let edge = if forward { 0 } else { frames.len() - 1 };
        let at_end = frames.step(last, self.step).is_none();
        towards_start && (value == self.start || (at_end && to == edge))
    }

    /// Returns the next `most` frames, the nearest first; a loop goes round once.
    pub(crate) fn ahead(&self, frames: &Frames, most: usize) -> Vec<u64> {
        let Some(last) = self.last.and_then(|last| frames.index(last)) else {
            return Vec::new();
        };
        if self.confidence() == Confidence::None {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut at = last;
        while found.len() < most.min(frames.len() - 1) {
            match self.next(frames, at) {
                // A loop may lead past the frame that it began with.
                Some(next) if next != last && !(self.looped.is_some() && found.contains(&frames.0[next].0)) => {
                    found.push(frames.0[next].0);
                    at = next;
                }
                _ => break,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
