//! How many frames ahead of a reader to have. Pure.
//!
//! Owns: the size of one sequence's window. Refuses to know: which frames, whose bytes. Invariant: what may turn out to be
//! wasted is earned by what was played: four frames, or one in 25, unless frames come too slowly for so few.

use std::collections::VecDeque;
use std::time::Duration;

use super::play::{Confidence, Play};

/// Frames ahead while the direction is only supposed.
const TENTATIVE: usize = 2;
/// Frames ahead of a reader that is sure.
const FLOOR: usize = 4;
/// Frames ahead at most, however fast the reader is.
const MOST: usize = 256;
/// A window as long as this part of what was played wastes little, wherever the reader stops.
const EARNED: usize = 25;
/// Frames that come too late count from this length of a run on: before, they were not asked for early enough.
const COUNTED_FROM: usize = 8;
/// Frames in time that halve what late ones added.
const CALM: u32 = 24;
/// The most that late frames stretch a window.
const MAX_STRETCH: usize = 64;
/// How many fetches the usual one is taken from.
const FETCHES: usize = 9;

/// What is known of how fast the frames of a sequence come.
#[derive(Debug)]
pub(crate) struct Window {
    fetches: VecDeque<Duration>,
    stretch: usize,
    calm: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            fetches: VecDeque::new(),
            stretch: 1,
            calm: 0,
        }
    }
}

impl Window {
    /// A frame that was not here took so long to come.
    pub(crate) fn landed(&mut self, took: Duration) {
        if self.fetches.len() >= FETCHES {
            self.fetches.pop_front();
        }
        self.fetches.push_back(took);
    }

    /// A predicted frame was opened; it was here, or was not yet.
    pub(crate) fn opened(&mut self, played: usize, in_time: bool) {
        if in_time {
            self.calm += 1;
            if self.calm >= CALM {
                self.calm = 0;
                self.stretch = (self.stretch / 2).max(1);
            }
        } else if played >= COUNTED_FROM {
            self.calm = 0;
            self.stretch = (self.stretch * 2).min(MAX_STRETCH);
        }
    }

    /// Returns how many frames to have ahead, for a window of at most `most` of play.
    pub(crate) fn frames(&self, play: &Play, most: Duration) -> usize {
        match play.confidence() {
            Confidence::None => 0,
            Confidence::Tentative => TENTATIVE,
            Confidence::Confident => {
                let interval = play.interval().unwrap_or_default().max(Duration::from_micros(100));
                let in_time = ceil(most, interval).max(TENTATIVE);
                let played = play.played();
                // Those that are under way while one is shown, and one to spare.
                let needed = self.usual().map_or(FLOOR, |took| ceil(took, interval) + 1);
                let earned = FLOOR.max((needed * self.stretch).min(played / 2)).max(played / EARNED);
                earned.min(in_time).min(MOST)
            }
        }
    }

    /// What four of five fetches don't exceed: one that was stuck counts little, a link that wavers does.
    fn usual(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.fetches.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 4 / 5).copied()
    }
}

fn ceil(span: Duration, part: Duration) -> usize {
    usize::try_from(span.as_micros().div_ceil(part.as_micros().max(1))).unwrap_or(MOST)
}

#[cfg(test)]
mod tests {
    use super::super::names::readings;
    use super::super::play::Frames;
    use super::*;
    use crate::model::Ino;
    use std::time::Instant;

    const SECONDS: Duration = Duration::from_secs(2);

    /// A run of so many frames at this pace.
    fn played(frames: u64, pace: Duration) -> Play {
        let digits = |value: u64| readings(format!("a.{value:05}.exr").as_bytes())[0].digits;
        let list = Frames::new((0..5000).map(|v| (digits(v), Ino(v + 10))), digits(0), 5000);
        let (mut play, mut at) = (Play::default(), Instant::now());
        for value in 0..frames {
            at += pace;
            play.opened(&list, value, at);
        }
        play
    }

    const FILM: Duration = Duration::from_micros(41_667);

    #[test]
    fn a_window_is_short_until_it_is_earned() {
        let mut window = Window::default();
        assert_eq!(window.frames(&played(1, FILM), SECONDS), 0);
        assert_eq!(window.frames(&played(2, FILM), SECONDS), 2);
        assert_eq!(window.frames(&played(3, FILM), SECONDS), 4);
        assert_eq!(window.frames(&played(100, FILM), SECONDS), 4);
        window.landed(Duration::from_millis(60));
        assert_eq!(window.frames(&played(20, FILM), SECONDS), 4);
        window.landed(Duration::from_millis(190));
        window.landed(Duration::from_millis(190));
        assert_eq!(window.frames(&played(20, FILM), SECONDS), 6);
    }

    #[test]
    fn late_frames_stretch_it_up_to_the_seconds_and_frames_in_time_shrink_it() {
        let mut window = Window::default();
        window.landed(Duration::from_millis(60));
        let play = played(600, FILM);
        assert_eq!(window.frames(&play, SECONDS), 24);
        for _ in 0..5 {
            window.opened(600, false);
        }
        assert_eq!(window.frames(&play, SECONDS), 48, "2 s of film have 48 frames");
        for _ in 0..200 {
            window.opened(600, true);
        }
        assert_eq!(window.frames(&play, SECONDS), 24);
        window.opened(3, false);
        assert_eq!(window.stretch, 1, "the first frames are late by nature");
    }

    #[test]
    fn a_reader_as_fast_as_frames_come_gets_the_most() {
        let mut window = Window::default();
        for _ in 0..9 {
            window.landed(Duration::from_millis(100));
            window.opened(600, false);
        }
        let fast = played(1000, Duration::from_millis(4));
        assert_eq!(window.frames(&fast, SECONDS), MOST);
        let slow = played(100, Duration::from_secs(60));
        assert_eq!(window.frames(&slow, SECONDS), 2, "a render of a minute a frame");
    }
}
