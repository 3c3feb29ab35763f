//! A folder of Google Drive as a site, through its API, version 3.
//!
//! Owns: the promises of a provider on top of a store that has ids where we have paths. Refuses to know: how requests are
//! carried (`web`). Invariants: nothing is deleted for good but what an upload of ours left: what is replaced or removed
//! goes to the bin; a document of Google's own is a link to it and is never written to.

mod auth;
mod client;
mod files;
mod tree;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backlot_config::GdriveSite as Settings;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::warn;

use self::auth::Tokens;
use self::client::{Ask, Client};
use self::files::{DriveFile, named, quoted};
use self::tree::{Root, Tree, Trust, text, wrong_kind};
use self::upload::{STEP, Sessions};
use super::upload::is_temp_name;
use super::web::{Fault, Web, content_range, exactly};
use super::{
    Arrivals, Capabilities, Entry, ErrorKind, FileHash, HashKind, Listed, Op, PartDone, Provider, ProviderError,
    SiteSpace, UploadPlan, UploadToken,
};
use crate::model::{EntryKind, Name, RelPath, Version};

/// How long a connection to Google may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Requests at once where the settings don't say: Google counts requests by the minute.
const REQUESTS: usize = 8;

/// A folder of Drive as a site.
#[derive(Debug)]
pub struct GdriveSite {
    tree: Tree,
    sessions: Sessions,
    /// Answers with a file's bytes under way: half of all requests, for each of them waits for another one.
    reads: Arc<Semaphore>,
    requests: usize,
}

impl GdriveSite {
    /// Makes a site. Nobody is asked anything yet.
    ///
    /// `requests` bounds the reads under way, and twice of it all requests; no progress for `idle_timeout` is `TimedOut`.
    ///
    /// # Errors
    /// `Config` when the settings can't work.
    pub fn new(settings: &Settings, requests: Option<usize>, idle_timeout: Duration) -> Result<Self, ProviderError> {
        let requests = requests.unwrap_or(REQUESTS).max(1);
        let root = match &settings.folder_id {
            Some(id) => Some(Root::Id(id.clone())),
            None => Root::parse(&settings.root),
        };
        let none = || ProviderError::new(ErrorKind::Config, Op::Connect).because("`root` is missing");
        let root = root.ok_or_else(none)?;
        let endpoint = settings.endpoint.as_deref();
        let all = Some(requests.saturating_mul(2));
        let web = Web::new(Client::address(endpoint), None, CONNECT, all, idle_timeout)?;
        let client = Client::new(web, Tokens::new(settings)?, endpoint)?;
        Ok(Self {
            tree: Tree::new(client, root),
            sessions: Sessions::default(),
            reads: Arc::new(Semaphore::new(requests)),
            requests,
        })
    }

    async fn open(
        &self,
        path: &RelPath,
        at: &Version,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        let mismatch = |why: String| Fault::new(ErrorKind::VersionMismatch, why);
        let (_, file) = self.tree.find(path, Trust::Remembered).await?;
        let file = file
            .filter(|file| !file.is_dir())
            .ok_or_else(|| wrong_kind("a folder"))?;
        let check = |file: &DriveFile| match file.version() {
            _ if file.trashed => Err(mismatch("the file is in the bin".to_owned())),
            found if found != *at => Err(mismatch(format!("expected version {at}, found {found}"))),
            _ if file.entry().size < range.end => Err(mismatch("the file is shorter than the range".to_owned())),
            _ => Ok(()),
        };
        check(&file)?;
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        if file.is_native() {
            let link = Bytes::from(file.link());
            let piece = link.slice(index(range.start)..index(range.end));
            return Ok(stream::iter([Ok(piece)]).boxed());
        }
        let slot = Arc::clone(&self.reads).acquire_owned().await;
        let slot = slot.map_err(|_| Fault::new(ErrorKind::Unreachable, "the site is closed"))?;
        let ask = self
            .tree
            .file(&file.id)
            .query("alt", "media")
            .header("range", format!("bytes={}-{}", range.start, range.end - 1));
        let reply = match self.tree.client.ask(ask, &[]).await {
            Err(fault) if fault.kind == ErrorKind::VersionMismatch => {
                return Err(mismatch("the file is shorter than the range".to_owned()));
            }
            reply => reply?,
        };
        // One answer is of one revision. That it is of this one is certain if this one is still the last after the answer
        // has begun, and before any byte of it is given out.
        check(&self.tree.by_id(&file.id).await?)?;
        let whole = range.start == 0 && range.end == file.size() && reply.status == StatusCode::OK;
        if !whole && content_range(&reply) != Some(range.clone()) {
            return Err(mismatch("Drive gave other bytes than were asked for".to_owned()));
        }
        let body = exactly(reply.body(), range.end - range.start);
        // The closure keeps the slot as long as the answer lasts.
        Ok(body
            .inspect(move |_| {
                let _held = &slot;
            })
            .boxed())
    }

