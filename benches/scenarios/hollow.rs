//! What FUSE itself costs a walk: a host that holds no tree and makes up each listing from numbers, beside the same tree on
//! the disk.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, OpenFlags, ReplyAttr, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, Request, SessionACL,
};

use crate::Bench;
use crate::figures::{Report, Row, Target, Unit};
use crate::machine::drop_names;
use crate::tree::{FILES_PER_FOLDER, Walks, count, make, names};

const TTL: Duration = Duration::from_secs(3600);
const FILES: u64 = FILES_PER_FOLDER as u64;

/// The root holds folders, each of which holds files. Numbers: 1, then the folders', then the files'.
#[derive(Debug)]
struct Hollow {
    folders: u64,
}

impl Hollow {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino.0 > 1 + self.folders;
        FileAttr {
            ino,
            size: if is_file && ino.0 % 2 == 0 { 700 } else { 100 },
            blocks: 1,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if is_file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The first number in a folder, and how many follow it.
    fn inside(&self, dir: INodeNo) -> (u64, u64) {
        if dir == INodeNo::ROOT {
            (2, self.folders)
        } else {
            (2 + self.folders + (dir.0 - 2) * FILES, FILES)
        }
    }
}

fn name(ino: u64) -> String {
    format!("plate_v001.{ino:07}.exr")
}

impl Filesystem for Hollow {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As Backlot does; an older kernel does without.
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            config.add_capabilities(wanted).unwrap_or_default();
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.get(11..18)?.parse().ok());
        match number {
            Some(ino) => reply.entry(&TTL, &self.attr(INodeNo(ino)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        );
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (first, count) = self.inside(ino);
        for at in offset..count {
            let entry = INodeNo(first + at);
            if reply.add(entry, at + 1, self.attr(entry).kind, name(entry.0)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let (first, count) = self.inside(ino);
        for at in offset..count {
            let entry = INodeNo(first + at);
            if reply.add(entry, at + 1, name(entry.0), &TTL, &self.attr(entry), Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

fn walk(dir: &Path, expected: usize) -> Result<[f64; 2]> {
    Ok([count(dir, expected)?, count(dir, expected)?])
}

/// Takes the walks of `find`, over nothing and over the disk.
pub(crate) fn walks(bench: &Bench, report: &mut Report) -> Result<()> {
    drop_names()?;
    let (mount_point, disk) = (bench.dir.join("hollow"), bench.dir.join("hollow-disk"));
    std::fs::create_dir_all(&mount_point)?;
    make(&disk, bench.scale.tree_folders)?;
    let (files, expected) = (
        bench.scale.tree_folders * FILES_PER_FOLDER,
        bench.scale.tree_folders * FILES_PER_FOLDER / 2,
    );
    let mount = || {
        let mut config = Config::default();
        config.n_threads = Some(2);
        config.acl = SessionACL::Owner;
        let folders = bench.scale.tree_folders as u64;
        fuser::spawn_mount(Hollow { folders }, &mount_point, &config).context("mount")
    };
    let [mut hollow, mut plain]: [Walks; 2] = Default::default();
    for round in 0..bench.scale.rounds {
        for turn in [round, round + 1] {
            if turn % 2 == 0 {
                hollow.take(&bench.quiet, || {
                    let session = mount()?;
                    let [cold, warm] = walk(&mount_point, expected)?;
                    drop(session);
                    let session = mount()?;
                    let names = names(&mount_point)?;
                    drop(session);
                    Ok([cold, warm, names])
                })?;
            } else {
                plain.take(&bench.quiet, || {
                    drop_names()?;
                    let [cold, warm] = walk(&disk, expected)?;
                    drop_names()?;
                    Ok([cold, warm, names(&disk)?])
                })?;
            }
        }
    }
    let what = ["fresh mount / cold names", "again", "names only, fresh"];
    for ((what, ours), disk) in what.into_iter().zip(hollow.0).zip(plain.0) {
        report.add(Row {
            scenario: "floor",
            what: format!("a FUSE host that makes up its listings: find -size over {files} files, {what}"),
            unit: Unit::Seconds,
            ours,
            beside: Some(("ext4".to_owned(), disk)),
            target: Target::None,
        });
    }
    Ok(())
}
