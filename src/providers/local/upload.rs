//! Uploads into a folder: a hidden file beside the target, then a rename. Blocking.
//!
//! Owns: the temporary file's life. Refuses to know: threads, time-outs. Invariant: the target's name leads to the old
//! file or to the new one, whole and on disk, at every moment, a power cut included.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fchmod, fdatasync, fstat,
    fsync, futimens, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::error::{errno, io_error};
use super::files::{mtime_ns, size, version};
use super::root::{Place, Root, beneath, checked};
use crate::model::{Name, RelPath, Version};
use crate::providers::upload::{already_committed, check_expect};
use crate::providers::{ErrorKind, Op, ProviderError, UploadPlan, UploadToken};

/// No file system keeps times in longer steps, in nanoseconds: FAT's two seconds.
const COARSEST_STEP_NS: u64 = 2_000_000_000;

pub(super) fn begin(root: &Root, path: &RelPath, dir: &RelPath, temp: &Name) -> Result<(), ProviderError> {
    checked(path, Op::Upload)?;
    let dir = root.make_dir(dir, Op::Upload)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    // The umask decides who may read a file whose plan does not say.
    beneath(dir.as_fd(), temp, flags, Mode::from_raw_mode(0o666)).map_err(|e| errno(Op::Upload, Some(path), e))?;
    Ok(())
}

fn temp_name(path: &RelPath, name: &str, op: Op) -> Result<Name, ProviderError> {
    Name::new(name).map_err(|e| ProviderError::new(ErrorKind::Invalid, op).at(path).because(e))
}

/// Opens the temporary file of an upload that has begun.
pub(super) fn open(root: &Root, path: &RelPath, name: &str, op: Op) -> Result<File, ProviderError> {
    let place = root.place(path, op)?;
    open_in(&place, path, &temp_name(path, name, op)?, op)
}

fn open_in(place: &Place, path: &RelPath, temp: &Name, op: Op) -> Result<File, ProviderError> {
    let fd = beneath(place.dir.as_fd(), temp, OFlags::WRONLY, Mode::empty()).map_err(|e| errno(op, Some(path), e))?;
    Ok(File::from(fd))
}

pub(super) fn write(file: &File, path: &RelPath, bytes: &[u8], at: u64) -> Result<(), ProviderError> {
    file.write_all_at(bytes, at).map_err(|e| io_error(Op::Upload, path, e))
}

/// Brings what was written to the disk.
pub(super) fn settle(file: &File, path: &RelPath) -> Result<(), ProviderError> {
    fdatasync(file).map_err(|e| errno(Op::Upload, Some(path), e))
}

pub(super) fn commit(
    root: &Root,
    token: &UploadToken,
    expect: Option<Option<&Version>>,
) -> Result<Version, ProviderError> {
    let plan = &token.plan;
    match Arrived::open(root, token) {
        Err(e) if e.kind == ErrorKind::NotFound => {
            let planned = Version::from_size_mtime(plan.size, plan.mtime_ns);
            match look(&root.place(&plan.path, Op::Commit)?, &plan.path)? {
                Some(found) if already_committed(expect, &version(&found), &planned) => Ok(version(&found)),
                _ => Err(e),
            }
        }
        arrived => arrived?.put(plan, expect),
    }
}

/// What was sent, open for its commit. A commit that was given up goes on, and may give it its name at any moment.
struct Arrived {
    place: Place,
    temp: Name,
    file: File,
}

impl Arrived {
    fn open(root: &Root, token: &UploadToken) -> Result<Self, ProviderError> {
        let path = &token.plan.path;
        let place = root.place(path, Op::Commit)?;
        let temp = temp_name(path, &token.state, Op::Commit)?;
        let file = open_in(&place, path, &temp, Op::Commit)?;
        Ok(Self { place, temp, file })
    }

    fn put(&self, plan: &UploadPlan, expect: Option<Option<&Version>>) -> Result<Version, ProviderError> {
        let fail = |e| errno(Op::Commit, Some(&plan.path), e);
        if let Some(there) = self.find_itself(plan)? {
            return self.settled(plan, &there);
        }
        let arrived = u64::try_from(fstat(&self.file).map_err(fail)?.st_size).unwrap_or(0);
        if arrived != plan.size {
            let why = format!("{arrived} bytes arrived of {}", plan.size);
            return Err(ProviderError::new(ErrorKind::Invalid, Op::Commit)
                .at(&plan.path)
                .because(why));
        }
        finish(&self.file, plan).map_err(fail)?;
        if let Some(there) = self.find_itself(plan)? {
            return self.settled(plan, &there);
        }
        let found = look(&self.place, &plan.path)?.as_ref().map(version);
        check_expect(&plan.path, expect, found.as_ref())?;
        if let Err(e) = replace(&self.place, &self.temp, expect == Some(None)) {
            if let Some(there) = self.find_itself(plan)? {
                return self.settled(plan, &there);
            }
            return Err(match e {
                Errno::EXIST if expect == Some(None) => ProviderError::new(ErrorKind::VersionMismatch, Op::Commit)
                    .at(&plan.path)
                    .because("expected nothing there"),
                e => fail(e),
            });
        }
        self.settled(plan, &fstat(&self.file).map_err(fail)?)
    }

