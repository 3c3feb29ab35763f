//! What is wrong with the settings: all of it at once, each problem with its place and its cure.
//!
//! Owns the shape of a report and the search for the name that was meant. Invariant: no report repeats the value of a key
//! that may hold a secret.

use std::fmt;
use std::path::Path;

use crate::origin::Place;

/// One problem. Displays as `/etc/backlot/config.toml:12:1: problem; hint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it is.
    pub place: Place,
    /// Dotted key it is about; empty when it is about a whole file.
    pub key: String,
    /// What is wrong, naming the key.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ConfigError {
    /// Returns the file that holds the problem, if a file does.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path, _) => Some(path),
            _ => None,
        }
    }

    /// Returns the line of the problem, from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match &self.place {
            Place::File(_, at) => at.map(|at| at.line),
            _ => None,
        }
    }

    /// Returns the column of the problem in characters, from 1.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        match &self.place {
            Place::File(_, at) => at.map(|at| at.column),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::Nowhere {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Every problem found, in the order of their places; never empty. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `Err` when there are problems.
    pub(crate) fn check(mut errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_by(|a, b| a.place.cmp(&b.place));
        Err(Self(errors))
    }

    /// Returns the problems.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Returns a hint naming the candidate nearest to what was written, if one is near.
#[must_use]
pub fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, candidates).map(|name| format!("did you mean `{name}`?"))
}

/// The candidate fewest edits away, when that is at most a third of what was written (and at least one edit is allowed).
fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (written.chars().count() / 3).max(1);
    let by_distance = candidates.into_iter().map(|name| (edits(written, name), name));
    by_distance
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `a` into `b`, letters' case aside.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: &Vec<usize> = &before_last;
                best = best.min(swapped[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("host", "host", 0),
            ("HOST", "host", 0),
            ("hots", "host", 1),
            ("mout-point", "mount-point", 1),
            ("kitten", "sitting", 3),
            ("prot", "port", 1),
        ] {
            assert_eq!(edits(a, b), distance, "{a} {b}");
            assert_eq!(edits(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn only_near_names_are_offered() {
        assert_eq!(nearest("hots", ["port", "host"]), Some("host"));
        assert_eq!(nearest("x", ["host", "port"]), None);
        assert_eq!(nearest("bandwidth", ["host", "port"]), None);
    }
}
