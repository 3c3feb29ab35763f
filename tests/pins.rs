//! `docs/semantics.md`: *pins* and *the cache folder*: what is kept resident, what it takes, what goes when room is short.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::drive::{Builder, Drive, drive_test, eventually, run_within};
use common::tree;
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A site whose files have known bytes.
struct Site {
    above: TempDir,
}

impl Site {
    fn new(files: &[(&str, u64)]) -> Self {
        let site = Self {
            above: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(site.root()).unwrap();
        for (name, len) in files {
            site.write(name, *len);
        }
        site
    }

    fn root(&self) -> std::path::PathBuf {
        self.above.path().join("site")
    }

    fn write(&self, name: &str, len: u64) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        tree::write(&path, seed(name), len);
    }

    /// The site is out of reach until [`Site::back`].
    fn gone(&self) {
        fs::rename(self.root(), self.above.path().join("elsewhere")).unwrap();
    }

    fn back(&self) {
        fs::rename(self.above.path().join("elsewhere"), self.root()).unwrap();
    }

    fn drive(&self, cache: &str) -> Drive {
        self.builder(cache).build().mounted()
    }

    fn builder(&self, cache: &str) -> Builder {
        Builder::local(&self.root()).set("cache.max-size", cache)
    }
}

fn seed(name: &str) -> u64 {
    u64::from_le_bytes(blake3::hash(name.as_bytes()).as_bytes()[..8].try_into().unwrap())
}

/// Fails unless the file reads as it was written at the site.
#[track_caller]
fn reads(drive: &Drive, name: &str) {
    let read = fs::read(drive.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(tree::first_wrong(seed(name), 0, &read), None, "{name}");
    assert_eq!(
        read.len() as u64,
        fs::metadata(drive.path(name)).unwrap().len(),
        "{name}"
    );
}

fn json<A: AsRef<OsStr>>(drive: &Drive, args: impl IntoIterator<Item = A>) -> Value {
    let told = drive.tell(args);
    serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"))
}

fn pins(drive: &Drive) -> Value {
    json(drive, ["pin", "ls", "--json"])
}

/// Waits until so many files are pinned and here.
#[track_caller]
fn all_here(drive: &Drive, files: u64) {
    let mut last = Value::Null;
    eventually("what is pinned is here", || {
        last = pins(drive)["total"].clone();
        last["files"] == files && last["resident_files"] == files
    });
    assert_eq!(last["bytes"], last["resident_bytes"], "{last}");
}

fn word(drive: &Drive, name: &str) -> String {
    attribute(&drive.path(name), "user.backlot.state").unwrap()
}

fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, name, &mut value).ok()?;
    Some(String::from_utf8(value[..len].to_vec()).unwrap())
}

fn plates(count: usize) -> Vec<(String, u64)> {
    (0..count).map(|n| (format!("plates/p.{n:04}.exr"), MIB)).collect()
}

