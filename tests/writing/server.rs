//! Bad days of the site: gone, slow, cutting, losing what it was sent, full, read-only, refusing. Saving goes on as if
//! nothing were; what was saved arrives by itself once the day is better, and nobody at the site sees half a file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::content::{self, Id, Seen};
use crate::common::drive::{Builder, Drive, SOON, drive_test, drive_test_within, eventually, is_root, say, succeeds};
use crate::common::queue;
use crate::common::relay::Relay;
use crate::common::sshd::{Mode, Sshd};
use crate::rig::{DRAIN, Watcher, names, propagating, quick, same_on_all_sides, seen};

const MIB: u64 = 1 << 20;

/// A server and a relay in front of it.
struct Far {
    sshd: Sshd,
    relay: Relay,
}

impl Far {
    fn start() -> Option<Self> {
        let sshd = Sshd::start_or_skip(Mode::Internal)?;
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        let key = fs::read_to_string(sshd.file("host_key.pub")).unwrap();
        fs::write(sshd.file("relay_hosts"), format!("[127.0.0.1]:{} {key}", relay.port())).unwrap();
        Some(Self { sshd, relay })
    }

    fn builder(&self) -> Builder {
        let mut settings = self.sshd.settings(&self.sshd.root());
        settings.port = self.relay.port();
        settings.known_hosts = self.sshd.file("relay_hosts");
        propagating(Builder::sftp(&settings))
            .site("keepalive", "5s")
            .site("connect-timeout", "5s")
    }

    fn site(&self) -> PathBuf {
        self.sshd.root()
    }

    /// Bytes that went to the server.
    fn sent(&self) -> u64 {
        self.relay.passed().0
    }
}

fn id(file: u64) -> Id {
    Id { file, version: 1 }
}

/// Saves files of these sizes; returns how long that took.
fn save(drive: &Drive, stem: &str, sizes: &[u64]) -> Duration {
    fs::create_dir_all(drive.path("publish")).unwrap();
    let made: Vec<_> = sizes
        .iter()
        .zip(0..)
        .map(|(len, n)| content::whole(id(n), *len))
        .collect();
    let begun = Instant::now();
    for (number, bytes) in made.iter().enumerate() {
        fs::write(drive.path("publish").join(format!("{stem}{number}")), bytes).unwrap();
    }
    begun.elapsed()
}

fn arrives(drive: &Drive, site: &Path, stem: &str, count: u64) {
    queue::drained(drive, DRAIN);
    for number in 0..count {
        let path = site.join("publish").join(format!("{stem}{number}"));
        assert_eq!(seen(&path), Some(Seen::Whole(id(number))), "{}", path.display());
    }
    let all = names(&site.join("publish"));
    assert!(
        !all.iter()
            .any(|name| name.starts_with('.') || name.contains("conflict")),
        "{all:?}"
    );
}

#[test]
fn a_server_that_is_gone_holds_up_no_save_and_gets_everything_when_it_is_back() {
    drive_test(|| {
        let Some(mut far) = Far::start() else { return };
        let drive = far.builder().build().mounted();
        let watcher = Watcher::start(&far.site());
        save(&drive, "a", &[50_000, 6 * MIB]);
        far.relay.set_rate(Some(4_000_000));
        eventually("an upload is under way", || {
            queue::tasks(drive.data_dir()).iter().any(|task| task.done_bytes > 0)
        });
        far.sshd.kill();
        let took = save(&drive, "b", &[50_000, 2 * MIB]);
        assert!(took < Duration::from_secs(2), "saving took {took:?}");
        eventually("the link is known to be down", || drive.link() == "down");
        far.sshd.restart();
        far.relay.set_rate(None);
        arrives(&drive, &far.site(), "a", 2);
        arrives(&drive, &far.site(), "b", 2);
        assert!(watcher.stop() > 0);
        same_on_all_sides(&drive, &far.site(), far.builder());
    });
}

