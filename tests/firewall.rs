//! `docs/semantics.md`: *who may have bytes fetched*: what thumbnailers, indexers and their like get, and what is on whose
//! account.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::drive::{Builder, Drive, SOON, drive_test, eventually, run_within, say};
use common::relay::Relay;
use common::sshd::{Mode, Sshd};
use common::tree;
use serde_json::Value;
use tempfile::TempDir;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A site, and programs by whatever names.
struct Rig {
    dir: TempDir,
}

impl Rig {
    fn new(files: &[(&str, u64)]) -> Self {
        let rig = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(rig.root()).unwrap();
        fs::create_dir_all(rig.dir.path().join("bin")).unwrap();
        for (name, len) in files {
            let path = rig.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            tree::write(&path, seed(name), *len);
        }
        rig
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    fn builder(&self) -> Builder {
        Builder::local(&self.root())
    }

    /// A copy of one of the system's programs under another name.
    fn program(&self, of: &str, name: &str) -> PathBuf {
        let path = self.dir.path().join("bin").join(name);
        if !path.exists() {
            fs::copy(Path::new("/bin").join(of), &path).unwrap();
        }
        path
    }
}

fn seed(name: &str) -> u64 {
    u64::from_le_bytes(blake3::hash(name.as_bytes()).as_bytes()[..8].try_into().unwrap())
}

fn run(program: &Path, args: &[&str], file: &Path) -> Output {
    run_within(SOON, Command::new(program).args(args).arg(file))
}

/// Fails unless a program gave out exactly so much of a file.
#[track_caller]
fn right(name: &str, out: &Output, len: u64) {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.stdout.len() as u64, len, "{name}");
    assert_eq!(tree::first_wrong(seed(name), 0, &out.stdout), None, "{name}");
}

/// Fails unless a program was told EIO, and gave out nothing that is not the file's.
#[track_caller]
fn refused(name: &str, out: &Output) {
    assert!(!out.status.success(), "{name} was read");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("Input/output error"), "{said}");
    assert_eq!(tree::first_wrong(seed(name), 0, &out.stdout), None, "{name}");
}

/// What `status` says of a program.
fn account(drive: &Drive, name: &str) -> Value {
    let status = drive.status_now();
    let programs = status["programs"]["programs"].as_array().unwrap().clone();
    programs
        .into_iter()
        .find(|program| program["name"].as_str().is_some_and(|n| n.starts_with(name)))
        .unwrap_or_default()
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_default()
}

/// Fails unless every byte that came from the site is on an account.
#[track_caller]
fn adds_up(drive: &Drive) -> u64 {
    let status = drive.status_now();
    let wire = status["sites"][0]["read_bytes"].as_u64().expect("a meter");
    let programs = status["programs"]["programs"].as_array().unwrap();
    let charged: u64 = programs.iter().map(|program| number(program, "bytes")).sum();
    let by_cause: u64 = programs
        .iter()
        .flat_map(|program| {
            ["demand", "readahead", "sequence", "pin", "hydrate", "write"]
                .map(|c| number(program, &format!("{c}_bytes")))
        })
        .sum();
    assert_eq!((charged, by_cause), (wire, wire), "{status:#}");
    assert_eq!(number(&status["programs"], "fetched_bytes"), wire);
    wire
}

