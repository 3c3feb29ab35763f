//! What callers rely on, one promise each.

use super::*;
use crate::state::{ChangeKind, Tree};

fn names(t: &Fixture, dir: Ino) -> Vec<String> {
    let children = t.store.read(|txn| txn.children(dir, 0, usize::MAX)).unwrap();
    children.iter().map(|child| child.name.to_string()).collect()
}

#[test]
fn a_first_listing_is_numbered_in_the_order_of_names() {
    let t = Fixture::new();
    let diff = t.list(t.root, &[file("b", 2), dir("c"), file("a", 1), link("d", "a")]);
    assert!(diff.first);
    assert_eq!(diff.dir, t.root);
    let added: Vec<_> = diff.added.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(added, ["a", "b", "c", "d"]);
    assert_eq!(diff.subfolders, [(name("c"), diff.added[2].1)]);

    let tree = Tree::new(t.store.clone());
    let children = tree.children(t.root, 0, 10).unwrap();
    assert!(children.is_sorted_by_key(|child| (child.cookie, child.name.clone())));
    assert_eq!(children[3].node.kind, EntryKind::Symlink);
    assert_eq!(tree.link_target(children[3].node.ino).unwrap(), Some(b"a".to_vec()));
    assert_eq!(tree.children(t.root, children[1].cookie, 10).unwrap(), children[2..]);
    assert_eq!(tree.children(t.root, children[3].cookie, 10).unwrap(), []);
    let b = tree.resolve(&path("demo/b")).unwrap().unwrap();
    assert_eq!((b.size, b.mtime_ns, b.perm, b.nlink), (2, 7, Some(0o644), 1));
    assert_eq!(b.version, Some(Version::from_size_mtime(2, 7)));
    assert_eq!(tree.path_of(b.ino).unwrap(), Some(path("demo/b")));
    assert_eq!(tree.parent_of(b.ino).unwrap(), Some((t.root, name("b"))));
    assert_eq!(tree.resolve(&path("demo/b/x")).unwrap(), None);
    assert_eq!(tree.resolve(&RelPath::root()).unwrap().unwrap().ino, Ino::ROOT);
    assert_eq!(t.store.read(|txn| txn.subfolders(t.root)).unwrap(), diff.subfolders);
    t.check();
}

#[test]
fn a_listing_that_says_the_same_changes_nothing() {
    let t = Fixture::new();
    let entries = [file("a", 1), dir("b"), link("c", "a")];
    t.list(t.root, &entries);
    let seq = t.store.read(|txn| txn.last_seq()).unwrap();
    let rows = |t: &Fixture| {
        write(&t.store, {
            let (root, entries) = (t.root, entries.clone());
            move |txn| {
                let before = txn.conn.total_changes();
                txn.apply_listing(root, &entries, None, Moment::LAST, NOW + 5)?;
                Ok(txn.conn.total_changes() - before)
            }
        })
    };
    assert_eq!(
        rows(&t).unwrap(),
        1,
        "one row, the folder's own, notes when it was listed"
    );
    let again = t.list(t.root, &entries);
    assert!(!again.first);
    assert_eq!((again.size(), again.subfolders.len()), (0, 1));
    assert_eq!(t.store.read(|txn| txn.last_seq()).unwrap(), seq);
}

#[test]
fn a_new_version_is_new_content_and_the_rest_is_attributes() {
    let t = Fixture::new();
    t.list(t.root, &[file("a", 1), file("b", 1), dir("c"), link("d", "a")]);
    let before = t.store.read(|txn| txn.children(t.root, 0, 10)).unwrap();
    let touched = Remote {
        perm: Some(0o600),
        ..file("b", 1)
    };
    let newer = Remote {
        mtime_ns: 9,
        ..dir("c")
    };
    let diff = t.list(t.root, &[file("a", 5), touched, newer, link("d", "b")]);
    let ino = |at: usize| before[at].node.ino;
    assert_eq!(
        diff.changed,
        [(ino(0), true), (ino(1), false), (ino(2), false), (ino(3), true)]
    );
    assert!(diff.added.is_empty() && diff.removed.is_empty());
    let after = t.store.read(|txn| txn.children(t.root, 0, 10)).unwrap();
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(a, b)| (a.cookie, a.node.ino) == (b.cookie, b.node.ino))
    );
    assert_eq!(after[0].node.ctime_ns, NOW * 1_000_000);
    assert_eq!(
        t.store.read(|txn| txn.link_target(ino(3))).unwrap(),
        Some(b"b".to_vec())
    );
    assert_eq!(t.store.read(|txn| txn.counts()).unwrap().bytes, 6);
    t.check();
}

