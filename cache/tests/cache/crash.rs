//! `kill -9` at random moments: what the index claims afterwards is true.

use std::collections::HashSet;
use std::env;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use backlot_cache::{ContentCache, GRANULE};

use crate::common::*;

const G: u64 = GRANULE;
const DIR: &str = "BACKLOT_CACHE_CRASH_DIR";
const SEED: &str = "BACKLOT_CACHE_CRASH_SEED";
const CONTENTS: u64 = 6;
const GRANULES: u64 = 1100;
const LEN: u64 = GRANULES * G - 9;
const ROUNDS: u64 = 30;

/// Not a test by itself: the process that is killed. It fills at random; with an odd seed it also drops and evicts.
#[test]
fn child() {
    let Ok(dir) = env::var(DIR) else { return };
    let seed: u64 = env::var(SEED).unwrap().parse().unwrap();
    let mut random = Random(seed);
    let mut options = options(Path::new(&dir));
    options.flush_interval = Duration::from_millis(3);
    options.max_open_files = 3;
    let cache = ContentCache::open(options).unwrap();
    loop {
        let which = random.below(CONTENTS) as u8;
        let content = cache.content(id(which), LEN).unwrap();
        let from = random.below(GRANULES);
        match random.below(12) {
            0 if seed % 2 == 1 => drop(content.drop_granules(from * G..(from + 40) * G).unwrap()),
            1 if seed % 2 == 1 => {
                drop(content);
                cache.evict(id(which)).unwrap();
            }
            _ => fill(&content, from..(from + 1 + random.below(8)).min(GRANULES)),
        }
        println!("step");
    }
}

#[test]
fn thirty_kills_and_not_one_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (mut survived, mut unclean) = (0, HashSet::new());
    for seed in 0..ROUNDS {
        // Rounds of fills only start from an empty cache, so that nothing a drop left behind is blamed on them.
        if seed % 2 == 0 {
            std::fs::remove_dir_all(dir.path()).unwrap();
        }
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let steps = 1 + Random(seed ^ 0xdead).below(120) as usize;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines
            .map(Result::unwrap)
            .filter(|line| line.ends_with("step"))
            .take(steps)
            .count();
        child.kill().unwrap();
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(9),
            "seed {seed}: the child ended by itself"
        );
        assert_eq!(seen, steps);

        let cache = open(dir.path());
        for n in 0..CONTENTS {
            let content = cache.content(id(n as u8), LEN).unwrap();
            let missing = content.missing(0..LEN).unwrap();
            for granule in 0..GRANULES {
                let at = granule * G;
                let bytes = at..(at + G).min(LEN);
                if missing.iter().any(|r| r.contains(&at)) {
                    continue;
                }
                let here = read(&content, bytes).is_some();
                assert!(
                    here || seed % 2 == 1,
                    "seed {seed}: granule {granule} of {n} claimed but not there"
                );
                survived += u64::from(here);
            }
        }
        let usage = cache.usage();
        if seed % 2 == 0 {
            assert_eq!(
                usage.bad_granules, 0,
                "seed {seed}: a granule was claimed before its bytes were written"
            );
        }
        let claimed: u64 = (0..CONTENTS)
            .map(|n| cache.content(id(n as u8), LEN).unwrap())
            .map(|c| LEN - c.missing(0..LEN).unwrap().iter().map(|r| r.end - r.start).sum::<u64>())
            .sum();
        assert_eq!(usage.bytes, claimed, "seed {seed}: the sum does not fit the bits");
        if usage.bytes > 0 {
            unclean.insert(seed);
        }
    }
    assert!(
        survived > 1000 && unclean.len() > 5,
        "too little survived to prove anything: {survived} granules, {unclean:?}"
    );
}
