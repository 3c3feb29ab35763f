//! The desk of a job's copies: what there is to do for a file, and what is written down when it is done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::super::{DeleteOutcome, Desk, Frozen, Prepared, now_ms};
use super::decide::{Decision, Known, Why, decide, differing, step};
use super::{CopyListener, End, Origin, Seen};
use crate::model::{EntryKind, Ino, RelPath, Version};
use crate::providers::{Entry, ErrorKind, HashKind, Hasher, ProviderError};
use crate::state::{Arrival, Copied, ReadTxn, StateError, StateStore, Task, TaskWhat};

/// The desk of the copies of one job.
#[derive(Debug)]
pub(in crate::transfer) struct CopyDesk {
    pub(in crate::transfer) store: StateStore,
    pub(in crate::transfer) root: Ino,
    pub(in crate::transfer) source: End,
    pub(in crate::transfer) target: End,
    /// Where the project is at the source.
    pub(in crate::transfer) from: RelPath,
    /// Where the project is at the target.
    pub(in crate::transfer) to: RelPath,
    pub(in crate::transfer) arrived: Option<Arc<dyn CopyListener>>,
}

/// What came in between.
pub(super) enum Failure {
    Source(ProviderError),
    Target(ProviderError),
    State(StateError),
    /// It needs a person.
    Blocked(&'static str, String),
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<Failure> for Prepared {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Source(error) => Self::SiteFailed { error, source: true },
            Failure::Target(error) => Self::SiteFailed { error, source: false },
            Failure::State(error) => Self::Failed {
                kind: "state".to_owned(),
                why: error.to_string(),
                blocked: false,
            },
            Failure::Blocked(kind, why) => Self::Failed {
                kind: kind.to_owned(),
                why,
                blocked: true,
            },
        }
    }
}

