//! What becomes of the files that somebody opens one after another: are they read, or only looked into? Pure.

use std::collections::VecDeque;

use crate::model::Ino;

/// The last opens that tell.
const USES: usize = 6;

/// What became of an open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// It was here, so the kernel may have had its pages: nobody knows whether it was read.
    Unseen,
    /// Nothing is known yet.
    Open,
    /// A good part of it was asked for.
    Read,
    /// It was closed and little of it had been asked for.
    Skimmed,
}

/// The last opens of one reader.
#[derive(Debug, Default)]
pub(super) struct Uses(VecDeque<(Ino, Use)>);

impl Uses {
    /// A file was opened whose reads are seen, or are not.
    pub(super) fn opened(&mut self, ino: Ino, seen: bool) {
        if self.0.len() >= USES {
            self.0.pop_front();
        }
        self.0.push_back((ino, if seen { Use::Open } else { Use::Unseen }));
    }

    /// It is known what became of an open.
    pub(super) fn mark(&mut self, ino: Ino, what: Use) {
        let mut last = self.0.iter_mut().rev();
        if let Some((_, used)) = last.find(|(of, used)| *of == ino && *used == Use::Open) {
            *used = what;
        }
    }

    /// Says whether files are read, not only looked into.
    pub(super) fn are_reads(&self) -> bool {
        let count = |what| self.0.iter().filter(|(_, used)| *used == what).count();
        let (read, skimmed) = (count(Use::Read), count(Use::Skimmed));
        read > skimmed || (skimmed == 0 && count(Use::Unseen) > 0)
    }
}
