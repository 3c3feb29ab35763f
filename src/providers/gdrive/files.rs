//! A file of Drive's as an entry of ours: names, kinds, versions.
//!
//! Owns: what Drive says of a file, and the name that it is shown under. Refuses to know: requests. Invariants: of several
//! files with one name each is shown, under names of which none is another's; the choice does not depend on who asks or when.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::model::{EntryKind, Name, Version};
use crate::providers::Entry;

/// What is asked of each file.
pub(super) const FIELDS: &str = "id,name,mimeType,size,md5Checksum,headRevisionId,modifiedTime,createdTime,trashed,\
                                 webViewLink,parents,properties,capabilities(canTrash,canDownload,canEdit)";
pub(super) const FOLDER: &str = "application/vnd.google-apps.folder";
const NATIVE: &str = "application/vnd.google-apps.";
/// Ends the name of a link to a document of Google's.
const LINK: &str = ".url";
/// A letter that stands for a slash, which names of Drive may hold and names of ours can't.
const SLASH: char = '\u{2215}';
/// Letters of an id that tell files with one name apart.
const ID_LETTERS: usize = 10;

/// A file or folder as Drive describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DriveFile {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mime_type: String,
    #[serde(default)]
    pub(super) size: Option<String>,
    #[serde(default)]
    pub(super) md5_checksum: Option<String>,
    #[serde(default)]
    pub(super) head_revision_id: Option<String>,
    #[serde(default)]
    pub(super) modified_time: Option<String>,
    #[serde(default)]
    pub(super) created_time: Option<String>,
    #[serde(default)]
    pub(super) trashed: bool,
    #[serde(default)]
    pub(super) web_view_link: Option<String>,
    #[serde(default)]
    pub(super) parents: Vec<String>,
    #[serde(default)]
    pub(super) properties: HashMap<String, String>,
    #[serde(default)]
    pub(super) capabilities: Can,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Can {
    #[serde(default)]
    pub(super) can_trash: Option<bool>,
}

impl DriveFile {
    pub(super) fn is_dir(&self) -> bool {
        self.mime_type == FOLDER
    }

    /// A document of Google's own, or a shortcut: it has no bytes that could be read.
    pub(super) fn is_native(&self) -> bool {
        !self.is_dir() && self.mime_type.starts_with(NATIVE)
    }

    /// The bytes of the link that a document is shown as.
    pub(super) fn link(&self) -> String {
        let to = self.web_view_link.clone();
        let to = to.unwrap_or_else(|| format!("https://drive.google.com/open?id={}", self.id));
        format!("[InternetShortcut]\r\nURL={to}\r\n")
    }

    /// The version of its bytes.
    pub(super) fn version(&self) -> Version {
        if self.is_dir() || self.is_native() {
            return Version::new(self.id.as_str());
        }
        let bytes = self.head_revision_id.as_ref().or(self.md5_checksum.as_ref());
        bytes.map_or_else(
            || {
                Version::new(format!(
                    "{}@{}",
                    self.id,
                    self.modified_time.as_deref().unwrap_or_default()
                ))
            },
            |text| Version::new(text.as_str()),
        )
    }

    pub(super) fn size(&self) -> u64 {
        self.size.as_deref().and_then(|size| size.parse().ok()).unwrap_or(0)
    }

    pub(super) fn entry(&self) -> Entry {
        let (kind, size) = match () {
            () if self.is_dir() => (EntryKind::Dir, 0),
            () if self.is_native() => (EntryKind::File, self.link().len() as u64),
            () => (EntryKind::File, self.size()),
        };
        Entry {
            kind,
            size,
            mtime_ns: self.modified_time.as_deref().map_or(0, time_ns),
            perm: None,
            version: self.version(),
            target: None,
        }
    }

    /// Which of several with one name comes first: folders, the oldest of them, so that all come to agree on one; then
    /// files, the newest first, so that what was just put is what is seen.
    fn rank(&self) -> (bool, i64, &str) {
        let created = self.created_time.as_deref().map_or(0, time_ns);
        (!self.is_dir(), if self.is_dir() { created } else { -created }, &self.id)
    }

    /// The name it has if it is alone with it; `None` for one that can't be here.
    fn plain_name(&self) -> Option<String> {
        let mut name = self.name.replace('/', &SLASH.to_string());
        if self.is_native() {
            name += LINK;
        }
        Name::new(name.as_bytes()).ok().map(|_| name)
    }

    /// The name it has if another one comes before it.
    fn second_name(&self) -> Option<String> {
        let name = self.plain_name()?;
        let id: String = self.id.chars().take(ID_LETTERS).collect();
        let (stem, extension) = split(&name);
        let name = format!("{stem} ({id}){extension}");
        Name::new(name.as_bytes()).ok().map(|_| name)
    }
}

fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    }
}