/// Returns what is at a path, if anything.
pub(super) async fn look(end: &End, path: &RelPath) -> Result<Option<Entry>, ProviderError> {
    match end.provider.stat(path).await {
        Ok(entry) => Ok(Some(entry)),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[async_trait]
impl Desk for CopyDesk {
    async fn prepare(&self, task: &Task) -> Prepared {
        let Some(path) = &task.path else { return Prepared::Gone };
        let prepared = match task.what {
            TaskWhat::CopyFolder => self.expand(task, path).await,
            TaskWhat::Copy => self.prepare_file(task, path).await,
            TaskWhat::CopyLeftover | TaskWhat::Send | TaskWhat::DeleteFile | TaskWhat::DeleteFolder => {
                Ok(Prepared::Gone)
            }
        };
        prepared.unwrap_or_else(Prepared::from)
    }

    async fn committed(&self, task: &Task, sent: &Frozen, version: Version) -> Result<(), StateError> {
        let Some(arrival) = self.arrival(task, sent, version) else {
            return Ok(());
        };
        let (task, told) = (task.clone(), arrival.path.clone());
        self.store.write(move |txn| txn.finish_copy(&task, &arrival)).await?;
        if let Some(arrived) = &self.arrived {
            arrived.arrived(self.root, &told, &self.target.site);
        }
        Ok(())
    }

    async fn ours_is_there(
        &self,
        _task: &Task,
        _path: &RelPath,
        _version: Version,
        _generation: u64,
        _replaced: Option<&Version>,
    ) -> Result<(), StateError> {
        // What was sent is of a version that the source has no more, or of a task that is no more: the next look at the
        // target finds it, and its time says that it is older.
        Ok(())
    }

    async fn conflict(&self, task: &Task, _sent: &Frozen, _theirs: Option<Version>) -> Result<(), StateError> {
        let (task, why) = (
            task.clone(),
            self.conflict_text("it changed while the file was on its way"),
        );
        self.store
            .write(move |txn| txn.block_task(&task, None, "conflict", &why))
            .await?;
        Ok(())
    }

    async fn deleted(&self, _task: &Task, _outcome: DeleteOutcome) -> Result<(), StateError> {
        Ok(())
    }
}

impl CopyDesk {
    fn conflict_text(&self, why: &str) -> String {
        format!(
            "{} has another file there: {why}; `backlot push --overwrite` replaces it",
            self.target.site
        )
    }

    fn arrival(&self, task: &Task, sent: &Frozen, version: Version) -> Option<Arrival> {
        Some(Arrival {
            root: self.root,
            path: task.path.clone()?,
            source: self.source.site.clone(),
            source_version: sent.from.as_ref()?.version.clone(),
            target: self.target.site.clone(),
            version,
            size: sent.size,
            mtime_ns: sent.mtime_ns,
            skipped: false,
            now_ms: now_ms(),
        })
    }

    /// What is written down of a file that both sites have.
    pub(super) fn same(&self, path: &RelPath, source: &Entry, target: &Entry) -> Arrival {
        Arrival {
            root: self.root,
            path: path.clone(),
            source: self.source.site.clone(),
            source_version: source.version.clone(),
            target: self.target.site.clone(),
            version: target.version.clone(),
            size: source.size,
            mtime_ns: source.mtime_ns,
            skipped: true,
            now_ms: now_ms(),
        }
    }

    async fn prepare_file(&self, task: &Task, path: &RelPath) -> Result<Prepared, Failure> {
        let (from, to) = (self.from.concat(path), self.to.concat(path));
        // What a listing showed is good for the first try.
        let seen = task
            .seen
            .as_deref()
            .filter(|_| task.tries == 0 && task.upload.is_none());
        let seen = seen
            .and_then(|text| Seen::parse(text, now_ms()))
            .zip(task.version.clone());
        let source = match &seen {
            Some((seen, version)) => seen.entry(version.clone()),
            None => {
                let looked = self.source.provider.stat(&from).await.map_err(Failure::Source)?;
                self.source.link.answered();
                looked
            }
        };
        match source.kind {
            EntryKind::File => {}
            EntryKind::Dir => {
                // It was a file when it was asked for.
                let id = task.id;
                self.store.write(move |txn| txn.is_a_folder(id)).await?;
                return Ok(Prepared::NotYet(Duration::ZERO));
            }
            _ => {
                let why = format!("{from} at {} is neither a file nor a folder", self.source.site);
                return Err(Failure::Blocked("not-a-file", why));
            }
        }
        let target = match &seen {
            Some((seen, _)) if seen.absent => None,
            _ => look(&self.target, &to).await.map_err(Failure::Target)?,
        };
        let base = match target {
            None => None,
            Some(target) if target.kind == EntryKind::Dir => {
                let why = format!("{} has a folder of that name", self.target.site);
                return Err(Failure::Blocked("wrong-kind", why));
            }
            Some(target) => match self.sure_decision(task, path, &source, &target).await? {
                // An upload that is noted may be what is there: `send` looks, and clears away what is left of it.
                Decision::Same { .. } if task.upload.is_none() => {
                    let (task, arrival) = (task.clone(), self.same(path, &source, &target));
                    self.store.write(move |txn| txn.finish_copy(&task, &arrival)).await?;
                    return Ok(Prepared::Ended);
                }
                Decision::Same { .. } | Decision::Send => Some(target.version),
                Decision::Conflict(why) => {
                    return Err(Failure::Blocked("conflict", self.conflict_text(why.text())));
                }
            },
        };
        let origin = Origin {
            end: self.source.clone(),
            path: from,
            version: source.version,
        };
        Ok(Prepared::Send(Frozen {
            path: to,
            bytes: None,
            from: Some(Arc::new(origin)),
            size: source.size,
            mtime_ns: source.mtime_ns,
            perm: source.perm,
            generation: task.generation,
            base,
            object_mtime_ns: 0,
            changed: CancellationToken::new(),
        }))
    }

    /// Returns what a copy put at the target. Where that is known by a third site that both have it from, it is the source's.
    fn copied(&self, txn: &ReadTxn<'_>, path: &RelPath, version: &Version) -> Result<Option<Copied>, StateError> {
        let Some(there) = txn.copied(self.root, path, &self.target.site)? else {
            return Ok(None);
        };
        if there.source == self.source.site {
            return Ok(Some(there));
        }
        let here = txn.copied(self.root, path, &self.source.site)?;
        let is_same = here.is_some_and(|here| {
            here.version == *version && (&here.source, &here.source_version) == (&there.source, &there.source_version)
        });
        Ok(Some(if is_same {
            Copied {
                source: self.source.site.clone(),
                source_version: version.clone(),
                ..there
            }
        } else {
            there
        }))
    }

    /// Decides about a file that both sites have, and asks the sites for its hash where it matters and both name one.
    pub(super) async fn decision(
        &self,
        task: &Task,
        path: &RelPath,
        source: &Entry,
        target: &Entry,
    ) -> Result<Decision, Failure> {
        let copied = self.store.read(|txn| self.copied(txn, path, &source.version))?;
        let (of_source, of_target) = (self.source.provider.capabilities(), self.target.provider.capabilities());
        let known = Known {
            source: &self.source.site,
            replaces: &task.replaces,
            copied: copied.as_ref(),
            step: step(&of_source, &of_target),
        };
        let decision = decide(source, target, known);
        let (from, to) = (self.from.concat(path), self.to.concat(path));
        match decision {
            Decision::Same { proven: false } if of_source.hash.is_some() && of_source.hash == of_target.hash => {
                let theirs = self.target.provider.hash(&to, &target.version).await;
                let Some(theirs) = theirs.map_err(Failure::Target)? else {
                    return Ok(decision);
                };
                let ours = self.source.provider.hash(&from, &source.version).await;
                let Some(ours) = ours.map_err(Failure::Source)? else {
                    return Ok(decision);
                };
                if ours.kind != theirs.kind || ours == theirs {
                    return Ok(decision);
                }
                let is_ours = copied.as_ref().is_some_and(|copied| copied.version == target.version);
                Ok(differing(target, known, is_ours, Some(std::cmp::Ordering::Equal)))
            }
            decision => Ok(decision),
        }
    }

    /// As [`decision`](Self::decision), and reads both files where the sites keep no times by which to tell: an upload of
    /// ours whose end was not written down looks like a stranger's there.
    async fn sure_decision(
        &self,
        task: &Task,
        path: &RelPath,
        source: &Entry,
        target: &Entry,
    ) -> Result<Decision, Failure> {
        let decision = self.decision(task, path, source, target).await?;
        let (of_source, of_target) = (self.source.provider.capabilities(), self.target.provider.capabilities());
        let may_be_same = matches!(decision, Decision::Conflict(Why::NoTimes | Why::NotEmpty))
            && step(&of_source, &of_target).is_none()
            && source.size == target.size;
        let (from, to) = (self.from.concat(path), self.to.concat(path));
        if may_be_same && self.have_same_bytes((&from, source), (&to, target)).await? {
            return Ok(Decision::Same { proven: true });
        }
        Ok(decision)
    }

    /// Reads both files to see whether they are the same.
    async fn have_same_bytes(&self, source: (&RelPath, &Entry), target: (&RelPath, &Entry)) -> Result<bool, Failure> {
        let ours = hash_of(&self.source, source.0, source.1)
            .await
            .map_err(Failure::Source)?;
        let theirs = hash_of(&self.target, target.0, target.1)
            .await
            .map_err(Failure::Target)?;
        Ok(ours == theirs)
    }
}

async fn hash_of(end: &End, path: &RelPath, entry: &Entry) -> Result<crate::providers::FileHash, ProviderError> {
    let mut hasher = Hasher::new(HashKind::Sha256);
    let mut chunks = end.provider.read(path, &entry.version, 0..entry.size);
    while let Some(chunk) = chunks.next().await {
        hasher.update(&chunk?);
    }
    Ok(hasher.finish())
}
