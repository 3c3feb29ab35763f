//! A storm of other people's programs over files that nobody has opened: `docs/semantics.md`, *who may have bytes fetched*.
//!
//! Eight of them at once, on a real mount with a real SSH server behind a relay that counts. `BACKLOT_TEST_STORM_FILES` sets
//! how many files (400; the long gate takes 10,000). `.ci/tools` installs the programs.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use common::drive::{Builder, Drive, SOON, drive_test_within, find_program, run_within, say};
use common::relay::Relay;
use common::sshd::{Mode, Sshd};
use common::tree;
use serde_json::Value;

const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_TOOLS";
const LIMIT: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;
/// What a plate or a movie is long; most of it is a hole at the site.
const MEDIA: u64 = 100 * MIB;
/// What all that are listed may have fetched together.
const LISTED_AT_MOST: u64 = 1_000_000;
/// What is allowed to those that only look, a minute.
const BUDGET: u64 = 8 * MIB;
/// What one look can cost before anybody is taken for one that looks: `file` reads 7 MiB, the kernel ahead of that, and the
/// drive ahead of the kernel.
const LOOK: u64 = 48 * MIB;
/// Looks before that.
const LOOKS: u64 = 8;
const EXTRACT: &str = "/usr/libexec/tracker-extract-3";

/// The programs, and the kind that they are listed as.
const LISTED: &[(&str, &str)] = &[
    ("gdk-pixbuf-thumbnailer", "thumbnailer"),
    ("ffmpegthumbnailer", "thumbnailer"),
    ("tracker-extract-3", "indexer"),
    ("clamscan", "scanner"),
    ("restic", "backup"),
];

fn tools_are_missing() -> bool {
    let mut names = vec!["ffmpeg", "file", "grep", "du", "xargs", "dbus-run-session"];
    names.extend(
        LISTED
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| *name != "tracker-extract-3"),
    );
    let mut missing: Vec<_> = names.into_iter().filter(|name| find_program(name).is_none()).collect();
    if !Path::new(EXTRACT).exists() {
        missing.push(EXTRACT);
    }
    if missing.is_empty() {
        return false;
    }
    let reason = format!("{} not installed; `.ci/tools` does that", missing.join(", "));
    assert!(
        std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
        "{REQUIRE}=1, and {reason}"
    );
    say(&format!("SKIPPED: tools ({reason})"));
    true
}

/// Files of four kinds: real pictures and movies, with a hole and a number after what their programs read, and text.
fn plant(root: &Path, scratch: &Path, files: u64) {
    let make = |name: &str, args: &[&str]| -> Vec<u8> {
        let to = scratch.join(name);
        let mut command = Command::new("ffmpeg");
        command.args([
            "-loglevel",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=320x240:rate=25",
        ]);
        let out = run_within(LIMIT, command.args(args).arg(&to));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        fs::read(to).unwrap()
    };
    let picture = ["-frames:v", "1"];
    let jpg = make("a.jpg", &picture);
    let png = make("a.png", &picture);
    let mp4 = make("a.mp4", &["-t", "1", "-pix_fmt", "yuv420p"]);
    for n in 0..files {
        let folder = root.join(format!("shot{:03}", n / 100));
        fs::create_dir_all(&folder).unwrap();
        let (extension, head) = match n % 5 {
            0 | 1 => ("jpg", &jpg),
            2 => ("png", &png),
            3 => ("mp4", &mp4),
            _ => {
                let mut text = String::new();
                while text.len() < 40_000 {
                    text.push_str(&format!("line {} of note {n}\n", text.len()));
                }
                fs::write(folder.join(format!("note.{n:05}.txt")), text).unwrap();
                continue;
            }
        };
        let file = File::create(folder.join(format!("plate.{n:05}.{extension}"))).unwrap();
        file.write_all_at(head, 0).unwrap();
        file.write_all_at(format!("{n:016}").as_bytes(), MEDIA - 16).unwrap();
    }
    tree::write(&root.join("byhand.mov"), 7, 48 * MIB);
}

/// One of the storm: what it is, and the script that sets it on a folder.
fn storm(drive: &Drive, scratch: &Path) -> Vec<(&'static str, String)> {
    let at = drive.project().display().to_string();
    let out = scratch.display();
    fs::write(
        scratch.join("own.hdb"),
        "deadbeefdeadbeefdeadbeefdeadbeef:68:Backlot.Test\n",
    )
    .unwrap();
    let find = |names: &str| format!("find {at} -type f {names} -print0");
    vec![
        (
            "gdk-pixbuf-thumbnailer",
            format!(
                "{} | xargs -0 -P2 -I@ gdk-pixbuf-thumbnailer -s 128 @ {out}/pixbuf.png",
                find("\\( -name \\*.jpg -o -name \\*.png \\)")
            ),
        ),
        (
            "ffmpegthumbnailer",
            format!(
                "{} | xargs -0 -P2 -I@ sh -c 'ffmpegthumbnailer -s 128 -i @ -o {out}/ffmpeg.png || true'",
                find("-name \\*.mp4")
            ),
        ),
        (
            "tracker-extract-3",
            format!(
                "export HOME={out} XDG_RUNTIME_DIR={out}; {} | dbus-run-session -- xargs -0 -P24 -I@ {EXTRACT} -o turtle --file @",
                find("")
            ),
        ),
        (
            "clamscan",
            format!("clamscan --database={out}/own.hdb --tempdir={out} -r {at}"),
        ),
        ("file", format!("{} | xargs -0 file", find(""))),
        ("grep", format!("grep -rI 'no such line' {at}")),
        (
            "restic",
            format!(
                "export RESTIC_PASSWORD=storm HOME={out}; restic -q init -r {out}/repo && restic -q backup -r {out}/repo {at}"
            ),
        ),
        ("du", format!("du -sb {at}; du -s {at}")),
    ]
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_default()
}

