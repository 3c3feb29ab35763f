//! What paths and patterns mean: which files they name, and where such files may be.
//!
//! Owns: the meaning of a selection (a path, or a pattern of paths, inside one project) and of many together. Refuses to
//! know: who gave them, the tree. Invariants: what names a folder covers everything below it; a set answers for any number
//! of paths at the cost of a few look-ups.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backlot_config::compile_globs;
use globset::{Candidate, GlobSet};

use crate::model::{Name, RelPath};

/// A path inside a project, or a pattern of such paths.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::engine) enum Pattern {
    /// This path, and everything below it.
    Path(RelPath),
    /// Every path that it matches, and everything below those.
    Glob(String),
}

impl Pattern {
    /// Returns the bytes that stand for it in the store.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Path(path) => path.as_bytes(),
            Self::Glob(text) => text.as_bytes(),
        }
    }

    /// Returns the deepest folder, or the path itself, below which everything lies that it may name.
    fn base(&self) -> RelPath {
        match self {
            Self::Path(path) => path.clone(),
            Self::Glob(text) => {
                let plain = text.split('/').take_while(|part| !is_pattern(part));
                let mut base: Vec<&str> = plain.collect();
                // The last part is a name, not a folder, if nothing in it is a wildcard.
                if base.len() == text.split('/').count() {
                    base.pop();
                }
                RelPath::new(base.join("/")).unwrap_or_default()
            }
        }
    }
}

/// Says whether a text has anything in it that makes it a pattern.
pub(in crate::engine) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '\\'])
}

/// Many paths and patterns inside one project. Each is known by its place in the list that the set was made from.
#[derive(Debug)]
pub(in crate::engine) struct Patterns {
    paths: HashMap<RelPath, Vec<usize>>,
    /// All folders above those paths.
    above: HashSet<RelPath>,
    globs: GlobSet,
    glob_places: Vec<usize>,
    glob_bases: Vec<RelPath>,
    roots: Vec<RelPath>,
}

/// Which of a set's patterns cover a path, by their places, ascending.
pub(in crate::engine) type Covering = Arc<[usize]>;

impl Patterns {
    /// Makes a set.
    ///
    /// # Errors
    /// When a text is no pattern.
    pub(in crate::engine) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern>) -> Result<Self, globset::Error> {
        let (mut paths, mut above): (HashMap<RelPath, Vec<usize>>, HashSet<RelPath>) = Default::default();
        let (mut texts, mut glob_places, mut glob_bases, mut bases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, pattern) in patterns.into_iter().enumerate() {
            bases.push(pattern.base());
            match pattern {
                Pattern::Path(path) => {
                    above.extend(folders_above(path));
                    paths.entry(path.clone()).or_default().push(place);
                }
                Pattern::Glob(text) => {
                    texts.push(text.as_str());
                    glob_places.push(place);
                    glob_bases.push(pattern.base());
                }
            }
        }
        let wanted: HashSet<RelPath> = bases.into_iter().collect();
        let mut roots: Vec<RelPath> = wanted
            .iter()
            .filter(|base| !folders_above(base).any(|folder| wanted.contains(&folder)))
            .cloned()
            .collect();
        roots.sort_unstable();
        Ok(Self {
            paths,
            above,
            globs: compile_globs(texts)?,
            glob_places,
            glob_bases,
            roots,
        })
    }

    /// Says whether the set is empty.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Returns paths below which everything lies that the set names; none of them lies below another.
    pub(super) fn roots(&self) -> &[RelPath] {
        &self.roots
    }

    /// Returns the places of what names this very path.
    fn naming(&self, path: &RelPath) -> Vec<usize> {
        let mut places = self.paths.get(path).cloned().unwrap_or_default();
        if !self.glob_places.is_empty() {
            let matching = self.globs.matches_candidate(&Candidate::from_bytes(path.as_bytes()));
            places.extend(matching.iter().filter_map(|n| self.glob_places.get(*n)));
        }
        places
    }

    /// Returns what covers a path in a folder, given what covers the folder.
    pub(super) fn covering_in(&self, folder: &Covering, path: &RelPath) -> Covering {
        let more = self.naming(path);
        if more.is_empty() {
            return Arc::clone(folder);
        }
        let mut all: Vec<usize> = folder.iter().copied().chain(more).collect();
        all.sort_unstable();
        all.dedup();
        all.into()
    }

    /// Returns what covers a path.
    pub(in crate::engine) fn covering(&self, path: &RelPath) -> Covering {
        let mut covering = Covering::default();
        if self.is_empty() {
            return covering;
        }
        for folder in folders_above(path) {
            covering = self.covering_in(&covering, &folder);
        }
        self.covering_in(&covering, path)
    }

    /// Says whether something below a folder that is not covered itself may be.
    pub(super) fn may_be_below(&self, folder: &RelPath) -> bool {
        let is_or_is_below = |below: &RelPath, top: &RelPath| {
            let (below, top) = (below.as_bytes(), top.as_bytes());
            top.is_empty() || below == top || below.starts_with(top) && below.get(top.len()) == Some(&b'/')
        };
        self.above.contains(folder)
            || self
                .glob_bases
                .iter()
                .any(|base| is_or_is_below(folder, base) || is_or_is_below(base, folder))
    }
}

