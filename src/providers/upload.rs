//! Arithmetic of uploads that all providers share: parts, temporary names, and a token that survives serialising.
//!
//! Owns: what a plan implies. Refuses to know: any site. Invariant: the parts of a plan cover its size without overlap.

use std::ops::Range;

use super::{ErrorKind, Op, PartDone, ProviderError, UploadPlan};
use crate::model::{Name, RelPath, Version};

const TEMP_PREFIX: &[u8] = b".backlot-";
const TEMP_SUFFIX: &[u8] = b".part";

impl UploadPlan {
    /// Returns how many parts the file has: 0 for an empty one.
    #[must_use]
    pub fn part_count(&self) -> u64 {
        if self.part_size == 0 {
            0
        } else {
            self.size.div_ceil(self.part_size)
        }
    }

    /// Returns the bytes that a part holds; `None` for a part that the plan doesn't have.
    #[must_use]
    pub fn part_range(&self, index: u32) -> Option<Range<u64>> {
        let start = u64::from(index)
            .checked_mul(self.part_size)
            .filter(|start| *start < self.size)?;
        Some(start..start.saturating_add(self.part_size).min(self.size))
    }

    fn invalid(&self, op: Op, why: impl Into<String>) -> ProviderError {
        ProviderError::new(ErrorKind::Invalid, op)
            .at(&self.path)
            .because(why.into())
    }

    /// Checks a plan before anything is done for it; returns the folder and the temporary name to write under.
    pub(crate) fn begin(&self) -> Result<(RelPath, Name), ProviderError> {
        if self.part_size == 0 || self.part_count() > u64::from(u32::MAX) {
            return Err(self.invalid(Op::Upload, format!("a part size of {} bytes can't be", self.part_size)));
        }
        let Some((dir, _)) = self.path.split_last() else {
            return Err(self.invalid(Op::Upload, "the root is no file"));
        };
        let temp = Name::new([TEMP_PREFIX, self.nonce.as_bytes(), TEMP_SUFFIX].concat());
        let temp = temp.map_err(|e| self.invalid(Op::Upload, format!("the nonce does not fit a file name: {e}")))?;
        Ok((dir, temp))
    }

    /// Checks one part's length against the plan; returns where it goes.
    pub(crate) fn check_part(&self, index: u32, len: usize) -> Result<Range<u64>, ProviderError> {
        let Some(range) = self.part_range(index) else {
            return Err(self.invalid(Op::Upload, format!("there is no part {index} in {} bytes", self.size)));
        };
        if range.end - range.start == len as u64 {
            return Ok(range);
        }
        let want = range.end - range.start;
        Err(self.invalid(
            Op::Upload,
            format!("part {index} has {len} bytes where the plan has {want}"),
        ))
    }

    /// Checks that the parts make up the whole file.
    pub(crate) fn check_parts(&self, parts: &[PartDone]) -> Result<(), ProviderError> {
        let mut seen: Vec<u32> = Vec::with_capacity(parts.len());
        for part in parts {
            let fits = self
                .part_range(part.index)
                .is_some_and(|r| r.end - r.start == part.size);
            if !fits {
                return Err(self.invalid(Op::Commit, format!("part {} is not one of the plan", part.index)));
            }
            seen.push(part.index);
        }
        seen.sort_unstable();
        seen.dedup();
        if seen.len() as u64 == self.part_count() {
            return Ok(());
        }
        Err(self.invalid(
            Op::Commit,
            format!("{} parts of {} are there", seen.len(), self.part_count()),
        ))
    }
}

/// Says whether a name is one that uploads write under: it is never listed.
pub(crate) fn is_temp_name(name: &[u8]) -> bool {
    name.starts_with(TEMP_PREFIX) && name.ends_with(TEMP_SUFFIX)
}

/// Says whether what is at the target may be replaced: the caller's `expect` against what was found there.
pub(crate) fn check_expect(
    path: &RelPath,
    expect: Option<Option<&Version>>,
    found: Option<&Version>,
) -> Result<(), ProviderError> {
    match expect {
        Some(want) if want != found => {
            let word = |v: Option<&Version>| v.map_or_else(|| "nothing".to_owned(), |v| format!("version {v}"));
            Err(ProviderError::new(ErrorKind::VersionMismatch, Op::Commit)
                .at(path)
                .because(format!("expected {}, found {}", word(want), word(found))))
        }
        _ => Ok(()),
    }
}

