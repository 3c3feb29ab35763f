//! What the tests of a user's view share: a drive served by the real program, a server, a bad link between them, and
//! trees whose bytes can be checked without being kept.
#![allow(dead_code, reason = "every test binary uses its own part of it")]
#![allow(unreachable_pub, reason = "shared by test binaries, a crate of its own in none")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

mod certificate;
pub mod content;
pub mod drive;
pub mod mail;
pub mod queue;
pub mod relay;
pub mod room;
pub mod sshd;
pub mod tree;
pub mod web;
