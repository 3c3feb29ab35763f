//! What a folder holds, in a form that can be compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many differences are worth reading.
const SHOWN: usize = 12;
/// Bytes read at once.
const PIECE: usize = 1 << 20;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    Folder,
    File { len: u64, hash: blake3::Hash },
    Link(PathBuf),
    Other,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) content: Content,
    /// Permission bits, and the time of the last change in seconds and nanoseconds; where only bytes count, `None`.
    attributes: Option<(u32, i64, i64)>,
}

/// Everything below a folder, by its path there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifest(BTreeMap<PathBuf, Entry>);

impl Manifest {
    /// Reads a folder, which need not exist.
    pub(crate) fn of(root: &Path) -> Self {
        let mut found = Self::default();
        if root.exists() {
            found.add(root, Path::new(""));
        }
        found
    }

    fn add(&mut self, root: &Path, below: &Path) {
        let dir = root.join(below);
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let below = below.join(entry.unwrap().file_name());
            let path = root.join(&below);
            let about = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let content = match about.file_type() {
                kind if kind.is_dir() => Content::Folder,
                kind if kind.is_file() => hashed(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
                kind if kind.is_symlink() => Content::Link(fs::read_link(&path).unwrap()),
                _ => Content::Other,
            };
            if content == Content::Folder {
                self.add(root, &below);
            }
            let attributes = Some((about.mode() & 0o7777, about.mtime(), about.mtime_nsec()));
            self.0.insert(below, Entry { content, attributes });
        }
    }

    /// Without what lies in the folder `name` at the top, and without that folder.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|path, _| !path.starts_with(name));
        self
    }

    /// Only regular files, and of them only the bytes; nothing that an upload under way has there.
    pub(crate) fn bytes(&self) -> Self {
        let is_published = |path: &Path| !path.components().any(|c| is_temporary(c.as_os_str().as_bytes()));
        let kept = self.0.iter().filter_map(|(path, entry)| {
            let is_file = matches!(entry.content, Content::File { .. });
            (is_file && is_published(path)).then(|| {
                let content = entry.content.clone();
                (
                    path.clone(),
                    Entry {
                        content,
                        attributes: None,
                    },
                )
            })
        });
        Self(kept.collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Says where two differ: the first few places, and how many there are.
    pub(crate) fn differences(&self, other: &Self) -> Option<String> {
        let paths = self.0.keys().chain(other.0.keys().filter(|p| !self.0.contains_key(*p)));
        let differing: Vec<_> = paths.filter(|p| self.0.get(*p) != other.0.get(*p)).collect();
        if differing.is_empty() {
            return None;
        }
        let line = |p: &&PathBuf| format!("{}: {:?} and {:?}\n", p.display(), self.0.get(*p), other.0.get(*p));
        let shown: String = differing.iter().take(SHOWN).map(line).collect();
        Some(format!("{} differ:\n{shown}", differing.len()))
    }
}

/// Whether a name is one that the drive uses at a site for what is not complete yet.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    name.starts_with(b".backlot-")
}

fn hashed(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let (mut len, mut piece) = (0, vec![0; PIECE]);
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            let hash = hasher.finalize();
            return Ok(Content::File { len, hash });
        }
        hasher.update(&piece[..n]);
        len += n as u64;
    }
}

#[test]
fn a_difference_of_any_kind_is_found() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let same = || {
        Manifest::of(one.path())
            .bytes()
            .differences(&Manifest::of(two.path()).bytes())
    };
    for dir in [&one, &two] {
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/a"), "bytes").unwrap();
    }
    assert_eq!(same(), None);
    fs::write(two.path().join("in/.backlot-part"), "half").unwrap();
    assert_eq!(same(), None, "an upload under way is no difference");
    fs::write(one.path().join("in/a"), "Bytes").unwrap();
    assert!(same().unwrap().contains("1 differ:\nin/a"), "other bytes");
    fs::write(one.path().join("in/a"), "bytes").unwrap();
    fs::write(two.path().join("b"), "").unwrap();
    assert!(same().unwrap().contains("1 differ:\nb: None"), "one too many");
    fs::write(one.path().join("b"), "").unwrap();
    assert_eq!(same(), None);
    assert!(
        Manifest::of(one.path())
            .differences(&Manifest::of(two.path()))
            .is_some(),
        "times count where they are looked at"
    );
    assert_eq!(Manifest::of(&one.path().join("none")).len(), 0);
}
