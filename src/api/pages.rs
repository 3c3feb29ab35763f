//! The dashboard's files as routes, for the TCP listener. Owns: how they are sent. Refuses to know: what is in them.
//! Invariant: they hold nothing of the drive, so anybody may have them; what they show they ask for.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::web;

/// What a page may do: its own files and its own daemon, nothing inline, nothing from elsewhere, in no frame.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn is_page(path: &str) -> bool {
    web::FILES.iter().any(|file| file.path == path)
}

pub(super) fn routes() -> Router {
    web::FILES.iter().fold(Router::new(), |router, file| {
        let answer = || async { ([(header::CONTENT_TYPE, file.kind)], file.text).into_response() };
        router.route(file.path, get(answer))
    })
}