#[test]
fn a_listed_program_gets_what_is_here_and_an_error_for_the_rest_and_nobody_else_notices() {
    drive_test(|| {
        let rig = Rig::new(&[("small.jpg", 40_000), ("large.mov", 6 * MIB), ("empty", 0)]);
        let drive = rig.builder().build().mounted();
        let (listed, head) = (
            rig.program("cat", "gdk-pixbuf-thumbnailer"),
            rig.program("head", "tumblerd"),
        );
        for _ in 0..3 {
            refused("small.jpg", &run(&listed, &[], &drive.path("small.jpg")));
            refused("large.mov", &run(&listed, &[], &drive.path("large.mov")));
        }
        right("empty", &run(&listed, &[], &drive.path("empty")), 0);
        assert_eq!(drive.fetched(), 0);
        assert_eq!(number(&account(&drive, "gdk-pixbuf-thumbnailer"), "refusals"), 6);

        // Nothing of that is remembered: neither by the drive nor in the kernel's pages.
        right(
            "small.jpg",
            &run(Path::new("/bin/cat"), &[], &drive.path("small.jpg")),
            40_000,
        );
        right("small.jpg", &run(&listed, &[], &drive.path("small.jpg")), 40_000);

        // With a part of it here it gets that, and not a byte that is wrong.
        let looked = run(Path::new("/bin/head"), &["-c", "4096"], &drive.path("large.mov"));
        right("large.mov", &looked, 4096);
        let before = drive.fetched();
        assert!(before < 2 * MIB, "{before}");
        right(
            "large.mov",
            &run(&head, &["-c", "4096"], &drive.path("large.mov")),
            4096,
        );
        let out = run(&listed, &[], &drive.path("large.mov"));
        refused("large.mov", &out);
        assert_eq!(drive.fetched(), before, "nothing is fetched for it");
        right(
            "large.mov",
            &run(Path::new("/bin/cat"), &[], &drive.path("large.mov")),
            6 * MIB,
        );
        right("large.mov", &run(&listed, &[], &drive.path("large.mov")), 6 * MIB);
        let thumbnailer = account(&drive, "gdk-pixbuf-thumbnailer");
        assert_eq!(number(&thumbnailer, "bytes"), 0);
        assert_eq!(thumbnailer["listed"], "thumbnailer");
        adds_up(&drive);

        let told = drive.tell(["doctor", "--json"]);
        let found: Vec<Value> = serde_json::from_str(&told).unwrap();
        let firewall: Vec<_> = found.iter().filter(|f| f["what"] == "firewall").collect();
        let said = firewall[0]["says"].as_str().unwrap();
        assert!(
            said.starts_with("gdk-pixbuf-thumbnailer (pid ") && said.contains("such as "),
            "{said}"
        );
        assert!(
            firewall[0]["hint"].as_str().unwrap().contains("previews"),
            "{firewall:?}"
        );
        let shown = drive.tell(["status"]);
        assert!(
            shown.contains("refused to gdk-pixbuf-thumbnailer (thumbnailer)"),
            "{shown}"
        );
        let top = drive.tell(["cache", "top", "--by", "process"]);
        assert!(
            top.contains("/bin/cat") && top.contains("refused, thumbnailer)"),
            "{top}"
        );
    });
}

#[test]
fn a_page_that_was_refused_is_right_for_the_next_who_reads_it() {
    drive_test(|| {
        let rig = Rig::new(&[("a.mov", 8 * MIB)]);
        let drive = rig.builder().build().mounted();
        let listed = rig.program("cat", "ffmpegthumbnailer");
        // Somebody has it open all the while, so that no open may drop the kernel's pages of it.
        let holder = fs::File::open(drive.path("a.mov")).unwrap();
        let mut first = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&holder, &mut first, 0).unwrap();
        refused("a.mov", &run(&listed, &[], &drive.path("a.mov")));
        refused("a.mov", &run(&listed, &[], &drive.path("a.mov")));
        let mut whole = vec![0; 8 << 20];
        std::os::unix::fs::FileExt::read_exact_at(&holder, &mut whole, 0).unwrap();
        assert_eq!(tree::first_wrong(seed("a.mov"), 0, &whole), None);
        drop(holder);
        right("a.mov", &run(&listed, &[], &drive.path("a.mov")), 8 * MIB);
    });
}

