//! Which files of a site a path with patterns means.
//!
//! Owns: `*`, `?`, `[ab]`, `{a,b}` within names, `**` over folders, frame numbers. Refuses to know: what is done with what is
//! found. Invariant: no folder is listed that can't hold a match.

use std::collections::BTreeSet;
use std::time::Duration;

use backlot_config::compile_glob;
use futures::StreamExt;
use globset::GlobMatcher;
use tokio::time::Instant;

use super::CopyError;
use crate::engine::report::CopyPath;
use crate::engine::site::Site;
use crate::model::frames::{FramePattern, FrameSet};
use crate::model::{EntryKind, Name, RelPath};
use crate::providers::ErrorKind;

/// What a pattern may find.
const MATCHES_MAX: usize = 100_000;
/// How long looking for it may take: less than who asked waits.
const PATIENCE: Duration = Duration::from_secs(90);

/// One name of a path.
#[derive(Debug)]
enum Part {
    Name(Name),
    Glob(GlobMatcher),
    Frames(FramePattern, Option<FrameSet>),
    /// `**`: any number of folders.
    Deep,
}

/// A path as it was asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    text: String,
    folder: String,
    /// Below the project's folder.
    parts: Vec<Part>,
    /// The same, as it would be if nothing in it were a pattern.
    plain: Option<RelPath>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Matches {
    /// Paths below the project's folder, and whether they are folders.
    pub(super) entries: Vec<(RelPath, bool)>,
    /// Frames that were asked for and are not there.
    pub(super) missing: Vec<RelPath>,
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

impl Wanted {
    pub(super) fn parse(asked: &CopyPath) -> Result<Self, CopyError> {
        let (text, frames) = (asked.path.as_str(), asked.frames.as_deref());
        let frames = frames.map(FrameSet::parse).transpose()?;
        let mut names = text.split('/').filter(|name| !name.is_empty());
        let folder = names.next().unwrap_or_default().to_owned();
        let names: Vec<&str> = names.collect();
        let mut parts = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let is_last = at + 1 == names.len();
            let pattern = FramePattern::parse(name).filter(|_| is_last);
            parts.push(match pattern {
                Some(pattern) => Part::Frames(pattern, frames.clone()),
                None if is_last && frames.is_some() => return Err(CopyError::NoFrames(text.to_owned())),
                None if *name == "**" => Part::Deep,
                None if is_glob(name) => {
                    let glob =
                        compile_glob(name).map_err(|e| CopyError::Pattern(text.to_owned(), e.kind().to_string()))?;
                    Part::Glob(glob.compile_matcher())
                }
                None => Part::Name(Name::new(name.as_bytes())?),
            });
        }
        if parts.is_empty() && frames.is_some() {
            return Err(CopyError::NoFrames(text.to_owned()));
        }
        let below = names.join("/");
        let plain = frames.is_none().then(|| RelPath::new(below)).transpose()?;
        Ok(Self {
            text: text.to_owned(),
            folder,
            parts,
            plain,
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the project's folder.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// Says whether anything in it may be a pattern.
    pub(super) fn is_pattern(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Name(_)))
    }

    /// Returns the path as it is written, below the project's folder, where it can be meant so.
    pub(super) fn plain(&self) -> Option<RelPath> {
        self.plain.clone()
    }

    /// Looks at a site for what it means; `base` is where the project is there.
    pub(super) async fn find(&self, site: &Site, base: &RelPath) -> Result<Matches, CopyError> {
        let give_up = Instant::now() + PATIENCE;
        let mut found = Matches::default();
        let mut seen = BTreeSet::new();
        let mut folders = vec![(RelPath::root(), 0)];
        while let Some((mut dir, mut at)) = folders.pop() {
            // What is named needs no look, but for the last: that may not be there.
            while let Some(Part::Name(name)) = self.parts.get(at)
                && at + 1 < self.parts.len()
            {
                dir = dir.join(name);
                at += 1;
            }
            let Some(part) = self.parts.get(at) else { continue };
            let is_last = at + 1 == self.parts.len();
            let here = base.concat(&dir);
            let mut listing = site.provider().list(&here);
            let mut frames = BTreeSet::new();
            loop {
                let left = give_up.saturating_duration_since(Instant::now());
                let row = tokio::time::timeout(left, listing.next()).await;
                let too_long = || CopyError::TooWide(self.text.clone(), "looking for it takes too long; name a folder");
                let Some(row) = row.map_err(|_elapsed| too_long())? else {
                    break;
                };
                let row = match row {
                    Ok(row) => row,
                    // Another branch of the pattern may be there.
                    Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::WrongKind) => break,
                    Err(e) => return Err(CopyError::Site(site.name().clone(), e)),
                };
                let is_dir = row.entry.kind == EntryKind::Dir;
                if !is_dir && row.entry.kind != EntryKind::File {
                    continue;
                }
                let text = std::str::from_utf8(&row.name).unwrap_or_default();
                let path = dir.join(&row.name);
                let matches = match part {
                    Part::Name(name) => *name == row.name,
                    Part::Glob(glob) => glob.is_match(row.name.as_os_str()),
                    Part::Frames(pattern, set) => pattern.frame_of(text).is_some_and(|frame| {
                        let wanted = !is_dir && set.as_ref().is_none_or(|set| set.contains(frame));
                        if wanted {
                            frames.insert(frame);
                        }
                        wanted
                    }),
                    Part::Deep => {
                        // As the folder itself, and as one on the way.
                        if is_dir && !is_last {
                            folders.push((path.clone(), at));
                        }
                        is_last
                    }
                };
                if matches && is_last {
                    if seen.insert(path.clone()) {
                        found.entries.push((path, is_dir));
                    }
                } else if matches && is_dir {
                    folders.push((path, at + 1));
                }
                if found.entries.len() > MATCHES_MAX {
                    return Err(CopyError::TooWide(
                        self.text.clone(),
                        "it matches more than 100,000 entries; name a folder",
                    ));
                }
            }
            drop(listing);
            if matches!(part, Part::Deep) && !is_last {
                folders.push((dir.clone(), at + 1));
            }
            if let Part::Frames(pattern, Some(set)) = part {
                for frame in set.frames().difference(&frames) {
                    found
                        .missing
                        .push(dir.join(&Name::new(pattern.name_of(*frame).into_bytes())?));
                }
            }
        }
        found.entries.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SiteName;
    use crate::providers::memory::MemorySite;
    use std::sync::Arc;

    async fn found(path: &str, frames: Option<&str>) -> Result<(Vec<String>, usize), CopyError> {
        let memory = MemorySite::new();
        for file in [
            "p/sq010/sh010/plate.1001.exr",
            "p/sq010/sh010/plate.1002.exr",
            "p/sq010/sh010/plate.1004.exr",
            "p/sq010/sh010/plate.mov",
            "p/sq010/sh020/plate.1001.exr",
            "p/sq010/sh020/a[1].txt",
            "p/sq020/sh010/deep/er/plate.1001.exr",
        ] {
            memory.put(&RelPath::new(file).unwrap(), b"x".to_vec()).unwrap();
        }
        let site = Site::new(SiteName("hq".to_owned()), Arc::new(memory), None, 4);
        let asked = CopyPath {
            path: path.to_owned(),
            frames: frames.map(str::to_owned),
        };
        let matches = Wanted::parse(&asked)?.find(&site, &RelPath::new("p").unwrap()).await?;
        let shown = |(path, folder): (RelPath, bool)| format!("{path}{}", if folder { "/" } else { "" });
        Ok((matches.entries.into_iter().map(shown).collect(), matches.missing.len()))
    }

    #[tokio::test]
    async fn patterns_mean_what_the_site_has() {
        for (path, frames, expected, missing) in [
            ("show/sq*", None, &["sq010/", "sq020/"][..], 0),
            ("show/sq010/sh0?0/plate.mov", None, &["sq010/sh010/plate.mov"], 0),
            (
                "show/sq010/sh010/plate.####.exr",
                Some("1001-1004"),
                &[
                    "sq010/sh010/plate.1001.exr",
                    "sq010/sh010/plate.1002.exr",
                    "sq010/sh010/plate.1004.exr",
                ],
                1,
            ),
            (
                "show/sq010/*/plate.%04d.exr",
                Some("1001"),
                &["sq010/sh010/plate.1001.exr", "sq010/sh020/plate.1001.exr"],
                0,
            ),
            (
                "show/**/plate.1001.exr",
                None,
                &[
                    "sq010/sh010/plate.1001.exr",
                    "sq010/sh020/plate.1001.exr",
                    "sq020/sh010/deep/er/plate.1001.exr",
                ],
                0,
            ),
            ("show/sq010/{sh020,sh030}", None, &["sq010/sh020/"], 0),
            ("show/nowhere/*", None, &[], 0),
        ] {
            let (entries, absent) = found(path, frames).await.unwrap();
            assert_eq!(
                (&entries[..], absent),
                (
                    &expected.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()[..],
                    missing
                ),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        assert!(matches!(
            found("show/a/b.exr", Some("1-9")).await,
            Err(CopyError::NoFrames(_))
        ));
        assert!(matches!(
            found("show/a/b.##.exr", Some("9-")).await,
            Err(CopyError::Frames(_))
        ));
        assert!(matches!(found("show/a[", None).await, Err(CopyError::Pattern(..))));
    }
}