#[test]
fn a_link_that_is_cut_again_and_again_carries_a_large_file_without_beginning_anew() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        let drive = far.builder().build().mounted();
        let watcher = Watcher::start(&far.site());
        let size = 12 * MIB;
        far.relay.set_rate(Some(12_000_000));
        let before = far.sent();
        save(&drive, "a", &[size]);
        let (begun, mut cuts) = (Instant::now(), 0);
        while !queue::tasks(drive.data_dir()).is_empty() {
            thread::park_timeout(Duration::from_millis(250));
            cuts += far.relay.reset();
            assert!(begun.elapsed() < Duration::from_secs(60), "it never arrived");
            if cuts >= 8 {
                break;
            }
        }
        arrives(&drive, &far.site(), "a", 1);
        let sent = far.sent() - before;
        say(&format!("server: {cuts} cuts, {sent} bytes sent for {size}"));
        assert!(cuts >= 3, "the link was cut");
        assert!(sent < size * 2, "{sent} bytes were sent for {size}");
        watcher.stop();
    });
}

#[test]
fn a_link_that_swallows_everything_is_noticed_and_what_was_saved_arrives_once() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        let drive = far.builder().build().mounted();
        let watcher = Watcher::start(&far.site());
        far.relay.set_rate(Some(8_000_000));
        save(&drive, "a", &[4 * MIB, 1000, 2000]);
        eventually("an upload is under way", || {
            queue::tasks(drive.data_dir()).iter().any(|task| task.done_bytes > 0)
        });
        far.relay.swallow();
        let took = save(&drive, "b", &[1000, 2 * MIB]);
        assert!(took < Duration::from_secs(2), "saving took {took:?}");
        eventually("the link is known to be down", || drive.link() == "down");
        assert!(far.relay.held() > 0, "something was swallowed");
        far.relay.mend();
        far.relay.set_rate(None);
        arrives(&drive, &far.site(), "a", 3);
        arrives(&drive, &far.site(), "b", 2);
        watcher.stop();
    });
}

#[test]
fn a_slow_link_slows_no_save() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        let drive = far.builder().build().mounted();
        far.relay.set_rate(Some(1_500_000));
        far.relay.set_delay(Duration::from_millis(40));
        // The large one takes 5.6 s, a connection for the small ones half a second, more on a busy machine.
        let begun = Instant::now();
        let took = save(&drive, "a", &[8 * MIB, 100_000, 100_000]);
        assert!(took < Duration::from_secs(1), "saving took {took:?}");
        // A large one that is under way does not hold up small ones.
        let path = far.site().join("publish/a2");
        eventually("a small one arrives", || path.exists());
        println!("a small file was there after {:?}", begun.elapsed());
        assert!(!far.site().join("publish/a0").exists(), "before the large one");
        // Written anew while the first is on its way.
        let newer = content::whole(Id { file: 0, version: 2 }, 2 * MIB);
        fs::write(drive.path("publish/a0"), &newer).unwrap();
        far.relay.set_rate(None);
        queue::drained(&drive, DRAIN);
        assert!(fs::read(far.site().join("publish/a0")).unwrap() == newer);
        same_on_all_sides(&drive, &far.site(), far.builder());
    });
}

/// Does something to every temporary file at a site, as soon as it is longer than `from`; returns how often.
fn spoil(
    site: PathBuf,
    from: u64,
    over: Arc<AtomicBool>,
    times: u64,
    harm: impl Fn(&File, u64) + Send + 'static,
) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let done = AtomicU64::new(0);
        while !over.load(Relaxed) && done.load(Relaxed) < times {
            for entry in fs::read_dir(site.join("publish")).into_iter().flatten().flatten() {
                if !entry.file_name().as_encoded_bytes().starts_with(b".backlot-") {
                    continue;
                }
                let Ok(file) = File::options().write(true).open(entry.path()) else {
                    continue;
                };
                let len = file.metadata().map_or(0, |m| m.len());
                if len >= from {
                    harm(&file, len);
                    done.fetch_add(1, Relaxed);
                }
            }
            thread::park_timeout(Duration::from_micros(200));
        }
        done.load(Relaxed)
    })
}

