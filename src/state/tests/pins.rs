//! Pin rules: kept, numbered, one for each path, and brought to a database from before them.

use super::*;
use crate::state::NewPin;

fn pin(what: &str) -> NewPin {
    NewPin {
        root: Ino(7),
        is_glob: false,
        what: what.into(),
        note: None,
        who: "ada".to_owned(),
    }
}

#[test]
fn a_rule_keeps_its_number_and_gets_a_new_note() {
    let home = TempDir::new().unwrap();
    let store = StateStore::open(home.path()).unwrap();
    let first = write(&store, |txn| txn.add_pin(&pin("plates"), NOW)).unwrap();
    let glob = NewPin {
        is_glob: true,
        ..pin("plates")
    };
    let second = write(&store, move |txn| txn.add_pin(&glob, NOW)).unwrap();
    assert_ne!(first, second, "a path and a pattern are two rules");
    let noted = NewPin {
        note: Some("for Friday".to_owned()),
        who: "ben".to_owned(),
        ..pin("plates")
    };
    let again = write(&store, move |txn| {
        txn.add_pin(&noted, NOW + 5)?;
        txn.add_pin(&pin("plates"), NOW + 6)
    });
    assert_eq!(again.unwrap(), first);
    store.close();
    let store = StateStore::open(home.path()).unwrap();
    let pins = store.read(|txn| txn.pins()).unwrap();
    assert_eq!(pins.iter().map(|pin| pin.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(
        (pins[0].rule.note.as_deref(), pins[0].rule.who.as_str()),
        (Some("for Friday"), "ada")
    );
    assert_eq!(pins[0].at_ms, NOW);
    assert!(write(&store, move |txn| txn.remove_pin(second)).unwrap());
    assert!(!write(&store, move |txn| txn.remove_pin(second)).unwrap());
    let third = write(&store, |txn| txn.add_pin(&pin("lut"), NOW)).unwrap();
    assert!(third > second, "a number is never used twice");
}

#[test]
fn a_store_of_the_version_before_gets_them() {
    let home = TempDir::new().unwrap();
    drop(old_store(&home, 2));
    let store = StateStore::open(home.path()).unwrap();
    assert_eq!(store.read(|txn| txn.pins()).unwrap(), []);
    write(&store, |txn| txn.add_pin(&pin("plates"), NOW)).unwrap();
}