fn with(files: &[(String, u64)], more: &[(&str, u64)]) -> Site {
    let files = files.iter().map(|(name, len)| (name.as_str(), *len));
    Site::new(&files.chain(more.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn a_pinned_folder_comes_and_stays_readable_without_its_site() {
    drive_test(|| {
        let files = plates(12);
        let site = with(&files, &[("plates/empty", 0), ("other/a.exr", MIB)]);
        let mut drive = site.drive("1GiB");
        let set = json(&drive, ["pin", "show/plates", "--note", "for Friday", "--json"]);
        assert_eq!(
            (&set[0]["what"], &set[0]["note"]),
            (&"show/plates".into(), &"for Friday".into())
        );
        all_here(&drive, 13);
        let listed = pins(&drive);
        assert_eq!(listed["rules"][0]["bytes"], 12 * MIB);
        assert_eq!(
            (&listed["total"]["fits"], &listed["total"]["failed"]),
            (&true.into(), &0.into())
        );
        assert_eq!(drive.status()["pins"]["resident_files"], 13);
        assert_eq!(word(&drive, "plates/p.0000.exr"), "pinned");
        assert_eq!(word(&drive, "other/a.exr"), "online");
        let row = |name: &str| drive.ls(&format!("show/{name}")).remove(0);
        assert_eq!(
            (&row("plates/p.0003.exr")["state"], &row("plates/p.0003.exr")["pinned"]),
            (&"pinned".into(), &true.into())
        );
        assert_eq!(row("other/a.exr")["pinned"], false);
        assert!(
            drive
                .ls("show")
                .iter()
                .any(|row| row["name"] == "plates" && row["pinned"] == true)
        );

        let fetched = drive.fetched();
        site.gone();
        for (name, _) in &files {
            reads(&drive, name);
        }
        assert!(fs::read(drive.path("other/a.exr")).is_err(), "the site is out of reach");
        // From a cold start too, and the rule with it.
        drive.remount();
        for (name, _) in &files {
            reads(&drive, name);
        }
        assert_eq!((drive.fetched(), fetched), (0, 12 * MIB));
        assert_eq!(pins(&drive)["rules"][0]["note"], "for Friday");
        drive.unmount();
    });
}

#[test]
fn what_appears_or_changes_under_a_pin_is_fetched() {
    drive_test(|| {
        let site = Site::new(&[
            ("plates/a.exr", MIB),
            ("sh010/publish/x/y.exr", MIB),
            ("sh010/work/y.exr", MIB),
        ]);
        let mut drive = site.drive("1GiB");
        drive.tell(["pin", "show/plates", "show/**/publish"]);
        all_here(&drive, 2);
        // Every look that the pins themselves have asked for is over by then: only the change can ask for another.
        std::thread::park_timeout(std::time::Duration::from_secs(2));
        site.write("plates/late/b.exr", MIB);
        site.write("sh020/publish/z.exr", MIB);
        site.write("sh020/work/z.exr", MIB);
        site.write("plates/a.exr", 2 * MIB);
        drive.scan();
        all_here(&drive, 4);
        assert_eq!(pins(&drive)["total"]["bytes"], 5 * MIB);
        assert_eq!(word(&drive, "sh020/work/z.exr"), "online");
        site.gone();
        for name in ["plates/late/b.exr", "sh020/publish/z.exr", "plates/a.exr"] {
            reads(&drive, name);
        }
        // The version before is not pinned any more: what is held is what is wanted.
        assert_eq!(drive.status()["cache"]["pinned_bytes"], 5 * MIB);
        drive.unmount();
    });
}

#[test]
fn a_pin_for_the_project_holds_for_all_that_is_or_comes_there() {
    drive_test(|| {
        let site = Site::new(&[("plates/a.exr", MIB), ("deep/er/b.mov", 2 * MIB)]);
        let mut drive = site.drive("1GiB");
        let set = json(
            &drive,
            ["pin", "--for-project", "show/plates/a.exr", "show/deep", "--json"],
        );
        assert_eq!(set.as_array().map(Vec::len), Some(1), "one project, one rule: {set}");
        assert_eq!(set[0]["what"], "show");
        all_here(&drive, 2);
        site.write("later/c.exr", MIB);
        site.write("d.txt", 100);
        drive.scan();
        all_here(&drive, 4);
        drive.tell(["unpin", "show"]);
        assert_eq!(pins(&drive)["total"]["files"], 0);
        drive.unmount();
    });
}

#[test]
fn pressure_evicts_all_else_and_no_pinned_byte() {
    drive_test(|| {
        let (pinned, others) = (plates(10), 40);
        let names: Vec<String> = (0..others).map(|n| format!("other/o.{n:04}.mov")).collect();
        let more: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), MIB)).collect();
        let site = with(&pinned, &more);
        let mut drive = site.drive("20MiB");
        drive.tell(["pin", "show/plates"]);
        all_here(&drive, 10);
        for name in names.iter().chain(&names) {
            reads(&drive, name);
            let cache = &drive.status_now()["cache"];
            assert!(cache["bytes"].as_u64().unwrap() <= 20 * MIB, "{cache}");
            assert_eq!(cache["pinned_bytes"], 10 * MIB);
        }
        assert!(
            drive.status()["cache"]["evicted_bytes"].as_u64().unwrap() > 20 * MIB,
            "there was pressure"
        );
        let fetched = drive.fetched();
        site.gone();
        for (name, _) in &pinned {
            reads(&drive, name);
        }
        assert_eq!(drive.fetched(), fetched, "none of it was fetched again");
        site.back();

        // Unpinned, they go like all else.
        drive.tell(["unpin", "show/plates"]);
        assert_eq!(drive.status()["cache"]["pinned_bytes"], 0);
        assert_eq!(pins(&drive)["total"]["files"], 0);
        eventually("the site is up", || {
            for name in &names {
                reads(&drive, name);
            }
            true
        });
        let gone = pinned.iter().filter(|(name, _)| word(&drive, name) == "online").count();
        assert!(gone >= 9, "{gone} of 10 made way");
        drive.unmount();
    });
}