/// Returns the folders above a path, from the project's own (the empty path) down. None for that itself.
fn folders_above(path: &RelPath) -> impl Iterator<Item = RelPath> + use<> {
    let names: Vec<Name> = path.components().filter_map(|name| Name::new(name).ok()).collect();
    let count = names.len();
    let mut folder = RelPath::root();
    (0..count).map(move |n| {
        if let Some(name) = n.checked_sub(1).and_then(|last| names.get(last)) {
            folder = folder.join(name);
        }
        folder.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn set(texts: &[&str]) -> Patterns {
        let patterns: Vec<_> = texts
            .iter()
            .map(|text| {
                if is_pattern(text) {
                    Pattern::Glob((*text).to_owned())
                } else {
                    Pattern::Path(path(text))
                }
            })
            .collect();
        Patterns::new(&patterns).unwrap()
    }

    #[track_caller]
    fn check(texts: &[&str], at: &str, places: &[usize]) {
        assert_eq!(&*set(texts).covering(&path(at)), places, "{texts:?} at {at}");
    }

    #[test]
    fn what_names_a_folder_covers_everything_below() {
        check(&["plates"], "plates", &[0]);
        check(&["plates"], "plates/a/b.exr", &[0]);
        check(&["plates"], "plates2/a", &[]);
        check(&["plates"], "", &[]);
        check(&[""], "", &[0]);
        check(&[""], "a/b", &[0]);
        check(&["*/publish"], "sh010/publish/x/y.exr", &[0]);
        check(&["*/publish"], "sh010/a/publish/y.exr", &[]);
        check(&["**/publish"], "sh010/a/publish/y.exr", &[0]);
        check(&["plates/*.exr"], "plates/a.exr", &[0]);
        check(&["plates/*.exr"], "plates/a.dpx", &[]);
        check(&["a", "a/b", "**/b", "c"], "a/b/x", &[0, 1, 2]);
        check(&["a", "a"], "a/x", &[0, 1]);
    }

    #[test]
    fn a_walk_begins_where_something_may_be_and_never_twice() {
        let roots = |texts: &[&str]| {
            let shown: Vec<_> = set(texts).roots().iter().map(ToString::to_string).collect();
            shown
        };
        assert_eq!(roots(&["a/b", "a/b/c", "a/bc", "x/*/y", "x/1/y"]), ["a/b", "a/bc", "x"]);
        assert_eq!(roots(&["**/*.exr", "a"]), [""]);
        assert_eq!(roots(&["a/b*"]), ["a"]);
        assert!(roots(&[]).is_empty());
    }

    #[test]
    fn folders_that_lead_nowhere_are_passed_over() {
        let patterns = set(&["a/b/c", "x/*/y"]);
        for (folder, may) in [
            ("", true),
            ("a", true),
            ("a/b", true),
            ("b", false),
            ("x/q", true),
            ("y", false),
        ] {
            assert_eq!(patterns.may_be_below(&path(folder)), may, "{folder}");
        }
        assert!(!set(&["x/*/y"]).may_be_below(&path("xy")));
    }
}