#[test]
fn another_kind_under_a_name_is_another_entry() {
    let t = Fixture::new();
    let first = t.list(t.root, &[dir("x"), file("y", 3)]);
    t.list(first.subfolders[0].1, &[file("below", 4)]);
    let diff = t.list(t.root, &[file("x", 1), file("y", 3)]);
    assert_eq!(diff.removed, [(name("x"), first.subfolders[0].1)]);
    assert_eq!(diff.added.len(), 1);
    assert_ne!(diff.added[0].1, first.subfolders[0].1);
    let counts = t.store.read(|txn| txn.counts()).unwrap();
    assert_eq!(
        (counts.files, counts.folders, counts.entries, counts.bytes),
        (2, 1, 3, 4)
    );
    t.check();
}

#[test]
fn a_folder_that_is_gone_takes_all_below_with_it() {
    let t = Fixture::new();
    let top = t.list(t.root, &[dir("a")]).subfolders[0].1;
    let many: Vec<_> = (0..1500)
        .map(|i| file(&format!("f{i:04}"), 2))
        .chain([dir("sub"), link("l", "f")])
        .collect();
    let sub = t.list(top, &many).subfolders[0].1;
    let deep = t.list(sub, &[file("deep", 9)]).added[0].1;
    let tree = Tree::new(t.store.clone());
    assert!(tree.lookup(sub, b"deep").unwrap().is_some());

    let diff = t.list(t.root, &[]);
    assert_eq!(diff.removed, [(name("a"), top)]);
    for gone in [top, sub, deep] {
        assert_eq!(tree.node(gone).unwrap(), None);
        assert_eq!(tree.path_of(gone).unwrap(), None);
    }
    assert_eq!(tree.lookup(sub, b"deep").unwrap(), None);
    let counts = t.store.read(|txn| txn.counts()).unwrap();
    assert_eq!(
        (counts.files, counts.folders, counts.symlinks, counts.bytes),
        (0, 1, 0, 0)
    );
    t.check();
}

#[test]
fn of_two_entries_with_one_name_the_later_counts() {
    let t = Fixture::new();
    let diff = t.list(t.root, &[file("a", 1), file("b", 1), file("a", 2)]);
    assert_eq!(diff.added.len(), 2);
    assert_eq!(t.store.read(|txn| txn.lookup(t.root, b"a")).unwrap().unwrap().size, 2);
}

#[test]
fn names_are_any_bytes_up_to_255() {
    let t = Fixture::new();
    let raw = Remote {
        name: Name::new(vec![0xff, 0xfe, b'\\', b'\'']).unwrap(),
        ..file("x", 1)
    };
    let long = Remote {
        name: Name::new(vec![0xe9; 255]).unwrap(),
        ..file("x", 2)
    };
    t.list(t.root, &[raw.clone(), long.clone()]);
    let tree = Tree::new(t.store.clone());
    for _ in 0..2 {
        assert_eq!(tree.lookup(t.root, &raw.name).unwrap().unwrap().size, 1);
        assert_eq!(tree.lookup(t.root, &long.name).unwrap().unwrap().size, 2);
        assert_eq!(tree.lookup(t.root, &[0xe9; 256]).unwrap(), None);
        assert_eq!(tree.lookup(t.root, &[0xe9; 254]).unwrap(), None);
    }
    let found = tree
        .path_of(tree.lookup(t.root, &raw.name).unwrap().unwrap().ino)
        .unwrap()
        .unwrap();
    assert_eq!(found.as_bytes(), b"demo/\xff\xfe\\'");
    t.check();
}