#[test]
fn pins_that_do_not_fit_are_refused_with_figures() {
    drive_test(|| {
        let site = with(&plates(12), &[("big/a.mov", 12 * MIB), ("other/o.mov", 4 * MIB)]);
        let mut drive = site.drive("20MiB");
        drive.tell(["pin", "show/plates"]);
        all_here(&drive, 12);
        reads(&drive, "other/o.mov");
        let refused = drive.refused(["pin", "show/big"]);
        assert_eq!(refused.code, Some(1));
        for figure in ["24.0 MiB", "12.0 MiB of that", "room for 20.0 MiB", "cache.max-size"] {
            assert!(refused.said.contains(figure), "not said: {figure}: {}", refused.said);
        }
        assert_eq!(pins(&drive)["rules"].as_array().unwrap().len(), 1, "it is not set");
        assert_eq!(word(&drive, "other/o.mov"), "cached", "nothing was thrown out for it");
        let xattr = rustix::fs::setxattr(
            drive.path("big"),
            "user.backlot.pin",
            b"1",
            rustix::fs::XattrFlags::empty(),
        );
        assert_eq!(xattr, Err(rustix::io::Errno::NOSPC));
        drive.unmount();
    });
}

#[test]
fn pins_of_the_settings_that_do_not_fit_are_told_and_evict_nothing() {
    drive_test(|| {
        let site = with(&plates(8), &[("plates/z.mov", 30 * MIB), ("other/o.mov", 4 * MIB)]);
        let mut drive = site
            .builder("20MiB")
            .set("projects.show.pins", vec![Value::from("plates")])
            .build()
            .mounted();
        let mut told = Value::Null;
        eventually("all that fits is here", || {
            told = drive.status()["pins"].clone();
            told["resident_files"] == 8 && told["unfitting_files"] == 1 && told["fetching"] == 0
        });
        assert_eq!(
            (&told["fits"], &told["unfitting_bytes"]),
            (&false.into(), &(30 * MIB).into())
        );
        reads(&drive, "other/o.mov");
        assert_eq!(word(&drive, "other/o.mov"), "cached");
        let mut doctor = drive.command();
        doctor.arg("doctor");
        let said = run_within(std::time::Duration::from_secs(60), &mut doctor);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(
            said.contains("they do not fit: 38.00 MiB are wanted, and there is room for 20.00 MiB"),
            "{said}"
        );
        // The rest is read past the pins, and what is pinned and here stays.
        reads(&drive, "plates/z.mov");
        assert_eq!(word(&drive, "plates/p.0000.exr"), "pinned");
        let refused = drive.refused(["unpin", "show/plates"]);
        assert!(refused.said.contains("one of the settings"), "{}", refused.said);
        drive.unmount();
    });
}

