//! A double of Google Drive's API, version 3, on the loopback interface: what `tests/clients/drive_double.py` holds against
//! Google's own Python client.
//!
//! Owns: files, sessions, tokens, and faults that a test orders. Refuses to know: the provider. Invariants: it answers with
//! the fields that were asked for and no others, wants a token that it gave, and checks the signature of whoever asks for one.
#![allow(dead_code, reason = "shared by test binaries, none of which needs all of it")]

mod query;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use backlot_config::{GdriveAuth, GdriveSite, PerSystem, SecretRef};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use self::query::{Search, answer, words};
pub(crate) use self::store::Fault;
use self::store::{File, Session, Store, refused};

const FOLDER: &str = "application/vnd.google-apps.folder";
const ACCOUNT: &str = "backlot@studio.iam.gserviceaccount.com";
pub(crate) const REFRESH: &str = "1//refresh-token-of-ada";
const CLIENT_SECRET: &str = "GOCSPX-client-secret";
const STEP: usize = 256 << 10;
/// What Google's own libraries write as the audience, wherever tokens are had.
const GOOGLES: &str = "https://oauth2.googleapis.com/token";

type Params = HashMap<String, String>;

/// The double, running.
#[derive(Clone, Debug)]
pub(crate) struct DriveDouble {
    store: Arc<Mutex<Store>>,
    public: Arc<Vec<u8>>,
    dir: Arc<tempfile::TempDir>,
    pub(crate) port: u16,
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

const DEFAULT: &str = "kind,id,name,mimeType";

async fn list(State(d): State<DriveDouble>, Query(params): Query<Params>) -> Response {
    let store = lock(&d.store);
    let query = params.get("q").map_or("", String::as_str);
    let Some(words) = words(query) else {
        return refused(400, "invalid", "Invalid Value");
    };
    let in_drives = params.get("includeItemsFromAllDrives").is_some_and(|v| v == "true");
    let mut found = Vec::new();
    // Those of one folder are found fast: `'ID' in parents and …`.
    let dir = match &words[..] {
        [id, is_in, parents, rest @ ..]
            if is_in == "in" && parents == "parents" && !rest.iter().any(|w| w == "not") =>
        {
            id.strip_prefix('\'').map(|id| if id == "root" { "0root" } else { id })
        }
        _ => None,
    };
    let among: Vec<&File> = match dir {
        Some(dir) => store.inside(dir).collect(),
        None => store.files.values().filter(|f| f.parent.is_some()).collect(),
    };
    for file in among {
        let mut search = Search {
            words: &words,
            at: 0,
            store: &store,
        };
        let hit = if words.is_empty() { Some(true) } else { search.any(file) };
        match hit {
            Some(hit) if search.at == words.len() || words.is_empty() => {
                let drive = params.get("driveId");
                let visible = match &file.drive {
                    None => drive.is_none(),
                    Some(of) => in_drives && drive.is_none_or(|d| d == of),
                };
                if hit && visible {
                    found.push(store.shown(file));
                }
            }
            _ => return refused(400, "invalid", &format!("Invalid Value: {query}")),
        }
    }
    let from: usize = params
        .get("pageToken")
        .and_then(|t| t.strip_prefix("page-")?.parse().ok())
        .unwrap_or(0);
    let size = params
        .get("pageSize")
        .and_then(|s| s.parse().ok())
        .unwrap_or(100_usize)
        .min(store.page_max);
    let rest = found.len().saturating_sub(from + size);
    let mut out = json!({ "kind": "drive#fileList", "incompleteSearch": false,
        "files": found.into_iter().skip(from).take(size).collect::<Vec<_>>() });
    if rest > 0 {
        out["nextPageToken"] = json!(format!("page-{}", from + size));
    }
    answer(
        &out,
        &params,
        "kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType)",
    )
}

async fn generate_ids(State(d): State<DriveDouble>, Query(params): Query<Params>) -> Response {
    let count = params.get("count").and_then(|c| c.parse().ok()).unwrap_or(10);
    let mut store = lock(&d.store);
    let ids: Vec<_> = (0..count).map(|_| store.fresh("g")).collect();
    Json(json!({ "kind": "drive#generatedIds", "space": "drive", "ids": ids })).into_response()
}

async fn file(
    State(d): State<DriveDouble>,
    Path(id): Path<String>,
    Query(params): Query<Params>,
    headers: HeaderMap,
) -> Response {
    let store = lock(&d.store);
    let id = if id == "root" { "0root".to_owned() } else { id };
    let Some(file) = store.files.get(&id) else {
        return refused(404, "notFound", &format!("File not found: {id}."));
    };
    if file.drive.is_some() && params.get("supportsAllDrives").is_none_or(|v| v != "true") {
        return refused(404, "notFound", &format!("File not found: {id}."));
    }
    if params.get("alt").is_none_or(|alt| alt != "media") {
        return answer(&store.shown(file), &params, DEFAULT);
    }
    let Some(bytes) = file.bytes.clone() else {
        return refused(
            403,
            "fileNotDownloadable",
            "Only files with binary content can be downloaded.",
        );
    };
    let range = headers
        .get("range")
        .and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else {
        return body_of(StatusCode::OK, bytes, None);
    };
    let total = bytes.len();
    let first: usize = first.parse().unwrap_or(0);
    let last = last.parse().unwrap_or(usize::MAX).min(total.saturating_sub(1));
    if first >= total {
        return refused(416, "requestedRangeNotSatisfiable", "Request range not satisfiable");
    }
    body_of(
        StatusCode::PARTIAL_CONTENT,
        bytes.slice(first..=last),
        Some(format!("bytes {first}-{last}/{total}")),
    )
}

fn body_of(status: StatusCode, bytes: Bytes, range: Option<String>) -> Response {
    // In pieces, as a network does.
    let pieces: Vec<_> = bytes
        .chunks(64 << 10)
        .map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c)))
        .collect();
    let mut response = Response::builder().status(status).header("content-length", bytes.len());
    if let Some(range) = range {
        response = response.header("content-range", range);
    }
    response.body(Body::from_stream(futures::stream::iter(pieces))).unwrap()
}

