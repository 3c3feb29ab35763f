//! One process of the program: starting it, asking it, and getting rid of it.
//!
//! Owns: the process, its pipes, and what its standard error goes to. Refuses to know: which other processes there are.
//! Invariants: an answer comes within the deadline or the process is killed with all that it started; after anything that
//! is not a whole, expected answer a process is not asked again; a secret given to it is in no text of ours.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tracing::{info, warn};

use super::wire::{DATA_MAX, Greeting, Hello, LINE_MAX, Numbered, PROTOCOL, Reply, Request, kind_of, shown};
use crate::providers::{ErrorKind, Op, ProviderError, Retry};

/// Variables that a program gets of ours, beside `LC_…`.
const INHERITED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG"];
/// Lines of standard error that are logged a second; a program that writes more is told so in the log.
const LOG_LINES: u32 = 20;
/// Bytes of a line of standard error that are logged.
const LOG_LINE: usize = 1024;
/// How long to wait for the exit code of a program that closed its output.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Exit codes with a meaning (sysexits.h).
const EX_TEMPFAIL: i32 = 75;
const EX_NOPERM: i32 = 77;
const EX_CONFIG: i32 = 78;

/// The program, and how to run it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) command: Vec<String>,
    pub(super) secrets: Vec<(String, SecretString)>,
    pub(super) start_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

impl Program {
    /// How the program is called in errors.
    pub(super) fn name(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Takes the secrets out of a text.
    fn without_secrets(&self, mut text: String) -> String {
        for (name, secret) in &self.secrets {
            let secret = secret.expose_secret();
            if text.contains(secret) {
                text = text.replace(secret, &format!("<{name}>"));
            }
        }
        text
    }
}

/// Why a process is of no more use, or what it said no to.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: ErrorKind,
    why: String,
    retry: Option<Retry>,
    /// Whether the process can be asked again.
    fit: bool,
}

impl Failed {
    fn broken(kind: ErrorKind, why: String) -> Self {
        Self {
            kind,
            why,
            retry: None,
            fit: false,
        }
    }

    /// Nobody waits for the rest.
    pub(super) fn given_up() -> Self {
        Self {
            kind: ErrorKind::Protocol,
            why: "given up".to_owned(),
            retry: None,
            fit: true,
        }
    }

    pub(super) fn unfinished() -> Self {
        Self::broken(ErrorKind::Protocol, "the listing broke off".to_owned())
    }

    pub(super) fn cut_off(e: &tokio::task::JoinError) -> Self {
        Self::broken(ErrorKind::Protocol, format!("the request was cut off: {e}"))
    }

    pub(super) fn error(self, op: Op) -> ProviderError {
        let error = ProviderError::new(self.kind, op).because(self.why);
        match self.retry {
            Some(retry) => error.with_retry(retry),
            None => error,
        }
    }
}

/// A process that has said hello.
#[derive(Debug)]
pub(super) struct Worker {
    program: Arc<Program>,
    child: Child,
    group: Option<Pid>,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Lines that were read, for errors.
    lines: u64,
    next_id: u64,
    last_words: Arc<Mutex<Vec<u8>>>,
    fit: bool,
}

impl Drop for Worker {
    /// Ends the process and what it started: at once, for it may hang.
    fn drop(&mut self) {
        if let Some(group) = self.group
            && let Err(e) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(?group, %e, "a provider program was gone already");
        }
    }
}

