//! What an upload is going to be, and the note that lets another worker go on with it. Pure.
//!
//! Owns: sizes of parts, and whether a note fits a file or an entry at the site. Refuses to know: how anything is sent.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Frozen;
use crate::model::{EntryKind, Version};
use crate::providers::{Capabilities, Entry, PartDone, UploadPlan, UploadToken};

/// Parts of a file at most: what stores with numbered parts take.
const PARTS_MAX: u64 = COUNT_MAX as u64;
const COUNT_MAX: u32 = 10_000;
/// Parts of one file under way at once, and what they may hold together, in bytes.
const PARTS_AT_ONCE: u64 = 3;
const BYTES_AT_ONCE: u64 = 96 << 20;

/// Bytes a part where a file goes up in one request that is fed part by part. A limited part is paid for before any of it is
/// fed, and servers end a request in which nothing moves for a minute or so.
const FED_PART: u64 = 1 << 20;
/// As `FED_PART`, of a copy: there each part is a request to the source.
const FED_COPY_PART: u64 = 4 << 20;

/// Returns the bytes a part that a site is to get, where the settings say `set`.
pub(super) fn wanted_part(frozen: &Frozen, set: u64, can: &Capabilities) -> u64 {
    let wanted = set.max(can.min_part);
    // A file of one part is paid for before its request begins.
    let is_fed = can.parts_in_order && !can.resume_upload && frozen.size > wanted;
    let most = match frozen.from {
        Some(_) => FED_COPY_PART,
        None => FED_PART,
    };
    if is_fed {
        wanted.min(most.max(can.min_part))
    } else {
        wanted
    }
}

/// Returns the bytes a part of a file has: `wanted`, or more where that would make too many.
pub(super) fn part_size(size: u64, wanted: u64) -> u64 {
    wanted.max(size.div_ceil(PARTS_MAX)).max(1)
}

/// Returns how many parts may be under way at once.
pub(super) fn parts_at_once(part_size: u64) -> usize {
    let fit = (BYTES_AT_ONCE / part_size.max(1)).clamp(1, PARTS_AT_ONCE);
    usize::try_from(fit).unwrap_or(1)
}

/// An upload under way, as its task's row keeps it: enough to go on with it, to clear it away, or to find out that it was
/// done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) plan: UploadPlan,
    /// The generation of the file.
    pub(super) generation: u64,
    /// Of the object's file, when it was frozen.
    pub(super) object_mtime_ns: i64,
    /// Copies: the source's version. Then nothing else tells the bytes apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Version>,
    /// What it is to replace.
    pub(super) base: Option<Version>,
    /// The provider's own note; `None` until the upload is known to have begun. Nothing is sent before.
    pub(super) state: Option<String>,
    /// What has arrived.
    #[serde(with = "runs")]
    pub(super) parts: Vec<PartDone>,
}