async fn create(State(d): State<DriveDouble>, Query(params): Query<Params>, Json(meta): Json<Value>) -> Response {
    let mut store = lock(&d.store);
    match store.insert(&meta, None) {
        Ok(file) => answer(&store.shown(&file), &params, DEFAULT),
        Err(refused) => *refused,
    }
}

async fn patch(
    State(d): State<DriveDouble>,
    Path(id): Path<String>,
    Query(params): Query<Params>,
    Json(meta): Json<Value>,
) -> Response {
    let mut store = lock(&d.store);
    match store.update(&id, &meta, &params, None) {
        Ok(file) => answer(&store.shown(&file), &params, DEFAULT),
        Err(refused) => *refused,
    }
}

async fn delete(State(d): State<DriveDouble>, Path(id): Path<String>) -> Response {
    let mut store = lock(&d.store);
    match store.files.remove(&id) {
        Some(file) => {
            store
                .children
                .entry(file.parent.unwrap_or_default())
                .or_default()
                .remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        None => refused(404, "notFound", &format!("File not found: {id}.")),
    }
}

async fn begin(d: DriveDouble, update: Option<String>, params: Params, headers: HeaderMap, body: Bytes) -> Response {
    match params.get("uploadType").map(String::as_str) {
        Some("resumable") => {}
        Some("multipart") => return multipart(&d, update, &params, &headers, &body),
        _ => return refused(400, "badRequest", "uploadType"),
    }
    let meta: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!({}));
    let size = headers
        .get("x-upload-content-length")
        .and_then(|l| l.to_str().ok()?.parse().ok());
    let mut store = lock(&d.store);
    let id = store.fresh("s");
    let session = Session {
        meta,
        update,
        size,
        had: Vec::new(),
        done: false,
    };
    store.sessions.insert(id.clone(), session);
    let fields = params.get("fields").map(|f| format!("&fields={f}")).unwrap_or_default();
    let at = format!(
        "http://127.0.0.1:{}/upload/drive/v3/session?upload_id={id}{fields}",
        d.port
    );
    ([("location", at)], StatusCode::OK).into_response()
}

