//! What happens to a file by where it is in its project: it is published, stays here, or cannot be written.
//!
//! Owns: the order of a project's `zones`. Refuses to know: what is done with the answer. Invariants: the first rule that
//! matches counts, and what none matches is local; paths are bytes of any encoding.

use backlot_config::{ZoneKind, ZoneRule, compile_globs};
use globset::{Candidate, GlobSet};

use crate::model::RelPath;

/// The zones of one project.
#[derive(Debug)]
pub(super) struct Zones {
    /// The patterns of the rules, in their order.
    patterns: GlobSet,
    kinds: Vec<ZoneKind>,
}

impl Zones {
    /// Compiles a project's rules.
    ///
    /// # Errors
    /// When a pattern is none: never for loaded settings, whose patterns were compiled to check them.
    pub(super) fn new(rules: &[ZoneRule]) -> Result<Self, globset::Error> {
        Ok(Self {
            patterns: compile_globs(rules.iter().map(|rule| rule.pattern.as_str()))?,
            kinds: rules.iter().map(|rule| rule.zone).collect(),
        })
    }

    /// Returns the zone of a path inside the project.
    #[must_use]
    pub(super) fn of(&self, below: &RelPath) -> ZoneKind {
        // The indices come in ascending order: that of the rules.
        let matching = self
            .patterns
            .matches_candidate(&Candidate::from_bytes(below.as_bytes()));
        matching.first().map_or(ZoneKind::Local, |first| self.kinds[*first])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backlot_config::Project;
    use proptest::prelude::*;

    fn zones(rules: &[(&str, ZoneKind)]) -> Zones {
        let rule = |(pattern, zone): &(&str, ZoneKind)| ZoneRule {
            pattern: (*pattern).to_owned(),
            zone: *zone,
        };
        Zones::new(&rules.iter().map(rule).collect::<Vec<_>>()).unwrap()
    }

    fn path(below: impl AsRef<[u8]>) -> RelPath {
        RelPath::new(below).unwrap()
    }

    #[track_caller]
    fn check(zones: &Zones, below: impl AsRef<[u8]>, zone: ZoneKind) {
        let below = path(below);
        assert_eq!(zones.of(&below), zone, "{below:?}");
    }

    #[test]
    fn by_default_what_is_inside_a_publish_folder_is_published() {
        let zones = Zones::new(&Project::default().zones).unwrap();
        for below in [
            "publish/x",
            "publish/render/v001/x.1001.exr",
            "shots/sq010/sh0010/publish/x",
            "shots/publish/publish",
            "work/publish/tmp",
            "publish/two\nlines",
            "publish/.hidden",
        ] {
            check(&zones, below, ZoneKind::Publish);
        }
        for below in [
            "",
            "publish",
            "shots/sq010/publish",
            "work/a",
            "Publish/x",
            "publishes/x",
            "unpublish/x",
            "shots/publish.old/x",
        ] {
            check(&zones, below, ZoneKind::Local);
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        let default = Zones::new(&Project::default().zones).unwrap();
        check(&default, b"publish/\xff\xfe", ZoneKind::Publish);
        check(&default, b"sh\xe4re/publish/caf\xe9/x", ZoneKind::Publish);
        check(&default, b"publish\xff/x", ZoneKind::Local);
        let named = zones(&[("*/größe.*", ZoneKind::Readonly)]);
        check(&named, b"\xff/gr\xc3\xb6\xc3\x9fe.\xfe", ZoneKind::Readonly);
        check(&named, b"a/gr\xf6\xdfe.x", ZoneKind::Local);
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let narrow_first = zones(&[
            ("**/publish/tmp/**", ZoneKind::Local),
            ("plates/**", ZoneKind::Readonly),
            ("**/publish/**", ZoneKind::Publish),
        ]);
        check(&narrow_first, "a/publish/tmp/x", ZoneKind::Local);
        check(&narrow_first, "a/publish/x", ZoneKind::Publish);
        check(&narrow_first, "plates/publish/x", ZoneKind::Readonly);
        check(&narrow_first, "plates/publish/tmp/x", ZoneKind::Local);
        let wide_first = zones(&[("**", ZoneKind::Readonly), ("**/publish/**", ZoneKind::Publish)]);
        check(&wide_first, "a/publish/x", ZoneKind::Readonly);
        check(&wide_first, "", ZoneKind::Readonly);
        let twice = zones(&[("a", ZoneKind::Publish), ("a", ZoneKind::Local)]);
        check(&twice, "a", ZoneKind::Publish);
    }

    /// Patterns of each shape that is looked for in a way of its own: whole path, name, ending, start, and any other.
    #[test]
    fn rules_of_every_shape_keep_their_order() {
        let shapes = ["a/b.exr", "**/b.exr", "**/*.exr", "a/**", "[a]/?.exr"];
        for first in shapes {
            for second in shapes {
                let zones = zones(&[(first, ZoneKind::Publish), (second, ZoneKind::Readonly)]);
                check(&zones, "a/b.exr", ZoneKind::Publish);
            }
        }
    }

    #[test]
    fn a_star_stays_within_a_name_and_two_span_folders() {
        let one = zones(&[("shots/*/publish/*", ZoneKind::Publish)]);
        check(&one, "shots/a/publish/x", ZoneKind::Publish);
        check(&one, "shots/a/publish/x/y", ZoneKind::Local);
        check(&one, "shots/a/b/publish/x", ZoneKind::Local);
        let endings = zones(&[("*.exr", ZoneKind::Publish), ("**/*.usd", ZoneKind::Readonly)]);
        check(&endings, "a.exr", ZoneKind::Publish);
        check(&endings, "b/a.exr", ZoneKind::Local);
        check(&endings, "a.usd", ZoneKind::Readonly);
        check(&endings, "c/b/a.usd", ZoneKind::Readonly);
        let between = zones(&[("shots/**/publish/**", ZoneKind::Publish)]);
        check(&between, "shots/publish/x", ZoneKind::Publish);
        check(&between, "shots/a/b/publish/x", ZoneKind::Publish);
        check(&between, "publish/x", ZoneKind::Local);
    }

    #[test]
    fn without_rules_everything_is_local() {
        check(&zones(&[]), "publish/x", ZoneKind::Local);
    }

    #[test]
    fn what_is_no_pattern_is_an_error() {
        let rule = ZoneRule {
            pattern: "a[".to_owned(),
            zone: ZoneKind::Publish,
        };
        assert!(Zones::new(&[rule]).is_err());
    }

    proptest! {
        /// Published is what has a folder named `publish` above it, and nothing else.
        #[test]
        fn the_default_is_about_folders_above(parts in prop::collection::vec("publish|pub|[^/\0.]{1,6}", 1..6)) {
            let zones = Zones::new(&Project::default().zones).unwrap();
            let (_, above) = parts.split_last().unwrap();
            let expected = if above.iter().any(|part| part == "publish") { ZoneKind::Publish } else { ZoneKind::Local };
            prop_assert_eq!(zones.of(&path(parts.join("/"))), expected);
        }
    }
}
