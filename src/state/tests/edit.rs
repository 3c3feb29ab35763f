//! What is made and changed here, against listings of the site.

use super::*;
use crate::state::{Landed, Left, NewEntry, Refusal, RenameHow, SentFile};

const T: i64 = NOW * 1_000_000;

fn entry(kind: EntryKind) -> NewEntry {
    NewEntry {
        kind,
        perm: 0o644,
        uid: 1,
        gid: 2,
        rdev: 0,
        target: None,
        object: None,
    }
}

fn make(t: &Fixture, parent: Ino, text: &str, kind: EntryKind) -> Ino {
    let name = name(text);
    write(&t.store, move |txn| txn.create(parent, &name, &entry(kind), T))
        .unwrap()
        .ino
}

fn sent(ino: Ino, generation: u64) -> SentFile {
    SentFile {
        ino,
        generation,
        stays_own: false,
    }
}

fn make_file(t: &Fixture, parent: Ino, text: &str, object: u64, size: u64) -> Ino {
    let name = name(text);
    write(&t.store, move |txn| {
        let new = NewEntry {
            object: Some(object),
            ..entry(EntryKind::File)
        };
        let node = txn.create(parent, &name, &new, T)?;
        txn.end_write(node.ino, size, T, T)?;
        Ok(node.ino)
    })
    .unwrap()
}

fn shown(t: &Fixture, dir: Ino) -> Vec<String> {
    let children = t.store.read(|txn| txn.children(dir, 0, 100)).unwrap();
    let mut names: Vec<_> = children.iter().map(|c| c.name.to_string()).collect();
    names.sort();
    names
}

fn refused(result: Result<impl std::fmt::Debug, StateError>) -> Refusal {
    let error = result.unwrap_err();
    let StateError::Refused(refusal) = error else {
        panic!("{error}")
    };
    refusal
}

fn sound(t: &Fixture) {
    t.check();
}

#[test]
fn what_is_made_here_survives_a_listing_that_lacks_it() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[file("theirs", 3)]);
    make(&t, root, "mine", EntryKind::Dir);
    make_file(&t, root, "file", 5, 10);
    let diff = t.list(root, &[file("theirs", 3)]);
    assert_eq!(diff.size(), 0);
    assert_eq!(shown(&t, root), ["file", "mine", "theirs"]);
    sound(&t);
}

#[test]
fn what_is_removed_here_stays_removed_until_the_site_has_another() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[file("a", 3), file("b", 4)]);
    let a = name("a");
    let removed = write(&t.store, move |txn| txn.unlink(root, &a, false, T)).unwrap();
    assert_eq!(
        removed.remote,
        Some(Left {
            path: path("a"),
            version: Some(Version::from_size_mtime(3, 7))
        })
    );
    write(&t.store, move |txn| txn.drop_nameless(removed.ino)).unwrap();
    t.list(root, &[file("a", 3), file("b", 4)]);
    assert_eq!(shown(&t, root), ["b"]);
    sound(&t);
    t.list(root, &[file("a", 99), file("b", 4)]);
    assert_eq!(shown(&t, root), ["a", "b"], "another version is news");
    let b = name("b");
    let kept = write(&t.store, move |txn| txn.unlink(root, &b, true, T));
    assert_eq!(refused(kept), Refusal::AtRemote);
    sound(&t);
}

#[test]
fn a_file_that_may_be_written_unseen_stays_own_though_it_was_sent() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[]);
    let ino = make_file(&t, root, "f", 1, 10);
    let landed = write(&t.store, move |txn| {
        let sent = SentFile {
            stays_own: true,
            ..sent(ino, 1)
        };
        txn.landed(root, (root, &name("f")), &path("f"), sent, &Version::new("one"))
    });
    assert_eq!(landed.unwrap(), Landed::StaysOwn);
    let is_sent = t.store.read(|txn| txn.is_sent(root, &name("f"), ino, 1)).unwrap();
    assert!(is_sent);
    assert_eq!(
        t.store.read(|txn| txn.trash()).unwrap(),
        [] as [u64; 0],
        "its object is kept"
    );
    t.list(root, &[file("f", 10)]);
    assert!(t.store.read(|txn| txn.node(ino)).unwrap().unwrap().own);
    sound(&t);
}

#[test]
fn a_listing_that_began_before_a_change_says_nothing_about_it() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[]);
    let began = t.store.moment().unwrap();
    let ino = make_file(&t, root, "up", 1, 10);
    let version = Version::new("w");
    let landed = write(&t.store, move |txn| {
        txn.landed(root, (root, &name("up")), &path("up"), sent(ino, 1), &version)
    });
    assert_eq!(landed.unwrap(), Landed::Mirror { object: Some(1) });
    write(&t.store, move |txn| txn.apply_listing(root, &[], None, began, NOW)).unwrap();
    assert_eq!(shown(&t, root), ["up"]);
    sound(&t);
    t.list(root, &[]);
    assert_eq!(shown(&t, root), [] as [&str; 0], "a later one does");
    sound(&t);
}