    async fn named_hash(&self, path: &RelPath, at: &Version) -> Result<Option<FileHash>, Fault> {
        let (_, file) = self.tree.find(path, Trust::Remembered).await?;
        let file = file
            .filter(|file| !file.is_dir())
            .ok_or_else(|| wrong_kind("a folder"))?;
        let found = file.version();
        if found != *at {
            let why = format!("expected version {at}, found {found}");
            return Err(Fault::new(ErrorKind::VersionMismatch, why));
        }
        // A document's link is written here, and has no hash there.
        let hex = file.md5_checksum.as_deref().filter(|_| !file.is_native());
        Ok(hex.and_then(|hex| FileHash::from_hex(HashKind::Md5, hex)))
    }

    async fn rows(&self, dir: &RelPath) -> Result<Vec<Listed>, Fault> {
        let (top, folder) = self.tree.find(dir, Trust::Remembered).await?;
        let id = match &folder {
            Some(folder) if folder.is_dir() => folder.id.clone(),
            Some(_) => return Err(wrong_kind("a file")),
            None => top.id.clone(),
        };
        let files = self
            .tree
            .all(&top, &format!("{} in parents and trashed = false", quoted(&id)))
            .await?;
        if files.is_empty() {
            // So is a folder that is in the bin: that it is not is looked at after.
            self.tree.find(dir, Trust::Nothing).await?;
        }
        let (shown, hidden) = named(files);
        for file in hidden {
            warn!(folder = %dir, name = file.name, "a file of Drive has a name that can't be here: not shown");
        }
        let mut rows = Vec::with_capacity(shown.len());
        for (name, file) in shown {
            if file.name != name && !file.is_native() {
                warn!(folder = %dir, name = file.name, shown = name, "a file of Drive is shown under another name");
            }
            if is_temp_name(name.as_bytes()) {
                continue;
            }
            let name = Name::new(name.as_bytes()).map_err(|e| Fault::new(ErrorKind::Protocol, e.to_string()))?;
            rows.push(Listed {
                name,
                entry: file.entry(),
            });
        }
        Ok(rows)
    }

    async fn move_to(&self, from: &RelPath, to: &RelPath) -> Result<(), Fault> {
        let invalid = || Fault::new(ErrorKind::Invalid, "the root stays where it is");
        let (to_dir, to_name) = to.split_last().ok_or_else(invalid)?;
        let (top, file) = self.tree.find(from, Trust::Nothing).await?;
        let file = file.ok_or_else(invalid)?;
        if file.is_native() {
            return Err(not_ours());
        }
        let dir = self.tree.dir_id(&top, &to_dir, Trust::Nothing).await?;
        let name = text(to_name.as_bytes())?;
        let there = self.tree.child(&top, &dir, name).await?;
        match &there {
            Some(there) if there.id == file.id => return Ok(()),
            Some(there) if there.is_dir() != file.is_dir() => {
                return Err(wrong_kind("a folder in place of a file, or the reverse"));
            }
            Some(there) if there.is_dir() => self.must_be_empty(&top, there).await?,
            Some(there) if there.is_native() => return Err(not_ours()),
            _ => {}
        }
        let parent = file.parents.first().map_or(top.id.as_str(), String::as_str);
        let body = json!({ "name": name });
        self.tree.patch(&file.id, &body, Some((parent, &dir))).await?;
        if let Some(there) = there {
            self.tree.trash(&there.id).await?;
        }
        self.tree.forget(from);
        self.tree.forget(to);
        Ok(())
    }

    async fn must_be_empty(&self, top: &tree::Top, dir: &DriveFile) -> Result<(), Fault> {
        let query = format!("{} in parents and trashed = false", quoted(&dir.id));
        let page = self.tree.page(top, query, None).await?;
        if page.files.is_empty() && page.next_page_token.is_none() {
            return Ok(());
        }
        Err(wrong_kind("the folder is not empty"))
    }

    async fn remove(&self, path: &RelPath) -> Result<(), Fault> {
        let (top, file) = self.tree.find(path, Trust::Nothing).await?;
        let file = file.ok_or_else(|| Fault::new(ErrorKind::Invalid, "the root stays where it is"))?;
        if file.is_native() {
            return Err(not_ours());
        }
        if file.is_dir() {
            self.must_be_empty(&top, &file).await?;
        }
        self.tree.trash(&file.id).await?;
        self.tree.forget(path);
        Ok(())
    }

    async fn quota(&self) -> Result<Option<SiteSpace>, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct About {
            storage_quota: Quota,
        }
        #[derive(Deserialize)]
        struct Quota {
            limit: Option<String>,
            usage: Option<String>,
        }
        if self.tree.top(Trust::Remembered).await?.drive.is_some() {
            // The account's quota says nothing about a shared drive.
            return Ok(None);
        }
        let ask = Ask::new(reqwest::Method::GET, "/drive/v3/about").query("fields", "storageQuota");
        let about: About = self.tree.client.get(ask).await?;
        let number = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<u64>().ok());
        let Some(total) = number(&about.storage_quota.limit) else {
            return Ok(None);
        };
        let used = number(&about.storage_quota.usage).unwrap_or(0);
        Ok(Some(SiteSpace {
            total,
            available: total.saturating_sub(used),
        }))
    }
}

