//! Where work files are and what they are called, by the settings' layouts.
//!
//! Pure. Refuses to know what is there. Invariant: what is filled from a text that a layout matched gives that text again.

use std::collections::BTreeMap;

use backlot_config::Workfiles;

/// Values by the names in braces.
type Values = BTreeMap<String, String>;

/// The layouts of a drive.
#[derive(Debug)]
pub(super) struct Layout {
    work: Pattern,
    work_file: Pattern,
    publish: Pattern,
    publish_file: Pattern,
}

/// A task's work folder, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WorkFolder {
    values: Values,
}

/// A published work file's name, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PublishedName {
    values: Values,
    pub(super) version: Version,
    pub(super) ext: String,
}

/// A version as names have it: `v003`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Version {
    pub(super) number: u32,
    /// Digits at least.
    width: usize,
}

impl Version {
    /// Reads a name that is a version and nothing else.
    pub(super) fn of(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(['v', 'V'])?;
        let is_number = !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit());
        let number = is_number.then(|| digits.parse().ok()).flatten()?;
        Some(Self {
            number,
            width: digits.len(),
        })
    }

    /// Finds the last version in a file's name: after and before what is neither letter nor digit.
    pub(super) fn in_name(name: &str) -> Option<Self> {
        name.split(|c: char| !c.is_ascii_alphanumeric())
            .filter_map(Self::of)
            .next_back()
    }

    pub(super) fn shown(self) -> String {
        format!("v{:0width$}", self.number, width = self.width)
    }
}

impl Layout {
    pub(super) fn new(settings: &Workfiles) -> Self {
        Self {
            work: Pattern::new(&settings.work),
            work_file: Pattern::new(&settings.work_file),
            publish: Pattern::new(&settings.publish),
            publish_file: Pattern::new(&settings.publish_file),
        }
    }

    /// What a work folder looks like.
    pub(super) fn work_shown(&self) -> &str {
        &self.work.text
    }

    /// What a published work file's name looks like.
    pub(super) fn publish_file_shown(&self) -> &str {
        &self.publish_file.text
    }

    /// Takes a path inside a project apart; `None` if it is no task's work folder.
    pub(super) fn work_folder(&self, below: &str) -> Option<WorkFolder> {
        let mut values = self.work.matched(below, &Values::new())?;
        let folder = values.get("folder")?.clone();
        let name = folder.rsplit('/').next().unwrap_or_default().to_owned();
        if values.get("name").is_some_and(|found| *found != name) {
            return None;
        }
        values.insert("name".to_owned(), name);
        let task = values.get("task")?.clone();
        values.insert("Task".to_owned(), capital(&task));
        Some(WorkFolder { values })
    }

    /// Returns the folder with the versions of a task's published work files, as a path inside the project.
    pub(super) fn publish_folder(&self, of: &WorkFolder) -> Option<String> {
        self.publish.filled(&of.values)
    }

    /// Takes a file's name apart; `None` if it is no published work file of the task.
    pub(super) fn published_name(&self, of: &WorkFolder, name: &str) -> Option<PublishedName> {
        let values = self.publish_file.matched(name, &of.values)?;
        let version = Version::of(values.get("version")?)?;
        let ext = values.get("ext")?.clone();
        Some(PublishedName { values, version, ext })
    }

    /// Returns what a work file is called that is made of a published one.
    pub(super) fn work_file(&self, of: &WorkFolder, published: &PublishedName, number: u32) -> Option<String> {
        let mut values = of.values.clone();
        values.extend(published.values.clone());
        let version = Version {
            number,
            ..published.version
        };
        values.insert("version".to_owned(), version.shown());
        self.work_file.filled(&values)
    }
}

/// The same with its first letter a capital, as AYON has it.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    first + chars.as_str()
}

#[derive(Debug)]
struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    Hole(String),
}

