//! Telling a program of the studio's, which is run for each message.
//!
//! Refuses to know what it does. Invariants: no shell is between; it ends with its time, and all that it started with it;
//! it finds no secret of the daemon's in its environment.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::Try;
use super::facts::printable;

/// What a program gets of the daemon's environment, besides LC_….
const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG"];
/// Bytes of what it says that are read for an error's text.
const SAID_MAX: u64 = 4 << 10;
/// How long its output is waited for once it has ended: whoever it left behind may hold that open.
const LAST_WORDS: Duration = Duration::from_millis(200);

pub(super) async fn tell(command: &[String], json: Vec<u8>, limit: Duration, attempt: u32) -> Try {
    let Some((program, args)) = command.split_first() else {
        return Try::failed_for_good("no program is named");
    };
    let inherited = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        INHERITED.contains(&&*name) || name.starts_with("LC_")
    });
    let spawned = Command::new(program)
        .args(args)
        .env_clear()
        .envs(inherited)
        .env("BACKLOT_ATTEMPT", OsString::from(attempt.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => return Try::failed(format!("{program} can't be started: {e}")),
    };
    let group = Group(child.id());
    let ended = tokio::time::timeout(limit, feed(&mut child, json)).await;
    // Whatever it left behind goes with it, also when it ended in time.
    drop(group);
    match ended {
        Ok(Ok(status)) if status.success() => Try::Told,
        Ok(Ok(status)) => {
            let said = last_words(&mut child).await;
            let said = if said.is_empty() { said } else { format!(": {said}") };
            Try::failed(format!("{program} ended with {status}{said}"))
        }
        Ok(Err(e)) => Try::failed(format!("{program} could not be waited for: {e}")),
        Err(_elapsed) => Try::lost(format!("{program} took longer than {limit:?} and was ended")),
    }
}

async fn feed(child: &mut Child, json: Vec<u8>) -> std::io::Result<std::process::ExitStatus> {
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            // A program need not read what it does not want to know.
            drop(stdin.write_all(&json).await);
            drop(stdin.shutdown().await);
        }
    };
    let ((), status) = tokio::join!(write, child.wait());
    status
}

async fn last_words(child: &mut Child) -> String {
    let Some(stderr) = child.stderr.take() else {
        return String::new();
    };
    let mut said = Vec::new();
    let mut limited = stderr.take(SAID_MAX);
    drop(tokio::time::timeout(LAST_WORDS, limited.read_to_end(&mut said)).await);
    let text = String::from_utf8_lossy(&said);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    printable(last.unwrap_or_default().trim())
}

/// A program and all that it started; they end when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // An error says that they have ended.
            let _ended: Result<(), _> = kill_process_group(pid, Signal::KILL);
        }
    }
}