#[test]
fn a_cache_full_of_pins_serves_all_else_past_it() {
    drive_test(|| {
        let site = with(&plates(20), &[("other/o.mov", 6 * MIB)]);
        let mut drive = site.drive("20MiB");
        drive.tell(["pin", "show/plates"]);
        all_here(&drive, 20);
        assert_eq!(drive.counter("uncached_bytes"), 0);
        reads(&drive, "other/o.mov");
        assert!(drive.counter("uncached_bytes") >= 6 * MIB);
        let cache = drive.status()["cache"].clone();
        assert_eq!(
            (&cache["pinned_bytes"], &cache["bytes"]),
            (&(20 * MIB).into(), &(20 * MIB).into())
        );
        assert_eq!(word(&drive, "other/o.mov"), "online");
        drive.unmount();
    });
}

#[test]
fn a_kill_in_the_middle_only_delays() {
    drive_test(|| {
        let site = with(&plates(24), &[]);
        let mut drive = site.builder("1GiB").site("link-rate", "12MiB/s").build().mounted();
        drive.tell(["pin", "show/plates"]);
        eventually("some of it is here", || {
            let here = drive.status_now()["pins"]["resident_files"].as_u64().unwrap();
            assert!(here < 20, "too fast to be killed in the middle");
            here >= 4
        });
        // What is known of the cache is written twice a second.
        std::thread::park_timeout(std::time::Duration::from_millis(700));
        drive.kill9();
        drive.mount();
        all_here(&drive, 24);
        let fetched = drive.fetched();
        assert!(fetched < 22 * MIB, "it went on with what was here: {fetched}");
        for (name, _) in plates(24) {
            reads(&drive, &name);
        }
        drive.unmount();
    });
}

#[test]
fn a_site_that_is_down_is_waited_for() {
    drive_test(|| {
        let site = with(&plates(6), &[]);
        let mut drive = site.drive("1GiB");
        site.gone();
        assert!(fs::read(drive.path("plates/p.0000.exr")).is_err());
        eventually("the link is down", || drive.link() == "down");
        drive.tell(["pin", "show/plates"]);
        eventually("it waits", || drive.status()["pins"]["waiting_for"][0] == "site");
        let failed = drive.counter("failed");
        std::thread::park_timeout(std::time::Duration::from_secs(1));
        assert_eq!(drive.counter("failed"), failed, "nothing is asked of it");
        site.back();
        all_here(&drive, 6);
        let told = drive.status()["pins"].clone();
        assert_eq!(
            (&told["failed"], &told["waiting_for"]),
            (&0.into(), &Value::Array(vec![])),
            "{told}"
        );
        drive.unmount();
    });
}

#[test]
fn one_file_that_the_site_refuses_holds_up_no_other() {
    drive_test(|| {
        let site = with(&plates(10), &[]);
        let mut drive = site.drive("1GiB");
        // Its content vanishes between the scan and the pin, and comes back.
        let (bad, aside) = (site.root().join("plates/p.0000.exr"), site.above.path().join("aside"));
        fs::rename(&bad, &aside).unwrap();
        fs::create_dir(&bad).unwrap();
        drive.tell(["pin", "show/plates"]);
        eventually("all others are here", || drive.status()["pins"]["resident_files"] == 9);
        fs::remove_dir(&bad).unwrap();
        fs::rename(&aside, &bad).unwrap();
        drive.scan();
        all_here(&drive, 10);
        drive.unmount();
    });
}