#[test]
fn a_folder_of_a_hundred_thousand_entries_is_listed_and_paged() {
    let t = Fixture::new();
    let entries: Vec<_> = (0..100_000).map(|i| file(&format!("frame.{i:07}.exr"), 1)).collect();
    assert_eq!(t.list(t.root, &entries).added.len(), 100_000);
    let (mut after, mut seen) = (0, 0);
    loop {
        let page = t.store.read(|txn| txn.children(t.root, after, 1000)).unwrap();
        let Some(last) = page.last() else { break };
        (after, seen) = (last.cookie, seen + page.len());
    }
    assert_eq!(seen, 100_000);
    // Every other one goes, in one write that touches more keys than are picked out of memory one by one.
    let tree = Tree::new(t.store.clone());
    let (goes, stays) = (entries[0].name.clone(), entries[1].name.clone());
    assert!(tree.lookup(t.root, &goes).unwrap().is_some() && tree.lookup(t.root, &stays).unwrap().is_some());
    let half: Vec<_> = entries.into_iter().skip(1).step_by(2).collect();
    assert_eq!(t.list(t.root, &half).removed.len(), 50_000);
    assert_eq!(tree.lookup(t.root, &goes).unwrap(), None);
    assert!(tree.lookup(t.root, &stays).unwrap().is_some());
    assert_eq!(tree.counts().unwrap().files, 50_000);
    t.check();
}

#[test]
fn single_entries_come_change_and_go() {
    let t = Fixture::new();
    let tree = Tree::new(t.store.clone());
    t.list(t.root, &[]);
    let apply = |entry: Remote| {
        let root = t.root;
        write(&t.store, move |txn| txn.apply_entry(root, &entry, Moment::LAST, NOW)).unwrap()
    };
    assert_eq!(tree.lookup(t.root, b"a").unwrap(), None);
    let a = apply(file("a", 1)).added[0].1;
    assert_eq!(tree.lookup(t.root, b"a").unwrap().unwrap().ino, a);
    assert_eq!(apply(file("a", 1)).size(), 0);
    assert_eq!(apply(file("a", 2)).changed, [(a, true)]);
    assert_eq!(tree.node(a).unwrap().unwrap().size, 2);
    let diff = apply(dir("a"));
    assert_eq!((diff.removed.clone(), diff.added.len()), (vec![(name("a"), a)], 1));
    assert_eq!(diff.subfolders, diff.added);
    let root = t.root;
    let absent = |name: Name| write(&t.store, move |txn| txn.apply_absent(root, &name, Moment::LAST, NOW)).unwrap();
    assert_eq!(absent(name("a")).removed, diff.added);
    assert_eq!(absent(name("a")).size(), 0);
    assert_eq!(tree.lookup(t.root, b"a").unwrap(), None);
    t.check();
}

#[test]
fn what_is_no_folder_of_a_project_is_refused() {
    let t = Fixture::new();
    let a = t.list(t.root, &[file("a", 1)]).added[0].1;
    for (ino, gone) in [(Ino(999), true), (a, false), (Ino::ROOT, false)] {
        let refused = write(&t.store, move |txn| {
            txn.apply_listing(ino, &[], None, Moment::LAST, NOW)
        })
        .unwrap_err();
        let told = if gone {
            matches!(refused, StateError::NoSuchNode(at) if at == ino)
        } else {
            matches!(refused, StateError::NotAFolder(at) if at == ino)
        };
        assert!(told, "{refused:?}");
    }
    t.check();
}

