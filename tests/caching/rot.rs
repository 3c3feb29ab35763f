//! Turning bytes over in the cache's data files, as a failing disk does.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::tree::Random;

/// The cache's unit of checksums, in bytes.
pub(crate) const GRANULE: u64 = 64 << 10;

/// The data files below a cache folder, but for the beginnings and ends that are kept apart.
pub(crate) fn data_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && path.file_name().is_some_and(|name| name == "heads") => {}
            Ok(kind) if kind.is_dir() => found.extend(data_files(&path)),
            Ok(_) if path.extension().is_some_and(|e| e == "data") => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

/// A granule of a data file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Spot {
    pub(crate) file: PathBuf,
    pub(crate) granule: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
}

/// All granules of data files that are all here.
pub(crate) fn spots(dir: &Path) -> Vec<Spot> {
    let mut spots = Vec::new();
    for file in data_files(dir) {
        let len = fs::metadata(&file).unwrap().len();
        spots.extend((0..len.div_ceil(GRANULE)).map(|granule| Spot {
            file: file.clone(),
            granule,
            len: (len - granule * GRANULE).min(GRANULE),
        }));
    }
    spots
}

/// Chooses `count` of them.
pub(crate) fn some_of(mut spots: Vec<Spot>, count: usize, random: &mut Random) -> Vec<Spot> {
    assert!(spots.len() >= count, "{} granules are here", spots.len());
    for at in 0..count {
        let other = at + usize::try_from(random.below((spots.len() - at) as u64)).unwrap();
        spots.swap(at, other);
    }
    spots.truncate(count);
    spots
}

impl Spot {
    /// Changes one byte of it on the disk; proves that it is another one.
    pub(crate) fn flip(&self, random: &mut Random) {
        let file = OpenOptions::new().read(true).write(true).open(&self.file).unwrap();
        let at = self.granule * GRANULE + random.below(self.len);
        let byte = byte_at(&file, at);
        let other = byte ^ u8::try_from(1 + random.below(255)).unwrap();
        file.write_all_at(&[other], at).unwrap();
        assert_ne!(byte_at(&file, at), byte, "the fault fired");
    }
}

fn byte_at(file: &File, at: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0]
}
