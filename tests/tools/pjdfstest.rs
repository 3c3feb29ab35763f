//! pjdfstest, the suite for what POSIX says of file systems: all groups, with what ext4 on Linux has. What fails is held
//! against `pjdfstest-expected.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::drive::{is_root, run_within, say};
use crate::stage::{Stage, TOOL, Zone, or_skip, program, staged};

/// How many cases the version that `.ci/tools` installs has on Linux.
const CASES: usize = 398;
/// The cases that need the file system to be mounted read-only for a moment.
const READ_ONLY: &str = "erofs";
/// What stands in the list in place of a zone where the program itself leaves a case out.
const SKIPPED: &str = "skipped";
/// Groups in which nothing may fail in a work folder, whatever the reason.
const WHOLE: &[&str] = &[
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "open",
    "truncate",
    "symlink",
    "link",
    "utimensat",
];

/// How a case ended.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

type Verdicts = BTreeMap<String, Verdict>;

/// Reads what the program printed: a case and a word on a line, then more about it on lines that are indented or are of
/// more words.
fn parsed(printed: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    let mut last = String::new();
    for line in printed.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let verdict = match words[..] {
            [case, "ok"] if case.contains("::") => Verdict::Passed,
            [case, "FAILED"] if case.contains("::") => Verdict::Failed(String::new()),
            [case, "skipped"] if case.contains("::") => Verdict::Skipped(String::new()),
            _ => {
                if let Some(Verdict::Failed(why) | Verdict::Skipped(why)) = verdicts.get_mut(&last) {
                    write!(why, "{} ", words.join(" ")).unwrap();
                }
                continue;
            }
        };
        last = words[0].to_owned();
        verdicts.insert(last.clone(), verdict);
    }
    verdicts
}

/// A line of the list: which cases fail, where and why, or are skipped everywhere and why.
#[derive(Debug)]
struct Expected<'l> {
    /// A zone's folder, or [`SKIPPED`].
    zone: &'l str,
    case: &'l str,
    why: &'l str,
}

impl<'l> Expected<'l> {
    fn list(text: &'l str) -> Vec<Self> {
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let entry = |line: &'l str| {
            let (zone, rest) = line.split_once(' ').expect("zone, case, reason");
            let (case, why) = rest.trim_start().split_once(' ').expect("zone, case, reason");
            let why = why.trim();
            Self { zone, case, why }
        };
        lines.map(entry).collect()
    }

    fn is_of(&self, case: &str) -> bool {
        match self.case.split_once('*') {
            Some((front, back)) => {
                case.len() >= front.len() + back.len() && case.starts_with(front) && case.ends_with(back)
            }
            None => case == self.case,
        }
    }
}

/// Says what is not as the list has it, a line each.
fn surprises(verdicts: &Verdicts, expected: &[Expected<'_>], zone: Zone) -> Vec<String> {
    let mut surprises = Vec::new();
    for (case, verdict) in verdicts {
        let word = match verdict {
            Verdict::Skipped(_) => SKIPPED,
            Verdict::Passed | Verdict::Failed(_) => zone.folder(),
        };
        let entry = expected.iter().find(|e| e.zone == word && e.is_of(case));
        match (verdict, entry) {
            (Verdict::Passed, None) | (Verdict::Failed(_) | Verdict::Skipped(_), Some(_)) => {}
            (Verdict::Passed, Some(entry)) => surprises.push(format!("{case} passes, and is listed: {}", entry.why)),
            (Verdict::Failed(why), None) => surprises.push(format!("{case} failed: {why}")),
            (Verdict::Skipped(why), None) => surprises.push(format!("{case} was skipped: {why}")),
        }
    }
    for entry in expected {
        let is_skipped = |v: &Verdict| matches!(v, Verdict::Skipped(_));
        let mut cases = verdicts.iter().filter(|(case, _)| entry.is_of(case)).peekable();
        if entry.zone == SKIPPED {
            if !cases.any(|(_, v)| is_skipped(v)) {
                surprises.push(format!("{} is listed as skipped and is not", entry.case));
            }
        } else if entry.zone == zone.folder() {
            if cases.peek().is_none() {
                surprises.push(format!("{} is listed and is no case", entry.case));
            }
            let group = entry.case.split("::").next().unwrap();
            if zone == Zone::Work && (WHOLE.contains(&group) || group.contains('*')) {
                surprises.push(format!("{} is listed, and nothing may fail in {group}", entry.case));
            }
        }
    }
    surprises
}

/// A user and its group as the program wants them: by names, the group being the user's own.
fn user_and_group(user: &str) -> Option<(String, String)> {
    let field = |file: &str, key: &str, by: usize, wanted: usize| {
        let text = fs::read_to_string(file).ok()?;
        let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = fields.into_iter().find(|f| f.get(by) == Some(&key))?;
        Some((*found.get(wanted)?).to_owned())
    };
    let gid = field("/etc/passwd", user, 0, 3)?;
    Some((user.to_owned(), field("/etc/group", &gid, 2, 0)?))
}

fn users() -> Option<[(String, String); 2]> {
    Some([user_and_group("nobody")?, user_and_group("daemon")?])
}

/// What we claim is what ext4 has. Of the features that are not here Linux has no system call (`chflags`), no field of
/// `stat` (its birth time) or no file system (NFSv4's access lists).
fn config(remount: bool) -> String {
    let entries = users()
        .expect("asked before")
        .map(|(user, group)| format!("[{user:?}, {group:?}]"));
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = {remount}\n\
         [dummy_auth]\nentries = [{}]\n",
        entries.join(", ")
    )
}