#[test]
fn what_a_listed_program_starts_is_held_back_as_well_and_the_settings_have_the_last_word() {
    drive_test(|| {
        let rig = Rig::new(&[
            ("a.exr", 100_000),
            ("b.exr", 100_000),
            ("c.exr", 100_000),
            ("d.exr", 100_000),
        ]);
        let mut drive = rig
            .builder()
            .set("firewall.deny", ["asset-*"].as_slice())
            .set("firewall.allow", ["restic"].as_slice())
            .build();
        drive.scan();
        drive.mount();
        let cat = |file: &str| format!("/bin/cat {}; true", drive.path(file).display());
        let rsnapshot = rig.program("sh", "rsnapshot");
        let out = run_within(SOON, Command::new(&rsnapshot).args(["-c", &cat("a.exr")]));
        assert!(out.stdout.is_empty(), "it was read");
        assert_eq!(number(&account(&drive, "cat (started by rsnapshot)"), "refusals"), 1);
        refused(
            "b.exr",
            &run(&rig.program("cat", "asset-indexer"), &[], &drive.path("b.exr")),
        );
        assert_eq!(account(&drive, "asset-indexer")["listed"], "named in the settings");
        assert_eq!(drive.fetched(), 0);
        right(
            "c.exr",
            &run(&rig.program("cat", "restic"), &[], &drive.path("c.exr")),
            100_000,
        );

        // A script is known by its own name, not by its interpreter's.
        let script = rig.dir.path().join("bin/borg");
        fs::write(
            &script,
            "#!/bin/sh\nexec 3< \"$1\" && while read -r line <&3; do :; done\n",
        )
        .unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let out = run_within(SOON, Command::new(&script).arg(drive.path("d.exr")));
        assert!(!out.status.success(), "it was read");
        assert_eq!(account(&drive, "borg")["listed"], "backup");

        drive.unmount();
        let mut off = rig.builder().set("firewall.enabled", false).build();
        off.scan();
        off.mount();
        right(
            "a.exr",
            &run(&rig.program("cat", "asset-indexer"), &[], &off.path("a.exr")),
            100_000,
        );
        adds_up(&off);
    });
}

#[test]
fn who_only_looks_into_many_files_is_held_to_a_budget_and_who_reads_is_not() {
    drive_test(|| {
        let names: Vec<String> = (0..300).map(|n| format!("plates/p.{n:04}.dpx")).collect();
        let mut files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2 * MIB)).collect();
        files.push(("whole/a.mov", 24 * MIB));
        files.push(("whole/b.mov", 24 * MIB));
        let rig = Rig::new(&files);
        let drive = rig.builder().set("firewall.budget", "2MiB").build().mounted();
        let looker = rig.program("head", "looker");
        let plates = drive.path("plates");
        let script = format!(
            "for f in {}/*; do {} -c 4096 $f || echo refused; done | grep -ac '^refused'",
            plates.display(),
            looker.display()
        );
        let out = run_within(SOON * 3, Command::new("/bin/sh").args(["-c", &script]));
        let refusals: u64 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
        let told = account(&drive, "looker");
        // 32 with what is fetched at an open, then a granule each out of the budget, then none.
        assert!((150..260).contains(&refusals), "{refusals} refused; {told}");
        let most = 33 * 128 * KIB + 2 * MIB + 2 * MIB;
        assert!(number(&told, "bytes") <= most, "{told}");
        assert!(told["held_ms"].is_number() && told["listed"].is_null(), "{told}");
        let doctor = drive.run(["doctor"]);
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(
            doctor.contains("BAD  firewall   looker") && doctor.contains("`allow`"),
            "{doctor}"
        );

        // Another program is not concerned.
        right(
            &names[299],
            &run(Path::new("/bin/cat"), &[], &drive.path(&names[299])),
            2 * MIB,
        );
        adds_up(&drive);
    });
}

