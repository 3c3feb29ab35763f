//! Frame numbers in names, and sets of frames, as people write them.
//!
//! Owns: `name.####.exr`, `name.%04d.exr`, `name.$F4.exr`, and `1001-1100x2,1200`. Refuses to know: what exists. Invariant: a
//! set is never spelt out longer than [`FRAMES_MAX`].

use std::fmt;

/// Frames of one set at most.
pub const FRAMES_MAX: u64 = 1_000_000;

/// A name with a place for the frame number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FramePattern {
    before: String,
    after: String,
    /// The fewest digits.
    width: usize,
}

/// Some frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameSet(Vec<Range>);

/// First, last, step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    first: u64,
    last: u64,
    step: u64,
}

/// Why a text is no set of frames.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not like `1001-1100x2,1200`.
    #[error("{0:?} is no range of frames; write it as in 1001-1100, 1001-1100x2 or 1001,1005-1010")]
    NotFrames(String),
    /// It goes down.
    #[error("the range {0} ends before it begins")]
    Backwards(String),
    /// Too long.
    #[error("{0} are more than {FRAMES_MAX} frames")]
    TooMany(String),
}

impl FramePattern {
    /// Reads a name; `None` if there is no place for a frame number in it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let new = |at: usize, len: usize, width: usize| Self {
            before: name[..at].to_owned(),
            after: name[at + len..].to_owned(),
            width,
        };
        if let Some(at) = name.rfind('#') {
            let begin = name[..at].trim_end_matches('#').len();
            return Some(new(begin, at + 1 - begin, at + 1 - begin));
        }
        for (at, _) in name.rmatch_indices('%') {
            let digits: String = name[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            let fits = digits.is_empty() || digits.starts_with('0');
            let after = name[at + 1 + digits.len()..].strip_prefix('d');
            // `100%done` has none.
            if fits && after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric())) {
                return Some(new(at, digits.len() + 2, digits.parse().unwrap_or(1).max(1)));
            }
        }
        for (at, _) in name.rmatch_indices("$F") {
            let digits: String = name[at + 2..].chars().take_while(char::is_ascii_digit).collect();
            let follows = name[at + 2 + digits.len()..].chars().next();
            if !follows.is_some_and(|c| c.is_ascii_alphanumeric()) {
                return Some(new(at, digits.len() + 2, digits.parse().unwrap_or(1).max(1)));
            }
        }
        None
    }

    /// Returns the frame of a name of this pattern.
    #[must_use]
    pub fn frame_of(&self, name: &str) -> Option<u64> {
        let digits = name.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        let is_number = !digits.is_empty() && digits.len() <= 18 && digits.bytes().all(|b| b.is_ascii_digit());
        // `0999` has the width of `####`, `00999` is of another sequence.
        let fits = digits.len() == self.width || digits.len() > self.width && !digits.starts_with('0');
        (is_number && fits).then(|| digits.parse().ok())?
    }

    /// Returns the name of a frame.
    #[must_use]
    pub fn name_of(&self, frame: u64) -> String {
        format!("{}{frame:0width$}{}", self.before, self.after, width = self.width)
    }
}

impl FrameSet {
    /// Reads a set as people write it: ranges and single frames with commas between them; `x2` is every other one.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let not = || FrameError::NotFrames(text.to_owned());
        let number = |text: &str| -> Result<u64, FrameError> {
            let is_number = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten().ok_or_else(not)
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let (range, step) = part.split_once('x').unwrap_or((part, "1"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let range = Range {
                first: number(first)?,
                last: number(last)?,
                step: number(step)?,
            };
            if range.step == 0 {
                return Err(not());
            }
            if range.last < range.first {
                return Err(FrameError::Backwards(part.to_owned()));
            }
            ranges.push(range);
        }
        let count: u64 = ranges
            .iter()
            .map(|r| ((r.last - r.first) / r.step).saturating_add(1))
            .fold(0, u64::saturating_add);
        if count > FRAMES_MAX {
            return Err(FrameError::TooMany(text.to_owned()));
        }
        Ok(Self(ranges))
    }

    /// Says whether a text has the looks of a set: nothing but digits, `-`, `,` and `x`, and a digit first.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ',' | 'x'))
    }

