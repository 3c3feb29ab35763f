//! What is in the drive.
//!
//! Owns: files, their parents, changes. Refuses to know: HTTP, but for how a refusal reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::Json;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::Params;

/// A file in Drive.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mime: String,
    pub(crate) parent: Option<String>,
    pub(crate) bytes: Option<Bytes>,
    pub(crate) revision: u64,
    pub(crate) trashed: bool,
    pub(super) modified: String,
    pub(super) created: String,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) drive: Option<String>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) meta: Value,
    pub(super) update: Option<String>,
    pub(super) size: Option<usize>,
    pub(super) had: Vec<u8>,
    pub(super) done: bool,
}

/// Something that goes wrong on purpose.
#[derive(Debug)]
pub(crate) struct Fault {
    /// What the request's method and path begin with, as in `PUT /upload/`.
    pub(crate) on: &'static str,
    pub(crate) times: u32,
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    /// Do as asked first, and lose the answer.
    pub(crate) after: bool,
}

#[derive(Default, Debug)]
pub(crate) struct Store {
    pub(crate) files: BTreeMap<String, File>,
    /// Ids by parent.
    pub(super) children: HashMap<String, BTreeSet<String>>,
    pub(super) sessions: HashMap<String, Session>,
    pub(super) drives: BTreeMap<String, String>,
    pub(super) tokens: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) struck: u32,
    pub(crate) log: Vec<String>,
    pub(super) changes: Vec<String>,
    pub(super) clock: i64,
    pub(super) count: u64,
    pub(super) page_max: usize,
}

impl Store {
    pub(super) fn fresh(&mut self, prefix: &str) -> String {
        self.count += 1;
        // As long as Drive's; the count comes first, so that ids differ where they are cut.
        format!("{:05}{prefix}{:024}", self.count, self.count * 7919)
    }

    pub(super) fn now(&mut self) -> String {
        self.clock += 1;
        jiff::Timestamp::from_millisecond(1_790_000_000_000 + self.clock)
            .unwrap()
            .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
            .to_string()
    }