/// A time of Drive's in nanoseconds since 1970.
fn time_ns(text: &str) -> i64 {
    text.parse::<Timestamp>()
        .map_or(0, |t| i64::try_from(t.as_nanosecond()).unwrap_or(0))
}

/// Writes a time as Drive takes it, to the millisecond.
pub(super) fn time_text(ns: i64) -> String {
    let ms = ns.div_euclid(1_000_000);
    Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Gives each file of a folder the name it is shown under. Those that can't be shown are in the second list.
pub(super) fn named(mut files: Vec<DriveFile>) -> (Vec<(String, DriveFile)>, Vec<DriveFile>) {
    files.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let (mut shown, mut hidden) = (Vec::with_capacity(files.len()), Vec::new());
    let mut taken = std::collections::HashSet::new();
    for file in files {
        let names = [file.plain_name(), file.second_name()];
        match names.into_iter().flatten().find(|name| !taken.contains(name)) {
            Some(name) => {
                taken.insert(name.clone());
                shown.push((name, file));
            }
            None => hidden.push(file),
        }
    }
    (shown, hidden)
}

/// The names in Drive that may be shown as `name`, to ask for.
pub(super) fn candidates(name: &str) -> Vec<String> {
    let mut out = vec![name.to_owned()];
    let mut add = |text: String| {
        if !text.is_empty() && !out.contains(&text) {
            out.push(text);
        }
    };
    // With the id in it, of one that comes second.
    let (stem, extension) = split(name);
    let plain = stem
        .strip_suffix(')')
        .and_then(|s| s.rsplit_once(" ("))
        .filter(|(_, id)| id.len() == ID_LETTERS)
        .map(|(stem, _)| format!("{stem}{extension}"));
    for name in [Some(name.to_owned()), plain].into_iter().flatten() {
        add(name.clone());
        if let Some(document) = name.strip_suffix(LINK) {
            add(document.to_owned());
        }
    }
    for i in 0..out.len() {
        if out[i].contains(SLASH) {
            let with = out[i].replace(SLASH, "/");
            out.push(with);
        }
    }
    out
}

/// Writes a text for a query of Drive's.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: &str, name: &str, mime: &str, created: &str) -> DriveFile {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": name, "mimeType": mime, "createdTime": created, "size": "3",
        }))
        .unwrap()
    }

    #[test]
    fn of_several_with_one_name_each_is_shown_and_can_be_asked_for() {
        let files = vec![
            file("AAAAAAAAAAAA", "plate.exr", "image/x-exr", "2026-01-01T00:00:00.000Z"),
            file("BBBBBBBBBBBB", "plate.exr", "image/x-exr", "2026-01-02T00:00:00.000Z"),
            file("CCCCCCCCCCCC", "v001", FOLDER, "2026-01-02T00:00:00.000Z"),
            file("DDDDDDDDDDDD", "v001", FOLDER, "2026-01-01T00:00:00.000Z"),
            file("EEEEEEEEEEEE", "v001", "text/plain", "2020-01-01T00:00:00.000Z"),
            file(
                "FFFFFFFFFFFF",
                "Budget",
                "application/vnd.google-apps.document",
                "2020-01-01T00:00:00.000Z",
            ),
            file("GGGGGGGGGGGG", "a/b", "text/plain", "2020-01-01T00:00:00.000Z"),
            file("HHHHHHHHHHHH", "..", "text/plain", "2020-01-01T00:00:00.000Z"),
        ];
        let reversed = files.iter().rev().cloned().collect();
        let (shown, hidden) = named(files);
        let mut names: Vec<_> = shown.iter().map(|(name, f)| (name.as_str(), &f.id[..1])).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ("Budget.url", "F"),
                ("a\u{2215}b", "G"),
                ("plate (AAAAAAAAAA).exr", "A"),
                ("plate.exr", "B"),
                ("v001", "D"),
                ("v001 (CCCCCCCCCC)", "C"),
                ("v001 (EEEEEEEEEE)", "E"),
            ]
        );
        assert_eq!(hidden.len(), 1, "two dots are no name");
        for (name, file) in &shown {
            assert!(candidates(name).contains(&file.name), "{name}");
        }
        let again: Vec<_> = named(reversed).0.into_iter().map(|(name, f)| (name, f.id)).collect();
        let first: Vec<_> = shown.into_iter().map(|(name, f)| (name, f.id)).collect();
        assert_eq!(again, first, "whatever order they come in");
    }

    #[test]
    fn times_and_queries() {
        assert_eq!(time_text(1_234_567_890_123_456_789), "2009-02-13T23:31:30.123Z");
        assert_eq!(time_ns("2009-02-13T23:31:30.123Z"), 1_234_567_890_123_000_000);
        assert_eq!(time_text(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(quoted(r"it's a \ path"), r"'it\'s a \\ path'");
    }
}
