//! What sites in Google Drive do that no other kind does: two files of one name, documents, sessions, quotas, tokens.

use std::sync::Arc;
use std::time::Duration;

use backlot::model::{RelPath, Version};
use backlot::providers::gdrive::GdriveSite;
use backlot::providers::layers::{Layer, RetryLayer, RetryPolicy};
use backlot::providers::{ErrorKind, Listed, Op, Provider, Retry};
use futures::TryStreamExt;

use crate::gdrive::DriveDouble;
use crate::rig::{Back, path};
use crate::runtime;
use crate::suite::{content, part, plan, read, send, upload};

const IDLE: Duration = Duration::from_secs(30);

/// A folder of the double as another of its users sees it.
pub(crate) struct DriveBack {
    pub(crate) double: DriveDouble,
    pub(crate) top: String,
}

fn text(path: &RelPath) -> &str {
    std::str::from_utf8(path.as_bytes()).unwrap()
}

impl Back for DriveBack {
    fn put(&self, path: &RelPath, bytes: &[u8]) {
        self.double.put(&self.top, text(path), bytes);
    }

    fn overwrite(&self, path: &RelPath, bytes: &[u8]) {
        self.double.put(&self.top, text(path), bytes);
    }

    fn get(&self, path: &RelPath) -> Option<Vec<u8>> {
        self.double.get(&self.top, text(path))
    }

    fn put_link(&self, _: &RelPath, _: &[u8]) {
        panic!("there are no links in Drive");
    }

    fn put_dir(&self, path: &RelPath) {
        self.double.dir(&self.top, text(path));
    }

    fn names(&self, dir: &RelPath) -> Vec<Vec<u8>> {
        let dir = self.double.id_at(&self.top, text(dir)).unwrap();
        self.double.names(&dir).into_iter().map(String::into_bytes).collect()
    }

    fn deny(&self, _: &RelPath) -> bool {
        false
    }

    fn hide_root(&self) -> bool {
        self.double.trash(&self.top);
        true
    }
}

/// A site in a fresh double.
fn site() -> (DriveDouble, String, Arc<GdriveSite>) {
    let double = DriveDouble::start();
    let top = double.dir("0root", "projects");
    let site = GdriveSite::new(&double.settings("/My Drive/projects"), None, IDLE).unwrap();
    (double, top, Arc::new(site))
}

async fn list(p: &dyn Provider, dir: &str) -> Vec<(String, u64)> {
    let rows: Vec<Listed> = p.list(&path(dir)).try_collect().await.unwrap();
    let mut rows: Vec<_> = rows.into_iter().map(|r| (r.name.to_string(), r.entry.size)).collect();
    rows.sort();
    rows
}

async fn content_of(p: &dyn Provider, at: &str) -> Vec<u8> {
    let at = path(at);
    let entry = p.stat(&at).await.unwrap();
    read(p, &at, &entry.version, 0..entry.size).await.unwrap()
}

#[test]
fn two_files_of_one_name_are_both_there() {
    runtime().block_on(async {
        let (double, top, p) = site();
        let dir = double.dir(&top, "d");
        let old = double.add(&dir, "plate.exr", "image/x-exr", b"old");
        double.add(&dir, "plate.exr", "image/x-exr", b"the newer");
        let other = format!("plate ({}).exr", &old[..10]);
        let rows = list(&*p, "d").await;
        assert_eq!(rows, [(other.clone(), 3), ("plate.exr".to_owned(), 9)]);
        assert_eq!(content_of(&*p, "d/plate.exr").await, b"the newer");
        assert_eq!(content_of(&*p, &format!("d/{other}")).await, b"old");
        // Replacing the one that is seen leaves the other alone.
        upload(&*p, &path("d/plate.exr"), b"ours").await;
        assert_eq!(content_of(&*p, "d/plate.exr").await, b"ours");
        assert_eq!(content_of(&*p, &format!("d/{other}")).await, b"old");
        // What was replaced is in the bin.
        let binned = double.store().files.values().filter(|f| f.trashed).count();
        assert_eq!(binned, 1);
        // Removing the one that is seen brings the other to its name.
        p.delete(&path("d/plate.exr")).await.unwrap();
        assert_eq!(content_of(&*p, "d/plate.exr").await, b"old");
    });
}

