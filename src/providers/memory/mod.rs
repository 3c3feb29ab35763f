//! A site in memory, for tests: a tree that the test can change behind the provider's back.
//!
//! Owns: the tree and the uploads under way. Refuses to know: time and disks; its clock ticks once per change.
//! Invariant: each change of a file's bytes gives it a version that was never there before.

mod tree;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use self::tree::Tree;
use super::layers::{Meter, MeterSnapshot};
use super::upload::check_expect;
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, FileHash, HashKind, Listed, Op, PartDone, Provider, ProviderError,
    SiteSpace, UploadPlan, UploadToken,
};
use crate::model::{Name, RelPath, Version};

/// Bytes a chunk of a read: small, so that tests get to act between two.
const CHUNK: usize = 64 << 10;
/// What the site says that it holds.
const TOTAL: u64 = 1 << 40;

/// A site in memory. Clones are the same site: keep one to act behind the back of the code that is tested.
#[derive(Clone, Debug, Default)]
pub struct MemorySite {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    meter: Meter,
}

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    /// Parts that have arrived, by nonce.
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    /// Hashes that the site names, by path, and whether it names any.
    hashes: HashMap<RelPath, FileHash>,
    names_hashes: bool,
    /// What a commit answered, by nonce: asked again, it answers the same as long as that is what is there.
    committed: HashMap<String, Version>,
    /// It dates files itself; `Some(false)`: nor does it know which upload a file is of.
    dates: Option<bool>,
    /// What we show at the login, and what the site takes.
    login: (Option<u64>, Option<u64>),
}

impl MemorySite {
    /// Makes an empty site.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a file, with the folders above it, as another user of the site would. Returns its version.
    ///
    /// # Errors
    /// `WrongKind` when a folder is at the path or a file where a folder is needed.
    pub fn put(&self, path: &RelPath, bytes: impl Into<Bytes>) -> Result<Version, ProviderError> {
        self.lock().tree.put(path, bytes.into(), None, None)
    }

    /// Puts a symbolic link, with the folders above it.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_link(&self, path: &RelPath, target: impl Into<Vec<u8>>) -> Result<(), ProviderError> {
        self.lock().tree.put_link(path, target.into())
    }

    /// Makes a folder, and those above it.
    ///
    /// # Errors
    /// `WrongKind` where a file is in the way.
    pub fn put_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.lock().tree.make_dir(path)
    }

    /// Removes whatever is at the path, a folder with all that is in it.
    pub fn remove(&self, path: &RelPath) {
        self.lock().tree.remove(path);
    }

    /// Makes the site refuse everything at and below a path, or stop refusing.
    pub fn deny(&self, path: &RelPath, deny: bool) {
        self.lock().tree.deny(path, deny);
    }

    /// Says what is shown to the site at a login (its [`login_mark`](Provider::login_mark)), and what it takes; it wants none
    /// until it is told. Probes alone look at it.
    pub fn set_login(&self, shown: Option<u64>, taken: Option<u64>) {
        self.lock().login = (shown, taken);
    }

    /// Makes the site date files by itself, and uploads end with the process, as at some web servers. `knows_uploads`: it can
    /// tell which upload a file is of.
    #[must_use]
    pub fn dating_files(self, knows_uploads: bool) -> Self {
        self.lock().dates = Some(knows_uploads);
        self
    }

    /// Makes the site name a hash for a file, right or wrong; `None`: none.
    pub fn name_hash(&self, path: &RelPath, hash: Option<FileHash>) {
        let mut state = self.lock();
        state.names_hashes = true;
        match hash {
            Some(hash) => state.hashes.insert(path.clone(), hash),
            None => state.hashes.remove(path),
        };
    }

    /// Returns the bytes of the file at the path, if it is one.
    #[must_use]
    pub fn get(&self, path: &RelPath) -> Option<Bytes> {
        self.lock().tree.file(path).map(|f| f.bytes.clone())
    }

    /// Returns the names in the folder at the path; none if it is no folder.
    #[must_use]
    pub fn names(&self, dir: &RelPath) -> Vec<Name> {
        self.lock()
            .tree
            .list(dir)
            .map_or_else(|_| Vec::new(), |rows| rows.into_iter().map(|row| row.name).collect())
    }

    /// Returns how many uploads have begun and not ended.
    #[must_use]
    pub fn uploads_under_way(&self) -> usize {
        self.lock().uploads.len()
    }

    /// Returns the counters of calls and bytes, since the start.
    #[must_use]
    pub fn counters(&self) -> MeterSnapshot {
        self.shared.meter.snapshot()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count<T>(&self, op: Op, run: impl FnOnce(&mut State) -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        self.shared.meter.begin(op).note(run(&mut self.lock()))
    }

    /// Returns the next chunk of a range of a file that must still be `at`.
    fn chunk(&self, path: &RelPath, at: &Version, range: &Range<u64>) -> Result<Bytes, ProviderError> {
        let mismatch = |why: &str| {
            ProviderError::new(ErrorKind::VersionMismatch, Op::Read)
                .at(path)
                .because(why.to_owned())
        };
        let state = self.lock();
        state.tree.entry(path, Op::Read)?;
        let file = state
            .tree
            .file(path)
            .ok_or_else(|| ProviderError::new(ErrorKind::WrongKind, Op::Read).at(path))?;
        if file.version != *at {
            return Err(mismatch("another version is there"));
        }
        if range.end > file.bytes.len() as u64 {
            return Err(mismatch("the file is shorter than the range"));
        }
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return Err(ProviderError::new(ErrorKind::Invalid, Op::Read).at(path));
        };
        Ok(file.bytes.slice(start..end.min(start + CHUNK).max(start)))
    }
}

