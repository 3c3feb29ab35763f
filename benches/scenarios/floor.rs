//! What FUSE itself costs: a host that answers every request at once and does nothing, beside the disk. No drive can be
//! faster at what it answers by itself; what is left between this and Backlot's figures is Backlot's doing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, SessionACL, WriteFlags,
};

use crate::Bench;
use crate::figures::{Report, Row, Samples, Target, Unit};
use crate::process::interrupted;
use crate::resident::sequential;
use crate::writing::{SMALL as NEW_FILE, small_name};

/// As in `metadata`.
const FILES: usize = 1_000;
const FILE: usize = 8 << 10;
const WRITE: usize = 1 << 20;
/// A file that is read from start to end.
const BIG: &str = "big";
/// As much as the kernel asks for at once.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
const TTL: Duration = Duration::from_secs(3600);

/// One folder; names are remembered, bytes are not.
#[derive(Debug, Default)]
struct Nothing {
    names: Mutex<HashMap<Vec<u8>, u64>>,
    sizes: Mutex<HashMap<u64, u64>>,
    next: AtomicU64,
}

impl Nothing {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_root = ino == INodeNo::ROOT;
        let size = self
            .sizes
            .lock()
            .map_or(0, |sizes| sizes.get(&ino.0).copied().unwrap_or(0));
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn add(&self, name: &OsStr, size: u64) -> INodeNo {
        let ino = 2 + self.next.fetch_add(1, Ordering::Relaxed);
        if let (Ok(mut names), Ok(mut sizes)) = (self.names.lock(), self.sizes.lock()) {
            names.insert(name.as_encoded_bytes().to_vec(), ino);
            sizes.insert(ino, size);
        }
        INodeNo(ino)
    }
}

impl Filesystem for Nothing {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As Backlot does, where it matters here; an older kernel does without.
        config
            .add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
            .unwrap_or_default();
        config.set_max_write(1 << 20).unwrap_or_default();
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self
            .names
            .lock()
            .ok()
            .and_then(|names| names.get(name.as_encoded_bytes()).copied());
        match found {
            Some(ino) => reply.entry(&TTL, &self.attr(INodeNo(ino)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // As Backlot's resident files are opened to be read.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.attr(ino).size.saturating_sub(offset);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        reply.data(&ZEROS[..left.min(size as usize).min(ZEROS.len())]);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let ino = self.add(name, 0);
        reply.created(
            &TTL,
            &self.attr(ino),
            Generation(0),
            FileHandle(0),
            FopenFlags::FOPEN_KEEP_CACHE,
        );
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Ok(mut sizes) = self.sizes.lock() {
            let size = sizes.entry(ino.0).or_default();
            *size = (*size).max(offset + data.len() as u64);
        }
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

struct Times([f64; 4]);

/// Opens, reads and closes; makes small files; writes a large one; reads one that the kernel has in its pages. As `metadata`,
/// `write` and `resident` do.
fn take(bench: &Bench, dir: &Path, round: usize) -> Result<Times> {
    ensure!(!interrupted(), "interrupted");
    let begin = Instant::now();
    for number in 0..FILES {
        let bytes = std::fs::read(dir.join(known(number)))?;
        ensure!(bytes.len() == FILE, "half a file");
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    let opened = FILES as f64 / begin.elapsed().as_secs_f64();
    let bytes = vec![7_u8; WRITE];
    let begin = Instant::now();
    for number in 0..bench.scale.small_files {
        File::create(dir.join(format!("{round}-{}", small_name(number))))?.write_all(&bytes[..NEW_FILE])?;
    }
    let made = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut file = File::create(dir.join(format!("{round}-big")))?;
    for _ in 0..bench.scale.big_bytes / WRITE as u64 {
        file.write_all(&bytes)?;
    }
    drop(file);
    let written = begin.elapsed().as_secs_f64();
    // In the kernel's pages from here on.
    sequential(&dir.join(BIG), bench.scale.big_bytes)?;
    let again = sequential(&dir.join(BIG), bench.scale.big_bytes)?;
    Ok(Times([opened, made, written, again]))
}

fn write_zeros(path: &Path, len: u64) -> Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..len / ZEROS.len() as u64 {
        file.write_all(&ZEROS)?;
    }
    Ok(())
}

fn known(number: usize) -> String {
    format!("f{number:05}")
}

pub(crate) fn floor(bench: &Bench, report: &mut Report) -> Result<()> {
    let (mount_point, disk) = (bench.dir.join("floor"), bench.dir.join("floor-disk"));
    for dir in [&mount_point, &disk] {
        std::fs::create_dir_all(dir)?;
    }
    let nothing = Nothing::default();
    for number in 0..FILES {
        nothing.add(OsStr::new(&known(number)), FILE as u64);
        std::fs::write(disk.join(known(number)), [0; FILE])?;
    }
    nothing.add(OsStr::new(BIG), bench.scale.big_bytes);
    write_zeros(&disk.join(BIG), bench.scale.big_bytes)?;
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.acl = SessionACL::Owner;
    let session = fuser::spawn_mount(nothing, &mount_point, &config).context("mount")?;
    let [mut empty, mut plain]: [[Samples; 4]; 2] = Default::default();
    for round in 0..bench.scale.rounds {
        for turn in [round, round + 1] {
            let (dir, samples) = if turn % 2 == 0 {
                (&mount_point, &mut empty)
            } else {
                (&disk, &mut plain)
            };
            let (times, seen) = bench.quiet.round(|| take(bench, dir, 2 * round + turn))?;
            for (samples, value) in samples.iter_mut().zip(times.0) {
                samples.push(value, seen);
            }
        }
    }
    drop(session);
    let rows = [
        ("open, read, close of files of 8 KiB".to_owned(), Unit::PerSecond),
        (
            format!("{} files of 10 KiB made", bench.scale.small_files),
            Unit::Seconds,
        ),
        (
            format!("{} MiB written, and thrown away", bench.scale.big_bytes >> 20),
            Unit::Seconds,
        ),
        (
            format!(
                "{} MiB read again, out of the kernel's pages",
                bench.scale.big_bytes >> 20
            ),
            Unit::MegabytesPerSecond,
        ),
    ];
    for ((what, unit), (ours, disk)) in rows.into_iter().zip(empty.into_iter().zip(plain)) {
        report.add(Row {
            scenario: "floor",
            what: format!("a FUSE host that does nothing: {what}"),
            unit,
            ours,
            beside: Some(("ext4".to_owned(), disk)),
            target: Target::None,
        });
    }
    crate::hollow::walks(bench, report)
}