#[test]
fn a_program_that_looks_into_files_and_copies_one_gets_all_of_that() {
    drive_test(|| {
        let names: Vec<String> = (0..60).map(|n| format!("plates/p.{n:04}.dpx")).collect();
        let mut files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2 * MIB)).collect();
        files.push(("whole.mov", 40 * MIB));
        let rig = Rig::new(&files);
        let drive = rig.builder().set("firewall.budget", "8MiB").build().mounted();
        // One process all the while.
        let program = rig.program("bash", "browser");
        let script = format!(
            "for f in {0}/plates/*; do read -r -n 16 line < $f; done; cat {0}/whole.mov",
            drive.project().display()
        );
        let cat = rig.program("cat", "cat");
        let script = script.replace("; cat ", &format!("; exec {} ", cat.display()));
        let out = run_within(SOON * 2, Command::new(&program).args(["-c", &script]));
        assert_eq!(out.stdout.len() as u64, 40 * MIB);
        assert_eq!(tree::first_wrong(seed("whole.mov"), 0, &out.stdout), None);
        assert!(
            account(&drive, "browser")["held_ms"].is_number(),
            "it was taken for one that looks"
        );
        adds_up(&drive);
    });
}

#[test]
fn every_byte_is_on_the_account_of_who_caused_it() {
    drive_test(|| {
        let names: Vec<String> = (1..=60).map(|n| format!("play/c.{n:04}.exr")).collect();
        let mut files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 300_000)).collect();
        files.extend([
            ("pinned/a", MIB),
            ("hydrated/a", MIB),
            ("edit/a.txt", 3 * MIB),
            ("long.mov", 12 * MIB),
        ]);
        let rig = Rig::new(&files);
        let drive = rig.builder().site("link-delay", "5ms").build().mounted();
        right(
            "long.mov",
            &run(&rig.program("cat", "reader"), &[], &drive.path("long.mov")),
            12 * MIB,
        );
        let reader = account(&drive, "reader");
        assert_eq!(number(&reader, "bytes"), 12 * MIB);
        assert!(
            number(&reader, "readahead_bytes") > 0 && number(&reader, "demand_bytes") > 0,
            "{reader}"
        );

        let player = rig.program("cat", "player");
        let script = format!(
            "exec {} {}/play/* > /dev/null",
            player.display(),
            drive.project().display()
        );
        let played = run_within(SOON, Command::new("/bin/sh").args(["-c", &script]));
        assert!(played.status.success());
        let told = account(&drive, "player");
        assert_eq!(number(&told, "bytes"), 60 * 300_000, "{told}");
        assert!(number(&told, "sequence_bytes") > 0, "{told}");

        drive.tell(["pin", "show/pinned"]);
        eventually("the pin is here", || {
            number(&account(&drive, "backlot"), "pin_bytes") == MIB
        });
        drive.tell(["hydrate", "show/hydrated"]);
        assert_eq!(number(&account(&drive, "backlot"), "hydrate_bytes"), MIB);
        let writer = rig.program("dd", "editor");
        let to = format!("of={}", drive.path("edit/a.txt").display());
        let out = run_within(
            SOON,
            Command::new(&writer).args(["if=/dev/zero", &to, "bs=1", "count=1", "conv=notrunc"]),
        );
        assert!(out.status.success());
        let told = account(&drive, "editor");
        assert_eq!(number(&told, "write_bytes"), 3 * MIB, "{told}");
        let wire = adds_up(&drive);
        assert_eq!(wire, 12 * MIB + 60 * 300_000 + 2 * MIB + 3 * MIB);
    });
}

