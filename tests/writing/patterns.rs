//! How programs save files, while what they saved before goes up: uploads begin, are overtaken, begin again. In the end
//! the site has what the drive shows, and whoever reads there meanwhile sees whole versions only.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::FallocateFlags;

use crate::common::content::{self, HEAD, Id, Seen, close};
use crate::common::drive::{Builder, drive_test_within, say};
use crate::common::tree::Random;
use crate::rig::{Watcher, propagating, quick, same_on_all_sides, seen};

/// Threads that save.
const SAVERS: u64 = 3;

/// The ways to save a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    WriteBesideAndRenameOver,
    WriteWithAnAtAndRenameOver,
    BackUpWriteAndDropTheBackup,
    TruncateInPlace,
    Append,
    WriteThroughAMapping,
    WriteThroughAMappingThatOutlivesTheFile,
    PreallocateAndWrite,
    TwoWritersAtOnce,
    ALargeFile,
    MoveAwayAndBack,
    MoveTheFolder,
    DropIt,
    ASecondName,
    WriteInWorkAndMoveToPublish,
    OvertakeALargeOne,
}

const ALL: [Way; 16] = [
    Way::WriteBesideAndRenameOver,
    Way::WriteWithAnAtAndRenameOver,
    Way::BackUpWriteAndDropTheBackup,
    Way::TruncateInPlace,
    Way::Append,
    Way::WriteThroughAMapping,
    Way::WriteThroughAMappingThatOutlivesTheFile,
    Way::PreallocateAndWrite,
    Way::TwoWritersAtOnce,
    Way::ALargeFile,
    Way::MoveAwayAndBack,
    Way::MoveTheFolder,
    Way::DropIt,
    Way::ASecondName,
    Way::WriteInWorkAndMoveToPublish,
    Way::OvertakeALargeOne,
];

/// Those that leave no name behind that the site may have seen.
const KEEPING: [Way; 7] = [
    Way::TruncateInPlace,
    Way::Append,
    Way::WriteThroughAMapping,
    Way::WriteThroughAMappingThatOutlivesTheFile,
    Way::PreallocateAndWrite,
    Way::TwoWritersAtOnce,
    Way::OvertakeALargeOne,
];

struct Saver {
    project: PathBuf,
    publish: PathBuf,
    number: u64,
    version: u64,
    random: Random,
    /// The longest pause between two steps, in milliseconds.
    pause: u64,
    /// What is under each name, by its path in the project.
    known: BTreeMap<PathBuf, Seen>,
}

impl Saver {
    fn at(&self, path: &Path) -> PathBuf {
        self.project.join(path)
    }

    fn pause(&mut self) {
        let pause = self.random.below(self.pause + 1);
        if self.random.below(2) == 0 {
            thread::park_timeout(Duration::from_millis(pause));
        }
    }

