//! Looking at, reading and moving files below a root. Blocking.
//!
//! Owns: one system call's worth of meaning each. Refuses to know: threads, time-outs. Invariant: a chunk is given out
//! only if the open file was the version asked for both before and after its bytes were read.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{
    AtFlags, Dir, FileType, OFlags, Stat, fgetxattr, fstat, fstatvfs, readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::error::{errno, io_error};
use super::root::Root;
use crate::model::{EntryKind, Name, RelPath, Version};
use crate::providers::upload::is_temp_name;
use crate::providers::{Entry, ErrorKind, FileHash, HashKind, Listed, Op, ProviderError, SiteSpace};

/// Rows fetched in one go.
const ROWS: usize = 1024;

pub(super) fn version(stat: &Stat) -> Version {
    Version::from_size_mtime(size(stat), mtime_ns(stat))
}

pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

pub(super) fn mtime_ns(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Returns the entry of what was looked at; `None` for devices, pipes and sockets, which are not shown.
fn entry(stat: &Stat, target: impl FnOnce() -> rustix::io::Result<Vec<u8>>) -> rustix::io::Result<Option<Entry>> {
    let (kind, target) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => (EntryKind::File, None),
        FileType::Directory => (EntryKind::Dir, None),
        FileType::Symlink => (EntryKind::Symlink, Some(target()?)),
        _ => return Ok(None),
    };
    let size = if kind == EntryKind::Dir { 0 } else { size(stat) };
    let mtime_ns = mtime_ns(stat);
    let perm = u16::try_from(stat.st_mode & 0o7777).ok();
    Ok(Some(Entry {
        kind,
        size,
        mtime_ns,
        perm,
        version: Version::from_size_mtime(size, mtime_ns),
        target,
    }))
}

pub(super) fn stat(root: &Root, path: &RelPath) -> Result<Entry, ProviderError> {
    let fail = |e| errno(Op::Stat, Some(path), e);
    let fd = root.open_at(path, OFlags::PATH, Op::Stat)?;
    let stat = fstat(&fd).map_err(fail)?;
    let target = || readlinkat(&fd, "", Vec::new()).map(std::ffi::CString::into_bytes);
    let no_file = || {
        ProviderError::new(ErrorKind::WrongKind, Op::Stat)
            .at(path)
            .because("neither file, folder nor link")
    };
    entry(&stat, target).map_err(fail)?.ok_or_else(no_file)
}

/// Returns some rows of a folder, and where to go on; no rows is the end.
pub(super) fn list_some(root: &Root, path: &RelPath, dir: Option<Dir>) -> Result<(Vec<Listed>, Dir), ProviderError> {
    let fail = |e| errno(Op::List, Some(path), e);
    let mut dir = match dir {
        Some(dir) => dir,
        None => Dir::new(root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Op::List)?).map_err(fail)?,
    };
    let mut rows = Vec::new();
    while rows.len() < ROWS {
        let Some(found) = dir.read() else { break };
        let found = found.map_err(fail)?;
        let bytes = found.file_name().to_bytes();
        if bytes == b"." || bytes == b".." || is_temp_name(bytes) {
            continue;
        }
        let name = match Name::new(bytes) {
            Ok(name) => name,
            Err(why) => {
                warn!(folder = %path, %why, "an entry is not shown");
                continue;
            }
        };
        let here = dir.fd().map_err(fail)?;
        let looked = statat(here, &*name, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
            entry(&stat, || {
                readlinkat(here, &*name, Vec::new()).map(std::ffi::CString::into_bytes)
            })
        });
        match looked {
            Ok(Some(entry)) => rows.push(Listed { name, entry }),
            Ok(None) => debug!(folder = %path, %name, "neither file, folder nor link: not shown"),
            // Removed, or no link any more, since the folder was read.
            Err(Errno::NOENT | Errno::INVAL) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Ok((rows, dir))
}

/// Where `shatag` and `cshatag` keep the SHA-256 of a file, and the time of its last change when they took it.
const HASH_ATTRIBUTE: &str = "user.shatag.sha256";
const HASH_TIME: &str = "user.shatag.ts";
/// Those programs keep that time no finer than this, in nanoseconds.
const HASH_TIME_STEP: u64 = 1_000;

