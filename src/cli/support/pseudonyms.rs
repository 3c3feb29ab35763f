//! Other words in place of the names of files, folders and projects.
//!
//! Owns: what a path looks like in text. Refuses to know: where the text comes from. Invariants: the same name gets the same
//! word within one file, and another one in the next; where a path's end can't be told, what follows is taken for part of it.

use std::collections::BTreeSet;

use backlot_config::Loaded;
use serde_json::Value;
use uuid::Uuid;

/// Names that are the same on every machine.
const PLAIN: [&str; 46] = [
    "",
    ".",
    "..",
    "~",
    "backlot",
    "backlot.log",
    "backlot.sock",
    "backlot.toml",
    "bin",
    "cache",
    "config.toml",
    "data",
    "dev",
    "etc",
    "found",
    "fs",
    "fuse",
    "home",
    "lib",
    "local",
    "media",
    "mnt",
    "null",
    "opt",
    "proc",
    "projects.d",
    "root",
    "run",
    "sbin",
    "self",
    "share",
    "site-id",
    "srv",
    "state.sqlite",
    "state.sqlite-shm",
    "state.sqlite-wal",
    "sys",
    "systemd",
    "tmp",
    "user",
    "usr",
    "var",
    ".cache",
    ".config",
    ".local",
    "shm",
];
/// Fields of answers that are paths or names of projects, with or without a slash.
const FIELDS: [&str; 9] = [
    "path",
    "ours",
    "wanted",
    "refused_path",
    "folder",
    "remote_path",
    "note",
    "mount_point",
    "dir",
];
/// What follows paths in messages, and tells nothing of names.
const PHRASES: [&str; 22] = [
    "No such file or directory",
    "Permission denied",
    "Input/output error",
    "No space left on device",
    "File exists",
    "Is a directory",
    "Not a directory",
    "Directory not empty",
    "Connection refused",
    "Transport endpoint is not connected",
    "Device or resource busy",
    "Stale file handle",
    "timed out",
    "does not answer",
    "belongs to another user",
    "is mounted",
    "not mounted",
    "is not a folder",
    "is not there",
    "has none yet",
    "free",
    "database is locked",
];
/// The longest extension that is kept.
const EXTENSION: usize = 6;

/// Makes words.
#[derive(Debug)]
pub(super) struct Pseudonyms {
    key: [u8; 32],
    /// Names that are replaced wherever they stand: projects and their folders, the longest first.
    names: Vec<String>,
}

impl Pseudonyms {
    pub(super) fn new(loaded: Option<&Loaded>) -> Self {
        let mut names = BTreeSet::new();
        if let Some(loaded) = loaded {
            for (name, project) in &loaded.config.projects {
                names.insert(name.clone());
                names.extend(
                    project
                        .remote_path
                        .split('/')
                        .chain(project.folder.split('/'))
                        .map(str::to_owned),
                );
            }
            names.extend(loaded.config.volumes.keys().cloned());
        }
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        let mut names: Vec<_> = names
            .into_iter()
            .filter(|name| !PLAIN.contains(&name.as_str()))
            .collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self { key, names }
    }

    fn word(&self, name: &str) -> String {
        if PLAIN.contains(&name) {
            return name.to_owned();
        }
        let hash = blake3::keyed_hash(&self.key, name.as_bytes()).to_hex();
        let extension = name
            .rsplit_once('.')
            .map(|(_, extension)| extension)
            .filter(|extension| {
                (1..=EXTENSION).contains(&extension.len()) && extension.bytes().all(|b| b.is_ascii_alphanumeric())
            });
        let extension = extension.map(|e| format!(".{e}")).unwrap_or_default();
        format!("x{}{extension}", &hash[..8])
    }

    fn path(&self, path: &str) -> String {
        path.split('/')
            .map(|name| self.word(name))
            .collect::<Vec<_>>()
            .join("/")
    }