#[async_trait]
impl Provider for MemorySite {
    fn capabilities(&self) -> Capabilities {
        let dates = self.lock().dates.is_some();
        Capabilities {
            atomic_replace: true,
            ranged_read: true,
            resume_upload: !dates,
            conditional_commit: true,
            symlinks: true,
            byte_names: true,
            mtime_step_ns: 1,
            keeps_mtime: !dates,
            min_part: 0,
            parts_in_order: false,
            hash: self.lock().names_hashes.then_some(HashKind::Sha256),
            parallel_reads: 16,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        self.count(Op::Probe, |s| {
            let (shown, taken) = s.login;
            let lets_in = shown == taken;
            lets_in
                .then_some(())
                .ok_or_else(|| ProviderError::new(ErrorKind::Auth, Op::Probe))
        })
    }

    fn login_mark(&self) -> Option<u64> {
        self.lock().login.0
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        self.count(Op::Stat, |s| s.tree.entry(path, Op::Stat))
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        match self.count(Op::List, |s| s.tree.list(dir)) {
            Ok(rows) => stream::iter(rows.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        let flight = self.shared.meter.begin(Op::Read);
        let chunks = stream::unfold(Some((range, flight)), move |state| async move {
            let (mut range, flight) = state?;
            match flight.note(self.chunk(path, at, &range)) {
                Err(error) => Some((Err(error), None)),
                Ok(chunk) if chunk.is_empty() => None,
                Ok(chunk) => {
                    flight.bytes_in(chunk.len());
                    range.start += chunk.len() as u64;
                    let rest = (!range.is_empty()).then_some((range, flight));
                    Some((Ok(chunk), rest))
                }
            }
        })
        .boxed();
        arrivals.note_each(chunks)
    }

    async fn hash(&self, path: &RelPath, at: &Version) -> Result<Option<FileHash>, ProviderError> {
        self.count(Op::Stat, |s| {
            let entry = s.tree.entry(path, Op::Stat)?;
            if entry.version != *at {
                return Err(ProviderError::new(ErrorKind::VersionMismatch, Op::Stat).at(path));
            }
            Ok(s.hashes.get(path).cloned())
        })
    }

    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
        self.count(Op::Upload, |s| {
            let (dir, _) = plan.begin()?;
            tree::checked(&plan.path, Op::Upload)?;
            s.tree.make_dir(&dir).map_err(|e| e.during(Op::Upload))?;
            s.uploads.insert(plan.nonce.clone(), BTreeMap::new());
            Ok(UploadToken {
                plan: plan.clone(),
                state: plan.nonce.clone(),
            })
        })
    }

    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError> {
        token.plan.check_part(index, part.len())?;
        let flight = self.shared.meter.begin(Op::Upload);
        flight.bytes_out(part.len());
        let size = part.len() as u64;
        let gone = || ProviderError::new(ErrorKind::NotFound, Op::Upload).at(&token.plan.path);
        let mut state = self.lock();
        let parts = state.uploads.get_mut(&token.state).ok_or_else(gone);
        flight.note(parts)?.insert(index, part);
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
        self.count(Op::Commit, |s| {
            let plan = &token.plan;
            plan.check_parts(parts)?;
            let found = s.tree.file(&plan.path).map(|f| f.version);
            if let Some(version) = s.committed.get(&token.state).filter(|v| Some(*v) == found.as_ref()) {
                return Ok(version.clone());
            }
            let arrived = s.uploads.get(&token.state);
            let arrived = arrived.ok_or_else(|| ProviderError::new(ErrorKind::NotFound, Op::Commit).at(&plan.path))?;
            let whole: Vec<u8> = arrived.values().flatten().copied().collect();
            if whole.len() as u64 != plan.size {
                let why = format!("{} bytes arrived of {}", whole.len(), plan.size);
                return Err(ProviderError::new(ErrorKind::Invalid, Op::Commit)
                    .at(&plan.path)
                    .because(why));
            }
            check_expect(&plan.path, expect, found.as_ref())?;
            let mtime_ns = s.dates.is_none().then_some(plan.mtime_ns);
            let version = s.tree.put(&plan.path, whole.into(), mtime_ns, plan.perm);
            let version = version.map_err(|e| e.during(Op::Commit))?;
            s.uploads.remove(&token.state);
            s.committed.insert(token.state.clone(), version.clone());
            Ok(version)
        })
    }

    async fn was_committed(
        &self,
        token: &UploadToken,
        _: &[PartDone],
        _: Option<&Version>,
    ) -> Result<Option<Version>, ProviderError> {
        self.count(Op::Stat, |s| {
            if s.dates == Some(false) {
                return Ok(None);
            }
            let found = s.tree.file(&token.plan.path).map(|file| file.version);
            Ok(found.filter(|found| s.committed.get(&token.state) == Some(found)))
        })
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        self.count(Op::Abort, |s| {
            s.uploads.remove(&token.state);
            Ok(())
        })
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.count(Op::MakeDir, |s| s.tree.make_dir(path))
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        self.count(Op::Rename, |s| s.tree.rename(from, to))
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        self.count(Op::Delete, |s| s.tree.delete(path))
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        self.count(Op::Space, |s| {
            let used = s.tree.bytes();
            Ok(Some(SiteSpace {
                total: TOTAL,
                available: TOTAL.saturating_sub(used),
            }))
        })
    }
}