#[test]
fn a_file_that_was_written_again_stays_own_and_knows_what_it_replaces() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[]);
    let ino = make_file(&t, root, "f", 1, 10);
    write(&t.store, move |txn| {
        assert_eq!(txn.begin_write(ino, None, None)?, 2);
        txn.end_write(ino, 11, T, T)
    })
    .unwrap();
    let landed = write(&t.store, move |txn| {
        txn.landed(root, (root, &name("f")), &path("f"), sent(ino, 1), &Version::new("one"))
    });
    assert_eq!(landed.unwrap(), Landed::StaysOwn);
    let base = |t: &Fixture| t.store.read(|txn| txn.base_of(root, b"f")).unwrap();
    assert_eq!(base(&t), Some(Version::new("one")));
    let landed = write(&t.store, move |txn| {
        txn.landed(root, (root, &name("f")), &path("f"), sent(ino, 2), &Version::new("two"))
    });
    assert_eq!(landed.unwrap(), Landed::Mirror { object: Some(1) });
    assert_eq!(base(&t), Some(Version::new("two")), "a mirror's own version");
    assert_eq!(t.store.read(|txn| txn.trash()).unwrap(), [1]);
    sound(&t);
}

#[test]
fn a_mirror_that_is_written_to_becomes_own_and_remembers_its_base() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[file("f", 3)]);
    let ino = t.store.read(|txn| txn.lookup(root, b"f")).unwrap().unwrap().ino;
    let version = Version::from_size_mtime(3, 7);
    let base = version.clone();
    write(&t.store, move |txn| txn.begin_write(ino, Some(9), Some(&version))).unwrap();
    write(&t.store, move |txn| txn.end_write(ino, 5, T, T)).unwrap();
    assert_eq!(t.store.read(|txn| txn.base_of(root, b"f")).unwrap(), Some(base.clone()));
    t.list(root, &[file("f", 77)]);
    let node = t.store.read(|txn| txn.node(ino)).unwrap().unwrap();
    assert_eq!(
        (node.size, node.own, node.object),
        (5, true, Some(9)),
        "a listing leaves it alone"
    );
    assert_eq!(t.store.read(|txn| txn.base_of(root, b"f")).unwrap(), Some(base));
    let stale = Version::new("old");
    let again = write(&t.store, move |txn| txn.begin_write(ino, Some(10), Some(&stale)));
    assert_eq!(refused(again), Refusal::Changed);
    sound(&t);
}

#[test]
fn a_mirror_that_is_renamed_keeps_its_bytes_at_the_old_path() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[dir("d"), file("f", 3)]);
    let d = t.store.read(|txn| txn.lookup(root, b"d")).unwrap().unwrap().ino;
    let renamed = write(&t.store, move |txn| {
        txn.rename((root, &name("f")), (d, &name("g")), RenameHow::Replace, T)
    })
    .unwrap();
    assert_eq!(
        renamed.left,
        [Left {
            path: path("f"),
            version: Some(Version::from_size_mtime(3, 7))
        }]
    );
    let node = t.store.read(|txn| txn.node(renamed.ino)).unwrap().unwrap();
    let origin = node.origin.expect("still there");
    assert_eq!(
        (origin.path, origin.version),
        (path("f"), Version::from_size_mtime(3, 7))
    );
    t.list(root, &[dir("d"), file("f", 3)]);
    t.list(d, &[]);
    assert_eq!(
        (shown(&t, root), shown(&t, d)),
        (vec!["d".to_owned()], vec!["g".to_owned()])
    );
    sound(&t);
    // A new file under the old name knows what it replaces.
    make_file(&t, root, "f", 3, 1);
    assert_eq!(
        t.store.read(|txn| txn.base_of(root, b"f")).unwrap(),
        Some(Version::from_size_mtime(3, 7))
    );
    sound(&t);
}