    fn id(&mut self, path: &Path) -> Id {
        self.version += 1;
        let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
        Id {
            file: u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()),
            version: self.number << 48 | self.version,
        }
    }

    fn next(&mut self, path: &Path) -> (Id, Vec<u8>) {
        let len = HEAD as u64 + [10, 4_000, 70_000][usize::try_from(self.random.below(3)).unwrap()];
        self.sized(path, len)
    }

    fn sized(&mut self, path: &Path, len: u64) -> (Id, Vec<u8>) {
        let len = len + self.random.below(500);
        let id = self.id(path);
        (id, content::whole(id, len))
    }

    fn large(&mut self, path: &Path) -> (Id, Vec<u8>) {
        self.sized(path, 1_200_000)
    }

    /// Writes what is left to write of a file, in pieces, and closes it.
    fn write_all(&mut self, mut file: File, bytes: &[u8]) {
        for piece in bytes.chunks(bytes.len().div_ceil(3)) {
            file.write_all(piece).unwrap();
            self.pause();
        }
        if self.random.below(5) == 0 {
            file.sync_all().unwrap();
        }
        close(file).unwrap();
    }

    fn create(&mut self, path: &Path, id: Id, bytes: &[u8]) {
        let file = File::create(self.at(path)).unwrap();
        self.write_all(file, bytes);
        self.known.insert(path.to_owned(), Seen::Whole(id));
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        fs::rename(self.at(from), self.at(to))
            .unwrap_or_else(|e| panic!("{} to {}: {e}", from.display(), to.display()));
        let is = self.known.remove(from).unwrap();
        self.known.insert(to.to_owned(), is);
    }

    fn drop(&mut self, path: &Path) {
        fs::remove_file(self.at(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.known.remove(path);
    }

    fn save(&mut self, way: Way) {
        let number = self.random.below(2);
        let path = self.publish.join(format!("{way:?}{number}"));
        let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        match way {
            Way::WriteBesideAndRenameOver | Way::WriteWithAnAtAndRenameOver => {
                let temp = beside(if way == Way::WriteBesideAndRenameOver {
                    ".tmp"
                } else {
                    "@"
                });
                let (id, bytes) = self.next(&path);
                self.create(&temp, id, &bytes);
                self.pause();
                self.rename(&temp, &path);
            }
            Way::BackUpWriteAndDropTheBackup => {
                let backup = beside(".bak");
                if self.known.contains_key(&path) {
                    self.rename(&path, &backup);
                    self.pause();
                }
                let (id, bytes) = self.next(&path);
                self.create(&path, id, &bytes);
                self.pause();
                if self.known.contains_key(&backup) {
                    self.drop(&backup);
                }
            }
            Way::TruncateInPlace => {
                let (id, bytes) = self.next(&path);
                self.create(&path, id, &bytes);
            }
            Way::Append => {
                let (file, from) = match self.known.get(&path) {
                    Some(Seen::Grown(file, len)) => (*file, *len),
                    _ => (self.id(&path).file, 0),
                };
                let len = HEAD as u64 + self.random.below(20_000);
                let open = OpenOptions::new().append(true).create(true).open(self.at(&path));
                self.write_all(open.unwrap(), &content::grown(file, from..from + len));
                self.known.insert(path, Seen::Grown(file, from + len));
            }
            Way::WriteThroughAMapping | Way::WriteThroughAMappingThatOutlivesTheFile => {
                let (id, bytes) = self.next(&path);
                let mut open = OpenOptions::new();
                open.read(true).write(true).create(true).truncate(true);
                let file = open.open(self.at(&path)).unwrap();
                file.set_len(bytes.len() as u64).unwrap();
                self.map_and_write(file, &bytes, way == Way::WriteThroughAMappingThatOutlivesTheFile);
                self.known.insert(path, Seen::Whole(id));
            }
            Way::PreallocateAndWrite => {
                let (id, bytes) = self.next(&path);
                let file = File::create(self.at(&path)).unwrap();
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes.len() as u64).unwrap();
                self.pause();
                self.write_all(file, &bytes);
                self.known.insert(path, Seen::Whole(id));
            }
            Way::TwoWritersAtOnce => {
                let (id, bytes) = self.next(&path);
                let one = File::create(self.at(&path)).unwrap();
                let two = OpenOptions::new().write(true).open(self.at(&path)).unwrap();
                let (left, right) = bytes.split_at(bytes.len() / 2);
                two.write_all_at(right, left.len() as u64).unwrap();
                self.pause();
                one.write_all_at(left, 0).unwrap();
                // The first to close closes half of what there is to write, but the other still has it open.
                two.write_all_at(&right[..1], left.len() as u64).unwrap();
                close(one).unwrap();
                self.pause();
                two.write_all_at(right, left.len() as u64).unwrap();
                close(two).unwrap();
                self.known.insert(path, Seen::Whole(id));
            }
            Way::ALargeFile => {
                let temp = beside(".part");
                let (id, bytes) = self.large(&path);
                self.create(&temp, id, &bytes);
                self.rename(&temp, &path);
            }
            Way::MoveAwayAndBack => {
                let (id, bytes) = self.next(&path);
                self.create(&path, id, &bytes);
                let aside = beside(".aside");
                self.pause();
                self.rename(&path, &aside);
                self.pause();
                self.rename(&aside, &path);
            }
            Way::MoveTheFolder => {
                let (here, there) = (self.publish.join("folder"), self.publish.join("moved"));
                fs::create_dir_all(self.at(&here)).unwrap();
                for name in ["a", "b"] {
                    let path = here.join(name);
                    let (id, bytes) = self.large(&path);
                    self.create(&path, id, &bytes);
                }
                self.pause();
                fs::rename(self.at(&here), self.at(&there)).unwrap();
                self.pause();
                for name in ["a", "b"] {
                    fs::remove_file(self.at(&there.join(name))).unwrap();
                    self.known.remove(&here.join(name));
                }
                self.pause();
                fs::remove_dir(self.at(&there)).unwrap();
            }
            Way::DropIt => {
                let (id, bytes) = self.large(&path);
                self.create(&path, id, &bytes);
                self.pause();
                self.drop(&path);
            }
            Way::ASecondName => {
                let second = beside(".link");
                if self.known.contains_key(&second) {
                    self.drop(&second);
                    self.pause();
                }
                let (id, bytes) = self.next(&path);
                self.create(&path, id, &bytes);
                self.pause();
                fs::hard_link(self.at(&path), self.at(&second)).unwrap();
                self.known.insert(second.clone(), Seen::Whole(id));
                self.pause();
                let (id, bytes) = self.next(&path);
                self.create(&second, id, &bytes);
                self.known.insert(path, Seen::Whole(id));
            }
            Way::WriteInWorkAndMoveToPublish => {
                let work = Path::new("work").join(format!("{}-{number}", self.number));
                let (id, bytes) = self.next(&path);
                self.create(&work, id, &bytes);
                self.pause();
                self.rename(&work, &path);
            }
            Way::OvertakeALargeOne => {
                for _ in 0..2 {
                    let (id, bytes) = self.large(&path);
                    self.create(&path, id, &bytes);
                    self.pause();
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "mapping a file")]
    fn map_and_write(&mut self, file: File, bytes: &[u8], close_first: bool) {
        use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice, as long as the file, which nobody cuts meanwhile. It
        // is written to within its length and not used after it is taken away.
        unsafe {
            let map = mmap(std::ptr::null_mut(), bytes.len(), prot, MapFlags::SHARED, &file, 0).unwrap();
            let mut file = Some(file);
            if close_first {
                close(file.take().unwrap()).unwrap();
                self.pause();
            }
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.cast::<u8>(), bytes.len());
            self.pause();
            if self.random.below(2) == 0 {
                msync(map, bytes.len(), MsyncFlags::SYNC).unwrap();
            }
            munmap(map, bytes.len()).unwrap();
            if let Some(file) = file {
                close(file).unwrap();
            }
        }
    }
}

fn seed() -> u64 {
    let clock = || {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    std::env::var("BACKLOT_TEST_SEED").map_or_else(|_| clock(), |s| s.parse().expect("a number"))
}

fn saves() -> u64 {
    std::env::var("BACKLOT_TEST_SAVES").map_or(240, |n| n.parse().expect("a number"))
}

/// Saves files in all these ways, with an uploader that settles for so long.
fn save_in(ways: &'static [Way], settle: &str, propagates: bool) {
    let (rounds, seed, settle) = (saves() / 4, seed(), settle.to_owned());
    say(&format!(
        "saves: {rounds} with settle {settle}, BACKLOT_TEST_SEED={seed}"
    ));
    drive_test_within(Duration::from_secs(100 + rounds), move || {
        let site = tempfile::tempdir().unwrap();
        let builder = || {
            let builder = Builder::local(site.path())
                .site("link-delay", "1ms")
                .site("link-rate", "80MB");
            let builder = if propagates {
                propagating(builder)
            } else {
                quick(builder)
            };
            builder.set("publish.settle", settle.as_str())
        };
        let drive = builder().build().mounted();
        for folder in ["publish", "work"] {
            fs::create_dir_all(drive.path(folder)).unwrap();
        }
        let watcher = Watcher::start(site.path());
        let left = Arc::new(AtomicU64::new(rounds));
        let savers: Vec<_> = (0..SAVERS)
            .map(|number| {
                let publish = PathBuf::from(format!("publish/{number}"));
                fs::create_dir_all(drive.path(&publish)).unwrap();
                let mut saver = Saver {
                    project: drive.project(),
                    publish,
                    number,
                    version: 0,
                    random: Random::new(seed ^ number << 32),
                    pause: 60,
                    known: BTreeMap::new(),
                };
                let left = Arc::clone(&left);
                thread::spawn(move || {
                    while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let way = ways[usize::try_from(saver.random.below(ways.len() as u64)).unwrap()];
                        saver.save(way);
                    }
                    saver
                })
            })
            .collect();
        // Somebody reads here meanwhile: each open sees one version, whole, of what is renamed into place.
        let over = Arc::new(AtomicBool::new(false));
        let reading = {
            let (publish, over) = (drive.path("publish"), Arc::clone(&over));
            thread::spawn(move || {
                let mut read = 0_u64;
                while !over.load(Relaxed) {
                    for number in 0..SAVERS {
                        for name in [
                            "WriteBesideAndRenameOver0",
                            "ALargeFile0",
                            "WriteWithAnAtAndRenameOver1",
                        ] {
                            let found = seen(&publish.join(number.to_string()).join(name));
                            assert!(matches!(found, None | Some(Seen::Whole(_))), "{name}: {found:?}");
                            read += u64::from(found.is_some());
                        }
                    }
                    thread::park_timeout(Duration::from_millis(5));
                }
                read
            })
        };
        let mut known = BTreeMap::new();
        for saver in savers {
            known.extend(saver.join().unwrap().known);
        }
        for (path, is) in &known {
            assert_eq!(seen(&drive.path(path)), Some(*is), "{}", path.display());
        }
        same_on_all_sides(&drive, site.path(), builder());
        over.store(true, Relaxed);
        let (here, there) = (reading.join().unwrap(), watcher.stop());
        let found: Vec<_> = crate::rig::names(site.path());
        let wanted = known.keys().filter(|path| path.starts_with("publish"));
        assert_eq!(found.len(), wanted.count(), "{found:?}");
        for (path, is) in known.iter().filter(|(path, _)| path.starts_with("publish")) {
            assert_eq!(seen(&site.path().join(path)), Some(*is), "{}", path.display());
        }
        say(&format!("saves: {here} reads here, {there} at the site, all whole"));
        // Once more with nothing in memory and nothing cached.
        let mut drive = drive;
        drive.unmount();
        fs::remove_dir_all(drive.cache_dir()).unwrap();
        fs::create_dir(drive.cache_dir()).unwrap();
        drive.mount();
        for (path, is) in &known {
            assert_eq!(seen(&drive.path(path)), Some(*is), "{}", path.display());
        }
    });
}

#[test]
fn saves_that_go_up_at_once_arrive_as_they_are_here() {
    save_in(&ALL, "0ms", true);
}

#[test]
fn saves_that_go_up_a_moment_later_arrive_as_they_are_here() {
    save_in(&ALL, "10ms", true);
}

#[test]
fn saves_that_are_overtaken_while_they_settle_arrive_as_they_are_here() {
    save_in(&ALL, "50ms", true);
}

#[test]
fn saves_in_place_arrive_where_deletes_are_refused() {
    save_in(&KEEPING, "5ms", false);
}