#[test]
fn the_accounts_tell_what_crossed_the_wire() {
    drive_test(|| {
        let Some(sshd) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let files: Vec<String> = (0..48).map(|n| format!("play/take_{n:03}.mov")).collect();
        for name in &files {
            let path = sshd.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            tree::write(&path, seed(name), 2 * MIB);
        }
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        sshd.trust_by(relay.port());
        let site = sshd.settings_by(relay.port());
        let drive = Builder::sftp(&site).set("scan.recheck-after", "24h").build().mounted();
        // Names are on nobody's account.
        fs::read(drive.path(&files[0])).unwrap();
        let before = (adds_up(&drive), relay.passed().1);
        let rig = Rig::new(&[]);
        for (n, name) in files.iter().enumerate().skip(1) {
            let program = rig.program("cat", ["player", "copier", "checker"][n % 3]);
            right(name, &run(&program, &[], &drive.path(name)), 2 * MIB);
        }
        relay.wait_until_quiet(SOON);
        let (charged, crossed) = (adds_up(&drive) - before.0, relay.passed().1 - before.1);
        say(&format!("{charged} bytes on accounts, {crossed} bytes over the wire"));
        // What was fetched ahead and given up on a busy machine comes twice, and counts twice.
        assert!(charged >= 47 * 2 * MIB, "{charged}");
        if drive.counter("cancelled") == 0 {
            assert_eq!(charged, 47 * 2 * MIB);
        }
        assert!(
            charged <= crossed && (crossed - charged) * 100 <= crossed,
            "{charged} of {crossed}"
        );
    });
}

#[test]
fn what_was_on_its_way_for_who_left_is_on_his_account() {
    drive_test(|| {
        let Some(sshd) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let names: Vec<String> = (0..6).map(|n| format!("plates/p{n}.mov")).collect();
        for name in &names {
            let path = sshd.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            tree::write(&path, seed(name), 64 * MIB);
        }
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        sshd.trust_by(relay.port());
        let site = sshd.settings_by(relay.port());
        let drive = Builder::sftp(&site).set("scan.recheck-after", "24h").build().mounted();
        fs::metadata(drive.path(&names[0])).unwrap();
        let before = (adds_up(&drive), relay.passed().1);
        // Far and slow enough that much is under way when he leaves.
        relay.set_delay(Duration::from_millis(30));
        relay.set_rate(Some(20 * MIB));
        let rig = Rig::new(&[]);
        let looker = rig.program("head", "looker");
        for name in &names {
            right(name, &run(&looker, &["-c", "1000000"], &drive.path(name)), 1_000_000);
        }
        relay.wait_until_quiet(SOON);
        assert!(drive.counter("cancelled") > 0, "nobody was left waiting for");
        let (charged, crossed) = (adds_up(&drive) - before.0, relay.passed().1 - before.1);
        say(&format!("{charged} bytes on accounts, {crossed} bytes over the wire"));
        assert!(
            charged <= crossed && (crossed - charged) * 100 <= crossed,
            "{charged} of {crossed}"
        );
        assert_eq!(number(&account(&drive, "looker"), "bytes"), charged);
    });
}

