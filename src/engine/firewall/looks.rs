//! Who only looks into files, and what it may have fetched. Pure: moments are handed in.
//!
//! Owns: the last opens of a program and its budget. Refuses to know: processes, files. Invariant: memory is bounded
//! whatever a program does.
//!
//! The figures: `file`, `ffprobe`, `exiftool` and file browsers open some hundred files a second when these are local. A
//! person opening files by hand gets to one or two a second, and a program that opens a scene's inputs is on the list of
//! those that may. So more than 32 looks in ten seconds are no person's. Most look at some KiB, for which the kernel
//! asks up to 128; `file` reads 7 MiB of each (`FILE_BYTES_MAX` of libmagic 5.44), which the kernel's read-ahead doubles.
//! Of such looks fewer are enough: once they have cost what the program may have fetched a minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many looks within so long ...
const LOOKS: usize = 32;
const WITHIN: Duration = Duration::from_secs(10);
/// ... or so many within a minute that cost a minute's budget ...
const DEAR_LOOKS: usize = 8;
/// ... if they are so many of four opens, make a program one that only looks.
const OF_FOUR: usize = 3;
/// It is one until it has not looked into a file for so long; each time anew for twice as long, and an hour at most: `file`
/// over a project reads small files whole for minutes, and is still `file`.
const FORGIVEN: Duration = Duration::from_secs(60);
const FORGIVEN_MOST: Duration = Duration::from_secs(3600);
/// Opens that are remembered.
const OPENS: usize = 64;
/// A budget is for so long.
const MINUTE: Duration = Duration::from_secs(60);

/// Who reads on beyond so much of a file reads it, however long it is.
const READS: u64 = 32 << 20;

/// Says whether a file of this length was read, by what was asked for of it, rather than looked into. A quarter of it is as
/// in what decides about fetching the next one ahead; the kernel reads some 128 KiB for a few bytes.
pub(in crate::engine) fn is_read(asked: u64, len: u64) -> bool {
    asked >= (len / 4).clamp(256 << 10, READS).min(len)
}

