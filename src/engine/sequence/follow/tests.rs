use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const FRAME: Duration = Duration::from_micros(41_667);
const SIZE: u64 = 2_000_000;
const BOUNDS: Bounds = Bounds {
    window: Duration::from_secs(2),
    bytes: 256 << 20,
    small: 1 << 20,
};

/// A folder of files, and what a follower asked for of it.
struct Stage {
    follower: Follower,
    files: BTreeMap<String, Ino>,
    at: Instant,
    /// Here by themselves.
    resident: BTreeSet<Ino>,
    /// What is wanted ahead now, and all that ever was, in order.
    ahead: BTreeSet<Ino>,
    asked: Vec<Ino>,
    whole: Vec<Ino>,
    lists: usize,
    dropped: usize,
    /// Frames come at once, or never.
    lands: bool,
    /// Who opens.
    reader: u32,
    /// Opens that needed no name.
    short: usize,
}

impl Stage {
    fn of(names: impl IntoIterator<Item = String>) -> Self {
        let files = names
            .into_iter()
            .zip(100..)
            .map(|(name, ino)| (name, Ino(ino)))
            .collect();
        Self {
            follower: Follower::new(BOUNDS),
            files,
            at: Instant::now(),
            resident: BTreeSet::new(),
            ahead: BTreeSet::new(),
            asked: Vec::new(),
            whole: Vec::new(),
            lists: 0,
            dropped: 0,
            lands: true,
            reader: 1,
            short: 0,
        }
    }

    fn sequence(name: &str, frames: std::ops::RangeInclusive<u64>) -> Vec<String> {
        frames.map(|frame| format!("{name}.{frame:04}.exr")).collect()
    }

    fn ino(&self, name: &str) -> Ino {
        self.files[name]
    }

    fn names(&self, inos: impl IntoIterator<Item = Ino>) -> Vec<&str> {
        let name = |ino| self.files.iter().find(|(_, of)| **of == ino).unwrap().0.as_str();
        inos.into_iter().map(name).collect()
    }

    fn does(&mut self, effects: Vec<Effect>) {
        let mut todo: VecDeque<_> = effects.into();
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::List(id) => {
                    self.lists += 1;
                    let Some(Sought::Frames(_, pattern, anchor)) = self.follower.describe(id) else {
                        panic!("no sequence")
                    };
                    let found = self
                        .files
                        .iter()
                        .filter_map(|(name, ino)| Some((pattern.frame_of(name.as_bytes())?, *ino)));
                    let frames = Frames::new(found.collect::<Vec<_>>(), anchor, MAX_FRAMES);
                    todo.extend(self.follower.listed(id, Found::Frames(frames), self.at));
                }
                Effect::Whole(_, ino) => self.whole.push(ino),
                Effect::Ahead(id, ino) if self.resident.contains(&ino) => self.follower.costs_nothing(id, ino),
                Effect::Ahead(_, ino) => {
                    self.asked.push(ino);
                    assert!(self.ahead.insert(ino), "asked for twice");
                }
                Effect::Drop(_, ino) => {
                    self.dropped += 1;
                    self.ahead.remove(&ino);
                }
            }
        }
    }

    fn open(&mut self, name: &str) {
        let ino = self.ino(name);
        let resident = self.resident.contains(&ino) || (self.lands && self.ahead.contains(&ino));
        let spot = Spot {
            project: Ino(2),
            folder: Ino(3),
            name: Name::new(name.as_bytes()).unwrap(),
        };
        let open = Open {
            ino,
            size: SIZE,
            reader: self.reader,
            resident,
            at: self.at,
        };
        self.ahead.remove(&ino);
        let next = self.follower.opened_next(open);
        self.short += usize::from(next.is_some());
        let effects = next.unwrap_or_else(|| self.follower.opened(&spot, open));
        self.does(effects);
    }

    /// Opens files one after the other and reads them.
    fn plays<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            self.at += FRAME;
            self.reads(name);
        }
    }

    fn reads(&mut self, name: &str) {
        self.open(name);
        let effects = self.follower.read(self.ino(name));
        self.does(effects);
    }

    fn ticks(&mut self, after: Duration) {
        self.at += after;
        let effects = self.follower.tick(self.at);
        self.does(effects);
    }
}