/// `docs/semantics.md`: *beginnings and ends*.
#[test]
fn the_beginning_and_the_end_of_a_media_file_outlive_it_in_the_cache_and_the_link() {
    drive_test(|| {
        let (len, names) = (3 * MIB + 1234, ["a.mov", "b.exr", "c.txt"]);
        let rig = Rig::new(&names.map(|name| (name, len)));
        let drive = rig.builder().build().mounted();
        for name in names {
            right(name, &run(Path::new("/bin/cat"), &[], &drive.path(name)), len);
        }
        eventually("nothing is in use any more", || {
            let told: Value = serde_json::from_str(&drive.tell(["evict", "--json", "show"])).unwrap();
            number(&told, "kept_files") == 0
        });
        let stat: Value = serde_json::from_str(&drive.tell(["cache", "stat", "--json"])).unwrap();
        assert_eq!((number(&stat, "bytes"), number(&stat, "heads")), (0, 2), "{stat}");
        assert!(number(&stat, "head_bytes") <= 2 * 256 * KIB, "{stat}");

        // The site is gone: what is asked of a media file's ends is here, for whoever asks, and nothing else.
        let away = rig.dir.path().join("away");
        fs::rename(rig.root(), &away).unwrap();
        let fetched = drive.fetched();
        let listed = rig.program("head", "tumblerd");
        right("a.mov", &run(&listed, &["-c", "4096"], &drive.path("a.mov")), 4096);
        right(
            "a.mov",
            &run(Path::new("/bin/head"), &["-c", "100000"], &drive.path("a.mov")),
            100_000,
        );
        let end = run(Path::new("/usr/bin/tail"), &["-c", "60000"], &drive.path("b.exr"));
        assert!(end.status.success(), "{}", String::from_utf8_lossy(&end.stderr));
        assert_eq!(end.stdout.len(), 60_000);
        assert_eq!(tree::first_wrong(seed("b.exr"), len - 60_000, &end.stdout), None);
        assert!(
            !run(Path::new("/bin/head"), &["-c", "10"], &drive.path("c.txt"))
                .status
                .success()
        );
        refused(
            "a.mov",
            &run(&rig.program("cat", "clamscan"), &[], &drive.path("a.mov")),
        );
        assert_eq!(drive.fetched(), fetched);
        assert!(drive.counter("head_bytes") > 0);
        fs::rename(&away, rig.root()).unwrap();
        eventually("the site answers again", || {
            drop(run(Path::new("/bin/cat"), &[], &drive.path("c.txt")));
            drive.link() == "up"
        });
        for name in names {
            right(name, &run(Path::new("/bin/cat"), &[], &drive.path(name)), len);
        }
        adds_up(&drive);
    });
}

#[test]
fn beginnings_and_ends_can_be_fetched_without_the_rest_and_are_those_of_the_version_that_is_there() {
    drive_test(|| {
        let names: Vec<String> = (0..40).map(|n| format!("plates/p.{n:04}.exr")).collect();
        let mut files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2 * MIB)).collect();
        files.extend([("plates/notes.txt", MIB), ("plates/small.exr", 1000)]);
        let rig = Rig::new(&files);
        let drive = rig.builder().set("scan.recheck-after", "100ms").build().mounted();
        let told: Value = serde_json::from_str(&drive.tell(["hydrate", "--heads", "--json", "show"])).unwrap();
        assert_eq!(
            (
                number(&told["progress"], "files"),
                number(&told["progress"], "resident_files")
            ),
            (40, 40),
            "{told}"
        );
        let fetched = adds_up(&drive);
        assert_eq!(fetched, 40 * 192 * KIB);
        assert_eq!(number(&account(&drive, "backlot"), "hydrate_bytes"), fetched);
        drive.tell(["hydrate", "--heads", "show"]);
        let (head, tail) = (rig.program("head", "probe"), rig.program("tail", "probe-end"));
        for name in &names {
            right(name, &run(&head, &["-c", "4096"], &drive.path(name)), 4096);
            let end = run(&tail, &["-c", "16384"], &drive.path(name));
            assert_eq!(
                tree::first_wrong(seed(name), 2 * MIB - 16384, &end.stdout),
                None,
                "{name}"
            );
            assert_eq!(end.stdout.len(), 16384);
        }
        assert_eq!(
            adds_up(&drive),
            fetched,
            "probing costs nothing: {:#}",
            drive.status_now()
        );

        // Another version has another beginning.
        tree::write(&rig.root().join(&names[0]), 99, 2 * MIB + 7);
        eventually("the change is noticed", || {
            let _ = fs::read_dir(drive.path("plates")).unwrap().count();
            fs::metadata(drive.path(&names[0])).unwrap().len() == 2 * MIB + 7
        });
        let out = run(&head, &["-c", "65536"], &drive.path(&names[0]));
        assert_eq!(tree::first_wrong(99, 0, &out.stdout), None);

        drive.tell(["cache", "clear", "--yes"]);
        let stat: Value = serde_json::from_str(&drive.tell(["cache", "stat", "--json"])).unwrap();
        assert!(number(&stat, "heads") <= 1, "{stat}");
    });
}