    /// Replaces the names in a value.
    pub(super) fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(fields) => {
                for (key, value) in fields.iter_mut() {
                    match value {
                        Value::String(text) if FIELDS.contains(&key.as_str()) => *text = self.path(text),
                        value => self.json(value),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Replaces the names in a line of fields that are separated by blanks, as the kernel writes them.
    pub(super) fn fields(&self, line: &str) -> String {
        let fields = line.split(' ').map(|field| {
            if field.contains('/') {
                // `3/4` of mountinfo and `rw,lowerdir=/a:/b` alike.
                field
                    .split_inclusive(['=', ':', ','])
                    .map(|part| self.field(part))
                    .collect()
            } else {
                self.known(field)
            }
        });
        fields.collect::<Vec<_>>().join(" ")
    }

    fn field(&self, part: &str) -> String {
        let end = part.trim_end_matches(['=', ':', ',']).len();
        let (path, sign) = part.split_at(end);
        if path.contains('/') {
            self.path(path) + sign
        } else {
            self.known(path) + sign
        }
    }

    /// Replaces the names in a line of text. Of what follows a path that is not in quotes, and may belong to it, only
    /// figures and well-known phrases are kept.
    pub(super) fn text(&self, line: &str) -> String {
        let mut out = String::new();
        let mut rest = line;
        while let Some(slash) = rest.find('/') {
            if rest[..slash].ends_with(':') && rest[slash..].starts_with("//") {
                // The server of an address stays.
                let host = slash + 2;
                let end = rest[host..].find(|c: char| c == '/' || c.is_whitespace() || c == '"');
                let end = host + end.unwrap_or(rest.len() - host);
                out += &self.known(&rest[..end]);
                rest = &rest[end..];
                if !rest.starts_with('/') {
                    continue;
                }
            }
            let start = path_start(rest, rest.find('/').unwrap_or(0));
            out += &self.known(&rest[..start]);
            if let Some(end) = quoted_end(rest, start) {
                out += &self.path(&rest[start..end]);
                rest = &rest[end..];
                continue;
            }
            let path = &rest[start..];
            let end = path.find([' ', ':', ',', ';', ')', '"']).unwrap_or(path.len());
            out += &self.path(&path[..end]);
            out += &kept(&path[end..]);
            return out;
        }
        out + &self.known(rest)
    }

    /// Replaces the names of projects, as whole words.
    fn known(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for name in self.names.iter().filter(|name| !name.is_empty()) {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some(at) = rest.find(name.as_str()) {
                let (before, after) = (&rest[..at], &rest[at + name.len()..]);
                let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                out += before;
                if is_word(before.chars().next_back()) || is_word(after.chars().next()) {
                    out += name;
                } else {
                    out += &self.word(name);
                }
                rest = after;
            }
            text = out + rest;
        }
        text
    }
}

/// Where the path begins that the slash at `slash` is in: after its quote, after `name=`, else at its word.
fn path_start(text: &str, slash: usize) -> usize {
    let before = &text[..slash];
    if before.matches('"').count() % 2 == 1 {
        return before.rfind('"').map_or(0, |quote| quote + 1);
    }
    let field = before
        .rfind('=')
        .map(|at| at + 1)
        .filter(|at| !before[*at..].contains(": "));
    let word = before.rfind(|c: char| c.is_whitespace() || "\"'`([<,;".contains(c));
    let word = word.map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    field.unwrap_or(word)
}

/// Where the path ends at its own quote, if it began at one.
fn quoted_end(text: &str, start: usize) -> Option<usize> {
    if !text[..start].ends_with('"') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in text[start..].char_indices() {
        match c {
            '"' if !escaped => return Some(start + at),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

/// What may be kept of text that may be part of a name.
fn kept(text: &str) -> String {
    let mut out = String::new();
    let phrases = PHRASES
        .iter()
        .filter(|phrase| text.contains(**phrase))
        .map(|phrase| (*phrase).to_owned());
    let is_figure = |word: &&str| {
        word.split_once('=').is_some_and(|(name, value)| {
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            is_name && !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        })
    };
    let figures = text.split_whitespace().filter(is_figure).map(str::to_owned);
    for word in phrases.chain(figures) {
        out += " … ";
        out += &word;
    }
    if out.is_empty() && !text.is_empty() {
        out += " …";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudonyms() -> Pseudonyms {
        Pseudonyms {
            key: [7; 32],
            names: vec!["moonfall".to_owned()],
        }
    }

    #[test]
    fn no_name_of_a_path_is_left() {
        let p = pseudonyms();
        for text in [
            "could not open /mnt/moonfall/the lead dies.mov: No such file or directory",
            "fetched path=moonfall/sq010/the lead dies.mov size=3",
            "error \"moonfall/the \\\"lead\\\" dies.mov\" because of it",
            "error on /srv/cut (the lead).mov: it, the lead; 'the lead'",
            "the project moonfall is being scanned (/srv/the lead dies)",
            "webdav https://dav.studio.example/moonfall/the lead dies.mov is gone",
            "moved demo/the lead dies.mov to /mnt/the lead dies",
        ] {
            let shown = p.text(text);
            assert!(!shown.contains("moonfall") && !shown.contains("lead"), "{shown}");
        }
        let shown = p.text("could not open /mnt/sq010/a.mov: No such file");
        assert!(
            shown.starts_with("could not open /mnt/x") && shown.ends_with(".mov …"),
            "{shown}"
        );
        let shown = p.text("fetched path=sq 010/the lead.mov size=3 because of it");
        assert!(
            shown.starts_with("fetched path=x") && shown.ends_with(" … size=3"),
            "{shown}"
        );
        assert!(
            p.text("webdav https://dav.studio.example/a")
                .contains("dav.studio.example/x")
        );
        assert_eq!(p.text("3 files moved"), "3 files moved");
    }

    #[test]
    fn the_same_name_gets_the_same_word_and_another_the_next_time() {
        let p = pseudonyms();
        assert_eq!(p.text("/srv/sq010/a"), p.text("/srv/sq010/a"));
        assert_ne!(p.text("/srv/sq010/a"), Pseudonyms::new(None).text("/srv/sq010/a"));
        assert_eq!(p.path("/var/lib/backlot/state.sqlite"), "/var/lib/backlot/state.sqlite");
    }

    #[test]
    fn fields_of_answers_are_names_whatever_is_in_them() {
        let mut value = serde_json::json!({
            "tasks": [{ "path": "the lead dies", "error": "no room on /srv/the lead" }], "state": "waiting"
        });
        pseudonyms().json(&mut value);
        let shown = value.to_string();
        assert!(
            !shown.contains("lead") && shown.contains("waiting") && shown.contains("no room on /srv/x"),
            "{shown}"
        );
    }

    #[test]
    fn lines_of_the_kernel_keep_their_fields() {
        let line = r"36 25 0:31 / /mnt/the\040lead rw,nosuid shared:1 - fuse.backlot backlot-moonfall rw,user_id=0";
        let shown = pseudonyms().fields(line);
        assert!(!shown.contains("lead") && !shown.contains("moonfall"), "{shown}");
        assert!(
            shown.starts_with("36 25 0:31 / /mnt/x") && shown.ends_with(" rw,user_id=0"),
            "{shown}"
        );
    }
}