/// Says whether a target proves that this very upload was committed before, its answer having been lost on the way.
///
/// Asked only when the temporary file is gone. What the caller expected to replace must not look the same as what the
/// upload would leave: then nothing is proven, and failing is right.
pub(crate) fn already_committed(expect: Option<Option<&Version>>, found: &Version, planned: &Version) -> bool {
    found == planned && expect.flatten() != Some(planned)
}

/// Serialises a path without loss: text where it is UTF-8, a list of bytes where it is not.
pub(super) mod exact_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::model::RelPath;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &RelPath, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(path.as_bytes()) {
            Ok(text) => Form::Text(text.to_owned()),
            Err(_) => Form::Bytes(path.as_bytes().to_vec()),
        }
        .serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<RelPath, D::Error> {
        match Form::deserialize(d)? {
            Form::Text(text) => RelPath::new(text),
            Form::Bytes(bytes) => RelPath::new(bytes),
        }
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(size: u64, part_size: u64) -> UploadPlan {
        let path = RelPath::new(b"a/\xff").unwrap();
        UploadPlan {
            path,
            size,
            mtime_ns: 0,
            perm: None,
            part_size,
            nonce: "n".into(),
        }
    }

    fn done(plan: &UploadPlan, index: u32) -> PartDone {
        let size = plan.part_range(index).map_or(0, |r| r.end - r.start);
        PartDone {
            index,
            size,
            receipt: String::new(),
        }
    }

    proptest! {
        #[test]
        fn parts_cover_the_file_without_overlap(size in 0u64..10_000, part_size in 1u64..3_000) {
            let plan = plan(size, part_size);
            let mut end = 0;
            for i in 0..u32::try_from(plan.part_count()).unwrap() {
                let range = plan.part_range(i).unwrap();
                prop_assert_eq!(range.start, end);
                prop_assert!(range.end > range.start);
                end = range.end;
            }
            prop_assert_eq!(end, size);
            prop_assert_eq!(plan.part_range(u32::try_from(plan.part_count()).unwrap()), None);
        }
    }

    #[test]
    fn a_commit_needs_every_part() {
        let plan = plan(25, 10);
        let all: Vec<_> = [2, 0, 1].into_iter().map(|i| done(&plan, i)).collect();
        assert!(plan.check_parts(&all).is_ok());
        assert_eq!(plan.check_parts(&all[..2]).unwrap_err().kind, ErrorKind::Invalid);
        assert!(
            plan.check_parts(&[&all[..], &all[..1]].concat()).is_ok(),
            "a part sent again is fine"
        );
        let twice = [all[0].clone(), all[0].clone(), all[1].clone()];
        assert!(
            plan.check_parts(&twice).is_err(),
            "a part sent again does not stand for another"
        );
        assert!(plan.check_part(2, 5).is_ok());
        assert!(plan.check_part(2, 10).is_err());
        assert!(plan.check_part(3, 10).is_err());
    }

    #[test]
    fn a_token_keeps_a_path_that_is_not_utf8() {
        let plan = plan(1, 1);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<UploadPlan>(&text).unwrap(), plan);
    }

    #[test]
    fn a_lost_answer_is_proven_by_what_the_caller_did_not_expect() {
        let (old, new) = (Version::new("old"), Version::new("new"));
        assert!(already_committed(None, &new, &new));
        assert!(already_committed(Some(None), &new, &new));
        assert!(already_committed(Some(Some(&old)), &new, &new));
        assert!(
            !already_committed(Some(Some(&new)), &new, &new),
            "may be what was there all along"
        );
        assert!(!already_committed(None, &old, &new));
    }

    #[test]
    fn a_nonce_that_is_no_name_is_refused() {
        let mut plan = plan(1, 1);
        plan.nonce = "../x".into();
        assert_eq!(plan.begin().unwrap_err().kind, ErrorKind::Invalid);
        plan.nonce = "ok".into();
        assert!(is_temp_name(&plan.begin().unwrap().1));
    }
}