/// The program, run for `cases` (all, where none are named).
fn run(program: &Path, stage: &Stage, remount: bool, cases: &[&str]) -> Verdicts {
    let config_file = stage.scratch().join("pjdfstest.toml");
    fs::write(&config_file, config(remount)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .arg("-c")
        .arg(config_file)
        .arg("-p")
        .arg(stage.folder())
        .arg("-s")
        .arg(another_file_system(stage))
        .args(cases)
        .env("PATH", format!("{}:{path}", bare_mount(stage).display()))
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "0");
    let out = run_within(TOOL, &mut command);
    let printed = String::from_utf8_lossy(&out.stdout);
    let verdicts = parsed(&printed);
    let total = format!(" {} total", verdicts.len());
    assert!(
        printed
            .lines()
            .any(|l| l.starts_with("Summary:") && l.ends_with(&total)),
        "it ended with {}, and{total} were read from: {printed}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    verdicts
}

/// A folder of another file system, to which nothing can be linked or renamed.
fn another_file_system(stage: &Stage) -> PathBuf {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let here = device(stage.folder());
    let others = [stage.scratch(), Path::new("/dev/shm")];
    let other = others.into_iter().find(|o| device(o).is_some_and(|d| Some(d) != here));
    other.expect("another file system").to_owned()
}

/// A folder with a `mount` that asks nobody: the system's own hands a remount of a FUSE mount to a helper, which starts
/// the file system's program.
fn bare_mount(stage: &Stage) -> PathBuf {
    let bin = stage.scratch().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nexec mount -i \"$@\"\n";
    fs::write(bin.join("mount"), script).unwrap();
    fs::set_permissions(bin.join("mount"), fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

fn check(program: &Path, stage: &mut Stage) {
    let mut verdicts = run(program, stage, false, &[]);
    assert!(verdicts.len() >= CASES, "only {} cases", verdicts.len());
    // Alone: other cases keep files open, and then nothing can be made read-only.
    verdicts.retain(|case, _| !case.contains(READ_ONLY));
    if stage.has_drive() {
        verdicts.extend(run(program, stage, true, &[READ_ONLY]));
    }
    let count = |is: fn(&Verdict) -> bool| verdicts.values().filter(|v| is(v)).count();
    say(&format!(
        "tools: pjdfstest in a {} folder: {} cases, {} failed",
        stage.zone().folder(),
        verdicts.len(),
        count(|v| matches!(v, Verdict::Failed(_)))
    ));
    let text = include_str!("pjdfstest-expected.txt");
    // A plain folder takes everything everywhere.
    let expected = if stage.has_drive() {
        Expected::list(text)
    } else {
        Vec::new()
    };
    let surprises = surprises(&verdicts, &expected, stage.zone());
    assert!(surprises.is_empty(), "{}:\n{}", surprises.len(), surprises.join("\n"));
    let left: BTreeSet<_> = fs::read_dir(stage.folder())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(left.is_empty(), "the folder is as it was: {left:?}");
}

fn tool() -> Result<PathBuf, String> {
    if !is_root() {
        return Err("it becomes other users, which takes root".to_owned());
    }
    users().ok_or("it wants the users nobody and daemon, with a group each")?;
    program("BACKLOT_TEST_PJDFSTEST", "pjdfstest")
}

fn pjdfstest_in(zone: Zone) {
    if let Some(program) = or_skip("pjdfstest", tool()) {
        staged(zone, TOOL * 2, move |stage| check(&program, stage));
    }
}

#[test]
fn pjdfstest_in_a_work_folder() {
    pjdfstest_in(Zone::Work);
}

#[test]
fn pjdfstest_in_a_publish_folder() {
    pjdfstest_in(Zone::Publish);
}

#[test]
fn what_is_not_as_listed_is_found() {
    let printed = "\
unlink::a                                           ok
rename::b::fifo                                     FAILED
\tassertion `left == right` failed
  left: 1
 right: 2
open::c                                             skipped
\trequires root privileges
mkdir::d                                            ok

Summary: 1 failed, 1 skipped, 2 passed, 0 expected failures, 4 total
";
    let verdicts = parsed(printed);
    assert_eq!(verdicts.len(), 4);
    assert!(matches!(&verdicts["rename::b::fifo"], Verdict::Failed(why) if why.contains("left: 1 right: 2")));
    assert!(matches!(&verdicts["open::c"], Verdict::Skipped(why) if why.contains("root")));
    let found = |list: &str, zone| surprises(&verdicts, &Expected::list(list), zone).join("\n");
    let skipped = "open::c was skipped: requires root privileges ";
    assert!(found("", Zone::Work).contains("rename::b::fifo failed: assertion"));
    assert_eq!(found("# why\npublish  *::fifo  no FIFOs\n", Zone::Publish), skipped);
    let listed = "publish *::fifo no FIFOs\nskipped open::c it says so\n";
    assert_eq!(found(listed, Zone::Publish), "");
    assert!(found("skipped mkdir::d it ran", Zone::Publish).contains("mkdir::d is listed as skipped and is not"));
    assert!(found("publish *::fifo no FIFOs", Zone::Work).contains("rename::b::fifo failed"));
    let passes = found(
        "publish *::fifo no\npublish mkdir::d slow\npublish link::e gone",
        Zone::Publish,
    );
    assert!(passes.contains("mkdir::d passes, and is listed: slow"), "{passes}");
    assert!(passes.contains("link::e is listed and is no case"), "{passes}");
    assert!(found("work rename::b::fifo no", Zone::Work).contains("nothing may fail in rename"));
    assert!(found("work *::fifo no", Zone::Work).contains("nothing may fail in"));
    Expected::list(include_str!("pjdfstest-expected.txt"));
}