fn multipart(d: &DriveDouble, update: Option<String>, params: &Params, headers: &HeaderMap, body: &[u8]) -> Response {
    let kind = headers
        .get("content-type")
        .and_then(|t| t.to_str().ok())
        .unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        return refused(400, "badRequest", "no boundary");
    };
    let mark = format!("--{}", boundary.trim_matches('"')).into_bytes();
    let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|w| w == needle);
    let mut parts = Vec::new();
    let mut rest = body;
    while let Some(at) = find(rest, &mark) {
        rest = &rest[at + mark.len()..];
        let Some(end) = find(rest, &mark) else { break };
        let part = &rest[..end];
        let crlf = find(part, b"\r\n\r\n").map(|i| i + 4);
        let Some(start) = crlf.or_else(|| find(part, b"\n\n").map(|i| i + 2)) else {
            continue;
        };
        let bytes = &part[start..];
        let bytes = bytes
            .strip_suffix(b"\r\n")
            .or_else(|| bytes.strip_suffix(b"\n"))
            .unwrap_or(bytes);
        parts.push(bytes.to_vec());
    }
    let [meta, bytes] = parts.as_slice() else {
        return refused(400, "badRequest", "two parts are wanted");
    };
    let meta: Value = serde_json::from_slice(meta).unwrap_or_default();
    let mut store = lock(&d.store);
    finish(&mut store, &meta, update.as_deref(), Bytes::from(bytes.clone()), params)
}

fn finish(store: &mut Store, meta: &Value, update: Option<&str>, bytes: Bytes, params: &Params) -> Response {
    let file = match update {
        Some(id) => store.update(id, meta, params, Some(bytes)),
        None => store.insert(meta, Some(bytes)),
    };
    match file {
        Ok(file) => answer(&store.shown(&file), params, DEFAULT),
        Err(refused) => *refused,
    }
}

async fn upload_new(
    State(d): State<DriveDouble>,
    Query(params): Query<Params>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    begin(d, None, params, headers, body).await
}

async fn upload_update(
    State(d): State<DriveDouble>,
    Path(id): Path<String>,
    Query(params): Query<Params>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    begin(d, Some(id), params, headers, body).await
}

async fn session_put(
    State(d): State<DriveDouble>,
    Query(params): Query<Params>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut store = lock(&d.store);
    let id = params.get("upload_id").cloned().unwrap_or_default();
    let Some(session) = store.sessions.get_mut(&id) else {
        return refused(404, "notFound", "no such upload");
    };
    let range = headers
        .get("content-range")
        .and_then(|r| r.to_str().ok()?.strip_prefix("bytes "));
    let (at, total) = match range.and_then(|r| r.split_once('/')) {
        Some((at, total)) => (Some(at), total.parse::<usize>().ok()),
        None => (None, Some(body.len())),
    };
    if session.size.is_some() && total.is_some() && session.size != total {
        return refused(400, "badRequest", "another size than was announced");
    }
    if !session.done && !body.is_empty() {
        let (first, last) = match at.and_then(|at| at.split_once('-')) {
            Some((first, last)) => (first.parse().unwrap_or(usize::MAX), last.parse().unwrap_or(0)),
            None => (0, body.len() - 1),
        };
        if first != session.had.len() || last + 1 - first != body.len() {
            return refused(400, "badRequest", "the range does not go on where the upload is");
        }
        session.had.extend_from_slice(&body);
        if total.is_none_or(|total| session.had.len() < total) {
            // Only whole steps are kept.
            let kept = session.had.len() / STEP * STEP;
            session.had.truncate(kept);
        }
    }
    let whole =
        total.is_some_and(|total| session.had.len() == total) && (!body.is_empty() || total == Some(0) || session.done);
    if !whole {
        let mut out = Response::builder().status(308);
        if !session.had.is_empty() {
            out = out.header("range", format!("bytes=0-{}", session.had.len() - 1));
        }
        return out.body(Body::empty()).unwrap();
    }
    let first = !session.done;
    session.done = true;
    let (meta, update, bytes) = (
        session.meta.clone(),
        session.update.clone(),
        Bytes::from(session.had.clone()),
    );
    if first {
        return finish(&mut store, &meta, update.as_deref(), bytes, &params);
    }
    let id = update
        .or_else(|| meta["id"].as_str().map(str::to_owned))
        .unwrap_or_default();
    match store.files.get(&id) {
        Some(file) => answer(&store.shown(file), &params, DEFAULT),
        None => refused(404, "notFound", "the file is gone"),
    }
}

