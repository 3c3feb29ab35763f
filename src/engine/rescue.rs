//! Writes out what is kept in `local/` as a plain tree, with nothing but that folder: no database, no daemon, no site.
//!
//! Owns: which objects there are, where each goes, and that all of its bytes get there. Refuses to know: drives, stores.
//! Invariants: the source is only read; no file that is there is overwritten; no label leads out of the target.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{SeekFrom, fgetxattr, seek};
use rustix::io::Errno;

use super::objects::{DIR, FOUND, PATH_LABEL, number_of};
use crate::model::RelPath;

/// Where objects go that bear no path, or none that can be used.
pub const UNNAMED: &str = "unnamed";
/// Bytes copied at a time.
const STEP: usize = 1 << 20;
/// The longest path that a label can hold: Linux's own limit.
const LABEL_MAX: usize = 4096;
/// Files of one path that are told apart by a number.
const TWINS_MAX: u32 = 10_000;

/// An object that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub file: PathBuf,
    /// The path in the drive that it bears; `None` where there is none, or one that leads nowhere.
    pub path: Option<RelPath>,
    /// When it was written last.
    modified: SystemTime,
}

/// An object that was written out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where it is now.
    pub to: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// It bears no path that could be used.
    pub unnamed: bool,
}

/// Finds the objects of a data folder; of those with one path, the one that was written last comes first.
///
/// # Errors
/// When the folder can't be read. What can't be read of a single object shows when it is written out.
pub fn find(data_dir: &Path) -> io::Result<Vec<Found>> {
    let local = data_dir.join(DIR);
    let mut found = Vec::new();
    for shelf in fs::read_dir(&local)? {
        let shelf = shelf?;
        let name = shelf.file_name();
        let is_shelf = name.as_bytes() == FOUND.as_bytes() || name.len() == 2;
        if !is_shelf || !shelf.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(shelf.path())? {
            let entry = entry?;
            let (Some(number), true) = (number_of(&entry.file_name()), entry.file_type()?.is_file()) else {
                continue;
            };
            let file = entry.path();
            found.push(Found {
                number,
                path: label(&file).and_then(|label| usable(&label)),
                modified: entry
                    .metadata()
                    .and_then(|m| m.modified())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                file,
            });
        }
    }
    found.sort_by(|a, b| (&a.path, b.modified, a.number).cmp(&(&b.path, a.modified, b.number)));
    Ok(found)
}

