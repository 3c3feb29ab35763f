//! Processes of our own that use a mount and may die of it: what a signal would do to the test itself.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PATH: &str = "BACKLOT_TEST_PATH";
const AT: &str = "BACKLOT_TEST_AT";

/// A program that signals end, though whoever started the tests may have them ignored (a shell does, in the background).
pub(crate) fn interruptible(program: &Path) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program);
    command
}

/// A process that maps a file and reads the mapping from `at` to the end, and prints the hash of that.
pub(crate) fn mapping(path: &Path, at: u64) -> Command {
    let mut command = interruptible(&std::env::current_exe().unwrap());
    command
        .args(["child::maps_and_hashes", "--exact", "--ignored", "--nocapture"])
        .env(PATH, path)
        .env(AT, at.to_string());
    command
}

/// A process that reads a file and throws it away.
pub(crate) fn reading(path: &Path) -> Child {
    let mut command = interruptible(Path::new("cat"));
    command
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns what [`mapping`] prints for these bytes.
pub(crate) fn printed_hash(bytes: &[u8]) -> String {
    format!("= {}", blake3::hash(bytes).to_hex())
}

#[test]
#[ignore = "a process that other tests start"]
#[expect(unsafe_code, reason = "mapping a file")]
fn maps_and_hashes() {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let Some(path) = std::env::var_os(PATH) else { return };
    let at: usize = std::env::var(AT).unwrap().parse().unwrap();
    let file = File::open(path).unwrap();
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    // SAFETY: a fresh mapping at an address of the kernel's choice, of which no byte beyond `len` is read. Pages that
    // can't be had are a signal, which is what some tests are about; the file is not changed in place while it is mapped.
    let bytes = unsafe {
        let map = mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0).unwrap();
        std::slice::from_raw_parts(map.cast::<u8>(), len)
    };
    println!("{}", printed_hash(&bytes[at..]));
}

/// Says whether every thread of a process that sleeps without being killable does so in the mount's code, and which do.
pub(crate) fn threads_in_state_d(pid: u32) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let stats = tasks
        .flatten()
        .filter_map(|t| fs::read_to_string(t.path().join("stat")).ok());
    // The name in parentheses may hold anything; the state follows the last one.
    stats
        .filter(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
        })
        .collect()
}
