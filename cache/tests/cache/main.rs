//! What a user of the cache sees, in one binary: behaviour, a model, kills, damage, deletion, want of space.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "in tests a panic is the report, and the numbers are small"
)]

mod basics;
mod common;
mod crash;
mod damage;
mod deletion;
mod model;
mod space;
