//! A secret that was wrong and is put right where it is kept: nothing has to be started again, and nobody waits.

use std::fs;
use std::time::Duration;

use backlot::model::RelPath;
use backlot::providers::s3::S3Site;
use backlot::providers::webdav::WebdavSite;
use backlot::providers::{ErrorKind, Provider};

use crate::runtime;
use crate::web::{SECRET, Service, WebServer};

const IDLE: Duration = Duration::from_secs(10);

#[test]
fn a_secret_that_was_put_right_is_used_at_once() {
    for service in [Service::RcloneS3, Service::RcloneDav, Service::Wsgidav] {
        let Some(server) = WebServer::start_or_skip(service) else {
            continue;
        };
        fs::create_dir(server.root().join("projects")).unwrap();
        fs::write(server.file("secret"), "of last year").unwrap();
        runtime().block_on(async {
            let site: Box<dyn Provider> = if service.is_s3() {
                Box::new(S3Site::new(&server.s3("projects"), None, IDLE).unwrap())
            } else {
                Box::new(WebdavSite::new(&server.webdav("projects"), None, IDLE).unwrap())
            };
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
