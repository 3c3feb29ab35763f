//! A folder of this machine, or of a file server that is mounted here, as a site.
//!
//! Owns: the files below one root. Refuses to know: what else is on the machine; nothing outside the root is reached, see
//! `root.rs`. Invariants: no file operation runs on an async thread; at most so many run at once; a file that people can
//! see is never half written.

mod error;
mod files;
mod root;
mod upload;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use rustix::fs::{Dir, OFlags};
use tokio::sync::Semaphore;

use self::root::Root;
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, FileHash, HashKind, Listed, Op, PartDone, Provider, ProviderError,
    SiteSpace, UploadPlan, UploadToken,
};
use crate::model::{RelPath, Version};

/// Bytes a chunk of a read.
const CHUNK: u64 = 1 << 20;
/// Bytes a step of a write: each must be done within the idle time-out.
const STEP: usize = 1 << 20;
/// Chunks of one read under way at once: the next is being read while the last is used.
const READ_AHEAD: usize = 2;
/// File operations at once, where the settings don't say: enough to keep a file server busy.
const DEFAULT_REQUESTS: usize = 16;

/// A folder as a site.
#[derive(Debug)]
pub struct LocalSite {
    shared: Arc<Shared>,
    requests: usize,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    root: Root,
    slots: Arc<Semaphore>,
}

impl LocalSite {
    /// Makes a site of the folder `root`, whose links are followed as the system does.
    ///
    /// `requests` bounds the file operations at once; one that takes longer than `idle_timeout` is `TimedOut`, and keeps
    /// its place until the system gives it up: a file server that hangs costs no more threads than that.
    #[must_use]
    pub fn new(root: &Path, requests: Option<usize>, idle_timeout: Duration) -> Self {
        let requests = requests.unwrap_or(DEFAULT_REQUESTS).max(1);
        let shared = Shared {
            root: Root::new(root),
            slots: Arc::new(Semaphore::new(requests)),
        };
        Self {
            shared: Arc::new(shared),
            requests,
            idle_timeout,
        }
    }

    /// Runs file operations on a thread where they may block.
    async fn block<T, F>(&self, op: Op, path: &RelPath, run: F) -> Result<T, ProviderError>
    where
        T: Send + 'static,
        F: FnOnce(&Root, &RelPath) -> Result<T, ProviderError> + Send + 'static,
    {
        let failed = |kind| ProviderError::new(kind, op).at(path);
        let work = async {
            let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
            let slot = slot.map_err(|e| failed(ErrorKind::Protocol).because(e))?;
            let shared = Arc::clone(&self.shared);
            let path = path.clone();
            let job = tokio::task::spawn_blocking(move || {
                let out = run(&shared.root, &path);
                drop(slot);
                out
            });
            job.await.map_err(|e| failed(ErrorKind::Protocol).because(e))?
        };
        match tokio::time::timeout(self.idle_timeout, work).await {
            Ok(out) => out,
            Err(_) => Err(failed(ErrorKind::TimedOut).because(format!("nothing for {:?}", self.idle_timeout))),
        }
    }

    /// Reads an opened file's range chunk by chunk, the next ones already under way.
    fn chunks<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        file: Arc<File>,
        range: Range<u64>,
    ) -> impl futures::Stream<Item = Result<Bytes, ProviderError>> + Send + 'a {
        let end = range.end;
        let starts = (0..range.end.saturating_sub(range.start).div_ceil(CHUNK)).map(move |i| range.start + i * CHUNK);
        stream::iter(starts)
            .map(move |start| {
                let (file, at) = (Arc::clone(&file), at.clone());
                let range = start..end.min(start + CHUNK);
                self.block(Op::Read, path, move |_, path| {
                    files::read_chunk(&file, path, &at, range)
                })
            })
            .buffered(READ_AHEAD)
    }
}

