//! Who this machine is to the other sites: an id had once and kept beside the state store.
//!
//! Owns: the id's form and its file. Refuses to know: sites. Invariant: an id that was given out never changes by itself.
//!
//! A machine on which AYON has made an id already is known by that one; otherwise one of the same form is made.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// The file in the data folder.
const FILE: &str = "site-id";
/// AYON's, in its launcher's folder.
const AYON_FILE: &str = "site_id";
/// Says where that folder is.
const AYON_DIR: &str = "AYON_LAUNCHER_LOCAL_DIR";

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

/// Returns the file of AYON's id, wherever its launcher keeps it on this system; it need not be there.
pub(super) fn of_ayon() -> Option<PathBuf> {
    let var = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = var(AYON_DIR).or_else(|| {
        if cfg!(target_os = "macos") {
            return Some(var("HOME")?.join("Library/Application Support/AYON"));
        }
        let data = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")))?;
        Some(data.join("AYON"))
    })?;
    Some(dir.join(AYON_FILE))
}

fn is_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !id.is_empty() && id.bytes().all(allowed)
}

/// Returns this machine's id: the configured one, else the one kept in the data folder. Where there is none, AYON's is taken
/// over (`ayon` is the file it would be in), else one is made.
///
/// # Errors
/// When the file can't be read or written, or holds something that is no id: lower-case letters, digits and `-`.
pub(super) fn of_machine(configured: Option<&str>, data_dir: &Path, ayon: Option<&Path>) -> io::Result<String> {
    if let Some(id) = configured {
        return Ok(id.to_owned());
    }
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim();
            if is_id(id) {
                return Ok(id.to_owned());
            }
            let what = format!(
                "{} holds {id:?}, which is no site id; correct it or remove it",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // What can't be read there, or is no id, is AYON's to mend.
            let shared = ayon.and_then(|file| fs::read_to_string(file).ok());
            let shared = shared.map(|text| text.trim().to_owned()).filter(|id| is_id(id));
            let id = shared.unwrap_or_else(|| make(Uuid::new_v4()));
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
        let made = of_machine(None, dir.path(), None).unwrap();
        assert_eq!(of_machine(None, dir.path(), None).unwrap(), made);
        assert_eq!(made.split('-').count(), 4, "{made}");
        assert_eq!(of_machine(Some("farm-7"), dir.path(), None).unwrap(), "farm-7");
        assert_eq!(
            of_machine(None, dir.path(), None).unwrap(),
            made,
            "a setting does not overwrite what was given out"
        );
    }

    #[test]
    fn ayons_id_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, ayon) = (dir.path().join("data"), dir.path().join("site_id"));
        fs::create_dir(&ours).unwrap();
        fs::write(&ayon, "wild-red-fox\n").unwrap();
        assert_eq!(of_machine(None, &ours, Some(&ayon)).unwrap(), "wild-red-fox");
        fs::write(&ayon, "calm-blue-owl\n").unwrap();
        assert_eq!(of_machine(None, &ours, Some(&ayon)).unwrap(), "wild-red-fox");
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(&ayon, "No Id").unwrap();
        let made = of_machine(None, &other, Some(&ayon)).unwrap();
        assert_eq!(made.split('-').count(), 4, "{made}");
    }

    #[test]
    fn a_file_that_holds_no_id_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "Not An Id\n").unwrap();
        let error = of_machine(None, dir.path(), None).unwrap_err();
        assert!(error.to_string().contains("no site id"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "Not An Id\n");
    }
}
