//! What a drive makes of what the last run left, before anybody sees it.
//!
//! Owns: files that were being written, files without names, objects that nothing needs, objects that nobody knows. Refuses
//! to know: why the last run ended. Invariant: a row is trusted about bytes only as far as the object's file goes.

use std::os::unix::fs::MetadataExt;

use tracing::{info, warn};

use super::drive::{Drive, OpenError, now_ns};
use super::writing::{blocking, object_mtime_ns};
use crate::failpoint;
use crate::state::{Node, StateError};

/// Why a file is not sent that was being written when the last run ended.
const UNFINISHED: &str = "it was being written when the drive ended: save it again, or look at it and release it";

impl Drive {
    /// Makes the store and the objects agree.
    pub(super) async fn recover(&self) -> Result<(), OpenError> {
        let (written, nameless, trash) = self
            .store
            .read(|txn| Ok((txn.being_written()?, txn.nameless()?, txn.trash()?)))?;
        for node in written {
            self.close_what_was_open(node).await?;
        }
        for ino in nameless {
            self.store.write(move |txn| txn.drop_nameless(ino)).await?;
        }
        let more = self.store.read(|txn| txn.trash())?;
        let trash = if more.is_empty() { trash } else { more };
        failpoint::hit("recover.trash");
        if !trash.is_empty() {
            self.inner().empty_trash(trash).await;
        }
        self.put_strangers_aside().await?;
        self.take_labels_off().await?;
        Ok(())
    }

    /// Takes the label of a copy off objects that the last run had given to files.
    async fn take_labels_off(&self) -> Result<(), OpenError> {
        for object in self.store.read(|txn| txn.labelled())? {
            let kept = match self.objects.open_file(object) {
                Ok(file) => self
                    .keep_for_good(object, &std::sync::Arc::new(file))
                    .await
                    .map_err(|e| e.to_string()),
                // It has been given up since.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    self.store.write(move |txn| txn.unlabelled(object)).await?;
                    Ok(())
                }
                Err(e) => Err(e.to_string()),
            };
            if let Err(error) = kept {
                warn!(
                    object = format!("{object:016x}"),
                    error, "still labelled as a copy; that is seen to at the next start"
                );
            }
        }
        Ok(())
    }

    /// Closes a file that was being written when the last run ended, with what is there of it.
    async fn close_what_was_open(&self, node: Node) -> Result<(), OpenError> {
        let opened = node.object.map(|object| self.objects.open_file(object));
        let (size, mtime_ns) = match opened {
            Some(Ok(file)) => {
                let size = file.metadata().map(|m| m.size()).unwrap_or(0);
                (size, object_mtime_ns(&file).unwrap_or(node.mtime_ns))
            }
            Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
                warn!(ino = %node.ino, error = %e, "a file that was being written can't be looked at; it stays so");
                return Ok(());
            }
            // Nothing was written before the end.
            Some(Err(_)) | None => (0, node.mtime_ns),
        };
        let (ino, generation, now) = (node.ino, node.generation, now_ns());
        let (sends, queue) = (self.publish_names(ino)?, self.queueing());
        if sends.is_empty() {
            info!(%ino, size, "a file was being written when the drive ended; it is closed as it is");
        } else {
            warn!(%ino, size, "a file of a publish zone was being written when the drive ended: it is not sent until it is \
                saved again, or `backlot queue release` says that it is whole");
        }
        self.store
            .write(move |txn| {
                txn.end_write(ino, size, mtime_ns, now)?;
                for at in &sends {
                    let task = queue.send(txn, at, ino, generation, size)?;
                    // Half a save must not replace what the site has.
                    txn.hold_unfinished(task, UNFINISHED)?;
                }
                Ok(())
            })
            .await?;
        failpoint::hit("recover.closed");
        Ok(())
    }

    /// Puts objects aside that the store does not know: a database that is older than they are, or new.
    async fn put_strangers_aside(&self) -> Result<(), OpenError> {
        let objects = std::sync::Arc::clone(&self.objects);
        let all = blocking(move || objects.all()).await;
        let all = match all {
            Ok(Ok(all)) => all,
            Ok(Err(source)) => {
                let dir = self.objects.dir().to_owned();
                return Err(OpenError::Local { dir, source });
            }
            Err(_) => return Err(StateError::Closed.into()),
        };
        let known = self.store.read(|txn| txn.objects())?;
        for object in all.into_iter().filter(|object| !known.contains(object)) {
            if self.objects.is_copy(object) || self.objects.is_blank(object) {
                // The last run was about to let somebody write to it.
                self.drop_object(object);
                continue;
            }
            match self.objects.put_aside(object) {
                Ok(to) => warn!(object = %to.display(), "nobody knows whose bytes these are: they are put aside; \
                    `backlot recover DIR` writes them out under the names that they bear"),
                Err(e) => warn!(object = format!("{object:016x}"), error = %e, "can't be put aside"),
            }
        }
        Ok(())
    }
}
