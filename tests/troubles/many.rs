//! A job of very many files: how long it takes to plan, what it keeps in memory, and that nobody else notices.
//! `BACKLOT_TEST_COPIES` sets how many (2,000; the long gate takes 200,000).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::drive::{Builder, Drive, drive_test_within, say};
use crate::rig::{count, job_to, json, local, memory, tasks};

/// Files of a folder.
const FOLDER: usize = 1000;
/// A page of tasks, the jobs, the status: answered within this.
const ANSWERED: Duration = Duration::from_secs(1);
/// Whoever reads, lists or mounts meanwhile waits no longer for it than this.
const NOTICED: Duration = Duration::from_secs(2);

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let out = work();
    (begun.elapsed(), out)
}

/// How many files are there, by their names.
fn arrived(root: &Path) -> usize {
    let folders = fs::read_dir(root).into_iter().flatten().flatten();
    folders
        .map(|folder| fs::read_dir(folder.path()).into_iter().flatten().count())
        .sum()
}

/// Waits until every folder is files; returns how many there were to do at most.
fn planned(drive: &Drive, files: u64, slowest: &mut Duration) -> u64 {
    let limit = Instant::now() + Duration::from_secs(60 + files / 50);
    let mut most = 0;
    loop {
        let (took, job) = timed(|| job_to(drive, "london"));
        *slowest = (*slowest).max(took);
        let left = count(&job, "waiting") + count(&job, "running");
        most = most.max(left);
        // A folder is a task too, but not a file that is done.
        if count(&job, "done") + left >= files {
            return most;
        }
        assert!(Instant::now() < limit, "not planned in time: {job:#}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_job_of_very_many_files_is_planned_told_of_and_done_and_nobody_else_notices() {
    let files: usize = std::env::var("BACKLOT_TEST_COPIES").map_or(2_000, |n| n.parse().expect("a number"));
    let many = files as u64;
    drive_test_within(Duration::from_secs(300 + many / 20), move || {
        let dir = tempfile::tempdir().unwrap();
        let (hq, london) = (dir.path().join("hq"), dir.path().join("london"));
        for n in 0..files {
            let folder = hq.join(format!("tiny/{:03}", n / FOLDER));
            if n % FOLDER == 0 {
                fs::create_dir_all(&folder).unwrap();
            }
            fs::File::create(folder.join(format!("f.{n:06}.exr"))).unwrap();
        }
        for n in 0..20 {
            fs::create_dir_all(hq.join(format!("other/{n}"))).unwrap();
            fs::write(hq.join(format!("other/{n}/note.txt")), "read me").unwrap();
        }
        let mut drive = local(Builder::local(&hq), "london", &london)
            .set("scan.recheck-after", "1h")
            .set("hydration.read-deadline", "20s")
            .build()
            .mounted();
        let mount_before = timed(|| drive.remount()).0;
        let before = memory(drive.pid());
        let mut others = (0..20).map(|n| format!("other/{n}/note.txt"));
        let mut look = |drive: &Drive| {
            let note = others.next().expect("enough of them");
            timed(|| assert_eq!(fs::read(drive.path(note)).unwrap(), b"read me")).0
        };
        let read_before = look(&drive);

        let begun = Instant::now();
        let asked = timed(|| drive.tell(["push", "show/tiny", "--to", "london"])).0;
        let mut jobs = Duration::ZERO;
        let most = planned(&drive, many, &mut jobs);
        let planned = begun.elapsed();
        let held_planned = memory(drive.pid());

        // While it runs: what is asked, what is read, a start.
        let (mut ls, mut read, mut status, mut rounds) = (Duration::ZERO, Duration::ZERO, Duration::ZERO, 0);
        while rounds < 5 && !tasks(&drive).is_empty() {
            jobs = jobs.max(timed(|| json(&drive, &["queue", "jobs"])).0);
            ls = ls.max(timed(|| drive.tell(["queue", "ls", "--state", "blocked"])).0);
            status = status.max(timed(|| drive.status()).0);
            read = read.max(look(&drive));
            rounds += 1;
        }
        let running = arrived(&london.join("show/tiny")) < files;
        let remount = timed(|| drive.remount()).0;
        let limit = Instant::now() + Duration::from_secs(120 + many / 30);
        while arrived(&london.join("show/tiny")) < files || count(&job_to(&drive, "london"), "waiting") > 0 {
            assert!(Instant::now() < limit, "{:#}", job_to(&drive, "london"));
            jobs = jobs.max(timed(|| json(&drive, &["queue", "jobs", "--all"])).0);
            std::thread::park_timeout(Duration::from_millis(500));
        }
        let (done, held) = (begun.elapsed(), memory(drive.pid()));
        say(&format!(
            "   {files} files: asked in {asked:?}, planned in {planned:?} ({most} waiting at most), all there after {done:?}; \
             jobs told in {jobs:?} at most, a page of tasks in {ls:?}, the status in {status:?}; a file read in {read_before:?} before, {read:?} \
             meanwhile; mounted in {mount_before:?} before, {remount:?} meanwhile{}; memory {} MiB before, {} planned, {} at the \
             end",
            if running { "" } else { " (it was done by then)" },
            before >> 20,
            held_planned >> 20,
            held >> 20,
        ));
        let job = job_to(&drive, "london");
        assert_eq!(
            (count(&job, "done") + count(&job, "same"), count(&job, "blocked")),
            (many, 0),
            "{job:#}"
        );
        assert!(jobs < ANSWERED, "the jobs were told in {jobs:?}");
        assert!(ls < ANSWERED, "a page of tasks came in {ls:?}");
        assert!(status < ANSWERED, "the status came in {status:?}");
        assert!(read < read_before + NOTICED, "a reader waited for {read:?}");
        assert!(
            remount < mount_before + NOTICED,
            "a mount took {remount:?}, and {mount_before:?} before"
        );
        assert!(
            held_planned.max(held) < before + (96 << 20),
            "{held_planned} bytes held, {before} before"
        );
        drive.unmount();
    });
}
