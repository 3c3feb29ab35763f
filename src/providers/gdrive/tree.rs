//! From a path to the file that Drive has there.
//!
//! Owns: walking down from the root, and the ids of folders met on the way. Refuses to know: what is done with a file.
//! Invariants: a file is called absent only after a walk that trusted no remembered id, below a root that is there; a folder
//! is made once, however many ask for it at the same time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use tracing::warn;

use super::client::{Ask, Client, parse};
use super::files::{DriveFile, FIELDS, FOLDER, candidates, named, quoted};
use crate::model::RelPath;
use crate::providers::ErrorKind;
use crate::providers::web::Fault;

/// How long the id of a folder is believed without asking. A folder that is moved elsewhere is seen at its old place for
/// that long at most.
const BELIEVED: Duration = Duration::from_secs(30);
/// Ids that are remembered at most.
const REMEMBERED: usize = 50_000;
/// Files a page of a listing: the most that Drive gives.
const PAGE: &str = "1000";

/// Where the site's root is.
#[derive(Debug)]
pub(super) enum Root {
    Id(String),
    MyDrive(Vec<String>),
    Shared(String, Vec<String>),
}

impl Root {
    /// Reads a root as settings have it.
    pub(super) fn parse(root: &str) -> Option<Self> {
        let mut parts = root.split('/').filter(|part| !part.is_empty()).map(str::to_owned);
        let first = parts.next()?;
        let rest = parts.collect();
        Some(if first == "My Drive" {
            Self::MyDrive(rest)
        } else {
            Self::Shared(first, rest)
        })
    }
}

/// The folder that everything is below, and the shared drive that it is in.
#[derive(Debug, Clone)]
pub(super) struct Top {
    pub(super) id: String,
    pub(super) drive: Option<String>,
}

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) client: Client,
    root: Root,
    known: Mutex<Known>,
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    top: Option<(Top, Instant)>,
    /// Folders by their path.
    dirs: HashMap<RelPath, (String, Instant)>,
}

/// How far ids that are remembered are trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    Remembered,
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    #[serde(default)]
    pub(super) next_page_token: Option<String>,
    #[serde(default)]
    incomplete_search: bool,
    pub(super) files: Vec<DriveFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Drives {
    #[serde(default)]
    next_page_token: Option<String>,
    drives: Vec<SharedDrive>,
}

#[derive(Deserialize)]
struct SharedDrive {
    id: String,
    name: String,
}

pub(super) fn not_found(why: impl Into<String>) -> Fault {
    Fault::new(ErrorKind::NotFound, why)
}

pub(super) fn wrong_kind(why: &str) -> Fault {
    Fault::new(ErrorKind::WrongKind, why)
}

