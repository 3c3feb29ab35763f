//! The lock that makes one process the owner of a state folder, and the note on whether the last owner stopped cleanly.
//!
//! Invariant: the file holds the owner's process id while it runs and is empty after a clean stop, so text in a file that
//! nobody has locked means that its owner was killed or lost power. The file itself is never removed (a lock on a removed
//! file guards nothing).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::StateError;

#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// The owner before us did not stop cleanly.
    pub(super) was_unclean: bool,
}

impl Lock {
    pub(super) fn take(data_dir: &Path) -> Result<Self, StateError> {
        let path = data_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| StateError::io("open", &path, e))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut text = String::new();
        (&mut file)
            .take(64)
            .read_to_string(&mut text)
            .map_err(|e| StateError::io("read", &path, e))?;
        match locked {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StateError::InUse {
                    pid: text.trim().parse().ok(),
                    path: data_dir.to_owned(),
                });
            }
            Err(e) => return Err(StateError::io("lock", &path, e)),
        }
        let lock = Self {
            file,
            path,
            was_unclean: !text.is_empty(),
        };
        lock.write(&format!("{}\n", std::process::id()))?;
        Ok(lock)
    }

    fn write(&self, text: &str) -> Result<(), StateError> {
        let mut file = &self.file;
        file.rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(|e| StateError::io("write", &self.path, e))
    }

    /// Notes a clean stop and gives the folder free.
    pub(super) fn release(self) -> Result<(), StateError> {
        self.write("")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is being spawned at this moment has a copy of it until it
        // runs its program, and the copy keeps the lock. If this fails, closing is what is left.
        let _closing_unlocks_too = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_in_a_process_being_spawned_does_not_keep_the_lock() {
        let home = tempfile::TempDir::new().unwrap();
        for clean in [true, false] {
            let lock = Lock::take(home.path()).unwrap();
            // What fork leaves in the child until it runs its program.
            let copy = lock.file.try_clone().unwrap();
            assert!(Lock::take(home.path()).is_err());
            if clean {
                lock.release().unwrap();
            } else {
                drop(lock);
            }
            let next = Lock::take(home.path()).unwrap();
            assert_eq!(next.was_unclean, !clean);
            next.release().unwrap();
            drop(copy);
        }
    }
}
