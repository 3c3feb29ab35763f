//! A process killed at any moment: what it had acknowledged is there, and the database is sound.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use futures::StreamExt;
use futures::stream;

use super::*;

/// Names the folder in which the child writes.
const CHILD: &str = "BACKLOT_STATE_CRASH_DIR";
const ROUNDS: u64 = 20;
/// Gives it numbers of its own.
const ROUND: &str = "BACKLOT_STATE_CRASH_ROUND";
/// Writes that wait together, so that transactions hold several.
const TOGETHER: usize = 8;

/// Writes until killed, and tells each write once it is acknowledged.
async fn scribble(home: &Path) {
    let store = StateStore::open(home).unwrap();
    let root = store
        .write(|txn| txn.set_projects(&[project("demo", "demo")], NOW))
        .await
        .unwrap()[0];
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = &store;
    let writes = stream::iter(round * 1_000_000..).map(|n| async move {
        let text = format!("f{n}");
        let of = n / 10;
        match n % 10 {
            // A whole folder of a hundred, filled and emptied again.
            8 => {
                let entries: Vec<_> = (0..100).map(|i| file(&format!("g{of}-{i}"), n)).collect();
                let folder = dir(&format!("d{}", of % 3));
                store
                    .write(move |txn| {
                        let diff = txn.apply_entry(root, &folder, Moment::LAST, NOW)?;
                        let entries = if of % 5 == 4 { &[][..] } else { &entries };
                        txn.apply_listing(diff.subfolders[0].1, entries, None, Moment::LAST, NOW)
                            .map(drop)
                    })
                    .await
                    .unwrap();
            }
            9 => {
                let gone = name(&format!("f{}", n - 9));
                store
                    .write(move |txn| txn.apply_absent(root, &gone, Moment::LAST, NOW))
                    .await
                    .unwrap();
                return Some(format!("- f{}", n - 9));
            }
            _ if n % 2 == 0 => drop(
                store
                    .write(move |txn| txn.apply_entry(root, &file(&text, n), Moment::LAST, NOW))
                    .await
                    .unwrap(),
            ),
            _ => drop(
                store
                    .write_durable(move |txn| txn.apply_entry(root, &file(&text, n), Moment::LAST, NOW))
                    .await
                    .unwrap(),
            ),
        }
        (n % 10 < 8).then(|| format!("+ f{n} {n}"))
    });
    let mut acknowledged = Box::pin(writes.buffered(TOGETHER));
    while let Some(told) = acknowledged.next().await {
        if let Some(told) = told {
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n{told}").and_then(|()| out.flush()).unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_what_it_acknowledged() {
    if let Some(home) = std::env::var_os(CHILD) {
        return block_on(scribble(home.as_ref()));
    }
    let home = TempDir::new().unwrap();
    let mut expected = BTreeMap::new();
    let mut unclean = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "state::tests::crash::a_killed_process_leaves_what_it_acknowledged",
                "--nocapture",
            ])
            .env(CHILD, home.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = 0;
        for line in lines.map_while(Result::ok) {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["+", name, size] => drop(expected.insert(name.to_owned(), Some(size.parse::<u64>().unwrap()))),
                ["-", name] => drop(expected.insert(name.to_owned(), None)),
                _ => continue,
            }
            told += 1;
            // Killed at another place each time; what was told before the pipe closed is read to its end.
            if told == 20 + round * 7 {
                child.kill().unwrap();
            }
        }
        assert!(told >= 20 + round * 7, "the child ended by itself");
        assert!(!child.wait().unwrap().success());
        unclean += usize::from(!std::fs::read(home.path().join("lock")).unwrap().is_empty());

        let store = StateStore::open(home.path()).unwrap();
        assert_eq!(store.check().unwrap(), []);
        let root = store.read(|txn| txn.projects()).unwrap()[0].root;
        for (name, size) in &expected {
            // Every tenth is removed again, and the kill may have come between the removal and its acknowledgement.
            if name.ends_with('0') && size.is_some() {
                continue;
            }
            let found = store
                .read(|txn| txn.lookup(root, name.as_bytes()))
                .unwrap()
                .map(|node| node.size);
            assert_eq!(found, *size, "{name} in round {round}");
        }
        store.close();
    }
    assert_eq!(unclean, usize::try_from(ROUNDS).unwrap(), "the kills were kills");
    assert!(expected.values().any(Option::is_none), "removals were acknowledged too");
}
