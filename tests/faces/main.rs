//! The daemon's faces on TCP as a browser, a monitoring system and an attacker meet them: tokens and what they guard,
//! metrics, events, the dashboard in a real Chromium.
//!
//! Refuses to know: what file operations mean (tests/mount), the command line (tests/cli). Invariant: requests are bytes
//! over a real socket, so that what a well-behaved client would not send is sent too.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod browser;
mod dashboard;
mod document;
mod events;
mod face;
mod guards;
mod metrics;
mod paths;