#[test]
fn projects_are_renamed_swapped_hidden_and_found_again() {
    let t = Fixture::new();
    let tree = Tree::new(t.store.clone());
    let set = |wanted: Vec<NewProject>| write(&t.store, move |txn| txn.set_projects(&wanted, NOW)).unwrap();
    t.list(t.root, &[file("a", 1)]);
    let a = tree.resolve(&path("demo/a")).unwrap().unwrap().ino;

    assert_eq!(set(vec![project("demo", "shown")]), [t.root]);
    assert_eq!(tree.resolve(&path("demo")).unwrap(), None);
    assert_eq!(tree.resolve(&path("shown/a")).unwrap().unwrap().ino, a);

    let two = set(vec![project("other", "demo"), project("demo", "shown")]);
    assert_eq!(
        set(vec![project("demo", "demo"), project("other", "shown")]),
        [two[1], two[0]]
    );
    assert_eq!(tree.resolve(&path("demo/a")).unwrap().unwrap().ino, a);
    assert_eq!(names(&t, Ino::ROOT), ["demo", "shown"]);

    assert_eq!(set(vec![project("other", "demo")]), [two[0]]);
    assert_eq!(names(&t, Ino::ROOT), ["demo"]);
    assert_eq!(tree.path_of(a).unwrap(), None);
    assert_eq!(
        tree.node(a).unwrap().unwrap().ino,
        a,
        "who holds the number still finds it"
    );
    let hidden: Vec<_> = t
        .store
        .read(|txn| txn.projects())
        .unwrap()
        .iter()
        .map(|p| p.hidden)
        .collect();
    assert_eq!(hidden, [true, false]);
    t.check();

    let back = set(vec![project("demo", "demo"), project("other", "x")]);
    assert_eq!(back[0], t.root);
    assert_eq!(tree.resolve(&path("demo/a")).unwrap().unwrap().ino, a);
    let (found, below) = t.store.read(|txn| txn.project_of(a)).unwrap().unwrap();
    assert_eq!((found.name.0.as_str(), below), ("demo", path("a")));
    let (_, below) = t.store.read(|txn| txn.project_of(t.root)).unwrap().unwrap();
    assert!(below.is_root());
    assert!(t.store.read(|txn| txn.project_of(Ino::ROOT)).unwrap().is_none());
    t.check();
}

#[test]
fn a_scan_goes_on_where_it_stopped() {
    let mut t = Fixture::new();
    let root = t.root;
    let begin = |t: &Fixture| write(&t.store, move |txn| txn.begin_scan(root, NOW)).unwrap();
    let scan = begin(&t);
    let epoch = scan.epoch;
    let next = |t: &Fixture| t.store.read(|txn| txn.next_to_scan(root, epoch, 10)).unwrap();
    let list = |t: &Fixture, dir: Ino, entries: Vec<Remote>| {
        write(&t.store, move |txn| {
            txn.apply_listing(dir, &entries, Some(epoch), Moment::LAST, NOW)
        })
        .unwrap()
    };
    assert_eq!(next(&t), [root]);
    let folders = list(&t, root, vec![dir("a"), dir("b"), dir("c"), file("f", 1)]).subfolders;
    list(&t, folders[1].1, vec![dir("deep")]);
    let finish = |t: &Fixture| write(&t.store, move |txn| txn.finish_scan(root, epoch, NOW + 1)).unwrap();
    assert!(!finish(&t), "folders are left");

    t = t.reopen();
    assert_eq!(begin(&t).epoch, epoch);
    let left = next(&t);
    assert_eq!(left.len(), 3, "a, c and the one in b");
    assert!(!left.contains(&folders[1].1));
    list(&t, left[0], vec![]);
    list(&t, left[0], vec![]);
    list(&t, left[1], vec![]);
    let skipped = left[2];
    write(&t.store, move |txn| txn.skip_folder(skipped, epoch)).unwrap();
    assert_eq!(
        t.store.read(|txn| txn.node(skipped)).unwrap().unwrap().listed_at_ms,
        None
    );
    assert!(finish(&t));
    let done = t.store.read(|txn| txn.scan(root)).unwrap().unwrap();
    assert_eq!(
        (done.folders, done.entries, done.skipped, done.finished_ms),
        (4, 5, 1, Some(NOW + 1))
    );

    let second = begin(&t);
    assert!(second.epoch > epoch);
    assert_eq!(
        t.store
            .read(|txn| txn.next_to_scan(root, second.epoch, 10))
            .unwrap()
            .len(),
        5
    );
    assert_eq!(t.store.read(|txn| txn.scan(root)).unwrap().unwrap().finished_ms, None);
    assert_eq!(t.store.read(|txn| txn.finished_scan(root)).unwrap(), Some(done));
    // The project's bytes now come from elsewhere: what this scan has seen so far counts no more.
    let moved = NewProject {
        remote_path: path("elsewhere"),
        ..project("demo", "demo")
    };
    write(&t.store, move |txn| txn.set_projects(&[moved], NOW)).unwrap();
    assert!(begin(&t).epoch > second.epoch);
    t.check();
}