#[test]
fn documents_are_links_that_are_never_written_to() {
    runtime().block_on(async {
        let (double, top, p) = site();
        let id = double.add(&top, "Budget", "application/vnd.google-apps.spreadsheet", b"");
        double.add(&top, "a/b.txt", "text/plain", b"slash");
        let rows = list(&*p, "").await;
        assert_eq!(
            rows.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
            ["Budget.url", "a\u{2215}b.txt"]
        );
        let link = String::from_utf8(content_of(&*p, "Budget.url").await).unwrap();
        assert_eq!(
            link,
            format!("[InternetShortcut]\r\nURL=https://drive.google.com/file/d/{id}/view\r\n")
        );
        assert_eq!(content_of(&*p, "a\u{2215}b.txt").await, b"slash");
        assert_eq!(p.delete(&path("Budget.url")).await.unwrap_err().kind, ErrorKind::Denied);
        assert_eq!(
            p.rename(&path("Budget.url"), &path("x")).await.unwrap_err().kind,
            ErrorKind::Denied
        );
        let (token, done) = send(&*p, &plan(&path("Budget.url"), 4, 1 << 20), b"ours").await;
        assert_eq!(p.commit(token, &done, None).await.unwrap_err().kind, ErrorKind::Denied);
        assert!(!double.store().files[&id].trashed);
    });
}

#[test]
fn shared_drives_and_folders_by_id() {
    runtime().block_on(async {
        let double = DriveDouble::start();
        let dir = double.dir("0shared", "shows/demo");
        let make = |settings| GdriveSite::new(&settings, None, IDLE).unwrap();
        let p = make(double.settings("/Studio/shows"));
        upload(&p, &path("demo/plate.exr"), b"bytes").await;
        assert_eq!(double.get(&dir, "plate.exr").unwrap(), b"bytes");
        assert_eq!(content_of(&p, "demo/plate.exr").await, b"bytes");
        assert_eq!(
            p.space().await.unwrap(),
            None,
            "the account's quota is not that of a shared drive"
        );
        let by_id = make(backlot_config::GdriveSite {
            folder_id: Some(dir),
            ..double.settings("")
        });
        assert_eq!(content_of(&by_id, "plate.exr").await, b"bytes");
        for root in ["/Studio/none", "/Stud/shows", "/My Drive/none"] {
            let error = make(double.settings(root)).probe().await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unreachable, "{root}: {error}");
        }
    });
}

#[test]
fn a_user_logs_in_with_a_refresh_token_and_no_secret_is_shown() {
    runtime().block_on(async {
        let double = DriveDouble::start();
        double.put("0root", "projects/f", b"x");
        let p = GdriveSite::new(&double.user_settings("/My Drive/projects"), None, IDLE).unwrap();
        assert_eq!(p.stat(&path("f")).await.unwrap().size, 1);
        // A token that was taken back is renewed, once.
        double.revoke();
        assert_eq!(p.stat(&path("f")).await.unwrap().size, 1);
        let tokens = double.store().log.iter().filter(|l| *l == "POST /token").count();
        assert_eq!(tokens, 2);
        // A token that is refused for good is a matter of logging in.
        double.revoke();
        double.fault("POST /token", 1, 400, "");
        let error = p.stat(&path("f")).await.unwrap_err();
        assert_eq!((error.kind, error.retry), (ErrorKind::Auth, Retry::Reauth), "{error}");
        let shown = format!("{error} {p:?}");
        for secret in [crate::gdrive::REFRESH, "GOCSPX", "ya29."] {
            assert!(!shown.contains(secret), "{shown}");
        }
        let mut settings = double.settings("/My Drive/projects");
        settings.credentials.linux.truncate(1);
        let error = GdriveSite::new(&settings, None, IDLE)
            .unwrap()
            .probe()
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Auth);
        assert!(
            error
                .to_string()
                .contains("none of the credentials is there: /nonexistent/first.json"),
            "{error}"
        );
    });
}

#[test]
fn limits_are_waited_out_and_a_full_drive_is_told() {
    runtime().block_on(async {
        let (double, _, p) = site();
        upload(&*p, &path("f"), b"x").await;
        let policy = RetryPolicy {
            tries: 5,
            first: Duration::from_millis(10),
            cap: Duration::from_millis(50),
        };
        let patient = RetryLayer::new(policy).over(Arc::clone(&p) as Arc<dyn Provider>);
        for (status, reason) in [
            (403, "userRateLimitExceeded"),
            (403, "rateLimitExceeded"),
            (429, "rateLimitExceeded"),
            (500, "internalError"),
        ] {
            let before = double.store().struck;
            double.fault("GET /drive/v3/files", 2, status, reason);
            assert_eq!(patient.stat(&path("f")).await.unwrap().size, 1, "{reason}");
            assert_eq!(double.store().struck - before, 2, "the fault struck");
        }
        double.fault("GET /drive/v3/files", 1, 403, "userRateLimitExceeded");
        assert_eq!(p.stat(&path("f")).await.unwrap_err().kind, ErrorKind::Busy);
        double.fault("PUT /upload/", 1, 403, "storageQuotaExceeded");
        let plan = plan(&path("g"), 4, 1 << 20);
        let token = p.begin_upload(&plan).await.unwrap();
        let error = p.upload_part(&token, 0, part(&plan, b"ours", 0)).await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry, error.op),
            (ErrorKind::Full, Retry::Never, Op::Upload),
            "{error}"
        );
        // With room again the same upload goes on.
        let done = p.upload_part(&token, 0, part(&plan, b"ours", 0)).await.unwrap();
        p.commit(token, &[done], Some(None)).await.unwrap();
        assert_eq!(content_of(&*p, "g").await, b"ours");
    });
}