async fn session_delete(State(d): State<DriveDouble>, Query(params): Query<Params>) -> Response {
    let gone = lock(&d.store)
        .sessions
        .remove(params.get("upload_id").map_or("", String::as_str));
    StatusCode::from_u16(if gone.is_some() { 499 } else { 404 })
        .unwrap()
        .into_response()
}

async fn drives(State(d): State<DriveDouble>) -> Response {
    let store = lock(&d.store);
    let all: Vec<_> = store
        .drives
        .iter()
        .map(|(id, name)| json!({ "kind": "drive#drive", "id": id, "name": name }))
        .collect();
    Json(json!({ "kind": "drive#driveList", "drives": all })).into_response()
}

async fn about(State(d): State<DriveDouble>, Query(params): Query<Params>) -> Response {
    if !params.contains_key("fields") {
        return refused(400, "required", "The 'fields' parameter is required for this method.");
    }
    let store = lock(&d.store);
    let used: usize = store
        .files
        .values()
        .filter_map(|f| f.bytes.as_ref().map(Bytes::len))
        .sum();
    let quota =
        json!({ "limit": (15_u64 << 30).to_string(), "usage": used.to_string(), "usageInDrive": used.to_string() });
    answer(&json!({ "kind": "drive#about", "storageQuota": quota }), &params, "*")
}

async fn start_token(State(d): State<DriveDouble>) -> Response {
    Json(json!({ "kind": "drive#startPageToken", "startPageToken": lock(&d.store).changes.len().to_string() }))
        .into_response()
}

async fn changes(State(d): State<DriveDouble>, Query(params): Query<Params>) -> Response {
    let store = lock(&d.store);
    let from: usize = params.get("pageToken").and_then(|t| t.parse().ok()).unwrap_or(0);
    let rows: Vec<_> = store
        .changes
        .iter()
        .skip(from)
        .map(|id| {
            let file = store.files.get(id);
            json!({ "kind": "drive#change", "changeType": "file", "fileId": id, "removed": file.is_none(),
            "file": file.map(|f| store.shown(f)) })
        })
        .collect();
    let out =
        json!({ "kind": "drive#changeList", "newStartPageToken": store.changes.len().to_string(), "changes": rows });
    answer(&out, &params, "*")
}

async fn token(State(d): State<DriveDouble>, body: String) -> Response {
    let form = reqwest::Url::parse(&format!("form:?{body}")).unwrap();
    let form: Params = form.query_pairs().into_owned().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let refuse = |why: &str| {
        (
            StatusCode::BAD_REQUEST,
            Json(json!({ "error": "invalid_grant", "error_description": why })),
        )
            .into_response()
    };
    match field("grant_type") {
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => {
            let Some((signed, signature)) = field("assertion").rsplit_once('.') else {
                return refuse("no assertion");
            };
            let signature = URL_SAFE_NO_PAD
                .decode(signature.trim_end_matches('='))
                .unwrap_or_default();
            let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &**d.public);
            if key.verify(signed.as_bytes(), &signature).is_err() {
                return refuse("Invalid JWT Signature.");
            }
            let claims = signed.split('.').nth(1).unwrap_or_default();
            let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).unwrap_or_default();
            let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
            let scoped = claims["scope"].as_str().is_some_and(|s| s.contains("/auth/drive"));
            let lasts = claims["exp"].as_i64().unwrap_or(0) - claims["iat"].as_i64().unwrap_or(0);
            if claims["iss"] != ACCOUNT
                || ![d.url("/token"), GOOGLES.to_owned()]
                    .iter()
                    .any(|aud| claims["aud"] == **aud)
                || !scoped
                || !(1..=3600).contains(&lasts)
            {
                return refuse("Invalid JWT claims.");
            }
        }
        "refresh_token" => {
            if (field("refresh_token"), field("client_secret"), field("client_id"))
                != (REFRESH, CLIENT_SECRET, "client-1")
            {
                return refuse("Token has been expired or revoked.");
            }
        }
        _ => return refuse("unsupported grant"),
    }
    let mut store = lock(&d.store);
    let token = format!("ya29.{}", store.fresh("t"));
    store.tokens.push(token.clone());
    Json(json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" })).into_response()
}

