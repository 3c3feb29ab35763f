//! A site behind a program of the studio's own, which speaks lines of JSON over its standard input and output.
//!
//! Owns: the promises of a provider, as far as they can be kept for any program: bounded waiting, no half answers. Refuses
//! to know: what the program reaches, and how. The protocol is docs/exec-provider.md. Invariant: nothing that a program
//! does, or fails to do, outlasts the deadline.

mod pool;
mod wire;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backlot_config::ExecSite as Settings;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use self::pool::Pool;
use self::wire::{DATA_MAX, Expect, Part, Reply, Request, TEXT_MAX, Upload};
use self::worker::Program;
use super::upload::is_temp_name;
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, FileHash, Listed, Op, PartDone, Provider, ProviderError, SiteSpace,
    UploadPlan, UploadToken,
};
use crate::model::{RelPath, Version};

/// Requests of one read under way at once: the next is being read while the last is used.
const READ_AHEAD: usize = 2;

/// A program as a site.
#[derive(Debug)]
pub struct ExecSite {
    pool: Arc<Pool>,
    workers: usize,
}

impl ExecSite {
    /// Makes a site of a program. None is started before it is needed.
    ///
    /// `requests` bounds its processes below what the settings say; an answer that takes longer than `idle_timeout` is
    /// `TimedOut`, and the process is killed.
    ///
    /// # Errors
    /// `Config` without a program; `Auth` when a secret can't be had.
    pub fn new(settings: &Settings, requests: Option<usize>, idle_timeout: Duration) -> Result<Self, ProviderError> {
        let failed = |kind, why: String| ProviderError::new(kind, Op::Connect).because(why);
        if settings.command.first().is_none_or(String::is_empty) {
            let why = "`command` is missing; give the program and its arguments";
            return Err(failed(ErrorKind::Config, why.to_owned()));
        }
        let mut secrets = Vec::new();
        for (name, secret) in &settings.environment {
            let secret = secret.resolve();
            let secret = secret.map_err(|e| failed(ErrorKind::Auth, format!("environment.{name}: {e}")))?;
            secrets.push((name.clone(), secret));
        }
        let workers = (settings.workers as usize).min(requests.unwrap_or(usize::MAX)).max(1);
        let program = Program {
            command: settings.command.clone(),
            secrets,
            start_timeout: settings.start_timeout.as_duration(),
            idle_timeout,
        };
        Ok(Self {
            pool: Arc::new(Pool::new(program, workers)),
            workers,
        })
    }

    async fn ask<T: Send + 'static>(
        &self,
        op: Op,
        path: &RelPath,
        request: Request,
        take: impl FnOnce(Reply, Bytes) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let slot = self.pool.slot(op).await.map_err(|e| e.at(path))?;
        let answer = self.pool.ask(slot, request, take).await;
        answer.map_err(|e| e.error(op).at(path))
    }

    /// Asks for something to be done, whose answer says no more than that it is.
    async fn order(&self, op: Op, path: &RelPath, request: Request) -> Result<(), ProviderError> {
        self.ask(op, path, request, |_, _| Ok(())).await
    }

    async fn read_piece(&self, path: &RelPath, at: &Version, piece: Range<u64>) -> Result<Bytes, ProviderError> {
        let length = piece.end - piece.start;
        let request = Request::Read {
            path: text(path, Op::Read)?,
            version: at.as_str().to_owned(),
            offset: piece.start,
            length,
        };
        self.ask(Op::Read, path, request, move |_, data| {
            if data.len() as u64 == length {
                return Ok(data);
            }
            Err(format!("{} bytes of data, and {length} were asked for", data.len()))
        })
        .await
    }
}

fn invalid(op: Op, path: &RelPath, why: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorKind::Invalid, op).at(path).because(why.into())
}

fn text(path: &RelPath, op: Op) -> Result<String, ProviderError> {
    wire::text(path).map_err(|why| invalid(op, path, why))
}

