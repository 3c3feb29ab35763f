//! What is told about a round: the facts that webhooks and commands get as JSON, and that templates are filled with.
//!
//! Refuses to know who is told. Invariant: the JSON only grows: a key keeps its meaning, and [`VERSION`] counts what does not.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::Round;

/// Version of the JSON.
pub(super) const VERSION: u32 = 1;

/// What is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// [`VERSION`].
    pub version: u32,
    /// The message's own name, the same at every try: who has seen it already can tell.
    pub id: String,
    /// It is only a test; nothing of it is so.
    pub test: bool,
    /// `done`, or `failed`: something failed, or both versions of a file were kept.
    pub outcome: Outcome,
    /// The drive.
    pub drive: String,
    /// The machine.
    pub machine: String,
    /// The project.
    pub project: String,
    /// The job's number.
    pub job: u64,
    /// Which of the job's rounds, from 1.
    pub round: u64,
    /// The site that the files come from.
    pub source: String,
    /// The site that they go to.
    pub target: String,
    /// When it began (RFC 3339).
    pub began: String,
    /// When it ended.
    pub ended: String,
    /// How long it took.
    pub seconds: u64,
    /// Files that arrived.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Files and folders that were removed at the site.
    pub removed: u64,
    /// A few of the files that arrived, as paths of the drive.
    pub paths: Vec<String>,
    /// How many more there are.
    pub more_paths: u64,
    /// How many failed and are not done.
    pub failed: u64,
    /// A few of those.
    pub failures: Vec<Failure>,
    /// How many more there are.
    pub more_failures: u64,
    /// How many a person holds back.
    pub held: u64,
    /// A few files of which the site had another version, so that both were kept.
    pub conflicts: Vec<String>,
}

/// How a round ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// All is there.
    Done,
    /// Something failed, or both versions of a file were kept.
    Failed,
}

/// Something that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What, as a path of the drive.
    pub path: String,
    /// The error's kind, for programs.
    pub kind: String,
    /// The error.
    pub why: String,
    /// It is tried again by itself.
    pub again: bool,
    /// What to do.
    pub next: String,
}

/// Who tells it.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    pub(super) drive: String,
    pub(super) machine: String,
    /// The store's own name: with the job and the round it makes a message's.
    pub(super) store: String,
}

impl Facts {
    pub(super) fn of(round: Round, teller: &Teller) -> Self {
        let failed = round.failed > 0 || !round.conflicts.is_empty();
        let lasted = round.ended_ms.saturating_sub(round.began_ms);
        let failures: Vec<Failure> = round
            .failures
            .iter()
            .map(|failure| Failure {
                path: failure.path.to_string(),
                kind: failure.kind.clone(),
                why: failure.why.clone(),
                again: failure.again,
                next: next(&failure.kind, &round.job.target.0, failure.again),
            })
            .collect();
        Self {
            version: VERSION,
            id: format!("{}.{}.{}", teller.store, round.job.id.0, round.number),
            test: false,
            outcome: if failed { Outcome::Failed } else { Outcome::Done },
            drive: teller.drive.clone(),
            machine: teller.machine.clone(),
            project: round.project.0,
            job: round.job.id.0,
            round: round.number,
            source: round.job.source.0,
            target: round.job.target.0,
            began: shown(round.began_ms),
            ended: shown(round.ended_ms),
            // Up to the next second: nothing takes none.
            seconds: u64::try_from(lasted).unwrap_or_default().div_ceil(1000),
            files: round.files,
            bytes: round.bytes,
            removed: round.removed,
            more_paths: round.files.saturating_sub(round.paths.len() as u64),
            paths: round.paths.iter().map(ToString::to_string).collect(),
            failed: round.failed,
            more_failures: round.failed.saturating_sub(failures.len() as u64),
            failures,
            held: round.held,
            conflicts: round.conflicts.iter().map(ToString::to_string).collect(),
        }
    }

    /// Facts that show what a message looks like; nothing of them is so.
    pub(super) fn sample(teller: &Teller, outcome: Outcome) -> Self {
        let failed = outcome == Outcome::Failed;
        let now = Timestamp::now();
        let failure = Failure {
            path: "demo/sh020/publish/sh020_comp_v002.exr".to_owned(),
            kind: "full".to_owned(),
            why: "the site has no room left".to_owned(),
            again: true,
            next: next("full", "studio", true),
        };
        Self {
            version: VERSION,
            id: format!("{}.test.{}", teller.store, now.as_millisecond()),
            test: true,
            outcome,
            drive: teller.drive.clone(),
            machine: teller.machine.clone(),
            project: "demo".to_owned(),
            job: 0,
            round: 0,
            source: teller.machine.clone(),
            target: "studio".to_owned(),
            began: now.to_string(),
            ended: now.to_string(),
            seconds: 1,
            files: 1,
            bytes: 1 << 20,
            removed: 0,
            paths: vec!["demo/sh010/publish/sh010_comp_v001.exr".to_owned()],
            more_paths: 0,
            failed: u64::from(failed),
            failures: if failed { vec![failure] } else { Vec::new() },
            more_failures: 0,
            held: 0,
            conflicts: Vec::new(),
        }
    }

    /// The same for people to read: what could drive a terminal or break a line is spelt out.
    pub(super) fn printable(&self) -> Self {
        let plain = |text: &String| printable(text);
        Self {
            paths: self.paths.iter().map(plain).collect(),
            conflicts: self.conflicts.iter().map(plain).collect(),
            failures: self
                .failures
                .iter()
                .map(|failure| Failure {
                    path: plain(&failure.path),
                    why: plain(&failure.why),
                    ..failure.clone()
                })
                .collect(),
            ..self.clone()
        }
    }
}

/// Spells out characters that are not to be seen, or that change how others are.
pub(super) fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let shown = |c: char| match hidden(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

fn shown(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| "unknown".to_owned(), |at| at.to_string())
}

/// What to do about a kind of failure; the kinds are those of the queue.
fn next(kind: &str, site: &str, again: bool) -> String {
    let what = match kind {
        "auth" => format!("see to the account that [sites.{site}] of the settings logs in with"),
        "denied" => format!("give that account the right to write there at {site}"),
        "full" | "no-space" => format!("make room at {site}"),
        "invalid" => format!("give the file a name that {site} can hold"),
        "wrong-kind" => format!("move away what is in its place at {site}"),
        "unsupported" | "config" => format!("correct [sites.{site}] of the settings"),
        "source-changed" => "publish the file again".to_owned(),
        "unfinished" => {
            "close the file in the program that wrote it, or release it: `backlot queue release PATH`".to_owned()
        }
        "unreachable" | "timed-out" | "offline" => format!("see whether {site} can be reached: `backlot doctor`"),
        _ => "look closer with `backlot queue ls` and `backlot doctor`".to_owned(),
    };
    let then = if again {
        "it is tried again by itself"
    } else {
        "then `backlot queue retry PATH`"
    };
    format!("{what}; {then}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_lines() {
        assert_eq!(printable("a\nBcc: x\r\u{1b}[2J"), "a\\u{a}Bcc: x\\u{d}\\u{1b}[2J");
        assert_eq!(printable("rtl\u{202e}gpj.exe"), "rtl\\u{202e}gpj.exe");
        assert_eq!(printable("größe 1.exr"), "größe 1.exr");
    }

    #[test]
    fn every_failure_says_what_to_do() {
        for kind in ["auth", "full", "invalid", "something new"] {
            for again in [true, false] {
                let said = next(kind, "london", again);
                assert!(said.contains("; ") && said.len() > 40, "{kind}: {said}");
            }
        }
    }
}
