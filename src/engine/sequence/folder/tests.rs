use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::follow::{Bounds, Follower, Found, Sought, Spot};
use super::*;

const SIZE: u64 = 8 << 10;
const BOUNDS: Bounds = Bounds {
    window: Duration::from_secs(2),
    bytes: 256 << 20,
    small: 1 << 20,
};
const STEP: Duration = Duration::from_millis(5);

/// A folder whose files are opened, and what a follower asked for of it.
struct Stage {
    follower: Follower,
    /// In the order of the listing.
    files: Vec<(String, Ino, u64)>,
    at: Instant,
    resident: BTreeSet<Ino>,
    /// What is wanted ahead now, and all that ever was, in order.
    ahead: BTreeMap<Ino, LayerId>,
    asked: Vec<Ino>,
    lists: usize,
    /// What is asked for is here when it is opened.
    lands: bool,
    reader: u32,
}

impl Stage {
    fn of(names: impl IntoIterator<Item = String>) -> Self {
        let files = names.into_iter().zip(100..).map(|(name, ino)| (name, Ino(ino), SIZE));
        Self {
            follower: Follower::new(BOUNDS),
            files: files.collect(),
            at: Instant::now(),
            resident: BTreeSet::new(),
            ahead: BTreeMap::new(),
            asked: Vec::new(),
            lists: 0,
            lands: false,
            reader: 1,
        }
    }

    fn does(&mut self, effects: Vec<Effect>) {
        let mut todo: VecDeque<_> = effects.into();
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::List(id) => {
                    let found = match self.follower.describe(id).unwrap() {
                        Sought::Frames(_, pattern, anchor) => {
                            let frames = self.files.iter();
                            let frames =
                                frames.filter_map(|(name, ino, _)| Some((pattern.frame_of(name.as_bytes())?, *ino)));
                            Found::Frames(super::super::play::Frames::new(frames, anchor, 1000))
                        }
                        Sought::Files(_) => {
                            self.lists += 1;
                            let small = self.files.iter().filter(|(.., size)| *size <= BOUNDS.small);
                            let small: Vec<_> = small.map(|(name, ino, size)| (of(name), *ino, *size)).collect();
                            Found::Files(Files::new(&small))
                        }
                    };
                    todo.extend(self.follower.listed(id, found, self.at));
                }
                Effect::Whole(..) => {}
                Effect::Ahead(id, ino) if self.resident.contains(&ino) => self.follower.costs_nothing(id, ino),
                Effect::Ahead(id, ino) => {
                    self.asked.push(ino);
                    assert!(self.ahead.insert(ino, id).is_none(), "asked for twice");
                }
                Effect::Drop(id, ino) => {
                    if self.ahead.get(&ino) == Some(&id) {
                        self.ahead.remove(&ino);
                    }
                }
            }
        }
    }

    fn open(&mut self, name: &str) -> Ino {
        let (_, ino, size) = *self.files.iter().find(|(of, ..)| of == name).unwrap();
        let came = self.ahead.remove(&ino).is_some();
        let open = Open {
            ino,
            size,
            reader: self.reader,
            resident: self.resident.contains(&ino) || came && self.lands,
            at: self.at,
        };
        let spot = Spot {
            project: Ino(2),
            folder: Ino(3),
            name: of(name),
        };
        let next = self.follower.opened_next(open);
        let effects = next.unwrap_or_else(|| self.follower.opened(&spot, open));
        self.does(effects);
        ino
    }

    fn reads<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            self.at += STEP;
            let ino = self.open(name);
            let effects = self.follower.read(ino);
            self.does(effects);
        }
    }

    fn ticks(&mut self, after: Duration) {
        self.at += after;
        let effects = self.follower.tick(self.at);
        self.does(effects);
    }

    /// Names of what is wanted ahead, in order of the listing.
    fn ahead(&self) -> Vec<&str> {
        let wanted = self.files.iter().filter(|(_, ino, _)| self.ahead.contains_key(ino));
        wanted.map(|(name, ..)| name.as_str()).collect()
    }
}

