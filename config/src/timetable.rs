//! A byte rate that may change with the hour and the day: `10M/s`, `08:00,10M 19:00,off`, `Mon-08:00,512k Sat-00:00,off`.
//!
//! Owns its spelling, reading and printing, and which rate is in force when. Knows no clock and no time zone: who asks says
//! which minute of the week it is. Invariant: what is printed reads back as the same timetable.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::units::ByteSize;

/// Minutes of a week.
const WEEK: u16 = 7 * DAY;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// As rclone's `--bwlimit` has them.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const OFF: &str = "off";

const HINT: &str = "write a rate (10M/s), or times and rates (08:00,10M 19:00,off; Mon-08:00,10M Sat-00:00,off)";

/// A minute of the week, counted from Monday, 00:00, of whoever looks at the clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MinuteOfWeek(u16);

impl MinuteOfWeek {
    /// Of a day (0 is Monday), an hour and a minute. What is out of range is taken as far as it goes.
    #[must_use]
    pub fn new(day: u8, hour: u8, minute: u8) -> Self {
        let (day, hour, minute) = (
            u16::from(day.min(6)),
            u16::from(hour.min(23)),
            u16::from(minute.min(59)),
        );
        Self(day * DAY + hour * 60 + minute)
    }
}

/// Most bytes a second, which may change at times of the week; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    /// Sorted; the last one goes on until the first of the next week.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    from: MinuteOfWeek,
    /// `None`: no limit.
    rate: Option<ByteSize>,
}

impl Timetable {
    /// One rate at all times; `None` is no limit.
    #[must_use]
    pub fn always(rate: Option<ByteSize>) -> Self {
        let from = MinuteOfWeek(0);
        Self {
            steps: vec![Step { from, rate }],
        }
    }

    /// Returns the rate that is in force, in bytes a second; `None` is no limit.
    #[must_use]
    pub fn at(&self, now: MinuteOfWeek) -> Option<ByteSize> {
        let begun = self.steps.iter().rev().find(|step| step.from <= now);
        begun.or(self.steps.last()).and_then(|step| step.rate)
    }

    /// Returns the minutes until another rate is in force; `None` if that never comes.
    #[must_use]
    pub fn changes_in(&self, now: MinuteOfWeek) -> Option<u16> {
        let current = self.at(now);
        let until = |step: &Step| (step.from.0 + WEEK - now.0 - 1) % WEEK + 1;
        self.steps.iter().filter(|step| step.rate != current).map(until).min()
    }

    /// Says whether nothing could pass at some time.
    #[must_use]
    pub fn lets_nothing_through(&self) -> bool {
        self.steps.iter().any(|step| step.rate == Some(ByteSize(0)))
    }
}

/// A text that is no timetable. Displays as `problem; hint`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {HINT}")]
pub struct TimetableError {
    problem: String,
}

impl FromStr for Timetable {
    type Err = TimetableError;

    fn from_str(text: &str) -> Result<Self, TimetableError> {
        let wrong = |problem: String| TimetableError { problem };
        if !text.contains(',') {
            let rate = parse_rate(text.trim()).ok_or_else(|| wrong(format!("`{text}` is not a rate")))?;
            return Ok(Self::always(rate));
        }
        let mut steps: Vec<Step> = Vec::new();
        for entry in text.split_whitespace() {
            let (time, rate) = entry
                .split_once(',')
                .ok_or_else(|| wrong(format!("`{entry}` is not a time and a rate")))?;
            let rate = parse_rate(rate).ok_or_else(|| wrong(format!("`{rate}` in `{entry}` is not a rate")))?;
            let times = parse_time(time).ok_or_else(|| wrong(format!("`{time}` in `{entry}` is not a time")))?;
            for from in times {
                if steps.iter().any(|step| step.from == from) {
                    return Err(wrong(format!("`{entry}` gives a second rate for the same time")));
                }
                steps.push(Step { from, rate });
            }
        }
        steps.sort_by_key(|step| step.from);
        Ok(Self { steps })
    }
}

/// `None`: not a rate; `Some(None)`: no limit.
fn parse_rate(text: &str) -> Option<Option<ByteSize>> {
    if text.eq_ignore_ascii_case(OFF) {
        return Some(None);
    }
    let size = text.strip_suffix("/s").unwrap_or(text);
    size.parse().ok().map(Some)
}

/// `08:00` of each day, `Mon-08:00` of one.
fn parse_time(text: &str) -> Option<Vec<MinuteOfWeek>> {
    let (days, time) = match text.split_once('-') {
        Some((day, time)) => {
            let day = DAYS.iter().position(|known| known.eq_ignore_ascii_case(day))?;
            (u16::try_from(day).ok()?..u16::try_from(day).ok()? + 1, time)
        }
        None => (0..7, text),
    };
    let (hour, minute) = time.split_once(':')?;
    let number = |digits: &str| -> Option<u16> {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute).filter(|_| minute.len() == 2)?);
    if hour > 23 || minute > 59 {
        return None;
    }
    Some(days.map(|day| MinuteOfWeek(day * DAY + hour * 60 + minute)).collect())
}

