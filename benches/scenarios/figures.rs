//! Samples, rows and the table of a run. Pure: takes no measurement itself.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::machine::Facts;

/// How quiet the machine was while a sample was taken.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Round {
    /// Share of the processors that others used, 0 to 1.
    pub(crate) others: f64,
    /// More than counts as quiet, however often it was tried.
    pub(crate) disturbed: bool,
}

/// What was measured for one contestant.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Samples {
    values: Vec<f64>,
    rounds: Vec<Round>,
}

impl Samples {
    pub(crate) fn push(&mut self, value: f64, round: Round) {
        self.values.push(value);
        self.rounds.push(round);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Returns the median; of an even number of samples, the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
            (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
            (_, Some(high)) => *high,
            (_, None) => f64::NAN,
        }
    }

    fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (
            sorted.first().copied().unwrap_or(f64::NAN),
            sorted.last().copied().unwrap_or(f64::NAN),
        )
    }

    fn disturbed(&self) -> usize {
        self.rounds.iter().filter(|round| round.disturbed).count()
    }

    fn shown(&self, unit: Unit) -> String {
        let (min, max) = self.range();
        let unit_name = unit.name();
        let space = if unit_name.is_empty() { "" } else { " " };
        format!(
            "{}{space}{unit_name} [{}..{}]",
            number(self.median()),
            number(min),
            number(max)
        )
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// What samples are counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Unit {
    Seconds,
    Microseconds,
    Mebibytes,
    MegabytesPerSecond,
    RoundTrips,
    /// Bytes over bytes.
    Times,
    /// Things a second.
    PerSecond,
    /// Things.
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Microseconds => "µs",
            Self::Mebibytes => "MiB",
            Self::MegabytesPerSecond => "MB/s",
            Self::RoundTrips => "RTT",
            Self::Times => "x",
            Self::PerSecond => "/s",
            Self::Count => "",
        }
    }
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Target {
    /// Ours, by itself, is less than this.
    Below(f64),
    /// Ours, by itself, is at most this.
    AtMost(f64),
    /// Ours, by itself, is at least this.
    AtLeast(f64),
    /// Ours over theirs is at most this.
    RatioAtMost(f64),
    /// Ours over theirs is at least this.
    RatioAtLeast(f64),
    /// None: for information.
    None,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) ours: Samples,
    pub(crate) beside: Option<(String, Samples)>,
    pub(crate) target: Target,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.beside
            .as_ref()
            .map(|(_, theirs)| self.ours.median() / theirs.median())
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::Below(limit) => Some(self.ours.median() < limit),
            Target::AtMost(limit) => Some(self.ours.median() <= limit),
            Target::AtLeast(limit) => Some(self.ours.median() >= limit),
            Target::RatioAtMost(limit) => self.ratio().map(|ratio| ratio <= limit),
            Target::RatioAtLeast(limit) => self.ratio().map(|ratio| ratio >= limit),
            Target::None => None,
        }
    }

    fn target_shown(&self) -> String {
        match self.target {
            Target::Below(limit) => format!("< {limit} {}", self.unit.name()),
            Target::AtMost(limit) => format!("<= {limit} {}", self.unit.name()),
            Target::AtLeast(limit) => format!(">= {limit} {}", self.unit.name()),
            Target::RatioAtMost(limit) => format!("ratio <= {limit}"),
            Target::RatioAtLeast(limit) => format!("ratio >= {limit}"),
            Target::None => String::new(),
        }
    }

    fn cells(&self) -> [String; 7] {
        let (beside, ratio) = match (&self.beside, self.ratio()) {
            (Some((name, theirs)), Some(ratio)) => {
                (format!("{name}: {}", theirs.shown(self.unit)), format!("{ratio:.2}"))
            }
            _ => (String::new(), String::new()),
        };
        let theirs = self.beside.as_ref().map_or(0, |(_, theirs)| theirs.disturbed());
        let disturbed = self.ours.disturbed() + theirs;
        let mut verdict = match self.met() {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        }
        .to_owned();
        if disturbed > 0 {
            write!(verdict, " ({disturbed} disturbed)").expect("writing to a String never fails");
        }
        [
            self.scenario.to_owned(),
            self.what.clone(),
            self.ours.shown(self.unit),
            beside,
            ratio,
            self.target_shown(),
            verdict,
        ]
    }
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    facts: Facts,
    rows: Vec<Row>,
    not_run: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts,
            rows: Vec::new(),
            not_run: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn not_run(&mut self, what: &str, why: &str) {
        self.not_run.push((what.to_owned(), why.to_owned()));
    }

    pub(crate) fn missed(&self) -> bool {
        self.rows.iter().any(|row| row.met() == Some(false))
    }

    pub(crate) fn head(&self) -> String {
        let f = &self.facts;
        let versions: Vec<String> = f
            .versions
            .iter()
            .map(|(name, version)| format!("{name}: {version}"))
            .collect();
        format!(
            "{} x {}, {} GiB, {}, Linux {}, {}\ncommit {}; {}\n{}\nload at the start: {}\n",
            f.cores,
            f.cpu,
            f.memory_gib,
            f.disk,
            f.kernel,
            f.system,
            f.commit,
            f.scale,
            versions.join("; "),
            f.load_at_start
        )
    }

    /// Returns the table: medians with [least..most].
    pub(crate) fn table(&self) -> String {
        let heads = ["scenario", "what", "backlot", "beside", "ratio", "target", ""].map(str::to_owned);
        let lines: Vec<[String; 7]> = std::iter::once(heads).chain(self.rows.iter().map(Row::cells)).collect();
        let widths: [usize; 7] = std::array::from_fn(|column| {
            lines
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        let mut table = String::new();
        for cells in &lines {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
            }
            table.push_str(line.trim_end());
            table.push('\n');
        }
        for (what, why) in &self.not_run {
            table.push_str(&format!("NOT RUN: {what}: {why}\n"));
        }
        table
    }

    pub(crate) fn json(&self) -> Result<String> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let summary = |s: &Samples| {
                    let (min, max) = s.range();
                    json!({"median": s.median(), "min": min, "max": max, "samples": s.values, "rounds": s.rounds})
                };
                json!({
                    "scenario": row.scenario,
                    "what": row.what,
                    "unit": row.unit.name(),
                    "backlot": summary(&row.ours),
                    "beside": row.beside.as_ref().map(|(name, s)| json!({"name": name, "figures": summary(s)})),
                    "ratio": row.ratio(),
                    "target": row.target_shown(),
                    "met": row.met(),
                })
            })
            .collect();
        let not_run: Vec<_> = self
            .not_run
            .iter()
            .map(|(what, why)| json!({"what": what, "why": why}))
            .collect();
        let all = json!({"machine": self.facts, "rows": rows, "not_run": not_run});
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }
}
