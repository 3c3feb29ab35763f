//! Where files are opened and read: what is asked of the firewall, and what follows from its answer.
//!
//! Owns: what a program gets that is held back. Refuses to know: lists. Invariants: who is held back gets all it asks for or
//! an error, never less and never zeros, so that the kernel's pages hold nothing wrong; and neither starts a fetch nor
//! counts as use.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use backlot_platform::error::{FsError, FsErrorKind};
use tracing::info;

use super::programs::Standing;
use super::{Firewall, Payer, Process, is_read};
use crate::engine::handles::OpenFile;
use crate::engine::hydrate::OpenContent;

/// What a program may have.
#[derive(Debug)]
pub(in crate::engine) enum Grant {
    /// Whatever it asks for, and what it will ask for next.
    Free(Payer),
    /// What it asks for and no more.
    Curbed(Payer),
    /// What is here.
    Here,
}

impl Firewall {
    /// Says what a program may have that opens a file which is not here as a whole.
    pub(in crate::engine) fn admit_open(&self, who: &Process) -> Grant {
        let payer = Payer::by_priority(who.account());
        match who.standing {
            Standing::Allowed => Grant::Free(payer),
            Standing::Listed(_) => Grant::Here,
            Standing::Plain if who.looks().is_held(Instant::now()) => Grant::Curbed(payer),
            Standing::Plain => Grant::Free(payer),
        }
    }

    /// Says whether a program is one that nothing is fetched for.
    pub(in crate::engine) fn is_listed(&self, who: &Process) -> bool {
        matches!(who.standing, Standing::Listed(_))
    }

    /// Says what a program may have that reads a part of a file, not all of which is here.
    pub(in crate::engine) fn admit_read(
        &self,
        who: &Process,
        file: &OpenFile,
        content: &Arc<OpenContent>,
        range: &Range<u64>,
    ) -> Grant {
        let payer = Payer::by_priority(who.account());
        match who.standing {
            Standing::Allowed => return Grant::Free(payer),
            Standing::Listed(_) => return Grant::Here,
            Standing::Plain => {}
        }
        let mut looks = who.looks();
        let now = Instant::now();
        // Who has read so much of it reads it, whatever it did to others.
        if !looks.is_held(now) || is_read(file.asked(), content.content().len()) {
            return Grant::Free(payer);
        }
        let missing = content.content().missing(range.clone()).unwrap_or_default();
        let bytes = missing.iter().map(|part| part.end - part.start).sum();
        if bytes == 0 || looks.spend(bytes, self.budget, now) {
            Grant::Curbed(payer)
        } else {
            Grant::Here
        }
    }

    /// Refuses a program what is not here.
    pub(in crate::engine) fn refuse(&self, who: &Process, path: &crate::model::RelPath) -> FsError {
        let times = who.account().refused(|| path.to_string());
        if times == 1 {
            info!(
                program = who.account().name(),
                %path,
                "nothing is fetched for it; `backlot doctor` says more"
            );
        }
        FsErrorKind::HeldBack.into()
    }
}
