//! The folder that a local site is confined to.
//!
//! Owns: opening what lies below the root. Refuses to know: what is done with it. Invariant: nothing outside the root is
//! ever opened through it: no symbolic link is followed below it, so that links are shown as links and lead nowhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::error::errno;
use crate::model::{Name, RelPath};
use crate::providers::{ErrorKind, Op, ProviderError};

/// Linux's PATH_MAX: the kernel takes no longer path in one call, its closing NUL included.
const PATH_MAX: usize = 4096;

/// `statfs` types of file systems that come from elsewhere: NFS, SMB (three of them), AFS, Ceph, Lustre, FUSE, 9p, GPFS.
const NETWORK: [i64; 10] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x5346_414f,
    0x00c3_6400,
    0x0bd0_0bd0,
    0x6573_5546,
    0x0102_1997,
    0x4750_4653,
];

/// The root folder of a site.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// A file server was seen mounted here. From then on the bare mount point is "unreachable", not "all deleted".
    from_network: AtomicBool,
}

/// The last step to an entry: its folder, opened, and its name in there.
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    pub(super) name: Name,
}

impl Root {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            from_network: AtomicBool::new(false),
        }
    }

    /// Opens the root itself. A root that can't be opened is a site out of reach: nothing below it is thereby gone.
    pub(super) fn open(&self, op: Op) -> Result<OwnedFd, ProviderError> {
        let away = |why: String| {
            ProviderError::new(ErrorKind::Unreachable, op).because(format!("the folder {}: {why}", self.path.display()))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &self.path, flags, Mode::empty()).map_err(|e| match e {
            Errno::ACCESS | Errno::PERM => errno(op, None, e),
            Errno::NOENT => away("is not there; is the file server mounted?".to_owned()),
            _ => away(e.to_string()),
        })?;
        // Never loses bits that matter: the types are 32-bit numbers, sign-extended on some machines.
        let kind = fstatfs(&root).map_err(|e| away(e.to_string()))?.f_type & 0xffff_ffff;
        if NETWORK.contains(&kind) {
            self.from_network.store(true, Relaxed);
        } else if self.from_network.load(Relaxed) {
            return Err(away(
                "held a file server's share before, and now doesn't; mount it again".to_owned(),
            ));
        }
        Ok(root)
    }

    /// Opens what is at a path, links refused.
    pub(super) fn open_at(&self, path: &RelPath, flags: OFlags, op: Op) -> Result<OwnedFd, ProviderError> {
        let root = self.open(op)?;
        if path.is_root() {
            return beneath(root.as_fd(), b".", flags, Mode::empty()).map_err(|e| errno(op, Some(path), e));
        }
        beneath(root.as_fd(), checked(path, op)?, flags, Mode::empty()).map_err(|e| errno(op, Some(path), e))
    }

    /// Opens the folder that holds a path; the root has none.
    pub(super) fn place(&self, path: &RelPath, op: Op) -> Result<Place, ProviderError> {
        checked(path, op)?;
        let Some((dir, name)) = path.split_last() else {
            return Err(ProviderError::new(ErrorKind::Invalid, op)
                .at(path)
                .because("the root stays as it is"));
        };
        let dir = self
            .open_at(&dir, OFlags::RDONLY | OFlags::DIRECTORY, op)
            .map_err(|e| e.at(path))?;
        Ok(Place { dir, name })
    }

    /// Makes a folder and those above it, and returns it opened.
    pub(super) fn make_dir(&self, path: &RelPath, op: Op) -> Result<OwnedFd, ProviderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open_at(path, flags, op) {
            Err(e) if e.kind == ErrorKind::NotFound => {}
            done => return done,
        }
        let fail = |e| errno(op, Some(path), e);
        let mut dir = self.open_at(&RelPath::root(), flags, op)?;
        for name in path.components() {
            match mkdirat(&dir, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(fail(e)),
            }
            dir = beneath(dir.as_fd(), name, flags, Mode::empty()).map_err(fail)?;
        }
        Ok(dir)
    }
}

pub(super) fn checked(path: &RelPath, op: Op) -> Result<&[u8], ProviderError> {
    if path.as_bytes().len() < PATH_MAX {
        return Ok(path.as_bytes());
    }
    Err(ProviderError::new(ErrorKind::Invalid, op)
        .at(path)
        .because(format!("a path of {PATH_MAX} bytes or more")))
}

/// Opens a path below `dir` without following any link; the last component may be one when `flags` has PATH.
pub(super) fn beneath(
    dir: std::os::fd::BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let mut flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if !flags.contains(OFlags::PATH) {
        // Opening a named pipe must not wait for its other end. (`openat2` refuses this flag together with PATH.)
        flags |= OFlags::NONBLOCK;
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, flags, mode, resolve) {
        // Kernels before 5.6 lack the call, and some sandboxes refuse it.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(dir, path, flags, mode),
        out => out,
    }
}

/// What `openat2` does, one component at a time: a link in the middle ends it with LOOP or NOTDIR.
fn step_by_step(
    dir: std::os::fd::BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut parts = path.split(|b| *b == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let here = at.as_ref().map_or(dir, AsFd::as_fd);
        let last = parts.peek().is_none();
        at = Some(if last {
            openat(here, part, flags, mode)?
        } else {
            openat(here, part, step, Mode::empty())?
        });
    }
    at.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Open = fn(std::os::fd::BorrowedFd<'_>, &[u8], OFlags, Mode) -> rustix::io::Result<OwnedFd>;

    #[test]
    fn both_ways_of_opening_refuse_every_link() {
        let dir = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), "in").unwrap();
        std::fs::write(out.path().join("secret"), "out").unwrap();
        symlink(out.path(), dir.path().join("away")).unwrap();
        symlink("sub", dir.path().join("inside")).unwrap();
        symlink("sub/file", dir.path().join("last")).unwrap();
        let root = openat(CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for open in [beneath as Open, step_by_step as Open] {
            let read = |path: &[u8]| {
                open(
                    root.as_fd(),
                    path,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )
            };
            assert!(read(b"sub/file").is_ok());
            for link in [&b"away/secret"[..], b"inside/file", b"last"] {
                let error = read(link).unwrap_err();
                assert!(matches!(error, Errno::LOOP | Errno::NOTDIR), "{error}");
            }
        }
    }

    #[test]
    fn a_root_that_is_away_is_unreachable() {
        let root = Root::new(Path::new("/nonexistent/root"));
        let error = root
            .open_at(&RelPath::new("a").unwrap(), OFlags::RDONLY, Op::Read)
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable);
    }

    #[test]
    fn a_share_that_was_unmounted_is_unreachable() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(root.open(Op::Stat).is_ok());
        root.from_network.store(true, Relaxed);
        assert_eq!(root.open(Op::Stat).unwrap_err().kind, ErrorKind::Unreachable);
    }
}