impl Note {
    /// Plans an upload, under a name of its own.
    pub(super) fn new(frozen: &Frozen, base: Option<Version>, wanted_part: u64) -> Self {
        Self {
            plan: UploadPlan {
                path: frozen.path.clone(),
                size: frozen.size,
                mtime_ns: frozen.mtime_ns,
                perm: frozen.perm,
                part_size: part_size(frozen.size, wanted_part),
                nonce: Uuid::new_v4().simple().to_string(),
            },
            generation: frozen.generation,
            object_mtime_ns: frozen.object_mtime_ns,
            source: frozen.from.as_ref().map(|origin| origin.version.clone()),
            base,
            state: None,
            parts: Vec::new(),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn to_text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    pub(super) fn token(&self) -> Option<UploadToken> {
        Some(UploadToken {
            plan: self.plan.clone(),
            state: self.state.clone()?,
        })
    }

    /// Says whether an upload of this file would be the same.
    pub(super) fn is_of(&self, frozen: &Frozen) -> bool {
        let UploadPlan {
            path,
            size,
            mtime_ns,
            perm,
            ..
        } = &self.plan;
        (path, *size, *mtime_ns, *perm) == (&frozen.path, frozen.size, frozen.mtime_ns, frozen.perm)
            && match &frozen.from {
                Some(origin) => self.source.as_ref() == Some(&origin.version),
                None => (self.generation, self.object_mtime_ns) == (frozen.generation, frozen.object_mtime_ns),
            }
    }

    /// Says whether an entry at the site, at the plan's path, is what this upload would leave there. What it was to
    /// replace proves nothing, even if it looks the same.
    pub(super) fn left(&self, entry: &Entry, mtime_step_ns: u64) -> bool {
        let step = i64::try_from(mtime_step_ns).unwrap_or(i64::MAX).max(1);
        self.may_have_left(entry) && entry.mtime_ns.div_euclid(step) == self.plan.mtime_ns.div_euclid(step)
    }

    /// As [`left`](Self::left), as far as that can be said without times.
    pub(super) fn may_have_left(&self, entry: &Entry) -> bool {
        entry.kind == EntryKind::File && entry.size == self.plan.size && self.base.as_ref() != Some(&entry.version)
    }

    pub(super) fn done_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }

    /// Notes a part, once.
    pub(super) fn add(&mut self, part: PartDone) {
        self.parts.retain(|known| known.index != part.index);
        self.parts.push(part);
    }

    /// Returns the parts that are still to be sent.
    pub(super) fn missing(&self) -> Vec<u32> {
        let count = u32::try_from(self.plan.part_count()).unwrap_or(u32::MAX);
        let mut there = vec![false; count as usize];
        for part in &self.parts {
            if let Some(there) = there.get_mut(part.index as usize) {
                *there = true;
            }
        }
        (0..count).filter(|index| !there[*index as usize]).collect()
    }
}

/// Writes parts as runs of neighbours that are alike, so that the note of a large file stays small.
mod runs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::providers::PartDone;

    /// First index, how many, bytes each, receipt.
    #[derive(Serialize, Deserialize)]
    struct Run(u32, u32, u64, String);

