//! Numbered names: which digits of a file's name are its frame. Pure.
//!
//! Owns: what a frame number looks like and which one of several digit runs it is. Refuses to know: folders, opens. The
//! last run of digits before the extension is the frame unless two names that were opened show another one to change;
//! a run marked as a version (`v002`) never is.

use std::fmt;
use std::ops::Range;

/// More digits than this are a hash or a date with a time, not a frame.
const MAX_DIGITS: usize = 10;

/// What the names of a sequence have in common: all but the frame.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pattern {
    before: Box<[u8]>,
    after: Box<[u8]>,
}

/// A frame number as it is written in a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Digits {
    /// Its value.
    pub(crate) value: u64,
    /// How many digits it is written with.
    pub(crate) width: usize,
    /// It begins with a zero that only fills it up.
    padded: bool,
}

/// One way to read a name as the frame of a sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Numbered {
    /// The sequence.
    pub(crate) pattern: Pattern,
    /// The frame.
    pub(crate) digits: Digits,
}

impl Digits {
    fn of(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > MAX_DIGITS || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Self {
            value: text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')),
            width: text.len(),
            padded: text.len() > 1 && text[0] == b'0',
        })
    }

    /// Says whether a number written as `other` can be of the same sequence: `0999` and `1000` can, `0999` and `01000`
    /// can't, `999` and `1000` can.
    pub(crate) fn goes_with(self, other: Self) -> bool {
        match (self.padded, other.padded) {
            (true, true) => self.width == other.width,
            (true, false) => other.width >= self.width,
            (false, true) => self.width >= other.width,
            (false, false) => true,
        }
    }
}

impl Pattern {
    fn new(name: &[u8], run: &Range<usize>) -> Self {
        Self {
            before: name[..run.start].into(),
            after: name[run.end..].into(),
        }
    }

    /// Returns the frame of a name of this sequence.
    pub(crate) fn frame_of(&self, name: &[u8]) -> Option<Digits> {
        let rest = name.strip_prefix(&*self.before)?;
        Digits::of(rest.strip_suffix(&*self.after)?)
    }

    /// Returns the pattern as people write it, as in `comp.####.exr`.
    pub(crate) fn shown(&self, width: usize) -> impl fmt::Display {
        format!(
            "{}{}{}",
            String::from_utf8_lossy(&self.before),
            "#".repeat(width),
            String::from_utf8_lossy(&self.after)
        )
    }
}

