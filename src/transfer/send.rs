//! Sending one file, so that it arrives once, whole or not at all, whatever ends the worker.
//!
//! Owns: the order of notes and requests. The note is written before the site hears of the upload; each part is noted when
//! it has arrived; what was committed stays noted until the desk has recorded it. Whoever finds a note looks at the site
//! first: what it would leave is there (it was done), or is not (it is gone on with, if the file is still the same, or
//! cleared away).

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Frozen;
use super::between::permits;
use super::plan::{Note, parts_at_once, wanted_part};
use super::stats::{Entry as Shown, UnderWay};
use super::worker::{Halt, Run};
use crate::failpoint;
use crate::model::{Ino, RelPath, Version};
use crate::providers::{Entry, ErrorKind, PartDone, UploadToken};
use crate::state::{ReadTxn, StateError, TaskState, WriteTxn};

/// Notes that are longer than this, in bytes, are written no more often than [`LONG_NOTE_EVERY`].
const LONG_NOTE: usize = 16 << 10;
const LONG_NOTE_EVERY: Duration = Duration::from_secs(1);
/// How often one worker tries to commit against a target that changes between the look and the commit.
const COMMITS_MAX: u32 = 4;

fn note_text(note: &Note) -> Result<String, Halt> {
    note.to_text()
        .ok_or_else(|| Halt::Local("the upload can't be noted".to_owned()))
}

/// Returns where, under their site's root, uploads of a project lead that were begun and whose end is not written down, as
/// far as that is below a path: the site may have any folder on the way there.
pub fn begun_below(txn: &ReadTxn<'_>, project: Ino, path: &RelPath) -> Result<Vec<RelPath>, StateError> {
    let is_below = |found: &RelPath| {
        let rest = found.as_bytes().strip_prefix(path.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"/"))
    };
    let tasks = txn.tasks_with_upload(project)?;
    let notes = tasks.iter().filter_map(|task| Note::parse(task.upload.as_deref()?));
    Ok(notes.map(|note| note.plan.path).filter(is_below).collect())
}

impl Run {
    /// Sends a frozen file and has it recorded. The caller has taken its path.
    pub(super) async fn send(&mut self, frozen: &Frozen) -> Result<(), Halt> {
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let shown = shared.gauge.enter(UnderWay {
            task: self.task.id,
            root: self.task.root,
            path: frozen.path.clone(),
            done_bytes: 0,
            size: frozen.size,
        });
        let Some(version) = self.deliver(frozen, &shown).await? else {
            return Ok(());
        };
        failpoint::hit("upload.committed");
        shown.committed();
        self.lane.link.answered();
        self.desk().committed(&self.task, frozen, version.clone()).await?;
        self.note = None;
        failpoint::hit("upload.recorded");
        let took = began.elapsed();
        info!(path = %frozen.path, size = frozen.size, %version, ?took, "sent");
        Ok(())
    }

    /// Brings a file to the site and returns its version there; `None` if it was found in conflict, which was said.
    async fn deliver(&mut self, frozen: &Frozen, shown: &Shown<'_>) -> Result<Option<Version>, Halt> {
        let mut base = frozen.base.clone();
        if let Some(note) = self.note.clone() {
            let resumable = self.lane.provider.capabilities().resume_upload;
            let left = self.look_back(&note, Some(frozen)).await?;
            self.in_doubt = false;
            match left {
                Some(version) if note.is_of(frozen) => return Ok(Some(version)),
                Some(version) => {
                    self.tell_ours(&note, version.clone()).await?;
                    self.clear_upload().await?;
                    base = Some(version);
                }
                None if note.is_of(frozen) && note.state.is_some() && resumable => {}
                None => {
                    self.abort(&note).await?;
                    self.clear_upload().await?;
                }
            }
        }
        let mut note = match self.note.clone() {
            Some(note) if note.base == base => note,
            Some(note) => self.renote(Note { base, ..note }, false).await?,
            None => {
                let can = self.lane.provider.capabilities();
                let note = Note::new(frozen, base, wanted_part(frozen, self.shared.options.part_size, &can));
                // A large file is worth finding again after a power cut.
                let durable = note.plan.part_count() > 1;
                self.renote(note, durable).await?
            }
        };
        failpoint::hit("upload.noted");
        let token = match note.token() {
            Some(token) => token,
            None => self.begin(&mut note).await?,
        };
        shown.sent(0, note.done_bytes());
        if note.plan.part_count() > 1 {
            self.renote(note.clone(), false).await?;
            failpoint::hit("upload.begun");
            self.send_parts(&token, &mut note, frozen, shown).await?;
        } else {
            // Noted while the part is on its way: the note has to be there before the commit, not sooner.
            let begun = self.write_note(&note, false);
            let sent = async {
                failpoint::hit("upload.begun");
                match note.missing().first() {
                    Some(index) => self.send_part(&token, *index, frozen).await.map(Some),
                    None => Ok(None),
                }
            };
            let (begun, sent) = tokio::join!(begun, sent);
            begun?;
            if let Some(part) = sent? {
                shown.sent(part.size, part.size);
                note.add(part);
                self.note = Some(note.clone());
                failpoint::hit("upload.part");
            }
        }
        if !self.lane.provider.capabilities().keeps_mtime {
            // Its receipts may be all that tells what it leaves from what others put there.
            note = self.renote(note, false).await?;
        }
        failpoint::hit("upload.parts");
        self.commit(token, note, frozen).await
    }

