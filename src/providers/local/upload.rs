//! Uploads into a folder: a hidden file beside the target, then a rename. Blocking.
//!
//! Owns: the temporary file's life. Refuses to know: threads, time-outs. Invariant: the target's name leads to the old
//! file or to the new one, whole and on disk, at every moment, a power cut included.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, fdatasync, fstat, fsync,
    futimens, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::error::{errno, io_error};
use super::files::version;
use super::root::{Place, Root, beneath, checked};
use crate::model::{Name, RelPath, Version};
use crate::providers::upload::{already_committed, check_expect};
use crate::providers::{ErrorKind, Op, ProviderError, UploadPlan, UploadToken};

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
    let fail = |e| errno(Op::Commit, Some(&plan.path), e);
    let place = root.place(&plan.path, Op::Commit)?;
    let temp = temp_name(&plan.path, &token.state, Op::Commit)?;
    let file = match open_in(&place, &plan.path, &temp, Op::Commit) {
        Err(e) if e.kind == ErrorKind::NotFound => {
            let planned = Version::from_size_mtime(plan.size, plan.mtime_ns);
            return match look(&place, &plan.path)? {
                Some(found) if already_committed(expect, &found, &planned) => Ok(found),
                _ => Err(e),
            };
        }
        other => other?,
    };
    let arrived = u64::try_from(fstat(&file).map_err(fail)?.st_size).unwrap_or(0);
    if arrived != plan.size {
        let why = format!("{arrived} bytes arrived of {}", plan.size);
        return Err(ProviderError::new(ErrorKind::Invalid, Op::Commit)
            .at(&plan.path)
            .because(why));
    }
    finish(&file, plan).map_err(fail)?;
    check_expect(&plan.path, expect, look(&place, &plan.path)?.as_ref())?;
    replace(&place, &temp, expect == Some(None)).map_err(|e| match e {
        Errno::EXIST if expect == Some(None) => ProviderError::new(ErrorKind::VersionMismatch, Op::Commit)
            .at(&plan.path)
            .because("expected nothing there"),
        e => fail(e),
    })?;
    fsync(&place.dir).map_err(fail)?;
    Ok(version(&fstat(&file).map_err(fail)?))
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

/// Returns the version of the file or link at the target.
fn look(place: &Place, path: &RelPath) -> Result<Option<Version>, ProviderError> {
    match statat(&place.dir, &*place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(ProviderError::new(ErrorKind::WrongKind, Op::Commit)
                .at(path)
                .because("a folder has the name"))
        }
        Ok(stat) => Ok(Some(version(&stat))),
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