/// The last opens of files that were not here.
#[derive(Debug)]
pub(super) struct Looks {
    opens: VecDeque<(Instant, Option<u64>)>,
    /// It is held back, and looked into a file last then.
    held: Option<Instant>,
    /// How often it was held back so far.
    times: u32,
    /// Bytes that may be fetched, and as of when.
    left: u64,
    filled: Option<Instant>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            opens: VecDeque::new(),
            held: None,
            times: 0,
            left: 0,
            filled: None,
        }
    }

    /// A file that had not been here as a whole was closed: it was looked into, at the cost of so many bytes, or it was read.
    /// Says whether the program is one from now on that only looks.
    pub(super) fn closed(&mut self, look: Option<u64>, budget: u64, now: Instant) -> bool {
        if self.opens.len() >= OPENS {
            self.opens.pop_front();
        }
        self.opens.push_back((now, look));
        if self.is_held(now) {
            if look.is_some() {
                self.held = Some(now);
            }
            return false;
        }
        let since = |within: Duration| {
            let opens = self
                .opens
                .iter()
                .filter(move |(at, _)| now.duration_since(*at) <= within);
            opens.fold((0, 0, 0_u64), |(opens, looks, cost), (_, look)| match look {
                Some(bytes) => (opens + 1, looks + 1, cost.saturating_add(*bytes)),
                None => (opens + 1, looks, cost),
            })
        };
        let only_looks = |opens: usize, looks: usize| looks * 4 >= opens * OF_FOUR;
        let (opens, looks, _) = since(WITHIN);
        let many = looks >= LOOKS && only_looks(opens, looks);
        let (opens, looks, cost) = since(MINUTE);
        let dear = looks >= DEAR_LOOKS && cost >= budget.max(READS) && only_looks(opens, looks);
        if !many && !dear {
            return false;
        }
        self.held = Some(now);
        self.times = self.times.saturating_add(1);
        self.filled = None;
        true
    }

    fn forgiven_after(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.times.saturating_sub(1)).unwrap_or(u32::MAX);
        FORGIVEN.saturating_mul(doubled).min(FORGIVEN_MOST)
    }

    /// Says whether it only looks.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held
            .is_some_and(|last| now.duration_since(last) < self.forgiven_after())
    }

    /// Takes bytes out of what it may have fetched, so much a minute; `false` if there are not as many left.
    pub(super) fn spend(&mut self, bytes: u64, budget: u64, now: Instant) -> bool {
        let share = self.filled.map(|at| {
            let share = now.duration_since(at).min(MINUTE).as_millis() * u128::from(budget) / MINUTE.as_millis();
            u64::try_from(share).unwrap_or(u64::MAX)
        });
        // A share of less than a byte is not lost, it grows.
        if share != Some(0) {
            self.left = budget.min(share.map_or(budget, |share| self.left.saturating_add(share)));
            self.filled = Some(now);
        }
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn looks(count: u64, apart: Duration, read_each: u64) -> (Looks, Instant, bool) {
        let (mut looks, mut now, mut held) = (Looks::new(), Instant::now(), false);
        for n in 1..=count {
            now += apart;
            let is_read = read_each > 0 && n % read_each == 0;
            held |= looks.closed((!is_read).then_some(4096), 60 * MIB, now);
        }
        (looks, now, held)
    }

    #[test]
    fn many_looks_in_a_short_time_are_held_and_forgiven_after_a_minute_without() {
        let (looks, now, held) = looks(40, Duration::from_millis(20), 0);
        assert!(held && looks.is_held(now));
        assert!(looks.is_held(now + Duration::from_secs(59)));
        assert!(!looks.is_held(now + Duration::from_secs(61)));
    }

    #[test]
    fn who_does_it_again_is_forgiven_after_twice_as_long() {
        let (mut looks, mut now, _) = looks(40, Duration::from_millis(20), 0);
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let after = Duration::from_secs(minutes * 60);
            assert!(looks.is_held(now + after - Duration::from_secs(1)), "{minutes}");
            assert!(!looks.is_held(now + after), "{minutes}");
            now += after;
            let held = (0..LOOKS).filter(|_| looks.closed(Some(4096), 60 * MIB, now)).count();
            assert_eq!(held, 1, "{minutes}");
        }
    }

    #[test]
    fn who_reads_who_is_slow_and_who_looks_into_a_few_is_not() {
        assert!(!looks(31, Duration::from_millis(1), 0).2, "a few");
        assert!(!looks(1000, Duration::from_secs(1), 0).2, "by hand");
        assert!(!looks(1000, Duration::from_millis(1), 2).2, "one in two is read");
        assert!(!looks(1000, Duration::from_millis(1), 1).2, "all are read");
        assert!(looks(1000, Duration::from_millis(1), 20).2, "one in twenty is read");
    }

    #[test]
    fn fewer_looks_are_enough_if_they_are_dear() {
        let (mut looks, now) = (Looks::new(), Instant::now());
        for n in 1..=10 {
            let held = looks.closed(Some(7 * MIB), 60 * MIB, now);
            assert_eq!(held, n == 9, "after {n}");
        }
        // Over a slow link they take their time.
        let (mut looks, now) = (Looks::new(), Instant::now());
        let held = (1..=10).map(|n| looks.closed(Some(7 * MIB), 60 * MIB, now + Duration::from_secs(6) * n));
        assert_eq!(held.filter(|held| *held).count(), 1);
    }

    #[test]
    fn a_budget_is_spent_and_fills_again_within_a_minute_to_no_more_than_it_is() {
        let (mut looks, mut now, _) = looks(40, Duration::from_millis(20), 0);
        let budget = 60 * MIB;
        assert!((0..60).all(|_| looks.spend(MIB, budget, now)));
        assert!(!looks.spend(1, budget, now));
        now += Duration::from_secs(1);
        assert!(looks.spend(MIB, budget, now) && !looks.spend(MIB, budget, now));
        now += Duration::from_secs(3600);
        assert!(looks.spend(budget, budget, now) && !looks.spend(1, budget, now));
        assert!(!looks.spend(1, 0, now + Duration::from_secs(60)), "a budget of nothing");
    }

    #[test]
    fn a_quarter_or_32_mib_are_a_read_and_small_files_are_read_whole() {
        assert!(is_read(100 << 10, 100 << 10) && !is_read(99 << 10, 100 << 10));
        assert!(is_read(MIB, 4 * MIB) && !is_read(MIB - 1, 4 * MIB));
        assert!(is_read(32 * MIB, 1 << 40) && !is_read(32 * MIB - 1, 1 << 40));
        assert!(is_read(0, 0));
    }
}
