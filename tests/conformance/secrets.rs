//! A secret that was wrong and is put right where it is kept: nothing has to be started again, and nobody waits.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use backlot::model::RelPath;
use backlot::providers::layers::{Layer, RetryLayer, RetryPolicy};
use backlot::providers::s3::S3Site;
use backlot::providers::webdav::WebdavSite;
use backlot::providers::{ErrorKind, Provider, Retry};
use futures::future::join_all;

use crate::runtime;
use crate::web::{SECRET, Service, WebServer};

const IDLE: Duration = Duration::from_secs(10);
const NEW: &str = "battery-horse-correct";

fn site_of(server: &WebServer) -> Arc<dyn Provider> {
    if server.service.is_s3() {
        Arc::new(S3Site::new(&server.s3("projects"), None, IDLE).unwrap())
    } else {
        Arc::new(WebdavSite::new(&server.webdav("projects"), None, IDLE).unwrap())
    }
}

/// As short-lived tokens are: the old one is taken no more, the new one is where it is kept, and whoever asks just then is
/// served.
#[test]
fn a_secret_that_is_replaced_in_time_fails_nobody() {
    for service in [Service::RcloneS3, Service::RcloneDav, Service::Wsgidav] {
        let Some(mut server) = WebServer::start_or_skip(service) else {
            continue;
        };
        fs::create_dir(server.root().join("projects")).unwrap();
        fs::write(server.root().join("projects/plate"), "bytes").unwrap();
        runtime().block_on(async {
            let bare = site_of(&server);
            let site = RetryLayer::new(RetryPolicy::default()).over(site_of(&server));
            let plate = RelPath::new("plate").unwrap();
            bare.stat(&plate).await.unwrap();
            site.stat(&plate).await.unwrap();
            server.restart_with(NEW);
            fs::write(server.file("secret"), NEW).unwrap();
            let told = bare.stat(&plate).await;
            assert!(
                told.as_ref().is_err_and(|e| e.retry == Retry::After(None)),
                "{service:?}: {told:?}"
            );
            let all = join_all((0..8).map(|_| site.stat(&plate))).await;
            for found in all {
                assert_eq!(found.unwrap_or_else(|e| panic!("{service:?}: {e}")).size, 5);
            }
        });
    }
}

#[test]
fn a_secret_that_was_put_right_is_used_at_once() {
    for service in [Service::RcloneS3, Service::RcloneDav, Service::Wsgidav] {
        let Some(server) = WebServer::start_or_skip(service) else {
            continue;
        };
        fs::create_dir(server.root().join("projects")).unwrap();
        fs::write(server.file("secret"), "of last year").unwrap();
        runtime().block_on(async {
            let site = site_of(&server);
            let root = RelPath::root();
            for _ in 0..2 {
                let refused = site.stat(&root).await.unwrap_err();
                assert!(
                    matches!(refused.kind, ErrorKind::Auth | ErrorKind::Denied),
                    "{service:?}: {refused}"
                );
            }
            fs::write(server.file("secret"), SECRET).unwrap();
            site.probe().await.unwrap_or_else(|e| panic!("{service:?}: {e}"));
        });
    }
}
