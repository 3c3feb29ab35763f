//! Byte sizes and periods as people write them: `100GiB`, `10M/s`, `250ms`.
//!
//! Owns the spelling of both, reading and printing. Knows no key and no section.
//! Invariant: what is printed reads back as the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A text that is no size or no period. Displays as `problem; hint`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {hint}")]
pub struct UnitError {
    problem: String,
    hint: &'static str,
}

const SIZE_HINT: &str = "write a number and a unit, as in 500MB or 100GiB";
const UMASK_HINT: &str = "write three octal digits in quotes, as in \"002\"";
const PERIOD_HINT: &str = "write a whole number and a unit (ms, s, min, h, d), as in 250ms or 15min";

/// Size units, the longest spelling of a letter first. A bare letter is decimal, as in data sheets and link speeds.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("K", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("M", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("G", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Units a size is printed in, largest first: the first that divides it exactly is taken.
const SIZE_PRINTED: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
];

/// Period units in milliseconds, largest first. There is no `m`: it reads as minutes to some, months to others.
const PERIOD_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A number of bytes. Reads `100GiB`, `500MB`, `1.5 TiB`, `10M` (decimal) or a plain number of bytes; units in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` GiB.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_PRINTED
            .iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_size(text).map(Self).ok_or_else(|| UnitError {
            problem: format!("`{text}` is not a size"),
            hint: SIZE_HINT,
        })
    }
}

/// Exact: a fraction is read digit by digit, never as a float; a rest below one byte is dropped.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = unit.trim_start();
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    let factor = u128::from(*factor);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    // 18 digits already name less than a byte of the largest unit, and keep the products below inside u128.
    if fraction.len() > 18 {
        return None;
    }
    let mut total = u128::from(whole.parse::<u64>().ok()?) * factor;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        total += u128::from(fraction.parse::<u64>().ok()?) * factor / scale;
    }
    u64::try_from(total).ok()
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor { per_second: false })
    }
}

/// Reads an optional byte rate: a size that may end in `/s`.
pub(crate) fn optional_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    deserializer.deserialize_any(SizeVisitor { per_second: true }).map(Some)
}

struct SizeVisitor {
    per_second: bool,
}

impl Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"500MB\" or \"100GiB\", or a number of bytes")
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
        u64::try_from(bytes)
            .map(ByteSize)
            .map_err(|_| E::custom(format!("`{bytes}` is not a size; {SIZE_HINT}")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        let size = if self.per_second {
            text.trim_end().strip_suffix("/s").unwrap_or(text)
        } else {
            text
        };
        parse_size(size)
            .map(ByteSize)
            .ok_or_else(|| E::custom(format!("`{text}` is not a size; {SIZE_HINT}")))
    }
}

/// A length of time, in whole milliseconds. Reads `250ms`, `20s`, `15min`, `24h`, `7d`; a number without a unit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Period {
    ms: u64,
}

impl Period {
    /// `ms` milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self { ms }
    }

    /// `secs` seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self {
            ms: secs.saturating_mul(1_000),
        }
    }

    /// The same length as the standard library's type.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.as_duration()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = PERIOD_UNITS
            .iter()
            .find(|(_, ms)| self.ms > 0 && self.ms.is_multiple_of(*ms));
        let (name, ms) = unit.unwrap_or(&("s", 1_000));
        write!(f, "{}{name}", self.ms / ms)
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_period(text).ok_or_else(|| UnitError {
            problem: format!("`{text}` is not a length of time"),
            hint: PERIOD_HINT,
        })
    }
}

fn parse_period(text: &str) -> Option<Period> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits_end);
    let (_, ms) = PERIOD_UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*ms).map(Period::from_millis)
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeriodVisitor)
    }
}

struct PeriodVisitor;

impl Visitor<'_> for PeriodVisitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time such as \"20s\" or \"15min\"")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Period, E> {
        Err(E::custom(format!("`{number}` has no unit; {PERIOD_HINT}")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
        text.parse().map_err(E::custom)
    }
}

/// Permission bits that are taken away. Reads one to four octal digits, as in `022`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Umask(u16);

impl Umask {
    /// The bits, of nine.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

impl FromStr for Umask {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let bits = u16::from_str_radix(text, 8)
            .ok()
            .filter(|bits| is_octal && *bits <= 0o777);
        bits.map(Self).ok_or_else(|| UnitError {
            problem: format!("`{text}` is no umask"),
            hint: UMASK_HINT,
        })
    }
}

impl Serialize for Umask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UmaskVisitor)
    }
}

struct UmaskVisitor;

impl Visitor<'_> for UmaskVisitor {
    type Value = Umask;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("octal digits in quotes such as \"002\"")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Umask, E> {
        // Which digits were meant, nobody knows: 18 is 022 in octal.
        Err(E::custom(format!("`{number}` is a number; {UMASK_HINT}")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Umask, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn umasks_are_octal_digits() {
        for (text, bits) in [("002", 0o002), ("0022", 0o022), ("0", 0), ("777", 0o777)] {
            assert_eq!(text.parse::<Umask>().unwrap().bits(), bits);
        }
        for text in ["", "008", "u=rwx", "+02", "1000", "00022", " 022"] {
            assert!(text.parse::<Umask>().is_err(), "{text}");
        }
        assert_eq!("2".parse::<Umask>().unwrap().to_string(), "002");
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("100GiB", 100 << 30),
            ("500MB", 500_000_000),
            ("1.5 TiB", 3 << 39),
            ("10M", 10_000_000),
            (" 64 kib ", 64 << 10),
            ("0.5KiB", 512),
            ("1.0001kB", 1_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_size() {
        for text in [
            "",
            "GiB",
            "12 parsecs",
            "-5GB",
            "1.GB",
            ".5GB",
            "1.2.3GB",
            "10M/s",
            "1e9",
            "99999999999 TiB",
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("`{text}` is not a size; write a number and a unit, as in 500MB or 100GiB")
            );
        }
    }

    #[test]
    fn sizes_are_printed_in_the_largest_unit_that_is_exact() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1000, "1kB"),
            (100 << 30, "100GiB"),
            (5_000_000, "5MB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn periods_as_people_write_them() {
        for (text, ms) in [
            ("250ms", 250),
            ("20s", 20_000),
            ("15 min", 900_000),
            ("24h", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Period::from_millis(ms)), "{text}");
        }
        assert_eq!(Period::from_secs(20).as_duration(), Duration::from_secs(20));
    }

    #[test]
    fn texts_that_are_no_period() {
        for text in [
            "",
            "20",
            "s",
            "5m",
            "1.5s",
            "-3s",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            let error = text.parse::<Period>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "`{text}` is not a length of time; \
                     write a whole number and a unit (ms, s, min, h, d), as in 250ms or 15min"
                )
            );
        }
    }

    proptest! {
        #[test]
        fn size_prints_as_what_it_reads(bytes in prop_oneof![any::<u64>(), (0_u64..1 << 20).prop_map(|n| n << 30)]) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn period_prints_as_what_it_reads(ms in prop_oneof![any::<u64>(), (0_u64..100_000).prop_map(|n| n * 60_000)]) {
            prop_assert_eq!(Period::from_millis(ms).to_string().parse(), Ok(Period::from_millis(ms)));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
            if let Ok(period) = text.parse::<Period>() {
                prop_assert_eq!(period.to_string().parse(), Ok(period));
            }
        }
    }
}