fn label(file: &Path) -> Option<Vec<u8>> {
    let file = File::open(file).ok()?;
    let mut value = vec![0_u8; LABEL_MAX];
    let length = fgetxattr(file.as_fd(), PATH_LABEL, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// Takes a label as a path that stays where it is put: without a slash in front, `.` and `..`.
fn usable(label: &[u8]) -> Option<RelPath> {
    let parts = label
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    let path = RelPath::new(parts.collect::<Vec<_>>().join(&b'/')).ok()?;
    (!path.is_root()).then_some(path)
}

/// Leaves out objects with one of these numbers, and returns how many those were.
pub fn leave_out(found: &mut Vec<Found>, numbers: &HashSet<u64>) -> usize {
    let before = found.len();
    // What was put aside is nobody's, whatever the number.
    found.retain(|object| !numbers.contains(&object.number) || object.is_put_aside());
    before - found.len()
}

impl Found {
    /// Says whether it was put aside because no store knew it.
    #[must_use]
    pub fn is_put_aside(&self) -> bool {
        let shelf = self.file.parent().and_then(Path::file_name);
        shelf.is_some_and(|shelf| shelf.as_bytes() == FOUND.as_bytes())
    }
}

/// Writes an object out below a folder, under the path that it bears.
///
/// # Errors
/// When it can't be read or written whole; nothing of it is left then.
pub fn write_out(object: &Found, below: &Path) -> io::Result<Written> {
    let from = File::open(&object.file)?;
    let unnamed = |size| {
        let (to, file) = make(&below.join(UNNAMED).join(format!("{:016x}", object.number)))?;
        Ok::<_, io::Error>((to, file, size))
    };
    let size = from.metadata()?.size();
    let named = object.path.as_ref().map(|path| make(&below.join(path.as_os_str())));
    let (is_unnamed, (to, file, size)) = match named {
        Some(Ok((to, file))) => (false, (to, file, size)),
        // Another object's path is a folder of this one's, or the other way round; or the name is too long here.
        Some(Err(e)) if is_in_the_way(&e) => (true, unnamed(size)?),
        Some(Err(e)) => return Err(e),
        None => (true, unnamed(size)?),
    };
    match copy(&from, &file, size).and_then(|()| file.set_modified(object.modified)) {
        Ok(()) => Ok(Written {
            to,
            size,
            unnamed: is_unnamed,
        }),
        Err(e) => {
            // Made above, and by nobody else.
            drop(fs::remove_file(&to));
            Err(e)
        }
    }
}

fn is_in_the_way(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::NotADirectory | K::IsADirectory | K::AlreadyExists | K::InvalidFilename
    )
}

/// Makes a new file: under this path or, where something has that, under it with a number behind.
fn make(wanted: &Path) -> io::Result<(PathBuf, File)> {
    if let Some(dir) = wanted.parent() {
        fs::create_dir_all(dir)?;
    }
    for twin in 0..TWINS_MAX {
        let to = if twin == 0 {
            wanted.to_owned()
        } else {
            let mut name = wanted.as_os_str().as_bytes().to_vec();
            name.extend_from_slice(format!(".{twin}").as_bytes());
            PathBuf::from(std::ffi::OsString::from_vec(name))
        };
        match File::options().write(true).create_new(true).open(&to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            out => return out.map(|file| (to, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Copies all bytes; holes stay holes.
fn copy(from: &File, to: &File, size: u64) -> io::Result<()> {
    to.set_len(size)?;
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    while at < size {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(from, SeekFrom::Hole(at))?.min(size);
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
            from.read_exact_at(&mut buffer[..step], at)?;
            to.write_all_at(&buffer[..step], at)?;
            at += step as u64;
        }
    }
    to.sync_all()?;
    let (written, now) = (to.metadata()?.size(), from.metadata()?.size());
    if written != size || now != size {
        let why = format!("{now} bytes here, {written} written: it was changed meanwhile");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{XattrFlags, fsetxattr};
    use std::time::Duration;

    struct Rig {
        _dir: tempfile::TempDir,
        data: PathBuf,
        out: PathBuf,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (data, out) = (dir.path().join("data"), dir.path().join("out"));
        fs::create_dir_all(data.join(DIR).join(FOUND)).unwrap();
        fs::create_dir(&out).unwrap();
        Rig { _dir: dir, data, out }
    }

    impl Rig {
        /// Makes an object that was written so many seconds after 1970. False: labels can't be had here.
        fn object(&self, number: u64, label: Option<&[u8]>, text: &[u8], seconds: u64) -> bool {
            let shelf = self.data.join(DIR).join(format!("{:02x}", number & 0xff));
            fs::create_dir_all(&shelf).unwrap();
            let file = File::create(shelf.join(format!("{number:016x}.obj"))).unwrap();
            file.write_all_at(text, 0).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                .unwrap();
            label.is_none_or(|label| fsetxattr(file.as_fd(), PATH_LABEL, label, XattrFlags::empty()).is_ok())
        }

        fn write_all(&self) -> Vec<Written> {
            let found = find(&self.data).unwrap();
            found
                .iter()
                .map(|object| write_out(object, &self.out).unwrap())
                .collect()
        }

        fn text(&self, path: &str) -> Vec<u8> {
            fs::read(self.out.join(path)).unwrap()
        }
    }

    #[test]
    fn each_object_gets_its_path_and_the_newest_of_twins_the_plain_one() {
        let rig = rig();
        if !rig.object(1, Some(b"show/publish/a.exr"), b"old", 1000) {
            return;
        }
        rig.object(2, Some(b"show/publish/a.exr"), b"new", 2000);
        rig.object(0x1_0003, None, b"nameless", 3000);
        fs::write(rig.data.join(DIR).join("01/notes.txt"), b"not ours").unwrap();
        assert_eq!(rig.write_all().len(), 3);
        assert_eq!(rig.text("show/publish/a.exr"), b"new");
        assert_eq!(rig.text("show/publish/a.exr.1"), b"old");
        assert_eq!(rig.text("unnamed/0000000000010003"), b"nameless");
        let mtime = fs::metadata(rig.out.join("show/publish/a.exr.1")).unwrap().mtime();
        assert_eq!(mtime, 1000);
        // Again, beside what is there.
        rig.write_all();
        assert_eq!(rig.text("show/publish/a.exr"), b"new");
        assert_eq!(rig.text("show/publish/a.exr.2"), b"new");
    }

    #[test]
    fn no_label_leads_out_of_the_target() {
        for (label, path) in [
            (&b"/etc/passwd"[..], Some("etc/passwd")),
            (b"a/../../b", None),
            (b"..", None),
            (b"", None),
            (b"./a//b/", Some("a/b")),
            (b"a\0b", None),
        ] {
            assert_eq!(usable(label).map(|path| path.to_string()).as_deref(), path, "{label:?}");
        }
    }

    #[test]
    fn a_path_that_is_another_ones_folder_goes_to_the_unnamed() {
        let rig = rig();
        if !rig.object(1, Some(b"show/a"), b"file", 1) {
            return;
        }
        rig.object(2, Some(b"show/a/b"), b"below", 2);
        let written = rig.write_all();
        assert_eq!(rig.text("show/a"), b"file");
        assert_eq!(rig.text("unnamed/0000000000000002"), b"below");
        assert!(written.iter().any(|written| written.unnamed));
    }

    #[test]
    fn holes_stay_holes() {
        let rig = rig();
        if !rig.object(1, Some(b"show/sparse"), b"begin", 1) {
            return;
        }
        let file = rig.data.join(DIR).join("01/0000000000000001.obj");
        let file = File::options().write(true).open(file).unwrap();
        file.write_all_at(b"middle", 64 << 20).unwrap();
        file.set_len(256 << 20).unwrap();
        rig.write_all();
        let out = File::open(rig.out.join("show/sparse")).unwrap();
        let m = out.metadata().unwrap();
        assert_eq!(m.size(), 256 << 20);
        assert!(m.blocks() * 512 < 8 << 20, "{} blocks", m.blocks());
        let mut middle = [0; 6];
        out.read_exact_at(&mut middle, 64 << 20).unwrap();
        assert_eq!(&middle, b"middle");
    }

    #[test]
    fn what_was_put_aside_is_written_out_and_what_is_left_out_is_not() {
        let rig = rig();
        rig.object(1, None, b"trash", 1);
        let aside = rig.data.join(DIR).join(FOUND).join("0000000000000001.obj");
        fs::write(aside, b"aside").unwrap();
        let mut found = find(&rig.data).unwrap();
        assert_eq!(leave_out(&mut found, &HashSet::from([1])), 1);
        write_out(&found[0], &rig.out).unwrap();
        assert_eq!(rig.text("unnamed/0000000000000001"), b"aside");
    }
}