#[test]
fn the_second_frame_asks_for_two_the_third_for_more_and_each_for_the_next() {
    let frames = Stage::sequence("comp", 1001..=1100);
    let mut stage = Stage::of(frames.clone());
    stage.plays(&frames[..1]);
    assert_eq!((stage.lists, stage.asked.len()), (0, 0), "one open is no sequence");
    stage.plays(&frames[1..2]);
    assert_eq!(stage.names(stage.ahead.clone()), ["comp.1003.exr", "comp.1004.exr"]);
    stage.plays(&frames[2..50]);
    assert_eq!(stage.lists, 1);
    assert_eq!(stage.asked.len(), 52, "1003 to 1054, each once");
    assert_eq!(
        stage.names(stage.ahead.clone()),
        ["comp.1051.exr", "comp.1052.exr", "comp.1053.exr", "comp.1054.exr"]
    );
}

#[test]
fn a_jump_takes_back_all_at_once_and_so_does_half_a_second_of_silence() {
    let frames = Stage::sequence("comp", 1001..=1400);
    let mut stage = Stage::of(frames.clone());
    stage.plays(&frames[..30]);
    assert!(!stage.ahead.is_empty());
    stage.plays(&frames[200..201]);
    assert!(stage.ahead.is_empty(), "{:?}", stage.names(stage.ahead.clone()));
    stage.plays(&frames[201..230]);
    assert!(!stage.ahead.is_empty());
    stage.ticks(Duration::from_millis(499));
    assert!(!stage.ahead.is_empty());
    assert_eq!(stage.follower.next_tick(), Some(stage.at + Duration::from_millis(1)));
    stage.ticks(Duration::from_millis(1));
    assert!(stage.ahead.is_empty());
    assert_eq!(stage.follower.next_tick(), None);
    // Going on from a pause needs no new proof.
    stage.plays(&frames[230..231]);
    assert_eq!(stage.ahead.len(), 4);
}

#[test]
fn a_slow_reader_is_not_taken_for_a_silent_one() {
    let frames = Stage::sequence("comp", 1001..=1100);
    let mut stage = Stage::of(frames.clone());
    for frame in &frames[..10] {
        stage.at += Duration::from_secs(20);
        stage.reads(frame);
    }
    stage.ticks(Duration::from_secs(39));
    assert!(!stage.ahead.is_empty());
    stage.ticks(Duration::from_secs(2));
    assert!(stage.ahead.is_empty());
}

#[test]
fn whoever_only_looks_into_frames_gets_none_ahead() {
    let frames = Stage::sequence("comp", 1001..=1100);
    let mut stage = Stage::of(frames.clone());
    for frame in &frames {
        stage.at += FRAME;
        stage.open(frame);
        let effects = stage.follower.skimmed(stage.ino(frame));
        stage.does(effects);
    }
    assert_eq!(stage.asked, [], "headers were read, nothing else");
    // The same opens with reads.
    let mut stage = Stage::of(frames.clone());
    stage.plays(&frames);
    assert!(stage.asked.len() > 90);
}

#[test]
fn whoever_begins_to_look_into_frames_is_found_out_soon() {
    let frames = Stage::sequence("comp", 1001..=1100);
    let mut stage = Stage::of(frames.clone());
    stage.resident = frames[..40].iter().map(|f| stage.ino(f)).collect();
    for frame in &frames {
        stage.at += FRAME;
        stage.open(frame);
        let effects = stage.follower.skimmed(stage.ino(frame));
        stage.does(effects);
    }
    assert!(stage.asked.len() <= 5, "{:?}", stage.names(stage.asked.clone()));
    assert!(stage.ahead.is_empty());
}

#[test]
fn frames_that_are_here_cost_no_list_and_no_bound() {
    let frames = Stage::sequence("comp", 1001..=1400);
    let mut stage = Stage::of(frames.clone());
    stage.resident = frames[..300].iter().map(|f| stage.ino(f)).collect();
    stage.plays(&frames[..280]);
    assert_eq!((stage.lists, stage.asked.len()), (1, 0));
    assert_eq!(stage.short, 278, "nor is a name looked up");
    stage.plays(&frames[280..295]);
    assert!(
        !stage.asked.is_empty(),
        "the end of what is here is seen before it comes"
    );
}