    /// Writes a note to the row, where it is the truth from then on.
    async fn renote(&mut self, note: Note, durable: bool) -> Result<Note, Halt> {
        self.write_note(&note, durable).await?;
        self.note = Some(note.clone());
        Ok(note)
    }

    async fn write_note(&self, note: &Note, durable: bool) -> Result<(), Halt> {
        self.write_text(note_text(note)?, note.done_bytes(), durable).await
    }

    async fn write_text(&self, text: String, done_bytes: u64, durable: bool) -> Result<(), Halt> {
        let task = self.task.clone();
        let write = move |txn: &WriteTxn<'_>| txn.note_upload(&task, &text, done_bytes);
        let noted = if durable {
            self.shared.store.write_durable(write).await?
        } else {
            self.shared.store.write(write).await?
        };
        if noted { Ok(()) } else { Err(Halt::Changed) }
    }

    /// Begins an upload. Not given up half way: a request that is still on its way could begin it after it was cleared
    /// away.
    async fn begin(&mut self, note: &mut Note) -> Result<UploadToken, Halt> {
        match self.lane.provider.begin_upload(&note.plan).await {
            Ok(token) => {
                note.state = Some(token.state.clone());
                self.note = Some(note.clone());
                Ok(token)
            }
            Err(e) => {
                // An answer that says no: nothing was begun.
                if !e.is_link_failure() && e.kind != ErrorKind::Protocol {
                    self.clear_upload().await?;
                }
                Err(e.into())
            }
        }
    }

    /// Sends the parts that are missing, several at once, and notes each that has arrived.
    async fn send_parts(
        &mut self,
        token: &UploadToken,
        note: &mut Note,
        frozen: &Frozen,
        shown: &Shown<'_>,
    ) -> Result<(), Halt> {
        let missing = note.missing();
        let can = self.lane.provider.capabilities();
        let mut noted_at: Option<Instant> = None;
        // The sender borrows what the notes don't touch.
        let this = &*self;
        let mut latest = None;
        let outcome = async {
            // Whoever is more urgent takes over between parts.
            let goes_on = |_: &u32| std::future::ready(!this.yields.is_cancelled());
            let sending = stream::iter(missing)
                .take_while(goes_on)
                .map(|index| this.send_part(token, index, frozen));
            let at_once = if can.parts_in_order {
                1
            } else {
                parts_at_once(note.plan.part_size)
            };
            let mut arrived = std::pin::pin!(sending.buffer_unordered(at_once));
            while let Some(part) = arrived.next().await {
                let part = part?;
                let size = part.size;
                note.add(part);
                shown.sent(size, note.done_bytes());
                // Where nothing is gone on with after a restart, a note shows people how far it is.
                let is_due = noted_at.is_none_or(|at| at.elapsed() >= LONG_NOTE_EVERY);
                let text = (can.resume_upload || is_due).then(|| note_text(note)).transpose()?;
                if let Some(text) = text.filter(|text| is_due || text.len() <= LONG_NOTE) {
                    this.write_text(text, note.done_bytes(), false).await?;
                    latest = Some(note.clone());
                    noted_at = Some(Instant::now());
                }
                failpoint::hit("upload.part");
            }
            Ok::<(), Halt>(())
        }
        .await;
        if latest.is_some() {
            self.note = latest;
        }
        outcome?;
        if note.missing().is_empty() {
            Ok(())
        } else {
            self.renote(note.clone(), false).await?;
            Err(Halt::Stopped)
        }
    }