    pub(super) fn serialize<S: Serializer>(parts: &[PartDone], s: S) -> Result<S::Ok, S::Error> {
        let mut sorted: Vec<_> = parts.iter().collect();
        sorted.sort_unstable_by_key(|part| part.index);
        let mut runs: Vec<Run> = Vec::new();
        for part in sorted {
            match runs.last_mut() {
                Some(run) if run.0 + run.1 == part.index && run.2 == part.size && run.3 == part.receipt => run.1 += 1,
                _ => runs.push(Run(part.index, 1, part.size, part.receipt.clone())),
            }
        }
        runs.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PartDone>, D::Error> {
        let runs = Vec::<Run>::deserialize(d)?;
        let parts = runs.into_iter().flat_map(|Run(first, count, size, receipt)| {
            (first..first.saturating_add(count.min(super::COUNT_MAX))).map(move |index| PartDone {
                index,
                size,
                receipt: receipt.clone(),
            })
        });
        Ok(parts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelPath;
    use proptest::prelude::*;
    use tokio_util::sync::CancellationToken;

    fn frozen(size: u64) -> Frozen {
        Frozen {
            path: RelPath::new(b"a/\xff").unwrap(),
            bytes: None,
            from: None,
            size,
            mtime_ns: 1_500_000_000,
            perm: Some(0o644),
            generation: 3,
            base: None,
            object_mtime_ns: 77,
            changed: CancellationToken::new(),
        }
    }

    fn done(index: u32, receipt: &str) -> PartDone {
        PartDone {
            index,
            size: 10,
            receipt: receipt.to_owned(),
        }
    }

    #[test]
    fn a_huge_file_has_larger_parts_and_not_more_of_them() {
        assert_eq!(part_size(1 << 30, 8 << 20), 8 << 20);
        assert_eq!(part_size(0, 8 << 20), 8 << 20);
        assert_eq!(part_size(10, 0), 1);
        let size: u64 = 3 << 40;
        assert!(size.div_ceil(part_size(size, 8 << 20)) <= PARTS_MAX);
        assert_eq!(
            (parts_at_once(8 << 20), parts_at_once(40 << 20), parts_at_once(1 << 40)),
            (3, 2, 1)
        );
    }

    #[test]
    fn what_is_fed_to_one_request_comes_in_small_parts() {
        let can = |parts_in_order, resume_upload| Capabilities {
            atomic_replace: true,
            ranged_read: true,
            resume_upload,
            conditional_commit: true,
            symlinks: false,
            byte_names: false,
            mtime_step_ns: 1,
            keeps_mtime: true,
            min_part: 0,
            parts_in_order,
            hash: None,
            parallel_reads: 1,
        };
        let set = 16 << 20;
        let large = frozen(1 << 30);
        assert_eq!(wanted_part(&large, set, &can(true, false)), 1 << 20);
        assert_eq!(wanted_part(&large, 64 << 10, &can(true, false)), 64 << 10);
        // Nothing is begun before it is paid for.
        assert_eq!(wanted_part(&frozen(set), set, &can(true, false)), set);
        for other in [can(true, true), can(false, false), can(false, true)] {
            assert_eq!(wanted_part(&large, set, &other), set);
        }
        let least = Capabilities {
            min_part: 5 << 20,
            ..can(true, false)
        };
        assert_eq!(wanted_part(&large, set, &least), 5 << 20);
    }

    proptest! {
        #[test]
        fn a_note_comes_back_as_it_was(parts in prop::collection::btree_set(0u32..40, 0..40), tagged in any::<bool>()) {
            let mut note = Note::new(&frozen(400), Some(Version::new("v")), 10);
            note.state = Some(".backlot-x.part".to_owned());
            for index in parts {
                let receipt = if tagged { format!("etag {index}") } else { String::new() };
                note.add(done(index, &receipt));
            }
            let back = Note::parse(&note.to_text().unwrap()).unwrap();
            let missing: Vec<_> = (0..40).filter(|i| note.parts.iter().all(|part| part.index != *i)).collect();
            prop_assert_eq!(back.missing(), missing);
            prop_assert_eq!(back.done_bytes(), note.done_bytes());
            prop_assert_eq!(back, note);
        }
    }

    #[test]
    fn the_note_of_a_large_file_is_small() {
        let mut note = Note::new(&frozen(100_000), None, 10);
        (0..9000).for_each(|index| note.add(done(index, "")));
        assert!(note.to_text().unwrap().len() < 500);
    }

    #[test]
    fn a_note_fits_the_file_it_was_made_for_and_no_other() {
        let note = Note::new(&frozen(9), None, 10);
        assert!(note.is_of(&frozen(9)));
        let others = [
            Frozen {
                path: RelPath::new("b").unwrap(),
                ..frozen(9)
            },
            Frozen {
                mtime_ns: 5,
                ..frozen(9)
            },
            Frozen {
                perm: None,
                ..frozen(9)
            },
            Frozen {
                generation: 4,
                ..frozen(9)
            },
            Frozen {
                object_mtime_ns: 78,
                ..frozen(9)
            },
            frozen(8),
        ];
        assert!(others.iter().all(|other| !note.is_of(other)));
        assert_ne!(note.plan.nonce, Note::new(&frozen(9), None, 10).plan.nonce);
    }

    #[test]
    fn what_an_upload_left_is_known_by_size_and_time_as_the_site_keeps_them() {
        let entry = Entry {
            kind: EntryKind::File,
            size: 9,
            mtime_ns: 1_000_000_000,
            perm: None,
            version: Version::new("v"),
            target: None,
        };
        let note = Note::new(&frozen(9), Some(Version::new("u")), 10);
        assert!(note.left(&entry, 1_000_000_000));
        assert!(!note.left(&entry, 1));
        assert!(note.may_have_left(&entry));
        assert!(!note.left(
            &Entry {
                size: 8,
                ..entry.clone()
            },
            1_000_000_000
        ));
        assert!(!note.left(
            &Entry {
                kind: EntryKind::Symlink,
                ..entry.clone()
            },
            1_000_000_000
        ));
        let same = Note::new(&frozen(9), Some(Version::new("v")), 10);
        assert!(!same.left(&entry, 1_000_000_000), "it may be what was there all along");
        assert!(!same.may_have_left(&entry));
    }
}