fn not_ours() -> Fault {
    Fault::new(
        ErrorKind::Denied,
        "a document of Google's is changed in Google's own programs",
    )
}

/// The root, of which Drive says nothing that matters here.
fn root_entry(id: &str) -> Entry {
    Entry {
        kind: EntryKind::Dir,
        size: 0,
        mtime_ns: 0,
        perm: None,
        version: Version::new(id),
        target: None,
    }
}

#[async_trait]
impl Provider for GdriveSite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_replace: true,
            ranged_read: true,
            resume_upload: true,
            conditional_commit: false,
            symlinks: false,
            byte_names: false,
            mtime_step_ns: 1_000_000,
            keeps_mtime: true,
            min_part: STEP,
            parts_in_order: true,
            hash: Some(HashKind::Md5),
            parallel_reads: self.requests,
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        let top = self.tree.top(Trust::Nothing).await;
        top.map(drop).map_err(|fault| fault.on(Op::Probe, &RelPath::root()))
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry, ProviderError> {
        check_path(path, Op::Stat)?;
        match self.tree.find(path, Trust::Remembered).await {
            Ok((_, Some(file))) => Ok(file.entry()),
            Ok((top, None)) => Ok(root_entry(&top.id)),
            Err(fault) => Err(fault.on(Op::Stat, path)),
        }
    }

    fn list<'a>(&'a self, dir: &'a RelPath) -> BoxStream<'a, Result<Listed, ProviderError>> {
        let rows = async move {
            check_path(dir, Op::List)?;
            let rows = self.rows(dir).await.map_err(|fault| fault.on(Op::List, dir))?;
            Ok::<_, ProviderError>(stream::iter(rows.into_iter().map(Ok)))
        };
        stream::once(rows).try_flatten().boxed()
    }

    fn read_for<'a>(
        &'a self,
        path: &'a RelPath,
        at: &'a Version,
        range: Range<u64>,
        arrivals: Arrivals,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>> {
        let open = async move {
            check_path(path, Op::Read)?;
            let body = self
                .open(path, at, range)
                .await
                .map_err(|fault| fault.on(Op::Read, path))?;
            Ok::<_, ProviderError>(body.map_err(move |fault| fault.on(Op::Read, path)))
        };
        let chunks = stream::once(open).try_flatten().boxed();
        arrivals.note_each(chunks)
    }

    async fn hash(&self, path: &RelPath, at: &Version) -> Result<Option<FileHash>, ProviderError> {
        check_path(path, Op::Stat)?;
        let hash = self.named_hash(path, at).await;
        hash.map_err(|fault| fault.on(Op::Stat, path))
    }

    async fn begin_upload(&self, plan: &UploadPlan) -> Result<UploadToken, ProviderError> {
        check_path(&plan.path, Op::Upload)?;
        upload::begin(&self.tree, &self.sessions, plan).await
    }

    async fn upload_part(&self, token: &UploadToken, index: u32, part: Bytes) -> Result<PartDone, ProviderError> {
        upload::part(&self.tree, &self.sessions, token, index, part).await
    }

    async fn commit(
        &self,
        token: UploadToken,
        parts: &[PartDone],
        expect: Option<Option<&Version>>,
    ) -> Result<Version, ProviderError> {
        upload::commit(&self.tree, &self.sessions, token, parts, expect).await
    }

    async fn abort(&self, token: UploadToken) -> Result<(), ProviderError> {
        upload::abort(&self.tree, &self.sessions, token).await
    }

    async fn make_dir(&self, path: &RelPath) -> Result<(), ProviderError> {
        check_path(path, Op::MakeDir)?;
        let made = self.tree.make_dir(path).await;
        made.map(drop).map_err(|fault| fault.on(Op::MakeDir, path))
    }

    async fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), ProviderError> {
        check_path(from, Op::Rename)?;
        check_path(to, Op::Rename)?;
        self.move_to(from, to).await.map_err(|fault| fault.on(Op::Rename, from))
    }

    async fn delete(&self, path: &RelPath) -> Result<(), ProviderError> {
        check_path(path, Op::Delete)?;
        self.remove(path).await.map_err(|fault| fault.on(Op::Delete, path))
    }

    async fn space(&self) -> Result<Option<SiteSpace>, ProviderError> {
        self.quota()
            .await
            .map_err(|fault| fault.on(Op::Space, &RelPath::root()))
    }
}

/// Drive has no bound for paths; those that no system could open are not put there.
fn check_path(path: &RelPath, op: Op) -> Result<(), ProviderError> {
    if path.as_bytes().len() <= 4095 {
        return Ok(());
    }
    let why = "a path has at most 4095 bytes";
    Err(ProviderError::new(ErrorKind::Invalid, op).at(path).because(why))
}
