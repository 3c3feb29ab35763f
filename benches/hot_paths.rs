//! What single file operations cost in the engine and the store, without a kernel in between: `cargo bench --bench hot_paths`.
//!
//! A drive on a folder of this machine, 2,000 files of 8 KiB in 20 folders, scanned and read once. Times are of the caller's
//! thread; what an operation leaves to others (a row that is written 50 ms after a close) is not in them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a program for people to run and read"
)]

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backlot::engine::drive::Drive;
use backlot::engine::filesystem::DriveFs;
use backlot::model::{Ino, RelPath};
use backlot::state::StateStore;
use backlot_config::Loader;
use backlot_platform::types::{CaseMode, NewNode, NodeId, OpCx, OpenOptions};
use backlot_platform::vfs::VirtualFs;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const FOLDERS: u64 = 20;
const FILES: u64 = 100;
const CX: OpCx = OpCx {
    uid: 0,
    gid: 0,
    pid: 0,
    kill_privileges: false,
};
const READ: OpenOptions = OpenOptions {
    read: true,
    write: false,
    truncate: false,
    direct: false,
    takes_backing: false,
};
const WRITE: OpenOptions = OpenOptions { write: true, ..READ };

/// A drive whose files are all here, and where they are.
struct Rig {
    _dir: tempfile::TempDir,
    rt: Runtime,
    _drive: Drive,
    fs: DriveFs,
    store: std::path::PathBuf,
    folders: Vec<NodeId>,
    files: Vec<NodeId>,
}

fn name(n: u64) -> String {
    format!("plate_v001.{:04}.exr", 1001 + n)
}

fn plant(site: &Path) {
    for folder in 0..FOLDERS {
        let dir = site.join(format!("sh{folder:04}"));
        std::fs::create_dir_all(&dir).unwrap();
        for n in 0..FILES {
            std::fs::write(dir.join(name(n)), vec![u8::try_from(n).unwrap(); 8192]).unwrap();
        }
    }
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        plant(&at("site"));
        let quoted = |name: &str| serde_json::Value::from(at(name).to_str().unwrap()).to_string();
        let settings = format!(
            "schema_version = 1\n[drive]\nname = \"hot\"\nmount-point = {}\ndata-dir = {}\ncache-dir = {}\nsocket = {}\n\
             [projects.show]\nremote-site = \"site\"\nremote-path = \".\"\nscan-interval = \"24h\"\n\
             [sites.site]\nprovider = \"local\"\nroot = {}\n",
            quoted("mnt"),
            quoted("data"),
            quoted("cache"),
            quoted("socket"),
            quoted("site"),
        );
        std::fs::write(at("backlot.toml"), settings).unwrap();
        let loaded = Loader::new().config_file(Some(at("backlot.toml"))).load();
        let config = loaded.unwrap_or_else(|e| panic!("{e}")).config;
        let rt = Runtime::new().unwrap();
        let drive = rt.block_on(Drive::open(&config)).unwrap();
        let fs = drive.filesystem();
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        rt.block_on(async {
            for job in drive.scan(&RelPath::root()).unwrap() {
                job.ended().await;
            }
            let look = |parent, name: String| {
                let fs = &fs;
                async move {
                    let found = fs.lookup(&CX, parent, OsStr::new(&name), CaseMode::Exact).await;
                    found.unwrap().attr.node
                }
            };
            let project = look(NodeId(Ino::ROOT.0), "show".to_owned()).await;
            for folder in 0..FOLDERS {
                let folder = look(project, format!("sh{folder:04}")).await;
                folders.push(folder);
                for n in 0..FILES {
                    files.push(look(folder, name(n)).await);
                }
            }
            for file in &files {
                read(&fs, *file).await;
            }
        });
        Self {
            store: config.drive.data_dir.clone(),
            _dir: dir,
            rt,
            _drive: drive,
            fs,
            folders,
            files,
        }
    }

    fn folder(&self, n: u64) -> NodeId {
        self.folders[usize::try_from(n % FOLDERS).unwrap()]
    }

    fn file(&self, n: u64) -> NodeId {
        self.files[usize::try_from(n % (FOLDERS * FILES)).unwrap()]
    }
}

/// Opens, reads to the end and closes, as a host does.
async fn read(fs: &DriveFs, file: NodeId) {
    let opened = fs.open(&CX, file, READ).await.unwrap();
    let bytes = fs.read(&CX, opened.handle, 0..8192).await.unwrap();
    assert_eq!(bytes.len(), 8192);
    black_box(bytes);
    fs.cleanup(&CX, opened.handle).await.unwrap();
    fs.release(opened.handle);
}

fn operations(c: &mut Criterion) {
    let rig = Rig::new();
    let (rt, fs) = (&rig.rt, &rig.fs);
    let count = AtomicU64::new(0);
    // A stride that visits all, in no order that a cache would like.
    let next = || count.fetch_add(7919, Ordering::Relaxed);
    let mut group = c.benchmark_group("engine");
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("look a name up", |b| {
        b.iter(|| {
            let (n, name) = (next(), name(next() % FILES));
            rt.block_on(fs.lookup(&CX, rig.folder(n), OsStr::new(&name), CaseMode::Exact))
                .unwrap()
        });
    });
    group.bench_function("look up a name that is not there", |b| {
        b.iter(|| {
            let looked = fs.lookup(&CX, rig.folder(next()), OsStr::new("no such file"), CaseMode::Exact);
            rt.block_on(looked).unwrap_err()
        });
    });
    group.bench_function("attributes of a file", |b| {
        b.iter(|| rt.block_on(fs.getattr(&CX, rig.file(next()), None)).unwrap());
    });
    group.bench_function("list a folder of 100", |b| {
        b.iter(|| rt.block_on(fs.readdir(&CX, rig.folder(next()), 0, 128)).unwrap());
    });
    group.bench_function("open, read, close 8 KiB that are here", |b| {
        b.iter(|| rt.block_on(read(fs, rig.file(next()))));
    });
    let made = AtomicU64::new(0);
    let bytes = bytes::Bytes::from(vec![7; 10_240]);
    group.bench_function("make, write 10 KiB, close in a work folder", |b| {
        b.iter_batched(
            || (format!("made{}", made.fetch_add(1, Ordering::Relaxed)), bytes.clone()),
            |(name, bytes)| {
                rt.block_on(async {
                    let made = fs.create(&CX, rig.folder(0), OsStr::new(&name), NewNode::File, 0o644, WRITE);
                    let handle = made.await.unwrap().1.unwrap().handle;
                    fs.write(&CX, handle, 0, bytes).await.unwrap();
                    fs.flush(&CX, handle).await.unwrap();
                    fs.cleanup(&CX, handle).await.unwrap();
                    fs.release(handle);
                });
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();

    let store = StateStore::open_read_only(&rig.store).unwrap();
    let mut group = c.benchmark_group("store");
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("look a name up, past our caches", |b| {
        b.iter(|| {
            let (folder, name) = (Ino(rig.folder(next()).0), name(next() % FILES));
            store.read(|txn| txn.lookup(folder, name.as_bytes())).unwrap().unwrap()
        });
    });
    group.bench_function("list a folder of 100, past our caches", |b| {
        b.iter(|| {
            store
                .read(|txn| txn.children(Ino(rig.folder(next()).0), 0, 128))
                .unwrap()
        });
    });
    group.finish();
    store.close();
}

criterion_group!(hot_paths, operations);
criterion_main!(hot_paths);
