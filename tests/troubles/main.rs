//! Bad days of copies between sites, against real servers: clocks that are wrong, secrets that are changed, targets that are
//! full, and very much of it.
//!
//! Owns: what becomes of a job on such a day. Refuses to know: what a copy is on a good one (tests/between.rs, tests/sites.rs).
//! Invariant: each test proves that its day was bad before it looks at what became of it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod clock;
mod full;
mod gate;
mod many;
mod rig;
mod secrets;
mod steady;
