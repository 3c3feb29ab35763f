use proptest::prelude::*;

use super::super::names::readings;
use super::*;

const FRAME: Duration = Duration::from_millis(42);

fn digits(value: u64) -> Digits {
    readings(format!("a.{value:04}.exr").as_bytes())[0].digits
}

fn frames(values: impl IntoIterator<Item = u64>) -> Frames {
    let found = values.into_iter().map(|value| (digits(value), Ino(value + 10)));
    Frames::new(found, digits(1001), 100_000)
}

/// A reader that opens a frame each [`FRAME`].
struct Reader {
    play: Play,
    frames: Frames,
    at: Instant,
}

impl Reader {
    fn of(values: impl IntoIterator<Item = u64>) -> Self {
        Self {
            play: Play::default(),
            frames: frames(values),
            at: Instant::now(),
        }
    }

    fn opens(&mut self, values: impl IntoIterator<Item = u64>) -> Noted {
        let mut noted = Noted::First;
        for value in values {
            self.at += FRAME;
            noted = self.play.opened(&self.frames, value, self.at);
        }
        noted
    }

    fn ahead(&self, most: usize) -> Vec<u64> {
        self.play.ahead(&self.frames, most)
    }
}

#[test]
fn the_second_open_is_a_supposition_and_the_third_makes_sure() {
    let mut reader = Reader::of(1001..=1100);
    assert_eq!(reader.opens([1010]), Noted::First);
    assert!(reader.ahead(5).is_empty());
    assert_eq!(reader.opens([1011]), Noted::Learning);
    assert_eq!(reader.play.confidence(), Confidence::Tentative);
    assert_eq!(reader.ahead(2), [1012, 1013]);
    assert_eq!(reader.opens([1012]), Noted::Predicted(1));
    assert_eq!(reader.play.confidence(), Confidence::Confident);
    assert_eq!(reader.ahead(3), [1013, 1014, 1015]);
    assert_eq!(reader.play.interval(), Some(FRAME));
    assert_eq!(reader.opens([1012]), Noted::Repeat);
    assert_eq!(reader.ahead(1), [1013]);
}

#[test]
fn holes_and_twos_are_steps_like_any_other() {
    let mut holes = Reader::of([1001, 1002, 1003, 1007, 1008, 1020]);
    holes.opens([1001, 1002, 1003]);
    assert_eq!(holes.ahead(9), [1007, 1008, 1020]);
    let mut rendered_on_twos = Reader::of((1001..1100).step_by(2));
    rendered_on_twos.opens([1001, 1003]);
    assert_eq!(rendered_on_twos.ahead(2), [1005, 1007]);
    let mut read_on_twos = Reader::of(1001..1100);
    read_on_twos.opens([1001, 1003]);
    assert!(
        read_on_twos.ahead(2).is_empty(),
        "an odd step is supposed one open later"
    );
    read_on_twos.opens([1005]);
    assert_eq!(read_on_twos.ahead(2), [1007, 1009]);
    let mut tiles = Reader::of([1001, 1002, 1003, 1011, 1012, 1021]);
    tiles.opens([1002, 1003, 1011]);
    assert_eq!(tiles.ahead(2), [1012, 1021]);
}

#[test]
fn reversed_and_back_and_forth() {
    let mut reader = Reader::of(1001..=1100);
    reader.opens((1040..=1050).rev());
    assert_eq!(reader.ahead(2), [1039, 1038]);
    assert_eq!(reader.opens([1041]), Noted::Reversed);
    assert_eq!(reader.ahead(2), [1042, 1043]);
    assert_eq!(reader.opens(1042..=1050), Noted::Predicted(1));
    assert_eq!(reader.play.confidence(), Confidence::Confident);
    assert_eq!(reader.opens([1049]), Noted::Reversed);
    assert_eq!(reader.ahead(1), [1048]);
}

#[test]
fn loops_are_learned_at_their_first_turn() {
    // From the last frame there is to the first.
    let mut whole = Reader::of(1001..=1020);
    whole.opens(1010..=1020);
    assert!(whole.ahead(3).is_empty());
    assert_eq!(whole.opens([1001]), Noted::Wrapped);
    assert_eq!(whole.ahead(2), [1002, 1003]);
    whole.opens(1002..=1019);
    assert_eq!(whole.ahead(4), [1020, 1001, 1002, 1003]);
    // From the last that is played to the first that was.
    let mut part = Reader::of(1001..=1100);
    part.opens(1030..=1040);
    assert_eq!(part.opens([1030]), Noted::Wrapped);
    part.opens(1031..=1038);
    assert_eq!(part.ahead(5), [1039, 1040, 1030, 1031, 1032]);
    assert_eq!(part.opens([1039, 1040, 1030]), Noted::Predicted(1));
    // And past its end again.
    assert_eq!(part.opens(1031..=1041), Noted::Predicted(1));
    assert_eq!(part.ahead(2), [1042, 1043]);
    let mut backwards = Reader::of(1001..=1100);
    backwards.opens((1001..=1010).rev());
    assert_eq!(backwards.opens([1100]), Noted::Wrapped);
    assert_eq!(backwards.ahead(2), [1099, 1098]);
}