#[test]
fn the_change_log_tells_what_happened_in_order() {
    let t = Fixture::new();
    let start = t.store.read(|txn| txn.last_seq()).unwrap();
    let a = t.list(t.root, &[file("a", 1), dir("b")]).added[0].1;
    t.list(t.root, &[file("a", 2), file("c", 1)]);
    let since = |seq, limit| t.store.read(|txn| txn.changes_since(seq, limit)).unwrap();
    let log = since(start, 100);
    assert!(!log.missed);
    let told: Vec<_> = log.rows.iter().map(|row| (row.what, row.name.to_string())).collect();
    let expected = [
        (ChangeKind::Listed, "demo"),
        (ChangeKind::Content, "a"),
        (ChangeKind::Removed, "b"),
        (ChangeKind::Added, "c"),
    ];
    assert_eq!(told, expected.map(|(what, name)| (what, name.to_owned())));
    assert_eq!(
        (log.rows[1].ino, log.rows[1].parent, log.rows[1].at_ms),
        (a, t.root, NOW)
    );
    assert_eq!(since(log.rows[0].seq, 2).rows, log.rows[1..3]);

    let root = t.root;
    write(&t.store, move |txn| {
        (0..100_010).try_for_each(|_| txn.log(NOW, ChangeKind::Attributes, root, Ino::ROOT, b"demo"))
    })
    .unwrap();
    let all = since(0, usize::MAX);
    assert!(all.missed);
    assert_eq!(all.rows.len(), 100_000);
    assert!(since(start, 1).missed);
    assert!(!since(all.rows[0].seq - 1, 1).missed);
    assert!(!since(all.rows[0].seq, 1).missed);
}

#[test]
fn the_check_finds_what_is_broken() {
    let broken = [
        "DELETE FROM inode WHERE ino = (SELECT ino FROM dirent WHERE name = x'61')",
        "DELETE FROM dirent WHERE name = x'61'",
        "UPDATE inode SET nlink = 2 WHERE kind = 0",
        "UPDATE inode SET size = -1 WHERE kind = 0",
        "UPDATE inode SET project = NULL WHERE kind = 1 AND ino > 2",
        "UPDATE dirent SET parent = ino WHERE name = x'64'",
        "UPDATE dirent SET cookie = 7 WHERE parent = 1 OR name = x'61'",
        "UPDATE meta SET value = 3 WHERE key = 'next_id'",
        "UPDATE meta SET value = value + 1 WHERE key = 'bytes'",
        "UPDATE project SET folder = x'7a'",
        "INSERT INTO scan (root, started_ms) VALUES (999, 0)",
        "INSERT INTO site_file (folder, name, site, state, at_ms) VALUES (999, x'61', 'x', 4, 0)",
        "INSERT INTO dirent VALUES ((SELECT ino FROM inode WHERE kind = 0), 999, x'7a', (SELECT ino FROM inode WHERE kind = 0))",
    ];
    for sql in broken {
        let t = Fixture::new();
        t.list(t.root, &[file("a", 3), dir("d")]);
        t.check();
        write(&t.store, move |txn| txn.run(sql, [])).unwrap();
        assert_ne!(t.store.check().unwrap(), [], "{sql}");
    }
}