impl fmt::Display for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: Option<ByteSize>| rate.map_or_else(|| OFF.to_owned(), |rate| rate.to_string());
        if let [only] = self.steps.as_slice() {
            return f.write_str(&rate(only.rate));
        }
        // What is the same each day is written once.
        let daily: Vec<_> = self.steps.iter().filter(|step| step.from.0 < DAY).collect();
        let is_daily = self.steps.len() == 7 * daily.len()
            && self.steps.iter().enumerate().all(|(at, step)| {
                let first = daily[at % daily.len()];
                step.from.0 % DAY == first.from.0 && step.rate == first.rate
            });
        let shown = if is_daily { daily.len() } else { self.steps.len() };
        for (at, step) in self.steps.iter().take(shown).enumerate() {
            let (minute, gap) = (step.from.0 % DAY, if at > 0 { " " } else { "" });
            f.write_str(gap)?;
            if !is_daily {
                write!(f, "{}-", DAYS[usize::from(step.from.0 / DAY)])?;
            }
            write!(f, "{:02}:{:02},{}", minute / 60, minute % 60, rate(step.rate))?;
        }
        Ok(())
    }
}

impl Serialize for Timetable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timetable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimetableVisitor)
    }
}

/// Reads what a setting may leave out.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timetable>, D::Error> {
    deserializer.deserialize_any(TimetableVisitor).map(Some)
}

struct TimetableVisitor;

impl Visitor<'_> for TimetableVisitor {
    type Value = Timetable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a rate such as \"10M/s\", a timetable such as \"08:00,10M 19:00,off\", or a number of bytes a second",
        )
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Timetable, E> {
        let rate = u64::try_from(bytes).map_err(|_| E::custom(format!("`{bytes}` is not a rate; {HINT}")))?;
        Ok(Timetable::always(Some(ByteSize(rate))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timetable, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Timetable {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn at(day: u8, hour: u8, minute: u8) -> MinuteOfWeek {
        MinuteOfWeek::new(day, hour, minute)
    }

    const M: u64 = 1_000_000;

    #[test]
    fn one_rate_is_in_force_at_all_times() {
        for (text, rate) in [("10M/s", Some(10 * M)), ("10M", Some(10 * M)), ("off", None)] {
            let table = table(text);
            assert_eq!(table.at(at(3, 12, 0)), rate.map(ByteSize));
            assert_eq!(table.changes_in(at(3, 12, 0)), None);
        }
    }

    #[test]
    fn rates_change_with_the_hour_and_go_on_over_midnight_and_the_week() {
        let table = table("08:00,10M 12:30,20M/s 19:00,off");
        for (day, hour, minute, rate, until) in [
            (0, 0, 0, None, 8 * 60),
            (0, 7, 59, None, 1),
            (0, 8, 0, Some(10 * M), 4 * 60 + 30),
            (3, 12, 29, Some(10 * M), 1),
            (3, 12, 30, Some(20 * M), 6 * 60 + 30),
            (6, 23, 59, None, 8 * 60 + 1),
        ] {
            assert_eq!(
                table.at(at(day, hour, minute)),
                rate.map(ByteSize),
                "{day} {hour}:{minute}"
            );
            assert_eq!(
                table.changes_in(at(day, hour, minute)),
                Some(until),
                "{day} {hour}:{minute}"
            );
        }
    }

    #[test]
    fn days_may_differ() {
        let table = table("Mon-08:00,1M sat-00:00,off");
        assert_eq!(table.at(at(0, 7, 59)), None, "of the week before");
        assert_eq!(table.at(at(4, 23, 0)), Some(ByteSize(M)));
        assert_eq!(table.at(at(6, 12, 0)), None);
        assert_eq!(table.changes_in(at(5, 0, 0)), Some(2 * 24 * 60 + 8 * 60));
    }

    #[test]
    fn a_rate_that_stays_the_same_is_no_change() {
        let table = table("08:00,10M 12:00,10M 18:00,off");
        assert_eq!(table.changes_in(at(0, 9, 0)), Some(9 * 60));
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        for text in [
            "10MB",
            "off",
            "08:00,10MB 19:00,off",
            "Mon-08:00,512KiB Sat-00:00,off",
            "08:00,1MB",
        ] {
            assert_eq!(table(text).to_string(), text);
            assert_eq!(table(&table(text).to_string()), table(text));
        }
    }

    #[test]
    fn what_is_no_timetable_is_told_with_an_example() {
        for (text, said) in [
            ("fast", "`fast` is not a rate"),
            ("08:00", "`08:00` is not a rate"),
            ("08:00,", "`` in `08:00,` is not a rate"),
            ("25:00,1M", "`25:00` in `25:00,1M` is not a time"),
            ("8:5,1M", "`8:5` in `8:5,1M` is not a time"),
            ("Foo-08:00,1M", "`Foo-08:00` in `Foo-08:00,1M` is not a time"),
            ("08:00,1M off", "`off` is not a time and a rate"),
            ("08:00,1M Mon-08:00,2M", "a second rate for the same time"),
            ("+8:00,1M", "is not a time"),
        ] {
            let error = text.parse::<Timetable>().unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains("08:00,10M 19:00,off"),
                "{text}: {error}"
            );
        }
    }
}