#[test]
fn pins_are_set_and_asked_for_by_attributes() {
    drive_test(|| {
        let site = with(&plates(3), &[("other/o.mov", MIB)]);
        let mut drive = site.builder("1GiB").zones(&[("**", "readonly")]).build().mounted();
        let set = |name: &str, value: &[u8]| {
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(drive.path(name), "user.backlot.pin", value, none)
        };
        let pinned = |name: &str| attribute(&drive.path(name), "user.backlot.pinned");
        assert_eq!(pinned("plates").as_deref(), Some("0"));
        set("plates", b"1").unwrap();
        assert_eq!(pinned("plates").as_deref(), Some("1"));
        assert_eq!(pinned("plates/p.0000.exr").as_deref(), Some("1"));
        assert_eq!(pinned("other/o.mov").as_deref(), Some("0"));
        assert_eq!(
            attribute(&drive.path("plates"), "user.backlot.pin").as_deref(),
            Some("1")
        );
        assert_eq!(attribute(&drive.path("plates/p.0000.exr"), "user.backlot.pin"), None);
        all_here(&drive, 3);
        assert_eq!(word(&drive, "plates/p.0002.exr"), "pinned");
        assert_eq!(set("plates", b"yes"), Err(rustix::io::Errno::INVAL));
        assert_eq!(
            set("plates/p.0000.exr", b"0"),
            Err(rustix::io::Errno::PERM),
            "the folder's pin covers it"
        );
        set("plates", b"0").unwrap();
        assert_eq!(pinned("plates/p.0000.exr").as_deref(), Some("0"));
        assert_eq!(word(&drive, "plates/p.0002.exr"), "cached");
        set("other/o.mov", b"1").unwrap();
        all_here(&drive, 1);
        rustix::fs::removexattr(drive.path("other/o.mov"), "user.backlot.pin").unwrap();
        assert_eq!(pins(&drive)["rules"], Value::Array(vec![]));
        let listed = Command::new("getfattr")
            .arg("-d")
            .arg(drive.path("other/o.mov"))
            .output();
        if let Ok(listed) = listed {
            assert!(
                !String::from_utf8_lossy(&listed.stdout).contains("backlot"),
                "never listed"
            );
        }
        drive.unmount();
    });
}

#[test]
fn what_is_no_path_and_no_pin_is_refused_in_words() {
    drive_test(|| {
        let site = with(&plates(1), &[("a[1].exr", MIB)]);
        let mut drive = site.drive("1GiB");
        for (args, says) in [
            (vec!["pin", "show/plate"], "no such file or folder"),
            (vec!["pin", "none/*.exr"], "no project's folder matches"),
            (vec!["pin", "show/a["], "is not a pattern"),
            (vec!["unpin", "show/plates"], "no pin is for that"),
            (vec!["unpin", "77"], "no pin is for that"),
        ] {
            let refused = drive.refused(&args);
            assert!(
                refused.code == Some(1) && refused.said.contains(says),
                "{args:?}: {}",
                refused.said
            );
        }
        // A name that looks like a pattern is what is there.
        let set = json(&drive, ["pin", "show/a[1].exr", "--json"]);
        assert_eq!(set[0]["is_pattern"], false);
        all_here(&drive, 1);
        let id = set[0]["id"].to_string();
        drive.tell(["unpin", &id]);
        assert_eq!(drive.tell(["pin", "ls"]), "no pins\n");
        // A pattern may match nothing yet.
        drive.tell(["pin", "show/**/*.usd"]);
        drive.unmount();
    });
}

/// Runs a verb that prints JSON; returns its exit code and what it printed.
fn ran(drive: &Drive, args: &[&str]) -> (Option<i32>, Value) {
    let out = drive.run(args);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let value = serde_json::from_str(&said);
    let value = value.unwrap_or_else(|e| panic!("{e}: {said}{}", String::from_utf8_lossy(&out.stderr)));
    (out.status.code(), value)
}