fn spoilt(harm: impl Fn(&File, u64) + Send + 'static) {
    drive_test(move || {
        let Some(far) = Far::start() else { return };
        let drive = far.builder().build().mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        let watcher = Watcher::start(&far.site());
        let over = Arc::new(AtomicBool::new(false));
        let spoiling = spoil(far.site(), 3 * MIB + 1, Arc::clone(&over), 3, harm);
        far.relay.set_rate(Some(20_000_000));
        save(&drive, "a", &[3 * MIB + 1, 100_000]);
        queue::drained(&drive, DRAIN);
        over.store(true, Relaxed);
        let times = spoiling.join().unwrap();
        assert!(times > 0, "it happened");
        arrives(&drive, &far.site(), "a", 2);
        assert!(watcher.stop() > 0);
    });
}

#[test]
fn a_server_that_loses_the_end_of_what_it_was_sent_is_sent_it_again() {
    spoilt(|file, len| drop(file.set_len(len / 2)));
}

#[test]
fn a_server_that_shows_more_than_it_was_sent_is_sent_it_again() {
    spoilt(|file, len| drop(file.write_at(b"more", len + 10)));
}

#[test]
fn a_temporary_file_that_somebody_removes_is_sent_again() {
    drive_test(|| {
        let Some(far) = Far::start() else { return };
        let drive = far.builder().build().mounted();
        fs::create_dir(drive.path("publish")).unwrap();
        far.relay.set_rate(Some(10_000_000));
        save(&drive, "a", &[5 * MIB]);
        let mut removed = 0;
        eventually("a temporary file is removed", || {
            for entry in fs::read_dir(far.site().join("publish")).into_iter().flatten().flatten() {
                let is_temp = entry.file_name().as_encoded_bytes().starts_with(b".backlot-");
                if is_temp && entry.metadata().is_ok_and(|m| m.len() > MIB) {
                    removed += u64::from(fs::remove_file(entry.path()).is_ok());
                }
            }
            removed > 0
        });
        arrives(&drive, &far.site(), "a", 1);
    });
}