#[test]
fn a_storm_of_thumbnailers_indexers_scanners_and_backups_costs_next_to_nothing_and_a_copy_by_hand_is_right() {
    let files: u64 = std::env::var("BACKLOT_TEST_STORM_FILES").map_or(400, |n| n.parse().expect("a number"));
    if tools_are_missing() {
        return;
    }
    drive_test_within(LIMIT, move || {
        let Some(sshd) = Sshd::start_or_skip(Mode::Internal) else {
            return;
        };
        let scratch = tempfile::tempdir().unwrap();
        plant(&sshd.root(), scratch.path(), files);
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        sshd.trust_by(relay.port());
        let site = sshd.settings_by(relay.port());
        let drive = Builder::sftp(&site)
            .set("hydration.read-deadline", "20s")
            .set("firewall.budget", format!("{}MiB", BUDGET / MIB))
            // Listings are not what is measured.
            .set("scan.recheck-after", "1h")
            .build()
            .mounted();

        let passed = relay.passed().1;
        let begun = Instant::now();
        let mut running = Vec::new();
        for (name, script) in storm(&drive, scratch.path()) {
            running.push((
                name,
                thread::spawn(move || {
                    let begun = Instant::now();
                    let out = run_within(LIMIT, Command::new("sh").args(["-c", &script]));
                    (out, begun.elapsed())
                }),
            ));
        }
        // By hand, in the middle of it.
        let copy = scratch.path().join("copy.mov");
        let copied = run_within(LIMIT, Command::new("cp").arg(drive.path("byhand.mov")).arg(&copy));
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        assert_eq!(fs::read(&copy).unwrap().len() as u64, 48 * MIB);
        assert_eq!(tree::first_wrong(7, 0, &fs::read(&copy).unwrap()), None);
        let mut ended: Vec<(&str, Output, Duration)> = Vec::new();
        for (name, thread) in running {
            let (out, took) = thread.join().expect("it ended in time");
            ended.push((name, out, took));
        }
        let took = begun.elapsed();
        // What was on its way for those that left has come, and counts.
        relay.wait_until_quiet(SOON);
        let crossed = relay.passed().1 - passed;
        check(&drive, files, &ended, took, crossed);

        // Whoever was refused spoiled nothing: the same files are whole for others.
        let shot = PathBuf::from("shot000");
        let mut looked = 0;
        for entry in fs::read_dir(sshd.root().join(&shot)).unwrap().take(12) {
            let name = shot.join(entry.unwrap().file_name());
            assert!(
                fs::read(drive.path(&name)).unwrap() == fs::read(sshd.root().join(&name)).unwrap(),
                "{name:?}"
            );
            looked += 1;
        }
        assert_eq!(looked, 12);
    });
}

fn check(drive: &Drive, files: u64, ended: &[(&str, Output, Duration)], took: Duration, crossed: u64) {
    let status = drive.status_now();
    let programs = status["programs"]["programs"].as_array().unwrap();
    let of = |name: &str| {
        let mine = programs.iter().filter(|p| p["name"] == name);
        mine.fold((0, 0, Value::Null), |(bytes, refusals, _), p| {
            (
                bytes + number(p, "bytes"),
                refusals + number(p, "refusals"),
                p["listed"].clone(),
            )
        })
    };
    for (name, out, took) in ended {
        let (bytes, refusals, _) = of(name);
        say(&format!(
            "storm: {name} ended with {} after {took:.1?}: {bytes} bytes fetched, {refusals} requests refused",
            out.status
        ));
    }
    let mut listed = 0;
    for (name, kind) in LISTED {
        let (bytes, refusals, kind_told) = of(name);
        // It was there, it asked, and it was known for what it is: a storm that did not blow proves nothing.
        // (Where `file` or `grep` was first, there was something to give out.)
        let least = files / 20;
        assert!(refusals >= least, "{name} asked for {refusals} files, not {least}");
        assert_eq!(kind_told, *kind, "{name}");
        listed += bytes;
    }
    assert!(listed < LISTED_AT_MOST, "{listed} bytes were fetched for those listed");
    for name in ["file", "grep"] {
        let (bytes, ..) = of(name);
        let minutes = took.as_secs() / 60 + 2;
        // It is forgiven after a minute, two, four: each time it has its first looks again.
        let rounds = u64::from(minutes.ilog2()) + 1;
        let most = rounds * LOOKS * LOOK + BUDGET * minutes;
        assert!(bytes <= most, "{name} had {bytes} bytes fetched, more than {most}");
    }
    assert_eq!(of("du").0, 0);

    let charged: u64 = programs.iter().map(|p| number(p, "bytes")).sum();
    let metered = status["sites"][0]["read_bytes"].as_u64().expect("a meter");
    say(&format!(
        "storm: {files} files in {took:.1?}: {listed} bytes for those listed; {charged} charged, {metered} metered, {crossed} crossed the wire"
    ));
    assert_eq!(charged, metered, "{programs:#?}");
    // The wire carries SSH's and SFTP's own as well.
    let over = crossed.saturating_sub(charged);
    assert!(
        charged <= crossed && over * 100 <= crossed,
        "{over} of {crossed} bytes are on no account"
    );
}