impl Worker {
    /// Starts a process and waits for its hello.
    pub(super) async fn start(program: Arc<Program>) -> Result<(Self, Hello), Failed> {
        let mut child = spawn(&program)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Failed::broken(
                ErrorKind::Protocol,
                "the program has no pipes".to_owned(),
            ));
        };
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let last_words = Arc::default();
        tokio::spawn(listen(Arc::clone(&program), stderr, Arc::clone(&last_words)));
        let mut worker = Self {
            child,
            group,
            stdin,
            stdout: BufReader::with_capacity(64 << 10, stdout),
            lines: 0,
            next_id: 1,
            last_words,
            fit: true,
            program,
        };
        let hello = tokio::time::timeout(worker.program.start_timeout, worker.greet()).await;
        let hello = hello.unwrap_or_else(|_| {
            let why = format!(
                "{} did not say hello within {:?}",
                worker.program.name(),
                worker.program.start_timeout
            );
            Err(Failed::broken(ErrorKind::TimedOut, worker.with_last_words(why)))
        })?;
        info!(program = worker.program.name(), pid = ?worker.child.id(), name = %hello.name, "a provider program started");
        Ok((worker, hello))
    }

    /// Says whether the process can be asked again.
    pub(super) fn is_fit(&self) -> bool {
        self.fit
    }

    /// Says whether the process has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    async fn greet(&mut self) -> Result<Hello, Failed> {
        self.say(&Greeting { backlot: PROTOCOL }, &[]).await?;
        let line = self.line().await?;
        let hello: Hello = serde_json::from_slice(&line).map_err(|e| self.garbage(&line, &e.to_string()))?;
        if hello.protocol != PROTOCOL {
            let why = format!(
                "{} speaks version {} of the protocol, and this backlot version {PROTOCOL}",
                self.program.name(),
                hello.protocol
            );
            return Err(Failed::broken(ErrorKind::Config, why));
        }
        Ok(hello)
    }

    /// Sends a request and reads one answer to it. Must be seen to its end: a future dropped half way leaves the process
    /// unfit.
    pub(super) async fn ask(&mut self, request: &Request, data: &[u8]) -> Result<(Reply, Bytes), Failed> {
        let id = self.next_id;
        self.next_id += 1;
        self.fit = false;
        let message = Numbered {
            id,
            request,
            data: data.len(),
        };
        let said = self.say(&message, data).await;
        // Even if it no longer listens it may have said why.
        let answer = self.answer(id).await;
        match (said, answer) {
            (Err(e), Err(_)) if e.kind == ErrorKind::TimedOut => Err(e),
            (Err(e), Ok(_)) => Err(e),
            (_, answer) => {
                self.fit = answer.as_ref().map_or_else(|e| e.fit, |_| true);
                answer
            }
        }
    }

    /// Reads the next page of an answer that said that there is more.
    pub(super) async fn more(&mut self) -> Result<(Reply, Bytes), Failed> {
        self.fit = false;
        let answer = self.answer(self.next_id - 1).await;
        self.fit = answer.as_ref().map_or_else(|e| e.fit, |_| true);
        answer
    }

    /// Marks the process as of no more use; returns the error that says why.
    pub(super) fn nonsense(&mut self, why: &str) -> Failed {
        self.fit = false;
        let why = format!("{}, line {}: {why}", self.program.name(), self.lines);
        Failed::broken(ErrorKind::Protocol, self.program.without_secrets(why))
    }

    async fn answer(&mut self, id: u64) -> Result<(Reply, Bytes), Failed> {
        let deadline = self.program.idle_timeout;
        match tokio::time::timeout(deadline, self.read_answer(id)).await {
            Ok(answer) => answer,
            Err(_) => {
                let why = format!("{} gave no answer for {deadline:?} and was killed", self.program.name());
                Err(Failed::broken(ErrorKind::TimedOut, self.with_last_words(why)))
            }
        }
    }

    async fn read_answer(&mut self, id: u64) -> Result<(Reply, Bytes), Failed> {
        let line = self.line().await?;
        let reply: Reply = serde_json::from_slice(&line).map_err(|e| self.garbage(&line, &e.to_string()))?;
        if reply.id != id {
            return Err(self.garbage(&line, &format!("it answers request {}, and {id} was asked", reply.id)));
        }
        if reply.data > DATA_MAX {
            return Err(self.garbage(&line, &format!("more than {DATA_MAX} bytes of data")));
        }
        let mut data = vec![0; reply.data];
        if let Err(e) = self.stdout.read_exact(&mut data).await {
            return Err(self
                .gone(&format!("in the middle of {} bytes of data: {e}", reply.data))
                .await);
        }
        let Some(word) = &reply.error else {
            return Ok((reply, data.into()));
        };
        let message = reply.message.as_deref().unwrap_or("no reason given");
        let message = self.program.without_secrets(shown(message.as_bytes(), 2000));
        let Some(kind) = kind_of(word) else {
            return Err(self.garbage(&line, "that is no kind of error"));
        };
        let wait = reply.retry_after_ms.map(Duration::from_millis);
        Err(Failed {
            kind,
            why: message,
            retry: wait.map(|wait| Retry::After(Some(wait))),
            fit: true,
        })
    }

    async fn line(&mut self) -> Result<Vec<u8>, Failed> {
        let mut line = Vec::new();
        let most = LINE_MAX as u64 + 1;
        let read = (&mut self.stdout).take(most).read_until(b'\n', &mut line).await;
        match read {
            Ok(_) if line.last() == Some(&b'\n') => {
                self.lines += 1;
                Ok(line)
            }
            Ok(n) if n as u64 == most => {
                self.lines += 1;
                Err(self.garbage(&line, &format!("a line has at most {LINE_MAX} bytes")))
            }
            Ok(_) => Err(self.gone("before its answer").await),
            Err(e) => Err(self.gone(&e.to_string()).await),
        }
    }

    fn garbage(&self, line: &[u8], why: &str) -> Failed {
        let why = format!(
            "{} wrote what is no message (line {}: {why}): \"{}\"; what is not for Backlot belongs on standard error",
            self.program.name(),
            self.lines,
            shown(line, 200)
        );
        Failed::broken(ErrorKind::Protocol, self.program.without_secrets(why))
    }

    /// The process closed its output: says how it ended.
    async fn gone(&mut self, when: &str) -> Failed {
        let status = tokio::time::timeout(LAST_WORDS, self.child.wait()).await;
        let (kind, how) = match status {
            Ok(Ok(status)) => ended(status),
            _ => (ErrorKind::Unreachable, "closed its output".to_owned()),
        };
        let why = format!("{} {how} {when}", self.program.name());
        Failed::broken(kind, self.with_last_words(why))
    }

    fn with_last_words(&self, why: String) -> String {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() {
            return why;
        }
        let words = self.program.without_secrets(shown(&words, 500));
        format!("{why}; its last words: {words}")
    }

    /// Writes a message; each piece of it must be taken within the deadline.
    async fn say<T: serde::Serialize>(&mut self, message: &T, data: &[u8]) -> Result<(), Failed> {
        let name = self.program.name();
        let broken = |why: &dyn std::fmt::Display| {
            Failed::broken(ErrorKind::Unreachable, format!("{name} does not listen: {why}"))
        };
        let mut line = serde_json::to_vec(message).map_err(|e| broken(&e))?;
        line.push(b'\n');
        for piece in line.chunks(64 << 10).chain(data.chunks(64 << 10)) {
            match tokio::time::timeout(self.program.idle_timeout, self.stdin.write_all(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Err(broken(&e)),
                Err(_) => {
                    let why = format!("{name} read nothing for {:?} and was killed", self.program.idle_timeout);
                    return Err(Failed::broken(ErrorKind::TimedOut, self.with_last_words(why)));
                }
            }
        }
        Ok(())
    }
}