/// Returns the runs of digits that may be a frame, in the order of the name.
fn runs(name: &[u8]) -> Vec<Range<usize>> {
    let dot = name.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0);
    // `mp4`, `r3d`: digits of the extension are no frame; `render.1001` has no extension.
    let end = match dot {
        Some(dot) if !name[dot + 1..].iter().all(u8::is_ascii_digit) => dot,
        _ => name.len(),
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < end {
        if !name[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let length = name[at..end].iter().take_while(|b| b.is_ascii_digit()).count();
        let run = at..at + length;
        at = run.end;
        if length <= MAX_DIGITS && !is_version(name, run.start) {
            found.push(run);
        }
    }
    found
}

/// Says whether the digits at `at` are marked as a version: `v002`, with nothing before the `v` that it would be part of.
fn is_version(name: &[u8], at: usize) -> bool {
    let marked = at >= 1 && matches!(name[at - 1], b'v' | b'V');
    marked && (at == 1 || !name[at - 2].is_ascii_alphanumeric())
}

fn numbered(name: &[u8], run: &Range<usize>) -> Option<Numbered> {
    Some(Numbered {
        pattern: Pattern::new(name, run),
        digits: Digits::of(&name[run.clone()])?,
    })
}

/// Returns the ways to read a name as a frame, the likeliest first; none for a name without a frame.
pub(crate) fn readings(name: &[u8]) -> Vec<Numbered> {
    let runs = runs(name);
    runs.iter().rev().filter_map(|run| numbered(name, run)).collect()
}

/// Returns `other` and `name` read by the one run of digits in which they differ, if all else is the same.
pub(crate) fn changed(other: &[u8], name: &[u8]) -> Option<(Digits, Numbered)> {
    readings(name).into_iter().find_map(|reading| {
        let before = reading.pattern.frame_of(other)?;
        (before.value != reading.digits.value && before.goes_with(reading.digits)).then_some((before, reading))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The likeliest reading, as people write it, and the frame.
    fn read(name: &str) -> Option<(String, u64)> {
        let first = readings(name.as_bytes()).into_iter().next()?;
        Some((first.pattern.shown(first.digits.width).to_string(), first.digits.value))
    }

    #[test]
    fn the_last_run_before_the_extension_is_the_frame() {
        for (name, pattern, frame) in [
            ("sh010_v002.1001.exr", "sh010_v002.####.exr", 1001),
            ("comp.0001.exr", "comp.####.exr", 1),
            ("comp_000120.dpx", "comp_######.dpx", 120),
            ("tex_diffuse.1011.tx", "tex_diffuse.####.tx", 1011),
            ("render.1001", "render.####", 1001),
            ("plate_l.1001.exr", "plate_l.####.exr", 1001),
            ("clip_2048x1152.7.jpg", "clip_2048x1152.#.jpg", 7),
            ("1001.exr", "####.exr", 1001),
            ("dev001.exr", "dev###.exr", 1),
            (".1001", ".####", 1001),
        ] {
            assert_eq!(read(name), Some((pattern.to_owned(), frame)), "{name}");
        }
    }

    #[test]
    fn versions_extensions_and_hashes_are_no_frames() {
        for name in [
            "comp_v001.nk",
            "V003.nk",
            "movie.mp4",
            "a.r3d",
            "notes.txt",
            "",
            "f_20261126030117.exr",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
        // The version changed and the frame did not: not two frames of one sequence.
        assert_eq!(changed(b"sh_v002.1001.exr", b"sh_v003.1001.exr"), None);
    }

    #[test]
    fn the_run_that_changes_is_the_frame() {
        let (before, now) = changed(b"plate.1001_1152.exr", b"plate.1002_1152.exr").unwrap();
        assert_eq!((before.value, now.digits.value), (1001, 1002));
        assert_eq!(now.pattern.shown(4).to_string(), "plate.####_1152.exr");
        assert_eq!(changed(b"a.1.exr", b"b.2.exr"), None);
        assert_eq!(changed(b"a1_b1.exr", b"a2_b2.exr"), None, "two runs at once");
        assert_eq!(changed(b"a.1.exr", b"a.1.exr"), None);
    }

    #[test]
    fn padding_tells_sequences_apart() {
        let digits = |text: &str| Digits::of(text.as_bytes()).unwrap();
        for (a, b, same) in [
            ("0999", "1000", true),
            ("999", "1000", true),
            ("0001", "10000", true),
            ("0001", "001", false),
            ("0001", "1", false),
            ("0", "1", true),
        ] {
            assert_eq!(digits(a).goes_with(digits(b)), same, "{a} {b}");
            assert_eq!(digits(b).goes_with(digits(a)), same, "{b} {a}");
        }
    }

    proptest! {
        /// Whatever is read from a name puts it together again.
        #[test]
        fn a_reading_is_a_part_of_its_name(name in "[a-zA-Z0-9._]{0,40}") {
            for reading in readings(name.as_bytes()) {
                let text = format!("{:0w$}", reading.digits.value, w = reading.digits.width);
                let again = [&*reading.pattern.before, text.as_bytes(), &*reading.pattern.after].concat();
                prop_assert_eq!(&again, name.as_bytes());
                prop_assert_eq!(reading.pattern.frame_of(name.as_bytes()), Some(reading.digits));
            }
        }

        /// Frames of one padded sequence are read as one pattern, whatever stands before and after.
        #[test]
        fn frames_of_a_sequence_share_a_pattern(
            stem in "[a-z_]{1,10}(v[0-9]{3})?[._]", ext in "\\.(exr|dpx|tx|r3d)", width in 1_usize..8, a in 0_u64..99_999, b in 0_u64..99_999,
        ) {
            prop_assume!(a != b);
            let name = |n: u64| format!("{stem}{n:0width$}{ext}");
            let (first, second) = (readings(name(a).as_bytes()), readings(name(b).as_bytes()));
            prop_assert_eq!(&first[0].pattern, &second[0].pattern);
            prop_assert!(first[0].digits.goes_with(second[0].digits));
            let (before, now) = changed(name(a).as_bytes(), name(b).as_bytes()).unwrap();
            prop_assert_eq!((before.value, now.digits.value), (a, b));
        }
    }
}