    /// Reads one part and sends it. A part that was read while the file changed is not sent.
    async fn send_part(&self, token: &UploadToken, index: u32, frozen: &Frozen) -> Result<PartDone, Halt> {
        let plan = &token.plan;
        let none = || Halt::Local(format!("the file has no part {index}"));
        let range = plan.part_range(index).ok_or_else(none)?;
        if let Some(origin) = frozen.from.clone() {
            let units = permits(range.end - range.start);
            let memory = Arc::clone(&self.shared.memory);
            // Given back when the part has arrived.
            let held = self.unless_halted(None, memory.acquire_many_owned(units)).await?;
            let _held = held.map_err(|_closed| Halt::Stopped)?;
            let read = self.unless_halted(None, origin.read(range)).await?;
            return self.send_bytes(token, index, read.map_err(Halt::Source)?, frozen).await;
        }
        let file = frozen.bytes.clone().ok_or_else(none)?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
            if failpoint::fails("upload.read") {
                return Err(std::io::Error::other("a failure on purpose"));
            }
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(Bytes::from(bytes))
        });
        let read = self.unless_halted(Some(&frozen.changed), read).await?;
        if frozen.changed.is_cancelled() {
            return Err(Halt::Changed);
        }
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(e)) => return Err(Halt::Local(format!("can't read the file's bytes: {e}"))),
            Err(e) => return Err(Halt::Local(format!("reading the file's bytes was broken off: {e}"))),
        };
        self.send_bytes(token, index, bytes, frozen).await
    }

    async fn send_bytes(
        &self,
        token: &UploadToken,
        index: u32,
        bytes: Bytes,
        frozen: &Frozen,
    ) -> Result<PartDone, Halt> {
        let sending = self.lane.provider.upload_part(token, index, bytes);
        match self.unless_halted(Some(&frozen.changed), sending).await? {
            Ok(part) => Ok(part),
            // What had arrived is gone from the site.
            Err(e) if e.kind == ErrorKind::NotFound => Err(Halt::Spoilt(e)),
            Err(e) => Err(e.into()),
        }
    }

    /// Puts what has arrived under its name. Not given up half way: its outcome is recorded, or in doubt and noted.
    async fn commit(&mut self, token: UploadToken, mut note: Note, frozen: &Frozen) -> Result<Option<Version>, Halt> {
        let path = &note.plan.path.clone();
        let provider = Arc::clone(&self.lane.provider);
        let mut tries = 0;
        loop {
            if frozen.changed.is_cancelled() {
                return Err(Halt::Changed);
            }
            self.in_doubt = true;
            let expect = Some(note.base.as_ref());
            let failed = match provider.commit(token.clone(), &note.parts, expect).await {
                Ok(version) => return Ok(Some(version)),
                Err(e) => e,
            };
            tries += 1;
            match failed.kind {
                ErrorKind::VersionMismatch if tries < COMMITS_MAX => {}
                // The temporary file is gone: perhaps because it has its final name.
                ErrorKind::NotFound => {
                    return match self.look_back(&note, Some(frozen)).await? {
                        Some(version) => Ok(Some(version)),
                        None => Err(Halt::Spoilt(failed)),
                    };
                }
                // What arrived is not what was sent.
                ErrorKind::Invalid => return Err(Halt::Spoilt(failed)),
                _ => return Err(failed.into()),
            }
            let found = match provider.stat(path).await {
                Err(e) if e.kind == ErrorKind::NotFound => None,
                found => Some(found?),
            };
            let is_ours = match &found {
                Some(entry) => self.is_surely_ours(&note, entry, frozen).await?,
                None => false,
            };
            note.base = match found {
                // Somebody removed what ours was to replace: there is nothing that it could destroy.
                None => None,
                Some(entry) if note.base.as_ref() == Some(&entry.version) => continue,
                // A commit that was taken for failed, and went on. Asked for again, it may know its own work, and end it.
                Some(entry) if is_ours => {
                    if tries == 1 {
                        continue;
                    }
                    self.abort(&note).await?;
                    return Ok(Some(entry.version));
                }
                Some(entry) => match self.find_other_of_ours(path, &entry).await? {
                    true => Some(entry.version),
                    false => {
                        self.conflict(frozen, &note, entry.version).await?;
                        return Ok(None);
                    }
                },
            };
            note = self.renote(note, false).await?;
        }
    }

    /// Says whether what is at a noted upload's path is what the upload left there. Where the site dates files by itself, it is
    /// asked, and if it does not know, what is there is read and held against `frozen`, if that is still what was sent.
    async fn is_ours(&self, note: &Note, entry: &Entry, frozen: Option<&Frozen>) -> Result<bool, Halt> {
        let provider = &self.lane.provider;
        let can = provider.capabilities();
        if note.left(entry, can.mtime_step_ns) {
            return Ok(true);
        }
        if can.keeps_mtime || !note.may_have_left(entry) {
            return Ok(false);
        }
        let Some(token) = note.token() else { return Ok(false) };
        let committed = provider.was_committed(&token, &note.parts, note.base.as_ref()).await?;
        if committed.as_ref() == Some(&entry.version) {
            return Ok(true);
        }
        match frozen {
            // Without all parts nothing was committed.
            Some(frozen) if note.is_of(frozen) && note.missing().is_empty() => self.has_bytes(entry, frozen).await,
            _ => Ok(false),
        }
    }

    /// As [`is_ours`](Self::is_ours), where somebody else may have been quicker: a file of the same size and time is not taken for
    /// ours unless the site says so, or its bytes are the same.
    async fn is_surely_ours(&self, note: &Note, entry: &Entry, frozen: &Frozen) -> Result<bool, Halt> {
        if !note.may_have_left(entry) {
            return Ok(false);
        }
        if !self.lane.provider.capabilities().keeps_mtime {
            return self.is_ours(note, entry, Some(frozen)).await;
        }
        Ok(note.left(entry, self.lane.provider.capabilities().mtime_step_ns) && self.has_bytes(entry, frozen).await?)
    }

    /// Reads what is at the site beside the file's own bytes, as far as they are the same.
    async fn has_bytes(&self, entry: &Entry, frozen: &Frozen) -> Result<bool, Halt> {
        // What a copy is of was held against its source before this.
        if frozen.from.is_some() {
            return Ok(false);
        }
        let mut chunks = self.lane.provider.read(&frozen.path, &entry.version, 0..entry.size);
        let mut at = 0;
        while let Some(chunk) = self.unless_halted(Some(&frozen.changed), chunks.next()).await? {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // Somebody was there meanwhile.
                Err(e) if matches!(e.kind, ErrorKind::VersionMismatch | ErrorKind::NotFound) => return Ok(false),
                Err(e) => return Err(e.into()),
            };
            let Some(file) = frozen.bytes.clone() else {
                return Ok(false);
            };
            let end = at + chunk.len() as u64;
            let same = tokio::task::spawn_blocking(move || {
                let mut own = vec![0; chunk.len()];
                file.read_exact_at(&mut own, at)?;
                Ok::<_, std::io::Error>(own == chunk)
            });
            let same = same
                .await
                .map_err(|e| Halt::Local(format!("reading the file's bytes was broken off: {e}")))?;
            if !same.map_err(|e| Halt::Local(format!("can't read the file's bytes: {e}")))? {
                return Ok(false);
            }
            at = end;
        }
        if frozen.changed.is_cancelled() {
            return Err(Halt::Changed);
        }
        Ok(at == frozen.size)
    }

    /// Looks at the site whether a noted upload was done, and returns the version that it left.
    async fn look_back(&self, note: &Note, frozen: Option<&Frozen>) -> Result<Option<Version>, Halt> {
        match self.lane.provider.stat(&note.plan.path).await {
            Ok(entry) if self.is_ours(note, &entry, frozen).await? => Ok(Some(entry.version)),
            Ok(_) => Ok(None),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn tell_ours(&self, note: &Note, version: Version) -> Result<(), Halt> {
        let (desk, path) = (self.desk(), &note.plan.path);
        desk.ours_is_there(&self.task, path, version, note.generation, note.base.as_ref())
            .await?;
        Ok(())
    }

    /// Finds out whether what is at a path was put there by an upload that another task has a note of: one whose name has
    /// since gone elsewhere.
    async fn find_other_of_ours(&self, path: &RelPath, entry: &Entry) -> Result<bool, Halt> {
        let (store, root) = (self.shared.store.clone(), self.task.root);
        let noted = tokio::task::spawn_blocking(move || store.read(|txn| txn.tasks_with_upload(root))).await;
        let noted = noted.map_err(|e| Halt::Local(format!("the queue was not looked through: {e}")))??;
        // This one was not committed: what it was sent to is still there.
        for task in noted.into_iter().filter(|task| task.id != self.task.id) {
            let note = task.upload.as_deref().and_then(Note::parse);
            let Some(note) = note.filter(|note| note.plan.path == *path) else {
                continue;
            };
            if self.is_ours(&note, entry, None).await? {
                let (desk, version) = (self.desk(), entry.version.clone());
                desk.ours_is_there(&task, path, version, note.generation, note.base.as_ref())
                    .await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn conflict(&mut self, frozen: &Frozen, note: &Note, theirs: Version) -> Result<(), Halt> {
        warn!(path = %frozen.path, base = ?note.base, %theirs, "the file moved on at the site: both are kept");
        self.abort(note).await?;
        self.clear_upload().await?;
        self.in_doubt = false;
        failpoint::hit("upload.conflict");
        self.desk().conflict(&self.task, frozen, Some(theirs)).await?;
        self.write(|txn, task| {
            let row = txn.task(task.id)?;
            if row.is_some_and(|row| row.state == TaskState::Running && row.name == task.name) {
                txn.block_task(task, None, "conflict", "the file moved on at the site")?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Removes what an upload left at the site. A site that refuses is left with it; one that is out of reach, or does not let
    /// us in, is asked again with the task.
    async fn abort(&self, note: &Note) -> Result<(), Halt> {
        let provider = &self.lane.provider;
        let aborted = async {
            let token = match note.token() {
                Some(token) => token,
                // Nobody knows whether it was begun: begun again, it is the same, and can be given up. Unless its folder
                // is not there, which beginning would make.
                None => {
                    let Some((dir, _)) = note.plan.path.split_last() else {
                        return Ok(());
                    };
                    match provider.stat(&dir).await {
                        Err(e) if e.kind == ErrorKind::NotFound => return Ok(()),
                        found => drop(found?),
                    }
                    provider.begin_upload(&note.plan).await?
                }
            };
            provider.abort(token).await
        };
        match aborted.await {
            Err(e) if e.is_link_failure() || e.kind == ErrorKind::Auth => Err(e.into()),
            Err(error) => {
                warn!(path = %note.plan.path, nonce = note.plan.nonce, %error, "an upload that was given up stays at the site");
                Ok(())
            }
            Ok(()) => {
                failpoint::hit("upload.aborted");
                Ok(())
            }
        }
    }

    /// Gives the noted upload up, for good. Where the site can't be reached it stays noted, and is cleared away with the
    /// next try.
    pub(super) async fn drop_upload(&mut self) {
        let Some(note) = self.note.clone() else { return };
        let dropped = async {
            // What is found at the path is told before anybody changes it.
            let (paths, site) = (&self.shared.paths, &self.lane.site);
            let _taken = tokio::select! {
                taken = paths.take(site, &note.plan.path) => taken,
                () = self.shared.stop.cancelled() => return Err(Halt::Stopped),
            };
            let left = if self.in_doubt {
                self.look_back(&note, None).await?
            } else {
                None
            };
            match left {
                Some(version) => self.tell_ours(&note, version).await?,
                None => self.abort(&note).await?,
            }
            self.clear_upload().await?;
            Ok(())
        };
        match dropped.await {
            Ok(()) => self.in_doubt = false,
            Err(Halt::Site(error) | Halt::Spoilt(error)) => self.lane.link.failed(&error),
            Err(Halt::Stopped) => {}
            Err(halt) => warn!(path = %note.plan.path, ?halt, "an upload that was given up is still noted"),
        }
    }

    /// Deals with an upload that the task is not going on with, because its name went or is another: finds out whether it
    /// was done, or clears it away. Takes its path meanwhile.
    pub(super) async fn clear_noted(&mut self) -> Result<(), Halt> {
        let Some(note) = self.note.clone() else { return Ok(()) };
        let taken = self.shared.paths.take(&self.lane.site, &note.plan.path);
        let _taken = self.unless_halted(None, taken).await?;
        match self.look_back(&note, None).await? {
            Some(version) => self.tell_ours(&note, version).await?,
            None => self.abort(&note).await?,
        }
        failpoint::hit("upload.cleared");
        self.clear_upload().await?;
        Ok(())
    }
}