fn ended(status: ExitStatus) -> (ErrorKind, String) {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(EX_CONFIG), _) => (ErrorKind::Config, "exited with 78 (wrong settings)".to_owned()),
        (Some(EX_NOPERM), _) => (ErrorKind::Auth, "exited with 77 (not let in)".to_owned()),
        (Some(EX_TEMPFAIL), _) => (ErrorKind::Busy, "exited with 75 (try later)".to_owned()),
        (Some(code), _) => (ErrorKind::Unreachable, format!("exited with {code}")),
        (None, Some(signal)) => (ErrorKind::Unreachable, format!("was killed by signal {signal}")),
        (None, None) => (ErrorKind::Unreachable, "ended".to_owned()),
    }
}

fn spawn(program: &Program) -> Result<Child, Failed> {
    let (path, args) = program
        .command
        .split_first()
        .ok_or_else(|| Failed::broken(ErrorKind::Config, "`command` is empty".to_owned()))?;
    let inherited = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        INHERITED.contains(&&*name) || name.starts_with("LC_")
    });
    let secrets = program
        .secrets
        .iter()
        .map(|(name, secret)| (OsString::from(name), OsString::from(secret.expose_secret())));
    Command::new(path)
        .args(args)
        .env_clear()
        .envs(inherited)
        .envs(secrets)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Of its own, so that all that it started goes with it, and so that Ctrl-C at the daemon is not for it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => ErrorKind::Config,
                _ => ErrorKind::Busy,
            };
            Failed::broken(kind, format!("{path} can't be started: {e}"))
        })
}

/// Brings standard error to the log, however much of it there is. Lines that are not logged cost next to nothing, so that
/// a program that floods is not held up by it.
async fn listen(program: Arc<Program>, stderr: ChildStderr, last_words: Arc<Mutex<Vec<u8>>>) {
    let mut stderr = BufReader::with_capacity(64 << 10, stderr);
    let (mut since, mut lines, mut dropped) = (Instant::now(), 0_u32, 0_u64);
    let name = program.name();
    let too_many = |dropped: u64| {
        if dropped > 0 {
            warn!(
                program = name,
                lines = dropped,
                "lines of the program's standard error were not logged: there are too many"
            );
        }
    };
    while let Some(line) = short_line(&mut stderr).await {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if since.elapsed() >= Duration::from_secs(1) {
            too_many(dropped);
            (since, lines, dropped) = (Instant::now(), 0, 0);
        }
        if lines < LOG_LINES {
            lines += 1;
            info!(program = name, "{}", program.without_secrets(shown(&line, LOG_LINE)));
        } else {
            dropped += 1;
        }
        *last_words.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
    too_many(dropped);
}

/// Reads a line, keeping its beginning only; `None` at the end.
async fn short_line(from: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut any = false;
    loop {
        let piece = from.fill_buf().await.ok()?;
        if piece.is_empty() {
            return any.then_some(line);
        }
        any = true;
        let end = piece.iter().position(|b| *b == b'\n');
        let taken = end.unwrap_or(piece.len());
        let room = (LOG_LINE + 1).saturating_sub(line.len());
        line.extend_from_slice(&piece[..taken.min(room)]);
        from.consume(end.map_or(taken, |_| taken + 1));
        if end.is_some() {
            return Some(line);
        }
    }
}