#[test]
fn hydrating_returns_when_all_is_here_and_says_when_it_is_not() {
    drive_test(|| {
        let site = with(
            &plates(10),
            &[
                ("plates/sub/deep.exr", 5 * MIB),
                ("other/o.mov", 7 * MIB),
                ("lut/a.cube", 300),
            ],
        );
        let mut drive = site.drive("20MiB");
        let (code, told) = ran(&drive, &["hydrate", "show/plates", "show/*/*.cube", "--json"]);
        assert_eq!(code, Some(0), "{told}");
        let progress = &told["progress"];
        assert_eq!(
            (&progress["files"], &progress["resident_files"]),
            (&12.into(), &12.into())
        );
        assert_eq!(progress["resident_bytes"], 15 * MIB + 300);
        assert_eq!(drive.fetched(), 15 * MIB + 300, "each byte once");
        assert_eq!(word(&drive, "plates/sub/deep.exr"), "cached");
        assert_eq!(word(&drive, "other/o.mov"), "online");

        let refused = drive.refused(["hydrate", "show"]);
        assert!(refused.code == Some(1), "{refused:?}");
        assert!(
            refused.said.contains("22.0 MiB are to be here at once"),
            "{}",
            refused.said
        );
        assert_eq!(
            word(&drive, "plates/p.0000.exr"),
            "cached",
            "nothing was evicted for it"
        );

        site.gone();
        let (code, told) = ran(&drive, &["hydrate", "show/lut", "--json"]);
        assert_eq!(code, Some(0), "what is here needs no site: {told}");
        let (code, told) = ran(&drive, &["hydrate", "show/other", "--json"]);
        assert_eq!(code, Some(4), "{told}");
        assert_eq!(
            (&told["progress"]["failed"], &told["progress"]["resident_files"]),
            (&1.into(), &0.into())
        );
        assert_eq!(told["progress"]["failures"][0]["path"], "show/other/o.mov");
        drive.unmount();
    });
}

#[test]
fn evicting_keeps_what_is_pinned_open_or_made_here() {
    drive_test(|| {
        let site = with(&plates(6), &[("keep/k.exr", MIB)]);
        let mut drive = site.builder("1GiB").zones(&[]).build().mounted();
        fs::write(drive.path("plates/own.txt"), b"made here").unwrap();
        drive.tell(["pin", "show/keep", "show/plates/p.0001.*"]);
        drive.tell(["hydrate", "show"]);
        let open = fs::File::open(drive.path("plates/p.0002.exr")).unwrap();
        all_here(&drive, 2);
        let (code, told) = ran(&drive, &["evict", "show/plates", "--json"]);
        assert_eq!(code, Some(4), "{told}");
        assert_eq!(
            (&told["evicted_files"], &told["evicted_bytes"]),
            (&4.into(), &(4 * MIB).into()),
            "{told}"
        );
        for (counter, count) in [
            ("kept_pinned", 1),
            ("kept_in_use", 1),
            ("kept_own", 1),
            ("kept_files", 3),
        ] {
            assert_eq!(told[counter], count, "{counter}: {told}");
        }
        let why = |path: &str| {
            let kept = told["kept"]
                .as_array()
                .unwrap()
                .iter()
                .find(|kept| kept["path"] == path);
            kept.unwrap()["why"].clone()
        };
        assert_eq!(why("show/plates/p.0001.exr"), "pinned");
        assert_eq!(why("show/plates/p.0002.exr"), "in-use");
        assert_eq!(why("show/plates/own.txt"), "own");
        assert_eq!(word(&drive, "plates/p.0000.exr"), "online");
        assert_eq!(word(&drive, "plates/p.0001.exr"), "pinned");
        assert_eq!(fs::read(drive.path("plates/own.txt")).unwrap(), b"made here");
        drop(open);
        eventually("it is closed", || {
            ran(&drive, &["evict", "show/plates/p.0002.exr", "--json"]).0 == Some(0)
        });
        assert_eq!(word(&drive, "plates/p.0002.exr"), "online");
        reads(&drive, "plates/p.0000.exr");
        drive.unmount();
    });
}

