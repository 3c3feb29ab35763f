//! Trees of files whose every byte follows from a seed, so that any of them can be checked without being kept.
//!
//! Owns: what the bytes are. Refuses to know: drives, sites. Invariant: two files of different seeds differ in every
//! eight bytes, as do two places of one file, so that bytes of the wrong file or from the wrong place are found.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes written or compared at once.
const PIECE: usize = 1 << 20;

/// Numbers that look random and follow from a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The finisher of splitmix64: a bijection, so different inputs never give the same output.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills `out` with the bytes at `offset` of the content of `seed`.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let mut word = offset / 8;
    let mut skip = usize::try_from(offset % 8).unwrap();
    let mut rest = out;
    while !rest.is_empty() {
        let bytes = mixed(seed.rotate_left(40) ^ word).to_le_bytes();
        let n = (8 - skip).min(rest.len());
        rest[..n].copy_from_slice(&bytes[skip..skip + n]);
        rest = &mut rest[n..];
        skip = 0;
        word += 1;
    }
}

/// Returns `len` bytes at `offset` of the content of `seed`.
pub fn bytes(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    fill(seed, offset, &mut out);
    out
}

/// Returns where bytes read at `offset` first differ from the content of `seed`.
pub fn first_wrong(seed: u64, offset: u64, read: &[u8]) -> Option<u64> {
    let right = bytes(seed, offset, read.len());
    // The quick answer first: comparing slices is fast even in a build that is not optimised.
    if right == read {
        return None;
    }
    let at = right.iter().zip(read).position(|(a, b)| a != b)?;
    Some(offset + at as u64)
}

/// Writes a file of `len` bytes of the content of `seed`, with the folders above it.
pub fn write(path: &Path, seed: u64, len: u64) {
    make(path, seed, len).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn make(path: &Path, seed: u64, len: u64) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    let mut file = File::create(path)?;
    let mut at = 0;
    while at < len {
        let n = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
        file.write_all(&bytes(seed, at, n))?;
        at += n as u64;
    }
    Ok(())
}

/// A name that is not UTF-8.
pub fn raw_name() -> OsString {
    OsString::from_vec(b"plate \xff\xfe\x80 \"'\\\n.exr".to_vec())
}

/// A name of 255 bytes, the most there can be.
pub fn long_name() -> OsString {
    OsString::from("n".repeat(255))
}

/// A name of 255 bytes, none of which is valid UTF-8.
pub fn long_raw_name() -> OsString {
    OsString::from_vec(vec![0xfe; 255])
}

/// A file of a tree.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its path below the tree's root.
    pub path: PathBuf,
    pub seed: u64,
    pub len: u64,
}

impl Planned {
    /// Compares what was read at `offset` with what should be there.
    pub fn check(&self, offset: u64, read: &[u8]) -> Result<(), String> {
        match first_wrong(self.seed, offset, read) {
            None => Ok(()),
            Some(at) => Err(format!("{}: the byte at {at} is wrong", self.path.display())),
        }
    }

    /// Reads the whole file below `root` and compares it.
    pub fn check_whole(&self, root: &Path) -> Result<(), String> {
        let read = fs::read(root.join(&self.path)).map_err(|e| format!("{}: {e}", self.path.display()))?;
        if read.len() as u64 != self.len {
            return Err(format!(
                "{} has {} bytes in place of {}",
                self.path.display(),
                read.len(),
                self.len
            ));
        }
        self.check(0, &read)
    }
}

/// A tree to be written: `files` files with lengths from `lengths` in turn, `per_folder` to a folder, folders two deep.
#[derive(Clone, Debug)]
pub struct Tree {
    pub files: Vec<Planned>,
}

impl Tree {
    pub fn plan(seed: u64, files: usize, per_folder: usize, lengths: &[u64]) -> Self {
        let planned = |i: usize| {
            let folder = i / per_folder;
            let name = format!("sq{:02}/sh{:04}/frame.{:04}.exr", folder % 10, folder, i % per_folder);
            Planned {
                path: PathBuf::from(name),
                seed: mixed(seed ^ ((i as u64) << 1 | 1)),
                len: lengths[i % lengths.len()],
            }
        };
        Self {
            files: (0..files).map(planned).collect(),
        }
    }

    /// Adds files whose names are hard on programs, in a folder whose name is as well.
    pub fn with_hard_names(mut self) -> Self {
        let folder = PathBuf::from(OsStr::from_bytes(b"odd \xc3\x28 names"));
        let names = [
            raw_name(),
            long_name(),
            long_raw_name(),
            OsString::from(" -rf ~ $(x)"),
            OsString::from("nuke\tcomp\r"),
        ];
        for (i, name) in names.into_iter().enumerate() {
            let seed = mixed(0xbad + i as u64);
            self.files.push(Planned {
                path: folder.join(name),
                seed,
                len: 1000 * i as u64 + 1,
            });
        }
        self
    }

    /// Writes it below `root`.
    pub fn write(&self, root: &Path) {
        for file in &self.files {
            write(&root.join(&file.path), file.seed, file.len);
        }
    }

    /// Bytes of all files.
    pub fn len(&self) -> u64 {
        self.files.iter().map(|f| f.len).sum()
    }
}

/// What is at a site, hidden temporary files too, but those that rclone's server leaves when it is killed. It may change
/// meanwhile.
pub fn files_at(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if !entry.file_name().as_encoded_bytes().starts_with(b".rclone_temp_put_")
                && let Ok(bytes) = fs::read(&path)
            {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// Fails, naming what differs, unless both have the same files.
pub fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (files_at(one), files_at(other));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (path, bytes) in &one {
        assert!(other[path] == *bytes, "{} differs", path.display());
    }
}
