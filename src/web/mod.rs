//! The dashboard: the files that a browser gets, as they are.
//!
//! Owns: markup, style and script, written by hand; nothing builds them. Refuses to know: the daemon, HTTP. Invariants: no
//! file asks for anything from elsewhere; the script sets text as text, never as markup, for names are whatever somebody
//! typed.

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    /// Where it is asked for.
    pub(crate) path: &'static str,
    /// Its media type.
    pub(crate) kind: &'static str,
    /// What is in it.
    pub(crate) text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All files.
pub(crate) static FILES: &[File] = &[
    File {
        path: "/",
        kind: "text/html; charset=utf-8",
        text: include_str!("index.html"),
    },
    File {
        path: "/style.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("style.css"),
    },
    File {
        path: "/app.js",
        kind: SCRIPT,
        text: include_str!("app.js"),
    },
    File {
        path: "/views.js",
        kind: SCRIPT,
        text: include_str!("views.js"),
    },
    File {
        path: "/browse.js",
        kind: SCRIPT,
        text: include_str!("browse.js"),
    },
    File {
        path: "/lib.js",
        kind: SCRIPT,
        text: include_str!("lib.js"),
    },
    File {
        path: "/icon.svg",
        kind: "image/svg+xml",
        text: include_str!("icon.svg"),
    },
];