fn of(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

/// Names that have no frame number, in the order of names.
fn names(count: usize, extension: &str) -> Vec<String> {
    let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
    let name = |n: usize| format!("{}{}{}.{extension}", letter(n / 676), letter(n / 26), letter(n));
    (0..count).map(name).collect()
}

/// A permutation of places without a beginning of order.
fn scattered(count: usize) -> Vec<usize> {
    (0..count).map(|n| n * 37 % count).collect()
}

#[test]
fn the_third_file_in_order_asks_for_four_and_late_ones_for_more() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names.clone());
    stage.reads(&names[..2]);
    assert_eq!((stage.lists, stage.asked.len()), (0, 0));
    stage.reads(&names[2..3]);
    assert_eq!(
        (stage.lists, stage.ahead()),
        (1, vec!["aad.jpg", "aae.jpg", "aaf.jpg", "aag.jpg"])
    );
    for read in 3..200 {
        stage.reads(&names[read..=read]);
        assert!(stage.ahead.len() <= MOST.min(read + 1).max(FLOOR), "{read}");
    }
    assert_eq!((stage.lists, stage.ahead.len()), (1, MOST));
    stage.reads(&names[200..]);
    assert_eq!((stage.asked.len(), stage.ahead.len()), (297, 0), "each once");
}

#[test]
fn files_that_are_in_time_need_no_more_of_them() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names.clone());
    stage.lands = true;
    stage.reads(&names[..100]);
    assert_eq!(stage.ahead.len(), FLOOR);
}

#[test]
fn the_order_of_the_listing_is_an_order_as_well() {
    let sorted = names(301, "jpg");
    let listed: Vec<_> = scattered(301).into_iter().map(|at| sorted[at].clone()).collect();
    let mut stage = Stage::of(listed.clone());
    stage.reads(&listed[..50]);
    assert_eq!(stage.ahead().len(), 50 - 3 + 3);
    assert_eq!(stage.ahead()[0], listed[50]);
    // Another reader, by name.
    stage.ticks(FORGET);
    assert!(stage.ahead.is_empty());
    stage.reads(&sorted[..3]);
    let next: BTreeSet<_> = sorted[3..]
        .iter()
        .filter(|n| !listed[..50].contains(n))
        .take(2)
        .collect();
    assert!(
        next.iter().all(|name| stage.ahead().contains(&name.as_str())),
        "{:?}",
        stage.ahead()
    );
}

#[test]
fn no_order_gets_nothing() {
    let names = names(301, "jpg");
    let mut stage = Stage::of(names.clone());
    for at in scattered(301) {
        stage.reads([&names[at]]);
    }
    assert_eq!(stage.asked, []);
    assert!(stage.lists <= 2);
}

#[test]
fn a_jump_and_silence_take_all_of_it_back() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names.clone());
    stage.reads(&names[..30]);
    assert!(!stage.ahead.is_empty());
    stage.reads(&names[200..201]);
    assert_eq!(stage.ahead(), [""; 0]);
    stage.reads(&names[201..230]);
    assert!(!stage.ahead.is_empty());
    let deadline = stage.follower.next_tick().unwrap() - stage.at;
    stage.ticks(deadline - Duration::from_millis(1));
    assert!(!stage.ahead.is_empty() && deadline <= Duration::from_millis(500));
    stage.ticks(Duration::from_millis(1));
    assert_eq!(stage.ahead(), [""; 0]);
    assert_eq!(stage.follower.next_tick(), None);
    stage.reads(&names[230..231]);
    assert_eq!(stage.ahead().len(), FLOOR, "going on needs no new proof");
}

#[test]
fn files_of_other_kinds_and_large_ones_are_left_out() {
    let (jpg, xml) = (names(200, "jpg"), names(200, "xml"));
    let mut all: Vec<_> = jpg.iter().chain(&xml).cloned().collect();
    all.sort();
    let mut stage = Stage::of(all);
    for (_, _, size) in stage.files.iter_mut().step_by(8) {
        *size = 4 << 20;
    }
    let small: Vec<_> = jpg
        .iter()
        .enumerate()
        .filter_map(|(at, name)| (at % 4 != 0).then_some(name))
        .collect();
    stage.reads(small[..60].iter().copied());
    let ahead = stage.ahead();
    assert!(
        ahead.len() > 20 && ahead.iter().all(|name| name.ends_with("jpg")),
        "{ahead:?}"
    );
    assert!(ahead.iter().all(|name| small.iter().any(|small| small == name)));
}