#[test]
fn layers_read_together_are_asked_for_frame_by_frame_and_join_at_their_first_open() {
    let layers = ["plate_l", "plate_r", "matte"].map(|name| Stage::sequence(name, 1001..=1100));
    let mut stage = Stage::of(layers.iter().flatten().cloned());
    for frame in 0..20 {
        stage.at += FRAME;
        for layer in &layers[..2] {
            stage.reads(&layer[frame]);
        }
    }
    let ahead = stage.names(stage.ahead.clone()).len();
    assert_eq!(ahead, 8, "both eyes");
    // The matte comes in at frame 1021, read beside the others.
    stage.at += FRAME;
    stage.reads(&layers[0][20]);
    stage.reads(&layers[1][20]);
    let before = stage.asked.len();
    stage.reads(&layers[2][20]);
    assert_eq!(
        stage.names(stage.asked[before..].to_vec()),
        ["matte.1022.exr", "matte.1023.exr"]
    );
    // One jump is a jump of all.
    stage.at += FRAME;
    stage.reads(&layers[0][80]);
    assert!(stage.ahead.is_empty(), "{:?}", stage.names(stage.ahead.clone()));
}

#[test]
fn what_is_nearest_is_asked_for_first_across_layers() {
    let layers = ["a", "b"].map(|name| Stage::sequence(name, 1001..=1100));
    let mut stage = Stage::of(layers.iter().flatten().cloned());
    for frame in 0..30 {
        stage.at += FRAME;
        layers.iter().for_each(|layer| stage.reads(&layer[frame]));
    }
    stage.ticks(Duration::from_secs(1));
    assert!(stage.ahead.is_empty());
    // Both go on from a pause; the first open wakes its own layer, the second adds the other's.
    let before = stage.asked.len();
    stage.reads(&layers[0][30]);
    stage.reads(&layers[1][30]);
    let order = stage.names(stage.asked[before..].to_vec());
    assert_eq!(&order[..1], ["a.1032.exr"]);
    assert_eq!(order.len(), 8);
}

#[test]
fn the_byte_bound_holds_over_all_layers() {
    let layers = ["a", "b", "c", "d"].map(|name| Stage::sequence(name, 1001..=1400));
    let mut stage = Stage::of(layers.iter().flatten().cloned());
    stage.follower.bounds.bytes = 7 * SIZE;
    stage.lands = false;
    for frame in 0..300 {
        stage.at += FRAME;
        for layer in &layers {
            stage.reads(&layer[frame]);
            assert!(stage.ahead.len() <= 7);
        }
    }
    assert!(stage.ahead.len() >= 6);
}

#[test]
fn versions_are_not_played() {
    let names: Vec<_> = (1..=9).map(|v| format!("comp_v{v:03}.nk")).collect();
    let mut stage = Stage::of(names.clone());
    stage.plays(&names);
    let names: Vec<_> = (1..=9).map(|v| format!("sh_v{v:03}.1001.exr")).collect();
    let mut frames = Stage::of(names.clone());
    frames.plays(&names);
    assert_eq!((stage.asked.len(), frames.asked.len()), (0, 0));
}

#[test]
fn the_digits_that_change_are_the_frame() {
    let names: Vec<_> = (1001..=1030).map(|f| format!("plate.{f}_2k1.exr")).collect();
    let mut stage = Stage::of(names.clone());
    stage.plays(&names[..3]);
    assert_eq!(stage.names(stage.ahead.clone())[0], "plate.1004_2k1.exr");
}

#[test]
fn new_frames_are_found_when_the_reader_gets_there() {
    let frames = Stage::sequence("comp", 1001..=1030);
    let mut stage = Stage::of(frames[..10].to_vec());
    stage.plays(&frames[..10]);
    assert_eq!((stage.lists, stage.ahead.len()), (1, 0));
    stage.files.extend(frames[10..].iter().cloned().zip((500..).map(Ino)));
    stage.follower.changed(Ino(3));
    stage.at += Duration::from_millis(700);
    stage.plays(&frames[10..12]);
    assert_eq!(stage.lists, 2);
    assert_eq!(stage.ahead.len(), 4, "{:?}", stage.names(stage.ahead.clone()));
}