    /// Says whether a frame is in it.
    #[must_use]
    pub fn contains(&self, frame: u64) -> bool {
        let has = |r: &Range| (r.first..=r.last).contains(&frame) && (frame - r.first).is_multiple_of(r.step);
        self.0.iter().any(has)
    }

    /// Returns its frames, each once, in their order.
    #[must_use]
    pub fn frames(&self) -> std::collections::BTreeSet<u64> {
        let of = |r: &Range| {
            let (last, step) = (r.last, r.step);
            std::iter::successors(Some(r.first), move |at| {
                at.checked_add(step).filter(|next| *next <= last)
            })
        };
        self.0.iter().flat_map(of).collect()
    }
}

impl fmt::Display for FrameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", range.first)?;
            if range.last > range.first {
                write!(f, "-{}", range.last)?;
            }
            if range.step > 1 {
                write!(f, "x{}", range.step)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_has_one_place_for_its_frame() {
        for (pattern, name, frame) in [
            ("plate.####.exr", "plate.1001.exr", Some(1001)),
            ("plate.####.exr", "plate.0001.exr", Some(1)),
            ("plate.####.exr", "plate.10010.exr", Some(10010)),
            ("plate.####.exr", "plate.01001.exr", None),
            ("plate.####.exr", "plate.101.exr", None),
            ("plate.%04d.exr", "plate.1001.exr", Some(1001)),
            ("plate.%d.exr", "plate.7.exr", Some(7)),
            ("plate.%d.exr", "plate.1001.exr", Some(1001)),
            ("plate.$F4.exr", "plate.1001.exr", Some(1001)),
            ("plate_v002.####.exr", "plate_v003.1001.exr", None),
            ("plate.####.exr", "plate.abcd.exr", None),
        ] {
            let parsed = FramePattern::parse(pattern).unwrap();
            assert_eq!(parsed.frame_of(name), frame, "{pattern} {name}");
            if let Some(frame) = frame {
                assert_eq!(parsed.name_of(frame), name);
            }
        }
        for none in ["plate.1001.exr", "100%done", "plate.%4d.exr", "cost$Final"] {
            assert_eq!(FramePattern::parse(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_set_of_frames_is_refused() {
        for text in [
            "",
            "a",
            "1-",
            "-1",
            "1--2",
            "1x0",
            "1001-1100x",
            "1,",
            "99999999999999999999",
        ] {
            assert!(matches!(FrameSet::parse(text), Err(FrameError::NotFrames(_))), "{text}");
        }
        assert!(matches!(FrameSet::parse("9-1"), Err(FrameError::Backwards(_))));
        assert!(matches!(FrameSet::parse("1-2000000"), Err(FrameError::TooMany(_))));
        assert!(
            FrameSet::looks_like("1001-1100x2,1200") && !FrameSet::looks_like("x2") && !FrameSet::looks_like("sh10")
        );
        assert_eq!(
            FrameSet::parse("1-7x3,5")
                .unwrap()
                .frames()
                .into_iter()
                .collect::<Vec<_>>(),
            [1, 4, 5, 7]
        );
    }

    proptest! {
        #[test]
        fn a_set_comes_back_as_it_was(ranges in prop::collection::vec((0u64..5000, 0u64..300, 1u64..9), 1..6)) {
            let set = FrameSet(ranges.into_iter().map(|(first, more, step)| {
                // A single frame has no step of its own.
                Range { first, last: first + more, step: if more == 0 { 1 } else { step } }
            }).collect());
            let back = FrameSet::parse(&set.to_string()).unwrap();
            prop_assert_eq!(&back, &set);
            prop_assert!(set.frames().iter().all(|frame| set.contains(*frame)));
            prop_assert_eq!((0..6000).filter(|frame| set.contains(*frame)).count(), set.frames().len());
        }
    }
}
