//! Who this machine is to the other sites: an id made once and kept beside the state store.
//!
//! Owns: the id's form and its file. Refuses to know: sites. Invariant: an id that was given out never changes by itself.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use uuid::Uuid;

/// The file in the data folder.
const FILE: &str = "site-id";

/// The words of an id, in the form that AYON's users know: `wild-red-fox`. Sixteen each, so that a hexadecimal digit
/// chooses one.
const MANNERS: [&str; 16] = [
    "wild", "calm", "brave", "quick", "quiet", "proud", "sly", "merry", "keen", "lucky", "noble", "shy", "bold",
    "warm", "wise", "swift",
];
const COLOURS: [&str; 16] = [
    "red", "blue", "green", "amber", "black", "white", "grey", "gold", "teal", "pink", "brown", "ivory", "olive",
    "coral", "silver", "violet",
];
const ANIMALS: [&str; 16] = [
    "fox", "owl", "bear", "wolf", "hare", "lynx", "otter", "heron", "raven", "moose", "seal", "crane", "badger",
    "finch", "ibex", "stoat",
];

/// Returns this machine's id: the configured one, else the one kept in the data folder, which is made if there is none.
///
/// # Errors
/// When the file can't be read or written, or holds something that is no id: lower-case letters, digits and `-`.
pub(super) fn of_machine(configured: Option<&str>, data_dir: &Path) -> io::Result<String> {
    if let Some(id) = configured {
        return Ok(id.to_owned());
    }
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim();
            let is_id = !id.is_empty()
                && id
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if is_id {
                return Ok(id.to_owned());
            }
            let what = format!(
                "{} holds {id:?}, which is no site id; correct it or remove it",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let id = make(Uuid::new_v4());
            let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
            writeln!(file, "{id}")?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(id)
        }
        Err(e) => Err(e),
    }
}

/// Three words for people, and four digits, since a thousand machines would share words.
fn make(random: Uuid) -> String {
    let b = random.as_bytes();
    let word = |list: [&'static str; 16], byte: u8| list[usize::from(byte & 15)];
    format!(
        "{}-{}-{}-{:02x}{:02x}",
        word(MANNERS, b[0]),
        word(COLOURS, b[1]),
        word(ANIMALS, b[2]),
        b[3],
        b[4]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let made = of_machine(None, dir.path()).unwrap();
        assert_eq!(of_machine(None, dir.path()).unwrap(), made);
        assert_eq!(made.split('-').count(), 4, "{made}");
        assert_eq!(of_machine(Some("farm-7"), dir.path()).unwrap(), "farm-7");
        assert_eq!(
            of_machine(None, dir.path()).unwrap(),
            made,
            "a setting does not overwrite what was given out"
        );
    }

    #[test]
    fn a_file_that_holds_no_id_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "Not An Id\n").unwrap();
        let error = of_machine(None, dir.path()).unwrap_err();
        assert!(error.to_string().contains("no site id"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "Not An Id\n");
    }
}
