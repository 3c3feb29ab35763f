//! The words of a mail: templates, those that are built in or an admin's own.
//!
//! Owns: reading them, and what they may use. Refuses to know: who gets the mail. Invariants: a template that can't be
//! filled is found at the start, with its file and line; a subject is one line, whatever files are called.

use std::path::{Path, PathBuf};

use backlot_config::Notify;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};

use super::facts::{Facts, Outcome, Teller};

const SUBJECT: &str = include_str!("subject.txt");
const BODY: &str = include_str!("body.txt");
/// Longest subject, in characters: what mail programs show, and well below the longest line of a mail.
const SUBJECT_MAX: usize = 200;
/// Largest template that is read, in bytes: beyond it the path is a mistake.
const TEMPLATE_MAX: u64 = 256 << 10;

/// Why a template is no good.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file can't be read.
    #[error("notify.{key}: the template {} can't be read: {why}", path.display())]
    Unreadable {
        /// The setting's name.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is no template, or uses what there is not.
    #[error("notify.{key}: {place}: {why}")]
    Bad {
        /// The setting's name.
        key: &'static str,
        /// File and line.
        place: String,
        /// What is wrong.
        why: String,
    },
}

/// The text of a mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Text {
    pub(super) subject: String,
    pub(super) body: String,
}

/// The templates of a drive.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
    places: [String; 2],
}

const KEYS: [&str; 2] = ["subject", "body"];

impl Templates {
    pub(super) fn read(settings: &Notify, teller: &Teller) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // A name that is misspelt would leave a hole that nobody notices.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // A line with nothing but a block leaves no line.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.unwrap_or_default());
        environment.add_filter("size", |bytes: u64| indicatif::BinaryBytes(bytes).to_string());
        environment.add_filter("span", |seconds: u64| {
            indicatif::HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
        });
        let own = [&settings.subject, &settings.body];
        let mut templates = Self {
            environment,
            places: KEYS.map(|key| format!("the built-in {key}")),
        };
        for (at, (path, built_in)) in own.into_iter().zip([SUBJECT, BODY]).enumerate() {
            let source = match path {
                Some(path) => {
                    templates.places[at] = path.display().to_string();
                    read(KEYS[at], path)?
                }
                None => built_in.to_owned(),
            };
            let added = templates.environment.add_template_owned(KEYS[at], source);
            added.map_err(|e| templates.bad(at, &e))?;
        }
        // What is only met while it is filled.
        for outcome in [Outcome::Done, Outcome::Failed] {
            let mut facts = Facts::sample(teller, outcome);
            templates.fill(&facts)?;
            facts.test = false;
            (facts.removed, facts.held, facts.more_paths, facts.more_failures) = (1, 1, 1, 1);
            facts.conflicts = facts.paths.clone();
            templates.fill(&facts)?;
        }
        Ok(templates)
    }

    /// Fills both.
    pub(super) fn fill(&self, facts: &Facts) -> Result<Text, TemplateError> {
        let facts = facts.printable();
        let fill = |at: usize| {
            let template = self.environment.get_template(KEYS[at]);
            let filled = template.and_then(|template| template.render(Serde(&facts)));
            filled.map_err(|e| self.bad(at, &e))
        };
        Ok(Text {
            subject: one_line(&fill(0)?),
            body: fill(1)?,
        })
    }

    fn bad(&self, at: usize, error: &minijinja::Error) -> TemplateError {
        let place = &self.places[at];
        let place = error
            .line()
            .map_or_else(|| place.clone(), |line| format!("{place}:{line}"));
        let mut why = error.kind().to_string();
        if let Some(detail) = error.detail() {
            why = format!("{why}: {detail}");
        }
        TemplateError::Bad {
            key: KEYS[at],
            place,
            why,
        }
    }
}

fn read(key: &'static str, path: &Path) -> Result<String, TemplateError> {
    let unreadable = |why: String| TemplateError::Unreadable {
        key,
        path: path.to_owned(),
        why,
    };
    let meta = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if !meta.is_file() || meta.len() > TEMPLATE_MAX {
        return Err(unreadable("it is no file, or larger than 256 KiB".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))
}

/// Makes one line of a text, of bounded length.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    if line.chars().count() <= SUBJECT_MAX {
        return line;
    }
    line.chars().take(SUBJECT_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teller() -> Teller {
        Teller {
            drive: "projects".to_owned(),
            machine: "ws-042".to_owned(),
            store: "s".to_owned(),
        }
    }

    fn with(body: &str) -> (tempfile::TempDir, Result<Templates, TemplateError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body.txt");
        std::fs::write(&path, body).unwrap();
        let settings = Notify {
            body: Some(path),
            ..Notify::default()
        };
        let read = Templates::read(&settings, &teller());
        (dir, read)
    }

    #[test]
    fn what_is_built_in_says_all_there_is_to_say() {
        let templates = Templates::read(&Notify::default(), &teller()).unwrap();
        let mut facts = Facts::sample(&teller(), Outcome::Failed);
        facts.test = false;
        facts.more_paths = 99;
        facts.bytes = 3 << 30;
        let text = templates.fill(&facts).unwrap();
        assert_eq!(text.subject, "demo: 1 file at studio, 1 FAILED");
        for part in [
            "Project:  demo\nFrom:     ws-042\nTo:       studio\nArrived:  1 file, 3.00 GiB, in 1 second\nFailed:   1\n",
            "\n  demo/sh010/publish/sh010_comp_v001.exr\n  and 99 more\n",
            "\nNot there:\n  demo/sh020/publish/sh020_comp_v002.exr\n    the site has no room left\n    make room at studio; it is \
             tried again by itself\n",
        ] {
            assert!(text.body.contains(part), "{part}\nis not in\n{}", text.body);
        }
        assert!(!text.body.contains("\n\n\n"), "{}", text.body);
    }

    #[test]
    fn a_bad_template_is_named_with_its_line() {
        for (body, place, why) in [
            ("fine\n{% if %}\n", "body.txt:2", "unexpected"),
            ("{{ project }}\n\n{{ projekt }}\n", "body.txt:3", "undefined"),
            ("{{ bytes | sizes }}", "body.txt:1", "unknown filter"),
            (
                "{% if failed %}{{ nothing.at.all }}{% endif %}",
                "body.txt:1",
                "undefined",
            ),
        ] {
            let (_dir, read) = with(body);
            let said = read.unwrap_err().to_string();
            assert!(said.starts_with("notify.body: /") && said.contains(place), "{said}");
            assert!(said.contains(why), "{said} should say {why}");
        }
    }

    #[test]
    fn a_subject_is_one_short_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subject.txt");
        std::fs::write(&path, "{{ project }}\r\n{{ paths[0] }}\nBcc: x@y\n").unwrap();
        let settings = Notify {
            subject: Some(path),
            ..Notify::default()
        };
        let templates = Templates::read(&settings, &teller()).unwrap();
        let mut facts = Facts::sample(&teller(), Outcome::Done);
        facts.paths = vec![format!("a\r\nBcc: everybody@studio.example {}", "x".repeat(500))];
        let subject = templates.fill(&facts).unwrap().subject;
        assert!(
            !subject.contains(['\r', '\n']) && subject.chars().count() == 200,
            "{subject}"
        );
    }
}