impl Pattern {
    /// Of a layout that the settings' checks let through.
    fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            parts.push(Part::Hole(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Self {
            text: text.to_owned(),
            parts,
        }
    }

    /// Puts values in; `None` if one is lacking.
    fn filled(&self, values: &Values) -> Option<String> {
        let part = |part: &Part| match part {
            Part::Literal(text) => Some(text.clone()),
            Part::Hole(name) => values.get(name).cloned(),
        };
        self.parts.iter().map(part).collect()
    }

    /// Returns what must stand in the holes for the pattern to be `text`, besides what is known.
    fn matched(&self, text: &str, known: &Values) -> Option<Values> {
        let mut values = known.clone();
        fits(&self.parts, text, &mut values).then_some(values)
    }
}

/// Fits parts to a text, the longest values first; what they are is in `values` if it does.
fn fits(parts: &[Part], text: &str, values: &mut Values) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return text.is_empty();
    };
    let name = match first {
        Part::Literal(literal) => {
            return text
                .strip_prefix(literal.as_str())
                .is_some_and(|text| fits(rest, text, values));
        }
        Part::Hole(name) => name,
    };
    if let Some(value) = values.get(name).cloned() {
        return text
            .strip_prefix(value.as_str())
            .is_some_and(|text| fits(rest, text, values));
    }
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    for end in ends.collect::<Vec<_>>().into_iter().rev() {
        let (value, left) = text.split_at(end);
        if may_be(name, value) {
            values.insert(name.clone(), value.to_owned());
            if fits(rest, left, values) {
                return true;
            }
            values.remove(name);
        }
    }
    false
}

/// Says whether a value may stand in a hole.
fn may_be(name: &str, value: &str) -> bool {
    match name {
        "folder" => !value.starts_with('/') && !value.ends_with('/'),
        "version" => Version::of(value).is_some(),
        "ext" => !value.contains(['.', '/']),
        _ => !value.contains('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ayon() -> Layout {
        Layout::new(&Workfiles::default())
    }

    #[test]
    fn ayons_folders_belong_together() {
        let layout = ayon();
        for (work, publish) in [
            (
                "shots/sq01/sh010/work/compositing",
                "shots/sq01/sh010/publish/workfile/workfileCompositing",
            ),
            ("sh010/work/fx", "sh010/publish/workfile/workfileFx"),
            ("a/work/b/work/anim_main", "a/work/b/publish/workfile/workfileAnim_main"),
            ("größe/work/ökonom", "größe/publish/workfile/workfileÖkonom"),
        ] {
            let folder = layout.work_folder(work).unwrap();
            assert_eq!(layout.publish_folder(&folder).unwrap(), publish, "{work}");
        }
        for no in [
            "",
            "work/comp",
            "shots/sh010/work",
            "shots/sh010/publish/comp",
            "shots/sh010/work/comp/sub",
        ] {
            assert_eq!(layout.work_folder(no), None, "{no}");
        }
    }

    #[test]
    fn a_published_name_becomes_the_next_work_files() {
        let layout = ayon();
        let folder = layout.work_folder("shots/sh_010/work/comp").unwrap();
        let published = layout
            .published_name(&folder, "dmo_x_sh_010_workfileComp_v003.nk")
            .unwrap();
        assert_eq!((published.version.number, published.ext.as_str()), (3, "nk"));
        assert_eq!(
            layout.work_file(&folder, &published, 12).unwrap(),
            "dmo_x_sh_010_comp_v012.nk"
        );
        assert_eq!(
            layout.work_file(&folder, &published, 1234).unwrap(),
            "dmo_x_sh_010_comp_v1234.nk"
        );
        for no in [
            "dmo_sh_020_workfileComp_v003.nk",
            "dmo_sh_010_workfileAnim_v003.nk",
            "dmo_sh_010_workfileComp_v003",
            "dmo_sh_010_workfileComp_vx.nk",
            "thumbnail.jpg",
        ] {
            assert_eq!(layout.published_name(&folder, no), None, "{no}");
        }
    }

    #[test]
    fn a_studios_own_layout_is_followed() {
        let layout = Layout::new(&Workfiles {
            work: "{folder}/tasks/{task}/scenes".to_owned(),
            work_file: "{name}-{task}.{version}.{ext}".to_owned(),
            publish: "{folder}/pub/{task}/scene".to_owned(),
            publish_file: "{name}-{task}-pub.{version}.{ext}".to_owned(),
        });
        let folder = layout.work_folder("ep1/sh3/tasks/light/scenes").unwrap();
        assert_eq!(layout.publish_folder(&folder).unwrap(), "ep1/sh3/pub/light/scene");
        let published = layout.published_name(&folder, "sh3-light-pub.v7.ma").unwrap();
        assert_eq!(layout.work_file(&folder, &published, 8).unwrap(), "sh3-light.v8.ma");
    }

    #[test]
    fn versions_in_names_stand_apart() {
        for (name, version) in [
            ("dmo_sh010_comp_v003.nk", Some(3)),
            ("dmo_sh010_comp_v003_fix.nk", Some(3)),
            ("v2_comp_v010.nk", Some(10)),
            ("rev3_comp.nk", None),
            ("comp.v0004.nk", Some(4)),
            ("comp_v99999999999.nk", None),
        ] {
            assert_eq!(Version::in_name(name).map(|found| found.number), version, "{name}");
        }
    }
}