/// Returns the path of what is no root, which can't be moved or removed.
fn below_root(path: &RelPath, op: Op) -> Result<String, ProviderError> {
    if path.is_root() {
        return Err(invalid(op, path, "the root stays where it is"));
    }
    text(path, op)
}

fn upload(plan: &UploadPlan, op: Op) -> Result<Upload, ProviderError> {
    let (dir, temp) = plan.begin()?;
    Ok(Upload {
        path: text(&plan.path, op)?,
        temp: text(&dir.join(&temp), op)?,
        size: plan.size,
        mtime_ns: plan.mtime_ns,
        perm: plan.perm,
        part_size: plan.part_size,
    })
}

/// Takes a text that the program wants to have back.
fn note(text: Option<String>, what: &str) -> Result<String, String> {
    match text {
        Some(text) if text.len() <= TEXT_MAX => Ok(text),
        Some(_) => Err(format!("a {what} has at most {TEXT_MAX} bytes")),
        None => Err(format!("the answer has no {what}")),
    }
}

#[async_trait]
impl Provider for ExecSite {
    fn capabilities(&self) -> Capabilities {
        let can = self.pool.can().unwrap_or_default();
        Capabilities {
            atomic_replace: can.atomic_replace,
            ranged_read: true,
            resume_upload: can.resume_upload,
            conditional_commit: can.conditional_commit,
            symlinks: can.symlinks,
            byte_names: false,
            mtime_step_ns: can.mtime_step_ns.unwrap_or(1_000_000_000).max(1),
            keeps_mtime: can.mtime_step_ns.is_some(),
            min_part: 0,
            parts_in_order: false,
            hash: can.hash,
            parallel_reads: self.workers,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        self.order(Op::Probe, &RelPath::root(), Request::Probe).await
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        let request = Request::Stat {
            path: text(path, Op::Stat)?,
        };
        self.ask(Op::Stat, path, request, |reply, _| match reply.entry {
            Some(row) => row.entry(),
            None => Err("the answer has no entry".to_owned()),
        })
        .await
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        let begin = async move {
            let path = text(dir, Op::List)?;
            let slot = self.pool.slot(Op::List).await.map_err(|e| e.at(dir))?;
            let pages = self.pool.pages(slot, Request::List { path });
            Ok::<_, ProviderError>(stream::unfold(Some(pages), |pages| async move {
                let mut pages = pages?;
                // Only a last page that says so ends a listing: whatever else closes the channel is no end.
                match pages.recv().await {
                    Some(Ok((rows, more))) => Some((Ok(rows), more.then_some(pages))),
                    Some(Err(e)) => Some((Err(e), None)),
                    None => Some((Err(worker::Failed::unfinished()), None)),
                }
            }))
        };
        stream::once(begin)
            .map_ok(move |pages| pages.map_err(move |e| e.error(Op::List).at(dir)))
            .try_flatten()
            .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
            .try_flatten()
            .try_filter(|row| std::future::ready(!is_temp_name(row.name.as_bytes())))
            .boxed()
    }

    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        let (start, end, step) = (range.start, range.end.max(range.start), DATA_MAX as u64);
        // No bytes are asked for too: the version is to be vouched for.
        let pieces = (end - start).div_ceil(step).max(1);
        let chunks = stream::iter(0..pieces)
            .map(move |i| {
                let from = start + i * step;
                self.read_piece(path, at, from..end.min(from + step))
            })
            .buffered(READ_AHEAD)
            .try_filter(|piece| std::future::ready(!piece.is_empty()))
            .scan(false, |failed, piece| {
                let go_on = !std::mem::replace(failed, piece.is_err());
                std::future::ready(go_on.then_some(piece))
            })
            .boxed();
        arrivals.note_each(chunks)
    }

