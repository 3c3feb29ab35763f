//! Listing folders, also ones that change meanwhile.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};

use crate::memfs::BIG_ENTRIES;
use crate::rig::{Rig, list, with_mount};

#[test]
fn dots_and_kinds_are_there() {
    with_mount("", |rig| {
        use rustix::fs::{Dir, FileType};
        let open = |path: &str| Dir::new(fs::File::open(rig.path(path)).expect("opened")).expect("a folder");
        let mut rows = HashMap::new();
        for entry in open("names") {
            let entry = entry.expect("an entry");
            rows.insert(entry.file_name().to_bytes().to_vec(), (entry.ino(), entry.file_type()));
        }
        let ino = |path: &str| fs::metadata(rig.path(path)).expect("found").ino();
        assert_eq!(rows[b".".as_slice()], (ino("names"), FileType::Directory));
        assert_eq!(rows[b"..".as_slice()], (ino(""), FileType::Directory));
        assert_eq!(rows.len(), 4);
        let root: HashMap<_, _> = fs::read_dir(rig.point())
            .expect("listed")
            .map(|e| e.expect("an entry"))
            .map(|e| (e.file_name(), e))
            .collect();
        assert!(
            root["link".as_ref() as &std::ffi::OsStr]
                .file_type()
                .expect("known")
                .is_symlink()
        );
        assert_eq!(root["hello".as_ref() as &std::ffi::OsStr].ino(), ino("hello"));
    });
}

#[test]
fn a_file_is_not_listed() {
    with_mount("", |rig| {
        let error = fs::read_dir(rig.path("hello")).expect_err("no folder");
        assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory);
    });
}

#[test]
fn survivors_of_a_changing_folder_are_listed_exactly_once() {
    with_mount("", |rig| {
        changing(rig, false);
        changing(rig, true);
    });
}

/// Lists `big` while entries before and after the current one go and new ones come; with `told`, the kernel is also told
/// to drop its cached listing meanwhile.
fn changing(rig: &Rig, told: bool) {
    let round = u64::from(told);
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut removed = Vec::new();
    for (i, entry) in fs::read_dir(rig.path("big")).expect("listed").enumerate() {
        *seen
            .entry(entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .or_default() += 1;
        if i % 500 == 100 {
            let at = i as u64;
            for victim in [at / 2, (at + 2000).min(BIG_ENTRIES - 1)] {
                let name = format!("f{:05}", (victim / 10) * 10 + 3 + round);
                if !removed.contains(&name) {
                    rig.tell(&format!("del big {name}"));
                    removed.push(name);
                }
            }
            rig.tell(&format!("put big new-{round}-{i} x"));
            if told {
                rig.tell("content big");
            }
        }
    }
    assert!(removed.len() > 20, "entries were removed meanwhile: {}", removed.len());
    assert!(seen.values().all(|times| *times == 1), "nothing is listed twice");
    for i in 0..BIG_ENTRIES {
        let name = format!("f{i:05}");
        if i % 10 != 3 && i % 10 != 4 {
            assert!(seen.contains_key(&name), "{name} survived and was skipped");
        }
    }
}

#[test]
fn a_listing_takes_few_questions_and_answers_the_stat_that_follows() {
    with_mount("", |rig| {
        assert_eq!(list(&rig.path("big")).len() as u64, BIG_ENTRIES);
        let (asked, rows) = (rig.calls("readdir"), rig.calls("entries"));
        println!("{BIG_ENTRIES} entries: {asked} questions, {rows} rows");
        assert!(rows < BIG_ENTRIES * 5 / 4, "little is fetched in vain: {rows}");
        let lookups = rig.calls("lookup") + rig.calls("getattr");
        for name in list(&rig.path("big")).iter().take(100) {
            fs::symlink_metadata(rig.path("big").join(name)).expect("found");
        }
        assert_eq!(rig.calls("readdir"), asked, "the second listing comes from the kernel");
        assert!(
            rig.calls("lookup") + rig.calls("getattr") <= lookups + 2,
            "attributes came with the listing"
        );
    });
}
