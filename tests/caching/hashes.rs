//! `docs/semantics.md`: *hashes of sites*: bytes that are not what their site says they are.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use backlot::providers::{HashKind, Hasher};
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use serde_json::Value;

use crate::common::drive::{Builder, Drive, drive_test, eventually, say};
use crate::common::tree;

const MIB: u64 = 1 << 20;

/// Notes a hash with a file, as `shatag` and `cshatag` do. Says whether this file system can.
fn tag(path: &Path, of: &[u8]) -> bool {
    let mut hasher = Hasher::new(HashKind::Sha256);
    hasher.update(of);
    let hash = hasher.finish().to_string();
    let m = fs::metadata(path).unwrap();
    let time = format!("{}.{:09}", m.mtime(), m.mtime_nsec());
    let hex = hash.strip_prefix("sha256:").unwrap();
    let noted = setxattr(path, "user.shatag.sha256", hex.as_bytes(), XattrFlags::empty())
        .and_then(|()| setxattr(path, "user.shatag.ts", time.as_bytes(), XattrFlags::empty()));
    match noted {
        Ok(()) => true,
        Err(Errno::OPNOTSUPP) => false,
        Err(e) => panic!("{e}"),
    }
}

fn attribute(path: &Path, name: &str) -> String {
    let mut value = [0; 512];
    let len = rustix::fs::getxattr(path, name, &mut value).unwrap_or_else(|e| panic!("{name}: {e}"));
    String::from_utf8_lossy(&value[..len]).into_owned()
}

fn right(drive: &Drive, name: &str, seed: u64, len: u64) {
    let read = fs::read(drive.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(
        (read.len() as u64, tree::first_wrong(seed, 0, &read)),
        (len, None),
        "{name}"
    );
}

fn eio<T: std::fmt::Debug>(read: std::io::Result<T>) {
    match read {
        Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_what_its_site_says_is_shown_and_not_served() {
    drive_test(|| {
        let site = tempfile::tempdir().unwrap();
        let at = |name: &str| site.path().join(name);
        let files = [
            ("good", 12 * MIB),
            ("small", 300_000),
            ("large", 12 * MIB),
            ("old", 500_000),
            ("plain", 70_000),
        ];
        for (seed, (name, len)) in files.iter().enumerate() {
            tree::write(&at(name), seed as u64, *len);
        }
        let bytes = |name: &str| fs::read(at(name)).unwrap();
        if !tag(&at("good"), &bytes("good")) {
            return say("SKIPPED: extended attributes (the temporary folder's file system has none)");
        }
        // As if a bit had turned over on the way, or at the site: a file is not what was noted with it.
        tag(&at("small"), &bytes("small")[1..]);
        tag(&at("large"), &bytes("large")[1..]);
        // Noted with bytes that were replaced since: says nothing.
        tag(&at("old"), b"other bytes");
        let file = File::options().write(true).open(at("old")).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5))
            .unwrap();
        drop(file);
        let mut drive = Builder::local(site.path()).build().mounted();

        right(&drive, "good", 0, 12 * MIB);
        right(&drive, "old", 3, 500_000);
        right(&drive, "plain", 4, 70_000);
        assert_eq!(attribute(&drive.path("good"), "user.backlot.state"), "cached");
        let before = drive.status()["cache"]["bytes"].clone();

        // One that comes in one piece: not a byte of it is served.
        eio(fs::read(drive.path("small")));
        let mut byte = [0];
        eio(File::open(drive.path("small")).unwrap().read_exact_at(&mut byte, 0));
        // A large one: at its end at the latest.
        let mut large = File::open(drive.path("large")).unwrap();
        let mut read = Vec::new();
        eio(large.read_to_end(&mut read));
        assert!((read.len() as u64) < 12 * MIB && tree::first_wrong(2, 0, &read).is_none());
        eventually("nothing of it that was given out before is given out again", || {
            large.read_exact_at(&mut byte, 0).is_err()
        });
        drop(large);
        eio(fs::read(drive.path("large")));
        eventually("nothing of it is kept", || drive.status()["cache"]["bytes"] == before);

        for name in ["small", "large"] {
            let path = drive.path(name);
            assert_eq!(attribute(&path, "user.backlot.state"), "failed");
            assert_eq!(attribute(&path, "user.backlot.cached_bytes"), "0");
            let why = attribute(&path, "user.backlot.error");
            assert!(
                why.contains("are not what the site site says they are: sha256:"),
                "{why}"
            );
            assert_eq!(drive.ls(&format!("show/{name}"))[0]["state"], "failed");
        }
        let told = drive.status()["hydration"]["mismatches"].clone();
        assert_eq!(told.as_array().map(Vec::len), Some(2), "{told}");
        assert_eq!(told[0]["path"], "show/large");
        assert!(
            drive
                .tell(["status"])
                .contains("not served: show/small: its bytes are not what")
        );
        let doctor = drive.run(["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(
            said.contains("BAD  hashes") && said.contains("2 files not served"),
            "{said}"
        );

        // A pin says so as well, and others come.
        drive.tell(["pin", "show/small", "show/good"]);
        let pins = || serde_json::from_str::<Value>(&drive.tell(["pin", "ls", "--json"])).unwrap()["total"].clone();
        eventually("the pin says what is in the way", || {
            let total = pins();
            total["failed"] == 1 && total["resident_files"] == 1
        });
        assert!(
            pins()["failures"][0]["why"]
                .as_str()
                .unwrap()
                .contains("are not what the site")
        );
        // Writing to it would make it this machine's own: wrong bytes are not copied for that either.
        let write = File::options().write(true).open(drive.path("large")).unwrap();
        eio(write.write_all_at(b"x", 5));
        drop(write);

        // Put there anew, all is well, at once.
        tree::write(&at("small"), 7, 300_001);
        tag(&at("small"), &bytes("small"));
        drive.scan();
        eventually("the new one is right", || fs::read(drive.path("small")).is_ok());
        right(&drive, "small", 7, 300_001);
        assert_eq!(
            drive.status()["hydration"]["mismatches"].as_array().map(Vec::len),
            Some(1)
        );
        eventually("the pin has it", || pins()["resident_files"] == 2);
        drive.unmount();
    });
}