    async fn hash(&self, path: &RelPath, at: &Version) -> Result<Option<FileHash>, ProviderError> {
        let Some(kind) = self.capabilities().hash else {
            return Ok(None);
        };
        let request = Request::Stat {
            path: text(path, Op::Stat)?,
        };
        let look = self.ask(Op::Stat, path, request, move |reply, _| {
            let row = reply.entry.ok_or("the answer has no entry")?;
            let hash = row.hash.as_deref().map(|hex| {
                FileHash::from_hex(kind, hex).ok_or_else(|| format!("a hash that is no {kind} in hexadecimal digits"))
            });
            Ok((hash.transpose()?, row.entry()?.version))
        });
        let (hash, found) = look.await?;
        if found != *at {
            let why = format!("expected version {at}, found {found}");
            return Err(ProviderError::new(ErrorKind::VersionMismatch, Op::Stat)
                .at(path)
                .because(why));
        }
        Ok(hash)
    }

    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
        let request = Request::BeginUpload {
            upload: upload(plan, Op::Upload)?,
        };
        let state = self
            .ask(Op::Upload, &plan.path, request, |reply, _| note(reply.state, "state"))
            .await?;
        Ok(UploadToken {
            plan: plan.clone(),
            state,
        })
    }

    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError> {
        let plan = &token.plan;
        let range = plan.check_part(index, part.len())?;
        let (size, state) = (part.len() as u64, token.state.clone());
        let upload = upload(plan, Op::Upload)?;
        let slot = self.pool.slot(Op::Upload).await.map_err(|e| e.at(&plan.path))?;
        let request = move |offset, last| Request::UploadPart {
            upload: upload.clone(),
            state: state.clone(),
            index,
            offset,
            last,
        };
        let take = |reply: Reply| note(Some(reply.receipt.unwrap_or_default()), "receipt");
        let receipt = self.pool.send(slot, range.start, part, request, take).await;
        let receipt = receipt.map_err(|e| e.error(Op::Upload).at(&plan.path))?;
        Ok(PartDone { index, size, receipt })
    }

    async fn commit(
        &self,
        token: UploadToken,
        parts: &[PartDone],
        expect: Option<Option<&Version>>,
    ) -> Result<Version, ProviderError> {
        let plan = &token.plan;
        plan.check_parts(parts)?;
        let part = |p: &PartDone| Part {
            index: p.index,
            size: p.size,
            receipt: p.receipt.clone(),
        };
        let request = Request::Commit {
            upload: upload(plan, Op::Commit)?,
            state: token.state.clone(),
            parts: parts.iter().map(part).collect(),
            expect: match expect {
                None => Expect::Anything,
                Some(None) => Expect::Nothing,
                Some(Some(version)) => Expect::Version(version.as_str().to_owned()),
            },
        };
        self.ask(Op::Commit, &plan.path, request, |reply, _| {
            note(reply.version.filter(|v| !v.is_empty()), "version").map(Version::new)
        })
        .await
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        let request = Request::Abort {
            upload: upload(&token.plan, Op::Abort)?,
            state: token.state,
        };
        self.order(Op::Abort, &token.plan.path, request).await
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        let request = Request::MakeDir {
            path: text(path, Op::MakeDir)?,
        };
        self.order(Op::MakeDir, path, request).await
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        let request = Request::Rename {
            path: below_root(from, Op::Rename)?,
            to: below_root(to, Op::Rename)?,
        };
        self.order(Op::Rename, from, request).await
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        let request = Request::Delete {
            path: below_root(path, Op::Delete)?,
        };
        self.order(Op::Delete, path, request).await
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        self.ask(Op::Space, &RelPath::root(), Request::Space, |reply, _| {
            match (reply.total, reply.available) {
                (Some(total), Some(available)) => Ok(Some(SiteSpace { total, available })),
                (None, None) => Ok(None),
                _ => Err("space is told with both total and available, or not at all".to_owned()),
            }
        })
        .await
    }
}
