//! Whether the thread that made a request still waits for its answer.
//!
//! The kernel tells a daemon of interrupts (FUSE_INTERRUPT), but fuser answers that it knows none of it, and the kernel then
//! waits for every request that was taken, whatever signal its caller got. So a request that waits for long looks at its
//! caller by itself.
//!
//! Owns: what counts as having given up. Refuses to know: what is asked for. Invariants: a request that is answered at once
//! costs nothing; where processes can't be seen (a hidden /proc, another namespace), nobody is taken to be gone.

use std::future::pending;
use std::io::ErrorKind;
use std::time::Duration;

use crate::error::{FsError, FsErrorKind};

/// Between two looks at a caller: a person who presses Ctrl-C feels no delay, and a thousand waiting requests cost a tenth
/// of a core.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// By these people and systems end a program, or its work: SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM. Others (a window that
/// changed, a timer) are no reason to fail a read of a file, for which programs are not prepared.
const ENDS: u64 = bit(1) | bit(2) | bit(3) | bit(9) | bit(15);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// A caller, at one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    Waits,
    /// A signal is to end it, or what it does.
    Interrupted,
    /// It is no more, or can't be seen.
    Absent,
}

/// Answers as `fut` does, or with EINTR once the thread that asked is gone or is told by a signal to stop. A thread of 0 is
/// the kernel's own, which never stops.
pub(super) async fn unless_given_up<T>(
    thread: u32,
    fut: impl Future<Output = Result<T, FsError>>,
) -> Result<T, FsError> {
    tokio::select! {
        biased;
        out = fut => out,
        () = given_up(thread) => Err(FsError::new(FsErrorKind::Interrupted, "whoever asked was interrupted, or is gone")),
    }
}

async fn given_up(thread: u32) {
    if thread == 0 {
        return pending().await;
    }
    let mut was_seen = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match look(thread) {
            Caller::Waits => was_seen = true,
            Caller::Interrupted => return,
            Caller::Absent if was_seen || look(1) != Caller::Absent => return,
            Caller::Absent => return pending().await,
        }
    }
}

/// Looks at a thread. The kernel writes this text from memory, so it does not block.
fn look(thread: u32) -> Caller {
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => judge(&status),
        // ESRCH: it ended while it was looked at.
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(3) => Caller::Absent,
        Err(_) => Caller::Waits,
    }
}

fn judge(status: &str) -> Caller {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mask = |name: &str| {
        field(name)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .unwrap_or(0)
    };
    if field("State:").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        return Caller::Absent;
    }
    // Sent to the thread or to its process; what is ignored never waits.
    let waiting = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:");
    if waiting & ENDS == 0 {
        Caller::Waits
    } else {
        Caller::Interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, thread: u64, process: u64, blocked: u64) -> String {
        format!(
            "Name:\tcat\nState:\t{state}\nSigQ:\t0/1\nSigPnd:\t{thread:016x}\nShdPnd:\t{process:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t0000000000000000\n"
        )
    }

    #[test]
    fn what_ends_a_program_interrupts_and_what_does_not_does_not() {
        for signal in [1, 2, 3, 9, 15] {
            let (sent, none) = (bit(signal), 0);
            assert_eq!(judge(&status("D (disk sleep)", sent, none, none)), Caller::Interrupted);
            assert_eq!(judge(&status("D (disk sleep)", none, sent, none)), Caller::Interrupted);
            assert_eq!(
                judge(&status("D (disk sleep)", none, sent, sent)),
                Caller::Waits,
                "blocked"
            );
        }
        // SIGALRM, SIGCHLD, SIGWINCH.
        for signal in [14, 17, 28] {
            assert_eq!(
                judge(&status("S (sleeping)", bit(signal), bit(signal), 0)),
                Caller::Waits
            );
        }
        assert_eq!(judge(&status("Z (zombie)", 0, 0, 0)), Caller::Absent);
        assert_eq!(judge(""), Caller::Waits, "what can't be read is taken to wait");
    }

    #[test]
    fn threads_are_seen_alive_and_gone() {
        assert_eq!(look(std::process::id()), Caller::Waits);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(look(pid), Caller::Absent);
    }

    #[tokio::test]
    async fn an_answer_that_is_there_is_given_whoever_is_gone() {
        let out = unless_given_up(u32::MAX, async { Ok(1) }).await;
        assert_eq!(out.unwrap(), 1);
        let out = unless_given_up(u32::MAX, pending::<Result<(), _>>()).await;
        assert_eq!(out.unwrap_err().kind, FsErrorKind::Interrupted);
        let waits = unless_given_up(std::process::id(), pending::<Result<(), _>>());
        assert!(tokio::time::timeout(LOOK_EVERY * 3, waits).await.is_err());
    }
}