#[test]
fn files_that_are_here_are_passed_over_and_a_folder_that_is_here_costs_no_list() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names.clone());
    stage.resident = stage.files.iter().map(|(_, ino, _)| *ino).collect();
    stage.reads(&names);
    assert_eq!((stage.lists, stage.asked.len()), (0, 0));
    // A copy that goes on where one was broken off leaves out what it has.
    let mut stage = Stage::of(names.clone());
    stage.reads(&names[..20]);
    stage.reads(&names[32..40]);
    let ahead = stage.ahead();
    assert!(ahead.contains(&names[40].as_str()) && ahead.len() >= 20, "{ahead:?}");
    stage.reads(&names[40..60]);
    assert!(
        stage.ahead().iter().all(|name| *name > names[59].as_str()),
        "what was left out is given up"
    );
}

#[test]
fn whoever_only_looks_into_files_gets_none_ahead() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names.clone());
    for name in &names {
        stage.at += STEP;
        let ino = stage.open(name);
        let effects = stage.follower.skimmed(ino);
        stage.does(effects);
    }
    assert_eq!((stage.lists, stage.asked.len()), (0, 0));
}

#[test]
fn two_readers_do_not_disturb_each_other_and_several_threads_are_one() {
    let names = names(600, "jpg");
    let mut stage = Stage::of(names.clone());
    stage.reads(&names[..30]);
    let before = stage.ahead.clone();
    stage.reader = 2;
    stage.reads(&names[400..401]);
    assert_eq!(stage.ahead, before);
    stage.reads(&names[401..404]);
    assert!(stage.ahead().contains(&names[404].as_str()));
    let mut stage = Stage::of(names.clone());
    stage.reads(&names[..4]);
    for four in names[4..200].chunks(4) {
        stage.reader += 1;
        stage.reads([&four[1], &four[0], &four[3], &four[2]]);
    }
    assert!(stage.ahead.len() > 40, "{}", stage.ahead.len());
    assert_eq!(stage.asked.len(), 200 - 3 + MOST, "none in vain");
}

#[test]
fn a_sequence_that_is_played_gets_no_more_than_its_frames_ahead() {
    let names: Vec<_> = (1001..=1300).map(|frame| format!("proxy.{frame}.jpg")).collect();
    let mut stage = Stage::of(names.clone());
    stage.lands = true;
    for name in &names[..40] {
        stage.at += Duration::from_millis(40);
        stage.reads([name]);
    }
    assert!((4..=5).contains(&stage.ahead.len()), "{:?}", stage.ahead());
}

#[test]
fn a_folder_that_changes_is_listed_again_but_not_on_each_open() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names[..50].to_vec());
    stage.reads(&names[..40]);
    stage.files.extend(
        names[50..]
            .iter()
            .cloned()
            .zip((900..).map(Ino))
            .map(|(n, i)| (n, i, SIZE)),
    );
    stage.follower.changed(Ino(3));
    stage.reads(&names[40..45]);
    assert_eq!(stage.lists, 1);
    stage.at += RELIST;
    stage.reads(&names[45..60]);
    assert_eq!(stage.lists, 2);
    assert!(stage.ahead().contains(&names[60].as_str()), "{:?}", stage.ahead());
}

#[test]
fn bytes_ahead_are_bounded() {
    let names = names(300, "jpg");
    let mut stage = Stage::of(names.clone());
    for (_, _, size) in &mut stage.files {
        *size = 1 << 20;
    }
    stage.reads(&names[..3]);
    assert_eq!(stage.ahead.len(), 3, "as many as were read");
    stage.reads(&names[3..100]);
    assert_eq!(stage.ahead.len() as u64, MOST_BYTES >> 20);
}

proptest! {
    /// Whatever is opened, read, left and waited for: the bounds hold, nothing is asked for twice, and silence ends it all.
    #[test]
    fn anything_goes(ops in prop::collection::vec((0_usize..300, 1_usize..30, 0_u64..700, 1_u32..4, any::<bool>()), 1..60)) {
        let names = names(330, "jpg");
        let mut stage = Stage::of(names.clone());
        for (from, count, wait, reader, reads) in ops {
            stage.ticks(Duration::from_millis(wait));
            stage.reader = reader;
            if reads {
                stage.reads(&names[from..from + count]);
            } else {
                let ino = stage.open(&names[from]);
                let effects = stage.follower.skimmed(ino);
                stage.does(effects);
            }
            prop_assert!(stage.ahead.len() <= 3 * (MOST + REACH));
        }
        stage.ticks(Duration::from_secs(600));
        prop_assert!(stage.ahead.is_empty());
    }
}