#[test]
fn an_upload_that_is_broken_off_goes_on_where_drive_is() {
    runtime().block_on(async {
        let (double, top, p) = site();
        // Parts that are no multiple of Drive's steps, in order; each answer is lost once after Drive took the bytes.
        let bytes = content(5, 3_000_001);
        let plan = plan(&path("d/big"), bytes.len(), 700_000);
        let token = p.begin_upload(&plan).await.unwrap();
        let mut done = Vec::new();
        for index in 0..5 {
            double.store().faults.push(crate::gdrive::Fault {
                on: "PUT /upload/",
                times: 1,
                status: 503,
                reason: "backendError",
                after: true,
            });
            let mut tries = 0;
            done.push(loop {
                tries += 1;
                match p.upload_part(&token, index, part(&plan, &bytes, index)).await {
                    Ok(part) => break part,
                    Err(e) => assert!(tries < 5 && e.kind == ErrorKind::Unreachable, "{e}"),
                }
            });
            double.store().faults.clear();
        }
        assert_eq!(double.store().struck, 5);
        p.commit(token, &done, Some(None)).await.unwrap();
        assert!(double.get(&top, "d/big").unwrap() == bytes);
    });
}

#[test]
fn bytes_that_rot_on_the_way_are_not_committed() {
    runtime().block_on(async {
        let (double, top, p) = site();
        let bytes = content(6, 600_000);
        for restart in [false, true] {
            let plan = plan(&path("f"), bytes.len(), 1 << 18);
            let token = p.begin_upload(&plan).await.unwrap();
            let mut done = vec![p.upload_part(&token, 0, part(&plan, &bytes, 0)).await.unwrap()];
            let again: Arc<dyn Provider> = match restart {
                false => Arc::clone(&p) as _,
                true => Arc::new(GdriveSite::new(&double.settings("/My Drive/projects"), None, IDLE).unwrap()),
            };
            for index in 1..3 {
                done.push(
                    again
                        .upload_part(&token, index, part(&plan, &bytes, index))
                        .await
                        .unwrap(),
                );
            }
            let id = double
                .id_at(&top, &format!(".backlot-{}.part", plan.nonce))
                .expect("it is there under a hidden name");
            let mut rotten = bytes.clone();
            rotten[10] ^= 1;
            let whole = double
                .store()
                .files
                .get_mut(&id)
                .map(|f| f.bytes.replace(rotten.into()))
                .unwrap();
            let error = again.commit(token.clone(), &done, None).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("MD5"), "{error}");
            double.store().files.get_mut(&id).unwrap().bytes = whole;
            let version: Version = again.commit(token, &done, None).await.unwrap();
            assert_eq!(p.stat(&path("f")).await.unwrap().version, version);
            assert!(double.get(&top, "f").unwrap() == bytes);
        }
    });
}

#[test]
fn a_folder_in_the_bin_is_gone_and_never_empty() {
    runtime().block_on(async {
        let (double, top, p) = site();
        double.put(&top, "d/e/f", b"x");
        assert_eq!(list(&*p, "d/e").await.len(), 1);
        let dir = double.id_at(&top, "d").unwrap();
        double.trash(&dir);
        // The ids of both folders are remembered, and both are empty now to whoever asks Drive.
        let error = p.list(&path("d/e")).try_collect::<Vec<Listed>>().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert_eq!(p.stat(&path("d/e/f")).await.unwrap_err().kind, ErrorKind::NotFound);
        upload(&*p, &path("d/e/f"), b"new").await;
        assert_eq!(double.get(&top, "d/e/f").unwrap(), b"new");
    });
}

#[test]
fn a_commit_that_is_broken_off_between_its_steps_is_finished_by_the_next() {
    runtime().block_on(async {
        let (double, top, p) = site();
        upload(&*p, &path("f"), b"base").await;
        let base = p.stat(&path("f")).await.unwrap().version;
        let (token, done) = send(&*p, &plan(&path("f"), 4, 1 << 20), b"ours").await;
        // The new file gets its name, and nobody hears of it: the old one is still there, under the same name.
        double.store().faults.push(crate::gdrive::Fault {
            on: "PATCH /drive/v3/files",
            times: 1,
            status: 503,
            reason: "backendError",
            after: true,
        });
        let error = p.commit(token.clone(), &done, Some(Some(&base))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        assert_eq!(double.store().struck, 1);
        assert_eq!(double.names(&top), ["f", "f"]);
        assert_eq!(
            content_of(&*p, "f").await,
            b"ours",
            "the newer one is the one that is seen"
        );
        p.commit(token, &done, Some(Some(&base))).await.unwrap();
        assert_eq!(double.names(&top), ["f"]);
        assert_eq!(content_of(&*p, "f").await, b"ours");
    });
}