#[test]
fn a_jump_predicts_nothing_until_it_goes_on_from_there() {
    let mut reader = Reader::of(1001..=1400);
    reader.opens(1001..=1030);
    assert_eq!(reader.opens([1200]), Noted::Jump);
    assert!(reader.ahead(5).is_empty());
    reader.opens([1201]);
    assert_eq!(reader.ahead(1), [1202]);
}

#[test]
fn frames_left_out_and_frames_out_of_order_are_no_jumps() {
    let mut reader = Reader::of(1001..=1100);
    reader.opens(1001..=1010);
    assert_eq!(reader.opens([1013]), Noted::Predicted(3));
    assert_eq!(reader.opens([1011]), Noted::Behind);
    assert_eq!(reader.opens([1012]), Noted::Behind);
    assert_eq!(reader.ahead(1), [1014]);
    let mut later = Reader::of(1001..=1100);
    later.opens(1020..=1030);
    assert_eq!(later.opens([1017]), Noted::Jump, "from before it began");
}

#[test]
fn suppositions_that_fail_make_the_next_one_harder() {
    let mut reader = Reader::of(1001..=1100);
    reader.opens([1001, 1002]);
    assert_eq!(reader.opens([1050]), Noted::Jump);
    reader.opens([1051]);
    assert_eq!(reader.play.confidence(), Confidence::None);
    reader.opens([1052]);
    assert_eq!(reader.play.confidence(), Confidence::Tentative);
    reader.opens(1053..=1070);
    reader.opens([1020, 1021]);
    assert_eq!(reader.play.confidence(), Confidence::Tentative, "play wins trust back");
}

#[test]
fn a_list_that_grows_keeps_the_run() {
    let mut reader = Reader::of(1001..=1010);
    reader.opens(1005..=1010);
    assert!(reader.ahead(2).is_empty());
    assert_eq!(reader.opens([1011]), Noted::Unlisted);
    reader.frames = frames(1..=1020);
    assert_eq!(reader.opens([1011]), Noted::Predicted(1));
    assert_eq!(reader.ahead(2), [1012, 1013]);
}

#[test]
fn a_list_too_long_keeps_what_is_near() {
    let found = (0..10_000).map(|value| (digits(value), Ino(value)));
    let frames = Frames::new(found, digits(9_990), 100);
    assert_eq!((frames.len(), frames.has(9_999), frames.has(9_900)), (100, true, true));
}

proptest! {
    /// Opened in random order, a sequence costs less than one frame in twelve: only two neighbours in a row suppose anything,
    /// each failure makes the next supposition rarer.
    #[test]
    fn random_order_predicts_next_to_nothing(order in Just((0..200_u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut reader = Reader::of(1001..=1200);
        let mut wanted = std::collections::BTreeSet::new();
        for value in order {
            reader.opens([1001 + value]);
            wanted.extend(reader.ahead(2));
        }
        prop_assert!(wanted.len() <= 16, "{} frames", wanted.len());
    }

    /// Whatever is opened, what is predicted exists, is not the frame where the reader is, and comes once.
    #[test]
    fn what_is_predicted_exists_and_comes_once(
        holes in prop::collection::btree_set(1001_u64..1060, 2..40), opens in prop::collection::vec(0_usize..60, 0..80), most in 0_usize..70,
    ) {
        let values: Vec<_> = holes.into_iter().collect();
        let mut reader = Reader::of(values.iter().copied());
        for at in opens {
            let value = values[at % values.len()];
            reader.opens([value]);
            let ahead = reader.ahead(most);
            let mut seen = std::collections::BTreeSet::new();
            prop_assert!(ahead.len() <= most);
            for frame in ahead {
                prop_assert!(reader.frames.has(frame) && Some(frame) != reader.play.last() && seen.insert(frame));
            }
        }
    }

    /// Any steady play is sure from its fourth open on, in either direction, and predicts the frames that come.
    #[test]
    fn steady_play_is_predicted(step in 1_usize..=16, backwards: bool, count in 5_usize..12) {
        let mut order: Vec<u64> = (1001..=1300).step_by(step).take(count + 1).collect();
        if backwards {
            order.reverse();
        }
        let mut reader = Reader::of(1001..=1300);
        let (next, opened) = order.split_last().unwrap();
        reader.opens(opened.iter().copied());
        prop_assert_eq!(reader.ahead(1), vec![*next]);
        prop_assert_eq!(reader.play.confidence(), Confidence::Confident);
    }
}