    /// The files in a folder.
    pub(super) fn inside<'s>(&'s self, dir: &str) -> impl Iterator<Item = &'s File> + use<'s> {
        self.children
            .get(dir)
            .into_iter()
            .flatten()
            .filter_map(|id| self.files.get(id))
    }

    pub(super) fn is_trashed(&self, file: &File) -> bool {
        let parent = || file.parent.as_ref().and_then(|p| self.files.get(p));
        file.trashed || parent().is_some_and(|p| self.is_trashed(p))
    }

    pub(super) fn insert(&mut self, meta: &Value, bytes: Option<Bytes>) -> Result<File, Refused> {
        let id = match meta["id"].as_str() {
            Some(id) if self.files.contains_key(id) => {
                return Err(refuse(
                    409,
                    "fileIdInUse",
                    "A file already exists with the provided ID.",
                ));
            }
            Some(id) => id.to_owned(),
            None => self.fresh("f"),
        };
        let parent = meta["parents"][0].as_str().unwrap_or("root");
        let parent = if parent == "root" { "0root" } else { parent };
        let Some(above) = self.files.get(parent).cloned() else {
            return Err(refuse(404, "notFound", &format!("File not found: {parent}.")));
        };
        let created = self.now();
        let mime = meta["mimeType"].as_str().unwrap_or("application/octet-stream");
        let folder = mime.starts_with("application/vnd.google-apps.");
        let file = File {
            name: meta["name"].as_str().unwrap_or("Untitled").to_owned(),
            mime: mime.to_owned(),
            parent: Some(parent.to_owned()),
            bytes: if folder { None } else { Some(bytes.unwrap_or_default()) },
            revision: {
                self.count += 1;
                self.count
            },
            trashed: false,
            modified: meta["modifiedTime"].as_str().map_or(created.clone(), str::to_owned),
            created,
            properties: serde_json::from_value(meta["properties"].clone()).unwrap_or_default(),
            drive: above.drive.clone(),
            id: id.clone(),
        };
        self.files.insert(id.clone(), file.clone());
        self.children.entry(parent.to_owned()).or_default().insert(id.clone());
        self.changes.push(id);
        Ok(file)
    }

    pub(super) fn update(
        &mut self,
        id: &str,
        meta: &Value,
        params: &Params,
        bytes: Option<Bytes>,
    ) -> Result<File, Refused> {
        let now = self.now();
        let revision = {
            self.count += 1;
            self.count
        };
        let Some(file) = self.files.get(id) else {
            return Err(refuse(404, "notFound", &format!("File not found: {id}.")));
        };
        let mut file = file.clone();
        if let Some(name) = meta["name"].as_str() {
            file.name = name.to_owned();
        }
        if let Some(bytes) = bytes {
            file.bytes = Some(bytes);
            file.revision = revision;
            file.modified = now;
        }
        if let Some(time) = meta["modifiedTime"].as_str() {
            file.modified = time.to_owned();
        }
        if let Some(trashed) = meta["trashed"].as_bool() {
            file.trashed = trashed;
        }
        for (key, value) in meta["properties"].as_object().into_iter().flatten() {
            match value.as_str() {
                Some(text) => file.properties.insert(key.clone(), text.to_owned()),
                None => file.properties.remove(key),
            };
        }
        if let Some(gone) = params.get("removeParents")
            && file.parent.as_deref() != Some(gone)
        {
            return Err(refuse(400, "invalid", "The parent is not one of the file's."));
        }
        if let Some(parent) = params.get("addParents") {
            if !self.files.contains_key(parent) {
                return Err(refuse(404, "notFound", "File not found: the parent."));
            }
            let mut at = Some(parent.clone());
            while let Some(up) = at {
                if up == id {
                    return Err(refuse(
                        403,
                        "cyclicMembershipsNotAllowed",
                        "A folder cannot be in itself.",
                    ));
                }
                at = self.files.get(&up).and_then(|f| f.parent.clone());
            }
            if let Some(old) = file.parent.replace(parent.clone()) {
                self.children.entry(old).or_default().remove(id);
            }
            self.children.entry(parent.clone()).or_default().insert(id.to_owned());
        }
        self.files.insert(id.to_owned(), file.clone());
        self.changes.push(id.to_owned());
        Ok(file)
    }

    pub(super) fn shown(&self, file: &File) -> Value {
        let mut out = json!({
            "kind": "drive#file", "id": file.id, "name": file.name, "mimeType": file.mime, "trashed": self.is_trashed(file),
            "explicitlyTrashed": file.trashed, "createdTime": file.created, "modifiedTime": file.modified,
            "properties": file.properties, "capabilities": { "canTrash": true, "canDownload": true, "canEdit": true },
            "webViewLink": format!("https://drive.google.com/file/d/{}/view", file.id),
        });
        if let Some(parent) = &file.parent {
            out["parents"] = json!([parent]);
        }
        if let Some(drive) = &file.drive {
            out["driveId"] = json!(drive);
        }
        if let Some(bytes) = &file.bytes {
            out["size"] = json!(bytes.len().to_string());
            out["md5Checksum"] = json!(hex(&Md5::digest(bytes)));
            out["headRevisionId"] = json!(format!("0B{}rev{:08}", &file.id[..5], file.revision));
        }
        out
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// In a box, for it is large.
pub(super) type Refused = Box<Response>;

pub(super) fn refuse(status: u16, reason: &str, message: &str) -> Refused {
    Box::new(refused(status, reason, message))
}

pub(super) fn refused(status: u16, reason: &str, message: &str) -> Response {
    let body = json!({ "error": { "code": status, "message": message, "errors": [
        { "domain": "global", "reason": reason, "message": message } ] } });
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}
