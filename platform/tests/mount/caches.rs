//! What the kernel remembers, and that it forgets when told.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::rig::{eventually, list, with_mount};

#[test]
fn a_missing_name_is_remembered_until_told() {
    with_mount("", |rig| {
        let path = rig.path("rw/later");
        assert!(!path.exists());
        let lookups = rig.calls("lookup");
        assert!(!path.exists());
        assert_eq!(rig.calls("lookup"), lookups, "the kernel remembers that there is none");
        rig.tell("put rw later x");
        assert!(!path.exists(), "and keeps believing it");
        rig.tell("entry rw later");
        eventually("the new name", || path.exists());
    });
}

#[test]
fn a_new_name_appears_in_a_cached_listing_when_told() {
    with_mount("", |rig| {
        let dir = rig.path("rw");
        assert_eq!(list(&dir), [""; 0]);
        rig.tell("sneak rw unheard-of");
        assert_eq!(list(&dir), [""; 0], "the listing is cached");
        // The kernel knows no such name, not even as a missing one, and must drop the listing all the same.
        rig.tell("entry rw unheard-of");
        eventually("the new row", || list(&dir) == ["unheard-of"]);
        rig.tell("del rw unheard-of");
        rig.tell("entry rw unheard-of");
        eventually("its end", || list(&dir).is_empty() && !dir.join("unheard-of").exists());
    });
}

#[test]
fn new_bytes_become_visible_when_told() {
    with_mount("", |rig| {
        let path = rig.path("hello");
        let held = fs::File::open(&path).expect("opened");
        assert_eq!(fs::read(&path).expect("read"), b"hello world\n");
        rig.tell("put / hello HELLO-WORLD.");
        let reads = rig.calls("read");
        assert_eq!(
            fs::read(&path).expect("read"),
            b"hello world\n",
            "the kernel keeps the bytes over opens"
        );
        assert_eq!(rig.calls("read"), reads);
        rig.tell("content hello");
        eventually("the new bytes", || fs::read(&path).expect("read") == b"HELLO-WORLD.");
        assert_eq!(held.metadata().expect("known").len(), 12);
    });
}

#[test]
fn a_size_that_the_kernel_learns_by_itself_never_pads_old_bytes() {
    with_mount("", |rig| {
        let path = rig.path("hello");
        assert_eq!(fs::read(&path).expect("read"), b"hello world\n");
        rig.tell("put / hello changed-and-longer");
        // Reading made the kernel doubt the time of access, so it asks for attributes at the next open and meets the new
        // size before anybody told it of new bytes.
        let getattrs = rig.calls("getattr");
        assert_eq!(
            String::from_utf8(fs::read(&path).expect("read")).expect("UTF-8"),
            "changed-and-longer"
        );
        assert!(rig.calls("getattr") > getattrs, "it did ask");
        rig.tell("put / hello short");
        fs::metadata(&path).expect("found");
        assert_eq!(
            String::from_utf8(fs::read(&path).expect("read")).expect("UTF-8"),
            "short"
        );
    });
}

#[test]
fn new_attributes_become_visible_when_told_without_costing_the_bytes() {
    with_mount("", |rig| {
        let path = rig.path("hello");
        let modified = || fs::metadata(&path).expect("found").modified().expect("known");
        fs::read(&path).expect("read");
        let before = modified();
        rig.tell("put / hello HELLO-WORLD.");
        assert_eq!(modified(), before, "attributes are cached");
        let reads = rig.calls("read");
        rig.tell("attr hello");
        eventually("the new mtime", || modified() != before);
        assert_eq!(fs::read(&path).expect("read"), b"hello world\n");
        assert_eq!(rig.calls("read"), reads, "the cached bytes survived");
    });
}

#[test]
fn more_changes_than_the_backlog_holds_are_not_lost() {
    with_mount("backlog=16\ndeadline_ms=1500", |rig| {
        let (name, dir) = (rig.path("rw/later"), rig.path("rw"));
        assert!(!name.exists());
        assert_eq!(list(&dir), [""; 0]);
        let held = fs::File::open(rig.path("hello")).expect("opened");
        for file in ["hello", "late"] {
            fs::read(rig.path(file)).expect("read");
            fs::metadata(rig.path(file)).expect("found");
        }
        // A second name keeps a file's node, and with it the cached bytes, in the kernel's memory.
        let (one, two) = (rig.path("one"), rig.path("two"));
        fs::write(&one, "old").expect("made");
        fs::hard_link(&one, &two).expect("linked");
        assert_eq!(fs::read(&two).expect("read"), b"old");
        rig.tell("put rw later x");
        rig.tell("put / hello HELLO-WORLD.");
        rig.tell("put / one NEW");
        rig.tell(&format!("put / late {}", "8".repeat(4096)));
        assert!(!name.exists(), "the kernel believes in its caches");
        assert_eq!(fs::read(rig.path("hello")).expect("read"), b"hello world\n");
        let stuck = rig.path("stuck");
        std::thread::scope(|scope| {
            let reading = rig.calls("reading");
            let reader = scope.spawn(|| fs::read(&stuck));
            eventually("the hanging read", || rig.calls("reading") > reading);
            // With this the notifying thread waits for the read while the flood comes.
            rig.tell("content stuck");
            rig.tell("flood rw later");
            reader.join().expect("no panic").expect_err("the deadline passed");
        });
        eventually("the new name", || name.exists());
        eventually("its row", || list(&dir) == ["later"]);
        eventually("bytes through an old handle", || {
            let mut bytes = [0; 12];
            held.read_exact_at(&mut bytes, 0).expect("read");
            bytes == *b"HELLO-WORLD."
        });
        eventually("bytes of an open file", || {
            fs::read(rig.path("hello")).expect("read") == b"HELLO-WORLD."
        });
        eventually("bytes of a file of two names", || {
            fs::read(&one).expect("read") == b"NEW"
        });
        eventually("bytes of a closed file", || {
            fs::read(rig.path("late")).expect("read") == [b'8'; 4096]
        });
        drop(held);
        let reads = rig.calls("read");
        fs::read(rig.path("hello")).expect("read");
        assert_eq!(rig.calls("read"), reads, "the distrust does not last");
    });
}

#[test]
fn a_change_is_told_while_a_read_of_the_same_file_hangs() {
    with_mount("deadline_ms=1500", |rig| {
        let stuck = rig.path("stuck");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| fs::read(&stuck));
            eventually("the hanging read", || rig.calls("reading") > 0);
            let path = rig.path("rw/later");
            assert!(!path.exists());
            rig.tell("put rw later x");
            // The notifying thread may have to wait for the read; nobody else may.
            rig.tell("content stuck");
            rig.tell("entry rw later");
            assert_eq!(fs::read(rig.path("hello")).expect("read"), b"hello world\n");
            assert!(!reader.is_finished(), "it still hangs");
            eventually("the new name", || path.exists());
            reader.join().expect("no panic").expect_err("the deadline passed");
        });
    });
}