#[test]
fn two_readers_of_one_sequence_do_not_disturb_each_other() {
    let frames = Stage::sequence("comp", 1001..=1400);
    let mut stage = Stage::of(frames.clone());
    stage.plays(&frames[..30]);
    let before = stage.ahead.clone();
    stage.reader = 2;
    stage.plays(&frames[200..201]);
    assert_eq!(stage.ahead, before, "a browser's thumbnail stops no play");
    for frame in 0..20 {
        stage.reader = 1;
        stage.plays(&frames[30 + frame..31 + frame]);
        stage.reader = 2;
        stage.plays(&frames[201 + frame..202 + frame]);
    }
    assert_eq!(stage.lists, 1);
    let ahead = stage.names(stage.ahead.clone());
    assert_eq!(ahead.len(), 8, "{ahead:?}");
    // Each frame by a program of its own is one reader all the same.
    let mut stage = Stage::of(frames.clone());
    for (pid, frame) in (10..).zip(&frames[..20]) {
        stage.reader = pid;
        stage.plays([frame]);
    }
    assert_eq!((stage.follower.layers.len(), stage.ahead.len()), (1, 4));
}

#[test]
fn what_is_held_in_memory_is_bounded() {
    let layers: Vec<_> = (0..200_u32)
        .map(|n| {
            Stage::sequence(
                &format!("{}", (b'a' + u8::try_from(n % 26).unwrap()) as char).repeat(1 + n as usize / 26),
                1001..=1010,
            )
        })
        .collect();
    let mut stage = Stage::of(layers.iter().flatten().cloned());
    for layer in &layers {
        stage.plays(&layer[..5]);
    }
    assert_eq!(stage.follower.layers.len(), MAX_LAYERS);
    assert!(stage.follower.names.len() <= MAX_NAMES);
}

/// What a range that is played to its end and left costs beside it.
fn wasted(range: usize, frames: usize, link: Duration) -> f64 {
    let names = Stage::sequence("comp", 1001..=1000 + frames as u64);
    let mut stage = Stage::of(names.clone());
    for name in &names[..range] {
        stage.at += FRAME;
        stage.reads(name);
        let layer = LayerId(1);
        let effects = stage.follower.landed(layer, link);
        stage.does(effects);
    }
    // All that was asked for counts, as if it had come before it was taken back.
    stage.ahead.len() as f64 / range as f64
}

#[test]
fn a_range_that_is_left_wasted_less_than_a_twentieth() {
    // 2 MB over 20 ms and 1 Gbit/s take some 60 ms.
    for range in [100, 240, 480, 1000] {
        let part = wasted(range, 2000, Duration::from_millis(60));
        assert!(part < 0.05 + f64::EPSILON, "{range}: {part}");
    }
    assert_eq!(wasted(100, 100, Duration::from_millis(60)), 0.0, "the whole sequence");
}

proptest! {
    /// Whatever is opened, read, left and waited for: the bounds hold, nothing is asked for twice, and silence ends it all.
    #[test]
    fn anything_goes(ops in prop::collection::vec((0_usize..3, 0_usize..40, 0_u64..700, any::<bool>()), 1..120)) {
        let layers = ["a", "b_v002", "c"].map(|name| Stage::sequence(name, 1001..=1040));
        let mut stage = Stage::of(layers.iter().flatten().cloned());
        stage.follower.bounds.bytes = 20 * SIZE;
        for (layer, frame, wait, reads) in ops {
            stage.ticks(Duration::from_millis(wait));
            let name = &layers[layer][frame];
            if reads {
                stage.reads(name);
            } else {
                stage.open(name);
                let effects = stage.follower.skimmed(stage.ino(name));
                stage.does(effects);
            }
            prop_assert!(stage.ahead.len() <= 20);
            let booked: usize = stage.follower.layers.iter().map(|l| l.ahead.len()).sum();
            prop_assert_eq!(booked, stage.ahead.len());
        }
        stage.ticks(Duration::from_secs(600));
        prop_assert!(stage.ahead.is_empty());
    }
}