/// Returns the hash that somebody has noted with a file, if it is of these bytes.
pub(super) fn hash(root: &Root, path: &RelPath, at: &Version) -> Result<Option<FileHash>, ProviderError> {
    let file = open(root, path, at, &(0..0))?;
    let attribute = |name: &str| {
        let mut value = [0; 128];
        // Not there, or on a file system that has none.
        let len = fgetxattr(&file, name, &mut value).ok()?;
        Some(String::from_utf8_lossy(value.get(..len)?).trim().to_owned())
    };
    let Some(hex) = attribute(HASH_ATTRIBUTE) else {
        return Ok(None);
    };
    let stat = fstat(&file).map_err(|e| errno(Op::Stat, Some(path), e))?;
    let taken = attribute(HASH_TIME).and_then(|text| nanoseconds(&text));
    if taken.is_none_or(|taken| taken.abs_diff(mtime_ns(&stat)) > HASH_TIME_STEP) {
        debug!(%path, "the hash noted with it is of other bytes");
        return Ok(None);
    }
    let hash = FileHash::from_hex(HashKind::Sha256, &hex);
    if hash.is_none() {
        debug!(%path, "what is noted with it is no hash");
    }
    Ok(hash)
}

/// Reads seconds with a fraction, as in `1577836800.25`.
fn nanoseconds(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let seconds: i64 = seconds.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(digits.parse().ok()?)
}

/// Opens a file for reading a range of one version.
pub(super) fn open(root: &Root, path: &RelPath, at: &Version, range: &Range<u64>) -> Result<File, ProviderError> {
    let fd = root.open_at(path, OFlags::RDONLY, Op::Read)?;
    let stat = fstat(&fd).map_err(|e| errno(Op::Read, Some(path), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ProviderError::new(ErrorKind::WrongKind, Op::Read).at(path));
    }
    check(&stat, path, at)?;
    if range.end.max(range.start) > size(&stat) {
        return Err(mismatch(path, "the file is shorter than the range"));
    }
    Ok(File::from(fd))
}

fn mismatch(path: &RelPath, why: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorKind::VersionMismatch, Op::Read)
        .at(path)
        .because(why.into())
}

fn check(stat: &Stat, path: &RelPath, at: &Version) -> Result<(), ProviderError> {
    let found = version(stat);
    if found == *at {
        Ok(())
    } else {
        Err(mismatch(path, format!("expected version {at}, found {found}")))
    }
}

pub(super) fn read_chunk(file: &File, path: &RelPath, at: &Version, range: Range<u64>) -> Result<Bytes, ProviderError> {
    let look = || fstat(file.as_fd()).map_err(|e| errno(Op::Read, Some(path), e));
    check(&look()?, path, at)?;
    let len = usize::try_from(range.end - range.start).unwrap_or(0);
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, range.start) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(mismatch(path, "the file was cut short while it was read"));
        }
        Err(e) => return Err(io_error(Op::Read, path, e)),
    }
    check(&look()?, path, at)?;
    Ok(bytes.into())
}

pub(super) fn rename(root: &Root, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
    let source = root.place(from, Op::Rename)?;
    let target = root.place(to, Op::Rename)?;
    renameat(&source.dir, &*source.name, &target.dir, &*target.name).map_err(|e| match e {
        // What some file systems say of a folder with entries.
        Errno::EXIST => errno(Op::Rename, Some(to), Errno::NOTEMPTY),
        e => errno(Op::Rename, Some(from), e),
    })
}

pub(super) fn delete(root: &Root, path: &RelPath) -> Result<(), ProviderError> {
    let place = root.place(path, Op::Delete)?;
    let gone = match unlinkat(&place.dir, &*place.name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(&place.dir, &*place.name, AtFlags::REMOVEDIR),
        other => other,
    };
    gone.map_err(|e| match e {
        Errno::EXIST => errno(Op::Delete, Some(path), Errno::NOTEMPTY),
        e => errno(Op::Delete, Some(path), e),
    })
}

pub(super) fn space(root: &Root) -> Result<SiteSpace, ProviderError> {
    let stat = fstatvfs(root.open(Op::Space)?).map_err(|e| errno(Op::Space, None, e))?;
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    Ok(SiteSpace {
        total,
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}