    /// Returns what is at the target if that is this very file. One that somebody wrote to since is a mismatch.
    fn find_itself(&self, plan: &UploadPlan) -> Result<Option<Stat>, ProviderError> {
        let own = fstat(&self.file).map_err(|e| errno(Op::Commit, Some(&plan.path), e))?;
        let there = look(&self.place, &plan.path)?;
        let Some(there) = there.filter(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)) else {
            return Ok(None);
        };
        let is_as_sent = size(&there) == plan.size && mtime_ns(&there).abs_diff(plan.mtime_ns) < COARSEST_STEP_NS;
        if !is_as_sent {
            return Err(ProviderError::new(ErrorKind::VersionMismatch, Op::Commit)
                .at(&plan.path)
                .because("it was put there, and is another by now"));
        }
        Ok(Some(there))
    }

    /// Makes sure that the name is on disk too.
    fn settled(&self, plan: &UploadPlan, there: &Stat) -> Result<Version, ProviderError> {
        fsync(&self.place.dir).map_err(|e| errno(Op::Commit, Some(&plan.path), e))?;
        Ok(version(there))
    }
}

/// Gives the file its attributes and brings it to the disk.
fn finish(file: &File, plan: &UploadPlan) -> rustix::io::Result<()> {
    if let Some(perm) = plan.perm {
        fchmod(file, Mode::from_raw_mode(u32::from(perm & 0o7777)))?;
    }
    let last_modification = Timespec {
        tv_sec: plan.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: plan.mtime_ns.rem_euclid(1_000_000_000),
    };
    let last_access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    futimens(
        file,
        &Timestamps {
            last_access,
            last_modification,
        },
    )?;
    fsync(file)
}

/// Returns the file or link at the target.
fn look(place: &Place, path: &RelPath) -> Result<Option<Stat>, ProviderError> {
    match statat(&place.dir, &*place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(ProviderError::new(ErrorKind::WrongKind, Op::Commit)
                .at(path)
                .because("a folder has the name"))
        }
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(errno(Op::Commit, Some(path), e)),
    }
}

fn replace(place: &Place, temp: &Name, must_be_new: bool) -> rustix::io::Result<()> {
    if must_be_new {
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(&place.dir, &**temp, &place.dir, &*place.name, flags) {
            // File systems without this flag: the look just before has to do.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            out => return out,
        }
    }
    renameat(&place.dir, &**temp, &place.dir, &*place.name)
}

pub(super) fn abort(root: &Root, path: &RelPath, name: &str) -> Result<(), ProviderError> {
    let temp = temp_name(path, name, Op::Abort)?;
    let place = match root.place(path, Op::Abort) {
        Err(e) if e.kind == ErrorKind::NotFound => return Ok(()),
        place => place?,
    };
    match unlinkat(&place.dir, &*temp, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(errno(Op::Abort, Some(path), e)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn sent(dir: &Path, nonce: &str, bytes: &[u8]) -> (Root, UploadToken) {
        let plan = UploadPlan {
            path: RelPath::new("a").unwrap(),
            size: bytes.len() as u64,
            mtime_ns: 1_234_567_890_123_456_789,
            perm: None,
            part_size: 1 << 20,
            nonce: nonce.to_owned(),
        };
        let root = Root::new(dir);
        let (folder, temp) = plan.begin().unwrap();
        begin(&root, &plan.path, &folder, &temp).unwrap();
        let state = temp.to_string();
        fs::write(dir.join(&state), bytes).unwrap();
        (root, UploadToken { plan, state })
    }

    /// A commit that was given up goes on, while it is asked for again.
    #[test]
    fn a_commit_that_meets_itself_is_no_mismatch() {
        for is_new in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (root, token) = sent(dir.path(), "n", b"ours");
            let base = (!is_new).then(|| {
                fs::write(dir.path().join("a"), "base").unwrap();
                version(&rustix::fs::stat(dir.path().join("a")).unwrap())
            });
            let expect = Some(base.as_ref());
            let (first, second) = (
                Arrived::open(&root, &token).unwrap(),
                Arrived::open(&root, &token).unwrap(),
            );
            let done = first.put(&token.plan, expect).unwrap();
            assert_eq!(second.put(&token.plan, expect).unwrap(), done);
            assert_eq!(commit(&root, &token, expect).unwrap(), done);
            assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"ours");
        }
    }

    #[test]
    fn what_somebody_wrote_into_it_since_is_a_mismatch() {
        let dir = tempfile::tempdir().unwrap();
        let (root, token) = sent(dir.path(), "n", b"ours");
        let (first, second) = (
            Arrived::open(&root, &token).unwrap(),
            Arrived::open(&root, &token).unwrap(),
        );
        first.put(&token.plan, Some(None)).unwrap();
        fs::write(dir.path().join("a"), "them").unwrap();
        let error = second.put(&token.plan, Some(None)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::VersionMismatch);
        let theirs = version(&rustix::fs::stat(dir.path().join("a")).unwrap());
        assert_ne!(
            theirs,
            Version::from_size_mtime(4, token.plan.mtime_ns),
            "its time is its own"
        );
    }

    #[test]
    fn an_upload_finds_another_one_there() {
        let dir = tempfile::tempdir().unwrap();
        let (root, one) = sent(dir.path(), "n", b"ours");
        let (_, two) = sent(dir.path(), "m", b"them");
        let first = Arrived::open(&root, &one).unwrap();
        commit(&root, &two, Some(None)).unwrap();
        let error = first.put(&one.plan, Some(None)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::VersionMismatch, "alike, and not the same file");
    }
}
