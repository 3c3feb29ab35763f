//! What a user of the cache sees, in one binary: behaviour, a model, kills, damage, deletion, want of space.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    clippy::print_stdout,
    reason = "in tests a panic is the report, the numbers are small, and what is skipped is said"
)]

mod basics;
mod common;
mod crash;
mod damage;
mod deletion;
mod model;
mod space;
