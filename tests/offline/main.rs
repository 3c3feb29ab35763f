//! A site that can't be reached: what a mounted drive still does, how soon it says what it can't, and how anybody gets out
//! of it. The headings of `docs/semantics.md` where the other side, the link or the daemon itself is gone.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../mount/child.rs"]
mod child;
#[path = "../common/mod.rs"]
mod common;

mod abort;
mod far;
mod gate;
mod interrupts;
mod links;
mod restarting;