/// A small disk of its own, as a site.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        if !is_root() {
            say("SKIPPED: small disk (not root)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=755");
        succeeds(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(dir.path()),
        );
        Some(Self(dir))
    }

    fn remount(&self, how: &str) {
        succeeds(
            Command::new("mount")
                .args(["-o", &format!("remount,{how}")])
                .arg(self.0.path()),
        );
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

/// The site, by a server and by a folder.
fn on_both(disk: &Path, test: impl Fn(&dyn Fn() -> Builder)) {
    test(&|| propagating(Builder::local(disk)));
    for name in ["publish", "filler"] {
        drop(fs::remove_dir_all(disk.join(name)));
        drop(fs::remove_file(disk.join(name)));
    }
    let Some(server) = Sshd::start_or_skip(Mode::Internal) else {
        return;
    };
    let settings = server.settings(disk);
    test(&|| propagating(Builder::sftp(&settings)));
}

fn blocked_for(drive: &Drive, kinds: &[&str]) {
    let is = |kind: &str| kinds.contains(&kind);
    queue::task_that(drive, "it is said what is wrong", SOON, |task| {
        task.kind.as_deref().is_some_and(is)
    });
}

#[test]
fn a_full_site_gets_what_was_saved_once_there_is_room() {
    drive_test(|| {
        let Some(disk) = SmallDisk::mount("12m") else { return };
        on_both(disk.path(), |builder| {
            let drive = builder().build().mounted();
            let watcher = Watcher::start(&disk.path().join("publish"));
            fs::write(disk.path().join("filler"), vec![1; 11 << 20]).unwrap();
            save(&drive, "a", &[1000, 3 * MIB, 2 * MIB]);
            blocked_for(&drive, &["full"]);
            assert_eq!(
                seen(&drive.path("publish/a1")),
                Some(Seen::Whole(id(1))),
                "it is here all the same"
            );
            fs::remove_file(disk.path().join("filler")).unwrap();
            arrives(&drive, disk.path(), "a", 3);
            watcher.stop();
            same_on_all_sides(&drive, disk.path(), builder());
        });
    });
}

#[test]
fn a_read_only_site_gets_what_was_saved_once_it_can_be_written() {
    drive_test(|| {
        let Some(disk) = SmallDisk::mount("64m") else { return };
        fs::create_dir(disk.path().join("publish")).unwrap();
        on_both(disk.path(), |builder| {
            fs::create_dir_all(disk.path().join("publish")).unwrap();
            fs::write(disk.path().join("publish/old"), content::whole(id(9), 1000)).unwrap();
            let drive = builder().build().mounted();
            disk.remount("ro");
            save(&drive, "a", &[1000, 3 * MIB]);
            fs::remove_file(drive.path("publish/old")).unwrap();
            queue::task_that(&drive, "it is said what is wrong", SOON, |task| task.error.is_some());
            disk.remount("rw");
            arrives(&drive, disk.path(), "a", 2);
            assert!(!disk.path().join("publish/old").exists());
            same_on_all_sides(&drive, disk.path(), builder());
        });
    });
}

#[test]
fn a_site_that_refuses_the_final_rename_keeps_the_old_file_whole_and_gets_the_new_one_later() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        on_both(site.path(), |builder| {
            fs::create_dir_all(site.path().join("publish")).unwrap();
            let target = site.path().join("publish/a0");
            fs::write(&target, content::whole(Id { file: 0, version: 0 }, 5000)).unwrap();
            let fixed = Command::new("chattr").arg("+i").arg(&target).status();
            if !fixed.is_ok_and(|status| status.success()) {
                return say("SKIPPED: refused rename (no immutable files here)");
            }
            let watcher = Watcher::start(site.path());
            let drive = builder().build().mounted();
            save(&drive, "a", &[200_000, 1000]);
            queue::task_that(&drive, "it is said what is wrong", SOON, |task| task.error.is_some());
            let old = seen(&target);
            succeeds(Command::new("chattr").arg("-i").arg(&target));
            assert_eq!(old, Some(Seen::Whole(Id { file: 0, version: 0 })));
            arrives(&drive, site.path(), "a", 2);
            watcher.stop();
            same_on_all_sides(&drive, site.path(), builder());
        });
    });
}

#[test]
fn a_folder_in_the_way_at_the_site_holds_up_that_file_alone() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let builder = || quick(Builder::local(site.path()));
        let mut drive = builder().build().mounted();
        fs::create_dir_all(site.path().join("publish/a0")).unwrap();
        save(&drive, "a", &[2000, 3000, 4000]);
        blocked_for(&drive, &["wrong-kind"]);
        eventually("the others arrive", || {
            (1..3).all(|n| seen(&site.path().join(format!("publish/a{n}"))) == Some(Seen::Whole(id(n))))
        });
        fs::remove_dir(site.path().join("publish/a0")).unwrap();
        drive.remount();
        arrives(&drive, site.path(), "a", 3);
    });
}

#[test]
fn a_server_without_the_rename_extension_gets_everything_too() {
    drive_test_within(Duration::from_secs(100), || {
        let Some(server) = Sshd::start_or_skip(Mode::Bare) else {
            return;
        };
        let settings = server.settings(&server.root());
        let builder = || propagating(Builder::sftp(&settings));
        let drive = builder().build().mounted();
        for _ in 0..3 {
            save(&drive, "a", &[3000, 2 * MIB, 100]);
            thread::park_timeout(Duration::from_millis(60));
        }
        arrives(&drive, &server.root(), "a", 3);
        same_on_all_sides(&drive, &server.root(), builder());
    });
}
