//! The served side: a process of its own that mounts a [`MemFs`] and obeys lines on its standard input.
//!
//! It answers each with a line `= …`, and says `! ended` when the kernel side has ended.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use backlot_platform::fuse::{self, Mount, MountOptions, Unmount, UnmountError};
use backlot_platform::vfs::ChangeSink;

use crate::memfs::MemFs;

/// Length of a file that the kernel may read by itself; of one that takes its name, half of it.
pub(crate) const LENT: usize = 1 << 20;

/// How the parent says where and how to mount: `mount point`, then options as `key=value`, one per line.
pub(crate) const ENV: &str = "BACKLOT_TEST_MOUNT";

#[test]
#[ignore = "the other side of the other tests, started by them"]
fn serve_child() {
    let Ok(options) = std::env::var(ENV) else { return };
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let fs = Arc::new(MemFs::new());
    let mount = match fuse::mount(Arc::clone(&fs) as _, rt.handle().clone(), parse(&options)) {
        Ok(mount) => mount,
        Err(error) => return say(&format!("= failed {error} HINT {}", error.hint())),
    };
    let ended = mount.ended();
    rt.spawn(async move {
        ended.await;
        say("! ended");
    });
    say(&format!("= mounted {}", mount.connection_id()));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("lines from the parent");
        if line == "exit" {
            break;
        }
        say(&format!("= {}", obey(&line, &fs, &mount)));
    }
}

fn parse(text: &str) -> MountOptions {
    let mut lines = text.lines();
    let mut options = MountOptions::new(lines.next().expect("a mount point"), "backlot-test");
    for line in lines {
        let (key, value) = line.split_once('=').expect("key=value");
        let number = || value.parse::<u64>().expect("a number");
        match key {
            "threads" => options.threads = usize::try_from(number()).expect("small"),
            "deadline_ms" => options.request_deadline = Duration::from_millis(number()),
            "patient_ms" => options.patient_deadline = Duration::from_millis(number()),
            "backlog" => options.change_backlog = usize::try_from(number()).expect("small"),
            "native" => options.native_reads = value == "true",
            "allow_other" => options.allow_other = value == "true",
            "fs_name" => options.fs_name = value.to_owned(),
            "readahead" => options.kernel_readahead = number(),
            _ => panic!("unknown option {key}"),
        }
    }
    options
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The harness leaves "test serve_child ... " on the line.
    writeln!(out, "\n{line}")
        .and_then(|()| out.flush())
        .expect("the parent listens");
}

fn obey(line: &str, fs: &MemFs, mount: &Mount) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let sink = mount.change_sink();
    let node = |path: &str| fs.at(path).expect("a path that exists");
    match words.as_slice() {
        ["put", dir, name, data] => fs.put(node(dir), name, data.as_bytes()),
        ["link", dir, name, target] => fs.put_link(node(dir), name, target),
        ["sneak", dir, name] => fs.sneak(node(dir), name),
        ["lend", dir, name, letter] => fs.lend(node(dir), name, letter.repeat(LENT).as_bytes(), true),
        ["lend-misfit", dir, name, letter] => fs.lend(node(dir), name, letter.repeat(LENT).as_bytes(), false),
        ["move-on", dir, name, letter] => fs.move_on(node(dir), name, letter.repeat(LENT / 2).as_bytes()),
        ["native"] => {
            let native = mount.native_reads();
            let off = native.off.unwrap_or_default();
            return format!("{} {} {off}", native.opens, native.answered);
        }
        ["del", dir, name] => fs.del(node(dir), name),
        ["entry", dir, name] => sink.entry_changed(node(dir), name.as_ref()),
        ["content", path] => sink.content_changed(node(path)),
        ["attr", path] => sink.attr_changed(node(path)),
        ["flood", dir, name] => flood(&*sink, fs, dir, name),
        ["calls", op] => return fs.calls(op).to_string(),
        ["handles"] => return fs.open_handles().to_string(),
        ["counters"] => return format!("{} {}", mount.counters().panics, mount.counters().expired),
        ["unmount"] => return ended(mount.unmount(Unmount::Normal)),
        ["lazy"] => return ended(mount.unmount(Unmount::Lazy)),
        ["abort"] => return ended(mount.abort()),
        _ => panic!("unknown command {line}"),
    }
    "ok".into()
}

/// Far more changes than the backlog holds, the one that matters amidst them.
fn flood(sink: &dyn ChangeSink, fs: &MemFs, dir: &str, name: &str) {
    let dir = fs.at(dir).expect("a folder");
    for i in 0..1000 {
        sink.entry_changed(dir, format!("unrelated-{i}").as_ref());
        if i == 500 {
            sink.entry_changed(dir, name.as_ref());
        }
    }
}

fn ended(result: Result<(), UnmountError>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(error) => format!("failed {error} CAUSE {} HINT {}", error.source, error.hint()),
    }
}
