//! The using side: starts the served process, uses its mount, and gets rid of both whatever happens.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backlot_platform::fuse::{Unmount, unmount_path};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::served;

/// Longer than anything takes on a loaded machine, short enough to notice.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
const REPLY_DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// An ordinary user: `nobody`.
pub(crate) const NOBODY: u32 = 65534;

/// The served processes by their mount point, for the end of a test that hangs.
static SERVED: Mutex<Vec<(PathBuf, Pid)>> = Mutex::new(Vec::new());

/// A served mount.
pub(crate) struct Rig {
    child: Mutex<Child>,
    stdin: Mutex<ChildStdin>,
    replies: Mutex<Receiver<String>>,
    ended: Mutex<Receiver<()>>,
    point: PathBuf,
    pub(crate) connection: u32,
}

/// Says why FUSE can't be tested here; prints it, or fails where it was promised (BACKLOT_TEST_REQUIRE_FUSE=1).
pub(crate) fn skip() -> bool {
    let reason = if !Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else if !is_root() && !Path::new("/usr/bin/fusermount3").exists() {
        "neither root nor fusermount3"
    } else {
        return false;
    };
    assert!(
        std::env::var_os("BACKLOT_TEST_REQUIRE_FUSE").is_none_or(|v| v != "1"),
        "FUSE is required here: {reason}"
    );
    println!("SKIPPED: fuse ({reason})");
    true
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder to mount on, inside of a temporary one that others may walk through.
pub(crate) fn mount_folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let point = dir.path().canonicalize().expect("exists").join("my drive");
    std::fs::create_dir(&point).expect("made");
    (dir, point)
}

/// Mounts with `options` (lines of `key=value`), runs `body` with a time limit, and cleans up.
pub(crate) fn with_mount(options: &str, body: impl FnOnce(&Rig) + Send + 'static) {
    if skip() {
        return;
    }
    let (_dir, point) = mount_folder();
    let options = options.to_owned();
    bounded(&point.clone(), move || {
        body(&Rig::start(&point, &options, None).expect("mounted"))
    });
}

/// Runs `body` on a thread; one that hangs in the mount at `point` is freed, and the test fails.
pub(crate) fn bounded(point: &Path, body: impl FnOnce() + Send + 'static) {
    let (send, receive) = sync_channel(1);
    let running = thread::spawn(move || {
        body();
        send.send(()).expect("the test waits");
    });
    let timed_out = receive.recv_timeout(BODY_DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    if timed_out {
        // Closing the connection frees whoever hangs in it.
        for (_, pid) in SERVED.lock().expect("whole").iter().filter(|(p, _)| p == point) {
            rustix::process::kill_process(*pid, Signal::KILL).expect("ours, and not waited for");
        }
        panic!("the test hung for {BODY_DEADLINE:?}");
    }
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Rig {
    /// Starts the served process; `Err` holds why it did not mount.
    pub(crate) fn start(point: &Path, options: &str, user: Option<u32>) -> Result<Self, String> {
        let mut command = Command::new(std::env::current_exe().expect("a test binary"));
        command
            .args(["served::serve_child", "--exact", "--ignored", "--nocapture"])
            .env(served::ENV, format!("{}\n{options}", point.to_str().expect("UTF-8")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/");
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().expect("the test binary runs");
        SERVED
            .lock()
            .expect("whole")
            .push((point.to_owned(), Pid::from_child(&child)));
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (reply, replies) = sync_channel(16);
        let (end, ended) = sync_channel(1);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix("= ") {
                    if reply.send(said.to_owned()).is_err() {
                        return;
                    }
                } else if line == "! ended" && end.send(()).is_err() {
                    return;
                }
            }
        });
        let first = match replies.recv_timeout(REPLY_DEADLINE) {
            Ok(first) => first,
            Err(error) => {
                end_child(&mut child);
                panic!("the served process said nothing: {error}");
            }
        };
        let rig = Self {
            child: Mutex::new(child),
            stdin: Mutex::new(stdin),
            replies: Mutex::new(replies),
            ended: Mutex::new(ended),
            point: point.to_owned(),
            connection: first
                .strip_prefix("mounted ")
                .and_then(|id| id.parse().ok())
                .unwrap_or_default(),
        };
        match first.strip_prefix("failed ") {
            Some(why) => Err(why.to_owned()),
            None => Ok(rig),
        }
    }

    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.point.join(name.as_ref())
    }

    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// Stops the served process, which then has its mount and answers nobody.
    pub(crate) fn stop(&self) {
        let child = self.child.lock().expect("whole");
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::STOP).expect("ours");
        // The signal is sent; a thread that runs just now may still answer somebody.
        eventually("all its threads have stopped", || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).expect("it lives");
            threads.flatten().all(|thread| {
                std::fs::read_to_string(thread.path().join("stat"))
                    .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
            })
        });
    }

    /// Gives an order and returns the answer.
    pub(crate) fn ask(&self, order: &str) -> String {
        writeln!(self.stdin.lock().expect("whole"), "{order}").expect("the served process lives");
        self.replies
            .lock()
            .expect("whole")
            .recv_timeout(REPLY_DEADLINE)
            .expect("an answer in time")
    }

    /// Gives an order that must succeed.
    pub(crate) fn tell(&self, order: &str) {
        assert_eq!(self.ask(order), "ok", "{order}");
    }

    pub(crate) fn calls(&self, op: &str) -> u64 {
        self.ask(&format!("calls {op}")).parse().expect("a number")
    }

    /// Lets the served process drop its mount and end.
    pub(crate) fn say_exit(&self) {
        writeln!(self.stdin.lock().expect("whole"), "exit").expect("the served process lives");
    }

    /// Waits for the end of the session.
    pub(crate) fn wait_ended(&self) {
        self.ended
            .lock()
            .expect("whole")
            .recv_timeout(SOON)
            .expect("the session ends");
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.lock().expect("whole").try_recv().is_ok()
    }

    /// Kills the served process as a crash would.
    pub(crate) fn crash(&self) {
        end_child(&mut self.child.lock().expect("whole"));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Killing the served process closes the connection and frees whoever hangs in it.
        end_child(self.child.get_mut().unwrap_or_else(PoisonError::into_inner));
        if mounts_at(&self.point) > 0
            && let Err(error) = unmount_path(&self.point, Unmount::Lazy)
        {
            println!("a mount stays behind: {error}, {}", error.source);
        }
    }
}

/// Kills a served process, which may have ended or been killed by itself.
fn end_child(child: &mut Child) {
    SERVED
        .lock()
        .expect("whole")
        .retain(|(_, pid)| *pid != Pid::from_child(child));
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        println!("a served process stays behind: {error}");
    }
}

/// How many mounts the kernel lists at a path.
pub(crate) fn mounts_at(point: &Path) -> usize {
    let wanted = point.to_str().expect("UTF-8").replace(' ', "\\040");
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("a table");
    table
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some(&wanted))
        .count()
}

/// Polls until `met`; the pause only spares the processor.
pub(crate) fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    let (_never, pause) = sync_channel::<()>(0);
    while !met() {
        assert!(Instant::now() < end, "{what} did not happen within {SOON:?}");
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
}

pub(crate) fn list(dir: &Path) -> Vec<OsString> {
    std::fs::read_dir(dir)
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect()
}

pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("must fail").raw_os_error().expect("an errno")
}
