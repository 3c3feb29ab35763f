//! Where files stand at sites.

use super::*;
use crate::state::error::Db;
use crate::state::{SiteRow, SiteStatus};

fn site(text: &str) -> SiteName {
    SiteName(text.to_owned())
}

fn row(at: &str, status: SiteStatus) -> SiteRow {
    SiteRow {
        status,
        size: 5,
        ..SiteRow::new(site(at), NOW)
    }
}

#[test]
fn a_row_is_of_one_path_and_one_site() {
    let t = Fixture::new();
    let root = t.root;
    let rows = |at: &str| t.store.read(|txn| txn.site_rows(root, &path(at))).unwrap();
    let set = |at: &'static str, row: &SiteRow| {
        let row = row.clone();
        write(&t.store, move |txn| txn.set_site_row(root, &path(at), &row)).unwrap();
    };
    let failed = SiteRow {
        retries: 3,
        error: Some("no route".to_owned()),
        ..row("cloud", SiteStatus::Failed)
    };
    let synced = SiteRow {
        version: Some(Version::new("there")),
        source: Some((site("hq"), Version::new("here"))),
        ..row("vault", SiteStatus::Synced)
    };
    set("a/b", &synced);
    set("a/b", &failed);
    set("b", &failed);
    assert_eq!(rows("a/b"), [failed.clone(), synced.clone()], "by site");
    assert_eq!(
        rows("b"),
        std::slice::from_ref(&failed),
        "another folder's name is another file's"
    );
    assert_eq!(rows("a/c"), []);
    assert_eq!(rows("a"), []);
    let in_a = t.store.read(|txn| txn.site_rows_in(root, &path("a"))).unwrap();
    assert_eq!(in_a, [(name("b"), failed), (name("b"), synced)]);
    assert!(t.store.read(|txn| txn.has_any_at(root, &site("vault"))).unwrap());
    assert!(!t.store.read(|txn| txn.has_any_at(root, &site("cloud"))).unwrap());
    assert!(
        write(&t.store, move |txn| txn.clear_site_row(
            root,
            &path("a/b"),
            &site("vault")
        ))
        .unwrap()
    );
    assert!(
        !write(&t.store, move |txn| txn.clear_site_row(
            root,
            &path("a/b"),
            &site("vault")
        ))
        .unwrap()
    );
    assert_eq!(rows("a/b").len(), 1);
    t.check();
}

#[test]
fn what_is_wanted_changes_nothing_about_what_lies_there() {
    let t = Fixture::new();
    let root = t.root;
    let there = SiteRow {
        version: Some(Version::new("v1 there")),
        source: Some((site("hq"), Version::new("v1"))),
        ..row("vault", SiteStatus::Synced)
    };
    let set = there.clone();
    write(&t.store, move |txn| {
        txn.set_site_row(root, &path("a"), &set)?;
        txn.want_at_site(root, &path("a"), &site("vault"), 9, NOW + 1)?;
        txn.want_at_site(root, &path("new"), &site("vault"), 7, NOW + 1)
    })
    .unwrap();
    let rows = |at: &str| t.store.read(|txn| txn.site_rows(root, &path(at))).unwrap();
    let wanted = SiteRow {
        status: SiteStatus::Queued,
        size: 9,
        at_ms: NOW + 1,
        ..there
    };
    assert_eq!(rows("a"), [wanted]);
    assert!(
        rows("a")[0].is_copy_of(&site("hq"), &Version::new("v1")),
        "of the older version still"
    );
    assert!(!rows("a")[0].is_copy_of(&site("other"), &Version::new("v1")));
    let new = &rows("new")[0];
    assert_eq!(
        (new.status, new.size, new.version.clone()),
        (SiteStatus::Queued, 7, None)
    );
}

#[test]
fn the_numbers_are_ayons() {
    let codes = [-1, 0, 1, 2, 3, 4];
    assert_eq!(SiteStatus::ALL.map(SiteStatus::code), codes);
    assert_eq!(codes.map(|code| SiteStatus::from_code(code).unwrap()), SiteStatus::ALL);
    assert_eq!(SiteStatus::from_code(5), None);
}

#[test]
fn a_projects_folder_itself_stands_nowhere() {
    let t = Fixture::new();
    let root = t.root;
    let refused = write(&t.store, move |txn| {
        txn.set_site_row(root, &RelPath::root(), &row("vault", SiteStatus::Synced))
    });
    assert!(matches!(refused, Err(StateError::Invalid(_))), "{refused:?}");
}

/// A question costs the rows of its folder, however many there are elsewhere: by the index, which the plan tells.
#[test]
fn questions_go_by_index() {
    let t = Fixture::new();
    let plan = |sql: &str| {
        t.store
            .read(|txn| {
                txn.many(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| {
                    row.get::<_, String>(3).db()
                })
            })
            .unwrap()
            .join("; ")
    };
    let folder = plan(
        "SELECT f.name FROM site_folder AS d CROSS JOIN site_file AS f ON f.folder = d.id \
         WHERE d.root = 3 AND d.path = x'61' ORDER BY f.name, f.site",
    );
    assert!(!folder.contains("SCAN") && !folder.contains("TEMP B-TREE"), "{folder}");
}
