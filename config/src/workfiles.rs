//! `[workfiles]`: where a task's work files are, where they are published, and what they are called.
//!
//! Owns the model and the checks of it. Refuses to know what is in those folders. Invariant: whoever holds settings that
//! were checked can compile their layouts.

use serde::{Deserialize, Serialize};

use crate::schema::Config;
use crate::validate::Checker;

/// `[workfiles]`: the layout of work files, as AYON has it unless it is changed. `{folder}` is a shot's or an asset's folder
/// (any number of names), `{name}` its last name, `{task}` a task, `{Task}` the same with a capital, `{code}` the project's
/// code, `{version}` as `v001`, `{ext}` an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Workfiles {
    /// Folder of a task's work files.
    pub work: String,
    /// Name of a work file there.
    pub work_file: String,
    /// Folder of the published work files of a task, with a folder for each version in it.
    pub publish: String,
    /// Name of a published work file.
    pub publish_file: String,
}

impl Default for Workfiles {
    fn default() -> Self {
        Self {
            work: "{folder}/work/{task}".to_owned(),
            work_file: "{code}_{name}_{task}_{version}.{ext}".to_owned(),
            publish: "{folder}/publish/workfile/workfile{Task}".to_owned(),
            publish_file: "{code}_{name}_workfile{Task}_{version}.{ext}".to_owned(),
        }
    }
}

pub(crate) fn check(checker: &mut Checker<'_>, config: &Config) {
    let files = &config.workfiles;
    let folders: &[&str] = &["folder", "name", "task", "Task"];
    let names: &[&str] = &["code", "name", "task", "Task", "version", "ext"];
    for (last, text, known, needed) in [
        ("work", &files.work, folders, &["folder", "task"][..]),
        ("publish", &files.publish, folders, &["folder"][..]),
        ("work-file", &files.work_file, names, &["version", "ext"][..]),
        ("publish-file", &files.publish_file, names, &["version", "ext"][..]),
    ] {
        let key = ["workfiles", last];
        match placeholders(text) {
            None => checker.error(&key, "has a brace that is not closed, or was not opened", None),
            Some(found) => {
                if let Some(odd) = found.iter().find(|name| !known.contains(name)) {
                    let hint = format!("known are {}", known.join(", "));
                    checker.error(&key, format!("there is no {{{odd}}}"), hint);
                } else if let Some(missing) = needed.iter().find(|name| !found.contains(name)) {
                    checker.error(&key, format!("lacks {{{missing}}}"), None);
                } else if known == names && text.contains('/') {
                    checker.error(&key, "is the name of a file, and holds a `/`", None);
                } else if known == folders && !text.starts_with("{folder}/") {
                    checker.error(&key, "begins with something else than {folder}/", None);
                }
            }
        }
    }
}

/// The names in braces; `None` where braces don't match.
fn placeholders(text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        if before.contains('}') || name.contains('{') {
            return None;
        }
        found.push(name);
        rest = after;
    }
    (!rest.contains('}')).then_some(found)
}
