//! `backlot sync` for long, compressed: files appear and change at hq round by round while servers die and come back.
//! `BACKLOT_TEST_SYNC_ROUNDS` sets how many rounds (60; the long gate takes 600).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::drive::{Builder, Drive, PROJECT, drive_test_within, eventually_within, say};
use crate::common::queue;
use crate::common::sshd::{Mode, Sshd};
use crate::common::tree::files_at;
use crate::common::web::{Service, WebServer};
use crate::rig::{BUCKET, bytes, json, memory, put};

/// Files that are written again and again.
const CHANGING: usize = 5;
/// What an allocator may keep beyond what is in use, and a debug build's connections.
const SLACK: u64 = 24 << 20;

/// Fails if a file has two tasks; returns how many tasks there are.
fn no_task_twice(service: &Drive) -> usize {
    let tasks = queue::tasks(service.data_dir());
    let mut seen = BTreeSet::new();
    for task in &tasks {
        let key = (
            task.path.as_ref().map(|path| path.as_bytes().to_vec()),
            task.target.clone(),
        );
        assert!(seen.insert(key), "twice: {task:?}");
    }
    tasks.len()
}

/// What is at a site, without the lease of the service.
fn at(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files_at(root);
    files.retain(|path, _| !path.as_os_str().as_encoded_bytes().starts_with(b".backlot-sync-"));
    files
}

/// Waits until both are equal; says what differs, and what the service thinks of it, if that does not come about.
fn caught_up(service: &Drive, hq: &Path, vault: &Path) {
    let limit = Instant::now() + Duration::from_secs(90);
    loop {
        let (ours, theirs) = (at(hq), at(vault));
        if ours == theirs {
            return;
        }
        if Instant::now() > limit {
            let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            let differ = names.into_iter().filter(|path| ours.get(*path) != theirs.get(*path));
            let told = differ.map(|path| {
                let len = |files: &BTreeMap<PathBuf, Vec<u8>>| files.get(path).map(Vec::len);
                let out = service.run(["site", "state", "--json", &format!("{PROJECT}/{}", path.display())]);
                let state = String::from_utf8_lossy(&out.stdout).into_owned();
                format!(
                    "{}: {:?} at hq, {:?} at the vault: {state}",
                    path.display(),
                    len(&ours),
                    len(&theirs)
                )
            });
            let told: Vec<_> = told.collect();
            let status = service.tell(["sync", "status"]);
            panic!(
                "the vault did not catch up: {told:#?}, {status}, {:#?}",
                queue::tasks(service.data_dir())
            );
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn jobs(service: &Drive) -> usize {
    json(service, &["queue", "jobs", "--all"]).as_array().unwrap().len()
}

#[test]
fn the_service_stays_small_and_true_through_many_rounds_and_outages() {
    let rounds: usize = std::env::var("BACKLOT_TEST_SYNC_ROUNDS").map_or(60, |n| n.parse().expect("a number"));
    drive_test_within(Duration::from_secs(300 + rounds as u64 * 4), move || {
        let (Some(mut hq), Some(mut vault)) = (
            Sshd::start_or_skip(Mode::Internal),
            WebServer::start_or_skip(Service::RcloneS3),
        ) else {
            return;
        };
        let root = hq.root().join(PROJECT);
        fs::create_dir(&root).unwrap();
        let at_vault = vault.root().join(BUCKET).join(PROJECT);
        fs::create_dir(vault.root().join(BUCKET)).unwrap();
        let key = |key: &str| format!("projects.{PROJECT}.{key}");
        let mut service = Builder::bare()
            .sftp_site("hq", &hq.settings(&hq.root()))
            .s3_site("vault", &vault.s3(BUCKET))
            .set(&key("remote-site"), "hq")
            .set(&key("remote-path"), PROJECT)
            .set(&key("always-accessible-on"), vec!["vault"])
            .set(&key("scan-interval"), "500ms")
            .set("publish.retry-max", "1s")
            .build();
        service.sync();
        let (mut held, mut outages, mut most_tasks) = (Vec::new(), 0, 0);
        for round in 0..rounds {
            put(
                &root,
                &format!("sh{:03}/plate.{round:04}.exr", round / 20),
                &bytes(round, 9_000),
            );
            put(
                &root,
                &format!("sh000/changing.{}.ma", round % CHANGING),
                &bytes(round * 3, 2_000 + round),
            );
            match round % 20 {
                7 => vault.kill(),
                11 => vault.restart(),
                14 => hq.kill(),
                17 => hq.restart(),
                _ => {}
            }
            outages += usize::from(round % 20 == 7) + usize::from(round % 20 == 14);
            std::thread::park_timeout(Duration::from_millis(300));
            if round % 5 == 4 {
                most_tasks = most_tasks.max(no_task_twice(&service));
            }
            // The last round of outages is over, and what it left behind is done.
            if round % 20 == 19 {
                caught_up(&service, &root, &at_vault);
                held.push(memory(service.pid()));
            }
        }
        if rounds % 20 > 7 && rounds % 20 <= 11 {
            vault.restart();
        }
        if rounds % 20 > 14 && rounds % 20 <= 17 {
            hq.restart();
        }
        caught_up(&service, &root, &at_vault);
        let all = at(&root);
        eventually_within(Duration::from_secs(30), "nothing is left to do", || {
            queue::tasks(service.data_dir()).is_empty()
        });
        let jobs = jobs(&service);
        say(&format!(
            "   {rounds} rounds, {outages} outages, {} files: memory {:?} MiB, {most_tasks} tasks at most, {jobs} jobs",
            all.len(),
            held.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
        ));
        assert!(outages >= 2 && all.len() == rounds + CHANGING, "{}", all.len());
        // One a day; midnight may be among the rounds.
        assert!((1..=2).contains(&jobs), "{jobs} jobs");
        let (first, last) = (held[0], *held.last().unwrap());
        assert!(
            last <= first + SLACK,
            "{last} bytes are held, {first} after the first rounds"
        );
        assert!(service.terminate().success());
        assert!(at(&at_vault) == at(&root), "all bytes are equal");
    });
}