#[test]
fn a_folder_of_the_site_that_is_renamed_takes_all_along() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[dir("d")]);
    let find = |parent, text: &'static [u8]| t.store.read(|txn| txn.lookup(parent, text)).unwrap().unwrap().ino;
    let d = find(root, b"d");
    let early = write(&t.store, move |txn| {
        txn.rename((root, &name("d")), (root, &name("e")), RenameHow::Replace, T)
    });
    assert_eq!(refused(early), Refusal::NotListed, "who knows what is in it");
    t.list(d, &[dir("sub"), file("x", 1)]);
    let sub = find(d, b"sub");
    t.list(sub, &[file("y", 2)]);
    make_file(&t, sub, "mine", 4, 8);
    let renamed = write(&t.store, move |txn| {
        txn.rename((root, &name("d")), (root, &name("e")), RenameHow::Replace, T)
    })
    .unwrap();
    let mut left: Vec<_> = renamed.left.iter().map(|l| l.path.to_string()).collect();
    assert_eq!(left.pop().as_deref(), Some("d"), "the folder itself comes last");
    left.sort();
    assert_eq!(left, ["d/sub", "d/sub/y", "d/x"]);
    sound(&t);
    t.list(root, &[dir("d")]);
    assert_eq!(shown(&t, root), ["e"]);
    let y = t.store.read(|txn| txn.lookup(sub, b"y")).unwrap().unwrap();
    assert_eq!(y.origin.expect("at its old path").path, path("d/sub/y"));
    sound(&t);
}

#[test]
fn a_folder_that_goes_at_the_site_stays_with_what_is_ours() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[dir("d")]);
    let d = t.store.read(|txn| txn.lookup(root, b"d")).unwrap().unwrap().ino;
    t.list(d, &[file("theirs", 1), dir("sub")]);
    make_file(&t, d, "mine", 4, 8);
    let diff = t.list(root, &[]);
    assert_eq!(diff.removed, []);
    assert_eq!(shown(&t, d), ["mine"]);
    sound(&t);
    // Once it is there again it is the site's again.
    let diff = t.list(root, &[dir("d")]);
    assert_eq!(diff.subfolders, [(name("d"), d)]);
    t.list(d, &[file("new", 1)]);
    assert_eq!(shown(&t, d), ["mine", "new"]);
    sound(&t);
}

#[test]
fn folders_made_here_are_the_sites_once_a_file_landed_in_them() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[]);
    let a = make(&t, root, "a", EntryKind::Dir);
    let b = make(&t, a, "b", EntryKind::Dir);
    let ino = make_file(&t, b, "f", 1, 10);
    let landed = write(&t.store, move |txn| {
        txn.landed(root, (b, &name("f")), &path("a/b/f"), sent(ino, 1), &Version::new("w"))
    });
    assert_eq!(landed.unwrap(), Landed::Mirror { object: Some(1) });
    sound(&t);
    let own = |ino| t.store.read(|txn| txn.node(ino)).unwrap().unwrap().own;
    assert!(!own(a) && !own(b));
}

#[test]
fn a_file_that_moved_before_it_landed_is_known_at_its_old_place() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[]);
    let ino = make_file(&t, root, "tmp", 1, 10);
    write(&t.store, move |txn| {
        txn.rename((root, &name("tmp")), (root, &name("final")), RenameHow::Replace, T)
    })
    .unwrap();
    let landed = write(&t.store, move |txn| {
        txn.landed(
            root,
            (root, &name("tmp")),
            &path("tmp"),
            sent(ino, 1),
            &Version::new("w"),
        )
    });
    assert_eq!(landed.unwrap(), Landed::NameGone);
    t.list(
        root,
        &[Remote {
            version: Version::new("w"),
            ..file("tmp", 10)
        }],
    );
    assert_eq!(shown(&t, root), ["final"]);
    write(&t.store, move |txn| {
        txn.is_gone_from_site(root, &path("tmp"), EntryKind::File)
    })
    .unwrap();
    t.list(
        root,
        &[Remote {
            version: Version::new("w"),
            ..file("tmp", 10)
        }],
    );
    assert_eq!(shown(&t, root), ["final", "tmp"], "somebody put it there again");
    sound(&t);
}

#[test]
fn conflicts_keep_both() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[file("f", 3)]);
    let ino = t.store.read(|txn| txn.lookup(root, b"f")).unwrap().unwrap().ino;
    let version = Version::from_size_mtime(3, 7);
    write(&t.store, move |txn| {
        txn.begin_write(ino, Some(9), Some(&version))?;
        txn.end_write(ino, 5, T, T)?;
        txn.put_aside(
            (root, &name("f")),
            ino,
            &name("f.conflict"),
            &Version::new("theirs"),
            NOW,
        )
    })
    .unwrap();
    t.list(root, &[file("f", 77)]);
    assert_eq!(shown(&t, root), ["f", "f.conflict"]);
    let conflicts = t.store.read(|txn| txn.conflicts()).unwrap();
    assert_eq!((conflicts[0].ino, &conflicts[0].name), (ino, &name("f")));
    sound(&t);
    // Ours goes up, and somebody removes it there: that settles it.
    write(&t.store, move |txn| {
        txn.landed(
            root,
            (root, &name("f.conflict")),
            &path("f.conflict"),
            sent(ino, 1),
            &Version::new("w"),
        )
    })
    .unwrap();
    t.list(root, &[file("f", 77)]);
    assert_eq!(t.store.read(|txn| txn.conflicts()).unwrap(), []);
    sound(&t);
}