#[async_trait]
impl Provider for LocalSite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_replace: true,
            ranged_read: true,
            resume_upload: true,
            conditional_commit: false,
            symlinks: true,
            byte_names: true,
            mtime_step_ns: 1,
            keeps_mtime: true,
            min_part: 0,
            parts_in_order: false,
            hash: Some(HashKind::Sha256),
            parallel_reads: self.requests,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        let open = |root: &Root, path: &RelPath| root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Op::Probe);
        self.block(Op::Probe, &RelPath::root(), open).await.map(drop)
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        self.block(Op::Stat, path, files::stat).await
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        stream::try_unfold(None::<Dir>, move |state| async move {
            let (rows, next) = self
                .block(Op::List, dir, move |root, dir| files::list_some(root, dir, state))
                .await?;
            Ok::<_, ProviderError>((!rows.is_empty()).then_some((rows, Some(next))))
        })
        .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
    }

    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        let (version, wanted) = (at.clone(), range.clone());
        let open = self.block(Op::Read, path, move |root, path| {
            files::open(root, path, &version, &wanted)
        });
        let chunks = stream::once(open)
            .map_ok(move |file| self.chunks(path, at, Arc::new(file), range.clone()))
            .try_flatten()
            .scan(false, |failed, chunk| {
                let go_on = !std::mem::replace(failed, chunk.is_err());
                std::future::ready(go_on.then_some(chunk))
            })
            .boxed();
        arrivals.note_each(chunks)
    }

    async fn hash(&self, path: &RelPath, at: &Version) -> Result<Option<FileHash>, ProviderError> {
        let at = at.clone();
        self.block(Op::Stat, path, move |root, path| files::hash(root, path, &at))
            .await
    }

    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
        let (dir, temp) = plan.begin()?;
        let state = temp.to_string();
        self.block(Op::Upload, &plan.path, move |root, path| {
            upload::begin(root, path, &dir, &temp)
        })
        .await?;
        Ok(UploadToken {
            plan: plan.clone(),
            state,
        })
    }

    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError> {
        let plan = &token.plan;
        let range = plan.check_part(index, part.len())?;
        let size = part.len() as u64;
        let name = token.state.clone();
        let temp = self.block(Op::Upload, &plan.path, move |root, path| {
            upload::open(root, path, &name, Op::Upload)
        });
        let temp = Arc::new(temp.await?);
        let (mut at, mut rest) = (range.start, part);
        while !rest.is_empty() {
            let step = rest.split_to(rest.len().min(STEP));
            let len = step.len() as u64;
            let file = Arc::clone(&temp);
            self.block(Op::Upload, &plan.path, move |_, path| {
                upload::write(&file, path, &step, at)
            })
            .await?;
            at += len;
        }
        if plan.part_count() > 1 {
            // The part counts as arrived from now on, even if the machine goes down: a resumed upload won't send it again.
            self.block(Op::Upload, &plan.path, move |_, path| upload::settle(&temp, path))
                .await?;
        }
        Ok(PartDone {
            index,
            size,
            receipt: String::new(),
        })
    }

    async fn commit(
        &self,
        token: UploadToken,
        parts: &[PartDone],
        expect: Option<Option<&Version>>,
    ) -> Result<Version, ProviderError> {
        token.plan.check_parts(parts)?;
        let expect = expect.map(Option::<&Version>::cloned);
        let path = token.plan.path.clone();
        let commit = move |root: &Root, _: &RelPath| upload::commit(root, &token, expect.as_ref().map(Option::as_ref));
        self.block(Op::Commit, &path, commit).await
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        let path = token.plan.path;
        self.block(Op::Abort, &path, move |root, path| {
            upload::abort(root, path, &token.state)
        })
        .await
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.block(Op::MakeDir, path, |root, path| {
            root.make_dir(path, Op::MakeDir).map(drop)
        })
        .await
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        let to = to.clone();
        self.block(Op::Rename, from, move |root, from| files::rename(root, from, &to))
            .await
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.block(Op::Delete, path, files::delete).await
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        self.block(Op::Space, &RelPath::root(), |root, _| files::space(root))
            .await
            .map(Some)
    }
}