impl Tree {
    pub(super) fn new(client: Client, root: Root) -> Self {
        Self {
            client,
            root,
            known: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the ids of a folder and those below it.
    pub(super) fn forget(&self, path: &RelPath) {
        let below = |other: &RelPath| {
            let mut parts = other.components();
            path.components().all(|part| parts.next() == Some(part))
        };
        self.known().dirs.retain(|dir, _| !below(dir));
    }

    /// Returns the root's folder; one that is away is unreachable, not absent.
    pub(super) async fn top(&self, trust: Trust) -> Result<Top, Fault> {
        if trust == Trust::Remembered
            && let Some((top, at)) = &self.known().top
            && at.elapsed() < BELIEVED
        {
            return Ok(top.clone());
        }
        let away = |fault: Fault| match fault.kind {
            ErrorKind::NotFound | ErrorKind::WrongKind => Fault::new(
                ErrorKind::Unreachable,
                format!("the site's root is not there: {}", fault.why),
            ),
            _ => fault,
        };
        let top = self.find_top().await.map_err(away)?;
        self.known().top = Some((top.clone(), Instant::now()));
        Ok(top)
    }

    async fn find_top(&self) -> Result<Top, Fault> {
        let (mut top, rest) = match &self.root {
            Root::Id(id) => {
                let file = self.by_id(id).await?;
                if file.trashed || !file.is_dir() {
                    return Err(not_found("`folder-id` is in the bin, or no folder"));
                }
                let drive = self
                    .client
                    .get::<serde_json::Value>(self.file(id).query("fields", "driveId"))
                    .await?;
                let drive = drive.get("driveId").and_then(|d| d.as_str()).map(str::to_owned);
                return Ok(Top { id: file.id, drive });
            }
            Root::MyDrive(rest) => (
                Top {
                    // Its real id, which is what its files say of their parent.
                    id: self.by_id("root").await?.id,
                    drive: None,
                },
                rest,
            ),
            Root::Shared(name, rest) => {
                let id = self.shared_drive(name).await?;
                (
                    Top {
                        id: id.clone(),
                        drive: Some(id),
                    },
                    rest,
                )
            }
        };
        for name in rest {
            let file = self.child(&top, &top.id, name).await?;
            let file = file.filter(DriveFile::is_dir);
            top.id = file.ok_or_else(|| not_found(format!("there is no folder {name}")))?.id;
        }
        Ok(top)
    }

    async fn shared_drive(&self, name: &str) -> Result<String, Fault> {
        let (mut found, mut page) = (Vec::new(), None::<String>);
        loop {
            let mut ask = Ask::new(Method::GET, "/drive/v3/drives").query("pageSize", "100");
            if let Some(page) = page {
                ask = ask.query("pageToken", page);
            }
            let drives: Drives = self.client.get(ask).await?;
            found.extend(drives.drives.into_iter().filter(|d| d.name == name).map(|d| d.id));
            page = drives.next_page_token;
            if page.is_none() {
                break;
            }
        }
        match found.as_slice() {
            [id] => Ok(id.clone()),
            [] => Err(not_found(format!("the account sees no shared drive called {name}"))),
            _ => {
                let why = format!(
                    "{} shared drives are called {name}; give `folder-id` instead of `root`",
                    found.len()
                );
                Err(Fault::new(ErrorKind::Config, why))
            }
        }
    }

    /// A request about one file.
    pub(super) fn file(&self, id: &str) -> Ask {
        Ask::new(Method::GET, format!("/drive/v3/files/{id}")).query("supportsAllDrives", "true")
    }

    pub(super) async fn by_id(&self, id: &str) -> Result<DriveFile, Fault> {
        self.client.get(self.file(id).query("fields", FIELDS)).await
    }

    /// Changes a file's description.
    pub(super) async fn patch(
        &self,
        id: &str,
        body: &serde_json::Value,
        parents: Option<(&str, &str)>,
    ) -> Result<DriveFile, Fault> {
        let mut ask = Ask::new(Method::PATCH, format!("/drive/v3/files/{id}"))
            .query("supportsAllDrives", "true")
            .query("fields", FIELDS)
            .json(body);
        if let Some((from, to)) = parents.filter(|(from, to)| from != to) {
            ask = ask.query("removeParents", from).query("addParents", to);
        }
        self.client.get(ask).await
    }

    /// Puts a file in the bin, where its owner finds it for 30 days.
    pub(super) async fn trash(&self, id: &str) -> Result<(), Fault> {
        match self.patch(id, &serde_json::json!({ "trashed": true }), None).await {
            Err(fault) if fault.kind == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Asks for a page of what a folder holds.
    pub(super) async fn page(&self, top: &Top, query: String, page: Option<String>) -> Result<Page, Fault> {
        let mut ask = Ask::new(Method::GET, "/drive/v3/files")
            .query("q", query)
            .query("pageSize", PAGE)
            .query("fields", format!("nextPageToken,incompleteSearch,files({FIELDS})"))
            .query("supportsAllDrives", "true")
            .query("includeItemsFromAllDrives", "true");
        ask = match &top.drive {
            Some(drive) => ask.query("corpora", "drive").query("driveId", drive.as_str()),
            None => ask.query("corpora", "user"),
        };
        if let Some(page) = page {
            ask = ask.query("pageToken", page);
        }
        let page: Page = parse(&self.client.ask(ask, &[]).await?.text().await?)?;
        if page.incomplete_search {
            return Err(Fault::new(ErrorKind::Busy, "Drive did not look everywhere"));
        }
        Ok(page)
    }

    /// Returns all that a query finds.
    pub(super) async fn all(&self, top: &Top, query: &str) -> Result<Vec<DriveFile>, Fault> {
        let (mut files, mut next) = (Vec::new(), None);
        loop {
            let page = self.page(top, query.to_owned(), next).await?;
            files.extend(page.files);
            next = page.next_page_token;
            if next.is_none() {
                return Ok(files);
            }
        }
    }

    /// Returns the file that is shown under a name in a folder.
    pub(super) async fn child(&self, top: &Top, dir: &str, name: &str) -> Result<Option<DriveFile>, Fault> {
        let names: Vec<_> = candidates(name)
            .iter()
            .map(|n| format!("name = {}", quoted(n)))
            .collect();
        let query = format!(
            "{} in parents and trashed = false and ({})",
            quoted(dir),
            names.join(" or ")
        );
        let mut files = self.all(top, &query).await?;
        // Drive compares names without regard to case.
        let exact = candidates(name);
        files.retain(|file| exact.contains(&file.name));
        let count = files.len();
        let (shown, _) = named(files);
        let found = shown.into_iter().find(|(shown, _)| shown == name).map(|(_, file)| file);
        if count > 1 && found.is_some() {
            warn!(
                name,
                "several files of Drive have this name; the others are shown with their ids"
            );
        }
        Ok(found)
    }

    /// Returns the file at a path. `None` for the root, which has no name.
    pub(super) async fn find(&self, path: &RelPath, trust: Trust) -> Result<(Top, Option<DriveFile>), Fault> {
        match self.walk(path, trust).await {
            Err(fault)
                if trust == Trust::Remembered && matches!(fault.kind, ErrorKind::NotFound | ErrorKind::WrongKind) =>
            {
                self.forget(&RelPath::root());
                self.walk(path, Trust::Nothing).await
            }
            found => found,
        }
    }

    async fn walk(&self, path: &RelPath, trust: Trust) -> Result<(Top, Option<DriveFile>), Fault> {
        let top = self.top(trust).await?;
        let Some((dir, name)) = path.split_last() else {
            return Ok((top, None));
        };
        let dir = self.dir_id(&top, &dir, trust).await?;
        let name = text(name.as_bytes())?;
        let file = self.child(&top, &dir, name).await?;
        let file = file.ok_or_else(|| not_found(format!("Drive shows no {name} there")))?;
        if file.is_dir() {
            self.remember(path, &file.id);
        }
        Ok((top, Some(file)))
    }

    /// Returns the id of the folder at a path.
    pub(super) async fn dir_id(&self, top: &Top, path: &RelPath, trust: Trust) -> Result<String, Fault> {
        let mut at = RelPath::root();
        let mut id = top.id.clone();
        for part in path.components() {
            let name = text(part)?;
            at = at.join(&crate::model::Name::new(part).map_err(|e| Fault::new(ErrorKind::Invalid, e.to_string()))?);
            if trust == Trust::Remembered
                && let Some((known, since)) = self.known().dirs.get(&at)
                && since.elapsed() < BELIEVED
            {
                id.clone_from(known);
                continue;
            }
            let file = self.child(top, &id, name).await?;
            let file = file.ok_or_else(|| not_found(format!("Drive shows no {name} there")))?;
            if !file.is_dir() {
                return Err(wrong_kind("a file where a folder is needed"));
            }
            id = file.id;
            self.remember(&at, &id);
        }
        Ok(id)
    }

    fn remember(&self, path: &RelPath, id: &str) {
        let mut known = self.known();
        if known.dirs.len() >= REMEMBERED {
            known.dirs.clear();
        }
        known.dirs.insert(path.clone(), (id.to_owned(), Instant::now()));
    }

    /// Makes a folder and those above it; returns its id.
    pub(super) async fn make_dir(&self, path: &RelPath) -> Result<(Top, String), Fault> {
        // One at a time: Drive would make two of one name.
        let _one = self.making.lock().await;
        let top = self.top(Trust::Nothing).await?;
        let mut at = RelPath::root();
        let mut id = top.id.clone();
        for part in path.components() {
            let name = text(part)?;
            at = at.join(&crate::model::Name::new(part).map_err(|e| Fault::new(ErrorKind::Invalid, e.to_string()))?);
            id = match self.child(&top, &id, name).await? {
                Some(file) if file.is_dir() => file.id,
                Some(_) => return Err(wrong_kind("a file where a folder is needed")),
                None => self.create_dir(&top, &id, name).await?,
            };
            self.remember(&at, &id);
        }
        Ok((top, id))
    }

    async fn create_dir(&self, top: &Top, parent: &str, name: &str) -> Result<String, Fault> {
        let body = serde_json::json!({ "name": name, "mimeType": FOLDER, "parents": [parent] });
        let ask = Ask::new(Method::POST, "/drive/v3/files")
            .query("supportsAllDrives", "true")
            .query("fields", FIELDS)
            .json(&body);
        let made: DriveFile = self.client.get(ask).await?;
        // Another machine may have made it in the same moment: the older one is everybody's.
        match self.child(top, parent, name).await? {
            Some(file) if file.is_dir() && file.id != made.id => {
                self.trash(&made.id).await?;
                Ok(file.id)
            }
            _ => Ok(made.id),
        }
    }
}

/// A name as text.
pub(super) fn text(name: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(name).map_err(|_bytes| Fault::new(ErrorKind::Invalid, "names in Drive are UTF-8"))
}