fn data_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(data_files(&entry.path()));
        } else if entry.path().extension().is_some_and(|e| e == "data") {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn the_cache_says_who_fills_it_and_finds_its_damage() {
    drive_test(|| {
        let site = with(&plates(4), &[("other/a/o.mov", 3 * MIB), ("other/b/o.mov", 2 * MIB)]);
        let mut drive = site.drive("1GiB");
        drive.tell(["pin", "show/plates"]);
        drive.tell(["hydrate", "show"]);
        all_here(&drive, 4);
        let stat = json(&drive, ["cache", "stat", "--json"]);
        assert_eq!(
            (&stat["bytes"], &stat["pinned_bytes"]),
            (&(9 * MIB).into(), &(4 * MIB).into()),
            "{stat}"
        );
        assert_eq!((&stat["contents"], &stat["granules"]), (&6.into(), &(9 * 16).into()));
        let top = json(&drive, ["cache", "top", "--json"]);
        let rows: Vec<_> = top["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["path"].clone(), row["bytes"].clone()))
            .collect();
        let row = |path: &str, mib: u64| (Value::from(path), Value::from(mib * MIB));
        assert_eq!(
            rows,
            [row("show/plates", 4), row("show/other/a", 3), row("show/other/b", 2)]
        );
        assert_eq!(top["rows"][0]["pinned_bytes"], 4 * MIB);
        let top = json(&drive, ["cache", "top", "--depth", "2", "--limit", "1", "--json"]);
        assert_eq!(
            (&top["rows"][0]["path"], &top["rows"][0]["bytes"]),
            (&"show/other".into(), &(5 * MIB).into())
        );
        assert_eq!((&top["bytes"], &top["other_bytes"]), (&(9 * MIB).into(), &0.into()));

        let (code, whole) = ran(&drive, &["cache", "verify", "--json"]);
        assert_eq!(
            (code, &whole["bytes"], &whole["head_bytes"], &whole["bad_granules"]),
            (Some(0), &(9 * MIB).into(), &(6 * 3 * 65536).into(), &0.into()),
            "{whole}"
        );
        let turn_over = |path: &Path, at: u64| {
            let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[!byte[0]], at).unwrap();
        };
        // The beginnings and ends that are kept apart are looked at as well.
        let heads = data_files(&drive.cache_dir().join("heads/objects"));
        assert_eq!(heads.len(), 6);
        turn_over(&heads[0], 5);
        turn_over(&heads[1], 2 * 65536 + 5);
        let (code, told) = ran(&drive, &["cache", "verify", "--json"]);
        assert_eq!((code, &told["bad_granules"]), (Some(4), &2.into()), "{told}");
        let (code, told) = ran(&drive, &["cache", "verify", "--json"]);
        assert_eq!(
            (code, &told["head_bytes"]),
            (Some(0), &(16 * 65536).into()),
            "what was bad is gone: {told}"
        );

        let files = data_files(&drive.cache_dir().join("objects"));
        assert_eq!(files.len(), 6);
        for path in &files {
            turn_over(path, 3 * 65536 + 5);
        }
        let fetched = drive.fetched();
        let (code, told) = ran(&drive, &["cache", "verify", "--json"]);
        assert_eq!((code, &told["bad_granules"]), (Some(4), &6.into()), "{told}");
        // Pinned ones come by themselves, the others when they are read.
        all_here(&drive, 4);
        assert_eq!(drive.fetched(), fetched + 4 * 65536);
        for name in [
            "plates/p.0000.exr",
            "plates/p.0003.exr",
            "other/a/o.mov",
            "other/b/o.mov",
        ] {
            reads(&drive, name);
        }
        assert_eq!(ran(&drive, &["cache", "verify", "--json"]).0, Some(0));
        assert_eq!(drive.status()["cache"]["bad_granules"], 6);

        let refused = drive.refused(["cache", "clear"]);
        assert!(refused.code == Some(2) && refused.said.contains("--yes"), "{refused:?}");
        let (code, told) = ran(&drive, &["cache", "clear", "--yes", "--json"]);
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(
            (&told["evicted_bytes"], &told["kept_pinned"]),
            (&(5 * MIB).into(), &4.into()),
            "{told}"
        );
        assert_eq!(json(&drive, ["cache", "stat", "--json"])["bytes"], 4 * MIB);
        assert_eq!(word(&drive, "other/a/o.mov"), "online");
        drive.unmount();
    });
}
