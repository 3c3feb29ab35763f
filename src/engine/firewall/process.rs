//! Who a process is, as the kernel tells by /proc.
//!
//! Owns: what is read there. Refuses to know: lists, budgets. Invariant: [`facts`] reads nothing that could wait for a page
//! fault of the process in question, which may be waiting for us; its arguments can ([`script`]), so they are read aside.

use std::fs;

/// What is known of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// Clock ticks from the machine's start to its own; with the id it is one process for good.
    pub(super) started: u64,
    /// The kernel's name of it, up to 15 bytes.
    pub(super) comm: String,
    /// Its program; `None` for the kernel's own threads, and where that is not told to our user.
    pub(super) exe: Option<String>,
}

impl Facts {
    /// Returns the last part of its program's path.
    pub(super) fn program(&self) -> Option<&str> {
        self.exe.as_deref()?.rsplit('/').next()
    }

    /// Says whether only its arguments tell what it does.
    pub(super) fn is_interpreter(&self) -> bool {
        const WHOLE: &[&str] = &["node", "bash", "sh", "dash", "zsh", "kioworker", "kioslave5"];
        const BEGINNINGS: &[&str] = &["python", "perl", "ruby", "node", "php"];
        self.program()
            .is_some_and(|name| WHOLE.contains(&name) || BEGINNINGS.iter().any(|begins| name.starts_with(begins)))
    }
}

/// Returns what is known of a process, by the id of any of its threads; `None` if it is gone, or not to be seen from here.
pub(super) fn facts(thread: u32) -> Option<Facts> {
    let status = read(&format!("/proc/{thread}/status"))?;
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse::<u32>().ok()
    };
    let (pid, parent) = (of("Tgid:")?, of("PPid:")?);
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let (comm, started) = parse_stat(&stat)?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let exe = exe.map(|exe| {
        let exe = exe.to_string_lossy().into_owned();
        // Its package was upgraded while it ran.
        exe.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(exe)
    });
    Some(Facts {
        pid,
        parent,
        started,
        comm,
        exe,
    })
}

/// `1234 (name, which may hold anything) S 1 …`, see proc_pid_stat(5): the name, and field 22, when it began.
fn parse_stat(stat: &str) -> Option<(String, u64)> {
    let (_, rest) = stat.split_once('(')?;
    let (comm, rest) = rest.rsplit_once(')')?;
    // The first field after the name is the third.
    let started = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    Some((comm.to_owned(), started))
}

/// Returns the name of the script that an interpreter runs, or of the worker that a KDE process is. May wait for as long as
/// the process waits for a page.
pub(super) fn script(pid: u32, program: &str) -> Option<String> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut arguments = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).skip(1);
    if program.starts_with("kio") {
        let is_thumbnailer = arguments.take(3).any(|argument| argument.contains("thumbnail"));
        return is_thumbnailer.then(|| "kio-thumbnail".to_owned());
    }
    let mut options = arguments.by_ref().take_while(|argument| argument != "-c");
    let mut is_module = false;
    let script = options.find(|argument| {
        let found = is_module || !argument.starts_with('-') && !argument.is_empty();
        is_module = argument == "-m";
        found
    })?;
    let name = script.rsplit('/').next().unwrap_or_default();
    let is_name = !name.is_empty() && name.len() <= 64 && !name.contains(char::is_whitespace);
    is_name.then(|| name.to_owned())
}

fn read(path: &str) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_any_of_its_threads() {
        let own = facts(std::process::id()).expect("we are");
        assert_eq!(own.pid, std::process::id());
        let exe = std::env::current_exe().expect("a program");
        assert_eq!(own.exe.as_deref(), exe.to_str());
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
        let (tid, own_pid) = (thread.join().expect("ran"), own.pid);
        assert_ne!(tid, own_pid);
        let (ask, asked) = std::sync::mpsc::sync_channel(1);
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            ask.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs())
                .expect("heard");
            let _ = ends.recv();
        });
        let tid = asked.recv().expect("told");
        assert_eq!(facts(tid), Some(own));
        drop(end);
        thread.join().expect("ended");
        assert_eq!(facts(0), None);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "77 (a) S (b) S 1 77 77 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse_stat(stat), Some(("a) S (b".to_owned(), 4711)));
        assert_eq!(parse_stat("77 (a"), None);
        assert_eq!(parse_stat("77 (a) S 1"), None);
    }

    #[test]
    fn what_a_script_is_called() {
        let child = |args: &[&str]| {
            let mut command = std::process::Command::new("/bin/sh");
            // Or it would come to the end of ours, and end.
            command.stdin(std::process::Stdio::piped());
            let mut child = command.args(args).spawn().expect("started");
            // It is there a moment before its arguments are.
            let cmdline = format!("/proc/{}/cmdline", child.id());
            while fs::read(&cmdline).expect("ours").is_empty() {
                assert_eq!(child.try_wait().expect("ours"), None, "it ended");
                std::thread::yield_now();
            }
            let told = script(child.id(), "sh");
            child.kill().expect("ours");
            child.wait().expect("ours");
            told
        };
        assert_eq!(child(&["-c", "read line; true"]), None);
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("make-previews");
        fs::write(&path, "while :; do sleep 0.05; done\n").expect("written");
        assert_eq!(
            child(&["-e", path.to_str().expect("UTF-8")]).as_deref(),
            Some("make-previews")
        );
    }
}
