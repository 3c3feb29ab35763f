//! What a command says when it fails: what failed, why, and what to do next.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::api::Problem;

/// The documented exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage or settings.
    Usage = 2,
    /// The daemon is not running.
    NoDaemon = 3,
    /// Done in part.
    Partial = 4,
}

impl Exit {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// A failed command.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) exit: Exit,
    what: String,
    why: Vec<String>,
    hint: Option<String>,
}

impl CliError {
    pub(super) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: Vec::new(),
            hint: None,
        }
    }

    /// Failed: could not do `what`, because of `why` and what caused that.
    pub(super) fn failed(what: &str, why: &dyn StdError) -> Self {
        Self::new(Exit::Failed, format!("could not {what}")).because(why)
    }

    /// Failed: could not do `what`, because of `why`.
    pub(super) fn failed_because(what: impl std::fmt::Display, why: impl Into<String>) -> Self {
        Self::new(Exit::Failed, format!("could not {what}")).why(why)
    }

    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Adds a reason.
    pub(super) fn why(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn because(mut self, why: &dyn StdError) -> Self {
        let mut cause = Some(why);
        while let Some(e) = cause {
            let text = e.to_string();
            // Layers that show their cause in their own text would say everything twice.
            if !self.why.iter().any(|said| said.contains(&text)) {
                self.why.push(text);
            }
            cause = e.source();
        }
        self
    }

    /// What failed and why, without the advice.
    pub(super) fn said(&self) -> String {
        let mut out = self.what.clone();
        for why in &self.why {
            let _infallible = write!(out, "\n  because {why}");
        }
        out
    }

    /// What to do next; empty where nothing can be said.
    pub(super) fn advice(&self) -> String {
        self.hint.clone().unwrap_or_default()
    }

    pub(super) fn shown(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("  {hint}\n")).unwrap_or_default();
        format!("error: {}\n{hint}", self.said())
    }
}

impl From<Problem> for CliError {
    fn from(p: Problem) -> Self {
        Self {
            exit: Exit::Failed,
            what: p.title,
            why: Vec::new(),
            hint: p.hint,
        }
    }
}