/// Notes a request, wants a token, and lets a fault strike.
async fn gate(State(d): State<DriveDouble>, request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let bearer = request
        .headers()
        .get("authorization")
        .and_then(|a| a.to_str().ok()?.strip_prefix("Bearer "));
    let fault = {
        let mut store = lock(&d.store);
        store.log.push(what.clone());
        if request.uri().path() != "/token" && !bearer.is_some_and(|b| store.tokens.iter().any(|t| t == b)) {
            return refused(401, "authError", "Invalid Credentials");
        }
        let fault = store
            .faults
            .iter_mut()
            .find(|f| f.times > 0 && what.starts_with(f.on))
            .map(|f| {
                f.times -= 1;
                (f.status, f.reason, f.after)
            });
        store.struck += u32::from(fault.is_some());
        fault
    };
    match fault {
        None => next.run(request).await,
        Some((status, reason, after)) => {
            if after {
                drop(next.run(request).await);
            }
            refused(status, reason, "on purpose")
        }
    }
}

impl DriveDouble {
    /// Starts the double.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("backlot-gdrive-").tempdir().unwrap();
        let key = dir.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "", "-f"])
            .arg(&key)
            .status();
        assert!(made.is_ok_and(|s| s.success()), "ssh-keygen made no key");
        let pem = std::fs::read_to_string(&key).unwrap();
        let der: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(der).unwrap()).unwrap();
        let mut store = Store {
            page_max: 1000,
            ..Store::default()
        };
        let root = |id: &str, drive: Option<&str>| File {
            id: id.to_owned(),
            name: "My Drive".to_owned(),
            mime: FOLDER.to_owned(),
            parent: None,
            bytes: None,
            revision: 0,
            trashed: false,
            modified: String::new(),
            created: String::new(),
            properties: BTreeMap::new(),
            drive: drive.map(str::to_owned),
        };
        store.files.insert("0root".into(), root("0root", None));
        store.files.insert("0shared".into(), root("0shared", Some("0shared")));
        store.drives.insert("0shared".into(), "Studio".into());
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let store = Arc::new(Mutex::new(store));
        let public = Arc::new(pair.public().as_ref().to_vec());
        let dir = Arc::new(dir);
        let (of_thread, public_too, dir_too) = (Arc::clone(&store), Arc::clone(&public), Arc::clone(&dir));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
                let port = listener.local_addr().unwrap().port();
                let double = Self {
                    store: of_thread,
                    public: public_too,
                    dir: dir_too,
                    port,
                };
                let app = Router::new()
                    .route("/token", post(token))
                    .route("/drive/v3/files", get(list).post(create))
                    .route("/drive/v3/files/generateIds", get(generate_ids))
                    .route("/drive/v3/files/{id}", get(file).patch(patch).delete(delete))
                    .route("/upload/drive/v3/files", post(upload_new))
                    .route("/upload/drive/v3/files/{id}", axum::routing::patch(upload_update))
                    .route(
                        "/upload/drive/v3/session",
                        axum::routing::put(session_put).delete(session_delete),
                    )
                    .route("/drive/v3/drives", get(drives))
                    .route("/drive/v3/about", get(about))
                    .route("/drive/v3/changes/startPageToken", get(start_token))
                    .route("/drive/v3/changes", get(changes))
                    .layer(axum::extract::DefaultBodyLimit::disable())
                    .layer(middleware::from_fn_with_state(double.clone(), gate))
                    .with_state(double);
                tell.send(port).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        let port = told.recv().unwrap();
        let double = Self {
            store,
            public,
            dir,
            port,
        };
        let file = json!({
            "type": "service_account", "project_id": "studio", "private_key_id": "key-1", "private_key": pem,
            "client_email": ACCOUNT, "client_id": "1", "token_uri": double.url("/token"),
        });
        std::fs::write(double.credentials(), file.to_string()).unwrap();
        for (name, text) in [("refresh", REFRESH), ("client", CLIENT_SECRET)] {
            let file = double.dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        double
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.dir.path().join("credentials.json")
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Settings of a site at that root, with the service account.
    pub(crate) fn settings(&self, root: &str) -> GdriveSite {
        GdriveSite {
            root: root.to_owned(),
            credentials: PerSystem {
                linux: vec!["/nonexistent/first.json".into(), self.credentials()],
                ..PerSystem::default()
            },
            endpoint: Some(self.url("")),
            ..GdriveSite::default()
        }
    }

    /// The same, as a user.
    pub(crate) fn user_settings(&self, root: &str) -> GdriveSite {
        let secret = |name: &str| Some(SecretRef::File(self.dir.path().join(name)));
        GdriveSite {
            root: root.to_owned(),
            auth: GdriveAuth::User,
            client_id: Some("client-1".into()),
            client_secret: secret("client"),
            refresh_token: secret("refresh"),
            endpoint: Some(self.url("")),
            token_endpoint: Some(self.url("/token")),
            ..GdriveSite::default()
        }
    }

    pub(crate) fn fault(&self, on: &'static str, times: u32, status: u16, reason: &'static str) {
        self.store().faults.push(Fault {
            on,
            times,
            status,
            reason,
            after: false,
        });
    }

    /// Takes all access tokens back.
    pub(crate) fn revoke(&self) {
        self.store().tokens.clear();
    }

    /// Returns the id of what is at a path below a folder, the newest of several.
    pub(crate) fn id_at(&self, top: &str, path: &str) -> Option<String> {
        let store = self.store();
        let mut at = top.to_owned();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            let mut found: Vec<_> = store.inside(&at).filter(|f| f.name == part && !f.trashed).collect();
            found.sort_by(|a, b| a.created.cmp(&b.created));
            at = found.last()?.id.clone();
        }
        Some(at)
    }

    /// Makes a folder, and those above it, below a folder.
    pub(crate) fn dir(&self, top: &str, path: &str) -> String {
        let mut at = top.to_owned();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            at = match self.id_at(&at, part) {
                Some(id) => id,
                None => {
                    let meta = json!({ "name": part, "mimeType": FOLDER, "parents": [at] });
                    self.store().insert(&meta, None).unwrap().id
                }
            };
        }
        at
    }

    /// Puts a file as another user does: what has the name gets another revision.
    pub(crate) fn put(&self, top: &str, path: &str, bytes: &[u8]) -> String {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.dir(top, dir);
        let bytes = Bytes::copy_from_slice(bytes);
        match self.id_at(&dir, name) {
            Some(id) => {
                self.store()
                    .update(&id, &json!({}), &Params::new(), Some(bytes))
                    .unwrap()
                    .id
            }
            None => self.add(&dir, name, "application/octet-stream", &bytes),
        }
    }

    /// Adds a file, whatever has its name.
    pub(crate) fn add(&self, dir: &str, name: &str, mime: &str, bytes: &[u8]) -> String {
        let meta = json!({ "name": name, "mimeType": mime, "parents": [dir] });
        self.store()
            .insert(&meta, Some(Bytes::copy_from_slice(bytes)))
            .unwrap()
            .id
    }

    pub(crate) fn get(&self, top: &str, path: &str) -> Option<Vec<u8>> {
        let id = self.id_at(top, path)?;
        self.store().files.get(&id)?.bytes.as_ref().map(|b| b.to_vec())
    }

    pub(crate) fn trash(&self, id: &str) {
        self.store()
            .update(id, &json!({ "trashed": true }), &Params::new(), None)
            .unwrap();
    }

    /// The names in a folder, those of sessions under way into it too.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let store = self.store();
        let files = store.inside(dir).filter(|f| !f.trashed);
        let sessions = store
            .sessions
            .values()
            .filter(|s| !s.done && s.meta["parents"][0] == dir);
        files
            .map(|f| f.name.clone())
            .chain(sessions.map(|_| "a session".to_owned()))
            .collect()
    }
}