#[test]
fn names_are_exchanged_and_folders_never_lie_in_themselves() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[file("theirs", 3)]);
    let d = make(&t, root, "d", EntryKind::Dir);
    make(&t, d, "e", EntryKind::Dir);
    make_file(&t, root, "f", 1, 10);
    let rename = |from: (Ino, &'static str), to: (Ino, &'static str), how| {
        write(&t.store, move |txn| {
            txn.rename((from.0, &name(from.1)), (to.0, &name(to.1)), how, T)
        })
    };
    assert_eq!(
        refused(rename((root, "d"), (d, "x"), RenameHow::Replace)),
        Refusal::Loop
    );
    assert_eq!(
        refused(rename((root, "d"), (root, "f"), RenameHow::Replace)),
        Refusal::NotDir
    );
    assert_eq!(
        refused(rename((root, "f"), (root, "d"), RenameHow::Replace)),
        Refusal::IsDir
    );
    assert_eq!(
        refused(rename((root, "f"), (root, "d"), RenameHow::NoReplace)),
        Refusal::Exists
    );
    assert_eq!(
        refused(rename((root, "f"), (root, "z"), RenameHow::Exchange)),
        Refusal::NotFound
    );
    rename((root, "f"), (root, "theirs"), RenameHow::Exchange).unwrap();
    let theirs = t.store.read(|txn| txn.lookup(root, b"f")).unwrap().unwrap();
    assert_eq!(theirs.origin.expect("at the site").path, path("theirs"));
    t.list(root, &[file("theirs", 3)]);
    assert_eq!(shown(&t, root), ["d", "f", "theirs"]);
    sound(&t);
}

#[test]
fn a_file_without_a_name_lives_until_it_is_dropped() {
    let t = Fixture::new();
    let root = t.root;
    let ino = make_file(&t, root, "f", 7, 10);
    write(&t.store, move |txn| txn.link(ino, root, &name("g"), T).map(drop)).unwrap();
    for text in ["f", "g"] {
        write(&t.store, move |txn| txn.unlink(root, &name(text), true, T).map(drop)).unwrap();
    }
    assert_eq!(t.store.read(|txn| txn.nameless()).unwrap(), [ino]);
    sound(&t);
    let object = write(&t.store, move |txn| txn.drop_nameless(ino)).unwrap();
    assert_eq!((object, t.store.read(|txn| txn.trash()).unwrap()), (Some(7), vec![7]));
    sound(&t);
}

#[test]
fn attributes_set_here_outlive_a_listing_and_times_end_with_their_content() {
    let t = Fixture::new();
    let root = t.root;
    t.list(root, &[file("f", 3)]);
    let ino = t.store.read(|txn| txn.lookup(root, b"f")).unwrap().unwrap().ino;
    write(&t.store, move |txn| {
        let attrs = crate::state::NewAttrs {
            perm: Some(0o600),
            mtime_ns: Some(42),
            ..Default::default()
        };
        txn.set_attrs(ino, &attrs, T).map(drop)
    })
    .unwrap();
    assert_eq!(t.list(root, &[file("f", 3)]).size(), 0);
    let node = || t.store.read(|txn| txn.node(ino)).unwrap().unwrap();
    assert_eq!((node().perm, node().mtime_ns), (Some(0o600), 42));
    t.list(root, &[file("f", 4)]);
    assert_eq!((node().perm, node().mtime_ns), (Some(0o600), 7));
    sound(&t);
}

#[test]
fn a_file_with_several_names_is_a_mirror_once_one_is_left_and_it_was_sent_under_that() {
    let t = Fixture::new();
    let root = t.root;
    let ino = make_file(&t, root, "f", 7, 10);
    write(&t.store, move |txn| txn.link(ino, root, &name("g"), T).map(drop)).unwrap();
    let landed = |at: &'static str| {
        write(&t.store, move |txn| {
            txn.landed(root, (root, &name(at)), &path(at), sent(ino, 1), &Version::new(at))
        })
        .unwrap()
    };
    assert_eq!((landed("f"), landed("g")), (Landed::StaysOwn, Landed::StaysOwn));
    let sent = |at: &str, generation| {
        t.store
            .read(|txn| txn.is_sent(root, at.as_bytes(), ino, generation))
            .unwrap()
    };
    assert!(sent("f", 1) && sent("g", 1) && !sent("g", 2));
    write(&t.store, move |txn| txn.unlink(root, &name("f"), false, T).map(drop)).unwrap();
    let node = t.store.read(|txn| txn.node(ino)).unwrap().unwrap();
    assert_eq!((node.own, node.version), (false, Some(Version::new("g"))));
    assert_eq!(t.store.read(|txn| txn.trash()).unwrap(), [7]);
    sound(&t);
}
